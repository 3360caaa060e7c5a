-- What was decided becomes rows: journals, state, marks.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- writes: engine_state
create function engine.save_state(c engine.context) returns void
language plpgsql as $$
begin
  update engine_state s
     set cash = c.cash, first_logical_time = c.first_logical_time, last_logical_time = c.last_logical_time,
         step_logical_time = c.step_logical_time
   where s.user_id = c.user_id and s.run_id = c.run_id;
end $$;

-- The journals of one run or many become rows. Each kind of row is one statement, and only if there is one. The orders
-- that end are found by their key first (offset 0): joined, a table that was small when this was planned would read the
-- journal once an order. The other offset 0 hides the contexts from the planner, so that it plans once and not at every
-- call.
-- writes: paper_order, paper_trade, cash_ledger, paper_position
create function engine.post_orders(p_contexts engine.context[]) returns void
language plpgsql as $$
declare
  v_new bigint;
  v_ended bigint;
  v_trades bigint;
  v_fees bigint;
begin
  select count(e.order_id) filter (where e.is_new), count(e.order_id) filter (where not e.is_new), count(e.trade_id), count(e.fee_items)
    into v_new, v_ended, v_trades, v_fees
    from (select p_contexts as contexts offset 0) a cross join unnest(a.contexts) c cross join unnest(c.journal) e;
  if v_new > 0 then
    insert into paper_order (user_id, run_id, order_id, logical_time, symbol, side, order_type, quantity, time_in_force,
                             status, filled_quantity, avg_fill_price, reject_reason, source, closed_time)
    select c.user_id, c.run_id, e.order_id, e.logical_time, e.symbol, e.side, 'MARKET', e.quantity, 'DAY', e.status,
           case when e.trade_id is null then 0 else e.quantity end, case when e.trade_id is not null then e.price end,
           e.reject_reason, e.source, e.logical_time
      from (select p_contexts as contexts offset 0) a cross join unnest(a.contexts) c cross join unnest(c.journal) e where e.is_new;
  end if;
  -- before the orders, whose average price is taken from them
  if v_trades > 0 then
    insert into paper_trade (user_id, run_id, trade_id, order_id, logical_time, symbol, side, quantity, price, fees)
    select c.user_id, c.run_id, e.trade_id, e.order_id, e.logical_time, e.symbol, e.side, e.quantity, e.price, e.fees
      from (select p_contexts as contexts offset 0) a cross join unnest(a.contexts) c cross join unnest(c.journal) e where e.trade_id is not null;
    if v_fees > 0 then
      insert into trade_fee (user_id, run_id, trade_id, component, amount, fee_schedule, product, side, effective_from)
      select c.user_id, c.run_id, e.trade_id, f.component, f.amount, (c.terms).fee_schedule, f.product, e.side, f.effective_from
        from (select p_contexts as contexts offset 0) a cross join unnest(a.contexts) c cross join unnest(c.journal) e cross join unnest(e.fee_items) f;
    end if;
    insert into cash_ledger (user_id, run_id, entry_id, logical_time, amount, cause, trade_id)
    select c.user_id, c.run_id, e.entry_id, e.logical_time, e.amount, 'TRADE', e.trade_id
      from (select p_contexts as contexts offset 0) a cross join unnest(a.contexts) c cross join unnest(c.journal) e where e.trade_id is not null;
    insert into paper_position as p (user_id, run_id, symbol, quantity, cost_basis, realized_pnl)
    select c.user_id, c.run_id, h.symbol, h.quantity, h.cost_basis, h.realized_pnl
      from (select p_contexts as contexts offset 0) a cross join unnest(a.contexts) c
     cross join lateral unnest(c.symbols, c.quantities, c.cost_bases, c.realized_pnls) h (symbol, quantity, cost_basis, realized_pnl)
     where h.symbol in (select e.symbol from unnest(c.journal) e where e.trade_id is not null)
    on conflict (user_id, run_id, symbol) do update
      set quantity = excluded.quantity, cost_basis = excluded.cost_basis, realized_pnl = excluded.realized_pnl;
  end if;
  if v_ended > 0 then
    update paper_order o
       set status = e.status, reject_reason = e.reject_reason,
           closed_time = case when e.status not in ('TRIGGERED', 'PARTIALLY_FILLED') then e.logical_time end,
           triggered_time = case when e.is_trigger then e.logical_time else o.triggered_time end,
           stop_price = coalesce(e.stop_price, o.stop_price),
           seen_time = null,
           filled_quantity = o.filled_quantity + case when e.trade_id is null then 0 else e.quantity end,
           avg_fill_price = case when e.trade_id is null then o.avg_fill_price when o.filled_quantity = 0 then e.price
             -- a raw order may say that more has filled than there are trades
             else (select round((sum(t.quantity * t.price) + (o.filled_quantity + e.quantity - sum(t.quantity)) * coalesce(o.avg_fill_price, 0))
                                / (o.filled_quantity + e.quantity), 8) from paper_trade t
                    where t.user_id = o.user_id and t.run_id = o.run_id and t.order_id = o.order_id) end
      from (select p_contexts as contexts offset 0) a cross join unnest(a.contexts) c
     cross join unnest(c.journal) e
     cross join lateral (select p.ctid from paper_order p
                          where p.user_id = c.user_id and p.run_id = c.run_id and p.order_id = e.order_id offset 0) p
     where not e.is_new and o.ctid = p.ctid;
  end if;
