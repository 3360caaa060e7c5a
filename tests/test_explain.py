"""explain_order: why an order did or did not fill, told from its rows and the bars."""

from __future__ import annotations

from typing import Any

import pytest
from desk import Conn, D, Market, Run, refused, rows, weekday_market


def story(run: Run, order_id: int) -> list[tuple[Any, ...]]:
    """(clock text, code, detail) of explain_order."""
    found = rows(run.conn, "select logical_time, code, detail from explain_order(%s, %s, %s)", *run.key, order_id)
    zone = run.market.zone
    return [(t and t.astimezone(zone).strftime("%m-%d %H:%M"), code, detail) for t, code, detail in found]


def codes(run: Run, order_id: int) -> list[tuple[Any, ...]]:
    return [row[:2] for row in story(run, order_id)]


def test_try(tx: Conn) -> None:
    market = weekday_market(tx, "2024-01-02", "2024-01-05")
    market.bars("ACME", {"2024-01-02 10:00": 100, "2024-01-02 11:00": (100, 103, 97, 101), "2024-01-02 17:00": 90,
                         "2024-01-03 11:00": (100, 103, 96, 101), "2024-01-03 12:00": (96, 97, 94, 95)})
    run = Run(market)
    run.tick("2024-01-02 10:00")
    run.place("ACME", "BUY", 10, 95)
    run.tick("2024-01-03 11:00")
    for row in story(run, 1): print(row)
    run.tick("2024-01-03 12:00")
    for row in story(run, 1): print(row)
    run.place("ACME", "SELL", 4, order_type="TRAILING_STOP", trail_amount=2)
    assert 0
