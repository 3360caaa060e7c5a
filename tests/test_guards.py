"""The guards below the plan's cases: what no client may do to a run's rows, by raw SQL, and what it may."""

from __future__ import annotations

import psycopg
import pytest
from helpers import (
    CHILDREN,
    LEDGERS,
    PARENTS,
    PER_RUN,
    WRITES,
    Conn,
    Row,
    Run,
    add_rows,
    as_replica,
    at,
    counts,
    insert,
    make_bars,
    make_run,
    place,
    raises,
    raw_row,
    raw_run,
    rows,
    set_status,
    status_of,
    tick,
    unchanged,
    update_all,
    value,
)
from psycopg import sql

each_table = pytest.mark.parametrize("table", CHILDREN)
BULK = ["paper_order", "paper_trade", "trade_fee", "cash_ledger", "event_ledger", "mtm_ledger", "paper_equity_curve"]
each_end = pytest.mark.parametrize("status", ["STOPPED", "ERROR"])
each_role = pytest.mark.parametrize("role", ["origin", "replica"])


def full_run(conn: Conn, status: str = "RUNNING") -> Run:
    """A run with one raw row in every table."""
    run = raw_run(conn)
    add_rows(conn, run)
    if status != "RUNNING":
        set_status(conn, run, status)
    return run


# --- the row of the run ---


@each_end
@each_role
def test_ended_run_refuses_every_update_of_its_row(tx, status, role):
    run = full_run(tx, status)
    if role == "replica":
        as_replica(tx)
    changes = [f"{column} = {column}" for column in rows(tx, "strategy_run", run)[0]]
    changes += [
        "status = 'RUNNING'",
        "status = 'STOPPED'",
        "status = 'ERROR'",
        "name = 'x', status = 'RUNNING'",
    ]
    changes += ["run_id = default", "user_id = 0", "status_reason = null", "initial_cash = 1"]
    with unchanged(tx, run):
        for change in changes:
            with raises("TE002", conn=tx):
                tx.execute(f"update strategy_run set {change} where user_id = %s and run_id = %s", run)
        with raises("TE002", conn=tx):
            tx.execute("merge into strategy_run r using (select) s on true when matched then update set name = 'x'")
        with raises("TE002", conn=tx):
            tx.execute(
                "insert into strategy_run (user_id, run_id, status) values (%s, %s, 'RUNNING')"
                " on conflict (user_id, run_id) do update set status = excluded.status",
                run,
            )


@each_role
def test_key_of_a_run_never_changes(tx, role):
    run, user = full_run(tx), value(tx, "select create_user('bob')")
    if role == "replica":
        as_replica(tx)
    with unchanged(tx, run):
        for change in (f"user_id = {user}", "run_id = 999", "run_id = 999, status = 'STOPPED'"):
            with raises("TE004", conn=tx):
                tx.execute(f"update strategy_run set {change} where user_id = %s and run_id = %s", run)


def test_status_is_one_of_three(db):
    run = raw_run(db)
    for status in ("PAUSED", "running", ""):
        with raises("23514"):
            set_status(db, run, status)
        with raises("23514"):
            raw_run(db, status)
    for status in (None, "RUNNING"):
        with raises("23502" if status is None else "23505"):
            raw_run(db, status, user_id=run.user_id)  # type: ignore[arg-type]
    with raises("23502"):
        set_status(db, run, None)  # type: ignore[arg-type]


def ended_in(db: Conn, ending: str) -> dict[str, list[Row]]:
    """All rows that a run with open orders of all kinds has after `ending`; no keys, no wall-clock times."""
    run = make_run(db)
    db.execute("select create_sip(%s, %s, 'AAA', 1000, 'WEEKLY', '2024-01-01')", run)
    tick(db, run, 0)
    place(db, run, "AAA", "BUY", 1)
    place(db, run, "AAA", "SELL", 1, order_type="LIMIT", limit_price=500)
    insert(db, "paper_order", raw_row("paper_order", run, 9, status="TRIGGERED"))
    partly = {"status": "PARTIALLY_FILLED", "quantity": 2, "filled_quantity": 1}
    row = raw_row("paper_order", run, 10, **partly)
    insert(db, "paper_order", row)
    db.execute(ending, {"user": run.user_id, "run": run.run_id, "why": "because"})
    found = {table: rows(db, table, run) for table in PER_RUN}
    for row in (row for table in found.values() for row in table):
        for column in ("user_id", "run_id", "status_id", "recorded_at"):
            row.pop(column, None)
    return found


