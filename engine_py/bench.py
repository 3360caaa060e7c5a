"""`papertick bench`: how fast the engine is on this server, in a database of its own that is dropped again.

What it compares is taken in turns (A B C, A B C, …), so that a slow minute hits all alike. The bars are computed, the
same everywhere. Times are the client's, commits included.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import click
import psycopg
from psycopg import sql

from engine_py import install
from engine_py.cli_base import Command, Session, connection_string, emit, options
from engine_py.db import Database
from engine_py.render import pairs, table
from engine_py.scratch import scratch_database

_FEED, _SYMBOL = "bench", "BENCH"
_FIRST = datetime(2000, 1, 3, 21, tzinfo=UTC)  # a bar a day from here on
_FLEET = "bench fleet"
# What a replay of one symbol with a SIP writes, parents before children; engine_state is the engine's own.
_WRITTEN = (
    "paper_order",
    "paper_trade",
    "paper_position",
    "cash_ledger",
    "mtm_ledger",
    "paper_equity_curve",
    "event_ledger",
)


class Size(NamedTuple):
    """How much of everything."""

    turns: int
    bars: int  # of a replay
    ticks: int  # a turn
    runs: int  # of tick_all


FULL = Size(turns=7, bars=5000, ticks=1000, runs=1000)
QUICK = Size(turns=2, bars=300, ticks=50, runs=100)


class Key(NamedTuple):
    user: int
    run: int


@click.command(cls=Command)
@click.option("--quick", is_flag=True, help="Less of everything: a few seconds.")
def bench(quick: bool) -> None:
    """Measure the engine on this server, in a scratch database that is dropped.

    Takes about twenty seconds, and a role that may create databases. Times are this client's, commits included.
    """
    document = run(connection_string(), QUICK if quick else FULL, _say)
    emit(document, report(document))


def _say(words: str) -> None:
    if not options().json:
        click.echo(words, err=True)


def run(dsn: str, size: Size, say: Callable[[str], None] = lambda words: None) -> dict[str, Any]:
    """Measure on the server of `dsn`. Raises ForbiddenError (42501) if its role cannot create databases."""

    def set_up(conn: psycopg.Connection) -> None:
        _load_feed(conn, max(size.bars, (size.turns + 1) * size.ticks))
        _make_fleet(conn, size.runs)

    def measure(conn: psycopg.Connection) -> dict[str, Any]:
        settings = _settings(conn)
        return {**settings, "bars": size.bars, "runs": size.runs, "measures": _Bench(conn, size).measures()}

    with scratch_database(dsn) as scratch:
        with Database(scratch) as database:
            database.run(install.install)
            say(f"measuring {size.turns} turns in a scratch database")
            Session(database).run(set_up, repeatable=False)
        with Database(scratch) as database:  # a new session, which never saw the tables empty
            return Session(database).run(measure, repeatable=False)


def _settings(conn: psycopg.Connection) -> dict[str, Any]:
    names = ("server_version", "fsync", "synchronous_commit", "shared_buffers")
    return {name: conn.execute("select current_setting(%s)", [name]).fetchone()[0] for name in names}  # type: ignore[index]


def _load_feed(conn: psycopg.Connection, bars: int) -> None:
    """Closes wander between 100 and 140. Two feeds, so that tick_all meets its fleet only."""
    conn.execute("insert into feed (feed) values (%s), (%s)", [_FEED, _FLEET])
    conn.execute("insert into instrument (symbol) values (%s)", [_SYMBOL])
    for feed in (_FEED, _FLEET):
        conn.execute(
            """insert into price_bar (feed, symbol, logical_time, open, high, low, close, volume)
               select %s, %s, %s::timestamptz + n * interval '1 day', p, p + 1.5, p - 1.5, p + 0.25, 1000000
                 from (select n, 100 + (n * 37 %% 400) / 10.0 as p from generate_series(0, %s - 1) n) b""",
            [feed, _SYMBOL, _FIRST, bars],
        )


def _at(n: int) -> datetime:
    return _FIRST + timedelta(days=n)


def _make_fleet(conn: psycopg.Connection, runs: int) -> None:
    """Runs that hold one position each, after their first tick."""
    with conn.transaction():
        conn.execute(
            """with u as (insert into app_user (name) select 'bench' from generate_series(1, %s) returning user_id)
               insert into strategy_run (user_id, feed, status, initial_cash)
               select user_id, %s, 'RUNNING', 1000000 from u""",
            [runs, _FLEET],
        )
        conn.execute(
            """insert into paper_order (user_id, run_id, order_id, logical_time, symbol, side, order_type, quantity,
                                        time_in_force, status)
               select user_id, run_id, 1, null, %s, 'BUY', 'MARKET', 10, 'GTC', 'PENDING'
                 from strategy_run where feed = %s""",
            [_SYMBOL, _FLEET],
        )
    conn.execute("call tick_all(%s, %s)", [_FIRST, _FLEET])
    conn.execute("analyze")


class _Bench:
    def __init__(self, conn: psycopg.Connection, size: Size) -> None:
        self._conn, self._size = conn, size
        self._ticked = self._run_with_sip()
        self._next = 0  # the bar of the next tick
        self._fleet_bar = 1

    def measures(self) -> list[dict[str, Any]]:
        cases: Mapping[str, Callable[[], dict[str, float]]] = {
            "tick": self._ticks,
            "replay": self._replay,
            "tick_all": self._tick_all,
        }
        taken: dict[str, list[float]] = {}
        for turn in range(self._size.turns + 1):
            for case in cases.values():
                for name, value in case().items():
                    if turn:  # the first turn warms up
                        taken.setdefault(name, []).append(value)
        return [{"name": name, "unit": _UNITS[name], **_spread(taken[name])} for name in _UNITS]

    def _run_with_sip(self) -> Key:
        """A run with an order that the first bar fills, one that no bar reaches, and a MONTHLY SIP."""
        key = self._new_run()
        call = "select from place_order(%s, %s, %s, 'BUY', 10, %s, %s)"
        self._conn.execute(call, [*key, _SYMBOL, "MARKET", None])
        self._conn.execute(call, [*key, _SYMBOL, "LIMIT", 1])
        self._conn.execute("select create_sip(%s, %s, %s, 100, 'MONTHLY', %s)", [*key, _SYMBOL, _FIRST.date()])
        return key

    def _new_run(self) -> Key:
        (user,) = _row(self._conn, "select create_user('bench')")
        (run_id,) = _row(self._conn, "select start_run(%s, 1000000, %s)", user, _FEED)
        return Key(user, run_id)

    def _ticks(self) -> dict[str, float]:
        """One call a commit, each at a new bar; then the last one again and again."""
        first = [self._tick(self._next + n) for n in range(self._size.ticks)]
        self._next += self._size.ticks
        again = [self._tick(self._next - 1) for _ in range(self._size.ticks)]
        median = statistics.median(first)
        return {
            "tick, median": median * 1e3,
            "tick, 95th percentile": statistics.quantiles(first, n=20)[-1] * 1e3,
            "ticks, one connection": len(first) / sum(first),
            "tick that has happened": statistics.median(again) * 1e3,
            "tick that has happened / tick": statistics.median(again) / median,
        }

    def _tick(self, n: int) -> float:
        return _seconds(lambda: self._conn.execute("call tick(%s, %s, %s)", [*self._ticked, _at(n)]))

    def _replay(self) -> dict[str, float]:
        """A replay, and a raw insert of the rows that it made into the same guarded tables, for another run."""
        key = self._run_with_sip()
        last = _at(self._size.bars - 1)
        took = _seconds(lambda: self._conn.execute("call replay(%s, %s, %s, %s)", [*key, _FIRST, last]))
        rows, raw = self._insert_raw(key)
        return {
            "replay": self._size.bars / took,
            "replay, rows written": rows / took,
            "raw insert of the same rows": rows / raw,
            "replay / raw insert": raw / took,
        }

    def _insert_raw(self, source: Key) -> tuple[int, float]:
        """How many rows, and the seconds to insert them."""
        conn = self._conn
        (user,) = _row(conn, "select create_user('bench')")
        (run_id,) = _row(
            conn,
            "insert into strategy_run (user_id, feed, status, initial_cash)"
            " values (%s, %s, 'RUNNING', 1000000) returning run_id",
            user,
            _FEED,
        )
        theirs = {"user_id": user, "run_id": run_id}
        inserts, rows = [], 0
        for name in _WRITTEN:
            columns = _columns(conn, name)
            names = sql.SQL(", ").join(map(sql.Identifier, columns))
            values = sql.SQL(", ").join(
                sql.SQL("{}::bigint as {}").format(theirs[column], sql.Identifier(column))
                if column in theirs
                else sql.Identifier(column)
                for column in columns
            )
            part = {"copy": sql.Identifier(f"bench_{name}"), "name": sql.Identifier(name), "names": names}
            conn.execute(sql.SQL("drop table if exists pg_temp.{copy}").format(**part))
            made = conn.execute(
                sql.SQL(
                    "create temp table {copy} as select {values} from {name} where user_id = {u} and run_id = {r}"
                ).format(**part, values=values, u=source.user, r=source.run)
            )
            rows += made.rowcount
            inserts.append(sql.SQL("insert into {name} ({names}) select {names} from pg_temp.{copy}").format(**part))

        def insert() -> None:
            with conn.transaction():
                for statement in inserts:
                    conn.execute(statement)

        return rows, _seconds(insert)

    def _tick_all(self) -> dict[str, float]:
        at = _at(self._fleet_bar)
        self._fleet_bar += 1
        took = _seconds(lambda: self._conn.execute("call tick_all(%s, %s)", [at, _FLEET]))
        return {"tick_all, a run": took / self._size.runs * 1e6}


_UNITS = {
    "tick, median": "ms",
    "tick, 95th percentile": "ms",
    "ticks, one connection": "per second",
    "tick that has happened": "ms",
    "tick that has happened / tick": "ratio",
    "replay": "bars/s",
    "replay, rows written": "rows/s",
    "raw insert of the same rows": "rows/s",
    "replay / raw insert": "ratio",
    "tick_all, a run": "us",
}


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _row(conn: psycopg.Connection, query: Any, *values: object) -> tuple[Any, ...]:
    row = conn.execute(query, values).fetchone()
    assert row is not None
    return row


def _columns(conn: psycopg.Connection, name: str) -> list[str]:
    """The columns that a client may write."""
    rows = conn.execute(
        """select attname from pg_attribute
            where attrelid = %s::regclass and attnum > 0 and not attisdropped
              and attgenerated = '' and attidentity <> 'a'
            order by attnum""",
        [name],
    ).fetchall()
    return [row[0] for row in rows]


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def report(document: Mapping[str, Any]) -> str:
    """The settings that durability hangs on, and the table, to three digits."""
    settings = pairs(
        [
            ("server", f"PostgreSQL {document['server_version']}"),
            ("durability", f"fsync {document['fsync']}, synchronous_commit {document['synchronous_commit']}"),
            ("measured", f"replay of {document['bars']:,} bars, tick_all over {document['runs']:,} runs"),
        ]
    )
    rows = [one | {key: Decimal(f"{one[key]:.3g}") for key in ("median", "min", "max")} for one in document["measures"]]
    return settings + "\n\n" + table(rows, ("name", "median", "min", "max", "unit"))
