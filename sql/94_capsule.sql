-- A capsule: a run, and what its past stands on, as rows of JSON in a fixed order, so that equal runs have equal capsules on
-- any server. What is not in it: user, run id and feed name, where a fork came from, and when its lifecycle was recorded.
-- The past stands on: the bars of the symbols that the run has touched, from the last one before its first tick (whether a
-- bar is the first of its session, and which actions are over, is asked of it) to its last tick; one bar of the feed for
-- each time in between at which none of them has one, because the feed's distinct times are the run's clock; the sessions
-- up to its last tick. What lies ahead is rows of their own: only later ticks ask for it.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- The tables of a run, parents first, and by what the rows of each are put in order.
create function engine.capsule_tables() returns table (ordinal int, table_name text, key text)
language sql immutable begin atomic
  values (1, 'strategy_run', 'run_id'), (2, 'engine_state', 'run_id'), (3, 'engine_status', 'status_id'),
         (4, 'paper_order', 'order_id'), (5, 'paper_trade', 'trade_id'), (6, 'trade_fee', 'trade_id, component collate "C"'),
         (7, 'cash_ledger', 'entry_id'), (8, 'paper_position', 'symbol collate "C"'), (9, 'mtm_ledger', 'logical_time'),
         (10, 'paper_equity_curve', 'logical_time'), (11, 'event_ledger', 'logical_time, event_type collate "C", event_key collate "C"'),
         (12, 'dividend_due', 'symbol collate "C", ex_date'), (13, 'rebalance_plan', 'plan_id'),
         (14, 'target_weight', 'plan_id, symbol collate "C"'), (15, 'sip_plan', 'sip_id'), (16, 'risk_limit', 'run_id'),
         (17, 'forbidden_symbol', 'symbol collate "C"');
end;

-- Every symbol that the run has, or has ever had, to do with.
create function engine.symbols_touched(p_user_id bigint, p_run_id bigint) returns text[]
language sql stable begin atomic
  select array(
    select o.symbol from paper_order o where o.user_id = p_user_id and o.run_id = p_run_id
    union select t.symbol from paper_trade t where t.user_id = p_user_id and t.run_id = p_run_id
    union select p.symbol from paper_position p where p.user_id = p_user_id and p.run_id = p_run_id
    union select d.symbol from dividend_due d where d.user_id = p_user_id and d.run_id = p_run_id
    union select s.symbol from sip_plan s where s.user_id = p_user_id and s.run_id = p_run_id and s.symbol is not null
    union select b.symbol from sip_plan s cross join lateral jsonb_object_keys(s.basket) b (symbol) where s.user_id = p_user_id and s.run_id = p_run_id
    union select w.symbol from target_weight w where w.user_id = p_user_id and w.run_id = p_run_id
    union select f.symbol from forbidden_symbol f where f.user_id = p_user_id and f.run_id = p_run_id);
end;

-- p_from, p_to: the run's first and last time. Ahead is all else that the feed has.
create function engine.capsule_bars(p_feed text, p_symbols text[], p_from timestamptz, p_to timestamptz, p_is_ahead boolean) returns setof price_bar
language sql stable begin atomic
  with span as (
    select s.symbol, coalesce((select p.logical_time from price_bar p where p.feed = p_feed and p.symbol = s.symbol and p.logical_time < p_from
                                order by p.logical_time desc limit 1), p_from) as since
      from unnest(p_symbols) s (symbol)),
  mine as materialized (
    select b.* from span s join price_bar b on b.feed = p_feed and b.symbol = s.symbol and b.logical_time between s.since and p_to)
  select m.* from mine m where not p_is_ahead
  union all
  (select distinct on (b.logical_time) b.* from price_bar b
    where not p_is_ahead and b.feed = p_feed and b.logical_time between p_from and p_to
      and b.logical_time not in (select m.logical_time from mine m)   -- hashed, whatever the planner believes
    order by b.logical_time, b.symbol collate "C")
  union all
  select b.* from price_bar b
   where p_is_ahead and b.feed = p_feed
     and not exists (select from span s where s.symbol = b.symbol and b.logical_time between s.since and p_to);
