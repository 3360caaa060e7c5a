"""Orders."""

from __future__ import annotations

from engine_py.api.fields import Number, Text, Time, Word
from engine_py.api.recipes import RUN, SYMBOL, WRITES, every, first, own_of, rows
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

_ORDER = RUN + "/orders/{order_id}"

_SIDE = Word("side", "BUY or SELL.", True, words=("BUY", "SELL"))
_LIFES = ("DAY", "GTC", "GTD", "IOC", "FOK")
_TIME_IN_FORCE = Word("time_in_force", "How long the order lives. Default: GTC.", words=_LIFES)
_CLIENT_ORDER_ID = Text("client_order_id", "Your own id: the same again answers the first order.", most=200)
_GOOD_TILL = Time("good_till", "GTD: the last time at which a bar can fill it.")
_QUANTITY = Number("quantity", "Units.", True)

_TYPES = ("MARKET", "LIMIT", "STOP", "STOP_LIMIT", "TRAILING_STOP")
_PREVIEW = (
    SYMBOL,
    _SIDE,
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
    SYMBOL,
    _SIDE,
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


def _explain(call: Call) -> Plan:
    source = """select t.* from explain_order(p_user_id => %s, p_run_id => %s, p_order_id => %s) with ordinality t
                 where true"""
    select = page(source, ("t.ordinality",), hidden="ordinality")
    return select(call, "explain_order", [*call.run, str(call.path["order_id"])])


def _get_order(call: Call) -> Plan:
    run = Statement("select from strategy_run where user_id = %s and run_id = %s", call.run)
    text = "select t.* from paper_order t where t.user_id = %s and t.run_id = %s and t.order_id = %s"

    def finish(results: Results) -> Answer:
        require_run(call, results[0])
        return one(results[1], "order")

    return Plan([run, Statement(text, [*call.run, str(call.path["order_id"])])], finish)


ROUTES: tuple[Route, ...] = (
    Route(
        *("POST", RUN + "/orders", "place_order", "Place an order. One that cannot be accepted is stored REJECTED."),
        status=201,
        answer="paper_order",
        body=(*_PREVIEW, _CLIENT_ORDER_ID),
        plan=first(lambda c: verb("place_order", {**own(c), **c.body}), "orders"),
        refusals=WRITES,
        repeatable=False,
    ),
    rows("/orders", "paper_order", ("t.order_id",), "The run's orders.", "list_orders"),
    Route(
        *("POST", RUN + "/orders/oco", "place_oco", "Place a limit and a stop order that cancel each other."),
        status=201,
        answer="paper_order",
        is_page=True,
        body=_OCO,
        plan=every(lambda c: verb("place_oco", {**own(c), **c.body})),
        refusals=WRITES,
        repeatable=False,
    ),
    Route(
        *("POST", RUN + "/orders/preview", "preview_order", "What an order would be answered. Stores nothing."),
        answer="order_preview",
        body=_PREVIEW,
        plan=first(lambda c: verb("preview_order", {**own(c), **c.body})),
        refusals=WRITES,
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
        plan=first(lambda c: verb("replace_order", {**own_of(c, "order_id"), **c.body}), "orders"),
        refusals=WRITES,
        repeatable=False,
    ),
    Route(
        *("DELETE", _ORDER, "cancel_order", "Cancel an order. A closed one is answered as it is."),
        answer="paper_order",
        plan=first(lambda c: verb("cancel_order", own_of(c, "order_id"))),
        refusals=WRITES,
    ),
)
