"""Calendars in use: what a run does on the sessions that come along, and that an unknown time is never «closed»."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner, Result
from desk import Conn, Market, Run, at, refused, rows, val
from door import Door

from engine_py import feed as feeds
from engine_py.cli import main
from engine_py.errors import InvalidError
from engine_py.sessions import SHIPPED, load_sessions, load_shipped

CSV = {"Content-Type": "text/csv"}
BARS = "symbol,date,open,high,low,close\n"


def shipped_market(tx: Conn, calendar: str, first: str, last: str) -> Market:
    """A feed on a calendar that comes along, with a bar at each of its closes."""
    load_shipped(tx, calendar)
    market = Market(tx)
    market.calendar, market.zone = calendar, ZoneInfo(SHIPPED[calendar])
    tx.execute("update feed set calendar = %s where feed = %s", [calendar, market.feed])
    closes = rows(
        tx, "select close_at from market_session where calendar = %s and session_date between %s and %s",
        calendar, first, last,
    )  # fmt: skip
    market.bars("A", {close: 100 for (close,) in closes})
    return market


def sip_dates(run: Run, start: str, roll: str, **options: Any) -> list[str]:
    """By slot: the market's date on which it executed, or how else it ended."""
    sip = run.sip("A", 10, "MONTHLY", start, roll=roll, **options)
    run.conn.execute("call replay(%s, %s, '2000-01-03Z', '2026-12-31 20:00Z')", run.key)
    found = run.table("event_key, event_type, logical_time", "event_ledger", "split_part(event_key, ':', 2)::int")
    zone = run.market.zone
    return [
        time.astimezone(zone).date().isoformat() if kind == "SIP_EXECUTED" else kind
        for key, kind, time in found
        if key.startswith(f"{sip}:")
    ]


SKIPPED = "SIP_SKIPPED_HOLIDAY"


@pytest.mark.parametrize(
    ("start", "slots", "expected"),
    [
        # Saturday; Tuesday; Thursday; Sunday, but Muhurat; Tuesday
        ("2023-08-12", 5, {
            "NEXT": ["2023-08-14", "2023-09-12", "2023-10-12", "2023-11-12", "2023-12-12"],
            "PREVIOUS": ["2023-08-11", "2023-09-12", "2023-10-12", "2023-11-12", "2023-12-12"],
            "SKIP": [SKIPPED, "2023-09-12", "2023-10-12", "2023-11-12", "2023-12-12"],
        }),
        # a Monday closed for Ayodhya, after a Saturday of trading
        ("2024-01-22", 2, {
            "NEXT": ["2024-01-23", "2024-02-22"],
            "PREVIOUS": ["2024-01-20", "2024-02-22"],
            "SKIP": [SKIPPED, "2024-02-22"],
        }),
        # the Saturday of a budget; a Saturday after a month's end; Maharashtra Day
        ("2025-02-01", 4, {
            "NEXT": ["2025-02-01", "2025-03-03", "2025-04-01", "2025-05-02"],
            "PREVIOUS": ["2025-02-01", "2025-02-28", "2025-04-01", "2025-04-30"],
            "SKIP": ["2025-02-01", SKIPPED, "2025-04-01", SKIPPED],
        }),
        # Muhurat on a Tuesday, Balipratipada the day after; elections on a Thursday
        ("2025-10-21", 1, {"NEXT": ["2025-10-21"], "PREVIOUS": ["2025-10-21"], "SKIP": ["2025-10-21"]}),
        ("2025-10-22", 1, {"NEXT": ["2025-10-23"], "PREVIOUS": ["2025-10-21"], "SKIP": [SKIPPED]}),
        ("2026-01-15", 1, {"NEXT": ["2026-01-16"], "PREVIOUS": ["2026-01-14"], "SKIP": [SKIPPED]}),
        # the 31st of shorter months
        ("2026-01-31", 3, {
            "NEXT": ["2026-02-01", "2026-03-02", "2026-04-01"],  # Sunday of a budget; Saturday; Mahavir Jayanti
            "PREVIOUS": ["2026-01-30", "2026-02-27", "2026-03-30"],
        }),
    ],
)  # fmt: skip
def test_a_monthly_sip_in_india(tx: Conn, start: str, slots: int, expected: dict[str, list[str]]) -> None:
    first = datetime.fromisoformat(start) - timedelta(days=10)
    market = shipped_market(tx, "XNSE", f"{first:%Y-%m-%d}", f"{first + timedelta(days=150):%Y-%m-%d}")
    for roll, dates in expected.items():
        assert sip_dates(Run(market), start, roll, instalments=slots) == dates, roll


