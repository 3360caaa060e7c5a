-- Who may do what. Four roles of the server, made here when the installing role may make roles:
--   papertick_owner    owns tables and verbs, and nobody logs in as it. Its members may do everything
--   papertick_user     what a person may: read his own rows (row-level security) and call the verbs on his own runs
--   papertick_analyst  reads every run, changes nothing
--   papertick_api      the HTTP API's login: papertick_user, plus authenticate(). It acts for whose key it was shown
-- A verb runs as its owner, behind engine.require_own. Nothing here is executable by PUBLIC.
set local search_path = public, pg_temp;

do $$
declare
  c_rows constant text[] := array['strategy_run', 'engine_state', 'engine_status', 'paper_order', 'paper_trade', 'trade_fee', 'paper_position',
    'cash_ledger', 'mtm_ledger', 'paper_equity_curve', 'event_ledger', 'dividend_due', 'sip_plan', 'rebalance_plan', 'target_weight', 'risk_limit', 'forbidden_symbol', 'app_user'];
  c_market constant text[] := array['feed', 'instrument', 'price_bar', 'calendar', 'market_session', 'corporate_action', 'fee_schedule', 'schema_version'];
  c_private constant text[] := array['api_key', 'api_answer', 'user_login', 'acting'];
  c_readers constant text[] := array['equity_at', 'equity_between', 'run_digest', 'replay_diff', 'performance', 'performance_reasons',
    'performance_by_symbol', 'drawdowns', 'sip_schedule', 'rebalance_schedule', 'explain_order', 'run_stream', 'run_violations', 'all_violations', 'feed_status',
    'report_equity', 'report_growth', 'report_holding', 'report_price', 'report_allocation', 'report_benchmark', 'report_fill', 'report_instalment', 'report_gain', 'run_report', 'run_comparison', 'export_rows', 'leaderboard', 'feed_digest'];
  c_views constant text[] := array['violations', 'report_equity', 'report_drawdown', 'report_monthly_return', 'report_yearly_return', 'report_holding', 'report_price',
    'report_allocation', 'report_fill', 'report_instalment', 'report_gain', 'report_fee', 'report_rejection', 'report_sip_summary', 'report_rebalance_summary'];
  c_users constant text[] := array['start_run', 'stop_run', 'fail_run', 'delete_run', 'fork_run', 'import_run', 'place_order', 'place_oco', 'replace_order', 'cancel_order', 'preview_order',
    'create_sip', 'change_sip', 'pause_sip', 'resume_sip', 'preview_sip', 'end_sip', 'create_rebalance', 'end_rebalance', 'set_risk_limit', 'forbid_symbol', 'tick', 'replay', 'replay_part',
    'match_orders', 'try_execute_sip', 'try_rebalance', 'log_mtm', 'record_equity', 'list_keys', 'revoke_key'];
  c_api constant text[] := array['authenticate', 'claim_answer', 'keep_answer', 'create_user', 'delete_user', 'create_key', 'map_login', 'unmap_login', 'tick_all', 'forget_answers'];
  v record;
  v_has_roles boolean;
begin
  perform engine.make_roles();
  v_has_roles := (select count(*) from pg_roles r where r.rolname in ('papertick_owner', 'papertick_user', 'papertick_analyst', 'papertick_api')) = 4;
  perform engine.own(c_rows || c_market || c_private || c_views, c_readers || c_users || c_api, v_has_roles);

  for v in select t.name from unnest(c_rows) t (name) loop
    execute format('alter table %I enable row level security', v.name);
    execute format('drop policy if exists owner_has_all on %I', v.name);
    execute format('create policy owner_has_all on %I to %I using (true)', v.name,
                   (select pg_get_userbyid(c.relowner) from pg_class c where c.oid = v.name::regclass));
    -- an owner whom somebody logs in as would be forced into nothing but a pg_dump that refuses to run
    execute format('alter table %I %s row level security', v.name,
                   case when (select pg_get_userbyid(c.relowner) from pg_class c where c.oid = v.name::regclass) = 'papertick_owner' then 'force' else 'no force' end);
  end loop;
  if not v_has_roles then
    return;
  end if;

  execute format('grant select on %s to papertick_user, papertick_analyst', array_to_string(c_rows || c_market || c_views, ', '));
  for v in select t.name from unnest(c_rows) t (name) loop
    execute format('create policy own_rows on %I for select to papertick_user using (user_id = any ((select engine.own_user_ids())::bigint[]))', v.name);
    execute format('drop policy if exists analyst_reads_all on %I', v.name);
    execute format('create policy analyst_reads_all on %I for select to papertick_analyst using (true)', v.name);
  end loop;
  for v in select p.oid::regprocedure as routine, p.proname = any (c_readers) as is_read, p.proname = any (c_users) as is_used
             from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = any (c_readers || c_users || c_api) loop
    execute format('grant execute on routine %s to papertick_%s', v.routine, case when v.is_read then 'user, papertick_analyst' when v.is_used then 'user' else 'api' end);
  end loop;
  grant execute on function engine.own_user_ids(), engine.replay_events(bigint, bigint, timestamptz, timestamptz, int, boolean, int) to papertick_user;
  grant execute on function engine.tick_batch(text, timestamptz, int, boolean, timestamptz, bigint[], bigint[]) to papertick_api;
  -- market data goes in through COPY and so not through a verb: an administrator's key opens these tables to the API
  grant execute on function engine.acts_as_admin() to papertick_api;
  for v in select t.name from unnest(array['feed', 'instrument', 'price_bar', 'calendar', 'market_session', 'corporate_action']) t (name) loop
    execute format('alter table %I enable row level security', v.name);
    execute format('grant insert on %I to papertick_api', v.name);
    execute format('drop policy if exists anybody_reads on %I', v.name);
    execute format('create policy anybody_reads on %I for select using (true)', v.name);
    execute format('create policy administrator_adds on %I for insert to papertick_api with check (engine.acts_as_admin())', v.name);
  end loop;
end $$;
