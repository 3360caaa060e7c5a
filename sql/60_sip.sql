-- SIP: scheduled buys of a fixed amount. A slot's number is its identity; it ends once, as one event.
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
    e.status := 'FILLED';
    return engine.book_trade(c, e);
  end if;
  e.status := 'REJECTED';
  return engine.note(c, e);
end $$;

-- Has the slot of that key ended already, by a row that was inserted by hand? Then nothing else of it may happen.
create function engine.is_sip_slot_ended(c engine.context, p_key text) returns boolean
language plpgsql stable as $$
begin
  return exists (select from event_ledger v
                  where v.user_id = c.user_id and v.run_id = c.run_id and v.event_key = p_key
                    and v.event_type in ('SIP_EXECUTED', 'SIP_SKIPPED_FUNDS', 'SIP_SKIPPED_HOLIDAY', 'SIP_SKIPPED_PAUSED',
                                         'SIP_SKIPPED_BELOW_UNIT', 'SIP_MISSED'));
end $$;

create function engine.is_rebalance_slot_ended(c engine.context, p_key text) returns boolean
language plpgsql stable as $$
begin
  return exists (select from event_ledger v
                  where v.user_id = c.user_id and v.run_id = c.run_id and v.event_key = p_key
                    and v.event_type in ('REBALANCED', 'REBALANCE_MISSED'));
end $$;

-- What slot p_slot invests: the amount, stepped up once every step_up_every slots, to 1e12 at most: nobody has the cash
-- for more, and powers of it would take for ever to compute.
create function engine.sip_amount(p_plan sip_plan, p_slot int, p_scale int) returns numeric
language sql immutable
return case
  when (p_plan).step_up_percent is not null and p_slot / (p_plan).step_up_every * ln(1 + (p_plan).step_up_percent / 100) > 40 then 1e12
  when (p_plan).step_up_percent is not null
    then round((p_plan).amount * power(1 + (p_plan).step_up_percent / 100, p_slot / (p_plan).step_up_every), p_scale)
  when (p_plan).step_up_amount is not null
    then round((p_plan).amount + (p_plan).step_up_amount * (p_slot / (p_plan).step_up_every), p_scale)
  else round((p_plan).amount, p_scale)
end;

-- How a due slot ends without looking at money; null = it executes.
create function engine.sip_skip(p_calendar text, p_plan sip_plan, p_nominal date, p_is_current boolean, p_time timestamptz) returns text
language sql stable
return case
  when (p_plan).paused then 'SIP_SKIPPED_PAUSED'
  when (p_plan).roll = 'SKIP' and not engine.is_session_date(p_calendar, p_nominal) then 'SIP_SKIPPED_HOLIDAY'
  when (p_plan).catch_up <> 'EACH' and not p_is_current then 'SIP_MISSED'
  when (p_plan).catch_up = 'SKIP'
    and engine.is_session_missed(p_calendar, engine.due_date(p_calendar, p_nominal, (p_plan).roll), p_time) then 'SIP_MISSED'
end;

-- End one due slot of a plan: an event, and a filled order when it executes. c.residual is the plan's, carried along.
create function engine.end_sip_slot(
  c engine.context, p_plan sip_plan, p_slot int, p_is_current boolean, p_time timestamptz, p_price numeric
) returns engine.context
language plpgsql stable as $$
declare
  v_nominal date := engine.slot_date(c.calendar, p_plan.start_date, p_plan.frequency, p_slot, p_plan.next_slot - 1, p_plan.last_date);
  v_amount numeric := engine.sip_amount(p_plan, p_slot, c.scale);
  v_money numeric := v_amount + c.residual;
  v_quantity numeric;
  v_reason text;
  e engine.entry;
begin
  e.logical_time := p_time;
  e.event_key := p_plan.sip_id || ':' || p_slot;
  e.event_type := engine.sip_skip(c.calendar, p_plan, v_nominal, p_is_current, p_time);
  if e.event_type is null then
    select engine.units_for(v_money, p_price, case when p_plan.whole_units then engine.whole_step(i.quantity_step) else i.quantity_step end)
      into strict v_quantity from instrument i where i.symbol = p_plan.symbol;
    v_reason := case
      when v_quantity >= 1e12 then 'QUANTITY_TOO_LARGE'
      when v_quantity > 0 then engine.reject_reason(c, p_plan.symbol, 'BUY', v_quantity, p_price, c.reserved, 0, p_time)
    end;
    e.event_type := case
      when v_quantity = 0 then 'SIP_SKIPPED_BELOW_UNIT'
      when v_reason = 'CASH_INSUFFICIENT' then 'SIP_SKIPPED_FUNDS'
      when v_reason is not null then 'SIP_MISSED'
      else 'SIP_EXECUTED'
    end;
    if p_plan.whole_units and e.event_type in ('SIP_EXECUTED', 'SIP_SKIPPED_BELOW_UNIT') then
      c.residual := v_money - engine.value(v_quantity, p_price, c.scale);
    end if;
  end if;

  if engine.is_sip_slot_ended(c, e.event_key) then
    return c;
  end if;
  e.payload := jsonb_strip_nulls(jsonb_build_object('date', v_nominal, 'amount', trim_scale(v_amount), 'reason', v_reason,
    'order_id', case when e.event_type = 'SIP_EXECUTED' then engine.next_order_id(c) end));
  if e.event_type <> 'SIP_EXECUTED' then
    return engine.note(c, e);
  end if;
  c.made := c.made + 1;
  return engine.order_at_close(c, p_time, p_plan.symbol, 'BUY', v_quantity, p_price, 'SIP', null, e);