def test_a_muhurat_session_is_one_hour_of_the_evening(tx: Conn) -> None:
    market = shipped_market(tx, "XNSE", "2023-11-10", "2023-11-10")
    market.bars("A", {f"2023-11-12 {clock}": 100 for clock in ("15:30", "18:15", "18:16", "19:15", "19:16")})
    run = Run(market)
    run.tick("2023-11-10 15:30")
    for _ in range(3):
        run.place("A", "BUY", 1, time_in_force="DAY", limit=100)
    run.cancel(1)
    run.tick("2023-11-12 18:15")  # the open is outside
    assert run.trades() == []
    run.tick("2023-11-12 19:15")
    assert [(t[1], t[5]) for t in run.trades()] == [(market.at("2023-11-12 18:16"), 100)] * 2
    run.place("A", "BUY", 1, time_in_force="DAY", limit=100)
    run.tick("2023-11-12 19:16")
    assert run.orders()[-1] == "PENDING"  # it belongs to the next session
    assert run.rules() == set()


def test_the_closing_auction_lies_in_the_session(tx: Conn) -> None:
    market = shipped_market(tx, "XNSE", "2026-07-30", "2026-08-04")
    assert [str(t.astimezone(market.zone).time()) for (t,) in rows(
        tx, "select logical_time from price_bar where feed = %s order by 1", market.feed)
    ] == ["15:30:00", "15:30:00", "15:35:00", "15:35:00"]  # fmt: skip


# --- what a calendar does not know ------------------------------------------------------------------------------------

WEEK = [(f"2024-01-{day:02}", "09:15", "15:30") for day in (8, 9, 10)]
CALLS: list[Callable[[Run, datetime], object]] = [
    lambda run, t: run.tick(t),
    lambda run, t: run.conn.execute("call replay(%s, %s, %s, %s)", [*run.key, t, t]),
    lambda run, t: run.conn.execute("call tick_all(%s, %s)", [t, run.market.feed]),
    lambda run, t: run.call("match_orders", logical_time=t),
    lambda run, t: run.call("try_execute_sip", logical_time=t),
    lambda run, t: run.call("try_execute_sip", logical_time=t, market_open=True),
    lambda run, t: run.call("try_rebalance", logical_time=t),
    lambda run, t: run.call("log_mtm", logical_time=t),
    lambda run, t: run.call("record_equity", logical_time=t),
    lambda run, t: run.call("preview_sip", sip_id=1, logical_time=t),
]


@pytest.mark.parametrize(
    "when", ["2024-01-01 15:30", "2024-01-07 23:59:59.999999", "2024-01-10 15:30:00.000001", "2024-01-11 12:00"]
)
def test_a_time_that_the_calendar_does_not_know_is_refused(tx: Conn, when: str) -> None:
    market = Market(tx, WEEK, "Asia/Kolkata")
    market.bars("A", {when: 100, "2024-01-09 15:30": 100})
    run = Run(market)
    run.sip("A", 10, "MONTHLY", "2024-01-01")
    run.place("A", "BUY", 1)
    before = run.snapshot()
    for called in CALLS:
        with refused(tx, "TE203", calendar=market.calendar, loaded="2024-01-08..2024-01-10"):
            called(run, market.at(when))
    assert run.snapshot() == before
    market.add_sessions([("2023-12-29", "09:15", "15:30"), ("2024-01-12", "09:15", "15:30")])
    run.tick(when)  # closed, now that it is known
    assert run.fills() == []
    assert run.count("paper_equity_curve") == 1


