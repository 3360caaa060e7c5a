-- Who is calling. The verbs run as the role that owns the tables; for whom they may do it is proven by the login of the
-- session, or by API keys that were shown to authenticate() in this very transaction. No setting of a session counts.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- The users for whom this session acts. Row-level security asks it once a statement.
create function engine.own_user_ids() returns bigint[]
language sql stable security definer set search_path = public, pg_temp
begin atomic
  select array(select l.user_id from user_login l where l.role_name = session_user
               union all
               select unnest(a.user_ids) from acting a where a.pid = pg_backend_pid() and a.xid = pg_current_xact_id_if_assigned());
end;

create function engine.acts_as_admin() returns boolean
language sql stable security definer set search_path = public, pg_temp
begin atomic
  select exists (select from acting a where a.pid = pg_backend_pid() and a.xid = pg_current_xact_id_if_assigned() and a.is_admin);
end;

-- The functions below are called from verbs, where current_user is the role that owns the tables.
create function engine.is_owner() returns boolean
language plpgsql stable as $$
begin
  return pg_has_role(session_user, current_user, 'MEMBER');
end $$;

create function engine.reads_all() returns boolean
language plpgsql stable as $$
begin
  return engine.is_owner()
      or exists (select from pg_roles r where r.rolname = 'papertick_analyst' and pg_has_role(session_user, r.oid, 'MEMBER'));
end $$;

-- A run of somebody else is answered as one that does not exist.
create function engine.require_own(p_user_id bigint, p_run_id bigint) returns void
language plpgsql stable as $$
begin
  if not (pg_has_role(session_user, current_user, 'MEMBER') or coalesce(p_user_id = any (engine.own_user_ids()), true)) then
    perform engine.refuse('TE204', format('user_id=%s run_id=%s', p_user_id, p_run_id));
  end if;
end $$;

create function engine.require_readable(p_user_id bigint, p_run_id bigint) returns void
language plpgsql stable as $$
begin
  if not engine.reads_all() then
    perform engine.require_own(p_user_id, p_run_id);
  end if;
end $$;

-- The same of users.
create function engine.require_own_user(p_user_id bigint) returns void
language plpgsql stable as $$
begin
  if not (engine.is_owner() or coalesce(p_user_id = any (engine.own_user_ids()), true)) then
    perform engine.refuse('23503', format('user_id=%s', p_user_id));
  end if;
end $$;

create function engine.is_admin() returns boolean
language plpgsql stable as $$
begin
  return engine.is_owner() or engine.acts_as_admin();
end $$;

create function engine.require_admin(p_verb text) returns void
language plpgsql stable as $$
begin
  if not engine.is_admin() then
    perform engine.refuse('TE301', format('verb=%s', p_verb));
  end if;
end $$;

-- writes: acting, api_key
create function engine.authenticate(p_key text) returns table (user_id bigint, key_id bigint, is_admin boolean)
language plpgsql as $$
#variable_conflict use_column
declare
  k api_key;
begin
  select a.* into k
    from api_key a
   where a.key_hash = sha256(convert_to(p_key, 'UTF8')) and a.revoked_at is null and coalesce(a.expires_at > now(), true);
  if k.key_id is null then
    perform engine.refuse('28000', 'key=unknown');
  end if;
  insert into acting as a (pid, xid, user_ids, is_admin) values (pg_backend_pid(), pg_current_xact_id(), array[k.user_id], k.is_admin)
      on conflict (pid) do update
     set xid = excluded.xid,
         user_ids = case when a.xid = excluded.xid then a.user_ids || excluded.user_ids else excluded.user_ids end,
         is_admin = excluded.is_admin or a.is_admin and a.xid = excluded.xid;
  -- to the minute, and never in anybody's way
  update api_key a set last_used_at = now()
   where a.key_id in (select u.key_id from api_key u
                       where u.key_id = k.key_id and coalesce(u.last_used_at < now() - interval '1 minute', true) for no key update skip locked);
  return query select k.user_id, k.key_id, k.is_admin;
end $$;

-- 192 random bits: two UUIDs of version 4, hashed, so that none of their fixed bits shows.
-- writes: api_key
create function engine.create_key(p_user_id bigint, p_label text, p_expires_at timestamptz, p_is_admin boolean)
returns table (key_id bigint, key text, prefix text)
language plpgsql as $$
#variable_conflict use_column
declare
  v_key constant text := 'pt_' || left(encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex'), 48);
begin
  perform engine.require(length(p_label) <= 200, 'argument=label must_be=at_most_200_characters');
  perform engine.require(p_expires_at is null or p_expires_at > now(), format('argument=expires_at value=%s must_be=later_than_now', engine.iso(p_expires_at)));
  perform engine.require(p_is_admin is not null, 'argument=is_admin must_be=true|false');
  if p_user_id is null or not exists (select from app_user u where u.user_id = p_user_id) then
    perform engine.refuse('23503', format('user_id=%s', p_user_id));
  end if;
  return query
    insert into api_key as k (user_id, is_admin, label, prefix, key_hash, expires_at)
    values (p_user_id, p_is_admin, p_label, left(v_key, 11), sha256(convert_to(v_key, 'UTF8')), p_expires_at)
    returning k.key_id, v_key, k.prefix;
end $$;

-- writes: api_key
create function engine.revoke_key(p_user_id bigint, p_key_id bigint) returns timestamptz
language plpgsql as $$
declare
  v_revoked_at timestamptz;
begin
  update api_key k set revoked_at = coalesce(k.revoked_at, now())
   where k.user_id = p_user_id and k.key_id = p_key_id returning k.revoked_at into v_revoked_at;
  if not found then
    perform engine.refuse('TE204', format('user_id=%s key_id=%s', p_user_id, p_key_id));
  end if;
  return v_revoked_at;
end $$;

-- What became of a request: NEW, do it and keep the answer; DONE, here it is; OTHER, the key was used for another request;
-- BUSY, it is being done just now.
create function engine.claim_answer(p_user_id bigint, p_idempotency_key text, p_fingerprint bytea)
returns table (state text, status int, content_type text, location text, body bytea)
language plpgsql as $$
declare
  a api_answer;
begin
  perform engine.require(length(p_idempotency_key) between 1 and 255, 'argument=idempotency_key must_be=1_to_255_characters');
  if not pg_try_advisory_xact_lock(hashtextextended('answer ' || p_user_id || ' ' || p_idempotency_key, 0)) then
    return query select 'BUSY', null::int, null::text, null::text, null::bytea;
    return;
  end if;
  select x.* into a from api_answer x where x.user_id = p_user_id and x.idempotency_key = p_idempotency_key;
  if not found then
    return query select 'NEW', null::int, null::text, null::text, null::bytea;
  elsif a.fingerprint <> p_fingerprint then
    return query select 'OTHER', null::int, null::text, null::text, null::bytea;
  else
    return query select 'DONE', a.status, a.content_type, a.location, a.body;
  end if;
end $$;
