"""Replays over HTTP: in the background, slice after slice, resumable by anybody."""

from __future__ import annotations

from typing import Any

import pytest
from door import Client, Door, iso, serving
from helpers import Run, at, digest, value, wait_until

from engine_py.api.replays import Range

BARS = 1500


@pytest.fixture
def ann(api: Door) -> Client:
    return api.client()


def daily(ann: Client, run: int) -> None:
    sip = {"symbol": "AAA", "amount": "1", "frequency": "DAILY", "start": "2024-01-01"}
    ann.ok("POST", f"/v1/runs/{run}/sips", 201, json=sip)


def replay(ann: Client, run: int, first: float = 0, last: float = BARS - 1) -> tuple[str, dict[str, Any]]:
    answer = ann.post(f"/v1/runs/{run}/replays", json={"from": iso(first), "to": iso(last)})
    assert answer.status_code == 202, answer.text
    return answer.headers["location"], answer.json()


def done(ann: Client, where: str, seconds: float = 60) -> dict[str, Any]:
    wait_until(lambda: ann.ok("GET", where)["status"] != "RUNNING", "the replay is over", seconds)
    found: dict[str, Any] = ann.ok("GET", where)
    return found


def test_a_replay_writes_what_ticks_write(api: Door, ann: Client) -> None:
    bob, feed = api.client(), api.feed(range(100, 130))
    runs = ann.start(feed=feed), bob.start(feed=feed)
    daily(ann, runs[0]), daily(bob, runs[1])
    where, first = replay(ann, runs[0], 0, 29)
    assert (first["from"], first["to"], first["problem"]) == (iso(0), iso(29), None)
    found = done(ann, where)
    assert (found["status"], found["progress"], found["last_logical_time"]) == ("DONE", "1", iso(29))
    for n in range(30):
        bob.tick(runs[1], n)
    assert digest(api.conn, Run(ann.user_id, runs[0])) == digest(api.conn, Run(bob.user_id, runs[1]))
    assert replay(ann, runs[0], 0, 29)[1]["status"] == "DONE"  # again: nothing to do


def test_progress_and_a_killed_replay_is_finished_by_another_process(api: Door, ann: Client) -> None:
    run = ann.start(feed=api.feed([100 + n % 7 for n in range(BARS)]))
    daily(ann, run)
    with serving(api.dsn) as process:
        there = api.client(url=process.url, like=ann)
        where, first = replay(there, run)
        assert (first["status"], first["last_logical_time"]) == ("RUNNING", iso(0))
        wait_until(lambda: float(there.ok("GET", where)["progress"]) > 0.2, "some of it is done", 30)
        process.kill()
    wait_until(lambda: float(ann.ok("GET", where)["progress"]) > 0.2, "its last slice is over or rolled back")
    found = ann.ok("GET", where)
    if found["status"] != "DONE":
        assert found["status"] == "INTERRUPTED"
        assert replay(ann, run)[0] == where
    assert done(ann, where)["status"] == "DONE"
    assert value(api.conn, "select count(*) from mtm_ledger where user_id = %s", [ann.user_id]) == BARS
    assert ann.items(f"/v1/runs/{run}/violations") == []


def quiet(api: Door, ann: Client, bars: int) -> int:
    """A run that does nothing, over a bar a minute."""
    feed = api.feed([100])
    api.conn.execute(
        "insert into price_bar (feed, symbol, logical_time, open, high, low, close)"
        " select %s, 'AAA', %s + n * interval '1 minute', 100, 100, 100, 100 from generate_series(1, %s) n",
        [feed, at(0), bars],
    )
    return ann.start(feed=feed)


def test_quiet_bars_are_replayed_in_slices_too(api: Door, ann: Client) -> None:
    """So that no slice meets its timeout, and what is done stays done."""
    run = quiet(api, ann, 45_000)
    api.conn.execute("create table slice (logical_time timestamptz, work bigint default txid_current())")
    api.conn.execute(
        "create function note_slice() returns trigger language plpgsql security definer as"
        " 'begin insert into public.slice select max(logical_time) from n; return null; end'"
    )
    api.conn.execute(
        "create trigger note_slice after insert on mtm_ledger referencing new table as n"
        " for each statement execute function note_slice()"
    )
    assert done(ann, replay(ann, run, 0, 100)[0])["progress"] == "1"
    ends = api.conn.execute("select max(logical_time) from slice group by work order by 1").fetchall()
    assert [(end - at(0)).total_seconds() / 60 for (end,) in ends] == [0, 20_000, 40_000, 45_000]


