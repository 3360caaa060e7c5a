-- Margin accounts (initial_margin is set): they may sell short and borrow. Equity = cash + values of positions, exposure =
-- the sum of their |values|. An order that opens needs equity >= initial_margin × exposure after it; at an open tick
-- positions are closed until equity >= maintenance_margin × exposure. A cash account never comes here.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

create function engine.require_margin(p_initial_margin numeric, p_maintenance_margin numeric, p_borrow_rate numeric, p_margin_rate numeric) returns void
language plpgsql as $$
begin
  perform engine.require(coalesce(round(p_initial_margin, 8) > 0 and p_initial_margin <= 1, p_initial_margin is null),
                         format('argument=initial_margin value=%s must_be=above_0_to_1', p_initial_margin));
  perform engine.require((p_initial_margin is null) = (p_maintenance_margin is null)
                         and coalesce(round(p_maintenance_margin, 8) > 0 and p_maintenance_margin <= p_initial_margin, p_maintenance_margin is null),
                         format('argument=maintenance_margin value=%s must_be=above_0_to_initial_margin_and_given_with_it', p_maintenance_margin));
  perform engine.require(p_borrow_rate between 0 and 100 and (p_initial_margin is not null or p_borrow_rate = 0),
                         format('argument=borrow_rate value=%s must_be=0_to_100_of_a_margin_account', p_borrow_rate));
  perform engine.require(p_margin_rate between 0 and 100 and (p_initial_margin is not null or p_margin_rate = 0),
                         format('argument=margin_rate value=%s must_be=0_to_100_of_a_margin_account', p_margin_rate));
end $$;

-- What the run holds, each at its last close at or before p_time: market_value, symbol by symbol. A symbol without a price
-- has no value: marks refuse it, and an order there is checked again at its fill.
create function engine.holdings(c engine.context, p_time timestamptz)
returns table (symbol text, quantity numeric, price numeric, value numeric)
language sql stable
begin atomic
  select h.symbol, h.quantity, b.close::numeric, engine.value(h.quantity, b.close, a.scale)
    from (select c.feed as feed, p_time as upto, c.scale as scale, c.symbols as symbols, c.quantities as quantities offset 0) a
   cross join unnest(a.symbols, a.quantities) h (symbol, quantity)
    left join lateral (select b.close from price_bar b
                        where b.feed = a.feed and b.symbol = h.symbol and b.logical_time <= a.upto
                        order by b.logical_time desc limit 1) b on true
   where h.quantity <> 0;
end;

-- How many units of an order open or add to a position, and do not only reduce it. p_held: units held on the order's side,
-- negative against it, where open orders of its side, p_open, come first.
create function engine.opening_units(p_held numeric, p_quantity numeric, p_open numeric) returns numeric
language sql immutable return greatest(0, least(p_quantity, p_quantity + p_open - greatest(0, -p_held)));

-- Price at which an order of p_quantity units reserves exposure: of those that open, spread over all, fees included and
-- upwards, so that any part of it that is still open reserves its share. Null: nothing.
create function engine.margin_reserve(
  c engine.context, p_symbol text, p_side text, p_quantity numeric, p_price numeric, p_fees numeric, p_released_units numeric
) returns numeric
language plpgsql stable as $$
declare
  v_sign constant int := case p_side when 'BUY' then 1 else -1 end;
  v_opening constant numeric := engine.opening_units(v_sign * coalesce(c.quantities[array_position(c.symbols, p_symbol)], 0),
                                                     p_quantity, engine.open_quantity(c, p_symbol, p_side) - p_released_units);
begin
  return case when v_opening > 0 then ceil((v_opening * p_price + p_fees) / p_quantity * 1e8) / 1e8 end;
end $$;

-- reject_reason of a margin account. What only reduces a position may always stand, limits aside. Else equity after it,
-- this symbol at the order's price and the others at their last close, less initial margin on what open orders reserve,
-- is at least initial margin on the exposure. The exit of a bracket never opens a position: when what it was to close is
-- gone, it is rejected as in a cash account.
create function engine.margin_reason(
  c engine.context, p_symbol text, p_side text, p_quantity numeric, p_price numeric, p_reserved numeric, p_open numeric,
  p_time timestamptz, p_fees numeric, p_is_exit boolean
) returns text
language plpgsql stable as $$
declare
  v_sign constant int := case p_side when 'BUY' then 1 else -1 end;
  v_held constant numeric := coalesce(c.quantities[array_position(c.symbols, p_symbol)], 0);
  v_opening constant numeric := engine.opening_units(v_sign * v_held, p_quantity, p_open);
  v_value constant numeric := engine.value(p_quantity, p_price, c.scale);
  v_equity numeric;
  v_exposure numeric;
begin
  if p_symbol = any (c.forbidden) then
    return 'SYMBOL_FORBIDDEN';
  elsif v_value > c.max_order_value then
    return 'ORDER_VALUE_EXCEEDED';
  elsif v_sign * v_held + p_open + p_quantity > c.max_position then
    return 'POSITION_LIMIT_EXCEEDED';
  elsif v_opening = 0 or p_price is null then
    return null;
  elsif p_is_exit then
    return 'POSITION_INSUFFICIENT';
  end if;

  select coalesce(sum(h.value), 0), coalesce(sum(abs(h.value)), 0) into v_equity, v_exposure
    from engine.holdings(c, p_time) h where h.symbol <> p_symbol;
  v_equity := v_equity + c.cash - v_sign * v_value - p_fees + engine.value(v_held + v_sign * p_quantity, p_price, c.scale);
  v_exposure := v_exposure + engine.value(greatest(v_sign * v_held, 0) + v_opening, p_price, c.scale);
  return case when v_equity < (c.terms).initial_margin * (v_exposure + p_reserved) then 'CASH_INSUFFICIENT' end;
