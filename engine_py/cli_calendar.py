"""papertick calendar list, show: what is loaded of the markets' sessions."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import click

from engine_py import sessions
from engine_py.cli_base import DATE, Row, Session, emit, session
from engine_py.cli_data import calendar
from engine_py.errors import InvalidError, NotFoundError, UsageError
from engine_py.render import counted, table, text

__all__ = ["calendar"]  # with the commands of this module

_SHOWN = 31  # days, when nobody says how many
_SHORT = "0.75"  # of what its year's sessions mostly last


@calendar.command("list")
def calendar_list() -> None:
    """Every calendar, with its first and last loaded session.

    ALWAYS has a session each UTC day, without end.
    """
    with session() as s:
        rows = s.select(
            """select c.calendar, c.time_zone, count(m.session_date) as sessions,
                      min(m.session_date) as first, max(m.session_date) as last
                 from calendar c left join market_session m using (calendar)
                group by c.calendar order by c.calendar collate "C" """
        )
    words = table(rows, ("calendar", "time_zone", "sessions", "first", "last"))
    loaded = {row["calendar"] for row in rows if row["sessions"]}
    if others := sorted(sessions.SHIPPED.keys() - loaded):
        words += f"\nNot loaded, but come along (papertick calendar load NAME): {', '.join(others)}"
    emit(rows, words)


@calendar.command("show")
@click.argument("calendar")
@click.option("--from", "first", type=DATE, help="First date. Default: today, or the last that is loaded.")
@click.option("--to", "last", type=DATE, help=f"Last date. Default: {_SHOWN} days from the first, as far as loaded.")
def calendar_show(calendar: str, first: str | None, last: str | None) -> None:
    """The sessions of a CALENDAR, at the market's hours; short ones and weekends are marked.

    A date that no loaded session reaches is refused: nobody knows whether the market is open then.
    """
    with session() as s:
        zone, start, end = _extent(s, calendar)
        since = _day(first) if first else min(max(datetime.now(UTC).astimezone(ZoneInfo(zone)).date(), start), end)
        until = _day(last) if last else min(since + timedelta(_SHOWN - 1), end)
        for day in (since, until):
            if not start <= day <= end:
                message = f"{day} is outside the sessions loaded of {calendar} ({start} to {end})"
                raise InvalidError(message, code="TE203", hint=f"{_more(calendar)}.")
        rows = _sessions(s, calendar, zone, since, until)
    words = f"{calendar}, {zone}: {counted(len(rows), 'session')} from {text(since)} to {text(until)}\n"
    emit(rows, words + table(rows, ("session_date", "day", "open", "close", "note")))


def _more(calendar: str) -> str:
    words = sessions.more_sessions(calendar)
    return words[0].upper() + words[1:]


def _day(words: str) -> date:
    try:
        return date.fromisoformat(words)
    except ValueError:
        raise UsageError(f"there is no such date: {words}") from None


def _extent(s: Session, calendar: str) -> tuple[str, date, date]:
    """The zone of a calendar, and the dates of its first and last session."""
    rows = s.select(
        """select c.time_zone, min(m.session_date) as first, max(m.session_date) as last
             from calendar c left join market_session m using (calendar)
            where c.calendar = %s group by c.calendar""",
        calendar,
    )
    if calendar == "ALWAYS":
        raise UsageError("ALWAYS has a session each UTC day, without end; none is stored")
    if not rows or rows[0]["first"] is None:
        known = f"Load it: papertick calendar load {calendar}." if calendar in sessions.SHIPPED else None
        raise NotFoundError(f"no sessions are loaded of a calendar {calendar}", hint=known or "See: calendar list.")
    return rows[0]["time_zone"], rows[0]["first"], rows[0]["last"]


def _sessions(s: Session, calendar: str, zone: str, since: date, until: date) -> list[Row]:
    """The sessions of a range; short: less than three quarters of what most of its year's sessions last."""
    return s.select(
        """select m.session_date, to_char(m.session_date, 'Dy') as day,
                  to_char(m.open_at at time zone %s, 'HH24:MI') as open,
                  case when m.close_at at time zone %s = m.session_date + 1 then '24:00'
                       else to_char(m.close_at at time zone %s, 'HH24:MI') end as close, m.open_at, m.close_at,
                  nullif(concat_ws(', ', case when m.close_at - m.open_at < %s::float8 * y.usual then 'short' end,
                                   case when extract(isodow from m.session_date) > 5 and y.weekends * 5 < y.sessions
                                        then 'weekend' end), '') as note
             from market_session m
             join (select extract(year from session_date) as year, count(*) as sessions,
                          count(*) filter (where extract(isodow from session_date) > 5) as weekends,
                          mode() within group (order by close_at - open_at) as usual
                     from market_session where calendar = %s group by 1) y on y.year = extract(year from m.session_date)
            where m.calendar = %s and m.session_date between %s and %s order by m.session_date""",
        *(zone, zone, zone, _SHORT, calendar, calendar, since, until),
    )
