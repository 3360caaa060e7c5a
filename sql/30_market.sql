-- Market data and market time: sessions, prices. Reads only; nothing here knows a run.
set local search_path = public, pg_temp;

create type engine.market_session as (session_date date, open_at timestamptz, close_at timestamptz);

-- The first session that closes at p_time or later; no row past the calendar. ALWAYS has one per UTC day, (00:00, 24:00];
-- 24 hours, not a day, because a day has another length where the session's zone changes its clocks. A query over many
-- times joins it laterally: it is inlined, and its search is an index's.
create function engine.session_by(p_calendar text, p_time timestamptz)
returns table (session_date date, open_at timestamptz, close_at timestamptz)
language sql stable
begin atomic
  select (d.open_at at time zone 'UTC')::date, d.open_at, d.open_at + interval '24 hours'
    from (select date_trunc('day', p_time - interval '1 microsecond', 'UTC') as open_at) d
   where p_calendar = 'ALWAYS'
  union all
  (select m.session_date, m.open_at, m.close_at from market_session m
    where m.calendar = p_calendar and m.close_at >= p_time and p_calendar <> 'ALWAYS'
    order by m.close_at limit 1);
end;

-- A calendar is known from its first date on, or from where that date's session opens, if that is earlier.
create function engine.is_before_calendar(p_calendar text, p_time timestamptz) returns boolean
language plpgsql stable as $$
begin
  return p_calendar <> 'ALWAYS'
    and p_time < (select least(m.open_at, m.session_date::timestamp at time zone c.time_zone)
                    from market_session m join calendar c using (calendar)
                   where m.calendar = p_calendar order by m.session_date limit 1);
end $$;

-- Nobody knows whether a market is open before its calendar starts, or past its end: that is not «closed».
create function engine.refuse_unknown(p_calendar text, p_time timestamptz) returns void
language plpgsql as $$
begin
  perform engine.refuse('TE203', format('calendar=%s time=%s loaded=%s', p_calendar, engine.iso(p_time),
    (select coalesce(to_char(min(m.session_date), 'YYYY-MM-DD') || '..' || to_char(max(m.session_date), 'YYYY-MM-DD'), 'none')
       from market_session m where m.calendar = p_calendar)));
end $$;

-- The same for one time. TE203 where the calendar does not know.
create function engine.next_close(p_calendar text, p_time timestamptz) returns engine.market_session
language plpgsql stable as $$
declare
  s engine.market_session;
begin
  select n.session_date, n.open_at, n.close_at into s
    from (select p_calendar as calendar, p_time as at offset 0) a
   cross join lateral engine.session_by(a.calendar, a.at) n;
  if not found or s.open_at >= p_time and engine.is_before_calendar(p_calendar, p_time) then
    perform engine.refuse_unknown(p_calendar, p_time);
  end if;
  return s;
end $$;

-- The session (open_at, close_at] that holds p_time; all null when the market is closed then.
create function engine.session_at(p_calendar text, p_time timestamptz) returns engine.market_session
language plpgsql stable as $$
declare
  s engine.market_session := engine.next_close(p_calendar, p_time);
begin
  if s.open_at >= p_time then
    s := null;
  end if;
  return s;
end $$;

create function engine.is_market_open(p_calendar text, p_time timestamptz) returns boolean
language sql stable return (engine.session_at(p_calendar, p_time)).open_at is not null;

-- Up to here the calendar is known.
create function engine.calendar_end(p_calendar text) returns timestamptz
language plpgsql stable as $$
begin
  if p_calendar = 'ALWAYS' then
    return timestamptz 'infinity';
  end if;
  return coalesce((select max(m.close_at) from market_session m where m.calendar = p_calendar), timestamptz '-infinity');
end $$;

create function engine.is_session_date(p_calendar text, p_date date) returns boolean
language plpgsql stable as $$
begin
  return p_calendar = 'ALWAYS'
    or exists (select from market_session m where m.calendar = p_calendar and m.session_date = p_date);
end $$;

-- Most often the time has a bar of its own, which is found for less.
create function engine.last_close(p_feed text, p_symbol text, p_time timestamptz) returns numeric
language plpgsql stable as $$
declare
  v_close numeric := (select b.close from price_bar b
    where b.feed = p_feed and b.symbol = p_symbol and b.logical_time = p_time);
begin
  if v_close is null then
    v_close := (select b.close from (select p_feed as feed, p_symbol as symbol, p_time as upto offset 0) a
     cross join lateral (select b.close from price_bar b
                          where b.feed = a.feed and b.symbol = a.symbol and b.logical_time <= a.upto
                          order by b.logical_time desc limit 1) b);
  end if;
  return v_close;
end $$;

-- So long before p_time, a day being 24 hours whatever the session's TimeZone makes of it.
create function engine.earlier(p_time timestamptz, p_by interval) returns timestamptz
language sql immutable return ((p_time at time zone 'UTC') - p_by) at time zone 'UTC';

-- The last close at p_time, if it may be traded on: null when there is none, or its bar is older than p_max_age.
create function engine.tradable_close(p_feed text, p_symbol text, p_time timestamptz, p_max_age interval) returns numeric
language plpgsql stable as $$
begin
  if p_max_age is not null and not exists (select from price_bar b where b.feed = p_feed and b.symbol = p_symbol
                                              and b.logical_time between engine.earlier(p_time, p_max_age) and p_time) then
    return null;
  end if;
  return engine.last_close(p_feed, p_symbol, p_time);
end $$;

-- The feed's first bar time at or after p_from (p_after: strictly after) and not later than p_to.
create function engine.next_feed_time(p_feed text, p_from timestamptz, p_to timestamptz, p_after boolean default false)
returns timestamptz
language plpgsql stable as $$
begin
  return (select b.logical_time from (select p_feed as feed, p_from as since, p_to as upto offset 0) a
           cross join lateral (select b.logical_time from price_bar b
                                where b.feed = a.feed and b.logical_time >= a.since and (b.logical_time > a.since or not p_after)
                                  and b.logical_time <= a.upto
                                order by b.logical_time limit 1) b);
end $$;

-- The feed's bar times from p_from on (p_after: strictly later) to p_to, at most p_limit of them.
create function engine.feed_times(p_feed text, p_from timestamptz, p_to timestamptz, p_limit int, p_after boolean default false)
returns timestamptz[]
language plpgsql stable as $$
begin
  return array(
    select b.logical_time from (select p_feed as feed, p_from as since, p_to as upto, p_limit as most offset 0) a
     cross join lateral (select distinct b.logical_time from price_bar b
                          where b.feed = a.feed and b.logical_time >= a.since and (b.logical_time > a.since or not p_after)
                            and b.logical_time <= a.upto
                          order by b.logical_time limit a.most) b);
end $$;

create function engine.require_instrument(p_symbol text) returns void
language plpgsql as $$
begin
  if not exists (select from instrument i where i.symbol = p_symbol) then
    perform engine.refuse('TE201', format('symbol=%s', p_symbol));
  end if;
end $$;

-- A feed that exists, at a time its calendar knows.
create function engine.require_feed_time(p_feed text, p_time timestamptz) returns void
language plpgsql set search_path = public, pg_temp as $$
declare
  v_calendar text := (select f.calendar from feed f where f.feed = p_feed);
begin
  if v_calendar is null then
    perform engine.refuse('TE201', format('feed=%s', p_feed));
  end if;
  perform engine.next_close(v_calendar, p_time);
end $$;
