-- Whose turn it is: the times of its feed that a RUNNING run still owes. Bars that come late, at or before a time that a
-- run has ticked, are owed by nobody.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- A run owes every feed time from here on: after its last tick, not before a step that was called alone; if it has not
-- begun, from p_since on.
create function engine.owed_from(p_last timestamptz, p_step timestamptz, p_since timestamptz) returns timestamptz
language sql stable return coalesce(greatest(p_last + interval '1 microsecond', p_step), p_since);

-- The feed has no time from here to p_time: a run that owes from in here on owes p_time next.
create function engine.owes_next_from(p_feed text, p_time timestamptz) returns timestamptz
language plpgsql stable as $$
begin
  return coalesce((select b.logical_time from price_bar b where b.feed = p_feed and b.logical_time < p_time
                    order by b.logical_time desc limit 1) + interval '1 microsecond', '-infinity');
end $$;

-- One row for the feed, or for each feed that a RUNNING run follows. What is owed ends where the calendar does.
create function engine.feed_status(p_feed text, p_since timestamptz)
returns table (
  feed text, calendar text, known_until timestamptz, newest_bar_time timestamptz, newest_bars bigint, starts_at timestamptz,
  running bigint, behind bigint, not_begun bigint, oldest_logical_time timestamptz, lag interval,
  first_owed_time timestamptz, first_owed_runs bigint, last_owed_time timestamptz, last_owed_runs bigint
)
language plpgsql stable as $$
declare
  f record;
  v_last timestamptz;
begin
  if p_feed is not null and not exists (select from feed x where x.feed = p_feed) then
    perform engine.refuse('TE201', format('feed=%s', p_feed));
  end if;
  for f in
    select x.feed, x.calendar from feed x
     where x.feed = p_feed
        or p_feed is null and exists (select from strategy_run r where r.feed = x.feed and r.status = 'RUNNING')
     order by x.feed collate "C"
  loop
    feed := f.feed;
    calendar := f.calendar;
    known_until := engine.calendar_end(f.calendar);
    newest_bar_time := (select b.logical_time from price_bar b where b.feed = f.feed order by b.logical_time desc limit 1);
    newest_bars := (select count(*) from price_bar b where b.feed = f.feed and b.logical_time = newest_bar_time);
    starts_at := (select b.logical_time from price_bar b where b.feed = f.feed and b.logical_time >= coalesce(p_since, newest_bar_time)
                   order by b.logical_time limit 1);
    v_last := (select b.logical_time from price_bar b where b.feed = f.feed and b.logical_time <= known_until
                order by b.logical_time desc limit 1);
    select coalesce(sum(t.runs), 0)::bigint, coalesce(sum(t.runs) filter (where t.owed is not null), 0)::bigint,
           coalesce(sum(t.not_begun), 0)::bigint, min(t.oldest), newest_bar_time - min(t.oldest), min(t.owed), max(t.owed),
           (array_agg(t.runs order by t.owed))[1], (array_agg(t.runs order by t.owed desc) filter (where t.owed is not null))[1]
      into running, behind, not_begun, oldest_logical_time, lag, first_owed_time, last_owed_time, first_owed_runs, last_owed_runs
      from (select n.logical_time as owed, sum(g.runs)::bigint as runs, sum(g.not_begun) as not_begun, min(g.oldest) as oldest
              from (select engine.owed_from(s.last_logical_time, s.step_logical_time, starts_at) as owed_from, count(*) as runs,
                           count(*) filter (where coalesce(s.last_logical_time, s.step_logical_time) is null) as not_begun,
                           min(s.last_logical_time) as oldest
                      from strategy_run r
                      left join lateral (select s.* from engine_state s
                                          where s.user_id = r.user_id and s.run_id = r.run_id offset 0) s on true
                     where r.feed = f.feed and r.status = 'RUNNING'
                     group by 1) g
              left join lateral (select b.logical_time from price_bar b
                                  where b.feed = f.feed and b.logical_time >= g.owed_from and b.logical_time <= v_last
                                  order by b.logical_time limit 1) n on true
             group by n.logical_time) t;
    if behind = 0 then
      first_owed_runs := 0;
      last_owed_runs := 0;
    end if;
    known_until := case when isfinite(known_until) then known_until end;
    return next;
  end loop;
end $$;
