"""What a caller says of his files, in the words of Python or of the command line, made into Options."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date as Date

from engine_py.csvfile import DATE
from engine_py.dialects.base import Options
from engine_py.dialects.generic import MAPPABLE
from engine_py.dialects.numbers import SEPARATORS
from engine_py.dialects.times import TimeFormat, interval_minutes, time_format
from engine_py.errors import PapertickError, UsageError

_TIME = ("date", "logical_time")  # other names for ours


def options_of(
    *,
    format: str = "auto",
    symbol: str | None = None,
    names: Mapping[str, str] | None = None,
    date_format: str | TimeFormat | None = None,
    time_zone: str | None = None,
    interval: str | int | None = None,
    date: str | Date | None = None,
    decimal_comma: bool = False,
    thousands: str | None = None,
    delimiter: str | None = None,
    series: str | Iterable[str] | None = None,
    only: str | Iterable[str] | None = None,
    adjusted: bool | None = None,
) -> Options:
    """`series` and `only`: several, or one text with commas; 'all' series. Raises UsageError."""
    day = date.isoformat() if isinstance(date, Date) else date
    if day is not None and not re.fullmatch(DATE, day, re.ASCII):
        raise UsageError(f"{day!r} is not a date like 2024-01-31")
    if thousands is not None and thousands not in SEPARATORS:
        raise UsageError(f"{thousands!r} is no name of a separator", hint=f"One of {', '.join(SEPARATORS)}.")
    options = Options(
        format=format,
        symbol=symbol,
        names=_names(names or {}),
        date_format=time_format(date_format) if isinstance(date_format, str) else date_format,
        time_zone=time_zone,
        interval=interval_minutes(interval) if isinstance(interval, str) else interval,
        date=day,
        decimal_comma=decimal_comma,
        thousands=thousands,
        delimiter=_delimiter(delimiter),
        series=series_of(series),
        only=_several(only),
        adjusted=adjusted,
    )
    _ = options.style  # raises for one that contradicts itself
    return options


def _names(said: Mapping[str, str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for name, theirs in said.items():
        ours = "time" if name.lower() in _TIME else name.lower()
        if ours not in MAPPABLE or ours in names:
            raise UsageError(f"{name!r} is no name of ours, or comes twice", hint=f"Ours: {', '.join(MAPPABLE)}.")
        names[ours] = theirs.strip()
    return names


def _delimiter(said: str | None) -> str | None:
    said = "\t" if said == "tab" else said
    if said is not None and (len(said) != 1 or said in '"\r\n\0'):
        raise UsageError("a delimiter is one character", hint="For a tab: --delimiter tab.")
    return said


def series_of(said: str | Iterable[str] | None) -> frozenset[str] | None:
    """Of a bhavcopy; 'all' is none in particular."""
    return frozenset() if said == "all" else _several(said)


def _several(said: str | Iterable[str] | None) -> frozenset[str] | None:
    if said is None:
        return None
    return frozenset(part.strip() for part in (said.split(",") if isinstance(said, str) else said) if part.strip())


_FLAGS = {
    "--adjusted": "adjusted=True",
    "--raw": "adjusted=False",
    "--map": "names",
    **{f"--{flag}": f"{flag.replace('-', '_')}=True" for flag in ("skip-bad", "dry-run", "strict", "decimal-comma")},
}
_VALUE = r"(?!(?:and|or|means)\b)(?:'[^']*'|[^\s,?'=]*[^\s,?'=.;])"
_MAPPED = re.compile(r"--map (\w+)=(\w*)")
_VALUED = re.compile(rf"--([a-z][a-z-]*)(?: ({_VALUE})(?: or ({_VALUE}))?)?")


def in_python(words: str) -> str:
    """`--time-zone Asia/Kolkata` as `time_zone="Asia/Kolkata"`; a whole command stays one."""
    if "papertick " in words:
        return words
    words = _MAPPED.sub(r'names={"\1": "\2"}', words)
    for flag, said in _FLAGS.items():
        words = re.sub(rf"{flag}\b(?!-)", said, words)
    return _VALUED.sub(_keyword, words)


def _keyword(found: re.Match[str]) -> str:
    name = found[1].replace("-", "_")
    values = ['"' + value.strip("'") + '"' for value in found.groups()[1:] if value]
    return f"{name}={' or '.join(values)}" if values else name


@contextmanager
def python_words() -> Iterator[None]:
    """Let what refuses name the options as a call in Python has them."""
    try:
        yield
    except PapertickError as error:
        error.hint = error.hint and in_python(error.hint)
        if isinstance(error, UsageError):
            error.args = (in_python(error.message),)
        raise
