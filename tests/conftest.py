"""One server per session, one installed template on it, and a fresh clone of that for each test.

DB_DSN names a server to use (a role with CREATEDB is enough, and nothing is left behind there); without it a
throwaway server is started. Under pytest-xdist the controller owns the server, and each worker makes its own template.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from capsules import another_database, other, other_dsn  # noqa: F401  # fixtures
from door import NO_API, Door, serving
from helpers import superuser_only
from live import start  # noqa: F401  # a fixture
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo
from pytest_postgresql import factories
from pytest_postgresql.executors import NoopExecutor
from pytest_postgresql.janitor import DatabaseJanitor

from engine_py import errors, install, server

_PREFIX = "papertick_test_"
_LOCK_CLASS = 1885434987  # first half of our advisory locks' keys: "this session is alive"
_WORKER = "PYTEST_XDIST_WORKER" in os.environ
# The databases of one session carry its number; workers inherit it, and the DSN, from their controller.
_SESSION = int(os.environ["PAPERTICK_TEST_SESSION"]) if _WORKER else secrets.randbelow(2**31)

# The plan's three post-run checks, word for word.
_POST_RUN = {
    "Orphan check": "SELECT COUNT(*) FROM engine_state es LEFT JOIN strategy_run sr ON sr.user_id=es.user_id AND "
    "sr.run_id=es.run_id WHERE sr.run_id IS NULL;",
    "Dedupe check": "SELECT user_id, run_id, logical_time, COUNT(*) FROM mtm_ledger GROUP BY user_id, run_id, "
    "logical_time HAVING COUNT(*) > 1;",
    "Lifecycle check": "SELECT user_id, COUNT(*) FROM strategy_run WHERE status='RUNNING' GROUP BY user_id HAVING "
    "COUNT(*) > 1;",
}


class _Lane:
    """What this session runs on: the controller's to open and close."""

    throwaway: server.Throwaway | None = None
    keeper: psycopg.Connection | None = None  # holds the advisory lock that marks our databases as in use
    header = ""


@pytest.hookimpl(tryfirst=True)  # before xdist starts its workers, which inherit the environment
def pytest_sessionstart(session: pytest.Session) -> None:
    if _WORKER or session.config.option.collectonly:
        return
    dsn = os.environ.get("DB_DSN")
    try:
        if not dsn:
            _Lane.throwaway = server.start_throwaway()
            dsn = _Lane.throwaway.dsn
        _Lane.keeper = psycopg.connect(dsn, autocommit=True)
    except (errors.ServerError, psycopg.Error) as exc:
        hint = getattr(exc, "hint", None) or "Check DB_DSN, or unset it to use a throwaway server."
        pytest.exit(f"no PostgreSQL to test on: {exc}\n{getattr(exc, 'detail', None) or ''}\n{hint}", returncode=3)
    conn = _Lane.keeper
    role = conn.execute("select rolname, rolsuper or rolcreatedb from pg_roles where rolname = current_user").fetchone()
    if not role or not role[1]:
        pytest.exit(
            f"the role {role and role[0]} of DB_DSN cannot create databases: alter role {role and role[0]} createdb",
            returncode=3,
        )
    conn.execute("select pg_advisory_lock(%s, %s)", [_LOCK_CLASS, _SESSION])
    _sweep(conn)
    os.environ["PAPERTICK_TEST_DSN"] = dsn
    os.environ["PAPERTICK_TEST_SESSION"] = str(_SESSION)
    version = conn.execute("show server_version").fetchone()
    _Lane.header = f"PostgreSQL {version and version[0]}, " + (
        f"{_Lane.throwaway.tools.kind}, account {_Lane.throwaway.account}, "
        f"data on tmpfs: {'yes' if _Lane.throwaway.on_tmpfs else 'no'}"
        if _Lane.throwaway
        else f"DB_DSN, role {role[0]}"
    )


def pytest_report_header() -> str:
    return f"server: {_Lane.header}" if _Lane.header else "server: none"


def pytest_unconfigure() -> None:
    if _Lane.keeper:
        _Lane.keeper.close()
        _Lane.keeper = None
    if _Lane.throwaway:
        _Lane.throwaway.stop()
        _Lane.throwaway = None


def _sweep(conn: psycopg.Connection) -> None:
    """Drop our databases of sessions that were killed: those whose advisory lock nobody holds any more."""
    leftovers = conn.execute(
        "select datname from pg_database d where datname ~ %s and pg_has_role(datdba, 'USAGE') and not exists ("
        "  select from pg_locks where locktype = 'advisory' and classid = %s"
        "  and objid::bigint = substring(d.datname from '[0-9]+')::bigint)",
        [f"^{_PREFIX}[0-9]+", _LOCK_CLASS],
    ).fetchall()
    for (name,) in leftovers:
        conn.execute(sql.SQL("alter database {} is_template false").format(sql.Identifier(name)))
        conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


@dataclass(frozen=True)
class Server:
    """The server under test, in the words of pytest-postgresql. Its own database is never written."""

    dsn: str
    host: str
    port: int
    user: str
    password: str | None
    maintenance_dbname: str
    options: str = ""
    template_dbname: str | None = None

    def dsn_of(self, dbname: str) -> str:
        return make_conninfo(self.dsn, dbname=dbname)


