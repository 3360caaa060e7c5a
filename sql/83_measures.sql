-- The numbers people ask for of a run.
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
create function engine.money_weighted_measures(c engine.curve, p_was_short boolean, p_metric text) returns table (metric text, measure engine.measure)
language plpgsql stable as $$
declare
  v_metric text;
  v_measure engine.measure;
  v_times timestamptz[];
  v_amounts numeric[];
begin
  foreach v_metric in array case when p_metric is null then array['xirr', 'xirr_invested'] else array[p_metric] end loop
    if c.times is null or v_metric = 'xirr_invested' and p_was_short then
      v_measure := engine.measured(null, case when c.times is null then 'NO_MARK' else 'SHORT_POSITION' end);
    else
      select array_agg(f.at), array_agg(case v_metric when 'xirr' then -f.amount else f.amount end) into v_times, v_amounts
        from (select coalesce(l.logical_time, c.since)::timestamptz as at, l.amount::numeric
                from cash_ledger l
               where l.user_id = c.user_id and l.run_id = c.run_id and coalesce(l.logical_time, c.since) <= c.upto
                 and engine.is_external(l.cause) = (v_metric = 'xirr')) f;
      v_measure := engine.xirr_measure(v_times || c.upto, v_amounts || case v_metric when 'xirr' then c.equity else c.market_value end);
    end if;
    return query select v_metric, v_measure;
  end loop;
end $$;

-- What can be asked for. of_marks: it takes the whole curve, not its ends alone; of_trades: it takes every trade.
-- is_least_best: the smaller the better. All columns but the first are about cost and rank, none about the value.
create function engine.metrics() returns table (metric text, of_marks boolean, of_trades boolean, is_least_best boolean)
language sql immutable
begin atomic
  select m.metric, m.needs in ('marks', 'both'), m.needs in ('fills', 'both'), m.metric in ('fees', 'turnover', 'volatility')
    from (values
      ('funded', 'ends'), ('cash', 'ends'), ('market_value', 'ends'), ('equity', 'ends'), ('bought', 'fills'), ('sold', 'fills'),
      ('fees', 'fills'), ('trades', 'fills'), ('realized_pnl', 'fills'), ('unrealized_pnl', 'fills'), ('hit_rate', 'fills'),
      ('exposure', 'marks'), ('turnover', 'both'), ('xirr', 'ends'), ('xirr_invested', 'ends'), ('twr', 'marks'), ('cagr', 'marks'),
      ('max_drawdown', 'marks'), ('calmar', 'marks'), ('best_period', 'marks'), ('worst_period', 'marks'), ('volatility', 'marks'),
      ('sharpe', 'marks'), ('sortino', 'marks')) m (metric, needs);
end;

-- Sums over all symbols of a run. reason: why there is no profit; is_ahead: traded after the last mark.
create type engine.total as (
  bought numeric, sold numeric, fees numeric, trades numeric, sales numeric, wins numeric, is_traced boolean,
  realized_pnl numeric, cost_basis numeric, reason text, is_ahead boolean, was_short boolean
);

create function engine.total_of(c engine.curve) returns engine.total
language sql stable
begin atomic
  select coalesce(sum(k.bought), 0), coalesce(sum(k.sold), 0), coalesce(sum(k.fees), 0), coalesce(sum(k.trades), 0),
         coalesce(sum(k.sales), 0), coalesce(sum(k.wins), 0), bool_and(k.is_traced) filter (where k.sales > 0),
         coalesce(sum(k.realized_pnl), 0), coalesce(sum(k.cost_basis), 0), case when bool_or(k.quantity is null) then 'NO_POSITION' end,
         coalesce(max(k.last_time) > (c).upto, false), coalesce(bool_or(k.was_short), false)
    from engine.books((c).user_id, (c).run_id, (c).scale) k;
end;

-- What the ends of the curve and the sums over the trades say by themselves.
create function engine.account_measures(c engine.curve, b engine.total) returns table (metric text, measure engine.measure)
language plpgsql stable as $$
declare
  v_reason text := case when c.times is null then 'NO_MARK' end;
begin
  return query values
    ('funded', engine.measured((select sum(l.amount) from cash_ledger l
                                 where l.user_id = c.user_id and l.run_id = c.run_id and engine.is_external(l.cause)), 'NO_FLOW')),
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
end $$;

-- Every metric of a run, each a value or the reason why it has none; p_metric: that one, and nothing is read for others.
create function engine.performance_measures(p_user_id bigint, p_run_id bigint, p_metric text default null)
returns table (metric text, measure engine.measure)
language plpgsql stable as $$
declare
  v_needs record;
  c engine.curve;
  b engine.total;
  v_twr engine.measure;
  v_cagr engine.measure;
  v_fall engine.measure;
begin
  select bool_or(m.of_marks) as marks, bool_or(m.of_trades) as trades into v_needs
    from engine.metrics() m where m.metric = coalesce(p_metric, m.metric);
  c := case when v_needs.marks then engine.read_curve(p_user_id, p_run_id) else engine.read_ends(p_user_id, p_run_id) end;
  if v_needs.trades or p_metric = 'xirr_invested'
                       and exists (select from strategy_run r where r.user_id = p_user_id and r.run_id = p_run_id and r.initial_margin is not null) then
    b := engine.total_of(c);
  end if;
  if p_metric is null or not v_needs.marks and p_metric not like 'xirr%' then
    return query select m.* from engine.account_measures(c, b) m where m.metric = coalesce(p_metric, m.metric);
  end if;
  if p_metric is null or p_metric in ('exposure', 'turnover') then
    return query select m.* from engine.exposure_measures(c, b.bought, b.sold) m where m.metric = coalesce(p_metric, m.metric);
  end if;
  if p_metric is null or p_metric like 'xirr%' then
    return query select m.* from engine.money_weighted_measures(c, coalesce(b.was_short, false), p_metric) m;
  end if;
  if p_metric is null or p_metric in ('twr', 'cagr', 'max_drawdown', 'calmar') then
    v_twr := engine.time_weighted_measure(c);
    v_cagr := engine.annual_measure(v_twr, c.upto - c.since);
    v_fall := case when p_metric in ('twr', 'cagr') then null else engine.max_drawdown_measure(c) end;
    return query
      select m.metric, m.measure
        from (values ('twr', v_twr), ('cagr', v_cagr), ('max_drawdown', v_fall), ('calmar', engine.calmar_measure(v_cagr, v_fall))) m (metric, measure)
       where m.metric = coalesce(p_metric, m.metric);
  end if;
  if p_metric is null or p_metric in ('best_period', 'worst_period', 'volatility', 'sharpe', 'sortino') then
    return query select m.* from engine.period_measures(c) m where m.metric = coalesce(p_metric, m.metric);
  end if;
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
