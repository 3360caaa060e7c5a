"""What a bar is: the columns that a source must have, and the rules that every bar must keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import LiteralString, TypeAlias

from engine_py.csvfile import DATE, INSTANT, NUMBER, SYMBOL, Bad, Column

Closes: TypeAlias = Callable[[str], str | None]  # None keeps an instant; a date gives its session's close. Raises Bad


class NoSession(Bad):
    """A date on which the calendar has none."""


PRICES = ("open", "high", "low", "close")
BAR = (
    Column("symbol", ("symbol",), SYMBOL, "a symbol", hint="If all of it is one symbol: --symbol NAME."),
    Column(
        "logical_time",
        ("logical_time", "timestamp", "datetime", "time", "date"),
        f"{INSTANT}|{DATE}",
        "a date like 2024-01-31, or a time with its offset like 2024-01-31T16:00:00-05:00",
        "22007",
    ),
    *(Column(name, (name,), NUMBER, "a finite decimal number") for name in PRICES),
    Column("volume", ("volume",), f"(?:{NUMBER})?", "empty or a finite decimal number", optional=True),
)
# The close as if all later splits and dividends had been: read only where adjusted prices are asked for.
ADJUSTED_CLOSE = Column(
    "adj_close",
    ("adj_close", "adj close", "adjclose", "adjusted_close", "adjusted close"),
    NUMBER,
    "a finite decimal number",
    optional=True,
)
# Line numbers for what the constraints of price_bar would refuse, judged as price_bar stores it: rounded to 8 decimals.
BAR_RULES = (
    (
        "logical_time >= '1900-01-01 00:00+00' and logical_time < '2300-01-01 00:00+00'",
        "22008",
        "the time is not within 1900 to 2299",
    ),
    ("round(least(open, high, low, close), 8) > 0", "23514", "a price is not above 0"),
    ("round(greatest(open, high, low, close), 8) < 1e12", "22003", "a price is not below 1e12"),
    (
        "round(low, 8) <= round(least(open, close), 8) and round(greatest(open, close), 8) <= round(high, 8)",
        "23514",
        "low <= open, close <= high does not hold",
    ),
    ("volume is null or volume >= 0", "23514", "volume is below 0"),
    ("volume is null or round(volume, 4) < 1e20", "22003", "volume is not below 1e20"),
)
ADJUSTED_RULES = (("round(adj_close, 8) > 0", "23514", "the adjusted close is not above 0"),)
SAME_BAR: LiteralString = """(b.open, b.high, b.low, b.close)
                = (s.open::numeric(20,8), s.high::numeric(20,8), s.low::numeric(20,8), s.close::numeric(20,8))
                and b.volume is not distinct from s.volume::numeric(24,4)"""

# Whether the time of t lies outside of every session of a calendar that has them as rows.
OUTSIDE: LiteralString = """(select m.open_at < t.logical_time from public.market_session m
                              where m.calendar = %(calendar)s and m.close_at >= t.logical_time
                              order by m.close_at limit 1) is not true"""
