"""The tables of a report, as HTML. A shown number is rounded; its title has all digits."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from html import escape
from typing import Any, NamedTuple

from engine_py.report import words
from engine_py.report.axis import month_name
from engine_py.report.figures import compared_name
from engine_py.report.gather import Compared, Drawdown, Json, Number, Period, Report, number, time_of
from engine_py.runref import RunKey


class Cell(NamedTuple):
    """HTML that is safe already; is_number: to the right."""

    html: str
    is_number: bool = False
    title: str | None = None
    kind: str = ""


def said(value: object) -> Cell:
    return Cell(escape(words.NONE if value is None else str(value)))


def counted(value: Number, shown: str) -> Cell:
    title = words.full(value)
    return Cell(escape(shown), True, None if value is None or title == shown else title)


def _td(cell: Cell) -> str:
    kinds = " ".join(filter(None, ("n" if cell.is_number else "", cell.kind)))
    return (
        "<td"
        + (f' class="{kinds}"' if kinds else "")
        + (f' title="{escape(cell.title)}"' if cell.title else "")
        + f">{cell.html}</td>"
    )


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    right: Container[int] = (),
    kind: str = "",
    caption: str = "",
    label: str = "Table",
) -> str:
    """`right`: which heads stand over numbers. The first cell of a row names it."""
    kinds = [' class="n"' if n in right else "" for n in range(len(heads))]
    head = "".join(f'<th scope="col"{at}>{escape(text)}</th>' for at, text in zip(kinds, heads, strict=True))
    body = "".join(f'<tr><th scope="row">{row[0].html}</th>' + "".join(map(_td, row[1:])) + "</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"<table{f' class={kind}' if kind else ''}>{f'<caption>{escape(caption)}</caption>' if caption else ''}"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


# --- months ---


def months(r: Report) -> str:
    """Years down, months across, and the year's own return at the end."""
    by_month = {(p.first.year, p.first.month): p for p in r.months}
    rows = []
    for year in r.years:
        cells = [_heat(by_month.get((year.first.year, month)), 0.02) for month in range(1, 13)]
        rows.append([said(year.first.year), *cells, _heat(year, 0.08)])
    heads = ["Year", *map(month_name, range(1, 13)), "Year"]
    return table(heads, rows, right=range(1, 14), kind="heat", label="Monthly returns")


def _heat(period: Period | None, step: float) -> Cell:
    if period is None:
        return Cell("", True)
    if period.twr is None:
        return Cell(words.NONE, True, words.reason(period.reason))
    level = min(4, 1 + int(abs(float(period.twr)) / step))
    kind = "" if period.twr == 0 else f"{'g' if period.twr > 0 else 'l'}{level}"
    return Cell(words.fixed(100 * period.twr, 1), True, words.full(100 * period.twr) + " %", kind)


# --- metrics ---


def metrics(r: Report) -> str:
    places = r.run["minor_unit"]
    rows = []
    for name in words.in_order(list(r.metrics)):
        value = r.metrics[name]
        about = words.METRICS[name].about if name in words.METRICS else ""
        why = words.reason(r.reasons.get(name))
        cell = counted(value, words.shown(name, value, places))
        note = (
            Cell(escape(about), kind="about") if value is not None else Cell(escape(f"None: {why}."), kind="about why")
        )
        rows.append([said(words.label(name)), cell, note])
    return table(["Metric", "Value", ""], rows, right=(1,), kind="metrics", label="Performance")


def gain(r: Report) -> str:
    """Parts that sum to the gain of the tile."""
    places = r.run["minor_unit"]
    rows = []
    for part in r.gain:
        name, about = words.gain(part["kind"])
        rows.append([said(name), _amount(part["amount"], places), Cell(escape(about), kind="about")])
    total = _amount(sum((number(part["amount"]) or Decimal(0) for part in r.gain), Decimal(0)), places)
    rows.append([said("Gain"), total, Cell("Equity less invested capital.", kind="about")])
    return table(["From", "Amount", ""], rows, right=(1,), kind="metrics", label="Where the gain comes from")


