-- Orders on bars, the search: at which bar is an open order met. That depends on nothing but the order and the bars, so it
-- is found once, by an index; what cash, holdings, volume and limits then make of it is 57_fill.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- What becomes of an order next, after p_after and up to p_upto; at most one row.
--   end   DAY: the first bar time of the feed at or after the close of the session in which the order was accepted;
--         accepted while the market is closed, it belongs to the next session; before the first tick, to that one.
--         GTD: the same with its good_till.
--   bar   the first of its symbol, in a session and not after the end, that fills or triggers the order. IOC and FOK:
--         the first at all, or the one that triggers them.
-- A trailing stop meets each bar with the stop that the bars before it have made.
create function engine.fate(
  p_feed text, p_calendar text, p_first timestamptz, p_after timestamptz, p_upto timestamptz, p_penetration int, o paper_order
) returns table (logical_time timestamptz, phase int, price numeric, is_trigger boolean, stop_price numeric,
                 open numeric, low numeric, high numeric, volume numeric)
language sql stable
begin atomic
  select f.logical_time, f.phase,
         case when b.open_at < b.logical_time then
           engine.bar_price(o, p_feed, t.accepted, t.through, t.is_live, b.stop_price, b.open_at, b.logical_time, b.open, b.high, b.low, b.close) end,
         b.logical_time is not null and not t.is_live, b.stop_price,
         case when b.open_at < b.logical_time then b.open end, b.low, b.high, b.volume
    from (select not engine.is_stop((o).order_type) or (o).status <> 'PENDING' as is_live,
                 coalesce((o).logical_time, p_first - interval '1 microsecond') as accepted,
                 engine.penetration(p_penetration, (o).symbol) as through offset 0) t
    left join lateral engine.deadline(p_calendar, t.accepted, o) d on true
    left join lateral (
      select b.logical_time, b.logical_time > d.at as is_past from price_bar b
       where b.feed = p_feed and b.logical_time >= d.at and b.logical_time > p_after and b.logical_time <= p_upto
       order by b.logical_time limit 1) e on true
    left join lateral (
      (select b.logical_time, b.open, b.high, b.low, b.close, b.volume, n.open_at, (o).stop_price as stop_price
         from price_bar b
        cross join lateral engine.session_by(p_calendar, b.logical_time) n
        where b.feed = p_feed and b.symbol = (o).symbol and b.logical_time > p_after
          and b.logical_time <= coalesce(e.logical_time, p_upto) and (b.logical_time < e.logical_time or e.is_past is not true)
          and ((o).order_type <> 'TRAILING_STOP' or t.is_live)
          and engine.is_met(o, p_feed, t.accepted, t.through, t.is_live, (o).stop_price, n.open_at, b.logical_time, b.open, b.high, b.low)
        order by b.logical_time limit 1)
      union all
      (select x.*
         from engine.stopped_bars(p_feed, p_calendar, o, p_after, coalesce(e.logical_time, p_upto)) x
        where (o).order_type = 'TRAILING_STOP' and not t.is_live and (x.logical_time < e.logical_time or e.is_past is not true)
          and engine.is_met(o, p_feed, t.accepted, t.through, false, x.stop_price, x.open_at, x.logical_time, x.open, x.high, x.low)
        order by x.logical_time limit 1)) b on true
   cross join lateral (
      select coalesce(b.logical_time, e.logical_time) as logical_time,
             case when b.logical_time is not null then engine.fill_phase(o) when e.is_past then 0 else 4 end as phase offset 0) f
   where f.logical_time is not null;
end;

-- The fates of all open orders after p_after up to p_to, in the order of execution: by bar time; within it orders whose
-- time was over before, protective exits, other sells, buys, and orders whose time ends with this bar; by order_id.
-- The first FROM item hides the values from the planner: with nothing to look at, it plans once and not at every call.
create function engine.open_matches(c engine.context, p_after timestamptz, p_to timestamptz) returns refcursor
language plpgsql as $$
declare
  v_cursor refcursor;
begin
  open v_cursor for
    select f.logical_time, f.phase, f.price, f.is_trigger, f.stop_price, f.open, f.low, f.high, f.volume,
           o.order_id, o.symbol, o.side, o.order_type, o.time_in_force, o.quantity, o.filled_quantity, o.reserve_price,
           o.oco_id, num_nonnulls(o.take_profit_price, o.stop_loss_price) > 0
      from (select c.user_id as user_id, c.run_id as run_id, c.feed as feed, c.calendar as calendar, p_after as after,
                   p_to as upto, c.first_logical_time as first, (c.terms).penetration_ticks as penetration offset 0) a
      join paper_order o on o.user_id = a.user_id and o.run_id = a.run_id and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')
       and (o.logical_time < a.upto or o.logical_time is null)
     cross join lateral engine.fate(a.feed, a.calendar, a.first, greatest(a.after, o.logical_time, o.seen_time), a.upto, a.penetration, o) f
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
  v_is_met boolean;
