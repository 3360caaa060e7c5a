"""Random scripts with corporate actions: those of scripts.py, with splits and dividends around the days of their bars."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from tests.model import Bar
from tests.model_actions import Action
from tests.scripts import CALENDARS, Call, Script, scripts

D = Decimal

_RATIOS = [(2, 1), (3, 2), (1, 2), (10, 1), (4, 3), (7, 5), (1, 7), (1, 100), (21, 20), (999979, 999983), (1, 15)]
_AMOUNTS = [D("0.5"), D("1"), D("0.05"), D("0.255"), D("3"), D("0.333333"), D("0.00000001")]  # bars' units
_OFFSETS = [0, 0, 0, 0, 0, 1, 1, -1, 3]
_PAY_AFTER = [0, 0, 0, 1, 1, 2, 4, 40]
_DRY = st.integers(0, 19)


@st.composite
def action_scripts(draw: st.DrawFn, every_time: bool = False) -> Script:
    """Orders, plans, or both, over a market with actions; some of them come when the run is already under way."""
    plans, orders = draw(st.sampled_from([(False, True), (False, True), (False, True), (True, True), (True, False)]))
    script = draw(scripts(every_time=every_time, plans=plans, orders=orders))
    script.terms["reinvest_dividends"] = draw(st.booleans())
    script.adjusted = draw(_DRY) == 0
    _suspend(draw, script)
    clock, zone = script.market.clock, ZoneInfo(CALENDARS[script.calendar].zone)
    if not clock:
        return script
    script.actions = _some_actions(draw, script, [at.astimezone(zone).date() for at in clock], 1, 6)
    for _ in range(draw(_DRY) // 7):
        where = draw(st.integers(0, len(script.calls)))
        for action in _some_actions(draw, script, [at.astimezone(zone).date() for at in clock], 1, 1):
            if not any(_key(action) == _key(a) for a in script.actions):
                script.calls.insert(where, Call("load_action", {"action": action}))
    return script


def corner_script_of_actions(calendar: str) -> Script:
    """What chance seldom meets: prices of every kind off the grid, fills before a split, reinvestments that may not be.

    Days 4 and 5 are a weekend.
    """
    start = datetime(2020, 3, 10, 20, tzinfo=UTC)
    days = [start + timedelta(n) for n in range(9)]
    flat = Bar(D(9), D(10), D(8), D(9), D(20))
    down = Bar(D(6), D("6.5"), D(6), D(6), D(20))  # at 3 for 2, just below the stop of 9.05
    alpha = {
        days[0]: Bar(D(9), D(9), D(9), D(9)),
        days[1]: flat,
        days[2]: down,
        days[3]: down,
        days[4]: down,
        days[8]: down,
    }
    lots = {days[0]: alpha[days[0]], days[1]: flat, days[2]: Bar(D(9), D(9), D(8), D(8), D(20)), days[5]: down}
    script = Script(calendar, {"alpha": alpha, "LOTS": lots, "Zed": dict.fromkeys(days, flat)}, D(10_000))
    script.terms = {"participation": D("0.5"), "max_price_age": timedelta(2), "reinvest_dividends": True}

    def order(side: str, quantity: float, kind: str, symbol: str = "alpha", life: str = "GTC", **prices: str) -> None:
        arguments = {"symbol": symbol, "side": side, "quantity": D(quantity), "order_type": kind, "time_in_force": life}
        script.calls.append(Call("place_order", arguments | {name: D(price) for name, price in prices.items()}))

    def tick(n: int) -> None:
        script.calls.append(Call("tick", {"logical_time": days[n]}))

    order("BUY", 200, "MARKET")
    order("BUY", 100, "MARKET", "LOTS")
    tick(0)
    order("SELL", 50, "LIMIT", "LOTS", limit_price="9.5")  # 10 at once
    order("BUY", 2.5, "LIMIT", "LOTS", limit_price="8.5", take_profit="20")
    order("BUY", 5, "STOP", "LOTS", "FOK", stop_price="50")
    order("SELL", 13, "STOP", stop_price="8.5")  # 10 at once, 3 are left
    order("SELL", 1, "LIMIT", limit_price="16.7")
    tick(1)
    order("BUY", 3, "LIMIT", limit_price="7.10", take_profit="16.7", stop_loss="5.05", stop_loss_limit="5.00")
    order("BUY", 3, "STOP", stop_price="10.7", take_profit="16.7", stop_loss="5.05", stop_loss_limit="5.05")
    order("SELL", 3, "STOP", stop_price="5.05", take_profit="2.05", stop_loss="16.7", stop_loss_limit="17")
    order("SELL", 3, "STOP_LIMIT", stop_price="7.55", limit_price="7.55")
    order("BUY", 3, "STOP_LIMIT", stop_price="11.05", limit_price="11.05")
    order("BUY", 3, "LIMIT", limit_price="0.05")  # no price is less than the tick
    order("SELL", 3, "TRAILING_STOP", trail_amount="4.00000001")
    order("SELL", 3, "TRAILING_STOP", trail_percent="33.333333")
    tick(2)
    script.calls.append(Call("set_risk_limit", {"max_order_value": D(100)}))
    tick(3)
    script.calls.append(Call("set_risk_limit", {}))
    tick(4)
    tick(6)
    tick(7)
    tick(8)
    day = [at.date() for at in days]
    script.actions = [
        Action("LOTS", day[1], "DIVIDEND", amount=D("0.001"), pay_date=day[2]),
        Action("LOTS", day[4], "SPLIT", 1, 100),
        Action("alpha", day[2], "SPLIT", 3, 2),
        Action("alpha", day[3], "DIVIDEND", amount=D(2), pay_date=day[3]),  # more than one order may cost
        Action("alpha", day[4], "DIVIDEND", amount=D(2), pay_date=day[4]),
        Action("alpha", day[4], "SPLIT", 999979, 999983),
        Action("alpha", day[2], "DIVIDEND", amount=D(1), pay_date=day[7]),  # when the last price is three days old
    ]
    return script


def _suspend(draw: st.DrawFn, script: Script) -> None:
    """Now and then a symbol has no bars for a while: its actions wait. The feed keeps its times."""
    symbol = draw(st.sampled_from(sorted(script.bars)))
    if len(script.bars) > 1 and draw(_DRY) < 6:
        others = [script.bars[other] for other in script.bars if other != symbol]
        times = sorted(at for at in script.bars[symbol] if any(at in bars for bars in others))
        first = draw(st.integers(0, len(times)))
        for at in times[first : first + draw(st.integers(1, 6))]:
            del script.bars[symbol][at]


def _some_actions(draw: st.DrawFn, script: Script, days: list[date], least: int, most: int) -> list[Action]:
    found: dict[Any, Action] = {}
    for _ in range(draw(st.integers(least, most))):
        symbol = draw(st.sampled_from(sorted(script.bars)))
        bars = script.bars[symbol]
        day = draw(st.sampled_from(days)) + timedelta(draw(st.sampled_from(_OFFSETS)))
        if draw(_DRY) < 9:
            action = Action(symbol, day, "SPLIT", *draw(st.sampled_from(_RATIOS)))
        else:
            near = bars[min(bars)].low if bars else D(1)
            amount = max(D("0.00000001"), (near / 10 * draw(st.sampled_from(_AMOUNTS))).quantize(D("0.00000001")))
            pay_date = day + timedelta(draw(st.sampled_from(_PAY_AFTER)))
            action = Action(symbol, day, "DIVIDEND", amount=amount, pay_date=pay_date)
        found.setdefault(_key(action), action)
    return list(found.values())


def _key(action: Action) -> tuple[str, date, str]:
    return action.symbol, action.ex_date, action.action_type
