"""Yahoo Finance: its CSV (Date,Open,High,Low,Close,Adj Close,Volume), what yfinance writes (one header line or three),
and the JSON of its chart service.

Yahoo's open, high, low and close are adjusted for splits up to the day of the download, not for dividends; Adj Close is
for both. So these prices are raw only for a symbol that has not split since: the caller must say. --adjusted takes all
four to the level of Adj Close, where there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from engine_py.bars import ADJUSTED_CLOSE
from engine_py.csvfile import DATE, Bad, shown, split_line
from engine_py.dialects.base import Bar, LeftOut, Options, Reader, Source, symbol_of
from engine_py.dialects.delimited import NOTHING, Delimited
from engine_py.dialects.documents import at, load, mentions, scalar
from engine_py.dialects.times import Clock, interval_minutes

_FIELDS = ("open", "high", "low", "close", "adj close", "volume")
_COLUMNS = {
    "time": ("date", "datetime"),
    **{name: (name,) for name in ("open", "high", "low", "close")},
    "adj_close": ADJUSTED_CLOSE.aliases,
    "volume": ("volume",),
}
_MIDNIGHT = re.compile(rf"({DATE}) 00:00:00(?:[-+]\d\d:\d\d)?", re.ASCII).fullmatch


def day_of(text: str) -> str:
    """yfinance writes the date of a daily bar as its midnight, with the market's offset."""
    found = _MIDNIGHT(text)
    return found[1] if found else text


class Csv(Delimited):
    aliases = _COLUMNS

    def __init__(self, source: Source, options: Options, clock: Clock) -> None:
        super().__init__(source, options, clock)
        self._symbol = symbol_of(source, options)
        self.mapping = {"symbol": f"'{self._symbol}'", **self.mapping}
        _require_interval(self.mapping["time"], clock)
        clock.dates = set()  # a weekly or monthly file looks the same, and dates its bars by their first days

    def symbol(self, fields: list[str]) -> str:
        return self._symbol

    def when(self, fields: list[str]) -> str:
        return self.stamp(day_of(self.get(fields, "time")), self.mapping["time"])


class Wide(Reader):
    """yfinance's download with three header lines: fields, tickers, and the name of the first column."""

    takes = frozenset(("time_zone", "interval"))

    def __init__(self, source: Source, options: Options, clock: Clock) -> None:
        fields, tickers, title = (split_line(source.peek(n).removeprefix("\ufeff")) for n in range(3))
        self._places: dict[str, dict[str, int]] = {}
        for place, (name, ticker) in enumerate(zip(fields, tickers, strict=False)):
            if place and name.lower() in _FIELDS:
                self._places.setdefault(ticker, {})[name.lower()] = place
        super().__init__(options, clock, reads_adjusted="adj close" in {name.lower() for name in fields})
        for ticker, places in self._places.items():
            if missing := [name for name in _FIELDS[:4] if name not in places]:
                raise Bad("42703", f"the header has no {missing[0]} of {shown(ticker)}")
        if options.symbol is not None:
            if len(self._places) > 1:
                raise Bad("42701", f"the file has {len(self._places)} symbols, and a symbol was given as well")
            self._places = dict(zip([options.symbol], self._places.values(), strict=True))
        self._source, self._width, self.step = source, len(fields), max(len(self._places), 1)
        self.mapping = {"symbol": f"line 2 ({len(self._places)})", "time": title[0] or "column 1"}
        self.mapping |= {name.replace(" ", "_"): name for name in _FIELDS if name in map(str.lower, fields)}
        _require_interval(self.mapping["time"], clock)
        clock.dates = set()

    def raws(self) -> Iterator[tuple[int, Any]]:
        """Of each line one row a ticker."""
        for number, line in self._source.lines():
            if number <= 3:
                continue
            self.lines = number * self.step
            try:
                cells = split_line(line)
                if any(cells) and len(cells) != self._width:
                    raise Bad("22P04", f"{len(cells)} fields where the header has {self._width}")
            except Bad as bad:
                self.note(number * self.step, bad)
                continue
            if any(cells):
                yield from enumerate(((ticker, cells) for ticker in self._places), number * self.step)

    def bar(self, raw: Any) -> Bar:
        ticker, cells = raw
        of = {name: cells[place] for name, place in self._places[ticker].items()}
        prices = [of[name] for name in _FIELDS[:4]]
        if all(price.lower() in NOTHING for price in prices):
            raise LeftOut("no price")
        volume = re.sub(r"\.0$", "", of.get("volume", ""))
        return Bar(ticker, self.stamp(day_of(cells[0]), self.mapping["time"]), prices, volume, of.get("adj close", ""))


