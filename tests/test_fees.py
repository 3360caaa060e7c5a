"""Fee schedules: what an order costs, to the last digit, by hand; that it holds over partial fills; that rows never change."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from desk import Conn, D, Market, Run, refused, rows, val
from helpers import pid_of, raises, superuser_only, wait_until_blocked

Fees = dict[str, str]
Row = dict[str, Any]

OWN = "a schedule of my own"


def add(conn: Conn, component: str = "FEE", **columns: Any) -> None:
    """A row of OWN; a BUY from 2020 on that charges nothing, unless told."""
    row = {
        "fee_schedule": OWN,
        "component": component,
        "side": "BUY",
        "effective_from": "2020-01-01",
        "source": "test",
    } | columns
    names, marks = ", ".join(row), ", ".join(["%s"] * len(row))
    conn.execute(f"insert into fee_schedule ({names}) values ({marks})", list(row.values()))


def fees(
    conn: Conn,
    schedule: str | None,
    side: str,
    day: str,
    quantity: Any,
    value: Any,
    *,
    symbol: str = "A",
    scale: int = 2,
) -> Fees:
    found = rows(
        conn,
        "select component, amount from unnest(engine.fees_of(%s, %s, %s, %s, %s, %s, %s))",
        *(schedule, symbol, side, day, D(quantity), D(value), scale),
    )
    assert [c for c, _ in found] == sorted(c for c, _ in found)
    return {component: str(amount) for component, amount in found}


def own(conn: Conn, quantity: Any = 1, value: Any = 1000, day: str = "2024-06-03", **where: Any) -> Fees:
    return fees(conn, OWN, where.pop("side", "BUY"), day, quantity, value, **where)


# --- the schedules that come with it ---------------------------------------------------------------------------------

DELIVERY_BUY = {"STT": "10.00", "EXCHANGE": "0.31", "SEBI": "0.01", "STAMP": "1.50", "GST": "0.06"}  # ₹11.88

SHIPPED: list[tuple[str, str, str, Any, Any, Fees]] = [
    ("ZERO", "BUY", "2024-06-03", 100, 10_000, {}),
    ("ZERO", "SELL", "1950-01-01", 100, 10_000, {}),
    # GST is 18 % of 0.31 + 0.01
    ("IN_DELIVERY", "BUY", "2025-01-01", 100, 10_000, DELIVERY_BUY),
    # and of the depository's 13.00 too: 18 % of 13.32
    ("IN_DELIVERY", "SELL", "2025-01-01", 100, 10_000,
     {"STT": "10.00", "EXCHANGE": "0.31", "SEBI": "0.01", "DP": "13.00", "GST": "2.40"}),
    # the day before the exchange and the depository changed their charges: 18 % of 0.33 + 0.01 + 13.50
    ("IN_DELIVERY", "SELL", "2024-09-30", 100, 10_000,
     {"STT": "10.00", "EXCHANGE": "0.33", "SEBI": "0.01", "DP": "13.50", "GST": "2.49"}),
    # ₹10 lakh through the exchange's rates: 18 % of exchange + SEBI, of the exchange alone before 2022-07-18
    ("IN_DELIVERY", "BUY", "2024-10-01", 1, 1_000_000,
     {"STT": "1000.00", "EXCHANGE": "30.70", "SEBI": "1.00", "STAMP": "150.00", "GST": "5.71"}),
    ("IN_DELIVERY", "BUY", "2024-04-01", 1, 1_000_000,
     {"STT": "1000.00", "EXCHANGE": "33.20", "SEBI": "1.00", "STAMP": "150.00", "GST": "6.16"}),
    ("IN_DELIVERY", "BUY", "2023-04-01", 1, 1_000_000,
     {"STT": "1000.00", "EXCHANGE": "33.50", "SEBI": "1.00", "STAMP": "150.00", "GST": "6.21"}),
    ("IN_DELIVERY", "BUY", "2022-07-18", 1, 1_000_000,
     {"STT": "1000.00", "EXCHANGE": "34.50", "SEBI": "1.00", "STAMP": "150.00", "GST": "6.39"}),
    ("IN_DELIVERY", "BUY", "2022-07-17", 1, 1_000_000,
     {"STT": "1000.00", "EXCHANGE": "34.50", "SEBI": "1.00", "STAMP": "150.00", "GST": "6.21"}),
    ("IN_DELIVERY", "BUY", "2021-03-31", 1, 1_000_000,
     {"STT": "1000.00", "EXCHANGE": "34.50", "SEBI": "0.50", "STAMP": "150.00", "GST": "6.21"}),
    ("IN_DELIVERY", "BUY", "2020-12-31", 1, 1_000_000,
     {"STT": "1000.00", "EXCHANGE": "32.50", "SEBI": "0.50", "STAMP": "150.00", "GST": "5.85"}),
    # before the stamp duty was one for all states
    ("IN_DELIVERY", "BUY", "2020-06-30", 1, 1_000_000, {"STT": "1000.00", "SEBI": "0.50"}),
    # STT to the nearest rupee, the half up
    ("IN_DELIVERY", "BUY", "2025-01-01", 1, "10499.99",
     {"STT": "10.00", "EXCHANGE": "0.32", "SEBI": "0.01", "STAMP": "1.57", "GST": "0.06"}),
    ("IN_DELIVERY", "BUY", "2025-01-01", 1, 10_500,
     {"STT": "11.00", "EXCHANGE": "0.32", "SEBI": "0.01", "STAMP": "1.58", "GST": "0.06"}),
    # 0.03 % brokerage: 3.00; no STT, and the lower stamp duty
    ("IN_INTRADAY", "BUY", "2025-01-01", 100, 10_000,
     {"BROKERAGE": "3.00", "EXCHANGE": "0.31", "SEBI": "0.01", "STAMP": "0.30", "GST": "0.60"}),
    # 0.03 % of a lakh would be 30: ₹20 at most. 0.025 % STT; no stamp duty, no depository
    ("IN_INTRADAY", "SELL", "2025-01-01", 1000, 100_000,
     {"BROKERAGE": "20.00", "STT": "25.00", "EXCHANGE": "3.07", "SEBI": "0.10", "GST": "4.17"}),
    # at least a dollar; half a cent a share; at most 1 % of the value, even below the minimum
    ("US_PER_SHARE", "BUY", "2025-01-01", 100, 2_500, {"COMMISSION": "1.00"}),
    ("US_PER_SHARE", "BUY", "2025-01-01", 1000, 25_000, {"COMMISSION": "5.00"}),
    ("US_PER_SHARE", "BUY", "2025-01-01", 1000, 250, {"COMMISSION": "2.50"}),
    ("US_PER_SHARE", "BUY", "2025-01-01", 1, 50, {"COMMISSION": "0.50"}),
    # a million dollars of sales through the years
    ("US_PER_SHARE", "SELL", "2025-05-13", 10_000, 1_000_000, {"COMMISSION": "50.00", "SEC": "27.80", "TAF": "1.66"}),
    ("US_PER_SHARE", "SELL", "2025-05-14", 10_000, 1_000_000, {"COMMISSION": "50.00", "TAF": "1.66"}),
    ("US_PER_SHARE", "SELL", "2026-04-04", 10_000, 1_000_000, {"COMMISSION": "50.00", "SEC": "20.60", "TAF": "1.95"}),
    ("US_PER_SHARE", "SELL", "2023-02-27", 10_000, 1_000_000, {"COMMISSION": "50.00", "SEC": "8.00", "TAF": "1.45"}),
    ("US_PER_SHARE", "SELL", "2022-06-01", 10_000, 1_000_000, {"COMMISSION": "50.00", "SEC": "22.90", "TAF": "1.30"}),
    ("US_PER_SHARE", "SELL", "2021-12-31", 10_000, 1_000_000, {"COMMISSION": "50.00", "SEC": "5.10", "TAF": "1.19"}),
    # the TAF's cap: 0.000166 a share would be 16.60
    ("US_PER_SHARE", "SELL", "2024-01-02", 100_000, 1_000_000, {"COMMISSION": "500.00", "SEC": "8.00", "TAF": "8.30"}),
]  # fmt: skip


@pytest.mark.parametrize(("schedule", "side", "day", "quantity", "value", "expected"), SHIPPED)
def test_shipped_schedule(
    tx: Conn, schedule: str, side: str, day: str, quantity: Any, value: Any, expected: Fees
) -> None:
    assert fees(tx, schedule, side, day, quantity, value) == expected


def test_a_delivery_buy_of_ten_thousand_rupees_costs_11_88(tx: Conn) -> None:
    total = "select engine.fee_sum(engine.fees_of('IN_DELIVERY', 'A', 'BUY', '2025-01-01', 100, 10000, 2))"
    assert val(tx, total) == D("11.88") == sum(map(D, DELIVERY_BUY.values()))


def test_an_etf_pays_its_own_stt_on_delivery(tx: Conn) -> None:
    tx.execute("insert into instrument (symbol, product) values ('FUND', 'ETF'), ('SHARE', default)")
    assert fees(tx, "IN_DELIVERY", "BUY", "2025-01-01", 1, 100_000, symbol="SHARE")["STT"] == "100.00"
    assert "STT" not in fees(tx, "IN_DELIVERY", "BUY", "2025-01-01", 1, 100_000, symbol="FUND")
    assert fees(tx, "IN_DELIVERY", "SELL", "2025-01-01", 1, 100_000, symbol="FUND")["STT"] == "1.00"
    assert fees(tx, "IN_DELIVERY", "SELL", "2013-05-31", 1, 100_000, symbol="FUND")["STT"] == "100.00"
    assert fees(tx, "IN_INTRADAY", "SELL", "2025-01-01", 1, 100_000, symbol="FUND")["STT"] == "25.00"


def test_shipped_rows_obey_the_guard_that_came_after_them(tx: Conn) -> None:
    """They were loaded before there were triggers. What a percentage is of is there, and is no percentage."""
    base = "select of_side.component from fee_schedule of_side where (fee_schedule, side) = (f.fee_schedule, f.side)"
    bad = f"""
      select fee_schedule, component from fee_schedule f cross join unnest(of_components) b (component)
       where b.component not in ({base}) or b.component in ({base} and of_components is not null)"""
    assert rows(tx, bad.replace("select fee_schedule, component", "select f.fee_schedule, f.component")) == []
    assert val(tx, "select count(*) from fee_schedule where of_components is not null") == 8


# --- each column -----------------------------------------------------------------------------------------------------

COLUMNS: list[tuple[Row, Any, Any, str | None]] = [
    ({}, 10, 1000, None),
    ({"rate_bps": 12.5}, 10, 1000, "1.25"),
    ({"rate_bps": 10_000}, 10, 1000, "1000.00"),
    ({"rate_bps": "0.000001"}, 1, "1e12", "100.00"),
    ({"per_unit_amount": "0.005"}, 1000, 1, "5.00"),
    ({"per_unit_amount": "0.00000001"}, "1e9", 1, "10.00"),
    ({"per_unit_amount": 2}, "0.5", 1, "1.00"),
    ({"flat_amount": 15.5}, 1, 1, "15.50"),
    ({"rate_bps": 10, "per_unit_amount": 0.5, "flat_amount": 3}, 4, 1000, "6.00"),
    ({"rate_bps": 10, "minimum_amount": 2}, 1, 1000, "2.00"),
    ({"rate_bps": 10, "minimum_amount": 2}, 1, 3000, "3.00"),
    ({"minimum_amount": 2}, 1, 1000, "2.00"),
    ({"rate_bps": 10, "maximum_amount": 20}, 1, 30_000, "20.00"),
    ({"rate_bps": 10, "maximum_amount": 20}, 1, 10_000, "10.00"),
    ({"rate_bps": 10, "maximum_amount": 0}, 1, 10_000, None),
    ({"rate_bps": 10, "minimum_amount": 5, "maximum_amount": 5}, 1, 10_000, "5.00"),
    ({"flat_amount": 7, "maximum_bps": 100}, 1, 500, "5.00"),
    ({"minimum_amount": 7, "maximum_bps": 100}, 1, 500, "5.00"),
    ({"minimum_amount": 7, "maximum_bps": 100}, 1, 900, "7.00"),
    ({"flat_amount": 7, "maximum_amount": 4, "maximum_bps": 100}, 1, 500, "4.00"),
    # half away from zero, to the cent and to a unit
    ({"rate_bps": 1}, 1, 49, None),
    ({"rate_bps": 1}, 1, 50, "0.01"),
    ({"rate_bps": 100, "round_to": 1}, 1, 149, "1.00"),
    ({"rate_bps": 100, "round_to": 1}, 1, 150, "2.00"),
    ({"rate_bps": 100, "round_to": 1}, 1, "149.9999", "1.00"),
    ({"rate_bps": 100, "round_to": 1}, 1, 49, None),
    ({"rate_bps": 100, "round_to": "0.05"}, 1, 102, "1.00"),
    ({"rate_bps": 100, "round_to": "0.05"}, 1, "102.5", "1.05"),
    ({"rate_bps": 100, "round_to": "0.03"}, 1, 100, "0.99"),
    ({"rate_bps": 100, "round_to": "0.03"}, 1, "100.5", "1.02"),
    ({"rate_bps": 100, "round_to": "0.001"}, 1, "100.4", "1.00"),
    # 333509996.664999999999 is below the half
    ({"rate_bps": "33.333333"}, 1, "100053000000.03", "333509996.66"),
    ({"flat_amount": "1e10", "maximum_bps": "33.333333"}, 1, "100053000000.03", "333509996.66"),
    # what is rounded is what is capped
    ({"rate_bps": 100, "maximum_amount": "1.6", "round_to": 1}, 1, 1000, "2.00"),
    # nothing traded
    ({"flat_amount": 15.5, "minimum_amount": 2}, 0, 0, None),
]


@pytest.mark.parametrize(("row", "quantity", "value", "expected"), COLUMNS)
def test_column(tx: Conn, row: Row, quantity: Any, value: Any, expected: str | None) -> None:
    add(tx, **row)
    assert own(tx, quantity, value) == ({"FEE": expected} if expected else {})


@pytest.mark.parametrize(("scale", "expected"), [(0, "12"), (2, "12.35"), (3, "12.346"), (4, "12.3456")])
def test_fees_are_in_the_minor_unit(tx: Conn, scale: int, expected: str) -> None:
    add(tx, flat_amount="12.3456")
    assert own(tx, scale=scale) == {"FEE": expected}


def test_a_percentage_is_of_the_others_as_they_are_charged(tx: Conn) -> None:
    add(tx, "A", rate_bps=10, maximum_amount="1.5")
    add(tx, "B", rate_bps="0.5")  # 0.1 %: 0.004 of 80
    add(tx, "C", flat_amount=100)
    add(tx, "TAX", of_components=["A", "B", "MISSING"], rate_bps=1800)
    add(tx, "ATAX", of_components=["C"], rate_bps=500, flat_amount=1, minimum_amount=4, maximum_amount=5)
    assert own(tx, 1, 80) == {"A": "0.08", "ATAX": "5.00", "C": "100.00", "TAX": "0.01"}
    assert own(tx, 1, 2000) == {"A": "1.50", "ATAX": "5.00", "B": "0.10", "C": "100.00", "TAX": "0.29"}
    add(tx, "C", flat_amount=20, effective_from="2021-01-01")
    assert own(tx, 1, 80)["ATAX"] == "4.00"
    add(tx, "C", flat_amount=70, effective_from="2022-01-01")
    assert own(tx, 1, 80)["ATAX"] == "4.50"


def test_a_row_holds_until_the_next_of_its_component(tx: Conn) -> None:
    add(tx, flat_amount=1)
    add(tx, flat_amount=2, effective_from="2022-01-01")
    add(tx, effective_from="2023-01-01")  # ends it
    add(tx, flat_amount=4, effective_from="2024-01-01")
    add(tx, "OTHER", flat_amount=9, effective_from="2021-01-01")
    days = (
        "2019-12-31",
        "2020-01-01",
        "2021-12-31",
        "2022-01-01",
        "2022-12-31",
        "2023-01-01",
        "2024-01-01",
        "2299-12-31",
    )
    found = [own(tx, day=day) for day in days]
    assert [f.get("FEE") for f in found] == [None, "1.00", "1.00", "2.00", "2.00", None, "4.00", "4.00"]
    assert [f.get("OTHER") for f in found] == [None, None, *["9.00"] * 6]


def test_a_row_of_the_product_wins_over_any(tx: Conn) -> None:
    tx.execute("insert into instrument (symbol, product) values ('E', 'EQUITY'), ('F', 'ETF')")
    add(tx, flat_amount=1)
    add(tx, flat_amount=2, product="ETF", effective_from="2021-01-01")
    add(tx, flat_amount=3, effective_from="2022-01-01")
    add(tx, "OTHER", flat_amount=5)
    add(tx, "ONLY", flat_amount=6, product="ETF")
    assert [own(tx, symbol="F", day=day)["FEE"] for day in ("2020-06-01", "2021-01-01", "2022-01-01")] == [
        *("1.00", "2.00", "2.00")
    ]
    assert own(tx, symbol="F") == {"FEE": "2.00", "ONLY": "6.00", "OTHER": "5.00"}
    for symbol in ("E", "no such symbol"):
        assert own(tx, symbol=symbol) == {"FEE": "3.00", "OTHER": "5.00"}
    found = rows(
        tx,
        "select product, effective_from::text from unnest(engine.fees_of(%s, 'F', 'BUY', '2024-01-01', 1, 1, 2))",
        OWN,
    )
    assert found == [("ETF", "2021-01-01"), ("ETF", "2020-01-01"), ("*", "2020-01-01")]
    add(tx, product="ETF", effective_from="2023-01-01")  # nothing, for this product alone
    assert own(tx, symbol="F") == {"ONLY": "6.00", "OTHER": "5.00"}


def test_each_side_has_rows_of_its_own(tx: Conn) -> None:
    add(tx, flat_amount=1)
    add(tx, flat_amount=2, side="SELL")
    add(tx, "SALE", flat_amount=3, side="SELL")
    assert own(tx) == {"FEE": "1.00"}
    assert own(tx, side="SELL") == {"FEE": "2.00", "SALE": "3.00"}


def test_without_a_schedule_there_are_no_fees(tx: Conn) -> None:
    for schedule in (None, "no such schedule"):
        assert fees(tx, schedule, "BUY", "2024-01-01", 100, 10_000) == {}
    assert val(tx, "select engine.fees_of(null, 'A', 'BUY', '2024-01-01', 1, 1, 2)") == "{}"
    assert val(tx, "select engine.fee_sum(null)") == val(tx, "select engine.fee_sum('{}')") == 0
    assert val(tx, "select engine.fees_due('{}', null)") == val(tx, "select engine.fees_due(null, '{}')") == "{}"


# --- partial fills ---------------------------------------------------------------------------------------------------

FILL = """
  select engine.fees_due(t, %(charged)s::engine.fee[]), %(charged)s::engine.fee[] || engine.fees_due(t, %(charged)s::engine.fee[])
    from engine.fees_of(%(schedule)s, 'A', %(side)s, %(day)s, %(quantity)s, %(value)s, 2) t"""


def fill(conn: Conn, schedule: str, side: str, fills: Sequence[tuple[Any, Any, str]]) -> list[dict[str, Any]]:
    """What each fill (quantity, value, day) of one order is charged."""
    charged, found = "{}", []
    quantity = value = D(0)
    for q, v, day in fills:
        quantity, value = quantity + D(q), value + D(v)
        args = {
            "schedule": schedule,
            "side": side,
            "day": day,
            "quantity": quantity,
            "value": value,
            "charged": charged,
        }
        due, charged = conn.execute(FILL, args).fetchone()  # type: ignore[misc]
        assert val(conn, "select coalesce(bool_and(amount > 0), true) from unnest(%s::engine.fee[])", due)
        found.append(dict(rows(conn, "select component, amount::text from unnest(%s::engine.fee[])", due)))
    return found


def test_a_cap_of_20_rupees_holds_over_three_fills_and_a_fourth(tx: Conn) -> None:
    day = "2025-01-01"
    fills = fill(tx, "IN_INTRADAY", "SELL", [(1, 40_000, day), (1, 20_000, day), (1, 50_000, day), (1, 90_000, day)])
    assert [f.get("BROKERAGE") for f in fills] == ["12.00", "6.00", "2.00", None]
    assert [f["STT"] for f in fills] == ["10.00", "5.00", "13.00", "22.00"]  # of 10, 15, 27.5, 50
    assert [f["GST"] for f in fills] == ["2.39", "1.19", "0.65", "0.51"]


def test_a_minimum_is_charged_once_and_used_up(tx: Conn) -> None:
    day = "2025-01-01"
    fills = fill(tx, "US_PER_SHARE", "BUY", [(1, 50, day), (99, 5_000, day), (50, 2_500, day), (100, 5_000, day)])
    # at most 1 % of 50; 1.00 up to 200 shares; 250 shares cost 1.25
    assert fills == [{"COMMISSION": "0.50"}, {"COMMISSION": "0.50"}, {}, {"COMMISSION": "0.25"}]


def test_a_flat_fee_is_once_an_order(tx: Conn) -> None:
    day = "2025-01-01"
    assert [f.get("DP") for f in fill(tx, "IN_DELIVERY", "SELL", [(1, 100, day)] * 3)] == ["13.00", None, None]


def test_a_fee_that_falls_between_fills_is_not_paid_back(tx: Conn) -> None:
    add(tx, rate_bps=100)
    add(tx, rate_bps=10, effective_from="2022-01-01")
    fills = fill(
        tx,
        OWN,
        "BUY",
        [(1, 1000, "2021-01-01"), (1, 1000, "2022-01-01"), (1, 8_000, "2022-01-01"), (1, 2000, "2022-01-02")],
    )
    assert fills == [{"FEE": "10.00"}, {}, {}, {"FEE": "2.00"}]


def test_charges_name_the_row_they_come_from(tx: Conn) -> None:
    due = "select component, amount, product, effective_from::text from unnest(engine.fees_due(%s, %s::engine.fee[]))"
    total = val(tx, "select engine.fees_of('IN_INTRADAY', 'A', 'BUY', '2025-01-01', 1, 10000, 2)")
    assert rows(tx, due, total, "{}")[0] == ("BROKERAGE", D("3.00"), "*", "2020-07-01")
    # charged in several parts, of other rows; a component that is no longer due does not matter
    charged = [
        "(BROKERAGE,1.25,EQUITY,2010-01-01)",
        "(BROKERAGE,1.5,*,2010-01-01)",
        "(OLD,7,*,2010-01-01)",
        "(GST,9,*,2010-01-01)",
    ]
    assert rows(tx, due, total, charged) == [
        ("BROKERAGE", D("0.25"), "*", "2020-07-01"),
        ("EXCHANGE", D("0.31"), "*", "2024-10-01"),
        ("SEBI", D("0.01"), "*", "2021-04-01"),
        ("STAMP", D("0.30"), "*", "2020-07-01"),
    ]


@pytest.mark.parametrize("schedule", ["IN_DELIVERY", "IN_INTRADAY", "US_PER_SHARE"])
@pytest.mark.parametrize("side", ["BUY", "SELL"])
def test_however_an_order_is_filled_it_pays_the_same(tx: Conn, schedule: str, side: str) -> None:
    dice = random.Random(f"{schedule} {side}")
    for _ in range(12):
        fills = [
            (dice.randint(1, 300), D(dice.randint(1, 10 ** dice.randint(3, 8))) / 100, "2025-01-01")
            for _ in range(dice.randint(1, 6))
        ]
        charged = [D(amount) for f in fill(tx, schedule, side, fills) for amount in f.values()]
        whole = fees(tx, schedule, side, "2025-01-01", sum(q for q, _, _ in fills), sum(v for _, v, _ in fills))
        assert sum(charged) == sum(map(D, whole.values()))


# --- how much money buys ---------------------------------------------------------------------------------------------

WITHIN = "select engine.units_within(%s, %s, %s, %s, 'A', 'BUY', '2025-01-01', 2)"
COST = "select round(q * p, 2) + f, q * p + f from (select %s::numeric as q, %s::numeric as p) a cross join lateral (" \
       " select engine.fee_sum(engine.fees_of(%s, 'A', 'BUY', '2025-01-01', q, round(q * p, 2), 2)) as f) f"  # fmt: skip
PLAIN = "select engine.units_for(%s, %s, %s)"


def steep(conn: Conn) -> None:
    """Every way to charge at once, with jumps of 25."""
    add(conn, "A", rate_bps=120, round_to=25)
    add(conn, "B", per_unit_amount="0.37", minimum_amount="12.5", maximum_amount=900, maximum_bps=300)
    add(conn, "C", flat_amount="3.33", rate_bps="0.07")
    add(conn, "D", of_components=["A", "C"], rate_bps=1800, minimum_amount="0.5")


def check_within(conn: Conn, money: D, price: D, step: D, schedule: str) -> D:
    units: D = val(conn, WITHIN, money, price, step, schedule)
    assert units >= 0
    assert units % step == 0
    if units:
        rounded, exact = rows(conn, COST, units, price, schedule)[0]
        assert max(rounded, exact) <= money, "it overshoots"
    assert rows(conn, COST, units + step, price, schedule)[0][1] > money, "one step more would fit"
    return units


@pytest.mark.parametrize("schedule", ["IN_DELIVERY", "IN_INTRADAY", "US_PER_SHARE", "ZERO", OWN])
@pytest.mark.parametrize("step", ["1", "0.000001", "0.05"])
def test_units_within_money_are_the_most_that_fit(tx: Conn, schedule: str, step: str) -> None:
    steep(tx)
    dice = random.Random(f"{schedule} {step}")
    for _ in range(40):
        money = D(dice.randint(0, 10 ** dice.randint(1, 11))) / 100
        price = D(dice.randint(1, 10 ** dice.randint(1, 12))) / 10 ** dice.randint(0, 8)
        check_within(tx, money, price, D(step), schedule)


def test_units_within_money_are_the_most_of_all_that_fit(tx: Conn) -> None:
    """Not only does one step more not fit: nothing larger does. Every quantity is tried."""
    steep(tx)
    most = f"""select max(q) from generate_series(0, 400) q
                where q * 7.77 + engine.fee_sum(engine.fees_of('{OWN}', 'A', 'BUY', '2025-01-01', q, round(q * 7.77, 2), 2)) <= %s"""
    for money in range(0, 2400, 17):
        assert check_within(tx, D(money), D("7.77"), D(1), OWN) == val(tx, most, money), money


def test_no_fee_falls_when_the_quantity_grows(tx: Conn) -> None:
    """What units_within stands on."""
    steep(tx)
    for schedule in ("IN_DELIVERY", "IN_INTRADAY", "US_PER_SHARE", OWN):
        found = rows(
            tx,
            "select engine.fee_sum(engine.fees_of(%s, 'A', 'BUY', '2025-01-01', q, round(q * 3.33, 2), 2))"
            " from generate_series(0, 3000, 7) q order by q",
            schedule,
        )
        assert found == sorted(found)


def test_without_fees_money_buys_what_it_did(tx: Conn) -> None:
    dice = random.Random(1)
    for _ in range(100):
        money, price = D(dice.randint(-100, 10**9)) / 10 ** dice.randint(0, 6), D(dice.randint(1, 10**6)) / 1000
        step = dice.choice(["1", "0.000001", "0.3"])
        plain = val(tx, PLAIN, money, price, step)
        for schedule in (None, "ZERO", "no such schedule"):
            assert val(tx, WITHIN, money, price, step, schedule) == plain
    assert val(tx, WITHIN, 10_000, 100, 1, "IN_DELIVERY") == 99
    assert val(tx, WITHIN, D("10011.88"), 100, 1, "IN_DELIVERY") == 100
    assert val(tx, WITHIN, D("10011.87"), 100, 1, "IN_DELIVERY") == 99
    assert val(tx, WITHIN, 1000, 50, D("0.000001"), "US_PER_SHARE") == D("19.98")
    assert val(tx, WITHIN, 100, 100, 1, "US_PER_SHARE") == 0


# --- the rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["origin", "replica"])
def test_rows_never_change(tx: Conn, role: str) -> None:
    add(tx, flat_amount=1)
    if role == "replica":
        superuser_only(tx, "it may not set session_replication_role")
        tx.execute("set local session_replication_role = replica")
    for change in ("rate_bps = 1", "source = source", "effective_from = '2021-01-01'", "component = 'X'"):
        with refused(tx, "TE004", table="fee_schedule"):
            tx.execute(f"update fee_schedule set {change} where fee_schedule = %s", [OWN])
    with refused(tx, "TE004"):
        tx.execute(
            "insert into fee_schedule select * from fee_schedule where fee_schedule = %s"
            " on conflict (fee_schedule, side, component, product, effective_from) do update set flat_amount = 2",
            [OWN],
        )
    for cascade, codes in (("", ("TE004", "0A000")), ("cascade", ("TE004",))):
        with raises(*codes, conn=tx):
            tx.execute(f"truncate fee_schedule {cascade}")
    assert own(tx) == {"FEE": "1.00"}


def traded(conn: Conn, schedule: str | None, fills: Sequence[tuple[Any, Any, str, Any]]) -> Run:
    """A run with one partly filled order, by raw rows: (quantity, price, day, fee of OWN's FEE row in force)."""
    run = Run(Market(conn), **({"fee_schedule": schedule} if schedule else {}))
    conn.execute(
        "insert into paper_order (user_id, run_id, order_id, logical_time, symbol, side, order_type, quantity, time_in_force, status)"
        " values (%s, %s, 1, '2020-01-01', 'A', 'BUY', 'MARKET', 1000, 'GTC', 'PENDING')",
        run.key,
    )
    for k, (quantity, price, day, fee) in enumerate(fills, 1):
        conn.execute(
            "insert into paper_trade values (%s, %s, %s, 1, %s::timestamptz, 'A', 'BUY', %s, %s, %s)",
            [*run.key, k, f"{day} 12:00Z", quantity, price, fee],
        )
        if fee:
            conn.execute(
                "insert into trade_fee select %s, %s, %s, component, %s, fee_schedule, product, side, effective_from from fee_schedule"
                " where fee_schedule = %s and component = 'FEE' and effective_from <= %s order by effective_from desc limit 1",
                [*run.key, k, fee, OWN, day],
            )
    return run


def test_a_row_goes_only_while_no_trade_points_at_it(tx: Conn) -> None:
    add(tx, flat_amount=1)
    add(tx, flat_amount=2, effective_from="2021-01-01")
    gone = "delete from fee_schedule where fee_schedule = %s and effective_from = %s"
    run = traded(tx, None, [(1, 100, "2020-06-01", 1)])
    with refused(tx, "23503"):
        tx.execute(gone, [OWN, "2020-01-01"])
    assert tx.execute(gone, [OWN, "2021-01-01"]).rowcount == 1
    tx.execute("delete from strategy_run where user_id = %s and run_id = %s", run.key)
    assert tx.execute(gone, [OWN, "2020-01-01"]).rowcount == 1
    assert run.count("trade_fee") == 0


def test_a_row_goes_only_while_no_run_names_its_schedule(tx: Conn) -> None:
    add(tx, flat_amount=1)
    gone = "delete from fee_schedule where fee_schedule = %s"
    run = Run(Market(tx), fee_schedule=OWN)
    for _ in range(2):
        with refused(tx, "TE004", table="fee_schedule"):
            tx.execute(gone, [OWN])
        run.call("stop_run")  # it can be forked
    tx.execute("delete from strategy_run where user_id = %s", [run.user_id])
    assert tx.execute(gone, [OWN]).rowcount == 1


@pytest.mark.parametrize("first", ["start", "delete"])
def test_a_start_and_a_delete_of_its_schedule_wait_for_each_other(
    db: Conn, connect: Callable[..., Conn], background: Callable[..., Future[Any]], first: str
) -> None:
    add(db, flat_amount=1)
    add(db, "X", flat_amount=1)
    starter, deleter = (connect(autocommit=first != way) for way in ("start", "delete"))
    user_id = val(db, "select create_user('u')")
    start = "select start_run(%s, 1, p_fee_schedule => %s)", [user_id, OWN]
    gone = "delete from fee_schedule where fee_schedule = %s", [OWN]
    one, other = (starter, deleter) if first == "start" else (deleter, starter)
    one.execute(*(start if first == "start" else gone))
    waiting = background(other.execute, *(gone if first == "start" else start))
    wait_until_blocked(db, pid_of(other), by=pid_of(one))
    one.commit()
    with raises("TE004" if first == "start" else "TE101"):
        waiting.result()


BAD_ROWS: list[tuple[str, Row]] = [
    ("23505", {}),
    *(
        ("23502", {column: None})
        for column in ("component", "side", "product", "effective_from", "source", "rate_bps", "flat_amount")
    ),
    *(("23514", {column: ""}) for column in ("fee_schedule", "component", "product", "source")),
    *(("23514", {column: " x"}) for column in ("fee_schedule", "component", "product")),
    ("23514", {"source": " "}),
    ("23514", {"side": "buy"}),
    *(("23514", {"effective_from": day}) for day in ("infinity", "-infinity", "1899-12-31", "2300-01-01")),
    *(("23514", {"rate_bps": rate}) for rate in ("-0.000001", "10000.000001", "NaN")),
    *(("23514", {"maximum_bps": rate}) for rate in ("-0.000001", "10000.000001", "NaN")),
    *(("23514", {"per_unit_amount": a}) for a in ("-0.00000001", "1000000001", "NaN")),
    *(
        ("23514", {c: a})
        for c in ("flat_amount", "minimum_amount", "maximum_amount")
        for a in ("-0.0001", "1000000000001", "NaN")
    ),
    *(("22003", {c: "Infinity"}) for c in ("rate_bps", "per_unit_amount", "flat_amount", "maximum_bps", "round_to")),
    *(("23514", {"round_to": unit}) for unit in ("0", "-1", "1000001", "NaN")),
    ("23514", {"minimum_amount": 2, "maximum_amount": 1}),
    *(("23514", {"of_components": of}) for of in ([], ["X", None], ["NEW"], ["X", "NEW"])),
]


@pytest.mark.parametrize(("code", "row"), BAD_ROWS)
def test_a_row_that_makes_no_sense_is_refused(tx: Conn, code: str, row: Row) -> None:
    add(tx)
    with refused(tx, code):
        add(tx, **({"component": "NEW"} if row else {}) | row)
    add(tx, "NEW")


def test_a_percentage_of_a_percentage_is_refused(tx: Conn) -> None:
    add(tx, "TAX", of_components=["FEE"])
    with refused(tx, "TE101", argument="of_components"):
        add(tx, "CESS", of_components=["TAX"])
    with refused(tx, "TE101", argument="of_components"):
        add(tx, "FEE", of_components=["OTHER"], effective_from="2030-01-01", side="SELL", product="ETF")
    with refused(tx, "TE101"):  # rows of one statement
        tx.execute(
            "insert into fee_schedule (fee_schedule, component, side, effective_from, of_components, source)"
            " values ('new', 'A', 'BUY', '2020-01-01', '{B}', 's'), ('new', 'B', 'BUY', '2020-01-01', '{C}', 's')"
        )
    add(tx, "TAX", of_components=["FEE"], fee_schedule="other")
    add(tx, "CESS", of_components=["TAX"], fee_schedule="third")
    add(tx, "CESS", of_components=["FEE"])


def test_two_sessions_cannot_make_a_percentage_of_a_percentage(
    db: Conn, connect: Callable[..., Conn], background: Callable[..., Future[Any]]
) -> None:
    first, second = connect(autocommit=False), connect()
    add(first, "TAX", of_components=["FEE"])
    waiting = background(add, second, "FEE", of_components=["OTHER"])
    wait_until_blocked(db, pid_of(second))
    first.commit()
    with raises("TE101"):
        waiting.result(20)


# --- runs and ledgers ------------------------------------------------------------------------------------------------


def test_a_run_keeps_the_schedule_it_starts_with(tx: Conn) -> None:
    market = Market(tx)
    schedule = "select fee_schedule from strategy_run where user_id = %s and run_id = %s"
    assert val(tx, schedule, *Run(market).key) is None
    run = Run(market, fee_schedule="IN_DELIVERY")
    assert val(tx, schedule, *run.key) == "IN_DELIVERY"
    user_id = val(tx, "select create_user('u')")
    for unknown in ("no such schedule", "", "in_delivery"):
        with refused(tx, "TE101", argument="fee_schedule"):
            tx.execute("select start_run(%s, 1, p_fee_schedule => %s)", [user_id, unknown])
    for other in ("'ZERO'", "null"):
        with refused(tx, "TE004", table="strategy_run"):
            tx.execute(f"update strategy_run set fee_schedule = {other} where user_id = %s", [run.user_id])
    # as its other terms, it is open until the run has its books
    raw = val(tx, "insert into strategy_run (user_id, status) values (%s, 'RUNNING') returning run_id", user_id)
    tx.execute("update strategy_run set fee_schedule = 'ZERO' where run_id = %s", [raw])
    assert val(tx, schedule, user_id, raw) == "ZERO"


@pytest.mark.parametrize("options", [{}, {"initial_margin": 1, "maintenance_margin": 1}])
def test_what_an_order_holds_back_with_its_fees_can_be_stored(tx: Conn, options: dict[str, Any]) -> None:
    add(tx, flat_amount=10)
    market = Market(tx)
    market.bars("A", {"2024-01-01 12:00": 100})
    run = Run(market, fee_schedule=OWN, **options)
    run.tick("2024-01-01 12:00")
    highest = D("999999999999.99999999")
    for terms in ({"limit": highest}, {"order_type": "STOP", "stop_price": highest}):
        with refused(tx, "TE101"):
            run.place("A", "BUY", 5, **terms)
    assert run.place("A", "BUY", 5, limit=highest - 2)["reject_reason"] == "CASH_INSUFFICIENT"


def test_a_sale_must_bring_what_it_costs_or_the_cash_must_do(tx: Conn) -> None:
    add(tx, flat_amount=60, side="SELL")
    market = Market(tx)
    market.bars("A", {f"2024-01-0{n} 16:00": 50 for n in range(2, 6)})
    run = Run(market, 109, fee_schedule=OWN)
    run.place("A", "BUY", 2)
    run.tick("2024-01-02 16:00")
    run.place("A", "SELL", 1)  # 9 + 50 - 60
    run.place("A", "SELL", 2, limit=50)
    assert run.orders() == ["FILLED", "REJECTED CASH_INSUFFICIENT", "PENDING"]
    run.cancel(3)
    run.place("A", "SELL", "1.02", limit=50)  # 9 + 51 - 60
    run.tick("2024-01-03 16:00")
    assert (run.status(4), run.cash) == ("FILLED", 0)
    assert run.rules() == set()


def test_fees_are_part_of_a_run_s_history(tx: Conn) -> None:
    add(tx, flat_amount=1)
    fills = [(1, 100, "2020-06-01", 0), (2, 100, "2020-06-02", 0)]
    plain, same, costly = (traded(tx, None, fills) for _ in range(3))
    digests = "select run_digest(%s, %s) = run_digest(%s, %s)"
    assert val(tx, digests, *plain.key, *costly.key)
    tx.execute("insert into trade_fee values (%s, %s, 2, 'FEE', 1, %s, '*', 'BUY', '2020-01-01')", [*costly.key, OWN])
    assert not val(tx, digests, *plain.key, *costly.key)
    assert val(tx, digests, *plain.key, *same.key)
    found = rows(tx, "select ledger, key, row_a, row_b from replay_diff(%s, %s, %s, %s)", *plain.key, *costly.key)
    assert found == [("trade_fee", f"{2:020} FEE", None, [2, "FEE", 1, OWN, "*", "BUY", "2020-01-01"])]


OF_FEES = {"fees_disagree_with_trade", "fees_above_schedule"}


@pytest.mark.parametrize(
    ("fills", "expected"),
    [
        # 1 % until 2021, then 0.1 %; at most 20
        ([(10, 100, "2020-06-01", 10)], set()),
        ([(10, 100, "2020-06-01", "10.01")], {"fees_above_schedule"}),
        ([(10, 100, "2020-06-01", 10), (5, 100, "2020-06-01", 5), (10, 100, "2020-06-01", 5)], set()),
        ([(10, 100, "2020-06-01", 10), (5, 100, "2020-06-01", 5), (10, 100, "2020-06-01", 6)], {"fees_above_schedule"}),
        # too early, although the order comes to it later
        ([(10, 100, "2020-06-01", 15), (5, 100, "2020-06-01", 0)], {"fees_above_schedule"}),
        # what was charged at the old rate stays; then 0.1 % of 12,000
        ([(10, 100, "2020-12-31", 10), (10, 100, "2021-01-01", 0), (100, 100, "2021-01-02", 2)], set()),
        ([(10, 100, "2020-12-31", 10), (10, 100, "2021-01-01", "0.01")], {"fees_above_schedule"}),
    ],
)
def test_violations_know_what_fills_may_cost(
    tx: Conn, fills: Sequence[tuple[Any, Any, str, Any]], expected: set[str]
) -> None:
    add(tx, rate_bps=100, maximum_amount=20)
    add(tx, rate_bps=10, maximum_amount=20, effective_from="2021-01-01")
    assert traded(tx, OWN, fills).rules() & OF_FEES == expected


def test_a_row_that_comes_late_accuses_nobody(tx: Conn) -> None:
    add(tx, rate_bps=100)
    run = traded(tx, OWN, [(10, 100, "2020-06-01", 10)])
    add(tx, rate_bps=10, effective_from="2020-05-01")
    assert run.rules() & OF_FEES == set()


def test_a_percentage_is_checked_against_what_the_others_have_been_charged(tx: Conn) -> None:
    add(tx, "X", flat_amount=1)
    add(tx, "FEE", rate_bps=5000, of_components=["X"])
    run = traded(tx, OWN, [(1, 100, "2020-06-01", "0.5"), (1, 100, "2020-06-02", 0), (1, 100, "2020-06-03", "0.1")])
    tx.execute("insert into trade_fee values (%s, %s, 1, 'X', 1, %s, '*', 'BUY', '2020-01-01')", [*run.key, OWN])
    assert "fees_above_schedule" in run.rules()
    tx.execute("insert into trade_fee values (%s, %s, 2, 'X', 0.2, %s, '*', 'BUY', '2020-01-01')", [*run.key, OWN])
    found = rows(tx, "select detail from run_violations(%s, %s) where rule = 'fees_above_schedule'", *run.key)
    assert found == [("trade_id=2 component=X charged=1.2000 due=1.00",)]  # 0.60 is half of it


def test_violations_know_the_market_s_day(tx: Conn) -> None:
    """20:00 in New York on the last day of 2020 is 2021 in UTC."""
    add(tx, rate_bps=10, effective_from="2021-01-01")
    run = traded(tx, OWN, [(10, 100, "2021-01-01", 1)])
    assert val(tx, "select engine.trade_date('2021-01-01 01:00Z', 'America/New_York')::text") == "2020-12-31"
    assert val(tx, "select engine.trade_date('2021-01-01 01:00Z', 'UTC')::text") == "2021-01-01"
    tx.execute("alter table paper_trade disable trigger user")
    tx.execute("update paper_trade set logical_time = '2021-01-01 01:00Z' where user_id = %s", [run.user_id])
    assert run.rules() & OF_FEES == set()
    tx.execute("insert into calendar values ('NY', 'America/New_York')")
    tx.execute("update feed set calendar = 'NY' where feed = %s", [run.market.feed])
    assert run.rules() & OF_FEES == {"fees_above_schedule"}
