"""Idempotency-Key: one effect, one answer, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from door import Client, Door, iso, raw, request_bytes, serving
from helpers import value, wait_until

BUY = {"symbol": "AAA", "side": "BUY", "quantity": "1"}


@pytest.fixture
def ann(api: Door) -> Client:
    return api.client()


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def test_the_same_request_gets_the_same_bytes(api: Door, ann: Client) -> None:
    run = ann.start(feed=api.feed())
    path = f"/v1/runs/{run}/orders"
    first = ann.post(path, json=BUY, headers=keyed("one"))
    ann.tick(run, 0)  # the order itself has moved on
    again = ann.post(path, json=BUY, headers=keyed("one"))
    assert (first.status_code, first.headers.get("idempotent-replayed")) == (201, None)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert (again.content, again.headers["location"]) == (first.content, first.headers["location"])
    assert len(ann.items(path)) == 1
    ann.post(path, json=BUY, headers=keyed("two"))
    assert len(ann.items(path)) == 2


def test_a_refusal_is_kept_too(api: Door, ann: Client) -> None:
    body = {"initial_cash": "1", "feed": f"not yet there {ann.user_id}"}
    first = ann.post("/v1/runs", json=body, headers=keyed("k"))
    api.conn.execute("insert into feed (feed) values (%s)", [body["feed"]])
    again = ann.post("/v1/runs", json=body, headers=keyed("k"))
    assert (first.status_code, again.status_code, again.headers["idempotent-replayed"]) == (404, 404, "true")
    assert (again.content, again.headers["content-type"]) == (first.content, first.headers["content-type"])
    assert ann.post("/v1/runs", json=body, headers=keyed("other")).status_code == 201


def test_another_request_under_the_key_is_refused(api: Door, ann: Client) -> None:
    run = ann.start(feed=api.feed())
    path = f"/v1/runs/{run}/orders"
    ann.post(path, json=BUY, headers=keyed("k"))
    for other in (BUY | {"quantity": "2"}, BUY | {"side": "SELL"}):
        ann.refused(422, "idempotency_key_reused", "POST", path, json=other, headers=keyed("k"))
    ann.refused(422, "idempotency_key_reused", "POST", f"/v1/runs/{run}/stop", headers=keyed("k"))
    assert len(ann.items(path)) == 1
    bob = api.client()  # a key is its user's own
    assert bob.post("/v1/runs", json={"initial_cash": 1}, headers=keyed("k")).status_code == 201


@pytest.mark.parametrize("key", ["", "é", "x" * 256, "a\tb"])
def test_keys_that_are_refused(ann: Client, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}
    ann.refused(422, "invalid", "POST", "/v1/runs", json={"initial_cash": 1}, headers=headers)


def test_what_never_reached_the_engine_is_not_kept(ann: Client) -> None:
    ann.refused(422, "invalid", "POST", "/v1/runs", json={"initial_cash": "x"}, headers=keyed("k"))
    assert ann.post("/v1/runs", json={"initial_cash": "1"}, headers=keyed("k")).status_code == 201


def test_sixteen_at_once_have_one_effect(api: Door, ann: Client) -> None:
    run = ann.start(feed=api.feed())
    path = f"/v1/runs/{run}/orders"

    def send(_: int) -> tuple[int, bytes]:
        answer = ann.post(path, json=BUY, headers=keyed("k"))
        return answer.status_code, answer.content

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(send, range(16)))
    assert len(ann.items(path)) == 1
    assert {status for status, _ in answers} <= {201, 409}
    assert len({content for status, content in answers if status == 201}) == 1
    assert ann.post(path, json=BUY, headers=keyed("k")).status_code == 201


def test_sixteen_starts_without_a_key_are_one_run(ann: Client) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ann.post("/v1/runs", json={"initial_cash": 1}), range(16)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 15
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"23505"}


def test_a_duplicate_of_what_is_being_done_is_told_so(
    api: Door, ann: Client, background: Callable[..., Future[Any]]
) -> None:
    run = ann.start(feed=api.feed())
    with api.conn.transaction():
        api.conn.execute("select from strategy_run where user_id = %s and run_id = %s for update", [ann.user_id, run])
        first = background(ann.post, f"/v1/runs/{run}/orders", json=BUY, headers=keyed("k"))
        wait_until(
            lambda: value(api.conn, "select count(*) from pg_locks where not granted"), "the first waits for the run"
        )
        ann.refused(409, "idempotency_key_busy", "POST", f"/v1/runs/{run}/orders", json=BUY, headers=keyed("k"))
    assert first.result(20).status_code == 201
    assert len(ann.items(f"/v1/runs/{run}/orders")) == 1


def test_kill_9_after_the_effect_the_answer_is_still_there(api: Door, ann: Client) -> None:
    run = ann.start(feed=api.feed())
    path = f"/v1/runs/{run}/orders"
    with serving(api.dsn) as process, raw(process, request_bytes(ann, "POST", path, BUY, **keyed("k"))):
        wait_until(lambda: ann.items(path), "the order is committed")
        process.kill()
    body = request_bytes(ann, "POST", path, BUY).partition(b"\r\n\r\n")[2]
    headers = keyed("k") | {"Content-Type": "application/json"}
    again = ann.post(path, content=body, headers=headers)
    assert (again.status_code, again.headers["idempotent-replayed"], again.json()["order_id"]) == (201, "true", 1)
    assert len(ann.items(path)) == 1


def test_kill_9_before_the_commit_leaves_nothing_and_the_repeat_does_it(api: Door, ann: Client) -> None:
    run = ann.start(feed=api.feed())
    path = f"/v1/runs/{run}/orders"
    with serving(api.dsn) as process, api.conn.transaction():
        api.conn.execute("select from strategy_run where user_id = %s and run_id = %s for update", [ann.user_id, run])
        with raw(process, request_bytes(ann, "POST", path, BUY, **keyed("k"))):
            waiting = "select count(*) from pg_locks where not granted"
            wait_until(lambda: value(api.conn, waiting), "the order waits for the run")
            process.kill()
    wait_until(lambda: not value(api.conn, waiting), "its session is gone")
    body = request_bytes(ann, "POST", path, BUY).partition(b"\r\n\r\n")[2]
    headers = keyed("k") | {"Content-Type": "application/json"}
    wait_until(lambda: ann.post(path, content=body, headers=headers).status_code == 201, "the key is free")
    assert len(ann.items(path)) == 1


def test_a_kept_replay_is_the_202(api: Door, ann: Client) -> None:
    run = ann.start(feed=api.feed(range(100, 130)))
    body = {"from": iso(0), "to": iso(29)}
    first = ann.post(f"/v1/runs/{run}/replays", json=body, headers=keyed("k"))
    wait_until(lambda: ann.ok("GET", first.headers["location"])["status"] == "DONE", "the replay is done")
    again = ann.post(f"/v1/runs/{run}/replays", json=body, headers=keyed("k"))
    assert (again.status_code, again.content) == (202, first.content)
