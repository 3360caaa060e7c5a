"""Who may do what: row-level security, verbs that run as their owner, and keys that prove who is calling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from desk import Conn, Market, Run, at, rows, val
from helpers import Run as Key
from helpers import make_busy_run, raises, superuser_only
from psycopg import sql

from engine_py.install import sql_dir

Connect = Callable[..., Conn]

DAYS = [f"2024-01-{day:02d} 12:00" for day in range(2, 8)]
ROLES = ("papertick_owner", "papertick_user", "papertick_analyst", "papertick_api")
OWN = """select c.relname from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
            and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'run_id') order by 1"""
PRIVATE = ("api_key", "api_answer", "user_login", "acting")


@pytest.fixture
def login(db: Conn, connect: Connect) -> Iterator[Callable[..., Conn]]:
    """Makes sessions that are logged in as a role in papertick_user (or another), mapped to users."""
    superuser_only(db, "it may not create roles")
    made: list[str] = []

    def make(*user_ids: int, of: str = "papertick_user") -> Conn:
        role = f"{db.info.dbname}_{len(made)}"
        made.append(role)
        db.execute(f'create role "{role}" login in role {of}')
        for user_id in user_ids:
            db.execute("select map_login(%s, %s)", [role, user_id])
        return log_in(connect, role)

    yield make
    for role in made:
        db.execute(f'drop owned by "{role}"; drop role "{role}"')


def log_in(connect: Connect, role: str) -> Conn:
    conn = connect()
    conn.execute(f'set session authorization "{role}"')
    return conn


@pytest.fixture
def api(db: Conn, connect: Connect) -> Conn:
    superuser_only(db, "it may not log in as papertick_api")
    return log_in(connect, "papertick_api")


def busy(db: Conn) -> Run:
    """A run with rows in every ledger that the demo of a week can fill."""
    market = Market(db, symbols=["A"])
    for symbol in ("A", "AAA", "BBB"):
        market.bars(symbol, {day: 10 for day in DAYS})
    run = Run(market, 10_000)
    make_busy_run(db, run=Key(*run.key))
    run.call("set_risk_limit", max_position=1_000_000)
    run.call("forbid_symbol", symbol="A")
    for day in DAYS[:3]:
        run.tick(day)
    return run


def key_of(db: Conn, user_id: int, **options: Any) -> str:
    arguments = sql.SQL(", ").join(sql.SQL(f"p_{name} => {{}}").format(value) for name, value in options.items())
    query = sql.SQL("select key from create_key({}{}{})").format(user_id, sql.SQL(", " if options else ""), arguments)
    return str(val(db, query))  # type: ignore[arg-type]


@contextmanager
def acting(api: Conn, *keys: str) -> Iterator[Conn]:
    with api.transaction():
        for key in keys:
            api.execute("select authenticate(%s)", [key])
        yield api


def contents(db: Conn) -> list[Any]:
    tables = [
        t
        for (t,) in rows(
            db,
            "select c.oid::regclass::text from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' order by 1",
        )
    ]
    return [(t, rows(db, f"select t::text from {t} t order by 1")) for t in tables if t not in PRIVATE]


# --- the catalogue ---


def test_nobody_logs_in_as_the_owner_and_nothing_is_publics(db: Conn) -> None:
    superuser_only(db, "roles are made by a role that may make roles")
    assert rows(
        db,
        "select rolname, rolcanlogin, rolsuper, rolbypassrls, rolcreaterole from pg_roles where rolname in ('papertick_owner', 'papertick_user', 'papertick_analyst', 'papertick_api') order by 1",
    ) == [
        ("papertick_analyst", False, False, False, False),
        ("papertick_api", True, False, False, False),
        ("papertick_owner", False, False, False, False),
        ("papertick_user", False, False, False, False),
    ]
    for query in (
        "select relname from pg_class where relnamespace = 'engine'::regnamespace and relkind in ('r', 'v') and pg_get_userbyid(relowner) <> 'papertick_owner'",
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'v') and pg_get_userbyid(relowner) <> 'papertick_owner'",
        "select oid::regprocedure from pg_proc where pronamespace in ('engine'::regnamespace, 'public'::regnamespace) and pg_get_userbyid(proowner) <> 'papertick_owner'",
        "select p.oid::regprocedure from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where p.pronamespace in ('engine'::regnamespace, 'public'::regnamespace) and a.grantee = 0",
        "select c.relname from pg_class c, aclexplode(c.relacl) a where c.relnamespace in ('engine'::regnamespace, 'public'::regnamespace) and a.grantee = 0",
        # what runs as its owner has a path that ends in pg_temp
        "select oid::regprocedure from pg_proc where pronamespace in ('engine'::regnamespace, 'public'::regnamespace) and prosecdef and not coalesce(array_to_string(proconfig, ' ') ~ 'search_path=(public|pg_catalog), pg_temp', false)",
        # and every verb is in one of the lists of 99_grants
        "select p.oid::regprocedure from pg_proc p where p.pronamespace = 'public'::regnamespace and not has_function_privilege('papertick_api', p.oid, 'execute') and p.proname <> 'drop_me'",
    ):
        assert rows(db, query) == [], query


def test_every_table_of_a_run_has_its_policies(db: Conn) -> None:
    superuser_only(db, "roles are made by a role that may make roles")
    for (table,) in [*rows(db, OWN), ("app_user",)]:
        assert val(db, "select relrowsecurity and relforcerowsecurity from pg_class where oid = %s::regclass", table), (
            table
        )
        found = rows(
            db,
            'select polname, polcmd, polroles::regrole[]::text from pg_policy where polrelid = %s::regclass order by polname collate "C"',
            table,
        )
        assert found == [
            ("analyst_reads_all", "r", "{papertick_analyst}"),
            ("own_rows", "r", "{papertick_user}"),
            ("owner_has_all", "*", "{papertick_owner}"),
        ], table


# --- people who log in to the server ---


def test_a_person_sees_the_own_rows_and_no_others(db: Conn, login: Callable[..., Conn]) -> None:
    mine, other = busy(db), busy(db)
    person = login(mine.user_id)
    filled = 0
    for (table,) in [*rows(db, OWN), ("app_user",)]:
        query = f"select count(*), count(*) filter (where user_id = %s) from {table}"
        (everything, own), seen = rows(db, query, mine.user_id)[0], rows(person, query, mine.user_id)[0]
        assert seen == (own, own), table
        filled += everything > own > 0
    assert filled >= 12
    assert rows(person, "select * from violations") == []
    assert val(person, "select run_digest(%s, %s)", *mine.key) == val(db, "select run_digest(%s, %s)", *mine.key)
    person.execute("call tick(%s, %s, %s)", [*mine.key, at(DAYS[3])])
    person.execute("call replay(%s, %s, %s, %s, 1)", [*mine.key, at(DAYS[3]), at(DAYS[5])])
    assert val(db, "select last_logical_time from engine_state where user_id = %s", mine.user_id) == at(DAYS[5])
    both = login(mine.user_id, other.user_id)
    assert rows(both, "select distinct user_id from strategy_run order by 1") == [(mine.user_id,), (other.user_id,)]
    assert rows(login(), "select * from strategy_run") == []


def test_violations_of_others_are_not_shown(
    db: Conn, login: Callable[..., Conn], request: pytest.FixtureRequest
) -> None:
    request.applymarker(pytest.mark.plants_violations)
    mine, other = busy(db), busy(db)
    for run in (mine, other):
        with db.transaction():
            db.execute("alter table paper_equity_curve disable trigger guard_update")
            db.execute("update paper_equity_curve set equity = equity + 1 where user_id = %s", [run.user_id])
            db.execute("alter table paper_equity_curve enable always trigger guard_update")
    person, analyst = login(mine.user_id), login(of="papertick_analyst")
    assert rows(person, "select distinct user_id from violations") == [(mine.user_id,)]
    assert len(rows(analyst, "select distinct user_id from violations")) == 2
    assert rows(person, "select rule, detail from run_violations(%s, %s) order by 1, 2", *mine.key) == rows(
        db, "select rule, detail from violations where (user_id, run_id) = (%s, %s) order by 1, 2", *mine.key
    )


def verbs(db: Conn) -> list[tuple[str, str, list[str], list[str]]]:
    """Every verb that takes a user: (name, kind, parameters, their types)."""
    return rows(
        db,
        """select p.proname, p.prokind::text, p.proargnames[1:p.pronargs], array(select format_type(t, null) from unnest(p.proargtypes) t)
             from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proargnames[1] in ('p_user_id', 'p_user_a') order by 1""",
    )


SAMPLES = {
    "p_symbol": "A", "p_side": "BUY", "p_weights": '{"A": 1}', "p_frequency": "DAILY", "p_feed": "default",
    "p_mark_policy": "EVERY_TICK", "p_currency": "USD", "p_order_type": "MARKET", "p_time_in_force": "GTC",
}  # fmt: skip
BY_TYPE = {
    "bigint": "1", "integer": "1", "numeric": "1", "text": "x", "date": "2024-01-02", "timestamp with time zone": "2024-01-02 12:00+00",
    "boolean": "true", "jsonb": "{}", "bytea": "x", "interval": "1 day", "text[]": "{A}",
}  # fmt: skip


def call_with(
    conn: Conn, verb: tuple[str, str, list[str], list[str]], user_id: int, run_id: int
) -> psycopg.Error | None:
    name, kind, parameters, types = verb
    values = {
        "p_user_id": user_id,
        "p_user_a": user_id,
        "p_run_id": run_id,
        "p_run_a": run_id,
        "p_user_b": user_id,
        "p_run_b": run_id,
        "p_new_user_id": user_id,
    }
    parts = [
        sql.SQL("{}::{}").format(sql.Literal(str(values.get(p, SAMPLES.get(p, BY_TYPE.get(t))))), sql.SQL(t))
        if p in values or p in SAMPLES or (BY_TYPE.get(t) and n < 5)
        else sql.SQL("null")
        for n, (p, t) in enumerate(zip(parameters, types, strict=True))
    ]
    statement = sql.SQL("call {}({})" if kind == "p" else "select * from {}({})").format(
        sql.Identifier(name), sql.SQL(", ").join(parts)
    )
    try:
        with conn.transaction():
            conn.execute(statement)
    except psycopg.Error as error:
        return error
    return None


def test_the_run_of_another_is_answered_as_a_missing_one(db: Conn, login: Callable[..., Conn], api: Conn) -> None:
    mine, other = busy(db), busy(db)
    person, key, kept = login(mine.user_id), key_of(db, mine.user_id), contents(db)
    missing = 999_999
    asked = set()
    for verb in verbs(db):
        for conn, proof in ((person, ()), (api, (key,))):
            if conn is person and not val(
                person,
                "select has_function_privilege(p.oid, 'execute') from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = %s",
                verb[0],
            ):
                continue
            pairs = [[other.key, (missing, other.run_id)], [(mine.user_id, other.run_id), (mine.user_id, missing)]]
            for foreign, absent in pairs[
                : 1 if verb[0] in ("start_run", "list_keys", "revoke_key", "claim_answer", "keep_answer") else 2
            ]:
                answers = []
                for ids in (foreign, absent):
                    with acting(conn, *proof):
                        error = call_with(conn, verb, *ids)
                    assert error is not None, (verb[0], ids)
                    detail = (
                        (error.diag.message_detail or "")
                        .replace(f"user_id={ids[0]}", "")
                        .replace(f"run_id={ids[1]}", "")
                    )
                    answers.append((error.sqlstate, error.diag.message_primary, detail, error.diag.message_hint))
                assert answers[0] == answers[1], verb[0]
                assert answers[0][0] in (
                    ("TE204", "23503", "TE301")
                    if foreign == other.key
                    else ("TE204", "TE101", "TE301", "TE002", "23503")
                ), (verb[0], answers)
            asked.add(verb[0])
    assert len(asked) >= 40
    assert contents(db) == kept


DML = (
    "insert into {t} select * from {t} limit 1",
    "insert into {t} default values",
    "update {t} set {c} = {c}",
    "delete from {t}",
    "truncate {t} cascade",
    "alter table {t} disable trigger all",
    "alter table {t} disable row level security",
    "drop table {t} cascade",
    "create trigger mine before insert on {t} for each row execute function suppress_redundant_updates_trigger()",
    "create policy mine on {t} using (true)",
    "lock table {t} in access exclusive mode",
    "copy {t} from program 'cat /dev/null'",
    "copy {t} to program 'cat'",
    "select * from {t} for update",
)


def test_nobody_writes_past_the_verbs(db: Conn, login: Callable[..., Conn], api: Conn) -> None:
    run = busy(db)
    key, kept = key_of(db, run.user_id), contents(db)
    for conn, proof in ((login(run.user_id), ()), (login(of="papertick_analyst"), ()), (api, ()), (api, (key,))):
        for (table,) in [*rows(db, OWN), ("app_user",), *((t,) for t in PRIVATE)]:
            for statement in DML:
                with raises("42501", "428C9"), acting(conn, *proof):
                    conn.execute(statement.format(t=table, c="pid" if table == "acting" else "user_id"))  # type: ignore[arg-type]
        for statement in (
            "set role papertick_owner",
            "set session_replication_role = replica",
            "grant papertick_owner to current_user",
            "alter schema engine rename to mine",
            "create function public.now() returns timestamptz language sql return '2000-01-01'",
            "create table public.mine (n int)",
            "create or replace function engine.is_owner() returns boolean language sql return true",
            "select * from api_key",
            "select * from acting",
            "select engine.create_key(1, 'mine', null, true)",
            "select engine.post(null)",
            "insert into engine.posting default values",
            "alter role papertick_api bypassrls",
        ):
            with raises("42501"), acting(conn, *proof):
                conn.execute(statement)  # type: ignore[arg-type]
    assert contents(db) == kept


def test_settings_prove_nothing(db: Conn, login: Callable[..., Conn]) -> None:
    mine, other = busy(db), busy(db)
    person = login(mine.user_id)
    for statement in (
        f"set app.user_id = '{other.user_id}'",
        f"set papertick.user_id = '{other.user_id}'",
        "set search_path = pg_temp, public, engine",
        "set row_security = on",
        "set role papertick_user",
    ):
        person.execute(statement)  # type: ignore[arg-type]
        assert rows(person, "select distinct user_id from strategy_run") == [(mine.user_id,)]
    person.execute("set row_security = off")
    with raises("42501"):
        person.execute("select * from public.strategy_run")


def test_what_a_person_makes_shadows_nothing(db: Conn, login: Callable[..., Conn]) -> None:
    """Temporary tables, views and types with the engine's names stand before its own for whoever made them alone."""
    mine, other = busy(db), busy(db)
    person = login(mine.user_id)
    for table in ("user_login", "acting", "strategy_run", "engine_state", "price_bar", "api_key", "paper_order"):
        person.execute(
            f"create temp table {table} (user_id bigint, run_id bigint, role_name name, pid int, xid xid8, user_ids bigint[], is_admin boolean)"
        )
        person.execute(
            f"insert into pg_temp.{table} values ({other.user_id}, {other.run_id}, session_user, pg_backend_pid(), pg_current_xact_id(), array[{other.user_id}], true)"
        )
    with raises("TE204"):
        person.execute("call tick(%s, %s, %s)", [*other.key, at(DAYS[3])])
    with raises("TE204"):
        person.execute("call replay(%s, %s, %s, %s)", [*other.key, at(DAYS[3]), at(DAYS[4])])
    with raises("42501"):
        person.execute("call tick_all(%s, %s)", [at(DAYS[3]), other.market.feed])
    assert rows(person, "select distinct user_id from public.strategy_run") == [(mine.user_id,)]
    person.execute("call tick(%s, %s, %s)", [*mine.key, at(DAYS[3])])
    assert val(db, "select last_logical_time from engine_state where user_id = %s", mine.user_id) == at(DAYS[3])


