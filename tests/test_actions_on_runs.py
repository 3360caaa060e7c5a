"""Corporate actions: splits and dividends on what a run holds, by every way to drive it."""

from __future__ import annotations

from typing import Any

import pytest
from desk import Conn, D, Market, Run, day, refused, rows, val, weekday_market

CLOSE = "16:00"
DAYS = ["2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05", "2024-01-08", "2024-01-09"]
TIMES = [f"{d} {CLOSE}" for d in DAYS]


def market_of(conn: Conn, bars: dict[str, Any], symbol: str = "ACME", step: str = "1", tick: Any = None) -> Market:
    market = weekday_market(conn, DAYS[0], "2024-01-31")
    market.instrument(symbol, step=step, tick=tick)
    market.bars(symbol, bars)
    return market


def split(conn: Conn, symbol: str, ex_date: str, new: int, old: int) -> None:
    conn.execute("insert into corporate_action values (%s, %s, 'SPLIT', %s, %s)", [symbol, ex_date, new, old])


def dividend(conn: Conn, symbol: str, ex_date: str, amount: str, pay_date: str) -> None:
    conn.execute(
        "insert into corporate_action (symbol, ex_date, action_type, amount, pay_date) values (%s, %s, 'DIVIDEND', %s, %s)",
        [symbol, ex_date, amount, pay_date],
    )


def drive(run: Run, way: str, times: list[str]) -> None:
    """From the second time on; the first was ticked."""
    at = [run.market.at(t) for t in times]
    if way == "replay":
        run.conn.execute("call replay(%s, %s, %s, %s)", [*run.key, at[0], at[-1]])
    elif way == "last":
        run.tick(times[-1])
    else:
        for t in at[1:]:
            if way == "tick":
                run.tick(t)
            else:
                run.conn.execute("call tick_all(%s, %s)", [t, run.market.feed])


each_way = pytest.mark.parametrize("way", ["tick", "replay", "tick_all", "last"])


@each_way
def test_a_split_moves_position_and_price_together(tx: Conn, way: str) -> None:
    market = market_of(tx, {t: 100 if t < "2024-01-04" else 25 for t in TIMES})
    split(tx, "ACME", "2024-01-04", 4, 1)
    run = Run(market, 10_000)
    run.place("ACME", "BUY", 30)
    run.tick(TIMES[0])
    drive(run, way, TIMES)
    assert run.held("ACME") == 120
    assert run.table("cost_basis, realized_pnl", "paper_position", "symbol") == [(3000, 0)]
    assert {m[0] for m in run.table("equity", "paper_equity_curve", "logical_time")} == {D(10_000)}
    assert rows(
        tx, "select event_type, event_key, payload from event_ledger where (user_id, run_id) = (%s, %s)", *run.key
    ) == [
        (
            "SPLIT",
            "ACME:2024-01-04",
            {"symbol": "ACME", "numerator": 4, "denominator": 1, "quantity": 30, "units": 90},
        )
    ]
    assert run.rules() == set()


@each_way
def test_a_fraction_is_paid_in_cash_with_its_share_of_the_cost(tx: Conn, way: str) -> None:
    market = market_of(tx, {t: 90 if t < "2024-01-04" else 60 for t in TIMES})
    split(tx, "ACME", "2024-01-04", 3, 2)
    run = Run(market, 10_000)
    run.place("ACME", "BUY", 7)  # 10.5 after the split: 10, and half a unit at 60 in cash
    run.tick(TIMES[0])
    drive(run, way, TIMES)
    assert run.held("ACME") == 10
    assert run.cash == 10_000 - 630 + 30
    assert run.table("cost_basis, realized_pnl", "paper_position", "symbol") == [(600, 0)]
    assert run.table("amount, cause", "cash_ledger", "entry_id")[2:] == [(30, "CASH_IN_LIEU")]
    assert run.rules() == set()


