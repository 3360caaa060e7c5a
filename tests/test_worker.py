"""papertick worker: what is owed is ticked once, whoever is killed, held up or late."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from types import SimpleNamespace

import pytest
from helpers import (
    Conn,
    Connect,
    Run,
    at,
    counts,
    digest,
    insert,
    make_bars,
    make_busy_run,
    make_run,
    pid_of,
    raises,
    rows,
    session,
    status_of,
    stop,
    tick,
    value,
    wait_until,
    wait_until_blocked,
)
from live import Command, Start, listeners

from engine_py import worker
from engine_py.cli_base import Session
from engine_py.db import Database

FAST = ("worker", "--json", "--settle", "0", "--poll", "0.05")
DEAF = ("worker", "--json", "--settle", "0", "--poll", "3600")  # hears notifications only
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def market(conn: Conn, days: int, *, start: int = 0, feed: str = "default") -> None:
    conn.execute("insert into feed (feed) values (%s) on conflict do nothing", [feed])
    with conn.transaction():
        make_bars(conn, "AAA", [100 + (start + n) % 7 for n in range(days)], start=start, feed=feed)
        make_bars(conn, "BBB", [50 + (start + n) % 5 for n in range(days)], start=start, feed=feed)


def notify(conn: Conn, feed: str = "default") -> None:
    conn.execute("select pg_notify('papertick_bars', %s)", [feed])


def busy(conn: Conn, feed: str = "default") -> Run:
    conn.execute("insert into instrument (symbol) values ('AAA'), ('BBB') on conflict do nothing")
    return make_busy_run(conn, run=make_run(conn, feed=feed))


def twin(conn: Conn, days: int, *, first: int = 0, last: int | None = None) -> str:
    """The digest of a busy run over the same market, ticked one by one, that begins at time number `first`."""
    if not value(conn, "select count(*) from price_bar where feed = 'twin'"):
        market(conn, days, feed="twin")
    run = busy(conn, "twin")
    for n in range(first, days):
        tick(conn, run, n)
    stop(conn, run)
    return digest(conn, run)


def last_of(conn: Conn, run: Run) -> int | None:
    """The number of the run's last tick."""
    last = value(conn, "select last_logical_time from engine_state where user_id = %s and run_id = %s", run)
    return last and (last - at(0)).days


def status(conn: Conn, feed: str | None = "default", since: object = None) -> dict[str, object]:
    cursor = conn.execute("select * from feed_status(%s, %s)", [feed, since])
    (row,) = cursor.fetchall()
    return dict(zip([column.name for column in cursor.description or ()], row, strict=True))


# --- who owes what ---


def test_a_run_owes_what_comes_after_its_last_tick(tx: Conn) -> None:
    market(tx, 5)
    behind, ahead, new = make_run(tx), make_run(tx), make_run(tx)
    stopped = make_run(tx)
    stop(tx, stopped)
    tick(tx, behind, 1)
    tick(tx, ahead, 4)
    found = status(tx, since=at(3))
    assert (found["running"], found["behind"], found["not_begun"]) == (3, 2, 1)
    assert (found["first_owed_time"], found["first_owed_runs"]) == (at(2), 1)
    assert (found["last_owed_time"], found["last_owed_runs"]) == (at(3), 1)
    assert (found["oldest_logical_time"], found["lag"]) == (at(1), timedelta(days=3))
    assert (found["newest_bar_time"], found["newest_bars"], found["starts_at"]) == (at(4), 2, at(3))
    tx.execute("call tick_all(%s, p_since => %s)", [at(4), at(4)])
    assert [last_of(tx, run) for run in (behind, ahead, new)] == [1, 4, 4]


@pytest.mark.parametrize(
    ("since", "owed"), [(None, 4), (-1, 0), (2, 2), (2.5, 3), (4, 4), (4.5, None), ("-infinity", 0)]
)
def test_where_a_new_run_begins(tx: Conn, since: float | str | None, owed: int | None) -> None:
    market(tx, 5)
    make_run(tx)
    found = status(tx, since=at(since) if isinstance(since, int | float) else since)["first_owed_time"]
    assert found == (None if owed is None else at(owed))


