"""The charts of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from engine_py.report import words
from engine_py.report.chart import Chart, Series
from engine_py.report.gather import Compared, Number, Part, Price, Report, name_of

PALETTE = 9  # colours p0 … p8 of the style sheet


def _float(values: Sequence[Number]) -> list[float | None]:
    return [None if v is None else float(v) for v in values]


def _plain(values: Sequence[Number], places: int) -> list[str | None]:
    """Digits alone; the page's script separates thousands."""
    return [None if v is None else words.digits(v, places) for v in values]


def _percents(values: Sequence[Number]) -> list[str | None]:
    return _plain([None if v is None else 100 * v for v in values], 2)


def _prices(values: Sequence[Number]) -> list[str | None]:
    return [None if v is None else words.digits(v, words.price_places(v)) for v in values]


def _last(values: Sequence[Number]) -> Number:
    return next((v for v in reversed(values) if v is not None), None)


def _span(times: Sequence[datetime], daily: bool) -> str:
    return f"from {words.moment(times[0], daily=daily)} to {words.moment(times[-1], daily=daily)}"


def equity(r: Report) -> Chart:
    c, places = r.curve, r.run["minor_unit"]
    daily = words.is_daily(c.times, c.marks)
    series = [
        Series("Equity", "k-equity", _float(c.equity), _plain(c.equity, places)),
        Series("Invested capital", "k-money", _float(c.invested), _plain(c.invested, places), "step"),
    ]
    note = None
    if c.benchmark is not None:
        name = f"{r.benchmark}, bought and held{words.since(r.benchmark_since, daily=daily)}"
        series.insert(1, Series(name, "k-other", _float(c.benchmark), _plain(c.benchmark, places)))
        how = (
            "as the feed's prices are adjusted, splits and dividends are in them"
            if r.run["adjusted"]
            else "splits multiply the units, dividends are included: each buys more units at the close of its ex-date"
        )
        note = (
            f"Benchmark: the same invested capital put into {r.benchmark} at the close when it came in, in fractions "
            f"and without fees; {how}."
        )
        if r.benchmark_since:
            first = words.moment(r.benchmark_since, daily=daily)
            note += f" {r.benchmark} has a price from {first} on: before, the money waits as cash."
    series = [replace(s, legend=words.grouped(next((t for t in reversed(s.texts) if t), ""))) for s in series]
    return Chart(
        "equity",
        f"Equity, {r.run['currency']}",
        f"Equity against invested capital {_span(c.times, daily)}: "
        f"{words.money(_last(c.equity), places)} of {words.money(_last(c.invested), places)} at the end.",
        c.times,
        series,
        height=320,
        daily=daily,
        note=note,
    )


def drawdown(r: Report) -> Chart | None:
    c = r.curve
    if all(value is None for value in c.drawdown):
        return None
    daily = words.is_daily(c.times, c.marks)
    deepest = min(v for v in c.drawdown if v is not None)
    name = "Below the highest growth so far"
    series = Series(name, "k-loss", _float(c.drawdown), _percents(c.drawdown), "area")
    desc = f"Drawdown {_span(c.times, daily)}, at most {words.percent(deepest)}."
    return Chart("drawdown", "Drawdown", desc, c.times, [series], height=150, daily=daily, share=True, zero=True)


def allocation(r: Report) -> Chart | None:
    """Areas upon each other; lines where something is short or borrowed, so that shares are negative or beyond 1."""
    times = r.allocation_times
    if not r.allocation or all(s is None for part in r.allocation for s in part.shares):
        return None
    daily = words.is_daily(times, len(times))
    stacked = all((s or 0) >= 0 for part in r.allocation for s in part.shares)
    series = []
    for n, part in enumerate(r.allocation):
        texts = _percents(part.shares)
        cash = "p-cash" if stacked else "k-money"
        color = cash if _is_cash(part) else "p-others" if part.is_others else f"p{(n - 1) % PALETTE}"
        kind = "band" if stacked else "line"
        name = _part_name(part, r.others)
        series.append(Series(name, color, _float(part.shares), texts, kind, legend=words.percent(_last(part.shares))))
    return Chart(
        "allocation",
        "Allocation, share of equity",
        f"What the equity was made of {_span(times, daily)}; at the end "
        + ", ".join(f"{s.name} {s.legend}" for s in series)
        + ".",
        times,
        series,
        height=240,
        daily=daily,
        share=True,
        stacked=stacked,
        span=(0.0, 1.0) if stacked else None,
        note=None if stacked else "Lines, not areas: something is sold short, or cash is borrowed.",
    )


def _is_cash(part: Part) -> bool:
    return part.symbol is None and not part.is_others


