-- Every invariant of every run, as rows that must not exist. A run without an opening entry was made by raw rows and
-- is checked for structure alone.
set local search_path = public, pg_temp;

-- Accounting rules speak of these runs.
create view engine.accounted_run as
  select r.user_id, r.run_id, r.initial_cash, r.status, engine.minor_unit(r.currency) as scale,
         s.cash, s.last_logical_time
    from strategy_run r
    join engine_state s on s.user_id = r.user_id and s.run_id = r.run_id
   where exists (select from cash_ledger l where l.user_id = r.user_id and l.run_id = r.run_id and l.cause = 'OPENING');

create view engine.violation_structure as
  select c.user_id, c.run_id, 'row_without_run' as rule, c.source as detail
    from (select user_id, run_id, 'engine_state' as source from engine_state
          union all select user_id, run_id, 'engine_status' from engine_status
          union all select user_id, run_id, 'paper_order' from paper_order
          union all select user_id, run_id, 'paper_trade' from paper_trade
          union all select user_id, run_id, 'paper_position' from paper_position
          union all select user_id, run_id, 'cash_ledger' from cash_ledger
          union all select user_id, run_id, 'mtm_ledger' from mtm_ledger
          union all select user_id, run_id, 'paper_equity_curve' from paper_equity_curve
          union all select user_id, run_id, 'event_ledger' from event_ledger
          union all select user_id, run_id, 'sip_plan' from sip_plan
          union all select user_id, run_id, 'rebalance_plan' from rebalance_plan
          union all select user_id, run_id, 'target_weight' from target_weight
          union all select user_id, run_id, 'risk_limit' from risk_limit
          union all select user_id, run_id, 'forbidden_symbol' from forbidden_symbol) c
    left join strategy_run r on r.user_id = c.user_id and r.run_id = c.run_id
   where r.run_id is null
  union all
  select t.user_id, t.run_id, 'trade_without_order', 'trade_id=' || t.trade_id
    from paper_trade t
    left join paper_order o on o.user_id = t.user_id and o.run_id = t.run_id and o.order_id = t.order_id
   where o.order_id is null
  union all
  select r.user_id, null, 'more_than_one_running_run', 'runs=' || count(*)
    from strategy_run r where r.status = 'RUNNING' group by r.user_id having count(*) > 1
  union all
  select o.user_id, o.run_id, 'ended_run_has_open_order', 'order_id=' || o.order_id
    from paper_order o
    join strategy_run r on r.user_id = o.user_id and r.run_id = o.run_id
   where r.status <> 'RUNNING' and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')
  union all
  select e.user_id, e.run_id, 'slot_ended_twice', 'event_key=' || e.event_key
    from event_ledger e where e.event_type like 'SIP\_%' or e.event_type like 'REBALANCE%'
   group by e.user_id, e.run_id, e.event_type like 'SIP\_%', e.event_key having count(*) > 1;

create view engine.violation_order as
  with fill as (
    select t.user_id, t.run_id, t.order_id, sum(t.quantity) as quantity, sum(t.quantity * t.price) as value
      from paper_trade t group by t.user_id, t.run_id, t.order_id
  )
  select o.user_id, o.run_id, 'order_disagrees_with_trades' as rule,
         format('order_id=%s status=%s filled_quantity=%s traded=%s', o.order_id, o.status, o.filled_quantity, f.quantity) as detail
    from paper_order o
    join engine.accounted_run r on r.user_id = o.user_id and r.run_id = o.run_id
    left join fill f on f.user_id = o.user_id and f.run_id = o.run_id and f.order_id = o.order_id
   where o.filled_quantity <> coalesce(f.quantity, 0)
      or o.avg_fill_price is distinct from round(f.value / f.quantity, 8)
      or (o.status = 'FILLED') <> (o.filled_quantity = o.quantity and o.status <> 'REJECTED')
      or (o.status = 'PARTIALLY_FILLED' and o.filled_quantity = 0)
      or (o.status in ('PENDING', 'TRIGGERED', 'REJECTED') and o.filled_quantity <> 0)
      or (o.status = 'REJECTED' and o.reject_reason is null)
  union all
  select t.user_id, t.run_id, 'trade_disagrees_with_order', 'trade_id=' || t.trade_id
    from paper_trade t
    join engine.accounted_run r on r.user_id = t.user_id and r.run_id = t.run_id
    join paper_order o on o.user_id = t.user_id and o.run_id = t.run_id and o.order_id = t.order_id
   where (t.symbol, t.side) is distinct from (o.symbol, o.side)
      or t.logical_time < o.logical_time
      or (o.source = 'CLIENT' and t.logical_time = o.logical_time);

