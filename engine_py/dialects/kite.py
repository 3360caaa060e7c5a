"""Zerodha Kite's historical data: {"data": {"candles": [[time, open, high, low, close, volume], …]}}, or the list of
objects that kiteconnect makes of it, written as JSON. One symbol, which is given or is the file's name.

A candle's time is its open, and ours is the close: --interval says how long it is; a candle of a whole day has the
close of its session. Kite adjusts for splits, bonuses, rights and large dividends, not for others: neither raw nor
adjusted, so the caller must say which comes closer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

from engine_py.csvfile import Bad
from engine_py.dialects.base import Bar, Options, Reader, Source, symbol_of
from engine_py.dialects.documents import at, load, mentions, scalar, starts_with
from engine_py.dialects.times import Clock

_NAMES = ("date", "open", "high", "low", "close")


class Candles(Reader):
    """`line` is the number of the candle."""

    takes = frozenset(("interval",))

    def __init__(self, source: Source, options: Options, clock: Clock) -> None:
        super().__init__(options, clock)
        self._symbol = symbol_of(source, options)
        document = load(source.document())
        if at(document, "status") == "error":
            raise Bad("22032", f"it is an answer of refusal: {str(at(document, 'message'))[:80]}")
        candles = document if isinstance(document, list) else at(document, "data", "candles") or at(document, "candles")
        if not isinstance(candles, list):
            raise Bad("22032", "it has no data.candles")
        self._candles = candles
        self.mapping = {"symbol": f"'{self._symbol}'", "time": "candle[0], the open", "volume": "candle[5]"}
        self.mapping |= {name: f"candle[{n}]" for n, name in enumerate(_NAMES) if n}
        if clock.interval is None and not all(_is_midnight(candle) for candle in candles):
            raise Bad("22007", "the times are those of the opens", "Say how long a candle is: --interval 5minute.")
        if clock.interval is None:
            clock.interval = 0
        clock.market = ZoneInfo("Asia/Kolkata")

    def raws(self) -> Iterator[tuple[int, Any]]:
        return enumerate(self._candles, 1)

    def bar(self, raw: Any) -> Bar:
        if isinstance(raw, dict):
            raw = [raw.get(name) for name in (*_NAMES, "volume")]
        if not isinstance(raw, list) or len(raw) < 5:
            raise Bad("22P04", "a candle has a time and four prices")
        time, *prices = (scalar(value) for value in raw[:5])
        when = self.stamp(_with_colon(time), "time")
        return Bar(self._symbol, when, prices, scalar(raw[5]) if len(raw) > 5 else "")


def _with_colon(time: str) -> str:
    """+0530 as +05:30."""
    return re.sub(r"([+-]\d\d)(\d\d)$", r"\1:\2", time)


def _is_midnight(candle: Any) -> bool:
    time = at(candle, "date") if isinstance(candle, dict) else at(candle, 0)
    return isinstance(time, str) and (len(time) == 10 or time[11:19] == "00:00:00")


def claims(source: Source) -> bool:
    return starts_with(source, "[") or mentions(source, "candles")


def open_candles(source: Source, options: Options, clock: Clock) -> Reader:
    return Candles(source, options, clock)
