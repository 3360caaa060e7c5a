"""The view violations: every rule is seen to speak, for the run that breaks it and for no other; clean runs are silent.

Defects are planted below the guards (triggers off, constraints dropped), as the owner of the tables, in a transaction
that is rolled back.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from desk import Conn, D, Market, Run, at, refused, rows, val, weekday_market

SQL = sorted((Path(__file__).parent.parent / "sql").glob("*_violation*.sql"))
TABLES = (
    *(
        "engine_state",
        "engine_status",
        "paper_order",
        "paper_trade",
        "paper_position",
        "cash_ledger",
        "mtm_ledger",
    ),
    *("paper_equity_curve", "event_ledger", "sip_plan", "rebalance_plan", "target_weight", "risk_limit"),
    *("forbidden_symbol", "dividend_due", "trade_fee"),
)

KEY = "(user_id, run_id) = (%(u)s, %(r)s)"
LAST = "'2024-01-06 12:00+00'"


@dataclass(frozen=True)
class Plant:
    break_it: Callable[[Run], None]
    also: frozenset[str] = frozenset()  # rules that report the defect besides the one it is planted for


def busy_market(conn: Conn) -> Market:
    market = Market(conn)
    for symbol, start in [("A", 100), ("B", 200), ("C", 50)]:
        market.bars(symbol, {f"2024-01-{d:02} 12:00": start + 3 * d for d in range(1, 11)})
    conn.execute("insert into corporate_action values ('C', '2024-01-03', 'DIVIDEND', null, null, 0.5, '2024-01-05')")
    conn.execute("insert into corporate_action values ('C', '2024-01-05', 'SPLIT', 3, 2)")
    return market


def busy_run(market: Market, until: int = 6) -> Run:
    """Every kind of row. Orders: 1 A filled, 2 A sold, 3 B resting, 4 rejected, 5 canceled, 6 expired, 7.. SIP and so on."""
    run = Run(market)
    run.sip("C", 1000, "DAILY", "2024-01-02")
    run.rebalance('{"A": 0.1, "B": 0.2}', "WEEKLY", "2024-01-03")
    run.call("set_risk_limit", max_position=10_000)
    run.call("forbid_symbol", symbol="Z")
    run.place("A", "BUY", 10)
    run.tick("2024-01-01 12:00")
    run.place("A", "SELL", 4)
    run.place("B", "BUY", 1, limit=1)
    run.place("NOWHERE", "BUY", 1)
    run.cancel(run.place("B", "BUY", 1, limit=1)["order_id"])
    run.place("B", "BUY", 1, limit=1, time_in_force="DAY")
    for d in (2, 5, until):
        run.tick(f"2024-01-{d:02} 12:00")
    return run


def plant(run: Run, *statements: str) -> None:
    """Run the statements below the guards; %(u)s and %(r)s are the run's key."""
    for table in ("strategy_run", *TABLES):
        run.conn.execute(f"alter table {table} disable trigger user")
    for statement in statements:
        if run.conn.execute(statement, {"u": run.user_id, "r": run.run_id}).rowcount == 0:
            raise LookupError(f"planted nothing: {statement}")


def sql(*statements: str, also: str = "") -> Plant:
    return Plant(lambda run: plant(run, *(s.replace("KEY", KEY) for s in statements)), frozenset(also.split()))


# A brokerage, of which the schedule charges 0.03 % and 20 at most; the fees of the trade are made to agree. Trade 1 is
# 10 A at 103, trade 2 a sale of 4.
FEE = (
    "insert into trade_fee select user_id, run_id, trade_id, 'BROKERAGE', {amount}, 'IN_INTRADAY', '*', side, '2020-07-01'"
    " from paper_trade where KEY and trade_id = {trade}"
)
SCHEDULE = "update strategy_run set fee_schedule = '{}' where KEY"


def charged(trade: int, amount: str) -> tuple[str, ...]:
    """A fee that everything else agrees with: the trade, its cash, its position and the marks."""
    where = f"where KEY and trade_id = {trade}"
    return (
        FEE.format(trade=trade, amount=amount),
        f"update paper_trade set fees = fees + {amount} {where}",
        f"update cash_ledger set amount = amount - {amount} {where}",
        f"update paper_position set realized_pnl = realized_pnl - {amount} where KEY and symbol = 'A'",
        f"update engine_state set cash = cash - {amount} where KEY",
        *MARKS_FOLLOW,
    )


def orphans(run: Run) -> None:
    plant(
        run,
        FEE.format(trade=1, amount=1).replace("KEY", KEY),
        *(f"alter table {table} drop constraint {table}_of_run" for table in TABLES),
        f"delete from strategy_run where {KEY}",
    )
    found = rows(run.conn, "select detail from violations where user_id = %s and run_id = %s", *run.key)
    assert {detail for (detail,) in found} == set(TABLES)


def ended(run: Run) -> None:
    run.call("stop_run")
    plant(run, f"update paper_order set status = 'PENDING', closed_time = null where {KEY} and order_id = 3")


# Makes the marks agree with a cash ledger that was planted, so that they do not report it.
MARKS_FOLLOW = (
    "update paper_equity_curve e set cash = c.cash, equity = c.cash + market_value from (select e.logical_time,"
    " (select sum(amount) from cash_ledger l where l.user_id = e.user_id and l.run_id = e.run_id"
    " and coalesce(l.logical_time, '-infinity') <= e.logical_time) as cash from paper_equity_curve e where KEY) c"
    " where KEY and e.logical_time = c.logical_time",
    "update mtm_ledger m set cost_basis = realized_pnl - c.traded, unrealized_pnl = market_value - realized_pnl + c.traded"
    " from (select m.logical_time, (select coalesce(sum(amount), 0) from cash_ledger l where l.user_id = m.user_id"
    " and l.run_id = m.run_id and l.trade_id is not null and l.logical_time <= m.logical_time) as traded"
    " from mtm_ledger m where KEY) c where KEY and m.logical_time = c.logical_time",
)