def test_a_step_called_alone_is_where_a_run_has_begun(tx: Conn) -> None:
    market(tx, 5)
    new, old = make_run(tx), make_run(tx)
    tick(tx, old, 0)
    for run in (new, old):
        tx.execute("select log_mtm(%s, %s, %s)", [*run, at(2)])
    found = status(tx)
    assert (found["first_owed_time"], found["first_owed_runs"], found["not_begun"]) == (at(2), 2, 0)
    tx.execute("call tick_all(%s, p_since => %s)", [at(2), at(4)])
    assert [last_of(tx, run) for run in (new, old)] == [2, 2]


def test_late_bars_are_owed_by_nobody(tx: Conn) -> None:
    market(tx, 5)
    run = make_run(tx)
    tick(tx, run, 4)
    make_bars(tx, "CCC", [7, 7, 7, 7, 7])
    insert(tx, "price_bar", dict(zip(("feed", "symbol", "logical_time"), ("default", "CCC", at(1.5)), strict=True)) | dict.fromkeys(("open", "high", "low", "close"), 5))  # fmt: skip
    assert status(tx)["behind"] == 0


def test_what_is_owed_ends_where_the_calendar_does(tx: Conn) -> None:
    tx.execute("insert into calendar values ('C'); insert into feed values ('c', 'C')")
    tx.execute("insert into market_session values ('C', '2024-01-01', '2024-01-01 09:00Z', '2024-01-01 16:00Z')")
    market(tx, 3, feed="c")
    run = make_run(tx, feed="c")
    found = status(tx, "c", at(0))
    assert (found["behind"], found["first_owed_time"], found["last_owed_time"], found["known_until"]) == (
        1,
        at(0),
        at(0),
        at(0),
    )
    tick(tx, run, 0)
    assert status(tx, "c")["behind"] == 0
    assert status(tx, "c")["newest_bar_time"] == at(2)


def test_feeds_that_nobody_follows_have_no_status_unless_asked_for(tx: Conn) -> None:
    tx.execute("insert into feed values ('b'), ('a'), ('c')")
    for feed in ("a", "c"):
        make_run(tx, feed=feed)
    stop(tx, make_run(tx, feed="b"))
    assert [feed for (feed,) in tx.execute("select feed from feed_status()")] == ["a", "c"]
    assert status(tx, "b")["running"] == 0
    with raises("TE201", conn=tx):
        status(tx, "nowhere")


# --- one worker ---


@pytest.mark.parametrize(("since", "first"), [("latest", 5), ("first", 0), ("2024-01-03T00:00:00Z", 2)])
def test_once_catches_up_and_starts_nobody_too_early(db: Conn, start: Start, since: str, first: int) -> None:
    market(db, 6)
    behind, new = busy(db), busy(db)
    tick(db, behind, 0)
    command = start("worker", "--once", "--settle", "0", "--since", since)
    assert command.end() == 0, command.err
    assert command.out == ""
    assert digest(db, behind) == twin(db, 6)
    assert digest(db, new) == twin(db, 6, first=first)
    assert value(db, "select min(logical_time) from mtm_ledger where user_id = %s", [new.user_id]) == at(first)


