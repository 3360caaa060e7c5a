-- The run in memory: read once, and changed by its steps without touching a table; 42_post writes it. Ids count on from
-- the highest row under the run's lock, so rows that were inserted by hand are simply followed.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- The context of a run, in one statement. Without engine_state (raw rows) its cash is null.
create function engine.view_run(p_user_id bigint, p_run_id bigint) returns engine.context
language plpgsql stable as $$
declare
  c engine.context;
begin
  select r.user_id, r.run_id, r.feed, f.calendar, k.time_zone, engine.minor_unit(r.currency), r.status, r.mark_policy, r, f.adjusted,
         s.cash, s.first_logical_time, s.last_logical_time, s.step_logical_time,
         h.symbols, h.quantities, h.cost_bases, h.realized_pnls, h.cost_basis, h.realized_pnl,
         array(select p from sip_plan p where p.user_id = r.user_id and p.run_id = r.run_id order by p.sip_id),
         array(select p from rebalance_plan p where p.user_id = r.user_id and p.run_id = r.run_id order by p.plan_id),
         exists (select from paper_order o where o.user_id = r.user_id and o.run_id = r.run_id
                                             and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')),
         0, false, false, false
    into c.user_id, c.run_id, c.feed, c.calendar, c.time_zone, c.scale, c.status, c.mark_policy, c.terms, c.is_adjusted,
         c.cash, c.first_logical_time, c.last_logical_time, c.step_logical_time,
         c.symbols, c.quantities, c.cost_bases, c.realized_pnls, c.cost_basis, c.realized_pnl,
         c.sips, c.rebalances, c.has_open_orders,
         c.made, c.is_closed, c.has_moved_plans, c.has_written
    from strategy_run r
    join feed f on f.feed = r.feed
    join calendar k on k.calendar = f.calendar
    left join engine_state s on s.user_id = r.user_id and s.run_id = r.run_id
   cross join lateral (
     select array_agg(p.symbol) as symbols, array_agg(p.quantity::numeric) as quantities, array_agg(p.cost_basis::numeric) as cost_bases,
            array_agg(p.realized_pnl::numeric) as realized_pnls, coalesce(sum(p.cost_basis), 0) as cost_basis,
            coalesce(sum(p.realized_pnl), 0) as realized_pnl
       from paper_position p where p.user_id = r.user_id and p.run_id = r.run_id) h
   where r.user_id = p_user_id and r.run_id = p_run_id;
  return c;
end $$;

-- The context of a run that is already locked. A running run without engine_state gets its state and its opening entry
-- here.
-- writes: engine_state, cash_ledger
create function engine.read_context(p_user_id bigint, p_run_id bigint) returns engine.context
language plpgsql as $$
declare
  c engine.context := engine.view_run(p_user_id, p_run_id);
begin
  if c.cash is null and c.status = 'RUNNING' then
    c.cash := (c.terms).initial_cash;
    insert into engine_state (user_id, run_id, cash) values (p_user_id, p_run_id, c.cash);
    insert into cash_ledger (user_id, run_id, entry_id, amount, cause)
    values (p_user_id, p_run_id, engine.next_entry_id(c), c.cash, 'OPENING');
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

-- The highest by index: max() may be planned to read them all.
create function engine.next_order_id(c engine.context) returns bigint
language plpgsql stable as $$
begin
  if c.last_order_id is not null then
    return c.last_order_id + 1;
  end if;
  return 1 + coalesce((select o.order_id from paper_order o where o.user_id = c.user_id and o.run_id = c.run_id
                        order by o.order_id desc limit 1), 0);
end $$;

create function engine.next_trade_id(c engine.context) returns bigint
language plpgsql stable as $$
begin
  if c.last_trade_id is not null then
    return c.last_trade_id + 1;
  end if;
  return 1 + coalesce((select t.trade_id from paper_trade t where t.user_id = c.user_id and t.run_id = c.run_id
                        order by t.trade_id desc limit 1), 0);
end $$;

create function engine.next_entry_id(c engine.context) returns bigint
language plpgsql stable as $$
begin
  if c.last_entry_id is not null then
    return c.last_entry_id + 1;
  end if;
  return 1 + coalesce((select l.entry_id from cash_ledger l where l.user_id = c.user_id and l.run_id = c.run_id
                        order by l.entry_id desc limit 1), 0);
end $$;

-- Note a deed, to be written.
create function engine.note(c engine.context, e engine.entry) returns engine.context
language plpgsql immutable as $$
begin
  c.journal := c.journal || e;
  c.has_written := true;
  return c;
end $$;

-- What closing p_sold of p_held units takes from their cost: its share, and the whole of it with the last unit.
create function engine.cost_of_sale(p_cost_basis numeric, p_held numeric, p_sold numeric, p_scale int) returns numeric
language sql immutable parallel safe
return case when p_sold = p_held then p_cost_basis else round(p_cost_basis * p_sold / p_held, p_scale) end;

-- Note a fill of e.quantity at e.price, and move cash and position. Total average cost, signed: of a short position it is
-- what the sales have brought, negative. What goes against the position closes it, takes its share of the cost with it
-- and realizes the difference; the rest, or all, opens.
create function engine.book_trade(c engine.context, e engine.entry) returns engine.context
language plpgsql stable as $$
declare
  v_value numeric := engine.value(e.quantity, e.price, c.scale);
  v_units numeric := case e.side when 'BUY' then e.quantity else -e.quantity end;
  v_held numeric;
  v_closed numeric;
  v_cash numeric := 0::numeric;   -- of the part that closes, and the cost that goes with it
  v_cost numeric := 0::numeric;
  i int := array_position(c.symbols, e.symbol);
begin
  c.last_trade_id := engine.next_trade_id(c);
  c.last_entry_id := engine.next_entry_id(c);
  e.trade_id := c.last_trade_id;
  e.entry_id := c.last_entry_id;
  e.fees := case when e.fee_items is null then 0 else engine.fee_sum(e.fee_items) end;
  e.amount := case e.side when 'BUY' then -v_value - e.fees else v_value - e.fees end;
  c.cash := c.cash + e.amount;

  if i is null then
    c.symbols := c.symbols || e.symbol;
    c.quantities := c.quantities || 0::numeric;
    c.cost_bases := c.cost_bases || 0::numeric;
    c.realized_pnls := c.realized_pnls || 0::numeric;
    i := cardinality(c.symbols);
  end if;
  v_held := c.quantities[i];
  if v_held * v_units < 0 then
    v_closed := least(e.quantity, abs(v_held));
    v_cash := case v_closed when e.quantity then e.amount else round(e.amount * v_closed / e.quantity, c.scale) end;
    v_cost := engine.cost_of_sale(c.cost_bases[i], abs(v_held), v_closed, c.scale);
    c.realized_pnls[i] := c.realized_pnls[i] + v_cash - v_cost;
    c.realized_pnl := c.realized_pnl + v_cash - v_cost;
  end if;
  c.quantities[i] := v_held + v_units;
  c.cost_bases[i] := c.cost_bases[i] - v_cost - (e.amount - v_cash);
  c.cost_basis := c.cost_basis - v_cost - (e.amount - v_cash);
  return engine.note(c, e);
end $$;
