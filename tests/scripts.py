"""Random scripts of calls, and the two that play them: a run in the database, and any number of runs of one feed.

Symbols and calendars are shared by all scripts of a database; each script has a feed and users of its own, so that
hundreds of them fit into one clone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from psycopg.types.json import set_json_loads

from tests.model import COLUMNS, Bar, Calendar, Market, Session
from tests.model_actions import Action
from tests.model_fees import FeeRow

D = Decimal
PROFILE = os.environ.get("HYPOTHESIS_PROFILE")
BRIEF = PROFILE == "brief"


def examples(default: int, thorough: int) -> settings:
    """Settings for so many scripts: the same ones every time, or with HYPOTHESIS_PROFILE=thorough many new ones.

    HYPOTHESIS_PROFILE=brief plays a fifth of them: for a second server, which computes the same. So few need not meet
    every case; what a test says of its scripts as a whole it says of the others alone.
    """
    many = PROFILE == "thorough"
    return settings(
        max_examples=thorough if many else default // 5 if BRIEF else default,
        derandomize=not many,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


INSTRUMENTS: dict[str, tuple[Decimal, Decimal | None]] = {
    "Zed": (D("0.000001"), None),
    "alpha": (D("1"), D("0.05")),
    "Ärger": (D("0.25"), D("0.01")),
    "LOTS": (D("2.5"), None),
}
PRODUCTS = {"LOTS": "ETF", "Ärger": "ETF"}  # the others are EQUITY
HOLIDAYS = {date(2020, 1, 1), date(2020, 1, 20), date(2020, 2, 17), date(2020, 3, 9), date(2020, 11, 2)}


def _sessions(zone: str, weekdays: set[int], opens: time, closes: time, opens_day_before: bool = False) -> Calendar:
    def at(day: date, clock: time) -> datetime:
        return datetime.combine(day, clock, ZoneInfo(zone)).astimezone(UTC)

    days = [date(2019, 10, 1) + timedelta(n) for n in range(500)]
    sessions = [
        Session(day, at(day - timedelta(opens_day_before), opens), at(day, closes))
        for day in days
        if day.weekday() in weekdays and day not in HOLIDAYS
    ]
    return Calendar(sessions, zone)


WEEK = {0, 1, 2, 3, 4}
CALENDARS = {
    "ALWAYS": Calendar(),
    "DAYTIME": _sessions("America/New_York", WEEK, time(9, 30), time(16)),
    "OVERNIGHT": _sessions("America/New_York", WEEK, time(18), time(17), opens_day_before=True),
    "TOKYO": _sessions("Asia/Tokyo", {0, 1, 3, 4}, time(9), time(15)),
}


@dataclass(repr=False)
class Call:
    verb: str
    arguments: dict[str, Any]

    def __repr__(self) -> str:
        return f"{self.verb}({', '.join(f'{k}={v}' for k, v in self.arguments.items())})"


@dataclass(repr=False)
class Script:
    """Bars, cash, and calls; a tick is a call like any other."""

    calendar: str
    bars: dict[str, dict[datetime, Bar]]
    cash: Decimal
    calls: list[Call] = field(default_factory=list)
    terms: dict[str, Any] = field(default_factory=dict)  # further arguments of start_run
    actions: list[Action] = field(default_factory=list)  # others may come later, by load_action
    adjusted: bool = False
    fees: list[FeeRow] = field(default_factory=list)  # a schedule of its own

    def __repr__(self) -> str:
        """One line a bar and a call, for reading a failure."""
        lines = [f"{self.calendar}, cash {self.cash} {self.terms or ''}"]
        for symbol, bars in self.bars.items():
            for at, b in bars.items():
                lines.append(f"  {symbol} {at:%Y-%m-%dT%H:%M} {b.open} {b.high} {b.low} {b.close} {b.volume}")
        lines += [f"  {action}" for action in self.actions]
        lines += [f"  {row}" for row in self.fees]
        return "\n".join([*lines, *(f"  {call!r}" for call in self.calls)])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # Hypothesis would spell out every field

    @property
    def market(self) -> Market:
        return Market(
            INSTRUMENTS, self.bars, CALENDARS[self.calendar], [*self.actions], self.adjusted, products=PRODUCTS
        )


# -- what a script may hold; small round numbers, so that limits are met exactly and orders meet each other

_SOMETIMES = st.integers(0, 9)
_UNITS = st.sampled_from([D("1"), D("0.25"), D("0.05"), D("0.33333333"), D("0.00137"), D("1234.5")])
_FREQUENCIES = st.sampled_from(["DAILY", "WEEKLY", "MONTHLY", "QUARTERLY"])
_STARTS = st.sampled_from([date(2020, 1, 30), date(2020, 3, 5), date(2019, 12, 30), date(2020, 10, 29)])
_GAPS = st.sampled_from([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 3, 7, 32, 95])
_HOURS = {
    "ALWAYS": st.sampled_from([time(0), time(6), time(10), time(15), time(20)]),
    "DAYTIME": st.sampled_from([time(9, 30), time(10), time(11), time(13), time(15), time(16), time(18)]),
    "OVERNIGHT": st.sampled_from([time(10), time(12), time(17), time(18), time(19), time(20)]),
    "TOKYO": st.sampled_from([time(9), time(10), time(11), time(12), time(15), time(18)]),
}


@st.composite
def scripts(draw: st.DrawFn, every_time: bool = False, plans: bool = False, orders: bool = False) -> Script:
    """A script. With every_time it ticks at each feed time in turn and at no other, and ends before any refusal.

    With plans it is about SIPs and rebalances more than about orders, and none of them is refused at once.
    With orders it is about orders alone, on terms of its own, and with something to sell from the start. With both it
    is about both.
    """
    calendar = draw(st.sampled_from(sorted(CALENDARS)))
    zone = ZoneInfo(CALENDARS[calendar].zone)
    symbols = draw(st.lists(st.sampled_from(sorted(INSTRUMENTS)), min_size=1, max_size=3, unique=True))
    units = {symbol: draw(_UNITS) for symbol in symbols}
    start = day = draw(_STARTS)
    times = set()
    for gap, clock in draw(st.lists(st.tuples(_GAPS, _HOURS[calendar]), min_size=6, max_size=18)):
        day += timedelta(gap)
        times.add(datetime.combine(day, clock, zone).astimezone(UTC))
    bars: dict[str, dict[datetime, Bar]] = {symbol: {} for symbol in symbols}
    for at in sorted(times):
        for symbol in symbols:
            if draw(_SOMETIMES) < 8:
                bars[symbol][at] = _bar(draw(_BARS), units[symbol])
    script = Script(calendar, bars, units[symbols[0]] * draw(st.sampled_from([400, 1500, 10000, 100, 0])))
    if orders:
        script.cash, script.terms = max(units.values()) * draw(st.sampled_from([1500, 10000])), draw(_terms())
        if plans:
            script.terms["max_price_age"] = None
        for symbol in symbols:
            script.calls.append(Call("place_order", {"symbol": symbol, "side": "BUY", "quantity": D(100)}))
    if every_time:
        times = {at for at in script.market.clock if CALENDARS[calendar].knows(at)}
    past: list[datetime] = []
    for at in sorted(times):
        for _ in range(draw(_SOMETIMES) % 3 if past else draw(st.integers(1, 4))):
            if orders and not (plans and draw(st.booleans())):
                script.calls.append(draw(_order_commands(units, len(script.calls))))
            else:
                script.calls.append(draw(_plan_commands(units, start) if plans else _commands(units, start)))
            if "good_till" in script.calls[-1].arguments:
                end = draw(st.sampled_from(sorted(times))) + timedelta(minutes=draw(st.sampled_from([0, 0, 10])))
                script.calls[-1].arguments["good_till"] = end
            if every_time and script.calls[-1].verb in ("stop_run", "fail_run"):
                return script
        if every_time or draw(_SOMETIMES) < 8:
            script.calls.append(Call("tick", {"logical_time": at}))
        past.append(at)
        if not every_time and draw(_SOMETIMES) == 0:
            script.calls.append(Call("tick", {"logical_time": draw(st.sampled_from(past))}))
    return script


_VOLUMES = [None, D("0"), D("7"), D("12.5"), D("30"), D("45.5"), D("100"), D("1000")]
_BARS = st.integers(0, 6**4 * 11 * 2 * len(_VOLUMES) - 1)


def _bar(number: int, unit: Decimal) -> Bar:
    """One of all bars that may occur. Drawn as one number: draws are what a script costs."""
    number, volume = divmod(number, len(_VOLUMES))
    number, up = divmod(number, 2)
    number, base = divmod(number, 11)
    low, one, other, high = (unit * (6 + base + number // 6**n % 6) for n in range(4))
    low, one, other, high = sorted([low, one, other, high])
    return Bar(*((one, high, low, other) if up else (other, high, low, one)), _VOLUMES[volume])


@st.composite
def _terms(draw: st.DrawFn) -> dict[str, Any]:
    """How the orders of a run fill; often as they do by default."""
    choices: dict[str, list[Any]] = {
        "participation": [None, D("0.1"), D("0.5"), D("1"), D("0.33333333")],
        "slippage_bps": [D("0"), D("0"), D("25"), D("300"), D("0.5")],
        "volume_impact": [D("0"), D("0"), D("0"), D("0.1"), D("2.5")],
        "penetration_ticks": [0, 0, 0, 1, 3],
        "max_price_age": [None, None, None, timedelta(hours=3), timedelta(days=2)],
    }
    return {name: draw(st.sampled_from(values)) for name, values in choices.items()}


@st.composite
def _commands(draw: st.DrawFn, units: dict[str, Decimal], start: date) -> Call:
    symbol = draw(st.sampled_from(sorted(units)))
    unit = units[symbol]
    kind = draw(st.integers(0, 99))
    symbol = "NONE" if kind in (20, 70) else symbol
    if kind < 60:
        return Call("place_order", draw(_orders(symbol, unit)))
    if kind < 66:
        return Call("cancel_order", {"order_id": draw(st.integers(0, 6))})
    if kind < 78:
        return Call("create_sip", draw(_sips(symbol, unit, start, sorted(units))))
    if kind < 84:
        return draw(_changes_of_sips(unit, start))
    if kind < 91:
        return Call("create_rebalance", draw(_rebalances(unit, start, sorted(units))))
    if kind < 96:
        limits = {
            "max_position": draw(st.sampled_from([None, D("0"), D("10"), D("25"), D("30")])),
            "max_order_value": draw(st.sampled_from([None, None, unit * 100, unit * 150, unit * 200, D("-1")])),
        }
        return Call("set_risk_limit", limits)
    if kind < 98:
        return Call("forbid_symbol", {"symbol": symbol})
    return Call("stop_run", {}) if kind == 98 else Call("fail_run", {"error": "by script"})


@st.composite
def _plan_commands(draw: st.DrawFn, units: dict[str, Decimal], start: date) -> Call:
    """Many plans that buy; the rest as in any script."""
    symbol = draw(st.sampled_from(sorted(units)))
    kind = draw(_SOMETIMES)
    if kind < 5:
        arguments = draw(_sips(symbol, units[symbol], start, sorted(units)))
        share = {"basket": draw(_baskets(sorted(units))), "rebalance_plan": 1, "symbol": symbol}
        what = draw(st.sampled_from(["basket", "basket", "rebalance_plan", "rebalance_plan", "symbol"]))
        arguments |= {**dict.fromkeys(share), what: share[what]}
        arguments["amount"] = units[symbol] * draw(st.sampled_from([20, 35, 100]))
        arguments["frequency"] = draw(st.sampled_from(["DAILY", "DAILY", "WEEKLY"]))
        return Call("create_sip", arguments)
    if kind < 7:
        return draw(_changes_of_sips(units[symbol], start))
    if kind < 9:
        arguments = draw(_rebalances(units[symbol], start, sorted(units)))
        arguments["frequency"] = draw(st.sampled_from(["DAILY", "WEEKLY", "MONTHLY"]))
        return Call("create_rebalance", arguments)
    return draw(_commands(units, start))


@st.composite
def _baskets(draw: st.DrawFn, symbols: list[str]) -> dict[str, Decimal]:
    """Shares that sum to 1."""
    splits = {1: ["1"], 2: ["0.5 0.5", "0.335 0.665", "0.9 0.1"], 3: ["0.6 0.3 0.1", "0.335 0.335 0.33", "0.1 0.2 0.7"]}
    return dict(zip(symbols, map(D, draw(st.sampled_from(splits[len(symbols)])).split()), strict=True))


@st.composite
def _order_commands(draw: st.DrawFn, units: dict[str, Decimal], calls: int) -> Call:
    """Orders of every kind, and what may be done to them: to those that calls before this one may have made."""
    symbol = draw(st.sampled_from(sorted(units)))
    unit = units[symbol]
    kind = draw(st.integers(0, 99))
    if kind < 60:
        return Call("place_order", draw(_orders("NONE" if kind == 20 else symbol, unit)))
    if kind < 75:
        return Call("place_oco", draw(_pairs(symbol, unit)))
    if kind < 88:
        return Call("replace_order", draw(_replacements(symbol, unit, calls)))
    if kind < 94:
        return Call("cancel_order", {"order_id": draw(st.integers(0, calls))})
    limits = {
        "max_position": draw(st.sampled_from([None, D("110"), D("150")])),
        "max_order_value": draw(st.sampled_from([None, None, unit * 500])),
    }
    return Call("set_risk_limit", limits) if kind < 99 else Call("forbid_symbol", {"symbol": symbol})


def _price(draw: st.DrawFn, symbol: str, unit: Decimal, lowest: int = 6, highest: int = 20) -> Decimal:
    """A price near the bars', mostly on the tick."""
    price, tick = draw(st.integers(lowest, highest)) * unit, INSTRUMENTS.get(symbol, (D(1), None))[1]
    return max(tick, price // tick * tick) if tick and draw(st.integers(0, 29)) else price


@st.composite
def _orders(draw: st.DrawFn, symbol: str, unit: Decimal) -> dict[str, Any]:
    step = INSTRUMENTS.get(symbol, (D(1), None))[0]
    quantity = D(draw(st.sampled_from([5, 10, 20, 50])))
    side = draw(st.sampled_from(["BUY", "BUY", "BUY", "SELL", "SELL"]))
    odd = draw(st.integers(0, 19))
    if odd == 7:
        wrong = [D(0), D(-1), D("1e-9"), quantity + D("1e-9"), step / 2, quantity + step / 2, D("NaN"), D("Infinity")]
        quantity = draw(st.sampled_from(wrong))
    arguments: dict[str, Any] = {"symbol": symbol, "side": side, "quantity": quantity}
    kind = draw(st.sampled_from(["MARKET", "MARKET", "LIMIT", "LIMIT", "STOP", "STOP_LIMIT", "TRAILING_STOP"]))
    if kind != "MARKET":
        arguments["order_type"] = kind
    if kind in ("LIMIT", "STOP_LIMIT"):
        arguments["limit_price"] = _price(draw, symbol, unit)
    if kind in ("STOP", "STOP_LIMIT"):
        arguments["stop_price"] = _price(draw, symbol, unit)
    if kind == "TRAILING_STOP" and draw(st.booleans()):
        arguments["trail_amount"] = _price(draw, symbol, unit, 1, 7)
    elif kind == "TRAILING_STOP":
        arguments["trail_percent"] = draw(st.sampled_from([D("10"), D("25"), D("2.5"), D("33.333333"), D("99")]))
    if kind in ("MARKET", "LIMIT", "STOP") and draw(_SOMETIMES) < 4:
        arguments |= draw(_exits(symbol, unit, side, arguments.get("limit_price", unit * 12)))
    arguments |= draw(_lives())
    if odd == 11:
        arguments["client_order_id"] = draw(st.sampled_from(["a", "b"]))
    if odd == 15:
        bad = [{"order_type": "LIMIT", "limit_price": None}, {"side": "HOLD"}, {"time_in_force": "SOON"}]
        bad += [{"order_type": "LIMIT", "limit_price": D(-1)}, {"order_type": "MARKET", "limit_price": D(1)}]
        bad += [{"trail_percent": D(100)}, {"trail_amount": D(1)}, {"stop_price": unit}, {"stop_loss_limit": unit}]
        arguments |= draw(st.sampled_from(bad))
    return arguments


@st.composite
def _changes_of_sips(draw: st.DrawFn, unit: Decimal, start: date) -> Call:
    verb = draw(st.sampled_from(["pause_sip", "resume_sip", "change_sip"]))
    arguments: dict[str, Any] = {"sip_id": draw(st.integers(1, 2))}
    if verb == "change_sip":
        arguments["amount"] = draw(st.sampled_from([unit * 20, unit * 100, D("33.335"), D("0")]))
    else:
        first = start + timedelta(draw(st.integers(-10, 60)))
        dates = [
            {},
            {"from_": first},
            {"to": first},
            {"from_": first, "to": first + timedelta(draw(st.integers(-1, 30)))},
        ]
        arguments |= draw(st.sampled_from(dates))
    return Call(verb, arguments)


@st.composite
def _rebalances(draw: st.DrawFn, unit: Decimal, start: date, symbols: list[str]) -> dict[str, Any]:
    shares = st.sampled_from([D("0"), D("0.1"), D("0.25"), D("0.3333"), D("0.5"), D("0.6"), D("1")])
    arguments: dict[str, Any] = {
        "weights": draw(st.dictionaries(st.sampled_from(symbols), shares, min_size=1)),
        "frequency": draw(_FREQUENCIES),
        "start": start + timedelta(draw(st.integers(-10, 20))),
        "band": draw(st.sampled_from([None, D("0"), D("0.05"), D("0.25")])),
    }
    if draw(st.booleans()):
        arguments["band_relative"] = draw(st.sampled_from([None, D("0"), D("0.1"), D("0.25"), D("1")]))
        arguments["to_band_edge"] = draw(st.booleans())
        arguments["min_order_value"] = draw(st.sampled_from([None, unit * 5, unit * 30, D("10.005"), D("0")]))
        arguments["whole_units"] = draw(st.booleans())
    return arguments


@st.composite
def _lives(draw: st.DrawFn) -> dict[str, Any]:
    """How long an order lives. scripts() says until when, by the times of its bars."""
    tif = draw(st.sampled_from(["GTC", "GTC", "GTC", "DAY", "DAY", "GTD", "IOC", "FOK"]))
    return {"time_in_force": tif} | ({"good_till": None} if tif == "GTD" else {})


@st.composite
def _exits(draw: st.DrawFn, symbol: str, unit: Decimal, side: str, price: Decimal) -> dict[str, Any]:
    """A target, a stop or both, around a price; now and then on the wrong side of it."""
    sign = 1 if side == "BUY" else -1
    base = int(price / unit)
    away = draw(st.integers(-1, 4)), draw(st.integers(-1, 4)), draw(st.integers(-1, 2))
    prices = {"take_profit": base + sign * away[0], "stop_loss": base - sign * away[1]}
    prices["stop_loss_limit"] = base - sign * (away[1] + away[2])
    names = draw(st.sampled_from([["take_profit"], ["stop_loss"], ["take_profit", "stop_loss"], list(prices)]))
    return {name: _price(draw, symbol, unit, prices[name], prices[name]) for name in names}


@st.composite
def _pairs(draw: st.DrawFn, symbol: str, unit: Decimal) -> dict[str, Any]:
    side = draw(st.sampled_from(["BUY", "SELL", "SELL"]))
    arguments: dict[str, Any] = {"symbol": symbol, "side": side, "quantity": D(draw(st.sampled_from([5, 10, 20, 50])))}
    exits = draw(_exits(symbol, unit, "BUY" if side == "SELL" else "SELL", unit * draw(st.integers(8, 18))))
    names = {"take_profit": "limit_price", "stop_loss": "stop_price", "stop_loss_limit": "stop_limit_price"}
    arguments |= {"limit_price": unit * 14, "stop_price": unit * 9} | {names[k]: v for k, v in exits.items()}
    arguments |= draw(_lives())
    if draw(_SOMETIMES) == 0:
        arguments["client_order_id"] = draw(st.sampled_from(["a", "b"]))
    return arguments


@st.composite
def _replacements(draw: st.DrawFn, symbol: str, unit: Decimal, calls: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {"order_id": draw(st.integers(0, calls))}
    if draw(_SOMETIMES) < 3:
        arguments["quantity"] = D(draw(st.sampled_from([5, 10, 20, 50, 0])))
    changes = draw(st.integers(0, 14))
    if changes < 4:
        arguments["limit_price"] = _price(draw, symbol, unit)
    if 2 < changes < 7:
        arguments["stop_price"] = _price(draw, symbol, unit)
    if changes == 7:
        arguments |= draw(_lives())
    if changes == 8:
        arguments["trail_amount"] = _price(draw, symbol, unit, 1, 7)
    if draw(_SOMETIMES) < 2:
        arguments["client_order_id"] = draw(st.sampled_from(["a", "b"]))
    return arguments


@st.composite
def _sips(draw: st.DrawFn, symbol: str, unit: Decimal, start: date, symbols: list[str]) -> dict[str, Any]:
    first = start + timedelta(draw(st.integers(-10, 20)))
    amounts = [unit * 150, unit * 60, unit * 8, unit * 8, D("100.005"), D("0")]
    arguments: dict[str, Any] = {
        "symbol": symbol,
        "amount": draw(st.sampled_from(amounts)),
        "frequency": draw(_FREQUENCIES),
        "start": first,
        "roll": draw(st.sampled_from(["NEXT", "PREVIOUS", "SKIP"])),
        "catch_up": draw(st.sampled_from(["ONCE", "EACH", "SKIP"])),
        "whole_units": draw(st.booleans()),
    }
    if draw(_SOMETIMES) < 2:
        arguments["end"] = first + timedelta(draw(st.integers(-1, 90)))
    if draw(_SOMETIMES) < 2:
        arguments["instalments"] = draw(st.integers(0, 4))
    if draw(_SOMETIMES) < 3:
        arguments["step_up_every"] = draw(st.integers(0, 3))
        up = draw(st.sampled_from(["step_up_percent", "step_up_amount"]))
        arguments[up] = draw(st.sampled_from([D("10"), D("7.5"), D("0.3333"), D("-1")]))
    if draw(_SOMETIMES) < 2:
        arguments["auto_pause_after"] = draw(st.integers(0, 2))
    what = draw(_SOMETIMES)
    if what < 4:  # a basket or a rebalance plan instead of the symbol; now and then wrongly beside it
        arguments["symbol"] = None if draw(_SOMETIMES) else symbol
    if what < 2:
        splits = [[D("1")], [D("0.5"), D("0.5")], [D("0.6"), D("0.3"), D("0.1")], [D("0.335"), D("0.335"), D("0.33")]]
        splits += [[D("0.7"), D("0.2")], [D("1"), D("0")]]
        arguments["basket"] = dict(zip(symbols, draw(st.sampled_from(splits)), strict=False))
    elif what < 4:
        arguments["rebalance_plan"] = draw(st.sampled_from([1, 1, 1, 2]))
    return arguments


# -- the database's side

_KEYS = {
    "event_ledger": 'event_type collate "C", event_key collate "C"',
    "paper_position": 'symbol collate "C"',
    "trade_fee": 'trade_id, component collate "C"',
    "dividend_due": 'symbol collate "C", ex_date',
}
_RESERVES = "case when status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED') then reserve_price end as reserves"
_ROWS = {
    table: f"select {', '.join(columns).replace('reserves', _RESERVES)} from {table} where user_id = %s and run_id = %s order by "
    + _KEYS.get(table, columns[0])
    for table, columns in COLUMNS.items()
}


@dataclass
class Run:
    """One run in the database. `call` raises psycopg's error where the database refuses."""

    conn: psycopg.Connection
    user_id: int
    run_id: int

    def call(self, verb: str, **arguments: Any) -> None:
        if verb == "load_action":
            return add_actions(self.conn, [arguments["action"]])
        values: list[Any] = [self.user_id, self.run_id]
        named = []
        for name, value in arguments.items():
            named.append(f", p_{name.rstrip('_')} => %s")
            values.append(json.dumps({k: float(v) for k, v in value.items()}) if isinstance(value, dict) else value)
        word = "call" if verb in ("tick", "replay") else "select"
        self.conn.execute(f"{word} {verb}(%s, %s{''.join(named)})", values)

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        with self.conn.pipeline():
            cursors = {t: self.conn.execute(query, [self.user_id, self.run_id]) for t, query in _ROWS.items()}
        return {table: cursor.fetchall() for table, cursor in cursors.items()}

    def digest(self) -> str:
        row = self.conn.execute("select run_digest(%s, %s)", [self.user_id, self.run_id]).fetchone()
        assert row
        return str(row[0])


def add_actions(conn: psycopg.Connection, actions: list[Action]) -> None:
    rows = [
        (a.symbol, a.ex_date, a.action_type, a.numerator or None, a.denominator or None, a.amount or None, a.pay_date)
        for a in actions
    ]
    conn.cursor().executemany(
        "insert into corporate_action values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing", rows
    )


class Bench:
    """A database that holds the symbols and calendars of all scripts, and makes feeds and runs on them."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self.conn, self._numbers, self._has_actions = conn, count(1), False
        set_json_loads(partial(json.loads, parse_float=Decimal), conn)
        conn.cursor().executemany(
            "insert into instrument values (%s, %s, %s, %s)",
            [(s, *k, PRODUCTS.get(s, "EQUITY")) for s, k in INSTRUMENTS.items()],
        )
        for name, calendar in CALENDARS.items():
            if calendar.sessions is not None:
                conn.execute("insert into calendar values (%s, %s)", [name, calendar.zone])
                rows = [(name, s.day, s.open_at, s.close_at) for s in calendar.sessions]
                conn.cursor().executemany("insert into market_session values (%s, %s, %s, %s)", rows)

    def feed(self, script: Script, shuffled: Iterable[int] | None = None) -> str:
        feed = f"feed {next(self._numbers)}"
        self.conn.execute("insert into feed values (%s, %s, %s)", [feed, script.calendar, script.adjusted])
        self.set_actions(script.actions)
        rows = [
            (feed, s, at, b.open, b.high, b.low, b.close, b.volume)
            for s, bars in script.bars.items()
            for at, b in bars.items()
        ]
        rows = [rows[i] for i in shuffled] if shuffled else rows
        with self.conn.cursor().copy(
            "copy price_bar (feed, symbol, logical_time, open, high, low, close, volume) from stdin"
        ) as to:
            for row in rows:
                to.write_row(row)
        return feed

    def set_actions(self, actions: list[Action]) -> None:
        """The symbols are everyone's, and so are their actions: those of one script at a time."""
        if actions or self._has_actions:
            self.conn.execute("delete from corporate_action")
            self._has_actions = True
            add_actions(self.conn, actions)

    def run(self, feed: str, cash: Decimal, **terms: Any) -> Run:
        named = "".join(f", p_{name} => %s" for name in terms)
        query = f"select u, start_run(u, %s, %s{named}) from create_user('x') u"
        row = self.conn.execute(query, [cash, feed, *terms.values()]).fetchone()
        assert row
        return Run(self.conn, *row)
