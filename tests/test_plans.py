"""Work stays linear whatever the planner believed when it planned: counted by PostgreSQL itself, never timed.

Each session first calls the verbs on empty tables until its plans are cached, foreign-key checks included, takes all of
it back, and only then meets tables that are full. A plan that was good for nothing but empty tables then reads
thousands of rows for every row that it writes; a good one reads a few.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

import pytest
from helpers import Conn, Connect, Run, at, delete_run, digest, make_run, make_user, place, superuser_only, tick, value

EMPTY = pytest.mark.parametrize("analyzed", [True, False], ids=["vacuumed_empty", "never_analyzed"])


class Reads(NamedTuple):
    """What was done to a table or an index. Of a table: sequential scans and their rows; of an index: its entries."""

    is_table: bool
    scans: int
    tuples: int
    written: int
    pages: int  # heap or index: a search that passes over entries without returning them shows only here


class Work(dict[str, Reads]):
    """Reads of every table and index of public, by name."""

    def tuples(self, *names: str) -> int:
        return sum(self[name].tuples for name in names or self)

    @property
    def written(self) -> int:
        return sum(r.written for r in self.values() if r.is_table)

    @property
    def pages(self) -> int:
        return sum(r.pages for r in self.values())

    def scanned(self) -> dict[str, int]:
        """Tables read from end to end → their rows read that way."""
        return {name: r.tuples for name, r in self.items() if r.is_table and r.scans}

    def check(self, rows: int = 0) -> None:
        """A few reads for each row written, or for each of this many rows that only are read."""
        rows = rows or self.written
        assert rows > 0
        assert self.scanned() == {}
        assert self.tuples() <= 7 * rows + 30, {name: r.tuples for name, r in self.items() if r.tuples > rows}
        assert self.pages <= 28 * rows + 150, {name: r.pages for name, r in self.items() if r.pages > 3 * rows}


def _counters(conn: Conn) -> dict[str, tuple[int, ...]]:
    counts = ("numscans", "tuples_returned", "tuples_inserted", "tuples_updated", "tuples_deleted", "blocks_fetched")
    columns = ", ".join(f"pg_stat_get_xact_{name}(c.oid)" for name in counts)
    query = f"select c.relname, (c.relkind = 'r')::int, {columns} from pg_class c"
    found = conn.execute(query + " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'i')")
    return {name: tuple(numbers) for name, *numbers in found}


def work(conn: Conn, do: Callable[[], object]) -> Work:
    """What a call reads and writes. The counters are this backend's own, and exact within a transaction."""
    with conn.transaction():
        before = _counters(conn)
        do()
        after = _counters(conn)
    done = Work()
    for name, (is_table, *now) in after.items():
        scans, tuples, inserted, updated, deleted, pages = (a - b for a, b in zip(now, before[name][1:], strict=True))
        done[name] = Reads(bool(is_table), scans, tuples, inserted + updated + deleted, pages)
    return done


def make_market(conn: Conn, symbols: int, times: int) -> None:
    """Bars of S1, S2 … at at(0), at(1) …: open 10, low 8, close 10 or 11."""
    conn.execute("insert into instrument (symbol) select 'S' || g from generate_series(1, %s) g", [symbols])
    conn.execute(
        "insert into price_bar (feed, symbol, logical_time, open, high, low, close)"
        " select 'default', 'S' || g, %s + t * interval '1 day', 10, 12, 8, 10 + t %% 2"
        " from generate_series(1, %s) g, generate_series(0, %s - 1) t",
        [at(0), symbols, times],
    )


def make_runs(conn: Conn, count: int, feed: str) -> None:
    """RUNNING runs by plain SQL, each with a weekly SIP."""
    conn.execute("insert into feed values (%s) on conflict do nothing", [feed])
    conn.execute(
        "with u as (insert into app_user select from generate_series(1, %s) returning user_id)"
        " insert into strategy_run (user_id, feed, status, initial_cash) select user_id, %s, 'RUNNING', 100000 from u",
        [count, feed],
    )
    conn.execute(
        "insert into sip_plan (user_id, run_id, sip_id, symbol, amount, frequency, start_date)"
        " select user_id, run_id, 1, 'S1', 100, 'WEEKLY', '2024-01-01' from strategy_run"
        " where run_id not in (select run_id from sip_plan)"
    )


