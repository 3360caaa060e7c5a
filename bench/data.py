"""The two real price series of the workloads, as CSV files in the cache (BENCH_DATA names another directory).

goog.csv    date,open,high,low,close,volume   GOOG daily 2004-08-19 to 2013-03-01, 2,148 bars; ships in `backtesting`
sp500.csv   date,<20 symbols>                 daily closes 1990-01-02 to 2022-12-28, 8,313 rows; ships in `skfolio`
"""

from __future__ import annotations

import csv
import datetime
import os
import subprocess
from decimal import Decimal
from functools import cache
from pathlib import Path

from bench.cache import cache_dir, environment

Row = tuple[datetime.date, list[Decimal]]

# The packages stay out of our own environment; this runs in theirs. Prices get the decimals the workloads state.
WRITE = """
import sys
from pathlib import Path
from backtesting.test import GOOG
from skfolio.datasets import load_sp500_dataset
out = Path(sys.argv[1])
goog = GOOG.rename(columns=str.lower)[["open", "high", "low", "close", "volume"]]
for name, frame, decimals in (("goog", goog, 2), ("sp500", load_sp500_dataset(), 4)):
    frame.index.name = "date"
    frame.to_csv(out / f"{name}.part", date_format="%Y-%m-%d", float_format=f"%.{decimals}f")
    (out / f"{name}.part").rename(out / f"{name}.csv")
"""


def data_dir() -> Path:
    """Where the series are; written on first use."""
    out = Path(os.environ.get("BENCH_DATA") or cache_dir() / "data")
    if not ((out / "goog.csv").exists() and (out / "sp500.csv").exists()):
        out.mkdir(parents=True, exist_ok=True)
        subprocess.run([environment("data"), "-c", WRITE, out], check=True, stdout=subprocess.DEVNULL)
    return out


@cache
def load(name: str) -> tuple[list[str], list[Row]]:
    """The column names and the rows of one series, as exact decimals; read once, so that no timed call reads it."""
    with (data_dir() / f"{name}.csv").open(newline="") as file:
        lines = csv.reader(file)
        header = next(lines)[1:]
        return header, [(datetime.date.fromisoformat(x[0]), [Decimal(v) for v in x[1:]]) for x in lines]


if __name__ == "__main__":
    print(data_dir())
    for series in ("goog", "sp500"):
        head, rows = load(series)
        print(f"{series}: {len(rows)} rows, {rows[0][0]} to {rows[-1][0]}, {', '.join(head)}")