@pytest.mark.plants_violations  # a partly filled order without a trade
@pytest.mark.parametrize(("verb", "status"), [("stop_run", "STOPPED"), ("fail_run", "ERROR")])
def test_raw_status_change_equals_the_verb(db, verb, status):
    make_bars(db, "AAA", [100, 101])
    where = "where user_id = %(user)s and run_id = %(run)s"
    by_verb = ended_in(db, f"select {verb}(%(user)s, %(run)s, %(why)s)")
    by_hand = ended_in(db, f"update strategy_run set status = '{status}', status_reason = %(why)s {where}")
    assert by_hand == by_verb
    assert [o["status"] for o in by_verb["paper_order"]] == ["FILLED", *["CANCELED"] * 4]
    (_, log) = by_verb["engine_status"]
    assert (log["status"], log["reason"], log["logical_time"][:10]) == (status, "because", "2024-01-01")
    assert by_verb["strategy_run"][0]["status"] == status


@each_end
def test_stop_and_fail_of_an_ended_run_do_nothing(db, status):
    run = full_run(db, status)
    with unchanged(db, run):
        db.execute("select stop_run(%s, %s, 'again')", run)
        db.execute("select fail_run(%s, %s, 'again')", run)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("ending", ["stop_run", "fail_run", "STOPPED", "ERROR"])
def test_leaving_running_under_an_older_snapshot_is_refused(tx, level, ending):
    tx.rollback()
    tx.execute(f"set transaction isolation level {level}")
    run = full_run(tx)
    with unchanged(tx, run), raises("40001", conn=tx):
        if ending.isupper():
            set_status(tx, run, ending)
        else:
            tx.execute(f"select {ending}(%s, %s, 'x')", run)


UNKNOWN_RUN = (
    "call tick(1, 999, '2024-01-01')",
    "call replay(1, 999, '2024-01-01', '2024-01-02')",
    "select stop_run(1, 999)",
    "select fail_run(1, 999, 'x')",
    "select place_order(1, 999, 'AAA', 'BUY', 1)",
    "select cancel_order(1, 999, 1)",
    "select match_orders(1, 999, '2024-01-01')",
    "select try_execute_sip(1, 999, '2024-01-01')",
    "select try_rebalance(1, 999, '2024-01-01')",
    "select log_mtm(1, 999, '2024-01-01')",
    "select record_equity(1, 999, '2024-01-01')",
    "select create_sip(1, 999, 'AAA', 1, 'DAILY', '2024-01-01')",
    "select pause_sip(1, 999, 1)",
    "select resume_sip(1, 999, 1)",
    "select create_rebalance(1, 999, '{\"AAA\": 1}', 'DAILY', '2024-01-01')",
    "select set_risk_limit(1, 999, 1)",
    "select forbid_symbol(1, 999, 'AAA')",
    "select run_digest(1, 999)",
    "select * from replay_diff(1, 999, 1, 999)",
    "select * from performance(1, 999)",
    "select * from performance_reasons(1, 999)",
    "select * from performance_by_symbol(1, 999)",
    "select * from drawdowns(1, 999)",
    "select * from sip_schedule(1, 999)",
    "select * from rebalance_schedule(1, 999)",
)


def test_unknown_run_is_te204(tx):
    for call in UNKNOWN_RUN:
        with raises("TE204", conn=tx):
            tx.execute(call)
    for call in UNKNOWN_RUN:
        with raises("TE204", "TE101", conn=tx):
            tx.execute(call.replace("1, 999", "null, null"))


# --- rows of the run ---


@each_table
@each_role
def test_rows_stay_with_their_run(tx, table, role):
    run, other = full_run(tx), raw_run(tx)
    if role == "replica":
        as_replica(tx)
    target = sql.Identifier(table)
    with unchanged(tx, run, other):
        for column, to in (("run_id", other.run_id), ("user_id", other.user_id)):
            query = sql.SQL("update {} set {} = %s where user_id = %s and run_id = %s")
            with raises("TE004", conn=tx):
                tx.execute(query.format(target, sql.Identifier(column)), [to, *run])


