-- What if: the engine's own code on a run in memory that is never posted. Nothing here locks or writes.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- The run as the next verb would find it, a run without engine_state (raw rows) included.
create function engine.preview_run(p_user_id bigint, p_run_id bigint) returns engine.context
language plpgsql stable as $$
declare
  c engine.context := engine.view_run(p_user_id, p_run_id);
begin
  perform engine.require_run(p_user_id, p_run_id);
  perform engine.require_running(c);
  c.cash := coalesce(c.cash, (c.terms).initial_cash);
  return c;
end $$;

create type engine.order_preview as (
  status text, reject_reason text, stop_price numeric, reserve_price numeric, estimated_price numeric, estimated_value numeric,
  estimated_fees numeric, cash numeric, reserved_cash numeric, cash_after numeric, position_after numeric
);

-- What would become of the order p as it is accepted now. The estimates are what it would come to if it filled at once, in
-- full, at the price at which it is valued; null when it is rejected, or no price is known.
create function engine.preview_order(p_user_id bigint, p_run_id bigint, p paper_order, p_quantity numeric) returns engine.order_preview
language plpgsql stable as $$
declare
  c engine.context := engine.preview_run(p_user_id, p_run_id);
  o constant paper_order := engine.judged(c, p, p_quantity);
  m engine.match;
  e engine.entry;
  v engine.order_preview;
begin
  c := engine.with_limits(c);
  v.status := o.status;
  v.reject_reason := o.reject_reason;
  v.stop_price := o.stop_price;
  v.reserve_price := o.reserve_price;
  v.cash := c.cash;
  v.reserved_cash := c.reserved;
  v.cash_after := c.cash;
  m.symbol := o.symbol;
  m.side := o.side;
  m.order_type := o.order_type;
  m.price := engine.order_price(c.feed, o);
  if o.status <> 'REJECTED' and m.price is not null then
    e.symbol := o.symbol;
    e.side := o.side;
    e.quantity := o.quantity;
    e.price := engine.slipped(c.terms, m, o.quantity);
    e.fee_items := engine.fill_fees(c, null, o.symbol, o.side, o.logical_time, o.quantity, e.price);
    c := engine.book_trade(c, e);
    e := c.journal[1];
    v.estimated_price := e.price;
    v.estimated_value := engine.value(e.quantity, e.price, c.scale);
    v.estimated_fees := e.fees;
    v.cash_after := c.cash;
  end if;
  v.position_after := coalesce(c.quantities[array_position(c.symbols, o.symbol)], 0);
  return v;
end $$;

-- What the plan's next slot would do at p_time, and whether it would already: waits_for names what is missing, its
-- due_date, an open SESSION or a PRICE. A row for each symbol that it buys, one if it buys none; no row when the plan is
-- over.
create function engine.preview_sip(p_user_id bigint, p_run_id bigint, p_sip_id bigint, p_time timestamptz)
returns table (slot int, due_date date, waits_for text, event_type text, symbol text, quantity numeric, price numeric, amount numeric,
               cash_after numeric, payload jsonb)
language plpgsql stable as $$
declare
  c engine.context := engine.preview_run(p_user_id, p_run_id);
  v_time constant timestamptz := coalesce(p_time, c.last_logical_time);
  v_date constant date := (v_time at time zone c.time_zone)::date;
  s sip_plan;
  e engine.entry;
  v_end int;
  v_legs engine.leg[];
