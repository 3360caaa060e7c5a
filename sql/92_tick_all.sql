-- tick_all: one time of every RUNNING run of a feed. Quiet runs are marked by one statement a batch; a run with
-- something due is ticked by the scalar code, in a subtransaction of its own.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Which of the locked runs need a whole tick? An open order, a due slot, a time closed by a step, or no state yet. What
-- is rarer (a raw mark of this time, a held symbol without a price) shows when the quiet runs are marked, and sends the
-- batch down the slow way.
create function engine.runs_with_events(p_user_ids bigint[], p_run_ids bigint[], p_feed text, p_time timestamptz)
returns table (user_id bigint, run_id bigint)
language plpgsql stable as $$
declare
  v_plan record;
  v_calendar text;
  v_date date;
begin
  select k.calendar, (p_time at time zone k.time_zone)::date into strict v_calendar, v_date
    from feed f join calendar k on k.calendar = f.calendar where f.feed = p_feed;

  return query
    select r.user_id, r.run_id
      from unnest(p_user_ids, p_run_ids) r (user_id, run_id)
      left join engine_state s on s.user_id = r.user_id and s.run_id = r.run_id
      left join lateral (select true as is_open from paper_order o
                          where o.user_id = r.user_id and o.run_id = r.run_id
                            and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED') limit 1) o on true
     where s.run_id is null or s.step_logical_time >= p_time or o.is_open;

  for v_plan in
    select p.user_id, p.run_id, p.start_date, p.frequency, p.roll, p.next_slot, p.instalments, p.end_date
      from unnest(p_user_ids, p_run_ids) r (user_id, run_id)
      join sip_plan p on p.user_id = r.user_id and p.run_id = r.run_id
    union all
    select p.user_id, p.run_id, p.start_date, p.frequency, 'NEXT', p.next_slot, null, null
      from unnest(p_user_ids, p_run_ids) r (user_id, run_id)
      join rebalance_plan p on p.user_id = r.user_id and p.run_id = r.run_id
  loop
    if engine.next_due_date(v_calendar, v_plan.start_date, v_plan.frequency, v_plan.roll, v_plan.next_slot,
                            v_plan.instalments, v_plan.end_date) <= v_date then
      user_id := v_plan.user_id;
      run_id := v_plan.run_id;
      return next;
    end if;
  end loop;
end $$;

-- Mark the quiet runs given, or tick the one run given. Null when it went well, else what went wrong, with nothing
-- written. The rows were locked before, outside this block: a caught error releases what was locked inside it. Classes
-- 40, 55P03 and 57014 concern the call, not a run, and are raised; every other class of PostgreSQL and of the engine is
-- named, because a nameless catch has swallowed deadlocks before.
-- writes: every per-run table
create function engine.attempt(p_user_ids bigint[], p_run_ids bigint[], p_feed text, p_time timestamptz, p_is_quiet boolean) returns text
language plpgsql as $$
declare
  v_state text;
  v_message text;
begin
  if p_is_quiet then
    update engine_state s
       set last_logical_time = p_time, first_logical_time = coalesce(s.first_logical_time, p_time)
      from unnest(p_user_ids, p_run_ids) r (user_id, run_id)
     where s.user_id = r.user_id and s.run_id = r.run_id;
    perform engine.mark(p_user_ids, p_run_ids, p_feed, array[p_time]);
  else
    perform engine.tick_run(engine.read_context(p_user_ids[1], p_run_ids[1]), p_time);
  end if;
  return null;
exception
  when sqlstate '40000' or lock_not_available or query_canceled then
    raise;
  when sqlstate 'TE000' or sqlstate 'P0000' or sqlstate '22000' or sqlstate '23000' or sqlstate '21000'
    or sqlstate '0A000' or sqlstate '27000' or sqlstate '28000' or sqlstate '2F000' or sqlstate '38000'
    or sqlstate '39000' or sqlstate '42000' or sqlstate '44000' or sqlstate '53000' or sqlstate '54000'
    or sqlstate '55000' or sqlstate '57000' or sqlstate '58000' or sqlstate '72000' or sqlstate 'XX000'
    or sqlstate '08000' or sqlstate '09000' or sqlstate '0B000' or sqlstate '0F000' or sqlstate '0L000'
    or sqlstate '0P000' or sqlstate '0Z000' or sqlstate '20000' or sqlstate '24000' or sqlstate '25000'
    or sqlstate '26000' or sqlstate '2B000' or sqlstate '2D000' or sqlstate '34000' or sqlstate '3B000'
    or sqlstate '3D000' or sqlstate '3F000' or sqlstate 'F0000' or sqlstate 'HV000' then
    get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
    return v_state || ': ' || v_message;
end $$;

-- One batch of at most p_limit runs after (p_user_id, p_run_id), null = from the start, locked in key order. Returns the
-- last key of the batch, null when there was none. Locks and reads are separate statements.
-- writes: every per-run table
create function engine.tick_batch(p_feed text, p_time timestamptz, p_limit int, inout p_user_id bigint, inout p_run_id bigint)
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set jit = off as $$
declare
  v_users bigint[];
  v_runs bigint[];
  v_busy_users bigint[];
  v_busy_runs bigint[];
  v_error text;
begin
  perform engine.require_read_committed(p_user_id, p_run_id);
  if p_user_id is null then
    perform engine.require_time(p_time);
    perform engine.require(coalesce(p_limit, 1) > 0, 'argument=commit_every must_be=positive');
    perform engine.require_feed_time(p_feed, p_time);
  end if;
  select array_agg(l.user_id order by l.user_id, l.run_id), array_agg(l.run_id order by l.user_id, l.run_id)
    into v_users, v_runs
    from (select r.user_id, r.run_id from strategy_run r
           where r.feed = p_feed and r.status = 'RUNNING' and (p_user_id is null or (r.user_id, r.run_id) > (p_user_id, p_run_id))
           order by r.user_id, r.run_id limit coalesce(p_limit, 1000) for no key update) l;
  p_user_id := v_users[cardinality(v_users)];
  p_run_id := v_runs[cardinality(v_runs)];

  select array_agg(r.user_id order by r.user_id, r.run_id), array_agg(r.run_id order by r.user_id, r.run_id)
    into v_users, v_runs
    from unnest(v_users, v_runs) r (user_id, run_id)
    left join engine_state s on s.user_id = r.user_id and s.run_id = r.run_id
   where coalesce(s.last_logical_time < p_time, true) and coalesce(s.step_logical_time <= p_time, true);
  select array_agg(e.user_id order by e.user_id, e.run_id), array_agg(e.run_id order by e.user_id, e.run_id)
    into v_busy_users, v_busy_runs
    from (select distinct b.user_id, b.run_id from engine.runs_with_events(v_users, v_runs, p_feed, p_time) b) e;
  select array_agg(q.user_id order by q.user_id, q.run_id), array_agg(q.run_id order by q.user_id, q.run_id)
    into v_users, v_runs
    from (select * from unnest(v_users, v_runs) a (user_id, run_id)
          except select * from unnest(v_busy_users, v_busy_runs) b (user_id, run_id)) q;

  if engine.attempt(v_users, v_runs, p_feed, p_time, true) is not null then
    -- one of them cannot be marked: find it the slow way
    v_busy_users := v_busy_users || v_users;
    v_busy_runs := v_busy_runs || v_runs;
  end if;
  for i in 1 .. coalesce(cardinality(v_busy_users), 0) loop
    v_error := engine.attempt(array[v_busy_users[i]], array[v_busy_runs[i]], p_feed, p_time, false);
    if v_error is not null then
      update strategy_run r set status = 'ERROR', status_reason = v_error
       where r.user_id = v_busy_users[i] and r.run_id = v_busy_runs[i];
    end if;
  end loop;
end $$;
