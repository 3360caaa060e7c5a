-- Orders: acceptance. What happens on bars is in 55_match.sql.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Null, or a price that can be stored as it is.
create function engine.require_price(p_name text, p_price numeric) returns void
language plpgsql as $$
begin
  if p_price is not null then
    perform engine.require_positive(p_name, p_price);
    perform engine.require(p_price = round(p_price, 8), format('argument=%s must_be=at_most_8_decimals', p_name));
  end if;
end $$;

-- The numbers of an order's terms, as they are given: what is stored would be rounded.
create function engine.require_prices(p_limit_price numeric, p_stop_price numeric, p_trail_amount numeric, p_trail_percent numeric) returns void
language plpgsql as $$
begin
  perform engine.require_price('limit_price', p_limit_price), engine.require_price('stop_price', p_stop_price),
          engine.require_price('trail_amount', p_trail_amount);
  perform engine.require(coalesce(p_trail_percent, 1) > 0 and coalesce(p_trail_percent, 1) < 100
                         and coalesce(p_trail_percent, 1) = round(coalesce(p_trail_percent, 1), 6),
                         'argument=trail_percent must_be=between_0_and_100_with_at_most_6_decimals');
end $$;

create function engine.require_life(p_time_in_force text) returns void
language plpgsql as $$
begin
  perform engine.require(p_time_in_force in ('DAY', 'GTC', 'GTD', 'IOC', 'FOK'),
                         format('argument=time_in_force value=%s must_be=DAY|GTC|GTD|IOC|FOK', p_time_in_force));
end $$;

-- Refuses what cannot be an order at all, before anything is locked.
create function engine.require_order_terms(
  p_symbol text, p_side text, p_quantity numeric, p_order_type text, p_limit_price numeric, p_stop_price numeric,
  p_time_in_force text, p_client_order_id text, p_trail_amount numeric, p_trail_percent numeric, p_good_till timestamptz
) returns void
language plpgsql as $$
begin
  perform engine.require(p_symbol is not null and length(p_symbol) <= 64, 'argument=symbol must_be=at_most_64_characters');
  perform engine.require(p_side in ('BUY', 'SELL'), format('argument=side value=%s must_be=BUY|SELL', p_side));
  perform engine.require(p_order_type in ('MARKET', 'LIMIT', 'STOP', 'STOP_LIMIT', 'TRAILING_STOP'),
                         format('argument=order_type value=%s must_be=MARKET|LIMIT|STOP|STOP_LIMIT|TRAILING_STOP', p_order_type));
  perform engine.require_life(p_time_in_force);
  perform engine.require(length(coalesce(p_client_order_id, '-')) between 1 and 128, 'argument=client_order_id must_be=1_to_128_characters');
  perform engine.require_number('quantity', p_quantity);
  perform engine.require_given('limit_price', p_limit_price is not null, p_order_type in ('LIMIT', 'STOP_LIMIT'), 'LIMIT_and_STOP_LIMIT');
  perform engine.require_given('stop_price', p_stop_price is not null, p_order_type in ('STOP', 'STOP_LIMIT'), 'STOP_and_STOP_LIMIT');
  perform engine.require(num_nonnulls(p_trail_amount, p_trail_percent) = case p_order_type when 'TRAILING_STOP' then 1 else 0 end,
                         'argument=trail_amount,trail_percent must_be=one_of_them_for_TRAILING_STOP_only');
  perform engine.require_given('good_till', p_good_till is not null, p_time_in_force = 'GTD', 'GTD');
  perform engine.require_prices(p_limit_price, p_stop_price, p_trail_amount, p_trail_percent);
  if p_good_till is not null then
    perform engine.require_time(p_good_till);
  end if;
end $$;

-- The exits of a bracket lie on either side of its entry.
create function engine.require_exits(p_side text, p_limit_price numeric, p_take_profit numeric, p_stop_loss numeric, p_stop_loss_limit numeric) returns void
language plpgsql as $$
declare
  v_sign constant int := case p_side when 'BUY' then 1 else -1 end;
begin
  perform engine.require_price('take_profit', p_take_profit), engine.require_price('stop_loss', p_stop_loss),
          engine.require_price('stop_loss_limit', p_stop_loss_limit);
  perform engine.require(p_stop_loss is not null or p_stop_loss_limit is null, 'argument=stop_loss_limit must_be=given_with_stop_loss');
  perform engine.require(coalesce(v_sign * (p_take_profit - p_stop_loss) > 0, true), 'argument=take_profit,stop_loss must_be=on_either_side_of_the_entry');
  perform engine.require(coalesce(v_sign * (p_take_profit - p_limit_price) > 0, true) and coalesce(v_sign * (p_limit_price - p_stop_loss) > 0, true),
                         'argument=take_profit,stop_loss must_be=on_either_side_of_limit_price');
