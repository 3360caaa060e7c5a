-- Marks: what holdings are worth. Set-based: one statement for any number of runs and times, because between two
-- events of a run nothing of it depends on the path.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Raised from inside a valuation, so it returns the number it never delivers.
create function engine.no_price(p_feed text, p_time timestamptz) returns numeric
language plpgsql stable as $$
begin
  perform engine.refuse('TE202', format('feed=%s time=%s', p_feed, engine.iso(p_time)));
  return null;
end $$;

-- market_value sums round(quantity × last close at or before the time) by symbol; a run that holds nothing marks 0.
-- offset 0 hides the arrays' lengths from the planner: one run or ten thousand get the same plan, from indexes, and it
-- is planned once instead of at every call.
create function engine.marks(p_user_ids bigint[], p_run_ids bigint[], p_feed text, p_times timestamptz[])
returns table (user_id bigint, run_id bigint, logical_time timestamptz, market_value numeric, cost_basis numeric, realized_pnl numeric)
language sql stable
begin atomic
  select r.user_id, r.run_id, t.logical_time,
         case when bool_or(p.quantity <> 0 and b.close is null) then engine.no_price(p_feed, t.logical_time)
              else coalesce(sum(round(p.quantity * b.close, engine.minor_unit(s.currency))), 0) end,
         coalesce(sum(p.cost_basis), 0),
         coalesce(sum(p.realized_pnl), 0)
    from (select p_user_ids as user_ids, p_run_ids as run_ids, p_times as times offset 0) a
   cross join unnest(a.user_ids, a.run_ids) r (user_id, run_id)
    join strategy_run s on s.user_id = r.user_id and s.run_id = r.run_id
   cross join unnest(a.times) t (logical_time)
    left join paper_position p on p.user_id = r.user_id and p.run_id = r.run_id
    left join lateral (select b.close from price_bar b
                        where p.quantity <> 0
                          and b.feed = p_feed and b.symbol = p.symbol and b.logical_time <= t.logical_time
                        order by b.logical_time desc limit 1) b on true
   group by r.user_id, r.run_id, t.logical_time;
end;

-- Both rows of every run and time given, from one valuation. Cash is read from engine_state: save it first.
-- writes: mtm_ledger, paper_equity_curve
create function engine.mark(p_user_ids bigint[], p_run_ids bigint[], p_feed text, p_times timestamptz[]) returns void
language plpgsql as $$
begin
  perform set_config('papertick.is_marking', 'yes', true);  -- see 95_triggers
  with mark as materialized (
    select m.* from engine.marks(p_user_ids, p_run_ids, p_feed, p_times) m
  ), mtm as (
    insert into mtm_ledger (user_id, run_id, logical_time, market_value, cost_basis, unrealized_pnl, realized_pnl)
    select m.user_id, m.run_id, m.logical_time, m.market_value, m.cost_basis, m.market_value - m.cost_basis, m.realized_pnl
      from mark m
  )
  insert into paper_equity_curve (user_id, run_id, logical_time, cash, market_value, equity)
  select m.user_id, m.run_id, m.logical_time, s.cash, m.market_value, s.cash + m.market_value
    from mark m
    join engine_state s on s.user_id = m.user_id and s.run_id = m.run_id;
  perform set_config('papertick.is_marking', '', true);
end $$;

-- The two halves alone, for a time that one of them has closed already, and for callers of a single step. An equity
-- row takes the market value of its mtm row where there is one, and the other way round: the ledgers agree even if a
-- bar was corrected in between.
-- writes: mtm_ledger
create function engine.mark_mtm(c engine.context, p_time timestamptz) returns boolean
language plpgsql as $$
begin
  insert into mtm_ledger (user_id, run_id, logical_time, market_value, cost_basis, unrealized_pnl, realized_pnl)
  select m.user_id, m.run_id, m.logical_time, v.market_value, m.cost_basis, v.market_value - m.cost_basis, m.realized_pnl
    from engine.marks(array[c.user_id], array[c.run_id], c.feed, array[p_time]) m
    left join paper_equity_curve e
      on e.user_id = m.user_id and e.run_id = m.run_id and e.logical_time = m.logical_time
   cross join lateral (select coalesce(e.market_value, m.market_value)) v (market_value)
  on conflict (user_id, run_id, logical_time) do nothing;
  return found;
end $$;

-- writes: paper_equity_curve
create function engine.mark_equity(c engine.context, p_time timestamptz) returns boolean
language plpgsql as $$
begin
  insert into paper_equity_curve (user_id, run_id, logical_time, cash, market_value, equity)
  select m.user_id, m.run_id, m.logical_time, c.cash, v.market_value, c.cash + v.market_value
    from engine.marks(array[c.user_id], array[c.run_id], c.feed, array[p_time]) m
    left join mtm_ledger l on l.user_id = m.user_id and l.run_id = m.run_id and l.logical_time = m.logical_time
   cross join lateral (select coalesce(l.market_value, m.market_value)) v (market_value)
  on conflict (user_id, run_id, logical_time) do nothing;
  return found;
end $$;

-- Mark every feed time in [p_from, p_to) at the present holdings and leave the run there.
-- writes: engine_state, mtm_ledger, paper_equity_curve
create function engine.mark_span(c engine.context, p_from timestamptz, p_to timestamptz) returns engine.context
language plpgsql as $$
declare
  v_times timestamptz[] := array(
    select distinct b.logical_time from price_bar b
     where b.feed = c.feed and b.logical_time >= p_from and b.logical_time < p_to order by b.logical_time);
begin
  c.last_logical_time := v_times[cardinality(v_times)];
  perform engine.save_state(c);
  perform engine.mark(array[c.user_id], array[c.run_id], c.feed, v_times);
  return c;
end $$;
