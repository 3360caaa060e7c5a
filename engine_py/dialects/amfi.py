"""AMFI's NAVs: NAVAll.txt and the history report, whatever columns they have this year; found by their names.

A NAV is a bar of one price without volume. The lines between, of categories and fund houses, are headings. A scheme
without a NAV (N.A., 0) has no bar, nor has a date on which the feed's calendar has no session: liquid funds have NAVs
on Sundays too. The symbol is the scheme code; --map symbol='ISIN Div Payout/ ISIN Growth' takes another column.
"""

from __future__ import annotations

from engine_py.bars import NoSession
from engine_py.dialects.base import LeftOut, Options, Reader, Source
from engine_py.dialects.delimited import NOTHING, Delimited
from engine_py.dialects.times import Clock

_COLUMNS = {
    "symbol": ("scheme code",),
    "time": ("date",),
    "price": ("net asset value",),
}


class Nav(Delimited):
    aliases = _COLUMNS
    delimiter = ";"
    date_format = "dd-mmm-yyyy"
    thousands = "comma"
    zero_is_nothing = True

    def is_heading(self, fields: list[str]) -> bool:
        return len(fields) == 1

    def symbol(self, fields: list[str]) -> str:
        symbol = super().symbol(fields)
        if symbol.lower() in NOTHING:
            raise LeftOut("no symbol")
        return symbol

    def when(self, fields: list[str]) -> str:
        try:
            return super().when(fields)
        except NoSession:
            raise LeftOut("no session on its date") from None


def claims(source: Source) -> bool:
    return {"scheme code", "net asset value", "date"} <= set(source.names(";"))


def open_navs(source: Source, options: Options, clock: Clock) -> Reader:
    return Nav(source, options, clock)
