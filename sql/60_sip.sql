-- SIP: scheduled buys for a fixed amount. A slot's number is its identity; it ends once, as one event.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- An order that fills at once, at the close the tick stands on. The caller has asked reject_reason: null fills,
-- anything else stores the order as rejected.
create function engine.order_at_close(
  c engine.context, p_time timestamptz, p_symbol text, p_side text, p_quantity numeric, p_price numeric, p_source text,
  p_reason text, p_event engine.entry default null
) returns engine.context
language plpgsql stable as $$
declare
  e engine.entry := p_event;
begin
  c.last_order_id := engine.next_order_id(c);
  e.logical_time := p_time;
  e.order_id := c.last_order_id;
  e.is_new := true;
  e.symbol := p_symbol;
  e.side := p_side;
  e.quantity := p_quantity;
  e.price := p_price;
  e.source := p_source;
  e.reject_reason := p_reason;
  if p_reason is null then
    if (c.terms).fee_schedule is not null then
      e.fee_items := engine.fill_fees(c, null, p_symbol, p_side, p_time, p_quantity, p_price);
    end if;
    e.status := 'FILLED';
    return engine.book_trade(c, e);
  end if;
  e.status := 'REJECTED';
  return engine.note(c, e);
end $$;

create function engine.sip_payload(p_nominal date, p_amount numeric, p_reason text, p_order_id bigint) returns jsonb
language sql stable
return jsonb_strip_nulls(jsonb_build_object('date', p_nominal, 'amount', trim_scale(p_amount), 'reason', p_reason, 'order_id', p_order_id));

-- What slot p_slot invests: the amount, stepped up once every step_up_every slots since base_slot, to 1e12 at most:
-- nobody has the cash for more, and powers of it would take for ever to compute.
create function engine.sip_amount(p_plan sip_plan, p_slot int, p_scale int) returns numeric
language sql immutable
return case
  when (p_plan).step_up_percent is not null and (p_slot - (p_plan).base_slot) / (p_plan).step_up_every * ln(1 + (p_plan).step_up_percent / 100) > 40 then 1e12
  when (p_plan).step_up_percent is not null
    then round((p_plan).amount * power(1 + (p_plan).step_up_percent / 100, (p_slot - (p_plan).base_slot) / (p_plan).step_up_every), p_scale)
  when (p_plan).step_up_amount is not null
    then round((p_plan).amount + (p_plan).step_up_amount * ((p_slot - (p_plan).base_slot) / (p_plan).step_up_every), p_scale)
  else round((p_plan).amount, p_scale)
end;

-- How a due slot ends without looking at money; null = it executes.
create function engine.sip_skip(p_calendar text, p_plan sip_plan, p_nominal date, p_is_current boolean, p_time timestamptz) returns text
language sql stable
return case
  when (p_plan).paused or (p_plan).pauses @> p_nominal then 'SIP_SKIPPED_PAUSED'
  when (p_plan).roll = 'SKIP' and not engine.is_session_date(p_calendar, p_nominal) then 'SIP_SKIPPED_HOLIDAY'
  when (p_plan).catch_up <> 'EACH' and not p_is_current then 'SIP_MISSED'
  when (p_plan).catch_up = 'SKIP'
    and engine.is_session_missed(p_calendar, engine.due_date(p_calendar, p_nominal, (p_plan).roll), p_time) then 'SIP_MISSED'
end;

-- How it ends when it was tried: why it may not buy, or of how many symbols it does.
create function engine.sip_outcome(p_reason text, p_count int) returns text
language sql immutable
return case
  when p_reason = 'CASH_INSUFFICIENT' then 'SIP_SKIPPED_FUNDS'
  when p_reason is not null then 'SIP_MISSED'
  when p_count = 0 then 'SIP_SKIPPED_BELOW_UNIT'
  else 'SIP_EXECUTED'
end;

