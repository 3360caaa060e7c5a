"""Scripts with orders of every kind, and runs with every option: what scripts.py, which the model follows, leaves out."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, TypeAlias

import psycopg
from hypothesis import strategies as st

from tests.model import Bar
from tests.scripts import Bench, Call, Run, Script, scripts

Conn: TypeAlias = psycopg.Connection[Any]

D = Decimal


def one(conn: Conn, query: Any, *parameters: Any) -> Any:
    row = conn.execute(query, parameters).fetchone()
    return row and row[0]


def start(bench: Bench, feed: str, cash: Decimal, **options: Any) -> Run:
    """A new user's run; options as start_run has them."""
    user = one(bench.conn, "select create_user('x')")
    named = "".join(f", p_{name} => %s" for name in options)
    run_id = one(bench.conn, f"select start_run(%s, %s, %s{named})", user, cash, feed, *options.values())
    return Run(bench.conn, user, run_id)


def set_volumes(conn: Conn, feed: str) -> None:
    """Some bars with little volume, some with much, some with none, some unknown."""
    conn.execute(
        """update price_bar
              set volume = (array[100, null, 30, 400, 0, 100, 4000])[1 + (extract(epoch from logical_time)::bigint / 1800 + ascii(symbol)) %% 7]
            where feed = %s""",
        [feed],
    )


@st.composite
def orders(draw: st.DrawFn, script: Script) -> Call:
    """An order of the kinds that scripts() does not place, or a change to one."""
    symbol = draw(st.sampled_from(sorted(script.bars)))
    bars: list[Bar] = list(script.bars[symbol].values())
    prices = sorted({p for b in bars for p in (b.open, b.high, b.low, b.close)}) or [D(1)]
    low, middle, high = sorted(draw(st.tuples(*[st.sampled_from(prices)] * 3)))
    side = draw(st.sampled_from(["BUY", "BUY", "SELL"]))
    quantity = D(draw(st.sampled_from([5, 10, 20, 50])))
    kind = draw(st.integers(0, 17))
    tif = draw(st.sampled_from(["GTC", "GTC", "DAY", "IOC", "FOK"]))
    terms: dict[str, Any] = {"symbol": symbol, "side": side, "quantity": quantity}
    if kind < 3:
        terms |= {"order_type": "STOP", "stop_price": middle}
    elif kind < 5:
        terms |= {"order_type": "STOP_LIMIT", "stop_price": middle, "limit_price": draw(st.sampled_from([low, high]))}
    elif kind < 9:
        trail = {"trail_percent": draw(st.sampled_from([D(3), D(15), D(40)]))}
        terms |= {"order_type": "TRAILING_STOP"} | trail
    elif kind < 13:
        quantity = D(draw(st.sampled_from([10, 50, 100])))
        terms |= {"side": "BUY", "quantity": quantity, "take_profit": high, "stop_loss": low}
        if draw(st.booleans()):
            terms |= {"order_type": "LIMIT", "limit_price": middle}
    elif kind < 16:
        over, under = (high, low) if side == "SELL" else (low, high)
        pair = {"limit_price": over, "stop_price": under, "time_in_force": draw(st.sampled_from(["GTC", "DAY"]))}
        return Call("place_oco", terms | pair)
    else:
        return Call(
            "replace_order", {"order_id": draw(st.integers(1, 8)), "limit_price": draw(st.sampled_from([None, low]))}
        )
    return Call("place_order", terms | {"time_in_force": tif})


@st.composite
def histories(draw: st.DrawFn) -> tuple[Script, int]:
    """A script with orders of every kind, and the index of a tick in it."""
    script = draw(scripts(every_time=True))
    calls: list[Call] = []
    for call in script.calls:
        if call.verb == "tick" and any(script.bars.values()):
            calls += [draw(orders(script)) for _ in range(draw(st.sampled_from([0, 0, 1, 2])))]
        calls.append(call)
    script.calls = calls
    ticks = [i for i, call in enumerate(calls) if call.verb == "tick"]
    return script, draw(st.sampled_from(ticks)) if ticks else -1


OPTIONS: list[dict[str, Any]] = [
    {},
    {"participation": D("0.1")},
    {"participation": D("0.5"), "slippage_bps": D(25), "penetration_ticks": 1},
    {"mark_policy": "EVENTS", "participation": D("0.25")},
    {"mark_policy": "SESSION"},
    {"fee_schedule": "IN_DELIVERY", "participation": D("0.25")},
    {"initial_margin": D("0.5"), "maintenance_margin": D("0.3"), "borrow_rate": D("0.5"), "margin_rate": D("0.5")},
]