end $$;

-- writes: event_ledger, sip_plan, rebalance_plan
create function engine.post_slots(p_contexts engine.context[]) returns void
language plpgsql as $$
begin
  insert into event_ledger (user_id, run_id, logical_time, event_type, event_key, payload)
  select c.user_id, c.run_id, e.logical_time, e.event_type, e.event_key, e.payload
    from (select p_contexts as contexts offset 0) a cross join unnest(a.contexts) c cross join unnest(c.journal) e where e.event_type is not null;
  update sip_plan p set next_slot = s.next_slot, residual = s.residual, last_date = s.last_date, paused = s.paused, skipped_funds = s.skipped_funds
    from (select p_contexts as contexts offset 0) a cross join unnest(a.contexts) c cross join unnest(c.sips) s
   cross join lateral (select x.ctid from sip_plan x
                        where x.user_id = c.user_id and x.run_id = c.run_id and x.sip_id = s.sip_id and x.next_slot <> s.next_slot offset 0) x
   where p.ctid = x.ctid;
  update rebalance_plan p set next_slot = s.next_slot, last_date = s.last_date
    from (select p_contexts as contexts offset 0) a cross join unnest(a.contexts) c cross join unnest(c.rebalances) s
   cross join lateral (select x.ctid from rebalance_plan x
                        where x.user_id = c.user_id and x.run_id = c.run_id and x.plan_id = s.plan_id and x.next_slot <> s.next_slot offset 0) x
   where p.ctid = x.ctid;
end $$;

-- Where the engine writes many rows: what is inserted here is written to the ledgers by a trigger, inside of which the
-- guards act once a statement and not once a row (95_triggers). Nothing is ever read from it.
create view engine.posting as
  select null::text as feed, null::engine.context[] as contexts, null::engine.span[] as spans;

-- writes: every per-run table
create function engine.write_posting() returns trigger
language plpgsql set search_path = public, pg_temp as $$
begin
  perform engine.post_orders(new.contexts), engine.post_slots(new.contexts), engine.mark(new.feed, new.spans);
  return new;
end $$;

-- Write everything that was decided: journal, plans, state, marks. Afterwards the context holds nothing unwritten.
-- writes: every per-run table
create function engine.post(c engine.context) returns engine.context
language plpgsql as $$
begin
  if cardinality(c.journal) > 3 or cardinality((c.spans[1]).times) > 3 or cardinality(c.spans) > 3 then
    insert into engine.posting (feed, contexts, spans) values (c.feed, array[c], c.spans);
  else
    if c.journal is not null then
      perform engine.post_orders(array[c]);
    end if;
    if c.has_moved_plans then
      perform engine.post_slots(array[c]);
    end if;
    if c.spans is not null then
      perform engine.mark(c.feed, c.spans);
    end if;
  end if;
  perform engine.save_state(c);
  c.journal := null;
  c.has_moved_plans := false;
  c.spans := null;
  if c.has_trailing then
    perform engine.ratchet(c, greatest(c.last_logical_time, c.step_logical_time));
  end if;
  return c;
end $$;
