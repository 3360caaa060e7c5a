-- Orders on bars. What becomes of an open order depends on nothing but itself and the bars, so it is found once, by an
-- index search; the orders then end one by one, in the order of their fates, and only cash, holdings and limits decide.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Contract of an order on a bar. MARKET: the open. LIMIT: the limit, or the open when the bar opens beyond it and is
-- the first bar the order sees or the first of a session (p_is_fresh). Null when the bar does not reach the order.
-- Never outside the bar: a bar that lies wholly beyond a resting limit fills at its nearer end.
create function engine.fill_price(
  p_order_type text, p_side text, p_limit_price numeric, p_open numeric, p_high numeric, p_low numeric, p_is_fresh boolean
) returns numeric
language sql immutable
return case
  when p_order_type = 'MARKET' then p_open
  when p_order_type <> 'LIMIT' then null
  when p_side = 'BUY' and p_low <= p_limit_price then
    case when p_is_fresh then least(p_open, p_limit_price) else least(p_high, p_limit_price) end
  when p_side = 'SELL' and p_high >= p_limit_price then
    case when p_is_fresh then greatest(p_open, p_limit_price) else greatest(p_low, p_limit_price) end
end;

-- What becomes of each open order in (p_after, p_to], in the order of execution: by bar time, then DAY orders of
-- earlier sessions expire, sells fill, buys fill, DAY orders of this session expire at its close, each by order_id.
--   expiry  the first bar time of the feed at or after the close of the session in which the order was accepted;
--           accepted while the market is closed, it belongs to the next session; before the first tick, to that one
--   fill    the first bar of its symbol, in a session, after acceptance and not after expiry, that reaches the order
-- The first FROM item hides the values from the planner: with nothing to look at, it plans once and not at every call.
create function engine.open_matches(c engine.context, p_after timestamptz, p_to timestamptz) returns refcursor
language plpgsql as $$
declare
  v_cursor refcursor;
begin
  open v_cursor for
    select f.logical_time, f.phase, engine.fill_price(o.order_type, o.side, o.limit_price, b.open, b.high, b.low, f.is_fresh),
           o.order_id, o.symbol, o.side, o.quantity, o.filled_quantity, o.reserve_price
      from (select c.user_id as user_id, c.run_id as run_id, c.feed as feed, c.calendar as calendar, p_after as after,
                   p_to as upto, c.first_logical_time as first offset 0) a
      join paper_order o on o.user_id = a.user_id and o.run_id = a.run_id and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')
       and (o.logical_time < a.upto or o.logical_time is null)
      left join lateral (
        select n.close_at from engine.session_by(a.calendar, coalesce(o.logical_time + interval '1 microsecond', a.first)) n
         where o.time_in_force = 'DAY') d on true
      left join lateral (
        select b.logical_time, b.logical_time > d.close_at as is_past from price_bar b
         where b.feed = a.feed and b.logical_time >= d.close_at and b.logical_time > a.after and b.logical_time <= a.upto
         order by b.logical_time limit 1) e on true
      left join lateral (
        select b.logical_time, b.open, b.high, b.low, n.open_at
          from price_bar b
         cross join lateral engine.session_by(a.calendar, b.logical_time) n
         where b.feed = a.feed and b.symbol = o.symbol and b.logical_time > greatest(a.after, o.logical_time)
           and b.logical_time <= coalesce(e.logical_time, a.upto) and (b.logical_time < e.logical_time or e.is_past is not true)
           and engine.fill_price(o.order_type, o.side, o.limit_price, b.open, b.high, b.low, true) is not null
           and n.open_at < b.logical_time
         order by b.logical_time limit 1) b on true
     cross join lateral (
        select coalesce(b.logical_time, e.logical_time) as logical_time,
               case when b.logical_time is null then case when e.is_past then 0 else 3 end
                    when o.side = 'SELL' then 1 else 2 end as phase,
               not exists (select from price_bar p
                            where p.feed = a.feed and p.symbol = o.symbol and p.logical_time < b.logical_time
                              and p.logical_time > greatest(b.open_at, coalesce(o.logical_time, a.first - interval '1 microsecond'))) as is_fresh offset 0) f
     where f.logical_time is not null
     order by f.logical_time, f.phase, o.order_id;
  return v_cursor;
end $$;

-- Look ahead at what open orders will meet after the last tick, or after a later time that a step has closed, up to
-- p_to; on a run's first tick at p_to only. Leaves the first match in the context, and the cursor behind it. Most ticks
-- meet nothing: a short question finds that out before the long one is asked.
create function engine.watch_orders(c engine.context, p_to timestamptz) returns engine.context
language plpgsql as $$
declare
  v_after timestamptz;
begin
  if not c.has_open_orders then
    return c;
  end if;
  v_after := coalesce(greatest(c.last_logical_time, c.closed_through), p_to - interval '1 microsecond');
  if exists (
    select from (select c.user_id as user_id, c.run_id as run_id, c.feed as feed, v_after as after, p_to as upto offset 0) a
      join paper_order o on o.user_id = a.user_id and o.run_id = a.run_id and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')
     where o.time_in_force = 'DAY'
        or exists (select from price_bar b
                    where b.feed = a.feed and b.symbol = o.symbol and b.logical_time > greatest(a.after, o.logical_time)
                      and b.logical_time <= a.upto
                      and engine.fill_price(o.order_type, o.side, o.limit_price, b.open, b.high, b.low, true) is not null))
  then
    c.matches := engine.open_matches(c, v_after, p_to);
    c := engine.next_match(c);
  end if;
  return c;
end $$;

create function engine.next_match(c engine.context) returns engine.context
language plpgsql as $$
declare
  v_cursor refcursor := c.matches;
  m engine.match;
begin
  fetch v_cursor into m;
  c.match := m;
  if not found then
    close v_cursor;
    c.match := null;
  end if;
  return c;
end $$;

-- The order of c.match ends: it expires, fills what is left of it, or is rejected when cash, position or a limit no
-- longer allows it. What has been filled stays filled, so only an untouched order can still be rejected.
create function engine.end_order(c engine.context) returns engine.context
language plpgsql stable as $$
declare
  o engine.match := c.match;
  e engine.entry;
begin
  c := engine.with_limits(c);
  c.reserved := c.reserved - engine.reservation(o.side, o.quantity - o.filled_quantity, o.reserve_price, c.scale);
  e.logical_time := o.logical_time;
  e.order_id := o.order_id;
  e.is_new := false;
  e.symbol := o.symbol;
  e.side := o.side;
  e.quantity := o.quantity - o.filled_quantity;
  e.price := o.price;
  if e.price is null then
    e.status := 'EXPIRED';
    return engine.note(c, e);
  end if;

  e.reject_reason := engine.reject_reason(c, e.symbol, e.side, e.quantity, e.price, c.reserved, 0);
  if e.reject_reason is null then
    e.status := 'FILLED';
    c.made := c.made + 1;
    return engine.book_trade(c, e);
  elsif o.filled_quantity = 0 then
    e.status := 'REJECTED';
  else
    e.status := 'CANCELED';
    e.reject_reason := null;
  end if;
  return engine.note(c, e);
end $$;

-- Every match up to p_to, in order.
create function engine.match_through(c engine.context, p_to timestamptz) returns engine.context
language plpgsql as $$
begin
  while (c.match).logical_time <= p_to loop
    c := engine.next_match(engine.end_order(c));
  end loop;
  return c;
end $$;
