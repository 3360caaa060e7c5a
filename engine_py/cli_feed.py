"""papertick feed load, load-actions, export: market data from files and back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Literal

import click
from psycopg import Connection

from engine_py import barexport
from engine_py import feed as feeds
from engine_py.cli_base import DATE, MOMENT, Group, emit, session, show_progress
from engine_py.cli_loaded import show_progress_of, show_report
from engine_py.dialects import DIALECTS, MAPPABLE
from engine_py.dialects.base import Options
from engine_py.dialects.numbers import SEPARATORS
from engine_py.dialects.said import options_of, series_of
from engine_py.errors import UsageError
from engine_py.render import counted

_FORMATS = ("auto", *(dialect.name for dialect in DIALECTS))
_KINDS: dict[str, Literal["SPLIT", "DIVIDEND"]] = {"split": "SPLIT", "dividend": "DIVIDEND"}
_STRICT = click.option("--strict", is_flag=True, help="Refuse what is otherwise stored with a warning.")
_SKIP_BAD = click.option("--skip-bad", is_flag=True, help="Leave bad lines out instead of refusing the file.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Do all of it, say what it came to, and take it back.")
_FROM_FILE = (
    click.option(
        "--format",
        "form",
        type=click.Choice(_FORMATS),
        metavar="FORMAT",
        default="auto",
        show_default=True,
        help=f"One of {', '.join(_FORMATS)}.",
    ),
    click.option("--symbol", help="Symbol of every bar, for files that have no such column."),
    click.option("--map", "names", metavar="OURS=THEIRS,…", help=f"Where columns stand: {', '.join(MAPPABLE)}."),
    click.option("--date-format", metavar="FORMAT", help="Like dd-mmm-yyyy, mm/dd/yyyy, epoch, epoch-ms."),
    click.option("--time-zone", metavar="ZONE", help="Whose clock times without an offset are of."),
    click.option("--interval", help="Times are opens of bars so long: minute, 5minute, hour, day."),
    click.option("--date", type=DATE, help="The date of all bars, where the file does not say it."),
    click.option("--decimal-comma", is_flag=True, help="Numbers are written 1234,5."),
    click.option("--thousands", type=click.Choice(list(SEPARATORS)), help="What groups the digits of numbers."),
    click.option("--delimiter", help="What parts the fields, if no comma does; 'tab'."),
    click.option("--series", metavar="A,B,…", help="Series or groups to read of a bhavcopy; 'all'."),
    click.option("--only", metavar="A,B,…", help="Symbols to read, of a file that has more."),
    click.option("--adjusted/--raw", default=None, help="Whether prices have splits and dividends in them."),
)


def _of_file(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_FROM_FILE):
        command = option(command)
    return command


@click.group(cls=Group)
def feed() -> None:
    """Market data."""


@feed.command("load")
@click.argument("file", nargs=-1, required=True)
@click.option("--feed", default="default", show_default=True, help="Feed to load into; made if it is new.")
@click.option("--calendar", help="Calendar that a new feed follows. Default: ALWAYS.")
@_of_file
@_STRICT
@_SKIP_BAD
@_DRY_RUN
def load(
    file: tuple[str, ...],
    feed: str,
    calendar: str | None,
    strict: bool,
    skip_bad: bool,
    dry_run: bool,
    **said: Any,
) -> None:
    """Load bars from each FILE ('-' reads standard input; gzip and zip are fine), all of them or nothing.

    The format is told by the header; docs/data.md says what each takes. Plain CSV has columns, by name: symbol;
    logical_time, timestamp, datetime, time or date; open, high, low, close; volume if known. A time carries its
    offset and is the bar's close; a date stands for that session's close. A file may be loaded again.

    A feed of adjusted prices gets no splits or dividends. --adjusted takes prices to the level of an adjusted
    close, where the file has one.
    """
    options = _options(**said)

    def work(conn: Connection) -> feeds.LoadReport:
        return feeds.load_files(
            conn,
            file,
            feed=feed,
            calendar=calendar,
            options=options,
            skip_bad=skip_bad,
            dry_run=dry_run,
            strict=strict,
            progress=show_progress_of if show_progress() else None,
        )

    _run(work, file, dry_run=dry_run)


def _run(work: Callable[[Connection], feeds.LoadReport], files: tuple[str, ...], *, dry_run: bool) -> None:
    with session() as s:
        try:
            report = s.run(work, repeatable="-" not in files)
        except feeds.FeedError as refused:
            if not dry_run:
                raise
            show_report(refused.report, stands=False, hint=refused.hint)
            sys.exit(1)
    show_report(report)


def _options(form: str, names: str | None, **said: Any) -> Options:
    return options_of(format=form, names=_names(names), **said)


def _names(text: str | None) -> dict[str, str]:
    """close=Price,volume= as {"close": "Price", "volume": ""}."""
    names: dict[str, str] = {}
    for part in (text or "").split(","):
        ours, equals, theirs = part.partition("=")
        ours = {"date": "time", "logical_time": "time"}.get(ours.strip().lower(), ours.strip().lower())
        if not part.strip():
            continue
        if not equals or ours not in MAPPABLE or ours in names:
            raise UsageError(
                f"--map {part.strip()!r} is not OURS=THEIRS", hint=f"Ours, once each: {', '.join(MAPPABLE)}."
            )
        names[ours] = theirs.strip()
    return names


@feed.command("load-actions")
@click.argument("file")
@click.option("--symbol", help="Symbol of every row, for files that have no such column.")
@click.option("--series", metavar="A,B,…", help="Series to read of NSE's file. Default: EQ; 'all'.")
@click.option("--kind", type=click.Choice(("split", "dividend")), help="Only these. Default: both.")
@_STRICT
@_SKIP_BAD
@_DRY_RUN
def load_actions(
    file: str,
    symbol: str | None,
    series: str | None,
    kind: Literal["split", "dividend"] | None,
    strict: bool,
    skip_bad: bool,
    dry_run: bool,
) -> None:
    """Load splits and dividends from a CSV FILE ('-' reads standard input; gzip is fine).

    Columns, by name: symbol, ex_date, action_type (SPLIT or DIVIDEND); ratio_numerator and ratio_denominator
    (new units : old units) of a split; amount per unit and pay_date of a dividend. Or Yahoo's files of splits or of
    dividends, or NSE's of corporate actions; what their words do not say clearly is left out and listed.
    They hold in every feed that has the symbol, so its prices must be raw; runs that are past them already stay as
    they are. Dividends of one ex-date and pay date with different amounts add up. A file may be loaded again.
    """

    def work(conn: Connection) -> feeds.LoadReport:
        return feeds.load_actions(
            conn,
            file,
            symbol=symbol,
            series=series_of(series),
            kind=_KINDS[kind] if kind else None,
            skip_bad=skip_bad,
            dry_run=dry_run,
            strict=strict,
        )

    _run(work, (file,), dry_run=dry_run)


@feed.command("export")
@click.argument("feed")
@click.option("--symbol", "symbols", multiple=True, help="Only this one; may be given several times.")
@click.option("--from", "start", type=MOMENT, help="From this time on.")
@click.option("--to", "end", type=MOMENT, help="Up to this time.")
@click.option(
    "--format", "form", type=click.Choice(barexport.FORMATS), default="csv", show_default=True, help="Of the file."
)
@click.option("-o", "--output", default="-", show_default=True, help="File to write; '-' is standard output.")
def export(feed: str, symbols: tuple[str, ...], start: str | None, end: str | None, form: str, output: str) -> None:
    """Write the bars of FEED in order of symbol and time. Loaded into another feed they are the same bars."""

    def work(conn: Connection) -> int:
        return barexport.export(conn, feed, output, form=form, symbols=list(symbols) or None, start=start, end=end)

    with session() as s:
        rows = s.run(work, repeatable=output != "-")
    if output != "-":
        emit({"feed": feed, "output": output, "rows": rows}, f"{counted(rows, 'bar')} of {feed} written to {output}")
