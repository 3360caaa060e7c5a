"""Replays in the background: slice after slice, each a transaction that proves the key again.

Nothing of a replay is stored: its id holds its range, and how far it has come is read from the run. So any process can
tell, a killed one loses nothing that was committed, and the same POST goes on.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from engine_py import errors
from engine_py.api.database import Database
from engine_py.api.problem import Problem, from_error, invalid, not_found, unknown_run
from engine_py.api.table import Answer, Call, Plan, Results, Row, Statement, own, verb

log = logging.getLogger("papertick.api")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EVENTS, _TIMES = 500, 20_000  # a slice: so many events, or so many bar times at which nothing happens
_SECONDS = 120  # it may take
_SECONDS_TO_STOP = 20
_REMEMBERED = 1000  # failures

_STATE = """
select r.status as run_status, s.last_logical_time, x.next_time,
       case when x.next_time is null then 1
            else round(greatest(0, coalesce(extract(epoch from s.last_logical_time - x.since)
                                            / nullif(extract(epoch from x.upto - x.since), 0), 0)), 4) end as progress
  from (select %s::timestamptz as since, %s::timestamptz as until) p
  join strategy_run r on r.user_id = %s and r.run_id = %s
  left join engine_state s on s.user_id = r.user_id and s.run_id = r.run_id
 cross join lateral (
   select (select min(b.logical_time) from price_bar b
            where b.feed = r.feed and b.logical_time between p.since and p.until
              and b.logical_time > coalesce(s.last_logical_time, '-infinity')) as next_time,
          (select min(b.logical_time) from price_bar b
            where b.feed = r.feed and b.logical_time between p.since and p.until) as since,
          (select max(b.logical_time) from price_bar b
            where b.feed = r.feed and b.logical_time between p.since and p.until) as upto) x"""


@dataclass(frozen=True)
class Range:
    """Both ends included; the id is its microseconds since 1970."""

    first: datetime
    last: datetime

    @classmethod
    def of(cls, first: str, last: str) -> Range:
        found = cls(_time(first), _time(last))
        if not found.is_real():
            raise invalid("from and to must be within 1900 to 2299")
        return found

    @classmethod
    def of_id(cls, replay_id: str) -> Range:
        match = re.fullmatch(r"(-?\d{1,17})_(-?\d{1,17})", replay_id, re.ASCII)
        try:
            found = match and cls(*(_EPOCH + int(part) * _MICROSECOND for part in match.groups()))
        except OverflowError:
            found = None
        if not found or found.id != replay_id or not found.is_real():
            raise not_found("replay")
        return found

    def is_real(self) -> bool:
        return all(1899 < end.year < 2300 for end in (self.first, self.last))

    @property
    def id(self) -> str:
        return "_".join(str((end - _EPOCH) // _MICROSECOND) for end in (self.first, self.last))


def _time(text: str) -> datetime:
    """What fields.Time lets through; past the microsecond there are zeros only."""
    match = re.fullmatch(r"(.{19})(\.\d{1,6})?\d*(.*)", text)
    assert match
    return datetime.fromisoformat(f"{match[1]}{match[2] or '.0':0<7}{match[3].replace('Z', '+00:00')}")


class Replays:
    """The replays of this process. At most `most` work at a time; the others wait."""

    def __init__(self, database: Database, most: int, moved: Callable[[int, int], None]) -> None:
        self._database, self._moved = database, moved
        self._turn = asyncio.Semaphore(most)
        self._active: dict[tuple[int, int], tuple[str, asyncio.Task[None]]] = {}
        self._failed: OrderedDict[tuple[int, int, str], Problem] = OrderedDict()
        self._is_stopping = False

    @property
    def count(self) -> int:
        return len(self._active)

    async def stop(self) -> None:
        """At the end of their slices."""
        self._is_stopping = True
        tasks = [task for _, task in self._active.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_SECONDS_TO_STOP)
            for task in late:
                task.cancel()

    def start(self, key: str) -> Callable[[Call], Plan]:
        """The first tick of it in the request itself, so that what the engine refuses is refused at once."""

        def plan(call: Call) -> Plan:
            span = Range.of(str(call.body["from"]), str(call.body["to"]))
            other, _ = self._active.get((call.who.user_id, call.path["run_id"]), (span.id, None))
            if other != span.id:
                raise Problem(
                    409,
                    "replay_running",
                    "another replay of the run is running",
                    detail=f"replay_id={other}",
                    hint="Wait until it is done.",
                )
            part = verb("replay_part", {**own(call), **_slice(span, True), "events": "1"})

            def finish(results: Results) -> Answer:
                is_done = next(iter(results[0][0].values()))
                document = self._document(call, span, results[1], is_running=not is_done)
                then = None if is_done else lambda: self._begin(key, call, span)
                return Answer(document, f"/v1/runs/{call.path['run_id']}/replays/{span.id}", then)

            return Plan([part, _state(call, span)], finish)

        return plan

    def look(self, call: Call) -> Plan:
        span = Range.of_id(call.path["replay_id"])
        return Plan([_state(call, span)], lambda results: Answer(self._document(call, span, results[0])))

    def _document(self, call: Call, span: Range, rows: list[Row], *, is_running: bool = False) -> dict[str, Any]:
        run = call.who.user_id, call.path["run_id"]
        if not rows:
            raise unknown_run(*run)
        row, problem = rows[0], None
        if is_running or self._active.get(run, ("",))[0] == span.id:
            status = "RUNNING"
        elif row["next_time"] is None:
            status = "DONE"
        else:
            problem = self._failed.get((*run, span.id))
            if row["run_status"] != "RUNNING":
                detail = f"user_id={run[0]} run_id={run[1]} status={row['run_status']}"
                problem = problem or Problem(409, "TE001", "the run is not RUNNING", detail=detail)
            status = "FAILED" if problem else "INTERRUPTED"
        return {
            "replay_id": span.id,
            "run_id": run[1],
            "from": _text(span.first),
            "to": _text(span.last),
            "status": status,
            "progress": row["progress"],
            "last_logical_time": row["last_logical_time"],
            "problem": problem.document() if problem else None,
        }

    def _begin(self, key: str, call: Call, span: Range) -> None:
        run = call.who.user_id, call.path["run_id"]
        self._moved(*run)
        if run in self._active or self._is_stopping:
            return
        self._failed.pop((*run, span.id), None)
        task = asyncio.create_task(self._work(key, call, span))
        self._active[run] = span.id, task
        task.add_done_callback(lambda _: self._active.pop(run, None))

    async def _work(self, key: str, call: Call, span: Range) -> None:
        run = call.who.user_id, call.path["run_id"]
        is_first = True
        try:
            while not self._is_stopping:
                size = {"events": str(_EVENTS), "times": str(_TIMES)}
                part = verb("replay_part", {**own(call), **_slice(span, is_first), **size})
                async with self._turn:
                    results = await self._database.run(key, [part], repeatable=True, seconds=_SECONDS)
                is_first = False
                self._moved(*run)
                if next(iter(results[0][0].values())):
                    return
        except Exception as exc:
            if errors.is_retryable(exc):
                return  # the database was away: interrupted
            problem = from_error(exc)
            if problem.status >= 500:
                log.exception("replay %s of run %s", span.id, run)
            self._failed[*run, span.id] = problem
            if len(self._failed) > _REMEMBERED:
                self._failed.popitem(last=False)


def _slice(span: Range, is_first: bool) -> dict[str, str | None]:
    return {"from": _text(span.first), "to": _text(span.last), "is_first": "true" if is_first else "false"}


def _state(call: Call, span: Range) -> Statement:
    return Statement(_STATE, [_text(span.first), _text(span.last), *call.run])


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
