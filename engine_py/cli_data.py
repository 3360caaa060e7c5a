"""papertick feed, calendar, instrument: market data in, and what can be traded."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict

import click
from psycopg import Connection

from engine_py import csvfile, sessions
from engine_py import feed as feeds
from engine_py.barlines import Lines
from engine_py.cli_base import NEGATIVE, NUMBER, SECONDS, Group, Row, emit, options, select, session
from engine_py.cli_feed import feed
from engine_py.cli_loaded import show_report as _report
from engine_py.errors import UsageError
from engine_py.follow import Follower
from engine_py.render import table, text, to_json_line
from engine_py.signals import on_stop


@feed.command("follow")
@click.argument("file")
@click.option("--feed", default="default", show_default=True, help="Feed to load into; made if it is new.")
@click.option("--calendar", help="Calendar that a new feed follows. Default: ALWAYS.")
@click.option("--flush", default=1.0, show_default=True, type=SECONDS, help="Store what has waited so many seconds.")
@click.option("--strict", is_flag=True, help="Stop at the first bad line; what came before it is stored.")
def feed_follow(file: str, feed: str, calendar: str | None, flush: float, strict: bool) -> None:
    """Store bars as they come, from a FILE or a pipe ('-' reads standard input), one JSON object a line.

    Its names are the columns of feed load; a price alone stands for open, high, low and close. The bars of one
    time are stored together, when a later time comes, after --flush seconds, or at the end; workers are told.
    A bad line is named on standard error and left out; exit code 1 in the end.
    """

    def complain(problem: csvfile.Problem) -> None:
        words = f"line {problem.line}: {problem.message} [{problem.code}]"
        click.echo(to_json_line(problem._asdict()) if options().json else words, err=True)

    with session() as s:
        lines = Lines(_descriptor(file))
        with on_stop(lines.stop):
            report = Follower(s, feed, calendar, strict=strict, on_problem=complain).follow(lines, flush)
    _report(report, listed=False)
    if report.skipped_count:
        sys.exit(1)


def _descriptor(file: str) -> int:
    """Of standard input, or of a file that stays open to the end: a thread may still be reading it."""
    if file == "-":
        return 0
    try:
        return os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as exc:
        raise UsageError(f"cannot read {file}: {exc.strerror or exc}") from exc


@feed.command("list")
def feed_list() -> None:
    """Feeds, with how much they hold and when."""
    with session() as s:
        rows = [asdict(info) for info in s.run(feeds.list_feeds)]
    emit(rows, table(rows, ("feed", "calendar", "adjusted", "symbols", "bars", "first", "last")))


@click.group(cls=Group)
def calendar() -> None:
    """Market sessions."""


@calendar.command("load")
@click.argument("source")
@click.option("--calendar", help="Calendar to load a file into; made if it is new.")
@click.option(
    "--time-zone",
    help="The market's IANA time zone, like Asia/Kolkata. A new calendar needs it, unless the file's times are in UTC.",
)
@click.option("--skip-bad", is_flag=True, help="Leave bad lines out instead of refusing the file.")
def calendar_load(source: str, calendar: str | None, time_zone: str | None, skip_bad: bool) -> None:
    """Load sessions from a CSV file ('-' reads standard input; gzip is fine), or a calendar that comes along, by name.

    Columns of a file: session_date, open_at, close_at; the latter two as 09:15 on the market's clock (24:00 is the
    end of the day), or with date and offset. XNYS, XBOM, XNSE and 24/7 come along; a newer release may know more of
    their sessions, and what differs from it is named. What is stored is never changed.
    """
    if calendar is None and source not in sessions.SHIPPED:
        hint = f"These come along: {', '.join(sorted(sessions.SHIPPED))}."
        raise UsageError(f"{source} is no calendar that comes along, and a file needs --calendar", hint=hint)
    if calendar is None and (time_zone or skip_bad):
        raise UsageError("--time-zone and --skip-bad are for files")

    def load(conn: Connection) -> feeds.LoadReport:
        if calendar is None:
            return sessions.load_shipped(conn, source)
        return feeds.load_sessions(conn, source, calendar=calendar, time_zone=time_zone, skip_bad=skip_bad)

    with session() as s:
        found = s.run(lambda conn: sessions.differences(conn, source)) if calendar is None else {}
        report = s.run(load, repeatable=source != "-")
    _report(report, listed=calendar is not None)
    for what, days in found.items():
        done = "; added now" if what == "not stored" else "; left as it is"
        click.echo(f"{what}: {', '.join(map(text, days))}{done}", err=True)


@click.group(cls=Group)
def instrument() -> None:
    """What can be traded, and in which steps."""


_INSTRUMENT = ("symbol", "quantity_step", "price_tick", "product")


@instrument.command("set", context_settings=NEGATIVE)
@click.argument("symbol")
@click.option("--step", type=NUMBER, help="Smallest tradable quantity. Default of a new one: 0.000001.")
@click.option("--tick", type=NUMBER, help="Price grid of its orders; 'none': any price.")
@click.option("--product", help="Its kind, for fee schedules that charge by it. Default of a new one: EQUITY.")
def instrument_set(symbol: str, step: str | None, tick: str | None, product: str | None) -> None:
    """Set the terms of SYMBOL, which is made if it is new; what is not given stays.

    They hold for every feed and run, for orders that are placed from now on.
    """

    def store(conn: Connection) -> Row:
        with conn.transaction():
            conn.execute("insert into instrument (symbol) values (%s) on conflict do nothing", [symbol])
            (row,) = select(
                conn,
                """update instrument set quantity_step = coalesce(%s::numeric, quantity_step),
                          price_tick = case when %s = 'none' then null else coalesce(%s::numeric, price_tick) end,
                          product = coalesce(%s, product)
                    where symbol = %s returning *""",
                *(step, tick, None if tick == "none" else tick, product, symbol),
            )
        return row

    with session() as s:
        row = s.run(store)
    emit(row, f"{symbol}: " + ", ".join(f"{name} {text(row[name])}" for name in _INSTRUMENT[1:]))


@instrument.command("list")
def instrument_list() -> None:
    """Every instrument, with its terms."""
    with session() as s:
        rows = s.select('select * from instrument order by symbol collate "C"')
    emit(rows, table(rows, _INSTRUMENT))
