-- Rebalance: trade to target weights, sells first, at the close the tick stands on.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- What a plan would trade in each symbol: from what is held to its goal, floored to the step (a whole number of units if
-- the plan says so). The goal is the target, weight × equity, or 0 for a held symbol without weight. With bands, only
-- what is further from its target than the narrower one allows is traded: band is a share of equity, band_relative one
-- of the target; and to_band_edge makes the goal just as far from the target as that. A symbol without a price is left
-- out. No leg moves away from its target, as the floor of a fraction held could make it.
create function engine.rebalance_legs(
  p_plan rebalance_plan, p_feed text, p_time timestamptz, p_equity numeric, p_symbols text[], p_quantities numeric[],
  p_max_age interval
)
returns table (symbol text, step numeric, close numeric, held numeric, delta numeric)
language plpgsql stable as $$
begin
  return query
    select t.symbol, t.step::numeric, t.close::numeric, t.held, t.delta
      from (select d.symbol, d.step, d.close, d.held, d.drift, d.allowed,
                   engine.units_for(case when p_plan.to_band_edge then d.target + sign(d.drift) * coalesce(d.allowed, 0) else d.target end,
                                    d.close, d.step) - d.held as delta
              from (select i.symbol, case when p_plan.whole_units then engine.whole_step(i.quantity_step) else i.quantity_step end as step,
                           b.close, h.held, h.target, h.held * b.close - h.target as drift,
                           least(p_plan.band * p_equity, p_plan.band_relative * h.target) as allowed
                      from (select coalesce(p.symbol, w.symbol) as symbol, coalesce(p.quantity, 0) as held, coalesce(w.weight, 0) * p_equity as target
                              from (select p.symbol, p.quantity from unnest(p_symbols, p_quantities) p (symbol, quantity) where p.quantity <> 0) p
                              full join (select w.symbol, w.weight from target_weight w
                                          where w.user_id = p_plan.user_id and w.run_id = p_plan.run_id and w.plan_id = p_plan.plan_id) w
                                on w.symbol = p.symbol) h
                      join instrument i on i.symbol = h.symbol
                     cross join lateral (select b.close from price_bar b
                                          where b.feed = p_feed and b.symbol = i.symbol and b.logical_time <= p_time
                                          order by b.logical_time desc limit 1) b
                     where p_max_age is null or engine.tradable_close(p_feed, i.symbol, p_time, p_max_age) is not null) d) t
     where t.delta <> 0 and sign(t.delta) = -sign(t.drift) and (t.allowed is null or abs(t.drift) > t.allowed);
end $$;

-- Sell down and cover what is short, then buy up. A buy is cut to the cash that is left, fees included: rounding each trade
-- to the minor unit must not reject a whole leg for a cent. Where none is left it is asked for whole: a cash account rejects
-- it, a margin account may borrow. What is then worth less than min_order_value is left out.
-- writes: every per-run table but the marks
create function engine.trade_to_targets(c engine.context, p_plan rebalance_plan, p_time timestamptz, p_equity numeric) returns engine.context
language plpgsql as $$
declare
  v record;
  v_side text;
  v_quantity numeric;
begin
  for v in
    select l.* from engine.rebalance_legs(p_plan, c.feed, p_time, p_equity, c.symbols, c.quantities, (c.terms).max_price_age) l
     order by l.delta > 0 and l.held >= 0, l.symbol collate "C"
  loop
    if cardinality(c.journal) > 128 then
      c := engine.post(c);
    end if;
    v_side := case when v.delta < 0 then 'SELL' else 'BUY' end;
    v_quantity := least(abs(v.delta), engine.floor_to(999999999999, v.step));
    if v_side = 'BUY' and v.held >= 0 then
      v_quantity := least(v_quantity, coalesce(nullif(engine.units_within(greatest(c.cash - c.reserved, 0), v.close, v.step,
        (c.terms).fee_schedule, v.symbol, 'BUY', engine.trade_date(p_time, c.time_zone), c.scale), 0), v_quantity));
    end if;
    continue when engine.value(v_quantity, v.close, c.scale) < p_plan.min_order_value;
    c := engine.order_at_close(c, p_time, v.symbol, v_side, v_quantity, v.close, 'REBALANCE',
           engine.reject_reason(c, v.symbol, v_side, v_quantity, v.close, c.reserved, 0, p_time,
                                engine.fee_sum(engine.fill_fees(c, null, v.symbol, v_side, p_time, v_quantity, v.close))));
  end loop;
  return c;
end $$;

-- All due slots of all plans, by (plan_id, slot), at an open time. The last due slot trades, earlier ones were missed.
-- While none of its symbols has a price that may be traded on a plan waits. What has come together is written in between.
-- writes: every per-run table but the marks
create function engine.run_rebalances(c engine.context, p_time timestamptz) returns engine.context
language plpgsql as $$
declare
  v_plan rebalance_plan;
  v_date date := (p_time at time zone c.time_zone)::date;
  v_end int;
  v_key text;
  v_equity numeric;
