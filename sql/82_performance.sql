-- What the run earned. Reads only; nothing here feeds back into a ledger or a digest.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Net present value of flows at the rate r, p_log_rate = ln(1 + r), up to a positive factor: the largest discount
-- factor is divided out, so that no rate overflows and the sign is right.
create function engine.net_present_value(p_years float8[], p_amounts float8[], p_log_rate float8) returns float8
language sql immutable
begin atomic
  select sum(f.amount * exp(greatest(-p_log_rate * f.years - greatest(0, -p_log_rate * l.longest), -700)))
    from unnest(p_years, p_amounts) f (years, amount)
   cross join (select max(y) as longest from unnest(p_years) y) l;
end;

-- Where the net present value changes its sign: an interval of ln(1 + r) around the one root, null when there is none
-- or not exactly one. Flows that change direction once have one root, found by widening. Others may have several:
-- they are counted on a grid from -99.995 % to 2,200,000 %, and more than one is no answer.
create function engine.xirr_bracket(p_years float8[], p_amounts float8[]) returns float8[]
language plpgsql immutable as $$
declare
  v_turns bigint := (select count(*) from (select sign(u.a) <> lag(sign(u.a)) over (order by u.n) as is_turn
                                          from unnest(p_amounts) with ordinality u (a, n)) t where t.is_turn);
  v_bound float8 := 1::float8;
  v_bracket float8[];
begin
  if v_turns <> 1 then
    select case when count(*) = 1 then max(array[g.x - 0.05::float8, g.x]) end into v_bracket
      from (select i / 20.0::float8 as x, engine.net_present_value(p_years, p_amounts, i / 20.0::float8) as value,
                   lag(engine.net_present_value(p_years, p_amounts, i / 20.0::float8)) over (order by i) as previous
              from generate_series(-200, 200) i) g
     where sign(g.value) <> sign(g.previous);
    return v_bracket;
  end if;
  while v_bound <= 512 loop
    if sign(engine.net_present_value(p_years, p_amounts, -v_bound)) <> sign(engine.net_present_value(p_years, p_amounts, v_bound)) then
      return array[-v_bound, v_bound];
    end if;
    v_bound := v_bound * 2;
  end loop;
  return null;
end $$;

-- XIRR: the yearly rate r that solves sum(amount_i / (1 + r)^(days_i / 365)) = 0, flows seen from the investor's
-- pocket (money in negative), days counted exactly from the first flow. Flows of one instant are summed first. Null
-- when there is no answer to give: one instant, one direction only, no root or several. Bisection cannot diverge.
create function engine.xirr(p_times timestamptz[], p_amounts numeric[]) returns numeric
language plpgsql immutable as $$
declare
  v_years float8[];
  v_amounts float8[];
  v_bracket float8[];
  v_middle float8;
  v_sign float8;
begin
  select array_agg((extract(epoch from f.t - f.first) / (365 * 86400))::float8 order by f.t), array_agg(f.amount::float8 order by f.t)
    into v_years, v_amounts
    from (select u.t, sum(u.amount) as amount, min(u.t) over () as first
            from unnest(p_times, p_amounts) u (t, amount) group by u.t) f
   where f.amount <> 0;
  if (0 > any (v_amounts) and 0 < any (v_amounts)) is not true then
    return null;
  end if;
  v_bracket := engine.xirr_bracket(v_years, v_amounts);
  v_sign := sign(engine.net_present_value(v_years, v_amounts, v_bracket[1]));
  for i in 1 .. 70 loop
    v_middle := (v_bracket[1] + v_bracket[2]) / 2;
    if sign(engine.net_present_value(v_years, v_amounts, v_middle)) = v_sign then
      v_bracket[1] := v_middle;
    else
      v_bracket[2] := v_middle;
    end if;
  end loop;
  return round((exp(v_middle) - 1)::numeric, 8);
end $$;

-- The worst fall of equity from an earlier high, as a negative share; 0 when it never fell.
create function engine.max_drawdown(p_equities numeric[]) returns numeric
language sql immutable
begin atomic
  select round(min(d.equity / d.high - 1), 8)
    from (select u.equity, max(u.equity) over (order by u.n) as high from unnest(p_equities) with ordinality u (equity, n)) d
   where d.high > 0;
end;

