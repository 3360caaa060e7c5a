"""The orders of the model: what is accepted, what a bar does to it, what a fill does to the run. See model.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.model import Calendar, Market, Position, Session

ZERO = Decimal(0)
POINT = Decimal("1e-8")  # the finest price
OPEN = ("PENDING", "TRIGGERED", "PARTIALLY_FILLED")
STOPS = ("STOP", "STOP_LIMIT", "TRAILING_STOP")
AT_MARKET = ("MARKET", "STOP", "TRAILING_STOP")  # their fills slip
AT_ONCE = ("IOC", "FOK")


def money(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal("0.01"), ROUND_HALF_UP)  # half away from zero, for either sign


def fine(price: Decimal) -> Decimal:
    return price.quantize(POINT, ROUND_HALF_UP)


@dataclass(frozen=True)
class Bar:
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal | None = None


@dataclass(frozen=True)
class Terms:
    """How the run's orders fill."""

    participation: Decimal | None = None
    slippage_bps: Decimal = ZERO
    volume_impact: Decimal = ZERO
    penetration_ticks: int = 0
    max_price_age: timedelta | None = None
    reinvest_dividends: bool = False
    fee_schedule: str | None = None
    initial_margin: Decimal | None = None
    maintenance_margin: Decimal | None = None
    borrow_rate: Decimal = ZERO
    margin_rate: Decimal = ZERO


@dataclass
class Order:
    order_id: int
    logical_time: datetime | None
    symbol: str
    side: str
    order_type: str
    quantity: Decimal
    limit_price: Decimal | None
    time_in_force: str
    client_order_id: str | None = None
    source: str = "CLIENT"
    status: str = "PENDING"
    filled_quantity: Decimal = ZERO
    avg_fill_price: Decimal | None = None
    reject_reason: str | None = None
    closed_time: datetime | None = None
    reserve_price: Decimal | None = None
    stop_price: Decimal | None = None
    trail_amount: Decimal | None = None
    trail_percent: Decimal | None = None
    good_till: datetime | None = None
    triggered_time: datetime | None = None
    oco_id: int | None = None
    parent_order_id: int | None = None
    replaces_order_id: int | None = None
    take_profit_price: Decimal | None = None
    stop_loss_price: Decimal | None = None
    stop_loss_limit_price: Decimal | None = None
    paid: Decimal = ZERO  # sum of quantity times price
    given: tuple[Any, ...] = ()  # the call that made it, as it was

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def reserves(self) -> Decimal | None:
        """The price at which it holds something back, while it is open."""
        return self.reserve_price if self.is_open else None

    @property
    def is_buy(self) -> bool:
        return self.side == "BUY"

    @property
    def left(self) -> Decimal:
        return self.quantity - self.filled_quantity

    @property
    def phase(self) -> int:
        """In one bar time: protective exits, other sells, buys."""
        if self.order_type in STOPS and (not self.is_buy or self.oco_id or self.parent_order_id):
            return 0
        return 2 if self.is_buy else 1

    def end(self, status: str, at: datetime | None, reason: str | None = None) -> None:
        self.status, self.closed_time, self.reject_reason = status, at, reason

    def no_worse(self, price: Decimal, than: Decimal) -> bool:
        """Would the trader rather trade at this price, or as gladly?"""
        return price <= than if self.is_buy else price >= than

    def trail_from(self, best: Decimal) -> Decimal:
        away = self.trail_amount if self.trail_percent is None else best * self.trail_percent / 100
        assert away is not None
        return fine(best + away if self.is_buy else best - away)

    def ratchet(self, best: Decimal) -> None:
        stop = self.trail_from(best)
        if stop > 0 and (self.stop_price is None or self.no_worse(stop, than=self.stop_price)):
            self.stop_price = stop


