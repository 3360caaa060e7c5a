"""The routes of a key's own user. JSON names are those of columns and parameters; nobody names a user_id."""

from __future__ import annotations

from collections.abc import Callable

from engine_py.api.fields import (
    MAX_ID,
    Boolean,
    Date,
    Integer,
    Number,
    QueryIds,
    QueryInteger,
    Shares,
    Text,
    Time,
    Word,
)
from engine_py.api.table import (
    CURSOR,
    FROM,
    LIMIT,
    RUNS,
    TO,
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
    run_row,
    verb,
)
from engine_py.report.gather import QUERY

RUN = "/v1/runs/{run_id}"
_ORDER = RUN + "/orders/{order_id}"
_SIP = RUN + "/sips/{sip_id}"
_PLAN = RUN + "/rebalances/{plan_id}"

SIDE = Word("side", "BUY or SELL.", True, words=("BUY", "SELL"))
_FREQUENCY = Word("frequency", "How often it has a slot.", True, words=("DAILY", "WEEKLY", "MONTHLY", "QUARTERLY"))
_SYMBOL = Text("symbol", "The instrument.", True, most=64, least=1)
_LIFES = ("DAY", "GTC", "GTD", "IOC", "FOK")
_TIME_IN_FORCE = Word("time_in_force", "How long the order lives. Default: GTC.", words=_LIFES)
_CLIENT_ORDER_ID = Text("client_order_id", "Your own id: the same again answers the first order.", most=200)
_GOOD_TILL = Time("good_till", "GTD: the last time at which a bar can fill it.")
_QUANTITY = Number("quantity", "Units.", True)

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
_TYPES = ("MARKET", "LIMIT", "STOP", "STOP_LIMIT", "TRAILING_STOP")
_PREVIEW = (
    _SYMBOL,
    SIDE,
    _QUANTITY,
    Word("order_type", "By what it is met on a bar. Default: MARKET.", words=_TYPES),
    Number("limit_price", "LIMIT, STOP_LIMIT."),
    Number("stop_price", "STOP, STOP_LIMIT."),
    _TIME_IN_FORCE,
    Number("trail_amount", "TRAILING_STOP: distance from the best price."),
    Number("trail_percent", "TRAILING_STOP: the same in percent."),
    _GOOD_TILL,
    Number("take_profit", "Bracket: price of the exit with profit."),
    Number("stop_loss", "Bracket: stop price of the exit with loss."),
    Number("stop_loss_limit", "Bracket: limit price of that exit."),
)
_OCO = (
    _SYMBOL,
    SIDE,
    _QUANTITY,
    Number("limit_price", "Price of the limit order.", True),
    Number("stop_price", "Price of the stop order.", True),
    Number("stop_limit_price", "Limit price of the stop order."),
    _TIME_IN_FORCE,
    _CLIENT_ORDER_ID,
    _GOOD_TILL,
)
_REPLACE = (
    Number("quantity", "Units; by default what is left."),
    Number("limit_price", "By default as it was, as all that follow."),
    Number("stop_price", "The stop."),
    _CLIENT_ORDER_ID,
    Word("time_in_force", "How long the order lives.", words=_LIFES),
    Number("trail_amount", "TRAILING_STOP: distance from the best price."),
    Number("trail_percent", "TRAILING_STOP: the same in percent."),
    _GOOD_TILL,
)
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


def _then_run(*statements: Callable[[Call], Statement], created: bool = False) -> Callable[[Call], Plan]:
    """The run as it is after these."""

    def plan(call: Call) -> Plan:
        def finish(results: Results) -> Answer:
            require_run(call, results[-1])
            return Answer(results[-1][0])

        return Plan([*(make(call) for make in statements), run_row(call)], finish)

    return plan


def _new_run(make: Callable[[Call], Statement]) -> Callable[[Call], Plan]:
    """A verb that starts a run: it is the user's only RUNNING one."""

    def plan(call: Call) -> Plan:
        row = Statement(f"{RUNS} where t.user_id = %s and t.status = 'RUNNING'", [str(call.who.user_id)])

        def finish(results: Results) -> Answer:
            run = results[-1][0]
            return Answer(run, f"/v1/runs/{run['run_id']}")

        return Plan([make(call), row], finish)

    return plan


