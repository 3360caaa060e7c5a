"""What the commands print: one JSON document, or tables of plain text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from engine_py.errors import PapertickError, printable


def to_json(document: object) -> str:
    """Decimals as strings, times as RFC 3339 in UTC, all else as JSON has it."""
    return json.dumps(document, default=_scalar, indent=2)


def to_json_line(document: object) -> str:
    """The same on one line, for a stream of documents."""
    return json.dumps(document, default=_scalar)


def _scalar(value: object) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def error_document(error: PapertickError) -> dict[str, Any]:
    words = {"code": error.code, "message": error.message, "detail": error.detail, "hint": error.hint}
    return {"error": words}


def error_line(error: PapertickError) -> str:
    """`error TE204: unknown run (user_id=1 run_id=9). Check user_id and run_id.`"""
    return f"error {error.code}: {error}" if error.code else f"error: {error}"


def text(value: object) -> str:
    """One value for people: no trailing zeros, '-' for null, yes or no, nothing that could drive the terminal."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal):
        digits = format(value, "f")
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
    return _scalar(value) if isinstance(value, date) else printable(str(value))


def counted(count: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def money(value: Decimal | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def percent(share: Decimal | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def pairs(items: Iterable[tuple[str, str]], *, indent: str = "") -> str:
    """One `name  value` per line, the values under each other."""
    listed = list(items)
    width = max((len(name) for name, _ in listed), default=0)
    return "\n".join(f"{indent}{name:<{width}}  {value}".rstrip() for name, value in listed)


def table(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """The columns under their names, numbers to the right; '(none)' without rows."""
    if not rows:
        return "(none)"
    cells = [[text(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    numeric = [
        all(isinstance(row[c], int | Decimal | None) and not isinstance(row[c], bool) for row in rows) for c in columns
    ]

    def lay(line: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()

    return "\n".join([lay(columns), lay(["-" * width for width in widths]), *map(lay, cells)])
