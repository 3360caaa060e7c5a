"""mark_policy: which ticks store their marks, and that the others are computed to the same digits."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from desk import Conn, D, Market, Run, at, call, refused, rows, val
from helpers import raw_run
from hypothesis import given
from hypothesis import strategies as st

from tests.model import COLUMNS
from tests.scripts import BRIEF, CALENDARS, Bench, Script, examples, scripts
from tests.scripts import Run as Scripted
from tests.test_equivalence import by_replay, by_replay_in_parts, by_tick, by_tick_all, in_turns, play

Connect = Callable[..., Conn]
Drive = Callable[[Run, list[datetime], Connect], None]

POLICIES = ("EVERY_TICK", "SESSION", "EVENTS")
SPARSE = POLICIES[1:]
MARKS = ("mtm_ledger", "paper_equity_curve")
OTHERS = ("paper_order", "paper_trade", "paper_position", "cash_ledger", "event_ledger", "engine_state", "strategy_run")
MICROSECOND = timedelta(microseconds=1)


def stored(run: Run, table: str = "paper_equity_curve") -> list[datetime]:
    return [t for (t,) in run.table("logical_time", table, "1")]


def stored_rows(run: Run, table: str, times: Iterable[datetime] | None = None) -> list[tuple[str, ...]]:
    """The marks at these times (null: all) to the last digit, without the key of the run."""
    columns = {
        "mtm_ledger": ("market_value", "cost_basis", "unrealized_pnl", "realized_pnl"),
        "paper_equity_curve": ("cash", "market_value", "equity"),
    }[table]
    found = run.table(f"logical_time, {', '.join(c + '::text' for c in columns)}", table, "1")
    wanted = None if times is None else set(times)
    return [row for row in found if wanted is None or row[0] in wanted]


def digest(run: Run) -> str:
    return str(val(run.conn, "select run_digest(%s, %s)", *run.key))


def metrics(run: Run) -> dict[str, Any]:
    return dict(rows(run.conn, "select metric, value::text from performance(%s, %s)", *run.key))


def equity_at(run: Run, time: Any) -> list[tuple[str, ...]]:
    query = "select logical_time, cash::text, market_value::text, equity::text from equity_at(%s, %s, %s)"
    return rows(run.conn, query, *run.key, time)


def equity_between(run: Run, since: Any = None, upto: Any = None) -> list[tuple[str, ...]]:
    query = "select logical_time, cash::text, market_value::text, equity::text from equity_between(%s, %s, %s, %s)"
    return rows(run.conn, query, *run.key, since, upto)


def step(run: Run, verb: str, time: Any) -> Any:
    return run.call(verb, logical_time=run.market.at(time) if isinstance(time, str) else time)


# --- which rows are stored -------------------------------------------------------------------------------------------

# On a calendar a time belongs to the first session that closes at or after it: what comes after hours, to the next.
# 2024-01-08 is a session without any bar; 2024-01-05 20:00 belongs to it.
SESSIONS = [
    ("2024-01-02", "09:30", "16:00"),
    ("2024-01-03", "09:30", "16:00"),
    ("2024-01-04", "09:30", "13:00"),
    ("2024-01-05", "09:30", "16:00"),
    ("2024-01-08", "09:30", "16:00"),
    ("2024-01-09", "09:30", "16:00"),
]
A = {
    "2024-01-02 08:00": 100,
    "2024-01-02 10:00": 101,
    "2024-01-02 12:00": 102,
    "2024-01-02 16:00": 103,
    "2024-01-02 18:00": 104,
    "2024-01-03 10:00": 105,
    "2024-01-03 15:00": (100, 106, 88, 105),
    "2024-01-04 10:00": 104,
    "2024-01-04 13:00": (85, 90, 78, "88.0005"),
    "2024-01-04 15:00": 108,
    "2024-01-05 09:30": 109,
    "2024-01-05 11:00": 110,
    "2024-01-05 20:00": (140, 141, 70, "140.55"),
    "2024-01-09 10:00": 112,
    "2024-01-09 12:00": 113,
}
SHARED = {
    "SESSION": ["2024-01-02 16:00", "2024-01-03 15:00", "2024-01-04 13:00", "2024-01-05 11:00", "2024-01-05 20:00"],
    "EVENTS": [
        "2024-01-02 08:00",  # the first
        "2024-01-02 10:00",  # a fill
        "2024-01-02 16:00",  # an expiry
        "2024-01-03 15:00",  # a fill
        "2024-01-04 10:00",  # a slot that executed
        "2024-01-04 13:00",  # a rejection at the fill
        "2024-01-05 11:00",  # a slot that was skipped: paused
    ],
    "EVERY_TICK": [*A],
}
SKIPPING = [
    "2024-01-02 08:00",
    "2024-01-02 12:00",
    "2024-01-03 10:00",
    "2024-01-04 15:00",
    "2024-01-09 10:00",
    "2024-01-09 12:00",
]
SHARED_SKIPPING = {
    "SESSION": ["2024-01-02 12:00", "2024-01-03 10:00", "2024-01-04 15:00"],
    "EVENTS": SKIPPING[:-1],
    "EVERY_TICK": SKIPPING,
}
# ALWAYS has a session a UTC day: (00:00, 24:00]
B = {
    "2024-01-02 06:00": 100,
    "2024-01-02 18:00": 101,
    "2024-01-03 00:00": 102,
    "2024-01-03 12:00": 103,
    "2024-01-04 12:00": 104,
    "2024-01-04 20:00": 105,
    "2024-01-06 00:00": 106,
    "2024-01-06 06:00": 107,
}
ALWAYS = {
    "SESSION": ["2024-01-03 00:00", "2024-01-03 12:00", "2024-01-04 20:00", "2024-01-06 00:00"],
    "EVENTS": ["2024-01-02 06:00", "2024-01-02 18:00", "2024-01-03 00:00", "2024-01-04 12:00"],
    "EVERY_TICK": [*B],
}


def calendar_run(conn: Conn, policy: str) -> Run:
    """A run that has everything to do from its first tick on, so that nothing need be called in between."""
    market = Market(conn, SESSIONS, symbols=["A", "B"])
    market.bars("A", A)
    market.bars("B", {t: 10 for t in [*A][::3]})
    run = Run(market, 10_000, mark_policy=policy)
    run.place("A", "BUY", 10)
    run.place("A", "BUY", 1, limit=50, time_in_force="DAY")  # expires at the close of the first day
    run.place("A", "BUY", 5, limit=90)
    run.place("A", "BUY", 1, limit=75)  # reached after hours only
    run.place("A", "BUY", 30, limit=80)
    run.call("set_risk_limit", max_position=20)  # too many by now
    run.sip("B", 100, "WEEKLY", "2024-01-04")
    run.call("pause_sip", sip_id=run.sip("B", 100, "MONTHLY", "2024-01-05"))
    return run


def always_run(conn: Conn, policy: str) -> Run:
    market = Market(conn, symbols=["A"])
    market.bars("A", B)
    run = Run(market, 10_000, mark_policy=policy)
    run.tick("2024-01-02 06:00")
    run.place("A", "BUY", 10)
    run.place("A", "BUY", 10, limit=1, time_in_force="DAY")
    run.sip("A", 100, "WEEKLY", "2024-01-04")
    return run


def tick_each(run: Run, times: list[datetime], connect: Connect) -> None:
    for t in times:
        run.tick(t)


def tick_all_each(run: Run, times: list[datetime], connect: Connect) -> None:
    for t in times:
        run.conn.execute("call tick_all(%s, %s)", [t, run.market.feed])


def replay(run: Run, since: datetime, upto: datetime, every: int | None = None, conn: Conn | None = None) -> None:
    (conn or run.conn).execute("call replay(%s, %s, %s, %s, %s)", [*run.key, since, upto, every])


def replay_whole(run: Run, times: list[datetime], connect: Connect) -> None:
    replay(run, times[0], times[-1])


def replay_by_1(run: Run, times: list[datetime], connect: Connect) -> None:
    replay(run, times[0], times[-1], 1)


def replay_by_2(run: Run, times: list[datetime], connect: Connect) -> None:
    replay(run, times[0], times[-1], 2)


def replay_each(run: Run, times: list[datetime], connect: Connect) -> None:
    for t in times:
        replay(run, t, t)


def replay_ranges(run: Run, times: list[datetime], connect: Connect) -> None:
    """Some of them again."""
    for n in range(0, len(times), 3):
        replay(run, times[max(0, n - 2)], times[min(n + 2, len(times) - 1)])


def replay_killed(run: Run, times: list[datetime], connect: Connect) -> None:
    """By each trade in turn: its session ends itself there. Then once more, unharmed."""
    run.conn.execute(
        "create function die() returns trigger language plpgsql security definer as $$ begin"
        " perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(10); return new; end $$"
    )
    killed = 0
    for trade, every in ((1, 1), (2, 2), (3, 1), (4, 1)):
        run.conn.execute(
            f"create trigger die before insert on paper_trade for each row when (new.user_id = {run.user_id}"
            f" and new.trade_id = {trade}) execute function die()"
        )
        victim = connect()
        try:
            replay(run, times[0], times[-1], every, victim)
        except psycopg.OperationalError as error:
            if error.sqlstate != "57P01":
                raise
            killed += 1
        run.conn.execute("drop trigger die on paper_trade")
        assert run.rules() == set()
    run.conn.execute("drop function die()")
    assert killed == 3
    replay(run, times[0], times[-1], 2)


def mixed(run: Run, times: list[datetime], connect: Connect) -> None:
    ways = (tick_each, replay_by_1, tick_all_each, replay_whole)
    for n in range(0, len(times), 2):
        ways[n // 2 % 4](run, times[n : n + 2], connect)


ALL_TIMES: list[Drive] = [
    *(tick_each, tick_all_each, replay_whole, replay_by_1, replay_by_2),
    *(replay_each, replay_ranges, replay_killed, mixed),
]
ANY_TIMES: list[Drive] = [tick_each, tick_all_each, replay_each]


def assert_every_way_stores(
    make: Callable[[Conn, str], Run],
    conn: Conn,
    connect: Connect,
    clock: Sequence[str],
    wanted: dict[str, list[str]],
    ways: list[Drive],
) -> None:
    times = [at(t) for t in clock]
    twin = make(conn, "EVERY_TICK")
    tick_each(twin, times, connect)
    for policy in POLICIES:
        expected = [at(t) for t in wanted[policy]]
        digests = {}
        for way in ways:
            run = make(conn, policy)
            way(run, times, connect)
            name = f"{policy} {way.__name__}"
            for table in MARKS:
                assert stored(run, table) == expected, name
                assert stored_rows(run, table) == stored_rows(twin, table, expected), name
            for table in OTHERS[:5]:
                assert [r[2:] for r in run.table("*", table, "1, 2, 3")] == [
                    r[2:] for r in twin.table("*", table, "1, 2, 3")
                ], name
            digests[name] = digest(run)
            before = run.snapshot()
            for again in (tick_each, tick_all_each):  # nothing is owed any more
                again(run, times, connect)
            assert run.snapshot() == before, name
        assert len(set(digests.values())) == 1, digests
        assert (digest(twin) in digests.values()) == (expected == stored(twin))
    assert rows(conn, "select * from violations") == []


def test_rows_of_each_policy_on_a_calendar_by_every_way_to_drive(db: Conn, connect: Connect) -> None:
    assert_every_way_stores(calendar_run, db, connect, [*A], SHARED, ALL_TIMES)


def test_what_the_calendar_run_does(tx: Conn) -> None:
    """The events that the expected rows of EVENTS stand for did happen, and only they."""
    run = calendar_run(tx, "EVERY_TICK")
    tick_each(run, [at(t) for t in A], lambda: tx)
    assert run.orders() == [
        "FILLED",
        "EXPIRED",
        "FILLED",
        "PENDING",
        "REJECTED POSITION_LIMIT_EXCEEDED",
        "FILLED",
    ]
    closed = {t for (t,) in run.table("closed_time", "paper_order", "order_id") if t}
    assert run.events() == [("SIP_EXECUTED", "1:0"), ("SIP_SKIPPED_PAUSED", "2:0")]
    closed |= {t for (t,) in run.table("logical_time", "event_ledger", "1")}
    assert sorted(closed) == [at(t) for t in SHARED["EVENTS"][1:]]


def test_rows_of_each_policy_with_ticks_left_out(db: Conn, connect: Connect) -> None:
    """A mark is that tick's: what fills on a bar after it, before the next tick, is not in it."""
    assert_every_way_stores(calendar_run, db, connect, SKIPPING, SHARED_SKIPPING, ANY_TIMES)