# Makes it a margin account, and what only such an account has.
ON_MARGIN = "update strategy_run set initial_margin = 0.5, maintenance_margin = 0.5 where KEY"
CHARGE = "insert into cash_ledger values (%(u)s, %(r)s, 999, '2024-01-05 12:00Z', {amount}, 'BORROW_FEE')"
CALL = (
    "insert into event_ledger values (%(u)s, %(r)s, '2024-01-05 12:00Z', 'MARGIN_CALL', 'x',"
    ' \'{{"equity": {equity}, "exposure": {exposure}}}\')'
)

# rule → ways to break it. Each breaks that rule alone, or those it names too.
PLANTS: dict[str, list[Plant]] = {
    "row_without_run": [Plant(orphans)],
    "trade_without_order": [
        sql(
            "alter table paper_trade drop constraint paper_trade_of_order",
            "delete from paper_order where KEY and order_id = 2",
        )
    ],
    "more_than_one_running_run": [
        sql(
            "drop index strategy_run_one_running_per_user",
            "insert into strategy_run (user_id, status) values (%(u)s, 'RUNNING')",
        )
    ],
    "ended_run_has_open_order": [Plant(ended)],
    "slot_ended_twice": [
        sql(
            "drop index event_ledger_one_end_per_sip_slot",
            "update event_ledger set event_key = '1:2', event_type = 'SIP_SKIPPED_FUNDS' where KEY and event_key = '1:1'"
            " and event_type = 'SIP_MISSED'",
        ),
        sql(
            "drop index event_ledger_one_end_per_rebalance_slot",
            "insert into event_ledger values (%(u)s, %(r)s, " + LAST + ", 'REBALANCE_MISSED', '1:0')",
            "update rebalance_plan set next_slot = next_slot + 1 where KEY",
        ),
    ],
    "key_stored_twice": [
        # two positions of one symbol
        sql(
            "alter table paper_position drop constraint paper_position_pkey",
            "insert into paper_position select * from paper_position where KEY and symbol = 'A'",
        ),
        # two mtm rows at one time
        sql(
            "alter table mtm_ledger drop constraint mtm_ledger_pkey",
            f"insert into mtm_ledger select * from mtm_ledger where KEY and logical_time = {LAST}",
        ),
        # two equity rows at one time
        sql(
            "alter table paper_equity_curve drop constraint paper_equity_curve_pkey",
            f"insert into paper_equity_curve select * from paper_equity_curve where KEY and logical_time = {LAST}",
        ),
        # two openings
        sql(
            "drop index cash_ledger_one_opening_per_run",
            "update engine_state set cash = cash + 100000 where KEY",
            "update paper_equity_curve set cash = cash + 100000, equity = equity + 100000 where KEY",
            "insert into cash_ledger select user_id, run_id, 1000, null, initial_cash, 'OPENING' from strategy_run where KEY",
        ),
        # two orders with one number
        sql(
            "alter table paper_order drop constraint paper_order_pkey cascade",
            "drop index paper_order_client_order_id_is_unique",
            "insert into paper_order select * from paper_order where KEY and order_id = 5",
        ),
        # two orders with one client_order_id
        sql(
            "drop index paper_order_client_order_id_is_unique",
            "update paper_order set client_order_id = 'same' where KEY and order_id in (3, 5)",
        ),
        # two cash entries with one number
        sql(
            "alter table cash_ledger drop constraint cash_ledger_pkey cascade",
            f"insert into cash_ledger values (%(u)s, %(r)s, 1, {LAST}, 0, 'ADJUSTMENT')",
        ),
        # two trades with one number
        sql(
            "alter table paper_trade drop constraint paper_trade_pkey cascade",
            "insert into paper_trade select * from paper_trade where KEY and trade_id = 1",
            also="order_disagrees_with_trades trade_disagrees_with_cash position_disagrees_with_trades",
        ),
    ],
    "account_without_state": [
        sql("delete from engine_state where KEY"),
    ],
    "ended_run_not_logged": [
        sql(
            "update paper_order set status = 'CANCELED' where KEY and status = 'PENDING'",
            "update strategy_run set status = 'STOPPED' where KEY",
        ),
        # logged with another status
        sql(
            "update paper_order set status = 'CANCELED' where KEY and status = 'PENDING'",
            "update strategy_run set status = 'STOPPED' where KEY",
            "insert into engine_status (user_id, run_id, status) values (%(u)s, %(r)s, 'ERROR')",
        ),
    ],
    "first_tick_after_last": [
        sql("update engine_state set first_logical_time = '2024-01-09 12:00+00' where KEY"),
        sql("update engine_state set first_logical_time = null where KEY"),
    ],
    "order_disagrees_with_trades": [
        sql("update paper_order set filled_quantity = 9.5 where KEY and order_id = 1"),
        sql("update paper_order set quantity = 11 where KEY and order_id = 1"),
        sql("update paper_order set avg_fill_price = avg_fill_price + 0.00000001 where KEY and order_id = 1"),
        sql("update paper_order set avg_fill_price = null where KEY and order_id = 1"),
        sql("update paper_order set avg_fill_price = 1 where KEY and order_id = 3"),
        sql("update paper_order set status = 'CANCELED' where KEY and order_id = 2"),
        sql("update paper_order set status = 'PENDING', closed_time = null where KEY and order_id = 2"),
        sql("update paper_order set status = 'REJECTED', reject_reason = 'PRICE_STALE' where KEY and order_id = 2"),
        sql(f"update paper_order set status = 'FILLED', closed_time = {LAST} where KEY and order_id = 3"),
        sql(
            "update paper_order set status = 'FILLED', filled_quantity = quantity, avg_fill_price = 1 where KEY and order_id = 5"
        ),
        sql("update paper_order set status = 'PARTIALLY_FILLED' where KEY and order_id = 3"),
    ],
    "trade_disagrees_with_order": [
        sql("update paper_order set symbol = 'B' where KEY and order_id = 2"),
        sql("update paper_order set side = 'BUY' where KEY and order_id = 2"),
        sql("update paper_order set logical_time = '2024-01-02 12:00+00' where KEY and order_id = 2"),
        sql(
            "update paper_order set logical_time = '2024-01-03 12:00+00' where KEY and order_id = 2",
            also="order_closing_disagrees_with_status",
        ),
        # a SIP fill at another time than its tick
        sql(
            "update paper_trade set logical_time = '2024-01-05 12:00:01+00' where KEY and order_id = (select min(order_id)"
            " from paper_order where KEY and source = 'SIP' and logical_time = '2024-01-05 12:00+00')",
            "update cash_ledger l set logical_time = t.logical_time from paper_trade t where l.user_id = t.user_id"
            " and l.run_id = t.run_id and l.trade_id = t.trade_id and l.logical_time <> t.logical_time and t.user_id = %(u)s",
            *MARKS_FOLLOW,
            also="order_closing_disagrees_with_status position_below_zero",
        ),
    ],
    "fill_beyond_limit": [
        # a buy above its limit
        sql("update paper_order set order_type = 'LIMIT', limit_price = 1 where KEY and order_id = 1"),
        # a sell below its limit
        sql("update paper_order set order_type = 'LIMIT', limit_price = 999 where KEY and order_id = 2"),
    ],
    "order_closing_disagrees_with_status": [
        # an open order with a closed_time
        sql(f"update paper_order set closed_time = {LAST} where KEY and order_id = 3"),
        # a filled order closed at another time
        sql(f"update paper_order set closed_time = {LAST} where KEY and order_id = 1"),
        # a filled order never closed
        sql("update paper_order set closed_time = null where KEY and order_id = 1"),
        # an expired order never closed
        sql("update paper_order set closed_time = null where KEY and order_id = 6"),
        # an order closed before its acceptance
        sql(
            "update paper_order set closed_time = '2023-12-31 12:00+00' where KEY and order_id = 6",
        ),
        # a reason without a rejection
        sql("update paper_order set reject_reason = 'PRICE_STALE' where KEY and order_id = 1"),
        # a rejection without a reason
        sql("update paper_order set reject_reason = null where KEY and order_id = 4"),
        # an unknown source
        sql("update paper_order set source = 'NOBODY' where KEY and order_id = 5"),
    ],
    "order_names_no_order": [
        *(
            sql(f"update paper_order set {name} = 999 where KEY and order_id = 3")
            for name in ("parent_order_id", "replaces_order_id", "oco_id")
        ),
    ],
    "trigger_disagrees_with_order": [
        sql("update paper_order set status = 'TRIGGERED', triggered_time = logical_time where KEY and order_id = 3"),
        sql("update paper_order set triggered_time = closed_time where KEY and order_id = 1"),
        *(
            sql(f"update paper_order set order_type = 'STOP', stop_price = 1, {wrong} where KEY and order_id = 3")
            for wrong in ("status = 'TRIGGERED'", "triggered_time = logical_time - interval '1 second'")
        ),
    ],
    "reinvestment_without_dividend": [
        sql("update paper_order set source = 'DIVIDEND' where KEY and order_id = 4"),
        # of another symbol
        sql(
            "update paper_order set source = 'DIVIDEND', logical_time = (select paid_time from dividend_due where KEY),"
            " closed_time = (select paid_time from dividend_due where KEY) where KEY and order_id = 4"
        ),
    ],
    "order_later_than_run": [
        # an order closed after the last tick
        sql("update paper_order set closed_time = '2024-01-07 12:00+00' where KEY and order_id = 6"),
        # an order accepted after the last tick
        sql(
            "update paper_order set logical_time = '2024-01-07 12:00+00' where KEY and order_id = 3",
        ),
        # a trade later than the run
        sql(
            "update paper_trade set logical_time = '2024-01-07 12:00+00' where KEY and trade_id = (select max(trade_id)"
            " from paper_trade where KEY)",
            "update cash_ledger set logical_time = '2024-01-07 12:00+00' where KEY and trade_id = (select max(trade_id)"
            " from paper_trade where KEY)",
            f"delete from paper_equity_curve where KEY and logical_time = {LAST}",
            "update engine_state set last_logical_time = '2024-01-05 12:00+00' where KEY",
            also="trade_disagrees_with_order order_closing_disagrees_with_status",
        ),
        # orders of a run that has seen no time
        sql(
            "update engine_state set first_logical_time = null, last_logical_time = null, step_logical_time = null where KEY"
        ),
    ],
    "fill_outside_bar": [
        # the same run on a feed where A was cheaper that day
        sql(
            "insert into feed values ('elsewhere')",
            "insert into price_bar values ('elsewhere', 'A', '2024-01-01 12:00Z', 1, 2, 1, 2)",
            "update strategy_run set feed = 'elsewhere' where KEY",
        ),
    ],
    "fills_above_participation": [
        sql(
            "update strategy_run set participation = 0.1 where KEY",
            "update price_bar set volume = 99 where symbol = 'A' and logical_time = '2024-01-01 12:00Z' and feed = (select feed from strategy_run where KEY)",
        ),
    ],
    "dividend_disagrees_with_cash": [
        sql("update dividend_due set paid_time = paid_time + interval '1 second' where KEY"),
        sql("update dividend_due set paid_time = null where KEY"),
        sql("update dividend_due set entry_id = null where KEY", also="cash_without_action"),
        sql("update dividend_due set amount = amount + 1 where KEY", also="dividend_disagrees_with_event"),
    ],
    "dividend_disagrees_with_event": [
        sql("update event_ledger set event_key = 'D:2024-01-03' where KEY and event_type = 'DIVIDEND'"),
        sql("update dividend_due set quantity = quantity + 1 where KEY"),
    ],
    "cash_without_action": [
        sql("insert into cash_ledger values (%(u)s, %(r)s, 99, '2024-01-06 12:00+00', 0, 'DIVIDEND')"),
        sql("insert into cash_ledger values (%(u)s, %(r)s, 99, '2024-01-06 12:00+00', 0, 'CASH_IN_LIEU')"),
    ],
    "split_disagrees_with_ratio": [
        # to more than there was, to less than half of it, and something out of nothing
        *(
            sql(
                f"update event_ledger set payload = jsonb_set(payload, '{{{part}}}', '{value}') where KEY and event_type = 'SPLIT'"
            )
            for part, value in (("denominator", 3), ("numerator", 6))
        ),
        sql(
            "insert into event_ledger values (%(u)s, %(r)s, '2024-01-06 12:00Z', 'SPLIT', 'Z:2024-01-06',"
            """ '{"symbol": "Z", "numerator": 2, "denominator": 1, "quantity": 0, "units": 1}')""",
            also="position_disagrees_with_trades",
        ),
    ],
    "cash_disagrees_with_ledger": [sql("update engine_state set cash = cash + 0.0001 where KEY")],
    "opening_disagrees_with_initial_cash": [sql("update strategy_run set initial_cash = initial_cash - 1 where KEY")],
    "trade_disagrees_with_cash": [
        sql("update cash_ledger set logical_time = logical_time - interval '1 second' where KEY and trade_id = 1"),
        sql(
            "update cash_ledger set trade_id = null where KEY and trade_id = 1",
            also="cash_entry_disagrees_with_cause mark_disagrees_with_ledger",
        ),
        sql("update cash_ledger set trade_id = 2 where KEY and trade_id = 1"),
        # two trades of one time, so that the cash of that time still adds up
        sql(
            "update cash_ledger set amount = amount + case trade_id when 4 then 1 else -1 end where KEY and trade_id in (4, 5)"
        ),
    ],
    "cash_below_zero": [
        sql(
            "insert into cash_ledger select %(u)s, %(r)s, 1000, "
            + LAST
            + ", -cash - 0.0001, 'ADJUSTMENT' from engine_state where KEY",
            "insert into cash_ledger select %(u)s, %(r)s, 1001, "
            + LAST
            + ", cash + 0.0001, 'ADJUSTMENT' from engine_state where KEY",
        )
    ],
    "cash_entry_disagrees_with_cause": [
        # a cash entry of a trade that is not
        sql(
            "alter table cash_ledger drop constraint cash_ledger_of_trade",
            f"insert into cash_ledger values (%(u)s, %(r)s, 1000, {LAST}, 0, 'TRADE', 999)",
        ),
        # a cash entry of cause TRADE without a trade
        sql(
            f"insert into cash_ledger values (%(u)s, %(r)s, 1000, {LAST}, 0, 'TRADE')",
        ),
        # a trade's cash of another cause
        sql("update cash_ledger set cause = 'GIFT' where KEY and trade_id = 1"),
    ],
    "fees_disagree_with_trade": [
        # a fee that the trade does not have
        sql(SCHEDULE.format("IN_INTRADAY"), FEE.format(trade=1, amount=0.01)),
        # without a schedule too, of which the fee then is none
        sql(FEE.format(trade=1, amount="0.01"), also="fees_above_schedule"),
        # a trade with more fees than its components
        sql(
            SCHEDULE.format("IN_INTRADAY"),
            *charged(1, "0.30"),
            "update trade_fee set amount = 0.29 where KEY",
        ),
        # fees without components, in a run with a schedule
        sql(
            SCHEDULE.format("ZERO"),
            *charged(1, "0.30"),
            "delete from trade_fee where KEY",
        ),
    ],
    "fees_above_schedule": [
        # 0.03 % of 1,030 is 0.31
        sql(SCHEDULE.format("IN_INTRADAY"), *charged(1, "0.32")),
        # another trade's share is not for this one
        sql(SCHEDULE.format("IN_INTRADAY"), *charged(1, "0.31"), *charged(2, "0.14")),
        # another schedule, and none
        sql(SCHEDULE.format("ZERO"), *charged(1, "0.31")),
        sql(*charged(1, "0.31")),
    ],
    "position_disagrees_with_trades": [
        sql("update paper_position set quantity = quantity + 0.00000001 where KEY and symbol = 'A'"),
        sql("update paper_position set quantity = 0, cost_basis = 0 where KEY and symbol = 'A'"),
        sql("update paper_position set quantity = -quantity where KEY and symbol = 'A'"),
        sql("update paper_position set cost_basis = cost_basis + 0.01 where KEY and symbol = 'A'"),
        sql("update paper_position set realized_pnl = realized_pnl + 0.01 where KEY and symbol = 'A'"),
        sql("delete from paper_position where KEY and symbol = 'A'"),
        sql("insert into paper_position values (%(u)s, %(r)s, 'D', 1)"),
        sql("insert into paper_position values (%(u)s, %(r)s, 'D', 0, 5, 5)"),
    ],
    "position_below_zero": [
        # more sold than held, bought back later
        sql(
            "update paper_order set side = case side when 'BUY' then 'SELL' else 'BUY' end, quantity = 5, filled_quantity = 5,"
            " avg_fill_price = 103 where KEY and order_id in (1, 2)",
            "update paper_trade set side = case side when 'BUY' then 'SELL' else 'BUY' end, quantity = 5, price = 103"
            " where KEY and trade_id in (1, 2) and 2 = (select max(trade_id) from paper_trade where KEY and order_id in (1, 2))",
            "update cash_ledger set amount = case trade_id when 1 then 515 else -515 end where KEY and trade_id in (1, 2)",
            "update paper_position p set quantity = t.quantity, realized_pnl = 0, cost_basis = t.cost from (select t.symbol,"
            " sum(case side when 'BUY' then quantity else -quantity end) as quantity,"
            " sum(case side when 'BUY' then 1 else -1 end * round(quantity * price, 2)) as cost from paper_trade t"
            " where KEY group by t.symbol) t where KEY and p.symbol = t.symbol and p.symbol <> 'C'",
            "update engine_state set cash = (select sum(amount) from cash_ledger where KEY) where KEY",
            *MARKS_FOLLOW,
            also="fill_outside_bar",
        ),
    ],
    "equity_is_not_cash_plus_market_value": [
        sql("update paper_equity_curve set equity = equity + 0.0001 where KEY and logical_time = '2024-01-02 12:00+00'")
    ],
    "unrealized_is_not_value_minus_cost": [
        sql(
            "update mtm_ledger set unrealized_pnl = unrealized_pnl - 0.0001 where KEY and logical_time = '2024-01-02 12:00+00'"
        )
    ],
    "mtm_disagrees_with_equity": [
        sql(
            "update mtm_ledger set market_value = market_value + 1, unrealized_pnl = unrealized_pnl + 1"
            " where KEY and logical_time = '2024-01-02 12:00+00'"
        )
    ],
    "mark_disagrees_with_ledger": [
        *(
            sql(
                f"update paper_equity_curve set cash = cash + 1, equity = equity + 1 where KEY and logical_time = '2024-01-0{d} 12:00+00'"
            )
            for d in (1, 5, 6)
        ),
        # mtm does not carry the positions' realized P&L
        sql(
            f"update mtm_ledger set realized_pnl = realized_pnl + 50 where KEY and logical_time = {LAST}",
        ),
        # mtm does not carry the positions' cost
        sql(
            "update mtm_ledger set cost_basis = cost_basis + 50, unrealized_pnl = unrealized_pnl - 50"
            f" where KEY and logical_time = {LAST}",
        ),
    ],
    "last_tick_is_not_whole": [
        sql(f"delete from mtm_ledger where KEY and logical_time = {LAST}"),
        sql(f"delete from paper_equity_curve where KEY and logical_time = {LAST}"),
        sql("update engine_state set last_logical_time = '2024-01-07 12:00+00' where KEY"),
    ],
    "sip_slots_disagree_with_events": [
        sql("update sip_plan set next_slot = next_slot + 1 where KEY"),
        sql("update sip_plan set next_slot = next_slot - 1 where KEY", also="event_of_no_slot"),
        sql("delete from event_ledger where KEY and event_type = 'SIP_MISSED' and event_key = '1:1'"),
        # more slots than instalments
        sql("update sip_plan set instalments = 1 where KEY"),
    ],
    "rebalance_slots_disagree_with_events": [
        sql("update rebalance_plan set next_slot = next_slot + 1 where KEY"),
        sql(
            f"insert into event_ledger values (%(u)s, %(r)s, {LAST}, 'REBALANCE_MISSED', '1:1')",
            also="event_of_no_slot",
        ),
    ],
    "executed_slot_without_filled_order": [
        sql(
            "update event_ledger set logical_time = '2024-01-02 12:00:01+00' where KEY and event_key = '1:0' and event_type = 'SIP_EXECUTED'"
        ),
        sql(
            "update event_ledger set payload = payload - 'order_id', event_type = 'SIP_EXECUTED' where KEY and event_type = 'SIP_MISSED'"
        ),
        # a SIP order of another symbol than its plan's
        sql("update sip_plan set symbol = 'B' where KEY"),
    ],
    "sip_order_without_its_slot": [
        sql("update paper_order set source = 'SIP' where KEY and order_id = 5"),
        # two slots executed by one order
        sql(
            "update event_ledger set event_type = 'SIP_EXECUTED', payload = (select payload from event_ledger"
            " where KEY and event_type = 'SIP_EXECUTED' and event_key = '1:3') where KEY and event_key = '1:2'",
        ),
    ],
    "rebalance_order_without_its_slot": [
        # a rebalance order without its event
        sql("update paper_order set source = 'REBALANCE' where KEY and order_id = 5"),
        # its event is of another time
        sql(
            "update event_ledger set logical_time = logical_time + interval '1 second' where KEY and event_type = 'REBALANCED'"
        ),
    ],
    "event_of_no_slot": [
        # a slot number that is not there
        sql(
            "update event_ledger set event_key = '1:77' where KEY and event_type = 'SIP_MISSED' and event_key = '1:1'",
        ),
        # an event of a SIP that is not
        sql(f"insert into event_ledger values (%(u)s, %(r)s, {LAST}, 'SIP_MISSED', '9:0')"),
        # an event of a rebalance plan that is not
        sql(
            f"insert into event_ledger values (%(u)s, %(r)s, {LAST}, 'REBALANCED', '9:0')",
        ),
        # a key that names no slot
        sql(f"insert into event_ledger values (%(u)s, %(r)s, {LAST}, 'SIP_EXECUTED', 'x')"),
    ],
    "weights_are_no_plan": [
        # a weight of a plan that is not
        sql(
            "alter table target_weight drop constraint target_weight_of_plan",
            "insert into target_weight values (%(u)s, %(r)s, 99, 'A', 0.5)",
        ),
        # weights above 1 in sum
        sql("insert into target_weight values (%(u)s, %(r)s, 1, 'C', 0.9)"),
    ],
    "basket_is_no_whole": [
        sql('update sip_plan set symbol = null, basket = \'{"C": 0.6, "B": 0.3999}\' where KEY'),
    ],
    "auto_pause_without_skipped_funds": [
        sql(f"insert into event_ledger values (%(u)s, %(r)s, {LAST}, 'SIP_AUTO_PAUSED', '1:0')"),
    ],
    "margin_charge_is_not_a_charge": [
        # of a cash account, though everything else agrees with it
        sql(CHARGE.format(amount=-1), "update engine_state set cash = cash - 1 where KEY", *MARKS_FOLLOW),
        # a gift to a margin account
        sql(
            ON_MARGIN,
            CHARGE.format(amount=1),
            "update engine_state set cash = cash + 1 where KEY",
            *MARKS_FOLLOW,
        ),
    ],
    "margin_call_without_need": [
        sql(CALL.format(equity=1, exposure=100)),
        sql(ON_MARGIN, CALL.format(equity=50, exposure=100)),
        sql(ON_MARGIN, CALL.format(equity='"x"', exposure=100)),
    ],
    "margin_order_without_its_call": [
        sql("update paper_order set source = 'MARGIN' where KEY and order_id = 4"),
        sql(
            ON_MARGIN,
            CALL.format(equity=1, exposure=100),
            "update paper_order set source = 'MARGIN', logical_time = '2024-01-05 12:00Z', closed_time = '2024-01-05 12:00Z'"
            " where KEY and order_id = 4",
        ),
    ],
}


