"""Orders: acceptance, bars, sessions, rejections, client_order_id, cancel."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg
import pytest
from desk import Conn, D, Market, Run, at, call, ny, refused, rows, val, weekday_market

T0 = "2024-01-02 10:00"


class Fill(NamedTuple):
    """An order accepted at T0, mid-session, close 100; the bars after it; where and at what price a BUY fills."""

    name: str
    limit: int | None
    bars: dict[str, tuple[int, int, int, int]]
    at: str | None
    price: int | None


DAY1, DAY2 = "2024-01-02", "2024-01-03"  # sessions (09:30, 16:00]
FILLS = [
    Fill("market: open of the first bar", None, {f"{DAY1} 11:00": (102, 110, 95, 99)}, f"{DAY1} 11:00", 102),
    Fill(
        "market: bars outside the session do not fill",
        None,
        {
            f"{DAY1} 16:01": (90, 90, 90, 90),
            f"{DAY2} 09:30": (91, 91, 91, 91),
            f"{DAY2} 09:31": (105, 106, 104, 105),
        },
        f"{DAY2} 09:31",
        105,
    ),
    Fill(
        "market: the bar at the close is inside",
        None,
        {f"{DAY1} 16:00": (103, 104, 99, 100)},
        f"{DAY1} 16:00",
        103,
    ),
    Fill("limit: first bar opens at the limit", 95, {f"{DAY1} 11:00": (95, 99, 94, 98)}, f"{DAY1} 11:00", 95),
    Fill("limit: first bar opens through it", 95, {f"{DAY1} 11:00": (93, 99, 92, 98)}, f"{DAY1} 11:00", 93),
    Fill("limit: first bar trades down to it", 95, {f"{DAY1} 11:00": (99, 100, 95, 98)}, f"{DAY1} 11:00", 95),
    Fill("limit: not reached", 95, {f"{DAY1} 11:00": (99, 100, 96, 98)}, None, None),
    Fill(
        "limit above the market: first bar",
        105,
        {f"{DAY1} 11:00": (101, 102, 100, 101)},
        f"{DAY1} 11:00",
        101,
    ),
    Fill(
        "limit: mid-session it rests, so a lower open fills at the limit",
        95,
        {f"{DAY1} 11:00": (99, 100, 96, 98), f"{DAY1} 12:00": (93, 97, 92, 96)},
        f"{DAY1} 12:00",
        95,
    ),
    Fill(
        "limit: mid-session, bar wholly beyond the limit fills at its nearer end",
        95,
        {f"{DAY1} 11:00": (99, 100, 96, 98), f"{DAY1} 12:00": (91, 93, 90, 92)},
        f"{DAY1} 12:00",
        93,
    ),
    Fill(
        "limit: first bar of the next session gaps through it",
        95,
        {f"{DAY1} 11:00": (99, 100, 96, 98), f"{DAY2} 11:00": (91, 97, 90, 92)},
        f"{DAY2} 11:00",
        91,
    ),
    Fill(
        "limit: second bar of the next session",
        95,
        {
            f"{DAY1} 11:00": (99, 99, 96, 98),
            f"{DAY2} 10:00": (99, 99, 96, 98),
            f"{DAY2} 11:00": (91, 97, 90, 92),
        },
        f"{DAY2} 11:00",
        95,
    ),
    Fill(
        "limit: a bar while closed is not seen",
        95,
        {
            f"{DAY1} 17:00": (90, 90, 90, 90),
            f"{DAY2} 09:30": (90, 90, 90, 90),
            f"{DAY2} 12:00": (94, 99, 94, 98),
        },
        f"{DAY2} 12:00",
        94,
    ),
    Fill("limit: touches at the close bar", 95, {f"{DAY1} 16:00": (99, 99, 95, 99)}, f"{DAY1} 16:00", 95),
    Fill("limit: a last-price quote", 95, {f"{DAY1} 11:00": (94, 94, 94, 94)}, f"{DAY1} 11:00", 94),
    Fill(
        "limit: resting, a last-price quote beyond it",
        95,
        {f"{DAY1} 11:00": (96, 96, 96, 96), f"{DAY1} 12:00": (94, 94, 94, 94)},
        f"{DAY1} 12:00",
        94,
    ),
]


def mirror(bar: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    o, h, lo, c = (200 - x for x in bar)
    return o, lo, h, c


@pytest.mark.parametrize("case", FILLS, ids=lambda c: c.name)
@pytest.mark.parametrize("side", ["BUY", "SELL"])
def test_fill(tx: Conn, case: Fill, side: str) -> None:
    market = weekday_market(tx, DAY1, "2024-01-05")
    bars = {t: bar if side == "BUY" else mirror(bar) for t, bar in case.bars.items()}
    market.bars("ACME", {T0: 100, **bars})
    market.bars("CLOCK", dict.fromkeys(bars, 1))
    price = case.price if side == "BUY" or case.price is None else 200 - case.price
    limit = case.limit if side == "BUY" or case.limit is None else 200 - case.limit

    for way in ("every bar", "gap"):
        run = Run(market)
        run.place("ACME", "BUY", 10)
        run.tick(T0)
        order = run.place("ACME", side, 7, limit)
        assert (order["status"], order["order_id"], order["logical_time"]) == ("PENDING", 2, market.at(T0))
        for t in bars if way == "every bar" else list(bars)[-1:]:
            run.tick(t)
        if case.at is None:
            assert run.status(2) == "PENDING"
            assert len(run.trades()) == 1
        else:
            assert run.trades()[1:] == [(2, market.at(case.at), "ACME", side, D(7), D(price or 0))], way
            order = run.order(2)
            assert (
                order["status"],
                order["filled_quantity"],
                order["avg_fill_price"],
                order["closed_time"],
            ) == (
                *("FILLED", 7, price),
                market.at(case.at),
            )
            assert run.cash == D(99_000) + (-7 if side == "BUY" else 7) * D(price or 0)
        assert run.rules() == set()


def test_an_order_from_before_the_first_tick_matches_that_tick_only(tx: Conn) -> None:
    market = Market(tx)
    market.bars("ACME", {"2024-01-01 12:00": 50, "2024-01-02 12:00": (100, 110, 80, 105), "2024-01-03 12:00": 70})
    run = Run(market)
    assert run.place("ACME", "BUY", 1)["logical_time"] is None
    run.place("ACME", "BUY", 1, limit=120)
    run.place("ACME", "BUY", 1, limit=85)
    run.place("ACME", "BUY", 1, limit=60)
    run.tick("2024-01-02 12:00")
    assert run.fills() == [(1, 100), (2, 100), (3, 85)]  # the first tick's bar is the first they see
    assert run.order(1)["logical_time"] is None
    run.tick("2024-01-03 12:00")
    assert run.orders()[3] == "PENDING"
    assert run.rules() == set()


def test_an_order_never_matches_the_bar_of_its_acceptance(tx: Conn) -> None:
    market = Market(tx)
    market.bars("ACME", {"2024-01-01 12:00": 100, "2024-01-01 13:00": 200})
    run = Run(market)
    run.tick("2024-01-01 12:00")
    run.place("ACME", "BUY", 1)
    run.tick("2024-01-01 12:00")
    assert run.call("match_orders", logical_time=at("2024-01-01 12:00")) == 0
    assert run.orders() == ["PENDING"]
    run.tick("2024-01-01 13:00")
    assert run.fills() == [(1, 200)]


def test_in_one_bar_sells_come_before_buys_and_each_side_by_order_id(tx: Conn) -> None:
    market = Market(tx)
    for symbol in "ABCD":
        market.bars(symbol, {"2024-01-01 12:00": 100, "2024-01-01 13:00": 100})
    run = Run(market, 500)
    for symbol in "AB":
        run.place(symbol, "BUY", 2)
    run.tick("2024-01-01 12:00")
    run.place("D", "BUY", 1)  # 3
    run.place("B", "SELL", 1)  # 4
    run.place("C", "BUY", 1, limit=D("0.01"))  # 5: not reached
    run.place("A", "SELL", 2)  # 6
    run.place("A", "BUY", 1, limit=100, client_order_id="dear")  # 7: no cash at acceptance, sells have not happened
    assert run.orders()[6] == "REJECTED CASH_INSUFFICIENT"
    run.tick("2024-01-01 13:00")
    assert [(t[0], t[2], t[3]) for t in run.trades()[2:]] == [
        (4, "B", "SELL"),
        (6, "A", "SELL"),
        (3, "D", "BUY"),
    ]
    assert run.rules() == set()


def test_a_sell_pays_for_a_buy_of_the_same_bar(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {"2024-01-01 12:00": 100, "2024-01-01 13:00": 300})
    market.bars("B", {"2024-01-01 12:00": 10, "2024-01-01 13:00": 100})
    run = Run(market, 300)
    run.place("A", "BUY", 2)
    run.tick("2024-01-01 12:00")
    run.place("B", "BUY", 6)  # 60 reserved of 100, 600 needed
    run.place("A", "SELL", 2)
    run.tick("2024-01-01 13:00")
    assert run.orders() == ["FILLED", "FILLED", "FILLED"]
    assert run.cash == 100
    assert run.rules() == set()


def test_orders_of_runs_do_not_touch(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {"2024-01-01 12:00": 100, "2024-01-01 13:00": 110})
    one, two = Run(market, 1000), Run(market, 2000)
    assert one.place("A", "BUY", 1)["order_id"] == two.place("A", "BUY", 5)["order_id"] == 1
    one.tick("2024-01-01 12:00")
    assert (one.orders(), two.orders()) == (["FILLED"], ["PENDING"])
    two.tick("2024-01-01 13:00")
    assert (one.fills(), two.fills()) == ([(1, 100)], [(1, 110)])
    assert (one.cash, two.cash) == (900, 1450)


# --- time in force -----------------------------------------------------------------------------------------------

RESTING = {"symbol": "ACME", "side": "BUY", "quantity": 1, "limit": 50, "time_in_force": "DAY"}


def day_market(tx: Conn) -> Market:
    """Hourly bars at 100 on the hour, 10:00 to 16:00, of Tuesday 2 to Friday 5 January; the 4th is a holiday."""
    market = weekday_market(tx, "2024-01-02", "2024-01-08", skip=["2024-01-04"])
    hours = [f"2024-01-0{d} {h}:00" for d in (2, 3, 5, 8) for h in (8, *range(10, 17), 20)]
    market.bars("ACME", {h.replace(" 8:", " 08:"): 100 for h in hours})
    return market


class Day(NamedTuple):
    accepted: str | None  # the tick before the order, None = no tick yet
    then: list[str]
    status: str
    closed: str | None


DAYS = {
    "mid-session, open until its close": Day("2024-01-02 12:00", ["2024-01-02 15:00"], "PENDING", None),
    "mid-session, expires at its close": Day("2024-01-02 12:00", ["2024-01-02 16:00"], "EXPIRED", "2024-01-02 16:00"),
    "accepted in the evening": Day("2024-01-02 20:00", ["2024-01-03 15:00"], "PENDING", None),
    "accepted in the evening, to the end": Day("2024-01-02 20:00", ["2024-01-05 10:00"], "EXPIRED", "2024-01-03 16:00"),
    "accepted at the close belongs to the next session": Day("2024-01-02 16:00", ["2024-01-03 15:00"], "PENDING", None),
    "accepted at the close, to the end": Day("2024-01-02 16:00", ["2024-01-03 16:00"], "EXPIRED", "2024-01-03 16:00"),
    "accepted before the open": Day("2024-01-03 08:00", ["2024-01-03 15:00"], "PENDING", None),
    "over a holiday": Day("2024-01-03 20:00", ["2024-01-05 15:00"], "PENDING", None),
    "over a holiday, to the end": Day("2024-01-03 20:00", ["2024-01-05 16:00"], "EXPIRED", "2024-01-05 16:00"),
    "before the first tick, in a session": Day(None, ["2024-01-02 12:00", "2024-01-02 15:00"], "PENDING", None),
    "before the first tick, to the end": Day(
        None, ["2024-01-02 12:00", "2024-01-03 10:00"], "EXPIRED", "2024-01-02 16:00"
    ),
    "before a first tick at the close": Day(None, ["2024-01-02 16:00"], "EXPIRED", "2024-01-02 16:00"),
    "before a first tick in the evening": Day(None, ["2024-01-02 20:00", "2024-01-03 15:00"], "PENDING", None),
    "a week's gap": Day("2024-01-02 12:00", ["2024-01-08 16:00"], "EXPIRED", "2024-01-02 16:00"),
}


@pytest.mark.parametrize("case", DAYS.values(), ids=DAYS.keys())
def test_day_order(tx: Conn, case: Day) -> None:
    market = day_market(tx)
    run = Run(market)
    if case.accepted:
        run.tick(case.accepted)
    run.place(**RESTING)
    run.place(**{**RESTING, "time_in_force": "GTC"})
    for t in case.then:
        run.tick(t)
    order = run.order(1)
    assert (order["status"], order["closed_time"]) == (case.status, case.closed and market.at(case.closed))
    assert run.status(2) == "PENDING"
    assert run.rules() == set()


def test_a_day_order_matches_the_close_bar_before_it_expires(tx: Conn) -> None:
    market = weekday_market(tx, "2024-01-02", "2024-01-03")
    market.bars("ACME", {"2024-01-02 12:00": 100, "2024-01-02 16:00": (99, 99, 50, 60), "2024-01-03 12:00": 40})
    for ticks in (["2024-01-02 16:00", "2024-01-03 12:00"], ["2024-01-03 12:00"]):
        run = Run(market)
        run.tick("2024-01-02 12:00")
        run.place(**RESTING)
        run.place(**{**RESTING, "limit": 49})
        for t in ticks:
            run.tick(t)
        assert run.orders() == ["FILLED", "EXPIRED"]
        assert run.fills() == [(1, 50)]
        assert run.order(2)["closed_time"] == market.at("2024-01-02 16:00")


def test_a_close_without_a_bar_expires_at_the_next_bar_of_the_feed_before_matching(tx: Conn) -> None:
    market = weekday_market(tx, "2024-01-02", "2024-01-03")
    market.bars("ACME", {"2024-01-02 12:00": 100, "2024-01-03 12:00": 40})
    market.bars("OTHER", {"2024-01-02 18:00": 1})
    run = Run(market)
    run.tick("2024-01-02 12:00")
    run.place(**RESTING)
    run.tick("2024-01-03 12:00")
    assert run.orders() == ["EXPIRED"]
    assert run.order(1)["closed_time"] == market.at("2024-01-02 18:00")


def test_a_day_order_under_always_lasts_to_midnight_utc(tx: Conn) -> None:
    market = Market(tx)
    market.bars("ACME", {f"2024-01-0{d} {h}": 100 for d in (1, 2, 3) for h in ("00:00", "12:00", "23:00")})
    run = Run(market)
    run.tick("2024-01-01 12:00")
    run.place(**RESTING)
    run.tick("2024-01-01 23:00")
    assert run.status(1) == "PENDING"
    run.tick("2024-01-02 00:00")
    assert (run.status(1), run.order(1)["closed_time"]) == ("EXPIRED", at("2024-01-02 00:00"))
    run.place(**RESTING)  # accepted at midnight: the new day's
    run.tick("2024-01-02 23:00")
    assert run.status(2) == "PENDING"
    run.tick("2024-01-03 00:00")
    assert run.status(2) == "EXPIRED"


@pytest.mark.parametrize(("friday", "monday"), [("2024-03-08", "2024-03-11"), ("2024-11-01", "2024-11-04")])
def test_day_orders_follow_the_clock_of_the_market_over_a_time_change(tx: Conn, friday: str, monday: str) -> None:
    market = Market(tx, [(d, "09:30", "16:00") for d in (friday, monday, "2025-01-02")], "America/New_York")
    market.bars("ACME", {f"{d} {h}": 100 for d in (friday, monday) for h in ("15:00", "15:59", "16:00", "17:00")})
    run = Run(market)
    run.tick(f"{friday} 15:00")
    run.place(**RESTING)
    run.tick(f"{friday} 15:59")
    assert run.status(1) == "PENDING"
    run.tick(f"{friday} 16:00")
    assert (run.status(1), run.order(1)["closed_time"]) == ("EXPIRED", ny(f"{friday} 16:00"))
    run.place(**RESTING)
    run.place("ACME", "BUY", 1)
    run.tick(f"{friday} 17:00")  # closed: nothing fills
    assert run.orders() == ["EXPIRED", "PENDING", "PENDING"]
    run.tick(f"{monday} 15:59")
    assert run.orders() == ["EXPIRED", "PENDING", "FILLED"]
    assert run.trades()[0][1] == ny(f"{monday} 15:00")
    run.tick(f"{monday} 17:00")
    assert run.order(2)["closed_time"] == ny(f"{monday} 16:00")


def test_the_sessions_own_bounds_decide_not_the_time_zone_of_the_client(tx: Conn) -> None:
    market = day_market(tx)
    for zone in ("UTC", "Asia/Tokyo", "America/Los_Angeles"):
        tx.execute(f"set local time zone '{zone}'")
        run = Run(market)
        run.tick("2024-01-02 12:00")
        run.place(**RESTING)
        run.tick("2024-01-02 15:00")
        assert run.status(1) == "PENDING"
        run.tick("2024-01-02 16:00")
        assert run.status(1) == "EXPIRED"


# --- money held back ---------------------------------------------------------------------------------------------


def test_open_buys_reserve_cash(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {"2024-01-01 12:00": 100, "2024-01-01 13:00": 100})
    run = Run(market, 1000)
    run.place("A", "BUY", 4)  # never ticked: no price, nothing reserved
    run.place("A", "BUY", 1, limit=1000)
    run.place("A", "BUY", 1, limit=D("0.01"))
    assert run.orders() == ["PENDING", "PENDING", "REJECTED CASH_INSUFFICIENT"]
    assert [run.order(i)["reserve_price"] for i in (1, 2)] == [None, 1000]
    run.cancel(2)
    run.tick("2024-01-01 12:00")
    assert run.orders()[0] == "FILLED"

    run.place("A", "BUY", 3)  # 4: 300 at the last close
    run.place("A", "BUY", 3, limit=100)  # 5: 300
    run.place("A", "BUY", D("0.000001"), limit=1)  # 6: rounds to nothing
    run.place("A", "BUY", 1, limit=D("0.01"))  # 7
    assert run.orders()[3:] == ["PENDING", "PENDING", "PENDING", "REJECTED CASH_INSUFFICIENT"]
    run.place("A", "SELL", 1)  # 8: brings no cash before it fills
    run.place("A", "BUY", 1, limit=1)  # 9
    run.cancel(5)
    run.place("A", "BUY", 1, limit=300)  # 10: exactly what the cancel freed
    run.place("A", "BUY", 1, limit=D("0.01"))  # 11
    assert run.orders()[7:] == [
        "PENDING",
        "REJECTED CASH_INSUFFICIENT",
        "PENDING",
        "REJECTED CASH_INSUFFICIENT",
    ]
    run.tick("2024-01-01 13:00")
    assert run.orders()[3::6] == ["FILLED", "FILLED"]
    assert run.cash == 1000 - 400 - 300 + 100 - 100
    assert run.rules() == set()


def test_reservations_round_to_the_minor_unit(tx: Conn) -> None:
    market = Market(tx, symbols=["A"])
    # cash that holds eight rounded reservations and not a ninth
    for currency, cash, price in [
        ("USD", "0.96", "0.124"),
        ("USD", "1.04", "0.125"),
        ("JPY", "8", "1.4"),
        ("KWD", "1", "0.1254"),
    ]:
        run = Run(market, D(cash), currency=currency)
        for _ in range(9):
            run.place("A", "BUY", 1, limit=D(price))
        assert run.orders() == ["PENDING"] * 8 + ["REJECTED CASH_INSUFFICIENT"], currency


def test_a_buy_is_checked_again_at_its_fill(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {"2024-01-01 12:00": 100, "2024-01-01 13:00": 120})
    market.bars("B", {"2024-01-01 12:00": 100, "2024-01-01 13:00": 100})
    run = Run(market, 1000)
    run.place("A", "BUY", 11)  # no price known yet
    run.tick("2024-01-01 12:00")
    assert (run.status(1), run.order(1)["closed_time"]) == (
        "REJECTED CASH_INSUFFICIENT",
        at("2024-01-01 12:00"),
    )
    run.place("A", "BUY", 9)
    run.place("B", "BUY", 1)
    run.tick("2024-01-01 13:00")  # 1080 for A; B alone fits
    assert run.orders()[1:] == ["REJECTED CASH_INSUFFICIENT", "FILLED"]
    order = run.order(2)
    assert (order["filled_quantity"], order["avg_fill_price"], order["closed_time"]) == (
        0,
        None,
        at("2024-01-01 13:00"),
    )
    assert run.fills() == [(3, 100)]
    assert (run.cash, run.held("A")) == (900, 0)
    assert run.rules() == set()


def test_a_fill_does_not_spend_what_other_open_buys_reserve(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {"2024-01-01 12:00": 100, "2024-01-01 13:00": 110})
    run = Run(market, 1000)
    run.tick("2024-01-01 12:00")
    run.place("A", "BUY", 5)
    run.place("A", "BUY", 5, limit=100)
    run.tick("2024-01-01 13:00")
    assert run.orders() == ["REJECTED CASH_INSUFFICIENT", "PENDING"]


# --- rejections ----------------------------------------------------------------------------------------------------

ACCEPTANCE: dict[str, list[tuple[Any, ...]]] = {
    # symbol, side, quantity, limit
    "QUANTITY_NOT_POSITIVE": [
        *(("A", side, q, limit) for side in ("BUY", "SELL") for q in (0, -1, "-0.5", -(10**11)) for limit in (None, 1)),
        *(("A", "BUY", q, None) for q in ("1e-30", "0.000000004", "-1e-30", "0.0")),
        ("NOWHERE", "BUY", 0, None),
    ],
    "SYMBOL_UNKNOWN": [(s, side, 1, None) for s in ("", "NOWHERE", "a", "A ", "x" * 64) for side in ("BUY", "SELL")],
    "QUANTITY_OFF_STEP": [
        *(("A", "BUY", q, None) for q in ("0.0000001", "1.0000005", "1.00000000000000000001")),
        *(("LOT", side, q, None) for side in ("BUY", "SELL") for q in (1, "2.4", "2.50000001", 6)),
        ("LOT", "BUY", 1, "1.01"),  # off the step and off the tick
        ("BAD", "BUY", "0.5", None),
    ],
    "PRICE_OFF_TICK": [("LOT", side, "2.5", p) for side in ("BUY", "SELL") for p in ("1.01", "0.04", "99.99999999")],
    "SYMBOL_FORBIDDEN": [("BAD", "BUY", 1, None), ("BAD", "SELL", 1, None), ("BAD", "BUY", 10**6, 10**6)],
    "ORDER_VALUE_EXCEEDED": [("A", "BUY", 51, None), ("A", "BUY", 1, "5000.01"), ("A", "BUY", 10**6, 10**6)],
    "POSITION_LIMIT_EXCEEDED": [("A", "BUY", 31, None), ("A", "BUY", "30.000001", 100)],
    "POSITION_INSUFFICIENT": [
        ("A", "SELL", 11, None),
        ("LOT", "SELL", "2.5", None),
        ("A", "SELL", "10.000001", 500),
    ],
}


@pytest.fixture
def desk(tx: Conn) -> Run:
    """10 A at 100, cash 4000, at most 40 A and 5000 an order. LOT trades in 2.5 at 0.05, BAD in 1 and is forbidden."""
    market = Market(tx)
    market.instrument("LOT", "2.5", "0.05")
    market.instrument("BAD", 1)
    for symbol in ("A", "LOT", "BAD"):
        market.bars(symbol, {"2024-01-01 12:00": 100, "2024-01-01 13:00": 100, "2024-01-01 14:00": 100})
    run = Run(market, 5000)
    run.place("A", "BUY", 10)
    run.tick("2024-01-01 12:00")
    run.call("set_risk_limit", max_position=40, max_order_value=5000)
    run.call("forbid_symbol", symbol="BAD")
    return run


@pytest.mark.parametrize("reason", ACCEPTANCE)
def test_rejected_at_acceptance(desk: Run, reason: str) -> None:
    for symbol, side, quantity, limit in ACCEPTANCE[reason]:
        order = desk.place(symbol, side, D(quantity), limit and D(limit))
        assert (order["status"], order["reject_reason"]) == ("REJECTED", reason), (
            symbol,
            side,
            quantity,
            limit,
        )
        assert (order["symbol"], order["quantity"]) == (symbol, round(D(quantity), 8))
        assert (order["filled_quantity"], order["avg_fill_price"]) == (0, None)
        assert order["closed_time"] == order["logical_time"] == at("2024-01-01 12:00")
    desk.tick("2024-01-01 13:00")
    assert set(desk.orders()[1:]) == {f"REJECTED {reason}"}
    assert len(desk.trades()) == 1
    assert desk.rules() == set()


def test_the_bounds_themselves_are_accepted(desk: Run) -> None:
    assert desk.place("A", "SELL", 10)["status"] == "PENDING"
    assert desk.place("A", "SELL", D("0.000001"))["reject_reason"] == "POSITION_INSUFFICIENT"  # claimed already
    assert desk.place("A", "BUY", 30)["status"] == "PENDING"
    assert desk.place("A", "BUY", D("0.000001"))["reject_reason"] == "POSITION_LIMIT_EXCEEDED"
    assert desk.place("LOT", "BUY", D("2.5"), limit=D("100.05"))["status"] == "PENDING"
    assert desk.place("LOT", "BUY", D("2.50"), limit=D("0.0500"))["status"] == "PENDING"
    desk.call("set_risk_limit")
    assert desk.place("A", "BUY", 7, limit=100)["status"] == "PENDING"  # limits lifted
    assert desk.place("A", "BUY", 10**6, limit=100)["reject_reason"] == "CASH_INSUFFICIENT"
    desk.tick("2024-01-01 13:00")
    assert set(desk.orders()[1:]) == {
        "FILLED",
        "PENDING",
        *("REJECTED " + r for r in ("POSITION_INSUFFICIENT", "POSITION_LIMIT_EXCEEDED", "CASH_INSUFFICIENT")),
    }
    assert desk.rules() == set()


def test_the_last_five_reasons_are_asked_again_at_the_fill(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {"2024-01-01 12:00": 100, "2024-01-02 12:00": 100, "2024-01-03 12:00": 110})
    market.bars("B", {"2024-01-01 12:00": 100, "2024-01-02 12:00": 100})

    def filled(prepare: Callable[[Run], Any], side: str = "BUY") -> str:
        run = Run(market, 10_000)
        run.place("A", "BUY", 10)
        run.tick("2024-01-01 12:00")
        assert run.place("A", side, 10)["status"] == "PENDING"
        prepare(run)
        run.tick("2024-01-03 12:00")
        assert run.rules() == set()
        assert run.order(2)["closed_time"] == at("2024-01-02 12:00")
        return run.status(2)

    assert filled(lambda run: None) == "FILLED"
    assert filled(lambda run: run.call("forbid_symbol", symbol="A")) == "REJECTED SYMBOL_FORBIDDEN"
    assert filled(lambda run: run.call("forbid_symbol", symbol="A"), "SELL") == "REJECTED SYMBOL_FORBIDDEN"
    limit = "set_risk_limit"
    assert filled(lambda run: run.call(limit, max_order_value=D("999.99"))) == "REJECTED ORDER_VALUE_EXCEEDED"
    assert filled(lambda run: run.call(limit, max_order_value=1000)) == "FILLED"
    assert filled(lambda run: run.call(limit, max_position=19)) == "REJECTED POSITION_LIMIT_EXCEEDED"
    assert filled(lambda run: run.call(limit, max_position=20)) == "FILLED"
    assert filled(lambda run: run.call(limit, max_position=0), "SELL") == "FILLED"
    assert filled(lambda run: run.place("B", "BUY", 80)) == "FILLED"  # exactly the cash there is

    def sell_out(run: Run) -> None:
        run.rebalance('{"B": 0}', "DAILY", "2024-01-01")
        assert run.call("try_rebalance", logical_time=at("2024-01-01 13:00")) == 1

    assert filled(sell_out, "SELL") == "REJECTED POSITION_INSUFFICIENT"


def test_a_symbol_that_this_feed_does_not_quote_waits(tx: Conn) -> None:
    market, other = Market(tx), Market(tx)
    market.bars("A", {"2024-01-01 12:00": 100, "2024-01-02 12:00": 100})
    other.bars("FOREIGN", {"2024-01-01 12:00": 100, "2024-01-02 12:00": 100})
    run = Run(market, 10)
    run.tick("2024-01-01 12:00")
    order = run.place("FOREIGN", "BUY", 1000)
    assert (order["status"], order["reserve_price"]) == ("PENDING", None)
    assert run.place("FOREIGN", "SELL", 1)["reject_reason"] == "POSITION_INSUFFICIENT"
    run.tick("2024-01-02 12:00")
    assert run.status(1) == "PENDING"


# --- bad arguments -------------------------------------------------------------------------------------------------

GOOD = {"symbol": "A", "side": "BUY", "quantity": 1}
LIMIT = {**GOOD, "order_type": "LIMIT", "limit_price": 1}
TRAIL = {**GOOD, "order_type": "TRAILING_STOP"}
BAD_ORDERS: list[dict[str, Any]] = [
    *({**GOOD, "quantity": D(q)} for q in ("NaN", "Infinity", "-Infinity", "1e130", "-1e130", "1e12", "-1e12")),
    {**GOOD, "quantity": None},
    *({**GOOD, "side": s} for s in (None, "", "buy", "HOLD", "BUY ")),
    *({**GOOD, "order_type": t} for t in (None, "", "market", "STOP", "STOP_LIMIT", "TRAILING_STOP")),
    *({**GOOD, "time_in_force": t} for t in (None, "", "day", "GTD", "OPG")),
    *({**GOOD, "symbol": s} for s in (None, "x" * 65)),
    *({**GOOD, "client_order_id": c} for c in ("", "x" * 129)),
    *({**LIMIT, "limit_price": D(p)} for p in ("NaN", "Infinity", "-Infinity", "1e130", "1e12", "0", "-1", "1e-9")),
    *({**LIMIT, "limit_price": D(p)} for p in ("1.123456789", "0.000000001", "-0.01")),
    {**LIMIT, "limit_price": None},
    {**GOOD, "limit_price": 1},
    {**GOOD, "stop_price": 1},
    {**GOOD, "order_type": "STOP", "stop_price": 1, "limit_price": 1},
    {**LIMIT, "stop_price": 1},
    {**GOOD, "order_type": "STOP_LIMIT", "stop_price": 1},
    {**GOOD, "order_type": "STOP_LIMIT", "limit_price": 1},
    *(
        {**GOOD, "order_type": "STOP", "stop_price": D(p)}
        for p in ("NaN", "Infinity", "1e12", "0", "-1", "1e-9", "1.123456789")
    ),
    *({**TRAIL, "trail_amount": D(p)} for p in ("NaN", "Infinity", "1e12", "0", "-1", "1e-9", "1.123456789")),
    *({**TRAIL, "trail_percent": D(p)} for p in ("NaN", "Infinity", "0", "-1", "100", "0.0000001")),
    {**TRAIL, "trail_amount": 1, "trail_percent": 1},
    {**TRAIL, "trail_amount": 1, "stop_price": 1},
    *({**GOOD, "take_profit": D(p)} for p in ("NaN", "0", "-1", "1.123456789")),
    *({**GOOD, "stop_loss": D(p)} for p in ("NaN", "0", "-1", "1.123456789")),
    {**GOOD, "stop_loss_limit": 1},
    {**GOOD, "take_profit": 1, "stop_loss": 1},
    {**GOOD, "side": "SELL", "take_profit": 2, "stop_loss": 1},
    {**LIMIT, "take_profit": 1},
    {**LIMIT, "stop_loss": 1},
    {**GOOD, "time_in_force": "GTD"},
    {**GOOD, "time_in_force": "GTD", "good_till": at("2300-01-01 00:00")},
    {**GOOD, "trail_amount": 1},
    {**GOOD, "trail_percent": 1},
    {**GOOD, "good_till": at("2024-02-01 00:00")},
]


def test_what_cannot_be_an_order_is_refused_and_nothing_is_written(desk: Run) -> None:
    before = desk.snapshot()
    answers = []
    for terms in BAD_ORDERS:
        with pytest.raises(psycopg.Error) as caught, desk.conn.transaction():
            desk.call("place_order", **terms)
        answers.append((terms, caught.value.sqlstate))
    assert [answer for answer in answers if answer[1] != "TE101"] == []
    assert desk.snapshot() == before


def test_place_order_on_no_run(desk: Run) -> None:
    for user_id, run_id in [(desk.user_id, -1), (-1, desk.run_id), (None, desk.run_id), (desk.user_id, None)]:
        with refused(desk.conn, "TE204"):
            call(desk.conn, "place_order", user_id=user_id, run_id=run_id, **GOOD)
        with refused(desk.conn, "TE204"):
            call(desk.conn, "cancel_order", user_id=user_id, run_id=run_id, order_id=1)


def test_the_largest_and_the_finest_order_are_stored_exactly(desk: Run) -> None:
    desk.call("set_risk_limit")
    big = desk.place("A", "BUY", D("999999999999.999999"), limit=D("999999999999.99999999"))
    assert (big["quantity"], big["limit_price"]) == (D("999999999999.999999"), D("999999999999.99999999"))
    assert big["reject_reason"] == "POSITION_LIMIT_EXCEEDED"  # with what is held
    fine = desk.place("A", "BUY", D("0.000001"), limit=D("0.00000001"))
    assert (fine["status"], fine["limit_price"]) == ("PENDING", D("0.00000001"))
    # eight decimals cannot hold it: off the step, or too big, but never a crash
    with refused(desk.conn, "TE101"):
        desk.place("A", "BUY", D("999999999999.999999999"))


# Each refusal of these verbs, made on a running and on a stopped run.
REFUSALS: list[tuple[str, str]] = [
    ("TE101", "select place_order(%(u)s, %(r)s, 'A', 'HOLD', 1)"),
    ("TE101", "select place_order(%(u)s, %(r)s, 'A', 'BUY', 'NaN')"),
    ("TE101", "select place_order(%(u)s, %(r)s, 'A', 'BUY', 1, 'LIMIT')"),
    ("TE101", "select place_order(%(u)s, %(r)s, 'A', 'BUY', 1, 'LIMIT', 0)"),
    ("TE101", "select place_order(%(u)s, %(r)s, 'A', 'BUY', 1, 'LIMIT', 0.123456789)"),
    ("TE101", "select place_order(%(u)s, %(r)s, 'A', 'BUY', 1, p_stop_price => 1)"),
    ("TE101", "select place_order(%(u)s, %(r)s, 'A', 'a b = c', 1)"),
    ("TE101", "select place_order(%(u)s, %(r)s, 'A', 'BUY', 1, p_client_order_id => '')"),
    ("TE101", "select cancel_order(%(u)s, %(r)s, 99)"),
    ("TE101", "select start_run(%(u)s, -1)"),
    ("TE101", "select start_run(%(u)s, 1, p_participation => 1.1)"),
    ("TE101", "select start_run(%(u)s, 1, p_slippage_bps => -1)"),
    ("TE101", "select start_run(%(u)s, 1, p_fee_schedule => 'x')"),
    ("TE101", "select start_run(%(u)s, 1, p_mark_policy => 'x')"),
    ("TE101", "select start_run(%(u)s, 1, p_currency => 'x')"),
    ("TE101", "select create_user('')"),
    ("TE101", "select create_sip(%(u)s, %(r)s, 'A', 1, 'YEARLY', '2024-01-01')"),
    ("TE101", "select create_sip(%(u)s, %(r)s, 'A', 1, 'DAILY', '2024-01-01', p_step_up_percent => 1)"),
    ("TE101", "select create_sip(%(u)s, %(r)s, 'A', 1, 'DAILY', '2024-01-01', p_end => '2023-01-01')"),
    ("TE101", "select pause_sip(%(u)s, %(r)s, 99)"),
    ("TE101", "select create_rebalance(%(u)s, %(r)s, '{}', 'DAILY', '2024-01-01')"),
    ("TE101", "select create_rebalance(%(u)s, %(r)s, '{\"A\": 2}', 'DAILY', '2024-01-01')"),
    ("TE101", "select create_rebalance(%(u)s, %(r)s, '{\"A\": 1, \"BAD\": 1}', 'DAILY', '2024-01-01')"),
    ("TE101", "select set_risk_limit(%(u)s, %(r)s, -1)"),
    ("TE101", "call tick(%(u)s, %(r)s, 'infinity')"),
    ("TE101", "call tick(%(u)s, %(r)s, '294276-12-31 23:59+00')"),
    ("TE101", "call replay(%(u)s, %(r)s, '2024-01-01', '2024-01-02', 0)"),
    ("TE101", "call tick_all('2024-01-01', p_commit_every => 0)"),
    ("TE102", "select place_order(%(u)s, %(r)s, 'A', 'SELL', 1, p_client_order_id => 'once upon a time')"),
    ("TE003", "call tick(%(u)s, %(r)s, '2024-01-01 11:00+00')"),
    ("TE003", "select log_mtm(%(u)s, %(r)s, '2024-01-01 11:00+00')"),
    ("TE201", "select start_run(%(u)s, 1, 'no such feed')"),
    ("TE201", "select create_sip(%(u)s, %(r)s, 'no symbol', 1, 'DAILY', '2024-01-01')"),
    ("TE201", "call tick_all('2024-01-01', 'no such feed')"),
    ("TE204", "call tick(-1, -1, '2024-01-01 11:00+00')"),
    ("TE204", "select run_digest(-1, -1)"),
    ("TE002", "update strategy_run set status = 'RUNNING' where (user_id, run_id) = (%(u)s, %(r)s)"),
    ("TE001", "select place_order(%(u)s, %(r)s, 'A', 'BUY', 1)"),
    ("TE001", "call tick(%(u)s, %(r)s, '2024-01-01 15:00+00')"),
    ("TE001", "insert into engine_status (user_id, run_id, status) values (%(u)s, %(r)s, 'RUNNING')"),
    ("TE004", "update strategy_run set run_id = -5 where (user_id, run_id) = (%(u)s, %(r)s)"),
    ("TE004", "delete from paper_order where (user_id, run_id) = (%(u)s, %(r)s)"),
    ("TE004", "update paper_trade set price = 1 where (user_id, run_id) = (%(u)s, %(r)s)"),
    ("TE004", "truncate paper_equity_curve"),
]


def test_every_refusal_has_key_value_details_and_a_hint(desk: Run) -> None:
    desk.place("A", "BUY", 1, client_order_id="once upon a time")
    bad = []
    for stopped in (False, True):
        for code, query in REFUSALS:
            if (code in ("TE001", "TE002")) != stopped:
                continue
            with pytest.raises(psycopg.Error) as caught, desk.conn.transaction():
                desk.conn.execute(query, {"u": desk.user_id, "r": desk.run_id})
            diag = caught.value.diag
            assert caught.value.sqlstate == code, (query, caught.value)
            assert diag.message_primary
            assert diag.message_hint, query
            # spaces separate the pairs, so no value may hold one (but for text that the caller sent himself)
            detail = re.sub("no such feed|no symbol|once upon a time|a b = c", "x", diag.message_detail or "")
            if not detail or not all(re.fullmatch(r"[a-z_]+=\S*", pair) for pair in detail.split(" ")):
                bad.append((query, diag.message_detail))
        if not stopped:
            desk.call("stop_run")
    assert bad == []


# --- client_order_id -----------------------------------------------------------------------------------------------


def test_client_order_id_returns_the_first_order_unchanged(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {"2024-01-01 12:00": 100, "2024-01-01 13:00": 90})
    market.bars("B", {"2024-01-01 12:00": 100})
    run = Run(market, 1000)
    terms: dict[str, Any] = {"symbol": "A", "side": "BUY", "quantity": 2, "limit": 95, "time_in_force": "DAY"}
    first = run.place(**terms, client_order_id="k")
    again = run.place(**{**terms, "quantity": D("2.000"), "limit": D("95.0")}, client_order_id="k")
    assert again == first
    run.tick("2024-01-01 12:00")
    assert run.place(**terms, client_order_id="k") == first
    run.tick("2024-01-01 13:00")
    filled = run.order(1)
    assert filled["status"] == "FILLED"
    rejected = run.place("A", "SELL", 99, client_order_id="r")
    canceled = run.cancel(run.place("B", "BUY", 1, client_order_id="c")["order_id"])
    resting = run.place("B", "BUY", 1, limit=1, client_order_id="s")
    run.call("stop_run")
    before = run.snapshot()
    assert run.place(**terms, client_order_id="k") == filled
    assert run.place("A", "SELL", 99, client_order_id="r") == rejected
    assert run.place("B", "BUY", 1, client_order_id="c") == canceled
    assert run.place("B", "BUY", 1, limit=1, client_order_id="s") == {
        **resting,
        "status": "CANCELED",
        "closed_time": at("2024-01-01 13:00"),
    }
    for change in (
        {"symbol": "B"},
        {"side": "SELL"},
        {"quantity": 3},
        {"quantity": D("2.00000001")},
        {"limit": 94},
        {"limit": D("95.00000001")},
        {"limit": None},
        {"time_in_force": "GTC"},
    ):
        with refused(tx, "TE102", client_order_id="k", order_id=1):
            run.place(**{**terms, **change}, client_order_id="k")
    with refused(tx, "TE102"):
        run.place("A", "SELL", 99, limit=1, client_order_id="r")
    with refused(tx, "TE001"):
        run.place(**terms, client_order_id="new")
    assert run.snapshot() == before


def test_client_order_id_is_the_runs_own_and_optional(tx: Conn) -> None:
    market = Market(tx, symbols=["A"])
    one, two = Run(market), Run(market)
    assert one.place("A", "BUY", 1, client_order_id="k")["order_id"] == 1
    assert two.place("A", "BUY", 2, client_order_id="k")["order_id"] == 1
    assert [one.place("A", "BUY", 1)["order_id"] for _ in range(3)] == [2, 3, 4]
    assert one.place("A", "BUY", 1, client_order_id="x" * 128)["order_id"] == 5
    assert one.place("A", "BUY", 1, client_order_id=" k")["order_id"] == 6
    one.call("stop_run")
    one.start()
    assert one.place("A", "BUY", 7, client_order_id="k")["order_id"] == 1


def test_an_order_is_not_mistaken_for_one_of_its_rounded_quantity(desk: Run) -> None:
    desk.place("A", "BUY", 2, client_order_id="first")
    with refused(desk.conn, "TE102"):
        desk.place("A", "BUY", D("2.000000001"), client_order_id="first")


def test_concurrent_duplicates_make_one_order(db: Conn, connect: Callable[..., Conn]) -> None:
    run = Run(Market(db, symbols=["A"]))
    start = threading.Barrier(6)
    got: list[Any] = []

    def send(conn: Conn, key: str | None) -> None:
        start.wait()
        for _ in range(5):
            got.append(
                (
                    key,
                    call(
                        conn,
                        "place_order",
                        user_id=run.user_id,
                        run_id=run.run_id,
                        **GOOD,
                        client_order_id=key,
                    ),
                )
            )

    threads = [threading.Thread(target=send, args=(connect(), key)) for key in ("k", "k", "k", "k", "j", None)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 30
    ids = {key: {order["order_id"] for k, order in got if k == key} for key in ("k", "j", None)}
    assert [len(ids[key]) for key in ("k", "j", None)] == [1, 1, 5]
    assert run.table("order_id", "paper_order", "1") == [(i,) for i in range(1, 8)]  # no number is lost
    assert all(order == next(o for k, o in got if k == "k") for k, order in got if k == "k")


# --- cancel --------------------------------------------------------------------------------------------------------


def test_cancel_order(tx: Conn) -> None:
    market = weekday_market(tx, "2024-01-02", "2024-01-03")
    market.bars("A", {"2024-01-02 12:00": 100, "2024-01-02 16:00": 100, "2024-01-03 12:00": 100})
    run = Run(market, 1000)
    run.place("A", "BUY", 1)  # 1 fills
    run.place("A", "BUY", 1, limit=1, time_in_force="DAY")  # 2 expires
    run.place("A", "SELL", 1)  # 3 rejected
    run.place("A", "BUY", 1, limit=1)  # 4 canceled before the first tick
    canceled = run.cancel(4)
    assert (canceled["status"], canceled["closed_time"]) == ("CANCELED", None)
    run.place("A", "BUY", 1, limit=1)  # 5 canceled after it
    run.tick("2024-01-02 16:00")
    canceled = run.cancel(5)
    assert (canceled["status"], canceled["closed_time"]) == ("CANCELED", market.at("2024-01-02 16:00"))
    assert run.orders() == ["FILLED", "EXPIRED", "REJECTED POSITION_INSUFFICIENT", "CANCELED", "CANCELED"]
    run.tick("2024-01-03 12:00")
    before = run.snapshot()
    for order_id in range(1, 6):
        assert run.cancel(order_id) == run.order(order_id)
    assert run.snapshot() == before

    other = Run(market)
    for _ in range(7):
        other.place("A", "BUY", 1, limit=1)
    for unknown in (0, -1, 6, 7, None, 2**62):
        with refused(tx, "TE101"):
            run.cancel(unknown)
    run.place("A", "BUY", 1)
    run.call("fail_run", error="broken")
    assert run.orders()[5] == "CANCELED"
    for order_id in (1, 6, 99):
        with refused(tx, "TE001"):
            run.cancel(order_id)


def test_a_canceled_order_never_fills(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {"2024-01-01 12:00": 100, "2024-01-02 12:00": 100})
    run = Run(market)
    run.place("A", "BUY", 1)
    run.cancel(1)
    run.tick("2024-01-01 12:00")
    run.place("A", "BUY", 1)
    run.cancel(2)
    run.tick("2024-01-02 12:00")
    assert (run.orders(), run.trades(), run.cash) == (["CANCELED"] * 2, [], 100_000)


# --- start_run -----------------------------------------------------------------------------------------------------


def test_start_run_refuses_what_it_cannot_keep(tx: Conn) -> None:
    user_id = val(tx, "select create_user('u')")
    bad: tuple[dict[str, Any], ...] = (
        *({"initial_cash": c} for c in (None, D("NaN"), D("Infinity"), D("-Infinity"), -1, D("1e12"), D("1e130"))),
        *({"participation": D(p)} for p in ("0", "0.000000001", "-0.1", "1.1", "NaN", "Infinity")),
        *({"slippage_bps": s} for s in (None, -1, 10001, D("NaN"), D("Infinity"))),
        *({"volume_impact": s} for s in (None, -1, 101, D("NaN"), D("Infinity"))),
        *({"penetration_ticks": s} for s in (None, -1, 1_000_001)),
        *({"max_price_age": s} for s in (timedelta(0), timedelta(days=-1), "7000 years")),
        {"fee_schedule": "retail"},
        *({"mark_policy": m} for m in (None, "", "SESSION_CLOSE")),
        *({"currency": c} for c in (None, "", "usd", "US", "DOLLARS")),
    )
    for options in bad:
        with refused(tx, "TE101"):
            call(tx, "start_run", user_id=user_id, **{"initial_cash": 1, **options})
    for feed in ("no such feed", "", None):
        with refused(tx, "TE201"):
            call(tx, "start_run", user_id=user_id, initial_cash=1, feed=feed)
    for unknown in (-1, None):
        with refused(tx, "23503"):
            call(tx, "start_run", user_id=unknown, initial_cash=1)
    assert rows(tx, "select from strategy_run where user_id = %s", user_id) == []
    call(tx, "start_run", user_id=user_id, initial_cash=D("0.005"), slippage_bps=0)
    assert rows(tx, "select initial_cash from strategy_run where user_id = %s", user_id) == [(D("0.01"),)]
    with refused(tx, "23505"):
        call(tx, "start_run", user_id=user_id, initial_cash=1)
