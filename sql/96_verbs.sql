-- The contract's verbs. Each pins its search_path, passes the gate and calls the engine; nothing else stands here.
-- The gate is a lock that every statement on strategy_run takes anyway: a session that arrives while the code below is
-- being rebuilt waits here, before it has looked up anything of the old engine. For the same reason no verb declares a
-- variable of an engine type. replay and tick_all commit, so they cannot pin a path: they name everything in full.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- A verb that has gained a parameter would stand beside its older self and make every call ambiguous.
drop function if exists start_run(bigint, numeric, text, text, numeric, numeric, text, text, text);
drop function if exists place_order(bigint, bigint, text, text, numeric, text, numeric, numeric, text, text, numeric, numeric, timestamptz);

create or replace function create_user(p_name text) returns bigint
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  return engine.create_user(p_name);
end $$;
comment on function create_user is 'create_user(name) → user_id. A new user; names need not be unique.';

create or replace function start_run(
  p_user_id bigint, p_initial_cash numeric, p_feed text default 'default', p_name text default null,
  p_participation numeric default null, p_slippage_bps numeric default 0, p_fee_schedule text default null,
  p_mark_policy text default 'EVERY_TICK', p_currency text default 'USD', p_volume_impact numeric default 0,
  p_penetration_ticks int default 0, p_max_price_age interval default null
) returns bigint
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  return engine.begin_run(p_user_id, engine.add_run(p_user_id, p_initial_cash, p_feed, p_name,
    p_participation, p_slippage_bps, p_fee_schedule, p_mark_policy, p_currency, p_volume_impact, p_penetration_ticks, p_max_price_age));
end $$;
comment on function start_run is 'start_run(user, initial_cash, feed, name, …) → run_id. A RUNNING run with its state, its lifecycle row and its opening cash entry. 23505 when the user already has a RUNNING run, 23503 for an unknown user, TE201 for an unknown feed.';

create or replace function stop_run(p_user_id bigint, p_run_id bigint, p_reason text default null) returns void
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.leave_running(p_user_id, p_run_id, 'STOPPED', p_reason);
end $$;
comment on function stop_run is 'stop_run(user, run, reason): cancel open orders, log, STOPPED. Nothing happens to a run that has ended.';

create or replace function fail_run(p_user_id bigint, p_run_id bigint, p_error text) returns void
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.leave_running(p_user_id, p_run_id, 'ERROR', p_error);
end $$;
comment on function fail_run is 'fail_run(user, run, error): cancel open orders, log, ERROR. Nothing happens to a run that has ended.';

create or replace function set_risk_limit(
  p_user_id bigint, p_run_id bigint, p_max_position numeric default null, p_max_order_value numeric default null
) returns void
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.set_risk_limit(p_user_id, p_run_id, p_max_position, p_max_order_value);
end $$;
comment on function set_risk_limit is 'set_risk_limit(user, run, max_position, max_order_value): units held per symbol and value of one order; null lifts a limit. Replaces what was set before.';

create or replace function forbid_symbol(p_user_id bigint, p_run_id bigint, p_symbol text) returns void
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.forbid_symbol(p_user_id, p_run_id, p_symbol);
end $$;
comment on function forbid_symbol is 'forbid_symbol(user, run, symbol): orders for it are rejected SYMBOL_FORBIDDEN from now on, at acceptance and at the fill.';

create or replace function place_order(
  p_user_id bigint, p_run_id bigint, p_symbol text, p_side text, p_quantity numeric,
  p_order_type text default 'MARKET', p_limit_price numeric default null, p_stop_price numeric default null,
  p_time_in_force text default 'GTC', p_client_order_id text default null, p_trail_amount numeric default null,
  p_trail_percent numeric default null, p_good_till timestamptz default null, p_take_profit numeric default null,
  p_stop_loss numeric default null, p_stop_loss_limit numeric default null
) returns paper_order
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
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
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  return query select * from engine.place_oco(p_user_id, p_run_id, p_symbol, p_side, p_quantity, p_limit_price, p_stop_price,
    p_stop_limit_price, p_time_in_force, p_client_order_id, p_good_till);
