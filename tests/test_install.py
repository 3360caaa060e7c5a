"""The migrator: once, whole, in order, and the same as psql."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from conftest import Server
from psycopg import sql
from pytest_postgresql.executors import NoopExecutor

from engine_py import errors, install, pgtools
from engine_py.db import connect

Connect = Callable[..., psycopg.Connection]
PROJECT = Path(__file__).resolve().parent.parent

# Everything that an install makes, apart from when: tables, columns, constraints, indexes, routines, triggers, views,
# comments and grants.
CATALOG = """
with space as (select oid, nspname from pg_namespace where nspname in ('public', 'engine'))
select * from (
  select 'relation' as what, c.oid::regclass::text as name,
         concat_ws(' ', relkind, relpersistence, reloptions, relacl, relrowsecurity, pg_get_viewdef(c.oid)) as body
    from pg_class c join space s on s.oid = relnamespace where relkind <> 'i'
  union all
  select 'column', attrelid::regclass || '.' || attname,
         concat_ws(' ', attnum, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, attacl,
                   pg_get_expr(adbin, adrelid), col_description(attrelid, attnum))
    from pg_attribute a join pg_class c on c.oid = attrelid join space s on s.oid = relnamespace
    left join pg_attrdef d on (adrelid, adnum) = (attrelid, attnum) where attnum > 0 and not attisdropped
  union all
  select 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(o.oid)
    from pg_constraint o join space s on s.oid = connamespace where contype <> 'n'
  union all
  select 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid)
    from pg_index join pg_class c on c.oid = indexrelid join space s on s.oid = relnamespace
  union all
  select 'routine', p.oid::regprocedure::text, concat_ws(' ', proacl, pg_get_functiondef(p.oid))
    from pg_proc p join space s on s.oid = pronamespace where prokind in ('f', 'p')
  union all
  select 'trigger', tgrelid::regclass || '.' || tgname, concat_ws(' ', tgenabled, pg_get_triggerdef(t.oid))
    from pg_trigger t join pg_class c on c.oid = tgrelid join space s on s.oid = relnamespace where not tgisinternal
  union all
  select 'comment', pg_describe_object(classoid, objoid, 0), description
    from pg_description where objsubid = 0 and objoid in (
      select c.oid from pg_class c join space s on s.oid = relnamespace
      union all select p.oid from pg_proc p join space s on s.oid = pronamespace
      union all select oid from space)
  union all
  select 'schema', nspname, concat_ws(' ', nspacl) from pg_namespace where nspname in ('public', 'engine')
) catalog order by what collate "C", name collate "C", body collate "C"
"""


def catalog(conn: psycopg.Connection) -> list[tuple[str, ...]]:
    return conn.execute(CATALOG).fetchall()


@pytest.fixture
def empty(pg_server: Server, pg_template: NoopExecutor) -> Iterator[Connect]:
    """Makes connections to a new, empty database."""
    name = sql.Identifier(f"{pg_template.dbname}_empty")
    with psycopg.connect(pg_server.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("create database {} template template0").format(name))
        opened = []

        def make() -> psycopg.Connection:
            opened.append(psycopg.connect(pg_server.dsn_of(name.as_string().strip('"')), autocommit=True))
            return opened[-1]

        yield make
        for conn in opened:
            conn.close()
        admin.execute(sql.SQL("drop database {} with (force)").format(name))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small set of SQL files to play with."""
    (tmp_path / "10_tables.sql").write_text(
        "create table schema_version (version int primary key, code_hash text,\n"
        "  applied_at timestamptz not null default now());\n"
        "insert into schema_version (version) values (1);\n"
        "create table strategy_run (run_id bigint primary key);\n"
    )
    (tmp_path / "20_engine.sql").write_text(
        "drop schema if exists engine cascade;\ncreate schema engine;\n"
        "create function engine.answer() returns text language sql begin atomic select '100 %'; end;\n"
    )
    (tmp_path / "README.md").write_text("not SQL")
    (tmp_path / "migrations").mkdir()
    return tmp_path


def add_migration(folder: Path, number: int, text: str) -> Path:
    path = folder / "migrations" / f"{number:04}_change.sql"
    path.write_text(text)
    return path


