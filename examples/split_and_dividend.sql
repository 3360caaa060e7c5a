-- A split of 3 new units for 2 old ones: the position and the open orders follow the exact ratio, half a unit is paid in
-- cash. Then a dividend: owed to who held before the ex-date, paid on the pay date, and reinvested.
\set ON_ERROR_STOP on
\pset footer off
begin;
set local time zone 'UTC';

insert into feed (feed) values ('example');
insert into instrument (symbol, quantity_step, price_tick) values ('TEAPOT', 1, 0.05);
insert into price_bar (feed, symbol, logical_time, open, high, low, close) values
  ('example', 'TEAPOT', '2024-01-02 21:00Z', 300, 300, 300, 300),
  ('example', 'TEAPOT', '2024-01-03 21:00Z', 300, 310, 299, 306),
  ('example', 'TEAPOT', '2024-01-04 21:00Z', 204, 206, 203, 205),
  ('example', 'TEAPOT', '2024-01-05 21:00Z', 210, 215, 209, 212),
  ('example', 'TEAPOT', '2024-01-10 21:00Z', 220, 223, 219, 222);
insert into corporate_action (symbol, ex_date, action_type, ratio_numerator, ratio_denominator)
values ('TEAPOT', '2024-01-04', 'SPLIT', 3, 2);
insert into corporate_action (symbol, ex_date, action_type, amount, pay_date)
values ('TEAPOT', '2024-01-05', 'DIVIDEND', 12, '2024-01-10');

select create_user('ada') as ada \gset
select start_run(:ada, 20000, 'example', p_reinvest_dividends => true) as run \gset
select status from place_order(:ada, :run, 'TEAPOT', 'BUY', 25) \gset
call tick(:ada, :run, '2024-01-02 21:00Z');
select status from place_order(:ada, :run, 'TEAPOT', 'SELL', 25, 'STOP', p_stop_price => 270.10) \gset
select status from place_order(:ada, :run, 'TEAPOT', 'BUY', 10, 'LIMIT', 250.10) \gset
call tick(:ada, :run, '2024-01-03 21:00Z');

\echo 'The evening before the split: 25 units, a stop and a limit order.'
select trim_scale(quantity) as units, trim_scale(cost_basis) as cost, trim_scale(realized_pnl) as realized
  from paper_position where user_id = :ada;
select order_id as id, side, order_type as type, trim_scale(quantity) as units, trim_scale(coalesce(limit_price, stop_price)) as price
  from paper_order where user_id = :ada and status = 'PENDING' order by order_id;

call tick(:ada, :run, '2024-01-04 21:00Z');
\echo 'After it: 37.5 units, of which 0.5 is sold at the last close, 306 * 2/3 = 204, and takes 0.5/37.5 of the cost with it.'
select trim_scale(quantity) as units, trim_scale(cost_basis) as cost, trim_scale(realized_pnl) as realized
  from paper_position where user_id = :ada;
\echo 'Orders: quantities go down to the step, 180.066… and 166.733… to the tick, both down: the seller''s stop and the buyer''s limit.'
select order_id as id, side, order_type as type, trim_scale(quantity) as units, trim_scale(coalesce(limit_price, stop_price)) as price
  from paper_order where user_id = :ada and status = 'PENDING' order by order_id;

\echo 'The ex-date. 3 more units are bought on it, too late: 12 a unit is owed on the 37 held before.'
select status from place_order(:ada, :run, 'TEAPOT', 'BUY', 3) \gset
call tick(:ada, :run, '2024-01-05 21:00Z');
select p.symbol, trim_scale(p.quantity) as held, trim_scale(d.quantity) as entitled, trim_scale(d.amount) as owed, d.pay_date, d.paid_time
  from paper_position p join dividend_due d using (user_id, run_id, symbol) where p.user_id = :ada;

\echo 'The pay date: 444 in cash, which buys 2 units at the close of 222.'
call tick(:ada, :run, '2024-01-10 21:00Z');
select e.entry_id as entry, e.logical_time::date as day, e.cause, trim_scale(e.amount) as amount, o.source as bought_by,
       trim_scale(t.quantity) as units
  from cash_ledger e
  left join paper_trade t on t.user_id = e.user_id and t.run_id = e.run_id and t.trade_id = e.trade_id
  left join paper_order o on o.user_id = t.user_id and o.run_id = t.run_id and o.order_id = t.order_id
 where e.user_id = :ada order by e.entry_id;
\echo 'The event ledger says what has happened to the units held.'
select logical_time::date as day, event_type, payload ->> 'quantity' as held, payload ->> 'units' as change,
       payload ->> 'cash_in_lieu' as in_lieu, payload ->> 'per_unit' as per_unit, payload ->> 'pay_date' as pay_date
  from event_ledger where user_id = :ada order by logical_time, event_type collate "C", event_key collate "C";
select count(*) as violations from violations;
rollback;
