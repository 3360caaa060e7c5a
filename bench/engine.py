"""papertick on the workloads: through its verbs, timed with its commit, and verified to the last digit."""

from __future__ import annotations

import argparse
import datetime
import json
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psycopg

from bench.data import load
from bench.measure import database, server
from bench.workloads import CASH, SERIES, W4_BARS, WEIGHT, bar_time, reference, sip_terms, symbol_bars

POLICIES = ("EVERY_TICK", "SESSION", "EVENTS")

# The tables a replay writes in bulk, parents first, each in the order in which it writes them.
LEDGERS = {
    "paper_order": "order_id",
    "paper_trade": "trade_id",
    "cash_ledger": "entry_id",
    "event_ledger": "logical_time",
    "paper_position": "symbol",
    "mtm_ledger": "logical_time",
    "paper_equity_curve": "logical_time",
}
# What stands there before: start_run's opening entry.
OPENING = "cash_ledger", "cause <> 'OPENING'"

# The orders of W4 as a client would hand them in: one statement, numbered as the bars are.
W4_ORDERS = """
insert into paper_order (user_id, run_id, order_id, logical_time, symbol, side, order_type, quantity, limit_price,
                         time_in_force, status)
select %(user)s, %(run)s, 1, %(from)s, 'GOOG', 'BUY', 'MARKET', 1000, null, 'GTC', 'PENDING'
union all
select %(user)s, %(run)s, 1 + t, logical_time, 'GOOG', case t %% 2 when 1 then 'BUY' else 'SELL' end, 'LIMIT', 1,
       round(close * case t %% 2 when 1 then 0.99 else 1.01 end, 2), 'GTC', 'PENDING'
  from (select b.logical_time, b.close, row_number() over (order by b.logical_time) as t
          from price_bar b where b.feed = 'goog' and b.logical_time between %(from)s and %(to)s) b
"""


class WrongAnswerError(Exception):
    """The engine's books differ from the reference's: no figure of this run counts."""


class NoPolicyError(Exception):
    """The engine does not know that mark policy."""


@dataclass
class Reading:
    """One timed replay: `wall` in seconds; `runs` are the keys of what it replayed."""

    wall: float
    symbol_bars: int
    rows: int = 0
    fills: int = 0
    equity: str = ""
    runs: list[tuple[int, int]] = field(default_factory=list)

    @property
    def us_per_bar(self) -> float:
        return self.wall / self.symbol_bars * 1e6


