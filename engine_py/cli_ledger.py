"""papertick run trades, events, cash, equity: what a run's ledgers hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import LiteralString

import click

from engine_py.cli_base import MOMENT, Command, Row, Session, emit, get_run, of_run, session
from engine_py.render import table, text


def _of_span(command: Callable[..., None]) -> Callable[..., None]:
    """The arguments of every ledger: USER and RUN, and which of its rows."""
    for option in (
        click.option("--limit", type=click.IntRange(min=1), help="Only the last so many."),
        click.option("--to", "last", type=MOMENT, help="Last time, or date, by the market's clock."),
        click.option("--from", "first", type=MOMENT, help="First time, or date, by the market's clock."),
    ):
        command = option(command)
    return of_run(command)


@click.command("trades", cls=Command)
@_of_span
def run_trades(user: int, run: int, first: str | None, last: str | None, limit: int | None) -> None:
    """The fills of a run."""
    query: LiteralString = """
        select t.* from paper_trade t
         where t.user_id = %s and t.run_id = %s and t.logical_time between %s and %s
         order by t.trade_id desc limit %s"""
    columns = ("trade_id", "logical_time", "order_id", "symbol", "side", "quantity", "price", "fees")
    _list(query, columns, user, run, first, last, limit)


@click.command("events", cls=Command)
@_of_span
def run_events(user: int, run: int, first: str | None, last: str | None, limit: int | None) -> None:
    """What happened to plans, by corporate actions and by margin calls."""
    query: LiteralString = """
        select e.* from event_ledger e
         where e.user_id = %s and e.run_id = %s and e.logical_time between %s and %s
         order by e.logical_time desc, e.event_type collate "C" desc, e.event_key collate "C" desc limit %s"""
    _list(query, ("logical_time", "event_type", "event_key", "payload"), user, run, first, last, limit)


@click.command("cash", cls=Command)
@_of_span
def run_cash(user: int, run: int, first: str | None, last: str | None, limit: int | None) -> None:
    """Every movement of cash, and the balance after it."""
    query: LiteralString = """
        select * from (
          select c.*, sum(c.amount) over (order by c.entry_id) as balance
            from cash_ledger c where c.user_id = %s and c.run_id = %s) c
         where coalesce(c.logical_time, '-infinity') between %s and %s
         order by c.entry_id desc limit %s"""
    _list(query, ("entry_id", "logical_time", "cause", "trade_id", "amount", "balance"), user, run, first, last, limit)


@click.command("equity", cls=Command)
@_of_span
def run_equity(user: int, run: int, first: str | None, last: str | None, limit: int | None) -> None:
    """The equity curve, stored or computed: a row for every bar time of the feed."""
    query: LiteralString = """
        select e.* from equity_between(%s, %s, %s, %s) e order by e.logical_time desc limit %s"""
    _list(query, ("logical_time", "cash", "market_value", "equity"), user, run, first, last, limit)


LEDGERS = (run_trades, run_events, run_cash, run_equity)


def _list(
    query: LiteralString,
    columns: tuple[str, ...],
    user: int,
    run: int,
    first: str | None,
    last: str | None,
    limit: int | None,
) -> None:
    """The rows of a query by (user, run, first, last, limit), which has the last ones first."""
    with session() as s:
        span = _span(s, get_run(s, user, run)["feed"], first, last)
        rows = s.select(query, user, run, span["first"], span["last"], limit)[::-1]
    words = [{**row, "payload": _pairs(row["payload"])} for row in rows] if "payload" in columns else rows
    emit(rows, table(words, columns))


def _span(s: Session, feed: str, first: str | None, last: str | None) -> Row:
    """The instants of a span, as text, for some are infinite.

    A date is all of that day, (00:00, 24:00] by the market's clock, as sessions are.
    """
    (row,) = s.select(
        """select coalesce(case when length(a.first) = 10
                                then (a.first::date::timestamp at time zone c.time_zone) + interval '1 microsecond'
                                else a.first::timestamptz end, '-infinity')::text as first,
                  coalesce(case when length(a.last) = 10 then (a.last::date + 1)::timestamp at time zone c.time_zone
                                else a.last::timestamptz end, 'infinity')::text as last
             from (select %s::text as first, %s::text as last) a
            cross join feed f join calendar c on c.calendar = f.calendar where f.feed = %s""",
        *(first, last, feed),
    )
    return row


def _pairs(payload: dict[str, object] | None) -> str:
    return " ".join(f"{name}={text(value)}" for name, value in (payload or {}).items())
