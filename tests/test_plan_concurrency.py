"""Test plan, concurrency: CC-01, CC-02. More races, and a storm of them, are in test_races."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import (
    Conn,
    Connect,
    Run,
    at,
    counts,
    digest,
    make_bars,
    make_busy_run,
    pid_of,
    raises,
    rows,
    session,
    set_status,
    status_of,
    stop,
    tick,
    unchanged,
    value,
    wait_until_blocked,
)


@pytest.fixture
def run(db: Conn) -> Run:
    make_bars(db, "AAA", [100, 110, 120])
    make_bars(db, "BBB", [50, 51, 52])
    return make_busy_run(db)


@pytest.mark.parametrize("lock", ["update", "no key update"])
def test_cc_01_status_update_waits_for_a_locked_run(db, run, connect: Connect, lock):
    a, b = session(connect, autocommit=False), session(connect)
    a.execute(f"select from strategy_run where user_id = %s and run_id = %s for {lock}", run)
    with ThreadPoolExecutor() as pool:
        done = pool.submit(set_status, b, run, "STOPPED")
        wait_until_blocked(db, pid_of(b), by=pid_of(a))
        assert status_of(db, run) == "RUNNING"
        tick(a, run, 0)
        a.commit()
        done.result(timeout=20)
    assert status_of(db, run) == "STOPPED"
    after = counts(db, run)
    assert (after["mtm_ledger"], after["paper_equity_curve"], after["engine_status"]) == (1, 1, 2)
    assert [o["status"] for o in rows(db, "paper_order", run)] == ["FILLED"] * after["paper_order"]
    with unchanged(db, run), raises("TE001"):
        tick(db, run, 1)


@pytest.mark.parametrize("ends", ["commit", "rollback"])
@pytest.mark.parametrize("way", [set_status, stop])
def test_cc_01_tick_waits_for_a_stop_and_takes_its_outcome(db, run, connect: Connect, way, ends):
    stopper, ticker = session(connect, autocommit=False), session(connect)
    way(stopper, run, "STOPPED")
    with ThreadPoolExecutor() as pool:
        done = pool.submit(tick, ticker, run, 0)
        wait_until_blocked(db, pid_of(ticker), by=pid_of(stopper))
        if ends == "commit":
            stopper.commit()
            with raises("TE001"):
                done.result(timeout=20)
        else:
            stopper.rollback()
            done.result(timeout=20)
    after = counts(db, run)
    if ends == "commit":
        assert status_of(db, run) == "STOPPED"
        assert [o["status"] for o in rows(db, "paper_order", run)] == ["CANCELED"]
        assert after["paper_trade"] == after["mtm_ledger"] == after["event_ledger"] == 0
    else:
        assert status_of(db, run) == "RUNNING"
        assert after["mtm_ledger"] == after["paper_equity_curve"] == 1


def test_cc_02_two_ticks_of_one_time_leave_one_set_of_rows(db, run, connect: Connect):
    with db.transaction(force_rollback=True):
        tick(db, run, 0)
        expected = digest(db, run)
    first, second = session(connect, autocommit=False), session(connect)
    tick(first, run, 0)
    with ThreadPoolExecutor() as pool:
        done = pool.submit(tick, second, run, 0)
        wait_until_blocked(db, pid_of(second), by=pid_of(first))
        first.commit()
        done.result(timeout=20)  # both callers succeed
    assert digest(db, run) == expected
    executed = "select count(*) from event_ledger where event_type = 'SIP_EXECUTED'"
    assert value(db, executed) == 1


def test_cc_02_second_tick_takes_over_when_the_first_fails(db, run, connect: Connect):
    with db.transaction(force_rollback=True):
        tick(db, run, 0)
        expected = digest(db, run)
    first, second = session(connect, autocommit=False), session(connect)
    tick(first, run, 0)
    with ThreadPoolExecutor() as pool:
        done = pool.submit(tick, second, run, 0)
        wait_until_blocked(db, pid_of(second))
        first.rollback()
        done.result(timeout=20)
    assert digest(db, run) == expected


def test_cc_02_ticks_queue_at_a_lock_that_ends_with_the_transaction(db, run, connect: Connect):
    held = "select granted from pg_locks where locktype = 'advisory' and pid = %s"
    first, second = session(connect, autocommit=False), session(connect)
    tick(first, run, 0)
    with ThreadPoolExecutor() as pool:
        done = pool.submit(tick, second, run, 0)
        wait_until_blocked(db, pid_of(second), by=pid_of(first))
        assert [value(db, held, [pid_of(c)]) for c in (first, second)] == [True, False]
        first.rollback()
        done.result(timeout=20)
    assert [value(db, held, [pid_of(c)]) for c in (first, second)] == [None, None]


def test_cc_02_two_sip_steps_of_one_time_execute_once(db, run, connect: Connect):
    sip = "select try_execute_sip(%s, %s, %s)"
    first, second = session(connect, autocommit=False), session(connect)
    assert value(first, sip, [*run, at(0)]) == 1
    with ThreadPoolExecutor() as pool:
        done = pool.submit(value, second, sip, [*run, at(0)])
        wait_until_blocked(db, pid_of(second))
        first.commit()
        assert done.result(timeout=20) == 0
    assert [e["event_type"] for e in rows(db, "event_ledger", run)] == ["SIP_EXECUTED"]
    assert counts(db, run)["paper_trade"] == 1
