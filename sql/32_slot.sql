-- Slots of plans: a slot's number is its identity, its date a pure function of the plan; it ends once, as one event.
set local search_path = public, pg_temp;

-- The date of slot k where dates alone decide it. Months count from the start, so that the 31st comes back after a
-- shorter month. Null for DAILY, which counts sessions.
create function engine.dated_slot(p_start date, p_frequency text, p_slot int) returns date
language sql immutable
return case p_frequency
  when 'WEEKLY' then p_start + 7 * p_slot
  when 'MONTHLY' then (p_start + make_interval(months => p_slot))::date
  when 'QUARTERLY' then (p_start + make_interval(months => 3 * p_slot))::date
end;

-- Slot k's nominal date; null while the calendar does not reach that far. DAILY counts sessions from the start, or from
-- an earlier slot whose date is known: the same date, sooner.
create function engine.slot_date(
  p_calendar text, p_start date, p_frequency text, p_slot int, p_known_slot int, p_known_date date
) returns date
language plpgsql stable as $$
begin
  if p_frequency <> 'DAILY' then
    return engine.dated_slot(p_start, p_frequency, p_slot);
  elsif p_calendar = 'ALWAYS' then
    return p_start + p_slot;
  end if;
  return (select m.session_date from market_session m
           where m.calendar = p_calendar and m.session_date >= coalesce(p_known_date, p_start)
           order by m.session_date offset p_slot - case when p_known_date is null then 0 else p_known_slot end limit 1);
end $$;

-- The date from which a slot is due. PREVIOUS looks back from the nominal date, so it is null (not due, not known)
-- until the calendar reaches that date.
create function engine.due_date(p_calendar text, p_nominal date, p_roll text) returns date
language plpgsql stable as $$
begin
  if p_roll <> 'PREVIOUS' or p_calendar = 'ALWAYS' then
    return p_nominal;
  end if;
  if not exists (select from market_session m where m.calendar = p_calendar and m.session_date >= p_nominal) then
    return null;
  end if;
  return coalesce((select max(m.session_date) from market_session m
                    where m.calendar = p_calendar and m.session_date <= p_nominal), p_nominal);
end $$;

-- The date from which slot p_slot of a plan is due; null when the plan ends before it (p_slots, p_end) or the calendar
-- cannot tell yet.
create function engine.next_due_date(
  p_calendar text, p_start date, p_frequency text, p_roll text, p_slot int, p_slots int, p_end date,
  p_known_slot int, p_known_date date
) returns date
language plpgsql stable as $$
declare
  v_nominal date;
begin
  if p_slot >= p_slots then
    return null;
  end if;
  v_nominal := engine.slot_date(p_calendar, p_start, p_frequency, p_slot, p_known_slot, p_known_date);
  return case when v_nominal <= coalesce(p_end, v_nominal) then engine.due_date(p_calendar, v_nominal, p_roll) end;
end $$;

-- The first slot from p_slot on that is not due on p_date: those before it are. Found in steps that double and then halve,
-- for a plan may have missed tens of thousands.
create function engine.first_slot_not_due(
  p_calendar text, p_start date, p_frequency text, p_roll text, p_slot int, p_slots int, p_end date, p_date date,
  p_known_slot int, p_known_date date
) returns int
language plpgsql stable as $$
declare
  v_first constant int := p_slot;
  v_step int := 1;
  v_due date;
  v_grows boolean := true;
begin
  loop
    v_due := engine.next_due_date(p_calendar, p_start, p_frequency, p_roll, p_slot + v_step - 1, p_slots, p_end, p_known_slot, p_known_date);
    if v_due <= p_date then
      p_slot := p_slot + v_step;
      p_known_slot := p_slot - 1;
      p_known_date := v_due;    -- asked for by DAILY alone, whose slots are due on their own dates
    else
      v_grows := false;
    end if;
    exit when v_step = 1 and not v_grows;
    v_step := case when v_grows then p_slot - v_first else v_step / 2 end;
  end loop;
  return p_slot;
end $$;

-- The nominal dates of p_count slots from p_slot on, all of them known.
create function engine.slot_dates(
  p_calendar text, p_start date, p_frequency text, p_slot int, p_count int, p_known_slot int, p_known_date date
) returns date[]
language plpgsql stable as $$
declare
  v_first constant date := engine.slot_date(p_calendar, p_start, p_frequency, p_slot, p_known_slot, p_known_date);
begin
  if p_count = 1 then
    return array[v_first];
  elsif p_frequency = 'DAILY' and p_calendar <> 'ALWAYS' then
    return array(select m.session_date from market_session m
                  where m.calendar = p_calendar and m.session_date >= v_first order by m.session_date limit p_count);
  end if;
  return array(select engine.slot_date(p_calendar, p_start, p_frequency, n, null, null)
                 from generate_series(p_slot, p_slot + p_count - 1) n order by n);
end $$;

-- Has a session closed before p_time that began the slot's chance to execute?
create function engine.is_session_missed(p_calendar text, p_due date, p_time timestamptz) returns boolean
language plpgsql stable as $$
begin
  if p_calendar = 'ALWAYS' then
    return ((p_due + 1)::timestamp at time zone 'UTC') < p_time;
  end if;
  return (select m.close_at from market_session m
           where m.calendar = p_calendar and m.session_date >= p_due
           order by m.session_date limit 1) < p_time;
end $$;

-- Has the slot of that key ended already, by a row that was inserted by hand? Then nothing else of it may happen.
create function engine.is_sip_slot_ended(p_user_id bigint, p_run_id bigint, p_key text) returns boolean
language plpgsql stable as $$
begin
  return exists (select from event_ledger v
                  where v.user_id = p_user_id and v.run_id = p_run_id and v.event_key = p_key
                    and v.event_type in ('SIP_EXECUTED', 'SIP_SKIPPED_FUNDS', 'SIP_SKIPPED_HOLIDAY', 'SIP_SKIPPED_PAUSED',
                                         'SIP_SKIPPED_BELOW_UNIT', 'SIP_MISSED'));
end $$;

create function engine.is_rebalance_slot_ended(p_user_id bigint, p_run_id bigint, p_key text) returns boolean
language plpgsql stable as $$
begin
  return exists (select from event_ledger v
                  where v.user_id = p_user_id and v.run_id = p_run_id and v.event_key = p_key
                    and v.event_type in ('REBALANCED', 'REBALANCE_MISSED'));
end $$;

-- How a slot has ended.
create function engine.slot_end(p_time timestamptz, p_event_type text, p_key text, p_payload jsonb) returns engine.entry
language plpgsql immutable as $$
declare
  e engine.entry;
begin
  e.logical_time := p_time;
  e.event_type := p_event_type;
  e.event_key := p_key;
  e.payload := p_payload;
  return e;
end $$;
