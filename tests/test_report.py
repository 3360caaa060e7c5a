"""Reports: the views' numbers against hand-made ones and against performance(), and the page that shows them."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from desk import Conn, D, Market, Run, at, days, refused, rows, val
from door import Door
from helpers import superuser_only
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_pages import Page, make_page, report

from engine_py.report import axis, terminal, words
from engine_py.report.page import policy
from tests.test_cli import Cli, cli  # noqa: F401  # a fixture

VIEWS = (
    *("report_equity", "report_drawdown", "report_monthly_return", "report_yearly_return", "report_holding"),
    *("report_price", "report_allocation", "report_fill", "report_instalment", "report_fee", "report_rejection"),
    *("report_sip_summary", "report_rebalance_summary", "report_gain"),
)
BAR = 300_000  # bytes of a page


def view(run: Run, name: str, columns: str, order: str) -> list[Any]:
    query = f"select {columns} from {name} where user_id = %s and run_id = %s order by {order}"
    return rows(run.conn, query, *run.key)


def deposit(run: Run, time: datetime, amount: Any, cause: str = "DEPOSIT") -> None:
    run.conn.execute(
        "insert into cash_ledger (user_id, run_id, entry_id, logical_time, amount, cause) "
        "select %s, %s, max(entry_id) + 1, %s, %s, %s from cash_ledger where user_id = %s and run_id = %s",
        [*run.key, time, amount, cause, *run.key],
    )
    run.conn.execute("update engine_state set cash = cash + %s where user_id = %s and run_id = %s", [amount, *run.key])


def metric(run: Run, name: str) -> Any:
    return val(run.conn, "select value from performance(%s, %s) where metric = %s", *run.key, name)


def make(conn: Conn, closes: dict[str, Any], cash: Any = 10_000, symbol: str = "A", **terms: Any) -> Run:
    """A run on bars at 16:00 of these days."""
    market = Market(conn)
    market.bars(symbol, {f"{day} 16:00": close for day, close in closes.items()})
    return Run(market, cash, **terms)


def tick_all_days(run: Run, closes: dict[str, Any]) -> None:
    for day in closes:
        run.tick(f"{day} 16:00")


# --- views ---


def test_equity_stands_beside_the_money_that_came_in(tx: Conn) -> None:
    closes = {"2024-01-02": 100, "2024-01-03": 110, "2024-01-04": 99, "2024-01-05": 110}
    run = make(tx, closes, 1000)
    run.place("A", "BUY", 5)
    run.tick("2024-01-02 16:00")
    run.place("A", "BUY", 4)
    run.tick("2024-01-03 16:00")
    deposit(run, run.market.at("2024-01-04 10:00"), 500)
    run.tick("2024-01-04 16:00")
    run.tick("2024-01-05 16:00")
    found = view(
        run,
        "report_equity",
        "equity, invested_capital, put_to_work, round(growth, 10), round(drawdown, 10)",
        "logical_time",
    )
    assert [f[:3] for f in found] == [(1000, 1000, 500), (1050, 1000, 940), (1451, 1500, 940), (1550, 1500, 940)]
    growth = [D(1), D("1.05"), D("1.05") * 951 / 1050, D("1.05") * 951 / 1050 * 1550 / 1451]
    assert [f[3] for f in found] == [round(g, 10) for g in growth]
    assert [f[4] for f in found] == [0, 0, round(D(951) / 1050 - 1, 10), round(growth[3] / growth[1] - 1, 10)]
    last = view(run, "report_equity", "equity, cash, market_value, round(growth - 1, 8)", "logical_time")[-1]
    assert last == tuple(metric(run, name) for name in ("equity", "cash", "market_value", "twr"))
    assert round(min(f[4] for f in found), 8) == metric(run, "max_drawdown")


@pytest.mark.parametrize("policy", ["EVERY_TICK", "SESSION", "EVENTS"])
def test_marks_that_are_not_stored_are_in_the_views(tx: Conn, policy: str) -> None:
    closes = {f"2024-01-{day:02}": 100 + day for day in range(2, 12)}
    run = make(tx, closes, 1000, mark_policy=policy)
    run.place("A", "BUY", 5)
    run.sip("A", 100, "WEEKLY", "2024-01-04")
    tick_all_days(run, closes)
    found = view(run, "report_equity", "logical_time, cash, market_value, equity", "logical_time")
    assert len(found) == 10
    assert found == rows(tx, "select * from equity_between(%s, %s) order by 1", *run.key)
    totals = rows(
        tx,
        "select logical_time, sum(market_value) from report_allocation where user_id = %s and run_id = %s group by 1 order by 1",
        *run.key,
    )
    assert totals == [(f[0], f[3]) for f in found]


@pytest.mark.parametrize("unit", ["month", "year"])
def test_periods_chained_are_the_whole(tx: Conn, unit: str) -> None:
    dates = days("2023-11-20", "2025-02-20")
    closes = {day: 100 + 30 * ((n * 7) % 11) / 11 for n, day in enumerate(dates)}
    run = make(tx, {d: round(D(c), 2) for d, c in closes.items()}, 1000)
    run.place("A", "BUY", 6)
    for n, day in enumerate(dates):
        if n in (40, 41, 200):
            deposit(run, run.market.at(f"{day} 12:00"), 250 if n != 200 else -300, "OUTSIDE")
        run.tick(f"{day} 16:00")
    order = "year, month" if unit == "month" else "year"
    found = view(run, f"report_{unit}ly_return", "twr, reason", order)
    assert len(found) == (16 if unit == "month" else 3)
    assert all(reason is None for _, reason in found)
    product = D(1)
    for twr, _ in found:
        product *= 1 + twr
    assert round(product - 1, 8) == metric(run, "twr")


def test_a_month_is_the_markets_and_its_return_its_own(tx: Conn) -> None:
    """Midnight in New York on the first is of the month before; growth counts from the last mark of that month."""
    market = Market(
        tx,
        [
            ("2024-01-30", "09:30", "16:00"),
            ("2024-01-31", "09:30", "16:00"),
            ("2024-02-29", "09:30", "16:00"),
            ("2024-03-01", "09:30", "16:00"),
        ],
        "America/New_York",
    )
    market.bars(
        "A", {"2024-01-31 16:00": 100, "2024-01-31 23:00": 110, "2024-02-29 16:00": 121, "2024-03-01 00:00": 133.1}
    )
    run = Run(market, 1000)
    run.place("A", "BUY", 10)
    for time in ("2024-01-31 16:00", "2024-01-31 23:00", "2024-02-29 16:00", "2024-03-01 00:00"):
        run.tick(time)
    found = view(run, "report_monthly_return", "year, month, round(twr, 10)", "year, month")
    assert found == [(2024, 1, D("0.1")), (2024, 2, D("0.21"))]


def test_what_has_no_meaning_is_null_with_its_reason(tx: Conn) -> None:
    """A short position loses more than there is."""
    closes = {"2024-01-02": 100, "2024-01-03": 100, "2024-02-01": 300, "2024-02-02": 310, "2024-03-01": 50}
    run = make(tx, closes, 1000, initial_margin="0.5", maintenance_margin="0.000001")
    run.tick("2024-01-02 16:00")
    run.place("A", "SELL", 9)
    for day in list(closes)[1:]:
        run.tick(f"{day} 16:00")
    found = view(run, "report_monthly_return", "month, twr is null, reason", "month")
    assert found[0] == (1, False, None)
    assert found[1][1:] == (True, "EQUITY_NOT_POSITIVE")
    assert found[2][1] is True
    assert metric(run, "twr") is None
    page = Page(make_page(tx, run.key))
    assert "equity fell to nothing or below" in page.text
    assert words.NONE in [text for row in page.tables["Monthly returns"] for text, _ in row]


def split_run(tx: Conn) -> tuple[Run, list[str]]:
    """Ten a month for three months; two new units for one before the second."""
    dates = ["2024-01-02", "2024-01-03", "2024-02-01", "2024-02-02", "2024-03-01"]
    run = make(tx, dict(zip(dates, (100, 110, 60, 66, 50), strict=True)), 10_000)
    tx.execute(
        "insert into corporate_action (symbol, ex_date, action_type, ratio_numerator, ratio_denominator) values ('A', '2024-01-20', 'SPLIT', 2, 1)"
    )
    return run, dates


def test_holdings_and_prices_follow_a_split(tx: Conn) -> None:
    run, dates = split_run(tx)
    run.sip("A", 600, "MONTHLY", "2024-01-01")
    run.tick(f"{dates[0]} 16:00")
    run.place("A", "SELL", 1)
    for day in dates[1:]:
        run.tick(f"{day} 16:00")
    found = view(run, "report_holding", "ordinal, trade_id, quantity, cost_basis, average_cost", "ordinal")
    assert found == [
        (1, 1, 6, 600, 100),
        (2, 2, 5, 500, 100),  # sold at the next open, at average cost
        (3, None, 10, 500, 50),
        (4, 3, 20, 1100, 55),
        (5, 4, 32, 1700, D("53.125")),
    ]
    position = rows(tx, "select quantity, cost_basis from paper_position where user_id = %s and run_id = %s", *run.key)
    assert position == [(32, 1700)]
    prices = view(run, "report_price", "symbol, close, split_factor, quantity, average_cost", "logical_time")
    assert prices == [
        ("A", 100, 2, 6, 100),
        ("A", 110, 2, 5, 100),
        ("A", 60, 1, 20, 55),
        ("A", 66, 1, 20, 55),
        ("A", 50, 1, 32, D("53.125")),
    ]
    instalments = view(
        run, "report_instalment", "sip_id, slot, quantity, price, amount, paid, held, average_cost", "slot"
    )
    assert instalments == [
        (1, 0, 6, 100, 600, 600, 6, 100),
        (1, 1, 10, 60, 600, 1200, 20, 55),
        (1, 2, 12, 50, 600, 1800, 32, D("53.125")),
    ]
    summary = view(
        run,
        "report_sip_summary",
        "symbol, instalment, slots, executed, skipped_funds, missed, paid, purchases",
        "sip_id",
    )
    assert summary == [("A", 600, 3, 3, 0, 0, 1800, 3)]


def test_baskets_and_skipped_slots_are_counted(tx: Conn) -> None:
    market = Market(tx)
    for symbol in ("A", "B"):
        market.bars(symbol, {f"2024-0{month}-01 16:00": 10 for month in range(1, 5)})
    run = Run(market, 250)
    run.sip(None, 100, "MONTHLY", "2024-01-01", basket='{"A": 0.25, "B": 0.75}')  # type: ignore[arg-type]
    for month in range(1, 5):
        run.tick(f"2024-0{month}-01 16:00")
    assert view(run, "report_instalment", "slot, symbol, amount, paid", "trade_id") == [
        *((0, "A", 25, 25), (0, "B", 75, 75)),
        *((1, "A", 25, 50), (1, "B", 75, 150)),
    ]
    assert view(run, "report_sip_summary", "executed, skipped_funds, paid, purchases, symbol is null", "sip_id") == [
        (2, 2, 200, 4, True)
    ]


def test_a_step_up_is_said_in_words(tx: Conn) -> None:
    dates = [f"2024-{month:02}-01" for month in range(1, 9)]
    run = make(tx, dict.fromkeys(dates, 10))
    for step in (
        {"step_up_percent": 10, "step_up_every": 3},
        {"step_up_amount": "2.5", "step_up_every": 1},
        {},
    ):
        run.sip("A", 100, "MONTHLY", "2024-01-01", **step)
    tick_all_days(run, dict.fromkeys(dates))
    page = Page(make_page(tx, run.key))
    assert [[cell[0] for cell in row[3:6]] for row in page.tables["SIPs"]] == [
        ["Instalment", "Step-up", "Now"],
        ["100.00", "+10 % every 3 slots", "121.00"],
        ["100.00", "+2.5 every slot", "117.50"],
        ["100.00", words.NONE, "100.00"],
    ]
    last = rows(tx, "select amount from report_instalment where user_id = %s and run_id = %s and slot = 7", *run.key)
    assert sorted(last) == [(100,), (D("117.5"),), (121,)]
    (section,) = [s for s in terminal.sections(report(tx, run.key)) if s.title == "SIPs"]
    assert section.note.splitlines() == [
        "SIP 1: 100.00 at first, +10 % every 3 slots, now 121.00",
        "SIP 2: 100.00 at first, +2.5 every slot, now 117.50",
    ]


def test_rebalances_show_their_slots_and_how_far_they_are_off(tx: Conn) -> None:
    market = Market(tx)
    times = ("2024-01-02 16:00", "2024-04-02 16:00", "2024-04-03 16:00")
    market.bars("A", dict(zip(times, (10, 10, 20), strict=True)))
    market.bars("B", dict(zip(times, (10, 10, 10), strict=True)))
    run = Run(market, 1000)
    run.rebalance('{"A": 0.5, "B": 0.25}', "MONTHLY", "2024-01-01")
    assert view(run, "report_rebalance_summary", "slots, executed, missed, last_time", "plan_id") == [(0, 0, 0, None)]
    assert len(Page(make_page(tx, run.key)).tables["Rebalances"]) == 3
    for time in times:
        run.tick(time)
    found = view(run, "report_rebalance_summary", "slots, executed, missed, last_time", "plan_id")
    assert found == [(4, 2, 2, run.market.at(times[1]))]
    cells = [[text for text, _ in row] for row in Page(make_page(tx, run.key)).tables["Rebalances"][1:]]
    assert cells[0] == ["1", "monthly", "2", "2", "2024-04-02", "A", "50.00 %", "66.67 %", "16.67 %"]
    assert cells[1][5:] == ["B", "25.00 %", "16.67 %", "−8.33 %"]  # noqa: RUF001
    (section,) = [s for s in terminal.sections(report(tx, run.key)) if s.title == "Rebalances"]
    assert [list(row[4:]) for row in section.rows] == [["A", "50.00 %", "66.67 %"], ["B", "25.00 %", "16.67 %"]]


def test_shares_are_of_the_equity(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {"2024-01-02 16:00": 10, "2024-01-03 16:00": 20})
    market.bars("B", {"2024-01-02 16:00": 5})
    run = Run(market, 1000)
    run.place("A", "BUY", 20)
    run.place("B", "BUY", 40)
    for day in ("2024-01-02", "2024-01-03"):
        run.tick(f"{day} 16:00")
    found = view(
        run,
        "report_allocation",
        "symbol, quantity, market_value, share",
        'logical_time desc, symbol collate "C" limit 3',
    )
    assert found == [("A", 20, 400, D("0.33333333")), ("B", 40, 200, D("0.16666667")), (None, None, 600, D("0.5"))]


def test_costs_are_all_there(tx: Conn) -> None:
    closes = {f"2024-01-{day:02}": 100 for day in range(2, 12)}
    terms = {
        "fee_schedule": "US_PER_SHARE",
        "initial_margin": "0.5",
        "maintenance_margin": "0.25",
        "borrow_rate": "0.365",
    }
    run = make(tx, closes, 10_000, **terms)
    run.tick("2024-01-02 16:00")
    run.place("A", "SELL", 50)
    run.place("A", "BUY", 10)
    run.place("B?", "BUY", 1)
    run.place("A", "BUY", 10_000)
    tick_all_days(run, closes)
    found = dict(view(run, "report_fee", "kind, amount", "kind"))
    carried = found.pop("BORROW_FEE")
    assert sum(found.values()) == metric(run, "fees") > 0
    assert set(found) == {"COMMISSION", "SEC", "TAF"}
    assert -carried == val(
        tx, "select sum(amount) from cash_ledger where user_id = %s and run_id = %s and cause = 'BORROW_FEE'", *run.key
    )
    reasons = view(run, "report_rejection", "reason, orders, symbols", 'reason collate "C"')
    assert [r[0] for r in reasons] == sorted(
        o["reject_reason"] for o in (run.order(3), run.order(4)) if o["reject_reason"]
    )
    fills = view(run, "report_fill", "side, source, value, fees, cash", "trade_id")
    assert [f[:3] for f in fills] == [("SELL", "CLIENT", 5000), ("BUY", "CLIENT", 1000)]
    assert all(f[4] == (f[2] - f[3] if f[0] == "SELL" else -f[2] - f[3]) for f in fills)


def gain_of_all(tx: Conn) -> Run:
    """Dividends on a long and on a short, a fraction after a split, a loan, a deposit, money taken out."""
    dates = [f"2024-01-{day:02}" for day in range(2, 20)]
    terms = {"initial_margin": "0.5", "maintenance_margin": "0.1", "margin_rate": "0.07", "borrow_rate": "0.11"}
    run = make(tx, {d: D("31.37") + n for n, d in enumerate(dates)}, 1000, fee_schedule="US_PER_SHARE", **terms)
    run.market.bars("B", {f"{d} 16:00": D("20.19") - D("0.31") * n for n, d in enumerate(dates)})
    tx.execute("update instrument set quantity_step = 1 where symbol = 'A'")
    tx.execute(
        "insert into corporate_action (symbol, ex_date, action_type, ratio_numerator, ratio_denominator, amount, pay_date) values"
        " ('A', '2024-01-09', 'SPLIT', 3, 2, null, null), ('A', '2024-01-11', 'DIVIDEND', null, null, 0.37, '2024-01-12'),"
        " ('B', '2024-01-10', 'DIVIDEND', null, null, 0.11, '2024-01-12')"
    )
    run.tick(f"{dates[0]} 16:00")
    run.place("A", "BUY", 41)
    run.place("B", "SELL", 9)
    for n, day in enumerate(dates[1:]):
        if n in (4, 9):
            deposit(run, run.market.at(f"{day} 12:00"), 250 if n == 4 else -70, "OUTSIDE")
        if n == 12:
            run.place("A", "SELL", 40)
        run.tick(f"{day} 16:00")
    return run


def test_where_the_gain_comes_from_adds_up(tx: Conn) -> None:
    run = gain_of_all(tx)
    found = dict(view(run, "report_gain", "kind, amount", "place"))
    kinds = ["REALIZED", "UNREALIZED", "DIVIDEND", "CASH_IN_LIEU", "BORROW_FEE", "MARGIN_INTEREST"]
    assert list(found) == kinds
    assert all(found.values())
    gain = metric(run, "equity") - metric(run, "funded")
    assert sum(found.values()) == gain
    assert found["UNREALIZED"] == metric(run, "unrealized_pnl")
    assert found["REALIZED"] + found["CASH_IN_LIEU"] == metric(run, "realized_pnl") != found["REALIZED"]
    for cause in ("DIVIDEND", "BORROW_FEE", "MARGIN_INTEREST"):
        query = "select sum(amount) from cash_ledger where user_id = %s and run_id = %s and cause = %s"
        assert found[cause] == val(tx, query, *run.key, cause)
    page = Page(make_page(tx, run.key))
    table = {row[0][0]: row[1][0] for row in page.tables["Where the gain comes from"][1:]}
    assert table.pop("Gain") == rounded(gain, 2) == page.tiles["Gain"][0]
    assert table == {words.gain(kind)[0]: rounded(amount, 2) for kind, amount in found.items()}
    assert report(tx, run.key).gain == [{"kind": kind, "amount": amount} for kind, amount in found.items()]


def test_a_gain_still_adds_up_where_trades_are_younger_than_the_last_mark(tx: Conn) -> None:
    closes = {"2024-01-02": 100, "2024-01-03": 110, "2024-01-04": 120}
    run = make(tx, closes, 1000)
    assert view(run, "report_gain", "kind", "place") == []
    run.place("A", "BUY", 4)
    tick_all_days(run, dict(list(closes.items())[:2]))
    run.place("A", "SELL", 1)
    run.call("match_orders", logical_time=run.market.at("2024-01-04 16:00"))
    assert view(run, "report_gain", "kind, amount", "place") == [("REALIZED", 20), ("OTHER", 20)]
    assert metric(run, "equity") - metric(run, "funded") == 40


@pytest.mark.parametrize("has_dividend", [False, True])
def test_dividends_are_what_the_two_rates_of_one_symbol_differ_by(tx: Conn, has_dividend: bool) -> None:
    closes = {f"2024-{month:02}-01": 100 + month for month in range(1, 9)}
    run = make(tx, closes, fee_schedule="US_PER_SHARE")
    if has_dividend:
        tx.execute(
            "insert into corporate_action (symbol, ex_date, action_type, amount, pay_date)"
            " values ('A', '2024-03-01', 'DIVIDEND', 3, '2024-03-05')"
        )
    run.sip("A", 500, "MONTHLY", "2024-01-01")
    tick_all_days(run, closes)
    rate = val(tx, "select value from performance_by_symbol(%s, %s) where symbol = 'A' and metric = 'xirr'", *run.key)
    assert (metric(run, "xirr_invested") > rate) == has_dividend
    assert (metric(run, "xirr_invested") == rate) != has_dividend
    assert words.SYMBOL_XIRR in Page(make_page(tx, run.key)).text


# --- benchmark ---


def benchmark(run: Run, symbol: str) -> list[Any]:
    return rows(
        run.conn,
        "select round(units, 8), value from report_benchmark(%s, %s, %s) order by logical_time",
        *run.key,
        symbol,
    )


def test_the_benchmark_is_the_same_money_in_one_symbol(tx: Conn) -> None:
    run, dates = split_run(tx)
    tx.execute(
        "insert into corporate_action (symbol, ex_date, action_type, amount, pay_date) values ('A', '2024-02-02', 'DIVIDEND', 6.6, '2024-02-20')"
    )
    run.tick(f"{dates[0]} 16:00")
    run.tick(f"{dates[1]} 16:00")
    deposit(run, run.market.at("2024-01-15 16:00"), 1200)
    deposit(run, run.market.at("2024-02-28 16:00"), -1000, "TAKEN_OUT")
    for day in dates[2:]:
        run.tick(f"{day} 16:00")
    assert benchmark(run, "A") == [
        (100, 10_000),
        (100, 11_000),
        (220, 13_200),  # 2 for 1, and 1200 at 60
        (242, D("15972")),  # 6.6 a unit buys a tenth more at 66
        (222, 11_100),  # 20 sold at 50
    ]
    tx.execute("update feed set adjusted = true where feed = %s", [run.market.feed])
    assert benchmark(run, "A")[-1][0] == 100 + 20 - 20


def test_money_waits_for_the_benchmarks_first_bar(tx: Conn) -> None:
    closes = {"2024-01-02": 100, "2024-01-03": 100, "2024-01-04": 100}
    run = make(tx, closes, 1000)
    run.market.bars("LATE", {"2024-01-03 16:00": 8, "2024-01-04 16:00": 10})
    run.market.instrument("NEVER")
    tick_all_days(run, closes)
    assert benchmark(run, "LATE") == [(0, 1000), (125, 1000), (125, 1250)]
    found = report(tx, run.key, benchmark="LATE")
    assert found.benchmark_since == at("2024-01-03 16:00")
    page = Page(make_page(tx, run.key, benchmark="LATE"))
    assert "LATE has a price from 2024-01-03 on" in page.text
    assert "LATE, bought and held from 2024-01-03" in [s["n"] for s in page.data["equity"]["s"]]
    (section,) = [s for s in terminal.sections(found) if s.title == "Performance"]
    assert "a price from 2024-01-03 on, cash before" in section.rows[-1][2]
    assert report(tx, run.key, benchmark="A").benchmark_since is None
    with refused(tx, "TE202"):
        benchmark(run, "NEVER")
    with refused(tx, "TE201"):
        benchmark(run, "UNHEARD OF")


def test_one_symbol_is_its_own_benchmark(tx: Conn) -> None:
    closes = {"2024-01-02": 100, "2024-01-03": 120}
    run = make(tx, closes, 1000)
    run.place("A", "BUY", 1)
    assert report(tx, run.key).benchmark is None
    tick_all_days(run, closes)
    found = report(tx, run.key)
    assert (found.benchmark, found.curve.benchmark) == ("A", [1000, 1200])
    run.market.bars("B", {"2024-01-03 16:00": 5})
    run.place("B", "BUY", 1)
    run.market.bars("B", {"2024-01-04 16:00": 5})
    run.tick("2024-01-04 16:00")
    assert report(tx, run.key).benchmark is None
    assert report(tx, run.key, benchmark="B").curve.benchmark == [1000, 1000, 1000]


# --- who reads, and how ---


@pytest.mark.parametrize("name", VIEWS)
def test_views_say_what_they_are_and_ask_as_the_caller(tx: Conn, name: str) -> None:
    assert "One row" in val(tx, "select obj_description(%s::regclass)", name)
    assert val(tx, "select 'security_invoker=true' = any (reloptions) from pg_class where oid = %s::regclass", name)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_asked_for_one_run_reads_that_run_alone(tx: Conn, name: str) -> None:
    """The key goes down to every table, whatever stands above it."""
    run = make(tx, {"2024-01-02": 100}, 1000)
    tx.execute("set local enable_seqscan = off")
    plan = "\n".join(
        line
        for (line,) in rows(
            tx, f"explain (costs off) select * from {name} where user_id = %s and run_id = %s", *run.key
        )
    )
    scans = re.findall(r"Scan (?:using \w+ )?on (\w+)[^\n]*\n((?:\s+(?!->)[^\n]*\n?)*)", plan + "\n")
    tables = [(table, more) for table, more in scans if not table.startswith(("report_", "drawdowns"))]
    assert any(t in ("strategy_run", "trade_fee", "paper_order", "sip_plan", "rebalance_plan") for t, _ in tables), plan
    for table, more in tables:
        assert "user_id" in more, (table, plan)
        assert "run_id" in more, (table, plan)


def test_a_person_sees_the_own_rows_in_every_view(db: Conn, connect: Callable[..., Conn]) -> None:
    superuser_only(db, "it may not create roles")
    closes = {"2024-01-02": 100, "2024-02-01": 120, "2024-02-02": 90}
    mine, other = (make(db, closes, 1000, symbol="A", fee_schedule="US_PER_SHARE") for _ in range(2))
    for run in (mine, other):
        run.sip("A", 200, "MONTHLY", "2024-01-02")
        run.rebalance('{"A": 0.1}', "MONTHLY", "2030-01-01")
        run.place("A", "BUY", 1_000_000)
        tick_all_days(run, closes)
    role = f"{db.info.dbname}_reader"
    db.execute(f'create role "{role}" login in role papertick_user')
    try:
        db.execute("select map_login(%s, %s)", [role, mine.user_id])
        person = connect()
        person.execute(f'set session authorization "{role}"')
        for name in VIEWS:
            assert {u for (u,) in rows(person, f"select distinct user_id from {name}")} == {mine.user_id}, name
            assert len({u for (u,) in rows(db, f"select distinct user_id from {name}")}) == 2, name
        assert val(person, "select run_report(%s, %s) ->> 'digest'", *mine.key)
        ids = [mine.user_id, other.user_id], [mine.run_id, other.run_id]
        for query, args in (
            ("select run_report(%s, %s)", other.key),
            ("select run_comparison(%s, %s)", ids),
            ("select * from report_price(%s, %s, 'A')", other.key),
        ):
            with pytest.raises(psycopg.Error) as caught:
                person.execute(query, args)
            assert caught.value.sqlstate == "TE204", query
        person.close()
    finally:
        db.execute(f'drop owned by "{role}"; drop role "{role}"')


def test_what_is_asked_wrongly_is_refused(tx: Conn) -> None:
    run = make(tx, {"2024-01-02": 100}, 1000)
    for query, args in (
        ("select run_report(%s, %s, null, 1)", run.key),
        ("select report_growth(%s, %s, 'decade')", run.key),
        ("select run_comparison(array[%s::bigint], array[%s::bigint, 2])", run.key),
        ("select run_comparison('{}', '{}')", ()),
    ):
        with refused(tx, "TE101"):
            tx.execute(query, args)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    values=st.one_of(
        st.just([]),
        st.lists(st.integers(-500, 500), min_size=30, max_size=80),
        st.lists(st.one_of(st.none(), st.integers(-50, 50)), max_size=40),
    ),
    points=st.integers(2, 6),
)
def test_thinning_keeps_ends_and_extremes(tx: Conn, values: list[int | None], points: int) -> None:
    kept = val(tx, "select engine.thinned(%s::numeric[], %s)", values, points)
    assert kept == sorted(set(kept))
    if not values:
        assert kept == []
        return
    assert kept[0] == 1
    assert kept[-1] == len(values)
    assert len(kept) <= max(2 * points + 2, 2)
    known = [v for v in values if v is not None]
    if known:
        shown = [values[n - 1] for n in kept]
        assert min(known) in shown
        assert max(known) in shown


# --- the page ---


def rounded(value: Decimal, places: int) -> str:
    return f"{value.quantize(D(1).scaleb(-places), ROUND_HALF_UP):,f}".replace("-", "\N{MINUS SIGN}")


def busy_run(tx: Conn) -> Run:
    dates = days("2024-01-01", "2024-06-28")
    market = Market(tx)
    for symbol, base in (("A", 100), ("B", 40)):
        market.bars(symbol, {f"{d} 16:00": round(D(base) + n * 7 % 23, 2) for n, d in enumerate(dates)})
    run = Run(market, 100_000, name="busy", fee_schedule="US_PER_SHARE")
    run.sip("A", "1234.56", "MONTHLY", "2024-01-01")
    run.rebalance('{"A": 0.3, "B": 0.3}', "MONTHLY", "2024-01-10")
    run.place("A", "SELL", 5)
    for day in dates:
        run.tick(f"{day} 16:00")
    return run


def test_numbers_on_the_page_are_those_of_performance(tx: Conn) -> None:
    run = busy_run(tx)
    page = Page(make_page(tx, run.key))
    table = {row[0][0]: row[1] for row in page.tables["Performance"]}
    found = rows(tx, "select metric, value from performance(%s, %s)", *run.key)
    assert len(found) == len(table) - 1  # the head
    for name, value in found:
        kind = words.METRICS[name].kind
        shown, title = table[words.METRICS[name].label]
        if value is None:
            assert shown == words.NONE
            continue
        if kind == "share":
            assert shown == rounded(100 * value, 2) + " %", name
        elif kind == "count":
            assert shown == f"{value:,f}"
        else:
            assert shown == rounded(value, 2), name
        if title is not None:
            assert D(title) == value
        else:
            assert D(shown.replace(",", "").replace("\N{MINUS SIGN}", "-")) == value
    for tile, name in (
        ("Equity", "equity"),
        ("Invested capital", "funded"),
        ("TWR", "twr"),
        ("XIRR", "xirr"),
        ("Max drawdown", "max_drawdown"),
        ("Sharpe", "sharpe"),
        ("Volatility", "volatility"),
    ):
        assert page.tiles[tile][0] == table[words.METRICS[name].label][0]
    assert D(page.tiles["Gain"][1] or "") == dict(found)["equity"] - dict(found)["funded"]


def test_tables_and_charts_are_those_of_the_views(tx: Conn) -> None:
    run = busy_run(tx)
    page = Page(make_page(tx, run.key))
    months = [[t for t, _ in row] for row in page.tables["Monthly returns"]]
    assert months[1][:7] == [
        "2024",
        *(rounded(100 * t, 1) for (t,) in view(run, "report_monthly_return", "twr", "month")),
    ]
    assert months[1][-1] == rounded(100 * view(run, "report_yearly_return", "twr", "year")[0][0], 1)
    fees = {row[0][0]: row[2][0] for row in page.tables["Fees by kind"][1:]}
    assert fees.pop("Together") == rounded(metric(run, "fees"), 2)
    assert fees == {kind: rounded(amount, 2) for kind, amount in view(run, "report_fee", "kind, amount", "kind")}
    assert [row[0][0] for row in page.tables["Rejections by reason"][1:]] == ["POSITION_INSUFFICIENT"]
    assert len(page.tables["Fills"]) == run.count("paper_trade") + 1
    assert val(tx, "select run_digest(%s, %s)", *run.key) in page.text
    assert "Violations: 0." in page.text
    _, series = page.points("equity")
    assert series["Equity"] == [f"{e:.2f}" for (e,) in view(run, "report_equity", "equity", "logical_time")]
    xs, _ = page.points("drawdown")
    assert (xs[0], xs[-1], xs == sorted(xs)) == (0, 2000, True)
    assert {"equity", "drawdown", "allocation", "price-1", "price-2"} == set(page.data)
    prices = [page.points(key)[1] for key in ("price-1", "price-2")]
    (price,) = [p for p in prices if "SIP instalment" in p]
    assert sum(t != "" for t in price["SIP instalment"]) == len(view(run, "report_instalment", "1", "trade_id"))


def test_labels_stand_on_their_lines_and_dots_on_top(tx: Conn) -> None:
    source = make_page(tx, busy_run(tx).key)
    figures = re.findall(r'<figure class="chart".*?</figure>', source)
    assert len(figures) == 5
    for figure in figures:
        labels = {D(y) - 4 for y in re.findall(r'<text x="\d+" y="([\d.]+)"', figure)}
        lines = {
            D(y)
            for part in re.findall(r'<path class="(?:grid|base)" d="(.*?)"', figure)
            for y in re.findall(r"M0 ([\d.]+)", part)
        }
        assert labels == lines
    (mixed,) = [f for f in figures if "k-equity" in f and "k-buy" in f]
    assert re.findall(r'<path class="(dot|square|hole) ', mixed)[-1] == "dot"


def test_many_fills_are_folded(tx: Conn) -> None:
    run = busy_run(tx)
    page = Page(make_page(tx, run.key))
    assert run.count("paper_trade") < 20
    assert [a for t, a in page.tags if t == "details"] == [{"open": None}]
    for _ in range(20):
        run.place("A", "BUY", 1)
    run.market.bars("A", {"2024-07-01 16:00": 100})
    run.tick("2024-07-01 16:00")
    page = Page(make_page(tx, run.key))
    assert [a for t, a in page.tags if t == "details"] == [{}]
    assert len(page.tables["Fills"]) == run.count("paper_trade") + 1


def test_its_policy_lets_its_own_style_and_script_in_and_nothing_else(tx: Conn) -> None:
    page = Page(make_page(tx, busy_run(tx).key))
    assert [a["content"] for t, a in page.tags if a.get("http-equiv")] == [policy()]
    assert policy().startswith("default-src 'none'")
    for text in (page.raw["style"][0], page.raw["script"][1]):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy()
    assert page.count("script") == 2
    assert not [a for _, given in page.tags for a in given if a == "style" or a.startswith("on")]
    assert not re.search(r"https?://(?!www\.w3\.org)", page.source)


EVIL = '<script>alert("1")</script>'


def test_names_are_names(tx: Conn) -> None:
    """Of runs, users, symbols, feeds: none is markup, and an emoji is an emoji."""
    market = Market(tx)
    symbols = [EVIL, "\"'><img src=x onerror=alert(1)>", "]]></script>🚀 & Söhne\u2028"]
    for symbol in symbols:
        market.bars(symbol, {"2024-01-02 16:00": 10, "2024-01-03 16:00": 11})
    run = Run(market, 1000, name=f"🚀 {EVIL}")
    tx.execute("update app_user set name = %s where user_id = %s", [EVIL, run.user_id])
    for symbol in symbols:
        run.place(symbol, "BUY", 1)
        run.place(symbol, "SELL", 50)
    for day in ("2024-01-02", "2024-01-03"):
        run.tick(f"{day} 16:00")
    other = Run(market, 1000, name="</title>")
    other.tick("2024-01-03 16:00")
    page = Page(make_page(tx, run.key, other.key, benchmark=EVIL))
    assert (page.count("script"), page.count("img"), page.count("title")) == (2, 0, 1 + len(page.data))
    assert f"🚀 {EVIL}" in page.words
    assert {row[0][0] for row in page.tables["Performance by symbol"][1:]} == set(symbols)
    assert page.data["price-1"]["s"]
    assert "alert" in page.data["equity"]["s"][1]["n"]


def test_the_same_run_is_the_same_page(dsn: str, db: Conn) -> None:
    """Whatever the process, its time zone, its language or its hash seed."""
    run = busy_run(db)
    pages = set()
    for seed, zone in (("1", "UTC"), ("2", "Asia/Kolkata")):
        env = {**os.environ, "DB_DSN": dsn, "PYTHONHASHSEED": seed, "TZ": zone, "PGTZ": zone, "LC_ALL": "C.UTF-8"}
        command = [sys.executable, "-m", "engine_py", "report", str(run.run_id), "--html", "-"]
        done = subprocess.run(command, env=env, capture_output=True, check=True, timeout=60)
        pages.add(done.stdout)
    assert pages == {make_page(db, run.key).encode()}


def long_run(conn: Conn, bars: int = 8300) -> Run:
    """Thirty-three years of weekdays, and a monthly SIP."""
    market = Market(conn, symbols=["A"])
    conn.execute(
        "insert into price_bar (feed, symbol, logical_time, open, high, low, close) select %s, 'A', d.at, p.v, p.v, p.v, p.v"
        " from (select n, timestamptz '1990-01-01 16:00Z' + (n / 5) * interval '7 days' + (n %% 5) * interval '1 day' as at"
        " from generate_series(0, %s) n) d cross join lateral (select round((100 * exp(0.0003 * d.n) * (1 + 0.2 * sin(d.n / 90.0)"
        " + 0.05 * sin(d.n * 1.7)))::numeric, 2) as v) p",
        [market.feed, bars - 1],
    )
    run = Run(market, 500_000)
    run.sip("A", 1000, "MONTHLY", "1990-01-01")
    conn.execute("call replay(%s, %s, '1990-01-01', '2030-01-01')", run.key)
    return run


def test_thirty_three_years_are_a_small_page_without_a_lost_extreme(db: Conn) -> None:
    run = long_run(db)
    text = make_page(db, run.key)
    assert len(text.encode()) <= BAR
    page = Page(text)
    assert "8,300 marks" in page.text
    _, drawdown = page.points("drawdown")
    (shown,) = drawdown.values()
    assert min(map(D, shown)) == round(100 * metric(run, "max_drawdown"), 2)
    _, equity = page.points("equity")
    assert D(equity["Equity"][-1]) == metric(run, "equity")
    assert max(map(D, equity["Equity"])) == val(
        db, "select max(equity) from paper_equity_curve where run_id = %s", run.run_id
    )
    instalments = val(db, "select count(*) from paper_trade where run_id = %s", run.run_id)
    assert f"of {instalments:,} fills are left out here" in page.text
    _, price = page.points("price-1")
    assert sum(t != "" for t in price["SIP instalment"]) == instalments


def test_many_symbols_are_still_a_small_page(db: Conn) -> None:
    market = Market(db)
    dates = days("2024-01-01", "2024-06-28")
    symbols = [f"S{n:02}" for n in range(20)]
    for k, symbol in enumerate(symbols):
        market.bars(symbol, {f"{d} 16:00": 50 + (n * (k + 3)) % 17 for n, d in enumerate(dates)})
    run = Run(market, 1_000_000)
    for symbol in symbols:
        run.sip(symbol, 500, "WEEKLY", "2024-01-01")
    db.execute("call replay(%s, %s, '2024-01-01', '2024-07-01')", run.key)
    text = make_page(db, run.key)
    assert len(text.encode()) <= BAR
    page = Page(text)
    assert "The run traded 20 symbols; these 12" in page.text
    assert "12 others" in [s["n"] for s in page.data["allocation"]["s"]]
    _, shares = page.points("allocation")
    assert abs(sum(D(texts[-1]) for texts in shares.values()) - 100) < D("0.1")


# --- runs at the edge ---


def never_ticked(tx: Conn) -> Run:
    return make(tx, {"2024-01-02": 100}, 1000)


def one_bar(tx: Conn) -> Run:
    run = make(tx, {"2024-01-02": 100}, 1000)
    run.tick("2024-01-02 16:00")
    return run


def no_money(tx: Conn) -> Run:
    closes = {"2024-01-02": 100, "2024-01-03": 100}
    run = make(tx, closes, 0)
    tick_all_days(run, closes)
    return run


def minutes(tx: Conn) -> Run:
    market = Market(tx)
    times = [datetime(2024, 1, 2, 14, 30, tzinfo=UTC) + timedelta(minutes=n) for n in range(120)]
    market.bars("A", {t: 100 + n % 9 for n, t in enumerate(times)})
    run = Run(market, 1000)
    run.place("A", "BUY", 3)
    for t in times:
        run.tick(t)
    return run


def margin(tx: Conn) -> Run:
    closes = {f"2024-01-{day:02}": 100 + day for day in range(2, 12)}
    run = make(tx, closes, 1000, initial_margin="0.5", maintenance_margin="0.3", margin_rate="0.05", borrow_rate="0.05")
    run.market.bars("B", {f"{d} 16:00": 50 for d in closes})
    run.tick("2024-01-02 16:00")
    run.place("A", "SELL", 2)
    run.place("B", "BUY", 35)
    tick_all_days(run, closes)
    return run


def huge(tx: Conn) -> Run:
    closes = {"2024-01-02": "0.00000123", "2024-01-03": "0.00000456"}
    run = make(tx, closes, 900_000_000_000, currency="JPY")
    run.place("A", "BUY", 1_000_000)
    tick_all_days(run, closes)
    return run


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (never_ticked, ["has not ticked yet", "There is nothing to draw", "the run has never ticked"]),
        (one_bar, [" 1 mark ", "less than a day", "nothing was sold"]),
        (no_money, ["equity fell to nothing or below"]),
        (minutes, ["2024-01-02 14:30 to 2024-01-02 16:29"]),
        (margin, ["Lines, not areas", "Margin interest", "Borrowing shares"]),
        (huge, ["900,000,000,000", "JPY"]),
    ],
)  # fmt: skip
def test_every_run_has_a_page(tx: Conn, build: Callable[[Conn], Run], said: list[str]) -> None:
    run = build(tx)
    page = Page(make_page(tx, run.key))
    for text in said:
        assert text in page.text, text
    for _, attributes in page.tags:
        d = attributes.get("d")
        assert d is None or not re.search("nan|inf|None|e-", d), d
    other = one_bar(tx)
    Page(make_page(tx, run.key, other.key))
    Page(make_page(tx, other.key, run.key))


def test_runs_are_compared_from_where_they_have_begun(tx: Conn) -> None:
    closes = {"2024-01-02": 100, "2024-01-03": 200, "2024-01-04": 400, "2024-01-05": 200}
    early = make(tx, closes, 1000, name="early")
    early.place("A", "BUY", 10)
    tick_all_days(early, closes)
    late = Run(early.market, 500, name="late")
    late.place("A", "BUY", "2.5")
    for day in list(closes)[1:]:
        if day == "2024-01-04":
            deposit(late, late.market.at("2024-01-04 12:00"), 1000)
        late.tick(f"{day} 16:00")
    found = report(tx, early.key, late.key)
    assert found.since == at("2024-01-03 16:00")
    assert [c.run["name"] for c in found.compared] == ["early", "late"]
    assert found.compared[0].index[0] == found.compared[1].index[0] == 100
    assert [round(i, 4) for i in found.compared[0].index] == [100, 200, 100]
    # 500 grew to 1000 while 1000 more came in, then 2000 fell to 1500
    assert [round(i, 4) for i in found.compared[1].index] == [100, 200, 150]
    page = Page(make_page(tx, early.key, late.key))
    assert [t for t, _ in page.tables["Runs compared"][0]] == [
        "Metric",
        f"early ({early.user_id}/{early.run_id})",
        f"late ({late.user_id}/{late.run_id})",
    ]


# --- words and axes ---


@pytest.mark.parametrize(
    ("value", "places", "text"),
    [
        ("0.005", 2, "0.01"),
        ("-0.005", 2, "−0.01"),  # noqa: RUF001
        ("-0.001", 2, "0.00"),
        ("1234567.5", 0, "1,234,568"),
        ("12345678901234567890.12", 2, "12,345,678,901,234,567,890.12"),
    ],
)
def test_numbers_are_rounded_away_from_zero_and_grouped(value: str, places: int, text: str) -> None:
    assert words.fixed(D(value), places) == text


@given(st.floats(-1e12, 1e12), st.floats(1e-6, 1e12))
def test_ticks_are_few_different_and_inside(low: float, span: float) -> None:
    high = low + max(span, abs(low) * 1e-6)
    ticks = axis.number_ticks(low, high, 6)
    assert 1 <= len(ticks) <= 8
    assert all(low - 1e-6 * (high - low) <= t.at <= high + 1e-6 * (high - low) for t in ticks)
    assert len({t.label for t in ticks}) == len(ticks)


@given(st.integers(0, 4_000_000_000), st.integers(1, 9_000_000_000))
def test_times_on_an_axis_are_few_and_different(start: int, seconds: int) -> None:
    first = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=start)
    last = first + timedelta(seconds=seconds)
    ticks = axis.time_ticks(first, last)
    assert len(ticks) <= 10
    assert all(first.timestamp() <= t.at <= last.timestamp() for t in ticks)
    if seconds > 6 * 86400:  # below, a clock time comes again every day
        assert len({t.label for t in ticks}) == len(ticks)


# --- the command and the route ---


def small_run(db: Conn, user_id: int | None = None) -> Run:
    closes = {"2024-01-02": 100, "2024-01-03": 120}
    run = make(db, closes, 1000, name="small")
    run.place("A", "BUY", 1)
    tick_all_days(run, closes)
    return run


def test_the_command_takes_runs_as_they_are_named(cli: Cli, db: Conn, tmp_path: Path) -> None:  # noqa: F811
    run, other = small_run(db), small_run(db)
    named = [[run.run_id], [f"{run.user_id}/{run.run_id}"], [run.user_id, run.run_id]]
    outputs = [cli("report", *names).stdout for names in named]
    assert len(set(outputs)) == 1
    assert "1,020.00" in outputs[0]
    assert "▁" in outputs[0]
    document = cli.json("report", *named[0], "--compare", other.run_id, f"{run.user_id}/{run.run_id}")
    assert document["report"]["performance"]["equity"] == "1020"
    assert [r["run"]["run_id"] for r in document["comparison"]["runs"]] == [run.run_id, other.run_id]
    path = tmp_path / "page.html"
    path.write_text("old")
    said = cli("report", run.run_id, "--html", path, "--benchmark", "A").stdout
    assert path.read_text(encoding="utf-8") == cli("report", run.run_id, "--html", "-").stdout
    assert f"{path.stat().st_size:,} bytes" in said
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_what_cannot_be_reported_is_refused(cli: Cli, db: Conn, tmp_path: Path) -> None:  # noqa: F811
    run = small_run(db)
    assert cli.error("report", 999_999)["code"] == "TE204"
    assert cli.error("report", f"999999/{run.run_id}")["code"] == "TE204"
    assert cli.error("report", run.run_id, "--benchmark", "UNHEARD")["code"] == "TE201"
    for words_ in (["x"], ["1", "2", "3"], ["1/2", "3"], ["--compare", "1"], [str(2**63)]):
        cli.error("report", *words_, code=2)
    cli.error("report", run.run_id, "--html", tmp_path / "no" / "page.html", code=2)
    # the same number under another user: imported, or chosen by hand
    db.execute(
        "insert into app_user (user_id) overriding system value values (777);"
        "insert into strategy_run (user_id, run_id, status) overriding system value select 777, run_id, 'STOPPED' from strategy_run"
    )
    error = cli.error("report", run.run_id, code=2)
    assert f"{run.user_id}/{run.run_id}, 777/{run.run_id}" in error["hint"]


def test_without_rich_the_tables_are_plain(cli: Cli, db: Conn, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    run = small_run(db)
    rich = cli("report", run.run_id).stdout
    monkeypatch.setattr(terminal, "find_spec", lambda name: None)
    plain = cli.env and cli_output(cli, run)
    numbers = set(re.findall(r"[\d.,]*\d", rich))
    assert numbers == set(re.findall(r"[\d.,]*\d", plain))
    assert "─" not in plain


def test_the_terminal_says_whose_run_from_when_and_fits_it(tx: Conn, capsys: pytest.CaptureFixture[str]) -> None:
    closes = {
        f"{year}-{month:02}-28": 100 + (month * 37 + year) % 61 for year in (2022, 2023) for month in range(1, 13)
    }
    run = make(tx, closes, 5000, name="wild")
    tx.execute("update app_user set name = 'Ann' where user_id = %s", [run.user_id])
    run.place("A", "BUY", 30)
    tick_all_days(run, closes)
    terminal.show(report(tx, run.key))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"wild (Ann, user {run.user_id}, run {run.run_id})")
    spark = next(n for n, line in enumerate(lines) if line.startswith("equity"))
    assert re.fullmatch(r" {8}2022-01-28 +2023-12-28", lines[spark + 1])
    assert len(lines[spark + 1]) == len(lines[spark])
    values = view(run, "report_equity", "equity, logical_time::date", "equity, logical_time")
    low, high = values[0], next(v for v in values if v[0] == values[-1][0])
    assert lines[spark + 2].strip() == f"lowest {low[0]:,.2f} on {low[1]}, highest {high[0]:,.2f} on {high[1]}"
    months = next(n for n, line in enumerate(lines) if line.startswith("Monthly returns"))
    table = lines[months : months + 7]
    assert any("2023" in line for line in table)
    assert max(map(len, table)) <= 80


def cli_output(cli: Cli, run: Run) -> str:  # noqa: F811
    from click.testing import CliRunner

    from engine_py.cli import main

    result = CliRunner().invoke(main, ["report", str(run.run_id)], env=cli.env)
    assert "papertick[report]" in result.stderr
    return result.stdout


def test_the_api_answers_the_same_page(api: Door) -> None:
    ann, bob = api.client(), api.client()
    feed = api.feed((100, 120, 90))
    run = ann.start(feed=feed, name="first")
    for n in range(3):
        ann.tick(run, n)
    ann.ok("POST", f"/v1/runs/{run}/stop")
    other, foreign = ann.start(feed=feed, name="second"), bob.start(feed=feed)
    ann.tick(other, 1)
    path = f"/v1/runs/{run}/report"
    answer = ann.request("GET", path, params={"benchmark": "AAA", "compare": f"{other}"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["content-security-policy"] == policy()
    assert answer.text == make_page(api.conn, (ann.user_id, run), (ann.user_id, other), benchmark="AAA")
    assert Page(answer.text).tables["Runs compared"]
    ann.refused(404, "TE201", "GET", path, params={"benchmark": "UNHEARD"})
    ann.refused(404, "TE204", "GET", path, params={"compare": foreign})
    bob.refused(404, "TE204", "GET", path)
    ann.refused(422, "invalid", "GET", path, params={"compare": "1,x"})
