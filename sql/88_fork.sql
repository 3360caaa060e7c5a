-- A fork: a new run that shares the history of another up to one of its ticks, and goes its own way from there.
-- What rows do not say of that moment, and what is chosen instead:
--   paused, limits, forbidden symbols, plans that were created later: they have no time, so they are as they are now
--   orders accepted or canceled by hand after the tick and before the next carry the tick's time: they are part of it
--   orders open at the end of a source that has ended are open again, those canceled by hand after its last tick included
--   the stop of a trailing order is computed again from the bars as they are now, if later ones have moved it
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Was the order open after the tick at p_at?
create function engine.was_open(o paper_order, p_at timestamptz, p_ended_at timestamptz, p_has_ended boolean) returns boolean
language plpgsql stable as $$
begin
  return o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')
    or o.closed_time > p_at
    or p_has_ended and o.status = 'CANCELED' and o.closed_time is not distinct from p_ended_at
       and engine.cancel_cause(engine.case_of(o.user_id, o.run_id, o.order_id)) = 'RUN_END';
end $$;

-- An order that was open after the tick at p_at, as it stood then: its own fills, its trigger, its stop, and the quantity
-- before what others traded later changed it. A trailing stop that has moved since starts again where it was accepted.
create function engine.order_as_of(o paper_order, p_feed text, p_at timestamptz) returns paper_order
language plpgsql stable as $$
begin
  o.quantity := o.quantity - coalesce((select sum(g.quantity) from engine.quantity_changes(o) g where g.logical_time > p_at), 0);
  select coalesce(sum(t.quantity), 0)::unit_quantity, round(sum(t.quantity * t.price) / sum(t.quantity), 8)::unit_price into o.filled_quantity, o.avg_fill_price
    from paper_trade t
   where t.user_id = o.user_id and t.run_id = o.run_id and t.order_id = o.order_id and t.logical_time <= p_at;
  if o.order_type = 'TRAILING_STOP' and greatest(o.triggered_time, o.seen_time) > p_at and coalesce(o.triggered_time > p_at, true) then
    o.stop_price := engine.first_stop(p_feed, o);
    o.seen_time := null;
  end if;
  if o.triggered_time > p_at then
    o.triggered_time := null;
  end if;
  o.status := case when o.filled_quantity > 0 then 'PARTIALLY_FILLED' when o.triggered_time is not null then 'TRIGGERED' else 'PENDING' end;
  o.reject_reason := null;
  o.closed_time := null;
  return o;
end $$;

-- writes: paper_order
create function engine.fork_orders(c engine.context, p_at timestamptz, p_user_id bigint, p_run_id bigint) returns void
language plpgsql as $$
begin
  insert into paper_order
  select n.*
    from paper_order o
   cross join lateral (select engine.was_open(o, p_at, c.last_logical_time, c.status <> 'RUNNING' and p_at >= coalesce(c.last_logical_time, '-infinity')) as is_open offset 0) w
   cross join lateral (select case when w.is_open then engine.order_as_of(o, c.feed, p_at) else o end as o offset 0) a
   cross join lateral jsonb_populate_record(a.o, jsonb_build_object('user_id', p_user_id, 'run_id', p_run_id)) n
   where o.user_id = c.user_id and o.run_id = c.run_id and (o.logical_time <= p_at or o.logical_time is null)
   order by o.order_id;
end $$;

-- Rows that say when they were made, those up to p_at; and rows that do not, all of them. A row is copied whole: only its
-- key is another's.
-- writes: every per-run table but engine_state, engine_status, paper_order, paper_position and the plans
create function engine.fork_rows(c engine.context, p_at timestamptz, p_user_id bigint, p_run_id bigint) returns void
language plpgsql as $$
declare
  v_table text;
  v_time text;
begin
  for v_table, v_time in values
    ('paper_trade', 'logical_time'), ('cash_ledger', 'logical_time'), ('mtm_ledger', 'logical_time'), ('paper_equity_curve', 'logical_time'),
    ('event_ledger', 'logical_time'), ('target_weight', null), ('risk_limit', null), ('forbidden_symbol', null)
  loop
    execute format('insert into public.%I select n.* from public.%I t '
                   'cross join lateral pg_catalog.jsonb_populate_record(t, pg_catalog.jsonb_build_object(''user_id'', $3, ''run_id'', $4)) n '
                   'where t.user_id = $1 and t.run_id = $2%s', v_table, v_table,
                   case when v_time is not null then format(' and (t.%1$I <= $5 or t.%1$I is null)', v_time) end)
      using c.user_id, c.run_id, p_user_id, p_run_id, p_at;
  end loop;
end $$;

-- sip_plan.last_date of a plan that stands at p_slot, when it stands at p_next_slot now.
create function engine.last_slot_date(p_calendar text, p_start date, p_frequency text, p_next_slot int, p_slot int, p_last_date date) returns date
language sql stable
return case when p_slot = p_next_slot then p_last_date
            when p_frequency = 'DAILY' and p_slot > 0 then engine.slot_date(p_calendar, p_start, p_frequency, p_slot - 1, null, null) end;

