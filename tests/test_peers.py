"""The same order on the same bars through papertick, backtrader and NautilusTrader: the same bar, the same price.

Where a peer does something else, docs/peers-fills.md says what and why, and the case here says which row of it and what
the peer does instead. A difference that goes away fails like one that appears. Cases are written as buys at a market
that stands at 100; each is played as its mirror image too, as a sell with every price p at 200 - p.
"""

from __future__ import annotations

import importlib
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from tests.desk import Market, Run, weekday_market
from tests.peers import Bar, D, Fill, Order, Outcome

Conn = psycopg.Connection[Any]
Peer = Callable[[Order, Sequence[Bar]], Outcome]

DOC = Path(__file__).parent.parent / "docs" / "peers-fills.md"
BOUGHT = Bar(0, 16, D(100), D(100), D(100), D(100))  # what the sells sell is bought here, before all bars of a case


def market(**terms: Any) -> Order:
    return Order("BUY", "MARKET", **terms)


def limit(price: int, **terms: Any) -> Order:
    return Order("BUY", "LIMIT", limit=D(price), **terms)


def stop(price: int, **terms: Any) -> Order:
    return Order("BUY", "STOP", stop=D(price), **terms)


def stop_limit(price: int, limit: int, **terms: Any) -> Order:
    return Order("BUY", "STOP_LIMIT", stop=D(price), limit=D(limit), **terms)


DAILY, HOURLY = "1 16", "1 10"  # the order comes at a session's close, or in the middle of one


class Case(NamedTuple):
    """`at` says where papertick fills it, `but` what a peer does instead: (row of the document, outcome)."""

    name: str
    order: Order
    sent: str  # day and hour of bar 0, whose prices are all 100
    bars: str  # day hour: open high low close
    at: tuple[int, float] | str
    but: dict[str, tuple[str, tuple[int, float] | str]] = {}  # noqa: RUF012 # never written

    def timeline(self) -> list[Bar]:
        texts = [f"{self.sent}: 100 100 100 100", *self.bars.split(", ")]
        found = []
        for text in texts:
            when, prices = text.split(": ")
            day, hour = when.split()
            found.append(Bar(int(day), int(hour), *map(D, prices.split())))
        return found

    def expected(self, system: str, side: str) -> Outcome:
        told = self.but.get(f"{system} {side}", self.but.get(system, ("", self.at)))[1]
        return told if isinstance(told, str) else Fill(told[0], D(str(told[1])))


