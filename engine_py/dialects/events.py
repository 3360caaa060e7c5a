"""Splits and dividends as sources write them: Yahoo's files of events, NSE's list of corporate actions.

What is read is what the words say clearly; a purpose that is not understood is listed and nothing is made of it.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from engine_py.csvfile import DATE, NUMBER, Bad, Column, check_time, shown, split_line
from engine_py.dialects.base import LeftOut, Options, Rows, Source, escaped, symbol_of
from engine_py.dialects.nse import EQUITY, of_series, security
from engine_py.dialects.times import DAY_MONTH_YEAR, Clock
from engine_py.dialects.yahoo import day_of

_MOST = 1_000_000  # of a ratio, as corporate_action has it
_NONE = ("", "-", "null", "nan", "0")
_is_number = re.compile(NUMBER, re.ASCII).fullmatch


class Action(NamedTuple):
    """A split (new units : old units) or a dividend."""

    ratio: Fraction | None = None
    amount: Decimal | None = None


class Events(Rows):
    """Rows of corporate_action; of one line up to `step`."""

    def __init__(self, source: Source, options: Options, columns: Sequence[Column]) -> None:
        super().__init__(options, Clock(lambda text: None, is_always=True))
        self.columns = list(columns)
        self.notes: list[str] = []  # what was not understood
        self._source = source
        self._header = split_line(source.header)
        self._at = {name.lower(): place for place, name in enumerate(self._header)}
        self.step = 2

    def raws(self) -> Iterator[tuple[int, Any]]:
        for number, line in self._source.lines():
            if number == 1:
                continue
            self.lines = number * self.step + 1
            try:
                fields = split_line(line.removeprefix("\ufeff"))
                if not any(fields) or fields == self._header:
                    continue
                if len(fields) != len(self._header):
                    raise Bad("22P04", f"{len(fields)} fields where the header has {len(self._header)}")
                found = self.actions(number, fields)
            except LeftOut as reason:
                self.left_out[str(reason)] += 1
            except Bad as bad:
                self.note(number * self.step, bad)
            else:
                yield from enumerate(found, number * self.step)

    @abstractmethod
    def actions(self, number: int, fields: list[str]) -> list[tuple[str, str, Action]]:
        """Symbol, ex-date and action of each that a line holds. Raises Bad or LeftOut."""

    def texts(self, raw: Any) -> Sequence[str]:
        symbol, ex_date, action = raw
        if action.ratio is not None:
            ratio = (str(action.ratio.numerator), str(action.ratio.denominator))
            return escaped(symbol), ex_date, "SPLIT", *ratio, "", ""
        # when it was paid is not in these files: on the ex-date, as the bundled ones
        return escaped(symbol), ex_date, "DIVIDEND", "", "", format(action.amount, "f"), ex_date


class OfYahoo(Events):
    """Date,Stock Splits (5:1, 5/1, 5.0) and Date,Dividends; or both, beside prices, as yfinance writes them."""

    def __init__(self, source: Source, options: Options, columns: Sequence[Column]) -> None:
        super().__init__(source, options, columns)
        self._symbol = symbol_of(source, options)

    def actions(self, number: int, fields: list[str]) -> list[tuple[str, str, Action]]:
        ex_date = day_of(fields[self._at["date"]])
        if not re.fullmatch(DATE, ex_date, re.ASCII):
            raise Bad("22007", f"Date is not a date like 2024-01-31: {shown(ex_date)}")
        check_time(ex_date)
        found = []
        if (text := self._given(fields, "stock splits")) is not None:
            found.append(Action(ratio=_ratio(text)))
        if (text := self._given(fields, "dividends")) is not None:
            if not _is_number(text):
                raise Bad("22P02", f"Dividends is not a finite decimal number: {shown(text)}")
            found.append(Action(amount=Decimal(text)))
        if not found:
            raise LeftOut("neither split nor dividend")
        return [(self._symbol, ex_date, action) for action in found]

    def _given(self, fields: list[str], name: str) -> str | None:
        text = fields[self._at[name]] if name in self._at else ""
        return None if re.sub(r"\.0*$", "", text.lower()) in _NONE else text


def _ratio(text: str) -> Fraction:
    """New units : old units."""
    try:
        if found := re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*[:/]\s*(\d{1,9}(?:\.\d{1,9})?)", text, re.ASCII):
            return _exact(Fraction(found[1]) / Fraction(found[2]), text)
        if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", text, re.ASCII):
            return _exact(Fraction(text), text)
    except ZeroDivisionError:
        pass
    raise Bad("22P02", f"it is not a ratio like 2:1: {shown(text)}")


def _exact(ratio: Fraction, text: str) -> Fraction:
    if not ratio > 0 or max(ratio.numerator, ratio.denominator) > _MOST:
        raise Bad("22P02", f"it is not a ratio of two whole numbers up to a million: {shown(text)}")
    return ratio


class OfNse(Events):
    """NSE's CSV of corporate actions: SYMBOL, SERIES, PURPOSE, EX-DATE among others."""

    def actions(self, number: int, fields: list[str]) -> list[tuple[str, str, Action]]:
        of = {name: fields[place] for name, place in self._at.items()}
        of_series(series := of.get("series", "EQ"), self.options, EQUITY)
        found, rest = parse_purpose(of["purpose"])
        if rest:
            self.left_out["purpose not understood"] += 1
            what = ", the rest of it was read" if found else ""
            self.notes.append(f"line {number}: not understood{what}: {of['symbol']} {shown(' / '.join(rest))}")
        elif not found:
            raise LeftOut("neither split nor dividend")
        if not found:
            return []
        ex_date = DAY_MONTH_YEAR(of["ex-date"])
        if not ex_date:
            raise Bad("22007", f"EX-DATE is not a date like 02-Jan-2024: {shown(of['ex-date'])}")
        check_time(ex_date)
        return [(security(of["symbol"], series), ex_date, action) for action in found]


