-- Corporate actions: splits and bonuses as exact ratios, dividends. At the first bar time on or after its date an action
-- comes before everything else; what it changes is written at once, and the orders are looked up again.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Prices of open orders follow a split, to the price grid and against the trader; so do their quantities, down to the step.
-- writes: paper_order
create function engine.split_orders(c engine.context, p_symbol text, p_time timestamptz, p_numerator int, p_denominator int) returns boolean
language plpgsql as $$
begin
  update paper_order o
     set quantity = case when q.remaining > 0 then o.filled_quantity + q.remaining else o.quantity end, status = case when q.remaining > 0 then o.status else 'CANCELED' end,
         closed_time = case when q.remaining = 0 then p_time end, seen_time = case when q.remaining > 0 then o.seen_time end,
         limit_price = engine.split_price(o.limit_price, p_numerator, p_denominator, i.price_tick, o.side = 'SELL'),
         stop_price = engine.split_price(o.stop_price, p_numerator, p_denominator, case when o.order_type <> 'TRAILING_STOP' then i.price_tick end, o.side = 'BUY'),
         trail_amount = engine.split_price(o.trail_amount, p_numerator, p_denominator, null, false),
         reserve_price = engine.split_price(o.reserve_price, p_numerator, p_denominator, null, false),
         take_profit_price = engine.split_price(o.take_profit_price, p_numerator, p_denominator, i.price_tick, o.side = 'BUY'),
         stop_loss_price = engine.split_price(o.stop_loss_price, p_numerator, p_denominator, i.price_tick, o.side = 'SELL'),
         stop_loss_limit_price = engine.split_price(o.stop_loss_limit_price, p_numerator, p_denominator, i.price_tick, o.side = 'BUY')
    from paper_order p
    join instrument i on i.symbol = p.symbol
   cross join lateral (select engine.units_after_split(p, p_numerator, p_denominator, i.quantity_step) as remaining) q
   where p.user_id = c.user_id and p.run_id = c.run_id and p.symbol = p_symbol and p.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')
     and o.user_id = p.user_id and o.run_id = p.run_id and o.order_id = p.order_id;
  return found;
end $$;

-- What is open of an order after a split, down to the step; nothing of what then has a quantity or a price that cannot be stored.
create function engine.units_after_split(o paper_order, p_numerator int, p_denominator int, p_step numeric) returns numeric
language sql immutable
return case
  when ((o).quantity - (o).filled_quantity) * p_numerator >= (1e12 - (o).filled_quantity) * p_denominator
    or greatest((o).limit_price, (o).stop_price, (o).trail_amount, (o).reserve_price, (o).take_profit_price, (o).stop_loss_price, (o).stop_loss_limit_price)
       * p_denominator >= 1e12 * p_numerator then 0
  else engine.units_for(((o).quantity - (o).filled_quantity) * p_numerator, p_denominator, p_step) end;

-- A price after a split, at most 8 decimals, rounded up or down to the grid; never 0, and never more than can be stored.
create function engine.split_price(p_price numeric, p_numerator int, p_denominator int, p_tick numeric, p_is_up boolean) returns numeric
language sql immutable
return case when p_price is not null then least(999999999999.99999999, greatest(coalesce(p_tick, 0.00000001), case
  when p_tick is null then round(p_price * p_denominator / p_numerator, 8)
  when p_is_up then ceil(p_price * p_denominator / p_numerator / p_tick) * p_tick
  else floor(p_price * p_denominator / p_numerator / p_tick) * p_tick end)) end;

-- The last close before p_time in today's units: restated by the splits that have come at p_time already, and by x.
create function engine.restated_close(c engine.context, p_time timestamptz, x corporate_action) returns numeric
language plpgsql stable as $$
declare
  v_price numeric := engine.last_close(c.feed, x.symbol, p_time - interval '1 microsecond');
  v record;
begin
  for v in select k.ratio_numerator as numerator, k.ratio_denominator as denominator
             from corporate_action k
             join event_ledger e on e.user_id = c.user_id and e.run_id = c.run_id and e.event_type = 'SPLIT'
              and e.event_key = engine.action_key(k.symbol, k.ex_date) and e.logical_time = p_time
            where k.symbol = x.symbol and k.action_type = 'SPLIT' and k.ex_date < x.ex_date order by k.ex_date loop
    v_price := engine.split_price(v_price, v.numerator, v.denominator, null, false);
  end loop;
  return engine.split_price(v_price, x.ratio_numerator, x.ratio_denominator, null, false);
