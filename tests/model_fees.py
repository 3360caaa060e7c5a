"""The fees of the model: what an order costs besides its price, and how many units money buys then. See model.py."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any

from tests.model_orders import ZERO, Order, Terms, money

if TYPE_CHECKING:
    from tests.model import Calendar, Market


@dataclass(frozen=True)
class FeeRow:
    """A row of fee_schedule, by the names of its columns."""

    fee_schedule: str
    component: str
    side: str
    effective_from: date
    product: str = "*"
    rate_bps: Decimal = ZERO
    per_unit_amount: Decimal = ZERO
    flat_amount: Decimal = ZERO
    minimum_amount: Decimal | None = None
    maximum_amount: Decimal | None = None
    maximum_bps: Decimal | None = None
    of_components: tuple[str, ...] | None = None
    round_to: Decimal | None = None

    def charge(self, quantity: Decimal, value: Decimal, base: Decimal) -> tuple[Decimal, str]:
        """What it charges for quantity units worth value, and what bound that. base: what the rate is of."""
        amount, bound = base * self.rate_bps / 10000 + quantity * self.per_unit_amount + self.flat_amount, "nothing"
        if self.minimum_amount is not None and amount < self.minimum_amount:
            amount, bound = self.minimum_amount, "minimum"
        if self.maximum_amount is not None and amount > self.maximum_amount:
            amount, bound = self.maximum_amount, "maximum"
        if self.maximum_bps is not None and amount > value * self.maximum_bps / 10000:
            amount, bound = value * self.maximum_bps / 10000, "share of the value"
        if self.round_to is not None:
            amount = (amount / self.round_to).quantize(Decimal(1), ROUND_HALF_UP) * self.round_to
        return money(amount), bound


@dataclass
class Bill:
    """An order so far: what it has traded, and what each component has charged for that."""

    quantity: Decimal = ZERO
    value: Decimal = ZERO
    charged: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))


class Fees:
    """The part of a Model that deals with fees. `met` counts what has happened, for tests to see that it does."""

    market: Market
    calendar: Calendar
    terms: Terms
    bills: dict[int, Bill]
    fee_rows: list[tuple[Any, ...]]
    met: Counter[str]

    def _rows_in_force(self, symbol: str, side: str, day: date) -> list[FeeRow]:
        """One row a component: that of the product if it has one, else that of any; of each the latest."""
        found: dict[str, FeeRow] = {}
        mine = ("*", self.market.products.get(symbol, "EQUITY"))
        for row in self.market.fees:
            if row.side == side and row.product in mine and row.effective_from <= day:
                old = found.get(row.component)
                if old is None or (row.product != "*", row.effective_from) > (old.product != "*", old.effective_from):
                    found[row.component] = row
        return [found[component] for component in sorted(found, key=str.encode)]

    def _charges(
        self, symbol: str, side: str, day: date, quantity: Decimal, value: Decimal
    ) -> list[tuple[FeeRow, Decimal, str]]:
        """What an order that has traded so much costs in all, by component."""
        rows, found = self._rows_in_force(symbol, side, day), []
        base: defaultdict[str, Decimal] = defaultdict(Decimal)
        for row in sorted(rows, key=lambda r: r.of_components is not None):  # percentages of the others come last
            of = value if row.of_components is None else sum((base[name] for name in row.of_components), ZERO)
            amount, bound = row.charge(quantity, value, of)
            found.append((row, amount, bound))
            if row.of_components is None:
                base[row.component] = amount
        return sorted(found, key=lambda item: item[0].component.encode())

    def _due(self, order: Order, quantity: Decimal, price: Decimal | None, at: datetime | None) -> list[Any]:
        """What a fill of the order would be charged now: rows with their amounts. Without a day there is no row."""
        if self.terms.fee_schedule is None or price is None or at is None or quantity <= 0:
            return []
        bill, day = self.bills.get(order.order_id, Bill()), self.calendar.day_of(at)
        value = bill.value + money(quantity * price)
        charges = self._charges(order.symbol, order.side, day, bill.quantity + quantity, value)
        return [(row, amount - bill.charged[row.component], bound) for row, amount, bound in charges]

    def fees(self, order: Order, quantity: Decimal, price: Decimal | None, at: datetime | None) -> Decimal:
        """What a fill of the order would be charged in all; what has become less is not paid back."""
        return sum((max(amount, ZERO) for _, amount, _ in self._due(order, quantity, price, at)), ZERO)

    def _charge(self, order: Order, trade_id: int, quantity: Decimal, price: Decimal, at: datetime) -> Decimal:
        """Put a fill on the order's bill, and its fees into trade_fee."""
        due = self._due(order, quantity, price, at)
        bill = self.bills.setdefault(order.order_id, Bill())
        self._meet_case(bill, due)
        bill.quantity += quantity
        bill.value += money(quantity * price)
        for row, amount, _ in due:
            if amount > 0:
                bill.charged[row.component] += amount
                key = (row.fee_schedule, row.product, row.side, row.effective_from)
                self.fee_rows.append((trade_id, row.component, amount, *key))
        return sum((max(amount, ZERO) for _, amount, _ in due), ZERO)

    def _meet_case(self, bill: Bill, due: list[Any]) -> None:
        for row, amount, bound in due:
            self.met[f"bound by {bound}"] += 1
            self.met["charged"] += amount > 0
            self.met["of others"] += amount > 0 and row.of_components is not None
            self.met["of the product"] += amount > 0 and row.product != "*"
            self.met["nothing paid back"] += amount < 0
            self.met["charged again"] += amount > 0 and bill.charged[row.component] > 0
            self.met["bound again"] += amount == 0 < bill.charged[row.component]

    def affordable(self, budget: Decimal, price: Decimal, step: Decimal, symbol: str, at: datetime) -> Decimal:
        """The most units on the step that budget buys in one order at price, fees included."""
        order = Order(0, at, symbol, "BUY", "MARKET", ZERO, None, "DAY")
        low, high = 0, int(max(ZERO, budget // (price * step)))
        if high and self.fees(order, high * step, price, at) + high * step * price > budget:
            self.met["fees cost units"] += 1
        while low < high:
            middle = (low + high + 1) // 2
            if middle * step * price + self.fees(order, middle * step, price, at) <= budget:
                low = middle
            else:
                high = middle - 1
        return low * step
