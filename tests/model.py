"""The engine a second time, in plain Python: slow, small, and written from the contract, not from the SQL.

A Model holds one run over one Market. Its verbs have the names and the arguments of the SQL verbs without their p_,
change its state or raise Refused, and `rows()` gives the run's tables as the database must hold them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from calendar import monthrange
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, localcontext
from math import lcm
from typing import Any
from zoneinfo import ZoneInfo

from tests.model_actions import Action, Actions
from tests.model_fees import Bill, FeeRow, Fees
from tests.model_margin import Margin
from tests.model_orders import ZERO, Bar, Order, Orders, Terms, money

DAY = timedelta(days=1)
MONTHS = {"MONTHLY": 1, "QUARTERLY": 3}


class Refused(Exception):
    """The call is refused. Where two refusals apply, the contract does not say which of them speaks."""

    def __init__(self, *codes: str) -> None:
        super().__init__(" or ".join(codes))
        self.codes = codes


def whole(step: Decimal) -> Decimal:
    """The smallest whole number that is a multiple of step."""
    return Decimal(lcm(int(step * 10**8), 10**8)) / 10**8


@dataclass(frozen=True)
class Session:
    """(open_at, close_at]: the open is outside, the close inside."""

    day: date
    open_at: datetime
    close_at: datetime


@dataclass
class Calendar:
    """Sessions in order; None is ALWAYS, one session per UTC day."""

    sessions: list[Session] | None = None
    zone: str = "UTC"

    def __post_init__(self) -> None:
        self.closes = [s.close_at for s in self.sessions or []]
        self.days = [s.day for s in self.sessions or []]

    def knows(self, at: datetime) -> bool:
        if not self.sessions:
            return self.sessions is None
        start = datetime.combine(self.days[0], time(), ZoneInfo(self.zone))
        return min(start, self.sessions[0].open_at) <= at <= self.closes[-1]

    def closing_from(self, at: datetime) -> Session | None:
        """The first session that closes at or after `at`."""
        if self.sessions is None:
            start = datetime.combine((at - timedelta(microseconds=1)).date(), time(), UTC)
            return Session(start.date(), start, start + DAY)
        index = bisect_left(self.closes, at)
        return self.sessions[index] if index < len(self.closes) else None

    def closing_after(self, at: datetime) -> Session | None:
        return self.closing_from(at + timedelta(microseconds=1))

    def session(self, at: datetime) -> Session | None:
        found = self.closing_from(at)
        return found if found and found.open_at < at else None

    def day_of(self, at: datetime) -> date:
        return at.astimezone(ZoneInfo(self.zone)).date()

    def midnight(self, day: date) -> datetime:
        return datetime.combine(day, time(), ZoneInfo(self.zone)).astimezone(UTC)

    def has_day(self, day: date) -> bool:
        return self.sessions is None or day in self.days

    def day_on_or_before(self, day: date) -> date | None:
        """The last session day up to `day`; None while the calendar does not reach that far."""
        if self.sessions is None:
            return day
        if not self.days or day > self.days[-1]:
            return None
        index = bisect_right(self.days, day)
        return self.days[index - 1] if index else date.min

    def nth_day_from(self, start: date, n: int) -> date | None:
        if self.sessions is None:
            return start + n * DAY
        index = bisect_left(self.days, start) + n
        return self.days[index] if index < len(self.days) else None

    def closed_since(self, day: date, at: datetime) -> bool:
        """Has a session of that day or a later one closed before `at`?"""
        if self.sessions is None:
            return datetime.combine(day, time(), UTC) + DAY < at
        return any(s.day >= day and s.close_at < at for s in self.sessions)


@dataclass
class Market:
    """What all runs share. instruments: symbol -> (quantity step, price tick or None); bars: symbol -> time -> bar."""

    instruments: dict[str, tuple[Decimal, Decimal | None]]
    bars: dict[str, dict[datetime, Bar]]
    calendar: Calendar = field(default_factory=Calendar)
    actions: list[Action] = field(default_factory=list)
    adjusted: bool = False
    products: dict[str, str] = field(default_factory=dict)  # of symbols that are no EQUITY
    fees: list[FeeRow] = field(default_factory=list)  # of the run's schedule

    def __post_init__(self) -> None:
        self.clock = sorted({at for bars in self.bars.values() for at in bars})

    def closed_at(self, symbol: str, at: datetime | None) -> datetime | None:
        """The time of the last close."""
        return max((t for t in self.bars.get(symbol, {}) if at and t <= at), default=None)

    def close(self, symbol: str, at: datetime | None) -> Decimal | None:
        time = self.closed_at(symbol, at)
        return self.bars[symbol][time].close if time else None

    def close_before(self, symbol: str, at: datetime) -> Decimal | None:
        return self.close(symbol, at - timedelta(microseconds=1))


@dataclass
class Position:
    quantity: Decimal = ZERO
    cost_basis: Decimal = ZERO
    realized_pnl: Decimal = ZERO


@dataclass
class Plan:
    """What SIPs and rebalances share: slots whose dates are a function of start, frequency and number alone."""

    frequency: str
    start: date
    next_slot: int = 0
    end: date | None = None
    instalments: int | None = None
    roll: str = "NEXT"

    def date_of(self, slot: int, calendar: Calendar) -> date | None:
        if self.frequency == "DAILY":
            return calendar.nth_day_from(self.start, slot)
        if self.frequency == "WEEKLY":
            return self.start + 7 * slot * DAY
        month = self.start.month - 1 + slot * MONTHS[self.frequency]
        year, month = self.start.year + month // 12, month % 12 + 1
        return date(year, month, min(self.start.day, monthrange(year, month)[1]))

    def due(self, today: date, calendar: Calendar) -> list[tuple[int, date, date]]:
        """Slots that have not ended and are due, as (slot, nominal date, date from which it is due)."""
        found = []
        slot = self.next_slot
        while self.instalments is None or slot < self.instalments:
            nominal = self.date_of(slot, calendar)
            if nominal is None or (self.end and nominal > self.end):
                break
            from_day = calendar.day_on_or_before(nominal) if self.roll == "PREVIOUS" else nominal
            if from_day is None or from_day > today:
                break
            found.append((slot, nominal, from_day))
            slot += 1
        return found


@dataclass
class Sip(Plan):
    """It buys one symbol, or a basket of shares, or what the rebalance plan of that number wants most."""

    symbol: str | None = ""
    amount: Decimal = ZERO
    catch_up: str = "ONCE"
    step_up_percent: Decimal | None = None
    step_up_amount: Decimal | None = None
    step_up_every: int | None = None
    whole_units: bool = False
    basket: dict[str, Decimal] | None = None
    rebalance_plan: int | None = None
    auto_pause_after: int | None = None
    paused: bool = False
    pauses: list[tuple[date, date]] = field(default_factory=list)
    residual: Decimal = ZERO
    base_slot: int = 0
    short: int = 0

    def amount_of(self, slot: int) -> Decimal:
        steps = (slot - self.base_slot) // self.step_up_every if self.step_up_every else 0
        if self.step_up_percent is not None:
            return money(self.amount * (1 + self.step_up_percent / 100) ** steps)
        return money(self.amount + (self.step_up_amount or ZERO) * steps)

    def is_paused_on(self, day: date) -> bool:
        return self.paused or any(first <= day <= last for first, last in self.pauses)


@dataclass
class Rebalance(Plan):
    weights: dict[str, Decimal] = field(default_factory=dict)
    band: Decimal | None = None
    band_relative: Decimal | None = None
    to_band_edge: bool = False
    min_order_value: Decimal | None = None
    whole_units: bool = False

    def allowance(self, equity: Decimal, target: Decimal) -> Decimal | None:
        """How far a symbol may be from its target: what the narrower of the bands allows."""
        bands = [(self.band, equity), (self.band_relative, target)]
        return min((share * value for share, value in bands if share is not None), default=None)


FAR = date(9999, 1, 1)


class Model(Orders, Fees, Margin, Actions):
    """One run. Its verbs are those of the database; its tables are lists of rows without the run's key."""

    new_position = Position

    def __init__(self, market: Market, initial_cash: Decimal, **terms: Any) -> None:
        self.terms = Terms(**terms)
        self.market, self.calendar = market, market.calendar
        self.status = "RUNNING"
        self.cash = money(initial_cash)
        self.first: datetime | None = None
        self.last: datetime | None = None
        self.orders: list[Order] = []
        self.positions: dict[str, Position] = {}
        self.sips: list[Sip] = []
        self.rebalances: list[Rebalance] = []
        self.forbidden: set[str] = set()
        self.max_position: Decimal | None = None
        self.max_order_value: Decimal | None = None
        self.trades: list[tuple[Any, ...]] = []
        self.entries: list[tuple[Any, ...]] = [(1, None, self.cash, "OPENING", None)]
        self.mtm: dict[datetime, tuple[Any, ...]] = {}
        self.equity: dict[datetime, tuple[Any, ...]] = {}
        self.events: list[tuple[Any, ...]] = []
        self.dues, self.seen = [], Counter()
        self.bills: dict[int, Bill] = {}
        self.fee_rows: list[tuple[Any, ...]] = []
        self.met: Counter[str] = Counter()

    def call(self, verb: str, **arguments: Any) -> None:
        """Call a verb by name, with enough digits for every product of a quantity and a price to be exact."""
        with localcontext(prec=80):
            getattr(self, verb)(**arguments)

    # -- refusals

    def require(self, good: bool, code: str = "TE101") -> None:
        if not good:
            raise Refused(code, *(["TE001"] if self.status != "RUNNING" else []))

    def require_running(self) -> None:
        if self.status != "RUNNING":
            raise Refused("TE001")

    # -- the client's verbs

    def stop_run(self) -> None:
        self._end_run("STOPPED")

    def fail_run(self, error: str) -> None:
        self._end_run("ERROR")

    def _end_run(self, status: str) -> None:
        if self.status == "RUNNING":
            for order in self.open_orders():
                order.end("CANCELED", self.last)
            self.status = status

    def set_risk_limit(self, max_position: Decimal | None = None, max_order_value: Decimal | None = None) -> None:
        self.require(all(limit is None or limit >= 0 for limit in (max_position, max_order_value)))
        self.require_running()
        self.max_position = max_position
        self.max_order_value = None if max_order_value is None else money(max_order_value)

    def forbid_symbol(self, symbol: str) -> None:
        self.require_running()
        self.forbidden.add(symbol)

    def create_sip(
        self,
        symbol: str | None,
        amount: Decimal,
        frequency: str,
        start: date,
        catch_up: str = "ONCE",
        **options: Any,
    ) -> None:
        plan = Sip(frequency, start, symbol=symbol, amount=money(amount), catch_up=catch_up, **options)
        plan.step_up_amount = plan.step_up_amount and money(plan.step_up_amount)
        self.require(plan.amount > 0 and (plan.end is None or plan.end >= start))
        self.require(plan.instalments is None or plan.instalments > 0)
        self.require(plan.auto_pause_after is None or plan.auto_pause_after > 0)
        ups = [up for up in (plan.step_up_percent, plan.step_up_amount) if up is not None]
        self.require(len(ups) == (plan.step_up_every is not None) and all(up > 0 for up in ups))
        self.require(plan.step_up_every is None or plan.step_up_every > 0)
        self.require(sum(what is not None for what in (symbol, plan.basket, plan.rebalance_plan)) == 1)
        self.require(symbol is None or symbol in self.market.instruments, "TE201")
        if plan.basket is not None:
            self.require(all(share > 0 for share in plan.basket.values()) and sum(plan.basket.values()) == 1)
        if plan.rebalance_plan is not None:
            self.require(0 < plan.rebalance_plan <= len(self.rebalances))
            self.require(any(self.rebalances[plan.rebalance_plan - 1].weights.values()))
        self.require_running()
        self.sips.append(plan)

    def change_sip(self, sip_id: int, amount: Decimal) -> None:
        self.require(money(amount) > 0)
        sip = self._sip(sip_id)
        sip.amount, sip.base_slot = money(amount), sip.next_slot

    def pause_sip(self, sip_id: int, from_: date | None = None, to: date | None = None) -> None:
        sip = self._sip(sip_id)
        if from_ is None and to is None:
            sip.paused = True
        else:
            sip.pauses.append(self._dates(sip, from_, to))

    def resume_sip(self, sip_id: int, from_: date | None = None, to: date | None = None) -> None:
        sip = self._sip(sip_id)
        if from_ is None and to is None:
            sip.paused, sip.short = False, 0
            # an open pause swallows the ones that it overlaps or touches
            grows, open_from = FAR + DAY, FAR
            while open_from < grows:
                grows = open_from
                open_from = min([FAR, *(first for first, last in sip.pauses if last + DAY >= grows)])
            sip.pauses = [(first, last) for first, last in sip.pauses if first < open_from]
        else:
            since, until = self._dates(sip, from_, to)
            left = []
            for first, last in sip.pauses:
                left += [(first, min(last, since - DAY)), (max(first, until + DAY) if until < FAR else FAR + DAY, last)]
            sip.pauses = [(first, last) for first, last in left if first <= last]

    def _dates(self, sip: Sip, from_: date | None, to: date | None) -> tuple[date, date]:
        first, last = from_ or sip.start, to or FAR
        self.require(first <= last)
        return first, last

    def _sip(self, sip_id: int) -> Sip:
        self.require(0 < sip_id <= len(self.sips))
        self.require_running()
        return self.sips[sip_id - 1]

    def create_rebalance(self, weights: dict[str, Decimal], frequency: str, start: date, **options: Any) -> None:
        plan = Rebalance(frequency, start, weights=weights, **options)
        self.require(all(0 <= weight <= 1 for weight in weights.values()) and sum(weights.values()) <= 1)
        bands = [band for band in (plan.band, plan.band_relative) if band is not None]
        self.require(all(0 <= band <= 1 for band in bands) and (bands != [] or not plan.to_band_edge))
        plan.min_order_value = plan.min_order_value and money(plan.min_order_value)
        self.require(plan.min_order_value is None or plan.min_order_value > 0)
        self.require(set(weights) <= set(self.market.instruments), "TE201")
        self.require_running()
        self.rebalances.append(plan)

    # -- one tick

    def tick(self, logical_time: datetime) -> None:
        at = logical_time
        if at in self.mtm:
            return
        self.require_running()
        if self.last and at < self.last:
            raise Refused("TE003")
        if not self.calendar.knows(at):
            raise Refused("TE203")
        since, self.first = self.last, self.first or at
        self._charge_days(at)
        for bar_time in self.market.clock:
            if bar_time == at or (since and since < bar_time < at):
                if since:
                    self.act(bar_time)
                self._bar_time(bar_time)
        self.last = at
        if self.calendar.session(at):
            for number, sip in enumerate(self.sips, 1):
                self._run_sip(number, sip, at)
            for number, plan in enumerate(self.rebalances, 1):
                self._run_rebalance(number, plan, at)
            if self.terms.maintenance_margin is not None:
                self._call_margin(at)
        value, cost = self._market_value(at), sum((p.cost_basis for p in self.positions.values()), ZERO)
        realized = sum((p.realized_pnl for p in self.positions.values()), ZERO)
        self.mtm[at] = (at, value, cost, value - cost, realized)
        self.equity[at] = (at, self.cash, value, self.cash + value)

    def _market_value(self, at: datetime) -> Decimal:
        held = [(s, p.quantity) for s, p in self.positions.items() if p.quantity]
        return sum((money(quantity * self._price(symbol, at)) for symbol, quantity in held), ZERO)

    def tradable(self, symbol: str, at: datetime) -> Decimal | None:
        """The last close, unless it is too old to be traded on."""
        oldest, seen = self.terms.max_price_age, self.market.closed_at(symbol, at)
        return None if seen and oldest is not None and seen < at - oldest else self.market.close(symbol, at)

    def _step(self, symbol: str) -> Decimal:
        return self.market.instruments[symbol][0]

    def _price(self, symbol: str, at: datetime) -> Decimal:
        price = self.market.close(symbol, at)
        assert price is not None
        return price

    # -- plans

    def _end_slot(self, at: datetime, kind: str, number: int, slot: int, **payload: Any) -> None:
        self.events.append((at, kind, f"{number}:{slot}", {k: v for k, v in payload.items() if v is not None}))

    def _run_sip(self, number: int, sip: Sip, at: datetime) -> None:
        due = sip.due(self.calendar.day_of(at), self.calendar)
        shares = sip.basket or {str(sip.symbol): Decimal(1)}
        if sip.rebalance_plan is not None:
            weights = self.rebalances[sip.rebalance_plan - 1].weights
            shares = {symbol: weight for symbol, weight in weights.items() if weight}
        if any(self.tradable(symbol, at) is None for symbol in shares):
            return
        for slot, nominal, from_day in due:
            sip.next_slot = slot + 1
            late = slot != due[-1][0]
            if sip.catch_up == "SKIP" and not late:
                late = self.calendar.closed_since(from_day, at)
            details: dict[str, Any] = {}
            if sip.is_paused_on(nominal):
                kind = "SIP_SKIPPED_PAUSED"
            elif sip.roll == "SKIP" and not self.calendar.has_day(nominal):
                kind = "SIP_SKIPPED_HOLIDAY"
            elif late and sip.catch_up != "EACH":
                kind = "SIP_MISSED"
            else:
                kind, details = self._buy_slot(sip, slot, shares, at)
            self._end_slot(at, kind, number, slot, date=nominal.isoformat(), amount=sip.amount_of(slot), **details)
            if sip.auto_pause_after is not None:
                sip.short = sip.short + 1 if kind == "SIP_SKIPPED_FUNDS" else 0
                if sip.short >= sip.auto_pause_after and kind == "SIP_SKIPPED_FUNDS":
                    sip.paused = True
                    self._end_slot(at, "SIP_AUTO_PAUSED", number, slot, date=nominal.isoformat(), skipped=sip.short)

    def _split(self, sip: Sip, budget: Decimal, shares: dict[str, Decimal], at: datetime) -> list[tuple[str, Decimal]]:
        """Symbols in the order of buying, each with its part of the budget; the last has what is left of it."""
        parts = [(symbol, money(budget * shares[symbol])) for symbol in sorted(shares, key=str.encode)]
        if sip.rebalance_plan is not None:
            worth = {symbol: money(self.held(symbol) * self._price(symbol, at)) for symbol in shares}
            total, whole_weight = sum(worth.values()) + budget, sum(shares.values())
            wanted = {symbol: shares[symbol] * total - worth[symbol] * whole_weight for symbol in shares}
            order = sorted((s for s in shares if wanted[s] > 0), key=lambda s: (-wanted[s], s.encode()))
            parts = [(symbol, money(wanted[symbol] / whole_weight)) for symbol in order]
        split = []
        for symbol, part in parts:
            part = budget if symbol == parts[-1][0] else min(part, budget)
            split.append((symbol, part))
            budget -= part
        return split

    def _buy_slot(self, sip: Sip, slot: int, shares: dict[str, Decimal], at: datetime) -> tuple[str, dict[str, Any]]:
        budget, orders, before, undo = sip.amount_of(slot), [], self.cash, self._savepoint()
        if sip.whole_units:
            budget += sip.residual
        for symbol, part in self._split(sip, budget, shares, at):
            price, step = self._price(symbol, at), self._step(symbol)
            quantity = self.affordable(part, price, whole(step) if sip.whole_units else step, symbol, at)
            if not quantity:
                continue
            order = self._new_order(symbol, "BUY", quantity, "DAY", "SIP")
            if reason := self._objection(order, price, at=at):  # now that the legs before it are bought
                undo()
                which = {"reason": reason} if sip.symbol else {"reason": reason, "symbol": symbol}
                return ("SIP_SKIPPED_FUNDS" if reason == "CASH_INSUFFICIENT" else "SIP_MISSED"), which
            self._book(order, price, at, quantity)
            orders.append(order.order_id)
        if sip.whole_units:
            sip.residual = budget - (before - self.cash)
        if not orders:
            return "SIP_SKIPPED_BELOW_UNIT", {}
        return "SIP_EXECUTED", {"order_id": orders[0]} if sip.symbol else {"orders": orders}

    def _savepoint(self) -> Callable[[], None]:
        """A call of what is returned takes back what has been traded since."""
        cash, positions, met = self.cash, deepcopy(self.positions), self.met.copy()
        lists: list[list[Any]] = [self.orders, self.trades, self.entries, self.fee_rows]
        lengths = [len(rows) for rows in lists]

        def undo() -> None:
            self.cash, self.positions, self.met = cash, positions, met
            for rows, length in zip(lists, lengths, strict=True):
                del rows[length:]
            self.bills = {number: bill for number, bill in self.bills.items() if number <= len(self.orders)}

        return undo

    def _run_rebalance(self, number: int, plan: Rebalance, at: datetime) -> None:
        due = plan.due(self.calendar.day_of(at), self.calendar)
        prices = {s: self.tradable(s, at) for s in {*plan.weights, *self.positions}}
        if not due or all(prices[symbol] is None for symbol in plan.weights):
            return
        equity = self.cash + self._market_value(at)
        for slot, _, _ in due[:-1]:
            self._end_slot(at, "REBALANCE_MISSED", number, slot)
        self._end_slot(at, "REBALANCED", number, due[-1][0], equity=equity)
        plan.next_slot = due[-1][0] + 1
        equity = max(equity, ZERO)
        wants = []
        for symbol in sorted(prices, key=lambda s: s.encode()):
            price, held, goal = prices[symbol], self.held(symbol), plan.weights.get(symbol, ZERO) * equity
            if price is None:
                continue
            step = whole(self._step(symbol)) if plan.whole_units else self._step(symbol)
            over, allowed = held * price - goal, plan.allowance(equity, goal)
            if allowed is not None and abs(over) <= allowed:
                continue
            if plan.to_band_edge and allowed is not None:
                goal += allowed if over > 0 else -allowed
            change = goal // (price * step) * step - held
            if change * over < 0:  # else it would lead away from the target
                wants.append((symbol, price, step, change))
        wants.sort(key=lambda want: want[3] > 0 and self.held(want[0]) >= 0)  # what sells or covers comes first
        for symbol, price, step, change in wants:
            side, quantity = ("SELL", -change) if change < 0 else ("BUY", change)
            if side == "BUY" and self.held(symbol) >= 0:
                quantity = min(quantity, self.affordable(self._free_cash(), price, step, symbol, at)) or quantity
            if plan.min_order_value is None or money(quantity * price) >= plan.min_order_value:
                self._fill(self._new_order(symbol, side, quantity, "DAY", "REBALANCE"), price, at)

    # -- what the tables must hold

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every table of the run, in the order of its key, as the columns of COLUMNS."""
        return {
            "paper_order": [tuple(getattr(o, c) for c in COLUMNS["paper_order"]) for o in self.orders],
            "paper_trade": self.trades,
            "trade_fee": self.fee_rows,
            "paper_position": [
                (s, p.quantity, p.cost_basis, p.realized_pnl)
                for s, p in sorted(self.positions.items(), key=lambda item: item[0].encode())
            ],
            "cash_ledger": self.entries,
            "mtm_ledger": [self.mtm[at] for at in sorted(self.mtm)],
            "paper_equity_curve": [self.equity[at] for at in sorted(self.equity)],
            "event_ledger": sorted(self.events, key=lambda e: (e[1], e[2].encode())),
            "dividend_due": [due.row() for due in sorted(self.dues, key=lambda d: (d.symbol.encode(), d.ex_date))],
            "engine_state": [(self.cash, self.first, self.last)],
            "strategy_run": [(self.status,)],
        }


COLUMNS = {
    "paper_order": [
        "order_id",
        "logical_time",
        "symbol",
        "side",
        "order_type",
        "quantity",
        "limit_price",
        "time_in_force",
        "status",
        "filled_quantity",
        "avg_fill_price",
        "reject_reason",
        "client_order_id",
        "source",
        "closed_time",
        "stop_price",
        "trail_amount",
        "trail_percent",
        "good_till",
        "triggered_time",
        "oco_id",
        "parent_order_id",
        "replaces_order_id",
        "take_profit_price",
        "stop_loss_price",
        "stop_loss_limit_price",
        "reserves",
    ],
    "paper_trade": ["trade_id", "order_id", "logical_time", "symbol", "side", "quantity", "price", "fees"],
    "trade_fee": ["trade_id", "component", "amount", "fee_schedule", "product", "side", "effective_from"],
    "paper_position": ["symbol", "quantity", "cost_basis", "realized_pnl"],
    "cash_ledger": ["entry_id", "logical_time", "amount", "cause", "trade_id"],
    "mtm_ledger": ["logical_time", "market_value", "cost_basis", "unrealized_pnl", "realized_pnl"],
    "paper_equity_curve": ["logical_time", "cash", "market_value", "equity"],
    "event_ledger": ["logical_time", "event_type", "event_key", "payload"],
    "dividend_due": ["symbol", "ex_date", "pay_date", "quantity", "amount", "paid_time", "entry_id"],
    "engine_state": ["cash", "first_logical_time", "last_logical_time"],
    "strategy_run": ["status"],
}
