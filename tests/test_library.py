"""The library: every method is the verb or the rows it stands for, on a connection of its own or of the caller's."""

from __future__ import annotations

import inspect
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from helpers import at, make_bars, make_busy_run, pid_of, value
from psycopg.types.json import set_json_loads

import engine_py as papertick
from engine_py import errors
from engine_py import rows as typed
from engine_py.arguments import as_text, is_instant
from engine_py.cli_base import prepare
from engine_py.client import Papertick
from engine_py.client_run import Run, User
from engine_py.dialects.said import in_python
from engine_py.report import gather, page
from engine_py.results import Column, Performance, Rows
from engine_py.runref import RunKey

PROJECT = Path(__file__).resolve().parent.parent
Conn = psycopg.Connection[Any]


@pytest.fixture
def pt(db: Conn, dsn: str) -> Iterator[Papertick]:
    for symbol in ("AAA", "BBB"):
        make_bars(db, symbol, [100 + n for n in range(30)])
    with papertick.connect(dsn) as found:
        yield found


@pytest.fixture
def run(pt: Papertick) -> Run:
    return pt.start_run(pt.create_user("Ann"), 10_000, name="first")


@pytest.fixture
def busy(pt: Papertick, db: Conn) -> Run:
    """A run that has rows everywhere, at its tenth tick."""
    user, run_id = make_busy_run(db)
    found = pt.get_run(user, run_id)
    found.replay(end=at(9))
    return found


# --- what it says is what is there


def same(found: Rows[Any], db: Conn, query: str, *params: Any) -> None:
    """The rows of the library are the rows of the query, to the digit."""
    with db.cursor() as cur:
        set_json_loads(partial(json.loads, parse_float=Decimal), cur)
        cur.execute("set timezone = 'UTC'")
        expected = cur.execute(query, params).fetchall()
    assert expected
    assert [tuple(map(str, row)) for row in found] == [tuple(map(str, row)) for row in expected]


