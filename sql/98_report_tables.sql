-- The tables of a report: fills, instalments, fees, rejections, plans. See 98_report_series. What joins a run's ledgers is a
-- function that does without nested loops: on a run that was written a moment ago, and of which the planner knows nothing yet,
-- they are quadratic.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

create or replace function report_fill(p_user_id bigint, p_run_id bigint)
returns table (trade_id bigint, logical_time timestamptz, symbol text, side text, order_id bigint, order_type text, source text, quantity numeric, price numeric, value numeric, fees numeric, cash numeric)
language plpgsql stable security definer set search_path = public, pg_temp set enable_nestloop = off set plan_cache_mode = force_custom_plan set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id), engine.require_run(p_user_id, p_run_id);
  return query 
  select t.trade_id, t.logical_time::timestamptz, t.symbol, t.side::text, t.order_id, o.order_type::text, o.source, t.quantity::numeric, t.price::numeric,
         (case t.side when 'BUY' then -l.amount - t.fees else l.amount + t.fees end)::numeric, t.fees::numeric, l.amount::numeric
    from paper_trade t
    join paper_order o on o.user_id = t.user_id and o.run_id = t.run_id and o.order_id = t.order_id
    left join cash_ledger l on l.user_id = t.user_id and l.run_id = t.run_id and l.trade_id = t.trade_id
   where t.user_id = p_user_id and t.run_id = p_run_id;
end $$;
comment on function report_fill is 'report_fill(user, run): the rows of the view report_fill for one run.';

create or replace function report_instalment(p_user_id bigint, p_run_id bigint)
returns table (sip_id bigint, slot int, trade_id bigint, logical_time timestamptz, symbol text, quantity numeric, price numeric, fees numeric, amount numeric, paid numeric, held numeric, average_cost numeric)
language plpgsql stable security definer set search_path = public, pg_temp set enable_nestloop = off set plan_cache_mode = force_custom_plan set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id), engine.require_run(p_user_id, p_run_id);
  return query 
  select i.sip_id, i.slot, f.trade_id, f.logical_time, f.symbol, f.quantity, f.price, f.fees, -f.cash,
         -sum(f.cash) over (partition by i.sip_id, f.symbol order by f.trade_id), h.quantity, h.average_cost
    from (select split_part(e.event_key, ':', 1)::bigint as sip_id, split_part(e.event_key, ':', 2)::int as slot, (v.id #>> '{}')::numeric as order_id
            from event_ledger e
           cross join lateral jsonb_array_elements(case when jsonb_typeof(e.payload -> 'orders') = 'array' then e.payload -> 'orders'
                                                        else jsonb_build_array(e.payload -> 'order_id') end) v (id)
           where e.user_id = p_user_id and e.run_id = p_run_id and e.event_type = 'SIP_EXECUTED' and e.event_key ~ '^[0-9]{1,18}:[0-9]{1,9}$'
             and jsonb_typeof(v.id) = 'number' offset 0) i
    join report_fill(p_user_id, p_run_id) f on f.order_id = i.order_id and f.source = 'SIP'
    left join engine.holding_steps(p_user_id, p_run_id) h on h.trade_id = f.trade_id;
end $$;
comment on function report_instalment is 'report_instalment(user, run): the rows of the view report_instalment for one run.';

create or replace function report_gain(p_user_id bigint, p_run_id bigint) returns table (place int, kind text, amount numeric)
language plpgsql stable security definer set search_path = public, pg_temp set enable_nestloop = off set plan_cache_mode = force_custom_plan set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id), engine.require_run(p_user_id, p_run_id);
  return query select g.* from engine.gain_rows(p_user_id, p_run_id) g;
end $$;
comment on function report_gain is 'report_gain(user, run): the rows of the view report_gain for one run.';

create or replace view report_gain with (security_invoker = true) as
select r.user_id, r.run_id, g.place, g.kind, g.amount
  from strategy_run r cross join lateral report_gain(r.user_id, r.run_id) g;
comment on view report_gain is 'One row a part of what a run has gained by its last mark; together they are equity - funded of performance, to the last digit. kind: REALIZED by trades, UNREALIZED, CASH_IN_LIEU of fractions after splits, less what these had cost (with REALIZED it is realized_pnl of performance), then each cause of cash that is neither external nor a trade (DIVIDEND, BORROW_FEE, MARGIN_INTEREST), and OTHER: the rest, where units have no known cost or trades are younger than the last mark. Parts that are nothing by their nature are left out; amount in the run''s currency.';

create or replace view report_fill with (security_invoker = true) as
select r.user_id, r.run_id, f.trade_id, f.logical_time, f.symbol, f.side, f.order_id, f.order_type, f.source, f.quantity, f.price, f.value, f.fees, f.cash
  from strategy_run r cross join lateral report_fill(r.user_id, r.run_id) f;
comment on view report_fill is 'One row a fill of a run, trade_id in order of time. source: who ordered it (CLIENT, SIP, REBALANCE, DIVIDEND, MARGIN …). quantity in units, price per unit; value = quantity × price, fees, and cash (signed: what it moved, fees included) in the run''s currency.';

