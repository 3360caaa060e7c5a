-- The rows of explain_order: bars folded into spans, and the deeds between them.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

create type engine.reason as (logical_time timestamptz, rank int, code text, detail jsonb);

create function engine.because(p_time timestamptz, p_rank int, p_code text, p_detail jsonb) returns engine.reason
language sql immutable return row(p_time, p_rank, p_code, p_detail)::engine.reason;

-- The bars at which nothing happened to the order, folded between two at which something did: why not, how many, and for a
-- price that was not reached the bar that came nearest to it. UNSEEN: as the bar is now the order should have been met; it
-- was corrected or loaded late, or a mark had closed its time before the orders were matched.
create function engine.explain_bars(x engine.case) returns setof engine.reason
language plpgsql stable as $$
declare
  o constant paper_order := x.o;
  v_is_buy constant boolean := (x.o).side = 'BUY';
begin
  return query
  with bar as (
    select b.logical_time, b.is_live, b.is_open, b.volume, b.stop_price, b.high, b.low, v.code,
           count(*) filter (where v.code is null) over (order by b.logical_time) as part,
           case when b.is_live and v_is_buy then o.limit_price - b.through when b.is_live then o.limit_price + b.through else b.stop_price end as wanted,
           -- a buy waits for a low at its limit, or a high at its stop; a sale mirrors that
           case when b.is_live = v_is_buy then b.low else b.high end as nearest
      from engine.judged_bars(x, x.upto) b
      left join (select distinct t.logical_time from paper_trade t
                  where t.user_id = o.user_id and t.run_id = o.run_id and t.order_id = o.order_id) t on t.logical_time = b.logical_time
     cross join lateral (select case
         when t.logical_time is not null or b.logical_time = o.triggered_time
           or b.logical_time = o.closed_time and o.status in ('FILLED', 'REJECTED') then null
         when not b.is_met and b.is_open then 'WAITING_PRICE'
         when not b.is_met then 'SESSION_CLOSED'
         when b.volume_left = 0 and o.time_in_force not in ('IOC', 'FOK') then 'VOLUME_CAP'
         when b.logical_time = o.closed_time then null
         else 'UNSEEN' end as code offset 0) v
  ), span as (
    select min(b.logical_time) as since, max(b.logical_time) as until, b.code, count(*) as bars,
           (array_agg(array[b.wanted, b.nearest, abs(b.nearest - b.wanted)] order by abs(b.nearest - b.wanted), b.logical_time)
              filter (where b.code = 'WAITING_PRICE')) as near,
           sum(b.volume) filter (where b.code = 'VOLUME_CAP') as volume
      from bar b where b.code is not null group by b.part, b.code
  )
  select s.since, 2, s.code, jsonb_strip_nulls(jsonb_build_object('from', engine.iso(s.since), 'to', engine.iso(s.until), 'bars', s.bars,
           'wanted_price', trim_scale(s.near[1][1]), 'nearest_price', trim_scale(s.near[1][2]), 'distance', trim_scale(s.near[1][3]),
           'volume', trim_scale(s.volume), 'participation', case when s.code = 'VOLUME_CAP' then trim_scale((x.terms).participation) end))
    from span s
  union all
  select min(m.logical_time), 3, 'RATCHETED', jsonb_strip_nulls(jsonb_build_object('from', engine.iso(min(m.logical_time)), 'to', engine.iso(max(m.logical_time)),
           'bars', count(*), 'first_stop', trim_scale((array_agg(m.stop_price order by m.logical_time))[1]),
           'last_stop', trim_scale((array_agg(m.stop_after order by m.logical_time desc))[1])))
    from (select b.*, engine.trailed(o.side, b.stop_price, o.trail_amount, o.trail_percent, b.high, b.low) as stop_after from bar b
           where o.order_type = 'TRAILING_STOP' and b.is_open and not b.is_live and b.code is not null) m
   where m.stop_after is distinct from m.stop_price
  having count(*) > 0;
end $$;

-- Has p traded before o, in the bar time of both? What a dividend buys comes before all orders, what plans and margin calls
-- trade after them.
create function engine.is_before(p paper_order, o paper_order) returns boolean
language sql immutable
return (p).source = 'DIVIDEND' or engine.meets_bars((p).source)
  and (engine.fill_phase((p).order_type, (p).side, num_nonnulls((p).oco_id, (p).parent_order_id) > 0), (p).order_id)
    < (engine.fill_phase((o).order_type, (o).side, num_nonnulls((o).oco_id, (o).parent_order_id) > 0), (o).order_id);

