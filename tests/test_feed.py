"""Loading bars and calendars from CSV: what is refused, with its line number; what is stored; what a repeat changes."""

from __future__ import annotations

import gzip
import io
import random
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine_py import feed
from engine_py.csvfile import MAX_LINE, MAX_PROBLEMS
from engine_py.errors import InvalidError, PapertickError, UsageError

Conn = psycopg.Connection[Any]

HEADER = "symbol,timestamp,open,high,low,close,volume"
GOOD = "AAPL,2024-01-02T21:00:00Z,10,12,9,11,100"
T = "2024-01-03T21:00:00Z"


@pytest.fixture
def tx(tx: Conn) -> Conn:
    """With its transaction open: a load that finds none would commit its own."""
    tx.execute("select")
    return tx


def load(conn: Conn, *lines: str, end: str = "\n", **options: Any) -> feed.LoadReport:
    return load_bytes(conn, (end.join(lines) + end).encode(), **options)


def load_bytes(conn: Conn, data: bytes, **options: Any) -> feed.LoadReport:
    return feed.load_csv(conn, io.BytesIO(data), **{"feed": "f", **options})


def bars(conn: Conn, name: str = "f") -> list[tuple[Any, ...]]:
    return conn.execute(
        "select symbol, logical_time, open, high, low, close, volume from price_bar where feed = %s"
        ' order by symbol collate "C", logical_time',
        [name],
    ).fetchall()


def stored(conn: Conn) -> tuple[int, ...]:
    """How many bars, instruments, feeds, calendars and sessions there are."""
    tables = ("price_bar", "instrument", "feed", "calendar", "market_session")
    return tuple(conn.execute(f"select count(*) from {t}").fetchone()[0] for t in tables)


def refused(conn: Conn, *lines: str, **options: Any) -> list[tuple[int, str]]:
    """The (line, code) of each problem of a file that is refused, and leaves nothing."""
    before = stored(conn)
    with pytest.raises(feed.FeedError) as caught:
        load(conn, *lines, **options)
    assert stored(conn) == before
    assert caught.value.code == caught.value.report.skipped[0].code
    return [(p.line, p.code) for p in caught.value.report.skipped]


# --- one bad line -----------------------------------------------------------------------------------------------------

BAD_NUMBERS = [
    "NaN", "nan", "Infinity", "-Infinity", "inf", "", " ", "1e999", "1e-999", "9" * 400, "0." + "0" * 400 + "1", "0x1F",
    "1_000", '"1,000"', "1.2.3", "--1", "1e", "e5", ".", "12a", "1 2", "null", "N/A", "١٢", "$12", "1/2", "True", "-",
]  # fmt: skip
BAD_TIMES = [
    "2024-01-03T21:00:00", "2024-01-03 21:00:00", "infinity", "-infinity", "now", "today", "epoch", "", "1704315600",
    "2024-1-3", "03/01/2024", "2024-01-03T21:00Z", "2024-01-03T21:00:00+0530", "2024-01-03T21:00:00+15:00",
    "2024-01-03T21:00:00 America/New_York", "20240103T210000Z", "2024-01-03T21:00:00.1234567Z", "2024-W01-3",
    "0044-03-15 BC", "294276-01-01T00:00:00Z", "2024-01-03T21:00:00+05:60", "٢٠٢٤-01-03",
]  # fmt: skip


@pytest.mark.parametrize("column", ["open", "high", "low", "close", "volume"])
@pytest.mark.parametrize("text", BAD_NUMBERS)
def test_a_field_that_is_no_number_names_its_line(tx: Conn, column: str, text: str) -> None:
    if column == "volume" and not text.strip():
        return  # an empty volume is null
    row = dict(symbol="AAPL", time=T, open="10", high="12", low="9", close="11", volume="5")
    row[column] = text
    assert refused(tx, HEADER, GOOD, ",".join(row.values())) == [(3, "22P02")]


@pytest.mark.parametrize("text", BAD_TIMES)
def test_a_field_that_is_no_time_names_its_line(tx: Conn, text: str) -> None:
    assert refused(tx, HEADER, GOOD, f"AAPL,{text},10,12,9,11,5") == [(3, "22007")]


@pytest.mark.parametrize(
    "text",
    ["2023-02-29", "2023-02-29T00:00:00Z", "2024-13-01", "2024-00-10T00:00:00Z", "2024-01-03T24:00:01Z",
     "2024-01-03T21:60:00Z", "2024-01-03T21:00:60Z", "0000-01-01", "1899-12-30", "1899-12-31T23:59:59Z",
     "2300-01-01T00:00:00Z", "2299-12-31", "2299-12-31T23:00:00-02:00", "1900-01-01T00:00:00+00:01",
     "0001-01-01T00:00:00+14:00", "9999-12-31", "9999-12-31T23:59:59-14:00"],
)  # fmt: skip
def test_a_time_that_does_not_exist_or_is_out_of_range_names_its_line(tx: Conn, text: str) -> None:
    assert refused(tx, HEADER, GOOD, f"AAPL,{text},10,12,9,11,5") == [(3, "22008")]


