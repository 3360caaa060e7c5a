-- The tables of a report: instalments, fills, fees, rejections, plans. Plain views over the ledgers; see 98_report_series.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

create or replace view report_fill with (security_invoker = true) as
select t.user_id, t.run_id, t.trade_id, t.logical_time, t.symbol, t.side, o.order_id, o.order_type, o.source, t.quantity, t.price,
       case t.side when 'BUY' then -l.amount - t.fees else l.amount + t.fees end as value, t.fees, l.amount as cash
  from paper_trade t
  join paper_order o on o.user_id = t.user_id and o.run_id = t.run_id and o.order_id = t.order_id
  left join cash_ledger l on l.user_id = t.user_id and l.run_id = t.run_id and l.trade_id = t.trade_id;
comment on view report_fill is 'One row a fill of a run, trade_id in order of time. source: who ordered it (CLIENT, SIP, REBALANCE, DIVIDEND, MARGIN …). quantity in units, price per unit; value = quantity × price, fees, and cash (signed: what it moved, fees included) in the run''s currency.';

-- What belongs together meets in one GROUP BY and not in a join, which may be planned as a quadratic loop where tables have
-- no statistics: the ends of slots by their orders, the purchases by their trades.
create or replace view report_instalment with (security_invoker = true) as
select i.user_id, i.run_id, i.sip_id, i.slot, i.trade_id, i.logical_time, i.symbol, i.quantity, i.price, i.fees, i.amount,
       sum(i.amount) over (partition by i.user_id, i.run_id, i.sip_id, i.symbol order by i.trade_id) as paid, i.held, i.average_cost
  from (select t.user_id, t.run_id, max(t.sip_id) as sip_id, max(t.slot) as slot, t.trade_id, max(t.logical_time) as logical_time, max(t.symbol) as symbol,
               max(t.quantity) as quantity, max(t.price) as price, max(t.fees) as fees, max(t.amount) as amount, max(t.held) as held, max(t.average_cost) as average_cost
          from (select o.user_id, o.run_id, max(o.sip_id) as sip_id, max(o.slot) as slot, max(o.trade_id) as trade_id, max(o.logical_time) as logical_time,
                       max(o.symbol) as symbol, max(o.quantity) as quantity, max(o.price) as price, max(o.fees) as fees, max(o.amount) as amount,
                       null::numeric as held, null::numeric as average_cost
                  from (select e.user_id, e.run_id, (v.id #>> '{}')::numeric as order_id, p.sip_id, p.slot, null::bigint as trade_id, null::timestamptz as logical_time,
                               null as symbol, null::numeric as quantity, null::numeric as price, null::numeric as fees, null::numeric as amount
                          from event_ledger e
                         cross join lateral jsonb_array_elements(case when jsonb_typeof(e.payload -> 'orders') = 'array' then e.payload -> 'orders'
                                                                      else jsonb_build_array(e.payload -> 'order_id') end) v (id)
                         cross join lateral (select split_part(e.event_key, ':', 1)::bigint as sip_id, split_part(e.event_key, ':', 2)::int as slot
                                              where e.event_key ~ '^[0-9]{1,18}:[0-9]{1,9}$') p
                         where e.event_type = 'SIP_EXECUTED' and jsonb_typeof(v.id) = 'number'
                        union all
                        select f.user_id, f.run_id, f.order_id, null, null, f.trade_id, f.logical_time, f.symbol, f.quantity, f.price, f.fees, -f.cash
                          from report_fill f where f.source = 'SIP') o
                 group by o.user_id, o.run_id, o.order_id
                having count(o.sip_id) = 1 and count(o.trade_id) = 1
                union all
                select h.user_id, h.run_id, null, null, h.trade_id, null, null, null, null, null, null, h.quantity, h.average_cost
                  from report_holding h where h.trade_id is not null) t
         group by t.user_id, t.run_id, t.trade_id) i
 where i.sip_id is not null;
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

create or replace view report_sip_summary with (security_invoker = true) as
select s.user_id, s.run_id, s.sip_id, max(s.symbol) as symbol, (array_agg(s.basket) filter (where s.is_plan))[1]::jsonb as basket, max(s.rebalance_plan_id) as rebalance_plan_id,
       max(s.frequency) as frequency, max(s.amount) as instalment, max(s.start_date) as start_date, max(s.next_slot) as slots,
       count(*) filter (where s.event_type = 'SIP_EXECUTED') as executed, count(*) filter (where s.event_type = 'SIP_SKIPPED_FUNDS') as skipped_funds,
       count(*) filter (where s.event_type in ('SIP_SKIPPED_HOLIDAY', 'SIP_SKIPPED_PAUSED', 'SIP_SKIPPED_BELOW_UNIT')) as skipped_other,
       count(*) filter (where s.event_type = 'SIP_MISSED') as missed, coalesce(sum(s.paid), 0) as paid, count(s.paid) as purchases,
       min(s.logical_time) as first_time, max(s.logical_time) as last_time
  from (select p.user_id, p.run_id, p.sip_id, true as is_plan, p.symbol, p.basket::jsonb, p.rebalance_plan_id, p.frequency, p.amount, p.start_date, p.next_slot,
               null as event_type, null::numeric as paid, null::timestamptz as logical_time
          from sip_plan p
        union all
        select e.user_id, e.run_id, split_part(e.event_key, ':', 1)::numeric, false, null, null, null, null, null, null, null, e.event_type, null, null
          from event_ledger e where e.event_type like 'SIP\_%' and e.event_key ~ '^[0-9]{1,18}:'
        union all
        select i.user_id, i.run_id, i.sip_id, false, null, null, null, null, null, null, null, null, i.amount, i.logical_time from report_instalment i) s
 group by s.user_id, s.run_id, s.sip_id
having bool_or(s.is_plan);
comment on view report_sip_summary is 'One row a SIP of a run: what it buys (symbol, basket, or what a rebalance plan lacks), the amount of a slot now, and how its slots have ended; paid: what its purchases cost so far, fees included, in the run''s currency.';
