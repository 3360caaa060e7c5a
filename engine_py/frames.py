"""DataFrames in: the bars of a pandas, polars or Arrow table, through the same staging as a file's."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib import import_module
from io import StringIO
from typing import Any

from psycopg import Connection

from engine_py.csvfile import Bad
from engine_py.dialects import by_name, detect
from engine_py.dialects.base import Dialect, Options, Source
from engine_py.dialects.columns import ROWS, Columns, ColumnSet, only_midnights
from engine_py.dialects.said import options_of, python_words
from engine_py.dialects.times import Clock
from engine_py.errors import UsageError, mapped
from engine_py.feed import FeedError, LoadReport, load_rows
from engine_py.staging import refused

_SINGLES = ("float32", "float16", "float[pyarrow]", "halffloat[pyarrow]")

__all__ = ["FeedError", "LoadReport", "load_bars"]


@mapped()
def load_bars(
    connection: Connection[Any],
    frame: Any,
    *,
    feed: str,
    calendar: str | None = None,
    skip_bad: bool = False,
    strict: bool = False,
    dry_run: bool = False,
    **said: Any,
) -> LoadReport:
    """Load the bars of `frame` into `feed`, as load_csv does those of a file: all or nothing, safe to repeat.

    `frame`: a pandas or polars DataFrame, anything with __arrow_c_stream__ (which takes pyarrow), or a mapping of
    columns. Its columns, by name in any case: symbol (or ticker, or the `symbol` given), one of logical_time,
    timestamp, datetime, time, date (in pandas also the index), open, high, low, close, and volume if known. pandas'
    columns of two levels, fields and tickers, as yfinance makes them, are understood. A time needs its offset and is
    the close of its bar; a column of dates, of midnights without an offset, or called date and of nothing but
    midnights, stands for the closes of their sessions. Floats are stored with their shortest digits. `adjusted` with a
    column adj_close takes the prices to its level; of a frame that looks like Yahoo's it must be said, True or False.
    Other options: those of dialects.said.options_of. Numbers of lines in problems are rows, from 1.
    """
    with python_words():
        return _load(connection, frame, feed, calendar, options_of(**said), skip_bad, strict, dry_run)


def _load(
    connection: Connection[Any],
    frame: Any,
    feed: str,
    calendar: str | None,
    options: Options,
    skip_bad: bool,
    strict: bool,
    dry_run: bool,
) -> LoadReport:
    report = LoadReport(f"feed {feed}", dry_run, format="frame")
    if options.format != "auto":
        raise UsageError("a format is for files: a frame has columns")
    try:
        columns = columns_of(frame)
        dialect = _dialect(columns, options)
    except Bad as bad:
        raise refused(report, bad) from None

    def open_rows(clock: Clock) -> Columns:
        return Columns(columns, options, clock)

    return load_rows(
        connection,
        open_rows,
        report,
        feed=feed,
        calendar=calendar,
        dialect=dialect,
        options=options,
        skip_bad=skip_bad,
        strict=strict,
    )


def _dialect(columns: ColumnSet, options: Options) -> Dialect:
    """Whose columns these are, as of a file with this header. Raises Bad, UsageError."""
    if columns.is_wide:
        return by_name("yahoo")
    header = StringIO()
    csv.writer(header).writerow(columns.names)
    found = detect(Source("", "", StringIO(header.getvalue())), options)
    if found.name == "yahoo" and options.interval is None and "datetime" in (name.lower() for name in columns.names):
        raise Bad("22007", "datetime is the time of the opens", "Say how long a bar is: --interval 5minute.")
    return found


def columns_of(frame: Any) -> ColumnSet:
    """The columns of any kind of frame. Raises UsageError, Bad."""
    kind = type(frame).__module__.partition(".")[0]
    if kind == "pandas":
        return _pandas(frame)
    if kind == "polars":
        return _polars(frame.collect() if hasattr(frame, "collect") else frame)
    if hasattr(frame, "__arrow_c_stream__"):
        return _arrow(frame)
    if isinstance(frame, Mapping):
        return _mapping(frame)
    raise UsageError(
        f"{type(frame).__name__} is no table of bars",
        hint="Give a pandas or polars DataFrame, an Arrow table, or a dict of columns.",
    )


def _dates(columns: Mapping[str, Iterator[Any]]) -> frozenset[str]:
    """Of columns of times, those that hold dates."""
    return frozenset(
        name for name, values in columns.items() if only_midnights(values, with_offset=name.lower() == "date")
    )


def _pandas(frame: Any) -> ColumnSet:
    pandas = import_module("pandas")
    is_wide = getattr(frame.columns, "nlevels", 1) > 1
    if is_wide:
        frame = _long(frame)
    index = frame.index
    has_names = [name is not None for name in index.names]
    if any(has_names) or isinstance(index, pandas.DatetimeIndex):
        unnamed = ["time" if name is None else name for name in index.names]
        frame = frame.reset_index(names=unnamed)
    frame.columns = [str(name) for name in frame.columns]
    kinds = {name: str(frame[name].dtype) for name in frame.columns}
    times = [name for name, kind in kinds.items() if kind.startswith("datetime64")]

    def parts() -> Iterator[Mapping[str, list[Any]]]:
        for first in range(0, len(frame), ROWS):
            part = frame.iloc[first : first + ROWS]
            yield {name: _listed(part[name], pandas) for name in frame.columns}

    singles = frozenset(
        name for name, kind in kinds.items() if kind.lower() in ("float32", "float16", "float[pyarrow]")
    )
    dates = _dates({name: (_python(v, pandas) for v in frame[name]) for name in times})
    return ColumnSet(list(frame.columns), parts, singles, dates, is_wide)


def _listed(column: Any, pandas: Any) -> list[Any]:
    return [_python(value, pandas) for value in column.tolist()]


def _python(value: Any, pandas: Any) -> Any:
    if value is None or value is pandas.NA or value is pandas.NaT:
        return None
    if isinstance(value, pandas.Timestamp):
        return value.isoformat() if value.nanosecond else value.to_pydatetime()
    return value


def _long(frame: Any) -> Any:
    """Two levels of columns, fields and tickers in either order, as one row a time and ticker."""
    if frame.columns.nlevels != 2:
        raise Bad("42703", f"the columns have {frame.columns.nlevels} levels: only fields and tickers are understood")
    fields = [{str(name).lower() for name in frame.columns.get_level_values(level)} for level in (0, 1)]
    level = next((n for n in (0, 1) if {"open", "high", "low", "close"} <= fields[n]), None)
    if level is None:
        raise Bad("42703", "neither level of the columns has open, high, low and close")
    tickers = 1 - level
    names = list(frame.index.names)
    frame = frame.copy(deep=False)
    frame.index.names = [name if name is not None else "time" for name in names]
    frame.columns = frame.columns.set_names("symbol", level=tickers).set_names(None, level=level)
    return frame.stack(level=tickers, future_stack=True).reset_index().set_index(list(frame.index.names))


def _polars(frame: Any) -> ColumnSet:
    kinds = {name: str(kind) for name, kind in frame.schema.items()}
    times = [name for name, kind in kinds.items() if kind.startswith("Datetime")]

    def parts() -> Iterator[Mapping[str, list[Any]]]:
        for first in range(0, frame.height, ROWS):
            part = frame.slice(first, ROWS)
            yield {name: part.get_column(name).to_list() for name in part.columns}

    singles = frozenset(name for name, kind in kinds.items() if kind == "Float32")
    dates = _dates({name: iter(frame.get_column(name).to_list()) for name in times})
    return ColumnSet(list(frame.columns), parts, singles, dates)


def _arrow(frame: Any) -> ColumnSet:
    try:
        pyarrow = import_module("pyarrow")
    except ImportError:
        raise UsageError("an Arrow table takes pyarrow", hint="Install it: pip install 'papertick[frames]'") from None
    from engine_py.dialects.parquet import values_of

    table = pyarrow.table(frame)
    times = [field.name for field in table.schema if pyarrow.types.is_timestamp(field.type)]

    def parts() -> Iterator[Mapping[str, list[Any]]]:
        for batch in table.to_batches(ROWS):
            yield {name: values_of(pyarrow, batch.column(n)) for n, name in enumerate(table.schema.names)}

    floats = (pyarrow.float32(), pyarrow.float16())
    singles = frozenset(field.name for field in table.schema if field.type in floats)
    dates = _dates({name: (v for c in table[name].chunks for v in values_of(pyarrow, c)) for name in times})
    return ColumnSet(table.schema.names, parts, singles, dates)


def _mapping(frame: Mapping[Any, Any]) -> ColumnSet:
    columns = {str(name): list(values) for name, values in frame.items()}
    if len({len(values) for values in columns.values()}) > 1:
        raise Bad("22P04", "the columns are not of one length")
    return ColumnSet(list(columns), lambda: iter([columns]), frozenset(), _dates(_times(columns)))


def _times(columns: Mapping[str, list[Any]]) -> dict[str, Iterator[Any]]:
    """Columns that hold datetimes."""
    return {name: iter(values) for name, values in columns.items() if any(isinstance(v, datetime) for v in values)}
