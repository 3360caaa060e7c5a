"""Plans: SIPs and rebalances."""

from __future__ import annotations

from collections.abc import Callable

from engine_py.api.fields import MAX_ID, Boolean, Date, Integer, Number, Shares, Text, Time, Word
from engine_py.api.recipes import RUN, WRITES, every, own_of, rows
from engine_py.api.table import (
    CURSOR,
    LIMIT,
    Answer,
    Call,
    Plan,
    Results,
    Route,
    Statement,
    one,
    own,
    page,
    require_run,
    verb,
)

_SIP = RUN + "/sips/{sip_id}"
_PLAN = RUN + "/rebalances/{plan_id}"

_FREQUENCY = Word("frequency", "How often it has a slot.", True, words=("DAILY", "WEEKLY", "MONTHLY", "QUARTERLY"))
_PLAN_ID = Integer("rebalance_plan", "Buy what this plan's weights lack most.", least=1, most=MAX_ID)
_CREATE_SIP = (
    Text("symbol", "What to buy, unless basket or rebalance_plan says it.", most=64, least=1),
    Number("amount", "Money per slot.", True),
    _FREQUENCY,
    Date("start", "The first slot's date.", True),
    Word("roll", "On a holiday. Default: NEXT.", words=("NEXT", "PREVIOUS", "SKIP")),
    Word("catch_up", "Slots that were missed. Default: ONCE.", words=("ONCE", "EACH", "SKIP")),
    Date("end", "The last date."),
    Integer("instalments", "How many slots there are.", least=1),
    Number("step_up_percent", "Raise the amount by so many percent."),
    Number("step_up_amount", "Raise the amount by so much."),
    Integer("step_up_every", "Raise it once every so many slots.", least=1),
    Boolean("whole_units", "Buy whole units; carry the rest forward."),
    Integer("auto_pause_after", "Pause after so many slots in a row without funds.", least=1),
    Shares("basket", '{"SYMBOL": share}, 1 in sum.'),
    _PLAN_ID,
)
_CREATE_REBALANCE = (
    Shares("weights", '{"SYMBOL": share of equity}, at most 1 in sum.', True),
    _FREQUENCY,
    Date("start", "The first slot's date.", True),
    Number("band", "Trade only what is further than this share of equity from its target."),
    Number("band_relative", "Trade also what is further than this share of the target itself."),
    Boolean("to_band_edge", "Trade back to the band's edge only."),
    Number("min_order_value", "Orders worth less are left out."),
    Boolean("whole_units", "Targets are whole units."),
)
_DATES = (Date("from", "The first nominal date."), Date("to", "The last nominal date."))
_SIPS = "select t.* from sip_plan t where t.user_id = %s and t.run_id = %s"
_REBALANCES = """select t.*, (select jsonb_object_agg(w.symbol, w.weight) from target_weight w
                               where w.user_id = t.user_id and w.run_id = t.run_id and w.plan_id = t.plan_id) as weights
                   from rebalance_plan t where t.user_id = %s and t.run_id = %s"""


def _plan_row(select: str, key: str, kind: str, *makes: Callable[[Call], Statement]) -> Callable[[Call], Plan]:
    """A plan of the path, as it is after these."""

    def plan(call: Call) -> Plan:
        run = Statement("select from strategy_run where user_id = %s and run_id = %s", call.run)
        row = Statement(f"{select} and t.{key} = %s", [*call.run, str(call.path[key])])

        def finish(results: Results) -> Answer:
            require_run(call, results[0])
            return one(results[-1], kind)

        return Plan([run, *(make(call) for make in makes), row], finish)

    return plan


def _new_plan(select: str, key: str, where: str, make: Callable[[Call], Statement]) -> Callable[[Call], Plan]:
    """A verb that makes a plan: under the run's lock it is the one with the highest number."""

    def plan(call: Call) -> Plan:
        row = Statement(f"{select} order by t.{key} desc limit 1", call.run)

        def finish(results: Results) -> Answer:
            made = results[-1][0]
            return Answer(made, f"/v1/runs/{call.path['run_id']}/{where}/{made[key]}")

        return Plan([make(call), row], finish)

    return plan


