"""The numbers people ask for, against pyxirr and empyrical on random flows and curves; small ones by hand; why one is NULL."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import empyrical
import numpy as np
import pandas as pd
import pytest
import pyxirr
from desk import Conn, D, Market, Run, at, rows, val, weekday_market
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_performance import START, close, metrics, reference, roots, walk
from test_schema import rebuild

DAY = timedelta(days=1)
HYPOTHESIS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
REASONS = {
    *("NO_MARK", "NO_FLOW", "NOT_FUNDED", "ONE_DIRECTION_ONLY", "NO_ROOT", "SEVERAL_ROOTS", "RATE_OUT_OF_RANGE"),
    *("SHORT_SPAN", "TOO_FEW_PERIODS", "EQUITY_NOT_POSITIVE", "NO_VARIATION", "NO_DOWNSIDE", "NO_DRAWDOWN"),
    *("NO_SALE", "NO_POSITION", "UNITS_NOT_FROM_TRADES", "TRADED_SINCE_MARK"),
}


def reasons(run: Run) -> dict[str, str]:
    return dict(rows(run.conn, "select metric, reason from performance_reasons(%s, %s)", *run.key))


def both(run: Run) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and reasons; each metric has exactly one of them."""
    got, why = metrics(run), reasons(run)
    assert {m for m, v in got.items() if v is None} == set(why)
    assert set(why.values()) <= REASONS
    return got, why


def falls(run: Run) -> list[Any]:
    return rows(run.conn, "select * from drawdowns(%s, %s)", *run.key)


def by_symbol(run: Run) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for symbol, metric, value in rows(run.conn, "select * from performance_by_symbol(%s, %s)", *run.key):
        found.setdefault(symbol, {})[metric] = value
    return found


def measure(conn: Conn, flows: Sequence[tuple[float, Any]]) -> Any:
    return rows(
        conn,
        "select (m).value, (m).reason from engine.xirr_measure(%s::timestamptz[], %s::numeric[]) m",
        [START + timedelta(days=d) for d, _ in flows],
        [D(str(a)) for _, a in flows],
    )[0]


def raw_curve(
    conn: Conn, marks: Mapping[datetime, Any], flows: Sequence[tuple[datetime | None, Any]] | None = None
) -> Run:
    """A run whose marks (time → equity, or (equity, market value)) and external flows are raw rows; opened with the first mark."""
    marks = {t: m if isinstance(m, tuple) else (m, 0) for t, m in marks.items()}
    run = Run.__new__(Run)
    run.conn, run.market = conn, Market(conn)
    run.user_id = val(conn, "select create_user('raw')")
    run.run_id = val(
        conn,
        "insert into strategy_run (user_id, feed, status) values (%s, %s, 'RUNNING') returning run_id",
        run.user_id,
        run.market.feed,
    )
    if flows is None:
        flows = [(None, next(iter(marks.values()))[0])]
    for n, (t, amount) in enumerate(flows):
        flow(run, n + 1, t, amount, "DEPOSIT" if n else "OPENING")
    with conn.cursor() as cur:
        cur.executemany(
            "insert into paper_equity_curve (user_id, run_id, logical_time, cash, market_value, equity) values (%s, %s, %s, %s, %s, %s)",
            [(*run.key, t, D(str(e)) - D(str(v)), v, e) for t, (e, v) in marks.items()],
        )
    return run


def sessions(conn: Conn, *spans: tuple[str, str]) -> Market:
    """A market with these sessions, on dates that count from 2024-01-01."""
    market = Market(conn, [])
    with conn.cursor() as cur:
        cur.executemany(
            "insert into market_session values (%s, %s, %s, %s)",
            [(market.calendar, START.date() + i * DAY, at(since), at(to)) for i, (since, to) in enumerate(spans)],
        )
    return market


def flow(run: Run, entry_id: int, time: datetime | None, amount: Any, cause: str) -> None:
    run.conn.execute(
        "insert into cash_ledger (user_id, run_id, entry_id, logical_time, amount, cause) values (%s, %s, %s, %s, %s, %s)",
        [*run.key, entry_id, time, amount, cause],
    )


def returns_of(equities: Sequence[float], deposits: Mapping[int, float]) -> list[float]:
    return [(equities[i] - deposits.get(i, 0)) / equities[i - 1] - 1 for i in range(1, len(equities))]


def per_year(times: Sequence[datetime]) -> float:
    return (len(times) - 1) / ((times[-1] - times[0]) / timedelta(days=365))


