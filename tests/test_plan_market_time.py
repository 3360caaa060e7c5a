"""Test plan, market time and sessions: MT-01 … MT-04."""

from __future__ import annotations

import pytest
from helpers import (
    Conn,
    Run,
    at,
    counts,
    insert,
    make_bars,
    make_run,
    place,
    raises,
    raw_row,
    rows,
    tick,
    unchanged,
    value,
)

LEDGERS_OF_A_TICK = ("paper_order", "paper_trade", "mtm_ledger", "paper_equity_curve", "event_ledger")


@pytest.fixture
def run(db: Conn) -> Run:
    """Cash 10,000, not ticked yet; closes of AAA are 100, 110, … 150, of BBB always 50."""
    make_bars(db, "AAA", [100, 110, 120, 130, 140, 150])
    make_bars(db, "BBB", [50, 50, 50, 50, 50, 50])
    return make_run(db, 10_000)


def create_sip(db: Conn, run: Run, start: int = 0, frequency: str = "WEEKLY") -> int:
    return value(db, "select create_sip(%s, %s, 'AAA', 1000, %s, %s)", [*run, frequency, at(start).date()])


def create_rebalance(db: Conn, run: Run, start: int = 0, frequency: str = "WEEKLY") -> int:
    weights = '{"AAA": 0.5, "BBB": 0.4}'
    return value(db, "select create_rebalance(%s, %s, %s, %s, %s)", [*run, weights, frequency, at(start).date()])


def try_sip(db: Conn, run: Run, n: float, market_open: bool | None = None) -> int:
    return value(db, "select try_execute_sip(%s, %s, %s, %s)", [*run, at(n), market_open])


def test_mt_01_closed_market_executes_no_sip(db, run):
    create_sip(db, run)
    with unchanged(db, run):
        assert try_sip(db, run, 0, market_open=False) == 0
        assert try_sip(db, run, 0, market_open=False) == 0
    assert try_sip(db, run, 0, market_open=True) == 1  # the slot stayed due


def test_mt_01_closed_market_executes_no_rebalance(db, run):
    create_rebalance(db, run)
    with unchanged(db, run):
        assert value(db, "select try_rebalance(%s, %s, %s, false)", [*run, at(0)]) == 0
    assert value(db, "select try_rebalance(%s, %s, %s, true)", [*run, at(0)]) == 1


def test_mt_01_calendar_decides_when_nobody_says(db):
    db.execute("insert into calendar (calendar, time_zone) values ('WORK', 'UTC')")
    sessions = [(at(n).date(), at(n - 0.25), at(n)) for n in (0, 2)]  # 10:00 to 16:00, day 1 is a holiday
    with db.cursor() as cur:
        cur.executemany("insert into market_session values ('WORK', %s, %s, %s)", sessions)
    db.execute("insert into feed values ('work', 'WORK')")
    make_bars(db, "AAA", [100, 110, 120], feed="work")
    run = make_run(db, 10_000, feed="work")
    create_sip(db, run, start=1)

    assert try_sip(db, run, 0) == 0  # open, but nothing is due
    for n in (1, 1.5):  # due, but closed
        with unchanged(db, run):
            assert try_sip(db, run, n) == 0
    tick(db, run, 1)
    assert rows(db, "event_ledger", run) == rows(db, "paper_order", run) == []
    assert try_sip(db, run, 2) == 1
    with raises("TE203"):
        try_sip(db, run, 3)


def test_mt_02_scheduled_sip_executes_once(db, run):
    sip = create_sip(db, run, start=1)
    for n in (0, 1, 1, 2, 3):
        tick(db, run, n)
    (event,) = rows(db, "event_ledger", run)
    assert (event["event_type"], event["event_key"], event["logical_time"][:10]) == (
        "SIP_EXECUTED",
        f"{sip}:0",
        "2024-01-02",
    )
    (order,) = rows(db, "paper_order", run)
    assert [order[c] for c in ("source", "status", "quantity", "order_id")] == ["SIP", "FILLED", 9.090909, 1]
    assert event["payload"]["order_id"] == 1
    assert [(t["price"], t["quantity"]) for t in rows(db, "paper_trade", run)] == [(110, 9.090909)]
    assert [e["amount"] for e in rows(db, "cash_ledger", run)] == [10_000, -1000]


def test_mt_02_daily_sip_ends_every_slot_once(db, run):
    sip = create_sip(db, run, frequency="DAILY")
    for n in (0, 1, 2, 3):
        tick(db, run, n)
        assert try_sip(db, run, n) == 0
    events = [(e["event_type"], e["event_key"]) for e in rows(db, "event_ledger", run)]
    assert events == [("SIP_EXECUTED", f"{sip}:{slot}") for slot in range(4)]


def test_mt_03_repeated_logical_time_adds_nothing(db, run):
    create_sip(db, run)
    create_rebalance(db, run)
    place(db, run, "BBB", "BUY", 3)
    tick(db, run, 0)
    assert all(counts(db, run)[table] for table in LEDGERS_OF_A_TICK)
    with unchanged(db, run):
        tick(db, run, 0)
        db.execute("call tick_all(%s)", [at(0)])
        db.execute("call replay(%s, %s, %s, %s)", [*run, at(0), at(0)])
        steps = ("match_orders", "try_execute_sip", "try_rebalance", "log_mtm", "record_equity")
        for step in steps:
            assert value(db, f"select {step}(%s, %s, %s)::int", [*run, at(0)]) == 0
    for table in ("mtm_ledger", "paper_equity_curve"):
        assert [r["logical_time"][:10] for r in rows(db, table, run)] == ["2024-01-01"]


def test_mt_03_keys_refuse_a_second_row_of_one_time(db, run):
    tick(db, run, 1)
    create_sip(db, run, start=2)
    tick(db, run, 2)
    event = raw_row("event_ledger", run, event_type="SIP_EXECUTED", event_key="1:0")
    missed = raw_row("event_ledger", run, event_type="SIP_MISSED", event_key="1:0")  # a slot ends in one way
    for table, row in (
        ("mtm_ledger", raw_row("mtm_ledger", run, 1)),
        ("paper_equity_curve", raw_row("paper_equity_curve", run, 1)),
        ("event_ledger", event),
        ("event_ledger", missed),
    ):
        with unchanged(db, run), raises("23505"):
            insert(db, table, row)


def test_mt_04_rebalance_is_one_event(db, run):
    plan = create_rebalance(db, run, start=1)
    for n in (0, 1, 1, 2):
        tick(db, run, n)
        assert value(db, "select try_rebalance(%s, %s, %s)", [*run, at(n)]) == 0
    (event,) = rows(db, "event_ledger", run)
    assert (event["event_type"], event["event_key"]) == ("REBALANCED", f"{plan}:0")
    orders = [(o["symbol"], o["side"], o["quantity"], o["source"], o["status"]) for o in rows(db, "paper_order", run)]
    assert orders == [
        ("AAA", "BUY", 45.454545, "REBALANCE", "FILLED"),  # floor(5,000 / 110) to the step
        ("BBB", "BUY", 80, "REBALANCE", "FILLED"),
    ]


def test_mt_04_rebalance_with_nothing_to_trade_is_one_event(db, run):
    value(db, "select create_rebalance(%s, %s, %s, 'WEEKLY', %s)", [*run, '{"AAA": 0}', at(0).date()])
    tick(db, run, 0)
    tick(db, run, 0)
    assert [e["event_type"] for e in rows(db, "event_ledger", run)] == ["REBALANCED"]
    assert rows(db, "paper_order", run) == []
