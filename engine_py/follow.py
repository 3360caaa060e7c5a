"""Bars as they come: one JSON object a line into a feed, the bars of one time in one transaction.

What a bar must be is what feed.load_csv asks of it: the same shapes, the same rules, the same comparison with what is
stored. Workers are notified of every batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from queue import Empty
from typing import Any, NamedTuple

from psycopg import Connection, sql

from engine_py import errors
from engine_py.barlines import Bar, Lines, parse
from engine_py.bars import BAR_RULES, OUTSIDE, SAME_BAR
from engine_py.cli_base import Session
from engine_py.csvfile import MAX_PROBLEMS, Bad, Problem
from engine_py.db import with_retry
from engine_py.feed import closes_of, notify, open_feed
from engine_py.staging import LoadReport, broken_rows

_MAX_BATCH = 10_000  # bars of one transaction, so that memory has a bound
_PATIENCE = 300.0  # seconds to wait for a server that has gone away


class _Stored(NamedTuple):
    """What became of a batch."""

    symbols: list[str]  # of the bars that are new
    outside: int  # of these, those at a time when the calendar is closed
    unchanged: int
    problems: list[Problem]


class Follower:
    """Puts lines into a feed. `on_problem` hears of every bad line; the report counts them.

    `strict`: the first bad line is the last one read, and only what came before it is stored.
    """

    def __init__(
        self,
        session: Session,
        feed: str,
        calendar: str | None = None,
        *,
        strict: bool = False,
        on_problem: Callable[[Problem], None],
    ) -> None:
        self.report = LoadReport(f"feed {feed}")
        self._session, self._feed, self._strict, self._on_problem = session, feed, strict, on_problem
        self._symbols: set[str] = set()
        self._pending: dict[str, Bar] = {}  # by symbol, all of one time
        self._time = datetime.min.replace(tzinfo=UTC)  # theirs
        self._since = 0.0  # when the last of them came
        self._calendar, self._closes = session.run(lambda conn: _prepared(conn, feed, calendar))

    def follow(self, lines: Lines, flush: float) -> LoadReport:
        """Until there are no more lines. What stands alone for `flush` seconds is stored."""
        number = 0
        while not self._is_over():
            try:
                raw = lines.next(max(self._since + flush - time.monotonic(), 0) if self._pending else None)
            except Empty:
                self._flush(lines)
                continue
            if raw is None:
                break
            number += 1
            if raw.strip():
                self.report.read += 1
                self._take(number, raw, lines)
        self._flush(lines)
        self.report.skipped.sort()
        return self.report

    def _is_over(self) -> bool:
        return self._strict and self.report.skipped_count > 0

    def _take(self, number: int, raw: bytes, lines: Lines) -> None:
        try:
            bar = parse(number, raw, self._closes)
        except Bad as bad:
            if self._strict:  # a line before it may be the first bad one
                self._flush(lines)
            if not self._is_over():
                self._refuse(Problem(number, bad.code, bad.message))
            return
        at = datetime.fromisoformat(bar.logical_time)
        if self._pending and at < self._time:  # a late bar does not part those that belong together
            self._store([bar], at, lines)
            return
        if self._pending and (at > self._time or bar.symbol in self._pending or len(self._pending) >= _MAX_BATCH):
            self._flush(lines)
        if not self._is_over():
            self._pending[bar.symbol], self._time, self._since = bar, at, time.monotonic()

    def _flush(self, lines: Lines) -> None:
        bars = list(self._pending.values())
        self._pending.clear()
        if bars:
            self._store(bars, self._time, lines)

    def _store(self, bars: list[Bar], at: datetime, lines: Lines) -> None:
        def once() -> _Stored:
            try:
                return self._session.run(lambda conn: self._store_in(conn, bars), repeatable=False)
            except errors.ConnectionFailedError as exc:
                if not lines.interrupted:
                    raise
                raise errors.PapertickError(
                    f"line {bars[0].line} and what follows is not stored: {exc.message}"
                ) from exc

        stored = with_retry(once, attempts=1_000_000, budget=_PATIENCE)
        report = self.report
        report.rows += len(stored.symbols)
        report.unchanged += stored.unchanged
        report.outside_sessions += stored.outside
        if stored.symbols:
            self._symbols.update(stored.symbols)
            report.symbols = len(self._symbols)
            report.first, report.last = min(report.first or at, at), max(report.last or at, at)
        for problem in stored.problems:
            self._refuse(problem)

    def _refuse(self, problem: Problem) -> None:
        report = self.report
        report.skipped_count += 1
        report.duplicates += problem.code == "23505"
        if len(report.skipped) < MAX_PROBLEMS:
            report.skipped.append(problem)
        self._on_problem(problem)

    def _store_in(self, conn: Connection[Any], bars: list[Bar]) -> _Stored:
        """One transaction, which may be repeated when its answer was lost."""
        with conn.transaction():
            names = {"feed": self._feed, "calendar": self._calendar}
            problems = [Problem(*row) for row in conn.execute(_BROKEN, _values(bars))]
            symbols: list[str] = []
            unchanged, outside = 0, 0
            rest = _without(bars, (problem.line for problem in problems))
            while rest:  # again only if somebody else has stored a bar of these in between
                known = dict(conn.execute(_COMPARE, _values(rest) | names).fetchall())
                problems += [
                    Problem(n, "23505", "differs from what is stored") for n, same in known.items() if not same
                ]
                rest = _without(rest, known)
                if self._strict and problems:
                    problems = [min(problems)]
                    rest = [bar for bar in rest if bar.line < problems[0].line]
                unchanged += sum(known.values())
                if rest:
                    new = dict(conn.execute(_INSERT, _values(rest) | names).fetchall())
                    symbols += new
                    outside += sum(new.values())
                    rest = [bar for bar in rest if bar.symbol not in new]
            if symbols:
                notify(conn, self._feed)
        return _Stored(symbols, outside, unchanged, sorted(problems))


# Whatever is well-formed can be cast.
_ROWS = sql.SQL(
    """(select * from unnest(
         %(line)s::bigint[], %(symbol)s::text[], %(logical_time)s::timestamptz[], %(open)s::numeric[],
         %(high)s::numeric[], %(low)s::numeric[], %(close)s::numeric[], %(volume)s::numeric[]
       ) u (line, symbol, logical_time, open, high, low, close, volume))"""
)
_BROKEN = broken_rows(BAR_RULES, sql.SQL("{} s").format(_ROWS))
_COMPARE = sql.SQL(
    """select s.line, {} from {} s join public.price_bar b
           on b.feed = %(feed)s and b.symbol = s.symbol and b.logical_time = s.logical_time"""
).format(sql.SQL(SAME_BAR), _ROWS)
_INSERT = sql.SQL(
    """with t as (select * from {} s),
            known as (insert into public.instrument (symbol) select symbol from t order by symbol collate "C"
                          on conflict do nothing),
            stored as (insert into public.price_bar (feed, symbol, logical_time, open, high, low, close, volume)
                       select %(feed)s, symbol, logical_time, open, high, low, close, volume from t
                        order by symbol collate "C" on conflict do nothing returning symbol)
       select symbol, %(calendar)s <> 'ALWAYS' and {} from t join stored using (symbol)"""
).format(_ROWS, sql.SQL(OUTSIDE))


def _prepared(conn: Connection[Any], feed: str, calendar: str | None) -> tuple[str, Callable[[str], str | None]]:
    with conn.transaction():
        followed = open_feed(conn, feed, calendar)
        return followed, closes_of(conn, followed)


def _values(bars: list[Bar]) -> dict[str, object]:
    """The bars for _ROWS, column by column."""
    return dict(zip(Bar._fields, map(list, zip(*bars, strict=True)), strict=True))


def _without(bars: list[Bar], lines: Iterable[int]) -> list[Bar]:
    gone = set(lines)
    return [bar for bar in bars if bar.line not in gone]
