"""`papertick demo`: thirteen years of two portfolios, on the bundled data.

It may be killed at any moment and called again, or called twice at once: the setup is one transaction under a
lock, a replay goes on where it was, and orders carry ids of their own. The same digests come out every time.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import click
import psycopg

from engine_py import feed, replaying
from engine_py.cli_base import Row, Session, call, select
from engine_py.render import money, pairs, percent, text

_FEED = "bundled"


class _Demo(NamedTuple):
    """One user with one run. `orders` are placed before the first tick, `later` ones at `pause_at`."""

    user: str
    title: str
    cash: int
    sips: tuple[dict[str, object], ...]
    rebalances: tuple[dict[str, object], ...] = ()
    orders: tuple[dict[str, object], ...] = ()
    pause_at: str | None = None
    later: tuple[dict[str, object], ...] = ()


def _sip(symbol: str, amount: int, start: str) -> dict[str, object]:
    return {"symbol": symbol, "amount": amount, "frequency": "MONTHLY", "start": start}


def _limit(side: str, quantity: int, symbol: str, price: int) -> dict[str, object]:
    return {
        "symbol": symbol,
        "side": side,
        "quantity": quantity,
        "order_type": "LIMIT",
        "limit_price": price,
        "client_order_id": f"demo {side} {quantity} {symbol} at {price}",
    }


DEMOS = (
    _Demo(
        user="demo-sip",
        title="1,000 USD of IBM every month",
        cash=160_000,
        sips=(_sip("IBM", 1000, "2000-03-01"),),
    ),
    _Demo(
        user="demo-portfolio",
        title="five stocks: monthly SIPs, quarterly rebalance, limit orders",
        cash=300_000,
        # two of the five were listed later
        sips=(
            _sip("AAPL", 300, "2000-03-01"),
            _sip("IBM", 400, "2000-03-01"),
            _sip("MSFT", 300, "2000-03-01"),
            _sip("GOOG", 300, "2004-09-01"),
            _sip("FB", 200, "2012-06-01"),
        ),
        rebalances=(
            {
                "weights": '{"AAPL": 0.2, "FB": 0.05, "GOOG": 0.2, "IBM": 0.2, "MSFT": 0.15}',
                "frequency": "QUARTERLY",
                "start": "2000-06-01",
                "band": "0.01",
            },
        ),
        orders=(
            _limit("BUY", 50, "IBM", 80),
            _limit("BUY", 100, "MSFT", 20),
            _limit("BUY", 20, "GOOG", 110),
            _limit("SELL", 20, "AAPL", 600),  # rejected: nothing is held yet
        ),
        pause_at="2010-01-01T00:00:00Z",
        later=(_limit("SELL", 50, "IBM", 200), _limit("SELL", 20, "AAPL", 700)),
    ),
)


def run(s: Session, *, quiet: bool, bar: bool) -> list[dict[str, Any]]:
    """Do it all, or what is left of it; a summary per run. `quiet` prints nothing, `bar` draws progress."""
    s.run(lambda conn: feed.load_bundled(conn, _FEED))
    if not quiet:
        click.echo(_introduction(s))
    runs = s.run(_set_up)
    for one, (user, run_id) in zip(DEMOS, runs, strict=True):
        if not quiet:
            click.echo(f"\n{one.user}: {one.title}")
        with _progress(s, user, run_id, bar) as bars:
            _replay(s, one, user, run_id, bars)
    return [_summary(s, one, *key) for one, key in zip(DEMOS, runs, strict=True)]


def _introduction(s: Session) -> str:
    (info,) = s.select(
        """select string_agg(distinct symbol, ' ') as symbols, min(logical_time)::date as first,
                  max(logical_time)::date as last from price_bar where feed = %s""",
        _FEED,
    )
    return (
        f"Daily bars of {info['symbols']}, {info['first']} to {info['last']}.\n"
        "Prices are raw; splits (AAPL 2000 and 2005, MSFT 2003) and dividends are\n"
        "applied as they happened."
    )


def _set_up(conn: psycopg.Connection) -> list[tuple[int, int]]:
    """Users, runs, plans and first orders: all or none, and once even when two demos start together."""
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(hashtextextended('papertick demo', 0))")
        return [_find(conn, one) or create(conn, one) for one in DEMOS]


def _find(conn: psycopg.Connection, one: _Demo) -> tuple[int, int] | None:
    """The demo's run; one that somebody stopped halfway cannot be finished, and does not count."""
    rows = select(
        conn,
        """select r.user_id, r.run_id from app_user u
             join strategy_run r on r.user_id = u.user_id
             left join engine_state s on s.user_id = r.user_id and s.run_id = r.run_id
            where u.name = %s and r.name = %s
              and (r.status = 'RUNNING'
                   or s.last_logical_time >= (select max(logical_time) from price_bar where feed = %s))
            order by r.user_id, r.run_id limit 1""",
        *(one.user, one.user, _FEED),
    )
    return (rows[0]["user_id"], rows[0]["run_id"]) if rows else None


