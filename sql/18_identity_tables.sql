-- DURABLE. Who may act for which user: logins of the server, API keys, and the answers that a repeated request gets again.
-- None of it decides anything in a run, so the wall clock may stand here.
set local search_path = public, pg_temp;

create table user_login (
  role_name name,
  user_id bigint constraint user_login_of_user references app_user on delete cascade,
  constraint user_login_pkey primary key (role_name, user_id)
);
create index user_login_by_user on user_login (user_id);
comment on table user_login is 'Whose runs somebody sees and moves who logs in to the server as this role; one person may have several users.';

create table api_key (
  key_id bigint generated always as identity constraint api_key_pkey primary key,
  user_id bigint not null constraint api_key_of_user references app_user on delete cascade,
  is_admin boolean not null default false,
  label text not null default '',
  prefix text not null,
  key_hash bytea not null constraint api_key_hash_is_unique unique,
  created_at timestamptz not null default now(),
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz,
  constraint api_key_hash_is_a_sha256 check (octet_length(key_hash) = 32),
  constraint api_key_label_is_short check (length(label) <= 200)
);
create index api_key_by_user on api_key (user_id);
comment on table api_key is 'Keys of the HTTP API. The key itself is shown once, by create_key; what is kept is its SHA-256 and its first characters, to tell keys apart.';
comment on column api_key.is_admin is 'May also call what is not one user''s: users, keys, market data, tick_all.';
comment on column api_key.last_used_at is 'To the minute.';

-- Not a ledger, and worth nothing after a crash: a row says who has proven in its transaction to be whom.
create unlogged table acting (
  pid int constraint acting_pkey primary key,
  xid xid8 not null,
  user_ids bigint[] not null,
  is_admin boolean not null
) with (fillfactor = 50);
comment on table acting is 'For which users a server process acts, in that one transaction: those whose keys authenticate() was shown.';

create table api_answer (
  user_id bigint not null constraint api_answer_of_user references app_user on delete cascade,
  idempotency_key text not null,
  fingerprint bytea not null,
  status int not null,
  content_type text not null,
  location text,
  body bytea not null,
  created_at timestamptz not null default now(),
  constraint api_answer_pkey primary key (user_id, idempotency_key),
  constraint api_answer_key_is_short check (length(idempotency_key) between 1 and 255)
);
create index api_answer_by_age on api_answer (created_at);
comment on table api_answer is 'What a request with an Idempotency-Key was answered, in the transaction of its effect, so that the same request gets the same bytes again.';
comment on column api_answer.fingerprint is 'SHA-256 of method, path and body.';
