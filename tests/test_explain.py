"""explain_order: why an order did or did not fill, told from its rows and the bars."""

from __future__ import annotations

import random
import time
from decimal import Decimal
from typing import Any

from desk import Conn, D, Market, Run, at, refused, rows, val, weekday_market
from hypothesis import given
from hypothesis import strategies as st

from tests.histories import OPTIONS, histories, set_volumes, start
from tests.scripts import BRIEF, Bench, Script, examples
from tests.test_equivalence import by_replay, by_tick, play

T0 = "2024-01-02 10:00"


def story(run: Run, order_id: int) -> list[tuple[Any, ...]]:
    """(time as the market's clock shows it, code, detail) of explain_order."""
    found = rows(run.conn, "select logical_time, code, detail from explain_order(%s, %s, %s)", *run.key, order_id)
    zone = run.market.zone
    return [(t and t.astimezone(zone).strftime("%d %H:%M"), code, detail) for t, code, detail in found]


def codes(run: Run, order_id: int) -> list[str]:
    return [f"{t} {code}" for t, code, _ in story(run, order_id)]


def detail(run: Run, order_id: int, code: str) -> dict[str, Any]:
    """Of the one row with that code; without the times of its span."""
    (found,) = [d for _, c, d in story(run, order_id) if c == code]
    return {key: value for key, value in found.items() if key not in ("from", "to")}


def week(conn: Conn, bars: dict[str, Any], options: dict[str, Any] | None = None) -> Run:
    """A run on ACME, in sessions from 9:30 to 16:00, that holds 100 of it and has ticked at T0."""
    market = weekday_market(conn, "2024-01-01", "2024-01-05")
    market.bars("ACME", {"2024-01-01 10:00": 100, T0: 100, **{f"2024-01-{t}": bar for t, bar in bars.items()}})
    market.bars("CLOCK", {"2024-01-05 15:00": 1})
    run = Run(market, 100_000, **options or {})
    run.place("ACME", "BUY", 100)
    run.tick("2024-01-01 10:00")
    run.tick(T0)
    return run


def test_a_limit_that_waits_and_fills(tx: Conn) -> None:
    run = week(
        tx,
        {
            "02 11:00": (100, 103, 97, 101),
            "02 17:00": 90,
            "03 11:00": (100, 103, 96, 101),
            "03 12:00": (96, 97, 94, 95),
        },
    )
    run.place("ACME", "BUY", 10, 95)  # 2
    run.tick("2024-01-02 10:30")
    assert codes(run, 2) == ["02 10:00 ACCEPTED", "02 10:30 WAITING"]
    run.tick("2024-01-03 11:00")
    assert codes(run, 2)[1:] == ["02 11:00 WAITING_PRICE", "02 17:00 SESSION_CLOSED", "03 11:00 WAITING"]
    waited = {"bars": 2, "wanted_price": 95, "nearest_price": 96, "distance": 1}
    assert detail(run, 2, "WAITING_PRICE") == waited
    assert detail(run, 2, "SESSION_CLOSED") == {"bars": 1}
    assert detail(run, 2, "WAITING") == {"status": "PENDING", "left": 10}
    run.tick("2024-01-03 12:00")
    assert codes(run, 2)[1:] == ["02 11:00 WAITING_PRICE", "02 17:00 SESSION_CLOSED", "03 12:00 FILLED"]
    filled = {"trade_id": 2, "quantity": 10, "price": 95, "fees": 0, "filled_quantity": 10}
    assert detail(run, 2, "FILLED") == filled
    run.call("stop_run")
    assert detail(run, 2, "WAITING_PRICE") == waited


def test_penetration_is_part_of_the_price_that_was_wanted(tx: Conn) -> None:
    tx.execute("insert into instrument (symbol, price_tick) values ('ACME', 0.5)")
    run = week(tx, {"02 11:00": (100, 103, 95, 101)}, {"penetration_ticks": 2})
    run.place("ACME", "BUY", 10, 95)
    run.tick("2024-01-02 11:00")
    assert detail(run, 2, "WAITING_PRICE") == {"bars": 1, "wanted_price": 94, "nearest_price": 95, "distance": 1}