CASES = [
    Case(
        "market: the next open",
        market(),
        DAILY,
        "2 16: 102 110 95 99",
        (1, 102),
        {"nautilus": ("N1", (0, 100))},
    ),
    Case(
        "market: the next open of the same session",
        market(),
        HOURLY,
        "1 11: 98 99 97 98",
        (1, 98),
        {"nautilus": ("N1", (0, 100))},
    ),
    Case(
        "market, day: at the close it belongs to the next session",
        market(tif="DAY"),
        DAILY,
        "2 16: 102 110 95 99",
        (1, 102),
        {"nautilus": ("N1", (0, 100))},
    ),
    Case(
        "market: a bar outside the session is not seen",
        market(),
        DAILY,
        "1 17: 98 99 97 98, 2 11: 102 103 101 102",
        (2, 102),
        {"backtrader": ("B4", (1, 98)), "nautilus": ("N1", (0, 100))},
    ),
    Case(
        "limit: gap at the open",
        limit(95),
        DAILY,
        "2 16: 93 99 92 98",
        (1, 93),
        {"nautilus": ("N2", (1, 95))},
    ),
    Case("limit: opens at it", limit(95), DAILY, "2 16: 95 99 94 98", (1, 95)),
    Case("limit: inside the bar", limit(95), DAILY, "2 16: 99 100 92 98", (1, 95)),
    Case("limit: touched by the low", limit(95), DAILY, "2 16: 99 100 95 98", (1, 95)),
    Case("limit: not reached", limit(95), DAILY, "2 16: 99 100 96 98", "OPEN"),
    Case(
        "limit: gap at a later session's open",
        limit(95),
        DAILY,
        "2 16: 99 100 96 98, 3 16: 91 97 90 92",
        (2, 91),
        {"nautilus": ("N2", (2, 95))},
    ),
    Case(
        "limit: the bar lies beyond it",
        limit(95),
        DAILY,
        "2 16: 91 93 90 92",
        (1, 91),
        {"nautilus": ("N2", (1, 95))},
    ),
    Case(
        "limit: gap at the first bar it sees, in mid-session",
        limit(95),
        HOURLY,
        "1 11: 93 99 92 98",
        (1, 93),
        {"nautilus": ("N2", (1, 95))},
    ),
    Case(
        "limit: resting, a lower open in mid-session",
        limit(95),
        HOURLY,
        "1 11: 99 100 96 98, 1 12: 93 97 92 96",
        (2, 95),
        {"backtrader": ("B1", (2, 93))},
    ),
    Case(
        "limit: resting, a bar beyond it in mid-session",
        limit(95),
        HOURLY,
        "1 11: 99 100 96 98, 1 12: 91 93 90 92",
        (2, 93),
        {"backtrader": ("B1", (2, 91)), "nautilus": ("N2", (2, 95))},
    ),
    Case(
        "limit: second bar of the next session",
        limit(95),
        HOURLY,
        "1 11: 99 99 96 98, 2 10: 99 99 96 98, 2 11: 91 97 90 92",
        (3, 95),
        {"backtrader": ("B1", (3, 91))},
    ),
    Case(
        "limit: inside a later bar of the session",
        limit(95),
        HOURLY,
        "1 11: 99 99 96 98, 1 12: 98 99 94 96",
        (2, 95),
    ),
    Case(
        "limit: a bar outside the session is not seen",
        limit(95),
        HOURLY,
        "1 17: 96 97 94 96, 2 11: 94 96 93 95",
        (2, 94),
        {"backtrader": ("B4", (1, 95)), "nautilus": ("N5", (1, 95))},
    ),
    Case(
        "limit beyond the market: the open",
        limit(105),
        DAILY,
        "2 16: 101 102 100 101",
        (1, 101),
        {"nautilus": ("N1", (0, 100))},
    ),
    Case(
        "limit beyond the market, which opens further away",
        limit(105),
        DAILY,
        "2 16: 107 108 104 106",
        (1, 105),
        {"nautilus": ("N1", (0, 100))},
    ),
    Case(
        "stop: gap at the open",
        stop(105),
        DAILY,
        "2 16: 107 108 104 106",
        (1, 107),
        {"nautilus": ("N3", (1, 105))},
    ),
    Case("stop: opens at it", stop(105), DAILY, "2 16: 105 108 104 106", (1, 105)),
    Case("stop: inside the bar", stop(105), DAILY, "2 16: 101 108 100 106", (1, 105)),
    Case("stop: touched by the high", stop(105), DAILY, "2 16: 101 105 100 103", (1, 105)),
    Case("stop: not reached", stop(105), DAILY, "2 16: 101 104 100 103", "OPEN"),
    Case(
        "stop: gap in mid-session",
        stop(105),
        HOURLY,
        "1 11: 101 104 100 103, 1 12: 107 108 104 106",
        (2, 107),
        {"nautilus": ("N3", (2, 105))},
    ),
    Case(
        "stop: the bar lies beyond it",
        stop(105),
        HOURLY,
        "1 11: 101 104 100 103, 1 12: 107 109 106 108",
        (2, 107),
        {"nautilus": ("N3", (2, 105))},
    ),
    Case(
        "stop: inside a later session's bar",
        stop(105),
        HOURLY,
        "1 16: 101 104 100 103, 2 10: 102 103 101 102, 2 11: 102 106 101 105",
        (3, 105),
    ),
    Case(
        "stop behind the market: the open",
        stop(95),
        DAILY,
        "2 16: 101 102 100 101",
        (1, 101),
        {"nautilus": ("N4", "REJECTED")},
    ),
    Case(
        "stop behind the market, which opens below it",
        stop(95),
        DAILY,
        "2 16: 93 96 92 94",
        (1, 95),
        {"nautilus": ("N4", "REJECTED")},
    ),
    Case(
        "stop-limit, limit beyond the stop: gap up to the limit",
        stop_limit(105, 107),
        DAILY,
        "2 16: 106 109 103 104",
        (1, 106),
        {"nautilus": ("N10", (1, 105))},
    ),
    Case(
        "stop-limit, limit beyond the stop: gap up to the limit in mid-session",
        stop_limit(105, 107),
        HOURLY,
        "1 11: 101 104 100 103, 1 12: 106 109 103 104",
        (2, 106),
        {"nautilus": ("N10", (2, 105))},
    ),
    Case(
        "stop-limit, limit beyond the stop: gap beyond both, and back",
        stop_limit(105, 107),
        DAILY,
        "2 16: 109 110 106 108",
        (1, 107),
        {"nautilus": ("N9", (1, 106))},
    ),
    Case(
        "stop-limit, limit beyond the stop: gap beyond both, inside the next session",
        stop_limit(105, 107),
        DAILY,
        "2 16: 109 110 108 109, 3 16: 108 109 106 108",
        (2, 107),
        {"nautilus": ("N9", (2, 106))},
    ),
    Case(
        "stop-limit, limit beyond the stop: gap beyond both, the next session opens below",
        stop_limit(105, 107),
        DAILY,
        "2 16: 109 110 108 109, 3 16: 104 106 103 105",
        (2, 104),
        {"nautilus": ("N9", (2, 105))},
    ),
    Case(
        "stop-limit, limit beyond the stop: gap beyond both, the next bar of the session opens below",
        stop_limit(105, 107),
        HOURLY,
        "1 11: 109 110 108 109, 1 12: 104 108 103 105",
        (2, 107),
        {"backtrader": ("B1", (2, 104)), "nautilus": ("N9", (2, 105))},
    ),
    Case(
        "stop-limit, limit beyond the stop: inside the bar",
        stop_limit(105, 107),
        DAILY,
        "2 16: 101 106 100 104",
        (1, 105),
    ),
    Case(
        "stop-limit, limit beyond the stop: inside the bar, which runs through both",
        stop_limit(105, 107),
        DAILY,
        "2 16: 101 110 100 109",
        (1, 105),
        {"nautilus SELL": ("N6", "OPEN")},
    ),
    Case(
        "stop-limit, limit at the stop: inside the bar",
        stop_limit(105, 105),
        DAILY,
        "2 16: 101 106 100 106",
        (1, 105),
        {"nautilus SELL": ("N6", "OPEN")},
    ),
    Case("stop-limit: not reached", stop_limit(105, 107), DAILY, "2 16: 101 104 100 103", "OPEN"),
    Case(
        "stop-limit, limit before the stop: gap, then down to the limit",
        stop_limit(105, 103),
        DAILY,
        "2 16: 106 108 102 104",
        (1, 103),
    ),
    Case(
        "stop-limit, limit before the stop: opens at the stop, then down to the limit and back",
        stop_limit(105, 103),
        DAILY,
        "2 16: 105 108 102 104",
        (1, 103),
    ),
    Case(
        "stop-limit, limit before the stop: gap, and down to the limit in the next session",
        stop_limit(105, 103),
        DAILY,
        "2 16: 106 108 104 105, 3 16: 104 105 102 104",
        (2, 103),
    ),
    Case(
        "stop-limit, limit before the stop: gap, and the next session opens beyond the limit",
        stop_limit(105, 103),
        DAILY,
        "2 16: 106 108 104 105, 3 16: 101 105 100 104",
        (2, 101),
        {"nautilus": ("N2", (2, 103))},
    ),
    Case(
        "stop-limit, limit before the stop: inside a bar that closes beyond the limit, falling",
        stop_limit(105, 103),
        DAILY,
        "2 16: 104 106 101 102",
        (1, 103),
    ),
    Case(
        "stop-limit, limit before the stop: inside a bar that closes at the limit",
        stop_limit(105, 103),
        DAILY,
        "2 16: 104 106 101 103",
        (1, 103),
    ),
    Case(
        "stop-limit, limit before the stop: inside a bar that closes beyond the limit, rising",
        stop_limit(105, 103),
        DAILY,
        "2 16: 100 106 99 102, 3 16: 101 104 100 102",
        (1, 103),
        {"backtrader": ("B2", (2, 101))},
    ),
    Case(
        "stop-limit, limit before the stop: inside a bar that closes where it opened",
        stop_limit(105, 103),
        DAILY,
        "2 16: 102 106 101 102, 3 16: 101 104 100 102",
        (1, 103),
        {"backtrader BUY": ("B2", (2, 101))},
    ),
    Case(
        "stop-limit, limit before the stop: inside a bar that was at the limit, perhaps before",
        stop_limit(105, 103),
        DAILY,
        "2 16: 100 106 99 104, 3 16: 104 105 102 104",
        (2, 103),
        {"nautilus BUY": ("N7", (1, 103))},
    ),
    Case(
        "stop-limit, limit before the stop: inside the bar, the next bar of the session opens beyond the limit",
        stop_limit(105, 103),
        HOURLY,
        "1 11: 104 106 104 105, 1 12: 101 104 100 102",
        (2, 103),
        {"backtrader": ("B1", (2, 101))},
    ),
    Case(
        "stop-limit behind the market: the open",
        stop_limit(95, 102),
        DAILY,
        "2 16: 101 102 100 101",
        (1, 101),
        {"nautilus": ("N4", "REJECTED")},
    ),
    Case(
        "limit, good till cancelled: outlives its session",
        limit(95),
        HOURLY,
        "1 16: 99 100 96 98, 2 11: 99 100 96 98, 3 11: 98 99 94 96",
        (3, 95),
    ),
    Case(
        "limit, day: the bar at the close still counts",
        limit(95, tif="DAY"),
        HOURLY,
        "1 15: 99 100 96 98, 1 16: 98 99 94 96",
        (2, 95),
    ),
    Case(
        "limit, day: ends with its session",
        limit(95, tif="DAY"),
        HOURLY,
        "1 16: 99 100 96 98, 2 11: 98 99 94 96",
        "EXPIRED",
        {"nautilus": ("N8", (2, 95))},
    ),
    Case(
        "stop, day: ends with its session",
        stop(105, tif="DAY"),
        HOURLY,
        "1 16: 101 104 100 103, 2 11: 104 106 103 105",
        "EXPIRED",
        {"nautilus": ("N8", (2, 105))},
    ),
    Case(
        "stop-limit, day: triggered, it ends with its session",
        stop_limit(105, 103, tif="DAY"),
        HOURLY,
        "1 16: 104 106 104 105, 2 11: 104 106 102 105",
        "EXPIRED",
        {"nautilus": ("N8", (2, 103))},
    ),
    Case(
        "limit, day: at the close it belongs to the next session",
        limit(95, tif="DAY"),
        DAILY,
        "2 16: 99 100 94 98",
        (1, 95),
        {"backtrader": ("B3", "EXPIRED")},
    ),
    Case(
        "stop, day: after the close it belongs to the next session",
        stop(105, tif="DAY"),
        "1 17",
        "2 16: 101 106 100 103",
        (1, 105),
        {"backtrader": ("B3", "EXPIRED")},
    ),
]


