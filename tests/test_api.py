"""The HTTP API, route by route: what is done, and what is refused."""

from __future__ import annotations

import httpx
import psycopg
import pytest
from door import Client, Door, iso, serving
from helpers import Run, rows, status_of, unchanged, value

SIP = {"symbol": "AAA", "amount": "100", "frequency": "DAILY", "start": "2024-01-01"}
REBALANCE = {"weights": {"AAA": "0.5"}, "frequency": "WEEKLY", "start": "2024-01-01"}
BUY = {"symbol": "AAA", "side": "BUY", "quantity": "1"}


@pytest.fixture
def ann(api: Door) -> Client:
    return api.client()


@pytest.fixture
def run(api: Door, ann: Client) -> int:
    return ann.start(feed=api.feed(range(100, 110)))


def test_rl_08_start_run_via_api_is_running(api: Door, ann: Client) -> None:
    answer = ann.post("/v1/runs", json={"initial_cash": "5000.25", "name": "mine"})
    assert answer.status_code == 201
    row = answer.json()
    run = Run(ann.user_id, row["run_id"])
    assert answer.headers["location"] == f"/v1/runs/{run.run_id}"
    assert (row["user_id"], row["status"], row["name"], row["cash"]) == (*run[:1], "RUNNING", "mine", "5000.2500")
    assert status_of(api.conn, run) == "RUNNING"
    assert [r["status"] for r in rows(api.conn, "engine_status", run)] == ["RUNNING"]
    assert ann.ok("GET", answer.headers["location"]) == row
    assert [item["status"] for item in ann.items(f"/v1/runs/{run.run_id}/status")] == ["RUNNING"]


def test_rl_08_refused_start_via_api_leaves_nothing(api: Door, ann: Client) -> None:
    ann.refused(404, "TE201", "POST", "/v1/runs", json={"initial_cash": "1", "feed": "no such feed"})
    ann.refused(422, "TE101", "POST", "/v1/runs", json={"initial_cash": "-1"})
    assert ann.items("/v1/runs") == []
    ann.start()
    ann.refused(409, "23505", "POST", "/v1/runs", json={"initial_cash": "1"})
    assert len(ann.items("/v1/runs")) == 1


def test_rl_09_stop_run_via_api_blocks_new_writes(api: Door, ann: Client, run: int) -> None:
    path = f"/v1/runs/{run}"
    ann.ok("POST", f"{path}/orders", 201, json=BUY)
    ann.ok("POST", f"{path}/sips", 201, json=SIP)
    ann.tick(run, 0)
    stopped = ann.ok("POST", f"{path}/stop", json={"reason": "enough"})
    assert (stopped["status"], stopped["status_reason"]) == ("STOPPED", "enough")
    assert [item["status"] for item in ann.items(f"{path}/status")] == ["RUNNING", "STOPPED"]
    key = Run(ann.user_id, run)
    with unchanged(api.conn, key):
        for method, rest, body in (
            ("POST", "ticks", {"logical_time": iso(1)}),
            ("POST", "replays", {"from": iso(0), "to": iso(9)}),
            ("POST", "orders", BUY),
            ("POST", "orders/oco", BUY | {"side": "SELL", "limit_price": 200, "stop_price": 50}),
            ("POST", "orders/1/replace", {"quantity": 2}),
            ("DELETE", "orders/1", None),
            ("POST", "sips", SIP),
            ("POST", "sips/1/pause", None),
            ("POST", "sips/1/resume", None),
            ("POST", "sips/1/end", None),
            ("POST", "rebalances/1/end", None),
            ("POST", "sips/1/change", {"amount": 5}),
            ("POST", "rebalances", REBALANCE),
            ("PUT", "risk-limit", {"max_position": 5}),
            ("POST", "forbidden-symbols", {"symbol": "AAA"}),
        ):
            ann.refused(409, "TE001", method, f"{path}/{rest}", json=body)
        assert ann.tick(run, 0)["last_logical_time"] == iso(0)  # has happened: answers again
        assert ann.ok("POST", f"{path}/stop")["status"] == "STOPPED"


