"""The HTTP API: requests a second of one process, against the same SQL by psycopg without HTTP.

usage: python -m bench.http [--quick | --full]

A client ticks a run of its own, and between two ticks reads the run, its orders and its equity. Both sides send the
same transactions, key and all, over as many connections; so the ratio is what HTTP, JSON and the door itself take.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg

from bench import measure
from bench.report import Document, Row, parser, publish, row, words
from bench.runs import load_feed, make_runs, time_of
from engine_py.api.database import Database
from engine_py.api.routing import ROUTES
from engine_py.api.table import Call, Identity

_FEED = "http"
_POOL = 10
_LIMIT = {"limit": "20"}


@dataclass
class Client:
    """A user with a run; `bar` is the next to be ticked."""

    user_id: int
    run_id: int
    key: str
    bar: int = 1


def run(full: bool) -> Document:
    return publish("http", full, lambda dsn: _mixed(dsn, not full))


def _mixed(dsn: str, quick: bool) -> list[Row]:
    counts, seconds, reps = ((1, 8), 2.0, 2) if quick else ((1, 8, 32), 10.0, 5)
    found = []
    with measure.database(dsn) as ours, psycopg.connect(ours, autocommit=True) as conn:
        load_feed(conn, _FEED, 20_000)
        clients = [_client(conn, *key) for key in make_runs(conn, _FEED, max(counts))]
        conn.execute("vacuum analyze")
        with _serving(ours) as port:
            for count in counts:
                some = clients[:count]
                cases: dict[str, Callable[[], float]] = {
                    "http": lambda some=some: asyncio.run(_by_http(port, some, seconds)),  # type: ignore[misc]
                    "psycopg": lambda some=some: asyncio.run(_by_psycopg(ours, some, seconds)),  # type: ignore[misc]
                }
                got = {case: each[1:] for case, each in measure.turns(cases, reps + 1).items()}
                name = f"HTTP, a tick and three reads, {count} client{'s' * (count > 1)}"
                found.append(row(name, "the same SQL by psycopg", None, "requests/s", got["http"], got["psycopg"]))
    return found


def _client(conn: psycopg.Connection, user_id: int, run_id: int) -> Client:
    made = conn.execute("select key from create_key(%s)", [user_id]).fetchone()
    assert made
    return Client(user_id, run_id, made[0])


@contextlib.contextmanager
def _serving(dsn: str) -> Iterator[int]:
    command = [sys.executable, "-m", "engine_py", "serve", "--port", "0", "--rate", "0", "--pool", str(_POOL)]
    process = subprocess.Popen([*command, "--dsn", dsn], stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        yield next(int(found[1]) for line in process.stderr if (found := re.search(r"running on \S+:(\d+)", line)))
    finally:
        process.terminate()
        process.wait(30)


async def _for(seconds: float, ones: list[Callable[[], Awaitable[None]]]) -> float:
    """Each one again and again, side by side; requests a second, four to each call."""
    done = 0
    begun = time.perf_counter()

    async def again(one: Callable[[], Awaitable[None]]) -> None:
        nonlocal done
        while time.perf_counter() - begun < seconds:
            await one()
            done += 4

    await asyncio.gather(*map(again, ones))
    return done / (time.perf_counter() - begun)


async def _by_http(port: int, clients: list[Client], seconds: float) -> float:
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in clients]
    try:
        return await _for(seconds, [partial(_round, c, *pair) for c, pair in zip(clients, opened, strict=True)])
    finally:
        for _, writer in opened:
            writer.close()


async def _round(client: Client, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    path = f"/v1/runs/{client.run_id}"
    body = json.dumps({"logical_time": _next(client)}).encode()
    for method, rest, content in (
        ("POST", "/ticks", body),
        ("GET", "", b""),
        ("GET", "/orders?limit=20", b""),
        ("GET", "/equity?limit=20", b""),
    ):
        head = (
            f"{method} {path}{rest} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {client.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        writer.write(head.encode() + content)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"content-length: (\d+)", answer)
        text = await reader.readexactly(int(length[1]) if length else 0)
        if b" 200 " not in answer[:20]:
            raise AssertionError(f"{method} {rest}: {answer!r} {text!r}")


async def _by_psycopg(dsn: str, clients: list[Client], seconds: float) -> float:
    database = Database(dsn, size=_POOL, is_superuser=True, wait=30)
    await database.pool.open()
    try:
        return await _for(seconds, [partial(_transactions, database, client) for client in clients])
    finally:
        await database.pool.close()


_ROUTES = {route.name: route for route in ROUTES}


async def _transactions(database: Database, client: Client) -> None:
    who = Identity(client.user_id, 0, False)
    asked: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
        ("tick", {}, {"logical_time": _next(client)}),
        ("get_run", {}, {}),
        ("list_orders", _LIMIT, {}),
        ("list_equity", _LIMIT, {}),
    )
    for name, query, body in asked:
        plan = _ROUTES[name].plan
        assert plan
        statements = plan(Call(who, {"run_id": client.run_id}, query, body)).statements
        await database.run(client.key, statements, repeatable=True, seconds=_ROUTES[name].seconds)


def _next(client: Client) -> str:
    client.bar += 1
    return time_of(client.bar).isoformat()


if __name__ == "__main__":
    print(words(run(parser(__doc__).parse_args().full)["rows"]))
