"""What comes in over HTTP is read exactly, or refused: numbers, times, JSON, cursors."""

from __future__ import annotations

import base64
import json

import pytest
from door import Client, Door, iso
from hypothesis import given
from hypothesis import strategies as st

from engine_py.api.fields import exact

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def ann(api: Door) -> Client:
    return api.client()


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("5000", "5000.0000"),
        ('"5000.25"', "5000.2500"),
        ("0.1", "0.1000"),
        ("1e3", "1000.0000"),
        ("1E-2", "0.0100"),
        ("0.30", "0.3000"),
        ("0.1000000000000000", "0.1000"),
        ('"-0"', "0.0000"),
        ("0e500", "0.0000"),
        ("999999999999.99", "999999999999.9900"),
    ],
)
def test_decimals_are_taken_by_their_digits(ann: Client, text: str, stored: str) -> None:
    answer = ann.post("/v1/runs", content=f'{{"initial_cash": {text}}}', headers=JSON)
    assert (answer.status_code, answer.json()["initial_cash"]) == (201, stored)


@pytest.mark.parametrize(
    "text",
    [
        *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "0.30000000000000004", "1000000000000"),
        *('"NaN"', '"Infinity"', '"1e3"', '"0x10"', '" 1"', '"1 "', '"1,5"', '""', '"1."', '"\u0661"', '"0.123456789"'),
        *("true", "[]", "{}", "9" * 5000, '"' + "9" * 5000 + '"'),
    ],
)
def test_what_is_no_decimal_of_ours_is_refused(ann: Client, text: str) -> None:
    ann.refused(422, "invalid", "POST", "/v1/runs", content=f'{{"initial_cash": {text}}}', headers=JSON)
    assert ann.items("/v1/runs") == []


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**11), max_value=10**11, places=8))
def test_every_decimal_of_eight_places_comes_through(number):
    text = exact(number)
    assert text is not None
    assert "e" not in text.lower()
    assert type(number)(text) == number


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "invalid"),
        (b"{", 400, "malformed"),
        (b"[" * 100_000, 400, "malformed"),
        (b'{"initial_cash": 01}', 400, "malformed"),
        (b"{'initial_cash': 1}", 400, "malformed"),
        (b"\xef\xbb\xbf{}", 400, "malformed"),
        (b"[]", 422, "invalid"),
        (b"null", 422, "invalid"),
        (b'{"initial_cash": 1, "initial_cash": 2}', 422, "invalid"),
        (b'{"initial_cash": 1, "user_id": 1}', 422, "invalid"),
        (b'{"initial_cash": 1, "p_name": "x"}', 422, "invalid"),
        (b'{"initial_cash": null}', 422, "invalid"),
        (b'{"initial_cash": 1, "name": "a\\u0000b"}', 422, "invalid"),
        (b'{"initial_cash": 1, "name": "\\ud800"}', 422, "invalid"),
        (b'{"initial_cash": 1, "name": "\xff"}', 422, "invalid"),
        (b'{"initial_cash": 1, "name": 5}', 422, "invalid"),
        (b'{"initial_cash": 1, "reinvest_dividends": "yes"}', 422, "invalid"),
        (b'{"initial_cash": 1, "penetration_ticks": 1.5}', 422, "invalid"),
        (b'{"initial_cash": 1, "mark_policy": "every_tick"}', 422, "invalid"),
        (b'{"initial_cash": 1, "max_price_age": "soon"}', 422, "22007"),
        (b'{"initial_cash": 1, "max_price_age": "99999999999 years"}', 422, "22015"),
    ],
)
def test_bodies_that_are_refused(ann: Client, content: bytes, status: int, code: str) -> None:
    ann.refused(status, code, "POST", "/v1/runs", content=content, headers=JSON)
    assert ann.items("/v1/runs") == []


def test_names_come_back_as_they_were_sent(ann: Client) -> None:
    name = 'Zoë\'s "run" \u2028 \U0001f600 \x01'
    assert ann.ok("POST", "/v1/runs", 201, json={"initial_cash": 1, "name": name})["name"] == name


