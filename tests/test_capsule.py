"""Export and import: a run on another server is the same run, to the last row, and lives on as it did."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from capsules import Conn, contents, edit, everything, rewrite, send
from click.testing import CliRunner
from helpers import (
    PER_RUN,
    Run,
    at,
    digest,
    insert,
    make_bars,
    make_busy_run,
    make_run,
    make_user,
    place,
    raises,
    raw_run,
    stop,
    superuser_only,
    tick,
    value,
)
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from engine_py import capsule, errors, exporting, importing
from engine_py.cli import main
from tests.histories import OPTIONS, histories, set_volumes, start
from tests.scripts import CALENDARS, Bench, Script, add_actions, examples
from tests.scripts import Run as Played
from tests.scripts_actions import action_scripts
from tests.test_equivalence import by_replay, by_tick, play

D = Decimal
TABLES = (
    "strategy_run",
    "engine_state",
    "paper_order",
    "price_bar",
    "app_user",
    "feed",
    "instrument",
    "market_session",
)


def key_of(run: Played) -> Run:
    return Run(run.user_id, run.run_id)


def busy(db: Conn, ticks: int = 6) -> Run:
    """A run with orders, trades, a SIP and a rebalance over AAA and BBB; CCC is on the same feed."""
    for symbol in ("AAA", "BBB", "CCC"):
        make_bars(db, symbol, [100 + n + ord(symbol[0]) % 7 for n in range(12)])
    run = make_busy_run(db)
    for n in range(ticks):
        tick(db, run, n)
    return run


# --- the same run elsewhere ---


@st.composite
def _scripts(draw: st.DrawFn) -> tuple[Script, dict[str, Any]]:
    if draw(st.booleans()):
        script = draw(action_scripts(every_time=True))
        return script, {k: v for k, v in script.terms.items() if k == "reinvest_dividends"}
    script, _ = draw(histories())
    return script, draw(st.sampled_from(OPTIONS))


def test_any_run_is_the_same_run_on_another_server_and_lives_on(db: Conn, other: Conn, tmp_path: Path) -> None:
    """Cut anywhere: same rows, digest, curve and capsule; then both do the rest, by tick or by replay, and are equal."""
    bench, there = Bench(db), Bench(other)
    seen: set[str] = set()

    @examples(40, 1000)
    @given(_scripts(), st.randoms(use_true_random=False))
    def check(made: tuple[Script, dict[str, Any]], chance: random.Random) -> None:
        script, options = made
        if options.get("mark_policy") is None and chance.random() < 0.5:
            options = {**options, "mark_policy": chance.choice(["EVENTS", "SESSION"])}
        feed = bench.feed(script)
        set_volumes(db, feed)
        source = start(bench, feed, script.cash * chance.choice([1, 20]), **options)
        cut = chance.randint(0, len(script.calls))
        play(source, script.calls[:cut], by_tick)
        there.set_actions([])
        other.execute("delete from corporate_action")

        file = tmp_path / "run.zip"
        run = send(db, key_of(source), other, file, add_missing=True)
        assert digest(other, run) == source.digest()
        assert everything(other, run) == everything(db, key_of(source))
        for query in (
            "select * from equity_between(%s, %s)",
            "select * from performance(%s, %s)",
            "select * from drawdowns(%s, %s)",
            "select * from sip_schedule(%s, %s)",
            "select e.* from (select %s::bigint as u, %s::bigint as r) k join paper_order o on (o.user_id, o.run_id) = (k.u, k.r)"
            " cross join lateral explain_order(o.user_id, o.run_id, o.order_id) e order by o.order_id, 1, 2, 3::text",
        ):
            ended = query.startswith("select * from sip_schedule") and not CALENDARS[script.calendar].sessions
            if not ended:
                assert other.execute(query, run).fetchall() == db.execute(query, key_of(source)).fetchall(), query
        again = tmp_path / "again.zip"
        exporting.export_capsule(other, *run, again)
        assert again.read_bytes() == file.read_bytes()
        seen.add(value(other, "select status from strategy_run where (user_id, run_id) = (%s, %s)", run))

        rows = db.execute("select * from price_bar where feed = %s", [feed]).fetchall()
        other.cursor().executemany(
            "insert into price_bar values (%s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing", rows
        )
        add_actions(other, script.actions)
        add_actions(other, [c.arguments["action"] for c in script.calls[:cut] if c.verb == "load_action"])
        copy = Played(other, *run)
        play(source, script.calls[cut:], by_tick)
        play(copy, script.calls[cut:], chance.choice([by_tick, by_replay]))
        assert copy.digest() == source.digest()
        assert other.execute("select * from run_violations(%s, %s)", run).fetchall() == []

    check()
    assert "RUNNING" in seen


def test_capsule_is_the_same_bytes_every_time_and_whoever_it_was(db: Conn, other: Conn, tmp_path: Path) -> None:
    run = busy(db)
    files = [tmp_path / f"{n}.zip" for n in range(3)]
    exporting.export_capsule(db, *run, files[0])
    db.execute("set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set intervalstyle = 'iso_8601'")
    exporting.export_capsule(db, *run, files[1])
    make_run(other)  # other numbers there
    copy = importing.import_file(other, files[0])
    exporting.export_capsule(other, copy["user_id"], copy["run_id"], files[2])
    assert (copy["user_id"], copy["run_id"]) != run
    assert len({file.read_bytes() for file in files}) == 1
    with zipfile.ZipFile(files[0]) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        text = b"".join(archive.read(name) for name in archive.namelist())
    assert b"recorded_at" not in text
    assert b'"user_id"' not in text


@pytest.mark.parametrize("end", ["stop_run", "fail_run"])
def test_ended_run_comes_in_ended(db: Conn, other: Conn, tmp_path: Path, end: str) -> None:
    run = busy(db)
    place(db, run, "AAA", "BUY", 1, order_type="LIMIT", limit_price=5)
    db.execute(sql.SQL("select {}(%s, %s, 'enough')").format(sql.Identifier(end)), run)
    copy = send(db, run, other, tmp_path / "run.zip")
    assert everything(other, copy) == everything(db, run)
    log = "select status, reason, logical_time from engine_status where user_id = %s order by status_id"
    assert other.execute(log, [copy.user_id]).fetchall() == db.execute(log, [run.user_id]).fetchall()
    with raises("TE001", conn=other):
        place(other, copy, "AAA", "BUY", 1)
    with raises("TE002", conn=other):
        other.execute("update strategy_run set status = 'RUNNING' where user_id = %s", [copy.user_id])


def test_runs_of_raw_rows_come_along(db: Conn, other: Conn, tmp_path: Path) -> None:
    run = raw_run(db)
    insert(db, "paper_order", {"user_id": run.user_id, "run_id": run.run_id, "order_id": 7, "logical_time": at(0), "symbol": "NONE", "side": "BUY", "order_type": "MARKET", "quantity": 1, "time_in_force": "GTC", "status": "PENDING"})  # fmt: skip
    copy = send(db, run, other, tmp_path / "run.zip")
    assert everything(other, copy) == everything(db, run)
    assert digest(other, copy) == digest(db, run)


def test_clock_is_the_feeds_also_where_the_run_holds_nothing(db: Conn, other: Conn, tmp_path: Path) -> None:
    """BBB's times are times of the run too; of BBB itself the run knows nothing."""
    make_bars(db, "AAA", [10, 11, 12], start=0)
    make_bars(db, "BBB", [50, 51, 52], start=1)
    make_bars(db, "CCC", [70] * 6, start=0)
    db.execute("delete from price_bar where symbol = 'CCC' and logical_time <= %s", [at(3)])
    user = make_user(db)
    run = Run(user, value(db, "select start_run(%s, 1000, p_mark_policy => 'EVENTS')", [user]))
    place(db, run, "AAA", "BUY", 3)
    db.execute("call replay(%s, %s, %s, %s)", [*run, at(0), at(4)])
    copy = send(db, run, other, tmp_path / "run.zip")
    curve = "select logical_time, equity from equity_between(%s, %s)"
    assert other.execute(curve, copy).fetchall() == db.execute(curve, run).fetchall()
    stored = other.execute("select symbol, logical_time from price_bar order by 2, 1").fetchall()
    assert stored == [("AAA", at(0)), ("AAA", at(1)), ("AAA", at(2)), ("BBB", at(3)), ("CCC", at(4))]


