-- The guard map. Every writer passes here: verbs, raw SQL, COPY, MERGE, ON CONFLICT; ENABLE ALWAYS, so that a session
-- in replica role passes here too.
--   run row     every UPDATE    key immutable, terminal is final, leaving RUNNING cancels open orders and logs
--   state       INSERT, UPDATE  only while RUNNING, and never to another run          DELETE  only with its run
--   ledger      INSERT          only while RUNNING              UPDATE  never         DELETE  only with its run
--   fees        INSERT          no percentage of a percentage   UPDATE  never         DELETE  unless a run or a trade names it
--   all         TRUNCATE        never
-- An insert is guarded in one of two forms, and exactly one of them fires: a statement from a client has each row
-- guarded before it is there, so that nobody holds a row that a tick wants while waiting for the run that the tick
-- holds; a statement from inside a trigger has each run guarded once, after it. The engine writes many rows of runs
-- that it has locked from inside engine.posting's trigger. The depth of triggers is what tells them apart, because no
-- client can change it in the middle of a statement, as it could a setting.
set local search_path = public, pg_temp;

create trigger on_run_update before update on strategy_run for each row execute function engine.on_run_update();
alter table strategy_run enable always trigger on_run_update;

create trigger guard_insert before insert on fee_schedule for each row execute function engine.guard_fee_row();
create trigger guard_update before update on fee_schedule for each row execute function engine.guard_fee_update();
create trigger guard_delete before delete on fee_schedule for each row execute function engine.guard_fee_delete();
alter table fee_schedule enable always trigger guard_insert, enable always trigger guard_update, enable always trigger guard_delete;

create trigger write_posting instead of insert on engine.posting for each row execute function engine.write_posting();

do $$
declare
  v_table text;
  v_kind text;
begin
  for v_table, v_kind in values
    ('engine_state', 'state'), ('paper_position', 'state'), ('sip_plan', 'state'), ('rebalance_plan', 'state'),
    ('target_weight', 'state'), ('risk_limit', 'state'), ('forbidden_symbol', 'state'), ('dividend_due', 'state'), ('paper_order', 'bulk state'),
    ('engine_status', 'ledger'), ('paper_trade', 'bulk ledger'), ('trade_fee', 'bulk ledger'), ('cash_ledger', 'bulk ledger'),
    ('event_ledger', 'bulk ledger'), ('mtm_ledger', 'bulk ledger'), ('paper_equity_curve', 'bulk ledger')
  loop
    if v_kind like 'bulk%' then
      execute format('create trigger guard_insert_row before insert on %I for each row when (pg_trigger_depth() = 0) '
                     'execute function engine.guard_row()', v_table);
      execute format('create trigger guard_insert_rows after insert on %I referencing new table as new_rows '
                     'for each statement when (pg_trigger_depth() > 0) execute function engine.guard_rows()', v_table);
      execute format('alter table %I enable always trigger guard_insert_row, enable always trigger guard_insert_rows', v_table);
    else
      execute format('create trigger guard_insert before insert on %I for each row execute function engine.guard_row()', v_table);
      execute format('alter table %I enable always trigger guard_insert', v_table);
    end if;
    execute format('create trigger guard_update before update on %I for each row execute function %s', v_table,
                   case when v_kind like '%state' then 'engine.guard_row()' else 'engine.guard_update()' end);
    execute format('create trigger guard_delete before delete on %I for each row execute function engine.guard_delete()', v_table);
    execute format('alter table %I enable always trigger guard_update, enable always trigger guard_delete', v_table);
  end loop;

  for v_table in
    select c.relname from pg_class c
     where c.relnamespace = 'public'::regnamespace and c.oid in
       (select t.tgrelid from pg_trigger t where t.tgname in ('guard_update', 'on_run_update') and not t.tgisinternal)
     order by c.relname
  loop
    execute format('create trigger guard_truncate before truncate on %I for each statement execute function engine.guard_truncate()', v_table);
    execute format('alter table %I enable always trigger guard_truncate', v_table);
  end loop;
end $$;