def test_every_rule_has_a_plant_and_every_plant_a_rule() -> None:
    text = "".join(re.sub(r"--.*", "", path.read_text()) for path in SQL)
    rules = set(re.findall(r"'([a-z]+(?:_[a-z]+)+)'(?: as rule)?,", text)) - {*TABLES, "client_order_id"}
    assert rules == set(PLANTS)
    assert {rule for plants in PLANTS.values() for planted in plants for rule in planted.also} <= rules


@pytest.mark.parametrize("rule", PLANTS)
def test_a_planted_defect_is_reported_for_its_run_alone(tx: Conn, rule: str) -> None:
    market = busy_market(tx)
    busy_run(market)
    run = busy_run(market)
    busy_run(market)
    assert rows(tx, "select * from violations") == []
    for way, planted in enumerate(PLANTS[rule]):
        with tx.transaction(force_rollback=True):
            planted.break_it(run)
            found = rows(tx, "select user_id, coalesce(run_id, %s), rule from violations", run.run_id)
            assert set(found) == {(*run.key, name) for name in {rule, *planted.also}}, way
            query = "select rule, detail from violations where (user_id, run_id) = (%s, %s) order by 1, 2"
            if rule != "row_without_run":
                seen = rows(tx, query, *run.key)
                assert rows(tx, "select * from run_violations(%s, %s) order by 1, 2", *run.key) == seen, way


