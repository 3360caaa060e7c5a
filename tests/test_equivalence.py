"""tick, replay and tick_all are three ways to the same rows: run_digest says so, and replay_diff names what is not."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from psycopg import sql

from engine_py.feed import load_bundled
from tests.model import Bar
from tests.scripts import Bench, Call, Run, Script, examples, scripts
from tests.scripts_actions import action_scripts

Conn: TypeAlias = psycopg.Connection[Any]
Connect: TypeAlias = Callable[..., Conn]
Drive: TypeAlias = Callable[[Run, list[datetime]], None]

D = Decimal


def by_tick(run: Run, times: list[datetime]) -> None:
    with run.conn.pipeline():
        for at in times:
            run.call("tick", logical_time=at)


def by_replay(run: Run, times: list[datetime], **options: Any) -> None:
    arguments = {"from": times[0], "to": times[-1], **options}
    run.call("replay", **arguments)


def by_replay_in_parts(run: Run, times: list[datetime]) -> None:
    """Pieces that end with their events or, as often, with their times."""
    part = "select replay_part(%s, %s, %s, %s, 3, %s, 4)"
    key = run.user_id, run.run_id
    is_first = True
    while not one(run.conn, part, *key, times[0], times[-1], is_first):
        is_first = False


def by_tick_all(run: Run, times: list[datetime]) -> None:
    feed = one(run.conn, "select feed from strategy_run where user_id = %s and run_id = %s", run.user_id, run.run_id)
    for at in times:
        run.conn.execute("call tick_all(%s, %s)", [at, feed])


def by_match_and_tick(run: Run, times: list[datetime]) -> None:
    """The matching alone, twice, before each tick: it must find nothing left to do."""
    for at in times:
        for step in ("match_orders", "match_orders", "tick"):
            run.call(step, logical_time=at)


def in_turns(run: Run, times: list[datetime]) -> None:
    drives = [by_tick, by_replay, by_tick_all, by_replay_in_parts]
    for n in range(0, len(times), 3):
        drives[n // 3 % 4](run, times[n : n + 3])


# tick_all moves every run of a feed: give each run a feed of its own
DRIVES: dict[str, Drive] = {f.__name__: f for f in (by_tick, by_replay, by_replay_in_parts, in_turns, by_tick_all)}


def one(conn: Conn, query: Any, *parameters: Any) -> Any:
    row = conn.execute(query, parameters).fetchone()
    return row and row[0]


def play(run: Run, calls: list[Call], drive: Drive) -> None:
    """Make the calls; consecutive ticks go to `drive` in one piece. Refusals of other calls are part of the script."""
    for is_tick, group in groupby(calls, lambda call: call.verb == "tick"):
        if is_tick:
            drive(run, [call.arguments["logical_time"] for call in group])
        else:
            for call in group:
                try:
                    run.call(call.verb, **call.arguments)
                except psycopg.Error as error:
                    note(f"{call!r} {error.sqlstate}")


def assert_same(run: Run, other: Run, name: str) -> None:
    keys = [run.user_id, run.run_id, other.user_id, other.run_id]
    difference = run.conn.execute("select d::text from replay_diff(%s, %s, %s, %s) d limit 20", keys).fetchall()
    assert not difference, f"{name}: {difference}"
    assert run.digest() == other.digest(), name
    assert run.rows() == other.rows(), name


@pytest.mark.parametrize("orders", [False, True])
def test_dr_01_every_way_to_drive_a_random_script_gives_the_same_rows(db: Conn, orders: bool) -> None:
    bench = Bench(db)

    @examples(60, 1500)
    @given(
        scripts(every_time=True, orders=True)
        if orders
        else scripts(every_time=True) | scripts(every_time=True, plans=True),
        st.randoms(use_true_random=False),
    )
    def check(script: Script, chance: random.Random) -> None:
        first, *_ = runs = [bench.run(bench.feed(script), script.cash, **script.terms) for _ in DRIVES]
        for run, drive in zip(runs, DRIVES.values(), strict=True):
            play(run, script.calls, drive)
        # the same bars, stored in another order
        order = list(range(sum(map(len, script.bars.values()))))
        chance.shuffle(order)
        runs.append(bench.run(bench.feed(script, shuffled=order), script.cash, **script.terms))
        play(runs[-1], script.calls, chance.choice([by_tick, by_replay, by_tick_all]))
        for run, name in zip(runs[1:], [*list(DRIVES)[1:], "shuffled bars"], strict=True):
            assert_same(first, run, name)
        # and again: nothing is owed any more
        for run, drive in zip(runs, DRIVES.values(), strict=False):
            times = [call.arguments["logical_time"] for call in script.calls if call.verb == "tick"]
            if times:
                drive(run, times)
        assert len({run.digest() for run in runs}) == 1

    check()


def test_dr_01_every_way_to_drive_a_script_of_actions_gives_the_same_rows(db: Conn) -> None:
    bench = Bench(db)
    drives: dict[str, Drive] = {**DRIVES, "match alone": by_match_and_tick}

    @examples(60, 600)
    @given(action_scripts(every_time=True))
    def check(script: Script) -> None:
        runs = []
        for name, drive in drives.items():
            # a row that comes later has not come yet
            runs.append(bench.run(bench.feed(script), script.cash, **script.terms))
            play(runs[-1], script.calls, drive)
            assert_same(runs[0], runs[-1], name)
        # and again, with all rows there: nothing is owed any more
        times = [call.arguments["logical_time"] for call in script.calls if call.verb == "tick"]
        for run, drive in zip(runs, DRIVES.values(), strict=False):
            if times:
                drive(run, times)
        assert len({run.digest() for run in runs}) == 1

    check()


LATE = ("paper_order", "paper_trade", "paper_position", "cash_ledger")


def test_dr_01_orders_do_not_care_how_often_the_run_ticks(db: Conn) -> None:
    """At every bar, with the matching called alone before, or once for all bars since the last call: only marks differ."""
    bench = Bench(db)

    def tick_late(run: Run, times: list[datetime]) -> None:
        by_tick(run, times[-1:])

    @examples(100, 2500)
    @given(scripts(every_time=True, orders=True))
    def check(script: Script) -> None:
        often, steps, late = (bench.run(bench.feed(script), script.cash, **script.terms) for _ in range(3))
        first = next((n for n, call in enumerate(script.calls) if call.verb == "tick"), 0) + 1  # no tick is late for it
        for run, drive in ((often, by_tick), (steps, by_match_and_tick), (late, tick_late)):
            play(run, script.calls[:first], drive)
            play(run, script.calls[first:], drive)
        assert_same(often, steps, "the matching alone")
        for table in LATE:
            assert often.rows()[table] == late.rows()[table], table

    check()


# --- thirteen years of five stocks ---


@pytest.fixture
def bundled(db: Conn) -> tuple[Bench, list[datetime]]:
    """A database with the bundled data, and its clock."""
    load_bundled(db, feed="bundled")
    bench = Bench(db)
    return bench, [
        at for (at,) in db.execute("select distinct logical_time from price_bar where feed = 'bundled' order by 1")
    ]


STOCKS = ("AAPL", "FB", "GOOG", "IBM", "MSFT")


def monthly_sip(run: Run) -> None:
    run.call("create_sip", symbol="MSFT", amount=D(500), frequency="MONTHLY", start=date(2000, 3, 31))


def portfolio(run: Run) -> None:
    """SIPs, a quarterly rebalance and orders around the first prices; those that never fill stay open for 13 years."""
    for n, symbol in enumerate(STOCKS):
        up = {"step_up_percent": D("7.5"), "step_up_every": 12} if n % 2 else {}
        sip: dict[str, Any] = {
            "frequency": ("MONTHLY", "WEEKLY")[n % 2],
            "roll": ("NEXT", "PREVIOUS", "SKIP")[n % 3],
        }
        # FB has its first price in 2012: until then its slots stay due
        start = date(2011, 6, 1) if symbol == "FB" else date(2000, 3, 1 + 6 * n)
        run.call("create_sip", symbol=symbol, amount=D(300 + n), start=start, **sip, **up)
    weights = dict(zip(STOCKS, map(D, ("0.2", "0.1", "0.2", "0.3", "0.1")), strict=True))
    run.call("create_rebalance", weights=weights, frequency="QUARTERLY", start=date(2000, 4, 3), band=D("0.02"))
    for symbol, limits in {
        "IBM": ("60", "70", "80.5", "55.01"),
        "AAPL": ("10", "20", "30.25"),
        "MSFT": ("15", "21"),
    }.items():
        for n, limit in enumerate(limits):
            tif = ("GTC", "DAY")[n % 2]
            arguments: dict[str, Any] = {"symbol": symbol, "quantity": D(10 + n), "order_type": "LIMIT"}
            run.call("place_order", side="BUY", limit_price=D(limit), time_in_force=tif, **arguments)


@pytest.mark.parametrize("strategy", [monthly_sip, portfolio])
def test_dr_01_thirteen_years_by_tick_replay_and_tick_all(
    bundled: tuple[Bench, list[datetime]], strategy: Callable[[Run], None]
) -> None:
    bench, clock = bundled
    late = clock[-500:]
    runs = {name: bench.run("bundled", D(1_000_000)) for name in ("tick", "replay", "replay in parts", "tick_all")}
    for run in runs.values():
        strategy(run)
    by_tick(runs["tick"], clock)
    by_replay(runs["replay"], clock)
    by_replay(runs["replay in parts"], clock, commit_every=50)
    by_replay(runs["tick_all"], clock[: -len(late)])
    by_tick_all(runs["tick_all"], late)
    for name, run in runs.items():
        assert_same(runs["tick"], run, name)
    rows = runs["tick"].rows()
    assert len(rows["mtm_ledger"]) == len(clock)
    assert len(rows["paper_trade"]) >= 156
    before = runs["tick"].digest()
    by_replay(runs["tick"], clock)
    by_replay(runs["replay"], clock, commit_every=7)
    by_tick(runs["replay"], clock[:: len(clock) // 20])
    by_tick_all(runs["replay"], clock[-2:])
    assert {run.digest() for run in runs.values()} == {before}


def wait_until(conn: Conn, query: str, *parameters: Any) -> None:
    deadline = time.monotonic() + 30
    while not one(conn, query, *parameters):
        assert time.monotonic() < deadline, query
        time.sleep(0.005)


@contextmanager
def pause_at(conn: Conn, table: str, condition: str, key: int = 4711) -> Iterator[None]:
    """While the block runs, a session that is about to insert such a row into `table` waits for an advisory lock."""
    conn.execute(
        f"create function pause() returns trigger language plpgsql as $$ begin"
        f" perform pg_advisory_xact_lock({key}); return new; end $$"
    )
    conn.execute(
        f"create trigger pause before insert on {table} for each row when ({condition}) execute function pause()"
    )
    conn.execute("select pg_advisory_lock(%s)", [key])
    try:
        yield
    finally:
        conn.execute("select pg_advisory_unlock(%s)", [key])
        conn.execute(f"drop trigger pause on {table}")
        conn.execute("drop function pause()")


def test_ir_02_replay_killed_half_way_is_finished_by_calling_it_again(
    bundled: tuple[Bench, list[datetime]], connect: Connect
) -> None:
    bench, clock = bundled
    whole, killed = (bench.run("bundled", D(1_000_000)) for _ in range(2))
    for run in (whole, killed):
        portfolio(run)
    by_replay(whole, clock)
    whole_events = {key: at for at, kind, key, _ in whole.rows()["event_ledger"] if kind.startswith("SIP")}
    for slot, commit_every in (("1:30", 5), ("1:60", 1), ("1:100", None)):
        victim = connect()
        errors: list[psycopg.Error] = []
        keys = [killed.user_id, killed.run_id]

        def replay(conn: Conn = victim, every: int | None = commit_every, errors: list[Any] = errors) -> None:
            try:
                by_replay(Run(conn, killed.user_id, killed.run_id), clock, commit_every=every)
            except psycopg.Error as error:
                errors.append(error)

        with pause_at(bench.conn, "event_ledger", f"new.event_key = '{slot}' and new.event_type like 'SIP%'"):
            thread = threading.Thread(target=replay)
            thread.start()
            wait_until(
                bench.conn,
                "select exists (select from pg_stat_activity where pid = %s and wait_event = 'advisory')",
                victim.info.backend_pid,
            )
            bench.conn.execute("select pg_terminate_backend(%s)", [victim.info.backend_pid])
            thread.join()
        assert errors
        marks = one(bench.conn, "select count(*) from mtm_ledger where user_id = %s and run_id = %s", *keys)
        assert 0 < marks < len(clock)
        last = max(at for at, kind, *_ in killed.rows()["event_ledger"] if kind.startswith("SIP"))
        assert last < whole_events[slot]
        assert not bench.conn.execute("select * from violations").fetchall()
    by_replay(killed, clock, commit_every=100)
    assert_same(whole, killed, "killed three times")


# --- what must not matter ---

SETTINGS = {
    "TimeZone": ["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Apia"],
    "DateStyle": ["ISO, MDY", "SQL, DMY", "German", "Postgres, YMD"],
    "IntervalStyle": ["postgres", "sql_standard", "iso_8601", "postgres_verbose"],
    "extra_float_digits": ["1", "3", "-15", "0"],
    "search_path": ["public", '"$user", public', "pg_catalog, public", "pg_temp, public"],
    "bytea_output": ["hex", "escape"],
    "plan_cache_mode": ["auto", "force_custom_plan", "force_generic_plan"],
    "enable_hashjoin": ["on", "off"],
    "enable_indexscan": ["on", "off"],
    "enable_sort": ["on", "off"],
    "jit": ["on", "off"],
    "transform_null_equals": ["off", "on"],
    "lock_timeout": ["0", "10s"],
}


def test_dr_01_session_settings_change_no_digit(db: Conn, connect: Connect) -> None:
    locales = [
        name for (name,) in db.execute("select collname from pg_collation where collname ~ '^(de|fr|en)_..utf8$'")
    ]
    bench = Bench(db)
    script = dst_script()
    feed = bench.feed(script)
    digests = set()
    for n in range(4):
        conn = connect()
        for name, values in SETTINGS.items():
            conn.execute("select set_config(%s, %s, false)", [name, values[n % len(values)]])
        for name in ("lc_numeric", "lc_monetary", "lc_time"):
            conn.execute("select set_config(%s, %s, false)", [name, ["C", *locales][n % (1 + len(locales))]])
        # a temporary table of the session must not stand in front of the engine's
        conn.execute("create temporary table price_bar as select * from public.price_bar limit 0")
        own = bench.run(feed, script.cash)
        play(Run(conn, own.user_id, own.run_id), script.calls, list(DRIVES.values())[n % 4])
        by_session = {Run(conn, run.user_id, run.run_id).digest() for run in [own]}
        digests |= by_session | {own.digest()}
        own.call("stop_run")
    assert len(digests) == 1


def dst_script(calendar: str = "DAYTIME") -> Script:
    """Hourly bars around both changes of New York's clocks in 2020, a DAY order in each session, a daily SIP."""
    bars: dict[datetime, Bar] = {}
    calls = []
    sip = {"symbol": "Zed", "amount": D("10.01"), "frequency": "DAILY", "start": date(2020, 3, 5)}
    calls.append(Call("create_sip", sip))
    for start in (datetime(2020, 3, 5, tzinfo=UTC), datetime(2020, 10, 29, tzinfo=UTC)):
        for hour in range(24 * 8):
            at = start + timedelta(hours=hour, minutes=30 * (hour % 2))
            price = D(100 + hour % 13) / 7
            price = round(price, 4)
            bars[at] = Bar(price, price + 1, price - 1, price)
            if hour % 24 == 20:
                order = {"symbol": "Zed", "side": "BUY", "quantity": D("0.5"), "order_type": "LIMIT"}
                calls.append(Call("place_order", order | {"limit_price": D("14"), "time_in_force": "DAY"}))
            calls.append(Call("tick", {"logical_time": at}))
    return Script(calendar, {"Zed": bars}, D("5000"), calls)


