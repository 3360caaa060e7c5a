"""papertick export, import: a run out of the database, and into another."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import psycopg

from engine_py import errors, exporting
from engine_py.capsule import write
from engine_py.cli_base import Command, emit, session
from engine_py.importing import import_file
from engine_py.render import counted
from engine_py.runref import RunRef, find_run, of_run_ref

_FILES: dict[str, Callable[[psycopg.Connection, int, int, Path], dict[str, int]]] = {
    "csv": exporting.export_csv,
    "parquet": exporting.export_parquet,
}


@click.command(cls=Command)
@of_run_ref
@click.option(
    "--format",
    "kind",
    type=click.Choice(["capsule", "csv", "parquet"]),
    default="capsule",
    show_default=True,
    help="One file that import restores; or a file per ledger, for other programs.",
)
@click.option(
    "-o", "--output", metavar="PATH", help="File or directory to write; a name in .zip packs csv and parquet."
)
@click.option("--with-feed", is_flag=True, help="Capsule: all else that the feed has, too, so that the run can go on.")
def export(run: RunRef, kind: str, output: str | None, with_feed: bool) -> None:
    """Write a run to a capsule, or its ledgers to CSV or Parquet.

    A capsule is one file with the run and what its past stands on: bars, sessions, fees. papertick import
    restores it to the same digest on another server. The same run gives the same bytes.
    """
    if with_feed and kind != "capsule":
        raise errors.UsageError("--with-feed is for capsules")
    with session() as s:
        key = s.run(lambda conn: find_run(conn, run))
        name = f"{key.user_id}-{key.run_id}"
        path = Path(output or (f"{name}.papertick.zip" if kind == "capsule" else f"{name}-{kind}"))
        if kind == "capsule":
            manifest = s.run(lambda conn: exporting.export_capsule(conn, *key, path, with_feed=with_feed))
            counts = {member["name"]: member["rows"] for member in manifest["members"]}
            document: dict[str, Any] = {"path": str(path), "format": kind, "digest": manifest["digest"], "rows": counts}
        else:
            counts = s.run(lambda conn: _write_files(conn, kind, *key, path))
            document = {"path": str(path), "format": kind, "rows": counts}
    words = f"{path}: {counted(sum(counts.values()), 'row')} of run {key}"
    emit(document, words + (f", digest {document['digest']}" if kind == "capsule" else ""))


def _write_files(conn: psycopg.Connection, kind: str, user: int, run: int, path: Path) -> dict[str, int]:
    """All files first in a directory of their own: what was there stays as it is until they are complete."""
    try:
        with tempfile.TemporaryDirectory(prefix=".papertick-", dir=path.absolute().parent) as made:
            counts = _FILES[kind](conn, user, run, Path(made))
            files = sorted(Path(made).iterdir())
            if path.suffix == ".zip":
                with write(path) as archive:
                    for file in files:
                        archive.add_file(file)
            else:
                path.mkdir(exist_ok=True)
                for file in files:
                    shutil.move(file, path / file.name)
    except OSError as exc:
        raise errors.UsageError(f"cannot write {path}: {exc.strerror or exc}") from exc
    return counts


@click.command("import", cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--user", metavar="USER", help="Number of the user it goes to, or a new user's name. Default: a new user."
)
@click.option("--name", help="A name to know the run by. Default: as it was.")
@click.option("--feed", help="Feed its bars go to. Default: one of the same name.")
@click.option("--add-missing", is_flag=True, help="Also add what is missing in a feed or calendar that is in use here.")
def import_(file: Path, user: str | None, name: str | None, feed: str | None, add_missing: bool) -> None:
    """Restore the run in a capsule FILE, to the same digest.

    All of it or nothing: a file that was changed, a run that breaks an invariant, and bars that differ from
    those stored here are refused. A run that was RUNNING goes on; its user must have no RUNNING run.
    """
    number = int(user) if user and user.isascii() and user.isdigit() else None
    with session() as s:
        row = s.run(
            lambda conn: import_file(
                conn,
                file,
                user=number,
                user_name=user if number is None else None,
                name=name,
                feed_name=feed,
                add_missing=add_missing,
            ),
            repeatable=False,
        )
    added = ", ".join(f"{count} of {table}" for table, count in row["added"].items())
    words = f"run {row['run_id']} of user {row['user_id']} is {row['status']}, digest {row['digest']}"
    emit(row, words + (f"; added {added}" if added else ""))
