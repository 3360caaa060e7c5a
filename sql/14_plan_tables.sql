-- DURABLE. What a run intends to do and what it must not do: SIPs, rebalances, risk limits.
set local search_path = public, pg_temp;

-- What one column alone must be is a domain's constraint: it is checked when the column changes, while a table's CHECKs are
-- all prepared again for every slot that moves a plan on.
create domain plan_frequency as text
  constraint plan_frequency_is_known check (value in ('DAILY', 'WEEKLY', 'MONTHLY', 'QUARTERLY'));
create domain plan_date as date
  constraint plan_date_is_real check (value between '1900-01-01' and '2299-12-31');
create domain holiday_roll as text
  constraint holiday_roll_is_known check (value in ('NEXT', 'PREVIOUS', 'SKIP'));
create domain catch_up_policy as text
  constraint catch_up_policy_is_known check (value in ('ONCE', 'EACH', 'SKIP'));
create domain positive_amount as numeric(20,4)
  constraint positive_amount_is_a_positive_number check (value > 0 and value <> 'NaN');
create domain plan_length as int
  constraint plan_length_is_not_negative check (value >= 0);
create domain positive_count as int
  constraint positive_count_is_positive check (value > 0);
create domain basket_shares as jsonb
  constraint basket_is_shares check (jsonb_typeof(value) = 'object' and value <> '{}'
    and not value @? 'strict $.* ? (@.type() != "number" || @ <= 0 || @ > 1)');
create domain pause_windows as datemultirange
  constraint pause_windows_are_real
  check (coalesce(lower(value) >= '1900-01-01', isempty(value)) and coalesce(upper(value) <= '2300-01-01', true));

comment on domain plan_frequency is 'How often a plan has a slot.';
comment on domain plan_date is 'A date of a plan, in the market''s time zone.';
comment on domain holiday_roll is 'Where a slot goes whose date is no session: to the next one, the previous one, or nowhere.';
comment on domain catch_up_policy is 'What becomes of slots that fell due while the engine was away.';
comment on domain positive_amount is 'Money above zero, at most 4 decimals.';
comment on domain plan_length is 'How many slots a plan has.';
comment on domain positive_count is 'A whole number above zero.';
comment on domain basket_shares is '{"SYMBOL": share}: numbers above 0, at most 1.';
comment on domain pause_windows is 'Dates, as a multirange, within the years of a plan.';

create table rebalance_plan (
  user_id bigint not null,
  run_id bigint not null,
  plan_id bigint not null,
  frequency plan_frequency not null,
  start_date plan_date not null,
  band numeric(22,20),
  next_slot int not null default 0,
  last_date plan_date,
  band_relative numeric(22,20),
  to_band_edge boolean not null default false,
  min_order_value money_amount,
  whole_units boolean not null default false,
  instalments plan_length,
  constraint rebalance_plan_pkey primary key (user_id, run_id, plan_id),
  constraint rebalance_plan_of_run foreign key (user_id, run_id) references strategy_run on delete cascade,
  constraint rebalance_plan_starts_before_its_slots check (last_date >= start_date),
  constraint rebalance_plan_band_is_a_share check (band >= 0 and band <= 1),
  constraint rebalance_plan_band_relative_is_a_share check (band_relative >= 0 and band_relative <= 1),
  constraint rebalance_plan_band_edge_needs_a_band check (not to_band_edge or num_nonnulls(band, band_relative) > 0),
  constraint rebalance_plan_min_order_value_is_positive check (min_order_value > 0),
  constraint rebalance_plan_slot_is_not_negative check (next_slot >= 0)
) with (fillfactor = 80);
comment on table rebalance_plan is 'Trade to target weights at every slot. band: trade only what is further than this share of equity from its target.';
comment on column rebalance_plan.last_date is 'As in sip_plan.';
comment on column rebalance_plan.band_relative is 'Trade also what is further than this share of the target itself. Beyond either band is outside.';
comment on column rebalance_plan.to_band_edge is 'Trade back to the edge of the band, not to the target.';
comment on column rebalance_plan.min_order_value is 'Orders worth less are left out.';
comment on column rebalance_plan.whole_units is 'Targets are whole units.';
comment on column rebalance_plan.instalments is 'As in sip_plan.';