def test_mt_02_sip_slots_keep_new_york_time_across_both_clock_changes(db: Conn, connect: Connect) -> None:
    bench, script = Bench(db), dst_script()
    feed = bench.feed(script)
    zone = ZoneInfo("America/New_York")
    for session_zone in ("UTC", "Asia/Tokyo"):
        run = bench.run(feed, script.cash)
        conn = connect()
        conn.execute("select set_config('TimeZone', %s, false)", [session_zone])
        play(Run(conn, run.user_id, run.run_id), script.calls, by_tick)
        executed = [
            (payload["date"], at.astimezone(zone))
            for at, kind, _, payload in run.rows()["event_ledger"]
            if kind == "SIP_EXECUTED"
        ]
        # weekdays from 5 to 12 March and from 29 October to 5 November but for the scripts' holidays; on each the first
        # bar after 9:30: 15:30 UTC in winter, 14:00 UTC in summer
        days = [f"2020-03-{d:02}" for d in (5, 6, 10, 11, 12)] + [
            "2020-10-29",
            "2020-10-30",
            *(f"2020-11-0{d}" for d in (3, 4, 5)),
        ]
        assert sorted(day for day, _ in executed) == days
        for day, at in executed:
            assert at.date().isoformat() == day
            assert (at.hour, at.minute) == (10, 0 if at.dst() else 30)
        run.call("stop_run")


