"""SIP: when slots are due, how they end, what they buy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

import pytest
from desk import Conn, D, Market, Run, at, call, days, ny, refused, val, weekday_market
from psycopg import Error


def daily(market: Market, symbol: str, first: str, last: str, price: Any = 100, hour: str = "16:00") -> list[str]:
    """A quote every calendar day at that hour of the market's clock; the times."""
    n = (date.fromisoformat(last) - date.fromisoformat(first)).days + 1
    times = [f"{date.fromisoformat(first) + timedelta(days=i)} {hour}" for i in range(n)]
    market.bars(symbol, dict.fromkeys(times, price))
    return times


def ends(run: Run, sip_id: int = 1) -> list[tuple[str, str, str]]:
    """(how, nominal date, local date of the tick) of each slot that ended, in slot order."""
    found = run.table(
        "event_key, event_type, payload ->> 'date', logical_time",
        "event_ledger",
        "split_part(event_key, ':', 2)::int",
    )
    mine = [(int(k.split(":")[1]), t, d, time) for k, t, d, time in found if k.split(":")[0] == str(sip_id)]
    assert [slot for slot, *_ in mine] == list(range(len(mine)))  # each slot once, none left out
    return [
        (kind.removeprefix("SIP_"), d, time.astimezone(run.market.zone).date().isoformat()) for _, kind, d, time in mine
    ]


def executed(run: Run, sip_id: int = 1) -> list[str]:
    assert {kind for kind, *_ in ends(run, sip_id)} <= {"EXECUTED"}
    assert all(nominal == ticked for _, nominal, ticked in ends(run, sip_id))
    return [nominal for _, nominal, _ in ends(run, sip_id)]


def replay(run: Run, first: str, last: str) -> None:
    zone = run.market.at
    run.conn.execute("call replay(%s, %s, %s, %s)", [*run.key, zone(f"{first} 00:00"), zone(f"{last} 23:59")])


# --- schedules -------------------------------------------------------------------------------------------------------

SCHEDULES: list[tuple[str, str, list[str]]] = [
    (
        "MONTHLY",
        "2023-10-31",
        ["2023-10-31", "2023-11-30", "2023-12-31", "2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30"],
    ),
    ("MONTHLY", "2023-12-30", ["2023-12-30", "2024-01-30", "2024-02-29", "2024-03-30", "2024-04-30"]),
    ("MONTHLY", "2023-12-29", ["2023-12-29", "2024-01-29", "2024-02-29", "2024-03-29", "2024-04-29"]),
    ("MONTHLY", "2024-01-15", ["2024-01-15", "2024-02-15", "2024-03-15", "2024-04-15"]),
    ("QUARTERLY", "2023-10-31", ["2023-10-31", "2024-01-31", "2024-04-30"]),
    ("QUARTERLY", "2023-11-29", ["2023-11-29", "2024-02-29"]),
    ("WEEKLY", "2024-03-30", ["2024-03-30", "2024-04-06", "2024-04-13", "2024-04-20", "2024-04-27"]),
    (
        "WEEKLY",
        "2024-02-22",
        [
            f"2024-{d}"
            for d in (
                "02-22",
                "02-29",
                "03-07",
                "03-14",
                "03-21",
                "03-28",
                "04-04",
                "04-11",
                "04-18",
                "04-25",
            )
        ],
    ),
    ("DAILY", "2024-04-26", ["2024-04-26", "2024-04-27", "2024-04-28", "2024-04-29", "2024-04-30"]),
]


def test_slots_fall_on_their_dates(tx: Conn) -> None:
    market = Market(tx)
    daily(market, "A", "2023-10-01", "2024-04-30")
    run = Run(market, 10**9)
    for frequency, start, _ in SCHEDULES:
        run.sip("A", 1000, frequency, start)
    replay(run, "2023-10-01", "2024-04-30")
    for sip_id, (frequency, start, dates) in enumerate(SCHEDULES, 1):
        assert executed(run, sip_id) == dates, (frequency, start)
    assert run.rules() == set()


@pytest.mark.parametrize("year", [2023, 2024, 2100, 2000])
def test_the_end_of_february_does_not_stick(tx: Conn, year: int) -> None:
    market = Market(tx)
    daily(market, "A", f"{year}-01-28", f"{year}-04-01")
    run = Run(market)
    for d in (28, 29, 30, 31):
        run.sip("A", 10, "MONTHLY", f"{year}-01-{d}")
    replay(run, f"{year}-01-01", f"{year}-04-01")
    leap = year in (2024, 2000)
    for sip_id, d in enumerate((28, 29, 30, 31), 1):
        february = min(d, 29 if leap else 28)
        assert executed(run, sip_id) == [f"{year}-01-{d}", f"{year}-02-{february}", f"{year}-03-{d}"]


def test_a_leap_day_start_returns_to_the_29th(tx: Conn) -> None:
    market = Market(tx)
    daily(market, "A", "2024-02-28", "2024-06-01")
    daily(market, "A", "2025-02-25", "2025-03-05")
    run = Run(market)
    run.sip("A", 10, "MONTHLY", "2024-02-29", instalments=4)
    run.sip("A", 10, "QUARTERLY", "2024-02-29")
    replay(run, "2024-02-28", "2025-03-05")
    assert executed(run) == ["2024-02-29", "2024-03-29", "2024-04-29", "2024-05-29"]
    assert ends(run, 2) == [
        *(("EXECUTED", d, d) for d in ("2024-02-29", "2024-05-29")),
        *(("MISSED", d, "2025-02-25") for d in ("2024-08-29",)),
        ("EXECUTED", "2024-11-29", "2025-02-25"),
        ("EXECUTED", "2025-02-28", "2025-02-28"),
    ]


def test_daily_counts_the_sessions_of_the_calendar(tx: Conn) -> None:
    market = weekday_market(tx, "2024-01-01", "2024-01-12", skip=["2024-01-04"])
    daily(market, "A", "2024-01-01", "2024-01-12", hour="12:00")
    run = Run(market)
    run.sip("A", 10, "DAILY", "2024-01-01")
    run.sip("A", 10, "DAILY", "2024-01-06")  # a Saturday: slot 0 is Monday's
    replay(run, "2024-01-01", "2024-01-12")
    assert executed(run, 1) == days("2024-01-01", "2024-01-12", skip=["2024-01-04"])
    assert executed(run, 2) == days("2024-01-08", "2024-01-12")


def test_slots_do_not_move_with_late_executions(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {f"2024-01-{d} 12:00": 100 for d in ("05", "10", "11", "15", "25")})
    run = Run(market)
    run.sip("A", 10, "WEEKLY", "2024-01-01")
    for d in ("05", "10", "11", "15", "25"):
        run.tick(f"2024-01-{d} 12:00")
    assert ends(run) == [
        ("EXECUTED", "2024-01-01", "2024-01-05"),
        ("EXECUTED", "2024-01-08", "2024-01-10"),
        ("EXECUTED", "2024-01-15", "2024-01-15"),
        ("EXECUTED", "2024-01-22", "2024-01-25"),
    ]


# --- rolls -----------------------------------------------------------------------------------------------------------

HOLIDAYS = ["2024-01-01", "2024-01-15", "2024-03-29"]  # Monday, Monday, Good Friday


class Rolled(NamedTuple):
    start: str
    following: tuple[str, str]
    previous: tuple[str, str]
    skip: tuple[str, str]


ROLLS = [
    Rolled("2024-01-10", ("EXECUTED", "2024-01-10"), ("EXECUTED", "2024-01-10"), ("EXECUTED", "2024-01-10")),
    Rolled(
        "2024-01-13",
        ("EXECUTED", "2024-01-16"),
        ("EXECUTED", "2024-01-12"),
        ("SKIPPED_HOLIDAY", "2024-01-16"),
    ),
    Rolled(
        "2024-01-15",
        ("EXECUTED", "2024-01-16"),
        ("EXECUTED", "2024-01-12"),
        ("SKIPPED_HOLIDAY", "2024-01-16"),
    ),
    Rolled(
        "2024-03-29",
        ("EXECUTED", "2024-04-01"),
        ("EXECUTED", "2024-03-28"),
        ("SKIPPED_HOLIDAY", "2024-04-01"),
    ),
    Rolled(
        "2024-03-31",
        ("EXECUTED", "2024-04-01"),
        ("EXECUTED", "2024-03-28"),
        ("SKIPPED_HOLIDAY", "2024-04-01"),
    ),
]


def test_rolls_over_weekends_and_holidays(tx: Conn) -> None:
    market = weekday_market(tx, "2024-01-02", "2024-04-02", skip=HOLIDAYS, zone="America/New_York")
    daily(market, "A", "2024-01-02", "2024-04-02")
    run = Run(market)
    for case in ROLLS:
        for roll in ("NEXT", "PREVIOUS", "SKIP"):
            run.sip("A", 10, "QUARTERLY", case.start, roll=roll, instalments=1)
    replay(run, "2024-01-01", "2024-04-02")
    for i, case in enumerate(ROLLS):
        for j, (how, when) in enumerate((case.following, case.previous, case.skip), 1):
            assert ends(run, 3 * i + j) == [(how, case.start, when)], (case.start, j)
    assert run.rules() == set()


