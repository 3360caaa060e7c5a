-- The run as canonical rows, and what is made of them: the digest, and the difference of two runs.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Every row of a run, without user and run id and without wall-clock times. A JSON array keeps nulls apart from empty
-- text; numbers lose trailing zeros and times become UTC epochs, so that neither scale nor session settings show.
-- ordinal orders the tables; key orders the rows of one.
create function engine.canonical_rows(p_user_id bigint, p_run_id bigint)
returns table (ordinal int, ledger text, key text, row_data jsonb)
language sql stable begin atomic
  select 1, 'paper_order', lpad(o.order_id::text, 20, '0'),
         jsonb_build_array(o.order_id, extract(epoch from o.logical_time), o.symbol, o.side, o.order_type,
           trim_scale(o.quantity), trim_scale(o.limit_price), trim_scale(o.stop_price), o.time_in_force, o.status,
           trim_scale(o.filled_quantity), trim_scale(o.avg_fill_price), o.reject_reason, o.client_order_id, o.source,
           trim_scale(o.reserve_price), extract(epoch from o.closed_time))
         -- what most orders do not have is there only where it is
         || coalesce(nullif(jsonb_strip_nulls(jsonb_build_object('trail_amount', trim_scale(o.trail_amount), 'trail_percent', trim_scale(o.trail_percent),
              'good_till', extract(epoch from o.good_till), 'triggered_time', extract(epoch from o.triggered_time), 'oco_id', o.oco_id,
              'parent_order_id', o.parent_order_id, 'replaces_order_id', o.replaces_order_id, 'take_profit_price', trim_scale(o.take_profit_price),
              'stop_loss_price', trim_scale(o.stop_loss_price), 'stop_loss_limit_price', trim_scale(o.stop_loss_limit_price))), '{}'), '[]')
    from paper_order o where o.user_id = p_user_id and o.run_id = p_run_id
  union all
  select 2, 'paper_trade', lpad(t.trade_id::text, 20, '0'),
         jsonb_build_array(t.trade_id, t.order_id, extract(epoch from t.logical_time), t.symbol, t.side,
           trim_scale(t.quantity), trim_scale(t.price), trim_scale(t.fees))
    from paper_trade t where t.user_id = p_user_id and t.run_id = p_run_id
  union all
  select 3, 'paper_position', p.symbol,
         jsonb_build_array(p.symbol, trim_scale(p.quantity), trim_scale(p.cost_basis), trim_scale(p.realized_pnl))
    from paper_position p where p.user_id = p_user_id and p.run_id = p_run_id
  union all
  select 4, 'cash_ledger', lpad(l.entry_id::text, 20, '0'),
         jsonb_build_array(l.entry_id, extract(epoch from l.logical_time), trim_scale(l.amount), l.cause, l.trade_id)
    from cash_ledger l where l.user_id = p_user_id and l.run_id = p_run_id
  union all
  select 5, 'mtm_ledger', to_char(m.logical_time at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'),
         jsonb_build_array(extract(epoch from m.logical_time), trim_scale(m.market_value), trim_scale(m.cost_basis),
           trim_scale(m.unrealized_pnl), trim_scale(m.realized_pnl))
    from mtm_ledger m where m.user_id = p_user_id and m.run_id = p_run_id
  union all
  select 6, 'paper_equity_curve', to_char(e.logical_time at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'),
         jsonb_build_array(extract(epoch from e.logical_time), trim_scale(e.cash), trim_scale(e.market_value), trim_scale(e.equity))
    from paper_equity_curve e where e.user_id = p_user_id and e.run_id = p_run_id
  union all
  select 9, 'dividend_due', jsonb_build_array(d.symbol, d.ex_date)::text,
         jsonb_build_array(d.symbol, d.ex_date, d.pay_date, trim_scale(d.quantity), trim_scale(d.amount), extract(epoch from d.paid_time), d.entry_id)
    from dividend_due d where d.user_id = p_user_id and d.run_id = p_run_id
  union all
  select 7, 'event_ledger', jsonb_build_array(v.event_type, v.event_key)::text,
         jsonb_build_array(extract(epoch from v.logical_time), v.event_type, v.event_key, v.payload)
    from event_ledger v where v.user_id = p_user_id and v.run_id = p_run_id
  union all
  select 8, 'trade_fee', lpad(f.trade_id::text, 20, '0') || ' ' || f.component,
         jsonb_build_array(f.trade_id, f.component, trim_scale(f.amount), f.fee_schedule, f.product, f.side, f.effective_from)
    from trade_fee f where f.user_id = p_user_id and f.run_id = p_run_id;
end;

create function engine.require_run(p_user_id bigint, p_run_id bigint) returns void
language plpgsql as $$
begin
  if not exists (select from strategy_run r where r.user_id = p_user_id and r.run_id = p_run_id) then
    perform engine.refuse('TE204', format('user_id=%s run_id=%s', p_user_id, p_run_id));
  end if;
end $$;

-- A hash of row hashes: 32 bytes a row, so that the longest run fits in memory.
create function engine.run_digest(p_user_id bigint, p_run_id bigint) returns text
language plpgsql stable as $$
begin
  perform engine.require_run(p_user_id, p_run_id);
  return (
    select encode(sha256(coalesce(string_agg(sha256(convert_to(r.ordinal || r.row_data::text, 'UTF8')), ''::bytea
                                             order by r.ordinal, r.key collate "C"), '')), 'hex')
      from engine.canonical_rows(p_user_id, p_run_id) r);
end $$;

-- The bars of a feed, hashed as a run's rows are. A symbol's bars are hashed first, so that a feed of any size fits.
create function engine.feed_digest(p_feed text) returns text
language plpgsql stable as $$
begin
  if not exists (select from feed f where f.feed = p_feed) then
    perform engine.refuse('TE201', format('feed=%s', p_feed));
  end if;
  return (
    select encode(sha256(coalesce(string_agg(s.digest, ''::bytea order by s.symbol collate "C"), '')), 'hex')
      from (select b.symbol,
                   sha256(string_agg(sha256(convert_to(jsonb_build_array(b.symbol, extract(epoch from b.logical_time), trim_scale(b.open),
                     trim_scale(b.high), trim_scale(b.low), trim_scale(b.close), trim_scale(b.volume))::text, 'UTF8')), ''::bytea
                     order by b.logical_time)) as digest
              from price_bar b where b.feed = p_feed group by b.symbol) s);
end $$;

create function engine.replay_diff(p_user_a bigint, p_run_a bigint, p_user_b bigint, p_run_b bigint)
returns table (ledger text, key text, row_a jsonb, row_b jsonb)
language plpgsql stable as $$
begin
  perform engine.require_run(p_user_a, p_run_a), engine.require_run(p_user_b, p_run_b);
  return query
    select coalesce(a.ledger, b.ledger), coalesce(a.key, b.key), a.row_data, b.row_data
      from engine.canonical_rows(p_user_a, p_run_a) a
      full join engine.canonical_rows(p_user_b, p_run_b) b on b.ordinal = a.ordinal and b.key = a.key
     where a.row_data::text is distinct from b.row_data::text
     order by coalesce(a.ordinal, b.ordinal), coalesce(a.key, b.key) collate "C";
end $$;
