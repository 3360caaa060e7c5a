-- Why did it not fill? What became of an order, and every bar that it met, judged by the rules that the matcher follows
-- (53_fill_price, 56_volume, 57_fill), on the bars as they are now. A split changes an order's terms and nothing keeps the
-- old ones: the bars before the last split of its life are left out. Nothing of this is stored.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- The splits that have changed an order: those of its symbol while it was open.
create function engine.splits_of(o paper_order) returns table (logical_time timestamptz, numerator int, denominator int)
language plpgsql stable as $$
begin
  return query
    select v.logical_time::timestamptz, (v.payload ->> 'numerator')::int, (v.payload ->> 'denominator')::int
      from event_ledger v
     where v.user_id = o.user_id and v.run_id = o.run_id and v.event_type = 'SPLIT' and v.payload ->> 'symbol' = o.symbol
       and (v.logical_time > o.logical_time or o.logical_time is null) and (v.logical_time <= o.closed_time or o.closed_time is null);
end $$;

-- A trailing order with the stop that it was accepted with; after splits, with the one that it had at the last of them,
-- from the bars until then. The order has the trail of p_upto.
create function engine.restarted(p_feed text, p_calendar text, p_accepted timestamptz, p_upto timestamptz, o paper_order) returns paper_order
language plpgsql stable as $$
declare
  v record;
  b record;
  v_since timestamptz := p_accepted;
begin
  for v in select s.* from engine.splits_of(o) s where s.logical_time <= p_upto order by s.logical_time desc loop
    o.trail_amount := engine.split_price(o.trail_amount, v.denominator, v.numerator, null, false);
  end loop;
  o.stop_price := engine.first_stop(p_feed, o);
  o.seen_time := null;
  for v in select s.* from engine.splits_of(o) s where s.logical_time <= p_upto order by s.logical_time loop
    select max(x.logical_time) as logical_time, max(x.high) as high, min(x.low) as low into b
      from price_bar x
     cross join lateral engine.session_by(p_calendar, x.logical_time) n
     where x.feed = p_feed and x.symbol = o.symbol and x.logical_time > v_since and x.logical_time < v.logical_time and n.open_at < x.logical_time;
    o.stop_price := engine.split_price(engine.trailed(o.side, o.stop_price, o.trail_amount, o.trail_percent, b.high, b.low),
                                       v.numerator, v.denominator, null, o.side = 'BUY');
    o.trail_amount := engine.split_price(o.trail_amount, v.numerator, v.denominator, null, false);
    o.seen_time := coalesce(b.logical_time, o.seen_time);
    v_since := v.logical_time - interval '1 microsecond';
  end loop;
  return o;
end $$;

-- An order in its run, as the questions below need it: accepted and until bound its life, after is where its first bar
-- may lie; o has the stop with which it was accepted.
create type engine.case as (
  terms public.strategy_run, calendar text, o public.paper_order, stop_price numeric, last_logical_time timestamptz,
  accepted timestamptz, after timestamptz, deadline timestamptz, upto timestamptz
);

-- Every bar of the order's symbol after x.after up to p_upto, as the matcher sees it. is_live: no stop, or triggered on an
-- earlier bar. volume_left: what the bar left to the order beyond what it took, null if that is not bounded.
create function engine.judged_bars(x engine.case, p_upto timestamptz)
returns table (logical_time timestamptz, open numeric, high numeric, low numeric, volume numeric, is_open boolean, is_live boolean,
               stop_price numeric, is_met boolean, price numeric, through numeric, volume_left numeric)
