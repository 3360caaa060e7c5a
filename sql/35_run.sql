-- The run: its verbs, and the guards that keep every other table of it honest.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

create function engine.create_user(p_name text) returns bigint
language plpgsql as $$
declare
  v_user_id bigint;
begin
  perform engine.require(btrim(p_name) <> '' and length(p_name) <= 200, 'argument=name must_be=1_to_200_characters');
  -- ids given by hand may lie ahead of the sequence: step over them
  loop
    insert into app_user (name) values (p_name) on conflict (user_id) do nothing returning user_id into v_user_id;
    exit when found;
  end loop;
  return v_user_id;
end $$;

-- A user who may have a new run. The constraints would say so too, but not before a run_id is spent.
create function engine.require_free_user(p_user_id bigint) returns void
language plpgsql as $$
declare
  v_run_id bigint;
begin
  if p_user_id is null or not exists (select from app_user u where u.user_id = p_user_id) then
    perform engine.refuse('23503', format('user_id=%s', coalesce(p_user_id::text, 'null')));
  end if;
  select r.run_id into v_run_id from strategy_run r where r.user_id = p_user_id and r.status = 'RUNNING';
  if found then
    perform engine.refuse('23505', format('user_id=%s run_id=%s', p_user_id, v_run_id));
  end if;
end $$;

-- Whoever is just ending the user's run ends it first. For a caller that holds no other run: it would be out of key order.
create function engine.await_user(p_user_id bigint) returns void
language plpgsql as $$
begin
  perform from strategy_run r where r.user_id = p_user_id and r.status = 'RUNNING' for share;
end $$;

-- A RUNNING run with its row alone.
-- writes: strategy_run
create function engine.add_run(
  p_user_id bigint, p_initial_cash numeric, p_feed text, p_name text,
  p_participation numeric, p_slippage_bps numeric, p_fee_schedule text,
  p_mark_policy text, p_currency text, p_volume_impact numeric, p_penetration_ticks int, p_max_price_age interval,
  p_reinvest_dividends boolean, p_initial_margin numeric, p_maintenance_margin numeric, p_borrow_rate numeric, p_margin_rate numeric
) returns bigint
language plpgsql as $$
declare
  v_run_id bigint;
begin
  perform engine.require_number('initial_cash', p_initial_cash);
  perform engine.require(p_initial_cash >= 0, format('argument=initial_cash value=%s must_be=not_negative', p_initial_cash));
  perform engine.require(coalesce(round(p_participation, 8) > 0 and p_participation <= 1, p_participation is null),
                         format('argument=participation value=%s must_be=above_0_to_1', p_participation));
  perform engine.require(p_slippage_bps between 0 and 10000, format('argument=slippage_bps value=%s must_be=0_to_10000', p_slippage_bps));
  perform engine.require(p_volume_impact between 0 and 100, format('argument=volume_impact value=%s must_be=0_to_100', p_volume_impact));
  perform engine.require(p_penetration_ticks between 0 and 1000000, format('argument=penetration_ticks value=%s must_be=0_to_1000000', p_penetration_ticks));
  perform engine.require(p_reinvest_dividends is not null, 'argument=reinvest_dividends must_be=true|false');
  perform engine.require(coalesce(p_max_price_age > '0' and p_max_price_age <= '400 years', true),
                         format('argument=max_price_age value=%s must_be=positive_and_at_most_400_years', p_max_price_age));
  perform from fee_schedule f where f.fee_schedule = p_fee_schedule for key share;   -- they stay while the run does
  perform engine.require(p_fee_schedule is null or found,
                         format('argument=fee_schedule value=%s must_be=%s', p_fee_schedule,
                                (select string_agg(distinct f.fee_schedule collate "C", '|' order by f.fee_schedule collate "C") from fee_schedule f)));
  perform engine.require(p_mark_policy in ('EVERY_TICK', 'SESSION', 'EVENTS'),
                         format('argument=mark_policy value=%s must_be=EVERY_TICK|SESSION|EVENTS', p_mark_policy));
  perform engine.require_margin(p_initial_margin, p_maintenance_margin, p_borrow_rate, p_margin_rate);
  perform engine.require(p_currency ~ '^[A-Z]{3,5}$', format('argument=currency value=%s must_be=three_to_five_capitals', left(p_currency, 40)));
  if not exists (select from feed f where f.feed = p_feed) then
    perform engine.refuse('TE201', format('feed=%s', p_feed));
  end if;
  perform engine.require_free_user(p_user_id);

  loop
    insert into strategy_run (user_id, name, feed, currency, status, initial_cash, mark_policy, fee_schedule,
                              participation, slippage_bps, volume_impact, penetration_ticks, max_price_age, reinvest_dividends,
                              initial_margin, maintenance_margin, borrow_rate, margin_rate)
    values (p_user_id, coalesce(p_name, ''), p_feed, p_currency, 'RUNNING',
            round(p_initial_cash, engine.minor_unit(p_currency)), p_mark_policy, p_fee_schedule,
            p_participation, p_slippage_bps, p_volume_impact, p_penetration_ticks, p_max_price_age, p_reinvest_dividends,
            p_initial_margin, p_maintenance_margin, p_borrow_rate, p_margin_rate)
    on conflict (user_id, run_id) do nothing
    returning run_id into v_run_id;
    exit when found;
  end loop;
  return v_run_id;
