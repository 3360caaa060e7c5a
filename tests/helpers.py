"""Builders for the tests: runs, bars, raw rows; what a run holds; how to see a session wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

Conn = psycopg.Connection
Connect = Callable[..., Conn]
Row = dict[str, Any]
Write = Callable[[Conn, str, Row], None]


class Run(NamedTuple):
    """The key of a run; passed to SQL as two parameters."""

    user_id: int
    run_id: int


# --- tables ---

# What a raw INSERT of row number k needs besides the key.
_FILL: Row = {"symbol": "AAA", "side": "BUY", "quantity": 1}
_ORDER: Row = _FILL | {"order_type": "MARKET", "time_in_force": "GTC", "status": "PENDING"}
_PLAN: Row = {"frequency": "DAILY", "start_date": "2024-01-01"}
_MTM: Row = {"market_value": 10, "cost_basis": 10, "unrealized_pnl": 0, "realized_pnl": 0}
# Rows of the shipped fee schedules, each of another component.
_FEES: tuple[Row, ...] = tuple(
    {"component": component, "fee_schedule": schedule, "side": side, "effective_from": day}
    for component, schedule, side, day in (
        ("COMMISSION", "US_PER_SHARE", "BUY", "1900-01-01"),
        ("SEC", "US_PER_SHARE", "SELL", "2014-03-18"),
        ("TAF", "US_PER_SHARE", "SELL", "2012-07-01"),
        ("BROKERAGE", "IN_INTRADAY", "BUY", "2020-07-01"),
        ("STT", "IN_DELIVERY", "BUY", "2012-07-01"),
        ("EXCHANGE", "IN_DELIVERY", "BUY", "2020-07-01"),
        ("SEBI", "IN_DELIVERY", "BUY", "2019-04-01"),
        ("STAMP", "IN_DELIVERY", "BUY", "2020-07-01"),
        ("DP", "IN_DELIVERY", "SELL", "2020-07-01"),
        ("GST", "IN_DELIVERY", "BUY", "2017-07-01"),
    )
)


def _minimal(table: str, k: int) -> Row:
    time = {"logical_time": at(k)}
    return {
        "engine_state": {},
        "engine_status": {"status": "RUNNING"},
        "paper_order": _ORDER | time | {"order_id": k},
        "paper_trade": _FILL | time | {"trade_id": k, "order_id": 1, "price": 10, "fees": 0},
        "trade_fee": {"trade_id": 1, "amount": 1, "product": "*"} | _FEES[k % len(_FEES)],
        "paper_position": {"symbol": f"S{k}", "quantity": 1, "cost_basis": 10, "realized_pnl": 0},
        "cash_ledger": time | {"entry_id": k, "amount": -10, "cause": "TRADE", "trade_id": 1},
        "mtm_ledger": time | _MTM,
        "paper_equity_curve": time | {"cash": 90, "market_value": 10, "equity": 100},
        "event_ledger": time | {"event_type": "NOTE", "event_key": str(k), "payload": "{}"},
        "sip_plan": _PLAN | {"sip_id": k, "symbol": "AAA", "amount": 100},
        "rebalance_plan": _PLAN | {"plan_id": k},
        "target_weight": {"plan_id": 1, "symbol": f"S{k}", "weight": 0.5},
        "risk_limit": {},
        "forbidden_symbol": {"symbol": f"S{k}"},
        "dividend_due": {
            "symbol": "AAA",
            "ex_date": f"2024-01-{k:02}",
            "pay_date": "2024-02-01",
            "quantity": 1,
            "amount": 1,
        },
    }[table]


# The tables that the test plan names for RL-02 and RL-03, and all tables under strategy_run, parents first.
PLAN_TABLES: tuple[str, ...] = (
    "engine_state",
    "engine_status",
    "paper_order",
    "paper_trade",
    "mtm_ledger",
    "event_ledger",
)
PLAN_TABLES += ("paper_equity_curve",)
CHILDREN: tuple[str, ...] = (
    *PLAN_TABLES,
    "paper_position",
    "cash_ledger",
    "sip_plan",
    "rebalance_plan",
    "target_weight",
)
CHILDREN += ("risk_limit", "forbidden_symbol", "dividend_due", "trade_fee")
PER_RUN = ("strategy_run", *CHILDREN)
LEDGERS = (
    "engine_status",
    "paper_trade",
    "trade_fee",
    "cash_ledger",
    "mtm_ledger",
    "paper_equity_curve",
    "event_ledger",
)
PARENTS = ("paper_order", "paper_trade", "rebalance_plan")  # rows of other tables hang on their row 1


def raw_row(table: str, run: Run, k: int = 1, **columns: Any) -> Row:
    """Row number k of a table as plain SQL would write it: the key, what has no default, and `columns`."""
    return {"user_id": run.user_id, "run_id": run.run_id} | _minimal(table, k) | columns


# --- one way to write a row each; all of them must pass the guards ---


def _parts(table: str, row: Row) -> dict[str, sql.Composable]:
    return {
        "table": sql.Identifier(table),
        "columns": sql.SQL(", ").join(map(sql.Identifier, row)),
        "values": sql.SQL(", ").join(map(sql.Placeholder, row)),
    }


def insert(conn: Conn, table: str, row: Row, tail: str = "") -> None:
    query = sql.SQL("insert into {table} ({columns}) values ({values})" + tail).format(**_parts(table, row))
    conn.execute(query, row)


def insert_on_conflict(conn: Conn, table: str, row: Row) -> None:
    insert(conn, table, row, " on conflict do nothing")


def upsert(conn: Conn, table: str, row: Row) -> None:
    key = conn.execute(
        "select string_agg(a.attname, ', ') from pg_index i join pg_attribute a on a.attrelid = i.indrelid"
        " and a.attnum = any (i.indkey) where i.indrelid = %s::regclass and i.indisprimary",
        [table],
    ).fetchone()
    insert(conn, table, row, f" on conflict ({key[0] if key else ''}) do update set run_id = excluded.run_id")


def insert_in_cte(conn: Conn, table: str, row: Row) -> None:
    query = "with w as (insert into {table} ({columns}) values ({values}) returning 1) select from w"
    conn.execute(sql.SQL(query).format(**_parts(table, row)), row)


def merge(conn: Conn, table: str, row: Row) -> None:
    query = "merge into {table} using (select) s on false when not matched then insert ({columns})"
    conn.execute(sql.SQL(query + " values ({values})").format(**_parts(table, row)), row)


def copy(conn: Conn, table: str, row: Row) -> None:
    query = sql.SQL("copy {table} ({columns}) from stdin").format(**_parts(table, row))
    with conn.cursor() as cur, cur.copy(query) as stream:
        stream.write_row(list(row.values()))


WRITES: tuple[Write, ...] = (insert, insert_on_conflict, upsert, insert_in_cte, merge, copy)


def update_all(conn: Conn, table: str, run: Run, column: str = "run_id") -> None:
    """Touch every row of the run; by default without changing anything."""
    query = sql.SQL("update {0} set {1} = {1} where user_id = %s and run_id = %s")
    conn.execute(query.format(sql.Identifier(table), sql.Identifier(column)), run)


def merge_update_all(conn: Conn, table: str, run: Run) -> None:
    query = "merge into {} t using (select) s on (t.user_id, t.run_id) = (%s, %s) when matched then update"
    conn.execute(sql.SQL(query + " set run_id = t.run_id").format(sql.Identifier(table)), run)


# --- runs, market data, calls ---


def at(n: float) -> datetime:
    """Close number n of the tests' market: 16:00 UTC, day by day from 2024-01-01 on."""
    return datetime(2024, 1, 1, 16, tzinfo=UTC) + timedelta(days=n)