# What the contract forbids and no rule reports yet. When a rule is written its plant moves to PLANTS.
UNSEEN: dict[str, Plant] = {
    "the opening is gone, so the run passes for one of raw rows": sql(
        "delete from cash_ledger where KEY and cause = 'OPENING'"
    ),
    "cost basis and realized P&L wrong by the same": sql(
        "update paper_position set cost_basis = cost_basis + 50, realized_pnl = realized_pnl + 50 where KEY and symbol = 'A'",
    ),
    "value marked while nothing was held": sql(
        "insert into mtm_ledger values (%(u)s, %(r)s, '2023-12-31 12:00+00', 50, 0, 50, 0)",
    ),
    "a mark later than the run": sql(
        f"insert into mtm_ledger select user_id, run_id, logical_time + interval '1 day', market_value, cost_basis,"
        f" unrealized_pnl, realized_pnl from mtm_ledger where KEY and logical_time = {LAST}",
    ),
    "trade numbers that do not follow time": sql(
        "update paper_order set logical_time = null where KEY and order_id in (1, 2)",
        "alter table cash_ledger drop constraint cash_ledger_of_trade",
        "update paper_trade set trade_id = case trade_id when 1 then 1002 else 1001 end where KEY and trade_id in (1, 2)",
        "update cash_ledger set trade_id = case trade_id when 1 then 1002 else 1001 end where KEY and trade_id in (1, 2)",
    ),
    "an unknown reason": sql("update paper_order set reject_reason = 'BECAUSE' where KEY and order_id = 4"),
    "a DAY order alive after its session": sql(
        "update paper_order set status = 'PENDING', closed_time = null where KEY and order_id = 6",
    ),
    "a split of nothing, by an event that no action has made": sql(
        "insert into event_ledger values (%(u)s, %(r)s, '2024-01-06 12:00Z', 'SPLIT', 'A:2024-01-06',"
        """ '{"symbol": "A", "numerator": 2, "denominator": 1, "quantity": 0, "units": 0}')""",
    ),
    "a SIP order above its amount": sql("update sip_plan set amount = 1 where KEY"),
}


