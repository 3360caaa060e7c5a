"""Test plan, run lifecycle and state integrity: RL-01 … RL-09 (in SQL; test_cli has RL-08, RL-09 too)."""

from __future__ import annotations

import pytest
from helpers import (
    CHILDREN,
    LEDGERS,
    PARENTS,
    WRITES,
    Conn,
    Run,
    add_rows,
    as_replica,
    counts,
    delete_run,
    insert,
    make_bars,
    make_run,
    make_user,
    merge_update_all,
    place,
    raises,
    raw_row,
    raw_run,
    rows,
    set_status,
    status_of,
    stop,
    tick,
    unchanged,
    update_all,
    value,
)

each_table = pytest.mark.parametrize("table", CHILDREN)
each_role = pytest.mark.parametrize("role", ["origin", "replica"])


def ended_run(conn: Conn, status: str, tables: tuple[str, ...]) -> Run:
    """A run with row 1 of these tables that has left RUNNING."""
    run = raw_run(conn)
    add_rows(conn, run, tables)
    set_status(conn, run, status)
    return run


def refuses_every_write(conn: Conn, table: str, status: str, role: str) -> None:
    """No INSERT, COPY, MERGE, ON CONFLICT or UPDATE reaches a run in that status."""
    empty = ended_run(conn, status, PARENTS)  # so that nothing but the guard has an objection
    full = ended_run(conn, status, CHILDREN)
    if role == "replica":
        as_replica(conn)

    with unchanged(conn, empty, full):
        for write in WRITES:
            with raises("TE001", conn=conn):
                write(conn, table, raw_row(table, empty, 2))
        for update in (update_all, merge_update_all):
            with raises("TE004" if table in LEDGERS else "TE001", conn=conn):
                update(conn, table, full)


def test_rl_01_running_run_takes_engine_state(db):
    run = raw_run(db)
    db.execute("insert into engine_state (user_id, run_id) values (%s, %s)", run)
    assert [(r["user_id"], r["run_id"], r["cash"]) for r in rows(db, "engine_state", run)] == [(*run, 0)]


@each_table
def test_rl_01_running_run_takes_every_row_in_every_way(tx, table):
    for write in WRITES:
        run = raw_run(tx)
        add_rows(tx, run, PARENTS)
        before = counts(tx, run)
        write(tx, table, raw_row(table, run, 2))
        assert counts(tx, run) == before | {table: before[table] + 1}


@each_table
@each_role
def test_rl_02_stopped_run_rejects_every_write(tx, table, role):
    refuses_every_write(tx, table, "STOPPED", role)


def test_rl_02_run_born_stopped_rejects_inserts(db):
    run = raw_run(db, "STOPPED")
    for table in CHILDREN:
        with unchanged(db, run), raises("TE001"):
            insert(db, table, raw_row(table, run))


@each_table
@each_role
def test_rl_03_failed_run_rejects_every_write(tx, table, role):
    refuses_every_write(tx, table, "ERROR", role)


def test_rl_03_run_born_failed_rejects_inserts(db):
    run = raw_run(db, "ERROR")
    for table in CHILDREN:
        with unchanged(db, run), raises("TE001"):
            insert(db, table, raw_row(table, run))


@pytest.mark.parametrize("status", ["STOPPED", "ERROR"])
def test_rl_04_ended_run_cannot_revive(db, status):
    born, ended = raw_run(db, status), ended_run(db, status, CHILDREN)
    for run in (born, ended):
        with unchanged(db, run), raises("TE002"):
            set_status(db, run, "RUNNING")
        assert status_of(db, run) == status


def test_rl_05_one_running_run_per_user(db):
    first = raw_run(db)
    with raises("23505"):
        raw_run(db, user_id=first.user_id)
    with raises("23505"):
        make_run(db, user_id=first.user_id)
    with raises("23505"):  # many at once
        db.execute(
            "insert into strategy_run (user_id, status) select %s, 'RUNNING' from generate_series(1, 2)",
            [first.user_id],
        )
    running = "select array_agg(run_id) from strategy_run where user_id = %s and status = 'RUNNING'"
    assert value(db, running, [first.user_id]) == [first.run_id]

    raw_run(db, "STOPPED", user_id=first.user_id)
    stop(db, first)
    assert value(db, running, [first.user_id]) is None
    second = make_run(db, user_id=first.user_id)
    assert value(db, running, [first.user_id]) == [second.run_id]


