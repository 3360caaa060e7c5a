"""What Python gives a verb, as text that PostgreSQL reads in one way only."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, TypeAlias

from engine_py.csvfile import DATE, INSTANT
from engine_py.errors import UsageError

# A float stands for the shortest decimal that reads back as the same float: 0.1 is 0.1, and 0.1 + 0.2 is
# 0.30000000000000004. Where that is not what is meant, a Decimal or a text says it exactly.
Number: TypeAlias = int | str | Decimal | float
Moment: TypeAlias = datetime | date | str  # an instant with its offset; a date: the close of its session
Day: TypeAlias = date | str


class _Null(Enum):
    NULL = "null"

    def __repr__(self) -> str:
        return "NULL"


NULL: Final = _Null.NULL  # an argument that is null, where None leaves it to the engine's default

# Parameters of verbs that are instants; tests/test_library.py compares. from and to are dates in _OF_DATES.
_INSTANTS = frozenset({"logical_time", "good_till", "from", "to", "at", "since", "before", "expires_at"})
_OF_DATES = frozenset({"pause_sip", "resume_sip"})


def as_text(value: object) -> str | None:
    """The text of an argument; None for NULL."""
    if value is NULL:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if type(value).__name__ == "datetime64":  # numpy's, which never has a zone
        raise _naive(value, "Say which: pandas.Timestamp(value, tz='UTC').")
    if isinstance(value, float):
        return float.__repr__(value)  # also of numpy's, which calls itself by another name
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise _naive(value, "Say which: value.replace(tzinfo=UTC), or value.astimezone().")
        return value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"{value.days} days {value.seconds}.{value.microseconds:06d} seconds"
    if isinstance(value, Mapping | list | tuple):
        return _json(value)
    return str(value)


def argument_text(verb: str, name: str, value: object) -> str | None:
    """The text of a verb's argument. An instant says its offset, or the session's time zone would decide."""
    if is_instant(verb, name) and value is not NULL and not isinstance(value, datetime):
        text = as_text(value) or ""
        if not isinstance(value, str) or not re.fullmatch(INSTANT, text, re.ASCII):
            hint = "A date stands for a session's close in the methods of a run, and in tick_all."
            raise UsageError(f"{name} is not a time with its offset: {value!r}", hint=hint)
    return as_text(value)


def is_instant(verb: str, name: str) -> bool:
    return name in _INSTANTS and verb not in _OF_DATES


def moment_text(moment: Moment) -> tuple[str, bool]:
    """A moment as text, and whether that is a date."""
    text = as_text(moment) or ""
    is_date = bool(re.fullmatch(DATE, text, re.ASCII))
    if not is_date and not isinstance(moment, datetime) and not re.fullmatch(INSTANT, text, re.ASCII):
        raise UsageError(f"not a time: {moment!r}", hint="2024-01-02T16:00:00-05:00, offset included, or 2024-01-02.")
    return text, is_date


def _naive(value: object, hint: str) -> UsageError:
    return UsageError(f"{value} has no time zone", hint=hint)


def _json(value: Any) -> str:
    """JSON, numbers with the digits that they came with."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(name))}: {_json(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_json, value)) + "]"
    if value is None or isinstance(value, str | bool):
        return json.dumps(value)
    return as_text(value) or "null"
