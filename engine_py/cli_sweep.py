"""papertick sweep, leaderboard: many runs that differ in their parameters, and who did best."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from engine_py import feed as feeds
from engine_py import sweeping
from engine_py.cli_base import (
    MOMENT,
    Command,
    Group,
    Row,
    Session,
    connection_string,
    emit,
    session,
    shared_options,
    show_progress,
)
from engine_py.errors import UsageError
from engine_py.grid import Grid, parse_part, read_file
from engine_py.render import counted, table

_NUMBERS = ("xirr", "twr", "max_drawdown", "sharpe", "funded", "equity")
_SHOWN = 20
_WIDTH = 48  # of a name in a table


class _Sweep(Group):
    """A group that does something by itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += shared_options()


_rank = click.option(
    "--rank", "--metric", "rank", metavar="METRIC", help="Rank by this metric of performance. Default: xirr."
)
_top = click.option("--top", type=click.IntRange(1), default=_SHOWN, show_default=True, help="How many to show.")


@click.group(cls=_Sweep, invoke_without_command=True)
@click.option("--name", help="Its name: the same command again goes on, another grid adds its runs.")
@click.option("--feed", help="Feed that the runs follow. Default: default.")
@click.option("--cash", help="Initial cash; several between commas.")
@click.option(
    "--run", "terms", metavar="TERMS", help="Options of the runs: 'slippage_bps=0,5 fee_schedule=IN_DELIVERY'"
)
@click.option("--sip", "sips", multiple=True, metavar="TERMS", help="'symbol=IBM,MSFT amount=250 frequency=MONTHLY …'")
@click.option("--rebalance", "rebalances", multiple=True, metavar="TERMS", help="'weights={\"IBM\":0.5} frequency=… …'")
@click.option("--order", "orders", multiple=True, metavar="TERMS", help="'symbol=IBM side=BUY quantity=10,20'")
@click.option("--grid", "file", type=click.Path(path_type=Path), help="A JSON or TOML file with all of these.")
@click.option("--from", "first", metavar="TIME", help="First time that the runs tick. Default: the feed's first.")
@click.option("--to", "last", type=MOMENT, help="Last time, or date: its close. Default: the feed's last.")
@_rank
@_top
@click.option(
    "--workers", type=click.IntRange(1, 64), help="Replays at a time. Default: as many as this machine has CPUs."
)
@click.option("--stop", "stops", is_flag=True, help="Stop the runs at the end.")
@click.option("--dry-run", is_flag=True, help="Make nothing; show how many runs there would be, and the first.")
@click.pass_context
def sweep(ctx: click.Context, /, name: str | None, stops: bool, dry_run: bool, **options: Any) -> None:
    """Run every combination of parameters as a run of its own, and rank them.

    TERMS are arguments of the verbs (create_sip, create_rebalance, place_order, start_run): NAME=VALUE, alternatives
    between commas, nothing for the default. Killed, it goes on where it was when it is called again.
    """
    if ctx.invoked_subcommand:
        return
    grids = _grids(options)
    if name is None and not dry_run:
        raise UsageError("the sweep needs a --name", hint="So that it can go on, be shown and be deleted.")
    with session() as s:
        _require_metric(s, options["rank"])
        wanted = sweeping.combinations(s, grids)
        if dry_run:
            lines = [sweeping.run_name(name or "sweep", parts) for parts in wanted]
            words = "\n".join([counted(len(lines), "run"), *lines[:_SHOWN], *["…"][: len(lines) > _SHOWN]])
            emit({"runs": len(lines), "names": lines}, words)
            return
        _run(s, sweeping.check_name(str(name)), wanted, options, stops)


def _require_metric(s: Session, rank: str | None) -> None:
    """Let the database refuse a metric that it does not have before the work is done, not after it."""
    s.call_rows("leaderboard", once=False, metric=rank, limit=0)


def _run(s: Session, name: str, wanted: list[Any], options: dict[str, Any], stops: bool) -> None:
    _bring_along(s, wanted)
    last = _closes(s, options["last"], wanted)
    with _bar(len(wanted), "make") as done:
        made = sweeping.make(s, name, wanted, done)
    with _bar(made.runs, "replay") as done:
        workers = options["workers"] or min(os.cpu_count() or 1, 16)
        failed = sweeping.advance(s, connection_string(), name, last, workers, done)
    stopped = sweeping.stop(s, name) if stops else 0
    words = f"{counted(made.runs, 'run')}, {made.new} new" + f", {stopped} stopped" * bool(stopped)
    _emit_board(s, name, options, {"runs": made.runs, "new": made.new, "stopped": stopped}, words, failed)
    if failed:
        sys.exit(1)


def _grids(options: dict[str, Any]) -> list[Grid]:
    parts = [(kind, parse_part(text)) for kind in ("rebalance", "sip", "order") for text in options[f"{kind}s"]]
    terms = parse_part(options["terms"] or "")
    for option, key in (("feed", "feed"), ("cash", "cash"), ("first", "from")):
        if options[option] is not None:
            terms[key] = parse_part(f"{key}={options[option]}")[key]
    if options["file"]:
        if parts or options["terms"]:
            raise UsageError("--grid comes without --sip, --rebalance, --order and --run")
        return [_with_terms(grid, terms) for grid in read_file(options["file"])]
    if not parts:
        raise UsageError("nothing to sweep", hint="Give --sip, --rebalance, --order or --grid; see --help.")
    return [Grid((("run", terms), *parts))]


