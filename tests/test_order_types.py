"""Order types on bars, rule by rule: stops, lives, pairs, brackets, volume, slippage, replaced orders, raw rows.

Random scripts of the same are played against an independent model in test_model.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP
from typing import Any, NamedTuple

import psycopg
import pytest
from desk import Conn, D, Market, Run, at, refused, rows, val, weekday_market
from psycopg.rows import dict_row

DAY1, DAY2 = "2024-01-02", "2024-01-03"  # sessions (09:30, 16:00]
T0 = f"{DAY1} 10:00"
CLOSE1 = f"{DAY1} 16:00"


def desk_with(tx: Conn, bars: dict[str, Any], held: int = 1000, tick_size: Any = None, **terms: Any) -> Run:
    """A run that holds ACME and stands at T0, mid-session, with ACME at 100; the bars come after."""
    market = weekday_market(tx, DAY1, "2024-01-05")
    market.instrument("ACME", step=1, tick=tick_size)
    market.bars("ACME", {f"{DAY1} 09:45": 100, T0: 100, **{t: bar for t, bar in bars.items() if bar is not None}})
    market.bars("CLOCK", {t: 1 for t in bars})
    run = Run(market, 1_000_000, **terms)
    if held:
        run.place("ACME", "BUY", held)
        run.tick(f"{DAY1} 09:45")
    run.tick(T0)
    return run


def pair(run: Run, symbol: str, side: str, quantity: Any, **terms: Any) -> list[dict[str, Any]]:
    """place_oco: its two rows."""
    terms = {"symbol": symbol, "side": side, "quantity": quantity, **terms}
    named = ", ".join(f"p_{name} => %s" for name in terms)
    with run.conn.cursor(row_factory=dict_row) as cur:
        cur.execute(f"select * from place_oco(%s, %s, {named})", [*run.key, *terms.values()])
        return cur.fetchall()


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


# --- one order on bars, as a table -------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A BUY of 7, accepted at T0 with ACME at 100; the bars after it; what becomes of it. Sold, all prices mirror at 100.

    Bars are (open, high, low, close[, volume]), None where only another symbol has one; "+11:00" is on the next day.
    """

    name: str
    terms: dict[str, Any]
    bars: dict[str, Any]
    end: str  # "FILLED 11:00": status and closed_time
    fills: Sequence[tuple[str, Any, Any]] = ()  # bar, quantity, price
    stop: Any = None  # stop_price, if it is to be another than at first
    run: dict[str, Any] | None = None  # its terms
    tick: Any = None


STOP = {"order_type": "STOP", "stop_price": 105}
TRAIL = {"order_type": "TRAILING_STOP", "trail_amount": 5}
LIMIT = {"order_type": "LIMIT", "limit_price": 95}
IOC, FOK = {"time_in_force": "IOC"}, {"time_in_force": "FOK"}
TENTH = {"participation": D("0.1")}
CALM = (100, 101, 99, 100)


def stop_limit(limit: Any) -> dict[str, Any]:
    return {"order_type": "STOP_LIMIT", "stop_price": 105, "limit_price": limit}


def till(clock: str) -> dict[str, Any]:
    return {"time_in_force": "GTD", "good_till": clock}