def test_rows_of_others_do_not_leak_through_what_looks_at_them(db: Conn, login: Callable[..., Conn]) -> None:
    mine, other = busy(db), busy(db)
    person = login(mine.user_id)
    person.execute(
        "create function pg_temp.tell(bigint) returns boolean language plpgsql cost 0.0001 as $$ begin raise notice 'saw %', $1; return true; end $$"
    )
    told: list[str] = []
    person.add_notice_handler(lambda diag: told.append(diag.message_primary or ""))
    person.execute("select * from paper_trade where pg_temp.tell(user_id)")
    assert set(told) == {f"saw {mine.user_id}"}
    assert rows(person, "select distinct most_common_vals::text from pg_stats where tablename = 'paper_trade'") == []
    with raises("42501"):
        person.execute("select * from pg_statistic")
    with raises("TE204"):
        person.execute("select fork_run(%s, %s, null, %s)", [*other.key, mine.user_id])
    with raises("TE204"):
        person.execute("select * from replay_diff(%s, %s, %s, %s)", [*mine.key, *other.key])


def test_an_analyst_reads_every_run_and_moves_none(db: Conn, login: Callable[..., Conn]) -> None:
    runs, analyst = [busy(db), busy(db)], login(of="papertick_analyst")
    assert val(analyst, "select count(*) from paper_trade") == val(db, "select count(*) from paper_trade")
    for run in runs:
        assert val(analyst, "select run_digest(%s, %s)", *run.key) == val(db, "select run_digest(%s, %s)", *run.key)
        assert rows(analyst, "select * from performance(%s, %s)", *run.key)
        with raises("42501"):
            analyst.execute("call tick(%s, %s, %s)", [*run.key, at(DAYS[3])])
        with raises("42501"):
            analyst.execute("select stop_run(%s, %s)", run.key)


