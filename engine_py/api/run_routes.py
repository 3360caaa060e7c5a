"""Runs: started, ticked, stopped, deleted, forked."""

from __future__ import annotations

from collections.abc import Callable

from engine_py.api.fields import Boolean, Integer, Number, Text, Time, Word
from engine_py.api.recipes import RUN, WRITES, then_run
from engine_py.api.table import (
    CURSOR,
    LIMIT,
    RUNS,
    Answer,
    Call,
    Plan,
    Results,
    Route,
    Statement,
    own,
    page,
    verb,
)

_START = (
    Number("initial_cash", "Cash to begin with.", True),
    Text("feed", "The feed that it follows. Default: default."),
    Text("name", "A name to know it by."),
    Number("participation", "Share of a bar's volume that may fill, above 0 to 1."),
    Number("slippage_bps", "Slippage of market and stop fills, in basis points."),
    Text("fee_schedule", "A fee schedule. Default: no fees."),
    Word("mark_policy", "Ticks that store their marks.", words=("EVERY_TICK", "SESSION", "EVENTS")),
    Text("currency", "ISO 4217. Default: USD.", most=5),
    Number("volume_impact", "Slippage by (quantity / volume) squared, times this."),
    Integer("penetration_ticks", "Ticks beyond its limit that fill a resting order.", least=0),
    Text("max_price_age", "Last closes older than this are stale: '3 days'.", most=100, least=1),
    Boolean("reinvest_dividends", "Buy units for dividends."),
    Number("initial_margin", "A margin account: equity per exposure that opening takes, up to 1."),
    Number("maintenance_margin", "With it: equity per exposure below which positions are closed."),
    Number("borrow_rate", "Yearly fee on what is sold short."),
    Number("margin_rate", "Yearly interest on negative cash."),
)


def _new_run(make: Callable[[Call], Statement]) -> Callable[[Call], Plan]:
    """A verb that starts a run: it is the user's only RUNNING one."""

    def plan(call: Call) -> Plan:
        row = Statement(f"{RUNS} where t.user_id = %s and t.status = 'RUNNING'", [str(call.who.user_id)])

        def finish(results: Results) -> Answer:
            run = results[-1][0]
            return Answer(run, f"/v1/runs/{run['run_id']}")

        return Plan([make(call), row], finish)

    return plan


def _fork(call: Call) -> Statement:
    arguments = {"at": call.body.get("at"), "new_user_id": str(call.who.user_id), "name": call.body.get("name")}
    return verb("fork_run", {**own(call), **arguments})


def _list_runs(call: Call) -> Plan:
    select = page(f"{RUNS} where t.user_id = %s", ("t.run_id",), of_run=False)
    return select(call, "list_runs", [str(call.who.user_id)])


ROUTES: tuple[Route, ...] = (
    Route(
        *("POST", "/v1/runs", "start_run", "Start a run. A user has one RUNNING at a time."),
        status=201,
        answer="run",
        body=_START,
        plan=_new_run(lambda c: verb("start_run", {"user_id": str(c.who.user_id), **c.body})),
        refusals=(404, 409),
        repeatable=False,
    ),
    Route(
        *("GET", "/v1/runs", "list_runs", "Your runs."),
        answer="run",
        is_page=True,
        query=(LIMIT, CURSOR),
        plan=_list_runs,
    ),
    Route(*("GET", RUN, "get_run", "A run, and where it stands."), answer="run", plan=then_run(), refusals=(404,)),
    Route(
        *("DELETE", RUN, "delete_run", "Delete a run with all it owns, whatever its status."),
        status=204,
        plan=lambda c: Plan([verb("delete_run", own(c))], lambda results: Answer()),
        refusals=(404,),
        repeatable=False,
        seconds=60,
    ),
    Route(
        *("POST", RUN + "/stop", "stop_run", "Stop a run for good: open orders are canceled, nothing is written more."),
        answer="run",
        body=(Text("reason", "Why, for the log."),),
        plan=then_run(lambda c: verb("stop_run", {**own(c), **c.body})),
        refusals=(404,),
    ),
    Route(
        *("POST", RUN + "/fork", "fork_run", "Start a run with the history of this one up to one of its ticks."),
        status=201,
        answer="run",
        body=(Time("at", "The last tick in common. Default: the last."), Text("name", "Its name.")),
        plan=_new_run(_fork),
        refusals=WRITES,
        repeatable=False,
        seconds=120,
    ),
    Route(
        *(
            "POST",
            RUN + "/ticks",
            "tick",
            "All that the run owes for that time, exactly once. Answers the run after it.",
        ),
        answer="run",
        body=(Time("logical_time", "The time of the tick.", True),),
        plan=then_run(lambda c: verb("tick", {**own(c), **c.body}, call=True)),
        refusals=WRITES,
        seconds=60,
    ),
)
