"""papertick db: the database that papertick lives in."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import click
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from engine_py import errors, install, server
from engine_py.cli_base import Group, connection_string, emit, options, select
from engine_py.db import Database
from engine_py.pgtools import client
from engine_py.render import pairs, text


@click.group(cls=Group)
def db() -> None:
    """The database: install, upgrade, look at, stop.

    Without --dsn or DB_DSN it is an embedded PostgreSQL. PAPERTICK_HOME says where that keeps its data.
    """


@db.command("init")
def db_init() -> None:
    """Install papertick into the database; one that has it is left as it is."""
    with Database(connection_string()) as database:
        _report(database.run(install.install))


@db.command("upgrade")
def db_upgrade() -> None:
    """Bring the database to this release, keeping every row."""
    with Database(connection_string()) as database:
        _report(database.run(install.upgrade))


def _report(outcome: install.Outcome) -> None:
    done = "installed" if outcome.installed else "upgraded" if outcome.changed else "nothing to do"
    emit({**asdict(outcome), "changed": outcome.changed}, f"{done}: schema version {outcome.version}")


@db.command("status")
def db_status() -> None:
    """Which server, which schema, how many runs. Starts nothing."""
    dsn, embedded = _find()
    with Database(dsn) as database:
        document = {"server": "embedded" if embedded else "dsn", **database.run(_look)}
    if embedded:
        document["data_dir"] = embedded["data_dir"]
    runs = ", ".join(f"{count} {status}" for status, count in document["runs"].items())
    schema = f"version {document['version']}" if document["installed"] else "none; run: papertick db init"
    if document["installed"] and (document["pending"] or not document["code_current"]):
        schema += ", perhaps not this release's code; run: papertick db upgrade"
    shown = {**document, "schema": schema, "runs": runs or "none"}
    names = ("server", "server_version", "where", "data_dir", "schema", "runs")
    emit(document, pairs((name.replace("_", " "), text(shown[name])) for name in names if name in shown))


def _find() -> tuple[str, dict[str, object] | None]:
    """The server of --dsn or DB_DSN, or else the embedded one if it runs."""
    if explicit := options().dsn or os.environ.get("DB_DSN"):
        return explicit, None
    embedded = server.status()
    if embedded is None:
        raise errors.ServerError(
            f"the embedded server is not running; its data is in {server.data_dir()}",
            hint="Any other command starts it.",
        )
    return str(embedded["dsn"]), embedded


def _look(conn: psycopg.Connection) -> dict[str, Any]:
    info = conn.info
    state = install.status(conn)
    runs = {}
    if state["installed"]:
        rows = select(
            conn,
            """select status, count(*) as runs from public.strategy_run
                group by status order by status collate "C" """,
        )
        runs = {row["status"]: row["runs"] for row in rows}
    return {
        "server_version": info.parameter_status("server_version"),
        "where": f"{info.user}@{info.host}:{info.port}/{info.dbname}",
        **state,
        "runs": runs,
    }


# Of a refusal the detail and the hint, not the engine's stack; in the prompt the SQLSTATE of the last statement.
# A ~/.psqlrc has the last word.
_SHELL = ("-v", "SHOW_CONTEXT=never", "-v", "PROMPT1=%/ %:SQLSTATE: %R%x%# ")


@db.command("shell", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def db_shell(arguments: tuple[str, ...]) -> None:
    """Open psql on the database, with these ARGUMENTS.

    For example: papertick db shell -c 'table feed'

    The prompt shows the SQLSTATE of the last statement; errors come without the engine's call stack.

    With --json only print which program would run, and where it would connect.
    """
    dsn = connection_string(upgrade=True)
    where: dict[str, Any] = dict(conninfo_to_dict(dsn))
    password = where.pop("password", None)
    program = _psql()
    if options().json:
        emit({"program": program, "dsn": make_conninfo(**where)}, "")
        return
    if password:  # not on the command line, which every user of the machine can read
        os.environ["PGPASSWORD"] = str(password)
    command = [program, "-d", make_conninfo(**where), *_SHELL, *arguments]
    if sys.platform == "win32":
        sys.exit(subprocess.call(command))
    os.execv(program, command)


def _psql() -> str:
    found = client("psql")
    if not found.exists():
        raise errors.PapertickError("psql is not installed", hint="Install PostgreSQL's client programs.")
    return str(found)


@db.command("stop")
def db_stop() -> None:
    """Stop the embedded server, ending its connections. The data stays."""
    if options().dsn or os.environ.get("DB_DSN"):
        raise errors.UsageError("only the embedded server can be stopped", hint="Unset DB_DSN.")
    stopped = server.stop()
    emit({"stopped": stopped}, "stopped" if stopped else "it was not running")