end $$;

-- A run that has just been added gets its state, if it has none, and its lifecycle begins.
-- writes: engine_state, engine_status, cash_ledger
create function engine.begin_run(p_user_id bigint, p_run_id bigint) returns bigint
language plpgsql as $$
begin
  perform engine.open_run(p_user_id, p_run_id);
  insert into engine_status (user_id, run_id, status) values (p_user_id, p_run_id, 'RUNNING');
  return p_run_id;
end $$;

-- The status change itself does the rest (engine.on_run_update), so that a hand-typed update does it too.
-- writes: strategy_run
create function engine.leave_running(p_user_id bigint, p_run_id bigint, p_status text, p_reason text) returns void
language plpgsql as $$
begin
  perform engine.lock_run(p_user_id, p_run_id);
  update strategy_run r set status = p_status, status_reason = p_reason
   where r.user_id = p_user_id and r.run_id = p_run_id and r.status = 'RUNNING';
end $$;

-- All that the run owns falls with its row. A tick in flight is waited for.
-- writes: strategy_run
create function engine.delete_run(p_user_id bigint, p_run_id bigint) returns void
language plpgsql as $$
begin
  perform engine.lock_run(p_user_id, p_run_id);
  delete from strategy_run r where r.user_id = p_user_id and r.run_id = p_run_id;
end $$;

-- BEFORE UPDATE of strategy_run.
-- The guard of the child tables still sees RUNNING, which is why the cancel happens before the row changes.
-- writes: paper_order, engine_status
create function engine.on_run_update() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_last timestamptz;
begin
  if old.status <> 'RUNNING' then
    perform engine.refuse('TE002', format('user_id=%s run_id=%s status=%s', old.user_id, old.run_id, old.status));
  end if;
  if (new.user_id, new.run_id) is distinct from (old.user_id, old.run_id) then
    perform engine.refuse('TE004', format('table=strategy_run user_id=%s run_id=%s column=key', old.user_id, old.run_id));
  end if;
  if (new.feed, new.currency, new.initial_cash, new.mark_policy, new.fee_schedule, new.participation, new.slippage_bps, new.volume_impact,
      new.penetration_ticks, new.max_price_age, new.reinvest_dividends, new.initial_margin, new.maintenance_margin, new.borrow_rate, new.margin_rate)
     is distinct from (old.feed, old.currency, old.initial_cash, old.mark_policy, old.fee_schedule, old.participation, old.slippage_bps, old.volume_impact,
      old.penetration_ticks, old.max_price_age, old.reinvest_dividends, old.initial_margin, old.maintenance_margin, old.borrow_rate, old.margin_rate)
     and exists (select from public.engine_state s where s.user_id = old.user_id and s.run_id = old.run_id) then
    perform engine.refuse('TE004', format('table=strategy_run user_id=%s run_id=%s column=feed,currency,initial_cash,mark_policy,execution', old.user_id, old.run_id));
  end if;
  if new.status in ('STOPPED', 'ERROR') then
    perform engine.require_read_committed(old.user_id, old.run_id);
    select s.last_logical_time into v_last
      from public.engine_state s where s.user_id = old.user_id and s.run_id = old.run_id;
    update public.paper_order o set status = 'CANCELED', closed_time = v_last, seen_time = null
     where o.user_id = old.user_id and o.run_id = old.run_id
       and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED');
    insert into public.engine_status (user_id, run_id, status, reason, logical_time)
    values (old.user_id, old.run_id, new.status, new.status_reason, v_last);
  end if;
  return new;
