"""leaderboard: the same digits as performance, in the right order, of all runs that the caller may read and of no others."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from desk import Conn, Market, Run, rows
from helpers import raises
from psycopg.rows import dict_row
from test_roles import acting, api, key_of, login  # noqa: F401  # fixtures

DAYS = [f"2024-{month:02d}-{day:02d} 12:00" for month in (1, 2, 3) for day in (1, 2, 5, 9, 16, 23)]
METRICS = [
    "funded",
    "cash",
    "market_value",
    "equity",
    "bought",
    "sold",
    "fees",
    "trades",
    "realized_pnl",
    "unrealized_pnl",
    "hit_rate",
    "exposure",
    "turnover",
    "xirr",
    "xirr_invested",
    "twr",
    "cagr",
    "max_drawdown",
    "calmar",
    "best_period",
    "worst_period",
    "volatility",
    "sharpe",
    "sortino",
]
LEAST_IS_BEST = {"fees", "turnover", "volatility"}


def board(conn: Conn, **arguments: Any) -> list[dict[str, Any]]:
    named = ", ".join(f"p_{name} => %s" for name in arguments)
    with conn.cursor(row_factory=dict_row) as cur:
        return cur.execute(f"select * from leaderboard({named})", list(arguments.values())).fetchall()


def performance(conn: Conn, run: Run) -> dict[str, Decimal | None]:
    return dict(rows(conn, "select * from performance(%s, %s)", *run.key))


def market(conn: Conn) -> Market:
    found = Market(conn)
    for symbol, start in (("A", 100), ("B", 50)):
        found.bars(symbol, {day: start + (n * 7 + start) % 13 for n, day in enumerate(DAYS)})
    return found


def play(run: Run, *, upto: int | None = None) -> Run:
    for day in DAYS[:upto]:
        run.tick(day)
    return run


def fleet(conn: Conn) -> list[Run]:
    """Runs of every kind: SIPs, sales, a rebalance, dear fees, a short seller, idle, never ticked, stopped, money from outside."""
    m = market(conn)
    made = [Run(m, 10_000, name=f"sip {amount}", mark_policy=policy) for amount, policy in POLICIES]
    for run, (amount, _) in zip(made, POLICIES, strict=True):
        run.sip("A", amount, "WEEKLY", "2024-01-01")
    traders = [Run(m, 10_000, name=name, **options) for name, options in TRADERS]
    for run in traders:
        run.place("B", "BUY", 20)
        run.tick(DAYS[0])
        run.tick(DAYS[1])
        run.place("B", "SELL", 5)
        run.rebalance('{"A": 0.4, "B": 0.3}', "MONTHLY", "2024-02-01")
    short = Run(m, 10_000, name="short", initial_margin="0.5", maintenance_margin="0.25", borrow_rate="0.05")
    short.place("A", "SELL", 20)
    for run in (*made, *traders, short):
        play(run)
    stopped = play(Run(m, 500, name="stopped"), upto=3)
    stopped.call("stop_run")
    return [*made, *traders, short, stopped, play(Run(m, 0, name="empty")), Run(m, 77, name="never ticked")]


POLICIES = [(100, "EVERY_TICK"), (300, "EVENTS"), (900, "SESSION"), (300, "EVERY_TICK")]
TRADERS: list[tuple[str, dict[str, Any]]] = [
    ("trader", {}),
    ("dear", {"fee_schedule": "US_PER_SHARE", "slippage_bps": 50}),
    ("events", {"mark_policy": "EVENTS"}),
]


def test_every_number_is_performances(tx: Conn) -> None:
    runs = {run.key: run for run in fleet(tx)}
    feed = next(iter(runs.values())).market.feed
    for metric in METRICS:
        found = board(tx, metric=metric, feed=feed, limit=None)
        assert {(row["user_id"], row["run_id"]) for row in found} == set(runs)
        for row in found:
            run = runs[row["user_id"], row["run_id"]]
            wanted = performance(tx, run)
            assert {name: (str(row[name]), row[name]) for name in METRICS} == {
                name: (str(value), value) for name, value in wanted.items()
            }
            reasons = dict(rows(tx, "select * from performance_reasons(%s, %s)", *run.key))
            assert row["reasons"] == reasons
            assert (str(row["value"]), row["metric"]) == (str(wanted[metric]), metric)
            assert row["reason"] == reasons.get(metric)


def test_the_metrics_are_performances_both_ways(tx: Conn) -> None:
    run = play(Run(market(tx), 1000))
    assert list(performance(tx, run)) == METRICS
    assert [name for (name,) in rows(tx, "select metric from engine.metrics()")] == METRICS
    assert {name for (name,) in rows(tx, "select metric from engine.metrics() where is_least_best")} == LEAST_IS_BEST
    (row,) = board(tx, feed=run.market.feed)
    assert list(row)[-len(METRICS) - 1 :] == [*METRICS, "reasons"]


@pytest.mark.parametrize("metric", METRICS)
def test_the_order(tx: Conn, metric: str) -> None:
    feed = fleet(tx)[0].market.feed
    found = board(tx, metric=metric, feed=feed, limit=None)
    assert [row["rank"] for row in found] == list(range(1, len(found) + 1))
    sign = -1 if metric in LEAST_IS_BEST else 1

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["value"] is None, -sign * (row["value"] or 0), row["user_id"], row["run_id"]

    assert found == sorted(found, key=key)
    assert found[: len(found) // 2] == board(tx, metric=metric, feed=feed, limit=len(found) // 2)


def test_equals_are_ordered_by_their_ids_and_null_is_last(tx: Conn) -> None:
    runs = fleet(tx)
    found = board(tx, metric="xirr", feed=runs[0].market.feed, limit=None)
    same = [row for row in found if row["name"] == "sip 300"]
    assert same[0]["value"] == same[1]["value"]
    assert same[0]["rank"] + 1 == same[1]["rank"]
    assert same[0]["user_id"] < same[1]["user_id"]
    assert [row["reason"] for row in found[-2:]] == ["NO_FLOW", "NO_MARK"]
    assert {row["name"] for row in found[-2:]} == {"empty", "never ticked"}


def test_what_it_says_of_a_run(tx: Conn) -> None:
    runs = fleet(tx)
    (row,) = board(tx, metric="equity", feed=runs[0].market.feed, name_like="stop%")
    key = ("rank", "user_name", "name", "feed", "currency", "status", "last_logical_time", "value")
    assert [row[name] for name in key] == [
        *(1, "a tester", "stopped", runs[0].market.feed, "USD", "STOPPED"),
        *(runs[0].market.at(DAYS[2]), 500),
    ]
    assert board(tx, feed=runs[0].market.feed, name_like="nothing") == []
    assert len(board(tx, feed=runs[0].market.feed, name_like="sip _00")) == 4
    assert board(tx, feed=runs[0].market.feed, limit=0) == []
    tx.execute("update app_user set name = 'somebody else' where user_id = %s", [runs[0].user_id])
    assert [row["user_id"] for row in board(tx, feed=runs[0].market.feed, user_like="some%else")] == [runs[0].user_id]
    assert board(tx, feed=runs[0].market.feed, user_like="some%else", name_like="stop%") == []
    other = play(Run(market(tx), 1000, name="elsewhere"))
    assert [row["name"] for row in board(tx, feed=other.market.feed)] == ["elsewhere"]
    assert len(board(tx, limit=None)) == len(runs) + 1


def test_refusals(tx: Conn) -> None:
    for code, arguments in (
        ("TE101", {"metric": "luck"}),
        ("TE101", {"metric": None}),
        ("TE101", {"metric": "xirr%"}),
        ("TE101", {"limit": -1}),
        ("TE201", {"feed": "no such feed"}),
    ):
        with raises(code, conn=tx):
            board(tx, **arguments)


def test_who_sees_whom(db: Conn, login: Callable[..., Conn], api: Conn) -> None:  # noqa: F811
    m = market(db)
    mine, other = (play(Run(m, 1000, name=name)) for name in ("mine", "other"))
    keys = [key_of(db, run.user_id) for run in (mine, other)]
    key_admin = key_of(db, mine.user_id, is_admin=True)

    def seen(conn: psycopg.Connection[Any]) -> list[str]:
        return [row["name"] for row in board(conn, metric="equity", limit=None)]

    assert seen(db) == ["mine", "other"]
    assert seen(login(of="papertick_analyst")) == ["mine", "other"]
    assert seen(login(mine.user_id)) == ["mine"]
    assert seen(login(mine.user_id, other.user_id)) == ["mine", "other"]
    assert seen(login()) == seen(api) == []
    for proof, names in ((keys[1:], ["other"]), (keys, ["mine", "other"]), ([key_admin], ["mine"])):
        with acting(api, *proof):
            assert seen(api) == names
    assert seen(api) == []


def test_it_only_reads(db: Conn) -> None:
    play(Run(market(db), 1000))
    with db.transaction():
        db.execute("set transaction read only")
        assert len(board(db)) == 1
