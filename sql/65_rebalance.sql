-- Rebalance: trade to target weights, sells first, at the close the tick stands on.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Sell down and cover what is short, then buy up, to target = floor(weight × equity / close) to the step; a held symbol
-- without weight goes to 0, a symbol without a price is left out. A buy is cut to the cash that is left: rounding each
-- trade to the minor unit must not reject a whole leg for a cent.
create function engine.trade_to_targets(c engine.context, p_plan rebalance_plan, p_time timestamptz, p_equity numeric) returns engine.context
language plpgsql stable as $$
declare
  v record;
  v_quantity numeric;
begin
  for v in
    select t.*, case when t.delta < 0 then 'SELL' else 'BUY' end as side
      from (select i.symbol, i.quantity_step, b.close,
                   engine.units_for(coalesce(w.weight, 0) * p_equity, b.close, i.quantity_step) - coalesce(p.quantity, 0) as delta, coalesce(p.quantity, 0) as held,
                   abs(coalesce(p.quantity, 0) * b.close - coalesce(w.weight, 0) * p_equity) as drift
              from (select p.symbol, p.quantity from unnest(c.symbols, c.quantities) p (symbol, quantity) where p.quantity <> 0) p
              full join (select w.symbol, w.weight from target_weight w
                          where w.user_id = c.user_id and w.run_id = c.run_id and w.plan_id = p_plan.plan_id) w
                on w.symbol = p.symbol
              join instrument i on i.symbol = coalesce(p.symbol, w.symbol)
             cross join lateral (select b.close from price_bar b
                                  where b.feed = c.feed and b.symbol = i.symbol and b.logical_time <= p_time
                                  order by b.logical_time desc limit 1) b) t
     where t.delta <> 0 and (p_plan.band is null or t.drift > p_plan.band * p_equity)
     order by t.delta > 0 and t.held >= 0, t.symbol collate "C"
  loop
    v_quantity := least(abs(v.delta), engine.floor_to(999999999999, v.quantity_step));
    if v.side = 'BUY' and v.held >= 0 then
      v_quantity := least(v_quantity, coalesce(nullif(engine.units_for(greatest(c.cash - c.reserved, 0), v.close, v.quantity_step), 0), v_quantity));
    end if;
    c := engine.order_at_close(c, p_time, v.symbol, v.side, v_quantity, v.close, 'REBALANCE',
           engine.reject_reason(c, v.symbol, v.side, v_quantity, v.close, c.reserved, 0, p_time));
  end loop;
  return c;
end $$;

-- All due slots of all plans, by (plan_id, slot), at an open time. The last due slot trades, earlier ones were missed.
-- While none of its symbols has a price a plan waits.
create function engine.run_rebalances(c engine.context, p_time timestamptz) returns engine.context
language plpgsql stable as $$
declare
  v_plan rebalance_plan;
  v_date date := (p_time at time zone c.time_zone)::date;
  v_end int;
  v_equity numeric;
  e engine.entry;
begin
  e.logical_time := p_time;
  for i in 1 .. coalesce(cardinality(c.rebalances), 0) loop
    v_plan := c.rebalances[i];
    v_end := engine.first_slot_not_due(c.calendar, v_plan.start_date, v_plan.frequency, 'NEXT', v_plan.next_slot,
                                       null, null, v_date, v_plan.next_slot - 1, v_plan.last_date);
    continue when v_end = v_plan.next_slot;
    continue when not exists (
      select from target_weight w
       where w.user_id = c.user_id and w.run_id = c.run_id and w.plan_id = v_plan.plan_id
         and exists (select from price_bar b where b.feed = c.feed and b.symbol = w.symbol and b.logical_time <= p_time));

    c := engine.with_limits(c);
    for v_slot in v_plan.next_slot .. v_end - 1 loop
      e.event_key := v_plan.plan_id || ':' || v_slot;
      continue when engine.is_rebalance_slot_ended(c, e.event_key);
      if v_slot < v_end - 1 then
        e.event_type := 'REBALANCE_MISSED';
        e.payload := '{}';
        c := engine.note(c, e);
        continue;
      end if;
      v_equity := c.cash + engine.market_value(c, p_time);   -- of a margin account perhaps less than nothing
      e.event_type := 'REBALANCED';
      e.payload := jsonb_build_object('equity', trim_scale(v_equity));
      c := engine.trade_to_targets(engine.note(c, e), v_plan, p_time, greatest(v_equity, 0));
      c.made := c.made + 1;
    end loop;
    if v_plan.frequency = 'DAILY' then
      v_plan.last_date := engine.slot_date(c.calendar, v_plan.start_date, 'DAILY', v_end - 1, v_plan.next_slot - 1, v_plan.last_date);
    end if;
    v_plan.next_slot := v_end;
    c.rebalances[i] := v_plan;
    c.has_moved_plans := true;
    c.has_written := true;
  end loop;
  return c;
end $$;

-- writes: rebalance_plan, target_weight
create function engine.create_rebalance(
  p_user_id bigint, p_run_id bigint, p_weights jsonb, p_frequency text, p_start date, p_band numeric
) returns bigint
language plpgsql as $$
declare
  c engine.context := engine.open_run(p_user_id, p_run_id);
  v_plan_id bigint;
  v record;
begin
  perform engine.require_running(c);
  perform engine.require(p_frequency in ('DAILY', 'WEEKLY', 'MONTHLY', 'QUARTERLY'), format('argument=frequency value=%s must_be=DAILY|WEEKLY|MONTHLY|QUARTERLY', p_frequency));
  perform engine.require(p_start between '1900-01-01' and '2299-12-31', 'argument=start must_be=a_date_from_1900_to_2299');
  perform engine.require(coalesce(p_band, 0) between 0 and 1, 'argument=band must_be=0_to_1');
  perform engine.require(jsonb_typeof(p_weights) = 'object' and p_weights <> '{}', 'argument=weights must_be=an_object_of_symbol_and_share');
  for v in select w.key as symbol, w.value as weight from jsonb_each(p_weights) w order by w.key collate "C" loop
    perform engine.require(jsonb_typeof(v.weight) = 'number' and v.weight::numeric between 0 and 1,
                           format('argument=weights symbol=%s must_be=a_number_from_0_to_1', v.symbol));
    if not exists (select from instrument i where i.symbol = v.symbol) then
      perform engine.refuse('TE201', format('symbol=%s', v.symbol));
    end if;
  end loop;
  perform engine.require((select sum(round(w.value::numeric, 20)) from jsonb_each(p_weights) w) <= 1, 'argument=weights must_be=at_most_1_in_sum');

  select 1 + coalesce(max(p.plan_id), 0) into v_plan_id
    from rebalance_plan p where p.user_id = p_user_id and p.run_id = p_run_id;
  insert into rebalance_plan (user_id, run_id, plan_id, frequency, start_date, band)
  values (p_user_id, p_run_id, v_plan_id, p_frequency, p_start, p_band);
  insert into target_weight (user_id, run_id, plan_id, symbol, weight)
  select p_user_id, p_run_id, v_plan_id, w.key, w.value::numeric from jsonb_each(p_weights) w;
  return v_plan_id;
end $$;