# --- keys ---


def test_a_key_acts_for_its_user_until_the_transaction_ends(db: Conn, api: Conn) -> None:
    mine, other = busy(db), busy(db)
    keys = [key_of(db, run.user_id) for run in (mine, other)]
    query = "select distinct user_id from strategy_run order by 1"
    assert rows(api, query) == []
    with acting(api, keys[0]):
        assert rows(api, query) == [(mine.user_id,)]
    assert rows(api, query) == []
    with raises("TE204"):
        api.execute("call tick(%s, %s, %s)", [*mine.key, at(DAYS[3])])
    with acting(api, keys[1]):
        assert rows(api, query) == [(other.user_id,)]
        with raises("TE204", conn=api):
            api.execute("call tick(%s, %s, %s)", [*mine.key, at(DAYS[3])])
    with acting(api, *keys):
        assert rows(api, query) == [(mine.user_id,), (other.user_id,)]
    with pytest.raises(ZeroDivisionError), acting(api, keys[0]):
        raise ZeroDivisionError  # rolled back
    assert rows(api, query) == []
    with api.transaction(), api.transaction(force_rollback=True):
        api.execute("select authenticate(%s)", [keys[0]])
    assert rows(api, query) == []


def test_a_savepoint_that_is_rolled_back_takes_the_proof_along(db: Conn, api: Conn) -> None:
    run = busy(db)
    key = key_of(db, run.user_id)
    with api.transaction():
        with api.transaction(force_rollback=True):
            api.execute("select authenticate(%s)", [key])
        assert rows(api, "select * from strategy_run") == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda k: "",
        lambda k: k[:-1],
        lambda k: k + "0",
        lambda k: k.upper(),
        lambda k: "pt_" + "0" * 48,
        lambda k: None,
    ],
)
def test_a_key_that_is_not_one_proves_nothing(db: Conn, api: Conn, spoil: Callable[[str], str | None]) -> None:
    key = key_of(db, Run(Market(db)).user_id)
    with raises("28000"), api.transaction():
        api.execute("select authenticate(%s)", [spoil(key)])
    assert rows(db, "select * from acting") == []


