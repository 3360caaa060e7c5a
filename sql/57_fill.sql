-- What a match comes to: how much of the order the bar's volume leaves it, at which price, and whether cash, holdings and
-- limits still allow it. What leaves an order open, or opens others, is posted at once and looked up again; that is rare.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- The price of a fill with its slippage: against the trader, to the grid, within the bar. An order with a limit has none.
create function engine.slipped(p_terms strategy_run, o engine.match, p_quantity numeric) returns numeric
language plpgsql stable as $$
declare
  v_sign constant int := case o.side when 'BUY' then 1 else -1 end;
  v_price numeric;
  v_tick numeric;
begin
  if o.order_type not in ('MARKET', 'STOP', 'TRAILING_STOP') then
    return o.price;
  end if;
  -- one division, of exact products: a quotient that is rounded too early can be a tick beyond the grid
  v_price := o.price + v_sign * (o.price * p_terms.slippage_bps / 10000
               + coalesce(o.price * p_terms.volume_impact * p_quantity * p_quantity / nullif(o.volume * o.volume, 0), 0));
  select i.price_tick into v_tick from instrument i where i.symbol = o.symbol;
  v_price := case when v_tick is null then round(v_price, 8)
                  when v_sign > 0 then ceil(v_price / v_tick) * v_tick else floor(v_price / v_tick) * v_tick end;
  return case when v_sign > 0 then least(v_price, o.high) else greatest(v_price, o.low) end;
end $$;

-- What a met order wants on its bar: the entry with quantity and price, and the status it will have if it may trade.
-- Quantity 0: it does not. p_volume: what the bar leaves it; null = enough.
create function engine.wanted(o engine.match, p_terms strategy_run, p_volume numeric) returns engine.entry
language plpgsql stable as $$
declare
  e engine.entry;
  v_is_brief constant boolean := o.time_in_force in ('IOC', 'FOK');
  v_left constant numeric := o.quantity - o.filled_quantity;
begin
  e.logical_time := o.logical_time;
  e.order_id := o.order_id;
  e.is_new := false;
  e.symbol := o.symbol;
  e.side := o.side;
  e.quantity := 0;
  if o.is_trigger then
    e.is_trigger := true;
    e.stop_price := o.stop_price;
  end if;

  if o.price is not null then
    e.quantity := case when o.time_in_force = 'FOK' and p_volume < v_left then 0 else least(v_left, p_volume) end;
    e.price := case when p_terms.slippage_bps = 0 and p_terms.volume_impact = 0 then o.price else engine.slipped(p_terms, o, e.quantity) end;
  end if;
  e.status := case
    when e.quantity = v_left then 'FILLED'
    when v_is_brief and o.open is null then 'REJECTED'
    when v_is_brief then 'CANCELED'
    when e.quantity > 0 then 'PARTIALLY_FILLED'
    when o.open is null then 'EXPIRED'
    when o.is_trigger then 'TRIGGERED'
  end;
  if e.status = 'REJECTED' then
    e.reject_reason := 'SESSION_CLOSED';
  end if;
  return e;
end $$;

-- The order of c.match fills, in whole or in part, is triggered, ends, or is rejected when cash, position or a limit no
-- longer allows it. What has been filled stays filled, so only an untouched order can still be rejected.
create function engine.end_order(c engine.context) returns engine.context
language plpgsql as $$
declare
  v_is_capped constant boolean := (c.terms).participation is not null;
  v_volume numeric;
  v_fees numeric := 0::numeric;
  o engine.match;
  e engine.entry;
begin
  if (c.match).oco_id is not null then
    c := engine.refreshed_match(c);
    if (c.match).order_id is null then
      return c;
    end if;
  end if;
  o := c.match;
  c := engine.with_limits(c);
  if v_is_capped then
    c := engine.turn_volume(c, o.logical_time);
    v_volume := engine.volume_left(c, o);
  end if;
  c.reserved := c.reserved - engine.reservation(o.quantity - o.filled_quantity, o.reserve_price, c.scale);
  e := engine.wanted(o, c.terms, v_volume);
  if e.quantity > 0 then
    if (c.terms).fee_schedule is not null then
      e.fee_items := engine.fill_fees(c, e.order_id, e.symbol, e.side, e.logical_time, e.quantity, e.price);
      v_fees := engine.fee_sum(e.fee_items);
    end if;
    e.reject_reason := engine.reject_reason(c, e.symbol, e.side, e.quantity, e.price, c.reserved, 0, e.logical_time, v_fees, o.is_exit);
    if e.reject_reason is null then
      c.made := c.made + 1;
      if v_is_capped then
        c := engine.use_volume(c, e.symbol, e.quantity);
      end if;
      c := engine.book_trade(c, e);
    else
      e.status := 'REJECTED';
      e.quantity := 0;
      e.fee_items := null;
    end if;
  end if;
  if e.status = 'REJECTED' and o.filled_quantity > 0 then
    e.status := 'CANCELED';
    e.reject_reason := null;
  end if;
  if e.quantity = 0 and e.status is not null then
    if e.status = 'EXPIRED' and o.order_type = 'TRAILING_STOP' then
      -- its stop ends where the bars of its life have brought it, however many of them this tick had to catch up with
      perform engine.ratchet(c, o.logical_time - case when o.phase = 0 then interval '1 microsecond' else '0' end, o.order_id);
    end if;
    c := engine.note(c, e);
  end if;

  if e.status is null or e.status in ('TRIGGERED', 'PARTIALLY_FILLED') or o.oco_id is not null or o.is_entry and e.quantity > 0 then
    c := engine.follow_up(c, e);
  end if;
  return c;