def answer(conn: psycopg.Connection) -> object:
    row = conn.execute("select engine.answer()").fetchone()
    return row and row[0]


def test_install_twice_changes_nothing(empty: Connect, folder: Path) -> None:
    conn = empty()
    assert install.status(conn, folder)["installed"] is False
    first = install.install(conn, folder)
    assert (first.version, first.installed, first.code_loaded, first.changed) == (1, True, True, True)
    assert answer(conn) == "100 %"
    status = install.status(conn, folder)
    assert (status["installed"], status["version"], status["pending"], status["code_current"]) == (True, 1, [], True)
    before = conn.execute("select *, xmin from schema_version").fetchall(), catalog(conn)
    for again in (install.install(conn, folder), install.upgrade(conn, folder)):
        assert (again.version, again.changed) == (1, False)
    assert (conn.execute("select *, xmin from schema_version").fetchall(), catalog(conn)) == before


def test_upgrade_installs_where_nothing_is(empty: Connect, folder: Path) -> None:
    conn = empty()
    conn.execute("create schema other")
    conn.execute("set search_path = other")
    assert install.upgrade(conn, folder).installed
    assert conn.execute("select version from public.schema_version").fetchall() == [(1,)]


def test_a_failing_install_leaves_nothing_and_names_the_line(empty: Connect, folder: Path) -> None:
    conn = empty()
    (folder / "30_bad.sql").write_text("select 1;\n\nselect 1 form t;\n")
    with pytest.raises(errors.PapertickError) as caught:
        install.install(conn, folder)
    assert "30_bad.sql:3" in (caught.value.detail or "")
    assert catalog(conn) == catalog(empty())
    assert install.status(conn, folder)["installed"] is False
    (folder / "30_bad.sql").unlink()
    assert install.install(conn, folder).installed


def test_concurrent_installs_install_once(empty: Connect, folder: Path) -> None:
    connections = [empty() for _ in range(4)]
    outcomes: list[install.Outcome] = []
    threads = [
        threading.Thread(target=lambda conn=conn: outcomes.append(install.install(conn, folder)))
        for conn in connections
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcome.installed for outcome in outcomes) == [False, False, False, True]


def test_code_is_loaded_again_only_when_it_changed(empty: Connect, folder: Path) -> None:
    conn = empty()
    install.install(conn, folder)
    conn.execute("insert into strategy_run values (7)")
    oid = "select 'engine.answer()'::regprocedure::oid"
    before = conn.execute(oid).fetchone()
    (folder / "10_tables.sql").write_text((folder / "10_tables.sql").read_text() + "-- a comment\n")
    assert not install.upgrade(conn, folder).changed
    assert conn.execute(oid).fetchone() == before
    code = folder / "20_engine.sql"
    code.write_text(code.read_text().replace("100", "99"))
    assert not install.status(conn, folder)["code_current"]
    outcome = install.upgrade(conn, folder)
    assert (outcome.code_loaded, outcome.migrations) == (True, ())
    assert answer(conn) == "99 %"
    assert conn.execute("select * from strategy_run").fetchall() == [(7,)]
    assert not install.upgrade(conn, folder).changed


def test_line_endings_are_no_change(empty: Connect, folder: Path) -> None:
    conn = empty()
    install.install(conn, folder)
    code = folder / "20_engine.sql"
    code.write_bytes(code.read_bytes().replace(b"\n", b"\r\n"))
    assert not install.upgrade(conn, folder).changed


def test_migrations_run_once_in_order_and_keep_rows(empty: Connect, folder: Path) -> None:
    conn = empty()
    install.install(conn, folder)
    conn.execute("insert into strategy_run values (7)")
    add_migration(folder, 3, "update strategy_run set note = note || ' three';")
    add_migration(folder, 2, "alter table strategy_run add note text; update strategy_run set note = 'two';")
    assert install.status(conn, folder)["pending"] == [2, 3]
    assert install.upgrade(conn, folder).migrations == (2, 3)
    assert conn.execute("select * from strategy_run").fetchall() == [(7, "two three")]
    assert install.status(conn, folder)["version"] == 3
    assert not install.upgrade(conn, folder).changed
    add_migration(folder, 4, "alter table strategy_run drop note;")
    code = folder / "20_engine.sql"
    code.write_text(code.read_text().replace("100", "99"))
    assert install.upgrade(conn, folder).migrations == (4,)
    assert answer(conn) == "99 %"
    assert conn.execute("select version from schema_version order by 1").fetchall() == [(1,), (2,), (3,), (4,)]


