-- The contract's verbs that only read. They pass the same gate as those in 96_verbs.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

create or replace function equity_at(p_user_id bigint, p_run_id bigint, p_logical_time timestamptz)
returns table (logical_time timestamptz, cash numeric, market_value numeric, equity numeric)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id);
  return query select * from engine.equity_at(p_user_id, p_run_id, p_logical_time);
end $$;
comment on function equity_at is 'equity_at(user, run, logical_time) → (logical_time, cash, market_value, equity), money in the run''s currency: the stored row of that time, or the same computed when the run''s mark_policy did not store it. No row before the first tick and after the last. TE204.
logical_time: The time asked for; it need not be a bar''s.';

create or replace function equity_between(p_user_id bigint, p_run_id bigint, p_from timestamptz default null, p_to timestamptz default null)
returns table (logical_time timestamptz, cash numeric, market_value numeric, equity numeric)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id);
  return query select * from engine.equity_between(p_user_id, p_run_id, p_from, p_to);
end $$;
comment on function equity_between is 'equity_between(user, run, from, to) → (logical_time, cash, market_value, equity) in order of time: every stored row, and one for each bar time of the feed between the first tick and the last that the run''s mark_policy did not store, computed from the ledgers and the bars as they are now. from, to null: no bound; both included. TE204.
from: First time; null = the first tick.
to: Last time; null = the last tick.';

create or replace function run_digest(p_user_id bigint, p_run_id bigint) returns text
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id);
  return engine.run_digest(p_user_id, p_run_id);
end $$;
comment on function run_digest is 'run_digest(user, run) → SHA-256, in hex, over the run''s orders, trades and their fees, positions, cash, MTM, equity and events in a fixed order. No user or run id, no wall-clock time: equal for equal histories, on any server. TE204.';

create or replace function replay_diff(p_user_a bigint, p_run_a bigint, p_user_b bigint, p_run_b bigint) returns table (ledger text, key text, row_a jsonb, row_b jsonb)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_a, p_run_a), engine.require_readable(p_user_b, p_run_b);
  return query select * from engine.replay_diff(p_user_a, p_run_a, p_user_b, p_run_b);
end $$;
comment on function replay_diff is 'replay_diff(user_a, run_a, user_b, run_b) → (ledger, key, row_a, row_b): the rows in which two runs differ, null where one has none; nothing when they are identical. ledger is the table, key the row''s in it. TE204.
user_a: The user whose run is the first one.
run_a: The first run.
user_b: The user whose run is the second one.
run_b: The second run; it may be the same user''s.';

create or replace function performance(p_user_id bigint, p_run_id bigint) returns table (metric text, value numeric)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id);
  return query select * from engine.performance(p_user_id, p_run_id);
end $$;
comment on function performance is 'performance(user, run) → (metric, value). Money in the run''s currency; rates as shares (0.1 = 10 %), null where undefined (performance_reasons says why). xirr: external flows against equity. xirr_invested: buys, sells, dividends and costs of carry against market value, the money-weighted return of what was put to work, idle cash left out. twr, cagr (365-day years), max_drawdown, calmar from marks, flows taken out. best_period, worst_period, volatility, sharpe, sortino from returns between the last marks of consecutive sessions, annualised by how many there are in a year of this run; riskless rate 0. exposure: market value over equity, average over time. turnover: the lesser of bought and sold over average equity, a year. hit_rate: share of sales that realized a gain.';

create or replace function performance_reasons(p_user_id bigint, p_run_id bigint) returns table (metric text, reason text)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id);
  return query select * from engine.performance_reasons(p_user_id, p_run_id);
end $$;
comment on function performance_reasons is 'performance_reasons(user, run) → (metric, reason) for each metric of performance that is null. NO_MARK: never ticked. NO_FLOW: no cash has moved. NOT_FUNDED: nothing had come in by the first mark. ONE_DIRECTION_ONLY: money only went in, or only came out. NO_ROOT, SEVERAL_ROOTS: no rate solves the flows, or more than one. RATE_OUT_OF_RANGE: too large for a number. SHORT_SPAN: less than a day. TOO_FEW_PERIODS: fewer than two sessions marked, or three for what is annualised. EQUITY_NOT_POSITIVE: equity fell to nothing or below. NO_VARIATION, NO_DOWNSIDE, NO_DRAWDOWN: nothing to divide by. NO_SALE. SHORT_POSITION: something was sold short, whose flows are those of a loan. NO_POSITION: trades without paper_position. UNITS_NOT_FROM_TRADES: trades and their cash do not account for the units held. TRADED_SINCE_MARK: cost and market value are of different times.';

create or replace function performance_by_symbol(p_user_id bigint, p_run_id bigint) returns table (symbol text, metric text, value numeric)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id);
  return query select * from engine.symbol_measures(p_user_id, p_run_id);
