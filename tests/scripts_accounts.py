"""Fee schedules and margin accounts for random scripts: strategies that give them to the scripts of scripts.py."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import date
from decimal import Decimal
from itertools import count
from math import prod
from typing import Any

import psycopg
from hypothesis import strategies as st

from tests.model import Market
from tests.model_fees import FeeRow
from tests.scripts import INSTRUMENTS, Bench, Call, D, Script, _terms, scripts

SHIPPED = ["ZERO", "IN_INTRADAY", "US_PER_SHARE", "IN_DELIVERY"]
_COLUMNS = [f.name for f in fields(FeeRow)]
_PERCENTAGES = {"Tax": ("a", "B"), "levy": ("B", "c", "none")}

# What a row may charge, in prices of a unit: orders are worth 5 to 100 of them.
_RATES = [D(25), D(150), D(0), D("33.333333"), D("0.5"), D(300), D(10)]
_PER_UNIT: list[Decimal | None] = [D(0), D(0), D(0), D("0.01"), D("0.0333")]
_FLAT: list[Decimal | None] = [D(0), D(0), D(0), D("0.5"), D(2), D(60)]
_MINIMUM = [None, None, None, D("0.1"), D(1), D(3)]
_MAXIMUM = [None, None, None, D(0), D("0.05"), D("0.3"), D(3)]
_MAXIMUM_BPS = [None, None, None, D(100), D(1000), D(10)]
_ROUND_TO = [None, None, None, D(1), D("0.05"), D("0.03")]
_SIDES = [("BUY", "SELL"), ("BUY", "SELL"), ("BUY",), ("SELL",)]
_DAYS = 8  # from which a row may be in force


def _price_of(script: Script) -> Decimal:
    return next((bar.close for bars in script.bars.values() for bar in bars.values()), D(1))


def _days(script: Script) -> list[date]:
    """From long ago on, or from a day of the script's on."""
    days = sorted({at.date() for bars in script.bars.values() for at in bars})
    return ([date(1900, 1, 1), date(1900, 1, 1), date(1950, 1, 1), *days[1::2], *days[::2]] * _DAYS)[:_DAYS]


def _rows(number: int, amounts: int, days: list[date], price: Decimal, place: int) -> list[FeeRow]:
    """A component of one side or of both. Drawn as two numbers: draws are what a script costs."""

    def pick(options: list[Decimal | None]) -> Decimal | None:
        nonlocal amounts
        amounts, index = divmod(amounts, len(options))
        return options[index]

    def amount(options: list[Decimal | None]) -> Decimal | None:
        share = pick(options)
        return None if share is None else (share * price).quantize(D("0.0001"))

    number, component = divmod(number, 5)
    number, sides = divmod(number, len(_SIDES))
    number, product = divmod(number, 4)
    number, since = divmod(number, _DAYS)
    name = ["a", "B", "c", *_PERCENTAGES][component]
    number, rate_index = divmod(number, len(_RATES))
    rate, per_unit, flat = _RATES[rate_index], amount(_PER_UNIT), amount(_FLAT)
    least, most, share, unit = amount(_MINIMUM), amount(_MAXIMUM), pick(_MAXIMUM_BPS), pick(_ROUND_TO)
    if place == 0 and least is None:  # so that most schedules have both bounds
        least = (price / 3).quantize(D("0.0001"))
    if place == 1 and most is None:
        most = (price / 20).quantize(D("0.0001"))
    if least is not None and most is not None:
        least, most = min(least, most), max(least, most)
    if name in _PERCENTAGES:
        rate += 1800
    row = FeeRow("OWN", name, "BUY", days[since], "ETF" if product == 3 else "*", rate)
    row = replace(row, per_unit_amount=per_unit or D(0), flat_amount=flat or D(0), minimum_amount=least, round_to=unit)
    row = replace(row, maximum_amount=most, maximum_bps=share, of_components=_PERCENTAGES.get(name))
    return [replace(row, side=side) for side in _SIDES[sides]]


# Hypothesis prefers small numbers where there are more than 2 ** 24.
_ROWS = st.tuples(
    st.integers(0, 5 * len(_SIDES) * 4 * _DAYS * len(_RATES) - 1),
    st.integers(0, prod(map(len, (_PER_UNIT, _FLAT, _MINIMUM, _MAXIMUM, _MAXIMUM_BPS, _ROUND_TO))) - 1),
)


@st.composite
def with_fees(draw: st.DrawFn, base: st.SearchStrategy[Script]) -> Script:
    """The script on a schedule: mostly one of its own."""
    script = draw(base)
    name = script.terms["fee_schedule"] = draw(st.sampled_from([*["OWN"] * 9, *SHIPPED]))
    if name == "OWN":
        days, price = _days(script), _price_of(script)
        drawn = draw(st.lists(_ROWS, min_size=3, max_size=9))
        rows = [row for place, numbers in enumerate(drawn) for row in _rows(*numbers, days, price, place)]
        script.fees = list({(r.component, r.side, r.product, r.effective_from): r for r in rows}.values())
    for call in script.calls:
        if call.verb in ("place_order", "place_oco") and call.arguments["quantity"] == 20:
            call.arguments["quantity"] = D(30)  # by which a fee is not divided evenly
    if "participation" in script.terms:
        script.terms["participation"] = draw(st.sampled_from([None, D("0.5"), D("0.33333333"), D("0.1"), D("0.1")]))
    return script


