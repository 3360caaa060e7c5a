"""Order types on bars, rule by rule: stops, lives, pairs, brackets, volume, slippage, replaced orders, raw rows.

Random scripts of the same are played against an independent model in test_model.py.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from desk import Conn, D, Market, Run, at, refused, weekday_market

DAY1, DAY2 = "2024-01-02", "2024-01-03"  # sessions (09:30, 16:00]
T0 = f"{DAY1} 10:00"
CLOSE1 = f"{DAY1} 16:00"


def desk_with(tx: Conn, bars: dict[str, Any], held: int = 1000, tick_size: Any = None, **terms: Any) -> Run:
    """A run that holds ACME and stands at T0, mid-session, with ACME at 100; the bars come after."""
    market = weekday_market(tx, DAY1, "2024-01-05")
    market.instrument("ACME", step=1, tick=tick_size)
    market.bars("ACME", {f"{DAY1} 09:45": 100, T0: 100, **bars})
    market.bars("CLOCK", {t: 1 for t in bars})
    run = Run(market, 1_000_000, **terms)
    if held:
        run.place("ACME", "BUY", held)
        run.tick(f"{DAY1} 09:45")
    run.tick(T0)
    return run


def fills_of(run: Run, order_id: int) -> list[tuple[Any, ...]]:
    """(clock of the bar, quantity, price) of an order's trades."""
    return [(t[1].strftime("%Y-%m-%d %H:%M"), t[4], t[5]) for t in run.trades() if t[0] == order_id]


def ended(run: Run, order_id: int) -> tuple[str, str | None]:
    """How an order has ended, and when."""
    closed = run.order(order_id)["closed_time"]
    return run.status(order_id), closed and closed.strftime("%Y-%m-%d %H:%M")


# --- an order that stays open on a bar ---------------------------------------------------------------------------------


def test_an_order_that_stays_open_on_the_last_bar_of_its_time_ends_with_it(tx: Conn) -> None:
    late = f"{DAY2} 11:00"
    run = desk_with(tx, {CLOSE1: (100, 106, 100, 106, 30), late: (100, 110, 90, 100, 30)}, participation=D("0.1"))
    stop_limit = {"order_type": "STOP_LIMIT", "stop_price": 105, "limit_price": 102}
    till = at(CLOSE1)
    run.place("ACME", "BUY", 1, **stop_limit, time_in_force="DAY")  # 2: triggered, and the close is above its limit
    run.place("ACME", "BUY", 1, **stop_limit, time_in_force="GTD", good_till=till)
    run.place("ACME", "SELL", 5, time_in_force="DAY")  # 4: 3 of 5
    run.place("ACME", "BUY", 5, time_in_force="GTD", good_till=till)  # 5: no volume is left
    run.tick(CLOSE1)
    assert [ended(run, n) for n in (2, 3, 4, 5)] == [("EXPIRED", CLOSE1)] * 4
    assert fills_of(run, 4) == [(CLOSE1, 3, 100)]
    assert [run.order(n)["triggered_time"] for n in (2, 3)] == [till, till]
    run.tick(late)
    assert len(run.trades()) == 2
    assert run.rules() == set()


def test_exits_of_an_entry_that_fills_on_the_last_bar_of_its_time_end_with_it(tx: Conn) -> None:
    run = desk_with(tx, {CLOSE1: (100, 101, 99, 100), f"{DAY2} 11:00": (100, 120, 80, 100)})
    terms = {"take_profit": 110, "stop_loss": 90, "time_in_force": "GTD", "good_till": at(CLOSE1)}
    run.place("ACME", "BUY", 1, **terms)  # at the open
    run.place("ACME", "BUY", 1, limit=D("99.5"), **terms)  # within the bar
    run.tick(CLOSE1)
    assert [ended(run, n)[0] for n in (2, 3)] == ["FILLED", "FILLED"]
    assert [ended(run, n) for n in range(4, 8)] == [("EXPIRED", CLOSE1)] * 4
    assert run.rules() == set()


@pytest.mark.parametrize("volume", [None, 0])
def test_a_stop_that_the_matching_alone_has_triggered_waits_for_the_next_bar(tx: Conn, volume: int | None) -> None:
    noon = f"{DAY1} 12:00"
    bars = {noon: (102, 106, 101, 105, volume), f"{DAY1} 13:00": (103, 103, 100, 100)}
    run = desk_with(tx, bars, participation=D(1))
    run.place("ACME", "BUY", 1, order_type="STOP_LIMIT", stop_price=105, limit_price=103)
    if volume == 0:
        run.place("ACME", "BUY", 1, order_type="STOP", stop_price=105)
    for _ in range(2):
        assert run.call("match_orders", logical_time=at(noon)) == 0
    run.tick(noon)
    assert run.orders()[1:] == ["TRIGGERED"] * (1 if volume is None else 2)
    run.tick(f"{DAY1} 13:00")
    assert fills_of(run, 2) == [(f"{DAY1} 13:00", 1, 103)]
    assert run.rules() == set()


# --- slippage and volume -----------------------------------------------------------------------------------------------


def test_the_price_of_an_impact_is_exact_before_it_goes_to_the_grid(tx: Conn) -> None:
    """(20 / 30)² has no last digit, but 90 times 0.1 times it has: 4."""
    run = desk_with(tx, {f"{DAY1} 11:00": (90, 100, 80, 90, 30)}, tick_size=D("0.05"), volume_impact=D("0.1"))
    run.place("ACME", "BUY", 20)
    run.place("ACME", "SELL", 20)
    run.tick(f"{DAY1} 11:00")
    assert [run.order(n)["avg_fill_price"] for n in (2, 3)] == [94, 86]