create view engine.violation_cash as
  select r.user_id, r.run_id, 'cash_disagrees_with_ledger' as rule,
         format('cash=%s ledger=%s', r.cash, sum(l.amount)) as detail
    from engine.accounted_run r
    join cash_ledger l on l.user_id = r.user_id and l.run_id = r.run_id
   group by r.user_id, r.run_id, r.cash having r.cash <> sum(l.amount)
  union all
  select r.user_id, r.run_id, 'opening_disagrees_with_initial_cash', format('initial_cash=%s opening=%s', r.initial_cash, l.amount)
    from engine.accounted_run r
    join cash_ledger l on l.user_id = r.user_id and l.run_id = r.run_id and l.cause = 'OPENING'
   where l.amount <> r.initial_cash
  union all
  select r.user_id, r.run_id, 'trade_disagrees_with_cash', 'trade_id=' || t.trade_id
    from engine.accounted_run r
    join paper_trade t on t.user_id = r.user_id and t.run_id = r.run_id
    left join cash_ledger l on l.user_id = t.user_id and l.run_id = t.run_id and l.trade_id = t.trade_id
   group by r.user_id, r.run_id, r.scale, t.trade_id, t.side, t.quantity, t.price, t.fees, t.logical_time
  having count(l.entry_id) <> 1
      or sum(l.amount) <> case t.side when 'BUY' then -round(t.quantity * t.price, r.scale) else round(t.quantity * t.price, r.scale) end - t.fees
      or max(l.logical_time) is distinct from t.logical_time
  union all
  select c.user_id, c.run_id, 'cash_below_zero', format('entry_id=%s cash=%s', c.entry_id, c.cash)
    from (select l.user_id, l.run_id, l.entry_id,
                 sum(l.amount) over (partition by l.user_id, l.run_id order by l.entry_id) as cash
            from cash_ledger l
            join engine.accounted_run r on r.user_id = l.user_id and r.run_id = l.run_id) c
   where c.cash < 0;