def test_a_stop_that_triggers(tx: Conn) -> None:
    run = week(
        tx,
        {
            "02 11:00": (100, 103, 97, 101),
            "02 12:00": (101, 106, 100, 105),
            "02 13:00": (107, 109, 106, 107),
            "02 14:00": (103, 105, 102, 103),
        },
    )
    run.place("ACME", "BUY", 10, order_type="STOP_LIMIT", stop_price=105, limit_price=104)  # 2
    run.place("ACME", "SELL", 10, order_type="STOP", stop_price=95)  # 3
    run.tick("2024-01-02 14:00")
    assert codes(run, 2) == [
        "02 10:00 ACCEPTED",
        "02 11:00 WAITING_PRICE",
        "02 12:00 TRIGGERED",
        "02 13:00 WAITING_PRICE",
        "02 14:00 FILLED",
    ]
    spans = [d for _, code, d in story(run, 2) if code == "WAITING_PRICE"]
    assert [(d["wanted_price"], d["nearest_price"], d["distance"]) for d in spans] == [(105, 103, 2), (104, 106, 2)]
    assert detail(run, 2, "TRIGGERED") == {"stop_price": 105}
    assert detail(run, 3, "WAITING_PRICE") == {"bars": 4, "wanted_price": 95, "nearest_price": 97, "distance": 2}


def test_a_trailing_stop_ratchets(tx: Conn) -> None:
    run = week(
        tx,
        {
            "02 11:00": (100, 103, 99, 102),
            "02 12:00": (102, 102, 101, 102),
            "02 13:00": (102, 110, 101, 109),
            "02 17:00": 190,
            "03 10:00": (104, 106, 102, 103),
        },
    )
    run.place("ACME", "SELL", 10, order_type="TRAILING_STOP", trail_amount=5)
    run.tick("2024-01-02 17:00")
    assert codes(run, 2) == [
        "02 10:00 ACCEPTED",
        "02 11:00 WAITING_PRICE",
        "02 11:00 RATCHETED",
        "02 17:00 SESSION_CLOSED",
        "02 17:00 WAITING",
    ]
    assert detail(run, 2, "ACCEPTED")["stop_price"] == 95
    assert detail(run, 2, "RATCHETED") == {"bars": 2, "first_stop": 95, "last_stop": 105}
    assert detail(run, 2, "WAITING")["stop_price"] == run.order(2)["stop_price"] == 105
    run.tick("2024-01-03 10:00")
    assert codes(run, 2)[-2:] == ["03 10:00 TRIGGERED", "03 10:00 FILLED"]
    assert detail(run, 2, "TRIGGERED") == {"stop_price": 105}
    assert detail(run, 2, "FILLED")["price"] == 104


def test_bars_outside_sessions_move_no_trailing_stop(tx: Conn) -> None:
    run = week(tx, {"02 17:00": 190, "03 10:00": (99, 101, 98, 100), "03 11:00": (99, 100, 97, 98)})
    run.place("ACME", "SELL", 10, order_type="TRAILING_STOP", trail_amount=5)
    run.tick("2024-01-03 11:00")
    spans = ["02 17:00 SESSION_CLOSED", "03 10:00 WAITING_PRICE", "03 10:00 RATCHETED"]
    assert codes(run, 2)[1:] == [*spans, "03 11:00 WAITING"]
    assert detail(run, 2, "RATCHETED") == {"bars": 1, "first_stop": 95, "last_stop": 96}
    assert detail(run, 2, "WAITING_PRICE") == {"bars": 2, "wanted_price": 96, "nearest_price": 97, "distance": 1}


