"""Write the splits and dividends that lie between raw and adjusted closes, as CSV. For developers; the engine never
runs it.

    python scripts/make_actions.py engine_py/data/stocks.csv.gz engine_py/data/corporate_actions.csv

The source adjusts backwards: on an ex-date the adjusted close grows by the split's ratio, or by (close + dividend) /
close with the close of that same day, times what the raw close does. So one day's growth beyond the raw close's is
the action, and a dividend comes out in whole cents. A day that is neither is an error, not a guess. What went ex on
the first day of a symbol cannot be seen. The source has no pay dates: pay_date repeats ex_date.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from itertools import groupby, pairwise

HEADER = "symbol,ex_date,action_type,ratio_numerator,ratio_denominator,amount,pay_date"
NOISE = Decimal("1e-9")  # adj_close has 14 digits: days without an action are within 1e-13 of 1
CENT = Decimal("0.01")

Bar = dict[str, str]


def growth(before: Bar, bar: Bar) -> Decimal:
    """What the adjusted close did from one bar to the next, beyond what the raw close did."""
    adjusted = Decimal(bar["adj_close"]) / Decimal(before["adj_close"])
    return adjusted * Decimal(before["close"]) / Decimal(bar["close"])


def action(factor: Decimal, close: Decimal) -> str | None:
    """action_type,ratio_numerator,ratio_denominator,amount of the one action that explains a day; None: no action."""
    if abs(factor - 1) < NOISE:
        return None
    ratio = Fraction(factor).limit_denominator(10)
    amount = (close * (factor - 1)).quantize(CENT)
    found = []
    if abs(factor * ratio.denominator - ratio.numerator) < NOISE:
        found.append(f"SPLIT,{ratio.numerator},{ratio.denominator},")
    # more than a quarter of the close is rather a split, or both at once
    if 0 < amount < close / 4 and abs(factor - 1 - amount / close) < NOISE:
        found.append(f"DIVIDEND,,,{amount}")
    if len(found) != 1:
        raise ValueError(
            f"growth of {factor:.12f} is {' or '.join(found) or 'no split and no dividend in whole cents'}"
        )
    return found[0]


def actions(bars: list[Bar]) -> Iterator[str]:
    """Lines of the CSV, by symbol and date; the bars must come in that order."""
    for symbol, own in groupby(bars, lambda bar: bar["symbol"]):
        for before, bar in pairwise(own):
            try:
                terms = action(growth(before, bar), Decimal(bar["close"]))
            except ValueError as exc:
                raise SystemExit(f"{symbol} {bar['date']}: {exc}") from None
            if terms:
                yield f"{symbol},{bar['date']},{terms},{bar['date'] if terms.startswith('DIVIDEND') else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stocks", help="gzipped CSV with symbol, date, close, adj_close, by symbol and date")
    parser.add_argument("output", help="file to write")
    args = parser.parse_args()
    with gzip.open(args.stocks, "rt", newline="") as stocks:
        lines = [HEADER, *actions(list(csv.DictReader(stocks)))]
    with open(args.output, "w", newline="") as output:
        output.writelines(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()
