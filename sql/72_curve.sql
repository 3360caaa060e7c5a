-- The equity curve of a run as it is asked for: rows that are stored, and for a run that does not store every mark
-- (mark_policy), those that are computed, by the marking statement itself.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Holdings over these times, which are in order, from the ledgers: they change where cash or units moved.
create function engine.past_spans(p_user_id bigint, p_run_id bigint, p_times timestamptz[]) returns engine.span[]
language plpgsql stable as $$
declare
  c engine.context;
  v record;
  v_done int := 0;
  v_before int;
  i int;
begin
  c.user_id := p_user_id;
  c.run_id := p_run_id;
  c.scale := (select engine.minor_unit(r.currency) from strategy_run r where r.user_id = p_user_id and r.run_id = p_run_id);
  c.cash := 0;
  for v in
    select coalesce(l.logical_time, '-infinity') as since, null as symbol, sum(l.amount) as moved
      from cash_ledger l where l.user_id = p_user_id and l.run_id = p_run_id group by l.logical_time
    union all
    select t.logical_time, t.symbol, sum(case t.side when 'BUY' then t.quantity else -t.quantity end)
      from paper_trade t where t.user_id = p_user_id and t.run_id = p_run_id group by t.logical_time, t.symbol
    union all
    select x.logical_time, x.payload ->> 'symbol', (x.payload ->> 'units')::numeric
      from event_ledger x where x.user_id = p_user_id and x.run_id = p_run_id and x.event_type = 'SPLIT'
    order by 1
  loop
    v_before := width_bucket(v.since - interval '1 microsecond', p_times);
    if v_before > v_done then
      c.spans := c.spans || engine.span_of(c, p_times[v_done + 1 : v_before]);
      v_done := v_before;
    end if;
    i := array_position(c.symbols, v.symbol);
    if v.symbol is null then
      c.cash := c.cash + v.moved;
    elsif i is null then
      c.symbols := c.symbols || v.symbol;
      c.quantities := c.quantities || v.moved;
    else
      c.quantities[i] := c.quantities[i] + v.moved;
    end if;
  end loop;
  if v_done < cardinality(p_times) then
    c.spans := c.spans || engine.span_of(c, p_times[v_done + 1 : cardinality(p_times)]);
  end if;
  return c.spans;
end $$;

-- Equity at these times, computed.
create function engine.past_equity(p_user_id bigint, p_run_id bigint, p_times timestamptz[])
returns table (logical_time timestamptz, cash numeric, market_value numeric, equity numeric)
language sql stable
begin atomic
  select m.logical_time, m.cash, m.market_value, m.cash + m.market_value
    from strategy_run r
   cross join lateral engine.marks(r.feed, engine.past_spans(p_user_id, p_run_id, p_times)) m
   where r.user_id = p_user_id and r.run_id = p_run_id;
end;

-- Every feed time from the run's first tick to its last, within p_from and p_to, and what is stored beyond the clock.
create function engine.equity_between(p_user_id bigint, p_run_id bigint, p_from timestamptz, p_to timestamptz)
returns table (logical_time timestamptz, cash numeric, market_value numeric, equity numeric)
language plpgsql stable as $$
declare
  r strategy_run;
  s engine_state;
  v_times timestamptz[];
begin
  perform engine.require_run(p_user_id, p_run_id);
  select * into r from strategy_run x where x.user_id = p_user_id and x.run_id = p_run_id;
  if r.mark_policy = 'EVERY_TICK' then
    -- offset 0 hides the bounds from the planner: one plan is kept, where planning would take longer than reading
    return query
      select e.logical_time::timestamptz, e.cash::numeric, e.market_value::numeric, e.equity::numeric
        from (select p_user_id as user_id, p_run_id as run_id, coalesce(p_from, '-infinity') as since, coalesce(p_to, 'infinity') as upto offset 0) a
        join paper_equity_curve e on e.user_id = a.user_id and e.run_id = a.run_id and e.logical_time >= a.since and e.logical_time <= a.upto
       order by e.logical_time;
    return;
  end if;
  select * into s from engine_state x where x.user_id = p_user_id and x.run_id = p_run_id;
  if s.last_logical_time is not null then
    v_times := array(
      select t.logical_time
        from (select b.logical_time from price_bar b
               where b.feed = r.feed and b.logical_time >= greatest(p_from, s.first_logical_time)
                 and b.logical_time <= least(p_to, s.last_logical_time)
              except
              select e.logical_time from paper_equity_curve e where e.user_id = p_user_id and e.run_id = p_run_id) t
       order by t.logical_time);
  end if;
  return query
    select e.logical_time::timestamptz, e.cash::numeric, e.market_value::numeric, e.equity::numeric
      from paper_equity_curve e
     where e.user_id = p_user_id and e.run_id = p_run_id
       and e.logical_time >= coalesce(p_from, '-infinity') and e.logical_time <= coalesce(p_to, 'infinity')
    union all
    select c.logical_time, c.cash, c.market_value, c.equity from engine.past_equity(p_user_id, p_run_id, v_times) c
    order by 1;
end $$;

-- One time between the first tick and the last, on the clock or not; no row before and after.
create function engine.equity_at(p_user_id bigint, p_run_id bigint, p_time timestamptz)
returns table (logical_time timestamptz, cash numeric, market_value numeric, equity numeric)
language plpgsql stable as $$
begin
  perform engine.require_run(p_user_id, p_run_id);
  return query
    select e.logical_time::timestamptz, e.cash::numeric, e.market_value::numeric, e.equity::numeric from paper_equity_curve e
     where e.user_id = p_user_id and e.run_id = p_run_id and e.logical_time = p_time;
  if not found then
    return query
      select c.logical_time, c.cash, c.market_value, c.equity
        from engine_state s
       cross join lateral engine.past_equity(p_user_id, p_run_id, array[p_time]) c
       where s.user_id = p_user_id and s.run_id = p_run_id and p_time between s.first_logical_time and s.last_logical_time;
  end if;
end $$;
