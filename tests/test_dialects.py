"""Files as their sources write them (tests/data_in): what becomes of each, and which line is refused for what."""

from __future__ import annotations

import gzip
import io
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine_py import feed, inputs
from engine_py.cli_loaded import _plan as plan_of
from engine_py.dialects import DIALECTS, by_name
from engine_py.dialects.base import Options
from engine_py.dialects.numbers import Style, shortest_single
from engine_py.dialects.times import interval_minutes, time_format
from engine_py.errors import InvalidError, UsageError

Conn = psycopg.Connection[Any]
DATA = Path(__file__).parent / "data_in"

SESSIONS = b"""session_date,open_at,close_at
2018-07-02,2018-07-02T09:15:00+05:30,2018-07-02T15:30:00+05:30
2024-01-02,2024-01-02T09:15:00+05:30,2024-01-02T15:30:00+05:30
2024-01-03,2024-01-03T09:15:00+05:30,2024-01-03T13:00:00+05:30
2024-01-04,2024-01-04T09:15:00+05:30,2024-01-04T15:30:00+05:30
2024-07-08,2024-07-08T09:15:00+05:30,2024-07-08T15:30:00+05:30
"""


@pytest.fixture
def tx(tx: Conn) -> Conn:
    """With its transaction open, and a calendar of India's in which 2024-01-03 is a half day."""
    feed.load_sessions(tx, io.BytesIO(SESSIONS), calendar="IN", time_zone="Asia/Kolkata")
    tx.execute("select")
    return tx


def load(conn: Conn, *sources: Any, to: str = "f", calendar: str | None = None, **said: Any) -> feed.LoadReport:
    """`sources`: names of files of data_in, or the text of one."""
    opened = [DATA / s if isinstance(s, str) and "\n" not in s else s for s in sources]
    opened = [io.BytesIO(s.encode()) if isinstance(s, str) else s for s in opened]
    loaded = {name: said.pop(name) for name in ("skip_bad", "dry_run", "strict") if name in said}
    return feed.load_files(conn, opened, feed=to, calendar=calendar, options=Options(**said), **loaded)


def bars(conn: Conn, name: str = "f") -> list[tuple[Any, ...]]:
    """symbol, time in UTC, open, high, low, close, volume; numbers as short text."""
    rows = conn.execute(
        """select symbol, to_char(logical_time at time zone 'UTC', 'YYYY-MM-DD HH24:MI'), trim_scale(open)::text,
                  trim_scale(high)::text, trim_scale(low)::text, trim_scale(close)::text, trim_scale(volume)::text
             from price_bar where feed = %s order by symbol collate "C", logical_time""",
        [name],
    )
    return rows.fetchall()


def refused(conn: Conn, *sources: Any, **said: Any) -> list[tuple[int, str]]:
    with pytest.raises(feed.FeedError) as caught:
        load(conn, *sources, **said)
    assert bars(conn, said.get("to", "f")) == []
    return [(p.line, p.code) for p in caught.value.report.skipped]


def hint_of(conn: Conn, text: str, **said: Any) -> str:
    with pytest.raises(feed.FeedError) as caught:
        load(conn, text, **said)
    return caught.value.hint or ""


# --- which it is ---


@pytest.mark.parametrize(
    ("file", "form", "prices"),
    [
        ("yahoo_ACME.csv", "yahoo", ""),
        ("yfinance_download.csv", "yahoo", ""),
        ("yfinance_history.csv", "yahoo", ""),
        ("yahoo_chart.json", "yahoo", ""),
        ("stooq_bulk.txt", "stooq", ""),
        ("stooq_acme.csv", "stooq", ""),
        ("nse_cm02JAN2024bhav.csv", "nse-bhavcopy", "raw"),
        ("nse_sec_bhavdata_full_03012024.csv", "nse-bhavcopy", "raw"),
        ("BhavCopy_NSE_CM_0_0_0_20240708_F_0000.csv", "nse-udiff", "raw"),
        ("BhavCopy_BSE_CM_0_0_0_20240708_F_0000.CSV", "bse-udiff", "raw"),
        ("EQ020124.CSV", "bse-bhavcopy", "raw"),
        ("EQ_ISINCODE_030124.CSV", "bse-bhavcopy", "raw"),
        ("NAVAll.txt", "amfi-nav", "raw"),
        ("amfi_history.txt", "amfi-nav", "raw"),
        ("kite_day.json", "kite", ""),
        ("kiteconnect_day.json", "kite", ""),
        ("bars.ndjson", "ndjson", "as said"),
    ],
)
def test_the_format_is_told_by_the_file_and_what_its_prices_are_by_the_format(
    tx: Conn, file: str, form: str, prices: str
) -> None:
    assert by_name(form).prices == prices
    if not prices:
        with pytest.raises(UsageError, match="does not say whether its prices are adjusted") as caught:
            load(tx, file, calendar="IN")
        assert "--adjusted or --raw" in (caught.value.hint or "")
        assert load(tx, file, adjusted=False).format == form
        return
    if prices == "raw":
        with pytest.raises(UsageError, match="are raw"):
            load(tx, file, to="adjusted", adjusted=True)
        load(tx, "bars.ndjson", to="of-adjusted", adjusted=True)
        with pytest.raises(InvalidError, match="is of adjusted prices"):
            load(tx, file, to="of-adjusted")
    report = load(tx, file)
    assert (report.format, report.skipped_count, report.rows > 0) == (form, 0, True)


def test_what_is_named_is_not_guessed(tx: Conn) -> None:
    assert refused(tx, "NAVAll.txt", format="nse-bhavcopy") == [(1, "42703")]
    assert refused(tx, "kite_day.json", format="yahoo", adjusted=False) == [(1, "42703")]
    with pytest.raises(UsageError, match="no format 'excel'"):
        load(tx, "bars.ndjson", format="excel")
    assert len({d.name for d in DIALECTS}) == len(DIALECTS)


