-- The orders of a fork: those that were open after its tick, as they stood then. What cannot be told is listed in 94_fork.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Was the order open after the tick at p_at?
create function engine.was_open(o paper_order, p_at timestamptz, p_ended_at timestamptz, p_has_ended boolean) returns boolean
language plpgsql stable as $$
begin
  return o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')
    or o.closed_time > p_at
    or p_has_ended and o.status = 'CANCELED' and o.closed_time is not distinct from p_ended_at
       and engine.cancel_cause(engine.case_of(o.user_id, o.run_id, o.order_id)) = 'RUN_END';
end $$;

-- An order before a split, p_changes of others after it taken out: the fewest units that become what is open of it now, and
-- the prices. A split that left nothing open has canceled it, and not changed its quantity.
create function engine.unsplit(o paper_order, p_changes numeric, p_time timestamptz, p_numerator int, p_denominator int) returns paper_order
language plpgsql stable as $$
declare
  v_step constant numeric := (select i.quantity_step from instrument i where i.symbol = o.symbol);
  v_filled constant numeric := (select coalesce(sum(t.quantity), 0) from paper_trade t
                                 where t.user_id = o.user_id and t.run_id = o.run_id and t.order_id = o.order_id and t.logical_time < p_time);
  v_open constant numeric := o.quantity - p_changes - v_filled;
  v_before numeric := engine.units_for(v_open * p_denominator, p_numerator, v_step);
begin
  if o.status <> 'CANCELED' or o.closed_time > p_time or not engine.is_split_away(o, p_numerator, p_denominator) then
    o.quantity := v_filled + v_before + case when v_before * p_numerator < v_open * p_denominator then v_step else 0 end;
  end if;
  o.limit_price := engine.split_price(o.limit_price, p_denominator, p_numerator, null, false);
  o.stop_price := engine.split_price(o.stop_price, p_denominator, p_numerator, null, false);
  o.trail_amount := engine.split_price(o.trail_amount, p_denominator, p_numerator, null, false);
  o.reserve_price := engine.split_price(o.reserve_price, p_denominator, p_numerator, null, false);
  o.take_profit_price := engine.split_price(o.take_profit_price, p_denominator, p_numerator, null, false);
  o.stop_loss_price := engine.split_price(o.stop_loss_price, p_denominator, p_numerator, null, false);
  o.stop_loss_limit_price := engine.split_price(o.stop_loss_limit_price, p_denominator, p_numerator, null, false);
  return o;
end $$;

-- An order that was open after the tick at p_at, as it stood then: its own fills, its trigger, its stop, and the quantity
-- before splits, and what others traded, changed it later. A trailing stop that has moved since starts again where it was
-- accepted.
create function engine.order_as_of(o paper_order, p_feed text, p_calendar text, p_first timestamptz, p_at timestamptz) returns paper_order
language plpgsql stable as $$
declare
  s record;
  v_changes numeric;
  v_until timestamptz := timestamptz 'infinity';
begin
  for s in select x.* from engine.splits_of(o) x where x.logical_time > p_at order by x.logical_time desc loop
    v_changes := (select sum(g.quantity) from engine.quantity_changes(o) g where g.logical_time >= s.logical_time and g.logical_time < v_until);
    o := engine.unsplit(o, coalesce(v_changes, 0), s.logical_time, s.numerator, s.denominator);
    v_until := s.logical_time;
  end loop;
  o.quantity := o.quantity - coalesce((select sum(g.quantity) from engine.quantity_changes(o) g where g.logical_time > p_at and g.logical_time < v_until), 0);
  select coalesce(sum(t.quantity), 0)::unit_quantity, round(sum(t.quantity * t.price) / sum(t.quantity), 8)::unit_price into o.filled_quantity, o.avg_fill_price
    from paper_trade t
   where t.user_id = o.user_id and t.run_id = o.run_id and t.order_id = o.order_id and t.logical_time <= p_at;
  if o.order_type = 'TRAILING_STOP' and coalesce(o.triggered_time > p_at, true) and coalesce(o.seen_time > p_at, true) then
    o := engine.restarted(p_feed, p_calendar, coalesce(o.logical_time, p_first - interval '1 microsecond'), p_at, o);
  end if;
  if o.triggered_time > p_at then
    o.triggered_time := null;
  end if;
  -- a pair has one reserve price, which changes when one of it is replaced; that one keeps what it was
  o.reserve_price := coalesce((select y.reserve_price from paper_order y
     join paper_order q on q.user_id = y.user_id and q.run_id = y.run_id and q.replaces_order_id = y.order_id and not engine.is_settled_at_once(q)
    where y.user_id = o.user_id and y.run_id = o.run_id and y.oco_id = o.oco_id and y.logical_time <= p_at and y.closed_time > p_at
    order by q.order_id limit 1), o.reserve_price);
  o.status := case when o.filled_quantity > 0 then 'PARTIALLY_FILLED' when o.triggered_time is not null then 'TRIGGERED' else 'PENDING' end;
  o.reject_reason := null;
  o.closed_time := null;
  return o;
end $$;

-- writes: paper_order
create function engine.fork_orders(c engine.context, p_at timestamptz, p_user_id bigint, p_run_id bigint) returns void
language plpgsql as $$
begin
  insert into paper_order
  select n.*
    from paper_order o
   cross join lateral (select engine.was_open(o, p_at, c.last_logical_time, c.status <> 'RUNNING' and p_at >= coalesce(c.last_logical_time, '-infinity')) as is_open offset 0) w
   cross join lateral (select case when w.is_open then engine.order_as_of(o, c.feed, c.calendar, c.first_logical_time, p_at) else o end as o offset 0) a
   cross join lateral jsonb_populate_record(a.o, jsonb_build_object('user_id', p_user_id, 'run_id', p_run_id)) n
   where o.user_id = c.user_id and o.run_id = c.run_id and (o.logical_time <= p_at or o.logical_time is null)
   order by o.order_id;
end $$;