# --- replaced orders ---------------------------------------------------------------------------------------------------


def test_a_pair_of_buys_holds_back_its_dearer_price_after_a_replacement_too(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": (100, 101, 99, 100)}, held=0)
    run.call("set_risk_limit")
    pair = {"symbol": "ACME", "side": "BUY", "quantity": 100, "limit_price": 90, "stop_price": 110}
    run.conn.execute(
        "select place_oco(%(u)s, %(r)s, %(symbol)s, %(side)s, %(quantity)s, %(limit_price)s, %(stop_price)s)",
        {"u": run.user_id, "r": run.run_id, **pair},
    )

    def free() -> Any:
        """The dearest order that is still accepted, to the dollar."""
        lowest, highest = 0, 1_000_000
        while highest - lowest > 1:
            middle = (lowest + highest) // 2
            order = run.place("ACME", "BUY", 1, limit=middle)
            run.cancel(order["order_id"])
            lowest, highest = (middle, highest) if order["status"] == "PENDING" else (lowest, middle)
        return lowest

    assert free() == 1_000_000 - 11_000
    dearer = run.call("replace_order", order_id=2, stop_price=130)
    assert free() == 1_000_000 - 13_000
    cheaper = run.call("replace_order", order_id=dearer["order_id"], stop_price=95)
    assert free() == 1_000_000 - 9_500
    run.call("replace_order", order_id=1, limit_price=92)
    assert free() == 1_000_000 - 9_500
    run.cancel(cheaper["order_id"])
    assert free() == 999_999


def test_an_exit_that_buys_back_holds_back_no_cash_even_if_replaced(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": (100, 101, 99, 100)}, held=1000)
    run.place("ACME", "SELL", 1000, take_profit=90, stop_loss=110)
    run.tick(f"{DAY1} 11:00")
    replaced = run.call("replace_order", order_id=4, stop_price=105)
    assert [run.order(n)["reserve_price"] for n in (3, 4, 5)] == [None, None, None]
    assert (replaced["parent_order_id"], replaced["oco_id"], replaced["stop_price"]) == (2, 3, 105)
    assert run.orders()[2:] == ["PENDING", "CANCELED", "PENDING"]
    assert run.place("ACME", "BUY", 1, limit=1_000_000)["status"] == "PENDING"  # all the cash there is


def test_a_replaced_entry_still_lies_between_its_exits(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": (100, 101, 99, 100)})
    run.place("ACME", "BUY", 1, limit=95, take_profit=110, stop_loss=90)
    for limit in (90, 89, 110, 111):
        with refused(tx, "TE101"):
            run.call("replace_order", order_id=2, limit_price=limit)
    assert run.call("replace_order", order_id=2, limit_price=109)["status"] == "PENDING"


# --- trailing stops ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "amount"), [("BUY", "999999999999"), ("SELL", "500")])
def test_a_trail_that_leads_to_no_price_makes_no_stop(tx: Conn, side: str, amount: str) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": (100, 101, 99, 100), f"{DAY1} 12:00": (400, 700, 400, 700)})
    order = run.place("ACME", side, 1, order_type="TRAILING_STOP", trail_amount=D(amount))
    assert (order["status"], order["stop_price"]) == ("PENDING", None)
    run.tick(f"{DAY1} 11:00")
    assert (run.status(2), run.order(2)["stop_price"]) == ("PENDING", None)
    run.tick(f"{DAY1} 12:00")
    assert (run.status(2), run.order(2)["stop_price"]) == ("PENDING", 200 if side == "SELL" else None)


def minutes(count: int, price: int = 1000) -> dict[datetime, tuple[int, int, int, int]]:
    """Bars of a price that goes up and down by 50 every 200 minutes, and up by 1 in each."""
    bars = {}
    for n in range(count):
        p = price + n // 200 + abs(n % 200 - 100) // 2
        bars[at("2024-01-01 00:00") + timedelta(minutes=n + 1)] = (p, p + 2, p - 2, p)
    return bars


@pytest.mark.parametrize("ends", [300, 1])
def test_many_trailing_stops_that_end_together_cost_one_look_each(tx: Conn, ends: int) -> None:
    """Not one look at all of them each: that took a minute here."""
    market, bars = Market(tx), minutes(400)
    market.bars("ACME", bars)
    times = list(bars)
    run = Run(market, 10**7)
    run.place("ACME", "BUY", 1000)
    run.tick(times[0])
    for n in range(400):
        terms = {"order_type": "TRAILING_STOP", "trail_amount": 200 + n, "time_in_force": "GTD"}
        run.place("ACME", "SELL", 1, **terms, good_till=times[ends])
    start = time.monotonic()
    run.tick(times[-1])
    assert time.monotonic() - start < 15
    best = max(bar[1] for bar in list(bars.values())[1 : ends + 1])
    first = bars[times[0]][3]
    for n in (0, 200, 399):
        assert ended(run, n + 2) == ("EXPIRED", times[ends].strftime("%Y-%m-%d %H:%M"))
        assert run.order(n + 2)["stop_price"] == max(first, best) - 200 - n
    assert run.rules() == set()