@pytest.mark.parametrize("table", LEDGERS)
@each_role
def test_ledgers_are_append_only(tx, table, role):
    run = full_run(tx)
    columns = list(rows(tx, table, run)[0])
    if role == "replica":
        as_replica(tx)
    with unchanged(tx, run):
        for column in columns:
            with raises("TE004", conn=tx):
                update_all(tx, table, run, column)
        row = raw_row(table, run)
        if table != "engine_status":  # its own key is generated: no conflict
            with raises("TE004", conn=tx):
                WRITES[2](tx, table, row)  # on conflict do update


@each_table
@pytest.mark.parametrize("status", ["RUNNING", "STOPPED"])
@each_role
def test_rows_are_deleted_only_with_their_run(tx, table, status, role):
    run = full_run(tx, status)
    if role == "replica":
        as_replica(tx)
    target = sql.Identifier(table)
    with unchanged(tx, run):
        with raises("TE004", conn=tx):
            tx.execute(sql.SQL("delete from {} where user_id = %s and run_id = %s").format(target), run)
        with raises("TE004", conn=tx):
            tx.execute(sql.SQL("merge into {} using (select) s on true when matched then delete").format(target))
        with raises("TE004", conn=tx):
            tx.execute(sql.SQL("with gone as (delete from {} returning 1) select from gone").format(target))


@pytest.mark.parametrize("table", PER_RUN)
@each_role
def test_truncate_is_refused(tx, table, role):
    run = full_run(tx)
    if role == "replica":
        as_replica(tx)
    target = sql.Identifier(table)
    with unchanged(tx, run):
        with raises("TE004", "0A000", conn=tx):  # 0A000: other tables hang on it
            tx.execute(sql.SQL("truncate {}").format(target))
        with raises("TE004", conn=tx):
            tx.execute(sql.SQL("truncate {} cascade").format(target))


def test_truncate_does_not_arrive_by_cascade(tx):
    run = full_run(tx)
    with unchanged(tx, run):
        for table in ("app_user", "feed", "calendar"):
            with raises("TE004", conn=tx):
                tx.execute(f"truncate {table} cascade")


def test_deleting_a_user_with_runs_is_refused(tx):
    run = full_run(tx)
    with unchanged(tx, run), raises("23503", conn=tx):
        tx.execute("delete from app_user where user_id = %s", [run.user_id])


@each_table
@each_role
def test_row_of_a_missing_run_is_23503(tx, table, role):
    run = full_run(tx)
    if role == "replica":
        as_replica(tx)
    for missing in (Run(run.user_id, run.run_id + 999), Run(run.user_id + 999, run.run_id)):
        for write in WRITES:
            with raises("23503", conn=tx):
                write(tx, table, raw_row(table, missing, 2))
        assert set(counts(tx, missing).values()) == {0}


@each_table
def test_key_is_not_null(tx, table):
    run = full_run(tx)
    for column in ("user_id", "run_id"):
        with raises("23502", "23503", conn=tx):
            insert(tx, table, raw_row(table, run, 2) | {column: None})


def test_bulk_write_with_one_bad_row_writes_none(tx):
    good, bad = full_run(tx), full_run(tx, "STOPPED")
    with unchanged(tx, good, bad):
        for table, columns in (("mtm_ledger", "0, 0, 0, 0"), ("paper_equity_curve", "0, 0, 0")):
            for last, code in ((bad, "TE001"), (Run(good.user_id, 0), "23503")):
                with raises(code, conn=tx):
                    tx.execute(
                        f"insert into {table} select u, r, t, {columns}"
                        "  from (values (%s, %s), (%s, %s)) v (u, r),"
                        "       generate_series(timestamptz '2024-03-01', '2024-03-09', '1 day') t",
                        [*good, *last],
                    )


