"""How a file becomes rows: COPY to a temporary table, judged there by SQL, all or nothing.

csvfile judges the shape of each field, because only Python knows line numbers; SQL judges what the rows mean: ranges,
coherence, repeats, what is stored already. Every problem carries its line number. The constraints of the tables stay
the last word.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from typing import Any, LiteralString, Protocol, TypeAlias

from psycopg import Connection, Cursor, sql

from engine_py.csvfile import MAX_PROBLEMS, Bad, Column, Problem
from engine_py.errors import InvalidError

Progress: TypeAlias = Callable[[int], None]
Rules: TypeAlias = tuple[tuple[LiteralString, LiteralString, LiteralString], ...]  # what holds, else SQLSTATE, message

SYMBOLS_SHOWN = 5  # of those that a load stored
_LINES_PER_WRITE = 2000
_PAGES_PER_INSERT = 4096  # of the staging table: about 300,000 bars


@dataclass
class LoadReport:
    """What a load did, or with dry_run would do. `symbols`, `first`, `last` span the file's well-formed rows."""

    target: str
    dry_run: bool = False
    format: str = ""  # the dialect that the file is written in; of several files all that occur
    mapping: dict[str, str] = field(default_factory=dict)  # ours: theirs, of the first file
    files: int = 1
    read: int = 0  # rows in the file, header and blank lines aside
    rows: int = 0  # stored now, or with dry_run what would be
    unchanged: int = 0  # equal to a row stored before, or to an earlier one of the same key
    merged: int = 0  # dividends that were added to another line's, of the same ex-date
    runs_past: int = 0  # RUNNING runs that have passed a new action's time, and so do not get it
    outside_sessions: int = 0  # well-formed bars at times when the calendar is closed: orders never fill there
    duplicates: int = 0  # repeated in the file, or different from the stored row; part of skipped_count
    changed: int = 0  # of these, different from the stored row
    left_out: dict[str, int] = field(default_factory=dict)  # rows that are no bars, or were not asked for, by reason
    gaps: int | None = None  # dry_run: sessions without a bar between a symbol's first and last; None: not counted
    factors: tuple[Decimal, Decimal] | None = None  # adjusted close : close, the least and the greatest
    warnings: list[str] = field(default_factory=list)
    skipped_count: int = 0
    skipped: list[Problem] = field(default_factory=list)  # the first MAX_PROBLEMS, by line
    symbols: int = 0
    first_symbols: list[str] = field(default_factory=list)  # the first SYMBOLS_SHOWN of these
    first: datetime | None = None
    last: datetime | None = None


class FeedError(InvalidError):
    """The file was refused and nothing was stored. `report.skipped` holds the first problems; `detail` prints them."""

    def __init__(self, report: LoadReport, *, hint: str | None = None) -> None:
        count, shown = report.skipped_count, report.skipped
        lines = [problem_line(p) for p in shown]
        if count > len(shown):
            lines.append(f"... and {count - len(shown)} more")
        super().__init__(
            f"{count} bad line{'s' * (count != 1)}; nothing was stored in {report.target}",
            code=shown[0].code,
            detail="\n".join(lines),
            hint=hint,
        )
        self.report = report


class Rows(Protocol):
    """What a source gives to the stage: lines for COPY, and while they are read what is wrong with the others."""

    columns: list[Column]
    problems: list[Problem]
    problem_count: int
    left_out: Counter[str]
    lines: int  # read so far, or at the end
    step: int  # how far the numbers of two lines are apart: a line may hold several rows
    hint: str | None

    def copy_lines(self, base: int = 0) -> Iterator[str]: ...


def problem_line(problem: Problem) -> str:
    """`line 7: open is not … [22P02]`, with the file's name where there are several."""
    where = f"{problem.file}, " if problem.file else ""
    return f"{where}line {problem.line}: {problem.message} [{problem.code}]"


def broken_rows(rules: Rules, rows: sql.Composable, said: LiteralString = "''") -> sql.Composed:
    """A query of (line, code, message): the rows that break a rule, each with the first one that it breaks.

    `said`: SQL for what a message adds.
    """
    broken = sql.SQL(" or ").join(sql.SQL(f"not ({rule})") for rule, _, _ in rules)
    code = sql.SQL(" ").join(sql.SQL(f"when not ({rule}) then '{code}'") for rule, code, _ in rules)
    message = sql.SQL(" ").join(sql.SQL(f"when not ({rule}) then '{text}'") for rule, _, text in rules)
    query = sql.SQL("select line, case {} end, case {} end || {} from {} where {}")
    return query.format(code, message, sql.SQL(said), rows, broken)


def refused(report: LoadReport, bad: Bad, line: int = 1, file: str = "") -> FeedError:
    report.skipped_count, report.skipped = 1, [Problem(line, bad.code, bad.message, file)]
    return FeedError(report, hint=bad.hint)


