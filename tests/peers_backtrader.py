"""One order through backtrader's broker as it comes: next-open execution, no commission, no slippage."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import backtrader as bt

from tests.peers import Bar, Fill, Order, Outcome

KINDS = {
    "MARKET": bt.Order.Market,
    "LIMIT": bt.Order.Limit,
    "STOP": bt.Order.Stop,
    "STOP_LIMIT": bt.Order.StopLimit,
}


class Feed(bt.feed.DataBase):  # type: ignore[misc]
    params = (("bars", ()), ("timeframe", bt.TimeFrame.Minutes))

    def start(self) -> None:
        super().start()
        self.rest = iter(self.p.bars)

    def _load(self) -> bool:
        bar = next(self.rest, None)
        if bar is None:
            return False
        self.lines.datetime[0] = bt.date2num(bar.time.replace(tzinfo=None))
        for name in ("open", "high", "low", "close"):
            getattr(self.lines, name)[0] = float(getattr(bar, name))
        self.lines.volume[0] = 1_000_000
        self.lines.openinterest[0] = 0
        return True


class Sender(bt.Strategy):  # type: ignore[misc]
    """Sends the order after bar 0."""

    params = (("order", None),)
    outcome: Outcome = "OPEN"

    def next(self) -> None:
        if len(self) > 1:
            return
        wanted: Order = self.p.order
        price, limit = (wanted.limit, None) if wanted.kind == "LIMIT" else (wanted.stop, wanted.limit)
        send = self.buy if wanted.side == "BUY" else self.sell
        send(
            size=7,
            exectype=KINDS[wanted.kind],
            price=price and float(price),
            plimit=limit and float(limit),
            valid=bt.Order.DAY if wanted.tif == "DAY" else None,
        )

    def notify_order(self, order: Any) -> None:
        if order.status == order.Completed:
            self.outcome = Fill(len(self) - 1, Decimal(str(order.executed.price)))
        elif order.status == order.Expired:
            self.outcome = "EXPIRED"
        elif order.status in (order.Rejected, order.Margin, order.Canceled):
            self.outcome = "REJECTED"


def outcome(order: Order, bars: Sequence[Bar]) -> Outcome:
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker.setcash(1_000_000.0)
    cerebro.adddata(Feed(bars=bars))
    cerebro.addstrategy(Sender, order=order)
    found: Outcome = cerebro.run()[0].outcome
    return found