@pytest.mark.parametrize(
    ("table", "columns", "values"),
    [
        ("paper_order", "order_id, symbol, side, order_type, quantity, time_in_force, status",
         "2, 'AAA', 'BUY', 'MARKET', 1, 'GTC', 'PENDING'"),
        ("event_ledger", "logical_time, event_type, event_key", "'2024-01-05', 'NOTE', '2'"),
        ("mtm_ledger", "logical_time, market_value, cost_basis, unrealized_pnl, realized_pnl",
         "'2024-01-05', 0, 0, 0, 0"),
        ("paper_equity_curve", "logical_time, cash, market_value, equity", "'2024-01-05', 0, 0, 0"),
    ],
)  # fmt: skip
def test_one_statement_cannot_stop_and_write(tx, table, columns, values):
    run = full_run(tx)
    stopped = "with s as (update strategy_run set status = 'STOPPED' where user_id = %s returning user_id, run_id)"
    with unchanged(tx, run), raises("TE001", conn=tx):
        tx.execute(
            f"{stopped} insert into {table} (user_id, run_id, {columns}) select user_id, run_id, {values} from s",
            [run.user_id],
        )


def from_inside_a_trigger(conn: Conn, table: str, *runs: Run) -> None:
    """One statement that inserts a raw row for each run, from the trigger of a table of the client's own."""
    conn.execute("create temp table own (x int)")
    conn.execute(
        "create function pg_temp.write() returns trigger language plpgsql as $$ begin execute tg_argv[0]; return new; end $$"
    )
    cells = [raw_row(table, run, k) for k, run in enumerate(runs, 7)]
    statement = sql.SQL("insert into {} ({}) values {}").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, cells[0])),
        sql.SQL(", ").join(sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Literal, row.values()))) for row in cells),
    )
    conn.execute(
        sql.SQL("create trigger write after insert on own for each row execute function pg_temp.write({})").format(
            sql.Literal(statement.as_string(conn))
        )
    )
    conn.execute("insert into own values (1)")


@pytest.mark.parametrize("table", BULK)
@pytest.mark.parametrize("status", ["STOPPED", "ERROR", "missing"])
def test_a_row_from_inside_a_trigger_is_guarded_too(tx, table, status):
    """There the guard has its other form. The good row of the statement does not land either."""
    good, bad = full_run(tx), full_run(tx, "STOPPED" if status == "missing" else status)
    if status == "missing":
        bad = Run(bad.user_id, bad.run_id + 1000)
    with unchanged(tx, good), raises("23503" if status == "missing" else "TE001", conn=tx):
        from_inside_a_trigger(tx, table, good, bad)
    from_inside_a_trigger(tx, table, good)


def test_what_is_posted_by_hand_is_guarded_too(tx):
    """engine.posting is where the engine writes many rows; anybody may insert there and gains nothing."""
    run = full_run(tx, "STOPPED")
    span = "array[row(%s, %s, 2, array['2024-01-09Z'], 1, 0, 0, null, null)::engine.span]"
    with unchanged(tx, run), raises("TE001", conn=tx):
        tx.execute(f"insert into engine.posting (feed, spans) values ('default', {span})", run)


def test_temporary_table_cannot_stand_in_for_the_run(tx):
    run = full_run(tx, "STOPPED")
    tx.execute("create temp table strategy_run as select * from public.strategy_run")
    tx.execute("update pg_temp.strategy_run set status = 'RUNNING'")
    for table in CHILDREN:
        with raises("TE001", conn=tx):
            insert(tx, table, raw_row(table, run, 2))
    tx.execute("set local search_path = pg_temp, public")
    with raises("TE001", conn=tx):
        tick(tx, run, 20)


# --- raw SQL is a first-class client ---

MINIMAL_COLUMNS = {
    "engine_status": "status",
    "paper_order": "order_id logical_time symbol side order_type quantity time_in_force status",
    "paper_trade": "trade_id order_id logical_time symbol side quantity price fees",
    "mtm_ledger": "logical_time market_value cost_basis unrealized_pnl realized_pnl",
    "paper_equity_curve": "logical_time cash market_value equity",
    "event_ledger": "logical_time event_type event_key payload",
    "cash_ledger": "entry_id logical_time amount cause trade_id",
}


