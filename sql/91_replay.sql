-- replay: the ticks of one run at every feed time of a range. Scalar at the times where something may happen to the
-- run, one marking statement over each quiet span in between.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- The first feed time in [p_from, p_to] that needs a whole tick: an order may fill or expire, a slot is due, or a
-- single step has closed it. Null = none. A superset is enough: a tick with nothing to do only marks.
create function engine.next_event_time(c engine.context, p_from timestamptz, p_to timestamptz) returns timestamptz
language plpgsql stable as $$
declare
  v_plan record;
  v_due date;
  v_found timestamptz;
begin
  for v_plan in
    select p.start_date, p.frequency, p.roll, p.next_slot, p.instalments, p.end_date,
           (select min(b.logical_time) from price_bar b where b.feed = c.feed and b.symbol = p.symbol) as first_price
      from sip_plan p where p.user_id = c.user_id and p.run_id = c.run_id
    union all
    select p.start_date, p.frequency, 'NEXT', p.next_slot, null, null, p_from
      from rebalance_plan p where p.user_id = c.user_id and p.run_id = c.run_id
  loop
    v_due := engine.next_due_date(c.calendar, v_plan.start_date, v_plan.frequency, v_plan.roll, v_plan.next_slot,
                                  v_plan.instalments, v_plan.end_date);
    if v_due is not null and v_plan.first_price is not null then
      v_found := least(v_found, engine.next_feed_time(c.feed,
        greatest(p_from, v_plan.first_price, v_due::timestamp at time zone c.time_zone), p_to));
    end if;
  end loop;
  -- a step may have closed times ahead; only those on the clock matter
  select least(v_found, min(t.logical_time)) into v_found
    from (select m.logical_time from mtm_ledger m
           where m.user_id = c.user_id and m.run_id = c.run_id and m.logical_time between p_from and p_to
          union all
          select e.logical_time from paper_equity_curve e
           where e.user_id = c.user_id and e.run_id = c.run_id and e.logical_time between p_from and p_to) t
   where exists (select from price_bar b where b.feed = c.feed and b.logical_time = t.logical_time);
  -- last, because it may read every bar up to what was found so far
  return least(v_found, engine.next_match_time(c, c.last_logical_time, coalesce(v_found, p_to)));
end $$;

-- Every feed time of the range that lies before the last tick must have been ticked, else tick would refuse it: TE003.
create function engine.require_ticked(c engine.context, p_from timestamptz, p_to timestamptz) returns void
language plpgsql as $$
declare
  v_missed timestamptz;
begin
  select min(b.logical_time) into v_missed from price_bar b
   where c.last_logical_time is not null and b.feed = c.feed
     and b.logical_time between p_from and least(p_to, c.last_logical_time - interval '1 microsecond')
     and not engine.is_complete(c, b.logical_time);
  if v_missed is not null then
    perform engine.require_now(c, v_missed);
  end if;
end $$;

-- Up to p_events whole ticks with the quiet spans before them, in the caller's transaction. True when the range is
-- done. Times that are complete are skipped; a time before the last tick that never was is TE003, as in tick.
-- p_events null: all of it. p_is_first: the first piece of a call, whose first time is always a whole tick, because it
-- may follow a gap or be the run's first.
-- writes: every per-run table
create function engine.replay_events(
  p_user_id bigint, p_run_id bigint, p_from timestamptz, p_to timestamptz, p_events int, p_is_first boolean
) returns boolean
language plpgsql set search_path = public, pg_temp set enable_seqscan = off set jit = off as $$
declare
  c engine.context;
  v_next timestamptz;
  v_event timestamptz;
  v_known_to timestamptz;
begin
  perform engine.require_time(p_from), engine.require_time(p_to);
  perform engine.require(coalesce(p_events, 1) > 0, 'argument=commit_every must_be=positive');
  c := engine.open_run(p_user_id, p_run_id);
  v_known_to := least(p_to, engine.calendar_end(c.calendar));
  if p_is_first then
    perform engine.require_ticked(c, p_from, p_to);
  end if;

  for v_done in 1 .. coalesce(p_events, 2147483647) loop
    v_next := engine.next_feed_time(c.feed, greatest(p_from, c.last_logical_time), p_to, coalesce(p_from <= c.last_logical_time, false));
    if v_next is null then
      return true;
    end if;
    perform engine.require_running(c);

    v_event := v_next;
    if v_next <= v_known_to and not (p_is_first and v_done = 1) and c.last_logical_time is not null then
      v_event := engine.next_event_time(c, v_next, v_known_to);
    end if;
    if v_event is distinct from v_next then
      c := engine.mark_span(c, v_next, coalesce(v_event, v_known_to + interval '1 microsecond'));
    end if;
    if v_event is not null then
      c := engine.tick_run(c, v_event);
    end if;
  end loop;
  return false;
end $$;