def check_against_empyrical(got: Mapping[str, Any], times: Sequence[datetime], returns: Sequence[float]) -> None:
    series, year = pd.Series(returns, dtype=float), per_year(times)
    expected = {
        "volatility": empyrical.annual_volatility(series, annualization=year),
        "sharpe": empyrical.sharpe_ratio(series, annualization=year),
        "sortino": empyrical.sortino_ratio(series, annualization=year),
        "calmar": empyrical.calmar_ratio(series, annualization=year),
        "max_drawdown": empyrical.max_drawdown(series),
        "twr": empyrical.cum_returns_final(series),
        "cagr": empyrical.annual_return(series, annualization=year),
        "best_period": series.max(),
        "worst_period": series.min(),
    }
    # cagr is of twr as shown, to 8 decimals: what was rounded off there grows with the exponent, and calmar has it too
    years = (times[-1] - times[0]) / timedelta(days=365)
    off = 5e-9 * (1 + abs(float(got["cagr"] or 0))) / min(years, 1) / max(1e-9, 1 + float(got["twr"] or 0))
    margin = {"cagr": off, "calmar": off / abs(float(got["max_drawdown"] or 1))}
    for metric, value in expected.items():
        if got[metric] is None:
            assert not np.isfinite(value) or abs(value) > 1e10, (metric, value)
        else:
            abs_tol = 3e-8 + 2 * margin.get(metric, 0)
            assert math.isclose(float(got[metric]), float(value), rel_tol=1e-7, abs_tol=abs_tol), (
                metric,
                got[metric],
                value,
            )


# --- against empyrical -----------------------------------------------------------------------------------------------


@HYPOTHESIS
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(5_000, 20_000)), min_size=3, max_size=40),
    st.dictionaries(st.integers(1, 39), st.integers(-4_000, 9_000).filter(bool), max_size=4),
)
def test_a_curve_agrees_with_empyrical(tx: Conn, steps: list[tuple[int, int]], deposits: dict[int, int]) -> None:
    """Marks some days apart, deposits and withdrawals: the account neither earns nor loses by them."""
    times, t = [], START
    for gap, _ in steps:
        times.append(t)
        t += gap * DAY
    equities = [float(e) for _, e in steps]
    deposits = {i: a for i, a in deposits.items() if i < len(steps)}
    flows = [(None, equities[0]), *((times[i], a) for i, a in deposits.items())]
    if any(a >= equities[i] for i, a in deposits.items()):
        return
    run = raw_curve(tx, dict(zip(times, equities, strict=True)), flows)
    got, _ = both(run)
    check_against_empyrical(got, times, returns_of(equities, deposits))


@pytest.mark.parametrize("seed", range(3))
def test_a_run_of_the_engine_agrees_with_empyrical(tx: Conn, seed: int) -> None:
    run = walk(tx, seed + 10, 120, 1 + seed)
    curve = run.table("logical_time, equity", "paper_equity_curve", "logical_time")
    got, why = both(run)
    assert why.keys() <= {"xirr_invested"}
    check_against_empyrical(got, [t for t, _ in curve], returns_of([float(e) for _, e in curve], {}))


def test_marks_within_a_session_do_not_count(tx: Conn) -> None:
    """Session returns are the same whatever was marked during the session; its last mark counts."""
    rng = random.Random(3)
    ends = {START + i * DAY: 10_000 + rng.randrange(-900, 900) for i in range(30)}
    within = {t - timedelta(hours=h): rng.randrange(5_000, 20_000) for t in list(ends)[1:] for h in (1, 2, 5)}
    plain, dense = raw_curve(tx, ends), raw_curve(tx, ends | within)
    same = ("volatility", "sharpe", "sortino", "best_period", "worst_period", "twr", "cagr")
    assert [metrics(dense)[m] for m in same] == [metrics(plain)[m] for m in same]
    assert metrics(dense)["max_drawdown"] < metrics(plain)["max_drawdown"]  # falls are of every mark


def test_a_deposit_within_a_session_is_not_earned(tx: Conn) -> None:
    """100 → 110, then 50 in, 160 → 144: + 10 % and - 10 % in one session, which is - 1 %."""
    marks = {START: 100, START + DAY: 110, START + 1.2 * DAY: 160, START + 1.3 * DAY: 144, START + 2 * DAY: 144}
    run = raw_curve(tx, marks, [(None, 100), (START + 1.1 * DAY, 50)])
    got = metrics(run)
    assert (got["best_period"], got["worst_period"], got["twr"]) == (0, D("-0.01"), D("-0.01"))
    assert got["max_drawdown"] == D("-0.1")