def test_the_rest_of_an_order_that_cash_no_longer_allows(tx: Conn) -> None:
    bars = {"02 11:00": (100, 100, 100, 100, 60), "02 12:00": (60_000, 60_000, 60_000, 60_000, 60)}
    run = week(tx, bars, {"participation": D("0.1")})
    run.place("ACME", "BUY", 8)  # 2
    run.tick("2024-01-02 12:00")
    assert codes(run, 2) == ["02 10:00 ACCEPTED", "02 11:00 PARTIALLY_FILLED", "02 12:00 CANCELED"]
    assert detail(run, 2, "CANCELED") == {"by": "REFUSED", "left": 2}


def test_volume_that_was_not_left(tx: Conn) -> None:
    run = week(
        tx,
        {
            "02 11:00": (100, 100, 100, 100, 0),
            "02 12:00": (100, 100, 100, 100, 60),
            "02 13:00": (100, 100, 100, 100, 100),
            "02 14:00": (100, 100, 100, 100, 1000),
        },
        {"participation": D("0.1")},
    )
    run.place("ACME", "BUY", 8)  # 2
    run.place("ACME", "BUY", 8)  # 3: what 2 leaves
    run.tick("2024-01-02 14:00")
    assert codes(run, 2) == ["02 10:00 ACCEPTED", "02 11:00 VOLUME_CAP", "02 12:00 PARTIALLY_FILLED", "02 13:00 FILLED"]
    assert codes(run, 3) == ["02 10:00 ACCEPTED", "02 11:00 VOLUME_CAP", "02 13:00 FILLED"]
    assert detail(run, 3, "VOLUME_CAP") == {"bars": 2, "volume": 60, "participation": 0.1}
    assert [d["filled_quantity"] for _, code, d in story(run, 2) if "FILLED" in code] == [6, 8]


def test_rejected_at_once_and_at_the_fill(tx: Conn) -> None:
    run = week(tx, {"02 11:00": (50_000, 50_000, 50_000, 50_000)})
    run.place("ACME", "SELL", 101)  # 2
    run.place("ACME", "BUY", 10)  # 3
    run.place("ACME", "SELL", 1)  # 4: before the buy
    run.tick("2024-01-02 11:00")
    assert story(run, 2) == [
        ("02 10:00", "REJECTED", {"reason": "POSITION_INSUFFICIENT", "source": "CLIENT", "quantity": 101})
    ]
    assert codes(run, 3) == ["02 10:00 ACCEPTED", "02 11:00 REJECTED"]
    assert detail(run, 3, "REJECTED") == {
        "reason": "CASH_INSUFFICIENT",
        **{"quantity": 10, "price": 50_000, "value": 500_000, "cash": 90_000 + 50_000, "held": 99},
    }


def test_who_canceled_it(tx: Conn) -> None:
    run = week(tx, {"02 11:00": (100, 103, 97, 101), "02 12:00": (100, 103, 97, 101), "03 09:00": 100})
    by_hand = run.place("ACME", "BUY", 1, 50)["order_id"]
    replaced = run.place("ACME", "BUY", 1, 51)["order_id"]
    brief = run.place("ACME", "BUY", 1, 52, time_in_force="IOC")["order_id"]
    fill_or_kill = run.place("ACME", "BUY", 1, 53, time_in_force="FOK")["order_id"]
    taken, pair = (
        row[0] for row in rows(tx, "select order_id from place_oco(%s, %s, 'ACME', 'SELL', 5, 102, 60)", *run.key)
    )
    ended = run.place("ACME", "BUY", 1, 54)["order_id"]
    run.tick("2024-01-02 11:00")
    run.cancel(by_hand)
    new = run.call("replace_order", order_id=replaced, limit_price=40)["order_id"]
    run.tick("2024-01-02 16:30")
    outside = run.place("ACME", "BUY", 1, time_in_force="IOC")["order_id"]
    run.tick("2024-01-03 09:00")
    run.call("stop_run", reason="enough")
    for order_id, found in {
        by_hand: {"by": "USER", "left": 1},
        replaced: {"by": "REPLACED", "left": 1, "order_id": new},
        brief: {"by": "TIME_IN_FORCE", "left": 1, "was_reached": False},
        fill_or_kill: {"by": "TIME_IN_FORCE", "left": 1, "was_reached": False},
        pair: {"by": "PAIR", "left": 5, "order_id": taken},
        ended: {"by": "RUN_END", "left": 1, "reason": "enough"},
    }.items():
        assert detail(run, order_id, "CANCELED") == found
    assert codes(run, brief) == ["02 10:00 ACCEPTED", "02 11:00 CANCELED"]
    assert codes(run, outside) == ["02 16:30 ACCEPTED", "03 09:00 REJECTED"]
    assert detail(run, new, "ACCEPTED")["replaces_order_id"] == replaced
    assert detail(run, new, "WAITING_PRICE")["bars"] == 1