def test_what_no_rule_reports_yet(tx: Conn) -> None:
    run = busy_run(busy_market(tx))
    for what, planted in UNSEEN.items():
        with tx.transaction(force_rollback=True):
            planted.break_it(run)
            assert run.rules() == set(), f"there is a rule now, so move the plant: {what}"


def test_the_view_survives_any_raw_event(tx: Conn) -> None:
    run = busy_run(busy_market(tx))
    for n, payload in enumerate(
        ('{"order_id": "x"}', '{"order_id": 1.5}', '{"order_id": 1e30}', '{"order_id": [1]}', "7")
    ):
        for kind, key in (
            ("SIP_EXECUTED", f"1:{90 + n}"),
            ("SIP_EXECUTED", f"x{n}"),
            ("REBALANCED", f"{n}"),
            ("NOTE", f"{n}"),
        ):
            tx.execute(
                "insert into event_ledger values (%s, %s, %s, %s, %s, %s)",
                [*run.key, at("2024-01-06 12:00"), kind, key, payload],
            )
    assert "executed_slot_without_filled_order" in run.rules()


# --- clean runs ------------------------------------------------------------------------------------------------------


def stepped(run: Run, time: str, *steps: str) -> None:
    for step in steps:
        run.call(step, logical_time=at(time))