def test_a_header_that_many_sources_write_needs_a_word_about_its_prices(tx: Conn) -> None:
    text = "Date,Open,High,Low,Close,Volume\n2024-01-02,1,2,1,2,3\n"
    with pytest.raises(UsageError, match="does not say whether") as caught:
        load(tx, text, symbol="A")
    assert caught.value.hint == "Say it: --adjusted or --raw."
    assert load(tx, text, symbol="A", adjusted=False).format == "generic"
    assert load(tx, text, symbol="B", format="generic").rows == 1
    assert load(tx, text, symbol="C", format="stooq", adjusted=False).format == "stooq"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("<!DOCTYPE html>\n<html></html>\n", "22P04"),
        ("No data\n", "22P04"),
        ("Brak danych\n", "22P04"),
        ('{"status":"error","message":"Incorrect api_key","data":{"candles":[]}}\n', "22032"),
        ('{"chart":{"result":null,"error":{"description":"No data found, symbol may be delisted"}}}\n', "22032"),
    ],
)
def test_an_answer_that_is_no_data_is_told(tx: Conn, text: str, code: str) -> None:
    assert refused(tx, text, symbol="A", adjusted=False) == [(1, code)]


def test_utf16_is_told_how_to_be_read(tx: Conn) -> None:
    with pytest.raises(feed.FeedError) as caught:
        load(tx, io.BytesIO("symbol,date\n".encode("utf-16")))
    assert (caught.value.code, "iconv" in (caught.value.hint or "")) == ("22021", True)


# --- Yahoo ---


def test_yahoo_raw_keeps_its_prices_and_says_how_far_the_adjusted_ones_are(tx: Conn) -> None:
    report = load(tx, "yahoo_ACME.csv", symbol="ACME", adjusted=False, calendar="XNYS")
    assert bars(tx) == [
        ("ACME", "2024-01-02 21:00", "100", "104", "99.5", "102", "1200300"),
        ("ACME", "2024-01-03 21:00", "102.5", "103.25", "100", "101", "0"),  # a volume of 0 stays
        ("ACME", "2024-01-05 21:00", "101.5", "106.125", "101.5", "106", "1850000"),
    ]
    assert (report.left_out, report.factors) == ({"no price": 1}, (Decimal("0.5"), Decimal("0.5")))


def test_yahoo_adjusted_takes_all_prices_to_the_level_of_the_adjusted_close(tx: Conn) -> None:
    report = load(tx, "yahoo_ACME.csv", symbol="ACME", adjusted=True, calendar="XNYS")
    assert bars(tx)[0] == ("ACME", "2024-01-02 21:00", "50", "52", "49.75", "51", "1200300")
    assert report.factors == (Decimal("0.5"), Decimal("0.5"))
    assert tx.execute("select adjusted from feed where feed = 'f'").fetchone() == (True,)
    lines = "Date,Open,High,Low,Close,Adj Close,Volume\n2024-01-02,3,3,1,3,0.333333333,1\n2024-01-03,1,1,1,1,0,1\n"
    assert refused(tx, lines, to="g", symbol="A", adjusted=True) == [(3, "23514")]
    lines = lines.replace(",0,1\n", ",null,1\n")
    assert refused(tx, lines, to="g", symbol="A", adjusted=True) == [(3, "22P02")]
    load(tx, lines.replace("null", "1"), to="g", symbol="A", adjusted=True)
    assert bars(tx, "g")[0][2:6] == ("0.33333333", "0.33333333", "0.11111111", "0.33333333")


def test_adjusted_takes_plain_csv_to_its_adjusted_close_too(tx: Conn) -> None:
    text = "symbol,date,open,high,low,close,adj_close\nA,2024-01-02,4,8,2,4,1\n"
    load(tx, text, adjusted=True)
    assert bars(tx)[0][2:6] == ("1", "2", "0.5", "1")
    load(tx, text, to="raw", adjusted=False)
    assert bars(tx, "raw")[0][2:6] == ("4", "8", "2", "4")
    for said in ({}, {"names": {"close": "close"}}):
        with pytest.raises(UsageError) as unsaid:
            load(tx, text, to="unsaid", **said)
        assert "--adjusted" in (unsaid.value.hint or "")
        assert load(tx, text.replace("adj_close", "x"), to=f"other {len(said)}", **said).rows == 1
    load(tx, text, to="not read", names={"adj_close": ""})
    assert refused(tx, text.replace(",1\n", ",\n"), to="g", adjusted=True) == [(2, "22P02")]


def test_yfinance_with_three_header_lines(tx: Conn) -> None:
    report = load(tx, "yfinance_download.csv", adjusted=True)
    assert bars(tx) == [
        ("ACME", "2024-01-03 00:00", "10", "11", "9.75", "10.5", "1200"),
        ("ACME", "2024-01-04 00:00", "10.5", "10.75", "10", "10.25", "0"),
        ("ZORG.NS", "2024-01-04 00:00", "249", "251", "248.5", "250.1", "99000"),
    ]
    assert (report.read, report.left_out) == (3, {"no price": 1})
    text = (DATA / "yfinance_download.csv").read_text()
    with pytest.raises(feed.FeedError, match="bad line"):
        load(tx, text, symbol="ONE", adjusted=True, to="g")
    bad = text.replace("10.25,250.1", "99,250.1") + "2024-01-04,1,1\n"
    assert refused(tx, bad, adjusted=True, to="g") == [(5, "23514"), (6, "22P04")]
    # the other ticker of the bad line is stored
    assert load(tx, bad, adjusted=True, to="g", skip_bad=True).rows == 2
    assert [bar[0] for bar in bars(tx, "g")] == ["ACME", "ZORG.NS"]
    # stored bars of a line and a new one of the same line
    load(tx, text.replace("250.1,", ",").replace("251.0,", ",").replace("248.5,", ",").replace("249.0,", ","), to="h", adjusted=True)  # fmt: skip
    again = load(tx, text, to="h", adjusted=True)
    assert (again.rows, again.unchanged) == (1, 2)
    # what is wrong with one ticker takes none of another line with it
    head = "".join(text.splitlines(keepends=True)[:3])
    both = head + "2024-01-02,1,1,1,1,1,1,1,1,0,0\n2024-01-03,9,1,1,1,1,1,1,1,0,0\n"
    report = load(tx, both, to="i", adjusted=True, skip_bad=True)
    assert ([(p.line, p.code) for p in report.skipped], report.rows, len(bars(tx, "i"))) == ([(5, "23514")], 3, 3)


