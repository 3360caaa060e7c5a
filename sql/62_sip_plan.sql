-- The SIP as a plan: create, change, pause, resume. What becomes of its slots is in 60_sip.sql.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- {"SYMBOL": share}: symbols that exist, shares from 0 to 1.
create function engine.require_shares(p_name text, p_shares jsonb) returns void
language plpgsql as $$
declare
  v record;
begin
  perform engine.require(jsonb_typeof(p_shares) = 'object' and p_shares <> '{}', format('argument=%s must_be=an_object_of_symbol_and_share', p_name));
  for v in select w.key as symbol, w.value as share from jsonb_each(p_shares) w order by w.key collate "C" loop
    perform engine.require(jsonb_typeof(v.share) = 'number' and v.share::numeric between 0 and 1,
                           format('argument=%s symbol=%s must_be=a_number_from_0_to_1', p_name, v.symbol));
    perform engine.require_instrument(v.symbol);
  end loop;
end $$;

-- One symbol, or a basket, or a rebalance plan of the run that buys something.
create function engine.require_purchase(
  p_user_id bigint, p_run_id bigint, p_symbol text, p_basket jsonb, p_rebalance_plan bigint
) returns void
language plpgsql as $$
begin
  perform engine.require(num_nonnulls(p_symbol, p_basket, p_rebalance_plan) = 1, 'argument=symbol,basket,rebalance_plan must_be=exactly_one_of_them');
  if p_symbol is not null then
    perform engine.require_instrument(p_symbol);
  elsif p_basket is not null then
    perform engine.require_shares('basket', p_basket);
    perform engine.require((select sum(b.value::numeric) = 1 and min(b.value::numeric) > 0 from jsonb_each(p_basket) b),
                           'argument=basket must_be=shares_above_0_with_the_sum_1');
  else
    perform engine.require(exists (select from target_weight w where w.user_id = p_user_id and w.run_id = p_run_id
                                                                  and w.plan_id = p_rebalance_plan and w.weight > 0),
                           format('argument=rebalance_plan value=%s must_be=a_rebalance_plan_of_the_run_with_a_weight_above_0', p_rebalance_plan));
  end if;
end $$;

