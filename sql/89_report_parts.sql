-- The parts of a report as JSON, for run_report in 98_run_report: what the views have, series thinned out to what can be drawn.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Which of these values to draw: the first, the last, and in each of p_points equal parts the lowest and the highest, so
-- that no extreme is lost. All, if they are no more than that; p_points null = all.
create function engine.thinned(p_values numeric[], p_points int) returns int[]
language plpgsql immutable as $$
declare
  v_count int := coalesce(cardinality(p_values), 0);
begin
  if coalesce(v_count <= 2 * p_points, true) then
    return array(select generate_series(1, v_count));
  end if;
  return array(
    select 1 union select v_count
    union
    select unnest(array[(array_agg(u.n::int order by u.value, u.n))[1], (array_agg(u.n::int order by u.value desc, u.n))[1]])
      from unnest(p_values) with ordinality u (value, n)
     where u.value is not null group by (u.n - 1) * p_points / v_count
    order by 1);
end $$;

create function engine.report_run(p_user_id bigint, p_run_id bigint) returns jsonb
language plpgsql stable as $$
begin
  return (
    select to_jsonb(r) - 'forked_at' || jsonb_build_object(
             'user_name', u.name, 'calendar', f.calendar, 'time_zone', k.time_zone, 'adjusted', f.adjusted, 'minor_unit', engine.minor_unit(r.currency),
             'first_logical_time', engine.iso(s.first_logical_time), 'last_logical_time', engine.iso(s.last_logical_time),
             'forked_at', engine.iso(r.forked_at), 'max_price_age', r.max_price_age::text)
      from strategy_run r
      join app_user u on u.user_id = r.user_id
      join feed f on f.feed = r.feed
      join calendar k on k.calendar = f.calendar
      left join engine_state s on s.user_id = r.user_id and s.run_id = r.run_id
     where r.user_id = p_user_id and r.run_id = p_run_id);
end $$;

create function engine.report_measures(p_user_id bigint, p_run_id bigint) returns jsonb
language plpgsql stable as $$
begin
  return (
    select jsonb_build_object(
             'performance', jsonb_object_agg(m.metric, trim_scale(round((m.measure).value, 8))),
             'reasons', coalesce(jsonb_object_agg(m.metric, (m.measure).reason) filter (where (m.measure).value is null), '{}'))
      from engine.performance_measures(p_user_id, p_run_id) m);
end $$;

-- The curve and the benchmark beside it, thinned together: a point is one time of both.
create function engine.report_curve(c engine.curve, p_symbol text, p_points int) returns jsonb
language plpgsql stable as $$
declare
  v_benchmark numeric[] := case when p_symbol is not null then
    array(select b.value from engine.benchmark_rows(c, p_symbol) b order by b.logical_time) end;
begin
  return (
    with e as materialized (
      select r.*, row_number() over (order by r.logical_time) as n from engine.curve_rows(c) r
    ), k as materialized (
      select unnest(engine.thinned(c.equities, p_points)) as n
      union select unnest(engine.thinned(v_benchmark, p_points))
      union select unnest(engine.thinned((select array_agg(e.drawdown order by e.n) from e), p_points))
    )
    select jsonb_build_object(
             'marks', coalesce(cardinality(c.times), 0),
             'logical_time', coalesce(jsonb_agg(engine.iso(e.logical_time) order by e.n), '[]'),
             'cash', coalesce(jsonb_agg(e.cash order by e.n), '[]'), 'equity', coalesce(jsonb_agg(e.equity order by e.n), '[]'),
             'invested_capital', coalesce(jsonb_agg(e.invested_capital order by e.n), '[]'),
             'put_to_work', coalesce(jsonb_agg(e.put_to_work order by e.n), '[]'),
             'growth', coalesce(jsonb_agg(round(e.growth, 12) order by e.n), '[]'),
             'drawdown', coalesce(jsonb_agg(round(e.drawdown, 8) order by e.n), '[]'),
             'benchmark', case when p_symbol is not null then coalesce(jsonb_agg(b.value order by e.n), '[]') end)
      from e join k on k.n = e.n
      left join unnest(v_benchmark) with ordinality b (value, n) on b.n = e.n);