def play(system: Peer, case: Case, side: str) -> Outcome:
    """The case's outcome there, as of a buy."""
    order, bars = case.order, case.timeline()
    if side == "SELL":
        order, bars = order.mirrored(), [bar.mirrored() for bar in bars]
    found = system(order, bars)
    return found.mirrored() if side == "SELL" and isinstance(found, Fill) else found


@pytest.fixture(params=["backtrader", "nautilus"])
def peer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def outcome_of(peer: str) -> Peer:
    package = {"backtrader": "backtrader", "nautilus": "nautilus_trader"}[peer]
    pytest.importorskip(package, reason=f"{package} is not installed: pip install -e '.[peers]'")
    found: Peer = importlib.import_module(f"tests.peers_{peer}").outcome
    return found


def send(run: Run, symbol: str, order: Order) -> int:
    terms: dict[str, Any] = {"order_type": order.kind, "time_in_force": order.tif}
    prices = {"limit_price": order.limit, "stop_price": order.stop}
    terms |= {name: price for name, price in prices.items() if price is not None}
    found: int = run.place(symbol, order.side, 7, **terms)["order_id"]
    return found


def papertick_outcome(run: Run, order_id: int, bars: Sequence[Bar]) -> Outcome:
    status = str(run.order(order_id)["status"])
    filled = [(time, price) for trade_of, time, _, _, _, price in run.trades() if trade_of == order_id]
    if status != "FILLED":
        assert not filled
        return "OPEN" if status in ("PENDING", "TRIGGERED") else status
    ((time, price),) = filled
    return Fill([bar.time for bar in bars].index(time), price)