@pytest.mark.parametrize("calendar", ["ALWAYS", "DAYTIME", "OVERNIGHT", "TOKYO"])
def test_dr_01_clock_changes_by_every_way_to_drive(db: Conn, calendar: str) -> None:
    bench, script = Bench(db), dst_script(calendar)
    first, *others = runs = [bench.run(bench.feed(script), script.cash) for _ in DRIVES]
    for run, drive in zip(runs, DRIVES.values(), strict=True):
        play(run, script.calls, drive)
    for run, name in zip(others, list(DRIVES)[1:], strict=True):
        assert_same(first, run, name)


def test_dr_01_physical_order_of_the_bars_does_not_matter(db: Conn) -> None:
    bench, script = Bench(db), dst_script()
    rows = len(script.bars["Zed"])
    digests = set()
    for seed in range(3):
        order = list(range(rows))
        random.Random(seed).shuffle(order)
        feed = bench.feed(script, shuffled=order)
        # new row versions land elsewhere in the table
        db.execute("update price_bar set volume = 1 where feed = %s and logical_time > '2020-06-01'", [feed])
        db.execute("update price_bar set volume = null where feed = %s", [feed])
        run = bench.run(feed, script.cash)
        play(run, script.calls, by_replay)
        digests.add(run.digest())
        db.execute("vacuum full price_bar")
    assert len(digests) == 1