def test_a_key_is_kept_as_its_hash_and_ends(db: Conn, api: Conn) -> None:
    user_id = Run(Market(db)).user_id
    key_id, key, prefix = rows(db, "select * from create_key(%s, 'laptop')", user_id)[0]
    assert key.startswith(prefix)
    assert (len(key), len(prefix)) == (51, 11)
    stored = rows(db, "select k::text from api_key k")[0][0]
    assert key not in stored
    assert val(db, "select key_hash = sha256(convert_to(%s, 'UTF8')) from api_key", key)
    assert val(db, "select last_used_at from api_key") is None
    with acting(api, key):
        pass
    used = val(db, "select last_used_at from api_key")
    assert used is not None
    with acting(api, key):
        pass
    assert val(db, "select last_used_at from api_key") == used  # to the minute
    first = val(db, "select revoke_key(%s, %s)", user_id, key_id)
    assert val(db, "select revoke_key(%s, %s)", user_id, key_id) == first
    with raises("28000"), acting(api, key):
        pass
    brief = key_of(db, user_id, expires_at="2999-01-01")
    with acting(api, brief):
        pass
    db.execute("update api_key set expires_at = now() - interval '1 second' where expires_at is not null")
    with raises("28000"), acting(api, brief):
        pass
    with raises("TE101"):
        db.execute("select create_key(%s, 'late', now())", [user_id])
    with raises("23503"):
        db.execute("select create_key(0)")


