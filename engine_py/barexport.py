"""The bars of a feed as a file: CSV, NDJSON or Parquet, with the columns that feed load reads."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import IO, Any

from psycopg import Connection, sql

from engine_py.errors import NotFoundError, UsageError, mapped
from engine_py.feed import close_of

FORMATS = ("csv", "ndjson", "parquet")
COLUMNS = ("symbol", "logical_time", "open", "high", "low", "close", "volume")
_ROWS = 50_000  # of a Parquet row group

_TIME = """replace(to_char(logical_time at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '.000000Z', 'Z')"""
_TEXTS = f"""symbol, {_TIME} as logical_time, trim_scale(open)::text as open, trim_scale(high)::text as high,
  trim_scale(low)::text as low, trim_scale(close)::text as close, trim_scale(volume)::text as volume"""


@mapped()
def export(
    conn: Connection[Any],
    feed: str,
    output: str,
    *,
    form: str = "csv",
    symbols: list[str] | None = None,
    start: str | None = None,
    end: str | None = None,
) -> int:
    """Write the bars of `feed` to the file `output` ('-': standard output), which appears when it is complete.

    `start`, `end`: times, or dates that stand for the closes of their sessions. Returns the number of bars.
    """
    _require(conn, feed, symbols)
    start, end = (close_of(conn, feed, time) if time and len(time) == 10 else time for time in (start, end))
    rows = sql.SQL(
        """from public.price_bar where feed = {} and ({symbols}::text[] is null or symbol = any ({symbols}::text[]))
           and logical_time >= coalesce({}::timestamptz, '-infinity')
           and logical_time <= coalesce({}::timestamptz, 'infinity')
           order by symbol collate "C", logical_time"""
    ).format(sql.Literal(feed), sql.Literal(start), sql.Literal(end), symbols=sql.Literal(symbols))
    write = {"csv": _write_csv, "ndjson": _write_ndjson, "parquet": _write_parquet}[form]
    with _file(output) as file, conn.transaction():
        return write(conn, rows, file)


def _require(conn: Connection[Any], feed: str, symbols: list[str] | None) -> None:
    if not conn.execute("select from public.feed where feed = %s", [feed]).rowcount:
        raise NotFoundError("unknown feed", code="TE201", detail=f"feed={feed}", hint="See: papertick feed list")
    for symbol in symbols or []:
        found = conn.execute("select from public.price_bar where feed = %s and symbol = %s limit 1", [feed, symbol])
        if not found.rowcount:
            raise NotFoundError("unknown symbol", code="TE201", detail=f"feed={feed} symbol={symbol}")


@contextmanager
def _file(output: str) -> Iterator[IO[bytes]]:
    if output == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        folder = Path(output).resolve().parent
        with tempfile.NamedTemporaryFile("wb", dir=folder, prefix=".papertick-", delete=False) as file:
            try:
                yield file
                file.close()
                os.chmod(file.name, 0o666 & ~_umask())
                os.replace(file.name, output)
            except BaseException:
                with suppress(OSError):
                    os.unlink(file.name)
                raise
    except OSError as exc:
        raise UsageError(f"cannot write {output}: {exc.strerror or exc}") from exc


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_csv(conn: Connection[Any], rows: sql.Composable, file: IO[bytes]) -> int:
    query = sql.SQL("copy (select {} {}) to stdout with (format csv, header)").format(sql.SQL(_TEXTS), rows)
    with conn.cursor() as cursor:
        with cursor.copy(query) as copy:
            for block in copy:
                file.write(block)
        return cursor.rowcount


def _write_ndjson(conn: Connection[Any], rows: sql.Composable, file: IO[bytes]) -> int:
    count = 0
    with conn.cursor(name="papertick_export") as cursor:
        cursor.execute(sql.SQL("select {} {}").format(sql.SQL(_TEXTS), rows))
        for row in cursor:
            count += 1
            file.write(json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False).encode() + b"\n")
    return count


def _write_parquet(conn: Connection[Any], rows: sql.Composable, file: IO[bytes]) -> int:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError("Parquet takes pyarrow", hint="Install it: pip install 'papertick[parquet]'") from None
    price, volume = arrow.decimal128(20, 8), arrow.decimal128(24, 4)
    kinds = (arrow.string(), arrow.timestamp("us", "UTC"), *[price] * 4, volume)
    schema = arrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    count = 0
    with conn.cursor(name="papertick_export") as cursor, parquet.ParquetWriter(file, schema) as writer:
        cursor.itersize = _ROWS
        cursor.execute(sql.SQL("select {} {}").format(sql.SQL(", ").join(map(sql.Identifier, COLUMNS)), rows))
        found = iter(cursor)
        while part := list(islice(found, _ROWS)):
            count += len(part)
            columns = [arrow.array(column, kind) for column, kind in zip(zip(*part, strict=True), kinds, strict=True)]
            writer.write_batch(arrow.record_batch(columns, schema=schema))
    return count
