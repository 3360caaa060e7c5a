"""The routes of what all users share, and of administrators."""

from __future__ import annotations

from engine_py.api.fields import Boolean, Number, Text, Time, Word
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
    one,
    page,
    verb,
)
from engine_py.dialects import TEXT_FORMATS

FEED = Text("feed", "The feed.", True, least=1)
SYMBOL = Text("symbol", "The instrument.", True, most=64, least=1)
CSV, NDJSON = "text/csv", "application/x-ndjson"

_KEYS = """select key_id, label, prefix, is_admin, created_at, expires_at, revoked_at, last_used_at
             from list_keys(p_user_id => %s) t where true"""


def _me(call: Call) -> Plan:
    text = "select user_id, name, %s::bigint as key_id, %s::boolean as is_admin from app_user where user_id = %s"
    who = call.who
    values = [str(who.key_id), "true" if who.is_admin else "false", str(who.user_id)]
    return Plan([Statement(text, values)], lambda results: one(results[0], "user"))


def _keys_of(user_id: int, call: Call, name: str) -> Plan:
    return page(_KEYS, ("t.key_id",), of_run=False)(call, name, [str(user_id)])


def _revoke(user_id: int, call: Call) -> Plan:
    arguments: dict[str, str | None] = {"user_id": str(user_id), "key_id": str(call.path["key_id"])}
    return Plan([verb("revoke_key", arguments)], lambda results: Answer())


def _new_user(call: Call) -> Plan:
    def finish(results: Results) -> Answer:
        user_id = results[0][0]["user_id"]
        return Answer({"user_id": user_id, "name": call.body["name"]})

    return Plan([Statement("select create_user(p_name => %s) as user_id", [call.body["name"]])], finish)


def _new_key(call: Call) -> Plan:
    made = verb("create_key", {"user_id": str(call.path["user_id"]), **call.body})
    return Plan([made], lambda results: Answer(results[0][0]))


def _insert(table: str, call: Call) -> Plan:
    columns = ", ".join(call.body)
    text = f"insert into {table} as t ({columns}) values ({', '.join(['%s'] * len(call.body))}) returning t.*"
    return Plan([Statement(text, list(call.body.values()))], lambda results: Answer(results[0][0]))


def _tick_all(call: Call) -> Plan:
    arguments = {"logical_time": call.body["logical_time"], "feed": call.body.get("feed") or "default"}
    answer = "select %s::timestamptz as logical_time, %s::text as feed"

    def finish(results: Results) -> Answer:
        return Answer(results[1][0])

    return Plan([verb("tick_all", arguments, call=True), Statement(answer, list(arguments.values()))], finish)


def _bars(call: Call) -> Plan:
    source = "select t.* from price_bar t where t.feed = %s and t.symbol = %s"
    values = [call.query["feed"], call.query["symbol"]]
    for name, sign in (("from", ">="), ("to", "<=")):
        if call.query.get(name) is not None:
            source += f" and t.logical_time {sign} %s"
            values.append(call.query[name])
    return page(source, ("t.logical_time",), of_run=False)(call, "list_bars", values)


def _shared(path: str, table: str, keys: tuple[str, ...], summary: str) -> Route:
    name = f"list_{table}s"
    select = page(f"select t.* from {table} t where true", keys, of_run=False)
    return Route(
        "GET",
        path,
        name,
        summary,
        answer=table,
        is_page=True,
        query=(LIMIT, CURSOR),
        plan=lambda call: select(call, name, ()),
    )


_SCHEDULE = tuple(f't.{key} collate "C"' for key in ("fee_schedule", "component", "product", "side"))
_UPLOAD = (404,)

