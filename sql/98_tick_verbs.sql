-- The contract's verbs that move time: tick, replay, tick_all, and the tick's own steps. Written as those in 96_verbs are.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

create or replace procedure tick(p_user_id bigint, p_run_id bigint, p_logical_time timestamptz)
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  -- The gate of this verb looks whether the tick has happened: what is complete stays complete, and needs no lock.
  v_is_complete constant boolean := exists (
    select from public.engine_state s where s.user_id = p_user_id and s.run_id = p_run_id and s.last_logical_time = p_logical_time);
begin
  perform engine.require_own(p_user_id, p_run_id);
  if not v_is_complete then
    perform engine.tick(p_user_id, p_run_id, p_logical_time);
  end if;
end $$;
comment on procedure tick is 'CALL tick(user, run, logical_time): everything the run owes for that time, whole or not at all, exactly once. The caller owns the transaction. A tick that has happened returns quietly, even after the run has ended. TE001, TE003, TE202, TE203, TE204.
logical_time: The time to complete, later than the run''s last tick, or a time that it has ticked.';

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
comment on procedure replay is 'CALL replay(user, run, from, to, commit_every): the same rows as tick at every feed time of the inclusive range, faster. Completed times are skipped, so a killed replay is finished by calling it again. commit_every null: one transaction; a number: COMMIT after so many events. Refuses as tick.
from: First time, included.
to: Last time, included.
commit_every: COMMIT after so many events; null = one transaction, callable anywhere.';

drop function if exists replay_part(bigint, bigint, timestamptz, timestamptz, int, boolean);
create or replace function replay_part(
  p_user_id bigint, p_run_id bigint, p_from timestamptz, p_to timestamptz, p_events int, p_is_first boolean default true,
  p_times int default null
) returns boolean
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  return engine.replay_events(p_user_id, p_run_id, p_from, p_to, p_events, p_is_first, p_times);
end $$;
comment on function replay_part is 'replay_part(user, run, from, to, events, is_first, times) → whether the range is done: a piece of a replay, for callers who commit by themselves. Call it again, with is_first false, until it is true; what replay does is no more. Refuses as tick.
from: First time, included.
to: Last time, included.
events: How many events at most in this piece.
is_first: Whether this is the first piece of the range.
times: How many bar times at most in this piece; null = no matter.';

create or replace procedure tick_all(
  p_logical_time timestamptz, p_feed text default 'default', p_commit_every int default null, p_since timestamptz default null
)
language plpgsql as $$
declare
  v_user_ids bigint[];
  v_run_ids bigint[];
  v_is_shared boolean := p_commit_every is not null;
begin
  loop
    perform from public.strategy_run where false;
    select b.p_user_ids, b.p_run_ids into v_user_ids, v_run_ids
      from engine.tick_batch(p_feed, p_logical_time, p_commit_every, v_is_shared, p_since, v_user_ids, v_run_ids) b;
    if p_commit_every is not null then
      commit;
    end if;
    -- once more, and now waiting for those that somebody else had locked
    exit when v_user_ids is null and not v_is_shared;
    v_is_shared := v_is_shared and v_user_ids is not null;
  end loop;
end $$;
comment on procedure tick_all is 'CALL tick_all(logical_time, feed, commit_every, since): the same rows as tick for every RUNNING run of the feed. Runs at or past that time are skipped; a run whose tick fails goes to ERROR with SQLSTATE and message, and the others go on. commit_every null: one transaction; a number: COMMIT after so many runs, and leave to other sessions that do the same what they are busy with: several workers share a feed. since: tick only runs that owe no earlier time of the feed, so that nobody leaps; a run that has never ticked owes times from since on (-infinity: from the first). TE201, TE203.
logical_time: The time to complete.
feed: Whose runs.
commit_every: COMMIT after so many runs; null = one transaction.
since: Null = tick whoever is earlier than logical_time.';

create or replace function match_orders(p_user_id bigint, p_run_id bigint, p_logical_time timestamptz) returns int
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  return engine.match_orders(p_user_id, p_run_id, p_logical_time);
end $$;
comment on function match_orders is 'match_orders(user, run, logical_time) → trades made: the tick''s matching alone, on the bars after the last tick up to that time. Again: 0. It does not move the run''s last tick; a time that is marked is closed, and makes none. TE001, TE003, TE202, TE203, TE204.
logical_time: The time of the step.';

create or replace function try_execute_sip(
  p_user_id bigint, p_run_id bigint, p_logical_time timestamptz, p_market_open boolean default null
) returns int
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  return engine.try_execute_sip(p_user_id, p_run_id, p_logical_time, p_market_open);
end $$;
comment on function try_execute_sip is 'try_execute_sip(user, run, logical_time, market_open) → slots executed: the tick''s SIP step alone. market_open null = ask the calendar; a closed market writes nothing and the slot stays due. Again: 0. Refuses as match_orders.
logical_time: The time of the step.
market_open: Whether the market is open then; null = ask the calendar.';

create or replace function try_rebalance(
  p_user_id bigint, p_run_id bigint, p_logical_time timestamptz, p_market_open boolean default null
) returns int
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  return engine.try_rebalance(p_user_id, p_run_id, p_logical_time, p_market_open);
end $$;
comment on function try_rebalance is 'try_rebalance(user, run, logical_time, market_open) → slots executed: the tick''s rebalance step alone. market_open as in try_execute_sip. Again: 0. Refuses as match_orders.
logical_time: The time of the step.
market_open: Whether the market is open then; null = ask the calendar.';

create or replace function log_mtm(p_user_id bigint, p_run_id bigint, p_logical_time timestamptz) returns boolean
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  return engine.log_mtm(p_user_id, p_run_id, p_logical_time);
end $$;
comment on function log_mtm is 'log_mtm(user, run, logical_time) → whether the mtm_ledger row is new. It closes that time: nothing more is matched or bought there. Refuses as match_orders.
logical_time: The time of the step.';

create or replace function record_equity(p_user_id bigint, p_run_id bigint, p_logical_time timestamptz) returns boolean
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id);
  return engine.record_equity(p_user_id, p_run_id, p_logical_time);
end $$;
comment on function record_equity is 'record_equity(user, run, logical_time) → whether the paper_equity_curve row is new. It closes that time. Refuses as match_orders.
logical_time: The time of the step.';
