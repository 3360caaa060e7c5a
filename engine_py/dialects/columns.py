"""Tables that come as columns of values instead of text: Parquet, DataFrames.

Decimals and integers are exact. A float is written with the fewest digits that give it again, as Python shows it: 0.1
is stored as 0.1. A time needs its offset; a column of dates, or of nothing but midnights without one, holds dates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

from engine_py.bars import ADJUSTED_CLOSE, BAR, PRICES
from engine_py.csvfile import Bad, shown
from engine_py.dialects.base import OF_TIMES, Bar, LeftOut, Options, Reader, require_said
from engine_py.dialects.numbers import number_text
from engine_py.dialects.times import Clock

_ALIASES = {
    "symbol": ("symbol", "ticker"),
    "time": BAR[1].aliases,
    **{name: (name,) for name in PRICES},
    "volume": ("volume",),
    "adj_close": ADJUSTED_CLOSE.aliases,
}
ROWS = 10_000  # at a time


@dataclass(frozen=True)
class ColumnSet:
    """Columns by name. `part(first, count)` gives the values of all columns for some rows, as Python has them."""

    names: Sequence[str]
    parts: Callable[[], Iterator[Mapping[str, list[Any]]]]
    singles: frozenset[str] = frozenset()  # of 32-bit floats
    dates: frozenset[str] = frozenset()  # of midnights without an offset, or said to be dates
    is_wide: bool = False  # it had two levels of columns, as yfinance makes them


class Columns(Reader):
    """`line` is the number of the row, from 1."""

    takes = OF_TIMES | {"names"}

    def __init__(self, source: ColumnSet, options: Options, clock: Clock) -> None:
        self._source = source
        self._at = _find(source.names, options)
        require_said(options, "adj_close" in self._at)
        super().__init__(options, clock, reads_adjusted="adj_close" in self._at)
        self.mapping = dict(self._at)
        clock.read = options.date_format

    def raws(self) -> Iterator[tuple[int, dict[str, Any]]]:
        number, names = 0, list(self._at)
        for part in self._source.parts():
            for values in zip(*(part[self._at[name]] for name in names), strict=True):
                number += 1
                yield number, dict(zip(names, values, strict=True))

    def bar(self, raw: dict[str, Any]) -> Bar:
        symbol = self.options.symbol if self.options.symbol is not None else raw["symbol"]
        if not isinstance(symbol, str):
            raise Bad("22P02", f"symbol is no text: {shown(str(symbol))}")
        texts = {name: self._number(name, raw.get(name)) for name in (*PRICES, "volume", "adj_close")}
        prices = [texts[name] for name in PRICES]
        if not any(prices):
            raise LeftOut("no price")
        return Bar(symbol.strip(), self._when(raw["time"]), prices, texts["volume"], texts["adj_close"])

    def _number(self, name: str, value: Any) -> str:
        if hasattr(value, "item"):  # NumPy's
            value = value.item()
        return number_text(value, single=self._at.get(name) in self._source.singles)

    def _when(self, value: Any) -> str:
        name = self._at["time"]
        if isinstance(value, datetime):
            if name in self._source.dates:
                return self.clock.date(value.date().isoformat())
            text = value.isoformat()
        elif isinstance(value, date):
            text = value.isoformat()
        else:
            text = value.strip() if isinstance(value, str) else str(value)
        return self.stamp(text, name)


def _find(names: Sequence[str], options: Options) -> dict[str, str]:
    """Ours → theirs. Raises Bad."""
    lower = {name.lower(): name for name in names}
    if len(lower) < len(names):
        raise Bad("42701", "two columns have the same name, but for case")
    wanted = {ours: (theirs.lower(),) if theirs else () for ours, theirs in options.names.items()}
    found: dict[str, str] = {}
    for ours, aliases in {**_ALIASES, **wanted}.items():
        there = [lower[alias] for alias in aliases if alias in lower]
        if len(there) > 1:
            raise Bad("42701", f"there is more than one of {', '.join(there)}")
        if there:
            found[ours] = there[0]
    if "price" in found:
        found |= dict.fromkeys(PRICES, found.pop("price"))
    if options.symbol is not None and "symbol" in found:
        raise Bad("42701", "there is a symbol column, and a symbol was given as well")
    for ours in (*(() if options.symbol is not None else ("symbol",)), "time", *PRICES):
        if ours not in found:
            missing = f"there is no column {' or '.join(_ALIASES[ours])}; there are {', '.join(names)[:200]}"
            raise Bad("42703", missing, "If all of it is one symbol, give the symbol." if ours == "symbol" else None)
    return found


def only_midnights(values: Iterator[Any], *, with_offset: bool = False) -> bool:
    """Whether all that is there are midnights, without an offset or, if asked for, with one."""
    return all(
        value is None
        or value != value
        or (isinstance(value, datetime) and value.time() == time() and (with_offset or value.tzinfo is None))
        for value in values
    )