def test_an_order_from_placement_to_the_books(ann: Client, run: int) -> None:
    path = f"/v1/runs/{run}"
    placed = ann.post(f"{path}/orders", json=BUY | {"quantity": 1.5})
    assert placed.headers["location"] == f"{path}/orders/1"
    assert (placed.json()["status"], placed.json()["quantity"]) == ("PENDING", "1.50000000")
    assert ann.tick(run, 0)["last_logical_time"] == iso(0)
    order = ann.ok("GET", f"{path}/orders/1")
    assert (order["status"], order["avg_fill_price"]) == ("FILLED", "99.00000000")
    assert ann.items(f"{path}/orders") == [order]
    (trade,) = ann.items(f"{path}/trades")
    assert (trade["logical_time"], trade["price"], trade["quantity"]) == (iso(0), "99.00000000", "1.50000000")
    (position,) = ann.items(f"{path}/positions")
    assert (position["symbol"], position["quantity"], position["cost_basis"]) == ("AAA", "1.50000000", "148.5000")
    assert [entry["amount"] for entry in ann.items(f"{path}/cash")] == ["10000.0000", "-148.5000"]
    mark = {"logical_time": iso(0), "cash": "9851.5000", "market_value": "150.0000", "equity": "10001.5000"}
    assert ann.items(f"{path}/equity") == [mark]
    assert [row["market_value"] for row in ann.items(f"{path}/mtm")] == ["150.0000"]
    assert [item["code"] for item in ann.items(f"{path}/orders/1/explain")] == ["ACCEPTED", "FILLED"]
    assert {item["metric"]: item["value"] for item in ann.items(f"{path}/performance")}["equity"] == "10001.5"


def test_order_that_cannot_be_accepted_is_stored(ann: Client, run: int) -> None:
    order = ann.ok("POST", f"/v1/runs/{run}/orders", 201, json=BUY | {"quantity": 0})
    assert (order["status"], order["reject_reason"]) == ("REJECTED", "QUANTITY_NOT_POSITIVE")
    order = ann.ok("POST", f"/v1/runs/{run}/orders", 201, json=BUY | {"symbol": "NOBODY"})
    assert order["reject_reason"] == "SYMBOL_UNKNOWN"


def test_orders_are_previewed_replaced_paired_and_canceled(ann: Client, run: int) -> None:
    path = f"/v1/runs/{run}/orders"
    terms = BUY | {"order_type": "LIMIT", "limit_price": "50.5"}
    preview = ann.ok("POST", f"{path}/preview", json=terms)
    assert (preview["status"], preview["reserve_price"]) == ("PENDING", "50.50000000")
    assert ann.items(path) == []
    ann.ok("POST", path, 201, json=terms)
    replaced = ann.post(f"{path}/1/replace", json={"quantity": "2"})
    assert (replaced.status_code, replaced.headers["location"]) == (201, f"{path}/2")
    assert (replaced.json()["replaces_order_id"], replaced.json()["limit_price"]) == (1, "50.50000000")
    assert ann.ok("DELETE", f"{path}/2")["status"] == "CANCELED"
    assert ann.ok("DELETE", f"{path}/2")["status"] == "CANCELED"
    ann.ok("POST", path, 201, json=BUY)
    ann.tick(run, 0)
    pair = ann.ok("POST", f"{path}/oco", 201, json=BUY | {"side": "SELL", "limit_price": 200, "stop_price": 50})
    assert [order["status"] for order in pair["items"]] == ["PENDING", "PENDING"]
    ann.refused(422, "TE101", "DELETE", f"{path}/99")
    ann.refused(404, "not_found", "GET", f"{path}/99")
    ann.refused(422, "TE101", "GET", f"{path}/99/explain")
    ann.refused(422, "TE101", "POST", path, json=BUY | {"order_type": "LIMIT"})


def test_client_order_id_answers_the_first_order(ann: Client, run: int) -> None:
    path, terms = f"/v1/runs/{run}/orders", BUY | {"client_order_id": "mine"}
    first = ann.ok("POST", path, 201, json=terms)
    assert ann.ok("POST", path, 201, json=terms) == first
    ann.refused(422, "TE102", "POST", path, json=terms | {"quantity": "2"})


