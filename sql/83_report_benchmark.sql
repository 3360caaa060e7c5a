-- The same money in one symbol: what the run's external flows would have come to, bought and held.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

create function engine.first_bar(p_feed text, p_symbol text) returns timestamptz
language sql stable
return (select p.logical_time from price_bar p where p.feed = p_feed and p.symbol = p_symbol order by p.logical_time limit 1);

-- Each flow buys at the close of the mark that counts it, in fractions and without fees; one that comes before the
-- symbol's first bar waits as cash. Splits multiply the units; a dividend buys more of them at the close of its ex-date.
-- Money taken out sells. Marked by the marking statement itself, at the run's own times.
create function engine.benchmark_rows(c engine.curve, p_symbol text)
returns table (logical_time timestamptz, symbol text, units numeric, value numeric)
language plpgsql stable as $$
declare
  b engine.context;
  v record;
  v_first timestamptz := engine.first_bar(c.feed, p_symbol);
  v_close numeric;
  v_done int := 0;
  v_before int;
begin
  perform engine.require_instrument(p_symbol);
  if c.times is null then
    return;
  elsif v_first is null or v_first > c.upto then
    perform engine.refuse('TE202', format('feed=%s symbol=%s time=%s', c.feed, p_symbol, engine.iso(c.upto)));
  end if;
  b.user_id := c.user_id;
  b.run_id := c.run_id;
  b.scale := c.scale;
  b.cash := 0;
  b.symbols := array[p_symbol];
  b.quantities := array[0::numeric];
  for v in
    select a.logical_time as at, 1 as phase, a.ex_date, a.action_type, a.numerator, a.denominator, a.amount
      from engine.actions_of(c.feed, p_symbol, c.upto) a
    union all
    select c.times[f.place], 2, null, 'FLOW', null, null, f.funded from engine.flows(c) f where f.place <= cardinality(c.times) and f.funded <> 0
    union all
    select greatest(v_first, c.since), 3, null, 'FLOW', null, null, 0
    order by at, phase, ex_date, action_type desc
  loop
    v_before := width_bucket(v.at - interval '1 microsecond', c.times);
    if v_before > v_done then
      b.spans := b.spans || engine.span_of(b, c.times[v_done + 1 : v_before]);
      v_done := v_before;
    end if;
    v_close := engine.last_close(c.feed, p_symbol, v.at);
    if v.action_type = 'SPLIT' then
      b.quantities[1] := round(b.quantities[1] * v.numerator / v.denominator, 12);
    elsif v.action_type = 'DIVIDEND' then
      b.quantities[1] := round(b.quantities[1] * (1 + v.amount / v_close), 12);
    else
      b.cash := b.cash + v.amount;
      if v_close is not null then
        b.quantities[1] := b.quantities[1] + round(b.cash / v_close, 12);
        b.cash := 0;
      end if;
    end if;
  end loop;
  if v_done < cardinality(c.times) then
    b.spans := b.spans || engine.span_of(b, c.times[v_done + 1 : cardinality(c.times)]);
  end if;
  return query
  select m.logical_time::timestamptz, p_symbol, coalesce(s.quantities[1], 0), (m.cash + m.market_value)::numeric
    from unnest(b.spans) s
   cross join lateral engine.marks(c.feed, array[s]) m
   order by m.logical_time;
end $$;

-- Growth from a time on, beside other runs: 100 at the last mark at or before p_since, flows taken out. Nothing where that
-- was not above 0, or where the run had ended before.
create function engine.report_index(c engine.curve, p_since timestamptz, p_points int) returns jsonb
language plpgsql stable as $$
declare
  v_place int := width_bucket(p_since, c.times);
  v_base numeric := c.indexes[v_place];
  v_values numeric[] := case when v_base > 0 and v_place > 0 then
    array(select 100 * u.index / v_base from unnest(c.indexes[v_place :]) with ordinality u (index, n) order by u.n) end;
begin
  return (
    select jsonb_build_object('logical_time', coalesce(jsonb_agg(engine.iso(u.at) order by u.n), '[]'), 'index', coalesce(jsonb_agg(round(u.value, 8) order by u.n), '[]'))
      from unnest(c.times[v_place :], v_values) with ordinality u (at, value, n)
      join unnest(engine.thinned(v_values, p_points)) k (n) on k.n = u.n);
end $$;
