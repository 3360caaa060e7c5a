"""The unified bhavcopy (UDiFF) of NSE and BSE, from 2024 on: BhavCopy_NSE_CM_0_0_0_20240708_F_0000.csv, one header for
both. Prices are as traded. Only the cash market (CM) has bars.

NSE: the symbol is TckrSymb, series EQ. BSE: the symbol is the scrip code (FinInstrmId), all groups but debt (F, G).
"""

from __future__ import annotations

from engine_py.csvfile import Bad, split_line
from engine_py.dialects.base import OF_TEXT, LeftOut, Options, Reader, Source
from engine_py.dialects.delimited import Delimited
from engine_py.dialects.nse import EQUITY, of_series, security
from engine_py.dialects.times import Clock

_DEBT = frozenset(("F", "G"))


_COLUMNS = {
    "symbol": ("tckrsymb",),
    "series": ("sctysrs",),
    "source": ("src",),
    "segment": ("sgmt",),
    "time": ("traddt",),
    "open": ("opnpric",),
    "high": ("hghpric",),
    "low": ("lwpric",),
    "close": ("clspric",),
    "volume": ("ttltradgvol",),
}


class Udiff(Delimited):
    takes = OF_TEXT | {"series"}
    aliases = _COLUMNS
    zero_is_nothing = True
    exchange = "NSE"

    def keep(self, fields: list[str]) -> None:
        if (said := self.get(fields, "source")) != self.exchange:
            raise Bad("22P02", f"{self.mapping['source']} is {said!r} in a file of {self.exchange}")
        if self.get(fields, "segment") != "CM":
            raise LeftOut("other segment")
        self.keep_series(self.get(fields, "series"))

    def keep_series(self, series: str) -> None:
        of_series(series, self.options, EQUITY)

    def symbol(self, fields: list[str]) -> str:
        symbol = super().symbol(fields)
        return symbol if self._is_one_security() else security(symbol, self.get(fields, "series"))

    def _is_one_security(self) -> bool:
        """Whether the symbols tell securities apart by themselves, as those of a column that was named for it do."""
        return "symbol" in self.options.names


_OFBSE_COLUMNS = {**_COLUMNS, "symbol": ("fininstrmid",)}


class OfBse(Udiff):
    aliases = _OFBSE_COLUMNS
    exchange = "BSE"

    def _is_one_security(self) -> bool:
        return True  # a scrip code

    def keep_series(self, series: str) -> None:
        if self.options.series is None and series in _DEBT:
            raise LeftOut("other series")
        of_series(series, self.options, frozenset())


def claims_nse(source: Source) -> bool:
    return _exchange(source) == "NSE"


def claims_bse(source: Source) -> bool:
    return _exchange(source) == "BSE"


def _exchange(source: Source) -> str | None:
    """Whose file it is: the first row says."""
    names = source.names()
    if not {"traddt", "src", "tckrsymb", "clspric"} <= set(names):
        return None
    try:
        first = split_line(source.peek(1))
    except Bad:
        return "NSE"
    return first[names.index("src")] if len(first) == len(names) else "NSE"


def open_nse(source: Source, options: Options, clock: Clock) -> Reader:
    return Udiff(source, options, clock)


def open_bse(source: Source, options: Options, clock: Clock) -> Reader:
    return OfBse(source, options, clock)