@pytest.mark.parametrize(
    ("prices", "code"),
    [
        ("10,9,9,10,1", "23514"),  # open above high
        ("8,12,9,11,1", "23514"),  # open below low
        ("10,12,9,13,1", "23514"),  # close above high
        ("10,12,9,8,1", "23514"),  # close below low
        ("10,8,12,10,1", "23514"),
        ("0,0,0,0,1", "23514"),
        ("-0,12,-0,11,1", "23514"),
        ("-10,12,-11,11,1", "23514"),
        ("10,12,1e-30,11,1", "23514"),  # 0 at 8 decimals
        ("10,12,0.000000004,11,1", "23514"),
        ("10,1e12,9,11,1", "22003"),
        ("10,9e99,9,11,1", "22003"),
        ("10,999999999999.999999999,9,11,1", "22003"),  # 1e12 at 8 decimals
        ("10,1000000000000000000000000000000000000000,9,11,1", "22003"),
        ("10,12,9,11,-1", "23514"),
        ("10,12,9,11,1e20", "22003"),
        ("10,12,9,11,99999999999999999999.99999", "22003"),
    ],
)
def test_an_impossible_bar_names_its_line(tx: Conn, prices: str, code: str) -> None:
    assert refused(tx, HEADER, GOOD, f"AAPL,{T},{prices}") == [(3, code)]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (f"AAPL,{T},10,12,9,11", "22P04"),  # short
        (f"AAPL,{T},10,12,9", "22P04"),
        ("AAPL", "22P04"),
        (f"AAPL,{T},10,12,9,11,5,", "22P04"),  # long
        (f'"AAPL,{T},10,12,9,11,5', "22P04"),  # a quote never closed
        (f'"AA"PL,{T},10,12,9,11,5', "22P04"),
        (f",{T},10,12,9,11,5", "22P02"),
        (f"  ,{T},10,12,9,11,5", "22P02"),
        (f"{'A' * 65},{T},10,12,9,11,5", "22P02"),
        (f"A\tB,{T},10,12,9,11,5", "22P02"),
        (f"A\u200bB,{T},10,12,9,11,5", "22P02"),
        (f"AA\0PL,{T},10,12,9,11,5", "22021"),
        (f"AAPL,{T},10,12,9,11,5\0", "22021"),
        ("\\.", "22P04"),
        (f"\\N,{T},NULL,12,9,11,5", "22P02"),
    ],
)
def test_a_malformed_line_is_named(tx: Conn, line: str, code: str) -> None:
    assert refused(tx, HEADER, GOOD, line, GOOD.replace("AAPL", "MSFT")) == [(3, code)]


@pytest.mark.parametrize("raw", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80"])
@pytest.mark.parametrize("place", ["symbol", "ignored"])
def test_bad_utf8_names_its_line(tx: Conn, raw: bytes, place: str) -> None:
    line = b"AA%sPL,n," % raw if place == "symbol" else b"AAPL,n%s," % raw
    data = b"symbol,name,timestamp,open,high,low,close\nMSFT,n,%b,1,1,1,1\n%b%b,1,1,1,1\n" % (
        T.encode(),
        line,
        T.encode(),
    )
    with pytest.raises(feed.FeedError) as caught:
        load_bytes(tx, data)
    assert [(p.line, p.code) for p in caught.value.report.skipped] == [(3, "22021")]


def test_a_nul_in_an_ignored_column_names_its_line(tx: Conn) -> None:
    assert refused(tx, "symbol,name,date,open,high,low,close", "A,n\0,2024-01-02,1,1,1,1") == [(2, "22021")]


def test_an_overlong_line_is_named_and_never_held(tx: Conn) -> None:
    class Endless(io.RawIOBase):
        """One line of 64 MB between two good ones."""

        parts = iter(
            [f"{HEADER}\n{GOOD}\n".encode(), *[b"x" * 65536] * 1024, f"\n{GOOD}\n".replace("02T", "03T").encode()]
        )
        rest = b""

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self.rest = self.rest or next(self.parts, b"")
            size = min(len(buffer), len(self.rest))
            buffer[:size], self.rest = self.rest[:size], self.rest[size:]
            return size

    tracemalloc.start()
    try:
        report = feed.load_csv(tx, Endless(), feed="f", skip_bad=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [(p.line, p.code) for p in report.skipped] == [(3, "54000")]
    assert report.rows == 2
    assert peak < 16 << 20


def test_a_long_last_line_without_newline_is_refused(tx: Conn) -> None:
    assert refused(tx, HEADER, GOOD, "x" * MAX_LINE, end="\n") == [(3, "54000")]


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "42703"),
        (GOOD, "42703"),  # no header at all
        ("symbol,timestamp,open,high,low,volume", "42703"),
        ("timestamp,open,high,low,close,volume", "42703"),
        ("symbol,open,high,low,close,volume", "42703"),
        ("symbol;timestamp;open;high;low;close;volume", "42703"),
        ("symbol,timestamp,open,high,low,close,close", "42701"),
        ("symbol,timestamp,OPEN,high,low,close,open", "42701"),
        ("symbol,date,time,open,high,low,close", "42701"),
        ("symbol,timestamp,open,high,low,close,x,X", "42701"),
        ("symbol,timestamp,open,high,low,close,\0", "22021"),
        ('symbol,timestamp,open,high,low,"close', "22P04"),
        ("x" * MAX_LINE + ",symbol", "54000"),
    ],
)
def test_a_wrong_header_is_line_1_even_when_bad_lines_are_skipped(tx: Conn, header: str, code: str) -> None:
    assert refused(tx, header, GOOD, skip_bad=True) == [(1, code)]


