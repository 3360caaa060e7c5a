"""A sweep: many runs, each of a user of its own because a user runs one at a time, that differ in their parameters.

Nothing is stored beside the runs. A run of the sweep NAME is called `NAME: ` and its parameters, all of them, as one
line; its user `sweep NAME #n`. So the same command finds what it made, makes what is missing, and goes on: a run and
what it starts with are made in one transaction, and replays are exactly once by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, LiteralString, NamedTuple

import psycopg

from engine_py.cli_base import NULL, Row, Session, call, select
from engine_py.db import Database
from engine_py.errors import InvalidError, PapertickError, UsageError, from_psycopg
from engine_py.grid import VERBS, Grid, Part, parse_text

_BATCH = 200  # runs made in a transaction: each holds an advisory lock, and a server has only a few thousand
_COMMIT_EVERY = 20_000  # events of one replay
# Its runs by their names and their users'. A fork or an import keeps the name of its run, and a fork of the library's
# the user's too: it is somebody's own.
_OF_SWEEP: LiteralString = """
             from strategy_run r join app_user u on u.user_id = r.user_id
            where starts_with(r.name, %s) and starts_with(u.name, %s) and r.forked_from_user_id is null"""

Advance = Callable[[int], object]


class Key(NamedTuple):
    user_id: int
    run_id: int


class Made(NamedTuple):
    """How many runs there are under the name, and how many of them are new."""

    runs: int
    new: int


def check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError(f"{name!r} is no name of a sweep", hint="Letters, digits, dots, dashes and underscores.")
    return name


def combinations(s: Session, grids: list[Grid]) -> list[tuple[Part, ...]]:
    """All of them, each once. Raises UsageError for a parameter that its verb does not have."""
    known = {kind: _parameters(s, verb) for kind, verb in VERBS.items()}
    found = (combination for grid in grids for combination in grid.ordered(known).combinations())
    wanted = list({_text(combination): combination for combination in found}.values())
    if any("cash" not in parts[0].terms for parts in wanted):
        raise UsageError("the runs need cash", hint="Give --cash, or cash under run in the file.")
    for parts in wanted:
        if parse_text(text := _text(parts)) != (*parts[1:], parts[0]):
            raise UsageError(f"what a run would be called does not read back: {text}")
    return wanted


def make(s: Session, name: str, wanted: list[tuple[Part, ...]], progress: Advance | None = None) -> Made:
    """Make the runs that are missing; those that are there stay as they are."""
    new = 0
    todo = iter(wanted)
    while batch := list(islice(todo, _BATCH)):
        new += s.run(lambda conn, batch=batch: _make_batch(conn, name, batch))  # type: ignore[misc]
        if progress:
            progress(len(batch))
    return Made(len(runs(s, name)), new)


def _make_batch(conn: psycopg.Connection[Any], name: str, batch: list[tuple[Part, ...]]) -> int:
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(hashtextextended('papertick sweep ' || %s, 0))", [name])
        names = {run_name(name, parts): parts for parts in batch}
        there = select(conn, "select r.name " + _OF_SWEEP + " and r.name = any (%s)", *_prefixes(name), list(names))
        missing = names.keys() - {row["name"] for row in there}
        (last,) = select(
            conn,
            """select coalesce(max(substring(name from '#(\\d{1,9})$')::int), 0) as n from app_user
                where starts_with(name, %s)""",
            f"sweep {name} #",
        )
        for n, title in enumerate((title for title in names if title in missing), last["n"] + 1):
            _make_run(conn, f"sweep {name} #{n}", title, names[title])
        return len(missing)


def _make_run(conn: psycopg.Connection[Any], user: str, title: str, parts: tuple[Part, ...]) -> None:
    terms = {**parts[0].terms}
    terms.pop("from", None)
    try:
        user_id = call(conn, "create_user", name=user)["create_user"]
        start = {"initial_cash": terms.pop("cash"), **terms, "user_id": user_id, "name": title}
        run_id = call(conn, "start_run", **start)["start_run"]
        for part in parts[1:]:
            given: dict[str, object] = {**part.terms, "user_id": user_id, "run_id": run_id}
            if part.kind == "sip":
                given.setdefault("symbol", NULL)
            call(conn, VERBS[part.kind], **given)
    except psycopg.Error as exc:
        error = from_psycopg(exc)
        if isinstance(error, InvalidError) or (error.code or "").startswith(("TE", "42883", "23")):
            words = f"{title}: {error.detail or error.message}"
            raise type(error)(error.message, code=error.code, detail=words, hint=error.hint) from exc
        raise


def run_name(name: str, parts: tuple[Part, ...]) -> str:
    return f"{name}: {_text(parts)}"


def parameters_of(title: str) -> tuple[Part, ...]:
    """What the name of a run says."""
    return parse_text(title.partition(": ")[2])


def _text(parts: tuple[Part, ...]) -> str:
    """What a trader looks at first, and the account last."""
    return "; ".join(part.text() for part in (*parts[1:], parts[0]))


def _parameters(s: Session, verb: str) -> list[str]:
    rows = s.select(
        """select substr(u.name, 3) as name from pg_proc p
            cross join unnest(p.proargnames[1:p.pronargs]) with ordinality u (name, n)
            where p.pronamespace = 'public'::regnamespace and p.proname = %s order by u.n""",
        verb,
    )
    return [row["name"] for row in rows]


# --- time


def runs(s: Session, name: str) -> list[Row]:
    """The runs of a sweep, in the order in which they were made."""
    return s.select(
        """select o.*, t.last_logical_time
             from (select r.user_id, r.run_id, r.name, r.feed, r.status"""
        + _OF_SWEEP
        + """) o left join engine_state t on t.user_id = o.user_id and t.run_id = o.run_id
            order by o.user_id, o.run_id""",
        *_prefixes(name),
    )


def _prefixes(name: str) -> tuple[str, str]:
    return f"{name}: ", f"sweep {name} #"


class Failure(NamedTuple):
    user_id: int
    run_id: int
    name: str
    error: str


def advance(
    s: Session, dsn: str, name: str, last: str | None, workers: int, progress: Advance | None = None
) -> list[Failure]:
    """Replay every RUNNING run of the sweep up to `last` (its feed's last time); what was refused for which.

    Each worker has a connection of its own and takes the next run; a run is one replay, which commits by itself.
    """
    ends = {row["feed"]: row for row in _ends(s, name, last)}
    waiting: SimpleQueue[Row] = SimpleQueue()
    for row in runs(s, name):
        end = ends.get(row["feed"])
        behind = row["last_logical_time"] is None or (end and row["last_logical_time"] < end["last"])
        if row["status"] == "RUNNING" and end and behind:
            waiting.put({**row, "first": end["first"], "last": end["last"]})
    with ThreadPoolExecutor(max(1, min(workers, waiting.qsize()))) as pool:
        done = [pool.submit(_work, dsn, waiting, progress) for _ in range(max(1, min(workers, waiting.qsize())))]
        try:
            return [failure for each in done for failure in each.result()]
        except BaseException:
            for _ in _drained(waiting):  # the others end after the run that they are at
                pass
            raise


def _ends(s: Session, name: str, last: str | None) -> list[Row]:
    """First and last time of each feed of the sweep, up to `last`."""
    return s.select(
        """select f.feed, min(b.logical_time) as first, max(b.logical_time) as last
             from (select distinct r.feed from strategy_run r where starts_with(r.name, %s)) f
             join price_bar b on b.feed = f.feed and coalesce(b.logical_time <= %s::timestamptz, true)
            group by f.feed""",
        *(f"{name}: ", last),
    )


def _drained(waiting: SimpleQueue[Row]) -> Iterator[Row]:
    while True:
        try:
            yield waiting.get_nowait()
        except Empty:
            return


def _work(dsn: str, waiting: SimpleQueue[Row], progress: Advance | None) -> list[Failure]:
    failures = []
    with Database(dsn) as database:
        s = Session(database)
        for row in _drained(waiting):
            since = parameters_of(row["name"])[-1].terms.get("from")
            try:
                s.do(
                    "replay",
                    user_id=row["user_id"],
                    run_id=row["run_id"],
                    **{"from": since or row["first"], "to": row["last"]},
                    commit_every=_COMMIT_EVERY,
                )
            except PapertickError as exc:
                if exc.exit_code != 1:
                    raise
                words = " ".join(part for part in (exc.code, exc.message, exc.detail) if part)
                failures.append(Failure(row["user_id"], row["run_id"], row["name"], words))
            if progress:
                progress(1)
    return failures


def stop(s: Session, name: str) -> int:
    """Stop what runs; how many."""
    running = [row for row in runs(s, name) if row["status"] == "RUNNING"]
    for row in running:
        s.call("stop_run", user_id=row["user_id"], run_id=row["run_id"], reason=f"sweep {name}")
    return len(running)


def delete(s: Session, name: str, progress: Advance | None = None) -> int:
    """Delete the runs and their users; how many. A user who has other runs meanwhile stays."""
    found = runs(s, name)
    for row in found:
        s.run(lambda conn, row=row: _delete_one(conn, row))  # type: ignore[misc]
        if progress:
            progress(1)
    return len(found)


def _delete_one(conn: psycopg.Connection[Any], row: Row) -> None:
    key = {"user_id": row["user_id"], "run_id": row["run_id"]}
    with conn.transaction():
        if select(conn, "select from strategy_run where user_id = %s and run_id = %s", *key.values()):
            call(conn, "delete_run", **key)
        if not select(conn, "select from strategy_run where user_id = %s", row["user_id"]):
            call(conn, "delete_user", user_id=row["user_id"])


def sweeps(s: Session) -> list[Row]:
    """Every sweep: how many runs it has, how many of them are RUNNING, and how far they are."""
    return s.select(
        """select n.name, count(*) as runs, count(*) filter (where r.status = 'RUNNING') as running,
                  min(t.last_logical_time) as least_advanced, max(t.last_logical_time) as most_advanced,
                  string_agg(distinct r.feed, ' ') as feeds
             from app_user u
            cross join lateral (select substring(u.name from '^sweep ([A-Za-z0-9._-]+) #\\d+$') as name) n
             join strategy_run r on r.user_id = u.user_id and starts_with(r.name, n.name || ': ')
              and r.forked_from_user_id is null
             left join engine_state t on t.user_id = r.user_id and t.run_id = r.run_id
            group by n.name order by n.name collate "C" """
    )


def board(s: Session, name: str, metric: str | None, top: int) -> list[Row]:
    """The best of a sweep, as leaderboard has them, each with its parameters."""
    escaped = name.replace("_", r"\_")
    rows = s.call_rows(
        "leaderboard", once=False, metric=metric, limit=top, name_like=f"{escaped}: %", user_like=f"sweep {escaped} #%"
    )
    return [{**row, "parameters": _labelled(parameters_of(row["name"]))} for row in rows]


def _labelled(parts: tuple[Part, ...]) -> dict[str, str]:
    """Parameters by name; of a second SIP sip2.amount, of a plan beside another kind rebalance.band."""
    kinds = [part.kind for part in parts if part.kind != "run"]
    seen: dict[str, int] = {}
    found = {}
    for part in parts:
        seen[part.kind] = seen.get(part.kind, 0) + 1
        number = str(seen[part.kind]) if seen[part.kind] > 1 else ""
        prefix = "" if part.kind == "run" or len(kinds) == 1 else f"{part.kind}{number}."
        found.update({f"{prefix}{name}": value for name, value in part.terms.items()})
    return found


def varying(s: Session, name: str) -> list[str]:
    """The parameters in which the runs of a sweep differ."""
    all_of = [_labelled(parameters_of(row["name"])) for row in runs(s, name)]
    names = dict.fromkeys(label for one in all_of for label in one)
    return [label for label in names if len({one.get(label) for one in all_of}) > 1]
