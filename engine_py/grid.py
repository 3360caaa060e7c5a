"""The grid of a sweep: alternatives of parameters, and every combination of them as one line of text.

A parameter is an argument of a verb, without its p_: of start_run for the run, of create_sip, create_rebalance and
place_order for what the run starts with. Here nothing is known of them but their names; what they mean is the verbs'.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from engine_py.errors import UsageError

VERBS = {"run": "start_run", "rebalance": "create_rebalance", "sip": "create_sip", "order": "place_order"}  # in order
GIVEN = {"user_id", "run_id", "name", "initial_cash"}  # by the sweep itself
OWN = ("cash", "feed", "from")  # of the run: its initial_cash, its feed, and the first time that it ticks

Values: TypeAlias = dict[str, list[str]]  # parameter → alternatives; '' leaves it to the engine's default


class Part(NamedTuple):
    """The run's own terms, or one thing that it starts with, with one value for each parameter."""

    kind: str
    terms: dict[str, str]

    def text(self) -> str:
        return " ".join([self.kind, *(f"{name}={_quoted(value)}" for name, value in self.terms.items())])


@dataclass(frozen=True)
class Grid:
    """Alternatives for the run and for each plan; the combinations are all of one with all of the others."""

    parts: tuple[tuple[str, Values], ...]

    def __len__(self) -> int:
        count = 1
        for _, values in self.parts:
            for alternatives in values.values():
                count *= len(alternatives)
        return count

    def combinations(self) -> Iterator[tuple[Part, ...]]:
        """In order, the last parameter turning fastest."""
        each = [[(name, value) for value in values] for _, part in self.parts for name, values in part.items()]
        for chosen in product(*each):
            terms = iter(chosen)
            yield tuple(
                Part(kind, {name: value for name, value in (next(terms) for _ in part) if value != ""})
                for kind, part in self.parts
            )

    def ordered(self, parameters: Mapping[str, Sequence[str]]) -> Grid:
        """The same with the parameters in the order of their verbs. Raises UsageError for one that is none of them."""
        return Grid(tuple((kind, _in_order(kind, values, parameters[kind])) for kind, values in self.parts))


def _in_order(kind: str, values: Values, known: Sequence[str]) -> Values:
    own = OWN if kind == "run" else ()
    known = list(dict.fromkeys((*own, *(name for name in known if name not in GIVEN))))
    unknown = [name for name in values if name not in known]
    if unknown:
        raise UsageError(f"{kind} has no parameter {', '.join(unknown)}", hint=f"It has: {', '.join(known)}.")
    return {name: values[name] for name in known if name in values}


# --- text


def parse_part(text: str) -> Values:
    """`symbol=IBM,MSFT amount=250,500`: alternatives between commas, JSON and quoted text in one piece."""
    values: Values = {}
    for word in _split(text, " \t\n"):
        name, equals, rest = word.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"{word!r} is not like amount=250,500")
        if name in values:
            raise UsageError(f"{name} is there twice")
        values[name] = list(dict.fromkeys(_unquoted(value) for value in _split(rest, ",", keep_empty=True)))
    return values


def parse_text(text: str) -> tuple[Part, ...]:
    """The parts of a combination, from their texts between semicolons."""
    parts = []
    for words in _split(text, ";"):
        kind, _, rest = words.strip(" ").partition(" ")
        parts.append(Part(kind, {name: values[0] for name, values in parse_part(rest).items()}))
    return tuple(parts)


def _split(text: str, separators: str, *, keep_empty: bool = False) -> list[str]:
    """Between separators that stand outside of quotes and brackets."""
    found, depth, in_quotes, escaped = [""], 0, False, False
    for character in text:
        if not in_quotes and depth == 0 and character in separators:
            found.append("")
            continue
        found[-1] += character
        if character == '"' and not escaped:
            in_quotes = not in_quotes
        elif not in_quotes:
            depth += (character in "{[") - (character in "}]")
        escaped = in_quotes and character == "\\" and not escaped
    if depth or in_quotes:
        raise UsageError(f"a bracket or a quote is open in {text!r}")
    return found if keep_empty else [word for word in found if word.strip()]


def _quoted(value: str) -> str:
    """As it is where that reads back as one value, as JSON and plain words do."""
    try:
        plain = _split(f"x={value}", " \t\n,;") == [f"x={value}"] and _unquoted(value) == value
    except UsageError:
        plain = False
    return value if plain and not _to_quote(value) else json.dumps(value)


def _to_quote(value: str) -> bool:
    """What has always been quoted: names that are stored stay as they are."""
    return not value or (value[0] not in "{[" and bool(set(value) & set(' \t\n,;"=')))


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        raise UsageError(f"{value} is not a text in quotes") from None


# --- files


def read_file(path: Path) -> list[Grid]:
    """The grids of a JSON or TOML file: one, or several whose combinations are put together.

    {"run": {"feed": "bundled", "cash": [1000, 2000]}, "sip": {"symbol": ["IBM", "MSFT"], "amount": 100, …}}: a list is
    alternatives; sip, rebalance and order may be lists of such objects, one each. Several: {"grid": [{…}, {…}]}.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document: Any = (
            tomllib.loads(text, parse_float=Decimal)
            if path.suffix == ".toml"
            else json.loads(text, parse_float=Decimal)
        )
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise UsageError(f"{path} is not {'TOML' if path.suffix == '.toml' else 'JSON'}: {exc}") from exc
    several = document.get("grid") if isinstance(document, dict) and set(document) == {"grid"} else [document]
    if not isinstance(several, list) or not all(isinstance(one, dict) for one in several):
        raise UsageError(f"{path} is no grid", hint="See docs/sweep.md.")
    return [_grid(path, one) for one in several]


def _grid(path: Path, document: dict[str, Any]) -> Grid:
    parts = []
    for kind in VERBS:
        found = document.get(kind, [])
        for part in found if isinstance(found, list) else [found]:
            if not isinstance(part, dict):
                raise UsageError(f"{path}: {kind} is not an object of parameters")
            parts.append((kind, {name: _alternatives(value) for name, value in part.items()}))
    unknown = sorted(set(document) - set(VERBS))
    if unknown:
        raise UsageError(f"{path}: {', '.join(unknown)} is not one of {', '.join(VERBS)}")
    return Grid(tuple(parts))


def _alternatives(value: Any) -> list[str]:
    return list(dict.fromkeys(map(_text, value if isinstance(value, list) else [value])))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_text(item)}" for name, item in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)
