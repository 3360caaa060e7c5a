-- Orders on bars, the search: at which bar is an open order met. That depends on nothing but the order and the bars, so it
-- is found once, by an index; what cash, holdings, volume and limits then make of it is 57_fill.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- What becomes of an order next, after p_after and up to p_upto; at most one row. p_ends_after: its time may be over at a
-- bar later than this; an order that has met its bar and stays open can still end with that bar.
--   end   DAY: the first bar time of the feed at or after the close of the session in which the order was accepted;
--         accepted while the market is closed, it belongs to the next session; before the first tick, to that one.
--         GTD: the same with its good_till.
--   bar   the first of its symbol, in a session and not after the end, that fills or triggers the order. IOC and FOK:
--         the first at all, or the one that triggers them.
-- A trailing stop meets each bar with the stop that the bars before it have made.
create function engine.fate(
  p_feed text, p_calendar text, p_first timestamptz, p_after timestamptz, p_ends_after timestamptz, p_upto timestamptz,
  p_penetration int, p_symbol text, p_side text, p_order_type text, p_status text, p_time_in_force text, p_accepted timestamptz, p_limit_price numeric,
  p_stop_price numeric, p_trail_amount numeric, p_trail_percent numeric, p_good_till timestamptz, p_is_exit boolean
) returns table (logical_time timestamptz, phase int, price numeric, is_trigger boolean, stop_price numeric, open numeric, low numeric, high numeric, volume numeric)
language sql stable
begin atomic
  select f.logical_time, f.phase, case when b.open_at < b.logical_time then
           engine.fill_price(p_order_type, p_side, p_limit_price, b.stop_price, t.is_live, b.open, b.high, b.low, b.close,
                             p_limit_price is null or engine.is_first_bar(p_feed, p_symbol, b.logical_time, b.open_at, t.accepted), t.through) end,
         b.logical_time is not null and not t.is_live, b.stop_price,
         case when b.open_at < b.logical_time then b.open end, b.low, b.high, b.volume
    from (select l.is_live, l.is_live and p_time_in_force in ('IOC', 'FOK') as is_brief,
                 engine.low_reach(p_side, p_limit_price, p_stop_price, l.is_live) as low_reach,
                 engine.high_reach(p_side, p_limit_price, p_stop_price, l.is_live) as high_reach,
                 coalesce(p_accepted, p_first - interval '1 microsecond') as accepted,
                 case when p_penetration = 0 then 0 else engine.penetration(p_penetration, p_symbol) end as through
            from (select engine.is_live(p_order_type, p_status) as is_live) l offset 0) t
    left join lateral engine.deadline(p_calendar, t.accepted, p_time_in_force, p_good_till) d on true
    left join lateral (
      select b.logical_time, b.logical_time > d.at as is_past from price_bar b
       where b.feed = p_feed and b.logical_time >= d.at and b.logical_time > p_ends_after and b.logical_time <= p_upto
       order by b.logical_time limit 1) e on true
    left join lateral (
      (select b.logical_time, b.open, b.high, b.low, b.close, b.volume, n.open_at, p_stop_price as stop_price
         from price_bar b
        cross join lateral engine.session_by(p_calendar, b.logical_time) n
        where b.feed = p_feed and b.symbol = p_symbol and b.logical_time > p_after
          and b.logical_time <= coalesce(e.logical_time, p_upto) and (b.logical_time < e.logical_time or e.is_past is not true)
          and (p_order_type <> 'TRAILING_STOP' or t.is_live)
          and (t.is_brief or b.low <= t.low_reach or b.high >= t.high_reach)
          and (t.is_brief or n.open_at < b.logical_time)
          and (t.is_brief or t.through = 0 or not t.is_live or p_limit_price is null
            or engine.limit_fill(p_side, p_limit_price, b.open, b.high, b.low, false, t.through) is not null
            or engine.is_first_bar(p_feed, p_symbol, b.logical_time, n.open_at, t.accepted))
        order by b.logical_time limit 1)
      union all
      (select x.* from (
         select b.logical_time, b.open, b.high, b.low, b.close, b.volume, '-infinity'::timestamptz as open_at,
                engine.trailed(p_side, p_stop_price, p_trail_amount, p_trail_percent, max(b.high) over w, min(b.low) over w) as stop_price
           from price_bar b
          where p_order_type = 'TRAILING_STOP' and not t.is_live
            and (p_calendar = 'ALWAYS' or (select n.open_at < b.logical_time from engine.session_by(p_calendar, b.logical_time) n))
            and b.feed = p_feed and b.symbol = p_symbol and b.logical_time > p_after
            and b.logical_time <= coalesce(e.logical_time, p_upto) and (b.logical_time < e.logical_time or e.is_past is not true)
         window w as (order by b.logical_time rows between unbounded preceding and 1 preceding)) x
        where engine.is_triggered(p_side, x.stop_price, x.high, x.low)
        order by x.logical_time limit 1)) b on true
   cross join lateral (
      select coalesce(b.logical_time, e.logical_time) as logical_time,
             case when b.logical_time is null then case when e.is_past then 0 else 4 end
                  else engine.fill_phase(p_order_type, p_side, p_is_exit) end as phase offset 0) f
   where f.logical_time is not null;