# --- tick_all and its failures ---

DAYS = [datetime(2020, 1, day, 15, tzinfo=UTC) for day in range(6, 13)]


def flat_script(calendar: str = "ALWAYS", last_close: str = "10") -> Script:
    bar, end = Bar(*[D(10)] * 4), Bar(*[D(last_close)] * 4)
    return Script(calendar, {"Zed": {at: end if at == DAYS[-1] else bar for at in DAYS}}, D(1000))


def statuses(bench: Bench, feed: str) -> list[str]:
    rows = bench.conn.execute("select status from strategy_run where feed = %s order by user_id", [feed])
    return [status for (status,) in rows]


def marked(bench: Bench, runs: list[Run], at: datetime) -> int:
    query = "select count(*) from mtm_ledger where logical_time = %s and user_id = any(%s)"
    return int(one(bench.conn, query, at, [run.user_id for run in runs]))


def make_fail(bench: Bench, table: str, run: Run, action: str) -> None:
    bench.conn.execute(
        f"create or replace function fail() returns trigger language plpgsql as $$ begin {action} return new; end $$"
    )
    bench.conn.execute(
        sql.SQL(
            "create trigger fail before insert on {} for each row when (new.user_id = {}) execute function fail()"
        ).format(sql.Identifier(table), sql.Literal(run.user_id))
    )


