"""The splits and dividends that come along: made by scripts/make_actions.py, and all that adj_close knows."""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine_py import feed

D = Decimal
Conn = psycopg.Connection[Any]

ROOT = Path(__file__).parent.parent
DATA = ROOT / "engine_py" / "data"
STOCKS, ACTIONS = DATA / "stocks.csv.gz", DATA / "corporate_actions.csv"
STORED = (
    "select symbol, ex_date, action_type, ratio_numerator, ratio_denominator, amount, pay_date"
    ' from corporate_action order by symbol collate "C", ex_date'
)


def make(stocks: Path, output: Path) -> subprocess.CompletedProcess[str]:
    script = ROOT / "scripts" / "make_actions.py"
    return subprocess.run([sys.executable, script, stocks, output], capture_output=True, text=True, timeout=60)


def make_of(tmp_path: Path, *closes: tuple[str, str]) -> str:
    """What the script makes of one symbol's (close, adj_close), day after day; or its complaint."""
    lines = [f"S,2024-01-{day:02d},{close},{adjusted}" for day, (close, adjusted) in enumerate(closes, 1)]
    (tmp_path / "in.gz").write_bytes(gzip.compress("\n".join(["symbol,date,close,adj_close", *lines, ""]).encode()))
    done = make(tmp_path / "in.gz", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").exists() == (done.returncode == 0)
    return done.stderr or "\n".join((tmp_path / "out.csv").read_text().splitlines()[1:])


@pytest.fixture(scope="module")
def actions() -> list[dict[str, str]]:
    with ACTIONS.open() as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def stocks() -> dict[str, list[tuple[str, Decimal, Decimal]]]:
    """(date, close, adj_close) of each symbol, by date."""
    found: dict[str, list[tuple[str, Decimal, Decimal]]] = {}
    with gzip.open(STOCKS, "rt") as lines:
        for row in csv.DictReader(lines):
            found.setdefault(row["symbol"], []).append((row["date"], D(row["close"]), D(row["adj_close"])))
    return found


# --- what the script makes


def test_the_shipped_file_is_what_the_script_makes(tmp_path: Path) -> None:
    assert make(STOCKS, tmp_path / "out.csv").returncode == 0
    assert (tmp_path / "out.csv").read_bytes() == ACTIONS.read_bytes()


def test_the_script_tells_actions_from_each_other(tmp_path: Path) -> None:
    assert make_of(tmp_path, ("10", "10"), ("11", "11.0000000000004")) == ""
    assert make_of(tmp_path, ("30", "10"), ("20", "10")) == "S,2024-01-02,SPLIT,3,2,,"
    assert make_of(tmp_path, ("1", "10"), ("10", "10")) == "S,2024-01-02,SPLIT,1,10,,"
    assert make_of(tmp_path, ("10", "10"), ("8", "10")) == "S,2024-01-02,SPLIT,5,4,,"
    assert make_of(tmp_path, ("10", "10"), ("8", "9.99")) == "S,2024-01-02,DIVIDEND,,,1.99,2024-01-02"
    assert make_of(tmp_path, ("10", "10"), ("8", "8.01")) == "S,2024-01-02,DIVIDEND,,,0.01,2024-01-02"


@pytest.mark.parametrize(
    ("close", "adjusted"),
    [
        ("100", "99"),  # no dividend is negative
        ("100", "100.001"),  # a tenth of a cent
        ("100", "100.006"),
        ("50.10", "100.4"),  # 2:1 and 0.10; it would be whole cents too, 50.30, were it one dividend
        ("9.00", "10.00"),  # 10:9, or a dividend of 1.00
    ],
)
def test_the_script_does_not_guess(tmp_path: Path, close: str, adjusted: str) -> None:
    assert make_of(tmp_path, (close, close), (close, adjusted)).startswith("S 2024-01-02: growth of ")


# --- what it made


def test_the_three_splits(actions: list[dict[str, str]]) -> None:
    splits = [
        (a["symbol"], a["ex_date"], a["ratio_numerator"], a["ratio_denominator"])
        for a in actions
        if a["action_type"] == "SPLIT"
    ]
    assert splits == [
        ("AAPL", "2000-06-21", "2", "1"),
        ("AAPL", "2005-02-28", "2", "1"),
        ("MSFT", "2003-02-18", "2", "1"),
    ]


def test_the_92_dividends(actions: list[dict[str, str]]) -> None:
    paid = {symbol: [a for a in actions if a["symbol"] == symbol and a["amount"]] for symbol in ("AAPL", "IBM", "MSFT")}
    assert {symbol: len(rows) for symbol, rows in paid.items()} == {"AAPL": 3, "IBM": 52, "MSFT": 37}
    assert len(actions) == 92 + 3  # FB and GOOG paid none
    assert all(a["pay_date"] == a["ex_date"] for rows in paid.values() for a in rows)

    def steps(rows: list[dict[str, str]]) -> list[tuple[str, str]]:
        """Each amount with the first ex-date of a row of them."""
        return [
            (a["ex_date"], a["amount"])
            for before, a in zip([None, *rows], rows, strict=False)
            if before is None or before["amount"] != a["amount"]
        ]

    # 3.08 is the special 3.00 and the quarter's 0.08, ex on one day
    assert steps(paid["AAPL"]) == [("2012-08-09", "2.65")]
    assert steps(paid["IBM"]) == [
        *[("2000-05-08", "0.13"), ("2001-05-08", "0.14"), ("2002-05-08", "0.15"), ("2003-05-07", "0.16")],
        *[("2004-05-06", "0.18"), ("2005-05-06", "0.20"), ("2006-05-08", "0.30"), ("2007-05-08", "0.40")],
        *[("2008-05-07", "0.50"), ("2009-05-06", "0.55"), ("2010-05-06", "0.65"), ("2011-05-06", "0.75")],
        ("2012-05-08", "0.85"),
    ]
    assert steps(paid["MSFT"]) == [
        *[("2003-02-19", "0.08"), ("2003-10-15", "0.16"), ("2004-08-23", "0.08"), ("2004-11-15", "3.08")],
        *[("2005-02-15", "0.08"), ("2006-02-15", "0.09"), ("2006-11-14", "0.10"), ("2007-11-13", "0.11")],
        *[("2008-11-18", "0.13"), ("2010-11-16", "0.16"), ("2011-11-15", "0.20"), ("2012-11-13", "0.23")],
    ]


@pytest.mark.parametrize("symbol", ["AAPL", "FB", "GOOG", "IBM", "MSFT"])
def test_raw_closes_and_actions_make_the_adjusted_close(
    symbol: str, actions: list[dict[str, str]], stocks: dict[str, list[tuple[str, Decimal, Decimal]]]
) -> None:
    """One unit, dividends reinvested at the ex-date's close, is worth what adj_close says, up to a constant.

    Measured, relative, against the first day: IBM 5.5e-14, AAPL 5.1e-14, MSFT 3.5e-14, GOOG 3.3e-16, FB 0.
    """
    of_day = {a["ex_date"]: a for a in actions if a["symbol"] == symbol}
    units, (_, first_close, first_adjusted) = D(1), stocks[symbol][0]
    worst = D(0)
    for day, close, adjusted in stocks[symbol]:
        if action := of_day.pop(day, None):
            if action["action_type"] == "SPLIT":
                units *= D(action["ratio_numerator"]) / D(action["ratio_denominator"])
            else:
                units *= 1 + D(action["amount"]) / close
        worst = max(worst, abs(units * close / first_close / (adjusted / first_adjusted) - 1))
    assert worst < D("1e-13")  # adj_close has 14 digits, so half a unit of its last is up to 5e-14, here and on day 1
    assert of_day == {}  # every action falls on a bar


# --- what is loaded


def test_the_bundled_actions_come_with_the_bars(db: Conn, actions: list[dict[str, str]]) -> None:
    feed.load_bundled(db)
    loaded = db.execute(STORED).fetchall()
    assert [tuple("" if value is None else str(value) for value in row[:5]) for row in loaded] == [
        tuple(list(a.values())[:5]) for a in actions
    ]
    assert [row[5:] for row in loaded] == [
        (D(a["amount"]), date.fromisoformat(a["pay_date"])) if a["amount"] else (None, None) for a in actions
    ]
    rows = db.execute("select xmin::text, c.* from corporate_action c").fetchall()
    feed.load_bundled(db)
    feed.load_bundled(db, "another")
    assert db.execute("select xmin::text, c.* from corporate_action c").fetchall() == rows


def test_a_row_of_the_users_stays(db: Conn) -> None:
    db.execute("insert into instrument (symbol) values ('AAPL')")
    mine = [
        ("AAPL", date(2005, 2, 28), "SPLIT", 7, 3, None, None),
        ("AAPL", date(2012, 8, 9), "DIVIDEND", None, None, D("2.5"), date(2012, 8, 16)),
    ]
    with db.cursor() as cursor:
        cursor.executemany("insert into corporate_action values (%s, %s, %s, %s, %s, %s, %s)", mine)
    report = feed.load_bundled(db)
    assert report.skipped_count == 0  # it is the bars' report
    loaded = db.execute(STORED).fetchall()
    assert len(loaded) == 95
    assert [row for row in loaded if row[:3] in {m[:3] for m in mine}] == mine


def test_bars_and_actions_come_together_or_not_at_all(db: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(feed, "load_actions", fail)
    with pytest.raises(RuntimeError, match="killed"):
        feed.load_bundled(db)
    assert db.execute("select count(*) from price_bar").fetchone() == (0,)
    monkeypatch.undo()
    feed.load_bundled(db)
    assert db.execute("select count(*) from corporate_action").fetchone() == (95,)


def test_bars_loaded_before_get_their_actions(connect: Callable[..., Conn]) -> None:
    """A database of an earlier version, which had no actions."""
    conn = connect()
    with STOCKS.open("rb") as source:
        feed.load_csv(conn, source, feed="bundled", calendar="XNYS", adjusted=False)
    assert feed.load_bundled(conn).unchanged == 12_154
    assert conn.execute("select count(*) from corporate_action").fetchone() == (95,)
