-- Rebalancing: half KETTLE, three tenths SAUCER, the rest in cash, each month, but only what is further from its target than
-- 5 % of equity. Ada goes to the target, Bob to the edge of the band. A SIP's money goes where it lacks most, selling nothing.
\set ON_ERROR_STOP on
\pset footer off
begin;
set local time zone 'UTC';

insert into feed (feed) values ('example');
insert into instrument (symbol, quantity_step) values ('KETTLE', 1), ('SAUCER', 1);
insert into price_bar (feed, symbol, logical_time, open, high, low, close)
select 'example', b.symbol, b.day + time '21:00', b.price, b.price, b.price, b.price
  from (values
    (date '2024-01-05', 'KETTLE', 100), ('2024-01-05', 'SAUCER', 50),
    ('2024-02-05', 'KETTLE', 110), ('2024-02-05', 'SAUCER', 50),
    ('2024-02-20', 'KETTLE', 110), ('2024-02-20', 'SAUCER', 50),
    ('2024-03-05', 'KETTLE', 150), ('2024-03-05', 'SAUCER', 50)) b (day, symbol, price);
select create_user('ada') as ada, create_user('bob') as bob \gset
select start_run(:ada, 10000, 'example', 'Ada') as ada_run, start_run(:bob, 10000, 'example', 'Bob') as bob_run \gset
select create_rebalance(:ada, :ada_run, '{"KETTLE": 0.5, "SAUCER": 0.3}', 'MONTHLY', '2024-01-05', 0.05) as ada_plan,
       create_rebalance(:bob, :bob_run, '{"KETTLE": 0.5, "SAUCER": 0.3}', 'MONTHLY', '2024-01-05', 0.05, p_to_band_edge => true) as bob_plan \gset
select create_sip(:ada, :ada_run, null, 1000, 'MONTHLY', '2024-02-20', p_whole_units => true, p_rebalance_plan => :ada_plan) as ada_sip,
       create_sip(:bob, :bob_run, null, 1000, 'MONTHLY', '2024-02-20', p_whole_units => true, p_rebalance_plan => :bob_plan) as bob_sip \gset

-- every run of the feed, one time after the other
call tick_all('2024-01-05 21:00Z', 'example');
call tick_all('2024-02-05 21:00Z', 'example');
call tick_all('2024-02-20 21:00Z', 'example');
call tick_all('2024-03-05 21:00Z', 'example');

\echo 'January: Ada buys 5000 and 3000. Bob stops at the edges, 500 below.'
\echo 'February, Ada: KETTLE is 5500 of 10500, 250 above its target and within the band of 525; SAUCER is 150 below. Nothing trades.'
\echo 'The SIP, Ada: with its 1000 the two are worth 9500, of which 5/8 and 3/8 are 5937.50 and 3562.50. SAUCER lacks 562.50'
\echo 'and comes first; KETTLE has the rest, 437.50. In whole units that is 880, and 120 stays for the next slot.'
\echo 'March, Ada: KETTLE is 7950 of 12620, 1640 above 6310, so 11 are sold; SAUCER is 236 below 3786, within 631.'
select r.name as who, t.logical_time::date as day, o.source, t.side, t.symbol, trim_scale(t.quantity) as units, trim_scale(t.price) as price,
       trim_scale(t.quantity * t.price) as value
  from paper_trade t join paper_order o using (user_id, run_id, order_id) join strategy_run r using (user_id, run_id)
 where t.user_id in (:ada, :bob) order by t.user_id, t.trade_id;

\echo 'Each slot is one event, also when there was nothing to trade.'
select r.name as who, v.logical_time::date as day, v.event_type, v.event_key as "plan:slot", v.payload ->> 'equity' as equity
  from event_ledger v join strategy_run r using (user_id, run_id)
 where v.user_id in (:ada, :bob) order by v.user_id, v.logical_time, v.event_type collate "C", v.event_key collate "C";

\echo 'In the end'
select r.name as who, p.symbol, trim_scale(p.quantity) as units, trim_scale(p.quantity * b.close) as value,
       trim_scale(w.weight) as weight, trim_scale(round(p.quantity * b.close / e.equity, 4)) as has
  from strategy_run r
  join paper_position p using (user_id, run_id)
  join target_weight w using (user_id, run_id, symbol)
  join paper_equity_curve e using (user_id, run_id)
  join price_bar b using (feed, symbol, logical_time)
 where r.user_id in (:ada, :bob) and b.logical_time = '2024-03-05 21:00Z' order by r.user_id, p.symbol collate "C";
select count(*) as violations from violations;
rollback;