def test_media_type_must_be_json(ann: Client) -> None:
    for media in ("text/plain", "application/x-www-form-urlencoded", ""):
        headers = {"Content-Type": media}
        ann.refused(415, "media_type", "POST", "/v1/runs", content=b'{"initial_cash": 1}', headers=headers)
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert ann.post("/v1/runs", content=b'{"initial_cash": 1}', headers=headers).status_code == 201


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("2024-01-01T16:00:00Z", "2024-01-01T16:00:00Z"),
        ("2024-01-01t16:00:00z", "2024-01-01T16:00:00Z"),
        ("2024-01-01T11:00:00-05:00", "2024-01-01T16:00:00Z"),
        ("2024-01-01T16:00:00.250000Z", "2024-01-01T16:00:00.25Z"),
        ("2024-01-01T21:30:00.000001000+05:30", "2024-01-01T16:00:00.000001Z"),
    ],
)
def test_times_carry_an_offset_and_are_answered_in_utc(api: Door, ann: Client, text: str, stored: str) -> None:
    run = ann.start(feed=api.feed())
    assert ann.ok("POST", f"/v1/runs/{run}/ticks", json={"logical_time": text})["last_logical_time"] == stored


@pytest.mark.parametrize(
    "text",
    [
        *("2024-01-01", "2024-01-01T16:00:00", "2024-01-01 16:00:00Z", "2024-02-30T16:00:00Z", "now", "infinity", ""),
        *("2024-01-01T16:00:00.0000001Z", "2024-01-01T24:01:00Z", "2024-01-01T16:00:00+5", "1704124800", 1704124800),
    ],
)
def test_what_is_no_time_is_refused(api: Door, ann: Client, text: object) -> None:
    run = ann.start(feed=api.feed())
    ann.refused(422, "invalid", "POST", f"/v1/runs/{run}/ticks", json={"logical_time": text})
    assert ann.ok("GET", f"/v1/runs/{run}")["last_logical_time"] is None


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=1&limit=2",
        "nothing=1",
        "limit=%ff",
        "cursor=%00",
        "from=2024-01-01",
        "limit=",
    ],
)
def test_queries_that_are_refused(api: Door, ann: Client, query: str) -> None:
    run = ann.start(feed=api.feed())
    ann.refused(422, "invalid", "GET", f"/v1/runs/{run}/equity?{query}")


def test_pages_hold_everything_once(api: Door, ann: Client) -> None:
    run = ann.start(feed=api.feed(range(100, 123)))
    ann.ok(
        "POST",
        f"/v1/runs/{run}/sips",
        201,
        json={"symbol": "AAA", "amount": 20, "frequency": "DAILY", "start": "2024-01-01"},
    )
    ann.ok(
        "POST",
        f"/v1/runs/{run}/rebalances",
        201,
        json={"weights": {"AAA": 0.1}, "frequency": "DAILY", "start": "2024-01-01"},
    )
    ann.ok("POST", f"/v1/runs/{run}/replays", 202, json={"from": iso(0), "to": iso(0)})
    for n in range(1, 23):
        ann.tick(run, n)
    for rest in ("orders", "trades", "cash", "mtm", "equity", "events", "positions", "performance", "status", "sips"):
        whole = ann.items(f"/v1/runs/{run}/{rest}", limit=1000)
        found, query = [], {"limit": "4"}
        while True:
            page = ann.ok("GET", f"/v1/runs/{run}/{rest}", params=query)
            assert len(page["items"]) <= 4
            found += page["items"]
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
        assert found == whole, rest
        assert whole


def test_pages_of_market_data_hold_everything_once(api: Door, ann: Client) -> None:
    for path in ("/v1/fee-schedules", "/v1/feeds", "/v1/calendars", "/v1/instruments"):
        whole, found, query = ann.items(path, limit=1000), [], {"limit": "7"}
        while len(found) < len(whole):
            page = ann.ok("GET", path, params=query)
            found += page["items"]
            query["cursor"] = page["next_cursor"]
        assert (found, query["cursor"]) == (whole, None)


def test_cursors_are_taken_where_they_were_given(api: Door, ann: Client) -> None:
    run = ann.start(feed=api.feed(range(100, 104)))
    for n in range(4):
        ann.tick(run, n)
    path = f"/v1/runs/{run}/equity"
    cursor = ann.ok("GET", path, params={"limit": 1})["next_cursor"]
    assert ann.items(path, cursor=cursor, limit=1)[0]["logical_time"] == iso(1)
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    moved = base64.urlsafe_b64encode(raw.replace(b"2024-01-01", b"2024-01-03")).decode()
    bare = base64.urlsafe_b64encode(json.dumps([iso(2)]).encode()).decode()
    for forged in (moved, bare, cursor[:-2], cursor + "AA", "x", "é", "A" * 1999, "W10"):
        ann.refused(422, "invalid", "GET", path, params={"cursor": forged})
    ann.refused(422, "invalid", "GET", f"/v1/runs/{run}/mtm", params={"cursor": cursor})
    ann.refused(422, "invalid", "GET", path, params={"cursor": cursor, "from": iso(0)})
