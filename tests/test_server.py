"""The embedded server: it starts anywhere, survives crashes, and a throwaway one leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from engine_py import db, errors, pgtools, postmaster, server, throwaway

PROJECT = Path(__file__).resolve().parent.parent
_ENSURE = "from engine_py.server import ensure_running as e; s = e(); print(s.started, s.dsn, sep='|')"


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Zombies do not count: in a container nobody may reap them."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def python(code: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, text=True, stdout=subprocess.PIPE, **options)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A PAPERTICK_HOME, with a TMPDIR, that every account can enter (root's pytest directories are closed to others).

    At the end no server and no temporary directory may be left.
    """
    root = Path(tempfile.mkdtemp(prefix="papertick-home-", dir=next(iter(throwaway.roomy_tmpfs()), None)))
    home, temporary = root / "h", root / "t"
    for path, mode in ((root, 0o755), (home, 0o755), (temporary, 0o1777)):
        path.mkdir(exist_ok=True)
        path.chmod(mode)
    monkeypatch.setenv("PAPERTICK_HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)  # forget the cached one
    yield home
    for data in home.glob("pg*"):
        if not postmaster.is_dead(data):
            where = postmaster.address(data)
            os.kill(int(postmaster.pid_lines(data)[0]), signal.SIGQUIT)
            wait_until(lambda data=data: postmaster.is_dead(data), "the server's end")
            postmaster.drop_socket_dir(where)
    left = list(temporary.iterdir())
    shutil.rmtree(root)
    assert not left


@pytest.fixture
def fake_bin(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts programs in PAPERTICK_PG_BIN that say their version and run this script for anything else."""

    def make(script: str, version: str = "18.6") -> None:
        folder = home / "bin"
        folder.mkdir()
        folder.chmod(0o755)
        for name in ("initdb", "pg_ctl", "postgres"):
            path = folder / name
            say = f'[ "$1" = --version ] && echo "{name} (PostgreSQL) {version}" && exit 0'
            path.write_text(f"#!/bin/sh\n{say}\n{script}\n")
            path.chmod(0o755)
        monkeypatch.setenv("PAPERTICK_PG_BIN", str(folder))

    return make


def fetch(dsn: str, query: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(query)
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]


# --- throwaway ---------------------------------------------------------------------------------------------------


def test_throwaway_starts_stops_and_leaves_nothing() -> None:
    spare = server.start_throwaway()
    try:
        pid = spare.pid
        assert is_running(pid)
        assert fetch(spare.dsn, "show server_version").split()[0] == spare.version
        assert fetch(spare.dsn, "show fsync") == "off"
        assert fetch(spare.dsn, "show listen_addresses") == ""
        assert fetch(spare.dsn, "select datcollate from pg_database where datname = 'postgres'") == "C"
        assert spare.root.stat().st_mode & 0o077 == 0, "trust authentication needs a closed directory"
    finally:
        spare.stop()
    assert not is_running(pid)
    assert not spare.root.exists()
    spare.stop()  # twice is fine


def test_durable_throwaway_keeps_commits_over_a_crash() -> None:
    spare = server.start_throwaway(durable=True)
    try:
        assert fetch(spare.dsn, "show fsync") == "on"
        fetch(spare.dsn, "create table kept as select 42 as answer")
        spare.kill()
        with pytest.raises(errors.ConnectionFailedError) as caught:
            db.connect(f"host={spare.root} user=postgres")
        assert caught.value.exit_code == 3
        spare.start()
        assert fetch(spare.dsn, "select answer from kept") == 42
    finally:
        spare.stop()
    assert not spare.root.exists()


def test_watchdog_ends_the_server_of_a_killed_parent() -> None:
    parent = python(
        "from engine_py.server import start_throwaway as s; t = s(); print(t.root, t.pid, flush=True); input()",
        stdin=subprocess.PIPE,
    )
    try:
        assert parent.stdout
        root, pid = parent.stdout.readline().split()
        assert is_running(int(pid))
    finally:
        parent.kill()
        parent.communicate()
    wait_until(lambda: not is_running(int(pid)) and not Path(root).exists(), "server and data gone")


def test_a_throwaway_whose_watchdog_was_killed_still_stops() -> None:
    spare = server.start_throwaway()
    assert spare.watchdog
    spare.watchdog.kill()
    pid = spare.pid
    spare.stop()
    assert not is_running(pid)
    assert not spare.root.exists()


# --- durable -----------------------------------------------------------------------------------------------------


def test_durable_server_keeps_data_over_stop_and_start(home: Path) -> None:
    assert server.status() is None
    assert server.stop() is False
    first = server.ensure_running()
    assert first.started
    assert first.notice is None
    assert first.data_dir == home / f"pg{first.version.split('.')[0]}"
    assert {fetch(first.dsn, f"show {name}") for name in ("fsync", "full_page_writes", "synchronous_commit")} == {"on"}
    assert fetch(first.dsn, "select current_database()") == "papertick"
    fetch(first.dsn, "create table kept as select 42 as answer")

    again = server.ensure_running()
    assert not again.started
    assert again.dsn == first.dsn
    status = server.status()
    assert status
    assert status["dsn"] == first.dsn

    socket_dir = Path(postmaster.address(first.data_dir)["host"])
    assert socket_dir.stat().st_mode & 0o077 == 0
    assert server.stop() is True
    assert not socket_dir.exists()
    assert not is_running(int(str(status["pid"])))
    assert server.status() is None

    third = server.ensure_running()
    assert third.started
    assert fetch(third.dsn, "select answer from kept") == 42


def test_recovers_from_a_killed_postmaster(home: Path) -> None:
    first = server.ensure_running()
    socket_dir = postmaster.address(first.data_dir)["host"]
    fetch(first.dsn, "create table kept as select 42 as answer")
    os.kill(int(postmaster.pid_lines(first.data_dir)[0]), signal.SIGKILL)
    second = server.ensure_running()  # at once: its children may still be there
    assert second.started
    assert fetch(second.dsn, "select answer from kept") == 42
    assert not os.path.exists(socket_dir)


def test_waits_for_the_busy_children_of_a_killed_postmaster(home: Path) -> None:
    first = server.ensure_running()
    # A backend in a loop looks for its postmaster only when the loop is over.
    loop = "declare v timestamptz = clock_timestamp() + '1 s'; begin while clock_timestamp() < v loop end loop; end"
    with contextlib.closing(psycopg.connect(first.dsn, autocommit=True)) as busy:
        busy.pgconn.send_query(f"do $$ {loop} $$".encode())
        active = "select count(*) from pg_stat_activity where state = 'active' and query like 'do $$%'"
        wait_until(lambda: fetch(first.dsn, active) == 1, "the loop")
        os.kill(int(postmaster.pid_lines(first.data_dir)[0]), signal.SIGKILL)
        assert server.ensure_running().started


def test_recovers_when_the_old_number_is_another_programs(home: Path) -> None:
    first = server.ensure_running()
    account = pgtools.server_account()
    os.kill(int(postmaster.pid_lines(first.data_dir)[0]), signal.SIGKILL)
    wait_until(lambda: postmaster.is_dead(first.data_dir), "the postmaster's end")
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, **account.popen_args()) as other:
        pid_file = first.data_dir / "postmaster.pid"
        pid_file.write_text(f"{other.pid}\n" + pid_file.read_text().partition("\n")[2])
        assert server.ensure_running().started
        assert other.stdin
        other.stdin.close()


def test_recovers_from_an_interrupted_initdb(home: Path) -> None:
    major = pgtools.find_tools().major
    half_made = home / f"pg{major}.init-killed"
    half_made.mkdir()
    (half_made / "PG_VERSION").write_text(f"{major}\n")
    running = server.ensure_running()
    assert fetch(running.dsn, "select 1") == 1
    assert sorted(p.name for p in home.iterdir()) == ["lock", f"pg{major}"]


def test_two_at_once_start_one_server_which_outlives_both(home: Path) -> None:
    both = [python(_ENSURE) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].strip().split("|") for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(started for started, _ in said) == ["False", "True"]
    assert said[0][1] == said[1][1]
    assert fetch(said[0][1], "select 1") == 1


def test_says_that_data_of_another_major_is_not_used(home: Path) -> None:
    (home / "pg14").mkdir()
    (home / "pg14" / "PG_VERSION").write_text("14\n")
    notice = server.ensure_running().notice
    assert notice
    assert "pg14" in notice
    assert server.ensure_running().notice is None


def test_makes_its_directory_whatever_the_umask(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o077)
    try:
        monkeypatch.setenv("PAPERTICK_HOME", str(home / "pg_new" / "deep"))
        running = server.ensure_running()
    finally:
        os.umask(before)
    assert running.notice is None
    assert running.data_dir.parent == home / "pg_new" / "deep"
    assert server.stop()


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("initdb: error: cannot be run as root", "refuses to run as root"),
        ("pg_ctl: cannot be run as root", "refuses to run as root"),
        ('"root" execution of the PostgreSQL server is not permitted.', "refuses to run as root"),
        ("initdb: error: could not look up effective user ID 54321: user does not exist", "no account"),
        ('Unix-domain socket path "/x/y" is too long (maximum 107 bytes)', "socket is too long"),
        ("could not write: No space left on device", "disk is full"),
        ("FATAL:  database files are incompatible with server", "another version"),
        ("something else", "could not be created"),
    ],
)
def test_known_failures_are_said_in_plain_words(fake_bin: Callable[..., None], said: str, meant: str) -> None:
    fake_bin(f"echo '{said}'; exit 1")
    with pytest.raises(errors.ServerError, match=meant) as caught:
        server.ensure_running()
    assert said in (caught.value.detail or "")
    assert caught.value.hint
    assert caught.value.exit_code == 3


def test_a_failing_start_shows_the_servers_log(fake_bin: Callable[..., None]) -> None:
    fake_bin('case "$0" in *initdb) touch "$2/PG_VERSION";; *) echo "FATAL:  no luck" >"$5"; exit 1;; esac')
    with pytest.raises(errors.ServerError, match="the server did not start") as caught:
        server.ensure_running()
    assert "FATAL:  no luck" in (caught.value.detail or "")


def test_an_old_postgres_is_refused(fake_bin: Callable[..., None]) -> None:
    fake_bin("exit 1", version="14.9")
    with pytest.raises(errors.ServerError, match=r"14\.9 is too old") as caught:
        server.ensure_running()
    assert "PAPERTICK_PG_BIN" in (caught.value.hint or "")


def test_a_wrong_bin_folder_is_an_error_and_no_silent_second_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERTICK_PG_BIN", "/nonexistent/bin")
    with pytest.raises(errors.ServerError, match="/nonexistent/bin"):
        server.start_throwaway()


def test_a_home_that_cannot_be_made_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("PAPERTICK_HOME", str(home / "file" / "below"))
    with pytest.raises(errors.ServerError, match="below") as caught:
        server.ensure_running()
    assert "PAPERTICK_HOME" in (caught.value.hint or "")


def test_a_home_closed_to_the_servers_account_moves_the_data(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = pgtools.server_account()
    if account.uid is None:  # only root's server has another account: ours enters what is ours
        assert account.can_enter(home)
        return
    system = home / "pg_system"
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setenv("PAPERTICK_HOME", str(closed))
    monkeypatch.setattr(server, "SYSTEM_DIR", system)
    running = server.ensure_running()
    assert running.data_dir.is_relative_to(system)
    assert str(closed) in (running.notice or "")
    assert closed.stat().st_mode & 0o777 == 0o700
    assert server.stop()


def test_a_wheel_in_a_closed_venv_is_copied(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = home / "closed" / "some_wheel"
    (package / "pginstall" / "bin").mkdir(parents=True)
    (package / "__pycache__").mkdir()
    tool = package / "pginstall" / "bin" / "initdb"
    tool.write_text("#!/bin/sh\necho 'initdb (PostgreSQL) 18.6'\n")
    tool.chmod(0o700)
    libs = home / "closed" / "some_wheel.libs"
    libs.mkdir()
    (libs / "libpq.so").touch()
    monkeypatch.setattr(pgtools, "SYSTEM_DIR", home / "system")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.0")
    copy = pgtools._copy_wheel(tool.parent)
    assert copy == home / "system" / "bin" / "some_wheel-1.0" / "some_wheel" / "pginstall" / "bin"
    assert pgtools._copy_wheel(tool.parent) == copy
    assert (copy / "initdb").stat().st_mode & 0o777 == 0o755
    assert sorted(p.name for p in copy.parents[2].iterdir()) == ["some_wheel", "some_wheel.libs"]
    assert pgtools.server_account().run(copy / "initdb").stdout == "initdb (PostgreSQL) 18.6\n"


# --- connections -------------------------------------------------------------------------------------------------


def test_dsn_comes_from_the_option_then_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_DSN", "host=variable")
    assert db.resolve_dsn("host=option") == ("host=option", None)
    assert db.resolve_dsn(None) == ("host=variable", None)


def test_no_server_is_exit_code_3_and_a_bad_string_is_usage() -> None:
    with pytest.raises(errors.ConnectionFailedError) as caught:
        db.connect("host=/nonexistent")
    assert (caught.value.exit_code, caught.value.http_status, caught.value.code) == (3, 503, None)
    with pytest.raises(errors.UsageError) as usage:
        db.connect("foo bar")
    assert usage.value.exit_code == 2


def test_database_reconnects_and_retries_after_its_backend_was_killed(dsn: str, connect: Callable) -> None:
    with db.Database(dsn) as database:
        calls = 0

        def work(conn: psycopg.Connection) -> object:
            nonlocal calls
            calls += 1
            if calls == 1:
                connect().execute("select pg_terminate_backend(%s)", [conn.info.backend_pid])
            row = conn.execute("select 42").fetchone()
            return row and row[0]

        assert database.run(work) == 42
        assert calls == 2


@pytest.mark.parametrize(("code", "calls"), [("40001", 5), ("40P01", 5), ("55P03", 5), ("08006", 5), ("22003", 1)])
def test_only_retryable_errors_are_retried(
    tx: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, code: str, calls: int
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    made = 0

    def fail() -> None:
        nonlocal made
        made += 1
        with tx.transaction():
            tx.execute(f"do $$ begin raise exception 'no' using errcode = '{code}'; end $$")

    with pytest.raises(errors.PapertickError) as caught:
        db.with_retry(fail)
    assert caught.value.code == code
    assert made == calls
    assert len(pauses) == calls - 1
    assert all(0.02 <= pause <= 2.0 for pause in pauses)
    assert pauses == sorted(pauses)


def test_a_lost_connection_is_retryable_and_a_misuse_of_psycopg_is_not() -> None:
    assert errors.is_retryable(psycopg.OperationalError("the connection is lost"))  # as at COMMIT: no SQLSTATE
    assert errors.is_retryable(errors.ConnectionFailedError("no route"))
    assert not errors.is_retryable(errors.ConnectionFailedError("who are you?", code="28P01"))
    assert not errors.is_retryable(psycopg.ProgrammingError("no such parameter"))
    assert not errors.is_retryable(ValueError())


@pytest.mark.parametrize(
    ("code", "kind", "http", "exit_code"),
    [
        ("TE001", errors.ConflictError, 409, 1),
        ("23505", errors.ConflictError, 409, 1),
        ("23503", errors.ConflictError, 409, 1),
        ("TE101", errors.InvalidError, 422, 1),
        ("22P02", errors.InvalidError, 422, 1),
        ("23514", errors.InvalidError, 422, 1),
        ("TE204", errors.NotFoundError, 404, 1),
        ("TE301", errors.ForbiddenError, 403, 1),
        ("40001", errors.BusyError, 503, 1),
        ("57P01", errors.ConnectionFailedError, 503, 3),
        ("08006", errors.ConnectionFailedError, 503, 3),
        ("TE901", errors.PapertickError, 500, 1),
    ],
)
def test_sqlstate_decides_exception_http_status_and_exit_code(
    tx: psycopg.Connection, code: str, kind: type, http: int, exit_code: int
) -> None:
    with pytest.raises(errors.PapertickError) as caught, errors.mapped():
        tx.execute(f"do $$ begin raise 'm' using errcode = '{code}', detail = 'd', hint = 'h'; end $$")
    error = caught.value
    assert type(error) is kind
    assert (error.message, error.code, error.detail, error.hint) == ("m", code, "d", "h")
    assert (error.http_status, error.exit_code) == (http, exit_code)