@pytest.mark.parametrize("table", MINIMAL_COLUMNS)
def test_named_columns_are_enough_for_a_raw_row(db, table):
    run = raw_run(db)
    add_rows(db, run, PARENTS)
    row = raw_row(table, run, 2)
    assert set(row) == {"user_id", "run_id", *MINIMAL_COLUMNS[table].split()}
    insert(db, table, row)
    assert counts(db, run)[table] == 2 if table in PARENTS else 1


def test_named_columns_are_enough_for_market_data(db):
    db.execute("insert into feed (feed) values ('f')")
    db.execute("insert into instrument (symbol) values ('XYZ')")
    db.execute(
        "insert into price_bar (feed, symbol, logical_time, open, high, low, close, volume)"
        " values ('f', 'XYZ', '2024-01-01', 1, 1, 1, 1, null)"
    )
    assert value(db, "select calendar from feed where feed = 'f'") == "ALWAYS"
    assert [str(v) for v in db.execute("select quantity_step, price_tick from instrument").fetchone() or ()] == [
        "0.00000100",
        "None",
    ]
    assert value(db, "select calendar from feed where feed = 'default'") == "ALWAYS"
    assert value(db, "select time_zone from calendar where calendar = 'ALWAYS'") == "UTC"


def test_raw_run_creates_nothing_else(db):
    run = raw_run(db)
    assert {table for table, n in counts(db, run).items() if n} == {"strategy_run"}
    user = value(db, "insert into app_user (user_id, name) values (77, 'x') returning user_id")
    db.execute("insert into strategy_run (user_id, run_id, status) values (%s, 88, 'RUNNING')", [user])
    assert status_of(db, Run(77, 88)) == "RUNNING"


def test_ids_given_by_hand_are_stepped_over(db):
    db.execute("insert into app_user (user_id) select generate_series(1, 5)")
    db.execute("insert into strategy_run (user_id, run_id, status) select u, u, 'STOPPED' from generate_series(1, 5) u")
    user = value(db, "select create_user('late')")
    assert user == 6
    runs = {make_run(db, user_id=n).run_id for n in range(1, 6)}
    assert len(runs) == 5


FIRST_CALLS = (
    "call tick(%s, %s, '2024-01-01 16:00+00')",
    "call replay(%s, %s, '2024-01-01 16:00+00', '2024-01-02 16:00+00')",
    "select place_order(%s, %s, 'AAA', 'BUY', 1)",
    "select match_orders(%s, %s, '2024-01-01 16:00+00')",
    "select try_execute_sip(%s, %s, '2024-01-01 16:00+00')",
    "select try_rebalance(%s, %s, '2024-01-01 16:00+00')",
    "select log_mtm(%s, %s, '2024-01-01 16:00+00')",
    "select record_equity(%s, %s, '2024-01-01 16:00+00')",
    "select create_sip(%s, %s, 'AAA', 1, 'DAILY', '2024-01-01')",
    "select create_rebalance(%s, %s, '{\"AAA\": 1}', 'DAILY', '2024-01-01')",
    "select set_risk_limit(%s, %s, 1)",
    "select forbid_symbol(%s, %s, 'AAA')",
)


@pytest.mark.parametrize("call", FIRST_CALLS)
def test_first_call_on_a_raw_run_opens_its_books(tx, call):
    make_bars(tx, "AAA", [100, 101])
    run = raw_run(tx, initial_cash=1234.5)
    tx.execute(call, run)
    opening = [[e[c] for c in ("entry_id", "amount", "cause", "logical_time")] for e in rows(tx, "cash_ledger", run)]
    assert opening == [[1, 1234.5, "OPENING", None]]
    assert [s["cash"] for s in rows(tx, "engine_state", run)] == [1234.5]
    tx.execute("select set_risk_limit(%s, %s, 1)", run)
    assert len(rows(tx, "cash_ledger", run)) == 1


def test_tick_all_opens_the_books_of_raw_runs(db):
    make_bars(db, "AAA", [100])
    run = raw_run(db, initial_cash=50)
    db.execute("call tick_all(%s)", [at(0)])
    assert [e["equity"] for e in rows(db, "paper_equity_curve", run)] == [50]
    assert [e["cause"] for e in rows(db, "cash_ledger", run)] == ["OPENING"]


