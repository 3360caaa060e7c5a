-- Which corporate actions are due, of what a run holds or may come to hold. What they do is 58_action. Reads only.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- What names an action in the event ledger; the same in every session, whatever its DateStyle.
create function engine.action_key(p_symbol text, p_ex_date date) returns text
language sql immutable
return p_symbol || ':' || extract(year from p_ex_date) || '-' || lpad(extract(month from p_ex_date)::text, 2, '0') || '-' || lpad(extract(day from p_ex_date)::text, 2, '0');

-- Symbols that the run holds or may come to hold or trade.
create function engine.symbols_of_interest(c engine.context) returns text[]
language plpgsql stable as $$
begin
  return array(
    select h.symbol from unnest(c.symbols, c.quantities) h (symbol, quantity) where h.quantity <> 0
    union select o.symbol from paper_order o
     where o.user_id = c.user_id and o.run_id = c.run_id and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED')
    union select s.symbol from unnest(c.sips) s where s.symbol is not null
    union select jsonb_object_keys(s.basket) from unnest(c.sips) s
    union select w.symbol from target_weight w where w.user_id = c.user_id and w.run_id = c.run_id);
end $$;

-- The actions that fall due after the run's last tick or step and up to p_to, each with its bar time: a split and the ex-date of a
-- dividend count from the symbol's first bar on or after the date, so that position and price change together; a
-- payment from the feed's first bar time. Dates are the market's; a bar that closes at midnight is the last of the day
-- before. A row that is loaded after its time is not applied.
create function engine.due_actions(c engine.context, p_to timestamptz)
returns table (logical_time timestamptz, ordinal int, symbol text, ex_date date)
language plpgsql stable as $$
declare
  v_after timestamptz := greatest(c.last_logical_time, c.step_logical_time, c.closed_through, c.acted_through);
begin
  if c.is_adjusted or v_after is null then
    return;
  end if;
  return query
    select b.logical_time::timestamptz, case x.action_type when 'SPLIT' then 1 else 2 end, x.symbol, x.ex_date
      from (select c.feed as feed, c.time_zone as zone, v_after as after, p_to as upto, engine.symbols_of_interest(c) as symbols offset 0) a
     cross join unnest(a.symbols) s (symbol)
      left join lateral (select p.logical_time from price_bar p
                          where p.feed = a.feed and p.symbol = s.symbol and p.logical_time <= a.after
                          order by p.logical_time desc limit 1) p on true
      join corporate_action x on x.symbol = s.symbol and x.ex_date <= (a.upto at time zone a.zone)::date
       and x.ex_date >= coalesce((p.logical_time at time zone a.zone)::date, '-infinity')
     cross join lateral (select b.logical_time from price_bar b
                          where b.feed = a.feed and b.symbol = x.symbol and b.logical_time > (x.ex_date::timestamp at time zone a.zone)
                          order by b.logical_time limit 1) b
     where b.logical_time > a.after and b.logical_time <= a.upto
       and not exists (select from event_ledger v where v.user_id = c.user_id and v.run_id = c.run_id
                          and v.event_type = x.action_type and v.event_key = engine.action_key(x.symbol, x.ex_date))
    union all
    select b.logical_time::timestamptz, 3, d.symbol, d.ex_date
      from dividend_due d
     cross join lateral (select b.logical_time from price_bar b
                          where b.feed = c.feed and b.logical_time > v_after and b.logical_time <= p_to
                            and b.logical_time > (d.pay_date::timestamp at time zone c.time_zone)
                          order by b.logical_time limit 1) b
     where d.user_id = c.user_id and d.run_id = c.run_id and d.paid_time is null;
end $$;

-- Is there anything to look for? Something is owed, or the last action of a symbol has had no bar up to the last tick.
-- Where there are no actions that is one question to each of two indexes.
create function engine.may_act(c engine.context, p_to timestamptz) returns boolean
language plpgsql stable as $$
begin
  return exists (select from dividend_due d where d.user_id = c.user_id and d.run_id = c.run_id and d.paid_time is null)
      or exists (select from (select (p_to at time zone c.time_zone)::date as upto offset 0) a join corporate_action x on x.ex_date <= a.upto)
     and exists (select from (select c.feed as feed, c.time_zone as zone, c.last_logical_time as after, (p_to at time zone c.time_zone)::date as upto,
                                     engine.symbols_of_interest(c) as symbols offset 0) a
                  cross join unnest(a.symbols) s (symbol)
                  cross join lateral (select x.ex_date from corporate_action x where x.symbol = s.symbol and x.ex_date <= a.upto
                                       order by x.ex_date desc limit 1) x
                  where not exists (select from price_bar b where b.feed = a.feed and b.symbol = s.symbol
                                       and b.logical_time > (x.ex_date::timestamp at time zone a.zone) and b.logical_time <= a.after));
end $$;

-- The symbols with bars later than p_after, the earliest last tick of all runs, and an action that none up to it was for.
create function engine.acting_symbols(p_feed text, p_zone text, p_after timestamptz, p_to timestamptz) returns text[]
language plpgsql stable as $$
begin
  if not exists (select from corporate_action y where y.ex_date <= (p_to at time zone p_zone)::date) then
    return array[]::text[];
  end if;
  return array(
    select s.symbol
      from (select p_feed as feed, p_zone as zone, p_after as after, p_to as upto offset 0) a
     cross join lateral (select distinct b.symbol from price_bar b
                          where b.feed = a.feed and b.logical_time > a.after and b.logical_time <= a.upto) s
     cross join lateral (select y.ex_date from corporate_action y
                          where y.symbol = s.symbol and y.ex_date <= (a.upto at time zone a.zone)::date
                          order by y.ex_date desc limit 1) y
     where not exists (select from price_bar b where b.feed = a.feed and b.symbol = s.symbol
                          and b.logical_time > (y.ex_date::timestamp at time zone a.zone) and b.logical_time <= a.after));
end $$;
