"""Times as sources write them, made into what a bar's time is: an instant with its offset, or a date."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from statistics import median
from zoneinfo import ZoneInfo

from engine_py.bars import Closes
from engine_py.csvfile import DATE, INSTANT, Bad, check_time, shown, time_hint
from engine_py.errors import UsageError

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_TOKENS = {
    "yyyy": r"(?P<year>\d{4})",
    "mmm": r"(?P<name>[A-Za-z]{3})",
    "mm": r"(?P<month>\d\d)",
    "m": r"(?P<month>\d{1,2})",
    "dd": r"(?P<day>\d\d)",
    "d": r"(?P<day>\d{1,2})",
    "HH": r"(?P<hour>\d\d)",
    "MM": r"(?P<minute>\d\d)",
    "SS": r"(?P<second>\d\d)",
}
_STRPTIME = {"%Y": "yyyy", "%b": "mmm", "%m": "mm", "%d": "dd", "%H": "HH", "%M": "MM", "%S": "SS"}
_EPOCHS = {"epoch": 1_000_000, "epoch-ms": 1_000}  # microseconds of a unit
_NAIVE = re.compile(DATE + r"[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?", re.ASCII).fullmatch
_CANONICAL = re.compile(f"{INSTANT}|{DATE}", re.ASCII).fullmatch
_WEEKLY = 5  # days from bar to bar: no market is closed so long again and again
_MEANING = "a date like 2024-01-31, or a time with its offset like 2024-01-31T16:00:00-05:00"

TimeFormat = Callable[[str], str | None]  # what a text says: a date, a naive time or an instant; None: not of this form


def time_format(pattern: str) -> TimeFormat:
    """A format like dd-mmm-yyyy, mm/dd/yyyy, 'yyyymmdd HHMMSS', %d.%m.%Y, epoch or epoch-ms. Raises UsageError."""
    if pattern in _EPOCHS:
        return _epoch(_EPOCHS[pattern])
    spelled = pattern
    for short, token in _STRPTIME.items():
        spelled = spelled.replace(short, token)
    shape, rest = "", spelled
    while rest:
        found = re.match("yyyy|mmm|mm|m|dd|d|HH|MM|SS", rest)
        if not found and (rest[0].isalnum() or rest[0] == "%") and rest[0] != "T":
            raise UsageError(
                f"{pattern!r} is no date format: {rest[0]!r} means nothing",
                hint="Made of yyyy, mm or mmm (Jan), dd, HH, MM, SS: dd-mmm-yyyy, mm/dd/yyyy; or epoch, epoch-ms.",
            )
        shape += _TOKENS[found[0]] if found else re.escape(rest[0])
        rest = rest[found.end() if found else 1 :]
    try:
        compiled = re.compile(shape, re.ASCII)
    except re.error:
        raise UsageError(f"{pattern!r} is no date format: it has a part twice") from None
    if not {"year", "day"} <= set(compiled.groupindex) or not {"month", "name"} & set(compiled.groupindex):
        raise UsageError(f"{pattern!r} is no date format: it needs a year, a month and a day")
    return _formatted(compiled)


def _epoch(unit: int) -> TimeFormat:
    def read(text: str) -> str | None:
        if not re.fullmatch(r"\d{1,14}(?:\.0+)?", text, re.ASCII):
            return None
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(text.split(".")[0]) * unit)
        return moment.isoformat()

    return read


def _formatted(shape: re.Pattern[str]) -> TimeFormat:
    def read(text: str) -> str | None:
        found = shape.fullmatch(text)
        if not found:
            return None
        part = found.groupdict()
        month = part.get("month")
        if month is None:
            name = part["name"].lower()
            if name not in MONTHS:
                return None
            month = str(MONTHS.index(name) + 1)
        day = f"{part['year']}-{month:0>2}-{part['day']:0>2}"
        if "hour" not in part:
            return day
        return f"{day}T{part['hour']}:{part.get('minute') or '00'}:{part.get('second') or '00'}"

    return read


DAY_MONTH_YEAR = time_format("dd-mmm-yyyy")  # 05-JAN-2024, any case, as Indian sources have it
COMPACT = time_format("yyyymmdd")


def interval_minutes(text: str) -> int:
    """minute, 5minute, hour, day, or 1m, 5m, 1h, 1d; 0 for whole days."""
    found = re.fullmatch(r"(\d{1,4})?\s*(m|min|minute|h|hour|d|day)s?", text.strip().lower())
    count = int(found[1] or 1) if found else 0
    if not found or not count or (found[2] in ("d", "day") and count > 1):
        raise UsageError(f"{text!r} is no interval", hint="Like minute, 5minute, 60minute, hour or day.")
    return {"m": 1, "h": 60, "d": 0}[found[2][0]] * count


@dataclass
class Clock:
    """What the times of one source stand for.

    `interval`: minutes of a bar whose time is its open; the bar then has the time of its close, at the latest that of
    its session. None: times are closes already. `zone`: the clock of times that do not say. `market`: the clock whose
    midnights begin the days; None: nobody said. `dates`: for a source that dates a bar by its first day, all it has.
    """

    closes: Closes
    is_always: bool
    read: TimeFormat | None = None
    zone: ZoneInfo | None = None
    interval: int | None = None
    market: ZoneInfo | None = None
    dates: set[str] | None = None
    _has_hours: bool = field(default=False, init=False)
    _midnight: str | None = field(default=None, init=False)  # one that closes no session

    def close(self, text: str) -> str | None:
        """What a canonical text stands for, as `closes` has it. Raises Bad."""
        found = self.closes(text)
        if len(text) > 10 and self.interval is None and not self._has_hours:
            self._look(text)
        elif self.dates is not None and len(text) == 10:
            self.dates.add(text)
        return found

    def judge(self) -> None:
        """Raise Bad for what only all times together show: that they are none, or not those of daily bars."""
        if self._midnight and not self._has_hours:
            raise Bad(
                "22007",
                f"all times are midnights, as {shown(self._midnight)}: dates, or the closes of the days before?",
                "If they are dates: --interval day, or write them as dates. If they are closes: write them in UTC.",
            )
        days = sorted(date.fromisoformat(text).toordinal() for text in self.dates or ())
        if len(days) >= 3 and median(later - day for day, later in pairwise(days)) >= _WEEKLY:
            raise Bad(
                "22007",
                "these look like weekly or monthly bars, dated by their first day: their closes were not known then",
                "Download daily bars.",
            )

    def _look(self, text: str) -> None:
        """Note whether an instant is a midnight, by its own offset or on the market's clock, and closes no session."""
        try:
            instant = datetime.fromisoformat(text)
            seen = [instant, instant.astimezone(self.market)] if self.market else [instant]
            midnights = [moment for moment in seen if moment.time() == time()]
            self._has_hours = not midnights
            days = [(moment.date() - timedelta(back)).isoformat() for moment in midnights for back in (0, 1)]
        except OverflowError:  # of a year that no bar may have
            return
        if midnights and self._midnight is None and not any(self._closes_at(day, instant) for day in days):
            self._midnight = text

    def _closes_at(self, day: str, instant: datetime) -> bool:
        try:
            close = self.closes(day)
        except Bad:
            return False
        return close is not None and datetime.fromisoformat(close) == instant

    def stamp(self, text: str) -> str:
        """The canonical time of a bar. Raises Bad."""
        try:
            return self._stamped(text)
        except OverflowError:
            raise Bad("22008", f"there is no such time: {shown(text)}") from None

    def _stamped(self, text: str) -> str:
        said = self.read(text) if self.read else text
        if said is None:
            raise Bad("22007", f"is not of the given date format: {shown(text)}", time_hint(text))
        if _NAIVE(said):
            said = self._placed(said)
        elif not _CANONICAL(said):
            raise Bad("22007", f"is not {_MEANING}: {shown(text)}", time_hint(text))
        if len(said) > 10 and self.interval is not None:
            check_time(said)
            said = self._shifted(said)
        elif self.interval:
            raise Bad("22007", f"has no time of day, and an interval of minutes was given: {shown(text)}")
        return self.close(said) or said

    def date(self, text: str) -> str:
        """The close of the session of a date that is known to be one."""
        return self.close(text) or text

    def _placed(self, text: str) -> str:
        if not self.zone:
            hint = "Say whose clock it is: --time-zone Asia/Kolkata, for example."
            raise Bad("22007", f"is a time without an offset: {shown(text)}", hint)
        check_time(text)
        naive = datetime.fromisoformat(text)
        first, second = (naive.replace(tzinfo=self.zone, fold=fold) for fold in (0, 1))
        if first.utcoffset() != second.utcoffset():
            raise Bad("22008", f"there is no such time in {self.zone.key}, or it comes twice: {text}")
        return first.isoformat()

    def _shifted(self, text: str) -> str:
        """A bar that opened at `text`."""
        opened = datetime.fromisoformat(text)
        closed = opened + timedelta(minutes=self.interval or 0)
        if not self.interval:
            return self._day(opened, text)
        if not self.is_always:
            try:
                end = datetime.fromisoformat(str(self.closes(text[:10])))
            except Bad:  # no session: it will be counted as outside
                return closed.isoformat()
            if opened < end < closed:
                return end.isoformat()
        return closed.isoformat()

    def _day(self, opened: datetime, text: str) -> str:
        """The date of a daily bar, whatever the hour, by the market's clock: India's midnight is the evening before in
        UTC, and a bar of that date would be known a day early.
        """
        if self.market:
            return opened.astimezone(self.market).date().isoformat()
        utc = opened.astimezone(UTC)
        if utc.time() != time():
            hint = "Say whose clock dates the bars: --time-zone Asia/Kolkata, for example."
            raise Bad(
                "22007", f"is no midnight in UTC, so that its date depends on the market's clock: {shown(text)}", hint
            )
        return utc.date().isoformat()
