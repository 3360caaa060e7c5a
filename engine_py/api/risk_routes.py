"""What a run may not do: its limits, its forbidden symbols."""

from __future__ import annotations

from collections.abc import Callable

from engine_py.api.fields import Number
from engine_py.api.recipes import RUN, SYMBOL, WRITES, rows
from engine_py.api.table import (
    Answer,
    Call,
    Plan,
    Results,
    Route,
    Statement,
    one,
    own,
    require_run,
    verb,
)


def _risk_limit(*makes: Callable[[Call], Statement]) -> Callable[[Call], Plan]:
    text = """select r.user_id, r.run_id, t.max_position, t.max_order_value
                from strategy_run r left join risk_limit t on t.user_id = r.user_id and t.run_id = r.run_id
               where r.user_id = %s and r.run_id = %s"""

    def plan(call: Call) -> Plan:
        def finish(results: Results) -> Answer:
            require_run(call, results[-1])
            return Answer(results[-1][0])

        return Plan([*(make(call) for make in makes), Statement(text, call.run)], finish)

    return plan


def _forbid(call: Call) -> Plan:
    row = "select t.* from forbidden_symbol t where t.user_id = %s and t.run_id = %s and t.symbol = %s"

    def finish(results: Results) -> Answer:
        return one(results[-1], "symbol")

    statements = [verb("forbid_symbol", {**own(call), **call.body}), Statement(row, [*call.run, call.body["symbol"]])]
    return Plan(statements, finish)


ROUTES: tuple[Route, ...] = (
    Route(
        *("PUT", RUN + "/risk-limit", "set_risk_limit", "Replace the run's limits; null lifts one."),
        answer="risk_limit",
        body=(
            Number("max_position", "Units held per symbol."),
            Number("max_order_value", "Value of one order."),
        ),
        plan=_risk_limit(lambda c: verb("set_risk_limit", {**own(c), **c.body})),
        refusals=WRITES,
    ),
    Route(
        *("GET", RUN + "/risk-limit", "get_risk_limit", "The run's limits."),
        answer="risk_limit",
        plan=_risk_limit(),
        refusals=(404,),
    ),
    Route(
        *("POST", RUN + "/forbidden-symbols", "forbid_symbol", "Orders for a symbol are rejected from now on."),
        status=201,
        answer="forbidden_symbol",
        body=(SYMBOL,),
        plan=_forbid,
        refusals=WRITES,
    ),
    rows(
        *("/forbidden-symbols", "forbidden_symbol", ('t.symbol collate "C"',)),
        "What the run may not trade.",
        "list_forbidden_symbols",
    ),
)