def compared(runs: Sequence[Compared]) -> str:
    names = words.in_order(list({name for c in runs for name in c.metrics}))
    rows = []
    for name in names:
        cells = []
        for c in runs:
            value = c.metrics.get(name)
            cell = counted(value, words.shown(name, value, c.run["minor_unit"]))
            why = c.reasons.get(name)
            cells.append(cell._replace(title=words.reason(why)) if why else cell)
        rows.append([said(words.label(name)), *cells])
    terms: list[tuple[str, Callable[[Json], str]]] = [
        ("Currency", lambda run: run["currency"]),
        ("Feed", lambda run: run["feed"]),
        ("First tick", lambda run: words.moment(time_of(run["first_logical_time"]), daily=True)),
        ("Last tick", lambda run: words.moment(time_of(run["last_logical_time"]), daily=True)),
    ]
    rows += [[said(head), *(said(get(c.run))._replace(is_number=True) for c in runs)] for head, get in terms]
    return table(["Metric", *map(compared_name, runs)], rows, right=range(1, 99), label="Runs compared")


def symbols(r: Report) -> str:
    places = r.run["minor_unit"]
    kinds = {
        "quantity": ("Units", words.units),
        "cost_basis": ("Cost", None),
        "market_value": ("Value", None),
        "unrealized_pnl": ("Unrealized", None),
        "realized_pnl": ("Realized", None),
        "fees": ("Fees", None),
        "trades": ("Trades", words.units),
        "hit_rate": ("Hit rate", words.percent),
        "xirr": ("XIRR", words.percent),
    }
    rows = []
    for row in r.symbols:
        cells = [said(row["symbol"])]
        for key, (_, show) in kinds.items():
            value = number(row.get(key))
            cells.append(counted(value, show(value) if show else words.money(value, places)))
        rows.append(cells)
    return table(
        ["Symbol", *(head for head, _ in kinds.values())], rows, right=range(1, 99), label="Performance by symbol"
    )


def drawdowns(found: Sequence[Drawdown]) -> str:
    def day(time: datetime | None) -> Cell:
        return Cell("not yet" if time is None else words.moment(time, daily=True))

    rows = []
    for d in found:
        end = d.recovery
        length = f"{(end - d.peak).days:,}" if end else words.NONE
        cells = [counted(d.depth, words.percent(d.depth)), day(d.trough), day(end), Cell(length, True)]
        rows.append([day(d.peak), *cells])
    return table(["From", "Depth", "Deepest", "Recovered", "Days"], rows, right=(1, 4), label="Drawdowns")


# --- what happened ---


def fills(r: Report) -> str:
    places, rows = r.run["minor_unit"], []
    daily = r.curve.marks == 0 or words.is_daily(r.curve.times, r.curve.marks)
    before = None
    for f in r.fills:
        if before is not None and f["trade_id"] - before > 1:
            left = f["trade_id"] - before - 1
            rows.append([Cell("…"), Cell(f"{left:,} more", kind="gap"), *[Cell("")] * 7])
        before = f["trade_id"]
        value, fees, price = number(f["value"]), number(f["fees"]), number(f["price"])
        rows.append(
            [
                Cell(str(f["trade_id"])),
                said(words.moment(time_of(f["logical_time"]), daily=daily)),
                said(f["symbol"]),
                said(f["side"]),
                said(f"{f['source']} {f['order_type']}".replace("_", " ")),
                Cell(words.units(number(f["quantity"])), True),
                counted(price, words.price(price)),
                Cell(words.money(value, places), True),
                Cell(words.money(fees, places), True),
            ]
        )
    heads = ["#", "Time", "Symbol", "Side", "Order", "Units", "Price", "Value", "Fees"]
    return table(heads, rows, right=(5, 6, 7, 8), label="Fills")


def fees(r: Report) -> str:
    places = r.run["minor_unit"]
    names = {"BORROW_FEE": "Borrowing shares", "MARGIN_INTEREST": "Margin interest"}
    rows = [
        [said(names.get(f["kind"], f["kind"])), Cell(f"{f['entries']:,}", True), _amount(f["amount"], places)]
        for f in r.fees
    ]
    total = sum((number(f["amount"]) or Decimal(0) for f in r.fees), Decimal(0))
    rows.append([Cell("Together"), Cell("", True), _amount(total, places)])
    return table(["Kind", "Times", "Amount"], rows, right=(1, 2), label="Fees by kind")


