"""Market data in: bars and calendars from CSV files of any size, in constant memory, all or nothing.

csvfile judges the shape of each field, because only Python knows line numbers. The rows then go by COPY to a temporary
table, and SQL judges what they mean: ranges, coherence, repeated bars, the bars already stored. Every problem carries
its line number. The constraints of the tables stay the last word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from itertools import islice
from typing import Any, LiteralString, TypeAlias

from psycopg import Connection, Cursor, sql

from engine_py.csvfile import (
    DATE,
    INSTANT,
    MAX_PROBLEMS,
    NUMBER,
    SYMBOL,
    Bad,
    Column,
    Problem,
    Source,
    Table,
    check_symbol,
    check_time,
    open_text,
)
from engine_py.errors import InvalidError, mapped

Progress: TypeAlias = Callable[[int], None]

_LINES_PER_WRITE = 2000
_PAGES_PER_INSERT = 4096  # of the staging table: about 300,000 bars


@dataclass
class LoadReport:
    """What a load did, or with dry_run would do. `symbols`, `first`, `last` span the file's well-formed rows."""

    target: str
    read: int = 0  # rows in the file, header and blank lines aside
    rows: int = 0  # stored now
    unchanged: int = 0  # equal to a row stored before
    outside_sessions: int = 0  # well-formed bars at times when the calendar is closed: orders never fill there
    duplicates: int = 0  # repeated in the file, or different from the stored row; part of skipped_count
    skipped_count: int = 0
    skipped: list[Problem] = field(default_factory=list)  # the first MAX_PROBLEMS, by line
    symbols: int = 0
    first: datetime | None = None
    last: datetime | None = None


@dataclass(frozen=True)
class FeedInfo:
    feed: str
    calendar: str
    symbols: int
    bars: int
    first: datetime | None
    last: datetime | None


class FeedError(InvalidError):
    """The file was refused and nothing was stored. `report.skipped` holds the first problems; `detail` prints them."""

    def __init__(self, report: LoadReport, *, hint: str | None = None) -> None:
        count, shown = report.skipped_count, report.skipped
        lines = [f"line {p.line}: {p.message} [{p.code}]" for p in shown]
        if count > len(shown):
            lines.append(f"... and {count - len(shown)} more")
        super().__init__(
            f"{count} bad line{'s' * (count != 1)}; nothing was stored in {report.target}",
            code=shown[0].code,
            detail="\n".join(lines),
            hint=hint,
        )
        self.report = report


_BAR = (
    Column("symbol", ("symbol",), SYMBOL, "a symbol"),
    Column(
        "logical_time",
        ("logical_time", "timestamp", "datetime", "time", "date"),
        f"{INSTANT}|{DATE}",
        "a date, or an RFC 3339 time with its offset",
        "22007",
    ),
    *(Column(name, (name,), NUMBER, "a finite decimal number") for name in ("open", "high", "low", "close")),
    Column("volume", ("volume",), f"(?:{NUMBER})?", "empty or a finite decimal number", optional=True),
)
_SESSION = (
    Column("session_date", ("session_date",), DATE, "a date (YYYY-MM-DD)", "22007"),
    Column("open_at", ("open_at",), INSTANT, "an RFC 3339 time with its offset", "22007"),
    Column("close_at", ("close_at",), INSTANT, "an RFC 3339 time with its offset", "22007"),
)

