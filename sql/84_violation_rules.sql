-- Invariants, first half: structure, orders, cash, fees. Each rule is rows that must not exist. A run without an opening entry
-- was made by raw rows and is checked for structure alone.
set local search_path = public, pg_temp;

-- Accounting rules speak of these runs.
create view engine.accounted_run as
  select r.user_id, r.run_id, r.initial_cash, r.status, r.mark_policy, r.maintenance_margin, engine.minor_unit(r.currency) as scale,
         s.cash, s.first_logical_time, s.last_logical_time, greatest(s.last_logical_time, s.step_logical_time) as reached
    from strategy_run r
    join engine_state s on s.user_id = r.user_id and s.run_id = r.run_id
   where exists (select from cash_ledger l where l.user_id = r.user_id and l.run_id = r.run_id and l.cause = 'OPENING');

create view engine.violation_structure as
  select c.user_id, c.run_id, 'row_without_run' as rule, c.source as detail
    from (select user_id, run_id, 'engine_state' as source from engine_state
          union all select user_id, run_id, 'engine_status' from engine_status
          union all select user_id, run_id, 'paper_order' from paper_order
          union all select user_id, run_id, 'paper_trade' from paper_trade
          union all select user_id, run_id, 'trade_fee' from trade_fee
          union all select user_id, run_id, 'paper_position' from paper_position
          union all select user_id, run_id, 'cash_ledger' from cash_ledger
          union all select user_id, run_id, 'mtm_ledger' from mtm_ledger
          union all select user_id, run_id, 'paper_equity_curve' from paper_equity_curve
          union all select user_id, run_id, 'event_ledger' from event_ledger
          union all select user_id, run_id, 'sip_plan' from sip_plan
          union all select user_id, run_id, 'rebalance_plan' from rebalance_plan
          union all select user_id, run_id, 'target_weight' from target_weight
          union all select user_id, run_id, 'risk_limit' from risk_limit
          union all select user_id, run_id, 'forbidden_symbol' from forbidden_symbol
          union all select user_id, run_id, 'dividend_due' from dividend_due) c
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
    from event_ledger e where e.event_type like 'SIP\_%' and e.event_type <> 'SIP_AUTO_PAUSED' or e.event_type like 'REBALANCE%'
   group by e.user_id, e.run_id, e.event_type like 'SIP\_%', e.event_key having count(*) > 1
  union all
  select d.user_id, d.run_id, 'key_stored_twice', d.source || ' ' || d.key
    from (select user_id, run_id, 'mtm_ledger' as source, logical_time::text as key from mtm_ledger
          union all select user_id, run_id, 'paper_equity_curve', logical_time::text from paper_equity_curve
          union all select user_id, run_id, 'paper_position', symbol from paper_position
          union all select user_id, run_id, 'paper_order', order_id::text from paper_order
          union all select user_id, run_id, 'client_order_id', client_order_id from paper_order where client_order_id is not null
          union all select user_id, run_id, 'paper_trade', trade_id::text from paper_trade
          union all select user_id, run_id, 'cash_ledger', entry_id::text from cash_ledger
          union all select user_id, run_id, 'opening', cause from cash_ledger where cause = 'OPENING') d
   group by d.user_id, d.run_id, d.source, d.key having count(*) > 1
  union all
  select l.user_id, l.run_id, 'account_without_state', 'state=missing'
    from cash_ledger l
    left join engine_state s on s.user_id = l.user_id and s.run_id = l.run_id
   where l.cause = 'OPENING' and s.run_id is null
  union all
  select r.user_id, r.run_id, 'ended_run_not_logged', 'status=' || r.status
    from engine.accounted_run r
    left join engine_status s on s.user_id = r.user_id and s.run_id = r.run_id and s.status = r.status
   where r.status <> 'RUNNING' and s.run_id is null
  union all
  select r.user_id, r.run_id, 'first_tick_after_last', format('first_logical_time=%s last_logical_time=%s', r.first_logical_time, r.last_logical_time)
    from engine.accounted_run r where coalesce(r.first_logical_time > r.reached, num_nonnulls(r.first_logical_time, r.last_logical_time) > 0);

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
  union all
  select t.user_id, t.run_id, 'trade_disagrees_with_order', 'trade_id=' || t.trade_id
    from paper_trade t
    join engine.accounted_run r on r.user_id = t.user_id and r.run_id = t.run_id
    join paper_order o on o.user_id = t.user_id and o.run_id = t.run_id and o.order_id = t.order_id
   where (t.symbol, t.side) is distinct from (o.symbol, o.side)
      or t.logical_time < o.logical_time
      or (o.source = 'CLIENT') = (t.logical_time = o.logical_time) and o.source <> 'BRACKET'
  union all
  select t.user_id, t.run_id, 'fill_beyond_limit', format('trade_id=%s price=%s limit_price=%s', t.trade_id, t.price, o.limit_price)
    from paper_trade t
    join engine.accounted_run r on r.user_id = t.user_id and r.run_id = t.run_id
    join paper_order o on o.user_id = t.user_id and o.run_id = t.run_id and o.order_id = t.order_id
   where (t.side = 'BUY' and t.price > o.limit_price or t.side = 'SELL' and t.price < o.limit_price)
     -- a split has changed the limit since
     and not exists (select from event_ledger v
                      where v.user_id = t.user_id and v.run_id = t.run_id and v.event_type = 'SPLIT' and v.payload ->> 'symbol' = t.symbol
                        and v.logical_time > t.logical_time and coalesce(v.logical_time <= o.closed_time, true))
  union all
  select o.user_id, o.run_id, 'order_closing_disagrees_with_status', format('order_id=%s status=%s closed_time=%s', o.order_id, o.status, o.closed_time)
    from paper_order o
    join engine.accounted_run r on r.user_id = o.user_id and r.run_id = o.run_id
   where (o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED') and o.closed_time is not null)
      or (o.status in ('FILLED', 'EXPIRED') and o.closed_time is null)
      or (o.status = 'FILLED' and o.closed_time <> (select max(t.logical_time) from paper_trade t
                                                     where t.user_id = o.user_id and t.run_id = o.run_id and t.order_id = o.order_id))
      or o.closed_time < o.logical_time
      or (o.status = 'REJECTED') <> (o.reject_reason is not null)
      or o.source not in ('CLIENT', 'BRACKET', 'SIP', 'REBALANCE', 'DIVIDEND', 'MARGIN')
  union all
  select o.user_id, o.run_id, 'order_names_no_order', format('order_id=%s named=%s', o.order_id, n.order_id)
    from paper_order o
    join engine.accounted_run r on r.user_id = o.user_id and r.run_id = o.run_id
   cross join unnest(array[o.parent_order_id, o.replaces_order_id, o.oco_id]) n (order_id)
    left join paper_order p on p.user_id = o.user_id and p.run_id = o.run_id and p.order_id = n.order_id
   where n.order_id is not null and p.order_id is null
  union all
  select o.user_id, o.run_id, 'trigger_disagrees_with_order',
         format('order_id=%s order_type=%s status=%s triggered_time=%s', o.order_id, o.order_type, o.status, o.triggered_time)
    from paper_order o
    join engine.accounted_run r on r.user_id = o.user_id and r.run_id = o.run_id
   where (o.status = 'TRIGGERED' or o.triggered_time is not null) and o.order_type in ('MARKET', 'LIMIT')
      or o.status = 'TRIGGERED' and o.triggered_time is null
      or o.triggered_time < o.logical_time
  union all
  select o.user_id, o.run_id, 'order_later_than_run', 'order_id=' || o.order_id
    from paper_order o
    join engine.accounted_run r on r.user_id = o.user_id and r.run_id = o.run_id
    left join paper_trade t on t.user_id = o.user_id and t.run_id = o.run_id and t.order_id = o.order_id
   where coalesce(greatest(o.logical_time, o.closed_time, t.logical_time) > r.reached,
                  greatest(o.logical_time, o.closed_time, t.logical_time) is not null);

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
      or sum(l.amount) <> case t.side when 'BUY' then -engine.value(t.quantity, t.price, r.scale) else engine.value(t.quantity, t.price, r.scale) end - t.fees
      or max(l.logical_time) is distinct from t.logical_time
  union all
  select c.user_id, c.run_id, 'cash_below_zero', format('entry_id=%s cash=%s', c.entry_id, c.cash)
    from (select l.user_id, l.run_id, l.entry_id,
                 sum(l.amount) over (partition by l.user_id, l.run_id order by l.entry_id) as cash
            from cash_ledger l
            join engine.accounted_run r on r.user_id = l.user_id and r.run_id = l.run_id and r.maintenance_margin is null) c
   where c.cash < 0
  union all
  select l.user_id, l.run_id, 'cash_entry_disagrees_with_cause', format('entry_id=%s cause=%s trade_id=%s', l.entry_id, l.cause, l.trade_id)
    from cash_ledger l
    join engine.accounted_run r on r.user_id = l.user_id and r.run_id = l.run_id
    left join paper_trade t on t.user_id = l.user_id and t.run_id = l.run_id and t.trade_id = l.trade_id
   where (l.cause = 'TRADE') <> (t.trade_id is not null) or (l.trade_id is not null) <> (t.trade_id is not null);

-- Of each component an order has been charged what the row that trade_fee names comes to for its fills so far, at most. Which
-- rows of the schedule and which product the instrument had then, nothing says: they may have been added or corrected since.
create view engine.violation_fee as
  with charge as (
    select t.user_id, t.run_id, t.order_id, t.trade_id, e.component, e.amount, t.value, t.quantity, r.scale, f as fee_row,
           sum(e.amount) over (partition by t.user_id, t.run_id, t.order_id, e.component order by t.trade_id) as charged,
           f.effective_from <= engine.trade_date(t.logical_time, k.time_zone) and e.fee_schedule = s.fee_schedule and e.side = t.side as is_in_force
      from (select t.user_id, t.run_id, t.order_id, t.trade_id, t.side, t.logical_time, sum(t.quantity) over w as quantity,
                   sum(engine.value(t.quantity, t.price, r.scale)) over w as value
              from paper_trade t
              join engine.accounted_run r on r.user_id = t.user_id and r.run_id = t.run_id
             where exists (select from trade_fee e where e.user_id = t.user_id and e.run_id = t.run_id)
            window w as (partition by t.user_id, t.run_id, t.order_id order by t.trade_id)) t
      join trade_fee e on e.user_id = t.user_id and e.run_id = t.run_id and e.trade_id = t.trade_id
      join engine.accounted_run r on r.user_id = t.user_id and r.run_id = t.run_id
      join strategy_run s on s.user_id = t.user_id and s.run_id = t.run_id
      join feed x on x.feed = s.feed
      join calendar k on k.calendar = x.calendar
      left join fee_schedule f on f.fee_schedule = e.fee_schedule and f.side = e.side and f.component = e.component
       and f.product = e.product and f.effective_from = e.effective_from
  ), base as (   -- of percentages: what the others have been charged
    select c.user_id, c.run_id, c.trade_id, c.component, sum(o.amount) as amount
      from charge c
      join charge o
        on o.user_id = c.user_id and o.run_id = c.run_id and o.order_id = c.order_id
       and o.trade_id <= c.trade_id and o.component = any ((c.fee_row).of_components)
     group by c.user_id, c.run_id, c.trade_id, c.component
  )
  select t.user_id, t.run_id, 'fees_disagree_with_trade' as rule,
         format('trade_id=%s fees=%s components=%s', t.trade_id, t.fees, sum(e.amount)) as detail
    from paper_trade t
    join engine.accounted_run r on r.user_id = t.user_id and r.run_id = t.run_id
    join strategy_run s on s.user_id = t.user_id and s.run_id = t.run_id
    left join trade_fee e on e.user_id = t.user_id and e.run_id = t.run_id and e.trade_id = t.trade_id
   where s.fee_schedule is not null or e.trade_id is not null
   group by t.user_id, t.run_id, t.trade_id, t.fees having t.fees <> coalesce(sum(e.amount), 0)
  union all
  select c.user_id, c.run_id, 'fees_above_schedule',
         format('trade_id=%s component=%s charged=%s due=%s', c.trade_id, c.component, c.charged, d.due)
    from charge c
    left join base b on b.user_id = c.user_id and b.run_id = c.run_id and b.trade_id = c.trade_id and b.component = c.component
   cross join lateral (select case when c.is_in_force then engine.fee_amount(c.fee_row, c.quantity,
                                case when (c.fee_row).of_components is null then c.value else coalesce(b.amount, 0) end, c.value, c.scale) else 0 end as due) d
   where (c.charged <= d.due) is not true;
