"""Backup and restore: every run comes back to its digest, on the same PostgreSQL or a newer one."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from capsules import contents
from click.testing import CliRunner
from helpers import Run, at, digest, make_bars, make_busy_run, place, raises, stop, tick, value
from psycopg import sql
from psycopg.conninfo import make_conninfo
from test_install import catalog

from engine_py import backup, errors, install, pgtools, server
from engine_py.cli import main

Conn = psycopg.Connection[Any]
PAIRS = [(15, 15), (15, 18), (18, 18)]


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[int, server.Throwaway]]:
    """A server of each major whose programs are here; PAPERTICK_PG_BIN names only one of them."""
    found: dict[int, server.Throwaway] = {}
    try:
        for major, folder in pgtools._dump_folders().items():
            if major in (15, 18) and (folder / "initdb").exists():
                found[major] = server.start_throwaway(bin_dir=folder)
        yield found
    finally:
        for one in found.values():
            one.stop()


@pytest.fixture
def database(servers: dict[int, server.Throwaway]) -> Callable[..., str]:
    """Makes empty databases on the server of a major; skips where that is not here."""
    numbers = iter(range(100))

    def make(major: int | None = None) -> str:
        major = major or max(servers)
        if major not in servers:
            pytest.skip(f"no programs of PostgreSQL {major} here")
        name = f"backup_{os.getpid()}_{os.urandom(3).hex()}_{next(numbers)}"
        with psycopg.connect(servers[major].dsn, autocommit=True) as admin:
            admin.execute(f"create database {name} template template0".encode())
        return make_conninfo(servers[major].dsn, dbname=name)

    return make


def connect(dsn: str) -> Conn:
    return psycopg.connect(dsn, autocommit=True)


def fill(dsn: str) -> list[Run]:
    """Runs in every state, a key, a login, an answer; names that are not ASCII."""
    with connect(dsn) as conn:
        install.install(conn)
        for symbol in ("AAA", "BBB"):
            make_bars(conn, symbol, [100 + n for n in range(40)])
        runs = [make_busy_run(conn) for _ in range(3)]
        place(conn, runs[0], "AAA", "BUY", 1, order_type="LIMIT", limit_price=5, client_order_id="Ägypten 株")
        for run in runs:
            for n in range(5):
                tick(conn, run, n)
        stop(conn, runs[1], "enough")
        conn.execute("select fail_run(%s, %s, 'broken')", runs[2])
        conn.execute("select create_key(%s, 'laptop')", [runs[0].user_id])
        conn.execute("select map_login('asha', %s)", [runs[0].user_id])
        conn.execute(
            "insert into api_answer values (%s, 'k', '\\x00', 201, 'application/json', null, '{}')", [runs[0].user_id]
        )
    return runs


def same(found: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """An expression that has been read again has other brackets."""
    return [(what, name, body.replace("(", "").replace(")", "")) for what, name, body in found]


def test_round_trip_brings_every_row_back(database: Callable[..., str], tmp_path: Path) -> None:
    source, target, fresh = database(), database(), database()
    runs = fill(source)
    file = tmp_path / "papertick.dump"
    document = backup.backup(source, file)
    assert len(document["runs"]) == 3
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["papertick.dump", "papertick.dump.json"]
    assert backup.restore(target, file) == {"schema_version": 1, "runs": 3, "compared": 3}
    with connect(source) as before, connect(target) as after, connect(fresh) as new:
        install.install(new)
        assert contents(after) == contents(before)
        assert same(catalog(after)) == same(catalog(new))
        owned = "select relname, pg_get_userbyid(relowner) from pg_class where relnamespace = 'public'::regnamespace order by 1"
        assert after.execute(owned).fetchall() == new.execute(owned).fetchall()
        assert after.execute("select * from violations").fetchall() == []
        assert not install.upgrade(after).changed
        for conn in (before, after):  # it lives on: the same ticks, new numbers after the old ones
            for n in range(5, 8):
                tick(conn, runs[0], n)
            with raises("TE001", conn=conn):
                place(conn, runs[1], "AAA", "BUY", 1)
            with raises("TE004", conn=conn):
                conn.execute("update cash_ledger set amount = 1")
            assert value(conn, "select create_user('next')") == 4
        assert digest(after, runs[0]) == digest(before, runs[0])


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_digests_are_equal_on_the_same_and_on_a_newer_server(
    database: Callable[..., str], tmp_path: Path, old: int, new: int
) -> None:
    source, target = database(old), database(new)
    runs = fill(source)
    backup.backup(source, tmp_path / "dump")
    backup.restore(target, tmp_path / "dump")
    with connect(source) as before, connect(target) as after:
        for conn in (before, after):
            for n in range(5, 20):
                tick(conn, runs[0], n)
        assert [digest(after, run) for run in runs] == [digest(before, run) for run in runs]
        assert after.execute("select * from violations").fetchall() == []


def test_dump_of_a_newer_server_is_refused(database: Callable[..., str], tmp_path: Path) -> None:
    source, target = database(18), database(15)
    fill(source)
    backup.backup(source, tmp_path / "dump", digests=False)
    with pytest.raises(errors.PapertickError, match="PostgreSQL 18, and this server is 15") as caught:
        backup.restore(target, tmp_path / "dump")
    assert caught.value.code == "0A000"
    with connect(target) as conn:
        assert value(conn, "select to_regclass('public.schema_version')") is None


def test_backup_while_ticks_run_is_one_moment(database: Callable[..., str], tmp_path: Path) -> None:
    source, target = database(), database()
    runs = fill(source)
    at_least, stopped = threading.Event(), threading.Event()

    def ticking() -> None:
        with connect(source) as conn:
            for n in range(5, 40):
                tick(conn, runs[0], n)
                if n > 8:
                    at_least.set()
                if stopped.is_set():
                    return

    thread = threading.Thread(target=ticking)
    thread.start()
    assert at_least.wait(60)
    document = backup.backup(source, tmp_path / "dump")
    stopped.set()
    thread.join(60)
    assert backup.restore(target, tmp_path / "dump")["compared"] == 3
    with connect(target) as conn:
        last = value(conn, "select last_logical_time from engine_state where run_id = %s", [runs[0].run_id])
        assert at(8) <= last <= at(39)
        assert digest(conn, runs[0]) == document["runs"][0]["digest"]
        assert conn.execute("select * from violations").fetchall() == []


def test_a_database_with_tables_is_never_overwritten(database: Callable[..., str], tmp_path: Path) -> None:
    source, target, other = database(), database(), database()
    fill(source)
    fill(target)
    backup.backup(source, tmp_path / "dump")
    with connect(other) as conn:
        conn.execute("create table mine (n int)")
    for dsn in (target, other):
        with connect(dsn) as conn:
            before = contents(conn)
            with pytest.raises(errors.ConflictError) as caught:
                backup.restore(dsn, tmp_path / "dump")
            assert caught.value.code == "42P07"
            assert contents(conn) == before


def test_changed_or_strange_files_are_refused_and_leave_nothing(database: Callable[..., str], tmp_path: Path) -> None:
    source, target = database(), database()
    fill(source)
    file, about = tmp_path / "dump", tmp_path / "dump.json"
    backup.backup(source, file)
    whole, words = file.read_bytes(), about.read_text()
    file.write_bytes(whole[:-100])
    with pytest.raises(errors.PapertickError) as caught:
        backup.restore(target, file)
    assert caught.value.code == "TE901"
    about.unlink()
    with pytest.raises(errors.PapertickError):  # pg_restore finds it out in the middle
        backup.restore(target, file)
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(errors.UsageError):
        backup.restore(target, file)
    file.write_bytes(whole)
    about.write_text("[]")
    with pytest.raises(errors.UsageError):
        backup.restore(target, file)
    about.write_text(json.dumps(json.loads(words) | {"schema_version": 999}))
    with pytest.raises(errors.PapertickError, match="schema version 999"):
        backup.restore(target, file)
    with pytest.raises(errors.UsageError):
        backup.restore(target, tmp_path / "missing")
    with connect(target) as conn:
        assert contents(conn) == {}
    forged = json.loads(words)
    forged["runs"][1]["digest"] = "0" * 64
    about.write_text(json.dumps(forged))
    with pytest.raises(errors.PapertickError, match="1 of 3 runs") as caught:
        backup.restore(target, file)
    assert caught.value.code == "TE901"


def test_restore_that_is_cut_off_is_finished_by_upgrade(
    database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = database(), database()
    runs = fill(source)
    backup.backup(source, tmp_path / "dump")
    with monkeypatch.context() as patch:
        patch.setattr(install, "upgrade", lambda conn: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            backup.restore(target, tmp_path / "dump")
    with connect(target) as conn, connect(source) as before:
        assert install.upgrade(conn).code_loaded
        assert [digest(conn, run) for run in runs] == [digest(before, run) for run in runs]


def test_backup_of_an_older_release_comes_back_as_this_one(database: Callable[..., str], tmp_path: Path) -> None:
    """Of the dump only tables are taken: code, and triggers that are no more, stay behind."""
    source, target, fresh = database(), database(), database()
    runs = fill(source)
    with connect(source) as conn:
        conn.execute("create function public.old_verb() returns int language sql as 'select 1'")
        conn.execute("create function engine.old_guard() returns trigger language plpgsql as 'begin return new; end'")
        conn.execute(
            "create trigger old_guard before insert on paper_trade for each row execute function engine.old_guard()"
        )
        conn.execute("update schema_version set code_hash = 'old'")
    backup.backup(source, tmp_path / "dump")
    backup.restore(target, tmp_path / "dump")
    with connect(target) as conn, connect(fresh) as new:
        install.install(new)
        assert same(catalog(conn)) == same(catalog(new))
        tick(conn, runs[0], 7)


def test_a_plain_owner_backs_up_and_a_superuser_restores(
    database: Callable[..., str], servers: dict[int, server.Throwaway], tmp_path: Path
) -> None:
    """Who may make no roles owns everything himself; on the next server it is papertick_owner's, and the other way."""
    plain, target, back = database(), database(), database()
    role = f"plain_{os.urandom(3).hex()}"
    with connect(servers[max(servers)].dsn) as admin:
        admin.execute(f"create role {role} login".encode())
        for dsn in (plain, back):
            name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
            admin.execute(
                sql.SQL("alter database {} owner to {}").format(sql.Identifier(str(name)), sql.Identifier(role))
            )
    as_plain = make_conninfo(plain, user=role)
    runs = fill(as_plain)
    backup.backup(as_plain, tmp_path / "one")
    backup.restore(target, tmp_path / "one")
    with connect(target) as conn:
        assert (
            value(conn, "select pg_get_userbyid(relowner) from pg_class where relname = 'paper_trade'")
            == "papertick_owner"
        )
        tick(conn, runs[0], 6)
    backup.backup(target, tmp_path / "two")
    backup.restore(make_conninfo(back, user=role), tmp_path / "two")
    with connect(make_conninfo(back, user=role)) as conn:
        assert value(conn, "select pg_get_userbyid(relowner) from pg_class where relname = 'paper_trade'") == role
        tick(conn, runs[0], 7)
        assert conn.execute("select * from violations").fetchall() == []


