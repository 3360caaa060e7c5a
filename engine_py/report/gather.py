"""What a report shows, typed: read by one statement, so that all of it is of one moment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import Any, LiteralString, TypeAlias

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from engine_py.runref import RunKey

Number: TypeAlias = Decimal | None
Numbers: TypeAlias = list[Number]
Json: TypeAlias = dict[str, Any]

# p_benchmark null: of the one symbol that the run trades. The comparison is null without other runs.
QUERY: LiteralString = """
select public.run_report(p_user_id => %s::bigint, p_run_id => %s::bigint, p_benchmark => %s::text) as report,
       case when cardinality(%s::bigint[]) > 1
            then public.run_comparison(p_user_ids => %s::bigint[], p_run_ids => %s::bigint[]) end as comparison"""


@dataclass(frozen=True)
class Curve:
    """Parallel lists, thinned out to what can be drawn. `marks`: how many there are."""

    marks: int
    times: list[datetime]
    cash: Numbers
    equity: Numbers
    invested: Numbers
    growth: Numbers
    drawdown: Numbers
    benchmark: Numbers | None


@dataclass(frozen=True)
class Fill:
    """A trade on a price chart; `split_factor`: units of the last bar for one of then."""

    time: datetime
    side: str
    source: str
    quantity: Decimal
    price: Decimal
    split_factor: Decimal
    cash: Number
    average_cost: Number


@dataclass(frozen=True)
class Price:
    """A symbol's closes as the feed has them, thinned out; `trades`: how many fills there are."""

    symbol: str
    bars: int
    times: list[datetime]
    closes: list[Decimal]
    split_factors: list[Decimal]
    average_costs: Numbers
    trades: int
    fills: list[Fill]

    def today(self, price: Number, factor: Decimal) -> Number:
        """A price of then in the units of the last bar."""
        return None if price is None else price / factor


@dataclass(frozen=True)
class Part:
    """A symbol's share of the equity; symbol None: cash, or all others together."""

    symbol: str | None
    is_others: bool
    values: Numbers
    shares: Numbers


@dataclass(frozen=True)
class Period:
    first: date
    twr: Number
    reason: str | None


@dataclass(frozen=True)
class Drawdown:
    peak: datetime
    trough: datetime
    recovery: datetime | None
    depth: Decimal


@dataclass(frozen=True)
class Compared:
    """A run beside others: its metrics, and its growth as 100 at the common start."""

    run: Json
    metrics: dict[str, Number]
    reasons: dict[str, str]
    times: list[datetime]
    index: list[Decimal]


@dataclass(frozen=True)
class Report:
    """Money is in the run's currency with `minor_unit` decimals; rates are shares."""

    run: Json
    digest: str
    benchmark: str | None
    benchmark_since: datetime | None  # null: it has a price as long as the run
    metrics: dict[str, Number]
    reasons: dict[str, str]
    curve: Curve
    months: list[Period]
    years: list[Period]
    drawdowns: list[Drawdown]
    drawdown_count: int
    allocation_times: list[datetime]
    allocation: list[Part]
    others: int
    prices: list[Price]
    traded: int
    fills: list[Json]
    fill_count: int
    gain: list[Json]
    fees: list[Json]
    rejections: list[Json]
    sips: list[Json]
    rebalances: list[Json]
    symbols: list[Json]
    violations: list[Json]
    violation_count: int
    since: datetime | None = None
    compared: list[Compared] = field(default_factory=list)

    @property
    def name(self) -> str:
        return name_of(self.run)


def name_of(run: Json) -> str:
    return str(run["name"]).strip() or f"Run {run['run_id']}"


def arguments(key: RunKey, compare: Sequence[RunKey], benchmark: str | None) -> list[Any]:
    """Of QUERY."""
    keys = list(dict.fromkeys([key, *compare]))
    runs = [k.run_id for k in keys]
    return [key.user_id, key.run_id, benchmark, runs, [k.user_id for k in keys], runs]


def gather(conn: psycopg.Connection, key: RunKey, compare: Sequence[RunKey] = (), benchmark: str | None = None) -> Json:
    """The documents of QUERY. Raises TE201 for an unknown benchmark, TE202 for one without prices, TE204."""
    with conn.cursor(row_factory=dict_row) as cursor:
        set_json_loads(partial(json.loads, parse_float=Decimal), cursor)
        row = cursor.execute(QUERY, arguments(key, compare, benchmark)).fetchone()
    assert row
    return row


