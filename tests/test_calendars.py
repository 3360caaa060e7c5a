"""The sessions that come along: known days of the exchanges, and that the files are what the script makes."""

from __future__ import annotations

import csv
import gzip
import hashlib
import runpy
from collections import Counter
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from engine_py.sessions import SHIPPED, load_shipped

PROJECT = Path(__file__).resolve().parent.parent
DATA = PROJECT / "engine_py" / "data"
INDIA = ("XBOM", "XNSE")
CLOSED = "closed"

# What newspapers, circulars and the exchanges say of single days; for India each with its source in
# scripts/special_sessions.csv. XNYS: https://www.nyse.com/publicdocs/nyse/history/Hist_Holidays_and_Closings.pdf
XNYS_DAYS = {
    "2001-09-10": "09:30-16:00",
    **dict.fromkeys(("2001-09-11", "2001-09-12", "2001-09-13", "2001-09-14"), CLOSED),  # 9/11
    "2001-09-17": "09:30-16:00",
    "2004-06-11": CLOSED,  # President Reagan's funeral
    "2007-01-02": CLOSED,  # President Ford's
    "2018-12-05": CLOSED,  # President G. H. W. Bush's
    "2025-01-09": CLOSED,  # President Carter's
    "2012-10-26": "09:30-16:00",
    **dict.fromkeys(("2012-10-29", "2012-10-30"), CLOSED),  # Hurricane Sandy
    "2012-10-31": "09:30-16:00",
    "2000-07-03": "09:30-13:00",
    "2013-07-03": "09:30-13:00",
    "2023-11-24": "09:30-13:00",  # the day after Thanksgiving
    "2024-12-24": "09:30-13:00",
    "2020-12-24": "09:30-13:00",
    "2021-06-18": "09:30-16:00",
    "2022-06-20": CLOSED,  # Juneteenth, new in 2022
    "2021-12-31": "09:30-16:00",  # New Year's Day fell on a Saturday
    "2024-03-29": CLOSED,  # Good Friday
    "2026-07-03": CLOSED,
}
INDIA_DAYS = {
    # Muhurat: Diwali's hour
    "2000-10-26": "18:30-19:45",
    "2004-11-12": "17:30-18:45",
    "2007-11-09": "18:00-19:00",
    "2008-10-28": "18:15-19:15",
    "2011-10-26": "16:45-18:00",
    "2012-11-13": "15:45-17:00",
    "2014-10-23": "18:30-19:30",
    "2015-11-11": "17:45-18:45",
    "2016-10-30": "18:30-19:30",  # a Sunday
    "2017-10-19": "18:30-19:30",
    "2018-11-07": "17:30-18:30",
    "2019-10-27": "18:15-19:15",  # a Sunday
    "2020-11-14": "18:15-19:15",  # a Saturday
    "2021-11-04": "18:15-19:15",
    "2022-10-24": "18:15-19:15",
    "2023-11-12": "18:15-19:15",  # a Sunday
    "2024-11-01": "18:00-19:00",
    "2025-10-21": "13:45-14:45",
    # the budget on a weekend
    "2015-02-28": "09:15-15:30",
    "2020-02-01": "09:15-15:30",
    "2025-02-01": "09:15-15:30",
    "2026-02-01": "09:15-15:30",
    # weekends on which the exchanges tried their systems
    "2003-03-22": "11:00-13:00",
    "2010-02-06": "11:00-12:30",
    "2012-04-28": "11:15-12:45",
    "2014-03-22": "11:15-12:45",
    "2024-01-20": "09:15-15:30",
    "2024-03-02": "09:15-12:30",
    "2024-05-18": "09:15-12:30",
    # closed or open at short notice, and what libraries have wrong
    "2005-07-27": "09:55-15:30",  # in the flood
    "2005-07-28": CLOSED,
    "2008-11-27": CLOSED,  # attacks on Mumbai
    "2001-01-01": "09:55-15:30",
    "2004-01-01": "09:55-15:30",
    "2013-11-14": "09:15-15:30",
    "2013-11-15": CLOSED,
    "2020-05-25": CLOSED,
    "2021-02-24": "09:15-17:00",  # NSE was down for four hours
    "2024-01-22": CLOSED,  # Ayodhya
    "2024-05-20": CLOSED,  # elections
    "2024-11-20": CLOSED,  # elections
    "2026-01-15": CLOSED,  # elections
    "2024-01-21": CLOSED,  # an ordinary Sunday
    # hours
    "2009-12-31": "09:55-15:30",
    "2010-01-04": "09:00-15:30",
    "2010-10-15": "09:00-15:30",
    "2010-10-18": "09:15-15:30",
    "2026-07-31": "09:15-15:30",
    "2026-08-03": "09:15-15:35",  # the closing auction
}
DAYS = [("XNYS", *known) for known in XNYS_DAYS.items()] + [(c, *known) for known in INDIA_DAYS.items() for c in INDIA]
PER_YEAR = {
    "XNYS": {2000: 252, 2001: 248, 2002: 252, 2004: 252, 2012: 250, 2020: 253, 2024: 252, 2025: 250, 2026: 251},
    "XNSE": {2003: 254, 2004: 254, 2009: 243, 2012: 251, 2019: 245, 2020: 252, 2023: 246, 2024: 249, 2025: 249},
}


def path_of(calendar: str) -> Path:
    return DATA / f"{calendar.lower().replace('/', '-')}_sessions.csv.gz"


@cache
def shipped(calendar: str) -> dict[str, str]:
    with gzip.open(path_of(calendar), "rt", newline="") as file:
        return {row["session_date"]: f"{row['open_at']}-{row['close_at']}" for row in csv.DictReader(file)}