def test_a_file_without_any_line_is_refused(tx: Conn) -> None:
    with pytest.raises(feed.FeedError, match="1 bad line"):
        load_bytes(tx, b"")


def test_utf16_is_refused_at_line_1(tx: Conn) -> None:
    with pytest.raises(feed.FeedError) as caught:
        load_bytes(tx, f"{HEADER}\n{GOOD}\n".encode("utf-16"))
    assert caught.value.report.skipped[0][:2] == (1, "22021")


# --- what is accepted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", ["", "end"])
def test_line_ends_and_bom(tx: Conn, end: str, bom: bytes, last: str) -> None:
    data = bom + end.join([HEADER, "", GOOD, " ", f"B,{T},1,1,1,1,"]).encode() + (end.encode() if last else b"")
    report = load_bytes(tx, data)
    assert (report.read, report.rows, report.symbols, report.skipped_count) == (2, 2, 2, 0)
    assert [row[0] for row in bars(tx)] == ["AAPL", "B"]
    assert bars(tx)[1][6] is None


def test_line_numbers_count_blank_lines_and_any_line_end(tx: Conn) -> None:
    for end in ("\n", "\r\n", "\r"):
        assert refused(tx, HEADER, "", "", GOOD, "", "x", end=end) == [(6, "22P04")]


def test_columns_go_by_name_in_any_case_and_order(tx: Conn) -> None:
    load(tx, ' "Adj Close" ,CLOSE,Low,note,HIGH,Open,DateTime,Symbol', f'9.9,11,9,"a, ""b""",12,10,{T},"AAPL"')
    assert bars(tx) == [("AAPL", datetime(2024, 1, 3, 21, tzinfo=UTC), 10, 12, 9, 11, None)]


def test_one_symbol_for_the_whole_file(tx: Conn) -> None:
    load(tx, "date,open,high,low,close", "2024-01-02,1,2,1,2", symbol="BRK B")
    assert [row[0] for row in bars(tx)] == ["BRK B"]
    assert refused(tx, HEADER, GOOD, symbol="X") == [(1, "42701")]
    for symbol in ("", "A" * 65, "a\nb", "a\0b"):
        assert refused(tx, "date,open,high,low,close", "2024-01-02,1,2,1,2", symbol=symbol) == [(1, "22P02")]


@pytest.mark.parametrize(
    "symbol",
    ["BRK.B", "BRK B", "^GSPC", "ES=F", "M&M.NS", "a\\b", "\\N", "\\.", "株式", "é", "A'B", "%s", "{}", "A" * 64],
)
def test_symbols_come_through_as_they_are(tx: Conn, symbol: str) -> None:
    load(tx, HEADER, f"{symbol},{T},1,1,1,1,", f'"{symbol},x",{T},1,1,1,1,' if len(symbol) < 63 else f"x,{T},1,1,1,1,")
    assert symbol in [row[0] for row in bars(tx)]
    assert len(symbol) > 62 or f"{symbol},x" in [row[0] for row in bars(tx)]


@pytest.mark.parametrize(
    "text",
    ["2024-01-03T21:00:00Z", "2024-01-03 21:00:00+00:00", "2024-01-03T16:00:00-05:00", "2024-01-04T02:30:00+05:30",
     "2024-01-03T21:00:00.000000000Z", " 2024-01-03T21:00:00Z "],
)  # fmt: skip
def test_an_instant_is_what_its_offset_says_in_any_session_zone(tx: Conn, text: str) -> None:
    for zone in ("UTC", "America/New_York", "Asia/Kolkata"):
        tx.execute(f"set local time zone '{zone}'")
        tx.execute("set local datestyle to 'ISO, DMY'")
        report = load(tx, HEADER, f"AAPL,{text},1,1,1,1,", feed=zone)
        assert bars(tx, zone)[0][1] == datetime(2024, 1, 3, 21, tzinfo=UTC)
        assert report.first == report.last == datetime(2024, 1, 3, 21, tzinfo=UTC)