ROUTES: tuple[Route, ...] = (
    Route(
        *("POST", RUN + "/sips", "create_sip", "Buy for an amount at every slot."),
        status=201,
        answer="sip_plan",
        body=_CREATE_SIP,
        plan=_new_plan(_SIPS, "sip_id", "sips", lambda c: verb("create_sip", {**own(c), "symbol": None, **c.body})),
        refusals=WRITES,
        repeatable=False,
    ),
    rows("/sips", "sip_plan", ("t.sip_id",), "The run's SIPs.", "list_sips"),
    Route(
        *("GET", _SIP, "get_sip", "A SIP."),
        answer="sip_plan",
        plan=_plan_row(_SIPS, "sip_id", "sip"),
        refusals=(404,),
    ),
    Route(
        *("POST", _SIP + "/change", "change_sip", "Invest another amount from the next slot on."),
        answer="sip_plan",
        body=(Number("amount", "Money per slot.", True),),
        plan=_plan_row(_SIPS, "sip_id", "sip", lambda c: verb("change_sip", {**own_of(c, "sip_id"), **c.body})),
        refusals=WRITES,
        repeatable=False,
    ),
    Route(
        *("POST", _SIP + "/pause", "pause_sip", "Skip slots: of these dates, or until it is resumed."),
        answer="sip_plan",
        body=_DATES,
        plan=_plan_row(_SIPS, "sip_id", "sip", lambda c: verb("pause_sip", {**own_of(c, "sip_id"), **c.body})),
        refusals=WRITES,
        repeatable=False,
    ),
    Route(
        *("POST", _SIP + "/resume", "resume_sip", "Execute slots again."),
        answer="sip_plan",
        body=_DATES,
        plan=_plan_row(_SIPS, "sip_id", "sip", lambda c: verb("resume_sip", {**own_of(c, "sip_id"), **c.body})),
        refusals=WRITES,
        repeatable=False,
    ),
    Route(
        *("POST", _SIP + "/end", "end_sip", "No more slots."),
        answer="sip_plan",
        body=(),
        plan=_plan_row(_SIPS, "sip_id", "sip", lambda c: verb("end_sip", own_of(c, "sip_id"))),
        refusals=WRITES,
    ),
    Route(
        *("POST", _SIP + "/preview", "preview_sip", "How the next slot would end. Stores nothing."),
        answer="sip_preview",
        is_page=True,
        body=(Time("logical_time", "At which tick. Default: the last."),),
        plan=every(lambda c: verb("preview_sip", {**own_of(c, "sip_id"), **c.body})),
        refusals=WRITES,
    ),
    Route(
        *("POST", RUN + "/rebalances", "create_rebalance", "Trade to target weights at every slot."),
        status=201,
        answer="rebalance_plan",
        body=_CREATE_REBALANCE,
        plan=_new_plan(_REBALANCES, "plan_id", "rebalances", lambda c: verb("create_rebalance", {**own(c), **c.body})),
        refusals=WRITES,
        repeatable=False,
    ),
    Route(
        *("GET", RUN + "/rebalances", "list_rebalances", "The run's rebalance plans."),
        answer="rebalance_plan",
        is_page=True,
        query=(LIMIT, CURSOR),
        plan=lambda c: page(_REBALANCES, ("t.plan_id",))(c, "list_rebalances", c.run),
        refusals=(404,),
    ),
    Route(
        *("GET", _PLAN, "get_rebalance", "A rebalance plan."),
        answer="rebalance_plan",
        plan=_plan_row(_REBALANCES, "plan_id", "rebalance plan"),
        refusals=(404,),
    ),
    Route(
        *("POST", _PLAN + "/end", "end_rebalance", "No more slots. Its weights stay, for SIPs that buy towards them."),
        answer="rebalance_plan",
        body=(),
        plan=_plan_row(_REBALANCES, "plan_id", "rebalance plan", lambda c: verb("end_rebalance", own_of(c, "plan_id"))),
        refusals=WRITES,
    ),
)