ROUTES: tuple[Route, ...] = (
    Route(*("GET", "/v1/me", "get_me", "Who your key says you are."), answer="me", plan=_me),
    Route(
        *("GET", "/v1/keys", "list_keys", "Your keys, without their secrets."),
        answer="api_key",
        is_page=True,
        query=(LIMIT, CURSOR),
        plan=lambda c: _keys_of(c.who.user_id, c, "list_keys"),
    ),
    Route(
        *("DELETE", "/v1/keys/{key_id}", "revoke_key", "Revoke a key of yours; no new request can use it."),
        status=204,
        plan=lambda c: _revoke(c.who.user_id, c),
        refusals=(404,),
    ),
    _shared("/v1/feeds", "feed", ('t.feed collate "C"',), "Series of bars."),
    _shared("/v1/calendars", "calendar", ('t.calendar collate "C"',), "Whose sessions feeds follow."),
    _shared("/v1/instruments", "instrument", ('t.symbol collate "C"',), "What can be traded."),
    _shared("/v1/fee-schedules", "fee_schedule", (*_SCHEDULE, "t.effective_from"), "Dated charges."),
    Route(
        *("GET", "/v1/bars", "list_bars", "The bars of a symbol in a feed."),
        answer="price_bar",
        is_page=True,
        query=(FEED, SYMBOL, FROM, TO, LIMIT, CURSOR),
        plan=_bars,
    ),
    Route(
        *("POST", "/v1/admin/users", "create_user", "A new user."),
        status=201,
        answer="user",
        body=(Text("name", "A name; need not be unique.", True, least=1),),
        plan=_new_user,
        admin_only=True,
        repeatable=False,
    ),
    Route(
        *("POST", "/v1/admin/users/{user_id}/keys", "create_key", "A new key of a user. It is shown this once."),
        status=201,
        answer="new_key",
        body=(
            Text("label", "To know it by."),
            Time("expires_at", "When it ends. Default: never."),
            Boolean("is_admin", "Whether it may use these routes."),
        ),
        plan=_new_key,
        refusals=(404, 409),
        admin_only=True,
        repeatable=False,
    ),
    Route(
        *("GET", "/v1/admin/users/{user_id}/keys", "list_keys_of_user", "A user's keys, without their secrets."),
        answer="api_key",
        is_page=True,
        query=(LIMIT, CURSOR),
        plan=lambda c: _keys_of(c.path["user_id"], c, "list_keys_of_user"),
        refusals=(404,),
        admin_only=True,
    ),
    Route(
        *("DELETE", "/v1/admin/users/{user_id}/keys/{key_id}", "revoke_key_of_user", "Revoke a key of a user."),
        status=204,
        plan=lambda c: _revoke(c.path["user_id"], c),
        refusals=(404,),
        admin_only=True,
    ),
    Route(
        *("POST", "/v1/admin/feeds", "create_feed", "A new feed."),
        status=201,
        answer="feed",
        body=(
            Text("feed", "Its name.", True, least=1),
            Text("calendar", "The calendar that it follows. Default: ALWAYS.", least=1),
            Boolean("adjusted", "Its prices are adjusted: no corporate actions."),
        ),
        plan=lambda c: _insert("feed", c),
        refusals=(409,),
        admin_only=True,
        repeatable=False,
    ),
    Route(
        *("POST", "/v1/admin/instruments", "create_instrument", "A new instrument."),
        status=201,
        answer="instrument",
        body=(
            SYMBOL,
            Number("quantity_step", "The smallest tradable unit."),
            Number("price_tick", "The price grid of orders. Default: any price."),
            Text("product", "Its kind, for fee schedules.", least=1),
        ),
        plan=lambda c: _insert("instrument", c),
        refusals=(409,),
        admin_only=True,
        repeatable=False,
    ),
    Route(
        *("POST", "/v1/admin/tick-all", "tick_all", "Tick every RUNNING run of a feed, in one transaction."),
        answer="tick_all",
        body=(Time("logical_time", "The time of the tick.", True), Text("feed", "Default: default.", least=1)),
        plan=_tick_all,
        refusals=(404,),
        admin_only=True,
        seconds=600,
    ),
    Route(
        *("POST", "/v1/admin/feeds/{feed}/bars", "load_bars", "Load bars, all or nothing; safe to repeat."),
        answer="load_report",
        query=(
            Text("calendar", "The calendar of a feed that is new. Default: ALWAYS.", least=1),
            Text("symbol", "Where the file has no column for it.", most=64, least=1),
            Word("format", "What wrote the CSV. Default: generic.", words=TEXT_FORMATS),
            Word("prices", "Whether splits and dividends are in them. Default: raw.", words=("raw", "adjusted")),
        ),
        refusals=_UPLOAD,
        admin_only=True,
        media=(CSV, NDJSON),
    ),
    Route(
        *("POST", "/v1/admin/feeds/{feed}/actions", "load_actions", "Load splits and dividends, all or nothing."),
        answer="load_report",
        refusals=_UPLOAD,
        admin_only=True,
        media=(CSV, NDJSON),
    ),
    Route(
        *("POST", "/v1/admin/calendars/{calendar}/sessions", "load_sessions", "Load sessions, all or nothing."),
        answer="load_report",
        query=(Text("time_zone", "The market's, of a calendar that is new. Default: UTC.", least=1),),
        refusals=_UPLOAD,
        admin_only=True,
        media=(CSV, NDJSON),
    ),
)
