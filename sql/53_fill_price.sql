-- Orders on bars, the rules: does a bar reach the order, and at what price does it fill?
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Orders that wait for bars. Those of other sources are filled at a close in the moment they are made.
create function engine.meets_bars(p_source text) returns boolean
language sql immutable return p_source in ('CLIENT', 'BRACKET');

create function engine.is_stop(p_order_type text) returns boolean
language sql immutable return p_order_type in ('STOP', 'STOP_LIMIT', 'TRAILING_STOP');

-- Does the order no longer wait for its stop?
create function engine.is_live(p_order_type text, p_status text) returns boolean
language sql immutable return not engine.is_stop(p_order_type) or p_status <> 'PENDING';

-- Does the bar reach the stop?
create function engine.is_triggered(p_side text, p_stop_price numeric, p_high numeric, p_low numeric) returns boolean
language sql immutable return case p_side when 'BUY' then p_high >= p_stop_price else p_low <= p_stop_price end;

-- What a bar must do to reach an order: come down to low_reach or up to high_reach; null = that does not help. A bar that
-- does neither leaves the order as it is. p_is_live: no stop, or triggered on an earlier bar.
create function engine.low_reach(p_side text, p_limit_price numeric, p_stop_price numeric, p_is_live boolean) returns numeric
language sql immutable
return case when p_is_live and p_limit_price is null then 1e12 when p_is_live and p_side = 'BUY' then p_limit_price
            when not p_is_live and p_side = 'SELL' then p_stop_price end;

create function engine.high_reach(p_side text, p_limit_price numeric, p_stop_price numeric, p_is_live boolean) returns numeric
language sql immutable
return case when p_is_live and p_side = 'SELL' then p_limit_price when not p_is_live and p_side = 'BUY' then p_stop_price end;

-- The stop of a trailing order after the price has been at its best, p_extreme: the high for a sale, the low for a buy.
-- Null where that is no price.
create function engine.trail_stop(p_side text, p_trail_amount numeric, p_trail_percent numeric, p_extreme numeric) returns numeric
language sql immutable
return nullif(nullif(least(1e12, greatest(0,
  round(p_extreme + case p_side when 'BUY' then 1 else -1 end * coalesce(p_trail_amount, p_extreme * p_trail_percent / 100), 8))), 0), 1e12);

-- The stop after it has followed the bars between these extremes: it never moves away from the price.
create function engine.trailed(
  p_side text, p_stop_price numeric, p_trail_amount numeric, p_trail_percent numeric, p_high numeric, p_low numeric
) returns numeric
language sql immutable
return case p_side when 'SELL' then greatest(p_stop_price, engine.trail_stop('SELL', p_trail_amount, p_trail_percent, p_high))
                   when 'BUY' then least(p_stop_price, engine.trail_stop('BUY', p_trail_amount, p_trail_percent, p_low)) end;

-- The stop with which a trailing order is accepted: from the last close then.
create function engine.first_stop(p_feed text, o paper_order) returns numeric
language sql stable
return engine.trail_stop(o.side, o.trail_amount, o.trail_percent, engine.last_close(p_feed, o.symbol, o.logical_time));

-- How far beyond its limit a bar must go to fill a resting order.
create function engine.penetration(p_ticks int, p_symbol text) returns numeric
language plpgsql stable as $$
begin
  return p_ticks * (select coalesce(i.price_tick, 0.00000001) from instrument i where i.symbol = p_symbol);
end $$;

-- A limit order on a bar. Fresh, the first bar it sees or the first of a session: at the open if that is no worse. Else
-- at the limit, once the bar has gone p_through beyond it; a bar that lies wholly beyond fills at its nearer end, never
-- outside of the bar. Null when the bar does not reach the order.
create function engine.limit_fill(
  p_side text, p_limit_price numeric, p_open numeric, p_high numeric, p_low numeric, p_is_fresh boolean, p_through numeric
) returns numeric
language sql immutable
return case
  when p_side = 'BUY' then case
    when p_is_fresh and p_open <= p_limit_price then p_open
    when p_low <= p_limit_price - p_through then least(p_high, p_limit_price) end
  when p_is_fresh and p_open >= p_limit_price then p_open
  when p_high >= p_limit_price + p_through then greatest(p_low, p_limit_price)
end;

-- Any order on a bar; p_is_live: no stop, or triggered on an earlier bar. MARKET: the open. STOP and TRAILING_STOP: the
-- open if it lies beyond the stop, else the stop; once triggered, MARKET. STOP_LIMIT: when the open lies beyond the stop,
-- the limit rule on this bar; when the stop is met within the bar, at the stop if the limit allows it, else at the limit
-- if the close shows that the price came back to it; once triggered, LIMIT. Null when the bar does not fill the order.
create function engine.fill_price(
  p_order_type text, p_side text, p_limit_price numeric, p_stop_price numeric, p_is_live boolean,
  p_open numeric, p_high numeric, p_low numeric, p_close numeric, p_is_fresh boolean, p_through numeric
) returns numeric
language sql immutable
return case
  when p_order_type = 'LIMIT' or p_is_live and p_order_type = 'STOP_LIMIT' then
    engine.limit_fill(p_side, p_limit_price, p_open, p_high, p_low, p_is_fresh, p_through)
  when p_order_type = 'MARKET' or p_is_live then p_open
  when not engine.is_triggered(p_side, p_stop_price, p_high, p_low) then null
  when p_order_type in ('STOP', 'TRAILING_STOP') then
    case p_side when 'BUY' then greatest(p_open, p_stop_price) when 'SELL' then least(p_open, p_stop_price) end
  when engine.is_triggered(p_side, p_stop_price, p_open, p_open) then
    engine.limit_fill(p_side, p_limit_price, p_open, p_high, p_low, true, p_through)
  when p_side = 'BUY' and p_limit_price >= p_stop_price or p_side = 'SELL' and p_limit_price <= p_stop_price then p_stop_price
  when p_side = 'BUY' and p_close <= p_limit_price or p_side = 'SELL' and p_close >= p_limit_price then p_limit_price