def _first(
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


def _all(make: Callable[[Call], Statement]) -> Callable[[Call], Plan]:
    def plan(call: Call) -> Plan:
        return Plan([make(call)], lambda results: Answer({"items": results[-1], "next_cursor": None}))

    return plan


def _of_plan(call: Call, key: str) -> dict[str, str | None]:
    return {**own(call), key: str(call.path[key])}


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


def _rows(path: str, table: str, keys: tuple[str, ...], summary: str, name: str) -> Route:
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


def _measure(path: str, function: str, answer: str, summary: str, name: str, seconds: int = 0) -> Route:
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


def _equity(call: Call) -> Plan:
    source = "select t.* from equity_between(p_user_id => %s, p_run_id => %s, p_from => %s, p_to => %s) t where true"
    values = [*call.run, call.query.get("from"), call.query.get("to")]
    return page(source, ("t.logical_time",))(call, "list_equity", values)


def _explain(call: Call) -> Plan:
    source = """select t.* from explain_order(p_user_id => %s, p_run_id => %s, p_order_id => %s) with ordinality t
                 where true"""
    select = page(source, ("t.ordinality",), hidden="ordinality")
    return select(call, "explain_order", [*call.run, str(call.path["order_id"])])


def _diff(call: Call) -> Plan:
    source = """select t.* from replay_diff(p_user_a => %s, p_run_a => %s, p_user_b => %s, p_run_b => %s)
                  with ordinality t where true"""
    select = page(source, ("t.ordinality",), hidden="ordinality")
    return select(call, "diff_runs", [*call.run, call.run[0], call.query["other"]])


def _digest(call: Call) -> Plan:
    def finish(results: Results) -> Answer:
        return Answer({"run_id": call.path["run_id"], "digest": results[0][0]["digest"]})

    return Plan([Statement("select run_digest(p_user_id => %s, p_run_id => %s) as digest", call.run)], finish)


def _report(call: Call) -> Plan:
    """One statement, so that all of it is of one moment. The page is laid out by the app."""
    user_id, run_id = call.run
    others = (call.query.get("compare") or "").split(",")
    runs = list(dict.fromkeys([run_id, *(str(int(other)) for other in others if other)]))
    of_user, ids = ("{" + ",".join(values) + "}" for values in ([user_id] * len(runs), runs))
    values = [user_id, run_id, call.query.get("benchmark"), ids, of_user, ids]
    return Plan([Statement(QUERY, values)], lambda results: Answer(results[0][0]))


def _get_order(call: Call) -> Plan:
    run = Statement("select from strategy_run where user_id = %s and run_id = %s", call.run)
    text = "select t.* from paper_order t where t.user_id = %s and t.run_id = %s and t.order_id = %s"

    def finish(results: Results) -> Answer:
        require_run(call, results[0])
        return one(results[1], "order")

    return Plan([run, Statement(text, [*call.run, str(call.path["order_id"])])], finish)


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


def _fork(call: Call) -> Statement:
    arguments = {"at": call.body.get("at"), "new_user_id": str(call.who.user_id), "name": call.body.get("name")}
    return verb("fork_run", {**own(call), **arguments})


def _list_runs(call: Call) -> Plan:
    select = page(f"{RUNS} where t.user_id = %s", ("t.run_id",), of_run=False)
    return select(call, "list_runs", [str(call.who.user_id)])


_WRITES = (404, 409)

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
    Route(*("GET", RUN, "get_run", "A run, and where it stands."), answer="run", plan=_then_run(), refusals=(404,)),
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
        plan=_then_run(lambda c: verb("stop_run", {**own(c), **c.body})),
        refusals=(404,),
    ),
    Route(
        *("POST", RUN + "/fork", "fork_run", "Start a run with the history of this one up to one of its ticks."),
        status=201,
        answer="run",
        body=(Time("at", "The last tick in common. Default: the last."), Text("name", "Its name.")),
        plan=_new_run(_fork),
        refusals=_WRITES,
        repeatable=False,
        seconds=120,
    ),
    Route(
        *("POST", RUN + "/orders", "place_order", "Place an order. One that cannot be accepted is stored REJECTED."),
        status=201,
        answer="paper_order",
        body=(*_PREVIEW, _CLIENT_ORDER_ID),
        plan=_first(lambda c: verb("place_order", {**own(c), **c.body}), "orders"),
        refusals=_WRITES,
        repeatable=False,
    ),
    _rows("/orders", "paper_order", ("t.order_id",), "The run's orders.", "list_orders"),
    Route(
        *("POST", RUN + "/orders/oco", "place_oco", "Place a limit and a stop order that cancel each other."),
        status=201,
        answer="paper_order",
        is_page=True,
        body=_OCO,
        plan=_all(lambda c: verb("place_oco", {**own(c), **c.body})),
        refusals=_WRITES,
        repeatable=False,
    ),
    Route(
        *("POST", RUN + "/orders/preview", "preview_order", "What an order would be answered. Stores nothing."),
        answer="order_preview",
        body=_PREVIEW,
        plan=_first(lambda c: verb("preview_order", {**own(c), **c.body})),
        refusals=_WRITES,
    ),
    Route(*("GET", _ORDER, "get_order", "An order."), answer="paper_order", plan=_get_order, refusals=(404,)),
    Route(
        *("GET", _ORDER + "/explain", "explain_order", "Why an order did or did not fill, bar by bar, folded."),
        answer="explanation",
        is_page=True,
        query=(LIMIT, CURSOR),
        plan=_explain,
        refusals=(404,),
    ),
    Route(
        *("POST", _ORDER + "/replace", "replace_order", "Cancel an open order and place another in the same moment."),
        status=201,
        answer="paper_order",
        body=_REPLACE,
        plan=_first(lambda c: verb("replace_order", {**_of_plan(c, "order_id"), **c.body}), "orders"),
        refusals=_WRITES,
        repeatable=False,
    ),
    Route(
        *("DELETE", _ORDER, "cancel_order", "Cancel an order. A closed one is answered as it is."),
        answer="paper_order",
        plan=_first(lambda c: verb("cancel_order", _of_plan(c, "order_id"))),
        refusals=_WRITES,
    ),
    Route(
        *("POST", RUN + "/sips", "create_sip", "Buy for an amount at every slot."),
        status=201,
        answer="sip_plan",
        body=_CREATE_SIP,
        plan=_new_plan(_SIPS, "sip_id", "sips", lambda c: verb("create_sip", {**own(c), "symbol": None, **c.body})),
        refusals=_WRITES,
        repeatable=False,
    ),
    _rows("/sips", "sip_plan", ("t.sip_id",), "The run's SIPs.", "list_sips"),
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
        plan=_plan_row(_SIPS, "sip_id", "sip", lambda c: verb("change_sip", {**_of_plan(c, "sip_id"), **c.body})),
        refusals=_WRITES,
        repeatable=False,
    ),
    Route(
        *("POST", _SIP + "/pause", "pause_sip", "Skip slots: of these dates, or until it is resumed."),
        answer="sip_plan",
        body=_DATES,
        plan=_plan_row(_SIPS, "sip_id", "sip", lambda c: verb("pause_sip", {**_of_plan(c, "sip_id"), **c.body})),
        refusals=_WRITES,
        repeatable=False,
    ),
    Route(
        *("POST", _SIP + "/resume", "resume_sip", "Execute slots again."),
        answer="sip_plan",
        body=_DATES,
        plan=_plan_row(_SIPS, "sip_id", "sip", lambda c: verb("resume_sip", {**_of_plan(c, "sip_id"), **c.body})),
        refusals=_WRITES,
        repeatable=False,
    ),
    Route(
        *("POST", _SIP + "/end", "end_sip", "No more slots."),
        answer="sip_plan",
        body=(),
        plan=_plan_row(_SIPS, "sip_id", "sip", lambda c: verb("end_sip", _of_plan(c, "sip_id"))),
        refusals=_WRITES,
    ),
    Route(
        *("POST", _SIP + "/preview", "preview_sip", "How the next slot would end. Stores nothing."),
        answer="sip_preview",
        is_page=True,
        body=(Time("logical_time", "At which tick. Default: the last."),),
        plan=_all(lambda c: verb("preview_sip", {**_of_plan(c, "sip_id"), **c.body})),
        refusals=_WRITES,
    ),
    Route(
        *("POST", RUN + "/rebalances", "create_rebalance", "Trade to target weights at every slot."),
        status=201,
        answer="rebalance_plan",
        body=_CREATE_REBALANCE,
        plan=_new_plan(_REBALANCES, "plan_id", "rebalances", lambda c: verb("create_rebalance", {**own(c), **c.body})),
        refusals=_WRITES,
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
        plan=_plan_row(
            _REBALANCES, "plan_id", "rebalance plan", lambda c: verb("end_rebalance", _of_plan(c, "plan_id"))
        ),
        refusals=_WRITES,
    ),
    Route(
        *("PUT", RUN + "/risk-limit", "set_risk_limit", "Replace the run's limits; null lifts one."),
        answer="risk_limit",
        body=(
            Number("max_position", "Units held per symbol."),
            Number("max_order_value", "Value of one order."),
        ),
        plan=_risk_limit(lambda c: verb("set_risk_limit", {**own(c), **c.body})),
        refusals=_WRITES,
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
        body=(_SYMBOL,),
        plan=_forbid,
        refusals=_WRITES,
    ),
    _rows(
        *("/forbidden-symbols", "forbidden_symbol", ('t.symbol collate "C"',)),
        "What the run may not trade.",
        "list_forbidden_symbols",
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
        plan=_then_run(lambda c: verb("tick", {**own(c), **c.body}, call=True)),
        refusals=_WRITES,
        seconds=60,
    ),
    Route(
        *("GET", RUN + "/equity", "list_equity", "Equity at every bar time, stored or computed."),
        answer="equity",
        is_page=True,
        query=(FROM, TO, LIMIT, CURSOR),
        plan=_equity,
        refusals=(404,),
    ),
    _rows("/mtm", "mtm_ledger", ("t.logical_time",), "Stored marks to market.", "list_mtm"),
    _rows("/positions", "paper_position", ('t.symbol collate "C"',), "Units held per symbol.", "list_positions"),
    _rows("/trades", "paper_trade", ("t.trade_id",), "Fills.", "list_trades"),
    _rows("/fees", "trade_fee", ("t.trade_id", 't.component collate "C"'), "What fees are made of.", "list_fees"),
    _rows("/cash", "cash_ledger", ("t.entry_id",), "Movements of cash.", "list_cash"),
    _rows(
        *("/events", "event_ledger"),
        ("t.logical_time", 't.event_type collate "C"', 't.event_key collate "C"'),
        "How slots, splits, dividends and margin calls ended.",
        "list_events",
    ),
    _rows("/status", "engine_status", ("t.status_id",), "The run's lifecycle.", "list_status"),
    _measure("/performance", "performance", "metric", "The run's figures.", "list_performance", 60),
    _measure(
        *("/performance/reasons", "performance_reasons", "metric_reason", "Why figures are null."),
        "list_performance_reasons",
        60,
    ),
    _measure(
        *("/performance/symbols", "performance_by_symbol", "symbol_metric", "Figures per symbol."),
        "list_performance_by_symbol",
        60,
    ),
    _measure("/drawdowns", "drawdowns", "drawdown", "Falls of equity, the deepest first.", "list_drawdowns", 60),
    _measure("/violations", "run_violations", "violation", "Broken invariants: none.", "list_violations", 60),
    Route(
        *("GET", RUN + "/digest", "get_digest", "SHA-256 over all that the run did; equal for equal histories."),
        answer="digest",
        plan=_digest,
        refusals=(404,),
        seconds=60,
    ),
    Route(
        *("GET", RUN + "/report", "get_report", "The run's report: one HTML page that needs nothing else."),
        answer="text",
        answers_with="text/html",
        query=(
            Text("benchmark", "Beside it the same capital put into this symbol of its feed.", most=64, least=1),
            QueryIds("compare", "run_ids of other runs of yours, with commas between them."),
        ),
        plan=_report,
        refusals=(404,),
        seconds=60,
    ),
    Route(
        *("GET", RUN + "/diff", "diff_runs", "The rows in which another of your runs differs."),
        answer="difference",
        is_page=True,
        query=(QueryInteger("other", "The other run_id.", True, least=-(2**63), most=MAX_ID), LIMIT, CURSOR),
        plan=_diff,
        refusals=(404,),
        seconds=60,
    ),
)
