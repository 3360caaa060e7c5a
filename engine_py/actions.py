"""Corporate actions in: splits and dividends from a CSV file."""

from __future__ import annotations

from typing import Any, Literal

from psycopg import Connection, sql

from engine_py.adjustment import contradicted, contradictions
from engine_py.csvfile import DATE, MAX_PROBLEMS, NUMBER, SYMBOL, Bad, Column, Table, check_time
from engine_py.dialects.base import Options
from engine_py.dialects.base import Source as rows_source
from engine_py.dialects.events import Events, reader_of
from engine_py.errors import mapped
from engine_py.inputs import Opened, Source, opened
from engine_py.staging import LoadReport, Stage, refused

_ACTION = (
    Column("symbol", ("symbol",), SYMBOL, "a symbol"),
    Column("ex_date", ("ex_date",), DATE, "a date like 2024-01-31", "22007"),
    Column("action_type", ("action_type",), "SPLIT|DIVIDEND", "SPLIT or DIVIDEND", "23514"),
    *(
        Column(name, (name,), r"(?:\d{1,9})?", "empty or a whole number below 1e9", optional=True)
        for name in ("ratio_numerator", "ratio_denominator")
    ),
    Column("amount", ("amount",), f"(?:{NUMBER})?", "empty or a finite decimal number", optional=True),
    Column("pay_date", ("pay_date",), f"(?:{DATE})?", "empty or a date like 2024-01-31", "22007", optional=True),
)
# What is null breaks no rule but those of what must be there. A field of the other kind is refused, not ignored: it
# is more likely a row gone wrong than a remark.
_ACTION_RULES = (
    (
        "greatest(ex_date, pay_date) < '2300-01-01' and least(ex_date, pay_date) >= '1900-01-01'",
        "22008",
        "the date is not within 1900 to 2299",
    ),
    (
        "action_type <> 'SPLIT'"
        " or (num_nulls(ratio_numerator, ratio_denominator) = 0 and num_nonnulls(amount, pay_date) = 0)",
        "23514",
        "a SPLIT has ratio_numerator and ratio_denominator, and no amount or pay_date",
    ),
    (
        "action_type <> 'DIVIDEND'"
        " or (num_nonnulls(ratio_numerator, ratio_denominator) = 0 and num_nulls(amount, pay_date) = 0)",
        "23514",
        "a DIVIDEND has amount and pay_date, and no ratio",
    ),
    ("least(ratio_numerator, ratio_denominator) > 0", "23514", "the ratio is not above 0"),
    ("greatest(ratio_numerator, ratio_denominator) <= 1000000", "23514", "the ratio has a number above a million"),
    ("round(amount, 8) > 0", "23514", "the amount is not above 0"),
    ("round(amount, 8) < 1e12", "22003", "the amount is not below 1e12"),
    ("pay_date >= ex_date", "23514", "pay_date is before ex_date"),
    # a bar makes its symbol known, an action does not: a misspelt one would wait for ever, unseen
    ("symbol in (select i.symbol from public.instrument i)", "TE201", "the symbol is unknown: load its bars first"),
)
_SAME_ACTION = """(b.ratio_numerator, b.ratio_denominator, b.amount, b.pay_date) is not distinct from
                  (s.ratio_numerator, s.ratio_denominator, s.amount::numeric(20,8), s.pay_date)"""


# An interim and a special dividend. Equal amounts are more likely one dividend twice.
_TWIN_DIVIDENDS = """
    select unnest(array_agg(line order by line)) as line, min(line) as into, sum(round(amount, 8)) as amount
      from pg_temp.papertick_stage
     where action_type = 'DIVIDEND'
     group by symbol, ex_date
    having count(*) > 1 and count(distinct pay_date) = 1 and count(distinct round(amount, 8)) = count(*)"""
_ONE_DIVIDEND = (
    " (dividends of one ex-date add up if their pay dates are equal and their amounts differ; else write their sum)"
)
# RUNNING runs that have ticked past the bar at which an action is due: ticks that have happened stay as they are.
_RUNS_PAST = """
    select count(distinct (r.user_id, r.run_id))
      from pg_temp.papertick_stage x
      join public.feed f on not f.adjusted
      join public.calendar c on c.calendar = f.calendar
     cross join lateral (select b.logical_time from public.price_bar b
                          where b.feed = f.feed and b.symbol = x.symbol
                            and b.logical_time >= (x.ex_date::timestamp at time zone c.time_zone)
                          order by b.logical_time limit 1) b
      join public.strategy_run r on r.feed = f.feed and r.status = 'RUNNING'
      join public.engine_state s on s.user_id = r.user_id and s.run_id = r.run_id
     where s.last_logical_time >= b.logical_time"""