@pytest.mark.parametrize("quiet", [True, False])
def test_fi_01_run_that_fails_goes_to_error_and_the_others_go_on(db: Conn, quiet: bool) -> None:
    """Its holdings are worth more than money_amount holds: 22003, in the mark."""
    bench, script = Bench(db), flat_script(last_close="900000000000")
    feed = bench.feed(script)
    runs = [bench.run(feed, D("1e9")) for _ in range(5)]
    for n, run in enumerate(runs):
        run.call("place_order", symbol="Zed", side="BUY", quantity=D(9_000_000 if n == 2 else 1))
        if n == 2 and not quiet:
            run.call("create_sip", symbol="Zed", amount=D(1), frequency="DAILY", start=date(2020, 1, 12))
    for at in DAYS:
        db.execute("call tick_all(%s, %s)", [at, feed])
    assert statuses(bench, feed) == ["RUNNING", "RUNNING", "ERROR", "RUNNING", "RUNNING"]
    assert marked(bench, runs, DAYS[-1]) == 4
    reason = one(db, "select reason from engine_status where user_id = %s and status = 'ERROR'", runs[2].user_id)
    assert "22003" in reason
    assert marked(bench, runs[2:3], DAYS[-2]) == 1
    db.execute("call tick_all(%s, %s)", [DAYS[-1], feed])
    assert marked(bench, runs, DAYS[-1]) == 4
    assert_same(runs[0], runs[1], "survivors")