def test_numbers_keep_8_decimals_and_round_half_away(tx: Conn) -> None:
    load(
        tx,
        HEADER,
        f" A , {T} ,0.000000005,+1e2,.00000001,1.123456785, 1.5e+3 ",
        f"B,{T},999999999999.99999999,1e11,1.,1,0".replace("1e11", "999999999999.999999994"),
    )
    low, high = bars(tx)
    assert low[2:] == tuple(map(Decimal, ("0.00000001", "100", "0.00000001", "1.12345679", "1500")))
    assert high[3] == Decimal("999999999999.99999999")


# --- dates and sessions -----------------------------------------------------------------------------------------------


def test_a_date_stands_for_its_sessions_close(db: Conn) -> None:
    feed.load_bundled(db)
    dates = ["2024-07-02", "2024-07-03", "2024-12-31"]  # summer time, half day, winter time
    load(db, "symbol,date,open,high,low,close", *(f"A,{d},1,1,1,1" for d in dates), calendar="XNYS")
    assert [row[1].astimezone(UTC).isoformat() for row in bars(db)] == [
        "2024-07-02T20:00:00+00:00",
        "2024-07-03T17:00:00+00:00",
        "2024-12-31T21:00:00+00:00",
    ]
    header = "symbol,date,open,high,low,close"
    assert refused(db, header, "A,2024-07-04,1,1,1,1", "A,2024-07-06,1,1,1,1") == [(2, "22008"), (3, "22008")]
    assert refused(db, header, "A,2024-02-30,1,1,1,1", "A,2027-01-04,1,1,1,1") == [(2, "22008"), (3, "TE203")]


def test_a_date_under_always_closes_at_its_end(tx: Conn) -> None:
    load(tx, "symbol,date,open,high,low,close", "A,2024-12-31,1,1,1,1", "A,1899-12-31,1,1,1,1", "A,2299-12-30,1,1,1,1")
    assert [row[1].astimezone(UTC).isoformat() for row in bars(tx)] == [
        "1900-01-01T00:00:00+00:00",
        "2025-01-01T00:00:00+00:00",
        "2299-12-31T00:00:00+00:00",
    ]


def test_a_feed_keeps_its_calendar(tx: Conn) -> None:
    tx.execute("insert into calendar (calendar) values ('C')")
    load(tx, HEADER, GOOD, calendar="C")
    load(tx, HEADER, GOOD)
    load(tx, HEADER, GOOD, calendar="C")
    with pytest.raises(InvalidError, match="follows calendar C, not ALWAYS"):
        load(tx, HEADER, GOOD, calendar="ALWAYS")
    with pytest.raises(InvalidError, match="there is no calendar unknown"):
        load(tx, HEADER, GOOD, feed="g", calendar="unknown")
    assert [f.feed for f in feed.list_feeds(tx)] == ["default", "f"]


def test_the_shipped_calendar_comes_by_name(tx: Conn) -> None:
    load(tx, HEADER, GOOD, feed="g", calendar="XNYS")
    assert tx.execute("select time_zone from calendar where calendar = 'XNYS'").fetchone() == ("America/New_York",)


def test_bars_outside_every_session_are_counted(tx: Conn) -> None:
    midnight = GOOD.replace("2024-01-02T21:00:00Z", "2024-01-02T05:00:00Z")
    assert load(tx, HEADER, GOOD, midnight, feed="g", calendar="XNYS").outside_sessions == 1
    assert load(tx, HEADER, GOOD, midnight, feed="always").outside_sessions == 0


# --- duplicates, repeats, all or nothing ------------------------------------------------------------------------------


def test_a_bar_repeated_with_other_values_is_a_problem_and_the_same_one_is_not(tx: Conn) -> None:
    other = GOOD.replace("11,100", "10,100")
    same = GOOD.replace("2024-01-02T21:00:00Z", "2024-01-02 16:00:00-05:00").replace("10,12", "10.00,12.000000001")
    no_volume = GOOD.removesuffix("100")
    assert refused(tx, HEADER, GOOD, "M" + GOOD, GOOD, other, same, no_volume) == [(5, "23505"), (7, "23505")]
    report = load(tx, HEADER, GOOD, "M" + GOOD, GOOD, other, same, no_volume, skip_bad=True)
    assert (report.rows, report.unchanged, report.duplicates, report.skipped_count) == (2, 2, 2, 2)
    assert (report.skipped[0].message, report.changed) == ("repeats line 2 with other values", 0)
    assert bars(tx)[0][5] == 11  # the first one stays


def test_a_bad_line_makes_no_good_line_a_duplicate(tx: Conn) -> None:
    bad = GOOD.replace("10,12,9,11", "10,9,12,11")
    report = load(tx, HEADER, bad, GOOD, skip_bad=True)
    assert [(p.line, p.code) for p in report.skipped] == [(2, "23514")]
    assert report.rows == 1


