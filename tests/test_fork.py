"""fork_run: a fork is what the run was after that tick, and lives on as the run did."""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeAlias

import helpers
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.histories import OPTIONS, histories, one, set_volumes, start
from tests.scripts import BRIEF, Bench, Run, Script, examples
from tests.test_equivalence import by_replay, by_tick, play

Conn: TypeAlias = psycopg.Connection[Any]
Connect: TypeAlias = Callable[..., Conn]

D = Decimal
PLANS = {"create_sip", "create_rebalance", "pause_sip", "resume_sip", "set_risk_limit", "forbid_symbol"}
ENDS = {"stop_run", "fail_run"}


def fork(run: Run, at: Any = None, user: int | None = None) -> Run:
    user = user or one(run.conn, "select create_user('a fork')")
    query = "select fork_run(%s, %s, %s, %s)"
    return Run(run.conn, user, one(run.conn, query, run.user_id, run.run_id, at, user))


def everything(run: Run) -> dict[str, list[str]]:
    return helpers.snapshot(run.conn, helpers.Run(run.user_id, run.run_id))


def stand(run: Run) -> list[Any]:
    """Where the run and its plans stand; run_digest does not say."""
    key = [run.user_id, run.run_id]
    return [
        run.conn.execute(f"select {columns} from {table} where user_id = %s and run_id = %s order by 1", key).fetchall()
        for table, columns in {
            "sip_plan": "sip_id, next_slot, residual, last_date, paused, amount",
            "rebalance_plan": "plan_id, next_slot, last_date, band",
            "engine_state": "cash, first_logical_time, last_logical_time",
            "paper_order": "order_id, seen_time, triggered_time",
        }.items()
    ]


def difference(run: Run, other: Run) -> list[Any]:
    return run.conn.execute(
        "select ledger, key, row_a, row_b from replay_diff(%s, %s, %s, %s)",
        [run.user_id, run.run_id, other.user_id, other.run_id],
    ).fetchall()


def test_dr_01_fork_is_the_run_as_it_was_and_lives_on_as_it_did(db: Conn) -> None:
    bench = Bench(db)
    seen: set[str] = set()

    @examples(100, 1500)
    @given(histories(), st.sampled_from(OPTIONS), st.randoms(use_true_random=False))
    def check(history: tuple[Script, int], options: dict[str, Any], chance: random.Random) -> None:
        script, tick = history
        if tick < 0:
            return
        calls, at = script.calls, script.calls[tick].arguments["logical_time"]
        later = [i for i, call in enumerate(calls) if i > tick and call.verb == "tick"]
        end = later[0] if later else len(calls)
        before, rest = calls[:end], [call for call in calls[end:] if call.verb not in PLANS]
        if before[-1].verb in ENDS:  # what is canceled by hand after the last tick cannot be told from the end
            rest = [before.pop()]
            before = [c for i, c in enumerate(before) if i <= tick or c.verb not in ("cancel_order", "replace_order")]
        feed = bench.feed(script)
        set_volumes(db, feed)
        cash = script.cash * chance.choice([1, 20, 20])
        source, twin = (start(bench, feed, cash, **options) for _ in range(2))
        play(source, before + rest, by_tick)
        play(twin, before, by_tick)
        kept = everything(source)

        forked = fork(source, at)
        assert everything(source) == kept
        # what a later tick found out, that this one was the last of its session, the fork is told now
        known = {"mtm_ledger", "paper_equity_curve"} if options.get("mark_policy") == "SESSION" else set()
        assert [row for row in difference(twin, forked) if row[0] not in known or row[2]] == []
        assert stand(twin) == stand(forked)

        again = fork(forked)
        assert difference(forked, again) == []
        play(forked, rest, chance.choice([by_tick, by_replay]))
        assert difference(source, forked) == []
        assert source.digest() == forked.digest()
        assert stand(source) == stand(forked)
        play(again, rest, by_tick)
        assert again.digest() == source.digest()
        assert stand(fork(again, at)) == stand(twin)
        assert everything(source) == kept
        query = """select source || ' ' || order_type || ' ' || case when oco_id is null then '' else 'of a pair ' end || status
                     from paper_order where user_id = %s"""
        seen.update(kind for (kind,) in db.execute(query, [twin.user_id]))

    check()
    assert BRIEF or seen >= {
        "CLIENT MARKET PENDING",
        "CLIENT LIMIT PENDING",
        "CLIENT STOP PENDING",
        "CLIENT TRAILING_STOP PENDING",
    }
    assert not db.execute("select * from violations").fetchall()