CASES = [
    # STOP
    Case("stop: opens beyond", STOP, {"11:00": (107, 108, 106, 107)}, "FILLED 11:00", [("11:00", 7, 107)]),
    Case("stop: opens at it", STOP, {"11:00": (105, 106, 104, 105)}, "FILLED 11:00", [("11:00", 7, 105)]),
    Case("stop: reached within", STOP, {"11:00": (101, 105, 100, 104)}, "FILLED 11:00", [("11:00", 7, 105)]),
    Case("stop: not reached", STOP, {"11:00": (101, 104, 100, 103)}, "PENDING"),
    Case(
        "stop: a bar outside of the session triggers nothing",
        STOP,
        {"16:01": (110, 110, 110, 110), "+09:30": (110, 110, 110, 110), "+09:31": (103, 106, 102, 104)},
        "FILLED +09:31",
        [("+09:31", 7, 105)],
    ),
    Case(
        "stop: behind the market, at the next open",
        {**STOP, "stop_price": 95},
        {"11:00": (101, 102, 97, 98)},
        "FILLED 11:00",
        [("11:00", 7, 101)],
    ),
    # STOP_LIMIT
    Case(
        "stop-limit: gap, the open is no worse than the limit",
        stop_limit(107),
        {"11:00": (106, 108, 104, 105)},
        "FILLED 11:00",
        [("11:00", 7, 106)],
    ),
    Case(
        "stop-limit: a gap in mid-session is fresh too",
        stop_limit(107),
        {"11:00": CALM, "12:00": (106, 108, 104, 105)},
        "FILLED 12:00",
        [("12:00", 7, 106)],
    ),
    Case(
        "stop-limit: gap beyond the limit, and back to it",
        stop_limit(107),
        {"11:00": (108, 109, 107, 109)},
        "FILLED 11:00",
        [("11:00", 7, 107)],
    ),
    Case(
        "stop-limit: opens at the stop, which is a gap: the close does not matter",
        stop_limit(103),
        {"11:00": (105, 106, 103, 106)},
        "FILLED 11:00",
        [("11:00", 7, 103)],
    ),
    Case(
        "stop-limit: met within, the limit allows the stop",
        stop_limit(107),
        {"11:00": (101, 109, 100, 108)},
        "FILLED 11:00",
        [("11:00", 7, 105)],
    ),
    Case(
        "stop-limit: met within, the limit is the stop",
        stop_limit(105),
        {"11:00": (101, 109, 100, 108)},
        "FILLED 11:00",
        [("11:00", 7, 105)],
    ),
    Case(
        "stop-limit: met within, and the close is back at the limit",
        stop_limit(103),
        {"11:00": (101, 106, 100, 103)},
        "FILLED 11:00",
        [("11:00", 7, 103)],
    ),
    Case(
        "stop-limit: met within, but the close is not back",
        stop_limit(103),
        {"11:00": (101, 106, 100, 104)},
        "TRIGGERED",
    ),
    Case(
        "stop-limit: triggered, rests as a limit and is not fresh",
        stop_limit(103),
        {"11:00": (101, 106, 100, 104), "12:00": (102, 104, 101, 104)},
        "FILLED 12:00",
        [("12:00", 7, 103)],
    ),
    Case(
        "stop-limit: triggered by a gap that never comes back, then a bar wholly beyond: its nearer end",
        stop_limit(107),
        {"11:00": (109, 110, 108, 109), "12:00": (104, 106, 103, 104)},
        "FILLED 12:00",
        [("12:00", 7, 106)],
    ),
    Case(
        "stop-limit: triggered, then the next session opens beyond the limit",
        stop_limit(107),
        {"11:00": (109, 110, 108, 109), "12:00": (109, 110, 108, 109), "+11:00": (104, 108, 103, 104)},
        "FILLED +11:00",
        [("+11:00", 7, 104)],
    ),
    Case(
        "stop-limit: triggered, need not meet its stop again",
        stop_limit(103),
        {"11:00": (101, 106, 100, 104), "12:00": (104, 104, 104, 104), "13:00": (104, 104, 103, 104)},
        "FILLED 13:00",
        [("13:00", 7, 103)],
    ),
    # TRAILING_STOP: 105 to start with
    Case("trail: reached within", TRAIL, {"11:00": (101, 105, 100, 101)}, "FILLED 11:00", [("11:00", 7, 105)], 105),
    Case("trail: opens beyond", TRAIL, {"11:00": (106, 107, 100, 101)}, "FILLED 11:00", [("11:00", 7, 106)], 105),
    Case(
        "trail: follows the lows",
        TRAIL,
        {"11:00": (100, 104, 95, 96), "12:00": (96, 100, 96, 99)},
        "FILLED 12:00",
        [("12:00", 7, 100)],
        100,
    ),
    Case("trail: a bar does not meet the stop that it makes", TRAIL, {"11:00": (100, 104, 90, 103)}, "PENDING", [], 95),
    Case(
        "trail: never goes back",
        TRAIL,
        {"11:00": (98, 99, 95, 96), "12:00": (98, 99, 97, 98), "13:00": (99, 99, 98, 98), "14:00": (98, 100, 98, 99)},
        "FILLED 14:00",
        [("14:00", 7, 100)],
        100,
    ),
    Case(
        "trail: bars outside of the session do not count",
        TRAIL,
        {"16:01": (60, 60, 60, 60), "+09:30": (60, 60, 60, 60), "+10:00": (100, 104, 99, 100)},
        "PENDING",
        [],
        104,
    ),
    # lives
    Case("ioc: not reached", {**LIMIT, **IOC}, {"11:00": (99, 99, 96, 98)}, "CANCELED 11:00"),
    Case("ioc: reached", {**LIMIT, **IOC}, {"11:00": (99, 99, 95, 98)}, "FILLED 11:00", [("11:00", 7, 95)]),
    Case(
        "ioc: no second bar", {**LIMIT, **IOC}, {"11:00": (99, 99, 96, 98), "12:00": (90, 91, 89, 90)}, "CANCELED 11:00"
    ),
    Case("ioc: bars of others do not count", IOC, {"11:00": None, "12:00": CALM}, "FILLED 12:00", [("12:00", 7, 100)]),
    Case(
        "ioc: its bar is outside of every session",
        IOC,
        {"16:01": CALM, "+10:00": CALM},
        "REJECTED SESSION_CLOSED 16:01",
    ),
    Case(
        "fok: its bar is outside of every session", {**LIMIT, **FOK}, {"+09:30": CALM}, "REJECTED SESSION_CLOSED +09:30"
    ),
    Case(
        "ioc: the rest is canceled",
        IOC,
        {"11:00": (*CALM, 30), "12:00": CALM},
        "CANCELED 11:00",
        [("11:00", 3, 100)],
        run=TENTH,
    ),
    Case("fok: all or nothing", FOK, {"11:00": (*CALM, 69), "12:00": CALM}, "CANCELED 11:00", run=TENTH),
    Case("fok: all", FOK, {"11:00": (*CALM, 70)}, "FILLED 11:00", [("11:00", 7, 100)], run=TENTH),
    Case("fok: unknown volume", FOK, {"11:00": CALM}, "FILLED 11:00", [("11:00", 7, 100)], run=TENTH),
    Case("fok: not reached", {**LIMIT, **FOK}, {"11:00": (99, 99, 96, 98)}, "CANCELED 11:00"),
    Case(
        "ioc stop: waits for its trigger, in a session",
        {**STOP, **IOC},
        {"11:00": CALM, "16:01": (110, 110, 110, 110), "+10:00": (106, 107, 100, 101)},
        "FILLED +10:00",
        [("+10:00", 7, 106)],
    ),
    Case(
        "ioc stop: the bar that triggers it is its only one",
        {**STOP, **IOC},
        {"11:00": (*CALM, 30), "12:00": (101, 106, 100, 101, 30), "13:00": CALM},
        "CANCELED 12:00",
        [("12:00", 3, 105)],
        run=TENTH,
    ),
    Case(
        "fok stop: too little volume where it is triggered",
        {**STOP, **FOK},
        {"11:00": (101, 106, 100, 101, 69), "12:00": CALM},
        "CANCELED 11:00",
        run=TENTH,
    ),
    Case(
        "ioc stop-limit", {**stop_limit(103), **IOC}, {"11:00": (101, 106, 100, 104), "12:00": CALM}, "CANCELED 11:00"
    ),
    Case(
        "fok trail",
        {**TRAIL, **FOK},
        {"11:00": CALM, "12:00": (101, 104, 100, 101)},
        "FILLED 12:00",
        [("12:00", 7, 104)],
        104,
    ),
    Case(
        "day stop", {**STOP, "time_in_force": "DAY"}, {"16:00": CALM, "+10:00": (110, 111, 109, 110)}, "EXPIRED 16:00"
    ),
    Case(
        "day stop: the close bar counts",
        {**STOP, "time_in_force": "DAY"},
        {"16:00": (101, 106, 100, 101)},
        "FILLED 16:00",
        [("16:00", 7, 105)],
    ),
    Case(
        "day stop: no bar at the close",
        {**STOP, "time_in_force": "DAY"},
        {"+10:00": (110, 111, 109, 110)},
        "EXPIRED +10:00",
    ),
    Case(
        "day trail: expires with the level of its last bar",
        {**TRAIL, "time_in_force": "DAY"},
        {"11:00": (100, 104, 99, 100), "16:00": (100, 103, 98, 100), "+10:00": (90, 91, 89, 90)},
        "EXPIRED 16:00",
        [],
        103,
    ),
    Case(
        "gtd trail: expires with the level of its last bar",
        {**TRAIL, **till("12:30")},
        {"11:00": (100, 104, 99, 100), "12:00": (100, 103, 97, 100), "13:00": (90, 91, 89, 90)},
        "EXPIRED 13:00",
        [],
        102,
    ),
    Case(
        "gtd: the bar at its time counts",
        {**LIMIT, **till("12:00")},
        {"12:00": (99, 99, 94, 98)},
        "FILLED 12:00",
        [("12:00", 7, 95)],
    ),
    Case(
        "gtd: expires after that bar",
        {**LIMIT, **till("12:00")},
        {"12:00": CALM, "13:00": (90, 91, 89, 90)},
        "EXPIRED 12:00",
    ),
    Case(
        "gtd: at the next time there is",
        {**LIMIT, **till("12:30")},
        {"12:00": CALM, "13:00": (90, 91, 89, 90)},
        "EXPIRED 13:00",
    ),
    Case(
        "gtd: at another's bar", {**LIMIT, **till("12:00")}, {"12:00": None, "13:00": (90, 91, 89, 90)}, "EXPIRED 12:00"
    ),
    Case("gtd: outside of the session", {**LIMIT, **till("17:00")}, {"17:00": (90, 91, 89, 90)}, "EXPIRED 17:00"),
    # volume
    Case(
        "volume: floored to the step, bar after bar",
        {},
        {"11:00": (*CALM, 30), "12:00": (101, 102, 99, 100, 29), "13:00": (102, 103, 99, 100, 1000)},
        "FILLED 13:00",
        [("11:00", 3, 100), ("12:00", 2, 101), ("13:00", 2, 102)],
        run=TENTH,
    ),
    Case(
        "volume: none, and less than a step, fill nothing",
        {},
        {"11:00": (*CALM, 0), "12:00": (*CALM, 9), "13:00": CALM},
        "FILLED 13:00",
        [("13:00", 7, 100)],
        run=TENTH,
    ),
    Case("volume: no cap by default", {}, {"11:00": (*CALM, 0)}, "FILLED 11:00", [("11:00", 7, 100)]),
    Case(
        "volume: a stop that is triggered without any is a market order then",
        STOP,
        {"11:00": (104, 106, 100, 101, 0), "12:00": (90, 91, 89, 90, 30), "13:00": (91, 92, 90, 91)},
        "FILLED 13:00",
        [("12:00", 3, 90), ("13:00", 4, 91)],
        run=TENTH,
    ),
    Case(
        "volume: a stop that is filled in part is a market order then",
        STOP,
        {"11:00": (104, 106, 100, 101, 30), "12:00": (90, 91, 89, 90)},
        "FILLED 12:00",
        [("11:00", 3, 105), ("12:00", 4, 90)],
        run=TENTH,
    ),
    Case(
        "volume: a trail that is triggered without any follows no more",
        TRAIL,
        {"11:00": (104, 106, 80, 81, 0), "12:00": (70, 71, 69, 70, 0), "13:00": (90, 91, 89, 90)},
        "FILLED 13:00",
        [("13:00", 7, 90)],
        105,
        run=TENTH,
    ),
    Case(
        "volume: a stop-limit that is filled in part is a limit then",
        stop_limit(106),
        {"11:00": (104, 107, 100, 101, 30), "12:00": (107, 109, 107, 108), "13:00": (100, 107, 99, 100)},
        "FILLED 13:00",
        [("11:00", 3, 105), ("13:00", 4, 106)],
        run=TENTH,
    ),
    Case(
        "volume: a limit that is filled in part is fresh again in the next session",
        LIMIT,
        {"11:00": (94, 96, 93, 95, 30), "12:00": (92, 96, 91, 95, 20), "+10:00": (90, 96, 89, 95)},
        "FILLED +10:00",
        [("11:00", 3, 94), ("12:00", 2, 95), ("+10:00", 2, 90)],
        run=TENTH,
    ),
    Case(
        "volume: a day order that is filled in part expires",
        {"time_in_force": "DAY"},
        {"16:00": (*CALM, 30), "+10:00": CALM},
        "EXPIRED 16:00",
        [("16:00", 3, 100)],
        run=TENTH,
    ),
    # slippage
    Case(
        "slip: market",
        {},
        {"11:00": (100, 103, 97, 100)},
        "FILLED 11:00",
        [("11:00", 7, 101)],
        run={"slippage_bps": 100},
    ),
    Case(
        "slip: never outside of the bar",
        {},
        {"11:00": CALM},
        "FILLED 11:00",
        [("11:00", 7, 101)],
        run={"slippage_bps": 500},
    ),
    Case(
        "slip: stop, not outside of the bar",
        {**STOP, "stop_price": 104},
        {"11:00": (100, D("104.25"), 99, 100)},
        "FILLED 11:00",
        [("11:00", 7, D("104.25"))],
        run={"slippage_bps": 50},
    ),
    Case(
        "slip: not a limit",
        LIMIT,
        {"11:00": (94, 99, 90, 98)},
        "FILLED 11:00",
        [("11:00", 7, 94)],
        run={"slippage_bps": 100},
    ),
    Case(
        "slip: not a stop-limit",
        stop_limit(107),
        {"11:00": (100, 109, 99, 100)},
        "FILLED 11:00",
        [("11:00", 7, 105)],
        run={"slippage_bps": 100},
    ),
    Case(
        "slip: away from the trader to the grid",
        {},
        {"11:00": (100, 103, 97, 100)},
        "FILLED 11:00",
        [("11:00", 7, D("100.5"))],
        run={"slippage_bps": 33},
        tick=D("0.25"),
    ),
    Case(
        "slip: on the grid it stays",
        {},
        {"11:00": (100, 103, 97, 100)},
        "FILLED 11:00",
        [("11:00", 7, D("100.5"))],
        run={"slippage_bps": 50},
        tick=D("0.25"),
    ),
    Case(
        "slip: impact of the share of the volume, squared",
        {},
        {"11:00": (100, 103, 97, 100, 70)},
        "FILLED 11:00",
        [("11:00", 7, D("100.1"))],
        run={"volume_impact": D("0.1")},
    ),
    Case(
        "slip: impact of what is filled, not of the order",
        {},
        {"11:00": (100, 103, 97, 100, 30), "12:00": (100, 103, 97, 100)},
        "FILLED 12:00",
        [("11:00", 3, D("101.5")), ("12:00", 4, D("100.5"))],
        run={**TENTH, "volume_impact": 1, "slippage_bps": 50},
    ),
    Case(
        "slip: no impact on no volume",
        {},
        {"11:00": (100, 103, 97, 100, 0)},
        "FILLED 11:00",
        [("11:00", 7, 100)],
        run={"volume_impact": 1},
    ),
    # penetration
    Case(
        "penetration: not far enough",
        LIMIT,
        {"11:00": (99, 99, 94, 98)},
        "PENDING",
        run={"penetration_ticks": 2},
        tick=1,
    ),
    Case(
        "penetration: far enough, at the limit",
        LIMIT,
        {"11:00": (99, 99, 93, 98)},
        "FILLED 11:00",
        [("11:00", 7, 95)],
        run={"penetration_ticks": 2},
        tick=1,
    ),
    Case(
        "penetration: not asked of a fresh order at the open",
        LIMIT,
        {"11:00": (95, 96, 95, 96)},
        "FILLED 11:00",
        [("11:00", 7, 95)],
        run={"penetration_ticks": 2},
        tick=1,
    ),
    Case(
        "penetration: a touch at the open of a later session",
        LIMIT,
        {"11:00": (99, 99, 95, 98), "12:00": (95, 99, 95, 98), "+10:00": (95, 96, 95, 96)},
        "FILLED +10:00",
        [("+10:00", 7, 95)],
        run={"penetration_ticks": 1},
        tick=1,
    ),
    Case(
        "penetration: a touch, without a grid",
        LIMIT,
        {"11:00": (99, 99, 95, 98)},
        "PENDING",
        run={"penetration_ticks": 1},
    ),
    Case(
        "penetration: any distance, without a grid",
        LIMIT,
        {"11:00": (99, 99, D("94.99999999"), 98)},
        "FILLED 11:00",
        [("11:00", 7, 95)],
        run={"penetration_ticks": 1},
    ),
    Case(
        "penetration: a stop-limit that rests",
        stop_limit(107),
        {"11:00": (109, 110, 106, 109), "12:00": (109, 110, 105, 109)},
        "FILLED 12:00",
        [("12:00", 7, 107)],
        run={"penetration_ticks": 2},
        tick=1,
    ),
]


def on_day(clock: str) -> str:
    """ "11:00" on the first day, "+11:00" on the second."""
    return f"{DAY2} {clock[1:]}" if clock.startswith("+") else f"{DAY1} {clock}"


