"""db upgrade under ticks: from every released version, and from this one to a next one that is made up here."""

from __future__ import annotations

import gzip
import runpy
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Server
from helpers import Run, at, digest, make_bars, make_run, make_user, place, value, wait_until
from psycopg import sql
from pytest_postgresql.executors import NoopExecutor
from test_install import catalog

from engine_py import install
from engine_py.errors import is_retryable
from tests.schema_dump import dump

Conn = psycopg.Connection[Any]
RELEASES = Path(__file__).parent / "releases"
BARS, SESSIONS = 160, 3


@pytest.fixture
def databases(pg_server: Server, pg_template: NoopExecutor) -> Iterator[Callable[[], str]]:
    """Makes empty databases."""
    names: list[str] = []

    def make() -> str:
        names.append(f"{pg_template.dbname}_up{len(names)}")
        with psycopg.connect(pg_server.dsn, autocommit=True) as admin:
            admin.execute(sql.SQL("create database {} template template0").format(sql.Identifier(names[-1])))
        return pg_server.dsn_of(names[-1])

    yield make
    with psycopg.connect(pg_server.dsn, autocommit=True) as admin:
        for name in names:
            admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def connect(dsn: str) -> Conn:
    return psycopg.connect(dsn, autocommit=True)


def installed(dsn: str, script: str) -> Conn:
    """As a release was installed: all of its files in one transaction."""
    conn = connect(dsn)
    with conn.transaction():
        conn.execute(script.encode())
    return conn


def prepare(conn: Conn) -> list[Run]:
    """Bars, and a run for each session: plain, with a SIP and fees, with a rebalance and few marks."""
    for symbol in ("AAA", "BBB"):
        make_bars(conn, symbol, [100 + (n * 7 + ord(symbol[0])) % 23 for n in range(BARS)])
    runs = [make_run(conn, 50_000)]
    for terms in ("p_fee_schedule => 'US_PER_SHARE'", "p_mark_policy => 'EVENTS'"):
        user = make_user(conn)
        runs.append(Run(user, value(conn, f"select start_run(%s, 50000, {terms})", [user])))
    place(conn, runs[0], "AAA", "BUY", 10, order_type="LIMIT", limit_price=95)
    place(conn, runs[0], "BBB", "BUY", 10, take_profit=150, stop_loss=60)
    conn.execute("select create_sip(%s, %s, 'AAA', 100, 'DAILY', '2024-01-01')", runs[1])
    conn.execute("select create_rebalance(%s, %s, '{\"AAA\": 0.4, \"BBB\": 0.4}', 'WEEKLY', '2024-01-01')", runs[2])
    return runs


def tick(conn: Conn, run: Run, n: int) -> None:
    conn.execute("call tick(%s, %s, %s)", [*run, at(n)])


class Ticking(threading.Thread):
    """Ticks its run from bar to bar on a connection of its own, as any client would: again when told to.

    The last quarter of the bars is left until `upgraded` is set; meanwhile the same tick is asked for again and again.
    """

    def __init__(self, dsn: str, run: Run, upgraded: threading.Event | None = None) -> None:
        super().__init__(daemon=True)
        self.dsn, self.run_key, self.upgraded = dsn, run, upgraded
        self.done, self.again = 0, 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with closing(connect(self.dsn)) as conn:
                while self.done < BARS:
                    waits = self.upgraded and self.done >= BARS * 3 // 4 and not self.upgraded.is_set()
                    try:
                        tick(conn, self.run_key, self.done - 1 if waits else self.done)
                    except psycopg.Error as exc:
                        if not is_retryable(exc):
                            raise
                        self.again += 1
                        continue
                    self.done += not waits
        except BaseException as exc:  # for the test to see
            self.failure = exc