def test_rows_of_each_policy_on_always_by_every_way_to_drive(db: Conn, connect: Connect) -> None:
    ways = [way for way in ALL_TIMES if way is not replay_killed]
    assert_every_way_stores(always_run, db, connect, [*B], ALWAYS, ways)


@pytest.mark.parametrize("every", [None, 1, 3])
def test_tick_all_moves_runs_of_all_policies_of_one_feed(db: Conn, every: int | None) -> None:
    """Busy and quiet runs of one batch, each by its own policy."""
    first = calendar_run(db, "EVENTS")
    others = [
        Run(first.market, 10_000, mark_policy=p) for p in ("SESSION", "EVENTS", "EVERY_TICK", "EVENTS", "SESSION")
    ]
    others[3].place("A", "BUY", 1, limit=90)
    others[4].place("A", "BUY", 1, limit=90)
    for t in A:
        db.execute("call tick_all(%s, %s, %s)", [at(t), first.market.feed, every])
    quiet = [*A][:1]
    wanted = (SHARED["EVENTS"], SHARED["SESSION"], quiet, A, [*quiet, "2024-01-03 15:00"], SHARED["SESSION"])
    for run, times in zip([first, *others], wanted, strict=True):
        for table in MARKS:
            assert stored(run, table) == [at(t) for t in times]
        assert run.rules() == set()


