-- What an order costs in India, delivery: one order, two partial fills. Fees are those of the order as a whole: the second
-- fill pays what is new, so rounding and the flat depository charge happen once. Each part names its row and its source.
\set ON_ERROR_STOP on
\pset footer off
\pset null -
begin;
set local time zone 'UTC';

insert into feed (feed) values ('example');
insert into instrument (symbol, quantity_step) values ('TEAPOT', 1);
insert into price_bar (feed, symbol, logical_time, open, high, low, close, volume) values
  ('example', 'TEAPOT', '2025-01-06 10:00Z', 500, 500, 500, 500, 1000),
  ('example', 'TEAPOT', '2025-01-07 10:00Z', 504, 504, 504, 504, 1000),
  ('example', 'TEAPOT', '2025-01-08 10:00Z', 508, 508, 508, 508, 1000),
  ('example', 'TEAPOT', '2025-01-09 10:00Z', 520, 520, 520, 520, 1000),
  ('example', 'TEAPOT', '2025-01-10 10:00Z', 524, 524, 524, 524, 1000);
select create_user('ada') as ada \gset
select start_run(:ada, 100000, 'example', p_currency => 'INR', p_fee_schedule => 'IN_DELIVERY', p_participation => 0.1) as run \gset
call tick(:ada, :run, '2025-01-06 10:00Z');

\echo 'Buy 150. A tenth of a bar''s 1000 units is 100, so the order takes two bars; then sell them again.'
select status from place_order(:ada, :run, 'TEAPOT', 'BUY', 150) \gset
call replay(:ada, :run, '2025-01-07', '2025-01-09');
select status from place_order(:ada, :run, 'TEAPOT', 'SELL', 150) \gset
call replay(:ada, :run, '2025-01-09', '2025-01-11');
select order_id as "order", trade_id as trade, side, trim_scale(quantity) as units, trim_scale(price) as price,
       trim_scale(quantity * price) as value, fees::numeric(20,2) as fees
  from paper_trade where user_id = :ada order by trade_id;

\echo 'The buy. STT, to the rupee: 50 for 50400, and 76 for the whole 75800, so the second fill pays 26; by itself it would be 25.'
\echo 'GST is 18 % of EXCHANGE and SEBI: of 1.60 it is 0.29, of 2.41 it is 0.43.'
select f.component, sum(f.amount) filter (where f.trade_id = 1)::numeric(20,2) as fill_1,
       sum(f.amount) filter (where f.trade_id = 2)::numeric(20,2) as fill_2, sum(f.amount)::numeric(20,2) as whole_order,
       trim_scale(s.rate_bps) as rate_bps, coalesce(array_to_string(s.of_components, ' + '), 'value') as of
  from trade_fee f join fee_schedule s using (fee_schedule, side, component, product, effective_from)
 where f.user_id = :ada and f.side = 'BUY'
 group by f.component, s.rate_bps, s.of_components order by f.component collate "C";

\echo 'The sale. The depository takes its 13.00 once, with the first fill; there is no stamp duty.'
select f.component, sum(f.amount) filter (where f.trade_id = 3)::numeric(20,2) as fill_1,
       sum(f.amount) filter (where f.trade_id = 4)::numeric(20,2) as fill_2, sum(f.amount)::numeric(20,2) as whole_order
  from trade_fee f where f.user_id = :ada and f.side = 'SELL'
 group by f.component order by f.component collate "C";

\pset format unaligned
select distinct format('%s, since %s: %s', f.component, f.effective_from, s.source) collate "C" as "Where the rates come from"
  from trade_fee f join fee_schedule s using (fee_schedule, side, component, product, effective_from)
 where f.user_id = :ada order by 1;
\pset format aligned

\echo
\echo 'The gain is net: 78200 - 75800 less the fees of both orders.'
select realized_pnl::numeric(20,2) as realized from paper_position where user_id = :ada;
select count(*) as violations from violations;
rollback;
