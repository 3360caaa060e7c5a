-- CODE, from here on: dropped and rebuilt in one transaction, at any moment, while sessions are ticking.
-- Refusals, the run's lock, and the few helpers that everything stands on.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- A rebuild needs every table for itself, and may not hold one while it waits for another: verbs take the run first,
-- raw writers their own table first. So: wait for the run's table (verbs queue there), take the others at once or let
-- go and try again.
do $$
begin
  loop
    begin
      lock table strategy_run in access exclusive mode;
      lock table engine_state, engine_status, paper_order, paper_trade, paper_position, cash_ledger, mtm_ledger,
        paper_equity_curve, event_ledger, sip_plan, rebalance_plan, target_weight, risk_limit, forbidden_symbol,
        dividend_due, trade_fee, fee_schedule
        in access exclusive mode nowait;
      exit;
    exception when lock_not_available then
      perform pg_sleep(0.01);
    end;
  end loop;
end $$;

drop schema if exists engine cascade;
create schema engine;
comment on schema engine is 'Private code of papertick. Call the verbs in public; everything here may change without notice.';
grant usage on schema engine to public;

-- The one registry of refusals.
create function engine.refusal_codes() returns table (code text, message text, hint text)
language sql immutable begin atomic
  values
    ('TE001', 'the run is not RUNNING', 'A stopped or failed run is final; start a new run.'),
    ('TE002', 'illegal status change', 'STOPPED and ERROR are final, and the row of such a run is frozen.'),
    ('TE003', 'logical_time is earlier than the run', 'Time only moves forward; tick later than last_logical_time.'),
    ('TE004', 'the row cannot be changed or deleted', 'Ledgers are append-only and rows stay with their run; delete the whole run instead. A fee schedule changes by a row with a later date.'),
    ('TE101', 'bad argument', 'Call again with the argument as it must be.'),
    ('TE102', 'client_order_id was used with other terms', 'Send the same terms again, or use a new client_order_id.'),
    ('TE201', 'unknown symbol or feed', 'Insert the instrument or feed first, or check the spelling.'),
    ('TE202', 'no price at or before logical_time', 'Load bars of the symbol up to that time.'),
    ('TE203', 'outside the calendar''s loaded sessions', 'Load more: papertick calendar load, or rows of market_session.'),
    ('TE204', 'unknown run', 'Check user_id and run_id.'),
    ('TE301', 'not allowed', 'This takes the role that owns the tables, or an administrator''s key.'),
    ('TE901', 'an invariant is broken', 'Nothing was written. The rows are not those of a run that papertick has made.'),
    ('28000', 'no such key', 'Show a key that create_key has returned, and that is neither revoked nor expired.'),
    ('40001', 'a run is changed under READ COMMITTED only', 'An older snapshot could miss an order; repeat the call under READ COMMITTED.'),
    ('23503', 'the run or user does not exist', 'Check the ids; create_user and start_run return new ones.'),
    ('23505', 'the user already has a RUNNING run', 'Stop that run first: one user runs one strategy at a time.');
end;
comment on function engine.refusal_codes() is 'Every SQLSTATE the engine raises itself, with its message and hint.';

-- p_detail is a list of key=value pairs.
create function engine.refuse(p_code text, p_detail text) returns void
language plpgsql as $$
declare
  v_message text;
  v_hint text;
begin
  select r.message, r.hint into strict v_message, v_hint from engine.refusal_codes() r where r.code = p_code;
  raise exception using errcode = p_code, message = v_message, detail = p_detail, hint = v_hint;
end $$;

-- ISO 4217: currencies whose minor unit is not two decimals (CLF and UYW, units of account with four, included).
create function engine.minor_unit(p_currency text) returns int
language sql immutable parallel safe
return case
  when p_currency in ('BIF','CLP','DJF','GNF','ISK','JPY','KMF','KRW','PYG','RWF','UGX','UYI','VND','VUV','XAF','XOF','XPF') then 0
  when p_currency in ('BHD','IQD','JOD','KWD','LYD','OMR','TND') then 3
  when p_currency in ('CLF','UYW') then 4
  else 2
