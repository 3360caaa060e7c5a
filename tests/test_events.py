"""Splits and dividends as Yahoo and NSE write them."""

from __future__ import annotations

import io
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine_py import feed
from engine_py.dialects.events import parse_purpose
from engine_py.errors import InvalidError, UsageError

Conn = psycopg.Connection[Any]
DATA = Path(__file__).parent / "data_in"
HEAD = "symbol,date,open,high,low,close\n"


@pytest.fixture
def tx(tx: Conn) -> Conn:
    """With its transaction open, and the symbols of the files."""
    tx.execute("insert into instrument (symbol) values ('ACME'), ('ACMEIND'), ('ZORG'), ('ZORGBOND')")
    return tx


def load(conn: Conn, source: str, **said: Any) -> feed.LoadReport:
    return feed.load_actions(conn, io.BytesIO(source.encode()) if "\n" in source else DATA / source, **said)


def stored(conn: Conn) -> list[tuple[Any, ...]]:
    return conn.execute(
        """select symbol, ex_date::text, coalesce(ratio_numerator || ':' || ratio_denominator, trim_scale(amount)::text),
                  pay_date::text
             from corporate_action order by symbol collate "C", ex_date, action_type"""
    ).fetchall()


def refused(conn: Conn, source: str, **said: Any) -> list[tuple[int, str]]:
    with pytest.raises(feed.FeedError) as caught:
        load(conn, source, **said)
    assert stored(conn) == []
    return [(p.line, p.code) for p in caught.value.report.skipped]


@pytest.mark.parametrize(
    ("purpose", "ratio", "amount", "rest"),
    [
        ("Bonus 1:1", 2, None, 0),  # one new share for each held
        ("BONUS 3:2", Fraction(5, 2), None, 0),
        ("Bonus Issue 1:10", Fraction(11, 10), None, 0),
        ("Face Value Split (Sub-Division) - From Rs 10/- Per Share To Rs 2/- Per Share", 5, None, 0),
        ("Face Value Split (Sub-Division) - From Rs 2/- Per Share To Re 1/- Per Share", 2, None, 0),
        ("Face Value Split (Sub-Division) - From Re 1/- Per Share To Re 0.50/- Per Share", 2, None, 0),
        ("Fv Split Rs.2/- To Re.1/-", 2, None, 0),
        ("Consolidation Of Shares - From Re 1/- Per Share To Rs 10/- Per Share", Fraction(1, 10), None, 0),
        ("Face Value Split From Rs 10/- To Rs 5/-/ Bonus 1:1", 4, None, 0),
        ("Dividend - Rs 5 Per Share", None, "5", 0),
        ("Dividend - Rs 16.25/- Per Share", None, "16.25", 0),
        ("Interim Dividend - Re 0.75 Per Sh", None, "0.75", 0),
        ("Special Interim Dividend - Rs 7.50 Per Share", None, "7.5", 0),
        ("Final Dividend Rs 12", None, "12", 0),
        ("Dividend - Rs 20 Per Share/Special Dividend - Rs 7.50", None, "27.5", 0),
        ("Dividend - Rs 8.35 Per Share & Special Dividend - Rs 3.35 Per Share", None, "11.7", 0),
        ("Annual General Meeting / Dividend - Rs 56 Per Share", None, "56", 0),
        ("Dividend - Rs 10 Per Share / Bonus 1:1", 2, "10", 0),
        ("Annual General Meeting", None, None, 0),
        # what does not say it clearly
        ("Interim Dividend", None, None, 1),
        ("Dividend - 50%", None, None, 1),
        ("Bonus Ncrps 1:116", None, None, 1),
        ("Bonus 1:0", None, None, 1),
        ("Rights 1:6 @ Premium Rs 100.98/-", None, None, 1),
        ("Demerger", None, None, 1),
        ("Buy Back", None, None, 1),
        ("Sub-Division Of Equity Shares", None, None, 1),
        ("Distribution - Rs 6.31 Per Unit Consisting Of Re 0.37 Per Unit As Interest/ Re 0.80 Per Unit As Dividend", None, None, 2),
        ("Dividend - Rs 5 Per Share / Demerger", None, "5", 1),
    ],
)  # fmt: skip
def test_purposes(purpose: str, ratio: Any, amount: str | None, rest: int) -> None:
    actions, unknown = parse_purpose(purpose)
    assert [a.ratio for a in actions if a.ratio is not None] == ([] if ratio is None else [Fraction(ratio)])
    assert [a.amount for a in actions if a.amount is not None] == ([] if amount is None else [Decimal(amount)])
    assert len(unknown) == rest