# Line numbers for what the constraints of price_bar would refuse, judged as price_bar stores it: rounded to 8 decimals.
_BAR_RULES = (
    (
        "logical_time >= '1900-01-01 00:00+00' and logical_time < '2300-01-01 00:00+00'",
        "22008",
        "the time is not within 1900 to 2299",
    ),
    ("round(least(open, high, low, close), 8) > 0", "23514", "a price is not above 0"),
    ("round(greatest(open, high, low, close), 8) < 1e12", "22003", "a price is not below 1e12"),
    (
        "round(low, 8) <= round(least(open, close), 8) and round(greatest(open, close), 8) <= round(high, 8)",
        "23514",
        "low <= open, close <= high does not hold",
    ),
    ("volume is null or volume >= 0", "23514", "volume is below 0"),
    ("volume is null or round(volume, 4) < 1e20", "22003", "volume is not below 1e20"),
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
_SAME_BAR = """(b.open, b.high, b.low, b.close)
                = (s.open::numeric(20,8), s.high::numeric(20,8), s.low::numeric(20,8), s.close::numeric(20,8))
                and b.volume is not distinct from s.volume::numeric(24,4)"""
_SAME_SESSION = "(b.open_at, b.close_at) = (s.open_at, s.close_at)"
_OVERLAPS = """
    select greatest(line, line_before), '23P01', 'overlaps the session before or after it'
      from (select line, open_at, lag(line) over w as line_before, lag(close_at) over w as close_before
              from (select line, session_date, open_at, close_at from pg_temp.papertick_stage
                    union all select null, session_date, open_at, close_at from {} b) every
            window w as (order by session_date)) s
     where open_at < close_before"""


class _Stage:
    """The rows of one file on their way into one table, in temporary tables.

    papertick_stage holds the rows still to be stored, papertick_flaw the lines that will not be, and why; without a
    code, because the row is stored already. A bad row leaves at once, so that it makes no good one a duplicate.
    """

    def __init__(self, conn: Connection[Any], definition: sql.Composable, report: LoadReport) -> None:
        self._conn, self._report = conn, report
        self._run("create temporary table papertick_stage (line bigint, {}) on commit drop", definition)
        self._run("create temporary table papertick_flaw (line bigint, code text, message text) on commit drop")

    def _run(self, statement: LiteralString, *parts: sql.Composable) -> Cursor[Any]:
        return self._conn.execute(sql.SQL(statement).format(*parts))

    def fill(self, table: Table, progress: Progress | None) -> None:
        columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)
        target = sql.SQL("copy pg_temp.papertick_stage (line, {}) from stdin with (delimiter ',', null '')")
        lines, done = table.copy_lines(), 0
        with self._conn.cursor() as cursor:
            with cursor.copy(target.format(columns)) as copy:
                while chunk := list(islice(lines, _LINES_PER_WRITE)):
                    copy.write("".join(chunk))
                    done += len(chunk)
                    if progress:
                        progress(done)
            self._report.read = cursor.rowcount + table.problem_count
        self._report.skipped_count, self._report.skipped = table.problem_count, table.problems
        self._run("analyze pg_temp.papertick_stage")

    def judge(self, rules: tuple[tuple[str, str, str], ...], key: LiteralString) -> None:
        """Take out the rows that break a rule, and then those that repeat a key: its first line stays."""
        broken = sql.SQL(" or ").join(sql.SQL(f"not ({rule})") for rule, _, _ in rules)
        code = sql.SQL(" ").join(sql.SQL(f"when not ({rule}) then '{code}'") for rule, code, _ in rules)
        message = sql.SQL(" ").join(sql.SQL(f"when not ({rule}) then '{text}'") for rule, _, text in rules)
        self.take_out(
            "select line, case {} end, case {} end from pg_temp.papertick_stage where {}",
            code,
            message,
            broken,
        )
        self.take_out(
            """select line, '23505', 'repeats line ' || first_line
                 from (select line, first_value(line) over (partition by {} order by line) as first_line
                         from pg_temp.papertick_stage) k
                where line <> first_line""",
            sql.SQL(key),
        )

    def compare(self, stored: sql.Composable, key: LiteralString, same: LiteralString) -> None:
        """Take out the rows whose key is in `stored` (as b): they are unchanged, or else they contradict it."""
        self.take_out(
            """select s.line, case when not ({}) then '23505' end, 'differs from what is stored'
                 from pg_temp.papertick_stage s join {} b using ({})""",
            sql.SQL(same),
            stored,
            sql.SQL(key),
        )

    def take_out(self, flaws: LiteralString, *parts: sql.Composable) -> None:
        """Note the flaws that a query of (line, code, message) finds, and keep the other rows."""
        if self._run("insert into pg_temp.papertick_flaw " + flaws, *parts).rowcount:
            # A delete of scattered rows takes four times as long when there are many, and many are unchanged.
            self._run(
                """create temporary table papertick_rest on commit drop as
                   select * from pg_temp.papertick_stage s
                    where not exists (select from pg_temp.papertick_flaw f where f.line = s.line)"""
            )
            self._run("drop table pg_temp.papertick_stage")
            self._run("alter table pg_temp.papertick_rest rename to papertick_stage")
            self._run("analyze pg_temp.papertick_stage")

    def report_flaws(self, *, skip_bad: bool, hint: str | None = None) -> None:
        report = self._report
        counts = self._run(
            """select count(*) filter (where code is null), count(*) filter (where code = '23505'), count(code)
                 from pg_temp.papertick_flaw"""
        ).fetchone()
        assert counts
        report.unchanged, report.duplicates, wrong = counts
        shown = self._run(
            "select line, code, message from pg_temp.papertick_flaw where code is not null order by line limit {}",
            sql.Literal(MAX_PROBLEMS),
        )
        report.skipped_count += wrong
        report.skipped = sorted([*report.skipped, *map(Problem._make, shown)])[:MAX_PROBLEMS]
        report.rows = report.read - report.unchanged - report.skipped_count
        if report.skipped_count and not skip_bad:
            raise FeedError(report, hint=hint)

    def summarize(self, query: LiteralString) -> None:
        row = self._run(query).fetchone()
        assert row
        self._report.symbols, first, last = row
        self._report.first, self._report.last = first and first.astimezone(UTC), last and last.astimezone(UTC)

    def store(self, table: LiteralString, constants: dict[str, str], columns: LiteralString) -> None:
        """Move what is left into `table`, in batches: a statement queues a foreign-key check per row until it ends."""
        size = self._run("select pg_relation_size('pg_temp.papertick_stage') / current_setting('block_size')::int")
        row = size.fetchone()
        assert row
        for page in range(0, row[0], _PAGES_PER_INSERT):
            self._run(
                "insert into {} ({}, {}) select {}, {} from pg_temp.papertick_stage where ctid >= {} and ctid < {}",
                sql.SQL(table),
                sql.SQL(", ").join(map(sql.Identifier, constants)),
                sql.SQL(columns),
                sql.SQL(", ").join(map(sql.Literal, constants.values())),
                sql.SQL(columns),
                sql.Literal(f"({page},0)"),
                sql.Literal(f"({page + _PAGES_PER_INSERT},0)"),
            )

    def drop(self) -> None:
        self._run("drop table pg_temp.papertick_stage, pg_temp.papertick_flaw")


