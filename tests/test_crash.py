"""Whole or not at all: backends and servers killed in the middle of a tick, rows that cannot be written, statements
that run out of time."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psycopg
import pytest
from helpers import (
    Conn,
    Run,
    at,
    counts,
    digest,
    make_bars,
    make_busy_run,
    make_run,
    pid_of,
    place,
    raises,
    rows,
    snapshot,
    status_of,
    stop,
    tick,
    unchanged,
    value,
    wait_until,
    wait_until_blocked,
)
from psycopg.conninfo import make_conninfo

from engine_py import install
from engine_py.throwaway import Throwaway, start_throwaway

# All that one tick of a busy run writes.
WRITTEN = (
    *(
        "engine_state",
        "paper_order",
        "paper_trade",
        "paper_position",
        "cash_ledger",
        "event_ledger",
        "sip_plan",
    ),
    *("rebalance_plan", "mtm_ledger", "paper_equity_curve"),
)

Open = Callable[[], Conn]
killing = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")


def market(conn: Conn, days: int = 12) -> None:
    make_bars(conn, "AAA", [100 + n % 7 for n in range(days)])
    make_bars(conn, "BBB", [50 + n % 5 for n in range(days)])


def trigger(conn: Conn, table: str, body: str, *args: object) -> None:
    """After each row that is inserted or updated there."""
    conn.execute(f"create or replace function test_{table}() returns trigger language plpgsql as $$ {body} $$")
    conn.execute(
        f"create or replace trigger test after insert or update on {table} for each row"
        f" execute function test_{table}({', '.join(map(str, args))})"
    )


# --- killed: on a server of our own, because a crash ends every session of its server ---


@pytest.fixture(scope="module")
def crashable() -> Iterator[Throwaway]:
    """A durable server with a database `template`, in which papertick and a market are installed."""
    server = start_throwaway(durable=True)
    try:
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            conn.execute("create database template")
        with psycopg.connect(make_conninfo(server.dsn, dbname="template"), autocommit=True) as conn:
            install.install(conn)
            market(conn)
        yield server
    finally:
        server.stop()


@pytest.fixture
def open_db(crashable: Throwaway) -> Iterator[Open]:
    """Opens connections to a fresh database there, waiting out a recovery. Its rows are checked at the end."""
    dsn = make_conninfo(crashable.dsn, dbname="victim")
    with ExitStack() as stack:

        def connect() -> Conn:
            deadline = time.monotonic() + 10
            while True:
                try:
                    conn = psycopg.connect(dsn, autocommit=True, options="-c lock_timeout=20s")
                    return stack.enter_context(conn)
                except psycopg.OperationalError:
                    assert time.monotonic() < deadline, "the server did not recover within 10 s"
                    time.sleep(0.01)

        with psycopg.connect(crashable.dsn, autocommit=True) as admin:
            admin.execute("drop database if exists victim with (force)")
            admin.execute("create database victim template template")
        yield connect
        assert connect().execute("select * from violations").fetchall() == []


def kill_backend(pid: int, witness: Conn) -> None:
    """Return when the server has noticed, and has ended its other sessions too."""

    def is_gone() -> bool:
        try:
            witness.execute("select 1")
        except psycopg.OperationalError:
            return True
        return False

    os.kill(pid, signal.SIGKILL)
    wait_until(is_gone, "the server notices the crash")


def block_and_kill(open_db: Open, table: str, run: Run, n: int, kill: Callable[[int, Conn], None]) -> None:
    """Tick; when it has written to `table` it waits for us, and then `kill` ends it there."""
    holder, observer, ticker = open_db(), open_db(), open_db()
    trigger(holder, table, "begin perform pg_advisory_xact_lock_shared(42); return null; end")
    holder.execute("select pg_advisory_lock(42)")
    with ThreadPoolExecutor() as pool:
        ticked = pool.submit(tick, ticker, run, n)
        wait_until_blocked(observer, pid_of(ticker), by=pid_of(holder))
        kill(pid_of(ticker), observer)
        assert isinstance(ticked.exception(timeout=20), psycopg.OperationalError)


@killing
@pytest.mark.parametrize("table", ["paper_trade", "event_ledger", "sip_plan", "mtm_ledger", "paper_equity_curve"])
def test_killed_backend_leaves_nothing_and_the_retry_everything(open_db, table):
    db = open_db()
    twin, run = make_busy_run(db), make_busy_run(db)
    for n in (0, 1):
        tick(db, twin, n)
    tick(db, run, 0)
    before = snapshot(db, run)

    block_and_kill(open_db, table, run, 1, kill_backend)
    db = open_db()
    assert snapshot(db, run) == before
    tick(db, run, 1)
    assert digest(db, run) == digest(db, twin)


@killing
def test_killed_server_keeps_what_it_acknowledged(open_db, crashable):
    db = open_db()
    twin, run = make_busy_run(db), make_busy_run(db)
    for n in range(6):
        tick(db, twin, n)
    for n in range(4):
        tick(db, run, n)
    before = snapshot(db, run)

    block_and_kill(open_db, "mtm_ledger", run, 4, lambda *_: crashable.kill())
    crashable.start()
    db = open_db()
    assert snapshot(db, run) == before
    for n in range(6):  # from the start again: what is done stays done
        tick(db, run, n)
    assert digest(db, run) == digest(db, twin)


@killing
def test_backends_killed_at_any_moment_lose_nothing(open_db):
    db = open_db()
    twin, run = make_busy_run(db), make_busy_run(db)
    for n in range(12):
        tick(db, twin, n)
    dice = random.Random(3)
    acknowledged, kills = -1, 0
    for table in WRITTEN:  # make a tick long enough to be hit
        trigger(db, table, "begin perform pg_sleep(0.0005); return null; end")

    def ticking(conn: Conn) -> None:
        nonlocal acknowledged
        for n in range(max(acknowledged, 0), 12):
            tick(conn, run, n)
            acknowledged = n

    with ThreadPoolExecutor() as pool:
        while acknowledged < 11:
            client, db = open_db(), open_db()
            last = value(client, "select last_logical_time from engine_state where run_id = %s", [run.run_id])
            assert acknowledged == -1 or last >= at(acknowledged)
            ticked = pool.submit(ticking, client)
            if kills < 4:
                time.sleep(dice.uniform(0.005, 0.08))  # any moment is a good one
                kill_backend(pid_of(client), db)
                kills += 1
            error = ticked.exception(timeout=30)
            assert error is None or isinstance(error, psycopg.OperationalError)
    assert kills == 4
    assert digest(open_db(), run) == digest(open_db(), twin)


@killing
def test_fi_01_crash_between_trade_and_mark(open_db, crashable):
    db = open_db()
    run = make_busy_run(db)
    assert value(db, "select try_execute_sip(%s, %s, %s)", [*run, at(0)]) == 1
    crashable.kill()
    crashable.start()

    db = open_db()
    assert [e["event_type"] for e in rows(db, "event_ledger", run)] == ["SIP_EXECUTED"]
    assert counts(db, run)["paper_trade"] == 1
    assert rows(db, "mtm_ledger", run) == []
    assert [value(db, "select log_mtm(%s, %s, %s)", [*run, at(0)]) for _ in range(3)] == [True, False, False]
    assert len(rows(db, "mtm_ledger", run)) == 1


# --- a row that cannot be written ---

_FAIL_AT = """
declare n int := current_setting('test.n')::int + 1;
begin
  perform set_config('test.n', n::text, false);
  if n = tg_argv[0]::int then raise exception 'row %', n using errcode = 'ZZ001'; end if;
  return null;
