"""leaderboard() over fleets: ten thousand runs of monthly bars, a thousand of daily bars, each metric in one statement.

usage: python -m bench.leaderboard [--quick] [--reps N]

Prints seconds of the server process's CPU, which a busy machine does not stretch (the clock where its /proc cannot be
seen): the median of the turns and the lowest and highest. A run has a SIP with a due slot every month, 156 of
them; runs differ in amount and symbol. Beside it, performance() of a sample, run by run, as what it would cost.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psycopg

from bench import measure
from bench.runs import cost

_METRICS = ("equity", "xirr", "xirr_invested", "twr", "max_drawdown", "sharpe", "fees")
_SAMPLE = 100
_MONTHS, _DAYS = 156, 3270


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the runs")
    parser.add_argument("--reps", type=int, default=5, help="turns")
    options = parser.parse_args()
    part = 20 if options.quick else 1
    with measure.server() as admin, measure.database(admin) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        _load(conn)
        for feed, policy, count in (
            ("monthly", "EVERY_TICK", 10_000 // part),
            ("monthly", "EVENTS", 2_000 // part),
            ("daily", "EVERY_TICK", 1_000 // part),
            ("daily", "EVENTS", 1_000 // part),
        ):
            started = time.monotonic()
            _make(conn, dsn, feed, policy, count)
            print(f"\n{count:,} runs, {feed} bars, {policy}: made in {time.monotonic() - started:.0f} s", flush=True)
            conn.execute("vacuum analyze")
            cases: dict[str, Callable[[], float]] = {
                metric: partial(_board, conn, metric, f"{feed} {policy}") for metric in _METRICS
            }
            cases["performance(), a run"] = partial(_performance, conn, f"{feed} {policy}")
            for case, each in measure.turns(cases, options.reps).items():
                unit, found = ("ms", [1000 * s / min(_SAMPLE, count) for s in each]) if "(" in case else ("s", each)
                words = f"{statistics.median(found):8.2f} {unit} ({min(found):.2f}-{max(found):.2f})"
                print(f"  {case:<22}{words}", flush=True)


def _load(conn: psycopg.Connection) -> None:
    conn.execute("insert into instrument (symbol) values ('ACME'), ('BOND')")
    conn.execute("insert into feed (feed) values ('monthly'), ('daily')")
    for feed, count, step in (
        ("monthly", _MONTHS, "n * interval '1 month'"),
        ("daily", _DAYS, "(n / 5 * 7 + n % 5) * interval '1 day'"),
    ):
        query = f"""insert into price_bar
            select '{feed}', s, timestamptz '2001-01-01 21:00Z' + {step}, p, p + 1.5, p - 1.5, p + 0.25, 1000000
              from generate_series(0, {count - 1}) n, (values ('ACME', 37), ('BOND', 23)) v (s, k),
           lateral (select 100 + n * {30 / count} + (n * k % 400) / 10.0 as p) q"""
        conn.execute(query.encode())


def _make(conn: psycopg.Connection, dsn: str, feed: str, policy: str, count: int) -> None:
    rows = []
    for first in range(0, count, 500):
        with conn.transaction():
            rows += conn.execute(
                """with made as materialized (
                     select n, create_user('bench') as user_id from generate_series(%s::int, %s::int) n)
                   select n, user_id, start_run(user_id, 1000000, %s, %s, p_mark_policy => %s) from made order by n""",
                [first, min(first + 500, count) - 1, feed, f"{feed} {policy}", policy],
            ).fetchall()

    def work(part: list[tuple[int, int, int]]) -> None:
        with psycopg.connect(dsn, autocommit=True) as own:
            for n, user_id, run_id in part:
                own.execute(
                    "select create_sip(%s, %s, %s, %s, 'MONTHLY', '2001-01-01')",
                    [user_id, run_id, ("ACME", "BOND")[n % 2], 100 + n % 900],
                )
                own.execute("call replay(%s, %s, '2000-01-01', '2100-01-01')", [user_id, run_id])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (rows[0::2], rows[1::2])))


def _board(conn: psycopg.Connection, metric: str, name: str) -> float:
    query = "select * from leaderboard(%s, p_name_like => %s)"
    return cost(conn, lambda: conn.execute(query, [metric, name]).fetchall()).cpu / 1e6


def _performance(conn: psycopg.Connection, name: str) -> float:
    query = """select count(p.value) from (select r.user_id, r.run_id from strategy_run r where r.name = %s limit %s) r
                cross join lateral performance(r.user_id, r.run_id) p"""
    return cost(conn, lambda: conn.execute(query, [name, _SAMPLE]).fetchall()).cpu / 1e6


if __name__ == "__main__":
    main()