def test_expired_at_its_deadline(tx: Conn) -> None:
    run = week(tx, {"02 11:00": (100, 103, 97, 101), "03 10:00": 60})
    run.place("ACME", "BUY", 1, 60, time_in_force="DAY")  # 2
    run.place("ACME", "BUY", 1, 50, time_in_force="GTD", good_till=at("2024-01-02 10:30"))  # 3
    assert detail(run, 2, "WAITING")["until"] == "2024-01-02T16:00:00.000000Z"
    run.tick("2024-01-03 10:00")
    assert codes(run, 2) == ["02 10:00 ACCEPTED", "02 11:00 WAITING_PRICE", "03 10:00 EXPIRED"]
    assert codes(run, 3) == ["02 10:00 ACCEPTED", "02 11:00 EXPIRED"]


def test_a_bracket_and_its_exits(tx: Conn) -> None:
    bars = {
        "02 11:00": (100, 101, 99, 100, 60),
        "02 12:00": (100, 101, 98, 100, 60),
        "02 13:00": (100, 111, 99, 100, 30),
        "02 14:00": (112, 113, 110, 110, 900),
    }
    run = week(tx, bars, {"participation": D("0.1")})
    run.place("ACME", "BUY", 10, take_profit=110, stop_loss=90)  # 2, exits 3 and 4
    run.tick("2024-01-02 14:00")
    assert codes(run, 2) == ["02 10:00 ACCEPTED", "02 11:00 PARTIALLY_FILLED", "02 11:00 EXITS_MADE", "02 12:00 FILLED"]
    assert detail(run, 2, "EXITS_MADE") == {"order_ids": [3, 4]}
    assert codes(run, 3) == [
        "02 11:00 ACCEPTED",
        "02 11:00 WAITING_PRICE",
        "02 12:00 GREW",
        "02 13:00 PARTIALLY_FILLED",
        "02 14:00 FILLED",
    ]
    assert detail(run, 3, "WAITING_PRICE")["bars"] == 2  # the bar of the entry, which filled at its open, and the next
    assert codes(run, 4) == [
        "02 11:00 ACCEPTED",
        "02 11:00 WAITING_PRICE",
        "02 12:00 GREW",
        "02 13:00 REDUCED",
        "02 14:00 CANCELED",
    ]
    assert detail(run, 4, "REDUCED") == {"by_order_id": 3, "quantity": -3}
    assert detail(run, 4, "CANCELED")["by"] == "PAIR"


def test_orders_of_plans(tx: Conn) -> None:
    run = week(tx, {"03 10:00": 100})
    run.sip("ACME", 500, "DAILY", "2024-01-03")
    run.rebalance('{"ACME": 0.05}', "DAILY", "2024-01-03")
    run.tick("2024-01-03 10:00")
    assert codes(run, 2) == codes(run, 3) == ["03 10:00 ACCEPTED", "03 10:00 FILLED"]
    assert detail(run, 2, "ACCEPTED")["slots"] == ["1:0"]
    assert (detail(run, 3, "ACCEPTED")["source"], detail(run, 3, "ACCEPTED")["slots"]) == ("REBALANCE", ["1:0"])


