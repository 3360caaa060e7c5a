"""The process: its limits, its health, how it starts and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from door import PROJECT, Client, Door, iso, raw, request_bytes, serving
from helpers import value, wait_until
from psycopg import sql
from psycopg.conninfo import make_conninfo

from engine_py.api.database import Database

BUY = {"symbol": "AAA", "side": "BUY", "quantity": "1"}
LOCK = "select from strategy_run where user_id = %s and run_id = %s for update"
WAITING = "select count(*) from pg_locks where not granted"


@pytest.fixture
def ann(api: Door) -> Client:
    return api.client()


@pytest.fixture
def run(api: Door, ann: Client) -> int:
    return ann.start(feed=api.feed(range(100, 110)))


# --- health ---


def test_health_and_readiness(api: Door) -> None:
    assert httpx.get(f"{api.url}/healthz").json()["status"] == "ok"
    ready = httpx.get(f"{api.url}/readyz").json()
    assert (ready["status"], ready["database"]) == ("ok", "1")


def test_metrics_count_by_route_and_name_nobody(api: Door, ann: Client, run: int) -> None:
    def count() -> int:
        text = httpx.get(f"{api.url}/metrics").text
        found = re.search(r'requests_total\{route="/v1/runs/\{run_id}",method="GET",status="200"} (\d+)', text)
        return int(found[1]) if found else 0

    before = count()
    for _ in range(3):
        ann.ok("GET", f"/v1/runs/{run}")
    assert count() == before + 3
    answer = httpx.get(f"{api.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert ann.key not in answer.text
    assert f"/{run}" not in answer.text
    for line in answer.text.splitlines():
        assert re.fullmatch(
            r"# (HELP|TYPE) papertick_\w+ .+|papertick_\w+(\{[^}]*(\{\w+}[^}]*)*})? [0-9.e+-]+", line
        ), line
    buckets = re.findall(r'seconds_bucket\{route="/v1/me",method="GET",le="[^"]+"} (\d+)', answer.text)
    assert buckets == sorted(buckets, key=int)


def test_docs_need_nothing_from_elsewhere(api: Door) -> None:
    page = httpx.get(f"{api.url}/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in page.text
    assert not re.search(r'(src|href)="(https?:)?//', page.text)
    for path, methods in httpx.get(f"{api.url}/openapi.json").json()["paths"].items():
        for operation in methods.values():
            assert f'id="{operation["operationId"]}"' in page.text, path


# --- limits ---


def test_a_body_that_is_too_large(api: Door, ann: Client) -> None:
    big = b'{"initial_cash": 1, "name": "' + b"x" * (1 << 20) + b'"}'
    headers = {"Content-Type": "application/json"}
    ann.refused(413, "too_large", "POST", "/v1/runs", content=big, headers=headers)
    ann.refused(413, "too_large", "POST", "/v1/runs", content=iter([big]), headers=headers)  # in chunks
    assert ann.items("/v1/runs") == []


def test_a_head_that_is_too_large(api: Door) -> None:
    with serving(api.dsn) as process, raw(process, b"GET /healthz HTTP/1.1\r\nX-Long: ") as sock:
        sock.sendall(b"x" * 100_000)
        assert sock.recv(100).startswith(b"HTTP/1.1 400")


def test_a_body_that_does_not_come(api: Door, ann: Client) -> None:
    with serving(api.dsn, "--body-timeout", "0.3") as process:
        head = request_bytes(ann, "POST", "/v1/runs", {}, **{"Content-Length": "100"})
        with raw(process, head) as sock:
            assert sock.recv(4096).startswith(b"HTTP/1.1 408")


def drip(sock: socket.socket, *parts: bytes) -> bytes:
    """What is answered to somebody who sends a little now and then."""
    sock.settimeout(0.1)
    answer = b""
    for part in itertools.chain(parts, itertools.repeat(parts[-1], 100)):
        with contextlib.suppress(TimeoutError):
            while found := sock.recv(1 << 16):
                answer += found
            return answer
        try:
            sock.sendall(part)
        except OSError:  # reset
            return answer
    raise AssertionError("nobody has cut it off")


def test_a_head_that_does_not_come(api: Door) -> None:
    """However slowly it goes on; the first of a connection, or a later one."""
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    with serving(api.dsn, "--head-timeout", "0.5") as process:
        with raw(process, b"") as sock:
            sock.settimeout(15)
            assert sock.recv(100) == b""
        with raw(process, head) as sock:
            assert drip(sock, b"X") == b""
        with raw(process, head + b"\r\n") as sock:
            answer = drip(sock, head, b"X")
            assert (answer.count(b"HTTP/1.1"), answer[:12]) == (1, b"HTTP/1.1 200")
        with raw(process, head + b"\r\n" + head) as sock:  # it has begun before the answer to the one before
            assert drip(sock, b"X").count(b"HTTP/1.1") == 1
        with httpx.Client(base_url=process.url) as client:  # while a connection may rest
            for pause in (0, 1):
                time.sleep(pause)
                assert client.get("/healthz").status_code == 200
            [connection] = client._transport._pool.connections  # type: ignore[attr-defined]
            assert "Request Count: 2" in connection.info()


def test_an_upload_that_comes_too_slowly(api: Door) -> None:
    admin = api.client(admin=True)
    head = request_bytes(admin, "POST", "/v1/admin/feeds/slow/bars", {}, **{"Content-Length": "100000"})
    with (
        serving(api.dsn, "--body-timeout", "0.5") as process,
        raw(process, head.replace(b"application/json", b"text/csv")) as sock,
    ):
        assert drip(sock, b"symbol,", b"x").startswith(b"HTTP/1.1 408")


def test_answers_that_are_not_read(api: Door) -> None:
    """Of a client that asks for more and more: the memory and the request do not wait for it."""

    def in_flight() -> float:
        found = re.search(r"^papertick_requests_in_flight (\d+)", httpx.get(f"{process.url}/metrics").text, re.M)
        assert found
        return int(found[1]) - 1  # the one that asks

    ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(api.dsn, "--write-timeout", "1") as process, raw(process, ask * 200) as sock:
        wait_until(lambda: in_flight() == 1, "it waits to be read")
        wait_until(lambda: in_flight() == 0, "nobody waits any more")
        sock.settimeout(15)
        size = 0
        with contextlib.suppress(ConnectionResetError):
            while found := sock.recv(1 << 20):
                size += len(found)
        assert size < 100 * len(httpx.get(f"{process.url}/openapi.json").content)


def test_rate_is_each_keys_own(api: Door, ann: Client) -> None:
    bob = api.client()
    with serving(api.dsn, "--rate", "2") as process:
        there, other = (api.client(url=process.url, like=one) for one in (ann, bob))
        other.ok("GET", "/v1/me")
        answers = [there.get("/v1/me") for _ in range(20)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert refused[0].json()["code"] == "rate"
        assert int(refused[0].headers["retry-after"]) >= 1
        other.ok("GET", "/v1/me")
        wait_until(lambda: there.get("/v1/me").status_code == 200, "there is room again")


def test_a_pool_that_is_used_up_is_told_and_heals(
    api: Door, ann: Client, run: int, background: Callable[..., Future[Any]]
) -> None:
    with serving(api.dsn, "--pool", "1") as process:
        there = api.client(url=process.url, like=ann)
        there.ok("GET", "/v1/me")
        with api.conn.transaction():
            api.conn.execute(LOCK, [ann.user_id, run])
            ticking = background(there.post, f"/v1/runs/{run}/ticks", json={"logical_time": iso(0)})
            wait_until(lambda: value(api.conn, WAITING), "the tick waits")
            answers = [background(there.get, "/v1/me") for _ in range(30)]
            codes = {answer.result(20).status_code for answer in answers}
            assert 503 in codes
            refused = next(a.result() for a in answers if a.result().status_code == 503)
            assert (refused.json()["code"], refused.headers["retry-after"]) == ("busy", "1")
        assert ticking.result(30).status_code in (200, 503)
        wait_until(lambda: there.get("/v1/me").status_code == 200, "it is back")


# --- what the database does ---


def test_a_lock_that_is_held_too_long_is_waited_for_again(
    api: Door, ann: Client, run: int, background: Callable[..., Future[Any]]
) -> None:
    """lock_timeout is 2 s: the first attempt fails, a later one does it."""
    with api.conn.transaction():
        api.conn.execute(LOCK, [ann.user_id, run])
        order = background(ann.post, f"/v1/runs/{run}/orders", json=BUY)
        time.sleep(2.5)
    assert order.result(20).status_code == 201
    assert len(ann.items(f"/v1/runs/{run}/orders")) == 1


def test_connections_that_were_lost_are_replaced(api: Door, ann: Client, run: int) -> None:
    with serving(api.dsn) as process:
        there = api.client(url=process.url, like=ann)
        for n in range(3):
            there.ok("GET", f"/v1/runs/{run}")
            there.ok("POST", f"/v1/runs/{run}/orders", 201, json=BUY)
            ended = api.conn.execute(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'papertick api'"
                " and datname = current_database() and pid <> pg_backend_pid()"
            ).fetchone()
            assert ended
            assert there.tick(run, n)["last_logical_time"] == iso(n)
        assert len(there.items(f"/v1/runs/{run}/orders")) == 3


def test_a_statement_that_takes_too_long_is_504(
    api: Door, ann: Client, run: int, background: Callable[..., Future[Any]]
) -> None:
    """A verb that sleeps, and is canceled as statement_timeout would cancel it, stands in for one that has too much to do."""
    slow = """create or replace function public.run_digest(p_user_id bigint, p_run_id bigint) returns text
              language plpgsql as 'begin perform pg_sleep(60); return null; end'"""
    before = value(api.conn, "select pg_get_functiondef('run_digest'::regproc)")
    cancel = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'"
    try:
        api.conn.execute(slow)
        answer = background(ann.get, f"/v1/runs/{run}/digest")
        wait_until(lambda: value(api.conn, cancel), "it runs, and is canceled")
        found = answer.result(30)
    finally:
        api.conn.execute(before)
    assert (found.status_code, found.json()["code"]) == (504, "57014")


def test_the_timeouts_are_those_of_the_apis_role(api: Door) -> None:
    """Whoever logs in: a superuser who becomes it is not given its settings by PostgreSQL."""

    async def shown() -> dict[str, str]:
        database = Database(api.dsn, size=1, is_superuser=True)
        await database.pool.open()
        try:
            async with database.pool.connection() as conn:
                rows = await conn.execute("select name, setting from pg_settings where name like '%_timeout'")
                return dict(await rows.fetchall())
        finally:
            await database.pool.close()

    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    login = api.conn.execute("select unnest(rolconfig) from pg_roles where rolname = 'papertick_api'").fetchall()
    assert login == [("statement_timeout=10s",), ("lock_timeout=2s",), ("idle_in_transaction_session_timeout=5s",)]
    assert [asyncio.run(shown())[name] for name in names] == ["10000", "2000", "5000"]
    here = sql.SQL("alter role papertick_api in database {}").format(sql.Identifier(api.conn.info.dbname))
    api.conn.execute(here + sql.SQL(" set statement_timeout = '7s'"))
    try:
        assert [asyncio.run(shown())[name] for name in names] == ["7000", "2000", "5000"]
    finally:
        api.conn.execute(here + sql.SQL(" reset all"))


# --- start and end ---


def test_sigterm_answers_the_tick_that_is_in_flight(
    api: Door, ann: Client, run: int, background: Callable[..., Future[Any]]
) -> None:
    with serving(api.dsn) as process:
        there = api.client(url=process.url, like=ann)
        with api.conn.transaction():
            api.conn.execute(LOCK, [ann.user_id, run])
            ticking = background(there.post, f"/v1/runs/{run}/ticks", json={"logical_time": iso(0)})
            wait_until(lambda: value(api.conn, WAITING), "the tick waits")
            process.popen.terminate()
            wait_until(lambda: not answers(process.address), "nobody is let in any more")
        assert ticking.result(20).json()["last_logical_time"] == iso(0)
        assert process.popen.wait(20) == 0


def answers(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True


def start(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine_py", "serve", "--port", "0", *options]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)


def test_only_the_apis_role_may_serve(api: Door) -> None:
    """A member of the owner would pass every policy; a stranger could do nothing."""
    name = f"api_login_{api.conn.info.backend_pid}"
    if not str(api.conn.info.host).startswith("/"):
        pytest.skip("the server asks a new role for a password")
    login = make_conninfo(api.dsn, user=name)
    api.conn.execute(f"create role {name} login")
    try:
        refused = start("--dsn", login)
        assert (refused.returncode, "papertick_api" in refused.stderr) == (1, True)
        api.conn.execute(f"grant papertick_api to {name}")
        with serving(login) as process:
            ann = api.client(url=process.url)
            ann.start()
        api.conn.execute(f"grant papertick_owner to {name}")
        refused = start("--dsn", login)
        assert (refused.returncode, "owns" in refused.stderr) == (1, True)
    finally:
        api.conn.execute(f"drop role {name}")


def test_without_papertick_in_the_database_it_says_so(api: Door) -> None:
    refused = start("--dsn", make_conninfo(api.dsn, dbname="template1"))
    assert (refused.returncode, "db init" in refused.stderr) == (1, True)
    refused = start("--dsn", "host=127.0.0.1 port=1 dbname=nobody connect_timeout=2")
    assert refused.returncode == 3


def test_without_the_extra_the_command_says_how_to_get_it(tmp_path: Path, api: Door) -> None:
    (tmp_path / "starlette.py").write_text("raise ImportError('no starlette here')")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from engine_py.cli import main; main()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    found = subprocess.run([*command, "serve"], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert (found.returncode, "papertick[api]" in found.stderr) == (2, True), found.stderr
    assert subprocess.run([*command, "--version"], cwd=PROJECT, capture_output=True, timeout=60).returncode == 0


def test_no_answer_and_no_log_shows_the_connection_string(api: Door, ann: Client) -> None:
    with serving(api.dsn, "--access-log") as process:
        there = api.client(url=process.url, like=ann)
        there.ok("GET", "/v1/me")
        there.refused(404, "not_found", "GET", "/v1/nothing")
    assert ann.key not in "".join(process.lines)
    with psycopg.connect(api.dsn) as conn:
        host = conn.info.host
    assert host not in "".join(process.lines) or host == "127.0.0.1"