language sql stable
begin atomic
  select b.logical_time, b.open, b.high, b.low, b.volume, b.open_at < b.logical_time, l.is_live, b.stop_price,
         coalesce(engine.is_met((x).o, a.feed, (x).accepted, a.through, l.is_live, b.stop_price, b.open_at, b.logical_time, b.open, b.high, b.low), false),
         case when b.open_at < b.logical_time then
           engine.bar_price((x).o, a.feed, (x).accepted, a.through, l.is_live, b.stop_price, b.open_at, b.logical_time, b.open, b.high, b.low, b.close) end,
         a.through, engine.volume_left(((x).terms).participation, b.volume, a.quantity_step, u.quantity)
    from (select ((x).terms).feed as feed, engine.penetration(((x).terms).penetration_ticks, ((x).o).symbol) as through,
                 (select i.quantity_step from instrument i where i.symbol = ((x).o).symbol) as quantity_step offset 0) a
   cross join lateral engine.stopped_bars(a.feed, (x).calendar, (x).o, (x).after, p_upto) b
   cross join lateral (select not engine.is_stop(((x).o).order_type) or coalesce(b.logical_time > ((x).o).triggered_time, false) as is_live offset 0) l
    left join engine.traded_volume(((x).o).user_id, ((x).o).run_id, ((x).o).symbol, (x).after, p_upto) u
      on ((x).terms).participation is not null and u.logical_time = b.logical_time;
end;

-- Did an entry fill at the open of this bar? Then its exits have the whole bar before them.
create function engine.is_filled_at_open(x engine.case, p_time timestamptz) returns boolean
language plpgsql stable as $$
begin
  return coalesce((select b.price = b.open from engine.judged_bars(x, p_time) b where b.logical_time = p_time), false);
end $$;

create function engine.case_of(p_user_id bigint, p_run_id bigint, p_order_id bigint) returns engine.case
language plpgsql stable as $$
declare
  x engine.case;
  o paper_order;
  v_first timestamptz;
  v_reached timestamptz;
begin
  select r, f.calendar, s.first_logical_time, s.last_logical_time, greatest(s.last_logical_time, s.step_logical_time)
    into x.terms, x.calendar, v_first, x.last_logical_time, v_reached
    from strategy_run r
    join feed f on f.feed = r.feed
    left join engine_state s on s.user_id = r.user_id and s.run_id = r.run_id
   where r.user_id = p_user_id and r.run_id = p_run_id;
  select * into o from paper_order p where p.user_id = p_user_id and p.run_id = p_run_id and p.order_id = p_order_id;
  perform engine.require(found, format('argument=order_id value=%s must_be=an_order_of_the_run', p_order_id));
  x.stop_price := o.stop_price;
  x.accepted := coalesce(o.logical_time, v_first - interval '1 microsecond');
  if o.order_type = 'TRAILING_STOP' then
    o := engine.restarted((x.terms).feed, x.calendar, x.accepted, 'infinity', o);
  end if;
  x.o := o;
  x.after := x.accepted;
  if o.source = 'BRACKET' and engine.is_filled_at_open(engine.case_of(p_user_id, p_run_id, o.parent_order_id), o.logical_time) then
    x.after := o.logical_time - interval '1 microsecond';
  end if;
  x.after := greatest(x.after, (select max(s.logical_time) - interval '1 microsecond' from engine.splits_of(o) s));
  x.deadline := (select d.at from engine.deadline(x.calendar, x.accepted, o.time_in_force, o.good_till) d);
  x.upto := case when o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED') then v_reached else o.closed_time end;
  if x.deadline < x.upto then
    x.upto := x.deadline;
  end if;
  return x;
end $$;

-- Accepted or rejected in the moment it was placed, or made by the engine at the close: no bar has anything to say to it.
create function engine.is_settled_at_once(o paper_order) returns boolean
language sql immutable
return not engine.meets_bars((o).source) or (o).source <> 'BRACKET' and (o).status = 'REJECTED' and (o).closed_time is not distinct from (o).logical_time;

