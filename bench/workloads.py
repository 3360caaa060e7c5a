"""The four workloads, and what they must answer under papertick's rules, to the last digit.

W1  GOOG daily, 2,148 bars, cash 1,000,000: a monthly SIP of 1,000 on the 1st, whole shares.
W2  20 symbols, 8,313 days, cash 100,000,000: 20 monthly SIPs of 500 on the 1st; every January, April, July and October
    from the 15th on a rebalance to 4.5 % of equity each.
W3  1,000 users, each their own W1: user u invests 1,000 + 5u on day 1 + u % 28.
W4  the first 2,000 GOOG bars, cash 2,000,000: on bar 0 buy 1,000 at market; on every bar t one limit order for 1 share,
    even t buys at 0.99 x close, odd t sells at 1.01 x close, rounded to cents, good till cancelled.

Where the peers' answers differ, and why (their scripts state the same workloads in their own terms):
- Money: each trade and each symbol's mark is rounded to cents, half away from zero. Peers do not round at all, or
  round elsewhere, so that W2 differs by cents even at equal trades. W1, W3 and W4 trade whole shares at prices in
  cents and need no rounding.
- Fills: SIP and rebalance trade at the close they are decided on, as vectorbt, bt and nautilus do; basana, backtrader,
  backtesting.py and akquant trade at the next open, zipline at the next close.
- W2: peers rebalance to a twentieth of what is held. papertick's targets are shares of equity, cash included, so here
  they are 20 x 4.5 %: as many orders and trades on the same days, about 10,550, of other sizes; the rest stays in cash
  for the SIPs.
- W3: a month without a bar on or after the day (28 February on a weekend) has no SIP for the peers; papertick's slot
  rolls into the next month.
- W4: the first order is accepted on bar 0 and fills at the open of bar 1. Every daily bar is the first of its session,
  so a limit fills at the open whenever that is better.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Any

from bench.data import load

CENT = Decimal("0.01")
WEIGHT = Decimal("0.045")
W3_USERS = 1000
W4_BARS = 2000
CASH = {"W1": 1_000_000, "W2": 100_000_000, "W3": 1_000_000, "W4": 2_000_000}
SERIES = {"W1": "goog", "W2": "sp500", "W3": "goog", "W4": "goog"}


def bar_time(day: datetime.date) -> datetime.datetime:
    """Daily bars close at 21:00 UTC."""
    return datetime.datetime.combine(day, datetime.time(21), datetime.UTC)


def cents(money: Decimal) -> Decimal:
    return money.quantize(CENT, ROUND_HALF_UP)


def sip_terms(user: int) -> tuple[int, int]:
    """Amount and day of month of a user of W3; user 0 is W1."""
    return 1000 + 5 * user, 1 + user % 28


def symbol_bars(workload: str, users: int = 1, w4_bars: int = W4_BARS) -> int:
    """How many bars a run of the workload walks: the unit of every rate."""
    if workload == "W4":
        return w4_bars
    header, rows = load(SERIES[workload])
    return len(rows) * {"W2": len(header), "W3": users}.get(workload, 1)


class Slots:
    """Dates a whole number of months apart; a slot is due on the first bar on or after its date."""

    def __init__(self, start: datetime.date, months: int) -> None:
        self.next, self.months, self.number = start, months, 0

    def due(self, day: datetime.date) -> int | None:
        """The number of the slot that is due. Never two at once: bars are daily."""
        if day < self.next:
            return None
        month = self.next.month - 1 + self.months
        self.next = self.next.replace(year=self.next.year + month // 12, month=month % 12 + 1)
        assert day < self.next
        self.number += 1
        return self.number - 1


@dataclass
class Account:
    """One run's books. Every list holds the very rows that papertick writes, without the run's key."""

    cash: Decimal
    orders: list[list[Any]] = field(default_factory=list)
    trades: list[tuple[Any, ...]] = field(default_factory=list)
    entries: list[tuple[Any, ...]] = field(default_factory=list)
    events: list[tuple[Any, ...]] = field(default_factory=list)
    marks: list[tuple[Any, ...]] = field(default_factory=list)
    equity: list[tuple[Any, ...]] = field(default_factory=list)
    held: dict[str, list[Decimal]] = field(default_factory=dict)  # symbol: quantity, cost, realized

    ORDER = (
        "order_id, logical_time, symbol, side, order_type, quantity, limit_price, time_in_force, status,"
        " filled_quantity, avg_fill_price, source, closed_time"
    )
    COLUMNS = {  # noqa: RUF012
        "paper_order": ORDER,
        "paper_trade": "trade_id, order_id, logical_time, symbol, side, quantity, price, fees",
        "cash_ledger": "entry_id, logical_time, amount, cause, trade_id",
        "event_ledger": "logical_time, event_type, event_key, payload",
        "paper_position": "symbol, quantity, cost_basis, realized_pnl",
        "mtm_ledger": "logical_time, market_value, cost_basis, unrealized_pnl, realized_pnl",
        "paper_equity_curve": "logical_time, cash, market_value, equity",
    }

    def rows(self) -> dict[str, Iterable[Iterable[Any]]]:
        lists = (self.orders, self.trades, self.entries, self.events)
        positions = [(symbol, *held) for symbol, held in self.held.items()]
        return dict(zip(self.COLUMNS, (*lists, positions, self.marks, self.equity), strict=True))

    def place(
        self, time: datetime.datetime, symbol: str, side: str, quantity: Any, limit: Any = None, source: str = "CLIENT"
    ) -> list[Any]:
        kind = "MARKET" if limit is None else "LIMIT"
        tif = "GTC" if source == "CLIENT" else "DAY"
        number = len(self.orders) + 1
        order = [number, time, symbol, side, kind, quantity, limit, tif, "PENDING", 0, None, source, None]
        self.orders.append(order)
        return order

    def fill(self, order: list[Any], time: datetime.datetime, price: Decimal) -> None:
        """Total average cost: a sale takes its share of the cost with it."""
        number, _, symbol, side, _, quantity, *_ = order
        order[8:11], order[12] = ["FILLED", quantity, price], time
        amount = cents(quantity * price) * (-1 if side == "BUY" else 1)
        self.cash += amount
        trade = len(self.trades) + 1
        self.trades.append((trade, number, time, symbol, side, quantity, price, 0))
        self.entries.append((trade + 1, time, amount, "TRADE", trade))  # entry 1 opened the run
        held = self.held.setdefault(symbol, [Decimal(0)] * 3)
        if side == "BUY":
            held[0], held[1] = held[0] + quantity, held[1] - amount
        else:
            sold = held[1] if quantity == held[0] else cents(held[1] * quantity / held[0])
            held[0], held[1], held[2] = held[0] - quantity, held[1] - sold, held[2] + amount - sold
        assert self.cash >= 0
        assert held[0] >= 0

    def value(self, closes: dict[str, Decimal]) -> Decimal:
        return sum((cents(held[0] * closes[symbol]) for symbol, held in self.held.items()), Decimal(0))

    def mark(self, time: datetime.datetime, closes: dict[str, Decimal]) -> None:
        value = self.value(closes)
        cost = sum((held[1] for held in self.held.values()), Decimal(0))
        realized = sum((held[2] for held in self.held.values()), Decimal(0))
        self.marks.append((time, value, cost, value - cost, realized))
        self.equity.append((time, self.cash, value, self.cash + value))


def invest(account: Account, sip: int, slot: int, day: datetime.date, symbol: str, amount: int, close: Decimal) -> None:
    """One due SIP slot: floor(amount / close) shares at the close, and the slot's event."""
    time, quantity = bar_time(day), Decimal(amount) // close
    order = f', "order_id": {len(account.orders) + 1}' if quantity else ""
    event = "SIP_EXECUTED" if quantity else "SIP_SKIPPED_BELOW_UNIT"
    account.events.append((time, event, f"{sip}:{slot}", f'{{"amount": {amount}{order}}}'))
    if quantity:
        account.fill(account.place(time, symbol, "BUY", quantity, source="SIP"), time, close)