end;

-- What a run shares with others.
create function engine.shared_rows(p_user_id bigint, p_run_id bigint, p_table text, p_is_ahead boolean) returns setof jsonb
language plpgsql stable as $$
declare
  c engine.context := engine.view_run(p_user_id, p_run_id);
  v_symbols constant text[] := engine.symbols_touched(p_user_id, p_run_id);
  v_from constant timestamptz := coalesce(c.first_logical_time, c.step_logical_time);
  v_to constant timestamptz := greatest(c.last_logical_time, c.step_logical_time);
  v_first_date constant date := least((v_from at time zone c.time_zone)::date,
    (select min(s.start_date) from unnest(c.sips) s), (select min(r.start_date) from unnest(c.rebalances) r)) - 31;
begin
  case p_table
  when 'calendar' then
    return query select to_jsonb(k) from calendar k where k.calendar = c.calendar and not p_is_ahead;
  when 'market_session' then
    return query select to_jsonb(m) from market_session m
                  where m.calendar = c.calendar and coalesce(m.open_at < v_to, false) <> p_is_ahead
                    and m.session_date >= coalesce(v_first_date, '-infinity')
                  order by m.session_date;
  when 'feed' then
    return query select to_jsonb(f) - 'feed' from feed f where f.feed = c.feed and not p_is_ahead;
  when 'price_bar' then
    return query select to_jsonb(b) - 'feed' from engine.capsule_bars(c.feed, v_symbols, v_from, v_to, p_is_ahead) b
                  order by b.logical_time, b.symbol collate "C";
  when 'instrument' then
    return query select to_jsonb(i) from instrument i
                  where (i.symbol in (select unnest(v_symbols)
                                      union select b.symbol from engine.capsule_bars(c.feed, v_symbols, v_from, v_to, false) b)) <> p_is_ahead
                    and (not p_is_ahead or i.symbol in (select b.symbol from price_bar b where b.feed = c.feed))
                  order by i.symbol collate "C";
  when 'corporate_action' then
    -- those that the run has been given; later rows for its past change nothing
    return query select to_jsonb(a) from corporate_action a
                  where exists (select from event_ledger v where v.user_id = p_user_id and v.run_id = p_run_id
                                   and v.event_type = a.action_type and v.event_key = engine.action_key(a.symbol, a.ex_date)) is distinct from p_is_ahead
                    and (not p_is_ahead or a.symbol in (select b.symbol from price_bar b where b.feed = c.feed))
                  order by a.symbol collate "C", a.ex_date, a.action_type collate "C";
  when 'fee_schedule' then
    return query select to_jsonb(f) from fee_schedule f
                  where not p_is_ahead
                    and (f.fee_schedule = (c.terms).fee_schedule
                         or exists (select from trade_fee e where e.user_id = p_user_id and e.run_id = p_run_id and e.fee_schedule = f.fee_schedule))
                  order by f.fee_schedule collate "C", f.side, f.component collate "C", f.product collate "C", f.effective_from;
  else
    perform engine.require(false, format('argument=table value=%s must_be=a_table_of_a_capsule', left(p_table, 60)));
  end case;
end $$;

create function engine.export_rows(p_user_id bigint, p_run_id bigint, p_table text, p_is_ahead boolean) returns setof jsonb
language plpgsql stable as $$
declare
  v_key constant text := (select t.key from engine.capsule_tables() t where t.table_name = p_table);
begin
  perform engine.require_run(p_user_id, p_run_id);
  if v_key is null then
    return query select s.* from engine.shared_rows(p_user_id, p_run_id, p_table, p_is_ahead) s;
  elsif not p_is_ahead then
    return query execute format('select pg_catalog.to_jsonb(t) - $3 from public.%I t where t.user_id = $1 and t.run_id = $2 order by %s', p_table, v_key)
      using p_user_id, p_run_id,
            array['user_id', 'run_id', 'status_id', 'recorded_at', 'forked_from_user_id', 'forked_from_run_id', 'forked_at']
            || case p_table when 'strategy_run' then '{feed}' else '{}' end::text[];
  end if;