# Yahoo states what was paid before a split in units of after it.
_RESTATED = """
    select distinct x.symbol, max(a.ex_date)::text
      from pg_temp.papertick_stage x
      join public.corporate_action a on a.symbol = x.symbol and a.action_type = 'SPLIT' and a.ex_date > x.ex_date
     where x.action_type = 'DIVIDEND'
     group by x.symbol order by x.symbol limit 20"""


@mapped()
def load_actions(
    conn: Connection[Any],
    source: Source,
    *,
    symbol: str | None = None,
    series: frozenset[str] | None = None,
    kind: Literal["SPLIT", "DIVIDEND"] | None = None,
    skip_bad: bool = False,
    dry_run: bool = False,
    strict: bool = False,
) -> LoadReport:
    """Load splits and dividends, which hold for their symbol in every feed.

    Columns, by name in any case and order: symbol, ex_date, action_type; ratio_numerator, ratio_denominator (new
    units : old units) of a SPLIT; amount (per unit, in the currency of the prices) and pay_date of a DIVIDEND; others
    are ignored. Dividends of one ex-date and pay date with different amounts are stored as one, their sum. Symbols
    must be known. Yahoo's files of splits or dividends (of one `symbol`, or that of the file's name) and NSE's of
    corporate actions (of the `series` EQ) are read as well; what NSE's words do not say clearly is in the warnings.
    `kind`: only these; prices that are adjusted for splits need the dividends alone.
    Rows equal to stored ones are counted as unchanged; stored rows are never changed.
    A bad line refuses the whole file (FeedError), or with `skip_bad` just itself. One transaction; safe to repeat.
    Prices that a split contradicts are warned of; `strict`: what would be a warning refuses.
    """
    report = LoadReport("corporate actions", dry_run)
    with opened(source) as files, conn.transaction(force_rollback=dry_run):
        # two loads queue up here, so that the second finds what the first stored
        conn.execute("select pg_advisory_xact_lock(hashtextextended('papertick corporate actions', 0))")
        try:
            table = _rows(next(files), symbol, series, report)
        except Bad as bad:
            raise refused(report, bad) from None
        stage = Stage(
            conn,
            sql.SQL(
                "symbol text default {}, ex_date date, action_type text,"
                " ratio_numerator int, ratio_denominator int, amount numeric, pay_date date"
            ).format(sql.Literal(symbol)),
            report,
        )
        stage.fill(table)
        report.warnings += table.notes[:MAX_PROBLEMS] if isinstance(table, Events) else []
        if kind == "SPLIT":
            stage.leave_out("action_type = 'DIVIDEND'", "dividend")
        elif kind == "DIVIDEND":
            stage.leave_out("action_type = 'SPLIT'", "split")
        stage.judge(_ACTION_RULES)
        stage.add_up(_TWIN_DIVIDENDS)
        stage.refuse_repeats("symbol, ex_date, action_type", _ONE_DIVIDEND)
        stage.summarize(
            """select count(distinct symbol), min(ex_date)::timestamp at time zone 'UTC',
                      max(ex_date)::timestamp at time zone 'UTC' from pg_temp.papertick_stage"""
        )
        stage.compare(sql.SQL("public.corporate_action"), "symbol, ex_date, action_type", _SAME_ACTION)
        stage.report_flaws(skip_bad=skip_bad, hint="Correct these lines, or leave them out with --skip-bad.")
        row = conn.execute(_RUNS_PAST).fetchone()
        report.runs_past = row[0] if row else 0
        columns = "symbol, ex_date, action_type, ratio_numerator, ratio_denominator, amount, pay_date"
        stage.store("public.corporate_action", {}, columns)
        _warn(conn, report)
        if strict and report.warnings:
            raise contradicted(report.warnings)
        stage.drop()
    return report


def _rows(file: Opened, symbol: str | None, series: frozenset[str] | None, report: LoadReport) -> Table | Events:
    """The rows of a file in whatever dialect. Raises Bad."""
    source = rows_source(file.name, file.stem, file.text)
    options = Options(symbol=symbol, series=series)
    if found := reader_of(source, options, _ACTION):
        report.format, events = found
        return events
    report.format = "generic"
    return Table(
        file.text,
        _ACTION if symbol is None else _ACTION[1:],
        dict.fromkeys(("ex_date", "pay_date"), _check_date),
        source.ahead,
    )


def _warn(conn: Connection[Any], report: LoadReport) -> None:
    """Note what the actions contradict, and dividends that a later split has made other than they were."""
    if report.format == "yahoo":
        report.warnings += [
            f"{symbol} has splits up to {day}, and Yahoo states earlier dividends in units of after them"
            for symbol, day in conn.execute(_RESTATED)
        ]
    symbols = [
        row[0]
        for row in conn.execute("select distinct symbol from pg_temp.papertick_stage where action_type = 'SPLIT'")
    ]
    if symbols and report.first and report.last:
        report.warnings += contradictions(conn, first=report.first, last=report.last, symbols=symbols)


def _check_date(text: str) -> None:
    if text:
        check_time(text)