def value(conn: Conn, query: Any, params: Sequence[Any] | Row = ()) -> Any:
    """The first column of the first row; None without a row."""
    row = conn.execute(query, params).fetchone()
    return row and row[0]


def make_user(conn: Conn, name: str = "ann") -> int:
    return value(conn, "select create_user(%s)", [name])


def make_run(conn: Conn, cash: float = 10_000, *, user_id: int | None = None, feed: str = "default") -> Run:
    """A RUNNING run by start_run."""
    user_id = user_id or make_user(conn)
    return Run(user_id, value(conn, "select start_run(%s, %s, %s)", [user_id, cash, feed]))


def raw_run(conn: Conn, status: str = "RUNNING", *, user_id: int | None = None, **columns: Any) -> Run:
    """A run by a raw INSERT of its row alone."""
    user_id = user_id or value(conn, "insert into app_user default values returning user_id")
    row = {"user_id": user_id, "status": status} | columns
    query = sql.SQL("insert into {table} ({columns}) values ({values}) returning run_id")
    return Run(user_id, value(conn, query.format(**_parts("strategy_run", row)), row))


def set_status(conn: Conn, run: Run, status: str) -> None:
    conn.execute("update strategy_run set status = %s where user_id = %s and run_id = %s", [status, *run])


def add_rows(conn: Conn, run: Run, tables: Sequence[str] = CHILDREN, k: int = 1) -> None:
    """Raw row number k in each of the tables."""
    for table in tables:
        insert(conn, table, raw_row(table, run, k))


def make_bars(conn: Conn, symbol: str, closes: Sequence[float], *, start: int = 0, feed: str = "default") -> None:
    """One bar a day: open = close - 1, high = close + 2, low = close - 3."""
    conn.execute("insert into instrument (symbol) values (%s) on conflict do nothing", [symbol])
    with conn.cursor() as cur:
        cur.executemany(
            "insert into price_bar (feed, symbol, logical_time, open, high, low, close, volume)"
            " values (%s, %s, %s, %s, %s, %s, %s, 1000)",
            [[feed, symbol, at(start + i), c - 1, c + 2, c - 3, c] for i, c in enumerate(closes)],
        )


def tick(conn: Conn, run: Run, n: float) -> None:
    """tick at close number n."""
    conn.execute("call tick(%s, %s, %s)", [*run, at(n)])


