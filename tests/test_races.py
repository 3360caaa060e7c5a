"""Races between real sessions. Nobody sleeps and hopes: one session is seen to wait for another, or all start
together at a barrier."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from helpers import (
    CHILDREN,
    PARENTS,
    PLAN_TABLES,
    Conn,
    Connect,
    Run,
    add_rows,
    at,
    counts,
    delete_run,
    digest,
    insert,
    make_bars,
    make_busy_run,
    make_run,
    make_user,
    pid_of,
    place,
    raises,
    raw_row,
    raw_run,
    rows,
    session,
    set_status,
    snapshot,
    status_of,
    stop,
    tick,
    unchanged,
    update_all,
    value,
    wait_until_blocked,
)


@pytest.fixture
def market(db: Conn) -> None:
    make_bars(db, "AAA", [100 + n % 7 for n in range(80)])
    make_bars(db, "BBB", [50 + n % 5 for n in range(80)])


def together(*calls: Callable[[], Any]) -> list[str | None]:
    """Start all at once; the SQLSTATE of each, None for success."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> str | None:
        barrier.wait(timeout=20)
        try:
            call()
        except psycopg.Error as exc:
            return exc.sqlstate or repr(exc)
        return None

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def outcome(future: Future[Any]) -> str | None:
    """SQLSTATE of a call in the background, None for success."""
    error = future.exception(timeout=30)
    if error is not None and not isinstance(error, psycopg.Error):
        raise error
    return error and error.sqlstate


# --- a raw write and a stop, in both orders, for every table ---


@pytest.fixture
def open_run(db: Conn) -> Run:
    run = raw_run(db)
    add_rows(db, run, PARENTS)
    return run


@pytest.mark.parametrize("table", CHILDREN)
def test_stop_waits_for_a_raw_insert(db, connect: Connect, background, open_run, table):
    writer, stopper = session(connect, autocommit=False), session(connect)
    insert(writer, table, raw_row(table, open_run, 2))
    stopped = background(set_status, stopper, open_run, "STOPPED")
    wait_until_blocked(db, pid_of(stopper), by=pid_of(writer))
    writer.commit()
    assert outcome(stopped) is None
    assert status_of(db, open_run) == "STOPPED"
    assert len(rows(db, table, open_run)) == 2 if table in (*PARENTS, "engine_status") else 1
    assert {o["status"] for o in rows(db, "paper_order", open_run)} == {"CANCELED"}


@pytest.mark.parametrize("table", CHILDREN)
def test_raw_insert_waits_for_a_stop_and_is_refused(db, connect: Connect, background, open_run, table):
    stopper, writer = session(connect, autocommit=False), session(connect)
    set_status(stopper, open_run, "STOPPED")
    written = background(insert, writer, table, raw_row(table, open_run, 2))
    wait_until_blocked(db, pid_of(writer), by=pid_of(stopper))
    stopper.commit()
    assert outcome(written) == "TE001"
    assert status_of(db, open_run) == "STOPPED"
    expected = 1 if table in (*PARENTS, "engine_status") else 0  # the stop's own line in engine_status
    assert len(rows(db, table, open_run)) == expected


@pytest.mark.parametrize("table", PLAN_TABLES)
def test_raw_insert_waits_for_a_stop_that_is_rolled_back(db, connect: Connect, background, open_run, table):
    stopper, writer = session(connect, autocommit=False), session(connect)
    set_status(stopper, open_run, "ERROR")
    written = background(insert, writer, table, raw_row(table, open_run, 2))
    wait_until_blocked(db, pid_of(writer), by=pid_of(stopper))
    stopper.rollback()
    assert outcome(written) is None
    assert status_of(db, open_run) == "RUNNING"
    assert len(rows(db, table, open_run)) == (2 if table in PARENTS else 1)


def test_raw_update_and_stop_wait_for_each_other(db, connect: Connect, background, open_run):
    first, second = session(connect, autocommit=False), session(connect)
    update_all(first, "paper_order", open_run, "quantity")
    stopped = background(set_status, second, open_run, "STOPPED")
    wait_until_blocked(db, pid_of(second), by=pid_of(first))
    first.commit()
    assert outcome(stopped) is None
    assert [o["status"] for o in rows(db, "paper_order", open_run)] == ["CANCELED"]

    run = raw_run(db)
    add_rows(db, run, PARENTS)
    set_status(first, run, "STOPPED")
    updated = background(update_all, second, "paper_order", run, "quantity")
    wait_until_blocked(db, pid_of(second), by=pid_of(first))
    first.commit()
    assert outcome(updated) == "TE001"