@pytest.mark.parametrize("table", ["paper_trade", "event_ledger", "paper_equity_curve", "mtm_ledger", "cash_ledger"])
@pytest.mark.parametrize("code", ["P0001", "23514", "TE901", "22012", "53400", "XX000"])
def test_fi_01_any_other_error_in_any_step_is_the_error_of_that_run(db: Conn, table: str, code: str) -> None:
    bench = Bench(db)
    feed = bench.feed(flat_script())
    runs = [bench.run(feed, D(1000)) for _ in range(3)]
    for run in runs:
        run.call("place_order", symbol="Zed", side="BUY", quantity=D(1))
        run.call("create_sip", symbol="Zed", amount=D(100), frequency="DAILY", start=date(2020, 1, 7))
    db.execute("call tick_all(%s, %s)", [DAYS[0], feed])
    make_fail(bench, table, runs[1], f"raise exception 'planted' using errcode = '{code}';")
    for at in DAYS[1:]:
        db.execute("call tick_all(%s, %s)", [at, feed])
    assert statuses(bench, feed) == ["RUNNING", "ERROR", "RUNNING"]
    reason = one(db, "select reason from engine_status where user_id = %s and status = 'ERROR'", runs[1].user_id)
    assert code in reason
    assert "planted" in reason
    assert marked(bench, runs[1:2], DAYS[1]) == 0
    assert_same(runs[0], runs[2], "survivors")


@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize("code", ["40001", "40P01", "55P03", "57014"])
def test_fi_01_errors_of_the_call_abort_it(db: Conn, code: str, quiet: bool) -> None:
    bench = Bench(db)
    feed = bench.feed(flat_script())
    runs = [bench.run(feed, D(1000)) for _ in range(4)]
    by_tick_all(runs[0], DAYS[:1])
    if not quiet:
        for run in runs:
            run.call("place_order", symbol="Zed", side="BUY", quantity=D(1))
    make_fail(bench, "mtm_ledger", runs[2], f"raise exception 'planted' using errcode = '{code}';")
    with pytest.raises(psycopg.Error) as caught:
        by_tick_all(runs[0], DAYS[1:2])
    assert caught.value.sqlstate == code
    assert statuses(bench, feed) == ["RUNNING"] * 4
    assert marked(bench, runs, DAYS[1]) == 0
    db.execute("drop trigger fail on mtm_ledger")
    by_tick_all(runs[0], DAYS[1:])
    for run in runs[1:]:
        assert_same(runs[0], run, "after the error")


