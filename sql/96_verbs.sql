-- The contract's verbs. Each pins its search_path, passes the gate and calls the engine; nothing else stands here.
-- The gate is a lock that every statement on strategy_run takes anyway: a session that arrives while the code below is
-- being rebuilt waits here, before it has looked up anything of the old engine. For the same reason no verb declares a
-- variable of an engine type. replay and tick_all commit, so they cannot pin a path: they name everything in full.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- A verb that has gained a parameter would stand beside its older self and make every call ambiguous.
drop function if exists start_run(bigint, numeric, text, text, numeric, numeric, text, text, text);
drop function if exists start_run(bigint, numeric, text, text, numeric, numeric, text, text, text, numeric, int, interval, boolean);
drop function if exists place_order(bigint, bigint, text, text, numeric, text, numeric, numeric, text, text, numeric, numeric, timestamptz);
drop procedure if exists tick_all(timestamptz, text, int);

create or replace function create_user(p_name text) returns bigint
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_admin('create_user');
  return engine.create_user(p_name);
end $$;
comment on function create_user is 'create_user(name) → user_id. A new user; names need not be unique. Takes an administrator: TE301.';

create or replace function delete_user(p_user_id bigint) returns boolean
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_admin('delete_user');
  delete from app_user u where u.user_id = p_user_id;
  return found;
end $$;
comment on function delete_user is 'delete_user(user) → whether there was one: the user, with its keys and logins. 23503 while it has runs, whatever their status: delete_run them first. For an administrator: TE301.';

create or replace function start_run(
  p_user_id bigint, p_initial_cash numeric, p_feed text default 'default', p_name text default null,
  p_participation numeric default null, p_slippage_bps numeric default 0, p_fee_schedule text default null,
  p_mark_policy text default 'EVERY_TICK', p_currency text default 'USD', p_volume_impact numeric default 0,
  p_penetration_ticks int default 0, p_max_price_age interval default null, p_reinvest_dividends boolean default false,
  p_initial_margin numeric default null, p_maintenance_margin numeric default null, p_borrow_rate numeric default 0, p_margin_rate numeric default 0
) returns bigint
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own_user(p_user_id), engine.await_user(p_user_id);
  return engine.begin_run(p_user_id, engine.add_run(p_user_id, p_initial_cash, p_feed, p_name,
    p_participation, p_slippage_bps, p_fee_schedule, p_mark_policy, p_currency, p_volume_impact, p_penetration_ticks, p_max_price_age,
    p_reinvest_dividends, p_initial_margin, p_maintenance_margin, p_borrow_rate, p_margin_rate));
end $$;
comment on function start_run is 'start_run(user, initial_cash, feed, name, …) → run_id. A RUNNING run with its state, its lifecycle row and its opening cash entry; what it may be given is what the columns of strategy_run say. initial_margin and maintenance_margin make it a margin account, which may sell short and borrow. 23505 when the user already has a RUNNING run, 23503 for an unknown user, TE201 for an unknown feed, TE101 for an unknown fee_schedule, 23514 for a value out of its range.';

create or replace function stop_run(p_user_id bigint, p_run_id bigint, p_reason text default null) returns void
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  perform engine.leave_running(p_user_id, p_run_id, 'STOPPED', p_reason);
end $$;
comment on function stop_run is 'stop_run(user, run, reason): cancel open orders, log, STOPPED. Nothing happens to a run that has ended. TE204.
reason: Why, for engine_status.';

create or replace function fail_run(p_user_id bigint, p_run_id bigint, p_error text) returns void
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  perform engine.leave_running(p_user_id, p_run_id, 'ERROR', p_error);
end $$;
comment on function fail_run is 'fail_run(user, run, error): cancel open orders, log, ERROR. Nothing happens to a run that has ended. TE204.
error: Why, for engine_status.';

create or replace function delete_run(p_user_id bigint, p_run_id bigint) returns void
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  perform engine.delete_run(p_user_id, p_run_id);
end $$;
comment on function delete_run is 'delete_run(user, run): the run and all it owns, whatever its status. Its forks stay. TE204 for an unknown run.';

create or replace function set_risk_limit(
  p_user_id bigint, p_run_id bigint, p_max_position numeric default null, p_max_order_value numeric default null
) returns void
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  perform engine.set_risk_limit(p_user_id, p_run_id, p_max_position, p_max_order_value);
end $$;
comment on function set_risk_limit is 'set_risk_limit(user, run, max_position, max_order_value): the most units held per symbol, and the most money one order may be worth; null lifts a limit. Replaces what was set before; asked at acceptance and again at the fill. TE101, TE001, TE204.';