PARTS = [(100, 60), (100, 60), (100, 40), (109, 30), (109, 30), (89, 20), (100, 60), (110, 40), (111, 900)]


def test_quantities_that_pairs_and_brackets_had(db: Conn) -> None:
    """A market that fills a tenth of each bar: at every tick a fork is the run that was left there."""
    db.execute("insert into instrument (symbol, quantity_step) values ('AAA', 1)")
    for n, (price, volume) in enumerate(PARTS):
        db.execute(
            "insert into price_bar values ('default', 'AAA', %s, %s, %s, %s, %s, %s)",
            [helpers.at(n), *[price] * 4, volume],
        )

    def drive(last: int) -> helpers.Run:
        user = helpers.make_user(db)
        run = helpers.Run(user, one(db, "select start_run(%s, 100000, p_participation => 0.1)", user))
        helpers.tick(db, run, 0)
        helpers.place(db, run, "AAA", "BUY", 25, take_profit=108, stop_loss=90)  # 1
        for n in range(1, last + 1):
            helpers.tick(db, run, n)
            if n == 5:
                db.execute("select place_oco(%s, %s, 'AAA', 'BUY', 9, 80, 105, 110)", run)
            if n == 7:
                db.execute("select replace_order(%s, %s, 5, p_limit_price => 112)", run)
        return run

    whole = drive(len(PARTS) - 1)
    wanted = [row["quantity"] for row in helpers.rows(db, "paper_order", whole)]
    assert wanted == [25, 8, 4, 5, 9, 4, 4, 5, 11, 11]  # grown, reduced, replaced
    for n in range(len(PARTS)):
        left, forked = drive(n), fork_of(db, whole, n)
        assert db.execute("select * from replay_diff(%s, %s, %s, %s)", [*left, *forked]).fetchall() == [], n


def test_stops_that_trailed(db: Conn) -> None:
    helpers.make_bars(db, "AAA", [100, 101, 110, 104, 120, 130, 90, 100])
    terms: dict[str, Any] = {"order_type": "TRAILING_STOP"}

    def drive(last: int) -> helpers.Run:
        run = helpers.make_run(db)
        helpers.place(db, run, "AAA", "BUY", 10)
        helpers.tick(db, run, 0)
        for percent, tif in ((15, "GTC"), (70, "GTC"), (10, "DAY")):
            helpers.place(db, run, "AAA", "SELL", 1, **terms | {"trail_percent": percent, "time_in_force": tif})
        for n in range(1, last + 1):
            helpers.tick(db, run, n)
        return run

    whole = drive(7)
    assert {row["status"] for row in helpers.rows(db, "paper_order", whole)} == {"FILLED", "PENDING", "EXPIRED"}
    for n in range(8):
        left, forked = drive(n), fork_of(db, whole, n)
        names = {"user_id": forked.user_id, "run_id": forked.run_id}
        assert [row | names for row in helpers.rows(db, "paper_order", left)] == helpers.rows(
            db, "paper_order", forked
        ), n