begin
  for i in 1 .. coalesce(cardinality(c.rebalances), 0) loop
    v_plan := c.rebalances[i];
    v_end := engine.first_slot_not_due(c.calendar, v_plan.start_date, v_plan.frequency, 'NEXT', v_plan.next_slot,
                                       v_plan.instalments, null, v_date, v_plan.next_slot - 1, v_plan.last_date);
    continue when v_end = v_plan.next_slot;
    continue when not exists (
      select from target_weight w
       where w.user_id = c.user_id and w.run_id = c.run_id and w.plan_id = v_plan.plan_id
         and exists (select from price_bar b where b.feed = c.feed and b.symbol = w.symbol and b.logical_time <= p_time
                        and b.logical_time >= coalesce(engine.earlier(p_time, (c.terms).max_price_age), '-infinity')));

    c := engine.with_limits(c);
    if v_end - v_plan.next_slot > 1 then
      c.journal := c.journal || array(
        select engine.slot_end(p_time, 'REBALANCE_MISSED', v_plan.plan_id || ':' || n, '{}') from generate_series(v_plan.next_slot, v_end - 2) n
         where not engine.is_rebalance_slot_ended(c.user_id, c.run_id, v_plan.plan_id || ':' || n) order by n);
    end if;
    if cardinality(c.journal) > 128 then
      c := engine.post(c);
    end if;
    v_key := v_plan.plan_id || ':' || v_end - 1;
    if not engine.is_rebalance_slot_ended(c.user_id, c.run_id, v_key) then
      v_equity := c.cash + engine.market_value(c, p_time);   -- of a margin account perhaps less than nothing
      c := engine.note(c, engine.slot_end(p_time, 'REBALANCED', v_key, jsonb_build_object('equity', trim_scale(v_equity))));
      c := engine.trade_to_targets(c, v_plan, p_time, greatest(v_equity, 0));
      c.made := c.made + 1;
    end if;
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
  p_user_id bigint, p_run_id bigint, p_weights jsonb, p_frequency text, p_start date, p_band numeric,
  p_band_relative numeric, p_to_band_edge boolean, p_min_order_value numeric, p_whole_units boolean
) returns bigint
language plpgsql as $$
declare
  c engine.context := engine.open_run(p_user_id, p_run_id);
  v_plan_id bigint;
begin
  perform engine.require_running(c);
  perform engine.require(p_frequency in ('DAILY', 'WEEKLY', 'MONTHLY', 'QUARTERLY'), format('argument=frequency value=%s must_be=DAILY|WEEKLY|MONTHLY|QUARTERLY', p_frequency));
  perform engine.require(p_start between '1900-01-01' and '2299-12-31', 'argument=start must_be=a_date_from_1900_to_2299');
  perform engine.require(coalesce(p_band, 0) between 0 and 1, 'argument=band must_be=0_to_1');
  perform engine.require(coalesce(p_band_relative, 0) between 0 and 1, 'argument=band_relative must_be=0_to_1');
  perform engine.require(p_to_band_edge is not null and (not p_to_band_edge or num_nonnulls(p_band, p_band_relative) > 0), 'argument=to_band_edge must_be=true_with_a_band|false');
  perform engine.require_positive('min_order_value', round(coalesce(p_min_order_value, 1), c.scale));
  perform engine.require(p_whole_units is not null, 'argument=whole_units must_be=true|false');
  perform engine.require_shares('weights', p_weights);
  perform engine.require((select sum(round(w.value::numeric, 20)) from jsonb_each(p_weights) w) <= 1, 'argument=weights must_be=at_most_1_in_sum');

  select 1 + coalesce(max(p.plan_id), 0) into v_plan_id
    from rebalance_plan p where p.user_id = p_user_id and p.run_id = p_run_id;
  insert into rebalance_plan (user_id, run_id, plan_id, frequency, start_date, band, band_relative, to_band_edge, min_order_value, whole_units)
  values (p_user_id, p_run_id, v_plan_id, p_frequency, p_start, p_band, p_band_relative, p_to_band_edge,
          round(p_min_order_value, c.scale), p_whole_units);
  insert into target_weight (user_id, run_id, plan_id, symbol, weight)
  select p_user_id, p_run_id, v_plan_id, w.key, w.value::numeric from jsonb_each(p_weights) w;
  return v_plan_id;
end $$;

-- As engine.end_sip. Its weights stay, for SIPs that buy towards them.
-- writes: rebalance_plan
create function engine.end_rebalance(p_user_id bigint, p_run_id bigint, p_plan_id bigint) returns void
language plpgsql as $$
declare
  c engine.context := engine.open_run(p_user_id, p_run_id);
begin
  perform engine.require_running(c);
  update rebalance_plan p set instalments = least(p.instalments, p.next_slot)
   where p.user_id = p_user_id and p.run_id = p_run_id and p.plan_id = p_plan_id;
  perform engine.require(found, format('argument=plan_id value=%s must_be=a_rebalance_plan_of_the_run', p_plan_id));
end $$;
