-- What stands behind each chart and table of a report, as views for Grafana, a notebook or psql: always ask for user_id and
-- run_id. What needs the engine's rules is a function of the same name, a view then being that function of every run
-- that the caller may read. README of the report: docs/report.md.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

create or replace function report_equity(p_user_id bigint, p_run_id bigint)
returns table (logical_time timestamptz, cash numeric, market_value numeric, equity numeric, invested_capital numeric, put_to_work numeric, growth numeric, drawdown numeric)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id), engine.require_run(p_user_id, p_run_id);
  return query select r.* from engine.curve_rows(engine.read_curve(p_user_id, p_run_id)) r;
end $$;
comment on function report_equity is 'report_equity(user, run): the rows of the view report_equity for one run.';

create or replace function report_growth(p_user_id bigint, p_run_id bigint, p_unit text)
returns table (first_date date, growth numeric, reason text)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id), engine.require_run(p_user_id, p_run_id);
  perform engine.require(p_unit in ('month', 'year'), 'argument=unit must_be=month|year');
  return query select g.first_date, (g.growth).value, (g.growth).reason from engine.period_growth(engine.read_curve(p_user_id, p_run_id), p_unit) g;
end $$;
comment on function report_growth is 'report_growth(user, run, unit) → (first_date, growth, reason) for each month or year (unit) of the market in which the run has a mark: how many times the last mark before it the run ends at, flows taken out, unrounded; null with a reason of performance_reasons. Chained, they are 1 + twr. TE101.';

create or replace function report_holding(p_user_id bigint, p_run_id bigint)
returns table (symbol text, ordinal bigint, logical_time timestamptz, trade_id bigint, quantity numeric, cost_basis numeric, average_cost numeric)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id), engine.require_run(p_user_id, p_run_id);
  return query select h.* from engine.holding_steps(p_user_id, p_run_id) h;
end $$;
comment on function report_holding is 'report_holding(user, run): the rows of the view report_holding for one run.';

create or replace function report_price(p_user_id bigint, p_run_id bigint, p_symbol text)
returns table (logical_time timestamptz, close numeric, split_factor numeric, quantity numeric, average_cost numeric)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id), engine.require_run(p_user_id, p_run_id);
  return query select p.* from engine.price_rows(p_user_id, p_run_id, p_symbol) p;
end $$;
comment on function report_price is 'report_price(user, run, symbol): the rows of the view report_price for one symbol, traded or not.';

create or replace function report_allocation(p_user_id bigint, p_run_id bigint, p_times timestamptz[] default null)
returns table (logical_time timestamptz, symbol text, quantity numeric, market_value numeric, share numeric)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id), engine.require_run(p_user_id, p_run_id);
  return query select a.* from engine.allocation_rows(p_user_id, p_run_id,
    coalesce(p_times, array(select e.logical_time from engine.equity_between(p_user_id, p_run_id, null, null) e order by e.logical_time))) a;
end $$;
comment on function report_allocation is 'report_allocation(user, run, times): the rows of the view report_allocation at these times, which must be in order; null = at every mark.';

create or replace function report_benchmark(p_user_id bigint, p_run_id bigint, p_symbol text)
returns table (logical_time timestamptz, symbol text, units numeric, value numeric)
language plpgsql stable security definer set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_readable(p_user_id, p_run_id), engine.require_run(p_user_id, p_run_id);
  return query select b.* from engine.benchmark_rows(engine.read_curve(p_user_id, p_run_id), p_symbol) b;
end $$;
comment on function report_benchmark is 'report_benchmark(user, run, symbol) → (logical_time, symbol, units, value) at every mark of the run: what its external flows would have come to in this one symbol of its feed, bought and held. Each flow buys at the close, in fractions and without fees, or waits as cash for the symbol''s first bar; splits multiply the units, a dividend buys more at the close of its ex-date; money taken out sells. On a feed of adjusted prices splits and dividends are in the prices. TE201 for an unknown symbol, TE202 for one without a bar, TE204.';