end $$;

-- A split or bonus of p_numerator new units for p_denominator old ones: the position follows, down to the step; the
-- fraction, and what is more than can be held, is paid out at the last close before, restated, and takes its share of the cost with it.
-- writes: paper_position, paper_order, cash_ledger, event_ledger
create function engine.apply_split(c engine.context, p_time timestamptz, x corporate_action) returns engine.context
language plpgsql as $$
declare
  i int := array_position(c.symbols, x.symbol);
  v_old numeric := coalesce(c.quantities[i], 0);
  v_new numeric := (select sign(v_old) * least(engine.units_for(abs(v_old) * x.ratio_numerator, x.ratio_denominator, s.quantity_step),
                                               engine.floor_to(999999999999, s.quantity_step)) from instrument s where s.symbol = x.symbol);
  v_price numeric := engine.restated_close(c, p_time, x);
  v_rest numeric := v_old * x.ratio_numerator - v_new * x.ratio_denominator;   -- exact, where the fraction itself would be rounded
  v_cash numeric := coalesce(round(v_rest * v_price / x.ratio_denominator, c.scale), 0);
  v_cost numeric := 0::numeric;
  v_has_orders boolean;
begin
  if v_old <> 0 then
    v_cost := case when v_new = 0 then c.cost_bases[i] else round(c.cost_bases[i] * v_rest / (v_old * x.ratio_numerator), c.scale) end;
    c.quantities[i] := v_new;
    c.cost_bases[i] := c.cost_bases[i] - v_cost;
    c.realized_pnls[i] := c.realized_pnls[i] + v_cash - v_cost;
    c.cost_basis := c.cost_basis - v_cost;
    c.realized_pnl := c.realized_pnl + v_cash - v_cost;
    update paper_position p set quantity = v_new, cost_basis = c.cost_bases[i], realized_pnl = c.realized_pnls[i]
     where p.user_id = c.user_id and p.run_id = c.run_id and p.symbol = x.symbol;
    if v_cash <> 0 then
      c := engine.book_cash(c, p_time, v_cash, 'CASH_IN_LIEU');
    end if;
  end if;
  -- a statement of its own: within a condition that is false anyway the planner would leave it out
  v_has_orders := engine.split_orders(c, x.symbol, p_time, x.ratio_numerator, x.ratio_denominator);
  if v_old = 0 and not v_has_orders then
    return c;
  end if;
  insert into event_ledger (user_id, run_id, logical_time, event_type, event_key, payload)
  values (c.user_id, c.run_id, p_time, 'SPLIT', engine.action_key(x.symbol, x.ex_date), jsonb_strip_nulls(jsonb_build_object(
    'symbol', x.symbol, 'numerator', x.ratio_numerator, 'denominator', x.ratio_denominator, 'quantity', trim_scale(v_old),
    'units', trim_scale(v_new - v_old), 'cost', nullif(trim_scale(v_cost), 0), 'cash_in_lieu', nullif(trim_scale(v_cash), 0),
    'entry_id', case when v_cash <> 0 then c.last_entry_id end)));
  c.knows_limits := false;
  c.has_written := true;
  return c;
end $$;

-- Cash that no trade has moved.
-- writes: cash_ledger
create function engine.book_cash(c engine.context, p_time timestamptz, p_amount numeric, p_cause text) returns engine.context
language plpgsql as $$
begin
  c.last_entry_id := engine.next_entry_id(c);
  c.cash := c.cash + p_amount;
  insert into cash_ledger (user_id, run_id, entry_id, logical_time, amount, cause)
  values (c.user_id, c.run_id, c.last_entry_id, p_time, p_amount, p_cause);
  return c;
end $$;

-- The ex-date: who holds before it is owed the dividend, on the pay date.
-- writes: dividend_due, event_ledger
create function engine.declare_dividend(c engine.context, p_time timestamptz, x corporate_action) returns engine.context
language plpgsql as $$
declare
  v_held numeric := coalesce(c.quantities[array_position(c.symbols, x.symbol)], 0);