@pytest.mark.parametrize("way", [tick_each, tick_all_each, replay_whole, replay_each])
def test_a_tick_at_the_close_stores_its_marks_at_once(tx: Conn, way: Drive) -> None:
    """Not only when a later one leaves it behind."""
    for make, first, close in (
        (calendar_run, "2024-01-02 12:00", "2024-01-02 16:00"),
        (calendar_run, "2024-01-04 10:00", "2024-01-04 13:00"),
        (always_run, "2024-01-02 18:00", "2024-01-03 00:00"),
    ):
        run = make(tx, "SESSION")
        way(run, [at(first), at(close)], lambda: tx)
        assert stored(run) == stored(run, "mtm_ledger") == [at(close)]
        assert run.rules() == set()


def test_long_quiet_spans_store_what_ticks_store(db: Conn, connect: Connect) -> None:
    """More times than replay takes at once, and more sessions than it holds in memory: 200 days of five bars."""
    first = datetime(2024, 1, 1, tzinfo=UTC)
    clock = [first + timedelta(days=d, hours=4 * h) for d in range(200) for h in (1, 2, 3, 4, 5)]
    runs = {}
    for policy in SPARSE:
        for way in (tick_each, replay_whole, replay_by_2):
            market = Market(db, symbols=["A"])
            market.bars("A", {t: 100 + n % 7 for n, t in enumerate(clock)})
            run = runs[policy, way.__name__] = Run(market, 10_000, mark_policy=policy)
            run.sip("A", 10, "QUARTERLY", "2024-01-02")
            way(run, clock, connect)
        assert len({digest(run) for (p, _), run in runs.items() if p == policy}) == 1
    assert stored(runs["SESSION", "tick_each"]) == clock[4:-1:5]
    assert stored(runs["EVENTS", "tick_each"]) == [clock[0], clock[5], *(t for t in clock if t in slots(runs))]


def slots(runs: dict[Any, Run]) -> set[datetime]:
    found = runs["EVENTS", "tick_each"].table("logical_time", "event_ledger", "1")
    return {t for (t,) in found[1:]}


# --- against a twin that stores every mark ---------------------------------------------------------------------------


def start(bench: Bench, feed: str, script: Script, policy: str) -> Scripted:
    query = "select u, start_run(u, %s, %s, p_mark_policy => %s) from create_user('x') u"
    row = bench.conn.execute(query, [script.cash, feed, policy]).fetchone()
    assert row
    return Scripted(bench.conn, *row)


def expected_marks(policy: str, twin: dict[str, list[tuple[Any, ...]]], calendar: str) -> set[datetime]:
    """The times a run of this policy stores, from what its twin went through. Nothing of it is asked of the engine."""
    ticks = [row[0] for row in twin["paper_equity_curve"]]
    if policy == "SESSION":
        sessions = CALENDARS[calendar].sessions
        closes = None if sessions is None else sorted(s.close_at for s in sessions)

        def close_of(t: datetime) -> datetime:
            if closes is not None:
                return closes[bisect_left(closes, t)]
            midnight = datetime.combine(t, time(0), UTC)
            return t if t == midnight else midnight + timedelta(days=1)

        return {t for t in ticks if close_of(t) == t} | {t for t, after in pairwise(ticks) if after > close_of(t)}
    happened = [row[1 + 1] for row in twin["paper_trade"]] + [row[0] for row in twin["event_ledger"]]
    for order in twin["paper_order"]:
        accepted, status, closed = order[1], order[8], order[14]
        if status in ("REJECTED", "EXPIRED") and closed is not None and (accepted is None or closed > accepted):
            happened.append(closed)
    return {*ticks[:1], *(ticks[bisect_left(ticks, t)] for t in happened)}


