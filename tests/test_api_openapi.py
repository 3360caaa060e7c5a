"""/openapi.json is the API: every column, every status, every parameter."""

from __future__ import annotations

import json

import httpx
import psycopg
import pytest
from door import Door, description

from engine_py.api import schemas
from engine_py.api.routing import ROUTES

# schemas that are rows of a table as they are, or the table's with more or less
TABLES = {
    *("paper_order", "paper_trade", "trade_fee", "paper_position", "cash_ledger", "mtm_ledger", "event_ledger"),
    *("engine_status", "sip_plan", "risk_limit", "forbidden_symbol", "feed", "instrument", "fee_schedule", "price_bar"),
}
MORE = {
    "run": ("strategy_run", {"cash", "first_logical_time", "last_logical_time"}),
    "rebalance_plan": ("rebalance_plan", {"weights"}),
}
VERBS = {
    "order_preview": "preview_order",
    "explanation": "explain_order",
    "equity": "equity_between",
    "sip_preview": "preview_sip",
    "metric": "performance",
    "metric_reason": "performance_reasons",
    "symbol_metric": "performance_by_symbol",
    "leaderboard": "leaderboard",
    "drawdown": "drawdowns",
    "violation": "run_violations",
    "difference": "replay_diff",
    "api_key": "list_keys",
    "new_key": "create_key",
}


def columns(conn: psycopg.Connection, table: str) -> dict[str, bool]:
    """Each with whether it may be null."""
    return dict(
        conn.execute(
            "select attname::text, not attnotnull from pg_attribute where attrelid = %s::regclass and attnum > 0"
            " and not attisdropped order by attnum",
            [table],
        ).fetchall()
    )


@pytest.mark.parametrize("name", sorted(TABLES | set(MORE)))
def test_rows_are_those_of_the_catalog(tx: psycopg.Connection, name: str) -> None:
    table, more = MORE.get(name, (name, set()))
    schema, stored = schemas.ROWS[name], columns(tx, table)
    assert set(schema["properties"]) == set(stored) | more
    for column, may_be_null in stored.items():
        kinds = schema["properties"][column].get("type", "null")
        assert ("null" in kinds) == may_be_null or name == "risk_limit" or kinds == "null", column


@pytest.mark.parametrize(("name", "verb"), VERBS.items())
def test_rows_of_verbs_are_those_of_the_catalog(tx: psycopg.Connection, name: str, verb: str) -> None:
    (names,) = tx.execute(
        "select array_agg(x.n order by x.i) from pg_proc p, unnest(p.proargnames, p.proargmodes::text[]) with ordinality x (n, m, i)"
        " where p.proname = %s and x.m = 't' and p.pronamespace = 'public'::regnamespace",
        [verb],
    ).fetchone() or ([],)
    assert list(schemas.ROWS[name]["properties"]) == names


def test_bodies_are_the_verbs_parameters(tx: psycopg.Connection) -> None:
    found = 0
    for route in ROUTES:
        row = tx.execute(
            "select p.proargnames, p.pronargs, p.pronargdefaults from pg_proc p"
            " where p.proname = %s and p.pronamespace = 'public'::regnamespace",
            [route.name],
        ).fetchone()
        if not row or route.body is None or route.name == "tick_all":
            continue
        inputs = row[0][: row[1]]
        ours = {"p_user_id", "p_run_id", "p_order_id", "p_sip_id", "p_plan_id", "p_new_user_id"}
        names = [name.removeprefix("p_") for name in inputs if name not in ours]
        assert {field.name for field in route.body} == set(names), route.name
        needed = {name.removeprefix("p_") for name in inputs[: row[1] - row[2]] if name not in ours}
        assert {field.name for field in route.body if field.required} == needed - {
            "symbol" if route.name == "create_sip" else ""
        } - {"at"}
        found += 1
    assert found > 12


def test_operations_are_named_once_and_say_what_they_answer() -> None:
    operations = [op for methods in description()["paths"].values() for op in methods.values()]
    names = [op["operationId"] for op in operations]
    assert len(set(names)) == len(names)
    for op in operations:
        assert op["summary"]
        if op["security"]:
            assert {"401", "429", "500", "503"} <= set(op["responses"])
    text = json.dumps(description())
    for name in set(part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]):
        assert name in description()["components"]["schemas"], name


def test_it_is_served_as_it_is_made(api: Door) -> None:
    answer = httpx.get(f"{api.url}/openapi.json")
    assert answer.json() == json.loads(json.dumps(description()))
    assert answer.headers["content-type"] == "application/json"
