"""What may come in: the shape of each field, as a check and as a JSON schema. What it means, the engine judges."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from engine_py import csvfile
from engine_py.api.problem import Problem, invalid

Schema = dict[str, Any]

MAX_ID = 2**63 - 1
_INT4 = 2**31 - 1
_DIGITS, _DECIMALS = 12, 8  # before and after the point: numeric(20,8), as the engine's columns are
_TIME = re.compile(csvfile.INSTANT.replace("[T ]", "[Tt]").replace("Z|", "[Zz]|"), re.ASCII)
_UNSENDABLE = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True)
class Field(ABC):
    """One member of a body or a query. `read` gives the text that PostgreSQL is sent."""

    name: str
    about: str
    required: bool = False

    @abstractmethod
    def schema(self) -> Schema: ...

    @abstractmethod
    def read(self, value: Any) -> str: ...

    def wrong(self, must_be: str) -> Problem:
        return invalid(f"{self.name} must be {must_be}", field=self.name)


@dataclass(frozen=True)
class Text(Field):
    most: int = 200
    least: int = 0

    def schema(self) -> Schema:
        # what PostgreSQL cannot hold
        length: Schema = {"minLength": self.least} if self.least else {}
        return {"type": "string", "maxLength": self.most, "pattern": "^[^\\u0000]*$", **length}

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or not self.least <= len(value) <= self.most or _UNSENDABLE.search(value):
            raise self.wrong(f"text of {self.least} to {self.most} characters, without NUL")
        return value


@dataclass(frozen=True)
class Word(Field):
    words: tuple[str, ...] = ()

    def schema(self) -> Schema:
        return {"type": "string", "enum": list(self.words)}

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise self.wrong(f"one of {', '.join(self.words)}")
        return value


@dataclass(frozen=True)
class Number(Field):
    """A decimal: a string, or a JSON number, whose own text counts."""

    decimals: int = _DECIMALS

    def schema(self) -> Schema:
        bound = 10**_DIGITS
        number = {"type": "number", "exclusiveMinimum": -bound, "exclusiveMaximum": bound}
        return {"anyOf": [{"type": "string", "pattern": f"^{_pattern(self.decimals)}$"}, number]}

    def read(self, value: Any) -> str:
        if isinstance(value, str) and re.fullmatch(_pattern(self.decimals), value, re.ASCII):
            return value
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            text = exact(value, self.decimals)
            if text is not None:
                return text
        raise self.wrong(f"a decimal below 1e{_DIGITS} with at most {self.decimals} decimals")


@dataclass(frozen=True)
class Integer(Field):
    least: int = -_INT4
    most: int = _INT4

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}

    def read(self, value: Any) -> str:
        if isinstance(value, Decimal) and value.is_finite() and value.adjusted() < 20 and value == value.to_integral():
            value = int(value)  # JSON Schema counts 1.0 as an integer
        if not isinstance(value, int) or isinstance(value, bool) or not self.least <= value <= self.most:
            raise self.wrong(f"a whole number from {self.least} to {self.most}")
        return str(value)


@dataclass(frozen=True)
class QueryInteger(Integer):
    """The same, where everything is text."""

    def read(self, value: Any) -> str:
        if not re.fullmatch(r"-?\d{1,19}", value, re.ASCII):
            raise self.wrong(f"a whole number from {self.least} to {self.most}")
        return super().read(int(value))


@dataclass(frozen=True)
class QueryIds(Field):
    """Ids with commas between them."""

    most: int = 19

    def schema(self) -> Schema:
        return {"type": "string", "pattern": f"^{self._pattern}$", "maxLength": 20 * self.most}

    def read(self, value: Any) -> str:
        if not re.fullmatch(self._pattern, value, re.ASCII) or any(int(part) > MAX_ID for part in value.split(",")):
            raise self.wrong(f"1 to {self.most} ids with commas between them")
        return str(value)

    @property
    def _pattern(self) -> str:
        return rf"[0-9]{{1,19}}(?:,[0-9]{{1,19}}){{0,{self.most - 1}}}"


@dataclass(frozen=True)
class Boolean(Field):
    def schema(self) -> Schema:
        return {"type": "boolean"}

    def read(self, value: Any) -> str:
        if not isinstance(value, bool):
            raise self.wrong("true or false")
        return "true" if value else "false"


@dataclass(frozen=True)
class Time(Field):
    """RFC 3339 with its offset."""

    def schema(self) -> Schema:
        return {"type": "string", "format": "date-time"}

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or not _TIME.fullmatch(value):
            raise self.wrong("an RFC 3339 time with its offset, to the microsecond")
        try:
            datetime.fromisoformat(value.upper()[:19])
        except ValueError:
            raise self.wrong("a time that there is") from None
        return value.upper()


@dataclass(frozen=True)
class Date(Field):
    def schema(self) -> Schema:
        return {"type": "string", "format": "date"}

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(csvfile.DATE, value, re.ASCII):
            raise self.wrong("a date (YYYY-MM-DD)")
        try:
            datetime.fromisoformat(value)
        except ValueError:
            raise self.wrong("a date that there is") from None
        return value


@dataclass(frozen=True)
class Shares(Field):
    """{"SYMBOL": share}: decimals, passed on to the last digit."""

    def schema(self) -> Schema:
        share = Number("share", "", decimals=20).schema()
        return {"type": "object", "minProperties": 1, "maxProperties": 10000, "additionalProperties": share}

    def read(self, value: Any) -> str:
        if not isinstance(value, dict) or not 0 < len(value) <= 10000:
            raise self.wrong('shares: {"SYMBOL": share}')
        members = []
        for symbol, share in value.items():
            name = Text(self.name, "", most=64, least=1).read(symbol)
            members.append(f"{json.dumps(name)}: {Decimal(Number(self.name, '', decimals=20).read(share)):f}")
        return "{" + ", ".join(members) + "}"


def exact(value: int | Decimal, decimals: int = _DECIMALS) -> str | None:
    """The digits of a number, if they are not too many."""
    number = Decimal(value) if isinstance(value, Decimal) or abs(value) < 10**40 else None
    if number is None or not number.is_finite() or not -50 < number.adjusted() < _DIGITS:
        return "0" if number is not None and number.is_zero() else None
    sign, digits, exponent = number.as_tuple()
    if isinstance(exponent, int) and exponent < -decimals and any(digits[exponent + decimals :]):
        return None
    if isinstance(exponent, int) and exponent < -decimals:
        number = Decimal((sign, digits[: exponent + decimals], -decimals))
    return format(number, "f")


def _pattern(decimals: int) -> str:
    return rf"-?\d{{1,{_DIGITS}}}(?:\.\d{{1,{decimals}}})?"


def read_body(document: Any, fields: tuple[Field, ...]) -> dict[str, str | None]:
    """The given fields as text; null counts as not given."""
    if not isinstance(document, dict):
        raise invalid("the body must be an object")
    return _read(document, fields)


def read_query(pairs: list[tuple[str, str]], fields: tuple[Field, ...]) -> dict[str, str | None]:
    given = dict(pairs)
    if len(given) != len(pairs):
        raise invalid("a query parameter stands there twice")
    return _read(given, fields)


def _read(given: Mapping[str, Any], fields: tuple[Field, ...]) -> dict[str, str | None]:
    known = {field.name for field in fields}
    for name in given:
        if name not in known:
            raise invalid(f"unknown field {ascii(name)[:80]}", field=ascii(name)[1:-1][:80])
    found: dict[str, str | None] = {}
    for field in fields:
        value = given.get(field.name)
        if value is not None:
            found[field.name] = field.read(value)
        elif field.required:
            raise invalid(f"{field.name} is missing", field=field.name)
    return found