@mapped()
def load_csv(
    conn: Connection[Any],
    source: Source,
    *,
    feed: str,
    calendar: str | None = None,
    symbol: str | None = None,
    skip_bad: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> LoadReport:
    """Load bars into `feed`, which is created if it is new (following `calendar`, by default ALWAYS).

    Columns, by name in any case and order: symbol (or the `symbol` given), one of logical_time, timestamp, datetime,
    time, date, and open, high, low, close; volume may be missing or empty; others are ignored. A time is an RFC 3339
    instant with its offset, the close of the bar; a bare date stands for the close of that date's session.
    Bars equal to stored ones are counted as unchanged; stored bars are never changed.
    A bad line refuses the whole file (FeedError), or with `skip_bad` just itself. One transaction; safe to repeat.
    """
    report = LoadReport(f"feed {feed}")
    with open_text(source) as text, conn.transaction(force_rollback=dry_run):
        calendar = _open_feed(conn, feed, calendar)
        closes = _closes(conn, calendar)
        try:
            if symbol is not None:
                check_symbol(symbol)
            table = Table(text, _BAR if symbol is None else _BAR[1:], {"logical_time": closes})
            if symbol is not None and "symbol" in table.names:
                raise Bad("42701", "the file has a symbol column, and a symbol was given as well")
        except Bad as bad:
            raise _refused(report, bad) from None
        stage = _Stage(
            conn,
            sql.SQL(
                "symbol text default {}, logical_time timestamptz,"
                " open numeric, high numeric, low numeric, close numeric, volume numeric"
            ).format(sql.Literal(symbol)),
            report,
        )
        stage.fill(table, progress)
        stage.judge(_BAR_RULES, "symbol, logical_time")
        stage.summarize(
            """with s as materialized (
                 select symbol, min(logical_time) as first, max(logical_time) as last
                   from pg_temp.papertick_stage group by symbol),
               known as (
                 insert into public.instrument (symbol) select symbol from s order by symbol collate "C"
                     on conflict do nothing)
               select count(*), min(first), max(last) from s"""
        )
        stored = sql.SQL("(select * from public.price_bar where feed = {})").format(sql.Literal(feed))
        stage.compare(stored, "symbol, logical_time", _SAME_BAR)
        stage.report_flaws(skip_bad=skip_bad, hint="Correct these lines, or leave them out with --skip-bad.")
        report.outside_sessions = _outside_sessions(conn, calendar)
        if not dry_run:
            stage.store("public.price_bar", {"feed": feed}, "symbol, logical_time, open, high, low, close, volume")
        stage.drop()
    return report


def _refused(report: LoadReport, bad: Bad) -> FeedError:
    report.skipped_count, report.skipped = 1, [Problem(1, bad.code, bad.message)]
    return FeedError(report)


def _outside_sessions(conn: Connection[Any], calendar: str) -> int:
    """Bars to be stored that lie outside (open_at, close_at] of every session."""
    if calendar == "ALWAYS":
        return 0
    row = conn.execute(
        """select coalesce(sum(t.bars), 0)::bigint
             from (select logical_time, count(*) as bars from pg_temp.papertick_stage group by logical_time) t
            where (select m.open_at < t.logical_time from public.market_session m
                    where m.calendar = %s and m.close_at >= t.logical_time order by m.close_at limit 1) is not true""",
        [calendar],
    ).fetchone()
    assert row
    return int(row[0])


def _open_feed(conn: Connection[Any], feed: str, calendar: str | None) -> str:
    """The calendar of the feed. Two loads of one feed queue up here, so that the second finds what the first stored."""
    conn.execute("select pg_advisory_xact_lock(hashtextextended('papertick feed ' || %s, 0))", [feed])
    if not conn.execute("select from public.feed where feed = %s", [feed]).rowcount:
        _require_calendar(conn, calendar)
    conn.execute(
        "insert into public.feed (feed, calendar) values (%s, coalesce(%s, 'ALWAYS')) on conflict do nothing",
        [feed, calendar],
    )
    row = conn.execute("select calendar from public.feed where feed = %s", [feed]).fetchone()
    assert row
    if calendar not in (None, row[0]):
        raise InvalidError(f"feed {feed} follows calendar {row[0]}, not {calendar}", code="TE101")
    return str(row[0])


def _require_calendar(conn: Connection[Any], calendar: str | None) -> None:
    if calendar == "XNYS":
        _load_xnys(conn)
    if calendar and not conn.execute("select from public.calendar where calendar = %s", [calendar]).rowcount:
        hint = "Load it: papertick calendar load FILE --calendar NAME --time-zone ZONE. XNYS comes along."
        raise InvalidError(f"there is no calendar {calendar}", code="TE101", hint=hint)


def _closes(conn: Connection[Any], calendar: str) -> Callable[[str], str | None]:
    """What a bar's time stands for: an instant for itself (None), a date for its session's close."""
    closes: dict[str, str] = dict(
        conn.execute(
            """select to_char(session_date, 'YYYY-MM-DD'),
                      to_char(close_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                 from public.market_session where calendar = %s""",
            [calendar],
        ).fetchall()
    )

    def close_of(text: str) -> str | None:
        if len(text) > 10:
            check_time(text)
            return None
        if calendar == "ALWAYS":  # its sessions are no rows: the UTC day, closing at its end
            try:
                return f"{date.fromisoformat(text) + timedelta(1)}T00:00:00Z"
            except (ValueError, OverflowError):
                raise Bad("22008", f"there is no such date, or none after it: {text}") from None
        if text not in closes:
            raise Bad("22008" if closes and text < max(closes) else "TE203", f"{calendar} has no session on {text}")
        return closes[text]

    return close_of


def list_feeds(conn: Connection[Any]) -> list[FeedInfo]:
    """Every feed, with its number of symbols and bars and its first and last bar time."""
    with mapped():
        rows = conn.execute(
            """select f.feed, f.calendar, count(b.symbol), coalesce(sum(b.bars), 0)::bigint, min(b.first), max(b.last)
                 from public.feed f
                 left join (select feed, symbol, count(*) as bars, min(logical_time) as first, max(logical_time) as last
                              from public.price_bar group by feed, symbol) b using (feed)
                group by f.feed, f.calendar order by f.feed collate "C"
            """
        ).fetchall()
    return [FeedInfo(*row) for row in rows]


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
            raise _refused(report, bad) from None
        stage = _Stage(conn, sql.SQL("session_date date, open_at timestamptz, close_at timestamptz"), report)
        stage.fill(table, None)
        stage.judge(_SESSION_RULES, "session_date")
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


def load_bundled(conn: Connection[Any], feed: str = "bundled") -> LoadReport:
    """Load the bundled data (see data/README.md): calendar XNYS and daily bars of five stocks. Safe to repeat."""
    with (resources.files("engine_py") / "data" / "stocks.csv.gz").open("rb") as stocks:
        return load_csv(conn, stocks, feed=feed, calendar="XNYS")


def _load_xnys(conn: Connection[Any]) -> None:
    """The one calendar that comes along, unless one of that name is there."""
    if not conn.execute("select from public.market_session where calendar = 'XNYS' limit 1").rowcount:
        with (resources.files("engine_py") / "data" / "xnys_sessions.csv.gz").open("rb") as sessions:
            load_sessions(conn, sessions, calendar="XNYS", time_zone="America/New_York")
