-- Margin accounts. Ada sells short: a fee every day, an order for which there is not enough margin, and a margin call that
-- closes her largest position. Bob buys on borrowed money. Rates are a year's: 0.365 is 0.1 % a day, 0.073 is 0.02 %.
\set ON_ERROR_STOP on
\pset footer off
\pset null -
begin;
set local time zone 'UTC';

insert into feed (feed) values ('example');
insert into instrument (symbol, quantity_step) values ('TEAPOT', 1), ('KETTLE', 1);
insert into price_bar (feed, symbol, logical_time, open, high, low, close)
select 'example', b.symbol, b.day + time '21:00', b.price, b.price, b.price, b.price
  from (values
    (date '2024-01-02', 'TEAPOT', 100), ('2024-01-02', 'KETTLE', 100),
    ('2024-01-03', 'TEAPOT', 100), ('2024-01-03', 'KETTLE', 100),
    ('2024-01-04', 'TEAPOT', 110), ('2024-01-04', 'KETTLE', 100),
    ('2024-01-05', 'TEAPOT', 120), ('2024-01-05', 'KETTLE', 100),
    ('2024-01-08', 'TEAPOT', 148), ('2024-01-08', 'KETTLE', 100),
    ('2024-01-09', 'TEAPOT', 160), ('2024-01-09', 'KETTLE', 100)) b (day, symbol, price);
select create_user('ada') as ada, create_user('bob') as bob \gset
select start_run(:ada, 10000, 'example', p_initial_margin => 0.5, p_maintenance_margin => 0.3, p_borrow_rate => 0.365) as ada_run,
       start_run(:bob, 10000, 'example', p_initial_margin => 0.5, p_maintenance_margin => 0.3, p_margin_rate => 0.073) as bob_run \gset
call tick_all('2024-01-02 21:00Z', 'example');

\echo 'Ada sells 100 TEAPOT and 20 KETTLE that she does not have: 12000 of exposure needs 6000 of equity, and there are 10000.'
select symbol, side, trim_scale(quantity) as units, status from place_order(:ada, :ada_run, 'TEAPOT', 'SELL', 100)
union all select symbol, side, trim_scale(quantity), status from place_order(:ada, :ada_run, 'KETTLE', 'SELL', 20);
select status from place_order(:bob, :bob_run, 'TEAPOT', 'BUY', 150) \gset
call tick_all('2024-01-03 21:00Z', 'example');
select symbol, trim_scale(quantity) as units, trim_scale(cost_basis) as cost from paper_position where user_id = :ada order by symbol collate "C";

\echo 'TEAPOT rises. The fee is 0.1 % of the value at the last tick for each day since, so Monday the 8th pays for three.'
call tick_all('2024-01-04 21:00Z', 'example');
call tick_all('2024-01-05 21:00Z', 'example');
call tick_all('2024-01-08 21:00Z', 'example');
select logical_time::date as day, cause, trim_scale(amount) as amount from cash_ledger where user_id = :ada order by entry_id;

\echo 'Equity is 0.3055 of the exposure: enough to keep it, not to add to it. What only reduces it is always allowed.'
select e.logical_time::date as day, trim_scale(e.equity) as equity, trim_scale(-e.market_value) as exposure, round(e.equity / -e.market_value, 4) as share
  from paper_equity_curve e where e.user_id = :ada and e.market_value <> 0 order by e.logical_time;
select side, trim_scale(quantity) as units, status, reject_reason from place_order(:ada, :ada_run, 'TEAPOT', 'SELL', 1);
select order_id, side, trim_scale(quantity) as units, status, reject_reason from place_order(:ada, :ada_run, 'TEAPOT', 'BUY', 1, 'LIMIT', 140);

\echo 'At 160 it is less than 0.3: TEAPOT, the largest position, is bought back at the close. KETTLE stays.'
call tick_all('2024-01-09 21:00Z', 'example');
select logical_time::date as day, event_type, payload from event_ledger where user_id = :ada;
select o.source, t.side, t.symbol, trim_scale(t.quantity) as units, trim_scale(t.price) as price
  from paper_trade t join paper_order o using (user_id, run_id, order_id) where t.user_id = :ada order by t.trade_id;
select symbol, trim_scale(quantity) as units, trim_scale(realized_pnl) as realized from paper_position where user_id = :ada order by symbol collate "C";

\echo 'Bob has bought for 15000 with 10000, and pays 0.02 % a day on what is owed.'
select logical_time::date as day, cause, trim_scale(amount) as amount, trim_scale(sum(amount) over (order by entry_id)) as cash
  from cash_ledger where user_id = :bob order by entry_id;
select count(*) as violations from violations;
rollback;
