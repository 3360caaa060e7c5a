"""Market data in: bars from files of any size, in constant memory, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from importlib import resources
from typing import Any, LiteralString
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from psycopg import Connection, sql

from engine_py.actions import load_actions
from engine_py.adjustment import contradictions
from engine_py.bars import ADJUSTED_CLOSE, ADJUSTED_RULES, BAR_RULES, OUTSIDE, PRICES, SAME_BAR, NoSession
from engine_py.csvfile import Bad, check_symbol, check_time
from engine_py.dialects import Rows, detect
from engine_py.dialects.base import RAW, UNKNOWN, Dialect, Options, Reader
from engine_py.dialects.base import Source as rows_source
from engine_py.dialects.times import Clock
from engine_py.errors import InvalidError, NotFoundError, UsageError, mapped
from engine_py.inputs import PARQUET, Opened, Source, opened
from engine_py.sessions import load_sessions, load_xnys
from engine_py.staging import FeedError, LoadReport, Progress, Stage, refused

__all__ = [
    "FeedError",
    "FeedInfo",
    "LoadReport",
    "close_of",
    "list_feeds",
    "load_actions",
    "load_bundled",
    "load_csv",
    "load_files",
    "load_rows",
    "load_sessions",
]


CHANNEL = "papertick_bars"  # notified with the name of a feed that has new bars


@dataclass(frozen=True)
class FeedInfo:
    feed: str
    calendar: str
    adjusted: bool
    symbols: int
    bars: int
    first: datetime | None
    last: datetime | None


@mapped()
def load_csv(
    conn: Connection[Any],
    source: Source,
    *,
    feed: str,
    calendar: str | None = None,
    adjusted: bool | None = None,
    symbol: str | None = None,
    skip_bad: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> LoadReport:
    """Load bars into `feed`, which is created if it is new (following `calendar`, by default ALWAYS; `adjusted`: its
    prices are adjusted for splits and dividends, so that none are applied; by default they are not).

    Columns, by name in any case and order: symbol (or the `symbol` given), one of logical_time, timestamp, datetime,
    time, date, and open, high, low, close; volume may be missing or empty; others are ignored, but that `adjusted`
    takes the prices to the level of an adj_close. A time is an RFC 3339 instant with its offset, the close of the bar;
    a bare date stands for the close of that date's session.
    Bars equal to stored ones, or to earlier ones of the file, are counted as unchanged; stored bars are never changed.
    A bad line refuses the whole file (FeedError), or with `skip_bad` just itself. One transaction; safe to repeat.
    """
    options = Options(format="generic", symbol=symbol, adjusted=adjusted)
    return load_files(
        conn,
        [source],
        feed=feed,
        calendar=calendar,
        options=options,
        skip_bad=skip_bad,
        dry_run=dry_run,
        progress=progress,
    )


@mapped()
def load_files(
    conn: Connection[Any],
    sources: Sequence[Source],
    *,
    feed: str,
    calendar: str | None = None,
    options: Options,
    skip_bad: bool = False,
    dry_run: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
) -> LoadReport:
    """As load_csv, for files of any dialect, gzip and zip archives included: all of them or nothing.

    `strict`: what would be a warning refuses. `dry_run` does the same and takes it back.
    """
    report = LoadReport(f"feed {feed}", dry_run, files=0)
    with conn.transaction(force_rollback=dry_run):
        load = _Load(conn, report, feed, calendar, options)
        formats = []
        for source in sources:
            with opened(source) as files:
                for file in files:
                    formats.append(load.add(file, progress))
        report.format = ", ".join(dict.fromkeys(formats))
        load.finish(skip_bad=skip_bad, strict=strict)
    return report


def load_rows(
    conn: Connection[Any],
    open_rows: Callable[[Clock], Reader],
    report: LoadReport,
    *,
    feed: str,
    calendar: str | None,
    options: Options,
    skip_bad: bool,
) -> LoadReport:
    """As load_files, for rows that come from no file."""
    with conn.transaction(force_rollback=report.dry_run):
        load = _Load(conn, report, feed, calendar, options)
        try:
            rows = open_rows(load.clock())
            load.fill(rows, None, "")
        except Bad as bad:
            raise refused(report, bad) from None
        load.finish(skip_bad=skip_bad, strict=False)
    return report


class _Load:
    """Bars on their way into a feed, in the transaction of the caller."""

    def __init__(
        self, conn: Connection[Any], report: LoadReport, feed: str, calendar: str | None, options: Options
    ) -> None:
        self._conn, self._report, self._feed, self._options = conn, report, feed, options
        try:
            if options.symbol is not None:
                check_symbol(options.symbol)
        except Bad as bad:
            raise refused(report, bad) from None
        self._calendar = open_feed(conn, feed, calendar, options.adjusted)
        self._closes = closes_of(conn, self._calendar)
        self._zone = _zone(options.time_zone)
        self._stage = Stage(
            conn,
            sql.SQL(
                "symbol text default {}, logical_time timestamptz,"
                " open numeric, high numeric, low numeric, close numeric, volume numeric, adj_close numeric"
            ).format(sql.Literal(options.symbol)),
            report,
        )
        self._has_adjusted = False

    def clock(self) -> Clock:
        return Clock(self._closes, self._calendar == "ALWAYS", None, self._zone, self._options.interval)

    def add(self, file: Opened, progress: Progress | None) -> str:
        """The rows of a file. Returns the name of its dialect."""
        is_parquet = file.start == PARQUET
        source = rows_source(file.name, file.stem, file.text, binary=file.binary, is_parquet=is_parquet)
        self._report.files += 1
        line = 1
        try:
            if file.start[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise Bad("22021", "it is UTF-16", "Convert it: iconv -f UTF-16 -t UTF-8 FILE | papertick feed load -")
            dialect = detect(source, self._options)
            _require_prices(self._conn, self._feed, dialect, self._options)
            rows = dialect.open(source, self._options, self.clock())
            self.fill(rows, progress, file.name)
        except Bad as bad:
            raise refused(self._report, bad, line, file.name if self._report.files > 1 else "") from None
        return dialect.name

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
            raise InvalidError(report.warnings[0], code="TE101", detail="\n".join(report.warnings[1:]) or None,
                               hint="Load without --strict to have it all the same.")  # fmt: skip
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


def _require_prices(conn: Connection[Any], feed: str, dialect: Dialect, options: Options) -> None:
    """Raise unless it is known whether the prices of this dialect are adjusted, and they fit the feed."""
    if dialect.prices == UNKNOWN and options.adjusted is None:
        raise UsageError(
            f"{dialect.what}: the format does not say whether its prices are adjusted",
            hint=f"Say it: --adjusted or --raw. docs/data.md says what {dialect.name} prices are.",
        )
    if dialect.prices == RAW:
        if options.adjusted:
            raise UsageError(f"prices of the format {dialect.name} are raw", hint="Load them without --adjusted.")
        open_feed(conn, feed, None, False)


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
    """Sessions in which a symbol of the stage has no bar in the feed, between its first and its last one there."""
    if calendar == "ALWAYS":
        return None
    row = conn.execute(
        """select count(*)
             from (select symbol, min(logical_time) as first, max(logical_time) as last
                     from pg_temp.papertick_stage group by symbol) s
             join public.market_session m on m.calendar = %(calendar)s and m.open_at >= s.first and m.close_at <= s.last
            where not exists (select from public.price_bar b
                               where b.feed = %(feed)s and b.symbol = s.symbol
                                 and b.logical_time > m.open_at and b.logical_time <= m.close_at)""",
        {"feed": feed, "calendar": calendar},
    ).fetchone()
    return int(row[0]) if row else 0


def notify(conn: Connection[Any], feed: str) -> None:
    """When this transaction commits, tell workers that the feed has new bars. A name too long to send is any feed."""
    conn.execute("select pg_notify(%s, %s)", [CHANNEL, feed if len(feed.encode()) < 8000 else ""])


def open_feed(conn: Connection[Any], feed: str, calendar: str | None, adjusted: bool | None = None) -> str:
    """The calendar of the feed. Two loads of one feed queue up here, so that the second finds what the first stored."""
    conn.execute("select pg_advisory_xact_lock(hashtextextended('papertick feed ' || %s, 0))", [feed])
    if not conn.execute("select from public.feed where feed = %s", [feed]).rowcount:
        _require_calendar(conn, calendar)
    conn.execute(
        "insert into public.feed (feed, calendar, adjusted) values (%s, coalesce(%s, 'ALWAYS'), coalesce(%s, false))"
        " on conflict do nothing",
        [feed, calendar, adjusted],
    )
    row = conn.execute("select calendar, adjusted from public.feed where feed = %s", [feed]).fetchone()
    assert row
    if calendar not in (None, row[0]):
        raise InvalidError(f"feed {feed} follows calendar {row[0]}, not {calendar}", code="TE101")
    if adjusted not in (None, row[1]):
        is_one, other = ("adjusted", "raw") if row[1] else ("raw", "adjusted")
        raise InvalidError(
            f"feed {feed} is of {is_one} prices, not of {other} ones", code="TE101", hint="Load into another feed."
        )
    return str(row[0])


def _require_calendar(conn: Connection[Any], calendar: str | None) -> None:
    if calendar == "XNYS":
        load_xnys(conn)
    if calendar and not conn.execute("select from public.calendar where calendar = %s", [calendar]).rowcount:
        hint = "Load it: papertick calendar load FILE --calendar NAME --time-zone ZONE. XNYS comes along."
        raise InvalidError(f"there is no calendar {calendar}", code="TE101", hint=hint)


def closes_of(conn: Connection[Any], calendar: str) -> Callable[[str], str | None]:
    """What a bar's time stands for: an instant for itself (None), a date for its session's close."""
    closes: dict[str, str] = dict(
        conn.execute(
            """select to_char(session_date, 'YYYY-MM-DD'),
                      to_char(close_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                 from public.market_session where calendar = %s""",
            [calendar],
        ).fetchall()
    )

    last = max(closes, default="")

    def close_of(text: str) -> str | None:
        if len(text) > 10:
            check_time(text)
            return None
        if calendar == "ALWAYS":  # its sessions are no rows: the UTC day, closing at its end
            try:
                return f"{date.fromisoformat(text) + timedelta(1)}T00:00:00Z"
            except (ValueError, OverflowError):
                raise Bad("22008", f"there is no such date, or none after it: {text}") from None
        if text not in closes:
            if closes and min(closes) < text < last:
                raise NoSession("22008", f"{calendar} has no session on {text}")
            raise Bad("TE203", f"{calendar} has no session on {text}")
        return closes[text]

    return close_of


@mapped()
def close_of(conn: Connection[Any], feed: str, day: str) -> str:
    """The instant that a date stands for in a feed: the close of that date's session."""
    row = conn.execute("select calendar from public.feed where feed = %s", [feed]).fetchone()
    if not row:
        raise NotFoundError("unknown feed", code="TE201", detail=f"feed={feed}", hint="See: papertick feed list")
    try:
        return closes_of(conn, row[0])(day) or day
    except Bad as bad:
        raise InvalidError(bad.message, code=bad.code) from None


def list_feeds(conn: Connection[Any]) -> list[FeedInfo]:
    """Every feed, with its number of symbols and bars and its first and last bar time."""
    with mapped():
        rows = conn.execute(
            """select f.feed, f.calendar, f.adjusted, count(b.symbol), coalesce(sum(b.bars), 0)::bigint,
                      min(b.first), max(b.last)
                 from public.feed f
                 left join (select feed, symbol, count(*) as bars, min(logical_time) as first, max(logical_time) as last
                              from public.price_bar group by feed, symbol) b using (feed)
                group by f.feed, f.calendar, f.adjusted order by f.feed collate "C"
            """
        ).fetchall()
    return [FeedInfo(*row) for row in rows]


@mapped()
def load_bundled(conn: Connection[Any], feed: str = "bundled") -> LoadReport:
    """Load the bundled data (see data/README.md): calendar XNYS, daily bars of five stocks, their splits and dividends.

    The report is of the bars. An action that is stored with other terms stays as it is. Safe to repeat.
    """
    data = resources.files("engine_py") / "data"
    with (
        conn.transaction(),
        (data / "stocks.csv.gz").open("rb") as stocks,
        (data / "corporate_actions.csv").open("rb") as actions,
    ):
        report = load_csv(conn, stocks, feed=feed, calendar="XNYS")
        load_actions(conn, actions, skip_bad=True)
    return report
