"""An API for tests: a real process, clients with keys, and each answer held to /openapi.json."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import psycopg
from helpers import at, make_bars, make_user, value

from engine_py.api import openapi
from engine_py.api.routing import ROUTES

PROJECT = Path(__file__).resolve().parent.parent
PROBLEM = "application/problem+json"
NO_API = "it may not become papertick_api, as which the API serves (name a superuser)"
_feeds = itertools.count(1)


def iso(n: float) -> str:
    """Close number n of the tests' market, as the API writes it."""
    return at(n).isoformat().replace("+00:00", "Z")


class Process:
    """papertick serve, on a free port."""

    def __init__(self, dsn: str, *options: str) -> None:
        command = [sys.executable, "-m", "engine_py", "serve", "--port", "0", "--dsn", dsn, *options]
        self.popen = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        assert self.popen.stderr
        for line in self.popen.stderr:
            self.lines.append(line)
            if found := re.search(r"running on (http://\S+)", line):
                self.url = found[1]
                break
        else:
            raise AssertionError(f"the API did not start: {''.join(self.lines)}")
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.popen.stderr or ()), daemon=True)
        self._reader.start()

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        return url.host, url.port or 80

    def stop(self) -> int:
        self.popen.terminate()
        try:
            return self.popen.wait(40)
        finally:
            self.popen.kill()
            self._reader.join(5)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()


@contextlib.contextmanager
def serving(dsn: str, *options: str) -> Iterator[Process]:
    process = Process(dsn, *options)
    try:
        yield process
    finally:
        process.stop()


class Client(httpx.Client):
    """A user of the API. Every answer must be as the description says."""

    def __init__(self, url: str, user_id: int, key: str) -> None:
        super().__init__(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            event_hooks={"response": [conforms]},
            timeout=30,
        )
        self.user_id, self.key = user_id, key

    def ok(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        answer = self.request(method, path, **more)
        assert answer.status_code == status, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def refused(self, status: int, code: str, method: str, path: str, **more: Any) -> dict[str, Any]:
        answer = self.request(method, path, **more)
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
        document: dict[str, Any] = answer.json()
        assert (document["status"], document["code"]) == (status, code), document
        return document

    def start(self, **terms: Any) -> int:
        run_id: int = self.ok("POST", "/v1/runs", 201, json={"initial_cash": "10000", **terms})["run_id"]
        return run_id

    def tick(self, run_id: int, n: float) -> dict[str, Any]:
        row: dict[str, Any] = self.ok("POST", f"/v1/runs/{run_id}/ticks", json={"logical_time": iso(n)})
        return row

    def items(self, path: str, **query: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ok("GET", path, params=query)["items"]
        return found


class Door:
    """An API, and the database behind it."""

    def __init__(self, url: str, dsn: str) -> None:
        self.url, self.dsn = url, dsn
        self.conn = psycopg.connect(dsn, autocommit=True)
        self._clients: list[Client] = []

    def client(self, *, admin: bool = False, url: str | None = None, like: Client | None = None) -> Client:
        """A new user with a key, or the one of another client, at this or another API of the database."""
        if like:
            self._clients.append(Client(url or self.url, like.user_id, like.key))
            return self._clients[-1]
        user_id = make_user(self.conn)
        key = value(self.conn, "select key from create_key(%s, p_is_admin => %s)", [user_id, admin])
        self._clients.append(Client(url or self.url, user_id, key))
        return self._clients[-1]

    def feed(self, closes: Sequence[float] = (100, 101, 102), symbol: str = "AAA") -> str:
        """A feed of its own; bar n is at iso(n)."""
        name = f"api feed {next(_feeds)} of {os.getpid()}"
        self.conn.execute("insert into feed (feed) values (%s)", [name])
        make_bars(self.conn, symbol, closes, feed=name)
        return name

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.conn.close()


def raw(process: Process, data: bytes) -> socket.socket:
    """A connection on which only this has been sent."""
    sock = socket.create_connection(process.address, timeout=15)
    sock.sendall(data)
    return sock


def request_bytes(client: Client, method: str, path: str, document: Any, **headers: str) -> bytes:
    body = json.dumps(document).encode()
    given = {
        "Host": "x",
        "Authorization": f"Bearer {client.key}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **headers,
    }
    head = "".join(f"{name}: {text}\r\n" for name, text in given.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


# --- the description ---


@cache
def description() -> dict[str, Any]:
    return openapi.document(ROUTES)


def conforms(response: httpx.Response) -> None:
    """The status stands in the description, and the body is as its schema says."""
    path, method = response.request.url.path, response.request.method.lower().replace("head", "get")
    for template, methods in sorted(description()["paths"].items(), key=lambda item: item[0].count("{")):
        operation = methods.get(method)
        if operation and re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path):
            break
    else:
        assert response.status_code in (404, 405), (path, response.status_code)
        return
    answer = operation["responses"].get(str(response.status_code))
    assert answer, f"{response.request.method} {template} does not say that it answers {response.status_code}"
    media = response.headers.get("content-type", "").partition(";")[0]
    if not answer.get("content"):
        return
    assert media in answer["content"], (media, answer)
    if media.endswith("json") and response.request.method != "HEAD":
        response.read()
        check(response.json(), answer["content"][media]["schema"], f"{response.request.method} {template}")


_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


def check(document: Any, schema: dict[str, Any], where: str) -> None:
    """As much of JSON Schema as the answers' schemas use."""
    if "$ref" in schema:
        schema = description()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        problems = []
        for one in schema["anyOf"]:
            try:
                return check(document, one, where)
            except AssertionError as exc:
                problems.append(exc)
        raise AssertionError(problems)
    types = schema.get("type", [])
    names = types if isinstance(types, list) else [types]
    is_one = any(isinstance(document, _TYPES[n]) and (n == "boolean") == isinstance(document, bool) for n in names)
    assert is_one or not names, (where, document, schema)
    if "enum" in schema:
        assert document in schema["enum"], (where, document)
    if isinstance(document, str) and "pattern" in schema:
        assert re.search(schema["pattern"], document), (where, document, schema)
    if isinstance(document, str) and schema.get("format") == "date-time":
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", document), (where, document)
    if isinstance(document, dict) and "properties" in schema:
        assert set(document) >= set(schema["required"]), (where, document)
        assert set(document) <= set(schema["properties"]), (where, document)
        for name, member in document.items():
            check(member, schema["properties"][name], f"{where}.{name}")
    if isinstance(document, list) and "items" in schema:
        for member in document:
            check(member, schema["items"], f"{where}[]")