READERS: dict[str, tuple[Callable[[Run], Rows[Any]], str]] = {
    "orders": (Run.orders, "select * from paper_order where (user_id, run_id) = (%s, %s) order by order_id"),
    "trades": (Run.trades, "select * from paper_trade where (user_id, run_id) = (%s, %s) order by trade_id"),
    "positions": (Run.positions, "select * from paper_position where (user_id, run_id) = (%s, %s) order by symbol"),
    "cash": (Run.cash, "select * from cash_ledger where (user_id, run_id) = (%s, %s) order by entry_id"),
    "mtm": (Run.mtm, "select * from mtm_ledger where (user_id, run_id) = (%s, %s) order by logical_time"),
    "events": (
        Run.events,
        "select * from event_ledger where (user_id, run_id) = (%s, %s) order by logical_time, event_type collate \"C\", event_key collate \"C\"",
    ),
    "lifecycle": (Run.lifecycle, "select * from engine_status where (user_id, run_id) = (%s, %s)"),
    "sips": (Run.sips, "select * from sip_plan where (user_id, run_id) = (%s, %s)"),
    "rebalances": (Run.rebalances, "select * from rebalance_plan where (user_id, run_id) = (%s, %s)"),
    "target_weights": (Run.target_weights, "select * from target_weight where (user_id, run_id) = (%s, %s) order by 3, 4"),
    "equity": (Run.equity, "select * from equity_between(%s, %s)"),
    "performance_by_symbol": (Run.performance_by_symbol, "select * from performance_by_symbol(%s, %s)"),
    "sip_schedule": (Run.sip_schedule, "select * from sip_schedule(%s, %s)"),
    "rebalance_schedule": (Run.rebalance_schedule, "select * from rebalance_schedule(%s, %s)"),
    "stream": (Run.stream, "select * from run_stream(%s, %s)"),
    "explain": (lambda run: run.explain(1), "select * from explain_order(%s, %s, 1)"),
    "preview_sip": (lambda run: run.preview_sip(1, at(10)), f"select * from preview_sip(%s, %s, 1, '{at(10)}')"),
    "drawdowns": (Run.drawdowns, "select * from drawdowns(%s, %s)"),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_what_a_run_says_is_what_is_there(busy: Run, db: Conn, reader: str) -> None:
    read, query = READERS[reader]
    if reader == "drawdowns":  # a fall: bars that only rise have none
        make_bars(db, "AAA", [90, 80], start=30)
        busy.replay()
    found = read(busy)
    same(found, db, query, busy.user_id, busy.run_id)
    assert [column.name for column in found.columns] == list(found[0]._fields)


def test_fees_are_rows(pt: Papertick, db: Conn) -> None:
    run = pt.start_run(pt.create_user("Ann"), 10_000, fee_schedule="US_PER_SHARE")
    run.place_order("AAA", "BUY", 500, "LIMIT", 10)
    run.place_order("AAA", "BUY", 10)
    run.replay(end=at(2))
    same(run.fees(), db, "select * from trade_fee where (user_id, run_id) = (%s, %s)", run.user_id, run.run_id)


def test_numbers_of_the_whole_run(busy: Run, db: Conn) -> None:
    key = [busy.user_id, busy.run_id]
    found = busy.performance()
    assert dict(found) == dict(db.execute("select * from performance(%s, %s)", key).fetchall())
    assert list(found) == [metric for (metric,) in db.execute("select metric from performance(%s, %s)", key)]
    assert found.reasons == dict(db.execute("select * from performance_reasons(%s, %s)", key).fetchall())
    assert found.reasons
    assert set(found.reasons) == {metric for metric, number in found.items() if number is None}
    assert len(found) == 24
    assert busy.digest() == value(db, "select run_digest(%s, %s)", key)
    assert busy.violations() == []
    assert busy.last_logical_time == at(9)


def test_its_report_is_the_page_of_the_command(busy: Run, connect: Callable[..., Conn]) -> None:
    copy = busy.fork(user=busy._pt.create_user("Bo"))
    pages = [busy.report(), busy.report("AAA"), busy.report("AAA", [copy])]
    assert all(text.startswith("<!DOCTYPE html>") for text in pages)
    assert len(set(pages)) == 3
    with psycopg.connect(busy._pt.connection.info.dsn, password=busy._pt.connection.info.password) as conn:
        key = RunKey(busy.user_id, busy.run_id)
        prepare(conn)
        assert page.html(gather.read(gather.gather(conn, key, benchmark="AAA"))) == pages[1]
    with papertick.connect(connect(autocommit=False, options="-c search_path=pg_catalog")) as mine:
        assert mine.get_run(busy.user_id, busy.run_id).report() == pages[0]
    with pytest.raises(errors.NotFoundError, match="unknown"):
        busy.report("NONE")


def test_a_run_is_read_anew_each_time(pt: Papertick, run: Run, db: Conn) -> None:
    assert (run.name, run.feed, run.status, run.last_logical_time) == ("first", "default", "RUNNING", None)
    assert (run.user.name, run.info().initial_cash) == ("Ann", 10_000)
    assert run == run.user.run(run.run_id) == pt.get_run(run.user_id, run.run_id)
    assert len({run, pt.get_run(run.user_id, run.run_id), run.user.run(99)}) == 2
    run.stop("enough")
    assert (run.status, run.info().status_reason) == ("STOPPED", "enough")
    again = run.user.start_run(500, name="second", slippage_bps=1.5)
    assert again.info().slippage_bps == Decimal("1.5")
    assert [row.name for row in run.user.runs()] == ["first", "second"]
    assert [row.name for row in pt.runs()] == ["first", "second"]
    assert [row.name for row in pt.users()] == ["Ann"]
    run.delete()
    with pytest.raises(errors.ConflictError):
        run.user.delete()
    nobody = pt.create_user("Nobody")
    assert nobody.delete()
    assert not nobody.delete()
    again.fail("broken")
    assert [(row.name, row.status) for row in pt.runs()] == [("second", "ERROR")]


def test_orders(run: Run) -> None:
    assert run.preview_order("AAA", "BUY", 10, "LIMIT", "99.5").status == "PENDING"
    order = run.place_order("AAA", "BUY", 10, "LIMIT", "99.5", client_order_id="mine")
    assert order == run.place_order("AAA", "BUY", 10, "LIMIT", Decimal("99.5"), client_order_id="mine")
    assert (order.order_id, order.status, order.limit_price) == (1, "PENDING", Decimal("99.5"))
    assert run.replace_order(1, limit_price=98.25).limit_price == Decimal("98.25")
    assert run.cancel_order(2).status == "CANCELED"
    run.tick(at(0))
    assert run.place_order("AAA", "BUY", 1_000_000).reject_reason == "CASH_INSUFFICIENT"
    bought = run.place_order("AAA", "BUY", 5, take_profit=200, stop_loss=50)
    run.tick(at(1))
    assert [order.status for order in run.orders() if order.order_id == bought.order_id] == ["FILLED"]
    run.cancel_order(bought.order_id + 1)
    assert [order.order_type for order in run.place_oco("AAA", "SELL", 5, 150, 60)] == ["LIMIT", "STOP"]
    day = run.place_order("AAA", "BUY", 1, "LIMIT", 50, time_in_force="GTD", good_till=date(2024, 1, 9))
    assert day.good_till == datetime(2024, 1, 10, tzinfo=UTC)  # the close of that day's session
    run.set_risk_limit(max_order_value=10)
    run.forbid_symbol("BBB")
    reasons = [run.place_order(symbol, "BUY", 1).reject_reason for symbol in ("AAA", "BBB")]
    assert reasons == ["ORDER_VALUE", "SYMBOL_FORBIDDEN"] or None not in reasons


def test_plans(run: Run) -> None:
    sip = run.create_sip("AAA", 100, "DAILY", "2024-01-01", step_up_percent=10, step_up_every=5)
    plan = run.create_rebalance({"AAA": 0.3, "BBB": Decimal("0.25")}, "WEEKLY", date(2024, 1, 1), band=0.01)
    basket = run.create_sip(None, 50, "WEEKLY", "2024-01-01", basket={"AAA": 0.4, "BBB": "0.6"})
    lacking = run.create_sip(None, 50, "WEEKLY", "2024-01-01", rebalance_plan=plan)
    assert [row.weight for row in run.target_weights()] == [Decimal("0.3"), Decimal("0.25")]
    run.change_sip(sip, "120.5")
    run.pause_sip(basket, "2024-01-08", "2024-01-08")
    run.pause_sip(lacking)
    run.replay(end="2024-01-15")
    run.resume_sip(lacking)
    run.resume_sip(basket, first="2024-01-08", last="2024-01-08")
    run.end_sip(sip)
    run.end_rebalance(plan)
    assert {row.sip_id: row.state for row in run.sip_schedule()}[sip] == "OVER"
    assert {event.event_type for event in run.events()} >= {"SIP_EXECUTED", "SIP_SKIPPED_PAUSED", "REBALANCED"}
    assert run.violations() == []


def test_time(pt: Papertick, run: Run) -> None:
    seen: list[tuple[int, int]] = []
    run.tick(at(0))
    assert run.replay(at(1), at(3), commit_every=1) == 3
    # a date is the close of its session, here midnight: the bars of the 5th came before
    assert run.replay("2024-01-05", "2024-01-09", progress=lambda done, of: seen.append((done, of))) == 4
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert run.replay() == 30 - 9
    assert run.replay() == 0
    assert run.last_logical_time == at(29)
    other = pt.start_run(pt.create_user("Bob"), 10)
    pt.tick_all(at(0))
    pt.tick_all(at(1), "default", commit_every=10)
    assert (other.last_logical_time, run.last_logical_time) == (at(1), at(29))
    copy = run.fork(at(3), name="what if")
    assert (copy.last_logical_time, copy.name, copy.user.name) == (at(3), "what if", "Ann")
    other.stop()
    assert run.fork(user=other.user).last_logical_time == at(29)
    assert run.difference(copy) != []
    assert run.difference(run) == []


def test_a_date_is_the_close_of_its_session(run: Run) -> None:
    run.tick(at(0))
    for moment in ("2024-01-02", date(2024, 1, 2), datetime(2024, 1, 3, tzinfo=UTC)):
        run.tick(moment)
        assert run.last_logical_time == datetime(2024, 1, 3, tzinfo=UTC)


def test_a_time_says_its_offset_whatever_the_sessions_zone_is(
    pt: Papertick, run: Run, connect: Callable[..., Conn]
) -> None:
    numpy = pytest.importorskip("numpy")
    conn = connect(autocommit=True, options="-c timezone=America/New_York")
    mine = papertick.connect(conn)
    theirs = mine.get_run(run.user_id, run.run_id)
    theirs_key = {"user_id": run.user_id, "run_id": run.run_id}
    texts = ("2024-01-05 00:00", "2024-01-05T00:00:00", "2024-01-05T00:00Z", "now", "today", "1704412800", "")
    for wrong in (*texts, "2024-01-05 ", "2024-01-0", "infinity", datetime(2024, 1, 5), numpy.datetime64("2024-01-05")):
        for ask in (
            theirs.tick,
            theirs.replay,
            theirs.equity,
            theirs.fork,
            lambda time: theirs.replay(end=time),
            lambda time: theirs.equity(None, time),
            lambda time: theirs.place_order("AAA", "BUY", 1, time_in_force="GTD", good_till=time),
            lambda time: theirs.preview_order("AAA", "BUY", 1, time_in_force="GTD", good_till=time),
            lambda time: theirs.preview_sip(1, time),
            lambda time: mine.tick_all(time, "default"),
            lambda time: mine.tick_all(at(1), "default", since=time),
            lambda time: mine.call("feed_status", since=time),
            lambda time: mine.call("equity_between", **theirs_key, **{"from": time}),
            lambda time: mine.do("tick", **theirs_key, logical_time=time),
        ):
            with pytest.raises(errors.UsageError):
                ask(wrong)  # type: ignore[operator]
    for day in ("2024-01-05", date(2024, 1, 5)):  # of no feed, so of no session
        with pytest.raises(errors.UsageError, match="since"):
            mine.call("feed_status", since=day)
    assert (theirs.last_logical_time, theirs.orders()) == (None, [])
    theirs.create_sip("AAA", 100, "DAILY", "2024-01-01")
    theirs.pause_sip(1, date(2024, 1, 3), "2024-01-04")
    theirs.tick("2024-01-05 05:30:00+05:30")
    assert theirs.last_logical_time == datetime(2024, 1, 5, tzinfo=UTC)


def test_which_parameters_are_times_is_what_the_verbs_say(db: Conn) -> None:
    found = db.execute(
        """select p.proname, substr(u.name, 3), u.type = 'timestamptz'::regtype from pg_proc p
            cross join unnest(p.proargnames[1:p.pronargs], p.proargtypes::oid[]) u (name, type)
            where p.pronamespace = 'public'::regnamespace and starts_with(u.name, 'p_')"""
    ).fetchall()
    assert [row for row in found if is_instant(row[0], row[1]) != row[2]] == []
    assert ("tick", "logical_time", True) in found


def test_every_run_on_one_board(pt: Papertick, busy: Run, db: Conn) -> None:
    same(pt.leaderboard(), db, "select * from leaderboard()")
    assert pt.leaderboard("sharpe", "default", None)[0].sharpe == busy.performance()["sharpe"]
    assert pt.leaderboard(name_like="no such run") == []
    assert pt.violations() == []


def test_any_verb_and_any_sql(pt: Papertick, run: Run) -> None:
    (status,) = pt.call("feed_status", feed="default")
    assert (status.running, status.newest_bars) == (1, 2)
    found = pt.sql("select %s::numeric as x, null::int as y, now() as at, jsonb '{\"a\": 0.10}' as j", "1.50")
    assert (found[0].x, found[0].y, found[0].j) == (Decimal("1.50"), None, {"a": Decimal("0.10")})
    assert found[0].at.tzinfo is UTC
    assert [kind for _, kind in found.columns] == ["number", "integer", "time", "other"]
    assert pt.sql("select %(b)s::int, 10 %% 3", b=2)[0] == (2, 1)
    assert pt.sql("select 10 % 3")[0] == (1,)
    assert pt.sql("create temp table t ()") == []


# --- arguments


def test_numbers_and_times_as_text() -> None:
    pandas = pytest.importorskip("pandas")
    numpy = pytest.importorskip("numpy")
    for given, text in (
        (0.1, "0.1"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e22, "1e+22"),
        (float("nan"), "nan"),
        (numpy.float64(99.5), "99.5"),
        (numpy.int64(7), "7"),
        (numpy.bool_(True), "True"),
        (Decimal("1.50"), "1.50"),
        (10**30, "1" + "0" * 30),
        (True, "true"),
        (papertick.NULL, None),
        (date(2024, 1, 2), "2024-01-02"),
        (datetime(2024, 1, 2, 16, tzinfo=ZoneInfo("America/New_York")), "2024-01-02T16:00:00-05:00"),
        (pandas.Timestamp("2024-01-02 16:00", tz="Asia/Kolkata"), "2024-01-02T16:00:00+05:30"),
        (timedelta(days=3, hours=1), "3 days 3600.000000 seconds"),
        ({"A": 0.1, "B": Decimal("0.20"), 'C"': [1, None, "x"]}, '{"A": 0.1, "B": 0.20, "C\\"": [1, null, "x"]}'),
    ):
        assert as_text(given) == text
    for naive in (datetime(2024, 1, 2), pandas.Timestamp("2024-01-02")):
        with pytest.raises(errors.UsageError):
            as_text(naive)
    assert repr(papertick.NULL) == "NULL"


def test_floats_arrive_as_written(run: Run) -> None:
    assert str(run.place_order("AAA", "BUY", 0.1, "LIMIT", 99.1).limit_price) == "99.10000000"
    for number in (float("nan"), float("inf")):
        with pytest.raises(errors.InvalidError):
            run.place_order("AAA", "BUY", number)
    assert run.info().max_price_age is None
    other = run.user
    run.stop()
    assert other.start_run(1, max_price_age=timedelta(days=3)).info().max_price_age == timedelta(days=3)


def test_a_parameter_that_the_verb_does_not_have_is_a_type_error_that_names_its_own(run: Run) -> None:
    with pytest.raises(TypeError, match=r"place_order\(\) has no parameter limit; it has: .*limit_price, stop_price"):
        run.place_order("AAA", "BUY", 1, limit=3)
    assert run.orders() == []


def test_a_parameter_that_the_verb_has_gained_passes(pt: Papertick, run: Run, db: Conn) -> None:
    db.execute("drop function forbid_symbol")
    db.execute(
        "create function forbid_symbol(p_user_id bigint, p_run_id bigint, p_symbol text, p_why text default 'x') returns text"
        " language sql return p_symbol || p_why"
    )
    run.forbid_symbol("AAA")
    run.forbid_symbol("AAA", why="because")
    assert pt.parameters("forbid_symbol") == ["user_id", "run_id", "symbol", "why"]


METHODS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(Run, name)
        for name in (
            *("place_order", "place_oco", "replace_order", "cancel_order", "preview_order", "create_sip", "change_sip"),
            *("end_sip", "preview_sip", "create_rebalance", "end_rebalance", "set_risk_limit", "forbid_symbol"),
        )
    },
    "start_run": Papertick.start_run,
    "tick_all": Papertick.tick_all,
    "leaderboard": Papertick.leaderboard,
    "create_user": Papertick.create_user,
    "delete_user": User.delete,
    "tick": Run.tick,
    "stop_run": Run.stop,
    "fail_run": Run.fail,
    "delete_run": Run.delete,
    "explain_order": Run.explain,
    "pause_sip": Run.pause_sip,
    "resume_sip": Run.resume_sip,
    "run_stream": Run.stream,
    "equity_between": Run.equity,
    "replay": Run.replay,
    "fork_run": Run.fork,
    "run_digest": Run.digest,
    "run_violations": Run.violations,
    "performance": Run.performance,
    "performance_reasons": Run.performance,
    "performance_by_symbol": Run.performance_by_symbol,
    "drawdowns": Run.drawdowns,
    "sip_schedule": Run.sip_schedule,
    "rebalance_schedule": Run.rebalance_schedule,
    "replay_diff": Run.difference,
}
# Verbs that have no method: pt.call has them. Keys and logins are an administrator's, the steps are the tick's.
BY_CALL = {
    *("authenticate", "claim_answer", "keep_answer", "forget_answers", "create_key", "list_keys", "revoke_key"),
    *("map_login", "unmap_login", "match_orders", "try_execute_sip", "try_rebalance", "log_mtm", "record_equity"),
    *("equity_at", "feed_status", "replay_part", "all_violations"),
    *("export_rows", "import_run", "feed_digest", "run_report", "run_comparison"),
    *("report_allocation", "report_benchmark", "report_equity", "report_fill", "report_gain", "report_growth"),
    *("report_holding",),
    *("report_instalment", "report_price"),
}
RENAMED = {"first": "from", "last": "to", "start": "from", "end": "to", "user": "user_id"}
NO_RENAMING = {"create_sip": {"start", "end"}, "create_rebalance": {"start"}}
OWN = {"replay": {"progress"}, "replay_diff": {"other"}}  # parameters that are no verb's
KEYS = {"user_id", "run_id", "new_user_id", "user_a", "run_a", "user_b", "run_b"}


