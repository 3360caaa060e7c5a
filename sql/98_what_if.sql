-- The contract's verb that makes a run out of another. It passes the same gate as those in 96_verbs.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

create or replace function fork_run(p_user_id bigint, p_run_id bigint, p_at timestamptz, p_new_user_id bigint, p_name text default null) returns bigint
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own(p_user_id, p_run_id), engine.require_own_user(p_new_user_id);
  return engine.fork_run(p_user_id, p_run_id, p_at, p_new_user_id, p_name);
end $$;
comment on function fork_run is 'fork_run(user, run, at, new_user, name) → run_id: a RUNNING run of new_user that shares the history of a run, whatever its status, up to and including its tick at that time (null = the last), and goes its own way: orders that closed later are open again, plans stand at the slots that ended later. Pauses by hand, limits and plans without a time of their own are as they are now. TE101 when that is not a tick of the run, 23505 when new_user has a RUNNING run, 23503, TE204.
at: The last tick that both have in common; null = the last of the run.
new_user_id: Who owns the new run.';
