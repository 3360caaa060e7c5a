"""Write the shipped sessions as CSV, for `papertick calendar load`. For developers; the engine never runs it.

    pip install exchange_calendars==4.13.2
    python scripts/make_sessions.py engine_py/data

Dates and hours come from exchange_calendars; for XBOM and XNSE, which hold the same sessions, only its dates of XBOM:
their hours, and every session that it has wrong or not at all, stand in special_sessions.csv with their sources. A row
there of the kind `hours` holds from its date on; any other is one date: `closed`, or a session, at the hours of its
time if it names none. Columns written: session_date, open_at, close_at, the latter two on the market's clock; a session
with a break is one row. The same version of the library gives the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from datetime import date
from pathlib import Path

import exchange_calendars

SPECIAL = Path(__file__).with_name("special_sessions.csv")
# calendar: its exchange in exchange_calendars, first and last date
CALENDARS = {
    "XNYS": ("XNYS", "2000-01-03", "2026-12-31"),
    "XBOM": ("XBOM", "2000-01-03", "2026-12-31"),
    "XNSE": ("XBOM", "2000-01-03", "2026-12-31"),
    "24/7": ("24/7", "2009-01-03", "2035-12-31"),
}
Hours = tuple[str, str]


def library_sessions(exchange: str, start: str, end: str) -> dict[date, Hours]:
    calendar = exchange_calendars.get_calendar(exchange, start=start, end=end)
    sessions = {}
    for day, row in calendar.schedule.iterrows():
        opens, closes = row.open.astimezone(calendar.tz), row.close.astimezone(calendar.tz)
        midnight = closes.date() > day.date() and closes.strftime("%H:%M") == "00:00"
        if opens.date() != day.date() or (closes.date() != day.date() and not midnight):
            raise SystemExit(f"{exchange} {day:%Y-%m-%d} is not within its day")
        sessions[day.date()] = (opens.strftime("%H:%M"), "24:00" if midnight else closes.strftime("%H:%M"))
    return sessions


def special_rows(calendar: str) -> list[dict[str, str]]:
    with SPECIAL.open(newline="") as file:
        return [row for row in csv.DictReader(file) if calendar in row["calendar"].split()]


def corrected(sessions: dict[date, Hours], special: list[dict[str, str]]) -> dict[date, Hours]:
    """The library's sessions at the hours of their time, with what special_sessions.csv says of single dates."""
    eras = [
        (date.fromisoformat(r["session_date"]), (r["open_at"], r["close_at"])) for r in special if r["kind"] == "hours"
    ]

    def hours(day: date) -> Hours:
        return [era for first, era in eras if first <= day][-1]

    if eras:
        sessions = {day: hours(day) for day in sessions}
    for row in special:
        day = date.fromisoformat(row["session_date"])
        if row["kind"] == "hours":
            continue
        if row["open_at"] == "closed":
            sessions.pop(day, None)  # a later version may know it
        else:
            sessions[day] = (row["open_at"], row["close_at"]) if row["open_at"] else hours(day)
    return dict(sorted(sessions.items()))


def file_name(calendar: str) -> str:
    return f"{calendar.lower().replace('/', '-')}_sessions.csv.gz"


def sessions_csv(calendar: str) -> str:
    sessions = corrected(library_sessions(*CALENDARS[calendar]), special_rows(calendar))
    rows = (f"{day},{open_at},{close_at}" for day, (open_at, close_at) in sessions.items())
    return "\n".join(("session_date,open_at,close_at", *rows, ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write the files")
    parser.add_argument("calendar", nargs="*", default=list(CALENDARS), help="which; default: all of them")
    args = parser.parse_args()
    for calendar in args.calendar:
        data = gzip.compress(sessions_csv(calendar).encode(), mtime=0)
        (args.folder / file_name(calendar)).write_bytes(data)


if __name__ == "__main__":
    main()
