"""tick_all: microseconds per run over fleets of every size, with nobody and with everybody due, and by two workers.

usage: python -m bench.fleet [--quick | --full]
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psycopg

from bench import measure
from bench.report import Document, Row, parser, publish, row, words
from bench.runs import (
    Key,
    columns,
    cost,
    define_ticker,
    grow_old,
    load_feed,
    make_runs,
    tick_all,
    ticks_rolled_back,
    time_of,
)

_WORKER_RUNS = 500  # a commit every so many
_NEXT_SLOT = 24  # the bar at which a MONTHLY SIP from bar 1 on is due again


def run(full: bool) -> Document:
    def rows(dsn: str) -> list[Row]:
        return [*_sizes(dsn, not full), *_all_due(dsn, not full), *_two_workers(dsn, not full)]

    return publish("fleet", full, rows)


def _sizes(dsn: str, quick: bool) -> list[Row]:
    """Nobody due, every run holds one position: one call, one commit, a new bar every turn.

    A session opened when all is there is measured, and beside it the one that saw every table empty and grow: a plan
    or a cost that it kept from then must not slow it down.
    """
    sizes, reps = ((100, 1000), 3) if quick else ((1_000, 10_000, 100_000), 7)
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(measure.database(dsn))
        other = stack.enter_context(measure.database(dsn, "papertick_bench_raw", engine=False))
        old, bare = (stack.enter_context(psycopg.connect(d, autocommit=True)) for d in (ours, other))
        grow_old(old)
        define_ticker(old)
        for size in sizes:
            load_feed(old, _feed(size), 100)
            make_runs(old, _feed(size), size)
            tick_all(old, _feed(size), 0, _WORKER_RUNS)
        load_feed(old, "single", 100)
        single = make_runs(old, "single", 508)
        tick_all(old, "single", 0)
        marks = _Marks(bare, sizes[1])
        old.execute("vacuum analyze")
        old.execute("checkpoint")
        new = stack.enter_context(psycopg.connect(ours, autocommit=True))
        bar = dict.fromkeys(sizes, 0)

        def all_of(size: int, session: psycopg.Connection) -> float:
            bar[size] += 1
            return cost(session, partial(tick_all, session, _feed(size), bar[size])).cpu / size

        def one_by_one(session: psycopg.Connection) -> float:
            spent = ticks_rolled_back(session, single, 1).cpu
            session.execute("vacuum engine_state, mtm_ledger, paper_equity_curve")
            return spent

        cases: dict[str, Callable[[], float]] = {f"{size:,} runs": partial(all_of, size, new) for size in sizes}
        cases |= {
            "tick": partial(one_by_one, new),
            "raw": marks.next_bar,
            "tick, old session": partial(one_by_one, old),
            "tick_all, old session": partial(all_of, sizes[1], old),
        }
        got = {case: found[1:] for case, found in measure.turns(cases, reps + 1).items()}  # the first turn warms up

    middle = f"{sizes[1]:,} runs"
    found = []
    for size in sizes:
        name, each = f"tick_all, nobody due, CPU a run, {size:,} runs", got[f"{size:,} runs"]
        found.append(row(name, "tick CPU, nothing due", "<= 0.35", "us", each, got["tick"]))
    cheapest, *_, dearest = sorted((f"{size:,} runs" for size in sizes), key=lambda size: statistics.median(got[size]))
    name = "tick_all, nobody due, CPU a run, dearest size"
    found.append(row(name, "cheapest size", "<= 1.25", "us", got[dearest], got[cheapest], sizes=[dearest, cheapest]))
    grown = "session that saw the tables empty"
    found += [
        row(f"tick CPU, {grown}", "new session", "<= 1.2", "us", got["tick, old session"], got["tick"]),
        row(f"tick_all, {middle}, {grown}", "new session", "<= 1.2", "us", got["tick_all, old session"], got[middle]),
    ]
    writes = [3e6 / us for us in got[middle]]  # a run's state, mtm and equity row
    raw = [1e6 / us for us in got["raw"]]
    found.append(
        row(f"tick_all, rows written, {middle}", "raw insert, primary key only", ">= 0.4", "rows/s of CPU", writes, raw)
    )
    return found


def _feed(size: int) -> str:
    return f"fleet of {size}"


class _Marks:
    """A table like mtm_ledger with nothing but its key: one bar of every run at a time, in key order."""

    def __init__(self, conn: psycopg.Connection, runs: int) -> None:
        self._conn, self._runs, self._bar = conn, runs, 0
        conn.execute(
            """create table mark (user_id bigint, run_id bigint, logical_time timestamptz, market_value numeric,
                                  cost_basis numeric, unrealized_pnl numeric, realized_pnl numeric,
                                  primary key (user_id, run_id, logical_time))"""
        )
        conn.execute(
            """create table source as select u::bigint as user_id, u::bigint as run_id, 1402.50 as market_value,
                      1000.25 as cost_basis, 402.25 as unrealized_pnl, 0.00 as realized_pnl
                 from generate_series(1, %s) u""",
            [runs],
        )
        conn.execute("vacuum analyze source")

    def next_bar(self) -> float:
        """Microseconds a row."""
        self._bar += 1
        query = """insert into mark select user_id, run_id, %s, market_value, cost_basis, unrealized_pnl, realized_pnl
                     from source order by user_id, run_id"""
        return cost(self._conn, lambda: self._conn.execute(query, [time_of(self._bar)])).cpu / self._runs


def _all_due(dsn: str, quick: bool) -> list[Row]:
    """Everybody due, each time from a freshly created schema and in the session that saw it empty.

    Plans are cached then. Slot 0 is due at bar 1, slot 1 at bar 24; between them nobody is. All readings are kept: one
    schema in which a plan flips is a failure, whatever the median says.
    """
    count, schemas = (200, 2) if quick else (1000, 10)
    due, quiet, worst = [], [], []
    for _ in range(schemas):
        with measure.database(dsn) as ours, psycopg.connect(ours, autocommit=True) as conn:
            load_feed(conn, "due", 2 * _NEXT_SLOT)
            for n in range(8):  # nobody there: what is planned now is planned for empty tables
                tick_all(conn, "due", n)
            make_runs(conn, "due", count, sip_start=time_of(1).date())
            each = [cost(conn, partial(tick_all, conn, "due", n)).cpu / count for n in range(_NEXT_SLOT + 2)]
            executed = conn.execute("select count(*) from event_ledger where event_type = 'SIP_EXECUTED'").fetchone()
            assert executed == (2 * count,), f"{executed} of {2 * count} slots were executed"
            between = [*each[2:_NEXT_SLOT], each[_NEXT_SLOT + 1]]
            due.append(statistics.mean((each[1], each[_NEXT_SLOT])))
            quiet.append(statistics.median(between))
            worst.append(max(between))
    what = f"{count:,} runs, {schemas} fresh schemas"
    fastest = [min(due)] * schemas  # any of them far above it: its plan has flipped
    return [
        row(f"tick_all, all due, CPU a run, {what}", "nobody due", "<= 3", "us", due, quiet),
        row(f"tick_all, all due, {what}", "fastest of them", "<= 2 in every turn", "us", due, fastest),
        row(f"tick_all, nobody due, slowest bar, {what}", "median bar", "<= 3 in every turn", "us", worst, quiet),
    ]


def _two_workers(dsn: str, quick: bool) -> list[Row]:
    """Two sessions call tick_all on the same feed and time, side by side, against one; by the clock, durable."""
    count, reps = (1000, 2) if quick else (10_000, 5)
    with (
        measure.database(dsn) as ours,
        psycopg.connect(ours, autocommit=True) as one,
        psycopg.connect(ours, autocommit=True) as two,
        ThreadPoolExecutor(2) as pool,
    ):
        feeds = {size: _feed(size) for size in (count // 10, count)}
        keys: dict[int, list[Key]] = {}
        for size, feed in feeds.items():
            load_feed(one, feed, 100)
            keys[size] = make_runs(one, feed, size)
            tick_all(one, feed, 0, _WORKER_RUNS)
        one.execute("vacuum analyze")
        one.execute("checkpoint")
        bar = dict.fromkeys(feeds, 0)

        def work(size: int, *sessions: psycopg.Connection) -> float:
            bar[size] += 1

            def call() -> None:
                list(pool.map(lambda s: tick_all(s, feeds[size], bar[size], _WORKER_RUNS), sessions))

            wall = cost(one, call).wall / 1e6
            done = one.execute(
                """select count(*) from mtm_ledger m join unnest(%s::bigint[], %s::bigint[]) k (u, r)
                       on m.user_id = u and m.run_id = r where m.logical_time = %s""",
                [*columns(keys[size]), time_of(bar[size])],
            ).fetchone()
            assert done == (size,), f"{done} of {size} runs were ticked"
            return wall

        cases: dict[str, Callable[[], float]] = {
            "two": partial(work, count, one, two),
            "one": partial(work, count, one),
            "tenth": partial(work, count // 10, one),
        }
        got = {case: found[1:] for case, found in measure.turns(cases, reps + 1).items()}
    name = f"tick_all, {count:,} runs, commit every {_WORKER_RUNS}"
    return [
        row(f"{name}, one worker", "two workers side by side", ">= 1.6", "s", got["one"], got["two"]),
        row(f"{name}, one worker", f"{count // 10:,} runs", "<= 12", "s", got["one"], got["tenth"]),
    ]


if __name__ == "__main__":
    print(words(run(parser(__doc__).parse_args().full)["rows"]))