def test_slots_and_money_carried_forward_that_plans_had(db: Conn) -> None:
    """Ticks with gaps between them: overdue slots end together, and what whole units leave is carried."""
    helpers.make_bars(db, "AAA", [100, 90, 110, 95, 105, 100, 98, 103, 97])
    ticks = (0, 1, 4, 5, 8)

    def drive(last: float) -> helpers.Run:
        run = helpers.make_run(db, 3000)
        terms = "'AAA', 130, 'DAILY', '2024-01-01', p_whole_units => true"
        for catch_up in ("ONCE", "EACH"):
            db.execute(f"select create_sip(%s, %s, {terms}, p_catch_up => '{catch_up}')", run)
        db.execute("select create_sip(%s, %s, 'AAA', 60, 'WEEKLY', '2024-01-01', p_whole_units => true)", run)
        db.execute("select create_rebalance(%s, %s, '{\"AAA\": 0.5}', 'DAILY', '2024-01-02')", run)
        db.execute("select create_rebalance(%s, %s, '{\"AAA\": 0.5}', 'WEEKLY', '2024-01-05')", run)
        for n in ticks:
            if n <= last:
                helpers.tick(db, run, n)
        return run

    whole = drive(8)
    for n in ticks:
        left, forked = drive(n), fork_of(db, whole, n)
        assert db.execute("select * from replay_diff(%s, %s, %s, %s)", [*left, *forked]).fetchall() == [], n
        for table in ("sip_plan", "rebalance_plan", "engine_state"):
            names = {"user_id": forked.user_id, "run_id": forked.run_id}
            assert [row | names for row in helpers.rows(db, table, left)] == helpers.rows(db, table, forked), (n, table)
    assert len({row["residual"] for row in helpers.rows(db, "sip_plan", whole)}) == 3


def actions(db: Conn, symbol: str, *which: tuple[Any, ...]) -> None:
    """(day of the bar, 'SPLIT', new, old) or (day, 'DIVIDEND', amount, pay day)."""
    for n, kind, *terms in which:
        columns = "ratio_numerator, ratio_denominator" if kind == "SPLIT" else "amount, pay_date"
        values = [terms[0], terms[1] if kind == "SPLIT" else helpers.at(terms[1]).date()]
        db.execute(
            f"insert into corporate_action (symbol, ex_date, action_type, {columns}) values (%s, %s, %s, %s, %s)",
            [symbol, helpers.at(n).date(), kind, *values],
        )


# (a, b) closes of AAA and BBB; AAA is split 2:1 before day 3 and 1:4 before day 6, BBB 3:2 before day 4
CLOSES = [(100, 60), (104, 66), (98, 60), (50, 63), (52, 42), (45, 40), (188, 44), (192, 38), (240, 44), (100, 40)]
ACCOUNTS: list[dict[str, Any]] = [
    {},
    {"fee_schedule": "BY UNIT", "reinvest_dividends": True},
    {"initial_margin": D("0.4"), "maintenance_margin": D("0.35"), "borrow_rate": D("0.5"), "margin_rate": D("0.5")},
]


