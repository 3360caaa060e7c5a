"""Which run is meant: RUN, USER/RUN, or two arguments USER RUN.

A bare RUN must be one run's alone; else the command lists the candidates and asks for USER/RUN.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import click
import psycopg

from engine_py import errors
from engine_py.cli_base import select

_LARGEST = 2**63 - 1
_LISTED = 10  # candidates of an ambiguous RUN


class RunRef(NamedTuple):
    """A run as it was named; `user` None: by its number alone."""

    user: int | None
    run: int

    def __str__(self) -> str:
        return f"{self.run}" if self.user is None else f"{self.user}/{self.run}"


class RunKey(NamedTuple):
    """A run that there is."""

    user_id: int
    run_id: int

    def __str__(self) -> str:
        return f"{self.user_id}/{self.run_id}"


class _RunType(click.ParamType[RunRef]):
    name = "run"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> RunRef:
        found = re.fullmatch(r"(?:(\d{1,19})/)?(\d{1,19})", str(value), re.ASCII)
        if not found or any(int(part or 0) > _LARGEST for part in found.groups()):
            self.fail(f"{value!r} is not a run: write RUN or USER/RUN", param, ctx)
        return RunRef(int(found[1]) if found[1] else None, int(found[2]))


RUN_REF = _RunType()


def of_run_ref(command: Callable[..., None]) -> Callable[..., None]:
    """The argument RUN, as `run`: a RunRef."""
    return click.argument("run", type=RUN_REF, nargs=-1, required=True, metavar="RUN", callback=_one)(command)


def _one(ctx: click.Context, param: click.Parameter, given: tuple[RunRef, ...]) -> RunRef:
    if len(given) == 1:
        return given[0]
    if len(given) == 2 and given[0].user is None and given[1].user is None:
        return RunRef(given[0].run, given[1].run)
    raise click.BadParameter("one run: RUN, USER/RUN or USER RUN", ctx, param)


def find_runs(conn: psycopg.Connection, refs: Sequence[RunRef]) -> list[RunKey]:
    """The runs that are meant, in this order. Raises TE204 for one that there is not, UsageError for one of several."""
    rows = select(
        conn,
        """select n.place, r.user_id, r.run_id
             from unnest(%s::bigint[], %s::bigint[]) with ordinality n (user_id, run_id, place)
             join strategy_run r on r.run_id = n.run_id and r.user_id = coalesce(n.user_id, r.user_id)
            order by n.place, r.user_id""",
        *([ref.user for ref in refs], [ref.run for ref in refs]),
    )
    found: list[list[RunKey]] = [[] for _ in refs]
    for row in rows:
        found[row["place"] - 1].append(RunKey(row["user_id"], row["run_id"]))
    return [_only(ref, keys) for ref, keys in zip(refs, found, strict=True)]


def find_run(conn: psycopg.Connection, ref: RunRef) -> RunKey:
    return find_runs(conn, [ref])[0]


def _only(ref: RunRef, keys: list[RunKey]) -> RunKey:
    if not keys:
        detail = f"run_id={ref.run}" if ref.user is None else f"user_id={ref.user} run_id={ref.run}"
        raise errors.NotFoundError("unknown run", code="TE204", detail=detail, hint="Check user_id and run_id.")
    if len(keys) > 1:
        more = ", …" if len(keys) > _LISTED else ""
        listed = ", ".join(map(str, keys[:_LISTED])) + more
        raise errors.UsageError(f"{len(keys)} users have a run {ref.run}", hint=f"Write USER/RUN: {listed}.")
    return keys[0]
