"""papertick user, run: who owns runs, and the runs themselves."""

from __future__ import annotations

from typing import Any

import click

from engine_py.cli_base import (
    ID,
    KEYWORD,
    NEGATIVE,
    NUMBER,
    TIME,
    Group,
    Session,
    emit,
    get_run,
    of_run,
    select,
    session,
)
from engine_py.render import pairs, table, text

_TERMS = (  # shown where they differ from doing without
    *("participation", "slippage_bps", "volume_impact", "penetration_ticks", "max_price_age", "reinvest_dividends"),
    *("initial_margin", "maintenance_margin", "borrow_rate", "margin_rate"),
    *("forked_from_user_id", "forked_from_run_id", "forked_at"),
)
_RUN = ("user_id", "run_id", "name", "feed", "status", "last_logical_time")


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


@user.command("list")
def user_list() -> None:
    """Every user, with the number of runs and the one that is RUNNING."""
    with session() as s:
        rows = s.select(
            """select u.user_id, u.name, count(r.run_id) as runs,
                      max(r.run_id) filter (where r.status = 'RUNNING') as running_run_id
                 from app_user u left join strategy_run r on r.user_id = u.user_id
                group by u.user_id, u.name order by u.user_id"""
        )
    emit(rows, table(rows, ("user_id", "name", "runs", "running_run_id")))


@user.command("map")
@click.argument("role")
@click.argument("user", type=ID)
def user_map(role: str, user: int) -> None:
    """Let who logs in to the server as ROLE see and move the runs of USER.

    The role is made with: create role ROLE login in role papertick_user
    """
    with session() as s:
        s.call("map_login", role_name=role, user_id=user)
    emit({"role_name": role, "user_id": user}, f"{role} acts for user {user}")


@user.command("unmap")
@click.argument("role")
@click.argument("user", type=ID)
def user_unmap(role: str, user: int) -> None:
    """Take back what `user map` has given."""
    with session() as s:
        done = s.call("unmap_login", role_name=role, user_id=user)["unmap_login"]
    words = "no longer acts" if done else "did not act"
    emit({"role_name": role, "user_id": user, "was_mapped": done}, f"{role} {words} for user {user}")


@click.group(cls=Group)
def run() -> None:
    """Runs: paper accounts that follow one feed."""


@run.command("start", context_settings=NEGATIVE)
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


@run.command("delete")
@of_run
def run_delete(user: int, run: int) -> None:
    """Delete a run with all it owns, whatever its status."""
    with session() as s:
        s.call_once("delete_run", user_id=user, run_id=run)
    emit({"user_id": user, "run_id": run}, f"run {run} of user {user} is deleted")


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
    terms = {name: head[name] for name in _TERMS if head[name] not in (None, 0, False)}
    names = (*_RUN, "status_reason", "currency", "initial_cash", "cash", "mark_policy", "fee_schedule")
    parts = [
        pairs((name, text({"fee_schedule": "none", **head, **terms}[name])) for name in (*names, *terms)),
        table(document["positions"], ("symbol", "quantity", "cost_basis", "realized_pnl")),
        pairs(
            (name, text(reasons.get(name, value))) for name, value in document["performance"].items() if name != "cash"
        ),
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
