"""Stooq: the bulk ASCII files (<TICKER>,<PER>,<DATE>,…, several symbols, daily) and the web's CSV, English or Polish,
of one symbol, which is given or is the file's name.

Stooq adjusts for splits and, unless told not to, for dividends and more: whether these are raw, the caller must say.
"""

from __future__ import annotations

import re

from engine_py.csvfile import Bad, shown
from engine_py.dialects.base import Options, Reader, Source, symbol_of
from engine_py.dialects.delimited import Delimited
from engine_py.dialects.times import Clock

_POLISH = ("data", "otwarcie", "najwyzszy", "najnizszy", "zamkniecie")
_ENGLISH = re.compile(r"Date([,;])Open\1High\1Low\1Close(?:\1Volume)?").fullmatch


_COLUMNS = {
    "symbol": ("<ticker>",),
    "period": ("<per>",),
    "time": ("<date>",),
    "open": ("<open>",),
    "high": ("<high>",),
    "low": ("<low>",),
    "close": ("<close>",),
    "volume": ("<vol>",),
}


class Bulk(Delimited):
    aliases = _COLUMNS
    date_format = "yyyymmdd"

    def keep(self, fields: list[str]) -> None:
        if (period := self.get(fields, "period")) != "D":
            raise Bad(
                "22007",
                f"{self.mapping['period']} is {shown(period)}: only daily bars (D) say when they closed",
                "Intraday bars: put date and time into one column and load as generic with --date-format, --time-zone "
                "and --interval.",
            )


_WEB_COLUMNS = {
    "time": ("date", "data"),
    "open": ("open", "otwarcie"),
    "high": ("high", "najwyzszy"),
    "low": ("low", "najnizszy"),
    "close": ("close", "zamkniecie"),
    "volume": ("volume", "wolumen"),
}


class Web(Delimited):
    aliases = _WEB_COLUMNS

    def __init__(self, source: Source, options: Options, clock: Clock) -> None:
        self.delimiter = ";" if ";" in source.header else ","
        super().__init__(source, options, clock)
        self._symbol = symbol_of(source, options)
        self.mapping = {"symbol": f"'{self._symbol}'", **self.mapping}

    def symbol(self, fields: list[str]) -> str:
        return self._symbol


def claims(source: Source) -> bool:
    first = source.names()[:1]
    return first == ["<ticker>"] or any(tuple(source.names(d)[:5]) == _POLISH for d in ",;")


def looks_like_many(source: Source) -> bool:
    """The header of the web's CSV in English is that of others too."""
    return _ENGLISH(source.header) is not None


def open_stooq(source: Source, options: Options, clock: Clock) -> Reader:
    return Bulk(source, options, clock) if source.names()[:1] == ["<ticker>"] else Web(source, options, clock)