def test_with_feed_the_run_goes_on_by_itself(db: Conn, other: Conn, tmp_path: Path) -> None:
    run = busy(db, ticks=4)
    copy = send(db, run, other, tmp_path / "run.zip", with_feed=True)
    for n in range(4, 12):
        tick(db, run, n)
    other.execute("call replay(%s, %s, %s, %s)", [*copy, at(0), at(20)])
    assert digest(other, copy) == digest(db, run)
    assert value(other, "select count(*) from price_bar") == 36


def test_tables_of_a_capsule_are_those_of_a_run(tx: Conn) -> None:
    listed = [name for (name,) in tx.execute("select table_name from engine.capsule_tables() order by ordinal")]
    assert sorted(listed) == sorted(PER_RUN)
    assert tuple(listed) == capsule.RUN_TABLES
    with raises("TE101", conn=tx):
        tx.execute(
            "select export_rows(k.user_id, start_run(k.user_id, 1), 'api_key') from (select create_user('a') as user_id offset 0) k"
        )


IMPORT = """select import_run(%s, 'default', array_agg(t.table_name order by t.ordinal), array_agg(t.rows order by t.ordinal), %s)
  from (select k.ordinal, k.table_name, coalesce(string_agg(r::text, e'\\n' order by n), '') as rows
          from engine.capsule_tables() k cross join lateral export_rows(%s, %s, k.table_name) with ordinality e (r, n)
         group by k.ordinal, k.table_name) t"""