def test_a_second_load_changes_nothing(db: Conn) -> None:
    lines = [HEADER, GOOD, f"AAPL,{T},10.000000001,12,9,11,", f"MSFT,{T},1,1,1,1,2.00001"]
    first = load(db, *lines)
    rows = db.execute("select xmin::text, p.* from price_bar p").fetchall()
    second = load(db, *lines)
    assert (first.rows, first.unchanged, second.rows, second.unchanged) == (3, 0, 0, 3)
    assert (first.symbols, first.first, first.last) == (second.symbols, second.first, second.last)
    assert db.execute("select xmin::text, p.* from price_bar p").fetchall() == rows
    third = load(db, *lines, f"NEW,{T},1,1,1,1,")
    assert (third.rows, third.unchanged) == (1, 3)


@pytest.mark.parametrize(
    "change",
    ["10.5,12,9,11,100", "10,13,9,11,100", "10,12,8,11,100", "10,12,9,12,100", "10,12,9,11,101", "10,12,9,11,"],
)
def test_a_stored_bar_is_never_changed(tx: Conn, change: str) -> None:
    load(tx, HEADER, GOOD)
    before = bars(tx)
    line = GOOD.replace("10,12,9,11,100", change)
    assert refused(tx, HEADER, f"NEW,{T},1,1,1,1,", line) == [(3, "23505")]
    report = load(tx, HEADER, f"NEW,{T},1,1,1,1,", line, skip_bad=True)
    assert (report.rows, report.duplicates) == (1, 1)
    assert bars(tx)[:1] == before


def test_the_same_bars_in_another_feed_are_no_duplicates(tx: Conn) -> None:
    load(tx, HEADER, GOOD)
    assert load(tx, HEADER, GOOD.replace("11,100", "10,1"), feed="g").rows == 1


def test_one_bad_line_refuses_the_file(db: Conn) -> None:
    lines = [f"S{i},{T},1,1,1,1," for i in range(5000)]
    lines[4321] = lines[4321].replace("1,1,1,1", "1,1,1,x")
    assert refused(db, HEADER, *lines, feed="new") == [(4323, "22P02")]
    report = load(db, HEADER, *lines, feed="new", skip_bad=True)
    assert (report.read, report.rows, report.skipped_count) == (5000, 4999, 1)
    assert len(bars(db, "new")) == 4999


def test_all_problems_are_counted_and_the_first_are_shown_by_line(tx: Conn) -> None:
    """Odd lines are wrong in shape, even ones in meaning: they are found apart and reported together."""
    lines = [f"S,2024-01-02T00:00:{i % 60:02d}Z,{'x' if i % 2 else 0},1,1,1," for i in range(3000)]
    with pytest.raises(feed.FeedError) as caught:
        load(tx, HEADER, *lines)
    report = caught.value.report
    assert report.skipped_count == 3000
    assert [p.line for p in report.skipped] == list(range(2, 2 + MAX_PROBLEMS))
    assert [p.code for p in report.skipped[:2]] == ["23514", "22P02"]
    assert "3000 bad lines; nothing was stored in feed f" in str(caught.value)
    assert "line 3: open is not a finite decimal number: 'x' [22P02]" in (caught.value.detail or "")
    assert "... and 2980 more" in (caught.value.detail or "")
    report = load(tx, HEADER, *lines, skip_bad=True)
    assert (report.rows, report.skipped_count, report.symbols, report.first) == (0, 3000, 0, None)


def test_a_shuffled_file_gives_the_same_rows(db: Conn) -> None:
    packed = Path(feed.__file__).parent / "data" / "stocks.csv.gz"
    lines = gzip.decompress(packed.read_bytes()).decode().splitlines()
    feed.load_bundled(db, "clean")
    random.Random(7).shuffle(rows := lines[1:])
    load(db, lines[0], *rows, feed="shuffled", calendar="XNYS", adjusted=False)
    assert bars(db, "shuffled") == bars(db, "clean")
    load(db, lines[0], *rows, *rows[:100], feed="repeated", calendar="XNYS", adjusted=False, skip_bad=True)
    assert bars(db, "repeated") == bars(db, "clean")


def test_a_dry_run_stores_nothing_and_says_what_it_would(db: Conn) -> None:
    load(db, HEADER, GOOD)
    before = stored(db)
    lines = [HEADER, GOOD, f"NEW,{T},1,1,1,1,", "bad"]
    dry = load(db, *lines, dry_run=True, skip_bad=True)
    assert stored(db) == before
    assert dry == replace(load(db, *lines, skip_bad=True), dry_run=True)
    assert refused(db, HEADER, "bad", feed="other", dry_run=True) == [(2, "22P04")]


def test_loads_inside_a_transaction_of_the_caller(connect: Callable[..., Conn]) -> None:
    conn = connect(autocommit=False)
    load(conn, HEADER, GOOD)  # finds no transaction and commits its own
    conn.execute("select")
    load(conn, HEADER, f"AAPL,{T},1,1,1,1,")
    with pytest.raises(feed.FeedError):
        load(conn, HEADER, "bad")
    assert len(bars(conn)) == 2
    conn.rollback()
    assert len(bars(conn)) == 1