create or replace view report_instalment with (security_invoker = true) as
select r.user_id, r.run_id, i.sip_id, i.slot, i.trade_id, i.logical_time, i.symbol, i.quantity, i.price, i.fees, i.amount, i.paid, i.held, i.average_cost
  from strategy_run r cross join lateral report_instalment(r.user_id, r.run_id) i;
comment on view report_instalment is 'One row a purchase of a SIP: of a basket one for each symbol. quantity in units, price per unit; amount: what it cost, fees included; paid: the same of this plan and symbol so far; held, average_cost: units of the symbol that the run then held and what they cost on average, whoever bought them.';

create or replace view report_fee with (security_invoker = true) as
select f.user_id, f.run_id, f.component as kind, count(*) as entries, sum(f.amount) as amount
  from trade_fee f group by f.user_id, f.run_id, f.component
union all
select l.user_id, l.run_id, l.cause, count(*), -sum(l.amount)
  from cash_ledger l where l.cause in ('BORROW_FEE', 'MARGIN_INTEREST') group by l.user_id, l.run_id, l.cause;
comment on view report_fee is 'One row a kind of cost of a run: the components of its trades'' fees, which together are fees of performance, and what a margin account was charged to carry (BORROW_FEE, MARGIN_INTEREST). amount in the run''s currency, entries: how often it was charged.';

create or replace view report_rejection with (security_invoker = true) as
select o.user_id, o.run_id, o.reject_reason as reason, count(*) as orders, count(distinct o.symbol) as symbols,
       min(coalesce(o.closed_time, o.logical_time)) as first_time, max(coalesce(o.closed_time, o.logical_time)) as last_time
  from paper_order o where o.reject_reason is not null group by o.user_id, o.run_id, o.reject_reason;
comment on view report_rejection is 'One row a reason for which orders of a run were rejected, at once or at their fill: how many orders, of how many symbols, and when first and last (null: before the first tick).';

create or replace view report_rebalance_summary with (security_invoker = true) as
select p.user_id, p.run_id, p.plan_id, p.frequency, p.start_date, p.next_slot as slots,
       count(*) filter (where e.event_type = 'REBALANCED') as executed, count(*) filter (where e.event_type = 'REBALANCE_MISSED') as missed,
       max(e.logical_time) filter (where e.event_type = 'REBALANCED') as last_time
  from rebalance_plan p
  left join event_ledger e on e.user_id = p.user_id and e.run_id = p.run_id and e.event_type in ('REBALANCED', 'REBALANCE_MISSED')
                          and split_part(e.event_key, ':', 1) = p.plan_id::text
 group by p.user_id, p.run_id, p.plan_id, p.frequency, p.start_date, p.next_slot;
comment on view report_rebalance_summary is 'One row a rebalance plan of a run: how its slots have ended, and when it last traded to its weights (null: never).';

create or replace view report_sip_summary with (security_invoker = true) as
select s.user_id, s.run_id, s.sip_id, max(s.symbol) as symbol, (array_agg(s.basket) filter (where s.is_plan))[1]::jsonb as basket, max(s.rebalance_plan_id) as rebalance_plan_id,
       max(s.frequency) as frequency, max(s.amount) as instalment, max(s.start_date) as start_date, max(s.next_slot) as slots,
       count(*) filter (where s.event_type = 'SIP_EXECUTED') as executed, count(*) filter (where s.event_type = 'SIP_SKIPPED_FUNDS') as skipped_funds,
       count(*) filter (where s.event_type in ('SIP_SKIPPED_HOLIDAY', 'SIP_SKIPPED_PAUSED', 'SIP_SKIPPED_BELOW_UNIT')) as skipped_other,
       count(*) filter (where s.event_type = 'SIP_MISSED') as missed, coalesce(sum(s.paid), 0) as paid, count(s.paid) as purchases,
       min(s.logical_time) as first_time, max(s.logical_time) as last_time,
       max(s.step_up_percent) as step_up_percent, max(s.step_up_amount) as step_up_amount, max(s.step_up_every) as step_up_every
  from (select p.user_id, p.run_id, p.sip_id, true as is_plan, p.symbol, p.basket::jsonb, p.rebalance_plan_id, p.frequency, p.amount, p.start_date, p.next_slot,
               null as event_type, null::numeric as paid, null::timestamptz as logical_time, p.step_up_percent, p.step_up_amount, p.step_up_every
          from sip_plan p
        union all
        select e.user_id, e.run_id, split_part(e.event_key, ':', 1)::bigint, false, null, null, null, null, null, null, null, e.event_type, null, null, null, null, null
          from event_ledger e where e.event_type like 'SIP\_%' and e.event_key ~ '^[0-9]{1,18}:'
        union all
        select i.user_id, i.run_id, i.sip_id, false, null, null, null, null, null, null, null, null, i.amount, i.logical_time, null, null, null from report_instalment i) s
 group by s.user_id, s.run_id, s.sip_id
having bool_or(s.is_plan);
comment on view report_sip_summary is 'One row a SIP of a run: what it buys (symbol, basket, or what a rebalance plan lacks), the amount of a slot before its step-ups, these, and how its slots have ended; paid: what its purchases cost so far, fees included, in the run''s currency.';
