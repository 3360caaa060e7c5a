"""papertick sip, rebalance: what a run intends to do."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal, InvalidOperation

import click

from engine_py.cli_base import (
    DATE,
    ID,
    KEYWORD,
    NEGATIVE,
    NULL,
    NUMBER,
    Group,
    Row,
    Session,
    emit,
    get_run,
    of_run,
    session,
)
from engine_py.render import table, text

_SIP = ("sip_id", "symbol", "amount", "frequency", "start_date", "next_slot", "due_date", "state")
_SIP_IF_ANY = ("end_date", "instalments", "pauses")
_REBALANCE = ("plan_id", "frequency", "start_date", "next_slot", "due_date", "state", "weights")
_REBALANCE_IF_ANY = ("band", "band_relative", "min_order_value")


@click.group(cls=Group)
def sip() -> None:
    """SIPs: scheduled buys of a fixed amount."""


@sip.command("create", context_settings=NEGATIVE)
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


@sip.command("change", context_settings=NEGATIVE)
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


@sip.command("end")
@of_run
@click.argument("sip_id", type=ID)
def sip_end(user: int, run: int, sip_id: int) -> None:
    """End a SIP: it has no more slots."""
    with session() as s:
        s.call("end_sip", user_id=user, run_id=run, sip_id=sip_id)
        emit(_sips(s, user, run, sip_id)[0], f"sip {sip_id} has ended")


@sip.command("list")
@of_run
def sip_list(user: int, run: int) -> None:
    """The SIPs of a run, and when they buy next."""
    with session() as s:
        get_run(s, user, run)
        rows = _sips(s, user, run)
    words = [{**row, "symbol": _bought(row), "pauses": _pauses(row)} for row in rows]
    emit(rows, table(words, (*_SIP, *_present(words, _SIP_IF_ANY))))


def _present(rows: list[Row], names: tuple[str, ...]) -> list[str]:
    return [name for name in names if any(row[name] is not None for row in rows)]


def _pauses(row: Row) -> str | None:
    return ", ".join(f"{text(dates['from'])} to {text(dates['to'])}" for dates in row["pauses"]) or None


def _bought(row: Row) -> str:
    return str(row["symbol"] or ("basket" if row["basket"] else f"plan-{row['rebalance_plan_id']}"))


def _sips(s: Session, user: int, run: int, sip_id: int | None = None) -> list[Row]:
    """The plans and their next slots; pauses as first and last day, the last null where only resume ends it."""
    rows = s.select(
        """select p.*, (select jsonb_object_agg(b.key, b.value #>> '{}') from jsonb_each(p.basket) b) as basket,
                  n.nominal_date, n.due_date, n.amount as next_amount, n.state
             from sip_plan p join sip_schedule(%s, %s) n on n.sip_id = p.sip_id
            where p.user_id = %s and p.run_id = %s and p.sip_id = coalesce(%s::bigint, p.sip_id)
            order by p.sip_id""",
        *(user, run, user, run, sip_id),
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
        (plan,) = _rebalances(s, user, run, plan_id)
    emit(plan, f"rebalance {plan_id}")


@rebalance.command("end")
@of_run
@click.argument("plan_id", type=ID)
def rebalance_end(user: int, run: int, plan_id: int) -> None:
    """End a rebalance plan: it has no more slots. SIPs that buy towards its weights go on."""
    with session() as s:
        s.call("end_rebalance", user_id=user, run_id=run, plan_id=plan_id)
        emit(_rebalances(s, user, run, plan_id)[0], f"rebalance {plan_id} has ended")


@rebalance.command("list")
@of_run
def rebalance_list(user: int, run: int) -> None:
    """The rebalance plans of a run, and when they trade next."""
    with session() as s:
        get_run(s, user, run)
        rows = _rebalances(s, user, run)
    words = [{**row, "weights": " ".join(f"{k}={text(v)}" for k, v in row["weights"].items())} for row in rows]
    emit(rows, table(words, (*_REBALANCE, *_present(rows, _REBALANCE_IF_ANY))))


def _rebalances(s: Session, user: int, run: int, plan_id: int | None = None) -> list[Row]:
    """The plans with their weights and their next slots."""
    rows = s.select(
        """select p.*, n.due_date, n.state
             from rebalance_plan p join rebalance_schedule(%s, %s) n on n.plan_id = p.plan_id
            where p.user_id = %s and p.run_id = %s and p.plan_id = coalesce(%s::bigint, p.plan_id)
            order by p.plan_id""",
        *(user, run, user, run, plan_id),
    )
    weights = s.select(
        """select plan_id, symbol, weight from target_weight where user_id = %s and run_id = %s
            order by plan_id, symbol collate "C" """,
        *(user, run),
    )
    return [
        {**row, "weights": {w["symbol"]: w["weight"] for w in weights if w["plan_id"] == row["plan_id"]}}
        for row in rows
    ]


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