end $$;

-- Why the order cannot be accepted, null when it can. Off-step is tested on the quantity as given: an order is
-- rejected, never rounded. p_price is what it is valued at; released: cash and units of an order that it replaces.
create function engine.acceptance_reason(
  c engine.context, o paper_order, p_quantity numeric, p_price numeric, p_fees numeric, p_released_cash numeric, p_released_units numeric
) returns text
language plpgsql stable as $$
declare
  v_instrument instrument;
begin
  if round(p_quantity, 8) <= 0 then
    return 'QUANTITY_NOT_POSITIVE';
  end if;
  select * into v_instrument from instrument i where i.symbol = o.symbol;
  if not found then
    return 'SYMBOL_UNKNOWN';
  end if;
  if mod(p_quantity, v_instrument.quantity_step) <> 0 then
    return 'QUANTITY_OFF_STEP';
  end if;
  if v_instrument.price_tick is not null
     and exists (select from unnest(array[o.limit_price, o.take_profit_price, o.stop_loss_price, o.stop_loss_limit_price,
                                          case when o.order_type <> 'TRAILING_STOP' then o.stop_price end]) p (price)
                  where mod(p.price, v_instrument.price_tick) <> 0) then
    return 'PRICE_OFF_TICK';
  end if;
  -- null, when no price is known, waits for the fill
  if (c.terms).max_price_age is not null and o.order_type in ('MARKET', 'TRAILING_STOP')
     and engine.last_close(c.feed, o.symbol, c.last_logical_time) is not null
     and engine.tradable_close(c.feed, o.symbol, c.last_logical_time, (c.terms).max_price_age) is null then
    return 'PRICE_STALE';
  end if;
  c := engine.with_limits(c);
  return engine.reject_reason(c, o.symbol, o.side, p_quantity, p_price, c.reserved - p_released_cash,
                              engine.open_quantity(c, o.symbol, o.side) - p_released_units, c.last_logical_time, p_fees,
                              o.parent_order_id is not null);
end $$;

-- The price at which an order is valued until it fills; null when none is known.
create function engine.order_price(p_feed text, o paper_order) returns numeric
language plpgsql stable as $$
begin
  return coalesce(o.limit_price, o.stop_price, engine.last_close(p_feed, o.symbol, o.logical_time));
end $$;

-- An order with its terms, as it is accepted or rejected now; not stored. o carries all but the quantity, which may have
-- more decimals than can be stored.
create function engine.judged(
  c engine.context, o paper_order, p_quantity numeric, p_released_cash numeric default 0, p_released_units numeric default 0
) returns paper_order
language plpgsql stable as $$
declare
  v_price numeric;
  v_fees numeric := 0::numeric;
  v_reserve numeric;
begin
  perform engine.require(coalesce(o.good_till > c.last_logical_time, true), 'argument=good_till must_be=later_than_the_last_tick');
  o.user_id := c.user_id;
  o.run_id := c.run_id;
  o.order_id := engine.next_order_id(c);
  o.logical_time := c.last_logical_time;
  if o.order_type = 'TRAILING_STOP' then
    o.stop_price := engine.first_stop(c.feed, o);
  end if;
  v_price := engine.order_price(c.feed, o);
  o.quantity := p_quantity;
  o.filled_quantity := 0;
  o.source := 'CLIENT';
  v_reserve := case when o.side = 'BUY' then v_price end;
  if (c.terms).fee_schedule is not null and o.quantity > 0 then
    -- per unit, and upwards, so that what is held back for the order covers its fees; before the first tick no row is in force
    v_fees := engine.fee_sum(engine.fill_fees(c, null, o.symbol, o.side, c.last_logical_time, o.quantity, v_price));
    v_reserve := case when o.side = 'BUY' then ceil((v_price + v_fees / o.quantity) * 1e8) / 1e8 end;
  end if;
  if (c.terms).initial_margin is not null then
    v_reserve := engine.margin_reserve(c, o.symbol, o.side, p_quantity, v_price, v_fees, p_released_units);
  end if;
  perform engine.require(coalesce(v_reserve < 1e12, true), 'argument=quantity,limit_price,stop_price must_be=below_1e12_a_unit_with_fees');
  o.reserve_price := v_reserve;
  o.reject_reason := engine.acceptance_reason(c, o, p_quantity, v_price, v_fees, p_released_cash, p_released_units);
  o.status := case when o.reject_reason is null then 'PENDING' else 'REJECTED' end;
  o.closed_time := case when o.reject_reason is not null then c.last_logical_time end;
  return o;