end $$;

-- One symbol's price in today's units, its average cost, and where the run traded; of many trades a spread of p_trades.
create function engine.report_symbol(p_user_id bigint, p_run_id bigint, p_symbol text, p_points int, p_trades int) returns jsonb
language plpgsql stable as $$
begin
  return jsonb_build_object('symbol', p_symbol) || (
    with p as materialized (
      select r.*, row_number() over (order by r.logical_time) as n from engine.price_rows(p_user_id, p_run_id, p_symbol) r
    )
    select jsonb_build_object(
             'bars', (select count(*) from p), 'logical_time', coalesce(jsonb_agg(engine.iso(p.logical_time) order by p.n), '[]'), 'close', coalesce(jsonb_agg(p.close order by p.n), '[]'),
             'split_factor', coalesce(jsonb_agg(p.split_factor order by p.n), '[]'), 'average_cost', coalesce(jsonb_agg(p.average_cost order by p.n), '[]'))
      from unnest(engine.thinned((select array_agg(p.close / p.split_factor order by p.n) from p), p_points)) k (n)
      join p on p.n = k.n) || engine.report_trades(p_user_id, p_run_id, p_symbol, p_trades);
end $$;

create function engine.report_trades(p_user_id bigint, p_run_id bigint, p_symbol text, p_trades int) returns jsonb
language plpgsql stable as $$
declare
  f record;
begin
  select x.* into f from strategy_run r join engine_state s on s.user_id = r.user_id and s.run_id = r.run_id
   cross join lateral engine.split_factors(r.feed, p_symbol, s.last_logical_time) x
   where r.user_id = p_user_id and r.run_id = p_run_id;
  return (
    select jsonb_build_object(
             'trades', count(*),
             'fills', coalesce(jsonb_agg(jsonb_build_object('logical_time', engine.iso(t.at), 'side', t.side, 'source', t.source, 'quantity', t.quantity,
               'price', t.price, 'split_factor', coalesce(f.factors[1 + width_bucket(t.at, f.times)], 1), 'cash', t.cash, 'average_cost', t.average_cost) order by t.trade_id)
               filter (where t.n = 1 or t.n = t.total or t.total <= p_trades or t.n * p_trades / t.total > (t.n - 1) * p_trades / t.total), '[]'))
      from (select u.trade_id, max(u.at) as at, max(u.side) as side, max(u.source) as source, max(u.quantity) as quantity, max(u.price) as price, max(u.cash) as cash,
                   max(u.average_cost) as average_cost, row_number() over (order by u.trade_id) as n, count(*) over () as total
              from (select t.trade_id, t.logical_time as at, t.side, t.source, t.quantity, t.price, t.cash, null::numeric as average_cost
                      from report_fill(p_user_id, p_run_id) t where t.symbol = p_symbol
                    union all
                    select h.trade_id, null, null, null, null, null, null, h.average_cost
                      from engine.holding_steps(p_user_id, p_run_id) h where h.symbol = p_symbol and h.trade_id is not null) u
             group by u.trade_id) t);
end $$;

-- Shares of the equity at some of the marks: cash, the symbols that were worth most, and all others together.
create function engine.report_shares(c engine.curve, p_points int, p_symbols int) returns jsonb
language plpgsql stable as $$
declare
  v_times timestamptz[] := array(select c.times[k] from unnest(engine.thinned(c.equities, p_points)) k order by k);
