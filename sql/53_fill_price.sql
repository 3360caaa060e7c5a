-- Orders on bars, the rules: does a bar reach the order, and at what price does it fill?
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

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