def test_raw_insert_and_delete_wait_for_each_other(db, connect: Connect, background, open_run):
    first, second = session(connect, autocommit=False), session(connect)
    insert(first, "paper_order", raw_row("paper_order", open_run, 2))
    deleted = background(delete_run, second, open_run)
    wait_until_blocked(db, pid_of(second), by=pid_of(first))
    first.commit()
    assert outcome(deleted) is None
    assert set(counts(db, open_run).values()) == {0}

    for table in CHILDREN:
        run = raw_run(db)
        add_rows(db, run, PARENTS)
        delete_run(first, run)
        written = background(insert, second, table, raw_row(table, run, 2))
        wait_until_blocked(db, pid_of(second), by=pid_of(first))
        first.commit()
        assert outcome(written) == "23503"
        assert set(counts(db, run).values()) == {0}


# --- verbs against each other ---


def test_tick_and_delete_wait_for_each_other(db, market, connect: Connect, background):
    first, second = session(connect, autocommit=False), session(connect)
    run = make_busy_run(db)
    tick(first, run, 0)
    deleted = background(delete_run, second, run)
    wait_until_blocked(db, pid_of(second), by=pid_of(first))
    first.commit()
    assert outcome(deleted) is None
    assert set(counts(db, run).values()) == {0}

    run = make_busy_run(db)
    delete_run(first, run)
    ticked = background(tick, second, run, 0)
    wait_until_blocked(db, pid_of(second), by=pid_of(first))
    first.commit()
    assert outcome(ticked) == "TE204"
    assert set(counts(db, run).values()) == {0}


@pytest.mark.parametrize("table", ["paper_order", "event_ledger", "mtm_ledger"])
def test_raw_insert_waits_for_a_tick(db, market, connect: Connect, background, table):
    run = make_busy_run(db)
    ticker, writer = session(connect, autocommit=False), session(connect)
    tick(ticker, run, 0)
    added = {"status": "CANCELED", "logical_time": at(0)} if table == "paper_order" else {}
    written = background(insert, writer, table, raw_row(table, run, 70, **added))
    wait_until_blocked(db, pid_of(writer), by=pid_of(ticker))
    before = len(rows(ticker, table, run))
    ticker.commit()
    assert outcome(written) is None
    assert len(rows(db, table, run)) == before + 1


def test_order_and_stop_wait_for_each_other(db, market, connect: Connect, background):
    first, second = session(connect, autocommit=False), session(connect)
    run = make_run(db)
    place(first, run, "AAA", "BUY", 1)
    stopped = background(stop, second, run)
    wait_until_blocked(db, pid_of(second), by=pid_of(first))
    first.commit()
    assert outcome(stopped) is None
    assert [o["status"] for o in rows(db, "paper_order", run)] == ["CANCELED"]

    run = make_run(db)
    stop(first, run)
    placed = background(place, second, run, "AAA", "BUY", 1)
    wait_until_blocked(db, pid_of(second), by=pid_of(first))
    first.commit()
    assert outcome(placed) == "TE001"
    assert rows(db, "paper_order", run) == []


def test_cancel_and_tick_wait_for_each_other(db, market, connect: Connect, background):
    cancel = "select status from cancel_order(%s, %s, 1)"
    first, second = session(connect, autocommit=False), session(connect)
    run = make_run(db)
    place(db, run, "AAA", "BUY", 1)
    tick(first, run, 0)
    canceled = background(value, second, cancel, run)
    wait_until_blocked(db, pid_of(second), by=pid_of(first))
    first.commit()
    assert canceled.result(timeout=30) == "FILLED"  # too late
    assert counts(db, run)["paper_trade"] == 1

    run = make_run(db)
    place(db, run, "AAA", "BUY", 1)
    assert value(first, cancel, run) == "CANCELED"
    ticked = background(tick, second, run, 0)
    wait_until_blocked(db, pid_of(second), by=pid_of(first))
    first.commit()
    assert outcome(ticked) is None
    assert counts(db, run)["paper_trade"] == 0


def test_two_orders_wait_for_each_other_and_share_the_cash(db, market, connect: Connect, background):
    run = make_run(db, 10_000)
    tick(db, run, 0)
    first, second = session(connect, autocommit=False), session(connect)
    assert place(first, run, "AAA", "BUY", 60)["status"] == "PENDING"
    placed = background(place, second, run, "AAA", "BUY", 60)
    wait_until_blocked(db, pid_of(second), by=pid_of(first))
    first.commit()
    order = placed.result(timeout=30)
    assert (order["order_id"], order["reject_reason"]) == (2, "CASH_INSUFFICIENT")


