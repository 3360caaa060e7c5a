"""What all dialects share: the options of a load, how a file is recognised, and rows of text on their way to COPY.

A dialect is one module with a Reader, and one line in the table of dialects (see __init__). It knows where a source
keeps the parts of a bar and what it calls them; what a bar must be stays with csvfile and the staging.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import IO, Any, NamedTuple

from engine_py.bars import ADJUSTED_CLOSE, BAR
from engine_py.csvfile import (
    MAX_LINE,
    MAX_PROBLEMS,
    NUMBER,
    SYMBOL,
    Bad,
    Column,
    Problem,
    check_symbol,
    hint_beside,
    shown,
    split_line,
)
from engine_py.dialects.numbers import Style
from engine_py.dialects.times import Clock, TimeFormat
from engine_py.errors import UsageError

_is_number = re.compile(NUMBER, re.ASCII).fullmatch
_is_plain_symbol = re.compile(SYMBOL, re.ASCII).fullmatch
MAX_DOCUMENT = 64 << 20  # characters of a JSON document, which is read as a whole


ALL_TAKE = frozenset(("format", "symbol", "only", "adjusted"))
OF_TIMES = frozenset(("date_format", "time_zone", "interval"))
OF_TEXT = OF_TIMES | {"names", "decimal_comma", "thousands", "delimiter"}


class LeftOut(Exception):
    """This row is no bar that was asked for; the reason is counted, nothing is wrong."""


@dataclass(frozen=True)
class Options:
    """What the caller says of his files; what a dialect knows by itself need not be said."""

    format: str = "auto"
    symbol: str | None = None  # of every bar
    names: dict[str, str] = field(default_factory=dict)  # ours → theirs; '' reads none
    date_format: TimeFormat | None = None
    time_zone: str | None = None
    interval: int | None = None  # minutes from a bar's stated time to its close; 0 a day
    date: str | None = None  # of every bar
    decimal_comma: bool = False
    thousands: str | None = None
    delimiter: str | None = None
    series: frozenset[str] | None = None  # empty: all
    only: frozenset[str] | None = None  # these symbols
    adjusted: bool | None = None

    def refuse_all_but(self, taken: frozenset[str], form: str) -> None:
        """Raise UsageError for what was said and means nothing to a format."""
        for option in fields(self):
            if option.name in ALL_TAKE or option.name in taken:
                continue
            said = getattr(self, option.name)
            if said is not None and said is not False and said != {}:
                name = "--map" if option.name == "names" else "--" + option.name.replace("_", "-")
                raise UsageError(f"{name} means nothing to the format {form}")

    @property
    def style(self) -> Style | None:
        """How numbers are written, if it was said."""
        return Style(self.thousands, decimal_comma=self.decimal_comma) if self.thousands or self.decimal_comma else None


@dataclass
class Source:
    """One file, opened: its name, its text, and what has been read of it already."""

    name: str  # for messages
    stem: str  # its name without folder and endings; '' for a stream
    text: IO[str]
    ahead: list[str] = field(default_factory=list)
    binary: IO[bytes] | None = None  # for what is no text
    is_parquet: bool = False

    def peek(self, number: int) -> str:
        """Line `number`, from 0, without taking it; '' past the end."""
        while len(self.ahead) <= number and not self.is_parquet:
            line = self.text.readline(MAX_LINE)
            if not line:
                return ""
            self.ahead.append(line)
        return "" if self.is_parquet else self.ahead[number]

    @property
    def header(self) -> str:
        return self.peek(0).removeprefix("\ufeff").rstrip("\r\n")

    def names(self, delimiter: str = ",") -> list[str]:
        """The names of the first line, in lower case."""
        try:
            return [name.lower() for name in split_line(self.header, delimiter)]
        except Bad:
            return []

    def lines(self) -> Iterator[tuple[int, str]]:
        """Every line with its number, from the first on; blank ones are counted and passed over."""
        number = 0
        while self.ahead or (line := self.text.readline(MAX_LINE)):
            line = self.ahead.pop(0) if self.ahead else line
            number += 1
            if line == "\n":  # there may be millions
                continue
            if len(line) >= MAX_LINE and not line.endswith("\n"):
                while (rest := self.text.readline(MAX_LINE)) and not rest.endswith("\n"):
                    pass
            yield number, line

    def document(self) -> str:
        """All of it."""
        text = "".join(self.ahead) + self.text.read(MAX_DOCUMENT)
        if len(text) >= MAX_DOCUMENT:
            raise Bad("54000", f"a JSON document longer than {MAX_DOCUMENT >> 20} MB")
        return text.removeprefix("\ufeff")


def require_said(options: Options, has_adjusted: bool) -> None:
    """Raise UsageError for prices beside adjusted ones, of which nobody said which to take."""
    if has_adjusted and options.adjusted is None:
        raise UsageError(
            "there is a close and an adjusted close: which prices are meant?",
            hint="Say it: --adjusted takes all prices to the level of the adjusted close, --raw those that are there.",
        )


class Bar(NamedTuple):
    """A bar as its source has it, in words; `when` has gone through the clock."""

    symbol: str
    when: str
    prices: Sequence[str]  # open, high, low, close
    volume: str = ""
    adj_close: str = ""


class Rows(ABC):
    """The rows of one source as lines for COPY, and the problems found on the way; raws() says what its rows are.

    `takes`: the options that it heeds, beside those that all do.
    Numbers count from 1: lines of a text, candles of a JSON document, rows of a table; times `step` where a line holds
    several rows.
    """

    takes: frozenset[str] = frozenset()

    def __init__(self, options: Options, clock: Clock, *, reads_adjusted: bool = False) -> None:
        self.options, self.clock = options, clock
        self.problems: list[Problem] = []
        self.problem_count = 0
        self.left_out: Counter[str] = Counter()
        self.lines, self.step = 0, 1
        self.hint: str | None = None
        self.mapping: dict[str, str] = {}  # ours → theirs, for people
        self.columns: list[Column] = [*BAR, *([ADJUSTED_CLOSE] if reads_adjusted else [])]
        self._needs_adjusted = reads_adjusted and bool(options.adjusted)
        if options.symbol is not None:
            check_symbol(options.symbol)

    @abstractmethod
    def raws(self) -> Iterator[tuple[int, Any]]: ...

    def copy_lines(self, base: int = 0) -> Iterator[str]:
        """`base` + line number and the fields in the order of `columns`, as Table.copy_lines has them."""
        some = False
        for number, raw in self.raws():
            self.lines = max(self.lines, number)
            try:
                texts = self.texts(raw)
            except LeftOut as reason:
                self.left_out[str(reason)] += 1
                continue
            except Bad as bad:
                self.note(number, bad)
                continue
            some = True
            yield f"{base + number},{','.join(texts)}\n"
        self.hint = hint_beside(self.hint, some)

    @abstractmethod
    def texts(self, raw: Any) -> Sequence[str]:
        """The fields of a row, in the order of `columns`. Raises Bad or LeftOut."""

    def note(self, number: int, bad: Bad) -> None:
        self.problem_count += 1
        self.hint = self.hint or bad.hint
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(number, bad.code, bad.message))

    def stamp(self, text: str, name: str) -> str:
        try:
            return self.clock.stamp(text)
        except Bad as bad:
            joint = " " if bad.message.startswith(("is ", "has ")) else ": "
            raise type(bad)(bad.code, f"{name}{joint}{bad.message}", bad.hint) from None


class Reader(Rows):
    """Bars. A dialect says with bar() what one of its rows means; bar() may raise Bad or LeftOut."""

    @abstractmethod
    def bar(self, raw: Any) -> Bar: ...

    def texts(self, raw: Any) -> Sequence[str]:
        bar = self.bar(raw)
        if self.options.only is not None and bar.symbol not in self.options.only:
            raise LeftOut("symbol not asked for")
        texts = _checked(bar, self.mapping)
        if self._needs_adjusted and not bar.adj_close:
            raise Bad("22P02", f"{self.mapping.get('adj_close', 'adj_close')} is empty")
        return texts[: len(self.columns)]


def _checked(bar: Bar, mapping: dict[str, str]) -> tuple[str, ...]:
    symbol, when, prices, volume, adjusted = bar
    for column, text in zip(BAR[2:6], prices, strict=True):
        if not _is_number(text):
            raise Bad("22P02", f"{mapping.get(column.name, column.name)} is not {column.meaning}: {shown(text)}")
    for name, text in (("volume", volume), ("adj_close", adjusted)):
        if text and not _is_number(text):
            hint = None
            if name == "volume" and text[-1:] in "KMBkmb":
                hint = "A volume that is rounded like this cannot be stored: leave it out with --map volume=."
            raise Bad("22P02", f"{mapping.get(name, name)} is not a finite decimal number: {shown(text)}", hint)
    return escaped(symbol), when, *prices, volume, adjusted


def escaped(symbol: str) -> str:
    """A symbol as COPY reads it. Raises Bad."""
    if _is_plain_symbol(symbol):
        return symbol
    check_symbol(symbol)
    return symbol.replace("\\", "\\\\").replace(",", "\\,")


class Dialect(NamedTuple):
    """A line of the table. `prices`: what is known of them: RAW, ADJUSTED, or '' where the caller must say.

    `whole_units`: of a market of shares; an instrument that comes with such a file trades in whole units.
    """

    name: str
    what: str
    prices: str
    claims: Callable[[Source], bool]
    open: Callable[[Source, Options, Clock], Reader]
    whole_units: bool = False


RAW, UNKNOWN, SAID = "raw", "", "as said"  # as said: raw, unless --adjusted


def symbol_of(source: Source, options: Options) -> str:
    """The symbol of a file that does not name one: the one given, or else the file's name."""
    symbol = options.symbol if options.symbol is not None else source.stem
    if not symbol:
        raise UsageError("the file names no symbol", hint="Say it: --symbol NAME.")
    check_symbol(symbol)
    return symbol
