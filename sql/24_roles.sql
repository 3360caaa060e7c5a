-- Roles and ownership: what 99_grants needs before it can say who may do what.
set local search_path = public, pg_temp;

-- A role that is there already is left as it is: roles belong to the server and not to one database.
create function engine.make_roles() returns void
language plpgsql as $$
declare
  v_role text;
begin
  if not (select r.rolsuper or r.rolcreaterole from pg_roles r where r.rolname = current_user) then
    return;
  end if;
  foreach v_role in array array['papertick_owner', 'papertick_user', 'papertick_analyst', 'papertick_api'] loop
    continue when exists (select from pg_roles r where r.rolname = v_role);
    begin
      execute format('create role %I nologin', v_role);
      if v_role = 'papertick_api' then
        -- without a password it can log in only where the server asks for none
        alter role papertick_api login;
        grant papertick_user to papertick_api;
        alter role papertick_api set statement_timeout = '10s';
        alter role papertick_api set lock_timeout = '2s';
        alter role papertick_api set idle_in_transaction_session_timeout = '5s';
      end if;
    exception when duplicate_object or unique_violation then
      null; -- another database of this server was quicker
    end;
  end loop;
end $$;

-- Tables, verbs and the engine get their owner, when a superuser installs; else they stay with who installs, who then is
-- the owner. What can be executed by PUBLIC is so no more.
create function engine.own(p_tables text[], p_verbs text[], p_has_roles boolean) returns void
language plpgsql as $$
declare
  v_gives constant boolean := p_has_roles and (select r.rolsuper from pg_roles r where r.rolname = current_user);
  v_relation regclass;
  v_routine regprocedure;
begin
  for v_routine in
    select p.oid::regprocedure from pg_proc p
     where p.pronamespace = 'engine'::regnamespace or p.pronamespace = 'public'::regnamespace and p.proname = any (p_verbs)
  loop
    execute format('revoke execute on routine %s from public', v_routine);
    if v_gives then
      execute format('alter routine %s owner to papertick_owner', v_routine);
    end if;
  end loop;
  if v_gives then
    for v_relation in
      select c.oid::regclass from pg_class c
       where c.relkind = 'v' and c.relnamespace = 'engine'::regnamespace
          or c.relkind in ('r', 'v') and c.relnamespace = 'public'::regnamespace and c.relname = any (p_tables)
    loop
      execute format('alter table %s owner to papertick_owner', v_relation);
    end loop;
    alter schema engine owner to papertick_owner;
    revoke create on schema public from public;
  end if;
end $$;
