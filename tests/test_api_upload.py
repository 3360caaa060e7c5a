"""What administrators do over HTTP: users, keys, market data; and that nobody else does."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from door import Client, Door, iso, serving
from helpers import raises, value

from engine_py.api.routing import ROUTES

DATA = Path(__file__).parent / "data_in"
CSV, NDJSON = {"Content-Type": "text/csv"}, {"Content-Type": "application/x-ndjson"}
HEAD = "symbol,logical_time,open,high,low,close,volume\n"
LINES = "".join(f"AAA,{iso(n)},{100 + n},{103 + n},{98 + n},{101 + n},1000\n" for n in range(10))


@pytest.fixture
def admin(api: Door) -> Client:
    return api.client(admin=True)


def new(what: str) -> str:
    return f"{what} {os.urandom(6).hex()}"


def load(admin: Client, feed: str, content: Any, headers: dict[str, str] = CSV, **query: str) -> httpx.Response:
    return admin.post(f"/v1/admin/feeds/{feed}/bars", content=content, headers=headers, params=query)


def bars(admin: Client, feed: str, symbol: str = "AAA") -> list[dict[str, Any]]:
    return admin.items("/v1/bars", feed=feed, symbol=symbol)


def test_bars_are_loaded_and_loaded_again(admin: Client) -> None:
    feed = new("feed")
    report = load(admin, feed, HEAD + LINES).json()
    assert (report["read"], report["rows"], report["unchanged"], report["symbols"]) == (10, 10, 0, 1)
    assert (report["first"], report["last"]) == (iso(0), iso(9))
    assert [bar["open"] for bar in bars(admin, feed)][:2] == ["100.00000000", "101.00000000"]
    report = load(admin, feed, gzip.compress((HEAD + LINES).encode())).json()
    assert (report["rows"], report["unchanged"]) == (0, 10)


def test_bars_in_the_dialect_of_their_source(admin: Client) -> None:
    feed, content = new("feed"), (DATA / "yahoo_ACME.csv").read_bytes()
    path = f"/v1/admin/feeds/{feed}/bars"
    said = {"format": "yahoo", "symbol": "ACME"}
    admin.refused(400, "invalid", "POST", path, content=content, headers=CSV, params=said)  # whether they are adjusted
    assert load(admin, feed, content, **said, prices="adjusted").json()["rows"] == 3
    assert bars(admin, feed, "ACME")[0]["close"] == "51.00000000"
    navs = load(admin, new("feed"), (DATA / "NAVAll.txt").read_bytes(), format="amfi-nav")
    assert navs.json()["rows"] == 3
    admin.refused(422, "invalid", "POST", path, content=content, headers=CSV, params={"format": "parquet"})


def test_ndjson_is_the_same_and_keeps_every_digit(admin: Client) -> None:
    feed = new("feed")
    rows = [
        '{"symbol": "AAA", "time": "2024-01-01T16:00:00Z", "open": 0.1, "high": 0.30000001, "low": "0.1", "close": 0.3}',
        "",
        '{"time": "2024-01-02T16:00:00Z", "symbol": "AAA", "open": 1e0, "high": 1, "low": 1, "close": 1, "ask": null}',
    ]
    assert load(admin, feed, "\n".join(rows[:2]), NDJSON).json()["rows"] == 1
    assert bars(admin, feed)[0]["high"] == "0.30000001"
    found = load(admin, feed, "\n".join(rows), NDJSON)
    assert (found.status_code, found.json()["title"]) == (422, "line 3: 'ask' is not in the first object")


@pytest.mark.parametrize(
    ("headers", "content", "code"),
    [
        (CSV, HEAD + LINES + f"AAA,{iso(20)},1,1,2,1,\n", "23514"),
        (CSV, HEAD + f"AAA,{iso(20)},NaN,1,1,1,\n", "22P02"),
        (CSV, HEAD + "AAA,2024-01-01T16:00:00,1,1,1,1,\n", "22007"),
        (CSV, "nothing\n", "42703"),
        (CSV, b"\xff\xfe\x00", "22021"),
        (CSV, b"\x1f\x8bnot gzip", "22P04"),
        (NDJSON, "{}\n", "invalid"),
        (NDJSON, "[1]\n", "invalid"),
        (NDJSON, "{\n", "invalid"),
        (NDJSON, json.dumps({"symbol": "A\nB"}), "invalid"),
        (NDJSON, json.dumps({"symbol": {}}), "invalid"),
    ],
)
def test_a_bad_line_refuses_the_whole_file(admin: Client, headers: dict[str, str], content: Any, code: str) -> None:
    feed = new("feed")
    admin.refused(422, code, "POST", f"/v1/admin/feeds/{feed}/bars", content=content, headers=headers)
    assert bars(admin, feed) == []
    assert feed not in {row["feed"] for row in admin.items("/v1/feeds", limit=1000)}


def test_the_first_problems_are_named_with_their_lines(admin: Client) -> None:
    content = HEAD + "".join(f"AAA,{iso(n)},0,0,0,0,\n" for n in range(30))
    path = f"/v1/admin/feeds/{new('feed')}/bars"
    detail = admin.refused(422, "23514", "POST", path, content=content, headers=CSV)["detail"]
    assert detail.startswith("line 2: ")
    assert detail.endswith("... and 10 more")


def test_sessions_and_actions_are_loaded(admin: Client) -> None:
    calendar, feed, symbol = new("calendar"), new("feed"), new("S").replace(" ", "")
    content = "session_date,open_at,close_at\n2024-01-02,2024-01-02T09:15:00+05:30,2024-01-02T15:30:00+05:30\n"
    path = f"/v1/admin/calendars/{calendar}/sessions"
    query = {"time_zone": "Asia/Kolkata"}
    assert admin.ok("POST", path, content=content, headers=CSV, params=query)["rows"] == 1
    row = f'{{"symbol": "{symbol}", "date": "2024-01-02", "open": 5, "high": 5, "low": 5, "close": 5}}'
    assert load(admin, feed, row, NDJSON, calendar=calendar).json()["outside_sessions"] == 0
    assert bars(admin, feed, symbol)[0]["logical_time"] == "2024-01-02T10:00:00Z"
    content = f"symbol,ex_date,action_type,ratio_numerator,ratio_denominator\n{symbol},2024-02-02,SPLIT,2,1\n"
    path = f"/v1/admin/feeds/{feed}/actions"
    assert admin.ok("POST", path, content=content, headers=CSV)["rows"] == 1
    admin.refused(404, "TE201", "POST", "/v1/admin/tick-all", json={"logical_time": iso(0), "feed": new("none")})
    admin.refused(422, "TE101", "POST", f"/v1/admin/feeds/{new('x')}/bars?calendar=NONE", content=HEAD, headers=CSV)


def test_an_upload_with_a_key_is_done_once(admin: Client) -> None:
    feed = new("feed")
    first = load(admin, feed, HEAD + LINES, CSV | {"Idempotency-Key": "k"})
    again = load(admin, feed, HEAD + LINES, CSV | {"Idempotency-Key": "k"})
    assert (first.json()["rows"], again.content, again.headers["idempotent-replayed"]) == (10, first.content, "true")
    other = load(admin, feed, HEAD, CSV | {"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    bad = HEAD + f"AAA,{iso(30)},0,0,0,0,\n"
    refused = [load(admin, feed, bad, CSV | {"Idempotency-Key": "bad"}) for _ in range(2)]
    assert [answer.status_code for answer in refused] == [422, 422]
    assert refused[1].headers["idempotent-replayed"] == "true"


def test_uploads_have_a_limit_of_their_own(api: Door, admin: Client) -> None:
    content = HEAD + LINES * 200
    with serving(api.dsn, "--max-upload", "10000", "--max-body", "2000") as process:
        there = api.client(url=process.url, like=admin)
        path = f"/v1/admin/feeds/{new('feed')}/bars"
        there.refused(413, "too_large", "POST", path, content=content, headers=CSV)
        there.refused(413, "too_large", "POST", path, content=iter([content.encode()]), headers=CSV)
        assert there.post(path, content=HEAD + LINES * 5, headers=CSV).json()["unchanged"] == 40


def test_users_and_keys_are_made_and_shown_once(api: Door, admin: Client) -> None:
    user = admin.ok("POST", "/v1/admin/users", 201, json={"name": "zoë"})
    path = f"/v1/admin/users/{user['user_id']}/keys"
    made = admin.ok("POST", path, 201, json={"label": "laptop", "expires_at": "2099-01-01T00:00:00Z"})
    assert set(made) == {"key_id", "key", "prefix"}
    zoe = Client(api.url, user["user_id"], made["key"])
    assert zoe.ok("GET", "/v1/me")["name"] == "zoë"
    (listed,) = admin.items(path)
    assert (listed["label"], listed["expires_at"], listed["is_admin"]) == ("laptop", "2099-01-01T00:00:00Z", False)
    assert made["key"] not in json.dumps(listed)
    admin.ok("DELETE", f"{path}/{made['key_id']}", 204)
    zoe.refused(401, "28000", "GET", "/v1/me")
    zoe.close()
    admin.refused(409, "23503", "POST", f"/v1/admin/users/{2**62}/keys", json={})
    admin.refused(422, "TE101", "POST", path, json={"expires_at": "2001-01-01T00:00:00Z"})
    admin.refused(422, "TE101", "POST", "/v1/admin/users", json={"name": "  "})


def test_feeds_and_instruments_are_made_once(admin: Client) -> None:
    feed, symbol = new("feed"), new("S").replace(" ", "")
    assert admin.ok("POST", "/v1/admin/feeds", 201, json={"feed": feed})["calendar"] == "ALWAYS"
    assert (
        admin.refused(409, "23505", "POST", "/v1/admin/feeds", json={"feed": feed})["detail"] == "constraint=feed_pkey"
    )
    made = admin.ok("POST", "/v1/admin/instruments", 201, json={"symbol": symbol, "price_tick": 0.05})
    assert (made["price_tick"], made["product"]) == ("0.05000000", "EQUITY")
    admin.refused(422, "23514", "POST", "/v1/admin/instruments", json={"symbol": symbol + "x", "quantity_step": 0})


def test_tick_all_ticks_everybodys_runs(api: Door, admin: Client) -> None:
    feed, users = api.feed(), [api.client() for _ in range(3)]
    runs = [user.start(feed=feed) for user in users]
    body = {"logical_time": iso(1), "feed": feed}
    assert admin.ok("POST", "/v1/admin/tick-all", json=body) == body
    times = [user.ok("GET", f"/v1/runs/{run}")["last_logical_time"] for user, run in zip(users, runs, strict=True)]
    assert times == [iso(1)] * 3


@pytest.mark.parametrize("route", [route for route in ROUTES if route.admin_only], ids=lambda route: route.name)
def test_admin_routes_take_an_admins_key(api: Door, route: Any) -> None:
    path = route.path.format(user_id=1, key_id=1, feed="default", calendar="X")
    users = value(api.conn, "select count(*) from app_user")
    ann = api.client()
    ann.refused(403, "TE301", route.method, path, json={} if route.body else None)
    assert value(api.conn, "select count(*) from app_user") == users + 1


def test_the_database_itself_holds_to_that(api: Door) -> None:
    """Even if the door were fooled: the tables open to an administrator's key alone."""
    ann = api.client()
    conn = api.conn
    with conn.transaction(force_rollback=True):
        conn.execute("set local session authorization papertick_api")
        conn.execute("select authenticate(%s)", [ann.key])
        for statement in ("insert into feed (feed) values ('mine')", "select create_user('x')", "call tick_all(now())"):
            with raises("42501", "TE301", conn=conn):
                conn.execute(statement)
