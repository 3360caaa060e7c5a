-- replay: the ticks of one run at every feed time of a range. Everything a tick does at the times where something may
-- happen to the run, only marks at the quiet times in between; all of it in memory, written many times at once.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- From when on the next slot of each plan may execute: its due date, and a first price of its symbol. Too early does no
-- harm, the tick asks again, too late would; so three hours before midnight, because where clocks are set back there may
-- be two of them. Null: never, or not known yet. Those that lie after p_time stand already, and a plan that was due before has had its first price.
create function engine.with_due_times(c engine.context, p_time timestamptz default null) returns engine.context
language plpgsql stable as $$
declare
  v_sips constant int := cardinality(c.sips);
  v_sip sip_plan;
  v_rebalance rebalance_plan;
  v_first timestamptz;
begin
  for i in 1 .. v_sips loop
    continue when p_time is not null and (c.due[i] <= p_time) is not true;
    v_sip := c.sips[i];
    v_first := c.due[i];
    if v_first is null then
      -- of several symbols nobody looks ahead
      v_first := case when v_sip.symbol is null then '-infinity'
        else (select min(b.logical_time) from price_bar b where b.feed = c.feed and b.symbol = v_sip.symbol) end;
    end if;
    c.due[i] := engine.next_due_date(c.calendar, v_sip.start_date, v_sip.frequency, v_sip.roll, v_sip.next_slot,
                                     v_sip.instalments, v_sip.end_date, v_sip.next_slot - 1, v_sip.last_date)::timestamp at time zone c.time_zone - interval '3 hours';
    -- null stays null: greatest would skip it
    c.due[i] := case when c.due[i] < v_first then v_first when v_first is not null then c.due[i] end;
  end loop;
  for i in 1 .. cardinality(c.rebalances) loop
    continue when p_time is not null and (c.due[v_sips + i] <= p_time) is not true;
    v_rebalance := c.rebalances[i];
    c.due[v_sips + i] := engine.next_due_date(c.calendar, v_rebalance.start_date, v_rebalance.frequency, 'NEXT',
                                              v_rebalance.next_slot, v_rebalance.instalments, null, v_rebalance.next_slot - 1, v_rebalance.last_date)::timestamp at time zone c.time_zone - interval '3 hours';
  end loop;
  return c;
end $$;

-- The next feed times of the run, p_times, as ticks. Stops at their end, or when events_left is 0.
-- writes: every per-run table
create function engine.replay_window(c engine.context, p_times timestamptz[]) returns engine.context
language plpgsql as $$
declare
  v_count int := cardinality(p_times);
  v_action timestamptz;
  v_marked int := 0;   -- up to here the times are in spans
  v_at int := 0;       -- the last event
  v_quiet int := 1;    -- from here on nothing has happened
  v_event timestamptz;
  v_has_acted boolean;
  v_is_margin boolean := (c.terms).initial_margin is not null;
begin
  c.due := '{}';
  c.has_written := false;
  c := engine.leave_session(engine.with_due_times(c), p_times[1]);
  if v_is_margin then
    c := engine.charge_interest(c, p_times[1]);
  end if;
  -- corporate actions fall on the first time of a window, or end it
  if engine.may_act(c, p_times[v_count]) then
    c := engine.pass_actions(c, p_times[1]);
    v_action := (select min(d.logical_time) from engine.due_actions(c, p_times[v_count]) d);
    v_count := case when v_action is null then v_count else width_bucket(v_action - interval '1 microsecond', p_times) end;
  end if;
  v_has_acted := c.has_written;
  c := engine.watch_orders(c, p_times[v_count]);
  loop
    -- the next event is at the first time that is not earlier than what is due
    v_event := least((c.match).logical_time, (select min(d) from unnest(c.due) d), case when v_at = 0 and v_has_acted then p_times[1] end);
    v_at := 1 + least(v_count, case when v_event is null then v_count else greatest(v_at, width_bucket(v_event - interval '1 microsecond', p_times)) end);
    if v_is_margin then
      v_at := engine.first_margin_event(c, p_times, v_quiet, v_at);
    end if;
    v_quiet := v_at + 1;
    if v_at > v_marked + 1 then
      c := engine.add_span(c, p_times[v_marked + 1 : v_at - 1], p_times[v_at]);
      v_marked := v_at - 1;
    end if;
    exit when v_at > v_count;

    c.has_written := v_at = 1 and v_has_acted;
    if v_is_margin and v_at > 1 then
      c := engine.charge_interest(c, p_times[v_at], p_times[v_at - 1]);
    end if;
    c := engine.run_events(c, p_times[v_at], engine.is_market_open(c.calendar, p_times[v_at]));
    c := engine.with_due_times(c, p_times[v_at]);
    c.last_logical_time := p_times[v_at];
    if cardinality(c.journal) > 128 or cardinality(c.spans) > 128 then
      c := engine.post(c);
    end if;
    c.events_left := c.events_left - 1;
    if c.events_left = 0 then
      return engine.post(engine.add_span(c, p_times[v_at : v_at], null));
    end if;
  end loop;
  c.last_logical_time := p_times[v_count];
  return engine.post(c);
