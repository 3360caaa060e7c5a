"""Test plan, engine idempotency, crash recovery, failure: IR-01 … IR-03, FI-01. See test_crash too."""

from __future__ import annotations

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
    make_run,
    pid_of,
    raises,
    rows,
    stop,
    tick,
    unchanged,
    value,
    wait_until,
)


@pytest.fixture
def run(db: Conn) -> Run:
    make_bars(db, "AAA", [100, 110, 120])
    make_bars(db, "BBB", [50, 51, 52])
    return make_busy_run(db)


def test_ir_01_second_tick_of_a_time_changes_nothing(db, run):
    for n in range(3):
        tick(db, run, n)
        with unchanged(db, run):
            tick(db, run, n)
    tick(db, run, 0)  # a time that has long been done
    assert counts(db, run)["mtm_ledger"] == counts(db, run)["paper_equity_curve"] == 3


def test_ir_01_second_tick_answers_even_after_a_stop(db, run):
    tick(db, run, 0)
    stop(db, run)
    with unchanged(db, run):
        tick(db, run, 0)
        with raises("TE001"):
            tick(db, run, 1)


def test_ir_01_tick_never_goes_back_in_time(db, run):
    tick(db, run, 0)
    tick(db, run, 2)
    with unchanged(db, run), raises("TE003"):
        tick(db, run, 1)


def test_ir_02_exception_rolls_the_whole_tick_back(db, run):
    class Boom(Exception):
        pass

    with unchanged(db, run):
        with pytest.raises(Boom), db.transaction():  # noqa: PT012
            tick(db, run, 0)
            assert counts(db, run)["paper_trade"] > 0
            raise Boom
        with raises("22012"), db.transaction():
            tick(db, run, 0)
            db.execute("select 1 / 0")


def test_ir_02_lost_connection_rolls_the_whole_tick_back(db, run, connect: Connect):
    with unchanged(db, run):
        client = connect(autocommit=False)
        tick(client, run, 0)
        client.close()

        client = connect(autocommit=False)
        tick(client, run, 0)
        pid = pid_of(client)
        db.execute("select pg_terminate_backend(%s)", [pid])
        wait_until(lambda: not value(db, "select count(*) from pg_stat_activity where pid = %s", [pid]), "it is gone")


def test_ir_03_retry_after_a_rollback_is_exactly_once(db, run):

    with db.transaction(force_rollback=True):
        tick(db, run, 0)
        expected = digest(db, run)
    for _ in range(3):  # the retry, and retries of it
        tick(db, run, 0)
        assert digest(db, run) == expected
    events = [e["event_type"] for e in rows(db, "event_ledger", run)]
    assert sorted(events) == ["REBALANCED", "SIP_EXECUTED"]


def test_ir_03_retry_continues_where_a_crash_left_off(db, run):
    tick(db, run, 0)
    with db.transaction(force_rollback=True):
        tick(db, run, 1)
    for n in (1, 1, 2):
        tick(db, run, n)
    stop(db, run)
    other = make_busy_run(db)
    for n in range(3):
        tick(db, other, n)
    stop(db, other)
    assert digest(db, other) == digest(db, run)


def test_fi_01_sip_before_the_crash_and_one_mark_after_it(db, connect: Connect):
    make_bars(db, "AAA", [100, 110])
    run = make_run(db)
    db.execute("select create_sip(%s, %s, 'AAA', 1000, 'WEEKLY', '2024-01-01')", run)
    client = connect()
    assert value(client, "select try_execute_sip(%s, %s, %s, true)", [*run, at(0)]) == 1
    client.close()  # after the trade, before the mark

    assert counts(db, run)["paper_trade"] == counts(db, run)["event_ledger"] == 1
    assert rows(db, "mtm_ledger", run) == rows(db, "paper_equity_curve", run) == []
    log_mtm = "select log_mtm(%s, %s, %s)"
    assert [value(db, log_mtm, [*run, at(0)]) for _ in range(3)] == [True, False, False]
    (mark,) = rows(db, "mtm_ledger", run)
    assert [mark[c] for c in ("market_value", "cost_basis", "unrealized_pnl")] == [1000, 1000, 0]

    tick(db, run, 0)  # completes what is missing, and no more
    after = counts(db, run)
    assert (after["mtm_ledger"], after["paper_equity_curve"], after["paper_trade"]) == (1, 1, 1)
    assert [e["equity"] for e in rows(db, "paper_equity_curve", run)] == [10_000]
    with unchanged(db, run):
        tick(db, run, 0)


def test_fi_01_mark_in_a_transaction_that_fails_is_not_there(db, run):
    db.execute("select try_execute_sip(%s, %s, %s)", [*run, at(0)])
    with unchanged(db, run), raises("22012"), db.transaction():
        assert value(db, "select log_mtm(%s, %s, %s)", [*run, at(0)])
        db.execute("select 1 / 0")
    assert value(db, "select log_mtm(%s, %s, %s)", [*run, at(0)])


def test_fi_01_marked_time_is_closed_to_late_orders(db, run):
    assert value(db, "select log_mtm(%s, %s, %s)", [*run, at(0)])
    with unchanged(db, run):
        for step in ("match_orders", "try_execute_sip", "try_rebalance"):
            assert value(db, f"select {step}(%s, %s, %s)", [*run, at(0)]) == 0
    tick(db, run, 0)
    assert rows(db, "paper_trade", run) == rows(db, "event_ledger", run) == []
    tick(db, run, 1)  # the slots are still due
    assert len(rows(db, "event_ledger", run)) == 4  # slots 0 and 1 of the SIP and of the rebalance
