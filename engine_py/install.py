"""Install papertick into a database, and keep it up to date.

Files below 20_ make tables and run once; migrations/NNNN_*.sql change tables later, once each; files from 20_ up are
code, loaded again whenever their SHA-256 changes. All of it happens in one transaction under an advisory lock, so
that it is done whole or not at all, and once even when many start it together.

Table schema_version has a row per version of the tables. Its code_hash holds the SHA-256 of the code last loaded at
that version and, where a migration made the row, a slash and the SHA-256 of that migration.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from engine_py.errors import PapertickError, from_psycopg
from engine_py.pgtools import MIN_MAJOR

_FIRST_CODE = 20  # NN_*.sql from here on is code
_FIRST_VERSION = 1  # what the tables are without any migration


@dataclass(frozen=True)
class Outcome:
    """What an install or upgrade did; all of it empty when there was nothing to do."""

    version: int
    installed: bool = False
    migrations: tuple[int, ...] = ()
    code_loaded: bool = False

    @property
    def changed(self) -> bool:
        return self.installed or self.code_loaded or bool(self.migrations)


def sql_dir() -> Path:
    """The SQL files: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "sql", package.parent / "sql"):
        if folder.is_dir():
            return folder
    raise PapertickError(f"papertick's SQL files are missing: no {package / 'sql'}", hint="Install papertick again.")


def install(conn: psycopg.Connection, folder: Path | None = None) -> Outcome:
    """Install into a database that has no papertick; one that has is left as it is. `conn` must be in autocommit."""
    files = _Files(folder or sql_dir())
    with _transaction(conn):
        if _versions(conn) is None:
            return _install(conn, files)
        return Outcome(_latest(conn))


def upgrade(conn: psycopg.Connection, folder: Path | None = None) -> Outcome:
    """Bring an installed papertick to this release, keeping every row; install it if it is missing."""
    files = _Files(folder or sql_dir())
    with _transaction(conn):
        hashes = _versions(conn)
        if hashes is None:
            return _install(conn, files)
        files.check_against(hashes)
        pending = tuple(n for n in sorted(files.migrations) if n > max(hashes))
        stale = not _has_code(conn, hashes, files)
        if not pending and not stale:
            return Outcome(max(hashes))
        if pending:
            _hold_ticks(conn)  # the code does the same before it is rebuilt (20_engine)
        for number in pending:
            _run(conn, files.migrations[number])
            row = [number, "/" + _sha256(files.migrations[number])]
            conn.execute("insert into public.schema_version (version, code_hash) values (%s, %s)", row)
        _load_code(conn, files)
        return Outcome(_latest(conn), migrations=pending, code_loaded=True)


def status(conn: psycopg.Connection, folder: Path | None = None) -> dict[str, Any]:
    """installed, version, applied_at, pending (numbers of migrations) and code_current of this database."""
    files = _Files(folder or sql_dir())
    with _transaction(conn):
        hashes = _versions(conn)
        if hashes is None:
            return {"installed": False, "version": None, "applied_at": None, "pending": [], "code_current": False}
        latest = max(hashes)
        when = conn.execute("select applied_at from public.schema_version where version = %s", [latest]).fetchone()
        return {
            "installed": True,
            "version": latest,
            "applied_at": when and when[0],
            "pending": [n for n in sorted(files.migrations) if n > latest],
            "code_current": _has_code(conn, hashes, files),
        }


def newest_version(folder: Path | None = None) -> int:
    """The version of the tables that this release makes."""
    return _Files(folder or sql_dir()).version


class _Files:
    """The SQL files of one folder, in the order in which they run."""

    def __init__(self, folder: Path) -> None:
        self.all = sorted(folder.glob("[0-9][0-9]_*.sql"))
        if not self.all:
            raise PapertickError(f"no SQL files in {folder}", hint="Install papertick again.")
        self.code = [path for path in self.all if int(path.name[:2]) >= _FIRST_CODE]
        self.code_hash = _sha256(*self.code)
        self.migrations: dict[int, Path] = {}
        for path in sorted((folder / "migrations").glob("[0-9][0-9][0-9][0-9]_*.sql")):
            if self.migrations.setdefault(int(path.name[:4]), path) != path:
                raise PapertickError(f"two migrations have the number of {path.name}")

    @property
    def version(self) -> int:
        return max(self.migrations, default=_FIRST_VERSION)

    def check_against(self, hashes: dict[int, str]) -> None:
        """Refuse a database from a later release, and migrations that were edited after they had been applied."""
        if max(hashes) > self.version:
            raise PapertickError(
                f"the database is at version {max(hashes)}, and this papertick knows only {self.version}",
                hint="Install the newer papertick again.",
            )
        for number, recorded in hashes.items():
            path = self.migrations.get(number)
            before = recorded.partition("/")[2]
            if before and (path is None or _sha256(path) != before):
                raise PapertickError(
                    f"migration {number} is not the one that was applied",
                    detail=f"applied_sha256={before} file={path.name if path else 'missing'}",
                    hint="Restore the file, and put the change into a new migration.",
                )