def test_a_role_that_does_not_see_all_rows_is_told(database: Callable[..., str], tmp_path: Path) -> None:
    dsn = database()
    fill(dsn)
    role = f"half_{os.urandom(3).hex()}"
    with connect(dsn) as conn:
        conn.execute(f"create role {role} login in role papertick_owner".encode())
    with pytest.raises(errors.ForbiddenError) as caught:
        backup.backup(make_conninfo(dsn, user=role), tmp_path / "dump")
    assert caught.value.code == "42501"
    assert list(tmp_path.iterdir()) == []


def test_without_programs_the_hint_names_them(
    database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = database()
    fill(dsn)
    monkeypatch.setattr(pgtools, "_dump_folders", dict)
    with pytest.raises(errors.ServerError) as caught:
        backup.backup(dsn, tmp_path / "dump")
    assert "apt-get install postgresql-client-" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_programs_of_the_servers_major_are_taken_before_newer_ones() -> None:
    found = pgtools._dump_folders()
    for major in found:
        assert pgtools.dump_programs(major) == found[major]
    if {15, 18} <= found.keys():
        assert pgtools.dump_programs(16) == found[18]
        assert pgtools.dump_programs(14, 15) == found[15]
    with pytest.raises(errors.ServerError):
        pgtools.dump_programs(99)


def test_the_commands(database: Callable[..., str], tmp_path: Path) -> None:
    source, target = database(), database()
    fill(source)

    def cli(dsn: str, *args: object, code: int = 0) -> Any:
        result = CliRunner().invoke(main, [str(a) for a in args], env={"DB_DSN": dsn, "PAPERTICK_HOME": "/nonexistent"})
        assert result.exit_code == code, (args, result.output, result.exception)
        return result

    document = json.loads(cli(source, "db", "backup", tmp_path / "d", "--json").stdout)
    assert (document["runs"], document["format"]) == (3, "papertick-backup")
    assert "3 runs" in cli(source, "db", "backup", tmp_path / "d").stdout  # again: the newer one replaces it
    cli(source, "db", "backup", tmp_path / "no" / "such" / "place", code=2)
    cli(target, "db", "backup", tmp_path / "empty", code=1)
    assert json.loads(cli(target, "db", "restore", tmp_path / "d", "--json").stdout)["compared"] == 3
    cli(target, "db", "restore", tmp_path / "d", code=1)
    cli(target, "check")