def create(conn: psycopg.Connection, one: _Demo) -> tuple[int, int]:
    users = select(conn, "select user_id from app_user where name = %s order by user_id limit 1", one.user)
    user = users[0]["user_id"] if users else call(conn, "create_user", name=one.user)["create_user"]
    terms = {"user_id": user, "initial_cash": one.cash, "feed": _FEED, "name": one.user}
    run_id = call(conn, "start_run", **terms)["start_run"]
    for plan in one.sips:
        call(conn, "create_sip", user_id=user, run_id=run_id, **plan)
    for plan in one.rebalances:
        call(conn, "create_rebalance", user_id=user, run_id=run_id, **plan)
    for order in one.orders:
        call(conn, "place_order", user_id=user, run_id=run_id, **order)
    return user, run_id


def _replay(s: Session, one: _Demo, user: int, run_id: int, bars: _Progress) -> None:
    if one.pause_at:
        for done in replaying.replay(s, user, run_id, replaying.plan(s.run, user, run_id, last=one.pause_at)):
            bars.update(done)
    for order in one.later:  # after the first time they change nothing, wherever the run is by now
        s.call("place_order", user_id=user, run_id=run_id, **order)
    for done in replaying.replay(s, user, run_id, replaying.plan(s.run, user, run_id)):
        bars.update(done)


class _Progress:
    def update(self, times: int) -> None:
        """Nobody is watching."""


class _Bar(_Progress):
    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def update(self, times: int) -> None:
        self._bar.update(times)


@contextmanager
def _progress(s: Session, user: int, run_id: int, bar: bool) -> Iterator[_Progress]:
    times = sum(part.times for part in replaying.plan(s.run, user, run_id)) if bar else 0
    if not times:
        yield _Progress()
        return
    with click.progressbar(length=times, label="  replay", file=sys.stderr, show_pos=True, width=30) as drawn:
        yield _Bar(drawn)


def _summary(s: Session, one: _Demo, user: int, run_id: int) -> dict[str, Any]:
    key = (user, run_id)
    metrics = {row["metric"]: row["value"] for row in s.select("select * from performance(%s, %s)", *key)}
    return {
        "name": one.user,
        "user_id": user,
        "run_id": run_id,
        **s.run(lambda conn: _counts(conn, *key)),
        "orders": s.select(
            """select order_id, symbol, side, quantity, limit_price, status, avg_fill_price, closed_time,
                      reject_reason
                 from paper_order where user_id = %s and run_id = %s and client_order_id is not null
                order by order_id""",
            *key,
        ),
        "rejections": s.select(
            """select reject_reason, count(*) as orders from paper_order
                where user_id = %s and run_id = %s and reject_reason is not null
                group by reject_reason order by reject_reason collate "C" """,
            *key,
        ),
        "performance": metrics,
        "digest": s.call("run_digest", user_id=user, run_id=run_id)["run_digest"],
    }


def _counts(conn: psycopg.Connection, user: int, run_id: int) -> Row:
    (row,) = select(
        conn,
        """select (select count(*) from mtm_ledger where user_id = %s and run_id = %s) as ticks,
                  (select count(*) from paper_trade where user_id = %s and run_id = %s) as fills,
                  (select count(*) from violations where user_id = %s and run_id = %s) as violations""",
        *(user, run_id) * 3,
    )
    return row


def report(results: list[dict[str, Any]]) -> str:
    """What the runs came to, and what to try next."""
    (u1, r1), (u2, r2) = [(r["user_id"], r["run_id"]) for r in results]
    tries = (
        f"  {program()} run show {u1} {r1}",
        f"  {program()} report {u1} {r1} --html report.html",
        f"  {program()} order list {u2} {r2} --status rejected",
        f'  {program()} db shell -c "select * from event_ledger limit 9"',
    )
    return "\n".join(["", *(_block(result) + "\n" for result in results), "Try next:", *tries])


def program() -> str:
    """How to call papertick from this shell: by name if it is on the PATH, else by its path."""
    if shutil.which("papertick"):
        return "papertick"
    return os.path.relpath(sys.argv[0]) if sys.argv[0].endswith("papertick") else "python -m engine_py"


def _block(result: dict[str, Any]) -> str:
    p = result["performance"]
    rejections = ", ".join(f"{r['orders']} {r['reject_reason']}" for r in result["rejections"])
    lines = [
        ("invested, net", f"{money(p['bought'] - p['sold'])} USD, of {money(p['funded'])} funded"),
        ("holdings", f"{money(p['market_value'])} USD, and {money(p['cash'])} in cash"),
        ("XIRR of what was invested", percent(p["xirr_invested"])),
        ("XIRR of the account", f"{percent(p['xirr'])}, CAGR {percent(p['cagr'])}"),
        ("max drawdown", percent(p["max_drawdown"])),
        ("ticks, fills", f"{result['ticks']:,}, {result['fills']:,}"),
        ("rejected orders", rejections or "none"),
        *(("limit order", _fate(order)) for order in result["orders"]),
        ("violations", str(result["violations"])),
    ]
    return (
        f"{result['name']} (user {result['user_id']}, run {result['run_id']})\n"
        + pairs(lines, indent="  ")
        + f"\n  digest {result['digest']}"
    )


def _fate(order: Row) -> str:
    terms = f"{order['side']} {text(order['quantity'])} {order['symbol']} at {text(order['limit_price'])}"
    if order["avg_fill_price"] is None:
        return f"{terms}: {order['status']}"
    return f"{terms}: {order['status']} at {text(order['avg_fill_price'])}, {order['closed_time']:%Y-%m-%d}"
