"""Promises that were broken once, by somebody who tried: each stays mended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import psycopg
import pytest
from desk import Market, Run, at, refused, val
from helpers import pid_of, session, wait_until_blocked
from psycopg import sql

from engine_py.install import sql_dir

Conn: TypeAlias = psycopg.Connection[Any]
Connect: TypeAlias = Callable[..., Conn]

DAYS = [f"2024-01-0{d} 12:00" for d in range(1, 8)]


def daily(conn: Conn, **market: Any) -> Market:
    made = Market(conn, symbols=["A"], **market)
    made.bars("A", {day: 100 for day in DAYS})
    return made


def test_operators_of_the_caller_do_not_open_the_guards(tx: Conn) -> None:
    """A path with operators of its own in front of pg_catalog changes nothing for a trigger."""
    run = Run(daily(tx))
    run.call("stop_run")
    tx.execute("create schema shadow")
    tx.execute("create function shadow.never(text, text) returns boolean language sql immutable as 'select false'")
    for operator in ("<>", "="):
        tx.execute(f"create operator shadow.{operator} (leftarg = text, rightarg = text, function = shadow.never)")  # type: ignore[arg-type]
    tx.execute("set local search_path = shadow, pg_catalog, public")
    with refused(tx, "TE001"):
        tx.execute("insert into forbidden_symbol values (%s, %s, 'A')", run.key)
    with refused(tx, "TE001"):
        tx.execute("insert into mtm_ledger values (%s, %s, '2024-01-01Z', 0, 0, 0, 0)", run.key)
    with refused(tx, "TE002"):
        tx.execute("update strategy_run set status = 'RUNNING' where (user_id, run_id) = (%s, %s)", run.key)
    with refused(tx, "TE004"):
        tx.execute("delete from cash_ledger where (user_id, run_id) = (%s, %s)", run.key)


def test_replay_stops_where_the_calendar_does(tx: Conn) -> None:
    run = Run(daily(tx, sessions=[(f"2024-01-0{d}", "09:00", "17:00") for d in (1, 2, 3)]))

    def replay(to: str) -> None:
        tx.execute("call replay(%s, %s, %s, %s)", [*run.key, at(DAYS[0]), at(to)])

    with refused(tx, "TE203"):
        replay(DAYS[6])
    replay(DAYS[2])
    with refused(tx, "TE203"):
        replay(DAYS[6])
    with refused(tx, "TE203"):
        run.call("match_orders", logical_time=at(DAYS[3]))
    assert val(tx, "select count(*) from mtm_ledger where (user_id, run_id) = (%s, %s)", *run.key) == 3


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_an_old_snapshot_never_ticks_past_an_order(db: Conn, connect: Connect, level: str) -> None:
    run = Run(daily(db))
    run.tick(DAYS[0])
    other = connect()
    other.execute(f"begin isolation level {level}")  # type: ignore[arg-type]
    other.execute("select 1 from strategy_run limit 1")
    run.place("A", "BUY", 1)
    for statement in ("call tick(%s, %s, %s)", "call tick_all(%s, %s)"):
        arguments = [*run.key, at(DAYS[1])] if "tick(" in statement else [at(DAYS[1]), run.market.feed]
        with pytest.raises(psycopg.errors.SerializationFailure), other.transaction():
            other.execute(statement, arguments)
    other.execute("rollback")
    run.tick(DAYS[1])
    assert [order.split()[0] for order in run.orders()] == ["FILLED"]


@pytest.mark.parametrize(
    "first",
    [
        "call tick_all('2024-01-02 12:00Z', '{feed}')",
        "insert into paper_order (user_id, run_id, order_id, logical_time, symbol, side, order_type, quantity,"
        " time_in_force, status) values ({u}, {r}, 9, null, 'A', 'BUY', 'MARKET', 1, 'GTC', 'PENDING')",
        "update strategy_run set name = 'x' where (user_id, run_id) = ({u}, {r})",
    ],
)
def test_who_has_the_row_does_not_queue_for_it(db: Conn, connect: Connect, background: Any, first: str) -> None:
    """A session that holds the run already may call a verb while others queue for it."""
    run = Run(daily(db))
    run.tick(DAYS[0])
    u, r = run.key
    holder, waiter = session(connect, autocommit=False), session(connect)
    holder.execute(first.format(feed=run.market.feed, u=u, r=r))  # type: ignore[arg-type]
    ticking = background(waiter.execute, "call tick(%s, %s, %s)", [u, r, at(DAYS[2])])
    wait_until_blocked(db, pid_of(waiter), by=pid_of(holder))
    holder.execute("select place_order(%s, %s, 'A', 'BUY', 1)", [u, r])
    holder.commit()
    ticking.result(timeout=30)
    assert val(db, "select last_logical_time from engine_state where (user_id, run_id) = (%s, %s)", u, r) == at(DAYS[2])


def test_a_rebuild_keeps_grants_and_views_of_others(db: Conn) -> None:
    db.execute("create view mine as select * from violations")
    db.execute("grant select on violations to public")
    code = "\n".join(p.read_text(encoding="utf-8") for p in sorted(sql_dir().glob("[2-9]*.sql")))
    with db.transaction():
        db.execute(sql.SQL(code))  # type: ignore[arg-type]
    assert val(db, "select relacl::text like '%%=r/%%' from pg_class where relname = 'violations'")
    assert db.execute("select * from mine").fetchall() == []


def test_a_step_that_finds_nothing_leaves_no_trace(tx: Conn) -> None:
    run = Run(daily(tx))
    for step in ("match_orders", "try_execute_sip", "try_rebalance"):
        assert run.call(step, logical_time=at("2299-01-01 12:00")) == 0
    run.tick(DAYS[0])
    assert run.rules() == set()


@pytest.mark.parametrize(
    "code", ["P0001", "22012", "HV000", "2D000", "25001", "34000", "08000", "F0000", "57P03", "42P01"]
)
def test_whatever_one_run_raises_stays_its_own(tx: Conn, code: str) -> None:
    market = daily(tx)
    bad, good = Run(market), Run(market)
    tx.execute(
        f"create function trip() returns trigger language plpgsql as $$ begin if new.user_id = {bad.key[0]} then"
        f" raise exception using errcode = '{code}'; end if; return new; end $$"  # type: ignore[arg-type]
    )
    tx.execute("create trigger trip before insert on mtm_ledger for each row execute function trip()")
    tx.execute("call tick_all(%s, %s)", [at(DAYS[0]), market.feed])
    query = "select status, status_reason from strategy_run where (user_id, run_id) = (%s, %s)"
    assert tx.execute(query, bad.key).fetchone() == ("ERROR", f"{code}: {code}")
    assert tx.execute(query, good.key).fetchone() == ("RUNNING", None)
    assert val(tx, "select count(*) from mtm_ledger where (user_id, run_id) = (%s, %s)", *good.key) == 1


def test_weights_that_sum_to_one_only_before_they_are_stored_are_refused(tx: Conn) -> None:
    run = Run(daily(tx))
    Market.instrument(run.market, "B")
    Market.instrument(run.market, "C")
    third = "0.333333333333333333336"
    with refused(tx, "TE101"):
        run.rebalance(f'{{"A": {third}, "B": {third}, "C": 0.333333333333333333328}}', "DAILY", "2024-01-01")
    assert run.rules() == set()


def test_what_is_left_of_a_raw_order_is_all_that_fills(tx: Conn) -> None:
    run = Run(daily(tx))
    tx.execute(
        "insert into paper_order (user_id, run_id, order_id, symbol, side, order_type, quantity, time_in_force, status,"
        " filled_quantity, avg_fill_price) values (%s, %s, 1, 'A', 'BUY', 'MARKET', 10, 'GTC', 'PARTIALLY_FILLED', 4, 50)",
        run.key,
    )
    run.tick(DAYS[0])
    query = "select status, filled_quantity, avg_fill_price from paper_order where (user_id, run_id) = (%s, %s)"
    assert tx.execute(query, run.key).fetchone() == ("FILLED", 10, 80)
    assert val(tx, "select sum(quantity) from paper_trade where (user_id, run_id) = (%s, %s)", *run.key) == 6


def test_a_step_up_without_end_ends(tx: Conn) -> None:
    """A hundred years of daily slots that each multiply the amount by a hundred."""
    run = Run(daily(tx))
    run.sip("A", 1, "DAILY", "1990-01-01", step_up_percent=9999, step_up_every=1)
    tx.execute("set local statement_timeout = '60s'")
    run.tick(DAYS[0])
    assert run.rules() == set()


def test_events_with_like_names_are_not_mixed_up(tx: Conn) -> None:
    run = Run(daily(tx))
    for kind, key in (("A B", "C"), ("A", "B C")):
        tx.execute("insert into event_ledger values (%s, %s, '2024-01-01Z', %s, %s)", [*run.key, kind, key])
    assert tx.execute("select * from replay_diff(%s, %s, %s, %s)", [*run.key, *run.key]).fetchall() == []


def test_a_zone_must_be_a_region(tx: Conn) -> None:
    for zone in ("IST", "EST", "+05:30"):
        with pytest.raises(psycopg.errors.CheckViolation), tx.transaction():
            tx.execute("insert into calendar values ('C', %s)", [zone])
    with pytest.raises(psycopg.errors.InvalidParameterValue), tx.transaction():
        tx.execute("insert into calendar values ('C', 'Asia/Nowhere')")
    tx.execute("insert into calendar values ('C', 'Asia/Kolkata')")


def test_a_refused_start_spends_no_run_id(tx: Conn) -> None:
    run = Run(daily(tx))
    with pytest.raises(psycopg.errors.UniqueViolation), tx.transaction():
        tx.execute("select start_run(%s, 1000)", [run.key[0]])
    with pytest.raises(psycopg.errors.ForeignKeyViolation), tx.transaction():
        tx.execute("select start_run(999, 1000)")
    run.call("stop_run")
    assert val(tx, "select start_run(%s, 1000)", run.key[0]) == run.key[1] + 1


@pytest.mark.parametrize("change", ["initial_cash = 5", "currency = 'EUR'", "feed = 'default'"])
def test_the_terms_of_a_run_are_fixed_once_it_has_state(tx: Conn, change: str) -> None:
    run = Run(daily(tx))
    with refused(tx, "TE004"):
        tx.execute(f"update strategy_run set {change} where (user_id, run_id) = (%s, %s)", run.key)  # type: ignore[arg-type]


def test_a_type_of_the_caller_does_not_open_the_guards(db: Conn, connect: Connect) -> None:
    """pg_temp is searched first for types, on any path: a session's own text must not become the guards'."""
    run = Run(daily(db))
    run.tick(DAYS[0])
    db.execute("select place_order(%s, %s, 'A', 'BUY', 1)", run.key)
    run.call("stop_run")
    for statement in (
        "insert into mtm_ledger values ({}, {}, '2024-02-01Z', 0, 0, 0, 0)",
        "insert into forbidden_symbol values ({}, {}, 'A')",
        "update paper_order set status = 'FILLED' where (user_id, run_id) = ({}, {})",
        "update engine_state set cash = 777 where (user_id, run_id) = ({}, {})",
    ):
        session_ = connect()  # in which no guard has been compiled yet
        session_.execute(
            "create type pg_temp.text as enum ('RUNNING');"
            "create function pg_temp.f(pg_catalog.text) returns pg_temp.text language plpgsql"
            " as $$ begin return 'RUNNING'::pg_temp.text; end $$;"
            "create cast (pg_catalog.text as pg_temp.text) with function pg_temp.f(pg_catalog.text) as assignment"
        )
        with pytest.raises(psycopg.Error) as error:
            session_.execute(sql.SQL(statement).format(*map(sql.Literal, run.key)))
        assert error.value.sqlstate == "TE001"


@pytest.mark.parametrize(("zone", "day"), [("America/Havana", "2023-11-05"), ("Atlantic/Azores", "2023-10-29")])
def test_replay_and_tick_agree_where_a_day_begins_twice(tx: Conn, zone: str, day: str) -> None:
    """Clocks are set back from 1:00 to 0:00 that night: midnight comes twice, and the slot is due from the first."""
    market = Market(tx, zone=zone, symbols=["A"])
    calendar = f"calendar of {zone}"
    tx.execute("insert into calendar values (%s, %s)", [calendar, zone])
    span = (
        f"generate_series(timestamptz '{day} 00:00Z' - interval '1 day', '{day} 00:00Z'::timestamptz + interval '1 day'"
    )
    tx.execute(
        "insert into market_session select %s, (t at time zone 'UTC')::date, t, t + interval '24 hours'"  # type: ignore[arg-type]
        f" from {span}, '1 day') t",
        [calendar],
    )
    tx.execute("update feed set calendar = %s where feed = %s", [calendar, market.feed])
    tx.execute(
        "insert into price_bar (feed, symbol, logical_time, open, high, low, close)"  # type: ignore[arg-type]
        f" select %s, 'A', t, 100, 100, 100, 100 from {span}, '1 hour') t",
        [market.feed],
    )
    times = [t for (t,) in tx.execute("select logical_time from price_bar where feed = %s order by 1", [market.feed])]
    runs = [Run(market), Run(market)]
    for run in runs:
        run.sip("A", 100, "WEEKLY", day)
    for time in times:
        runs[0].tick(time)
    tx.execute("call replay(%s, %s, %s, %s)", [*runs[1].key, times[0], times[-1]])
    assert len({val(tx, "select run_digest(%s, %s)", *run.key) for run in runs}) == 1
    assert val(tx, "select count(*) from paper_trade where (user_id, run_id) = (%s, %s)", *runs[0].key) == 1


def test_a_run_that_cannot_even_be_stopped_does_not_stop_the_others(tx: Conn) -> None:
    market = daily(tx)
    bad, good = Run(market), Run(market)
    for run in (bad, good):
        tx.execute("select place_order(%s, %s, 'A', 'BUY', 1, 'LIMIT', 1)", run.key)
    tx.execute(
        f"create function trip() returns trigger language plpgsql as $$ begin if new.user_id = {bad.key[0]} then"
        " raise exception 'no'; end if; return new; end $$"  # type: ignore[arg-type]
    )
    for table in ("mtm_ledger", "paper_order"):  # the tick fails, and so does the cancel of the open order
        tx.execute(f"create trigger trip before insert or update on {table} for each row execute function trip()")  # type: ignore[arg-type]
    tx.execute("call tick_all(%s, %s)", [at(DAYS[0]), market.feed])
    query = "select status from strategy_run where (user_id, run_id) = (%s, %s)"
    assert (val(tx, query, *bad.key), val(tx, query, *good.key)) == ("RUNNING", "RUNNING")
    count = "select count(*) from mtm_ledger where (user_id, run_id) = (%s, %s)"
    assert (val(tx, count, *bad.key), val(tx, count, *good.key)) == (0, 1)


def test_quiet_bars_are_no_events(tx: Conn) -> None:
    """With nothing due and no open order a replay leaps: its first tick is the only one, whatever follows."""
    market = daily(tx)
    run = Run(market)
    done = "select engine.replay_events(%s, %s, %s, %s, 2, true)"
    assert val(tx, done, *run.key, at(DAYS[0]), at(DAYS[-1])) is True
    assert val(tx, "select count(*) from mtm_ledger where (user_id, run_id) = (%s, %s)", *run.key) == len(DAYS)


def test_a_hidden_run_is_not_a_deleted_one(db: Conn, plain_role: str) -> None:
    """Row-level security hides the run from a role; its rows must stay all the same."""
    run = Run(daily(db))
    run.tick(DAYS[0])
    db.execute(f'grant select, delete on mtm_ledger to "{plain_role}"; grant select on strategy_run to "{plain_role}"')  # type: ignore[arg-type]
    db.execute("alter table mtm_ledger disable row level security")
    db.execute(f'set role "{plain_role}"')  # type: ignore[arg-type]
    with pytest.raises(psycopg.Error) as error:
        db.execute("delete from mtm_ledger")
    assert error.value.sqlstate == "TE004"
    db.execute("reset role; alter table mtm_ledger enable row level security")
