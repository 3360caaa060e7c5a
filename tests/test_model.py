"""The database and the model of tests/model.py agree: on every row to the last digit, and on every refusal.

HYPOTHESIS_PROFILE=thorough plays ten times as many scripts, others every time.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from difflib import unified_diff
from typing import Any

import psycopg
from hypothesis import given
from hypothesis import settings as Settings
from hypothesis import strategies as st

from tests.model import Bar, Model, Refused
from tests.scripts import BRIEF, Call, Script, examples, scripts
from tests.scripts_accounts import Accounts, accounts, scripts_of_fees, scripts_of_margin
from tests.scripts_actions import action_scripts, corner_script_of_actions


def play_both(bench: Accounts, script: Script) -> Model:
    market, terms = bench.prepare(script)
    run = bench.run(bench.feed(script), script.cash, **terms)
    model = Model(market, script.cash, **terms)
    for call in script.calls:
        refused = said = None
        try:
            model.call(call.verb, **call.arguments)
        except Refused as refusal:
            refused = refusal
        try:
            run.call(call.verb, **call.arguments)
        except psycopg.Error as error:
            said = error
        codes = refused.codes if refused else (None,)
        assert (said and said.sqlstate) in codes, f"{call!r}: the model says {refused}, the database {said!r}"
    expected, found = model.rows(), run.rows()
    for table in expected:
        pair = [*map(_text, expected[table])], [*map(_text, found[table])]
        difference = "\n".join(unified_diff(*pair, "model", "database", lineterm="", n=1))
        assert not difference, f"{table}\n{difference}"
    return model


def _text(row: tuple[Any, ...]) -> str:
    return " ".join(_value(value) for value in row)


def _value(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M")
    if isinstance(value, dict):
        return str({key: _value(value[key]) for key in sorted(value)})
    return f"{value.normalize() + 0:f}" if isinstance(value, Decimal) else str(value)


def corner_script() -> Script:
    """What chance seldom meets: gaps inside a session, two orders for the same cash or units, limits met exactly."""
    hours = [datetime(2020, 3, 10, 14, tzinfo=UTC) + timedelta(hours=n) for n in range(6)]
    prices = {
        "Zed": [(10, 12, 9, 11), (11, 11, 10, 10), (4, 6, 3, 5), (5, 5, 5, 5), (15, 20, 14, 18), (18, 18, 18, 18)]
    }
    bars = {s: {at: Bar(*map(Decimal, row)) for at, row in zip(hours, rows, strict=True)} for s, rows in prices.items()}
    script = Script("DAYTIME", bars, Decimal(1000))

    def order(side: str, quantity: str, limit: int | None = None) -> None:
        terms = {} if limit is None else {"order_type": "LIMIT", "limit_price": Decimal(limit)}
        script.calls.append(
            Call("place_order", {"symbol": "Zed", "side": side, "quantity": Decimal(quantity), **terms})
        )

    def tick(n: int) -> None:
        script.calls.append(Call("tick", {"logical_time": hours[n]}))

    order("BUY", "30")  # 300 of the cash
    tick(0)
    order("BUY", "20", 8)  # rests; the third bar lies below it: its high, 6
    order("BUY", "20", 5)  # rests; the third bar opens below it: the limit, 5
    order("BUY", "44")  # 484 at 11, more than is left beside these two: 1000 - 300 - 160 - 100 = 440
    script.calls.append(Call("create_sip", sip := {"symbol": "Zed", "amount": Decimal(441), "frequency": "DAILY"}))
    sip["start"] = date(2020, 3, 10)
    tick(1)
    order("SELL", "20", 13)  # rests; the fifth bar lies above it: its low, 14
    order("SELL", "10", 16)  # rests; the fifth bar reaches it
    order("SELL", "0.000001")  # nothing is left to sell
    tick(2)
    script.calls.append(Call("set_risk_limit", {"max_order_value": Decimal(50), "max_position": Decimal(80)}))
    order("BUY", "10")  # 50 exactly
    order("BUY", "10.000002", 5)  # 50.00001, which is 50.00
    order("BUY", "10.002", 5)  # 50.01
    order("SELL", "30", 2)  # 60
    order("BUY", "0.000001", 1)  # held 70, wanted 20.000002 + 0.000001
    tick(3)
    script.calls.append(Call("set_risk_limit", {}))
    order("BUY", "20", 3)  # reserves 60
    order("BUY", "58")  # 290 now, but 870 at the next open: all the cash there is then, the 60 included
    tick(4)
    tick(5)
    return script


def test_dr_01_model_and_database_agree_in_the_corners(db: psycopg.Connection[Any]) -> None:
    play_both(Accounts(db), corner_script())


def test_dr_01_model_and_database_agree_on_random_scripts(db: psycopg.Connection[Any]) -> None:
    bench = Accounts(db)

    @examples(300, 6000)
    @given(accounts(scripts()))
    def check(script: Script) -> None:
        play_both(bench, script)

    check()


def test_dr_01_model_and_database_agree_on_scripts_of_plans(db: psycopg.Connection[Any]) -> None:
    bench = Accounts(db)

    @examples(200, 6000)
    @given(scripts(plans=True))
    def check(script: Script) -> None:
        play_both(bench, script)

    check()


def test_dr_01_model_and_database_agree_on_random_scripts_of_orders(db: psycopg.Connection[Any]) -> None:
    bench = Accounts(db)

    @examples(600, 20_000)
    @given(scripts(orders=True))
    def check(script: Script) -> None:
        play_both(bench, script)

    check()


# What the scripts of actions must have met, at least once each.
WANTED = {
    "cash in lieu",
    "a fraction worth nothing",
    "a position split away",
    *(f"{price}_price off the grid" for price in ("limit", "stop", "take_profit", "stop_loss", "stop_loss_limit")),
    "a price kept above nothing",
    "an order canceled by a split",
    "a partly filled order canceled by a split",
    "an order's quantity floored",
    "a pair over a split",
    "a bracket's entry over a split",
    "BRACKET over a split",
    *(f"{life} over a split" for life in ("DAY", "GTC", "GTD", "IOC", "FOK")),
    *(f"{kind} PENDING over a split" for kind in ("MARKET", "LIMIT", "STOP", "STOP_LIMIT", "TRAILING_STOP")),
    *(f"{kind} PARTIALLY_FILLED over a split" for kind in ("MARKET", "LIMIT", "STOP")),
    "STOP TRIGGERED over a split",
    "STOP_LIMIT TRIGGERED over a split",
    "a dividend",
    "a dividend of nothing",
    "a dividend to one who has sold",
    "a reinvestment",
    "a reinvestment refused",
    "no reinvestment while closed",
    "no reinvestment at an old price",
    "too little to reinvest",
    "two actions of a symbol at one bar",
    "an action that has waited",
    "a row that comes in time",
    "a row that comes too late",
}


def test_dr_01_model_and_database_agree_on_random_scripts_of_actions(db: psycopg.Connection[Any]) -> None:
    bench = Accounts(db)
    seen = play_both(bench, corner_script_of_actions("ALWAYS")).seen
    seen.update(play_both(bench, corner_script_of_actions("DAYTIME")).seen)

    @examples(400, 6000)
    @given(action_scripts())
    def check(script: Script) -> None:
        seen.update(play_both(bench, script).seen)

    check()
    assert BRIEF or seen >= Counter(WANTED), Counter(WANTED) - seen
    assert db.execute("select rule, detail from violations").fetchall() == []


def play_many(bench: Accounts, strategy: st.SearchStrategy[Script], many: Settings, cases: dict[str, int]) -> None:
    """Play them; at least so many of the scripts must have met each case, as the model says."""
    met: Counter[str] = Counter()

    @many
    @given(strategy)
    def check(script: Script) -> None:
        met.update({case for case, times in play_both(bench, script).met.items() if times})

    check()
    assert BRIEF or not {case: met[case] for case, least in cases.items() if met[case] < least}


def test_dr_01_model_and_database_agree_on_scripts_of_fees(db: psycopg.Connection[Any]) -> None:
    cases = {"charged": 100, "of others": 30, "of the product": 10, "fees cost units": 10}
    cases |= {"bound by minimum": 30, "bound by maximum": 20, "bound by share of the value": 15}
    cases |= {"charged again": 10, "bound again": 8}  # a later fill of the same order
    play_many(Accounts(db), scripts_of_fees, examples(300, 6000), cases)


def test_dr_01_model_and_database_agree_on_scripts_of_margin(db: psycopg.Connection[Any]) -> None:
    cases = {"a short position": 100, "a short that is covered": 60, "BORROW_FEE": 40, "MARGIN_INTEREST": 15}
    cases |= {"an order that only reduces": 60, "too little margin": 50, "charged": 30, "charged again": 3}
    cases |= {"a margin call": 20, "a margin call that leaves something": 4}
    play_many(Accounts(db), scripts_of_margin(), examples(300, 6000), cases)