def canceled_or_triggered(twin: dict[str, list[tuple[Any, ...]]]) -> set[datetime]:
    ticks = [row[0] for row in twin["paper_equity_curve"]]
    closed, triggered = COLUMNS["paper_order"].index("closed_time"), COLUMNS["paper_order"].index("triggered_time")
    times = {order[closed] for order in twin["paper_order"] if order[8] == "CANCELED"}
    times |= {order[triggered] for order in twin["paper_order"]}
    return {ticks[bisect_left(ticks, t)] for t in times if t is not None and t <= ticks[-1]} if ticks else set()


def assert_twins(twin: Scripted, run: Scripted, policy: str, calendar: str, name: str) -> int:
    """Returns how many marks were computed."""
    ours, theirs = run.rows(), twin.rows()
    for table in OTHERS:
        assert ours[table] == theirs[table], f"{name} {table}"
    wanted = expected_marks(policy, theirs, calendar)
    # rows do not tell whether the engine or a hand canceled an order
    maybe = canceled_or_triggered(theirs) if policy == "EVENTS" else set()
    for table in MARKS:
        stored = {row[0] for row in ours[table]}
        assert wanted <= stored <= wanted | maybe, f"{name} {table}"
        assert ours[table] == [row for row in theirs[table] if row[0] in stored], f"{name} {table}"
    wanted = {row[0] for row in ours["mtm_ledger"]}
    keys = [run.user_id, run.run_id, twin.user_id, twin.run_id]
    different = rows(
        run.conn,
        "select e.logical_time, a.* from paper_equity_curve e left join lateral equity_at(%s, %s, e.logical_time) a on true"
        " where e.user_id = %s and e.run_id = %s and (a.logical_time, a.cash::text, a.market_value::text, a.equity::text)"
        " is distinct from (e.logical_time, e.cash::text, e.market_value::text, e.equity::text)",
        *keys,
    )
    assert different == [], f"{name} equity_at"
    return len(theirs["mtm_ledger"]) - len(wanted)


def text_rows(run: Scripted, query: str) -> list[Any]:
    return rows(run.conn, f"select v::text from {query}(%s, %s) with ordinality v", run.user_id, run.run_id)


def test_random_runs_of_each_policy_equal_their_twins(db: Conn) -> None:
    bench = Bench(db)
    computed = dict.fromkeys(SPARSE, 0)
    ways = [by_tick, by_replay, by_replay_in_parts, in_turns, by_tick_all]

    @examples(120, 1500)
    @given(scripts(every_time=True), st.randoms(use_true_random=False))
    def check(script: Script, chance: random.Random) -> None:
        twin = start(bench, bench.feed(script), script, "EVERY_TICK")
        play(twin, script.calls, by_tick)
        for policy in SPARSE:
            run, way = start(bench, bench.feed(script), script, policy), chance.choice(ways)
            play(run, script.calls, way)
            name = f"{policy} {way.__name__}"
            computed[policy] += assert_twins(twin, run, policy, script.calendar, name)
            curve = rows(
                db,
                "select row(logical_time, cash, market_value, equity)::text from paper_equity_curve"
                " where user_id = %s and run_id = %s order by logical_time",
                *(twin.user_id, twin.run_id),
            )
            found = rows(
                db,
                "select row(logical_time, cash, market_value, equity)::text from equity_between(%s, %s)",
                *(run.user_id, run.run_id),
            )
            assert found == curve, f"{name} equity_between"
            query = "select metric, value::text from performance(%s, %s)"
            ours, theirs = (rows(db, query, r.user_id, r.run_id) for r in (run, twin))
            assert ours == theirs, f"{name} performance"

    check()
    assert rows(db, "select * from violations") == []
    assert BRIEF or min(computed.values()) > 200, computed


def test_random_runs_whose_ticks_skip_and_return_equal_their_twins(db: Conn) -> None:
    """Ticks that leave out times, come again, come too late, or lie past the calendar."""
    bench = Bench(db)

    def by_tick_or_refusal(run: Scripted, times: list[datetime]) -> None:
        for t in times:
            try:
                run.call("tick", logical_time=t)
            except psycopg.Error as error:
                if error.sqlstate not in ("TE001", "TE003", "TE203"):
                    raise

    def by_tick_all_or_refusal(run: Scripted, times: list[datetime]) -> None:
        for t in times:
            try:
                by_tick_all(run, [t])
            except psycopg.Error as error:
                if error.sqlstate != "TE203":
                    raise

    @examples(40, 1000)
    @given(scripts(), st.randoms(use_true_random=False))
    def check(script: Script, chance: random.Random) -> None:
        twin = start(bench, bench.feed(script), script, "EVERY_TICK")
        play(twin, script.calls, by_tick_or_refusal)
        for policy in SPARSE:
            run = start(bench, bench.feed(script), script, policy)
            way = chance.choice([by_tick_or_refusal, by_tick_all_or_refusal])
            play(run, script.calls, way)
            assert_twins(twin, run, policy, script.calendar, f"{policy} {way.__name__}")

    check()
    assert rows(db, "select * from violations") == []


# --- equity_at and equity_between ------------------------------------------------------------------------------------

FIRST, NOON, CLOSE, SECOND, NO_BAR, LAST, BEYOND = (
    at(f"2024-01-{t}") for t in ("02 10:00", "02 12:00", "02 16:00", "03 10:00", "03 16:00", "04 10:00", "04 12:00")
)
CURVE = [  # cash, market value
    (FIRST, "10000.0000", "0.0000", "10000.0000"),
    (NOON, "8900.0000", "1100.0000", "10000.0000"),
    (CLOSE, "8900.0000", "1200.0000", "10100.0000"),
    (SECOND, "8900.0000", "1300.0100", "10200.0100"),  # 10 at 130.0005, rounded half up
    (NO_BAR, "7700.0000", "2500.0100", "10200.0100"),  # A has no bar: at its last close
    (LAST, "7700.0000", "2700.0000", "10400.0000"),
]
STORED = {"EVERY_TICK": [0, 1, 2, 3, 4, 5], "SESSION": [2, 4], "EVENTS": [0, 1, 4]}