end $$;

-- Rows of one table, an object a line, all with the names that the first has; what has been added to the table since they
-- were exported gets its default.
-- writes: the table that is named, one of capsule_tables
create function engine.import_rows(p_user_id bigint, p_run_id bigint, p_table text, p_lines text[]) returns void
language plpgsql as $$
declare
  v_columns text;
  v_values text;
begin
  if cardinality(p_lines) > 0 then
    select string_agg(format('%I', k.name), ', ' order by k.name collate "C"), string_agg(format('n.%I', k.name), ', ' order by k.name collate "C")
      into v_columns, v_values from jsonb_object_keys(p_lines[1]::jsonb) k (name);
    execute format('insert into public.%1$I (user_id, run_id, %2$s) select $1, $2, %3$s from pg_catalog.unnest($3) with ordinality l (line, ordinal) '
                   'cross join lateral pg_catalog.jsonb_populate_record(null::public.%1$I, l.line::pg_catalog.jsonb) n order by l.ordinal',
                   p_table, v_columns, v_values)
      using p_user_id, p_run_id, p_lines;
  end if;
end $$;

-- The run comes in RUNNING, because the guards let nobody write to another, and ends as a run does: by its status, whose
-- change logs itself. So the user must have no RUNNING run. What came in must be what went out, and no invariant may be broken.
-- writes: every per-run table
create function engine.import_run(p_user_id bigint, p_feed text, p_tables text[], p_rows text[], p_digest text, p_name text) returns bigint
language plpgsql as $$
declare
  r strategy_run;
  v record;
  v_run_id bigint;
  v_digest text;
begin
  perform engine.require_read_committed(p_user_id, null);
  perform engine.require(cardinality(p_tables) = cardinality(p_rows) and array_position(p_rows, null) is null
                         and p_tables <@ array(select t.table_name from engine.capsule_tables() t)
                         and cardinality(array_positions(p_tables, 'strategy_run')) = 1, 'argument=tables must_be=those_of_a_run');
  r := jsonb_populate_record(null::strategy_run, p_rows[array_position(p_tables, 'strategy_run')]::jsonb);
  v_run_id := engine.add_run(p_user_id, r.initial_cash, p_feed, coalesce(p_name, r.name), r.participation, r.slippage_bps, r.fee_schedule,
    r.mark_policy, r.currency, r.volume_impact, r.penetration_ticks, r.max_price_age, r.reinvest_dividends,
    r.initial_margin, r.maintenance_margin, r.borrow_rate, r.margin_rate);
  for v in
    select t.table_name, string_to_array(p.rows, e'\n') as lines
      from unnest(p_tables, p_rows) with ordinality p (table_name, rows, ordinal)
      join engine.capsule_tables() t on t.table_name = p.table_name and t.ordinal > 1
     order by t.ordinal, p.ordinal
  loop
    perform engine.import_rows(p_user_id, v_run_id, v.table_name, case when v.table_name = 'engine_status' and r.status <> 'RUNNING'
      then array(select l.line from unnest(v.lines) with ordinality l (line, ordinal) where l.line::jsonb ->> 'status' <> r.status order by l.ordinal)
      else v.lines end);
  end loop;
  update strategy_run x set status = r.status, status_reason = r.status_reason
   where x.user_id = p_user_id and x.run_id = v_run_id and (x.status, x.status_reason) is distinct from (r.status, r.status_reason);

  v_digest := engine.run_digest(p_user_id, v_run_id);
  if v_digest is distinct from p_digest then
    perform engine.refuse('TE901', format('digest=%s expected=%s', v_digest, p_digest));
  end if;
  for v in select x.rule, x.detail from public.run_violations(p_user_id, v_run_id) x order by x.rule collate "C", x.detail collate "C" limit 1 loop
    perform engine.refuse('TE901', format('rule=%s %s', v.rule, v.detail));
  end loop;
  return v_run_id;
end $$;
