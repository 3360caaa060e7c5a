"""Test plan, risk and ledger: RK-01 … RK-03, LG-01, LG-02."""

from __future__ import annotations

from decimal import Decimal

import pytest
from helpers import (
    Conn,
    Run,
    add_rows,
    counts,
    make_bars,
    make_run,
    place,
    raises,
    raw_run,
    rows,
    tick,
    value,
)


@pytest.fixture
def run(db: Conn) -> Run:
    """Cash 10,000, already ticked once; closes of AAA and BBB are 100, 110, 120, …"""
    for symbol in ("AAA", "BBB"):
        make_bars(db, symbol, [100 + 10 * n for n in range(8)])
    run = make_run(db, 10_000)
    tick(db, run, 0)
    return run


def reasons(db: Conn, run: Run) -> list[tuple[str, str]]:
    return [(o["status"], o["reject_reason"]) for o in rows(db, "paper_order", run)]


def test_rk_01_insufficient_cash_rejects(db, run):
    place(db, run, "AAA", "BUY", 1000)
    tick(db, run, 1)
    assert reasons(db, run) == [("REJECTED", "CASH_INSUFFICIENT")]
    assert counts(db, run)["paper_trade"] == 0


def test_rk_01_insufficient_cash_skips_a_sip(db, run):
    sip = value(db, "select create_sip(%s, %s, 'AAA', 20000, 'WEEKLY', '2024-01-01')", run)
    tick(db, run, 1)
    assert [(e["event_type"], e["event_key"]) for e in rows(db, "event_ledger", run)] == [
        ("SIP_SKIPPED_FUNDS", f"{sip}:0")
    ]
    assert counts(db, run)["paper_trade"] == counts(db, run)["paper_order"] == 0


def test_rk_01_selling_what_is_not_held_rejects(db, run):
    place(db, run, "AAA", "SELL", 1)
    assert reasons(db, run) == [("REJECTED", "POSITION_INSUFFICIENT")]


def test_rk_02_position_limit_rejects(db, run):
    db.execute("select set_risk_limit(%s, %s, p_max_position => 10)", run)
    place(db, run, "AAA", "BUY", 11)
    place(db, run, "AAA", "BUY", 6)
    place(db, run, "AAA", "BUY", 5)  # with the open one, 11
    place(db, run, "BBB", "BUY", 10)  # another symbol has its own
    tick(db, run, 1)
    exceeded = ("REJECTED", "POSITION_LIMIT_EXCEEDED")
    assert reasons(db, run) == [exceeded, ("FILLED", None), exceeded, ("FILLED", None)]
    place(db, run, "AAA", "BUY", 5)  # with the held ones, 11
    assert reasons(db, run)[-1] == exceeded
    assert [t["quantity"] for t in rows(db, "paper_trade", run)] == [6, 10]


def test_rk_02_limit_set_later_rejects_at_the_fill(db, run):
    place(db, run, "AAA", "BUY", 11)
    db.execute("select set_risk_limit(%s, %s, p_max_position => 10)", run)
    tick(db, run, 1)
    assert reasons(db, run) == [("REJECTED", "POSITION_LIMIT_EXCEEDED")]
    assert counts(db, run)["paper_trade"] == 0


def test_rk_02_order_value_limit_rejects(db, run):
    db.execute("select set_risk_limit(%s, %s, p_max_order_value => 500)", run)
    place(db, run, "AAA", "BUY", 5.1)
    assert reasons(db, run) == [("REJECTED", "ORDER_VALUE_EXCEEDED")]


def test_rk_03_forbidden_symbol_rejects(db, run):
    place(db, run, "BBB", "BUY", 1)
    db.execute("select forbid_symbol(%s, %s, 'AAA'), forbid_symbol(%s, %s, 'BBB')", [*run, *run])
    place(db, run, "AAA", "BUY", 1)
    tick(db, run, 1)
    assert reasons(db, run) == [("REJECTED", "SYMBOL_FORBIDDEN")] * 2  # at the fill, and at acceptance
    assert counts(db, run)["paper_trade"] == 0


def test_rk_03_forbidden_symbol_stops_sip_and_rebalance(db, run):
    db.execute("select create_sip(%s, %s, 'AAA', 1000, 'WEEKLY', '2024-01-01')", run)
    db.execute("""select create_rebalance(%s, %s, '{"AAA": 0.5}', 'WEEKLY', '2024-01-01')""", run)
    db.execute("select forbid_symbol(%s, %s, 'AAA')", run)
    tick(db, run, 1)
    assert counts(db, run)["paper_trade"] == 0
    assert "SIP_EXECUTED" not in [e["event_type"] for e in rows(db, "event_ledger", run)]


def test_lg_01_order_trade_position_agree(db, run):
    for n, (side, quantity) in enumerate([("BUY", 10), ("SELL", 3), ("BUY", 2), ("SELL", 9)], start=1):
        place(db, run, "AAA", side, quantity)
        tick(db, run, n)
    orders, trades = rows(db, "paper_order", run), rows(db, "paper_trade", run)
    for columns in (("order_id", "symbol", "side"), ("order_id", "quantity", "quantity")):
        assert [[o[c] for c in columns] for o in orders] == [[t[c] for c in columns] for t in trades]
    assert [t["trade_id"] for t in trades] == [1, 2, 3, 4]
    assert [e["trade_id"] for e in rows(db, "cash_ledger", run)] == [None, 1, 2, 3, 4]
    (position,) = rows(db, "paper_position", run)
    cash = value(db, "select sum(amount) from cash_ledger")
    assert (position["quantity"], position["cost_basis"]) == (0, 0)  # a closed position keeps its row
    assert position["realized_pnl"] == cash - 10_000 == -10 * 109 + 3 * 119 - 2 * 129 + 9 * 139
    assert cash == value(db, "select cash from engine_state")


def test_lg_01_trade_needs_its_order(db):
    run = raw_run(db)
    with raises("23503"):
        add_rows(db, run, ["paper_trade"])
    add_rows(db, run, ["paper_order", "paper_trade"])
    with raises("23503"):  # cash of a trade that is not there
        db.execute("insert into cash_ledger values (%s, %s, 1, '2024-01-01', 5, 'TRADE', 9)", run)
    assert counts(db, run)["cash_ledger"] == 0


def test_lg_02_equity_is_cash_plus_market_value(db, run):
    place(db, run, "AAA", "BUY", 7.123456)
    place(db, run, "BBB", "BUY", 3.5)
    for n in range(1, 6):
        tick(db, run, n)
        quantities = [Decimal("7.123456"), Decimal("3.5")]
        expected = sum(round(quantity * (100 + 10 * n), 2) for quantity in quantities)
        mark = db.execute("select market_value, unrealized_pnl, cost_basis from mtm_ledger order by logical_time desc")
        assert mark.fetchone() == (
            expected,
            expected - round(quantities[0] * 109, 2) - round(quantities[1] * 109, 2),
            round(quantities[0] * 109, 2) + round(quantities[1] * 109, 2),
        )
    query = "select count(*) from paper_equity_curve e join mtm_ledger m using (user_id, run_id, logical_time)"
    assert value(db, query) == 6
    assert value(db, query + " where e.equity = e.cash + m.market_value and e.market_value = m.market_value") == 6
    assert value(db, query + " join engine_state s using (user_id, run_id) where e.cash = s.cash") == 5