create or replace view report_equity with (security_invoker = true) as
select r.user_id, r.run_id, e.logical_time, e.cash, e.market_value, e.equity, e.invested_capital, e.put_to_work, e.growth, e.drawdown
  from strategy_run r cross join lateral report_equity(r.user_id, r.run_id) e;
comment on view report_equity is 'One row a mark of a run, stored or computed, as equity_between has them. Money in the run''s currency: cash, market_value, equity; invested_capital: all that has come in from outside so far; put_to_work: what trades have taken so far, fees included, less what they brought. growth: how many times the first money the run stands at, flows taken out (1 + twr so far). drawdown: a negative share of the highest growth so far. growth, drawdown null where they have no meaning.';

create or replace view report_drawdown with (security_invoker = true) as
select r.user_id, r.run_id, d.place, d.peak_time, d.trough_time, d.recovery_time, d.depth
  from strategy_run r cross join lateral rows from (drawdowns(r.user_id, r.run_id)) with ordinality d (peak_time, trough_time, recovery_time, depth, place);
comment on view report_drawdown is 'One row a fall of a run''s growth below an earlier high: place 1 is the deepest. depth: a negative share. recovery_time null: still under water.';

create or replace view report_monthly_return with (security_invoker = true) as
select r.user_id, r.run_id, extract(year from g.first_date)::int as year, extract(month from g.first_date)::int as month, g.growth - 1 as twr, g.reason
  from strategy_run r cross join lateral report_growth(r.user_id, r.run_id, 'month') g;
comment on view report_monthly_return is 'One row a month of the market in which a run has a mark. twr: the time-weighted return since the last mark before it, a share, unrounded; (1 + twr) of all of them multiplied are 1 + the twr of performance. null with a reason where it has no meaning.';

create or replace view report_yearly_return with (security_invoker = true) as
select r.user_id, r.run_id, extract(year from g.first_date)::int as year, g.growth - 1 as twr, g.reason
  from strategy_run r cross join lateral report_growth(r.user_id, r.run_id, 'year') g;
comment on view report_yearly_return is 'One row a year of the market in which a run has a mark. twr: the time-weighted return since the last mark before it, a share, unrounded; (1 + twr) of all of them multiplied are 1 + the twr of performance. null with a reason where it has no meaning.';

create or replace view report_holding with (security_invoker = true) as
select r.user_id, r.run_id, h.symbol, h.ordinal, h.logical_time, h.trade_id, h.quantity, h.cost_basis, h.average_cost
  from strategy_run r cross join lateral report_holding(r.user_id, r.run_id) h;
comment on view report_holding is 'One row a change of what a run holds of a symbol, ordinal in order of time: by a trade, or by a split (trade_id null). quantity: units after it, negative = short; cost_basis: what they cost, buy fees included, in the run''s currency; average_cost: per unit. Costs are null where units came by other ways than trades.';

create or replace view report_price with (security_invoker = true) as
select r.user_id, r.run_id, t.symbol, p.logical_time, p.close, p.split_factor, p.quantity, p.average_cost
  from strategy_run r
 cross join lateral (select distinct x.symbol from paper_trade x where x.user_id = r.user_id and x.run_id = r.run_id) t
 cross join lateral report_price(r.user_id, r.run_id, t.symbol) p;
comment on view report_price is 'One row a bar of each symbol that a run has traded, from its first tick to its last: the close as the feed has it, the units held after that bar''s trades and their average cost. split_factor: units at the run''s last tick for one of then; close / split_factor is the price in today''s units.';

create or replace view report_allocation with (security_invoker = true) as
select r.user_id, r.run_id, a.logical_time, a.symbol, a.quantity, a.market_value, a.share
  from strategy_run r cross join lateral report_allocation(r.user_id, r.run_id) a;
comment on view report_allocation is 'One row a mark of a run and symbol held, at the closes as they are now, and one of cash (symbol null). share: of the sum of them, which is the equity; negative = short or borrowed; null where the sum is 0.';