@pytest.mark.parametrize("when", ["2024-01-08 00:00", "2024-01-08 09:15", "2024-01-09 03:00", "2024-01-10 00:01"])
def test_a_time_between_the_sessions_is_closed(tx: Conn, when: str) -> None:
    market = Market(tx, WEEK, "Asia/Kolkata")
    market.bars("A", {when: 100})
    run = Run(market)
    run.place("A", "BUY", 1)
    run.sip("A", 10, "DAILY", "2024-01-08")
    run.tick(when)
    assert (run.orders(), run.events()) == (["PENDING"], [])


def test_a_calendar_is_known_from_the_evening_on_which_its_first_session_opens(tx: Conn) -> None:
    market = Market(tx, [], "America/Chicago")
    tx.execute(
        "insert into market_session values (%s, '2024-01-08', %s, %s)",
        [market.calendar, market.at("2024-01-07 17:00"), market.at("2024-01-08 16:00")],
    )
    market.bars("A", {"2024-01-07 16:59": 100, "2024-01-07 17:00": 100, "2024-01-07 18:00": 100})
    run = Run(market)
    with refused(tx, "TE203"):
        run.tick("2024-01-07 16:59")
    run.tick("2024-01-07 17:00")
    run.place("A", "BUY", 1)
    run.tick("2024-01-07 18:00")
    assert run.orders() == ["FILLED"]


def test_slots_past_the_calendar_wait_for_it(tx: Conn) -> None:
    market = Market(tx, WEEK, "Asia/Kolkata")
    market.bars("A", {f"{day} 15:30": 100 for day, _, _ in WEEK} | {"2024-01-15 15:30": 100, "2024-01-16 15:30": 100})
    run = Run(market)
    for roll in ("NEXT", "PREVIOUS", "SKIP"):
        run.sip("A", 10, "MONTHLY", "2024-01-14", roll=roll)  # a Sunday, once it is known
    run.sip("A", 10, "DAILY", "2024-01-11")
    run.tick("2024-01-10 15:30")
    due = rows(tx, "select due_date::text, state from sip_schedule(%s, %s)", *run.key)
    assert due == [
        ("2024-01-14", "SCHEDULED"),
        (None, "CALENDAR_ENDS"),
        ("2024-01-14", "SCHEDULED"),
        (None, "CALENDAR_ENDS"),
    ]
    with refused(tx, "TE203"):
        run.tick("2024-01-15 15:30")
    assert run.events() == []
    market.add_sessions([(f"2024-01-{day}", "09:15", "15:30") for day in (12, 15, 16)])
    run.tick("2024-01-12 15:30")
    run.tick("2024-01-15 15:30")
    found = run.table("event_key, event_type, logical_time", "event_ledger", "1, 2")
    assert [(key, kind.removeprefix("SIP_"), f"{time.astimezone(market.zone):%d}") for key, kind, time in found] == [
        ("1:0", "EXECUTED", "15"),
        ("2:0", "EXECUTED", "12"),
        ("3:0", "SKIPPED_HOLIDAY", "15"),
        ("4:0", "EXECUTED", "12"),
        ("4:1", "EXECUTED", "15"),
    ]


@pytest.mark.parametrize(
    ("day", "code"),
    [("1999-12-31", "TE203"), ("2000-01-01", "TE203"), ("2027-01-01", "TE203"), ("2024-01-27", "22008")],
)
def test_a_bar_of_a_date_without_a_session(db: Conn, tmp_path: Path, day: str, code: str) -> None:
    path = tmp_path / "bars.csv"
    path.write_text(f"{BARS}A,2024-01-29,1,1,1,1\nA,{day},1,1,1,1\n")
    with pytest.raises(feeds.FeedError) as caught:
        feeds.load_csv(db, path, feed="f", calendar="XNSE")
    (problem,) = caught.value.report.skipped
    assert (problem.line, problem.code) == (3, code)
    if code == "TE203":
        for words in ("XNSE", "2000-01-03", "2026-12-31", "papertick calendar load XNSE"):
            assert words in problem.message
    report = feeds.load_csv(db, path, feed="f", calendar="XNSE", skip_bad=True)
    assert (report.rows, report.skipped_count) == (1, 1)


