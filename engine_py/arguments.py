"""What Python gives a verb, as text that PostgreSQL reads in one way only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, TypeAlias

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


def as_text(value: object) -> str | None:
    """The text of an argument; None for NULL."""
    if value is NULL:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return float.__repr__(value)  # also of numpy's, which calls itself by another name
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise UsageError(
                f"{value} has no time zone", hint="Say which: value.replace(tzinfo=UTC), or value.astimezone()."
            )
        return value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"{value.days} days {value.seconds}.{value.microseconds:06d} seconds"
    if isinstance(value, Mapping | list | tuple):
        return _json(value)
    return str(value)


def _json(value: Any) -> str:
    """JSON, numbers with the digits that they came with."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(name))}: {_json(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_json, value)) + "]"
    if value is None or isinstance(value, str | bool):
        return json.dumps(value)
    return as_text(value) or "null"
