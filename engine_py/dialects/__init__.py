"""What files of market data look like. The table of dialects: adding one is a module beside this and a line here."""

from __future__ import annotations

import re
from typing import TypeAlias

from engine_py.csvfile import Bad, Table, shown
from engine_py.dialects import amfi, bse, kite, ndjson, nse, parquet, stooq, udiff, yahoo
from engine_py.dialects.base import RAW, SAID, UNKNOWN, Dialect, Options, Reader, Source
from engine_py.dialects.generic import MAPPABLE, open_generic
from engine_py.dialects.times import Clock
from engine_py.errors import UsageError

__all__ = [
    "DIALECTS",
    "MAPPABLE",
    "TEXT_FORMATS",
    "Clock",
    "Dialect",
    "Options",
    "Rows",
    "Source",
    "by_name",
    "detect",
    "open_rows",
]

Rows: TypeAlias = Table | Reader

GENERIC = Dialect("generic", "CSV that names its columns", SAID, lambda source: False, open_generic)  # type: ignore[arg-type]
DIALECTS = (
    GENERIC,
    Dialect("yahoo", "Yahoo Finance: CSV, yfinance's CSV, chart JSON", UNKNOWN, yahoo.claims, yahoo.open_yahoo),
    Dialect("stooq", "Stooq: the web's CSV, bulk ASCII", UNKNOWN, stooq.claims, stooq.open_stooq),
    Dialect(
        "nse-bhavcopy",
        "NSE until July 2024, and sec_bhavdata_full",
        RAW,
        nse.claims,
        nse.open_bhavcopy,
        whole_units=True,
    ),
    Dialect("nse-udiff", "NSE's unified bhavcopy", RAW, udiff.claims_nse, udiff.open_nse, whole_units=True),
    Dialect("bse-bhavcopy", "BSE until July 2024", RAW, bse.claims, bse.open_bhavcopy, whole_units=True),
    Dialect("bse-udiff", "BSE's unified bhavcopy", RAW, udiff.claims_bse, udiff.open_bse, whole_units=True),
    Dialect("amfi-nav", "AMFI's NAVAll.txt and history report", RAW, amfi.claims, amfi.open_navs),
    Dialect("kite", "Zerodha Kite's historical JSON", UNKNOWN, kite.claims, kite.open_candles),
    Dialect("ndjson", "one JSON object a line", SAID, ndjson.claims, ndjson.open_objects),
    Dialect("parquet", "Parquet (extra parquet)", SAID, parquet.claims, parquet.open_parquet),
)


TEXT_FORMATS = tuple(d.name for d in DIALECTS if d.name not in ("kite", "ndjson", "parquet"))  # that are no JSON


def by_name(name: str) -> Dialect:
    found = next((dialect for dialect in DIALECTS if dialect.name == name), None)
    if not found:
        raise UsageError(f"there is no format {name!r}", hint=f"One of {', '.join(d.name for d in DIALECTS)}, auto.")
    return found


def detect(source: Source, options: Options) -> Dialect:
    """The dialect that a file is written in, or the one that the caller names. Raises Bad, UsageError."""
    if options.format != "auto":
        return by_name(options.format)
    _refuse_pages(source)
    claimed = [dialect for dialect in DIALECTS if dialect.claims(source)]
    if len(claimed) > 1 and claimed[-1].name == "ndjson":  # any object a line, if nothing else
        claimed.pop()
    if len(claimed) > 1:
        names = ", ".join(dialect.name for dialect in claimed)
        raise UsageError(f"the file may be {names}", hint="Say which: --format NAME.")
    if claimed:
        return claimed[0]
    if stooq.looks_like_many(source) and options.adjusted is None and not options.names:
        raise UsageError(
            f"a header of {shown(source.header)} does not say whether its prices are adjusted:"
            " Stooq's, yfinance's and many others are",
            hint="Say it: --adjusted or --raw.",
        )
    return GENERIC


def _refuse_pages(source: Source) -> None:
    start = source.header.lstrip().lower()
    if start.startswith(("<!doctype", "<html", "<?xml")):
        raise Bad("22P04", "it is a web page, not data", "The download was answered with a page: look at it.")
    if re.fullmatch(r"no data|brak danych|exceeded the daily hits limit.*|przekroczony dzienny limit.*", start):
        raise Bad("22P04", f"it holds no data but {shown(source.header)}", "The source refused, or has no such symbol.")


def open_rows(dialect: Dialect, source: Source, options: Options, clock: Clock) -> Rows:
    """The rows of a file. Raises Bad; UsageError for options that mean nothing to its format."""
    rows = dialect.open(source, options, clock)
    options.refuse_all_but(rows.takes, dialect.name)
    return rows