def test_two_loads_of_one_feed_at_once_store_it_once(connect: Callable[..., Conn]) -> None:
    one, two, watcher = connect(), connect(), connect()
    reports: list[feed.LoadReport] = []
    with one.transaction():
        reports.append(load(one, HEADER, GOOD))
        thread = threading.Thread(target=lambda: reports.append(load(two, HEADER, GOOD)))
        thread.start()
        blocked = "select cardinality(pg_blocking_pids(%s))"
        deadline = time.monotonic() + 30
        while watcher.execute(blocked, [two.info.backend_pid]).fetchone() == (0,):
            assert time.monotonic() < deadline
    thread.join(30)
    assert [(r.rows, r.unchanged) for r in reports] == [(1, 0), (0, 1)]


def test_new_symbols_become_instruments_and_known_ones_stay(tx: Conn) -> None:
    tx.execute("insert into instrument (symbol, quantity_step) values ('AAPL', 1)")
    load(tx, HEADER, GOOD, f"NEW,{T},1,1,1,1,")
    rows = tx.execute('select symbol, quantity_step from instrument order by symbol collate "C"').fetchall()
    assert rows == [("AAPL", 1), ("NEW", Decimal("0.000001"))]


# --- sources ----------------------------------------------------------------------------------------------------------


def test_path_gzip_stdin_and_text_streams(db: Conn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = f"{HEADER}\n{GOOD}\n".encode()
    plain, packed = tmp_path / "a.csv", tmp_path / "a.csv.gz"
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    text = io.StringIO(f"{HEADER}\r\n{GOOD}\r\n")
    for number, source in enumerate((plain, str(packed), "-", io.BytesIO(gzip.compress(data)), text)):
        assert feed.load_csv(db, source, feed=f"f{number}").rows == 1
    assert not sys.stdin.buffer.closed
    assert not text.closed


def test_an_unreadable_source_is_an_error_and_not_a_trace(tx: Conn, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        feed.load_csv(tx, tmp_path / "none.csv", feed="f")
    with pytest.raises(UsageError, match="directory"):
        feed.load_csv(tx, tmp_path, feed="f")
    whole = gzip.compress(f"{HEADER}\n{GOOD}\n".encode() * 1000)
    for damaged in (whole[:-20], whole[:10] + b"\xff" * 50 + whole[60:], whole[:-8] + b"\0" * 8, b"\x1f\x8bxx"):
        with pytest.raises(PapertickError):
            load_bytes(tx, damaged)
    assert stored(tx)[0] == 0


def test_memory_stays_constant(db: Conn) -> None:
    class Lines(io.RawIOBase):
        """40,000 bars that are never all there at once."""

        rest = f"{HEADER}\n".encode()
        chunks: Iterator[bytes] = iter(())

        def __init__(self) -> None:
            start = datetime(2024, 1, 1, tzinfo=UTC)
            self.chunks = (
                f"{s}{i},{start + timedelta(seconds=s):%Y-%m-%dT%H:%M:%SZ},10.5,12.25,9.75,11,100\n".encode()
                for s in range(400)
                for i in range(100)
            )

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self.rest = self.rest or next(self.chunks, b"")
            size = min(len(buffer), len(self.rest))
            buffer[:size], self.rest = self.rest[:size], self.rest[size:]
            return size

    seen: list[int] = []
    tracemalloc.start()
    try:
        report = feed.load_csv(db, Lines(), feed="f", dry_run=True, progress=seen.append)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.rows == 40_000
    assert seen == sorted(seen)
    assert seen[-1] == 40_000
    assert peak < 2 << 20


# --- calendars --------------------------------------------------------------------------------------------------------

SESSIONS = [
    "session_date,open_at,close_at",
    "2024-01-02,2024-01-02T14:30:00Z,2024-01-02T21:00:00Z",
    "2024-01-03,2024-01-03T09:30:00-05:00,2024-01-03T13:00:00-05:00",
]


def load_sessions(conn: Conn, *lines: str, **options: Any) -> feed.LoadReport:
    data = ("\n".join(lines) + "\n").encode()
    return feed.load_sessions(conn, io.BytesIO(data), **{"calendar": "C", "time_zone": "America/New_York", **options})


def test_sessions_load_in_any_order_and_again(db: Conn) -> None:
    first = load_sessions(db, SESSIONS[0], SESSIONS[2], SESSIONS[1])
    second = load_sessions(db, *SESSIONS, time_zone=None)
    assert (first.rows, second.rows, second.unchanged) == (2, 0, 2)
    assert db.execute("select time_zone from calendar where calendar = 'C'").fetchone() == ("America/New_York",)
    rows = db.execute("select session_date::text, close_at from market_session order by 1").fetchall()
    assert rows == [
        ("2024-01-02", datetime(2024, 1, 2, 21, tzinfo=UTC)),
        ("2024-01-03", datetime(2024, 1, 3, 18, tzinfo=UTC)),
    ]
    third = load_sessions(db, *SESSIONS, "2024-01-04,2024-01-03T18:00:00Z,2024-01-04T21:00:00Z")
    assert (third.rows, third.unchanged) == (1, 2)  # sessions may touch


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("2024-01-04,2024-01-04T14:30:00,2024-01-04T21:00:00Z", "22007"),  # naive
        ("2024-01-04,2024-01-04,2024-01-04T21:00:00Z", "22007"),
        ("04.01.2024,2024-01-04T14:30:00Z,2024-01-04T21:00:00Z", "22007"),
        ("2024-02-30,2024-01-04T14:30:00Z,2024-01-04T21:00:00Z", "22008"),
        ("2024-01-04,2024-01-04T14:30:00Z,2024-01-04T25:00:00Z", "22008"),
        ("1899-01-04,1899-01-04T14:30:00Z,1899-01-04T21:00:00Z", "22008"),
        ("2024-01-04,2024-01-04T21:00:00Z,2024-01-04T14:30:00Z", "23514"),
        ("2024-01-04,2024-01-04T21:00:00Z,2024-01-04T21:00:00Z", "23514"),
        (SESSIONS[1], "23505"),
        ("2024-01-02,2024-01-02T14:30:00Z,2024-01-02T20:00:00Z", "23505"),
        ("2024-01-04,2024-01-03T17:59:59Z,2024-01-04T21:00:00Z", "23P01"),
        ("2024-01-01,2024-01-01T14:30:00Z,2024-01-02T15:00:00Z", "23P01"),
        ("2024-01-04,2023-01-04T14:30:00Z,2023-01-04T21:00:00Z", "23514"),  # another year
        ("2024-01-05,2024-01-04T15:00:00Z,2024-01-05T04:59:59Z", "23514"),  # New York has the 4th all the time
        ("2024-01-04,2024-01-04T14:30:00Z", "22P04"),
    ],
)
def test_a_bad_session_names_its_line_and_refuses_the_file(tx: Conn, line: str, code: str) -> None:
    before = stored(tx)
    with pytest.raises(feed.FeedError) as caught:
        load_sessions(tx, *SESSIONS, line)
    assert stored(tx) == before
    assert (4, code) in [(p.line, p.code) for p in caught.value.report.skipped]
    if line != SESSIONS[1]:  # the same against sessions stored before
        load_sessions(tx, *SESSIONS)
        with pytest.raises(feed.FeedError) as caught:
            load_sessions(tx, SESSIONS[0], line)
        assert [(p.line, p.code) for p in caught.value.report.skipped] == [(2, code)]