@pytest.mark.parametrize("change", ["edit", "delete"])
def test_an_applied_migration_may_not_change(empty: Connect, folder: Path, change: str) -> None:
    conn = empty()
    install.install(conn, folder)
    add_migration(folder, 2, "alter table strategy_run add more text;")
    path = add_migration(folder, 3, "alter table strategy_run add note text;")
    install.upgrade(conn, folder)
    (folder / "20_engine.sql").write_text((folder / "20_engine.sql").read_text().replace("100", "99"))
    install.upgrade(conn, folder)  # the migrations' hashes survive a load of code
    if change == "edit":
        path.write_text("alter table strategy_run add note int;")
    else:
        path.unlink()
    before = catalog(conn)
    with pytest.raises(errors.PapertickError, match=r"migration 3 is not the one|knows only 2"):
        install.upgrade(conn, folder)
    assert catalog(conn) == before


def test_a_failing_migration_leaves_the_old_version_whole(empty: Connect, folder: Path) -> None:
    conn = empty()
    install.install(conn, folder)
    add_migration(folder, 2, "alter table strategy_run add note text;")
    add_migration(folder, 3, "alter table strategy_run add note text;")
    before = catalog(conn)
    with pytest.raises(errors.PapertickError) as caught:
        install.upgrade(conn, folder)
    assert "0003_change.sql" in (caught.value.detail or "")
    assert catalog(conn) == before
    assert install.status(conn, folder)["version"] == 1


def test_a_database_of_a_later_release_is_refused(empty: Connect, folder: Path) -> None:
    conn = empty()
    install.install(conn, folder)
    conn.execute("insert into schema_version (version) values (9)")
    with pytest.raises(errors.PapertickError, match="at version 9"):
        install.upgrade(conn, folder)


def test_table_files_must_agree_with_the_migrations(empty: Connect, folder: Path) -> None:
    conn = empty()
    add_migration(folder, 2, "select 1;")
    with pytest.raises(errors.PapertickError, match="make version 1, but the migrations end at 2"):
        install.install(conn, folder)
    assert install.status(conn, folder)["installed"] is False


def test_two_migrations_with_one_number_are_an_error(folder: Path) -> None:
    add_migration(folder, 2, "select 1;")
    (folder / "migrations" / "0002_other.sql").write_text("select 2;")
    with pytest.raises(errors.PapertickError, match="two migrations"):
        install._Files(folder)


def test_psql_installs_the_same_and_upgrade_takes_it_over(
    empty: Connect, db: psycopg.Connection, pg_server: Server
) -> None:
    conn = empty()
    script = "".join(path.read_text() for path in sorted(install.sql_dir().glob("*.sql")))
    dsn = pg_server.dsn_of(conn.info.dbname)
    command = [pgtools.client("psql"), "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", dsn]
    done = subprocess.run(command, input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert catalog(conn) == catalog(db)
    assert len(catalog(conn)) > 100
    status = install.status(conn)
    assert (status["installed"], status["code_current"]) == (True, False)  # psql records no hash
    assert not install.install(conn).changed
    assert install.upgrade(conn).code_loaded
    assert catalog(conn) == catalog(db)
    assert not install.upgrade(conn).changed


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def not_utf8(request: pytest.FixtureRequest, pg_server: Server, pg_template: NoopExecutor) -> Iterator[str]:
    """The DSN of an empty database of another encoding."""
    dbname = f"{pg_template.dbname}_{request.param.lower()}"
    made = sql.SQL("create database {} template template0 encoding {} lc_collate 'C' lc_ctype 'C'")
    with psycopg.connect(pg_server.dsn, autocommit=True) as admin:
        admin.execute(made.format(sql.Identifier(dbname), sql.Literal(request.param)))
        yield pg_server.dsn_of(dbname)
        admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(dbname)))