end;

-- What a quantity is worth at a price, in money of that many decimals: half away from zero.
create function engine.value(p_quantity numeric, p_price numeric, p_scale int) returns numeric
language sql immutable parallel safe return round(p_quantity * p_price, p_scale);

-- Money that crosses the run's border, by the cause of its cash entry: paid in or taken out. All else is what the run
-- itself earned, paid or moved between cash and holdings.
create function engine.is_external(p_cause text) returns boolean
language sql immutable parallel safe
return p_cause not in ('TRADE', 'DIVIDEND', 'CASH_IN_LIEU', 'BORROW_FEE', 'MARGIN_INTEREST');

-- A component of an order's fees and the key of the fee_schedule row it comes from; schedule and side are the order's.
create type engine.fee as (component text, amount numeric, product text, effective_from date);

-- One deed of the engine that is decided but not yet written: an order (new, or an open one that ends, is triggered or
-- fills in part), its trade and cash entry, an event. engine.post writes it to the ledgers. A journal has one entry an
-- order at most.
create type engine.entry as (
  logical_time timestamptz, order_id bigint, is_new boolean, status text, symbol text, side text, quantity numeric,
  price numeric, reject_reason text, source text, is_trigger boolean, stop_price numeric,
  trade_id bigint, fees numeric, fee_items engine.fee[], entry_id bigint, amount numeric,
  event_type text, event_key text, payload jsonb
);

-- Holdings of a run that stay as they are over these times. symbols and quantities are parallel, nothing at 0 needs a price.
-- Typed as the ledgers are, so that nothing is cast once a row.
create type engine.span as (
  user_id bigint, run_id bigint, scale int, times public.logical_instant[], cash public.money_amount,
  cost_basis public.money_amount, realized_pnl public.money_amount, symbols text[], quantities numeric[]
);

-- What will become of an open order next, if cash allows: it fills at price, if there is volume; or price null, it is
-- triggered (is_trigger) or ends. phase orders what happens in one bar time. The bar's open, low, high and volume bound
-- a fill; open is null when the bar lies outside every session; stop_price is the stop that was met.
create type engine.match as (
  logical_time timestamptz, phase int, price numeric, is_trigger boolean, stop_price numeric,
  open numeric, low numeric, high numeric, volume numeric,
  order_id bigint, symbol text, side text, order_type text, time_in_force text, quantity numeric, filled_quantity numeric,
  reserve_price numeric, oco_id bigint, is_entry boolean, is_exit boolean
);

-- A run in memory: read once after the lock, carried through the steps, written once by engine.post. No step reads a
-- table that another step of the same tick writes. Positions are parallel arrays; last_*_id and the limits are null
-- until first needed.
create type engine.context as (
  user_id bigint, run_id bigint, feed text, calendar text, time_zone text, scale int, status text, mark_policy text,
  terms public.strategy_run,
  cash numeric, first_logical_time timestamptz, last_logical_time timestamptz, step_logical_time timestamptz,
  symbols text[], quantities numeric[], cost_bases numeric[], realized_pnls numeric[], cost_basis numeric, realized_pnl numeric,
  knows_limits boolean, max_position numeric, max_order_value numeric, forbidden text[], reserved numeric,
  last_order_id bigint, last_trade_id bigint, last_entry_id bigint,
  sips public.sip_plan[], rebalances public.rebalance_plan[], due timestamptz[], sip public.sip_plan,
  closed_through timestamptz, is_closed boolean, is_open boolean, has_open_orders boolean,
  matches refcursor, match engine.match, ahead engine.match, agenda engine.match[], horizon timestamptz, has_trailing boolean,
  is_adjusted boolean, acted_through timestamptz,
  used_time timestamptz, used_symbols text[], used_quantities numeric[],
  journal engine.entry[], spans engine.span[], has_moved_plans boolean, has_written boolean, made int,
  events_left int
);

