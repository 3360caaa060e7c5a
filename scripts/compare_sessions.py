"""A second opinion on the shipped XNSE sessions: where pandas_market_calendars says otherwise. For developers.

    pip install pandas_market_calendars==5.5.0
    python scripts/compare_sessions.py engine_py/data/xnse_sessions.csv.gz

One line a difference: date, what is shipped, what the library has. Weekends are left out, as it has none. What it says
of 5.5.0 is explained in engine_py/data/README.md.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from datetime import date

import pandas_market_calendars


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sessions", help="gzipped CSV with session_date, open_at, close_at")
    parser.add_argument("--exchange", default="XNSE", help="its name in the library")
    args = parser.parse_args()
    with gzip.open(args.sessions, "rt", newline="") as file:
        shipped = {row["session_date"]: f"{row['open_at']}-{row['close_at']}" for row in csv.DictReader(file)}
    calendar = pandas_market_calendars.get_calendar(args.exchange)
    schedule = calendar.schedule(start_date=min(shipped), end_date=max(shipped), tz=calendar.tz)
    other = {f"{day:%Y-%m-%d}": f"{row.market_open:%H:%M}-{row.market_close:%H:%M}" for day, row in schedule.iterrows()}
    for day in sorted(shipped.keys() | other.keys()):
        if date.fromisoformat(day).weekday() < 5 and shipped.get(day) != other.get(day):
            print(day, shipped.get(day, "closed"), other.get(day, "closed"))


if __name__ == "__main__":
    main()
