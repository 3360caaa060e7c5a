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

-- Turn the context to a time: up to where is the run closed, and is this its first time?
create function engine.turn_to(c engine.context, p_time timestamptz) returns engine.context
language plpgsql stable as $$
begin
  c.closed_through := greatest(
    (select max(m.logical_time) from mtm_ledger m
      where m.user_id = c.user_id and m.run_id = c.run_id and m.logical_time <= p_time),
    (select max(e.logical_time) from paper_equity_curve e
      where e.user_id = c.user_id and e.run_id = c.run_id and e.logical_time <= p_time));
  c.is_closed := coalesce(c.closed_through = p_time, false);
  c.first_logical_time := coalesce(c.first_logical_time, p_time);
  return c;
end $$;

-- For a single step: at a closed time its work is done, whatever has become of the run since. TE203 past the calendar.
create function engine.open_step(p_user_id bigint, p_run_id bigint, p_time timestamptz) returns engine.context
language plpgsql as $$
declare
  c engine.context;
begin
  perform engine.require_time(p_time);
  c := engine.turn_to(engine.open_run(p_user_id, p_run_id), p_time);
  if not c.is_closed then
    perform engine.require_now(c, p_time), engine.next_close(c.calendar, p_time);
  end if;
  return c;
end $$;

-- Remember the time at which a step wrote something: the run is there now, though its last tick is not. A step that
-- found nothing to do leaves no trace.
-- writes: engine_state
create function engine.end_step(c engine.context, p_time timestamptz) returns void
language plpgsql as $$
begin
  if c.has_written then
    c.step_logical_time := p_time;
    perform engine.save_state(c);
  end if;
end $$;

create function engine.match_orders(p_user_id bigint, p_run_id bigint, p_logical_time timestamptz) returns int
language plpgsql as $$
declare
  c engine.context := engine.open_step(p_user_id, p_run_id, p_logical_time);
begin
  if not c.is_closed then
    c := engine.match_through(c, p_logical_time);
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
begin
  if not c.is_closed and coalesce(p_market_open, engine.is_market_open(c.calendar, p_logical_time)) then
    c := engine.run_sips(c, p_logical_time);
    perform engine.end_step(c, p_logical_time);
  end if;
  return c.made;
end $$;

create function engine.try_rebalance(
  p_user_id bigint, p_run_id bigint, p_logical_time timestamptz, p_market_open boolean
) returns int
language plpgsql as $$
declare
  c engine.context := engine.open_step(p_user_id, p_run_id, p_logical_time);
begin
  if not c.is_closed and coalesce(p_market_open, engine.is_market_open(c.calendar, p_logical_time)) then
    c := engine.run_rebalances(c, p_logical_time);
    perform engine.end_step(c, p_logical_time);
  end if;
  return c.made;
end $$;

create function engine.log_mtm(p_user_id bigint, p_run_id bigint, p_logical_time timestamptz) returns boolean
language plpgsql as $$
declare
  c engine.context := engine.open_step(p_user_id, p_run_id, p_logical_time);
begin
  if exists (select from mtm_ledger l where l.user_id = p_user_id and l.run_id = p_run_id and l.logical_time = p_logical_time) then
    return false;
  end if;
  perform engine.require_now(c, p_logical_time);
  c.has_written := true;
  perform engine.end_step(c, p_logical_time);
  return engine.mark_mtm(c, p_logical_time);
end $$;

create function engine.record_equity(p_user_id bigint, p_run_id bigint, p_logical_time timestamptz) returns boolean
language plpgsql as $$
declare
  c engine.context := engine.open_step(p_user_id, p_run_id, p_logical_time);
begin
  if exists (select from paper_equity_curve l where l.user_id = p_user_id and l.run_id = p_run_id and l.logical_time = p_logical_time) then
    return false;
  end if;
  perform engine.require_now(c, p_logical_time);
  c.has_written := true;
  perform engine.end_step(c, p_logical_time);
  return engine.mark_equity(c, p_logical_time);
end $$;
