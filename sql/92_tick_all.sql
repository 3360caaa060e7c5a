-- tick_all: one time of every RUNNING run of a feed, in batches. A batch's quiet runs are marked by one statement; runs
-- with something due are decided by the scalar code; all of it is written together. If that fails, run by run, each in
-- a subtransaction of its own.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Here and below runs are looked up by key, one by one (lateral, offset 0): joined, a table that was small when this was
-- planned would be read from end to end, other feeds' runs and ended ones included.

-- Which of the locked runs need a whole tick? An open order, a due slot, a position on margin, a step since the last tick, no
-- state yet, or marks that depend on more than this time. What is rarer (a raw mark of this time, a held symbol without a price) shows
-- when the quiet runs are marked, and sends the batch down the slow way.
create function engine.runs_with_events(p_user_ids bigint[], p_run_ids bigint[], p_feed text, p_time timestamptz)
returns table (user_id bigint, run_id bigint)
language plpgsql stable as $$
declare
  v_plan record;
  v_calendar text;
  v_zone text;
  v_acting text[];
  v_pays boolean;
  v_date date;
begin
  select k.calendar, k.time_zone, (p_time at time zone k.time_zone)::date into strict v_calendar, v_zone, v_date
    from feed f join calendar k on k.calendar = f.calendar where f.feed = p_feed;

  v_acting := engine.acting_symbols(p_feed, v_zone, (select min(s.last_logical_time) from unnest(p_user_ids, p_run_ids) r (user_id, run_id)
    cross join lateral (select s.last_logical_time from engine_state s where s.user_id = r.user_id and s.run_id = r.run_id offset 0) s), p_time);
  v_pays := exists (select from dividend_due d where d.paid_time is null);
  return query
    select r.user_id, r.run_id
      from unnest(p_user_ids, p_run_ids) r (user_id, run_id)
     cross join lateral (select x.* from strategy_run x where x.user_id = r.user_id and x.run_id = r.run_id offset 0) x
      left join lateral (select s.* from engine_state s where s.user_id = r.user_id and s.run_id = r.run_id offset 0) s on true
      left join lateral (select true as is_open from paper_order o
                          where o.user_id = r.user_id and o.run_id = r.run_id
                            and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED') limit 1) o on true
     where s.run_id is null or s.step_logical_time > coalesce(s.last_logical_time, '-infinity') or o.is_open
        or x.mark_policy = 'SESSION'
        or x.initial_margin is not null
          and (s.cash < 0 or exists (select from paper_position p where p.user_id = r.user_id and p.run_id = r.run_id and p.quantity <> 0))
        or v_pays and exists (select from dividend_due d where d.user_id = r.user_id and d.run_id = r.run_id and d.paid_time is null)
        or v_acting <> '{}' and exists (select from paper_position p
                    where p.user_id = r.user_id and p.run_id = r.run_id and p.quantity <> 0 and p.symbol = any (v_acting))
        or x.mark_policy = 'EVENTS' and (s.last_logical_time is null
          or exists (select from mtm_ledger m where m.user_id = r.user_id and m.run_id = r.run_id and m.logical_time = p_time)
          or exists (select from paper_equity_curve e where e.user_id = r.user_id and e.run_id = r.run_id and e.logical_time = p_time));

  for v_plan in
    select p.user_id, p.run_id, p.start_date, p.frequency, p.roll, p.next_slot, p.instalments, p.end_date, p.last_date
      from unnest(p_user_ids, p_run_ids) r (user_id, run_id)
     cross join lateral (select p.* from sip_plan p where p.user_id = r.user_id and p.run_id = r.run_id offset 0) p
    union all
    select p.user_id, p.run_id, p.start_date, p.frequency, 'NEXT', p.next_slot, p.instalments, null, p.last_date
      from unnest(p_user_ids, p_run_ids) r (user_id, run_id)
     cross join lateral (select p.* from rebalance_plan p where p.user_id = r.user_id and p.run_id = r.run_id offset 0) p
  loop
    if engine.next_due_date(v_calendar, v_plan.start_date, v_plan.frequency, v_plan.roll, v_plan.next_slot,
                            v_plan.instalments, v_plan.end_date, v_plan.next_slot - 1, v_plan.last_date) <= v_date then
      user_id := v_plan.user_id;
      run_id := v_plan.run_id;
      return next;
    end if;
  end loop;
end $$;

-- The quiet runs' holdings, to be marked at p_time.
create function engine.spans_of_runs(p_user_ids bigint[], p_run_ids bigint[], p_time timestamptz) returns engine.span[]
language sql stable
begin atomic
  select array_agg(row(h.user_id, h.run_id, h.scale, array[p_time]::logical_instant[], h.cash, h.cost_basis, h.realized_pnl, h.symbols, h.quantities)::engine.span)
    from (select r.user_id, r.run_id, engine.minor_unit(r.currency) as scale, s.cash, coalesce(sum(p.cost_basis), 0) as cost_basis,
                 coalesce(sum(p.realized_pnl), 0) as realized_pnl, array_agg(p.symbol) filter (where p.quantity <> 0) as symbols,
                 array_agg(p.quantity::numeric) filter (where p.quantity <> 0) as quantities
            from (select p_user_ids as user_ids, p_run_ids as run_ids offset 0) a
           cross join unnest(a.user_ids, a.run_ids) k (user_id, run_id)
           cross join lateral (select r.* from strategy_run r where r.user_id = k.user_id and r.run_id = k.run_id offset 0) r
           cross join lateral (select s.* from engine_state s where s.user_id = k.user_id and s.run_id = k.run_id offset 0) s
            left join lateral (select p.* from paper_position p where p.user_id = k.user_id and p.run_id = k.run_id offset 0) p on true
           where r.mark_policy = 'EVERY_TICK'
           group by r.user_id, r.run_id, r.currency, s.cash) h;
end;

-- Tick a batch of locked runs: the quiet ones have their time and their marks written, the busy ones are decided one by
-- one; the ledgers of all of them are written together.
-- writes: every per-run table
create function engine.tick_runs(
  p_user_ids bigint[], p_run_ids bigint[], p_busy_users bigint[], p_busy_runs bigint[], p_feed text, p_time timestamptz
) returns void
language plpgsql as $$
declare
  c engine.context;
  v_contexts engine.context[];
  v_spans engine.span[];
begin
  update engine_state s
     set last_logical_time = p_time, first_logical_time = coalesce(s.first_logical_time, p_time)
    from (select p_user_ids as user_ids, p_run_ids as run_ids offset 0) a
   cross join unnest(a.user_ids, a.run_ids) k (user_id, run_id)
   cross join lateral (select e.ctid from engine_state e where e.user_id = k.user_id and e.run_id = k.run_id offset 0) e
   where s.ctid = e.ctid;
  v_spans := engine.spans_of_runs(p_user_ids, p_run_ids, p_time);

  for i in 1 .. coalesce(cardinality(p_busy_users), 0) loop
    c := engine.decide(engine.read_context(p_busy_users[i], p_busy_runs[i]), p_time);
    if c.is_closed or c.has_trailing then
      perform engine.mark_now(engine.post(c), p_time);
      continue;
    end if;
    c := engine.add_span(c, array[p_time], null);
    v_spans := v_spans || c.spans;
    if c.journal is not null or c.has_moved_plans then
      v_contexts := v_contexts || c;
    end if;
    perform engine.save_state(c);
  end loop;
  insert into engine.posting (feed, contexts, spans) values (p_feed, v_contexts, v_spans);
end $$;

-- Tick the runs given; or, with p_error, send the one busy run to ERROR. Null when that went well, else what went wrong,
-- with nothing written. The rows were locked before, outside this block: a caught error releases what was locked inside
-- it. Classes 40, 55P03 and 57014 concern the call, not a run, and are raised; every other class of PostgreSQL and of the
-- engine is named, because a nameless catch has swallowed deadlocks before.
-- writes: every per-run table
create function engine.attempt(
  p_user_ids bigint[], p_run_ids bigint[], p_busy_users bigint[], p_busy_runs bigint[], p_feed text, p_time timestamptz,
  p_error text default null
) returns text
language plpgsql as $$
declare
  v_state text;
  v_message text;
begin
  if p_error is not null then
    update strategy_run r set status = 'ERROR', status_reason = p_error
     where r.user_id = p_busy_users[1] and r.run_id = p_busy_runs[1];
    return null;
  end if;
  perform engine.tick_runs(p_user_ids, p_run_ids, p_busy_users, p_busy_runs, p_feed, p_time);
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

-- Lock these runs in their order, those that are still RUNNING; p_is_shared: leave alone what somebody else has locked.
create function engine.lock_runs(p_is_shared boolean, inout p_user_ids bigint[], inout p_run_ids bigint[])
language plpgsql as $$
begin
  if p_is_shared then
    select array_agg(l.user_id), array_agg(l.run_id) into p_user_ids, p_run_ids
      from unnest(p_user_ids, p_run_ids) k (user_id, run_id)
     cross join lateral (select r.user_id, r.run_id from strategy_run r
                          where r.user_id = k.user_id and r.run_id = k.run_id and r.status = 'RUNNING'
                            for no key update skip locked) l;
  else
    select array_agg(l.user_id), array_agg(l.run_id) into p_user_ids, p_run_ids
      from unnest(p_user_ids, p_run_ids) k (user_id, run_id)
     cross join lateral (select r.user_id, r.run_id from strategy_run r
                          where r.user_id = k.user_id and r.run_id = k.run_id and r.status = 'RUNNING'
                            for no key update) l;
  end if;
end $$;

-- One batch: at most p_limit runs of the feed after those given (null = from the start) that have not reached p_time; with
-- p_since only those that owe no earlier time of the feed, p_since being where a run that has not begun begins.
-- Returns its keys; null when there is none left. The lock is a statement of its own, and what decides is read after it:
-- what was locked may have been ticked meanwhile.
-- writes: every per-run table
create function engine.tick_batch(
  p_feed text, p_time timestamptz, p_limit int, p_is_shared boolean, p_since timestamptz,
  inout p_user_ids bigint[], inout p_run_ids bigint[]
)
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
  v_users bigint[];
  v_runs bigint[];
  v_busy_users bigint[];
  v_busy_runs bigint[];
  v_error text;
  v_from timestamptz := case when p_since is not null then engine.owes_next_from(p_feed, p_time) end;
begin
  perform engine.require_admin('tick_all');
  perform engine.require_read_committed(p_user_ids[1], p_run_ids[1]);
  if p_user_ids is null then
    perform engine.require_time(p_time), engine.require(coalesce(p_limit, 1) > 0, 'argument=commit_every must_be=positive');
    perform engine.require_feed_time(p_feed, p_time);
  end if;
  select array_agg(n.user_id), array_agg(n.run_id) into p_user_ids, p_run_ids
    from (select r.user_id, r.run_id
            from strategy_run r
            left join engine_state s on s.user_id = r.user_id and s.run_id = r.run_id
           where r.feed = p_feed and r.status = 'RUNNING' and coalesce(s.last_logical_time < p_time, true)
             and coalesce(engine.owed_from(s.last_logical_time, s.step_logical_time, p_since) between v_from and p_time, true)
             and (r.user_id, r.run_id) > (coalesce(p_user_ids[cardinality(p_user_ids)], -9223372036854775808),
                                          coalesce(p_run_ids[cardinality(p_run_ids)], -9223372036854775808))
           order by r.user_id, r.run_id limit coalesce(p_limit, 1000)) n;

  select l.p_user_ids, l.p_run_ids into v_users, v_runs from engine.lock_runs(p_is_shared, p_user_ids, p_run_ids) l;
  select array_agg(r.user_id order by r.user_id, r.run_id), array_agg(r.run_id order by r.user_id, r.run_id)
    into v_users, v_runs
    from unnest(v_users, v_runs) r (user_id, run_id)
    left join lateral (select s.* from engine_state s where s.user_id = r.user_id and s.run_id = r.run_id offset 0) s on true
   where coalesce(s.last_logical_time < p_time, true) and coalesce(s.step_logical_time <= p_time, true)
     and coalesce(engine.owed_from(s.last_logical_time, s.step_logical_time, p_since) between v_from and p_time, true);
  select array_agg(e.user_id order by e.user_id, e.run_id), array_agg(e.run_id order by e.user_id, e.run_id)
    into v_busy_users, v_busy_runs
    from (select distinct b.user_id, b.run_id from engine.runs_with_events(v_users, v_runs, p_feed, p_time) b) e;
  if v_busy_users is not null then
    select array_agg(q.user_id order by q.user_id, q.run_id), array_agg(q.run_id order by q.user_id, q.run_id)
      into v_users, v_runs
      from (select * from unnest(v_users, v_runs) a (user_id, run_id)
            except select * from unnest(v_busy_users, v_busy_runs) b (user_id, run_id)) q;
  end if;

  if (v_users is not null or v_busy_users is not null)
     and engine.attempt(v_users, v_runs, v_busy_users, v_busy_runs, p_feed, p_time) is not null then
    -- one of them cannot be ticked: find it the slow way
    v_busy_users := v_busy_users || v_users;
    v_busy_runs := v_busy_runs || v_runs;
    for i in 1 .. cardinality(v_busy_users) loop
      v_error := engine.attempt(null, null, v_busy_users[i : i], v_busy_runs[i : i], p_feed, p_time);
      if v_error is not null
         and engine.attempt(null, null, v_busy_users[i : i], v_busy_runs[i : i], p_feed, p_time, v_error) is not null then
        raise warning 'run % of user % failed and cannot be stopped', v_busy_runs[i], v_busy_users[i] using detail = v_error;
      end if;
    end loop;
  end if;
end $$;