class Engine:
    """A database with the engine, the bars loaded; every replay gets users and runs of its own."""

    def __init__(self, dsn: str, w4_bars: int = W4_BARS, series: Sequence[str] = ("goog", "sp500")) -> None:
        self.dsn, self.w4_bars = dsn, w4_bars
        self.conn = psycopg.connect(dsn, autocommit=True)
        self.other = psycopg.connect(dsn, autocommit=True)  # the second session of W3
        for name in series:
            self._load(name)

    def close(self) -> None:
        self.conn.close()
        self.other.close()

    def _load(self, name: str) -> None:
        """One feed a series. A daily close is the bar with open = high = low = close."""
        columns, rows = load(name)
        if name == "goog":
            symbols, bars = ["GOOG"], [(name, "GOOG", bar_time(day), *bar) for day, bar in rows]
        else:
            symbols = columns
            bars = [
                (name, s, bar_time(t), *[c] * 4, None) for t, row in rows for s, c in zip(symbols, row, strict=True)
            ]
        with self.conn.transaction():
            self.conn.execute("insert into feed (feed) values (%s)", [name])
            for symbol in symbols:
                self.conn.execute("insert into instrument (symbol, quantity_step) values (%s, 1)", [symbol])
            into = "price_bar (feed, symbol, logical_time, open, high, low, close, volume)"
            with self.conn.cursor().copy(f"copy {into} from stdin") as copy:
                for bar in bars:
                    copy.write_row(bar)
        self.conn.execute("vacuum analyze price_bar")

    def span(self, workload: str) -> tuple[datetime.datetime, datetime.datetime]:
        rows = load(SERIES[workload])[1]
        return bar_time(rows[0][0]), bar_time(rows[: self.w4_bars if workload == "W4" else None][-1][0])

    def start(self, workload: str, policy: str = "EVERY_TICK", user: int = 0) -> tuple[int, int]:
        """A new user with a run and its plans; not timed."""
        conn = self.conn
        (user_id,) = conn.execute("select create_user('bench')").fetchone()  # type: ignore[misc]
        try:
            (run_id,) = conn.execute(  # type: ignore[misc]
                "select start_run(%s, %s, %s, p_mark_policy => %s)",
                [user_id, CASH[workload], SERIES[workload], policy],
            ).fetchone()
        except psycopg.Error as exc:
            if exc.sqlstate in ("TE101", "23514") and "mark_policy" in str(exc):
                raise NoPolicyError(policy) from exc
            raise
        first = self.span(workload)[0].date()
        sip = "select create_sip(%s, %s, %s, %s, 'MONTHLY', %s)"
        if workload in ("W1", "W3"):
            amount, day = sip_terms(user)
            conn.execute(sip, [user_id, run_id, "GOOG", amount, first.replace(day=day)])
        elif workload == "W2":
            symbols = load("sp500")[0]
            for symbol in symbols:
                conn.execute(sip, [user_id, run_id, symbol, 500, first.replace(day=1)])
            weights = json.dumps({symbol: float(WEIGHT) for symbol in symbols})
            rebalance = "select create_rebalance(%s, %s, %s, 'QUARTERLY', %s)"
            conn.execute(rebalance, [user_id, run_id, weights, first.replace(day=15)])
        return user_id, run_id

    def _call(self, conn: psycopg.Connection, workload: str, runs: Sequence[tuple[int, int]]) -> None:
        """What is timed: a transaction a run."""
        begin, end = self.span(workload)
        for user_id, run_id in runs:
            if workload == "W4":
                key = {"user": user_id, "run": run_id, "from": begin, "to": end}
                with conn.transaction():
                    conn.execute(W4_ORDERS, key)
                    conn.execute("call replay(%(user)s, %(run)s, %(from)s, %(to)s)", key)
            else:
                conn.execute("call replay(%s, %s, %s, %s)", [user_id, run_id, begin, end])

    def replay(
        self, workload: str, policy: str = "EVERY_TICK", users: int = 1, sessions: int = 1, check: bool = True
    ) -> Reading:
        """Replay the workload once under fresh users. Two sessions share the users of W3 evenly."""
        runs = [self.start(workload, policy, user) for user in range(users)]
        conns = [self.conn, self.other][:sessions]
        shares = [runs[n::sessions] for n in range(sessions)]
        begun = time.perf_counter()
        if sessions == 1:
            self._call(self.conn, workload, runs)
        else:
            with ThreadPoolExecutor(sessions) as pool:
                list(pool.map(lambda conn, share: self._call(conn, workload, share), conns, shares))
        reading = Reading(time.perf_counter() - begun, symbol_bars(workload, users, self.w4_bars), runs=runs)
        reading.rows = self.rows_written(runs)
        if check:
            self.verify(workload, policy, reading)
        return reading

    def private_mib(self) -> float | None:
        """What the session's backend holds for itself, shared buffers left out; None where the system does not tell."""
        try:
            (text,) = self.conn.execute("select pg_read_file('/proc/self/smaps_rollup')").fetchone()  # type: ignore[misc]
        except psycopg.Error:
            return None
        return sum(int(kib) for kib in re.findall(r"^Private_\w+: +(\d+) kB", text, re.MULTILINE)) / 1024

    def rows_written(self, runs: list[tuple[int, int]]) -> int:
        return sum(self._count(table, *run) for table in LEDGERS for run in runs)

    def _count(self, table: str, user_id: int, run_id: int) -> int:
        extra = f" and {OPENING[1]}" if table == OPENING[0] else ""
        query = f"select count(*) from {table} where user_id = %s and run_id = %s{extra}"
        return self.conn.execute(query, [user_id, run_id]).fetchone()[0]  # type: ignore[index, no-any-return]

    def verify(self, workload: str, policy: str, reading: Reading) -> None:
        """The whole equity curve and the number of fills; sums them up in the reading."""
        total = 0
        for user, (user_id, run_id) in enumerate(reading.runs):
            books = reference(workload, user, self.w4_bars)
            expected = {row[0]: row[1:] for row in books.equity}
            curve = self.conn.execute(
                "select logical_time, cash, market_value, equity from paper_equity_curve"
                " where user_id = %s and run_id = %s order by logical_time",
                [user_id, run_id],
            ).fetchall()
            fills = self._count("paper_trade", user_id, run_id)
            who = f"{workload} {policy} user {user}"
            if not curve or fills != len(books.trades):
                raise WrongAnswerError(f"{who}: {len(curve)} marks, {fills} fills, expected {len(books.trades)} fills")
            if policy != "EVENTS" and len(curve) != len(expected):
                raise WrongAnswerError(f"{who}: {len(curve)} marks, expected {len(expected)}")
            for row in curve:
                if row[1:] != expected.get(row[0]):
                    raise WrongAnswerError(f"{who} at {row[0]}: {row[1:]}, expected {expected.get(row[0])}")
            reading.fills += fills
            total += curve[-1][3]
        reading.equity = f"{total:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Replay the workloads once each, verified.")
    parser.add_argument("workloads", nargs="*", default=list(CASH))
    parser.add_argument("--policy", default="EVERY_TICK", choices=POLICIES)
    parser.add_argument("--users", type=int, default=20, help="users of W3")
    parser.add_argument("--sessions", type=int, default=1, choices=(1, 2), help="sessions of W3, side by side")
    parser.add_argument("--bars", type=int, default=W4_BARS, help="bars of W4")
    parser.add_argument("--reps", type=int, default=2)
    args = parser.parse_args()
    with server() as dsn, database(dsn) as own:
        engine = Engine(own, args.bars)
        for workload in args.workloads:
            for _ in range(args.reps):
                users, sessions = (args.users, args.sessions) if workload == "W3" else (1, 1)
                got = engine.replay(workload, args.policy, users, sessions)
                print(
                    f"{workload} {args.policy}: {got.wall:.4f} s, {1e3 / got.us_per_bar:.1f} thousand bars/s,"
                    f" {got.rows} rows, {got.fills} fills, equity {got.equity}",
                    flush=True,
                )
        engine.close()


if __name__ == "__main__":
    main()
