"""papertick stats: with pg_stat_statements and without, and what things take on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from helpers import make_bars, make_busy_run, tick

from engine_py import install, server
from engine_py.cli import main
from engine_py.db import connect

Conn = psycopg.Connection[Any]


def cli(dsn: str, *args: object) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in args], env={"DB_DSN": dsn, "PAPERTICK_HOME": "/nonexistent"})
    assert result.exit_code == 0, (args, result.output, result.exception)
    return result


def work(conn: Conn) -> None:
    for symbol in ("AAA", "BBB"):
        make_bars(conn, symbol, [100 + n for n in range(12)])
    run = make_busy_run(conn)
    for n in range(12):
        tick(conn, run, n)
    conn.execute(
        "select pg_stat_force_next_flush()"
    )  # or what is still to be counted comes on top of what analyze finds
    conn.execute("analyze")


def test_every_server_knows_sizes_and_says_what_is_missing(db: Conn, dsn: str) -> None:
    work(db)
    db.execute("select pg_stat_force_next_flush()")
    document = json.loads(cli(dsn, "stats", "--json").stdout)
    rows = {row["table"]: row for row in document["tables"]}
    sizes = dict(
        db.execute(
            "select relname, pg_total_relation_size(oid) from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
        ).fetchall()
    )
    assert {name: row["bytes"] for name, row in rows.items()} == sizes
    assert rows["paper_equity_curve"]["rows"] == 12
    assert document["runs"]["runs"] == 1
    assert document["runs"]["ticks"] == 12
    assert document["runs"]["bytes_per_tick"] == round(document["runs"]["bytes"] / 12)
    assert document["statements"] is None
    words = cli(dsn, "stats").stdout
    assert "shared_preload_libraries" in words
    assert "of_indexes" in words


def test_functions_stand_in_for_statements(db: Conn, dsn: str) -> None:
    with connect(dsn) as conn:
        conn.execute("set track_functions = 'pl'")
        work(conn)
    db.execute("select pg_stat_force_next_flush()")
    document = json.loads(cli(dsn, "stats", "--top", 500, "--json").stdout)
    if document["functions"]:  # a role that may not set it has none
        assert "public.tick" in {row["function"] for row in document["functions"]}
        assert "self_ms" in cli(dsn, "stats").stdout


@pytest.fixture(scope="module")
def counting() -> Iterator[str]:
    """A server with pg_stat_statements loaded; every distribution of PostgreSQL has it."""
    one = server.start_throwaway()
    try:
        with connect(one.dsn) as conn:
            conn.execute("alter system set shared_preload_libraries = 'pg_stat_statements'")
        one.kill()
        one.start()
        yield one.dsn
    finally:
        one.stop()


def test_statements_the_dearest_first(counting: str) -> None:
    with connect(counting) as conn:
        install.install(conn)
        work(conn)
    assert json.loads(cli(counting, "stats", "--json").stdout)["statements"] is None  # loaded, but not made
    with connect(counting) as conn:
        conn.execute("create schema extra; create extension pg_stat_statements schema extra")
        for n in range(3):
            conn.execute("call tick(1, 1, %s::timestamptz + %s * interval '1 day')", ["2024-03-01 16:00Z", n])
    document = json.loads(cli(counting, "stats", "--top", 3, "--json").stdout)
    assert len(document["statements"]) == 3
    totals = [float(row["total_ms"]) for row in document["statements"]]
    assert totals == sorted(totals, reverse=True)
    document = json.loads(cli(counting, "stats", "--top", 1000, "--json").stdout)
    assert sum(row["calls"] for row in document["statements"] if row["query"].startswith("call tick(")) >= 3
    assert "call tick(" in cli(counting, "stats", "--top", 1000).stdout


def test_made_but_not_loaded_is_as_if_it_were_not_there(db: Conn, dsn: str) -> None:
    try:
        db.execute("create extension pg_stat_statements")
    except psycopg.Error as exc:
        pytest.skip(f"no pg_stat_statements for this role or server: {exc}")
    assert json.loads(cli(dsn, "stats", "--json").stdout)["statements"] is None
    db.execute("drop extension pg_stat_statements")


def test_sizing_measures_and_leaves_nothing(dsn: str, db: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine_py import sizing

    monkeypatch.setattr(sizing, "_TIMES", 400)
    monkeypatch.setattr(sizing, "_RUNS", 2)
    before = db.execute("select count(*) from pg_database where datname like 'papertick_bench_%'").fetchall()
    rows = {row["what"]: row["bytes"] for row in json.loads(cli(dsn, "stats", "--sizing", "--json").stdout)}
    assert 150 < rows["bar"] < 400
    assert 200 < rows["tick, EVERY_TICK"] < 600
    assert rows["tick, EVENTS, nothing happens"] < 200
    assert 700 < rows["SIP instalment, its mark included"] < 3000
    assert rows["the same with the fees of IN_DELIVERY"] > rows["SIP instalment, its mark included"] + 300
    assert db.execute("select count(*) from pg_database where datname like 'papertick_bench_%'").fetchall() == before