-- A snapshot that is older than the lock could miss an order that was placed meanwhile.
create function engine.require_read_committed(p_user_id bigint, p_run_id bigint) returns void
language plpgsql as $$
begin
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    perform engine.refuse('40001', format('user_id=%s run_id=%s', p_user_id, p_run_id));
  end if;
end $$;

-- The row lock, with an advisory lock as the queue in front of it. A free row, or one that this transaction has locked
-- already, is taken without queueing: who waits in the queue may wait for just this transaction. Each lock is a
-- statement of its own: whoever waits here reads the world only afterwards.
create function engine.lock_run(p_user_id bigint, p_run_id bigint) returns void
language plpgsql as $$
begin
  perform engine.require_read_committed(p_user_id, p_run_id);
  perform from strategy_run r where r.user_id = p_user_id and r.run_id = p_run_id for no key update skip locked;
  if found then
    perform pg_try_advisory_xact_lock(hashtextextended(p_user_id || ':' || p_run_id, 0));
    return;
  end if;
  perform pg_advisory_xact_lock(hashtextextended(p_user_id || ':' || p_run_id, 0));
  perform from strategy_run r where r.user_id = p_user_id and r.run_id = p_run_id for no key update;
  if not found then
    perform engine.refuse('TE204', format('user_id=%s run_id=%s', p_user_id, p_run_id));
  end if;
end $$;

-- A time within a detail: one word, the same in every session.
create function engine.iso(p_time timestamptz) returns text
language sql stable return to_char(p_time at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

create function engine.require_time(p_logical_time timestamptz) returns void
language plpgsql as $$
begin
  if p_logical_time is null or p_logical_time < '1900-01-01 00:00+00' or p_logical_time >= '2300-01-01 00:00+00' then
    perform engine.refuse('TE101', format('argument=logical_time value=%s must_be=a_time_from_1900_to_2299', engine.iso(p_logical_time)));
  end if;
end $$;

-- A finite number that rounds into (-1e12, 1e12): what every stored quantity, price and amount can hold.
create function engine.require_number(p_name text, p_value numeric) returns void
language plpgsql as $$
begin
  if (p_value > -1e13 and p_value < 1e13 and abs(round(p_value, 8)) < 1e12) is not true then
    perform engine.refuse('TE101', format('argument=%s value=%s must_be=a_number_below_1e12', p_name, coalesce(left(p_value::text, 40), 'null')));
  end if;
end $$;

create function engine.require_positive(p_name text, p_value numeric) returns void
language plpgsql as $$
begin
  perform engine.require_number(p_name, p_value);
  if p_value <= 0 then
    perform engine.refuse('TE101', format('argument=%s value=%s must_be=positive', p_name, p_value));
  end if;
end $$;

-- p_condition null counts as broken: a missing argument is a bad argument.
create function engine.require(p_condition boolean, p_detail text) returns void
language plpgsql as $$
begin
  if p_condition is not true then
    perform engine.refuse('TE101', p_detail);
  end if;
end $$;

-- An argument that some calls must have and the others cannot have.
create function engine.require_given(p_name text, p_is_given boolean, p_is_wanted boolean, p_only text) returns void
language plpgsql as $$
begin
  perform engine.require(p_is_given or not p_is_wanted, format('argument=%s must_be=given', p_name));
  perform engine.require(p_is_wanted or not p_is_given, format('argument=%s must_be=given_for_%s_only', p_name, p_only));
end $$;

-- div() is exact where a rounded quotient would sometimes land one step too high.
create function engine.floor_to(p_value numeric, p_step numeric) returns numeric
language sql immutable parallel safe return div(p_value, p_step) * p_step;

-- The most units that p_money buys at p_price, floored to the step.
create function engine.units_for(p_money numeric, p_price numeric, p_step numeric) returns numeric
language sql immutable parallel safe return div(p_money, p_price * p_step) * p_step;

-- The smallest whole number of units that lies on the step.
create function engine.whole_step(p_step numeric) returns numeric
language sql immutable parallel safe return p_step * div(1e8, gcd(p_step * 1e8, 1e8));