@pytest.mark.parametrize(
    ("price", "units", "ratio", "cash", "cost"),
    [
        ("120.06", 1, (4, 3), "30.02", "30.02"),  # a third of 90.045, which is 30.015; a quarter of the cost, 30.015
        ("0.06", 1, (4, 3), "0.02", "0.02"),
        ("1.2", 100, (21, 20), "0", "0"),  # no fraction
        ("0.3", 7, (3, 7), "0", "0"),
        ("0.2", 5, (2, 3), "0.10", "0.10"),
        ("0.05", 1, (10, 9), "0.01", "0.01"),  # 0.045 / 9, which is 0.005
    ],
)
def test_half_a_cent_of_a_fraction_is_rounded_up(
    tx: Conn, price: str, units: int, ratio: tuple[int, int], cash: str, cost: str
) -> None:
    """Exactly: a third of a unit is no decimal."""
    market = market_of(tx, dict.fromkeys(TIMES, D(price)))
    split(tx, "ACME", "2024-01-04", *ratio)
    run = Run(market, 1000)
    run.place("ACME", "BUY", units)
    run.tick(TIMES[0])
    bought = 1000 - run.cash
    drive(run, "last", TIMES)
    assert run.cash == 1000 - bought + D(cash)
    assert run.table("cost_basis, realized_pnl", "paper_position", "symbol") == [(bought - D(cost), D(cash) - D(cost))]
    assert run.rules() == set()


@each_way
def test_a_reverse_split_that_leaves_nothing(tx: Conn, way: str) -> None:
    market = market_of(tx, {t: 1 if t < "2024-01-04" else 100 for t in TIMES})
    split(tx, "ACME", "2024-01-04", 1, 100)
    run = Run(market, 100)
    run.place("ACME", "BUY", 40)
    run.tick(TIMES[0])
    order = run.place("ACME", "SELL", 40, limit=2)
    drive(run, way, TIMES)
    assert (run.held("ACME"), run.cash) == (0, 100)
    assert run.status(order["order_id"]) == "CANCELED"
    assert run.table("cost_basis, realized_pnl", "paper_position", "symbol") == [(0, 0)]
    assert run.rules() == set()


@pytest.mark.parametrize(("new", "old"), [(0, 1), (1, 0), (-2, 1), (1_000_001, 1), (1, 1_000_001)])
def test_a_ratio_is_of_numbers_up_to_a_million(tx: Conn, new: int, old: int) -> None:
    Market(tx, symbols=["ACME"])
    with refused(tx, "23514"):
        split(tx, "ACME", "2024-01-04", new, old)


@each_way
@pytest.mark.parametrize("side", ["BUY", "SELL"])
def test_a_split_into_more_than_can_be_held_pays_for_the_rest(tx: Conn, way: str, side: str) -> None:
    market = market_of(tx, {t: 1 if t < "2024-01-04" else D("0.000001") for t in TIMES})
    split(tx, "ACME", "2024-01-04", 1_000_000, 1)
    run = Run(market, 10**7, initial_margin=1, maintenance_margin=D("0.1"))
    run.place("ACME", side, 2 * 10**6)
    run.tick(TIMES[0])
    orders = [run.place("ACME", side, n, limit=D("0.5") if side == "BUY" else 2) for n in (10**6, 10**5)]
    drive(run, way, TIMES)
    sign = 1 if side == "BUY" else -1
    assert run.held("ACME") == sign * (10**12 - 1)
    assert run.cash == 10**7 - sign * 2 * 10**6 + sign * (10**6 + D("0.000001")).quantize(D("0.01"))
    assert [run.status(o["order_id"]) for o in orders] == ["CANCELED", "PENDING"]
    assert run.order(3)["quantity"] == 10**11
    assert run.rules() == set()


@each_way
def test_an_order_whose_price_leaves_all_prices_ends_with_the_split(tx: Conn, way: str) -> None:
    market = market_of(tx, {t: 2 * (10**6 if t < "2024-01-04" else 10**11) for t in TIMES}, step="0.000001")
    split(tx, "ACME", "2024-01-04", 1, 100_000)
    run = Run(market, 10**8)
    run.place("ACME", "BUY", 10)
    run.tick(TIMES[0])
    run.place("ACME", "SELL", 1, limit=10**7)
    run.place("ACME", "SELL", 1, limit=10**7 - 1)
    run.place("ACME", "SELL", 1, order_type="STOP", stop_price=10**6, time_in_force="DAY")
    run.place("ACME", "BUY", 1, limit=10**6, take_profit=10**7)
    drive(run, way, TIMES)
    assert [run.status(n) for n in (2, 3, 4, 5)] == ["CANCELED", "PENDING", "EXPIRED", "CANCELED"]
    assert run.order(3)["limit_price"] == 10**5 * (10**7 - 1)
    found = rows(tx, "select detail ->> 'by' from explain_order(%s, %s, 2) where code = 'CANCELED'", *run.key)
    assert found == [("SPLIT",)]
    assert run.rules() == set()


