-- The numbers people ask for of each symbol of a run.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- As performance, of each symbol, as far as the run has got: units and cost as they stand, worth the last close at or before the
-- last mark or trade. Bars are read as they are now. Dividends are cash of the run, and no entry says of which symbol.
create function engine.symbol_measures(p_user_id bigint, p_run_id bigint) returns table (symbol text, metric text, value numeric)
language plpgsql stable as $$
declare
  c engine.curve := engine.read_curve(p_user_id, p_run_id);
  v_books engine.book[] := array(select b from engine.books(p_user_id, p_run_id, c.scale) b);
  v_upto timestamptz := greatest(c.upto, (select max(b.last_time) from unnest(v_books) b));
begin
  return query
  select b.symbol, m.metric, trim_scale(round(m.value, 8))
    from unnest(v_books) with ordinality b
   cross join lateral (
     select case when b.quantity = 0 then 0
                 else engine.value(b.quantity, (select p.close from price_bar p
                                                 where p.feed = c.feed and p.symbol = b.symbol and p.logical_time <= v_upto
                                                 order by p.logical_time desc limit 1), c.scale) end as market_value) v
   cross join lateral (values
     (1, 'quantity', b.quantity),
     (2, 'cost_basis', b.cost_basis),
     (3, 'market_value', v.market_value),
     (4, 'realized_pnl', b.realized_pnl),
     (5, 'unrealized_pnl', v.market_value - b.cost_basis),
     (6, 'bought', b.bought),
     (7, 'sold', b.sold),
     (8, 'fees', b.fees),
     (9, 'trades', b.trades::numeric),
     (10, 'hit_rate', (engine.hit_measure(b.sales, b.wins, b.is_traced)).value),
     (11, 'xirr', case when v.market_value is not null and array_position(b.amounts, null) is null and not b.was_short
                       then engine.xirr(b.times || v_upto, b.amounts || v.market_value) end)
   ) m (ordinal, metric, value)
   order by b.ordinality, m.ordinal;
end $$;