_MONEY = r"r[se]\.? ?(\d{1,9}(?:\.\d{1,6})?)"
_EACH = r"(?: per (?:share|sh|unit))?"
_NOTHING = re.compile(r"(?:annual|extra ?-?ordinary) general meeting|agm|egm").fullmatch
_DIVIDEND = re.compile(
    rf"(?:(?:interim|final|special|first|second|third|fourth|annual) )*dividend(?: -)? {_MONEY}{_EACH}"
).fullmatch
_BONUS = re.compile(r"bonus(?: issue)?(?: -)? (\d{1,5}) ?: ?(\d{1,5})").fullmatch
_SPLIT = re.compile(
    r"(?:face value |fv |stock |share )?(?:split|sub-?division|consolidation)(?: \((?:sub-?division|consolidation)\))?"
    rf"(?: of (?:shares|face value|equity shares))?(?: -)?(?: from)? {_MONEY}{_EACH} to {_MONEY}{_EACH}"
).fullmatch


def parse_purpose(text: str) -> tuple[list[Action], list[str]]:
    """What an NSE purpose says, at most one split and one dividend, and the parts of it that are not understood.

    Bonus 1:1 is one new share for each one held, two for one. A split is told by its face values: from Rs 10 to Rs 2 is
    five for one. Dividends of one purpose add up.
    """
    words = " ".join(re.sub(r"/\s*-(?!\s*\d)", " ", text.lower()).split())
    ratio, amount, rest = Fraction(1), Decimal(0), []
    for part in re.split(r"\s*[/&+]\s*", words):
        if not part or _NOTHING(part):
            continue
        if found := _DIVIDEND(part):
            amount += Decimal(found[1])
        elif (found := _BONUS(part)) and int(found[2]):
            ratio *= Fraction(int(found[1]) + int(found[2]), int(found[2]))
        elif (found := _SPLIT(part)) and Fraction(found[1]) and Fraction(found[2]):
            ratio *= Fraction(found[1]) / Fraction(found[2])
        else:
            rest.append(part)
    actions = [Action(ratio=_exact(ratio, text))] if ratio != 1 else []
    return actions + ([Action(amount=amount)] if amount else []), rest


def reader_of(source: Source, options: Options, columns: Sequence[Column]) -> tuple[str, Events] | None:
    """The dialect of a file of events, and its rows; None for a plain one."""
    names = set(source.names())
    if {"symbol", "purpose", "ex-date"} <= names:
        return "nse", OfNse(source, options, columns)
    if "date" in names and {"stock splits", "dividends"} & names and "symbol" not in names:
        return "yahoo", OfYahoo(source, options, columns)
    return None
