"""Market calendars in: the sessions of one calendar from a CSV file, or those that come along."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib import resources
from typing import IO, Any

from psycopg import Connection, sql

from engine_py.csvfile import DATE, INSTANT, Bad, Column, Table, check_time
from engine_py.errors import InvalidError, mapped
from engine_py.inputs import Source, open_text
from engine_py.staging import LoadReport, Stage, refused

# Calendars that come along, with their zones (see data/README.md).
SHIPPED = {"XNYS": "America/New_York", "XBOM": "Asia/Kolkata", "XNSE": "Asia/Kolkata", "24/7": "UTC"}

_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d|24:00"  # the market's own, on session_date
_HOUR = "a time like 09:15 on the market's clock, or with its offset like 2024-01-31T16:00:00-05:00"
_SESSION = (
    Column("session_date", ("session_date",), DATE, "a date like 2024-01-31", "22007"),
    Column("open_at", ("open_at",), f"{INSTANT}|{_CLOCK}", _HOUR, "22007"),
    Column("close_at", ("close_at",), f"{INSTANT}|{_CLOCK}", _HOUR, "22007"),
)
_INSTANTS = """
    alter open_at type timestamptz using case when length(open_at) > 5 then open_at::timestamptz
                                              else (session_date + open_at::time) at time zone {zone} end,
    alter close_at type timestamptz using case when length(close_at) > 5 then close_at::timestamptz
                                               else (session_date + close_at::time) at time zone {zone} end"""

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
def load_sessions(
    conn: Connection[Any], source: Source, *, calendar: str, time_zone: str | None = None, skip_bad: bool = False
) -> LoadReport:
    """Load sessions (session_date, open_at, close_at) into `calendar`, which is created if it is new.

    `time_zone` (an IANA name) is the market's; it dates what happens there. A new calendar needs it, unless all times
    of the file are in UTC. Sessions may come in any order, must not overlap, touch their session_date by the market's
    clock, and are never changed once stored. One bad line refuses the file, or with `skip_bad` just itself. Safe to
    repeat.
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
        stage = Stage(conn, sql.SQL("session_date date, open_at text, close_at text"), report)
        stage.fill(table, None)
        if zone is None:
            zone = "UTC"
            offsets.require_none(calendar)
        stage.recast(sql.SQL(_INSTANTS).format(zone=sql.Literal(zone)))
        stage.judge(_SESSION_RULES)
        stage.take_out(_OFF_DATE, *[sql.Literal(zone)] * 3)
        stage.refuse_repeats("session_date")
        stage.summarize("select 0, min(open_at), max(close_at) from pg_temp.papertick_stage")
        stored = sql.SQL("(select * from public.market_session where calendar = {})").format(sql.Literal(calendar))
        stage.compare(stored, "session_date", _SAME_SESSION)
        stage.take_out(_OVERLAPS, stored)
        stage.report_flaws(skip_bad=skip_bad, hint="Correct these lines, or leave them out with --skip-bad.")
        stage.store("public.market_session", {"calendar": calendar}, "session_date, open_at, close_at")
        stage.drop()
    return report


class _Offsets:
    """What the times of a file are told by: offsets from UTC, or the market's clock."""

    def __init__(self) -> None:
        self._found: set[str] = set()

    def see(self, text: str) -> None:
        if len(text) == 5:
            self._found.add("the market's clock")
            return
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


@contextmanager
def _shipped_file(calendar: str) -> Iterator[IO[bytes]]:
    name = f"{calendar.lower().replace('/', '-')}_sessions.csv.gz"
    with (resources.files("engine_py") / "data" / name).open("rb") as packed:
        yield packed


@mapped()
def load_shipped(conn: Connection[Any], calendar: str) -> LoadReport:
    """Load a calendar that comes along, or what a newer release has more of it.

    Stored sessions stay as they are: those that differ are skipped, and named in the report.
    """
    with _shipped_file(calendar) as sessions:
        return load_sessions(conn, sessions, calendar=calendar, time_zone=SHIPPED[calendar], skip_bad=True)


def more_sessions(calendar: str) -> str:
    """What to do about a time that a calendar does not know."""
    if calendar in SHIPPED:
        return f"a newer release may know more: papertick calendar load {calendar}"
    return f"to load more: papertick calendar load FILE --calendar {calendar}"


def provide(conn: Connection[Any], calendar: str) -> None:
    """Load a calendar that comes along, unless one of that name has sessions."""
    known = conn.execute("select from public.market_session where calendar = %s limit 1", [calendar]).rowcount
    if calendar in SHIPPED and not known:
        load_shipped(conn, calendar)


@mapped()
def differences(conn: Connection[Any], calendar: str) -> dict[str, list[date]]:
    """How a calendar that comes along differs from what is stored of it, in the time that both know.

    By date: `not stored`, `stored with other hours`, `stored, but not (or no longer) a session`.
    """
    with _shipped_file(calendar) as packed, open_text(packed) as text:
        days, opens, closes = zip(*(line.rstrip("\n").split(",") for line in list(text)[1:]), strict=True)
    rows = conn.execute(
        """with shipped as (
             select day, (day + open_at::time) at time zone %(zone)s as open_at,
                    (day + close_at::time) at time zone %(zone)s as close_at
               from unnest(%(days)s::date[], %(opens)s::text[], %(closes)s::text[]) s (day, open_at, close_at)),
           stored as (
             select session_date as day, open_at, close_at from public.market_session where calendar = %(name)s)
           select day, case when b.open_at is null then 'not stored'
                            when a.open_at is null then 'stored, but not (or no longer) a session'
                            else 'stored with other hours' end
             from shipped a full join stored b using (day)
            where (a.open_at, a.close_at) is distinct from (b.open_at, b.close_at) and exists (select from stored)
              and day between greatest((select min(day) from shipped), (select min(day) from stored))
                          and least((select max(day) from shipped), (select max(day) from stored))
            order by day""",
        {"zone": SHIPPED[calendar], "days": list(days), "opens": list(opens), "closes": list(closes), "name": calendar},
    ).fetchall()
    found: dict[str, list[date]] = {}
    for day, what in rows:
        found.setdefault(what, []).append(day)
    return found