def test_a_database_of_another_encoding_is_refused(not_utf8: str) -> None:
    encoding = "SQL_ASCII" if "sql_ascii" in not_utf8 else "LATIN1"
    for conn in (connect(not_utf8), psycopg.connect(not_utf8, autocommit=True)):
        with conn, pytest.raises(errors.PapertickError) as refused:
            install.install(conn)
        assert (refused.value.code, encoding in str(refused.value)) == ("0A000", True)
        assert "createdb -E UTF8 -T template0" in (refused.value.hint or "")
    script = "".join(path.read_text() for path in sorted(install.sql_dir().glob("*.sql")))
    command = [pgtools.client("psql"), "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", not_utf8]
    done = subprocess.run(command, input=script, text=True, capture_output=True, check=False)
    assert done.returncode != 0
    assert f"is {encoding}" in done.stderr
    with connect(not_utf8) as conn:
        assert conn.execute("select to_regclass('public.schema_version')").fetchone() == (None,)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "WIN1252"])
def test_the_client_encoding_of_the_environment_does_not_matter(
    empty: Connect, db: psycopg.Connection, pg_server: Server, encoding: str
) -> None:
    dsn = pg_server.dsn_of(empty().info.dbname)
    env = os.environ | {"PGCLIENTENCODING": encoding, "DB_DSN": dsn}
    for args in (["db", "init"], ["user", "create", "Ägypten 株"], ["feed", "list"]):
        command = [sys.executable, "-m", "engine_py", *args]
        done = subprocess.run(command, env=env, capture_output=True, text=True, encoding="utf-8", cwd=PROJECT)
        assert (done.returncode, done.stderr) == (0, "")
    conn = empty()
    assert conn.execute("select name from app_user").fetchone() == ("Ägypten 株",)
    assert catalog(conn) == catalog(db)


def test_psql_of_another_client_encoding_installs_the_same(
    empty: Connect, db: psycopg.Connection, pg_server: Server
) -> None:
    script = "".join(path.read_text(encoding="utf-8") for path in sorted(install.sql_dir().glob("*.sql")))
    command = [pgtools.client("psql"), "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1"]
    command.append(pg_server.dsn_of(empty().info.dbname))
    env = os.environ | {"PGCLIENTENCODING": "LATIN1"}
    done = subprocess.run(command, input=script.encode(), capture_output=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert catalog(empty()) == catalog(db)


def test_loading_the_real_code_again_changes_nothing(db: psycopg.Connection, tmp_path: Path) -> None:
    before = catalog(db)
    copy = Path(shutil.copytree(install.sql_dir(), tmp_path / "sql"))
    last = sorted(copy.glob("*.sql"))[-1]
    last.write_text(last.read_text() + "\n-- changed\n")
    assert install.upgrade(db, copy).code_loaded
    assert catalog(db) == before


def test_a_plain_role_installs_and_ticks(empty: Connect) -> None:
    """No superuser: the owner of the database is enough. A session that is no superuser is that role itself."""
    conn = empty()
    is_superuser = conn.execute("select rolsuper from pg_roles where rolname = current_user").fetchone() == (True,)
    role = sql.Identifier(f"{conn.info.dbname}_plain")
    database = sql.Identifier(conn.info.dbname)
    if is_superuser:
        conn.execute(sql.SQL("create role {}").format(role))
        conn.execute(sql.SQL("alter database {} owner to {}").format(database, role))
        conn.execute(sql.SQL("set role {}").format(role))
    try:
        install.install(conn)
        conn.execute("insert into instrument (symbol) values ('A')")
        conn.execute("insert into price_bar values ('default', 'A', '2024-01-01 12:00Z', 10, 10, 10, 10)")
        conn.execute("select start_run(create_user('ada'), 1000)")
        conn.execute("select place_order(1, 1, 'A', 'BUY', 3)")
        conn.execute("call tick(1, 1, '2024-01-01 12:00Z')")
        conn.execute("call tick_all('2024-01-02 12:00Z')")
        rows = conn.execute("select cash, equity from paper_equity_curve order by logical_time").fetchall()
        assert rows == [(970, 1000), (970, 1000)]
        assert not conn.execute("select * from violations").fetchall()
    finally:
        if is_superuser:
            conn.execute("reset role")
            conn.execute(sql.SQL("reassign owned by {} to current_user").format(role))
            conn.execute(sql.SQL("drop owned by {}").format(role))
            conn.execute(sql.SQL("drop role {}").format(role))
