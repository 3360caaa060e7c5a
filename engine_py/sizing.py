"""How much things take on disk: measured, in a database of its own, by the verbs that write them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import psycopg

from engine_py import install
from engine_py.cli_base import Row
from engine_py.db import connect
from engine_py.scratch import scratch_database

_TIMES, _SYMBOLS, _RUNS = 3000, 10, 10


def measure(dsn: str) -> list[Row]:
    """(what, count, bytes): bytes of one, its share of every index and of half-filled pages included."""
    with scratch_database(dsn) as scratch, connect(scratch) as conn:
        install.install(conn)
        conn.execute("insert into instrument (symbol) select 'S' || n from generate_series(1, %s) n", [_SYMBOLS])
        conn.execute("insert into instrument (symbol) values ('ONE')")
        conn.execute("insert into feed values ('one')")
        return [
            _grow(conn, "bar", _TIMES * _SYMBOLS, _bars),
            _grow(conn, "run, never ticked", 1000, lambda c: _runs(c, "default", 1000)),
            _grow(conn, "tick, EVERY_TICK", _TIMES * _RUNS, lambda c: _ticks(c, "EVERY_TICK")),
            _grow(conn, "tick, EVENTS, nothing happens", _TIMES * _RUNS, lambda c: _ticks(c, "EVENTS")),
            _grow(conn, "SIP instalment, its mark included", _TIMES, lambda c: _slots(c, None)),
            _grow(conn, "the same with the fees of IN_DELIVERY", _TIMES, lambda c: _slots(c, "IN_DELIVERY")),
            _grow(conn, "order and trade, its mark included", 2000, _trades),
            _grow(conn, "order that is rejected", 5000, _rejections),
        ]


def _grow(conn: psycopg.Connection[Any], what: str, count: int, work: Callable[[psycopg.Connection[Any]], None]) -> Row:
    before = _size(conn)
    work(conn)
    return {"what": what, "count": count, "bytes": round(Decimal(_size(conn) - before) / count)}


def _size(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute(
        """select sum(pg_total_relation_size(c.oid))::bigint from pg_class c
            where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'"""
    ).fetchone()
    assert row
    return int(row[0])


def _bars(conn: psycopg.Connection[Any]) -> None:
    """A market as it arrives: all symbols of one time, time after time; volatile, so that no two prices are alike."""
    conn.execute(
        """insert into price_bar
           select 'default', 'S' || s, timestamptz '2021-01-01 16:00Z' + n * interval '1 day',
                  p.price, p.price + 1.25, p.price - 1.5, p.price + 0.37, 1000 + (n * 7919) %% 100000
             from generate_series(1, %s) n cross join generate_series(1, %s) s
            cross join lateral (select 50 + s * 10 + (n * 31 + s * 17) %% 997 / 100.0 as price) p
            order by n, s""",
        [_TIMES, _SYMBOLS],
    )
    conn.execute("analyze price_bar")


def _start(conn: psycopg.Connection[Any], **terms: object) -> tuple[int, int]:
    named = "".join(f", p_{name} => %s" for name in terms)
    row = conn.execute(
        f"select u, start_run(u, 1000000000{named}) from create_user('sizing') u".encode(), list(terms.values())
    ).fetchone()
    assert row
    return int(row[0]), int(row[1])


def _runs(conn: psycopg.Connection[Any], feed: str, count: int) -> None:
    for _ in range(count):
        _start(conn, feed=feed)


def _replay(conn: psycopg.Connection[Any], user: int, run: int) -> None:
    conn.execute("call replay(%s, %s, '2000-01-01', '2100-01-01')", [user, run])


def _ticks(conn: psycopg.Connection[Any], mark_policy: str) -> None:
    for _ in range(_RUNS):
        user, run = _start(conn, mark_policy=mark_policy)
        conn.execute("select place_order(%s, %s, 'S1', 'BUY', 1000)", [user, run])
        _replay(conn, user, run)


def _slots(conn: psycopg.Connection[Any], fee_schedule: str | None) -> None:
    user, run = _start(conn, mark_policy="EVENTS", fee_schedule=fee_schedule)
    conn.execute("select create_sip(%s, %s, 'S2', 5000, 'DAILY', '2021-01-02')", [user, run])
    _replay(conn, user, run)


def _trades(conn: psycopg.Connection[Any]) -> None:
    user, run = _start(conn, mark_policy="EVENTS")
    times = conn.execute("select distinct logical_time from price_bar order by 1 limit 2000").fetchall()
    with conn.pipeline():
        for (at,) in times:
            conn.execute("select place_order(%s, %s, 'S3', 'BUY', 10)", [user, run])
            conn.execute("call tick(%s, %s, %s)", [user, run, at])


def _rejections(conn: psycopg.Connection[Any]) -> None:
    user, run = _start(conn)
    with conn.pipeline():
        for _ in range(5000):
            conn.execute("select place_order(%s, %s, 'S4', 'BUY', 0)", [user, run])