-- Time-weighted return: equity growth between external flows, chained. An entry that no trade made is a flow; the
-- opening counts at the first mark.
create function engine.time_weighted_return(p_user_id bigint, p_run_id bigint, p_times timestamptz[], p_equities numeric[]) returns numeric
language sql stable
begin atomic
  with flow as materialized (
    select coalesce(l.logical_time, '-infinity') as logical_time, l.amount
      from cash_ledger l where l.user_id = p_user_id and l.run_id = p_run_id and l.trade_id is null
  ), mark as (
    select u.logical_time, u.equity, lag(u.equity) over w as previous, lag(u.logical_time) over w as previous_time
      from unnest(p_times, p_equities) u (logical_time, equity)
    window w as (order by u.logical_time)
  )
  select case when min(g.growth) = 0 and count(*) = count(g.growth) then -1
              when min(g.growth) > 0 and count(*) = count(g.growth) then round(exp(sum(ln(case when g.growth > 0 then g.growth end) order by g.logical_time)) - 1, 8) end
    from (select m.logical_time,
                 case when m.previous is null then m.equity / nullif(f.amount, 0)
                      else (m.equity - f.amount) / nullif(m.previous, 0) end as growth
            from mark m
           cross join lateral (select coalesce(sum(f.amount), 0) as amount from flow f
                                where f.logical_time <= m.logical_time
                                  and (m.previous_time is null or f.logical_time > m.previous_time)) f) g;
end;

-- CAGR: the return p_return over p_span as a rate a 365-day year; null for less than a day, or beyond what a float holds.
create function engine.annual_rate(p_return numeric, p_span interval) returns numeric
language plpgsql immutable as $$
declare
  v_log numeric;
begin
  if p_return <= -1 or p_span < interval '24 hours' then
    return case when p_return = -1 and p_span >= interval '24 hours' then -1::numeric end;
  end if;
  v_log := ln(1 + p_return) * 365 * 86400 / extract(epoch from p_span);
  return case when v_log < 700 then round((exp(greatest(v_log, -700)::float8) - 1)::numeric, 8) end;
end $$;

create function engine.performance(p_user_id bigint, p_run_id bigint) returns table (metric text, value numeric)
language plpgsql stable as $$
declare
  v_times timestamptz[];
  v_equities numeric[];
  v_from timestamptz;
  v_to timestamptz;
  v_first numeric;
  v_equity numeric;
  v_market_value numeric;
  v_cash numeric;
  v_twr numeric;
  v_scale int := (select engine.minor_unit(r.currency) from strategy_run r where r.user_id = p_user_id and r.run_id = p_run_id);
begin
  select array_agg(e.logical_time order by e.logical_time), array_agg(e.equity order by e.logical_time),
         min(e.logical_time), max(e.logical_time), (array_agg(e.equity order by e.logical_time desc))[1],
         (array_agg(e.market_value order by e.logical_time desc))[1], (array_agg(e.cash order by e.logical_time desc))[1]
    into v_times, v_equities, v_from, v_to, v_equity, v_market_value, v_cash
    from engine.equity_between(p_user_id, p_run_id, null, null) e;
  v_twr := engine.time_weighted_return(p_user_id, p_run_id, v_times, v_equities);
  select sum(l.amount) into v_first
    from cash_ledger l where l.user_id = p_user_id and l.run_id = p_run_id and l.trade_id is null;

  return query
  with flow as (
    select coalesce(l.logical_time, v_from) as t, l.amount, l.trade_id is null as is_external
      from cash_ledger l
     where l.user_id = p_user_id and l.run_id = p_run_id and coalesce(l.logical_time, v_from) <= v_to
  ), trade as (
    select coalesce(sum(t.fees), 0) as fees, count(*) as trades,
           coalesce(sum(engine.value(t.quantity, t.price, v_scale)) filter (where t.side = 'BUY'), 0) as bought,
           coalesce(sum(engine.value(t.quantity, t.price, v_scale)) filter (where t.side = 'SELL'), 0) as sold
      from paper_trade t
     where t.user_id = p_user_id and t.run_id = p_run_id
  )
  select m.metric, trim_scale(m.value) from trade t cross join lateral (values
    ('funded', v_first),
    ('cash', v_cash),
    ('market_value', v_market_value),
    ('equity', v_equity),
    ('bought', t.bought),
    ('sold', t.sold),
    ('fees', t.fees),
    ('trades', t.trades::numeric),
    ('xirr', (select engine.xirr(array_agg(f.t) || v_to, array_agg(-f.amount) || v_equity) from flow f where f.is_external)),
    ('xirr_invested', (select engine.xirr(array_agg(f.t) || v_to, array_agg(f.amount) || v_market_value) from flow f where not f.is_external)),
    ('twr', v_twr),
    ('cagr', engine.annual_rate(v_twr, v_to - v_from)),
    ('max_drawdown', engine.max_drawdown(v_equities))
  ) m (metric, value);
end $$;