def stored(conn: psycopg.Connection, calendar: str) -> list[tuple[date, datetime, datetime]]:
    load_shipped(conn, calendar)
    return conn.execute(
        "select session_date, open_at, close_at from market_session where calendar = %s order by 1", [calendar]
    ).fetchall()


@pytest.mark.parametrize(("calendar", "day", "hours"), DAYS)
def test_a_known_day(calendar: str, day: str, hours: str) -> None:
    assert shipped(calendar).get(day, CLOSED) == hours


@pytest.mark.parametrize("calendar", PER_YEAR)
def test_sessions_a_year(calendar: str) -> None:
    counts = Counter(int(day[:4]) for day in shipped(calendar))
    assert {year: counts[year] for year in PER_YEAR[calendar]} == PER_YEAR[calendar]
    assert all(243 <= count <= 254 for count in counts.values())
    assert sorted(counts) == list(range(2000, 2027))


def test_the_indian_exchanges_hold_the_same_sessions() -> None:
    assert shipped("XBOM") == shipped("XNSE")
    weekend = [day for day in shipped("XNSE") if date.fromisoformat(day).weekday() > 4]
    assert len(weekend) == 31
    assert not [day for day in shipped("XNYS") if date.fromisoformat(day).weekday() > 4]


@pytest.mark.parametrize("calendar", sorted(SHIPPED))
def test_what_is_stored_is_in_order_on_the_markets_clock(tx: psycopg.Connection, calendar: str) -> None:
    rows = stored(tx, calendar)
    zone = ZoneInfo(SHIPPED[calendar])
    assert tx.execute("select time_zone from calendar where calendar = %s", [calendar]).fetchone() == (str(zone),)
    assert len(rows) == len(shipped(calendar))
    before = datetime(1, 1, 1, tzinfo=UTC)
    for day, open_at, close_at in rows:
        assert before <= open_at < close_at
        assert open_at.astimezone(zone).date() == day
        end = close_at.astimezone(zone)
        clock = "24:00" if calendar == "24/7" else f"{end:%H:%M}"
        assert f"{open_at.astimezone(zone):%H:%M}-{clock}" == shipped(calendar)[str(day)]
        before = close_at


def test_summer_time_moves_the_sessions_of_new_york(tx: psycopg.Connection) -> None:
    hours = {str(day): (f"{o.astimezone(UTC):%H:%M}", f"{c.astimezone(UTC):%H:%M}") for day, o, c in stored(tx, "XNYS")}
    winter, summer = ("14:30", "21:00"), ("13:30", "20:00")
    for day, expected in {
        **{"2006-03-31": winter, "2006-04-03": summer, "2006-10-27": summer, "2006-10-30": winter},  # the old rule
        **{"2024-03-08": winter, "2024-03-11": summer, "2024-11-01": summer, "2024-11-04": winter},
    }.items():
        assert hours[day] == expected
    india = {
        (c - o).total_seconds() for day, o, c in stored(tx, "XNSE") if day.year == 2018 and day != date(2018, 11, 7)
    }
    assert india == {6.25 * 3600}


def test_24_7_has_every_day() -> None:
    days = [date.fromisoformat(day) for day in shipped("24/7")]
    assert (days[0], days[-1]) == (date(2009, 1, 3), date(2035, 12, 31))
    assert len(days) == (days[-1] - days[0]).days + 1
    assert set(shipped("24/7").values()) == {"00:00-24:00"}


# --- where they come from ---------------------------------------------------------------------------------------------


def special() -> list[dict[str, str]]:
    with (PROJECT / "scripts" / "special_sessions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_special_session_has_its_source() -> None:
    rows = special()
    assert {row["kind"] for row in rows} == {"hours", "muhurat", "test", "budget", "outage", "closure", "correction"}
    for row in rows:
        assert set(row["calendar"].split()) <= set(SHIPPED), row
        assert row["source"].startswith(("http", "NSE", "BSE", "index histories", "pandas_market_calendars")), row
        assert "hours not known" not in row["source"] or row["kind"] in ("muhurat", "test"), row
    unknown = {r["session_date"] for r in rows if "hours not known" in r["source"]}
    readme = (DATA / "README.md").read_text()
    assert all(day in readme for day in unknown)  # what is missing is said


@pytest.mark.parametrize("calendar", sorted(SHIPPED))
def test_the_readme_has_the_hash_of_the_file(calendar: str) -> None:
    digest = hashlib.sha256(gzip.decompress(path_of(calendar).read_bytes())).hexdigest()
    assert digest in (DATA / "README.md").read_text()
    assert path_of(calendar).stat().st_size < 30_000


@cache
def script() -> dict[str, Any]:
    pytest.importorskip("exchange_calendars", "4.13.2", reason="the script is the developers': extra dev")
    return runpy.run_path(str(PROJECT / "scripts" / "make_sessions.py"))


@pytest.mark.parametrize("calendar", sorted(SHIPPED))
def test_the_script_makes_the_file(calendar: str) -> None:
    made = script()
    assert made["file_name"](calendar) == path_of(calendar).name
    assert made["sessions_csv"](calendar) == gzip.decompress(path_of(calendar).read_bytes()).decode()


@pytest.mark.parametrize("calendar", sorted(SHIPPED))
def test_each_row_is_the_librarys_but_for_the_special_ones(calendar: str) -> None:
    made = script()
    library = {
        str(day): f"{opens}-{closes}"
        for day, (opens, closes) in made["library_sessions"](*made["CALENDARS"][calendar]).items()
    }
    own = {r["session_date"] for r in special() if calendar in r["calendar"].split() and r["kind"] != "hours"}
    assert shipped(calendar).keys() - own == library.keys() - own
    if calendar not in INDIA:  # the hours of the Indian ones are all ours
        assert shipped(calendar) == library
        assert not own
