-- May this order stand? One answer for acceptance, for the fill, for SIP and rebalance.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- writes: risk_limit
create function engine.set_risk_limit(
  p_user_id bigint, p_run_id bigint, p_max_position numeric, p_max_order_value numeric
) returns void
language plpgsql as $$
declare
  c engine.context := engine.open_run(p_user_id, p_run_id);
begin
  perform engine.require_running(c);
  perform engine.require_number('max_position', coalesce(p_max_position, 0));
  perform engine.require_number('max_order_value', coalesce(p_max_order_value, 0));
  perform engine.require(coalesce(p_max_position, 0) >= 0 and coalesce(p_max_order_value, 0) >= 0,
                         'argument=max_position,max_order_value must_be=not_negative');
  insert into risk_limit (user_id, run_id, max_position, max_order_value)
  values (p_user_id, p_run_id, p_max_position, round(p_max_order_value, c.scale))
  on conflict (user_id, run_id) do update
    set max_position = excluded.max_position, max_order_value = excluded.max_order_value;
end $$;

-- writes: forbidden_symbol
create function engine.forbid_symbol(p_user_id bigint, p_run_id bigint, p_symbol text) returns void
language plpgsql as $$
declare
  c engine.context := engine.open_run(p_user_id, p_run_id);
begin
  perform engine.require_running(c);
  perform engine.require(p_symbol <> '', 'argument=symbol must_be=not_empty');
  insert into forbidden_symbol (user_id, run_id, symbol) values (p_user_id, p_run_id, p_symbol)
  on conflict (user_id, run_id, symbol) do nothing;
end $$;

-- Cash that an open order holds back, a sale none; in a margin account the exposure that it would open.
create function engine.reservation(p_open_quantity numeric, p_reserve_price numeric, p_scale int) returns numeric
language sql immutable
return coalesce(engine.value(p_open_quantity, p_reserve_price, p_scale), 0);

-- Of the orders that cancel each other one counts, for they share one quantity: is there an open one before this?
create function engine.is_counted_before(p_user_id bigint, p_run_id bigint, p_oco_id bigint, p_order_id bigint) returns boolean
language plpgsql stable as $$
begin
  return exists (select from paper_order o
                  where o.user_id = p_user_id and o.run_id = p_run_id and o.oco_id = p_oco_id and o.order_id < p_order_id
                    and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED'));
end $$;

-- What open orders hold back, in sum.
create function engine.reserved_cash(c engine.context) returns numeric
language plpgsql stable as $$
begin
  return (select coalesce(sum(engine.reservation(o.quantity - o.filled_quantity, o.reserve_price, c.scale)), 0)
          from paper_order o
         where o.user_id = c.user_id and o.run_id = c.run_id and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')
           and (o.oco_id is null or not engine.is_counted_before(o.user_id, o.run_id, o.oco_id, o.order_id)));
end $$;

-- Units of p_symbol that open orders of that side still want.
create function engine.open_quantity(c engine.context, p_symbol text, p_side text) returns numeric
language plpgsql stable as $$
begin
  return (select coalesce(sum(o.quantity - o.filled_quantity), 0)
          from paper_order o
         where o.user_id = c.user_id and o.run_id = c.run_id
           and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')
           and o.symbol = p_symbol and o.side = p_side
           and (o.oco_id is null or not engine.is_counted_before(o.user_id, o.run_id, o.oco_id, o.order_id)));
end $$;

-- What reject_reason asks beyond cash and positions, read when it is first needed.
create function engine.with_limits(c engine.context) returns engine.context
language plpgsql stable as $$
begin
  if c.knows_limits then
    return c;
  end if;
  c.knows_limits := true;
  c.reserved := engine.reserved_cash(c);
  select l.max_position, l.max_order_value into c.max_position, c.max_order_value
    from risk_limit l where l.user_id = c.user_id and l.run_id = c.run_id;
  -- what unit_quantity holds: beyond it an order, and a reinvested dividend, is a POSITION_LIMIT_EXCEEDED without a limit too
  c.max_position := least(c.max_position, 999999999999.99999999);
  c.forbidden := array(select f.symbol from forbidden_symbol f where f.user_id = c.user_id and f.run_id = c.run_id);
  return c;
end $$;

-- Null when the order may stand, else its reject_reason. p_price null: no price is known yet, so what depends on it
-- waits for the fill. p_reserved: cash held back for others. p_open: units that open orders of that side already claim;
-- at a fill nothing, who fills first has them. p_time: when that is asked. p_fees: paid on top, or out of what a sale
-- brings. p_is_exit: of a bracket. A cash account needs nothing but the context; a margin account asks for prices.
create function engine.reject_reason(
  c engine.context, p_symbol text, p_side text, p_quantity numeric, p_price numeric, p_reserved numeric, p_open numeric,
  p_time timestamptz, p_fees numeric default 0, p_is_exit boolean default false
) returns text
language plpgsql stable as $$
declare
  v_value numeric := engine.value(p_quantity, p_price, c.scale);
  v_held numeric := coalesce(c.quantities[array_position(c.symbols, p_symbol)], 0);
begin
  if (c.terms).initial_margin is not null then
    return engine.margin_reason(c, p_symbol, p_side, p_quantity, p_price, p_reserved, p_open, p_time, p_fees, p_is_exit);
  end if;
  return case
    when p_symbol = any (c.forbidden) then 'SYMBOL_FORBIDDEN'
    when v_value > c.max_order_value then 'ORDER_VALUE_EXCEEDED'
    when p_side = 'BUY' and v_held + p_open + p_quantity > c.max_position then 'POSITION_LIMIT_EXCEEDED'
    when p_side = 'BUY' and v_value + p_fees > c.cash - p_reserved then 'CASH_INSUFFICIENT'
    when p_side = 'SELL' and p_quantity + p_open > v_held then 'POSITION_INSUFFICIENT'
    when p_side = 'SELL' and p_fees > c.cash + v_value then 'CASH_INSUFFICIENT'
  end;
end $$;