def test_fi_01_statement_timeout_aborts_tick_all(db: Conn) -> None:
    bench = Bench(db)
    feed = bench.feed(flat_script())
    runs = [bench.run(feed, D(1000)) for _ in range(3)]
    for run in runs:
        run.call("place_order", symbol="Zed", side="BUY", quantity=D(1))
    make_fail(bench, "paper_trade", runs[1], "perform pg_sleep(10);")
    db.execute("set statement_timeout = '300ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        by_tick_all(runs[0], DAYS[:1])
    db.execute("reset statement_timeout")
    assert statuses(bench, feed) == ["RUNNING"] * 3
    assert marked(bench, runs, DAYS[0]) == 0


def test_fi_01_lock_timeout_aborts_tick_all(db: Conn, connect: Connect) -> None:
    bench = Bench(db)
    feed = bench.feed(flat_script())
    runs = [bench.run(feed, D(1000)) for _ in range(3)]
    with connect(autocommit=False) as other:
        other.execute("select from strategy_run where user_id = %s for update", [runs[1].user_id])
        db.execute("set lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            by_tick_all(runs[0], DAYS[:1])
    assert statuses(bench, feed) == ["RUNNING"] * 3
    assert marked(bench, runs, DAYS[0]) == 0


@pytest.mark.parametrize("quiet", [True, False])
def test_ir_02_tick_all_keeps_what_it_has_committed(db: Conn, quiet: bool) -> None:
    bench = Bench(db)
    feed = bench.feed(flat_script())
    runs = [bench.run(feed, D(1000)) for _ in range(9)]
    by_tick_all(runs[0], DAYS[:1])
    if not quiet:
        for run in runs:
            run.call("place_order", symbol="Zed", side="BUY", quantity=D(1))
    make_fail(bench, "mtm_ledger", runs[5], "raise exception 'planted' using errcode = '40001';")
    with pytest.raises(psycopg.errors.SerializationFailure):
        db.execute("call tick_all(%s, %s, 2)", [DAYS[1], feed])
    assert marked(bench, runs, DAYS[1]) == marked(bench, runs[:4], DAYS[1]) == 4
    db.execute("drop trigger fail on mtm_ledger")
    db.execute("call tick_all(%s, %s, 2)", [DAYS[1], feed])
    assert marked(bench, runs, DAYS[1]) == 9
    for run in runs[1:]:
        assert_same(runs[0], run, "after the error")


def test_ir_03_tick_all_skips_runs_that_are_there_or_further(db: Conn) -> None:
    bench = Bench(db)
    feed = bench.feed(flat_script())
    behind, there, ahead, stopped = runs = [bench.run(feed, D(1000)) for _ in range(4)]
    for run in runs:
        run.call("create_sip", symbol="Zed", amount=D(100), frequency="DAILY", start=date(2020, 1, 6))
    by_tick(there, DAYS[:3])
    by_tick(ahead, DAYS[:4])
    stopped.call("stop_run")
    before = {run.run_id: run.digest() for run in runs}
    by_tick_all(behind, DAYS[2:3])
    assert [run.digest() == before[run.run_id] for run in runs] == [False, True, True, True]
    assert statuses(bench, feed) == ["RUNNING"] * 3 + ["STOPPED"]
    by_tick_all(behind, DAYS[3:])
    assert_same(there, ahead, "one caught up by tick_all")


def test_tick_all_refuses_an_unknown_feed_and_a_time_past_the_calendar(db: Conn) -> None:
    bench = Bench(db)
    feed = bench.feed(flat_script("DAYTIME"))
    runs = [bench.run(feed, D(1000)) for _ in range(3)]
    by_tick_all(runs[0], DAYS[:1])
    for arguments, code in (
        ([DAYS[1], "no such feed"], "TE201"),
        ([datetime(2031, 1, 6, 15, tzinfo=UTC), feed], "TE203"),
        ([None, feed], "TE101"),
    ):
        with pytest.raises(psycopg.Error) as caught:
            db.execute("call tick_all(%s, %s)", arguments)
        assert caught.value.sqlstate == code
    assert statuses(bench, feed) == ["RUNNING"] * 3
    assert marked(bench, runs, DAYS[0]) == 3
    assert one(db, "select count(*) from mtm_ledger") == 3