def test_bars_are_heard_of(db: Conn, start: Start) -> None:
    market(db, 1)
    run = busy(db)
    command = start(*DEAF)

    def is_idle_at(n: int) -> bool:
        return last_of(db, run) == n and bool(listeners(db))

    command.until(lambda: is_idle_at(0), "the first tick")
    market(db, 3, start=1)
    notify(db)
    command.until(lambda: is_idle_at(3), "the bars that were announced")
    market(db, 1, start=4)
    notify(db, "")  # of some feed
    command.until(lambda: is_idle_at(4), "the bars of some feed")
    notify(db, "no such feed")
    market(db, 1, start=5)
    notify(db)
    command.until(lambda: is_idle_at(5), "the bars after a word that means nothing")
    command.until(lambda: len(command.events("advance")) == 6, "it has said so")
    assert [e["lag_seconds"] // 86400 for e in command.events("advance")] == [0, 2, 1, 0, 0, 0]
    assert digest(db, run) == twin(db, 6)


def test_bars_that_nobody_announces_are_found(db: Conn, start: Start) -> None:
    run = busy(db)
    market(db, 1)
    command = start(*FAST)
    command.until(lambda: last_of(db, run) == 0, "the first tick")
    market(db, 3, start=1)
    command.until(lambda: last_of(db, run) == 3, "the bars that were polled for")


def test_only_the_feeds_it_was_told(db: Conn, start: Start) -> None:
    for feed in ("a", "b", "c"):
        market(db, 2, feed=feed)
    runs = [busy(db, feed) for feed in ("a", "b", "c")]
    assert start("worker", "--once", "--settle", "0", "--feed", "a", "--feed", "c").end() == 0
    assert [last_of(db, run) for run in runs] == [1, None, 1]


def test_the_newest_time_waits_and_the_older_do_not(db: Conn, start: Start) -> None:
    run = busy(db)
    market(db, 3)
    command = start("worker", "--json", "--poll", "0.05", "--settle", "3600", "--since", "first")
    command.until(lambda: last_of(db, run) == 1, "what is not the newest")
    market(db, 1, start=3)
    notify(db)
    command.until(lambda: last_of(db, run) == 2, "what is not the newest any more")


def test_a_further_bar_of_the_newest_time_begins_the_wait_again(
    db: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, clock = busy(db), [100.0]
    market(db, 1)
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with Database(dsn) as database:
        loop = worker.Worker(Session(database), worker.Settings(settle=0.5), lambda _: None)
        loop._look_at("default")
        clock[0] += 0.4
        make_bars(db, "CCC", [7])
        loop._look_at("default")
        clock[0] += 0.4
        loop._look_at("default")
        assert last_of(db, run) is None
        clock[0] += 0.2
        loop._look_at("default")
        assert last_of(db, run) == 0


def test_a_run_that_fails_fails_alone(db: Conn, start: Start) -> None:
    market(db, 4)
    runs = [busy(db) for _ in range(3)]
    db.execute(
        f"""create function fail() returns trigger language plpgsql as $$ begin
              if new.user_id = {runs[1].user_id} and new.logical_time = '{at(2)}' then raise exception using errcode = '22003'; end if;
              return new; end $$;
            create trigger fail before insert on mtm_ledger for each row execute function fail()"""
    )
    command = start(*FAST, "--once", "--since", "first")
    assert command.end() == 1
    db.execute("drop trigger fail on mtm_ledger")
    assert [status_of(db, run) for run in runs] == ["RUNNING", "ERROR", "RUNNING"]
    assert [last_of(db, run) for run in runs] == [3, 1, 3]
    assert [e["run_id"] for e in command.events("failed")] == [runs[1].run_id]
    assert digest(db, runs[0]) == digest(db, runs[2]) == twin(db, 4)


def test_a_feed_past_its_calendar_waits_and_the_others_go_on(db: Conn, start: Start) -> None:
    db.execute("insert into calendar values ('C'); insert into feed values ('c', 'C')")
    db.execute("insert into market_session values ('C', '2024-01-01', '2024-01-01 09:00Z', '2024-01-01 16:00Z')")
    market(db, 3, feed="c")
    market(db, 1)
    waiting, other = busy(db, "c"), busy(db)
    command = start(*FAST, "--since", "first")
    command.until(lambda: last_of(db, waiting) == 0 and last_of(db, other) == 0, "both are as far as they can be")
    market(db, 3, start=1)
    command.until(lambda: last_of(db, other) == 3, "the other goes on")
    assert last_of(db, waiting) == 0
    assert [(e["feed"], e["code"]) for e in command.events("waiting")] == [("c", "TE203")]
    db.execute(
        """insert into market_session select 'C', d, d + interval '9 hours', d + interval '16 hours'
             from generate_series(timestamptz '2024-01-02 00:00Z', '2024-01-09 00:00Z', '1 day') d"""
    )
    command.until(lambda: last_of(db, waiting) == 2, "the calendar goes on")


def test_a_run_that_is_held_does_not_hold_up_the_others(db: Conn, start: Start, connect: Connect) -> None:
    market(db, 1)
    held, free = busy(db), busy(db)
    command = start(*FAST)
    command.until(lambda: last_of(db, held) == last_of(db, free) == 0, "the first ticks")
    other = session(connect, autocommit=False)
    other.execute("select from strategy_run where user_id = %s and run_id = %s for update", held)
    for n in range(1, 4):
        market(db, 1, start=n)
        command.until(lambda n=n: last_of(db, free) == n, f"time {n} of the free run")
    assert last_of(db, held) == 0
    assert command.events("retry")[0]["code"] == "55P03"
    other.rollback()
    command.until(lambda: last_of(db, held) == 3, "the held run has caught up")
    assert digest(db, held) == digest(db, free) == twin(db, 4)


def test_those_that_lag_and_those_that_do_not_take_turns(db: Conn, dsn: str) -> None:
    market(db, 12)
    lagging, ahead = busy(db), busy(db)
    tick(db, lagging, 0)
    for n in range(9):
        tick(db, ahead, n)
    said: list[dict[str, object]] = []
    with Database(dsn) as database:
        loop = worker.Worker(Session(database), worker.Settings(settle=0), said.append)
        for _ in range(20):
            loop._look_at("default")
    assert [e["logical_time"] for e in said] == [at(n) for n in (9, 1, 10, 2, 11, 3, 4, 5, 6, 7, 8, 9, 10, 11)]
    assert digest(db, lagging) == digest(db, ahead) == twin(db, 12)


def test_a_run_that_owes_an_earlier_time_is_not_even_waited_for(db: Conn, connect: Connect) -> None:
    market(db, 3)
    behind, ahead = make_run(db), make_run(db)
    tick(db, behind, 0)
    tick(db, ahead, 1)
    other = session(connect, autocommit=False)
    other.execute("select from strategy_run where user_id = %s for update", [behind.user_id])
    db.execute("set lock_timeout = '10ms'")
    db.execute("call tick_all(%s, 'default', 10, %s)", [at(2), at(2)])
    other.rollback()
    assert [last_of(db, run) for run in (behind, ahead)] == [0, 2]


def test_a_run_that_begins_in_between_does_not_leap(
    db: Conn, connect: Connect, background: Callable[..., Future[object]]
) -> None:
    market(db, 3)
    run = make_run(db)
    other, ticker = session(connect, autocommit=False), session(connect)
    tick(other, run, 0)
    done = background(ticker.execute, "call tick_all(%s, 'default', 10, %s)", [at(2), at(2)])
    wait_until_blocked(db, pid_of(ticker), by=pid_of(other))
    other.commit()
    done.result(timeout=20)
    assert last_of(db, run) == 0


# --- several ---


@pytest.fixture
def ticks_by(db: Conn) -> Iterator[None]:
    """Notes which backend has ticked whom and when."""
    db.execute(
        """create table ticked (pid int, user_id bigint, logical_time timestamptz);
           create function note() returns trigger language plpgsql security definer as $$ begin
             insert into ticked values (pg_backend_pid(), new.user_id, new.logical_time); return null; end $$;
           create trigger note after insert on mtm_ledger for each row execute function note()"""
    )
    yield
    db.execute("drop trigger note on mtm_ledger; drop function note; drop table ticked")


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_share_the_runs_of_a_feed(db: Conn, start: Start, ticks_by: None, workers: int) -> None:
    runs, days = [busy(db) for _ in range(24)], 30
    commands = [start(*DEAF, "--batch", "3", "--since", "first") for _ in range(workers)]
    commands[0].until(lambda: len(listeners(db)) == workers, "all workers listen")
    market(db, days)
    notify(db)
    commands[0].until(lambda: all(last_of(db, run) == days - 1 for run in runs), "all runs are there")
    assert value(db, "select count(*) from ticked") == 24 * days
    assert value(db, "select count(*) from (select distinct user_id, logical_time from ticked) t") == 24 * days
    assert value(db, "select count(*) from (select pid from ticked group by pid having count(*) > 20) t") == workers
    assert {digest(db, run) for run in runs} == {twin(db, days)}
    assert {command.process.poll() for command in commands} == {None}


# --- ended ---


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(db: Conn, start: Start, number: int) -> None:
    market(db, 1)
    run = busy(db)
    command = start(*DEAF)
    command.until(lambda: last_of(db, run) == 0 and listeners(db), "it has nothing to do")
    assert command.stop(number) == 0
    assert command.err == ""


@posix
def test_a_signal_in_the_middle_leaves_whole_ticks(db: Conn, start: Start) -> None:
    runs, days = [busy(db) for _ in range(10)], 60
    market(db, days)
    command = start(*FAST, "--since", "first", "--batch", "2")
    command.until(lambda: (last_of(db, runs[0]) or 0) >= 3, "it is under way")
    assert command.stop(signal.SIGTERM) == 0
    assert last_of(db, runs[0]) < days - 1
    assert value(db, "select count(*) from violations") == 0
    assert start(*FAST, "--since", "first", "--once").end() == 0
    assert {digest(db, run) for run in runs} == {twin(db, days)}


@posix
def test_a_second_signal_ends_the_statement(db: Conn, start: Start, connect: Connect) -> None:
    market(db, 1)
    run = busy(db)
    holder = session(connect)
    holder.execute("select pg_advisory_lock(42)")
    db.execute(
        """create function block() returns trigger language plpgsql as $$ begin
             set local lock_timeout = 0; perform pg_advisory_xact_lock(42); return null; end $$;
           create trigger block after insert on mtm_ledger for each row execute function block()"""
    )
    command = start(*DEAF)
    blocked = "select pid from pg_stat_activity where wait_event_type = 'Lock' and query ~ 'tick_all'"
    command.until(lambda: value(db, blocked), "the tick waits")
    wait_until_blocked(db, value(db, blocked), by=pid_of(holder))
    begun, signals = time.monotonic(), 0

    def has_ended() -> bool:
        nonlocal signals
        if time.monotonic() - begun > signals * 0.5:  # those that come together count once
            command.process.send_signal(signal.SIGTERM)
            signals += 1
        return command.process.poll() is not None

    wait_until(has_ended, "the statement is canceled")
    assert command.process.returncode == 0
    assert time.monotonic() - begun < worker._GRACE
    assert last_of(db, run) is None
    assert counts(db, run)["mtm_ledger"] == 0
    assert status_of(db, run) == "RUNNING"
    db.execute("drop trigger block on mtm_ledger")


@posix
def test_killed_anywhere_it_ends_in_the_same_rows(db: Conn, start: Start) -> None:
    runs, days = [busy(db) for _ in range(6)], 40
    market(db, days)
    total = "select count(*) from mtm_ledger"
    for goal in (1, 40, 77, 150):
        command = start(*FAST, "--since", "first", "--batch", "2")
        command.until(lambda goal=goal: value(db, total) >= goal, f"{goal} ticks")
        assert command.stop(signal.SIGKILL) == -signal.SIGKILL
    assert value(db, total) < 6 * days
    assert start(*FAST, "--since", "first", "--once").end() == 0
    assert {digest(db, run) for run in runs} == {twin(db, days)}


def test_a_lost_connection_is_made_again(db: Conn, start: Start) -> None:
    run, days = busy(db), 80
    market(db, days)
    command = start(*DEAF, "--since", "first")
    kill = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'papertick' and datname = current_database()"
    for goal in (2, 30, days - 1):  # twice at work
        command.until(lambda goal=goal: (last_of(db, run) or 0) >= goal, f"tick {goal}")
        heard = len(command.events("connected"))
        db.execute(kill)
        command.until(lambda heard=heard: len(command.events("connected")) > heard, "it is back")
    command.until(lambda: listeners(db), "it is idle")
    db.execute(kill)
    command.until(lambda: len(command.events("connected")) == 4 and listeners(db), "it is back")
    market(db, 1, start=days)
    notify(db)
    command.until(lambda: last_of(db, run) == days, "it listens again")
    assert digest(db, run) == twin(db, days + 1)


# --- what it prints ---


def test_status_and_refusals(db: Conn, start: Start) -> None:
    market(db, 2)
    run = make_run(db)
    tick(db, run, 0)
    command: Command = start("worker", "--status", "--json")
    assert command.end() == 0
    assert '"first_owed_time": "2024-01-02T16:00:00Z"' in command.out
    assert '"lag_seconds": 86400' in command.out
    assert last_of(db, run) == 0
    assert start("worker", "--feed", "nowhere").end() == 1
    assert start("worker", "--since", "yesterday").end() == 2
    words = start("worker", "--once", "--settle", "0")
    assert words.end() == 0
    assert words.err == "2024-01-02T16:00:00Z default: 1 runs, 0 s behind its newest bar\n"
    assert len(rows(db, "mtm_ledger", run)) == 2
