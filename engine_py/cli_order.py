"""papertick order: the orders of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from engine_py.cli_base import (
    ID,
    KEYWORD,
    NEGATIVE,
    NUMBER,
    TIME,
    Group,
    Row,
    emit,
    get_run,
    of_run,
    session,
)
from engine_py.render import pairs, table, text

# as the domain order_status has them; tests/test_cli.py holds the two together
OPEN_STATUSES = ("PENDING", "TRIGGERED", "PARTIALLY_FILLED")
ORDER_STATUSES = (*OPEN_STATUSES, "FILLED", "CANCELED", "REJECTED", "EXPIRED")

_ORDER = (
    *("order_id", "logical_time", "source", "symbol", "side", "order_type", "time_in_force", "quantity"),
    *("limit_price", "stop_price"),
)
_ORDER_IF_ANY = ("trail_amount", "trail_percent", "good_till", "oco_id", "parent_order_id", "replaces_order_id")
_ORDER_END = ("status", "filled_quantity", "avg_fill_price", "reject_reason", "closed_time")


@click.group(cls=Group)
def order() -> None:
    """Orders."""


def _terms(command: Callable[..., None]) -> Callable[..., None]:
    """What an order is: the same to place it and to preview it."""
    for option in reversed(
        (
            click.argument("symbol"),
            click.argument("side", type=KEYWORD),
            click.argument("quantity", type=NUMBER),
            click.option(
                "--type",
                "order_type",
                type=KEYWORD,
                help="MARKET (default), LIMIT, STOP, STOP_LIMIT, TRAILING_STOP.",
            ),
            click.option("--limit", "limit_price", type=NUMBER, help="Limit price, for LIMIT and STOP_LIMIT."),
            click.option("--stop", "stop_price", type=NUMBER, help="Stop price, for STOP and STOP_LIMIT."),
            click.option(
                "--trail", "trail_amount", type=NUMBER, help="Distance of a TRAILING_STOP from the best price."
            ),
            click.option("--trail-percent", type=NUMBER, help="The same in percent of the best price."),
            click.option("--tif", "time_in_force", type=KEYWORD, help="GTC (default), DAY, GTD, IOC, FOK."),
            click.option("--good-till", type=TIME, help="Last time of a GTD order."),
            click.option(
                "--take-profit", type=NUMBER, help="Bracket: price at which what fills is sold again with profit."
            ),
            click.option("--stop-loss", type=NUMBER, help="Bracket: stop price at which it is sold with loss."),
            click.option("--stop-loss-limit", type=NUMBER, help="Bracket: limit price of the stop-loss."),
        )
    ):
        command = option(command)
    return of_run(command)


_fail_on_reject = click.option("--fail-on-reject", is_flag=True, help="Exit code 1 when the order is REJECTED.")


@order.command("place", context_settings=NEGATIVE)
@_terms
@click.option("--client-order-id", help="Your own id: the same call again returns the first order.")
@_fail_on_reject
def order_place(user: int, run: int, fail_on_reject: bool, **terms: str | None) -> None:
    """Place an order of SIDE buy or sell. It fills on bars after the run's last tick.

    An order that cannot be accepted is stored as REJECTED, with the reason; that is no error.
    """
    with session() as s:
        call = s.call_once if terms["client_order_id"] is None else s.call
        row = call("place_order", user_id=user, run_id=run, **terms)
    _emit_order(row, fail_on_reject)


@order.command("oco", context_settings=NEGATIVE)
@of_run
@click.argument("symbol")
@click.argument("side", type=KEYWORD)
@click.argument("quantity", type=NUMBER)
@click.option("--limit", "limit_price", type=NUMBER, required=True, help="Price of the limit order.")
@click.option("--stop", "stop_price", type=NUMBER, required=True, help="Price of the stop order.")
@click.option("--stop-limit", "stop_limit_price", type=NUMBER, help="Limit price of the stop order.")
@click.option("--tif", "time_in_force", type=KEYWORD, help="GTC (default), DAY, GTD.")
@click.option("--good-till", type=TIME, help="Last time of GTD orders.")
@click.option("--client-order-id", help="Your own id: the same call again returns the first orders.")
@_fail_on_reject
def order_oco(user: int, run: int, fail_on_reject: bool, **terms: str | None) -> None:
    """Place a limit and a stop order that cancel each other: they share one QUANTITY."""
    with session() as s:
        rows = s.call_rows("place_oco", once=terms["client_order_id"] is None, user_id=user, run_id=run, **terms)
    emit(rows, "\n".join(_order_line(row) for row in rows))
    _exit_if_rejected(rows, fail_on_reject)


@order.command("replace", context_settings=NEGATIVE)
@of_run
@click.argument("order_id", type=ID)
@click.option("--quantity", type=NUMBER, help="New quantity. Default: what is left.")
@click.option("--limit", "limit_price", type=NUMBER, help="New limit price.")
@click.option("--stop", "stop_price", type=NUMBER, help="New stop price.")
@click.option("--trail", "trail_amount", type=NUMBER, help="New distance of a trailing stop.")
@click.option("--trail-percent", type=NUMBER, help="The same in percent.")
@click.option("--tif", "time_in_force", type=KEYWORD, help="New time in force.")
@click.option("--good-till", type=TIME, help="Last time of a GTD order.")
@click.option("--client-order-id", help="Your own id: the same call again returns the first order.")
@_fail_on_reject
def order_replace(user: int, run: int, order_id: int, fail_on_reject: bool, **terms: str | None) -> None:
    """Replace an open order by a new one with other terms; if that is REJECTED the old one stays."""
    with session() as s:
        call = s.call_once if terms["client_order_id"] is None else s.call
        row = call("replace_order", user_id=user, run_id=run, order_id=order_id, **terms)
    _emit_order(row, fail_on_reject)


@order.command("cancel")
@of_run
@click.argument("order_id", type=ID)
def order_cancel(user: int, run: int, order_id: int) -> None:
    """Cancel an open order; a closed one is left as it is."""
    with session() as s:
        row = s.call("cancel_order", user_id=user, run_id=run, order_id=order_id)
    _emit_order(row)


def _emit_order(row: Row, fail_on_reject: bool = False) -> None:
    emit(row, _order_line(row))
    _exit_if_rejected([row], fail_on_reject)


def _exit_if_rejected(rows: list[Row], fail_on_reject: bool) -> None:
    if fail_on_reject and any(row["status"] == "REJECTED" for row in rows):
        sys.exit(1)


def _order_line(row: Row) -> str:
    reason = f": {row['reject_reason']}" if row["reject_reason"] else ""
    terms = " ".join(text(row[name]) for name in ("side", "quantity", "symbol"))
    return f"order {row['order_id']} ({terms}) is {row['status']}{reason}"


@order.command("list")
@of_run
@click.option(
    "--status",
    type=click.Choice(("OPEN", *ORDER_STATUSES), case_sensitive=False),
    metavar="STATUS",
    help="Only these: open, or one of pending, triggered, partially_filled, filled, canceled, rejected, expired.",
)
def order_list(user: int, run: int, status: str | None) -> None:
    """The orders of a run."""
    wanted = {None: ORDER_STATUSES, "OPEN": OPEN_STATUSES}.get(status, (status,))
    with session() as s:
        get_run(s, user, run)
        rows = s.select(
            """select * from paper_order where user_id = %s and run_id = %s and status = any (%s::text[])
                order by order_id""",
            *(user, run, list(wanted)),
        )
    seldom = (name for name in _ORDER_IF_ANY if any(row[name] is not None for row in rows))
    emit(rows, table(rows, (*_ORDER, *seldom, *_ORDER_END)))


@order.command("explain")
@of_run
@click.argument("order_id", type=ID)
def order_explain(user: int, run: int, order_id: int) -> None:
    """Why an order did or did not fill: what happened to it, and the bars that did not reach it."""
    with session() as s:
        rows = s.select("select * from explain_order(%s, %s, %s)", user, run, order_id)
    lines = [
        {**row, "detail": " ".join(f"{name}={text(value)}" for name, value in row["detail"].items())} for row in rows
    ]
    emit(rows, table(lines, ("logical_time", "code", "detail")))


@order.command("preview", context_settings=NEGATIVE)
@_terms
def order_preview(user: int, run: int, **terms: str | None) -> None:
    """What would become of an order if it were placed now, and what it would cost. Nothing is stored."""
    with session() as s:
        row = s.call("preview_order", user_id=user, run_id=run, **terms)
    emit(row, pairs((name, text(value)) for name, value in row.items() if value is not None))