@each_way
def test_an_order_that_has_partly_filled_follows_for_what_is_left(tx: Conn, way: str) -> None:
    market = market_of(tx, {t: (100, 100, 100, 100, 8) if t < "2024-01-04" else (50, 50, 50, 50, 8) for t in TIMES})
    split(tx, "ACME", "2024-01-04", 2, 1)
    run = Run(market, 10_000, participation=D("0.5"))
    run.place("ACME", "BUY", 10, limit=100)  # 4 on each of two bars; then 4 for the 2 that are left
    run.tick(TIMES[0])
    drive(run, way, TIMES)
    assert [(t[4], t[5]) for t in run.trades()] == [(4, 100), (4, 100), (4, 50)]
    order = run.order(1)
    assert (order["status"], order["quantity"], order["limit_price"]) == ("FILLED", 12, 50)
    assert run.rules() == set()  # the first fills are not beyond the limit, which was another


@each_way
def test_a_trailing_stop_takes_what_it_has_won_over_the_split(tx: Conn, way: str) -> None:
    """Bars before the split are in old units, and so is the trail then."""
    prices = dict(zip(TIMES, (100, 120, 60, 60, 45, 40), strict=True))
    market = market_of(tx, prices)
    split(tx, "ACME", "2024-01-04", 2, 1)
    run = Run(market, 10_000)
    run.place("ACME", "BUY", 20)
    run.tick(TIMES[0])
    run.place("ACME", "SELL", 10, order_type="TRAILING_STOP", trail_amount=30)  # 70, 90, then 45 with a trail of 15
    run.place("ACME", "SELL", 10, order_type="TRAILING_STOP", trail_percent=50)  # 50, 60, then 30
    drive(run, way, TIMES)
    assert run.trades()[1:] == [(2, market.at(TIMES[4]), "ACME", "SELL", 20, 45)]
    assert (run.order(2)["trail_amount"], run.order(2)["stop_price"]) == (15, 45)
    assert (run.order(3)["status"], run.order(3)["stop_price"]) == ("PENDING", 30)
    assert run.rules() == set()


@each_way
def test_a_trailing_stop_that_a_split_leaves_nothing_of(tx: Conn, way: str) -> None:
    market = market_of(tx, {t: 1 if t < "2024-01-04" else 100 for t in TIMES})
    split(tx, "ACME", "2024-01-04", 1, 100)
    run = Run(market, 100)
    run.place("ACME", "BUY", 40)
    run.tick(TIMES[0])
    run.place("ACME", "SELL", 40, order_type="TRAILING_STOP", trail_percent=10)
    drive(run, way, TIMES)
    order = run.order(2)
    assert (order["status"], order["closed_time"], order["seen_time"]) == ("CANCELED", market.at(TIMES[2]), None)
    assert order["stop_price"] == 90  # that of 1, restated
    assert run.rules() == set()


@each_way
def test_open_orders_follow_a_split(tx: Conn, way: str) -> None:
    prices: dict[str, Any] = {t: 100 if t < "2024-01-05" else 50 for t in TIMES}
    prices["2024-01-08 16:00"] = (50, 56, 40, 50)
    market = market_of(tx, prices, tick="0.01")
    split(tx, "ACME", "2024-01-05", 2, 1)
    run = Run(market, 100_000)
    run.place("ACME", "BUY", 10)
    run.tick(TIMES[0])
    run.place("ACME", "BUY", 3, limit=D("90.01"))  # 2: 6 at 45.00, down to the grid
    run.place("ACME", "SELL", 4, limit=D("110.01"))  # 3: 8 at 55.01, up to the grid
    run.place("ACME", "SELL", 1, order_type="STOP", stop_price=D("85.01"))  # 4: 2 at 42.50
    run.place("ACME", "BUY", 1, limit=60)  # 5: 2 at 30, not reached
    drive(run, way, TIMES)
    assert [(t[0], t[4], t[5]) for t in run.trades()[1:]] == [(4, 2, D("42.5")), (3, 8, D("55.01")), (2, 6, 45)]
    assert (run.order(5)["quantity"], run.order(5)["limit_price"], run.order(5)["reserve_price"]) == (2, 30, 30)
    assert run.order(2)["reserve_price"] == D("45.005")  # money has no grid
    assert run.rules() == set()


@each_way
def test_a_split_waits_for_the_symbols_own_bar(tx: Conn, way: str) -> None:
    """Position and price change at the same bar, so that no mark in between is wrong."""
    market = market_of(tx, {TIMES[0]: 100, TIMES[1]: 100, TIMES[5]: 50})
    market.bars("CLOCK", dict.fromkeys(TIMES, 1))
    split(tx, "ACME", "2024-01-04", 2, 1)
    run = Run(market, 10_000)
    run.place("ACME", "BUY", 10)
    run.tick(TIMES[0])
    drive(run, way, TIMES)
    assert run.held("ACME") == 20
    assert {m[0] for m in run.table("equity", "paper_equity_curve", "logical_time")} == {D(10_000)}
    assert rows(tx, "select logical_time from event_ledger where user_id = %s", run.user_id) == [(market.at(TIMES[5]),)]
    assert run.rules() == set()