-- auto_pause_after: count the slots in a row that ended for want of funds; the last of so many pauses the plan, as
-- pause_sip would. Any other end, and resume_sip, starts the count again.
create function engine.count_skipped_funds(c engine.context, p_end engine.entry) returns engine.context
language plpgsql stable as $$
begin
  if p_end.event_type is distinct from 'SIP_SKIPPED_FUNDS' then
    c.sip.skipped_funds := 0;
    return c;
  end if;
  c.sip.skipped_funds := (c.sip).skipped_funds + 1;
  if (c.sip).skipped_funds >= (c.sip).auto_pause_after then
    c.sip.paused := true;
    p_end.event_type := 'SIP_AUTO_PAUSED';
    p_end.payload := jsonb_build_object('date', p_end.payload -> 'date', 'skipped', (c.sip).skipped_funds);
    if not exists (select from event_ledger v   -- a row that was inserted by hand
                    where v.user_id = c.user_id and v.run_id = c.run_id and v.event_type = p_end.event_type and v.event_key = p_end.event_key) then
      c := engine.note(c, p_end);
    end if;
  end if;
  return c;
end $$;

-- End one due slot of the plan c.sip: an event, and filled orders when it executes. All its legs are bought or none:
-- the first that may not be ends the slot and takes back those before it, which it is asked after: on margin they may have
-- opened a position, or covered one. A leg whose money buys no unit is left out.
create function engine.end_sip_slot(
  c engine.context, p_slot int, p_nominal date, p_is_current boolean, p_time timestamptz, p_legs engine.leg[]
) returns engine.context
language plpgsql stable as $$
declare
  v_plan sip_plan := c.sip;
  v_amount numeric := engine.sip_amount(v_plan, p_slot, c.scale);
  v_money numeric := v_amount + v_plan.residual;
  v_cash numeric := c.cash;
  v_fees numeric;
  v_before engine.context;
  v_bought int := 0;
  v_reason text;
  g engine.leg;
  e engine.entry;
begin
  e.logical_time := p_time;
  e.event_key := v_plan.sip_id || ':' || p_slot;
  if engine.is_sip_slot_ended(c.user_id, c.run_id, e.event_key) then
    return c;
  end if;
  e.event_type := engine.sip_skip(c.calendar, v_plan, p_nominal, p_is_current, p_time);
  if e.event_type is null then
    if v_plan.symbol is null then   -- one leg has all the money
      p_legs := engine.split_money(v_plan, p_legs, v_money, c.symbols, c.quantities, c.scale);
      v_before := c;
    end if;
    foreach g in array p_legs loop
      g.quantity := engine.units_within(coalesce(g.money, v_money), g.price, engine.buying_step(g.symbol, v_plan.whole_units),
                                        (c.terms).fee_schedule, g.symbol, 'BUY', engine.trade_date(p_time, c.time_zone), c.scale);
      continue when g.quantity = 0;
      v_fees := case when (c.terms).fee_schedule is null then 0 else engine.fee_sum(engine.fill_fees(c, null, g.symbol, 'BUY', p_time, g.quantity, g.price)) end;
      v_reason := case when g.quantity >= 1e12 then 'QUANTITY_TOO_LARGE'
        else engine.reject_reason(c, g.symbol, 'BUY', g.quantity, g.price, c.reserved, 0, p_time, v_fees) end;
      exit when v_reason is not null;
      c := engine.order_at_close(c, p_time, g.symbol, 'BUY', g.quantity, g.price, 'SIP', null);
      v_bought := v_bought + 1;
    end loop;
    if v_reason is not null and v_bought > 0 then
      c := v_before;
    end if;
    e.event_type := engine.sip_outcome(v_reason, v_bought);
    if v_plan.whole_units and v_reason is null then
      c.sip.residual := v_money - (v_cash - c.cash);
    end if;
  end if;

  e.payload := engine.sip_payload(p_nominal, v_amount, v_reason, case when e.event_type = 'SIP_EXECUTED' and v_plan.symbol is not null then c.last_order_id end);
  if v_plan.symbol is null then
    e.payload := e.payload || engine.legs_payload(e.event_type, v_reason, g.symbol, engine.next_order_id(c) - v_bought, v_bought);
  end if;
  c := engine.note(c, e);
  c.made := c.made + (e.event_type = 'SIP_EXECUTED')::int;
  if v_plan.auto_pause_after is null then
    return c;
  end if;
  return engine.count_skipped_funds(c, e);
