-- The contract's verbs that make a run out of another: a fork, and a capsule out and in. They pass the same gate as those in 96_verbs.
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

-- The settings are those that the text of a time, a date or an interval depends on.
create or replace function export_rows(p_user_id bigint, p_run_id bigint, p_table text, p_is_ahead boolean default false) returns setof jsonb
language plpgsql stable security definer set search_path = public, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id);
  return query select * from engine.export_rows(p_user_id, p_run_id, p_table, p_is_ahead);
end $$;
comment on function export_rows is 'export_rows(user, run, table, is_ahead) → JSON, a row each, in a fixed order: one table of the run''s capsule. Of a table of runs: its rows without user and run id, feed name and what the wall clock said. Of calendar, market_session, feed, instrument, price_bar, corporate_action, fee_schedule: what the run''s past stands on; is_ahead: what only later ticks can ask for. TE101 for another table, TE204.';

-- No nested loops: what has just come in has no statistics, and the rules of run_violations join whole ledgers.
create or replace function import_run(p_user_id bigint, p_feed text, p_tables text[], p_rows text[], p_digest text, p_name text default null) returns bigint
language plpgsql security definer set search_path = public, pg_temp set datestyle = 'ISO, YMD' set intervalstyle = 'postgres'
  set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own_user(p_user_id), engine.await_user(p_user_id);
  return engine.import_run(p_user_id, p_feed, p_tables, p_rows, p_digest, p_name);
end $$;
comment on function import_run is 'import_run(user, feed, tables, rows, digest, name) → run_id: a run with the history that export_rows gave of another, its status included. rows[i]: rows of tables[i], an object a line; a table may come in several parts. The bars and all else that export_rows names must be there. TE901, and nothing written, when its digest is not the one given or an invariant is broken; 23505 when the user has a RUNNING run, whatever the run''s own status; 23503, TE101, TE201.';
