"""performance(): XIRR against pyxirr, the rest against the equity curve computed again here; NULL where undefined."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import pyxirr
from desk import Conn, D, Market, Run, at, refused, rows, val

START = datetime(2024, 1, 1, 12, tzinfo=UTC)
Flow = tuple[float, Any]  # days since START, amount


def xirr(conn: Conn, flows: Sequence[Flow]) -> float | None:
    found = val(
        conn,
        "select engine.xirr(%s::timestamptz[], %s::numeric[])",
        [START + timedelta(days=d) for d, _ in flows],
        [D(str(a)) for _, a in flows],
    )
    return None if found is None else float(found)


def reference(flows: Sequence[Flow]) -> float | None:
    """pyxirr's answer; None where its iteration does not settle."""
    return pyxirr.xirr([(START + timedelta(days=d)).date() for d, _ in flows], [float(a) for _, a in flows])


def roots(flows: Sequence[Flow]) -> int:
    """How often the present value changes its sign between -99.99 % and 1,000,000 %, on a fine grid of ln(1 + r)."""
    first = min(d for d, _ in flows)
    grid = [math.log(0.0001) + i * (math.log(10001) - math.log(0.0001)) / 8_000 for i in range(8_001)]
    values = [sum(float(a) * math.exp(-g * (d - first) / 365) for d, a in flows) for g in grid]
    return sum((a > 0) != (b > 0) for a, b in pairwise(values))


def metrics(run: Run) -> dict[str, Any]:
    return dict(rows(run.conn, "select metric, value from performance(%s, %s)", *run.key))


def close(a: Any, b: Any) -> bool:
    return a is not None and math.isclose(float(a), float(b), rel_tol=1e-6, abs_tol=2e-8)


# --- engine.xirr -----------------------------------------------------------------------------------------------------


def test_xirr_of_investments_agrees_with_pyxirr(tx: Conn) -> None:
    """Money in first, money out later: one change of sign, one root."""
    rng = random.Random(1)
    compared = 0
    for n in [2, 2, 2, 3, 5, 8, 13, 40, 100, 400] * 8:
        days = sorted(rng.sample(range(20 * 365), n)) if n < 100 else sorted(rng.choices(range(3000), k=n))
        turn = rng.randrange(1, n)
        flows = [(d, round((-1 if i < turn else 1) * rng.uniform(0.01, 10_000), 2)) for i, d in enumerate(days)]
        if days[turn] == days[turn - 1]:
            continue
        rng.shuffle(flows)  # their order does not matter
        expected = reference(flows)
        if expected is not None and -0.999 < expected < 9_999:
            assert close(xirr(tx, flows), expected), flows
            compared += 1
    assert compared > 50


def test_xirr_of_a_borrower_is_the_same(tx: Conn) -> None:
    flows = [(0, -100), (100, -50), (300, 80), (900, 100)]
    assert xirr(tx, flows) == xirr(tx, [(d, -a) for d, a in flows])


def test_xirr_closed_forms(tx: Conn) -> None:
    assert close(xirr(tx, [(0, -100), (365, 110)]), 0.10)
    assert close(xirr(tx, [(0, -100), (365, 100)]), 0)
    assert close(xirr(tx, [(0, -100), (730, 121)]), 0.10)
    assert close(xirr(tx, [(0, -100), (365, 50)]), -0.5)
    assert close(xirr(tx, [(0, -100), (182.5, 110)]), 0.21)
    assert close(xirr(tx, [(0, -100), (0.5, 100.01)]), 1.0001**730 - 1)  # hours count
    assert close(xirr(tx, [(0, "-0.0001"), (365, "0.0002")]), 1)
    assert close(xirr(tx, [(0, -(10**11)), (365, 2 * 10**11)]), 1)
    assert close(xirr(tx, [(0, -100), (365, "0.02")]), -0.9998)


