"""Slow clients are cut off. uvicorn itself waits for ever: for a head to come, for an answer to be read."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from engine_py.api.limits import Limits


class Protocol(H11Protocol):
    """One connection. Bodies have a timeout where they are read (`limits`)."""

    limits: Limits
    _head: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_head()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._close()

    def pause_writing(self) -> None:
        """There is more to send than is held back for a client that reads."""
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread:
            self._unread.cancel()
            self._unread = None

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._unread):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        """A head that has begun must be whole in time, be it a connection's first or a later one."""
        if self.conn.their_state is h11.IDLE:
            self._head = self._head or self.loop.call_later(self.limits.head_seconds, self._close)
        elif self._head:
            self._head.cancel()
            self._head = None

    def _close(self) -> None:
        """What is still to be sent is sent, to a client that reads it."""
        if not self.transport.is_closing():
            self.transport.close()
        self.loop.call_later(self.limits.write_seconds, self.transport.abort)


def within(limits: Limits) -> type[Protocol]:
    return type("Protocol", (Protocol,), {"limits": limits})
