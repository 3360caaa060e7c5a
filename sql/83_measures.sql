-- The numbers people ask for: of a run, and of each of its symbols.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- What became of one symbol. is_traced: its trades alone account for the units held, so that each sale's gain is known.
-- was_short: it was sold short at some time. times, amounts: the cash of its trades.
create type engine.book as (
  symbol text, quantity numeric, cost_basis numeric, realized_pnl numeric, bought numeric, sold numeric, fees numeric,
  trades bigint, sales bigint, wins bigint, is_traced boolean, was_short boolean, last_time timestamptz, times timestamptz[], amounts numeric[]
);

-- Each trade with its cash, and with what it realized if it closes, by the rule that booked it; a split moves units and
-- takes its part of the cost. Units that came by other ways cannot be seen here: in a cash account a sale of more than
-- was bought has no known gain. Trades and their cash meet in one GROUP BY, not in a join, which may be planned as a
-- quadratic loop.
create function engine.trade_gains(p_user_id bigint, p_run_id bigint, p_scale int)
returns table (trade_id bigint, symbol text, side text, logical_time timestamptz, value numeric, fees numeric, amount numeric,
               is_closing boolean, gain numeric, held numeric, cost numeric)
language plpgsql stable as $$
declare
  v_is_margin boolean := (select r.initial_margin is not null from strategy_run r where r.user_id = p_user_id and r.run_id = p_run_id);
  v record;
  v_symbol text;
  v_cost numeric;
  v_closed numeric;
  v_cash numeric;
begin
  for v in
    select u.ordinal, max(u.symbol) as symbol, max(u.side) as side, max(u.at) as at, sum(u.units) as units, max(u.price) as price,
           max(u.fees) as fees, sum(u.amount) as amount, sum(u.cost) as cost
      from (select t.trade_id::numeric as ordinal, t.symbol, t.side, t.logical_time as at, case t.side when 'BUY' then t.quantity else -t.quantity end as units,
                   t.price, t.fees, null::money_amount as amount, null::numeric as cost
              from paper_trade t where t.user_id = p_user_id and t.run_id = p_run_id
            union all
            select l.trade_id, null, null, null, null, null, null, l.amount, null
              from cash_ledger l where l.user_id = p_user_id and l.run_id = p_run_id and l.trade_id is not null
            union all   -- between two trades
            select -row_number() over (order by e.logical_time, e.event_key), e.payload ->> 'symbol', null, e.logical_time, (e.payload ->> 'units')::numeric,
                   null, null, null, coalesce((e.payload ->> 'cost')::numeric, 0)
              from event_ledger e where e.user_id = p_user_id and e.run_id = p_run_id and e.event_type = 'SPLIT') u
     group by u.ordinal
     order by max(u.symbol) collate "C", max(u.at), u.ordinal
  loop
    if v.symbol is distinct from v_symbol then
      v_symbol := v.symbol;
      v_cost := 0;
      held := 0;
    end if;
    if v.side is null then
      held := held + v.units;
      v_cost := v_cost - v.cost;
      continue;
    end if;
    gain := null;
    is_closing := v.side = 'SELL' and not v_is_margin or held * v.units < 0;
    v_closed := case when is_closing then least(abs(v.units), abs(held)) else 0 end;
    if not v_is_margin and is_closing and abs(v.units) > held then
      v_cost := null;
    elsif is_closing then
      v_cash := case v_closed when abs(v.units) then v.amount else round(v.amount * v_closed / abs(v.units), p_scale) end;
      gain := v_cash - engine.cost_of_sale(v_cost, abs(held), v_closed, p_scale);
      v_cost := v_cost - (v_cash - gain) - (v.amount - v_cash);
    else
      v_cost := v_cost - v.amount;
    end if;
    held := held + v.units;
    cost := v_cost;
    select v.ordinal::bigint, v.symbol, v.side, v.at, engine.value(abs(v.units), v.price, p_scale), v.fees, v.amount
      into trade_id, symbol, side, logical_time, value, fees, amount;
    return next;
  end loop;
end $$;

-- One row a symbol that was ever traded or held, in order.
create function engine.books(p_user_id bigint, p_run_id bigint, p_scale int) returns setof engine.book
language sql stable
begin atomic
  select coalesce(p.symbol, t.symbol), p.quantity, p.cost_basis, p.realized_pnl, coalesce(t.bought, 0), coalesce(t.sold, 0),
         coalesce(t.fees, 0), coalesce(t.trades, 0), coalesce(t.sales, 0), coalesce(t.wins, 0),
         coalesce(t.sales = t.known and t.held + coalesce((   -- and what splits have made of it since
           select sum((e.payload ->> 'units')::numeric) from event_ledger e
            where e.user_id = p_user_id and e.run_id = p_run_id and e.event_type = 'SPLIT' and e.payload ->> 'symbol' = t.symbol
              and e.logical_time > t.last_time), 0) = p.quantity, false),
         coalesce(t.was_short and (select r.initial_margin is not null from strategy_run r where r.user_id = p_user_id and r.run_id = p_run_id), false), t.last_time, t.times, t.amounts
    from (select p.symbol, p.quantity, p.cost_basis, p.realized_pnl from paper_position p where p.user_id = p_user_id and p.run_id = p_run_id) p
    full join (select g.symbol, sum(g.value) filter (where g.side = 'BUY') as bought, sum(g.value) filter (where g.side = 'SELL') as sold,
                      sum(g.fees) as fees, count(*) as trades, count(*) filter (where g.is_closing) as sales, count(g.gain) as known,
                      count(*) filter (where g.gain > 0) as wins, bool_or(g.held < 0) as was_short, (array_agg(g.held order by g.trade_id desc))[1] as held,
                      max(g.logical_time) as last_time, array_agg(g.logical_time order by g.trade_id) as times,
                      array_agg(g.amount order by g.trade_id) as amounts
                 from engine.trade_gains(p_user_id, p_run_id, p_scale) g group by g.symbol) t on t.symbol = p.symbol
   order by coalesce(p.symbol, t.symbol) collate "C";