def test_the_api_refuses_what_the_calendar_does_not_know(api: Door) -> None:
    admin = api.client(admin=True)
    feed = api.feed().replace("api feed", "india")
    path = f"/v1/admin/feeds/{feed}/bars"
    content = BARS + "INDIA,2026-12-31,1,1,1,1\n"
    assert admin.ok("POST", f"{path}?calendar=XNSE", content=content, headers=CSV)["last"] == "2026-12-31T10:05:00Z"
    late = admin.refused(422, "TE203", "POST", path, content=BARS + "INDIA,2027-01-01,1,1,1,1\n", headers=CSV)
    assert "papertick calendar load XNSE" in late["detail"]
    run = admin.start(feed=feed)
    ticks = f"/v1/runs/{run}/ticks"
    for time in ("2026-12-31T10:05:01Z", "2027-01-01T10:00:00Z", "2000-01-02T18:29:59Z", "1999-12-31T10:00:00Z"):
        answer = admin.refused(404, "TE203", "POST", ticks, json={"logical_time": time})
        assert "2000-01-03..2026-12-31" in answer["detail"]
    admin.ok("POST", ticks, json={"logical_time": "2026-12-31T10:05:00Z"})


# --- loading ----------------------------------------------------------------------------------------------------------


class Cli:
    def __init__(self, dsn: str) -> None:
        self._env = {"DB_DSN": dsn, "PAPERTICK_HOME": "/nonexistent"}

    def __call__(self, *args: object, code: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(main, [str(arg) for arg in args], env=self._env, input=stdin)
        assert result.exit_code == code, (args, result.output, result.exception)
        return result

    def json(self, *args: object) -> Any:
        return json.loads(self(*args, "--json").stdout)

    def error(self, *args: object, code: int = 1) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self(*args, "--json", code=code).stderr)["error"]
        return found


@pytest.fixture
def cli(dsn: str) -> Cli:
    return Cli(dsn)


def sessions_of(db: Conn, calendar: str) -> list[Any]:
    return rows(db, "select * from market_session where calendar = %s order by session_date", calendar)


def test_a_new_feed_brings_its_calendar(cli: Cli, db: Conn) -> None:
    for number, calendar in enumerate(sorted(SHIPPED)):
        bars = f"{BARS}A,2024-01-25,1,1,1,1\n"
        cli("feed", "load", "-", "--feed", f"f{number}", "--calendar", calendar, stdin=bars)
    assert [row["calendar"] for row in cli.json("calendar", "list")] == ["24/7", "ALWAYS", "XBOM", "XNSE", "XNYS"]
    assert rows(db, "select feed, logical_time at time zone 'UTC' from price_bar order by 1") == [
        ("f0", datetime(2024, 1, 26)),
        ("f1", datetime(2024, 1, 25, 10)),
        ("f2", datetime(2024, 1, 25, 10)),
        ("f3", datetime(2024, 1, 25, 21)),
    ]
    # what is there under that name is whose it is
    db.execute("delete from market_session where calendar = 'XNSE' and session_date > '2024-06-28'")
    cli("feed", "load", "-", "--feed", "more", "--calendar", "XNSE", stdin=f"{BARS}A,2024-01-25,1,1,1,1\n")
    assert val(db, "select max(session_date)::text from market_session where calendar = 'XNSE'") == "2024-06-28"