def test_plans(ann: Client, run: int) -> None:
    path = f"/v1/runs/{run}"
    made = ann.post(f"{path}/sips", json=SIP)
    assert (made.status_code, made.headers["location"]) == (201, f"{path}/sips/1")
    assert ann.ok("GET", f"{path}/sips/1") == made.json()
    pauses = ann.ok("POST", f"{path}/sips/1/pause", json={"from": "2024-01-02", "to": "2024-01-03"})["pauses"]
    assert pauses == "{[2024-01-02,2024-01-04)}"
    assert ann.ok("POST", f"{path}/sips/1/resume", json={"from": "2024-01-02", "to": "2024-01-03"})["pauses"] == "{}"
    assert ann.ok("POST", f"{path}/sips/1/change", json={"amount": 50.25})["amount"] == "50.2500"
    made = ann.post(f"{path}/rebalances", json=REBALANCE | {"weights": {"AAA": 0.25}, "band": "0.01"})
    assert (made.status_code, made.headers["location"]) == (201, f"{path}/rebalances/1")
    assert float(made.json()["weights"]["AAA"]) == 0.25
    assert ann.ok("GET", f"{path}/rebalances/1") == made.json() == ann.items(f"{path}/rebalances")[0]
    basket = {"amount": 10, "frequency": "MONTHLY", "start": "2024-01-01", "basket": {"AAA": "1"}}
    assert ann.ok("POST", f"{path}/sips", 201, json=basket)["basket"] == {"AAA": 1}
    to_plan = {"amount": 10, "frequency": "MONTHLY", "start": "2024-01-01", "rebalance_plan": 1}
    assert ann.ok("POST", f"{path}/sips", 201, json=to_plan)["rebalance_plan_id"] == 1
    assert [sip["sip_id"] for sip in ann.items(f"{path}/sips")] == [1, 2, 3]
    ann.tick(run, 0)
    ended = {(event["event_type"], event["event_key"]) for event in ann.items(f"{path}/events")}
    assert {("SIP_EXECUTED", "1:0"), ("REBALANCED", "1:0")} <= ended
    preview = ann.ok("POST", f"{path}/sips/1/preview", json={"logical_time": iso(1)})["items"]
    assert [(row["slot"], row["event_type"]) for row in preview] == [(1, "SIP_EXECUTED")]
    assert ann.ok("POST", f"{path}/sips/1/end")["instalments"] == 1
    assert ann.ok("POST", f"{path}/rebalances/1/end")["instalments"] == 1
    ann.refused(404, "TE201", "POST", f"{path}/sips", json=SIP | {"symbol": "NOBODY"})
    ann.refused(422, "TE101", "POST", f"{path}/rebalances", json=REBALANCE | {"weights": {"AAA": "1.5"}})
    for rest in ("sips/99", "rebalances/99"):
        ann.refused(404, "not_found", "GET", f"{path}/{rest}")


def test_limits(ann: Client, run: int) -> None:
    path = f"/v1/runs/{run}"
    assert ann.ok("GET", f"{path}/risk-limit")["max_position"] is None
    assert ann.ok("PUT", f"{path}/risk-limit", json={"max_position": 1})["max_position"] == "1.00000000"
    assert ann.ok("POST", f"{path}/orders", 201, json=BUY | {"quantity": 2})["status"] == "REJECTED"
    assert ann.ok("PUT", f"{path}/risk-limit", json={"max_position": None})["max_position"] is None
    assert ann.ok("POST", f"{path}/forbidden-symbols", 201, json={"symbol": "AAA"})["symbol"] == "AAA"
    assert [row["symbol"] for row in ann.items(f"{path}/forbidden-symbols")] == ["AAA"]
    assert ann.ok("POST", f"{path}/orders", 201, json=BUY)["reject_reason"] == "SYMBOL_FORBIDDEN"