-- Plans stand at the first slot that ended later; what later slots did to the residual is taken back.
-- writes: sip_plan, rebalance_plan
create function engine.fork_plans(c engine.context, p_at timestamptz, p_user_id bigint, p_run_id bigint) returns void
language plpgsql as $$
begin
  insert into sip_plan
  select n.*
    from sip_plan p
   cross join lateral (
     select least(p.next_slot, min(split_part(v.event_key, ':', 2)::int)) as next_slot,
            coalesce(sum((v.payload ->> 'amount')::numeric - coalesce(t.spent, 0)) filter (where v.event_type in ('SIP_EXECUTED', 'SIP_SKIPPED_BELOW_UNIT')), 0) as saved
       from event_ledger v
       left join lateral (select sum(engine.value(t.quantity, t.price, c.scale)) as spent from paper_trade t
                           where t.user_id = v.user_id and t.run_id = v.run_id and t.order_id = (v.payload ->> 'order_id')::bigint) t on true
      where v.user_id = p.user_id and v.run_id = p.run_id and v.event_type like 'SIP\_%' and v.logical_time > p_at
        and v.event_key ~ ('^' || p.sip_id || ':[0-9]{1,9}$')) e
   cross join lateral jsonb_populate_record(p, jsonb_build_object('user_id', p_user_id, 'run_id', p_run_id, 'next_slot', e.next_slot,
     'residual', case when p.whole_units then greatest(0, p.residual - e.saved) else p.residual end,
     'last_date', engine.last_slot_date(c.calendar, p.start_date, p.frequency, p.next_slot, e.next_slot, p.last_date))) n
   where p.user_id = c.user_id and p.run_id = c.run_id order by p.sip_id;
  insert into rebalance_plan
  select n.*
    from rebalance_plan p
   cross join lateral (
     select least(p.next_slot, min(split_part(v.event_key, ':', 2)::int)) as next_slot
       from event_ledger v
      where v.user_id = p.user_id and v.run_id = p.run_id and v.event_type in ('REBALANCED', 'REBALANCE_MISSED') and v.logical_time > p_at
        and v.event_key ~ ('^' || p.plan_id || ':[0-9]{1,9}$')) e
   cross join lateral jsonb_populate_record(p, jsonb_build_object('user_id', p_user_id, 'run_id', p_run_id, 'next_slot', e.next_slot,
     'last_date', engine.last_slot_date(c.calendar, p.start_date, p.frequency, p.next_slot, e.next_slot, p.last_date))) n
   where p.user_id = c.user_id and p.run_id = c.run_id order by p.plan_id;
end $$;

-- Cash and positions after the tick at p_at, booked again from the history of the source, by the rule that booked them.
create function engine.holdings_at(c engine.context, p_at timestamptz) returns engine.context
language plpgsql stable as $$
declare
  e engine.entry;
begin
  c.cash := (select coalesce(sum(l.amount), 0) from cash_ledger l
              where l.user_id = c.user_id and l.run_id = c.run_id and l.trade_id is null and (l.logical_time <= p_at or l.logical_time is null));
  c.symbols := null;
  c.quantities := null;
  c.cost_bases := null;
  c.realized_pnls := null;
  c.cost_basis := 0;
  c.realized_pnl := 0;
  for e.symbol, e.side, e.quantity, e.amount in
    select t.symbol, t.side, t.quantity, coalesce(l.amount, 0)
      from paper_trade t
      left join cash_ledger l on l.user_id = t.user_id and l.run_id = t.run_id and l.trade_id = t.trade_id
     where t.user_id = c.user_id and t.run_id = c.run_id and t.logical_time <= p_at
     order by t.trade_id
  loop
    c := engine.move_holdings(c, e);
  end loop;
  return c;
end $$;

-- The source is locked in share mode: ticks of it wait, other forks of it do not; the copy is read after that.
-- writes: every per-run table
create function engine.fork_run(p_user_id bigint, p_run_id bigint, p_at timestamptz, p_new_user_id bigint, p_name text) returns bigint
language plpgsql as $$
declare
  c engine.context;
  v_at timestamptz;
  v_run_id bigint;
begin
  perform engine.require_read_committed(p_user_id, p_run_id);
  perform from strategy_run r where r.user_id = p_user_id and r.run_id = p_run_id for share;
  perform engine.require_run(p_user_id, p_run_id);
  c := engine.view_run(p_user_id, p_run_id);
  perform engine.require(p_at is null or engine.is_complete(c, p_at), format('argument=at value=%s must_be=a_tick_of_the_run', engine.iso(p_at)));
  v_at := coalesce(p_at, c.last_logical_time, '-infinity');
  v_run_id := engine.add_run(p_new_user_id, (c.terms).initial_cash, c.feed, coalesce(p_name, (c.terms).name), (c.terms).participation,
    (c.terms).slippage_bps, null, c.mark_policy, (c.terms).currency, (c.terms).volume_impact, (c.terms).penetration_ticks, (c.terms).max_price_age);
  update strategy_run r set forked_from_user_id = p_user_id, forked_from_run_id = p_run_id, forked_at = coalesce(p_at, c.last_logical_time)
   where r.user_id = p_new_user_id and r.run_id = v_run_id;

  perform engine.fork_orders(c, v_at, p_new_user_id, v_run_id);
  perform engine.fork_plans(c, v_at, p_new_user_id, v_run_id);
  perform engine.fork_rows(c, v_at, p_new_user_id, v_run_id);
  if c.cash is not null then
    c := engine.holdings_at(c, v_at);
    insert into engine_state (user_id, run_id, cash, first_logical_time, last_logical_time, step_logical_time)
    values (p_new_user_id, v_run_id, c.cash, case when v_at > '-infinity' then c.first_logical_time end,
            coalesce(p_at, c.last_logical_time), case when c.step_logical_time <= v_at then c.step_logical_time end);
    insert into paper_position (user_id, run_id, symbol, quantity, cost_basis, realized_pnl)
    select p_new_user_id, v_run_id, h.symbol, h.quantity, h.cost_basis, h.realized_pnl
      from unnest(c.symbols, c.quantities, c.cost_bases, c.realized_pnls) h (symbol, quantity, cost_basis, realized_pnl);
  end if;
  perform engine.begin_run(p_new_user_id, v_run_id);
  perform engine.ratchet(engine.view_run(p_new_user_id, v_run_id), v_at);
  return v_run_id;
end $$;
