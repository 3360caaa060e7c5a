"""What the fill tests hand to papertick and to its peers: bars, one order, and what became of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

D = Decimal


class Bar(NamedTuple):
    """Closes at the hour of the day; day 1 is 2024-01-02, a Tuesday. Sessions are (09:30, 16:00] UTC."""

    day: int
    hour: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal

    @property
    def time(self) -> datetime:
        return datetime(2024, 1, 1, self.hour, tzinfo=UTC) + timedelta(days=self.day)

    def mirrored(self) -> Bar:
        return Bar(self.day, self.hour, 200 - self.open, 200 - self.low, 200 - self.high, 200 - self.close)


class Order(NamedTuple):
    side: str
    kind: str
    limit: Decimal | None = None
    stop: Decimal | None = None
    tif: str = "GTC"

    def mirrored(self) -> Order:
        limit, stop = (None if x is None else 200 - x for x in (self.limit, self.stop))
        return Order("SELL" if self.side == "BUY" else "BUY", self.kind, limit, stop, self.tif)


class Fill(NamedTuple):
    """The bar is counted from the one after which the order was sent, which is bar 0."""

    bar: int
    price: Decimal

    def mirrored(self) -> Fill:
        return Fill(self.bar, 200 - self.price)


Outcome = Fill | str  # or OPEN, EXPIRED, REJECTED