def test_a_bar_that_was_corrected_is_unseen(tx: Conn) -> None:
    run = week(tx, {"02 11:00": (100, 103, 97, 101)})
    run.place("ACME", "BUY", 10, 95)
    run.tick("2024-01-02 11:00")
    tx.execute(
        "update price_bar set low = 94 where logical_time = %s and feed = %s", [at("2024-01-02 11:00"), run.market.feed]
    )
    assert codes(run, 2) == ["02 10:00 ACCEPTED", "02 11:00 UNSEEN", "02 11:00 WAITING"]


def test_before_the_first_tick(tx: Conn) -> None:
    market = Market(tx)
    market.bars("ACME", {"2024-01-01 10:00": 100, "2024-01-02 10:00": (100, 110, 90, 100), "2024-01-03 10:00": 120})
    run = Run(market)
    run.place("ACME", "BUY", 1, 80)
    run.place("ACME", "BUY", 1, 70)
    run.place("ACME", "SELL", 1)
    run.cancel(2)
    assert [(t, code) for t, code, _ in story(run, 1)] == [(None, "ACCEPTED"), (None, "WAITING")]
    run.tick("2024-01-02 10:00")
    assert [code for _, code, _ in story(run, 2)] == ["ACCEPTED", "CANCELED"]
    assert [code for _, code, _ in story(run, 3)] == ["REJECTED"]
    assert [code for _, code, _ in story(run, 1)] == ["ACCEPTED", "WAITING_PRICE", "WAITING"]
    assert detail(run, 1, "WAITING_PRICE")["nearest_price"] == 90


def test_refusals(tx: Conn) -> None:
    run = week(tx, {})
    with refused(tx, "TE101", argument="order_id"):
        story(run, 9)
    with refused(tx, "TE204"):
        tx.execute("select explain_order(%s, 0, 1)", [run.user_id])


def test_three_thousand_bars_take_well_under_a_second(tx: Conn) -> None:
    market = Market(tx)
    market.bars("ACME", {f"2024-01-01 00:{n // 60:02}:{n % 60:02}": 100 + n % 7 for n in range(3000)})
    run = Run(market)
    run.tick("2024-01-01 00:00:00")
    run.place("ACME", "BUY", 1, 50)
    run.place("ACME", "BUY", 1, order_type="TRAILING_STOP", trail_amount=50)
    run.tick("2024-01-01 00:49:59")
    for order_id in (1, 2):
        began = time.perf_counter()
        assert detail(run, order_id, "WAITING_PRICE")["bars"] == 2999
        assert time.perf_counter() - began < 1


ENDS = {"FILLED", "CANCELED", "EXPIRED", "REJECTED", "WAITING"}


def test_every_order_of_a_random_history_is_explained(db: Conn) -> None:
    """The story agrees with what is stored: how it ends, what was traded, where the stop stands; and no bar is a riddle."""
    bench = Bench(db)
    seen: set[str] = set()

    @examples(100, 1000)
    @given(histories(), st.sampled_from(OPTIONS), st.randoms(use_true_random=False))
    def check(history: tuple[Script, int], options: dict[str, Any], chance: random.Random) -> None:
        script, _ = history
        feed = bench.feed(script)
        set_volumes(db, feed)
        run = start(bench, feed, script.cash * chance.choice([1, 20, 20]), **options)
        play(run, script.calls, chance.choice([by_tick, by_replay]))
        query = """select o.order_id, o.status, o.filled_quantity, o.stop_price, o.order_type, o.closed_time, o.triggered_time,
                          (select jsonb_agg(jsonb_build_array(e.code, e.detail, extract(epoch from e.logical_time)) order by e.n)
                             from explain_order(o.user_id, o.run_id, o.order_id) with ordinality e (logical_time, code, detail, n))
                     from paper_order o where o.user_id = %s order by 1"""
        for order_id, status, filled, stop, kind, closed, triggered, told in db.execute(
            query, [run.user_id]
        ).fetchall():
            words = [code for code, _, _ in told]
            at_times = [t for _, _, t in told if t is not None]
            seen.update(words)
            assert "UNSEEN" not in words, (order_id, told)
            assert at_times == sorted(at_times)
            assert words[0] == ("REJECTED" if words[0] == "REJECTED" else "ACCEPTED")
            ends = [code for code in words if code in ENDS]
            assert ends == [
                status if closed or words == ["REJECTED"] or status == "CANCELED" else "WAITING"
            ] or words == ["REJECTED"], told
            assert sum((d["quantity"] for code, d, _ in told if "FILLED" in code), Decimal(0)) == filled
            assert ("TRIGGERED" in words) == (triggered is not None)
            for code, d, _ in told:
                assert code != "WAITING_PRICE" or d.get("distance", 1) > 0, told
                assert code != "VOLUME_CAP" or "participation" in options
                assert code != "CANCELED" or "UNSEEN" not in words
            if kind == "TRAILING_STOP" and words[0] == "ACCEPTED":
                ratchets = [d["last_stop"] for code, d, _ in told if code == "RATCHETED"] or [
                    told[0][1].get("stop_price")
                ]
                assert ratchets[-1] == stop, told

    check()
    assert BRIEF or seen >= ENDS | {
        "ACCEPTED",
        "WAITING_PRICE",
        "SESSION_CLOSED",
        "VOLUME_CAP",
        "TRIGGERED",
        "RATCHETED",
        "PARTIALLY_FILLED",
    }