def test_one_client_order_id_from_two_sessions_is_one_order(db, market, connect: Connect, background):
    run = make_run(db)
    first, second = session(connect, autocommit=False), session(connect)
    place(first, run, "AAA", "BUY", 1, client_order_id="c")
    placed = background(place, second, run, "AAA", "BUY", 1, client_order_id="c")
    wait_until_blocked(db, pid_of(second), by=pid_of(first))
    first.commit()
    assert placed.result(timeout=30)["order_id"] == 1
    assert counts(db, run)["paper_order"] == 1


@pytest.mark.parametrize("ends", ["commit", "rollback"])
@pytest.mark.parametrize("start", [make_run, raw_run])
def test_two_starts_of_one_user_make_one_run(db, connect: Connect, background, start, ends):
    user = make_user(db)
    first, second = session(connect, autocommit=False), session(connect)
    start(first, user_id=user)
    started = background(start, second, user_id=user)
    wait_until_blocked(db, pid_of(second), by=pid_of(first))
    if ends == "commit":
        first.commit()
        assert outcome(started) == "23505"
    else:
        first.rollback()
        assert outcome(started) is None
    assert value(db, "select count(*) from strategy_run where user_id = %s", [user]) == 1


def test_start_waits_for_the_stop_of_the_last_run(db, connect: Connect, background):
    run = make_run(db)
    first, second = session(connect, autocommit=False), session(connect)
    stop(first, run)
    started = background(make_run, second, user_id=run.user_id)
    wait_until_blocked(db, pid_of(second), by=pid_of(first))
    first.commit()
    assert outcome(started) is None


@pytest.mark.parametrize("other", ["stop", "raw"])
def test_two_stops_end_a_run_once(db, connect: Connect, background, other):
    run = make_run(db)
    first, second = session(connect, autocommit=False), session(connect)
    stop(first, run, "first")
    way = stop if other == "stop" else set_status
    stopped = background(way, second, run, "STOPPED")
    wait_until_blocked(db, pid_of(second), by=pid_of(first))
    first.commit()
    assert outcome(stopped) == (None if other == "stop" else "TE002")
    assert [(s["status"], s["reason"]) for s in rows(db, "engine_status", run)] == [
        ("RUNNING", None),
        ("STOPPED", "first"),
    ]


def test_tick_all_and_stop_wait_for_each_other(db, market, connect: Connect, background):
    a, b = make_busy_run(db), make_busy_run(db)
    first, second = session(connect, autocommit=False), session(connect)
    first.execute("call tick_all(%s)", [at(0)])
    stopped = background(stop, second, b)
    wait_until_blocked(db, pid_of(second), by=pid_of(first))
    first.commit()
    assert outcome(stopped) is None
    assert counts(db, b)["mtm_ledger"] == 1

    stop(first, a)
    ticked = background(second.execute, "call tick_all(%s)", [at(1)])
    wait_until_blocked(db, pid_of(second), by=pid_of(first))
    first.commit()
    assert outcome(ticked) is None
    assert counts(db, a)["mtm_ledger"] == 1
    assert status_of(db, a) == "STOPPED"


@pytest.mark.parametrize("table", ["mtm_ledger", "paper_equity_curve"])
def test_raw_mark_of_the_time_of_a_tick_does_not_deadlock(db, market, connect: Connect, background, table):
    run = make_run(db)
    ticker, writer = session(connect, autocommit=False), session(connect)
    place(ticker, run, "AAA", "BUY", 1)  # holds the run
    written = background(insert, writer, table, raw_row(table, run, 0))
    wait_until_blocked(db, pid_of(writer), by=pid_of(ticker))
    tick(ticker, run, 0)
    ticker.commit()
    assert outcome(written) == "23505"
    assert len(rows(db, table, run)) == 1


def test_write_then_stop_in_one_transaction_does_not_deadlock_with_a_tick(db, market, connect: Connect, background):
    run = make_busy_run(db)
    first, second = session(connect, autocommit=False), session(connect)
    insert(first, "forbidden_symbol", raw_row("forbidden_symbol", run))
    ticked = background(tick, second, run, 0)
    wait_until_blocked(db, pid_of(second), by=pid_of(first))
    set_status(first, run, "STOPPED")
    first.commit()
    assert outcome(ticked) == "TE001"
    assert counts(db, run)["mtm_ledger"] == 0