def test_previous_waits_for_a_calendar_that_reaches_the_date(tx: Conn) -> None:
    market = weekday_market(tx, "2024-01-02", "2024-01-12")
    daily(market, "A", "2024-01-02", "2024-01-16", hour="12:00")
    run = Run(market)
    run.sip("A", 10, "MONTHLY", "2024-01-13", roll="PREVIOUS")  # Saturday: no session known on or after it
    replay(run, "2024-01-02", "2024-01-12")
    assert ends(run) == []
    market.add_sessions([("2024-01-16", "09:30", "16:00")])
    run.tick("2024-01-16 12:00")
    assert ends(run) == [("EXECUTED", "2024-01-13", "2024-01-16")]


def test_previous_before_the_first_session_of_the_calendar(tx: Conn) -> None:
    market = weekday_market(tx, "2024-01-02", "2024-01-12")
    daily(market, "A", "2024-01-02", "2024-01-03", hour="12:00")
    run = Run(market)
    run.sip("A", 10, "MONTHLY", "2024-01-01", roll="PREVIOUS")
    run.tick("2024-01-02 12:00")
    assert ends(run) == [("EXECUTED", "2024-01-01", "2024-01-02")]


# --- the engine was away ---------------------------------------------------------------------------------------------


def away(tx: Conn, catch_up: str, ticks: Sequence[str], **options: Any) -> list[tuple[str, str, str]]:
    market = weekday_market(tx, "2024-01-01", "2024-02-09")
    daily(market, "A", "2024-01-01", "2024-02-08", hour="12:00")
    daily(market, "B", "2024-01-01", "2024-02-08", hour="15:00")
    run = Run(market)
    run.sip("A", 100, "WEEKLY", "2024-01-02", catch_up=catch_up, **options)  # Tuesdays
    for t in ticks:
        run.tick(f"2024-{t}")
    assert run.rules() == set()
    return ends(run)


def test_catch_up_once(tx: Conn) -> None:
    assert away(tx, "ONCE", ["01-17 12:00"]) == [
        ("MISSED", "2024-01-02", "2024-01-17"),
        ("MISSED", "2024-01-09", "2024-01-17"),
        ("EXECUTED", "2024-01-16", "2024-01-17"),
    ]


def test_catch_up_each_executes_all_at_this_close(tx: Conn) -> None:
    assert away(tx, "EACH", ["01-02 12:00", "01-23 12:00"]) == [
        ("EXECUTED", "2024-01-02", "2024-01-02"),
        *(("EXECUTED", f"2024-01-{d}", "2024-01-23") for d in ("09", "16", "23")),
    ]


def test_catch_up_skip(tx: Conn) -> None:
    late = ("MISSED", "2024-01-02", "2024-01-03")
    assert away(tx, "SKIP", ["01-02 12:00", "01-09 15:00"]) == [
        ("EXECUTED", "2024-01-02", "2024-01-02"),
        ("EXECUTED", "2024-01-09", "2024-01-09"),
    ]
    # a session has closed since the slot became due
    assert away(tx, "SKIP", ["01-03 12:00"]) == [late]
    assert away(tx, "SKIP", ["01-02 16:00"]) == [("EXECUTED", "2024-01-02", "2024-01-02")]  # at the close itself
    assert away(tx, "SKIP", ["01-02 20:00", "01-03 12:00"]) == [late]
    assert away(tx, "SKIP", ["01-17 12:00"]) == [
        ("MISSED", "2024-01-02", "2024-01-17"),
        ("MISSED", "2024-01-09", "2024-01-17"),
        ("MISSED", "2024-01-16", "2024-01-17"),
    ]
    assert away(tx, "SKIP", ["01-16 12:00"])[-1] == ("EXECUTED", "2024-01-16", "2024-01-16")
    # over a weekend nothing closes between the due date and the next session
    market = weekday_market(tx, "2024-01-05", "2024-01-12", skip=["2024-01-08"])
    daily(market, "A", "2024-01-05", "2024-01-12", hour="12:00")
    for roll, how in (("NEXT", "EXECUTED"), ("PREVIOUS", "MISSED"), ("SKIP", "SKIPPED_HOLIDAY")):
        run = Run(market)
        run.sip("A", 100, "MONTHLY", "2024-01-06", catch_up="SKIP", roll=roll)
        run.tick("2024-01-09 12:00")
        assert ends(run) == [(how, "2024-01-06", "2024-01-09")], roll


def test_catch_up_skip_under_always(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {f"2024-01-0{d} {h}": 100 for d in (1, 2, 3, 4) for h in ("00:00", "12:00")})
    for ticked, how in (
        ("2024-01-02 00:00", "EXECUTED"),
        ("2024-01-02 12:00", "EXECUTED"),
        ("2024-01-03 00:00", "EXECUTED"),
        ("2024-01-03 12:00", "MISSED"),
    ):
        run = Run(market)
        run.sip("A", 100, "MONTHLY", "2024-01-02", catch_up="SKIP")
        run.tick(ticked)
        assert [e[0] for e in ends(run)] == [how], ticked


@pytest.mark.parametrize("catch_up", ["ONCE", "EACH", "SKIP"])
def test_a_slot_ends_once_however_often_it_is_asked(tx: Conn, catch_up: str) -> None:
    market = Market(tx)
    times = daily(market, "A", "2024-01-01", "2024-01-10", hour="12:00")
    run = Run(market)
    run.sip("A", 100, "DAILY", "2024-01-01", catch_up=catch_up)
    for i, t in enumerate(times):
        if i not in (3, 4, 7):
            got = [run.call("try_execute_sip", logical_time=at(t)) for _ in range(3)]
            assert got[1:] == [0, 0]
            assert got[0] in (0, 1) or catch_up == "EACH"
            run.tick(t)
            run.tick(t)
            assert run.call("try_execute_sip", logical_time=at(t)) == 0
    assert len(ends(run)) == 10
    orders = [o for o in run.table("order_id, source, status", "paper_order", "1")]
    assert len(orders) == len([e for e in ends(run) if e[0] == "EXECUTED"]) == len(run.trades())
    assert {o[1:] for o in orders} == {("SIP", "FILLED")}
    assert run.rules() == set()


