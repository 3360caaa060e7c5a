"""Numbers as people write them, made into plain decimal text. No float comes near them."""

from __future__ import annotations

import re
import struct
from decimal import Decimal

from engine_py.csvfile import NUMBER, Bad, shown
from engine_py.errors import UsageError

SEPARATORS = {"comma": ",", "dot": ".", "space": " ", "apostrophe": "'"}
_is_number = re.compile(NUMBER, re.ASCII).fullmatch


class Style:
    """How a source writes its numbers; `thousands` is one of SEPARATORS."""

    def __init__(self, thousands: str | None = None, *, decimal_comma: bool = False) -> None:
        self._separator = SEPARATORS[thousands] if thousands else ""
        self._comma = decimal_comma
        point = "," if decimal_comma else "."
        if self._separator == point:
            raise UsageError(f"the thousands separator is the decimal {'comma' if decimal_comma else 'point'}")
        # groups of three, or India's of two before the last three
        grouped = rf"[-+]?\d{{1,3}}(?:{re.escape(self._separator)}\d{{2,3}})*{re.escape(self._separator)}\d{{3}}"
        self._grouped = re.compile(grouped + rf"(?:{re.escape(point)}\d*)?", re.ASCII).fullmatch

    @property
    def is_plain(self) -> bool:
        return not self._separator and not self._comma

    def plain(self, text: str) -> str:
        """The text with a decimal point and no separators, or as it came if it is not of this style.

        Raises Bad for a dot beside decimal commas that groups nothing: 16.751 may be 16751.
        """
        if self._separator == " ":
            text = text.replace("\u00a0", " ").replace("\u202f", " ")
        if self._separator and self._separator in text and self._grouped(text):
            text = text.replace(self._separator, "")
        if not self._comma:
            return text
        if "." not in text:
            return text.replace(",", ".")
        if _is_number(text):
            hint = None if self._separator == "." else "If dots group the digits: --thousands dot."
            raise Bad("22P02", f"a number with a dot, where commas are decimal: {shown(text)}", hint)
        return text


def shortest(value: float) -> str:
    """The fewest digits that give this double again."""
    return repr(value)


def shortest_single(value: float) -> str:
    """The fewest digits that give this single again: 0.1 where the double nearest to it is 0.10000000149011612."""
    for digits in range(6, 9):
        text = f"{value:.{digits}g}"
        try:
            if struct.pack("f", float(text)) == struct.pack("f", value):
                return text
        except OverflowError:  # rounded beyond the largest single
            continue
    return f"{value:.9g}"


def number_text(value: object, *, single: bool = False) -> str:
    """A value of a frame or a Parquet file as text; '' is missing. `single`: it came as 32 bits."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        raise Bad("22P02", f"{value} is no number")
    if isinstance(value, float):
        if value != value:
            return ""
        return shortest_single(value) if single else shortest(value)
    if isinstance(value, Decimal):
        return "" if value.is_nan() else format(value, "f")
    return str(value)
