"""Nobody else's, nobody without a key: each operation of /openapi.json against strangers, and nothing changes.

Requests are made from the description alone. An operation that fits no class here fails `test_every_operation_is_met`.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from door import PROBLEM, Client, Door, description, iso
from helpers import value
from psycopg import sql

MISSING = 4_611_686_018_427_387_904  # 2**62: an id that nobody has
# Of members that any value of their type will not do for.
SAMPLES: dict[str, Any] = {
    "symbol": "AAA",
    "from": iso(0),
    "to": iso(2),
    "limit_price": "50",
    "stop_price": "500",
    "logical_time": iso(1),
    "amount": "10",
}
# Concern the caller alone, or all who have a key: they name nothing that is somebody's.
OWN = {
    "start_run",
    "list_runs",
    "get_me",
    "list_keys",
    "list_feeds",
    "list_calendars",
    "list_instruments",
    "list_fee_schedules",
}
OWN |= {"list_bars", "list_leaderboard"}


@dataclass(frozen=True)
class Operation:
    """One method on one path, and the smallest request that the description allows."""

    method: str
    path: str
    document: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.document["operationId"])

    @property
    def ids(self) -> set[str]:
        return {p["name"] for p in self.document["parameters"] if p["in"] == "path"}

    @property
    def is_admins(self) -> bool:
        return "403" in self.document["responses"]

    @property
    def takes_idempotency_key(self) -> bool:
        return any(p["name"] == "Idempotency-Key" for p in self.document["parameters"])

    def query(self, **given: Any) -> dict[str, Any]:
        """What must stand there; of what may, only what is given."""
        found = {}
        for parameter in self.document["parameters"]:
            name = parameter["name"]
            if parameter["in"] == "query" and (parameter["required"] or name in given):
                found[name] = given.get(name, sample(name, parameter["schema"]))
        return found

    def request(self, client: httpx.Client, ids: dict[str, Any], *, method: str = "", **more: Any) -> httpx.Response:
        """`ids` of the path, and of the query where it needs one."""
        path = self.path.format_map(ids)
        query = self.query(**{name: ids[name] for name in ids if name == "other"})
        headers = more.pop("headers", [])
        headers = [*(headers.items() if isinstance(headers, dict) else headers)]
        content = None
        if body := self.document.get("requestBody"):
            media, schema = next((media, body["content"][media]["schema"]) for media in body["content"])
            headers.append(("Content-Type", media))
            content = (
                b"nothing" if schema["type"] == "string" else httpx.Request("POST", "/", json=fill(schema)).content
            )
        with client.stream(
            method or self.method, path, params=query, content=content, headers=headers, **more
        ) as answer:
            if answer.headers.get("content-type", "").startswith("text/event-stream"):
                return answer  # it does not end by itself
            answer.read()
        return answer


def fill(schema: dict[str, Any]) -> dict[str, Any]:
    """What must be given, and a symbol where there may be one: a SIP takes it or something in its place."""
    names = [*schema.get("required", ()), *(("symbol",) if "symbol" in schema["properties"] else ())]
    return {name: sample(name, schema["properties"][name]) for name in names}


def sample(name: str, schema: dict[str, Any]) -> Any:
    """A value that the schema lets through."""
    if name in SAMPLES:
        return SAMPLES[name]
    schema = schema.get("anyOf", [schema])[0]
    if "enum" in schema:
        return schema["enum"][0]
    if "additionalProperties" in schema:
        return {"AAA": "1"}
    if schema["type"] == "integer":
        return max(1, schema["minimum"])
    if schema["type"] == "boolean":
        return False
    if schema.get("format") == "date":
        return "2024-01-01"
    if schema.get("format") == "date-time":
        return iso(0)
    return "1"


OPERATIONS = [
    Operation(method.upper(), path, document)
    for path, methods in description()["paths"].items()
    for method, document in methods.items()
]


def those(wanted: Any) -> Any:
    return pytest.mark.parametrize("op", [op for op in OPERATIONS if wanted(op)], ids=lambda op: op.name)


def is_of_run(op: Operation) -> bool:
    return "run_id" in op.ids


def takes_key(op: Operation) -> bool:
    return bool(op.document["security"])


@dataclass(frozen=True)
class Cast:
    """Ann owns a run with one of everything, Bob an empty one; Eve is an administrator."""

    ann: Client
    bob: Client
    eve: Client
    ids: dict[str, Any]  # Ann's
    feed: str


def furnish(api: Door, ann: Client, feed: str) -> dict[str, Any]:
    """A run with one of everything that has an id; one bar of it is replayed already."""
    run = ann.start(feed=feed)
    path = f"/v1/runs/{run}"
    ann.ok("POST", f"{path}/orders", 201, json={"symbol": "AAA", "side": "BUY", "quantity": "1"})
    ann.tick(run, 0)
    limit = {"symbol": "AAA", "side": "BUY", "quantity": "1", "order_type": "LIMIT", "limit_price": "1"}
    order = ann.ok("POST", f"{path}/orders", 201, json=limit)["order_id"]
    terms = {"frequency": "WEEKLY", "start": "2024-01-01"}
    sip = ann.ok("POST", f"{path}/sips", 201, json={"symbol": "AAA", "amount": "10", **terms})["sip_id"]
    plan = ann.ok("POST", f"{path}/rebalances", 201, json={"weights": {"AAA": "0.5"}, **terms})["plan_id"]
    replay = ann.ok("POST", f"{path}/replays", 202, json={"from": iso(0), "to": iso(0)})["replay_id"]
    key = ann.items("/v1/keys")[0]
    return {
        "run_id": run,
        "order_id": order,
        "sip_id": sip,
        "plan_id": plan,
        "replay_id": replay,
        "key_id": key["key_id"],
        "user_id": ann.user_id,
        "feed": feed,
        "calendar": "ALWAYS",
        "other": run,
    }


@pytest.fixture(scope="module")
def cast(_api: Door) -> Cast:
    feed = _api.feed((100, 101, 102))
    ann, bob, eve = _api.client(), _api.client(), _api.client(admin=True)
    return Cast(ann, bob, eve, furnish(_api, ann, feed), feed)


# --- nothing changes ---


def everything(conn: psycopg.Connection) -> dict[str, str]:
    """All rows of all tables; but not who was seen when, who acts just now, and refusals that are kept."""
    tables = conn.execute(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')"
        " and relname not in ('acting', 'api_answer') order by 1"
    ).fetchall()
    query = "select md5(coalesce(string_agg(x.r, ' ' order by x.r), '')) from (select (to_jsonb(t) - 'last_used_at')::text as r from {} t) x"
    return {name: value(conn, sql.SQL(query).format(sql.Identifier(name))) for (name,) in tables}


@contextmanager
def nothing_changes(api: Door) -> Iterator[None]:
    before = everything(api.conn)
    yield
    assert everything(api.conn) == before


def test_a_change_would_show(api: Door, cast: Cast) -> None:
    before = everything(api.conn)
    assert {"strategy_run", "api_key", "price_bar", "user_login", "paper_order"} <= set(before)
    cast.ann.ok("PUT", f"/v1/runs/{cast.ids['run_id']}/risk-limit", json={"max_position": "7"})
    after = everything(api.conn)
    assert {table for table in before if after[table] != before[table]} == {"risk_limit"}


# --- another user's ---


def told(answer: httpx.Response, *ids: tuple[Any, Any]) -> tuple[int, dict[str, str], str]:
    """All that an answer says, with the ids that the client sent (the first of each pair) in place of the second."""
    text = answer.text
    for sent, known in ids:
        text = text.replace(str(sent), str(known))
    headers = {name: text for name, text in answer.headers.items() if name not in ("date", "content-length")}
    return answer.status_code, headers, text


def without_id(answer: httpx.Response, sent: int) -> tuple[int, dict[str, str], str]:
    """The id is small: only as the value of a pair of the detail."""
    return told(answer, (f"={sent} ", "= "), (f'={sent}"', '="'))


@those(is_of_run)
@pytest.mark.parametrize("who", ["bob", "eve"])
def test_a_run_of_another_is_as_one_that_is_not_there(api: Door, cast: Cast, op: Operation, who: str) -> None:
    """For an administrator too: his key is for market data and users, not for their books."""
    stranger = getattr(cast, who)
    variants: list[dict[str, str]] = [{}]
    if op.takes_idempotency_key:
        variants.append({"Idempotency-Key": ""})
    with nothing_changes(api):
        for headers in variants:
            answers = []
            for run_id in (cast.ids["run_id"], MISSING):
                given = {name: secrets.token_hex(8) for name in headers}
                answers.append(op.request(stranger, cast.ids | {"run_id": run_id}, headers=given))
            theirs, nobodys = answers
            assert theirs.status_code == 404, theirs.text
            assert theirs.json()["code"] == "TE204"
            assert told(theirs) == told(nobodys, (MISSING, cast.ids["run_id"]))


@those(lambda op: is_of_run(op) and op.ids & {"order_id", "sip_id", "plan_id"})
def test_what_another_has_in_his_run_is_not_in_mine(api: Door, cast: Cast, op: Operation) -> None:
    """A replay's id is left out: it is but a range of time, and says nothing about anybody."""
    mine = cast.ids | {"run_id": cast.bob.start(feed=cast.feed)}
    (name,) = op.ids - {"run_id"}
    try:
        with nothing_changes(api):
            theirs, nobodys = (op.request(cast.bob, mine | {name: one}) for one in (cast.ids[name], MISSING))
        assert 400 <= theirs.status_code < 500
        assert without_id(theirs, cast.ids[name]) == without_id(nobodys, MISSING)
    finally:
        cast.bob.ok("DELETE", f"/v1/runs/{mine['run_id']}", 204)