end $$;
comment on function place_oco is 'place_oco(user, run, symbol, side, quantity, limit_price, stop_price, stop_limit_price, …) → two paper_order rows, a LIMIT and a STOP (STOP_LIMIT), that share one quantity: what one fills the other loses, and the end of one cancels the other. Otherwise as place_order.';

create or replace function replace_order(
  p_user_id bigint, p_run_id bigint, p_order_id bigint, p_quantity numeric default null, p_limit_price numeric default null,
  p_stop_price numeric default null, p_client_order_id text default null, p_time_in_force text default null,
  p_trail_amount numeric default null, p_trail_percent numeric default null, p_good_till timestamptz default null
) returns paper_order
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  return engine.replace_order(p_user_id, p_run_id, p_order_id, p_quantity, p_limit_price, p_stop_price, p_client_order_id,
    p_time_in_force, p_trail_amount, p_trail_percent, p_good_till);
end $$;
comment on function replace_order is 'replace_order(user, run, order_id, quantity, limit_price, …) → the new paper_order row, which names the old one in replaces_order_id; what is not given stays, quantity null is what was left. The old order is CANCELED in the same moment. A new order that cannot be accepted is REJECTED and leaves the old one open. TE101 when the order is not open.';

create or replace function cancel_order(p_user_id bigint, p_run_id bigint, p_order_id bigint) returns paper_order
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  return engine.cancel_order(p_user_id, p_run_id, p_order_id);
end $$;
comment on function cancel_order is 'cancel_order(user, run, order_id) → the paper_order row, CANCELED; a closed order is returned unchanged. TE101 for an unknown id.';

create or replace function create_sip(
  p_user_id bigint, p_run_id bigint, p_symbol text, p_amount numeric, p_frequency text, p_start date,
  p_roll text default 'NEXT', p_catch_up text default 'ONCE', p_end date default null, p_instalments int default null,
  p_step_up_percent numeric default null, p_step_up_amount numeric default null, p_step_up_every int default null,
  p_whole_units boolean default false
) returns bigint
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  return engine.create_sip(p_user_id, p_run_id, p_symbol, p_amount, p_frequency, p_start,
    p_roll, p_catch_up, p_end, p_instalments,
    p_step_up_percent, p_step_up_amount, p_step_up_every, p_whole_units);
end $$;
comment on function create_sip is 'create_sip(user, run, symbol, amount, frequency, start, roll, catch_up, …) → sip_id. Buys amount of symbol at every slot from start on. TE201 for an unknown symbol.';

create or replace function pause_sip(p_user_id bigint, p_run_id bigint, p_sip_id bigint) returns void
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.set_sip_paused(p_user_id, p_run_id, p_sip_id, true);
end $$;
comment on function pause_sip is 'pause_sip(user, run, sip_id): slots that fall due while it is paused end SIP_SKIPPED_PAUSED.';

create or replace function resume_sip(p_user_id bigint, p_run_id bigint, p_sip_id bigint) returns void
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.set_sip_paused(p_user_id, p_run_id, p_sip_id, false);
end $$;
comment on function resume_sip is 'resume_sip(user, run, sip_id): later slots execute again.';

create or replace function create_rebalance(
  p_user_id bigint, p_run_id bigint, p_weights jsonb, p_frequency text, p_start date, p_band numeric default null
) returns bigint
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  return engine.create_rebalance(p_user_id, p_run_id, p_weights, p_frequency, p_start, p_band);
end $$;
comment on function create_rebalance is 'create_rebalance(user, run, weights, frequency, start, band) → plan_id. weights is {"SYMBOL": share of equity}, at most 1 in sum. band: trade only what is further than this share from its target. TE201 for an unknown symbol.';

create or replace procedure tick(p_user_id bigint, p_run_id bigint, p_logical_time timestamptz)
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  -- The gate of this verb looks whether the tick has happened: what is complete stays complete, and needs no lock.
  if exists (select from public.engine_state s
              where s.user_id = p_user_id and s.run_id = p_run_id and s.last_logical_time = p_logical_time) then
    return;
  end if;
  perform engine.tick(p_user_id, p_run_id, p_logical_time);