@contextmanager
def _transaction(conn: psycopg.Connection) -> Iterator[None]:
    try:
        with conn.transaction():
            # Each statement must see what the one who held the lock before us has done.
            conn.execute("set transaction isolation level read committed")
            conn.execute("set local search_path = public, pg_temp")
            conn.execute("set local client_encoding = 'UTF8'")  # that of the files
            conn.execute("select pg_advisory_xact_lock(hashtextextended('papertick.install', 0))")
            yield
    except psycopg.Error as exc:
        raise from_psycopg(exc) from exc


def _install(conn: psycopg.Connection, files: _Files) -> Outcome:
    if conn.info.server_version < 10000 * MIN_MAJOR:
        raise PapertickError(
            f"PostgreSQL {conn.info.server_version // 10000} is too old", hint=f"papertick needs {MIN_MAJOR} or newer."
        )
    for path in files.all:
        _run(conn, path)
    version = _latest(conn)
    if version != files.version:
        raise PapertickError(f"the table files make version {version}, but the migrations end at {files.version}")
    _record(conn, files)
    return Outcome(version, installed=True, code_loaded=True)


def _hold_ticks(conn: psycopg.Connection) -> None:
    """Wait for the ticks in flight and hold new ones back, until the end of this transaction.

    A session may have read one of the tables before it comes to strategy_run and waits there for us. So all other
    tables are taken at once, or everything is let go and tried again: a lock that is kept while the next one is
    waited for would be a deadlock.
    """
    row = conn.execute(
        """select string_agg(format('public.%I', c.relname), ', ' order by c.relname collate "C") from pg_class c
            where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and c.relname <> 'strategy_run'
              and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'run_id')"""
    ).fetchone()
    others = row and row[0]
    while True:
        try:
            with conn.transaction():
                conn.execute("lock table public.strategy_run in access exclusive mode")
                if others:
                    conn.execute(f"lock table {others} in access exclusive mode nowait".encode())
            return
        except psycopg.errors.LockNotAvailable:
            time.sleep(0.01)


def _has_code(conn: psycopg.Connection, hashes: dict[int, str], files: _Files) -> bool:
    """Whether this release's code is loaded; a backup brings the tables and their hashes back, without it."""
    row = conn.execute("select to_regnamespace('engine') is not null").fetchone()
    return bool(row and row[0]) and hashes[max(hashes)].partition("/")[0] == files.code_hash


def _load_code(conn: psycopg.Connection, files: _Files) -> None:
    for path in files.code:
        _run(conn, path)
    _record(conn, files)


def _record(conn: psycopg.Connection, files: _Files) -> None:
    """Note the code's hash in the latest row, in front of its migration's."""
    conn.execute(
        "update public.schema_version set code_hash = %s || coalesce(substring(code_hash from '/.*'), '')"
        " where version = (select max(version) from public.schema_version)",
        [files.code_hash],
    )


def _run(conn: psycopg.Connection, path: Path) -> None:
    """Execute a whole file; an error says which one, and where in it."""
    text = path.read_text(encoding="utf-8")
    try:
        # Without parameters psycopg sends the text as it is, however many statements it has.
        conn.execute(text)
    except psycopg.Error as exc:
        error = from_psycopg(exc)
        position = exc.diag.statement_position
        line = f":{text.count(chr(10), 0, int(position) - 1) + 1}" if position else ""
        parts = [f"file={path.name}{line}", error.detail, exc.diag.context]
        error.detail = "\n".join(part for part in parts if part)
        raise error from exc


def _versions(conn: psycopg.Connection) -> dict[int, str] | None:
    """version -> its hashes, or None when papertick is not installed. Hashes are '' after an install with psql."""
    found = conn.execute("select to_regclass('public.schema_version') is not null").fetchone()
    if not found or not found[0]:
        return None
    return dict(conn.execute("select version, coalesce(code_hash, '') from public.schema_version").fetchall())


def _latest(conn: psycopg.Connection) -> int:
    row = conn.execute("select max(version) from public.schema_version").fetchone()
    return int(row[0]) if row else 0


def _sha256(*paths: Path) -> str:
    """One hash of the files' names and contents, whichever way their lines end."""
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.name} {hashlib.sha256(path.read_text(encoding='utf-8').encode()).hexdigest()}\n".encode())
    return total.hexdigest()