def test_yfinance_dates_are_midnights_with_an_offset(tx: Conn) -> None:
    load(tx, "yfinance_history.csv", symbol="ACME", adjusted=True, calendar="XNYS")
    assert [bar[1] for bar in bars(tx)] == ["2024-01-02 21:00", "2024-01-03 21:00", "2024-01-04 21:00"]
    text = "Datetime,Open,High,Low,Close,Adj Close,Volume\n2024-01-02 09:30:00-05:00,1,1,1,1,1,1\n"
    assert refused(tx, text, symbol="A", adjusted=False, to="g") == [(1, "22007")]
    load(tx, text, symbol="A", adjusted=False, to="g", interval=5)
    assert bars(tx, "g")[0][1] == "2024-01-02 14:35"


def test_yahoo_chart_json(tx: Conn) -> None:
    report = load(tx, "yahoo_chart.json", adjusted=True, calendar="XNYS")
    assert bars(tx) == [
        ("ACME", "2024-01-02 21:00", "50", "52", "49.75", "51", "1200300"),
        ("ACME", "2024-01-04 21:00", "50.75", "53.0625", "50.75", "53", "1850000"),
    ]
    assert report.left_out == {"no price": 1}
    minute = (DATA / "yahoo_chart.json").read_text().replace('"1d"', '"60m"')
    load(tx, minute.replace("1704378600", "1704401940"), adjusted=False, to="g", calendar="XNYS")
    # 09:30 and an hour; a last candle that is cut off by the close
    assert [bar[1] for bar in bars(tx, "g")] == ["2024-01-02 15:30", "2024-01-04 21:00"]


def test_the_bar_of_a_running_session_is_left_out_of_a_yahoo_chart(tx: Conn) -> None:
    def chart(traded: int, end: int = 1704402000, grain: str = "1d") -> str:
        """With a last bar of 4 January 2024, 14:00 in New York; the session is 1704378600 to 1704402000."""
        period = f'"currentTradingPeriod":{{"regular":{{"start":1704378600,"end":{end}}}}}'
        meta = f'"meta":{{"regularMarketTime":{traded},{period},'
        text = (DATA / "yahoo_chart.json").read_text().replace('"meta":{', meta).replace('"1d"', f'"{grain}"')
        return text.replace("1704292200,1704378600", "1704292200,1704394800")

    said = {"adjusted": False, "calendar": "XNYS"}
    report = load(tx, chart(1704394800), **said)
    assert ([bar[1] for bar in bars(tx)], report.left_out) == (["2024-01-02 21:00"], {"no price": 1, "unfinished": 1})
    assert load(tx, chart(1704394800, end=1704394800), **said, to="ended").rows == 2
    assert load(tx, chart(1704316000), **said, to="before").rows == 2  # the last trade was the day before
    assert load(tx, chart(1704394860, grain="5m"), **said, to="runs").left_out == {"no price": 1, "unfinished": 1}
    assert load(tx, chart(1704395100, grain="5m"), **said, to="ran").rows == 2


def test_weekly_bars_of_yahoo_are_no_daily_ones(tx: Conn) -> None:
    def rows(*days: str) -> str:
        head = "Date,Open,High,Low,Close,Adj Close,Volume\n"
        return head + "".join(f"{day},1,1,1,1,1,1\n" for day in days)

    weekly = rows("2024-01-29", "2024-01-08", "2024-01-22", "2024-02-05")
    assert refused(tx, weekly, symbol="A", adjusted=False, calendar="XNYS") == [(1, "22007")]
    assert refused(tx, weekly, symbol="A", adjusted=False) == [(1, "22007")]
    assert "daily" in hint_of(tx, weekly, symbol="A", adjusted=False)
    assert refused(tx, rows("2024-02-01", "2024-03-01", "2024-04-01"), symbol="A", adjusted=False) == [(1, "22007")]
    lines = (DATA / "yfinance_download.csv").read_text().splitlines(keepends=True)
    wide = "".join(lines[:3] + [day + lines[3][10:] for day in ("2024-01-08", "2024-01-15", "2024-01-22")])
    assert refused(tx, wide, adjusted=True) == [(1, "22007")]
    daily = rows("2024-01-16", "2024-01-12", "2024-01-08", "2024-01-22", "2024-01-18", "2024-02-22")
    assert load(tx, daily, symbol="A", adjusted=False, calendar="XNYS").rows == 6


# --- Stooq ---


def test_stooq_bulk(tx: Conn) -> None:
    report = load(tx, "stooq_bulk.txt", adjusted=True, calendar="XNYS")
    assert bars(tx) == [
        ("ACME.US", "2024-01-02 21:00", "10", "11", "9.75", "10.5", "1200.5"),
        ("ACME.US", "2024-01-03 21:00", "10.5", "10.75", "10", "10.25", "0"),
        ("ZORG.US", "2024-01-02 21:00", "0.0000123", "0.0000125", "0.000012", "0.0000124", "98765432109"),
    ]
    assert report.left_out == {"header repeated": 1}
    text = (DATA / "stooq_bulk.txt").read_text().replace("D,20240103", "5,20240103")
    assert refused(tx, text, to="g", adjusted=True) == [(3, "22007")]


def test_stooq_web_in_polish_takes_its_symbol_from_the_files_name(tx: Conn) -> None:
    load(tx, "stooq_acme.csv", adjusted=True)
    assert [bar[0] for bar in bars(tx)] == ["stooq_acme", "stooq_acme"]
    load(tx, "stooq_decimal_comma.csv", adjusted=True, decimal_comma=True, symbol="ACME", to="g")
    assert bars(tx, "g") == [("ACME", "2024-01-03 00:00", "10.5", "11.25", "9.75", "10.5", None)]
    assert refused(tx, "stooq_decimal_comma.csv", adjusted=True, symbol="ACME", to="h") == [(2, "22P02")]
    with pytest.raises(UsageError, match="names no symbol"):
        load(tx, (DATA / "stooq_acme.csv").read_text(), adjusted=True)


# --- India ---


