"""feed load's dry run, feed export, and that what is exported and loaded again is the same bars."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cli import Cli, cli  # noqa: F401  # a fixture
from test_feed import HEADER, bar

from engine_py import barexport, feed, frames
from engine_py.dialects.base import Options
from engine_py.errors import NotFoundError

Conn = psycopg.Connection[Any]
DATA = Path(__file__).parent / "data_in"
SESSIONS = """session_date,open_at,close_at
2024-01-02,2024-01-02T09:15:00+05:30,2024-01-02T15:30:00+05:30
2024-01-03,2024-01-03T09:15:00+05:30,2024-01-03T15:30:00+05:30
2024-01-04,2024-01-04T09:15:00+05:30,2024-01-04T15:30:00+05:30
"""


def digest(conn: Conn, name: str) -> str:
    row = conn.execute("select feed_digest(%s)", [name]).fetchone()
    assert row
    return str(row[0])


def counts(conn: Conn) -> tuple[int, ...]:
    tables = ("price_bar", "instrument", "feed")
    return tuple(conn.execute(f"select count(*) from {t}").fetchone()[0] for t in tables)


# --- dry run ---


def test_a_dry_run_tells_the_plan_and_stores_nothing(cli: Cli, db: Conn, tmp_path: Path) -> None:  # noqa: F811
    cli("calendar", "load", "-", "--calendar", "IN", "--time-zone", "Asia/Kolkata", stdin=SESSIONS)
    first, second = DATA / "nse_cm02JAN2024bhav.csv", tmp_path / "cm04JAN2024bhav.csv"
    cli("feed", "load", first, "--feed", "nse", "--calendar", "IN")
    before = counts(db)
    second.write_text(
        first.read_text()
        .replace("02-JAN-2024", "04-JAN-2024")
        .replace("M&M-ZORG", "NEWCO")
        + "ACMEIND,EQ,1500,1532.5,1490.1,1525.36,1526,1498.05,49077,1,02-JAN-2024,1,INE,\n"
    )  # fmt: skip
    command = ("feed", "load", second, "--feed", "nse", "--dry-run")
    said = cli.json(*command, code=1)
    assert (said["rows"], said["unchanged"], said["changed"], said["skipped_count"]) == (2, 0, 1, 1)
    assert (said["files"], said["symbols"], said["format"], said["dry_run"]) == (1, 2, "nse-bhavcopy", True)
    assert said["mapping"]["volume"] == "TOTTRDQTY"
    assert said["left_out"] == {"other series": 3, "price 0": 1}
    assert [(p["line"], p["code"], p["file"]) for p in said["skipped"]] == [(8, "23505", "")]
    words = cli(*command, code=1).stdout
    assert words.startswith("feed nse: nothing would be stored, for 1 bad line; with --skip-bad 2 rows, 0 unchanged")
    assert "line 8: differs from what is stored [23505]" in words
    plan = cli.json(*command, "--skip-bad")
    assert (plan["rows"], plan["gaps"]) == (2, 1)  # ACMEIND has no bar on the 3rd
    words = cli(*command, "--skip-bad").stdout
    assert words.startswith(
        "feed nse: 2 rows would be stored, 0 unchanged, 1 skipped (1 different from what is stored)"
    )
    for line in ("read as nse-bhavcopy", "symbol = SYMBOL", "left out: 3 other series, 1 price 0", "gaps: 1 session"):
        assert line in words
    both = cli.json("feed", "load", first, second, "--feed", "nse", "--dry-run", code=1)
    (problem,) = both["skipped"]
    assert (problem["line"], Path(problem["file"]).name) == (8, second.name)
    assert problem["message"] == f"repeats line 2 of {first} with other values"
    assert counts(db) == before
    done = cli.json("feed", "load", second, "--feed", "nse", "--skip-bad")
    same = ("rows", "unchanged", "changed", "first", "last", "left_out", "mapping", "skipped")
    assert {name: done[name] for name in same} == {name: plan[name] for name in same}
    assert "2 files read as" in cli("feed", "load", first, first, "--feed", "nse").stdout


def test_a_dry_run_of_a_file_that_is_no_data_says_what_to_do(cli: Cli) -> None:  # noqa: F811
    command = ("feed", "load", DATA / "kite_5minute.json", "--symbol", "A", "--raw", "--dry-run")
    said = cli.json(*command, code=1)
    assert (said["skipped"][0]["code"], said["hint"]) == ("22007", "Say how long a candle is: --interval 5minute.")
    assert "--interval 5minute" in cli(*command, code=1).stdout
    assert cli.error(*command[:-1])["code"] == "22007"


def test_options_of_feed_load(cli: Cli, db: Conn) -> None:  # noqa: F811
    report = cli.json(
        *(
            "feed",
            "load",
            DATA / "generic_with_map.csv",
            "--map",
            "close=Price, volume=",
            "--date-format",
            "mm/dd/yyyy",
        ),
        *("--thousands", "comma", "--symbol", "A", "--feed", "f"),
    )
    assert (report["rows"], report["format"]) == (2, "generic")
    for options in (
        ("--map", "price"), ("--map", "what=x"), ("--map", "close=a,close=b"), ("--date-format", "dd"),
        ("--interval", "week"), ("--delimiter", "ab"), ("--thousands", "comma", "--decimal-comma"), ("--format", "xls"),
        ("--date", "02-01-2024"),
    ):  # fmt: skip
        assert cli.error("feed", "load", DATA / "bars.ndjson", *options, code=2)["code"] is None
    for options in (("--series", "EQ"), ("--map", "close=x"), ("--delimiter", ";"), ("--date", "2024-01-02")):
        assert "means nothing to" in cli.error("feed", "load", DATA / "bars.ndjson", *options, code=2)["message"]
    error = cli.error("feed", "load", DATA / "yahoo_ACME.csv", code=2)
    assert "docs/data.md" in error["hint"]
    assert cli.json("feed", "load", DATA / "NAVAll.txt", "--only", "900001, 900002", "--feed", "mf")["symbols"] == 2
    words = cli("feed", "load", DATA / "yahoo_ACME.csv", "--adjusted", "--symbol", "ACME", "--feed", "y").stdout
    assert "read as yahoo" in words
    assert "adjusted close : close is 0.5" in words
    tab = "symbol\tdate\topen\thigh\tlow\tclose\nA\t2024-01-02\t1\t1\t1\t1\n"
    assert cli.json("feed", "load", "-", "--delimiter", "tab", "--feed", "t", stdin=tab)["rows"] == 1
    split = ("feed", "load-actions", DATA / "yahoo_splits_ACME.csv", "--symbol", "ACME")
    assert "would be stored" in cli(*split, "--dry-run").stdout
    assert cli.json(*split)["rows"] == 2
    assert (
        "warning: ACME has splits"
        in cli("feed", "load-actions", DATA / "yahoo_dividends_ACME.csv", "--symbol", "ACME").stdout
    )


# --- out and in again ---


def test_export_by_the_command_line(cli: Cli, db: Conn, tmp_path: Path) -> None:  # noqa: F811
    feed.load_bundled(db)
    whole = digest(db, "bundled")
    for form in barexport.FORMATS:
        path = tmp_path / f"bars.{form}"
        assert cli.json("feed", "export", "bundled", "--format", form, "-o", path)["rows"] == 12_154
        assert cli.json("feed", "load", path, "--feed", form, "--calendar", "XNYS")["rows"] == 12_154
        assert digest(db, form) == whole
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["bars.csv", "bars.ndjson", "bars.parquet"]
    span = ("--symbol", "IBM", "--symbol", "FB", "--from", "2012-07-02", "--to", "2012-07-03")
    lines = cli("feed", "export", "bundled", *span).stdout.splitlines()
    assert (len(lines), lines[0]) == (5, "symbol,logical_time,open,high,low,close,volume")
    assert lines[1].startswith("FB,2012-07-02T20:00:00Z,")
    assert lines[4].startswith("IBM,2012-07-03T17:00:00Z,")
    rows = cli("feed", "export", "bundled", *span, "--format", "ndjson").stdout.splitlines()
    assert [json.loads(row)["symbol"] for row in rows] == ["FB", "FB", "IBM", "IBM"]
    assert cli.error("feed", "export", "none")["code"] == "TE201"
    assert cli.error("feed", "export", "bundled", "--symbol", "NONE")["code"] == "TE201"
    assert cli.error("feed", "export", "bundled", "-o", "/nonexistent/x.csv", code=2)["message"].startswith(
        "cannot write"
    )


def test_the_digest_is_of_the_bars_alone(tx: Conn) -> None:
    with pytest.raises(psycopg.Error) as caught, tx.transaction():
        digest(tx, "none")
    assert caught.value.sqlstate == "TE201"
    tx.execute("insert into feed (feed) values ('a'), ('b'), ('c')")
    empty = digest(tx, "a")
    tx.execute("insert into instrument (symbol) values ('A'), ('B')")
    add = "insert into price_bar select %s, symbol, %s, 1, 2, 1, %s, %s from unnest(%s::text[]) symbol"
    tx.execute(add, ["a", "2024-01-01Z", "1.50", None, ["A", "B"]])
    tx.execute(add, ["b", "2024-01-01T05:30:00+05:30", "1.5", None, ["B", "A"]])
    assert digest(tx, "a") == digest(tx, "b") != empty
    seen = {digest(tx, "a"), empty}
    for time, close, volume, symbols in (
        ("2024-01-01Z", "1.5", 0, ["A", "B"]),
        ("2024-01-01Z", "1.50000001", None, ["A", "B"]),
        ("2024-01-01T00:00:00.000001Z", "1.5", None, ["A", "B"]),
        ("2024-01-01Z", "1.5", None, ["A"]),
    ):
        tx.execute("delete from price_bar where feed = 'c'")
        tx.execute(add, ["c", time, close, volume, symbols])
        seen.add(digest(tx, "c"))
    assert len(seen) == 6


def _cell(value: Any) -> str:
    return "" if value is None else f'"{value}"' if not isinstance(value, str) else '"' + value.replace('"', '""') + '"'


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(bar(), max_size=8, unique_by=lambda b: b[:2]), form=st.sampled_from(barexport.FORMATS))
def test_any_bars_exported_and_loaded_again_have_the_same_digest(
    tx: Conn, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, ...]], form: str
) -> None:
    path = str(tmp_path_factory.mktemp("export") / f"bars.{form}")
    tx.execute("select")
    with tx.transaction(force_rollback=True):
        text = "\n".join([HEADER, *(",".join(map(_cell, row)) for row in rows), ""])
        feed.load_csv(tx, io.BytesIO(text.encode()), feed="a")
        assert barexport.export(tx, "a", path, form=form) == len(rows)
        report = feed.load_files(tx, [path], feed="b", options=Options(format="generic" if form == "csv" else form))
        assert (report.rows, digest(tx, "b")) == (len(rows), digest(tx, "a"))


@pytest.mark.parametrize("form", barexport.FORMATS)
@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("yahoo_ACME.csv", {"adjusted": True}),
        ("yfinance_download.csv", {"adjusted": False}),
        ("yahoo_chart.json", {"adjusted": False}),
        ("stooq_bulk.txt", {"adjusted": True}),
        ("stooq_acme.csv", {"adjusted": True}),
        ("nse_cm02JAN2024bhav.csv", {}),
        ("nse_sec_bhavdata_full_03012024.csv", {}),
        ("BhavCopy_NSE_CM_0_0_0_20240708_F_0000.csv", {}),
        ("BhavCopy_BSE_CM_0_0_0_20240708_F_0000.CSV", {}),
        ("EQ020124.CSV", {}),
        ("EQ_ISINCODE_030124.CSV", {}),
        ("NAVAll.txt", {}),
        ("amfi_history.txt", {}),
        ("kite_5minute.json", {"adjusted": False, "interval": 5}),
        ("bars.ndjson", {}),
    ],
)
def test_every_dialect_loaded_exported_and_loaded_again_has_the_same_digest(
    tx: Conn, tmp_path: Path, form: str, file: str, said: dict[str, Any]
) -> None:
    tx.execute("select")
    first = feed.load_files(tx, [DATA / file], feed="a", options=Options(**said))
    barexport.export(tx, "a", str(tmp_path / "x"), form=form)
    second = feed.load_files(
        tx,
        [tmp_path / "x"],
        feed="b",
        options=Options(format="generic" if form == "csv" else form, adjusted=said.get("adjusted")),
    )
    assert (second.rows, digest(tx, "b")) == (first.rows, digest(tx, "a"))
    assert first.rows > 0


def test_an_unknown_feed_is_not_exported(tx: Conn, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        barexport.export(tx, "none", str(tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []
    assert frames.FeedError is feed.FeedError
