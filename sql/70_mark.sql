-- Marks: what holdings are worth, at one time of one run, and set-based: between two events of a run nothing of it
-- depends on the path.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Raised from inside a valuation, so it returns the number it never delivers.
create function engine.no_price(p_feed text, p_time timestamptz) returns numeric
language plpgsql stable as $$
begin
  perform engine.refuse('TE202', format('feed=%s time=%s', p_feed, engine.iso(p_time)));
  return null;
end $$;

-- One run at one time: sums value(quantity, last close at or before the time) by symbol; a run that holds nothing marks 0.
create function engine.market_value(c engine.context, p_time timestamptz) returns numeric
language plpgsql stable as $$
begin
  return (
    select coalesce(sum(engine.value(h.quantity, coalesce(b.close, engine.no_price(a.feed, a.upto)), a.scale)), 0)
      from (select c.feed as feed, p_time as upto, c.scale as scale, c.symbols as symbols, c.quantities as quantities offset 0) a
     cross join unnest(a.symbols, a.quantities) h (symbol, quantity)
      left join lateral (select b.close from price_bar b
                          where b.feed = a.feed and b.symbol = h.symbol and b.logical_time <= a.upto
                          order by b.logical_time desc limit 1) b on true
     where h.quantity <> 0);
end $$;

-- What a mark of this time says: where one half is stored already, what that says, so that the ledgers agree even if a bar
-- was corrected in between.
create function engine.marked_value(c engine.context, p_time timestamptz) returns numeric
language plpgsql stable as $$
begin
  if not c.is_closed then
    return engine.market_value(c, p_time);
  end if;
  return coalesce(
    (select m.market_value from mtm_ledger m where m.user_id = c.user_id and m.run_id = c.run_id and m.logical_time = p_time),
    (select e.market_value from paper_equity_curve e where e.user_id = c.user_id and e.run_id = c.run_id and e.logical_time = p_time));
end $$;

-- writes: mtm_ledger
create function engine.mark_mtm(c engine.context, p_time timestamptz, p_value numeric) returns void
language plpgsql as $$
begin
  insert into mtm_ledger (user_id, run_id, logical_time, market_value, cost_basis, unrealized_pnl, realized_pnl)
  values (c.user_id, c.run_id, p_time, p_value, c.cost_basis, p_value - c.cost_basis, c.realized_pnl);
end $$;

-- writes: paper_equity_curve
create function engine.mark_equity(c engine.context, p_time timestamptz, p_value numeric) returns void
language plpgsql as $$
begin
  insert into paper_equity_curve (user_id, run_id, logical_time, cash, market_value, equity)
  values (c.user_id, c.run_id, p_time, c.cash, p_value, c.cash + p_value);
end $$;

create function engine.has_mtm(c engine.context, p_time timestamptz) returns boolean
language plpgsql stable as $$
begin
  return exists (select from mtm_ledger m where m.user_id = c.user_id and m.run_id = c.run_id and m.logical_time = p_time);
end $$;

create function engine.has_equity(c engine.context, p_time timestamptz) returns boolean
language plpgsql stable as $$
begin
  return exists (select from paper_equity_curve e where e.user_id = c.user_id and e.run_id = c.run_id and e.logical_time = p_time);
end $$;

-- One run at one time: both rows if its policy wants them, or the one that is missing.
-- writes: mtm_ledger, paper_equity_curve
create function engine.mark_now(c engine.context, p_time timestamptz) returns void
language plpgsql as $$
declare
  v_value numeric;
begin
  if c.is_closed or c.mark_policy = 'EVERY_TICK' or engine.marked_times(c, array[p_time], null) <> '{}' then
    v_value := engine.marked_value(c, p_time);
    if not c.is_closed or not engine.has_mtm(c, p_time) then
      perform engine.mark_mtm(c, p_time, v_value);
    end if;
    if not c.is_closed or not engine.has_equity(c, p_time) then
      perform engine.mark_equity(c, p_time, v_value);
    end if;
  end if;
end $$;

-- Any number of runs and times, by the same rule, in one statement.
-- The bars of a span are read in one range per symbol; only a time at which some held symbol has no bar is valued by
-- looking back. Times and values meet in one GROUP BY, not in a join, which may be planned as a quadratic loop; offset 0
-- keeps the range a search per symbol, whatever the planner believes of the table's size. The offset 0 around the
-- arguments hides them from it, so that it plans once and not at every call.
create function engine.marks(p_feed text, p_spans engine.span[])
returns table (user_id bigint, run_id bigint, logical_time logical_instant, cash money_amount, market_value money_amount,
               cost_basis money_amount, realized_pnl money_amount)
