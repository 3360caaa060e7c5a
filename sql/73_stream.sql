-- The stream of a run: what has happened to it, item after item, so that who has read some of it can go on from there.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- An item's id is its logical time and its number within that time. Everything up to the last tick stands, so an item
-- keeps its id; what a step called alone has written later comes into the stream with the tick of its time.
create function engine.stream_id(p_logical_time timestamptz, p_number bigint) returns text
language sql stable return engine.iso(p_logical_time) || '/' || p_number;

-- As the HTTP API writes a time.
create function engine.short_iso(p_logical_time timestamptz) returns text
language sql stable return regexp_replace(engine.iso(p_logical_time), '\.?0+Z$', 'Z');

-- The time of the limit-th tick from p_from on, or the last tick: every tick is an item, so the next limit items lie
-- before it. That keeps what has to be sorted, and computed where marks are not stored, to one page.
create function engine.stream_end(p_user_id bigint, p_run_id bigint, p_from timestamptz, p_limit int) returns timestamptz
language plpgsql stable as $$
declare
  r strategy_run;
  s engine_state;
begin
  select * into r from strategy_run x where x.user_id = p_user_id and x.run_id = p_run_id;
  select * into s from engine_state x where x.user_id = p_user_id and x.run_id = p_run_id;
  return coalesce((
    select max(t.logical_time) from (
      (select e.logical_time from paper_equity_curve e
        where r.mark_policy = 'EVERY_TICK' and e.user_id = p_user_id and e.run_id = p_run_id
          and e.logical_time >= coalesce(p_from, '-infinity') and e.logical_time <= s.last_logical_time
        order by e.logical_time limit p_limit + 1)
      union all
      select f.logical_time
        from unnest(engine.feed_times(r.feed, coalesce(p_from, s.first_logical_time), s.last_logical_time, p_limit + 1, false)) f (logical_time)
       where r.mark_policy <> 'EVERY_TICK') t
    having count(*) > p_limit), s.last_logical_time);
end $$;

create function engine.run_stream(p_user_id bigint, p_run_id bigint, p_after text, p_limit int)
returns table (id text, event text, data jsonb)
language plpgsql stable as $$
declare
  v_from timestamptz;
  v_after int := 0;
  v_to timestamptz;
begin
  perform engine.require_run(p_user_id, p_run_id);
  perform engine.require(p_limit between 1 and 10000, 'argument=limit must_be=1_to_10000');
  if p_after is not null then
    perform engine.require(p_after ~ '^(19|2[0-2])\d\d-(0\d|1[0-2])-([0-2]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{6}Z/[1-9]\d{0,8}$',
                           'argument=after must_be=an_id_of_the_stream');
    v_from := split_part(p_after, '/', 1)::timestamptz;
    v_after := split_part(p_after, '/', 2)::int;
  end if;
  v_to := engine.stream_end(p_user_id, p_run_id, v_from, p_limit);

  return query
    select engine.stream_id(n.logical_time, n.number), n.event,
           jsonb_build_object('logical_time', engine.short_iso(n.logical_time)) || n.data
      from (select i.*, row_number() over (partition by i.logical_time order by i.kind, i.id, i.key_a collate "C", i.key_b collate "C") as number
              from (select x.logical_time, 1 as kind, 'event' as event, 0::bigint as id, x.event_type as key_a, x.event_key as key_b,
                           jsonb_build_object('event_type', x.event_type, 'event_key', x.event_key, 'payload', x.payload) as data
                      from event_ledger x where x.user_id = p_user_id and x.run_id = p_run_id
                    union all
                    select t.logical_time, 2, 'trade', t.trade_id, '', '',
                           jsonb_build_object('trade_id', t.trade_id, 'order_id', t.order_id, 'symbol', t.symbol, 'side', t.side,
                                              'quantity', t.quantity::text, 'price', t.price::text, 'fees', t.fees::text)
                      from paper_trade t where t.user_id = p_user_id and t.run_id = p_run_id
                    union all
                    select e.logical_time, 3, 'tick', 0, '', '',
                           jsonb_build_object('cash', e.cash::text, 'market_value', e.market_value::text, 'equity', e.equity::text)
                      from engine.equity_between(p_user_id, p_run_id, v_from, v_to) e) i
             where i.logical_time >= coalesce(v_from, '-infinity') and i.logical_time <= v_to) n
     where v_from is null or n.logical_time > v_from or n.number > v_after
     order by n.logical_time, n.number
     limit p_limit;
end $$;