create or replace function forbid_symbol(p_user_id bigint, p_run_id bigint, p_symbol text) returns void
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  perform engine.forbid_symbol(p_user_id, p_run_id, p_symbol);
end $$;
comment on function forbid_symbol is 'forbid_symbol(user, run, symbol): orders for it are rejected SYMBOL_FORBIDDEN from now on, at acceptance and at the fill, and plans do not trade it. TE001, TE204.';

create or replace function place_order(
  p_user_id bigint, p_run_id bigint, p_symbol text, p_side text, p_quantity numeric,
  p_order_type text default 'MARKET', p_limit_price numeric default null, p_stop_price numeric default null,
  p_time_in_force text default 'GTC', p_client_order_id text default null, p_trail_amount numeric default null,
  p_trail_percent numeric default null, p_good_till timestamptz default null, p_take_profit numeric default null,
  p_stop_loss numeric default null, p_stop_loss_limit numeric default null
) returns paper_order
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  return engine.place_order(p_user_id, p_run_id, p_symbol, p_side, p_quantity,
    p_order_type, p_limit_price, p_stop_price, p_time_in_force,
    p_client_order_id, p_trail_amount, p_trail_percent, p_good_till, p_take_profit, p_stop_loss, p_stop_loss_limit);
end $$;
comment on function place_order is 'place_order(user, run, symbol, side, quantity, order_type, limit_price, …) → the paper_order row, PENDING or REJECTED with its reject_reason. It matches bars later than the run''s last tick. take_profit, stop_loss, stop_loss_limit make it the entry of a bracket: what it fills gets these exits, one of which cancels the other. The same client_order_id returns the first order (TE102 when the terms differ). TE101 for what cannot be an order, TE001, TE204.';

create or replace function place_oco(
  p_user_id bigint, p_run_id bigint, p_symbol text, p_side text, p_quantity numeric, p_limit_price numeric, p_stop_price numeric,
  p_stop_limit_price numeric default null, p_time_in_force text default 'GTC', p_client_order_id text default null,
  p_good_till timestamptz default null
) returns setof paper_order
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  return query select * from engine.place_oco(p_user_id, p_run_id, p_symbol, p_side, p_quantity, p_limit_price, p_stop_price,
    p_stop_limit_price, p_time_in_force, p_client_order_id, p_good_till);
end $$;
comment on function place_oco is 'place_oco(user, run, symbol, side, quantity, limit_price, stop_price, stop_limit_price, …) → two paper_order rows, a LIMIT and a STOP (STOP_LIMIT), that share one quantity: what one fills the other loses, and the end of one cancels the other. Otherwise as place_order.
stop_limit_price: Makes the STOP a STOP_LIMIT with this limit.';

create or replace function replace_order(
  p_user_id bigint, p_run_id bigint, p_order_id bigint, p_quantity numeric default null, p_limit_price numeric default null,
  p_stop_price numeric default null, p_client_order_id text default null, p_time_in_force text default null,
  p_trail_amount numeric default null, p_trail_percent numeric default null, p_good_till timestamptz default null
) returns paper_order
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  return engine.replace_order(p_user_id, p_run_id, p_order_id, p_quantity, p_limit_price, p_stop_price, p_client_order_id,
    p_time_in_force, p_trail_amount, p_trail_percent, p_good_till);
end $$;
comment on function replace_order is 'replace_order(user, run, order_id, quantity, limit_price, …) → the new paper_order row, which names the old one in replaces_order_id; what is not given stays, quantity null is what was left. The old order is CANCELED in the same moment. A new order that cannot be accepted is REJECTED and leaves the old one open. One of a pair keeps its quantity and its time in force, and lies on its side of the other. TE101 when it does not, or when the order is not open.';

create or replace function cancel_order(p_user_id bigint, p_run_id bigint, p_order_id bigint) returns paper_order
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  return engine.cancel_order(p_user_id, p_run_id, p_order_id);
end $$;
comment on function cancel_order is 'cancel_order(user, run, order_id) → the paper_order row, CANCELED; a closed order is returned unchanged, and the other one of a pair is canceled too. TE101 for an unknown id, TE001, TE204.';

