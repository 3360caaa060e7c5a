-- The guard map. Every writer passes here: verbs, raw SQL, COPY, MERGE, ON CONFLICT; ENABLE ALWAYS, so that a session
-- in replica role passes here too.
--   run row     every UPDATE    key immutable, terminal is final, leaving RUNNING cancels open orders and logs
--   state       INSERT, UPDATE  only while RUNNING              DELETE  only with its run
--   ledger      INSERT          only while RUNNING              UPDATE, DELETE  never, DELETE only with its run
--   bulk        as ledger, but INSERT is guarded once a statement, after the rows are in: for the engine, which locked
--               the run long before. Everybody else is guarded before each row too, so that nobody holds a row that a
--               tick wants while waiting for the run that the tick holds. Faking the setting gains nothing but that.
--   all         TRUNCATE        never
set local search_path = public, pg_temp;

create trigger on_run_update before update on strategy_run for each row execute function engine.on_run_update();
alter table strategy_run enable always trigger on_run_update;

do $$
declare
  v_table text;
  v_kind text;
begin
  for v_table, v_kind in values
    ('engine_state', 'state'), ('paper_order', 'state'), ('paper_position', 'state'), ('sip_plan', 'state'),
    ('rebalance_plan', 'state'), ('target_weight', 'state'), ('risk_limit', 'state'), ('forbidden_symbol', 'state'),
    ('engine_status', 'ledger'), ('paper_trade', 'ledger'), ('cash_ledger', 'ledger'), ('event_ledger', 'ledger'),
    ('mtm_ledger', 'bulk'), ('paper_equity_curve', 'bulk')
  loop
    execute format('create trigger guard_row before %s on %I for each row execute function engine.guard_row(%L)',
                   case v_kind when 'bulk' then 'update or delete' else 'insert or update or delete' end,
                   v_table, case v_kind when 'state' then 'state' else 'ledger' end);
    execute format('alter table %I enable always trigger guard_row', v_table);
    if v_kind = 'bulk' then
      execute format('create trigger guard_inserted_rows after insert on %I referencing new table as new_rows '
                     'for each statement execute function engine.guard_inserted_rows()', v_table);
      execute format('alter table %I enable always trigger guard_inserted_rows', v_table);
      execute format('create trigger guard_inserted_row before insert on %I for each row '
                     'when (current_setting(''papertick.is_marking'', true) is distinct from ''yes'') '
                     'execute function engine.guard_row(''ledger'')', v_table);
      execute format('alter table %I enable always trigger guard_inserted_row', v_table);
    end if;
  end loop;

  for v_table in
    select c.relname from pg_class c
     where c.relnamespace = 'public'::regnamespace and c.oid in
       (select t.tgrelid from pg_trigger t where t.tgname in ('guard_row', 'on_run_update') and not t.tgisinternal)
     order by c.relname
  loop
    execute format('create trigger guard_truncate before truncate on %I for each statement execute function engine.guard_truncate()', v_table);
    execute format('alter table %I enable always trigger guard_truncate', v_table);
  end loop;
end $$;
