"""papertick run archive: ended runs out of the database, into capsules."""

from __future__ import annotations

from pathlib import Path

import click

from engine_py import capsule, errors
from engine_py.cli_base import DATE, ID, Command, Row, Session, emit, options, session
from engine_py.exporting import export_capsule
from engine_py.importing import prove
from engine_py.render import counted, table


@click.command("archive", cls=Command)
@click.argument("user", type=ID, required=False)
@click.argument("runs", type=ID, nargs=-1)
@click.option("--ended-before", type=DATE, help="Runs that this server has seen end before this day (UTC).")
@click.option("--all-ended", is_flag=True, help="Every run that has ended; with USER, every one of that user's.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("."), help="Directory. Default: this one."
)
@click.option("--delete", is_flag=True, help="Delete each run, after its capsule has been imported and rolled back.")
def run_archive(
    user: int | None, runs: tuple[int, ...], ended_before: str | None, all_ended: bool, output: Path, delete: bool
) -> None:
    """Write runs that have ended to capsules, USER-RUN.papertick.zip, and read each again.

    What is there already and is the same run is left as it is, so a call that was interrupted is finished by calling
    it again. papertick import brings a capsule back.
    """
    if bool(runs) + bool(ended_before) + all_ended != 1:
        raise errors.UsageError("name the runs to archive: USER RUN…, or --ended-before DATE, or --all-ended")
    done: list[Row] = []
    with session() as s:
        output.mkdir(parents=True, exist_ok=True)
        for row in _chosen(s, user, runs, ended_before):
            done.append(_archive(s, row, output, delete))
            if not options().json:
                click.echo(f"{done[-1]['path']}: {done[-1]['done']}")
    words = f"{counted(len(done), 'run')} archived" + (", and deleted" if delete and done else "")
    emit(done, words)


def _chosen(s: Session, user: int | None, runs: tuple[int, ...], ended_before: str | None) -> list[Row]:
    """In the order of their keys. What was named must be there, and have ended."""
    found = s.select(
        """select r.user_id, r.run_id, r.status
             from strategy_run r
            where r.user_id = coalesce(%s::bigint, r.user_id)
              and case when cardinality(%s::bigint[]) > 0 then r.run_id = any (%s::bigint[])
                       else r.status <> 'RUNNING' end
              and (%s::date is null
                   or (select max(l.recorded_at) from engine_status l
                        where l.user_id = r.user_id and l.run_id = r.run_id and l.status = r.status)
                      < (%s::date::timestamp at time zone 'UTC'))
            order by r.user_id, r.run_id""",
        *(user, list(runs), list(runs), ended_before, ended_before),
    )
    missing = sorted(set(runs) - {row["run_id"] for row in found})
    if missing:
        raise errors.NotFoundError("unknown run", code="TE204", detail=f"user_id={user} run_id={missing[0]}")
    running = [row for row in found if row["status"] == "RUNNING"]
    if running:
        detail = table(running, ("user_id", "run_id", "status"))
        hint = "Only what has ended is archived. A run that goes on: papertick export."
        raise errors.ConflictError("the run is RUNNING", code="TE002", detail=detail, hint=hint)
    return found


def _archive(s: Session, run: Row, folder: Path, delete: bool) -> Row:
    user_id, run_id = run["user_id"], run["run_id"]
    path = folder / f"{user_id}-{run_id}.papertick.zip"
    is_new = not path.exists()
    if is_new:
        s.run(lambda conn: export_capsule(conn, user_id, run_id, path))
    digest = s.call("run_digest", user_id=user_id, run_id=run_id)["run_digest"]
    with capsule.read(path) as written:
        if written.digest != digest:
            raise errors.ConflictError(
                f"{path} holds another run",
                code="TE901",
                detail=f"digest={written.digest} run_digest={digest}",
                hint="Name another directory: nothing is overwritten.",
            )
    if delete:
        s.run(lambda conn: prove(conn, path))
        s.run(lambda conn: conn.execute("select delete_run(%s, %s)", [user_id, run_id]), repeatable=False)
    what = ("written" if is_new else "was there") + (", run deleted" if delete else "")
    return {"user_id": user_id, "run_id": run_id, "path": str(path), "digest": digest, "done": what}
