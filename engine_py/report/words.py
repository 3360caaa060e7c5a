"""Words and numbers for people: formats, what each metric is, why one is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """kind: money, share, ratio, count."""

    label: str
    kind: str
    about: str


# In the order in which they are shown; what performance has beyond them follows by its own name.
METRICS = {
    "equity": Metric("Equity", "money", "Cash and holdings at the last mark."),
    "funded": Metric("Invested capital", "money", "All that came in from outside, less what was taken out."),
    "cash": Metric("Cash", "money", "At the last mark."),
    "market_value": Metric("Market value", "money", "Of the holdings, at the last mark."),
    "realized_pnl": Metric("Realized gain", "money", "From sales, at average cost, fees counted."),
    "unrealized_pnl": Metric("Unrealized gain", "money", "Market value less what the holdings cost."),
    "xirr": Metric("XIRR", "share", "Yearly money-weighted return of the account: external flows against equity."),
    "xirr_invested": Metric(
        "XIRR, invested", "share", "The same of trades, dividends and costs of carry; idle cash left out."
    ),
    "twr": Metric("TWR", "share", "Time-weighted return: growth with flows taken out."),
    "cagr": Metric("CAGR", "share", "The yearly rate of TWR, 365-day years."),
    "max_drawdown": Metric("Max drawdown", "share", "The deepest fall below an earlier high, flows taken out."),
    "calmar": Metric("Calmar", "ratio", "CAGR over the deepest fall."),
    "volatility": Metric("Volatility", "share", "Standard deviation of session returns, a year."),
    "sharpe": Metric("Sharpe", "ratio", "Mean over standard deviation of session returns, a year; riskless rate 0."),
    "sortino": Metric("Sortino", "ratio", "Mean over downside deviation, a year."),
    "best_period": Metric("Best session", "share", "The highest return between two sessions' last marks."),
    "worst_period": Metric("Worst session", "share", "The lowest."),
    "exposure": Metric("Exposure", "share", "Market value over equity, on average over time."),
    "turnover": Metric("Turnover", "share", "The lesser of bought and sold over average equity, a year."),
    "hit_rate": Metric("Hit rate", "share", "Share of closing trades that realized a gain."),
    "bought": Metric("Bought", "money", "Value of all buys, without fees."),
    "sold": Metric("Sold", "money", "Value of all sales, without fees."),
    "fees": Metric("Fees", "money", "Of all trades."),
    "trades": Metric("Trades", "count", "Fills."),
}
REASONS = {
    "NO_MARK": "the run has never ticked",
    "NO_FLOW": "no cash has moved",
    "NOT_FUNDED": "nothing had come in by the first mark",
    "ONE_DIRECTION_ONLY": "money only went in, or only came out",
    "NO_ROOT": "no rate solves the flows",
    "SEVERAL_ROOTS": "more than one rate solves the flows",
    "RATE_OUT_OF_RANGE": "the rate is too large for a number",
    "SHORT_SPAN": "less than a day",
    "TOO_FEW_PERIODS": "too few sessions marked",
    "EQUITY_NOT_POSITIVE": "equity fell to nothing or below",
    "NO_VARIATION": "returns do not vary",
    "NO_DOWNSIDE": "no session lost anything",
    "NO_DRAWDOWN": "it never fell below an earlier high",
    "NO_SALE": "nothing was sold",
    "SHORT_POSITION": "something was sold short, whose flows are those of a loan",
    "NO_POSITION": "trades without a position",
    "UNITS_NOT_FROM_TRADES": "trades alone do not account for the units held",
    "TRADED_SINCE_MARK": "it has traded since the last mark",
}
SYMBOL_XIRR = (
    "XIRR: of the symbol's own trades. Dividends, cash in lieu and costs of carry are the run's cash, not a symbol's; "
    "they count in XIRR, invested, which therefore differs even where one symbol is all there is."
)
GAINS = {
    "REALIZED": ("Realized gain", "By trades, at average cost, fees counted."),
    "UNREALIZED": ("Unrealized gain", "Market value less what the holdings cost."),
    "CASH_IN_LIEU": ("Cash in lieu", "For fractions after splits, less what they had cost; realized too."),
    "DIVIDEND": ("Dividends", "Paid in cash; less those that were owed on shares sold short."),
    "BORROW_FEE": ("Borrowing shares", "What a margin account paid to sell short."),
    "MARGIN_INTEREST": ("Margin interest", "What a margin account paid for borrowed cash."),
    "OTHER": ("Other", "Units of unknown cost, or trades after the last mark."),
}
SOURCES = {"CLIENT": "order", "SIP": "SIP", "REBALANCE": "rebalance", "DIVIDEND": "reinvested", "MARGIN": "margin call"}
_LONG = Decimal(10) ** 9
NONE = "–"  # noqa: RUF001  # an en dash: there is no number


def full(value: Decimal | None) -> str:
    """Every digit, without trailing zeros."""
    if value is None:
        return NONE
    digits = format(value, "f")
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return "0" if digits in ("-0", "") else digits


def digits(value: Decimal, places: int) -> str:
    """So many decimals, half away from zero; no minus before a zero."""
    with localcontext(prec=100):
        text = f"{value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP):f}"
    return text if text.strip("-0.") else text.lstrip("-")


def grouped(text: str) -> str:
    """Digits as people read them: thousands separated, a minus sign for a hyphen."""
    whole, point, rest = text.lstrip("-").partition(".")
    return ("\N{MINUS SIGN}" if text.startswith("-") else "") + (f"{int(whole):,}" if whole else "") + point + rest


def fixed(value: Decimal, places: int) -> str:
    return grouped(digits(value, places))


def money(value: Decimal | None, places: int) -> str:
    return NONE if value is None else fixed(value, places)


def percent(share: Decimal | None) -> str:
    return NONE if share is None else ratio(100 * share) + " %"


def ratio(value: Decimal | None) -> str:
    """Two decimals; the yearly rate of a good hour as 9.67e31."""
    if value is None:
        return NONE
    if abs(value) < _LONG:
        return fixed(value, 2)
    digits, _, power = f"{value:.2e}".partition("e")
    return f"{grouped(digits)}e{int(power)}"


def price(value: Decimal | None) -> str:
    return NONE if value is None else fixed(value, price_places(value))


def price_places(value: Decimal) -> int:
    """At least two decimals, and as many as it takes to show four significant digits, at most 8."""
    return min(8, max(2, 3 - value.adjusted())) if value else 2


def units(value: Decimal | None) -> str:
    """All of its digits, thousands separated."""
    return NONE if value is None else fixed(value, len(full(value).partition(".")[2]))


def shown(metric: str, value: Decimal | None, places: int) -> str:
    kind = METRICS[metric].kind if metric in METRICS else "ratio"
    if kind == "money":
        return money(value, places)
    if kind == "share":
        return percent(value)
    return units(value) if kind == "count" else ratio(value)


def label(metric: str) -> str:
    return METRICS[metric].label if metric in METRICS else metric.replace("_", " ").capitalize()


def reason(code: str | None) -> str:
    return REASONS.get(code or "", (code or "").replace("_", " ").lower())


def gain(kind: str) -> tuple[str, str]:
    """A part of the gain by its name, and what it is."""
    return GAINS.get(kind, (kind.replace("_", " ").capitalize(), ""))


def counted(count: int, noun: str) -> str:
    """`1 mark`, `1,000 marks`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def in_order(metrics: Sequence[str]) -> list[str]:
    return [m for m in METRICS if m in metrics] + sorted(m for m in metrics if m not in METRICS)


def is_daily(times: Sequence[datetime], marks: int) -> bool:
    """Whether a date tells these times apart, most often: they stand for `marks` of them."""
    return len(times) < 2 or (times[-1] - times[0]) / max(marks - 1, 1) > timedelta(hours=12)


def step_up(sip: Mapping[str, Any]) -> str | None:
    """`+10 % every 12 slots`; None: the instalment stays what it is."""
    if sip["step_up_every"] is None:
        return None
    by = sip["step_up_amount"] if sip["step_up_percent"] is None else sip["step_up_percent"]
    often = "slot" if sip["step_up_every"] == 1 else counted(sip["step_up_every"], "slot")
    return f"+{units(Decimal(by))}{' %' * (sip['step_up_percent'] is not None)} every {often}"


def since(time: datetime | None, *, daily: bool) -> str:
    """` from 2012-05-18`, or nothing."""
    return f" from {moment(time, daily=daily)}" if time else ""


def moment(time: datetime | None, *, daily: bool) -> str:
    """In UTC, as everywhere."""
    if time is None:
        return NONE
    return f"{time:%Y-%m-%d}" if daily else f"{time:%Y-%m-%d %H:%M}"