def _part_name(part: Part, others: int) -> str:
    return f"{others} others" if part.is_others else part.symbol or "Cash"


def price(p: Price, number: int) -> Chart | None:
    """Closes in today's units with the average cost, and the fills: SIPs apart from other buys and from sales."""
    if not p.times:
        return None
    times = sorted({*p.times, *(f.time for f in p.fills)})
    place = {time: n for n, time in enumerate(times)}
    closes: list[Number] = [None] * len(times)
    costs: list[Number] = [None] * len(times)
    for time, close, factor, cost in zip(p.times, p.closes, p.split_factors, p.average_costs, strict=True):
        closes[place[time]] = p.today(close, factor)
        costs[place[time]] = p.today(cost, factor)
    kinds: dict[str, list[Number]] = {kind: [None] * len(times) for kind in ("SIP", "BUY", "SELL")}
    notes: dict[int, list[str]] = {}
    for f in p.fills:
        n = place[f.time]
        kinds["SIP" if f.source == "SIP" else f.side][n] = p.today(f.price, f.split_factor)
        costs[n] = p.today(f.average_cost, f.split_factor)
        what = words.SOURCES.get(f.source, f.source.lower())
        verb = "bought" if f.side == "BUY" else "sold"
        notes.setdefault(n, []).append(f"{what}: {verb} {words.units(f.quantity)} at {words.price(f.price)}")
    daily = words.is_daily(times, max(p.bars, len(times)))
    filled = _bridge(times, closes)
    counted = {kind: sum(v is not None for v in values) for kind, values in kinds.items()}
    series = [
        Series("Close", "k-price", filled, _prices(closes)),
        Series("Average cost", "k-cost", _float(costs), _prices(costs), "step"),
    ]
    for kind, name, color, shape in (
        ("BUY", "Other buy", "k-buy", "square"),
        ("SELL", "Sale", "k-sale", "hole"),
        ("SIP", "SIP instalment", "k-equity", "dot"),  # last, and so on top of what else was bought that day
    ):
        if counted[kind]:
            series.append(Series(name, color, _float(kinds[kind]), _prices(kinds[kind]), shape))
    spread = f" Of {p.trades:,} fills {len(p.fills):,} are drawn." if len(p.fills) < p.trades else ""
    split = ""
    if any(f != 1 for f in p.split_factors):
        split = "In units of the last bar: earlier prices are divided by later splits."
    return Chart(
        f"price-{number}",
        p.symbol,
        f"Close of {p.symbol} {_span(times, daily)} with the average cost of what was held, and {p.trades} fills.",
        times,
        series,
        height=230,
        ticks=6,
        daily=daily,
        notes={n: "; ".join(lines) for n, lines in notes.items()},
        note=(split + spread).strip() or None,
    )


def _bridge(times: Sequence[datetime], values: Sequence[Number]) -> list[float | None]:
    """A line goes straight on where a fill stands between two points of it."""
    known = [(t.timestamp(), float(v)) for t, v in zip(times, values, strict=True) if v is not None]
    found: list[float | None] = []
    k = 0
    for time, value in zip(times, values, strict=True):
        at = time.timestamp()
        while k + 1 < len(known) and known[k + 1][0] <= at:
            k += 1
        if value is not None or not known or at < known[0][0] or k + 1 == len(known):
            found.append(None if value is None else float(value))
            continue
        (x0, y0), (x1, y1) = known[k], known[k + 1]
        found.append(y0 + (y1 - y0) * (at - x0) / (x1 - x0))
    return found


def comparison(r: Report) -> Chart | None:
    times = sorted({time for c in r.compared for time in c.times})
    if not times:
        return None
    series = [_growth(c, n, times) for n, c in enumerate(r.compared) if c.times]
    daily = words.is_daily(times, max(len(times), r.curve.marks))
    return Chart(
        "comparison",
        "Growth compared, 100 at the common start",
        f"Time-weighted growth {_span(times, daily)}, at the end "
        + ", ".join(f"{s.name} {s.legend}" for s in series)
        + ".",
        times,
        series,
        height=300,
        daily=daily,
    )


def _growth(c: Compared, number: int, times: Sequence[datetime]) -> Series:
    known: dict[datetime, Decimal] = dict(zip(c.times, c.index, strict=True))
    values: list[Number] = [known.get(time) for time in times]
    texts = _plain(values, 2)
    end = words.fixed(c.index[-1], 2)
    return Series(compared_name(c), f"p{number % PALETTE}", _bridge(times, values), texts, legend=end)


def compared_name(c: Compared) -> str:
    return f"{name_of(c.run)} ({c.run['user_id']}/{c.run['run_id']})"