def test_load_by_name_again_brings_what_is_new_and_changes_nothing(cli: Cli, db: Conn) -> None:
    first = cli("calendar", "load", "XNSE", "--json")
    assert (json.loads(first.stdout)["rows"], first.stderr) == (6713, "")
    before = sessions_of(db, "XNSE")
    assert cli.json("calendar", "load", "XNSE")["unchanged"] == 6713
    db.execute("delete from market_session where calendar = 'XNSE' and session_date >= '2026-01-01'")
    assert cli.json("calendar", "load", "XNSE")["rows"] == 247
    assert sessions_of(db, "XNSE") == before
    # a session that was changed, one that a newer release no longer has, one that only it has
    db.execute("update market_session set close_at = close_at + interval '1 hour' where session_date = '2026-11-08'")
    db.execute("insert into market_session values ('XNSE', '2026-11-10', '2026-11-10 03:45Z', '2026-11-10 10:00Z')")
    added = rows(db, "delete from market_session where session_date = '2026-12-24' returning *")
    changed = sessions_of(db, "XNSE")
    result = cli("calendar", "load", "XNSE")
    assert "1 row stored, 6711 unchanged, 1 skipped" in result.stdout
    assert result.stderr.splitlines() == [
        "stored with other hours: 2026-11-08; left as it is",
        "stored, but not (or no longer) a session: 2026-11-10; left as it is",
        "not stored: 2026-12-24; added now",
    ]
    assert sessions_of(db, "XNSE") == sorted(changed + added)
    db.execute("delete from market_session where session_date not between '2010-01-01' and '2020-12-31'")
    assert cli("calendar", "load", "XNSE").stderr == ""  # what lies before and after it is only more


def test_list_and_show(cli: Cli) -> None:
    for name in ("XNSE", "24/7"):
        cli("calendar", "load", name)
    listed = {row.pop("calendar"): row for row in cli.json("calendar", "list")}
    zone = {"time_zone": "Asia/Kolkata", "sessions": 6713, "first": "2000-01-03", "last": "2026-12-31"}
    assert listed["XNSE"] == zone
    assert listed["ALWAYS"]["sessions"] == 0
    assert "XBOM, XNYS" in cli("calendar", "list").stdout
    shown = cli.json("calendar", "show", "XNSE", "--from", "2024-10-31", "--to", "2024-11-04")
    assert shown == [
        {"session_date": "2024-10-31", "day": "Thu", "open": "09:15", "close": "15:30", "open_at": "2024-10-31T03:45:00Z",
         "close_at": "2024-10-31T10:00:00Z", "note": None},
        {"session_date": "2024-11-01", "day": "Fri", "open": "18:00", "close": "19:00", "open_at": "2024-11-01T12:30:00Z",
         "close_at": "2024-11-01T13:30:00Z", "note": "short"},
        {"session_date": "2024-11-04", "day": "Mon", "open": "09:15", "close": "15:30", "open_at": "2024-11-04T03:45:00Z",
         "close_at": "2024-11-04T10:00:00Z", "note": None},
    ]  # fmt: skip
    (saturday,) = cli.json("calendar", "show", "XNSE", "--from", "2024-03-02", "--to", "2024-03-02")
    assert saturday["note"] == "short, weekend"
    (day,) = cli.json("calendar", "show", "24/7", "--from", "2026-01-03", "--to", "2026-01-03")
    assert (day["open"], day["close"], day["note"]) == ("00:00", "24:00", None)
    assert "31 sessions" in cli("calendar", "show", "24/7", "--from", "2026-01-03").stdout
    assert cli("calendar", "show", "XNSE", "--from", "2026-12-28").stdout.count("\n") == 3 + 4
    assert cli.json("calendar", "show", "XNSE", "--from", "2024-01-26", "--to", "2024-01-28") == []
    cli("calendar", "show", "24/7")  # from today on