end $$;

-- The due slots of the plan c.sip before its last one, unless it catches up each: whatever they are, none executes, so they
-- end together. The context is copied at every call, journal and all: slot by slot, tens of thousands would take for ever.
create function engine.end_past_slots(c engine.context, p_dates date[], p_time timestamptz) returns engine.context
language plpgsql stable as $$
declare
  v_plan constant sip_plan := c.sip;
  v_entries engine.entry[];
begin
  v_entries := array(
    select engine.slot_end(p_time, engine.sip_skip(c.calendar, v_plan, d.nominal, false, p_time), d.key,
                           engine.sip_payload(d.nominal, engine.sip_amount(v_plan, d.slot, c.scale), null, null))
      from (select v_plan.next_slot + n.ordinality::int - 1 as slot, n.nominal, v_plan.sip_id || ':' || v_plan.next_slot + n.ordinality - 1 as key
              from unnest(p_dates[: cardinality(p_dates) - 1]) with ordinality n (nominal, ordinality)) d
     where not engine.is_sip_slot_ended(c.user_id, c.run_id, d.key)
     order by d.slot);
  if v_entries <> '{}' then
    c.journal := c.journal || v_entries;
    c.sip.skipped_funds := case when v_plan.auto_pause_after is null then v_plan.skipped_funds else 0 end;
  end if;
  return c;
end $$;

-- All due slots of all plans, by (sip_id, slot), at an open time. A plan keeps its slots due while a
-- symbol of it has no price. What has come together is written in between.
-- writes: every per-run table but the marks
create function engine.run_sips(c engine.context, p_time timestamptz) returns engine.context
language plpgsql as $$
declare
  v_plan sip_plan;
  v_date date := (p_time at time zone c.time_zone)::date;
  v_end int;
  v_dates date[];
  v_legs engine.leg[];
begin
  for i in 1 .. coalesce(cardinality(c.sips), 0) loop
    v_plan := c.sips[i];
    v_end := engine.first_slot_not_due(c.calendar, v_plan.start_date, v_plan.frequency, v_plan.roll, v_plan.next_slot,
                                       v_plan.instalments, v_plan.end_date, v_date, v_plan.next_slot - 1, v_plan.last_date);
    continue when v_end = v_plan.next_slot;
    -- one symbol needs no search
    v_legs := case when v_plan.symbol is not null then array[row(v_plan.symbol, 1, engine.tradable_close(c.feed, v_plan.symbol, p_time, (c.terms).max_price_age), null, null)::engine.leg]
                   else engine.sip_legs(v_plan, c.feed, p_time, (c.terms).max_price_age) end;
    continue when (v_legs[1]).price is null;

    c := engine.with_limits(c);
    c.sip := v_plan;
    v_dates := engine.slot_dates(c.calendar, v_plan.start_date, v_plan.frequency, v_plan.next_slot, v_end - v_plan.next_slot,
                                 v_plan.next_slot - 1, v_plan.last_date);
    if v_plan.catch_up <> 'EACH' and v_end - v_plan.next_slot > 1 then
      c := engine.end_past_slots(c, v_dates, p_time);
    end if;
    for v_slot in case v_plan.catch_up when 'EACH' then v_plan.next_slot else v_end - 1 end .. v_end - 1 loop
      if cardinality(c.journal) > 128 then
        c := engine.post(c);
      end if;
      c := engine.end_sip_slot(c, v_slot, v_dates[1 + v_slot - v_plan.next_slot], v_slot = v_end - 1, p_time, v_legs);
    end loop;
    v_plan := c.sip;
    if v_plan.frequency = 'DAILY' then
      v_plan.last_date := v_dates[cardinality(v_dates)];
    end if;
    v_plan.next_slot := v_end;
    c.sips[i] := v_plan;
    c.has_moved_plans := true;
    c.has_written := true;
  end loop;
  return c;
end $$;
