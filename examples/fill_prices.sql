-- At what price an order fills: the same four bars met by orders of every type, each named after what it shows.
-- A bar's time is its close; an order sees only bars later than its acceptance.
\set ON_ERROR_STOP on
\pset footer off
\pset null -
begin;
set local time zone 'UTC';

insert into feed (feed) values ('example');
insert into instrument (symbol) values ('TEAPOT');
insert into price_bar (feed, symbol, logical_time, open, high, low, close) values
  ('example', 'TEAPOT', '2024-01-01 21:00Z', 100, 100, 100, 100),
  ('example', 'TEAPOT', '2024-01-02 21:00Z', 100, 104,  99, 103),
  ('example', 'TEAPOT', '2024-01-03 21:00Z', 106, 108, 104, 105),
  ('example', 'TEAPOT', '2024-01-04 21:00Z', 105, 106, 100, 101),
  ('example', 'TEAPOT', '2024-01-05 21:00Z', 101, 103,  96,  97);
select create_user('ada') as ada \gset
select start_run(:ada, 10000, 'example') as run \gset
select status from place_order(:ada, :run, 'TEAPOT', 'BUY', 10) \gset
call tick(:ada, :run, '2024-01-01 21:00Z');

-- 10 units are held now, and the last price is 100
select count(*) as placed from (values
  ('market: the open',                               'BUY',  'MARKET',        null, null, null, null),
  ('limit: the open, if it is better',               'BUY',  'LIMIT',         102,  null, null, null),
  ('limit: else the limit',                          'BUY',  'LIMIT',         98,   null, null, null),
  ('stop: the stop',                                 'BUY',  'STOP',          null, 102,  null, null),
  ('stop: the open, if it jumps over the stop',      'BUY',  'STOP',          null, 105,  null, null),
  ('stop-limit: at the stop, the limit allows it',   'BUY',  'STOP_LIMIT',    103,  102,  null, null),
  ('stop-limit: came back to the limit by the close','BUY',  'STOP_LIMIT',    105,  107,  null, null),
  ('stop-limit: triggered, fills on a later bar',    'BUY',  'STOP_LIMIT',    102,  105,  null, null),
  ('stop-limit: triggered, not filled yet',          'BUY',  'STOP_LIMIT',    95,   105,  null, null),
  ('trailing stop: 5 below the highest price',       'SELL', 'TRAILING_STOP', null, null, 5,    null),
  ('trailing stop: 10 % below the highest price',    'SELL', 'TRAILING_STOP', null, null, null, 10)
) w (name, side, type, limit_price, stop_price, trail, percent)
cross join lateral place_order(:ada, :run, 'TEAPOT', w.side, 1, w.type, w.limit_price, w.stop_price, 'GTC', w.name, w.trail, w.percent) \gset

\echo 'The bars'
select logical_time::date as day, trim_scale(open) as open, trim_scale(high) as high, trim_scale(low) as low, trim_scale(close) as close
  from price_bar where feed = 'example' and logical_time > '2024-01-02' order by logical_time;

\echo 'After the second of them: what has reached its stop but not its limit is TRIGGERED and rests as a limit order.'
\echo 'Trailing stops have followed the high of 108.'
call replay(:ada, :run, '2024-01-02', '2024-01-04');
select client_order_id as order, status, trim_scale(limit_price) as "limit", trim_scale(stop_price) as stop, triggered_time::date as triggered
  from paper_order where user_id = :ada and status in ('PENDING', 'TRIGGERED') order by order_id;

\echo 'In the end'
call replay(:ada, :run, '2024-01-04', '2024-01-06');
select o.client_order_id as order, trim_scale(o.limit_price) as "limit", trim_scale(o.stop_price) as stop,
       o.status, t.logical_time::date as day, trim_scale(t.price) as price
  from paper_order o
  left join paper_trade t on t.user_id = o.user_id and t.run_id = o.run_id and t.order_id = o.order_id
 where o.user_id = :ada and o.order_id > 1 order by o.order_id;
select count(*) as violations from violations;
rollback;