def test_show_refuses_what_it_does_not_know(cli: Cli) -> None:
    assert "calendar load XNYS" in cli.error("calendar", "show", "XNYS")["hint"]
    cli("calendar", "load", "XNYS")
    for args in (
        ["--from", "1999-12-31"],
        ["--to", "2027-01-04"],
        ["--from", "2027-01-04"],
        ["--from", "1990-01-01", "--to", "2030-01-01"],
    ):
        error = cli.error("calendar", "show", "XNYS", *args)
        assert error["code"] == "TE203"
        assert "2000-01-03 to 2026-12-31" in error["message"]
    assert cli.error("calendar", "show", "XNYS", "--from", "2024-02-30", code=2)["code"] is None
    assert cli.error("calendar", "show", "ALWAYS", code=2)["code"] is None
    assert cli.error("calendar", "show", "NONE")["code"] is None
    for args in (["load", "XLON"], ["load", "XNYS", "--time-zone", "UTC"], ["load", "XNYS", "--skip-bad"]):
        assert cli.error("calendar", *args, code=2)["code"] is None


def load(conn: Conn, path: Path, *lines: str, **options: Any) -> Any:
    path.write_text("\n".join(("session_date,open_at,close_at", *lines)) + "\n")
    return load_sessions(conn, path, calendar=f"of {path}", **options)


def test_hours_on_the_markets_clock(tx: Conn, tmp_path: Path) -> None:
    path = tmp_path / "sessions.csv"
    lines = [
        "2024-03-08,09:30,16:00",
        "2024-03-11,09:30,16:00",
        "2024-03-12,2024-03-12T09:30:00-04:00,13:00",
        "2024-03-13,00:00,24:00",
    ]
    with pytest.raises(InvalidError) as caught:
        load(tx, path, *lines)
    assert (caught.value.code, "--time-zone" in (caught.value.hint or "")) == ("TE101", True)
    assert load(tx, path, *lines, time_zone="America/New_York").rows == 4
    found = rows(
        tx,
        "select open_at at time zone 'UTC', close_at at time zone 'UTC' from market_session where calendar = %s order by 1",
        f"of {path}",
    )
    assert [f"{o:%d %H:%M}-{c:%d %H:%M}" for o, c in found] == [
        "08 14:30-08 21:00", "11 13:30-11 20:00", "12 13:30-12 17:00", "13 04:00-14 04:00",
    ]  # fmt: skip
    assert load(tx, path, *lines).unchanged == 4


@pytest.mark.parametrize("bad", ["9:30", "24:01", "12:60", "09:30:00", "0930", "24:00:00", "-1:00", "noon", "٠٩:٣٠"])
def test_no_hour_of_the_clock(tx: Conn, tmp_path: Path, bad: str) -> None:
    good = "2024-03-08,09:30,16:00"
    with pytest.raises(feeds.FeedError) as caught:
        load(
            tx,
            tmp_path / "sessions.csv",
            good,
            f"2024-03-11,{bad},16:00",
            f"2024-03-12,09:30,{bad}",
            time_zone="Asia/Tokyo",
        )
    assert [(p.line, p.code) for p in caught.value.report.skipped] == [(3, "22007"), (4, "22007")]
    report = load(tx, tmp_path / "sessions.csv", good, f"2024-03-11,{bad},16:00", time_zone="Asia/Tokyo", skip_bad=True)
    assert (report.rows, report.skipped_count) == (1, 1)


def test_a_clock_that_runs_backwards_is_refused(tx: Conn, tmp_path: Path) -> None:
    for line in ("2024-03-08,16:00,09:30", "2024-03-08,09:30,09:30", "2024-03-08,24:00,24:00"):
        with pytest.raises(feeds.FeedError):
            load(tx, tmp_path / "sessions.csv", line, time_zone="Asia/Tokyo")


def test_now_is_no_part_of_a_decision(tx: Conn) -> None:
    """A calendar that ended long ago is as good as any."""
    market = shipped_market(tx, "24/7", "2009-01-03", "2009-01-05")
    run = Run(market)
    run.place("A", "BUY", 1)
    run.tick(at("2009-01-05 00:00", UTC))
    assert run.orders() == ["FILLED"]
    with refused(tx, "TE203"):
        run.tick(datetime(2036, 1, 1, 0, 0, 1, tzinfo=UTC))
