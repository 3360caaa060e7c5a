-- How a run's equity went: its curve freed of deposits, its falls, and what its daily returns come to.
-- Reads only; nothing here feeds back into a ledger or a digest.
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

-- Why a return has no meaning over the whole curve, null if it has one: capital that was nothing or less cannot grow,
-- though the last mark may have come to nothing.
create function engine.return_reason(c engine.curve) returns text
language sql immutable
return case when c.times is null then 'NO_MARK'
            when (0 < all (c.indexes[: cardinality(c.indexes) - 1]) and c.indexes[cardinality(c.indexes)] >= 0) is not true then 'EQUITY_NOT_POSITIVE' end;

-- How many times the opening the curve ends at, flows taken out; the opening counts at the first mark.
create function engine.growth_measure(c engine.curve) returns engine.measure
language plpgsql immutable as $$
declare
  v_reason text := coalesce(engine.return_reason(c), case when c.opening > 0 then null else 'NOT_FUNDED' end);
begin
  return engine.measured(case when v_reason is null then c.indexes[cardinality(c.indexes)] / c.opening end, v_reason);
end $$;

-- Time-weighted return: equity growth between external flows, chained. Rounded here, so that cagr is the yearly rate of
-- the return that is shown.
create function engine.time_weighted_measure(c engine.curve) returns engine.measure
language plpgsql immutable as $$
declare
  v_growth engine.measure := engine.growth_measure(c);
begin
  return engine.measured(round(v_growth.value - 1, 8), v_growth.reason);
end $$;

-- How far an index stands below its high so far, as a negative share of that high.
create function engine.fall_from(p_index numeric, p_high numeric) returns numeric
language sql immutable return case when p_high > 0 then p_index / p_high - 1 end;

-- Every fall of the index below an earlier high: from the last mark at that high, to the first mark at the lowest, to
-- the first that is as high again. depth is a negative share of the high.
create function engine.drawdowns(c engine.curve) returns table (peak_time timestamptz, trough_time timestamptz, recovery_time timestamptz, depth numeric)
language sql immutable
begin atomic
  with mark as (
    select u.at, u.index, max(u.index) over (order by u.at) as high
      from unnest((c).times, (c).indexes) u (at, index) where u.index is not null
  ), fall as (
    select m.at, engine.fall_from(m.index, m.high) as depth, count(*) filter (where m.index = m.high) over (order by m.at) as fall
      from mark m where m.high > 0
  )
  select f.peak_time, f.trough_time, f.recovery_time, f.depth
    from (select min(f.at) as peak_time, (array_agg(f.at order by f.depth, f.at))[1] as trough_time,
                 lead(min(f.at)) over (order by f.fall) as recovery_time, min(f.depth) as depth
            from fall f group by f.fall) f
   where f.depth < 0;
end;

create function engine.max_drawdown_measure(c engine.curve) returns engine.measure
language plpgsql immutable as $$
begin
  if c.times is null then
    return engine.measured(null, 'NO_MARK');
  elsif array_position(c.indexes, null) is not null or (0 < any (c.indexes)) is not true then
    return engine.measured(null, 'EQUITY_NOT_POSITIVE');
  end if;
  return engine.measured((select coalesce(min(d.depth), 0) from engine.drawdowns(c) d), null);
end $$;

-- The deepest first.
create function engine.drawdowns(p_user_id bigint, p_run_id bigint)
returns table (peak_time timestamptz, trough_time timestamptz, recovery_time timestamptz, depth numeric)
language plpgsql stable as $$
declare
  c engine.curve := engine.read_curve(p_user_id, p_run_id);
begin
  return query select d.peak_time, d.trough_time, d.recovery_time, trim_scale(round(d.depth, 8)) from engine.drawdowns(c) d order by d.depth, d.peak_time;
end $$;

-- The last mark of each session. One after the calendar's end, which only raw rows can make, is of one more.
create function engine.session_marks(c engine.curve) returns table (at timestamptz, index numeric)
language plpgsql stable as $$
begin
  return query
  select m.at, m.index
    from (select u.at, u.index, lead(u.at) over w is null or s.close_at is distinct from lead(s.close_at) over w as is_last
            from unnest(c.times, c.indexes) u (at, index)
            left join lateral engine.session_by(c.calendar, u.at) s on true
          window w as (order by u.at)) m
   where m.is_last;
