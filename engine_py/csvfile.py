"""CSV files of any size as lines for COPY, in constant memory, with the line number of everything that is wrong.

Only the shape of the text is judged here, so that the server can read whatever comes through; what the values mean is
for SQL to judge.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from itertools import chain
from typing import IO, NamedTuple

MAX_LINE = 1 << 20
MAX_PROBLEMS = 20  # kept and shown; all are counted

# Bounded digits and exponents: whatever matches is a value that the server can read, however large.
NUMBER = r"[-+]?(?:\d{1,40}(?:\.\d{0,60})?|\.\d{1,60})(?:[eE][-+]?\d{1,2})?"
DATE = r"\d{4}-\d\d-\d\d"
# RFC 3339, never naive. Past the microsecond only zeros: rounding would move the time. No market is 15 hours off UTC.
INSTANT = DATE + r"[T ]\d\d:\d\d:\d\d(?:\.\d{1,6}0{0,3})?(?:Z|[-+](?:0\d|1[0-4]):[0-5]\d)"
SYMBOL = r"[!#-+\--\[\]-~]{1,64}"  # at first sight: printable ASCII to which neither CSV nor COPY gives a meaning
_IGNORED = r'[^,"\n\0\ud800-\udfff]*'
_UNDECODABLE = re.compile("[\ud800-\udfff]")


class Problem(NamedTuple):
    """What is wrong with one line; `code` is the SQLSTATE that the server has for it."""

    line: int
    code: str
    message: str
    file: str = ""  # where several were loaded together


class Bad(Exception):
    """This line is wrong. `hint`: what to do, where the message does not say it."""

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        self.code, self.message, self.hint = code, message, hint


class Column(NamedTuple):
    """A column to read: its name, the names its header may have, the shape of its text, and what that shape means.

    `hint`: what to do about a file without it.
    """

    name: str
    aliases: tuple[str, ...]
    shape: str
    meaning: str
    code: str = "22P02"
    optional: bool = False
    hint: str | None = None


class Table:
    """The rows of one CSV file, and the problems found on the way. Raises Bad if the header is wrong.

    `times`: for columns of time, a check that returns None to keep the text, or the text to use instead.
    `ahead`: lines that were taken from the stream before, the header the first of them.
    """

    takes: frozenset[str] = frozenset()  # of the options for dialects

    def __init__(
        self,
        stream: IO[str],
        columns: tuple[Column, ...],
        times: Mapping[str, Callable[[str], str | None]],
        ahead: list[str] | None = None,
    ) -> None:
        self.problems: list[Problem] = []
        self.problem_count = 0
        self.left_out: Counter[str] = Counter()
        self.lines, self.step = 1, 1
        self.hint: str | None = None
        self._next_line = partial(stream.readline, MAX_LINE)
        self._ahead = list(ahead or [])
        self._first = self._ahead.pop(0) if self._ahead else self._next_line()
        self._header = self._read_header(columns)
        self.columns = [column for column in self._header if column]
        called = [name for name, column in zip(self.names, self._header, strict=True) if column]
        self._times = [(i, called[i], times[c.name]) for i, c in enumerate(self.columns) if c.name in times]
        self.mapping = {column.name: name for column, name in zip(self.columns, called, strict=True)}
        shapes = (f"({column.shape})" if column else _IGNORED for column in self._header)
        self._well_formed = re.compile(",".join(shapes) + "\n", re.ASCII).fullmatch

    def _read_header(self, columns: tuple[Column, ...]) -> list[Column | None]:
        line = self._first.removeprefix("\ufeff")
        self._require_whole(line)
        self._titles = split_line(line)
        self.names = names = [name.lower() for name in self._titles]
        header = [next((c for c in columns if name in c.aliases), None) for name in names]
        for column in columns:
            if header.count(column) > 1:
                raise Bad("42701", f"the header has more than one of {', '.join(column.aliases)}")
            if column not in header and not column.optional:
                missing = f"the header has no column {' or '.join(column.aliases)}; it has {shown(line.strip())}"
                raise Bad("42703", missing, _header_hint(names, header) or column.hint)
        if repeated := sorted({name for name in names if name and names.count(name) > 1}):
            raise Bad("42701", f"the header repeats {', '.join(repeated)}")
        return header

    def copy_lines(self, base: int = 0) -> Iterator[str]:
        """`line number,field,...` in the order of `columns`, for COPY's text format with ',' as its delimiter.

        `base` is added to the numbers, for files that are copied one after the other.
        """
        well_formed, times, whole = self._well_formed, self._times, None not in self._header
        number, some = base + 1, False
        for number, line in enumerate(chain(self._ahead, iter(self._next_line, "")), base + 2):
            if line == "\n":  # there may be millions
                continue
            try:
                match = well_formed(line)
                fields = match.groups() if match else self._mend(line)
                if not fields:
                    continue
                as_it_came = whole and match is not None
                for i, name, check in times:
                    try:
                        replacement = check(fields[i])
                    except Bad as bad:
                        raise Bad(bad.code, f"{name}: {bad.message}", bad.hint) from None
                    if replacement:
                        fields = (*fields[:i], replacement, *fields[i + 1 :])
                        as_it_came = False
            except Bad as bad:
                self.problem_count += 1
                self.hint = self.hint or bad.hint
                if len(self.problems) < MAX_PROBLEMS:
                    self.problems.append(Problem(number - base, bad.code, bad.message))
                continue
            some = True
            yield f"{number},{line}" if as_it_came else f"{number},{','.join(fields)}\n"
        self.lines = number - base
        self.hint = hint_beside(self.hint, some)

    def _mend(self, line: str) -> tuple[str, ...]:
        """The fields of a line that is unusual or wrong, or () if it is blank."""
        self._require_whole(line)
        texts = split_line(line.removeprefix("\ufeff"))
        if not any(texts):
            return ()
        if texts == self._titles:  # files put end to end
            self.left_out["header repeated"] += 1
            return ()
        if len(texts) != len(self._header):
            raise Bad("22P04", f"{len(texts)} fields where the header has {len(self._header)}")
        named = zip(self._header, self.names, texts, strict=True)
        return tuple(_mend_field(column, name, text) for column, name, text in named if column)

    def _require_whole(self, line: str) -> None:
        if len(line) < MAX_LINE or line.endswith("\n"):
            return
        while (rest := self._next_line()) and not rest.endswith("\n"):
            pass
        raise Bad("54000", f"longer than {MAX_LINE} characters")


def check_time(text: str) -> None:
    """The shape is right; is there such a day and hour?"""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise Bad("22008", f"there is no such time: {text}") from None


def check_symbol(text: str) -> None:
    if not (text.isprintable() and 0 < len(text) <= 64):
        raise Bad("22P02", f"symbol is not 1 to 64 printable characters: {shown(text)}")


def check_field(column: Column, text: str, name: str | None = None) -> None:
    """`name`: what the file calls the column."""
    if column.shape is SYMBOL:
        check_symbol(text)
    elif not re.fullmatch(column.shape, text, re.ASCII):
        hint = time_hint(text) if column.code == "22007" else None
        raise Bad(column.code, f"{name or column.name} is not {column.meaning}: {shown(text)}", hint)


def time_hint(text: str) -> str | None:
    """What a text that is no time looks like."""
    if re.match(rf"{DATE}[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?$", text, re.ASCII):
        return "A time has its offset; if none is written, say whose clock it is: --time-zone Asia/Kolkata."
    if re.fullmatch(r"[1-9]\d{4}(?:\.\d+)?", text):
        return "It looks like a spreadsheet's day number: format the column as yyyy-mm-dd and save it again."
    if re.fullmatch(r"\d{9,10}", text):
        return "It looks like seconds since 1970: --date-format epoch."
    if re.fullmatch(r"\d{12,13}", text):
        return "It looks like milliseconds since 1970: --date-format epoch-ms."
    if re.fullmatch(r"\d{8}", text):
        return "--date-format yyyymmdd?"
    if found := re.fullmatch(r"\d{1,2}([-/. ])[A-Za-z]{3}\1\d{4}", text):
        form = f"dd{found[1]}mmm{found[1]}yyyy"
        return f"--date-format {form!r}?" if found[1] == " " else f"--date-format {form}?"
    if found := re.fullmatch(r"(\d{1,2})([-/.])(\d{1,2})\2\d{4}", text):
        first, second = f"dd{found[2]}mm{found[2]}yyyy", f"mm{found[2]}dd{found[2]}yyyy"
        if int(found[1]) > 12:
            return f"--date-format {first}?"
        return f"--date-format {second}?" if int(found[3]) > 12 else f"Say which: --date-format {first} or {second}."
    return None


def hint_beside(hint: str | None, others: bool) -> str | None:
    """The hint, but that another format of dates would break the other lines, where they could be read."""
    if hint and others and "--date-format" in hint:
        return "These dates are unlike those of the other lines: correct them, or leave the lines out with --skip-bad."
    return hint


def delimiter_hint(names: list[str], delimiter: str = ",") -> str | None:
    """What parts the names of a header that holds not one of those that were sought."""
    parts = {";": "';'", "\t": "tab", "|": "'|'"}
    found = next((d for d in parts if d != delimiter and any(d in name for name in names)), None)
    return f"The fields seem to be parted by something else: --delimiter {parts[found]}." if found else None


def _header_hint(names: list[str], header: list[Column | None]) -> str | None:
    """What may be wrong with a header in which not all was found."""
    if any(header):
        return None
    return delimiter_hint(names) or "The first line names the columns."


def _mend_field(column: Column, name: str, text: str) -> str:
    check_field(column, text, name)
    return text.replace("\\", "\\\\").replace(",", "\\,") if column.shape is SYMBOL else text


def split_line(line: str, delimiter: str = ",") -> list[str]:
    """The trimmed fields of one line. A quoted field ends on its line: a lost quote costs one line, not the file."""
    if _UNDECODABLE.search(line):
        raise Bad("22021", "not valid UTF-8")
    if "\0" in line:
        raise Bad("22021", "holds a NUL byte")
    try:
        return [text.strip() for text in next(csv.reader([line.rstrip("\r\n")], strict=True, delimiter=delimiter), [])]
    except csv.Error as exc:
        raise Bad("22P04", f"a quote is not closed on its line, or a field is too long ({exc})") from None


def shown(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:37] + "...")
