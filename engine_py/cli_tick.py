"""papertick demo, tick, replay, tick-all, check, digest: time moves, and what came of it."""

from __future__ import annotations

import sys
from typing import Any

import click

from engine_py import demo as demonstration
from engine_py import feed as feeds
from engine_py import replaying
from engine_py.cli_base import (
    ID,
    MOMENT,
    NUMBER,
    Command,
    Session,
    emit,
    get_run,
    of_run,
    options,
    session,
    show_progress,
)
from engine_py.render import counted, table, text


@click.command(cls=Command)
def demo() -> None:
    """Thirteen years of two portfolios, on data that comes with papertick. Call it again at any time."""
    with session() as s:
        results = demonstration.run(s, quiet=options().json, bar=show_progress())
    emit({"runs": results, "violations": sum(r["violations"] for r in results)}, demonstration.report(results))
    if any(r["violations"] for r in results):
        sys.exit(1)


@click.command(cls=Command)
@of_run
@click.argument("time", type=MOMENT)
def tick(user: int, run: int, time: str) -> None:
    """Do everything that the run owes for TIME, once. A tick that has happened is left as it is.

    A date stands for the close of that date's session.
    """
    with session() as s:
        time = _of_run(s, user, run, time)
        s.do("tick", user_id=user, run_id=run, logical_time=time)
        mark = _mark(s, user, run, time)
    emit(mark, _words(mark))


@click.command(cls=Command)
@of_run
@click.option("--from", "first", type=MOMENT, help="First time, or date: its close. Default: the run's next.")
@click.option("--to", "last", type=MOMENT, help="Last time, or date: its close. Default: the feed's last.")
@click.option("--commit-every", type=NUMBER, help="Commit after so many events, not only after each slice.")
def replay(user: int, run: int, first: str | None, last: str | None, commit_every: str | None) -> None:
    """Tick the run at every time of its feed, fast. What is killed goes on from there when called again."""
    with session() as s:
        get_run(s, user, run)
        first, last = (at and _of_run(s, user, run, at) for at in (first, last))
        slices = replaying.plan(s.run, user, run, first, last)
        times = sum(part.times for part in slices)
        done = replaying.replay(s, user, run, slices, commit_every)
        if show_progress():
            with click.progressbar(length=times, label="replay", file=sys.stderr, show_pos=True) as bar:
                for part in done:
                    bar.update(part)
        else:
            for _ in done:
                pass
        mark = _mark(s, user, run)
    emit({**mark, "times": times}, f"{counted(times, 'time')} replayed; {_words(mark)}")


@click.command(cls=Command, name="tick-all")
@click.argument("time", type=MOMENT)
@click.option("--feed", help="Feed whose runs are ticked. Default: default.")
@click.option("--commit-every", type=NUMBER, help="Commit after so many runs, not only at the end.")
def tick_all(time: str, feed: str | None, commit_every: str | None) -> None:
    """Tick every RUNNING run of a feed. Exit code 1 if that sent a run to ERROR.

    A date as TIME stands for the close of that date's session.
    """
    with session() as s:
        time = _of_feed(s, feed or "default", time)
        before = s.select("select coalesce(max(status_id), 0) as id from engine_status")[0]["id"]
        s.do("tick_all", logical_time=time, feed=feed, commit_every=commit_every)
        failed = s.select(
            """select l.user_id, l.run_id, l.reason from engine_status l
                 join strategy_run r on r.user_id = l.user_id and r.run_id = l.run_id
                where l.status_id > %s and l.status = 'ERROR' and r.feed = coalesce(%s, r.feed)
                order by l.user_id, l.run_id""",
            *(before, feed),
        )
        ticked = s.select(
            """select count(*) as runs from strategy_run r
                 join engine_state s on s.user_id = r.user_id and s.run_id = r.run_id
                where r.status = 'RUNNING' and r.feed = coalesce(%s, 'default')
                  and s.last_logical_time >= %s""",
            *(feed, time),
        )
    runs = ticked[0]["runs"]
    words = f"{counted(runs, 'run')} {'is' if runs == 1 else 'are'} at {time} or later"
    emit(
        {"logical_time": time, "runs": runs, "failed": failed},
        words if not failed else f"{words}; failed:\n{table(failed, ('user_id', 'run_id', 'reason'))}",
    )
    if failed:
        sys.exit(1)


@click.command(cls=Command)
@click.argument("user", type=ID, required=False)
@click.argument("run", type=ID, required=False)
def check(user: int | None, run: int | None) -> None:
    """Check every invariant of every run, or of USER's, or of that RUN. Exit code 1 if one is broken."""
    with session() as s:
        if user is not None and run is not None:
            get_run(s, user, run)
        rows = s.select(
            """select * from violations
                where (%s::bigint is null or user_id = %s) and (%s::bigint is null or run_id = %s)
                order by user_id, run_id, rule, detail""",
            *(user, user, run, run),
        )
    emit(rows, table(rows, ("user_id", "run_id", "rule", "detail")) if rows else "no violations")
    if rows:
        sys.exit(1)


@click.command(cls=Command)
@of_run
def digest(user: int, run: int) -> None:
    """Print the run's digest: SHA-256 over all that it did. Equal runs have equal digests."""
    with session() as s:
        value = s.call("run_digest", user_id=user, run_id=run)["run_digest"]
    emit({"user_id": user, "run_id": run, "digest": value}, value)


def _of_feed(s: Session, feed: str, time: str) -> str:
    """A time as it is; of a date, its session's close."""
    return s.run(lambda conn: feeds.close_of(conn, feed, time)) if len(time) == len("2024-01-31") else time


def _of_run(s: Session, user: int, run: int, time: str) -> str:
    return _of_feed(s, get_run(s, user, run)["feed"], time)


def _mark(s: Session, user: int, run: int, time: str | None = None) -> dict[str, Any]:
    """The run's equity at a time, or at its last."""
    rows = s.select(
        """select e.* from engine_state s
            cross join lateral equity_at(s.user_id, s.run_id, coalesce(%s::timestamptz, s.last_logical_time)) e
            where s.user_id = %s and s.run_id = %s""",
        *(time, user, run),
    )
    nothing = dict.fromkeys(("logical_time", "cash", "market_value", "equity"))
    return {"user_id": user, "run_id": run, **(rows[0] if rows else nothing)}


def _words(mark: dict[str, Any]) -> str:
    names = ("equity", "cash", "market_value")
    return f"{text(mark['logical_time'])}: " + ", ".join(f"{name} {text(mark[name])}" for name in names)
