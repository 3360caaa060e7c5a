"""Parquet files, read with pyarrow, batch after batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from engine_py.csvfile import Bad
from engine_py.dialects.base import Options, Reader, Source
from engine_py.dialects.columns import ROWS, Columns, ColumnSet, only_midnights
from engine_py.dialects.times import Clock
from engine_py.errors import UsageError


def open_parquet(source: Source, options: Options, clock: Clock) -> Reader:
    arrow, reader = _pyarrow()
    if source.binary is None:
        raise UsageError("a Parquet file comes as bytes, not as text")
    try:
        file = reader.ParquetFile(source.binary)
    except (arrow.ArrowInvalid, OSError) as exc:
        raise Bad("22P04", f"it is no Parquet file, or a damaged one: {str(exc)[:80]}") from None
    return Columns(_columns(arrow, file), options, clock)


def _pyarrow() -> Any:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError("Parquet takes pyarrow", hint="Install it: pip install 'papertick[parquet]'") from None


def _columns(arrow: Any, file: Any) -> ColumnSet:
    schema = file.schema_arrow

    def parts() -> Iterator[Mapping[str, list[Any]]]:
        for batch in file.iter_batches(ROWS):
            yield {name: values_of(arrow, batch.column(n)) for n, name in enumerate(schema.names)}

    dates = set()
    for name in {field.name for field in schema if arrow.types.is_timestamp(field.type)}:
        column = (v for b in file.iter_batches(ROWS, columns=[name]) for v in values_of(arrow, b.column(0)))
        if only_midnights(column, with_offset=name.lower() == "date"):
            dates.add(name)
    singles = frozenset(field.name for field in schema if field.type in (arrow.float32(), arrow.float16()))
    return ColumnSet(schema.names, parts, singles, frozenset(dates))


def values_of(arrow: Any, column: Any) -> list[Any]:
    """An Arrow array as Python's values; times of nanoseconds lose what is below the microsecond only if it is 0."""
    if arrow.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(arrow.timestamp("us", column.type.tz))
    return list(column.to_pylist())


def claims(source: Source) -> bool:
    return source.is_parquet
