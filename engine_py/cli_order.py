"""papertick order: the orders of a run."""

from __future__ import annotations

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

_ORDER = (
    *("order_id", "symbol", "side", "order_type", "quantity", "limit_price", "stop_price", "status"),
    *("filled_quantity", "avg_fill_price", "reject_reason"),
)


@click.group(cls=Group)
def order() -> None:
    """Orders."""


@order.command("place", context_settings=NEGATIVE)
@of_run
@click.argument("symbol")
@click.argument("side", type=KEYWORD)
@click.argument("quantity", type=NUMBER)
@click.option("--type", "order_type", type=KEYWORD, help="MARKET (default), LIMIT, STOP, STOP_LIMIT, TRAILING_STOP.")
@click.option("--limit", "limit_price", type=NUMBER, help="Limit price, for LIMIT and STOP_LIMIT.")
@click.option("--stop", "stop_price", type=NUMBER, help="Stop price, for STOP and STOP_LIMIT.")
@click.option("--trail", "trail_amount", type=NUMBER, help="Distance of a TRAILING_STOP from the best price.")
@click.option("--trail-percent", type=NUMBER, help="The same in percent of the best price.")
@click.option("--tif", "time_in_force", type=KEYWORD, help="GTC (default), DAY, GTD, IOC, FOK.")
@click.option("--good-till", type=TIME, help="Last time of a GTD order.")
@click.option("--take-profit", type=NUMBER, help="Bracket: price at which what fills is sold again with profit.")
@click.option("--stop-loss", type=NUMBER, help="Bracket: stop price at which it is sold with loss.")
@click.option("--stop-loss-limit", type=NUMBER, help="Bracket: limit price of the stop-loss.")
@click.option("--client-order-id", help="Your own id: the same call again returns the first order.")
def order_place(user: int, run: int, **terms: str | None) -> None:
    """Place an order of SIDE buy or sell. It fills on bars after the run's last tick.

    An order that cannot be accepted is stored as REJECTED, with the reason; that is no error.
    """
    with session() as s:
        call = s.call_once if terms["client_order_id"] is None else s.call
        row = call("place_order", user_id=user, run_id=run, **terms)
    _emit_order(row)


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
def order_oco(user: int, run: int, **terms: str | None) -> None:
    """Place a limit and a stop order that cancel each other: they share one QUANTITY."""
    with session() as s:
        rows = s.call_rows("place_oco", once=terms["client_order_id"] is None, user_id=user, run_id=run, **terms)
    emit(rows, "\n".join(_order_line(row) for row in rows))


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
def order_replace(user: int, run: int, order_id: int, **terms: str | None) -> None:
    """Replace an open order by a new one with other terms; if that is REJECTED the old one stays."""
    with session() as s:
        call = s.call_once if terms["client_order_id"] is None else s.call
        row = call("replace_order", user_id=user, run_id=run, order_id=order_id, **terms)
    _emit_order(row)


@order.command("cancel")
@of_run
@click.argument("order_id", type=ID)
def order_cancel(user: int, run: int, order_id: int) -> None:
    """Cancel an open order; a closed one is left as it is."""
    with session() as s:
        row = s.call("cancel_order", user_id=user, run_id=run, order_id=order_id)
    _emit_order(row)


def _emit_order(row: Row) -> None:
    emit(row, _order_line(row))


def _order_line(row: Row) -> str:
    reason = f": {row['reject_reason']}" if row["reject_reason"] else ""
    terms = " ".join(text(row[name]) for name in ("side", "quantity", "symbol"))
    return f"order {row['order_id']} ({terms}) is {row['status']}{reason}"


@order.command("list")
@of_run
@click.option("--status", type=KEYWORD, help="Only orders of this status.")
def order_list(user: int, run: int, status: str | None) -> None:
    """The orders of a run."""
    with session() as s:
        get_run(s, user, run)
        rows = s.select(
            """select * from paper_order where user_id = %s and run_id = %s and status = coalesce(%s, status)
                order by order_id""",
            *(user, run, status),
        )
    emit(rows, table(rows, _ORDER))


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
@of_run
@click.argument("symbol")
@click.argument("side", type=KEYWORD)
@click.argument("quantity", type=NUMBER)
@click.option("--type", "order_type", type=KEYWORD, help="MARKET, LIMIT, STOP, STOP_LIMIT or TRAILING_STOP.")
@click.option("--limit", "limit_price", type=NUMBER, help="Limit price, for LIMIT and STOP_LIMIT.")
@click.option("--stop", "stop_price", type=NUMBER, help="Stop price, for STOP and STOP_LIMIT.")
@click.option("--trail-amount", type=NUMBER, help="Distance of a TRAILING_STOP.")
@click.option("--trail-percent", type=NUMBER, help="The same in percent.")
@click.option("--tif", "time_in_force", type=KEYWORD, help="DAY, GTC, GTD, IOC or FOK. Default: GTC.")
@click.option("--good-till", type=TIME, help="Last time of a GTD order.")
def order_preview(user: int, run: int, **terms: str | None) -> None:
    """What would become of an order if it were placed now, and what it would cost. Nothing is stored."""
    with session() as s:
        row = s.call("preview_order", user_id=user, run_id=run, **terms)
    emit(row, pairs((name, text(value)) for name, value in row.items() if value is not None))
