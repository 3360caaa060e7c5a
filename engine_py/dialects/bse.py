"""BSE's bhavcopy until July 2024: EQ020124.CSV, or with ISINs EQ_ISINCODE_020124.CSV, in which the date is a column.

Prices are as traded. A symbol is the scrip code, as in the later format; equities (type Q) are read, unless groups are
asked for.
"""

from __future__ import annotations

import re

from engine_py.csvfile import DATE, Bad
from engine_py.dialects.base import OF_TEXT, LeftOut, Options, Reader, Source
from engine_py.dialects.delimited import Delimited
from engine_py.dialects.nse import of_series
from engine_py.dialects.times import COMPACT, DAY_MONTH_YEAR, Clock
from engine_py.errors import UsageError

_COLUMNS = {
    "symbol": ("sc_code",),
    "series": ("sc_group",),
    "type": ("sc_type",),
    "time": ("trading_date",),
    "open": ("open",),
    "high": ("high",),
    "low": ("low",),
    "close": ("close",),
    "volume": ("no_of_shrs",),
}


class Bhavcopy(Delimited):
    takes = OF_TEXT | {"series", "date"}
    aliases = _COLUMNS
    optional = Delimited.optional | {"time", "type"}
    zero_is_nothing = True

    def __init__(self, source: Source, options: Options, clock: Clock) -> None:
        super().__init__(source, options, clock)
        self._date = options.date or _date_of(source.stem)
        if options.date and not re.fullmatch(DATE, options.date, re.ASCII):
            raise UsageError(f"{options.date!r} is not a date like 2024-01-31")
        if self._date is None and "time" not in self.mapping:
            raise Bad(
                "22007",
                f"the file does not say its date, nor does its name {source.name or '-'}",
                "It is called EQddmmyy.CSV as BSE has it; or say --date 2024-01-31.",
            )

    def keep(self, fields: list[str]) -> None:
        if self.options.series is not None:
            of_series(self.get(fields, "series"), self.options, frozenset())
        elif self.get(fields, "type") not in ("", "Q"):
            raise LeftOut("no equity")

    def when(self, fields: list[str]) -> str:
        text = self.get(fields, "time")
        stated = _short(text) if text else self._date
        if stated is None:
            raise Bad("22007", f"{self.mapping.get('time', 'date')} is not a date like 02-Jan-24: {text or 'empty'}")
        if self._date and stated != self._date:
            raise Bad("22007", f"{self.mapping['time']} says {stated}, the file's name or --date {self._date}")
        return self.clock.date(stated)


def _date_of(stem: str) -> str | None:
    """EQ020124 or EQ_ISINCODE_020124, whatever comes after."""
    found = re.match(r"EQ(?:_ISINCODE_)?(\d\d)(\d\d)(\d\d)(?!\d)", stem, re.I | re.ASCII)
    return f"{_year(found[3])}-{found[2]}-{found[1]}" if found else None


def _short(text: str) -> str | None:
    if found := re.fullmatch(r"(\d\d)-([A-Za-z]{3})-(\d\d)", text, re.ASCII):
        text = f"{found[1]}-{found[2]}-{_year(found[3])}"
    return DAY_MONTH_YEAR(text) or COMPACT(text)


def _year(two: str) -> str:
    """Of two digits: BSE's electronic trading began in 1995."""
    return ("19" if two >= "90" else "20") + two


def claims(source: Source) -> bool:
    return {"sc_code", "no_of_shrs", "open", "close"} <= set(source.names())


def open_bhavcopy(source: Source, options: Options, clock: Clock) -> Reader:
    return Bhavcopy(source, options, clock)
