"""JSON in and out, exactly: no number passes through a binary float, nothing is guessed."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, NoReturn

from engine_py.api.problem import Problem, invalid

_MAX_INT = 4000  # digits; Python refuses more


def parse(body: bytes) -> Any:
    """The document; non-integers are Decimals. 400 if it is no JSON, 422 for what JSON permits and we do not."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise invalid("the body is not valid UTF-8") from None
    try:
        return json.loads(
            text, parse_float=Decimal, parse_int=_integer, parse_constant=_refuse, object_pairs_hook=_object
        )
    except (json.JSONDecodeError, RecursionError):
        raise Problem(400, "malformed", "the body is not JSON") from None


def dump(document: object) -> bytes:
    return json.dumps(document, default=_scalar, ensure_ascii=False, separators=(",", ":")).encode()


def _integer(text: str) -> int | Decimal:
    return int(text) if len(text) < _MAX_INT else Decimal(text)


def _refuse(name: str) -> NoReturn:
    raise invalid(f"{name} is no number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise invalid("an object names something twice", field=ascii(twice)[1:-1][:80])
    return document


def _scalar(value: object) -> str:
    """Numbers inside of jsonb, whose other values are JSON's own."""
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(f"{type(value).__name__} has no JSON form")
