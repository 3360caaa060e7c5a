-- What a report shows over time: the curve beside the money that came in, its months, holdings with their average cost,
-- shares of the equity, prices, a benchmark. Reads only; every rule is asked of the files before. The views over it are 98_report_series.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- The curve, mark by mark. invested_capital: all that has come in from outside; put_to_work: what trades have taken, net;
-- growth: how many times the opening, flows taken out.
create function engine.curve_rows(c engine.curve)
returns table (logical_time timestamptz, cash numeric, market_value numeric, equity numeric, invested_capital numeric, put_to_work numeric,
               growth numeric, drawdown numeric)
language plpgsql stable as $$
declare
  v_places int[];
  v_funded numeric[];
  v_taken numeric[];
begin
  select array_agg(f.place order by f.place), array_agg(f.funded order by f.place), array_agg(f.taken order by f.place)
    into v_places, v_funded, v_taken
    from (select f.place, sum(f.funded) over w as funded, sum(f.put_to_work) over w as taken
            from engine.flows(c) f window w as (order by f.place)) f;
  return query
  select u.at, u.equity - u.market_value, u.market_value, u.equity, coalesce(v_funded[u.place], 0), coalesce(v_taken[u.place], 0),
         case when c.opening > 0 then u.index / c.opening end, engine.fall_from(u.index, max(u.index) over (order by u.n))
    from (select x.*, width_bucket(x.n::int, v_places) as place
            from unnest(c.times, c.equities, c.market_values, c.indexes) with ordinality x (at, equity, market_value, index, n)) u;
end $$;

-- Growth in each month or year (p_unit) of the market's dates, from the last mark of the one before: chained, they are
-- that of the whole run. A mark at midnight is of the day before.
create function engine.period_growth(c engine.curve, p_unit text) returns table (first_date date, growth engine.measure)
language plpgsql stable as $$
declare
  v_zone text := (select k.time_zone from calendar k where k.calendar = c.calendar);
  v_part engine.curve := c;
  v record;
begin
  for v in
    select date_trunc(p_unit, (u.at - interval '1 microsecond') at time zone v_zone)::date as first_date,
           array_agg(u.at order by u.n) as times, array_agg(u.index order by u.n) as indexes
      from unnest(c.times, c.indexes) with ordinality u (at, index, n) group by 1 order by 1
  loop
    v_part.times := v.times;
    v_part.indexes := v.indexes;
    return query select v.first_date, engine.growth_measure(v_part);
    v_part.opening := v.indexes[cardinality(v.indexes)];
  end loop;
end $$;

-- What became of each symbol's units, change by change: trades by the rule that booked them, splits as the ledger has them.
-- cost_basis is null where units came by other ways.
create function engine.holding_steps(p_user_id bigint, p_run_id bigint)
returns table (symbol text, ordinal bigint, logical_time timestamptz, trade_id bigint, quantity numeric, cost_basis numeric, average_cost numeric)
language sql stable
begin atomic
  with step as (
    select g.symbol, g.logical_time, g.trade_id, null as event_key, g.held, g.cost, 0::numeric as units, 0::numeric as taken
      from strategy_run r
     cross join lateral engine.trade_gains(r.user_id, r.run_id, engine.minor_unit(r.currency)) g
     where r.user_id = p_user_id and r.run_id = p_run_id
    union all
    select e.payload ->> 'symbol', e.logical_time, null, e.event_key, 0, 0, (e.payload ->> 'units')::numeric, coalesce((e.payload ->> 'cost')::numeric, 0)
      from event_ledger e where e.user_id = p_user_id and e.run_id = p_run_id and e.event_type = 'SPLIT'
  ), numbered as (   -- at one time splits come first; era: the trade that a split comes after
    select s.*, row_number() over w as ordinal, count(s.trade_id) over w as era
      from step s window w as (partition by s.symbol order by s.logical_time, s.trade_id nulls first, s.event_key collate "C")
  ), held as (
    select n.symbol, n.ordinal, n.logical_time, n.trade_id,
           first_value(n.held) over e + sum(n.units) over e as quantity, first_value(n.cost) over e - sum(n.taken) over e as cost_basis
      from numbered n window e as (partition by n.symbol, n.era order by n.ordinal)
  )
  select h.symbol, h.ordinal, h.logical_time, h.trade_id, h.quantity, h.cost_basis, round(h.cost_basis / nullif(h.quantity, 0), 8)
    from held h;
end;