def test_slots_execute_once_from_many_sessions(db: Conn, connect: Callable[..., Conn]) -> None:
    market = Market(db)
    times = daily(market, "A", "2024-01-01", "2024-01-05", hour="12:00")
    run = Run(market)
    run.sip("A", 100, "DAILY", "2024-01-01")
    start = threading.Barrier(4)
    counts: list[int] = []
    errors: list[str | None] = []

    def work(conn: Conn, by_tick: bool) -> None:
        start.wait()
        for t in times:
            try:
                if by_tick:
                    conn.execute("call tick(%s, %s, %s)", [*run.key, at(t)])
                else:
                    counts.append(
                        call(
                            conn,
                            "try_execute_sip",
                            user_id=run.user_id,
                            run_id=run.run_id,
                            logical_time=at(t),
                        )["try_execute_sip"]
                    )
            except Error as error:
                errors.append(error.sqlstate)

    threads = [threading.Thread(target=work, args=(connect(), i % 2 == 0)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(errors) <= {"TE003"}  # overtaken by another session's tick
    run.tick(times[-1])
    assert len(ends(run)) == 5
    assert len(run.trades()) == len([e for e in ends(run) if e[0] == "EXECUTED"])


# --- when a slot stays due -------------------------------------------------------------------------------------------


def test_a_closed_market_writes_nothing_and_the_slot_stays_due(tx: Conn) -> None:
    market = weekday_market(tx, "2024-01-05", "2024-01-09")
    market.bars("A", {"2024-01-05 12:00": 100, "2024-01-06 12:00": 90, "2024-01-08 09:30": 80, "2024-01-08 10:00": 70})
    run = Run(market)
    run.sip("A", 700, "MONTHLY", "2024-01-06")
    run.tick("2024-01-05 12:00")
    for t in ("2024-01-06 12:00", "2024-01-08 09:30"):  # Saturday; the instant of the open
        before = run.snapshot()
        assert run.call("try_execute_sip", logical_time=market.at(t)) == 0
        assert run.snapshot() == before
        run.tick(t)
        assert (run.events(), run.orders()) == ([], [])
    run.tick("2024-01-08 10:00")
    assert ends(run) == [("EXECUTED", "2024-01-06", "2024-01-08")]
    assert run.held("A") == 10


def test_market_open_overrides_the_calendar(tx: Conn) -> None:
    market = weekday_market(tx, "2024-01-05", "2024-01-09")
    market.bars("A", {"2024-01-05 12:00": 100, "2024-01-06 12:00": 50, "2024-01-20 12:00": 25})
    run = Run(market)
    run.sip("A", 100, "DAILY", "2024-01-05")
    t = market.at("2024-01-05 12:00")
    before = run.snapshot()
    assert run.call("try_execute_sip", logical_time=t, market_open=False) == 0
    assert run.snapshot() == before
    assert run.call("try_execute_sip", logical_time=t, market_open=True) == 1
    assert run.call("try_execute_sip", logical_time=t, market_open=True) == 0
    run.sip("A", 100, "MONTHLY", "2024-01-06")
    t = market.at("2024-01-06 12:00")
    assert run.call("try_execute_sip", logical_time=t) == 0
    assert run.call("try_execute_sip", logical_time=t, market_open=None) == 0
    assert run.call("try_execute_sip", logical_time=t, market_open=True) == 1
    assert [p for _, p in run.fills()] == [100, 50]
    with refused(tx, "TE203"):
        run.call("try_execute_sip", logical_time=market.at("2024-01-20 12:00"))
    with refused(tx, "TE203"):
        run.tick("2024-01-20 12:00")


def test_a_symbol_without_a_price_stays_due(tx: Conn) -> None:
    market = Market(tx, symbols=["A"])
    market.bars("B", {"2024-01-01 12:00": 100, "2024-01-05 12:00": 100})
    market.bars("A", {"2024-01-04 12:00": 50})
    run = Run(market)
    run.sip("A", 100, "MONTHLY", "2024-01-01")
    run.sip("B", 100, "MONTHLY", "2024-01-01")
    run.tick("2024-01-01 12:00")
    assert (ends(run, 1), ends(run, 2)) == ([], [("EXECUTED", "2024-01-01", "2024-01-01")])
    run.call("pause_sip", sip_id=1)
    run.tick("2024-01-03 12:00")
    assert ends(run, 1) == []
    run.call("resume_sip", sip_id=1)
    run.tick("2024-01-05 12:00")
    assert ends(run, 1) == [("EXECUTED", "2024-01-01", "2024-01-05")]
    assert run.fills()[-1] == (2, 50)  # the last close, a day old
    assert run.order(2)["logical_time"] == at("2024-01-05 12:00")


def test_paused_slots_end_paused(tx: Conn) -> None:
    market = Market(tx)
    times = daily(market, "A", "2024-01-01", "2024-01-09", hour="12:00")
    run = Run(market)
    run.sip("A", 100, "DAILY", "2024-01-01", catch_up="EACH")
    run.tick(times[0])
    run.call("pause_sip", sip_id=1)
    run.call("pause_sip", sip_id=1)
    run.tick(times[2])
    run.call("resume_sip", sip_id=1)
    run.tick(times[3])
    run.call("pause_sip", sip_id=1)
    run.call("resume_sip", sip_id=1)  # no tick in between: nothing was paused
    run.tick(times[5])
    assert ends(run) == [
        ("EXECUTED", "2024-01-01", "2024-01-01"),
        ("SKIPPED_PAUSED", "2024-01-02", "2024-01-03"),
        ("SKIPPED_PAUSED", "2024-01-03", "2024-01-03"),
        ("EXECUTED", "2024-01-04", "2024-01-04"),
        ("EXECUTED", "2024-01-05", "2024-01-06"),
        ("EXECUTED", "2024-01-06", "2024-01-06"),
    ]
    assert run.payload("1:1") == {"date": "2024-01-02", "amount": 100}
    for verb in ("pause_sip", "resume_sip"):
        for sip_id in (2, 0, None):
            with refused(tx, "TE101"):
                run.call(verb, sip_id=sip_id)
    run.call("stop_run")
    for verb in ("pause_sip", "resume_sip"):
        with refused(tx, "TE001"):
            run.call(verb, sip_id=1)


def test_paused_beats_holiday_beats_missed(tx: Conn) -> None:
    market = weekday_market(tx, "2024-01-02", "2024-02-02", skip=["2024-01-08", "2024-01-15"])
    market.bars("A", {"2024-01-30 12:00": 100})
    for paused, expected in (
        (True, ["SKIPPED_PAUSED"] * 4),
        (False, ["SKIPPED_HOLIDAY", "SKIPPED_HOLIDAY", "MISSED", "EXECUTED"]),
    ):
        run = Run(market)
        run.sip("A", 100, "WEEKLY", "2024-01-08", roll="SKIP")
        if paused:
            run.call("pause_sip", sip_id=1)
        run.tick("2024-01-30 12:00")
        assert [how for how, *_ in ends(run)] == expected


# --- the end of a plan -----------------------------------------------------------------------------------------------


def test_end_date_and_instalments(tx: Conn) -> None:
    market = Market(tx)
    daily(market, "A", "2024-01-01", "2024-06-30", hour="12:00")
    run = Run(market)
    cases: list[tuple[dict[str, Any], int]] = [
        ({"instalments": 1}, 1),
        ({"instalments": 3}, 3),
        ({"end": "2024-01-31"}, 1),
        ({"end": "2024-02-28"}, 1),
        ({"end": "2024-02-29"}, 2),
        ({"end": "2024-03-31", "instalments": 5}, 3),
        ({"end": "2024-05-31", "instalments": 2}, 2),
        ({}, 6),
    ]
    for options, _ in cases:
        run.sip("A", 10, "MONTHLY", "2024-01-31", **options)
    replay(run, "2024-01-01", "2024-06-30")
    for sip_id, (options, n) in enumerate(cases, 1):
        assert len(executed(run, sip_id)) == n, options
    assert run.rules() == set()


def test_a_slot_on_the_end_date_still_rolls_past_it(tx: Conn) -> None:
    market = weekday_market(tx, "2024-01-02", "2024-01-12")
    market.bars("A", {"2024-01-08 12:00": 100, "2024-01-09 12:00": 100})
    run = Run(market)
    run.sip("A", 10, "MONTHLY", "2024-01-06", end="2024-01-06")
    run.tick("2024-01-08 12:00")
    assert ends(run) == [("EXECUTED", "2024-01-06", "2024-01-08")]


def test_skipped_slots_count_as_instalments(tx: Conn) -> None:
    market = Market(tx)
    times = daily(market, "A", "2024-01-01", "2024-01-06", hour="12:00")
    run = Run(market, 150)
    run.sip("A", 100, "DAILY", "2024-01-01", instalments=3)
    for t in times:
        run.tick(t)
    assert [how for how, *_ in ends(run)] == ["EXECUTED", "SKIPPED_FUNDS", "SKIPPED_FUNDS"]


# --- amounts ---------------------------------------------------------------------------------------------------------


def amounts(run: Run, sip_id: int = 1) -> list[Any]:
    return [D(str(run.payload(f"{sip_id}:{k}")["amount"])) for k in range(len(ends(run, sip_id)))]


def test_step_up(tx: Conn) -> None:
    market = Market(tx)
    market.instrument("A", "0.00000001")
    daily(market, "A", "2024-01-01", "2024-01-06", price=1, hour="12:00")
    run = Run(market, 10**7)
    run.sip("A", 1000, "DAILY", "2024-01-01", step_up_percent=10, step_up_every=1)
    run.sip("A", 1000, "DAILY", "2024-01-01", step_up_percent=D("3.3333"), step_up_every=2)
    run.sip("A", D("99.99"), "DAILY", "2024-01-01", step_up_amount=D("0.01"), step_up_every=3)
    run.sip("A", 100, "DAILY", "2024-01-01", step_up_amount=50, step_up_every=10)
    replay(run, "2024-01-01", "2024-01-06")
    assert amounts(run, 1) == [D(a) for a in ("1000", "1100", "1210", "1331", "1464.1", "1610.51")]
    assert amounts(run, 2) == [D(a) for a in ("1000", "1000", "1033.33", "1033.33", "1067.78", "1067.78")]
    assert amounts(run, 3) == [D(a) for a in ("99.99", "99.99", "99.99", "100", "100", "100")]
    assert amounts(run, 4) == [100] * 6
    assert run.held("A") == sum(sum(amounts(run, i)) for i in (1, 2, 3, 4))
    assert run.rules() == set()


def test_step_up_follows_the_slot_number_not_the_executions(tx: Conn) -> None:
    market = Market(tx)
    times = daily(market, "A", "2024-01-01", "2024-01-08", price=1, hour="12:00")
    run = Run(market)
    run.sip("A", 100, "DAILY", "2024-01-01", step_up_amount=10, step_up_every=2)
    for i in (0, 5, 7):
        run.tick(times[i])
    assert [(how, a) for (how, *_), a in zip(ends(run), amounts(run), strict=True)] == [
        ("EXECUTED", 100),
        ("MISSED", 100),
        ("MISSED", 110),
        ("MISSED", 110),
        ("MISSED", 120),
        ("EXECUTED", 120),
        ("MISSED", 130),
        ("EXECUTED", 130),
    ]
    assert run.held("A") == 350


def test_the_quantity_is_floored_to_the_step(tx: Conn) -> None:
    market = Market(tx)
    for symbol, step, price, amount, quantity in [
        ("S1", "0.000001", "3", "100", "33.333333"),
        ("S2", "1", "30", "100", "3"),
        ("S3", "0.5", "30", "100", "3"),
        ("S4", "0.25", "30", "100", "3.25"),
        ("S5", "100", "0.5", "99.99", "100"),
        ("S6", "0.00000001", "7", "1", "0.14285714"),
        ("S7", "0.1", "0.3", "0.9", "3"),
        ("S8", "0.00000001", "0.00000003", "0.01", "333333.33333333"),
    ]:
        market.instrument(symbol, step)
        market.bars(symbol, {"2024-01-01 12:00": D(price)})
        run = Run(market, 1000)
        run.sip(symbol, D(amount), "MONTHLY", "2024-01-01")
        run.tick("2024-01-01 12:00")
        assert run.held(symbol) == D(quantity), symbol
        assert run.cash == 1000 - round(D(quantity) * D(price), 2)
        assert run.rules() == set()


def test_whole_units_carry_the_residual(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {f"2024-01-0{d} 12:00": p for d, p in enumerate((30, 30, 150, 60, 30), 1)})
    run = Run(market)
    run.sip("A", 100, "DAILY", "2024-01-01", whole_units=True)
    got = []
    for d in range(1, 6):
        run.tick(f"2024-01-0{d} 12:00")
        got.append(
            (
                ends(run)[-1][0],
                run.held("A"),
                val(tx, "select residual from sip_plan where user_id = %s", run.user_id),
            )
        )
    assert got == [
        ("EXECUTED", 3, 10),
        ("EXECUTED", 6, 20),  # 110: 3 units
        ("SKIPPED_BELOW_UNIT", 6, 120),  # 120 buys none at 150
        ("EXECUTED", 9, 40),  # 220: 3 units at 60
        ("EXECUTED", 13, 20),  # 140: 4 units at 30
    ]
    assert [D(str(a)) for a in amounts(run)] == [100] * 5
    assert run.cash == 100_000 - 500 + 20
    assert run.rules() == set()


def test_the_residual_is_not_touched_by_slots_that_did_not_try(tx: Conn) -> None:
    market = Market(tx)
    times = daily(market, "A", "2024-01-01", "2024-01-08", price=30, hour="12:00")
    run = Run(market, 200)

    def residual() -> Any:
        found = val(tx, "select residual from sip_plan where user_id = %s", run.user_id)
        return found

    run.sip("A", 100, "DAILY", "2024-01-01", whole_units=True)
    run.tick(times[0])  # 3 for 90
    assert residual() == 10
    run.call("pause_sip", sip_id=1)
    run.tick(times[1])
    assert residual() == 10
    run.call("resume_sip", sip_id=1)
    run.place("A", "BUY", 1, limit=25)  # 25 held back of 110
    run.tick(times[3])
    assert [how for how, *_ in ends(run)] == ["EXECUTED", "SKIPPED_PAUSED", "MISSED", "SKIPPED_FUNDS"]
    assert residual() == 10
    run.cancel(2)
    run.tick(times[4])
    assert (ends(run)[-1][0], residual(), run.held("A"), run.cash) == ("EXECUTED", 20, 6, 20)
    assert run.rules() == set()


def test_below_unit(tx: Conn) -> None:
    market = Market(tx)
    market.instrument("A", 1)
    market.bars("A", {"2024-01-01 12:00": 101, "2024-01-02 12:00": 100})
    run = Run(market, 5)
    run.sip("A", 100, "DAILY", "2024-01-01")
    run.tick("2024-01-01 12:00")
    run.tick("2024-01-02 12:00")
    assert [how for how, *_ in ends(run)] == ["SKIPPED_BELOW_UNIT", "SKIPPED_FUNDS"]
    assert (run.orders(), run.trades(), run.cash) == ([], [], 5)


def test_funds(tx: Conn) -> None:
    market = Market(tx)
    times = daily(market, "A", "2024-01-01", "2024-01-05", hour="12:00")
    run = Run(market, 350)
    run.sip("A", 100, "DAILY", "2024-01-01")
    run.tick(times[0])
    run.place("A", "BUY", 2, limit=80)  # 160 of 250 held back
    run.tick(times[1])
    run.cancel(2)
    run.place("A", "BUY", 2, limit=75)  # exactly 100 are free
    run.tick(times[2])
    run.tick(times[3])
    assert [how for how, *_ in ends(run)] == ["EXECUTED", "SKIPPED_FUNDS", "EXECUTED", "SKIPPED_FUNDS"]
    assert run.payload("1:1") == {"date": "2024-01-02", "amount": 100, "reason": "CASH_INSUFFICIENT"}
    assert run.cash == 150
    assert run.rules() == set()


def test_risk_limits_and_forbidden_symbols(tx: Conn) -> None:
    market = Market(tx)
    times = daily(market, "A", "2024-01-01", "2024-01-05", hour="12:00")
    run = Run(market)
    run.sip("A", 100, "DAILY", "2024-01-01")
    run.tick(times[0])
    run.call("set_risk_limit", max_position=D("1.5"))
    run.tick(times[1])
    run.call("set_risk_limit", max_order_value=D("99.99"))
    run.tick(times[2])
    run.call("set_risk_limit", max_order_value=100)
    run.tick(times[3])
    run.call("forbid_symbol", symbol="A")
    run.tick(times[4])
    assert [(how, run.payload(f"1:{k}").get("reason")) for k, (how, *_) in enumerate(ends(run))] == [
        ("EXECUTED", None),
        ("MISSED", "POSITION_LIMIT_EXCEEDED"),
        ("MISSED", "ORDER_VALUE_EXCEEDED"),
        ("EXECUTED", None),
        ("MISSED", "SYMBOL_FORBIDDEN"),
    ]
    assert len(run.orders()) == 2
    assert run.rules() == set()


def test_an_executed_slot_is_one_filled_market_order_at_the_ticks_close(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {"2024-01-02 12:00": (90, 120, 80, 110)})
    run = Run(market)
    run.place("A", "BUY", 1)
    sip_id = run.sip("A", 55, "MONTHLY", "2024-01-01")
    assert sip_id == 1
    assert run.call("try_execute_sip", logical_time=at("2024-01-02 12:00")) == 1
    order = run.order(2)
    expected = {
        **{
            "side": "BUY",
            "order_type": "MARKET",
            "time_in_force": "DAY",
            "source": "SIP",
            "status": "FILLED",
        },
        **{"quantity": D("0.5"), "filled_quantity": D("0.5"), "avg_fill_price": 110, "symbol": "A"},
        **{"limit_price": None, "client_order_id": None, "reject_reason": None},
        **{"logical_time": at("2024-01-02 12:00"), "closed_time": at("2024-01-02 12:00")},
    }
    assert {k: order[k] for k in expected} == expected
    assert run.trades() == [(2, at("2024-01-02 12:00"), "A", "BUY", D("0.5"), 110)]
    assert run.table("event_type, event_key, logical_time, payload", "event_ledger", "1") == [
        ("SIP_EXECUTED", "1:0", at("2024-01-02 12:00"), {"date": "2024-01-01", "amount": 55, "order_id": 2})
    ]
    assert run.status(1) == "PENDING"


def test_plans_execute_by_sip_id_then_slot_until_the_money_is_gone(tx: Conn) -> None:
    market = Market(tx)
    for symbol in ("A", "B"):
        daily(market, symbol, "2024-01-01", "2024-01-03", hour="12:00")
    run = Run(market, 350)
    run.sip("B", 100, "DAILY", "2024-01-02", catch_up="EACH")
    run.sip("A", 100, "DAILY", "2024-01-01", catch_up="EACH")
    run.tick("2024-01-03 12:00")
    assert [(t[2], t[0]) for t in run.trades()] == [("B", 1), ("B", 2), ("A", 3)]
    assert run.events() == [
        *(("SIP_EXECUTED", "1:0"), ("SIP_EXECUTED", "1:1"), ("SIP_EXECUTED", "2:0")),
        *(("SIP_SKIPPED_FUNDS", "2:1"), ("SIP_SKIPPED_FUNDS", "2:2")),
    ]


# --- dates are the market's ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time_zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
def test_dates_are_those_of_the_markets_zone(tx: Conn, time_zone: str) -> None:
    tx.execute(f"set local time zone '{time_zone}'")
    # an evening session in New York is the next day in UTC; a morning one in Tokyo is the day before
    market = Market(tx, [("2024-01-31", "18:00", "23:00"), ("2024-02-01", "18:00", "23:00")], "America/New_York")
    market.bars("A", {"2024-01-31 20:00": 100, "2024-02-01 20:00": 100})
    run = Run(market)
    run.sip("A", 10, "MONTHLY", "2024-02-01")
    run.tick(ny("2024-01-31 20:00"))  # 2024-02-01 01:00 UTC
    assert ends(run) == []
    run.tick(ny("2024-02-01 20:00"))
    assert executed(run) == ["2024-02-01"]

    market = Market(tx, [("2024-02-01", "08:00", "15:00")], "Asia/Tokyo")
    market.bars("A", {"2024-02-01 08:30": 100})
    run = Run(market)
    run.sip("A", 10, "MONTHLY", "2024-02-01")
    run.tick("2024-02-01 08:30")  # 2024-01-31 23:30 UTC
    assert executed(run) == ["2024-02-01"]


def test_a_close_at_16_00_in_new_york_is_that_day_in_winter_and_summer(tx: Conn) -> None:
    sessions = [(d, "09:30", "16:00") for d in days("2024-03-01", "2024-03-20")]
    market = Market(tx, sessions, "America/New_York")
    market.bars("A", {f"{d} 16:00": 100 for d, *_ in sessions})
    run = Run(market)
    run.sip("A", 10, "DAILY", "2024-03-01")
    replay(run, "2024-03-01", "2024-03-20")
    assert executed(run) == [d for d, *_ in sessions]


def test_under_always_midnight_utc_is_the_new_days_date(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {"2024-01-01 23:59": 100, "2024-01-02 00:00": 100})
    run = Run(market)
    run.sip("A", 10, "MONTHLY", "2024-01-02")
    run.tick("2024-01-01 23:59")
    assert ends(run) == []
    run.tick("2024-01-02 00:00")
    assert executed(run) == ["2024-01-02"]


# --- arguments -------------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"symbol": "A", "amount": 100, "frequency": "DAILY", "start": "2024-01-01"}
BAD: list[dict[str, Any]] = [
    *({"amount": a} for a in (None, 0, -1, D("0.004"), D("NaN"), D("Infinity"), D("-Infinity"), D("1e130"), D("1e12"))),
    *({"frequency": f} for f in (None, "", "daily", "YEARLY")),
    *({"start": s} for s in (None, "infinity", "-infinity", "1899-12-31", "2300-01-01", "0044-03-15 BC")),
    *({"roll": r} for r in (None, "", "next", "NEAREST")),
    *({"catch_up": c} for c in (None, "", "once", "ALL")),
    *({"end": e} for e in ("2023-12-31", "infinity", "-infinity", "2300-01-01")),
    *({"instalments": n} for n in (0, -1)),
    *(
        {"step_up_percent": p, "step_up_every": 1}
        for p in (0, -1, 10000, D("9999.99995"), D("0.00004"), D("NaN"), D("Infinity"), D("1e130"))
    ),
    *({"step_up_amount": a, "step_up_every": 1} for a in (0, -1, D("0.004"), D("NaN"), D("Infinity"), D("1e130"))),
    *({"step_up_percent": 1, "step_up_every": n} for n in (None, 0, -1)),
    {"step_up_amount": 1},
    {"step_up_every": 1},
    {"step_up_percent": 1, "step_up_amount": 1, "step_up_every": 1},
    {"step_up_percent": 1, "step_up_amount": 1},
    {"whole_units": None},
    {"symbol": None},
    *({"auto_pause_after": n} for n in (0, -1)),
]


def test_create_sip_refuses_bad_arguments(tx: Conn) -> None:
    run = Run(Market(tx, symbols=["A"]))
    answers = []
    for bad in BAD:
        with pytest.raises(Error) as caught, tx.transaction():
            run.call("create_sip", **{**GOOD, **bad})
        answers.append((bad, caught.value.sqlstate))
    assert [answer for answer in answers if answer[1] != "TE101"] == []
    for symbol in ("NOWHERE", ""):
        with refused(tx, "TE201"):
            run.call("create_sip", **{**GOOD, "symbol": symbol})
    assert run.count("sip_plan") == 0
    assert [run.sip(**GOOD) for _ in range(3)] == [1, 2, 3]
    run.call("stop_run")
    with refused(tx, "TE001"):
        run.sip(**GOOD)
    with refused(tx, "TE204"):
        call(tx, "create_sip", user_id=run.user_id, run_id=-1, **GOOD)


def test_amounts_round_to_the_minor_unit(tx: Conn) -> None:
    market = Market(tx, symbols=["A"])
    for currency, stored in (("USD", "10.13"), ("JPY", "10"), ("KWD", "10.126"), ("CLF", "10.1255")):
        run = Run(market, currency=currency)
        run.sip("A", D("10.1255"), "DAILY", "2024-01-01")
        assert run.table("amount", "sip_plan", "1") == [(D(stored),)]


def test_past_the_calendar(tx: Conn) -> None:
    market = weekday_market(tx, "2024-01-02", "2024-01-04")
    market.bars("A", {"2024-01-03 12:00": 100, "2024-01-04 16:00": 100, "2024-01-04 16:01": 100})
    run = Run(market)
    run.sip("A", 10, "DAILY", "2024-01-02")
    run.sip("A", 10, "DAILY", "2024-01-05")  # a slot the calendar does not know yet
    run.tick("2024-01-04 16:00")
    before = run.snapshot()
    for verb in ("try_execute_sip", "try_rebalance"):
        with refused(tx, "TE203"):
            run.call(verb, logical_time=at("2024-01-04 16:01"))
    with refused(tx, "TE203"):
        run.tick("2024-01-04 16:01")
    assert run.snapshot() == before
    market.add_sessions([("2024-01-05", "09:30", "16:00")])
    run.tick("2024-01-04 16:01")
    run.tick("2024-01-05 12:00")
    assert executed(run, 2) == ["2024-01-05"]


# --- pauses by date --------------------------------------------------------------------------------------------------

PAUSES: list[tuple[list[tuple[str, dict[str, Any]]], str]] = [
    # calls before the first of ten daily slots; . executes, P is paused
    ([("pause_sip", {"from": "2024-01-03", "to": "2024-01-05"})], "..PPP....."),
    ([("pause_sip", {"from": "2024-01-03", "to": "2024-01-03"})], "..P......."),
    ([("pause_sip", {"from": "2024-01-03"})], "..PPPPPPPP"),
    ([("pause_sip", {"to": "2024-01-02"})], "PP........"),
    ([("pause_sip", {"from": "2023-01-01", "to": "2024-01-01"})], "P........."),
    (
        [("pause_sip", {"from": f"2024-01-0{d}", "to": f"2024-01-0{e}"}) for d, e in ((2, 3), (5, 5), (8, 9))],
        ".PP.P..PP.",
    ),
    (
        [("pause_sip", {"from": "2024-01-02", "to": "2024-01-03"}), ("resume_sip", {})],
        ".PP.......",
    ),
    ([("pause_sip", {"from": "2024-01-02", "to": "2024-01-03"}), ("pause_sip", {})], "PPPPPPPPPP"),
    (
        [("pause_sip", {"from": "2024-01-02", "to": "2024-01-03"}), ("pause_sip", {}), ("resume_sip", {})],
        ".PP.......",
    ),
    ([("pause_sip", {"from": "2024-01-03"}), ("resume_sip", {})], ".........."),
    (
        [("pause_sip", {"to": "2024-01-02"}), ("pause_sip", {"from": "2024-01-05"}), ("resume_sip", {})],
        "PP........",
    ),
    ([("pause_sip", {}), ("resume_sip", {"from": "2024-01-03"})], "PPPPPPPPPP"),
    (
        [
            ("pause_sip", {"from": "2024-01-02", "to": "2024-01-09"}),
            ("resume_sip", {"from": "2024-01-04", "to": "2024-01-05"}),
        ],
        ".PP..PPPP.",
    ),
    ([("pause_sip", {"from": "2024-01-03"}), ("resume_sip", {"from": "2024-01-06"})], "..PPP....."),
    ([("pause_sip", {"to": "2299-12-31"}), ("resume_sip", {"to": "2024-01-04"})], "....PPPPPP"),
]


def test_pauses_by_date(tx: Conn) -> None:
    market = Market(tx)
    daily(market, "A", "2024-01-01", "2024-01-10", hour="12:00")
    letters = {"EXECUTED": ".", "SKIPPED_PAUSED": "P"}
    for calls, expected in PAUSES:
        run = Run(market)
        run.sip("A", 10, "DAILY", "2024-01-01")
        for verb, dates in calls:
            run.call(verb, sip_id=1, **dates)
        replay(run, "2024-01-01", "2024-01-10")
        assert "".join(letters[how] for how, *_ in ends(run)) == expected, calls
        assert run.rules() == set()


def test_a_pause_goes_by_the_nominal_date(tx: Conn) -> None:
    """Not by the date on which the slot falls due, nor by that of the tick; what has ended stays as it is."""
    market = weekday_market(tx, "2024-01-01", "2024-01-31")
    daily(market, "A", "2024-01-01", "2024-01-31", hour="12:00")
    run = Run(market)
    run.sip("A", 10, "WEEKLY", "2024-01-06")  # Saturdays, due on Mondays
    run.sip("A", 10, "WEEKLY", "2024-01-06", roll="PREVIOUS")  # due on Fridays
    for sip_id in (1, 2):
        run.call("pause_sip", sip_id=sip_id, **{"from": "2024-01-13", "to": "2024-01-13"})
    for d in ("08", "15"):
        run.tick(f"2024-01-{d} 12:00")
    for sip_id in (1, 2):
        run.call("pause_sip", sip_id=sip_id, **{"from": "2024-01-01", "to": "2024-01-19"})
    run.tick("2024-01-26 12:00")
    assert [how for how, *_ in ends(run, 1)] == ["EXECUTED", "SKIPPED_PAUSED", "EXECUTED"]
    assert [how for how, *_ in ends(run, 2)] == ["EXECUTED", "SKIPPED_PAUSED", "MISSED", "EXECUTED"]
    run.call("pause_sip", sip_id=1, **{"from": "2024-01-27", "to": "2024-01-27"})
    run.call("resume_sip", sip_id=1, **{"from": "2024-01-27", "to": "2024-01-27"})
    run.tick("2024-01-29 12:00")
    assert ends(run, 1)[-1] == ("EXECUTED", "2024-01-27", "2024-01-29")


@pytest.mark.parametrize("verb", ["pause_sip", "resume_sip"])
def test_dates_of_a_pause_are_dates_in_order(tx: Conn, verb: str) -> None:
    run = Run(Market(tx, symbols=["A"]))
    run.sip("A", 10, "DAILY", "2024-01-01")
    before = run.snapshot()
    for dates in (
        *({"from": "2024-01-02", "to": "2024-01-01"}, {"to": "2023-12-31"}, {"from": "infinity"}, {"to": "infinity"}),
        *({"from": "-infinity"}, {"from": "1899-12-31"}, {"from": "2300-01-01"}, {"to": "2300-01-01"}),
    ):
        with refused(tx, "TE101"):
            run.call(verb, sip_id=1, **dates)
    assert run.snapshot() == before
    with refused(tx, "TE101"):
        run.call(verb, sip_id=2, **{"from": "2024-01-01"})


# --- auto-pause ------------------------------------------------------------------------------------------------------


def poor(tx: Conn, cash: int, times: int = 9, **options: Any) -> tuple[Run, list[str]]:
    market = Market(tx)
    ticks = daily(market, "A", "2024-01-01", f"2024-01-0{times}", hour="12:00")
    run = Run(market, cash)
    run.sip("A", 100, "DAILY", "2024-01-01", **options)
    return run, ticks


def endings(run: Run) -> str:
    letters = {"EXECUTED": ".", "SKIPPED_PAUSED": "P", "SKIPPED_FUNDS": "F", "MISSED": "M", "SKIPPED_BELOW_UNIT": "B"}
    found = run.table("event_type", "event_ledger", "split_part(event_key, ':', 2)::int")
    return "".join(letters[kind.removeprefix("SIP_")] for (kind,) in found if kind != "SIP_AUTO_PAUSED")


@pytest.mark.parametrize(
    ("after", "expected"), [(1, "..FPPPPPP"), (2, "..FFPPPPP"), (7, "..FFFFFFF"), (8, "..FFFFFFF"), (None, "..FFFFFFF")]
)
def test_auto_pause(tx: Conn, after: int | None, expected: str) -> None:
    run, times = poor(tx, 250, auto_pause_after=after)
    for t in times:
        run.tick(t)
    assert endings(run) == expected
    paused = [
        f
        for f in run.table("event_type, event_key, logical_time, payload", "event_ledger", "2")
        if f[0] == "SIP_AUTO_PAUSED"
    ]
    if after in (1, 2, 7):
        slot = 1 + after
        date = f"2024-01-0{slot + 1}"
        assert paused == [("SIP_AUTO_PAUSED", f"1:{slot}", at(f"{date} 12:00"), {"date": date, "skipped": after})]
        assert run.table("paused", "sip_plan", "1") == [(True,)]
    else:
        assert paused == []
        assert run.table("paused", "sip_plan", "1") == [(False,)]
    assert run.rules() == set()


def test_slots_in_a_row_are_counted_and_resume_counts_anew(tx: Conn) -> None:
    run, times = poor(tx, 100, auto_pause_after=2)
    run.place("A", "BUY", D("0.5"), limit=90)  # holds 45 back
    run.tick(times[0])  # F
    run.cancel(1)
    run.tick(times[1])  # executes: the row is broken
    run.tick(times[2])  # F
    run.tick(times[4])  # one missed, and F
    assert endings(run) == "F.FMF"
    run.call("resume_sip", sip_id=1)  # forgets that one
    run.tick(times[5])
    assert run.table("paused, skipped_funds", "sip_plan", "1") == [(False, 1)]
    run.tick(times[6])
    assert run.table("paused, skipped_funds", "sip_plan", "1") == [(True, 2)]
    run.call("resume_sip", sip_id=1)
    assert run.table("paused, skipped_funds", "sip_plan", "1") == [(False, 0)]
    run.tick(times[8])
    assert endings(run) == "F.FMFFFMF"
    assert run.table("paused, skipped_funds", "sip_plan", "1") == [(False, 1)]
    assert run.rules() == set()


def test_auto_pause_within_one_tick(tx: Conn) -> None:
    run, times = poor(tx, 150, auto_pause_after=2, catch_up="EACH")
    assert run.call("try_execute_sip", logical_time=at(times[5])) == 1
    assert endings(run) == ".FFPPP"
    run.tick(times[5])
    run.call("resume_sip", sip_id=1)
    run.tick(times[8])
    assert endings(run) == ".FFPPPFFP"
    assert [k for t, k in run.events() if t == "SIP_AUTO_PAUSED"] == ["1:2", "1:7"]
    assert run.rules() == set()


def test_an_auto_pause_that_was_inserted_by_hand_stands_in_nobodys_way(tx: Conn) -> None:
    run, times = poor(tx, 0, auto_pause_after=2)
    tx.execute("insert into event_ledger values (%s, %s, %s, 'SIP_AUTO_PAUSED', '1:1', '{}')", [*run.key, at(times[1])])
    for t in times[:4]:
        run.tick(t)
    assert endings(run) == "FFPP"
    assert run.rules() == set()


# --- a new amount ----------------------------------------------------------------------------------------------------


def test_change_sip(tx: Conn) -> None:
    market = Market(tx)
    times = daily(market, "A", "2024-01-01", "2024-01-09", price=1, hour="12:00")
    run = Run(market)
    run.sip("A", 100, "DAILY", "2024-01-01")
    run.sip("A", 100, "DAILY", "2024-01-01", step_up_amount=10, step_up_every=2)
    run.sip("A", 100, "DAILY", "2024-01-01", step_up_percent=10, step_up_every=3)
    run.sip("A", 100, "DAILY", "2024-01-01", step_up_amount=10, step_up_every=2, catch_up="EACH")
    for t in times[:3]:
        run.tick(t)
    for sip_id in (1, 2, 3):
        run.call("change_sip", sip_id=sip_id, amount=D("50.005"))
    for t in times[3:6]:
        run.tick(t)
    run.call("change_sip", sip_id=2, amount=7)
    run.call("change_sip", sip_id=2, amount=70)  # the last before the slot counts
    run.call("change_sip", sip_id=4, amount=5)  # slots 6 to 8 are not due yet
    run.tick(times[7])
    run.call("change_sip", sip_id=4, amount=1)
    run.tick(times[8])
    new = D("50.01")
    assert amounts(run, 1) == [100] * 3 + [new] * 6
    assert amounts(run, 2) == [100, 100, 110, new, new, new + 10, 70, 70, 80]
    assert amounts(run, 3) == [100] * 3 + [new] * 3 + [D("55.01")] * 3
    assert amounts(run, 4) == [100, 100, 110, 110, 120, 120, 5, 5, 1]
    assert run.rules() == set()


def test_change_sip_reaches_slots_that_are_due_but_have_not_ended(tx: Conn) -> None:
    market = Market(tx)
    times = daily(market, "A", "2024-01-01", "2024-01-05", price=1, hour="12:00")
    run = Run(market)
    run.sip("A", 100, "DAILY", "2024-01-01", catch_up="EACH")
    run.tick(times[1])
    run.call("change_sip", sip_id=1, amount=40)
    run.tick(times[4])
    assert amounts(run) == [100, 100, 40, 40, 40]


def test_change_sip_refuses_bad_arguments(tx: Conn) -> None:
    run = Run(Market(tx, symbols=["A"]))
    run.sip("A", 100, "DAILY", "2024-01-01")
    before = run.snapshot()
    for amount in (None, 0, -1, D("0.004"), D("NaN"), D("Infinity"), D("1e12")):
        with refused(tx, "TE101"):
            run.call("change_sip", sip_id=1, amount=amount)
    for sip_id in (2, 0, None):
        with refused(tx, "TE101"):
            run.call("change_sip", sip_id=sip_id, amount=1)
    assert run.snapshot() == before
    run.call("stop_run")
    with refused(tx, "TE001"):
        run.call("change_sip", sip_id=1, amount=1)


# --- baskets ---------------------------------------------------------------------------------------------------------


def basket(run: Run, shares: str, amount: Any = 100, start: str = "2024-01-01", **options: Any) -> int:
    found: int = run.call(
        "create_sip", symbol=None, amount=amount, frequency="DAILY", start=start, basket=shares, **options
    )
    return found


def bought(run: Run) -> list[Any]:
    """(symbol, quantity) of the SIP's trades, in their order; each an order of its own."""
    found = run.table("order_id, symbol, side, quantity, status, order_type, time_in_force, source", "paper_order", "1")
    mine = [f for f in found if f[7] == "SIP"]
    assert all((f[2], *f[4:7]) == ("BUY", "FILLED", "MARKET", "DAY") for f in mine)
    assert [f[0] for f in mine] == [t[0] for t in run.trades() if t[0] in {f[0] for f in mine}]
    return [(f[1], f[3]) for f in mine]


def priced(tx: Conn, times: int = 3, step: str = "0.000001", **prices: Any) -> Market:
    market = Market(tx)
    for symbol, price in prices.items():
        market.instrument(symbol, step)
        market.bars(symbol, {f"2024-01-0{d} 12:00": price for d in range(1, times + 1)})
    return market


DAY1, DAY2, DAY3 = (f"2024-01-0{d} 12:00" for d in (1, 2, 3))


@pytest.mark.parametrize(
    ("shares", "amount", "parts"),
    [
        ('{"b": 0.4, "a": 0.6}', 100, {"a": 60, "b": 40}),
        ('{"b": 1}', 100, {"b": 100}),
        ('{"a": 0.335, "b": 0.335, "C": 0.33}', 1, {"C": "0.33", "a": "0.34", "b": "0.33"}),
        # 0.005 rounds up as long as there is money; the last has what is left, or nothing
        ('{"a": 0.25, "b": 0.25, "C": 0.25, "d": 0.25}', "0.02", {"C": "0.01", "a": "0.01"}),
        ('{"a": 0.5, "b": 0.5}', "0.01", {"a": "0.01"}),
        ('{"a": 0.00001, "b": 0.99999}', 100, {"b": 100}),
        ('{"a": 0.33333333333333333333, "b": 0.66666666666666666667}', 1000, {"a": "333.33", "b": "666.67"}),
    ],
)
def test_basket(tx: Conn, shares: str, amount: Any, parts: dict[str, Any]) -> None:
    run = Run(priced(tx, a=1, b=1, C=1, d=1), 1000)
    basket(run, shares, D(amount))
    assert run.call("try_execute_sip", logical_time=at(DAY1)) == 1
    assert bought(run) == [(symbol, D(part)) for symbol, part in parts.items()]
    payload = {"date": "2024-01-01", "amount": D(amount), "orders": [*range(1, len(parts) + 1)]}
    assert {**run.payload("1:0"), "amount": D(str(run.payload("1:0")["amount"]))} == payload
    assert run.cash == 1000 - D(amount)
    run.tick(DAY1)
    assert ends(run) == [("EXECUTED", "2024-01-01", "2024-01-01")]
    assert run.rules() == set()


def test_a_basket_waits_while_a_symbol_has_no_price(tx: Conn) -> None:
    market = priced(tx, A=100)
    market.bars("B", {DAY3: 50})
    for drive in ("tick", "replay"):
        run = Run(market)
        basket(run, '{"A": 0.5, "B": 0.5}')
        for t in (DAY1, DAY2, DAY3) if drive == "tick" else ():
            run.tick(t)
        if drive == "replay":
            replay(run, "2024-01-01", "2024-01-03")
        assert [how for how, *_ in ends(run)] == ["MISSED", "MISSED", "EXECUTED"]
        assert bought(run) == [("A", D("0.5")), ("B", 1)]
        assert {e[2] for e in ends(run)} == {"2024-01-03"}


@pytest.mark.parametrize(("cash", "how"), [(100, "EXECUTED"), (D("99.99"), "SKIPPED_FUNDS"), (60, "SKIPPED_FUNDS")])
def test_a_basket_is_bought_whole_or_not_at_all(tx: Conn, cash: Any, how: str) -> None:
    run = Run(priced(tx, A=1, B=1, C=1), cash)
    basket(run, '{"A": 0.5, "B": 0.1, "C": 0.4}')
    run.tick(DAY1)
    assert [e[0] for e in ends(run)] == [how]
    assert len(run.orders()) == (3 if how == "EXECUTED" else 0)
    assert run.cash == (0 if how == "EXECUTED" else cash)
    if how != "EXECUTED":
        assert run.payload("1:0") == {"date": "2024-01-01", "amount": 100, "reason": "CASH_INSUFFICIENT", "symbol": "C"}
    assert run.rules() == set()


def test_the_first_leg_that_may_not_be_ends_the_slot(tx: Conn) -> None:
    run = Run(priced(tx, A=1, B=1, C=1))
    basket(run, '{"A": 0.5, "B": 0.1, "C": 0.4}')
    run.call("forbid_symbol", symbol="B")
    run.tick(DAY1)
    run.call("set_risk_limit", max_order_value=45)
    run.tick(DAY2)
    assert [e[0] for e in ends(run)] == ["MISSED", "MISSED"]
    assert [(run.payload(f"1:{k}")["reason"], run.payload(f"1:{k}")["symbol"]) for k in (0, 1)] == [
        ("SYMBOL_FORBIDDEN", "B"),
        ("ORDER_VALUE_EXCEEDED", "A"),
    ]
    assert run.orders() == []
    assert run.rules() == set()


def test_a_leg_below_a_unit_is_left_out(tx: Conn) -> None:
    run = Run(priced(tx, step="1", A=30, B=60), 1000)
    basket(run, '{"A": 0.5, "B": 0.5}')
    basket(run, '{"A": 0.5, "B": 0.5}', 40)
    run.tick(DAY1)
    assert bought(run) == [("A", 1)]
    assert run.payload("1:0") == {"date": "2024-01-01", "amount": 100, "orders": [1]}
    assert ends(run, 2)[0][0] == "SKIPPED_BELOW_UNIT"
    run.tick(DAY2)
    assert run.cash == 1000 - 60  # without whole units nothing is carried
    assert run.rules() == set()


def test_whole_units_of_a_basket_carry_one_residual(tx: Conn) -> None:
    run = Run(priced(tx, A=30, B=55), 1000)
    basket(run, '{"A": 0.5, "B": 0.5}', whole_units=True)
    got = []
    for t in (DAY1, DAY2, DAY3):
        run.tick(t)
        got.append((run.held("A"), run.held("B"), *run.table("residual", "sip_plan", "1")[0]))
    # 100: 50 + 50 buy 1 + 0, 70 left; 170: 85 + 85 buy 2 + 1, 55 left; 155: 77.5 + 77.5 buy 2 + 1, 40 left
    assert got == [(1, 0, 70), (3, 1, 55), (5, 2, 40)]
    assert run.cash == 1000 - 300 + 40
    assert run.rules() == set()


# --- the money of a rebalance plan -----------------------------------------------------------------------------------


def towards(run: Run, weights: str, amount: Any, **options: Any) -> int:
    """A SIP of slot 2024-01-02 that buys for a rebalance plan which itself never trades."""
    plan_id = run.rebalance(weights, "DAILY", "2299-01-01")
    found: int = run.call(
        "create_sip",
        **{"symbol": None, "amount": amount, "frequency": "DAILY", "start": "2024-01-02", "rebalance_plan": plan_id},
        **options,
    )
    return found


@pytest.mark.parametrize(
    ("held", "weights", "amount", "parts"),
    [
        # of 1000: A wants 500 - 400, B 300 - 300, C 200 - 200
        ({"A": 400, "B": 300, "C": 200}, '{"A": 0.5, "B": 0.3, "C": 0.2}', 100, [("A", 100)]),
        # of 1000: A 100 too many, C wants 120, B 80
        ({"A": 600, "B": 220, "C": 80}, '{"A": 0.5, "B": 0.3, "C": 0.2}', 100, [("C", 100)]),
        ({"A": 500, "B": 220, "C": 80}, '{"A": 0.4, "B": 0.4, "C": 0.2}', 200, [("B", 180), ("C", 20)]),
        # nothing held: the weights' own shares, the largest first; cash plays no part
        ({}, '{"C": 0.5, "B": 0.2, "A": 0.3}', 100, [("C", 50), ("A", 30), ("B", 20)]),
        # equal wants in the order of symbols
        ({}, '{"b": 0.25, "a": 0.25, "C": 0.25, "A": 0.25}', 100, [(s, 25) for s in ("A", "C", "a", "b")]),
        ({"A": 100, "B": 100}, '{"B": 0.5, "A": 0.5}', D("0.01"), [("A", D("0.01"))]),
        # what the weights leave in cash is not the SIP's concern
        ({"A": 100}, '{"A": 0.2, "B": 0.2}', 100, [("B", 100)]),
        ({"A": 100}, '{"A": 0.1, "B": 0.2}', 100, [("B", 100)]),
        ({"A": 100}, '{"A": 0.2, "B": 0.1}', 80, [("B", 60), ("A", 20)]),
        ({}, '{"A": 0.1, "B": 0.1, "C": 0.1}', 100, [("A", D("33.33")), ("B", D("33.33")), ("C", D("33.34"))]),
        # several have too much
        ({"A": 600, "B": 600, "C": 100}, '{"A": 0.3, "B": 0.3, "C": 0.4}', 100, [("C", 100)]),
        # nor what is held beside the plan, or with weight 0
        ({"C": 500, "b": 500}, '{"A": 0.5, "B": 0.5, "b": 0}', 100, [("A", 50), ("B", 50)]),
        ({"A": 1000}, '{"A": 0.5, "B": 0.5}', 100, [("B", 100)]),
    ],
)
def test_money_goes_where_it_is_wanted_most(
    tx: Conn, held: dict[str, int], weights: str, amount: Any, parts: list[tuple[str, Any]]
) -> None:
    run = Run(priced(tx, A=1, B=1, C=1, a=1, b=1))
    for symbol, quantity in held.items():
        run.place(symbol, "BUY", quantity)
    run.tick(DAY1)
    towards(run, weights, amount)
    run.tick(DAY2)
    assert bought(run) == parts
    assert run.payload("1:0")["orders"] == [len(held) + n for n in range(1, len(parts) + 1)]
    assert run.cash == 100_000 - sum(held.values()) - amount  # bought for all of it, and sold nothing
    assert run.events() == [("SIP_EXECUTED", "1:0")]
    assert run.rules() == set()


def test_slot_after_slot_leads_to_the_weights(tx: Conn) -> None:
    market = Market(tx)
    market.bars("A", {DAY1: 10, DAY2: 10, DAY3: 30})
    market.bars("B", {DAY1: 10, DAY2: 10, DAY3: 10})
    run = Run(market)
    run.tick(DAY1)
    towards(run, '{"A": 0.5, "B": 0.5}', 100)
    run.tick(DAY2)
    assert bought(run) == [("A", 5), ("B", 5)]
    run.tick(DAY3)  # A 150, B 50, and 100 more
    assert bought(run)[2:] == [("B", 10)]
    assert run.rules() == set()


def test_catching_up_each_slot_sees_what_the_one_before_bought(tx: Conn) -> None:
    run = Run(priced(tx, times=4, A=1, B=1))
    run.place("A", "BUY", 150)
    run.tick(DAY1)
    towards(run, '{"A": 0.5, "B": 0.5}', 100, catch_up="EACH")
    run.tick("2024-01-04 12:00")
    assert bought(run) == [("B", 100), ("B", 75), ("A", 25), ("A", 50), ("B", 50)]
    assert [run.payload(f"1:{k}")["orders"] for k in range(3)] == [[2], [3, 4], [5, 6]]
    assert run.rules() == set()


def test_whole_units_towards_a_rebalance_plan(tx: Conn) -> None:
    run = Run(priced(tx, A=30, B=40))
    towards(run, '{"A": 0.5, "B": 0.5}', 100, whole_units=True)
    run.tick(DAY2)
    run.tick(DAY3)
    # 50 + 50 buy 1 + 1; of 70 + 130, A wants 70 of it and B the rest
    assert bought(run) == [("A", 1), ("B", 1), ("A", 2), ("B", 1)]
    assert run.table("residual", "sip_plan", "1") == [(30,)]


def test_a_purchase_towards_a_plan_waits_for_every_price_with_a_weight(tx: Conn) -> None:
    market = priced(tx, A=1)
    market.bars("B", {DAY3: 1})
    market.instrument("X")
    run = Run(market)
    run.tick(DAY1)
    towards(run, '{"A": 0.5, "B": 0.5, "X": 0}', 100)
    run.tick(DAY2)
    assert ends(run) == []
    run.tick(DAY3)
    assert bought(run) == [("A", 50), ("B", 50)]


# --- exactly one thing to buy ----------------------------------------------------------------------------------------

BAD_BASKETS = (
    *("{}", "[]", "null", "1", '[{"A": 1}]', '{"A": 0.5}', '{"A": 0.6, "B": 0.5}', '{"A": 1, "B": 0}'),
    *('{"A": 1.5, "B": -0.5}', '{"A": "1"}', '{"A": null}', '{"A": [1]}', '{"A": 0.5, "B": 0.49999999999999999999}'),
)


def test_a_sip_buys_one_thing(tx: Conn) -> None:
    run = Run(Market(tx, symbols=["A", "B"]))
    assert run.rebalance('{"A": 1}', "DAILY", "2024-01-01") == 1
    assert run.rebalance('{"A": 0, "B": 0}', "DAILY", "2024-01-01") == 2
    whole = {"basket": '{"A": 0.5, "B": 0.5}'}
    bad: list[dict[str, Any]] = [
        *({"symbol": None, "basket": b} for b in BAD_BASKETS),
        *({"symbol": None, "rebalance_plan": p} for p in (0, 2, 3, -1)),  # 2 has no weight
        *(
            {"symbol": "A", **whole},
            {"symbol": "A", "rebalance_plan": 1},
            {"symbol": None, **whole, "rebalance_plan": 1},
        ),
    ]
    for options in bad:
        with refused(tx, "TE101"):
            run.call("create_sip", **{**GOOD, **options})
    for name in ('{"A": 0.5, "NOWHERE": 0.5}', '{"": 1}'):
        with refused(tx, "TE201"):
            run.call("create_sip", **{**GOOD, "symbol": None, "basket": name})
    assert run.count("sip_plan") == 0
    assert [run.call("create_sip", **{**GOOD, "symbol": None, **o}) for o in (whole, {"rebalance_plan": 1})] == [1, 2]


def test_raw_plans_are_checked_too(tx: Conn) -> None:
    market = priced(tx, A=1, B=1)
    run = Run(market)
    raw = "insert into sip_plan (user_id, run_id, sip_id, amount, frequency, start_date, {0}) values (%s, %s, 1, 10, 'DAILY', '2024-01-01', {1})"
    for column, literal in (
        *(("basket", f"'{b}'") for b in BAD_BASKETS[:5] + BAD_BASKETS[7:12]),
        *(("symbol, basket", "'A', '{\"A\": 1}'"), ("end_date", "null")),
        *(
            ("symbol, pauses", f"'A', '{p}'")
            for p in ("{[-infinity,2024-01-01)}", "{(,2024-01-01)}", "{[2024-01-01,infinity)}")
        ),
        *(("symbol, auto_pause_after", "'A', 0"), ("symbol, base_slot", "'A', 1"), ("symbol, skipped_funds", "'A', 1")),
    ):
        with pytest.raises(Error) as caught, tx.transaction():
            tx.execute(raw.format(column, literal), run.key)
        assert caught.value.sqlstate == "23514", (column, literal)
    with pytest.raises(Error) as caught, tx.transaction():
        tx.execute(raw.format("rebalance_plan_id", "1"), run.key)
    assert caught.value.sqlstate == "23503"


@pytest.mark.parametrize("shares", ['{"A": 0.5, "B": 0.1}', '{"A": 0.9, "B": 0.9}', '{"A": 0.5, "NOWHERE": 0.5}'])
def test_a_raw_basket_that_is_no_whole_spends_no_more_than_its_amount(tx: Conn, shares: str) -> None:
    run = Run(priced(tx, A=1, B=1))
    basket(run, '{"A": 0.5, "B": 0.5}')
    tx.execute("update sip_plan set basket = %s where user_id = %s", [shares, run.user_id])
    for t in (DAY1, DAY2):
        run.tick(t)
    spent = 0 if "NOWHERE" in shares else 200
    assert run.cash == 100_000 - spent
    assert run.rules() == ({"basket_is_no_whole"} if spent else set())


def test_a_plan_without_weights_buys_nothing_and_stays_due(tx: Conn) -> None:
    run = Run(priced(tx, A=1))
    towards(run, '{"A": 1}', 100)
    tx.execute("update target_weight set weight = 0 where user_id = %s", [run.user_id])
    run.tick(DAY2)
    replay(run, "2024-01-03", "2024-01-03")
    assert (ends(run), run.orders(), run.rules()) == ([], [], set())


def test_a_slot_that_was_ended_by_hand_leaves_the_residual(tx: Conn) -> None:
    run = Run(priced(tx, A=30))
    run.sip("A", 100, "DAILY", "2024-01-01", whole_units=True, auto_pause_after=1)
    tx.execute("insert into event_ledger values (%s, %s, %s, 'SIP_SKIPPED_FUNDS', '1:0', '{}')", [*run.key, at(DAY1)])
    run.tick(DAY1)
    assert run.table("next_slot, residual, paused", "sip_plan", "1") == [(1, 0, False)]
    assert run.orders() == []
    run.tick(DAY2)
    assert run.table("next_slot, residual, paused", "sip_plan", "1") == [(2, 10, False)]


# --- the end of a plan -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ticked", [0, 2])
def test_a_plan_that_is_ended_has_no_more_slots(tx: Conn, ticked: int) -> None:
    """By tick, replay and tick_all alike, and a SIP and a rebalance alike."""
    market = Market(tx)
    times = daily(market, "A", "2024-01-01", "2024-01-05")
    runs = [Run(market) for _ in range(3)]
    for run in runs:
        run.sip("A", 100, "DAILY", "2024-01-01")
        run.rebalance('{"A": 0.5}', "DAILY", "2024-01-01")
        run.sip("A", 100, "DAILY", "2024-01-01", end="2024-01-04")
        for time in times[:ticked]:
            run.tick(time)
        for _ in range(2):  # the second time nothing happens
            assert run.call("end_sip", sip_id=1) == ""
            assert run.call("end_rebalance", plan_id=1) == ""
    for time in times[ticked:]:
        runs[0].tick(time)
        tx.execute("call tick_all(%s, %s)", [market.at(time), market.feed])
    replay(runs[1], "2024-01-01", "2024-01-05")
    for run in runs:
        ended = run.table("event_type, event_key", "event_ledger", "1, 2")
        assert [key for kind, key in ended if kind == "SIP_EXECUTED" and key.startswith("1:")] == [
            f"1:{n}" for n in range(ticked)
        ]
        assert [key for kind, key in ended if kind == "SIP_EXECUTED" and key.startswith("2:")] == [
            f"2:{n}" for n in range(4)
        ]
        assert [key for kind, key in ended if kind == "REBALANCED"] == [f"1:{n}" for n in range(ticked)]
        assert run.table("instalments", "sip_plan", "sip_id") == [(ticked,), (None,)]
    assert len({val(tx, "select run_digest(%s, %s)", *run.key) for run in runs}) == 1
    assert val(tx, "select count(*) from violations") == 0


def test_ending_a_plan_refuses_what_is_none(tx: Conn) -> None:
    run = Run(Market(tx, symbols=["A"]))
    run.sip("A", 100, "DAILY", "2024-01-01")
    with refused(tx, "TE101"):
        run.call("end_sip", sip_id=2)
    with refused(tx, "TE101"):
        run.call("end_rebalance", plan_id=1)
    run.call("stop_run")
    with refused(tx, "TE001"):
        run.call("end_sip", sip_id=1)