end $$;
comment on function performance_by_symbol is 'performance_by_symbol(user, run) → (symbol, metric, value) for every symbol ever traded or held: quantity, cost_basis, market_value (at the last close known to the run), realized_pnl, unrealized_pnl, bought, sold, fees, trades, hit_rate, and xirr of its own trades, null where it was sold short. Dividends are not in it: the cash ledger books them to the run.';

create or replace function drawdowns(p_user_id bigint, p_run_id bigint)
returns table (peak_time timestamptz, trough_time timestamptz, recovery_time timestamptz, depth numeric)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id);
  return query select * from engine.drawdowns(p_user_id, p_run_id);
end $$;
comment on function drawdowns is 'drawdowns(user, run) → (peak_time, trough_time, recovery_time, depth), the deepest first: every fall of equity, flows taken out, below an earlier high. depth is a share of the high, -0.1 = 10 % below; the first one''s is max_drawdown. recovery_time null: still under water.';

create or replace function explain_order(p_user_id bigint, p_run_id bigint, p_order_id bigint)
returns table (logical_time timestamptz, code text, detail jsonb)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id);
  return query select * from engine.explain_order(p_user_id, p_run_id, p_order_id);
end $$;
comment on function explain_order is 'explain_order(user, run, order_id) → (logical_time, code, detail) in order of time: why an order did or did not fill, derived from the ledgers and from the bars as they are now. ACCEPTED, REJECTED (reason); spans of bars that did nothing: WAITING_PRICE (wanted_price, nearest_price, distance), SESSION_CLOSED, VOLUME_CAP, RATCHETED, UNSEEN (as the bar is now, it would have met the order); TRIGGERED, REDUCED, GREW, PARTIALLY_FILLED, FILLED, EXITS_MADE; CANCELED (by USER, PAIR, REPLACED, SPLIT, TIME_IN_FORCE, REFUSED or RUN_END), EXPIRED; WAITING. TE101 for an unknown order, TE204.';

create or replace function preview_order(
  p_user_id bigint, p_run_id bigint, p_symbol text, p_side text, p_quantity numeric, p_order_type text default 'MARKET',
  p_limit_price numeric default null, p_stop_price numeric default null, p_time_in_force text default 'GTC',
  p_trail_amount numeric default null, p_trail_percent numeric default null, p_good_till timestamptz default null,
  p_take_profit numeric default null, p_stop_loss numeric default null, p_stop_loss_limit numeric default null
) returns table (status text, reject_reason text, stop_price numeric, reserve_price numeric, estimated_price numeric, estimated_value numeric,
                 estimated_fees numeric, cash numeric, reserved_cash numeric, cash_after numeric, position_after numeric)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  return query select * from engine.preview_order(p_user_id, p_run_id,
    engine.order_of(p_symbol, p_side, p_quantity, p_order_type, p_limit_price, p_stop_price, p_time_in_force, null, p_trail_amount,
                    p_trail_percent, p_good_till, p_take_profit, p_stop_loss, p_stop_loss_limit), p_quantity);
end $$;
comment on function preview_order is 'preview_order(user, run, symbol, side, quantity, …) → what place_order would answer now (status, reject_reason, stop_price, reserve_price), and what the order would come to if it filled at once at the price it is valued at: estimated_price, estimated_value, estimated_fees, cash, reserved_cash (what open buys keep back), cash_after, position_after; null where no price is known. The arguments are place_order''s. Stores nothing and locks nothing. Refuses as place_order does.';

create or replace function preview_sip(p_user_id bigint, p_run_id bigint, p_sip_id bigint, p_logical_time timestamptz default null)
returns table (slot int, due_date date, waits_for text, event_type text, symbol text, quantity numeric, price numeric, amount numeric,
               cash_after numeric, payload jsonb)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  return query select * from engine.preview_sip(p_user_id, p_run_id, p_sip_id, p_logical_time);
end $$;
comment on function preview_sip is 'preview_sip(user, run, sip_id, logical_time) → how the plan''s next slot would end at that time (null = the last tick), with the run as it stands: event_type, quantity, price, amount (of the slot), payload, cash_after; due_date: when it falls due; of a basket or a rebalance plan one row a symbol that it buys. waits_for: DATE, SESSION or PRICE while a tick there would leave it due. No row when the plan is over. Stores nothing and locks nothing. TE101 for an unknown plan, TE001, TE203, TE204.
logical_time: When to look; null = the run''s last tick.';

create or replace function feed_status(p_feed text default null, p_since timestamptz default null)
returns table (
  feed text, calendar text, known_until timestamptz, newest_bar_time timestamptz, newest_bars bigint, starts_at timestamptz,
  running bigint, behind bigint, not_begun bigint, oldest_logical_time timestamptz, lag interval,
  first_owed_time timestamptz, first_owed_runs bigint, last_owed_time timestamptz, last_owed_runs bigint
)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  if not engine.reads_all() then
    perform engine.require_admin('feed_status');
  end if;
  return query select * from engine.feed_status(p_feed, p_since);