@pytest.fixture(scope="session")
def pg_server() -> Iterator[Server]:
    """The server that this session tests on."""
    dsn = os.environ["PAPERTICK_TEST_DSN"]
    with psycopg.connect(dsn) as conn:  # resolves what the DSN leaves to defaults
        info = conn.info
        found = Server(dsn, info.host, info.port, info.user, info.password or None, info.dbname)
    # pytest-postgresql passes only these on; whatever else the DSN says (sslmode, options …) goes by environment.
    variables = {o.keyword.decode(): o.envvar.decode() for o in Conninfo.get_defaults() if o.envvar}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in conninfo_to_dict(dsn).items():
            if key in variables and key not in ("host", "port", "user", "password", "dbname"):
                patch.setenv(variables[key], str(value))
        yield found


def _load(**where: object) -> None:
    where.pop("autocommit")
    with psycopg.connect(autocommit=True, **where) as conn:
        install.install(conn)


pg_template = factories.postgresql_noproc(depends_on="pg_server", dbname=f"{_PREFIX}{_SESSION}_", load=[_load])
_clone = factories.postgresql("pg_template")


@pytest.fixture
def db(request: pytest.FixtureRequest, pg_server: Server, _clone: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """An autocommit connection to a database of this test's own. Afterwards the plan's checks must hold in it."""
    _clone.autocommit = True
    dbname = _clone.info.dbname
    yield _clone
    _clone.close()
    with psycopg.connect(pg_server.dsn_of(dbname), options="-c statement_timeout=60s") as conn:
        broken = {}
        for name, query in _POST_RUN.items():
            rows = conn.execute(query).fetchall()
            if rows not in ([], [(0,)]):
                broken[name] = rows
        if not request.node.get_closest_marker("plants_violations"):
            rows = conn.execute("select * from violations").fetchall()
            if rows:
                broken["violations"] = rows
    if broken:
        pytest.fail(f"after the test the database is broken: {broken}", pytrace=False)


@pytest.fixture
def dsn(pg_server: Server, db: psycopg.Connection) -> str:
    """The connection string of `db`, for programs that connect by themselves."""
    return pg_server.dsn_of(db.info.dbname)


@pytest.fixture
def connect(dsn: str) -> Iterator[Callable[..., psycopg.Connection]]:
    """Makes more connections to the database of `db` (autocommit unless told); all are closed at the end."""
    opened: list[psycopg.Connection] = []

    def make(*, autocommit: bool = True, **options: object) -> psycopg.Connection:
        opened.append(psycopg.connect(dsn, autocommit=autocommit, **options))
        return opened[-1]

    yield make
    for conn in opened:
        conn.close()


@pytest.fixture(scope="session")
def _shared(pg_server: Server, pg_template: NoopExecutor) -> Iterator[str]:
    with another_database(pg_server, pg_template, "shared") as dsn:
        yield dsn


@pytest.fixture
def tx(_shared: str) -> Iterator[psycopg.Connection]:
    """A connection in a transaction that is rolled back, on a database shared with other tests: cheap."""
    conn = psycopg.connect(_shared)
    try:
        yield conn
        conn.rollback()
    finally:
        conn.close()


@pytest.fixture(scope="session")
def _api(pg_server: Server, pg_template: NoopExecutor) -> Iterator[Door]:
    """BASE_URL names an API to test, and DB_DSN then its database; without it one starts on a database of its own."""
    base_url = os.environ.get("BASE_URL")
    if base_url:
        door = Door(base_url.rstrip("/"), pg_server.dsn)
        yield door
        door.close()
        return
    name = f"{pg_template.dbname}_api"
    janitor = DatabaseJanitor(
        user=pg_server.user,
        host=pg_server.host,
        port=pg_server.port,
        password=pg_server.password,
        dbname=name,
        template_dbname=pg_template.template_dbname,
        maintenance_dbname=pg_server.maintenance_dbname,
    )
    with janitor:
        dsn = pg_server.dsn_of(name)
        with psycopg.connect(dsn) as conn:
            superuser_only(conn, NO_API)
        with serving(dsn, "--rate", "0") as process:
            door = Door(process.url, dsn)
            yield door
            broken = door.conn.execute("select * from violations").fetchall()
            door.close()
        assert not any("Traceback" in line for line in process.lines), "".join(process.lines)
        assert broken == []


@pytest.fixture
def api(_api: Door) -> Door:
    """The API under test, shared; every test makes users, and where it matters a feed, of its own."""
    return _api


@pytest.fixture
def plain_role(db: psycopg.Connection) -> Iterator[str]:
    """A role that may do nothing; what it was granted in the test's database goes with it."""
    role = f"{db.info.dbname}_plain"
    superuser_only(db, "it may not create roles")
    db.execute(f'create role "{role}"')
    yield role
    db.execute(f'reset role; drop owned by "{role}"; drop role "{role}"')


@pytest.fixture
def background() -> Iterator[Callable[..., Future[Any]]]:
    """Runs a call in a thread: `background(fn, *args)` → Future."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit
