"""What is stored: its size against the least it could take, and what a full database costs a tick and a report.

usage: python -m bench.store [--quick | --full]     (--full needs 25 GB of disk and half an hour)
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import LiteralString

import psycopg

from bench import measure
from bench.report import Document, Row, not_measured, parser, publish, row, words
from bench.runs import (
    FIRST,
    Key,
    cost,
    define_ticker,
    load_feed,
    make_runs,
    replay,
    tick_all,
    ticks_rolled_back,
    time_of,
)
from engine_py import feed as feeds

_FEED = "store"
_BARS = 2000  # of a run that is stored
_NEEDED_DISK = 25e9  # for 50 million rows
_LEDGERS = ("mtm_ledger", "paper_equity_curve")


def run(full: bool) -> Document:
    def rows(dsn: str) -> list[Row]:
        parts = (_size, _length, _full_ledgers, _feed_load)
        return [one for part in parts for one in part(dsn, not full)]

    return publish("store", full, rows)


# --- bytes


# The least that PostgreSQL can store a row in, for the values that are there:
#   heap   a line pointer of 4 bytes; a tuple header of 23, aligned to 24; the columns: three of 8 bytes, then numerics
#          of their own length, unaligned because short ones have a header of one byte; the sum aligned to 8
#   index  one entry of the primary key: a line pointer of 4, a header of 8, three columns of 8
# Page headers (24 of 8192), free space and inner index pages are not in it: a B-tree leaf is left a tenth empty, so
# about 1.1 is as good as it gets.
_LEAST: LiteralString = """
    select sum(4 + 24 + (24 + {numerics} + 7) / 8 * 8 + 4 + 8 + 24)::float8, count(*) from {table}"""
_NUMERICS = {
    "mtm_ledger": ("market_value", "cost_basis", "unrealized_pnl", "realized_pnl"),
    "paper_equity_curve": ("cash", "market_value", "equity"),
}


def _size(dsn: str, quick: bool) -> list[Row]:
    """Bytes per run and bar after a replay with a MONTHLY SIP: both ledgers, all their indexes."""
    runs, bars = (10, 500) if quick else (100, _BARS)
    with measure.database(dsn) as ours, psycopg.connect(ours, autocommit=True) as conn:
        load_feed(conn, _FEED, bars)
        for key in make_runs(conn, _FEED, runs, sip_start=time_of(0).date()):
            replay(conn, key, 0, bars - 1)
        stored = least = 0.0
        for table, numerics in _NUMERICS.items():
            lengths = " + ".join(f"pg_column_size({name})" for name in numerics)
            query = _LEAST.format(numerics=lengths, table=table)
            needed, count = _one(conn, query)
            size, _ = _one(conn, f"select pg_total_relation_size('{table}')::float8, 0")
            assert count == runs * bars, f"{table} has {count} rows"
            stored, least = stored + size / count, least + needed / count
    return [row("stored per run and bar", "least for these two rows", "<= 1.3", "bytes", [stored], [least])]


def _one(conn: psycopg.Connection, query: str) -> tuple[float, int]:
    found = conn.execute(query).fetchone()
    assert found is not None
    return float(found[0]), int(found[1])


# --- length


def _length(dsn: str, quick: bool) -> list[Row]:
    """Ten times the bars, one MONTHLY SIP, from a freshly created schema that was vacuumed while it was empty."""
    bars, reps = (2_000, 2) if quick else (20_000, 5)
    got: dict[str, list[float]] = {"tenth": [], "all": []}
    for _ in range(reps):
        with measure.database(dsn) as ours, psycopg.connect(ours, autocommit=True) as conn:
            conn.execute("vacuum analyze")
            load_feed(conn, _FEED, bars)
            for case, last in (("tenth", bars // 10), ("all", bars)):
                (key,) = make_runs(conn, _FEED, 1, sip_start=time_of(0).date())
                got[case].append(cost(conn, partial(replay, conn, key, 0, last - 1)).cpu / 1e6)
    return [row(f"replay, {bars:,} bars, one SIP", f"{bars // 10:,} bars", "<= 12", "s", got["all"], got["tenth"])]


# --- full ledgers


def _full_ledgers(dsn: str, quick: bool) -> list[Row]:
    """The same ticks and reports in a database whose ledgers hold millions of other runs' rows, and in one without."""
    rows_stored, count, reps = (2_000_000, 108, 3) if quick else (50_000_000, 508, 9)
    what = f"{rows_stored // 1_000_000} million rows stored"
    targets = {_TICK: "<= 1.2"} | dict.fromkeys(_REPORTS, "<= 2")
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if not quick and free < _NEEDED_DISK:
        why = f"{free / 1e9:.0f} GB are free where temporary files go; this needs {_NEEDED_DISK / 1e9:.0f}"
        return [not_measured(f"{name}, {what}", "no other rows", target, why) for name, target in targets.items()]
    with (
        measure.database(dsn, "papertick_bench_full") as full,
        measure.database(dsn, "papertick_bench_empty") as empty,
        psycopg.connect(full, autocommit=True) as crowded,
        psycopg.connect(empty, autocommit=True) as alone,
    ):
        _fill(full, rows_stored)
        reported: dict[psycopg.Connection, Key] = {}
        ticked: dict[psycopg.Connection, list[Key]] = {}
        for conn in (crowded, alone):
            define_ticker(conn)
            load_feed(conn, _FEED, _BARS)
            (reported[conn],) = make_runs(conn, _FEED, 1, sip_start=time_of(0).date())
            replay(conn, reported[conn], 0, _BARS - 1)
            load_feed(conn, "now", 100)
            ticked[conn] = make_runs(conn, "now", count)
            tick_all(conn, "now", 0, 500)
            conn.execute("vacuum analyze")

        def tick(conn: psycopg.Connection) -> float:
            return ticks_rolled_back(conn, ticked[conn], 1).cpu

        def report(conn: psycopg.Connection, query: LiteralString) -> float:
            return cost(conn, lambda: [conn.execute(query, list(reported[conn])).fetchall() for _ in range(5)]).cpu / 5

        cases: dict[str, Callable[[], float]] = {}
        for where, conn in (("full", crowded), ("empty", alone)):
            cases[f"{_TICK}, {where}"] = partial(tick, conn)
            for name, query in _REPORTS.items():
                cases[f"{name}, {where}"] = partial(report, conn, query)
        got = {case: found[1:] for case, found in measure.turns(cases, reps + 1).items()}
    return [
        row(f"{name}, {what}", "no other rows", target, "us", got[f"{name}, full"], got[f"{name}, empty"])
        for name, target in targets.items()
    ]