def test_the_methods_are_the_verbs_both_ways(pt: Papertick) -> None:
    verbs = {
        row[0]: set(row[1])
        for row in pt.sql(
            """select p.proname, array(select substr(n, 3) from unnest(p.proargnames[1:p.pronargs]) n) from pg_proc p
                where p.pronamespace = 'public'::regnamespace and p.prorettype <> 'trigger'::regtype"""
        )
    }
    assert set(METHODS) | BY_CALL == set(verbs)
    assert not set(METHODS) & BY_CALL
    for verb, method in METHODS.items():
        keep = NO_RENAMING.get(verb, set())
        found = {
            name if name in keep else RENAMED.get(name, name)
            for name in inspect.signature(method).parameters
            if name not in ("self", "more") and name not in OWN.get(verb, set())
        }
        assert found | KEYS == verbs[verb] | KEYS, verb


def test_no_default_of_the_engines_is_repeated() -> None:
    for method in METHODS.values():
        for parameter in inspect.signature(method).parameters.values():
            assert parameter.default in (inspect.Parameter.empty, None) or parameter.name == "limit", (
                method,
                parameter,
            )


def test_the_rows_are_the_tables_and_the_verbs(db: Conn) -> None:
    made = runpy.run_path(str(PROJECT / "scripts/make_rows.py"))
    text = made["source"](db)
    assert (PROJECT / "engine_py/rows.py").read_text() == text, "python scripts/make_rows.py DSN > engine_py/rows.py"
    assert len(re.findall(r"^class ", text, re.M)) == len(made["TABLES"]) + len(made["VERBS"])