def test_sessions_are_those_of_the_calendar(tx: Conn) -> None:
    """A night session holds two UTC days."""
    nights = sessions(tx, *((f"2024-01-0{d} 20:00", f"2024-01-0{d + 1} 04:00") for d in (1, 2, 3, 4)))
    prices = {
        "2024-01-01 23:00": 100,
        "2024-01-02 03:00": 90,
        "2024-01-02 23:00": 80,
        "2024-01-03 03:00": 99,
        "2024-01-04 03:00": 99,
    }
    nights.bars("A", prices)
    run = Run(nights, 1000)
    run.place("A", "BUY", 10)
    for t in prices:
        run.tick(t)
    got = metrics(run)  # 900 → 990 → 990
    assert (got["best_period"], got["worst_period"]) == (D("0.1"), 0)
    returns = pd.Series([0.1, 0.0])
    assert close(got["volatility"], empyrical.annual_volatility(returns, annualization=365))


def test_annualised_by_the_sessions_of_the_run(tx: Conn) -> None:
    """Weekdays: 262 a year, weekly marks: 52."""
    market = weekday_market(tx, "2023-01-02", "2023-12-29")
    closes = [
        t for (t,) in rows(tx, "select close_at from market_session where calendar = %s order by 1", market.calendar)
    ]
    rng = random.Random(4)
    market.bars("A", {t: D(str(round(100 * math.exp(rng.gauss(0, 0.1)), 2))) for t in closes})
    for step in (1, 5):
        run = Run(market, 10_000)
        run.place("A", "BUY", 50)
        for t in closes[::step]:
            run.tick(t)
        run.call("stop_run")
        curve = run.table("logical_time, equity", "paper_equity_curve", "logical_time")
        assert round(per_year([t for t, _ in curve])) == {1: 262, 5: 52}[step]
        check_against_empyrical(metrics(run), [t for t, _ in curve], returns_of([float(e) for _, e in curve], {}))


# --- falls -----------------------------------------------------------------------------------------------------------


def brute_falls(marks: Sequence[tuple[datetime, float]]) -> list[Any]:
    found, i = [], 0
    while i < len(marks):
        j = i + 1
        while j < len(marks) and marks[j][1] < marks[i][1]:
            j += 1
        if j > i + 1:
            trough = min(range(i + 1, j), key=lambda k: (marks[k][1], k))
            recovery = marks[j][0] if j < len(marks) else None
            found.append((marks[i][0], marks[trough][0], recovery, marks[trough][1] / marks[i][1] - 1))
        i = j
    return found


def test_falls_by_hand(tx: Conn) -> None:
    equities = [100, 110, 110, 99, 88, 88, 104, 110, 109, 120, 60, 90]
    times = [START + i * DAY for i in range(len(equities))]
    run = raw_curve(tx, dict(zip(times, equities, strict=True)))
    assert falls(run) == [
        (times[9], times[10], None, D("-0.5")),  # still under water
        (times[2], times[4], times[7], D("-0.2")),  # from the last mark at the high to the first at the bottom
        (times[7], times[8], times[9], D("-0.00909091")),
    ]
    assert metrics(run)["max_drawdown"] == D("-0.5")