def test_nse_bhavcopies_old_and_new_are_one_series(tx: Conn) -> None:
    files = (
        "nse_cm02JAN2024bhav.csv",
        "nse_sec_bhavdata_full_03012024.csv",
        "BhavCopy_NSE_CM_0_0_0_20240708_F_0000.csv",
    )
    report = load(tx, *files, calendar="IN")
    assert bars(tx) == [
        ("ACMEIND", "2024-01-02 10:00", "1500", "1532.5", "1490.1", "1525.35", "49077"),
        ("ACMEIND", "2024-01-03 07:30", "1526", "1540", "1520", "1537.7", "51137"),  # a half day's close
        ("ACMEIND", "2024-07-08 10:00", "1610", "1632.5", "1605.1", "1628.3", "81234"),
        ("M&M-ZORG", "2024-01-02 10:00", "36", "36.8", "35.25", "35.8", "49077"),
    ]
    assert (report.files, report.format) == (3, "nse-bhavcopy, nse-udiff")
    assert report.left_out == {"other series": 6, "price 0": 1, "no price": 1}
    assert load(tx, *files, to="all", series=frozenset({"BE"})).rows == 2
    with pytest.raises(feed.FeedError) as caught:  # a block deal beside the day's bar
        load(tx, *files, to="every", series=frozenset())
    problems = [(p.file.rsplit("/", 1)[-1], p.line, p.code, p.message) for p in caught.value.report.skipped]
    assert problems == [
        (files[0], 3, "23505", "repeats line 2 with other values"),
        (files[2], 3, "23505", "repeats line 2 with other values"),
    ]


@pytest.mark.parametrize("file", ["nse_cm02JAN2024bhav.csv", "BhavCopy_NSE_CM_0_0_0_20240708_F_0000.csv"])
def test_a_companys_bonds_are_not_its_share(tx: Conn, file: str) -> None:
    lines = (DATA / file).read_text().splitlines(keepends=True)
    assert ",EQ," in lines[1]

    def rows(*series: str) -> str:
        return lines[0] + "".join(lines[1].replace(",EQ,", f",{name},") for name in series)

    report = load(tx, rows("EQ", "N1", "W1"), series=frozenset())
    assert (report.rows, [bar[0] for bar in bars(tx)]) == (3, ["ACMEIND", "ACMEIND.N1", "ACMEIND.W1"])
    assert load(tx, rows("N1"), series=frozenset({"N1"}), to="alone", only=frozenset({"ACMEIND.N1"})).rows == 1
    load(tx, rows("BE"), series=frozenset({"EQ", "BE"}), to="share")  # the same share, under surveillance
    assert [bar[0] for bar in bars(tx, "share")] == ["ACMEIND"]
    load(tx, rows("N1"), series=frozenset(), names={"symbol": "ISIN"}, to="isin")
    assert "." not in bars(tx, "isin")[0][0]


def test_shares_of_a_bhavcopy_trade_in_whole_units(tx: Conn) -> None:
    tx.execute("insert into instrument (symbol, quantity_step) values ('M&M-ZORG', 0.01)")
    load(tx, "nse_cm02JAN2024bhav.csv", "BhavCopy_NSE_CM_0_0_0_20240708_F_0000.csv", calendar="IN")
    load(tx, "EQ020124.CSV", to="bse", calendar="IN")
    load(tx, "BhavCopy_BSE_CM_0_0_0_20240708_F_0000.CSV", to="bse", calendar="IN")
    load(tx, "NAVAll.txt", to="funds")
    load(tx, HEAD + "OTHER,2024-01-02,1,1,1,1,1\n", to="other")
    steps = dict(tx.execute("select symbol, trim_scale(quantity_step)::text from instrument").fetchall())
    assert (steps["ACMEIND"], steps["590001"], steps["590077"]) == ("1", "1", "1")
    assert steps["M&M-ZORG"] == "0.01"  # as it was
    assert {steps["900001"], steps["OTHER"]} == {"0.000001"}


def test_a_load_names_its_symbols(tx: Conn) -> None:
    rows = "".join(f"S{n},2024-01-02,1,1,1,1,1\n" for n in range(7, 0, -1))
    report = load(tx, HEAD + rows)
    assert (report.symbols, report.first_symbols) == (7, ["S1", "S2", "S3", "S4", "S5"])
    assert "7 symbols: S1, S2, S3, S4, S5 and 2 more" in plan_of(report)
    assert not any("S1" in line for line in plan_of(load(tx, HEAD + rows)))  # nothing new
    assert "1 symbol: S9" in plan_of(load(tx, HEAD + "S9,2024-01-02,1,1,1,1,1\n"))


def test_a_bhavcopy_row_that_is_wrong_names_its_file_and_line(tx: Conn) -> None:
    good = (DATA / "nse_cm02JAN2024bhav.csv").read_text()
    bad = good.replace("1500,1532.5,1490.1", "1500,1490.1,1532.5").replace("36,36.8,", "36,thirty,")
    bad = bad.replace("02-JAN-2024,370", "2024-01-02,370")
    found = refused(tx, bad, calendar="IN")
    assert found == [(2, "23514"), (4, "22007")]
    with pytest.raises(feed.FeedError) as caught:
        load(tx, bad, calendar="IN")
    assert "open 1500, high 1490.1, low 1532.5, close 1525.35" in caught.value.report.skipped[0].message
    assert refused(tx, good.replace("02-JAN-2024", "06-JAN-2024"), calendar="IN") == [(2, "22008"), (4, "22008")]


def test_udiff_takes_the_cash_market_of_one_exchange(tx: Conn) -> None:
    name = "BhavCopy_NSE_CM_0_0_0_20240708_F_0000.csv"
    text = (DATA / name).read_text()
    assert load(tx, text.replace(",CM,", ",FO,")).left_out == {"other segment": 3}
    lines = text.splitlines()
    assert refused(tx, "\n".join([*lines, lines[1].replace(",NSE,", ",BSE,")]) + "\n", to="g") == [(5, "22P02")]
    load(tx, name, to="isin", names={"symbol": "ISIN"})
    assert [bar[0] for bar in bars(tx, "isin")] == ["INE000X01010"]


