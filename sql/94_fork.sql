-- A fork: a new run that shares the history of another up to one of its ticks, and goes its own way from there.
-- What rows do not say of that moment, and what is chosen instead:
--   amounts and pauses of plans (amount, base_slot, paused, pauses), limits, forbidden symbols, plans that were created
--   later: they have no time, so they are as they are now; an automatic pause has one, and is undone if it came later
--   slots that had been skipped in a row (skipped_funds), if later ones have ended, are counted again from how they ended; a
--   resume_sip that started the count again without an automatic pause is not known
--   orders accepted or canceled by hand after the tick and before the next carry the tick's time: they are part of it
--   orders open at the end of a source that has ended are open again, those canceled by hand after its last tick included
--   the stop of a trailing order is computed again from the bars as they are now, if later ones have moved it
--   the terms of an order that a later split has changed are scaled back by the inverse ratio: what the split rounded off a
--   price (to the tick, to 8 decimals, or to below 1e12) is lost, and so is the part of a quantity that a reverse split left no unit of
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Rows that say when they were made, or are part of one that does, those up to p_at; and rows that do not, all of them. A row is copied whole: only its
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
  insert into trade_fee
  select n.*
    from trade_fee f
    join paper_trade t on t.user_id = f.user_id and t.run_id = f.run_id and t.trade_id = f.trade_id and t.logical_time <= p_at
   cross join lateral jsonb_populate_record(f, jsonb_build_object('user_id', p_user_id, 'run_id', p_run_id)) n
   where f.user_id = c.user_id and f.run_id = c.run_id;
  -- a dividend is owed from its event on
  insert into dividend_due
  select n.*
    from dividend_due d
    join event_ledger v on v.user_id = d.user_id and v.run_id = d.run_id and v.event_type = 'DIVIDEND'
     and v.event_key = engine.action_key(d.symbol, d.ex_date) and v.logical_time <= p_at
   cross join lateral jsonb_populate_record(d, jsonb_build_object('user_id', p_user_id, 'run_id', p_run_id)
     || case when d.paid_time > p_at then '{"paid_time": null, "entry_id": null}' else '{}' end::jsonb) n
   where d.user_id = c.user_id and d.run_id = c.run_id;
end $$;

-- sip_plan.last_date of a plan that stands at p_slot, when it stands at p_next_slot now.
create function engine.last_slot_date(p_calendar text, p_start date, p_frequency text, p_next_slot int, p_slot int, p_last_date date) returns date
language sql stable
return case when p_slot = p_next_slot then p_last_date
            when p_frequency = 'DAILY' and p_slot > 0 then engine.slot_date(p_calendar, p_start, p_frequency, p_slot - 1, null, null) end;

-- sip_plan.skipped_funds of a plan that stands at p_slot: the slots in a row before it that ended for want of funds, since
-- resume_sip has ended an automatic pause.
create function engine.skipped_before(p_plan sip_plan, p_slot int, p_is_paused boolean) returns int
language plpgsql stable as $$
begin
  return (with ended as (
      select split_part(v.event_key, ':', 2)::int as slot,
             bool_and(v.event_type = 'SIP_SKIPPED_FUNDS'
                      or v.event_type = 'SIP_AUTO_PAUSED' and p_is_paused and split_part(v.event_key, ':', 2)::int = p_slot - 1) as is_skipped
        from event_ledger v
       where v.user_id = p_plan.user_id and v.run_id = p_plan.run_id and v.event_type like 'SIP\_%'
         and v.event_key ~ ('^' || p_plan.sip_id || ':[0-9]{1,9}$')
       group by v.event_key)
    select count(*)::int from ended e
     where e.slot < p_slot and e.slot > coalesce((select max(x.slot) from ended x where x.slot < p_slot and not x.is_skipped), -1));
end $$;

