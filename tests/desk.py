"""A trading desk for tests: a market of its own, and runs on it, over one connection.

Everything here also works inside the rolled-back transaction of the fixture `tx`: a refusal costs a savepoint.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg.rows import dict_row

Conn = psycopg.Connection[Any]
D = Decimal
Bar = Sequence[Any]  # open, high, low, close[, volume]

NEW_YORK = ZoneInfo("America/New_York")
_names = itertools.count(1)


def at(text: str, zone: Any = UTC) -> datetime:
    """An instant, from '2024-01-02 16:00' as a clock in the zone shows it."""
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)


def ny(text: str) -> datetime:
    return at(text, NEW_YORK)


def day(text: str) -> date:
    return date.fromisoformat(text)


def rows(conn: Conn, query: str, *args: Any) -> list[Any]:
    return conn.execute(query, args).fetchall()


def val(conn: Conn, query: str, *args: Any) -> Any:
    found = rows(conn, query, *args)
    assert len(found) == 1, (query, found)
    return found[0][0]


def call(conn: Conn, verb: str, **args: Any) -> dict[str, Any]:
    """The one row that a verb returns, arguments by name."""
    names = ", ".join(f"p_{name} => %s" for name in args)
    with conn.cursor(row_factory=dict_row) as cur:
        cur.execute(f"select * from {verb}({names})", list(args.values()))
        found = cur.fetchall()
    assert len(found) == 1, (verb, found)
    return found[0]


@contextmanager
def refused(conn: Conn, code: str, **detail: Any) -> Iterator[None]:
    """The statement inside is refused with this SQLSTATE; a refusal of ours has a DETAIL and a HINT."""
    with pytest.raises(psycopg.Error) as caught, conn.transaction():
        yield
    error = caught.value
    assert error.sqlstate == code, f"{error.sqlstate} instead of {code}: {error}"
    if code.startswith("TE"):
        assert re.match(r"\w+=", error.diag.message_detail or ""), error.diag.message_detail
        assert error.diag.message_hint
        for key, value in detail.items():
            assert f"{key}={value}" in (error.diag.message_detail or ""), error.diag.message_detail


class Market:
    """A feed of its own, on a calendar of its own when sessions are given: [(date, open, close)], clock times in zone."""

    def __init__(
        self,
        conn: Conn,
        sessions: Sequence[tuple[str, str, str]] | None = None,
        zone: str = "UTC",
        symbols: Sequence[str] = (),
    ) -> None:
        self.conn = conn
        self.feed = f"feed {next(_names)}"
        self.calendar = "ALWAYS"
        self.zone = ZoneInfo(zone)
        if sessions is not None:
            self.calendar = f"calendar {next(_names)}"
            conn.execute("insert into calendar values (%s, %s)", [self.calendar, zone])
            self.add_sessions(sessions)
        conn.execute("insert into feed values (%s, %s)", [self.feed, self.calendar])
        for symbol in symbols:
            self.instrument(symbol)

    def add_sessions(self, sessions: Sequence[tuple[str, str, str]]) -> None:
        with self.conn.cursor() as cur:
            cur.executemany(
                "insert into market_session values (%s, %s, %s, %s)",
                [(self.calendar, d, at(f"{d} {o}", self.zone), at(f"{d} {c}", self.zone)) for d, o, c in sessions],
            )

    def at(self, text: str) -> datetime:
        return at(text, self.zone)

    def instrument(self, symbol: str, step: Any = "0.000001", tick: Any = None) -> None:
        self.conn.execute(
            "insert into instrument (symbol, quantity_step, price_tick) values (%s, %s, %s) on conflict do nothing",
            [symbol, step, tick],
        )

    def bars(self, symbol: str, bars: Mapping[Any, Any]) -> None:
        """time (or its clock text in the market's zone) → (open, high, low, close[, volume]), or a last price."""
        self.instrument(symbol)
        with self.conn.cursor() as cur:
            cur.executemany(
                "insert into price_bar (feed, symbol, logical_time, open, high, low, close, volume) "
                "values (%s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    (
                        self.feed,
                        symbol,
                        self.at(t) if isinstance(t, str) else t,
                        *(((*bar, None)[:5]) if isinstance(bar, list | tuple) else (bar, bar, bar, bar, None)),
                    )
                    for t, bar in bars.items()
                ],
            )