@pytest.mark.parametrize("options", ACCOUNTS, ids=["cash", "fees", "margin"])
def test_splits_dividends_fees_and_margin_live_on_in_a_fork(db: Conn, options: dict[str, Any]) -> None:
    """At every tick a fork is the run that was left there, to its orders' terms and its debts, and ends as the run did."""
    for symbol, closes in zip(("AAA", "BBB"), zip(*CLOSES, strict=True), strict=True):
        helpers.make_bars(db, symbol, closes)
    db.execute("update instrument set quantity_step = 1 where symbol = 'BBB'")
    actions(db, "AAA", (3, "SPLIT", 2, 1), (6, "SPLIT", 1, 4), (2, "DIVIDEND", D(2), 5), (7, "DIVIDEND", D(3), 7))
    actions(db, "BBB", (4, "SPLIT", 3, 2), (5, "DIVIDEND", D("1.5"), 8))
    # fees that leave reserve prices with few decimals, so that the splits round nothing off them
    db.execute(
        """insert into fee_schedule (fee_schedule, component, side, effective_from, per_unit_amount, rate_bps, of_components, source)
           select 'BY UNIT', f.component, s.side, '2020-01-01', f.amount, f.rate, f.others, 'a test'
             from (values ('BROKERAGE', 0.05, 0, null), ('TAX', 0, 2000, '{BROKERAGE}'::text[])) f (component, amount, rate, others),
                  (values ('BUY'), ('SELL')) s (side)"""
    )
    is_margin = "initial_margin" in options
    bench = Bench(db)

    def drive(last: int) -> Run:
        run = start(bench, "default", D(10_000), **options)
        key = helpers.Run(run.user_id, run.run_id)
        helpers.tick(db, key, 0)
        helpers.place(db, key, "AAA", "BUY", 140 if is_margin else 40)
        helpers.place(db, key, "BBB", "SELL" if is_margin else "BUY", 71 if is_margin else 70)
        plan = """select create_sip(%s, %s, null, 150, 'DAILY', '2024-01-03', p_whole_units => true,
                                    p_basket => '{"AAA": 0.5, "BBB": 0.5}')"""
        db.execute(plan, key)
        helpers.place(db, key, "AAA", "BUY", 12, order_type="LIMIT", limit_price=92, take_profit=132, stop_loss=60)
        for n in range(1, last + 1):
            helpers.tick(db, key, n)
            if n == 2:
                for trail in ({"trail_percent": 12}, {"trail_percent": 30}, {"trail_amount": 48}):
                    helpers.place(db, key, "AAA", "SELL", 4, order_type="TRAILING_STOP", **trail)
                helpers.place(db, key, "AAA", "SELL", 8, order_type="LIMIT", limit_price=120)
                helpers.place(db, key, "BBB", "BUY", 5, order_type="LIMIT", limit_price=30)
                helpers.place(
                    db, key, "AAA", "SELL", D("0.000001"), order_type="LIMIT", limit_price=400
                )  # the second split leaves nothing of it
        return run

    days = range(len(CLOSES))
    whole = drive(days[-1])
    events = "select distinct event_type from event_ledger where user_id = %s"
    expected = {"SPLIT", "DIVIDEND", "SIP_EXECUTED"} | ({"MARGIN_CALL"} if is_margin else set())
    assert expected <= {kind for (kind,) in db.execute(events, [whole.user_id])}
    causes = {c for (c,) in db.execute("select cause from cash_ledger where user_id = %s", [whole.user_id])}
    assert {"DIVIDEND", "CASH_IN_LIEU"} | ({"BORROW_FEE", "MARGIN_INTEREST"} if is_margin else set()) <= causes
    assert ("fee_schedule" in options) == (
        one(db, "select count(*) from trade_fee where user_id = %s", whole.user_id) > 0
    )
    for n in days:
        left, forked = drive(n), fork(whole, helpers.at(n))
        assert difference(left, forked) == [], n
        assert stand(left) == stand(forked), n
        if n < days[-1]:
            by_tick(forked, [helpers.at(m) for m in days[n + 1 :]])
            if n >= 2:  # the orders of day 2 were placed by then
                assert difference(whole, forked) == [], n
    assert not db.execute("select * from violations").fetchall()


# --- what is copied


def busy_run(db: Conn) -> helpers.Run:
    """A run that has rows in every table, and has ticked at 0, 1 and 2; a dividend is paid at 2."""
    if not one(db, "select count(*) from price_bar"):
        helpers.make_bars(db, "AAA", [100, 101, 103, 99, 104])
        helpers.make_bars(db, "BBB", [50, 51, 49, 50, 52])
        actions(db, "AAA", (1, "DIVIDEND", D(1), 2))
    user = helpers.make_user(db)
    fees = "select start_run(%s, 10000, p_fee_schedule => 'IN_DELIVERY')"
    run = helpers.make_busy_run(db, run=helpers.Run(user, one(db, fees, user)))
    db.execute("select set_risk_limit(%s, %s, 1000, 5000)", run)
    db.execute("select forbid_symbol(%s, %s, 'CCC')", run)
    for n in range(3):
        helpers.tick(db, run, n)
    return run


