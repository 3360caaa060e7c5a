"""Market data in: bars from CSV files of any size, in constant memory, all or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from importlib import resources
from typing import Any, LiteralString

from psycopg import Connection, sql

from engine_py.actions import load_actions
from engine_py.csvfile import (
    DATE,
    INSTANT,
    NUMBER,
    SYMBOL,
    Bad,
    Column,
    Source,
    Table,
    check_symbol,
    check_time,
    open_text,
)
from engine_py.errors import InvalidError, NotFoundError, mapped
from engine_py.sessions import SHIPPED, load_sessions, more_sessions, provide
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


BAR = (
    Column("symbol", ("symbol",), SYMBOL, "a symbol", hint="If all of it is one symbol: --symbol NAME."),
    Column(
        "logical_time",
        ("logical_time", "timestamp", "datetime", "time", "date"),
        f"{INSTANT}|{DATE}",
        "a date like 2024-01-31, or a time with its offset like 2024-01-31T16:00:00-05:00",
        "22007",
    ),
    *(Column(name, (name,), NUMBER, "a finite decimal number") for name in ("open", "high", "low", "close")),
    Column("volume", ("volume",), f"(?:{NUMBER})?", "empty or a finite decimal number", optional=True),
)
# Line numbers for what the constraints of price_bar would refuse, judged as price_bar stores it: rounded to 8 decimals.
BAR_RULES = (
    (
        "logical_time >= '1900-01-01 00:00+00' and logical_time < '2300-01-01 00:00+00'",
        "22008",
        "the time is not within 1900 to 2299",
    ),
    ("round(least(open, high, low, close), 8) > 0", "23514", "a price is not above 0"),
    ("round(greatest(open, high, low, close), 8) < 1e12", "22003", "a price is not below 1e12"),
    (
        "round(low, 8) <= round(least(open, close), 8) and round(greatest(open, close), 8) <= round(high, 8)",
        "23514",
        "low <= open, close <= high does not hold",
    ),
    ("volume is null or volume >= 0", "23514", "volume is below 0"),
    ("volume is null or round(volume, 4) < 1e20", "22003", "volume is not below 1e20"),
)
SAME_BAR = """(b.open, b.high, b.low, b.close)
                = (s.open::numeric(20,8), s.high::numeric(20,8), s.low::numeric(20,8), s.close::numeric(20,8))
                and b.volume is not distinct from s.volume::numeric(24,4)"""

# Whether the time of t lies outside of every session of a calendar that has them as rows.
OUTSIDE: LiteralString = """(select m.open_at < t.logical_time from public.market_session m
                              where m.calendar = %(calendar)s and m.close_at >= t.logical_time
                              order by m.close_at limit 1) is not true"""


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
    time, date, and open, high, low, close; volume may be missing or empty; others are ignored. A time is an RFC 3339
    instant with its offset, the close of the bar; a bare date stands for the close of that date's session.
    Bars equal to stored ones are counted as unchanged; stored bars are never changed.
    A bad line refuses the whole file (FeedError), or with `skip_bad` just itself. One transaction; safe to repeat.
    """
    report = LoadReport(f"feed {feed}", dry_run)
    with open_text(source) as text, conn.transaction(force_rollback=dry_run):
        calendar = open_feed(conn, feed, calendar, adjusted)
        closes = closes_of(conn, calendar)
        try:
            if symbol is not None:
                check_symbol(symbol)
            table = Table(text, BAR if symbol is None else BAR[1:], {"logical_time": closes})
            if symbol is not None and "symbol" in table.names:
                raise Bad("42701", "the file has a symbol column, and a symbol was given as well")
        except Bad as bad:
            raise refused(report, bad) from None
        stage = Stage(
            conn,
            sql.SQL(
                "symbol text default {}, logical_time timestamptz,"
                " open numeric, high numeric, low numeric, close numeric, volume numeric"
            ).format(sql.Literal(symbol)),
            report,
        )
        stage.fill(table, progress)
        stage.judge(BAR_RULES)
        stage.refuse_repeats("symbol, logical_time")
        stage.summarize(
            """with s as materialized (
                 select symbol, min(logical_time) as first, max(logical_time) as last
                   from pg_temp.papertick_stage group by symbol),
               known as (
                 insert into public.instrument (symbol) select symbol from s order by symbol collate "C"
                     on conflict do nothing)
               select count(*), min(first), max(last) from s"""
        )
        stored = sql.SQL("(select * from public.price_bar where feed = {})").format(sql.Literal(feed))
        stage.compare(stored, "symbol, logical_time", SAME_BAR)
        stage.report_flaws(skip_bad=skip_bad, hint="Correct these lines, or leave them out with --skip-bad.")
        report.outside_sessions = _outside_sessions(conn, calendar)
        if not dry_run:
            stage.store("public.price_bar", {"feed": feed}, "symbol, logical_time, open, high, low, close, volume")
            if report.rows:
                notify(conn, feed)
        stage.drop()
    return report


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
    if calendar:
        provide(conn, calendar)
    if calendar and not conn.execute("select from public.calendar where calendar = %s", [calendar]).rowcount:
        hint = "Load it: papertick calendar load FILE --calendar NAME --time-zone ZONE."
        hint += f" {', '.join(sorted(SHIPPED))} come along."
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
            if closes and min(closes) < text < max(closes):
                raise Bad("22008", f"{calendar} has no session on {text}")
            known = f"{min(closes)} to {max(closes)}" if closes else "none"
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
        report = load_csv(conn, stocks, feed=feed, calendar="XNYS")
        load_actions(conn, actions, skip_bad=True)
    return report