@each_way
def test_dividends_go_to_holders_before_the_ex_date_on_the_pay_date(tx: Conn, way: str) -> None:
    market = market_of(tx, dict.fromkeys(TIMES, 100))
    dividend(tx, "ACME", "2024-01-04", "0.255", "2024-01-06")  # a Saturday: paid at Monday's bar
    before, after = Run(market, 10_000), Run(market, 10_000)
    before.place("ACME", "BUY", 10)
    before.tick(TIMES[0])
    after.tick(TIMES[0])
    for run in (before, after):
        if way == "tick_all" and run is after:
            continue
        drive(run, way, TIMES)
    assert before.cash == D("9002.55")
    assert before.table("amount, cause, logical_time", "cash_ledger", "entry_id")[2:] == [
        (D("2.55"), "DIVIDEND", market.at(TIMES[4]))
    ]
    assert before.table("symbol, ex_date, quantity, amount, paid_time, entry_id", "dividend_due", "symbol") == [
        ("ACME", day("2024-01-04"), 10, D("2.55"), market.at(TIMES[4]), 3)
    ]
    assert (after.cash, after.count("dividend_due")) == (10_000, 0)
    assert before.rules() | after.rules() == set()


@each_way
def test_who_buys_on_the_ex_date_gets_nothing_and_who_sells_then_is_paid(tx: Conn, way: str) -> None:
    market = market_of(tx, dict.fromkeys(TIMES, 100))
    dividend(tx, "ACME", "2024-01-03", "1", "2024-01-03")
    buyer, seller = Run(market, 10_000), Run(market, 10_000)
    seller.place("ACME", "BUY", 5)
    for run in (buyer, seller):
        run.tick(TIMES[0])
    buyer.place("ACME", "BUY", 5)
    seller.place("ACME", "SELL", 5)
    drive(buyer, way, TIMES)
    if way != "tick_all":
        drive(seller, way, TIMES)
    assert (buyer.cash, seller.cash) == (9_500, 10_005)
    assert buyer.rules() | seller.rules() == set()


@each_way
def test_a_dividend_is_reinvested_at_the_close(tx: Conn, way: str) -> None:
    market = market_of(tx, dict.fromkeys(TIMES, 40), step="0.001")
    dividend(tx, "ACME", "2024-01-04", "1", "2024-01-05")
    run = Run(market, 1000, reinvest_dividends=True)
    run.place("ACME", "BUY", 25)
    run.tick(TIMES[0])
    drive(run, way, TIMES)
    assert run.trades()[1:] == [(2, market.at(TIMES[3]), "ACME", "BUY", D("0.625"), 40)]
    assert (run.held("ACME"), run.cash, run.order(2)["source"]) == (D("25.625"), 0, "DIVIDEND")
    assert run.rules() == set()


@each_way
def test_a_bar_that_closes_at_midnight_is_of_the_day_before(tx: Conn, way: str) -> None:
    """So daily bars are stamped under ALWAYS: that of the 2nd at 00:00 on the 3rd."""
    times = [f"2024-01-0{n} 00:00" for n in (2, 3, 4, 5)]
    market = Market(tx)
    market.instrument("ACME", step="1")
    market.bars("ACME", {t: 100 if t < "2024-01-04" else 50 for t in times})
    split(tx, "ACME", "2024-01-03", 2, 1)  # the bar of the 3rd is stamped 00:00 on the 4th
    dividend(tx, "ACME", "2024-01-03", "1", "2024-01-04")
    run = Run(market, 10_000)
    run.place("ACME", "BUY", 5)
    run.tick(times[0])
    drive(run, way, times)
    equity = dict(run.table("logical_time, equity", "paper_equity_curve", "logical_time"))
    assert equity == {at: 10_010 if at == market.at(times[3]) else 10_000 for at in equity}
    assert rows(tx, "select event_type, logical_time from event_ledger where user_id = %s order by 1", run.user_id) == [
        ("DIVIDEND", market.at(times[2])),
        ("SPLIT", market.at(times[2])),
    ]
    assert rows(tx, "select quantity, paid_time from dividend_due where user_id = %s", run.user_id) == [
        (10, market.at(times[3]))
    ]