def sip_run(conn: Conn, policy: str = "EVERY_TICK", frequency: str = "DAILY") -> Run:
    user_id = make_user(conn)
    run = Run(user_id, value(conn, "select start_run(%s, 10000000, p_mark_policy => %s)", [user_id, policy]))
    conn.execute("select create_sip(%s, %s, 'S1', 1000, %s, '2024-01-01')", [*run, frequency])
    return run


def replay(conn: Conn, run: Run, first: int, last: int) -> None:
    conn.execute("call replay(%s, %s, %s, %s)", [*run, at(first), at(last)])


def report(conn: Conn, run: Run) -> None:
    digest(conn, run)
    for verb in ("performance", "performance_reasons", "performance_by_symbol", "drawdowns"):
        conn.execute(f"select * from {verb}(%s, %s)", run)
    conn.execute("select * from replay_diff(%s, %s, %s, %s)", [*run, *run])
    conn.execute("select * from equity_between(%s, %s)", run)
    conn.execute("select * from equity_at(%s, %s, %s)", [*run, at(5)])


def plan_on_empty(conn: Conn, analyzed: bool) -> None:
    """Call the verbs until all their plans are cached; nothing that they write stays."""
    if analyzed:
        conn.execute("vacuum analyze")  # the planner now believes that these tables are empty
    with conn.transaction(force_rollback=True):
        make_market(conn, 2, 28)
        for n in range(7):  # a plan is kept from the sixth call on
            run = sip_run(conn)
            weights = '{"S1": 0.3, "S2": 0.3}'
            conn.execute("select create_rebalance(%s, %s, %s, 'DAILY', '2024-01-01')", [*run, weights])
            place(conn, run, "S1", "BUY", 3, client_order_id=f"{n}")
            place(conn, run, "S2", "BUY", 3, order_type="LIMIT", limit_price=9, time_in_force="DAY")
            tick(conn, run, 0)
            replay(conn, run, 1, 7)
            report(conn, run)
            run = sip_run(conn, "EVENTS", "WEEKLY")
            replay(conn, run, 0, 7)
            report(conn, run)
        make_run(conn, user_id=make_user(conn))  # a quiet one
        for n in range(8, 15):
            conn.execute("call tick_all(%s)", [at(n)])


# --- one long run ---


def limit_run(conn: Conn) -> Run:
    """A run with 1,999 limit orders, each accepted at the bar before the one that fills it."""
    run = make_run(conn, 10_000_000, user_id=make_user(conn))
    conn.execute(
        "insert into paper_order (user_id, run_id, order_id, logical_time, symbol, side, order_type, quantity,"
        " limit_price, time_in_force, status) select %s, %s, n, %s + (n - 1) * interval '1 day', 'S1', 'BUY', 'LIMIT',"
        " 1, 9, 'GTC', 'PENDING' from generate_series(1, 1999) n",
        [*run, at(0)],
    )
    return run


@EMPTY
def test_replay_is_linear(db: Conn, analyzed: bool) -> None:
    plan_on_empty(db, analyzed)
    make_market(db, 1, 2000)
    for run in (sip_run(db), limit_run(db)):
        done = work(db, lambda run=run: replay(db, run, 0, 1999))
        fills = done["paper_trade"].written
        assert fills >= 1999
        done.check()
        # the foreign keys' own searches: by the key, about once a row
        assert done.tuples("paper_trade_by_order", "paper_order_client_order_id_is_unique") == 0
        assert done.tuples("paper_trade_pkey") <= 1.1 * fills
        assert done.tuples("paper_order_pkey") <= 4 * fills  # an order that ends is found and updated, too
        assert done.tuples("strategy_run_pkey") <= 1.5 * done.written


# --- many runs ---


@EMPTY
def test_runs_of_others_are_not_read(db: Conn, analyzed: bool) -> None:
    """The guards look a run up by its key: in their statement form too, which replay passes through."""
    plan_on_empty(db, analyzed)
    make_market(db, 1, 300)
    make_runs(db, 2000, "other")
    run = sip_run(db)
    work(db, lambda: tick(db, run, 0)).check()
    work(db, lambda: place(db, run, "S1", "BUY", 1, client_order_id="mine")).check()
    work(db, lambda: replay(db, run, 1, 200)).check()


@EMPTY
def test_a_late_tick_does_not_read_its_history(db: Conn, analyzed: bool) -> None:
    plan_on_empty(db, analyzed)
    make_market(db, 1, 300)
    run = sip_run(db)
    replay(db, run, 0, 250)
    work(db, lambda: tick(db, run, 251)).check()