begin
  return (
    with held as materialized (
      select a.logical_time, a.symbol, a.market_value, a.share from engine.allocation_rows(c.user_id, c.run_id, v_times) a
    ), ranked as (
      select h.symbol, row_number() over (order by sum(abs(h.market_value)) desc, h.symbol collate "C") as place from held h where h.symbol is not null group by h.symbol
    ), shown as (
      select h.logical_time, case when h.symbol is null then 0 else least(k.place, p_symbols + 1) end as place, sum(h.market_value) as value, sum(h.share) as share
        from held h left join ranked k on k.symbol = h.symbol group by 1, 2
    )
    select jsonb_build_object(
      'logical_time', to_jsonb(array(select engine.iso(t) from unnest(v_times) t order by t)),
      'others', (select count(*) from ranked k where k.place > p_symbols),
      'parts', coalesce((
        select jsonb_agg(jsonb_build_object('symbol', k.symbol, 'is_others', p.place > p_symbols, 'value', p.vals, 'share', p.shares) order by p.place)
          from (select d.place, jsonb_agg(coalesce(s.value, 0) order by t.at) as vals, jsonb_agg(case when e.has_share then coalesce(s.share, 0) end order by t.at) as shares
                  from (select distinct x.place from shown x) d
                 cross join unnest(v_times) t (at)
                  left join (select x.logical_time, bool_and(x.share is not null) as has_share from shown x group by 1) e on e.logical_time = t.at
                  left join shown s on s.place = d.place and s.logical_time = t.at
                 group by d.place) p
          left join ranked k on k.place = p.place and p.place <= p_symbols), '[]')));
end $$;

-- The first p_first and the last p_last fills, or all if they are no more.
create function engine.report_fills(p_user_id bigint, p_run_id bigint, p_first int, p_last int) returns jsonb
language plpgsql stable as $$
begin
  return (
    select jsonb_build_object('count', count(*), 'rows', coalesce(jsonb_agg(
             to_jsonb(f) - '{n,total}'::text[] || jsonb_build_object('logical_time', engine.iso(f.logical_time)) order by f.trade_id)
             filter (where f.n <= p_first or f.n > f.total - p_last), '[]'))
      from (select t.*, row_number() over (order by t.trade_id) as n, count(*) over () as total
              from report_fill(p_user_id, p_run_id) t) f);
end $$;

create function engine.report_violations(p_user_id bigint, p_run_id bigint, p_shown int) returns jsonb
language plpgsql stable as $$
begin
  return (
    select jsonb_build_object('count', count(*), 'rows', coalesce(jsonb_agg(jsonb_build_object('rule', v.rule, 'detail', v.detail) order by v.n) filter (where v.n <= p_shown), '[]'))
      from (select x.*, row_number() over (order by x.rule collate "C", x.detail collate "C") as n from run_violations(p_user_id, p_run_id) x) v);
end $$;

-- The small tables, whole.
create function engine.report_tables(p_user_id bigint, p_run_id bigint) returns jsonb
language plpgsql stable as $$
begin
  return jsonb_build_object(
    'gain', (select coalesce(jsonb_agg(jsonb_build_object('kind', g.kind, 'amount', g.amount) order by g.place), '[]') from engine.gain_rows(p_user_id, p_run_id) g),
    'fees', (select coalesce(jsonb_agg(to_jsonb(f) - '{user_id,run_id}'::text[] order by f.kind collate "C"), '[]')
               from report_fee f where f.user_id = p_user_id and f.run_id = p_run_id),
    'rejections', (select coalesce(jsonb_agg(to_jsonb(x) - '{user_id,run_id}'::text[] || jsonb_build_object(
                            'first_time', engine.iso(x.first_time), 'last_time', engine.iso(x.last_time)) order by x.orders desc, x.reason collate "C"), '[]')
                     from report_rejection x where x.user_id = p_user_id and x.run_id = p_run_id),
    'sips', (select coalesce(jsonb_agg(to_jsonb(s) - '{user_id,run_id}'::text[] || jsonb_build_object(
                      'first_time', engine.iso(s.first_time), 'last_time', engine.iso(s.last_time),
                      'current_amount', engine.sip_amount(p, greatest(p.next_slot - 1, p.base_slot), engine.minor_unit(r.currency))) order by s.sip_id), '[]')
               from report_sip_summary s
               join sip_plan p on p.user_id = s.user_id and p.run_id = s.run_id and p.sip_id = s.sip_id
               join strategy_run r on r.user_id = s.user_id and r.run_id = s.run_id
              where s.user_id = p_user_id and s.run_id = p_run_id),
    'symbols', (select coalesce(jsonb_agg(jsonb_build_object('symbol', s.symbol) || s.metrics order by s.n), '[]')
                  from (select m.symbol, min(m.n) as n, jsonb_object_agg(m.metric, m.value) as metrics
                          from engine.symbol_measures(p_user_id, p_run_id) with ordinality m (symbol, metric, value, n) group by m.symbol) s));