def test_ids_outside_of_paths(api: Door, cast: Cast) -> None:
    """The other run of a diff, the plan that a SIP buys for, a cursor, a key."""
    run = cast.bob.start(feed=cast.feed)
    path = f"/v1/runs/{run}"
    sip = {"amount": "10", "frequency": "WEEKLY", "start": "2024-01-01"}
    with nothing_changes(api):
        diffs = [cast.bob.get(f"{path}/diff", params={"other": o}) for o in (cast.ids["run_id"], MISSING)]
        sips = [
            cast.bob.post(f"{path}/sips", json=sip | {"rebalance_plan": plan})
            for plan in (cast.ids["plan_id"], MISSING)
        ]
        keys = [cast.bob.delete(f"/v1/keys/{key}") for key in (cast.ids["key_id"], MISSING)]
        cursor = cast.ann.ok("GET", f"/v1/runs/{cast.ids['run_id']}/orders", params={"limit": 1})["next_cursor"]
        cast.bob.refused(422, "invalid", "GET", f"{path}/orders", params={"limit": 1, "cursor": cursor})
    assert [answer.status_code for answer in (*diffs, *keys)] == [404] * 4
    assert told(diffs[0]) == told(diffs[1], (MISSING, cast.ids["run_id"]))
    assert told(keys[0]) == told(keys[1], (MISSING, cast.ids["key_id"]))
    assert 400 <= sips[0].status_code < 500
    assert without_id(sips[0], cast.ids["plan_id"]) == without_id(sips[1], MISSING)
    cast.bob.ok("DELETE", path, 204)


