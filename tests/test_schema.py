"""The schema is what tests/schema.golden.txt says, and its code can be rebuilt at any moment under running sessions."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from difflib import unified_diff
from pathlib import Path
from typing import Any, TypeAlias

import psycopg

from engine_py.install import sql_dir
from tests.model import Bar
from tests.schema_dump import dump
from tests.scripts import Bench, Run, Script

Conn: TypeAlias = psycopg.Connection[Any]
Connect: TypeAlias = Callable[..., Conn]

GOLDEN = Path(__file__).with_name("schema.golden.txt")
CODE = "\n".join(p.read_text(encoding="utf-8") for p in sorted(sql_dir().glob("[0-9][0-9]_*.sql")) if p.name >= "20")
TIMES = [datetime(2024, 1, 2, tzinfo=UTC) + timedelta(hours=n) for n in range(400)]


def test_schema_is_the_committed_one(db: Conn) -> None:
    found = dump(db)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(found, encoding="utf-8")
    expected = GOLDEN.read_text(encoding="utf-8")
    difference = "\n".join(
        unified_diff(expected.splitlines(), found.splitlines(), GOLDEN.name, "database", lineterm="", n=0)
    )
    hint = "If the change is meant: UPDATE_GOLDEN=1 python -m pytest tests/test_schema.py, and commit the file."
    assert not difference, f"\n{difference}\n\n{hint}"


def test_every_table_and_every_public_verb_has_a_comment(db: Conn) -> None:
    silent = db.execute(
        """select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'v')
              and obj_description(oid, 'pg_class') is null
           union all
           select proname from pg_proc where pronamespace = 'public'::regnamespace
              and obj_description(oid, 'pg_proc') is null"""
    ).fetchall()
    assert not silent


# --- rebuilding the code ---


def rebuild(conn: Conn) -> None:
    with conn.transaction():
        conn.execute(CODE, prepare=False)


def busy_run(db: Conn, connect: Connect) -> tuple[Run, Conn]:
    """A run with something to do at each of TIMES, and a second session whose plans for it are cached."""
    bars = {at: Bar(*[Decimal(10 + n % 7)] * 4) for n, at in enumerate(TIMES)}
    bench = Bench(db)
    run = bench.run(bench.feed(Script("ALWAYS", {"Zed": bars}, Decimal(10000))), Decimal(10000))
    run.call("create_sip", symbol="Zed", amount=Decimal(10), frequency="DAILY", start=date(2024, 1, 2))
    run.call("create_rebalance", weights={"Zed": Decimal("0.5")}, frequency="DAILY", start=date(2024, 1, 2))
    conn = connect()
    ticker = Run(conn, run.user_id, run.run_id)
    for at in TIMES[:12]:
        ticker.call("place_order", symbol="Zed", side="BUY", quantity=Decimal(1))
        ticker.call("tick", logical_time=at)
    return ticker, conn


def ticks(run: Run) -> list[datetime]:
    return [row[0] for row in run.rows()["mtm_ledger"]]


def is_blocked(db: Conn, conn: Conn) -> bool:
    row = db.execute("select cardinality(pg_blocking_pids(%s)) > 0", [conn.info.backend_pid]).fetchone()
    return bool(row and row[0])


def run_in_thread(action: Callable[[], None]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def body() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    return thread, errors


def wait_until_blocked(db: Conn, conn: Conn, thread: threading.Thread) -> None:
    deadline = time.monotonic() + 20
    while not is_blocked(db, conn):
        assert thread.is_alive(), "it did not wait"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_rebuild_waits_for_a_tick_in_flight_and_holds_back_the_next(db: Conn, connect: Connect) -> None:
    run, ticking = busy_run(db, connect)
    before = dump(db, "public", "engine")
    rebuilding, queued = connect(), connect()
    next_run = Run(queued, run.user_id, run.run_id)
    queued.execute("select * from violations")  # caches plans and catalog entries of its own
    next_run.call("tick", logical_time=TIMES[11])

    ticking.execute("begin")
    run.call("tick", logical_time=TIMES[12])
    rebuild_thread, rebuild_errors = run_in_thread(lambda: rebuild(rebuilding))
    wait_until_blocked(db, rebuilding, rebuild_thread)
    tick_thread, tick_errors = run_in_thread(lambda: next_run.call("tick", logical_time=TIMES[13]))
    wait_until_blocked(db, queued, tick_thread)
    ticking.execute("commit")
    rebuild_thread.join(60)
    tick_thread.join(60)
    assert (rebuild_errors, tick_errors) == ([], [])
    assert ticks(run) == TIMES[:14]
    assert dump(db, "public", "engine") == before
    # the sessions from before the rebuild go on
    run.call("tick", logical_time=TIMES[14])
    next_run.call("tick", logical_time=TIMES[15])
    run.call("place_order", symbol="Zed", side="BUY", quantity=Decimal(1))
    run.call("replay", **{"from": TIMES[0], "to": TIMES[20], "commit_every": 2})
    run.conn.execute("call tick_all(%s, %s)", [TIMES[21], "feed 1"])
    assert ticks(run) == TIMES[:22]
    assert not db.execute("select * from violations").fetchall()


def test_rebuild_that_fails_leaves_everything_as_it_was(db: Conn, connect: Connect) -> None:
    run, _ = busy_run(db, connect)
    before = dump(db, "public", "engine")
    try:
        with db.transaction():
            db.execute(CODE + "\nselect 1 / 0;", prepare=False)
    except psycopg.errors.DivisionByZero:
        pass
    assert dump(db, "public", "engine") == before
    run.call("tick", logical_time=TIMES[12])


def test_session_that_ticks_in_a_loop_notices_none_of_ten_rebuilds(db: Conn, connect: Connect) -> None:
    run, ticking = busy_run(db, connect)
    rebuilding, stop = connect(), threading.Event()
    done: list[datetime] = TIMES[:12]

    def loop() -> None:
        for at in TIMES[12:]:
            if stop.is_set():
                return
            run.call("tick", logical_time=at)
            done.append(at)
            time.sleep(0.002)

    thread, errors = run_in_thread(loop)
    counts = []
    for _ in range(10):
        rebuild(rebuilding)
        counts.append(len(done))
    stop.set()
    thread.join(60)
    assert errors == []
    assert counts[-1] > counts[0], "no tick came between the rebuilds"
    assert ticks(Run(db, run.user_id, run.run_id)) == done
    assert not ticking.closed