def test_flows_of_one_instant_and_zero_flows_do_not_matter(tx: Conn) -> None:
    plain = xirr(tx, [(0, -100), (200, -50), (365, 170)])
    assert plain == xirr(tx, [(0, -60), (365, 100), (0, -40), (200, 0), (200, -50), (365, 70), (100, 0)])
    assert plain == xirr(tx, [(-500, 0), (0, -100), (200, -50), (365, 170), (3000, 0)])
    assert plain == xirr(tx, [(-500, -7), (-500, 7), (0, -100), (200, -50), (365, 170)])


def test_xirr_is_null_where_undefined(tx: Conn) -> None:
    for flows in (
        [],
        [(0, 100)],
        [(0, 100), (365, 100)],
        [(0, -100), (365, -100)],
        [(0, -100), (0, 110)],
        [(0, 0), (365, 0)],
        [(0, -100), (365, 0)],
        [(0, -100), (0, 100), (365, 10)],
    ):
        assert xirr(tx, flows) is None, flows
    assert val(tx, "select engine.xirr(null, null)") is None
    assert val(tx, "select engine.xirr('{}', '{}')") is None


def test_xirr_is_never_a_guess_among_several_roots(tx: Conn) -> None:
    two = [(0, -100), (365, 230), (730, -132)]  # 10 % and 20 %
    three = [(0, -100), (365, 460), (730, -685), (1095, 330)]  # 10 %, 50 % and 100 %
    none = [(0, -100), (365, 100), (730, -100)]
    assert (roots(two), roots(three), roots(none)) == (2, 3, 0)
    assert [xirr(tx, flows) for flows in (two, none)] == [None, None]
    assert xirr(tx, three) is None


def test_xirr_with_many_changes_of_sign(tx: Conn) -> None:
    """A value is the one root there is; null only where there is no single one."""
    rng = random.Random(2)
    answered = 0
    for _ in range(60):
        n = rng.randrange(3, 9)
        flows = [(d, rng.choice((-1, 1)) * rng.randrange(1, 1000)) for d in sorted(rng.sample(range(3000), n))]
        got = xirr(tx, flows)
        if roots(flows) == 1:
            assert got is not None, flows
            answered += 1
            scale = sum(abs(a) * (1 + got) ** (-(d - flows[0][0]) / 365) for d, a in flows)
            assert abs(sum(a * (1 + got) ** (-(d - flows[0][0]) / 365) for d, a in flows)) < 1e-5 * scale, flows
        else:
            assert got is None, flows
    assert answered > 20


@pytest.mark.parametrize(("days", "growth"), [(1, 1.03), (7, 1.5), (1, 0.97), (2, 0.5), (30, 3)])
def test_xirr_of_short_spans_is_large_but_defined(tx: Conn, days: int, growth: float) -> None:
    got = xirr(tx, [(0, -1000), (days, 1000 * growth)])
    assert close(got, growth ** (365 / days) - 1)


@pytest.mark.parametrize("years", [50, 75, 80, 100, 399])
def test_xirr_of_a_long_history(tx: Conn, years: int) -> None:
    times = [datetime(1900, 1, 1, tzinfo=UTC), datetime(1900, 1, 1, tzinfo=UTC) + timedelta(days=365 * years)]
    got = val(tx, "select engine.xirr(%s::timestamptz[], %s::numeric[])", times, [D(-100), D(200)])
    assert close(got, 2 ** (1 / years) - 1)


# --- whole runs ------------------------------------------------------------------------------------------------------


def walk(conn: Conn, seed: int, n: int, every: int = 3) -> Run:
    """A run of n ticks, `every` days apart, on a random walk, with random orders."""
    rng = random.Random(seed)
    market = Market(conn)
    times = [START + timedelta(days=every * i) for i in range(n)]
    for symbol in "AB":
        price, bars = 100.0, {}
        for t in times:
            price *= math.exp(rng.gauss(0, 0.1))
            bars[t] = D(str(round(price, 2)))
        market.bars(symbol, bars)
    run = Run(market, 10_000)
    for t in times:
        for symbol in "AB":
            run.place(symbol, rng.choice(("BUY", "BUY", "SELL")), rng.randrange(1, 20))
        run.tick(t)
    return run