def curve_market(conn: Conn) -> Market:
    market = Market(conn, SESSIONS)
    market.bars("A", {FIRST: 100, NOON: 110, CLOSE: 120, SECOND: "130.0005", LAST: 150, BEYOND: 160})
    market.bars("B", {FIRST: 10, NO_BAR: 12})
    return market


def curve_run(conn: Conn, policy: str, ticks: Sequence[datetime] = tuple(row[0] for row in CURVE)) -> Run:
    run = Run(curve_market(conn), 10_000, mark_policy=policy)
    for t in ticks:
        run.tick(t)
        if t == FIRST:
            run.place("A", "BUY", 10)
            run.place("B", "BUY", 100)
    return run


@pytest.fixture(params=POLICIES)
def curve(tx: Conn, request: pytest.FixtureRequest) -> Run:
    """Ticked at each time of CURVE; one feed time lies beyond."""
    run = curve_run(tx, request.param)
    for table in MARKS:
        assert stored(run, table) == [CURVE[i][0] for i in STORED[request.param]]
    return run


def test_equity_at(curve: Run) -> None:
    for row in CURVE:
        assert equity_at(curve, row[0]) == [row]
    off_the_clock = {
        NOON - MICROSECOND: 0,
        NOON + MICROSECOND: 1,
        at("2024-01-02 14:00"): 1,
        at("2024-01-02 23:00"): 2,
        NO_BAR - MICROSECOND: 3,
        NO_BAR + MICROSECOND: 4,
        LAST - MICROSECOND: 4,
    }
    for t, i in off_the_clock.items():
        assert equity_at(curve, t) == [(t, *CURVE[i][1:])]
    for t in (FIRST - MICROSECOND, LAST + MICROSECOND, BEYOND, "infinity", "-infinity", None):
        assert equity_at(curve, t) == []


def test_equity_between(curve: Run) -> None:
    assert equity_between(curve) == CURVE
    for i, (since, *_) in enumerate(CURVE):
        for j, (upto, *_) in enumerate(CURVE):
            assert equity_between(curve, since, upto) == CURVE[i : j + 1]
        assert equity_between(curve, since) == CURVE[i:]
        assert equity_between(curve, since + MICROSECOND) == CURVE[i + 1 :]
        assert equity_between(curve, None, since) == CURVE[: i + 1]
        assert equity_between(curve, None, since - MICROSECOND) == CURVE[:i]
    assert equity_between(curve, "-infinity", "infinity") == CURVE
    assert equity_between(curve, LAST + MICROSECOND) == equity_between(curve, None, FIRST - MICROSECOND) == []
    assert equity_between(curve, BEYOND, BEYOND) == []


def test_performance_is_that_of_the_whole_curve(tx: Conn) -> None:
    whole, *others = (curve_run(tx, policy) for policy in POLICIES)
    expected = metrics(whole)
    assert D(expected["equity"]) == 10_400
    assert expected["twr"] is not None
    for run in others:
        assert metrics(run) == expected


def test_curve_of_a_run_that_has_ended(curve: Run) -> None:
    before = metrics(curve)
    curve.call("stop_run")
    assert equity_between(curve) == CURVE
    assert [equity_at(curve, row[0]) for row in CURVE] == [[row] for row in CURVE]
    assert metrics(curve) == before


def test_stored_marks_stay_and_computed_ones_follow_a_corrected_bar(curve: Run) -> None:
    curve.conn.execute(
        "update price_bar set open = 50, high = 50, low = 50, close = 50 where feed = %s and logical_time = %s",
        [curve.market.feed, CLOSE],
    )
    corrected = (CLOSE, "8900.0000", "500.0000", "9400.0000")
    expected = CURVE[2] if CLOSE in stored(curve) else corrected
    assert equity_at(curve, CLOSE) == [expected]
    assert equity_between(curve) == [*CURVE[:2], expected, *CURVE[3:]]
    later = CLOSE + timedelta(hours=1)
    assert equity_at(curve, later) == [(later, *corrected[1:])]


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_was_before_the_first_tick(tx: Conn, policy: str) -> None:
    run = curve_run(tx, policy, [])
    for bounds in ((None, None), (FIRST, LAST), (None, LAST), (FIRST, None), ("-infinity", "infinity")):
        assert equity_between(run, *bounds) == [], bounds
    assert [equity_at(run, t) for t in (FIRST, NOON, LAST)] == [[]] * 3


@pytest.mark.parametrize("policy", POLICIES)
def test_a_step_is_no_tick(tx: Conn, policy: str) -> None:
    """Nothing is known of the times after a step: the run has had no tick there."""
    run = curve_run(tx, policy, [])
    run.sip("A", 1000, "WEEKLY", "2024-01-02")
    assert step(run, "try_execute_sip", NOON) == 1
    for bounds in ((None, None), (FIRST, LAST), (None, LAST), (CLOSE, LAST), (CLOSE, None)):
        assert equity_between(run, *bounds) == [], bounds
    assert equity_at(run, CLOSE) == []


@pytest.mark.parametrize("policy", POLICIES)
def test_a_stored_mark_off_the_clock_is_in_the_curve(tx: Conn, policy: str) -> None:
    between = NOON + timedelta(hours=1)
    run = curve_run(tx, policy, [between, CLOSE])
    row = (between, "10000.0000", "0.0000", "10000.0000")
    assert equity_at(run, between) == [row]
    assert equity_between(run) == [row, (CLOSE, *row[1:])][1 if policy == "SESSION" else 0 :]


@pytest.mark.parametrize("policy", POLICIES)
def test_equity_of_no_run(tx: Conn, policy: str) -> None:
    run = curve_run(tx, policy)
    for user_id, run_id in ((run.user_id, -1), (-1, run.run_id), (None, None)):
        with refused(tx, "TE204"):
            rows(tx, "select * from equity_at(%s, %s, %s)", user_id, run_id, FIRST)
        with refused(tx, "TE204"):
            rows(tx, "select * from equity_between(%s, %s)", user_id, run_id)