def test_a_calendar_keeps_its_zone_and_always_has_no_rows(tx: Conn) -> None:
    load_sessions(tx, *SESSIONS)
    with pytest.raises(InvalidError, match="time zone America/New_York, not UTC"):
        load_sessions(tx, *SESSIONS, time_zone="UTC")
    with pytest.raises(InvalidError, match="ALWAYS"):
        load_sessions(tx, *SESSIONS, calendar="ALWAYS")
    with pytest.raises(PapertickError):
        load_sessions(tx, *SESSIONS, calendar="D", time_zone="Mars/Olympus")
    load_sessions(tx, *SESSIONS[:2], calendar="E", time_zone=None)
    assert tx.execute("select time_zone from calendar where calendar = 'E'").fetchone() == ("UTC",)


@pytest.mark.parametrize("zero", ["Z", "+00:00", "-00:00"])
def test_a_new_calendar_needs_a_zone_unless_its_times_are_in_utc(tx: Conn, zero: str) -> None:
    utc = SESSIONS[1].replace("Z", zero)
    before = stored(tx)
    with pytest.raises(InvalidError) as caught:
        load_sessions(tx, SESSIONS[0], utc, SESSIONS[2], time_zone=None)
    assert (caught.value.code, "--time-zone" in (caught.value.hint or "")) == ("TE101", True)
    assert stored(tx) == before
    assert load_sessions(tx, SESSIONS[0], utc, time_zone=None).rows == 1
    assert load_sessions(tx, *SESSIONS, time_zone=None).rows == 1  # not new any more
    assert load_sessions(tx, *SESSIONS, calendar="D").rows == 2


def test_a_session_may_open_on_the_day_before_its_date_or_close_on_the_day_after(tx: Conn) -> None:
    lines = (
        "2024-01-02,2024-01-01T18:00:00-05:00,2024-01-02T17:00:00-05:00",
        "2024-01-03,2024-01-03T09:00:00-05:00,2024-01-04T00:00:00-05:00",
    )
    assert load_sessions(tx, SESSIONS[0], *lines).rows == 2


# --- the bundled data -------------------------------------------------------------------------------------------------


