"""What needs no key: whether the process is well, its metrics, and the description of the API."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from engine_py import __version__, errors
from engine_py.api import docs, metrics, openapi, wire
from engine_py.api.idempotency import Sent
from engine_py.api.table import Route

_JSON = "application/json"


class Probes:
    """`pool`: set when the process begins to serve."""

    pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]]

    def __init__(self, routes: tuple[Route, ...], counted: metrics.Metrics) -> None:
        description = openapi.document(routes)
        self._openapi, self._docs = wire.dump(description), docs.html(description)
        self._metrics = counted

    async def answer(self, name: str) -> Sent:
        """The answer of the public route of that name."""
        if name == "openapi":
            return Sent(200, _JSON, self._openapi)
        if name == "docs":
            return Sent(200, "text/html; charset=utf-8", self._docs)
        if name == "metrics":
            return Sent(200, metrics.MEDIA_TYPE, self._metrics.text().encode())
        health: dict[str, str | None] = {"status": "ok", "version": __version__, "database": None}
        status = 200
        if name == "readyz":
            health["database"] = await self._ask_database()
            if health["database"] is None:
                health["status"], status = "unavailable", 503
        return Sent(status, _JSON, wire.dump(health))

    async def _ask_database(self) -> str | None:
        """The version of the tables, if they can be asked."""
        try:
            async with asyncio.timeout(3), self.pool.connection() as conn:
                row = await (await conn.execute("select max(version) from schema_version")).fetchone()
        except (psycopg.Error, TimeoutError, errors.PapertickError):
            return None
        return str(row[0]) if row and row[0] else None
