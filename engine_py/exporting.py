"""A run out of the database: as a capsule, or as a CSV or Parquet file per ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.types.string import TextLoader

from engine_py import __version__, capsule
from engine_py.capsule import AHEAD_TABLES, RUN_TABLES, SHARED_TABLES
from engine_py.cli_base import select
from engine_py.errors import UsageError

# JSON has no raw control characters, so with these COPY neither quotes nor escapes anything.
RAW: LiteralString = "with (format csv, quote e'\\x01', delimiter e'\\x02')"

# What each ledger is called outside, and its rows. Of the equity curve every mark, those that are not stored too.
LEDGERS: dict[str, LiteralString] = {
    "run": "select * from strategy_run t where {} order by run_id",
    "state": "select * from engine_state t where {} order by run_id",
    "status": "select * from engine_status t where {} order by status_id",
    "orders": "select * from paper_order t where {} order by order_id",
    "trades": "select * from paper_trade t where {} order by trade_id",
    "fees": 'select * from trade_fee t where {} order by trade_id, component collate "C"',
    "positions": 'select * from paper_position t where {} order by symbol collate "C"',
    "cash": "select * from cash_ledger t where {} order by entry_id",
    "mtm": "select * from mtm_ledger t where {} order by logical_time",
    "equity": """select t.user_id, t.run_id, e.logical_time, e.cash::money_amount as cash,
                        e.market_value::money_amount as market_value, e.equity::money_amount as equity
                   from strategy_run t cross join lateral equity_between(t.user_id, t.run_id) e
                  where {} order by e.logical_time""",
    "events": """select * from event_ledger t where {}
                  order by logical_time, event_type collate "C", event_key collate "C" """,
    "dividends": 'select * from dividend_due t where {} order by symbol collate "C", ex_date',
    "sips": "select * from sip_plan t where {} order by sip_id",
    "rebalances": "select * from rebalance_plan t where {} order by plan_id",
    "weights": 'select * from target_weight t where {} order by plan_id, symbol collate "C"',
    "limits": "select * from risk_limit t where {} order by run_id",
    "forbidden": 'select * from forbidden_symbol t where {} order by symbol collate "C"',
}


@contextmanager
def snapshot(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """All that is read in it is of one moment, and printed the same in every session."""
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        conn.execute("set local timezone = 'UTC'")
        conn.execute("set local datestyle = 'ISO, YMD'")
        conn.execute("set local intervalstyle = 'postgres'")
        yield


def rows_of(conn: psycopg.Connection[Any], user: int, run: int, table: str, *, ahead: bool = False) -> Iterator[bytes]:
    """One table of the run's capsule, a JSON object a line."""
    query = sql.SQL("copy (select r from export_rows({}, {}, {}, {}) r) to stdout " + RAW)
    with conn.cursor() as cursor, cursor.copy(query.format(user, run, table, ahead)) as copy:
        for block in copy:
            yield bytes(block)


def hash_of(blocks: Iterator[bytes]) -> str:
    total = hashlib.sha256()
    for block in blocks:
        total.update(block)
    return total.hexdigest()


def export_capsule(
    conn: psycopg.Connection[Any], user: int, run: int, path: Path, *, with_feed: bool = False
) -> dict[str, Any]:
    """Write the run to a capsule; with_feed: and all else that its feed has, so that it can go on. Its manifest."""
    with snapshot(conn), capsule.write(path) as writer:
        (head,) = select(
            conn,
            """select r.name, r.status, r.feed, f.calendar, r.currency, r.mark_policy,
                      to_char(s.first_logical_time, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as first_logical_time,
                      to_char(s.last_logical_time, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as last_logical_time
                 from strategy_run r join feed f on f.feed = r.feed
                 left join engine_state s on s.user_id = r.user_id and s.run_id = r.run_id
                where r.user_id = %s and r.run_id = %s""",
            *(user, run),
        )
        (about,) = select(
            conn,
            "select run_digest(%s, %s) as digest, (select max(version) from schema_version) as schema_version",
            *(user, run),
        )
        for table in RUN_TABLES:
            writer.add(f"run/{table}.ndjson", rows_of(conn, user, run, table))
        for table in SHARED_TABLES:
            writer.add(f"market/{table}.ndjson", rows_of(conn, user, run, table))
        for table in AHEAD_TABLES if with_feed else ("market_session",):
            writer.add(f"ahead/{table}.ndjson", rows_of(conn, user, run, table, ahead=True))
        return writer.finish({"papertick": __version__, **about, "run": head})


def _ledger(name: str, user: int, run: int) -> sql.Composed:
    mine = sql.SQL("t.user_id = {} and t.run_id = {}").format(user, run)
    return sql.SQL(LEDGERS[name]).format(mine)


def export_csv(conn: psycopg.Connection[Any], user: int, run: int, folder: Path) -> dict[str, int]:
    """A CSV file per ledger; how many rows each has."""
    counts = {}
    with snapshot(conn):
        for name in LEDGERS:
            query = sql.SQL("copy ({}) to stdout with (format csv, header)").format(_ledger(name, user, run))
            with (folder / f"{name}.csv").open("wb") as file, conn.cursor() as cursor:
                with cursor.copy(query) as copy:
                    for block in copy:
                        file.write(block)
                counts[name] = cursor.rowcount
    return counts


def export_parquet(conn: psycopg.Connection[Any], user: int, run: int, folder: Path) -> dict[str, int]:
    """A Parquet file per ledger: decimals as decimal128 of their column's digits, times as timestamp[us, UTC]."""
    try:
        pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as exc:
        raise UsageError("Parquet needs pyarrow", hint="pip install 'papertick[parquet]'") from exc
    counts = {}
    with snapshot(conn):
        for number, name in enumerate(LEDGERS):
            with conn.cursor(name=f"papertick_{number}") as cursor:  # rows in pieces, not all at once
                for of in ("jsonb", "interval", "datemultirange"):  # as PostgreSQL writes them
                    cursor.adapters.register_loader(of, TextLoader)
                cursor.execute(_ledger(name, user, run))
                types = [(column.name, _arrow_type(pa, column)) for column in cursor.description or ()]
                schema = pa.schema(types)
                counts[name] = 0
                with pq.ParquetWriter(folder / f"{name}.parquet", schema) as file:
                    while rows := cursor.fetchmany(20_000):
                        values = zip(*rows, strict=True)
                        arrays = [pa.array(v, kind) for (_, kind), v in zip(types, values, strict=True)]
                        file.write_batch(pa.record_batch(arrays, schema=schema))
                        counts[name] += len(rows)
    return counts


def _arrow_type(pa: Any, column: psycopg.Column) -> Any:
    """The Arrow type of a column. Of a domain PostgreSQL names the base type."""
    info = psycopg.adapters.types.get(column.type_code)
    name = info.name if info else "text"
    if name == "numeric" and column.precision is not None:
        return pa.decimal128(column.precision, column.scale)
    simple: dict[str, Any] = {
        "int4": pa.int32(),
        "int8": pa.int64(),
        "bool": pa.bool_(),
        "date": pa.date32(),
        "timestamptz": pa.timestamp("us", tz="UTC"),
    }
    return simple.get(name, pa.string())
