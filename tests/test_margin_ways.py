"""Random margin accounts: tick, replay and tick_all leave the same rows, and nothing is violated.

Each script has intraday bars of three symbols with gaps, all order types, SIPs and rebalances, splits and dividends, fees,
and terms harsh enough that positions are closed by margin calls.
"""

from __future__ import annotations

import os
import random
from datetime import timedelta
from typing import Any

import pytest
from desk import Conn, D, Market, Run, at, rows, val

SYMBOLS = ("A", "B", "C")
COUNT = int(os.environ.get("MARGIN_SCRIPTS", "24"))
FIRST = int(os.environ.get("MARGIN_FIRST", "0"))
CLOCK = ("09:30", "10:00", "11:00", "12:00", "13:00", "14:00", "15:00", "16:00", "17:00")

Call = tuple[str, dict[str, Any]]


def clock(chance: random.Random) -> list[str]:
    """Bar times over two weeks, weekends included, some of them while the market is closed."""
    return [
        f"2024-01-{d:02} {time}"
        for d in range(2, 15)
        for time in sorted(chance.sample(CLOCK, chance.randint(0 if d > 2 else 2, 5)))
    ]


def walk(chance: random.Random, times: list[str]) -> dict[str, Any]:
    bars: dict[str, Any] = {}
    price = 100
    for time in times:
        if bars and chance.random() < 0.15:
            continue
        first = max(5, price + chance.randint(-6, 6))
        price = max(5, first + chance.randint(-6, 6))
        high, low = max(first, price) + chance.randint(0, 3), max(1, min(first, price) - chance.randint(0, 3))
        bars[time] = (first, high, low, price, chance.choice([None, 0, 10, 100, 1000]))
    return bars


def order(chance: random.Random, times: list[str]) -> Call:
    side, sign = chance.choice([("BUY", 1), ("SELL", -1)])
    kind = chance.choice(["MARKET"] * 4 + ["LIMIT", "STOP", "STOP_LIMIT", "TRAILING_STOP", "OCO", "BRACKET"])
    near = chance.randint(85, 115)
    terms: dict[str, Any] = {
        "symbol": chance.choice(SYMBOLS),
        "side": side,
        "quantity": chance.choice([1, 7, 40, 90, 90, 180]),
        "time_in_force": chance.choice(["GTC", "GTC", "GTC", "DAY", "IOC", "FOK", "GTD"]),
    }
    if kind == "OCO":
        return "place_oco", {
            **terms,
            "time_in_force": "GTC",
            "limit_price": near - sign * chance.randint(1, 5),
            "stop_price": near + sign * chance.randint(1, 5),
        }
    if terms["time_in_force"] == "GTD":
        terms["good_till"] = at(chance.choice(times)) + timedelta(days=13)
    if kind == "BRACKET":
        kind = chance.choice(["MARKET", "LIMIT"])
        terms |= {"take_profit": near + sign * chance.randint(4, 9), "stop_loss": near - sign * chance.randint(4, 9)}
    if kind in ("LIMIT", "STOP_LIMIT"):
        terms["limit_price"] = near
    if kind in ("STOP", "STOP_LIMIT"):
        terms["stop_price"] = near + chance.randint(-4, 4)
    if kind == "TRAILING_STOP":
        terms["trail_amount"] = chance.randint(1, 6)
    return "place_order", {**terms, "order_type": kind}


def terms_of(chance: random.Random) -> dict[str, Any]:
    initial = chance.choice([D("0.2"), D("0.3"), D("0.5"), D(1)])
    terms = {
        "initial_margin": initial,
        "maintenance_margin": initial * chance.choice([D("0.5"), D("0.9"), D("0.98")]),
        "borrow_rate": chance.choice([0, D("0.03"), 2]),
        "margin_rate": chance.choice([0, D("0.08"), 2]),
    }
    for name, values in {
        "participation": [D("0.1"), 1],
        "slippage_bps": [25],
        "mark_policy": ["SESSION", "EVENTS"],
        "fee_schedule": ["US_PER_SHARE", "IN_DELIVERY"],
        "max_price_age": ["90 minutes"],
        "reinvest_dividends": [True],
    }.items():
        if chance.random() < 0.25:
            terms[name] = chance.choice(values)
    return terms


