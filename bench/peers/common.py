"""What every peer script shares: the workloads in a peer's terms, the command line, and the one JSON line it prints.

    python peer_NAME.py W1|W2|W3|W4 --data DIR [--users N]

Whole shares, no commission, no slippage; equity = cash + shares x close, on every bar.

W1  GOOG, 2,148 bars; cash 1,000,000; on the first bar on or after day d of each month buy floor(amount / close) at
    market; amount 1,000, d 1.
W2  20 symbols, 8,313 days; cash 100,000,000; on the first bar of each month buy floor(500 / close) of each; on the
    first bar on or after the 15th of January, April, July, October trade each to floor(V / 20 / close), V = the value
    held.
W3  users u = 0, 1, ..., each their own W1 with amount 1,000 + 5u and d = 1 + u % 28.
W4  the first 2,000 GOOG bars; cash 2,000,000; on bar 0 buy 1,000 at market; on every bar t one good-till-cancelled
    limit order for 1 share, even t a buy at round(0.99 close, 2), odd t a sell at round(1.01 close, 2).

wall_s is the engine's own time: no import, no data loading. A peer's bars are symbol-bars.
"""

import argparse
import csv
import datetime
import json
import os
import resource
import time

QUARTERS = (1, 4, 7, 10)
CASH = {"W1": 1_000_000, "W2": 100_000_000, "W3": 1_000_000, "W4": 2_000_000}
W4_BARS = 2000


class Monthly:
    """due(date) is true once a month, on the first bar on or after the day, in some or all months."""

    def __init__(self, day, months=range(1, 13)):
        self.day, self.months, self.done = day, set(months), None

    def due(self, date):
        key = (date.year, date.month)
        if date.month in self.months and date.day >= self.day and key != self.done:
            self.done = key
            return True
        return False


def sip_terms(user):
    return 1000 + 5 * user, 1 + user % 28


def arguments(workloads="W1 W2 W3 W4", **flags):
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=workloads.split())
    parser.add_argument("--data", required=True)
    parser.add_argument("--users", type=int, default=1000)
    for flag, options in flags.items():
        parser.add_argument(f"--{flag}", **options)
    args = parser.parse_args()
    if args.workload != "W3":
        args.users = 1
    return args


def read_csv(args, number=float):
    """Column names and (date, numbers) rows of the workload's series."""
    with open(os.path.join(args.data, "sp500.csv" if args.workload == "W2" else "goog.csv")) as file:
        lines = csv.reader(file)
        header = next(lines)[1:]
        rows = [(datetime.date.fromisoformat(x[0]), [number(v) for v in x[1:]]) for x in lines]
    return header, rows[:W4_BARS] if args.workload == "W4" else rows


def read_frame(args):
    """The same as a pandas frame."""
    import pandas as pd

    name = "sp500.csv" if args.workload == "W2" else "goog.csv"
    frame = pd.read_csv(os.path.join(args.data, name), index_col=0, parse_dates=True)
    return frame.iloc[:W4_BARS] if args.workload == "W4" else frame


class Clock:
    """Wall and CPU time from its making."""

    def __init__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def report(self, args, peer, version, fill, bars, equity, fills, **more):
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        line = {
            "peer": peer,
            "version": version,
            "workload": args.workload,
            "fill": fill,
            "users": args.users,
            "bars": bars,
            "wall_s": round(wall, 5),
            "cpu_s": round(cpu, 5),
            "bars_per_s": round(bars / wall),
            "final_equity": round(float(equity), 2),
            "fills": fills,
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        print(json.dumps(line | more))
