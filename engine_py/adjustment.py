"""Whether prices are what they are said to be: around a split raw prices jump by its ratio, adjusted ones do not."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psycopg import Connection

from engine_py.errors import InvalidError

MAX_WARNINGS = 20

# The last close before the ex-date and the first open from it on, in the market's zone. A jump is nearer to the ratio
# than to none if its square is beyond the ratio. Ratios below 5:4 drown in what markets do by themselves; bars more
# than ten days apart say nothing.
_CONTRADICTIONS = """
    select f.feed, a.symbol, a.ex_date::text, a.ratio_numerator || ':' || a.ratio_denominator, f.adjusted,
           trim_scale(b.close)::text, trim_scale(n.open)::text
      from public.corporate_action a
      join public.feed f on %(feed)s::text is null or f.feed = %(feed)s
      join public.calendar c on c.calendar = f.calendar
     cross join lateral (select a.ex_date::timestamp at time zone c.time_zone as starts,
                                a.ratio_numerator::numeric / a.ratio_denominator as ratio) x
     cross join lateral (select p.close, p.logical_time from public.price_bar p
                          where p.feed = f.feed and p.symbol = a.symbol and p.logical_time <= x.starts
                          order by p.logical_time desc limit 1) b
     cross join lateral (select p.open, p.logical_time from public.price_bar p
                          where p.feed = f.feed and p.symbol = a.symbol and p.logical_time > x.starts
                          order by p.logical_time limit 1) n
     where a.action_type = 'SPLIT'
       and a.ex_date >= (%(first)s::timestamptz at time zone 'UTC')::date - 10
       and a.ex_date <= (%(last)s::timestamptz at time zone 'UTC')::date + 1
       and (%(symbols)s::text[] is null or a.symbol = any (%(symbols)s::text[]))
       and greatest(x.ratio, 1 / x.ratio) >= 1.25
       and n.logical_time - b.logical_time < interval '11 days'
       and f.adjusted = case when x.ratio > 1 then (b.close / n.open) ^ 2 >= x.ratio
                                              else (b.close / n.open) ^ 2 <= x.ratio end
     order by f.feed collate "C", a.symbol collate "C", a.ex_date
     limit %(most)s + 1"""


def contradictions(
    conn: Connection[Any],
    *,
    feed: str | None = None,
    first: datetime,
    last: datetime,
    symbols: list[str] | None = None,
) -> list[str]:
    """Known splits that the stored prices contradict, in words: of a feed or of all, with an ex-date in this time."""
    values = {"feed": feed, "first": first, "last": last, "symbols": symbols, "most": MAX_WARNINGS}
    found = [_words(*row) for row in conn.execute(_CONTRADICTIONS, values)]
    return [*found[:MAX_WARNINGS], "... and more like these"] if len(found) > MAX_WARNINGS else found


def contradicted(warnings: list[str]) -> InvalidError:
    """The refusal that warnings are where they are not put up with."""
    return InvalidError(
        warnings[0],
        code="TE101",
        detail="\n".join(warnings[1:]) or None,
        hint="Without --strict it is stored all the same.",
    )


def _words(feed: str, symbol: str, day: str, ratio: str, adjusted: bool, before: str, after: str) -> str:
    told, seem = ("adjusted", "raw") if adjusted else ("raw", "adjusted")
    jump = "jumps" if adjusted else "does not jump"
    return (
        f"feed {feed} is of {told} prices, but {symbol} looks {seem}: over its split {ratio} of {day}"
        f" the price {jump} ({before} before, {after} after)"
    )