@HYPOTHESIS
@given(st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_falls_found_again(tx: Conn, equities: list[int]) -> None:
    marks = [(START + i * DAY, float(e)) for i, e in enumerate(equities)]
    run = raw_curve(tx, dict(marks))
    expected = [(p, t, r, round(d, 8)) for p, t, r, d in brute_falls(marks)]
    found = falls(run)
    assert [(p, t, r, float(d)) for p, t, r, d in found] == sorted(expected, key=lambda f: (f[3], f[0]))
    assert metrics(run)["max_drawdown"] == (found[0][3] if found else 0)


def test_a_withdrawal_is_no_fall_and_a_deposit_hides_none(tx: Conn) -> None:
    marks = {START: 100, START + DAY: 50, START + 2 * DAY: 105, START + 3 * DAY: 210}
    run = raw_curve(tx, marks, [(None, 100), (START + DAY, -50), (START + 1.5 * DAY, 60), (START + 3 * DAY, 105)])
    got = metrics(run)  # 100 → 50 of 50, 45 of 50 before the 60, 105 of 105 before the 105
    assert (got["twr"], got["max_drawdown"], got["funded"]) == (D("-0.1"), D("-0.1"), 215)
    assert [(p, t, r) for p, t, r, _ in falls(run)] == [(START + DAY, START + 2 * DAY, None)]


def test_an_account_that_was_emptied_has_no_return_after(tx: Conn) -> None:
    marks = {START: 100, START + DAY: 0, START + 2 * DAY: 100}
    run = raw_curve(tx, marks, [(None, 100), (START + DAY, -100), (START + 2 * DAY, 100)])
    _, why = both(run)
    assert {
        why[m] for m in ("twr", "cagr", "max_drawdown", "calmar", "volatility", "sharpe", "sortino", "best_period")
    } == {"EQUITY_NOT_POSITIVE"}


# --- flows -----------------------------------------------------------------------------------------------------------


def test_what_is_external(tx: Conn) -> None:
    internal = ("TRADE", "DIVIDEND", "CASH_IN_LIEU", "BORROW_FEE", "MARGIN_INTEREST")
    for cause in internal:
        assert val(tx, "select engine.is_external(%s)", cause) is False
    for cause in ("OPENING", "DEPOSIT", "WITHDRAWAL", "dividend", ""):
        assert val(tx, "select engine.is_external(%s)", cause) is True


def held_for_a_year(conn: Conn) -> Run:
    """10 units bought at 100 of 2000, worth 110 after a year."""
    market = Market(conn)
    market.bars("A", {START: 100, START + 365 * DAY: 110})
    run = Run(market, 2000)
    run.place("A", "BUY", 10)
    run.tick(START)
    run.tick(START + 365 * DAY)
    return run


@pytest.mark.parametrize(
    ("cause", "amount", "expected"),
    [("DIVIDEND", 50, 0.15), ("CASH_IN_LIEU", 20, 0.12), ("BORROW_FEE", -30, 0.07), ("MARGIN_INTEREST", -10, 0.09)],
)
def test_cash_of_holdings_is_a_return_of_what_was_invested(tx: Conn, cause: str, amount: int, expected: float) -> None:
    run = held_for_a_year(tx)
    assert close(metrics(run)["xirr_invested"], 0.1)
    flow(run, 3, START + 365 * DAY, amount, cause)
    got = metrics(run)
    assert close(got["xirr_invested"], expected)
    assert (got["funded"], got["xirr"], got["twr"]) == (2000, D("0.05"), D("0.05"))  # the marks are as they were


def test_a_deposit_is_a_flow_of_the_account_alone(tx: Conn) -> None:
    run = held_for_a_year(tx)
    flow(run, 3, START + 365 * DAY, 100, "DEPOSIT")
    got = metrics(run)
    assert close(got["xirr_invested"], 0.1)
    assert (got["funded"], got["xirr"]) == (2100, 0)


# --- XIRR ------------------------------------------------------------------------------------------------------------


def polynomial(rates: Sequence[float]) -> list[tuple[float, Any]]:
    """Yearly flows that these rates and no others solve."""
    flows = [Decimal(1)]
    for rate in rates:
        growth = 1 + D(str(rate))
        flows = [a - growth * b for a, b in zip([*flows, D(0)], [D(0), *flows], strict=True)]
    return [(365 * i, -1000 * a) for i, a in enumerate(flows)]


def test_roots_closer_than_any_grid_are_told_apart(tx: Conn) -> None:
    assert measure(tx, polynomial([0.12, 0.14, 2])) == (None, "SEVERAL_ROOTS")  # a grid of 5 % saw only 200 %
    assert measure(tx, polynomial([0.12, 0.1201, 0.5])) == (None, "SEVERAL_ROOTS")
    assert measure(tx, polynomial([0.12, 0.12])) == (None, "SEVERAL_ROOTS")  # touches nought there
    assert (
        pyxirr.xirr(
            [START.date(), *((START + 365 * i * DAY).date() for i in (1, 2, 3))],
            [float(a) for _, a in polynomial([0.12, 0.14, 2])],
        )
        is not None
    )


def test_xirr_of_days_of_trading_agrees_with_pyxirr(tx: Conn) -> None:
    """In and out within days: a rate beyond 2,200,000 % a year is the answer if there is no other."""
    flows = [(0, -100), (1, 50), (2, -50), (3, 110)]
    assert close(measure(tx, flows)[0], reference(flows))
    rng = random.Random(5)
    answered = 0
    for _ in range(40):
        price, flows = 100.0, []
        for d in range(12):
            flows.append((d, round((-1 if d % 2 == 0 else 1) * rng.uniform(1, 5) * price, 2)))
            price *= 1 + rng.uniform(-0.02, 0.08)
        (got, reason), expected = measure(tx, flows), reference(flows)
        assert (got is None) == (reason is not None)
        if got is not None and expected is not None:
            if min(got, expected) > -0.9999 and max(got, expected) < 10_000:
                assert close(got, expected), flows
            answered += close(got, expected)
    assert answered > 10


@HYPOTHESIS
@given(
    st.lists(
        st.tuples(st.integers(0, 4000), st.integers(-1000, 1000).filter(bool)),
        min_size=2,
        max_size=8,
        unique_by=lambda f: f[0],
    )
)
def test_xirr_is_the_only_root_there_is(tx: Conn, flows: list[tuple[int, int]]) -> None:
    flows.sort()
    got, reason = measure(tx, flows)
    assert (got is None) == (reason is not None)
    if got is not None:
        scale = [abs(a) * (1 + float(got)) ** (-(d - flows[0][0]) / 365) if got > -1 else 0 for d, a in flows]
        if -0.9999 < got < 10_000:
            total = sum(math.copysign(s, a) for s, (_, a) in zip(scale, flows, strict=True))
            assert abs(total) <= 1e-4 * sum(scale)
            assert roots(flows) == 1
    elif reason == "NO_ROOT":
        assert roots(flows) == 0
        expected = reference(flows)
        assert expected is None or not -0.9999 < expected < 10_000


def test_a_trader_of_many_trades_has_one_rate(tx: Conn) -> None:
    """Turnover a thousand times the gain: bounds must be tight to tell."""
    rng = random.Random(6)
    flows = [(i, -1000 if i % 2 == 0 else round(1000 * (1 + rng.gauss(0.001, 0.01)), 2)) for i in range(600)]
    assert roots(flows) == 1
    assert close(measure(tx, flows)[0], reference(flows))


def test_xirr_gives_its_reason(tx: Conn) -> None:
    assert measure(tx, []) == (None, "NO_FLOW")
    assert measure(tx, [(0, 5), (0, -5)]) == (None, "NO_FLOW")
    assert measure(tx, [(0, -5), (9, -5)]) == (None, "ONE_DIRECTION_ONLY")
    assert measure(tx, [(0, -100), (365, 100), (730, -100)]) == (None, "NO_ROOT")
    assert measure(tx, [(0, -100), (365, 230), (730, -132)]) == (None, "SEVERAL_ROOTS")
    assert measure(tx, [(0, -100), (0.1, 200)]) == (None, "RATE_OUT_OF_RANGE")
    assert measure(tx, [(0, -100), (365, 110)]) == (D("0.10000000"), None)


# --- trades ----------------------------------------------------------------------------------------------------------


def test_sales_by_hand(tx: Conn) -> None:
    """Three sales of A: gain, loss, nothing; one of B with a gain. A sale at cost is no hit."""
    market = Market(tx)
    times = [START + i * DAY for i in range(6)]
    market.bars("A", dict(zip(times, (100, 120, 80, 100, 100, 130), strict=True)))
    market.bars("B", dict(zip(times, (10, 10, 10, 10, 11, 12), strict=True)))
    run = Run(market, 10_000)
    plan = [
        [("A", "BUY", 30), ("B", "BUY", 100)],
        [("A", "SELL", 10)],
        [("A", "SELL", 10)],
        [("A", "SELL", 5)],
        [("B", "SELL", 40)],
        [],
    ]
    for t, orders in zip(times, plan, strict=True):
        for order in orders:
            run.place(*order)
        run.tick(t)
    got, why = both(run)
    assert (got["hit_rate"], got["realized_pnl"], got["unrealized_pnl"]) == (D("0.5"), 40, 270)
    assert got["funded"] + got["realized_pnl"] + got["unrealized_pnl"] == got["equity"]
    symbols = by_symbol(run)
    assert list(symbols) == ["A", "B"]
    wanted = (
        "quantity",
        "cost_basis",
        "market_value",
        "realized_pnl",
        "unrealized_pnl",
        "bought",
        "sold",
        "fees",
        "trades",
    )
    assert [symbols["A"][m] for m in wanted] == [5, 500, 650, 0, 150, 3000, 2500, 0, 4]
    assert [symbols["B"][m] for m in wanted] == [60, 600, 720, 40, 120, 1000, 440, 0, 2]
    assert (symbols["A"]["hit_rate"], symbols["B"]["hit_rate"]) == (D("0.33333333"), 1)
    a = [(0, -3000), (1, 1200), (2, 800), (3, 500), (5, 650)]
    assert close(symbols["A"]["xirr"], reference(a))
    assert why == {}


def test_a_split_after_the_last_sale_takes_no_hit_rate_away(tx: Conn) -> None:
    """It moves units, and no trade comes after it that would show them."""
    market = Market(tx)
    market.bars("A", {"2024-01-02 16:00": 100, "2024-01-03 16:00": 110, "2024-01-04 16:00": 60})
    tx.execute(
        "insert into corporate_action (symbol, ex_date, action_type, ratio_numerator, ratio_denominator)"
        " values ('A', '2024-01-04', 'SPLIT', 2, 1)"
    )
    run = Run(market, 10_000)
    run.place("A", "BUY", 10)
    run.tick("2024-01-02 16:00")
    run.place("A", "SELL", 5)
    for day in ("2024-01-03", "2024-01-04"):
        run.tick(f"{day} 16:00")
    assert run.held("A") == 10
    got, why = both(run)
    assert (got["hit_rate"], "hit_rate" in why) == (1, False)


@pytest.mark.parametrize("seed", range(3))
def test_symbols_add_up_to_the_run(tx: Conn, seed: int) -> None:
    run = walk(tx, seed + 20, 40)
    got, symbols = metrics(run), by_symbol(run)
    added = ("market_value", "realized_pnl", "unrealized_pnl", "bought", "sold", "fees", "trades")
    assert {m: sum(s[m] for s in symbols.values()) for m in added} == {m: got[m] for m in added}
    positions = run.table("symbol, quantity, cost_basis, realized_pnl", "paper_position", 'symbol collate "C"')
    assert [(s, v["quantity"], v["cost_basis"], v["realized_pnl"]) for s, v in symbols.items()] == positions
    last = run.table("market_value, realized_pnl, unrealized_pnl", "mtm_ledger", "logical_time")[-1]
    assert (got["market_value"], got["realized_pnl"], got["unrealized_pnl"]) == last

    held, cost, sales, wins = dict.fromkeys("AB", D(0)), dict.fromkeys("AB", D(0)), 0, 0
    flows: dict[str, list[tuple[float, Any]]] = {"A": [], "B": []}
    for _, t, symbol, side, quantity, price in run.trades():
        value = round(quantity * price, 2)
        flows[symbol].append(((t - START) / DAY, value if side == "SELL" else -value))
        if side == "BUY":
            held[symbol], cost[symbol] = held[symbol] + quantity, cost[symbol] + value
        else:
            part = cost[symbol] * quantity / held[symbol]
            held[symbol], cost[symbol] = held[symbol] - quantity, cost[symbol] - part
            sales, wins = sales + 1, wins + (value > part)
    assert sales > 5
    assert close(got["hit_rate"], wins / sales)
    (end,) = run.table("max(logical_time)", "paper_equity_curve", "1")[0]
    for symbol, found in symbols.items():
        days = [*flows[symbol], ((end - START) / DAY, found["market_value"])]
        if roots(days) == 1:
            assert close(found["xirr"], reference(days))
        else:
            assert found["xirr"] is None


def test_exposure_and_turnover_by_hand(tx: Conn) -> None:
    """Half invested for 10 days, nothing for 20, all for 70; what the last mark holds has no time yet."""
    marks = {
        START: (1000, 500),
        START + 10 * DAY: (1000, 0),
        START + 30 * DAY: (500, 500),
        START + 100 * DAY: (1000, 0),
    }
    run = raw_curve(tx, marks)
    got = metrics(run)
    assert got["exposure"] == D("0.75")  # (5 + 0 + 70) / 100
    assert got["turnover"] == 0
    market = Market(tx)
    market.bars("A", {START: 100, START + 73 * DAY: 100, START + 146 * DAY: 100})
    run = Run(market, 1000)
    for side, quantity, t in (("BUY", 6, 0), ("SELL", 4, 73), ("BUY", 1, 146)):
        run.place("A", side, quantity)
        run.tick(START + t * DAY)
    got = metrics(run)
    assert (got["turnover"], got["exposure"]) == (1, D("0.4"))  # 400 of 1000 in 146 days; 600, then 200


# --- why there is none -----------------------------------------------------------------------------------------------

PERIODS = ("best_period", "worst_period", "volatility", "sharpe", "sortino")


def test_reasons_as_a_run_goes_on(tx: Conn) -> None:
    market = Market(tx)
    market.bars(
        "A", {START: 100, START + DAY / 24: 100, START + DAY: 110, START + 2 * DAY: 121, START + 3 * DAY: D("60.5")}
    )
    run = Run(market, 100)
    marked = (
        "cash",
        "market_value",
        "equity",
        "unrealized_pnl",
        "exposure",
        "turnover",
        "twr",
        "cagr",
        "max_drawdown",
        "calmar",
    )
    assert both(run)[1] == dict.fromkeys((*marked, *PERIODS, "xirr", "xirr_invested"), "NO_MARK") | {
        "hit_rate": "NO_SALE"
    }
    run.place("A", "BUY", 1)

    run.tick(START)
    one = {
        "hit_rate": "NO_SALE",
        "exposure": "SHORT_SPAN",
        "turnover": "SHORT_SPAN",
        "cagr": "SHORT_SPAN",
        "calmar": "SHORT_SPAN",
    }
    nothing = {"xirr": "NO_FLOW", "xirr_invested": "NO_FLOW"}  # in and out at one instant
    assert both(run)[1] == one | nothing | dict.fromkeys(PERIODS, "TOO_FEW_PERIODS")

    run.tick(START + DAY / 24)
    del one["exposure"]
    assert both(run)[1] == one | dict.fromkeys(PERIODS, "TOO_FEW_PERIODS")  # the same session

    run.tick(START + DAY)
    got, why = both(run)
    assert why == {"hit_rate": "NO_SALE", "calmar": "NO_DRAWDOWN"} | dict.fromkeys(PERIODS[2:], "TOO_FEW_PERIODS")
    assert got["best_period"] == got["worst_period"] == D("0.1")

    run.tick(START + 2 * DAY)
    assert both(run)[1] == {
        "hit_rate": "NO_SALE",
        "calmar": "NO_DRAWDOWN",
        "sortino": "NO_DOWNSIDE",
        "sharpe": "NO_VARIATION",
    }

    run.tick(START + 3 * DAY)
    assert both(run)[1] == {"hit_rate": "NO_SALE"}


def test_equal_returns_have_no_variation(tx: Conn) -> None:
    run = raw_curve(tx, {START + i * DAY: D(100) * D("1.1") ** i for i in range(5)})
    got, why = both(run)
    assert (got["volatility"], why["sharpe"], why["sortino"]) == (0, "NO_VARIATION", "NO_DOWNSIDE")


def test_two_sessions_within_a_day_say_nothing_of_a_year(tx: Conn) -> None:
    market = sessions(tx, *((f"2024-01-02 {h:02}:00", f"2024-01-02 {h + 4:02}:00") for h in (0, 6, 12)))
    market.bars("A", {"2024-01-02 04:00": 100, "2024-01-02 10:00": 110, "2024-01-02 16:00": 99})
    run = Run(market, 1000)
    run.place("A", "BUY", 1)
    for h in ("04", "10", "16"):
        run.tick(f"2024-01-02 {h}:00")
    _, why = both(run)
    assert {why[m] for m in ("volatility", "sharpe", "sortino", "cagr", "calmar", "turnover")} == {"SHORT_SPAN"}
    assert "best_period" not in why


def test_reasons_of_money(tx: Conn) -> None:
    poor = Run(Market(tx), 0)
    poor.tick(START)
    poor.tick(START + DAY)
    _, why = both(poor)
    assert (why["xirr"], why["twr"], why["max_drawdown"]) == ("NO_FLOW", "EQUITY_NOT_POSITIVE", "EQUITY_NOT_POSITIVE")
    unfunded = raw_curve(tx, {START: 100, START + DAY: 110}, [])
    got, why = both(unfunded)
    assert (why["funded"], why["twr"], why["cagr"], why["xirr"]) == (
        "NO_FLOW",
        "NOT_FUNDED",
        "NOT_FUNDED",
        "ONE_DIRECTION_ONLY",
    )
    assert got["best_period"] == D("0.1")
    broke = raw_curve(tx, {START: 100, START + DAY: 0, START + 2 * DAY: 0})
    got, why = both(broke)
    assert got["max_drawdown"] == -1
    assert {why[m] for m in ("twr", *PERIODS, "exposure")} == {"EQUITY_NOT_POSITIVE"}


def test_a_trade_since_the_mark_leaves_no_unrealized_gain(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {START: 100, START + DAY: 110, START + 2 * DAY: 120})
    run = Run(market, 1000)
    run.place("A", "BUY", 4)
    run.tick(START)
    run.tick(START + DAY)
    run.place("A", "SELL", 1)
    run.call("match_orders", logical_time=START + 2 * DAY)
    got, why = both(run)
    assert (got["realized_pnl"], why["unrealized_pnl"]) == (20, "TRADED_SINCE_MARK")
    assert [by_symbol(run)["A"][m] for m in ("quantity", "market_value", "unrealized_pnl")] == [3, 360, 60]


def test_units_that_no_trade_explains(tx: Conn) -> None:
    """As after a split, or by a raw row: what a sale realized is not known from the trades."""
    market = Market(tx)
    market.bars("A", {START + i * DAY: 100 for i in range(3)})
    run = Run(market, 1000)
    run.place("A", "BUY", 4)
    run.tick(START)
    tx.execute("update paper_position set quantity = 8 where user_id = %s and run_id = %s", run.key)
    assert both(run)[1]["hit_rate"] == "NO_SALE"
    for quantity, i in ((2, 1), (6, 2)):
        run.place("A", "SELL", quantity)
        run.tick(START + i * DAY)
        assert both(run)[1]["hit_rate"] == "UNITS_NOT_FROM_TRADES"
    assert by_symbol(run)["A"]["hit_rate"] is None


def test_raw_trades_without_a_position(tx: Conn) -> None:
    run = raw_curve(tx, {START: 100})
    key = "user_id, run_id, order_id, symbol, side, quantity"
    tx.execute(
        f"insert into paper_order ({key}, order_type, time_in_force, status) values (%s, %s, 1, 'A', 'SELL', 1, 'MARKET', 'GTC', 'FILLED')",
        run.key,
    )
    tx.execute(
        f"insert into paper_trade ({key}, trade_id, logical_time, price) values (%s, %s, 1, 'A', 'SELL', 1, 1, %s, 10)",
        [*run.key, START],
    )
    got, why = both(run)
    assert (why["realized_pnl"], why["unrealized_pnl"], why["hit_rate"]) == (
        "NO_POSITION",
        "NO_POSITION",
        "UNITS_NOT_FROM_TRADES",
    )
    assert (got["trades"], got["sold"]) == (1, 10)
    found = by_symbol(run)["A"]
    assert {m for m, v in found.items() if v is None} == {
        *("quantity", "cost_basis", "market_value", "realized_pnl", "unrealized_pnl", "hit_rate", "xirr")
    }


def test_trades_without_cash_have_no_known_gain_and_no_rate(tx: Conn) -> None:
    """Raw trades whose units agree with the position, but no cash entry says what they cost or brought."""
    run = raw_curve(tx, {START: 100, START + DAY: 100})
    key = "user_id, run_id, order_id, symbol, side, quantity"
    for n, (side, t) in enumerate((("BUY", START), ("SELL", START + DAY)), 1):
        tx.execute(
            f"insert into paper_order ({key}, order_type, time_in_force, status) values (%s, %s, %s, 'A', %s, 1, 'MARKET', 'GTC', 'FILLED')",
            [*run.key, n, side],
        )
        tx.execute(
            f"insert into paper_trade ({key}, trade_id, logical_time, price) values (%s, %s, %s, 'A', %s, 1, %s, %s, 10)",
            [*run.key, n, side, n, t],
        )
    tx.execute("insert into paper_position (user_id, run_id, symbol) values (%s, %s, 'A')", run.key)
    assert both(run)[1]["hit_rate"] == "UNITS_NOT_FROM_TRADES"
    tx.execute(
        "insert into cash_ledger (user_id, run_id, entry_id, logical_time, amount, cause, trade_id) values (%s, %s, 10, %s, -10, 'TRADE', 1)",
        [*run.key, START],
    )
    tx.execute("update paper_position set quantity = 1 where user_id = %s and run_id = %s", run.key)
    run.market.bars("A", {START + DAY: 11})
    found = by_symbol(run)["A"]
    assert (found["quantity"], found["market_value"], found["xirr"]) == (1, 11, None)  # of the sale nothing is known


def test_symbols_are_worth_what_was_known_at_the_last_mark(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {START: 100, START + DAY: 110, START + 2 * DAY: 500})
    run = Run(market, 1000)
    run.place("A", "BUY", 4)
    run.tick(START)
    run.tick(START + DAY)
    assert [by_symbol(run)["A"][m] for m in ("market_value", "unrealized_pnl")] == [440, 40]


@pytest.mark.parametrize("seed", range(2))
def test_each_metric_has_a_value_or_a_reason(tx: Conn, seed: int) -> None:
    run = walk(tx, seed + 30, 6)
    both(run)
    run.call("stop_run")
    got, _ = both(run)
    assert list(got) == [
        *("funded", "cash", "market_value", "equity", "bought", "sold", "fees", "trades"),
        *("realized_pnl", "unrealized_pnl", "hit_rate", "exposure", "turnover", "xirr", "xirr_invested"),
        *("twr", "cagr", "max_drawdown", "calmar", "best_period", "worst_period", "volatility", "sharpe", "sortino"),
    ]


def test_reports_go_on_after_a_rebuild_of_the_code(db: Conn) -> None:
    run = walk(db, 40, 8)
    reports = (metrics, reasons, falls, by_symbol)
    before = [[report(run) for report in reports] for _ in range(7)]  # a plan is kept from the sixth call on
    rebuild(db)
    assert [report(run) for report in reports] == before[0]
