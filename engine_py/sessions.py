"""Market calendars in: the sessions of one calendar from a CSV file."""

from __future__ import annotations

from importlib import resources
from typing import Any

from psycopg import Connection, sql

from engine_py.csvfile import DATE, INSTANT, Bad, Column, Table, check_time
from engine_py.errors import InvalidError, mapped
from engine_py.inputs import Source, open_text
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
# Futures open on the day before, by their market's clock; but part of a session lies on its date.
_OFF_DATE = """
    select line, '23514', 'the session is not on its session_date in the time zone ' || {}
      from pg_temp.papertick_stage
     where session_date not between (open_at at time zone {})::date and (close_at at time zone {})::date"""
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

    `time_zone` (an IANA name) is the market's; it dates what happens there. A new calendar needs it, unless all times
    of the file are in UTC. Sessions may come in any order, must not overlap, touch their session_date by the market's
    clock, and are never changed once stored. One bad line refuses the file. Safe to repeat.
    """
    if calendar == "ALWAYS":
        raise InvalidError("the sessions of ALWAYS are computed, not loaded", code="TE101")
    report = LoadReport(f"calendar {calendar}")
    with open_text(source) as text, conn.transaction():
        zone = _open_calendar(conn, calendar, time_zone)
        offsets = _Offsets()
        try:
            table = Table(text, _SESSION, {"session_date": check_time, "open_at": offsets.see, "close_at": offsets.see})
        except Bad as bad:
            raise refused(report, bad) from None
        stage = Stage(conn, sql.SQL("session_date date, open_at timestamptz, close_at timestamptz"), report)
        stage.fill(table, None)
        if zone is None:
            zone = "UTC"
            offsets.require_none(calendar)
        stage.judge(_SESSION_RULES)
        stage.take_out(_OFF_DATE, *[sql.Literal(zone)] * 3)
        stage.refuse_repeats("session_date")
        stage.summarize("select 0, min(open_at), max(close_at) from pg_temp.papertick_stage")
        stored = sql.SQL("(select * from public.market_session where calendar = {})").format(sql.Literal(calendar))
        stage.compare(stored, "session_date", _SAME_SESSION)
        stage.take_out(_OVERLAPS, stored)
        stage.report_flaws(skip_bad=False)
        stage.store("public.market_session", {"calendar": calendar}, "session_date, open_at, close_at")
        stage.drop()
    return report


class _Offsets:
    """The offsets from UTC that the times of a file have."""

    def __init__(self) -> None:
        self._found: set[str] = set()

    def see(self, text: str) -> None:
        check_time(text)
        self._found.add(text[-6:] if text[-6] in "+-" else "Z")

    def require_none(self, calendar: str) -> None:
        if others := sorted(self._found - {"Z", "+00:00", "-00:00"}):
            raise InvalidError(
                f"the new calendar {calendar} needs its market's time zone, as the file's times are not in UTC",
                code="TE101",
                detail=f"argument=time_zone offsets={','.join(others)} must_be=given",
                hint="Name it: --time-zone Asia/Kolkata, for example.",
            )


def _open_calendar(conn: Connection[Any], calendar: str, time_zone: str | None) -> str | None:
    """The calendar's time zone; None when it is new and nobody has said."""
    conn.execute("select pg_advisory_xact_lock(hashtextextended('papertick calendar ' || %s, 0))", [calendar])
    is_new = conn.execute(
        "insert into public.calendar (calendar, time_zone) values (%s, coalesce(%s, 'UTC')) on conflict do nothing",
        [calendar, time_zone],
    ).rowcount
    row = conn.execute("select time_zone from public.calendar where calendar = %s", [calendar]).fetchone()
    assert row
    if time_zone not in (None, row[0]):
        raise InvalidError(
            f"calendar {calendar} is in time zone {row[0]}, not {time_zone}",
            code="TE101",
            hint="A calendar keeps its zone; load under another name.",
        )
    return None if is_new and time_zone is None else str(row[0])


def load_xnys(conn: Connection[Any]) -> None:
    """The one calendar that comes along, unless one of that name is there."""
    if not conn.execute("select from public.market_session where calendar = 'XNYS' limit 1").rowcount:
        with (resources.files("engine_py") / "data" / "xnys_sessions.csv.gz").open("rb") as sessions:
            load_sessions(conn, sessions, calendar="XNYS", time_zone="America/New_York")