-- A canceled order: was it a bar that ended it, an IOC or FOK order's first one, or one whose fill cash, holdings or a limit
-- no longer allowed after a part had been filled?
create function engine.ending_bar(x engine.case) returns text
language plpgsql stable as $$
begin
  return (select case when b.is_live and (x.o).time_in_force in ('IOC', 'FOK') or b.logical_time = (x.o).triggered_time then 'TIME_IN_FORCE'
                      when coalesce(b.volume_left > 0, true) then 'REFUSED' end
            from engine.judged_bars(x, (x.o).closed_time) b
           where b.logical_time = (x.o).closed_time and b.is_met
             and ((x.o).time_in_force in ('IOC', 'FOK')
                  or (x.o).filled_quantity > 0
                     and not exists (select from paper_trade t where t.user_id = (x.o).user_id and t.run_id = (x.o).run_id
                                        and t.order_id = (x.o).order_id and t.logical_time = (x.o).closed_time)));
end $$;

-- Has a split left nothing of what was open of an order? A price of it that has become too high stands at the top, and counts as such again.
create function engine.is_split_away(o paper_order, p_numerator int, p_denominator int) returns boolean
language sql stable
return (select engine.units_after_split(o, p_numerator, p_denominator, i.quantity_step) = 0 from instrument i where i.symbol = (o).symbol);

-- Who canceled a canceled order. A cancel by hand after the last tick of a run looks like that of the run's end; then the
-- answer is RUN_END.
create function engine.cancel_cause(x engine.case) returns text
language plpgsql stable as $$
declare
  o paper_order := x.o;
  p paper_order;
begin
  if exists (select from paper_order q where q.user_id = o.user_id and q.run_id = o.run_id and q.replaces_order_id = o.order_id
                and not engine.is_settled_at_once(q)) then
    return 'REPLACED';
  end if;
  if exists (select from engine.splits_of(o) s where s.logical_time = o.closed_time and engine.is_split_away(o, s.numerator, s.denominator)) then
    return 'SPLIT';
  end if;
  for p in select q.* from paper_order q
            where q.user_id = o.user_id and q.run_id = o.run_id and q.oco_id = o.oco_id and q.order_id <> o.order_id
              and q.closed_time = o.closed_time order by q.order_id
  loop
    if p.status in ('FILLED', 'REJECTED') or p.status = 'CANCELED' and engine.ending_bar(engine.case_of(p.user_id, p.run_id, p.order_id)) is not null then
      return 'PAIR';
    end if;
  end loop;
  return coalesce(engine.ending_bar(x),
    case when (x.terms).status <> 'RUNNING' and o.closed_time is not distinct from x.last_logical_time then 'RUN_END' else 'USER' end);
end $$;

-- What other orders' trades did to the quantity of an order while it was open: one of a pair loses what the other fills
-- and stays open after; the exits of a bracket grow with their entry, as long as none of them has closed.
create function engine.quantity_changes(o paper_order) returns table (logical_time timestamptz, order_id bigint, quantity numeric)
language plpgsql stable as $$
begin
  if o.oco_id is null and o.parent_order_id is null then
    return;
  end if;
  return query
    select t.logical_time::timestamptz, t.order_id, -t.quantity::numeric
      from paper_order p
      join paper_trade t on t.user_id = p.user_id and t.run_id = p.run_id and t.order_id = p.order_id
     where p.user_id = o.user_id and p.run_id = o.run_id and p.oco_id = o.oco_id and p.order_id <> o.order_id
       and not (t.logical_time = p.closed_time and (p.status = 'FILLED' or p.time_in_force in ('IOC', 'FOK')))
       and (t.logical_time > o.logical_time or o.logical_time is null or t.logical_time = o.logical_time and o.source = 'BRACKET')
       and (t.logical_time <= o.closed_time or o.closed_time is null)
    union all
    select t.logical_time::timestamptz, t.order_id, t.quantity::numeric
      from paper_trade t
     where t.user_id = o.user_id and t.run_id = o.run_id and t.order_id = o.parent_order_id
       and t.logical_time > o.logical_time and (t.logical_time <= o.closed_time or o.closed_time is null)
       and not exists (select from paper_order n
                        where n.user_id = o.user_id and n.run_id = o.run_id and n.parent_order_id = o.parent_order_id and n.source = 'BRACKET'
                          and n.logical_time > o.logical_time and n.logical_time <= t.logical_time);
end $$;