# --- all at once ---


def test_many_ticks_of_one_time_all_succeed_once(db, market, connect: Connect):
    twin, run = make_busy_run(db), make_busy_run(db)
    clients = [session(connect) for _ in range(8)]
    for n in range(12):
        tick(db, twin, n)
        calls = [lambda c=c, n=n: tick(c, run, n) for c in clients]
        assert together(*calls) == [None] * len(clients)
        assert digest(db, run) == digest(db, twin)
    assert value(db, "select count(*) from event_ledger where event_type = 'SIP_EXECUTED'") == 2 * 12


def test_ticks_in_any_order_run_forward_or_are_refused(db, market, connect: Connect):
    run, done = make_busy_run(db), []
    clients = [session(connect) for _ in range(6)]
    times = random.Random(7).sample(range(48), 48)
    for i in range(0, len(times), len(clients)):
        batch = times[i : i + len(clients)]
        results = together(*[lambda c=c, n=n: tick(c, run, n) for c, n in zip(clients, batch, strict=True)])
        assert set(results) <= {None, "TE003"}
        done += [n for n, result in zip(batch, results, strict=True) if result is None]
    assert max(times) in done
    ticked = [r["logical_time"][:10] for r in rows(db, "mtm_ledger", run)]
    assert ticked == [f"{at(n):%Y-%m-%d}" for n in sorted(done)]


@pytest.mark.parametrize("way", [stop, set_status])
def test_tick_and_stop_at_one_time_are_one_after_the_other(db, market, connect: Connect, way):
    ticker, stopper = session(connect), session(connect)
    seen: Counter[str] = Counter()
    for _ in range(25):
        run = make_busy_run(db)
        ticked, stopped = together(lambda run=run: tick(ticker, run, 0), lambda run=run: way(stopper, run, "STOPPED"))
        assert stopped is None
        after = counts(db, run)
        assert status_of(db, run) == "STOPPED"
        if ticked is None:
            assert (after["mtm_ledger"], after["paper_equity_curve"], after["event_ledger"]) == (1, 1, 2)
        else:
            assert ticked == "TE001"
            assert after["mtm_ledger"] == after["paper_trade"] == after["event_ledger"] == 0
        seen[ticked or "ticked"] += 1
        with unchanged(db, run), raises("TE001"):
            tick(db, run, 1)
    assert sum(seen.values()) == 25


def test_many_starts_of_one_user_make_one_run(db, connect: Connect):
    clients = [session(connect) for _ in range(8)]
    for _ in range(5):
        user = make_user(db)
        results = together(*[lambda c=c, user=user: make_run(c, user_id=user) for c in clients])
        assert Counter(results) == {None: 1, "23505": 7}


# --- a storm ---

_SECONDS = 8
_USERS = 5
_EXPECTED = {  # what a client of a busy run may be told
    *("TE001", "TE003", "TE204", "TE101"),
    *("23503", "23505"),  # the run is gone; the user has a running one, or the row is there
}