end $$;

-- All due slots of all plans, by (sip_id, slot), at an open time. A symbol without a price keeps its slots due.
create function engine.run_sips(c engine.context, p_time timestamptz) returns engine.context
language plpgsql stable as $$
declare
  v_plan sip_plan;
  v_date date := (p_time at time zone c.time_zone)::date;
  v_end int;
  v_price numeric;
begin
  for i in 1 .. coalesce(cardinality(c.sips), 0) loop
    v_plan := c.sips[i];
    v_end := engine.first_slot_not_due(c.calendar, v_plan.start_date, v_plan.frequency, v_plan.roll, v_plan.next_slot,
                                       v_plan.instalments, v_plan.end_date, v_date, v_plan.next_slot - 1, v_plan.last_date);
    continue when v_end = v_plan.next_slot;
    v_price := engine.last_close(c.feed, v_plan.symbol, p_time);
    continue when v_price is null;

    c := engine.with_limits(c);
    c.residual := v_plan.residual;
    for v_slot in v_plan.next_slot .. v_end - 1 loop
      c := engine.end_sip_slot(c, v_plan, v_slot, v_slot = v_end - 1, p_time, v_price);
    end loop;
    if v_plan.frequency = 'DAILY' then
      v_plan.last_date := engine.slot_date(c.calendar, v_plan.start_date, 'DAILY', v_end - 1, v_plan.next_slot - 1, v_plan.last_date);
    end if;
    v_plan.next_slot := v_end;
    v_plan.residual := c.residual;
    c.sips[i] := v_plan;
    c.has_moved_plans := true;
    c.has_written := true;
  end loop;
  return c;
end $$;

-- writes: sip_plan
create function engine.create_sip(
  p_user_id bigint, p_run_id bigint, p_symbol text, p_amount numeric, p_frequency text, p_start date,
  p_roll text, p_catch_up text, p_end date, p_instalments int,
  p_step_up_percent numeric, p_step_up_amount numeric, p_step_up_every int,
  p_whole_units boolean
) returns bigint
language plpgsql as $$
declare
  c engine.context := engine.open_run(p_user_id, p_run_id);
  v_sip_id bigint;
begin
  perform engine.require_running(c);
  perform engine.require_positive('amount', round(p_amount, c.scale));
  perform engine.require(p_frequency in ('DAILY', 'WEEKLY', 'MONTHLY', 'QUARTERLY'), format('argument=frequency value=%s must_be=DAILY|WEEKLY|MONTHLY|QUARTERLY', p_frequency));
  perform engine.require(p_roll in ('NEXT', 'PREVIOUS', 'SKIP'), format('argument=roll value=%s must_be=NEXT|PREVIOUS|SKIP', p_roll));
  perform engine.require(p_catch_up in ('ONCE', 'EACH', 'SKIP'), format('argument=catch_up value=%s must_be=ONCE|EACH|SKIP', p_catch_up));
  perform engine.require(p_start between '1900-01-01' and '2299-12-31', 'argument=start must_be=a_date_from_1900_to_2299');
  perform engine.require(coalesce(p_end, p_start) between p_start and '2299-12-31', 'argument=end must_be=not_before_start');
  perform engine.require(coalesce(p_instalments, 1) > 0, 'argument=instalments must_be=positive');
  perform engine.require(num_nonnulls(p_step_up_percent, p_step_up_amount) = num_nonnulls(p_step_up_every),
                         'argument=step_up must_be=percent_or_amount_with_every');
  perform engine.require(coalesce(p_step_up_every, 1) > 0, 'argument=step_up_every must_be=positive');
  perform engine.require_positive('step_up_percent', round(coalesce(p_step_up_percent, 1), 4));
  perform engine.require(coalesce(p_step_up_percent, 1) < 10000, 'argument=step_up_percent must_be=below_10000');
  perform engine.require_positive('step_up_amount', round(coalesce(p_step_up_amount, 1), c.scale));
  perform engine.require(p_whole_units is not null, 'argument=whole_units must_be=true|false');
  if not exists (select from instrument i where i.symbol = p_symbol) then
    perform engine.refuse('TE201', format('symbol=%s', p_symbol));
  end if;

  select 1 + coalesce(max(p.sip_id), 0) into v_sip_id from sip_plan p where p.user_id = p_user_id and p.run_id = p_run_id;
  insert into sip_plan (user_id, run_id, sip_id, symbol, amount, frequency, start_date, roll, catch_up, end_date,
                        instalments, step_up_percent, step_up_amount, step_up_every, whole_units)
  values (p_user_id, p_run_id, v_sip_id, p_symbol, round(p_amount, c.scale), p_frequency, p_start, p_roll, p_catch_up, p_end,
          p_instalments, p_step_up_percent, round(p_step_up_amount, c.scale), p_step_up_every, p_whole_units);
  return v_sip_id;
end $$;

-- writes: sip_plan
create function engine.set_sip_paused(p_user_id bigint, p_run_id bigint, p_sip_id bigint, p_paused boolean) returns void
language plpgsql as $$
declare
  c engine.context := engine.open_run(p_user_id, p_run_id);
begin
  perform engine.require_running(c);
  update sip_plan p set paused = p_paused
   where p.user_id = p_user_id and p.run_id = p_run_id and p.sip_id = p_sip_id;
  perform engine.require(found, format('argument=sip_id value=%s must_be=a_sip_of_the_run', p_sip_id));
end $$;