def read(row: Json) -> Report:
    """The answer of QUERY, typed."""
    d, c = row["report"], row["comparison"]
    return Report(
        run=d["run"],
        digest=d["digest"],
        benchmark=d["benchmark"],
        benchmark_since=time_of(d["benchmark_since"]),
        metrics=_metrics(d),
        reasons=d["reasons"],
        curve=_curve(d["curve"]),
        months=[_period(p) for p in d["months"]],
        years=[_period(p) for p in d["years"]],
        drawdowns=[_drawdown(x) for x in d["drawdowns"]["rows"]],
        drawdown_count=d["drawdowns"]["count"],
        allocation_times=_times(d["allocation"]),
        allocation=[
            Part(p["symbol"], p["is_others"], numbers(p["value"]), numbers(p["share"]))
            for p in d["allocation"]["parts"]
        ],
        others=d["allocation"]["others"],
        prices=[_price(p) for p in d["prices"]],
        traded=d["traded"],
        fills=d["fills"]["rows"],
        fill_count=d["fills"]["count"],
        gain=d["gain"],
        fees=d["fees"],
        rejections=d["rejections"],
        sips=d["sips"],
        rebalances=d["rebalances"],
        symbols=d["symbols"],
        violations=d["violations"]["rows"],
        violation_count=d["violations"]["count"],
        since=time_of(c["since"]) if c else None,
        compared=[_compared(x) for x in c["runs"]] if c else [],
    )


_COUNTS = {
    *("user_id", "run_id", "forked_from_user_id", "forked_from_run_id", "minor_unit", "penetration_ticks", "marks"),
    *("count", "entries", "orders", "symbols", "others", "traded", "trades", "trade_id", "order_id", "sip_id", "slots"),
    *(
        "executed",
        "skipped_funds",
        "skipped_other",
        "missed",
        "purchases",
        "rebalance_plan_id",
        "bars",
        "step_up_every",
        "plan_id",
    ),
}


def exact(document: Any, key: str = "", *, metric: bool = False) -> Any:
    """The document with every amount a Decimal, also where it is whole; ids and counts stay whole numbers."""
    if isinstance(document, dict):
        inside = key == "performance" or "cost_basis" in document
        return {name: exact(value, name, metric=inside) for name, value in document.items()}
    if isinstance(document, list):
        return [exact(value, key) for value in document]
    is_amount = isinstance(document, int) and not isinstance(document, bool) and (metric or key not in _COUNTS)
    return Decimal(document) if is_amount else document


def number(value: object) -> Number:
    return None if value is None else Decimal(value)  # type: ignore[arg-type]  # an int, a Decimal or text: JSON has no other


def numbers(values: Sequence[object]) -> Numbers:
    return [number(value) for value in values]


def time_of(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _some(value: object) -> Decimal:
    found = number(value)
    assert found is not None
    return found


def _times(d: Json) -> list[datetime]:
    return [datetime.fromisoformat(text) for text in d["logical_time"]]


def _metrics(d: Json) -> dict[str, Number]:
    return {metric: number(value) for metric, value in d["performance"].items()}


def _curve(d: Json) -> Curve:
    return Curve(
        marks=d["marks"],
        times=_times(d),
        cash=numbers(d["cash"]),
        equity=numbers(d["equity"]),
        invested=numbers(d["invested_capital"]),
        growth=numbers(d["growth"]),
        drawdown=numbers(d["drawdown"]),
        benchmark=None if d["benchmark"] is None else numbers(d["benchmark"]),
    )


def _period(d: Json) -> Period:
    return Period(date.fromisoformat(d["first_date"]), number(d["twr"]), d["reason"])


def _drawdown(d: Json) -> Drawdown:
    peak, trough = _instant(d["peak_time"]), _instant(d["trough_time"])
    return Drawdown(peak, trough, time_of(d["recovery_time"]), _some(d["depth"]))


def _price(d: Json) -> Price:
    return Price(
        symbol=d["symbol"],
        bars=d["bars"],
        times=_times(d),
        closes=[_some(x) for x in d["close"]],
        split_factors=[_some(x) for x in d["split_factor"]],
        average_costs=numbers(d["average_cost"]),
        trades=d["trades"],
        fills=[
            Fill(
                time=_instant(f["logical_time"]),
                side=f["side"],
                source=f["source"],
                quantity=_some(f["quantity"]),
                price=_some(f["price"]),
                split_factor=_some(f["split_factor"]),
                cash=number(f["cash"]),
                average_cost=number(f["average_cost"]),
            )
            for f in d["fills"]
        ],
    )


def _compared(d: Json) -> Compared:
    curve = d["curve"]
    return Compared(d["run"], _metrics(d), d["reasons"], _times(curve), [_some(x) for x in curve["index"]])