def test_busy_runs_are_clean_at_every_tick_and_however_they_end(tx: Conn) -> None:
    market = busy_market(tx)
    for end in ("stop_run", "fail_run", None, "update strategy_run set status = 'STOPPED' where " + KEY):
        run = busy_run(market)
        assert run.rules() == set()
        for d in (7, 8, 10):
            run.tick(f"2024-01-{d:02} 12:00")
            assert run.rules() == set()
        kinds = {kind for kind, _ in run.events()}
        assert kinds >= {"SIP_EXECUTED", "SIP_MISSED", "REBALANCED"}
        assert {o.split()[0] for o in run.orders()} == {
            "FILLED",
            "PENDING",
            "REJECTED",
            "CANCELED",
            "EXPIRED",
        }
        if end == "fail_run":
            run.call(end, error="broken")
        elif end == "stop_run":
            run.call(end)
        elif end:
            tx.execute(end, {"u": run.user_id, "r": run.run_id})
        assert run.rules() == set()
        if end:
            run.start()
            assert run.rules() == set()


STEPS = ("match_orders", "try_execute_sip", "try_rebalance", "log_mtm", "record_equity")


@pytest.mark.parametrize("before", [None, "2024-01-01 12:00"])
@pytest.mark.parametrize("first", range(5))
def test_runs_of_single_steps_are_clean(tx: Conn, first: int, before: str | None) -> None:
    market = busy_market(tx)
    for steps in (STEPS[first:last] for last in range(first + 1, 6)):
        for time in ("2024-01-03 12:00", "2024-01-03 18:00"):  # on a bar and between bars
            for after in (None, time, "2024-01-05 12:00"):
                run = Run(market)
                run.sip("C", 1000, "DAILY", "2024-01-01")
                run.rebalance('{"A": 0.1, "B": 0.2}', "DAILY", "2024-01-01")
                run.place("A", "BUY", 10)
                if before:
                    run.tick(before)
                run.place("A", "BUY", 3)
                run.place("B", "BUY", 2, limit=205)
                stepped(run, time, *steps)
                assert run.rules() == set(), (steps, time)
                run.place("C", "BUY", 1)
                if after:
                    run.tick(after)
                    assert run.rules() == set(), (steps, time, after)