@pytest.mark.parametrize("policy", POLICIES)
def test_equity_is_that_of_the_run_alone(tx: Conn, policy: str) -> None:
    """Another run of the same user on the same feed, and one of another user, change nothing."""
    run = curve_run(tx, policy)
    run.call("stop_run")
    other = Run.__new__(Run)
    other.market, other.conn, other.user_id = run.market, tx, run.user_id
    for others in (other.start(77, mark_policy="EVENTS"), Run(run.market, 88, mark_policy="EVENTS")):
        others.tick(FIRST)
        others.tick(LAST)
    assert equity_between(run) == CURVE
    assert equity_at(other, NOON) == [(NOON, "77.0000", "0.0000", "77.0000")]


# --- single steps ----------------------------------------------------------------------------------------------------

T1, T2, T3, T4, N1, N2, N3 = (
    at(f"2024-01-{t}") for t in ("02 10:00", "02 11:00", "02 12:00", "02 16:00", "03 10:00", "03 11:00", "03 16:00")
)


def stepping_run(conn: Conn, policy: str, *ticks: datetime) -> Run:
    market = Market(conn, SESSIONS)
    market.bars("A", {t: 100 + n for n, t in enumerate((T1, T2, T3, T4, N1, N2, N3))})
    market.bars("B", {t: 10 for t in (T1, T2, T3, T4, N1, N2, N3)})
    run = Run(market, 10_000, mark_policy=policy)
    for t in ticks:
        run.tick(t)
    return run


def steps(run: Run, t: datetime) -> None:
    for verb in ("match_orders", "try_execute_sip", "try_rebalance", "log_mtm", "record_equity"):
        step(run, verb, t)


def busy(run: Run) -> None:
    """An order, a SIP slot and a rebalance slot, all due at the first open time."""
    run.place("A", "BUY", 10)
    run.sip("B", 100, "WEEKLY", "2024-01-02")
    run.rebalance('{"A": 0.2, "B": 0.1}', "WEEKLY", "2024-01-02")