@each_way
def test_actions_that_wait_for_one_bar_come_in_the_order_of_their_dates(tx: Conn, way: str) -> None:
    """A dividend before a split is per old unit; one of its date per new unit."""
    market = market_of(tx, {TIMES[0]: 100, TIMES[4]: 50, TIMES[5]: 50})
    market.bars("CLOCK", dict.fromkeys(TIMES, 1))
    dividend(tx, "ACME", "2024-01-03", "1", "2024-01-03")
    split(tx, "ACME", "2024-01-04", 2, 1)
    dividend(tx, "ACME", "2024-01-04", "0.1", "2024-01-09")
    run = Run(market, 10_000)
    run.place("ACME", "BUY", 10)
    run.tick(TIMES[0])
    drive(run, way, TIMES)
    assert run.table("quantity, amount, paid_time", "dividend_due", "ex_date") == [
        (10, 10, market.at(TIMES[4])),
        (20, 2, market.at(TIMES[5])),
    ]
    assert run.rules() == set()


@each_way
def test_a_fraction_after_two_splits_is_paid_at_the_price_after_both(tx: Conn, way: str) -> None:
    market = market_of(tx, {TIMES[0]: 90, TIMES[4]: 40, TIMES[5]: 40})
    market.bars("CLOCK", dict.fromkeys(TIMES, 1))
    split(tx, "ACME", "2024-01-03", 3, 2)  # 5 are 7.5: half a unit at 60
    split(tx, "ACME", "2024-01-04", 3, 2)  # 7 are 10.5: half a unit at 40
    run = Run(market, 10_000)
    run.place("ACME", "BUY", 5)
    run.tick(TIMES[0])
    drive(run, way, TIMES)
    assert run.table("amount, cause", "cash_ledger", "entry_id")[2:] == [(30, "CASH_IN_LIEU"), (20, "CASH_IN_LIEU")]
    assert {m[0] for m in run.table("equity", "paper_equity_curve", "logical_time")} == {D(10_000)}
    assert run.rules() == set()


@each_way
def test_a_split_waits_for_as_long_as_the_symbol_has_no_bar(tx: Conn, way: str) -> None:
    """A fund that is priced once a quarter, and a market of days."""
    times = [f"2024-{m:02}-{d:02} {CLOSE}" for m in (1, 2, 3) for d in (2, 9, 16, 23)]
    market = Market(tx)
    market.instrument("FUND", step="1")
    market.bars("FUND", {times[0]: 100, times[-2]: 50, times[-1]: 50})
    market.bars("CLOCK", dict.fromkeys(times, 1))
    split(tx, "FUND", "2024-01-05", 2, 1)
    dividend(tx, "FUND", "2024-01-10", "1", "2024-01-15")
    run = Run(market, 10_000)
    run.place("FUND", "BUY", 10)
    run.tick(times[0])
    run.place("FUND", "SELL", 5, limit=1000)
    drive(run, way, times)
    assert run.held("FUND") == 20
    assert run.order(2)["quantity"] == 10
    assert run.table("quantity, paid_time", "dividend_due", "symbol") == [(20, market.at(times[-2]))]
    assert run.rules() == set()


def test_adjusted_feeds_and_late_rows_change_nothing(tx: Conn) -> None:
    market = market_of(tx, dict.fromkeys(TIMES, 100))
    run = Run(market, 10_000)
    run.place("ACME", "BUY", 5)
    run.tick(TIMES[0])
    run.tick(TIMES[2])
    split(tx, "ACME", "2024-01-04", 2, 1)  # the tick of that day has happened
    dividend(tx, "ACME", "2024-01-03", "1", "2024-01-09")
    run.tick(TIMES[5])
    assert (run.held("ACME"), run.cash) == (5, 9_500)

    tx.execute("update feed set adjusted = true where feed = %s", [market.feed])
    other = Run(market, 10_000)
    other.place("ACME", "BUY", 5)
    other.tick(TIMES[0])
    other.tick(TIMES[5])
    assert (other.held("ACME"), other.cash, other.count("event_ledger")) == (5, 9_500, 0)