def load(market: Market, symbol: str, bars: Sequence[Bar]) -> None:
    market.bars(symbol, {bar.time: [*bar[2:]] for bar in (BOUGHT, *bars)})


@pytest.mark.parametrize("side", ["BUY", "SELL"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_papertick_fills_where_the_contract_says(tx: Conn, case: Case, side: str) -> None:
    def papertick(order: Order, bars: Sequence[Bar]) -> Outcome:
        market = weekday_market(tx, "2024-01-01", "2024-01-08")
        load(market, "ACME", bars)
        run = Run(market)
        run.place("ACME", "BUY", 10)
        run.tick(BOUGHT.time)
        run.tick(bars[0].time)
        order_id = send(run, "ACME", order)
        for bar in bars[1:]:
            run.tick(bar.time)
        return papertick_outcome(run, order_id, bars)

    assert play(papertick, case, side) == case.expected("papertick", side)


@pytest.mark.parametrize("side", ["BUY", "SELL"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_peer_fills_there_too_or_as_listed(peer: str, case: Case, side: str) -> None:
    assert play(outcome_of(peer), case, side) == case.expected(peer, side)


def test_the_document_lists_these_differences_and_no_others() -> None:
    listed = re.findall(r"^\| ([A-Z]\d+) \|", DOC.read_text(encoding="utf-8"), re.MULTILINE)
    shown = {row for case in CASES for row, _ in case.but.values()}
    assert sorted(listed) == sorted(shown)
    for case in CASES:
        for system, (row, outcome) in case.but.items():
            assert row[0] == system[0].upper(), f"{case.name}: {row} is not a row of {system}"
            assert outcome != case.at, f"{case.name}: {system} does nothing else"


# --- random orders on random bars, against backtrader ---

DAYS = {1: (10, 11, 12, 16), 2: (10, 11, 16), 3: (10, 16), 4: (16,)}


def walk(rng: random.Random, hourly: bool) -> list[Bar]:
    """Small whole numbers, so that prices often meet exactly."""
    found, last = [], 100
    for day, hours in DAYS.items():
        for hour in hours if hourly else hours[-1:]:
            start = max(last + rng.choice([0, 0, 0, 1, -1, 2, -2, 4, -4]), 1)
            close = start + rng.randint(-3, 3)
            high, low = max(start, close) + rng.randint(0, 2), min(start, close) - rng.randint(0, 2)
            found.append(Bar(day, hour, D(start), D(high), D(low), D(close)))
            last = close
    return found


def any_order(rng: random.Random, last: Decimal, hourly: bool) -> Order:
    kind = rng.choice(["MARKET", "LIMIT", "STOP", "STOP_LIMIT", "STOP_LIMIT"])
    near = last + rng.randint(-4, 4)
    return Order(
        rng.choice(["BUY", "SELL"]),
        kind,
        near + rng.randint(-3, 3) if "LIMIT" in kind else None,
        near if "STOP" in kind else None,
        rng.choice(["GTC", "GTC", "DAY"]) if hourly else "GTC",  # B3: sent at a close, DAY means another session there
    )


def agreement(order: Order, bars: Sequence[Bar], ours: Outcome, theirs: Outcome) -> str:
    """same, or the row of the document that explains the difference to the digit, or empty."""
    if ours == theirs:
        return "same"
    if not isinstance(ours, Fill) or order.limit is None:
        return ""
    if order.side == "SELL":
        order, bars, ours = order.mirrored(), [bar.mirrored() for bar in bars], ours.mirrored()
        theirs = theirs.mirrored() if isinstance(theirs, Fill) else theirs
    assert order.limit is not None
    bar, before = bars[ours.bar], bars[ours.bar - 1]
    if theirs == Fill(ours.bar, bar.open):  # papertick's limit rested
        rested = ours.bar > 1 and before.day == bar.day and bar.open < ours.price == min(order.limit, bar.high)
        return "B1" if rested else ""
    if order.stop is not None and bar.open < order.stop <= bar.high and bar.close <= order.limit < order.stop:
        later = theirs.bar > ours.bar if isinstance(theirs, Fill) else theirs in ("OPEN", "EXPIRED")
        return "B2" if ours.price == order.limit and bar.open <= bar.close and later else ""
    return ""


def random_orders(seed: int) -> list[tuple[Order, list[Bar]]]:
    rng = random.Random(seed)
    found = []
    for n in range(200):
        hourly = n % 2 == 0
        bars = walk(rng, hourly)
        found.append((any_order(rng, bars[0].close, hourly), bars))
    return found


def papertick_outcomes(conn: Conn, orders: Sequence[tuple[Order, Sequence[Bar]]]) -> list[Outcome]:
    """All in one run, each with a symbol of its own."""
    market = weekday_market(conn, "2024-01-01", "2024-01-08")
    run = Run(market, 10_000_000)
    for n, (order, bars) in enumerate(orders):
        load(market, f"S{n}", bars)
        if order.side == "SELL":
            run.place(f"S{n}", "BUY", 7)
    run.tick(BOUGHT.time)
    ids: dict[int, int] = {}
    for time in sorted({bar.time for _, bars in orders for bar in bars}):
        run.tick(time)
        ids |= {n: send(run, f"S{n}", order) for n, (order, bars) in enumerate(orders) if bars[0].time == time}
    return [papertick_outcome(run, ids[n], bars) for n, (_, bars) in enumerate(orders)]


def test_random_orders_fill_as_in_backtrader(tx: Conn) -> None:
    orders, backtrader = random_orders(1), outcome_of("backtrader")
    compared = [
        (order, bars, ours, backtrader(order, bars))
        for (order, bars), ours in zip(orders, papertick_outcomes(tx, orders), strict=True)
    ]
    seen = Counter(agreement(*each) for each in compared)
    assert not seen[""], [each for each in compared if not agreement(*each)]
    assert seen["same"] > 150, seen
    assert seen["B1"], seen
    assert seen["B2"], seen
