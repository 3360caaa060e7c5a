"""preview_order and preview_sip: what the real calls would do, and nothing done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import helpers
import psycopg
import pytest
from desk import Conn, D, Market, Run, call, day, refused, rows, val, weekday_market
from helpers import Connect


@pytest.fixture
def run(tx: Conn) -> Run:
    """Holds 10 ACME at 100, has 1,000 left of 2,000, and has reserved 100 for a buy of 2."""
    market = weekday_market(tx, "2024-01-01", "2024-01-10")
    market.instrument("ACME", step="1", tick="0.5")
    market.bars("ACME", {"2024-01-01 10:00": 100, "2024-01-02 10:00": 100, "2024-01-03 10:00": 110})
    market.instrument("QUIET")
    run = Run(market, 2000)
    run.place("ACME", "BUY", 10)
    run.tick("2024-01-01 10:00")
    run.place("ACME", "BUY", 2, 50)
    run.tick("2024-01-02 10:00")
    return run


ORDERS: list[dict[str, Any]] = [
    {"side": "BUY", "quantity": 3},
    {"side": "SELL", "quantity": 3},
    {"side": "SELL", "quantity": 11},
    {"side": "BUY", "quantity": 10},
    {"side": "BUY", "quantity": 0},
    {"side": "BUY", "quantity": D("0.5")},
    {"side": "BUY", "quantity": 1, "order_type": "LIMIT", "limit_price": D("95.25")},
    {"side": "BUY", "quantity": 9, "order_type": "LIMIT", "limit_price": 100},
    {"side": "BUY", "quantity": 1, "order_type": "STOP", "stop_price": 105},
    {"side": "BUY", "quantity": 1, "order_type": "STOP_LIMIT", "stop_price": 105, "limit_price": 106},
    {"side": "SELL", "quantity": 2, "order_type": "TRAILING_STOP", "trail_percent": 10},
    {"side": "BUY", "quantity": 1, "take_profit": 120, "stop_loss": 90, "time_in_force": "IOC"},
    {"side": "BUY", "quantity": 1, "symbol": "NONE"},
    {"side": "BUY", "quantity": 1, "symbol": "QUIET"},
]


@pytest.mark.parametrize("terms", ORDERS, ids=str)
def test_preview_says_what_place_order_does(tx: Conn, run: Run, terms: dict[str, Any]) -> None:
    terms = {"symbol": "ACME"} | terms
    kept = run.snapshot()
    found = run.call("preview_order", **terms)
    assert run.snapshot() == kept
    placed = run.call("place_order", **terms)
    for name in ("status", "reject_reason", "stop_price", "reserve_price"):
        assert found[name] == placed[name], name
    assert (found["cash"], found["reserved_cash"]) == (1000, 100)


def test_the_estimates_of_an_order(tx: Conn, run: Run) -> None:
    names = ("estimated_price", "estimated_value", "estimated_fees", "cash_after", "position_after")

    def estimates(*terms: Any, **more: Any) -> list[Any]:
        found = run.call("preview_order", symbol=terms[0], side=terms[1], quantity=terms[2], **more)
        return [found[name] for name in names]

    assert estimates("ACME", "BUY", 3) == [100, 300, 0, 700, 13]
    assert estimates("ACME", "SELL", 4) == [100, 400, 0, 1400, 6]
    assert estimates("ACME", "BUY", 1, order_type="LIMIT", limit_price=95) == [95, 95, 0, 905, 11]
    assert estimates("ACME", "SELL", 11) == [None, None, None, 1000, 10]  # rejected
    assert estimates("QUIET", "BUY", 1) == [None, None, None, 1000, 0]  # no price yet


def test_the_estimate_slips_as_a_fill_does(tx: Conn) -> None:
    market = Market(tx)
    market.instrument("ACME", tick="0.5")
    market.bars("ACME", {"2024-01-01 10:00": 100, "2024-01-02 10:00": (100, 105, 95, 100)})
    run = Run(market, 2000, slippage_bps=20)
    run.tick("2024-01-01 10:00")
    assert run.call("preview_order", symbol="ACME", side="BUY", quantity=1)["estimated_price"] == D("100.5")
    run.place("ACME", "BUY", 1)
    run.tick("2024-01-02 10:00")
    assert run.fills() == [(1, D("100.5"))]


def test_limits_are_asked_too(tx: Conn, run: Run) -> None:
    run.call("set_risk_limit", max_position=14)
    run.call("forbid_symbol", symbol="QUIET")
    reasons = [run.call("preview_order", symbol=s, side="BUY", quantity=3)["reject_reason"] for s in ("ACME", "QUIET")]
    assert reasons == ["POSITION_LIMIT_EXCEEDED", "SYMBOL_FORBIDDEN"]


def test_preview_refuses_as_the_call_does(tx: Conn, run: Run) -> None:
    for terms in (
        {"side": "HOLD"},
        {"quantity": "NaN"},
        {"order_type": "LIMIT"},
        {"take_profit": 90, "stop_loss": 95},
        {"time_in_force": "GTD", "good_till": run.market.at("2024-01-01 10:00")},
    ):
        for verb in ("preview_order", "place_order"):
            with refused(tx, "TE101"):
                run.call(verb, **{"symbol": "ACME", "side": "BUY", "quantity": 1} | terms)
    with refused(tx, "TE101", argument="sip_id"):
        run.call("preview_sip", sip_id=1)
    with refused(tx, "TE204"):
        call(tx, "preview_order", user_id=run.user_id, run_id=0, symbol="ACME", side="BUY", quantity=1)
    with refused(tx, "TE204"):
        call(tx, "preview_sip", user_id=run.user_id, run_id=0, sip_id=1)
    run.sip("ACME", 100, "DAILY", "2024-01-03")
    run.call("stop_run")
    with refused(tx, "TE001"):
        run.call("preview_order", symbol="ACME", side="BUY", quantity=1)
    with refused(tx, "TE001"):
        run.call("preview_sip", sip_id=1)


SIPS: list[dict[str, Any]] = [
    {"amount": 250},
    {"amount": 250, "whole_units": True},
    {"amount": 5000},
    {"amount": 20},
    {"amount": 250, "step_up_amount": 100, "step_up_every": 1},
    {"amount": 250, "start": "2024-01-02", "catch_up": "ONCE"},
    {"amount": 250, "start": "2024-01-02", "catch_up": "EACH"},
]


@pytest.mark.parametrize("terms", SIPS, ids=str)
def test_preview_says_what_the_next_slot_does(tx: Conn, run: Run, terms: dict[str, Any]) -> None:
    run.call("create_sip", **{"symbol": "ACME", "frequency": "DAILY", "start": "2024-01-03"} | terms)
    time = run.market.at("2024-01-03 10:00")
    kept = run.snapshot()
    found = run.call("preview_sip", sip_id=1, logical_time=time)
    assert run.snapshot() == kept
    assert (found["slot"], found["waits_for"], found["symbol"], found["price"]) == (0, None, "ACME", 110)
    run.tick("2024-01-03 10:00")
    event, payload = rows(
        tx, "select event_type, payload from event_ledger where user_id = %s and event_key = '1:0'", run.user_id
    )[0]
    assert (found["event_type"], found["payload"]) == (event, payload)
    assert found["amount"] == payload["amount"]
    if event == "SIP_EXECUTED":
        trade = rows(
            tx, "select quantity, price, order_id from paper_trade where user_id = %s order by trade_id", run.user_id
        )[1]
        assert (found["quantity"], found["price"], payload["order_id"]) == trade
        assert found["cash_after"] == 1000 - trade[0] * trade[1]
    else:
        assert (found["quantity"], found["cash_after"]) == (None, 1000)


def test_what_a_slot_waits_for(tx: Conn, run: Run) -> None:
    sip = run.sip("ACME", 250, "WEEKLY", "2024-01-03", instalments=1)
    quiet = run.sip("QUIET", 250, "WEEKLY", "2024-01-02")

    def preview(sip_id: int, time: str | None) -> list[Any]:
        found = run.call("preview_sip", sip_id=sip_id, logical_time=time and run.market.at(time))
        return [found[name] for name in ("due_date", "waits_for", "event_type", "quantity", "price")]

    assert preview(sip, None) == [day("2024-01-03"), "DATE", "SIP_EXECUTED", 2, 100]  # at the last tick's price
    assert preview(sip, "2024-01-03 17:00") == [day("2024-01-03"), "SESSION", "SIP_EXECUTED", 2, 110]
    assert preview(quiet, None) == [day("2024-01-02"), "PRICE", None, None, None]
    run.call("pause_sip", sip_id=sip)
    assert preview(sip, "2024-01-03 10:00") == [day("2024-01-03"), None, "SIP_SKIPPED_PAUSED", None, 110]
    with refused(tx, "TE203"):
        preview(sip, "2025-01-03 10:00")
    run.tick("2024-01-03 10:00")
    assert rows(tx, "select * from preview_sip(%s, %s, %s)", *run.key, sip) == []  # its one slot has ended
    idle = Run(run.market)
    idle.sip("ACME", 1, "DAILY", "2024-01-03")
    with refused(tx, "TE101", argument="logical_time"):
        idle.call("preview_sip", sip_id=1)


def test_preview_of_a_raw_run_writes_nothing(db: psycopg.Connection) -> None:
    helpers.make_bars(db, "AAA", [100])
    run = helpers.raw_run(db, initial_cash=500)
    helpers.insert(db, "sip_plan", helpers.raw_row("sip_plan", run))
    with helpers.unchanged(db, run):
        found = call(db, "preview_order", user_id=run.user_id, run_id=run.run_id, symbol="AAA", side="BUY", quantity=1)
        assert (found["status"], found["cash"], found["cash_after"]) == ("PENDING", 500, 500)
        sip = call(db, "preview_sip", user_id=run.user_id, run_id=run.run_id, sip_id=1, logical_time=helpers.at(0))
        assert (sip["event_type"], sip["quantity"], sip["cash_after"]) == ("SIP_EXECUTED", 1, 400)


def test_what_reads_neither_waits_for_a_tick_nor_makes_it_wait(
    db: psycopg.Connection, connect: Connect, background: Callable[..., Any]
) -> None:
    helpers.make_bars(db, "AAA", [100, 101, 102])
    helpers.make_bars(db, "BBB", [50, 50, 50])
    run = helpers.make_busy_run(db)
    ticker, reader = (helpers.session(connect, autocommit=False) for _ in range(2))
    reader.execute("set transaction read only")
    reads = [
        ("select count(*) from explain_order(%s, %s, 1)", run),
        ("select status from preview_order(%s, %s, 'AAA', 'BUY', 1)", run),
        ("select event_type from preview_sip(%s, %s, 1, %s)", [*run, helpers.at(0)]),
    ]
    helpers.tick(ticker, run, 0)
    assert [helpers.value(reader, *read) for read in reads] == [
        2,
        "PENDING",
        "SIP_EXECUTED",
    ]  # the tick is not there yet
    ticker.commit()
    helpers.tick(ticker, run, 1)  # the reader's transaction is still open
    ticker.commit()
    assert (
        val(
            reader,
            "select count(*) from pg_locks where pid = pg_backend_pid() and mode not in ('AccessShareLock', 'ExclusiveLock')",
        )
        == 0
    )


def fees(conn: Conn) -> dict[str, str]:
    """A share of the value, at least 1.50, and a tax on it."""
    conn.execute(
        """insert into fee_schedule (fee_schedule, component, side, effective_from, rate_bps, minimum_amount, of_components, source)
           select 'TAXED', f.component, s.side, '2020-01-01', f.rate, f.least, f.others, 'a test'
             from (values ('BROKERAGE', 40, 1.5, null), ('TAX', 1800, null, '{BROKERAGE}'::text[])) f (component, rate, least, others),
                  (values ('BUY'), ('SELL')) s (side)"""
    )
    return {"fee_schedule": "TAXED"}


@pytest.mark.parametrize(("side", "quantity"), [("BUY", 3), ("SELL", 4), ("SELL", 10)])
def test_the_fees_of_a_preview_are_those_of_the_trade(tx: Conn, side: str, quantity: int) -> None:
    market = Market(tx, symbols=["ACME"])
    market.bars("ACME", {f"2024-01-0{n} 10:00": 100 for n in (1, 2, 3)})
    run = Run(market, 2000, **fees(tx))
    run.place("ACME", "BUY", 10)
    for time in ("2024-01-01 10:00", "2024-01-02 10:00"):
        run.tick(time)
    found = run.call("preview_order", symbol="ACME", side=side, quantity=quantity)
    run.place("ACME", side, quantity)
    run.tick("2024-01-03 10:00")
    price, charged = run.table("price, fees", "paper_trade", "trade_id")[-1]
    assert charged > 0
    assert (found["estimated_price"], found["estimated_fees"]) == (price, charged)
    assert (found["cash_after"], found["position_after"]) == (run.cash, run.held("ACME"))


BASKETS: list[dict[str, Any]] = [
    {"basket": '{"ACME": 0.7, "BOLT": 0.3}'},
    {"basket": '{"ACME": 0.7, "BOLT": 0.3}', "whole_units": True},
    {"basket": '{"ACME": 0.9, "BOLT": 0.1}', "amount": 90},  # no unit of BOLT
    {"basket": '{"ACME": 0.7, "BOLT": 0.3}', "amount": 5000},
    {"rebalance_plan": 1},
]


@pytest.mark.parametrize("terms", BASKETS, ids=str)
def test_preview_of_a_plan_of_several_symbols(tx: Conn, terms: dict[str, Any]) -> None:
    market = Market(tx)
    market.instrument("ACME")
    market.instrument("BOLT", step="1")
    for symbol, price in (("ACME", 100), ("BOLT", 20)):
        market.bars(symbol, {"2024-01-01 10:00": price, "2024-01-02 10:00": price + 1})
    run = Run(market, 2000, **fees(tx))
    run.tick("2024-01-01 10:00")
    run.call("create_rebalance", weights='{"ACME": 0.5, "BOLT": 0.5}', frequency="MONTHLY", start="2024-03-01")
    run.call("create_sip", **{"symbol": None, "amount": 400, "frequency": "DAILY", "start": "2024-01-02"} | terms)
    kept = run.snapshot()
    query = "select symbol, quantity, price, event_type, payload, cash_after from preview_sip(%s, %s, 1, %s)"
    found = rows(tx, query, *run.key, market.at("2024-01-02 10:00"))
    assert run.snapshot() == kept
    run.tick("2024-01-02 10:00")
    event = rows(tx, "select event_type, payload from event_ledger where user_id = %s", run.user_id)[0]
    bought = run.table("symbol, quantity, price", "paper_trade", "trade_id")
    assert [row[:3] for row in found] == (bought or [(None, None, None)])
    assert {row[5] for row in found} == {run.cash}
    assert all(row[3:5] == event for row in found)
    assert event[0] == ("SIP_EXECUTED" if bought else "SIP_SKIPPED_FUNDS")


# --- what comes next


def schedule(run: Run) -> dict[int, list[Any]]:
    query = "select sip_id, slot, nominal_date, due_date, amount, state from sip_schedule(%s, %s)"
    found = rows(run.conn, query, *run.key)
    return {sip: rest for sip, *rest in found}


def test_the_schedule_is_what_the_slots_do(tx: Conn) -> None:
    market = weekday_market(tx, "2024-01-01", "2024-01-12")  # Monday to the second Friday
    market.instrument("ACME")
    market.bars("ACME", {f"2024-01-{n:02} 10:00": 100 for n in (1, 2, 3, 4, 5, 8, 9, 10, 11, 12)})
    run = Run(market, 10_000)
    run.sip("ACME", 100, "WEEKLY", "2024-01-06", step_up_amount=10, step_up_every=1)  # a Saturday
    run.sip("ACME", 100, "WEEKLY", "2024-01-06", roll="PREVIOUS")
    run.sip("ACME", 100, "DAILY", "2024-01-08", instalments=2)
    run.sip("ACME", 100, "DAILY", "2024-01-08", end=day("2024-01-12"))
    run.sip("ACME", 100, "DAILY", "2024-01-08")
    run.tick("2024-01-01 10:00")
    saturday, monday = day("2024-01-06"), day("2024-01-08")
    assert schedule(run) == {
        1: [0, saturday, saturday, 100, "SCHEDULED"],
        2: [0, saturday, day("2024-01-05"), 100, "SCHEDULED"],
        **{k: [0, monday, monday, 100, "SCHEDULED"] for k in (3, 4, 5)},
    }
    run.call("pause_sip", sip_id=5)
    run.call("pause_sip", sip_id=4, **{"from": day("2024-01-11"), "to": day("2024-01-11")})
    for n in (2, 3, 4, 5, 8, 9, 10):
        run.tick(f"2024-01-{n:02} 10:00")
    thursday = day("2024-01-11")
    assert schedule(run) == {
        1: [1, day("2024-01-13"), day("2024-01-13"), 110, "SCHEDULED"],
        2: [1, day("2024-01-13"), None, 100, "CALENDAR_ENDS"],
        3: [2, None, None, None, "OVER"],
        4: [3, thursday, thursday, 100, "PAUSED"],
        5: [3, thursday, thursday, 100, "PAUSED"],
    }
    for n in (11, 12):
        run.tick(f"2024-01-{n:02} 10:00")
    found = schedule(run)
    assert found[4] == [5, None, None, None, "OVER"]  # it ends with the last session known
    assert found[5] == [5, None, None, 100, "CALENDAR_ENDS"]
    run.call("stop_run")
    assert {row[-1] for row in schedule(run).values()} == {"RUN_ENDED"}