@pytest.mark.parametrize("kind", ["SPLIT", "DIVIDEND"])
def test_an_action_whose_event_was_inserted_by_hand_has_happened(tx: Conn, kind: str) -> None:
    market = market_of(tx, dict.fromkeys(TIMES, 100))
    split(tx, "ACME", "2024-01-04", 2, 1)
    dividend(tx, "ACME", "2024-01-04", "1", "2024-01-04")
    run = Run(market, 10_000)
    run.place("ACME", "BUY", 10)
    run.tick(TIMES[0])
    event = (
        "insert into event_ledger (user_id, run_id, logical_time, event_type, event_key) values (%s, %s, %s, %s, %s)"
    )
    tx.execute(event, [*run.key, market.at(TIMES[0]), kind, "ACME:2024-01-04"])
    run.tick(TIMES[5])
    assert (run.held("ACME"), run.cash) == ((10, 9_010) if kind == "SPLIT" else (20, 9_000))


def test_a_time_that_a_raw_mark_has_closed_takes_no_action(tx: Conn) -> None:
    market = market_of(tx, dict.fromkeys(TIMES, 100))
    split(tx, "ACME", "2024-01-04", 2, 1)
    run = Run(market, 10_000)
    run.place("ACME", "BUY", 10)
    run.tick(TIMES[0])
    tx.execute("insert into mtm_ledger values (%s, %s, %s, 1000, 1000, 0, 0)", [*run.key, market.at(TIMES[2])])
    run.tick(TIMES[5])
    assert (run.held("ACME"), run.count("event_ledger")) == (10, 0)


@each_way
def test_a_dividend_is_reinvested_within_what_the_margin_leaves(tx: Conn, way: str) -> None:
    """What open orders would open counts; in a cash account no order can hold back what has just been paid."""
    market = market_of(tx, {t: 100 if t < "2024-01-04" else 80 for t in TIMES})
    dividend(tx, "ACME", "2024-01-03", "10", "2024-01-04")
    run = Run(market, 1000, reinvest_dividends=True, initial_margin=D("0.5"), maintenance_margin=D("0.25"))
    run.place("ACME", "BUY", 10)
    run.tick(TIMES[0])
    for units in (5, 3):  # 1040 in sum; 880 would be held, of the 1800 that an equity of 900 allows
        run.place("ACME", "BUY", units, order_type="STOP", stop_price=130)
    drive(run, way, TIMES)
    assert (run.held("ACME"), run.cash) == (10, 100)
    assert run.rules() == set()


@each_way
def test_a_dividend_that_is_paid_while_the_market_is_closed_is_not_reinvested(tx: Conn, way: str) -> None:
    market = market_of(tx, dict.fromkeys(TIMES, 10))
    market.bars("ACME", {"2024-01-04 08:00": 10})  # before the session, and the first of its day
    dividend(tx, "ACME", "2024-01-03", "5", "2024-01-04")
    run = Run(market, 1000, reinvest_dividends=True)
    run.place("ACME", "BUY", 10)
    run.tick(TIMES[0])
    drive(run, way, sorted([*TIMES, "2024-01-04 08:00"]))
    assert run.table("amount, logical_time", "cash_ledger", "entry_id")[2:] == [(50, market.at("2024-01-04 08:00"))]
    assert run.held("ACME") == 10
    assert run.rules() == set()


@each_way
def test_cash_of_one_bar_comes_by_symbol_and_date(tx: Conn, way: str) -> None:
    """Splits first, then payments; symbols by their bytes, so that Zinc comes before acme."""
    market = weekday_market(tx, DAYS[0], "2024-01-31")
    run = Run(market, 10_000)
    for symbol, price in (("acme", 90), ("Zinc", 60)):
        market.instrument(symbol, step="1")
        market.bars(symbol, dict.fromkeys(TIMES, price))
        split(tx, symbol, "2024-01-04", 3, 2)
        for n in (3, 2):
            dividend(tx, symbol, DAYS[n], f"{price + n}", DAYS[3])
        run.place(symbol, "BUY", 1)
    run.tick(TIMES[0])
    drive(run, way, TIMES)
    entries = run.table("amount, cause", "cash_ledger", "entry_id")[3:]
    assert entries == [(20, "CASH_IN_LIEU"), (30, "CASH_IN_LIEU"), *((D(n), "DIVIDEND") for n in (62, 63, 92, 93))]
    assert run.rules() == set()