def test_asking_changes_nothing(tx: Conn) -> None:
    run = week(tx, {"02 11:00": (100, 103, 97, 101)})
    run.place("ACME", "BUY", 10, 95)
    run.tick("2024-01-02 11:00")
    kept = run.snapshot()
    tx.execute("set transaction read only")
    assert val(tx, "select count(*) from explain_order(%s, %s, 2)", *run.key) == 3
    assert run.snapshot() == kept


def test_a_split_changes_what_the_bars_are_judged_by(tx: Conn) -> None:
    """Bars before it have other prices: they are left out. What the split leaves no unit of is canceled by it."""
    market = Market(tx)
    market.instrument("ACME", step="1")
    days = [f"2024-01-0{n} 10:00" for n in range(1, 7)]
    market.bars("ACME", dict(zip(days, (100, 100, 110, 30, 28, 24), strict=True)))
    tx.execute("insert into corporate_action values ('ACME', '2024-01-04', 'SPLIT', 4, 1)")
    tx.execute("insert into corporate_action values ('ACME', '2024-01-06', 'SPLIT', 1, 8)")
    run = Run(market)
    run.place("ACME", "BUY", 10)
    run.tick(days[0])
    run.tick(days[1])
    waits = run.place("ACME", "BUY", 2, 80)["order_id"]  # 20 from day 4 on
    gone = run.place("ACME", "BUY", 1, 60)["order_id"]
    trails = run.call("place_order", symbol="ACME", side="SELL", quantity=4, order_type="TRAILING_STOP", trail_amount=8)

    def codes(order_id: int) -> list[Any]:
        found = rows(tx, "select code, detail from explain_order(%s, %s, %s)", *run.key, order_id)
        return [(code, detail) for code, detail in found if code != "ACCEPTED"]

    for when in days[2:5]:
        run.tick(when)
    waiting = codes(waits)[0]
    assert (waiting[0], waiting[1]["bars"]) == ("WAITING_PRICE", 2)
    assert (waiting[1]["wanted_price"], waiting[1]["nearest_price"]) == (20, 28)
    # 92, then 102 after the high of 110; 25.5 after the split, 28 after the high of 30
    assert [code for code, _ in codes(trails["order_id"])] == ["WAITING_PRICE", "RATCHETED", "TRIGGERED", "FILLED"]
    ratcheted = codes(trails["order_id"])[1][1]
    assert (ratcheted["first_stop"], ratcheted["last_stop"]) == (D("25.5"), 28)
    run.tick(days[5])
    assert [detail.get("by") for code, detail in codes(gone) if code == "CANCELED"] == ["SPLIT"]
