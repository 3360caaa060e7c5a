"""papertick user, run, order, sip, rebalance: one run and what it owns."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import click

from engine_py.cli_base import (
    DATE,
    ID,
    KEYWORD,
    NULL,
    NUMBER,
    TIME,
    Group,
    Row,
    Session,
    emit,
    get_run,
    of_run,
    select,
    session,
)
from engine_py.render import pairs, table, text

_NEGATIVE = {"ignore_unknown_options": True}  # so that -5 is a number, for the engine to refuse

_RUN = ("user_id", "run_id", "name", "feed", "status", "last_logical_time")
_ORDER = (
    *("order_id", "symbol", "side", "order_type", "quantity", "limit_price", "stop_price", "status"),
    *("filled_quantity", "avg_fill_price", "reject_reason"),
)
_SIP = ("sip_id", "symbol", "amount", "frequency", "start_date", "next_slot", "paused")


@click.group(cls=Group)
def user() -> None:
    """Owners of runs."""


@user.command("create")
@click.argument("name")
def user_create(name: str) -> None:
    """Create a user; prints the id that every other command calls USER."""
    with session() as s:
        row = s.call_once("create_user", name=name)
    user_id = row["create_user"]
    emit({"user_id": user_id, "name": name}, f"user {user_id}")


@click.group(cls=Group)
def run() -> None:
    """Runs: paper accounts that follow one feed."""


@run.command("start", context_settings=_NEGATIVE)
@click.argument("user", type=ID)
@click.option("--cash", required=True, type=NUMBER, help="Initial cash.")
@click.option("--feed", help="Feed that the run follows. Default: default.")
@click.option("--name", help="A name to know it by.")
@click.option("--currency", help="Three-letter code. Default: USD.")
@click.option(
    "--mark-policy", type=KEYWORD, help="Ticks that store their marks: EVERY_TICK (default), SESSION, EVENTS."
)
@click.option("--fees", "fee_schedule", help="Fee schedule: ZERO, US_PER_SHARE, IN_DELIVERY, IN_INTRADAY, or yours.")
@click.option("--participation", type=NUMBER, help="Share of a bar's volume that may fill, up to 1.")
@click.option("--slippage-bps", type=NUMBER, help="Slippage of market and stop fills, in basis points.")
@click.option("--volume-impact", type=NUMBER, help="Slippage by (quantity / volume) squared, times this.")
@click.option("--penetration-ticks", type=NUMBER, help="Ticks beyond its limit that fill a resting order.")
@click.option("--max-price-age", help="Last closes older than this are stale: '3 days'.")
@click.option("--reinvest-dividends", is_flag=True, default=None, help="Buy units for dividends.")
@click.option(
    "--initial-margin", type=NUMBER, help="A margin account: equity per exposure that opening takes, up to 1."
)
@click.option(
    "--maintenance-margin", type=NUMBER, help="With it: equity per exposure below which positions are closed."
)
@click.option("--borrow-rate", type=NUMBER, help="Yearly fee on what is sold short: 0.03. Default: 0.")
@click.option("--margin-rate", type=NUMBER, help="Yearly interest on negative cash: 0.08. Default: 0.")
def run_start(user: int, cash: str, **terms: str | bool | None) -> None:
    """Start a run for USER, who can have one RUNNING at a time."""
    with session() as s:
        run_id = s.call_once("start_run", user_id=user, initial_cash=cash, **terms)["start_run"]
        row = get_run(s, user, run_id)
    emit(row, f"run {run_id} of user {user} is {row['status']}")


@run.command("stop")
@of_run
@click.option("--reason", help="Why, for the log.")
def run_stop(user: int, run: int, reason: str | None) -> None:
    """Stop a run for good: its open orders are canceled and nothing is written any more."""
    with session() as s:
        s.call("stop_run", user_id=user, run_id=run, reason=reason)
        row = get_run(s, user, run)
    emit(row, f"run {run} of user {user} is {row['status']}")


@run.command("list")
@click.option("--user", type=ID, help="Only this user's.")
def run_list(user: int | None) -> None:
    """Every run, and how far it has come."""
    with session() as s:
        rows = s.select(
            """select r.*, s.last_logical_time
                 from strategy_run r left join engine_state s on s.user_id = r.user_id and s.run_id = r.run_id
                where r.user_id = coalesce(%s::bigint, r.user_id) order by r.user_id, r.run_id""",
            user,
        )
    emit(rows, table(rows, _RUN))


@run.command("show")
@of_run
def run_show(user: int, run: int) -> None:
    """One run: state, positions, last equity, performance (in place of a missing number, its reason)."""
    with session() as s:
        document = _describe(s, user, run)
    emit(document, _words(document))


def _describe(s: Session, user: int, run: int) -> dict[str, Any]:
    key = (user, run)
    state = s.select("select * from engine_state where user_id = %s and run_id = %s", *key)
    equity = s.select(
        """select s.user_id, s.run_id, e.*
             from engine_state s cross join lateral equity_at(s.user_id, s.run_id, s.last_logical_time) e
            where s.user_id = %s and s.run_id = %s""",
        *key,
    )
    return {
        "run": get_run(s, *key),
        "state": next(iter(state), None),
        "positions": s.select(
            'select * from paper_position where user_id = %s and run_id = %s order by symbol collate "C"',
            *key,
        ),
        "equity": next(iter(equity), None),
        "performance": {row["metric"]: row["value"] for row in s.select("select * from performance(%s, %s)", *key)},
        "performance_reasons": {
            row["metric"]: row["reason"] for row in s.select("select * from performance_reasons(%s, %s)", *key)
        },
    }


def _words(document: dict[str, Any]) -> str:
    state = document["state"] or {}
    reasons = document["performance_reasons"]
    head = {**document["run"], "cash": state.get("cash"), "last_logical_time": state.get("last_logical_time")}
    names = (*_RUN, "status_reason", "currency", "initial_cash", "cash")
    parts = [
        pairs((name, text(head[name])) for name in names),
        table(document["positions"], ("symbol", "quantity", "cost_basis", "realized_pnl")),
        pairs((name, text(reasons.get(name, value))) for name, value in document["performance"].items()),
    ]
    return "\n\n".join(parts)


@run.command("fork")
@of_run
@click.argument("new_user", type=ID)
@click.option("--at", type=TIME, help="The last tick they have in common. Default: the run's last.")
@click.option("--name", help="A name to know it by. Default: the run's.")
def run_fork(user: int, run: int, new_user: int, at: str | None, name: str | None) -> None:
    """Start a run of NEW_USER with the history of a run up to one of its ticks.

    From there it goes its own way: orders that closed later are open again.
    """
    with session() as s:
        # at has no default of its own, so it is passed even when it is null
        rows = s.run(
            lambda conn: select(
                conn, "select fork_run(%s, %s, %s::timestamptz, %s, %s) as run_id", user, run, at, new_user, name
            ),
            repeatable=False,
        )
        row = get_run(s, new_user, rows[0]["run_id"])
    emit(row, f"run {row['run_id']} of user {new_user} is {row['status']}, forked at {text(row['forked_at'])}")


@click.group(cls=Group)
def order() -> None:
    """Orders."""


@order.command("place", context_settings=_NEGATIVE)
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


@order.command("oco", context_settings=_NEGATIVE)
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


@order.command("replace", context_settings=_NEGATIVE)
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


@order.command("preview", context_settings=_NEGATIVE)
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


@click.group(cls=Group)
def sip() -> None:
    """SIPs: scheduled buys of a fixed amount."""


@sip.command("create", context_settings=_NEGATIVE)
@of_run
@click.argument("symbol")
@click.argument("amount", type=NUMBER)
@click.argument("frequency", type=KEYWORD)
@click.argument("start", type=DATE)
@click.option("--roll", type=KEYWORD, help="On a holiday: NEXT or PREVIOUS session, or SKIP. Default: NEXT.")
@click.option("--catch-up", type=KEYWORD, help="Slots that were missed: ONCE, EACH or SKIP. Default: ONCE.")
@click.option("--end", type=DATE, help="Last date.")
@click.option("--instalments", type=NUMBER, help="How many slots there are.")
@click.option("--step-up-percent", type=NUMBER, help="Raise the amount by so many percent.")
@click.option("--step-up-amount", type=NUMBER, help="Raise the amount by so much.")
@click.option("--step-up-every", type=NUMBER, help="Raise it once every so many slots.")
@click.option("--whole-units", is_flag=True, default=None, help="Buy whole units; carry the rest forward.")
@click.option("--auto-pause-after", type=NUMBER, help="Pause after so many slots in a row without funds.")
@click.option("--share", "basket", multiple=True, help="SYMBOL - and a basket: AAPL=0.6, once for each symbol.")
@click.option("--rebalance-plan", type=NUMBER, help="SYMBOL - and what this plan's weights lack most.")
def sip_create(user: int, run: int, basket: tuple[str, ...], **terms: str | bool | None) -> None:
    """Buy AMOUNT of SYMBOL at every FREQUENCY (daily, weekly, monthly, quarterly) from START on.

    SYMBOL is - where the shares of a basket or a rebalance plan say what to buy.
    """
    given: dict[str, object] = {**terms, "basket": shares_json(basket, "--share") if basket else None}
    if given["symbol"] == "-" and (basket or given["rebalance_plan"] is not None):
        given["symbol"] = NULL
    with session() as s:
        sip_id = s.call_once("create_sip", user_id=user, run_id=run, **given)["create_sip"]
        row = _sips(s, user, run, sip_id)[0]
    emit(row, f"sip {sip_id}")


@sip.command("change", context_settings=_NEGATIVE)
@of_run
@click.argument("sip_id", type=ID)
@click.argument("amount", type=NUMBER)
def sip_change(user: int, run: int, sip_id: int, amount: str) -> None:
    """Invest AMOUNT at later slots. Step-ups are counted anew from the first of them."""
    with session() as s:
        s.call("change_sip", user_id=user, run_id=run, sip_id=sip_id, amount=amount)
        emit(_sips(s, user, run, sip_id)[0], f"sip {sip_id} invests {amount}")


@sip.command("pause")
@of_run
@click.argument("sip_id", type=ID)
@click.option("--from", type=DATE, help="First date of the pause.")
@click.option("--to", type=DATE, help="Last date of the pause.")
def sip_pause(user: int, run: int, sip_id: int, **dates: str | None) -> None:
    """Pause a SIP: slots that fall due meanwhile, or on these dates, are skipped."""
    with session() as s:
        s.call("pause_sip", user_id=user, run_id=run, sip_id=sip_id, **dates)
        emit(_sips(s, user, run, sip_id)[0], f"sip {sip_id} is paused{_span(dates)}")


@sip.command("resume")
@of_run
@click.argument("sip_id", type=ID)
@click.option("--from", type=DATE, help="First date that is paused no more.")
@click.option("--to", type=DATE, help="Last date that is paused no more.")
def sip_resume(user: int, run: int, sip_id: int, **dates: str | None) -> None:
    """Resume a paused SIP: later slots, or those on these dates, buy again."""
    with session() as s:
        s.call("resume_sip", user_id=user, run_id=run, sip_id=sip_id, **dates)
        emit(_sips(s, user, run, sip_id)[0], f"sip {sip_id} goes on{_span(dates)}")


def _span(dates: dict[str, str | None]) -> str:
    return "".join(f" {word} {day}" for word, day in dates.items() if day)


@sip.command("list")
@of_run
def sip_list(user: int, run: int) -> None:
    """The SIPs of a run."""
    with session() as s:
        get_run(s, user, run)
        rows = _sips(s, user, run)
    emit(rows, table([{**row, "symbol": _bought(row)} for row in rows], _SIP))


def _bought(row: Row) -> str:
    return str(row["symbol"] or ("basket" if row["basket"] else f"plan-{row['rebalance_plan_id']}"))


def _sips(s: Session, user: int, run: int, sip_id: int | None = None) -> list[Row]:
    """The plans; their pauses as first and last day, the last null where only resume ends it."""
    rows = s.select(
        """select p.*, (select jsonb_object_agg(b.key, b.value #>> '{}') from jsonb_each(p.basket) b) as basket
             from sip_plan p where p.user_id = %s and p.run_id = %s and p.sip_id = coalesce(%s::bigint, p.sip_id)
            order by p.sip_id""",
        *(user, run, sip_id),
    )
    for row in rows:
        row["pauses"] = [
            {"from": dates.lower, "to": dates.upper and dates.upper - timedelta(days=1)} for dates in row["pauses"]
        ]
    return rows


@click.group(cls=Group)
def rebalance() -> None:
    """Rebalances: scheduled trades to target weights."""


@rebalance.command("create")
@of_run
@click.argument("frequency", type=KEYWORD)
@click.argument("start", type=DATE)
@click.option("--weight", "weights", multiple=True, required=True, help="SYMBOL=share of equity: AAPL=0.6")
@click.option("--band", type=NUMBER, help="Trade only what is further than this share of equity from its target.")
@click.option("--band-relative", type=NUMBER, help="Trade also what is further than this share of the target itself.")
@click.option("--to-band-edge", is_flag=True, default=None, help="Trade back to the band's edge, not to the target.")
@click.option("--min-order-value", type=NUMBER, help="Leave out orders that are worth less.")
@click.option("--whole-units", is_flag=True, default=None, help="Targets are whole units.")
def rebalance_create(user: int, run: int, weights: tuple[str, ...], **options: str | bool | None) -> None:
    """Trade to the weights at every FREQUENCY (daily, weekly, monthly, quarterly) from START on.

    What the weights leave of 1 stays in cash.
    """
    with session() as s:
        terms: dict[str, object] = {**options, "weights": shares_json(weights, "--weight")}
        made = s.call_once("create_rebalance", user_id=user, run_id=run, **terms)
        plan_id = made["create_rebalance"]
        key = (user, run, plan_id)
        (plan,) = s.select("select * from rebalance_plan where user_id = %s and run_id = %s and plan_id = %s", *key)
        stored = s.select(
            """select symbol, weight from target_weight where user_id = %s and run_id = %s and plan_id = %s
                order by symbol collate "C" """,
            *key,
        )
    emit({**plan, "weights": {row["symbol"]: row["weight"] for row in stored}}, f"rebalance {plan_id}")


def shares_json(weights: tuple[str, ...], option: str) -> str:
    """The JSON object of `SYMBOL=number` words, each number with the digits it came with."""
    members: dict[str, str] = {}
    for word in weights:
        symbol, _, number = word.rpartition("=")
        try:
            digits = str(Decimal(number))
        except InvalidOperation:
            digits = ""
        if not symbol or not digits:
            raise click.BadParameter(f"{word!r} is not like AAPL=0.6", param_hint=option)
        if symbol in members:
            raise click.BadParameter(f"{symbol} is there twice", param_hint=option)
        members[symbol] = digits
    return "{" + ", ".join(f"{json.dumps(symbol)}: {digits}" for symbol, digits in members.items()) + "}"