def test_an_answer_that_is_kept_for_another_is_not_mine(api: Door, cast: Cast) -> None:
    path, key = f"/v1/runs/{cast.ids['run_id']}/risk-limit", {"Idempotency-Key": secrets.token_hex(8)}
    cast.ann.ok("PUT", path, json={"max_position": "8"}, headers=key)
    with nothing_changes(api):
        refused = cast.bob.put(path, json={"max_position": "8"}, headers=key)
    assert (refused.status_code, refused.headers.get("idempotent-replayed")) == (404, None)


@those(is_of_run)
def test_the_owner_gets_in_with_the_same_request(api: Door, cast: Cast, op: Operation) -> None:
    """Else the 404 of the others would prove nothing."""
    ann = api.client()
    answer = op.request(ann, furnish(api, ann, cast.feed))
    if op.name == "fork_run":  # two RUNNING runs
        assert answer.status_code == 409
    else:
        assert answer.is_success, answer.text


# --- without a key ---


def bad_headers(api: Door) -> dict[str, list[tuple[str, str]]]:
    """What is no proof of being anybody. Of the first key everything else is right."""
    good, gone, late = (api.client() for _ in range(3))
    (row,) = gone.items("/v1/keys")
    gone.ok("DELETE", f"/v1/keys/{row['key_id']}", 204)
    api.conn.execute("update api_key set expires_at = now() where user_id = %s", [late.user_id])
    key, name = good.key, "Authorization"
    good.ok("GET", "/v1/me")  # its key is known to the process by now
    forged = "pt_" + secrets.token_hex(24)
    basic = base64.b64encode(f"{good.user_id}:{key}".encode()).decode()
    alone = {
        "empty": "",
        "no key": "Bearer",
        "forged": f"Bearer {forged}",
        "truncated": f"Bearer {key[:-1]}",
        "prefix": f"Bearer {key[:11]}",
        "longer": f"Bearer {key}0",
        "upper case": f"Bearer {key.upper()}",
        "revoked": f"Bearer {gone.key}",
        "expired": f"Bearer {late.key}",
        "no scheme": key,
        "basic": f"Basic {basic}",
        "another scheme": f"Token {key}",
        "two keys": f"Bearer {key}, Bearer {forged}",
        "quoted": f'Bearer "{key}"',
        "hash": "Bearer "
        + value(api.conn, "select encode(key_hash, 'hex') from api_key where user_id = %s", [good.user_id]),
        "sql": "Bearer ' or true --",
        "long": "Bearer " + "x" * 5000,
        "latin 1": "Bearer \xe9\xff",
    }
    return {
        "none": [],
        "cookie": [("Cookie", f"key={key}"), ("X-API-Key", key)],
        "good and forged": [(name, f"Bearer {key}"), (name, f"Bearer {forged}")],
        "forged and good": [(name, f"Bearer {forged}"), (name, f"Bearer {key}")],
        "good twice": [(name, f"Bearer {key}"), (name, f"Bearer {key}")],
        **{case: [(name, text)] for case, text in alone.items()},
    }