@pytest.mark.parametrize("verb", ["match_orders", "try_execute_sip", "try_rebalance", "log_mtm", "record_equity"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_step_that_writes_leaves_the_session_of_the_last_tick(tx: Conn, policy: str, verb: str) -> None:
    run = stepping_run(tx, policy, T1)
    run.place("A", "BUY", 1)
    run.tick(T2)
    run.tick(T3)
    busy(run)
    before = {table: stored(run, table) for table in MARKS}
    value = equity_at(run, T3)
    assert step(run, verb, N1)
    added = [T3] if policy == "SESSION" else []
    own = {"log_mtm": "mtm_ledger", "record_equity": "paper_equity_curve"}.get(verb)
    for table in MARKS:
        assert stored(run, table) == before[table] + added + ([N1] if own == table else [])
    assert equity_at(run, T3) == value == [(T3, "9899.0000", "102.0000", "10001.0000")]
    run.tick(N1)  # once only, and whole
    assert stored(run) == stored(run, "mtm_ledger")
    assert stored(run)[: len(before["mtm_ledger"] + added)] == before["mtm_ledger"] + added
    assert run.rules() == set()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_step_that_finds_nothing_to_do_leaves_nothing(tx: Conn, policy: str) -> None:
    run = stepping_run(tx, policy, T1, T2)
    run.place("A", "BUY", 1, limit=1)
    before = run.snapshot()
    for verb in ("match_orders", "try_execute_sip", "try_rebalance"):
        assert step(run, verb, N1) == 0
        assert step(run, verb, T3) == 0
    assert run.snapshot() == before
    run.tick(T3)  # and the session is not left
    assert stored(run) == {"EVERY_TICK": [T1, T2, T3], "SESSION": [], "EVENTS": [T1]}[policy]


@pytest.mark.parametrize("verb", ["log_mtm", "record_equity"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_tick_completes_a_time_that_a_step_has_closed(tx: Conn, policy: str, verb: str) -> None:
    run = stepping_run(tx, policy, T1)
    run.place("A", "BUY", 1)
    step(run, "match_orders", T2)
    assert step(run, verb, T2) is True
    assert step(run, verb, T2) is False
    assert [stored(run, table)[-1:] == [T2] for table in MARKS] == [verb == "log_mtm", verb == "record_equity"]
    run.place("A", "BUY", 1, client_order_id="late")
    run.tick(T2)
    assert len(run.trades()) == 1  # the time was closed
    for table in MARKS:
        assert stored(run, table) == ([T2] if policy == "SESSION" else [T1, T2])
    assert equity_at(run, T2) == [(T2, "9899.0000", "101.0000", "10000.0000")]
    assert run.rules() == set()
    run.tick(N1)
    assert stored(run)[-1] == (N1 if policy != "SESSION" else T2)


@pytest.mark.parametrize("how", ["tick", "replay", "tick_all"])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_way_completes_a_time_that_a_step_has_closed(tx: Conn, policy: str, how: str) -> None:
    run = stepping_run(tx, policy, T1, T2, T3)
    step(run, "log_mtm", N1)
    for t in (N1, N2):
        run.tick(t) if how == "tick" else replay(run, t, t) if how == "replay" else tick_all_each(run, [t], lambda: tx)
    wanted = {"EVERY_TICK": [T1, T2, T3, N1, N2], "SESSION": [T3, N1], "EVENTS": [T1, N1]}[policy]
    assert stored(run) == stored(run, "mtm_ledger") == wanted
    assert run.rules() == set()


@pytest.mark.parametrize("how", ["tick", "replay", "tick_all"])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_way_completes_a_time_that_a_raw_row_has_closed(tx: Conn, policy: str, how: str) -> None:
    run = stepping_run(tx, policy, T1, T2, T3)
    tx.execute("insert into mtm_ledger values (%s, %s, %s, 0, 0, 0, 0)", [*run.key, N1])
    run.tick(N1) if how == "tick" else replay(run, N1, N1) if how == "replay" else tick_all_each(run, [N1], lambda: tx)
    assert run.rules() == set()
    assert stored(run) == stored(run, "mtm_ledger")
    assert stored(run) == {"EVERY_TICK": [T1, T2, T3, N1], "SESSION": [T3, N1], "EVENTS": [T1, N1]}[policy]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("done", range(1, 4))
@pytest.mark.parametrize("first", [True, False])
def test_steps_and_then_the_tick_store_what_the_tick_alone_stores(
    tx: Conn, policy: str, done: int, first: bool
) -> None:
    alone, stepped = (stepping_run(tx, policy, *([] if first else [T1])) for _ in range(2))
    for run in (alone, stepped):
        busy(run)
    for verb in ("match_orders", "try_execute_sip", "try_rebalance")[:done]:
        assert step(stepped, verb, T2)
    for run in (alone, stepped):
        for t in (T2, T3, N1):
            run.tick(t)
    assert stored(alone) == stored(alone, "mtm_ledger")
    assert T2 in stored(alone) or policy == "SESSION"
    for table in MARKS:
        assert stored_rows(stepped, table) == stored_rows(alone, table)
    assert digest(stepped) == digest(alone)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_tick_after_a_step_of_an_earlier_time_stores_what_the_tick_alone_stores(tx: Conn, policy: str) -> None:
    """Something has happened since the last tick, whether the tick found it or a step."""
    alone, stepped = (stepping_run(tx, policy, T1) for _ in range(2))
    for run in (alone, stepped):
        run.place("A", "BUY", 10)
    assert step(stepped, "match_orders", T2) == 1
    for run in (alone, stepped):
        for t in (T3, T4, N1):
            run.tick(t)
    for table in MARKS:
        assert stored_rows(stepped, table) == stored_rows(alone, table)
    assert digest(stepped) == digest(alone)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_first_tick_is_stored_though_a_step_came_before(tx: Conn, policy: str) -> None:
    run = stepping_run(tx, policy)
    run.sip("A", 1000, "WEEKLY", "2024-01-02")
    assert step(run, "try_execute_sip", T1) == 1
    for t in (T2, T3, N1):
        run.tick(t)
    wanted = {"EVERY_TICK": [T2, T3, N1], "SESSION": [T3], "EVENTS": [T2]}[policy]
    assert stored(run) == stored(run, "mtm_ledger") == wanted
    assert run.rules() == set()


@pytest.mark.parametrize("how", ["tick", "replay", "tick_all", "log_mtm"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_left_mark_has_the_holdings_of_its_tick_not_of_a_later_step(tx: Conn, policy: str, how: str) -> None:
    run = stepping_run(tx, policy, T1, T2)
    run.place("A", "BUY", 10)
    assert step(run, "match_orders", T3) == 1  # in the same session, after its last tick
    if how == "log_mtm":
        step(run, "log_mtm", N1)
    elif how == "tick_all":
        tick_all_each(run, [N1], lambda: tx)
    else:
        run.tick(N1) if how == "tick" else replay(run, N1, N1)
    assert equity_at(run, T2) == [(T2, "10000.0000", "0.0000", "10000.0000")]
    assert run.rules() == set()
    assert (T2 in stored(run)) == (policy == "EVERY_TICK")  # SESSION too leaves it to equity_at
    if how != "log_mtm":  # that is no tick: the run is still at T2
        t = T2 + MICROSECOND
        assert equity_at(run, t) == [(t, "10000.0000", "0.0000", "10000.0000")]
        assert equity_at(run, T3) == [(T3, "8980.0000", "1020.0000", "10000.0000")] or policy == "EVERY_TICK"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_ticked_time_is_closed_to_steps_though_its_mark_is_not_stored(tx: Conn, policy: str) -> None:
    run = stepping_run(tx, policy, T1, T2)
    busy(run)
    before = run.snapshot()
    for verb in ("match_orders", "try_execute_sip", "try_rebalance"):
        assert step(run, verb, T2) == 0
    assert run.snapshot() == before


@pytest.mark.parametrize("verbs", [("log_mtm",), ("record_equity",), ("log_mtm", "record_equity")])
@pytest.mark.parametrize("policy", POLICIES)
def test_half_a_mark_of_the_last_tick_does_not_stay(tx: Conn, policy: str, verbs: tuple[str, ...]) -> None:
    run = stepping_run(tx, policy, T1, T2)
    for verb in verbs:
        step(run, verb, T2)
        assert run.rules() == set()
    run.tick(T2)
    run.tick(N1)
    run.tick(N2)
    assert stored(run) == stored(run, "mtm_ledger")
    assert (T2 in stored(run)) or policy == "EVENTS"
    assert run.rules() == set()


@pytest.mark.parametrize("policy", POLICIES)
def test_steps_of_an_earlier_ticked_time_write_nothing(tx: Conn, policy: str) -> None:
    run = stepping_run(tx, policy, T1, T2, T3)
    busy(run)
    before = run.snapshot()
    for verb in ("match_orders", "try_execute_sip", "try_rebalance", "log_mtm", "record_equity"):
        for t in (T1, T2):
            if t in stored(run):
                assert step(run, verb, t) in (0, False)
            else:
                try:
                    with tx.transaction():
                        assert step(run, verb, t) in (0, False)
                except psycopg.Error as error:
                    if error.sqlstate != "TE003":
                        raise
    assert run.snapshot() == before


@pytest.mark.parametrize("policy", POLICIES)
def test_a_repeated_tick_is_quiet_and_one_before_the_first_is_refused(tx: Conn, policy: str) -> None:
    run = stepping_run(tx, policy, T2, T4, N1, N2)
    before = run.snapshot()
    for again in (1, 2):
        for t in (T2, T4, N1, N2):
            run.tick(t)
            replay(run, t, t)
        for t in (T1, T2 - MICROSECOND):
            with refused(tx, "TE003" if again == 1 else "TE001"):
                run.tick(t)
        for t in (T3, T4 + MICROSECOND):  # in between, never ticked: only EVERY_TICK can tell
            if policy == "EVERY_TICK":
                with refused(tx, "TE003" if again == 1 else "TE001"):
                    run.tick(t)
            else:
                run.tick(t)
        with refused(tx, "TE003" if again == 1 else "TE001"):
            replay(run, T1, N2)
        if policy == "EVERY_TICK":
            with refused(tx, "TE003" if again == 1 else "TE001"):
                replay(run, T2, N2)
        else:
            replay(run, T2, N2)
        tick_all_each(run, [T1, T2, T3, N2], lambda: tx)
        assert run.snapshot() == before
        if again == 1:
            run.call("stop_run")
            before = run.snapshot()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_refused_tick_leaves_no_session(tx: Conn, policy: str) -> None:
    """Nor does one that is rolled back: the mark waits for a tick that stays."""
    run = stepping_run(tx, policy, T1, T2)
    before = run.snapshot()
    with refused(tx, "TE203"):
        run.tick("2024-01-09 16:01")
    assert run.snapshot() == before
    with tx.transaction() as transaction:
        run.tick(N1)
        raise psycopg.Rollback(transaction)
    assert run.snapshot() == before
    run.tick(N1)
    assert stored(run) == {"EVERY_TICK": [T1, T2, N1], "SESSION": [T2], "EVENTS": [T1]}[policy]


# --- refusals --------------------------------------------------------------------------------------------------------


def test_mark_policy_is_one_of_three(tx: Conn) -> None:
    market = Market(tx)
    user_id = val(tx, "select create_user('x')")
    for policy in ("NEVER", "every_tick", "", " EVENTS", None):
        with refused(tx, "TE101", argument="mark_policy"):
            call(tx, "start_run", user_id=user_id, initial_cash=1, feed=market.feed, mark_policy=policy)
    assert rows(tx, "select * from strategy_run where user_id = %s", user_id) == []
    for policy in ("NEVER", "events", ""):
        with refused(tx, "23514"):
            raw_run(tx, mark_policy=policy)
    with refused(tx, "23502"):
        raw_run(tx, mark_policy=None)


def test_mark_policy_is_every_tick_when_nobody_says(tx: Conn) -> None:
    run = Run(Market(tx))
    raw = raw_run(tx)
    for key in (run.key, raw):
        assert val(tx, "select mark_policy from strategy_run where user_id = %s and run_id = %s", *key) == "EVERY_TICK"
    for policy in POLICIES:
        run = Run(Market(tx), mark_policy=policy)
        assert run.table("mark_policy", "strategy_run", "1") == [(policy,)]


UPDATE = "update strategy_run set mark_policy = %s where user_id = %s and run_id = %s"


@pytest.mark.parametrize("policy", POLICIES)
def test_mark_policy_never_changes_once_there_is_state(tx: Conn, policy: str) -> None:
    for run in (stepping_run(tx, policy), stepping_run(tx, policy, T1, T2)):
        before = run.snapshot()
        for other in POLICIES:
            if other != policy:
                with refused(tx, "TE004"):
                    tx.execute(UPDATE, [other, *run.key])
        tx.execute(UPDATE, [policy, *run.key])
        assert run.snapshot() == before
        run.call("stop_run")
        with refused(tx, "TE002"):
            tx.execute(UPDATE, ["EVENTS", *run.key])


def test_a_raw_run_has_its_policy_from_its_first_call_on(tx: Conn) -> None:
    market = curve_market(tx)
    for policy in POLICIES:
        raw = raw_run(tx, feed=market.feed, initial_cash=10_000, mark_policy=POLICIES[POLICIES.index(policy) - 1])
        tx.execute(UPDATE, [policy, *raw])
        for t, *_ in CURVE:
            tx.execute("call tick(%s, %s, %s)", [*raw, t])
        run = Run.__new__(Run)
        run.market, run.conn, run.user_id, run.run_id = market, tx, *raw
        quiet = {"EVERY_TICK": [t for t, *_ in CURVE], "SESSION": [CLOSE, NO_BAR], "EVENTS": [FIRST]}
        assert stored(run) == stored(run, "mtm_ledger") == quiet[policy]
        with refused(tx, "TE004"):
            tx.execute(UPDATE, [POLICIES[POLICIES.index(policy) - 1], *raw])
        assert run.rules() == set()


# --- the end of a run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["stop_run", "fail_run", "update"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_that_ends_before_its_session_does_adds_no_mark(tx: Conn, policy: str, verb: str) -> None:
    run = stepping_run(tx, policy, T1)
    run.place("A", "BUY", 1)
    run.tick(T2)
    run.tick(T3)
    whole = equity_between(run)
    assert [row[0] for row in whole] == [T1, T2, T3]
    before = {table: stored(run, table) for table in MARKS}
    if verb == "update":
        tx.execute("update strategy_run set status = 'STOPPED' where user_id = %s and run_id = %s", run.key)
    else:
        run.call(verb, **({"error": "x"} if verb == "fail_run" else {}))
    after = run.snapshot()
    for t in (T2, T3):  # ticked already
        run.tick(t)
        replay(run, T1, t)
    for t in (T4, N1):
        with refused(tx, "TE001"):
            run.tick(t)
        with refused(tx, "TE001"):
            replay(run, T1, t)
        tick_all_each(run, [t], lambda: tx)
        for name in ("match_orders", "log_mtm", "record_equity"):
            with refused(tx, "TE001"):
                step(run, name, t)
    assert run.snapshot() == after
    assert {table: stored(run, table) for table in MARKS} == before
    assert stored(run) == {"EVERY_TICK": [T1, T2, T3], "SESSION": [], "EVENTS": [T1, T2]}[policy]
    assert equity_between(run) == whole
    assert run.rules() == set()


def test_deleting_a_run_of_each_policy_deletes_its_marks(tx: Conn) -> None:
    for policy in POLICIES:
        run = stepping_run(tx, policy, T1, T2, N1)
        assert stored(run)
        tx.execute("delete from strategy_run where user_id = %s and run_id = %s", run.key)
        assert stored(run) == stored(run, "mtm_ledger") == []
        with refused(tx, "TE204"):
            equity_between(run)