end $$;

-- The next feed times at which a run is ticked the quick way: none that its calendar does not know, none that a step
-- has closed. At most 512, so that memory is bounded and nobody searches far ahead in vain, and fewer if few events are
-- wanted.
create function engine.quick_times(c engine.context, p_from timestamptz, p_to timestamptz) returns timestamptz[]
language plpgsql stable as $$
declare
  v_times timestamptz[] := engine.feed_times(c.feed, greatest(p_from, c.last_logical_time), p_to, least(512, 8 * coalesce(c.events_left, 64)),
                                             coalesce(p_from <= c.last_logical_time, false));
  v_closed timestamptz;
begin
  select min(t.logical_time) into v_closed
    from (select m.logical_time from mtm_ledger m
           where m.user_id = c.user_id and m.run_id = c.run_id and m.logical_time > c.last_logical_time
          union all
          select e.logical_time from paper_equity_curve e
           where e.user_id = c.user_id and e.run_id = c.run_id and e.logical_time > c.last_logical_time) t
   where t.logical_time = any (v_times);
  return case when v_closed is null then v_times else v_times[1 : array_position(v_times, v_closed) - 1] end;
end $$;

-- Every feed time of the range that lies before the last tick must have been ticked (engine.is_complete, for all of them
-- at once), else tick would refuse it: TE003.
create function engine.require_ticked(c engine.context, p_from timestamptz, p_to timestamptz) returns void
language plpgsql as $$
declare
  v_times timestamptz[];
  v_missed timestamptz;
begin
  if c.last_logical_time is null or p_from >= c.last_logical_time then
    return;
  end if;
  v_times := engine.feed_times(c.feed, p_from, least(p_to, c.last_logical_time - interval '1 microsecond'), null);
  select min(t.logical_time) into v_missed
    from (select u.logical_time from unnest(v_times) u (logical_time) where c.mark_policy = 'EVERY_TICK'
          except (select m.logical_time from mtm_ledger m
                   where m.user_id = c.user_id and m.run_id = c.run_id and m.logical_time between p_from and p_to
                  intersect
                  select e.logical_time from paper_equity_curve e
                   where e.user_id = c.user_id and e.run_id = c.run_id and e.logical_time between p_from and p_to)
          union all
          select u.logical_time from unnest(v_times) u (logical_time)
           where c.mark_policy <> 'EVERY_TICK' and u.logical_time < c.first_logical_time) t;
  if v_missed is not null then
    perform engine.require_now(c, v_missed);
  end if;
end $$;

-- Up to p_events whole ticks with the quiet times before them, in the caller's transaction. True when the range is
-- done. Times that are complete are skipped; a time before the last tick that never was is TE003, as in tick.
-- p_events null: all of it. p_times: at most so many times, quiet ones included. p_is_first: the first piece of a call, whose
-- first time is always an ordinary tick, because it may follow a gap or be the run's first; so is the first after a step.
-- writes: every per-run table
create function engine.replay_events(
  p_user_id bigint, p_run_id bigint, p_from timestamptz, p_to timestamptz, p_events int, p_is_first boolean, p_times int default null
) returns boolean
language plpgsql security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
  c engine.context;
  v_next timestamptz;
  v_times timestamptz[];
begin
  perform engine.require_own(p_user_id, p_run_id);
  perform engine.require_time(p_from), engine.require_time(p_to);
  perform engine.require(coalesce(p_events, 1) > 0, 'argument=commit_every must_be=positive');
  perform engine.require(coalesce(p_times, 1) > 0, 'argument=times must_be=positive');
  c := engine.open_run(p_user_id, p_run_id);
  c.events_left := p_events;
  if p_is_first then
    perform engine.require_ticked(c, p_from, p_to);
  end if;

  while coalesce(c.events_left > 0, true) and coalesce(p_times > 0, true) loop
    v_next := engine.next_feed_time(c.feed, greatest(p_from, c.last_logical_time), p_to, coalesce(p_from <= c.last_logical_time, false));
    if v_next is null then
      return true;
    end if;
    perform engine.require_running(c);
    v_times := '{}';
    if not p_is_first and (c.step_logical_time > c.last_logical_time) is not true then
      v_times := engine.quick_times(c, p_from, least(p_to, engine.calendar_end(c.calendar)));
    end if;
    if v_times = '{}' then
      c := engine.tick_run(c, v_next);
      c.events_left := c.events_left - 1;
      p_times := p_times - 1;
      p_is_first := false;
    else
      c := engine.replay_window(c, v_times[: coalesce(p_times, cardinality(v_times))]);
      p_times := p_times - width_bucket(c.last_logical_time, v_times);   -- an event, or an action, may have ended the window
    end if;
  end loop;
  return false;
end $$;
