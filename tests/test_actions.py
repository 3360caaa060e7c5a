"""Loading splits and dividends from CSV: what is refused, with its line number; what is stored; what a repeat changes."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from engine_py import feed

Conn = psycopg.Connection[Any]

HEADER = "symbol,ex_date,action_type,ratio_numerator,ratio_denominator,amount,pay_date"
SPLIT = "AAA,2024-01-02,SPLIT,3,2,,"
PAID = "AAA,2024-01-02,DIVIDEND,,,0.125,2024-02-01"


@pytest.fixture
def tx(tx: Conn) -> Conn:
    """With its transaction open: a load that finds none would commit its own."""
    add_symbols(tx)
    return tx


def add_symbols(conn: Conn) -> None:
    conn.execute("insert into instrument (symbol) values ('AAA'), ('B,B')")


def load(conn: Conn, *lines: str, **options: Any) -> feed.LoadReport:
    return feed.load_actions(conn, io.BytesIO("".join(f"{line}\n" for line in lines).encode()), **options)


def stored(conn: Conn) -> list[tuple[Any, ...]]:
    return conn.execute(
        "select symbol, ex_date, action_type, ratio_numerator, ratio_denominator, amount, pay_date"
        ' from corporate_action order by symbol collate "C", ex_date, action_type collate "C"'
    ).fetchall()


def refused(conn: Conn, *lines: str, **options: Any) -> list[tuple[int, str]]:
    """The (line, code) of each problem of a file that is refused, and leaves nothing."""
    before = stored(conn)
    with pytest.raises(feed.FeedError) as caught:
        load(conn, *lines, **options)
    assert stored(conn) == before
    assert caught.value.code == caught.value.report.skipped[0].code
    return [(p.line, p.code) for p in caught.value.report.skipped]


def test_splits_and_dividends_are_stored_as_they_stand(tx: Conn) -> None:
    report = load(tx, HEADER, PAID, SPLIT, '"B,B",2023-05-04,DIVIDEND,,,1.000000005,2023-05-04')
    assert (report.read, report.rows, report.symbols) == (3, 3, 2)
    assert (report.first, report.last) == (datetime(2023, 5, 4, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC))
    assert stored(tx) == [
        ("AAA", date(2024, 1, 2), "DIVIDEND", None, None, Decimal("0.125"), date(2024, 2, 1)),
        ("AAA", date(2024, 1, 2), "SPLIT", 3, 2, None, None),
        ("B,B", date(2023, 5, 4), "DIVIDEND", None, None, Decimal("1.00000001"), date(2023, 5, 4)),
    ]


def test_columns_of_the_other_kind_may_be_missing(tx: Conn) -> None:
    load(tx, "Action_Type,EX_DATE,symbol,note,ratio_denominator,ratio_numerator", "SPLIT,2024-01-02,AAA,x,2,3")
    load(tx, "symbol,ex_date,action_type,amount,pay_date", "AAA,2024-01-02,DIVIDEND,0.125,2024-02-01")
    assert load(tx, HEADER, SPLIT, PAID).unchanged == 2


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("AAA,03/01/2024,SPLIT,2,1,,", "22007"),
        ("AAA,2024-01-03T00:00:00Z,SPLIT,2,1,,", "22007"),
        ("AAA,,SPLIT,2,1,,", "22007"),
        ("AAA,2024-02-30,SPLIT,2,1,,", "22008"),
        ("AAA,1899-12-31,SPLIT,2,1,,", "22008"),
        ("AAA,2300-01-01,SPLIT,2,1,,", "22008"),
        ("AAA,2024-01-03,split,2,1,,", "23514"),
        ("AAA,2024-01-03,BONUS,2,1,,", "23514"),
        ("AAA,2024-01-03,,2,1,,", "23514"),
        ("AAA,2024-01-03,SPLIT,1.5,1,,", "22P02"),
        ("AAA,2024-01-03,SPLIT,-2,1,,", "22P02"),
        ("AAA,2024-01-03,SPLIT,2,1000000000,,", "22P02"),
        ("AAA,2024-01-03,SPLIT,2:1,,,", "22P02"),
        ("AAA,2024-01-03,SPLIT,0,1,,", "23514"),
        ("AAA,2024-01-03,SPLIT,2,0,,", "23514"),
        ("AAA,2024-01-03,SPLIT,2,,,", "23514"),
        ("AAA,2024-01-03,SPLIT,,1,,", "23514"),
        ("AAA,2024-01-03,SPLIT,,,,", "23514"),
        ("AAA,2024-01-03,SPLIT,2,1,1,", "23514"),
        ("AAA,2024-01-03,SPLIT,2,1,,2024-01-03", "23514"),
        ("AAA,2024-01-03,SPLIT,2,1,1,2024-01-03", "23514"),
        ("AAA,2024-01-03,DIVIDEND,,,1,", "23514"),
        ("AAA,2024-01-03,DIVIDEND,,,,2024-01-03", "23514"),
        ("AAA,2024-01-03,DIVIDEND,,,,", "23514"),
        ("AAA,2024-01-03,DIVIDEND,2,1,1,2024-01-03", "23514"),
        ("AAA,2024-01-03,DIVIDEND,2,,1,2024-01-03", "23514"),
        ("AAA,2024-01-03,DIVIDEND,,,NaN,2024-01-03", "22P02"),
        ("AAA,2024-01-03,DIVIDEND,,,Infinity,2024-01-03", "22P02"),
        ("AAA,2024-01-03,DIVIDEND,,,$1,2024-01-03", "22P02"),
        ("AAA,2024-01-03,DIVIDEND,,,0,2024-01-03", "23514"),
        ("AAA,2024-01-03,DIVIDEND,,,-1,2024-01-03", "23514"),
        ("AAA,2024-01-03,DIVIDEND,,,0.000000004,2024-01-03", "23514"),  # 0 at 8 decimals
        ("AAA,2024-01-03,DIVIDEND,,,999999999999.999999999,2024-01-03", "22003"),  # 1e12 at 8 decimals
        ("AAA,2024-01-03,DIVIDEND,,,1,2024-01-02", "23514"),
        ("AAA,2024-01-03,DIVIDEND,,,1,soon", "22007"),
        ("AAA,2024-01-03,DIVIDEND,,,1,2024-02-30", "22008"),
        ("AAA,2024-01-03,DIVIDEND,,,1,2300-01-01", "22008"),
        ("NEW,2024-01-03,SPLIT,2,1,,", "TE201"),
        ("aaa,2024-01-03,SPLIT,2,1,,", "TE201"),
        (",2024-01-03,SPLIT,2,1,,", "22P02"),
        ("AAA,2024-01-03,SPLIT,2,1,", "22P04"),
        (SPLIT, "23505"),
        ("AAA,2024-01-02,SPLIT,2,1,,", "23505"),
    ],
)
def test_a_bad_action_names_its_line_and_refuses_the_file(tx: Conn, line: str, code: str) -> None:
    assert refused(tx, HEADER, SPLIT, line) == [(3, code)]
    report = load(tx, HEADER, SPLIT, line, PAID, skip_bad=True)
    assert (report.rows, report.skipped_count, len(stored(tx))) == (2, 1, 2)


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "42703"),
        ("ex_date,action_type,amount", "42703"),
        ("symbol,action_type,amount", "42703"),
        ("symbol,ex_date,amount", "42703"),
        (HEADER + ",amount", "42701"),
    ],
)
def test_a_wrong_header_is_line_1_even_when_bad_lines_are_skipped(tx: Conn, header: str, code: str) -> None:
    assert refused(tx, header, SPLIT, skip_bad=True) == [(1, code)]


def test_an_interim_and_a_special_dividend_add_up(tx: Conn) -> None:
    special, third = PAID.replace("0.125", "0.4"), PAID.replace("0.125", "0.000000005")
    report = load(tx, HEADER, PAID, SPLIT, special, third)
    assert (report.read, report.rows, report.merged, report.skipped_count) == (4, 2, 2, 0)
    assert stored(tx)[0] == (
        *("AAA", date(2024, 1, 2), "DIVIDEND", None, None, Decimal("0.52500001")),
        date(2024, 2, 1),
    )
    again = load(tx, HEADER, third, special, SPLIT, PAID)
    assert (again.rows, again.merged, again.unchanged) == (0, 2, 2)


def test_dividends_that_do_not_add_up_are_repeats(tx: Conn) -> None:
    other_day = "AAA,2024-01-02,DIVIDEND,,,0.4,2024-02-02"
    assert refused(tx, HEADER, PAID, PAID) == [(3, "23505")]
    assert refused(tx, HEADER, PAID, other_day) == [(3, "23505")]
    assert refused(tx, HEADER, PAID, PAID.replace("0.125", "0"), other_day) == [(3, "23514"), (4, "23505")]
    report = load(tx, HEADER, PAID, PAID.replace("0.125", "0"), skip_bad=True)
    assert (report.rows, report.merged, report.skipped_count) == (1, 0, 1)


def test_runs_that_are_past_an_action_are_counted(tx: Conn) -> None:
    add_bars = "insert into price_bar select %s, 'AAA', timestamptz '2024-01-01 21:00Z' + n * interval '1 day', 1, 1, 1, 1 from generate_series(0, 4) n"
    tx.execute("insert into feed (feed, adjusted) values ('raw', false), ('adjusted', true)")
    for name in ("default", "raw", "adjusted"):
        tx.execute(add_bars, [name])
    for last, name in ((1, "raw"), (2, "raw"), (3, "raw"), (4, "default"), (5, "adjusted"), (6, "raw")):
        ((user,),) = tx.execute("select create_user('u')").fetchall()
        ((run,),) = tx.execute("select start_run(%s, 1000, %s)", [user, name]).fetchall()
        tx.execute("call tick(%s, %s, %s)", [user, run, f"2024-01-{last:02} 21:00Z"])
        if last == 6:
            tx.execute("select stop_run(%s, %s)", [user, run])
    later = "AAA,2024-01-03,SPLIT,2,1,,"
    assert load(tx, HEADER, "AAA,2024-01-07,SPLIT,2,1,,").runs_past == 0
    assert load(tx, HEADER, later, dry_run=True).runs_past == 2
    assert load(tx, HEADER, later, "AAA,2024-01-02,SPLIT,2,1,,").runs_past == 3
    assert load(tx, HEADER, later).runs_past == 0  # nothing new


@pytest.mark.parametrize("line", ["AAA,2024-01-02,SPLIT,2,1,,", "AAA,2024-01-02,DIVIDEND,,,0.13,2024-02-01",
                                  "AAA,2024-01-02,DIVIDEND,,,0.125,2024-02-02"])  # fmt: skip
def test_a_stored_action_is_never_changed(tx: Conn, line: str) -> None:
    load(tx, HEADER, SPLIT, PAID)
    before = stored(tx)
    other = "AAA,2025-01-02,SPLIT,2,1,,"
    assert refused(tx, HEADER, other, line) == [(3, "23505")]
    report = load(tx, HEADER, other, line, skip_bad=True)
    assert (report.rows, report.duplicates) == (1, 1)
    assert stored(tx)[:2] == before


def test_a_second_load_changes_nothing(db: Conn) -> None:
    add_symbols(db)
    lines = [HEADER, SPLIT, PAID, "AAA,2024-03-01,DIVIDEND,,,0.100000001,2024-03-01"]
    first = load(db, *lines)
    rows = db.execute("select xmin::text, c.* from corporate_action c").fetchall()
    second = load(db, *lines)
    assert (first.rows, first.unchanged, second.rows, second.unchanged) == (3, 0, 0, 3)
    assert db.execute("select xmin::text, c.* from corporate_action c").fetchall() == rows


def test_a_dry_run_stores_nothing_and_says_what_it_would(db: Conn) -> None:
    add_symbols(db)
    dry = load(db, HEADER, SPLIT, "bad", skip_bad=True, dry_run=True)
    assert stored(db) == []
    assert dry == replace(load(db, HEADER, SPLIT, "bad", skip_bad=True), dry_run=True)


def test_two_loads_at_once_store_it_once(connect: Callable[..., Conn]) -> None:
    one, two, watcher = connect(), connect(), connect()
    add_symbols(one)
    reports: list[feed.LoadReport] = []
    with one.transaction():
        reports.append(load(one, HEADER, SPLIT))
        thread = threading.Thread(target=lambda: reports.append(load(two, HEADER, SPLIT)))
        thread.start()
        blocked = "select cardinality(pg_blocking_pids(%s))"
        deadline = time.monotonic() + 30
        while watcher.execute(blocked, [two.info.backend_pid]).fetchone() == (0,):
            assert time.monotonic() < deadline
    thread.join(30)
    assert [(r.rows, r.unchanged) for r in reports] == [(1, 0), (0, 1)]
