"""JSON that is one document: numbers stay as they were written, no float comes near them."""

from __future__ import annotations

import json
from typing import Any

from engine_py.csvfile import Bad
from engine_py.dialects.base import Source


def load(text: str) -> Any:
    """Raises Bad."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise Bad("22021", "not valid UTF-8")
    try:
        return json.loads(text, parse_float=str, parse_int=str, parse_constant=str)
    except (ValueError, RecursionError):
        raise Bad("22032", "not JSON") from None


def starts_with(source: Source, *characters: str) -> bool:
    return source.header.lstrip().startswith(characters)


def mentions(source: Source, *names: str) -> bool:
    """Whether a document that begins like this has these names at its start."""
    start = "".join(source.peek(n) for n in range(20))[:4000] if starts_with(source, "{") else ""
    return any(f'"{name}"' in start for name in names)


def at(document: Any, *path: str | int) -> Any:
    """What stands there, or None."""
    for step in path:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def scalar(value: Any) -> str:
    """A value as text; '' for null. Raises Bad for what is no value."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Bad("22P02", "a value is neither text nor a number")
    return value.strip()