end $$;

-- Rebalance plans, and each one's weights beside the shares of equity at the last mark: at most p_symbols, the greatest first.
create function engine.report_rebalances(c engine.curve, p_symbols int) returns jsonb
language plpgsql stable as $$
begin
  return (
    with held as materialized (
      select a.symbol, a.share from engine.allocation_rows(c.user_id, c.run_id, array[c.upto]) a where c.upto is not null and a.symbol is not null
    ), weighed as (
      select s.plan_id, x.symbol, coalesce(w.weight, 0) as target, coalesce(h.share, 0) as share,
             row_number() over (partition by s.plan_id order by greatest(w.weight, abs(h.share)) desc, x.symbol collate "C") as n
        from report_rebalance_summary s
       cross join lateral (select t.symbol from target_weight t where t.user_id = s.user_id and t.run_id = s.run_id and t.plan_id = s.plan_id
                           union select h.symbol from held h) x
        left join target_weight w on w.user_id = s.user_id and w.run_id = s.run_id and w.plan_id = s.plan_id and w.symbol = x.symbol
        left join held h on h.symbol = x.symbol
       where s.user_id = c.user_id and s.run_id = c.run_id
    )
    select coalesce(jsonb_agg(to_jsonb(s) - '{user_id,run_id}'::text[] || jsonb_build_object('last_time', engine.iso(s.last_time),
             'others', (select count(*) from weighed w where w.plan_id = s.plan_id and w.n > p_symbols),
             'weights', (select coalesce(jsonb_agg(jsonb_build_object('symbol', w.symbol, 'target', trim_scale(w.target), 'share', w.share) order by w.n), '[]')
                           from weighed w where w.plan_id = s.plan_id and w.n <= p_symbols)) order by s.plan_id), '[]')
      from report_rebalance_summary s where s.user_id = c.user_id and s.run_id = c.run_id);
end $$;

create function engine.report_periods(c engine.curve) returns jsonb
language plpgsql stable as $$
begin
  return jsonb_build_object(
    'months', (select coalesce(jsonb_agg(jsonb_build_object('first_date', g.first_date, 'twr', round((g.growth).value - 1, 8), 'reason', (g.growth).reason) order by g.first_date), '[]')
                 from engine.period_growth(c, 'month') g),
    'years', (select coalesce(jsonb_agg(jsonb_build_object('first_date', g.first_date, 'twr', round((g.growth).value - 1, 8), 'reason', (g.growth).reason) order by g.first_date), '[]')
                from engine.period_growth(c, 'year') g),
    'drawdowns', (select jsonb_build_object('count', count(*), 'rows', coalesce(jsonb_agg(jsonb_build_object('peak_time', engine.iso(d.peak_time),
                         'trough_time', engine.iso(d.trough_time), 'recovery_time', engine.iso(d.recovery_time), 'depth', round(d.depth, 8)) order by d.n) filter (where d.n <= 10), '[]'))
                    from (select x.*, row_number() over (order by x.depth, x.peak_time) as n from engine.drawdowns(c) x) d));
end $$;