class Stage:
    """The rows of one file, or of several, on their way into one table, in temporary tables.

    papertick_stage holds the rows still to be stored, papertick_flaw the lines that will not be, and why; without a
    code, because the row is stored already. A bad row leaves at once, so that it makes no good one a duplicate.
    The lines of several files are numbered through; `other` is the line that a message ends with.
    """

    def __init__(self, conn: Connection[Any], definition: sql.Composable, report: LoadReport) -> None:
        self._conn, self._report = conn, report
        self._files: list[tuple[int, int, str]] = []  # the lines before it, its step, its name
        self._lines = 0
        self._hint: str | None = None
        self._run("create temporary table papertick_stage (line bigint, {}) on commit drop", definition)
        flaw = "line bigint, code text, message text, other bigint"
        self._run("create temporary table papertick_flaw ({}) on commit drop", sql.SQL(flaw))

    def _run(self, statement: LiteralString, *parts: sql.Composable) -> Cursor[Any]:
        return self._conn.execute(sql.SQL(statement).format(*parts))

    def fill(self, table: Rows, progress: Progress | None = None, file: str = "", *, more: bool = False) -> None:
        """Add the rows of a file; `more`: another one comes."""
        columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)
        target = sql.SQL("copy pg_temp.papertick_stage (line, {}) from stdin with (delimiter ',', null '')")
        report, base = self._report, self._lines
        self._files.append((base, table.step, file))
        lines, done = table.copy_lines(base), report.read
        with self._conn.cursor() as cursor:
            with cursor.copy(target.format(columns)) as copy:
                while chunk := list(islice(lines, _LINES_PER_WRITE)):
                    copy.write("".join(chunk))
                    done += len(chunk)
                    if progress:
                        progress(done)
            report.read += cursor.rowcount + table.problem_count
        report.skipped_count += table.problem_count
        found = [problem._replace(line=base + problem.line) for problem in table.problems]
        report.skipped = [*report.skipped, *found][:MAX_PROBLEMS]
        for reason, count in table.left_out.items():
            report.left_out[reason] = report.left_out.get(reason, 0) + count
        self._lines += table.lines
        self._hint = self._hint or table.hint
        if not more:
            self.filled()

    def filled(self) -> None:
        """All rows are there."""
        self._run("analyze pg_temp.papertick_stage")

    def recast(self, columns: sql.Composable) -> None:
        """Give columns another type: what follows `alter table`."""
        self._run("alter table pg_temp.papertick_stage {}", columns)
        self._run("analyze pg_temp.papertick_stage")

    def leave_out(self, rows: LiteralString, reason: str) -> None:
        """Pass over the rows for which this SQL holds: they were not asked for."""
        if gone := self._run("delete from pg_temp.papertick_stage where " + rows).rowcount:
            self._report.read -= gone
            self._report.left_out[reason] = self._report.left_out.get(reason, 0) + gone

    def judge(self, rules: Rules, said: LiteralString = "''") -> None:
        """Take out the rows that break a rule."""
        self.take_out("{}", broken_rows(rules, sql.SQL("pg_temp.papertick_stage"), said))

    def refuse_repeats(self, key: LiteralString, but: str = "", same: LiteralString | None = None) -> None:
        """Take out the rows that repeat a key: its first line stays. `but`: what the message adds.

        `same`: SQL for whether a row s says the same as the first one b; then it is unchanged, and nothing is wrong.
        """
        found = self._run(
            """insert into pg_temp.papertick_flaw (line, code, message, other)
               select line, '23505', {}, first_line
                 from (select line, first_value(line) over (partition by {} order by line) as first_line
                         from pg_temp.papertick_stage) k
                where line <> first_line""",
            sql.Literal(but),
            sql.SQL(key),
        ).rowcount
        if found and same:
            self._run(
                """update pg_temp.papertick_flaw f set code = null
                     from pg_temp.papertick_stage s, pg_temp.papertick_stage b
                    where f.other is not null and s.line = f.line and b.line = f.other and {}""",
                sql.SQL(same),
            )
        self._drop_flawed(found)

    def add_up(self, twins: LiteralString) -> None:
        """Make one row of several: of a query's (line, into, amount) `line` goes, and row `into` gets the amount."""
        self._run("create temporary table papertick_twin on commit drop as " + twins)
        self._run(
            """update pg_temp.papertick_stage s set amount = t.amount
                 from pg_temp.papertick_twin t where s.line = t.into and t.line <> t.into"""
        )
        self._report.merged = self._run(
            """delete from pg_temp.papertick_stage s
                using pg_temp.papertick_twin t where s.line = t.line and t.line <> t.into"""
        ).rowcount
        self._run("drop table pg_temp.papertick_twin")

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
        found = self._run("insert into pg_temp.papertick_flaw (line, code, message) " + flaws, *parts)
        self._drop_flawed(found.rowcount)

    def _drop_flawed(self, found: int) -> None:
        if found:
            # A delete of scattered rows takes four times as long when there are many, and many are unchanged.
            self._replace(
                """select * from pg_temp.papertick_stage s
                    where not exists (select from pg_temp.papertick_flaw f where f.line = s.line)"""
            )

    def rescale(self, columns: Sequence[str]) -> None:
        """Take prices to the level of the adjusted close, where there is one; the close itself becomes it."""
        scaled = sql.SQL(", ").join(
            sql.SQL("coalesce(round({0} * adj_close / close, 8), {0}) as {0}").format(sql.Identifier(name))
            for name in columns
        )
        self._replace("select line, symbol, logical_time, {}, volume, adj_close from pg_temp.papertick_stage", scaled)

    def _replace(self, rows: LiteralString, *parts: sql.Composable) -> None:
        self._run("create temporary table papertick_rest on commit drop as " + rows, *parts)
        self._run("drop table pg_temp.papertick_stage")
        self._run("alter table pg_temp.papertick_rest rename to papertick_stage")
        self._run("analyze pg_temp.papertick_stage")

    def report_flaws(self, *, skip_bad: bool, hint: str | None = None) -> None:
        report = self._report
        counts = self._run(
            """select count(*) filter (where code is null), count(*) filter (where code = '23505'), count(code),
                      count(*) filter (where code = '23505' and other is null)
                 from pg_temp.papertick_flaw"""
        ).fetchone()
        assert counts
        report.unchanged, report.duplicates, wrong, report.changed = counts
        shown = self._run(
            """select line, code, message, other from pg_temp.papertick_flaw
                where code is not null order by line limit {}""",
            sql.Literal(MAX_PROBLEMS),
        )
        report.skipped_count += wrong
        found = [self._placed(*row) for row in shown]
        report.skipped = [self._in_file(p) for p in sorted([*report.skipped, *found])[:MAX_PROBLEMS]]
        report.rows = report.read - report.merged - report.unchanged - report.skipped_count
        if report.skipped_count and not skip_bad:
            raise FeedError(report, hint=self._hint or hint)

    def _placed(self, line: int, code: str, message: str, other: int | None) -> Problem:
        if other is None:
            return Problem(line, code, message)
        first = self._in_file(Problem(other, "", ""))
        there = f" of {first.file}" if first.file and first.file != self._in_file(Problem(line, "", "")).file else ""
        return Problem(line, code, f"repeats line {first.line}{there}{message}")

    def _in_file(self, problem: Problem) -> Problem:
        """The line as its file counts it."""
        base, step, name = self._files[bisect(self._files, problem.line, key=lambda file: file[0] + 1) - 1]
        return problem._replace(line=(problem.line - base) // step, file=name if len(self._files) > 1 else "")

    def keep_symbols(self) -> None:
        """Put down the symbols that are there now, as papertick_symbol."""
        self._run(
            """create temporary table papertick_symbol on commit drop as
               select distinct symbol from pg_temp.papertick_stage"""
        )

    def summarize(self, query: LiteralString | sql.Composed) -> None:
        """Of a query of how many symbols, first and last time, and possibly the first symbols by name."""
        row = self._conn.execute(query).fetchone()
        assert row
        self._report.symbols, first, last = row[:3]
        self._report.first_symbols = list(row[3]) if len(row) > 3 else []
        self._report.first, self._report.last = first and first.astimezone(UTC), last and last.astimezone(UTC)

    def store(self, table: LiteralString, constants: dict[str, str], columns: LiteralString) -> None:
        """Move what is left into `table`, in batches: a statement queues a foreign-key check per row until it ends."""
        size = self._run("select pg_relation_size('pg_temp.papertick_stage') / current_setting('block_size')::int")
        row = size.fetchone()
        assert row
        names = sql.SQL(", ").join([*map(sql.Identifier, constants), sql.SQL(columns)])
        values = sql.SQL(", ").join([*map(sql.Literal, constants.values()), sql.SQL(columns)])
        for page in range(0, row[0], _PAGES_PER_INSERT):
            self._run(
                "insert into {} ({}) select {} from pg_temp.papertick_stage where ctid >= {} and ctid < {}",
                sql.SQL(table),
                names,
                values,
                sql.Literal(f"({page},0)"),
                sql.Literal(f"({page + _PAGES_PER_INSERT},0)"),
            )

    def drop(self) -> None:
        self._run("drop table pg_temp.papertick_stage, pg_temp.papertick_flaw")
