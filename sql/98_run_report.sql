-- A whole report in one call: one statement, so one state of the database, whatever ticks meanwhile.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

create or replace function run_report(p_user_id bigint, p_run_id bigint, p_benchmark text default null, p_points int default 300) returns jsonb
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
  c engine.curve;
  v_symbols text[];
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id), engine.require_run(p_user_id, p_run_id);
  perform engine.require(p_points between 2 and 10000, 'argument=points must_be=2..10000');
  c := engine.read_curve(p_user_id, p_run_id);
  -- those that most money went through come first
  v_symbols := array(select t.symbol from paper_trade t where t.user_id = p_user_id and t.run_id = p_run_id
                      group by t.symbol order by sum(t.quantity * t.price) desc, t.symbol collate "C");
  p_benchmark := coalesce(p_benchmark, case when cardinality(v_symbols) = 1 then v_symbols[1] end);
  return jsonb_build_object('run', engine.report_run(p_user_id, p_run_id), 'digest', engine.run_digest(p_user_id, p_run_id), 'benchmark', p_benchmark,
      'benchmark_since', (select engine.iso(b.at) from engine.first_bar(c.feed, p_benchmark) b (at) where b.at > c.since),
      'violations', engine.report_violations(p_user_id, p_run_id, 20))
    || engine.report_measures(p_user_id, p_run_id)
    || jsonb_build_object(
      'curve', engine.report_curve(c, p_benchmark, p_points),
      'allocation', engine.report_shares(c, greatest(p_points / 4, 2), 8),
      'traded', coalesce(cardinality(v_symbols), 0),
      'prices', (select coalesce(jsonb_agg(engine.report_symbol(p_user_id, p_run_id, s.symbol, greatest(p_points / greatest(least(cardinality(v_symbols), 4), 1), 2), greatest(500 / greatest(cardinality(v_symbols), 1), 60)) order by s.n), '[]')
                   from unnest(v_symbols[:12]) with ordinality s (symbol, n)),
      'rebalances', engine.report_rebalances(c, 20),
      'fills', engine.report_fills(p_user_id, p_run_id, 50, 150))
    || engine.report_periods(c) || engine.report_tables(p_user_id, p_run_id);
end $$;
comment on function run_report is 'run_report(user, run, benchmark, points) → all that the page of papertick report shows, as one JSON object and of one moment: run, performance and reasons, curve (with the benchmark''s value, by default of the one symbol that the run trades; benchmark_since: from when that has a price, null = as long as the run), months, years, drawdowns (the ten deepest), allocation, prices with trades of at most twelve symbols, fills (the first 50 and the last 150 of many), gain (by where it comes from), fees, rejections, sips, rebalances (with target and share at the last mark of at most 20 symbols each), symbols, violations, digest. Series keep the lowest and the highest of each of so many equal parts. Numbers are as in the views report_*. TE101, TE201, TE202, TE204.';

create or replace function run_comparison(p_user_ids bigint[], p_run_ids bigint[], p_points int default 200) returns jsonb
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
  v_since timestamptz;
  v_runs jsonb := '[]'::jsonb;
  c engine.curve;
  v record;
begin
  perform from public.strategy_run where false;
  perform engine.require(cardinality(p_user_ids) = cardinality(p_run_ids) and cardinality(p_run_ids) between 1 and 20, 'argument=run_ids must_be=1..20_runs_and_their_users');
  perform engine.require(p_points between 2 and 10000, 'argument=points must_be=2..10000');
  for v in select u.user_id, u.run_id from unnest(p_user_ids, p_run_ids) u (user_id, run_id) loop
    perform engine.require_readable(v.user_id, v.run_id), engine.require_run(v.user_id, v.run_id);
    v_since := greatest(v_since, (select s.first_logical_time from engine_state s where s.user_id = v.user_id and s.run_id = v.run_id));
  end loop;
  for v in select u.user_id, u.run_id from unnest(p_user_ids, p_run_ids) with ordinality u (user_id, run_id, n) order by u.n loop
    c := engine.read_curve(v.user_id, v.run_id);
    v_runs := v_runs || jsonb_build_array(jsonb_build_object('run', engine.report_run(v.user_id, v.run_id), 'curve', engine.report_index(c, v_since, p_points))
                || engine.report_measures(v.user_id, v.run_id));
  end loop;
  return jsonb_build_object('since', engine.iso(v_since), 'runs', v_runs);
end $$;
comment on function run_comparison is 'run_comparison(users, runs, points) → {since, runs}: since, the first time at which all of these runs had begun; of each run its terms, performance with reasons (of its whole life) and curve: its growth, flows taken out, as 100 at its last mark at or before since. At most 20 runs. TE101, TE204.';
