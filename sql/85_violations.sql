-- Invariants, second part: positions, marks, slots.
set local search_path = public, pg_temp;

-- What has moved units: trades, and splits with the cash paid in lieu. ordinal orders what happened at one time.
create view engine.movement as
  select t.user_id, t.run_id, t.logical_time::timestamptz as logical_time, t.trade_id as ordinal, t.symbol,
         case t.side when 'BUY' then t.quantity else -t.quantity end as units, t.price::numeric as price, t.fees::numeric as fees, null::numeric as cash
    from paper_trade t
  union all
  select v.user_id, v.run_id, v.logical_time, 0, v.payload ->> 'symbol', (v.payload ->> 'units')::numeric, null, null,
         coalesce((v.payload ->> 'cash_in_lieu')::numeric, 0)
    from event_ledger v where v.event_type = 'SPLIT';

-- What trades cost and brought must be what positions carry and have realized.
create view engine.violation_position as
  select coalesce(p.user_id, t.user_id) as user_id, coalesce(p.run_id, t.run_id) as run_id,
         'position_disagrees_with_trades' as rule,
         format('symbol=%s quantity=%s traded=%s', coalesce(p.symbol, t.symbol), p.quantity, t.quantity) as detail
    from (select p.* from paper_position p
            join engine.accounted_run r on r.user_id = p.user_id and r.run_id = p.run_id) p
    full join (select t.user_id, t.run_id, t.symbol,
                      sum(t.units) as quantity, sum(coalesce(-sign(t.units) * engine.value(abs(t.units), t.price, r.scale) - t.fees, t.cash)) as cash
                 from engine.movement t
                 join engine.accounted_run r on r.user_id = t.user_id and r.run_id = t.run_id
                group by t.user_id, t.run_id, t.symbol) t
      on t.user_id = p.user_id and t.run_id = p.run_id and t.symbol = p.symbol
   where coalesce(p.quantity, 0) <> coalesce(t.quantity, 0)
      or coalesce(p.realized_pnl - p.cost_basis, 0) <> coalesce(t.cash, 0)
      or (p.quantity = 0 and p.cost_basis <> 0)
  union all
  select h.user_id, h.run_id, 'position_below_zero', format('trade_id=%s symbol=%s quantity=%s', h.ordinal, h.symbol, h.quantity)
    from (select t.user_id, t.run_id, t.ordinal, t.symbol,
                 sum(t.units) over (partition by t.user_id, t.run_id, t.symbol order by t.logical_time, t.ordinal) as quantity
            from engine.movement t
            join engine.accounted_run r on r.user_id = t.user_id and r.run_id = t.run_id and r.maintenance_margin is null) h
   where h.quantity < 0;

-- Both halves of a mark in one row, by one GROUP BY: a join of the two may be planned as a quadratic loop where tables
-- have no statistics.
create view engine.mark_halves as
  select h.user_id, h.run_id, h.logical_time, max(h.cash) as cash, max(h.equity_value) as equity_value, max(h.mtm_value) as mtm_value, max(h.booked) as booked
    from (select e.user_id, e.run_id, e.logical_time, e.cash, e.market_value as equity_value, null::numeric as mtm_value, null::numeric as booked
            from paper_equity_curve e
          union all
          select m.user_id, m.run_id, m.logical_time, null, null, m.market_value, m.realized_pnl - m.cost_basis from mtm_ledger m) h
   group by h.user_id, h.run_id, h.logical_time;

