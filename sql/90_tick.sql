-- The plot. tick: one time of one run. replay: many times of one run. tick_all: one time of many runs. The events are
-- the same scalar code in all three; marks are one statement over a time, a span, or a batch of runs.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- One tick of a run that is locked and read. Ends with its state saved and its time marked.
-- writes: every per-run table
create function engine.tick_run(c engine.context, p_time timestamptz) returns engine.context
language plpgsql as $$
declare
  v_session engine.market_session;
begin
  c := engine.turn_to(c, p_time);
  perform engine.require_now(c, p_time);                        -- TE001, TE003
  v_session := engine.session_at(c.calendar, p_time);           -- TE203

  if not c.is_closed then
    c := engine.match_through(c, p_time);                       -- orders, bar by bar since the last tick
    if v_session.open_at is not null then
      c := engine.run_sips(c, p_time);                          -- due slots, at this close
      c := engine.run_rebalances(c, p_time);
    end if;
  end if;

  c.last_logical_time := p_time;
  perform engine.save_state(c);                                 -- cash and time
  if c.is_closed then
    perform engine.mark_mtm(c, p_time), engine.mark_equity(c, p_time);
  else
    perform engine.mark(array[c.user_id], array[c.run_id], c.feed, array[p_time]);
  end if;
  return c;
end $$;

-- Ticked already: at the last tick by definition, before it when both marks are there.
create function engine.is_complete(c engine.context, p_time timestamptz) returns boolean
language plpgsql stable as $$
begin
  if p_time < c.last_logical_time then
    return exists (select from mtm_ledger m where m.user_id = c.user_id and m.run_id = c.run_id and m.logical_time = p_time)
       and exists (select from paper_equity_curve e where e.user_id = c.user_id and e.run_id = c.run_id and e.logical_time = p_time);
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
