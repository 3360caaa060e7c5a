-- Orders: acceptance and cancel. What happens on bars is in 55_match.sql.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Refuses what cannot be an order at all, before anything is locked.
create function engine.require_order_terms(
  p_symbol text, p_side text, p_quantity numeric, p_order_type text, p_limit_price numeric, p_stop_price numeric,
  p_time_in_force text, p_client_order_id text, p_trail_amount numeric, p_trail_percent numeric, p_good_till timestamptz
) returns void
language plpgsql as $$
begin
  perform engine.require(p_symbol is not null and length(p_symbol) <= 64, 'argument=symbol must_be=at_most_64_characters');
  perform engine.require(p_side in ('BUY', 'SELL'), format('argument=side value=%s must_be=BUY|SELL', p_side));
  perform engine.require(p_order_type in ('MARKET', 'LIMIT'), format('argument=order_type value=%s must_be=MARKET|LIMIT', p_order_type));
  perform engine.require(p_time_in_force in ('DAY', 'GTC'), format('argument=time_in_force value=%s must_be=DAY|GTC', p_time_in_force));
  perform engine.require(length(coalesce(p_client_order_id, '-')) between 1 and 128, 'argument=client_order_id must_be=1_to_128_characters');
  perform engine.require_number('quantity', p_quantity);
  perform engine.require((p_limit_price is not null) = (p_order_type = 'LIMIT'), 'argument=limit_price must_be=given_for_LIMIT_only');
  if p_limit_price is not null then
    perform engine.require_positive('limit_price', p_limit_price);
    perform engine.require(p_limit_price = round(p_limit_price, 8), 'argument=limit_price must_be=at_most_8_decimals');
  end if;
  perform engine.require(num_nonnulls(p_stop_price, p_trail_amount, p_trail_percent, p_good_till) = 0,
                         'argument=stop_price,trail_amount,trail_percent,good_till must_be=null_for_MARKET_and_LIMIT');
end $$;

-- Why the order cannot be accepted, null when it can. Off-step is tested on the quantity as given: an order is
-- rejected, never rounded.
create function engine.acceptance_reason(
  c engine.context, p_symbol text, p_side text, p_quantity numeric, p_limit_price numeric, p_price numeric
) returns text
language plpgsql stable as $$
declare
  v_instrument instrument;
begin
  if round(p_quantity, 8) <= 0 then
    return 'QUANTITY_NOT_POSITIVE';
  end if;
  select * into v_instrument from instrument i where i.symbol = p_symbol;
  if not found then
    return 'SYMBOL_UNKNOWN';
  end if;
  if mod(p_quantity, v_instrument.quantity_step) <> 0 then
    return 'QUANTITY_OFF_STEP';
  end if;
  if mod(p_limit_price, v_instrument.price_tick) <> 0 then
    return 'PRICE_OFF_TICK';
  end if;
  c := engine.with_limits(c);
  return engine.reject_reason(c, p_symbol, p_side, p_quantity, p_price, c.reserved, engine.open_quantity(c, p_symbol, p_side));
end $$;

-- writes: paper_order
create function engine.place_order(
  p_user_id bigint, p_run_id bigint, p_symbol text, p_side text, p_quantity numeric,
  p_order_type text, p_limit_price numeric, p_stop_price numeric,
  p_time_in_force text, p_client_order_id text, p_trail_amount numeric,
  p_trail_percent numeric, p_good_till timestamptz
) returns paper_order
language plpgsql as $$
declare
  c engine.context;
  v_order paper_order;
  v_price numeric;
begin
  perform engine.require_order_terms(p_symbol, p_side, p_quantity, p_order_type, p_limit_price, p_stop_price,
    p_time_in_force, p_client_order_id, p_trail_amount, p_trail_percent, p_good_till);
  c := engine.open_run(p_user_id, p_run_id);

  -- the first answer may have been lost: the same key with the same terms gets it again, even from a stopped run
  select * into v_order from paper_order o
   where o.user_id = p_user_id and o.run_id = p_run_id and o.client_order_id = p_client_order_id;
  if found then
    if (v_order.symbol, v_order.side, v_order.order_type, v_order.limit_price, v_order.time_in_force)
       is distinct from (p_symbol, p_side, p_order_type, p_limit_price, p_time_in_force)
       -- what has too many decimals to be stored was rejected, and comes again with the same decimals
       or p_quantity <> v_order.quantity and (v_order.status <> 'REJECTED' or round(p_quantity, 8) <> v_order.quantity) then
      perform engine.refuse('TE102', format('client_order_id=%s order_id=%s', p_client_order_id, v_order.order_id));
    end if;
    return v_order;
  end if;
  perform engine.require_running(c);

  v_price := coalesce(p_limit_price, engine.last_close(c.feed, p_symbol, c.last_logical_time));
  v_order.reserve_price := case when p_side = 'BUY' then v_price end;
  v_order.reject_reason := engine.acceptance_reason(c, p_symbol, p_side, p_quantity, p_limit_price, v_price);

  insert into paper_order (user_id, run_id, order_id, logical_time, symbol, side, order_type, quantity, limit_price,
                           time_in_force, status, reject_reason, client_order_id, reserve_price, closed_time)
  values (p_user_id, p_run_id, engine.next_order_id(c), c.last_logical_time, p_symbol, p_side, p_order_type, p_quantity,
          p_limit_price, p_time_in_force, case when v_order.reject_reason is null then 'PENDING' else 'REJECTED' end,
          v_order.reject_reason, p_client_order_id, v_order.reserve_price,
          case when v_order.reject_reason is not null then c.last_logical_time end)
  returning * into v_order;
  return v_order;
end $$;

-- writes: paper_order
create function engine.cancel_order(p_user_id bigint, p_run_id bigint, p_order_id bigint) returns paper_order
language plpgsql as $$
declare
  c engine.context := engine.open_run(p_user_id, p_run_id);
  v_order paper_order;
begin
  perform engine.require_running(c);
  update paper_order o set status = 'CANCELED', closed_time = c.last_logical_time
   where o.user_id = p_user_id and o.run_id = p_run_id and o.order_id = p_order_id
     and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED');
  select * into v_order from paper_order o
   where o.user_id = p_user_id and o.run_id = p_run_id and o.order_id = p_order_id;
  perform engine.require(found, format('argument=order_id value=%s must_be=an_order_of_the_run', p_order_id));
  return v_order;
end $$;