end;

-- The next fate of each open order after p_after up to p_upto. p_order_ids: only of these, and exactly after p_after, be
-- they accepted then or not, and with ends after p_ends_after.
create function engine.fates(
  p_user_id bigint, p_run_id bigint, p_feed text, p_calendar text, p_first timestamptz, p_after timestamptz, p_ends_after timestamptz, p_upto timestamptz,
  p_penetration int, p_order_ids bigint[]
) returns setof engine.match
language sql stable
begin atomic
  select f.logical_time, f.phase, f.price, f.is_trigger, f.stop_price, f.open, f.low, f.high, f.volume,
         o.order_id, o.symbol, o.side, o.order_type, o.time_in_force, o.quantity::numeric, o.filled_quantity::numeric, o.reserve_price::numeric,
         o.oco_id, num_nonnulls(o.take_profit_price, o.stop_loss_price) > 0, o.parent_order_id is not null
    from paper_order o
   cross join lateral (select case when p_order_ids is null then greatest(p_after, o.logical_time, o.seen_time, o.triggered_time) else p_after end as after) s
   cross join lateral engine.fate(
     p_feed, p_calendar, p_first, s.after, case when p_order_ids is null then s.after else p_ends_after end, p_upto, p_penetration, o.symbol, o.side, o.order_type, o.status, o.time_in_force, o.logical_time, o.limit_price, o.stop_price,
     o.trail_amount, o.trail_percent, o.good_till, o.oco_id is not null or o.parent_order_id is not null) f
   where o.user_id = p_user_id and o.run_id = p_run_id and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')
     and case when p_order_ids is null then coalesce(o.logical_time < p_upto, true) else o.order_id = any (p_order_ids) end;
end;

-- All of them, in the order of execution: by bar time; within it orders whose time was over before, protective exits,
-- other sells, buys, and orders whose time ends with this bar; by order_id.
-- The first FROM item hides the values from the planner: with nothing to look at, it plans once and not at every call.
create function engine.open_matches(c engine.context, p_after timestamptz, p_to timestamptz) returns refcursor
language plpgsql as $$
declare
  v_cursor refcursor;
begin
  open v_cursor for
    select f.*
      from (select c.user_id as user_id, c.run_id as run_id, c.feed as feed, c.calendar as calendar, p_after as after,
                   p_to as upto, c.first_logical_time as first, (c.terms).penetration_ticks as penetration offset 0) a
     cross join lateral engine.fates(a.user_id, a.run_id, a.feed, a.calendar, a.first, a.after, null, a.upto, a.penetration, null) f
     order by f.logical_time, f.phase, f.order_id;
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
                      and (b.low <= engine.low_reach(o.side, o.limit_price, o.stop_price, engine.is_live(o.order_type, o.status))
                        or b.high >= engine.high_reach(o.side, o.limit_price, o.stop_price, engine.is_live(o.order_type, o.status)))))),
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
    select row(y.*)::engine.match
      from (select a.* from unnest(c.agenda) a
            union all
            select f.* from engine.fates(c.user_id, c.run_id, c.feed, c.calendar, c.first_logical_time, p_after, (c.match).logical_time - interval '1 microsecond', c.horizon,
                                         (c.terms).penetration_ticks, p_order_ids) f) y
     order by y.logical_time, y.phase, y.order_id);
  return c;
end $$;

-- Trailing stops follow the bars that they have survived, up to p_to; all of them, or that of one order. What the bars
-- have reached is asked once for all that wait since the same time.
-- writes: paper_order
create function engine.ratchet(c engine.context, p_to timestamptz, p_order_id bigint default null) returns void
language plpgsql as $$
begin
  with waiting as materialized (
    select p.order_id, p.symbol, coalesce(greatest(p.logical_time, p.seen_time), c.first_logical_time - interval '1 microsecond') as since
      from paper_order p
     where p.user_id = c.user_id and p.run_id = c.run_id and p.order_type = 'TRAILING_STOP' and p.status = 'PENDING'
       and p.order_id between coalesce(p_order_id, 1) and coalesce(p_order_id, 9223372036854775807)
  )
  update paper_order o
     set stop_price = engine.trailed(o.side, o.stop_price, o.trail_amount, o.trail_percent, b.high, b.low),
         seen_time = b.logical_time
    from (select distinct w.symbol, w.since from waiting w) s
   cross join lateral (
      select max(b.logical_time) as logical_time, max(b.high) as high, min(b.low) as low
        from price_bar b
       where b.feed = c.feed and b.symbol = s.symbol and b.logical_time > s.since and b.logical_time <= p_to
         and (c.calendar = 'ALWAYS' or (select n.open_at < b.logical_time from engine.session_by(c.calendar, b.logical_time) n))) b
    join waiting w on w.symbol = s.symbol and w.since = s.since
   where b.logical_time is not null
     and o.user_id = c.user_id and o.run_id = c.run_id and o.order_id = w.order_id;
end $$;
