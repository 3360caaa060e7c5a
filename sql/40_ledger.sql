-- The run's state and its ledgers: cash, trades, positions. Ids count on from the highest row under the run's lock, so
-- rows that were inserted by hand are simply followed.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- writes: cash_ledger
create function engine.post_cash(c engine.context, p_logical_time timestamptz, p_amount numeric, p_cause text, p_trade_id bigint)
returns engine.context
language plpgsql as $$
begin
  c.last_entry_id := 1 + coalesce(c.last_entry_id,
    (select max(l.entry_id) from cash_ledger l where l.user_id = c.user_id and l.run_id = c.run_id), 0);
  insert into cash_ledger (user_id, run_id, entry_id, logical_time, amount, cause, trade_id)
  values (c.user_id, c.run_id, c.last_entry_id, p_logical_time, p_amount, p_cause, p_trade_id);
  return c;
end $$;

-- The context of a run that is already locked. A running run without engine_state (raw rows) gets its state and its
-- opening entry here.
-- writes: engine_state, cash_ledger
create function engine.read_context(p_user_id bigint, p_run_id bigint) returns engine.context
language plpgsql as $$
declare
  c engine.context;
  v_initial_cash numeric;
begin
  select r.user_id, r.run_id, r.feed, f.calendar, k.time_zone, engine.minor_unit(r.currency), r.status, r.initial_cash,
         s.cash, s.first_logical_time, s.last_logical_time, s.step_logical_time
    into c.user_id, c.run_id, c.feed, c.calendar, c.time_zone, c.scale, c.status, v_initial_cash,
         c.cash, c.first_logical_time, c.last_logical_time, c.step_logical_time
    from strategy_run r
    join feed f on f.feed = r.feed
    join calendar k on k.calendar = f.calendar
    left join engine_state s on s.user_id = r.user_id and s.run_id = r.run_id
   where r.user_id = p_user_id and r.run_id = p_run_id;
  c.made := 0;
  c.is_closed := false;
  c.has_written := false;

  if c.cash is null and c.status = 'RUNNING' then
    c.cash := v_initial_cash;
    insert into engine_state (user_id, run_id, cash) values (p_user_id, p_run_id, c.cash);
    c := engine.post_cash(c, null, c.cash, 'OPENING', null);
  end if;
  return c;
end $$;

create function engine.open_run(p_user_id bigint, p_run_id bigint) returns engine.context
language plpgsql as $$
begin
  perform engine.lock_run(p_user_id, p_run_id);
  return engine.read_context(p_user_id, p_run_id);
end $$;

create function engine.require_running(c engine.context) returns void
language plpgsql as $$
begin
  if c.status <> 'RUNNING' then
    perform engine.refuse('TE001', format('user_id=%s run_id=%s status=%s', c.user_id, c.run_id, c.status));
  end if;
end $$;

-- writes: engine_state
create function engine.save_state(c engine.context) returns void
language plpgsql as $$
begin
  update engine_state s
     set cash = (c).cash, first_logical_time = (c).first_logical_time, last_logical_time = (c).last_logical_time,
         step_logical_time = (c).step_logical_time
   where s.user_id = (c).user_id and s.run_id = (c).run_id;
end $$;

-- One fill: the trade, its cash, its position. Total average cost: a sale takes its share of the cost with it.
-- The order row is the caller's.
-- writes: paper_trade, cash_ledger, paper_position
create function engine.book_trade(
  c engine.context, p_order_id bigint, p_logical_time timestamptz, p_symbol text, p_side text,
  p_quantity numeric, p_price numeric, p_fees numeric
) returns engine.context
language plpgsql as $$
declare
  v_value numeric := round(p_quantity * p_price, c.scale);
  v_amount numeric := case p_side when 'BUY' then -v_value - p_fees else v_value - p_fees end;
  v_position paper_position;
  v_cost_sold numeric;
begin
  c.last_trade_id := 1 + coalesce(c.last_trade_id,
    (select max(t.trade_id) from paper_trade t where t.user_id = c.user_id and t.run_id = c.run_id), 0);
  insert into paper_trade (user_id, run_id, trade_id, order_id, logical_time, symbol, side, quantity, price, fees)
  values (c.user_id, c.run_id, c.last_trade_id, p_order_id, p_logical_time, p_symbol, p_side, p_quantity, p_price, p_fees);

  c := engine.post_cash(c, p_logical_time, v_amount, 'TRADE', c.last_trade_id);
  c.cash := c.cash + v_amount;

  if p_side = 'BUY' then
    insert into paper_position as p (user_id, run_id, symbol, quantity, cost_basis)
    values (c.user_id, c.run_id, p_symbol, p_quantity, -v_amount)
    on conflict (user_id, run_id, symbol) do update
      set quantity = p.quantity + excluded.quantity, cost_basis = p.cost_basis + excluded.cost_basis;
  else
    select * into strict v_position from paper_position p
     where p.user_id = c.user_id and p.run_id = c.run_id and p.symbol = p_symbol;
    v_cost_sold := case when p_quantity = v_position.quantity then v_position.cost_basis
                        else round(v_position.cost_basis * p_quantity / v_position.quantity, c.scale) end;
    update paper_position p
       set quantity = p.quantity - p_quantity, cost_basis = p.cost_basis - v_cost_sold,
           realized_pnl = p.realized_pnl + v_amount - v_cost_sold
     where p.user_id = c.user_id and p.run_id = c.run_id and p.symbol = p_symbol;
  end if;
  return c;
end $$;