-- writes: sip_plan
create function engine.create_sip(
  p_user_id bigint, p_run_id bigint, p_symbol text, p_amount numeric, p_frequency text, p_start date,
  p_roll text, p_catch_up text, p_end date, p_instalments int,
  p_step_up_percent numeric, p_step_up_amount numeric, p_step_up_every int,
  p_whole_units boolean, p_auto_pause_after int, p_basket jsonb, p_rebalance_plan bigint
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
  perform engine.require(round(coalesce(p_step_up_percent, 1), 4) < 10000, 'argument=step_up_percent must_be=below_10000');
  perform engine.require_positive('step_up_amount', round(coalesce(p_step_up_amount, 1), c.scale));
  perform engine.require(p_whole_units is not null, 'argument=whole_units must_be=true|false');
  perform engine.require(coalesce(p_auto_pause_after, 1) > 0, 'argument=auto_pause_after must_be=positive');
  perform engine.require_purchase(p_user_id, p_run_id, p_symbol, p_basket, p_rebalance_plan);

  select 1 + coalesce(max(p.sip_id), 0) into v_sip_id from sip_plan p where p.user_id = p_user_id and p.run_id = p_run_id;
  insert into sip_plan (user_id, run_id, sip_id, symbol, amount, frequency, start_date, roll, catch_up, end_date,
                        instalments, step_up_percent, step_up_amount, step_up_every, whole_units,
                        auto_pause_after, basket, rebalance_plan_id)
  values (p_user_id, p_run_id, v_sip_id, p_symbol, round(p_amount, c.scale), p_frequency, p_start, p_roll, p_catch_up, p_end,
          p_instalments, p_step_up_percent, round(p_step_up_amount, c.scale), p_step_up_every, p_whole_units,
          p_auto_pause_after, p_basket, p_rebalance_plan);
  return v_sip_id;
end $$;

-- The new amount is that of slot next_slot, the first that has not ended, due already or not, and the base from which
-- step-ups are counted anew: slot next_slot + step_up_every is the first to be stepped up again. What slots before it were
-- stepped up by is in the past.
-- writes: sip_plan
create function engine.change_sip(p_user_id bigint, p_run_id bigint, p_sip_id bigint, p_amount numeric) returns void
language plpgsql as $$
declare
  c engine.context := engine.open_run(p_user_id, p_run_id);
begin
  perform engine.require_running(c);
  perform engine.require_positive('amount', round(p_amount, c.scale));
  update sip_plan p set amount = round(p_amount, c.scale), base_slot = p.next_slot
   where p.user_id = p_user_id and p.run_id = p_run_id and p.sip_id = p_sip_id;
  perform engine.require(found, format('argument=sip_id value=%s must_be=a_sip_of_the_run', p_sip_id));
end $$;

-- The plan is over: it has the slots that have ended, and no more.
-- writes: sip_plan
create function engine.end_sip(p_user_id bigint, p_run_id bigint, p_sip_id bigint) returns void
language plpgsql as $$
declare
  c engine.context := engine.open_run(p_user_id, p_run_id);
begin
  perform engine.require_running(c);
  update sip_plan p set instalments = least(p.instalments, p.next_slot)
   where p.user_id = p_user_id and p.run_id = p_run_id and p.sip_id = p_sip_id;
  perform engine.require(found, format('argument=sip_id value=%s must_be=a_sip_of_the_run', p_sip_id));
end $$;

-- The dates of a pause: from the plan's start if there is no p_from, for good if there is no p_to; empty without both.
create function engine.pause_dates(p_plan sip_plan, p_from date, p_to date) returns datemultirange
language plpgsql as $$
begin
  perform engine.require(coalesce(p_from, p_to, p_plan.start_date) between '1900-01-01' and '2299-12-31'
                         and coalesce(p_to, '2299-12-31') between coalesce(p_from, p_plan.start_date) and '2299-12-31',
                         'argument=from,to must_be=dates_from_1900_to_2299_in_order');
  return case when num_nonnulls(p_from, p_to) = 0 then '{}' else datemultirange(daterange(coalesce(p_from, p_plan.start_date), p_to, '[]')) end;
end $$;

-- A plan of a run that is RUNNING.
create function engine.open_sip(p_user_id bigint, p_run_id bigint, p_sip_id bigint) returns sip_plan
language plpgsql as $$
declare
  v_plan sip_plan;
begin
  perform engine.require_running(engine.open_run(p_user_id, p_run_id));
  select * into v_plan from sip_plan p where p.user_id = p_user_id and p.run_id = p_run_id and p.sip_id = p_sip_id;
  perform engine.require(found, format('argument=sip_id value=%s must_be=a_sip_of_the_run', p_sip_id));
  return v_plan;
end $$;

-- Without dates until resume_sip; with dates, the slots of these nominal dates, ahead of time or not. Slots that have
-- ended stay as they are.
-- writes: sip_plan
create function engine.pause_sip(p_user_id bigint, p_run_id bigint, p_sip_id bigint, p_from date, p_to date) returns void
language plpgsql as $$
declare
  v_plan sip_plan := engine.open_sip(p_user_id, p_run_id, p_sip_id);
begin
  update sip_plan p set paused = p.paused or num_nonnulls(p_from, p_to) = 0, pauses = p.pauses + engine.pause_dates(v_plan, p_from, p_to)
   where p.user_id = p_user_id and p.run_id = p_run_id and p.sip_id = p_sip_id;
end $$;

-- Without dates what is open ends: the pause itself, and dates without an end. With dates, these are paused no more.
-- writes: sip_plan
create function engine.resume_sip(p_user_id bigint, p_run_id bigint, p_sip_id bigint, p_from date, p_to date) returns void
language plpgsql as $$
declare
  v_plan sip_plan := engine.open_sip(p_user_id, p_run_id, p_sip_id);
  v_ended datemultirange := engine.pause_dates(v_plan, p_from, p_to);
begin
  if num_nonnulls(p_from, p_to) = 0 then
    v_ended := coalesce((select range_agg(r) from unnest(v_plan.pauses) r where upper_inf(r)), '{}');
    v_plan.paused := false;
    v_plan.skipped_funds := 0;
  end if;
  update sip_plan p set paused = v_plan.paused, skipped_funds = v_plan.skipped_funds, pauses = p.pauses - v_ended
   where p.user_id = p_user_id and p.run_id = p_run_id and p.sip_id = p_sip_id;
end $$;
