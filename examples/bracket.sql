-- A bracket: an entry with a target and a stop. What the entry fills gets two exits that share its quantity, so the end
-- of one cancels the other. Replacing the stop keeps the pair. A bar that reaches both exits takes the stop.
\set ON_ERROR_STOP on
\pset footer off
begin;
set local time zone 'UTC';

insert into feed (feed) values ('example');
insert into instrument (symbol) values ('TEAPOT');
insert into price_bar (feed, symbol, logical_time, open, high, low, close) values
  ('example', 'TEAPOT', '2024-01-01 21:00Z', 100, 100, 100, 100),
  ('example', 'TEAPOT', '2024-01-02 21:00Z', 100, 101,  97,  99),
  ('example', 'TEAPOT', '2024-01-03 21:00Z',  99, 105,  98, 104),
  ('example', 'TEAPOT', '2024-01-04 21:00Z', 104, 112, 103, 111),
  ('example', 'TEAPOT', '2024-01-05 21:00Z', 110, 116, 107, 112);
select create_user('ada') as ada \gset
select start_run(:ada, 10000, 'example') as run \gset
call tick(:ada, :run, '2024-01-01 21:00Z');

\echo 'Buy 10 at 98 or less; then sell them at 110, or at 95 if it falls.'
select order_id, status
  from place_order(:ada, :run, 'TEAPOT', 'BUY', 10, 'LIMIT', 98, p_take_profit => 110, p_stop_loss => 95);

\echo 'January 2 comes down to 97, within the bar. The exits exist now; later bars can reach them.'
call tick(:ada, :run, '2024-01-02 21:00Z');
select order_id as id, side, order_type as type, trim_scale(quantity) as units, trim_scale(limit_price) as "limit",
       trim_scale(stop_price) as stop, status, parent_order_id as entry, oco_id as pair
  from paper_order where user_id = :ada order by order_id;

\echo 'Raise the stop to 97: a new order takes the place of the old one, in the same pair.'
select order_id as id, status, replaces_order_id as replaces, oco_id as pair from replace_order(:ada, :run, 3, p_stop_price => 97);

\echo 'January 4 reaches the target. The stop goes with it; the one it replaced was canceled then.'
call replay(:ada, :run, '2024-01-03', '2024-01-05');
select order_id as id, order_type as type, trim_scale(stop_price) as stop, status, trim_scale(avg_fill_price) as filled_at,
       closed_time::date as closed
  from paper_order where user_id = :ada order by order_id;

\echo 'A second bracket, entered at the open of January 5, so that the whole bar comes after it.'
\echo 'The bar reaches 115 and 108, and nobody knows which came first: the stop it is.'
select order_id, status from place_order(:ada, :run, 'TEAPOT', 'BUY', 10, p_take_profit => 115, p_stop_loss => 108);
call tick(:ada, :run, '2024-01-05 21:00Z');
select order_id as id, side, order_type as type, status, trim_scale(avg_fill_price) as filled_at
  from paper_order where user_id = :ada and order_id >= 5 order by order_id;

\echo 'Cash: 10000 - 980 + 1100 - 1100 + 1080.'
select logical_time::date as day, trim_scale(cash) as cash, trim_scale(market_value) as value, trim_scale(equity) as equity
  from paper_equity_curve where user_id = :ada order by logical_time;
select count(*) as violations from violations;
rollback;