_TICK = "tick CPU, nothing due"
_REPORTS: dict[str, LiteralString] = {
    "performance of a run": "select * from performance(%s, %s)",
    "run_digest": "select run_digest(%s, %s)",
    "equity of a run": """select logical_time, cash, market_value, equity from paper_equity_curve
                           where user_id = %s and run_id = %s order by logical_time""",
    "positions of a run": "select symbol, quantity, cost_basis from paper_position where user_id = %s and run_id = %s",
    "last mark of a run": """select * from mtm_ledger where user_id = %s and run_id = %s
                              order by logical_time desc limit 1""",
}


def _fill(dsn: str, total: int) -> None:
    """`total` rows over both ledgers, in key order, 2,000 bars a run, past every guard: by raw SQL, in two sessions."""
    runs = total // 2 // _BARS
    with psycopg.connect(dsn, autocommit=True) as conn:
        load_feed(conn, "others", 1)
        keys = make_runs(conn, "others", runs, position=False)

    def insert(table: str) -> None:
        columns = {
            "mtm_ledger": "0.5 * n, 0.25 * n, 0.25 * n, 0",
            "paper_equity_curve": "1000.25, 0.5 * n, 1000.25 + 0.5 * n",
        }[table]
        with psycopg.connect(dsn, autocommit=True) as conn:
            for start in range(0, runs, 50):
                part = keys[start : start + 50]
                conn.execute(
                    f"""insert into {table} (user_id, run_id, logical_time, {", ".join(_NUMERICS[table])})
                        select u, r, %s::timestamptz + (n / 5 * 7 + n %% 5) * interval '1 day', {columns}
                          from unnest(%s::bigint[], %s::bigint[]) k (u, r), generate_series(0, %s) n
                         order by u, r, n""",
                    [FIRST, [k.user for k in part], [k.run for k in part], _BARS - 1],
                )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(insert, _LEDGERS))


# --- feeds


def _feed_load(dsn: str, quick: bool) -> list[Row]:
    """A CSV file through the same code as `papertick feed load`, against COPY of it into a table with the same keys,
    checks and foreign keys.
    """
    symbols, bars, reps = (20, 10_000, 2) if quick else (500, 10_000, 3)
    with (
        measure.database(dsn) as ours,
        psycopg.connect(ours, autocommit=True) as conn,
        _csv(symbols, bars) as file,
    ):
        turn = iter(range(reps))

        def load() -> float:
            name = f"feed {next(turn)}"
            report = []
            took = cost(conn, lambda: report.append(feeds.load_csv(conn, file, feed=name))).wall / 1e6
            stored, _ = _one(conn, f"select count(*), 0 from price_bar where feed = '{name}'")
            assert stored == symbols * bars, report
            conn.execute("delete from price_bar where feed = %s", [name])
            conn.execute("vacuum price_bar")
            return took

        got = measure.turns({"load": load, "copy": lambda: _copy(conn, file)}, reps)
    rates = {case: [symbols * bars / seconds for seconds in taken] for case, taken in got.items()}
    name = f"feed load, {symbols * bars:,} bars"
    return [row(name, "COPY, same keys and checks", ">= 0.6", "bars/s", rates["load"], rates["copy"])]


def _copy(conn: psycopg.Connection, file: Path) -> float:
    conn.execute("create table copied (like price_bar including all)")
    keys = conn.execute(
        "select pg_get_constraintdef(oid) from pg_constraint where conrelid = 'price_bar'::regclass and contype = 'f'"
    ).fetchall()
    for (key,) in keys:
        conn.execute(f"alter table copied add {key}")
    conn.execute("insert into feed (feed) values ('copied') on conflict do nothing")
    conn.execute("alter table copied alter column feed set default 'copied'")

    def copy() -> None:
        with (
            conn.cursor() as cursor,
            file.open("rb") as source,
            cursor.copy(
                "copy copied (symbol, logical_time, open, high, low, close, volume) from stdin (format csv, header)"
            ) as sink,
        ):
            while block := source.read(1 << 20):
                sink.write(block)

    took = cost(conn, copy).wall / 1e6
    conn.execute("drop table copied")
    return took


@contextmanager
def _csv(symbols: int, bars: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bars.csv"
        with path.open("w") as out:
            out.write("symbol,logical_time,open,high,low,close,volume\n")
            for s in range(symbols):
                for n in range(bars):
                    at = (FIRST + timedelta(days=n)).isoformat()
                    p = 100 + (n * 37 + s) % 400 / 10
                    out.write(f"S{s:04},{at},{p:.2f},{p + 1.5:.2f},{p - 1.5:.2f},{p + 0.25:.2f},{1000 + n}\n")
        yield path


if __name__ == "__main__":
    print(words(run(parser(__doc__).parse_args().full)["rows"]))
