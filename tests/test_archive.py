"""run archive: ended runs become capsules, proven before they are deleted, and come back as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from capsules import everything
from click.testing import CliRunner, Result
from helpers import Run, digest, make_bars, make_busy_run, stop, tick, value

from engine_py import capsule, cli_archive
from engine_py.cli import main
from engine_py.errors import PapertickError

Conn = psycopg.Connection[Any]


def cli(dsn: str, *args: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in args], env={"DB_DSN": dsn, "PAPERTICK_HOME": "/nonexistent"})
    assert result.exit_code == code, (args, result.output, result.exception)
    return result


@pytest.fixture
def runs(db: Conn) -> list[Run]:
    """A STOPPED one, one in ERROR, a RUNNING one."""
    for symbol in ("AAA", "BBB"):
        make_bars(db, symbol, [100 + n for n in range(12)])
    made = [make_busy_run(db) for _ in range(3)]
    for run in made:
        for n in range(4 + run.run_id):
            tick(db, run, n)
    stop(db, made[0], "enough")
    db.execute("select fail_run(%s, %s, 'broken')", made[1])
    return made


def left(db: Conn) -> list[int]:
    return [n for (n,) in db.execute("select run_id from strategy_run order by 1")]


def test_archived_and_deleted_runs_come_back(db: Conn, dsn: str, runs: list[Run], tmp_path: Path) -> None:
    kept = [everything(db, run) for run in runs]
    digests = [digest(db, run) for run in runs]
    users = value(db, "select count(*) from app_user")
    done = json.loads(cli(dsn, "run", "archive", "--all-ended", "-o", tmp_path / "a", "--delete", "--json").stdout)
    assert [(row["run_id"], row["digest"]) for row in done] == [
        (run.run_id, d) for run, d in zip(runs[:2], digests, strict=False)
    ]
    assert left(db) == [runs[2].run_id]
    assert value(db, "select count(*) from app_user") == users
    assert digest(db, runs[2]) == digests[2]
    for row, rows in zip(done, kept, strict=False):
        back = json.loads(cli(dsn, "import", row["path"], "--user", row["user_id"], "--json").stdout)
        assert everything(db, Run(back["user_id"], back["run_id"])) == rows
    assert (
        json.loads(cli(dsn, "run", "archive", "--all-ended", "-o", tmp_path / "b", "--json").stdout)[0]["done"]
        == "written"
    )


def test_without_delete_nothing_changes_and_again_is_quick(
    db: Conn, dsn: str, runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli(dsn, "run", "archive", *runs[0], "-o", tmp_path)
    assert left(db) == [run.run_id for run in runs]
    monkeypatch.setattr(cli_archive, "export_capsule", lambda *_: pytest.fail("it was there"))
    done = json.loads(cli(dsn, "run", "archive", runs[0].user_id, "--all-ended", "-o", tmp_path, "--json").stdout)
    assert [row["done"] for row in done] == ["was there"]
    assert [path.name for path in tmp_path.iterdir()] == [f"{runs[0].user_id}-{runs[0].run_id}.papertick.zip"]


def test_interrupted_archive_is_finished_by_calling_it_again(
    db: Conn, dsn: str, runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = cli_archive.export_capsule

    def fails_at_the_second(conn: Conn, user: int, run: int, path: Path) -> Any:
        if run == runs[1].run_id:
            with capsule.write(path) as writer:
                writer.add("run/paper_order.ndjson", [b"{}\n"])
                raise PapertickError("cut off")
        return export(conn, user, run, path)

    with monkeypatch.context() as patch:
        patch.setattr(cli_archive, "export_capsule", fails_at_the_second)
        cli(dsn, "run", "archive", "--all-ended", "-o", tmp_path, "--delete", code=1)
    assert left(db) == [run.run_id for run in runs[1:]]
    assert len(list(tmp_path.iterdir())) == 1
    cli(dsn, "run", "archive", "--all-ended", "-o", tmp_path, "--delete")
    assert left(db) == [runs[2].run_id]
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_proven_is_not_deleted(
    db: Conn, dsn: str, runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"{runs[0].user_id}-{runs[0].run_id}.papertick.zip"
    cli(dsn, "export", *runs[1], "-o", path)  # another run's, under this one's name
    cli(dsn, "run", "archive", *runs[0], "-o", tmp_path, "--delete", code=1)
    whole = path.read_bytes()
    cli(dsn, "export", *runs[0], "-o", path)
    path.write_bytes(path.read_bytes()[:-40])
    cli(dsn, "run", "archive", *runs[0], "-o", tmp_path, "--delete", code=1)
    assert path.read_bytes() != whole
    path.unlink()
    db.execute("update instrument set quantity_step = 1")  # a capsule from before that would not come in any more
    cli(dsn, "run", "archive", *runs[0], "-o", tmp_path)
    db.execute("update instrument set quantity_step = 0.5")
    cli(dsn, "run", "archive", *runs[0], "-o", tmp_path, "--delete", code=1)
    assert left(db) == [run.run_id for run in runs]


def test_which_runs(db: Conn, dsn: str, runs: list[Run], tmp_path: Path) -> None:
    def found(*args: object) -> list[int]:
        return [row["run_id"] for row in json.loads(cli(dsn, "run", "archive", *args, "-o", tmp_path, "--json").stdout)]

    today = value(db, "select (now() at time zone 'UTC')::date::text")
    tomorrow = value(db, "select ((now() at time zone 'UTC')::date + 1)::text")
    assert found("--ended-before", today) == []
    assert found("--ended-before", tomorrow) == [runs[0].run_id, runs[1].run_id]
    assert found(runs[1].user_id, "--ended-before", tomorrow) == [runs[1].run_id]
    assert found(runs[2].user_id, "--all-ended") == []
    cli(dsn, "run", "archive", *runs[2], code=1)
    cli(dsn, "run", "archive", runs[0].user_id, 99, code=1)
    cli(dsn, "run", "archive", code=2)
    cli(dsn, "run", "archive", runs[0].user_id, code=2)
    cli(dsn, "run", "archive", *runs[0], "--all-ended", code=2)
