"""papertick feed follow: bars from a pipe, those of one time at once, exactly as they were written."""

from __future__ import annotations

import os
import signal
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from helpers import Conn, at, digest, make_busy_run, make_run, session, stop, tick, value
from live import Start, listeners

from engine_py.barlines import parse
from engine_py.csvfile import MAX_LINE, Bad

FOLLOW = ("feed", "follow", "-", "--feed", "f")
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def bar(symbol: str, n: float, close: float | str, **more: Any) -> dict[str, Any]:
    return {"symbol": symbol, "logical_time": at(n).isoformat(), "price": close} | more


def bars(conn: Conn, feed: str = "f") -> list[tuple[Any, ...]]:
    query = """select symbol, logical_time, trim_scale(open), trim_scale(high), trim_scale(low), trim_scale(close), trim_scale(volume)
                 from price_bar where feed = %s order by logical_time, symbol collate "C" """
    return conn.execute(query, [feed]).fetchall()


def count(conn: Conn) -> int:
    return int(value(conn, "select count(*) from price_bar where feed = 'f'"))


def problems(err: str) -> list[tuple[int, str]]:
    """Line and code of each line of complaint."""
    return [(int(line.split()[1].rstrip(":")), line[-6:-1]) for line in err.splitlines()]


# --- a line ---


def read(text: str | bytes) -> tuple[Any, ...]:
    return parse(1, text if isinstance(text, bytes) else text.encode(), lambda _: None)[1:]


TIME = "2024-01-01T16:00:00Z"


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ('{"symbol": "A", "time": "%s", "price": 0.1}', ("0.1",) * 4 + (None,)),
        ('{"symbol": "A", "time": "%s", "price": "0.10"}', ("0.10",) * 4 + (None,)),
        ('{"symbol": "A", "time": "%s", "price": 9007199254740993.00000001, "volume": 1e3}', ("9007199254740993.00000001",) * 4 + ("1e3",)),
        ('{"symbol": "A", "logical_time": "%s", "open": 1, "high": 3, "low": 0.5, "close": 2, "volume": null}', ("1", "3", "0.5", "2", None)),
        ('{"Symbol": " A ", "TIMESTAMP": "%s", "Open": 1, "High": 3, "Low": 0.5, "Close": 2, "more": {"open": [1]}}', ("1", "3", "0.5", "2", None)),
    ],
)  # fmt: skip
def test_a_line_is_read_as_it_was_written(text: str, fields: tuple[Any, ...]) -> None:
    assert read(text % TIME) == ("A", TIME, *fields)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "22032"),
        ("[1, 2]", "22032"),
        ("17", "22032"),
        ("[" * 100_000, "22032"),
        ("{} {}", "22032"),
        (b"\xff{}", "22021"),
        (b"{" + b" " * MAX_LINE + b"}", "54000"),
        ('{"symbol": "A", "time": "T", "price": NaN}', "22P02"),
        ('{"symbol": "A", "time": "T", "price": -Infinity}', "22P02"),
        ('{"symbol": "A", "time": "T", "price": "NaN"}', "22P02"),
        ('{"symbol": "A", "time": "T", "price": true}', "22P02"),
        ('{"symbol": "A", "time": "T", "price": [1]}', "22P02"),
        ('{"symbol": "A", "time": "T", "price": 1e999}', "22P02"),
        ('{"symbol": "A", "time": "T", "price": "1_0"}', "22P02"),
        ('{"symbol": "A", "time": "T", "price": "٣"}', "22P02"),
        ('{"symbol": "A", "time": "T", "price": null}', "23502"),
        ('{"symbol": "A", "time": "T", "price": 1, "price": 1}', "42701"),
        ('{"symbol": "A", "time": "T", "price": 1, "Price": 1}', "42701"),
        ('{"symbol": "A", "time": "T", "price": 1, "close": 1}', "42701"),
        ('{"symbol": "A", "time": "T", "date": "T", "price": 1}', "42701"),
        ('{"symbol": "A", "time": "T", "open": 1, "high": 1, "low": 1}', "23502"),
        ('{"time": "T", "price": 1}', "23502"),
        ('{"symbol": "A", "price": 1}', "23502"),
        ('{"symbol": "", "time": "T", "price": 1}', "22P02"),
        ('{"symbol": "A\\u0000", "time": "T", "price": 1}', "22P02"),
        ('{"symbol": "\\ud800", "time": "T", "price": 1}', "22P02"),
        ('{"symbol": "A", "time": 1704124800, "price": 1}', "22007"),
        ('{"symbol": "A", "time": "2024-01-01T16:00:00", "price": 1}', "22007"),
        ('{"symbol": "A", "time": "now", "price": 1}', "22007"),
        ('{"symbol": "A", "time": "T", "price": 1, "volume": "much"}', "22P02"),
    ],
)
def test_a_line_that_is_no_bar_has_a_code(text: str | bytes, code: str) -> None:
    text = text.replace('"T"', f'"{TIME}"') if isinstance(text, str) else text
    with pytest.raises(Bad) as caught:
        read(text)
    assert caught.value.code == code


