"""Market calendars in: the sessions of one calendar from a CSV file."""

from __future__ import annotations

from importlib import resources
from typing import Any

from psycopg import Connection, sql

from engine_py.csvfile import DATE, INSTANT, Bad, Column, Source, Table, check_time, open_text
from engine_py.errors import InvalidError, mapped
from engine_py.staging import LoadReport, Stage, refused

_SESSION = (
    Column("session_date", ("session_date",), DATE, "a date like 2024-01-31", "22007"),
    Column("open_at", ("open_at",), INSTANT, "a time with its offset like 2024-01-31T16:00:00-05:00", "22007"),
    Column("close_at", ("close_at",), INSTANT, "a time with its offset like 2024-01-31T16:00:00-05:00", "22007"),
)

_SESSION_RULES = (
    ("open_at < close_at", "23514", "the session does not open before it closes"),
    (
        "session_date between '1900-01-01' and '2299-12-31'"
        " and least(open_at, close_at) >= '1900-01-01 00:00+00'"
        " and greatest(open_at, close_at) < '2300-01-01 00:00+00'",
        "22008",
        "the time is not within 1900 to 2299",
    ),
)
_SAME_SESSION = "(b.open_at, b.close_at) = (s.open_at, s.close_at)"
_OVERLAPS = """
    select greatest(line, line_before), '23P01', 'overlaps the session before or after it'
      from (select line, open_at, lag(line) over w as line_before, lag(close_at) over w as close_before
              from (select line, session_date, open_at, close_at from pg_temp.papertick_stage
                    union all select null, session_date, open_at, close_at from {} b) every
            window w as (order by session_date)) s
     where open_at < close_before"""


@mapped()
def load_sessions(conn: Connection[Any], source: Source, *, calendar: str, time_zone: str | None = None) -> LoadReport:
    """Load sessions (session_date, open_at, close_at) into `calendar`, which is created if it is new.

    `time_zone` (an IANA name, by default UTC) is the market's; it dates what happens there. Sessions may come in any
    order, must not overlap, and are never changed once stored. One bad line refuses the file. Safe to repeat.
    """
    if calendar == "ALWAYS":
        raise InvalidError("the sessions of ALWAYS are computed, not loaded", code="TE101")
    report = LoadReport(f"calendar {calendar}")
    with open_text(source) as text, conn.transaction():
        _open_calendar(conn, calendar, time_zone)
        try:
            table = Table(text, _SESSION, dict.fromkeys(("session_date", "open_at", "close_at"), check_time))
        except Bad as bad:
            raise refused(report, bad) from None
        stage = Stage(conn, sql.SQL("session_date date, open_at timestamptz, close_at timestamptz"), report)
        stage.fill(table, None)
        stage.judge(_SESSION_RULES)
        stage.refuse_repeats("session_date")
        stage.summarize("select 0, min(open_at), max(close_at) from pg_temp.papertick_stage")
        stored = sql.SQL("(select * from public.market_session where calendar = {})").format(sql.Literal(calendar))
        stage.compare(stored, "session_date", _SAME_SESSION)
        stage.take_out(_OVERLAPS, stored)
        stage.report_flaws(skip_bad=False)
        stage.store("public.market_session", {"calendar": calendar}, "session_date, open_at, close_at")
        stage.drop()
    return report


def _open_calendar(conn: Connection[Any], calendar: str, time_zone: str | None) -> None:
    conn.execute("select pg_advisory_xact_lock(hashtextextended('papertick calendar ' || %s, 0))", [calendar])
    conn.execute(
        "insert into public.calendar (calendar, time_zone) values (%s, coalesce(%s, 'UTC')) on conflict do nothing",
        [calendar, time_zone],
    )
    row = conn.execute("select time_zone from public.calendar where calendar = %s", [calendar]).fetchone()
    assert row
    if time_zone not in (None, row[0]):
        raise InvalidError(
            f"calendar {calendar} is in time zone {row[0]}, not {time_zone}",
            code="TE101",
            hint="A calendar keeps its zone; load under another name.",
        )


def load_xnys(conn: Connection[Any]) -> None:
    """The one calendar that comes along, unless one of that name is there."""
    if not conn.execute("select from public.market_session where calendar = 'XNYS' limit 1").rowcount:
        with (resources.files("engine_py") / "data" / "xnys_sessions.csv.gz").open("rb") as sessions:
            load_sessions(conn, sessions, calendar="XNYS", time_zone="America/New_York")
