"""Test plan, order execution semantics: OR-01 … OR-06, OR-10 … OR-12."""

from __future__ import annotations

import pytest
from helpers import (
    Conn,
    Run,
    at,
    make_bars,
    make_run,
    place,
    raises,
    rows,
    set_status,
    stop,
    tick,
    unchanged,
    value,
)


@pytest.fixture
def run(db: Conn) -> Run:
    """Cash 10,000, already ticked once; closes of AAA are 100, 110, 120, 130, opens one less, lows three."""
    make_bars(db, "AAA", [100, 110, 120, 130])
    run = make_run(db, 10_000)
    tick(db, run, 0)
    return run


def order(db: Conn, run: Run, order_id: int = 1) -> dict[str, object]:
    return next(o for o in rows(db, "paper_order", run) if o["order_id"] == order_id)


def has_not_traded(db: Conn, run: Run) -> bool:
    state = rows(db, "engine_state", run)[0]
    return rows(db, "paper_trade", run) == rows(db, "paper_position", run) == [] and state["cash"] == 10_000


def test_or_01_market_buy_fills_at_the_next_open(db, run):
    placed = place(db, run, "AAA", "BUY", 10)
    assert (placed["order_id"], placed["status"], placed["logical_time"]) == (1, "PENDING", at(0))
    assert has_not_traded(db, run)

    tick(db, run, 1)
    filled = order(db, run)
    assert (filled["status"], filled["filled_quantity"], filled["avg_fill_price"]) == ("FILLED", 10, 109)
    (trade,) = rows(db, "paper_trade", run)
    assert [trade[c] for c in ("trade_id", "order_id", "side", "quantity", "price", "fees")] == [
        1,
        1,
        "BUY",
        10,
        109,
        0,
    ]
    (position,) = rows(db, "paper_position", run)
    assert [position[c] for c in ("symbol", "quantity", "cost_basis", "realized_pnl")] == ["AAA", 10, 1090, 0]
    assert [e["amount"] for e in rows(db, "cash_ledger", run)] == [10_000, -1090]
    equity = [(e["cash"], e["market_value"], e["equity"]) for e in rows(db, "paper_equity_curve", run)]
    assert equity == [(10_000, 0, 10_000), (8910, 1100, 10_010)]


def test_or_01_order_before_the_first_tick_matches_that_ticks_bar(db):
    make_bars(db, "AAA", [100])
    run = make_run(db)
    assert place(db, run, "AAA", "BUY", 10)["logical_time"] is None
    tick(db, run, 0)
    assert [t["price"] for t in rows(db, "paper_trade", run)] == [99]


def test_or_01_market_sell_realizes_its_gain(db, run):
    place(db, run, "AAA", "BUY", 10)
    tick(db, run, 1)
    place(db, run, "AAA", "SELL", 4)
    tick(db, run, 2)
    assert [(t["side"], t["quantity"], t["price"]) for t in rows(db, "paper_trade", run)] == [
        ("BUY", 10, 109),
        ("SELL", 4, 119),
    ]
    (position,) = rows(db, "paper_position", run)
    assert [position[c] for c in ("quantity", "cost_basis", "realized_pnl")] == [6, 654, 40]


def test_or_02_zero_quantity_is_stored_rejected(db, run):
    placed = place(db, run, "AAA", "BUY", 0)
    assert (placed["status"], placed["reject_reason"]) == ("REJECTED", "QUANTITY_NOT_POSITIVE")
    assert order(db, run)["status"] == "REJECTED"
    assert has_not_traded(db, run)


def test_or_03_negative_quantity_is_stored_rejected(db, run):
    placed = place(db, run, "AAA", "BUY", -5)
    assert (placed["status"], placed["reject_reason"], placed["quantity"]) == (
        "REJECTED",
        "QUANTITY_NOT_POSITIVE",
        -5,
    )
    assert order(db, run)["status"] == "REJECTED"
    assert has_not_traded(db, run)


@pytest.mark.parametrize(("side", "quantity"), [("BUY", 0), ("SELL", 0), ("BUY", 0.000000001)])
def test_or_10_order_of_nothing_never_trades(db, run, side, quantity):
    place(db, run, "AAA", side, quantity)
    tick(db, run, 1)
    assert order(db, run)["reject_reason"] == "QUANTITY_NOT_POSITIVE"
    assert has_not_traded(db, run)