-- What the order would have traded on the bar that rejected it, and what there was for it: what the run owned before the
-- bar and what earlier phases of it brought.
create function engine.explain_rejection(x engine.case) returns jsonb
language plpgsql stable as $$
declare
  o constant paper_order := x.o;
  c engine.context;
  m engine.match;
  e engine.entry;
  v_fees numeric;
  v_cash numeric;
  v_held numeric;
begin
  select b.logical_time, b.price, not b.is_live, b.stop_price, case when b.is_open then b.open end, b.low, b.high, b.volume
    into m.logical_time, m.price, m.is_trigger, m.stop_price, m.open, m.low, m.high, m.volume
    from engine.judged_bars(x, o.closed_time) b where b.logical_time = o.closed_time;
  m.order_id := o.order_id;
  m.symbol := o.symbol;
  m.side := o.side;
  m.order_type := o.order_type;
  m.time_in_force := o.time_in_force;
  m.quantity := o.quantity;
  m.filled_quantity := 0;
  c.terms := x.terms;
  e := engine.wanted(m, x.terms, engine.volume_left(c, m));
  select coalesce(sum(l.amount), 0) into v_cash
    from cash_ledger l
    left join paper_trade t on t.user_id = l.user_id and t.run_id = l.run_id and t.trade_id = l.trade_id
    left join paper_order p on p.user_id = t.user_id and p.run_id = t.run_id and p.order_id = t.order_id
   where l.user_id = o.user_id and l.run_id = o.run_id
     and (coalesce(l.logical_time < o.closed_time, true) or l.logical_time = o.closed_time and (l.trade_id is null or engine.is_before(p, o)));
  select coalesce(sum(case t.side when 'BUY' then t.quantity else -t.quantity end), 0) into v_held
    from paper_trade t
    join paper_order p on p.user_id = t.user_id and p.run_id = t.run_id and p.order_id = t.order_id
   where t.user_id = o.user_id and t.run_id = o.run_id and t.symbol = o.symbol
     and (t.logical_time < o.closed_time or t.logical_time = o.closed_time and engine.is_before(p, o));
  v_held := v_held + (select coalesce(sum((v.payload ->> 'units')::numeric), 0) from event_ledger v
                       where v.user_id = o.user_id and v.run_id = o.run_id and v.event_type = 'SPLIT' and v.payload ->> 'symbol' = o.symbol
                         and v.logical_time <= o.closed_time);
  if (x.terms).fee_schedule is not null then
    v_fees := engine.fee_sum(engine.fill_fees(engine.view_run(o.user_id, o.run_id), o.order_id, o.symbol, o.side, o.closed_time, e.quantity, e.price));
  end if;
  return jsonb_strip_nulls(jsonb_build_object('quantity', trim_scale(e.quantity), 'price', trim_scale(e.price), 'fees', trim_scale(v_fees),
    'value', trim_scale(engine.value(e.quantity, e.price, engine.minor_unit((x.terms).currency))), 'cash', trim_scale(v_cash), 'held', trim_scale(v_held)));
end $$;

-- The orders that the event of a slot names.
create function engine.orders_in(p_payload jsonb) returns bigint[]
language sql immutable
return array(select q.n::bigint from jsonb_array_elements_text(coalesce(p_payload -> 'orders', jsonb_build_array(p_payload -> 'order_id'))) q (n) where q.n is not null);

-- How the order began.
create function engine.explain_start(x engine.case) returns engine.reason
language plpgsql stable as $$
declare
  o constant paper_order := x.o;
begin
  if engine.is_settled_at_once(o) and o.status = 'REJECTED' then
    return engine.because(o.logical_time, 0, 'REJECTED', jsonb_build_object('reason', o.reject_reason, 'source', o.source, 'quantity', trim_scale(o.quantity)));
  end if;
  return engine.because(o.logical_time, 0, 'ACCEPTED', jsonb_strip_nulls(jsonb_build_object('source', o.source, 'time_in_force', o.time_in_force,
    'until', engine.iso(case when not engine.is_settled_at_once(o) then x.deadline end), 'stop_price', trim_scale(o.stop_price),
    'limit_price', trim_scale(o.limit_price), 'reserve_price', trim_scale(o.reserve_price), 'replaces_order_id', o.replaces_order_id,
    'parent_order_id', o.parent_order_id, 'oco_id', o.oco_id, 'slots', (
      select jsonb_agg(v.event_key order by v.event_key collate "C") from event_ledger v
       where v.user_id = o.user_id and v.run_id = o.run_id and v.logical_time = o.logical_time
         and (o.source = 'SIP' and v.event_type = 'SIP_EXECUTED' and o.order_id = any (engine.orders_in(v.payload))
              or o.source = 'REBALANCE' and v.event_type = 'REBALANCED')))));