def test_tick_never_goes_back(ann: Client, run: int) -> None:
    ann.tick(run, 1)
    ann.refused(409, "TE003", "POST", f"/v1/runs/{run}/ticks", json={"logical_time": iso(0)})
    ann.refused(422, "TE101", "POST", f"/v1/runs/{run}/ticks", json={"logical_time": "2400-01-01T00:00:00Z"})


def test_reports(api: Door, ann: Client, run: int) -> None:
    path = f"/v1/runs/{run}"
    ann.ok("POST", f"{path}/sips", 201, json=SIP)
    for n in range(4):
        ann.tick(run, n)
    assert ann.ok("GET", f"{path}/digest")["digest"] == value(api.conn, "select run_digest(%s, %s)", [ann.user_id, run])
    for rest in ("violations", "drawdowns", "fees"):
        assert ann.items(f"{path}/{rest}") == []
    assert ann.items(f"{path}/performance/reasons")
    assert {row["symbol"] for row in ann.items(f"{path}/performance/symbols")} == {"AAA"}
    assert ann.items(f"{path}/diff", other=run) == []
    ann.ok("POST", f"{path}/stop")
    fork = ann.ok("POST", f"{path}/fork", 201, json={"at": iso(2), "name": "other"})
    assert (fork["forked_from_run_id"], fork["forked_at"], fork["name"]) == (run, iso(2), "other")
    assert ann.items(f"{path}/diff", other=fork["run_id"])
    between = ann.items(f"{path}/equity", **{"from": iso(1), "to": iso(2)})
    assert [row["logical_time"] for row in between] == [iso(1), iso(2)]


def test_delete_takes_the_run_and_all_it_owns(api: Door, ann: Client, run: int) -> None:
    ann.ok("POST", f"/v1/runs/{run}/orders", 201, json=BUY)
    ann.tick(run, 0)
    ann.ok("DELETE", f"/v1/runs/{run}", 204)
    ann.refused(404, "TE204", "DELETE", f"/v1/runs/{run}")
    assert value(api.conn, "select count(*) from paper_trade where user_id = %s", [ann.user_id]) == 0
    ann.start()  # there is room for another


def test_another_users_run_is_answered_as_none(api: Door, ann: Client, run: int) -> None:
    bob = api.client()
    missing = 2**62
    for method, rest, body in (
        ("GET", "", None),
        ("GET", "/orders", None),
        ("GET", "/equity", None),
        ("GET", "/digest", None),
        ("GET", "/risk-limit", None),
        ("GET", "/stream", None),
        ("POST", "/stop", None),
        ("POST", "/ticks", {"logical_time": iso(0)}),
        ("POST", "/replays", {"from": iso(0), "to": iso(1)}),
        ("POST", "/orders", BUY),
        ("DELETE", "", None),
    ):
        answers = [bob.request(method, f"/v1/runs/{one}{rest}", json=body) for one in (run, missing)]
        assert [answer.status_code for answer in answers] == [404, 404], (method, rest)
        assert answers[0].text == answers[1].text.replace(str(missing), str(run))
    assert bob.items("/v1/runs") == []
    ann.refused(404, "TE204", "GET", f"/v1/runs/{run}/diff?other={missing}")
    assert status_of(api.conn, Run(ann.user_id, run)) == "RUNNING"


@pytest.mark.parametrize("run_id", [2**63, 10**30, "abc", "-1", "1.0", "01", "\u0661"])
def test_what_can_be_no_id_is_unknown(ann: Client, run_id: object) -> None:
    ann.refused(404, "not_found", "GET", f"/v1/runs/{run_id}")


def test_without_a_good_key_nobody_gets_in(api: Door, ann: Client, run: int) -> None:
    for header in (
        {},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": f"Basic {ann.key}"},
        {"Authorization": "Bearer"},
    ):
        answer = httpx.get(f"{api.url}/v1/runs/{run}", headers=header)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json()["code"] == "28000"
    answer = httpx.post(f"{api.url}/v1/runs", content=b"not even json", headers={"Authorization": "Bearer nonsense"})
    assert answer.status_code == 401