# --- connections


def test_its_connection_is_closed_at_the_end(db: Conn, dsn: str) -> None:
    with papertick.connect(dsn) as pt:
        pid = pid_of(pt.connection)
        assert pt.connection.autocommit
        assert value(db, "select count(*) from pg_stat_activity where pid = %s", [pid]) == 1
    assert pt.connection.closed is False  # opened again when it is asked for
    pt.close()
    with pytest.raises(ZeroDivisionError), papertick.connect(dsn) as other:
        raise ZeroDivisionError
    assert other._session._database._conn.closed  # type: ignore[union-attr]


def test_it_comes_back_after_the_connection_was_lost(pt: Papertick, run: Run, db: Conn) -> None:
    for again in (run.orders, lambda: run.tick(at(0)), lambda: run.place_order("AAA", "BUY", 1, client_order_id="x")):
        db.execute("select pg_terminate_backend(%s)", [pid_of(pt.connection)])
        again()
    assert len(run.orders()) == 1
    assert value(pt.connection, "show timezone") == "UTC"
    db.execute("select pg_terminate_backend(%s)", [pid_of(pt.connection)])
    with pytest.raises(errors.ConnectionFailedError):
        run.place_order("AAA", "BUY", 1)  # it might have happened, and would happen twice
    assert len(run.orders()) == 1