create view engine.violation_mark as
  select e.user_id, e.run_id, 'equity_is_not_cash_plus_market_value' as rule, 'logical_time=' || e.logical_time as detail
    from paper_equity_curve e
    join engine.accounted_run r on r.user_id = e.user_id and r.run_id = e.run_id
   where e.equity <> e.cash + e.market_value
  union all
  select m.user_id, m.run_id, 'unrealized_is_not_value_minus_cost', 'logical_time=' || m.logical_time
    from mtm_ledger m
    join engine.accounted_run r on r.user_id = m.user_id and r.run_id = m.run_id
   where m.unrealized_pnl <> m.market_value - m.cost_basis
  union all
  select m.user_id, m.run_id, 'mtm_disagrees_with_equity', 'logical_time=' || m.logical_time
    from engine.mark_halves m
    join engine.accounted_run r on r.user_id = m.user_id and r.run_id = m.run_id
   where m.equity_value <> m.mtm_value
  union all
  select e.user_id, e.run_id, 'mark_disagrees_with_ledger',
         format('logical_time=%s cash=%s ledger=%s', e.logical_time, e.cash, e.ledger)
    from (select b.user_id, b.run_id, b.logical_time, b.cash, b.booked,
                 sum(b.amount) over w as ledger, sum(b.traded) over w as traded
            from (select l.user_id, l.run_id, coalesce(l.logical_time, '-infinity') as logical_time, l.amount,
                         case when l.trade_id is not null or l.cause = 'CASH_IN_LIEU' then l.amount else 0 end as traded, null::numeric as cash, null::numeric as booked
                    from cash_ledger l
                  union all
                  select m.user_id, m.run_id, m.logical_time, 0, 0, m.cash, m.booked from engine.mark_halves m where m.cash is not null) b
          window w as (partition by b.user_id, b.run_id order by b.logical_time, b.cash is not null)) e
    join engine.accounted_run r on r.user_id = e.user_id and r.run_id = e.run_id
   where e.logical_time <= r.last_logical_time and (e.cash <> e.ledger or e.booked <> e.traded)
  union all
  select r.user_id, r.run_id, 'last_tick_is_not_whole', 'last_logical_time=' || r.last_logical_time
    from engine.accounted_run r
    left join mtm_ledger m on m.user_id = r.user_id and m.run_id = r.run_id and m.logical_time = r.last_logical_time
    left join paper_equity_curve e on e.user_id = r.user_id and e.run_id = r.run_id and e.logical_time = r.last_logical_time
   where r.last_logical_time is not null
     and ((m.run_id is null) <> (e.run_id is null) or m.run_id is null and r.mark_policy = 'EVERY_TICK');

-- What each executed SIP slot says it bought: an order a row, or null.
create view engine.sip_purchase as
  select e.user_id, e.run_id, e.logical_time, e.event_key, b.order_id #>> '{}' as order_id
    from event_ledger e
    join engine.accounted_run r on r.user_id = e.user_id and r.run_id = e.run_id
    left join lateral (select jsonb_path_query(e.payload, '$.order_id')
                       union all select jsonb_path_query(e.payload, '$.orders[*]')) b (order_id) on true
   where e.event_type = 'SIP_EXECUTED';

