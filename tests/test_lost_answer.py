"""The connection dies at COMMIT: the client never knows whether it was done. The same call again is safe.

By every door: what may be repeated is repeated and done once; what may not is told as unknown, and never done twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from door import NO_API, PROJECT, Client, Door, iso, serving
from helpers import (
    Conn,
    Run,
    at,
    counts,
    digest,
    make_bars,
    make_busy_run,
    make_run,
    rows,
    superuser_only,
    value,
    wait_until,
)
from helpers import tick as plain_tick
from lossy import Loses, Lossy, lossy

from engine_py import errors
from engine_py.db import Database

DAYS = 6
BUY = {"symbol": "AAA", "side": "BUY", "quantity": "1"}
at_commit = pytest.mark.parametrize("loses", ["answer", "request"])


@pytest.fixture
def proxy(dsn: str) -> Iterator[Lossy]:
    with lossy(dsn) as found:
        yield found


@pytest.fixture
def market(db: Conn) -> None:
    make_bars(db, "AAA", [100 + n % 3 for n in range(DAYS)])
    make_bars(db, "BBB", [50 + n % 2 for n in range(DAYS)])


@pytest.fixture
def run(db: Conn, market: None) -> Run:
    return make_busy_run(db)


@pytest.fixture
def twin(db: Conn, market: None) -> Run:
    """The same, ticked by a connection that nothing happens to."""
    found = make_busy_run(db)
    for n in range(DAYS):
        plain_tick(db, found, n)
    return found


def ticks(db: Conn, run: Run) -> int:
    return len(rows(db, "paper_equity_curve", run))


# --- by Python ---


@at_commit
def test_a_tick_is_done_once_whatever_is_lost(db: Conn, proxy: Lossy, run: Run, twin: Run, loses: Loses) -> None:
    with Database(proxy.dsn) as database:
        for n in range(DAYS):
            proxy.arm(loses)
            database.run(lambda conn, n=n: conn.execute("call tick(%s, %s, %s)", [*run, at(n)]))
            assert (proxy.cuts, ticks(db, run)) == (1, n + 1)
    assert proxy.connections == DAYS + 1
    assert (digest(db, run), counts(db, run)) == (digest(db, twin), counts(db, twin))


@at_commit
def test_four_in_a_row_are_got_over_and_the_fifth_is_told(db: Conn, proxy: Lossy, run: Run, loses: Loses) -> None:
    with Database(proxy.dsn) as database:
        proxy.arm(loses, 4)
        database.run(lambda conn: conn.execute("call tick(%s, %s, %s)", [*run, at(0)]))
        assert (proxy.cuts, ticks(db, run)) == (4, 1)
        proxy.arm(loses, 5)
        with pytest.raises(errors.ConnectionFailedError):
            database.run(lambda conn: conn.execute("call tick(%s, %s, %s)", [*run, at(1)]))
    assert (proxy.cuts, ticks(db, run)) == (5, 2 if loses == "answer" else 1)
    plain_tick(db, run, 1)
    assert ticks(db, run) == 2


@at_commit
def test_what_is_lost_is_what_it_says(db: Conn, proxy: Lossy, run: Run, loses: Loses) -> None:
    """Without another try: the tick is there, or it is not."""
    with Database(proxy.dsn) as database:
        proxy.arm(loses)
        with pytest.raises(errors.ConnectionFailedError) as caught:
            database.run(lambda conn: conn.execute("call tick(%s, %s, %s)", [*run, at(0)]), attempts=1)
    assert caught.value.code is None  # nobody has said anything
    assert ticks(db, run) == (1 if loses == "answer" else 0)


# --- by the command line ---


def papertick(dsn: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine_py", "--json", *map(str, arguments)]
    return subprocess.run(
        command, cwd=PROJECT, env=os.environ | {"DB_DSN": dsn}, capture_output=True, text=True, timeout=60
    )


@at_commit
def test_papertick_tick_is_done_once(db: Conn, dsn: str, proxy: Lossy, run: Run, twin: Run, loses: Loses) -> None:
    for n in range(2):
        proxy.arm(loses)
        found = papertick(proxy.dsn, "tick", *run, iso(n))
        assert (found.returncode, proxy.cuts, ticks(db, run)) == (0, 1, n + 1), found.stderr
        assert json.loads(found.stdout)["logical_time"]
    for n in range(2, DAYS):
        assert papertick(dsn, "tick", *run, iso(n)).returncode == 0
    assert digest(db, run) == digest(db, twin)


# --- by HTTP ---


@pytest.fixture
def ann(db: Conn, dsn: str, market: None, proxy: Lossy) -> Iterator[Client]:
    superuser_only(db, NO_API)
    with serving(proxy.dsn) as process:
        door = Door(process.url, dsn)
        client = door.client()
        client.ok("GET", "/v1/me")  # from now on a request is one transaction
        yield client
        door.close()


def orders(db: Conn, run: Run) -> int:
    return len(rows(db, "paper_order", run))


@at_commit
@pytest.mark.parametrize("key", [None, "once"])
def test_posted_ticks_are_done_once(
    db: Conn, proxy: Lossy, ann: Client, twin: Run, loses: Loses, key: str | None
) -> None:
    run = make_busy_run(db, user_id=ann.user_id)
    for n in range(DAYS):
        headers = {"Idempotency-Key": f"{key} {n}"} if key else {}
        proxy.arm(loses)
        answer = ann.post(f"/v1/runs/{run.run_id}/ticks", json={"logical_time": iso(n)}, headers=headers)
        assert (answer.status_code, proxy.cuts) == (200, 1), answer.text
        assert (answer.json()["last_logical_time"], ticks(db, run)) == (iso(n), n + 1)
    assert (digest(db, run), counts(db, run)) == (digest(db, twin), counts(db, twin))


@at_commit
def test_a_replay_goes_on(db: Conn, proxy: Lossy, ann: Client, twin: Run, loses: Loses) -> None:
    """Its first tick is of the request, the rest of a slice in the background: both are lost once."""
    run = make_busy_run(db, user_id=ann.user_id)
    proxy.arm(loses, 2)
    answer = ann.post(f"/v1/runs/{run.run_id}/replays", json={"from": iso(0), "to": iso(DAYS)})
    assert answer.status_code == 202
    wait_until(lambda: ann.ok("GET", answer.headers["location"])["status"] == "DONE", "the replay is done")
    assert proxy.cuts == 2
    assert digest(db, run) == digest(db, twin)


@at_commit
def test_an_order_with_an_idempotency_key_is_placed_once(db: Conn, proxy: Lossy, ann: Client, loses: Loses) -> None:
    run = make_run(db, user_id=ann.user_id)
    path, headers = f"/v1/runs/{run.run_id}/orders", {"Idempotency-Key": "once"}
    proxy.arm(loses)
    answer = ann.post(path, json=BUY, headers=headers)
    assert (answer.status_code, proxy.cuts, orders(db, run)) == (201, 1, 1), answer.text
    # what was done before is answered with what was kept then; what was not, is done now
    assert answer.headers.get("idempotent-replayed") == ("true" if loses == "answer" else None)
    kept = value(db, "select body from api_answer where user_id = %s and idempotency_key = 'once'", [ann.user_id])
    assert answer.content == kept == ann.post(path, json=BUY, headers=headers).content
    assert answer.headers["location"] == f"{path}/1"
    assert orders(db, run) == 1


@at_commit
def test_an_order_with_an_id_of_the_clients_is_placed_once(db: Conn, proxy: Lossy, ann: Client, loses: Loses) -> None:
    run = make_run(db, user_id=ann.user_id)
    proxy.arm(loses)
    answer = ann.post(f"/v1/runs/{run.run_id}/orders", json=BUY | {"client_order_id": "mine"})
    assert (answer.status_code, proxy.cuts, orders(db, run)) == (201, 1, 1), answer.text


@at_commit
def test_an_order_with_neither_is_never_placed_twice(db: Conn, proxy: Lossy, ann: Client, loses: Loses) -> None:
    run = make_run(db, user_id=ann.user_id)
    proxy.arm(loses)
    answer = ann.post(f"/v1/runs/{run.run_id}/orders", json=BUY)
    assert (answer.status_code, proxy.cuts) == (503, 1), answer.text
    assert orders(db, run) == (1 if loses == "answer" else 0)
    assert len(ann.items(f"/v1/runs/{run.run_id}/orders")) == orders(db, run)  # and the API is well


@at_commit
@pytest.mark.parametrize("key", [None, "once"])
def test_a_run_is_started_once(db: Conn, proxy: Lossy, ann: Client, loses: Loses, key: str | None) -> None:
    headers = {"Idempotency-Key": key} if key else {}
    proxy.arm(loses)
    answer = ann.post("/v1/runs", json={"initial_cash": "1"}, headers=headers)
    assert (answer.status_code, proxy.cuts) == (201 if key else 503, 1), answer.text
    assert len(ann.items("/v1/runs")) == (0 if loses == "request" and not key else 1)
