"""The page: one HTML file that needs nothing else, and that the same run always makes the same, byte by byte."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from dataclasses import replace
from decimal import Decimal
from functools import cache
from html import escape
from importlib import resources
from typing import Any

from engine_py.report import figures, tables, words
from engine_py.report.chart import Chart
from engine_py.report.gather import Report, name_of, time_of

WEIGHTS = "Shares of equity: as the plan wants them, and at the last mark. What is left of 100 % is cash."
FEW = 20  # fills that stand open


@cache
def _file(name: str) -> str:
    return resources.files("engine_py.report").joinpath(name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    return "'sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


@cache
def policy() -> str:
    """The page's Content-Security-Policy: its own style and script, and nothing from anywhere."""
    return (
        f"default-src 'none'; style-src {_hash(_file('page.css'))}; script-src {_hash(_file('page.js'))}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def html(r: Report) -> str:
    charts = _charts(r)
    body = "".join(
        [
            _header(r),
            "<main>",
            _tiles(r),
            _overview(charts),
            _months(r),
            _comparison(r, charts),
            _holdings(r, charts),
            _numbers(r),
            _happened(r),
            "</main>",
            _footer(r),
        ]
    )
    title = f"{r.name} · papertick"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy())}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="generator" content="papertick"><meta name="referrer" content="no-referrer">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{_file("page.css")}</style></head>\n'
        f'<body>{body}<script type="application/json" id="data">{_data(charts)}</script>'
        f"<script>{_file('page.js')}</script></body></html>\n"
    )


def _data(charts: dict[str, Chart]) -> str:
    text = json.dumps({key: chart.data() for key, chart in charts.items()}, ensure_ascii=False, separators=(",", ":"))
    return text.translate({ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})


def _charts(r: Report) -> dict[str, Chart]:
    found: list[Chart | None] = []
    if r.curve.times:
        over_time = [chart for chart in (figures.equity(r), figures.drawdown(r), figures.allocation(r)) if chart]
        room = max(chart.room for chart in over_time)
        found += [replace(chart, gutter=room) for chart in over_time]
    if r.compared:
        found.append(figures.comparison(r))
    found += [figures.price(p, n) for n, p in enumerate(r.prices, 1)]
    return {chart.key: chart for chart in found if chart}


# --- parts ---


def _header(r: Report) -> str:
    run = r.run
    first, last = time_of(run["first_logical_time"]), time_of(run["last_logical_time"])
    daily = r.curve.marks == 0 or words.is_daily(r.curve.times, r.curve.marks)
    state = run["status"].lower() + (f": {run['status_reason']}" if run["status_reason"] else "")
    span = f"{words.moment(first, daily=daily)} to {words.moment(last, daily=daily)}" if last else "has not ticked yet"
    who = run["user_name"].strip()
    facts: list[tuple[str, Any]] = [
        ("Run", f"{run['user_id']}/{run['run_id']}"),
        ("Feed", run["feed"] + (" (adjusted prices)" if run["adjusted"] else "")),
        ("Calendar", run["calendar"]),
        ("Initial cash", f"{words.fixed(Decimal(run['initial_cash']), run['minor_unit'])} {run['currency']}"),
    ]
    facts += tables.terms(run)
    listed = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in facts)
    return (
        f'<header><h1>{escape(r.name)}<span class="state">{escape(state)}</span></h1>'
        f'<p class="sub">{escape(who + " · " if who and who != r.name else "")}{span}'
        f" · {words.counted(r.curve.marks, 'mark')} · times in UTC</p>"
        f'<dl class="facts">{listed}</dl></header>'
    )


def _tiles(r: Report) -> str:
    m, places, currency = r.metrics, r.run["minor_unit"], r.run["currency"]
    equity, funded = m.get("equity"), m.get("funded")
    gain = equity - funded if equity is not None and funded is not None else None
    share = gain / funded if gain is not None and funded else None
    tiles = [
        ("Equity", words.money(equity, places), equity, f"{currency}, at the last mark"),
        ("Invested capital", words.money(funded, places), funded, currency),
        (
            "Gain",
            words.money(gain, places),
            gain,
            f"{words.percent(share)} of invested" if share is not None else currency,
        ),
        ("XIRR", words.percent(m.get("xirr")), m.get("xirr"), _or_why(r, "xirr", "a year, money-weighted")),
        ("TWR", words.percent(m.get("twr")), m.get("twr"), _or_why(r, "twr", _cagr(r))),
        (
            "Max drawdown",
            words.percent(m.get("max_drawdown")),
            m.get("max_drawdown"),
            _or_why(r, "max_drawdown", "flows taken out"),
        ),
        ("Volatility", words.percent(m.get("volatility")), m.get("volatility"), _or_why(r, "volatility", "a year")),
        ("Sharpe", words.ratio(m.get("sharpe")), m.get("sharpe"), _or_why(r, "sharpe", "a year, riskless rate 0")),
    ]
    items = []
    for name, text, value, about in tiles:
        kind = ("up" if value > 0 else "down" if value < 0 else "") if name == "Gain" and value is not None else ""
        kind += " long" if len(text) > 12 else ""
        attributes = f' class="{kind.strip()}"' if kind.strip() else ""
        attributes += f' title="{words.full(value)}"' if value is not None else ""
        items.append(f"<li><span>{name}</span><b{attributes}>{escape(text)}</b><small>{escape(about)}</small></li>")
    return f'<ul class="tiles">{"".join(items)}</ul>'


