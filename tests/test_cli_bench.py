"""papertick bench: numbers that mean something, and a server that is left as it was."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import engine_py.scratch
from engine_py import bench, install
from engine_py.cli import main

NAMES = [
    *("tick, median", "tick, 95th percentile", "ticks, one connection"),
    *("tick that has happened", "tick that has happened / tick"),
    *("replay", "replay, rows written", "raw insert of the same rows", "replay / raw insert", "tick_all, a run"),
]


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name that the scratch database will have; nobody else's."""
    token = secrets.token_hex(8)
    monkeypatch.setattr(engine_py.scratch.secrets, "token_hex", lambda size: token)
    return f"papertick_bench_{token}"


def exists(db: psycopg.Connection, name: str) -> bool:
    return db.execute("select from pg_database where datname = %s", [name]).rowcount == 1


def invoke(dsn: str, *args: str, code: int = 0) -> Result:
    env = {"DB_DSN": dsn, "PAPERTICK_HOME": "/nonexistent"}
    result = CliRunner().invoke(main, ["bench", *args], env=env)
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, db: psycopg.Connection, scratch: str) -> list[bool]:
    """Whether the scratch database was there when papertick was installed."""
    seen: list[bool] = []
    original = install.install

    def look(conn: psycopg.Connection) -> install.Outcome:
        seen.append(exists(db, scratch) and conn.info.dbname == scratch)
        return original(conn)

    monkeypatch.setattr(install, "install", look)
    return seen


def test_bench_measures_in_a_database_of_its_own_and_drops_it(
    dsn: str, db: psycopg.Connection, scratch: str, watched: list[bool]
) -> None:
    document: dict[str, Any] = json.loads(invoke(dsn, "--quick", "--json").stdout)
    assert watched == [True]
    assert not exists(db, scratch)
    assert db.execute("select (select count(*) from app_user), (select count(*) from price_bar)").fetchone() == (0, 0)
    assert document["server_version"] == db.info.parameter_status("server_version")
    assert document["fsync"] in ("on", "off")
    assert document["synchronous_commit"] == db.execute("show synchronous_commit").fetchone()[0]  # type: ignore[index]

    measures = {one["name"]: one for one in document["measures"]}
    assert list(measures) == NAMES
    for one in measures.values():
        assert 0 < one["min"] <= one["median"] <= one["max"], one
    assert measures["tick, median"]["median"] <= measures["tick, 95th percentile"]["median"]
    assert measures["tick that has happened / tick"]["median"] < 1


def test_bench_prints_a_table(dsn: str) -> None:
    shown = invoke(dsn, "--quick").stdout
    assert all(f"\n{name} " in shown for name in NAMES)
    assert "fsync" in shown
    assert "synchronous_commit" in shown


def test_bench_drops_its_database_when_it_fails(
    dsn: str, db: psycopg.Connection, scratch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(conn: psycopg.Connection, bars: int) -> None:
        assert exists(db, scratch)
        conn.execute("select 1 / 0")

    monkeypatch.setattr(bench, "_load_feed", fail)
    assert "division by zero" in invoke(dsn, "--quick", code=1).stderr
    assert not exists(db, scratch)


def test_bench_refuses_a_role_that_cannot_create_databases(
    dsn: str, db: psycopg.Connection, plain_role: str, scratch: str
) -> None:
    given = conninfo_to_dict(dsn).get("options") or ""
    result = invoke(make_conninfo(dsn, options=f"{given} -c role={plain_role}"), "--quick", "--json", code=1)
    error = json.loads(result.stderr)["error"]
    assert result.stdout == ""
    assert error["code"] == "42501"
    assert error["detail"] == f"role={plain_role}"
    assert "createdb" in error["hint"]
    assert not exists(db, scratch)


@pytest.mark.plants_violations  # the raw run's state comes with its first call
def test_raw_insert_stores_the_rows_that_the_replay_made(connect: Callable[..., psycopg.Connection]) -> None:
    """The comparison is fair only if both write the same."""
    conn = connect()
    bench._load_feed(conn, 100)
    measured = bench._Bench(conn, bench.Size(turns=1, bars=100, ticks=1, runs=1))
    assert measured._replay()["replay / raw insert"] > 0
    replayed, raw = conn.execute("select user_id, run_id from strategy_run order by user_id desc limit 2").fetchall()[
        ::-1
    ]
    assert conn.execute("select run_digest(%s, %s) = run_digest(%s, %s)", [*replayed, *raw]).fetchone() == (True,)