def test_ids_continue_after_raw_rows(tx):
    make_bars(tx, "AAA", [100, 101, 102])
    run = make_run(tx)
    insert(tx, "paper_order", raw_row("paper_order", run, 41, status="CANCELED"))
    insert(tx, "paper_trade", raw_row("paper_trade", run, 51, order_id=41))
    insert(tx, "cash_ledger", raw_row("cash_ledger", run, 61, trade_id=51))
    insert(tx, "sip_plan", raw_row("sip_plan", run, 71))
    insert(tx, "rebalance_plan", raw_row("rebalance_plan", run, 81))
    assert place(tx, run, "AAA", "BUY", 1)["order_id"] == 42
    assert value(tx, "select create_sip(%s, %s, 'AAA', 1, 'DAILY', '2025-01-01')", run) == 72
    weights = '{"AAA": 0}'
    assert value(tx, "select create_rebalance(%s, %s, %s, 'DAILY', '2025-01-01')", [*run, weights]) == 82
    tick(tx, run, 0)
    sip_order = max(o["order_id"] for o in rows(tx, "paper_order", run))
    assert [t["trade_id"] for t in rows(tx, "paper_trade", run)] == [51, 52, 53]
    assert [e["entry_id"] for e in rows(tx, "cash_ledger", run)] == [1, 61, 62, 63]
    assert sip_order == 43


# --- what is stored is a number, a real time, a possible bar ---

SHARED_ROWS = {
    "app_user": "(name) values ('x')",
    "instrument": "(symbol, price_tick) values ('NEW', 1)",
    "price_bar": "(feed, symbol, logical_time, open, high, low, close, volume)"
    " values ('default', 'AAA', '2024-05-01', 1, 1, 1, 1, 1)",
    "market_session": "values ('ALWAYS', '2024-05-01', '2024-05-01', '2024-05-02')",
    "corporate_action": "(symbol, ex_date, action_type, amount, pay_date)"
    " values ('AAA', '2024-05-01', 'DIVIDEND', 1, '2024-06-01')",
}
FEE_ROW: Row = {"fee_schedule": "f", "component": "c", "side": "BUY", "effective_from": "2024-01-01", "source": "s"}
# Columns that make sense only with another one.
NEEDED: dict[str, Row] = {"step_up_percent": {"step_up_every": 1}, "step_up_amount": {"step_up_every": 1}}


def columns_of(conn: Conn, types: str) -> list[tuple[str, str]]:
    """(table, column) of these base types in all our tables."""
    query = (
        "select c.relname, a.attname from pg_attribute a join pg_class c on c.oid = a.attrelid"
        " join pg_type t on t.oid = a.atttypid left join pg_type b on b.oid = t.typbasetype"
        " where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.attnum > 0"
        " and not a.attisdropped and coalesce(b.typname, t.typname) ~ %s and c.relname not in ('schema_version', 'api_key', 'api_answer', 'acting')"
        " order by 1, 2"
    )
    return conn.execute(query, [f"^({types})$"]).fetchall()


def store(conn: Conn, run: Run, table: str, column: str, poison: str) -> None:
    """A row with that value in that column, and otherwise good."""
    if table in CHILDREN:
        extra = NEEDED.get(column, {})
        insert(conn, table, raw_row(table, run, 2) | extra | {column: poison})
    elif table == "strategy_run":
        raw_run(conn, **{column: poison})
    elif table == "fee_schedule":  # it is never updated
        insert(conn, table, FEE_ROW | {column: poison})
    else:
        conn.execute(f"insert into {table} {SHARED_ROWS[table]}")
        query = sql.SQL("update {} set {} = %s").format(sql.Identifier(table), sql.Identifier(column))
        conn.execute(query, [poison])


def columns_that_take(conn: Conn, types: str, *poisons: str) -> list[str]:
    """The columns of these types that one of these values can be stored in."""
    make_bars(conn, "AAA", [100])
    run = raw_run(conn)
    add_rows(conn, run, PARENTS)
    taken = []
    for table, column in columns_of(conn, types):
        for poison in poisons:
            try:
                with conn.transaction(force_rollback=True):
                    store(conn, run, table, column, poison)
                taken.append(f"{table}.{column} takes {poison}")
            except psycopg.Error as exc:
                assert exc.sqlstate in ("23514", "22003"), f"{table}.{column} {poison}: {exc}"  # noqa: PT017
    return taken