def mirrored(case: Case) -> Case:
    def price(p: Any) -> Any:
        return p and 200 - p

    def bar(b: Any) -> Any:
        return b and (price(b[0]), price(b[2]), price(b[1]), price(b[3]), *b[4:])

    return case._replace(
        terms={k: price(v) if k.endswith("_price") else v for k, v in case.terms.items()},
        bars={t: bar(b) for t, b in case.bars.items()},
        fills=[(t, quantity, price(p)) for t, quantity, p in case.fills],
        stop=price(case.stop),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("side", ["BUY", "SELL"])
def test_one_order(tx: Conn, case: Case, side: str) -> None:
    case = case if side == "BUY" else mirrored(case)
    bars = {on_day(t): bar for t, bar in case.bars.items()}
    terms = dict(case.terms)
    if "good_till" in terms:
        terms["good_till"] = at(on_day(terms["good_till"]))
    for way in ("every bar", "late"):
        run = desk_with(tx, bars, tick_size=case.tick, **(case.run or {}))
        order = run.place("ACME", side, 7, **terms)
        assert (order["status"], order["order_id"]) == ("PENDING", 2)
        for t in bars if way == "every bar" else list(bars)[-1:]:
            run.tick(t)
        found = run.order(2)
        status, _, closed = case.end.rpartition(" ")
        assert ended(run, 2) == ((status, on_day(closed)) if status else (closed, None)), way
        assert fills_of(run, 2) == [(on_day(t), quantity, price) for t, quantity, price in case.fills], way
        filled = sum(quantity for _, quantity, _ in case.fills)
        value = sum(D(quantity) * D(price) for _, quantity, price in case.fills)
        assert found["filled_quantity"] == filled
        assert found["avg_fill_price"] == (round(value / filled, 8) if filled else None)
        assert found["stop_price"] == (case.stop or order["stop_price"]), way
        assert run.rules() == set()


# --- slippage and volume -----------------------------------------------------------------------------------------------


def test_the_price_of_an_impact_is_exact_before_it_goes_to_the_grid(tx: Conn) -> None:
    """(20 / 30)² has no last digit, but 90 times 0.1 times it has: 4."""
    run = desk_with(tx, {f"{DAY1} 11:00": (90, 100, 80, 90, 30)}, tick_size=D("0.05"), volume_impact=D("0.1"))
    run.place("ACME", "BUY", 20)
    run.place("ACME", "SELL", 20)
    run.tick(f"{DAY1} 11:00")
    assert [run.order(n)["avg_fill_price"] for n in (2, 3)] == [94, 86]


@pytest.mark.parametrize(("side", "sign"), [("BUY", 1), ("SELL", -1)])
def test_slippage_to_eight_decimals(tx: Conn, side: str, sign: int) -> None:
    """Of stops too, and half away from zero."""
    run = desk_with(tx, {f"{DAY1} 11:00": (100, 110, 90, 100)}, slippage_bps=D("12.3456"))
    run.place("ACME", side, 7, order_type="STOP", stop_price=100 + 5 * sign)
    run.place("ACME", side, 7, order_type="TRAILING_STOP", trail_amount=D("5.00000040"))
    run.tick(f"{DAY1} 11:00")
    share = D("0.00123456")
    stops = [D(100 + 5 * sign), D(100) + sign * D("5.00000040")]
    assert [run.order(n)["avg_fill_price"] for n in (2, 3)] == [
        (s * (1 + sign * share)).quantize(D("1e-8"), ROUND_HALF_UP) for s in stops
    ]


def test_orders_of_a_bar_share_its_volume_in_the_order_of_execution(tx: Conn) -> None:
    bars = {f"{DAY1} 11:00": (100, 106, 94, 100, 100), f"{DAY1} 12:00": (100, 101, 99, 100, 100)}
    run = desk_with(tx, bars, **{"participation": D("0.1")})
    run.place("ACME", "BUY", 4)  # 2
    run.place("ACME", "SELL", 4)  # 3
    run.place("ACME", "SELL", 4, order_type="STOP", stop_price=95)  # 4, which comes first
    run.place("ACME", "BUY", 4, limit=100)  # 5
    run.place("CLOCK", "BUY", 4)  # 6: a volume of its own, unknown
    run.tick(f"{DAY1} 11:00")
    assert [(t[0], t[4]) for t in run.trades()[1:]] == [(4, 4), (3, 4), (2, 2), (6, 4)]
    assert run.orders()[1:] == ["PARTIALLY_FILLED", "FILLED", "FILLED", "PENDING", "FILLED"]
    other = Run(run.market, participation=D("0.1"))
    other.tick(f"{DAY1} 11:00")
    other.place("ACME", "BUY", 10)
    run.tick(f"{DAY1} 12:00")
    other.tick(f"{DAY1} 12:00")
    assert [(t[0], t[4]) for t in run.trades()[5:]] == [(2, 2), (5, 4)]
    assert other.trades()[0][4] == 10  # another run's fills take nothing
    assert run.rules() == other.rules() == set()


def test_fills_of_plans_are_neither_capped_nor_counted(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": (100, 101, 99, 100, 10)}, participation=D("0.1"))
    run.sip("ACME", 5000, "DAILY", DAY1)
    run.place("ACME", "BUY", 5)
    for _ in range(2):  # the plan's fill stands before the order is matched again
        run.call("try_execute_sip", logical_time=at(f"{DAY1} 11:00"))
    assert run.trades()[-1][4] == 50
    run.tick(f"{DAY1} 11:00")
    assert [(t[0], t[4]) for t in run.trades()[1:]] == [(3, 50), (2, 1)]
    run.rebalance('{"ACME": 0}', "DAILY", DAY2)
    assert run.rules() == set()


def test_the_matching_alone_and_the_tick_share_one_volume(tx: Conn) -> None:
    bars = {f"{DAY1} {h}:00": (100, 101, 99, 100, v) for h, v in ((11, 30), (12, 50), (13, 70))}
    run = desk_with(tx, bars, participation=D("0.1"))
    run.place("ACME", "BUY", 9)  # 2
    run.place("ACME", "SELL", 9)  # 3
    run.place("ACME", "BUY", 1, limit=90)  # 4
    for _ in range(3):
        run.call("match_orders", logical_time=at(f"{DAY1} 12:00"))
        assert [(t[0], t[4]) for t in run.trades()[1:]] == [(3, 3), (3, 5)]
    run.place("ACME", "SELL", 4)  # 5: since the last tick, so these bars are its own too, but their volume is used
    run.tick(f"{DAY1} 12:00")
    assert len(run.trades()) == 3
    run.tick(f"{DAY1} 13:00")
    assert [(t[0], t[4]) for t in run.trades()[3:]] == [(3, 1), (5, 4), (2, 2)]
    assert run.rules() == set()


# --- what a fill may still be refused ----------------------------------------------------------------------------------


def sell_all(run: Run) -> None:
    run.rebalance('{"CLOCK": 0}', "DAILY", DAY1)
    assert run.call("try_rebalance", logical_time=at(f"{DAY1} 12:00")) == 1


def spend_all(run: Run) -> None:
    left = run.order(2)["quantity"] - run.order(2)["filled_quantity"]
    assert run.place("CLOCK", "BUY", run.cash - 100 * left, limit=1)["status"] == "PENDING"


REASONS: dict[str, tuple[str, Callable[[Run], Any]]] = {
    "SYMBOL_FORBIDDEN": ("BUY", lambda run: run.call("forbid_symbol", symbol="ACME")),
    "ORDER_VALUE_EXCEEDED": ("SELL", lambda run: run.call("set_risk_limit", max_order_value=899)),
    "POSITION_LIMIT_EXCEEDED": ("BUY", lambda run: run.call("set_risk_limit", max_position=1002)),
    "CASH_INSUFFICIENT": ("BUY", spend_all),
    "POSITION_INSUFFICIENT": ("SELL", sell_all),
}


@pytest.mark.parametrize("touched", [True, False])
@pytest.mark.parametrize("reason", REASONS)
def test_an_untouched_order_is_rejected_at_its_fill_and_a_partly_filled_one_canceled(
    tx: Conn, reason: str, touched: bool
) -> None:
    side, change = REASONS[reason]
    bars = {f"{DAY1} 11:00": (100, 101, 99, 100, 30), f"{DAY1} 12:00": (300, 301, 299, 300, 30)}
    run = desk_with(tx, bars, participation=D("0.1"))
    if touched:
        run.place("ACME", side, 7)
    run.tick(f"{DAY1} 11:00")
    if not touched:
        run.place("ACME", side, 7)
    change(run)
    run.tick(f"{DAY1} 12:00")
    assert ended(run, 2) == ("CANCELED" if touched else f"REJECTED {reason}", f"{DAY1} 12:00")
    assert run.order(2)["filled_quantity"] == (3 if touched else 0)
    assert run.rules() == set()


def test_the_cash_of_a_canceled_rest_is_free_in_the_same_bar(tx: Conn) -> None:
    bars = {f"{DAY1} 11:00": (100, 101, 99, 100, 30)}
    run = desk_with(tx, bars, held=0, participation=D("0.1"))
    run.place("ACME", "BUY", 9000, time_in_force="IOC")  # 1: all but 100,000 is held back, 3 are filled
    run.place("CLOCK", "BUY", 100_000, limit=1)  # 2
    run.tick(f"{DAY1} 11:00")
    assert run.orders() == ["CANCELED", "FILLED"]
    assert run.place("CLOCK", "BUY", 899_700, limit=1)["status"] == "PENDING"


@pytest.mark.parametrize(("units", "status"), [(300_000, "FILLED"), (300_001, "REJECTED CASH_INSUFFICIENT")])
def test_what_is_left_of_an_order_is_held_back_in_the_same_bar(tx: Conn, units: int, status: str) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": (100, 101, 99, 100, 30)}, held=0, participation=D("0.1"))
    run.place("ACME", "BUY", 7000, limit=100)  # 3 are filled
    run.place("CLOCK", "BUY", units)  # no price is known yet
    run.tick(f"{DAY1} 11:00")
    assert run.orders() == ["PARTIALLY_FILLED", status]


def test_what_is_left_of_an_order_is_held_back(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": (100, 101, 99, 100, 30)}, held=0, participation=D("0.1"))
    run.place("ACME", "BUY", 7, limit=100)
    run.tick(f"{DAY1} 11:00")
    assert run.place("CLOCK", "BUY", 1_000_000 - 700 + 1, limit=1)["reject_reason"] == "CASH_INSUFFICIENT"
    assert run.place("CLOCK", "BUY", 1_000_000 - 700, limit=1)["status"] == "PENDING"
    run.call("set_risk_limit", max_position=10)
    assert run.place("ACME", "BUY", 4, limit=D("0.00000001"))["reject_reason"] == "POSITION_LIMIT_EXCEEDED"
    assert run.place("ACME", "BUY", 3, limit=D("0.00000001"))["status"] == "PENDING"
    assert run.place("ACME", "SELL", 3)["status"] == "PENDING"
    assert run.place("ACME", "SELL", 1)["reject_reason"] == "POSITION_INSUFFICIENT"


# --- the order of execution --------------------------------------------------------------------------------------------


def test_protective_exits_then_other_sells_then_buys(tx: Conn) -> None:
    """By order_id within each, across symbols; the stops' kinds do not matter."""
    noon = f"{DAY1} 12:00"
    market = weekday_market(tx, DAY1, "2024-01-05")
    for symbol in ("A", "B"):
        market.bars(symbol, {T0: 100, noon: (100, 120, 80, 100)})
    run = Run(market)
    for symbol in ("A", "B"):
        run.place(symbol, "BUY", 50)
    run.tick(T0)
    run.place("B", "BUY", 1)  # 3
    run.place("A", "BUY", 1, order_type="STOP", stop_price=110)  # 4: an entry
    run.place("B", "SELL", 1, limit=110)  # 5
    run.place("A", "SELL", 1, order_type="TRAILING_STOP", trail_amount=10)  # 6
    run.place("B", "SELL", 1)  # 7
    run.place("A", "SELL", 1, order_type="STOP", stop_price=90)  # 8
    run.place("B", "SELL", 1, order_type="STOP_LIMIT", stop_price=90, limit_price=85)  # 9
    pair(run, "A", "BUY", 1, limit_price=70, stop_price=110)  # 10, 11: a stop of a pair protects
    run.tick(noon)
    assert [t[0] for t in run.trades()[2:]] == [6, 8, 9, 11, 5, 7, 3, 4]
    assert run.rules() == set()


def test_orders_whose_time_was_over_expire_before_the_bar_and_the_others_after_it(tx: Conn) -> None:
    """Seen by the cash that they hold back from a market order that has become dearer."""
    noon = f"{DAY1} 12:00"
    for end, dear in ((f"{DAY1} 11:00", "FILLED"), (noon, "REJECTED CASH_INSUFFICIENT")):
        run = desk_with(tx, {noon: (150, 151, 149, 150)}, held=0)
        run.place("ACME", "BUY", 5000, limit=100, time_in_force="GTD", good_till=at(end))
        run.place("ACME", "BUY", 5000)
        run.tick(noon)
        assert run.orders() == ["EXPIRED", dear]
        assert run.rules() == set()


# --- brackets ----------------------------------------------------------------------------------------------------------

EXITS = {"take_profit": 110, "stop_loss": 90}
AN_EXIT = "order_id, logical_time, side, order_type, quantity, limit_price, stop_price, time_in_force, good_till"
AN_EXIT += ", source, oco_id, parent_order_id, reserve_price"


def test_an_entry_that_fills_gets_its_exits(tx: Conn) -> None:
    eleven = f"{DAY1} 11:00"
    for side, target, stop in (("BUY", 110, 90), ("SELL", 90, 110)):
        other = "SELL" if side == "BUY" else "BUY"
        for tif, of_exits in (("GTC", "GTC"), ("DAY", "DAY"), ("IOC", "GTC"), ("FOK", "GTC"), ("GTD", "GTD")):
            run = desk_with(tx, {eleven: (100, 101, 99, 100)})
            good_till = at(f"{DAY2} 11:00") if tif == "GTD" else None
            terms = {"time_in_force": tif, "good_till": good_till, "take_profit": target}
            run.place("ACME", side, 7, **terms, stop_loss=stop)
            run.tick(eleven)
            base = (of_exits, good_till, "BRACKET", 3, 2, None)
            assert run.table(AN_EXIT, "paper_order", "order_id")[2:] == [
                (3, at(eleven), other, "LIMIT", 7, target, None, *base),
                (4, at(eleven), other, "STOP", 7, None, stop, *base),
            ]
            run.place("ACME", side, 7, **terms)
            run.place("ACME", side, 7, **{**terms, "take_profit": None}, stop_loss=stop, stop_loss_limit=stop + 1)
            run.tick(f"{DAY1} 11:00")
            assert run.count("paper_order") == 6
            assert run.rules() == set()


@pytest.mark.parametrize("exits", [{"take_profit": 110}, {"stop_loss": 90}, {"stop_loss": 90, "stop_loss_limit": 88}])
def test_an_entry_with_one_exit(tx: Conn, exits: dict[str, Any]) -> None:
    bars = {f"{DAY1} 11:00": (100, 101, 99, 100), f"{DAY1} 12:00": (100, 111, 89, 100)}
    run = desk_with(tx, bars)
    run.place("ACME", "BUY", 7, **exits)
    run.tick(f"{DAY1} 11:00")
    found = run.order(3)
    kind = "LIMIT" if "take_profit" in exits else "STOP_LIMIT" if "stop_loss_limit" in exits else "STOP"
    limit = exits.get("take_profit", exits.get("stop_loss_limit"))
    assert (found["order_type"], found["limit_price"], found["stop_price"]) == (kind, limit, exits.get("stop_loss"))
    assert (found["oco_id"], found["parent_order_id"], run.count("paper_order")) == (3, 2, 3)
    run.tick(f"{DAY1} 12:00")
    assert fills_of(run, 3) == [(f"{DAY1} 12:00", 7, 110 if kind == "LIMIT" else 90)]
    assert run.rules() == set()


class Entry(NamedTuple):
    name: str
    terms: dict[str, Any]
    bar: tuple[Any, ...]
    exit: tuple[int, Any] | None  # what fills on the entry's bar: 3 is the target, 4 the stop
    side: str = "BUY"


ENTRIES = [
    Entry("at the open: the stop", {}, (100, 105, 89, 95), (4, 90)),
    Entry("at the open: the target", {}, (100, 112, 95, 111), (3, 110)),
    Entry("at the open: the stop before the target", {}, (100, 112, 89, 100), (4, 90)),
    Entry("at the open: neither", {}, (100, 109, 91, 100), None),
    Entry("limit at the open", {"limit": 101}, (100, 112, 95, 111), (3, 110)),
    Entry("limit within the bar: the next bar", {"limit": 99}, (100, 112, 89, 100), None),
    Entry("stop at the open", {"order_type": "STOP", "stop_price": 100}, (100, 112, 95, 111), (3, 110)),
    Entry("stop within the bar: the next bar", {"order_type": "STOP", "stop_price": 101}, (100, 112, 89, 100), None),
    Entry("the target is beyond the open: fresh, at the open", {"limit": 105}, (115, 120, 104, 110), None),
    Entry("gap through the stop", {}, (85, 86, 84, 85), (4, 85)),
    Entry("gap beyond the target", {}, (115, 116, 114, 115), (3, 115)),
    Entry("sold at the open: the stop", {}, (100, 112, 89, 100), (4, 110), "SELL"),
    Entry("sold at the open: the target", {}, (100, 109, 89, 100), (3, 90), "SELL"),
]


@pytest.mark.parametrize("case", ENTRIES, ids=lambda c: c.name)
def test_exits_match_the_bar_of_an_entry_at_its_open(tx: Conn, case: Entry) -> None:
    eleven = f"{DAY1} 11:00"
    run = desk_with(tx, {eleven: case.bar})
    target, stop = (110, 90) if case.side == "BUY" else (90, 110)
    run.place("ACME", case.side, 7, **case.terms, take_profit=target, stop_loss=stop)
    run.tick(eleven)
    exits = [(t[0], t[5]) for t in run.trades()[2:]]
    assert exits == ([case.exit] if case.exit else [])
    if case.exit:
        assert ended(run, 7 - case.exit[0]) == ("CANCELED", eleven)
    elif run.status(2) == "FILLED":
        assert run.orders()[2:] == ["PENDING", "PENDING"]
    assert run.rules() == set()


def test_the_target_that_buys_back_waits_for_its_phase(tx: Conn) -> None:
    """Of a sale at the open: the stop comes at once, the target among the buys, by order_id."""
    eleven = f"{DAY1} 11:00"
    run = desk_with(tx, {eleven: (100, 109, 89, 100)})
    run.place("ACME", "BUY", 1)  # 2
    run.place("ACME", "SELL", 1, take_profit=90, stop_loss=110)  # 3 makes 5 and 6
    run.place("ACME", "SELL", 1)  # 4
    run.tick(eleven)
    assert [t[0] for t in run.trades()[1:]] == [3, 4, 2, 5]


def test_exits_grow_with_their_entry_and_are_made_anew_when_they_have_closed(tx: Conn) -> None:
    bars: dict[str, Any] = {f"{DAY1} {h}:00": (100, 101, 99, 100, 30) for h in (11, 12)}
    bars[f"{DAY1} 13:00"] = (109, 111, 108, 110, 1000)  # the target, then the entry again
    bars[f"{DAY1} 14:00"] = (100, 101, 91, 100, 40)
    run = desk_with(tx, bars, participation=D("0.1"))
    run.place("ACME", "BUY", 9, limit=100, **EXITS)
    run.tick(f"{DAY1} 11:00")
    assert [run.order(n)["quantity"] for n in (3, 4)] == [3, 3]
    run.tick(f"{DAY1} 12:00")
    assert [run.order(n)["quantity"] for n in (3, 4)] == [6, 6]
    assert run.order(3)["logical_time"] == at(f"{DAY1} 11:00")
    run.tick(f"{DAY1} 13:00")
    assert run.orders()[1:] == ["PARTIALLY_FILLED", "FILLED", "CANCELED"]
    run.tick(f"{DAY1} 14:00")
    assert run.orders()[1:] == ["FILLED", "FILLED", "CANCELED", "PENDING", "PENDING"]
    new = [(run.order(n)["quantity"], run.order(n)["oco_id"], run.order(n)["parent_order_id"]) for n in (5, 6)]
    assert new == [(3, 5, 2), (3, 5, 2)]
    assert run.rules() == set()


def test_exits_of_an_entry_at_the_open_share_the_volume_of_its_bar(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": (100, 112, 95, 100, 100)}, participation=D("0.1"))
    run.place("ACME", "BUY", 7, **EXITS)
    run.tick(f"{DAY1} 11:00")
    assert [(t[0], t[4]) for t in run.trades()[1:]] == [(2, 7), (3, 3)]
    assert (run.order(3)["quantity"], run.order(4)["quantity"], run.status(4)) == (7, 4, "PENDING")
    assert run.rules() == set()


def test_exits_made_at_the_close_belong_to_the_next_session(tx: Conn) -> None:
    close2 = f"{DAY2} 16:00"
    run = desk_with(tx, {CLOSE1: (100, 101, 99, 100), close2: (100, 101, 99, 100)})
    run.place("ACME", "BUY", 7, **EXITS, time_in_force="DAY")
    run.tick(CLOSE1)
    assert run.orders()[1:] == ["FILLED", "PENDING", "PENDING"]
    run.tick(close2)
    assert [ended(run, n) for n in (3, 4)] == [("EXPIRED", close2)] * 2


def test_exits_made_by_the_matching_alone_match_later_bars_only(tx: Conn) -> None:
    bars = {f"{DAY1} 11:00": (100, 112, 89, 100), f"{DAY1} 12:00": (100, 101, 99, 100)}
    run = desk_with(tx, bars)
    run.place("ACME", "BUY", 7, limit=95, **EXITS)
    run.call("match_orders", logical_time=at(f"{DAY1} 11:00"))
    assert run.status(2) == "FILLED"
    run.place("ACME", "BUY", 1)  # something to match there is
    run.tick(f"{DAY1} 12:00")
    assert run.orders()[1:] == ["FILLED", "PENDING", "PENDING", "FILLED"]
    assert run.rules() == set()


def test_a_canceled_entry_leaves_its_exits(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": (100, 101, 99, 100, 30)}, participation=D("0.1"))
    run.place("ACME", "BUY", 7, **EXITS)
    run.tick(f"{DAY1} 11:00")
    run.cancel(2)
    assert run.orders()[1:] == ["CANCELED", "PENDING", "PENDING"]
    run.call("stop_run")
    assert run.orders()[1:] == ["CANCELED"] * 3


def test_an_exit_that_is_rejected_takes_the_other_with_it(tx: Conn) -> None:
    bars = {f"{DAY1} 11:00": (100, 101, 99, 100), f"{DAY1} 12:00": (100, 101, 89, 90)}
    run = desk_with(tx, bars, held=0)
    run.place("ACME", "BUY", 7, **EXITS)
    run.tick(f"{DAY1} 11:00")
    run.call("forbid_symbol", symbol="ACME")
    run.tick(f"{DAY1} 12:00")
    assert [ended(run, n) for n in (2, 3)] == [
        ("CANCELED", f"{DAY1} 12:00"),
        ("REJECTED SYMBOL_FORBIDDEN", f"{DAY1} 12:00"),
    ]


BAD_EXITS: list[dict[str, Any]] = [
    {"take_profit": 90, "stop_loss": 110},
    {"take_profit": 100, "stop_loss": 100},
    {"limit": 100, "take_profit": 100},
    {"limit": 100, "take_profit": 99},
    {"limit": 100, "stop_loss": 100},
    {"limit": 100, "stop_loss": 101},
    {"stop_loss_limit": 90},
]


@pytest.mark.parametrize("terms", BAD_EXITS, ids=str)
@pytest.mark.parametrize("side", ["BUY", "SELL"])
def test_exits_lie_on_either_side_of_the_entry(tx: Conn, terms: dict[str, Any], side: str) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": 100})
    with refused(tx, "TE101"):
        run.place("ACME", side, 1, **(terms if side == "BUY" else {k: 200 - v for k, v in terms.items()}))
    assert run.count("paper_order") == 1


# --- one cancels other -------------------------------------------------------------------------------------------------

PAIR = {"limit_price": 110, "stop_price": 90}


def test_a_pair_is_stored_as_two_orders(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": 100})
    first, second = pair(run, "ACME", "SELL", 7, **PAIR, client_order_id="k")
    terms = ["order_type", "limit_price", "stop_price", "quantity", "status", "oco_id", "client_order_id", "source"]
    assert [first[t] for t in terms] == ["LIMIT", 110, None, 7, "PENDING", 2, "k", "CLIENT"]
    assert [second[t] for t in terms] == ["STOP", None, 90, 7, "PENDING", 2, None, "CLIENT"]
    assert (first, second) == (run.order(2), run.order(3))
    assert pair(run, "ACME", "SELL", 7, **PAIR, client_order_id="k") == [first, second]
    with refused(tx, "TE102"):
        pair(run, "ACME", "SELL", 8, **PAIR, client_order_id="k")
    limited = pair(run, "ACME", "SELL", 7, **PAIR, stop_limit_price=88)[1]
    assert [limited[t] for t in terms] == ["STOP_LIMIT", 88, 90, 7, "PENDING", 4, None, "CLIENT"]
    assert pair(run, "ACME", "SELL", 7, **PAIR)[0]["oco_id"] == 6


@pytest.mark.parametrize(
    ("bar", "fill"),
    [
        ((100, 110, 95, 109), (2, 110)),
        ((100, 105, 90, 91), (3, 90)),
        ((100, 111, 89, 100), (3, 90)),  # the stop before the target
        ((100, 105, 95, 100), None),
    ],
)
def test_the_fill_of_one_cancels_the_other(tx: Conn, bar: tuple[int, ...], fill: tuple[int, int] | None) -> None:
    eleven = f"{DAY1} 11:00"
    run = desk_with(tx, {eleven: bar})
    pair(run, "ACME", "SELL", 7, **PAIR)
    run.tick(eleven)
    assert [(t[0], t[5]) for t in run.trades()[1:]] == ([fill] if fill else [])
    if fill:
        assert ended(run, fill[0]) == ("FILLED", eleven)
        assert ended(run, 5 - fill[0]) == ("CANCELED", eleven)
        assert run.order(5 - fill[0])["filled_quantity"] == 0
    else:
        assert run.orders()[1:] == ["PENDING", "PENDING"]
    assert run.rules() == set()


def test_what_one_fills_the_other_loses(tx: Conn) -> None:
    bars = {
        f"{DAY1} 11:00": (110, 111, 105, 106, 30),
        f"{DAY1} 12:00": (91, 92, 89, 90, 20),
        f"{DAY1} 13:00": (95, 112, 94, 111, 1000),  # the stop is a market order now, and comes first
    }
    run = desk_with(tx, bars, participation=D("0.1"))
    pair(run, "ACME", "SELL", 7, **PAIR)
    run.tick(f"{DAY1} 11:00")
    columns = "order_id, quantity, filled_quantity, status"
    assert run.table(columns, "paper_order", "order_id")[1:] == [(2, 7, 3, "PARTIALLY_FILLED"), (3, 4, 0, "PENDING")]
    assert run.place("ACME", "SELL", 994)["reject_reason"] == "POSITION_INSUFFICIENT"
    assert run.place("ACME", "SELL", 993, limit=500)["status"] == "PENDING"
    run.tick(f"{DAY1} 12:00")
    assert run.table(columns, "paper_order", "order_id")[1:3] == [
        (2, 5, 3, "PARTIALLY_FILLED"),
        (3, 4, 2, "PARTIALLY_FILLED"),
    ]
    run.tick(f"{DAY1} 13:00")
    assert fills_of(run, 3) == [(f"{DAY1} 12:00", 2, 90), (f"{DAY1} 13:00", 2, 95)]
    assert [ended(run, n) for n in (2, 3)] == [("CANCELED", f"{DAY1} 13:00"), ("FILLED", f"{DAY1} 13:00")]
    assert run.held("ACME") == 993
    assert run.rules() == set()


def test_the_cancel_of_one_cancels_the_other(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": 100})
    for n in (0, 1):
        ids = [order["order_id"] for order in pair(run, "ACME", "SELL", 7, **PAIR)]
        pair(run, "ACME", "SELL", 7, **PAIR)
        assert run.cancel(ids[n])["status"] == "CANCELED"
        assert [ended(run, i) for i in ids] == [("CANCELED", T0)] * 2
    assert run.orders()[3:5] == ["PENDING", "PENDING"]


def test_a_pair_expires_order_by_order(tx: Conn) -> None:
    run = desk_with(tx, {CLOSE1: (100, 101, 99, 100)})
    pair(run, "ACME", "SELL", 7, **PAIR, time_in_force="DAY")
    pair(run, "ACME", "SELL", 7, **PAIR, time_in_force="GTD", good_till=at(f"{DAY1} 15:00"))
    run.tick(CLOSE1)
    assert [ended(run, n) for n in (2, 3, 4, 5)] == [("EXPIRED", CLOSE1)] * 4


def test_a_stop_limit_of_a_pair_that_is_triggered_leaves_the_other_open(tx: Conn) -> None:
    bars = {f"{DAY1} 11:00": (100, 101, 89, 90), f"{DAY1} 12:00": (95, 111, 94, 100)}
    run = desk_with(tx, bars)
    pair(run, "ACME", "SELL", 7, **PAIR, stop_limit_price=92)
    run.tick(f"{DAY1} 11:00")
    assert run.orders()[1:] == ["PENDING", "TRIGGERED"]
    run.tick(f"{DAY1} 12:00")
    assert run.orders()[1:] == ["CANCELED", "FILLED"]
    assert fills_of(run, 3) == [(f"{DAY1} 12:00", 7, 94)]


def test_a_pair_counts_once(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": 100}, held=10)
    pair(run, "ACME", "SELL", 7, **PAIR)
    assert [o["reject_reason"] for o in pair(run, "ACME", "SELL", 4, **PAIR)] == ["POSITION_INSUFFICIENT"] * 2
    assert run.place("ACME", "SELL", 3)["status"] == "PENDING"
    run.call("set_risk_limit", max_position=20)
    one, other = pair(run, "ACME", "BUY", 10, limit_price=90, stop_price=110)
    assert (one["reserve_price"], other["reserve_price"]) == (110, 110)
    cheap = pair(Run(run.market), "ACME", "BUY", 10, limit_price=90, stop_price=110, stop_limit_price=80)
    assert [o["reserve_price"] for o in cheap] == [90, 90]
    assert run.place("ACME", "BUY", 1)["reject_reason"] == "POSITION_LIMIT_EXCEEDED"
    run.call("set_risk_limit")
    assert run.place("CLOCK", "BUY", run.cash - 1100, limit=1)["status"] == "PENDING"
    assert run.place("CLOCK", "BUY", 1, limit=1)["reject_reason"] == "CASH_INSUFFICIENT"
    run.cancel(one["order_id"])
    assert run.place("CLOCK", "BUY", 1100, limit=1)["status"] == "PENDING"


def test_a_pair_of_buys_is_rejected_for_its_dearer_order(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": 100}, held=0)
    terms = {"limit_price": 90, "stop_price": 110}
    assert {o["reject_reason"] for o in pair(run, "ACME", "BUY", 9091, **terms)} == {"CASH_INSUFFICIENT"}
    assert {o["status"] for o in pair(run, "ACME", "BUY", 9090, **terms)} == {"PENDING"}


def test_a_pair_with_a_new_order_holds_back_for_the_dearer_one_with_its_fees(tx: Conn) -> None:
    tx.execute(
        "insert into fee_schedule (fee_schedule, component, side, effective_from, flat_amount, source)"
        " values ('FLAT', 'FEE', 'BUY', '1900-01-01', 10, 'a test')"
    )
    run = desk_with(tx, {f"{DAY1} 11:00": 100}, held=0, fee_schedule="FLAT")
    one, other = pair(run, "ACME", "BUY", 10, limit_price=90, stop_price=110)
    assert (one["reserve_price"], other["reserve_price"]) == (111, 111)
    run.call("replace_order", order_id=1, limit_price=D(95))
    assert [run.order(n)["reserve_price"] for n in (2, 3)] == [111, 111]  # the other's, that has stayed
    run.call("replace_order", order_id=2, stop_price=D(96))
    assert [run.order(n)["reserve_price"] for n in (3, 4)] == [97, 97]
    assert run.place("CLOCK", "BUY", run.cash - 970 - 10, limit=1)["status"] == "PENDING"
    assert run.place("CLOCK", "BUY", 1, limit=1)["reject_reason"] == "CASH_INSUFFICIENT"
    assert run.rules() == set()


def test_a_pair_with_a_new_order_reserves_only_what_opens(tx: Conn) -> None:
    terms = {"initial_margin": D("0.5"), "maintenance_margin": D("0.25")}
    run = desk_with(tx, {f"{DAY1} 11:00": 100}, held=10, **terms)
    pair(run, "ACME", "SELL", 10, **PAIR)
    assert [run.order(n)["reserve_price"] for n in (2, 3)] == [None, None]
    run.call("replace_order", order_id=2, limit_price=D(120))
    assert [run.order(n)["reserve_price"] for n in (3, 4)] == [None, None]
    run.place("ACME", "SELL", 5)
    run.tick(f"{DAY1} 11:00")
    run.call("replace_order", order_id=3, stop_price=D(80))  # 5 of 10 open: half of 120, what the other now reserves
    assert [run.order(n)["reserve_price"] for n in (4, 6)] == [60, 60]
    assert run.rules() == set()


def test_a_pair_of_entries_pays_with_what_it_has_held_back(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": (100, 111, 99, 110)}, held=0)
    pair(run, "ACME", "BUY", 9090, limit_price=90, stop_price=110)
    run.tick(f"{DAY1} 11:00")
    assert run.orders() == ["CANCELED", "FILLED"]
    assert run.cash == 1_000_000 - 999_900


BAD_PAIRS: list[dict[str, Any]] = [
    {"limit_price": 90, "stop_price": 110},
    {"limit_price": 100, "stop_price": 100},
    {**PAIR, "time_in_force": "IOC"},
    {**PAIR, "time_in_force": "FOK"},
    {**PAIR, "time_in_force": "GTD"},
    {**PAIR, "good_till": at(CLOSE1)},
    {**PAIR, "time_in_force": "GTD", "good_till": at(T0)},
    {**PAIR, "limit_price": None},
    {**PAIR, "stop_price": None},
    {**PAIR, "stop_limit_price": D("NaN")},
    {**PAIR, "stop_price": 0},
]


@pytest.mark.parametrize("terms", BAD_PAIRS, ids=str)
def test_what_cannot_be_a_pair_is_refused(tx: Conn, terms: dict[str, Any]) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": 100})
    with refused(tx, "TE101"):
        pair(run, "ACME", "SELL", 7, **terms)
    assert run.count("paper_order") == 1


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


@pytest.mark.parametrize(("side", "sign"), [("BUY", 1), ("SELL", -1)])
def test_a_trail_in_percent(tx: Conn, side: str, sign: int) -> None:
    best = D("98.7654321") if side == "BUY" else D("101.2345679")
    bars = {f"{DAY1} 11:00": (100, max(100, best), min(100, best), 100), f"{DAY1} 12:00": 100}
    run = desk_with(tx, bars)
    order = run.place("ACME", side, 7, order_type="TRAILING_STOP", trail_percent=D("3.3"))
    assert order["stop_price"] == 100 + sign * D("3.3")
    run.tick(f"{DAY1} 12:00")
    stop = (best * (1 + sign * D("0.033"))).quantize(D("1e-8"), ROUND_HALF_UP)
    assert (run.status(2), run.order(2)["stop_price"]) == ("PENDING", stop)


def test_a_trail_without_a_price_starts_at_its_first_bar(tx: Conn) -> None:
    run = Run(Market(tx))
    run.market.bars("A", {"2024-01-01 12:00": (100, 104, 99, 101), "2024-01-01 13:00": (101, 103, 94, 95)})
    run.market.bars("B", {"2024-01-01 12:00": 1, "2024-01-01 13:00": (100, 104, 99, 101), "2024-01-01 14:00": 109})
    run.place("A", "BUY", 1, order_type="TRAILING_STOP", trail_amount=4)  # before the first tick
    run.place("B", "BUY", 1, order_type="MARKET")
    assert run.order(1)["stop_price"] is None
    run.tick("2024-01-01 12:00")
    assert (run.status(1), run.order(1)["stop_price"]) == ("PENDING", 103)
    run.tick("2024-01-01 13:00")
    assert (run.status(1), run.order(1)["avg_fill_price"]) == ("FILLED", 103)
    late = run.place("C", "BUY", 1, order_type="TRAILING_STOP", trail_amount=4)
    assert late["reject_reason"] == "SYMBOL_UNKNOWN"
    assert run.rules() == set()


def test_the_stop_of_a_trail_is_stored_as_of_the_last_tick(tx: Conn) -> None:
    bars = {f"{DAY1} {h}:00": (100, high, 99, 100) for h, high in ((11, 102), (12, 105), (13, 104), (14, 106))}
    run = desk_with(tx, bars)
    for terms in ({}, {"time_in_force": "DAY"}):
        run.place("ACME", "SELL", 1, order_type="TRAILING_STOP", trail_amount=20, **terms)

    def stops() -> list[Any]:
        return [run.order(n)["stop_price"] for n in (2, 3)]

    assert stops() == [80, 80]
    run.tick(f"{DAY1} 12:00")
    assert stops() == [85, 85]
    run.tick(f"{DAY1} 13:00")
    assert stops() == [85, 85]
    run.cancel(2)
    run.tick(f"{DAY1} 14:00")
    assert stops() == [85, 86]
    run.call("stop_run")
    assert stops() == [85, 86]
    assert run.orders()[1:] == ["CANCELED", "CANCELED"]


def test_a_trail_that_is_rejected_keeps_the_level_that_was_met(tx: Conn) -> None:
    bars = {
        f"{DAY1} 11:00": (100, 110, 99, 100),
        f"{DAY1} 12:00": (100, 120, 89, 90),
        f"{DAY1} 13:00": (200, 300, 199, 200),
    }
    run = desk_with(tx, bars)
    run.place("ACME", "SELL", 1, order_type="TRAILING_STOP", trail_amount=20)
    run.call("forbid_symbol", symbol="ACME")
    run.tick(f"{DAY1} 13:00")
    assert ended(run, 2) == ("REJECTED SYMBOL_FORBIDDEN", f"{DAY1} 12:00")
    assert (run.order(2)["stop_price"], run.order(2)["triggered_time"]) == (90, at(f"{DAY1} 12:00"))


@pytest.mark.parametrize("calendar", ["ALWAYS", "sessions"])
def test_a_trail_over_thousands_of_bars_by_tick_and_replay(tx: Conn, calendar: str) -> None:
    bars = minutes(6000)
    sessions = [(f"2024-01-0{d}", "08:00", "20:00") for d in range(1, 9)]
    market = Market(tx, sessions if calendar == "sessions" else None)
    market.bars("ACME", bars)
    times = [t for t in bars if calendar == "ALWAYS" or market_open(t)]
    amounts = [30, 49, 52, 55, 60, 80]
    found = []
    for way in ("late", "replay", "some"):
        run = Run(market, 10**8)
        run.place("ACME", "BUY", 1000)
        run.tick(times[0])
        for n in amounts:
            run.place("ACME", "SELL", 1, order_type="TRAILING_STOP", trail_amount=n)
        start = time.monotonic()
        if way == "replay":
            tx.execute("call replay(%s, %s, %s, %s)", [*run.key, times[0], times[-1]])
        else:
            for t in times[999::1000] if way == "some" else []:
                run.tick(t)
            run.tick(times[-1])
        assert time.monotonic() - start < 20
        found.append(run.table("order_id, status, stop_price, avg_fill_price, closed_time", "paper_order", "order_id"))
        assert run.rules() == set()
        run.call("stop_run")
    assert found[0] == found[1] == found[2]
    assert found[0] == [(1, "FILLED", None, bars[times[0]][0], times[0]), *expected_trails(bars, times, amounts)]


def market_open(t: datetime) -> bool:
    return t.replace(hour=8, minute=0) < t <= t.replace(hour=20, minute=0)


def expected_trails(bars: dict[datetime, Any], times: list[datetime], amounts: list[int]) -> list[tuple[Any, ...]]:
    """Bar by bar, of sales."""
    found: list[tuple[Any, ...]] = []
    for n, amount in enumerate(amounts, 2):
        stop = bars[times[0]][3] - amount
        for t in times[1:]:
            if bars[t][2] <= stop:
                found.append((n, "FILLED", stop, min(stop, bars[t][0]), t))
                break
            stop = max(stop, bars[t][1] - amount)
        else:
            found.append((n, "PENDING", stop, None, None))
    return found


def test_many_trailing_stops(tx: Conn) -> None:
    """200 of them, with 2,000 bars in one tick."""
    bars = minutes(2000)
    market = Market(tx)
    market.bars("ACME", bars)
    times = list(bars)
    run = Run(market, 10**8)
    run.place("ACME", "BUY", 1000)
    run.tick(times[0])
    amounts = list(range(10, 210))
    for n in amounts:
        run.place("ACME", "SELL", 1, order_type="TRAILING_STOP", trail_amount=n)
    start = time.monotonic()
    run.tick(times[-1])
    assert time.monotonic() - start < 30
    found = run.table("order_id, status, stop_price, avg_fill_price, closed_time", "paper_order", "order_id")
    assert found[1:] == expected_trails(bars, times, amounts)


def test_a_trail_that_the_matching_alone_has_moved_does_not_meet_the_same_bar_again(tx: Conn) -> None:
    bars = {f"{DAY1} 11:00": (100, 110, 89, 100), f"{DAY1} 12:00": (100, 101, 91, 100)}
    for last in (f"{DAY1} 11:00", f"{DAY1} 12:00"):
        run = desk_with(tx, bars)
        run.place("ACME", "SELL", 1, order_type="TRAILING_STOP", trail_amount=20)
        run.place("ACME", "BUY", 1)
        assert run.call("match_orders", logical_time=at(f"{DAY1} 11:00")) == 1
        assert run.order(2)["stop_price"] == 90
        run.tick(last)
        assert (run.status(2), run.order(2)["stop_price"]) == ("PENDING", 90)


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


def test_replace_order_stores_a_new_order_and_cancels_the_old_one(tx: Conn) -> None:
    bars = {f"{DAY1} 11:00": (100, 101, 99, 100, 30), f"{DAY1} 12:00": (90, 91, 89, 90, 40)}
    run = desk_with(tx, bars, participation=D("0.1"))
    old = run.place("ACME", "BUY", 7, limit=100, time_in_force="DAY", client_order_id="old")
    run.tick(f"{DAY1} 11:00")
    new = run.call("replace_order", order_id=2, limit_price=95)
    assert ended(run, 2) == ("CANCELED", f"{DAY1} 11:00")
    assert (run.order(2)["filled_quantity"], run.order(2)["avg_fill_price"]) == (3, 100)
    assert new == run.order(3)
    changed = {k: new[k] for k in new if new[k] != old[k]}
    assert changed == {
        "order_id": 3,
        "logical_time": at(f"{DAY1} 11:00"),
        "quantity": 4,
        "limit_price": 95,
        "reserve_price": 95,
        "client_order_id": None,
        "client_terms": None,
        "replaces_order_id": 2,
    }
    run.tick(f"{DAY1} 12:00")  # the first bar that the new one sees: fresh
    assert fills_of(run, 3) == [(f"{DAY1} 12:00", 4, 90)]
    with refused(tx, "TE101"):
        run.call("replace_order", order_id=3, limit_price=95)
    with refused(tx, "TE101"):
        run.call("replace_order", order_id=99)
    assert run.rules() == set()


def test_replace_order_ignores_what_the_old_one_held_back(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": 100}, held=10)
    run.call("set_risk_limit", max_position=20)
    run.place("ACME", "BUY", 10, limit=90)  # 2
    run.call("set_risk_limit", max_position=20)
    assert run.call("replace_order", order_id=2, quantity=10)["status"] == "PENDING"
    assert run.call("replace_order", order_id=3, quantity=11)["reject_reason"] == "POSITION_LIMIT_EXCEEDED"
    assert [ended(run, n)[0] for n in (2, 3)] == ["CANCELED", "PENDING"]
    run.call("set_risk_limit")
    assert run.call("replace_order", order_id=3, quantity=11_100)["status"] == "PENDING"  # all of 999,000
    assert run.call("replace_order", order_id=5, limit_price=91)["reject_reason"] == "CASH_INSUFFICIENT"
    run.place("ACME", "SELL", 10, limit=110)  # 7
    assert run.call("replace_order", order_id=7, quantity=10)["status"] == "PENDING"
    assert run.call("replace_order", order_id=8, quantity=11)["reject_reason"] == "POSITION_INSUFFICIENT"
    assert run.rules() == set()


REPLACEMENTS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"order_type": "STOP", "stop_price": 110}, {"stop_price": 105}, {"stop_price": 105}),
    (stop_limit(107), {"limit_price": 106}, {"stop_price": 105, "limit_price": 106}),
    (TRAIL, {"trail_percent": 10}, {"trail_amount": None, "trail_percent": 10, "stop_price": 110}),
    (TRAIL, {"trail_amount": 7}, {"trail_amount": 7, "trail_percent": None, "stop_price": 107}),
    (TRAIL, {"quantity": 3}, {"trail_amount": 5, "quantity": 3, "stop_price": 105}),
    (LIMIT, {"time_in_force": "DAY"}, {"time_in_force": "DAY", "limit_price": 95}),
    (LIMIT, {"time_in_force": "GTD", "good_till": at(CLOSE1)}, {"good_till": at(CLOSE1)}),
    ({**LIMIT, "time_in_force": "GTD", "good_till": at(CLOSE1)}, {"limit_price": 94}, {"good_till": at(CLOSE1)}),
    ({**LIMIT, "time_in_force": "GTD", "good_till": at(CLOSE1)}, {"time_in_force": "GTC"}, {"good_till": None}),
    (
        {**LIMIT, "take_profit": 110, "stop_loss": 90, "stop_loss_limit": 89},
        {"quantity": 3},
        {"take_profit_price": 110, "stop_loss_price": 90, "stop_loss_limit_price": 89},
    ),
]


@pytest.mark.parametrize(("terms", "change", "found"), REPLACEMENTS, ids=str)
def test_what_is_not_replaced_stays(
    tx: Conn, terms: dict[str, Any], change: dict[str, Any], found: dict[str, Any]
) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": 100})
    old = run.place("ACME", "BUY", 7, **terms)
    new = run.call("replace_order", order_id=2, **change)
    assert {k: new[k] for k in found} == found
    kept = set(new) - set(found) - set(change) - {"order_id", "replaces_order_id", "reserve_price"}
    assert {k: new[k] for k in kept} == {k: old[k] for k in kept}


BAD_REPLACEMENTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"limit_price": 95}),
    ({}, {"stop_price": 95}),
    ({}, {"trail_amount": 1}),
    (LIMIT, {"stop_price": 95}),
    (LIMIT, {"quantity": D("NaN")}),
    *((LIMIT, {"limit_price": D(p)}) for p in ("0", "-1", "NaN", "Infinity", "1e12", "94.123456789")),
    *((STOP, {"stop_price": D(p)}) for p in ("0", "NaN", "94.123456789")),
    *((TRAIL, {"trail_amount": D(p)}) for p in ("0", "NaN", "1.123456789")),
    *((TRAIL, {"trail_percent": D(p)}) for p in ("0", "NaN", "1.1234567", "99.9999999")),
    (LIMIT, {"good_till": at(CLOSE1)}),
    (LIMIT, {"time_in_force": "GTD"}),
    (LIMIT, {"time_in_force": "GTD", "good_till": at(T0)}),
    (LIMIT, {"time_in_force": "SOON"}),
    (TRAIL, {"stop_price": 95}),
    (TRAIL, {"trail_amount": 1, "trail_percent": 1}),
    (TRAIL, {"trail_percent": 100}),
]


@pytest.mark.parametrize(("terms", "change"), BAD_REPLACEMENTS, ids=str)
def test_what_cannot_be_a_replacement_is_refused(tx: Conn, terms: dict[str, Any], change: dict[str, Any]) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": 100})
    run.place("ACME", "BUY", 7, **terms)
    with refused(tx, "TE101"):
        run.call("replace_order", order_id=2, **change)
    assert (run.status(2), run.count("paper_order")) == ("PENDING", 2)


def test_one_of_a_pair_is_replaced_in_its_place(tx: Conn) -> None:
    bars = {f"{DAY1} 11:00": (100, 108, 99, 100, 30), f"{DAY1} 12:00": (100, 111, 99, 100, 1000)}
    run = desk_with(tx, bars, participation=D("0.1"))
    pair(run, "ACME", "SELL", 7, **PAIR)
    for quantity in (6, 8):
        with refused(tx, "TE101"):
            run.call("replace_order", order_id=2, quantity=quantity)
    new = run.call("replace_order", order_id=2, limit_price=108, quantity=7)
    assert (new["oco_id"], new["replaces_order_id"]) == (2, 2)
    assert run.orders()[1:] == ["CANCELED", "PENDING", "PENDING"]
    run.tick(f"{DAY1} 11:00")
    assert (run.order(4)["filled_quantity"], run.order(3)["quantity"]) == (3, 4)
    assert run.call("replace_order", order_id=4, quantity=4, limit_price=111)["status"] == "PENDING"
    run.tick(f"{DAY1} 12:00")
    assert run.orders()[1:] == ["CANCELED", "CANCELED", "CANCELED", "FILLED"]
    assert run.held("ACME") == 993
    assert run.rules() == set()


@pytest.mark.parametrize("is_bracket", [True, False])
def test_what_replaces_one_of_a_pair_leaves_them_a_pair(tx: Conn, is_bracket: bool) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": 100, CLOSE1: 100}, held=7)
    if is_bracket:
        run.place("ACME", "BUY", 7, take_profit=110, stop_loss=90, time_in_force="DAY")
        run.tick(f"{DAY1} 11:00")
    else:
        run.place("ACME", "BUY", 1, limit=1)
        pair(run, "ACME", "SELL", 7, **PAIR, time_in_force="DAY")
    lives: list[dict[str, Any]] = [{"time_in_force": life} for life in ("GTC", "IOC", "FOK")]
    for change in (*lives, {"time_in_force": "GTD", "good_till": at(CLOSE1)}):
        for order_id in (3, 4):
            with refused(tx, "TE101", argument="time_in_force,good_till"):
                run.call("replace_order", order_id=order_id, **change)
    for order_id, change in ((3, {"limit_price": 90}), (3, {"limit_price": 89}), (4, {"stop_price": 110})):
        with refused(tx, "TE101", argument="limit_price,stop_price"):
            run.call("replace_order", order_id=order_id, **change)
    assert run.call("replace_order", order_id=3, limit_price=91, time_in_force="DAY")["order_id"] == 5
    with refused(tx, "TE101"):
        run.call("replace_order", order_id=4, stop_price=91)  # of the pair as it now is
    run.tick(CLOSE1)
    assert run.orders()[2:] == ["CANCELED", "CANCELED", "FILLED"]


def test_an_exit_without_another_lives_as_it_likes(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": 100})
    run.place("ACME", "BUY", 7, take_profit=110, time_in_force="DAY")
    run.tick(f"{DAY1} 11:00")
    assert run.call("replace_order", order_id=3, time_in_force="GTC")["status"] == "PENDING"


def test_a_replacement_is_made_once(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": (100, 101, 90, 100)})
    run.place("ACME", "BUY", 7, **LIMIT)
    new = run.call("replace_order", order_id=2, limit_price=94, client_order_id="k")
    assert run.call("replace_order", order_id=2, limit_price=94, client_order_id="k") == new
    with refused(tx, "TE102"):
        run.call("replace_order", order_id=2, limit_price=93, client_order_id="k")
    run.tick(f"{DAY1} 11:00")
    run.call("stop_run")
    again = run.call("replace_order", order_id=2, limit_price=94, client_order_id="k")
    assert (again["order_id"], again["status"]) == (3, "FILLED")
    with refused(tx, "TE001"):
        run.call("replace_order", order_id=2, limit_price=94)


def test_the_same_client_order_id_with_other_terms_of_the_new_kinds(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": 100})
    gtd = {"time_in_force": "GTD", "good_till": at(CLOSE1)}
    kinds: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
        "stop": (STOP, [{"stop_price": 106}, {"order_type": "STOP_LIMIT", "limit_price": 107}]),
        "trail": ({**TRAIL}, [{"trail_amount": 6}, {"trail_amount": None, "trail_percent": 5}]),
        "percent": (
            {"order_type": "TRAILING_STOP", "trail_percent": 5},
            [{"trail_percent": 6}, {"trail_amount": 5, "trail_percent": None}],
        ),
        "gtd": ({**LIMIT, **gtd}, [{"good_till": at(f"{DAY2} 16:00")}, {"time_in_force": "GTC", "good_till": None}]),
        "bracket": (
            {**EXITS, "stop_loss_limit": 89},
            [{"take_profit": 111}, {"stop_loss": 91}, {"stop_loss_limit": 88}, {"take_profit": None}],
        ),
    }
    for name, (terms, others) in kinds.items():
        first = run.place("ACME", "BUY", 7, **terms, client_order_id=name)
        assert run.place("ACME", "BUY", 7, **terms, client_order_id=name) == first
        for other in others:
            with refused(tx, "TE102"):
                run.place("ACME", "BUY", 7, **{**terms, **other}, client_order_id=name)
    run.tick(f"{DAY1} 11:00")  # what a bar has made of an order does not make it another
    for name, (terms, _) in kinds.items():
        assert run.place("ACME", "BUY", 7, **terms, client_order_id=name)["client_order_id"] == name


def test_a_call_is_repeated_whatever_has_become_of_its_order(tx: Conn) -> None:
    bars = {f"{DAY1} 11:00": (100, 111, 99, 100, 30), f"{DAY2} 11:00": (50, 50, 50, 50, 0)}
    run = desk_with(tx, bars, participation=D("0.1"))
    tx.execute("insert into corporate_action values ('ACME', %s, 'SPLIT', 2, 1)", [DAY2])
    run.place("ACME", "BUY", 7, limit=80, client_order_id="split")
    legs = pair(run, "ACME", "SELL", 7, **PAIR, client_order_id="filled")
    run.call("replace_order", order_id=2, limit_price=81, client_order_id="replaced")
    run.tick(f"{DAY1} 11:00")
    run.tick(f"{DAY2} 11:00")
    assert [run.order(n)["quantity"] for n in (3, 4, 5)] == [11, 8, 14]
    assert run.place("ACME", "BUY", 7, limit=80, client_order_id="split")["order_id"] == 2
    again = pair(run, "ACME", "SELL", 7, **PAIR, client_order_id="filled")
    assert [leg["order_id"] for leg in again] == [leg["order_id"] for leg in legs]
    run.call("replace_order", order_id=3, limit_price=60)  # a third order of the pair
    assert pair(run, "ACME", "SELL", 7, **PAIR, client_order_id="filled") != again
    assert len(pair(run, "ACME", "SELL", 7, **PAIR, client_order_id="filled")) == 2
    replaced = run.call("replace_order", order_id=2, limit_price=81, client_order_id="replaced")
    assert (replaced["order_id"], replaced["limit_price"]) == (5, D("40.5"))


def test_a_pair_is_another_one_with_another_stop_and_no_single_order(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": 100})
    pair(run, "ACME", "SELL", 7, **PAIR, client_order_id="k")
    for other in ({"stop_price": 89}, {"stop_limit_price": 88}):
        with refused(tx, "TE102"):
            pair(run, "ACME", "SELL", 7, **{**PAIR, **other}, client_order_id="k")
    with refused(tx, "TE102"):
        run.place("ACME", "SELL", 7, limit=PAIR["limit_price"], client_order_id="k")
    run.place("ACME", "SELL", 7, limit=PAIR["limit_price"], client_order_id="single")
    with refused(tx, "TE102"):
        pair(run, "ACME", "SELL", 7, **PAIR, client_order_id="single")


def test_a_raw_order_has_the_terms_that_it_has(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": 100})
    tx.execute(
        "insert into paper_order (user_id, run_id, order_id, logical_time, symbol, side, order_type, quantity, limit_price,"
        " time_in_force, status, client_order_id) values (%s, %s, 9, %s, 'ACME', 'BUY', 'LIMIT', 7, 95, 'GTC', 'PENDING', 'k')",
        [*run.key, at(T0)],
    )
    assert run.place("ACME", "BUY", 7, limit=95, client_order_id="k")["order_id"] == 9
    with refused(tx, "TE102"):
        run.place("ACME", "BUY", 7, limit=94, client_order_id="k")


def test_a_replaced_stop_starts_anew(tx: Conn) -> None:
    """A stop-limit that was triggered waits for its stop again, a trailing stop for the bars to come."""
    bars = {
        f"{DAY1} 11:00": (100, 106, 90, 104),
        f"{DAY1} 12:00": (104, 104, 103, 104),
        f"{DAY1} 13:00": (104, 105, 102, 103),
    }
    run = desk_with(tx, bars)
    run.place("ACME", "BUY", 7, **stop_limit(103))
    run.place("ACME", "BUY", 7, **TRAIL, time_in_force="DAY")
    run.tick(f"{DAY1} 11:00")
    assert run.orders()[1:] == ["TRIGGERED", "FILLED"]
    run.place("ACME", "BUY", 7, **TRAIL)
    found = [run.call("replace_order", order_id=n) for n in (2, 4)]
    assert [(o["status"], o["triggered_time"], o["seen_time"], o["stop_price"]) for o in found] == [
        ("PENDING", None, None, 105),
        ("PENDING", None, None, 109),
    ]
    run.tick(f"{DAY1} 12:00")
    assert [run.status(n) for n in (5, 6)] == ["PENDING", "PENDING"]
    again = run.call("replace_order", order_id=6, trail_amount=2)
    assert (again["seen_time"], again["stop_price"]) == (None, 106)
    run.tick(f"{DAY1} 13:00")
    assert fills_of(run, 5) == [(f"{DAY1} 13:00", 7, 103)]
    assert run.rules() == set()


# --- quantities that nothing could hold --------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["BUY", "SELL"])
def test_more_units_than_a_position_can_hold_are_rejected(tx: Conn, side: str) -> None:
    market = Market(tx)
    market.bars("A", {f"2024-01-0{d} 12:00": D("0.000001") for d in range(1, 5)})
    run = Run(market, 10**7, initial_margin=1, maintenance_margin=D("0.1"))
    for _ in range(2):  # before any price, so that both are accepted
        run.place("A", side, 6 * 10**11)
    run.place("A", side, 10**12 - 1)
    run.sip("A", 10**6, "DAILY", "2024-01-01")
    run.tick("2024-01-01 12:00")
    assert run.orders()[:3] == ["FILLED"] + ["REJECTED POSITION_LIMIT_EXCEEDED"] * 2
    assert run.place("A", side, 4 * 10**11)["reject_reason"] == "POSITION_LIMIT_EXCEEDED"
    assert run.rules() == set()


@pytest.mark.parametrize("rate", ["1", "0.00000001"])
def test_a_dividend_that_would_buy_more_than_can_be_held_stays_cash(tx: Conn, rate: str) -> None:
    market = Market(tx)
    market.instrument("A", step="0.00000001")
    market.bars("A", {"2024-01-01 12:00": 1, "2024-01-02 12:00": 1, "2024-01-03 12:00": D(rate)})
    tx.execute("insert into corporate_action values ('A', '2024-01-03', 'DIVIDEND', null, null, 2, '2024-01-03')")
    run = Run(market, 10**6, reinvest_dividends=True)
    run.place("A", "BUY", 10**6)
    run.tick("2024-01-01 12:00")
    run.tick("2024-01-03 12:00")
    held, cash = (3 * 10**6, 0) if rate == "1" else (10**6, 2 * 10**6)
    assert (run.held("A"), run.cash, run.rules()) == (held, cash, set())


# --- stale prices and prices off the grid ------------------------------------------------------------------------------


def test_a_stale_price_is_no_price_to_accept_orders_on(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": None, f"{DAY1} 11:01": None}, max_price_age=timedelta(hours=1))
    limits = [{**LIMIT}, {**STOP}, stop_limit(107)]
    run.tick(f"{DAY1} 11:00")  # the last close is an hour old, and no more
    for terms in ({}, TRAIL, *limits):
        assert run.place("ACME", "BUY", 1, **terms)["status"] == "PENDING"
    run.tick(f"{DAY1} 11:01")
    for terms in ({}, TRAIL):
        assert run.place("ACME", "BUY", 1, **terms)["reject_reason"] == "PRICE_STALE"
        assert run.place("ACME", "SELL", 1, **terms)["reject_reason"] == "PRICE_STALE"
    for terms in limits:
        assert run.place("ACME", "BUY", 1, **terms)["status"] == "PENDING"
    assert run.place("CLOCK", "BUY", 1)["status"] == "PENDING"
    assert {o["status"] for o in pair(run, "ACME", "SELL", 1, **PAIR)} == {"PENDING"}
    assert run.call("replace_order", order_id=2)["reject_reason"] == "PRICE_STALE"
    assert run.status(2) == "PENDING"
    unlimited = desk_with(tx, {f"{DAY2} 11:00": None})
    unlimited.tick(f"{DAY2} 11:00")
    assert unlimited.place("ACME", "BUY", 1)["status"] == "PENDING"


def test_before_any_price_nothing_is_stale(tx: Conn) -> None:
    market = Market(tx, symbols=["A"])
    market.bars("B", {"2024-01-01 12:00": 1})
    run = Run(market, max_price_age=timedelta(hours=1))
    assert run.place("A", "BUY", 1)["status"] == "PENDING"
    run.tick("2024-01-01 12:00")
    assert run.place("A", "BUY", 1, order_type="TRAILING_STOP", trail_amount=1)["status"] == "PENDING"


@pytest.mark.parametrize("way", ["tick", "replay"])
def test_plans_wait_while_the_price_is_stale(tx: Conn, way: str) -> None:
    run = desk_with(tx, {f"{DAY1} 12:00": None, f"{DAY1} 13:00": 100}, max_price_age=timedelta(hours=1))
    run.sip("ACME", 500, "DAILY", DAY1)
    run.rebalance('{"ACME": 0.5}', "DAILY", DAY1)
    run.tick(f"{DAY1} 12:00")
    assert run.events() == []
    if way == "tick":
        run.tick(f"{DAY1} 13:00")
    else:
        tx.execute("call replay(%s, %s, %s, %s)", [*run.key, at(f"{DAY1} 11:00"), at(f"{DAY1} 13:00")])
    assert {kind for kind, _ in run.events()} == {"SIP_EXECUTED", "REBALANCED"}
    assert {t[1] for t in run.trades()[1:]} == {at(f"{DAY1} 13:00")}


GRID: list[dict[str, Any]] = [
    {**STOP, "stop_price": D("105.01")},
    {**stop_limit(D("107.01"))},
    {**stop_limit(107), "stop_price": D("105.01")},
    {"take_profit": D("110.01")},
    {"stop_loss": D("90.01")},
    {"stop_loss": 90, "stop_loss_limit": D("89.99")},
]


@pytest.mark.parametrize("terms", GRID, ids=str)
def test_every_price_lies_on_the_grid(tx: Conn, terms: dict[str, Any]) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": 100}, tick_size=D("0.05"))
    assert run.place("ACME", "BUY", 1, **terms)["reject_reason"] == "PRICE_OFF_TICK"
    on_grid = {k: round(v * 20) / D(20) if not isinstance(v, str) else v for k, v in terms.items()}
    assert run.place("ACME", "BUY", 1, **on_grid)["status"] == "PENDING"
    trail = run.place("ACME", "BUY", 1, order_type="TRAILING_STOP", trail_amount=D("0.01"))
    assert (trail["status"], trail["stop_price"]) == ("PENDING", D("100.01"))  # a distance is no price


def test_a_good_till_lies_after_the_last_tick(tx: Conn) -> None:
    run = desk_with(tx, {f"{DAY1} 11:00": 100})
    terms: dict[str, Any] = {"time_in_force": "GTD"}
    for good_till in (at(T0), at(T0) - timedelta(microseconds=1)):
        with refused(tx, "TE101"):
            run.place("ACME", "BUY", 1, **terms, good_till=good_till)
    assert run.place("ACME", "BUY", 1, **terms, good_till=at(T0) + timedelta(microseconds=1))["status"] == "PENDING"
    new = Run(run.market)
    assert new.place("ACME", "BUY", 1, **terms, good_till=at("2000-01-01 00:00"))["status"] == "PENDING"
    new.tick(T0)
    assert ended(new, 1) == ("EXPIRED", T0)


# --- raw rows ----------------------------------------------------------------------------------------------------------


def insert(run: Run, **columns: Any) -> None:
    """A raw row of paper_order: the key, what has no default, and these."""
    row: dict[str, Any] = {"user_id": run.user_id, "run_id": run.run_id, "logical_time": at(T0), "symbol": "ACME"}
    row |= {
        "side": "SELL",
        "order_type": "MARKET",
        "quantity": 7,
        "time_in_force": "GTC",
        "status": "PENDING",
        **columns,
    }
    names, marks = ", ".join(row), ", ".join(["%s"] * len(row))
    run.conn.execute(f"insert into paper_order ({names}) values ({marks})", list(row.values()))


def test_raw_orders_of_every_kind(tx: Conn) -> None:
    bars = {f"{DAY1} 11:00": (100, 104, 96, 100), f"{DAY1} 12:00": (100, 106, 89, 95)}
    run = desk_with(tx, bars)
    insert(run, order_id=2, order_type="STOP", stop_price=95)
    insert(run, order_id=3, order_type="STOP_LIMIT", stop_price=95, limit_price=94)
    insert(run, order_id=4, order_type="TRAILING_STOP", trail_amount=5)  # without a first stop: from the next high
    insert(run, order_id=5, order_type="TRAILING_STOP", trail_percent=5, stop_price=90)
    insert(run, order_id=6, order_type="LIMIT", limit_price=110, oco_id=6)
    insert(run, order_id=7, order_type="STOP", stop_price=90, oco_id=6)
    insert(run, order_id=8, time_in_force="GTD", good_till=at(f"{DAY1} 11:00"))
    insert(run, order_id=9, time_in_force="IOC")
    insert(run, order_id=10, order_type="STOP_LIMIT", stop_price=105, limit_price=97, status="TRIGGERED")
    insert(run, order_id=11, side="BUY", take_profit_price=103, stop_loss_price=90)
    insert(run, order_id=20, order_type="LIMIT", limit_price=105, time_in_force="GTD", good_till=at(f"{DAY1} 11:30"))
    insert(run, order_id=21, order_type="STOP", stop_price=97, time_in_force="FOK", symbol="CLOCK")
    run.tick(f"{DAY1} 11:00")
    filled = [t[0] for t in run.trades()[1:]]
    assert filled == [10, 8, 9, 11, 22]
    assert [run.order(n)["stop_price"] for n in (4, 5)] == [99, D("98.8")]
    assert (run.order(22)["parent_order_id"], run.order(22)["avg_fill_price"]) == (11, 103)
    assert run.status(21) == "REJECTED POSITION_INSUFFICIENT"
    run.tick(f"{DAY1} 12:00")
    prices = {t[0]: t[5] for t in run.trades()[6:]}
    assert prices == {2: 95, 3: 95, 4: 99, 5: D("98.8"), 7: 90}
    assert [run.status(n) for n in (6, 20, 23)] == ["CANCELED", "EXPIRED", "CANCELED"]
    assert run.rules() == set()


BAD_ROWS: dict[str, dict[str, Any]] = {
    "order_kind_is_known": {"order_type": "ICEBERG"},
    "order_life_is_known": {"time_in_force": "OPG"},
    "order_status_is_known": {"status": "OPEN"},
    "paper_order_limit_has_a_limit_price": {"order_type": "LIMIT"},
    "paper_order_limit_has_a_limit_price (STOP_LIMIT)": {"order_type": "STOP_LIMIT", "stop_price": 1},
    "paper_order_stop_has_a_stop_price": {"order_type": "STOP"},
    "paper_order_stop_has_a_stop_price (STOP_LIMIT)": {"order_type": "STOP_LIMIT", "limit_price": 1},
    "paper_order_trailing_stop_has_one_trail": {"order_type": "TRAILING_STOP"},
    "paper_order_trailing_stop_has_one_trail (two)": {**TRAIL, "trail_percent": 1},
    "paper_order_trailing_stop_has_one_trail (MARKET)": {"trail_amount": 1},
    "trail_share_is_below_one_hundred_percent (0)": {"order_type": "TRAILING_STOP", "trail_percent": 0},
    "trail_share_is_below_one_hundred_percent (100)": {"order_type": "TRAILING_STOP", "trail_percent": 100},
    "trail_share_is_below_one_hundred_percent (NaN)": {"order_type": "TRAILING_STOP", "trail_percent": D("NaN")},
    "paper_order_good_till_goes_with_gtd": {"time_in_force": "GTD"},
    "paper_order_good_till_goes_with_gtd (DAY)": {"time_in_force": "DAY", "good_till": at(CLOSE1)},
    "paper_order_is_not_overfilled": {"filled_quantity": 8},
    "paper_order_is_not_overfilled (negative)": {"filled_quantity": -1},
    "unit_price_is_positive_and_finite": {**STOP, "stop_price": D("NaN")},
    "unit_price_is_positive_and_finite (trail)": {"order_type": "TRAILING_STOP", "trail_amount": 0},
    "unit_price_is_positive_and_finite (take profit)": {"take_profit_price": D("NaN")},
    "unit_price_is_positive_and_finite (stop loss)": {"stop_loss_price": -1},
    "unit_price_is_positive_and_finite (stop loss limit)": {"stop_loss_limit_price": D("NaN")},
    "logical_instant_is_a_real_time": {"time_in_force": "GTD", "good_till": "infinity"},
    "logical_instant_is_a_real_time (triggered)": {"triggered_time": "infinity"},
    "logical_instant_is_a_real_time (seen)": {"seen_time": "-infinity"},
}
BAD_TERMS: dict[str, dict[str, Any]] = {
    "strategy_run_participation_is_a_share (0)": {"participation": 0},
    "strategy_run_participation_is_a_share (more)": {"participation": D("1.00000001")},
    "strategy_run_participation_is_a_share (NaN)": {"participation": D("NaN")},
    "strategy_run_slippage_is_not_negative": {"slippage_bps": -1},
    "strategy_run_slippage_is_not_negative (more)": {"slippage_bps": D("10000.0001")},
    "strategy_run_slippage_is_not_negative (NaN)": {"slippage_bps": D("NaN")},
    "strategy_run_slippage_is_not_negative (impact)": {"volume_impact": -1},
    "strategy_run_slippage_is_not_negative (more impact)": {"volume_impact": D("100.000001")},
    "strategy_run_slippage_is_not_negative (NaN impact)": {"volume_impact": D("NaN")},
    "strategy_run_penetration_is_not_negative": {"penetration_ticks": -1},
    "strategy_run_penetration_is_not_negative (more)": {"penetration_ticks": 1_000_001},
    "strategy_run_price_age_is_positive_and_within_all_times": {"max_price_age": timedelta(0)},
    "strategy_run_price_age_is_positive_and_within_all_times (more)": {"max_price_age": "400 years 1 day"},
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_raw_order_that_cannot_be_is_no_row(tx: Conn, name: str) -> None:
    """Each row breaks one constraint and no other."""
    run = desk_with(tx, {f"{DAY1} 11:00": 100})
    with pytest.raises(psycopg.errors.CheckViolation) as caught, tx.transaction():
        insert(run, order_id=2, **BAD_ROWS[name])
    assert caught.value.diag.constraint_name == name.split()[0]


@pytest.mark.parametrize("name", BAD_TERMS)
def test_a_raw_run_with_impossible_terms_is_no_row(tx: Conn, name: str) -> None:
    user_id = val(tx, "select create_user('raw')")
    ((column, value),) = BAD_TERMS[name].items()
    query = f"insert into strategy_run (user_id, status, {column}) values (%s, 'RUNNING', %s)"
    with pytest.raises(psycopg.errors.CheckViolation) as caught, tx.transaction():
        tx.execute(query, [user_id, value])
    assert caught.value.diag.constraint_name == name.split()[0]


def test_the_outermost_terms_of_a_run_are_possible(tx: Conn) -> None:
    user_id = val(tx, "select create_user('raw')")
    tx.execute(
        "insert into strategy_run (user_id, status, participation, slippage_bps, volume_impact, penetration_ticks,"
        " max_price_age) values (%s, 'RUNNING', 1, 10000, 100, 1000000, '1 microsecond')",
        [user_id],
    )


INDEXES = {
    "paper_order_oco": "oco_id = 5000 and order_id <> 5000 and status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')",
    "paper_order_by_parent": "parent_order_id = 5000 and status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')",
    "paper_order_trailing": "order_type = 'TRAILING_STOP' and status = 'PENDING' and order_id between 1 and 9e18::bigint",
}


@pytest.mark.parametrize("name", INDEXES)
def test_what_is_asked_of_many_orders_is_asked_of_an_index(db: Conn, name: str) -> None:
    """As the engine asks it; thousands of open orders do not matter."""
    market = Market(db, symbols=["A"])
    run = Run(market)
    db.execute(
        "insert into paper_order (user_id, run_id, order_id, symbol, side, order_type, quantity, limit_price, time_in_force,"
        " status, oco_id, parent_order_id) select %s, %s, n, 'A', 'BUY', 'LIMIT', 1, 1, 'GTC', 'PENDING', (n + 1) / 2, (n + 1) / 2"
        " from generate_series(1, 20000) n",
        run.key,
    )
    db.execute("analyze paper_order")
    query = (
        f"explain select * from paper_order where user_id = {run.user_id} and run_id = {run.run_id} and {INDEXES[name]}"
    )
    assert any(f" {name} " in line for (line,) in rows(db, query))
