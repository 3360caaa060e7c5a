-- What the columns mean, where the tables' own files do not say it. docs/reference is made from this: a column without a
-- comment, and without a domain that lists its words, fails `make docs`. Here and not with the tables, which are made
-- once: words that have become better reach every database with the next upgrade.
set local search_path = public, pg_temp;

-- The key of a run means the same in each of its tables.
do $$
declare
  v_table text;
begin
  for v_table in
    select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'run_id'
     where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' order by c.relname collate "C"
  loop
    execute format('comment on column %I.user_id is %L', v_table, 'The user whose run it is.');
    execute format('comment on column %I.run_id is %L', v_table, 'The run; start_run and fork_run return it.');
  end loop;
end $$;

comment on column schema_version.version is 'Version of the durable tables; 1 is what the first release installs.';
comment on column schema_version.code_hash is 'SHA-256 in hex of the code files last loaded at this version; after a slash, that of the migration that made the row. Null after an install with psql.';
comment on column schema_version.applied_at is 'When it was applied, by the clock on the wall.';

comment on column app_user.user_id is 'Counts from 1; create_user returns it.';
comment on column app_user.name is 'A name to know the user by; it need not be unique.';
comment on column user_login.role_name is 'A role of the server, as in pg_roles.';
comment on column user_login.user_id is 'A user for whom that role acts.';
comment on column api_key.key_id is 'Counts from 1; names the key to revoke_key.';
comment on column api_key.user_id is 'The user for whom requests with this key act.';
comment on column api_key.label is 'A name to know the key by, at most 200 characters.';
comment on column api_key.prefix is 'The key''s first characters.';
comment on column api_key.key_hash is 'SHA-256 of the key, 32 bytes.';
comment on column api_key.created_at is 'When it was made, by the clock on the wall.';
comment on column api_key.expires_at is 'From then on it opens nothing; null = it does not expire.';
comment on column api_key.revoked_at is 'When it was revoked; null = it was not.';
comment on column acting.pid is 'The server process.';
comment on column acting.xid is 'The one transaction in which it acts; the row means nothing to a later one.';
comment on column acting.user_ids is 'The users whose keys it has shown.';
comment on column acting.is_admin is 'One of the keys was an administrator''s.';
comment on column api_answer.user_id is 'The user whose key the request came with.';
comment on column api_answer.idempotency_key is 'The request''s Idempotency-Key, 1 to 255 characters.';
comment on column api_answer.status is 'The HTTP status of the answer.';
comment on column api_answer.content_type is 'The media type of the answer.';
comment on column api_answer.location is 'The Location of the answer; null = it had none.';
comment on column api_answer.body is 'The bytes of the answer.';
comment on column api_answer.created_at is 'When it was answered, by the clock on the wall; forget_answers goes by it.';

comment on column calendar.calendar is 'Its name: ALWAYS, XNYS, or yours.';
comment on column calendar.time_zone is 'The market''s time zone, as a region (Asia/Kolkata), not an abbreviation. Dates of sessions, plans and corporate actions are in it.';
comment on column market_session.calendar is 'The calendar whose session it is.';
comment on column market_session.session_date is 'The trading day, in the market''s time zone.';
comment on column market_session.open_at is 'The opening; a bar stamped at it belongs to no session.';
comment on column market_session.close_at is 'The close; a bar stamped at it is the session''s last.';
comment on column feed.feed is 'Its name.';
comment on column feed.calendar is 'Whose sessions decide when its bars can trade and when plans have slots.';
comment on column instrument.symbol is 'Its name, at most 64 characters, without blanks around it.';
comment on column instrument.quantity_step is 'Smallest tradable quantity, in units: quantities are multiples of it.';
comment on column instrument.price_tick is 'Prices of orders are multiples of it; null = any price.';
comment on column price_bar.feed is 'The feed whose bar it is.';
comment on column price_bar.symbol is 'The instrument.';
comment on column price_bar.logical_time is 'The bar''s close.';
comment on column price_bar.open is 'First price, in the feed''s currency a unit.';
comment on column price_bar.high is 'Highest price.';
comment on column price_bar.low is 'Lowest price.';
comment on column price_bar.close is 'Last price: the one that SIPs, rebalances and marks use.';
comment on column corporate_action.symbol is 'The instrument.';
comment on column corporate_action.ex_date is 'First trading day without the right to it, in the market''s time zone.';
comment on column corporate_action.action_type is 'SPLIT (also a bonus or a reverse split) or DIVIDEND.';
comment on column corporate_action.ratio_numerator is 'SPLIT: new units, for so many old ones as ratio_denominator says: 2 and 1 double a position. At most 1,000,000.';
comment on column corporate_action.ratio_denominator is 'SPLIT: old units. At most 1,000,000.';
comment on column corporate_action.amount is 'DIVIDEND: money for each unit held before the ex-date.';
comment on column corporate_action.pay_date is 'DIVIDEND: the day on which it is paid, not before ex_date.';
comment on column fee_schedule.fee_schedule is 'The schedule''s name: ZERO, US_PER_SHARE, IN_DELIVERY, IN_INTRADAY, or yours.';
comment on column fee_schedule.component is 'What is charged: COMMISSION, STT, GST …; any word of yours.';
comment on column fee_schedule.product is 'For which instruments: instrument.product, or ''*'' for all that have no row of their own.';
comment on column fee_schedule.side is 'For purchases (BUY) or sales (SELL).';
comment on column fee_schedule.effective_from is 'First day on which it holds, in the market''s time zone.';
comment on column fee_schedule.minimum_amount is 'The least that an order is charged; null = no minimum.';
comment on column fee_schedule.maximum_amount is 'The most that an order is charged; null = no maximum.';