@each_way
def test_an_action_that_changes_nothing_is_no_event(tx: Conn, way: str) -> None:
    """A run that stores its marks at events: those of the actions that it holds something for, and no others."""
    market = market_of(tx, dict.fromkeys(TIMES, 100))
    for symbol in ("BOLT", "COIL"):
        market.instrument(symbol, step="1")
        market.bars(symbol, dict.fromkeys(TIMES, 100))
    split(tx, "ACME", "2024-01-03", 2, 1)
    dividend(tx, "ACME", "2024-01-04", "1", "2024-01-08")
    for symbol in ("BOLT", "COIL"):
        split(tx, symbol, "2024-01-05", 2, 1)
        dividend(tx, symbol, "2024-01-05", "1", "2024-01-05")
    run = Run(market, 10_000, mark_policy="EVENTS")
    run.place("ACME", "BUY", 10)
    run.sip("BOLT", 100, "MONTHLY", "2024-03-01")
    run.rebalance('{"COIL": 0.1}', "MONTHLY", "2024-03-01")
    run.tick(TIMES[0])
    drive(run, way, TIMES)
    if way != "last":
        found = run.table("logical_time", "mtm_ledger", "logical_time")
        assert found == [(market.at(TIMES[n]),) for n in (0, 1, 2, 4)]
    assert run.rules() == set()


@each_way
def test_a_split_that_cancels_an_order_frees_its_cash(tx: Conn, way: str) -> None:
    market = market_of(tx, {t: 1 if t < "2024-01-04" else 1000 for t in TIMES})
    market.bars("BOLT", {t: 1 if t < "2024-01-05" else D("1.9") for t in TIMES})
    split(tx, "ACME", "2024-01-04", 1, 1000)
    run = Run(market, 1000)
    run.tick(TIMES[0])
    run.place("BOLT", "BUY", 1)  # a fill before the split
    run.place("ACME", "BUY", 900, limit=D("0.5"))  # holds back 450
    run.place("BOLT", "BUY", 500, order_type="STOP", stop_price=D("1.05"))  # costs 950
    drive(run, way, TIMES)
    assert [run.status(n) for n in (1, 2, 3)] == ["FILLED", "CANCELED", "FILLED"]
    assert run.rules() == set()


@each_way
@pytest.mark.parametrize("plan", ["sip", "basket", "rebalance"])
def test_what_a_plan_is_about_to_buy_is_split_after(tx: Conn, way: str, plan: str) -> None:
    """A replay that looks ahead before the purchase must see the split that comes soon after."""
    market = market_of(tx, {t: 100 if t < "2024-01-05" else 50 for t in TIMES})
    split(tx, "ACME", "2024-01-05", 2, 1)
    run = Run(market, 10_000)
    if plan == "sip":
        run.sip("ACME", 500, "MONTHLY", "2024-01-04", instalments=1)
    elif plan == "basket":
        run.sip(None, 500, "MONTHLY", "2024-01-04", instalments=1, basket='{"ACME": 1}')
    else:
        run.rebalance('{"ACME": 0.05}', "MONTHLY", "2024-01-04")
    run.tick(TIMES[0])
    if way == "last":
        run.tick(TIMES[2])
    drive(run, way, TIMES if way != "last" else TIMES[2:])
    assert (run.held("ACME"), run.cash) == (10, 9_500)
    assert {m[0] for m in run.table("equity", "paper_equity_curve", "logical_time")} == {D(10_000)}
    assert run.rules() == set()


@each_way
def test_a_dividend_that_was_inserted_by_hand_is_paid_at_the_next_bar(tx: Conn, way: str) -> None:
    market = market_of(tx, dict.fromkeys(TIMES, 100))
    run = Run(market, 10_000)
    run.tick(TIMES[0])
    run.tick(TIMES[2])
    tx.execute(
        "insert into dividend_due (user_id, run_id, symbol, ex_date, pay_date, quantity, amount)"
        " values (%s, %s, 'ACME', '2024-01-02', '2024-01-03', 10, 7)",
        run.key,
    )
    drive(run, way, TIMES[2:])
    assert run.table("amount, logical_time", "cash_ledger", "entry_id")[1:] == [(7, market.at(TIMES[3]))]


def test_a_split_happens_once_by_step_and_tick(tx: Conn) -> None:
    market = market_of(tx, {t: 100 if t < "2024-01-04" else 50 for t in TIMES})
    split(tx, "ACME", "2024-01-04", 2, 1)
    dividend(tx, "ACME", "2024-01-04", "1", "2024-01-04")
    run = Run(market, 10_000)
    run.place("ACME", "BUY", 5)
    run.tick(TIMES[0])
    at = market.at(TIMES[2])
    run.call("match_orders", logical_time=at)
    assert run.held("ACME") == 10
    run.call("match_orders", logical_time=at)
    run.tick(TIMES[2])
    run.tick(TIMES[3])
    assert (run.held("ACME"), run.cash) == (10, 9_510)  # a dividend of the same day is per new unit
    assert run.rules() == set()