begin
  if v_held <> 0 then
    insert into dividend_due (user_id, run_id, symbol, ex_date, pay_date, quantity, amount)
    values (c.user_id, c.run_id, x.symbol, x.ex_date, x.pay_date, v_held, engine.value(v_held, x.amount, c.scale));
    insert into event_ledger (user_id, run_id, logical_time, event_type, event_key, payload)
    values (c.user_id, c.run_id, p_time, 'DIVIDEND', engine.action_key(x.symbol, x.ex_date), jsonb_build_object(
      'symbol', x.symbol, 'quantity', trim_scale(v_held), 'per_unit', trim_scale(x.amount), 'pay_date', x.pay_date));
    c.has_written := true;
  end if;
  return c;
end $$;

-- The pay date: cash, and units for it if the run reinvests and the market is open.
-- writes: cash_ledger, dividend_due
create function engine.pay_dividend(c engine.context, p_time timestamptz, p_symbol text, p_ex_date date) returns engine.context
language plpgsql as $$
declare
  d dividend_due;
  v_price numeric;
  v_quantity numeric;
begin
  select * into strict d from dividend_due x where x.user_id = c.user_id and x.run_id = c.run_id and x.symbol = p_symbol and x.ex_date = p_ex_date;
  if d.amount <> 0 then
    c := engine.book_cash(c, p_time, d.amount, 'DIVIDEND');
    d.entry_id := c.last_entry_id;
  end if;
  update dividend_due x set paid_time = p_time, entry_id = d.entry_id
   where x.user_id = c.user_id and x.run_id = c.run_id and x.symbol = p_symbol and x.ex_date = p_ex_date;
  c.has_written := true;
  if (c.terms).reinvest_dividends and d.amount > 0 and engine.is_market_open(c.calendar, p_time) then
    c := engine.with_limits(c);
    v_price := engine.tradable_close(c.feed, p_symbol, p_time, (c.terms).max_price_age);
    v_quantity := (select engine.units_within(d.amount, v_price, i.quantity_step, (c.terms).fee_schedule, p_symbol, 'BUY',
                                              engine.trade_date(p_time, c.time_zone), c.scale) from instrument i where i.symbol = p_symbol);
    if v_quantity > 0 and engine.reject_reason(c, p_symbol, 'BUY', v_quantity, v_price, c.reserved, 0, p_time,
         engine.fee_sum(engine.fill_fees(c, null, p_symbol, 'BUY', p_time, v_quantity, v_price))) is null then
      c := engine.order_at_close(c, p_time, p_symbol, 'BUY', v_quantity, v_price, 'DIVIDEND', null);
    end if;
  end if;
  return c;
end $$;

-- Everything that falls due at p_time: splits and ex-dates by symbol and date, a split before a dividend of its date, which
-- is per new unit; then payments by symbol and ex-date: of dividends of this time those too whose pay date has passed.
-- What orders have done before is posted; matching goes on from just before p_time.
create function engine.act(c engine.context, p_time timestamptz) returns engine.context
language plpgsql as $$
declare
  v record;
  x corporate_action;
begin
  c := engine.post(c);
  if c.has_trailing then
    perform engine.ratchet(c, p_time - interval '1 microsecond');
  end if;
  for v in select d.* from engine.due_actions(c, p_time) d
            where d.logical_time = p_time and d.ordinal < 3 order by d.symbol collate "C", d.ex_date, d.ordinal loop
    select * into strict x from corporate_action k
     where k.symbol = v.symbol and k.ex_date = v.ex_date and k.action_type = case v.ordinal when 1 then 'SPLIT' else 'DIVIDEND' end;
    c := case v.ordinal when 1 then engine.apply_split(c, p_time, x) else engine.declare_dividend(c, p_time, x) end;
  end loop;
  for v in select d.* from engine.due_actions(c, p_time) d
            where d.logical_time <= p_time and d.ordinal = 3 order by d.symbol collate "C", d.ex_date loop
    c := engine.pay_dividend(c, p_time, v.symbol, v.ex_date);
  end loop;
  c := engine.post(c);
  c.acted_through := p_time;
  c.closed_through := greatest(c.closed_through, p_time - interval '1 microsecond');
  return c;
end $$;

-- The actions up to p_to, each after the orders of the bars before it. Orders then go on from the last of them.
create function engine.pass_actions(c engine.context, p_to timestamptz) returns engine.context
language plpgsql as $$
declare
  v_next timestamptz;
begin
  loop
    v_next := (select min(d.logical_time) from engine.due_actions(c, p_to) d);
    exit when v_next is null;
    c := engine.match_through(engine.watch_orders(c, v_next - interval '1 microsecond'), v_next - interval '1 microsecond');
    c := engine.act(c, v_next);
  end loop;
  return c;
end $$;