def test_revoked_and_expired_keys_end_at_once(api: Door, ann: Client) -> None:
    key_id = ann.ok("GET", "/v1/me")["key_id"]
    (key,) = ann.items("/v1/keys")
    assert (key["key_id"], key["prefix"]) == (key_id, ann.key[:11])
    ann.refused(404, "TE204", "DELETE", "/v1/keys/999999999")
    ann.ok("DELETE", f"/v1/keys/{key_id}", 204)
    ann.refused(401, "28000", "GET", "/v1/me")
    bob = api.client()
    bob.ok("GET", "/v1/me")
    api.conn.execute("update api_key set expires_at = now() where user_id = %s", [bob.user_id])
    bob.refused(401, "28000", "GET", "/v1/me")


def test_who_the_key_is(api: Door, ann: Client) -> None:
    assert ann.ok("GET", "/v1/me") | {"key_id": 0} == {
        "user_id": ann.user_id,
        "name": "ann",
        "key_id": 0,
        "is_admin": False,
    }
    assert api.client(admin=True).ok("GET", "/v1/me")["is_admin"] is True


def test_what_all_share(api: Door, ann: Client) -> None:
    feed = api.feed((100, 101, 102))
    assert {"feed": feed, "calendar": "ALWAYS", "adjusted": False} in ann.items("/v1/feeds", limit=1000)
    assert "AAA" in {row["symbol"] for row in ann.items("/v1/instruments", limit=1000)}
    assert {"calendar": "ALWAYS", "time_zone": "UTC"} in ann.items("/v1/calendars", limit=1000)
    assert {"IN_DELIVERY", "US_PER_SHARE"} <= {
        row["fee_schedule"] for row in ann.items("/v1/fee-schedules", limit=1000)
    }
    bars = ann.items("/v1/bars", feed=feed, symbol="AAA", **{"from": iso(1), "to": iso(1)})
    assert [(bar["logical_time"], bar["close"], bar["volume"]) for bar in bars] == [
        (iso(1), "101.00000000", "1000.0000")
    ]
    assert ann.items("/v1/bars", feed="no such feed", symbol="AAA") == []


def test_paths_and_methods_that_are_not_there(ann: Client, run: int) -> None:
    for path in ("/", "/v1", "/v1/runs/", f"/v1/runs/{run}/nothing", "/v2/runs"):
        ann.refused(404, "not_found", "GET", path)
    assert ann.refused(405, "method", "PATCH", f"/v1/runs/{run}")
    assert ann.patch(f"/v1/runs/{run}").headers["allow"] == "DELETE, GET, HEAD"
    assert ann.options("/v1/runs").headers["allow"] == "GET, HEAD, POST"
    assert ann.head("/v1/runs").status_code == 200


def test_no_database_error_shows_its_words(api: Door, ann: Client, run: int) -> None:
    """A refusal of a constraint is told by the constraint's name, an error of ours not at all."""
    admin = api.client(admin=True)
    found = admin.refused(409, "23503", "POST", "/v1/admin/feeds", json={"feed": "x", "calendar": "nowhere"})
    assert found["detail"] == "constraint=feed_follows_calendar"
    with serving(api.dsn) as process:
        try:
            api.conn.execute("alter function run_digest(bigint, bigint) rename to run_digest_away")
            found = api.client(url=process.url, like=ann).refused(500, "internal", "GET", f"/v1/runs/{run}/digest")
        finally:
            api.conn.execute("alter function run_digest_away(bigint, bigint) rename to run_digest")
    assert "run_digest" not in str(found)
    assert "run_digest" in "".join(process.lines)  # the log has it


def test_the_api_role_can_do_nothing_by_itself(api: Door, ann: Client, run: int) -> None:
    with psycopg.connect(api.dsn) as conn:
        conn.execute("set session authorization papertick_api")
        assert conn.execute("select count(*) from strategy_run").fetchone() == (0,)
        with pytest.raises(psycopg.Error) as caught:
            conn.execute("call tick(%s, %s, %s)", [ann.user_id, run, iso(0)])
        assert caught.value.sqlstate == "TE204"