-- Slots 0 .. next_slot - 1 have ended, once each, and an executed one names its filled orders.
create view engine.violation_slot as
  select r.user_id, r.run_id, 'sip_slots_disagree_with_events' as rule,
         format('sip_id=%s next_slot=%s events=%s', p.sip_id, p.next_slot, count(e.event_key)) as detail
    from engine.accounted_run r
    join sip_plan p on p.user_id = r.user_id and p.run_id = r.run_id
    left join event_ledger e on e.user_id = p.user_id and e.run_id = p.run_id
     and e.event_type like 'SIP\_%' and e.event_type <> 'SIP_AUTO_PAUSED' and split_part(e.event_key, ':', 1) = p.sip_id::text
   group by r.user_id, r.run_id, p.sip_id, p.next_slot, p.instalments
  having count(e.event_key) <> p.next_slot or p.next_slot > p.instalments
  union all
  select r.user_id, r.run_id, 'rebalance_slots_disagree_with_events',
         format('plan_id=%s next_slot=%s events=%s', p.plan_id, p.next_slot, count(e.event_key))
    from engine.accounted_run r
    join rebalance_plan p on p.user_id = r.user_id and p.run_id = r.run_id
    left join event_ledger e on e.user_id = p.user_id and e.run_id = p.run_id
     and e.event_type in ('REBALANCED', 'REBALANCE_MISSED') and split_part(e.event_key, ':', 1) = p.plan_id::text
   group by r.user_id, r.run_id, p.plan_id, p.next_slot having count(e.event_key) <> p.next_slot
  union all
  select e.user_id, e.run_id, 'executed_slot_without_filled_order', 'event_key=' || e.event_key
    from engine.sip_purchase e
    left join paper_order o on o.user_id = e.user_id and o.run_id = e.run_id and o.order_id::text = e.order_id
     and o.source = 'SIP' and o.status = 'FILLED' and o.logical_time = e.logical_time
    left join sip_plan p on p.user_id = e.user_id and p.run_id = e.run_id and p.sip_id::text = split_part(e.event_key, ':', 1)
    left join target_weight w on w.user_id = p.user_id and w.run_id = p.run_id and w.plan_id = p.rebalance_plan_id and w.symbol = o.symbol
   where (o.symbol = p.symbol or p.basket ? o.symbol or w.symbol is not null) is not true
     and num_nonnulls(o.order_id, p.sip_id) > 0   -- without either it is an event_of_no_slot
  union all
  select o.user_id, o.run_id, 'sip_order_without_its_slot', format('order_id=%s slots=%s', o.order_id, count(e.event_key))
    from paper_order o
    join engine.accounted_run r on r.user_id = o.user_id and r.run_id = o.run_id
    left join engine.sip_purchase e on e.user_id = o.user_id and e.run_id = o.run_id and e.order_id = o.order_id::text
   where o.source = 'SIP'
   group by o.user_id, o.run_id, o.order_id having count(e.event_key) <> 1
  union all
  select e.user_id, e.run_id, 'auto_pause_without_skipped_funds', 'event_key=' || e.event_key
    from event_ledger e
    join engine.accounted_run r on r.user_id = e.user_id and r.run_id = e.run_id
    left join event_ledger f on f.user_id = e.user_id and f.run_id = e.run_id and f.event_key = e.event_key
     and f.event_type = 'SIP_SKIPPED_FUNDS' and f.logical_time = e.logical_time
   where e.event_type = 'SIP_AUTO_PAUSED' and f.event_key is null
  union all
  select o.user_id, o.run_id, 'rebalance_order_without_its_slot', 'order_id=' || o.order_id
    from paper_order o
    join engine.accounted_run r on r.user_id = o.user_id and r.run_id = o.run_id
    left join event_ledger e on e.user_id = o.user_id and e.run_id = o.run_id
     and e.event_type = 'REBALANCED' and e.logical_time = o.logical_time
   where o.source = 'REBALANCE' and e.event_key is null
  union all
  select e.user_id, e.run_id, 'event_of_no_slot', format('event_type=%s event_key=%s', e.event_type, e.event_key)
    from event_ledger e
    join engine.accounted_run r on r.user_id = e.user_id and r.run_id = e.run_id
    left join (select 'SIP' as kind, p.user_id, p.run_id, p.sip_id as plan_id, p.next_slot from sip_plan p
               union all select 'REB', p.user_id, p.run_id, p.plan_id, p.next_slot from rebalance_plan p) p
      on p.kind = left(e.event_type, 3) and p.user_id = e.user_id and p.run_id = e.run_id
     and p.plan_id::text = split_part(e.event_key, ':', 1)
   where (e.event_type like 'SIP\_%' or e.event_type in ('REBALANCED', 'REBALANCE_MISSED'))
     and (case when e.event_key ~ '^[1-9][0-9]{0,8}:(0|[1-9][0-9]{0,8})$' then split_part(e.event_key, ':', 2)::int < p.next_slot end) is not true
  union all
  select w.user_id, w.run_id, 'weights_are_no_plan', format('plan_id=%s sum=%s', w.plan_id, sum(w.weight))
    from target_weight w
    join engine.accounted_run r on r.user_id = w.user_id and r.run_id = w.run_id
    left join rebalance_plan p on p.user_id = w.user_id and p.run_id = w.run_id and p.plan_id = w.plan_id
   group by w.user_id, w.run_id, w.plan_id, p.plan_id having sum(w.weight) > 1 or p.plan_id is null
  union all
  select p.user_id, p.run_id, 'basket_is_no_whole', format('sip_id=%s sum=%s', p.sip_id, b.sum)
    from sip_plan p
    join engine.accounted_run r on r.user_id = p.user_id and r.run_id = p.run_id
   cross join lateral (select sum(b.value::numeric) as sum from jsonb_each(p.basket) b) b
   where b.sum <> 1;