create or replace function create_sip(
  p_user_id bigint, p_run_id bigint, p_symbol text, p_amount numeric, p_frequency text, p_start date,
  p_roll text default 'NEXT', p_catch_up text default 'ONCE', p_end date default null, p_instalments int default null,
  p_step_up_percent numeric default null, p_step_up_amount numeric default null, p_step_up_every int default null,
  p_whole_units boolean default false, p_auto_pause_after int default null, p_basket jsonb default null,
  p_rebalance_plan bigint default null
) returns bigint
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  return engine.create_sip(p_user_id, p_run_id, p_symbol, p_amount, p_frequency, p_start,
    p_roll, p_catch_up, p_end, p_instalments,
    p_step_up_percent, p_step_up_amount, p_step_up_every, p_whole_units,
    p_auto_pause_after, p_basket, p_rebalance_plan);
end $$;
comment on function create_sip is 'create_sip(user, run, symbol, amount, frequency, start, roll, catch_up, …) → sip_id. Buys for amount at every slot from start on: symbol; or, with symbol null, basket {"SYMBOL": share}, 1 in sum; or what rebalance_plan''s weights lack most, never selling. All of a slot''s orders fill or none. It ends after its end date or with its last instalment, if it has them. auto_pause_after: paused after so many slots in a row without funds. TE201 for an unknown symbol, TE101, TE001, TE204.';

create or replace function change_sip(p_user_id bigint, p_run_id bigint, p_sip_id bigint, p_amount numeric) returns void
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  perform engine.change_sip(p_user_id, p_run_id, p_sip_id, p_amount);
end $$;
comment on function change_sip is 'change_sip(user, run, sip_id, amount): the money that slots which have not ended invest. Step-ups are counted anew from the first of them. TE101 for an unknown plan, TE001, TE204.';

create or replace function pause_sip(
  p_user_id bigint, p_run_id bigint, p_sip_id bigint, p_from date default null, p_to date default null
) returns void
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  perform engine.pause_sip(p_user_id, p_run_id, p_sip_id, p_from, p_to);
end $$;
comment on function pause_sip is 'pause_sip(user, run, sip_id, from, to): slots that fall due while it is paused end SIP_SKIPPED_PAUSED. With dates: slots of these nominal dates, both included, ahead of time or not, several times over; without to until resume_sip. TE101 for an unknown plan, TE001, TE204.
from: First nominal date that is paused; null = pause from now on, until resume_sip.
to: Last nominal date that is paused; null = all that follow.';

create or replace function resume_sip(
  p_user_id bigint, p_run_id bigint, p_sip_id bigint, p_from date default null, p_to date default null
) returns void
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  perform engine.resume_sip(p_user_id, p_run_id, p_sip_id, p_from, p_to);
end $$;
comment on function resume_sip is 'resume_sip(user, run, sip_id, from, to): later slots execute again. Dates paused up to a day stay paused; with dates, these do not. TE101 for an unknown plan, TE001, TE204.
from: First nominal date that is no longer paused; null = all.
to: Last nominal date that is no longer paused; null = all that follow.';

create or replace function create_rebalance(
  p_user_id bigint, p_run_id bigint, p_weights jsonb, p_frequency text, p_start date, p_band numeric default null,
  p_band_relative numeric default null, p_to_band_edge boolean default false, p_min_order_value numeric default null,
  p_whole_units boolean default false
) returns bigint
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  return engine.create_rebalance(p_user_id, p_run_id, p_weights, p_frequency, p_start, p_band,
    p_band_relative, p_to_band_edge, p_min_order_value, p_whole_units);
end $$;
comment on function create_rebalance is 'create_rebalance(user, run, weights, frequency, start, band, …) → plan_id. weights is {"SYMBOL": share of equity}, at most 1 in sum; a symbol that is held and has none is sold. Trade only what is further from its target than band (a share of equity) or band_relative (a share of the target), beyond either; to_band_edge: only back to that edge. Orders worth less than min_order_value are left out. TE201 for an unknown symbol, TE101, TE001, TE204.
weights: {"SYMBOL": share of equity}, 0 to 1 each, at most 1 in sum.';

create or replace function end_sip(p_user_id bigint, p_run_id bigint, p_sip_id bigint) returns void
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  perform engine.end_sip(p_user_id, p_run_id, p_sip_id);
end $$;
comment on function end_sip is 'end_sip(user, run, sip_id): the plan has no more slots; what was due and had not ended is not bought. Nothing happens to a plan that is over. TE101 for an unknown plan, TE001, TE204.';

create or replace function end_rebalance(p_user_id bigint, p_run_id bigint, p_plan_id bigint) returns void
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  perform engine.end_rebalance(p_user_id, p_run_id, p_plan_id);
end $$;
comment on function end_rebalance is 'end_rebalance(user, run, plan_id): the plan has no more slots. Its weights stay, for SIPs that buy towards them. TE101 for an unknown plan, TE001, TE204.';