-- Splits and dividends of a symbol with their bar times up to p_to, by the rule of due_actions: the symbol's first bar
-- on or after the date. None on a feed of adjusted prices.
create function engine.actions_of(p_feed text, p_symbol text, p_to timestamptz)
returns table (logical_time timestamptz, ex_date date, action_type text, numerator int, denominator int, amount numeric)
language plpgsql stable as $$
begin
  return query
  select b.logical_time::timestamptz, x.ex_date, x.action_type, x.ratio_numerator, x.ratio_denominator, x.amount::numeric
    from feed f
    join calendar k on k.calendar = f.calendar
    join corporate_action x on x.symbol = p_symbol and x.ex_date <= (p_to at time zone k.time_zone)::date
   cross join lateral (select p.logical_time from price_bar p
                        where p.feed = f.feed and p.symbol = x.symbol and p.logical_time > (x.ex_date::timestamp at time zone k.time_zone)
                        order by p.logical_time limit 1) b
   where f.feed = p_feed and not f.adjusted and b.logical_time <= p_to
   order by b.logical_time, x.ex_date, x.action_type desc;
end $$;

-- Splits of a symbol up to p_to by their bar times, each with what it and all later ones make of one unit.
create function engine.split_factors(p_feed text, p_symbol text, p_to timestamptz, out times timestamptz[], out factors numeric[])
language plpgsql stable as $$
declare
  v record;
  v_factor numeric := 1::numeric;
begin
  for v in select a.logical_time, a.numerator, a.denominator from engine.actions_of(p_feed, p_symbol, p_to) a
            where a.action_type = 'SPLIT' order by a.logical_time desc, a.ex_date desc loop
    v_factor := round(v_factor * v.numerator / v.denominator, 12);
    times := v.logical_time || times;
    factors := v_factor || factors;
  end loop;
end $$;

-- Bars of a symbol from the run's first tick to its last, beside what it held of it. split_factor: units at the last
-- tick for one of then, so that close / split_factor is the price in today's units.
create function engine.price_rows(p_user_id bigint, p_run_id bigint, p_symbol text)
returns table (logical_time timestamptz, close numeric, split_factor numeric, quantity numeric, average_cost numeric)
language plpgsql stable as $$
declare
  v_feed text := (select r.feed from strategy_run r where r.user_id = p_user_id and r.run_id = p_run_id);
  s engine_state;
  f record;
begin
  select * into s from engine_state x where x.user_id = p_user_id and x.run_id = p_run_id;
  select * into f from engine.split_factors(v_feed, p_symbol, s.last_logical_time);
  return query
  with step as (   -- changes of the holding before the bar of their time; each is that of the bars up to the next
    select h.logical_time, h.ordinal, null::numeric as close, h.quantity, h.average_cost from engine.holding_steps(p_user_id, p_run_id) h where h.symbol = p_symbol
    union all
    select p.logical_time, null, p.close, null, null from price_bar p
     where p.feed = v_feed and p.symbol = p_symbol and p.logical_time between s.first_logical_time and s.last_logical_time
  ), spread as (
    select e.*, count(e.ordinal) over (order by e.logical_time, e.ordinal nulls last) as era from step e
  )
  select e.logical_time, e.close, coalesce(f.factors[1 + width_bucket(e.logical_time, f.times)], 1), coalesce(e.held, 0), e.cost
    from (select x.logical_time, x.close, x.ordinal, first_value(x.quantity) over w as held, first_value(x.average_cost) over w as cost
            from spread x window w as (partition by x.era order by x.ordinal nulls last)) e
   where e.ordinal is null
   order by e.logical_time;
end $$;

-- What the run held at these times, which are in order, at the closes of then: a row a symbol, and one of cash (symbol null).
create function engine.allocation_rows(p_user_id bigint, p_run_id bigint, p_times timestamptz[])
returns table (logical_time timestamptz, symbol text, quantity numeric, market_value numeric, share numeric)
language plpgsql stable as $$
begin
  return query
  select v.at, v.symbol, v.quantity, v.value, round(v.value / nullif(sum(v.value) over (partition by v.at), 0), 8)
    from (select t.at::timestamptz as at, h.symbol, h.quantity, engine.value(h.quantity, b.close, s.scale) as value
            from strategy_run r
           cross join unnest(engine.past_spans(p_user_id, p_run_id, p_times)) s
           cross join unnest(s.times) t (at)
           cross join unnest(s.symbols, s.quantities) h (symbol, quantity)
           cross join lateral (select b.close from price_bar b
                                where b.feed = r.feed and b.symbol = h.symbol and b.logical_time <= t.at
                                order by b.logical_time desc limit 1) b
           where r.user_id = p_user_id and r.run_id = p_run_id and h.quantity <> 0
          union all
          select t.at, null, null, s.cash
            from unnest(engine.past_spans(p_user_id, p_run_id, p_times)) s cross join unnest(s.times) t (at)) v
   order by v.at, v.symbol collate "C";
end $$;