def test_marks_made_ahead_of_the_tick_close_their_times(tx: Conn) -> None:
    """A mark made by a single step is true for ever: bars before it have traded, and nothing does at its own time."""
    market = busy_market(tx)
    for marks in (["record_equity"], ["log_mtm"], ["log_mtm", "record_equity"]):
        for d in (2, 3):
            run = Run(market)
            run.tick("2024-01-01 12:00")
            run.place("A", "BUY", 10)
            stepped(run, f"2024-01-0{d} 12:00", *marks)
            run.tick("2024-01-04 12:00")
            assert run.rules() == set()
            assert run.trades()[0][1] == at("2024-01-03 12:00" if d == 2 else "2024-01-02 12:00")


def test_runs_without_a_price_or_a_position_are_clean(tx: Conn) -> None:
    market = Market(tx, symbols=["A"])
    run = Run(market, 0)
    run.tick("2024-01-01 12:00")
    run.sip("A", 1000, "DAILY", "2024-01-01")
    run.rebalance('{"A": 1}', "DAILY", "2024-01-01")
    run.tick("2024-01-02 12:00")
    assert run.rules() == set()
    market.bars("A", {"2024-01-03 12:00": 100})
    run.tick("2024-01-03 12:00")
    assert sorted(run.events()) == [
        *(("REBALANCED", "1:2"), ("REBALANCE_MISSED", "1:0"), ("REBALANCE_MISSED", "1:1")),
        *(("SIP_MISSED", "1:0"), ("SIP_MISSED", "1:1"), ("SIP_SKIPPED_FUNDS", "1:2")),
    ]
    assert run.rules() == set()


def test_odd_money_stays_clean(tx: Conn) -> None:
    """Prices, quantities and currencies that do not divide: every sum still closes to the last digit."""
    for currency in ("USD", "JPY", "KWD", "CLF"):
        market = Market(tx)
        market.instrument("X", "0.00000001")
        prices = ["1.00000001", "0.33333333", "7.77777777", "0.00000003", "12345.6789", "3", "0.1", "2.5"]
        market.bars("X", {f"2024-01-{d:02} 12:00": D(p) for d, p in enumerate(prices, 1)})
        run = Run(market, 1000, currency=currency)
        run.sip("X", D("9.9999"), "DAILY", "2024-01-01", step_up_percent=D("3.3333"), step_up_every=2)
        for d in range(1, 9):
            run.place("X", "BUY", D("0.33333333"))
            run.place("X", "SELL", D("0.11111111"))
            run.tick(f"2024-01-{d:02} 12:00")
            assert run.rules() == set(), (currency, d)
        run.rebalance('{"X": 0.333333333}', "DAILY", "2024-01-01")
        run.tick("2024-01-08 18:00")
        run.rebalance('{"X": 0}', "DAILY", "2024-01-01")
        run.tick("2024-01-08 20:00")
        assert run.held("X") == 0
        assert run.rules() == set()