@EMPTY
def test_tick_all_reads_as_much_a_run_for_many_as_for_few(db: Conn, analyzed: bool) -> None:
    plan_on_empty(db, analyzed)
    make_market(db, 1, 20)
    cost: dict[str, list[tuple[float, float]]] = {"due": [], "quiet": []}
    for runs, first in ((100, 0), (300, 8)):
        make_runs(db, runs - first // 8 * 100, "default")
        db.execute("call tick_all(%s)", [at(first)])  # a weekly SIP: the first slot of all
        for what, n in (("quiet", first + 1), ("due", first + 7)):
            done = work(db, lambda n=n: db.execute("call tick_all(%s)", [at(n)]))
            assert done["mtm_ledger"].written == runs
            assert done["paper_trade"].written == (runs if what == "due" else 0)
            done.check()
            cost[what].append((done.tuples() / runs, done.pages / runs))
    for (few, few_pages), (many, many_pages) in cost.values():
        assert many <= 1.15 * few
        assert many_pages <= 2 * few_pages  # the indexes have grown by a level


@EMPTY
def test_tick_all_does_not_read_runs_of_other_feeds(db: Conn, analyzed: bool) -> None:
    plan_on_empty(db, analyzed)
    make_market(db, 1, 10)
    make_runs(db, 3000, "other")
    make_runs(db, 50, "default")
    for n in (0, 1, 7, 8):  # due, quiet, due, quiet
        work(db, lambda n=n: db.execute("call tick_all(%s)", [at(n)])).check()


# --- a wide market ---


@EMPTY
def test_marks_read_held_symbols_only(db: Conn, analyzed: bool) -> None:
    symbols, first, last = 500, 3, 52
    plan_on_empty(db, analyzed)
    make_market(db, symbols, 60)
    run = make_run(db, 1_000_000)
    place(db, run, "S7", "BUY", 3)
    tick(db, run, 0)
    tick(db, run, 1)
    bars = ("price_bar_pkey", "price_bar_by_time")
    done = work(db, lambda: tick(db, run, 2))
    assert done.tuples(*bars) <= 4
    done.check()
    # The clock alone: the distinct times of a feed cost an index entry a symbol. What replay reads beyond it is a few a time.
    times = last - first + 1
    clock = work(db, lambda: value(db, "select engine.feed_times('default', %s, %s, 512)", [at(first), at(last)]))
    done = work(db, lambda: replay(db, run, first, last))
    assert done["mtm_ledger"].written == times
    assert done.scanned() == {}
    assert done.tuples(*bars) - clock.tuples(*bars) <= 5 * times + 2 * symbols
    assert sum(done[name].pages - clock[name].pages for name in bars) <= 10 * times
    done = work(db, lambda: db.execute("call tick_all(%s)", [at(last + 1)]))
    assert done.tuples(*bars) <= 4
    assert done.scanned() == {}


# --- the rest ---


@EMPTY
def test_reports_read_their_run_only(db: Conn, analyzed: bool) -> None:
    plan_on_empty(db, analyzed)
    make_market(db, 1, 300)
    make_runs(db, 1000, "other")
    run = sip_run(db)
    replay(db, run, 0, 299)
    work(db, lambda: report(db, run)).check(rows=9 * 300)  # each of the reports, and digest, difference and curve


@EMPTY
def test_the_curve_between_stored_marks_is_linear(db: Conn, analyzed: bool) -> None:
    plan_on_empty(db, analyzed)
    make_market(db, 1, 1000)
    run = sip_run(db, "EVENTS", "WEEKLY")
    replay(db, run, 0, 999)
    work(db, lambda: db.execute("select * from equity_between(%s, %s)", run)).check(rows=1000)


def test_the_violations_of_a_run_are_linear(db: Conn) -> None:
    """Without statistics too, when joins of marks look best as loops."""
    make_market(db, 1, 1000)
    run = sip_run(db)
    replay(db, run, 0, 999)
    done = work(db, lambda: db.execute("select * from run_violations(%s, %s)", run))
    assert done.tuples("mtm_ledger", "mtm_ledger_pkey", "paper_equity_curve", "paper_equity_curve_pkey") <= 40 * 1000


def test_deleting_a_run_is_linear(db: Conn) -> None:
    make_market(db, 1, 500)
    run = sip_run(db)
    replay(db, run, 0, 499)
    work(db, lambda: delete_run(db, run)).check()


def test_a_committed_event_of_replay_costs_what_a_tick_costs(db: Conn) -> None:
    make_market(db, 1, 600)
    run = sip_run(db)
    tick(db, run, 0)
    call = "select engine.replay_events(%s, %s, %s, %s, 1, false)"
    work(db, lambda: db.execute(call, [*run, at(1), at(599)])).check()


def test_daily_sip_on_a_listed_calendar_is_linear(db: Conn) -> None:
    make_market(db, 1, 500)
    db.execute("insert into calendar values ('listed', 'UTC')")
    db.execute(
        "insert into market_session select 'listed', logical_time::date, logical_time - interval '6 hours', logical_time"
        " from price_bar"
    )
    db.execute("update feed set calendar = 'listed'")
    run = sip_run(db)
    work(db, lambda: replay(db, run, 0, 499)).check()


# --- one late tick ---


def long_journals_are_refused(conn: Conn) -> None:
    """The context is copied at every call: what is called for each thing that happens must not be given all of them."""
    body = value(conn, "select prosrc from pg_proc where oid = 'engine.note'::regproc")
    conn.execute(
        "create or replace function engine.note(c engine.context, e engine.entry) returns engine.context"
        " language plpgsql immutable as $body$"
        + body.replace("begin", "begin assert coalesce(cardinality(c.journal), 0) < 150;", 1)
        + "$body$"
    )


LATE = {
    "sip": "select create_sip(%s, %s, 'S1', 10, 'DAILY', %s)",
    "sip_each": "select create_sip(%s, %s, 'S1', 10, 'DAILY', %s, p_catch_up => 'EACH')",
    "sip_step_up": "select create_sip(%s, %s, 'S1', 10, 'DAILY', %s, p_step_up_amount => 1, p_step_up_every => 7)",
    "sip_previous": "select create_sip(%s, %s, 'S1', 10, 'DAILY', %s, p_roll => 'PREVIOUS')",
    "rebalance": "select create_rebalance(%s, %s, '{\"S1\": 0.5}', 'DAILY', %s)",
}


@pytest.mark.parametrize("plan", list(LATE.values()), ids=list(LATE))
@pytest.mark.parametrize("calendar", ["ALWAYS", "listed"])
def test_thousands_of_missed_slots_are_linear(db: Conn, calendar: str, plan: str) -> None:
    make_market(db, 1, 1)
    db.execute("insert into calendar values ('listed', 'UTC')")
    db.execute(
        "insert into market_session select 'listed', day::date, day - interval '6 hours', day"
        " from generate_series(%s - interval '2999 days', %s, interval '1 day') day",
        [at(0), at(0)],
    )
    db.execute("update feed set calendar = %s", [calendar])
    run = make_run(db, 10_000_000)
    db.execute(plan, [*run, (at(0) - timedelta(days=2999)).date()])
    long_journals_are_refused(db)
    done = work(db, lambda: tick(db, run, 0))
    assert done["event_ledger"].written == 3000
    assert done["market_session_pkey"].tuples <= 4 * 3000
    done.check()


def test_thousands_of_fills_at_one_bar_are_linear(db: Conn) -> None:
    make_market(db, 1, 2000)
    run = limit_run(db)
    db.execute("update paper_order set logical_time = %s", [at(0)])
    tick(db, run, 0)
    long_journals_are_refused(db)
    done = work(db, lambda: tick(db, run, 1))
    assert done["paper_trade"].written == 1999
    done.check()


def test_the_tenth_tick_of_a_session_plans_nothing(db: Conn, connect: Connect) -> None:
    """The server's own list of memory tells: a statement that is planned anew at every call has a source there, and
    keeps no plan. Sees what is planned anew in a small database; a plan for few values pays more in a large one."""
    superuser_only(db, "it may not look into a backend's memory")
    make_market(db, 5, 60)
    run = sip_run(db)
    db.execute("select create_rebalance(%s, %s, %s, 'DAILY', '2024-01-01')", [*run, '{"S2": 0.3, "S3": 0.3}'])
    place(db, run, "S4", "BUY", 3, order_type="LIMIT", limit_price=1)  # watched in vain
    for n in range(5):
        tick(db, run, n)
    db.execute("analyze")
    session = connect(prepare_threshold=None)
    for n in range(5, 25):
        place(db, run, "S5", "BUY", 3)
        tick(session, run, n)
    found = session.execute(
        "select ident, count(*) filter (where name = 'CachedPlan') from pg_backend_memory_contexts"
        " where name in ('CachedPlan', 'CachedPlanSource') and ident <> '' group by 1"
    ).fetchall()
    assert len(found) > 40
    assert [ident for ident, generic in found if not generic] == []