class Chart(Reader):
    """{"chart": {"result": [{"meta": …, "timestamp": […], "indicators": …}]}}; `line` is the number of the bar."""

    def __init__(self, source: Source, options: Options, clock: Clock) -> None:
        document = load(source.document())
        if error := at(document, "chart", "error"):
            raise Bad("22032", f"it is an answer of refusal: {str(at(error, 'description') or error)[:80]}")
        self._results = at(document, "chart", "result")
        if not isinstance(self._results, list):
            raise Bad("22032", "it has no chart.result")
        has_adjusted = all(at(result, "indicators", "adjclose", 0) for result in self._results)
        super().__init__(options, clock, reads_adjusted=has_adjusted)
        if options.symbol is not None and len(self._results) > 1:
            raise Bad("42701", f"the file has {len(self._results)} symbols, and a symbol was given as well")
        self.mapping = {"symbol": "meta.symbol", "time": "timestamp", "adj_close": "adjclose"}

    def raws(self) -> Iterator[tuple[int, Any]]:
        number = 0
        for result in self._results:
            times = at(result, "timestamp") or []
            quote = at(result, "indicators", "quote", 0) or {}
            adjusted = at(result, "indicators", "adjclose", 0, "adjclose") or []
            for place, time in enumerate(times):
                number += 1
                yield number, (result, time, [at(quote.get(n), place) for n in _FIELDS[:4]],
                               at(quote.get("volume"), place), at(adjusted, place))  # fmt: skip

    def bar(self, raw: Any) -> Bar:
        result, time, values, volume, adjusted = raw
        prices = [scalar(value) for value in values]
        if not any(prices):
            raise LeftOut("no price")
        if _is_unfinished(at(result, "meta"), scalar(time)):
            raise LeftOut("unfinished")
        symbol = self.options.symbol or scalar(at(result, "meta", "symbol"))
        return Bar(symbol, self._when(result, scalar(time)), prices, scalar(volume), scalar(adjusted))

    def _when(self, result: Any, time: str) -> str:
        """A timestamp is the open of its bar, in seconds; of a daily bar the date counts, by the market's clock."""
        try:
            zone = ZoneInfo(str(at(result, "meta", "exchangeTimezoneName")))
            self.clock.market = zone
            self.clock.interval = interval_minutes(str(at(result, "meta", "dataGranularity")))
            local = datetime.fromtimestamp(int(time), UTC).astimezone(zone)
        except (ZoneInfoNotFoundError, ValueError, OverflowError, OSError):
            raise Bad("22007", f"timestamp {shown(time)} or its meta.exchangeTimezoneName cannot be read") from None
        return self.stamp(local.isoformat(), "timestamp")


def _is_unfinished(meta: Any, time: str) -> bool:
    """Whether the session was open at the download, and the bar not yet what it would be.

    The bar of now has the time of the last trade instead of its open; an intraday one before it may still be running.
    """
    period = [at(meta, "currentTradingPeriod", "regular", side) for side in ("start", "end")]
    try:
        traded, opened = int(str(at(meta, "regularMarketTime"))), int(time)
        start, end = (int(str(side)) for side in period)
        length = 60 * interval_minutes(str(at(meta, "dataGranularity")))
    except ValueError:  # the meta does not say, or _when will refuse it
        return False
    return start <= traded < end and (opened >= traded or (length > 0 and opened + length > traded))


def _require_interval(name: str, clock: Clock) -> None:
    if name.lower() == "datetime" and clock.interval is None:
        raise Bad("22007", f"{name} is the time of the opens", "Say how long a bar is: --interval 5minute.")


def claims(source: Source) -> bool:
    if mentions(source, "chart"):
        return True
    names = source.names()
    if {"symbol", "ticker"} & set(names):
        return False
    daily = set(names[:1]) <= {"date", "datetime"} and {"open", "close"} <= set(names)
    return is_wide(source) or (daily and ("adj close" in names or {"dividends", "stock splits"} <= set(names)))


def is_wide(source: Source) -> bool:
    names = source.names()
    if len(names) < 5 or names[0] not in ("price", "attributes", "") or not {"open", "close"} <= set(names):
        return False
    return source.peek(2).lower().startswith(("date,", "datetime,", '"date",', '"datetime",'))


def open_yahoo(source: Source, options: Options, clock: Clock) -> Reader:
    if mentions(source, "chart"):
        return Chart(source, options, clock)
    return Wide(source, options, clock) if is_wide(source) else Csv(source, options, clock)