-- Plans stand at the first slot that ended later; what later slots did to the residual is taken back, and so is their pause.
-- writes: sip_plan, rebalance_plan
create function engine.fork_plans(c engine.context, p_at timestamptz, p_user_id bigint, p_run_id bigint) returns void
language plpgsql as $$
begin
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
  insert into sip_plan
  select n.*
    from sip_plan p
   cross join lateral (
     select least(p.next_slot, min(split_part(v.event_key, ':', 2)::int)) as next_slot,
            coalesce(sum((v.payload ->> 'amount')::numeric - coalesce(t.spent, 0)) filter (where v.event_type in ('SIP_EXECUTED', 'SIP_SKIPPED_BELOW_UNIT')), 0) as saved,
            coalesce(bool_or(v.event_type = 'SIP_AUTO_PAUSED'), false) as is_paused_later
       from event_ledger v
       left join lateral (select sum(engine.value(t.quantity, t.price, c.scale) + t.fees) as spent from paper_trade t
                           where t.user_id = v.user_id and t.run_id = v.run_id and t.order_id = any (engine.orders_in(v.payload))) t on true
      where v.user_id = p.user_id and v.run_id = p.run_id and v.event_type like 'SIP\_%' and v.logical_time > p_at
        and v.event_key ~ ('^' || p.sip_id || ':[0-9]{1,9}$')) e
   cross join lateral jsonb_populate_record(p, jsonb_build_object('user_id', p_user_id, 'run_id', p_run_id, 'next_slot', e.next_slot,
     'base_slot', least(p.base_slot, e.next_slot), 'paused', p.paused and not e.is_paused_later,
     'skipped_funds', case when p.auto_pause_after is null or e.next_slot = p.next_slot then least(p.skipped_funds, e.next_slot)
                           else engine.skipped_before(p, e.next_slot, p.paused and not e.is_paused_later) end,
     'residual', case when p.whole_units then greatest(0, p.residual - e.saved) else p.residual end,
     'last_date', engine.last_slot_date(c.calendar, p.start_date, p.frequency, p.next_slot, e.next_slot, p.last_date))) n
   where p.user_id = c.user_id and p.run_id = c.run_id order by p.sip_id;
end $$;

-- Cash and positions after the tick at p_at, booked again from the history of the source, by the rule that booked them.
-- Splits come before the trades of their time, and say themselves what they have done.
create function engine.holdings_at(c engine.context, p_at timestamptz) returns engine.context
language plpgsql stable as $$
declare
  v record;
  e engine.entry;
  i int;
begin
  c.symbols := null;
  c.quantities := null;
  c.cost_bases := null;
  c.realized_pnls := null;
  c.last_trade_id := 0;
  c.last_entry_id := 0;
  for v in
    select m.*
      from (select t.logical_time, t.trade_id, t.symbol, t.side, t.quantity, t.price, t.fees, null::jsonb as payload from paper_trade t
             where t.user_id = c.user_id and t.run_id = c.run_id and t.logical_time <= p_at
            union all
            select s.logical_time, 0, s.payload ->> 'symbol', null, null, null, null, s.payload from event_ledger s
             where s.user_id = c.user_id and s.run_id = c.run_id and s.event_type = 'SPLIT' and s.logical_time <= p_at) m
     order by m.logical_time, m.trade_id, m.symbol collate "C"
  loop
    i := array_position(c.symbols, v.symbol);
    if v.side is not null then
      e.symbol := v.symbol;
      e.side := v.side;
      e.quantity := v.quantity;
      e.price := v.price;
      e.fee_items := array[row(null, v.fees, null, null)::engine.fee];
      c := engine.book_trade(c, e);
      c.journal := null;
    elsif i is not null then
      c.quantities[i] := c.quantities[i] + (v.payload ->> 'units')::numeric;
      c.cost_bases[i] := c.cost_bases[i] - coalesce((v.payload ->> 'cost')::numeric, 0);
      c.realized_pnls[i] := c.realized_pnls[i] + coalesce((v.payload ->> 'cash_in_lieu')::numeric, 0) - coalesce((v.payload ->> 'cost')::numeric, 0);
    end if;
  end loop;
  c.cash := (select coalesce(sum(l.amount), 0) from cash_ledger l
              where l.user_id = c.user_id and l.run_id = c.run_id and (l.logical_time <= p_at or l.logical_time is null));
  return c;
end $$;

-- The source is locked in share mode: ticks of it wait, other forks of it do not; the copy is read after that. No other run
-- is waited for while it is locked, not even to see whether it is just ending: that would be out of key order.
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
    (c.terms).slippage_bps, (c.terms).fee_schedule, c.mark_policy, (c.terms).currency, (c.terms).volume_impact, (c.terms).penetration_ticks,
    (c.terms).max_price_age, (c.terms).reinvest_dividends, (c.terms).initial_margin, (c.terms).maintenance_margin, (c.terms).borrow_rate, (c.terms).margin_rate);
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