end $$;

-- What happened to it: its trigger, its trades, the exits they made, and how what others traded changed what it wants.
create function engine.explain_deeds(x engine.case) returns setof engine.reason
language plpgsql stable as $$
declare
  o constant paper_order := x.o;
begin
  if o.triggered_time is not null then
    return next engine.because(o.triggered_time, 4, 'TRIGGERED', jsonb_build_object('stop_price', trim_scale(x.stop_price)));
  end if;
  return query
    select t.logical_time::timestamptz, 6, case when t.filled = o.quantity then 'FILLED' else 'PARTIALLY_FILLED' end,
           jsonb_build_object('trade_id', t.trade_id, 'quantity', trim_scale(t.quantity), 'price', trim_scale(t.price), 'fees', trim_scale(t.fees),
                              'filled_quantity', trim_scale(t.filled))
      from (select t.*, sum(t.quantity) over (order by t.trade_id) as filled from paper_trade t
             where t.user_id = o.user_id and t.run_id = o.run_id and t.order_id = o.order_id) t
    union all
    select g.logical_time, 5, case when g.quantity < 0 then 'REDUCED' else 'GREW' end,
           jsonb_build_object('by_order_id', g.order_id, 'quantity', trim_scale(g.quantity))
      from engine.quantity_changes(o) g
    union all
    select min(e.logical_time)::timestamptz, 7, 'EXITS_MADE', jsonb_build_object('order_ids', jsonb_agg(e.order_id order by e.order_id))
      from paper_order e
     where e.user_id = o.user_id and e.run_id = o.run_id and e.parent_order_id = o.order_id and e.source = 'BRACKET'
     group by e.logical_time;
end $$;

-- How it ended, or what it waits for.
create function engine.explain_end(x engine.case) returns engine.reason
language plpgsql stable as $$
declare
  o constant paper_order := x.o;
  v_by text;
begin
  if o.status = 'EXPIRED' then
    return engine.because(o.closed_time, 8, 'EXPIRED', jsonb_build_object('until', engine.iso(x.deadline)));
  elsif o.status = 'REJECTED' and not engine.is_settled_at_once(o) then
    return engine.because(o.closed_time, 8, 'REJECTED', jsonb_build_object('reason', o.reject_reason)
      || case when o.reject_reason = 'SESSION_CLOSED' then '{}' else engine.explain_rejection(x) end);
  elsif o.status = 'CANCELED' then
    v_by := engine.cancel_cause(x);
    return engine.because(o.closed_time, 8, 'CANCELED', jsonb_strip_nulls(jsonb_build_object('by', v_by, 'left', trim_scale(o.quantity - o.filled_quantity),
      'order_id', case v_by
        when 'REPLACED' then (select max(q.order_id) from paper_order q where q.user_id = o.user_id and q.run_id = o.run_id and q.replaces_order_id = o.order_id)
        when 'PAIR' then (select max(q.order_id) from paper_order q where q.user_id = o.user_id and q.run_id = o.run_id and q.oco_id = o.oco_id
                             and q.order_id <> o.order_id and q.closed_time = o.closed_time) end,
      'reason', case when v_by = 'RUN_END' then (x.terms).status_reason end,
      'was_reached', case when v_by = 'TIME_IN_FORCE' then (select b.price is not null from engine.judged_bars(x, o.closed_time) b where b.logical_time = o.closed_time) end)));
  elsif o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED') then
    return engine.because(x.last_logical_time, 9, 'WAITING', jsonb_strip_nulls(jsonb_build_object('status', o.status, 'left', trim_scale(o.quantity - o.filled_quantity),
      'stop_price', trim_scale(x.stop_price), 'until', engine.iso(x.deadline))));
  end if;
  return null;
end $$;

create function engine.explain_order(p_user_id bigint, p_run_id bigint, p_order_id bigint)
returns table (logical_time timestamptz, code text, detail jsonb)
language plpgsql stable as $$
declare
  x engine.case;
begin
  perform engine.require_run(p_user_id, p_run_id);
  x := engine.case_of(p_user_id, p_run_id, p_order_id);
  return query
    select r.logical_time, r.code, r.detail
      from (select * from engine.explain_start(x)
            union all select * from engine.explain_deeds(x)
            union all select * from engine.explain_bars(x) where not engine.is_settled_at_once(x.o)
            union all select * from engine.explain_end(x)) r
     where r.code is not null
     order by r.logical_time nulls first, r.rank, r.detail ->> 'trade_id' collate "C", r.code collate "C", r.detail::text collate "C";
end $$;