def upgraded_under_ticks(dsn: str, conn: Conn, folder: Path | None = None) -> list[Run]:
    runs = prepare(conn)
    upgraded = threading.Event()
    threads = [Ticking(dsn, run, upgraded) for run in runs]
    for thread in threads:
        thread.start()
    wait_until(lambda: all(thread.done > BARS // 10 or thread.failure for thread in threads), "all tick", 60)
    before = [thread.done for thread in threads]
    try:
        with closing(connect(dsn)) as upgrader:
            assert install.upgrade(upgrader, folder).changed
        between = [thread.done for thread in threads]
    finally:
        upgraded.set()
    for thread in threads:
        thread.join(120)
    assert [thread.failure for thread in threads] == [None] * SESSIONS
    assert all(n < BARS for n in before), "the ticks were over before the upgrade began"
    assert all(n <= BARS for n in between)
    return runs


def is_the_undisturbed(conn: Conn, runs: list[Run], reference: Conn) -> None:
    """No tick lost, none doubled, every digit as if there had been no upgrade."""
    twins = prepare(reference)
    for twin in twins:
        for n in range(BARS):
            tick(reference, twin, n)
    assert [digest(conn, run) for run in runs] == [digest(reference, twin) for twin in twins]
    stored = value(
        conn, "select count(*) from paper_equity_curve where run_id = any (%s)", [[r.run_id for r in runs[:2]]]
    )
    assert stored == 2 * BARS
    assert conn.execute("select * from violations").fetchall() == []


def versions() -> list[str]:
    return sorted(path.name.removesuffix(".sql.gz") for path in RELEASES.glob("*.sql.gz"))


@pytest.mark.parametrize("version", [*versions(), "this one, as a release"])
def test_upgrade_of_a_release_loses_no_tick(databases: Callable[[], str], version: str) -> None:
    """Also from this very version's files without hashes, as psql installs them: so there is always one to try."""
    path = RELEASES / f"{version}.sql.gz"
    if path.exists():
        script = gzip.decompress(path.read_bytes()).decode()
    else:
        script = "".join(file.read_text(encoding="utf-8") for file in sorted(install.sql_dir().glob("[0-9]*.sql")))
    dsn, fresh_dsn = databases(), databases()
    with closing(installed(dsn, script)) as conn, closing(connect(fresh_dsn)) as fresh:
        install.install(fresh)
        runs = upgraded_under_ticks(dsn, conn)
        assert catalog(conn) == catalog(fresh)
        assert dump(conn) == dump(fresh)
        is_the_undisturbed(conn, runs, fresh)
        assert not install.upgrade(conn).changed


NOTE = "  ticks int not null default 0 constraint engine_state_ticks_are_counted check (ticks >= 0),\n"


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """The present SQL with a column more, which the code counts in, and the migration that brings it."""
    folder = Path(shutil.copytree(install.sql_dir(), tmp_path / "sql"))
    tables = folder / "12_run_tables.sql"
    text = tables.read_text(encoding="utf-8")
    marker = "  step_logical_time logical_instant,\n"
    assert text.count(marker) == 1
    tables.write_text(text.replace(marker, marker + NOTE), encoding="utf-8")
    first = folder / "10_tables.sql"
    number = install.newest_version() + 1
    row = f"insert into schema_version (version) values ({number - 1});"
    text = first.read_text(encoding="utf-8")
    assert row in text
    first.write_text(text.replace(row, row.replace(str(number - 1), str(number))), encoding="utf-8")
    code = folder / "42_post.sql"
    text = code.read_text(encoding="utf-8")
    moved = "step_logical_time = c.step_logical_time\n"
    assert text.count(moved) == 1
    code.write_text(text.replace(moved, moved.rstrip() + ", ticks = s.ticks + 1\n"), encoding="utf-8")
    (folder / "migrations").mkdir(exist_ok=True)
    (folder / "migrations" / f"{number:04}_ticks.sql").write_text(
        "alter table engine_state add column" + NOTE.rstrip().removesuffix(",") + ";\n", encoding="utf-8"
    )
    return folder


def test_upgrade_to_a_release_with_a_migration_loses_no_tick(
    databases: Callable[[], str], next_release: Path, db: Conn
) -> None:
    """Tables and code change together, between two ticks of every session: the new code meets the new column alone."""
    dsn, fresh_dsn = databases(), databases()
    with closing(connect(dsn)) as conn, closing(connect(fresh_dsn)) as fresh:
        install.install(conn)
        install.install(fresh, next_release)
        runs = upgraded_under_ticks(dsn, conn, next_release)
        assert catalog(conn) == catalog(fresh)
        assert install.status(conn, next_release)["pending"] == []
        counted = [
            value(conn, "select ticks from engine_state where (user_id, run_id) = (%s, %s)", run) for run in runs
        ]
        assert all(0 < n < BARS for n in counted), counted
        is_the_undisturbed(conn, runs, db)
        # and the older papertick keeps its hands off
        with pytest.raises(Exception, match="knows only"):
            install.upgrade(conn)


@pytest.mark.parametrize("with_migration", [False, True])
def test_who_has_read_a_table_and_ticks_then_is_not_waited_for(
    databases: Callable[[], str], next_release: Path, background: Callable[..., Any], with_migration: bool
) -> None:
    """It holds a lock that the upgrade wants, and wants one that the upgrade has: the upgrade lets go."""
    if not with_migration:
        shutil.copytree(install.sql_dir(), next_release, dirs_exist_ok=True)
        shutil.rmtree(next_release / "migrations")
        last = next_release / "99_grants.sql"
        last.write_text(last.read_text(encoding="utf-8") + "\n-- changed\n", encoding="utf-8")
    dsn = databases()
    with closing(connect(dsn)) as conn, closing(connect(dsn)) as session, closing(connect(dsn)) as upgrader:
        install.install(conn)
        run = prepare(conn)[1]
        session.execute("set lock_timeout = '20s'")
        for n in range(3):
            tick(session, run, n)
        with session.transaction():
            session.execute("select from engine_state")
            upgrade = background(install.upgrade, upgrader, next_release)
            waits = "select wait_event = 'PgSleep' or wait_event_type = 'Lock' from pg_stat_activity where pid = %s"
            wait_until(
                lambda: upgrade.done() or value(conn, waits, [upgrader.info.backend_pid]) or trying(upgrader, conn),
                "it tries",
                20,
            )
            tick(session, run, 3)
        assert upgrade.result(60).changed
        tick(session, run, 4)
        assert value(conn, "select count(*) from paper_equity_curve where run_id = %s", [run.run_id]) == 5


def trying(upgrader: Conn, conn: Conn) -> bool:
    """Between two tries it holds nothing, and has tried."""
    query = "select query like 'lock table%%' or query like 'ROLLBACK TO%%' from pg_stat_activity where pid = %s"
    return bool(value(conn, query, [upgrader.info.backend_pid]))


def test_failing_migration_under_ticks_leaves_the_old_release_ticking(
    databases: Callable[[], str], next_release: Path, db: Conn
) -> None:
    migration = next(iter((next_release / "migrations").glob("[0-9]*.sql")))
    migration.write_text(migration.read_text() + "select 1 / 0;\n")
    dsn = databases()
    with closing(connect(dsn)) as conn:
        install.install(conn)
        before = catalog(conn)
        runs = prepare(conn)
        threads = [Ticking(dsn, run) for run in runs]
        for thread in threads:
            thread.start()
        wait_until(lambda: all(thread.done > BARS // 10 or thread.failure for thread in threads), "all tick", 60)
        with closing(connect(dsn)) as upgrader, pytest.raises(Exception, match="division by zero"):
            install.upgrade(upgrader, next_release)
        for thread in threads:
            thread.join(120)
        assert [thread.failure for thread in threads] == [None] * SESSIONS
        assert catalog(conn) == before
        is_the_undisturbed(conn, runs, db)


def test_tables_without_code_are_completed(databases: Callable[[], str]) -> None:
    """What a restore that was cut off leaves: upgrade sees that the code is missing, whatever the hashes say."""
    with closing(connect(databases())) as conn, closing(connect(databases())) as fresh:
        install.install(conn)
        install.install(fresh)
        conn.execute("drop schema engine cascade")
        assert install.status(conn)["code_current"] is False
        assert install.upgrade(conn).code_loaded
        assert catalog(conn) == catalog(fresh)


def test_freezing_writes_what_installs(databases: Callable[[], str]) -> None:
    frozen = runpy.run_path(str(install.sql_dir().parent / "scripts" / "freeze_release.py"))["frozen"]
    data = frozen(install.sql_dir())
    assert data == frozen(install.sql_dir())
    with (
        closing(installed(databases(), gzip.decompress(data).decode())) as conn,
        closing(connect(databases())) as fresh,
    ):
        install.install(fresh)
        assert catalog(conn) == catalog(fresh)
