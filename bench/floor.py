"""The floor of one tick: what the ten statements that it cannot do without cost in a loop in the server.

One lock, one insert for idempotency, two reads, an order and its trade, the position, the two marks, the state; foreign
keys on four of them, no guard. Backend CPU, without commit.
"""

from __future__ import annotations

from typing import NamedTuple

import psycopg
from psycopg import sql

from bench.runs import cost

_SETUP = """
create table run (user_id bigint, run_id bigint, status text, primary key (user_id, run_id));
insert into run select g, 1, 'RUNNING' from generate_series(1, 100000) g;
create table state (user_id bigint, run_id bigint, cash numeric, last_time timestamptz, primary key (user_id, run_id))
  with (fillfactor = 50);
insert into state select g, 1, 1000, now() from generate_series(1, 100000) g;
create table bar (symbol int, t timestamptz, o numeric, h numeric, l numeric, c numeric, primary key (symbol, t));
insert into bar select 1, timestamptz '2020-01-01 00:00+00' + g * interval '1 day', 100 + g, 101 + g, 99 + g, 100.5 + g
  from generate_series(1, 2000) g;
create table once (user_id bigint, run_id bigint, logical_time timestamptz, cash numeric, equity numeric,
  primary key (user_id, run_id, logical_time));
create table mark (like once including all, foreign key (user_id, run_id) references run);
create table position (user_id bigint, run_id bigint, symbol int, quantity numeric, average numeric,
  primary key (user_id, run_id, symbol)) with (fillfactor = 50);
insert into position select g, 1, 1, 10, 100 from generate_series(1, 100000) g;
create table orders (order_id bigint generated always as identity primary key, user_id bigint, run_id bigint,
  logical_time timestamptz, symbol int, side text, quantity numeric, price numeric, status text,
  foreign key (user_id, run_id) references run);
create index on orders (user_id, run_id) where status = 'PENDING';
"""


class _Op(NamedTuple):
    times: int  # in one tick
    name: str
    declare: str
    body: str


_EMPTY = _Op(0, "empty loop", "", "null;")
_OPS = (
    _Op(1, "advisory lock", "", "perform pg_advisory_xact_lock(i % 3000);"),
    _Op(
        1,
        "insert on conflict do nothing",
        "",
        "insert into once values (i, 2, '2020-01-01 00:00+00', 1000.5, 1001.25) on conflict do nothing;",
    ),
    _Op(1, "select by key", "r record;", "select * into r from run where user_id = i and run_id = 1;"),
    _Op(
        1,
        "select bar by key",
        "r record; t0 timestamptz := '2020-01-01 00:00+00';",
        "select * into r from bar where symbol = 1 and t = t0 + (1 + i % 1900) * interval '1 day';",
    ),
    _Op(
        2,
        "insert order returning its id",
        "x bigint;",
        """insert into orders (user_id, run_id, logical_time, symbol, side, quantity, price, status)
           values (i, 1, '2020-01-01 00:00+00', 1, 'BUY', 10, 100.5, 'FILLED') returning order_id into x;""",
    ),
    _Op(
        1,
        "position upsert",
        "",
        """insert into position as p values (i, 1, 1, 10, 100) on conflict (user_id, run_id, symbol) do update
           set quantity = p.quantity + excluded.quantity,
               average = (p.average * p.quantity + excluded.average * excluded.quantity)
                         / (p.quantity + excluded.quantity);""",
    ),
    _Op(2, "insert mark", "", "insert into mark values (i, 1, '2020-01-01 00:00+00', 1000.5, 1001.25);"),
    _Op(
        1,
        "update by key (HOT)",
        "",
        "update state set cash = cash - 1.5, last_time = '2020-01-01 00:00+00' where user_id = i and run_id = 1;",
    ),
)


def set_up(conn: psycopg.Connection) -> None:
    """In a database of its own."""
    for statement in _SETUP.split(";\n"):
        if statement.strip():
            conn.execute(statement)
    conn.execute("vacuum analyze")


def one_tick(conn: psycopg.Connection, count: int) -> float:
    """Microseconds of CPU for the ten statements, each measured over `count` rows and rolled back."""
    empty = _each(conn, _EMPTY, count)
    total = sum(op.times * max(0.0, _each(conn, op, count) - empty) for op in _OPS)
    conn.execute("vacuum once, mark, position, state, run, orders")
    return total


def _each(conn: psycopg.Connection, op: _Op, count: int) -> float:
    conn.execute(
        sql.SQL(
            """create or replace function loop_of(p_from bigint, p_to bigint) returns void language plpgsql as $$
               declare {} begin for i in p_from .. p_to loop {} end loop; end $$"""
        ).format(sql.SQL(op.declare), sql.SQL(op.body))
    )
    with conn.transaction(force_rollback=True):
        conn.execute("select loop_of(1, 10)")
    with conn.transaction(force_rollback=True):
        conn.execute("select loop_of(1, 10)")
        return cost(conn, lambda: conn.execute("select loop_of(11, %s)", [count + 10])).cpu / count
