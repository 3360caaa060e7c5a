"""load_bars: DataFrames of pandas, polars and Arrow, and plain dicts, into a feed."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_dialects import bars
from test_feed import bar

from engine_py import feed
from engine_py.dialects.base import Options
from engine_py.errors import UsageError
from engine_py.frames import load_bars

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")

Conn = psycopg.Connection[Any]
IST = timezone(timedelta(hours=5, minutes=30))


@pytest.fixture
def tx(tx: Conn) -> Conn:
    """With its transaction open."""
    tx.execute("select")
    return tx


def columns(**changed: Any) -> dict[str, list[Any]]:
    return {
        "symbol": ["A", "B"],
        "time": [datetime(2024, 1, 2, 21, tzinfo=UTC), datetime(2024, 1, 4, 2, 30, tzinfo=IST)],
        "open": [0.1, 1.0],
        "high": [0.30000000000000004, 2.5],
        "low": [0.1, 1.0],
        "close": [0.2, 2.0],
        "volume": [1000, 0],
    } | changed


EXPECTED = [
    ("A", "2024-01-02 21:00", "0.1", "0.3", "0.1", "0.2", "1000"),
    ("B", "2024-01-03 21:00", "1", "2.5", "1", "2", "0"),
]


def of_pandas(values: dict[str, list[Any]]) -> Any:
    return pandas.DataFrame({**values, "time": pandas.to_datetime(values["time"], utc=True)})


def of_polars(values: dict[str, list[Any]]) -> Any:
    return polars.DataFrame({**values, "time": [t.astimezone(UTC) for t in values["time"]]})


def of_arrow(values: dict[str, list[Any]]) -> Any:
    return pyarrow.table({**values, "time": pyarrow.array(values["time"], pyarrow.timestamp("us", "UTC"))})


@pytest.mark.parametrize("make", [dict, of_pandas, of_polars, of_arrow])
def test_every_kind_of_frame(tx: Conn, make: Any) -> None:
    report = load_bars(tx, make(columns()), feed="f")
    assert bars(tx) == EXPECTED
    assert (report.rows, report.symbols, report.format) == (2, 2, "frame")
    assert load_bars(tx, make(columns()), feed="f").unchanged == 2
    with pytest.raises(feed.FeedError) as caught:
        load_bars(tx, make(columns(low=[0.1, 3.0])), feed="g")
    assert [(p.line, p.code) for p in caught.value.report.skipped] == [(2, "23514")]
    assert load_bars(tx, make(columns(low=[0.1, 3.0])), feed="g", skip_bad=True).rows == 1
    assert load_bars(tx, make(columns()), feed="dry", dry_run=True).rows == 2
    assert bars(tx, "dry") == []


def test_lazy_and_symbol_and_case(tx: Conn) -> None:
    frame = of_polars(columns()).drop("symbol").rename({"open": "Open", "time": "Timestamp"}).lazy()
    load_bars(tx, frame, feed="f", symbol="X")
    assert [row[0] for row in bars(tx)] == ["X", "X"]
    with pytest.raises(feed.FeedError) as caught:
        load_bars(tx, of_polars(columns()), feed="g", symbol="X")
    assert caught.value.code == "42701"
    with pytest.raises(feed.FeedError) as caught:
        load_bars(tx, of_polars(columns()).drop("close"), feed="g")
    assert caught.value.code == "42703"


def test_an_index_of_dates_and_one_of_times(tx: Conn) -> None:
    values = {name: column for name, column in columns().items() if name not in ("time", "symbol")}
    dates = pandas.DataFrame(values, index=pandas.DatetimeIndex(["2024-01-02", "2024-07-03"], name="Date"))
    load_bars(tx, dates, feed="f", symbol="A", calendar="XNYS")
    assert [row[1] for row in bars(tx)] == ["2024-01-02 21:00", "2024-07-03 17:00"]  # a half day
    assert list(dates.columns) == list(values)  # the frame stays as it is
    aware = dates.tz_localize("America/New_York")
    load_bars(tx, aware, feed="aware", symbol="A", calendar="XNYS")  # yfinance's Ticker.history
    assert [row[1] for row in bars(tx, "aware")] == ["2024-01-02 21:00", "2024-07-03 17:00"]
    aware.index.name = "time"
    for frame, calendar in ((aware, None), (aware, "XNYS"), (aware.tz_convert("UTC"), "XNYS")):
        with pytest.raises(feed.FeedError) as caught:  # dates, or closes?
            load_bars(tx, frame, feed="midnights", symbol="A", calendar=calendar)
        assert (caught.value.code, "dates" in (caught.value.hint or "")) == ("22007", True)
    load_bars(tx, aware.tz_convert("UTC"), feed="instants", symbol="A")
    assert bars(tx, "instants")[0][1] == "2024-01-02 05:00"
    naive = dates.copy()
    naive.index = pandas.DatetimeIndex(["2024-01-02 16:00", "2024-01-03"])
    with pytest.raises(feed.FeedError) as caught:
        load_bars(tx, naive, feed="g", symbol="A")
    assert [(p.line, p.code) for p in caught.value.report.skipped] == [(1, "22007"), (2, "22007")]
    text = pandas.DataFrame({**values, "date": [date(2024, 1, 2), "2024-01-03"]})
    load_bars(tx, text, feed="text", symbol="A")
    assert [row[1] for row in bars(tx, "text")] == ["2024-01-03 00:00", "2024-01-04 00:00"]


@pytest.mark.parametrize("fields_first", [True, False])
def test_yfinances_two_levels_of_columns(tx: Conn, fields_first: bool) -> None:
    index = pandas.DatetimeIndex(["2024-01-02", "2024-01-03"], name="Date")
    data = {("Close", "AAA"): [1.5, 2.0], ("High", "AAA"): [2.0, 2.0], ("Low", "AAA"): [1.0, 2.0], ("Open", "AAA"): [1.0, 2.0],
            ("Volume", "AAA"): [5, 0], ("Close", "B.NS"): [None, 7.0], ("High", "B.NS"): [None, 7.0],
            ("Low", "B.NS"): [None, 7.0], ("Open", "B.NS"): [None, 7.0], ("Volume", "B.NS"): [None, 3.0]}  # fmt: skip
    frame = pandas.DataFrame(data, index=index)
    frame.columns.names = ["Price", "Ticker"]
    report = load_bars(tx, frame if fields_first else frame.swaplevel(axis=1), feed="f", adjusted=True, calendar="XNYS")
    assert bars(tx) == [
        ("AAA", "2024-01-02 21:00", "1", "2", "1", "1.5", "5"),
        ("AAA", "2024-01-03 21:00", "2", "2", "2", "2", "0"),
        ("B.NS", "2024-01-03 21:00", "7", "7", "7", "7", "3"),
    ]
    assert report.left_out == {"no price": 1}
    three = pandas.concat({"x": frame}, axis=1)
    with pytest.raises(feed.FeedError):
        load_bars(tx, three, feed="g")


@pytest.mark.parametrize("adjusted", [None, True, False])
def test_whether_prices_are_adjusted_is_asked_of_frames_as_of_files(tx: Conn, adjusted: bool | None) -> None:
    prices = {name: [4.0] for name in ("Open", "High", "Low", "Close")}
    day = pandas.DatetimeIndex(["2024-01-02"], name="Date")
    wide = {(name, "A"): values for name, values in prices.items()}
    asked = [
        {"Date": ["2024-01-02"], **prices, "Adj Close": [1.0]},
        pandas.DataFrame({**prices, "Adj Close": [1.0]}, index=day),
        pandas.DataFrame({**prices, "Dividends": [0.0], "Stock Splits": [0.0]}, index=day),
        pandas.DataFrame(prices, index=day),
        pandas.DataFrame(wide, index=day),
    ]
    for n, frame in enumerate(asked):
        symbol = None if n == 4 else "A"
        if adjusted is None:
            with pytest.raises(UsageError, match="adjusted"):
                load_bars(tx, frame, feed=f"f{n}", symbol=symbol)
            assert not tx.execute("select from feed where feed = %s", [f"f{n}"]).rowcount
        else:
            assert load_bars(tx, frame, feed=f"f{n}", symbol=symbol, adjusted=adjusted).rows == 1
    intraday = pandas.DataFrame(
        prices | {"Adj Close": [1.0]}, pandas.DatetimeIndex(["2024-01-02 09:30Z"], name="Datetime")
    )
    with pytest.raises((UsageError, feed.FeedError)):
        load_bars(tx, intraday, feed="day", symbol="A", adjusted=adjusted)
    if adjusted is not None:
        load_bars(tx, intraday, feed="day", symbol="A", adjusted=adjusted, interval="5minute")
        assert bars(tx, "day")[0][1] == "2024-01-02 09:35"
    own = {"symbol": ["A"], "date": ["2024-01-02"], **prices}  # our own names: raw, if nothing is said
    assert load_bars(tx, own, feed="own", adjusted=None if adjusted is None else False).rows == 1


def test_adjusted_close_and_what_it_does(tx: Conn) -> None:
    frame = pandas.DataFrame(
        {"Open": [4.0], "High": [8.0], "Low": [2.0], "Close": [4.0], "Adj Close": [1.0], "Volume": [5]},
        index=pandas.DatetimeIndex(["2024-01-02"], name="Date"),
    )
    with pytest.raises(UsageError):
        load_bars(tx, frame, feed="unsaid", symbol="A")
    load_bars(tx, frame, feed="raw", symbol="A", adjusted=False)
    report = load_bars(tx, frame, feed="adjusted", symbol="A", adjusted=True)
    assert (bars(tx, "raw")[0][5], bars(tx, "adjusted")[0][2:6]) == ("4", ("1", "2", "0.5", "1"))
    assert report.factors == (Decimal("0.25"), Decimal("0.25"))


def test_numbers_of_every_type(tx: Conn) -> None:
    numpy = pytest.importorskip("numpy")
    for n, kind in enumerate(("float32", "float64", "int64", "Float64", "object")):
        frame = of_pandas(columns(open=[1, 1], high=[3, 3], low=[1, 1], close=[2, 2]))
        frame["high"] = [3, 3] if kind == "int64" else [3.1, 3.1]
        frame["high"] = frame["high"].astype(kind)
        load_bars(tx, frame, feed=f"f{n}")
        assert [row[3] for row in bars(tx, f"f{n}")] == ["3" if kind == "int64" else "3.1"] * 2
    frame = of_polars(columns(high=[3.1, 3.1])).with_columns(polars.col("high").cast(polars.Float32))
    load_bars(tx, frame, feed="polars")
    assert bars(tx, "polars")[0][3] == "3.1"
    exact = dict(open=[Decimal("1.00000001")] * 2, high=["3.1", Decimal(4)], low=[1, numpy.float64(1)], close=[2, 2])
    load_bars(tx, columns(**exact), feed="dict")
    assert bars(tx, "dict")[0][2:4] == ("1.00000001", "3.1")
    for bad in (float("inf"), True, "x", Decimal("NaN"), None):
        with pytest.raises(feed.FeedError) as caught:
            load_bars(tx, columns(high=[3, bad]), feed="g")
        assert [(p.line, p.code) for p in caught.value.report.skipped] == [(2, "22P02")]
    load_bars(tx, columns(volume=[None, float("nan")]), feed="volume")
    assert [row[6] for row in bars(tx, "volume")] == [None, None]


def test_what_is_no_frame(tx: Conn) -> None:
    with pytest.raises(UsageError, match="no table of bars"):
        load_bars(tx, [1, 2], feed="f")
    with pytest.raises(feed.FeedError):
        load_bars(tx, columns(open=[1]), feed="f")


def test_nanoseconds_do_not_vanish(tx: Conn) -> None:
    frame = of_pandas(columns())
    frame["time"] = pandas.to_datetime(["2024-01-02T00:00:00.000000001Z", "2024-01-02T00:00:00.000001Z"])
    with pytest.raises(feed.FeedError) as caught:
        load_bars(tx, frame, feed="f")
    assert [(p.line, p.code) for p in caught.value.report.skipped] == [(1, "22007")]


def test_parquet(tx: Conn, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    of_pandas(columns()).set_index("time").to_parquet(path)
    assert feed.load_files(tx, [path], feed="f", options=Options()).format == "parquet"
    assert bars(tx) == EXPECTED
    table = pyarrow.table(
        {"Ticker": ["A"], "Date": pyarrow.array([date(2024, 1, 2)]), "price": pyarrow.array([0.1], pyarrow.float32())}
    )
    parquet.write_table(table, path)
    feed.load_files(tx, [path], feed="dates", options=Options(names={"price": "price"}))
    assert bars(tx, "dates") == [("A", "2024-01-03 00:00", "0.1", "0.1", "0.1", "0.1", None)]
    moments = pyarrow.array([datetime(2024, 1, 2, 5, tzinfo=UTC)], pyarrow.timestamp("us", "America/New_York"))
    parquet.write_table(pyarrow.table({"symbol": ["A"], "Date": moments, "price": [1.5]}), path)  # as in a frame
    said = Options(names={"price": "price"})
    feed.load_files(tx, [path], feed="date", calendar="XNYS", options=said)
    assert bars(tx, "date")[0][1] == "2024-01-02 21:00"
    parquet.write_table(pyarrow.table({"symbol": ["A"], "time": moments, "price": [1.5]}), path)
    with pytest.raises(feed.FeedError) as caught:
        feed.load_files(tx, [path], feed="time", calendar="XNYS", options=said)
    assert (caught.value.code, bars(tx, "time")) == ("22007", [])
    path.write_bytes(b"PAR1" + b"x" * 100)
    with pytest.raises(feed.FeedError) as caught:
        feed.load_files(tx, [path], feed="g", options=Options())
    assert caught.value.code == "22P04"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(bar(), min_size=1, max_size=8, unique_by=lambda b: b[:2]))
def test_any_bars_come_through_as_they_are(tx: Conn, rows: list[tuple[Any, ...]]) -> None:
    """Decimals exactly; times whatever their offset."""
    names = ("symbol", "time", "open", "high", "low", "close", "volume")
    with tx.transaction(force_rollback=True):
        load_bars(tx, dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)), feed="f")
        found = tx.execute(
            "select symbol, logical_time, open, high, low, close, volume from price_bar where feed = 'f'"
        )
        key = lambda b: (b[0].encode(), b[1])  # noqa: E731
        assert sorted(found.fetchall(), key=key) == sorted(rows, key=key)
