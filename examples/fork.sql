-- What if? A fork shares the history of a run up to one of its ticks and goes its own way from there: here without a stop and
-- with a larger SIP. It belongs to a user without a running run; the original stays as it is.
\set ON_ERROR_STOP on
\pset footer off
\pset null -
begin;
set local time zone 'UTC';

insert into feed (feed) values ('example');
insert into instrument (symbol, quantity_step) values ('TEAPOT', 1);
insert into price_bar (feed, symbol, logical_time, open, high, low, close)
select 'example', 'TEAPOT', b.day + time '21:00', b.price, b.price, b.price, b.price
  from (values (date '2024-01-05', 100), ('2024-02-05', 80), ('2024-03-05', 50), ('2024-04-05', 80), ('2024-05-06', 100)) b (day, price);
select create_user('ada') as ada, create_user('ada, what if') as what_if \gset
select start_run(:ada, 10000, 'example') as run \gset
select create_sip(:ada, :run, 'TEAPOT', 800, 'MONTHLY', '2024-01-05') as sip \gset
call replay(:ada, :run, '2024-01-05', '2024-02-06');

\echo 'After the tick of February Ada places a stop at 60. In March it sells her 18 units at 50.'
select status from place_order(:ada, :run, 'TEAPOT', 'SELL', 18, 'STOP', p_stop_price => 60) \gset
call replay(:ada, :run, '2024-02-06', '2024-05-31');
select order_id as id, source, side, trim_scale(quantity) as units, status, trim_scale(avg_fill_price) as price, closed_time::date as day
  from paper_order where user_id = :ada order by order_id;

\echo 'The fork of that tick: it holds 18 units, the stop is open again, and the SIP waits for March.'
select fork_run(:ada, :run, '2024-02-05 21:00Z', :what_if, 'without the stop') as fork \gset
select order_id as id, source, side, trim_scale(quantity) as units, status, trim_scale(avg_fill_price) as price, closed_time::date as day
  from paper_order where user_id = :what_if order by order_id;
select next_slot from sip_plan where user_id = :what_if;

\echo 'What if she had canceled it, and doubled the SIP instead?'
select status from cancel_order(:what_if, :fork, 3) \gset
select change_sip(:what_if, :fork, :sip, 1600) \gset
call replay(:what_if, :fork, '2024-02-06', '2024-05-31');
select a.logical_time::date as day, trim_scale(a.cash) as cash, trim_scale(a.equity) as equity,
       trim_scale(b.cash) as cash_if, trim_scale(b.equity) as equity_if
  from paper_equity_curve a join paper_equity_curve b using (logical_time)
 where a.user_id = :ada and b.user_id = :what_if order by a.logical_time;
select count(*) as violations from violations;
rollback;