def _cover(opening: Call, script: Script) -> Call:
    """A pair of orders that take back what an opening order does, far from the price."""
    symbol, quantity = opening.arguments["symbol"], opening.arguments["quantity"]
    unit = next((bar.low for bar in script.bars[symbol].values()), D(1))
    prices = (unit * 4, unit / 5) if opening.arguments["side"] == "BUY" else (unit / 5, unit * 4)
    tick = INSTRUMENTS[symbol][1] or D("1e-8")
    limit, stop = (max(tick, price // tick * tick) for price in prices)
    side = "SELL" if opening.arguments["side"] == "BUY" else "BUY"
    terms = {"symbol": symbol, "side": side, "quantity": quantity}
    return Call("place_oco", terms | {"limit_price": limit, "stop_price": stop})


@st.composite
def on_margin(draw: st.DrawFn, base: st.SearchStrategy[Script]) -> Script:
    """The script in a margin account, with something short from the start."""
    script = draw(base)
    initial = draw(st.sampled_from([D("0.5"), D("0.5"), D("0.3"), D("1"), D("0.25"), D("0.33333333")]))
    script.terms |= {
        "initial_margin": initial,
        "maintenance_margin": min(initial, draw(st.sampled_from([D("0.25"), D("0.25"), D("0.4"), D("1"), D("0.01")]))),
        "borrow_rate": draw(st.sampled_from([D("0.5"), D(0), D("0.03"), D(3), D(40), D("0.33333333")])),
        "margin_rate": draw(st.sampled_from([D("0.5"), D(0), D("0.08"), D(3), D(40), D("0.33333333")])),
    }
    opening, worth = [], D(0)
    for symbol, bars in script.bars.items():
        side, quantity = draw(st.sampled_from([("SELL", 50), ("SELL", 20), ("SELL", 5), ("BUY", 100), ("BUY", 50)]))
        opening.append(Call("place_order", {"symbol": symbol, "side": side, "quantity": D(quantity)}))
        worth += next((bar.open * quantity for bar in bars.values()), D(0))
    script.cash = worth * initial * draw(st.sampled_from([D("1.2"), D(1), D(1), D("1.02"), D(2), D(5)]))
    calls = [call for call in script.calls if call.arguments.get("quantity") != 100]
    for call in calls:
        if call.verb == "set_risk_limit" and call.arguments["max_position"] == 110:
            call.arguments["max_position"] = D(55)  # within the reach of shorts
    if opening and draw(st.booleans()):
        # what would open before the first has filled, and only reduces when it is replaced
        calls[:0] = [_cover(opening[0], script)]
        first = next((n for n, call in enumerate(calls, 1) if call.verb == "tick"), len(calls))
        calls[first:first] = [Call("replace_order", {"order_id": len(opening) + draw(st.integers(1, 2))})]
    script.calls = opening + calls
    return script


@st.composite
def _any(draw: st.DrawFn) -> Script:
    kind = draw(st.integers(0, 9))
    if kind < 6:
        return draw(scripts(orders=True))
    script = draw(scripts(plans=kind < 8))
    script.terms = draw(_terms())
    return script


@st.composite
def scripts_of_margin(draw: st.DrawFn) -> Script:
    return draw(on_margin(_any()) if draw(st.booleans()) else on_margin(with_fees(_any())))


@st.composite
def accounts(draw: st.DrawFn, base: st.SearchStrategy[Script]) -> Script:
    """Scripts of which some pay fees and some have a margin account."""
    kind = draw(st.integers(0, 9))
    if kind in (2, 3, 4):
        base = with_fees(base)
    return draw(on_margin(base) if kind in (4, 5) else base)


scripts_of_fees = with_fees(_any())


class Accounts(Bench):
    """A bench that knows fee schedules: those that come with the database, and those that scripts bring."""

    def __init__(self, conn: psycopg.Connection) -> None:
        super().__init__(conn)
        self._names = count(1)
        query = f"select {', '.join(_COLUMNS)} from fee_schedule"
        rows = [dict(zip(_COLUMNS, row, strict=True)) for row in conn.execute(query)]
        self._shipped = [
            FeeRow(**row | {"of_components": row["of_components"] and (*row["of_components"],)}) for row in rows
        ]

    def prepare(self, script: Script) -> tuple[Market, dict[str, Any]]:
        """What a model of the script needs: its market, with the fees of its schedule, and its terms."""
        market, terms = script.market, dict(script.terms)
        if script.fees:
            terms["fee_schedule"] = f"schedule {next(self._names)}"
            market.fees = [replace(row, fee_schedule=terms["fee_schedule"]) for row in script.fees]
            rows = [[getattr(row, name) for name in _COLUMNS] for row in market.fees]
            marks = ", ".join(["%s"] * len(_COLUMNS))
            self.conn.cursor().executemany(
                f"insert into fee_schedule ({', '.join(_COLUMNS)}, source) values ({marks}, 'a script')",
                [[list(v) if isinstance(v, tuple) else v for v in row] for row in rows],
            )
        else:
            market.fees = [row for row in self._shipped if row.fee_schedule == terms.get("fee_schedule")]
        return market, terms