def test_only_an_administrators_key_administrates(db: Conn, api: Conn) -> None:
    run, other = busy(db), busy(db)
    key, admin = key_of(db, run.user_id), key_of(db, run.user_id, is_admin=True)
    statements = (
        "select create_user('eve')",
        f"select create_key({run.user_id}, 'mine', null, true)",
        f"select map_login('papertick_api', {run.user_id})",
        f"call tick_all('{at(DAYS[3])}', '{run.market.feed}')",
        "select forget_answers(now())",
    )
    for statement in statements:
        with raises("TE301"), acting(api, key):
            api.execute(statement)  # type: ignore[arg-type]
        with api.transaction(force_rollback=True):
            api.execute("select authenticate(%s)", [admin])
            api.execute(statement)  # type: ignore[arg-type]
    with raises("23503", "TE301"), acting(api, key):
        api.execute("select create_key(%s)", [other.user_id])
    assert rows(db, "select user_id from app_user where name = 'eve'") == []
    # an administrator is no other user for all that
    with acting(api, admin):
        assert rows(api, "select distinct user_id from strategy_run") == [(run.user_id,)]
        with raises("TE204", conn=api):
            api.execute("call tick(%s, %s, %s)", [*other.key, at(DAYS[3])])


def test_market_data_is_added_by_an_administrator_alone(db: Conn, api: Conn) -> None:
    run = busy(db)
    statement = f"insert into price_bar values ('{run.market.feed}', 'A', '2025-01-01 00:00Z', 1, 1, 1, 1)"
    assert val(api, "select count(*) > 0 from price_bar")
    for proof in ((), (key_of(db, run.user_id),)):
        with raises("42501"), acting(api, *proof):
            api.execute(statement)  # type: ignore[arg-type]
    for other in ("update price_bar set close = open", "delete from price_bar", "truncate price_bar"):
        with raises("42501"), acting(api, key_of(db, run.user_id, is_admin=True)):
            api.execute(other)  # type: ignore[arg-type]
    with acting(api, key_of(db, run.user_id, is_admin=True)):
        api.execute(statement)  # type: ignore[arg-type]
    assert val(db, "select count(*) from price_bar where logical_time = '2025-01-01 00:00Z'") == 1


