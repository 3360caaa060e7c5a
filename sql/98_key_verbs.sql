-- The verbs of identity: keys, logins, and what a door to the engine needs. Written as those in 96_verbs are.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

create or replace function authenticate(p_key text) returns table (user_id bigint, key_id bigint, is_admin boolean)
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  perform from public.strategy_run where false;
  return query select a.* from engine.authenticate(p_key) a;
end $$;
comment on function authenticate is 'authenticate(key) → (user_id, key_id, is_admin): until its end, this transaction acts for the key''s user. 28000 for a key that is unknown, revoked or expired.
key: A key as create_key has returned it.';

create or replace function create_key(p_user_id bigint, p_label text default '', p_expires_at timestamptz default null, p_is_admin boolean default false)
returns table (key_id bigint, key text, prefix text)
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  perform from public.strategy_run where false;
  if p_is_admin is not false or not engine.is_admin() then
    perform engine.require_admin('create_key'), engine.require_own_user(p_user_id);
  end if;
  return query select k.* from engine.create_key(p_user_id, p_label, p_expires_at, p_is_admin) k;
end $$;
comment on function create_key is 'create_key(user, label, expires_at, is_admin) → (key_id, key, prefix). The key is shown this once; only its SHA-256 is kept. expires_at null: it does not expire. is_admin: it may also call what is not one user''s. For an administrator. 23503 for an unknown user, TE101, TE301.';

create or replace function revoke_key(p_user_id bigint, p_key_id bigint) returns timestamptz
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  perform from public.strategy_run where false;
  if not engine.is_admin() then
    perform engine.require_own_user(p_user_id);
  end if;
  return engine.revoke_key(p_user_id, p_key_id);
end $$;
comment on function revoke_key is 'revoke_key(user, key_id) → when it was revoked; again, the first time. From then on no new transaction can use it. TE204 for an unknown key.';

create or replace function list_keys(p_user_id bigint)
returns table (key_id bigint, label text, prefix text, is_admin boolean, created_at timestamptz, expires_at timestamptz, revoked_at timestamptz, last_used_at timestamptz)
language plpgsql stable security definer set search_path = public, pg_temp as $$
begin
  perform from public.strategy_run where false;
  if not engine.is_admin() then
    perform engine.require_own_user(p_user_id);
  end if;
  return query select k.key_id, k.label, k.prefix, k.is_admin, k.created_at, k.expires_at, k.revoked_at, k.last_used_at
                 from api_key k where k.user_id = p_user_id order by k.key_id;
end $$;
comment on function list_keys is 'list_keys(user) → (key_id, label, prefix, is_admin, created_at, expires_at, revoked_at, last_used_at) of its API keys, without their secrets, revoked and expired ones included. last_used_at is to the minute. TE204 for somebody else''s.';

create or replace function claim_answer(p_user_id bigint, p_idempotency_key text, p_fingerprint bytea)
returns table (state text, status int, content_type text, location text, body bytea)
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own_user(p_user_id);
  return query select a.* from engine.claim_answer(p_user_id, p_idempotency_key, p_fingerprint) a;
end $$;
comment on function claim_answer is 'claim_answer(user, idempotency_key, fingerprint) → (state, status, content_type, location, body). fingerprint is the SHA-256 of method, path and body. NEW: do the request and keep_answer in this transaction. DONE: it was done, and answered with this. OTHER: the key belongs to another request. BUSY: another transaction is doing it.';

create or replace function keep_answer(p_user_id bigint, p_idempotency_key text, p_fingerprint bytea, p_status int, p_content_type text, p_location text, p_body bytea)
returns void
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_own_user(p_user_id);
  insert into api_answer (user_id, idempotency_key, fingerprint, status, content_type, location, body)
  values (p_user_id, p_idempotency_key, p_fingerprint, p_status, p_content_type, p_location, p_body);
end $$;
comment on function keep_answer is 'keep_answer(user, idempotency_key, fingerprint, status, content_type, location, body): what the request of claim_answer was answered, in the transaction of its effect. 23505 when it has an answer.';

create or replace function forget_answers(p_before timestamptz) returns bigint
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_count bigint;
begin
  perform from public.strategy_run where false;
  perform engine.require_admin('forget_answers');
  delete from api_answer a where a.created_at < p_before;
  get diagnostics v_count = row_count;
  return v_count;
end $$;
comment on function forget_answers is 'forget_answers(before) → how many kept answers were older, and are gone: their requests would be done again. For an administrator: TE301.
before: Answers kept before this time go, by the clock on the wall.';

create or replace function map_login(p_role_name name, p_user_id bigint) returns void
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_admin('map_login');
  insert into user_login (role_name, user_id) values (p_role_name, p_user_id) on conflict do nothing;
end $$;
comment on function map_login is 'map_login(role, user): who logs in to the server as this role sees and moves the runs of this user, and of no others than those it is mapped to. The role itself is made with: create role … login in role papertick_user. For an administrator. 23503 for an unknown user.';

create or replace function unmap_login(p_role_name name, p_user_id bigint) returns boolean
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  perform from public.strategy_run where false;
  perform engine.require_admin('unmap_login');
  delete from user_login l where l.role_name = p_role_name and l.user_id = p_user_id;
  return found;
end $$;
comment on function unmap_login is 'unmap_login(role, user) → whether map_login had mapped it. For an administrator.';