language sql stable
begin atomic
  select s.user_id, s.run_id, v.logical_time, s.cash,
         case when v.priced = coalesce(cardinality(s.symbols), 0) then coalesce(v.value, 0)
              else (select sum(engine.value(h.quantity, coalesce(b.close, engine.no_price(a.feed, v.logical_time)), s.scale))
                      from unnest(s.symbols, s.quantities) h (symbol, quantity)
                      left join lateral (select b.close from price_bar b
                                          where b.feed = a.feed and b.symbol = h.symbol and b.logical_time <= v.logical_time
                                          order by b.logical_time desc limit 1) b on true) end::money_amount,
         s.cost_basis, s.realized_pnl
    from (select p_feed as feed, p_spans as spans offset 0) a
   cross join unnest(a.spans) s
   cross join lateral (
     select u.logical_time, sum(u.value) as value, count(u.value) as priced
       from (select t.logical_time, null::numeric as value from unnest(s.times) t (logical_time)
             union all
             select b.logical_time, engine.value(h.quantity, b.close, s.scale)
               from unnest(s.symbols, s.quantities) h (symbol, quantity)
              cross join lateral (
                select b.logical_time, b.close from price_bar b
                 where b.feed = a.feed and b.symbol = h.symbol
                   and b.logical_time between s.times[1] and s.times[cardinality(s.times)] offset 0) b) u
      group by u.logical_time
     having count(*) > count(u.value)) v;
end;

-- Both rows of every run and time given, from one valuation.
-- writes: mtm_ledger, paper_equity_curve
create function engine.mark(p_feed text, p_spans engine.span[]) returns void
language plpgsql as $$
begin
  with mark as materialized (
    select m.* from engine.marks(p_feed, p_spans) m
  ), mtm as (
    insert into mtm_ledger (user_id, run_id, logical_time, market_value, cost_basis, unrealized_pnl, realized_pnl)
    select m.user_id, m.run_id, m.logical_time, m.market_value, m.cost_basis, m.market_value - m.cost_basis, m.realized_pnl
      from mark m
  )
  insert into paper_equity_curve (user_id, run_id, logical_time, cash, market_value, equity)
  select m.user_id, m.run_id, m.logical_time, m.cash, m.market_value, m.cash + m.market_value
    from mark m;
end $$;

-- The present holdings of a run, over these times.
create function engine.span_of(c engine.context, p_times timestamptz[]) returns engine.span
language plpgsql immutable as $$
declare
  s engine.span;
begin
  s.user_id := c.user_id;
  s.run_id := c.run_id;
  s.scale := c.scale;
  s.times := p_times;
  s.cash := c.cash;
  s.cost_basis := c.cost_basis;
  s.realized_pnl := c.realized_pnl;
  s.symbols := c.symbols;
  s.quantities := c.quantities;
  if 0 = any (c.quantities) then
    select array_agg(h.symbol), array_agg(h.quantity) into s.symbols, s.quantities
      from unnest(c.symbols, c.quantities) h (symbol, quantity) where h.quantity <> 0;
  end if;
  return s;
end $$;

-- Which of these ticks in a row store their marks. Holdings change at the first of them only, if c.has_written; p_next
-- is the tick after them, null while there is none. SESSION: a tick at its session's close, or one that the next tick
-- leaves behind in an earlier session.
create function engine.marked_times(c engine.context, p_times timestamptz[], p_next timestamptz) returns timestamptz[]
language plpgsql stable as $$
begin
  if c.mark_policy = 'EVERY_TICK' then
    return p_times;
  elsif c.mark_policy = 'EVENTS' then
    return case when c.has_written or p_times[1] = c.first_logical_time then p_times[1:1] else '{}' end;
  end if;
  return array(
      select t.at
        from (select u.at, lead(u.at, 1, p_next) over (order by u.at) as next from unnest(p_times) u (at)) t
       cross join lateral engine.session_by(c.calendar, t.at) s
       where t.at = s.close_at or t.next > s.close_at
       order by t.at);
end $$;

-- Have these ticks marked at the present holdings, when the context is posted.
create function engine.add_span(c engine.context, p_times timestamptz[], p_next timestamptz) returns engine.context
language plpgsql stable as $$
begin
  p_times := engine.marked_times(c, p_times, p_next);
  if p_times <> '{}' then
    c.spans := c.spans || engine.span_of(c, p_times);
  end if;
  return c;
end $$;

-- Before anything happens at p_time: the last tick turns out to have been the last of its session. If a step has traded
-- since, its holdings are gone, and equity_at must do.
create function engine.leave_session(c engine.context, p_time timestamptz) returns engine.context
language plpgsql stable as $$
begin
  if c.mark_policy <> 'SESSION' or c.last_logical_time is null or c.step_logical_time > c.last_logical_time then
    return c;
  end if;
  if c.last_logical_time < p_time and not engine.has_mtm(c, c.last_logical_time) and not engine.has_equity(c, c.last_logical_time) then
    c := engine.add_span(c, array[c.last_logical_time], p_time);
  end if;
  return c;
end $$;
