-- The volume of a bar, of which a run with a participation takes a share.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- What the run's orders have traded on the volume of bars; SIP and rebalance trade at the close and use none.
create function engine.traded_volume(p_user_id bigint, p_run_id bigint, p_symbol text, p_from timestamptz, p_to timestamptz)
returns table (logical_time timestamptz, symbol text, quantity numeric)
language sql stable
begin atomic
  select t.logical_time, t.symbol, sum(t.quantity)
    from paper_trade t
    join paper_order o on o.user_id = t.user_id and o.run_id = t.run_id and o.order_id = t.order_id
   where t.user_id = p_user_id and t.run_id = p_run_id and t.logical_time between p_from and p_to
     and t.symbol = coalesce(p_symbol, t.symbol) and engine.meets_bars(o.source)
   group by t.logical_time, t.symbol;
end;

-- Turn to the volume of one bar time. Only a step that was called alone can have traded on it before.
create function engine.turn_volume(c engine.context, p_time timestamptz) returns engine.context
language plpgsql stable as $$
begin
  if c.used_time = p_time then
    return c;
  end if;
  c.used_time := p_time;
  c.used_symbols := null;
  c.used_quantities := null;
  if c.step_logical_time >= p_time then
    select array_agg(t.symbol), array_agg(t.quantity) into c.used_symbols, c.used_quantities
      from engine.traded_volume(c.user_id, c.run_id, null, p_time, p_time) t;
  end if;
  return c;
end $$;

-- What a bar leaves: participation × volume, floored to the step, less what has been traded on it. Null is no cap.
create function engine.volume_left(p_participation numeric, p_volume numeric, p_step numeric, p_used numeric) returns numeric
language sql immutable
return case when p_participation * p_volume is not null then greatest(0, engine.floor_to(p_participation * p_volume, p_step) - coalesce(p_used, 0)) end;

-- The same for an order of the run. Unknown volume is no cap.
create function engine.volume_left(c engine.context, o engine.match) returns numeric
language plpgsql stable as $$
begin
  return (select engine.volume_left((c.terms).participation, o.volume, i.quantity_step,
                                    c.used_quantities[array_position(c.used_symbols, o.symbol)])
            from instrument i where i.symbol = o.symbol and o.volume is not null);
end $$;

create function engine.use_volume(c engine.context, p_symbol text, p_quantity numeric) returns engine.context
language plpgsql immutable as $$
declare
  i int := array_position(c.used_symbols, p_symbol);
begin
  if i is null then
    c.used_symbols := c.used_symbols || p_symbol;
    c.used_quantities := c.used_quantities || p_quantity;
  else
    c.used_quantities[i] := c.used_quantities[i] + p_quantity;
  end if;
  return c;
end $$;