class Storm:
    """Clients that do anything to a few runs, and what they saw of runs that had ended."""

    def __init__(self, seed: int, users: list[int]) -> None:
        self.random = random.Random(seed)
        self.users = users
        self.runs: list[Run] = []  # shared by all threads; appended and sampled, never cleared
        self.frozen: dict[Run, dict[str, list[str]]] = {}
        self.done: Counter[tuple[str, str]] = Counter()
        self.deadline = time.monotonic() + _SECONDS

    def work(self, conn: Conn, seed: int) -> None:
        dice = random.Random(seed)
        acts = [self.tick] * 8 + [self.place] * 4 + [self.write] * 4
        acts += [self.start] * 4 + [self.cancel, self.stop, self.stop_raw, self.delete, self.tick_all]
        while time.monotonic() < self.deadline:
            act = dice.choice(acts)
            run = dice.choice(self.runs[-8:]) if self.runs else Run(0, 0)
            try:
                act(conn, run, dice)
                self.done[act.__name__, "done"] += 1
            except psycopg.Error as exc:
                assert exc.sqlstate in _EXPECTED, f"{act.__name__}: {exc.sqlstate} {exc}"  # noqa: PT017
                self.done[act.__name__, exc.sqlstate or "?"] += 1

    def start(self, conn: Conn, _: Run, dice: random.Random) -> None:
        run = make_busy_run(conn, user_id=dice.choice(self.users))
        self.runs.append(run)

    def tick(self, conn: Conn, run: Run, dice: random.Random) -> None:
        last = value(conn, "select last_logical_time from engine_state where (user_id, run_id) = (%s, %s)", run)
        tick(conn, run, min(79, (last - at(0)).days + dice.choice((0, 1, 1, 1, 2)) if last else 0))

    def tick_all(self, conn: Conn, _: Run, dice: random.Random) -> None:
        conn.execute("call tick_all(%s)", [at(dice.randrange(80))])

    def place(self, conn: Conn, run: Run, dice: random.Random) -> None:
        limit = {"order_type": "LIMIT", "limit_price": dice.randrange(40, 110)} if dice.random() < 0.5 else {}
        place(conn, run, dice.choice(("AAA", "BBB")), dice.choice(("BUY", "SELL")), dice.randrange(5), **limit)

    def cancel(self, conn: Conn, run: Run, dice: random.Random) -> None:
        conn.execute("select cancel_order(%s, %s, %s)", [*run, dice.randrange(1, 20)])

    def write(self, conn: Conn, run: Run, dice: random.Random) -> None:
        k = dice.randrange(2**30)
        table = dice.choice(("engine_status", "paper_order", "event_ledger", "forbidden_symbol", "mtm_ledger"))
        row = raw_row(table, run, dice.randrange(80))
        if table == "paper_order":
            latest = {"logical_time": None, "symbol": "AAA"}
            row |= latest | {"order_id": k, "status": "REJECTED", "reject_reason": "BY_HAND"}
        elif table == "event_ledger":
            row["event_key"] = str(k)
        elif table == "mtm_ledger":  # between two ticks
            row |= {"logical_time": at(dice.randrange(80) + 0.5)}
        insert(conn, table, row)

    def stop(self, conn: Conn, run: Run, dice: random.Random) -> None:
        stop(conn, run)
        self.freeze(conn, run)

    def stop_raw(self, conn: Conn, run: Run, dice: random.Random) -> None:
        conn.execute(
            "update strategy_run set status = 'ERROR' where (user_id, run_id) = (%s, %s) and status = 'RUNNING'",
            run,
        )
        self.freeze(conn, run)

    def freeze(self, conn: Conn, run: Run) -> None:
        """Remember what an ended run holds: whatever is committed later shows as a difference."""
        with conn.transaction():
            conn.execute("set transaction isolation level repeatable read")
            if status_of(conn, run) is not None:
                self.frozen.setdefault(run, snapshot(conn, run))

    def delete(self, conn: Conn, run: Run, dice: random.Random) -> None:
        if dice.random() < 0.5:
            delete_run(conn, run)


_WRITTEN_AFTER_THE_END = """
  select c.* from strategy_run r join (
    select user_id, run_id, xmin from paper_order union all select user_id, run_id, xmin from paper_trade
    union all select user_id, run_id, xmin from mtm_ledger
    union all select user_id, run_id, xmin from event_ledger
    union all select user_id, run_id, xmin from engine_state
    union all select user_id, run_id, xmin from paper_equity_curve) c using (user_id, run_id)
   where r.status <> 'RUNNING' and pg_xact_commit_timestamp(c.xmin) > pg_xact_commit_timestamp(r.xmin)"""


def test_storm_breaks_nothing(db, market, connect: Connect):
    deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
    before = value(db, deadlocks)
    storm = Storm(1, [make_user(db) for _ in range(_USERS)])
    clients = [session(connect) for _ in range(8)]
    with ThreadPoolExecutor(len(clients)) as pool:
        for future in [pool.submit(storm.work, c, seed) for seed, c in enumerate(clients)]:
            future.result()
    for conn in clients:
        conn.close()

    for act in ("tick", "tick_all", "place", "cancel", "write", "start", "stop", "stop_raw", "delete"):
        assert storm.done[act, "done"], f"no {act} succeeded: {storm.done}"
    for act, code in (("tick", "TE001"), ("write", "TE001"), ("start", "23505"), ("tick", "TE204")):
        assert storm.done[act, code], f"no {act} met {code}: {storm.done}"
    ended = [run for run in storm.frozen if status_of(db, run)]
    assert ended
    for run in ended:  # committed after the end: nothing
        assert snapshot(db, run) == storm.frozen[run]
    if value(db, "show track_commit_timestamp") == "on":
        assert db.execute(_WRITTEN_AFTER_THE_END).fetchall() == []
    assert db.execute("select * from violations").fetchall() == []
    assert value(db, deadlocks) == before
