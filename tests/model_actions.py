"""Corporate actions of the model: what a split or a dividend does to positions, orders and cash. See model.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING, Any

from tests.model_orders import POINT, ZERO, Order, Terms, money

if TYPE_CHECKING:
    from tests.model import Calendar, Market, Position

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Action:
    """A row of corporate_action. SPLIT: numerator new units for denominator old ones. DIVIDEND: amount a unit."""

    symbol: str
    ex_date: date
    action_type: str
    numerator: int = 0
    denominator: int = 0
    amount: Decimal = ZERO
    pay_date: date | None = None

    @property
    def key(self) -> str:
        return f"{self.symbol}:{self.ex_date}"

    def units(self, quantity: Decimal) -> Fraction:
        """What becomes of so many units, exactly."""
        return Fraction(quantity) * self.numerator / self.denominator

    def price(self, price: Decimal) -> Decimal:
        exact = Fraction(price) * self.denominator / self.numerator
        return max(POINT, floor(exact / Fraction(POINT) + Fraction(1, 2)) * POINT)

    def price_on(self, grid: Decimal | None, price: Decimal, is_up: bool) -> Decimal:
        if grid is None:
            return self.price(price)
        steps = Fraction(price) * self.denominator / self.numerator / Fraction(grid)
        return max(1, ceil(steps) if is_up else floor(steps)) * grid


@dataclass
class Due:
    """A row of dividend_due."""

    symbol: str
    ex_date: date
    pay_date: date
    quantity: Decimal
    amount: Decimal
    paid_time: datetime | None = None
    entry_id: int | None = None

    def row(self) -> tuple[Any, ...]:
        return (self.symbol, self.ex_date, self.pay_date, self.quantity, self.amount, self.paid_time, self.entry_id)


def cents(exact: Fraction) -> Decimal:
    """Money, half away from zero; of what is not negative."""
    return Decimal(floor(exact * 100 + Fraction(1, 2))) / 100


def floored(exact: Fraction, step: Decimal) -> Decimal:
    return floor(exact / Fraction(step)) * step


class Actions:
    """The part of a Model that deals with splits and dividends."""

    market: Market
    calendar: Calendar
    terms: Terms
    last: datetime | None
    cash: Decimal
    orders: list[Order]
    positions: dict[str, Position]
    entries: list[tuple[Any, ...]]
    events: list[tuple[Any, ...]]
    held: Callable[[str], Decimal]
    open_orders: Callable[[], Iterator[Order]]
    _new_order: Callable[..., Order]
    _objection: Callable[..., str | None]
    _fill: Callable[..., bool]
    dues: list[Due]
    seen: Counter[str]  # what has happened, for a test that counts on it

    def load_action(self, action: Action) -> None:
        """A row that comes later. It is for the bars to come; those that have passed stay as they are."""
        if all((a.symbol, a.ex_date, a.action_type) != (action.symbol, action.ex_date, action.action_type)
               for a in self.market.actions):  # fmt: skip
            self.market.actions.append(action)
            first, last = self._first_bar(action), self.last
            self.seen["a row that comes too late"] += bool(
                first and last and first <= last and self.held(action.symbol)
            )
            self.seen["a row that comes in time"] += not (first and last and first <= last)

    def act(self, at: datetime) -> None:
        """What falls due at this bar time, before anything else happens there.

        An action is due at the first bar of its symbol that closes within its date or later; a split before a dividend
        of its date. Payments come last, those of dividends of the same day too.
        """
        if self.market.adjusted:
            return
        closes: dict[str, Decimal | None] = {}  # the last ones before, in today's units
        due_now = [action for action in self.market.actions if self._first_bar(action) == at]
        self.seen["two actions of a symbol at one bar"] += len(due_now) > len({a.symbol for a in due_now})
        self.seen["an action that has waited"] += any(a.ex_date < self.calendar.day_of(at - 2 * DAY) for a in due_now)
        for action in sorted(due_now, key=lambda a: (a.symbol.encode(), a.ex_date, a.action_type != "SPLIT")):
            if action.action_type == "DIVIDEND":
                self._declare(action, at)
            else:
                self._apply_split(action, at, closes)
        for due in sorted(self.dues, key=lambda d: (d.symbol.encode(), d.ex_date)):
            if due.paid_time is None and self.calendar.midnight(due.pay_date) < at:
                self._pay_due(due, at)

    def _first_bar(self, action: Action) -> datetime | None:
        """A bar that closes at midnight is the last of the day before."""
        begins = self.calendar.midnight(action.ex_date)
        return min((t for t in self.market.bars.get(action.symbol, {}) if t > begins), default=None)

    def _book_cash(self, at: datetime, amount: Decimal, cause: str) -> int:
        self.cash += amount
        self.entries.append((len(self.entries) + 1, at, amount, cause, None))
        return len(self.entries)

    # -- splits

    def _apply_split(self, action: Action, at: datetime, closes: dict[str, Decimal | None]) -> None:
        symbol, held = action.symbol, self.held(action.symbol)
        if symbol not in closes:
            closes[symbol] = self.market.close_before(symbol, at)
        close = closes[symbol]
        closes[symbol] = close and action.price(close)
        orders = [order for order in self.open_orders() if order.symbol == symbol]
        if not held and not orders:
            return
        payload: dict[str, Any] = {"symbol": symbol, "numerator": action.numerator, "denominator": action.denominator}
        payload |= {"quantity": held, "units": ZERO}
        if held:
            payload |= self._split_position(action, at, closes[symbol])
        self.events.append((at, "SPLIT", action.key, payload))
        for order in orders:
            self._split_order(order, action, at)

    def _split_position(self, action: Action, at: datetime, close: Decimal | None) -> dict[str, Any]:
        """Down to the step; the fraction is paid at the last close before, and takes its share of the cost with it."""
        position = self.positions[action.symbol]
        assert close is not None
        exact, cost, payload = action.units(position.quantity), ZERO, {}
        units = floored(exact, self.market.instruments[action.symbol][0])
        fraction = exact - Fraction(units)
        in_lieu = cents(fraction * Fraction(close))
        cost = cents(Fraction(position.cost_basis) * fraction / exact)
        payload["units"] = units - position.quantity
        position.quantity = units
        position.cost_basis -= cost
        position.realized_pnl += in_lieu - cost
        if cost:
            payload["cost"] = cost
        if in_lieu:
            payload |= {"cash_in_lieu": in_lieu, "entry_id": self._book_cash(at, in_lieu, "CASH_IN_LIEU")}
        self.seen["cash in lieu"] += bool(in_lieu)
        self.seen["a fraction worth nothing"] += bool(fraction and not in_lieu)
        self.seen["a position split away"] += not units
        return payload

    def _split_order(self, order: Order, action: Action, at: datetime) -> None:
        """To the step and the price grid, against the trader: fewer units, and prices that are met later."""
        step, tick = self.market.instruments[order.symbol]
        left = floored(action.units(order.left), step)
        self._saw_split(order, action, left)
        if left:
            order.quantity = order.filled_quantity + left
        else:
            order.end("CANCELED", at)
        stop_tick = None if order.order_type == "TRAILING_STOP" else tick  # it moves off the grid anyway
        prices = [("limit_price", tick, not order.is_buy), ("stop_price", stop_tick, order.is_buy)]
        prices += [
            ("take_profit_price", tick, order.is_buy),
            ("stop_loss_price", tick, not order.is_buy),
        ]  # of its exits
        prices += [("stop_loss_limit_price", tick, order.is_buy), ("trail_amount", None, False)]
        prices += [("reserve_price", None, False)]
        for name, grid, is_up in prices:
            price = getattr(order, name)
            if price is not None:
                new = action.price_on(grid, price, is_up)
                setattr(order, name, new)
                self.seen[f"{name} off the grid"] += grid is not None and action.units(new) != Fraction(price)
                self.seen["a price kept above nothing"] += grid is not None and not is_up and action.units(new) > price

    def _saw_split(self, order: Order, action: Action, left: Decimal) -> None:
        kind = order.order_type + " " + order.status
        self.seen[f"{kind} over a split"] += 1
        self.seen[f"{order.source} over a split"] += 1
        self.seen[f"{order.time_in_force} over a split"] += 1
        self.seen["an order canceled by a split"] += not left
        self.seen["an order's quantity floored"] += Fraction(left) != action.units(order.left)
        self.seen["a pair over a split"] += order.oco_id is not None
        self.seen["a bracket's entry over a split"] += (order.take_profit_price or order.stop_loss_price) is not None
        self.seen["a partly filled order canceled by a split"] += bool(order.filled_quantity and not left)

    # -- dividends

    def _declare(self, action: Action, at: datetime) -> None:
        """Who holds before the bar is owed it."""
        held, pay_date = self.held(action.symbol), action.pay_date
        if held and pay_date:
            self.dues.append(Due(action.symbol, action.ex_date, pay_date, held, money(held * action.amount)))
            payload = {"symbol": action.symbol, "quantity": held, "per_unit": action.amount, "pay_date": str(pay_date)}
            self.events.append((at, "DIVIDEND", action.key, payload))
            self.seen["a dividend"] += 1

    def _pay_due(self, due: Due, at: datetime) -> None:
        due.paid_time = at
        self.seen["a dividend of nothing"] += not due.amount
        self.seen["a dividend to one who has sold"] += self.held(due.symbol) < due.quantity
        if due.amount:
            due.entry_id = self._book_cash(at, due.amount, "DIVIDEND")
            if self.terms.reinvest_dividends:
                self._reinvest(due, at)

    def _reinvest(self, due: Due, at: datetime) -> None:
        """As many units as the dividend buys at the close, if the market is open and nothing forbids it."""
        seen, oldest = self.market.closed_at(due.symbol, at), self.terms.max_price_age
        assert seen is not None
        price, step = self.market.bars[due.symbol][seen].close, self.market.instruments[due.symbol][0]
        quantity = due.amount // (price * step) * step
        if not quantity:
            self.seen["too little to reinvest"] += 1
            return
        if not self.calendar.session(at):
            self.seen["no reinvestment while closed"] += 1
            return
        if oldest is not None and seen < at - oldest:
            self.seen["no reinvestment at an old price"] += 1
            return
        order = self._new_order(due.symbol, "BUY", quantity, "DAY", "DIVIDEND")
        order.logical_time = at
        if self._objection(order, price):
            self.orders.remove(order)
            self.seen["a reinvestment refused"] += 1
        else:
            self._fill(order, price, at)
            self.seen["a reinvestment"] += 1
