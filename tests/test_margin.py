"""Margin accounts by hand: short positions, what may be opened, fees and interest by the day, margin calls, actions.

Prices are last quotes (open = high = low = close), so a market order placed at one time fills at the next one's price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
import pytest
from desk import Conn, D, Market, Run, at, refused, rows, val, weekday_market

FULL = {"initial_margin": D("0.5"), "maintenance_margin": D("0.25")}
WEEK = [f"2024-01-{d:02} 16:00" for d in (2, 3, 4, 5, 8, 9, 10, 11, 12)]  # Tuesday to Friday of the next week
WAYS = ("tick", "replay", "tick_all")
each_way = pytest.mark.parametrize("way", WAYS)


def market_of(conn: Conn, prices: Mapping[str, Sequence[Any]], times: Sequence[str] = WEEK) -> Market:
    """A market open on weekdays, 9:30 to 16:00; price None: no bar."""
    market = weekday_market(conn, "2024-01-02", "2024-03-29")
    for symbol, line in prices.items():
        market.bars(symbol, {t: p for t, p in zip(times, line, strict=False) if p is not None})
    return market


def flat_fee(conn: Conn, amount: Any) -> dict[str, str]:
    """Every order pays that much, whatever its size."""
    conn.execute(
        "insert into fee_schedule (fee_schedule, component, side, effective_from, flat_amount, source)"
        " select 'FLAT', 'FEE', side, '1900-01-01', %s, 'a test' from (values ('BUY'), ('SELL')) s (side)",
        [amount],
    )
    return {"fee_schedule": "FLAT"}


def drive(run: Run, way: str, times: Sequence[str]) -> None:
    if way == "replay":
        run.conn.execute("call replay(%s, %s, %s, %s)", [*run.key, run.market.at(times[0]), run.market.at(times[-1])])
        return
    for time in times:
        if way == "tick":
            run.tick(time)
        else:
            run.conn.execute("call tick_all(%s, %s)", [run.market.at(time), run.market.feed])


def held(run: Run) -> list[Any]:
    return run.table("symbol, quantity, cost_basis, realized_pnl", "paper_position", 'symbol collate "C"')


def charges(run: Run) -> list[Any]:
    """(time, cause, amount) of the cash that no trade has moved, the opening left out."""
    return rows(
        run.conn,
        "select to_char(logical_time at time zone 'UTC', 'MM-DD HH24:MI'), cause, amount from cash_ledger"
        " where user_id = %s and trade_id is null and cause <> 'OPENING' order by entry_id",
        run.user_id,
    )


def calls(run: Run) -> list[Any]:
    return rows(
        run.conn,
        "select event_key, payload from event_ledger where user_id = %s and event_type = 'MARGIN_CALL' order by 1",
        run.user_id,
    )


def closings(run: Run) -> list[Any]:
    """(time, symbol, side, quantity, price) of what margin calls have closed."""
    return rows(
        run.conn,
        "select to_char(t.logical_time at time zone 'UTC', 'MM-DD HH24:MI'), t.symbol, t.side, t.quantity, t.price"
        " from paper_trade t join paper_order o using (user_id, run_id, order_id)"
        " where t.user_id = %s and o.source = 'MARGIN' order by t.trade_id",
        run.user_id,
    )


def open_at_once(market: Market, cash: Any, orders: Sequence[tuple[str, str, int]], **terms: Any) -> Run:
    """A run whose market orders have filled at the first time of the week."""
    run = Run(market, cash, **{**FULL, **terms})
    for symbol, side, quantity in orders:
        run.place(symbol, side, quantity)
    run.tick(WEEK[0])
    assert set(run.orders()) == {"FILLED"}
    return run


# --- positions ---

# (side, quantity, price) → quantity, cost_basis, realized_pnl, cash; from 10,000, each order pays 1
WALK = [
    (("SELL", 10, 100), (-10, -999, 0, 10_999)),  # opens: the proceeds, less the fee
    (("SELL", 5, 110), (-15, -1548, 0, 11_548)),  # adds
    (("BUY", 6, 90), (-9, D("-928.8"), D("78.2"), 11_007)),  # covers: 6/15 of 1548 is 619.20, which cost 541
    (("BUY", 12, 95), (3, D("285.25"), D("151.25"), 9866)),  # flips: 9 of the 12 cost 855.75, the other 3 285.25
    (("SELL", 5, 97), (-2, D("-193.6"), D("156.4"), 10_350)),  # and back: 3 of the 5 bring 290.40
    (("BUY", 2, 96), (0, 0, 157, 10_157)),
]


def test_a_position_opens_adds_covers_and_flips_to_the_cent(tx: Conn) -> None:
    market = market_of(tx, {"A": [price for (_, _, price), _ in WALK]})
    run = Run(market, 10_000, **FULL, **flat_fee(tx, 1))
    for ((side, quantity, _), expected), time in zip(WALK, WEEK, strict=False):
        run.place("A", side, quantity)
        run.tick(time)
        quantity, cost, realized, cash = expected
        assert (held(run), run.cash) == ([("A", quantity, cost, realized)], cash), (side, quantity)
        marks = run.table("cost_basis, realized_pnl, unrealized_pnl, market_value", "mtm_ledger", "logical_time")
        assert marks[-1][:2] == (cost, realized)
        assert marks[-1][2] == marks[-1][3] - cost
    assert run.table("equity", "paper_equity_curve", "logical_time")[-1] == (10_157,)
    assert run.rules() == set()


@pytest.mark.parametrize(
    ("covers", "costs"),
    [((1, 2), (D("-66.67"), 0)), ((2, 1), (D("-33.34"), 0)), ((1, 1, 1), (D("-66.67"), D("-33.33"), 0))],
)
def test_a_shorts_cost_is_shared_out_to_the_cent_and_ends_at_nothing(
    tx: Conn, covers: tuple[int, ...], costs: tuple[Any, ...]
) -> None:
    """3 at 33.335 bring 100.005, which is 100.01; a third of it is 33.34."""
    market = market_of(tx, {"A": [D("33.335"), *[30] * len(covers)]})
    run = open_at_once(market, 1000, [("A", "SELL", 3)])
    for quantity, cost, time in zip(covers, costs, WEEK[1:], strict=False):
        run.place("A", "BUY", quantity)
        run.tick(time)
        assert held(run)[0][2] == cost
    assert held(run) == [("A", 0, 0, D("10.01"))]
    assert run.cash == D("1010.01")
    assert run.rules() == set()


def test_a_long_position_flips_by_the_same_rule(tx: Conn) -> None:
    market = market_of(tx, {"A": [100, 110]})
    run = open_at_once(market, 1000, [("A", "BUY", 3)], **flat_fee(tx, 1))
    run.place("A", "SELL", 7)  # brings 769: 329.57 for the 3 that cost 301, 439.43 for the 4
    run.tick(WEEK[1])
    assert held(run) == [("A", -4, D("-439.43"), D("28.57"))]
    assert run.cash == 1000 - 301 + 769
    assert run.rules() == set()


# --- may it stand ---


@pytest.mark.parametrize("side", ["BUY", "SELL"])
@pytest.mark.parametrize(
    ("margin", "most", "fee"), [("0.5", 200, 0), ("1", 100, 0), ("0.2", 500, 0), ("0.5", 199, 1), ("1", 99, 100)]
)
def test_initial_margin_bounds_what_is_opened(tx: Conn, side: str, margin: str, most: int, fee: int) -> None:
    market = market_of(tx, {"A": [100] * 3})
    terms = flat_fee(tx, fee) if fee else {}
    run = Run(market, 10_000, initial_margin=D(margin), maintenance_margin=D("0.1"), **terms)
    run.tick(WEEK[0])
    for quantity in (most + 1, most):
        run.place("A", side, quantity)
        run.place("A", side, 1)  # what is open counts, at its price
        run.cancel(2) if quantity == most + 1 else None
    assert run.orders() == ["REJECTED CASH_INSUFFICIENT", "CANCELED", "PENDING", "REJECTED CASH_INSUFFICIENT"]
    run.tick(WEEK[1])
    assert run.held("A") == (most if side == "BUY" else -most)
    assert run.rules() == set()


@pytest.mark.parametrize("side", ["BUY", "SELL"])
def test_an_order_without_a_price_is_checked_at_its_fill(tx: Conn, side: str) -> None:
    market = market_of(tx, {"A": [100] * 2})
    run = Run(market, 10_000, **FULL)
    for quantity in (201, 150, 51, 50):
        run.place("A", side, quantity)
    assert set(run.orders()) == {"PENDING"}
    run.tick(WEEK[0])
    assert run.orders() == ["REJECTED CASH_INSUFFICIENT", "FILLED", "REJECTED CASH_INSUFFICIENT", "FILLED"]
    assert run.rules() == set()


def test_other_positions_count_at_their_last_close_and_long_and_short_add_up(tx: Conn) -> None:
    market = market_of(tx, {"A": [100, 120, 120], "B": [50, 40, 40], "C": [10] * 3})
    run = open_at_once(market, 10_000, [("A", "BUY", 60), ("B", "SELL", 100)])
    run.tick(WEEK[1])  # equity 10,000 + 1200 + 1000; exposure 7200 + 4000; so 24,400 - 11,200 = 13,200 is left
    for symbol, side, most in (("B", "SELL", 330), ("A", "BUY", 110), ("C", "BUY", 1320), ("C", "SELL", 1320)):
        assert run.place(symbol, side, most + 1)["status"] == "REJECTED"
        order = run.place(symbol, side, most)
        assert order["status"] == "PENDING"
        run.cancel(order["order_id"])
    # at another price than the last close, the whole position is valued there: 60 at 130 are 600 more of equity
    assert run.place("A", "BUY", 107, limit=130)["status"] == "REJECTED"
    assert run.place("A", "BUY", 106, limit=130)["status"] == "PENDING"
    run.tick(WEEK[2])
    assert run.held("A") == 166
    assert run.rules() == set()


def test_what_only_reduces_always_stands_and_what_flips_does_not(tx: Conn) -> None:
    market = market_of(tx, {"A": [100, 60, 60, 60], "B": [100, 100, 100, 100]})
    run = open_at_once(market, 10_000, [("A", "BUY", 200)], maintenance_margin=D("0.01"))
    run.tick(WEEK[1])  # equity 2000, exposure 12,000: far below the initial margin
    assert run.place("A", "BUY", 1)["status"] == "REJECTED"
    assert run.place("B", "SELL", 1)["status"] == "REJECTED"
    run.place("A", "SELL", 150)
    assert run.order(4)["reserve_price"] is None
    flip = run.place("A", "SELL", 130)  # 50 close; the other 80 open 4800, on 2000
    assert run.status(flip["order_id"]) == "REJECTED CASH_INSUFFICIENT"
    flip = run.place("A", "SELL", 110)  # 60 of them open, which is 3600
    assert (flip["status"], flip["reserve_price"]) == ("PENDING", D("32.72727273"))
    run.tick(WEEK[2])
    assert (run.held("A"), run.cash) == (-60, 5600)
    assert run.rules() == set()


def test_protection_reserves_nothing(tx: Conn) -> None:
    market = market_of(tx, {"A": [100] * 3, "B": [100] * 3})
    run = open_at_once(market, 10_000, [("A", "SELL", 100)])
    run.place("A", "BUY", 100, order_type="STOP", stop_price=120)
    assert run.place("B", "BUY", 100)["status"] == "PENDING"
    run.cancel(3)
    run.place("A", "BUY", 200, limit=80)  # and 200 more than the stop covers
    assert (run.order(4)["status"], run.order(4)["reserve_price"]) == ("PENDING", 80)
    assert run.place("B", "BUY", 1)["status"] == "REJECTED"
    assert run.rules() == set()


def test_risk_limits_hold_for_shorts_and_for_what_reduces(tx: Conn) -> None:
    market = market_of(tx, {"A": [100] * 4, "B": [100] * 4})
    run = Run(market, 100_000, **FULL)
    run.tick(WEEK[0])
    run.call("set_risk_limit", max_position=10, max_order_value=1500)
    run.place("A", "SELL", 11)
    run.place("A", "SELL", 10)
    run.place("A", "SELL", 1)
    run.place("B", "SELL", 16)
    run.tick(WEEK[1])
    run.place("A", "BUY", 16)
    run.place("A", "BUY", 15)
    run.place("A", "SELL", 1)
    assert [o.split()[-1] for o in run.orders()] == [
        *("POSITION_LIMIT_EXCEEDED", "FILLED", "POSITION_LIMIT_EXCEEDED", "ORDER_VALUE_EXCEEDED"),
        *("ORDER_VALUE_EXCEEDED", "PENDING", "POSITION_LIMIT_EXCEEDED"),
    ]
    run.call("forbid_symbol", symbol="A")
    assert run.status(run.place("A", "BUY", 1)["order_id"]) == "REJECTED SYMBOL_FORBIDDEN"
    run.tick(WEEK[2])
    assert run.status(6) == "REJECTED SYMBOL_FORBIDDEN"


def test_the_exit_of_a_bracket_never_opens_a_position(tx: Conn) -> None:
    market = market_of(tx, {"A": [100, 100, 100, 120, 120]})
    run = Run(market, 10_000, **FULL)
    run.tick(WEEK[0])
    run.place("A", "SELL", 10, take_profit=80, stop_loss=115)
    run.tick(WEEK[1])
    run.place("A", "BUY", 10)  # covered by hand: the stop has nothing left to protect
    for time in WEEK[2:5]:
        run.tick(time)
    assert run.orders() == ["FILLED", "CANCELED", "REJECTED POSITION_INSUFFICIENT", "FILLED"]
    assert run.held("A") == 0
    assert run.rules() == set()


def test_nor_does_the_order_that_replaces_it(tx: Conn) -> None:
    market = market_of(tx, {"A": [100] * 4})
    run = Run(market, 10_000, **FULL)
    run.tick(WEEK[0])
    run.place("A", "SELL", 10, stop_loss=115)
    run.tick(WEEK[1])
    run.call("replace_order", order_id=2, stop_price=D(110))
    run.place("A", "BUY", 10)  # covered by hand
    run.tick(WEEK[2])
    run.call("replace_order", order_id=3, stop_price=D(105))
    assert run.orders() == ["FILLED", "CANCELED", "PENDING", "FILLED", "REJECTED POSITION_INSUFFICIENT"]
    assert run.rules() == set()


def test_the_exit_of_a_short_bracket_covers_it(tx: Conn) -> None:
    market = market_of(tx, {"A": [100, 100, 100, 80, 80]})
    run = Run(market, 10_000, **FULL)
    run.tick(WEEK[0])
    run.place("A", "SELL", 10, take_profit=85, stop_loss=115)
    drive(run, "replay", WEEK[1:5])
    assert run.orders() == ["FILLED", "FILLED", "CANCELED"]
    assert held(run) == [("A", 0, 0, 200)]
    assert run.rules() == set()


def test_a_cash_account_stays_long_only(tx: Conn) -> None:
    market = market_of(tx, {"A": [100] * 2})
    run = Run(market, 10_000)
    run.tick(WEEK[0])
    run.place("A", "SELL", 1)
    run.place("A", "BUY", 101)
    assert run.orders() == ["REJECTED POSITION_INSUFFICIENT", "REJECTED CASH_INSUFFICIENT"]


def test_sip_and_rebalance_use_the_margin(tx: Conn) -> None:
    market = market_of(tx, {"A": [100] * 9, "B": [100] * 9})
    run = open_at_once(market, 1000, [("B", "SELL", 8)])
    run.sip("A", 500, "DAILY", "2024-01-03")
    for time in WEEK[1:6]:
        run.tick(time)
    # equity 1000 carries 2000: 800 of B, 5 of A twice
    assert [kind for kind, _ in run.events()] == ["SIP_EXECUTED"] * 2 + ["SIP_SKIPPED_FUNDS"] * 3
    run.rebalance('{"A": 0.5, "B": 0.5}', "DAILY", "2024-01-10")
    run.call("pause_sip", sip_id=1)
    run.tick(WEEK[6])
    assert [(t[2], t[3], t[4]) for t in run.trades()[-2:]] == [("A", "SELL", 5), ("B", "BUY", 13)]
    assert (run.held("A"), run.held("B"), run.cash) == (5, 5, 0)
    assert run.rules() == set()


BASKET = {"symbol": None, "frequency": "DAILY", "start": "2024-01-03", "basket": '{"A": 0.5, "B": 0.5}'}


@pytest.mark.parametrize(("amount", "ends"), [(2400, "EXECUTED"), (2402, "SKIPPED_FUNDS")])
def test_a_leg_of_a_sip_is_asked_after_those_that_cover(tx: Conn, amount: int, ends: str) -> None:
    """Half of 2400 covers the 8 of A and opens 4; with 12 of B that is an exposure of 1600, and 0.625 of it 1000."""
    market = market_of(tx, {"A": [100] * 3, "B": [100] * 3})
    run = open_at_once(market, 1000, [("A", "SELL", 8)], initial_margin=D("0.625"))
    run.sip(amount=amount, **BASKET)
    run.tick(WEEK[1])
    assert run.events() == [(f"SIP_{ends}", "1:0")]
    assert run.count("paper_trade") == (3 if ends == "EXECUTED" else 1)
    assert run.rules() == set()


@pytest.mark.parametrize(("amount", "ends"), [(1980, "EXECUTED"), (1984, "SKIPPED_FUNDS")])
def test_a_leg_of_a_sip_is_asked_after_those_before_it_have_paid(tx: Conn, amount: int, ends: str) -> None:
    """Two fees of 10: equity 980 carries 1960."""
    market = market_of(tx, {"A": [100] * 3, "B": [100] * 3})
    run = Run(market, 1000, **FULL, **flat_fee(tx, 10))
    run.sip(amount=amount, **BASKET)
    run.tick(WEEK[1])
    assert run.events() == [(f"SIP_{ends}", "1:0")]
    assert (run.cash, run.count("trade_fee")) == ((-980, 2) if ends == "EXECUTED" else (1000, 0))
    assert run.rules() == set()


def test_a_rebalance_covers_shorts_before_it_buys(tx: Conn) -> None:
    market = market_of(tx, {"A": [100] * 3, "B": [100] * 3})
    run = open_at_once(market, 1000, [("B", "SELL", 20)])
    run.rebalance('{"A": 1}', "DAILY", "2024-01-03")
    run.tick(WEEK[1])
    assert [(t[2], t[3], t[4]) for t in run.trades()[1:]] == [("B", "BUY", 20), ("A", "BUY", 10)]
    assert run.rules() == set()


def test_a_rebalance_covers_whole_whatever_open_orders_reserve(tx: Conn) -> None:
    market = market_of(tx, {"A": [100] * 4, "B": [100, 50, 50, 50]})
    run = open_at_once(market, 1000, [("B", "SELL", 20)])
    run.tick(WEEK[1])
    assert run.place("A", "BUY", 29, limit=99)["status"] == "PENDING"  # of 3000 in cash all but 129
    run.rebalance('{"A": 0}', "DAILY", "2024-01-04")
    run.tick(WEEK[2])
    assert run.held("B") == 0
    assert run.rules() == set()


def test_a_rebalance_of_less_than_nothing_sells_all_and_shorts_nothing(tx: Conn) -> None:
    market = market_of(tx, {"A": [100, 40, 40]})
    run = open_at_once(market, 1000, [("A", "BUY", 20)], maintenance_margin=D("0.01"))
    run.rebalance('{"A": 1}', "DAILY", "2024-01-03")
    run.tick(WEEK[1])
    assert (run.held("A"), run.cash) == (0, -200)
    assert rows(tx, "select payload from event_ledger where user_id = %s", run.user_id) == [({"equity": -200},)]
    assert calls(run) == []
    drive(run, "replay", WEEK[2:])
    assert calls(run) == []
    assert run.rules() == set()


# --- what it costs to hold ---


@each_way
def test_a_short_pays_a_borrow_fee_for_every_day_weekends_too(tx: Conn, way: str) -> None:
    market = market_of(tx, {"A": [100, 110, 120, 130, 140, 150], "B": [10] * 6})
    run = open_at_once(market, 100_000, [("A", "SELL", 10), ("B", "BUY", 100)], borrow_rate=D("0.365"))
    drive(run, way, WEEK[1:6])
    assert charges(run) == [  # a thousandth a day of what the closes before were
        ("01-03 16:00", "BORROW_FEE", -1),
        ("01-04 16:00", "BORROW_FEE", D("-1.1")),
        ("01-05 16:00", "BORROW_FEE", D("-1.2")),
        ("01-08 16:00", "BORROW_FEE", D("-3.9")),
        ("01-09 16:00", "BORROW_FEE", D("-1.4")),
    ]
    assert run.cash == 100_000 - D("8.6")
    assert held(run) == [("A", -10, -1000, 0), ("B", 100, 1000, 0)]  # no part of what the position cost
    assert run.rules() == set()


@each_way
def test_negative_cash_pays_interest(tx: Conn, way: str) -> None:
    market = market_of(tx, {"A": [100] * 6})
    run = open_at_once(market, 10_000, [("A", "BUY", 150)], margin_rate=D("0.365"))
    drive(run, way, WEEK[1:5])
    assert charges(run) == [  # interest on interest: 5005, 5010.005 → 5010.01
        ("01-03 16:00", "MARGIN_INTEREST", -5),
        ("01-04 16:00", "MARGIN_INTEREST", D("-5.01")),  # 5.005
        ("01-05 16:00", "MARGIN_INTEREST", D("-5.01")),
        ("01-08 16:00", "MARGIN_INTEREST", D("-15.05")),  # thrice 5.01502
    ]
    assert run.rules() == set()


def test_both_are_charged_at_once_fee_first_on_what_was_there_before(tx: Conn) -> None:
    market = market_of(tx, {"A": [100] * 2, "B": [100] * 2})
    run = open_at_once(
        market, 10_000, [("A", "BUY", 150), ("B", "SELL", 10)], borrow_rate=D("3.65"), margin_rate=D("3.65")
    )
    run.tick(WEEK[1])
    assert [c[1:] for c in charges(run)] == [("BORROW_FEE", -10), ("MARGIN_INTEREST", -40)]


def test_what_rounds_to_nothing_is_not_booked(tx: Conn) -> None:
    market = market_of(tx, {"A": [D("4.99")] * 2 + [5, 5]})
    run = open_at_once(market, 1000, [("A", "SELL", 1)], borrow_rate=D("0.365"))
    drive(run, "tick", WEEK[1:4])
    assert charges(run) == [("01-05 16:00", "BORROW_FEE", D("-0.01"))]  # 0.00499, 0.00499, 0.005


@each_way
def test_a_date_is_the_markets_and_begins_once(tx: Conn, way: str) -> None:
    """In New York 19:30 is the next day in UTC; the market is closed then, which stops no fee."""
    times = ["2024-01-04 15:00", "2024-01-04 19:30", "2024-01-05 00:30", "2024-01-05 10:00", "2024-01-07 10:00"]
    market = weekday_market(tx, "2024-01-02", "2024-01-31", zone="America/New_York")
    market.bars("A", dict(zip(times, (100, 100, 100, 200, 300), strict=True)))
    run = Run(market, 100_000, **FULL, borrow_rate=D("0.365"))
    run.place("A", "SELL", 10)
    run.tick(times[0])
    drive(run, way, times)
    assert charges(run) == [("01-05 05:30", "BORROW_FEE", -1), ("01-07 15:00", "BORROW_FEE", -4)]


@each_way
def test_the_days_before_are_paid_before_the_orders_of_a_date(tx: Conn, way: str) -> None:
    market = market_of(tx, {"A": [100] * 9})
    run = open_at_once(market, 10_000, [("A", "SELL", 10)], borrow_rate=D("0.365"))
    drive(run, way, WEEK[1:4])
    run.place("A", "BUY", 10)
    drive(run, way, WEEK[4:6])  # Monday covers, and pays for the weekend; Tuesday pays nothing
    run.place("A", "SELL", 20)
    drive(run, way, WEEK[6:8])  # opened on Wednesday, first paid on Thursday
    assert [c[::2] for c in charges(run)][2:] == [
        ("01-05 16:00", -1),
        ("01-08 16:00", -3),
        ("01-11 16:00", -2),
    ]
    assert run.rules() == set()


@pytest.mark.parametrize("step", ["match_orders", "try_execute_sip", "try_rebalance", "log_mtm", "record_equity"])
def test_a_step_called_alone_charges_first_and_the_tick_not_again(tx: Conn, step: str) -> None:
    market = market_of(tx, {"A": [100] * 4})
    run = open_at_once(market, 10_000, [("A", "SELL", 10)], borrow_rate=D("0.365"))
    run.place("A", "BUY", 10)
    run.call(step, logical_time=market.at(WEEK[1]))
    assert charges(run) == [("01-03 16:00", "BORROW_FEE", -1)]
    assert run.cash == sum(a for (a,) in run.table("amount", "cash_ledger", "entry_id"))
    run.call(step, logical_time=market.at(WEEK[1]))
    run.tick(WEEK[1])
    assert charges(run) == [("01-03 16:00", "BORROW_FEE", -1)]
    assert run.rules() == set()
    run.tick(WEEK[3])  # a mark closes its time, so after one the order has waited until now
    assert run.held("A") == 0
    assert sum(c[2] for c in charges(run)) == (-3 if step in ("log_mtm", "record_equity") else -1)


def test_a_time_that_is_closed_charges_nothing(tx: Conn) -> None:
    market = market_of(tx, {"A": [100] * 3})
    run = open_at_once(market, 10_000, [("A", "SELL", 10)], borrow_rate=D("0.365"))
    tx.execute(
        "insert into paper_equity_curve values (%s, %s, %s, 11000, -1000, 10000)", [*run.key, market.at(WEEK[1])]
    )
    assert run.call("log_mtm", logical_time=market.at(WEEK[1])) is True
    run.tick(WEEK[1])
    assert charges(run) == []
    assert run.rules() == set()


def test_a_closed_market_charges_by_no_step(tx: Conn) -> None:
    market = market_of(tx, {"A": [100] * 4})
    run = open_at_once(market, 10_000, [("A", "SELL", 10)], borrow_rate=D("0.365"))
    run.call("try_execute_sip", logical_time=market.at("2024-01-03 08:00"))
    assert charges(run) == []
    run.tick("2024-01-03 08:00")
    assert charges(run) == [("01-03 08:00", "BORROW_FEE", -1)]
    assert run.rules() == set()


# --- margin calls ---

# Symbols by "C": "A" < "Z" < "a". 10,100 carry three times 50 at 100, and 30 at 100.
BOOK = [("a", "SELL", 50), ("Z", "SELL", 50), ("B", "BUY", 30), ("A", "SELL", 50)]
HARD = {"initial_margin": D("0.5"), "maintenance_margin": D("0.45")}


def book_market(conn: Conn, last: Any, times: Sequence[str] = WEEK) -> Market:
    shorts = [100, 100, last, last]
    return market_of(conn, {"a": shorts, "Z": shorts, "A": shorts, "B": [100, 100, 95, 95]}, times)


@each_way
def test_the_largest_positions_are_closed_first_until_equity_carries_the_rest(tx: Conn, way: str) -> None:
    market = book_market(tx, 110)
    run = open_at_once(market, 10_100, BOOK, **HARD)
    drive(run, way, WEEK[1:4])
    # equity 10,100 - 1500 - 150 = 8450; exposure 16,500 + 2850; 45 % of it is 8707.50, of 13,850 it is 6232.50
    assert calls(run) == [("2024-01-04T16:00:00.000000Z", {"equity": 8450, "exposure": 19350})]
    assert closings(run) == [("01-04 16:00", "A", "BUY", 50, 110)]
    order = run.order(5)
    assert (order["source"], order["order_type"], order["status"]) == ("MARGIN", "MARKET", "FILLED")
    assert held(run)[0] == ("A", 0, 0, -500)
    assert run.rules() == set()


@each_way
@pytest.mark.parametrize(("fee", "closed"), [(2200, ["A"]), (2300, ["A", "Z"])])
def test_equals_are_closed_by_name_and_fees_count(tx: Conn, way: str, fee: int, closed: list[str]) -> None:
    """8450, less the fee of closing A, must be 6232.50 to carry the rest; less those of A and Z, 3757.50."""
    market = book_market(tx, 110)
    run = open_at_once(market, 10_100 + 4 * fee, BOOK, **HARD, **flat_fee(tx, fee))
    drive(run, way, WEEK[1:4])
    assert [c[:2] for c in closings(run)] == [("01-04 16:00", symbol) for symbol in closed]
    assert run.rules() == set()


def test_the_larger_position_goes_before_the_earlier_name(tx: Conn) -> None:
    market = market_of(tx, {"A": [100, 100], "B": [100, 120]})
    run = open_at_once(market, 10_000, [("A", "SELL", 99), ("B", "SELL", 100)], maintenance_margin=D("0.4"))
    run.tick(WEEK[1])
    assert closings(run) == [("01-03 16:00", "B", "BUY", 100, 120)]


@each_way
@pytest.mark.parametrize(("price", "called"), [(80, False), (D("79.99"), True)])
def test_equity_that_is_just_enough_is_enough(tx: Conn, way: str, price: Any, called: bool) -> None:
    market = market_of(tx, {"A": [100, 100, price, price]})
    run = open_at_once(market, 10_000, [("A", "BUY", 200)], maintenance_margin=D("0.375"))
    drive(run, way, WEEK[1:4])  # at 80: equity 6000 of 16,000
    assert bool(calls(run)) is called
    assert run.held("A") == (0 if called else 200)
    assert run.rules() == set()


@each_way
def test_a_call_waits_until_the_market_is_open(tx: Conn, way: str) -> None:
    times = ["2024-01-02 16:00", "2024-01-02 18:00", "2024-01-03 09:30", "2024-01-03 10:00", "2024-01-03 11:00"]
    market = market_of(tx, {"A": [100, 30, 30, 31, 31]}, times)
    run = open_at_once(market, 10_000, [("A", "BUY", 140)])
    drive(run, way, times[1:])
    assert closings(run) == [("01-03 10:00", "A", "SELL", 140, 31)]
    assert run.cash == 10_000 - 140 * 69
    assert run.rules() == set()


@each_way
def test_more_is_lost_than_there_was_and_that_is_the_end(tx: Conn, way: str) -> None:
    market = market_of(tx, {"A": [100, 170, 170, 170], "B": [10] * 4})
    run = open_at_once(market, 10_000, [("A", "SELL", 190), ("B", "BUY", 1)], margin_rate=D("0.365"))
    drive(run, way, WEEK[1:4])
    assert [c[1] for c in closings(run)] == ["A", "B"]
    assert len(calls(run)) == 1
    assert run.cash == -3300 - D("3.3") - D("3.3")  # what is owed goes on costing
    assert run.place("B", "BUY", 1)["status"] == "REJECTED"
    assert run.rules() == set()


@each_way
def test_a_call_needs_no_leave_and_takes_no_reserve_into_account(tx: Conn, way: str) -> None:
    market = market_of(tx, {"A": [100, 100, 140]})
    run = open_at_once(market, 10_000, [("A", "SELL", 150)])
    run.place("A", "SELL", 40, limit=1000)
    run.call("set_risk_limit", max_position=1, max_order_value=1)
    run.call("forbid_symbol", symbol="A")
    drive(run, way, WEEK[1:3])
    assert closings(run) == [("01-04 16:00", "A", "BUY", 150, 140)]
    assert run.rules() == set()


@each_way
def test_a_stale_price_closes_nothing_until_there_is_a_new_one(tx: Conn, way: str) -> None:
    market = market_of(tx, {"A": [100, None, None, 101], "B": [100, 100, 160, 160], "C": [1] * 4})
    orders = [("A", "SELL", 90), ("B", "SELL", 90)]
    run = open_at_once(market, 10_000, orders, max_price_age="1 day", maintenance_margin=D("0.45"))
    drive(run, way, WEEK[1:5])
    # B alone is closed at first; equity 10,000 - 5400 then carries 9000 of A
    assert closings(run) == [("01-04 16:00", "B", "BUY", 90, 160)]
    assert run.rules() == set()


@each_way
def test_nothing_is_called_while_all_that_is_held_is_stale(tx: Conn, way: str) -> None:
    market = market_of(tx, {"A": [100, 100, None, None, 150], "C": [1] * 5})
    run = open_at_once(market, 10_000, [("A", "SELL", 150)], max_price_age="1 hour", borrow_rate=100)
    drive(run, way, WEEK[1:5])  # the fee of 100 a year eats the equity up: 4109.59 a day
    assert [c[0] for c in calls(run)] == ["2024-01-08T16:00:00.000000Z"]
    assert closings(run) == [("01-08 16:00", "A", "BUY", 150, 150)]
    assert run.rules() == set()


@each_way
def test_a_call_comes_after_sip_and_rebalance(tx: Conn, way: str) -> None:
    """The rebalance sells what would have been called for."""
    market = market_of(tx, {"A": [100, 60, 60]})
    run = open_at_once(market, 10_000, [("A", "BUY", 190)])
    run.rebalance('{"A": 0.5}', "DAILY", "2024-01-03")
    drive(run, way, WEEK[1:3])
    assert (calls(run), closings(run)) == ([], [])
    assert run.held("A") == 20
    assert run.rules() == set()


@pytest.mark.parametrize("policy", ["EVERY_TICK", "SESSION", "EVENTS"])
@pytest.mark.parametrize("rate", [0, D("0.1")])
def test_a_breach_inside_a_replayed_span_is_found_where_it_is(tx: Conn, policy: str, rate: Any) -> None:
    """Bars every half hour; the price is away for one bar, between two dates and far from any order."""
    times = [f"2024-01-{d:02} {h:02}:{m}" for d in (2, 3, 4, 5) for h in range(10, 16) for m in ("00", "30")]
    prices: list[Any] = [100] * len(times)
    prices[20], prices[31] = 146, 147
    runs = []
    for way in WAYS:
        market = market_of(tx, {"A": prices, "B": [50] * len(times)}, times)
        terms = {"mark_policy": policy, "borrow_rate": rate}
        run = Run(market, 10_000, initial_margin=D("0.5"), maintenance_margin=D("0.25"), **terms)
        run.place("A", "SELL", 120)
        run.tick(times[0])
        run.place("B", "BUY", 1, limit=40)
        drive(run, way, times[1:])
        assert closings(run) == [("01-04 13:30", "A", "BUY", 120, 147)]
        assert run.rules() == set()
        runs.append(run)
    for run in runs[1:]:
        assert rows(tx, "select d::text from replay_diff(%s, %s, %s, %s) d", *runs[0].key, *run.key) == []


def test_a_call_that_is_there_already_is_not_made_twice(tx: Conn) -> None:
    market = market_of(tx, {"A": [100, 200, 200]})
    run = open_at_once(market, 10_000, [("A", "SELL", 190)])
    tx.execute(
        "insert into event_ledger values (%s, %s, %s, 'MARGIN_CALL', '2024-01-03T16:00:00.000000Z', %s)",
        [*run.key, market.at(WEEK[1]), '{"equity": -9000, "exposure": 38000}'],
    )
    run.tick(WEEK[1])
    assert closings(run) == []
    run.tick(WEEK[2])
    assert len(closings(run)) == 1
    assert run.rules() == set()


# --- corporate actions ---


@each_way
def test_the_short_pays_the_dividend(tx: Conn, way: str) -> None:
    market = market_of(tx, {"A": [100] * 6})
    tx.execute(
        "insert into corporate_action (symbol, ex_date, action_type, amount, pay_date)"
        " values ('A', '2024-01-04', 'DIVIDEND', 1.255, '2024-01-08')"
    )
    run = open_at_once(market, 10_000, [("A", "SELL", 10)], reinvest_dividends=True)
    drive(run, way, WEEK[1:6])
    assert charges(run) == [("01-08 16:00", "DIVIDEND", D("-12.55"))]
    assert rows(tx, "select quantity, amount from dividend_due where user_id = %s", run.user_id) == [(-10, D("-12.55"))]
    assert held(run) == [("A", -10, -1000, 0)]
    assert run.rules() == set()


@each_way
def test_a_short_follows_a_split_and_pays_for_its_fraction(tx: Conn, way: str) -> None:
    market = market_of(tx, {"A": [90, 90, 60, 60]})
    tx.execute("update instrument set quantity_step = 1 where symbol = 'A'")
    tx.execute("insert into corporate_action values ('A', '2024-01-04', 'SPLIT', 3, 2)")
    run = open_at_once(market, 10_000, [("A", "SELL", 7)])  # 10.5: 10, and half a unit at 60
    drive(run, way, WEEK[1:4])
    assert charges(run) == [("01-04 16:00", "CASH_IN_LIEU", -30)]
    assert held(run) == [("A", -10, -600, 0)]
    assert run.table("equity", "paper_equity_curve", "logical_time")[-1] == (10_000,)
    assert run.rules() == set()


@each_way
def test_a_fee_is_of_the_days_before_the_split(tx: Conn, way: str) -> None:
    market = market_of(tx, {"A": [100, 100, 25, 25]})
    tx.execute("insert into corporate_action values ('A', '2024-01-04', 'SPLIT', 4, 1)")
    run = open_at_once(market, 10_000, [("A", "SELL", 10)], borrow_rate=D("0.365"))
    drive(run, way, WEEK[1:4])
    assert charges(run) == [(f"01-0{d} 16:00", "BORROW_FEE", -1) for d in (3, 4, 5)]
    assert run.rules() == set()


# --- the run ---


def test_a_run_stops_with_its_shorts(tx: Conn) -> None:
    market = market_of(tx, {"A": [100, 500]})
    run = open_at_once(market, 10_000, [("A", "SELL", 10)], borrow_rate=1)
    run.place("A", "BUY", 10)
    run.call("stop_run")
    assert run.orders() == ["FILLED", "CANCELED"]
    assert held(run) == [("A", -10, -1000, 0)]
    before = run.snapshot()
    with refused(tx, "TE001"):
        run.tick(WEEK[1])
    assert run.snapshot() == before
    assert run.rules() == set()


def test_the_curve_of_a_margin_run_is_computed_as_it_is_stored(tx: Conn) -> None:
    times = [f"2024-01-{d:02} {h}:00" for d in (2, 3, 4, 5) for h in (10, 12, 14)]
    curves = []
    for policy in ("EVERY_TICK", "SESSION", "EVENTS"):
        market = market_of(tx, {"A": [100 + n for n in range(12)], "B": [100 - n for n in range(12)]}, times)
        run = Run(market, 10_000, **FULL, borrow_rate=1, margin_rate=1, mark_policy=policy)
        run.place("A", "SELL", 40)
        run.place("B", "BUY", 150)
        drive(run, "tick", times[:1])
        drive(run, "replay", times)
        curves.append(rows(tx, "select * from equity_between(%s, %s)", *run.key))
        assert len(charges(run)) == 6
    assert len(curves[0]) == 12
    assert curves[0] == curves[1] == curves[2]


@pytest.mark.parametrize(
    ("argument", "terms"),
    [
        *(("initial_margin", {**FULL, "initial_margin": x}) for x in (0, -1, D("1.00000001"), "NaN", "Infinity", D("1e-9"))),
        *(("maintenance_margin", {**FULL, "maintenance_margin": x}) for x in (0, -1, D("0.51"), "NaN", D("1e-9"), None)),
        ("maintenance_margin", {"maintenance_margin": D("0.25")}),
        *(
            (rate, {**FULL, rate: x})
            for rate in ("borrow_rate", "margin_rate")
            for x in (D("-0.01"), D("100.01"), "NaN", None)
        ),
        ("borrow_rate", {"borrow_rate": D("0.01")}),
        ("margin_rate", {"margin_rate": D("0.01")}),
    ],
)  # fmt: skip
def test_terms_that_make_no_sense_are_refused(tx: Conn, argument: str, terms: dict[str, Any]) -> None:
    market = Market(tx)
    with refused(tx, "TE101", argument=argument):
        Run(market, 1000, **terms)


@pytest.mark.parametrize(
    ("constraint", "columns"),
    [
        *(("initial_margin_is_a_share", f"{value}, 0.1, 0, 0") for value in ("1.1", "'NaN'")),
        *(("maintenance_margin_is_within_initial", f"0.5, {value}, 0, 0") for value in ("0", "-1", "0.6", "'NaN'")),
        *(("margins_come_together", pair + ", 0, 0") for pair in ("0.5, null", "null, 0.5")),
        *(("rates_are_not_negative", f"0.5, 0.5, {rates}") for rates in ("-1, 0", "0, -1", "'NaN', 0", "0, 101")),
        *(("cash_account_owes_nothing", f"null, null, {rates}") for rates in ("1, 0", "0, 1")),
    ],
)
def test_raw_terms_are_checked(tx: Conn, constraint: str, columns: str) -> None:
    user_id = val(tx, "select create_user('x')")
    with pytest.raises(psycopg.errors.CheckViolation) as caught, tx.transaction():
        tx.execute(
            "insert into strategy_run (user_id, status, initial_margin, maintenance_margin, borrow_rate, margin_rate)"
            f" values (%s, 'RUNNING', {columns})",
            [user_id],
        )
    assert caught.value.diag.constraint_name == f"strategy_run_{constraint}"


@pytest.mark.parametrize("change", ["initial_margin = 0.6", "maintenance_margin = 0.2", "borrow_rate = 1", "margin_rate = 1",
                                    "initial_margin = null, maintenance_margin = null"])  # fmt: skip
def test_terms_are_frozen_once_the_run_has_begun(tx: Conn, change: str) -> None:
    run = Run(Market(tx), 1000, **FULL)
    with refused(tx, "TE004"):
        tx.execute(f"update strategy_run set {change} where user_id = %s", [run.user_id])


def test_an_older_call_of_start_run_still_finds_one_verb(tx: Conn) -> None:
    user_id = val(tx, "select create_user('x')")
    tx.execute(
        "select start_run(%s, 1000, 'default', 'n', null, 0, null, 'EVERY_TICK', 'USD', 0, 0, null, false)", [user_id]
    )
    assert rows(tx, "select initial_margin, borrow_rate from strategy_run where user_id = %s", user_id) == [(None, 0)]


def test_tick_all_leaves_quiet_cash_runs_quiet_and_ticks_margin_runs_whole(tx: Conn) -> None:
    market = market_of(tx, {"A": [100, 100, 150]})
    cash, margin, flat = Run(market, 10_000), Run(market, 10_000, **FULL), Run(market, 10_000, **FULL)
    cash.place("A", "BUY", 50)
    margin.place("A", "SELL", 150)
    for run in (cash, margin, flat):
        run.tick(WEEK[0])
    busy = "select e.user_id from engine.runs_with_events(%s, %s, %s, %s) e"
    users, ids = zip(*(run.key for run in (cash, margin, flat)), strict=True)
    assert rows(tx, busy, list(users), list(ids), market.feed, at(WEEK[2])) == [(margin.user_id,)]
    drive(cash, "tick_all", WEEK[1:3])
    assert closings(margin) == [("01-04 16:00", "A", "BUY", 150, 150)]


def test_what_was_sold_short_has_no_return_on_what_was_put_in(tx: Conn) -> None:
    """Its flows are those of a loan: the rate that solves them is what it cost. Equity knows better."""
    market = Market(tx)
    market.bars("A", {"2024-01-01 12:00": 100, "2024-01-02 12:00": 100, "2024-12-31 12:00": "63.7"})
    market.bars("B", {"2024-01-01 12:00": 10, "2024-01-02 12:00": 10, "2024-12-31 12:00": 11})
    run = Run(market, 10_000, initial_margin="0.5", maintenance_margin="0.25")
    run.tick("2024-01-01 12:00")
    run.place("B", "BUY", 1)
    run.place("A", "SELL", 50)
    run.tick("2024-01-02 12:00")
    run.place("A", "BUY", 50)
    run.tick("2024-12-31 12:00")
    found = dict(rows(tx, "select metric, value from performance(%s, %s)", *run.key))
    assert found["xirr_invested"] is None
    assert 0.18 < found["xirr"] < 0.19
    reasons = dict(rows(tx, "select * from performance_reasons(%s, %s)", *run.key))
    assert reasons["xirr_invested"] == "SHORT_POSITION"
    by_symbol = {(s, m): v for s, m, v in rows(tx, "select * from performance_by_symbol(%s, %s)", *run.key)}
    assert by_symbol["A", "xirr"] is None
    assert by_symbol["B", "xirr"] > 0