end;

-- hit_rate: of all trades that close (in a cash account: sales), the share that realized a gain, fees counted.
create function engine.hit_measure(p_sales numeric, p_wins numeric, p_is_traced boolean) returns engine.measure
language sql immutable
return engine.measured(case when p_is_traced then p_wins / nullif(p_sales, 0) end,
                       case when p_sales > 0 then 'UNITS_NOT_FROM_TRADES' else 'NO_SALE' end);

-- Money-weighted returns, on what is flows and on what is left at the last mark: of the account, external flows against
-- equity; of what was put to work, all other cash (trades, dividends, cash in lieu, costs of carry) against market value.
-- The flows of a short sale are those of a loan: the rate that solves them is what it cost, and no return.
create function engine.money_weighted_measures(c engine.curve, p_was_short boolean) returns table (metric text, measure engine.measure)
language plpgsql stable as $$
begin
  if c.times is null then
    return query values ('xirr', engine.measured(null, 'NO_MARK')), ('xirr_invested', engine.measured(null, 'NO_MARK'));
    return;
  end if;
  return query
  with flow as materialized (
    select coalesce(l.logical_time, c.since)::timestamptz as at, l.amount::numeric, engine.is_external(l.cause) as is_external
      from cash_ledger l
     where l.user_id = c.user_id and l.run_id = c.run_id and coalesce(l.logical_time, c.since) <= c.upto
  )
  select 'xirr', (select engine.xirr_measure(array_agg(f.at) || c.upto, array_agg(-f.amount) || c.equity) from flow f where f.is_external)
  union all
  select 'xirr_invested', case when p_was_short then engine.measured(null, 'SHORT_POSITION') else (
    select engine.xirr_measure(array_agg(f.at) || c.upto, array_agg(f.amount) || c.market_value) from flow f where not f.is_external) end;
end $$;

-- Every metric of a run, each a value or the reason why it has none.
create function engine.performance_measures(p_user_id bigint, p_run_id bigint) returns table (metric text, measure engine.measure)
language plpgsql stable as $$
declare
  c engine.curve := engine.read_curve(p_user_id, p_run_id);
  b record;
  v_twr engine.measure := engine.time_weighted_measure(c);
  v_cagr engine.measure := engine.annual_measure(v_twr, c.upto - c.since);
  v_fall engine.measure := engine.max_drawdown_measure(c);
  v_reason text := case when c.times is null then 'NO_MARK' end;
begin
  select coalesce(sum(k.bought), 0) as bought, coalesce(sum(k.sold), 0) as sold, coalesce(sum(k.fees), 0) as fees, coalesce(sum(k.trades), 0) as trades,
         coalesce(sum(k.sales), 0) as sales, coalesce(sum(k.wins), 0) as wins, bool_and(k.is_traced) filter (where k.sales > 0) as is_traced,
         coalesce(sum(k.realized_pnl), 0) as realized_pnl, coalesce(sum(k.cost_basis), 0) as cost_basis,
         case when bool_or(k.quantity is null) then 'NO_POSITION' end as reason, coalesce(max(k.last_time) > c.upto, false) as is_ahead, coalesce(bool_or(k.was_short), false) as was_short
    into b from engine.books(p_user_id, p_run_id, c.scale) k;
  return query values
    ('funded', engine.measured((select sum(l.amount) from cash_ledger l
                                 where l.user_id = p_user_id and l.run_id = p_run_id and engine.is_external(l.cause)), 'NO_FLOW')),
    ('cash', engine.measured(c.cash, v_reason)),
    ('market_value', engine.measured(c.market_value, v_reason)),
    ('equity', engine.measured(c.equity, v_reason)),
    ('bought', engine.measured(b.bought, null)),
    ('sold', engine.measured(b.sold, null)),
    ('fees', engine.measured(b.fees, null)),
    ('trades', engine.measured(b.trades, null)),
    ('realized_pnl', engine.measured(case when b.reason is null then b.realized_pnl end, b.reason)),
    ('unrealized_pnl', engine.measured(case when b.reason is null and not b.is_ahead then c.market_value - b.cost_basis end,
                                       coalesce(v_reason, b.reason, 'TRADED_SINCE_MARK'))),
    ('hit_rate', engine.hit_measure(b.sales, b.wins, b.is_traced));
  return query select * from engine.exposure_measures(c, b.bought, b.sold);
  return query select * from engine.money_weighted_measures(c, b.was_short);
  return query values ('twr', v_twr), ('cagr', v_cagr), ('max_drawdown', v_fall), ('calmar', engine.calmar_measure(v_cagr, v_fall));
  return query select * from engine.period_measures(c);
end $$;

create function engine.performance(p_user_id bigint, p_run_id bigint) returns table (metric text, value numeric)
language sql stable
begin atomic
  select m.metric, trim_scale(round((m.measure).value, 8)) from engine.performance_measures(p_user_id, p_run_id) m;
end;

create function engine.performance_reasons(p_user_id bigint, p_run_id bigint) returns table (metric text, reason text)
language sql stable
begin atomic
  select m.metric, (m.measure).reason from engine.performance_measures(p_user_id, p_run_id) m where (m.measure).value is null;
end;

-- The same of each symbol, as far as the run has got: units and cost as they stand, worth the last close at or before the
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