def add_actions(conn: Conn, chance: random.Random) -> None:
    for symbol in SYMBOLS:
        if chance.random() < 0.4:
            ratio = chance.choice([(2, 1), (3, 2), (1, 7)])
            conn.execute("insert into corporate_action values (%s, '2024-01-08', 'SPLIT', %s, %s)", [symbol, *ratio])
        if chance.random() < 0.4:
            conn.execute(
                "insert into corporate_action (symbol, ex_date, action_type, amount, pay_date) "
                "values (%s, '2024-01-05', 'DIVIDEND', 1.5, '2024-01-09')",
                [symbol],
            )


def drive(run: Run, way: str, times: list[str], plan: dict[str, list[Call]]) -> None:
    """Every time in order, each followed by its orders; replay goes from one such time to the next."""
    done = times[0]
    for time in times:
        if way == "tick":
            run.tick(time)
        elif way == "tick_all":
            run.conn.execute("call tick_all(%s, %s)", [at(time), run.market.feed])
        elif time in plan or time in (times[0], times[-1]):
            run.conn.execute("call replay(%s, %s, %s, %s)", [*run.key, at(done), at(time)])
            done = time
        for verb, terms in plan.get(time, []):
            names = ", ".join(f"p_{name} => %s" for name in ("user_id", "run_id", *terms))
            run.conn.execute(f"select from {verb}({names})", [*run.key, *terms.values()])


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_every_way_to_drive_a_margin_account_gives_the_same_rows(tx: Conn, seed: int) -> None:
    chance = random.Random(seed)
    sessions = [(f"2024-01-{d:02}", "09:30", "16:00") for d in range(2, 20) if d not in (6, 7, 13, 14)]
    times = clock(chance)
    bars = {symbol: walk(chance, times) for symbol in SYMBOLS}
    times = sorted({time for walked in bars.values() for time in walked})
    terms, is_always, plans = terms_of(chance), chance.random() < 0.3, chance.random() < 0.3
    full = int(95 / terms["initial_margin"] / len(SYMBOLS))  # of each symbol about as many units as margin allows
    plan: dict[str, list[Call]] = {
        times[0]: [
            ("place_order", {"symbol": symbol, "side": chance.choice(["BUY", "SELL"]), "quantity": full})
            for symbol in SYMBOLS
        ]
    }
    for _ in range(chance.randint(4, 20)):
        plan.setdefault(chance.choice(times[:-1]), []).append(order(chance, times))
    for symbol in SYMBOLS:
        Market(tx).instrument(symbol, step=chance.choice(["1", "0.01"]), tick="0.01")
    add_actions(tx, chance)

    runs = []
    for way in ("tick", "replay", "tick_all"):
        market = Market(tx, None if is_always else sessions)
        for symbol in SYMBOLS:
            market.bars(symbol, bars[symbol])
        run = Run(market, 10_000, **terms)
        if plans:
            run.sip("A", 300, "DAILY", "2024-01-04")
            run.rebalance('{"A": 0.3, "B": 0.6}', "WEEKLY", "2024-01-05")
        drive(run, way, times, plan)
        assert run.rules() == set(), way
        assert rows(tx, "select status from strategy_run where user_id = %s", run.user_id) == [("RUNNING",)]
        runs.append(run)
    for run in runs[1:]:
        assert rows(tx, "select d::text from replay_diff(%s, %s, %s, %s) d limit 5", *runs[0].key, *run.key) == []
        assert len({val(tx, "select run_digest(%s, %s)", *r.key) for r in (runs[0], run)}) == 1
