-- A run's marks in memory, freed of deposits. Reads only; nothing here feeds back into a ledger or a digest.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- A run's marks in order of time, as parallel arrays. indexes: equity with the flows after the first mark taken out,
-- null from where that has no meaning. opening: what had come in by the first mark.
create type engine.curve as (
  user_id bigint, run_id bigint, scale int, feed text, calendar text, times timestamptz[], equities numeric[], market_values numeric[],
  cash numeric, equity numeric, market_value numeric, since timestamptz, upto timestamptz,
  opening numeric, indexes numeric[]
);

-- Cash by the mark that counts it, the first one not before it: what came in from outside, and what trades took. A place
-- beyond the last mark is of none.
create function engine.flows(c engine.curve) returns table (place int, funded numeric, put_to_work numeric)
language plpgsql stable as $$
begin
  return query
  select 1 + width_bucket(coalesce(l.logical_time, '-infinity') - interval '1 microsecond', c.times),
         sum(l.amount) filter (where engine.is_external(l.cause)), -sum(l.amount) filter (where l.cause = 'TRADE')
    from cash_ledger l
   where l.user_id = c.user_id and l.run_id = c.run_id and (engine.is_external(l.cause) or l.cause = 'TRADE')
   group by 1;
end $$;

-- Money that came in between two marks is not earned: as in the time-weighted return, a mark's growth is
-- (equity - flow) / the equity before. Chained, the equities in between cancel out, and what is left is the equity times
-- (equity - flow) / equity of every mark with a flow: in 40 decimals and rounded to 20, so that what is level stays
-- level. Where no flow came, the index is the equity to the last digit.
create function engine.take_out_flows(c engine.curve) returns engine.curve
language plpgsql stable as $$
declare
  v_places int[];
  v_factors numeric[];
begin
  with flow as materialized (
    select f.place, f.funded as amount from engine.flows(c) f where f.funded is not null
  ), factor as (
    select f.place, case when e.equity > 0 and e.equity > f.amount then (e.equity - f.amount)::numeric(80, 40) / e.equity end as factor
      from flow f
     cross join lateral (select c.equities[f.place] as equity) e
     where f.place between 2 and cardinality(c.times) and f.amount <> 0
  ), chained as (
    select f.place, case when count(*) over w = count(f.factor) over w then exp(sum(ln(f.factor)) over w) end as factor
      from factor f window w as (order by f.place)
  )
  select (select sum(f.amount) from flow f where f.place = 1), array_agg(k.place order by k.place), array_agg(k.factor order by k.place)
    into c.opening, v_places, v_factors
    from chained k;
  c.indexes := c.equities;
  if v_places is not null then
    select array_agg(case when u.n < v_places[1] then u.equity else round(u.equity * v_factors[width_bucket(u.n::int, v_places)], 20) end order by u.n)
      into c.indexes
      from unnest(c.equities) with ordinality u (equity, n);
  end if;
  return c;
end $$;

create function engine.read_curve(p_user_id bigint, p_run_id bigint) returns engine.curve
language plpgsql stable as $$
declare
  c engine.curve;
begin
  select r.user_id, r.run_id, engine.minor_unit(r.currency), r.feed, f.calendar into c.user_id, c.run_id, c.scale, c.feed, c.calendar
    from strategy_run r join feed f on f.feed = r.feed where r.user_id = p_user_id and r.run_id = p_run_id;
  select array_agg(e.logical_time order by e.logical_time), array_agg(e.equity order by e.logical_time),
         array_agg(e.market_value order by e.logical_time), (array_agg(e.cash order by e.logical_time desc))[1]
    into c.times, c.equities, c.market_values, c.cash
    from engine.equity_between(p_user_id, p_run_id, null, null) e;
  if c.times is null then
    return c;
  end if;
  c.since := c.times[1];
  c.upto := c.times[cardinality(c.times)];
  c.equity := c.equities[cardinality(c.times)];
  c.market_value := c.market_values[cardinality(c.times)];
  return engine.take_out_flows(c);
end $$;

-- The same of the first mark and the last alone, for what asks no more of a curve.
create function engine.read_ends(p_user_id bigint, p_run_id bigint) returns engine.curve
language plpgsql stable as $$
declare
  c engine.curve;
  v_first timestamptz;
  v_last timestamptz;
begin
  select r.user_id, r.run_id, engine.minor_unit(r.currency), r.feed into c.user_id, c.run_id, c.scale, c.feed
    from strategy_run r where r.user_id = p_user_id and r.run_id = p_run_id;
  select min(e.logical_time), max(e.logical_time) into c.since, c.upto
    from paper_equity_curve e where e.user_id = p_user_id and e.run_id = p_run_id;
  select s.first_logical_time, s.last_logical_time into v_first, v_last
    from engine_state s join strategy_run r on r.user_id = s.user_id and r.run_id = s.run_id
   where s.user_id = p_user_id and s.run_id = p_run_id and r.mark_policy <> 'EVERY_TICK';
  if v_last is not null then   -- what is not stored is computed, at every bar's time
    select least(c.since, min(b.logical_time)), greatest(c.upto, max(b.logical_time)) into c.since, c.upto
      from price_bar b where b.feed = c.feed and b.logical_time >= v_first and b.logical_time <= v_last;
  end if;
  if c.upto is not null then
    c.times := array[c.since, c.upto];
    select e.cash, e.market_value, e.equity into c.cash, c.market_value, c.equity from engine.equity_at(p_user_id, p_run_id, c.upto) e;
  end if;
  return c;
end $$;