def test_what_a_step_has_bought_at_the_bar_of_an_action_is_not_split_by_the_tick(tx: Conn) -> None:
    for step in ("match_orders", "try_execute_sip", "try_rebalance"):
        market = market_of(tx, {t: 100 if t < "2024-01-04" else 50 for t in TIMES}, symbol=step)
        split(tx, step, "2024-01-04", 2, 1)
        dividend(tx, step, "2024-01-04", "1", "2024-01-04")
        run = Run(market, 1_000)
        run.tick(TIMES[1])
        if step == "match_orders":
            run.place(step, "BUY", 5)  # 10 by the split
        elif step == "try_execute_sip":
            run.sip(step, 500, "DAILY", "2024-01-04", instalments=1)
        else:
            run.rebalance(f'{{"{step}": 0.5}}', "WEEKLY", "2024-01-04")
        run.call(step, logical_time=market.at(TIMES[2]))
        run.call("match_orders", logical_time=market.at(TIMES[2]))
        run.tick(TIMES[2])
        assert (run.held(step), run.cash, run.count("dividend_due")) == (10, 500, 0), step
        assert run.rules() == set()


@pytest.mark.parametrize("step", ["try_execute_sip", "try_rebalance", "log_mtm", "record_equity"])
@pytest.mark.parametrize("first", ["tick", "match_orders"])
def test_a_step_alone_is_after_the_actions_of_its_time(tx: Conn, step: str, first: str) -> None:
    """A mark closes its time: what it did not split, nothing would."""
    market = market_of(tx, {t: 100 if t < "2024-01-04" else 50 for t in TIMES})
    split(tx, "ACME", "2024-01-04", 2, 1)
    run = Run(market, 10_000)
    run.place("ACME", "BUY", 10)
    run.call(first, logical_time=market.at(TIMES[0])) if first != "tick" else run.tick(TIMES[0])
    run.sip("ACME", 500, "DAILY", "2024-01-04", instalments=1)
    run.rebalance('{"ACME": 0.1}', "WEEKLY", "2024-01-04", band=D("0.5"))
    run.place("ACME", "BUY", 1, limit=D("100"))  # its bar comes before the action's
    at = market.at(TIMES[2])
    assert val(tx, f"select {step}(%s, %s, %s)", *run.key, at) == 1
    assert run.held("ACME") - 20 == {"try_execute_sip": 10}.get(step, 0) + (2 if first == "tick" else 0)
    run.tick(TIMES[2])
    run.tick(TIMES[3])
    assert rows(
        tx, "select logical_time from event_ledger where user_id = %s and event_type = 'SPLIT'", run.user_id
    ) == [(at,)]
    assert {m[0] for m in run.table("equity", "paper_equity_curve", "logical_time")} == {D(10_000)}
    assert run.rules() == set()


def test_every_way_gives_the_same_digest_with_actions(tx: Conn) -> None:
    runs = []
    for way in ("tick", "replay", "tick_all"):
        bars = {t: (100 + n, 104 + n, 97 + n, 101 + n, 50) for n, t in enumerate(TIMES)}
        market = weekday_market(tx, DAYS[0], "2024-01-31")
        for symbol in ("ACME", "BOLT"):
            market.instrument(symbol, step="0.001")
            market.bars(symbol, bars)
        if way == "tick":
            split(tx, "ACME", "2024-01-04", 3, 2)
            split(tx, "BOLT", "2024-01-05", 1, 7)
            dividend(tx, "ACME", "2024-01-05", "0.333", "2024-01-08")
            dividend(tx, "BOLT", "2024-01-05", "0.2", "2024-01-05")
        run = Run(market, 100_000, participation=D("0.5"), slippage_bps=10, reinvest_dividends=True)
        run.sip("ACME", 1000, "DAILY", "2024-01-02")
        run.rebalance('{"ACME": 0.3, "BOLT": 0.3}', "WEEKLY", "2024-01-03")
        run.tick(TIMES[0])
        run.place("ACME", "BUY", 100, limit=95)
        run.place("BOLT", "SELL", 1, order_type="TRAILING_STOP", trail_percent=2)
        run.place("BOLT", "BUY", 60, take_profit=900, stop_loss=600)
        drive(run, way, TIMES)
        assert run.rules() == set(), way
        runs.append(run)
    for run in runs[1:]:
        assert rows(tx, "select * from replay_diff(%s, %s, %s, %s)", *runs[0].key, *run.key) == []
    assert len({val(tx, "select run_digest(%s, %s)", *run.key) for run in runs}) == 1