@pytest.mark.parametrize("seed", range(4))
def test_metrics_of_a_run_computed_again(tx: Conn, seed: int) -> None:
    run = walk(tx, seed, 25)
    curve = run.table("logical_time, equity, market_value, cash", "paper_equity_curve", "logical_time")
    first, last = curve[0][0], curve[-1][0]
    got = metrics(run)
    assert set(got) >= {
        *("funded", "cash", "market_value", "equity", "bought", "sold", "fees", "trades"),
        *("xirr", "xirr_invested", "twr", "cagr", "max_drawdown"),
    }
    assert [got[m] for m in ("funded", "equity", "market_value", "cash")] == [10_000, *curve[-1][1:]]
    trades = run.table("side, quantity, price, fees, logical_time", "paper_trade", "trade_id")
    assert got["trades"] == len(trades) > 10
    assert got["fees"] == sum(t[3] for t in trades) == 0
    for side, metric in (("BUY", "bought"), ("SELL", "sold")):
        assert got[metric] == sum(round(t[1] * t[2], 2) for t in trades if t[0] == side)

    years = (last - first) / timedelta(days=365)
    twr = float(curve[-1][1]) / 10_000 - 1
    assert close(got["twr"], twr)
    assert close(got["cagr"], (1 + twr) ** (1 / years) - 1)
    high, worst = 0.0, 0.0
    for _, equity, *_ in curve:
        high = max(high, float(equity))
        worst = min(worst, float(equity) / high - 1)
    assert worst < 0
    assert close(got["max_drawdown"], worst)

    assert close(got["xirr"], pyxirr.xirr([first.date(), last.date()], [-10_000.0, float(curve[-1][1])]))
    flows = [(t[4], float(t[1] * t[2]) * (-1 if t[0] == "BUY" else 1)) for t in trades]
    flows.append((last, float(curve[-1][2])))
    days: list[Flow] = [((t - START) / timedelta(days=1), round(a, 2)) for t, a in flows]
    if roots(days) == 1:
        assert close(got["xirr_invested"], reference(days))
    else:
        assert got["xirr_invested"] is None


def test_metrics_do_not_change_after_the_end_or_with_the_session(tx: Conn) -> None:
    run = walk(tx, 9, 10)
    before = metrics(run)
    tx.execute("set local time zone 'Asia/Tokyo'")
    tx.execute("set local datestyle = 'SQL, DMY'")
    run.call("stop_run")
    assert metrics(run) == before


def test_a_sip_of_a_year(tx: Conn) -> None:
    market = Market(tx)
    times = [at(f"2024-{m:02}-05 12:00") for m in range(1, 13)]
    prices = [100, 95, 105, 120, 90, 80, 85, 100, 110, 115, 125, 130]
    market.bars("A", dict(zip(times, prices, strict=True)))
    run = Run(market, 12_000)
    run.sip("A", 1000, "MONTHLY", "2024-01-05")
    for t in times:
        run.tick(t)
    got = metrics(run)
    flows = [(t.date(), -float(round(q * p, 2))) for _, t, _, _, q, p in run.trades()]
    flows.append((times[-1].date(), float(got["market_value"])))
    assert close(got["xirr_invested"], pyxirr.xirr([d for d, _ in flows], [a for _, a in flows]))
    assert got["trades"] == 12
    assert float(got["xirr_invested"]) > float(got["xirr"]) > 0


