"""Splits and dividends against steps called alone, repeated ticks, and the settings of a session."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from desk import Conn, D, Market, Run, day, val

SPLIT = "insert into corporate_action values (%s, %s, 'SPLIT', %s, %s)"
DIVIDEND = (
    "insert into corporate_action (symbol, ex_date, action_type, amount, pay_date) values (%s, %s, 'DIVIDEND', %s, %s)"
)


def market(conn: Conn, *prices: Any, step: str = "1", symbol: str = "A") -> Market:
    """Bars on 2024-01-02 16:00 and the days after."""
    found = Market(conn)
    found.instrument(symbol, step)
    found.bars(symbol, {f"2024-01-{n:02} 16:00": price for n, price in enumerate(prices, 2) if price is not None})
    return found


def at(n: int) -> str:
    return f"2024-01-{n:02} 16:00"


def step(run: Run, verb: str, n: int) -> None:
    run.conn.execute(f"select {verb}(%s, %s, %s)", [*run.key, run.market.at(at(n))])


def holding(conn: Conn, *prices: Any, quantity: int = 10, **options: Any) -> Run:
    """A run that has bought on the 3rd."""
    run = Run(market(conn, *prices), **options)
    run.tick(at(2))
    run.place("A", "BUY", quantity)
    run.tick(at(3))
    return run


def digest(run: Run) -> str:
    return str(val(run.conn, "select run_digest(%s, %s)", *run.key))


def fork(run: Run) -> Run:
    found = Run.__new__(Run)
    found.market, found.conn = run.market, run.conn
    found.user_id = val(run.conn, "select create_user('f')")
    found.run_id = val(run.conn, "select fork_run(%s, %s, null, %s)", *run.key, found.user_id)
    return found


def test_a_reverse_split_that_leaves_nothing_of_a_trailing_stop(tx: Conn) -> None:
    run = holding(tx, 100, 101, 102, 10200, 10300)
    run.place("A", "SELL", 10, order_type="TRAILING_STOP", trail_percent=10)
    run.tick(at(4))
    tx.execute(SPLIT, ["A", day("2024-01-05"), 1, 100])
    run.tick(at(5))  # 23514 paper_order_only_a_waiting_trailing_stop_follows, at every call
    assert run.status(2) == "CANCELED"


@pytest.mark.parametrize("steps", [["try_execute_sip"], ["match_orders", "try_execute_sip"]])
def test_a_split_does_not_touch_what_a_step_bought_after_it(tx: Conn, steps: list[str]) -> None:
    run = Run(market(tx, 100, 100, 50, 50))
    tx.execute(SPLIT, ["A", day("2024-01-04"), 2, 1])
    run.tick(at(2))
    run.tick(at(3))
    run.sip("A", 1000, "MONTHLY", day("2024-01-04"))
    for verb in steps:
        step(run, verb, 4)
    run.tick(at(4))
    assert run.held("A") == 20  # 40: a thousand dollars out of nothing
    assert run.table("equity", "paper_equity_curve", "logical_time")[-1] == (D(100_000),)


def test_who_buys_on_the_ex_date_by_a_step_is_paid_nothing(tx: Conn) -> None:
    run = Run(market(tx, 100, 100, 50, 50))
    tx.execute(DIVIDEND, ["A", day("2024-01-04"), 1, day("2024-01-05")])
    run.tick(at(2))
    run.sip("A", 1000, "MONTHLY", day("2024-01-04"))
    step(run, "try_execute_sip", 4)
    run.tick(at(4))
    assert run.count("dividend_due") == 0


def test_a_tick_repeated_after_an_error_splits_orders_too(db: Conn, connect: Any) -> None:
    run = holding(db, 100, 101, 102, 51, 52)
    run.place("A", "SELL", 10, limit=200)
    run.tick(at(4))
    db.execute(SPLIT, ["A", day("2024-01-05"), 2, 1])
    other = connect(autocommit=False)
    other.execute("select from paper_order where order_id = 2 for update")
    db.execute("set lock_timeout = '200ms'")
    with db.transaction():
        with pytest.raises(psycopg.errors.LockNotAvailable), db.transaction():
            run.tick(at(5))
        other.rollback()
        run.tick(at(5))
    assert run.held("A") == 20
    assert run.order(2)["quantity"] == 20  # 10: the planner folds "not split_orders(…) and v_old = 0" away


def test_tick_all_does_not_go_on_with_half_of_a_split(tx: Conn) -> None:
    run = holding(tx, 2_000_000, 2_000_000, 2_000_000, 2_000_000, quantity=1, cash=10**8)
    run.place("A", "SELL", 1, limit=3_000_000)
    run.tick(at(4))
    tx.execute(SPLIT, ["A", day("2024-01-05"), 1, 1_000_000])  # the limit no longer fits into a price
    tx.execute("call tick_all(%s, %s)", [run.market.at(at(5)), run.market.feed])
    status = val(tx, "select status from strategy_run where user_id = %s", run.user_id)
    assert status == "ERROR" or run.status(2) == "CANCELED"  # RUNNING, and the order as it was


@pytest.mark.parametrize("style", ["German", "SQL, DMY"])
def test_the_date_style_of_a_session_changes_no_digit(tx: Conn, style: str) -> None:
    Market(tx).instrument("A", "1")
    tx.execute(SPLIT, ["A", day("2024-01-04"), 2, 1])
    tx.execute(DIVIDEND, ["A", day("2024-01-04"), 1, day("2024-01-06")])
    runs = []
    for found in ("ISO, MDY", style):
        run = holding(tx, 100, 100, 50, 50)
        tx.execute("select set_config('DateStyle', %s, true)", [found])
        tx.execute("select from match_orders(%s, %s, %s)", [*run.key, run.market.at(at(4))])
        tx.execute("call tick(%s, %s, %s)", [*run.key, run.market.at(at(4))])
        tx.execute("set local DateStyle = 'ISO, MDY'")
        runs.append(run)
    assert digest(runs[0]) == digest(runs[1])
    assert runs[1].rules() == set()
    assert fork(runs[1]).count("dividend_due") == 1


def test_a_step_and_a_tick_in_different_date_styles_split_once(tx: Conn) -> None:
    run = holding(tx, 100, 100, 50, 50)
    tx.execute(SPLIT, ["A", day("2024-01-04"), 2, 1])
    tx.execute("set local DateStyle = 'German'")
    tx.execute("select from match_orders(%s, %s, %s)", [*run.key, run.market.at(at(4))])
    tx.execute("set local DateStyle = 'ISO, MDY'")
    run.tick(at(4))
    assert run.held("A") == 20  # 40


@pytest.mark.parametrize("verb", ["log_mtm", "record_equity"])
@pytest.mark.parametrize("closed", [4, 5])
def test_a_mark_alone_loses_no_split_and_no_dividend(tx: Conn, verb: str, closed: int) -> None:
    run = holding(tx, 100, 100, 50, 50, 50)
    tx.execute(SPLIT, ["A", day("2024-01-04"), 2, 1])
    tx.execute(DIVIDEND, ["A", day("2024-01-04"), 1, day("2024-01-06")])
    step(run, verb, closed)
    run.tick(at(closed))
    run.tick(at(6))
    assert run.held("A") == 20  # 10, for good
    assert run.count("dividend_due") == 1


def test_a_mark_alone_leaves_earlier_bars_to_orders(tx: Conn) -> None:
    run = holding(tx, 100, 100, 50, 60, 60)
    run.place("A", "BUY", 3, limit=55)
    step(run, "log_mtm", 6)  # closes the 6th; the bar of the 4th would fill the order
    run.tick(at(6))
    assert run.status(2) == "FILLED"


def test_nothing_is_sold_before_it_was_bought(tx: Conn) -> None:
    run = Run(market(tx, 100, 100, 50, 50))
    run.tick(at(2))
    run.sip("A", 1000, "MONTHLY", day("2024-01-04"))
    step(run, "try_execute_sip", 4)  # buys 20 at 50 on the 4th
    run.place("A", "SELL", 20)
    run.tick(at(4))  # sells them at 100 on the 3rd
    assert run.rules() == set()
    assert run.table("equity", "paper_equity_curve", "logical_time")[-1] == (D(100_000),)


def test_an_action_of_what_is_not_held_is_no_event_in_tick_all_nor_in_tick(tx: Conn) -> None:
    runs = []
    for way in ("tick", "replay", "tick_all"):
        run = Run(market(tx, 100, 100, 100), mark_policy="EVENTS")
        if way == "tick":
            tx.execute(DIVIDEND, ["A", day("2024-01-03"), 1, day("2024-01-03")])
        run.sip("A", 100, "DAILY", day("2030-01-01"))
        if way == "replay":
            tx.execute("call replay(%s, %s, '2024-01-01', '2024-01-05')", run.key)
        for n in (2, 3, 4):
            if way == "tick":
                run.tick(at(n))
            elif way == "tick_all":
                tx.execute("call tick_all(%s, %s)", [run.market.at(at(n)), run.market.feed])
        runs.append(run)
    assert len({digest(run) for run in runs}) == 1


def test_the_time_zone_of_a_session_does_not_make_a_price_stale(tx: Conn) -> None:
    found = []
    for zone in ("UTC", "America/New_York"):
        tx.execute("select set_config('TimeZone', %s, true)", [zone])
        desk = Market(tx)
        desk.instrument("A", "1")
        desk.bars("A", {"2024-03-09 16:30": 100})
        desk.bars("B", {"2024-03-10 16:00": 100})
        run = Run(desk, max_price_age="1 day")
        run.tick("2024-03-09 16:30")
        run.tick("2024-03-10 16:00")
        run.place("A", "BUY", 1)
        found.append(run.status(1))
    assert found[0] == found[1]


def test_fractions_of_two_splits_on_one_bar_are_paid_what_they_are_worth(tx: Conn) -> None:
    run = holding(tx, 1, 1, None, None, None, None, 100, quantity=155, cash=155)
    for ex_date in ("2024-01-05", "2024-01-06"):
        tx.execute(SPLIT, ["A", day(ex_date), 1, 10])
    run.tick(at(8))
    assert run.table("equity", "paper_equity_curve", "logical_time")[-1] == (D(155),)  # 110


def test_a_trailing_stop_at_a_time_that_a_mark_has_closed(tx: Conn) -> None:
    run = holding(tx, 100, 100, (100, 130, 99, 125), (125, 125, 110, 112), 111)
    run.place("A", "SELL", 10, order_type="TRAILING_STOP", trail_amount=10)
    step(run, "log_mtm", 4)
    run.tick(at(4))
    twin = fork(run)
    assert digest(twin) == digest(run)
    for n in (5, 6):
        run.tick(at(n))
        twin.tick(at(n))
    assert run.fills() == twin.fills()  # 112 a bar later, and 120
