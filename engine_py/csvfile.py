"""CSV files of any size as lines for COPY, in constant memory, with the line number of everything that is wrong.

Only the shape of the text is judged here, so that the server can read whatever comes through; what the values mean is
for SQL to judge.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

from engine_py.errors import InvalidError, UsageError

Source: TypeAlias = str | Path | IO[bytes] | IO[str]

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
    """

    def __init__(
        self, stream: IO[str], columns: tuple[Column, ...], times: Mapping[str, Callable[[str], str | None]]
    ) -> None:
        self.problems: list[Problem] = []
        self.problem_count = 0
        self._next_line = partial(stream.readline, MAX_LINE)
        self._header = self._read_header(columns)
        self.columns = [column for column in self._header if column]
        called = [name for name, column in zip(self.names, self._header, strict=True) if column]
        self._times = [(i, called[i], times[c.name]) for i, c in enumerate(self.columns) if c.name in times]
        shapes = (f"({column.shape})" if column else _IGNORED for column in self._header)
        self._well_formed = re.compile(",".join(shapes) + "\n", re.ASCII).fullmatch

    def _read_header(self, columns: tuple[Column, ...]) -> list[Column | None]:
        line = self._next_line().removeprefix("\ufeff")
        self._require_whole(line)
        self.names = names = [name.lower() for name in _split(line)]
        header = [next((c for c in columns if name in c.aliases), None) for name in names]
        for column in columns:
            if header.count(column) > 1:
                raise Bad("42701", f"the header has more than one of {', '.join(column.aliases)}")
            if column not in header and not column.optional:
                missing = f"the header has no column {' or '.join(column.aliases)}; it has {_shown(line.strip())}"
                raise Bad("42703", missing, _header_hint(names, header) or column.hint)
        if repeated := sorted({name for name in names if name and names.count(name) > 1}):
            raise Bad("42701", f"the header repeats {', '.join(repeated)}")
        return header

    def copy_lines(self) -> Iterator[str]:
        """`line number,field,...` in the order of `columns`, for COPY's text format with ',' as its delimiter."""
        well_formed, times, whole = self._well_formed, self._times, None not in self._header
        for number, line in enumerate(iter(self._next_line, ""), 2):
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
                        raise Bad(bad.code, f"{name}: {bad.message}") from None
                    if replacement:
                        fields = (*fields[:i], replacement, *fields[i + 1 :])
                        as_it_came = False
            except Bad as bad:
                self.problem_count += 1
                if len(self.problems) < MAX_PROBLEMS:
                    self.problems.append(Problem(number, bad.code, bad.message))
                continue
            yield f"{number},{line}" if as_it_came else f"{number},{','.join(fields)}\n"

    def _mend(self, line: str) -> tuple[str, ...]:
        """The fields of a line that is unusual or wrong, or () if it is blank."""
        self._require_whole(line)
        texts = _split(line)
        if not any(texts):
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
        raise Bad("22P02", f"symbol is not 1 to 64 printable characters: {_shown(text)}")


def check_field(column: Column, text: str, name: str | None = None) -> None:
    """`name`: what the file calls the column."""
    if column.shape is SYMBOL:
        check_symbol(text)
    elif not re.fullmatch(column.shape, text, re.ASCII):
        raise Bad(column.code, f"{name or column.name} is not {column.meaning}: {_shown(text)}")


def _header_hint(names: list[str], header: list[Column | None]) -> str | None:
    """What may be wrong with a header in which not all was found."""
    if any(header):
        return None
    if any(delimiter in name for name in names for delimiter in ";\t|"):
        return "Fields are separated by commas."
    return "The first line names the columns."


def _mend_field(column: Column, name: str, text: str) -> str:
    check_field(column, text, name)
    return text.replace("\\", "\\\\").replace(",", "\\,") if column.shape is SYMBOL else text


def _split(line: str) -> list[str]:
    """The trimmed fields of one line. A quoted field ends on its line: a lost quote costs one line, not the file."""
    if _UNDECODABLE.search(line):
        raise Bad("22021", "not valid UTF-8")
    if "\0" in line:
        raise Bad("22021", "holds a NUL byte")
    try:
        return [text.strip() for text in next(csv.reader([line.rstrip("\r\n")], strict=True), [])]
    except csv.Error as exc:
        raise Bad("22P04", f"a quote is not closed on its line, or a field is too long ({exc})") from None


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:37] + "...")


@contextmanager
def open_text(source: Source) -> Iterator[IO[str]]:
    """The text of a path, '-' (stdin) or an open file, unpacked if it is gzip.

    Bytes that are not UTF-8 come through as lone surrogates, so that their line can be named.
    """
    with ExitStack() as stack:
        try:
            binary: Any = source
            if isinstance(source, io.TextIOBase):
                yield binary
                return
            if source == "-":
                binary = sys.stdin.buffer
            elif isinstance(source, str | Path):
                binary = stack.enter_context(open(source, "rb"))
            # detach: a wrapper that is collected would close a stream that is not ours
            buffered = io.BufferedReader(binary)
            stack.callback(buffered.detach)
            packed = buffered.peek(2)[:2] == b"\x1f\x8b"
            unpacked: Any = gzip.GzipFile(fileobj=buffered, mode="rb") if packed else buffered
            text = io.TextIOWrapper(unpacked, encoding="utf-8", errors="surrogateescape")
            stack.callback(text.detach)
            yield text
        except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
            raise InvalidError(f"the gzip data is damaged: {exc}", code="22P04") from exc
        except OSError as exc:
            raise UsageError(f"cannot read {source}: {exc.strerror or exc}") from exc
