-- Many runs against each other, by one number of each.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- One metric of a run, to the digits that performance shows, and nothing read for the others.
create function engine.measure_of(p_user_id bigint, p_run_id bigint, p_metric text) returns engine.measure
language plpgsql stable as $$
declare
  v_measure engine.measure;
begin
  select trim_scale(round((m.measure).value, 8)), (m.measure).reason into v_measure.value, v_measure.reason
    from engine.performance_measures(p_user_id, p_run_id, p_metric) m;
  return v_measure;
end $$;

-- Who is best. Each run's one metric is judged; the other numbers are made only of the runs that are shown.
create function engine.leaderboard(p_metric text, p_feed text, p_limit bigint, p_name_like text, p_user_like text, p_user_ids bigint[])
returns table (rank bigint, user_id bigint, user_name text, run_id bigint, name text, feed text, currency text, status text,
               last_logical_time timestamptz, metric text, value numeric, reason text,
               funded numeric, cash numeric, market_value numeric, equity numeric, bought numeric, sold numeric, fees numeric, trades numeric,
               realized_pnl numeric, unrealized_pnl numeric, hit_rate numeric, exposure numeric, turnover numeric, xirr numeric,
               xirr_invested numeric, twr numeric, cagr numeric, max_drawdown numeric, calmar numeric, best_period numeric,
               worst_period numeric, volatility numeric, sharpe numeric, sortino numeric, reasons jsonb)
language plpgsql stable as $$
declare
  v_sign constant int := (select case when m.is_least_best then -1 else 1 end from engine.metrics() m where m.metric = p_metric);
begin
  perform engine.require(v_sign is not null,
    format('argument=metric value=%s must_be=%s', p_metric, (select string_agg(m.metric, '|') from engine.metrics() m)));
  perform engine.require(coalesce(p_limit >= 0, true), format('argument=limit value=%s must_be=at_least_0', p_limit));
  if not exists (select from feed f where f.feed = coalesce(p_feed, f.feed)) then
    perform engine.refuse('TE201', format('feed=%s', p_feed));
  end if;
  return query
  with judged as materialized (
    select r.user_id, r.run_id, engine.measure_of(r.user_id, r.run_id, p_metric) as measure
      from strategy_run r
     where (p_user_ids is null or r.user_id = any (p_user_ids)) and (p_feed is null or r.feed = p_feed)
       and (p_name_like is null or r.name like p_name_like)
       and (p_user_like is null or r.user_id in (select u.user_id from app_user u where u.name like p_user_like))
  ), ranked as materialized (
    select row_number() over (order by v_sign * (j.measure).value desc nulls last, j.user_id, j.run_id) as rank, j.*
      from judged j
     order by 1 limit p_limit
  )
  select k.rank, k.user_id, u.name, k.run_id, r.name, r.feed, r.currency, r.status, s.last_logical_time::timestamptz,
         p_metric, (k.measure).value, (k.measure).reason, n.*, x.reasons
    from ranked k
    join strategy_run r on r.user_id = k.user_id and r.run_id = k.run_id
    join app_user u on u.user_id = k.user_id
    left join engine_state s on s.user_id = k.user_id and s.run_id = k.run_id
   cross join lateral (
     select jsonb_object_agg(m.metric, trim_scale(round((m.measure).value, 8))) as numbers,
            coalesce(jsonb_object_agg(m.metric, (m.measure).reason) filter (where (m.measure).value is null), '{}') as reasons
       from engine.performance_measures(k.user_id, k.run_id) m offset 0) x
   cross join lateral jsonb_to_record(x.numbers) as n (
     funded numeric, cash numeric, market_value numeric, equity numeric, bought numeric, sold numeric, fees numeric, trades numeric,
     realized_pnl numeric, unrealized_pnl numeric, hit_rate numeric, exposure numeric, turnover numeric, xirr numeric,
     xirr_invested numeric, twr numeric, cagr numeric, max_drawdown numeric, calmar numeric, best_period numeric,
     worst_period numeric, volatility numeric, sharpe numeric, sortino numeric)
   order by k.rank;
end $$;
