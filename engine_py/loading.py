"""Bars on their way into a feed: from rows of whatever dialect through the staging, judged and stored."""

from __future__ import annotations

from typing import Any, LiteralString
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from psycopg import Connection, sql

from engine_py.adjustment import contradicted, contradictions
from engine_py.bars import ADJUSTED_CLOSE, ADJUSTED_RULES, BAR_RULES, OUTSIDE, PRICES, SAME_BAR, Closes
from engine_py.csvfile import Bad
from engine_py.dialects import Rows, detect, open_rows
from engine_py.dialects.base import RAW, UNKNOWN, Dialect, Options
from engine_py.dialects.base import Source as rows_source
from engine_py.dialects.times import Clock
from engine_py.errors import InvalidError, UsageError
from engine_py.inputs import PARQUET, Opened
from engine_py.staging import LoadReport, Progress, Stage, refused

CHANNEL = "papertick_bars"  # notified with the name of a feed that has new bars


class Load:
    """Bars on their way into a feed, in the transaction of the caller."""

    def __init__(
        self,
        conn: Connection[Any],
        report: LoadReport,
        feed: str,
        *,
        calendar: str,
        closes: Closes,
        is_adjusted: bool,
        options: Options,
    ) -> None:
        self._conn, self._report, self._feed, self._options = conn, report, feed, options
        self._calendar, self._closes, self._is_adjusted = calendar, closes, is_adjusted
        self._zone = _zone(options.time_zone)
        self._market = self._zone or self._zone_of_calendar()
        self._stage = Stage(
            conn,
            sql.SQL(
                "symbol text default {}, logical_time timestamptz,"
                " open numeric, high numeric, low numeric, close numeric, volume numeric, adj_close numeric"
            ).format(sql.Literal(options.symbol)),
            report,
        )
        self._has_adjusted = False
        self._formats: dict[str, None] = {}

    def clock(self) -> Clock:
        is_always = self._calendar == "ALWAYS"
        return Clock(self._closes, is_always, None, self._zone, self._options.interval, self._market)

    def _zone_of_calendar(self) -> ZoneInfo | None:
        """The market's clock; None where the calendar has none but UTC, which a market's sessions may be written in."""
        row = self._conn.execute(
            "select time_zone from public.calendar where calendar = %s", [self._calendar]
        ).fetchone()
        return _zone(row[0]) if row and row[0] not in ("UTC", "GMT") else None

    def add(self, file: Opened, progress: Progress | None) -> None:
        """Take the rows of a file."""
        is_parquet = file.start == PARQUET
        source = rows_source(file.name, file.stem, file.text, binary=file.binary, is_parquet=is_parquet)
        self._report.files += 1
        try:
            if file.start[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise Bad("22021", "it is UTF-16", "Convert it: iconv -f UTF-16 -t UTF-8 FILE | papertick feed load -")
            dialect = detect(source, self._options)
            self._require_prices(dialect)
            self._formats[dialect.name] = None
            self._report.format = ", ".join(self._formats)
            clock = self.clock()
            self.fill(open_rows(dialect, source, self._options, clock), progress, file.name)
            clock.judge()
        except Bad as bad:
            raise refused(self._report, bad, 1, file.name if self._report.files > 1 else "") from None

    def _require_prices(self, dialect: Dialect) -> None:
        """Raise unless it is known whether the prices of this dialect are adjusted, and they fit the feed."""
        if dialect.prices == UNKNOWN and self._options.adjusted is None:
            raise UsageError(
                f"{dialect.what}: the format does not say whether its prices are adjusted",
                hint=f"Say it: --adjusted or --raw. docs/data.md says what {dialect.name} prices are.",
            )
        if dialect.prices == RAW and self._options.adjusted:
            raise UsageError(f"prices of the format {dialect.name} are raw", hint="Load them without --adjusted.")
        if dialect.prices == RAW and self._is_adjusted:
            raise InvalidError(
                f"feed {self._feed} is of adjusted prices, and those of the format {dialect.name} are raw",
                code="TE101",
                hint="Load into another feed.",
            )

    def fill(self, rows: Rows, progress: Progress | None, name: str) -> None:
        self._report.mapping = self._report.mapping or rows.mapping
        self._has_adjusted |= any(column is ADJUSTED_CLOSE for column in rows.columns)
        self._stage.fill(rows, progress, name, more=True)

    def finish(self, *, skip_bad: bool, strict: bool) -> None:
        """Judge what has come, and store it."""
        conn, report, stage = self._conn, self._report, self._stage
        stage.filled()
        stage.judge(BAR_RULES, _SAID)
        if self._has_adjusted:
            self._adjust()
        stage.refuse_repeats("symbol, logical_time", " with other values", SAME_BAR)
        stage.summarize(
            """with s as materialized (
                 select symbol, min(logical_time) as first, max(logical_time) as last
                   from pg_temp.papertick_stage group by symbol),
               known as (
                 insert into public.instrument (symbol) select symbol from s order by symbol collate "C"
                     on conflict do nothing)
               select count(*), min(first), max(last) from s"""
        )
        if report.dry_run:
            stage.keep_symbols()
        stored = sql.SQL("(select * from public.price_bar where feed = {})").format(sql.Literal(self._feed))
        stage.compare(stored, "symbol, logical_time", SAME_BAR)
        stage.report_flaws(skip_bad=skip_bad, hint="Correct these lines, or leave them out with --skip-bad.")
        report.outside_sessions = _outside_sessions(conn, self._calendar)
        stage.store("public.price_bar", {"feed": self._feed}, "symbol, logical_time, open, high, low, close, volume")
        if report.dry_run:
            report.gaps = gaps(conn, self._feed, self._calendar)
        elif report.rows:
            notify(conn, self._feed)
        if report.first and report.last:
            report.warnings += contradictions(conn, feed=self._feed, first=report.first, last=report.last)
        if strict and report.warnings:
            raise contradicted(report.warnings)
        stage.drop()

    def _adjust(self) -> None:
        """Note how far the adjusted closes are from the closes, and if asked for take the prices there."""
        if self._options.adjusted:
            self._stage.judge(ADJUSTED_RULES)
        row = self._conn.execute(
            "select min(round(adj_close / close, 8)), max(round(adj_close / close, 8)) from pg_temp.papertick_stage"
        ).fetchone()
        if row and row[0] is not None:
            self._report.factors = (row[0], row[1])
        if self._options.adjusted:
            self._stage.rescale(PRICES)
            self._stage.judge(BAR_RULES, _SAID)


# What a message about a bar adds: its values as they came.
_SAID: LiteralString = """': ' || concat_ws(', ', 'open ' || open, 'high ' || high, 'low ' || low, 'close ' || close,
                                  'volume ' || volume)"""


def _zone(name: str | None) -> ZoneInfo | None:
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"there is no time zone {name!r}", hint="Like Asia/Kolkata or America/New_York.") from None


