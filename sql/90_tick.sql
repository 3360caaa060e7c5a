-- The plot. tick: one time of one run. replay: many times of one run. tick_all: one time of many runs. The events are
-- the same scalar code in all three; marks are one statement over a time, a span, or a batch of runs.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- What happens to a run at one time, decided in memory. The times before it are quiet, or have happened.
create function engine.run_events(c engine.context, p_time timestamptz, p_is_open boolean) returns engine.context
language plpgsql as $$
begin
  c := engine.match_through(c, p_time);            -- orders, bar by bar since the last tick
  if p_is_open then
    c := engine.run_sips(c, p_time);               -- due slots, at this close
    c := engine.run_rebalances(c, p_time);
    if (c.terms).maintenance_margin is not null then
      c := engine.call_margin(c, p_time);          -- closes positions that equity no longer carries
    end if;
  end if;
  return c;
end $$;

-- A tick up to where it writes: all that the run owes for p_time stands in the context.
create function engine.decide(c engine.context, p_time timestamptz) returns engine.context
language plpgsql as $$
begin
  c := engine.turn_to(c, p_time);
  perform engine.require_now(c, p_time);           -- TE001, TE003
  perform engine.require_session(c, p_time);       -- TE203
  c := engine.leave_session(c, p_time);
  c.has_written := coalesce(c.step_logical_time > coalesce(c.last_logical_time, '-infinity'), false);
  if not c.is_closed then                          -- by a step; then only marks are missing
    if (c.terms).initial_margin is not null then
      c := engine.charge_interest(c, p_time);      -- for the days since the last tick
    end if;
    if engine.may_act(c, p_time) then
      c := engine.pass_actions(c, p_time);         -- splits and dividends, with the orders before them
    end if;
    c := engine.watch_orders(c, p_time);
    c := engine.run_events(c, p_time, c.is_open);
  end if;
  c.last_logical_time := p_time;
  return c;
end $$;

-- One tick of a run that is locked and read.
-- writes: every per-run table
create function engine.tick_run(c engine.context, p_time timestamptz) returns engine.context
language plpgsql as $$
begin
  c := engine.post(engine.decide(c, p_time));      -- orders, trades, cash, positions, events, plans, state
  perform engine.mark_now(c, p_time);              -- mark-to-market and equity
  return c;
end $$;

-- Ticked already: at the last tick by definition, before it when both marks are there. A run that does not store every
-- mark cannot tell, and nothing could happen any more: it counts all times since its first tick as ticked.
create function engine.is_complete(c engine.context, p_time timestamptz) returns boolean
language plpgsql stable as $$
begin
  if p_time < c.last_logical_time then
    if c.mark_policy <> 'EVERY_TICK' then
      return p_time >= c.first_logical_time;
    end if;
    return engine.has_mtm(c, p_time) and engine.has_equity(c, p_time);
  end if;
  return coalesce(p_time = c.last_logical_time, false);
end $$;

create function engine.tick(p_user_id bigint, p_run_id bigint, p_logical_time timestamptz) returns void
language plpgsql as $$
declare
  c engine.context;
begin
  perform engine.require_time(p_logical_time);
  c := engine.open_run(p_user_id, p_run_id);
  if not engine.is_complete(c, p_logical_time) then
    perform engine.tick_run(c, p_logical_time);
  end if;
end $$;