def test_no_number_is_nan_or_infinite(tx):
    assert len(columns_of(tx, "numeric")) > 40
    assert columns_that_take(tx, "numeric", "NaN", "Infinity", "-Infinity") == []


def test_no_time_is_infinite(tx):
    assert len(columns_of(tx, "timestamptz|date")) > 15
    assert columns_that_take(tx, "timestamptz|date", "infinity", "-infinity") == []


@pytest.mark.parametrize("time", ["infinity", "-infinity", "1899-12-31", "2300-01-02", "0001-01-01 BC"])
def test_calls_refuse_times_that_are_no_times(tx, time):
    run = make_run(tx)
    calls = (
        "call tick(%s, %s, %s)",
        "call replay(%s, %s, '2024-01-01', %s)",
        "select match_orders(%s, %s, %s)",
    )
    calls += (
        "select try_execute_sip(%s, %s, %s)",
        "select log_mtm(%s, %s, %s)",
        "select record_equity(%s, %s, %s)",
    )
    with unchanged(tx, run):
        for call in calls:
            for value_ in (time, None):
                with raises("TE101", conn=tx):
                    tx.execute(call, [*run, value_])
        with raises("TE101", conn=tx):
            tx.execute("call tick_all(%s)", [time])


@pytest.mark.parametrize(
    ("prices", "code"),
    [
        ((10, 12, 9, 11, 0), None),
        ((10, 10, 10, 10, None), None),
        ((10, 12, 10.5, 11, 1), "23514"),  # open below low
        ((10, 12, 9, 8, 1), "23514"),  # close below low
        ((13, 12, 9, 11, 1), "23514"),  # open above high
        ((10, 12, 9, 13, 1), "23514"),  # close above high
        ((10, 9, 12, 10, 1), "23514"),  # high below low
        ((0, 12, 0, 11, 1), "23514"),
        ((-1, 12, -2, 11, 1), "23514"),
        ((10, 12, 9, 11, -1), "23514"),
        ((None, 12, 9, 11, 1), "23502"),
    ],
)
def test_bar_is_possible(tx, prices, code):
    tx.execute("insert into instrument (symbol) values ('XYZ')")
    bar = "insert into price_bar values ('default', 'XYZ', '2024-01-01', %s, %s, %s, %s, %s)"
    if code:
        with raises(code, conn=tx):
            tx.execute(bar, prices)
    else:
        tx.execute(bar, prices)
        with raises("23505", conn=tx):
            tx.execute(bar, prices)


@pytest.mark.parametrize(
    "step_up",
    [
        {"step_up_percent": -5, "step_up_every": 1},
        {"step_up_percent": 0, "step_up_every": 1},
        {"step_up_percent": 10_000, "step_up_every": 1},
        {"step_up_amount": -5, "step_up_every": 1},
        {"step_up_percent": 5, "step_up_every": 0},
        {"step_up_percent": 5},
        {"step_up_every": 1},
        {"step_up_percent": 5, "step_up_amount": 5, "step_up_every": 1},
    ],
)
def test_raw_sip_steps_up_or_not_at_all(tx, step_up):
    run = raw_run(tx)
    with raises("23514", conn=tx):
        insert(tx, "sip_plan", raw_row("sip_plan", run) | step_up)
    insert(tx, "sip_plan", raw_row("sip_plan", run, step_up_percent=5, step_up_every=1))
    insert(tx, "sip_plan", raw_row("sip_plan", run, 2, step_up_amount=5, step_up_every=2))


def test_correcting_a_bar_changes_no_tick_that_happened(db):
    make_bars(db, "AAA", [100, 110, 120])
    run = make_run(db)
    place(db, run, "AAA", "BUY", 10)
    tick(db, run, 0)
    tick(db, run, 1)
    with unchanged(db, run):
        db.execute("update price_bar set open = 50, low = 50, close = 60 where logical_time = %s", [at(1)])
        db.execute("delete from price_bar where logical_time = %s", [at(0)])
        tick(db, run, 1)
    tick(db, run, 2)
    assert [m["market_value"] for m in rows(db, "mtm_ledger", run)] == [1000, 1100, 1200]
