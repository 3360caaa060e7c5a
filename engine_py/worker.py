"""Ticks what is owed as bars arrive: the loop around feed_status and tick_all. Any number of workers may run at once.

Which time comes next, and for whom, is feed_status' to say; that a run ticks once, tick_all's. Here is only when to
ask: at a notification or else after a while, and again after what may be tried again.
"""

from __future__ import annotations

import random
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import psycopg

from engine_py import errors
from engine_py.cli_base import Row, Session
from engine_py.cli_base import select as rows_of
from engine_py.feed import CHANNEL
from engine_py.signals import on_stop

T = TypeVar("T")
Say = Callable[[dict[str, Any]], None]

_GRACE = 5.0  # seconds in which a statement may end by itself after the first signal
_LOCK_TIMEOUT = "2s"  # a run that somebody holds does not keep the others waiting for longer
_MOST_TRIES = 5  # with `once`; else there is no end
_QUERY_CANCELED = "57014"  # somebody's statement_timeout, or our own second signal


@dataclass(frozen=True)
class Settings:
    """`since`: where a run that has never ticked begins: a time, '-infinity', or None for the newest bar's."""

    feeds: tuple[str, ...] = ()  # none: all that RUNNING runs follow
    since: str | None = None
    settle: float = 0.5  # seconds in which the newest time has got no further bar
    poll: float = 5.0
    batch: int = 200  # runs a commit
    once: bool = False


class _Try(NamedTuple):
    number: int = 0
    not_before: float = 0.0


@dataclass
class _Feed:
    newest: tuple[datetime | None, int] = (None, 0)  # the newest time, and how many bars it has
    settled_at: float = 0.0
    tries: dict[datetime, _Try] = field(default_factory=dict)  # of the times that are owed now
    last_first: bool = True  # whose turn it is: those that are furthest, or those that lag most
    running: int = 0
    is_waiting: bool = False  # for its calendar