create table target_weight (
  user_id bigint not null,
  run_id bigint not null,
  plan_id bigint not null,
  symbol text not null,
  weight numeric(22,20) not null,
  constraint target_weight_pkey primary key (user_id, run_id, plan_id, symbol),
  constraint target_weight_of_run foreign key (user_id, run_id) references strategy_run on delete cascade,
  constraint target_weight_of_plan foreign key (user_id, run_id, plan_id) references rebalance_plan on delete cascade,
  constraint target_weight_is_a_share check (weight >= 0 and weight <= 1)
);
comment on table target_weight is 'Share of equity that a rebalance gives a symbol; what is left of 1 stays in cash.';

create table sip_plan (
  user_id bigint not null,
  run_id bigint not null,
  sip_id bigint not null,
  symbol text,
  amount positive_amount not null,
  frequency plan_frequency not null,
  start_date plan_date not null,
  roll holiday_roll not null default 'NEXT',
  catch_up catch_up_policy not null default 'ONCE',
  end_date plan_date,
  instalments plan_length,
  step_up_percent numeric(9,4),
  step_up_amount positive_amount,
  step_up_every positive_count,
  whole_units boolean not null default false,
  paused boolean not null default false,
  next_slot int not null default 0,
  residual money_amount not null default 0,
  last_date plan_date,
  base_slot int not null default 0,
  basket basket_shares,
  rebalance_plan_id bigint,
  pauses pause_windows not null default '{}',
  auto_pause_after positive_count,
  skipped_funds int not null default 0,
  constraint sip_plan_pkey primary key (user_id, run_id, sip_id),
  constraint sip_plan_of_run foreign key (user_id, run_id) references strategy_run on delete cascade,
  constraint sip_plan_of_rebalance_plan foreign key (user_id, run_id, rebalance_plan_id) references rebalance_plan on delete cascade,
  constraint sip_plan_buys_one_thing check (num_nonnulls(symbol, basket, rebalance_plan_id) = 1),
  constraint sip_plan_dates_are_in_order check (end_date >= start_date and last_date >= start_date),
  constraint sip_plan_steps_up_one_way check (
    num_nonnulls(step_up_percent, step_up_amount) = num_nonnulls(step_up_every) and coalesce(step_up_percent, 1) > 0 and coalesce(step_up_percent, 1) < 10000),
  constraint sip_plan_slot_and_residual_are_not_negative check (next_slot >= 0 and residual >= 0),
  constraint sip_plan_counts_slots_that_ended check (base_slot between 0 and next_slot and skipped_funds between 0 and next_slot)
) with (fillfactor = 80);
comment on table sip_plan is 'A systematic investment plan: buy for amount at every slot, one symbol, a basket or what a rebalance plan lacks. Slot k''s date is a pure function of start_date, frequency and k.';
comment on column sip_plan.instalments is 'How many slots the plan has; null = no end but end_date. end_sip sets it to those that have ended.';
comment on column sip_plan.next_slot is 'The first slot that has not ended.';
comment on column sip_plan.last_date is 'DAILY: the nominal date of slot next_slot - 1, from which the later ones are counted; null = count from start_date.';
comment on column sip_plan.residual is 'whole_units: money left from the last slots, added to the next.';
comment on column sip_plan.base_slot is 'The first slot that invests amount; step-ups are counted from here. 0 until change_sip.';
comment on column sip_plan.basket is '{"SYMBOL": share of the amount}, 1 in sum.';
comment on column sip_plan.rebalance_plan_id is 'Buy what this plan''s weights lack most.';
comment on column sip_plan.paused is 'Paused until resume_sip.';
comment on column sip_plan.pauses is 'Slots of these nominal dates are paused.';
comment on column sip_plan.skipped_funds is 'auto_pause_after: the last so many slots ended SIP_SKIPPED_FUNDS; at auto_pause_after the plan is paused.';

create table risk_limit (
  user_id bigint not null,
  run_id bigint not null,
  max_position unit_quantity,
  max_order_value money_amount,
  constraint risk_limit_pkey primary key (user_id, run_id),
  constraint risk_limit_of_run foreign key (user_id, run_id) references strategy_run on delete cascade,
  constraint risk_limit_is_not_negative check (max_position >= 0 and max_order_value >= 0)
);
comment on table risk_limit is 'Limits of a run: units held per symbol, value of one order. Null = no limit.';

create table forbidden_symbol (
  user_id bigint not null,
  run_id bigint not null,
  symbol text not null,
  constraint forbidden_symbol_pkey primary key (user_id, run_id, symbol),
  constraint forbidden_symbol_of_run foreign key (user_id, run_id) references strategy_run on delete cascade
);
comment on table forbidden_symbol is 'Symbols that the run may not trade.';
