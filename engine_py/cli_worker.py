"""papertick worker: what is owed is ticked as bars arrive."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from engine_py.cli_base import SECONDS, TIME, Command, Session, emit, options, session
from engine_py.render import table, text, to_json_line
from engine_py.worker import Settings, Worker

_COLUMNS = (
    *("feed", "calendar", "running", "not_begun", "behind", "oldest_logical_time", "first_owed_time"),
    *("newest_bar_time", "lag_seconds"),
)
_WORDS = {
    "advance": "{logical_time} {feed}: {runs} runs, {lag_seconds} s behind its newest bar",
    "failed": "{feed}: run {run_id} of user {user_id} failed: {reason}",
    "waiting": "{feed}: waits, {message} [{code}]",
    "retry": "{feed}: {logical_time} is tried again: {message} [{code}]",
    "disconnected": "the connection is lost, trying again: {message}",
    "connected": "connected again",
}


class _Since(click.ParamType[str]):
    """A time, or one of two words."""

    name = "since"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        words = {"latest": "", "first": "-infinity"}
        return words[value] if value in words else TIME.convert(value, param, ctx)


@click.command(cls=Command)
@click.option(
    "--feed", "feeds", multiple=True, help="Feed to work on; may be repeated. Default: all with RUNNING runs."
)
@click.option(
    "--since",
    default="latest",
    show_default=True,
    type=_Since(),
    metavar="latest|first|TIME",
    help="Where a run that has never ticked begins: the newest bar, the feed's first, or the first from TIME on.",
)
@click.option(
    "--settle",
    default=0.5,
    show_default=True,
    type=SECONDS,
    help="Tick the newest time when it has had no further bar for so many seconds.",
)
@click.option(
    "--poll",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0.01, 3600),
    help="Look every so many seconds, if nothing is heard.",
)
@click.option(
    "--batch", default=200, show_default=True, type=click.IntRange(1, 100_000), help="Commit after so many runs."
)
@click.option("--once", is_flag=True, help="Tick what is owed now, then end; exit code 1 if a run went to ERROR.")
@click.option("--status", is_flag=True, help="Only print how far feeds and runs are.")
def worker(
    feeds: tuple[str, ...], since: str, settle: float, poll: float, batch: int, once: bool, status: bool
) -> None:
    """Tick every RUNNING run at each time of its feed as bars arrive, until SIGTERM or SIGINT.

    A run that has ticked owes every later time of its feed; those that lag do not hold up the others. Any number of
    workers may run at once, and be killed at any time. Prints a line for each time ticked on standard error, or with
    --json as one JSON document a line on standard output.
    """
    settings = Settings(feeds, since or None, settle, poll, batch, once)
    with session() as s:
        rows = _status(s, settings)  # refuses a feed that does not exist
        if status:
            emit(rows, table(rows, _COLUMNS))
            return
        loop = Worker(s, settings, _say)
        loop.run()
    if once and loop.failed_runs:
        sys.exit(1)


def _status(s: Session, settings: Settings) -> list[dict[str, Any]]:
    query = """select feed, calendar, running, not_begun, behind, oldest_logical_time, first_owed_time, first_owed_runs,
                      last_owed_time, last_owed_runs, newest_bar_time, newest_bars,
                      extract(epoch from lag)::bigint as lag_seconds
                 from unnest(%s::text[]) with ordinality n (name, k)
                cross join lateral feed_status(n.name, %s::timestamptz) order by n.k, feed collate "C" """
    return s.select(query, list(settings.feeds) or [None], settings.since)


def _say(event: Mapping[str, Any]) -> None:
    if options().json:
        click.echo(to_json_line(event))
    else:
        click.echo(_WORDS[event["event"]].format_map({key: text(value) for key, value in event.items()}), err=True)