end $$;
comment on function feed_status is 'feed_status(feed, since) → one row, or without a feed one for each that a RUNNING run follows: how far its bars and its runs are. newest_bars: bars of newest_bar_time; known_until: where its calendar ends (null: nowhere, or it has no sessions). running: RUNNING runs; behind: those that owe a time of the feed; not_begun: those that have never ticked and owe the times from starts_at on: the first at or after since (-infinity: the first of all), by default the newest. lag: from the least advanced run''s last tick to the newest bar. oldest_logical_time: that tick. first_owed_time, last_owed_time: the earliest and the latest of the times that runs owe next, the times to give to tick_all; first_owed_runs, last_owed_runs: how many owe just that. It counts runs of every user, so it takes an analyst or an administrator. TE201, TE301.
feed: The feed; null = all that a RUNNING run follows.
since: Where runs that have never ticked begin; null = at the newest bar.';

create or replace function run_stream(p_user_id bigint, p_run_id bigint, p_after text default null, p_limit int default 500)
returns table (id text, event text, data jsonb)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id);
  return query select * from engine.run_stream(p_user_id, p_run_id, p_after, p_limit);
end $$;
comment on function run_stream is 'run_stream(user, run, after, limit) → (id, event, data): what has happened up to the last tick, in order, from the item after id ''after'' on (null: from the start). event: event (a row of event_ledger), trade (a fill), tick (a time of equity_between), in this order within a time. Numbers in data are strings. An id always names the same item. TE101 for what is no id, TE204.
after: Id of the last item seen; null = from the start.
limit: How many items at most.';

create or replace function sip_schedule(p_user_id bigint, p_run_id bigint)
returns table (sip_id bigint, slot int, nominal_date date, due_date date, amount numeric, state text)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id);
  return query select * from engine.sip_schedule(p_user_id, p_run_id);
end $$;
comment on function sip_schedule is 'sip_schedule(user, run) → (sip_id, slot, nominal_date, due_date, amount, state) of each plan''s next slot: due at the first open tick on or after due_date, in the market''s time zone. state: SCHEDULED; PAUSED (it will be skipped, unless resumed); CALENDAR_ENDS (due_date null: the calendar does not reach that far yet); OVER or RUN_ENDED (no dates: there is none to come). TE204.';

create or replace function rebalance_schedule(p_user_id bigint, p_run_id bigint)
returns table (plan_id bigint, slot int, due_date date, state text)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id);
  return query select * from engine.rebalance_schedule(p_user_id, p_run_id);
end $$;
comment on function rebalance_schedule is 'rebalance_schedule(user, run) → (plan_id, slot, due_date, state) of each plan''s next slot; state is SCHEDULED, CALENDAR_ENDS, OVER or RUN_ENDED, as in sip_schedule. TE204.';

create or replace function leaderboard(p_metric text default 'xirr', p_feed text default null, p_limit int default 20, p_name_like text default null, p_user_like text default null)
returns table (
  rank bigint, user_id bigint, user_name text, run_id bigint, name text, feed text, currency text, status text, last_logical_time timestamptz,
  metric text, value numeric, reason text, funded numeric, cash numeric, market_value numeric, equity numeric, bought numeric, sold numeric,
  fees numeric, trades numeric, realized_pnl numeric, unrealized_pnl numeric, hit_rate numeric, exposure numeric, turnover numeric,
  xirr numeric, xirr_invested numeric, twr numeric, cagr numeric, max_drawdown numeric, calmar numeric, best_period numeric,
  worst_period numeric, volatility numeric, sharpe numeric, sortino numeric, reasons jsonb
)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  return query select * from engine.leaderboard(p_metric, p_feed, p_limit, p_name_like, p_user_like, case when not engine.reads_all() then engine.own_user_ids() end);
end $$;
comment on function leaderboard is 'leaderboard(metric, feed, limit, name_like, user_like) → (rank, user_id, user_name, run_id, name, feed, currency, status, last_logical_time, metric, value, reason, …, reasons): the best runs among all that the caller may read, by one metric of performance: the greatest first, of fees, turnover and volatility the least; null last, equals by user_id and run_id. value and reason are that metric''s; the columns after them are all of performance, digit for digit, and reasons says why some are null. Only the metric is computed for runs that are not shown. TE101 for an unknown metric, TE201. metric: One of performance''s. feed: Only runs of this feed; null = of any. limit: How many; null = all. name_like: A pattern of LIKE for the run''s name; null = any. user_like: The same for its user''s.';