# --- lines ---


def test_bars_come_in_exactly(db: Conn, start: Start) -> None:
    follow = start(*FOLLOW)
    follow.write(
        f'{{"symbol": "AAA", "logical_time": "{TIME}", "open": 0.1, "high": 0.30000000, "low": 0.10000000, "close": 0.2, "volume": 7}}',
        f'{{"symbol": "B%s,\\\\C", "logical_time": "{TIME}", "price": 99999999999.12345678}}',
        "",
        bar("AAA", 1, "0.123456785"),
    )
    assert follow.end() == 0, follow.err
    assert follow.err == ""
    assert follow.out.startswith("feed f: 3 rows stored, 0 unchanged, 0 skipped; 2024-01-01T16:00:00Z to 2024-01-02")
    big, small = Decimal("99999999999.12345678"), Decimal("0.12345679")
    assert bars(db) == [
        ("AAA", at(0), *map(Decimal, ("0.1", "0.3", "0.1", "0.2", "7"))),
        ("B%s,\\C", at(0), big, big, big, big, None),
        ("AAA", at(1), small, small, small, small, None),
    ]
    assert [s for (s,) in db.execute("select symbol from instrument order by 1")] == ["AAA", "B%s,\\C"]


def test_bars_of_one_time_are_stored_together_when_a_later_one_comes(db: Conn, start: Start) -> None:
    follow = start(*FOLLOW, "--flush", "3600")
    follow.write(bar("AAA", 0, 1), bar("BBB", 0, 2), bar("AAA", 1, 3))
    follow.until(lambda: count(db), "the first time is stored")
    assert [(symbol, time) for symbol, time, *_ in bars(db)] == [("AAA", at(0)), ("BBB", at(0))]
    follow.write(bar("CCC", 0, 5))  # late: by itself, and without parting those that wait
    follow.until(lambda: count(db) == 3, "the late bar is stored")
    follow.write(bar("BBB", 1, 4))
    assert follow.end() == 0
    together = "select count(distinct xmin::text), count(*) from price_bar where logical_time = %s and symbol <> 'CCC'"
    for n in (0, 1):
        assert db.execute(together, [at(n)]).fetchall() == [(1, 2)]


def test_what_stands_alone_is_stored_after_a_while(db: Conn, start: Start) -> None:
    follow = start(*FOLLOW, "--flush", "0.05")
    for n in range(3):
        follow.write(bar("AAA", n, 1))
        follow.until(lambda n=n: count(db) == n + 1, "the bar is stored")
    assert follow.end() == 0


