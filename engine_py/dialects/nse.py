"""NSE's bhavcopy (cm02JAN2024bhav.csv, until July 2024) and its security-wise one with delivery (sec_bhavdata_full).

Prices are as traded. Of the several series of a symbol EQ is read, unless others are asked for.
"""

from __future__ import annotations

from engine_py.dialects.base import OF_TEXT, LeftOut, Options, Reader, Source
from engine_py.dialects.delimited import Delimited
from engine_py.dialects.times import Clock

EQUITY = frozenset(("EQ",))
# One share, whichever market it trades in: normal, trade for trade, blocks, institutional, SME; trusts have RR and IV.
_SHARES = frozenset(("EQ", "BE", "BZ", "BL", "BT", "IL", "SM", "ST", "SZ", "RR", "IV"))


_COLUMNS = {
    "symbol": ("symbol",),
    "series": ("series",),
    "time": ("timestamp", "date1"),
    "open": ("open", "open_price"),
    "high": ("high", "high_price"),
    "low": ("low", "low_price"),
    "close": ("close", "close_price"),
    "volume": ("tottrdqty", "ttl_trd_qnty"),
}


class Bhavcopy(Delimited):
    takes = OF_TEXT | {"series"}
    aliases = _COLUMNS
    date_format = "dd-mmm-yyyy"
    zero_is_nothing = True

    def keep(self, fields: list[str]) -> None:
        of_series(self.get(fields, "series"), self.options, EQUITY)

    def symbol(self, fields: list[str]) -> str:
        symbol = super().symbol(fields)
        return symbol if "symbol" in self.options.names else security(symbol, self.get(fields, "series"))


def security(symbol: str, series: str) -> str:
    """The symbol that is of one security: a company's bonds, warrants and partly paid shares trade under its own."""
    return symbol if not symbol or not series or series in _SHARES else f"{symbol}.{series}"


def of_series(series: str, options: Options, usual: frozenset[str]) -> None:
    wanted = usual if options.series is None else options.series
    if wanted and series not in wanted:
        raise LeftOut("other series")


def claims(source: Source) -> bool:
    names = set(source.names())
    return {"symbol", "series"} <= names and bool({"tottrdqty", "ttl_trd_qnty"} & names)


def open_bhavcopy(source: Source, options: Options, clock: Clock) -> Reader:
    return Bhavcopy(source, options, clock)
