"""What the library hands back: rows that are tuples with names, and what a notebook wants to make of them."""

from __future__ import annotations

import html
from collections import namedtuple
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from importlib import import_module
from typing import Any, Generic, NamedTuple, SupportsIndex, TypeVar, overload

from psycopg import Cursor
from psycopg.rows import RowMaker

from engine_py import render
from engine_py.errors import UsageError

T = TypeVar("T")

_SHOWN = 60  # rows that a notebook shows, the first and the last half
_KINDS = {1700: "number", 20: "integer", 21: "integer", 23: "integer", 16: "flag", 1082: "date", 1184: "time"}  # by OID


class Column(NamedTuple):
    """Name and kind: number (a Decimal), integer, flag, date, time (in UTC), or other."""

    name: str
    kind: str


class Rows(list[T], Generic[T]):
    """A list of rows, each a tuple with names. `columns` are there even when no row is."""

    def __init__(self, rows: Iterable[T] = (), columns: Sequence[Column] = ()) -> None:
        super().__init__(rows)
        self.columns = tuple(columns)

    @overload
    def __getitem__(self, index: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Rows[T]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> T | Rows[T]:
        found: Any = super().__getitem__(index)
        return Rows(found, self.columns) if isinstance(index, slice) else found

    def to_dicts(self) -> list[dict[str, Any]]:
        names = [column.name for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self._tuples()]

    def to_pandas(self, *, exact: bool = False) -> Any:
        """A pandas DataFrame: numbers as float64 (NaN for null), times as datetime64 in UTC, dates as datetime64.

        exact: numbers stay Decimal, with every digit, in columns of objects.
        """
        pd: Any = _optional("pandas")
        kinds = {"integer": "Int64", "flag": "boolean", "number": "object" if exact else "float64"}
        series = {}
        for position, (column, values) in enumerate(self._by_column()):
            if column.kind in ("time", "date"):
                made = pd.Series(pd.to_datetime(values, utc=column.kind == "time"), dtype=_pandas_time(column.kind))
            elif column.kind == "number" and not exact:
                made = pd.Series([None if v is None else float(v) for v in values], dtype="float64")
            else:
                made = pd.Series(values, dtype=kinds.get(column.kind, "object"))
                if column.kind in ("integer", "flag") and not made.isna().any():
                    made = made.astype({"integer": "int64", "flag": "bool"}[column.kind])
            series[position] = made
        frame = pd.DataFrame(series)
        frame.columns = pd.Index([column.name for column in self.columns])
        return frame

    def to_polars(self, *, exact: bool = False) -> Any:
        """A polars DataFrame: numbers as Float64 (null for null), times as Datetime in UTC.

        exact: numbers as Decimal, as many decimals as the longest has.
        """
        pl: Any = _optional("polars")
        kinds = {"integer": pl.Int64, "flag": pl.Boolean, "date": pl.Date, "time": pl.Datetime("us", "UTC")}
        series = []
        for column, values in self._by_column():
            if column.kind == "number" and exact:
                series.append(
                    pl.Series(column.name, values, dtype=pl.Decimal(38, max(map(_decimals, values), default=0)))
                )
            elif column.kind == "number":
                floats = [None if value is None else float(value) for value in values]
                series.append(pl.Series(column.name, floats, dtype=pl.Float64))
            elif column.kind == "other":
                plain = all(value is None or isinstance(value, str) for value in values)
                kept = values if plain else [None if value is None else str(value) for value in values]
                series.append(pl.Series(column.name, kept, dtype=pl.String))
            else:
                series.append(pl.Series(column.name, values, dtype=kinds[column.kind]))
        return pl.DataFrame(series)

    def _tuples(self) -> list[tuple[Any, ...]]:
        return [row if isinstance(row, tuple) else (row,) for row in self]

    def _by_column(self) -> Iterator[tuple[Column, list[Any]]]:
        rows = self._tuples()
        for position, column in enumerate(self.columns):
            yield column, [row[position] for row in rows]

    def __str__(self) -> str:
        names = [column.name for column in self.columns]
        return render.table(self.to_dicts(), names) if len(set(names)) == len(names) else super().__str__()

    def _repr_html_(self) -> str:
        """A table for a notebook; of many rows the first and the last."""
        rows = self._tuples()
        cut = len(rows) > _SHOWN
        shown = [*rows[: _SHOWN // 2], *rows[-_SHOWN // 2 :]] if cut else rows
        lines = [_html_row(row, self.columns) for row in shown]
        if cut:
            lines.insert(_SHOWN // 2, f'<tr><td colspan="{len(self.columns)}">…</td></tr>')
        head = "".join(f"<th>{html.escape(column.name)}</th>" for column in self.columns)
        count = render.counted(len(rows), "row")
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table><p>{count}</p>"


class Performance(Mapping[str, Decimal | None]):
    """metric → value, as performance() has them; `reasons`: metric → why there is no value."""

    def __init__(self, values: Mapping[str, Decimal | None], reasons: Mapping[str, str]) -> None:
        self._values = dict(values)
        self.reasons = dict(reasons)

    def __getitem__(self, metric: str) -> Decimal | None:
        return self._values[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def to_pandas(self, *, exact: bool = False) -> Any:
        """A pandas Series of float64 by metric, NaN where there is no value; exact: of Decimals."""
        pd: Any = _optional("pandas")
        values = [None if v is None else v if exact else float(v) for v in self._values.values()]
        return pd.Series(values, index=list(self._values), dtype="object" if exact else "float64", name="value")

    def __repr__(self) -> str:
        return f"Performance({self._values!r}, {self.reasons!r})"

    def __str__(self) -> str:
        return render.pairs((name, self.reasons.get(name, render.text(value))) for name, value in self.items())

    def _repr_html_(self) -> str:
        cells = ((name, self.reasons.get(name, render.text(value))) for name, value in self.items())
        lines = (f"<tr><th>{name}</th><td>{html.escape(words)}</td></tr>" for name, words in cells)
        return f"<table><tbody>{''.join(lines)}</tbody></table>"


def row_factory(kind: Any) -> Any:
    """psycopg's: rows of a NamedTuple class, columns by name, those it does not know left out; None: of what comes.

    Times are in UTC.
    """

    def factory(cursor: Cursor[Any]) -> RowMaker[Any]:
        if kind is None or not cursor.description:
            make = _named(*(column.name for column in cursor.description or ()))
            return lambda values: make(*map(_in_utc, values))
        places = {column.name: n for n, column in enumerate(cursor.description)}
        missing = [name for name in kind._fields if name not in places]
        if missing:
            raise UsageError(f"the answer has no {', '.join(missing)}", hint="Run: papertick db upgrade")
        order = [places[name] for name in kind._fields]
        return lambda values: kind(*(_in_utc(values[n]) for n in order))

    return factory


@lru_cache(512)
def _named(*names: str) -> Any:
    """A column without a name, or with one that another has, is called by its place: _0."""
    return namedtuple("Row", names, rename=True)


def columns_of(cursor: Cursor[Any], fields: Sequence[str] | None = None) -> list[Column]:
    """Those of the answer, or the ones with these names, in their order."""
    found = [Column(column.name, _KINDS.get(column.type_code, "other")) for column in cursor.description or ()]
    if fields is None:
        return found
    named = {column.name: column for column in found}
    return [named[name] for name in fields]


def _in_utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value


def _html_row(row: Sequence[object], columns: Sequence[Column]) -> str:
    cells = (
        f"<td{_RIGHT if column.kind in ('number', 'integer') else ''}>{html.escape(_cell(value))}</td>"
        for column, value in zip(columns, row, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"


_RIGHT = ' style="text-align:right"'


def _cell(value: object) -> str:
    return "" if value is None else render.text(value)


def _decimals(value: Decimal | None) -> int:
    return 0 if value is None else max(0, -int(value.as_tuple().exponent))


def _pandas_time(kind: str) -> str:
    return "datetime64[us, UTC]" if kind == "time" else "datetime64[s]"


def _optional(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as exc:
        raise UsageError(
            f"{name} is not installed", hint=f"Install it: pip install 'papertick[frames]', or {name}."
        ) from exc