def _with_terms(grid: Grid, terms: dict[str, list[str]]) -> Grid:
    own = [values for kind, values in grid.parts if kind == "run"]
    return Grid((("run", {**(own[0] if own else {}), **terms}), *(part for part in grid.parts if part[0] != "run")))


def _bring_along(s: Session, wanted: list[Any]) -> None:
    """The data that comes with papertick needs no loading."""
    is_asked = any(parts[0].terms.get("feed") == "bundled" for parts in wanted)
    if is_asked and not s.select("select from feed where feed = 'bundled'"):
        s.run(lambda conn: feeds.load_bundled(conn))


def _closes(s: Session, last: str | None, wanted: list[Any]) -> str | None:
    if last is None or len(last) != len("2024-01-31"):
        return last
    feed = wanted[0][0].terms.get("feed", "default")
    return s.run(lambda conn: feeds.close_of(conn, feed, last))


@sweep.command("list")
def sweep_list() -> None:
    """Every sweep, and how far its runs are."""
    with session() as s:
        rows = sweeping.sweeps(s)
    emit(rows, table(rows, ("name", "runs", "running", "least_advanced", "most_advanced", "feeds")))


@sweep.command("show")
@click.argument("name")
@_rank
@_top
def sweep_show(name: str, **options: Any) -> None:
    """The best runs of a sweep, with the parameters in which they differ."""
    with session() as s:
        runs = len(_runs(s, name))
        _emit_board(s, name, options, {"runs": runs}, counted(runs, "run"), [])


@sweep.command("delete")
@click.argument("name")
def sweep_delete(name: str) -> None:
    """Delete the runs of a sweep with all they own, and their users."""
    with session() as s:
        found = _runs(s, name)
        with _bar(len(found), "delete") as done:
            count = sweeping.delete(s, name, done)
    emit({"name": name, "deleted": count}, f"{counted(count, 'run')} of sweep {name} deleted")


def _runs(s: Session, name: str) -> list[Row]:
    found = sweeping.runs(s, sweeping.check_name(name))
    if not found:
        raise UsageError(f"there is no sweep {name}", hint="See: papertick sweep list")
    return found


@click.command(cls=Command)
@click.argument("metric", required=False)
@_rank
@_top
@click.option("--feed", help="Only runs of this feed.")
@click.option("--like", metavar="PATTERN", help="Only runs whose name is like this pattern of SQL: 'monthly%'")
def leaderboard(metric: str | None, rank: str | None, top: int, feed: str | None, like: str | None) -> None:
    """The best of all runs by METRIC, one of performance; --rank says it too. Names are shortened in the table."""
    if metric and rank and metric != rank:
        raise UsageError(f"two metrics, {metric} and {rank}", hint="Give one.")
    rank = metric or rank
    with session() as s:
        rows = s.call_rows("leaderboard", once=False, metric=rank, feed=feed, limit=top, name_like=like)
    lines = [
        {
            **_rounded(row),
            "name": _shortened(row["name"]),
            "last_date": row["last_logical_time"] and row["last_logical_time"].date(),
        }
        for row in rows
    ]
    about = ("rank", "user_id", "run_id", "name", "feed", "currency", "last_date")
    emit(rows, table(lines, (*about, *_columns(rank))))


def _shortened(name: str) -> str:
    """With its middle left out: runs of a sweep begin alike, and differ at both ends."""
    half = (_WIDTH - 1) // 2
    return name if len(name) <= _WIDTH else f"{name[: _WIDTH - 1 - half]}…{name[-half:]}"


def _columns(rank: str | None) -> list[str]:
    return list(dict.fromkeys((rank or "xirr", *_NUMBERS)))


def _rounded(row: Row) -> Row:
    """For people: money to cents, shares and ratios to four decimals."""
    money = ("funded", "cash", "market_value", "equity", "bought", "sold", "fees", "realized_pnl", "unrealized_pnl")
    return {
        name: round(value, 2 if name in money else 4) if isinstance(value, Decimal) else value
        for name, value in row.items()
    }


def _emit_board(
    s: Session, name: str, options: dict[str, Any], document: Row, words: str, failed: list[sweeping.Failure]
) -> None:
    rows = sweeping.board(s, name, options["rank"], options["top"])
    labels = sweeping.varying(s, name)
    lines = [{**_rounded(row), **{label: row["parameters"].get(label) for label in labels}} for row in rows]
    parts = [f"sweep {name}: {words}", table(lines, ("rank", "user_id", "run_id", *labels, *_columns(options["rank"])))]
    if failed:
        refused = [failure._asdict() for failure in failed]
        parts.append(f"refused:\n{table(refused[:_SHOWN], ('user_id', 'run_id', 'error'))}")
    document = {"name": name, **document, "failed": [failure._asdict() for failure in failed], "board": rows}
    emit(document, "\n\n".join(parts))


@contextmanager
def _bar(length: int, label: str) -> Iterator[Any]:
    """Something to call with what has been done, if anybody watches."""
    if not show_progress() or not length:
        yield lambda count: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr, show_pos=True) as bar:
        yield bar.update