comment on column strategy_run.name is 'A name to know the run by; it need not be unique.';
comment on column strategy_run.feed is 'The feed whose bars are its market and its clock.';
comment on column strategy_run.currency is 'ISO 4217. Money is rounded to its minor unit: JPY to whole yen, USD to cents.';
comment on column strategy_run.status is 'RUNNING, STOPPED or ERROR; the last two are final.';
comment on column strategy_run.initial_cash is 'Money to begin with, 0 or more.';
comment on column engine_state.cash is 'Cash now: the sum of cash_ledger.';
comment on column engine_state.first_logical_time is 'The first completed tick; null before it.';
comment on column engine_state.last_logical_time is 'The last completed tick; null before the first.';
comment on column engine_state.step_logical_time is 'Latest time at which a step (match_orders, try_execute_sip, try_rebalance) was called alone; null = never.';
comment on column engine_status.status_id is 'Ascending within the run.';
comment on column engine_status.status is 'What the run became: RUNNING, STOPPED or ERROR.';
comment on column engine_status.reason is 'Why: the reason given, or SQLSTATE and message of the error.';
comment on column engine_status.logical_time is 'The run''s last tick then; null before the first.';
comment on column engine_status.recorded_at is 'When, by the clock on the wall.';

comment on column paper_order.order_id is 'Counts 1, 2, 3 … within the run.';
comment on column paper_order.symbol is 'The instrument; rejected SYMBOL_UNKNOWN if there is none.';
comment on column paper_order.quantity is 'Units, above zero, a multiple of the instrument''s quantity_step. A split changes it.';
comment on column paper_order.limit_price is 'LIMIT, STOP_LIMIT: the worst price at which it fills, a multiple of the instrument''s price_tick.';
comment on column paper_order.filled_quantity is 'Units traded so far.';
comment on column paper_order.avg_fill_price is 'Average price of what has traded, to 8 decimals; null = nothing has.';
comment on column paper_order.reject_reason is 'REJECTED: why, a word of docs/codes.md.';
comment on column paper_order.client_order_id is 'Your own id, unique within the run: the same again returns the first order.';
comment on column paper_order.source is 'Who made it: CLIENT, SIP, REBALANCE, BRACKET, DIVIDEND or MARGIN.';
comment on column paper_order.stop_loss_limit_price is 'Entry of a bracket: the limit of that STOP_LIMIT.';
comment on column paper_trade.trade_id is 'Counts 1, 2, 3 … within the run.';
comment on column paper_trade.order_id is 'The order that it fills, whole or in part.';
comment on column paper_trade.logical_time is 'The bar that filled it; for SIP and rebalance the tick.';
comment on column paper_trade.symbol is 'The order''s.';
comment on column paper_trade.quantity is 'Units, above zero on either side.';
comment on column paper_trade.price is 'Price of one unit, slippage included, fees not.';
comment on column paper_trade.fees is 'All fees of this trade, in the run''s currency; trade_fee has the parts.';
comment on column trade_fee.trade_id is 'The trade that paid it.';
comment on column trade_fee.component is 'What was charged, as in fee_schedule.';
comment on column trade_fee.amount is 'Money, above zero.';
comment on column trade_fee.fee_schedule is 'This and the columns that follow name the row of fee_schedule by which it was charged.';
comment on column trade_fee.product is 'As in fee_schedule.';
comment on column trade_fee.side is 'As in fee_schedule.';
comment on column trade_fee.effective_from is 'As in fee_schedule.';
comment on column paper_position.symbol is 'The instrument.';
comment on column paper_position.quantity is 'Units held; negative = sold short.';
comment on column paper_position.cost_basis is 'What the units held have cost in total, buy fees included (average cost). Sold short, negative: what the sales have brought.';
comment on column paper_position.realized_pnl is 'Gains and losses of all that was sold (or bought back), net of fees, over the run.';
comment on column cash_ledger.entry_id is 'Counts 1, 2, 3 … within the run.';
comment on column cash_ledger.logical_time is 'When; null for the opening, which is before the first tick.';
comment on column cash_ledger.amount is 'Money, signed: above zero comes in.';
comment on column cash_ledger.cause is 'OPENING, TRADE, DIVIDEND, CASH_IN_LIEU, BORROW_FEE, MARGIN_INTEREST; any other word is money from or to outside.';
comment on column cash_ledger.trade_id is 'TRADE: which; null for all else.';
comment on column mtm_ledger.logical_time is 'The tick.';
comment on column mtm_ledger.market_value is 'Sum of quantity × last close over all positions, each rounded; negative where short positions prevail.';
comment on column mtm_ledger.cost_basis is 'Sum over all positions, as in paper_position.';
comment on column mtm_ledger.unrealized_pnl is 'market_value - cost_basis.';
comment on column mtm_ledger.realized_pnl is 'Sum over all positions, as in paper_position: cumulative over the run.';
comment on column paper_equity_curve.logical_time is 'The tick.';
comment on column paper_equity_curve.cash is 'Cash after the tick.';
comment on column paper_equity_curve.market_value is 'As in mtm_ledger.';
comment on column paper_equity_curve.equity is 'cash + market_value.';
comment on column dividend_due.symbol is 'The instrument.';
comment on column dividend_due.ex_date is 'The corporate action''s.';
comment on column dividend_due.pay_date is 'The corporate action''s.';
comment on column dividend_due.quantity is 'Units held before the ex-date; negative = sold short, which pays.';
comment on column dividend_due.amount is 'Money owed to the run; negative = owed by it.';
comment on column dividend_due.paid_time is 'When it was paid; null = not yet.';
comment on column dividend_due.entry_id is 'Its row in cash_ledger; null = not yet.';
comment on column event_ledger.logical_time is 'The bar or tick at which it happened.';
comment on column event_ledger.event_type is 'SIP_EXECUTED, REBALANCED, SPLIT …: docs/codes.md explains each.';
comment on column event_ledger.event_key is 'What it is about, once per type: sip_id:slot, plan_id:slot, symbol:date, or a time.';
comment on column event_ledger.payload is 'Details, different for each type; numbers exact.';

