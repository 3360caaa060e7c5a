"""A second database, and capsules between the two."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from helpers import PER_RUN, Run
from pytest_postgresql.executors import NoopExecutor
from pytest_postgresql.janitor import DatabaseJanitor

from engine_py import exporting, importing

Conn = psycopg.Connection[Any]
if TYPE_CHECKING:
    from conftest import Server
# What a capsule leaves out: whose it is, and what the wall clock and the server's sequences said.
_OWN = (
    "user_id",
    "run_id",
    "status_id",
    "recorded_at",
    "feed",
    "forked_from_user_id",
    "forked_from_run_id",
    "forked_at",
)


@contextmanager
def another_database(pg_server: Server, pg_template: NoopExecutor, suffix: str) -> Iterator[str]:
    """The DSN of a database where papertick has just been installed."""
    name = f"{pg_template.dbname}_{suffix}"
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
        yield pg_server.dsn_of(name)


@pytest.fixture
def other_dsn(pg_server: Server, pg_template: NoopExecutor) -> Iterator[str]:
    with another_database(pg_server, pg_template, "other") as dsn:
        yield dsn


@pytest.fixture
def other(other_dsn: str) -> Iterator[Conn]:
    """A connection to another server's database, as far as it knows; its runs must be whole afterwards."""
    with psycopg.connect(other_dsn, autocommit=True) as conn:
        yield conn
        assert conn.execute("select * from violations").fetchall() == []


def send(source: Conn, run: Run, target: Conn, path: Path, **options: Any) -> Run:
    """Export here, import there."""
    exporting.export_capsule(source, *run, path, with_feed=options.pop("with_feed", False))
    row = importing.import_file(target, path, **options)
    return Run(row["user_id"], row["run_id"])


def everything(conn: Conn, run: Run) -> dict[str, list[str]]:
    """All rows of the run but for what a capsule leaves out."""
    with conn.transaction():
        conn.execute("set local timezone = 'UTC'")
        return {
            table: [
                row
                for (row,) in conn.execute(
                    f"select (to_jsonb(t) - %s::text[])::text from {table} t where user_id = %s and run_id = %s order by 1",
                    [list(_OWN), *run],
                )
            ]
            for table in PER_RUN
        }


def contents(conn: Conn) -> dict[str, list[Any]]:
    """Every table, to see that nothing was written."""
    tables = conn.execute(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' order by 1"
    ).fetchall()
    return {t: conn.execute(f"select t::text from {t} t order by 1").fetchall() for (t,) in tables if t != "acting"}


def rewrite(
    path: Path, change: Callable[[dict[str, bytes]], None], *, honest: bool = True, digest: str | None = None
) -> Path:
    """The capsule with changed members; `honest`: with a manifest that says so. Returns the new file."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members.pop("manifest.json"))
    change(members)
    if honest:
        manifest["members"] = [
            {"name": name, "rows": data.count(b"\n"), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in members.items()
        ]
        manifest["digest"] = digest or manifest["digest"]
    members["manifest.json"] = json.dumps(manifest).encode()
    target = path.with_name(f"changed-{path.name}")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target


def edit(table: str, **changes: Any) -> Callable[[dict[str, bytes]], None]:
    """Changes the first row of a table of the run; a part/ in front names another part."""
    name = f"{table if '/' in table else 'run/' + table}.ndjson"

    def change(members: dict[str, bytes]) -> None:
        first, *rest = members[name].splitlines(keepends=True)
        members[name] = json.dumps(json.loads(first) | changes).encode() + b"\n" + b"".join(rest)

    return change