def test_progress_is_that_of_the_bars(api: Door, ann: Client) -> None:
    """Not of the range, which may begin long before the first of them."""
    run = quiet(api, ann, 1000)
    span = Range.of(iso(-9000), iso(100))
    where = f"/v1/runs/{run}/replays/{span.id}"
    assert (ann.ok("GET", where)["status"], ann.ok("GET", where)["progress"]) == ("INTERRUPTED", "0.0000")
    part = "select replay_part(%s, %s, %s, %s, 500, p_times => 251)"
    assert value(api.conn, part, [ann.user_id, run, span.first, span.last]) is False
    found = ann.ok("GET", where)
    assert (found["status"], found["progress"]) == ("INTERRUPTED", "0.2500")


def test_sigterm_stops_a_replay_at_the_end_of_a_slice(api: Door, ann: Client) -> None:
    run = ann.start(feed=api.feed([100 + n % 7 for n in range(BARS)]))
    daily(ann, run)
    with serving(api.dsn) as process:
        where, _ = replay(api.client(url=process.url, like=ann), run)
        assert process.stop() == 0
    assert ann.ok("GET", where)["status"] in ("INTERRUPTED", "DONE")
    replay(ann, run)
    assert done(ann, where)["status"] == "DONE"


def test_a_replay_whose_run_is_stopped_has_failed(api: Door, ann: Client) -> None:
    run = ann.start(feed=api.feed([100 + n % 7 for n in range(BARS)]))
    daily(ann, run)
    where, _ = replay(ann, run)
    ann.ok("POST", f"/v1/runs/{run}/stop")
    found = done(ann, where)
    if found["status"] != "DONE":
        assert (found["status"], found["problem"]["code"]) == ("FAILED", "TE001")
        ann.refused(409, "TE001", "POST", f"/v1/runs/{run}/replays", json={"from": iso(0), "to": iso(BARS)})


def test_one_replay_of_a_run_at_a_time(api: Door, ann: Client) -> None:
    run = ann.start(feed=api.feed([100 + n % 7 for n in range(BARS)]))
    daily(ann, run)
    where, _ = replay(ann, run)
    assert replay(ann, run)[0] == where  # the same range joins it
    other = ann.post(f"/v1/runs/{run}/replays", json={"from": iso(0), "to": iso(5)})
    if other.status_code != 202:  # the first was not over yet
        assert (other.status_code, other.json()["code"]) == (409, "replay_running")
    done(ann, where)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"from": iso(0)}, 422, "invalid"),
        ({"from": iso(0), "to": "2024-01-01"}, 422, "invalid"),
        ({"from": "0001-01-01T00:00:00+14:00", "to": iso(1)}, 422, "invalid"),
        ({"from": iso(0), "to": "9999-12-31T23:59:59-14:00"}, 422, "invalid"),
    ],
)
def test_ranges_that_are_refused(api: Door, ann: Client, body: dict[str, str], status: int, code: str) -> None:
    run = ann.start(feed=api.feed())
    ann.refused(status, code, "POST", f"/v1/runs/{run}/replays", json=body)


@pytest.mark.parametrize("replay_id", ["x", "1_x", "01_2", "99999999999999999_1", "1704067200000000"])
def test_what_is_no_replay_is_unknown(api: Door, ann: Client, replay_id: str) -> None:
    run = ann.start(feed=api.feed())
    ann.refused(404, "not_found", "GET", f"/v1/runs/{run}/replays/{replay_id}")


def test_times_that_were_never_ticked_are_refused_at_once(api: Door, ann: Client) -> None:
    run = ann.start(feed=api.feed(range(100, 110)))
    ann.tick(run, 5)
    ann.refused(409, "TE003", "POST", f"/v1/runs/{run}/replays", json={"from": iso(0), "to": iso(9)})