def test_what_is_in_a_transaction_is_not_repeated(pt: Papertick, run: Run, db: Conn) -> None:
    with pytest.raises(ZeroDivisionError), pt.transaction():  # noqa: PT012
        run.place_order("AAA", "BUY", 1)
        run.tick(at(0))
        raise ZeroDivisionError
    assert run.orders() == []
    with pytest.raises((errors.ConnectionFailedError, psycopg.OperationalError)), pt.transaction():  # noqa: PT012
        run.place_order("AAA", "BUY", 1)
        db.execute("select pg_terminate_backend(%s)", [pid_of(pt.connection)])
        run.orders()
    assert run.orders() == []
    with pt.transaction():
        run.place_order("AAA", "BUY", 1)
    assert len(run.orders()) == 1


def test_on_a_connection_of_the_callers_everything_is_the_callers(
    pt: Papertick, run: Run, connect: Callable[..., Conn]
) -> None:
    conn = connect(autocommit=False, options="-c timezone=Asia/Kolkata -c search_path=pg_catalog")
    with papertick.connect(conn) as mine:
        theirs = mine.get_run(run.user_id, run.run_id)
        theirs.create_sip("AAA", 100, "DAILY", "2024-01-01")
        theirs.tick("2024-01-02")
        assert theirs.replay(end=at(5)) == 4
        assert theirs.last_logical_time == at(5)
        assert theirs.last_logical_time.tzinfo is UTC
        copy = theirs.fork()
        assert copy.digest() == theirs.digest()
        assert len(theirs.equity()) == 5
        assert theirs.trades()[0].price == 101
        assert theirs.events()[0].payload["amount"] == 100
        assert mine.leaderboard()[0].run_id in (theirs.run_id, copy.run_id)
        assert theirs.violations() == []
    assert not conn.closed
    assert conn.execute("show timezone").fetchone() == ("Asia/Kolkata",)
    assert conn.execute("show search_path").fetchone() == ("pg_catalog",)
    assert run.last_logical_time is None  # nothing is committed
    conn.rollback()
    assert (run.trades(), len(pt.runs())) == ([], 1)
    with papertick.connect(conn) as mine:
        mine.get_run(run.user_id, run.run_id).tick(at(0))
        conn.commit()
        with pytest.raises(errors.NotFoundError):
            mine.get_run(run.user_id, 99).digest()
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR  # also the caller's
    assert run.last_logical_time == at(0)


