"""Streams of runs: everything once and in order, from where one was, as it happens."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
from door import Client, Door, iso, raw, serving
from helpers import value, wait_until

Item = tuple[str, str, Any]  # id, event, data


@pytest.fixture
def ann(api: Door) -> Client:
    return api.client()


class Reader:
    """Reads a stream in a thread; `items` grows, `end` is the reason of the end."""

    def __init__(self, client: Client, path: str, **options: Any) -> None:
        self.items: list[Item] = []
        self.end: str | None = None
        self.status: int | None = None
        self._client = httpx.Client(base_url=client.base_url, headers=client.headers, timeout=60)
        self._thread = threading.Thread(target=self._read, args=[path], kwargs=options, daemon=True)
        self._thread.start()

    def _read(self, path: str, **options: Any) -> None:
        with self._client.stream("GET", path, **options) as answer:
            self.status = answer.status_code
            block: dict[str, str] = {}
            for line in answer.iter_lines():
                name, _, text = line.partition(": ")
                if line and name:
                    block[name] = text
                elif "data" in block:
                    self._take(block)
                    block = {}

    def _take(self, block: dict[str, str]) -> None:
        data = json.loads(block["data"])
        if block["event"] == "end":
            self.end = data["reason"]
        else:
            self.items.append((block["id"], block["event"], data))

    def join(self) -> list[Item]:
        self._thread.join(30)
        assert not self._thread.is_alive(), "the stream did not end"
        self._client.close()
        return self.items


@contextmanager
def reading(client: Client, path: str, **options: Any) -> Iterator[Reader]:
    reader = Reader(client, path, **options)
    yield reader
    reader._client.close()


def busy_run(api: Door, ann: Client, ticks: int) -> int:
    run = ann.start(feed=api.feed(range(100, 100 + ticks)))
    sip = {"symbol": "AAA", "amount": "150.5", "frequency": "DAILY", "start": "2024-01-01"}
    ann.ok("POST", f"/v1/runs/{run}/sips", 201, json=sip)
    for n in range(ticks):
        ann.tick(run, n)
    return run


def test_a_run_that_has_ended_is_streamed_whole(api: Door, ann: Client) -> None:
    run = busy_run(api, ann, 3)
    ann.ok("POST", f"/v1/runs/{run}/stop")
    reader = Reader(ann, f"/v1/runs/{run}/stream")
    items = reader.join()
    assert (reader.status, reader.end) == (200, "STOPPED")
    assert [event for _, event, _ in items] == ["event", "trade", "tick"] * 3
    assert [item[0] for item in items][:4] == [
        *(f"2024-01-01T16:00:00.000000Z/{n}" for n in (1, 2, 3)),
        "2024-01-02T16:00:00.000000Z/1",
    ]
    ticks = [data for _, event, data in items if event == "tick"]
    assert ticks == ann.items(f"/v1/runs/{run}/equity")
    trades = ann.items(f"/v1/runs/{run}/trades")
    assert [data | {"user_id": ann.user_id, "run_id": run} for _, event, data in items if event == "trade"] == trades
    events = ann.items(f"/v1/runs/{run}/events")
    assert [data | {"user_id": ann.user_id, "run_id": run} for _, event, data in items if event == "event"] == events


def test_it_goes_on_from_any_item(api: Door, ann: Client) -> None:
    run = busy_run(api, ann, 4)
    ann.ok("POST", f"/v1/runs/{run}/stop")
    path = f"/v1/runs/{run}/stream"
    whole = Reader(ann, path).join()
    for n, (after, _, _) in enumerate(whole, 1):
        assert Reader(ann, path, headers={"Last-Event-ID": after}).join() == whole[n:]
    assert Reader(ann, path, params={"last_event_id": whole[4][0]}).join() == whole[5:]
    for wrong in ("x", "2024-01-01T16:00:00Z/1", "2024-01-01T16:00:00.000000Z/0", "2024-01-01T16:00:00.000000Z/1'"):
        ann.refused(422, "TE101", "GET", path, headers={"Last-Event-ID": wrong})


@pytest.mark.parametrize("policy", ["EVERY_TICK", "SESSION", "EVENTS"])
def test_items_and_ids_do_not_depend_on_the_page(api: Door, ann: Client, policy: str) -> None:
    """Nor on what the run has stored of its marks."""
    run = ann.start(feed=api.feed(range(100, 140)), mark_policy=policy)
    sip = {"symbol": "AAA", "amount": "150.5", "frequency": "WEEKLY", "start": "2024-01-01"}
    ann.ok("POST", f"/v1/runs/{run}/sips", 201, json=sip)
    ann.ok("POST", f"/v1/runs/{run}/orders", 201, json={"symbol": "AAA", "side": "BUY", "quantity": 2})
    for n in range(40):
        ann.tick(run, n)
    page = "select id, event, data from run_stream(%s, %s, %s, %s)"
    whole = api.conn.execute(page, [ann.user_id, run, None, 10_000]).fetchall()
    assert [data for _, event, data in whole if event == "tick"] == ann.items(f"/v1/runs/{run}/equity", limit=1000)
    for size in (1, 3, 7):
        found: list[Any] = []
        while rows := api.conn.execute(page, [ann.user_id, run, found[-1][0] if found else None, size]).fetchall():
            found += rows
        assert found == whole


def test_it_follows_the_run_as_it_moves(api: Door, ann: Client) -> None:
    """Ticks of this process, of another session, of tick_all; then the stop."""
    run = busy_run(api, ann, 2)
    with reading(ann, f"/v1/runs/{run}/stream") as reader:
        wait_until(lambda: len(reader.items) == 6, "what has happened is there")
        ann.tick(run, 2)
        wait_until(lambda: reader.items[-1][2]["logical_time"] == iso(2), "a tick of this process arrives")
        api.conn.execute("call tick(%s, %s, %s)", [ann.user_id, run, iso(3)])
        wait_until(lambda: reader.items[-1][2]["logical_time"] == iso(3), "a tick of another session arrives")
        feed = ann.ok("GET", f"/v1/runs/{run}")["feed"]
        api.conn.execute("call tick_all(%s, %s)", [iso(4), feed])
        wait_until(lambda: reader.items[-1][2]["logical_time"] == iso(4), "a tick of tick_all arrives")
        api.conn.execute("select stop_run(%s, %s)", [ann.user_id, run])
        reader.join()
    assert reader.end == "STOPPED"
    assert len({item[0] for item in reader.items}) == len(reader.items)


def test_a_revoked_key_ends_its_streams_and_no_others(api: Door, ann: Client) -> None:
    bob = api.client()
    runs = busy_run(api, ann, 1), busy_run(api, bob, 1)
    with (
        reading(ann, f"/v1/runs/{runs[0]}/stream") as of_ann,
        reading(bob, f"/v1/runs/{runs[1]}/stream") as of_bob,
    ):
        wait_until(lambda: of_ann.items and of_bob.items, "both have begun")
        api.conn.execute("update api_key set revoked_at = now() where user_id = %s", [ann.user_id])
        of_ann.join()
        assert (of_ann.end, of_bob.end) == ("key", None)
        bob.ok("DELETE", f"/v1/runs/{runs[1]}", 204)
        of_bob.join()
        assert of_bob.end == "deleted"


def test_streams_are_of_ones_own_runs(api: Door, ann: Client) -> None:
    run = busy_run(api, ann, 1)
    api.client().refused(404, "TE204", "GET", f"/v1/runs/{run}/stream")


def test_streams_are_watched_together_and_only_while_there_are_any(api: Door) -> None:
    """One query for all, however many there are; none when there is none; and SIGTERM ends them."""
    clients = [api.client() for _ in range(5)]
    runs = [busy_run(api, client, 1) for client in clients]
    watching = "select count(*) from pg_stat_activity where strpos(query, 'unnest($1::bigint[], $2::bigint[])') > 0"
    with serving(api.dsn, "--pool", "2") as process:
        there = [api.client(url=process.url, like=client) for client in clients]
        readers = [Reader(client, f"/v1/runs/{run}/stream") for client, run in zip(there, runs, strict=True)]
        wait_until(lambda: all(reader.items for reader in readers), "all have begun")
        text = there[0].get("/metrics").text
        assert "papertick_streams 5" in text
        assert value(api.conn, watching) <= 1
        assert process.stop() == 0
        for reader in readers:
            reader.join()
    assert [reader.end for reader in readers] == ["shutdown"] * 5


def test_a_client_that_leaves_is_forgotten(api: Door, ann: Client) -> None:
    run = busy_run(api, ann, 1)
    with serving(api.dsn) as process:
        there = api.client(url=process.url, like=ann)
        with raw(process, stream_request(ann, run)) as sock:
            assert re.match(rb"HTTP/1.1 200", sock.recv(100))
            wait_until(lambda: "papertick_streams 1" in there.get("/metrics").text, "it is there")
        wait_until(lambda: "papertick_streams 0" in there.get("/metrics").text, "it is gone")


def stream_request(client: Client, run: int) -> bytes:
    return f"GET /v1/runs/{run}/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.key}\r\n\r\n".encode()


def test_a_quiet_stream_shows_that_it_lives(api: Door, ann: Client) -> None:
    run = busy_run(api, ann, 1)
    with serving(api.dsn, "--heartbeat", "0.2") as process, raw(process, stream_request(ann, run)) as sock:
        found = b""
        while found.count(b"\n: still here\n\n") < 3:
            part = sock.recv(4096)
            assert part, found
            found += part
        assert found.count(b"event: tick") == 1


def test_a_client_that_does_not_read_is_cut_off(api: Door, ann: Client) -> None:
    """And one that does is not, though it has as much to read."""
    run = busy_run(api, ann, 1)
    api.conn.execute(
        "insert into event_ledger (user_id, run_id, logical_time, event_type, event_key, payload)"
        " select %s, %s, %s, 'SIP_MISSED', 'x:' || n, jsonb_build_object('note', repeat('x', 4000)) from generate_series(1, 5000) n",
        [ann.user_id, run, iso(0)],
    )
    with serving(api.dsn, "--write-timeout", "1") as process:
        there = api.client(url=process.url, like=ann)

        def streams() -> int:
            found = re.search(r"^papertick_streams (\d+)", there.get("/metrics").text, re.M)
            assert found
            return int(found[1])

        with raw(process, stream_request(ann, run)) as sock:
            wait_until(lambda: streams() == 1, "it has begun")
            wait_until(lambda: streams() == 0, "it is cut off")
            sock.settimeout(15)
            found = 0
            with suppress(ConnectionResetError):
                while part := sock.recv(1 << 20):
                    found += len(part)
            assert found < 5000 * 4000
        reader = Reader(there, f"/v1/runs/{run}/stream")
        wait_until(lambda: len(reader.items) == 5003, "all of it is there", 30)
        there.ok("DELETE", f"/v1/runs/{run}", 204)
        reader.join()
        assert reader.end == "deleted"