def test_a_corrected_bar_leaves_past_ticks_clean(tx: Conn) -> None:
    market = busy_market(tx)
    run = busy_run(market)
    tx.execute("update price_bar set open = 999, high = 999, low = 999, close = 999 where feed = %s", [market.feed])
    tx.execute("delete from price_bar where feed = %s and logical_time < '2024-01-05'", [market.feed])
    assert run.rules() == set()
    run.tick("2024-01-07 12:00")
    assert run.rules() == set()


def test_what_filled_before_a_split_met_the_limit_of_that_time(tx: Conn) -> None:
    market = Market(tx)
    bars = {f"2024-01-{d:02} 12:00": (p, p, p, p, v) for d, p, v in ((1, 100, 0), (2, 100, 100), (3, 10, 1000))}
    market.bars("A", bars)
    tx.execute("insert into corporate_action values ('A', '2024-01-03', 'SPLIT', 10, 1)")
    run = Run(market, participation=D("0.1"))
    run.tick("2024-01-01 12:00")
    run.place("A", "BUY", 20, limit=100)
    run.tick("2024-01-02 12:00")
    assert run.order(1)["filled_quantity"] == 10
    run.tick("2024-01-03 12:00")
    assert (run.order(1)["limit_price"], run.rules()) == (10, set())
    plant(run, f"update paper_order set limit_price = 9 where {KEY}")  # a fill after the split is still seen
    assert run.rules() == {"fill_beyond_limit"}


@pytest.mark.parametrize("change", ["product = 'ETF'", "quantity_step = 7"])
def test_a_corrected_instrument_accuses_nobody(tx: Conn, change: str) -> None:
    market = Market(tx)
    market.bars("A", {f"2024-01-{d:02} 12:00": (p, p, p, p, 105) for d, p in ((1, 100), (2, 100), (3, 50))})
    tx.execute("insert into corporate_action values ('A', '2024-01-03', 'SPLIT', 201, 100)")
    run = Run(market, fee_schedule="IN_DELIVERY", participation=D("0.1"), currency="INR")
    run.tick("2024-01-01 12:00")
    run.place("A", "BUY", 10)
    for d in (2, 3):
        run.tick(f"2024-01-{d:02} 12:00")
    assert (run.held("A"), run.rules()) == (D("20.1"), set())
    tx.execute(f"update instrument set {change}")
    assert run.rules() == set()


def test_closed_markets_and_day_orders_are_clean(tx: Conn) -> None:
    market = weekday_market(tx, "2024-01-02", "2024-01-10", skip=["2024-01-04"])
    times = [f"2024-01-{d:02} {h}" for d in range(2, 10) for h in ("08:00", "12:00", "16:00", "20:00")]
    market.bars("A", {t: 100 + i % 7 for i, t in enumerate(times)})
    run = Run(market, 10_000)
    run.sip("A", 100, "DAILY", "2024-01-02", catch_up="EACH")
    run.sip("A", 100, "WEEKLY", "2024-01-04", roll="SKIP")
    for t in times:
        run.place("A", "BUY", 1, limit=100, time_in_force="DAY")
        run.place("A", "SELL", 1, limit=104, time_in_force="DAY")
        run.tick(t)
        assert run.rules() == set(), t
    assert ("SIP_SKIPPED_HOLIDAY", "2:0") in run.events()


def test_raw_runs_are_checked_for_structure_alone(tx: Conn) -> None:
    market = Market(tx)
    user_id = val(tx, "select create_user('raw')")
    run_id = val(tx, "insert into strategy_run (user_id, status) values (%s, 'RUNNING') returning run_id", user_id)
    run = Run.__new__(Run)
    run.market, run.conn, run.user_id, run.run_id = market, tx, user_id, run_id
    key = {"u": user_id, "r": run_id}
    for statement in (
        "insert into engine_state (user_id, run_id) values (%(u)s, %(r)s)",
        "insert into engine_status (user_id, run_id, status) values (%(u)s, %(r)s, 'ERROR')",
        "insert into paper_order (user_id, run_id, order_id, logical_time, symbol, side, order_type, quantity, time_in_force, status)"
        " values (%(u)s, %(r)s, 5, '2024-01-01', 'X', 'BUY', 'MARKET', 1, 'GTC', 'FILLED')",
        "insert into paper_trade values (%(u)s, %(r)s, 7, 5, '2023-01-01', 'Y', 'SELL', 3, 10, 1)",
        "insert into paper_position values (%(u)s, %(r)s, 'Z', -5, 5, 5)",
        "insert into cash_ledger values (%(u)s, %(r)s, 3, '2024-01-01', -5, 'ANY', 7)",
        "insert into mtm_ledger values (%(u)s, %(r)s, '2024-01-01', 1, 2, 3, 4)",
        "insert into paper_equity_curve values (%(u)s, %(r)s, '2024-01-01', 1, 2, 4)",
        "insert into event_ledger values (%(u)s, %(r)s, '2024-01-01', 'SIP_EXECUTED', '1:0', '{}')",
    ):
        tx.execute(statement, key)
        assert run.rules() == set(), statement
    with refused(tx, "TE004"):
        tx.execute("delete from mtm_ledger where (user_id, run_id) = (%(u)s, %(r)s)", key)
    tx.execute("update strategy_run set status = 'STOPPED' where (user_id, run_id) = (%(u)s, %(r)s)", key)
    assert run.rules() == set()


def test_violations_is_empty_on_an_empty_database(tx: Conn) -> None:
    assert rows(tx, "select * from violations") == []
    names: list[Any] = rows(
        tx,
        "select attname, format_type(atttypid, null) from pg_attribute where attrelid = 'violations'::regclass and attnum > 0",
    )
    assert names == [("user_id", "bigint"), ("run_id", "bigint"), ("rule", "text"), ("detail", "text")]
