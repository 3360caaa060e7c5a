"""The report in the terminal: the page's numbers as tables, with rich where it is installed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib.util import find_spec
from typing import Any

import click

from engine_py import render
from engine_py.report import words
from engine_py.report.axis import month_name
from engine_py.report.figures import compared_name
from engine_py.report.gather import Number, Period, Report, number, time_of

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 72  # of the sparkline
_MARGIN = 8  # left of it
_LINE = 78  # of what must fit a terminal of 80 columns


@dataclass(frozen=True)
class Section:
    """A table of words; `right`: columns of numbers."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: range = range(0)
    note: str = ""
    gap: int = 2  # blanks between columns


def show(r: Report) -> None:
    heading, parts = _heading(r), list(sections(r))
    if find_spec("rich"):
        _rich(heading, parts)
    else:
        _plain(heading, parts)
        click.echo("\nWith rich this is easier to read: pip install 'papertick[report]'", err=True)


def sparkline(values: Sequence[Number], width: int = _WIDTH) -> str:
    """The last value of each of `width` equal parts, the lowest as ▁ and the highest as █."""
    known = [v for v in values if v is not None]
    if not known:
        return ""
    count = min(width, len(known))
    picked = [known[(n + 1) * len(known) // count - 1] for n in range(count)]
    low, high = min(picked), max(picked)
    if low == high:
        return _BARS[3] * count
    return "".join(_BARS[min(7, int((v - low) / (high - low) * 8))] for v in picked)


def _heading(r: Report) -> list[str]:
    run = r.run
    last = time_of(run["last_logical_time"])
    span = "has not ticked yet"
    if last:
        span = f"{words.moment(time_of(run['first_logical_time']), daily=True)} to {words.moment(last, daily=True)}"
    who = run["user_name"].strip()
    whose = f"{who}, " if who and who != r.name else ""
    lines = [
        f"{r.name} ({whose}user {run['user_id']}, run {run['run_id']}), {run['status'].lower()}",
        f"{span}, feed {run['feed']}, {words.counted(r.curve.marks, 'mark')}, {run['currency']}",
    ]
    if r.curve.times:
        lines += ["", *_sparkline(r)]
    return [render.text(line.strip()).rjust(len(line)) if line else "" for line in lines]


def _sparkline(r: Report) -> list[str]:
    """Equity with the dates of its ends, and where it was lowest and highest."""
    c, bars = r.curve, sparkline(r.curve.equity)
    known = [(value, time) for value, time in zip(c.equity, c.times, strict=True) if value is not None]
    lowest, highest = min(known), max(known, key=lambda point: point[0])
    ends = [words.moment(time, daily=True) for time in (c.times[0], c.times[-1])]
    extremes = [f"{_money(r, value)} on {words.moment(time, daily=True)}" for value, time in (lowest, highest)]
    return [
        f"{'equity':{_MARGIN}}{bars}",
        " " * _MARGIN + ends[0] + (ends[1].rjust(len(bars) - len(ends[0])) if len(bars) > 21 else f" to {ends[1]}"),
        " " * _MARGIN + f"lowest {extremes[0]}, highest {extremes[1]}",
    ]


def sections(r: Report) -> Iterator[Section]:
    """All of the page's tables but the fills, which `papertick run trades` lists."""
    if r.gain:
        parts = [(words.gain(part["kind"])[0], number(part["amount"]) or Decimal(0)) for part in r.gain]
        parts.append(("Gain", sum((amount for _, amount in parts), Decimal(0))))
        rows = [[name, _money(r, amount)] for name, amount in parts]
        yield Section("Where the gain comes from", ["from", "amount"], rows, range(1, 2))
    yield _metrics(r)
    if r.months:
        yield _months(r)
    if r.compared:
        yield _comparison(r)
    if r.symbols:
        yield _symbols(r)
    if r.sips:
        yield _sips(r)
    if r.rebalances:
        yield _rebalances(r)
    if r.drawdowns:
        rows = [
            [
                words.moment(d.peak, daily=True),
                words.moment(d.trough, daily=True),
                "not yet" if d.recovery is None else words.moment(d.recovery, daily=True),
                words.percent(d.depth),
            ]
            for d in r.drawdowns
        ]
        yield Section("Drawdowns", ["from", "deepest", "recovered", "depth"], rows, range(3, 4))
    if r.fees:
        rows = [[f["kind"], f"{f['entries']:,}", _money(r, f["amount"])] for f in r.fees]
        yield Section("Fees by kind", ["kind", "times", "amount"], rows, range(1, 3))
    if r.rejections:
        rows = [[x["reason"], f"{x['orders']:,}"] for x in r.rejections]
        yield Section("Rejections by reason", ["reason", "orders"], rows, range(1, 2))
    yield Section(
        "Integrity",
        ["fills", "violations", "digest"],
        [[f"{r.fill_count:,}", f"{r.violation_count:,}", r.digest]],
        range(2),
    )


def _months(r: Report) -> Section:
    """With one decimal where that fits."""
    by_month = {(p.first.year, p.first.month): p for p in r.months}
    heads = ["", *map(month_name, range(1, 13)), "Year"]
    for places in (1, 0):
        rows = [
            [
                str(y.first.year),
                *(_cell(by_month.get((y.first.year, m)), places) for m in range(1, 13)),
                _cell(y, places),
            ]
            for y in r.years
        ]
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        if sum(widths) + len(heads) - 1 <= _LINE:
            break
    return Section("Monthly returns, %", heads, rows, range(1, 14), gap=1)


def _metrics(r: Report) -> Section:
    rows = []
    for name in words.in_order(list(r.metrics)):
        value = r.metrics[name]
        why = f"{words.reason(r.reasons.get(name))}" if value is None else ""
        rows.append([words.label(name), words.shown(name, value, r.run["minor_unit"]), why])
    if r.benchmark is not None and r.curve.benchmark:
        end = r.curve.benchmark[-1]
        about = "the same capital, dividends included"
        if r.benchmark_since:
            about += f"; a price from {words.moment(r.benchmark_since, daily=True)} on, cash before"
        rows.append([f"{r.benchmark}, bought and held", _money(r, end), about])
    return Section("Performance", ["metric", "value", ""], rows, range(1, 2))


def _comparison(r: Report) -> Section:
    names = words.in_order(list({name for c in r.compared for name in c.metrics}))
    rows = [
        [words.label(name), *(words.shown(name, c.metrics.get(name), c.run["minor_unit"]) for c in r.compared)]
        for name in names
    ]
    rows.append(
        ["Index at the end", *(words.fixed(c.index[-1], 2) if c.index else words.NONE for c in r.compared)],
    )
    heads = ["metric", *map(compared_name, r.compared)]
    return Section("Compared", heads, rows, range(1, len(heads)), f"index: 100 at {words.moment(r.since, daily=True)}")


def _symbols(r: Report) -> Section:
    rows = []
    for s in r.symbols:
        values = [number(s.get(key)) for key in ("quantity", "cost_basis", "market_value", "unrealized_pnl")]
        amounts = [_money(r, value) for value in values[1:]]
        rows.append([s["symbol"], words.units(values[0]), *amounts, words.percent(number(s.get("xirr")))])
    return Section(
        "By symbol", ["symbol", "units", "cost", "value", "unrealized", "XIRR"], rows, range(1, 6), words.SYMBOL_XIRR
    )


def _sips(r: Report) -> Section:
    rows = []
    for s in r.sips:
        what = s["symbol"] or ", ".join(s["basket"] or ()) or f"plan {s['rebalance_plan_id']}"
        counts = [f"{s[key]:,}" for key in ("executed", "skipped_funds", "skipped_other", "missed")]
        rows.append([str(s["sip_id"]), what, _money(r, s["instalment"]), *counts, _money(r, s["paid"])])
    heads = ["sip", "buys", "instalment", "executed", "no funds", "skipped", "missed", "paid"]
    steps = [
        f"SIP {s['sip_id']}: {_money(r, s['instalment'])} at first, {step}, now {_money(r, s['current_amount'])}"
        for s in r.sips
        if (step := words.step_up(s))
    ]
    return Section("SIPs", heads, rows, range(2, 8), "\n".join(steps))


def _rebalances(r: Report) -> Section:
    rows = []
    for plan in r.rebalances:
        slots = [str(plan["plan_id"]), plan["frequency"].lower(), f"{plan['executed']:,}", f"{plan['missed']:,}"]
        for n, w in enumerate(plan["weights"]):
            shares = [words.percent(number(w[key])) for key in ("target", "share")]
            rows.append([*(slots if n == 0 else [""] * 4), w["symbol"], *shares])
        if plan["others"] or not plan["weights"]:
            rows.append([*([""] * 4 if plan["weights"] else slots), f"{plan['others']:,} others", "", ""])
    heads = ["plan", "every", "executed", "missed", "symbol", "target", "now"]
    return Section("Rebalances", heads, rows, range(2, 7), "shares of equity; now: at the last mark")


def _money(r: Report, value: object) -> str:
    return words.money(number(value), r.run["minor_unit"])


def _cell(period: Period | None, places: int) -> str:
    if period is None:
        return ""
    return words.NONE if period.twr is None else words.fixed(100 * Decimal(period.twr), places)


# --- printers ---


def _wrapped(note: str) -> list[str]:
    return [part for line in note.splitlines() for part in textwrap.wrap(line, 78)]


def _plain(heading: Sequence[str], parts: Sequence[Section]) -> None:
    click.echo("\n".join(heading))
    for part in parts:
        lines = [[render.text(cell) if cell else "" for cell in row] for row in [part.heads, *part.rows]]
        widths = [max(len(line[n]) for line in lines) for n in range(len(part.heads))]
        click.echo(f"\n{part.title}")
        for line in lines:
            cells = [
                cell.rjust(width) if n in part.right else cell.ljust(width)
                for n, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            click.echo(("  " + (" " * part.gap).join(cells)).rstrip())
        for text in _wrapped(part.note):
            click.echo(f"  {text}")


def _rich(heading: Sequence[str], parts: Sequence[Section]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console: Any = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=160)
    for n, line in enumerate(heading):
        console.print(Text(line, style="bold" if n == 0 else "cyan" if n == 3 else ""))
    for part in parts:
        table = Table(
            title=part.title,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, part.gap - 1),  # and a blank where other boxes have a line
        )
        for n, head in enumerate(part.heads):
            table.add_column(Text(render.text(head) if head else ""), justify="right" if n in part.right else "left")
        for row in part.rows:
            table.add_row(*(Text(render.text(cell) if cell else "", style=_style(cell)) for cell in row))
        console.print(table)
        if part.note:
            console.print(Text("\n".join(_wrapped(part.note)), style="dim"))


def _style(cell: str) -> str:
    return "red" if cell.startswith("\N{MINUS SIGN}") else ""
