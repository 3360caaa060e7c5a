"""Write the sessions of an exchange as CSV, for `papertick calendar load`. For developers; the engine never runs it.

    pip install exchange_calendars==4.13.2
    python scripts/make_sessions.py XNYS 2000-01-03 2026-12-31 engine_py/data/xnys_sessions.csv.gz

Columns: session_date, open_at, close_at (RFC 3339, UTC), early closes included. A session with a break is one row.
The same version of the library gives the same bytes. What it does not know (special sessions such as Muhurat trading,
halts, late openings) must be added by hand.
"""

from __future__ import annotations

import argparse
import gzip

import exchange_calendars

RFC3339 = "%Y-%m-%dT%H:%M:%SZ"


def sessions_csv(exchange: str, start: str, end: str) -> str:
    schedule = exchange_calendars.get_calendar(exchange, start=start, end=end).schedule
    rows = (
        f"{day:%Y-%m-%d},{row.open.strftime(RFC3339)},{row.close.strftime(RFC3339)}" for day, row in schedule.iterrows()
    )
    return "\n".join(("session_date,open_at,close_at", *rows, ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exchange", help="ISO 10383 code, e.g. XNYS, XBOM")
    parser.add_argument("start", help="first date, YYYY-MM-DD")
    parser.add_argument("end", help="last date, YYYY-MM-DD")
    parser.add_argument("output", help="file to write; .gz compresses it")
    args = parser.parse_args()
    data = sessions_csv(args.exchange, args.start, args.end).encode()
    if args.output.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    with open(args.output, "wb") as output:
        output.write(data)


if __name__ == "__main__":
    main()