def test_bundled_data_is_complete_and_every_bar_closes_its_session(db: Conn) -> None:
    report = feed.load_bundled(db)
    assert (report.rows, report.symbols, report.skipped_count) == (12_154, 5, 0)
    assert db.execute("select symbol, count(*) from price_bar group by 1 order by 1").fetchall() == [
        ("AAPL", 3270),
        ("FB", 196),
        ("GOOG", 2148),
        ("IBM", 3270),
        ("MSFT", 3270),
    ]
    assert report.first == datetime(2000, 3, 1, 21, tzinfo=UTC)
    assert report.last == datetime(2013, 3, 1, 21, tzinfo=UTC)
    bundled = feed.list_feeds(db)[0]
    assert bundled == feed.FeedInfo("bundled", "XNYS", False, 5, 12_154, report.first, report.last)
    assert db.execute(
        "select count(*) from price_bar b where not exists (select from market_session m"
        " where m.calendar = 'XNYS' and m.close_at = b.logical_time)"
    ).fetchone() == (0,)
    assert db.execute(
        "select count(*), min(session_date)::text, max(session_date)::text from market_session"
    ).fetchone() == (
        6790,
        "2000-01-03",
        "2026-12-31",
    )
    again = feed.load_bundled(db)
    assert (again.rows, again.unchanged) == (0, 12_154)


def test_bundled_bars_tick_at_16_00_in_new_york_and_13_00_on_half_days(db: Conn) -> None:
    feed.load_bundled(db)
    times = [t for (t,) in db.execute("select distinct logical_time from price_bar")]
    local = [t.astimezone(ZoneInfo("America/New_York")).strftime("%H:%M") for t in times]
    assert (local.count("16:00"), local.count("13:00"), len(local)) == (3241, 29, 3270)
    close = {t.astimezone(UTC).date().isoformat(): t.astimezone(UTC).hour for t in times}
    assert (close["2012-07-02"], close["2012-07-03"], close["2012-12-03"], close["2012-12-24"]) == (20, 17, 21, 18)


# --- any bars ---------------------------------------------------------------------------------------------------------

_units = st.integers(1, 10**20 - 1)  # of 1e-8
_PRINTABLE = st.characters(exclude_categories=("C", "Z"), include_characters=" ")


@st.composite
def bar(draw: st.DrawFn) -> tuple[Any, ...]:
    low, first, second, high = (Decimal(n).scaleb(-8) for n in sorted(draw(st.lists(_units, min_size=4, max_size=4))))
    opening, closing = (first, second) if draw(st.booleans()) else (second, first)
    moment = draw(
        st.datetimes(datetime(1900, 1, 3), datetime(2299, 12, 29)),
    ).replace(tzinfo=timezone(timedelta(minutes=draw(st.integers(-14 * 60, 14 * 60)))))
    if moment.hour == moment.minute == moment.second == 0:  # nothing but midnights would be taken for dates
        moment += timedelta(seconds=1)
    symbol = draw(st.text(_PRINTABLE, min_size=1, max_size=64).map(str.strip).filter(len))
    volume = draw(st.none() | st.integers(0, 10**24 - 1).map(lambda n: Decimal(n).scaleb(-4)))
    return symbol, moment, opening, high, low, closing, volume


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(bar(), max_size=12, unique_by=lambda b: b[:2]), data=st.data())
def test_any_bars_written_as_csv_come_back_equal(tx: Conn, rows: list[tuple[Any, ...]], data: st.DataObject) -> None:
    def cell(value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, datetime):
            return value.isoformat(sep=data.draw(st.sampled_from("T ")))
        if isinstance(value, Decimal):
            return data.draw(st.sampled_from([f"{value:f}", f"{value:e}", str(value)]))
        return '"' + value.replace('"', '""') + '"' if data.draw(st.booleans()) or set(value) & set('",') else value

    with tx.transaction(force_rollback=True):
        report = load(
            tx, HEADER, *(",".join(map(cell, row)) for row in rows), end=data.draw(st.sampled_from(["\n", "\r\n"]))
        )
        assert (report.rows, report.skipped_count) == (len(rows), 0)
        by_key = lambda b: (b[0].encode(), b[1])  # noqa: E731
        assert sorted(bars(tx), key=by_key) == sorted(rows, key=by_key)
        assert load(tx, HEADER, *(",".join(map(cell, row)) for row in rows)).unchanged == len(rows)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=200) | st.text(alphabet='",\n\r\\0123456789.eE+-:TZ \0NaN', max_size=200).map(str.encode)
)
def test_no_bytes_reach_the_server_unread(tx: Conn, data: bytes) -> None:
    """Whatever the file holds, it is stored or refused line by line: never an error of the server's own parser."""
    start = f"{HEADER}\n".encode()
    with tx.transaction(force_rollback=True):
        report = load_bytes(tx, start + data, skip_bad=True)
        assert report.read == report.rows + report.unchanged + report.skipped_count
