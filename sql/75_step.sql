-- The tick's own steps as verbs, each callable alone and idempotent by its own key. A step never moves
-- last_logical_time. Once a time has its mark it is closed: nothing trades there any more.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Time only moves forward, for a run that is RUNNING.
create function engine.require_now(c engine.context, p_time timestamptz) returns void
language plpgsql as $$
begin
  perform engine.require_running(c);
  if p_time < greatest(c.last_logical_time, c.step_logical_time) then
    perform engine.refuse('TE003', format('logical_time=%s last_logical_time=%s', engine.iso(p_time),
                                          engine.iso(greatest(c.last_logical_time, c.step_logical_time))));
  end if;
end $$;

-- The calendar must know the time.
create function engine.require_session(c engine.context, p_time timestamptz) returns void
language plpgsql as $$
begin
  if c.is_open is null then
    perform engine.refuse_unknown(c.calendar, p_time);
  end if;
end $$;

-- Turn the context to a time: up to where is the run closed, is the market open, is this the run's first time?
create function engine.turn_to(c engine.context, p_time timestamptz) returns engine.context
language plpgsql stable as $$
declare
  v_session_open timestamptz;
begin
  select greatest(
           (select m.logical_time from mtm_ledger m
             where m.user_id = a.user_id and m.run_id = a.run_id and m.logical_time <= a.at order by m.logical_time desc limit 1),
           (select e.logical_time from paper_equity_curve e
             where e.user_id = a.user_id and e.run_id = a.run_id and e.logical_time <= a.at order by e.logical_time desc limit 1)),
         (select n.open_at from engine.session_by(a.calendar, a.at) n),
         coalesce(c.first_logical_time, p_time)
    into c.closed_through, v_session_open, c.first_logical_time
    from (select c.user_id as user_id, c.run_id as run_id, c.calendar as calendar, p_time as at offset 0) a;
  c.is_closed := c.closed_through is not distinct from p_time or p_time <= c.last_logical_time and engine.is_complete(c, p_time);
  c.is_open := v_session_open < p_time;            -- null: the calendar does not know
  if not c.is_open and engine.is_before_calendar(c.calendar, p_time) then
    c.is_open := null;
  end if;
  if c.last_logical_time is not null then          -- a step has done what earlier bars owed; a first time owes none
    c.closed_through := greatest(c.closed_through, c.step_logical_time - interval '1 microsecond');
  end if;
  return c;
end $$;

-- For a single step: at a closed time its work is done, whatever has become of the run since. TE203 outside the calendar.
create function engine.open_step(p_user_id bigint, p_run_id bigint, p_time timestamptz) returns engine.context
language plpgsql as $$
declare
  c engine.context;
begin
  perform engine.require_time(p_time);
  c := engine.turn_to(engine.open_run(p_user_id, p_run_id), p_time);
  if not c.is_closed then
    perform engine.require_now(c, p_time), engine.require_session(c, p_time);
    c := engine.leave_session(c, p_time);
  end if;
  return c;
end $$;

-- A step comes after all that is owed by then, as in a tick: interest, the actions up to its time, and what earlier bars
-- have done to orders. So what it trades or marks is in the units of its time, and nothing splits it again. Only its own
-- bar it leaves to match_orders. Before the first tick bars owe nothing to orders.
-- writes: every per-run table but the marks
create function engine.catch_up(c engine.context, p_time timestamptz) returns engine.context
language plpgsql as $$
declare
  v_before constant timestamptz := p_time - interval '1 microsecond';
begin
  c := engine.charge_interest(c, p_time);
  if engine.may_act(c, p_time) then
    c := engine.pass_actions(c, p_time);
  end if;
  if c.last_logical_time is null then
    return c;
  end if;
  c := engine.match_through(engine.watch_orders(c, v_before), v_before);
  if c.journal is not null then
    c := engine.post(c);
  end if;
  c.closed_through := greatest(c.closed_through, v_before);
  return c;
end $$;

-- Remember the time at which a step wrote something: the run is there now, though its last tick is not. A step that
-- found nothing to do leaves no trace.
-- writes: every per-run table but the marks
create function engine.end_step(c engine.context, p_time timestamptz) returns void
language plpgsql as $$
begin
  if c.has_written then
    c.step_logical_time := p_time;
    perform engine.post(c);
  end if;
end $$;

create function engine.match_orders(p_user_id bigint, p_run_id bigint, p_logical_time timestamptz) returns int
language plpgsql as $$
declare
  c engine.context := engine.open_step(p_user_id, p_run_id, p_logical_time);
begin
  if not c.is_closed then
    c := engine.catch_up(c, p_logical_time);
    c := engine.match_through(engine.watch_orders(c, p_logical_time), p_logical_time);
    perform engine.end_step(c, p_logical_time);
  end if;
  return c.made;
end $$;

create function engine.try_execute_sip(
  p_user_id bigint, p_run_id bigint, p_logical_time timestamptz, p_market_open boolean
) returns int
language plpgsql as $$
declare
  c engine.context := engine.open_step(p_user_id, p_run_id, p_logical_time);
  v_made int := c.made;
begin
  if not c.is_closed and coalesce(p_market_open, c.is_open) then
    c := engine.catch_up(c, p_logical_time);
    v_made := c.made;
    c := engine.run_sips(c, p_logical_time);
    perform engine.end_step(c, p_logical_time);
  end if;
  return c.made - v_made;
end $$;

create function engine.try_rebalance(
  p_user_id bigint, p_run_id bigint, p_logical_time timestamptz, p_market_open boolean
) returns int
language plpgsql as $$
declare
  c engine.context := engine.open_step(p_user_id, p_run_id, p_logical_time);
  v_made int := c.made;
begin
  if not c.is_closed and coalesce(p_market_open, c.is_open) then
    c := engine.catch_up(c, p_logical_time);
    v_made := c.made;
    c := engine.run_rebalances(c, p_logical_time);
    perform engine.end_step(c, p_logical_time);
  end if;
  return c.made - v_made;
end $$;

create function engine.log_mtm(p_user_id bigint, p_run_id bigint, p_logical_time timestamptz) returns boolean
language plpgsql as $$
declare
  c engine.context := engine.open_step(p_user_id, p_run_id, p_logical_time);
begin
  if engine.is_complete(c, p_logical_time) or engine.has_mtm(c, p_logical_time) then
    return false;
  end if;
  perform engine.require_now(c, p_logical_time);
  c := engine.catch_up(c, p_logical_time);
  c.has_written := true;
  perform engine.end_step(c, p_logical_time);
  perform engine.mark_mtm(c, p_logical_time, engine.marked_value(c, p_logical_time));
  return true;
end $$;

create function engine.record_equity(p_user_id bigint, p_run_id bigint, p_logical_time timestamptz) returns boolean
language plpgsql as $$
declare
  c engine.context := engine.open_step(p_user_id, p_run_id, p_logical_time);
begin
  if engine.is_complete(c, p_logical_time) or engine.has_equity(c, p_logical_time) then
    return false;
  end if;
  perform engine.require_now(c, p_logical_time);
  c := engine.catch_up(c, p_logical_time);
  c.has_written := true;
  perform engine.end_step(c, p_logical_time);
  perform engine.mark_equity(c, p_logical_time, engine.marked_value(c, p_logical_time));
  return true;
end $$;
