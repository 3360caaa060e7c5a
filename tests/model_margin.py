"""Margin accounts of the model: signed positions, what may be opened, what days cost, margin calls. See model.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tests.model_orders import ZERO, Order, Terms, money

if TYPE_CHECKING:
    from tests.model import Calendar, Market, Position


class Margin:
    """The part of a Model that deals with margin accounts."""

    market: Market
    calendar: Calendar
    terms: Terms
    cash: Decimal
    last: datetime | None
    positions: dict[str, Position]
    entries: list[tuple[Any, ...]]
    events: list[tuple[Any, ...]]
    met: Counter[str]
    held: Callable[[str], Decimal]
    fees: Callable[..., Decimal]
    max_position: Decimal | None
    _new_order: Callable[..., Order]
    _book: Callable[..., None]
    tradable: Callable[[str, datetime], Decimal | None]

    def move(self, position: Position, units: Decimal, cash: Decimal) -> None:
        """So many units (signed) for so much cash (signed, fees included): first what closes, then what opens."""
        closing = min(abs(units), abs(position.quantity)) if units * position.quantity < 0 else ZERO
        if closing:
            share = money(cash * closing / abs(units))
            cost = money(position.cost_basis * closing / abs(position.quantity))
            position.realized_pnl += share - cost
            position.cost_basis -= cost
            cash -= share
        position.cost_basis -= cash
        position.quantity += units

    def worths(self, at: datetime | None, but: str | None = None) -> list[tuple[str, Decimal]]:
        """What is held, at its last close; negative what is short."""
        closes = [(s, p.quantity, self.market.close(s, at)) for s, p in self.positions.items() if p.quantity]
        return [(s, money(quantity * close)) for s, quantity, close in closes if close is not None and s != but]

    def opening(self, order: Order, quantity: Decimal, before: Decimal = ZERO) -> Decimal:
        """How many of these units open or add, when `before` units of other orders of its side come first."""
        against = max(ZERO, -self.held(order.symbol) if order.is_buy else self.held(order.symbol))
        return quantity - min(quantity, max(ZERO, against - before))

    def _margin_objection(
        self,
        order: Order,
        price: Decimal | None,
        quantity: Decimal,
        before: Decimal,
        at: datetime | None,
        reserved: Decimal,
    ) -> str | None:
        """What a margin account has against an order, the limits on symbols and values aside."""
        sign, held = 1 if order.is_buy else -1, self.held(order.symbol)
        if self.max_position is not None and sign * held + before + quantity > self.max_position:
            return "POSITION_LIMIT_EXCEEDED"
        opening = self.opening(order, quantity, before)
        if not opening or price is None:
            self.met["an order that only reduces"] += bool(price)
            return None
        if order.parent_order_id is not None:
            return "POSITION_INSUFFICIENT"
        worths = self.worths(at, but=order.symbol)
        equity = self.cash - sign * money(quantity * price) - self.fees(order, quantity, price, at)
        equity += sum(worth for _, worth in worths) + money((held + sign * quantity) * price)
        exposure = sum(abs(worth) for _, worth in worths) + money((max(sign * held, ZERO) + opening) * price)
        assert self.terms.initial_margin is not None
        if equity < self.terms.initial_margin * (exposure + reserved):
            self.met["too little margin"] += 1
            return "CASH_INSUFFICIENT"
        return None

    def _pay(self, at: datetime, amount: Decimal, cause: str) -> None:
        if amount:
            self.cash -= amount
            self.entries.append((len(self.entries) + 1, at, -amount, cause, None))
            self.met[cause] += 1

    def _charge_days(self, at: datetime) -> None:
        """Before all else of a market date's first tick: what the days since the last tick have cost."""
        if self.last is None or self.terms.initial_margin is None:
            return
        days = (self.calendar.day_of(at) - self.calendar.day_of(self.last)).days
        short = -sum(worth for _, worth in self.worths(self.last) if worth < 0)
        fee, interest = (
            money(value * rate * days / 365)
            for value, rate in ((short, self.terms.borrow_rate), (max(-self.cash, ZERO), self.terms.margin_rate))
        )
        self._pay(at, fee, "BORROW_FEE")
        self._pay(at, interest, "MARGIN_INTEREST")

    def _call_margin(self, at: datetime) -> None:
        """Close whole positions, the largest first, until equity carries the others."""
        worths = sorted(self.worths(at), key=lambda item: (-abs(item[1]), item[0].encode()))
        event = {"equity": self._equity(at), "exposure": self._exposure(at)}
        for symbol, _ in worths:
            price, units = self.tradable(symbol, at), self.held(symbol)
            if self._is_carried(at):
                break
            if price is None:
                self.met["a margin call that waits"] += 1
                continue
            order = self._new_order(symbol, "SELL" if units > 0 else "BUY", abs(units), "DAY", "MARGIN")
            self._book(order, price, at, abs(units))
            if event:
                key = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                self.events.append((at, "MARGIN_CALL", key, event))
                self.met["a margin call"] += 1
                self.met["a margin call that leaves something"] += len(worths) > 1 and self._is_carried(at)
            event = {}

    def _equity(self, at: datetime) -> Decimal:
        return self.cash + sum(worth for _, worth in self.worths(at))

    def _exposure(self, at: datetime) -> Decimal:
        return sum((abs(worth) for _, worth in self.worths(at)), ZERO)

    def _is_carried(self, at: datetime) -> bool:
        assert self.terms.maintenance_margin is not None
        return self._equity(at) >= self.terms.maintenance_margin * self._exposure(at)
