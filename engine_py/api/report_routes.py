"""What a run has done: its ledgers, and what is computed from them."""

from __future__ import annotations

from engine_py.api.fields import MAX_ID, QueryIds, QueryInteger, Text
from engine_py.api.recipes import RUN, measure, rows
from engine_py.api.table import (
    CURSOR,
    FROM,
    LIMIT,
    TO,
    Answer,
    Call,
    Plan,
    Results,
    Route,
    Statement,
    page,
)
from engine_py.report.gather import QUERY


def _equity(call: Call) -> Plan:
    source = "select t.* from equity_between(p_user_id => %s, p_run_id => %s, p_from => %s, p_to => %s) t where true"
    values = [*call.run, call.query.get("from"), call.query.get("to")]
    return page(source, ("t.logical_time",))(call, "list_equity", values)


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


ROUTES: tuple[Route, ...] = (
    Route(
        *("GET", RUN + "/equity", "list_equity", "Equity at every bar time, stored or computed."),
        answer="equity",
        is_page=True,
        query=(FROM, TO, LIMIT, CURSOR),
        plan=_equity,
        refusals=(404,),
    ),
    rows("/mtm", "mtm_ledger", ("t.logical_time",), "Stored marks to market.", "list_mtm"),
    rows("/positions", "paper_position", ('t.symbol collate "C"',), "Units held per symbol.", "list_positions"),
    rows("/trades", "paper_trade", ("t.trade_id",), "Fills.", "list_trades"),
    rows("/fees", "trade_fee", ("t.trade_id", 't.component collate "C"'), "What fees are made of.", "list_fees"),
    rows("/cash", "cash_ledger", ("t.entry_id",), "Movements of cash.", "list_cash"),
    rows(
        *("/events", "event_ledger"),
        ("t.logical_time", 't.event_type collate "C"', 't.event_key collate "C"'),
        "How slots, splits, dividends and margin calls ended.",
        "list_events",
    ),
    rows("/status", "engine_status", ("t.status_id",), "The run's lifecycle.", "list_status"),
    measure("/performance", "performance", "metric", "The run's figures.", "list_performance", 60),
    measure(
        *("/performance/reasons", "performance_reasons", "metric_reason", "Why figures are null."),
        "list_performance_reasons",
        60,
    ),
    measure(
        *("/performance/symbols", "performance_by_symbol", "symbol_metric", "Figures per symbol."),
        "list_performance_by_symbol",
        60,
    ),
    measure("/drawdowns", "drawdowns", "drawdown", "Falls of equity, the deepest first.", "list_drawdowns", 60),
    measure("/violations", "run_violations", "violation", "Broken invariants: none.", "list_violations", 60),
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
