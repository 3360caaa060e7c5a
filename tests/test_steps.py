"""The tick's steps alone, ticks in odd orders, times that cannot be."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from desk import Conn, D, Market, Run, at, call, refused, rows, val, weekday_market

STEPS = ("match_orders", "try_execute_sip", "try_rebalance", "log_mtm", "record_equity")
D1, D2, D3, D4 = (at(f"2024-01-0{d} 12:00") for d in (1, 2, 3, 4))
BETWEEN = at("2024-01-02 18:00")


@pytest.fixture
def market(tx: Conn) -> Market:
    market = Market(tx)
    market.bars(
        "A",
        {
            D1: (100, 105, 95, 101),
            D2: (110, 115, 105, 111),
            D3: (120, 125, 115, 121),
            D4: (130, 135, 125, 131),
        },
    )
    market.bars("B", {D1: 10, D2: 10, D3: 10, D4: 10})
    return market


@pytest.fixture
def run(market: Market) -> Run:
    """Ticked at D1; an order, a SIP slot and a rebalance slot are due at D2."""
    run = Run(market, 10_000)
    run.tick(D1)
    run.place("A", "BUY", 10)
    run.sip("B", 100, "DAILY", "2024-01-02")
    run.rebalance('{"A": 0.2, "B": 0.1}', "DAILY", "2024-01-02")
    return run


def marks(run: Run, table: str = "mtm_ledger") -> list[Any]:
    return [t for (t,) in run.table("logical_time", table, "1")]


def last_time(run: Run) -> Any:
    return run.table("last_logical_time", "engine_state", "1")[0][0]


def step(run: Run, verb: str, time: Any, **more: Any) -> Any:
    return run.call(verb, logical_time=time, **more)


def test_match_orders(run: Run) -> None:
    assert step(run, "match_orders", D2) == 1
    assert run.trades() == [(1, D2, "A", "BUY", 10, 110)]
    before = run.snapshot()
    assert step(run, "match_orders", D2) == 0
    assert run.snapshot() == before
    assert (last_time(run), marks(run), run.events()) == (D1, [D1], [])
    run.place("A", "SELL", 10)  # accepted at the last tick, so it still sees this bar
    assert step(run, "match_orders", D2) == 1
    assert run.rules() == set()


def test_match_orders_counts_trades_not_rejections(run: Run) -> None:
    run.place("A", "BUY", 88)
    run.place("A", "BUY", 1)
    run.place("B", "BUY", 1, limit=1)
    assert step(run, "match_orders", D2) == 2
    assert run.orders() == ["REJECTED CASH_INSUFFICIENT", "FILLED", "FILLED", "PENDING"]


def test_match_orders_takes_every_bar_since_the_last_tick(run: Run) -> None:
    run.place("B", "BUY", 1, limit=1)
    run.place("A", "BUY", 1, limit=D("107"))
    assert step(run, "match_orders", D4) == 2
    assert [(t[0], t[1], t[5]) for t in run.trades()] == [(1, D2, 110), (3, D2, 107)]


def test_try_execute_sip(run: Run) -> None:
    assert step(run, "try_execute_sip", D2) == 1
    before = run.snapshot()
    assert step(run, "try_execute_sip", D2) == 0
    assert step(run, "try_execute_sip", D2, market_open=True) == 0
    assert run.snapshot() == before
    assert (run.held("B"), run.orders(), marks(run), last_time(run)) == (10, ["PENDING", "FILLED"], [D1], D1)


def test_try_rebalance(run: Run) -> None:
    assert step(run, "try_rebalance", D2) == 1
    before = run.snapshot()
    assert step(run, "try_rebalance", D2) == 0
    assert step(run, "try_rebalance", D2, market_open=True) == 0
    assert run.snapshot() == before
    assert run.events() == [("REBALANCED", "1:0")]
    assert (run.held("B"), marks(run), last_time(run)) == (100, [D1], D1)


@pytest.mark.parametrize(
    ("verb", "table", "other"),
    [("log_mtm", "mtm_ledger", "paper_equity_curve"), ("record_equity", "paper_equity_curve", "mtm_ledger")],
)
def test_a_mark_alone(run: Run, verb: str, table: str, other: str) -> None:
    assert step(run, verb, D2) is True
    before = run.snapshot()
    assert step(run, verb, D2) is False
    assert run.snapshot() == before
    assert (marks(run, table), marks(run, other), last_time(run)) == ([D1, D2], [D1], D1)
    # the time is closed
    for closed in ("match_orders", "try_execute_sip", "try_rebalance"):
        assert step(run, closed, D2) == 0
    assert run.snapshot() == before
    # a tick only completes the rest
    run.tick(D2)
    assert (marks(run, table), marks(run, other), last_time(run)) == ([D1, D2], [D1, D2], D2)
    assert (run.events(), run.trades(), run.orders()) == ([], [], ["PENDING"])
    assert run.rules() == set()
    run.tick(D3)
    assert run.trades()[0] == (1, D3, "A", "BUY", 10, 120)
    assert sorted(run.events()) == [
        *(("REBALANCED", "1:1"), ("REBALANCE_MISSED", "1:0"), ("SIP_EXECUTED", "1:1"), ("SIP_MISSED", "1:0")),
    ]
    assert run.rules() == set()


def test_both_marks_then_the_tick(run: Run) -> None:
    assert step(run, "log_mtm", D2) is True
    assert step(run, "record_equity", D2) is True
    before = run.snapshot()
    run.tick(D2)
    after = run.snapshot()
    assert before.pop("engine_state") != after.pop("engine_state")
    assert before == after
    assert last_time(run) == D2


def test_the_steps_in_order_make_the_rows_of_a_tick(market: Market) -> None:
    digests = set()
    for by_steps in (False, True):
        run = Run(market, 10_000)
        run.tick(D1)
        run.place("A", "BUY", 10)
        run.sip("B", 100, "DAILY", "2024-01-02")
        run.rebalance('{"A": 0.2, "B": 0.1}', "DAILY", "2024-01-02")
        for time in (D2, BETWEEN, D4):
            if by_steps:
                assert [step(run, verb, time) for verb in STEPS][3:] == [True, True]
            run.tick(time)
        digests.add(val(run.conn, "select run_digest(%s, %s)", *run.key))
        assert run.rules() == set()
    assert len(digests) == 1


@pytest.mark.parametrize("done", range(1, 6))
def test_a_tick_completes_what_steps_began(market: Market, done: int) -> None:
    digests = set()
    for n in (0, done):
        run = Run(market, 10_000)
        run.tick(D1)
        run.place("A", "BUY", 10)
        run.sip("B", 100, "DAILY", "2024-01-02")
        run.rebalance('{"A": 0.2, "B": 0.1}', "DAILY", "2024-01-02")
        for verb in STEPS[:n]:
            step(run, verb, D2)
        run.tick(D2)
        run.tick(D3)
        digests.add(val(run.conn, "select run_digest(%s, %s)", *run.key))
    assert len(digests) == 1


def test_a_first_step_is_the_runs_first_time(market: Market) -> None:
    run = Run(market)
    run.place("A", "BUY", 1)
    assert step(run, "match_orders", D2) == 1
    assert (last_time(run), run.trades()[0][1]) == (None, D2)
    with refused(market.conn, "TE003"):
        run.tick(D1)
    run.tick(D2)
    assert len(run.trades()) == 1
    assert run.rules() == set()


def test_steps_do_not_go_back_in_time(run: Run) -> None:
    before = run.snapshot()
    for verb in STEPS:
        with refused(run.conn, "TE003"):
            step(run, verb, D1 - timedelta(microseconds=1))
    for verb in ("match_orders", "try_execute_sip", "try_rebalance"):
        assert step(run, verb, D1) == 0  # ticked: closed
    for verb in ("log_mtm", "record_equity"):
        assert step(run, verb, D1) is False
    assert run.snapshot() == before
    for verb in STEPS:
        with run.conn.transaction(force_rollback=True):
            step(run, verb, D3)
            for earlier in (D2, BETWEEN):
                for other in STEPS:
                    with refused(run.conn, "TE003"):
                        step(run, other, earlier)
                with refused(run.conn, "TE003"):
                    run.tick(earlier)
            run.tick(D3)


def test_steps_of_an_ended_run(run: Run) -> None:
    step(run, "log_mtm", D2)
    run.call("stop_run")
    before = run.snapshot()
    for verb in ("match_orders", "try_execute_sip", "try_rebalance"):
        assert step(run, verb, D1) == step(run, verb, D2) == 0  # closed times: done, the answer may have been lost
        with refused(run.conn, "TE001"):
            step(run, verb, D3)
    for verb in ("log_mtm", "record_equity"):
        assert step(run, verb, D1) is False
        with refused(run.conn, "TE001"):
            step(run, verb, D3)
    assert step(run, "log_mtm", D2) is False
    with refused(run.conn, "TE001"):
        step(run, "record_equity", D2)
    with refused(run.conn, "TE001"):
        run.tick(D2)
    assert run.snapshot() == before


def test_steps_of_no_run(run: Run) -> None:
    for verb in STEPS:
        for user_id, run_id in ((run.user_id, -1), (-1, run.run_id), (None, None)):
            with refused(run.conn, "TE204"):
                call(run.conn, verb, user_id=user_id, run_id=run_id, logical_time=D2)


BAD_TIMES = (
    "infinity",
    "-infinity",
    "0044-03-15 12:00+00 BC",
    "294276-12-31 23:59:59+00",
    "1899-12-31 23:59:59.999999+00",
    "2300-01-01 00:00+00",
    None,
)


def test_times_out_of_bounds(run: Run) -> None:
    before = run.snapshot()
    for time in BAD_TIMES:
        with refused(run.conn, "TE101"):
            run.tick(time)
        for verb in STEPS:
            with refused(run.conn, "TE101"):
                step(run, verb, time)
        for first, last in ((time, D2), (D2, time)):
            with refused(run.conn, "TE101"):
                run.conn.execute("call replay(%s, %s, %s, %s)", [*run.key, first, last])
        with refused(run.conn, "TE101"):
            run.conn.execute("call tick_all(%s, %s)", [time, run.market.feed])
    assert run.snapshot() == before


def test_the_earliest_and_the_latest_time(market: Market) -> None:
    run = Run(market)
    run.tick("1900-01-01 00:00+00")
    run.tick("2299-12-31 23:59:59.999999+00")
    assert marks(run) == [at("1900-01-01 00:00"), at("2299-12-31 23:59:59.999999")]
    assert run.rules() == set()


# --- ticks -----------------------------------------------------------------------------------------------------------


def test_a_first_tick_processes_its_own_time_only(market: Market) -> None:
    run = Run(market, 10_000)
    run.place("A", "BUY", 1)
    run.place("A", "BUY", 1, limit=100)
    run.sip("B", 100, "DAILY", "2024-01-03")
    run.tick(D3)
    assert run.trades() == [(1, D3, "A", "BUY", 1, 120), (3, D3, "B", "BUY", 10, 10)]
    assert marks(run) == marks(run, "paper_equity_curve") == [D3]
    assert run.status(2) == "PENDING"


def test_a_first_tick_between_bars_matches_nothing(market: Market) -> None:
    run = Run(market, 10_000)
    run.place("A", "BUY", 1)
    run.tick(BETWEEN)
    assert (run.orders(), marks(run)) == (["PENDING"], [BETWEEN])
    run.tick(D3)
    assert run.fills() == [(1, 120)]


def test_a_gap_processes_every_bar_in_order_and_marks_once(market: Market) -> None:
    run = Run(market, 1200)
    run.tick(D1)
    run.place("A", "BUY", 10)  # D2 at 110: 1100
    run.place("A", "BUY", 1, limit=1)
    run.place("A", "SELL", 1)
    assert run.status(3) == "REJECTED POSITION_INSUFFICIENT"
    run.sip("B", 10, "DAILY", "2024-01-01")
    run.tick(D4)
    assert [(t[0], t[1], t[5]) for t in run.trades()] == [(1, D2, 110), (4, D4, 10)]
    assert marks(run) == [D1, D4]
    assert run.table("cash, market_value, equity", "paper_equity_curve", "logical_time")[-1] == (
        90,
        1320,
        1410,
    )
    assert [k for k in run.events() if k[0] == "SIP_MISSED"] == [("SIP_MISSED", f"1:{k}") for k in range(3)]


def test_sells_of_an_earlier_bar_pay_for_buys_of_a_later_one(market: Market) -> None:
    market.bars("C", {D3: 1000, D4: 1000})
    run = Run(market, 1010)
    run.place("A", "BUY", 10)
    run.tick(D1)
    run.place("C", "BUY", 1)  # no price yet; D3 at 1000
    run.place("A", "SELL", 10)  # D2 at 110
    run.tick(D4)
    assert run.fills() == [(1, 100), (3, 110), (2, 1000)]
    assert run.rules() == set()


def test_a_tick_without_a_bar_marks_at_the_last_closes(market: Market) -> None:
    run = Run(market, 10_000)
    run.place("A", "BUY", 10)
    run.tick(D2)
    run.place("A", "SELL", 10)
    run.tick(BETWEEN)
    assert run.status(2) == "PENDING"
    assert (
        run.table("market_value, cost_basis, unrealized_pnl, realized_pnl", "mtm_ledger", "logical_time")
        == [(1110, 1100, 10, 0)] * 2
    )
    run.tick(D4 + timedelta(days=400))
    assert run.fills()[1] == (2, 120)
    assert run.table("cash, market_value, equity", "paper_equity_curve", "logical_time")[-1] == (
        10_100,
        0,
        10_100,
    )


def test_a_run_that_holds_nothing_marks_zero_without_any_price(tx: Conn) -> None:
    run = Run(Market(tx), 7)
    run.tick(D1)
    assert run.table("market_value, cost_basis, unrealized_pnl, realized_pnl", "mtm_ledger", "1") == [(0, 0, 0, 0)]
    assert run.table("cash, market_value, equity", "paper_equity_curve", "1") == [(7, 0, 7)]


def test_repeated_ticks_are_quiet_and_past_ones_refused(run: Run) -> None:
    run.tick(D2)
    run.tick(D4)
    before = run.snapshot()
    for time in (D1, D2, D4):
        run.tick(time)
    for time in (D3, BETWEEN, D1 - timedelta(days=1), D4 - timedelta(microseconds=1)):
        with refused(run.conn, "TE003"):
            run.tick(time)
    assert run.snapshot() == before
    run.call("stop_run")
    before = run.snapshot()
    for time in (D1, D2, D4):
        run.tick(time)
    for time in (D3, BETWEEN, D4 + timedelta(microseconds=1)):
        with refused(run.conn, "TE001"):
            run.tick(time)
    assert run.snapshot() == before


def test_a_refused_tick_leaves_nothing_and_is_refused_again(tx: Conn, market: Market) -> None:
    """TE202: a position whose symbol has no bar, planted by plain SQL."""
    market.instrument("GHOST")
    run = Run(market, 10_000)
    run.tick(D1)
    run.place("A", "BUY", 1)
    run.sip("B", 100, "DAILY", "2024-01-02")
    tx.execute("insert into paper_position (user_id, run_id, symbol, quantity) values (%s, %s, 'GHOST', 1)", run.key)
    before = run.snapshot()
    for _ in range(2):
        with refused(tx, "TE202"):
            run.tick(D2)
    for verb in ("log_mtm", "record_equity"):
        with refused(tx, "TE202"):
            step(run, verb, D2)
    assert run.snapshot() == before
    tx.execute("update paper_position set quantity = 0 where user_id = %s and symbol = 'GHOST'", [run.user_id])
    run.tick(D2)
    tx.execute("update paper_position set quantity = 2 where user_id = %s and symbol = 'GHOST'", [run.user_id])
    market.bars("GHOST", {D4: 5})
    with refused(tx, "TE202"):
        run.tick(D3)  # its first bar is later
    run.tick(D4)
    assert run.table("market_value", "mtm_ledger", "logical_time")[-1] == (131 + 2 * 5 + 20 * 10,)


def test_past_the_calendar(tx: Conn) -> None:
    market = weekday_market(tx, "2024-01-01", "2024-01-02")
    market.bars("A", {D1: 100, D2: 100, D3: 100})
    run = Run(market)
    run.place("A", "BUY", 1, time_in_force="DAY", limit=1)
    run.tick(D1)
    run.tick("2024-01-02 16:00")  # the very close is known
    run.place("A", "BUY", 1, time_in_force="DAY")
    before = run.snapshot()
    with refused(tx, "TE203"):
        run.tick("2024-01-02 16:00:00.000001")
    with refused(tx, "TE203"):
        run.tick(D3)
    with refused(tx, "TE203"):
        tx.execute("call tick_all(%s, %s)", [D3, market.feed])
    assert run.snapshot() == before
    market.add_sessions([("2024-01-03", "09:30", "16:00")])
    run.tick(D3)
    assert run.orders() == ["EXPIRED", "FILLED"]


def test_a_calendar_without_sessions_knows_nothing(tx: Conn) -> None:
    market = Market(tx, [])
    market.bars("A", {D1: 100})
    run = Run(market)
    for _ in range(2):
        with refused(tx, "TE203"):
            run.tick(D1)
    assert marks(run) == []


def test_corrections_and_late_bars_never_change_executed_ticks(tx: Conn, market: Market) -> None:
    run = Run(market, 10_000)
    run.place("A", "BUY", 10)
    run.tick(D1)
    run.tick(D2)
    before, digest = run.snapshot(), val(tx, "select run_digest(%s, %s)", *run.key)
    tx.execute(
        "update price_bar set open = open * 2, high = high * 2, low = low * 2, close = close * 2 where feed = %s",
        [market.feed],
    )
    market.bars("A", {at("2024-01-01 18:00"): 77})
    run.tick(D1)
    run.tick(D2)
    for verb in STEPS:
        assert not step(run, verb, D2)
    assert run.snapshot() == before
    assert val(tx, "select run_digest(%s, %s)", *run.key) == digest
    run.tick(D3)
    assert run.table("market_value", "mtm_ledger", "logical_time")[-1] == (2420,)  # new ticks use the new price
    assert run.rules() <= {"fill_outside_bar"}  # judged by the bars as they are now


def test_a_mark_and_its_other_half_agree_after_a_correction(tx: Conn, run: Run) -> None:
    for first, second in (("log_mtm", "record_equity"), ("record_equity", "log_mtm")):
        with tx.transaction(force_rollback=True):
            run.tick(D2)
            step(run, first, D3)
            tx.execute(
                "update price_bar set open = 1, high = 1, low = 1, close = 1 where feed = %s",
                [run.market.feed],
            )
            step(run, second, D3)
            run.tick(D3)
            assert run.rules() <= {"fill_outside_bar"}  # judged by the bars as they are now


def test_equity_is_cash_plus_the_rounded_value_of_each_symbol(tx: Conn) -> None:
    market = Market(tx)
    for symbol in ("X", "Y", "Z"):
        market.instrument(symbol, "0.00000001")
        market.bars(symbol, {D1: D("0.015"), D2: D("0.015")})
    for currency, value in (("USD", "0.06"), ("JPY", "0"), ("KWD", "0.045")):
        run = Run(market, 100, currency=currency)
        for symbol in ("X", "Y", "Z"):
            run.place(symbol, "BUY", 1)
        run.tick(D1)
        cash = 100 - D(value)  # each of them rounds half away from zero
        assert run.table("cash, market_value, equity", "paper_equity_curve", "1") == [(cash, D(value), 100)], currency
        assert run.rules() == set()


def test_average_cost_and_realized_pnl(tx: Conn) -> None:
    market = Market(tx)
    times = [at(f"2024-01-{d:02} 12:00") for d in range(1, 8)]
    market.bars("X", {t: D(p) for t, p in zip(times, ("10", "20", "15", "0.07", "33.33", "40", "5"), strict=True)})
    run = Run(market, 10_000)
    quantity, cost, pnl = D(0), D(0), D(0)
    for time, side, n in zip(
        times,
        ("BUY", "BUY", "SELL", "BUY", "SELL", "SELL", "BUY"),
        (10, 5, 7, 1, D("0.333333"), None, 2),
        strict=True,
    ):
        n = quantity if n is None else D(n)
        run.place("X", side, n)
        run.tick(time)
        price = run.trades()[-1][5]
        value = round(n * price + D("1e-9"), 2)
        if side == "BUY":
            quantity, cost = quantity + n, cost + value
        else:
            part = cost if n == quantity else (cost * n / quantity).quantize(D("0.01"), "ROUND_HALF_UP")
            quantity, cost, pnl = quantity - n, cost - part, pnl + value - part
        assert run.table("quantity, cost_basis, realized_pnl", "paper_position", "1") == [(quantity, cost, pnl)]
        assert run.table("cost_basis, realized_pnl", "mtm_ledger", "logical_time")[-1] == (cost, pnl)
    assert run.rules() == set()


def test_a_closed_position_keeps_its_row(tx: Conn, market: Market) -> None:
    run = Run(market, 10_000)
    run.place("A", "BUY", 10)
    run.tick(D1)
    run.place("A", "SELL", 10)
    run.tick(D2)
    assert run.table("symbol, quantity, cost_basis, realized_pnl", "paper_position", "1") == [("A", 0, 0, 100)]
    assert run.table("market_value, cost_basis, unrealized_pnl, realized_pnl", "mtm_ledger", "logical_time")[-1] == (
        0,
        0,
        0,
        100,
    )


def test_the_ledgers_count_from_one_in_every_run(tx: Conn, market: Market) -> None:
    for _ in range(2):
        run = Run(market, 10_000)
        run.place("A", "BUY", 1)
        run.place("B", "BUY", 1)
        run.tick(D1)
        assert run.table("trade_id, order_id", "paper_trade", "1") == [(1, 1), (2, 2)]
        assert run.table("entry_id, amount, cause, trade_id, logical_time", "cash_ledger", "1") == [
            (1, 10_000, "OPENING", None, None),
            (2, -100, "TRADE", 1, D1),
            (3, -10, "TRADE", 2, D1),
        ]


def test_ids_continue_after_raw_rows(tx: Conn, market: Market) -> None:
    run = Run(market, 10_000)
    tx.execute(
        "insert into paper_order (user_id, run_id, order_id, logical_time, symbol, side, order_type, quantity,"
        " time_in_force, status) values (%s, %s, 41, null, 'A', 'BUY', 'MARKET', 2, 'GTC', 'PENDING')",
        run.key,
    )
    assert run.place("A", "BUY", 1)["order_id"] == 42
    run.tick(D1)
    assert run.fills() == [(41, 100), (42, 100)]
    assert run.rules() == set()


def test_a_tick_inside_the_callers_transaction_rolls_back_with_it(run: Run) -> None:
    before = run.snapshot()
    with run.conn.transaction(force_rollback=True):
        run.tick(D2)
        assert run.snapshot() != before
    assert run.snapshot() == before
    run.tick(D2)
    assert rows(run.conn, "select 1 from violations") == []