def test_nses_corporate_actions(tx: Conn) -> None:
    report = load(tx, "nse_corporate_actions.csv")
    assert stored(tx) == [
        ("ACMEIND", "2024-01-03", "12.5", "2024-01-03"),
        ("ACMEIND", "2024-07-08", "2:1", None),
        ("ZORG", "2024-01-22", "5:1", None),
        ("ZORG", "2024-03-06", "0.75", "2024-03-06"),
    ]
    assert (report.format, report.rows) == ("nse", 4)
    assert report.left_out == {"purpose not understood": 2, "neither split nor dividend": 1, "other series": 1}
    assert [w.split(":")[0] for w in report.warnings] == ["line 5", "line 6"]
    assert "rights 1:6" in report.warnings[0]
    assert "the rest of it was read" in report.warnings[1]
    assert load(tx, "nse_corporate_actions.csv").unchanged == 4
    with pytest.raises(InvalidError, match="not understood"):
        load(tx, "nse_corporate_actions.csv", strict=True)
    text = (DATA / "nse_corporate_actions.csv").read_text()
    with pytest.raises(feed.FeedError) as caught:
        load(tx, text.replace("08-Jul-2024", "2024-07-08").replace('"ZORG","Zorg', '"ZORGG","Zorg'))
    assert [(p.line, p.code) for p in caught.value.report.skipped] == [(3, "22007"), (4, "TE201"), (6, "TE201")]


def test_yahoos_splits_and_dividends(tx: Conn) -> None:
    assert load(tx, "yahoo_splits_ACME.csv", symbol="ACME").format == "yahoo"
    report = load(tx, "yahoo_dividends_ACME.csv", symbol="ACME")
    assert stored(tx) == [
        ("ACME", "2024-01-03", "2:1", None),
        ("ACME", "2024-01-04", "0.12", "2024-01-04"),
        ("ACME", "2024-04-04", "0.125", "2024-04-04"),
        ("ACME", "2024-06-10", "1:5", None),
    ]
    assert report.warnings == [
        "ACME has splits up to 2024-06-10, and Yahoo states earlier dividends in units of after them"
    ]
    with pytest.raises(UsageError, match="names no symbol"):
        load(tx, "Date,Dividends\n2024-01-04,1\n")


def test_yfinances_history_has_both(tx: Conn) -> None:
    report = load(tx, "yfinance_history.csv", symbol="ACME", kind="DIVIDEND", dry_run=True)
    assert (report.read, report.rows, report.left_out["split"], stored(tx)) == (1, 1, 1, [])
    assert load(tx, "yfinance_history.csv", symbol="ACME", kind="SPLIT", dry_run=True).left_out["dividend"] == 1
    report = load(tx, "yfinance_history.csv", symbol="ACME")
    assert stored(tx) == [("ACME", "2024-01-03", "2:1", None), ("ACME", "2024-01-04", "0.12", "2024-01-04")]
    assert report.left_out == {"neither split nor dividend": 1}


def test_events_that_are_wrong_name_their_line(tx: Conn) -> None:
    lines = ["2:0", "x", "0.3333333333", "3:2:1", "2000000:1", "1.5", "0.3333333"]
    days = [f"2024-01-{day:02}" for day in range(2, 9)]
    text = "Date,Stock Splits\n" + "".join(f"{d},{line}\n" for d, line in zip(days, lines, strict=True))
    assert refused(tx, text, symbol="ACME") == [(n, "22P02") for n in (2, 3, 4, 5, 6, 8)]
    load(tx, text, symbol="ACME", skip_bad=True)
    assert stored(tx) == [("ACME", "2024-01-07", "3:2", None)]
    text = "Date,Dividends\n2024-02-30,1\n01/02/2024,1\n2024-01-04,abc\n2024-01-05,-1\n2024-01-05\n"
    tx.execute("delete from corporate_action")
    assert refused(tx, text, symbol="ACME") == [(2, "22008"), (3, "22007"), (4, "22P02"), (5, "23514"), (6, "22P04")]
    assert refused(tx, text, symbol="NEW", skip_bad=False)[-2:] == [(5, "23514"), (6, "22P04")]


def test_a_split_that_stored_prices_contradict_is_told(tx: Conn) -> None:
    bars = HEAD + "ACME,2024-01-02,100,100,100,100\nACME,2024-01-03,99,99,99,99\n"
    feed.load_csv(tx, io.BytesIO(bars.encode()), feed="f", calendar="XNYS")
    with pytest.raises(InvalidError, match="looks adjusted"):
        load(tx, "Date,Stock Splits\n2024-01-03,2:1\n", symbol="ACME", strict=True)
    assert stored(tx) == []
    report = load(tx, "Date,Stock Splits\n2024-01-03,2:1\n", symbol="ACME")
    assert report.warnings == [
        "feed f is of raw prices, but ACME looks adjusted: over its split 2:1 of 2024-01-03 the price does not jump"
        " (100 before, 99 after)"
    ]
