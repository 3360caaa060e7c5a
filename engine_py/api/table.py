"""What a route is: one line of the table from which the router, the checks and /openapi.json are made."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from engine_py.api.fields import Field, QueryInteger, Text, Time
from engine_py.api.problem import invalid, not_found, unknown_run

Row: TypeAlias = dict[str, Any]
Results: TypeAlias = list[list[Row]]

MAX_PAGE = 1000


@dataclass(frozen=True)
class Identity:
    """Whose key it is, as the database has said."""

    user_id: int
    key_id: int
    is_admin: bool


@dataclass(frozen=True)
class Call:
    """A request whose shape is right: ids and names of its path, fields of its body and its query, as text."""

    who: Identity
    path: dict[str, Any]
    query: dict[str, str | None]
    body: dict[str, str | None]

    @property
    def run(self) -> tuple[str, str]:
        return str(self.who.user_id), str(self.path["run_id"])


@dataclass(frozen=True)
class Statement:
    text: str
    values: Sequence[str | None] = ()


@dataclass(frozen=True)
class Answer:
    document: Any = None
    location: str | None = None
    then: Callable[[], None] | None = None  # when all is committed


@dataclass(frozen=True)
class Plan:
    """The statements of one transaction, and what their rows answer. Where `finish` raises, they only read."""

    statements: list[Statement]
    finish: Callable[[Results], Answer]


@dataclass(frozen=True)
class Route:
    """One method on one path. `answer` names a schema; `refusals`: the statuses it may have besides those of all."""

    method: str
    path: str
    name: str
    summary: str
    status: int = 200
    answer: str | None = None
    is_page: bool = False
    query: tuple[Field, ...] = ()
    body: tuple[Field, ...] | None = None
    plan: Callable[[Call], Plan] | None = None  # None: it has a handler of its own in app.py
    refusals: tuple[int, ...] = ()
    admin_only: bool = False
    is_public: bool = False  # no key
    repeatable: bool = True  # the same again changes nothing more, so that it may be sent again when its answer is lost
    seconds: int = 0  # statement_timeout, where the usual one is too short
    media: tuple[str, ...] = field(default=("application/json",))  # of the body
    answers_with: str = "application/json"


def verb(name: str, arguments: dict[str, str | None], *, call: bool = False, tail: str = "") -> Statement:
    """A call of a verb, by the names of its parameters; what is None is null."""
    names = ", ".join(f"p_{key} => %s" for key in arguments)
    text = f"call {name}({names})" if call else f"select t.* from {name}({names}){tail or ' t'}"
    return Statement(text, list(arguments.values()))


def own(call: Call) -> dict[str, str | None]:
    user_id, run_id = call.run
    return {"user_id": user_id, "run_id": run_id}


def run_row(call: Call) -> Statement:
    return Statement(f"{RUNS} where t.user_id = %s and t.run_id = %s", call.run)


RUNS = """select t.*, s.cash, s.first_logical_time, s.last_logical_time
            from strategy_run t left join engine_state s on s.user_id = t.user_id and s.run_id = t.run_id"""


def require_run(call: Call, rows: list[Row]) -> None:
    if not rows:
        raise unknown_run(call.who.user_id, call.path["run_id"])


def one(rows: list[Row], what: str) -> Answer:
    if not rows:
        raise not_found(what)
    return Answer(rows[0])


LIMIT = QueryInteger("limit", f"How many items at most, 1 to {MAX_PAGE}. Default: 100.", least=1, most=MAX_PAGE)
CURSOR = Text("cursor", "next_cursor of the page before.", most=2000, least=1)
FROM = Time("from", "Not before this time.")
TO = Time("to", "Not after this time.")


def page(
    source: str, keys: Sequence[str], *, of_run: bool = True, hidden: str | None = None
) -> Callable[[Call, str, Sequence[str | None]], Plan]:
    """A page of `source` (a select with `where` as its end) in the order of unique `keys`, from the cursor on."""

    def plan(call: Call, name: str, values: Sequence[str | None] = ()) -> Plan:
        limit = int(call.query.get("limit") or 100)
        mark = _mark(call, name)
        after = read_cursor(call.query.get("cursor"), mark, len(keys))
        order = ", ".join(keys)
        beyond = f" and ({order}) > ({', '.join(['%s'] * len(keys))})" if after else ""
        statement = Statement(f"{source}{beyond} order by {order} limit {limit + 1}", [*values, *after])
        check = [Statement("select from strategy_run where user_id = %s and run_id = %s", call.run)] if of_run else []

        def finish(results: Results) -> Answer:
            if of_run:
                require_run(call, results[0])
            rows = results[-1]
            cursor = None
            if len(rows) > limit:
                del rows[limit:]
                cursor = make_cursor([str(rows[-1][_column(key)]) for key in keys], mark)
            if hidden:
                for row in rows:
                    del row[hidden]
            return Answer({"items": rows, "next_cursor": cursor})

        return Plan([*check, statement], finish)

    return plan


def _column(key: str) -> str:
    """`t.event_type collate "C"` → event_type"""
    return key.split()[0].removeprefix("t.")


def _mark(call: Call, name: str) -> str:
    """What a cursor belongs to: taken elsewhere, or changed, it is refused."""
    filters = {key: value for key, value in call.query.items() if key not in ("limit", "cursor")}
    return json.dumps([name, call.who.user_id, call.path, filters], sort_keys=True)


def make_cursor(position: list[str], mark: str) -> str:
    text = json.dumps(position, separators=(",", ":"))
    return base64.urlsafe_b64encode(_sum(text, mark) + text.encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, mark: str, size: int) -> list[str]:
    if cursor is None:
        return []
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
        text = raw[8:].decode()
        position = json.loads(text) if raw[:8] == _sum(text, mark) else None
    except (ValueError, UnicodeError, RecursionError):
        position = None
    if not isinstance(position, list) or len(position) != size:
        raise invalid("cursor is not one of this list's", field="cursor")
    return [str(value) for value in position]


def _sum(text: str, mark: str) -> bytes:
    return hashlib.sha256(f"papertick cursor\0{mark}\0{text}".encode()).digest()[:8]
