-- How a run's equity went: its falls, and what its daily returns come to. Reads only.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

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