end $$;

-- The guard of a row names every operator, type and table in full: a trigger runs under its caller's path, where
-- what the caller made could shadow PostgreSQL's (a type in pg_temp even does so by itself), and to pin the path costs a
-- fifth of a guard's time. The others are pinned.
-- FOR SHARE conflicts with the status change, so STOP waits for this writer or this writer for STOP; the foreign key's
-- own lock does not. A parent that cannot be seen is not RUNNING.
create function engine.refuse_row(p_table text, p_user_id bigint, p_run_id bigint, p_status text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if p_status is null then
    perform engine.refuse('23503', format('table=%s user_id=%s run_id=%s', p_table, p_user_id, p_run_id));
  end if;
  perform engine.refuse('TE001', format('table=%s user_id=%s run_id=%s status=%s', p_table, p_user_id, p_run_id, p_status));
end $$;

-- BEFORE INSERT, or UPDATE of a state row: its run is RUNNING, and it stays with its run.
create function engine.guard_row() returns trigger
language plpgsql as $$
declare
  v_status pg_catalog.text;
begin
  if tg_op operator(pg_catalog.=) 'UPDATE' then
    if new.user_id operator(pg_catalog.<>) old.user_id or new.run_id operator(pg_catalog.<>) old.run_id then
      perform engine.refuse('TE004', pg_catalog.format('table=%s user_id=%s run_id=%s', tg_table_name, old.user_id, old.run_id));
    end if;
  end if;
  select r.status into v_status
    from public.strategy_run r
   where r.user_id operator(pg_catalog.=) new.user_id and r.run_id operator(pg_catalog.=) new.run_id for share;
  if v_status operator(pg_catalog.=) 'RUNNING' then
    return new;
  end if;
  perform engine.refuse_row(tg_table_name, new.user_id, new.run_id, v_status);
  return null;
end $$;

-- AFTER INSERT, a statement: the same, once per run instead of once per row.
create function engine.guard_rows() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v record;
  v_status text;
begin
  for v in select distinct n.user_id, n.run_id from new_rows n order by n.user_id, n.run_id loop
    select r.status into v_status
      from public.strategy_run r where r.user_id = v.user_id and r.run_id = v.run_id for share;
    if v_status = 'RUNNING' then
      continue;
    end if;
    perform engine.refuse_row(tg_table_name, v.user_id, v.run_id, v_status);
  end loop;
  return null;
end $$;

-- BEFORE UPDATE of a ledger row: never.
create function engine.guard_update() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform engine.refuse('TE004', format('table=%s user_id=%s run_id=%s', tg_table_name, old.user_id, old.run_id));
  return null;
end $$;

-- BEFORE DELETE: a row goes only by the cascade of its run, when the run is gone: gone, not merely hidden from who asks.
create function engine.guard_delete() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from public.strategy_run r where r.user_id = old.user_id and r.run_id = old.run_id) then
    perform engine.refuse('TE004', format('table=%s user_id=%s run_id=%s', tg_table_name, old.user_id, old.run_id));
  end if;
  return old;
end $$;

create function engine.guard_truncate() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform engine.refuse('TE004', format('table=%s operation=TRUNCATE', tg_table_name));
  return null;
end $$;