end $$;

-- The terms of an order as its client gives them, to be stored with his client_order_id.
create function engine.terms_of(o paper_order, p_quantity numeric) returns jsonb
language sql stable
return jsonb_strip_nulls(jsonb_build_object(
  'symbol', o.symbol, 'side', o.side, 'order_type', o.order_type, 'quantity', p_quantity, 'limit_price', o.limit_price,
  'stop_price', case when o.order_type <> 'TRAILING_STOP' then o.stop_price end, 'time_in_force', o.time_in_force,
  'trail_amount', o.trail_amount, 'trail_percent', o.trail_percent, 'good_till', extract(epoch from o.good_till),
  'take_profit', o.take_profit_price, 'stop_loss', o.stop_loss_price, 'stop_loss_limit', o.stop_loss_limit_price));

-- Is that the order that was placed with this client_order_id? The first answer may have been lost: the same terms get
-- it again, even from a stopped run; other terms are TE102. A raw order has the terms that it has now.
create function engine.require_same_terms(p_stored paper_order, p_terms jsonb) returns void
language plpgsql as $$
begin
  if coalesce(p_stored.client_terms, engine.terms_of(p_stored, p_stored.quantity)) <> p_terms then
    perform engine.refuse('TE102', format('client_order_id=%s order_id=%s', p_stored.client_order_id, p_stored.order_id));
  end if;
end $$;

-- The terms of an order as they were given; refuses what cannot be one.
create function engine.order_of(
  p_symbol text, p_side text, p_quantity numeric, p_order_type text, p_limit_price numeric, p_stop_price numeric,
  p_time_in_force text, p_client_order_id text, p_trail_amount numeric, p_trail_percent numeric, p_good_till timestamptz,
  p_take_profit numeric, p_stop_loss numeric, p_stop_loss_limit numeric
) returns paper_order
language plpgsql immutable as $$
declare
  o paper_order;
begin
  perform engine.require_order_terms(p_symbol, p_side, p_quantity, p_order_type, p_limit_price, p_stop_price,
    p_time_in_force, p_client_order_id, p_trail_amount, p_trail_percent, p_good_till);
  perform engine.require_exits(p_side, p_limit_price, p_take_profit, p_stop_loss, p_stop_loss_limit);
  o.symbol := p_symbol;
  o.side := p_side;
  o.order_type := p_order_type;
  o.limit_price := p_limit_price;
  o.stop_price := p_stop_price;
  o.time_in_force := p_time_in_force;
  o.client_order_id := p_client_order_id;
  o.trail_amount := p_trail_amount;
  o.trail_percent := p_trail_percent;
  o.good_till := p_good_till;
  o.take_profit_price := p_take_profit;
  o.stop_loss_price := p_stop_loss;
  o.stop_loss_limit_price := p_stop_loss_limit;
  return o;
end $$;

-- writes: paper_order
create function engine.place_order(
  p_user_id bigint, p_run_id bigint, p_symbol text, p_side text, p_quantity numeric,
  p_order_type text, p_limit_price numeric, p_stop_price numeric,
  p_time_in_force text, p_client_order_id text, p_trail_amount numeric,
  p_trail_percent numeric, p_good_till timestamptz, p_take_profit numeric, p_stop_loss numeric, p_stop_loss_limit numeric
) returns paper_order
language plpgsql as $$
declare
  c engine.context;
  o paper_order := engine.order_of(p_symbol, p_side, p_quantity, p_order_type, p_limit_price, p_stop_price, p_time_in_force,
    p_client_order_id, p_trail_amount, p_trail_percent, p_good_till, p_take_profit, p_stop_loss, p_stop_loss_limit);
  v_stored paper_order;
begin
  c := engine.open_run(p_user_id, p_run_id);
  if p_client_order_id is not null then
    o.client_terms := engine.terms_of(o, p_quantity);
    select * into v_stored from paper_order x
     where x.user_id = p_user_id and x.run_id = p_run_id and x.client_order_id = p_client_order_id;
    if found then
      perform engine.require_same_terms(v_stored, o.client_terms);
      return v_stored;
    end if;
  end if;
  perform engine.require_running(c);
  o := engine.judged(c, o, p_quantity);
  insert into paper_order select (o).*;
  return o;
end $$;