def test_bad_lines_are_named_and_left_out(db: Conn, start: Start) -> None:
    follow = start(*FOLLOW)
    follow.write(
        bar("AAA", 0, 1),
        "nonsense",
        bar("BBB", 0, -1),
        bar("CCC", 0, 10**12),
        bar("DDD", 0, 1, volume=-1),
        {"symbol": "EEE", "logical_time": TIME, "open": 1, "high": 2, "low": 1.5, "close": 2},
        bar("FFF", 0, 1) | {"logical_time": "1850-01-01T00:00:00Z"},
        bar("GGG", 0, 2),
        bar("GGG", 0, 2),  # again
        bar("GGG", 0, 3),  # another
        bar("GGG", 1, 4),
    )
    assert follow.end() == 1
    assert sorted(problems(follow.err)) == [(2, "22032"), (3, "23514"), (4, "22003"), (5, "23514"), (6, "23514"), (7, "22008"), (10, "23505")]  # fmt: skip
    assert "3 rows stored, 1 unchanged, 7 skipped" in follow.out
    assert [(symbol, close) for symbol, *_, close, _ in bars(db)] == [("AAA", 1), ("GGG", 2), ("GGG", 4)]
    assert value(db, "select string_agg(symbol, ' ' order by symbol) from instrument") == "AAA GGG"


@pytest.mark.parametrize(
    ("bad", "code"), [("nonsense", "22032"), (bar("BBB", 0, -1), "23514"), (bar("AAA", 0, 7), "23505")]
)
def test_strict_stops_at_the_first_bad_line(db: Conn, start: Start, bad: object, code: str) -> None:
    follow = start(*FOLLOW, "--strict", "--json")
    follow.write(bar("AAA", 0, 1), bad, bar("CCC", 0, 1), "more nonsense", bar("AAA", 1, 1))
    assert follow.process.wait(60) == 1  # though its input has not ended
    assert follow.err.count("\n") == 1
    assert f'"line": 2, "code": "{code}"' in follow.err
    assert [(symbol, close) for symbol, *_, close, _ in bars(db)] == [("AAA", 1)]


def test_stored_bars_never_change(db: Conn, start: Start) -> None:
    lines = [bar("AAA", n, n + 1) for n in range(3)]
    for expected in ("3 rows stored, 0 unchanged, 0 skipped", "0 rows stored, 3 unchanged, 0 skipped"):
        follow = start(*FOLLOW)
        follow.write(*lines)
        assert follow.end() == 0
        assert expected in follow.out
    before = bars(db)
    follow = start(*FOLLOW)
    follow.write(bar("AAA", 1, 9), bar("AAA", 2, 3, volume=1), bar("AAA", 3, 4))
    assert follow.end() == 1
    assert problems(follow.err) == [(1, "23505"), (2, "23505")]
    assert bars(db)[:3] == before
    assert count(db) == 4


def test_workers_are_told_of_each_batch_and_of_loads(db: Conn, start: Start, connect: Any) -> None:
    listener = session(connect)
    listener.execute("listen papertick_bars")
    for stored in (True, False):
        follow = start(*FOLLOW)
        follow.write(bar("AAA", 0, 1), bar("BBB", 0, 2), bar("AAA", 1, 3))
        assert follow.end() == 0
        heard = [n.payload for n in listener.notifies(timeout=0.2 if not stored else 10, stop_after=2)]
        assert heard == (["f", "f"] if stored else [])
    load = start("feed", "load", "-", "--feed", "g")
    load.write("symbol,time,open,high,low,close", f"AAA,{TIME},1,1,1,1")
    assert load.end() == 0
    assert [n.payload for n in listener.notifies(timeout=10, stop_after=1)] == ["g"]