class Run:
    """A new user's RUNNING run on a market's feed."""

    def __init__(self, market: Market, cash: Any = 100_000, **options: Any) -> None:
        self.market = market
        self.conn = market.conn
        self.user_id: int = val(self.conn, "select create_user('a tester')")
        self.start(cash, **options)

    def start(self, cash: Any = 100_000, **options: Any) -> Run:
        found = call(self.conn, "start_run", user_id=self.user_id, initial_cash=cash, feed=self.market.feed, **options)
        self.run_id: int = found["start_run"]
        return self

    @property
    def key(self) -> tuple[int, int]:
        return self.user_id, self.run_id

    def call(self, verb: str, **args: Any) -> Any:
        """A verb on this run: its value, or its row when it returns one."""
        found = call(self.conn, verb, user_id=self.user_id, run_id=self.run_id, **args)
        return next(iter(found.values())) if len(found) == 1 else found

    def tick(self, time: datetime | str | None) -> None:
        """A text without an offset is a clock time of the market; any other text goes to the server as it is."""
        if isinstance(time, str) and re.fullmatch(r"\d{4}-\d\d-\d\d [\d:.]+", time):
            time = self.market.at(time)
        self.conn.execute("call tick(%s, %s, %s)", [*self.key, time])

    def place(self, symbol: Any, side: Any, quantity: Any, limit: Any = None, **terms: Any) -> dict[str, Any]:
        if limit is not None:
            terms = {"order_type": "LIMIT", "limit_price": limit, **terms}
        found: dict[str, Any] = self.call("place_order", symbol=symbol, side=side, quantity=quantity, **terms)
        return found

    def cancel(self, order_id: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.call("cancel_order", order_id=order_id)
        return found

    def sip(self, symbol: str, amount: Any, frequency: str, start: Any, **options: Any) -> int:
        found: int = self.call("create_sip", symbol=symbol, amount=amount, frequency=frequency, start=start, **options)
        return found

    def rebalance(self, weights: str | None, frequency: str, start: Any, **options: Any) -> int:
        found: int = self.call("create_rebalance", weights=weights, frequency=frequency, start=start, **options)
        return found

    def table(self, columns: str, table: str, order: str) -> list[Any]:
        return rows(
            self.conn,
            f"select {columns} from {table} where user_id = %s and run_id = %s order by {order}",
            *self.key,
        )

    def count(self, table: str) -> int:
        found: int = val(self.conn, f"select count(*) from {table} where user_id = %s and run_id = %s", *self.key)
        return found

    def order(self, order_id: int) -> dict[str, Any]:
        with self.conn.cursor(row_factory=dict_row) as cur:
            cur.execute(
                "select * from paper_order where user_id = %s and run_id = %s and order_id = %s",
                [*self.key, order_id],
            )
            found = cur.fetchone()
        assert found is not None
        return found

    def status(self, order_id: int) -> str:
        order = self.order(order_id)
        return str(order["status"]) + (" " + order["reject_reason"] if order["reject_reason"] else "")

    def orders(self) -> list[str]:
        return [self.status(order_id) for (order_id,) in self.table("order_id", "paper_order", "order_id")]

    def trades(self) -> list[Any]:
        """(order_id, logical_time, symbol, side, quantity, price) by trade_id."""
        return self.table(
            "order_id, logical_time, symbol, side, quantity, price",
            "paper_trade",
            "trade_id",
        )

    def fills(self) -> list[Any]:
        """(order_id, price) in the order of trading."""
        return [(t[0], t[5]) for t in self.trades()]

    def events(self) -> list[tuple[str, str]]:
        """(event_type, event_key) of plans' slots, by time and slot."""
        return self.table(
            "event_type, event_key",
            "(select * from event_ledger where event_type not in ('SPLIT', 'DIVIDEND')) e",
            "logical_time, split_part(event_key, ':', 1)::int, split_part(event_key, ':', 2)::int",
        )

    def payload(self, event_key: str, kind: str = "SIP") -> dict[str, Any]:
        found: dict[str, Any] = val(
            self.conn,
            "select payload from event_ledger where user_id = %s and run_id = %s and event_key = %s "
            "and event_type like %s",
            *self.key,
            event_key,
            kind + "%",
        )
        return found

    @property
    def cash(self) -> Any:
        found = val(self.conn, "select cash from engine_state where user_id = %s and run_id = %s", *self.key)
        return found

    def held(self, symbol: str) -> Any:
        found = val(
            self.conn,
            "select coalesce(sum(quantity), 0) from paper_position where user_id = %s and run_id = %s and symbol = %s",
            *self.key,
            symbol,
        )
        return found

    def rules(self) -> set[str]:
        """The rules that the view violations reports for this run."""
        return {
            rule
            for (rule,) in rows(
                self.conn,
                "select rule from violations where user_id = %s and coalesce(run_id, %s) = %s",
                self.user_id,
                self.run_id,
                self.run_id,
            )
        }

    def snapshot(self) -> dict[str, list[Any]]:
        """Every row of the run, table by table, wall-clock columns included."""
        return {
            table: self.table("*", table, "1, 2, 3")
            for table in (
                *(
                    "strategy_run",
                    "engine_state",
                    "engine_status",
                    "paper_order",
                    "paper_trade",
                    "paper_position",
                ),
                *(
                    "cash_ledger",
                    "mtm_ledger",
                    "paper_equity_curve",
                    "event_ledger",
                    "sip_plan",
                    "rebalance_plan",
                ),
                *("target_weight", "risk_limit", "forbidden_symbol", "dividend_due", "trade_fee"),
            )
        }


def days(first: str, last: str, skip: Sequence[str] = ()) -> list[str]:
    """Weekdays from first to last, both included, but for the holidays."""
    found, d = [], day(first)
    while d <= day(last):
        if d.weekday() < 5 and d.isoformat() not in skip:
            found.append(d.isoformat())
        d += timedelta(days=1)
    return found


def weekday_market(
    conn: Conn,
    first: str,
    last: str,
    skip: Sequence[str] = (),
    zone: str = "UTC",
    hours: tuple[str, str] = ("09:30", "16:00"),
) -> Market:
    return Market(conn, [(d, *hours) for d in days(first, last, skip)], zone)
