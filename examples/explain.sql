-- Why did it not fill? explain_order tells the life of an order from what is stored and from the bars: a price that was not
-- reached and by how much, a bar with too little volume, a stop that was met and a limit that was not, cash that was gone.
\set ON_ERROR_STOP on
\pset footer off
\pset null -
begin;
set local time zone 'UTC';

insert into feed (feed) values ('example');
insert into instrument (symbol, quantity_step) values ('TEAPOT', 1);
insert into price_bar (feed, symbol, logical_time, open, high, low, close, volume) values
  ('example', 'TEAPOT', '2024-01-01 21:00Z', 100, 100, 100, 100, 1000),
  ('example', 'TEAPOT', '2024-01-02 21:00Z', 100, 103,  98, 102, 400),
  ('example', 'TEAPOT', '2024-01-03 21:00Z', 102, 106, 101, 105,   0),
  ('example', 'TEAPOT', '2024-01-04 21:00Z', 106, 108, 105, 106, 500),
  ('example', 'TEAPOT', '2024-01-05 21:00Z', 106, 107, 104, 105, 500);
select create_user('ada') as ada \gset
select start_run(:ada, 10000, 'example', p_participation => 0.1) as run \gset
call tick(:ada, :run, '2024-01-01 21:00Z');
select status from place_order(:ada, :run, 'TEAPOT', 'BUY', 10, 'LIMIT', 95) \gset
select status from place_order(:ada, :run, 'TEAPOT', 'BUY', 70) \gset
select status from place_order(:ada, :run, 'TEAPOT', 'BUY', 2, 'STOP_LIMIT', 103, 104) \gset
select status from place_order(:ada, :run, 'TEAPOT', 'BUY', 5, 'LIMIT', 101, p_time_in_force => 'DAY') \gset
call replay(:ada, :run, '2024-01-02', '2024-01-05');
select status from place_order(:ada, :run, 'TEAPOT', 'BUY', 20, 'LIMIT', 104) \gset
call replay(:ada, :run, '2024-01-05', '2024-01-06');

\echo 'Five orders'
select order_id as id, order_type as type, trim_scale(quantity) as units, trim_scale(limit_price) as "limit", trim_scale(stop_price) as stop,
       time_in_force as tif, status
  from paper_order where user_id = :ada order by order_id;

\echo '1 waits: in four bars the price came down to 98 at best, 3 too many.'
\echo '2 took a tenth of what was traded: 40 of 400, nothing of nothing, then the rest.'
\echo '3 met its stop on the 3rd, which closed above the limit of 103; later bars stayed above it.'
\echo '4 was good for the day it was placed on, the 1st; the bar that would have filled it is of the 2nd.'
\echo '5 needs 2080; of 2820 in cash 950 and 206 are held back for 1 and 3.'
select o.order_id as id, e.logical_time::date as day, left(e.detail ->> 'to', 10) as "to", e.code,
       e.detail - '{from,to,source,reserve_price,time_in_force,trade_id,fees,filled_quantity}'::text[] as detail
  from paper_order o cross join lateral explain_order(o.user_id, o.run_id, o.order_id) with ordinality e
 where o.user_id = :ada order by o.order_id, e.ordinality;
select count(*) as violations from violations;
rollback;