# --- answers that are kept ---


def claim(conn: Conn, user_id: int, key: str, fingerprint: bytes = b"a") -> Any:
    return rows(conn, "select * from claim_answer(%s, %s, %s)", user_id, key, fingerprint)[0]


def test_a_request_is_claimed_once_and_its_answer_kept(db: Conn, api: Conn, connect: Connect) -> None:
    mine, other = Run(Market(db)), Run(Market(db))
    key, second = key_of(db, mine.user_id), log_in(connect, "papertick_api")
    nothing = (None,) * 4
    with acting(api, key), acting(second, key):
        assert claim(api, mine.user_id, "k") == ("NEW", *nothing)
        assert claim(second, mine.user_id, "k") == ("BUSY", *nothing)
        assert claim(second, mine.user_id, "l") == ("NEW", *nothing)
        api.execute("select keep_answer(%s, 'k', 'a', 201, 'text/plain', '/here', 'done')", [mine.user_id])
    with acting(api, key):
        assert claim(api, mine.user_id, "k") == ("DONE", 201, "text/plain", "/here", b"done")
        assert claim(api, mine.user_id, "k", b"b") == ("OTHER", *nothing)
        with raises("23503", conn=api):
            claim(api, other.user_id, "k")
        with raises("TE101", conn=api):
            claim(api, mine.user_id, "")
    with acting(api, key_of(db, other.user_id)):
        assert claim(api, other.user_id, "k") == ("NEW", *nothing)
    assert val(db, "select forget_answers(now() + interval '1 day')") == 1
    assert rows(db, "select * from api_answer") == []


# --- installing ---


def test_a_rebuild_keeps_roles_policies_and_who_was_mapped(db: Conn, login: Callable[..., Conn]) -> None:
    run = busy(db)
    person = login(run.user_id)
    catalogue = "select polrelid::regclass::text, polname, polroles::regrole[]::text, pg_get_expr(polqual, polrelid) from pg_policy order by 1, 2"
    grants = "select oid::regprocedure::text, proacl::text, pg_get_userbyid(proowner) from pg_proc where pronamespace = 'public'::regnamespace order by 1"
    before = rows(db, catalogue), rows(db, grants)
    code = "\n".join(p.read_text(encoding="utf-8") for p in sorted(sql_dir().glob("[2-9]*.sql")))
    with db.transaction():
        db.execute(sql.SQL(code))  # type: ignore[arg-type]
    assert (rows(db, catalogue), rows(db, grants)) == before
    assert rows(person, "select distinct user_id from strategy_run") == [(run.user_id,)]
