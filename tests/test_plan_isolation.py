"""Test plan, isolation of users and runs, and deterministic replay: MU-01, MU-02, DR-01."""

from __future__ import annotations

from helpers import (
    CHILDREN,
    Conn,
    Run,
    at,
    counts,
    digest,
    make_bars,
    make_run,
    make_user,
    place,
    raises,
    rows,
    stop,
    tick,
    unchanged,
    value,
)
from psycopg import sql

CLOSES = [100 + 7 * (n * n % 11) for n in range(30)]  # 100, 107, 128, 163, 135, … and back


def trade(db: Conn, run: Run, days: int = 10) -> None:
    """Orders of all kinds, a SIP, a rebalance and ticks: the same for every run."""
    db.execute("select create_sip(%s, %s, 'AAA', 500, 'WEEKLY', '2024-01-03')", run)
    db.execute("""select create_rebalance(%s, %s, '{"AAA": 0.2, "BBB": 0.3}', 'WEEKLY', '2024-01-05')""", run)
    for n in range(days):
        place(db, run, "BBB", "BUY", 1 + n, time_in_force="DAY")
        place(db, run, "BBB", "SELL", 1, order_type="LIMIT", limit_price=150 + n)
        tick(db, run, n)


def market(db: Conn) -> None:
    make_bars(db, "AAA", CLOSES)
    make_bars(db, "BBB", CLOSES[::-1])


def keys(db: Conn) -> dict[str, set[Run]]:
    """The runs of which each table has rows."""
    query = "select distinct user_id, run_id from {}"
    return {t: {Run(*r) for r in db.execute(sql.SQL(query).format(sql.Identifier(t)))} for t in CHILDREN}


def test_mu_01_two_users_are_isolated(db):
    market(db)
    ann, bob = make_run(db), make_run(db, 500)
    with unchanged(db, bob):
        trade(db, ann)
    with unchanged(db, ann):
        tick(db, bob, 0)
        place(db, bob, "AAA", "BUY", 1)
        tick(db, bob, 1)
    assert counts(db, bob)["paper_trade"] == counts(db, bob)["paper_order"] == 1
    assert [o["order_id"] for o in rows(db, "paper_order", bob)] == [1]
    assert {run for runs in keys(db).values() for run in runs} == {ann, bob}
    with unchanged(db, ann, bob):
        for stranger in (Run(ann.user_id, bob.run_id), Run(bob.user_id, ann.run_id)):
            with raises("TE204"):
                tick(db, stranger, 12)
            with raises("TE204"):
                place(db, stranger, "AAA", "BUY", 1)
            with raises("TE204"):
                stop(db, stranger)
            with raises("TE204"):
                digest(db, stranger)


def test_mu_01_tick_all_ticks_each_run_as_its_own(db):
    market(db)
    one, many = make_run(db), [make_run(db) for _ in range(3)]
    for n in range(5):
        for run in (one, *many):
            place(db, run, "AAA", "BUY", 1)
        tick(db, one, n)
        db.execute("call tick_all(%s)", [at(n)])
    assert {digest(db, run) for run in many} == {digest(db, one)}


def test_mu_02_two_runs_of_a_user_are_isolated(db):
    market(db)
    user = make_user(db)
    a = make_run(db, user_id=user)
    trade(db, a)
    stop(db, a)
    b = make_run(db, 700, user_id=user)
    with unchanged(db, a):
        tick(db, b, 3)
        place(db, b, "BBB", "BUY", 1)
        tick(db, b, 4)
    assert a.run_id != b.run_id
    assert counts(db, a)["mtm_ledger"] == 10
    assert counts(db, b)["mtm_ledger"] == 2
    assert [t["trade_id"] for t in rows(db, "paper_trade", b)] == [1]
    assert all(runs <= {a, b} for runs in keys(db).values())

    db.execute("delete from strategy_run where (user_id, run_id) = (%s, %s)", b)
    assert counts(db, a)["mtm_ledger"] == 10


NORMALIZED = {
    "paper_order": "order_id, logical_time, symbol, side, order_type, quantity, limit_price, status,"
    " filled_quantity, avg_fill_price, reject_reason, source, closed_time",
    "paper_trade": "trade_id, order_id, logical_time, symbol, side, quantity, price, fees",
    "paper_position": "symbol, quantity, cost_basis, realized_pnl",
    "cash_ledger": "entry_id, logical_time, amount, cause, trade_id",
    "mtm_ledger": "logical_time, market_value, cost_basis, unrealized_pnl, realized_pnl",
    "paper_equity_curve": "logical_time, cash, market_value, equity",
    "event_ledger": "logical_time, event_type, event_key, payload",
    "engine_state": "cash, first_logical_time, last_logical_time",
}


def differences(db: Conn, a: Run, b: Run) -> dict[str, int]:
    """Rows that only one of the two runs has, by table."""
    query = """
      with a as (select {columns} from {table} where (user_id, run_id) = (%s, %s)),
           b as (select {columns} from {table} where (user_id, run_id) = (%s, %s))
      select count(*) from ((table a except all table b) union all (table b except all table a)) d"""
    found = {}
    for table, columns in NORMALIZED.items():
        text = sql.SQL(query).format(columns=sql.SQL(columns), table=sql.Identifier(table))
        found[table] = value(db, text, [*a, *b])
    return {table: n for table, n in found.items() if n}


def test_dr_01_two_runs_over_one_feed_are_identical(db):
    market(db)
    a, b = make_run(db), make_run(db)
    trade(db, a, 30)
    trade(db, b, 30)
    assert counts(db, a)["paper_trade"] > 20
    assert differences(db, a, b) == {}
    assert digest(db, a) == digest(db, b)
    assert db.execute("select * from replay_diff(%s, %s, %s, %s)", [*a, *b]).fetchall() == []


def test_dr_01_replay_writes_what_ticks_write(db):
    market(db)
    a, b, c = (make_run(db) for _ in range(3))
    for run in (a, b, c):
        db.execute("select create_sip(%s, %s, 'AAA', 500, 'WEEKLY', '2024-01-03')", run)
        db.execute("""select create_rebalance(%s, %s, '{"AAA": 0.2, "BBB": 0.3}', 'MONTHLY', '2024-01-05')""", run)
        place(db, run, "BBB", "BUY", 10, order_type="LIMIT", limit_price=110)
        place(db, run, "BBB", "BUY", 5, time_in_force="DAY")
    for n in range(30):
        tick(db, a, n)
    db.execute("call replay(%s, %s, %s, %s)", [*b, at(0), at(29)])
    db.execute("call replay(%s, %s, %s, %s, 2)", [*c, at(0), at(29)])
    assert counts(db, a)["paper_trade"] > 5
    for run in (b, c):
        assert differences(db, a, run) == {}
        assert digest(db, run) == digest(db, a)
        assert db.execute("select * from replay_diff(%s, %s, %s, %s)", [*a, *run]).fetchall() == []


def test_dr_01_a_difference_shows(db):
    market(db)
    a, b = make_run(db), make_run(db)
    tick(db, a, 0)
    tick(db, b, 0)
    place(db, b, "AAA", "BUY", 0)
    assert differences(db, a, b) == {"paper_order": 1}
    assert digest(db, a) != digest(db, b)
    assert len(db.execute("select * from replay_diff(%s, %s, %s, %s)", [*a, *b]).fetchall()) == 1
