"""The rows that answers are made of: their columns, as JSON schemas. A test holds them to the catalog."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_KINDS: dict[str, Schema] = {
    "id": {"type": "integer", "format": "int64"},
    "int": {"type": "integer"},
    "num": {"type": "string", "pattern": r"^-?\d+(\.\d+)?$"},
    "text": {"type": "string"},
    "time": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
    "bool": {"type": "boolean"},
    "object": {"type": "object"},
    "list": {"type": "array", "items": {"type": "string"}},
    "any": {},
}


def _row(about: str, **columns: str) -> Schema:
    """A kind with '?' may be null."""
    properties: dict[str, Schema] = {}
    for name, kind in columns.items():
        schema = dict(_KINDS[kind.rstrip("?")])
        if kind.endswith("?") and schema:
            schema["type"] = [schema["type"], "null"]
        properties[name] = schema
    return {
        "type": "object",
        "description": about,
        "required": list(columns),
        "additionalProperties": False,
        "properties": properties,
    }


_KEY = {"user_id": "id", "run_id": "id"}
_MARK = {"logical_time": "time", "cash": "num", "market_value": "num", "equity": "num"}

_METRICS = (
    *("funded", "cash", "market_value", "equity", "bought", "sold", "fees", "trades", "realized_pnl", "unrealized_pnl"),
    *("hit_rate", "exposure", "turnover", "xirr", "xirr_invested", "twr", "cagr", "max_drawdown", "calmar"),
    *("best_period", "worst_period", "volatility", "sharpe", "sortino"),
)

# Under the names of the tables, where a row is one.
ROWS: dict[str, Schema] = {
    "run": _row(
        "A run and where it stands.",
        **_KEY,
        **{"name": "text", "feed": "text", "currency": "text", "status": "text", "status_reason": "text?"},
        **{"initial_cash": "num", "mark_policy": "text", "fee_schedule": "text?", "participation": "num?"},
        **{"slippage_bps": "num", "volume_impact": "num", "penetration_ticks": "int", "max_price_age": "text?"},
        **{"reinvest_dividends": "bool", "initial_margin": "num?", "maintenance_margin": "num?"},
        **{"borrow_rate": "num", "margin_rate": "num", "forked_from_user_id": "id?", "forked_from_run_id": "id?"},
        **{"forked_at": "time?", "cash": "num?", "first_logical_time": "time?", "last_logical_time": "time?"},
    ),
    "paper_order": _row(
        "An order with its present status.",
        **_KEY,
        **{"order_id": "id", "logical_time": "time?", "symbol": "text", "side": "text", "order_type": "text"},
        **{"quantity": "num", "limit_price": "num?", "stop_price": "num?", "time_in_force": "text", "status": "text"},
        **{"filled_quantity": "num", "avg_fill_price": "num?", "reject_reason": "text?", "client_order_id": "text?"},
        **{"source": "text", "reserve_price": "num?", "closed_time": "time?", "trail_amount": "num?"},
        **{"trail_percent": "num?", "good_till": "time?", "triggered_time": "time?", "seen_time": "time?"},
        **{"oco_id": "id?", "parent_order_id": "id?", "replaces_order_id": "id?", "take_profit_price": "num?"},
        **{"stop_loss_price": "num?", "stop_loss_limit_price": "num?", "client_terms": "object?"},
    ),
    "order_preview": _row(
        "What an order would be answered now, and what it would come to if it filled at once.",
        **{"status": "text", "reject_reason": "text?", "stop_price": "num?", "reserve_price": "num?"},
        **{"estimated_price": "num?", "estimated_value": "num?", "estimated_fees": "num?", "cash": "num?"},
        **{"reserved_cash": "num?", "cash_after": "num?", "position_after": "num?"},
    ),
    "explanation": _row("Why an order did or did not fill.", logical_time="time?", code="text", detail="object?"),
    "paper_trade": _row(
        "A fill; logical_time is the bar's.",
        **_KEY,
        **{"trade_id": "id", "order_id": "id", "logical_time": "time", "symbol": "text", "side": "text"},
        **{"quantity": "num", "price": "num", "fees": "num"},
    ),
    "trade_fee": _row(
        "What a trade's fees are made of.",
        **_KEY,
        **{"trade_id": "id", "component": "text", "amount": "num", "fee_schedule": "text", "product": "text"},
        **{"side": "text", "effective_from": "date"},
    ),
    "paper_position": _row(
        "Units held of a symbol.", **_KEY, symbol="text", quantity="num", cost_basis="num", realized_pnl="num"
    ),
    "cash_ledger": _row(
        "A movement of cash.",
        **_KEY,
        **{"entry_id": "id", "logical_time": "time?", "amount": "num", "cause": "text", "trade_id": "id?"},
    ),
    "mtm_ledger": _row(
        "A mark to market.",
        **_KEY,
        **{"logical_time": "time", "market_value": "num", "cost_basis": "num", "unrealized_pnl": "num"},
        realized_pnl="num",
    ),
    "event_ledger": _row(
        "What became of a slot, a split, a dividend, a margin call.",
        **_KEY,
        **{"logical_time": "time", "event_type": "text", "event_key": "text", "payload": "any"},
    ),
    "engine_status": _row(
        "A step of the run's lifecycle.",
        **_KEY,
        **{"status_id": "id", "status": "text", "reason": "text?", "logical_time": "time?", "recorded_at": "time"},
    ),
    "equity": _row("Equity at a time, stored or computed.", **_MARK),
    "sip_plan": _row(
        "A systematic investment plan.",
        **_KEY,
        **{"sip_id": "id", "symbol": "text?", "amount": "num", "frequency": "text", "start_date": "date"},
        **{"roll": "text", "catch_up": "text", "end_date": "date?", "instalments": "int?", "step_up_percent": "num?"},
        **{"step_up_amount": "num?", "step_up_every": "int?", "whole_units": "bool", "paused": "bool"},
        **{"next_slot": "int", "residual": "num", "last_date": "date?", "base_slot": "int", "basket": "object?"},
        **{"rebalance_plan_id": "id?", "pauses": "text", "auto_pause_after": "int?", "skipped_funds": "int"},
    ),
    "sip_preview": _row(
        "How the plan's next slot would end; a row a symbol.",
        **{"slot": "int?", "due_date": "date?", "waits_for": "text?", "event_type": "text?", "symbol": "text?"},
        **{"quantity": "num?", "price": "num?", "amount": "num?", "cash_after": "num?", "payload": "any"},
    ),
    "rebalance_plan": _row(
        "A rebalance plan and its weights.",
        **_KEY,
        **{"plan_id": "id", "frequency": "text", "start_date": "date", "band": "num?", "next_slot": "int"},
        **{"last_date": "date?", "band_relative": "num?", "to_band_edge": "bool", "min_order_value": "num?"},
        **{"whole_units": "bool", "instalments": "int?", "weights": "object?"},
    ),
    "risk_limit": _row("Limits of a run; null = none.", **_KEY, max_position="num?", max_order_value="num?"),
    "forbidden_symbol": _row("A symbol that the run may not trade.", **_KEY, symbol="text"),
    "metric": _row("A figure; null where it is undefined.", metric="text", value="num?"),
    "metric_reason": _row("Why a figure is null.", metric="text", reason="text"),
    "symbol_metric": _row("A figure of one symbol.", symbol="text", metric="text", value="num?"),
    "leaderboard": _row(
        "A run and its figures, in the order of one of them.",
        **{"rank": "id", "user_id": "id", "user_name": "text", "run_id": "id", "name": "text", "feed": "text"},
        **{"currency": "text", "status": "text", "last_logical_time": "time?", "metric": "text"},
        **{"value": "num?", "reason": "text?", **dict.fromkeys(_METRICS, "num?"), "reasons": "object"},
    ),
    "drawdown": _row(
        "A fall of equity below an earlier high.",
        **{"peak_time": "time", "trough_time": "time", "recovery_time": "time?", "depth": "num"},
    ),
    "violation": _row("A broken invariant.", rule="text", detail="text?"),
    "difference": _row(
        "A row in which two runs differ; null where one has none.",
        **{"ledger": "text", "key": "text?", "row_a": "any", "row_b": "any"},
    ),
    "digest": _row("SHA-256 over all that the run did.", run_id="id", digest="text"),
    "replay": {
        "type": "object",
        "description": "A replay: RUNNING in this process, DONE, INTERRUPTED (post it again to go on), or FAILED.",
        "required": ["replay_id", "run_id", "from", "to", "status", "progress", "last_logical_time", "problem"],
        "additionalProperties": False,
        "properties": {
            "replay_id": _KINDS["text"],
            "run_id": _KINDS["id"],
            "from": _KINDS["time"],
            "to": _KINDS["time"],
            "status": {"type": "string", "enum": ["RUNNING", "DONE", "INTERRUPTED", "FAILED"]},
            "progress": {**_KINDS["num"], "description": "The share of the range's time that is done, 0 to 1."},
            "last_logical_time": {"type": ["string", "null"], "format": "date-time"},
            "problem": {"anyOf": [{"$ref": "#/components/schemas/problem"}, {"type": "null"}]},
        },
    },
    "me": _row("Who the key says you are.", user_id="id", name="text", key_id="id", is_admin="bool"),
    "api_key": _row(
        "A key without its secret.",
        **{"key_id": "id", "label": "text", "prefix": "text", "is_admin": "bool", "created_at": "time"},
        **{"expires_at": "time?", "revoked_at": "time?", "last_used_at": "time?"},
    ),
    "new_key": _row("A new key; its secret is shown this once.", key_id="id", key="text", prefix="text"),
    "user": _row("A user.", user_id="id", name="text"),
    "feed": _row("A series of bars.", feed="text", calendar="text", adjusted="bool"),
    "calendar": _row("Whose sessions feeds follow.", calendar="text", time_zone="text"),
    "instrument": _row("What can be traded.", symbol="text", quantity_step="num", price_tick="num?", product="text"),
    "fee_schedule": _row(
        "A dated charge.",
        **{"fee_schedule": "text", "component": "text", "product": "text", "side": "text", "effective_from": "date"},
        **{"rate_bps": "num", "per_unit_amount": "num", "flat_amount": "num", "minimum_amount": "num?"},
        **{"maximum_amount": "num?", "maximum_bps": "num?", "of_components": "list?", "round_to": "num?"},
        source="text",
    ),
    "price_bar": _row(
        "A bar; logical_time is its close.",
        **{"feed": "text", "symbol": "text", "logical_time": "time", "open": "num", "high": "num", "low": "num"},
        **{"close": "num", "volume": "num?"},
    ),
    "load_report": _row(
        "What an upload did.",
        **{"target": "text", "read": "int", "rows": "int", "unchanged": "int", "outside_sessions": "int"},
        **{"duplicates": "int", "skipped_count": "int", "symbols": "int", "first": "time?", "last": "time?"},
    ),
    "tick_all": _row("What was ticked.", logical_time="time", feed="text"),
    "health": _row("The state of the API.", status="text", version="text", database="text?"),
}


def page_of(name: str) -> Schema:
    return {
        "type": "object",
        "required": ["items", "next_cursor"],
        "additionalProperties": False,
        "properties": {
            "items": {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}},
            "next_cursor": {"type": ["string", "null"], "description": "Pass it as `cursor` for the next page."},
        },
    }