def test_bse_goes_by_scrip_code_and_finds_its_date(tx: Conn) -> None:
    files = ("EQ020124.CSV", "EQ_ISINCODE_030124.CSV", "BhavCopy_BSE_CM_0_0_0_20240708_F_0000.CSV")
    report = load(tx, *files, calendar="IN")
    assert bars(tx) == [
        ("590001", "2024-01-02 10:00", "1500", "1532", "1490", "1525", "4344"),
        ("590001", "2024-01-03 07:30", "1526", "1540", "1520", "1537", "4100"),
        ("590001", "2024-07-08 10:00", "1611", "1632", "1604.95", "1628.05", "4344"),
        ("590077", "2024-01-02 10:00", "36", "36.8", "35.25", "35.8", "900"),
    ]
    assert report.left_out == {"no equity": 1, "other series": 1}
    text = (DATA / files[0]).read_text()
    assert refused(tx, text, to="g") == [(1, "22007")]
    assert "--date" in hint_of(tx, text, to="g")
    assert load(tx, text, to="g", date="2024-01-04").rows == 2
    assert load(tx, text, to="groups", date="2024-01-04", series=frozenset({"F"})).rows == 1
    assert refused(tx, (DATA / files[1]).read_text(), to="h", date="2024-01-04") == [(2, "22007")]


def test_amfi_navs(tx: Conn) -> None:
    report = load(tx, "NAVAll.txt", calendar="IN")
    assert bars(tx) == [
        ("900001", "2024-01-02 10:00", "58.4321", "58.4321", "58.4321", "58.4321", None),
        ("900002", "2024-01-02 10:00", "1002.81", "1002.81", "1002.81", "1002.81", None),
    ]
    assert report.left_out == {"heading": 4, "price 0": 1, "no price": 1, "no session on its date": 1}
    again = load(tx, "amfi_history.txt")
    assert (again.rows, again.unchanged) == (1, 1)  # another layout, the same NAV
    assert load(tx, "NAVAll.txt", to="always").rows == 3  # where every day is a session
    load(tx, "NAVAll.txt", to="isin", calendar="IN", names={"symbol": "ISIN Div Payout/ ISIN Growth"})
    assert [bar[0] for bar in bars(tx, "isin")] == ["INF000X01AA1", "INF000X01AB9"]
    assert load(tx, "NAVAll.txt", to="one", only=frozenset({"900002"})).symbols == 1
    text = (DATA / "NAVAll.txt").read_text()
    assert refused(tx, text.replace("58.4321;02-Jan", "58.4321;extra;02-Jan"), to="g") == [(7, "22P04")]
    assert refused(tx, text.replace("58.4321", "-58.4321"), to="g") == [(7, "23514")]
    assert refused(tx, text.replace("58.4321;02-Jan-2024", "58.4321;02-01-2024"), to="g") == [(7, "22007")]


def test_kite_candles_close_an_interval_after_they_open(tx: Conn) -> None:
    assert refused(tx, "kite_5minute.json", symbol="A", adjusted=False) == [(1, "22007")]
    load(tx, "kite_5minute.json", symbol="A", adjusted=False, interval=5, calendar="IN")
    assert [(bar[1], bar[2], bar[6]) for bar in bars(tx)] == [
        ("2024-01-02 03:50", "1704.5", "2499"),
        ("2024-01-02 03:55", "1702", "1271"),
        ("2024-01-02 10:00", "1698.15", "0"),
    ]
    load(tx, "kite_5minute.json", symbol="A", adjusted=False, interval=60, calendar="IN", to="hours")
    assert [bar[1] for bar in bars(tx, "hours")] == ["2024-01-02 04:45", "2024-01-02 04:50", "2024-01-02 10:00"]
    load(tx, "kite_day.json", "kiteconnect_day.json", symbol="A", adjusted=False, calendar="IN", to="days")
    assert [bar[1] for bar in bars(tx, "days")] == ["2024-01-02 10:00", "2024-01-03 07:30"]
    broken = '{"data":{"candles":[["2024-01-02T00:00:00+0530",1,2],["2024-01-03T00:00:00+0530",1,2,1,NaN,1]]}}\n'
    assert refused(tx, broken, symbol="A", adjusted=False, to="g") == [(1, "22P04"), (2, "22P02")]


def test_ndjson(tx: Conn) -> None:
    load(tx, "bars.ndjson", calendar="XNYS")
    assert bars(tx) == [
        ("ACME", "2024-01-02 21:00", "10", "11", "9.75", "10.5", None),
        ("ZORG", "2024-01-02 21:00", "0.1", "0.1", "0.1", "0.1", None),
    ]
    bad = '{"symbol": "A", "date": "2024-01-02", "price": 1}\n{"symbol": "A"}\n{\n{"symbol": "A", "time": 1, "price": 1}\n'
    assert refused(tx, bad, to="g") == [(2, "23502"), (3, "22032"), (4, "22007")]
    assert refused(tx, bad, to="g", symbol="B")[0] == (1, "42701")


# --- plain CSV of any kind ---


def test_map_dates_and_thousands(tx: Conn) -> None:
    said = {"names": {"close": "Price", "volume": ""}, "thousands": "comma", "symbol": "A"}
    dates = time_format("mm/dd/yyyy")
    load(tx, "generic_with_map.csv", **said, date_format=dates)
    assert bars(tx) == [
        ("A", "2024-01-03 00:00", "1000", "1021", "999.5", "1020.1", None),
        ("A", "2024-01-04 00:00", "1020", "1030.25", "1015", "1025.5", None),
    ]
    assert refused(tx, "generic_with_map.csv", **said, to="g") == [(2, "22007"), (3, "22007")]
    assert refused(tx, "generic_with_map.csv", **{**said, "thousands": None}, date_format=dates, to="g")[0] == (
        2,
        "22P02",
    )
    assert refused(tx, "generic_with_map.csv", **{**said, "names": {"close": "Last"}}, to="g") == [(1, "42703")]
    comma = {name: theirs for name, theirs in zip(
        ("time", "open", "high", "low", "close", "volume"),
        ("Datum", "Eroeffnung", "Hoch", "Tief", "Schluss", "Stueck"), strict=True)}  # fmt: skip
    said = {"decimal_comma": True, "thousands": "dot", "delimiter": ";", "date_format": time_format("%d.%m.%Y")}
    load(tx, "generic_decimal_comma.csv", names=comma, **said, to="h")
    assert bars(tx, "h") == [("ACME", "2024-01-03 00:00", "1000.5", "1010", "999.75", "1002.25", "12000")]


