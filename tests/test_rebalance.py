"""Rebalance: targets, order of trading, band, missed slots, what is left out, arguments."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_FLOOR, ROUND_HALF_UP
from typing import Any

import pytest
from desk import Conn, D, Market, Run, at, call, ny, refused, weekday_market
from psycopg import Error

DAY1, DAY2, DAY3 = "2024-01-01 12:00", "2024-01-02 12:00", "2024-01-03 12:00"


def orders(run: Run) -> list[Any]:
    """(symbol, side, quantity) of the REBALANCE orders that filled, in order."""
    found = run.table("symbol, side, quantity, status, order_type, time_in_force, source", "paper_order", "order_id")
    mine = [f for f in found if f[6] == "REBALANCE"]
    assert all(f[3:6] == ("FILLED", "MARKET", "DAY") for f in mine), mine
    return [f[:3] for f in mine]


def market_of(conn: Conn, prices: Mapping[str, Any], *times: str, step: str = "0.000001") -> Market:
    market = Market(conn)
    for symbol, price in prices.items():
        market.instrument(symbol, step)
        market.bars(symbol, dict.fromkeys(times or (DAY1, DAY2, DAY3), price))
    return market


def test_targets_are_exact_and_sells_come_first(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {DAY1: 100, DAY2: 200, DAY3: 100})
    market.bars("B", {DAY1: 50, DAY2: 50, DAY3: 40})
    market.bars("C", {DAY1: 7, DAY2: 7, DAY3: 8})
    run = Run(market, 10_000)
    run.rebalance('{"C": 0.25, "A": 0.5, "B": 0.25}', "DAILY", "2024-01-01")
    run.tick(DAY1)
    assert orders(run) == [("A", "BUY", 50), ("B", "BUY", 50), ("C", "BUY", D("357.142857"))]
    assert run.payload("1:0", "REBALANCE") == {"equity": 10_000}
    cash = 10_000 - 5000 - 2500 - D("2500.00")
    assert run.cash == cash
    run.tick(DAY2)  # A doubled: equity 15000
    equity = 50 * 200 + 50 * 50 + D("2500.00")
    assert D(str(run.payload("1:1", "REBALANCE")["equity"])) == equity
    b = (equity / 4 / 50).quantize(D("0.000001"), ROUND_FLOOR)
    c = (equity / 4 / 7).quantize(D("0.000001"), ROUND_FLOOR)
    assert orders(run)[3:] == [
        ("A", "SELL", D("12.5")),
        ("B", "BUY", b - 50),
        ("C", "BUY", c - D("357.142857")),
    ]
    assert run.held("A") == D("37.5")
    run.tick(DAY3)
    assert [order[:2] for order in orders(run)[6:]] == [("B", "SELL"), ("C", "SELL"), ("A", "BUY")]
    assert run.events() == [("REBALANCED", f"1:{k}") for k in range(3)]
    assert run.rules() == set()


@pytest.mark.parametrize(
    ("step", "price"), [("1", "30"), ("0.000001", "7.77"), ("0.00000001", "0.33333333"), ("10", "3.3")]
)
def test_target_is_the_floor_of_weight_times_equity(tx: Conn, step: str, price: str) -> None:
    market = market_of(tx, {"A": D(price)}, step=step)
    for weight in ("0", "0.1", "0.333333333333", "0.5", "0.99", "1", "0.00000000000000000001"):
        run = Run(market, D("1000.07"))
        run.rebalance(f'{{"A": {weight}}}', "MONTHLY", "2024-01-01")
        run.tick(DAY1)
        target = (D(weight) * D("1000.07") / (D(price) * D(step))).to_integral_value(ROUND_FLOOR) * D(step)
        assert run.held("A") == target, weight
        assert run.cash == D("1000.07") - (target * D(price)).quantize(D("0.01"), ROUND_HALF_UP)
        assert run.rules() == set()


def test_a_target_on_an_exact_multiple_is_reached(tx: Conn) -> None:
    """Quotients that round up must not lose or add a step: 0.3 / 0.1, 0.7 of 30 / 3, and so on."""
    for price, cash, weight, units in [
        ("0.1", 3, "0.1", 3),
        ("3", 30, "0.7", 7),
        ("0.07", 7, "0.49", 49),
        ("7", 2100, "0.333333333333333333", 99),
    ]:
        market = market_of(tx, {f"P{price}": D(price)}, step="1")
        market.conn.execute("update instrument set quantity_step = 1 where symbol = %s", [f"P{price}"])
        run = Run(market, cash)
        run.rebalance(f'{{"P{price}": {weight}}}', "DAILY", "2024-01-01")
        run.tick(DAY1)
        assert run.held(f"P{price}") == units


def test_zero_weight_and_no_weight_go_to_zero(tx: Conn) -> None:
    market = market_of(tx, {"A": 100, "B": 100, "C": 100})
    run = Run(market, 1000)
    for symbol in "ABC":
        run.place(symbol, "BUY", 2)
    run.tick(DAY1)
    run.rebalance('{"B": 0, "C": 0.5}', "DAILY", "2024-01-02")
    run.tick(DAY2)
    assert orders(run) == [("A", "SELL", 2), ("B", "SELL", 2), ("C", "BUY", 3)]
    assert [run.held(s) for s in "ABC"] == [0, 0, 5]
    run.tick(DAY3)
    assert len(orders(run)) == 3  # nothing to trade
    assert run.events() == [("REBALANCED", "1:0"), ("REBALANCED", "1:1")]
    assert run.rules() == set()


def test_an_unpriced_symbol_is_left_out(tx: Conn) -> None:
    market = market_of(tx, {"A": 100})
    market.instrument("X")
    run = Run(market, 1000)
    run.rebalance('{"A": 0.5, "X": 0.5}', "DAILY", "2024-01-01")
    run.rebalance('{"X": 1}', "DAILY", "2024-01-01")
    run.tick(DAY1)
    assert orders(run) == [("A", "BUY", 5)]
    assert run.cash == 500
    assert run.events() == [("REBALANCED", "1:0")]  # plan 2 waits
    market.bars("X", {DAY2: 50})
    run.tick(DAY2)
    assert run.events()[1:] == [("REBALANCED", "1:1"), ("REBALANCE_MISSED", "2:0"), ("REBALANCED", "2:1")]
    assert [run.held(s) for s in "AX"] == [0, 20]
    assert run.rules() == set()


def test_band(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {DAY1: 100, DAY2: 110, DAY3: 130})
    market.bars("B", {DAY1: 100, DAY2: 100, DAY3: 100})
    run = Run(market, 10_000)
    run.rebalance('{"A": 0.5, "B": 0.5}', "DAILY", "2024-01-01", band=D("0.05"))
    run.tick(DAY1)
    assert orders(run) == [("A", "BUY", 50), ("B", "BUY", 50)]
    run.tick(DAY2)  # 5500 of 10500: 250 off, 525 allowed
    assert len(orders(run)) == 2
    assert run.events()[-1] == ("REBALANCED", "1:1")
    run.tick(DAY3)  # 6500 of 11500: 750 off, 575 allowed
    assert [(s, side) for s, side, _ in orders(run)[2:]] == [("A", "SELL"), ("B", "BUY")]
    assert run.held("A") == (D(5750) / 130).quantize(D("0.000001"), ROUND_FLOOR)

    # exactly at the band does not trade, and only what is outside it does
    market = market_of(tx, {"A": 100, "B": 100, "C": 100})
    for band, trades in [("0.1", []), ("0.0999", [("A", "SELL", 1)]), ("1", []), ("0", [("A", "SELL", 1)])]:
        run = Run(market, 1000)
        run.place("A", "BUY", 6)
        run.place("B", "BUY", 2)
        run.tick(DAY1)
        run.rebalance('{"A": 0.5, "B": 0.2}', "DAILY", "2024-01-01", band=D(band))
        run.tick(DAY2)
        assert orders(run) == trades, band


def test_missed_slots(tx: Conn) -> None:
    market = market_of(tx, {"A": 100}, DAY1, "2024-01-20 12:00", "2024-01-21 12:00")
    run = Run(market, 1000)
    run.rebalance('{"A": 0.5}', "WEEKLY", "2024-01-01")
    run.rebalance('{"A": 0.4}', "MONTHLY", "2023-11-30")
    run.tick("2024-01-20 12:00")
    assert run.events() == [
        *(("REBALANCE_MISSED", "1:0"), ("REBALANCE_MISSED", "1:1"), ("REBALANCED", "1:2")),
        *(("REBALANCE_MISSED", "2:0"), ("REBALANCED", "2:1")),
    ]
    assert orders(run) == [("A", "BUY", 5), ("A", "SELL", 1)]
    for _ in range(2):
        assert run.call("try_rebalance", logical_time=at("2024-01-20 12:00")) == 0
    run.tick("2024-01-21 12:00")
    assert len(run.events()) == 5


@pytest.mark.parametrize(
    ("frequency", "start", "dates"),
    [
        ("MONTHLY", "2023-12-31", ["2023-12-31", "2024-01-31", "2024-02-29", "2024-03-31"]),
        ("QUARTERLY", "2023-11-30", ["2023-11-30", "2024-02-29"]),
        ("WEEKLY", "2024-03-20", ["2024-03-20", "2024-03-27"]),
        ("DAILY", "2024-03-29", ["2024-03-29", "2024-03-30", "2024-03-31"]),
    ],
)
def test_slots_fall_on_their_dates(tx: Conn, frequency: str, start: str, dates: list[str]) -> None:
    market = Market(tx)
    market.instrument("A")
    tx.execute(
        "insert into price_bar select %s, 'A', t, 1, 1, 1, 1 from generate_series('2023-11-01 12:00+00'::timestamptz,"
        " '2024-03-31 12:00+00', interval '24 hours') t",
        [market.feed],
    )
    run = Run(market, 1000)
    run.rebalance('{"A": 0.5}', frequency, start)
    tx.execute("call replay(%s, %s, '2023-11-01 00:00+00', '2024-03-31 23:00+00')", run.key)
    found = run.table("event_type, event_key, logical_time", "event_ledger", "logical_time")
    assert [(t, k, time.astimezone(market.zone).date().isoformat()) for t, k, time in found] == [
        ("REBALANCED", f"1:{k}", d) for k, d in enumerate(dates)
    ]
    assert run.rules() == set()


def test_closed_market_override_and_local_dates(tx: Conn) -> None:
    market = weekday_market(tx, "2024-01-31", "2024-02-02", zone="America/New_York", hours=("09:30", "23:00"))
    market.bars("A", {"2024-01-31 20:00": 100, "2024-02-01 08:00": 100, "2024-02-01 12:00": 100})
    run = Run(market, 1000)
    run.rebalance('{"A": 0.5}', "MONTHLY", "2024-02-01")
    run.tick(ny("2024-01-31 20:00"))  # February in UTC, January in New York
    assert run.events() == []
    t = ny("2024-02-01 08:00")
    before = run.snapshot()
    assert run.call("try_rebalance", logical_time=t) == 0
    assert run.call("try_rebalance", logical_time=t, market_open=False) == 0
    assert run.snapshot() == before
    run.tick(t)
    assert run.events() == []
    run.tick(ny("2024-02-01 12:00"))
    assert run.events() == [("REBALANCED", "1:0")]
    other = Run(market, 1000)
    other.rebalance('{"A": 0.5}', "MONTHLY", "2024-02-01")
    assert other.call("try_rebalance", logical_time=t, market_open=True) == 1
    assert orders(other) == [("A", "BUY", 5)]


def test_a_rounding_cent_does_not_reject_the_last_buy(tx: Conn) -> None:
    # every buy rounds up, so together they may want a cent more than there is: the last one is cut by a step
    market = market_of(tx, {s: D("0.125") for s in "ABC"}, step="0.1")
    for s in "ABC":
        tx.execute("update instrument set quantity_step = 0.1 where symbol = %s", [s])
    for cash in range(100, 160):
        run = Run(market, D(cash) / 100)
        run.rebalance('{"A": 0.333333333, "B": 0.333333333, "C": 0.333333334}', "DAILY", "2024-01-01")
        run.tick(DAY1)
        assert len(orders(run)) == 3
        target = (D(cash) / 100 * D("0.333333333") / D("0.0125")).to_integral_value(ROUND_FLOOR) / 10
        assert [run.held(s) for s in "AB"] == [target, target]
        assert target - D("0.1") <= run.held("C") <= target + D("0.1")
        assert run.cash >= 0
    assert not tx.execute("select from violations").fetchall()


def test_what_cannot_be_bought_at_all_is_stored_rejected(tx: Conn) -> None:
    market = market_of(tx, {"A": 100, "B": 100})
    run = Run(market, 1000)
    run.tick(DAY1)
    run.place("B", "BUY", 10, limit=100)  # holds all the cash back
    run.rebalance('{"A": 0.5}', "DAILY", "2024-01-01")
    assert run.call("try_rebalance", logical_time=at("2024-01-01 18:00")) == 1
    assert run.orders() == ["PENDING", "REJECTED CASH_INSUFFICIENT"]
    assert (run.order(2)["source"], run.order(2)["quantity"]) == ("REBALANCE", 5)
    assert run.events() == [("REBALANCED", "1:0")]
    assert run.rules() == set()


def test_reserved_cash_cuts_a_buy(tx: Conn) -> None:
    market = market_of(tx, {"A": 100, "B": 100})
    run = Run(market, 1000)
    run.tick(DAY1)
    run.place("B", "BUY", 7, limit=99)  # 693 held back
    run.rebalance('{"A": 0.5}', "DAILY", "2024-01-01")
    run.call("try_rebalance", logical_time=at("2024-01-01 18:00"))
    assert orders(run) == [("A", "BUY", D("3.07"))]


def test_risk_applies_to_each_leg(tx: Conn) -> None:
    market = market_of(tx, {"A": 100, "B": 100, "C": 100, "D": 100})
    run = Run(market, 1000)
    run.place("D", "BUY", 1)
    run.tick(DAY1)
    run.call("forbid_symbol", symbol="A")
    run.call("forbid_symbol", symbol="D")
    run.call("set_risk_limit", max_position=2, max_order_value=250)
    run.rebalance('{"A": 0.1, "B": 0.25, "C": 0.2}', "DAILY", "2024-01-02")
    run.tick(DAY2)
    assert run.table("symbol, side, quantity, status, reject_reason", "paper_order", "order_id")[1:] == [
        ("D", "SELL", 1, "REJECTED", "SYMBOL_FORBIDDEN"),
        ("A", "BUY", 1, "REJECTED", "SYMBOL_FORBIDDEN"),
        ("B", "BUY", D("2.5"), "REJECTED", "POSITION_LIMIT_EXCEEDED"),
        ("C", "BUY", 2, "FILLED", None),
    ]
    assert run.rules() == set()


def test_sells_pay_for_buys_and_plans_run_in_order(tx: Conn) -> None:
    market = market_of(tx, {"A": 100, "B": 100})
    run = Run(market, 1000)
    run.place("A", "BUY", 10)
    run.tick(DAY1)
    run.rebalance('{"B": 1}', "DAILY", "2024-01-02")
    run.rebalance('{"A": 1}', "DAILY", "2024-01-02")
    run.tick(DAY2)
    assert orders(run) == [("A", "SELL", 10), ("B", "BUY", 10), ("B", "SELL", 10), ("A", "BUY", 10)]
    assert run.rules() == set()


def test_sips_come_before_rebalances_in_a_tick(tx: Conn) -> None:
    market = market_of(tx, {"A": 100, "B": 100})
    run = Run(market, 1000)
    run.rebalance('{"A": 1}', "DAILY", "2024-01-01")
    run.sip("B", 500, "DAILY", "2024-01-01")
    run.tick(DAY1)
    assert [(t[2], t[3], t[4]) for t in run.trades()] == [("B", "BUY", 5), ("B", "SELL", 5), ("A", "BUY", 10)]


def test_an_empty_run_still_writes_the_event(tx: Conn) -> None:
    market = market_of(tx, {"A": 100})
    run = Run(market, 0)
    run.rebalance('{"A": 1}', "DAILY", "2024-01-01")
    assert run.call("try_rebalance", logical_time=at(DAY1)) == 1
    assert (run.events(), run.orders()) == ([("REBALANCED", "1:0")], [])
    assert run.payload("1:0", "REBALANCE") == {"equity": 0}


def test_open_orders_are_not_the_rebalances_concern(tx: Conn) -> None:
    market = market_of(tx, {"A": 100})
    run = Run(market, 1000)
    run.place("A", "BUY", 4)
    run.tick(DAY1)
    run.place("A", "SELL", 4, limit=200)
    run.rebalance('{"A": 0}', "DAILY", "2024-01-01")
    run.tick(DAY2)
    assert orders(run) == [("A", "SELL", 4)]
    assert run.status(2) == "PENDING"


def held_then(
    tx: Conn, held: Mapping[str, Any], weights: str, cash: Any = 0, step: str = "0.000001", **options: Any
) -> Run:
    """A run that holds this at a price of 1, beside so much cash, and one rebalance of it."""
    symbols = sorted({*held, *"ABC"})
    market = market_of(tx, dict.fromkeys(symbols, 1), step=step)
    run = Run(market, sum(held.values()) + cash)
    for symbol, quantity in held.items():
        run.place(symbol, "BUY", quantity)
    run.tick(DAY1)
    run.rebalance(weights, "DAILY", "2024-01-02", **options)
    run.tick(DAY2)
    assert run.events() == [("REBALANCED", "1:0")]
    assert run.rules() == set()
    return run


HALF = '{"A": 0.5, "B": 0.3}'  # of 1000: 500 and 300
BANDS: list[tuple[dict[str, Any], dict[str, int], list[Any]]] = [
    # options, held, trades; equity is 1000
    ({"band_relative": "0.1"}, {"A": 550, "B": 330}, []),  # exactly at both edges
    ({"band_relative": "0.1"}, {"A": 551, "B": 330}, [("A", "SELL", 51)]),
    ({"band_relative": "0.1"}, {"A": 551, "B": 269}, [("A", "SELL", 51), ("B", "BUY", 31)]),
    ({"band_relative": "1"}, {"A": 1000}, []),
    ({"band_relative": "0"}, {"A": 501, "B": 300}, [("A", "SELL", 1)]),
    # beyond either band: 5 % of equity are 50, 10 % of B's target are 30
    ({"band": "0.05", "band_relative": "0.1"}, {"A": 550, "B": 331}, [("B", "SELL", 31)]),
    ({"band": "0.05", "band_relative": "0.5"}, {"A": 551, "B": 350}, [("A", "SELL", 51)]),
    ({"band": "1", "band_relative": "0.1"}, {"A": 449, "B": 330}, [("A", "BUY", 51)]),
    # what has no weight is beyond any relative band, but may be within the other one
    ({"band_relative": "1"}, {"A": 500, "C": 1}, [("C", "SELL", 1)]),
    ({"band": "0.05"}, {"A": 500, "B": 300, "C": 50}, []),
    # back to the edge
    ({"band": "0.05", "to_band_edge": True}, {"A": 600, "B": 300}, [("A", "SELL", 50)]),
    ({"band": "0.05", "to_band_edge": True}, {"A": 400, "B": 249}, [("A", "BUY", 50), ("B", "BUY", 1)]),
    ({"band": "0.05", "to_band_edge": True}, {"A": 550, "B": 250}, []),
    ({"band_relative": "0.1", "to_band_edge": True}, {"A": 600, "B": 200}, [("A", "SELL", 50), ("B", "BUY", 70)]),
    (
        {"band": "0.05", "band_relative": "0.01", "to_band_edge": True},
        {"A": 600},
        [("A", "SELL", 95), ("B", "BUY", 297)],
    ),
    ({"band": "0.05", "to_band_edge": True}, {"A": 500, "B": 300, "C": 60}, [("C", "SELL", 10)]),
    ({"band": "0", "to_band_edge": True}, {"A": 600, "B": 200}, [("A", "SELL", 100), ("B", "BUY", 100)]),
    # small orders
    ({"min_order_value": 50}, {"A": 550, "B": 249}, [("A", "SELL", 50), ("B", "BUY", 51)]),
    ({"min_order_value": 51}, {"A": 550, "B": 249}, [("B", "BUY", 51)]),
    ({"min_order_value": 52}, {"A": 550, "B": 249}, []),
    ({"min_order_value": 2}, {"A": 500, "B": 300, "C": 1}, []),
]


@pytest.mark.parametrize(("options", "held", "trades"), BANDS)
def test_bands_edges_and_small_orders(
    tx: Conn, options: dict[str, Any], held: dict[str, int], trades: list[Any]
) -> None:
    run = held_then(tx, held, HALF, cash=1000 - sum(held.values()), **options)
    assert orders(run) == trades


def test_what_is_left_of_a_buy_must_still_be_worth_it(tx: Conn) -> None:
    market = market_of(tx, {"A": 1, "B": 1})
    for smallest, trades in ((None, [("A", "BUY", 7)]), (7, [("A", "BUY", 7)]), (D("7.01"), [])):
        run = Run(market, 1000)
        run.tick(DAY1)
        run.place("B", "BUY", 993, limit=1)  # 993 held back
        run.rebalance('{"A": 0.5}', "DAILY", "2024-01-01", min_order_value=smallest)
        assert run.call("try_rebalance", logical_time=at("2024-01-01 18:00")) == 1
        assert orders(run) == trades


@pytest.mark.parametrize(
    ("step", "held", "weights", "trades"),
    [
        ("0.000001", {}, '{"A": 0.33333, "B": 0.5}', [("A", "BUY", 33), ("B", "BUY", 50)]),
        ("0.000001", {"A": D("40.5")}, '{"A": 0.333}', [("A", "SELL", D("7.5"))]),  # down to whole units
        ("0.000001", {"A": D("20.5")}, '{"A": 0.333}', [("A", "BUY", D("12.5"))]),
        ("0.000001", {"A": D("33.2")}, '{"A": 0.335}', []),  # too little: not a reason to sell 0.2
        ("0.000001", {"A": D("33.7")}, '{"A": 0.335}', [("A", "SELL", D("0.7"))]),
        ("0.000001", {"C": D("0.5")}, '{"A": 0.009}', [("C", "SELL", D("0.5"))]),
        ("2.5", {}, '{"A": 0.49}', [("A", "BUY", 45)]),  # whole units on the step: 5
        ("10", {}, '{"A": 0.49}', [("A", "BUY", 40)]),
    ],
)
def test_whole_units(tx: Conn, step: str, held: dict[str, Any], weights: str, trades: list[Any]) -> None:
    for symbol in "ABC":
        Market(tx).instrument(symbol, step)
    run = held_then(tx, held, weights, cash=100 - sum(held.values()), step=step, whole_units=True)
    assert orders(run) == trades


def test_a_buy_cut_to_the_cash_is_whole_units_too(tx: Conn) -> None:
    market = market_of(tx, {"A": 3, "B": 3})
    run = Run(market, 100)
    run.tick(DAY1)
    run.place("B", "BUY", 30, limit=3)  # 90 held back
    run.rebalance('{"A": 0.5}', "DAILY", "2024-01-01", whole_units=True)
    run.call("try_rebalance", logical_time=at("2024-01-01 18:00"))
    assert orders(run) == [("A", "BUY", 3)]


def test_the_edge_in_whole_units_is_never_crossed_backwards(tx: Conn) -> None:
    # 44.6 held, the edge is 44.9: below it, but its floor would sell
    run = held_then(
        tx, {"A": D("44.6")}, '{"A": 0.499}', cash=D("55.4"), whole_units=True, band=D("0.05"), to_band_edge=True
    )
    assert orders(run) == []


# --- arguments -------------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"weights": '{"A": 0.6, "B": 0.4}', "frequency": "DAILY", "start": "2024-01-01"}
BAD: list[dict[str, Any]] = [
    *({"weights": w} for w in (None, "{}", "[]", "null", "1", '"A"', '[{"A": 1}]')),
    *(
        {"weights": f'{{"A": {w}}}'}
        for w in (
            "-0.1",
            "1.1",
            "1.00000000000000000001",
            "-1e-30",
            "1e300",
            "null",
            '"0.5"',
            '"NaN"',
            "[1]",
            "{}",
            "true",
        )
    ),
    *(
        {"weights": w}
        for w in ('{"A": 0.6, "B": 0.5}', '{"A": 1, "B": 0.00000000000000000001}', '{"A": 0.5, "B": -0.5}')
    ),
    *({"frequency": f} for f in (None, "", "daily", "YEARLY")),
    *({"start": s} for s in (None, "infinity", "-infinity", "1899-12-31", "2300-01-01")),
    *(
        {band: b}
        for band in ("band", "band_relative")
        for b in (-1, D("1.1"), D("-0.0001"), D("NaN"), D("Infinity"), D("1e130"))
    ),
    *({"to_band_edge": e} for e in (None, True)),  # true without a band
    {"to_band_edge": None, "band": 0},
    *({"min_order_value": v} for v in (0, -1, D("0.004"), D("NaN"), D("Infinity"), D("1e12"))),
    {"whole_units": None},
]


def test_create_rebalance_refuses_bad_arguments(tx: Conn) -> None:
    run = Run(Market(tx, symbols=["A", "B"]))
    answers = []
    for bad in BAD:
        with pytest.raises(Error) as caught, tx.transaction():
            run.call("create_rebalance", **{**GOOD, **bad})
        answers.append((bad, caught.value.sqlstate))
    assert [answer for answer in answers if answer[1] != "TE101"] == []
    for weights in ('{"A": 0.5, "NOWHERE": 0.5}', '{"": 1}', '{"a": 1}'):
        with refused(tx, "TE201"):
            run.call("create_rebalance", **{**GOOD, "weights": weights})
    assert run.count("rebalance_plan") == run.count("target_weight") == 0
    assert [run.rebalance(**GOOD) for _ in range(2)] == [1, 2]
    assert run.rebalance('{"A": 1, "B": 0}', "DAILY", "2024-01-01", band=0) == 3
    assert run.rebalance('{"A": 0}', "DAILY", "2024-01-01", band=1, band_relative=1) == 4
    assert run.table("plan_id, symbol, weight", "target_weight", "plan_id, symbol")[:2] == [
        (1, "A", D("0.6")),
        (1, "B", D("0.4")),
    ]
    run.call("stop_run")
    with refused(tx, "TE001"):
        run.rebalance(**GOOD)
    with refused(tx, "TE204"):
        call(tx, "create_rebalance", user_id=run.user_id, run_id=-1, **GOOD)
