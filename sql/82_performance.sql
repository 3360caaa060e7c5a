-- What the run earned. Reads only; nothing here feeds back into a ledger or a digest.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- XIRR: the yearly rate r that solves sum(amount_i / (1 + r)^(days_i / 365)) = 0, flows seen from the investor's
-- pocket (money in negative), days counted exactly from the first flow. Flows of one instant are summed first. Null
-- when there is no answer to give: fewer than two instants, no change of sign, or more than one change of sign with no
-- single root in (-99.99 %, 1,000,000 %). Bisection on the logarithm of 1 + r: it cannot diverge.
create function engine.xirr(p_times timestamptz[], p_amounts numeric[]) returns numeric
language plpgsql immutable as $$
declare
  v_years float8[];
  v_amounts float8[];
  v_low float8 := ln(0.0001);
  v_high float8 := ln(10001);
  v_middle float8;
  v_value_low float8;
  v_value float8;
begin
  select array_agg(extract(epoch from f.t - min_t)::float8 / (365 * 86400) order by f.t), array_agg(f.amount::float8 order by f.t)
    into v_years, v_amounts
    from (select u.t, sum(u.amount) as amount, min(u.t) over () as min_t
            from unnest(p_times, p_amounts) u (t, amount) group by u.t) f
   where f.amount <> 0;
  if cardinality(v_years) < 2 or (0 > any (v_amounts) and 0 < any (v_amounts)) is not true then
    return null;
  end if;

  v_value_low := engine.net_present_value(v_years, v_amounts, v_low);
  if sign(v_value_low) = sign(engine.net_present_value(v_years, v_amounts, v_high)) then
    return null;
  end if;
  for i in 1 .. 100 loop
    v_middle := (v_low + v_high) / 2;
    v_value := engine.net_present_value(v_years, v_amounts, v_middle);
    if sign(v_value) = sign(v_value_low) then
      v_low := v_middle;
    else
      v_high := v_middle;
    end if;
  end loop;
  return round((exp((v_low + v_high) / 2) - 1)::numeric, 8);
end $$;

-- p_log_rate = ln(1 + r)
create function engine.net_present_value(p_years float8[], p_amounts float8[], p_log_rate float8) returns float8
language sql immutable
begin atomic
  select sum(f.amount * exp(-p_log_rate * f.years)) from unnest(p_years, p_amounts) f (years, amount);
end;

-- The worst fall of equity from an earlier high, as a negative share; 0 when it never fell.
create function engine.max_drawdown(p_user_id bigint, p_run_id bigint) returns numeric
language sql stable
begin atomic
  select round(min(d.equity / d.high - 1), 8)
    from (select e.equity, max(e.equity) over (order by e.logical_time) as high
            from paper_equity_curve e where e.user_id = p_user_id and e.run_id = p_run_id) d
   where d.high > 0;
end;

-- Time-weighted return: equity growth between external flows, chained. An entry that no trade made is a flow; the
-- opening counts at the first mark.
create function engine.time_weighted_return(p_user_id bigint, p_run_id bigint) returns numeric
language sql stable
begin atomic
  with flow as materialized (
    select coalesce(l.logical_time, '-infinity') as logical_time, l.amount
      from cash_ledger l where l.user_id = p_user_id and l.run_id = p_run_id and l.trade_id is null
  ), mark as (
    select e.logical_time, e.equity, lag(e.equity) over w as previous, lag(e.logical_time) over w as previous_time
      from paper_equity_curve e where e.user_id = p_user_id and e.run_id = p_run_id
    window w as (order by e.logical_time)
  )
  select case when count(*) = count(g.growth) filter (where g.growth > 0) and count(*) > 0
              then round(exp(sum(ln(g.growth) order by g.logical_time)) - 1, 8) end
    from (select m.logical_time,
                 case when m.previous is null then m.equity / nullif(f.amount, 0)
                      else (m.equity - f.amount) / nullif(m.previous, 0) end as growth
            from mark m
           cross join lateral (select coalesce(sum(f.amount), 0) as amount from flow f
                                where f.logical_time <= m.logical_time
                                  and (m.previous_time is null or f.logical_time > m.previous_time)) f) g;
end;

create function engine.performance(p_user_id bigint, p_run_id bigint) returns table (metric text, value numeric)
language plpgsql stable as $$
declare
  v_from timestamptz;
  v_to timestamptz;
  v_first numeric;
  v_equity numeric;
  v_market_value numeric;
  v_cash numeric;
begin
  perform engine.require_run(p_user_id, p_run_id);
  select min(e.logical_time), max(e.logical_time) into v_from, v_to
    from paper_equity_curve e where e.user_id = p_user_id and e.run_id = p_run_id;
  select e.equity, e.market_value, e.cash into v_equity, v_market_value, v_cash
    from paper_equity_curve e where e.user_id = p_user_id and e.run_id = p_run_id and e.logical_time = v_to;
  select sum(l.amount) into v_first
    from cash_ledger l where l.user_id = p_user_id and l.run_id = p_run_id and l.trade_id is null;

  return query
  with flow as (
    select coalesce(l.logical_time, v_from) as t, l.amount, l.trade_id is null as is_external
      from cash_ledger l where l.user_id = p_user_id and l.run_id = p_run_id
  ), trade as (
    select coalesce(sum(t.fees), 0) as fees, count(*) as trades,
           coalesce(sum(round(t.quantity * t.price, engine.minor_unit(r.currency))) filter (where t.side = 'BUY'), 0) as bought,
           coalesce(sum(round(t.quantity * t.price, engine.minor_unit(r.currency))) filter (where t.side = 'SELL'), 0) as sold
      from paper_trade t
      join strategy_run r on r.user_id = t.user_id and r.run_id = t.run_id
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
    ('twr', engine.time_weighted_return(p_user_id, p_run_id)),
    ('cagr', (select round(power((1 + r.twr)::float8, 365 * 86400 / nullif(extract(epoch from v_to - v_from), 0)::float8)::numeric - 1, 8)
                from (select engine.time_weighted_return(p_user_id, p_run_id) as twr) r where v_to - v_from >= interval '24 hours')),
    ('max_drawdown', engine.max_drawdown(p_user_id, p_run_id))
  ) m (metric, value);
end $$;