def _cagr(r: Report) -> str:
    cagr = r.metrics.get("cagr")
    return f"{words.percent(cagr)} a year" if cagr is not None else "time-weighted"


def _or_why(r: Report, metric: str, about: str) -> str:
    return words.reason(r.reasons[metric]) if metric in r.reasons else about


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>" if any(parts) else ""


def _card(content: str, *, note: str = "") -> str:
    return f'<div class="card">{content}{_note(note)}</div>'


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>' if text else ""


def _drawn(charts: dict[str, Chart], *keys: str) -> str:
    return "".join(charts[key].html() for key in keys if key in charts)


def _overview(charts: dict[str, Chart]) -> str:
    if "equity" not in charts:
        return _section("Equity", _card("<p>There is nothing to draw: the run has no mark yet.</p>"))
    parts = [_drawn(charts, "equity", "drawdown")]
    if "drawdown" not in charts:
        parts.append(_card("<p>Drawdown has no meaning here: no money stood behind the equity.</p>"))
    return _section("Equity", *parts)


def _months(r: Report) -> str:
    if not r.months:
        return ""
    note = "Time-weighted, flows taken out; months are the market's. The last column is the year, compounded."
    return _section("Monthly returns, %", _card(tables.months(r), note=note))


def _comparison(r: Report, charts: dict[str, Chart]) -> str:
    if not r.compared:
        return ""
    ended = [name_of(c.run) for c in r.compared if not c.times]
    since = words.moment(r.since, daily=True)
    note = f"All of them had begun by {since}; growth is time-weighted, so that deposits do not count as gains. "
    note += "The figures are of each run's whole life."
    if ended:
        note += f" Not drawn, since nothing of it is left to index from there: {', '.join(ended)}."
    return _section(
        "Compared", _drawn(charts, "comparison"), _card(tables.compared(r.compared), note=note if r.since else "")
    )


def _holdings(r: Report, charts: dict[str, Chart]) -> str:
    prices = [key for key in charts if key.startswith("price-")]
    note = ""
    if r.traded > len(r.prices):
        note = (
            f"The run traded {r.traded:,} symbols; these {len(r.prices)} had the most money go through them. "
            "The view report_price has all."
        )
    sips = _card(tables.sips(r), note="Paid in all: what its purchases cost, fees included.") if r.sips else ""
    return (
        _section("Allocation", _drawn(charts, "allocation"))
        + _section(
            "Prices and purchases", f'<div class="pair">{_drawn(charts, *prices)}</div>' * bool(prices), _note(note)
        )
        + _section("SIPs", sips)
        + _section("Rebalances", _card(tables.rebalances(r), note=WEIGHTS) if r.rebalances else "")
    )


def _numbers(r: Report) -> str:
    more = r.drawdown_count - len(r.drawdowns)
    return (
        _section("Where the gain comes from", _card(tables.gain(r)) if r.gain else "")
        + _section("Performance", _card(tables.metrics(r)))
        + _section("By symbol", _card(tables.symbols(r), note=words.SYMBOL_XIRR) if r.symbols else "")
        + _section(
            "Drawdowns",
            _card(
                tables.drawdowns(r.drawdowns),
                note=f"{more:,} smaller ones are in the view report_drawdown." * (more > 0),
            )
            if r.drawdowns
            else "",
        )
    )


def _happened(r: Report) -> str:
    key = tables.key_of(r.run)
    left = r.fill_count - len(r.fills)
    note = f"{left:,} of {r.fill_count:,} fills are left out here; all of them: "
    note += f"papertick run trades {key.user_id} {key.run_id}, or papertick export."
    none = "<p>None.</p>"
    return (
        _section("Fees by kind", _card(tables.fees(r) if r.fees else none))
        + _section("Rejections by reason", _card(tables.rejections(r) if r.rejections else none))
        + _section(f"Fills ({r.fill_count:,})", _card(_fills(r) if r.fills else none, note=note * (left > 0)))
        + _section(
            "Integrity",
            _card(
                f"<p>Violations: {r.violation_count:,}.</p>"
                + (tables.violations(r) if r.violations else "")
                + f"<p>Digest <code>{escape(r.digest)}</code></p>",
                note=f"Equal histories have equal digests, on any server: papertick digest {key.user_id} {key.run_id}",
            ),
        )
    )


def _fills(r: Report) -> str:
    """Folded where they are many; paper shows them all the same."""
    shown = " open" if len(r.fills) <= FEW else ""
    said = f"{words.counted(len(r.fills), 'row')}, from {words.moment(time_of(r.fills[0]['logical_time']), daily=True)}"
    said += f" to {words.moment(time_of(r.fills[-1]['logical_time']), daily=True)}"
    return f"<details{shown}><summary>{escape(said)}</summary>{tables.fills(r)}</details>"


def _footer(r: Report) -> str:
    return (
        "<footer>Paper trading, made by papertick: no real money was moved. Rounded numbers have all their digits in "
        "their tooltips. The views behind the charts: docs/report.md.</footer>"
    )