def _outside_sessions(conn: Connection[Any], calendar: str) -> int:
    """Bars to be stored that lie outside (open_at, close_at] of every session."""
    if calendar == "ALWAYS":
        return 0
    query: LiteralString = """select coalesce(sum(t.bars), 0)::bigint
                 from (select logical_time, count(*) as bars from pg_temp.papertick_stage group by logical_time) t
                where """
    row = conn.execute(query + OUTSIDE, {"calendar": calendar}).fetchone()
    assert row
    return int(row[0])


def gaps(conn: Connection[Any], feed: str, calendar: str) -> int | None:
    """Sessions in which a symbol of papertick_symbol has no bar in the feed, between its first and last one there."""
    if calendar == "ALWAYS":
        return None
    row = conn.execute(
        """select count(*)
             from pg_temp.papertick_symbol s
            cross join lateral (select min(b.logical_time) as first, max(b.logical_time) as last
                                  from public.price_bar b where b.feed = %(feed)s and b.symbol = s.symbol) x
             join public.market_session m on m.calendar = %(calendar)s and m.open_at >= x.first and m.close_at <= x.last
            where not exists (select from public.price_bar b
                               where b.feed = %(feed)s and b.symbol = s.symbol
                                 and b.logical_time > m.open_at and b.logical_time <= m.close_at)""",
        {"feed": feed, "calendar": calendar},
    ).fetchone()
    return int(row[0]) if row else 0


def notify(conn: Connection[Any], feed: str) -> None:
    """When this transaction commits, tell workers that the feed has new bars. A name too long to send is any feed."""
    conn.execute("select pg_notify(%s, %s)", [CHANNEL, feed if len(feed.encode()) < 8000 else ""])