def fork_of(db: Conn, run: helpers.Run, n: float | None = None, user_id: int | None = None) -> helpers.Run:
    user_id = user_id or helpers.make_user(db)
    at = n if n is None else helpers.at(n)
    return helpers.Run(user_id, one(db, "select fork_run(%s, %s, %s, %s)", *run, at, user_id))


def test_an_automatic_pause_that_came_later_is_undone(db: Conn) -> None:
    helpers.make_bars(db, "AAA", [100] * 8)
    user = helpers.make_user(db)
    run = helpers.Run(user, one(db, "select start_run(%s, 150)", user))
    start = helpers.at(0).date()
    db.execute("select create_sip(%s, %s, 'AAA', 100, 'DAILY', %s, p_auto_pause_after => 3)", [*run, start])
    plan = "select next_slot, paused, skipped_funds from sip_plan where (user_id, run_id) = (%s, %s)"
    digests, plans = [], []
    for n in range(6):  # buys, is skipped three times and paused, then skipped for the pause
        helpers.tick(db, run, n)
        digests.append(helpers.digest(db, run))
        plans.append(db.execute(plan, run).fetchone())
    assert [p[1:] for p in plans] == [(False, 0), (False, 1), (False, 2), (True, 3), (True, 0), (True, 0)]
    for n in range(6):
        forked = fork_of(db, run, n)
        assert (helpers.digest(db, forked), db.execute(plan, forked).fetchone()) == (digests[n], plans[n]), n
        for m in range(n + 1, 6):
            helpers.tick(db, forked, m)
        assert helpers.digest(db, forked) == digests[-1], n
    db.execute("select resume_sip(%s, %s, 1)", run)  # a pause that has been ended by hand starts no count
    for n in range(6, 8):
        helpers.tick(db, run, n)
    assert db.execute(plan, run).fetchone() == (8, False, 2)
    assert db.execute(plan, fork_of(db, run, 6)).fetchone() == (7, False, 1)
    assert db.execute(plan, fork_of(db, run, 3)).fetchone() == (4, False, 0)


def test_every_table_of_a_run_is_copied(db: Conn) -> None:
    run = busy_run(db)
    forked = fork_of(db, run)
    assert {t: n for t, n in helpers.counts(db, forked).items() if n == 0} == {}
    for table in helpers.CHILDREN:
        if table == "engine_status":  # its life begins with it
            continue
        names = {"user_id": forked.user_id, "run_id": forked.run_id}
        assert [row | names for row in helpers.rows(db, table, run)] == helpers.rows(db, table, forked), table


def test_every_term_of_a_run_is_copied(db: Conn) -> None:
    feed = one(db, "insert into feed values ('other') returning feed")
    user = helpers.make_user(db)
    run = helpers.Run(
        user,
        one(
            db,
            """select start_run(%s, 777, %s, 'a name', p_participation => 0.5, p_slippage_bps => 3, p_mark_policy => 'EVENTS',
                                p_currency => 'JPY', p_volume_impact => 0.25, p_penetration_ticks => 2, p_max_price_age => '3 days',
                                p_fee_schedule => 'IN_DELIVERY', p_reinvest_dividends => true, p_initial_margin => 0.5,
                                p_maintenance_margin => 0.25, p_borrow_rate => 0.1, p_margin_rate => 0.2)""",
            user,
            feed,
        ),
    )
    (source,) = helpers.rows(db, "strategy_run", run)
    defaults = {
        row[0]
        for row in db.execute(
            """select attname from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
            where a.attrelid = 'strategy_run'::regclass and a.attnum > 0"""
        )
    }
    assert set(source) == defaults
    own = {"user_id", "run_id", "forked_from_user_id", "forked_from_run_id", "forked_at"}
    plain = helpers.make_run(db, 1)
    (other,) = helpers.rows(db, "strategy_run", plain)
    # every term differs from its default, so that the comparison says something
    assert {name for name in source if source[name] == other[name]} - own == {"status", "status_reason"}
    (copy,) = helpers.rows(db, "strategy_run", fork_of(db, run))
    assert {k: v for k, v in copy.items() if k not in own} == {k: v for k, v in source.items() if k not in own}
    assert [copy["forked_from_user_id"], copy["forked_from_run_id"], copy["forked_at"]] == [*run, None]