class Worker:
    """`say` hears of everything that happens, as documents with an `event`."""

    def __init__(self, session: Session, settings: Settings, say: Say) -> None:
        self._session, self._settings, self._say = session, settings, say
        self._conn: psycopg.Connection | None = None  # the one that listens
        self._feeds: dict[str, _Feed] = {}
        self._due: dict[str, float] = {}  # when to look at a feed again
        self._next_poll = 0.0
        self._failures = 0  # in a row
        self._last_status_id: int | None = None
        self._signals = 0
        self._awake, self._alarm = socket.socketpair()
        self.failed_runs = 0

    def run(self) -> None:
        """Until a signal comes, or with `once` until nothing is owed."""
        timer = threading.Timer(_GRACE, self._cancel)
        timer.daemon = True

        def stop() -> None:
            self._signals += 1
            if self._signals == 1:
                self._alarm.send(b"x")
                timer.start()
            elif self._signals == 2:
                threading.Thread(target=self._cancel, daemon=True).start()

        with on_stop(stop):
            try:
                while not self._signals:
                    self._turn()
                    if self._settings.once and not self._due and self._next_poll:
                        break
                    self._wait()
            finally:
                timer.cancel()

    def _turn(self) -> None:
        """One step of each feed that is due."""
        try:
            if time.monotonic() >= self._next_poll:
                self._poll()
            for name, when in sorted(self._due.items()):
                if when <= time.monotonic() and not self._signals:
                    self._look_at(name)
            self._failures = 0
        except errors.ConnectionFailedError as exc:
            self._failures += 1
            if self._settings.once and self._failures >= _MOST_TRIES:
                raise
            if self._failures == 1:
                self._say({"event": "disconnected", "code": exc.code, "message": exc.message})
            self._sleep(_pause(self._failures))

    # --- a feed ---

    def _poll(self) -> None:
        if self._last_status_id is None:
            self._last_status_id = self._select("select coalesce(max(status_id), 0) as id from engine_status")[0]["id"]
        names = self._settings.feeds or [row["feed"] for row in self._select("select feed from feed_status()")]
        self._due.update(dict.fromkeys(names, 0.0))
        self._next_poll = time.monotonic() + self._settings.poll

    def _look_at(self, name: str) -> None:
        """Tick one time of this feed, or find out when to look again."""
        rows = self._select(_STATUS, self._settings.since, name)
        if not rows:  # its name came with a notification, or it has gone
            self._forget(name)
            return
        row, now = rows[0], time.monotonic()
        state = self._feeds.setdefault(name, _Feed())
        newest = (row["newest_bar_time"], row["newest_bars"])
        if newest != state.newest:
            state.newest, state.settled_at = newest, now + self._settings.settle
        self._notice(row, state)
        first, last = row["first_owed_time"], row["last_owed_time"]
        if first is None:
            state.tries.clear()
            self._due.pop(name, None)
            return
        state.tries = {at: state.tries.get(at, _Try()) for at in (first, last)}
        waits = {
            at: max(tried.not_before, state.settled_at if at == newest[0] else 0.0) for at, tried in state.tries.items()
        }
        for at in (last, first) if state.last_first else (first, last):
            if waits[at] <= now:
                state.last_first = not state.last_first
                self._tick(row, at, state)
                self._due[name] = 0.0
                return
        self._due[name] = min(waits.values())

    def _tick(self, row: Row, at: datetime, state: _Feed) -> None:
        count = state.tries[at].number + 1
        call = "call tick_all(%s, %s, %s::int, %s::timestamptz)"
        values = [at, row["feed"], self._settings.batch, row["starts_at"] or self._settings.since]
        try:
            self._run(lambda conn: conn.execute(call, values))
        except errors.ConnectionFailedError:
            raise
        except errors.PapertickError as exc:
            if self._signals and exc.code == _QUERY_CANCELED:
                return
            again = errors.is_retryable(exc) or exc.code in (_QUERY_CANCELED, "TE203")
            if not again or (self._settings.once and count >= _MOST_TRIES):
                raise
            if count == 1:
                self._say(
                    {
                        "event": "retry",
                        "feed": row["feed"],
                        "logical_time": at,
                        "code": exc.code,
                        "message": exc.message,
                    }
                )
        else:
            self._say(
                {
                    "event": "advance",
                    "feed": row["feed"],
                    "logical_time": at,
                    "runs": row["first_owed_runs" if at == row["first_owed_time"] else "last_owed_runs"],
                    "lag_seconds": int((row["newest_bar_time"] - at).total_seconds()),
                }
            )
        # a time that is owed again after it has been ticked waits as well: nothing may make this loop spin
        state.tries[at] = _Try(count, time.monotonic() + _pause(count))

    def _notice(self, row: Row, state: _Feed) -> None:
        """Say what cannot be seen from the times that are ticked."""
        if row["is_past_calendar"] and not state.is_waiting:
            message = f"calendar {row['calendar']} ends before the newest bars"
            self._say({"event": "waiting", "feed": row["feed"], "code": "TE203", "message": message})
        state.is_waiting = bool(row["is_past_calendar"])
        if row["running"] < state.running:
            for failed in self._select(_FAILED, self._last_status_id, row["feed"]):
                self.failed_runs += 1
                self._last_status_id = max(self._last_status_id or 0, failed.pop("status_id"))
                self._say({"event": "failed", "feed": row["feed"], **failed})
        state.running = row["running"]

    def _forget(self, name: str) -> None:
        self._due.pop(name, None)
        self._feeds.pop(name, None)

    # --- the connection ---

    def _run(self, work: Callable[[psycopg.Connection], T]) -> T:
        def listening(conn: psycopg.Connection) -> T:
            if conn is not self._conn:
                conn.add_notify_handler(lambda notice: self._hear(notice.payload))
                conn.execute(f"listen {CHANNEL}")
                conn.execute("select set_config('lock_timeout', %s, false)", [_LOCK_TIMEOUT])
                if self._conn:
                    self._say({"event": "connected"})
                self._conn, self._next_poll = conn, 0.0  # notifications may have been missed
            return work(conn)

        return self._session.run(listening, repeatable=False)

    def _select(self, query: Any, *values: object) -> list[Row]:
        return self._run(lambda conn: rows_of(conn, query, *values))

    def _hear(self, name: str) -> None:
        if not name:  # some feed
            self._next_poll = 0.0
        elif not self._settings.feeds or name in self._settings.feeds:
            self._due[name] = 0.0

    def _wait(self) -> None:
        """For a notification or a signal, but not beyond what is due."""
        conn = self._conn
        if conn is None:
            return
        try:
            self._drain(conn)
            timeout = min([self._next_poll, *self._due.values()]) - time.monotonic()
            if timeout > 0 and not self._signals:
                select.select([conn.fileno(), self._awake.fileno()], [], [], timeout)
                self._drain(conn)
        except psycopg.OperationalError:  # it is lost: what comes next connects again
            self._next_poll = 0.0

    def _drain(self, conn: psycopg.Connection) -> None:
        conn.pgconn.consume_input()
        while notice := conn.pgconn.notifies():
            self._hear(notice.extra.decode("utf-8", "replace"))

    def _sleep(self, seconds: float) -> None:
        if not self._signals:
            select.select([self._awake], [], [], seconds)

    def _cancel(self) -> None:
        with suppress(psycopg.Error):
            if self._conn and not self._conn.closed:
                self._conn.cancel_safe(timeout=_GRACE)


def _pause(count: int) -> float:
    """Seconds before the next try, as in db.with_retry: jittered, from 50 ms to 2 s."""
    longest = min(0.05 * 3.5 ** min(count - 1, 10), 2.0)
    return random.uniform(longest / 2, longest)


# A name that is no feed, as any session may send it, has no row.
_STATUS = """select s.feed, s.calendar, s.newest_bar_time, s.newest_bars, s.starts_at, s.running,
                    coalesce(s.newest_bar_time > s.known_until, s.calendar <> 'ALWAYS' and s.newest_bars > 0)
                      as is_past_calendar,
                    s.first_owed_time, s.first_owed_runs, s.last_owed_time, s.last_owed_runs
               from feed f cross join lateral feed_status(f.feed, %s::timestamptz) s where f.feed = %s"""
_FAILED = """select l.status_id, l.user_id, l.run_id, l.reason from engine_status l
               join strategy_run r on r.user_id = l.user_id and r.run_id = l.run_id
              where l.status_id > %s and l.status = 'ERROR' and r.feed = %s order by l.status_id"""
