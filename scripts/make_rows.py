"""Write engine_py/rows.py: a typed row for each table and verb whose rows the library hands out. For developers.

    python scripts/make_rows.py DSN > engine_py/rows.py

The columns and their types are read from a database that has papertick; tests/test_library.py does the same and fails
when the file is not what it finds. A column of a table is Optional unless the table says not null; of a verb's columns
PostgreSQL cannot tell, so those that may be null stand here.
"""

from __future__ import annotations

import sys
from typing import Any

import psycopg

TABLES = {
    "AppUser": "app_user",
    "RunRow": "strategy_run",
    "Order": "paper_order",
    "Trade": "paper_trade",
    "TradeFee": "trade_fee",
    "Position": "paper_position",
    "CashEntry": "cash_ledger",
    "Mark": "mtm_ledger",
    "Event": "event_ledger",
    "StatusChange": "engine_status",
    "Sip": "sip_plan",
    "Rebalance": "rebalance_plan",
    "TargetWeight": "target_weight",
}
VERBS: dict[str, tuple[str, set[str] | None]] = {  # and which columns may be null; None: all
    "EquityPoint": ("equity_between", set()),
    "Drawdown": ("drawdowns", {"recovery_time"}),
    "SymbolMeasure": ("performance_by_symbol", {"value"}),
    "Explanation": ("explain_order", {"logical_time"}),
    "OrderPreview": ("preview_order", None),
    "SipPreview": ("preview_sip", None),
    "SipSlot": ("sip_schedule", {"slot", "nominal_date", "due_date", "amount"}),
    "RebalanceSlot": ("rebalance_schedule", {"slot", "due_date"}),
    "Difference": ("replay_diff", {"row_a", "row_b"}),
    "Violation": ("run_violations", set()),
    "StreamItem": ("run_stream", set()),
    "FeedStatus": ("feed_status", None),
    "LeaderboardRow": (
        "leaderboard",
        {
            *("last_logical_time", "value", "reason", "funded", "cash", "market_value", "equity", "realized_pnl"),
            *("unrealized_pnl", "hit_rate", "exposure", "turnover", "xirr", "xirr_invested", "twr", "cagr"),
            *("max_drawdown", "calmar", "best_period", "worst_period", "volatility", "sharpe", "sortino"),
        },
    ),
}
TYPES = {
    "bigint": "int",
    "integer": "int",
    "numeric": "Decimal",
    "text": "str",
    "boolean": "bool",
    "date": "date",
    "timestamp with time zone": "datetime",
    "interval": "timedelta",
    "jsonb": "Any",
    "datemultirange": "Any",
}

_TABLE = """
    select a.attname, format_type(coalesce(nullif(t.typbasetype, 0), t.oid), null), not a.attnotnull
      from pg_attribute a join pg_type t on t.oid = a.atttypid
     where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped order by a.attnum"""
_VERB = """
    select u.name, format_type(u.type, null), %s::text[] is null or u.name = any (%s)
      from pg_proc p
     cross join unnest(p.proargnames, p.proallargtypes, p.proargmodes) with ordinality u (name, type, mode, n)
     where p.pronamespace = 'public'::regnamespace and p.proname = %s and u.mode = 't' order by u.n"""

_HEAD = '''"""What a row of each table and verb is, column by column. Written by scripts/make_rows.py; do not edit."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
'''


def source(conn: psycopg.Connection[Any]) -> str:
    """The text of engine_py/rows.py."""
    parts = [_HEAD]
    for name, table in TABLES.items():
        parts.append(_class(name, f"A row of {table}.", conn.execute(_TABLE, [table]).fetchall()))
    for name, (verb, nullable) in VERBS.items():
        names = None if nullable is None else sorted(nullable)
        parts.append(_class(name, f"A row of {verb}().", conn.execute(_VERB, [names, names, verb]).fetchall()))
    return "\n\n".join(parts)


def _class(name: str, words: str, columns: list[tuple[str, str, bool]]) -> str:
    lines = [f"class {name}(NamedTuple):", f'    """{words}"""', ""]
    for column, kind, is_nullable in columns:
        python = TYPES[kind]
        lines.append(f"    {column}: {python}{' | None' if is_nullable and python != 'Any' else ''}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with psycopg.connect(sys.argv[1]) as connection:
        sys.stdout.write(source(connection))