end $$;

-- An order that shares its quantity with another may have lost some of it, or all, since it was looked up.
create function engine.refreshed_match(c engine.context) returns engine.context
language plpgsql stable as $$
declare
  m engine.match := c.match;
begin
  select p.quantity, p.filled_quantity into m.quantity, m.filled_quantity
    from paper_order p
   where p.user_id = c.user_id and p.run_id = c.run_id and p.order_id = m.order_id
     and p.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED');
  c.match := case when found then m end;
  return c;
end $$;

-- After e has happened to the order of c.match: the other order of the pair loses what this one has filled, or is
-- canceled with its end; a filled entry gets its exits; an order that stays open is looked up again.
-- writes: every per-run table
create function engine.follow_up(c engine.context, e engine.entry) returns engine.context
language plpgsql as $$
declare
  o engine.match := c.match;
begin
  c := engine.post(c);
  if o.oco_id is not null and e.status <> 'EXPIRED' then
    update paper_order p
       set quantity = case when e.status in ('TRIGGERED', 'PARTIALLY_FILLED') then p.quantity - e.quantity else p.quantity end,
           status = case when e.status in ('TRIGGERED', 'PARTIALLY_FILLED') then p.status else 'CANCELED' end,
           closed_time = case when e.status not in ('TRIGGERED', 'PARTIALLY_FILLED') then e.logical_time end
     where p.user_id = c.user_id and p.run_id = c.run_id and p.oco_id = o.oco_id and p.order_id <> o.order_id
       and p.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED');
  end if;
  if o.is_entry and e.quantity > 0 then
    c := engine.add_exits(c, e);
  end if;
  c.knows_limits := false;
  if e.status is null or e.status in ('TRIGGERED', 'PARTIALLY_FILLED') then
    c := engine.look_again(c, array[o.order_id], o.logical_time);
  end if;
  return c;
end $$;

-- The exits of a bracket: a take-profit LIMIT and a stop-loss, of what the entry has filled. They grow with it. Accepted
-- at the fill, they match later bars; if it was at the open, the whole bar came after it, and they match that one too.
-- writes: paper_order
create function engine.add_exits(c engine.context, e engine.entry) returns engine.context
language plpgsql as $$
declare
  p paper_order;
  v_first bigint;
begin
  update paper_order x set quantity = x.quantity + e.quantity
   where x.user_id = c.user_id and x.run_id = c.run_id and x.parent_order_id = e.order_id
     and x.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED');
  if found then
    return c;
  end if;
  select * into strict p from paper_order x where x.user_id = c.user_id and x.run_id = c.run_id and x.order_id = e.order_id;
  v_first := engine.next_order_id(c);
  insert into paper_order (user_id, run_id, order_id, logical_time, symbol, side, order_type, quantity, limit_price, stop_price,
                           time_in_force, good_till, status, source, oco_id, parent_order_id)
  select p.user_id, p.run_id, v_first + row_number() over (order by x.n) - 1, e.logical_time, p.symbol,
         case p.side when 'BUY' then 'SELL' else 'BUY' end, x.order_type, e.quantity, x.limit_price, x.stop_price,
         case when p.time_in_force in ('IOC', 'FOK') then 'GTC' else p.time_in_force end, p.good_till, 'PENDING', 'BRACKET', v_first, p.order_id
    from (values (1, 'LIMIT', p.take_profit_price, null, p.take_profit_price),
                 (2, case when p.stop_loss_limit_price is null then 'STOP' else 'STOP_LIMIT' end, p.stop_loss_limit_price, p.stop_loss_price, p.stop_loss_price))
         x (n, order_type, limit_price, stop_price, is_wanted)
   where x.is_wanted is not null;
  c.last_order_id := v_first + num_nonnulls(p.take_profit_price, p.stop_loss_price) - 1;
  c.has_open_orders := true;
  return engine.look_again(c, array[v_first, c.last_order_id],
                           e.logical_time - case when (c.match).price = (c.match).open then interval '1 microsecond' else '0' end);
end $$;

-- Every match up to p_to, in order. What has come together is written in between.
-- writes: every per-run table but the marks
create function engine.match_through(c engine.context, p_to timestamptz) returns engine.context
language plpgsql as $$
begin
  while (c.match).logical_time <= p_to loop
    if cardinality(c.journal) > 128 then
      c := engine.post(c);
    end if;
    c := engine.next_match(engine.end_order(c));
  end loop;
  return c;
end $$;
