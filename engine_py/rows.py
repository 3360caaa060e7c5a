"""What a row of each table and verb is, column by column. Written by scripts/make_rows.py; do not edit."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple


class AppUser(NamedTuple):
    """A row of app_user."""

    user_id: int
    name: str


class RunRow(NamedTuple):
    """A row of strategy_run."""

    user_id: int
    run_id: int
    name: str
    feed: str
    currency: str
    status: str
    status_reason: str | None
    initial_cash: Decimal
    mark_policy: str
    fee_schedule: str | None
    participation: Decimal | None
    slippage_bps: Decimal
    volume_impact: Decimal
    penetration_ticks: int
    max_price_age: timedelta | None
    reinvest_dividends: bool
    initial_margin: Decimal | None
    maintenance_margin: Decimal | None
    borrow_rate: Decimal
    margin_rate: Decimal
    forked_from_user_id: int | None
    forked_from_run_id: int | None
    forked_at: datetime | None


class Order(NamedTuple):
    """A row of paper_order."""

    user_id: int
    run_id: int
    order_id: int
    logical_time: datetime | None
    symbol: str
    side: str
    order_type: str
    quantity: Decimal
    limit_price: Decimal | None
    stop_price: Decimal | None
    time_in_force: str
    status: str
    filled_quantity: Decimal
    avg_fill_price: Decimal | None
    reject_reason: str | None
    client_order_id: str | None
    source: str
    reserve_price: Decimal | None
    closed_time: datetime | None
    trail_amount: Decimal | None
    trail_percent: Decimal | None
    good_till: datetime | None
    triggered_time: datetime | None
    seen_time: datetime | None
    oco_id: int | None
    parent_order_id: int | None
    replaces_order_id: int | None
    take_profit_price: Decimal | None
    stop_loss_price: Decimal | None
    stop_loss_limit_price: Decimal | None
    client_terms: Any


class Trade(NamedTuple):
    """A row of paper_trade."""

    user_id: int
    run_id: int
    trade_id: int
    order_id: int
    logical_time: datetime
    symbol: str
    side: str
    quantity: Decimal
    price: Decimal
    fees: Decimal


class TradeFee(NamedTuple):
    """A row of trade_fee."""

    user_id: int
    run_id: int
    trade_id: int
    component: str
    amount: Decimal
    fee_schedule: str
    product: str
    side: str
    effective_from: date


class Position(NamedTuple):
    """A row of paper_position."""

    user_id: int
    run_id: int
    symbol: str
    quantity: Decimal
    cost_basis: Decimal
    realized_pnl: Decimal


class CashEntry(NamedTuple):
    """A row of cash_ledger."""

    user_id: int
    run_id: int
    entry_id: int
    logical_time: datetime | None
    amount: Decimal
    cause: str
    trade_id: int | None


class Mark(NamedTuple):
    """A row of mtm_ledger."""

    user_id: int
    run_id: int
    logical_time: datetime
    market_value: Decimal
    cost_basis: Decimal
    unrealized_pnl: Decimal
    realized_pnl: Decimal


class Event(NamedTuple):
    """A row of event_ledger."""

    user_id: int
    run_id: int
    logical_time: datetime
    event_type: str
    event_key: str
    payload: Any


class StatusChange(NamedTuple):
    """A row of engine_status."""

    user_id: int
    run_id: int
    status_id: int
    status: str
    reason: str | None
    logical_time: datetime | None
    recorded_at: datetime


class Sip(NamedTuple):
    """A row of sip_plan."""

    user_id: int
    run_id: int
    sip_id: int
    symbol: str | None
    amount: Decimal
    frequency: str
    start_date: date
    roll: str
    catch_up: str
    end_date: date | None
    instalments: int | None
    step_up_percent: Decimal | None
    step_up_amount: Decimal | None
    step_up_every: int | None
    whole_units: bool
    paused: bool
    next_slot: int
    residual: Decimal
    last_date: date | None
    base_slot: int
    basket: Any
    rebalance_plan_id: int | None
    pauses: Any
    auto_pause_after: int | None
    skipped_funds: int


class Rebalance(NamedTuple):
    """A row of rebalance_plan."""

    user_id: int
    run_id: int
    plan_id: int
    frequency: str
    start_date: date
    band: Decimal | None
    next_slot: int
    last_date: date | None
    band_relative: Decimal | None
    to_band_edge: bool
    min_order_value: Decimal | None
    whole_units: bool
    instalments: int | None


class TargetWeight(NamedTuple):
    """A row of target_weight."""

    user_id: int
    run_id: int
    plan_id: int
    symbol: str
    weight: Decimal


class EquityPoint(NamedTuple):
    """A row of equity_between()."""

    logical_time: datetime
    cash: Decimal
    market_value: Decimal
    equity: Decimal


class Drawdown(NamedTuple):
    """A row of drawdowns()."""

    peak_time: datetime
    trough_time: datetime
    recovery_time: datetime | None
    depth: Decimal


class SymbolMeasure(NamedTuple):
    """A row of performance_by_symbol()."""

    symbol: str
    metric: str
    value: Decimal | None


class Explanation(NamedTuple):
    """A row of explain_order()."""

    logical_time: datetime | None
    code: str
    detail: Any


class OrderPreview(NamedTuple):
    """A row of preview_order()."""

    status: str | None
    reject_reason: str | None
    stop_price: Decimal | None
    reserve_price: Decimal | None
    estimated_price: Decimal | None
    estimated_value: Decimal | None
    estimated_fees: Decimal | None
    cash: Decimal | None
    reserved_cash: Decimal | None
    cash_after: Decimal | None
    position_after: Decimal | None


class SipPreview(NamedTuple):
    """A row of preview_sip()."""

    slot: int | None
    due_date: date | None
    waits_for: str | None
    event_type: str | None
    symbol: str | None
    quantity: Decimal | None
    price: Decimal | None
    amount: Decimal | None
    cash_after: Decimal | None
    payload: Any


class SipSlot(NamedTuple):
    """A row of sip_schedule()."""

    sip_id: int
    slot: int | None
    nominal_date: date | None
    due_date: date | None
    amount: Decimal | None
    state: str


class RebalanceSlot(NamedTuple):
    """A row of rebalance_schedule()."""

    plan_id: int
    slot: int | None
    due_date: date | None
    state: str


class Difference(NamedTuple):
    """A row of replay_diff()."""

    ledger: str
    key: str
    row_a: Any
    row_b: Any


class Violation(NamedTuple):
    """A row of run_violations()."""

    rule: str
    detail: str


class StreamItem(NamedTuple):
    """A row of run_stream()."""

    id: str
    event: str
    data: Any


class FeedStatus(NamedTuple):
    """A row of feed_status()."""

    feed: str | None
    calendar: str | None
    known_until: datetime | None
    newest_bar_time: datetime | None
    newest_bars: int | None
    starts_at: datetime | None
    running: int | None
    behind: int | None
    not_begun: int | None
    oldest_logical_time: datetime | None
    lag: timedelta | None
    first_owed_time: datetime | None
    first_owed_runs: int | None
    last_owed_time: datetime | None
    last_owed_runs: int | None


class LeaderboardRow(NamedTuple):
    """A row of leaderboard()."""

    rank: int
    user_id: int
    user_name: str
    run_id: int
    name: str
    feed: str
    currency: str
    status: str
    last_logical_time: datetime | None
    metric: str
    value: Decimal | None
    reason: str | None
    funded: Decimal | None
    cash: Decimal | None
    market_value: Decimal | None
    equity: Decimal | None
    bought: Decimal
    sold: Decimal
    fees: Decimal
    trades: Decimal
    realized_pnl: Decimal | None
    unrealized_pnl: Decimal | None
    hit_rate: Decimal | None
    exposure: Decimal | None
    turnover: Decimal | None
    xirr: Decimal | None
    xirr_invested: Decimal | None
    twr: Decimal | None
    cagr: Decimal | None
    max_drawdown: Decimal | None
    calmar: Decimal | None
    best_period: Decimal | None
    worst_period: Decimal | None
    volatility: Decimal | None
    sharpe: Decimal | None
    sortino: Decimal | None
    reasons: Any