def test_the_verbs_alone(db: Conn) -> None:
    """A copy of a run within one database, by SQL; the digest and the rows must be the run's."""
    run = busy(db)
    stop(db, run)
    copy = Run(make_user(db), 0)
    copy = Run(copy.user_id, value(db, IMPORT, [copy.user_id, digest(db, run), *run]))
    assert everything(db, copy) == everything(db, run)
    user = make_user(db)
    before = contents(db)
    for code, new_user, wanted in (("TE901", user, "0" * 64), ("TE901", user, None), ("23503", 999, digest(db, run))):
        with raises(code, conn=db):
            db.execute(IMPORT, [new_user, wanted, *run])
    with raises("TE101", conn=db):
        db.execute("select import_run(%s, 'default', array['strategy_run', 'api_key'], array['{}', '{}'], '')", [user])
    with raises("TE101", conn=db):
        db.execute("select import_run(%s, 'default', array['paper_order'], array['{}'], '')", [user])
    with raises("TE201", conn=db):
        db.execute(IMPORT.replace("'default'", "'none'"), [user, digest(db, run), *run])
    for level in ("repeatable read", "serializable"):
        with raises("40001"), db.transaction():
            db.execute(f"set transaction isolation level {level}")
            db.execute(IMPORT, [user, digest(db, run), *run])
    assert contents(db) == before


def test_rows_read_the_same_in_every_session(db: Conn) -> None:
    run = busy(db)
    db.execute("select pause_sip(%s, %s, 1, '2024-03-01', '2024-03-05')", run)
    stop(db, run)
    run = Run(run.user_id, value(db, "select start_run(%s, 1, p_max_price_age => '3 days 2 hours')", [run.user_id]))
    query = "select t.table_name, export_rows(r.user_id, r.run_id, t.table_name)::text from strategy_run r cross join engine.capsule_tables() t"
    plain = db.execute(query).fetchall()
    db.execute(
        "set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set intervalstyle = 'iso_8601'; set extra_float_digits = 0"
    )
    assert db.execute(query).fetchall() == plain


# --- what is refused ---


def refused(target: Conn, path: Path, code: str, **options: Any) -> errors.PapertickError:
    before = contents(target)
    with pytest.raises(errors.PapertickError) as caught:
        importing.import_file(target, path, **options)
    assert caught.value.code == code, caught.value
    assert contents(target) == before
    return caught.value