begin
  c.horizon := p_to;
  if not c.has_open_orders then
    return c;
  end if;
  v_after := coalesce(greatest(c.last_logical_time, c.closed_through), p_to - interval '1 microsecond');
  select exists (
    select from paper_order o
     where o.user_id = a.user_id and o.run_id = a.run_id and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')
       and (o.time_in_force <> 'GTC' or o.order_type = 'TRAILING_STOP'
        or exists (select from price_bar b
                    where b.feed = a.feed and b.symbol = o.symbol and b.logical_time > greatest(a.after, o.logical_time)
                      and b.logical_time <= a.upto
                      and case when engine.is_stop(o.order_type) and o.status = 'PENDING' then engine.is_triggered(o.side, o.stop_price, b.high, b.low)
                               else engine.fill_price(o.order_type, o.side, o.limit_price, o.stop_price, true, b.open, b.high, b.low, b.close, true, 0) is not null end))),
         exists (select from paper_order o
                  where o.user_id = a.user_id and o.run_id = a.run_id and o.order_type = 'TRAILING_STOP' and o.status = 'PENDING')
    into v_is_met, c.has_trailing
    from (select c.user_id as user_id, c.run_id as run_id, c.feed as feed, v_after as after, p_to as upto offset 0) a;
  if v_is_met then
    c.matches := engine.open_matches(c, v_after, p_to);
    c := engine.next_match(c);
  end if;
  return c;
end $$;

-- The next match, from the cursor or from the agenda of orders that have been looked up again, whichever is earlier.
create function engine.next_match(c engine.context) returns engine.context
language plpgsql as $$
declare
  v_cursor refcursor := c.matches;
  m engine.match := c.ahead;
  a engine.match := c.agenda[1];
begin
  if m.order_id is null and v_cursor is not null then
    fetch v_cursor into m;
    if not found then
      close v_cursor;
      c.matches := null;
      m := null;
    end if;
  end if;
  if a.order_id is null then
    c.ahead := null;
  elsif m.order_id is null or (a.logical_time, a.phase, a.order_id) < (m.logical_time, m.phase, m.order_id) then
    c.ahead := m;
    c.agenda := c.agenda[2:];
    m := a;
  else
    c.ahead := null;
  end if;
  c.match := m;
  return c;
end $$;

-- Look up again, after p_after, what becomes of orders that stay open or have just come to be. They are posted.
create function engine.look_again(c engine.context, p_order_ids bigint[], p_after timestamptz) returns engine.context
language plpgsql stable as $$
begin
  c.agenda := array(
    select x from (
      select * from unnest(c.agenda)
      union all
      select f.logical_time, f.phase, f.price, f.is_trigger, f.stop_price, f.open, f.low, f.high, f.volume,
             o.order_id, o.symbol, o.side, o.order_type, o.time_in_force, o.quantity, o.filled_quantity, o.reserve_price,
             o.oco_id, num_nonnulls(o.take_profit_price, o.stop_loss_price) > 0
        from paper_order o
       cross join lateral engine.fate(c.feed, c.calendar, c.first_logical_time, p_after, c.horizon, (c.terms).penetration_ticks, o) f
       where o.user_id = c.user_id and o.run_id = c.run_id and o.order_id = any (p_order_ids)
    ) y
   cross join lateral (select row(y.*)::engine.match as x) z
   order by y.logical_time, y.phase, y.order_id);
  return c;
end $$;

-- Trailing stops follow the bars that they have survived, up to p_to.
-- writes: paper_order
create function engine.ratchet(c engine.context, p_to timestamptz) returns void
language plpgsql as $$
begin
  update paper_order o
     set stop_price = engine.trailed(o.side, o.stop_price, o.trail_amount, o.trail_percent, b.high, b.low),
         seen_time = b.logical_time
    from paper_order p
   cross join lateral (
      select max(b.logical_time) as logical_time, max(b.high) as high, min(b.low) as low
        from price_bar b
       cross join lateral engine.session_by(c.calendar, b.logical_time) n
       where b.feed = c.feed and b.symbol = p.symbol and n.open_at < b.logical_time
         and b.logical_time > coalesce(greatest(p.logical_time, p.seen_time), c.first_logical_time - interval '1 microsecond') and b.logical_time <= p_to) b
   where p.user_id = c.user_id and p.run_id = c.run_id and p.order_type = 'TRAILING_STOP' and p.status = 'PENDING'
     and b.logical_time is not null
     and o.user_id = p.user_id and o.run_id = p.run_id and o.order_id = p.order_id;
end $$;