@each_table
@each_role
def test_rl_06_row_of_user_a_and_run_b_is_refused(tx, table, role):
    a, b = raw_run(tx), raw_run(tx)
    add_rows(tx, a, PARENTS)
    add_rows(tx, b, PARENTS)
    mixed = Run(a.user_id, b.run_id)
    if role == "replica":
        as_replica(tx)
    with unchanged(tx, a, b, mixed):
        for write in WRITES:
            with raises("23503", conn=tx):
                write(tx, table, raw_row(table, mixed, 2))
    assert set(counts(tx, mixed).values()) == {0}


def test_rl_06_trade_of_another_runs_order_is_refused(db):
    a, b = raw_run(db), raw_run(db)
    add_rows(db, a, ["paper_order"])
    with raises("23503"):
        add_rows(db, b, ["paper_trade"])
    assert rows(db, "paper_trade", b) == []


@pytest.mark.parametrize("status", ["RUNNING", "STOPPED", "ERROR"])
def test_rl_07_deleting_a_run_deletes_all_it_owns(db, status):
    other, run = raw_run(db), raw_run(db)
    for each in (other, run):
        add_rows(db, each)
    set_status(db, run, status)
    assert 0 not in counts(db, run).values()

    with unchanged(db, other):
        delete_run(db, run)
    assert set(counts(db, run).values()) == {0}


def test_rl_07_deleting_a_traded_run_leaves_no_orphans(db):
    make_bars(db, "AAA", [100, 101, 102])
    run = make_run(db)
    place(db, run, "AAA", "BUY", 5)
    for n in range(3):
        tick(db, run, n)
    stop(db, run)
    delete_run(db, run)
    assert set(counts(db, run).values()) == {0}


def test_rl_08_start_run_is_running_and_logged(db):
    run = make_run(db, 5000)
    assert status_of(db, run) == "RUNNING"
    assert [(r["status"], r["logical_time"]) for r in rows(db, "engine_status", run)] == [("RUNNING", None)]
    assert [r["cash"] for r in rows(db, "engine_state", run)] == [5000]
    assert [(r["entry_id"], r["amount"], r["cause"], r["trade_id"]) for r in rows(db, "cash_ledger", run)] == [
        (1, 5000, "OPENING", None)
    ]


def test_rl_08_refused_start_leaves_nothing(db):
    user = make_user(db)
    with raises("TE201"):
        make_run(db, user_id=user, feed="no such feed")
    with raises("23503"):
        make_run(db, user_id=user + 1)
    for cash in ("NaN", "Infinity", "-1", "1e30"):
        with raises("TE101"):
            db.execute("select start_run(%s, %s::numeric)", [user, cash])
    assert value(db, "select count(*) from strategy_run") == 0


def test_rl_09_stop_run_is_stopped_and_blocks_every_verb(db):
    make_bars(db, "AAA", [100, 101])
    run = make_run(db)
    place(db, run, "AAA", "BUY", 1)
    tick(db, run, 0)
    stop(db, run, "enough")
    assert status_of(db, run) == "STOPPED"
    assert [(r["status"], r["reason"]) for r in rows(db, "engine_status", run)] == [
        ("RUNNING", None),
        ("STOPPED", "enough"),
    ]

    calls = (
        "call tick(%s, %s, '2024-01-02 16:00+00')",
        "call replay(%s, %s, '2024-01-02 00:00+00', '2024-01-03 00:00+00')",
        "select match_orders(%s, %s, '2024-01-02 16:00+00')",
        "select try_execute_sip(%s, %s, '2024-01-02 16:00+00')",
        "select try_rebalance(%s, %s, '2024-01-02 16:00+00')",
        "select log_mtm(%s, %s, '2024-01-02 16:00+00')",
        "select record_equity(%s, %s, '2024-01-02 16:00+00')",
        "select place_order(%s, %s, 'AAA', 'BUY', 1)",
        "select cancel_order(%s, %s, 1)",
        "select create_sip(%s, %s, 'AAA', 100, 'DAILY', '2024-01-01')",
        "select pause_sip(%s, %s, 1)",
        "select resume_sip(%s, %s, 1)",
        """select create_rebalance(%s, %s, '{"AAA": 0.5}', 'DAILY', '2024-01-01')""",
        "select set_risk_limit(%s, %s, 5)",
        "select forbid_symbol(%s, %s, 'AAA')",
    )
    with unchanged(db, run):
        for call in calls:
            with raises("TE001"):
                db.execute(call, run)
        db.execute("call tick_all('2024-01-02 16:00+00')")  # has no running run to tick
        tick(db, run, 0)  # has happened: answers again