def put(name: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.__setitem__(name, data)


SIPS = "run/sip_plan.ndjson"


@pytest.mark.parametrize(
    ("change", "honest", "code"),
    [
        (edit("cash_ledger", amount=20_000), False, "TE901"),  # the hash
        (
            lambda m: m.update({SIPS: m[SIPS].replace(b"1000.0000", b"9000.0000")}),
            False,
            "TE901",
        ),  # only the hash says so
        (edit("cash_ledger", amount=20_000), True, "TE901"),  # the digest
        (edit("paper_order", client_order_id="x"), True, "TE901"),  # only the digest says so
        (edit("sip_plan", amount=2_000, user_id=1), True, "42701"),
        (edit("sip_plan", no_such_column=1), True, "42703"),
        (edit("strategy_run", status="DONE"), True, "23514"),
        (edit("strategy_run", fee_schedule="none of ours"), True, "TE101"),
        (edit("paper_order", quantity="NaN"), True, "23514"),
        (lambda members: members.pop("run/mtm_ledger.ndjson"), False, "TE901"),
        (lambda members: members.pop("run/strategy_run.ndjson"), True, "TE101"),
        (put("../../etc/passwd", b"{}\n"), False, "TE901"),
        (put("../../etc/passwd", b"{}\n"), True, "TE901"),
        (put("run/api_key.ndjson", b'{"is_admin": true}\n'), True, "TE901"),
        (put("run/app_user.ndjson", b'{"user_id": 1}\n'), True, "TE901"),
        (put("market/api_key.ndjson", b'{"is_admin": true}\n'), True, "TE901"),
        (put("market/cash_ledger.ndjson", b'{"amount": 1}\n'), True, "TE901"),
        (put("ahead/fee_schedule.ndjson", b'{"rate": 1}\n'), True, "TE901"),
        (put("run/engine_state.ndjson", b"[1]\n"), True, "22023"),
        (put("run/engine_state.ndjson", b"{\n"), True, "22P02"),
        (put("run/engine_state.ndjson", b'{"cash": 1}'), True, "TE901"),
    ],
)
def test_changed_capsule_is_refused_whole(
    db: Conn, other: Conn, tmp_path: Path, change: Callable[[dict[str, bytes]], None], honest: bool, code: str
) -> None:
    run = busy(db)
    path = tmp_path / "run.zip"
    exporting.export_capsule(db, *run, path)
    changed = rewrite(path, change, honest=honest)
    refused(other, changed, code)
    if not honest:
        with pytest.raises(errors.PapertickError), capsule.read(changed):
            pytest.fail("found out before anything is read from it")


def test_forged_history_with_its_own_digest_must_still_be_possible(db: Conn, other: Conn, tmp_path: Path) -> None:
    """Who forges the digest as well meets the invariants; what breaks none of them is a paper account like another."""
    run = busy(db)
    path = tmp_path / "run.zip"
    exporting.export_capsule(db, *run, path)
    change = edit("cash_ledger", amount=20_000)
    caught = refused(other, rewrite(path, change), "TE901")
    forged = (caught.detail or "").split()[0].removeprefix("digest=")
    caught = refused(other, rewrite(path, change, digest=forged), "TE901")
    assert "rule=" in (caught.detail or "")


def test_broken_files_are_refused(other: Conn, db: Conn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = busy(db)
    path = tmp_path / "run.zip"
    exporting.export_capsule(db, *run, path)
    whole = path.read_bytes()
    for broken in (b"", b"not a zip", whole[: len(whole) // 2], whole[:-30], whole[:300] + b"\0" * 200 + whole[500:]):
        path.write_bytes(broken)
        refused(other, path, "TE901")
    path.write_bytes(whole)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("run/cash_ledger.ndjson", "{}\n")
    refused(other, path, "TE901")
    path.write_bytes(whole)
    refused(other, rewrite(path, lambda m: m.clear()), "TE101")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(other, path, "22023")
    path.write_bytes(whole)
    newer = rewrite(path, lambda m: None)
    with zipfile.ZipFile(newer) as archive:
        manifest = json.loads(archive.read("manifest.json")) | {"format_version": 99}
    with zipfile.ZipFile(newer, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
    refused(other, newer, "0A000")
    with pytest.raises(errors.UsageError):
        importing.import_file(other, tmp_path / "nothing.zip")
    monkeypatch.setattr(capsule, "MAX_BYTES", 1000)
    refused(other, path, "54000")


def test_made_up_marks_and_marks_left_out_come_in_as_the_docs_say(db: Conn, other: Conn, tmp_path: Path) -> None:
    """No rule compares marks with bars; docs/security.md says so. Should one, say it there."""
    path = tmp_path / "run.zip"
    exporting.export_capsule(db, *busy(db), path)

    def more(found: re.Match[bytes]) -> bytes:
        return found[1] + str(Decimal(found[2].decode()) + 1_000).encode()

    def forge(members: dict[str, bytes]) -> None:
        for name in ("run/mtm_ledger.ndjson", "run/paper_equity_curve.ndjson"):
            _, second, *rest = members[name].splitlines(keepends=True)  # the first mark is left out
            second = re.sub(rb'("(?:market_value|equity|unrealized_pnl)": )(-?[\d.]+)', more, second)
            members[name] = b"".join((second, *rest))

    caught = refused(other, rewrite(path, forge), "TE901")
    digest_of = (caught.detail or "").split()[0].removeprefix("digest=")
    importing.import_file(other, rewrite(path, forge, digest=digest_of))
    assert other.execute("select * from violations").fetchall() == []


MANIFEST: list[tuple[tuple[str | int, ...], Any, str]] = [  # where, what stands there, what the refusal calls it
    (("members",), None, "members"),
    (("members",), {}, "members"),
    (("members", 0), None, "members[0]"),
    (("members", 0), {}, "members[0].name"),
    (("members", 0, "name"), 3, "members[0].name"),
    (("members", 0, "rows"), True, "members[0].rows"),
    (("members", 0, "rows"), "1", "members[0].rows"),
    (("members", 0, "bytes"), -1, "members[0].bytes"),
    (("members", 0, "bytes"), 1.5, "members[0].bytes"),
    (("members", 0, "sha256"), "", "members[0].sha256"),
    (("members", 0, "user_id"), 1, "members[0].user_id"),
    (("run",), None, "run"),
    (("run",), {}, "run.name"),
    (("run", "feed"), {"a": 1}, "run.feed"),
    (("run", "feed"), "", "run.feed"),
    (("run", "name"), None, "run.name"),
    (("run", "name"), "\0", "run.name"),
    (("run", "name"), "\ud800", "run.name"),
    (("run", "calendar"), ["NYSE"], "run.calendar"),
    (("run", "status"), "DONE", "run.status"),
    (("run", "last_logical_time"), 5, "run.last_logical_time"),
    (("run", "owner"), "me", "run.owner"),
    (("digest",), "", "digest"),
    (("format",), "zip", "format"),
    (("format_version",), None, "format_version"),
    (("format_version",), True, "format_version"),
    (("format_version",), 0, "format_version"),
    (("schema_version",), "1", "schema_version"),
    (("papertick",), 1, "papertick"),
    (("admin",), True, "admin"),
]


def test_a_manifest_is_all_that_it_must_be_or_refused(db: Conn, other: Conn, tmp_path: Path) -> None:
    path = tmp_path / "run.zip"
    exporting.export_capsule(db, *busy(db), path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    whole = members.pop("manifest.json")
    texts = [
        (b"[" * 200_000, "JSON"),
        (b"[]", "manifest"),
        (b"null", "manifest"),
        (b"{", "JSON"),
        (b"\xff\xff{", "JSON"),
    ]
    for where, wrong, called in MANIFEST:
        manifest: Any = json.loads(whole)
        inner = manifest
        for step in where[:-1]:
            inner = inner[step]
        inner[where[-1]] = wrong
        texts.append((json.dumps(manifest).encode(), called))
    for text, called in texts:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {**members, "manifest.json": text}.items():
                archive.writestr(name, data)
        caught = refused(other, path, "TE901")
        assert (caught.detail or "").startswith(f"{called} "), (text[:80], caught.detail)


def test_bomb_is_refused_before_it_is_unpacked(other: Conn, tmp_path: Path) -> None:
    """100 MB of zeros in 100 kB: the manifest that hides them is found out, the one that tells is too large or wrong."""
    path = tmp_path / "bomb.zip"
    bomb = b"0" * (100 << 20)
    manifest = {"format": "papertick-capsule", "format_version": 1, "digest": "", "run": {}}
    for size in (10, len(bomb)):
        entry = {"name": "run/cash_ledger.ndjson", "rows": 0, "bytes": size, "sha256": ""}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("run/cash_ledger.ndjson", bomb)
            archive.writestr("manifest.json", json.dumps(manifest | {"members": [entry]}))
        refused(other, path, "TE901")


SHARED = {
    "price_bar": "update price_bar set close = close + 0.5 where symbol = 'AAA' and logical_time = '2024-01-02 16:00Z'",
    "instrument": "update instrument set quantity_step = 1 where symbol = 'AAA'",
    "feed": "update feed set adjusted = true where feed = 'default'",
}


@pytest.mark.parametrize("table", SHARED)
def test_shared_rows_that_differ_are_refused_and_named(db: Conn, other: Conn, tmp_path: Path, table: str) -> None:
    run = busy(db)
    path = tmp_path / "run.zip"
    for symbol in ("AAA", "BBB"):
        make_bars(other, symbol, [100 + n + ord(symbol[0]) % 7 for n in range(12)])
    other.execute(SHARED[table])
    exporting.export_capsule(db, *run, path)
    caught = refused(other, path, "23505")
    assert table in str(caught)
    if table != "feed":
        assert "AAA" in (caught.detail or "")
    if table == "price_bar":
        row = importing.import_file(other, path, feed_name="apart")
        assert digest(other, Run(row["user_id"], row["run_id"])) == digest(db, run)
        assert value(other, "select count(*) from price_bar where feed = 'apart'") == 12


def test_same_bars_are_shared_and_missing_ones_only_added_when_asked(db: Conn, other: Conn, tmp_path: Path) -> None:
    run = busy(db)
    path = tmp_path / "run.zip"
    exporting.export_capsule(db, *run, path)
    for symbol in ("AAA", "BBB"):
        make_bars(other, symbol, [100 + n + ord(symbol[0]) % 7 for n in range(12)])
    other.execute("delete from price_bar where symbol = 'BBB' and logical_time = %s", [at(2)])
    assert "BBB" in (refused(other, path, "23505").detail or "")
    row = importing.import_file(other, path, add_missing=True)
    assert row["added"] == {"price_bar": 1}
    assert importing.import_file(other, path)["added"] == {}  # and once more, for another user


def test_times_that_the_feed_did_not_have_are_refused(db: Conn, other: Conn, tmp_path: Path) -> None:
    """The clock of the run would be another: its computed marks, and what explain_order sees."""
    run = busy(db)
    path = tmp_path / "run.zip"
    exporting.export_capsule(db, *run, path)
    for symbol in ("AAA", "BBB"):
        make_bars(other, symbol, [100 + n + ord(symbol[0]) % 7 for n in range(12)])
    make_bars(other, "DDD", [10], start=2)
    make_bars(other, "DDD", [10], start=30)  # after its last tick: no matter
    importing.import_file(other, path)
    other.execute("update price_bar set logical_time = logical_time - interval '1 hour' where symbol = 'DDD'")
    caught = refused(other, path, "23505")
    assert "DDD" in (caught.detail or "")
    other.execute("delete from price_bar where symbol = 'DDD'")
    importing.import_file(other, path)
    make_bars(other, "AAA", [50], start=-1)  # the run's first bar of AAA might not have been its session's first
    refused(other, path, "23505")


def test_sessions_must_be_those_the_run_saw(db: Conn, other: Conn, tmp_path: Path) -> None:
    for conn in (db, other):
        conn.execute("insert into calendar values ('X', 'America/New_York')")
        conn.execute(
            "insert into market_session select 'X', d::date, d + interval '9 hours', d + interval '17 hours'"
            " from generate_series(timestamptz '2024-01-01Z', '2024-01-10Z', '1 day') d"
        )
        conn.execute("insert into feed values ('x', 'X')")
        make_bars(conn, "AAA", [10, 11, 12, 13], feed="x")
    run = make_run(db, feed="x")
    place(db, run, "AAA", "BUY", 1)
    for n in range(3):
        tick(db, run, n)
    path = tmp_path / "run.zip"
    exporting.export_capsule(db, *run, path)
    other.execute("update market_session set close_at = close_at + interval '1 hour' where session_date = '2024-01-02'")
    refused(other, path, "23505")
    other.execute("update market_session set close_at = close_at - interval '1 hour' where session_date = '2024-01-02'")
    other.execute("delete from market_session where session_date = '2024-01-02'")
    refused(other, path, "23505")
    importing.import_file(other, path, add_missing=True)
    other.execute("delete from market_session where session_date = '2024-01-08'")  # what lies ahead is the server's own
    importing.import_file(other, path)
    assert value(other, "select count(*) from market_session") == 9


def test_user_with_a_running_run_takes_none(db: Conn, other: Conn, tmp_path: Path) -> None:
    run = busy(db)
    stop(db, run)
    path = tmp_path / "run.zip"
    exporting.export_capsule(db, *run, path)
    owner = make_run(other)
    refused(other, path, "23505", user=owner.user_id)
    refused(other, path, "23503", user=999)
    stop(other, owner)
    row = importing.import_file(other, path, user=owner.user_id, name="renamed")
    assert (row["user_id"], row["status"]) == (owner.user_id, "STOPPED")
    assert value(other, "select name from strategy_run where run_id = %s", [row["run_id"]]) == "renamed"
    place_again = make_run(other, user_id=owner.user_id)
    assert place_again.run_id > row["run_id"]


def test_failure_in_any_table_leaves_nothing(db: Conn, other: Conn, tmp_path: Path) -> None:
    run = busy(db)
    path = tmp_path / "run.zip"
    exporting.export_capsule(db, *run, path)
    other.execute(
        "create function public.drop_me() returns trigger language plpgsql as 'begin raise exception ''no''; end'"
    )
    for table in PER_RUN:
        if everything(db, run)[table]:
            other.execute(f"create trigger fails before insert on {table} execute function public.drop_me()")
            refused(other, path, "P0001")
            other.execute(f"drop trigger fails on {table}")
    other.execute("drop function public.drop_me()")
    importing.import_file(other, path)


def test_a_person_imports_into_the_own_account_and_adds_no_market_data(
    db: Conn, connect: Callable[..., psycopg.Connection], tmp_path: Path
) -> None:
    superuser_only(db, "it may not create roles")
    run = busy(db)
    path = tmp_path / "run.zip"
    exporting.export_capsule(db, *run, path)
    mine = make_user(db, "mine")
    role = f"{db.info.dbname}_mine"
    db.execute(f'create role "{role}" login in role papertick_user')
    try:
        db.execute("select map_login(%s, %s)", [role, mine])
        conn = connect()
        conn.execute(f'set session authorization "{role}"')
        row = importing.import_file(conn, path, user=mine)
        assert digest(db, Run(row["user_id"], row["run_id"])) == digest(db, run)
        db.execute("select stop_run(%s, %s)", [mine, row["run_id"]])
        for code, options in {
            "23503": {"user": run.user_id},
            "42501": {"user": mine, "feed_name": "apart"},
        }.items():
            with pytest.raises(errors.PapertickError) as caught:
                importing.import_file(conn, path, **options)
            assert caught.value.code == code
        with pytest.raises(errors.PapertickError):
            importing.import_file(conn, path)  # a new user takes an administrator
        with raises("TE204"), exporting.snapshot(conn):
            list(exporting.rows_of(conn, *run, "paper_order"))  # somebody else's
    finally:
        db.execute(f'drop owned by "{role}"; drop role "{role}"')


# --- for other programs ---


def cli(dsn: str, *args: object, code: int = 0) -> Any:
    env = {"DB_DSN": dsn, "PAPERTICK_HOME": "/nonexistent"}
    result = CliRunner().invoke(main, [str(arg) for arg in args], env=env)
    assert result.exit_code == code, (args, result.exit_code, result.output, result.exception)
    return result


def test_csv_and_parquet_hold_the_ledgers_to_the_last_digit(db: Conn, dsn: str, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    run = busy(db)
    db.execute("select set_risk_limit(%s, %s, 1000.5)", run)
    db.execute("select pause_sip(%s, %s, 1, '2024-03-01', '2024-03-05')", run)
    cli(dsn, "export", *run, "--format", "csv", "-o", tmp_path / "csv")
    cli(dsn, "export", f"{run.user_id}/{run.run_id}", "--format", "parquet", "-o", tmp_path / "parquet.zip")
    tables = {
        "orders": "paper_order", "trades": "paper_trade", "cash": "cash_ledger", "mtm": "mtm_ledger",
        "events": "event_ledger", "sips": "sip_plan", "limits": "risk_limit", "run": "strategy_run",
    }  # fmt: skip
    with zipfile.ZipFile(tmp_path / "parquet.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"{name}.parquet" for name in exporting.LEDGERS)
        for name, table in tables.items():
            columns = [c.name for c in db.execute(f"select * from {table} limit 0").description or ()]
            with db.transaction():
                db.execute("set local timezone = 'UTC'")
                rows = db.execute(
                    "select " + ", ".join(f"format('%%s', {c})" for c in columns) + f" from {table}", []
                ).fetchall()
            with (tmp_path / "csv" / f"{name}.csv").open(newline="") as file:
                head, *body = list(csv.reader(file))
            assert head == columns
            assert sorted(body) == sorted([text or "" for text in row] for row in rows)
            found = pq.read_table(io.BytesIO(archive.read(f"{name}.parquet")))
            assert found.column_names == columns
            assert found.num_rows == len(rows)
        trades = pq.read_table(io.BytesIO(archive.read("trades.parquet")))
        types = {field.name: str(field.type) for field in trades.schema}
        assert (types["price"], types["fees"], types["logical_time"]) == ("decimal128(20, 8)", "decimal128(20, 4)", "timestamp[us, tz=UTC]")  # fmt: skip
        stored = db.execute("select trade_id, price, logical_time from paper_trade order by trade_id").fetchall()
        listed = zip(*(trades[name].to_pylist() for name in ("trade_id", "price", "logical_time")), strict=True)
        assert list(listed) == stored
        equity = pq.read_table(io.BytesIO(archive.read("equity.parquet")))
        assert equity["equity"].to_pylist() == [
            e for (e,) in db.execute("select equity from equity_between(%s, %s)", run)
        ]
        sips = pq.read_table(io.BytesIO(archive.read("sips.parquet")))
        assert sips["pauses"].to_pylist() == ["{[2024-03-01,2024-03-06)}"]
        events = pq.read_table(io.BytesIO(archive.read("events.parquet")))
        assert all(isinstance(json.loads(text), dict) for text in events["payload"].to_pylist())
    assert list(tmp_path.glob(".papertick-*")) == []


def test_the_commands(db: Conn, dsn: str, other_dsn: str, tmp_path: Path) -> None:
    run = busy(db)
    file = tmp_path / "run.papertick.zip"
    out = json.loads(cli(dsn, "export", run.run_id, "-o", file, "--json").stdout)
    assert (out["digest"], out["rows"]["run/paper_trade.ndjson"]) == (
        digest(db, run),
        value(db, "select count(*) from paper_trade"),
    )
    row = json.loads(cli(other_dsn, "import", file, "--user", "asha", "--name", "hers", "--json").stdout)
    assert row["digest"] == digest(db, run)
    assert cli(other_dsn, "digest", row["user_id"], row["run_id"]).stdout.strip() == row["digest"]
    shown = json.loads(cli(other_dsn, "run", "show", row["user_id"], row["run_id"], "--json").stdout)
    assert shown["run"]["name"] == "hers"
    cli(other_dsn, "import", file, "--user", row["user_id"], code=1)
    cli(dsn, "export", 99, code=1)
    cli(dsn, "export", run.run_id, "--with-feed", "--format", "csv", code=2)
    cli(dsn, "export", run.run_id, "-o", tmp_path / "no" / "such" / "place.zip", code=2)
    cli(dsn, "export", run.run_id, "--format", "csv", "-o", tmp_path / "no" / "such" / "place", code=2)
    cli(dsn, "import", tmp_path / "nothing", code=2)


def test_a_long_run_comes_in_without_statistics(db: Conn, other: Conn, tmp_path: Path) -> None:
    """What has just come in is unknown to the planner: a join of its marks must not become a loop over all of them."""
    db.execute("insert into instrument (symbol) values ('AAA')")
    db.execute(
        "insert into price_bar select 'default', 'AAA', timestamptz '2024-01-01Z' + n * interval '1 minute', 100, 101, 99, 100, 5"
        " from generate_series(1, 20000) n"
    )
    run = make_run(db)
    place(db, run, "AAA", "BUY", 10)
    db.execute("call replay(%s, %s, '2024-01-01', '2025-01-01')", run)
    other.execute("set statement_timeout = '20s'")
    copy = send(db, run, other, tmp_path / "run.zip")
    assert digest(other, copy) == digest(db, run)