def place(conn: Conn, run: Run, symbol: str, side: str, quantity: float | str, **terms: Any) -> Row:
    """place_order; terms are its further parameters without `p_`. Returns the order's row."""
    named = "".join(f", p_{name} => %({name})s" for name in terms)
    params = {"u": run.user_id, "r": run.run_id, "symbol": symbol, "side": side, "quantity": quantity} | terms
    query = f"select * from place_order(%(u)s, %(r)s, %(symbol)s, %(side)s, %(quantity)s::numeric{named})"
    with conn.cursor(row_factory=dict_row) as cur:
        return cur.execute(query, params).fetchone() or {}


def make_busy_run(conn: Conn, *, user_id: int | None = None, run: Run | None = None) -> Run:
    """A run whose ticks write to every ledger: daily SIP and rebalance over AAA and BBB, and an order."""
    run = run or make_run(conn, 10_000, user_id=user_id)
    conn.execute("select create_sip(%s, %s, 'AAA', 1000, 'DAILY', '2024-01-01')", run)
    weights = '{"AAA": 0.3, "BBB": 0.3}'
    conn.execute("select create_rebalance(%s, %s, %s, 'DAILY', '2024-01-01')", [*run, weights])
    place(conn, run, "BBB", "BUY", 3)
    return run


def stop(conn: Conn, run: Run, reason: str | None = None) -> None:
    conn.execute("select stop_run(%s, %s, %s)", [*run, reason])


def delete_run(conn: Conn, run: Run) -> None:
    conn.execute("delete from strategy_run where user_id = %s and run_id = %s", run)


def digest(conn: Conn, run: Run) -> str:
    return value(conn, "select run_digest(%s, %s)", run)


# --- what is stored ---


def rows(conn: Conn, table: str, run: Run) -> list[Row]:
    """The run's rows of a table, in the order of their columns."""
    query = "select to_jsonb(t) from {} t where user_id = %s and run_id = %s order by t"
    return [r for (r,) in conn.execute(sql.SQL(query).format(sql.Identifier(table)), run)]


def status_of(conn: Conn, run: Run) -> str:
    return value(conn, "select status from strategy_run where user_id = %s and run_id = %s", run)


def counts(conn: Conn, run: Run) -> dict[str, int]:
    """How many rows of the run each table holds."""
    return {table: len(rows(conn, table, run)) for table in PER_RUN}


def snapshot(conn: Conn, run: Run) -> dict[str, list[str]]:
    """Everything the run holds, as text."""
    query = "select t::text from {} t where user_id = %s and run_id = %s order by 1"
    queries = {table: sql.SQL(query).format(sql.Identifier(table)) for table in PER_RUN}
    return {table: [r for (r,) in conn.execute(q, run)] for table, q in queries.items()}


@contextmanager
def unchanged(conn: Conn, *runs: Run) -> Iterator[None]:
    """Nothing of these runs is added, changed or removed by the block."""
    before = [snapshot(conn, run) for run in runs]
    yield
    assert [snapshot(conn, run) for run in runs] == before


# --- refusals and waiting ---


@contextmanager
def raises(*sqlstates: str, conn: Conn | None = None) -> Iterator[None]:
    """The block fails with one of these SQLSTATEs. With `conn` it is a transaction (or savepoint) itself."""
    with pytest.raises(psycopg.Error) as caught, conn.transaction() if conn else nullcontext():
        yield
    assert caught.value.sqlstate in sqlstates, f"{caught.value.sqlstate}: {caught.value}"


def superuser_only(conn: Conn, why: str) -> None:
    """Skip, with this reason, where the role of DB_DSN is no superuser. The throwaway server's is."""
    if not value(conn, "select rolsuper from pg_roles where rolname = current_user"):
        pytest.skip(f"DB_DSN names a role that is no superuser: {why}")


def as_replica(conn: Conn) -> None:
    """For the rest of the transaction ordinary triggers do not fire, the foreign keys' own included."""
    superuser_only(conn, "it may not set session_replication_role")
    conn.execute("set local session_replication_role = replica")


def session(connect: Connect, *, autocommit: bool = True) -> Conn:
    """One more connection; a lock it waits for too long is an error, and not a test that hangs."""
    return connect(autocommit=autocommit, options="-c lock_timeout=20s")


def pid_of(conn: Conn) -> int:
    return conn.info.backend_pid


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 10) -> None:
    """Poll until it holds; fails after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting until {what}"
        time.sleep(0.002)


def wait_until_blocked(observer: Conn, pid: int, *, by: int | None = None) -> None:
    """Return once that session really waits for a lock (of session `by`)."""
    query = (
        "select exists (select from pg_stat_activity where pid = %(pid)s and wait_event_type = 'Lock')"
        " and cardinality(pg_blocking_pids(%(pid)s)) > 0"
        " and (%(by)s::int is null or %(by)s = any (pg_blocking_pids(%(pid)s)))"
    )
    wait_until(lambda: value(observer, query, {"pid": pid, "by": by}), f"session {pid} waits for a lock")