comment on column sip_plan.sip_id is 'Counts 1, 2, 3 … within the run.';
comment on column sip_plan.symbol is 'What it buys; null where basket or rebalance_plan_id says it.';
comment on column sip_plan.amount is 'Money a slot, in the run''s currency, fees included; before step-ups.';
comment on column sip_plan.start_date is 'Nominal date of slot 0, in the market''s time zone.';
comment on column sip_plan.end_date is 'The last nominal date that may have a slot; null = no end but instalments.';
comment on column sip_plan.step_up_percent is 'Every step_up_every slots the amount grows by this many percent, compounding.';
comment on column sip_plan.step_up_amount is 'Every step_up_every slots the amount grows by this much money.';
comment on column sip_plan.step_up_every is 'Number of slots between step-ups; null = none.';
comment on column sip_plan.whole_units is 'Buy whole units only, and carry the rest of the money to the next slot.';
comment on column sip_plan.auto_pause_after is 'Pause the plan after this many slots in a row without funds; null = never.';
comment on column rebalance_plan.plan_id is 'Counts 1, 2, 3 … within the run.';
comment on column rebalance_plan.start_date is 'Nominal date of slot 0, in the market''s time zone.';
comment on column rebalance_plan.band is 'Trade only what is further than this share of equity from its target; null = everything.';
comment on column rebalance_plan.next_slot is 'The first slot that has not ended.';
comment on column target_weight.plan_id is 'The rebalance plan.';
comment on column target_weight.symbol is 'The instrument.';
comment on column target_weight.weight is 'Share of equity, 0 to 1, to 20 decimals.';
comment on column risk_limit.max_position is 'Units held per symbol; null = no limit.';
comment on column risk_limit.max_order_value is 'Value of one order, in the run''s currency; null = no limit.';
comment on column forbidden_symbol.symbol is 'The instrument.';
