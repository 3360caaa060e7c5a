"""Server-sent events of runs. Nobody polls for himself: one watcher asks for all runs that somebody streams."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import psycopg
from starlette.types import Receive, Send

from engine_py import errors
from engine_py.api import wire
from engine_py.api.database import Database
from engine_py.api.problem import Problem, from_error, unknown_run
from engine_py.api.table import Call, Row, Statement, verb

log = logging.getLogger("papertick.api")

_PAGE = 500  # items
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_MOVED = """select r.user_id, r.run_id, r.status, s.last_logical_time
              from unnest(%s::bigint[], %s::bigint[]) k (user_id, run_id)
              join strategy_run r on r.user_id = k.user_id and r.run_id = k.run_id
              left join engine_state s on s.user_id = r.user_id and s.run_id = r.run_id"""
_RUN = "select status from strategy_run where user_id = %s and run_id = %s"


class _Stream:
    """One open stream: `wake` when there may be more to send; `over` says why it must end."""

    def __init__(self, key: str, run: tuple[int, int]) -> None:
        self.key, self.run = key, run
        self.wake = asyncio.Event()
        self.over: str | None = None

    def end(self, reason: str) -> None:
        self.over = self.over or reason
        self.wake.set()

    def is_gone(self) -> bool:
        return self.over == "gone"


class Streams:
    """All streams of this process."""

    def __init__(
        self,
        database: Database,
        heartbeat: float,
        *,
        most: int = 500,
        every: float = 0.25,
    ) -> None:
        self._database, self._heartbeat = database, heartbeat
        self._most, self._every = most, every
        self._open: set[_Stream] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._is_closing = False

    @property
    def count(self) -> int:
        return len(self._open)

    def moved(self, user_id: int, run_id: int) -> None:
        """This process has changed the run."""
        for stream in self._open:
            if stream.run == (user_id, run_id):
                stream.wake.set()

    def close(self) -> None:
        self._is_closing = True
        for stream in self._open:
            stream.end("shutdown")

    async def serve(self, key: str, call: Call, after: str | None, receive: Receive, send: Send) -> None:
        """Send what has happened after that item, and go on until the run, the client or the process ends."""
        if len(self._open) >= self._most or self._is_closing:
            raise Problem(503, "busy", "too many streams", headers={"Retry-After": "5"})
        stream = _Stream(key, (call.who.user_id, call.path["run_id"]))
        status, items = await self._read(stream, after)  # what is refused is refused before anything is sent
        self._open.add(stream)
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch())
        gone = asyncio.create_task(_until_gone(receive, stream))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await _write(send, b"retry: 1000\n\n")
            await self._feed(stream, send, after, status, items)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._open.discard(stream)
            gone.cancel()

    async def _feed(self, stream: _Stream, send: Send, after: str | None, status: str, items: list[Row]) -> None:
        while True:
            if items:
                after = items[-1]["id"]
                await _write(send, b"".join(map(_item, items)))
            if stream.is_gone():
                return
            if stream.over or (status != "RUNNING" and len(items) < _PAGE):
                await _write(send, _block("end", {"reason": stream.over or status}))
                return
            if len(items) < _PAGE:
                try:
                    await asyncio.wait_for(stream.wake.wait(), self._heartbeat)
                except TimeoutError:
                    await _write(send, b": still here\n\n")
            if stream.is_gone():
                return
            stream.wake.clear()
            try:
                status, items = await self._read(stream, after)
            except (Problem, psycopg.Error, errors.PapertickError) as exc:
                items = []  # the client may come back with the id of the last one
                stream.end({401: "key", 404: "deleted"}.get(from_error(exc).status, "unavailable"))

    async def _read(self, stream: _Stream, after: str | None) -> tuple[str, list[Row]]:
        """The status first: a run that has ended gets no more items."""
        user_id, run_id = stream.run
        run = (str(user_id), str(run_id))
        arguments = {"user_id": run[0], "run_id": run[1], "after": after, "limit": str(_PAGE)}
        rows, items = await self._database.run(
            stream.key, [Statement(_RUN, run), verb("run_stream", arguments)], repeatable=True
        )
        if not rows:
            raise unknown_run(user_id, run_id)
        return rows[0]["status"], items

    async def _watch(self) -> None:
        """Which of the streamed runs have moved, in one transaction for all of them, as long as there are any."""
        seen: dict[tuple[int, int], tuple[Any, Any]] = {}
        while self._open:
            await asyncio.sleep(self._every)
            streams = list(self._open)
            try:
                rows = await self._ask({s.key for s in streams}, sorted({s.run for s in streams}))
            except psycopg.errors.InvalidAuthorizationSpecification:
                await self._end_revoked(streams)
                continue
            except Exception as exc:
                log.info("streams: %s", type(exc).__name__)
                continue
            now = {(row[0], row[1]): (row[2], row[3]) for row in rows}
            for stream in streams:
                if now.get(stream.run) != seen.get(stream.run):
                    stream.wake.set()
            seen = now

    async def _ask(self, keys: set[str], runs: list[tuple[int, int]]) -> list[Any]:
        async with self._database.pool.connection() as conn:
            async with conn.pipeline():
                await conn.execute("begin")
                await conn.execute("select a.key_id from unnest(%s::text[]) k, authenticate(k) a", [list(keys)])
                cursor = await conn.execute(_MOVED, [[run[0] for run in runs], [run[1] for run in runs]])
                await conn.execute("commit")
            return await cursor.fetchall()

    async def _end_revoked(self, streams: list[_Stream]) -> None:
        for key in {stream.key for stream in streams}:
            try:
                await self._ask({key}, [])
            except psycopg.errors.InvalidAuthorizationSpecification:
                for stream in streams:
                    if stream.key == key:
                        stream.end("key")


async def _until_gone(receive: Receive, stream: _Stream) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.end("gone")


async def _write(send: Send, body: bytes) -> None:
    """Waits while the client is behind; the protocol cuts off one that does not read."""
    await send({"type": "http.response.body", "body": body, "more_body": True})


def _item(row: Row) -> bytes:
    return f"id: {row['id']}\n".encode() + _block(row["event"], row["data"])


def _block(event: str, data: Any) -> bytes:
    return f"event: {event}\ndata: ".encode() + wire.dump(data) + b"\n\n"
