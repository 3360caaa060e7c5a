"""Backup and restore: the tables by pg_dump, the code by this papertick.

A backup is pg_dump's own custom format, and beside it FILE.json with the digest of every run in the same snapshot, so
that a restore can prove itself. Of the dump only tables are restored, with their rows, keys and constraints: functions,
triggers, policies and grants are code, and `upgrade` makes them as it always does, with their roles. So a backup of an
older release comes back as this one, on a server of the same PostgreSQL or a newer one, whoever owned it before.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from engine_py import __version__, errors, install
from engine_py.capsule import sync_directory
from engine_py.cli_base import Row, Session, select
from engine_py.db import Database
from engine_py.pgtools import dump_programs, newest_dump_programs

_FORMAT = "papertick-backup"
# What a restore takes of pg_restore's list; the rest is code.
_TABLES = re.compile(
    r"\d+; \d+ \d+ ((DOMAIN|TYPE|TABLE|TABLE DATA|SEQUENCE|SEQUENCE OWNED BY|SEQUENCE SET|DEFAULT|CONSTRAINT"
    r"|CHECK CONSTRAINT|FK CONSTRAINT|INDEX) public |COMMENT public (TABLE|COLUMN|DOMAIN|TYPE|INDEX|CONSTRAINT) )"
)
_TABLE = re.compile(r"\d+; \d+ \d+ TABLE public (\S+) ")
_COLUMN = re.compile(r"\d+; \d+ \d+ COMMENT public COLUMN ([^.]+)\.")


def _wanted(listing: list[str]) -> list[str]:
    """The lines of what is restored. Columns of views have comments too, but views are code."""
    tables = {found[1] for line in listing if (found := _TABLE.match(line))}
    columns = ((line, _COLUMN.match(line)) for line in listing if _TABLES.match(line))
    return [line for line, column in columns if not column or column[1] in tables]


def beside(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def backup(dsn: str, path: Path, *, digests: bool = True) -> Row:
    """Write the database to `path`, while it is in use. Returns what is written beside it."""
    with Database(dsn) as database:
        return Session(database).run(lambda conn: _backup(conn, dsn, path, digests), repeatable=False)


def _backup(conn: psycopg.Connection, dsn: str, path: Path, digests: bool) -> Row:
    folder = dump_programs(conn.info.server_version // 10000)
    partial = path.with_name(path.name + ".part")
    options = ("-Fc", "-n", "public", "--no-unlogged-table-data", "--lock-wait-timeout=60s")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))  # it holds the hashes of keys
        with conn.transaction():
            conn.execute("set transaction isolation level repeatable read, read only")
            (about,) = select(
                conn,
                """select pg_export_snapshot() as snapshot, current_setting('server_version') as server_version,
                          (select max(version) from schema_version) as schema_version""",
            )
            process = _start(dsn, folder / "pg_dump", *options, f"--snapshot={about.pop('snapshot')}", "-f", partial)
            try:
                runs = _digests(conn) if digests else None
            except BaseException:
                process.kill()
                raise
            finally:
                words, _ = process.communicate()
        if process.returncode:
            raise _dump_failed(words)
        document = {
            "format": _FORMAT,
            "format_version": 1,
            "papertick": __version__,
            **about,
            "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "bytes": partial.stat().st_size,
            "sha256": _sha256(partial),
            "runs": runs,
        }
        _write(beside(path), json.dumps(document, indent=1) + "\n")
        partial.replace(path)
        sync_directory(path.absolute().parent)
    except OSError as exc:
        raise errors.UsageError(f"cannot write {path}: {exc.strerror or exc}") from exc
    finally:
        partial.unlink(missing_ok=True)
    return document


def _digests(conn: psycopg.Connection) -> list[Row]:
    return select(
        conn,
        """select r.user_id, r.run_id, r.status, run_digest(r.user_id, r.run_id) as digest
             from strategy_run r order by r.user_id, r.run_id""",
    )


def _dump_failed(words: str) -> errors.PapertickError:
    if "row-level security" in words or "permission denied" in words:
        return errors.ForbiddenError(
            "this role does not see all rows, and a backup must have them all",
            code="42501",
            detail=_tail(words),
            hint="Take a superuser, or a role with BYPASSRLS in pg_read_all_data, or who installed papertick.",
        )
    return errors.PapertickError("pg_dump failed", detail=_tail(words), hint="These are its own words.")


def restore(dsn: str, path: Path, *, compare: bool = True) -> Row:
    """Bring a backup into a database that has no tables yet, and prove it by its digests.

    Returns schema_version, runs and compared (how many digests were equal). Raises TE901 when one is not.
    """
    about = _about(path)
    listing = _list(path)
    made_by, made_from = (
        _major(listing, r"Dumped by pg_dump version: (\d+)"),
        _major(listing, r"Dumped from database version: (\d+)"),
    )
    with Database(dsn) as database:
        database.run(lambda conn: _require_room(conn, made_from, about))
        major = database.conn.info.server_version // 10000
        wanted = _wanted(listing.splitlines())
        with tempfile.TemporaryDirectory() as made:
            chosen = Path(made) / "list"
            chosen.write_text("\n".join(wanted) + "\n", encoding="utf-8")
            options = ("-1", "--exit-on-error", "--no-owner", "--no-acl", "-L", chosen)
            process = _start(dsn, dump_programs(made_by, major) / "pg_restore", *options, path)
            words, _ = process.communicate()
        if process.returncode:
            hint = "Nothing was stored. These are its own words."
            raise errors.PapertickError("pg_restore failed", detail=_tail(words), hint=hint)
        outcome = database.run(install.upgrade)
        database.run(lambda conn: conn.execute("analyze"))
        session = Session(database)
        count = session.select("select count(*) as runs from strategy_run")[0]["runs"]
        listed = about.get("runs") if compare else None
        if listed is not None:
            _compare(session.run(_digests), listed)
    return {"schema_version": outcome.version, "runs": count, "compared": None if listed is None else len(listed)}


def _require_room(conn: psycopg.Connection, made_from: int, about: dict[str, Any]) -> None:
    major = conn.info.server_version // 10000
    if made_from > major:
        raise errors.PapertickError(
            f"the backup is of PostgreSQL {made_from}, and this server is {major}",
            code="0A000",
            hint="A dump goes into the same PostgreSQL or a newer one; single runs go anywhere: papertick export.",
        )
    known = install.newest_version()
    if int(about.get("schema_version") or 0) > known:
        raise errors.PapertickError(
            f"the backup is of schema version {about['schema_version']}, and this papertick knows only {known}",
            code="0A000",
            hint=f"Install papertick {about.get('papertick')} or later.",
        )
    (row,) = select(
        conn,
        """select to_regclass('public.schema_version') is not null as installed,
                  exists (select from pg_class
                           where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')) as filled,
                  current_setting('server_encoding') as encoding""",
    )
    if row["installed"] or row["filled"]:
        raise errors.ConflictError(
            "the database has papertick already" if row["installed"] else "the database has tables already",
            code="42P07",
            detail=f"database={conn.info.dbname}",
            hint="Restore into a new one (createdb -T template0 -E UTF8 NAME; --dsn), or with another PAPERTICK_HOME.",
        )
    if row["encoding"] != "UTF8":
        raise errors.PapertickError(
            f"papertick needs the encoding UTF8, and this database has {row['encoding']}", code="0A000"
        )


def _compare(found: list[Row], listed: list[Row]) -> None:
    here = {(row["user_id"], row["run_id"]): row["digest"] for row in found}
    there = {(row["user_id"], row["run_id"]): row["digest"] for row in listed}
    wrong = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
    if wrong:
        raise errors.PapertickError(
            f"{len(wrong)} of {len(there)} runs did not come back as they were",
            code="TE901",
            detail="\n".join(
                f"user_id={u} run_id={r}: {here.get((u, r))}, was {there.get((u, r))}" for u, r in wrong[:10]
            ),
            hint="The database was restored; do not use it before this is understood.",
        )


def _about(path: Path) -> dict[str, Any]:
    """What stands beside the backup, after its hash has been checked; nothing if nothing does."""
    try:
        if not beside(path).exists():
            path.open("rb").close()
            return {}
        about = json.loads(beside(path).read_text(encoding="utf-8"))
        if not isinstance(about, dict) or about.get("format") != _FORMAT:
            raise errors.UsageError(
                f"{beside(path)} does not describe a backup", hint="Remove it, or fetch the right one."
            )
        if about.get("sha256") != _sha256(path):
            raise errors.PapertickError(
                f"{path} is not the file that {beside(path).name} describes",
                code="TE901",
                hint="It is incomplete or was changed: fetch it again.",
            )
    except OSError as exc:
        raise errors.UsageError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise errors.UsageError(f"{beside(path)} cannot be read: {exc}") from exc
    return about


def _list(path: Path) -> str:
    """pg_restore's list of what the file holds. The newest one there is reads every file that any of them reads."""
    done = subprocess.run(
        [newest_dump_programs() / "pg_restore", "-l", path],
        capture_output=True,
        text=True,
        check=False,
        env=_environment(None),
    )
    if done.returncode:
        raise errors.UsageError(f"{path} is not a backup: {_tail(done.stderr)}", hint="papertick db backup writes one.")
    return done.stdout


def _major(listing: str, pattern: str) -> int:
    found = re.search(pattern, listing)
    return int(found[1]) if found else 0


def _start(dsn: str, program: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """Run a client program on the database; its password never stands on a command line."""
    where: dict[str, Any] = dict(conninfo_to_dict(dsn))
    password = where.pop("password", None)
    return subprocess.Popen(
        [program, "-d", make_conninfo(**where), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_environment(password),
    )


def _environment(password: object) -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", **({"PGPASSWORD": str(password)} if password else {})}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _tail(words: str) -> str:
    return "\n".join(words.strip().splitlines()[-10:])
