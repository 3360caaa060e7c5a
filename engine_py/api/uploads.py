"""Files of market data: spooled to disk, then loaded by the CLI's own code in a thread, in one transaction."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Callable
from decimal import Decimal
from typing import IO, Any

import psycopg

from engine_py import actions, feed, sessions
from engine_py.api import idempotency
from engine_py.api.database import SETTINGS, takes_role
from engine_py.api.idempotency import Sent
from engine_py.api.problem import MEDIA_TYPE, Problem, from_error, invalid, of_key
from engine_py.api.table import Call, Statement
from engine_py.api.wire import dump
from engine_py.csvfile import MAX_LINE
from engine_py.dialects.base import Options
from engine_py.staging import LoadReport

_SECONDS = 900

Load = Callable[[psycopg.Connection[Any], Any], LoadReport]


class Uploads:
    """At most `most` at a time; each has a connection of its own."""

    def __init__(self, dsn: str, *, is_superuser: bool, most: int = 2) -> None:
        self._dsn, self._role = dsn, takes_role(is_superuser)
        self._turn = asyncio.Semaphore(most)

    async def load(
        self, key: str, call: Call, file: IO[bytes], *, is_ndjson: bool, name: str, idem: tuple[str, bytes] | None
    ) -> Sent:
        source: Any = _Lines(file) if is_ndjson else file
        async with self._turn:
            return await asyncio.to_thread(self._work, key, source, _LOADS[name](call), idem)

    def _work(self, key: str, source: Any, load: Load, idem: tuple[str, bytes] | None) -> Sent:
        with psycopg.connect(
            self._dsn, autocommit=True, application_name="papertick api upload", connect_timeout=5
        ) as conn:
            conn.execute(self._role + SETTINGS)
            with conn.transaction():
                conn.execute(f"set local statement_timeout = '{_SECONDS}s'".encode())
                try:
                    row = conn.execute("select user_id from authenticate(%s)", [key]).fetchone()
                except psycopg.errors.InvalidAuthorizationSpecification as exc:
                    raise of_key() from exc
                assert row
                if idem:
                    kept = idempotency.claimed(_row(conn, idempotency.claim(row[0], *idem)))
                    if kept:
                        return kept
                sent = _attempt(conn, source, load, keeps_refusal=idem is not None)
                if idem:
                    _row(conn, idempotency.keep(row[0], *idem, sent))
        return sent


def _attempt(conn: psycopg.Connection[Any], source: Any, load: Load, *, keeps_refusal: bool) -> Sent:
    try:
        with conn.transaction():
            return Sent(200, "application/json", dump(_document(load(conn, source))))
    except Exception as exc:
        problem = from_error(exc)
        if problem.status >= 500 or not keeps_refusal:
            raise
        return Sent(problem.status, MEDIA_TYPE, problem.body())


def _row(conn: psycopg.Connection[Any], statement: Statement) -> dict[str, Any]:
    with conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        row = cursor.execute(statement.text.encode(), list(statement.values)).fetchone()
    return row or {}


def _document(report: LoadReport) -> dict[str, Any]:
    counts = ("target", "read", "rows", "unchanged", "outside_sessions", "duplicates", "skipped_count", "symbols")
    times = {name: getattr(report, name) for name in ("first", "last")}
    return {name: getattr(report, name) for name in counts} | {
        name: time and time.isoformat().replace("+00:00", "Z") for name, time in times.items()
    }


def _bars(call: Call) -> Load:
    query = call.query
    said = query.get("prices")
    options = Options(
        format=query.get("format") or "generic",
        symbol=query.get("symbol"),
        adjusted=None if said is None else said == "adjusted",
    )
    return lambda conn, source: feed.load_files(
        conn, [source], feed=call.path["feed"], calendar=query.get("calendar"), options=options
    )


def _actions(call: Call) -> Load:
    return lambda conn, source: actions.load_actions(conn, source)


def _sessions(call: Call) -> Load:
    return lambda conn, source: sessions.load_sessions(
        conn, source, calendar=call.path["calendar"], time_zone=call.query.get("time_zone")
    )


_LOADS: dict[str, Callable[[Call], Load]] = {
    "load_bars": _bars,
    "load_actions": _actions,
    "load_sessions": _sessions,
}


class _Lines(io.TextIOBase):
    """NDJSON as the CSV that the loader reads: the first object's names are the header, which is line 1.

    A blank line keeps its number; so line n of the file is line n + 1 of the CSV, and problems say so.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._number = file, 0
        self._names: list[str] = []
        self._first = ""

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        if self._first:
            line, self._first = self._first, ""
            return line
        raw = self._file.readline(MAX_LINE)
        if not raw:
            return ""
        self._number += 1
        row = self._read(raw)
        if row is None:
            return "\n" if self._names else self.readline(size)
        if not self._names:
            self._names = list(row)
            self._first = self._line([row[name] for name in self._names])
            return self._line(self._names)
        unknown = sorted(set(row) - set(self._names))
        if unknown:
            raise self._bad(f"{ascii(unknown[0])[:60]} is not in the first object")
        return self._line([row.get(name) for name in self._names])

    def _read(self, raw: bytes) -> dict[str, Any] | None:
        if not raw.strip():
            return None
        try:
            row = json.loads(raw, parse_float=str, parse_int=str, parse_constant=str)
        except (ValueError, RecursionError):
            raise self._bad("it is not JSON") from None
        if not isinstance(row, dict) or not row:
            raise self._bad("it is not an object")
        return row

    def _line(self, values: list[Any]) -> str:
        texts = []
        for value in values:
            if value is not None and not isinstance(value, str | Decimal):
                raise self._bad("a value is neither text nor a number")
            text = "" if value is None else str(value)
            if "\n" in text or "\r" in text:
                raise self._bad("a value has a line break")
            texts.append(text)
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow(texts)
        return out.getvalue()

    def _bad(self, what: str) -> Problem:
        return invalid(f"line {self._number}: {what}")
