"""Where ticks stand on an axis, and what is written there.

Floats: these are places on a page, not numbers of a ledger.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple


class Tick(NamedTuple):
    at: float
    label: str


def domain(values: Sequence[float | None], *, zero: bool = False) -> tuple[float, float]:
    """The least span that shows them all, with some air; from 0 where that costs little (`zero`: always)."""
    known = [v for v in values if v is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if zero or 0 < low < 0.55 * high:
        low = min(low, 0.0)
    if zero:
        high = max(high, 0.0)
    if low == high:
        pad = abs(low) * 0.05 or 1.0
        return low - pad, high + pad
    pad = (high - low) * 0.04
    return (low if low == 0 else low - pad), (high if high == 0 else high + pad)


def _step(span: float, most: int) -> float:
    raw = span / max(most, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= raw * 0.999)


def number_ticks(low: float, high: float, most: int = 5, *, share: bool = False) -> list[Tick]:
    """Round numbers between low and high."""
    step = _step(high - low, most)
    first = math.ceil(low / step - 1e-9)
    values = [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]
    return [Tick(v, _share(v, step) if share else _number(v, step)) for v in values]


def _share(value: float, step: float) -> str:
    places = max(0, -math.floor(math.log10(step * 100) + 1e-9) + (0 if _is_round(step * 100) else 1))
    return _minus(f"{value * 100 + 0:.{min(places, 6)}f}%")


def _number(value: float, step: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if step >= size and abs(value) >= size:
            return _minus(f"{value / size:.10f}".rstrip("0").rstrip(".") + unit)
    places = max(0, -math.floor(math.log10(step) + 1e-9) + (0 if _is_round(step) else 1))
    return _minus(f"{value + 0:,.{min(places, 10)}f}")


def _is_round(step: float) -> bool:
    """Whether its first digit is all there is of it: 2, not 2.5."""
    lead = step / 10.0 ** math.floor(math.log10(step) + 1e-9)
    return abs(lead - round(lead)) < 1e-6


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}") if text.strip("-0.%,") else text.lstrip("-")


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_YEARS, _IN_MONTHS = (1, 2, 5, 10, 20, 50, 100), (1, 2, 3, 6)
_SECONDS = (1, 5, 15, 30, 60, 300, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 1209600)


def month_name(month: int) -> str:
    return _MONTHS[month - 1]


def time_ticks(first: datetime, last: datetime, most: int = 8) -> list[Tick]:
    """Round dates or clock times in UTC, as seconds since 1970."""
    span = (last - first).total_seconds()
    if span <= 0:
        return [Tick(first.timestamp(), f"{first:%Y-%m-%d %H:%M}")]
    for seconds in _SECONDS:
        if span / seconds <= most:
            return list(_clock(first, last, seconds))
    for months in (*_IN_MONTHS, *(12 * y for y in _YEARS)):
        if span / (months * 2_629_800) <= most:
            break
    return list(_calendar(first, last, months))


def _clock(first: datetime, last: datetime, seconds: int) -> Iterator[Tick]:
    midnight = datetime(first.year, first.month, first.day, tzinfo=UTC)
    at = midnight + timedelta(seconds=seconds * math.ceil((first - midnight).total_seconds() / seconds))
    while at <= last:
        if seconds >= 86400 or (at.hour, at.minute, at.second) == (0, 0, 0):
            label = f"{at.day} {month_name(at.month)}"
        else:
            label = f"{at:%H:%M}" if seconds >= 60 else f"{at:%H:%M:%S}"
        yield Tick(at.timestamp(), label)
        at += timedelta(seconds=seconds)


def _calendar(first: datetime, last: datetime, months: int) -> Iterator[Tick]:
    number = (first.year * 12 + first.month - 1) // months * months
    while True:
        year, month = divmod(number, 12)
        number += months
        if year > 9999:
            return
        at = datetime(year, month + 1, 1, tzinfo=UTC)
        if at > last:
            return
        if at >= first:
            yield Tick(at.timestamp(), str(year) if months >= 12 else f"{month_name(month + 1)} {year}")
