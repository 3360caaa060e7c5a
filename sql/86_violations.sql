-- Invariants, third part: fills against bars, corporate actions, margin, and the view over all of them.
set local search_path = public, pg_temp;

create view engine.violation_action as
  select d.user_id, d.run_id, 'dividend_disagrees_with_cash' as rule, format('symbol=%s ex_date=%s amount=%s', d.symbol, d.ex_date, d.amount) as detail
    from dividend_due d
    join engine.accounted_run r on r.user_id = d.user_id and r.run_id = d.run_id
    left join cash_ledger l on l.user_id = d.user_id and l.run_id = d.run_id and l.entry_id = d.entry_id and l.cause = 'DIVIDEND'
   where (d.paid_time is not null and d.amount <> 0) <> (l.entry_id is not null) or l.amount <> d.amount or l.logical_time <> d.paid_time
  union all
  select d.user_id, d.run_id, 'dividend_disagrees_with_event', format('symbol=%s ex_date=%s', d.symbol, d.ex_date)
    from dividend_due d
    join engine.accounted_run r on r.user_id = d.user_id and r.run_id = d.run_id
    left join event_ledger v on v.user_id = d.user_id and v.run_id = d.run_id and v.event_type = 'DIVIDEND' and v.event_key = engine.action_key(d.symbol, d.ex_date)
   where v.event_key is null or (v.payload ->> 'quantity')::numeric <> d.quantity
      or engine.value(d.quantity, (v.payload ->> 'per_unit')::numeric, r.scale) <> d.amount
  union all
  select l.user_id, l.run_id, 'cash_without_action', format('entry_id=%s cause=%s', l.entry_id, l.cause)
    from cash_ledger l
    join engine.accounted_run r on r.user_id = l.user_id and r.run_id = l.run_id
    left join dividend_due d on d.user_id = l.user_id and d.run_id = l.run_id and d.entry_id = l.entry_id
    left join event_ledger v on v.user_id = l.user_id and v.run_id = l.run_id and v.event_type = 'SPLIT' and v.payload -> 'entry_id' = to_jsonb(l.entry_id)
   where l.cause = 'DIVIDEND' and d.entry_id is null
      or l.cause = 'CASH_IN_LIEU' and (v.event_key is null or (v.payload ->> 'cash_in_lieu')::numeric <> l.amount)
  union all
  select o.user_id, o.run_id, 'reinvestment_without_dividend', 'order_id=' || o.order_id
    from paper_order o
    join engine.accounted_run r on r.user_id = o.user_id and r.run_id = o.run_id
    left join (select distinct d.user_id, d.run_id, d.symbol, d.paid_time from dividend_due d) d
      on d.user_id = o.user_id and d.run_id = o.run_id and d.symbol = o.symbol and d.paid_time = o.logical_time
   where o.source = 'DIVIDEND' and d.symbol is null
  union all
  select v.user_id, v.run_id, 'split_disagrees_with_ratio', 'event_key=' || v.event_key
    from event_ledger v
    join engine.accounted_run r on r.user_id = v.user_id and r.run_id = v.run_id
   cross join lateral (select (v.payload ->> 'quantity')::numeric as old, (v.payload ->> 'units')::numeric as units,
                              (v.payload ->> 'numerator')::int as numerator, (v.payload ->> 'denominator')::int as denominator) p
   cross join lateral (select abs(p.old) * p.numerator as exact, case when p.old < 0 then -1 else 1 end * (p.old + p.units) * p.denominator as left_over) q
   where v.event_type = 'SPLIT'
     -- down to the step of that time, which is not stored but divides what is left over; or to the most that can be held
     and (q.left_over between 0 and q.exact and (q.left_over = 0 or q.exact < 2 * q.left_over or abs(p.old + p.units) > 5e11)) is not true;

-- What a margin account has been charged and what has been closed for it; a cash account has none of it.
create view engine.violation_margin as
  select l.user_id, l.run_id, 'margin_charge_is_not_a_charge' as rule, format('entry_id=%s cause=%s amount=%s', l.entry_id, l.cause, l.amount) as detail
    from cash_ledger l
    join engine.accounted_run r on r.user_id = l.user_id and r.run_id = l.run_id
   where l.cause in ('BORROW_FEE', 'MARGIN_INTEREST') and (l.amount > 0 or l.trade_id is not null or r.maintenance_margin is null)
  union all
  select v.user_id, v.run_id, 'margin_call_without_need', 'event_key=' || v.event_key
    from event_ledger v
    join engine.accounted_run r on r.user_id = v.user_id and r.run_id = v.run_id
   where v.event_type = 'MARGIN_CALL'
     and case when jsonb_typeof(v.payload -> 'equity') = 'number' and jsonb_typeof(v.payload -> 'exposure') = 'number'
              then (v.payload ->> 'equity')::numeric < r.maintenance_margin * (v.payload ->> 'exposure')::numeric end is not true
  union all
  select o.user_id, o.run_id, 'margin_order_without_its_call', 'order_id=' || o.order_id
    from paper_order o
    join engine.accounted_run r on r.user_id = o.user_id and r.run_id = o.run_id
    left join event_ledger v on v.user_id = o.user_id and v.run_id = o.run_id and v.event_type = 'MARGIN_CALL' and v.logical_time = o.logical_time
   where o.source = 'MARGIN' and (v.event_key is null or o.status <> 'FILLED');

