"""What the tick benchmarks stand on: a long feed of business days, runs that hold something, and a CPU clock.

Runs are made by the contract's raw rows and public verbs only, so the same script measures any version of the engine.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg

SYMBOL = "ACME"
# Monday to Friday from a Monday on, one bar a day; the engine's calendar ends with 2299.
FIRST = datetime.datetime(1900, 1, 1, 21, tzinfo=datetime.UTC)
MAX_BARS = 104_000
_CHUNK = 500  # runs in a transaction: each holds an advisory lock, and a server has only a few thousand


class Key(NamedTuple):
    user: int
    run: int


class Cost(NamedTuple):
    """Microseconds. Where the backend's /proc cannot be seen (a server elsewhere), cpu is the wall time."""

    wall: float
    cpu: float


def day_of(n: int) -> int:
    """Days from the first bar to bar n."""
    return n // 5 * 7 + n % 5


def time_of(n: int) -> datetime.datetime:
    return FIRST + datetime.timedelta(days=day_of(n))


def load_feed(conn: psycopg.Connection, feed: str, bars: int) -> None:
    """Bars 0 to bars - 1 of one symbol; closes wander between 100 and 140."""
    conn.execute("insert into feed (feed) values (%s) on conflict do nothing", [feed])
    conn.execute("insert into instrument (symbol) values (%s) on conflict do nothing", [SYMBOL])
    conn.execute(
        """insert into price_bar (feed, symbol, logical_time, open, high, low, close, volume)
           select %s, %s, %s::timestamptz + (n / 5 * 7 + n %% 5) * interval '1 day',
                  p, p + 1.5, p - 1.5, p + 0.25, 1000000
             from (select n, 100 + (n * 37 %% 400) / 10.0 as p from generate_series(0, %s - 1) n) b""",
        [feed, SYMBOL, FIRST, bars],
    )
    conn.execute("analyze price_bar")


def make_runs(
    conn: psycopg.Connection,
    feed: str,
    count: int,
    *,
    position: bool = True,
    order: bool = False,
    sip_start: datetime.date | None = None,
) -> list[Key]:
    """Runs of one user each, before their first tick, in key order.

    position: a MARKET order that the first tick fills. order: a LIMIT order that no bar reaches. sip_start: a MONTHLY
    SIP from that date on.
    """
    with conn.transaction():
        rows = conn.execute(
            """with u as (insert into app_user (name) select 'bench' from generate_series(1, %s) returning user_id)
               insert into strategy_run (user_id, feed, status, initial_cash)
               select user_id, %s, 'RUNNING', 10000000 from u order by user_id returning user_id, run_id""",
            [count, feed],
        ).fetchall()
        keys = sorted(Key(*row) for row in rows)
        if position:
            _place(conn, keys, 1, "MARKET", None)
        if order:
            _place(conn, keys, 2, "LIMIT", 1)
    if sip_start:
        for part in chunks(keys):
            conn.execute(
                """select count(create_sip(u, r, %s, 100, 'MONTHLY', %s))
                     from unnest(%s::bigint[], %s::bigint[]) k (u, r)""",
                [SYMBOL, sip_start, *columns(part)],
            )
    return keys


def _place(conn: psycopg.Connection, keys: list[Key], order_id: int, order_type: str, limit: int | None) -> None:
    conn.execute(
        """insert into paper_order (user_id, run_id, order_id, logical_time, symbol, side, order_type, quantity,
                                    limit_price, time_in_force, status)
           select u, r, %s, null, %s, 'BUY', %s, 10, %s, 'GTC', 'PENDING'
             from unnest(%s::bigint[], %s::bigint[]) k (u, r)""",
        [order_id, SYMBOL, order_type, limit, *columns(keys)],
    )


def columns(keys: list[Key]) -> tuple[list[int], list[int]]:
    return [key.user for key in keys], [key.run for key in keys]


def chunks(keys: list[Key]) -> Iterator[list[Key]]:
    for start in range(0, len(keys), _CHUNK):
        yield keys[start : start + _CHUNK]


def tick_all(conn: psycopg.Connection, feed: str, n: int, commit_every: int | None = None) -> None:
    conn.execute("call tick_all(%s, %s, %s::int)", [time_of(n), feed, commit_every])


def replay(conn: psycopg.Connection, key: Key, first: int, last: int) -> None:
    conn.execute("call replay(%s, %s, %s, %s)", [*key, time_of(first), time_of(last)])


def grow_old(conn: psycopg.Connection) -> None:
    """Let the session plan every statement of a tick for tables that hold one run and were analyzed so.

    What PostgreSQL remembers of that, plans or their cost, stays with the session when the tables have grown.
    """
    load_feed(conn, "early", 40)
    (key,) = make_runs(conn, "early", 1, sip_start=time_of(0).date())
    conn.execute("vacuum analyze")
    for n in range(20):
        conn.execute("call tick(%s, %s, %s)", [*key, time_of(n)])
    for n in range(20, 40):
        tick_all(conn, "early", n)
    conn.execute("select stop_run(%s, %s)", list(key))


def define_ticker(conn: psycopg.Connection) -> None:
    """bench_ticks(users, runs, time): one tick each, so that a loop in the server pays no round trips."""
    conn.execute(
        """create or replace procedure bench_ticks(p_users bigint[], p_runs bigint[], p_time timestamptz)
           language plpgsql as $$
           begin
             for i in 1 .. cardinality(p_users) loop
               call tick(p_users[i], p_runs[i], p_time);
             end loop;
           end $$"""
    )


def tick_each(conn: psycopg.Connection, keys: list[Key], n: int) -> None:
    conn.execute("call bench_ticks(%s, %s, %s)", [*columns(keys), time_of(n)])


def ticks_rolled_back(conn: psycopg.Connection, keys: list[Key], n: int, *, repeated: bool = False) -> Cost:
    """One tick of every run at bar n, in a transaction that is rolled back: microseconds per tick.

    The first eight warm the session's plans and are not counted. repeated: the second call of each is timed.
    """
    with conn.transaction(force_rollback=True):
        tick_each(conn, keys if repeated else keys[:8], n)
        counted = keys if repeated else keys[8:]
        total = cost(conn, lambda: tick_each(conn, counted, n))
    return Cost(total.wall / len(counted), total.cpu / len(counted))


def cost(conn: psycopg.Connection, work: Callable[[], object]) -> Cost:
    """What `work` took, by the clock and by the backend's CPU, which is read while the backend sleeps: it is exact."""
    before, start = _cpu(conn), time.perf_counter()
    work()
    wall = (time.perf_counter() - start) * 1e6
    after = _cpu(conn)
    return Cost(wall, wall if before is None or after is None else (after - before) / 1e3)


def _cpu(conn: psycopg.Connection) -> int | None:
    """Nanoseconds on a CPU of the session's backend."""
    path = Path(f"/proc/{conn.info.backend_pid}")
    try:
        if conn.info.host and not conn.info.host.startswith("/"):  # by network: the number may be another machine's
            return None
        if b"postgres" not in (path / "cmdline").read_bytes():
            return None
        time.sleep(0.002)  # let it fall asleep: a running process is counted at its last clock tick
        return int((path / "schedstat").read_text().split()[0])
    except OSError:
        return None