def test_dsn_and_environment(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_DSN", dsn)
    with papertick.connect() as pt:
        assert pt.runs() == []
        assert pt.connection.info.dbname in dsn
    with pytest.raises(errors.ConnectionFailedError):
        papertick.connect("host=127.0.0.1 port=1 connect_timeout=2")
    with pytest.raises(errors.PapertickError, match="not installed"):
        papertick.connect(dsn.replace(pt.connection.info.dbname, "postgres"))


# --- refusals


def test_refusals_are_typed_and_say_all(pt: Papertick, run: Run) -> None:
    with pytest.raises(errors.ConflictError) as caught:
        pt.start_run(run.user, 1)
    assert caught.value.code == "23505"
    with pytest.raises(errors.InvalidError) as caught:
        run.create_sip("AAA", -5, "DAILY", "2024-01-01")
    assert caught.value.code == "TE101"
    assert "argument=amount" in (caught.value.detail or "")
    assert caught.value.hint
    shown = "\n".join(caught.value.__notes__)
    assert shown == "TE101"
    for words in (caught.value.message, caught.value.detail, caught.value.hint):
        assert words
        assert words in str(caught.value)  # which is what a traceback shows
    assert caught.value.__suppress_context__
    with pytest.raises(errors.UsageError):
        run.tick(datetime(2024, 1, 2))
    with pytest.raises(errors.InvalidError):
        run.tick("2024-13-01")
    missing = pt.get_run(run.user_id, 99)
    for method in (Run.info, Run.orders, Run.digest, Run.performance, Run.equity, Run.replay, lambda r: r.status):
        with pytest.raises(errors.NotFoundError) as unknown:
            method(missing)
        assert unknown.value.code == "TE204"
    with pytest.raises(errors.NotFoundError):
        assert missing.last_logical_time
    with pytest.raises(errors.NotFoundError):
        assert pt.user(99).name
    run.stop()
    with pytest.raises(errors.ConflictError) as ended:
        run.place_order("AAA", "BUY", 1)
    assert ended.value.code == "TE001"


# --- what a notebook makes of rows


def rows_of_all_kinds(pt: Papertick) -> Rows[Any]:
    return pt.sql(
        """select n::int as n, case when n > 1 then n end as maybe, n / 10.0 as x, case when n > 1 then 0.1::numeric(20, 8) end as y,
                  n > 1 as flag, timestamptz '2024-01-01 16:00:00.000001Z' + n * interval '1 day' as at, date '2024-01-01' + n as day,
                  'a<b' || n as words, jsonb_build_object('n', n) as doc from generate_series(1, 2) n"""
    )


def test_rows_are_a_list(pt: Papertick) -> None:
    found = rows_of_all_kinds(pt)
    assert isinstance(found, list)
    assert isinstance(found[:1], Rows)
    assert found[:1].columns == found.columns
    assert (found[0].n, found[-1].words) == (1, "a<b2")
    assert found.to_dicts()[1]["doc"] == {"n": 2}
    lines = str(found).splitlines()
    assert lines[0].split()[:3] == ["n", "maybe", "x"]
    assert len(lines) == 4
    assert str(Rows([], [Column("n", "integer")])) == "(none)"
    assert str(pt.sql("select 1, 2 as class, 3 as class")) == "[Row(_0=1, _1=2, _2=3)]"
    html = found._repr_html_()
    assert "a&lt;b1" in html
    assert html.count("<tr>") == 3
    many = pt.sql("select n from generate_series(1, 1000) n")._repr_html_()
    assert many.count("<tr>") == 62
    assert "1000 rows" in many
    assert ">30<" in many
    assert ">971<" in many


def test_pandas(pt: Papertick) -> None:
    pandas = pytest.importorskip("pandas")
    found = rows_of_all_kinds(pt)
    frame = found.to_pandas()
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {
        "n": "int64",
        "maybe": "Int64",
        "x": "float64",
        "y": "float64",
        "flag": "bool",
        "at": "datetime64[us, UTC]",
        "day": "datetime64[s]",
        "words": "object",
        "doc": "object",
    }
    assert frame["at"][1] == pandas.Timestamp("2024-01-03 16:00:00.000001", tz="UTC")
    assert frame["maybe"].isna().tolist() == frame["y"].isna().tolist() == [True, False]
    exact = found.to_pandas(exact=True)
    assert [exact["x"][1], exact["y"][1], exact["y"][0]] == [Decimal("0.2"), Decimal("0.1"), None]
    assert str(exact["y"][1]) == "0.10000000"
    empty = found[:0].to_pandas()
    assert list(empty.dtypes.items())[5:7] == list(frame.dtypes.items())[5:7]
    assert list(empty.columns) == list(frame.columns)
    assert len(empty) == 0
    series = Performance({"twr": Decimal("0.5"), "xirr": None}, {"xirr": "NO_FLOW"}).to_pandas()
    assert series["twr"] == 0.5
    assert series.isna()["xirr"]


def test_polars(pt: Papertick) -> None:
    polars = pytest.importorskip("polars")
    found = rows_of_all_kinds(pt)
    frame = found.to_polars()
    assert frame.schema == {
        "n": polars.Int64,
        "maybe": polars.Int64,
        "x": polars.Float64,
        "y": polars.Float64,
        "flag": polars.Boolean,
        "at": polars.Datetime("us", "UTC"),
        "day": polars.Date,
        "words": polars.String,
        "doc": polars.String,
    }
    assert frame["at"][1] == datetime(2024, 1, 3, 16, 0, 0, 1, tzinfo=UTC)
    assert frame["maybe"].to_list() == [None, 2]
    exact = found.to_polars(exact=True)
    assert [str(x) for x in exact["y"]] == ["None", "0.10000000"]
    assert str(exact.schema["y"]) == "Decimal(precision=38, scale=8)"
    assert found[:0].to_polars().schema == frame.schema


@pytest.mark.parametrize("name", ["pandas", "polars"])
def test_without_them_one_line_says_what_to_install(pt: Papertick, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(errors.UsageError, match=f"{name} is not installed") as caught:
        getattr(rows_of_all_kinds(pt), f"to_{name}")()
    assert "papertick[frames]" in (caught.value.hint or "")


def test_performance_for_people() -> None:
    found = Performance({"twr": Decimal("0.50"), "xirr": None}, {"xirr": "NO_FLOW"})
    assert str(found).split() == ["twr", "0.5", "xirr", "NO_FLOW"]
    assert "NO_FLOW" in found._repr_html_()
    assert (found["twr"], found.get("none"), dict(found)) == (
        Decimal("0.5"),
        None,
        {"twr": Decimal("0.50"), "xirr": None},
    )
    assert isinstance(found, Mapping)
    assert "NO_FLOW" in repr(found)


# --- market data


def test_bars_of_a_file(pt: Papertick, tmp_path: Path) -> None:
    path = tmp_path / "bars.csv"
    path.write_text("date,open,high,low,close\n2024-01-01,1,2,1,2\n2024-01-02,2,3,2,3\n")
    for source in (path, str(path)):
        report = pt.load_bars(source, "mine", symbol="X")
        assert report.rows + report.unchanged == 2
    with path.open("rb") as file:
        assert pt.load_bars(file, "mine", symbol="X").unchanged == 2
    path.write_text("date,open,high,low,close\n2024-01-03,1,2,1,9\n")
    with pytest.raises(errors.InvalidError) as caught:
        pt.load_bars(path, "mine", symbol="X")
    assert "line 2" in (caught.value.detail or "")


def test_bars_take_what_a_file_of_the_command_line_takes(pt: Papertick, tmp_path: Path) -> None:
    path = tmp_path / "bars.csv"
    path.write_text("Tag;Kurs\n02.01.2024 09:15;1.234,5\n")
    terms = {"names": {"date": "Tag", "price": "Kurs", "volume": ""}, "delimiter": ";", "decimal_comma": True}
    terms |= {"thousands": "dot", "date_format": "dd.mm.yyyy HH:MM", "time_zone": "Asia/Kolkata", "interval": "5minute"}
    assert pt.load_bars(path, "mine", symbol="X", **terms).rows == 1  # type: ignore[arg-type]
    frame = {"Tag": ["2024-01-02 09:15"], "Kurs": [1234.5]}
    terms = {"names": {"date": "Tag", "price": "Kurs"}, "time_zone": "Asia/Kolkata", "interval": 5}
    assert pt.load_bars(frame, "mine", symbol="X", **terms).unchanged == 1  # type: ignore[arg-type]
    assert pt.load_bars(frame, "mine", symbol="X", only="Y", **terms).left_out == {"symbol not asked for": 1}  # type: ignore[arg-type]
    with pytest.raises(errors.UsageError):
        pt.load_bars(frame, "mine", symbol="X", delimiter=";", **terms)  # type: ignore[arg-type]
    for wrong in ({"date": "x"}, {"thousands": "x"}, {"names": {"x": "y"}}, {"delimiter": "xx"}, {"time_zone": "x"}):
        with pytest.raises(errors.UsageError):
            pt.load_bars(path, "mine", **wrong)  # type: ignore[arg-type]


def test_hints_are_in_the_words_of_python(pt: Papertick, tmp_path: Path) -> None:
    yahoo = {"Date": ["2024-01-02"], **{key: [2.0] for key in ("Open", "High", "Low", "Close", "Adj Close")}}
    naive = {"time": ["2024-01-02 09:15"], **{key: [2.0] for key in ("open", "high", "low", "close")}}
    for source, hint in ((yahoo, "adjusted=True or adjusted=False"), (naive, 'time_zone="Asia/Kolkata"')):
        path = tmp_path / "X.csv"
        path.write_text("\n".join(",".join(map(str, line)) for line in (source, *zip(*source.values(), strict=True))))
        for given in (source, path):
            with pytest.raises(errors.PapertickError) as caught:
                pt.load_bars(given, "mine", symbol="X")
            assert hint in (caught.value.hint or "")
            assert "--" not in str(caught.value)
    with pytest.raises(errors.UsageError, match="series means"):
        pt.load_bars(naive, "mine", symbol="X", series="EQ", time_zone="UTC")
    for words, said in (
        ("Load them without --adjusted.", "Load them without adjusted=True."),
        ("Correct these lines, or leave them out with --skip-bad.", "Correct these lines, or leave them out with skip_bad=True."),
        ("Say which: --date-format dd/mm/yyyy or mm/dd/yyyy.", 'Say which: date_format="dd/mm/yyyy" or "mm/dd/yyyy".'),
        ("--date-format dd.mmm.yyyy?", 'date_format="dd.mmm.yyyy"?'),
        ("--date-format 'dd mmm yyyy'?", 'date_format="dd mmm yyyy"?'),
        ("leave it out with --map volume=.", 'leave it out with names={"volume": ""}.'),
        ("with --date-format, --time-zone and --interval.", "with date_format, time_zone and interval."),
        ("Say it: --delimiter ';'.", 'Say it: delimiter=";".'),
        ("Load it: papertick calendar load FILE --calendar NAME.", "Load it: papertick calendar load FILE --calendar NAME."),
    ):  # fmt: skip
        assert in_python(words) == said


# --- as a module


def test_importing_it_is_cheap_and_complete() -> None:
    code = "import sys, engine_py; print('psycopg' in sys.modules, 'click' in sys.modules); print(engine_py.connect)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert found.stdout.splitlines()[0] == "False False"
    for name in papertick.__all__:
        assert getattr(papertick, name) is not None
    with pytest.raises(AttributeError):
        assert papertick.nonsense


def test_its_users_are_typed(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    script = tmp_path / "mine.py"
    script.write_text(
        "import engine_py as papertick\n"
        "with papertick.connect() as pt:\n"
        "    run = pt.start_run(pt.create_user('a'), 100, feed='bundled')\n"
        "    reveal_type(run.place_order('A', 'BUY', 1).limit_price)\n"
        "    reveal_type(run.orders())\n"
        "    reveal_type(run.orders()[0].status)\n"
        "    reveal_type(run.performance()['twr'])\n"
        "    run.place_order('A', 'BUY', None)\n"
    )
    env = os.environ | {"MYPYPATH": str(PROJECT)}
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(script)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, check=False).stdout
    revealed = re.findall(r'Revealed type is "(.*)"', found)
    assert revealed[::2] == ["decimal.Decimal | None", "str"], found
    assert revealed[1].startswith("engine_py.results.Rows[")
    assert revealed[1].endswith("fallback=engine_py.rows.Order]]")
    assert revealed[3] == "decimal.Decimal | None"
    assert 'Argument 3 to "place_order"' in found
    assert typed.Order._fields[:3] == ("user_id", "run_id", "order_id")
