"""papertick db backup, restore."""

from __future__ import annotations

from pathlib import Path

import click

from engine_py.backup import backup, beside, restore
from engine_py.cli_base import Command, connection_string, emit
from engine_py.render import counted

_FILE = click.Path(path_type=Path)


@click.command("backup", cls=Command)
@click.argument("file", type=_FILE)
@click.option("--no-digests", is_flag=True, help="Do not note the digest of every run, which restore compares.")
def db_backup(file: Path, no_digests: bool) -> None:
    """Write all of papertick to FILE, in pg_dump's custom format, while ticks go on.

    Beside it FILE.json notes the digest of every run at that moment, and the hash of FILE: keep both. A role that
    does not see every row is refused.
    """
    document = backup(connection_string(upgrade=True), file, digests=not no_digests)
    runs = "no digests" if document["runs"] is None else f"digests of {counted(len(document['runs']), 'run')}"
    words = (
        f"{file}: {document['bytes']:,} bytes of PostgreSQL {document['server_version']}, {runs} in {beside(file).name}"
    )
    emit({"path": str(file), **document, "runs": None if document["runs"] is None else len(document["runs"])}, words)


@click.command("restore", cls=Command)
@click.argument("file", type=_FILE)
@click.option("--no-compare", is_flag=True, help="Do not compute and compare the digest of every run.")
def db_restore(file: Path, no_compare: bool) -> None:
    """Bring a backup FILE into an empty database, and bring that to this release.

    The digests in FILE.json must be those of the runs that came back. The server is the same PostgreSQL or a
    newer one. A database that has papertick is never overwritten.
    """
    document = restore(connection_string(), file, compare=not no_compare)
    same = "" if document["compared"] is None else f", {document['compared']} digests equal"
    emit(document, f"restored: schema version {document['schema_version']}, {counted(document['runs'], 'run')}{same}")