def test_the_exchanges_web_site_groups_digits_as_india_does(tx: Conn) -> None:
    said = {"date_format": time_format("dd-mmm-yyyy"), "thousands": "comma", "symbol": "ACMEIND", "calendar": "IN"}
    load(tx, "nse_website.csv", **said)
    assert bars(tx) == [("ACMEIND", "2024-01-03 07:30", "1526", "1540", "1520", "1537.7", "123456")]


HEAD = "symbol,date,open,high,low,close,volume\n"


@pytest.mark.parametrize(
    ("when", "hint"),
    [
        ("03/01/2024", "dd/mm/yyyy or mm/dd/yyyy"),
        ("13/01/2024", "dd/mm/yyyy?"),
        ("01/13/2024", "mm/dd/yyyy?"),
        ("03-01-2024", "dd-mm-yyyy or mm-dd-yyyy"),
        ("03-JAN-2024", "dd-mmm-yyyy?"),
        ("45293", "spreadsheet"),
        ("45293.5", "spreadsheet"),
        ("1704204000", "--date-format epoch."),
        ("1704204000000", "epoch-ms"),
        ("20240102", "yyyymmdd"),
        ("2024-01-02 09:15:00", "--time-zone"),
    ],
)
def test_a_date_is_never_guessed_but_the_option_is_named(tx: Conn, when: str, hint: str) -> None:
    text = HEAD + f"A,{when},1,1,1,1,1\n"
    assert refused(tx, text) == [(2, "22007")]
    assert hint in hint_of(tx, text)
    assert hint in hint_of(tx, text, names={"close": "close"})  # the same by the slow way


@pytest.mark.parametrize("said", [{}, {"names": {"close": "close"}}])
def test_a_date_unlike_the_others_needs_no_format(tx: Conn, said: dict[str, Any]) -> None:
    text = HEAD + "A,2024-01-02,1,1,1,1,1\nA,01/13/2024,1,1,1,1,1\nA,2024-01-04,1,1,1,1,1\n"
    assert refused(tx, text, **said) == [(3, "22007")]
    assert "--date-format" not in hint_of(tx, text, **said)
    assert "unlike" in hint_of(tx, text, **said)


@pytest.mark.parametrize(("delimiter", "shown"), [(";", "--delimiter ';'"), ("\t", "--delimiter tab"), ("|", "'|'")])
def test_what_parts_the_fields_is_named(tx: Conn, delimiter: str, shown: str) -> None:
    text = HEAD.replace(",", delimiter) + "A,2024-01-02,1,1,1,1,1\n".replace(",", delimiter)
    assert shown in hint_of(tx, text)
    assert shown in hint_of(tx, text, decimal_comma=True)
    assert load(tx, text, delimiter=delimiter).rows == 1


def test_a_date_that_there_is_not_is_shown_as_its_file_has_it(tx: Conn) -> None:
    text = (DATA / "NAVAll.txt").read_text().replace("58.4321;02-Jan-2024", "58.4321;32-Jan-2024")
    for calendar in ("ALWAYS", "IN"):
        assert refused(tx, text, calendar=calendar, to=calendar) == [(7, "22008")]
        with pytest.raises(feed.FeedError, match="there is no such date: 32-Jan-2024"):
            load(tx, text, calendar=calendar, to=calendar)
    assert refused(tx, HEAD + "A,2024-01-32,1,1,1,1,1\n", calendar="IN", to="g") == [(2, "22008")]
    with pytest.raises(feed.FeedError, match="there is no such date: 2024-01-32"):
        load(tx, HEAD + "A,2024-01-32,1,1,1,1,1\n", calendar="IN", to="g")


def test_times_without_an_offset_take_a_clock_and_those_of_opens_an_interval(tx: Conn) -> None:
    text = HEAD + "A,2024-03-10 09:15,1,1,1,1,1\nA,2024-03-10 01:30,1,1,1,1,1\n"
    load(tx, text, time_zone="America/New_York", interval=15)
    assert [bar[1] for bar in bars(tx)] == ["2024-03-10 06:45", "2024-03-10 13:30"]
    gone = HEAD + "A,2024-03-10 02:30,1,1,1,1,1\nA,2024-11-03 01:30,1,1,1,1,1\n"
    assert refused(tx, gone, time_zone="America/New_York", to="g") == [(2, "22008"), (3, "22008")]
    with pytest.raises(UsageError, match="no time zone"):
        load(tx, text, time_zone="Mars/Olympus", to="g")
    load(tx, HEAD + "A,1704204000000,1,1,1,1,1\n", date_format=time_format("epoch-ms"), interval=1, to="ms")
    assert bars(tx, "ms")[0][1] == "2024-01-02 14:01"
    assert refused(tx, HEAD + "A,2024-01-02,1,1,1,1,1\n", interval=5, to="g") == [(2, "22007")]
    load(tx, HEAD + "A,2024-01-02T18:30:00-05:00,1,1,1,1,1\n", interval=0, to="day", calendar="XNYS")
    assert bars(tx, "day")[0][1] == "2024-01-02 21:00"


def test_the_date_of_a_daily_bar_is_that_of_the_markets_clock(tx: Conn) -> None:
    """Midnights in India, which are 18:30 of the day before in UTC."""
    rows = HEAD + "A,1704133800,100,110,90,105,5\nA,1704220200,105,106,99,101,5\n"
    said = {"date_format": time_format("epoch"), "interval": 0}
    expected = ["2024-01-02 10:00", "2024-01-03 07:30"]
    load(tx, rows, **said, calendar="IN")
    assert [bar[1] for bar in bars(tx)] == expected
    text = HEAD + "A,2024-01-01T18:30:00Z,100,110,90,105,5\nA,2024-01-02T13:30:00-05:00,105,106,99,101,5\n"
    load(tx, text, interval=0, calendar="IN", to="offsets")
    assert [bar[1] for bar in bars(tx, "offsets")] == expected
    # nothing says whose midnights they are
    assert refused(tx, rows, **said, to="always") == [(2, "22007"), (3, "22007")]
    assert "--time-zone" in hint_of(tx, rows, **said, to="always")
    load(tx, rows, **said, to="always", time_zone="Asia/Kolkata")
    assert [bar[1] for bar in bars(tx, "always")] == ["2024-01-03 00:00", "2024-01-04 00:00"]
    load(tx, HEAD + "A,2024-01-02T00:00:00Z,1,1,1,1,5\n", interval=0, to="utc")
    assert [bar[1] for bar in bars(tx, "utc")] == ["2024-01-03 00:00"]
    # formats that know their market
    load(tx, "kite_day.json", symbol="A", adjusted=False, to="kite")
    load(tx, "yahoo_chart.json", adjusted=False, to="chart")
    assert (bars(tx, "kite")[0][1], bars(tx, "chart")[0][1]) == ("2024-01-03 00:00", "2024-01-03 00:00")