begin
  select * into s from unnest(c.sips) u where u.sip_id = p_sip_id;
  perform engine.require(found, format('argument=sip_id value=%s must_be=a_sip_of_the_run', p_sip_id));
  perform engine.require(v_time is not null, 'argument=logical_time must_be=given_for_a_run_that_has_not_ticked');
  perform engine.require_time(v_time);
  slot := s.next_slot;
  symbol := s.symbol;
  due_date := engine.next_due_date(c.calendar, s.start_date, s.frequency, s.roll, s.next_slot, s.instalments, s.end_date, s.next_slot - 1, s.last_date);
  if due_date is null then
    return;
  end if;
  v_legs := engine.sip_legs(s, c.feed, v_time, (c.terms).max_price_age);
  waits_for := case when due_date > v_date then 'DATE' when not engine.is_market_open(c.calendar, v_time) then 'SESSION' when v_legs is null then 'PRICE' end;
  if v_legs is not null then
    -- of several slots that are due the last is the current one
    v_end := engine.first_slot_not_due(c.calendar, s.start_date, s.frequency, s.roll, s.next_slot, s.instalments, s.end_date, v_date,
                                       s.next_slot - 1, s.last_date);
    c := engine.with_limits(c);
    c.sip := s;
    c := engine.end_sip_slot(c, slot, engine.slot_date(c.calendar, s.start_date, s.frequency, slot, slot - 1, s.last_date), v_end <= slot + 1,
                             v_time, v_legs);
    select u.event_type, u.payload into event_type, payload   -- what a pause says of itself comes after it
      from unnest(c.journal) with ordinality u where u.event_type is not null order by u.ordinality limit 1;
    amount := (payload ->> 'amount')::numeric;
    price := case when s.symbol is not null then (v_legs[1]).price end;
  end if;
  cash_after := c.cash;
  if event_type is distinct from 'SIP_EXECUTED' then
    return next;
    return;
  end if;
  foreach e in array c.journal loop
    continue when e.order_id is null;
    symbol := e.symbol;
    quantity := e.quantity;
    price := e.price;
    return next;
  end loop;
end $$;

-- What becomes of a plan's next slot. A slot of DAILY has no date (p_nominal) past the calendar, but its plan may end before.
create function engine.slot_state(
  c engine.context, p_slot int, p_slots int, p_nominal date, p_due date, p_end date, p_is_paused boolean
) returns text
language plpgsql stable as $$
begin
  return case
    when c.status <> 'RUNNING' then 'RUN_ENDED'
    when p_slot >= p_slots or p_nominal > p_end then 'OVER'
    when p_nominal is null and p_end <= (select max(m.session_date) from market_session m where m.calendar = c.calendar) then 'OVER'
    when p_due is null then 'CALENDAR_ENDS'
    when p_is_paused then 'PAUSED'
    else 'SCHEDULED'
  end;
end $$;

-- The next slot of every SIP, with its dates while there is one to come.
create function engine.sip_schedule(p_user_id bigint, p_run_id bigint)
returns table (sip_id bigint, slot int, nominal_date date, due_date date, amount numeric, state text)
language plpgsql stable as $$
declare
  c engine.context := engine.view_run(p_user_id, p_run_id);
  s sip_plan;
begin
  perform engine.require_run(p_user_id, p_run_id);
  foreach s in array c.sips loop
    sip_id := s.sip_id;
    slot := s.next_slot;
    nominal_date := engine.slot_date(c.calendar, s.start_date, s.frequency, slot, slot - 1, s.last_date);
    due_date := engine.next_due_date(c.calendar, s.start_date, s.frequency, s.roll, slot, s.instalments, s.end_date, slot - 1, s.last_date);
    state := engine.slot_state(c, slot, s.instalments, nominal_date, due_date, s.end_date, s.paused or s.pauses @> nominal_date);
    amount := engine.sip_amount(s, slot, c.scale);
    if state in ('RUN_ENDED', 'OVER') then
      nominal_date := null;
      due_date := null;
      amount := null;
    end if;
    return next;
  end loop;
end $$;

-- The same of rebalances, whose slots are due on their dates.
create function engine.rebalance_schedule(p_user_id bigint, p_run_id bigint) returns table (plan_id bigint, slot int, due_date date, state text)
language plpgsql stable as $$
declare
  c engine.context := engine.view_run(p_user_id, p_run_id);
  r rebalance_plan;
begin
  perform engine.require_run(p_user_id, p_run_id);
  foreach r in array c.rebalances loop
    plan_id := r.plan_id;
    slot := r.next_slot;
    due_date := engine.slot_date(c.calendar, r.start_date, r.frequency, slot, slot - 1, r.last_date);
    state := engine.slot_state(c, slot, r.instalments, due_date, due_date, null, false);
    if state in ('RUN_ENDED', 'OVER') then
      due_date := null;
    end if;
    return next;
  end loop;
end $$;