end $$;

-- The first time of a market date charges for the days since the last one: a fee on what was sold short, at the closes
-- of that time, and interest on negative cash. p_since: the last tick or step. Comes before all else of its time.
-- writes: cash_ledger
create function engine.charge_interest(c engine.context, p_time timestamptz, p_since timestamptz default null) returns engine.context
language plpgsql as $$
declare
  v_since constant timestamptz := coalesce(p_since, greatest(c.last_logical_time, c.step_logical_time));
  v_days int;
  v_short numeric;
  v_fee numeric;
  v_interest numeric;
begin
  if (c.terms).initial_margin is null or c.is_closed or v_since is null then
    return c;
  end if;
  v_days := engine.trade_date(p_time, c.time_zone) - engine.trade_date(v_since, c.time_zone);
  if v_days = 0 or not engine.owes_interest(c) then
    return c;
  end if;
  select coalesce(sum(-h.value), 0) into v_short from engine.holdings(c, v_since) h where h.quantity < 0;
  v_fee := round(v_short * (c.terms).borrow_rate * v_days / 365, c.scale);
  v_interest := round(greatest(-c.cash, 0) * (c.terms).margin_rate * v_days / 365, c.scale);
  if v_fee > 0 then
    c := engine.book_cash(c, p_time, -v_fee, 'BORROW_FEE');
    c.has_written := true;
  end if;
  if v_interest > 0 then
    c := engine.book_cash(c, p_time, -v_interest, 'MARGIN_INTEREST');
    c.has_written := true;
  end if;
  return c;
end $$;

-- May a new date bring a charge?
create function engine.owes_interest(c engine.context) returns boolean
language plpgsql immutable as $$
begin
  return (c.terms).borrow_rate > 0 and 0 > any (c.quantities) is true or (c.terms).margin_rate > 0 and c.cash < 0;
end $$;

-- At an open time: when equity no longer carries the exposure, whole positions are closed at the close, the largest
-- first, until it does. That needs no leave: limits and reservations do not count. A stale price has to wait.
create function engine.call_margin(c engine.context, p_time timestamptz) returns engine.context
language plpgsql stable as $$
declare
  v_margin constant numeric := (c.terms).maintenance_margin;
  v_equity numeric;
  v_exposure numeric;
  v record;
  e engine.entry;
begin
  select c.cash + coalesce(sum(h.value), 0), coalesce(sum(abs(h.value)), 0) into v_equity, v_exposure from engine.holdings(c, p_time) h;
  if v_equity >= v_margin * v_exposure
     or exists (select from event_ledger x where x.user_id = c.user_id and x.run_id = c.run_id
                   and x.event_type = 'MARGIN_CALL' and x.event_key = engine.iso(p_time)) then
    return c;
  end if;
  e.event_type := 'MARGIN_CALL';
  e.event_key := engine.iso(p_time);
  e.payload := jsonb_build_object('equity', trim_scale(v_equity), 'exposure', trim_scale(v_exposure));
  for v in select h.symbol, h.quantity, h.price, h.value, case when h.quantity > 0 then 'SELL' else 'BUY' end as side
             from engine.holdings(c, p_time) h order by abs(h.value) desc, h.symbol collate "C" loop
    continue when engine.tradable_close(c.feed, v.symbol, p_time, (c.terms).max_price_age) is null;
    e.fee_items := engine.fill_fees(c, null, v.symbol, v.side, p_time, abs(v.quantity), v.price);
    c := engine.order_at_close(c, p_time, v.symbol, v.side, abs(v.quantity), v.price, 'MARGIN', null, e);
    c.has_moved_plans := true;   -- there is an event to be written
    e.event_type := null;        -- and it is told once
    v_equity := v_equity - engine.fee_sum(e.fee_items);
    v_exposure := v_exposure - abs(v.value);
    exit when v_equity >= v_margin * v_exposure;
  end loop;
  return c;
end $$;

-- Of the quiet times p_times[p_from], … before p_to: the first that is not quiet for a margin account, else p_to. A new
-- date may charge, that of the first time of all has; and an open time at which equity no longer carries the exposure is
-- found like marks are, in one statement: net values from one span, exposure from another with |quantities|.
create function engine.first_margin_event(c engine.context, p_times timestamptz[], p_from int, p_to int) returns int
language plpgsql stable as $$
declare
  v_net engine.span;
  v_gross engine.span;
  v_breach timestamptz;
begin
  if engine.owes_interest(c) then
    p_to := least(p_to, (select min(i) from generate_series(greatest(p_from, 2), p_to - 1) i
                          where engine.trade_date(p_times[i], c.time_zone) > engine.trade_date(p_times[i - 1], c.time_zone)));
  end if;
  if p_from >= p_to or (0 <> any (c.quantities)) is not true then
    return p_to;
  end if;
  v_net := engine.span_of(c, p_times[p_from : p_to - 1]);
  v_net.run_id := 1;
  v_gross := v_net;
  v_gross.run_id := 2;
  v_gross.quantities := array(select abs(u.q) from unnest(v_net.quantities) with ordinality u (q, n) order by u.n);
  select min(m.logical_time) into v_breach
    from (select v.logical_time, c.cash + sum(v.market_value) filter (where v.run_id = 1) as equity,
                 sum(v.market_value) filter (where v.run_id = 2) as exposure
            from engine.marks(c.feed, array[v_net, v_gross]) v group by v.logical_time) m
   cross join lateral engine.session_by(c.calendar, m.logical_time) n
   where m.equity < (c.terms).maintenance_margin * m.exposure and n.open_at < m.logical_time;
  return coalesce(array_position(p_times, v_breach), p_to);
end $$;
