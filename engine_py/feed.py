"""Market data in: bars from files of any size, in constant memory, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from importlib import resources
from typing import Any

from psycopg import Connection

from engine_py.actions import load_actions
from engine_py.bars import NoSession
from engine_py.csvfile import Bad, check_symbol, check_time
from engine_py.dialects.base import Dialect, Options, Reader
from engine_py.dialects.times import Clock
from engine_py.errors import InvalidError, NotFoundError, mapped
from engine_py.inputs import Source, opened
from engine_py.loading import CHANNEL, Load, notify
from engine_py.sessions import SHIPPED, load_sessions, more_sessions, provide
from engine_py.staging import FeedError, LoadReport, Progress, refused

__all__ = [
    "CHANNEL",
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
    "notify",
]


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
    time, date, and open, high, low, close; volume may be missing or empty; others are ignored, but that beside
    an adj_close `adjusted` must be said, and takes the prices to its level. A time is an RFC 3339 instant
    with its offset, the close of the bar;
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
        load = _start(conn, report, feed, calendar, options)
        for source in sources:
            with opened(source) as files:
                for file in files:
                    load.add(file, progress)
        load.finish(skip_bad=skip_bad, strict=strict)
    return report


def load_rows(
    conn: Connection[Any],
    open_rows: Callable[[Clock], Reader],
    report: LoadReport,
    *,
    feed: str,
    calendar: str | None,
    dialect: Dialect,
    options: Options,
    skip_bad: bool,
    strict: bool,
) -> LoadReport:
    """As load_files, for rows that come from no file; `dialect`: whose they look like."""
    with conn.transaction(force_rollback=report.dry_run):
        load = _start(conn, report, feed, calendar, options)
        try:
            load.take(dialect)
            clock = load.clock()
            rows = open_rows(clock)
            options.refuse_all_but(rows.takes, report.format)
            load.fill(rows, None, "")
            clock.judge()
        except Bad as bad:
            raise refused(report, bad) from None
        load.finish(skip_bad=skip_bad, strict=strict)
    return report


def _start(conn: Connection[Any], report: LoadReport, feed: str, calendar: str | None, options: Options) -> Load:
    try:
        if options.symbol is not None:
            check_symbol(options.symbol)
    except Bad as bad:
        raise refused(report, bad) from None
    followed = open_feed(conn, feed, calendar, options.adjusted)
    row = conn.execute("select adjusted from public.feed where feed = %s", [feed]).fetchone()
    return Load(
        conn,
        report,
        feed,
        calendar=followed,
        closes=closes_of(conn, followed),
        is_adjusted=bool(row and row[0]),
        options=options,
    )


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
    if calendar:
        provide(conn, calendar)
    if calendar and not conn.execute("select from public.calendar where calendar = %s", [calendar]).rowcount:
        hint = "Load it: papertick calendar load FILE --calendar NAME --time-zone ZONE."
        hint += f" {', '.join(sorted(SHIPPED))} come along."
        raise InvalidError(f"there is no calendar {calendar}", code="TE101", hint=hint)


def _require_date(text: str) -> None:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise Bad("22008", f"there is no such date: {text}") from None


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

    first, last = min(closes, default=""), max(closes, default="")

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
            _require_date(text)
            if first < text < last:
                raise NoSession("22008", f"{calendar} has no session on {text}")
            known = f"{first} to {last}" if closes else "none"
            message = f"{text} is outside the sessions loaded of {calendar} ({known}); {more_sessions(calendar)}"
            raise Bad("TE203", message)
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
        report = load_csv(conn, stocks, feed=feed, calendar="XNYS", adjusted=False)
        load_actions(conn, actions, skip_bad=True)
    return report