def test_a_fork_goes_its_own_way_and_outlives_its_source(db: Conn) -> None:
    run = busy_run(db)
    with helpers.unchanged(db, run):
        forked = fork_of(db, run, 1)
        helpers.place(db, forked, "AAA", "BUY", 1)
        for n in (2, 3, 4):
            helpers.tick(db, forked, n)
        helpers.stop(db, forked)
    assert helpers.digest(db, forked) != helpers.digest(db, run)
    with helpers.unchanged(db, forked):
        helpers.delete_run(db, run)
    assert one(db, "select forked_from_run_id from strategy_run where user_id = %s", forked.user_id) == run.run_id
    row = db.execute("select forked_at from strategy_run where user_id = %s", [forked.user_id]).fetchone()
    assert row == (helpers.at(1),)


def test_orders_that_the_end_of_a_run_canceled_are_open_again(db: Conn) -> None:
    helpers.make_bars(db, "AAA", [100, 101, 100])
    run = helpers.make_run(db)
    helpers.place(db, run, "AAA", "BUY", 10)
    helpers.tick(db, run, 0)
    terms: dict[str, Any] = {"order_type": "LIMIT", "limit_price": 50}
    for limit, tif in ((50, "GTC"), (50, "IOC"), (40, "GTC"), (30, "GTC")):
        helpers.place(db, run, "AAA", "BUY", 1, **terms | {"limit_price": limit, "time_in_force": tif})
    db.execute("select place_oco(%s, %s, 'AAA', 'SELL', 5, 102, 60)", run)  # 6 fills, 7 goes with it
    db.execute("select cancel_order(%s, %s, 4)", run)
    helpers.tick(db, run, 1)
    db.execute("select replace_order(%s, %s, 5, p_limit_price => 31)", run)  # 8
    helpers.stop(db, run)
    query = "select array_agg(status::text order by order_id) from paper_order where user_id = %s and run_id = %s"
    closed = ["FILLED", "CANCELED", "CANCELED", "CANCELED", "CANCELED", "FILLED", "CANCELED"]
    assert one(db, query, *run) == [*closed, "CANCELED"]
    forked = fork_of(db, run)
    assert one(db, query, *forked) == ["FILLED", "PENDING", *closed[2:], "PENDING"]
    earlier = fork_of(db, run, 0)
    assert one(db, query, *earlier) == ["FILLED", "PENDING", "PENDING", "CANCELED", "PENDING", "PENDING", "PENDING"]


def test_a_run_that_has_not_ticked_is_forked_as_it_began(db: Conn) -> None:
    helpers.make_bars(db, "AAA", [100, 101])
    run = helpers.make_run(db)
    helpers.place(db, run, "AAA", "BUY", 1)
    db.execute("select create_sip(%s, %s, 'AAA', 100, 'DAILY', '2024-01-01')", run)
    forked = fork_of(db, run)
    with helpers.raises("TE101"):
        fork_of(db, run, 0)
    for one_run in (run, forked):
        helpers.tick(db, one_run, 0)
    assert helpers.digest(db, run) == helpers.digest(db, forked)
    raw = helpers.raw_run(db)  # has no engine_state, and gets none
    with helpers.unchanged(db, raw):
        copy = fork_of(db, raw)
    assert helpers.counts(db, copy)["cash_ledger"] == 1
    helpers.tick(db, copy, 0)