end $$;
comment on procedure tick is 'CALL tick(user, run, logical_time): everything the run owes for that time, whole or not at all, exactly once. The caller owns the transaction. A tick that has happened returns quietly, even after the run has ended. TE001, TE003, TE202, TE203, TE204.';

create or replace procedure replay(
  p_user_id bigint, p_run_id bigint, p_from timestamptz, p_to timestamptz, p_commit_every int default null
)
language plpgsql as $$
declare
  v_is_first boolean := true;
begin
  loop
    perform from public.strategy_run where false;
    exit when engine.replay_events(p_user_id, p_run_id, p_from, p_to, p_commit_every, v_is_first);
    v_is_first := false;
    commit;
  end loop;
end $$;
comment on procedure replay is 'CALL replay(user, run, from, to, commit_every): the same rows as tick at every feed time of the inclusive range, faster. Completed times are skipped, so a killed replay is finished by calling it again. commit_every null: one transaction; a number: COMMIT after so many events.';

create or replace procedure tick_all(p_logical_time timestamptz, p_feed text default 'default', p_commit_every int default null)
language plpgsql as $$
declare
  v_user_ids bigint[];
  v_run_ids bigint[];
  v_is_shared boolean := p_commit_every is not null;
begin
  loop
    perform from public.strategy_run where false;
    select b.p_user_ids, b.p_run_ids into v_user_ids, v_run_ids
      from engine.tick_batch(p_feed, p_logical_time, p_commit_every, v_is_shared, v_user_ids, v_run_ids) b;
    if p_commit_every is not null then
      commit;
    end if;
    -- once more, and now waiting for those that somebody else had locked
    exit when v_user_ids is null and not v_is_shared;
    v_is_shared := v_is_shared and v_user_ids is not null;
  end loop;
end $$;
comment on procedure tick_all is 'CALL tick_all(logical_time, feed, commit_every): the same rows as tick for every RUNNING run of the feed. Runs at or past that time are skipped; a run whose tick fails goes to ERROR with SQLSTATE and message, and the others go on. commit_every null: one transaction; a number: COMMIT after so many runs, and leave to other sessions that do the same what they are busy with: several workers share a feed. TE201, TE203.';

create or replace function match_orders(p_user_id bigint, p_run_id bigint, p_logical_time timestamptz) returns int
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  return engine.match_orders(p_user_id, p_run_id, p_logical_time);
end $$;
comment on function match_orders is 'match_orders(user, run, logical_time) → trades made: the tick''s matching alone, on the bars after the last tick.';

create or replace function try_execute_sip(
  p_user_id bigint, p_run_id bigint, p_logical_time timestamptz, p_market_open boolean default null
) returns int
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  return engine.try_execute_sip(p_user_id, p_run_id, p_logical_time, p_market_open);
end $$;
comment on function try_execute_sip is 'try_execute_sip(user, run, logical_time, market_open) → slots executed: the tick''s SIP step alone. market_open null = ask the calendar; a closed market writes nothing and the slot stays due.';

create or replace function try_rebalance(
  p_user_id bigint, p_run_id bigint, p_logical_time timestamptz, p_market_open boolean default null
) returns int
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  return engine.try_rebalance(p_user_id, p_run_id, p_logical_time, p_market_open);
end $$;
comment on function try_rebalance is 'try_rebalance(user, run, logical_time, market_open) → slots executed: the tick''s rebalance step alone.';

create or replace function log_mtm(p_user_id bigint, p_run_id bigint, p_logical_time timestamptz) returns boolean
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  return engine.log_mtm(p_user_id, p_run_id, p_logical_time);
end $$;
comment on function log_mtm is 'log_mtm(user, run, logical_time) → whether the mtm_ledger row is new. It closes that time.';

create or replace function record_equity(p_user_id bigint, p_run_id bigint, p_logical_time timestamptz) returns boolean
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  return engine.record_equity(p_user_id, p_run_id, p_logical_time);
end $$;
comment on function record_equity is 'record_equity(user, run, logical_time) → whether the paper_equity_curve row is new. It closes that time.';
