-- Yearly rates: the money-weighted return of flows, and a return over a span as a rate a year. Pure functions.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- A number, or the coded reason why there is none. The rule that gives the one gives the other.
create type engine.measure as (value numeric, reason text);

-- The reason is kept only where there is no number. Measures are rounded where they are shown, since some stand on others.
create function engine.measured(p_value numeric, p_reason text) returns engine.measure
language sql immutable
return row(p_value, case when p_value is null then p_reason end)::engine.measure;

-- Net present value of flows at the rate r, p_log_rate = ln(1 + r), up to a positive factor: the largest discount
-- factor is divided out, so that no rate overflows and the sign is right.
create function engine.net_present_value(p_years float8[], p_amounts float8[], p_log_rate float8) returns float8
language sql immutable
begin atomic
  select sum(f.amount * exp(greatest(-p_log_rate * f.years - greatest(0, -p_log_rate * l.longest), -700)))
    from unnest(p_years, p_amounts) f (years, amount)
   cross join (select max(y) as longest from unnest(p_years) y) l;
end;

-- How many rates at most bring the present value of these amounts, in order of time, to nothing. Positive ones: as many
-- as the running sums from the first amount on have changes of sign; negative ones: those from the last one back; and
-- 0 %, if all sums to nothing (Laguerre, "Sur la théorie des équations numériques", 1883; Norstrom's rule is its case
-- of one change). The true number of each kind differs by an even one, so an answer of 0 or 1 is the true one. In numeric, not
-- in floats: cents must sum to nothing exactly.
create function engine.most_roots(p_amounts numeric[]) returns bigint
language sql immutable
begin atomic
  with flow as (
    select u.amount, u.n from unnest(p_amounts) with ordinality u (amount, n)
  ), running as (
    select 1 as way, f.n as place, sum(f.amount) over (order by f.n) as total from flow f
    union all
    select 2, -f.n, sum(f.amount) over (order by f.n desc) from flow f
  )
  select count(*) filter (where t.is_turn) + (select (sum(f.amount) = 0)::int from flow f)
    from (select sign(r.total) <> lag(sign(r.total)) over (partition by r.way order by r.place) as is_turn
            from running r where r.total <> 0) t;
end;

-- Every root between -p_bound and p_bound, ln(1 + r), as an interval of its own: [low, high, low, high, …]; null when
-- some lie too close to be told apart. Intervals are halved until each holds no root or one at most, which is proved and
-- not sampled: Taylor's series around the middle, its rest bounded by the third derivative, bounds the present value
-- and its slope over the whole interval. One keeps off zero: no root. The other does: one at most, and the signs at the
-- ends tell. Discounted from the first flow, or the last for negative rates, no term exceeds its amount. What floats
-- round off counts for nothing: a value within 1e-13 of all amounts may be a root that only touches.
create function engine.root_intervals(p_years float8[], p_amounts float8[], p_bound float8) returns float8[]
language plpgsql immutable as $$
declare
  v_longest float8 := (select max(y) from unnest(p_years) y);
  v_lows float8[] := array[-p_bound, 0];
  v_highs float8[] := array[0, p_bound];
  v_found float8[] := '{}'::float8[];
  v_new float8[];