def test_fork_refusals(db: Conn) -> None:
    run = busy_run(db)
    other = busy_run(db)
    user = helpers.make_user(db)
    with helpers.unchanged(db, run, other):
        for n in (-1, 0.5, 3):
            with helpers.raises("TE101"):
                fork_of(db, run, n)
        with helpers.raises("TE101"):
            db.execute("select fork_run(%s, %s, 'infinity', %s)", [*run, user])
        for taken in (run.user_id, other.user_id):
            with helpers.raises("23505"):
                fork_of(db, run, 1, taken)
        for unknown in (10**9, None):
            with helpers.raises("23503"):
                db.execute("select fork_run(%s, %s, %s, %s)", [*run, helpers.at(1), unknown])
        with helpers.raises("TE204"):
            fork_of(db, helpers.Run(run.user_id, 10**9))
        for level in ("repeatable read", "serializable"):
            with helpers.raises("40001", conn=db):
                db.execute(f"set transaction isolation level {level}")
                fork_of(db, run, 1, user)
    helpers.stop(db, run)
    assert helpers.status_of(db, fork_of(db, run, 1, run.user_id)) == "RUNNING"  # the user of a run that has ended


def test_a_fork_waits_for_a_tick_and_forks_do_not_wait_for_each_other(
    db: Conn, connect: Connect, background: Callable[..., Any]
) -> None:
    run = busy_run(db)
    ticker, forker, other = (helpers.session(connect, autocommit=False) for _ in range(3))
    users = [helpers.make_user(db) for _ in range(3)]
    helpers.tick(ticker, run, 3)
    waiting = background(fork_of, forker, run, None, users[0])
    helpers.wait_until_blocked(db, helpers.pid_of(forker), by=helpers.pid_of(ticker))
    ticker.commit()
    first = waiting.result()
    second = fork_of(other, run, None, users[1])  # while the first has not committed
    stopper = helpers.session(connect)
    stopping = background(helpers.tick, stopper, run, 4)
    helpers.wait_until_blocked(db, helpers.pid_of(stopper))
    forker.commit()
    other.commit()
    stopping.result()
    for forked in (first, second):
        helpers.tick(db, forked, 4)
        assert helpers.digest(db, forked) == helpers.digest(db, run)


def test_two_forks_for_one_user_at_once_leave_one(db: Conn, connect: Connect, background: Callable[..., Any]) -> None:
    run = busy_run(db)
    user = helpers.make_user(db)
    first, second = (helpers.session(connect, autocommit=False) for _ in range(2))
    fork_of(first, run, 1, user)
    waiting = background(fork_of, second, run, 2, user)
    helpers.wait_until_blocked(db, helpers.pid_of(second), by=helpers.pid_of(first))
    first.commit()
    with pytest.raises(psycopg.errors.UniqueViolation):
        waiting.result()
    second.rollback()
    assert one(db, "select count(*) from strategy_run where user_id = %s", user) == 1


def test_a_fork_for_a_user_who_is_not_free_waits_for_nobody(
    db: Conn, connect: Connect, background: Callable[..., Any]
) -> None:
    runs = [busy_run(db) for _ in range(3)]
    holder, ticker, forker = helpers.session(connect, autocommit=False), *(helpers.session(connect) for _ in range(2))
    holder.execute("select from strategy_run where user_id = %s for update", [runs[1].user_id])
    ticking = background(ticker.execute, "call tick_all(%s)", [helpers.at(3)])
    helpers.wait_until_blocked(db, helpers.pid_of(ticker), by=helpers.pid_of(holder))  # it has locked the first run
    forker.execute("set lock_timeout = '2s'")
    with helpers.raises("23505"):
        fork_of(forker, runs[2], None, runs[0].user_id)
    holder.rollback()
    ticking.result()