@pytest.mark.parametrize("slow", [{}, {"names": {"close": "close"}}])
def test_times_that_are_all_midnights_are_not_taken_for_closes(tx: Conn, slow: dict[str, Any]) -> None:
    def rows(*times: str) -> str:
        return HEAD + "".join(f"A,{when},1,1,1,1,5\n" for when in times)

    offsets = rows("2024-01-02 00:00:00-05:00", "2024-01-03 00:00:00-05:00")
    assert refused(tx, offsets, calendar="XNYS", **slow) == [(1, "22007")]
    assert refused(tx, offsets, **slow) == [(1, "22007")]  # under ALWAYS too
    assert refused(tx, offsets, skip_bad=True, **slow) == [(1, "22007")]
    assert "--interval day" in hint_of(tx, offsets, calendar="XNYS", **slow)
    assert refused(tx, rows("2024-01-02T05:00:00Z"), calendar="XNYS", **slow) == [(1, "22007")]  # New York's
    naive = rows("2024-01-02 00:00:00", "2024-07-03 00:00:00")
    assert refused(tx, naive, calendar="XNYS", time_zone="America/New_York", **slow) == [(1, "22007")]
    load(tx, offsets, calendar="XNYS", interval=0, to="dates", **slow)
    assert [bar[1] for bar in bars(tx, "dates")] == ["2024-01-02 21:00", "2024-01-03 21:00"]
    # the ends of UTC's days, and a midnight among other hours
    assert load(tx, rows("2024-01-02T00:00:00Z", "2024-01-03T00:00:00+00:00"), to="utc", **slow).rows == 2
    assert load(tx, rows("2024-01-02 00:00:00+05:30", "2024-01-02 01:00:00+05:30"), to="hours", **slow).rows == 2


def test_what_is_no_price_and_what_is_a_rounded_volume(tx: Conn) -> None:
    for prices in ("null,null,null,null", "NaN,NaN,NaN,NaN", "1,2,1,inf", "-1,2,-1,1", "1,2,1,", "1 2,3,1,1"):
        (problem,) = refused(tx, HEAD + f"A,2024-01-02,{prices},5\n")
        assert problem in [(2, "22P02"), (2, "23514")]
    assert "--map volume=" in hint_of(tx, HEAD + "A,2024-01-02,1,1,1,1,1.2M\n", names={"close": "close"})
    load(tx, HEAD + "A,2024-01-02,1e-7,1E2,.00000001,1.123456785,1.5e3\na b,2024-01-02,1,1,1,1,\n")
    assert bars(tx) == [
        ("A", "2024-01-03 00:00", "0.0000001", "100", "0.00000001", "1.12345679", "1500"),
        ("a b", "2024-01-03 00:00", "1", "1", "1", "1", None),
    ]


def test_files_put_end_to_end(tx: Conn) -> None:
    part = HEAD + "A,2024-01-02,1,1,1,1,\n"
    text = part + "\ufeff" + part.replace("\n", "\r\n") + part.replace("A,", "B,") + "Total,,,,,,\n"
    assert refused(tx, text) == [(7, "22007")]
    report = load(tx, text, skip_bad=True)
    assert (report.rows, report.unchanged, report.left_out) == (2, 1, {"header repeated": 2})
    slow = load(tx, text, skip_bad=True, names={"close": "close"}, to="g")
    assert (slow.rows, slow.unchanged, slow.left_out) == (2, 1, {"header repeated": 2})


def test_a_repeat_in_another_file_names_both(tx: Conn) -> None:
    one, two = HEAD + "A,2024-01-02,1,1,1,1,\n", HEAD + "B,2024-01-02,1,1,1,1,\nA,2024-01-02,1,2,1,1,\n"
    with pytest.raises(feed.FeedError) as caught:
        load(tx, one, one, two)
    assert [(p.line, p.code) for p in caught.value.report.skipped] == [(3, "23505")]
    assert caught.value.report.unchanged == 1


# --- how files come ---


def test_zip_and_gzip_and_what_is_neither(tx: Conn, tmp_path: Path) -> None:
    packed = tmp_path / "cm.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("nse_cm02JAN2024bhav.csv", "nse_sec_bhavdata_full_03012024.csv"):
            archive.write(DATA / name, f"folder/{name}")
        archive.writestr("__MACOSX/._x", "litter")
    assert (load(tx, packed).files, len(bars(tx))) == (2, 3)
    inner = tmp_path / "ACME.csv.gz"
    inner.write_bytes(gzip.compress((DATA / "yahoo_ACME.csv").read_bytes()))
    load(tx, inner, adjusted=False, to="gz")
    assert bars(tx, "gz")[0][0] == "ACME"  # the file's name without its endings
    dated = tmp_path / "EQ020124_CSV.ZIP"
    with zipfile.ZipFile(dated, "w") as archive:
        archive.write(DATA / "EQ020124.CSV", "EQ020124.CSV")
    assert load(tx, dated, to="bse").rows == 2
    sheet = tmp_path / "book.xlsx"
    with zipfile.ZipFile(sheet, "w") as archive:
        archive.writestr("[Content_Types].xml", "")
    with pytest.raises(UsageError, match="office document"):
        load(tx, sheet)
    packed.write_bytes(packed.read_bytes()[:200])
    with pytest.raises(InvalidError):
        load(tx, packed, to="g")