@pytest.fixture(scope="module")
def headers(_api: Door) -> dict[str, list[tuple[str, str]]]:
    return bad_headers(_api)


@pytest.fixture(scope="module")
def nobody(_api: Door) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=_api.url, timeout=30) as client:
        yield client


@those(takes_key)
def test_without_a_good_key_there_is_nothing(
    api: Door, cast: Cast, op: Operation, headers: dict[str, list[tuple[str, str]]], nobody: httpx.Client
) -> None:
    answers = {}
    with nothing_changes(api):
        for case, given in headers.items():
            raw = [(name, text.encode("latin-1")) for name, text in given]
            answers[case] = op.request(nobody, cast.ids, headers=raw)
        if op.method == "GET" and op.name != "stream_run":
            assert op.request(nobody, cast.ids, method="HEAD").status_code == 401
        assert nobody.request(op.method, op.path.format_map(cast.ids) + "?key=" + cast.ann.key).status_code == 401
    for case, answer in answers.items():
        got = (answer.status_code, answer.headers.get("www-authenticate"), answer.headers["content-type"])
        assert got == (401, "Bearer", PROBLEM), case
        assert answer.json()["code"] == "28000"
    # not even that there once was such a key
    assert len({answers[case].content for case in ("forged", "truncated", "revoked", "expired")}) == 1


# --- without an administrator's ---


@those(lambda op: op.is_admins)
def test_an_administrators_route_takes_an_administrators_key(api: Door, cast: Cast, op: Operation) -> None:
    with nothing_changes(api):
        refused = op.request(cast.bob, cast.ids)
        again = op.request(cast.bob, cast.ids | {name: MISSING for name in op.ids})
    assert (refused.status_code, refused.json()["code"]) == (403, "TE301")
    assert told(refused) == told(again)
    user = api.client().user_id
    entered = op.request(cast.eve, cast.ids | {"user_id": user, "feed": f"no feed {user}", "calendar": f"none {user}"})
    assert entered.status_code not in (401, 403, 500), entered.text


# --- all of it ---


def test_every_operation_is_met(api: Door) -> None:
    served = httpx.get(f"{api.url}/openapi.json").json()
    assert served["paths"].keys() == description()["paths"].keys()
    for op in OPERATIONS:
        classes = {
            "a run's": is_of_run(op),
            "an administrator's": op.is_admins,
            "one's own": op.name in OWN or op.ids == {"key_id"},
            "public": not takes_key(op),
        }
        assert sum(classes.values()) == 1, (op.name, classes)
    public = {op.path for op in OPERATIONS if not takes_key(op)}
    assert public == {"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"}
    assert {op.path.startswith("/v1/admin/") for op in OPERATIONS if op.is_admins} == {True}
    assert {op.name for op in OPERATIONS if op.path.startswith("/v1/admin/")} == {
        op.name for op in OPERATIONS if op.is_admins
    }