def test_undefined_metrics_are_null(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {START: 100, START + timedelta(hours=23): 110, START + timedelta(days=1): 110})
    nothing = dict.fromkeys(("xirr", "xirr_invested", "cagr"))
    run = Run(market, 1000)
    got = metrics(run)  # never ticked
    assert {m: got[m] for m in ("cash", "market_value", "equity", "twr", "max_drawdown", *nothing)} == {
        m: None for m in ("cash", "market_value", "equity", "twr", "max_drawdown", *nothing)
    }
    assert (got["funded"], got["trades"], got["fees"], got["bought"], got["sold"]) == (1000, 0, 0, 0, 0)
    run.place("A", "BUY", 1)
    run.tick(START)  # one instant
    got = metrics(run)
    assert {m: got[m] for m in nothing} == nothing
    assert (got["twr"], got["max_drawdown"], got["equity"]) == (0, 0, 1000)
    run.tick(START + timedelta(hours=23))
    got = metrics(run)
    assert got["cagr"] is None  # not a day yet
    assert got["twr"] == D("0.01")
    run.tick(START + timedelta(days=1))
    got = metrics(run)
    assert close(got["cagr"], 1.01**365 - 1)
    assert close(got["xirr"], 1.01**365 - 1)

    poor = Run(market, 0)
    poor.tick(START)
    poor.tick(START + timedelta(days=1))
    got = metrics(poor)
    assert {m: got[m] for m in ("twr", "max_drawdown", *nothing)} == {
        m: None for m in ("twr", "max_drawdown", *nothing)
    }


def test_a_flat_run_earned_nothing(tx: Conn) -> None:
    run = Run(Market(tx), 1000)
    for d in (0, 100, 400):
        run.tick(START + timedelta(days=d))
    got = metrics(run)
    assert [got[m] for m in ("xirr", "twr", "cagr", "max_drawdown")] == [0, 0, 0, 0]
    assert got["xirr_invested"] is None


def test_a_total_loss(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {START: 100, START + timedelta(days=365): D("0.001")})
    run = Run(market, 100)
    run.place("A", "BUY", 1)
    run.tick(START)
    run.tick(START + timedelta(days=365))
    got = metrics(run)
    assert (got["equity"], got["max_drawdown"]) == (0, -1)
    assert got["xirr"] is got["xirr_invested"] is None
    assert got["twr"] == -1
    run.tick(START + timedelta(days=366))
    assert metrics(run)["twr"] in (-1, None)


def test_wild_growth_is_a_number_or_null_but_no_error(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {START: D("0.01"), START + timedelta(days=1): 1000})
    run = Run(market, 100)
    run.place("A", "BUY", 10_000)
    run.tick(START)
    run.tick(START + timedelta(days=1))
    got = metrics(run)
    assert got["twr"] == 99_999
    assert got["equity"] == 10_000_000


def test_a_century_of_bars(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {at(f"{year}-01-02 12:00"): 100 + year - 1925 for year in (1925, 1950, 2000, 2024)})
    run = Run(market, 1000)
    run.place("A", "BUY", 10)
    for year in (1925, 1950, 2000, 2024):
        run.tick(f"{year}-01-02 12:00")
    got = metrics(run)
    years = (at("2024-01-02 12:00") - at("1925-01-02 12:00")) / timedelta(days=365)
    assert close(got["cagr"], 1.99 ** (1 / years) - 1)
    assert close(got["xirr"], 1.99 ** (1 / years) - 1)


def test_trades_after_the_last_mark_do_not_mix_with_its_value(tx: Conn) -> None:
    market = Market(tx)
    days = [START + timedelta(days=d) for d in (0, 100, 200)]
    market.bars("A", dict(zip(days, (100, 100, 200), strict=True)))
    run = Run(market, 1000)
    run.place("A", "BUY", 10)
    run.tick(days[0])
    run.tick(days[1])
    run.place("A", "SELL", 10)
    assert run.call("match_orders", logical_time=days[2]) == 1  # sold, not marked: the mark still holds the units
    assert metrics(run)["xirr_invested"] in (0, None)


def test_performance_of_no_run_and_of_a_raw_one(tx: Conn) -> None:
    with refused(tx, "TE204"):
        rows(tx, "select * from performance(-1, -1)")
    user_id = val(tx, "select create_user('raw')")
    run_id = val(tx, "insert into strategy_run (user_id, status) values (%s, 'RUNNING') returning run_id", user_id)
    got = dict(rows(tx, "select metric, value from performance(%s, %s)", user_id, run_id))
    assert (got["trades"], got["funded"], got["xirr"], got["twr"]) == (0, None, None, None)