def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused(tx: Conn, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(inputs, "_FREE", 1 << 20)
    row, blank = HEAD + "A,2024-01-02,1,1,1,1,1\n", "\n" * (1 << 20)
    for name, blanks in (("bomb", 4), ("enough", 1)):
        text = (row + blank * blanks).encode()[: (1 << 20) if blanks == 1 else None]
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text))
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for part in range(4):  # together they are too much
                archive.writestr(f"{part}.csv", row.encode() + text[len(row) :: 4])
    for ending in ("gz", "zip"):
        with pytest.raises(InvalidError, match="unpacks to more than 200 times") as caught:
            load(tx, tmp_path / f"bomb.{ending}")
        assert (caught.value.code, bars(tx)) == ("54000", [])
        assert load(tx, tmp_path / f"enough.{ending}", to=ending).rows == 1
    with pytest.raises(InvalidError, match="unpacks to more than"):
        load(tx, io.BytesIO((tmp_path / "bomb.gz").read_bytes()))


def test_blank_lines_are_counted(tx: Conn) -> None:
    text = "\n" * 3 + "A,x,1,1,1,1,1\n"
    assert refused(tx, HEAD + text) == [(5, "22007")]
    assert refused(tx, HEAD + text, names={"close": "close"}) == [(5, "22007")]


# --- adjusted or raw, by the splits that are known ---


def split(conn: Conn, symbol: str, day: str, ratio: tuple[int, int]) -> None:
    conn.execute("insert into instrument (symbol) values (%s) on conflict do nothing", [symbol])
    conn.execute(
        "insert into corporate_action (symbol, ex_date, action_type, ratio_numerator, ratio_denominator)"
        " values (%s, %s, 'SPLIT', %s, %s)",
        [symbol, day, *ratio],
    )


@pytest.mark.parametrize(
    ("ratio", "after", "adjusted", "warns"),
    [
        ((2, 1), "50", False, False),
        ((2, 1), "65", False, False),
        ((2, 1), "99", False, True),
        ((2, 1), "75", False, True),
        ((2, 1), "99", True, False),
        ((2, 1), "52", True, True),
        ((1, 10), "1000", False, False),
        ((1, 10), "101", False, True),
        ((1, 10), "980", True, True),
        ((21, 20), "100", False, False),  # too small to be told from a day's move
    ],
)
def test_prices_that_a_known_split_contradicts_are_told(
    tx: Conn, ratio: tuple[int, int], after: str, adjusted: bool, warns: bool
) -> None:
    split(tx, "A", "2024-01-03", ratio)
    text = HEAD + f"A,2024-01-02,100,100,100,100,\nA,2024-01-03,{after},{after},{after},{after},\n"
    report = load(tx, text, adjusted=adjusted, calendar="XNYS")
    assert len(report.warnings) == warns
    if not warns:
        assert load(tx, text, adjusted=adjusted, calendar="XNYS", to="g", strict=True).rows == 2
        return
    seem = "looks raw" if adjusted else "looks adjusted"
    assert seem in report.warnings[0]
    with pytest.raises(InvalidError, match=seem) as caught:
        load(tx, text, adjusted=adjusted, calendar="XNYS", to="g", strict=True)
    assert caught.value.code == "TE101"
    assert bars(tx, "g") == []


def test_the_bundled_prices_are_as_raw_as_they_say(db: Conn) -> None:
    assert feed.load_bundled(db).warnings == []
    db.execute("update feed set adjusted = true")
    text = HEAD + "AAPL,2013-03-04,1,1,1,1,\n"
    found = feed.load_files(
        db, [io.BytesIO(text.encode()), io.BytesIO((HEAD + "X,2000-03-01,1,1,1,1,\n").encode())],
        feed="bundled", options=Options(),
    )  # fmt: skip
    assert [w.split(",")[1].split()[1] for w in found.warnings] == ["AAPL", "AAPL", "MSFT"]


# --- the parts ---


@pytest.mark.parametrize(
    ("text", "style", "plain"),
    [
        ("1,234.50", Style("comma"), "1234.50"),
        ("12,34,567.5", Style("comma"), "1234567.5"),
        ("1,23", Style("comma"), "1,23"),
        ("1,,234", Style("comma"), "1,,234"),
        ("1.234,50", Style("dot", decimal_comma=True), "1234.50"),
        ("1.234,50", Style(decimal_comma=True), "1.234,50"),
        ("1 234,5", Style("space", decimal_comma=True), "1234.5"),
        ("1\u00a0234,5", Style("space", decimal_comma=True), "1234.5"),
        ("1'234.5", Style("apostrophe"), "1234.5"),
        ("1e5", Style("comma"), "1e5"),
    ],
)
def test_numbers_as_people_write_them(text: str, style: Style, plain: str) -> None:
    assert style.plain(text) == plain


@pytest.mark.parametrize(
    ("text", "thousands"), [("16.751", None), ("16.75", "dot"), ("16.751", "space"), ("1.5e3", None), (".5", None)]
)
def test_a_dot_is_no_decimal_point_beside_decimal_commas(tx: Conn, text: str, thousands: str | None) -> None:
    row = f"symbol;date;open;high;low;close\nA;2024-01-02;{text};{text};{text};{text}\n"
    said = {"decimal_comma": True, "thousands": thousands, "delimiter": ";"}
    assert refused(tx, row, **said) == [(2, "22P02")]
    assert ("--thousands dot" in hint_of(tx, row, **said)) == (thousands != "dot")
    load(tx, row.replace(text, "16.751"), **{**said, "thousands": "dot"})
    assert bars(tx)[0][5] == "16751"


def test_options_that_mean_nothing_are_usage() -> None:
    for pattern in ("", "dd-mm", "yyyy-mm-dd-dd", "ddd", "%q", "QQ"):
        with pytest.raises(UsageError):
            time_format(pattern)
    for interval in ("", "0minute", "2day", "week", "-5m"):
        with pytest.raises(UsageError):
            interval_minutes(interval)
    with pytest.raises(UsageError, match="decimal"):
        Style("comma", decimal_comma=True)
    assert [interval_minutes(t) for t in ("minute", "5minute", "60m", "hour", "1h", "day", "1d")] == [
        1,
        5,
        60,
        60,
        60,
        0,
        0,
    ]


def test_a_single_is_written_with_its_own_digits() -> None:
    assert shortest_single(0.10000000149011612) == "0.1"
    assert shortest_single(185.63999938964844) == "185.64"