end;

-- Is the bar at p_time the first of its symbol since p_since, the order's acceptance, or in its session?
create function engine.is_first_bar(p_feed text, p_symbol text, p_time timestamptz, p_open_at timestamptz, p_since timestamptz) returns boolean
language plpgsql stable as $$
begin
  return not exists (select from price_bar b
                      where b.feed = p_feed and b.symbol = p_symbol and b.logical_time < p_time and b.logical_time > greatest(p_open_at, p_since));
end $$;

-- fill_price for an order and a bar at p_time of the session that opens at p_open_at. p_through: its penetration.
create function engine.bar_price(
  o paper_order, p_feed text, p_accepted timestamptz, p_through numeric, p_is_live boolean, p_stop_price numeric,
  p_open_at timestamptz, p_time timestamptz, p_open numeric, p_high numeric, p_low numeric, p_close numeric
) returns numeric
language sql stable
return engine.fill_price((o).order_type, (o).side, (o).limit_price, p_stop_price, p_is_live, p_open, p_high, p_low, p_close,
  (o).limit_price is null or engine.is_first_bar(p_feed, (o).symbol, p_time, p_open_at, p_accepted), p_through);

-- Is the order met on this bar: is it triggered, filled, or ended by it? IOC and FOK, once live, are by any bar; all
-- others by one in a session that reaches them.
create function engine.is_met(
  o paper_order, p_feed text, p_accepted timestamptz, p_through numeric, p_is_live boolean, p_stop_price numeric,
  p_open_at timestamptz, p_time timestamptz, p_open numeric, p_high numeric, p_low numeric
) returns boolean
language sql stable
return case
  when p_is_live and (o).time_in_force in ('IOC', 'FOK') then true
  when p_open_at >= p_time then false
  when not p_is_live then engine.is_triggered((o).side, p_stop_price, p_high, p_low)
  when (o).limit_price is null then true
  else engine.limit_fill((o).side, (o).limit_price, p_open, p_high, p_low, false, p_through) is not null
    or p_through > 0 and engine.limit_fill((o).side, (o).limit_price, p_open, p_high, p_low, true, p_through) is not null
      and engine.is_first_bar(p_feed, (o).symbol, p_time, p_open_at, p_accepted)
end;

-- The time with which an order's life ends, if it has one. DAY: the close of the session in which it was accepted;
-- accepted while the market is closed, it belongs to the next session. GTD: its good_till.
create function engine.deadline(p_calendar text, p_accepted timestamptz, p_time_in_force text, p_good_till timestamptz)
returns table (at timestamptz)
language sql stable
begin atomic
  select n.close_at from engine.session_by(p_calendar, p_accepted + interval '1 microsecond') n where p_time_in_force = 'DAY'
  union all select p_good_till where p_time_in_force = 'GTD';
end;

-- What happens in one bar time happens in this order: protective exits, other sells, buys.
create function engine.fill_phase(p_order_type text, p_side text, p_is_exit boolean) returns int
language sql immutable
return case when engine.is_stop(p_order_type) and (p_side = 'SELL' or p_is_exit) then 1 when p_side = 'SELL' then 2 else 3 end;

-- The bars of an order's symbol after p_after up to p_upto, each with the stop that it meets: a trailing stop is made by
-- the bars before it, those outside of every session left out.
create function engine.stopped_bars(p_feed text, p_calendar text, o paper_order, p_after timestamptz, p_upto timestamptz)
returns table (logical_time timestamptz, open numeric, high numeric, low numeric, close numeric, volume numeric,
               open_at timestamptz, stop_price numeric)
language sql stable
begin atomic
  select b.logical_time, b.open, b.high, b.low, b.close, b.volume, n.open_at,
         case when (o).order_type <> 'TRAILING_STOP' then (o).stop_price
              else engine.trailed((o).side, (o).stop_price, (o).trail_amount, (o).trail_percent,
                     max(b.high) filter (where n.open_at < b.logical_time) over w,
                     min(b.low) filter (where n.open_at < b.logical_time) over w) end
    from price_bar b
   cross join lateral engine.session_by(p_calendar, b.logical_time) n
   where b.feed = p_feed and b.symbol = (o).symbol and b.logical_time > p_after and b.logical_time <= p_upto
  window w as (order by b.logical_time rows between unbounded preceding and 1 preceding);
end;