def run_sip(user: int) -> Account:
    """W1, and one user of W3."""
    account, (amount, day_of_month) = Account(Decimal(CASH["W1"])), sip_terms(user)
    rows = load("goog")[1]
    slots = Slots(rows[0][0].replace(day=day_of_month), 1)
    for day, (_, _, _, close, _) in rows:
        slot = slots.due(day)
        if slot is not None:
            invest(account, 1, slot, day, "GOOG", amount, close)
        account.mark(bar_time(day), {"GOOG": close})
    return account


def rebalance(account: Account, slot: int, day: datetime.date, closes: dict[str, Decimal]) -> None:
    """To floor(weight x equity / close) of each symbol: sells, then buys, each by symbol."""
    time = bar_time(day)
    equity = account.cash + account.value(closes)
    account.events.append((time, "REBALANCED", f"1:{slot}", f'{{"equity": {equity}}}'))
    deltas = {s: WEIGHT * equity // closes[s] - account.held.get(s, [Decimal(0)])[0] for s in sorted(closes)}
    for side, sign in (("SELL", -1), ("BUY", 1)):
        for symbol, delta in deltas.items():
            if delta * sign > 0:
                order = account.place(time, symbol, side, abs(delta), source="REBALANCE")
                account.fill(order, time, closes[symbol])


def run_portfolio() -> Account:
    """W2."""
    account = Account(Decimal(CASH["W2"]))
    symbols, rows = load("sp500")
    monthly, quarterly = Slots(datetime.date(1990, 1, 1), 1), Slots(datetime.date(1990, 1, 15), 3)
    for day, prices in rows:
        closes = dict(zip(symbols, prices, strict=True))
        slot = monthly.due(day)
        if slot is not None:
            for sip, symbol in enumerate(symbols, 1):
                invest(account, sip, slot, day, symbol, 500, closes[symbol])
        slot = quarterly.due(day)
        if slot is not None:
            rebalance(account, slot, day, closes)
        account.mark(bar_time(day), closes)
    return account


def run_limits(bars: int = W4_BARS) -> Account:
    """W4."""
    account = Account(Decimal(CASH["W4"]))
    open_orders: list[list[Any]] = []
    for t, (day, (open_, high, low, close, _)) in enumerate(load("goog")[1][:bars]):
        time = bar_time(day)
        for side in ("SELL", "BUY"):
            for order in [o for o in open_orders if o[3] == side]:
                limit = order[6]
                if limit is None:
                    account.fill(order, time, open_)
                elif side == "BUY" and low <= limit:
                    account.fill(order, time, min(open_, limit))
                elif side == "SELL" and high >= limit:
                    account.fill(order, time, max(open_, limit))
        open_orders = [o for o in open_orders if o[8] == "PENDING"]
        if t == 0:
            open_orders.append(account.place(time, "GOOG", "BUY", Decimal(1000)))
        side, factor = ("BUY", Decimal("0.99")) if t % 2 == 0 else ("SELL", Decimal("1.01"))
        open_orders.append(account.place(time, "GOOG", side, Decimal(1), cents(close * factor)))
        account.mark(time, {"GOOG": close})
    return account


def compute(workload: str, user: int = 0, w4_bars: int = W4_BARS) -> Account:
    """The books of one run of a workload, computed anew."""
    runs: dict[str, Callable[[], Account]] = {"W2": run_portfolio, "W4": lambda: run_limits(w4_bars)}
    return runs.get(workload, lambda: run_sip(user))()


@lru_cache(maxsize=64)
def reference(workload: str, user: int = 0, w4_bars: int = W4_BARS) -> Account:
    """The same, remembered: what a replay is verified against."""
    return compute(workload, user, w4_bars)


if __name__ == "__main__":
    for name in CASH:
        books = reference(name)
        written = sum(len(list(rows)) for rows in books.rows().values())
        print(f"{name}: equity {books.equity[-1][3]}, {len(books.trades)} fills, {written} rows")