end"""


def fail_at_every_row(db: Conn, table: str, run: Run, action: Callable[[], None]) -> int:
    """Let the n-th row written to `table` fail, for every n: each time nothing changes. Returns the last n."""
    db.execute("select set_config('test.n', '0', false)")
    trigger(db, table, _FAIL_AT, 0)
    with db.transaction(force_rollback=True):
        action()
        written = int(value(db, "show test.n"))
    for n in range(1, written + 1):
        trigger(db, table, _FAIL_AT, n)
        with unchanged(db, run), raises("ZZ001"):
            action()
    db.execute(f"drop trigger test on {table}")
    return written


@pytest.mark.parametrize("table", WRITTEN)
def test_tick_that_fails_at_any_row_of_any_table_leaves_nothing(db, table):
    market(db)
    twin, run = make_busy_run(db), make_busy_run(db)
    for n in (0, 1):
        place(db, twin, "AAA", "BUY", 2)
        tick(db, twin, n)
        place(db, run, "AAA", "BUY", 2)
        assert fail_at_every_row(db, table, run, lambda n=n: tick(db, run, n)) > 0
        tick(db, run, n)
        assert digest(db, run) == digest(db, twin)


@pytest.mark.parametrize("table", ["mtm_ledger", "paper_trade", "engine_state"])
def test_replay_that_fails_at_any_row_leaves_nothing(db, table):
    market(db)
    twin, run = make_busy_run(db), make_busy_run(db)
    replay = "call replay(%s, %s, %s, %s)"
    db.execute(replay, [*twin, at(0), at(4)])
    written = fail_at_every_row(db, table, run, lambda: db.execute(replay, [*run, at(0), at(4)]))
    assert written >= (2 if table == "engine_state" else 5)  # the state is written once for many ticks
    db.execute(replay, [*run, at(0), at(4)])
    assert digest(db, run) == digest(db, twin)


def test_replay_in_many_transactions_is_finished_by_calling_it_again(db):
    market(db)
    twin, run = make_busy_run(db), make_busy_run(db)
    db.execute("call replay(%s, %s, %s, %s)", [*twin, at(0), at(9)])
    db.execute("select set_config('test.n', '0', false)")
    trigger(db, "mtm_ledger", _FAIL_AT, 5)
    replay = "call replay(%s, %s, %s, %s, 1)"
    with raises("ZZ001"):
        db.execute(replay, [*run, at(0), at(9)])
    after = counts(db, run)
    assert after["mtm_ledger"] == after["paper_equity_curve"] == 4  # committed, whole
    db.execute("drop trigger test on mtm_ledger")
    db.execute(replay, [*run, at(0), at(9)])
    assert digest(db, run) == digest(db, twin)


@pytest.mark.parametrize("table", ["paper_order", "engine_status"])
def test_stop_that_fails_at_any_row_leaves_the_run_running(db, table):
    market(db)
    run = make_busy_run(db)
    place(db, run, "AAA", "BUY", 1)
    assert fail_at_every_row(db, table, run, lambda: stop(db, run)) > 0
    assert status_of(db, run) == "RUNNING"
    stop(db, run)
    assert {o["status"] for o in rows(db, "paper_order", run)} == {"CANCELED"}


@pytest.mark.parametrize("table", ["strategy_run", "engine_state", "engine_status", "cash_ledger"])
def test_start_that_fails_leaves_no_run(db, table):
    trigger(db, table, "begin raise exception 'no' using errcode = 'ZZ001'; end")
    with raises("ZZ001"):
        make_run(db)
    assert value(db, "select count(*) from strategy_run") == 0


@pytest.mark.parametrize("table", WRITTEN)
def test_tick_all_fails_one_run_whole_and_ticks_the_others(db, table):
    market(db)
    twin, good, bad = (make_busy_run(db) for _ in range(3))
    for run in (twin, good, bad):
        tick(db, run, 0)
    tick(db, twin, 1)
    trigger(
        db,
        table,
        f"begin if new.user_id = {bad.user_id} then raise exception 'no' using errcode = '22012'; end if;"
        " return null; end",
    )
    before = snapshot(db, bad)
    db.execute("call tick_all(%s)", [at(1)])
    assert digest(db, good) == digest(db, twin)
    after = snapshot(db, bad)
    assert {t for t in after if after[t] != before[t]} == {"strategy_run", "engine_status"}
    assert status_of(db, bad) == "ERROR"
    assert rows(db, "engine_status", bad)[-1]["reason"] == "22012: no"


# --- no time ---


def test_tick_out_of_time_leaves_nothing(db):
    market(db)
    twin, run = make_busy_run(db), make_busy_run(db)
    for n in range(4):
        tick(db, twin, n)
    for table in WRITTEN:
        trigger(
            db,
            table,
            f"begin if new.run_id = {run.run_id} then perform pg_sleep(0.001); end if; return null; end",
        )

    timeouts, n = 0, 0
    for milliseconds in range(1, 500):
        before = snapshot(db, run)
        db.execute(f"set statement_timeout = {milliseconds}")
        try:
            tick(db, run, n)
        except psycopg.errors.QueryCanceled:
            db.execute("reset statement_timeout")
            assert snapshot(db, run) == before
            timeouts += 1
            continue
        db.execute("reset statement_timeout")
        assert counts(db, run)["mtm_ledger"] == n + 1
        n += 1
        if n == 4:
            break
    assert timeouts >= 10
    assert digest(db, run) == digest(db, twin)
