"""Plans that several routes share: what a verb returns, the run after it, a table page by page."""

from __future__ import annotations

from collections.abc import Callable

from engine_py.api.fields import Text
from engine_py.api.table import (
    CURSOR,
    LIMIT,
    Answer,
    Call,
    Plan,
    Results,
    Route,
    Statement,
    own,
    page,
    require_run,
    run_row,
)

RUN = "/v1/runs/{run_id}"
WRITES = (404, 409)  # how a verb that changes a run may refuse

SYMBOL = Text("symbol", "The instrument.", True, most=64, least=1)


def then_run(*statements: Callable[[Call], Statement]) -> Callable[[Call], Plan]:
    """The run as it is after these."""

    def plan(call: Call) -> Plan:
        def finish(results: Results) -> Answer:
            require_run(call, results[-1])
            return Answer(results[-1][0])

        return Plan([*(make(call) for make in statements), run_row(call)], finish)

    return plan


def first(
    make: Callable[[Call], Statement], location: str | None = None, key: str = "order_id"
) -> Callable[[Call], Plan]:
    """The one row that a verb returns, and where it will be found."""

    def plan(call: Call) -> Plan:
        def finish(results: Results) -> Answer:
            row = results[-1][0]
            where = location and f"/v1/runs/{call.path['run_id']}/{location}/{row[key]}"
            return Answer(row, where)

        return Plan([make(call)], finish)

    return plan


def every(make: Callable[[Call], Statement]) -> Callable[[Call], Plan]:
    def plan(call: Call) -> Plan:
        return Plan([make(call)], lambda results: Answer({"items": results[-1], "next_cursor": None}))

    return plan


def own_of(call: Call, key: str) -> dict[str, str | None]:
    return {**own(call), key: str(call.path[key])}


def rows(path: str, table: str, keys: tuple[str, ...], summary: str, name: str) -> Route:
    """A table of the run, page by page."""
    select = page(f"select t.* from {table} t where t.user_id = %s and t.run_id = %s", keys)
    return Route(
        "GET",
        RUN + path,
        name,
        summary,
        answer=table,
        is_page=True,
        query=(LIMIT, CURSOR),
        plan=lambda call: select(call, name, call.run),
        refusals=(404,),
    )


def measure(path: str, function: str, answer: str, summary: str, name: str, seconds: int = 0) -> Route:
    """What a verb that reads returns, page by page, in its own order."""
    select = page(
        f"select t.* from {function}(p_user_id => %s, p_run_id => %s) with ordinality t where true",
        ("t.ordinality",),
        hidden="ordinality",
    )
    return Route(
        "GET",
        RUN + path,
        name,
        summary,
        answer=answer,
        is_page=True,
        query=(LIMIT, CURSOR),
        plan=lambda call: select(call, name, call.run),
        refusals=(404,),
        seconds=seconds,
    )