-- Orders on bars, as the bars are now: who corrects a bar sees here which fills no longer fit it. The step that an
-- instrument had at a fill is not stored, so what it floors is checked without it.
create view engine.violation_fill as
  with fill as (
    select t.user_id, t.run_id, t.trade_id, t.symbol, t.logical_time, t.price, t.quantity, b.low, b.high, b.volume, s.participation
      from paper_trade t
      join engine.accounted_run r on r.user_id = t.user_id and r.run_id = t.run_id
      join strategy_run s on s.user_id = t.user_id and s.run_id = t.run_id
      join paper_order o on o.user_id = t.user_id and o.run_id = t.run_id and o.order_id = t.order_id
      join price_bar b on b.feed = s.feed and b.symbol = t.symbol and b.logical_time = t.logical_time
     where engine.meets_bars(o.source)
  )
  select f.user_id, f.run_id, 'fill_outside_bar' as rule, format('trade_id=%s price=%s low=%s high=%s', f.trade_id, f.price, f.low, f.high) as detail
    from fill f where f.price < f.low or f.price > f.high
  union all
  select f.user_id, f.run_id, 'fills_above_participation', format('symbol=%s logical_time=%s traded=%s', f.symbol, f.logical_time, sum(f.quantity))
    from fill f
   group by f.user_id, f.run_id, f.symbol, f.logical_time, f.volume, f.participation
  having sum(f.quantity) > f.participation * f.volume;

-- All but those that look at bars.
create view engine.violation_ledger as
  select v.user_id, v.run_id, v.rule, v.detail from engine.violation_structure v
  union all select v.user_id, v.run_id, v.rule, v.detail from engine.violation_order v
  union all select v.user_id, v.run_id, v.rule, v.detail from engine.violation_cash v
  union all select v.user_id, v.run_id, v.rule, v.detail from engine.violation_fee v
  union all select v.user_id, v.run_id, v.rule, v.detail from engine.violation_position v
  union all select v.user_id, v.run_id, v.rule, v.detail from engine.violation_mark v
  union all select v.user_id, v.run_id, v.rule, v.detail from engine.violation_slot v
  union all select v.user_id, v.run_id, v.rule, v.detail from engine.violation_action v
  union all select v.user_id, v.run_id, v.rule, v.detail from engine.violation_margin v;

create view engine.violation as
  select v.user_id, v.run_id, v.rule, v.detail from engine.violation_ledger v
  union all select v.user_id, v.run_id, v.rule, v.detail from engine.violation_fill v;

-- Of one run, each table by its key. No nested loops: on a run that was written a moment ago, and of which the planner
-- knows nothing yet, they are quadratic. Bars are another matter: a run's fills are few of a feed's.
create function engine.ledger_violations(p_user_id bigint, p_run_id bigint) returns table (rule text, detail text)
language plpgsql stable set enable_nestloop = off set plan_cache_mode = force_custom_plan as $$
begin
  return query select v.rule, v.detail from engine.violation_ledger v where v.user_id = p_user_id and v.run_id = p_run_id;
end $$;

-- The public view stands on a function and not on the views above, so that rebuilding them takes away neither its grants
-- nor what others have built on it; and the function has settings: these joins are of whole tables, and a planner without
-- statistics would loop over them. Who does not read all gets what concerns his own runs.
create or replace function all_violations() returns table (user_id bigint, run_id bigint, rule text, detail text)
language plpgsql stable security definer set search_path = public, pg_temp set enable_nestloop = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  return query select v.user_id, v.run_id, v.rule, v.detail from engine.violation v
                where engine.reads_all() or v.user_id = any (engine.own_user_ids());
end $$;
comment on function all_violations is 'all_violations() → (user_id, run_id, rule, detail): what the view violations shows.';

create or replace view violations (user_id, run_id, rule, detail) with (security_invoker = true) as
  select v.user_id, v.run_id, v.rule, v.detail from all_violations() v;
comment on view violations is 'Every broken invariant of every run: rule and detail. Must be empty. Who does not read all runs gets his own.';
comment on column violations.user_id is 'The user whose run it is.';
comment on column violations.run_id is 'The run.';
comment on column violations.rule is 'The invariant, by its name.';
comment on column violations.detail is 'What is wrong, with the keys of the rows.';

-- Of one run alone: its key is known to the planner and goes down into every rule.
create or replace function run_violations(p_user_id bigint, p_run_id bigint) returns table (rule text, detail text)
language plpgsql stable security definer set search_path = public, pg_temp set plan_cache_mode = force_custom_plan set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id), engine.require_run(p_user_id, p_run_id);
  return query select v.rule, v.detail from engine.ledger_violations(p_user_id, p_run_id) v
               union all select v.rule, v.detail from engine.violation_fill v where v.user_id = p_user_id and v.run_id = p_run_id;
end $$;
comment on function run_violations is 'run_violations(user, run) → (rule, detail): the broken invariants of this run alone, at the cost of this run alone. Must be empty. TE204.';