def _amount(value: object, places: int) -> Cell:
    amount = number(value)
    return counted(amount, words.money(amount, places))


def rejections(r: Report) -> str:
    def day(text: str | None) -> Cell:
        return Cell("before the first tick" if text is None else words.moment(time_of(text), daily=True))

    rows = [
        [
            said(x["reason"]),
            Cell(f"{x['orders']:,}", True),
            Cell(f"{x['symbols']:,}", True),
            day(x["first_time"]),
            day(x["last_time"]),
        ]
        for x in r.rejections
    ]
    return table(["Reason", "Orders", "Symbols", "First", "Last"], rows, right=(1, 2), label="Rejections by reason")


def sips(r: Report) -> str:
    places, rows = r.run["minor_unit"], []
    steps_up = any(s["step_up_every"] is not None for s in r.sips)
    for s in r.sips:
        what = s["symbol"] or (
            ", ".join(s["basket"]) if s["basket"] else f"what rebalance plan {s['rebalance_plan_id']} lacks"
        )
        counts = [Cell(f"{s[k]:,}", True) for k in ("executed", "skipped_funds", "skipped_other", "missed")]
        rows.append(
            [
                said(s["sip_id"]),
                said(what),
                said(s["frequency"].lower()),
                _amount(s["instalment"], places),
                *([said(words.step_up(s)), _amount(s["current_amount"], places)] if steps_up else []),
                *counts,
                _amount(s["paid"], places),
            ]
        )
    stepped = ["Step-up", "Now"] if steps_up else []
    heads = ["SIP", "Buys", "Every", "Instalment", *stepped, "Executed", "No funds", "Skipped", "Missed", "Paid in all"]
    return table(heads, rows, right={*range(3, len(heads))} - ({4} if steps_up else set()), label="SIPs")


def rebalances(r: Report) -> str:
    """A row a symbol of each plan, the plan's own figures in its first."""
    rows = []
    for plan in r.rebalances:
        heads = [
            said(plan["plan_id"]),
            said(plan["frequency"].lower()),
            Cell(f"{plan['executed']:,}", True),
            Cell(f"{plan['missed']:,}", True),
            said(words.moment(time_of(plan["last_time"]), daily=True)),
        ]
        for n, weight in enumerate(plan["weights"] or [None]):
            cells = [said(words.NONE), *[Cell("", True)] * 3]
            if weight:
                target, share = (Decimal(weight[key]) for key in ("target", "share"))
                shown = [counted(100 * value, words.percent(value)) for value in (target, share, share - target)]
                cells = [said(weight["symbol"]), *shown]
            rows.append([*(heads if n == 0 else [Cell("")] * 5), *cells])
        if plan["others"]:
            rows.append([*[Cell("")] * 5, said(f"{plan['others']:,} others"), *[Cell("", True)] * 3])
    heads_ = ["Plan", "Every", "Executed", "Missed", "Last", "Symbol", "Target", "Now", "Off by"]
    return table(heads_, rows, right=(2, 3, 6, 7, 8), label="Rebalances")


def violations(r: Report) -> str:
    rows = [[said(v["rule"]), said(v["detail"])] for v in r.violations]
    return table(["Rule", "Detail"], rows, label="Violations")


def key_of(run: Json) -> RunKey:
    return RunKey(run["user_id"], run["run_id"])


def terms(run: Json) -> list[tuple[str, Any]]:
    """The run's terms that are not what they are by default."""
    found: list[tuple[str, Any]] = [
        ("Marks", run["mark_policy"].lower().replace("_", " ")),
        ("Fees", run["fee_schedule"] or "none"),
        ("Account", "cash" if run["initial_margin"] is None else "margin"),
    ]
    if number(run["slippage_bps"]):
        found.append(("Slippage", f"{words.full(number(run['slippage_bps']))} bp"))
    if run["participation"] is not None:
        found.append(("Participation", words.percent(number(run["participation"]))))
    if run["reinvest_dividends"]:
        found.append(("Dividends", "reinvested"))
    if run["forked_from_run_id"] is not None:
        found.append(("Fork of", f"{run['forked_from_user_id']}/{run['forked_from_run_id']}"))
    return found
