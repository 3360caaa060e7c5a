"""papertick report: a run as one self-contained HTML page, or as tables in the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import psycopg

from engine_py import errors
from engine_py.cli_base import Command, emit, options, session
from engine_py.report import gather, page, terminal
from engine_py.runref import RUN_REF, RunRef, find_runs, of_run_ref

_COMPARE = "--compare"


class _Report(Command):
    """--compare takes all RUNs that follow it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread(args))


def spread(args: Sequence[str]) -> list[str]:
    """`--compare 1 2` → `--compare 1 --compare 2`."""
    found: list[str] = []
    taken = -1  # values since --compare; -1: none is being read
    for arg in args:
        if arg == _COMPARE:
            taken = 0
        elif taken < 0 or arg.startswith("-"):
            taken = -1
        else:
            taken += 1
            if taken > 1:
                found.append(_COMPARE)
        found.append(arg)
    return found


@click.command("report", cls=_Report)
@of_run_ref
@click.option("--html", "file", metavar="FILE", help="Write the page to FILE, which is replaced; - is stdout.")
@click.option(
    _COMPARE,
    "others",
    type=RUN_REF,
    multiple=True,
    metavar="RUN…",
    help="Also show these runs beside it: growth as 100 at the common start, and their figures. At most 19.",
)
@click.option(
    "--benchmark",
    metavar="SYMBOL",
    help="The same capital put into SYMBOL of its feed, beside it. Default: the symbol that it trades, if it is one.",
)
def report(run: RunRef, file: str | None, others: tuple[RunRef, ...], benchmark: str | None) -> None:
    """What a run earned, held, paid and did: tables here, or one HTML page that works offline.

    RUN is a run's number, USER/RUN, or USER RUN.
    """
    if file == "-" and options().json:
        raise errors.UsageError("--html - and --json both want stdout", hint="Give --html a file.")
    if len(others) > 19:
        raise errors.UsageError(f"{len(others)} runs to compare with", hint="At most 19.")

    def read(conn: psycopg.Connection) -> dict[str, Any]:
        keys = find_runs(conn, [run, *others])
        return gather.gather(conn, keys[0], keys[1:], benchmark)

    with session() as s:
        document = s.run(read)
    found = gather.read(document)
    if file == "-":
        click.echo(page.html(found), nl=False)
        return
    if file is not None:
        size = write(Path(file), page.html(found))
        if not options().json:
            click.echo(f"{file}: {size:,} bytes")
            return
    if options().json:
        emit(gather.exact(document), "")
    else:
        terminal.show(found)


def write(path: Path, text: str) -> int:
    """All of it or nothing: whoever reads the file sees the old one or the new one."""
    data = text.encode()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise errors.UsageError(f"cannot write {path}: {exc.strerror}") from exc
    return len(data)
