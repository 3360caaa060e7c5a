"""What one client may take: requests a second, bytes and seconds of a body."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import IO, Any

from starlette.requests import ClientDisconnect, Request

from engine_py.api.problem import Problem

_MIB = 1 << 20
_BUCKETS = 10_000  # the least recently used are forgotten, which can only be to their good


@dataclass(frozen=True)
class Limits:
    """`rate` is requests a second, 0 = any; bytes of bodies; seconds to wait for a body or each MiB of an upload, for a
    request's head, and for an answer to be read; `heartbeat`: seconds after which a quiet stream shows that it lives.
    """

    rate: float = 1000.0
    max_body: int = 1 << 20
    max_upload: int = 256 << 20
    body_seconds: float = 30.0
    head_seconds: float = 5.0
    write_seconds: float = 20.0
    heartbeat: float = 15.0


class Buckets:
    """A token bucket per key, in this process alone; it holds two seconds' worth."""

    def __init__(self, rate: float) -> None:
        self._rate, self._size = rate, max(2 * rate, 1.0)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, owner: str) -> None:
        """Raises 429 when the owner's bucket is empty."""
        if self._rate <= 0:
            return
        now = time.monotonic()
        left, since = self._left.pop(owner, (self._size, now))
        left = min(self._size, left + (now - since) * self._rate)
        self._left[owner] = (max(left - 1, 0.0) if left >= 1 else left, now)
        if len(self._left) > _BUCKETS:
            self._left.popitem(last=False)
        if left < 1:
            wait = str(max(1, round((1 - left) / self._rate)))
            raise Problem(429, "rate", "too many requests", headers={"Retry-After": wait})


def _too_large(most: int) -> Problem:
    return Problem(413, "too_large", "the body is too large", detail=f"bytes={most}", headers={"Connection": "close"})


def _too_slow() -> Problem:
    return Problem(408, "too_slow", "the body took too long to come", headers={"Connection": "close"})


def _check_length(request: Request, most: int) -> None:
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > most:
        raise _too_large(most)


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body. Raises 413, 408."""
    _check_length(request, limits.max_body)
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > limits.max_body:
                    raise _too_large(limits.max_body)
    except TimeoutError:
        raise _too_slow() from None
    return b"".join(parts)


async def spool_body(request: Request, limits: Limits, prefix: bytes) -> tuple[IO[bytes], bytes]:
    """The body in a temporary file, and the SHA-256 of `prefix` and it. No transaction waits for a slow client."""
    _check_length(request, limits.max_upload)
    file: Any = tempfile.SpooledTemporaryFile(max_size=4 << 20)  # noqa: SIM115  the caller closes it
    digest = hashlib.sha256(prefix)
    size = 0
    parts = request.stream()
    begun = asyncio.get_running_loop().time()
    try:
        while True:
            async with asyncio.timeout_at(begun + limits.body_seconds * (1 + size / _MIB)):
                part = await anext(parts, None)
            if part is None:
                break
            size += len(part)
            if size > limits.max_upload:
                raise _too_large(limits.max_upload)
            digest.update(part)
            await asyncio.to_thread(file.write, part)
    except TimeoutError:
        file.close()
        raise _too_slow() from None
    except (Problem, ClientDisconnect):
        file.close()
        raise
    file.seek(0)
    return file, digest.digest()
