"""tick_all with commits: several workers share a feed, and a batch that cannot be written is written run by run."""

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
    pid_of,
    session,
    status_of,
    tick,
    value,
    wait_until_blocked,
)

LOCK = "select from strategy_run where (user_id, run_id) in ((%s, %s), (%s, %s)) for no key update"


@pytest.fixture
def runs(db: Conn) -> list[Run]:
    make_bars(db, "AAA", [100, 101, 102, 103, 104])
    make_bars(db, "BBB", [50, 51, 52, 53, 54])
    made = [make_busy_run(db) for _ in range(6)]
    for run in made:
        tick(db, run, 0)
    return made


def marks(db: Conn, runs: list[Run]) -> list[int]:
    return [counts(db, run)["mtm_ledger"] for run in runs]


def test_worker_leaves_what_another_is_busy_with_and_comes_back_for_it(db, runs, connect: Connect, background):
    other, worker = session(connect, autocommit=False), session(connect)
    other.execute(LOCK, [*runs[0], *runs[3]])
    done = background(worker.execute, "call tick_all(%s, 'default', 2)", [at(1)])
    wait_until_blocked(db, pid_of(worker), by=pid_of(other))
    assert marks(db, runs) == [1, 2, 2, 1, 2, 2]  # committed, while the first two are still waited for
    other.rollback()
    done.result(timeout=20)
    assert marks(db, runs) == [2] * 6


def test_what_another_worker_has_ticked_is_not_ticked_again(db, runs, connect: Connect, background):
    other, worker = session(connect, autocommit=False), session(connect)
    for run in (runs[0], runs[3]):
        tick(other, run, 1)
    done = background(worker.execute, "call tick_all(%s, 'default', 2)", [at(1)])
    wait_until_blocked(db, pid_of(worker), by=pid_of(other))
    other.commit()
    done.result(timeout=20)
    assert marks(db, runs) == [2] * 6


def test_in_one_transaction_runs_are_waited_for_in_order(db, runs, connect: Connect, background):
    """To skip and come back would deadlock: each of two callers would hold what the other comes back for."""
    other, worker = session(connect, autocommit=False), session(connect)
    other.execute(LOCK, [*runs[0], *runs[3]])
    done = background(worker.execute, "call tick_all(%s)", [at(1)])
    wait_until_blocked(db, pid_of(worker), by=pid_of(other))
    db.execute("set lock_timeout = '5s'")
    tick(db, runs[5], 1)  # not held by the worker, which waits for the first
    other.rollback()
    done.result(timeout=20)
    assert marks(db, runs) == [2] * 6


@pytest.mark.parametrize("table", ["paper_trade", "event_ledger", "mtm_ledger", "sip_plan", "engine_state"])
def test_a_row_that_cannot_be_written_fails_its_run_alone(db, runs, table):
    bad = runs[2]
    db.execute(
        f"""create function fail() returns trigger language plpgsql as $$ begin
              if new.user_id = {bad.user_id} then raise exception using errcode = '22003'; end if; return new; end $$;
            create trigger fail before insert or update on {table} for each row execute function fail()"""
    )
    before = counts(db, bad)
    db.execute("call tick_all(%s)", [at(1)])
    db.execute(f"drop trigger fail on {table}")
    assert status_of(db, bad) == "ERROR"
    assert {k: v for k, v in counts(db, bad).items() if k != "engine_status"} == {
        k: v for k, v in before.items() if k != "engine_status"
    }
    others = [run for run in runs if run != bad]
    assert marks(db, others) == [2] * 5
    assert len({digest(db, run) for run in others}) == 1
    assert value(db, "select status_reason from strategy_run where user_id = %s", [bad.user_id]).startswith("22003")