def test_dates_stand_for_closes_and_bars_outside_sessions_are_counted(db: Conn, start: Start) -> None:
    db.execute("insert into calendar values ('C')")
    db.execute("insert into market_session values ('C', '2024-01-01', '2024-01-01 09:00Z', '2024-01-01 16:00Z')")
    follow = start(*FOLLOW, "--calendar", "C")
    follow.write(
        *({"symbol": "A", "date": when, "price": 1} for when in ("2024-01-01", "2024-01-01T17:00:00Z", "2024-01-02"))
    )
    assert follow.end() == 1
    assert problems(follow.err) == [(3, "TE203")]
    assert [time for _, time, *_ in bars(db)] == [at(0), at(0).replace(hour=17)]
    assert "1 bar lies outside every session" in follow.out
    assert start(*FOLLOW, "--calendar", "ALWAYS").end() == 1
    assert start("feed", "follow", "/nonexistent").end() == 2


# --- ended, cut off, connected again ---


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stores_what_has_come(db: Conn, start: Start, number: int) -> None:
    follow = start(*FOLLOW, "--flush", "3600")
    follow.write(bar("AAA", 0, 1), bar("AAA", 1, 2))
    follow.until(lambda: count(db) == 1, "the first is stored")
    assert follow.stop(number) == 0
    assert count(db) == 2


def test_a_line_that_is_cut_off_is_a_bad_line(db: Conn, start: Start) -> None:
    follow = start(*FOLLOW)
    follow.write(bar("AAA", 0, 1))
    assert follow.process.stdin
    follow.process.stdin.write(b'{"symbol": "AAA", "logi')
    assert follow.end() == 1
    assert problems(follow.err) == [(2, "22032")]
    assert count(db) == 1


def test_an_overlong_line_costs_itself(db: Conn, start: Start) -> None:
    follow = start(*FOLLOW)
    follow.write(bar("AAA", 0, 1), b"x" * (3 * MAX_LINE), bar("AAA", 1, 1))
    assert follow.end() == 1
    assert problems(follow.err) == [(2, "54000")]
    assert count(db) == 2


def test_a_lost_connection_costs_nothing(db: Conn, start: Start) -> None:
    follow = start(*FOLLOW, "--flush", "0")
    kill = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'papertick' and datname = current_database()"
    for n in range(4):
        follow.write(bar("AAA", n, 1))
        follow.until(lambda n=n: count(db) == n + 1, "the bar is stored")
        db.execute(kill)
    follow.write(*(bar("AAA", n, 1) for n in range(4, 200)))
    follow.until(lambda: count(db) > 20, "it is at work")
    db.execute(kill)
    assert follow.end() == 0, follow.err
    assert count(db) == 200


def test_a_pipe_makes_a_live_session(db: Conn, start: Start) -> None:
    """follow in one process, worker in another: the same rows as ticks one by one over the same bars."""
    db.execute("insert into instrument (symbol) values ('AAA'), ('BBB'); insert into feed values ('f')")
    run = make_busy_run(db, run=make_run(db, feed="f"))
    worker = start("worker", "--poll", "3600", "--settle", "0.05", "--json")
    worker.until(lambda: listeners(db), "it listens")
    follow = start(*FOLLOW)
    days, last = 12, "select max(logical_time) from mtm_ledger where user_id = %s and run_id = %s"
    for n in range(days):
        follow.write(bar("AAA", n, f"{100 + n % 7}.05"), bar("BBB", n, f"{50 - n % 5}.10"))
        if n % 4 == 0:
            worker.until(lambda n=n: value(db, last, run) == at(n), f"time {n} is ticked")
    assert follow.end() == 0
    worker.until(lambda: value(db, last, run) == at(days - 1), "the last time is ticked")
    stop(db, run)
    twin = make_busy_run(db, run=make_run(db, feed="f"))
    for n in range(days):
        tick(db, twin, n)
    stop(db, twin)
    assert digest(db, run) == digest(db, twin)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_it_reads_a_named_pipe(db: Conn, start: Start, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    follow = start("feed", "follow", tmp_path / "pipe", "--feed", "f")
    (tmp_path / "pipe").write_text(f'{{"symbol": "AAA", "time": "{TIME}", "price": 1}}\n')
    assert follow.end() == 0, follow.err
    assert count(db) == 1