end $$;

-- What the returns between the last marks of consecutive sessions come to; the part before the first such mark has no
-- length and is none of them. Annualised by how many of them there are in a 365-day year of this curve, so that a market
-- of 252 days, one of 365 and a weekly feed are treated alike.
-- volatility: sample standard deviation (n - 1), by the root of that number. sharpe: mean over standard deviation, likewise;
-- riskless rate 0 (Sharpe, "The Sharpe Ratio", 1994). sortino: mean over downside deviation, which is the root of the
-- mean square over all returns, gains counted as 0 (Sortino and Price, 1994). These are empyrical's definitions.
create function engine.period_measures(c engine.curve) returns table (metric text, measure engine.measure)
language plpgsql stable as $$
declare
  v_reason text := engine.return_reason(c);
  v_count bigint;
  v_span interval;
  v_mean numeric;
  v_deviation numeric;
  v_downside numeric;
  v_root numeric;
  v_best numeric;
  v_worst numeric;
begin
  if v_reason is null then
    select count(r.return), max(r.at) - min(r.at), avg(r.return), stddev_samp(r.return),
           sqrt(avg(least(r.return, 0) ^ 2) filter (where r.return is not null)), max(r.return), min(r.return)
      into v_count, v_span, v_mean, v_deviation, v_downside, v_best, v_worst
      from (select d.at, round(d.index / lag(d.index) over (order by d.at) - 1, 16) as return
              from engine.session_marks(c) d) r;
    v_reason := case when v_count = 0 then 'TOO_FEW_PERIODS' end;
  end if;
  return query values ('best_period', engine.measured(v_best, v_reason)), ('worst_period', engine.measured(v_worst, v_reason));
  v_reason := coalesce(v_reason, case when v_count < 2 then 'TOO_FEW_PERIODS' when v_span < interval '24 hours' then 'SHORT_SPAN' end);
  if v_reason is null then
    v_root := sqrt(v_count * 365 * 86400 / extract(epoch from v_span));
  end if;
  return query values
    ('volatility', engine.measured(v_deviation * v_root, v_reason)),
    ('sharpe', engine.measured(v_mean / nullif(v_deviation, 0) * v_root, coalesce(v_reason, 'NO_VARIATION'))),
    ('sortino', engine.measured(v_mean / nullif(v_downside, 0) * v_root, coalesce(v_reason, 'NO_DOWNSIDE')));
end $$;

-- calmar: yearly return over the worst fall (Young, 1991), here over the whole run.
create function engine.calmar_measure(p_cagr engine.measure, p_max_drawdown engine.measure) returns engine.measure
language sql immutable
return engine.measured(p_cagr.value / nullif(-p_max_drawdown.value, 0),
                       coalesce(p_cagr.reason, p_max_drawdown.reason, 'NO_DRAWDOWN'));

-- A mark holds until the next one. exposure: how much of the equity stood in holdings, on average over time. turnover:
-- the lesser of bought and sold over the average equity, a year (as the SEC's Form N-1A, item 13, but over all equity).
create function engine.exposure_measures(c engine.curve, p_bought numeric, p_sold numeric) returns table (metric text, measure engine.measure)
language plpgsql immutable as $$
declare
  v_reason text := case when c.times is null then 'NO_MARK' when c.upto = c.since then 'SHORT_SPAN'
                        when 0 >= any (c.equities[: cardinality(c.equities) - 1]) then 'EQUITY_NOT_POSITIVE' end;
  v_equity numeric;
  v_exposure numeric;
  v_seconds numeric := extract(epoch from c.upto - c.since);
begin
  if v_reason is null then
    select sum(m.equity * m.seconds) / v_seconds, sum(m.market_value / m.equity * m.seconds) / v_seconds into v_equity, v_exposure
      from (select u.equity, u.market_value, extract(epoch from lead(u.at) over (order by u.at) - u.at) as seconds
              from unnest(c.times, c.equities, c.market_values) u (at, equity, market_value)) m
     where m.seconds > 0;
  end if;
  return query values
    ('exposure', engine.measured(v_exposure, v_reason)),
    ('turnover', engine.measured(case when v_seconds >= 86400 then least(p_bought, p_sold) / v_equity * 365 * 86400 / v_seconds end,
                                 coalesce(v_reason, 'SHORT_SPAN')));
end $$;
