"""What the description lets in, and what it does not, made up by Schemathesis: the API answers as it says.

All of Schemathesis' checks hold for every answer: no 5xx, every status, header and body as described, what is wrong is
refused, what is right is not, no method and no missing key gets by. And no answer shows the inside of the server.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from door import Door, description
from helpers import value
from hypothesis import HealthCheck, settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from test_api_matrix import fill, furnish

from tests.scripts import BRIEF, PROFILE

EXAMPLES = 300 if PROFILE == "thorough" else 12 if BRIEF else 6  # for each operation, besides the corners
LEAST = 500 if BRIEF else 2000
CONFIG = SchemathesisConfig.from_dict(
    {
        "seed": 1,
        # The description says what is well formed; what it means, the engine says, with these.
        "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "404", "409", "422"]}},
        "phases": {"coverage": {"enabled": not BRIEF}},  # the corners: some 4000 cases, the same ones every time
        "generation": {"deterministic": PROFILE != "thorough", "database": "none"},
    }
)
UPLOADS = {"load_bars", "load_actions", "load_sessions"}  # no file of market data is made up by chance
LEAKS = re.compile(
    r"Traceback|\.py\b|psycopg|PL/pgSQL|SQL statement|\bpg_|engine\.\w+\(|postgres(ql)?://|host=|dbname=|password="
    r"|relation \"|column \"|syntax error|\bselect\b.+\bfrom\b|\binsert into\b",
    re.IGNORECASE | re.DOTALL,
)
FAR = re.compile("^(204[89]|20[5-9][0-9]|2[1-9][0-9][0-9]|[3-9][0-9]{3})(?=-)")
schema = schemathesis.openapi.from_dict(description(), config=CONFIG)
answered: dict[str, Counter[int]] = defaultdict(Counter)

ABSENT, ENDED, RUNNING = "ABSENT", "ENDED", "RUNNING"
# The state of the user's run in which an operation can succeed. The stream of a run that has ended ends as well.
NEEDS = {"start_run": ABSENT, "fork_run": ENDED, "stream_run": ENDED}

FRESH = {"tick", "start_replay", "tick_all", "replace_order"}


class World:
    """An administrator, whose run has one of everything: so the ids of most cases are those of something."""

    def __init__(self, api: Door) -> None:
        self.api, self.client, self.feed = api, api.client(admin=True), api.feed((100, 101, 102))
        self.http = requests.Session()
        self.ids: dict[str, Any] = {}
        self.name = ""

    def get_ready(self, name: str) -> None:
        """The case before may have started, ended or deleted a run. Some take a fresh one: an order that is open, or no
        plans that were made up, which may begin in 1900 and have a slot a day."""
        state, is_stale = NEEDS.get(name, RUNNING), name != self.name and name in FRESH
        self.name = name
        user, conn = [self.client.user_id], self.api.conn
        found = conn.execute("select run_id, status from strategy_run where user_id = %s", user).fetchall()
        fits = {
            ABSENT: [],
            ENDED: [(self.ids.get("run_id"), "STOPPED")],
            RUNNING: [(self.ids.get("run_id"), "RUNNING")],
        }
        if found == fits[state] and not is_stale:
            return
        conn.execute("delete from strategy_run where user_id = %s", user)
        if state != ABSENT:
            self.ids = furnish(self.api, self.client, self.feed)
        if state == ENDED:
            self.client.ok("POST", f"/v1/runs/{self.ids['run_id']}/stop")

    def put_ids(self, case: schemathesis.Case) -> None:
        """In place of ids that are made up; what is wrong on purpose stays."""
        parts = {part.value: info.mode for part, info in case.meta.components.items()} if case.meta else {}
        if parts.get("path") is GenerationMode.POSITIVE:
            known = self.ids | {"user_id": self.client.user_id, "feed": self.feed}
            if "key_id" in case.path_parameters:  # one to be revoked
                known["key_id"] = value(self.api.conn, "select key_id from create_key(%s)", [self.client.user_id])
            for name in set(case.path_parameters) & set(known):
                case.path_parameters[name] = known[name]
        if parts.get("query") is GenerationMode.POSITIVE and "other" in case.query:
            case.query["other"] = self.ids["run_id"]
        if parts.get("body") is GenerationMode.POSITIVE and isinstance(case.body, dict) and len(str(case.body)) % 2:
            case.body = meant(case)
        if isinstance(case.body, dict) and isinstance(case.body.get("logical_time"), str):
            # a tick ends all that was due before it, slot by slot: centuries of them take minutes
            case.body["logical_time"] = FAR.sub("2048", case.body["logical_time"])
        # how long the body is, and whether it comes in chunks, is HTTP's own: such a request never gets to the API
        for name in [n for n in case.headers if n.lower() in ("content-length", "transfer-encoding", "host")]:
            del case.headers[name]


def meant(case: schemathesis.Case) -> dict[str, Any]:
    """A body that can succeed, and one of the members that were made up."""
    (content,) = case.operation.definition.raw["requestBody"]["content"].values()
    body = fill(content["schema"])
    more = sorted(set(case.body) - set(body))
    return body | {name: case.body[name] for name in more[len(str(case.body)) % 7 :][:1]}


@schemathesis.serializer("application/x-ndjson", "text/csv")
def as_it_is(_: object, text: Any) -> bytes:
    return str(text).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def world(_api: Door) -> Iterator[World]:
    world = World(_api)
    yield world
    world.http.close()


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=PROFILE != "thorough",
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_described(case: schemathesis.Case, world: World) -> None:
    name = case.operation.definition.raw["operationId"]
    world.get_ready(name)
    world.put_ids(case)
    headers = {"Authorization": f"Bearer {world.client.key}"}
    answer = case.call_and_validate(base_url=world.api.url, session=world.http, headers=headers, timeout=20)
    answered[name][answer.status_code] += 1
    if "json" in answer.headers.get("content-type", [""])[0] and name != "openapi":
        assert not LEAKS.search(answer.text), answer.text


def test_it_was_enough() -> None:
    """And not all in vain: of each operation some case has come to its end."""
    operations = {operation["operationId"] for path in description()["paths"].values() for operation in path.values()}
    if set(answered) != operations:
        return  # a part of the tests alone
    total = sum(counter.total() for counter in answered.values())
    print(f"{total} cases")
    assert total >= LEAST
    idle = {name for name, counter in answered.items() if not any(200 <= status < 300 for status in counter)}
    assert idle <= UPLOADS or BRIEF