begin
  for i in 1 .. 40 loop
    with part as (
      select p.low, p.high, (p.low + p.high) / 2 as middle, (p.high - p.low) / 2 as reach,
             abs(sum(m.v)) - 1e-13::float8 * sum(abs(m.v)) as value,
             abs(sum(m.v * f.t)) as slope, abs(sum(m.v * f.t * f.t)) as bend,
             sum(abs(f.amount * f.t * f.t * f.t) * exp(greatest(-f.t * case when p.low < 0 then p.high else p.low end, -600))) as rest
        from unnest(v_lows, v_highs) p (low, high)
       cross join lateral (select u.amount, u.years - case when p.low < 0 then v_longest else 0 end as t
                             from unnest(p_years, p_amounts) u (years, amount) offset 0) f
       cross join lateral (select f.amount * exp(greatest(-f.t * (p.low + p.high) / 2, -600)) as v) m
       group by p.low, p.high
    ), undecided as (
      select p.low, p.middle, p.high, p.slope > p.reach * p.bend + p.reach ^ 2 / 2 * p.rest as is_monotone
        from part p
       where p.value <= p.reach * p.slope + p.reach ^ 2 / 2 * p.bend + p.reach ^ 3 / 6 * p.rest
    )
    select (select array_agg(e.x order by e.x) from undecided u cross join unnest(array[u.low, u.high]) e (x)
             where u.is_monotone and (engine.net_present_value(p_years, p_amounts, u.low) > 0)
                                     <> (engine.net_present_value(p_years, p_amounts, u.high) > 0)),
           array_agg(h.low order by h.low), array_agg(h.high order by h.low)
      into v_new, v_lows, v_highs
      from undecided u
     cross join lateral (values (u.low, u.middle), (u.middle, u.high)) h (low, high)
     where not u.is_monotone;
    v_found := v_found || coalesce(v_new, '{}'::float8[]);
    if v_lows is null or cardinality(v_found) > 2 then
      return v_found;
    end if;
    exit when cardinality(v_lows) > 1024;
  end loop;
  return null;
end $$;

-- Where the one root lies, as an interval of ln(1 + r), or why there is no such. A root that is certain to be the only
-- one is enclosed by widening. Others are counted: first among rates from -99.995 % to 2,200,000 %, where one is the
-- answer whatever may lie beyond. If there is none, flows of less than a year have another chance: the same range holds
-- of all that they grow by, not of a year's growth.
create function engine.xirr_bracket(p_years float8[], p_amounts numeric[], out bracket float8[], out reason text)
language plpgsql immutable as $$
declare
  v_most bigint := engine.most_roots(p_amounts);
  v_bound float8 := 1::float8;
begin
  if v_most = 0 then
    reason := 'NO_ROOT';
    return;
  end if;
  while v_bound <= 512 and v_most = 1 loop
    if sign(engine.net_present_value(p_years, p_amounts::float8[], -v_bound))
       <> sign(engine.net_present_value(p_years, p_amounts::float8[], v_bound)) then
      bracket := array[-v_bound, v_bound];
      return;
    end if;
    v_bound := v_bound * 2;
  end loop;
  if v_most = 1 then
    reason := 'RATE_OUT_OF_RANGE';
    return;
  end if;
  v_bound := 10;
  bracket := engine.root_intervals(p_years, p_amounts::float8[], v_bound);
  if bracket = '{}' then
    v_bound := least(512, greatest(10, 10 / (select max(y) from unnest(p_years) y)));
    bracket := engine.root_intervals(p_years, p_amounts::float8[], v_bound);
  end if;
  if bracket = '{}' then
    reason := case when engine.root_intervals(p_years, p_amounts::float8[], 512) = '{}' then 'NO_ROOT' else 'RATE_OUT_OF_RANGE' end;
  elsif cardinality(bracket) is distinct from 2 then
    reason := 'SEVERAL_ROOTS';
  end if;
end $$;

-- The one root of a bracket, to the last digit of a float, by inverse quadratic interpolation where three points admit it
-- and by the middle where they do not (Chandrupatla, "A new hybrid quadratic/bisection algorithm", 1997): it is never
-- slower than bisection by much, and mostly needs ten values instead of fifty. x1 is the latest point, the root lies
-- between it and x2, and x3 was the end before.
create function engine.root_within(p_years float8[], p_amounts float8[], p_bracket float8[]) returns float8
language plpgsql immutable as $$
declare
  x1 float8 := p_bracket[1];
  x2 float8 := p_bracket[2];
  x3 float8;
  f1 float8 := engine.net_present_value(p_years, p_amounts, x1);
  f2 float8 := engine.net_present_value(p_years, p_amounts, x2);
  f3 float8;
  v_x float8;
  v_value float8;
  v_place float8 := 0.5::float8;
  v_least float8;
