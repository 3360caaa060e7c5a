-- Systematic investment plans: one that grows by 10 % every two months, buys whole units, carries what is left to the next
-- month and pauses in April; and a basket of two symbols in three instalments. Each month ends as exactly one event.
\set ON_ERROR_STOP on
\pset footer off
\pset null -
begin;
set local time zone 'UTC';

insert into feed (feed) values ('example');
insert into instrument (symbol) values ('TEAPOT'), ('KETTLE'), ('SAUCER');
insert into price_bar (feed, symbol, logical_time, open, high, low, close)
select 'example', b.symbol, b.day + time '21:00', b.price, b.price, b.price, b.price
  from (values
    (date '2024-01-05', 'TEAPOT', 300), ('2024-01-05', 'KETTLE', 50), ('2024-01-05', 'SAUCER', 20),
    ('2024-02-05', 'TEAPOT', 320), ('2024-02-05', 'KETTLE', 60), ('2024-02-05', 'SAUCER', 25),
    ('2024-03-05', 'TEAPOT', 310), ('2024-03-05', 'KETTLE', 40), ('2024-03-05', 'SAUCER', 10),
    ('2024-04-05', 'TEAPOT', 350), ('2024-05-06', 'TEAPOT', 340), ('2024-06-05', 'TEAPOT', 360)) b (day, symbol, price);
select create_user('ada') as ada \gset
select start_run(:ada, 10000, 'example') as run \gset

select create_sip(:ada, :run, 'TEAPOT', 1000, 'MONTHLY', '2024-01-05',
                  p_step_up_percent => 10, p_step_up_every => 2, p_whole_units => true) as teapots \gset
select pause_sip(:ada, :run, :teapots, '2024-04-01', '2024-04-30') \gset
select create_sip(:ada, :run, null, 400, 'MONTHLY', '2024-01-05',
                  p_basket => '{"KETTLE": 0.75, "SAUCER": 0.25}', p_instalments => 3) as basket \gset
call replay(:ada, :run, '2024-01-01', '2024-06-30');

\echo 'The first plan. Money = the month''s amount and what was left before. April is skipped, and so is its money;'
\echo 'the steps go on counting. May 5 is a Sunday without a bar, so its slot waits for the 6th.'
select v.logical_time::date as day, m.slot, m.amount, v.event_type as event, trim_scale(t.quantity) as units,
       trim_scale(t.price) as price, trim_scale(t.quantity * t.price) as spent,
       sum(case when t.trade_id is not null then m.amount - trim_scale(t.quantity * t.price) end) over (order by m.slot) as left_over
  from event_ledger v
 cross join lateral (select split_part(v.event_key, ':', 2)::int as slot, (v.payload ->> 'amount')::numeric as amount) m
  left join paper_trade t on t.user_id = v.user_id and t.run_id = v.run_id and t.order_id = (v.payload ->> 'order_id')::bigint
 where v.user_id = :ada and v.event_key like :'teapots' || ':%'
 order by m.slot;

\echo 'The plan carries the same.'
select trim_scale(residual) as residual, next_slot from sip_plan where user_id = :ada and sip_id = :teapots;

\echo 'The basket: 300 and 100 a month, all of its orders or none, three times.'
select v.logical_time::date as day, t.symbol, trim_scale(t.quantity) as units, trim_scale(t.price) as price, trim_scale(t.quantity * t.price) as spent
  from event_ledger v
  join paper_trade t on t.user_id = v.user_id and t.run_id = v.run_id and v.payload -> 'orders' @> to_jsonb(t.order_id)
 where v.user_id = :ada and v.event_key like :'basket' || ':%'
 order by v.logical_time, t.symbol collate "C";

\echo 'What it came to.'
select symbol, trim_scale(quantity) as units, trim_scale(cost_basis) as cost
  from paper_position where user_id = :ada order by symbol collate "C";
select trim_scale(cash) as cash from engine_state where user_id = :ada;
select count(*) as violations from violations;
rollback;