-- What trades cost and brought must be what positions carry and have realized.
create view engine.violation_position as
  select coalesce(p.user_id, t.user_id) as user_id, coalesce(p.run_id, t.run_id) as run_id,
         'position_disagrees_with_trades' as rule,
         format('symbol=%s quantity=%s traded=%s', coalesce(p.symbol, t.symbol), p.quantity, t.quantity) as detail
    from (select p.* from paper_position p
            join engine.accounted_run r on r.user_id = p.user_id and r.run_id = p.run_id) p
    full join (select t.user_id, t.run_id, t.symbol,
                      sum(case t.side when 'BUY' then t.quantity else -t.quantity end) as quantity,
                      sum(case t.side when 'BUY' then -1 else 1 end * round(t.quantity * t.price, r.scale) - t.fees) as cash
                 from paper_trade t
                 join engine.accounted_run r on r.user_id = t.user_id and r.run_id = t.run_id
                group by t.user_id, t.run_id, t.symbol) t
      on t.user_id = p.user_id and t.run_id = p.run_id and t.symbol = p.symbol
   where coalesce(p.quantity, 0) <> coalesce(t.quantity, 0)
      or coalesce(p.realized_pnl - p.cost_basis, 0) <> coalesce(t.cash, 0)
      or p.quantity < 0
      or (p.quantity = 0 and p.cost_basis <> 0);

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
    from mtm_ledger m
    join engine.accounted_run r on r.user_id = m.user_id and r.run_id = m.run_id
    join paper_equity_curve e on e.user_id = m.user_id and e.run_id = m.run_id and e.logical_time = m.logical_time
   where e.market_value <> m.market_value
  union all
  select e.user_id, e.run_id, 'equity_cash_disagrees_with_ledger', 'logical_time=' || e.logical_time
    from (select b.user_id, b.run_id, b.logical_time, b.cash,
                 sum(b.amount) over (partition by b.user_id, b.run_id order by b.logical_time, b.cash is not null) as ledger
            from (select l.user_id, l.run_id, coalesce(l.logical_time, '-infinity') as logical_time, l.amount, null::numeric as cash
                    from cash_ledger l
                  union all
                  select c.user_id, c.run_id, c.logical_time, 0, c.cash from paper_equity_curve c) b) e
    join engine.accounted_run r on r.user_id = e.user_id and r.run_id = e.run_id
   where e.cash <> e.ledger
  union all
  select r.user_id, r.run_id, 'last_tick_is_not_whole', 'last_logical_time=' || r.last_logical_time
    from engine.accounted_run r
   where r.last_logical_time is not null
     and not (exists (select from mtm_ledger m where m.user_id = r.user_id and m.run_id = r.run_id and m.logical_time = r.last_logical_time)
          and exists (select from paper_equity_curve e where e.user_id = r.user_id and e.run_id = r.run_id and e.logical_time = r.last_logical_time));

-- Slots 0 .. next_slot - 1 have ended, once each, and an executed one names its filled order.
create view engine.violation_slot as
  select r.user_id, r.run_id, 'sip_slots_disagree_with_events' as rule,
         format('sip_id=%s next_slot=%s events=%s', p.sip_id, p.next_slot, count(e.event_key)) as detail
    from engine.accounted_run r
    join sip_plan p on p.user_id = r.user_id and p.run_id = r.run_id
    left join event_ledger e on e.user_id = p.user_id and e.run_id = p.run_id
     and e.event_type like 'SIP\_%' and split_part(e.event_key, ':', 1) = p.sip_id::text
   group by r.user_id, r.run_id, p.sip_id, p.next_slot having count(e.event_key) <> p.next_slot
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
    from event_ledger e
    join engine.accounted_run r on r.user_id = e.user_id and r.run_id = e.run_id
    left join paper_order o on o.user_id = e.user_id and o.run_id = e.run_id and o.order_id = (e.payload ->> 'order_id')::bigint
     and o.source = 'SIP' and o.status = 'FILLED' and o.logical_time = e.logical_time
   where e.event_type = 'SIP_EXECUTED' and o.order_id is null
  union all
  select o.user_id, o.run_id, 'sip_order_without_executed_slot', 'order_id=' || o.order_id
    from paper_order o
    join engine.accounted_run r on r.user_id = o.user_id and r.run_id = o.run_id
   where o.source = 'SIP'
     and not exists (select from event_ledger e where e.user_id = o.user_id and e.run_id = o.run_id
                        and e.event_type = 'SIP_EXECUTED' and (e.payload ->> 'order_id')::bigint = o.order_id);

create or replace view violations (user_id, run_id, rule, detail) as
  select user_id, run_id, rule, detail from engine.violation_structure
  union all select user_id, run_id, rule, detail from engine.violation_order
  union all select user_id, run_id, rule, detail from engine.violation_cash
  union all select user_id, run_id, rule, detail from engine.violation_position
  union all select user_id, run_id, rule, detail from engine.violation_mark
  union all select user_id, run_id, rule, detail from engine.violation_slot;
comment on view violations is 'Every broken invariant of every run: rule and detail. Must be empty.';