begin
  for i in 1 .. 200 loop
    v_x := x1 + v_place * (x2 - x1);
    v_value := engine.net_present_value(p_years, p_amounts, v_x);
    if sign(v_value) = sign(f1) then
      x3 := x1;
      f3 := f1;
    else
      x3 := x2;
      f3 := f2;
      x2 := x1;
      f2 := f1;
    end if;
    x1 := v_x;
    f1 := v_value;
    v_least := 2e-16 * (1 + abs(x1)) / abs(x2 - x1);
    exit when f1 = 0 or v_least > 0.5;
    v_place := 0.5;
    if ((f1 - f2) / (f3 - f2)) ^ 2 < (x1 - x2) / (x3 - x2) and (1 - (f1 - f2) / (f3 - f2)) ^ 2 < 1 - (x1 - x2) / (x3 - x2) then
      v_place := f1 / (f2 - f1) * (f3 / (f2 - f3)) + (x3 - x1) / (x2 - x1) * (f1 / (f3 - f1)) * (f2 / (f3 - f2));
    end if;
    v_place := greatest(v_least, least(1 - v_least, v_place));
  end loop;
  return case when abs(f2) < abs(f1) then x2 else x1 end;
end $$;

-- XIRR: the yearly rate r that solves sum(amount_i / (1 + r)^(days_i / 365)) = 0, flows seen from the investor's
-- pocket (money in negative), days counted exactly from the first flow; as Excel's XIRR, but for the exact days. Flows
-- of one instant are summed first.
create function engine.xirr_measure(p_times timestamptz[], p_amounts numeric[]) returns engine.measure
language plpgsql immutable as $$
declare
  v_years float8[];
  v_amounts numeric[];
  v_bracket float8[];
  v_reason text;
begin
  select array_agg((extract(epoch from f.t - f.first) / (365 * 86400))::float8 order by f.t), array_agg(f.amount order by f.t)
    into v_years, v_amounts
    from (select u.t, sum(u.amount) as amount, min(u.t) over () as first
            from unnest(p_times, p_amounts) u (t, amount) group by u.t having sum(u.amount) <> 0) f;
  if (0 > any (v_amounts) and 0 < any (v_amounts)) is not true then
    return engine.measured(null, case when v_amounts is null then 'NO_FLOW' else 'ONE_DIRECTION_ONLY' end);
  end if;
  select b.bracket, b.reason into v_bracket, v_reason from engine.xirr_bracket(v_years, v_amounts) b;
  if v_reason is not null then
    return engine.measured(null, v_reason);
  end if;
  return engine.measured(round((exp(engine.root_within(v_years, v_amounts::float8[], v_bracket)) - 1)::numeric, 8), null);
end $$;

create function engine.xirr(p_times timestamptz[], p_amounts numeric[]) returns numeric
language sql immutable
return (engine.xirr_measure(p_times, p_amounts)).value;

-- CAGR: a return over a span as a rate a 365-day year. Less than a day says nothing about a year.
create function engine.annual_measure(p_return engine.measure, p_span interval) returns engine.measure
language plpgsql immutable as $$
declare
  v_log numeric;
begin
  if p_return.value is null then
    return p_return;
  elsif p_span < interval '24 hours' then
    return engine.measured(null, 'SHORT_SPAN');
  elsif p_return.value <= -1 then
    return engine.measured(-1, null);
  end if;
  v_log := ln(1 + p_return.value) * 365 * 86400 / extract(epoch from p_span);
  return engine.measured(case when v_log < 700 then (exp(greatest(v_log, -700)::float8) - 1)::numeric end, 'RATE_OUT_OF_RANGE');
end $$;
