-- Orders on bars. Open orders are looked at only at the bar times where something can happen to one of them.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- When the session ends in which a DAY order was accepted; accepted while the market is closed, it belongs to the next
-- session. An order from before the first tick was accepted just before it.
create function engine.day_close(c engine.context, p_accepted timestamptz) returns timestamptz
language plpgsql stable as $$
begin
  return (engine.next_close((c).calendar, coalesce(p_accepted, (c).first_logical_time), p_accepted is not null)).close_at;
end $$;

-- The first bar time in (p_after, p_to] at which an open order may fill or expire; null = none. A superset is enough:
-- match_bar decides.
create function engine.next_match_time(c engine.context, p_after timestamptz, p_to timestamptz) returns timestamptz
language plpgsql stable as $$
declare
  v_order record;
  v_time timestamptz := p_to;
  v_found timestamptz;
begin
  for v_order in
    select o.symbol, o.side, o.limit_price, o.logical_time, o.time_in_force
      from paper_order o
     where o.user_id = c.user_id and o.run_id = c.run_id and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')
     order by o.order_id
  loop
    v_found := least(v_found,
      (select b.logical_time from price_bar b
        where b.feed = c.feed and b.symbol = v_order.symbol
          and b.logical_time > greatest(p_after, v_order.logical_time) and b.logical_time <= v_time
          and (v_order.limit_price is null
               or v_order.side = 'BUY' and b.low <= v_order.limit_price
               or v_order.side = 'SELL' and b.high >= v_order.limit_price)
        order by b.logical_time limit 1));
    if v_order.time_in_force = 'DAY' then
      v_found := least(v_found, engine.next_feed_time(c.feed,
        greatest(engine.day_close(c, v_order.logical_time), p_after + interval '1 microsecond'), v_time));
    end if;
    v_time := least(v_time, v_found);
  end loop;
  return v_found;
end $$;

-- Contract of a limit order on a bar: the limit, or the open when the bar opens beyond it and is the first bar the
-- order sees or the first of a session (p_is_fresh). Null when the bar does not reach the order. Never outside the
-- bar: a bar that lies wholly beyond a resting limit fills at its nearer end.
create function engine.fill_price(p_order paper_order, p_bar price_bar, p_is_fresh boolean) returns numeric
language sql immutable
return case
  when (p_order).order_type = 'MARKET' then (p_bar).open
  when (p_order).order_type <> 'LIMIT' then null
  when (p_order).side = 'BUY' and (p_bar).low <= (p_order).limit_price then
    case when p_is_fresh then least((p_bar).open, (p_order).limit_price)
         else least((p_bar).high, (p_order).limit_price) end
  when (p_order).side = 'SELL' and (p_bar).high >= (p_order).limit_price then
    case when p_is_fresh then greatest((p_bar).open, (p_order).limit_price)
         else greatest((p_bar).low, (p_order).limit_price) end
end;

-- A bar is fresh to an order when no bar of its symbol lies between it and the later of the session's open and the
-- order's acceptance.
create function engine.is_fresh(c engine.context, p_order paper_order, p_bar price_bar, p_open_at timestamptz) returns boolean
language plpgsql stable as $$
begin
  return not exists (
  select from price_bar b
   where b.feed = (p_bar).feed and b.symbol = (p_bar).symbol and b.logical_time < (p_bar).logical_time
     and b.logical_time > p_open_at
     and b.logical_time > coalesce((p_order).logical_time, (c).first_logical_time - interval '1 microsecond'));
end $$;

-- writes: paper_order
create function engine.expire_day_orders(c engine.context, p_closed_by timestamptz, p_time timestamptz) returns engine.context
language plpgsql as $$
begin
  update paper_order o set status = 'EXPIRED', closed_time = p_time
   where o.user_id = c.user_id and o.run_id = c.run_id and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')
     and o.time_in_force = 'DAY' and engine.day_close(c, o.logical_time) <= p_closed_by;
  c.has_written := c.has_written or found;
  return c;
end $$;

-- Fill what is left of the order at p_price, or reject it when cash, position or a limit no longer allows it.
-- writes: paper_order, paper_trade, cash_ledger, paper_position
create function engine.fill_order(c engine.context, p_order paper_order, p_time timestamptz, p_price numeric) returns engine.context
language plpgsql as $$
declare
  v_quantity numeric := p_order.quantity - p_order.filled_quantity;
  v_reason text := engine.reject_reason(c, p_order.symbol, p_order.side, v_quantity, p_price,
                                        engine.reserved_cash(c, p_order.order_id), 0);
begin
  c.has_written := true;
  if v_reason is not null then
    -- what has been filled stays filled, so only an untouched order can still be rejected
    update paper_order o
       set status = case when o.filled_quantity = 0 then 'REJECTED' else 'CANCELED' end,
           reject_reason = case when o.filled_quantity = 0 then v_reason end, closed_time = p_time
     where o.user_id = c.user_id and o.run_id = c.run_id and o.order_id = p_order.order_id;
    return c;
  end if;
  c := engine.book_trade(c, p_order.order_id, p_time, p_order.symbol, p_order.side, v_quantity, p_price, 0);
  c.made := c.made + 1;
  update paper_order o
     set status = 'FILLED', filled_quantity = o.quantity, closed_time = p_time,
         avg_fill_price = round((o.filled_quantity * coalesce(o.avg_fill_price, 0) + v_quantity * p_price) / o.quantity, 8)
   where o.user_id = c.user_id and o.run_id = c.run_id and o.order_id = p_order.order_id;
  return c;
end $$;

-- One bar time: expire DAY orders of earlier sessions, match sells before buys, expire DAY orders at the close.
-- writes: paper_order, paper_trade, cash_ledger, paper_position
create function engine.match_bar(c engine.context, p_time timestamptz) returns engine.context
language plpgsql as $$
declare
  s engine.market_session := engine.session_at(c.calendar, p_time);
  v record;
  v_price numeric;
begin
  c := engine.expire_day_orders(c, p_time - interval '1 microsecond', p_time);
  if s.open_at is null then
    return c;
  end if;
  for v in
    select o as paper_order, b as price_bar
      from paper_order o
      join price_bar b on b.feed = c.feed and b.symbol = o.symbol and b.logical_time = p_time
     where o.user_id = c.user_id and o.run_id = c.run_id and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')
       and (o.logical_time is null or o.logical_time < p_time)
     order by o.side = 'BUY', o.order_id
  loop
    v_price := engine.fill_price(v.paper_order, v.price_bar, engine.is_fresh(c, v.paper_order, v.price_bar, s.open_at));
    if v_price is not null then
      c := engine.fill_order(c, v.paper_order, p_time, v_price);
    end if;
  end loop;
  return engine.expire_day_orders(c, p_time, p_time);
end $$;

-- Every bar time after the last tick, or after a later time that a step has closed, up to p_to; on a run's first tick
-- only p_to itself.
-- writes: paper_order, paper_trade, cash_ledger, paper_position
create function engine.match_through(c engine.context, p_to timestamptz) returns engine.context
language plpgsql as $$
declare
  v_time timestamptz := coalesce(greatest(c.last_logical_time, c.closed_through), p_to - interval '1 microsecond');
begin
  loop
    v_time := engine.next_match_time(c, v_time, p_to);
    exit when v_time is null;
    c := engine.match_bar(c, v_time);
  end loop;
  return c;
end $$;