class Orders:
    """The half of a Model that deals with orders."""

    market: Market
    calendar: Calendar
    terms: Terms
    cash: Decimal
    first: datetime | None
    last: datetime | None
    orders: list[Order]
    positions: dict[str, Position]
    forbidden: set[str]
    max_position: Decimal | None
    max_order_value: Decimal | None
    trades: list[tuple[Any, ...]]
    entries: list[tuple[Any, ...]]
    require: Callable[..., None]
    require_running: Callable[[], None]
    new_position: Callable[[], Position]
    met: Counter[str]
    fees: Callable[..., Decimal]
    opening: Callable[..., Decimal]
    move: Callable[..., None]
    _charge: Callable[..., Decimal]
    _margin_objection: Callable[..., str | None]

    # -- the client's verbs

    def place_order(
        self,
        symbol: str,
        side: str,
        quantity: Decimal,
        order_type: str = "MARKET",
        client_order_id: str | None = None,
        time_in_force: str = "GTC",
        take_profit: Decimal | None = None,
        stop_loss: Decimal | None = None,
        stop_loss_limit: Decimal | None = None,
        **terms: Any,
    ) -> None:
        order = Order(0, self.last, symbol, side, order_type, quantity, None, time_in_force, client_order_id)
        exits = {
            "take_profit_price": take_profit,
            "stop_loss_price": stop_loss,
            "stop_loss_limit_price": stop_loss_limit,
        }
        order = replace(order, **terms, **exits)
        order.given = self._terms(order)
        self._accept([order])

    def place_oco(
        self,
        symbol: str,
        side: str,
        quantity: Decimal,
        limit_price: Decimal,
        stop_price: Decimal,
        stop_limit_price: Decimal | None = None,
        time_in_force: str = "GTC",
        client_order_id: str | None = None,
        good_till: datetime | None = None,
    ) -> None:
        target = Order(0, self.last, symbol, side, "LIMIT", quantity, limit_price, time_in_force, client_order_id)
        target.good_till = good_till
        kind = "STOP" if stop_limit_price is None else "STOP_LIMIT"
        stop = replace(
            target, order_type=kind, stop_price=stop_price, limit_price=stop_limit_price, client_order_id=None
        )
        self.require(time_in_force not in AT_ONCE)
        self.require(limit_price < stop_price if side == "BUY" else limit_price > stop_price)
        target.given = (*self._terms(target), stop_price, stop_limit_price)
        self._accept([target, stop])

    def replace_order(
        self, order_id: int, quantity: Decimal | None = None, client_order_id: str | None = None, **terms: Any
    ) -> None:
        self.require(0 < order_id <= len(self.orders))
        old = self.orders[order_id - 1]
        terms = {name: value for name, value in terms.items() if value is not None}
        given = (order_id, quantity, dict(terms))
        if first := self._named(
            client_order_id
        ):  # the first answer may have been lost, and the old order has gone since
            self.require(first.given == given, "TE102")
            return
        quantity = old.left if quantity is None else quantity
        if {"trail_amount", "trail_percent"} & set(terms):
            terms = {"trail_amount": None, "trail_percent": None, **terms}
        if terms.get("time_in_force", "GTD") != "GTD":
            terms.setdefault("good_till", None)
        if old.order_type == "TRAILING_STOP":
            terms.setdefault("stop_price", None)
        new = replace(
            old,
            order_id=0,
            logical_time=self.last,
            quantity=quantity,
            client_order_id=client_order_id,
            replaces_order_id=order_id,
            source="CLIENT",
            status="PENDING",
            triggered_time=None,
            reserve_price=None,
            filled_quantity=ZERO,
            avg_fill_price=None,
            paid=ZERO,
            given=given,
            **terms,
        )
        self._accept([new], old)

    def cancel_order(self, order_id: int) -> None:
        self.require(0 < order_id <= len(self.orders))
        self.require_running()
        order = self.orders[order_id - 1]
        if order.is_open:
            self._close(order, "CANCELED", self.last)

    # -- acceptance

    def _check_terms(self, order: Order) -> None:
        """TE101 for what cannot be an order."""
        kind, limit, stop, tif = order.order_type, order.limit_price, order.stop_price, order.time_in_force
        self.require(order.side in ("BUY", "SELL") and kind in ("MARKET", "LIMIT", *STOPS))
        self.require(tif in ("DAY", "GTC", "GTD", "IOC", "FOK") and order.quantity.is_finite())
        self.require((limit is not None) == (kind in ("LIMIT", "STOP_LIMIT")))
        self.require((stop is not None) == (kind in ("STOP", "STOP_LIMIT")))
        trails = [t for t in (order.trail_amount, order.trail_percent) if t is not None]
        self.require(len(trails) == (kind == "TRAILING_STOP") and all(t > 0 for t in trails))
        self.require(order.trail_percent is None or order.trail_percent < 100)
        self.require((order.good_till is not None) == (tif == "GTD"))
        target, loss, loss_limit = order.take_profit_price, order.stop_loss_price, order.stop_loss_limit_price
        self.require(all(price is None or price > 0 for price in (limit, stop, target, loss, loss_limit)))
        self.require(loss is not None or loss_limit is None)
        in_order = [p for p in (loss, limit, target) if p is not None]  # for a buy: loss below, target above
        strictly = sorted(set(in_order), reverse=not order.is_buy)
        self.require(in_order == strictly or (target is None and loss is None))

    def _accept(self, orders: list[Order], old: Order | None = None) -> None:
        """Store one order, or a pair: open if all of it can be accepted, else rejected."""
        for order in orders:
            self._check_terms(order)
        given = orders[0].quantity
        for order in orders:
            order.quantity = given.quantize(POINT, ROUND_HALF_UP)
        if first := self._named(orders[0].client_order_id):
            self.require(first.given == orders[0].given, "TE102")
            return
        self.require_running()
        if old:
            self.require(old.is_open and (old.oco_id is None or given == old.left))
            self._check_leg(old, orders[0])
        self.require(orders[0].good_till is None or self.last is None or orders[0].good_till > self.last)
        for order in orders:
            order.order_id = len(self.orders) + 1
            self.orders.append(order)
            close = self.market.close(order.symbol, self.last)
            if order.order_type == "TRAILING_STOP" and close is not None:
                order.ratchet(close)
            if len(orders) == 2:
                order.oco_id = orders[0].order_id
        reasons = [self._misfit(order, given) or self._unfit(order, old) for order in orders]
        reason = next((r for r in reasons if r), None)
        for order in orders:
            if reason:
                order.end("REJECTED", self.last, reason)
            elif order.parent_order_id is None:
                # a pair holds back once, for the dearer of the two
                pair = {o.order_id: o for o in [order, *self._pair(order)] if o is not old}.values()
                prices = [self._reserve_price(o, old) for o in pair]
                for one in pair:
                    one.reserve_price = max((price for price in prices if price is not None), default=None)
        if old and not reason:
            old.end("CANCELED", self.last)

    def _check_leg(self, old: Order, new: Order) -> None:
        """What replaces one of a pair leaves them a pair."""
        for other in self.orders:
            if old.oco_id is not None and other.oco_id == old.oco_id and other is not old and other.is_open:
                self.require((new.time_in_force, new.good_till) == (old.time_in_force, old.good_till))
                limit, stop = (new, other) if new.order_type == "LIMIT" else (other, new)
                assert limit.limit_price is not None
                assert stop.stop_price is not None
                self.require(stop.no_worse(limit.limit_price, than=stop.stop_price))
                self.require(limit.limit_price != stop.stop_price)

    def _terms(self, order: Order) -> tuple[Any, ...]:
        names = (
            "symbol side quantity order_type limit_price stop_price time_in_force trail_amount trail_percent good_till"
        )
        names += " take_profit_price stop_loss_price stop_loss_limit_price"
        return tuple(getattr(order, name) for name in names.split())

    def _named(self, client_order_id: str | None) -> Order | None:
        named = (o for o in self.orders if client_order_id is not None and o.client_order_id == client_order_id)
        return next(named, None)

    def _misfit(self, order: Order, given: Decimal) -> str | None:
        if order.quantity <= 0:
            return "QUANTITY_NOT_POSITIVE"
        if order.symbol not in self.market.instruments:
            return "SYMBOL_UNKNOWN"
        step, tick = self.market.instruments[order.symbol]
        if given % step:
            return "QUANTITY_OFF_STEP"
        prices = [order.limit_price, order.stop_price if order.order_type != "TRAILING_STOP" else None]
        prices += [order.take_profit_price, order.stop_loss_price, order.stop_loss_limit_price]
        if tick and any(price % tick for price in prices if price):
            return "PRICE_OFF_TICK"
        return None

    def _unfit(self, order: Order, old: Order | None) -> str | None:
        if order.order_type in ("MARKET", "TRAILING_STOP"):
            oldest, seen = self.terms.max_price_age, self.market.closed_at(order.symbol, self.last)
            if oldest is not None and seen and self.last and seen < self.last - oldest:
                return "PRICE_STALE"
        return self._objection(order, self._known_price(order), accepting=True, instead_of=old)

    def _known_price(self, order: Order) -> Decimal | None:
        """What a buy is expected to cost at most, as far as one knows."""
        return order.limit_price or order.stop_price or self.market.close(order.symbol, self.last)

    def _reserve_price(self, order: Order, instead_of: Order | None) -> Decimal | None:
        """What a unit of it holds back: of cash its price and its fees; on margin, of exposure, what opens of it."""
        price, others = self._known_price(order), self._wanted(order, instead_of)
        order = replace(order, order_id=0, quantity=order.left)  # as if what is left of it were a new order
        opens = order.quantity if order.is_buy else ZERO
        if self.terms.initial_margin is not None:
            opens = self.opening(order, order.quantity, others)
        if price is None or not opens:
            return None
        whole = opens * price + self.fees(order, order.quantity, price, self.last)
        return (whole / order.quantity).quantize(POINT, ROUND_CEILING)

    # -- what an order may not do

    def open_orders(self) -> Iterator[Order]:
        return (order for order in self.orders if order.is_open)

    def _new_order(self, symbol: str, side: str, quantity: Decimal, time_in_force: str, source: str) -> Order:
        number = len(self.orders) + 1
        order = Order(number, self.last, symbol, side, "MARKET", quantity, None, time_in_force, source=source)
        self.orders.append(order)
        return order

    def _others(self, but: Order | None, instead_of: Order | None = None) -> Iterator[list[Order]]:
        """Open orders besides this one, its pair, and the one that it replaces; a pair together."""
        pairs: dict[Any, list[Order]] = {}
        for order in self.open_orders():
            mine = but is not None and (order is but or (order.oco_id is not None and order.oco_id == but.oco_id))
            if not mine and order is not instead_of:
                pairs.setdefault(order.oco_id or ("single", order.order_id), []).append(order)
        yield from pairs.values()

    def _wanted(self, order: Order, instead_of: Order | None) -> Decimal:
        """Units that other open orders of its symbol and side want."""
        others = [pair[0] for pair in self._others(order, instead_of)]
        return sum((o.left for o in others if (o.symbol, o.side) == (order.symbol, order.side)), ZERO)

    def _held_back(self, but: Order | None = None, instead_of: Order | None = None) -> Decimal:
        held_back = ZERO
        for orders in self._others(but, instead_of):
            prices = [o.reserve_price for o in orders if o.reserve_price is not None]
            held_back += money(orders[0].left * max(prices)) if prices else ZERO
        return held_back

    def _free_cash(self) -> Decimal:
        return self.cash - self._held_back()

    def _objection(
        self,
        order: Order,
        price: Decimal | None,
        accepting: bool = False,
        quantity: Decimal | None = None,
        instead_of: Order | None = None,
        at: datetime | None = None,
    ) -> str | None:
        """Why the risk rules refuse the order at this price; at acceptance, what other open orders want counts too."""
        quantity = order.quantity if quantity is None else quantity
        at = self.last if accepting else at
        before = self._wanted(order, instead_of) if accepting else ZERO
        held, reserved = self.held(order.symbol), self._held_back(order, instead_of)
        value = None if price is None else money(quantity * price)
        fees = self.fees(order, quantity, price, at)
        if order.symbol in self.forbidden:
            return "SYMBOL_FORBIDDEN"
        if value is not None and self.max_order_value is not None and value > self.max_order_value:
            return "ORDER_VALUE_EXCEEDED"
        if self.terms.initial_margin is not None:
            return self._margin_objection(order, price, quantity, before, at, reserved)
        if order.side == "BUY":
            if self.max_position is not None and held + before + quantity > self.max_position:
                return "POSITION_LIMIT_EXCEEDED"
            if value is not None and value + fees > self.cash - reserved:
                return "CASH_INSUFFICIENT"
        elif before + quantity > held:
            return "POSITION_INSUFFICIENT"
        elif value is not None and fees > self.cash + value:
            return "CASH_INSUFFICIENT"
        return None

    def held(self, symbol: str) -> Decimal:
        return self.positions[symbol].quantity if symbol in self.positions else ZERO

    # -- what a fill does

    def _fill(self, order: Order, price: Decimal, at: datetime, quantity: Decimal | None = None) -> bool:
        """Fill the order, or this much of it; without effect but for the order's end when the rules refuse it."""
        quantity = order.quantity if quantity is None else quantity
        if reason := self._objection(order, price, quantity=quantity, at=at):
            self._close(order, *(("REJECTED", at, reason) if not order.filled_quantity else ("CANCELED", at)))
            return False
        self._book(order, price, at, quantity)
        return True

    def _book(self, order: Order, price: Decimal, at: datetime, quantity: Decimal) -> None:
        trade_id, value = len(self.trades) + 1, money(quantity * price)
        fees = self._charge(order, trade_id, quantity, price, at)
        cash = (-value if order.is_buy else value) - fees
        self.cash += cash
        position = self.positions.setdefault(order.symbol, self.new_position())
        self.met["a short that is covered"] += position.quantity < 0 and order.is_buy
        self.move(position, quantity if order.is_buy else -quantity, cash)
        self.met["a short position"] += position.quantity < 0
        self.trades.append((trade_id, order.order_id, at, order.symbol, order.side, quantity, price, fees))
        self.entries.append((len(self.entries) + 1, at, cash, "TRADE", trade_id))
        order.filled_quantity += quantity
        order.paid += quantity * price
        order.avg_fill_price = fine(order.paid / order.filled_quantity)
        order.status = "PARTIALLY_FILLED"
        if order.left:
            for other in self._pair(order):
                other.quantity -= quantity
        else:
            self._close(order, "FILLED", at)

    def _pair(self, order: Order) -> list[Order]:
        pair = order.oco_id
        return [o for o in self.open_orders() if pair is not None and o.oco_id == pair and o is not order]

    def _close(self, order: Order, status: str, at: datetime | None, reason: str | None = None) -> None:
        """End an order; but for an expiry that ends the other of its pair too."""
        order.end(status, at, reason)
        for other in self._pair(order):
            other.end("CANCELED", at)

    def _protect(self, entry: Order, quantity: Decimal, at: datetime) -> list[Order]:
        """What an entry has just filled gets its exits, or goes to those it has. Returns new ones."""
        exits = [o for o in self.open_orders() if o.parent_order_id == entry.order_id]
        if exits:
            for order in exits:
                order.quantity += quantity
            return []
        tif = "GTC" if entry.time_in_force in AT_ONCE else entry.time_in_force
        kinds = [("LIMIT", entry.take_profit_price, None)]
        kinds += [("STOP" if entry.stop_loss_limit_price is None else "STOP_LIMIT", None, entry.stop_loss_price)]
        for kind, limit, stop in kinds:
            if limit is not None or stop is not None:
                order = self._new_order(entry.symbol, "SELL" if entry.is_buy else "BUY", quantity, tif, "BRACKET")
                order.logical_time, order.order_type, order.good_till = at, kind, entry.good_till
                order.limit_price = limit if stop is None else entry.stop_loss_limit_price
                order.stop_price, order.parent_order_id = stop, entry.order_id
                exits.append(order)
        for order in exits:
            order.oco_id = exits[0].order_id
        return exits

    # -- what a bar does

    def _bar_time(self, at: datetime) -> None:
        session = self.calendar.session(at)
        self._expire(at, lambda end: end < at)
        self.room: dict[str, Decimal] = {}
        self.waiting = list(self.open_orders())  # exits of an entry that fills at the open join them
        while self.waiting:
            order = min(self.waiting, key=lambda o: (o.phase, o.order_id))
            self.waiting.remove(order)
            bar = self.market.bars.get(order.symbol, {}).get(at)
            if not bar or not order.is_open:
                continue
            if session:
                self._meet(order, bar, at, session)
            elif order.time_in_force in AT_ONCE and order.order_type not in STOPS:
                self._close(order, "REJECTED", at, "SESSION_CLOSED")
        self._expire(at, lambda end: end == at)

    def _expire(self, at: datetime, ends: Callable[[datetime], bool]) -> None:
        for order in list(self.open_orders()):
            end, accepted = order.good_till, order.logical_time
            if order.time_in_force == "DAY":
                calendar = self.calendar
                session = calendar.closing_after(accepted) if accepted else calendar.closing_from(self.first or at)
                end = session and session.close_at
            if end and ends(end):
                order.end("EXPIRED", at)

    def _meet(self, order: Order, bar: Bar, at: datetime, session: Session) -> None:
        """One order, one bar of its symbol, inside a session."""
        price = self._met_at(order, bar, at, session)
        is_live = order.order_type not in STOPS or order.triggered_time is not None
        if order.triggered_time and order.status == "PENDING":
            order.status = "TRIGGERED"
        if price is not None:
            self._execute(order, price, bar, at)
        if order.is_open and is_live and order.time_in_force in AT_ONCE:
            self._close(order, "CANCELED", at)
        if order.order_type == "TRAILING_STOP" and not is_live:
            order.ratchet(bar.low if order.is_buy else bar.high)

    def _met_at(self, order: Order, bar: Bar, at: datetime, session: Session) -> Decimal | None:
        """Where the bar meets the order, before slippage. A stop that is met is triggered."""
        live, stop = order.triggered_time is not None, order.stop_price
        accepted = order.logical_time or (self.first or at) - timedelta(microseconds=1)
        seen = any(max(session.open_at, accepted) < t < at for t in self.market.bars[order.symbol])
        if order.order_type == "MARKET" or (live and order.order_type != "STOP_LIMIT"):
            return bar.open
        if order.order_type == "LIMIT" or live:
            return self._limit_price(order, bar, is_fresh=not seen)
        if stop is None:
            return None
        gap = order.no_worse(stop, than=bar.open)
        if not gap and not order.no_worse(stop, than=bar.high if order.is_buy else bar.low):
            return None
        order.triggered_time = at
        if order.order_type != "STOP_LIMIT":
            return bar.open if gap else stop
        if gap:
            return self._limit_price(order, bar, is_fresh=True)
        assert order.limit_price is not None
        if order.no_worse(stop, than=order.limit_price):
            return stop
        return order.limit_price if order.no_worse(bar.close, than=order.limit_price) else None

    def _limit_price(self, order: Order, bar: Bar, is_fresh: bool) -> Decimal | None:
        limit, tick = order.limit_price, self.market.instruments[order.symbol][1]
        assert limit is not None
        if is_fresh and order.no_worse(bar.open, than=limit):
            return bar.open
        through = self.terms.penetration_ticks * (tick or POINT)
        if order.is_buy:
            return min(limit, bar.high) if bar.low <= limit - through else None
        return max(limit, bar.low) if bar.high >= limit + through else None

    def _execute(self, order: Order, price: Decimal, bar: Bar, at: datetime) -> None:
        quantity = order.left
        if self.terms.participation is not None and bar.volume is not None:
            step = self.market.instruments[order.symbol][0]
            share = self.terms.participation * bar.volume
            room = self.room.setdefault(order.symbol, share // step * step)
            if order.time_in_force == "FOK" and room < quantity:
                return
            quantity = min(quantity, room)
        if not quantity or not self._fill(order, self._slipped(order, price, quantity, bar), at, quantity):
            return
        if order.symbol in self.room:
            self.room[order.symbol] -= quantity
        if order.take_profit_price is not None or order.stop_loss_price is not None:
            exits = self._protect(order, quantity, at)
            if price == bar.open:  # the whole bar came after the fill
                self.waiting += exits

    def _slipped(self, order: Order, price: Decimal, quantity: Decimal, bar: Bar) -> Decimal:
        impact = self.terms.volume_impact * (quantity / bar.volume) ** 2 if bar.volume else ZERO
        worse = self.terms.slippage_bps / 10000 + impact
        if order.order_type not in AT_MARKET or not (self.terms.slippage_bps or self.terms.volume_impact):
            return price
        price *= 1 + worse if order.is_buy else 1 - worse
        tick = self.market.instruments[order.symbol][1]
        if tick:
            price = (price / tick).to_integral_value(ROUND_CEILING if order.is_buy else ROUND_FLOOR) * tick
        return min(max(fine(price), bar.low), bar.high)