@pytest.mark.parametrize(("side", "order_type"), [("BUY", "MARKET"), ("SELL", "MARKET"), ("SELL", "LIMIT")])
def test_or_11_order_of_less_than_nothing_never_trades(db, run, side, order_type):
    place(db, run, "AAA", side, -1, order_type=order_type, limit_price=100 if order_type == "LIMIT" else None)
    tick(db, run, 1)
    assert order(db, run)["reject_reason"] == "QUANTITY_NOT_POSITIVE"
    assert has_not_traded(db, run)


def test_or_11_quantity_that_is_no_number_is_refused(db, run):
    with unchanged(db, run):
        for quantity in ("NaN", "Infinity", "-Infinity", "1e130"):
            with raises("TE101"):
                place(db, run, "AAA", "BUY", quantity)


def test_or_04_order_above_cash_is_rejected(db, run):
    placed = place(db, run, "AAA", "BUY", 101)  # the last close is 100
    assert (placed["status"], placed["reject_reason"]) == ("REJECTED", "CASH_INSUFFICIENT")
    tick(db, run, 1)
    assert order(db, run)["status"] == "REJECTED"
    assert has_not_traded(db, run)
    assert place(db, run, "AAA", "BUY", 90)["status"] == "PENDING"


def test_or_04_open_buys_share_the_cash(db, run):
    assert place(db, run, "AAA", "BUY", 60)["status"] == "PENDING"
    assert place(db, run, "AAA", "BUY", 41)["reject_reason"] == "CASH_INSUFFICIENT"
    assert place(db, run, "AAA", "BUY", 40)["status"] == "PENDING"


def test_or_12_cash_too_low_is_rejected_at_the_first_tick(db):
    make_bars(db, "AAA", [100])
    run = make_run(db, 500)
    assert place(db, run, "AAA", "BUY", 10)["status"] == "PENDING"  # no price is known yet
    tick(db, run, 0)
    assert (order(db, run)["status"], order(db, run)["reject_reason"]) == ("REJECTED", "CASH_INSUFFICIENT")
    assert rows(db, "paper_trade", run) == []
    assert [e["cash"] for e in rows(db, "paper_equity_curve", run)] == [500]


def test_or_12_cash_too_low_at_the_fill_is_rejected(db, run):
    place(db, run, "AAA", "BUY", 100)  # 10,000 at 100, but the next bar opens at 109
    tick(db, run, 1)
    assert (order(db, run)["status"], order(db, run)["reject_reason"]) == ("REJECTED", "CASH_INSUFFICIENT")
    assert has_not_traded(db, run)


def test_or_05_limit_below_the_price_stays_pending(db, run):
    placed = place(db, run, "AAA", "BUY", 10, order_type="LIMIT", limit_price=90)
    assert placed["status"] == "PENDING"
    for n in (1, 2, 3):
        tick(db, run, n)
    assert order(db, run)["status"] == "PENDING"
    assert has_not_traded(db, run)


def test_or_05_limit_fills_when_a_bar_reaches_it(db, run):
    place(db, run, "AAA", "BUY", 10, order_type="LIMIT", limit_price=90)
    make_bars(db, "AAA", [92], start=4)  # 91, 94, 89, 92: opens above the limit, trades through it
    tick(db, run, 4)
    assert [(t["price"], t["logical_time"][:10]) for t in rows(db, "paper_trade", run)] == [(90, "2024-01-05")]


@pytest.mark.parametrize("way", ["stop_run", "fail_run", "update"])
def test_or_06_leaving_running_cancels_open_orders(db, run, way):
    make_bars(db, "BBB", [10])
    place(db, run, "BBB", "BUY", 1)  # has no later bar: stays open
    place(db, run, "AAA", "BUY", 1, order_type="LIMIT", limit_price=50)
    place(db, run, "AAA", "BUY", 1)
    place(db, run, "AAA", "BUY", 0)
    tick(db, run, 1)
    assert [o["status"] for o in rows(db, "paper_order", run)] == ["PENDING", "PENDING", "FILLED", "REJECTED"]
    trades = rows(db, "paper_trade", run)

    if way == "update":
        set_status(db, run, "STOPPED")
    elif way == "fail_run":
        db.execute("select fail_run(%s, %s, 'broken')", run)
    else:
        stop(db, run)
    orders = rows(db, "paper_order", run)
    assert [o["status"] for o in orders] == ["CANCELED", "CANCELED", "FILLED", "REJECTED"]
    assert all(o["closed_time"] == orders[2]["closed_time"] for o in orders[:2])  # the last tick
    assert rows(db, "paper_trade", run) == trades
    assert value(db, "select count(*) from paper_order where status in ('PENDING', 'PARTIALLY_FILLED')") == 0
