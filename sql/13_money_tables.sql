-- DURABLE. What moves a run's cash besides its trades, and what happens to it. Guards and keys as in 12.
set local search_path = public, pg_temp;

create table dividend_due (
  user_id bigint not null,
  run_id bigint not null,
  symbol text not null,
  ex_date date not null,
  pay_date date not null,
  quantity unit_quantity not null,
  amount money_amount not null,
  paid_time logical_instant,
  entry_id bigint,
  constraint dividend_due_pkey primary key (user_id, run_id, symbol, ex_date),
  constraint dividend_due_of_run foreign key (user_id, run_id) references strategy_run on delete cascade,
  constraint dividend_due_of_entry foreign key (user_id, run_id, entry_id) references cash_ledger on delete cascade,
  constraint dividend_due_dates_are_finite check (isfinite(ex_date) and isfinite(pay_date))
);
create index dividend_due_unpaid on dividend_due (user_id, run_id) where paid_time is null;
create index dividend_due_by_entry on dividend_due (user_id, run_id, entry_id) where entry_id is not null;
comment on table dividend_due is 'Dividends that the run is owed, by what it held before the ex-date: amount = quantity × amount per unit. paid_time and entry_id say when and where in cash_ledger it was paid.';

create table trade_fee (
  user_id bigint not null,
  run_id bigint not null,
  trade_id bigint not null,
  component text not null,
  amount money_amount not null,
  fee_schedule text not null,
  product text not null,
  side text not null,
  effective_from date not null,
  constraint trade_fee_pkey primary key (user_id, run_id, trade_id, component),
  constraint trade_fee_of_run foreign key (user_id, run_id) references strategy_run on delete cascade,
  constraint trade_fee_of_trade foreign key (user_id, run_id, trade_id) references paper_trade on delete cascade,
  constraint trade_fee_by_schedule foreign key (fee_schedule, side, component, product, effective_from) references fee_schedule,
  constraint trade_fee_amount_is_positive check (amount > 0),
  constraint trade_fee_date_is_finite check (isfinite(effective_from))
);
comment on table trade_fee is 'Append-only: what paper_trade.fees is made of, and the row of fee_schedule behind each part.';

create table event_ledger (
  user_id bigint not null,
  run_id bigint not null,
  logical_time logical_instant not null,
  event_type text not null,
  event_key text not null,
  payload jsonb not null default '{}',
  constraint event_ledger_pkey primary key (user_id, run_id, event_type, event_key),
  constraint event_ledger_of_run foreign key (user_id, run_id) references strategy_run on delete cascade
);
-- a slot ends once, whatever the way it ends
create unique index event_ledger_one_end_per_sip_slot on event_ledger (user_id, run_id, event_key)
  where event_type in ('SIP_EXECUTED', 'SIP_SKIPPED_FUNDS', 'SIP_SKIPPED_HOLIDAY', 'SIP_SKIPPED_PAUSED',
                       'SIP_SKIPPED_BELOW_UNIT', 'SIP_MISSED');
create unique index event_ledger_one_end_per_rebalance_slot on event_ledger (user_id, run_id, event_key)
  where event_type in ('REBALANCED', 'REBALANCE_MISSED');
comment on table event_ledger is 'Append-only: how each SIP slot (event_key sip_id:slot) and rebalance slot (plan_id:slot) ended, at the time of the tick that ended it; SPLIT and DIVIDEND (symbol:date); MARGIN_CALL (the time).';
