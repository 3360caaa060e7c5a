"""The command line: every command, its JSON, its exit codes, and a demo that nothing can spoil."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg import sql

from engine_py import demo
from engine_py.cli import main
from engine_py.cli_base import Session
from engine_py.cli_order import OPEN_STATUSES, ORDER_STATUSES
from engine_py.db import Database
from engine_py.errors import ConnectionFailedError
from engine_py.feed import load_bundled

PROJECT = Path(__file__).resolve().parent.parent
UNREACHABLE = "host=127.0.0.1 port=1 dbname=nobody connect_timeout=2"
T1, T2, T3 = (f"2024-01-0{day}T21:00:00Z" for day in (2, 3, 4))
BARS = f"""symbol,logical_time,open,high,low,close,volume
AAA,{T1},100,110,90,105,1000
AAA,{T2},106,120,100,110,1000
AAA,{T3},111,115,108,112,1000
BBB,{T1},50,51,49,50,
BBB,{T2},50,51,49,50,
BBB,{T3},50,51,49,50,
"""
PER_RUN = (
    *("strategy_run", "engine_state", "engine_status", "paper_order", "paper_trade", "paper_position"),
    *("cash_ledger", "mtm_ledger", "paper_equity_curve", "event_ledger"),
    *("sip_plan", "rebalance_plan", "target_weight"),
)


class Cli:
    """Runs commands against one database."""

    def __init__(self, dsn: str) -> None:
        self.env = {"DB_DSN": dsn, "PAPERTICK_HOME": "/nonexistent"}

    def __call__(self, *args: object, code: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(main, [str(arg) for arg in args], env=self.env, input=stdin)
        assert result.exit_code == code, (args, result.exit_code, result.output, result.exception)
        assert code != 0 or result.stderr == "", result.stderr
        return result

    def json(self, *args: object, code: int = 0, stdin: str | None = None) -> Any:
        return json.loads(self(*args, "--json", code=code, stdin=stdin).stdout)

    def error(self, *args: object, code: int = 1) -> dict[str, Any]:
        """The error, which must be the same in words and in JSON; nothing on stdout."""
        words = self(*args, code=code)
        document = self("--json", *args, code=code)
        assert words.stdout == document.stdout == ""
        error = json.loads(document.stderr)["error"]
        assert list(error) == ["code", "message", "detail", "hint"]
        start = f"error {error['code']}: " if error["code"] else "error: "
        assert words.stderr.startswith(start)
        assert len(words.stderr.splitlines()) == 1
        assert all(part in words.stderr for part in (error["detail"], error["hint"]) if part)
        return dict(error)


@pytest.fixture
def cli(dsn: str) -> Cli:
    return Cli(dsn)


@pytest.fixture
def market(cli: Cli, tmp_path: Path) -> Path:
    """Three days of two symbols in feed `default`."""
    path = tmp_path / "bars.csv"
    path.write_text(BARS)
    cli("feed", "load", path)
    return path


@pytest.fixture
def run(cli: Cli, market: Path) -> tuple[int, int]:
    """A user with a RUNNING run of 10,000."""
    user = cli.json("user", "create", "Ann")["user_id"]
    return user, cli.json("run", "start", user, "--cash", "10000")["run_id"]


def contents(db: psycopg.Connection) -> dict[str, list[Any]]:
    """Every row of every run, as text."""
    return {
        table: [
            row[0] for row in db.execute(sql.SQL("select t::text from {} t order by 1").format(sql.Identifier(table)))
        ]
        for table in PER_RUN
    }


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))


# --- the whole of it


def test_commands_are_the_documented_ones() -> None:
    found = [" ".join(path) for path, command in leaves(main) if not isinstance(command, click.Group)]
    assert found == [
        "demo",
        "db init",
        "db upgrade",
        "db status",
        "db shell",
        "db stop",
        "db backup",
        "db restore",
        "user create",
        "user list",
        "user map",
        "user unmap",
        "feed load",
        "feed load-actions",
        "feed export",
        "feed follow",
        "feed list",
        "calendar load",
        "calendar list",
        "calendar show",
        "instrument set",
        "instrument list",
        "run start",
        "run stop",
        "run delete",
        "run list",
        "run show",
        "run fork",
        "run trades",
        "run events",
        "run cash",
        "run equity",
        "run archive",
        "order place",
        "order oco",
        "order replace",
        "order cancel",
        "order list",
        "order explain",
        "order preview",
        "sip create",
        "sip change",
        "sip pause",
        "sip resume",
        "sip end",
        "sip list",
        "rebalance create",
        "rebalance end",
        "rebalance list",
        "tick",
        "replay",
        "tick-all",
        "worker",
        "sweep list",
        "sweep show",
        "sweep delete",
        "leaderboard",
        "check",
        "digest",
        "report",
        "stats",
        "export",
        "import",
        "key create",
        "key list",
        "key revoke",
        "serve",
        "bench",
    ]


@pytest.mark.parametrize(
    ("path", "command"), list(leaves(main)), ids=lambda v: " ".join(v) if isinstance(v, tuple) else ""
)
def test_every_command_and_option_has_help(path: tuple[str, ...], command: click.Command) -> None:
    assert command.help
    assert command.get_short_help_str(limit=200).endswith(".")
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert [o.name for o in options if not o.help] == []
    if not isinstance(command, click.Group):
        assert {"--json", "--dsn"} <= {name for option in options for name in option.opts}
    shown = CliRunner().invoke(main, [*path, "--help"])
    assert shown.exit_code == 0
    assert max(map(len, shown.output.splitlines())) <= 80
    for argument in (p for p in command.params if isinstance(p, click.Argument)):
        assert (argument.name or "").upper() in shown.output


def test_module_runs_as_a_program(dsn: str) -> None:
    for module in ("engine_py", "engine_py.cli"):
        done = subprocess.run(
            [sys.executable, "-m", module, "run", "list", "--json"],
            cwd=PROJECT,
            env={**os.environ, "DB_DSN": dsn},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, [], "")


def test_dsn_and_json_may_stand_before_the_command(dsn: str) -> None:
    elsewhere = Cli(UNREACHABLE)
    assert json.loads(elsewhere("--json", "--dsn", dsn, "run", "list").stdout) == []
    assert json.loads(elsewhere("run", "list", "--dsn", dsn, "--json").stdout) == []


# --- exit codes


def test_exit_code_2_and_one_line_for_a_usage_error(cli: Cli) -> None:
    for args in (
        ["nonsense"],
        ["run"],
        ["run", "start"],
        ["run", "show", "x", "1"],
        ["tick", "1", "1", "--nope"],
    ):
        if args == ["run"]:
            assert "Commands:" in cli(*args, code=2).output
            continue
        error = cli.error(*args, code=2)
        assert error["code"] is None
        assert "--help" in error["hint"]


def test_exit_code_3_when_the_server_cannot_be_reached() -> None:
    for args in (["run", "list"], ["demo"], ["db", "init"], ["db", "status"]):
        error = Cli(UNREACHABLE).error(*args, code=3)
        assert "DB_DSN" in error["hint"]


def test_not_a_connection_string_is_a_usage_error() -> None:
    assert Cli("nonsense").error("run", "list", code=2)["message"].startswith("not a connection string")


def test_error_in_words(cli: Cli) -> None:
    said = cli("digest", 1, 9, code=1).stderr
    assert said == "error TE204: unknown run (user_id=1 run_id=9). Check user_id and run_id.\n"


def test_a_question_ends_its_sentence(cli: Cli) -> None:
    said = cli("rum", code=2).stderr
    assert said.startswith("error: No such command 'rum'. Did you mean 'run'? See ")


@pytest.mark.parametrize(
    "args",
    [
        *(["run", "show"], ["run", "stop"], ["order", "list"], ["sip", "list"], ["digest"], ["replay"]),
        ["order", "place", "AAA", "buy", "1"],
        ["order", "cancel", "1"],
        ["sip", "create", "AAA", "100", "monthly", "2024-01-01"],
        ["sip", "pause", "1"],
        ["sip", "resume", "1"],
        ["sip", "end", "1"],
        ["rebalance", "end", "1"],
        ["rebalance", "create", "monthly", "2024-01-01", "--weight", "AAA=1"],
        ["tick", T1],
    ],
    ids=" ".join,
)
def test_unknown_and_foreign_runs_are_te204(
    cli: Cli, db: psycopg.Connection, run: tuple[int, int], args: list[str]
) -> None:
    user, run_id = run
    other = cli.json("user", "create", "Bob")["user_id"]
    before = contents(db)
    words = 1 if args[0] in ("tick", "replay", "digest") else 2
    for key in ((user, run_id + 1), (other, run_id), (2**63 - 1, -(2**63))):
        given = [*args[:words], "--", *key, *args[words:]]
        if "--weight" in args:  # options before the ids, which may look like some
            given = [*args[:2], "--weight", "AAA=1", "--", *key, *args[2:4]]
        assert error_code(cli, *given) == "TE204"
    assert contents(db) == before


def error_code(cli: Cli, *args: object) -> str | None:
    result = cli("--json", *args, code=1)
    return json.loads(result.stderr)["error"]["code"]  # type: ignore[no-any-return]


def test_only_what_may_be_repeated_is_sent_again_after_a_lost_connection(dsn: str) -> None:
    sent: list[int] = []

    def lose_the_first(conn: psycopg.Connection) -> str:
        sent.append(conn.info.backend_pid)
        if len(sent) == 1:
            conn.execute("select pg_terminate_backend(pg_backend_pid())")
        return "done"

    with Database(dsn) as database:
        with pytest.raises(ConnectionFailedError):
            Session(database).run(lose_the_first, repeatable=False)
        assert len(sent) == 1
        sent.clear()
        assert Session(database).run(lose_the_first) == "done"
        assert len(set(sent)) == 2


# --- runs


def test_rl_08_start_run_via_cli_is_running(cli: Cli, db: psycopg.Connection, market: Path) -> None:
    user = cli.json("user", "create", "Ann")["user_id"]
    row = cli.json("run", "start", user, "--cash", "1000000.07", "--name", "first", "--currency", "EUR")
    assert row["status"] == "RUNNING"
    assert (row["initial_cash"], row["name"], row["currency"], row["feed"]) == (
        "1000000.0700",
        "first",
        "EUR",
        "default",
    )
    key = [user, row["run_id"]]
    assert db.execute("select status from strategy_run where user_id = %s and run_id = %s", key).fetchall() == [
        ("RUNNING",)
    ]
    logged = db.execute("select status, reason from engine_status where user_id = %s and run_id = %s", key).fetchall()
    assert logged == [("RUNNING", None)]
    # the user's second is refused, and leaves nothing
    before = contents(db)
    assert cli.error("run", "start", user, "--cash", "1")["code"] == "23505"
    assert cli.error("run", "start", user + 1, "--cash", "1")["code"] == "23503"
    assert cli.error("run", "start", user, "--cash", "1", "--feed", "nowhere")["code"] == "TE201"
    assert contents(db) == before


def test_a_margin_account_via_cli(cli: Cli, market: Path) -> None:
    user = cli.json("user", "create", "Ann")["user_id"]
    start = ("run", "start", user, "--cash", "1000", "--initial-margin", "0.5")
    assert cli.error(*start)["code"] == "TE101"
    row = cli.json(*start, "--maintenance-margin", "0.25", "--borrow-rate", "0.03", "--margin-rate", "0.08")
    assert {name: float(row[name]) for name in row if name.endswith(("_margin", "_rate"))} == {
        "initial_margin": 0.5,
        "maintenance_margin": 0.25,
        "borrow_rate": 0.03,
        "margin_rate": 0.08,
    }


def test_rl_09_stop_run_via_cli_blocks_new_writes(cli: Cli, db: psycopg.Connection, run: tuple[int, int]) -> None:
    cli("tick", *run, T1)
    cli("sip", "create", *run, "AAA", "100", "monthly", "2024-01-03")
    cli(
        "order",
        "place",
        *run,
        "AAA",
        "buy",
        "1",
        "--type",
        "limit",
        "--limit",
        "1",
        "--client-order-id",
        "mine",
    )
    row = cli.json("run", "stop", *run, "--reason", "enough")
    assert (row["status"], row["status_reason"]) == ("STOPPED", "enough")
    logged = db.execute("select status, reason from engine_status order by status_id").fetchall()
    assert logged == [("RUNNING", None), ("STOPPED", "enough")]
    assert [order["status"] for order in cli.json("order", "list", *run)] == ["CANCELED"]

    stopped = contents(db)
    for args in (
        ["order", "place", *run, "AAA", "buy", "1"],
        ["order", "cancel", *run, "1"],
        ["sip", "create", *run, "AAA", "100", "monthly", "2024-01-01"],
        ["sip", "pause", *run, "1"],
        ["rebalance", "create", *run, "monthly", "2024-01-01", "--weight", "AAA=1"],
        ["tick", *run, T2],
        ["replay", *run],
    ):
        assert cli.error(*args)["code"] == "TE001", args
    cli("run", "stop", *run)  # again: nothing happens
    cli("tick", *run, T1)  # has happened
    cli("tick-all", T2)
    assert contents(db) == stopped


def test_run_list_and_show(cli: Cli, run: tuple[int, int]) -> None:
    user, run_id = run
    cli("order", "place", *run, "AAA", "buy", "10")
    assert cli.json("run", "show", *run)["equity"] is None
    mark = cli.json("tick", *run, T1)
    assert (mark["equity"], mark["logical_time"]) == ("10050.0000", T1)
    assert cli.json("tick", *run, "2024-01-02T16:00:00-05:00") == mark  # the same time, once
    shown = cli.json("run", "show", *run)
    assert list(shown) == ["run", "state", "positions", "equity", "performance", "performance_reasons"]
    assert (shown["run"]["status"], shown["state"]["last_logical_time"], shown["equity"]) == (
        "RUNNING",
        T1,
        mark,
    )
    assert [(p["symbol"], p["quantity"]) for p in shown["positions"]] == [("AAA", "10.00000000")]
    assert (shown["performance"]["equity"], shown["performance"]["xirr"]) == ("10050", None)
    assert shown["performance_reasons"]["sharpe"] == "TOO_FEW_PERIODS"
    (listed,) = cli.json("run", "list")
    assert (listed["user_id"], listed["run_id"], listed["last_logical_time"]) == (user, run_id, T1)
    assert cli.json("run", "list", "--user", user + 1) == []
    words = cli("run", "show", *run).stdout
    assert "AAA" in words
    assert "TOO_FEW_PERIODS" in words
    assert "10050" in words
    assert "RUNNING" in cli("run", "list").stdout
    assert cli("tick", *run, T1).stdout == f"{T1}: equity 10050, cash 9000, market_value 1050\n"


def test_run_show_says_the_terms_once(cli: Cli, market: Path) -> None:
    user = cli.json("user", "create", "Ann")["user_id"]
    margin = ("--initial-margin", "0.5", "--maintenance-margin", "0.25", "--borrow-rate", "0.03")
    terms = ("--fees", "US_PER_SHARE", "--mark-policy", "session", "--slippage-bps", "5", *margin)
    run = (user, cli.json("run", "start", user, "--cash", "10000", *terms)["run_id"])
    cli("order", "place", *run, "AAA", "buy", "10")
    cli("tick", *run, T1)
    lines = [line.split() for line in cli("run", "show", *run).stdout.splitlines()]
    names = [line[0] for line in lines if line]
    assert [names.count(name) for name in ("cash", "equity")] == [1, 1]
    shown = {line[0]: line[1] for line in lines if len(line) == 2}
    expected = {"mark_policy": "SESSION", "fee_schedule": "US_PER_SHARE", "slippage_bps": "5", "initial_margin": "0.5"}
    expected |= {"maintenance_margin": "0.25", "borrow_rate": "0.03"}
    assert {name: shown[name] for name in expected} == expected
    assert {"margin_rate", "participation", "max_price_age", "forked_at"}.isdisjoint(names)
    assert "fees" in shown


def test_user_list(cli: Cli, run: tuple[int, int]) -> None:
    cli("run", "stop", *run)
    second = cli.json("run", "start", run[0], "--cash", "1")["run_id"]
    bob = cli.json("user", "create", "Bob")["user_id"]
    assert cli.json("user", "list") == [
        {"user_id": run[0], "name": "Ann", "runs": 2, "running_run_id": second},
        {"user_id": bob, "name": "Bob", "runs": 0, "running_run_id": None},
    ]
    assert "Bob" in cli("user", "list").stdout


def test_ledgers_of_a_run(cli: Cli, run: tuple[int, int]) -> None:
    cli("sip", "create", *run, "BBB", "100", "daily", "2024-01-02")
    cli("order", "place", *run, "AAA", "buy", "10")
    cli("replay", *run)
    trades = cli.json("run", "trades", *run)
    assert [(t["trade_id"], t["symbol"], t["price"]) for t in trades[:2]] == [
        (1, "AAA", "100.00000000"),
        (2, "BBB", "50.00000000"),
    ]
    assert [t["trade_id"] for t in trades] == [1, 2, 3, 4]
    cash = cli.json("run", "cash", *run)
    assert [(c["cause"], c["balance"]) for c in cash][:3] == [
        ("OPENING", "10000.0000"),
        ("TRADE", "9000.0000"),
        ("TRADE", "8900.0000"),
    ]
    events = cli.json("run", "events", *run)
    assert [(e["event_type"], e["event_key"]) for e in events] == [("SIP_EXECUTED", f"1:{k}") for k in range(3)]
    assert [e["logical_time"] for e in cli.json("run", "equity", *run)] == [T1, T2, T3]
    for name, rows in (("trades", 4), ("cash", 5), ("events", 3), ("equity", 3)):
        whole = cli.json("run", name, *run)
        assert len(whole) == rows
        key = "entry_id" if name == "cash" else "logical_time"
        assert cli.json("run", name, *run, "--limit", "2") == whole[-2:]
        late = [row for row in whole if (row["logical_time"] or "") >= T2]
        assert cli.json("run", name, *run, "--from", T2) == cli.json("run", name, *run, "--from", "2024-01-03") == late
        upto = [row for row in whole if (row["logical_time"] or "") <= T2]
        assert cli.json("run", name, *run, "--to", T2) == cli.json("run", name, *run, "--to", "2024-01-03") == upto
        assert key in cli("run", name, *run).stdout
        assert cli.error("run", name, run[0], 99)["code"] == "TE204"
        assert cli.error("run", name, *run, "--limit", "0", code=2)["code"] is None
    assert "amount=100" in cli("run", "events", *run).stdout


# --- orders


def test_orders(cli: Cli, run: tuple[int, int]) -> None:
    place = ("order", "place", *run, "AAA")
    mine = cli.json(*place, "buy", "2.5", "--client-order-id", "k")
    assert (mine["order_id"], mine["status"], mine["quantity"], mine["side"]) == (
        1,
        "PENDING",
        "2.50000000",
        "BUY",
    )
    assert cli.json(*place, "BUY", "2.5", "--client-order-id", "k") == mine
    assert cli.error(*place, "buy", "3", "--client-order-id", "k")["code"] == "TE102"
    limit = cli.json(*place, "buy", "1", "--type", "limit", "--limit", "0.10", "--tif", "day")
    assert (limit["limit_price"], limit["time_in_force"]) == ("0.10000000", "DAY")
    rejected = cli(*place, "sell", "1").stdout
    assert rejected == "order 3 (SELL 1 AAA) is REJECTED: POSITION_INSUFFICIENT\n"
    assert cli.json("order", "cancel", *run, 2)["status"] == "CANCELED"
    assert cli.json("order", "cancel", *run, 2)["status"] == "CANCELED"
    assert cli.error("order", "cancel", *run, 9)["code"] == "TE101"
    assert [order["order_id"] for order in cli.json("order", "list", *run)] == [1, 2, 3]
    assert [order["order_id"] for order in cli.json("order", "list", *run, "--status", "pending")] == [1]
    assert len(cli("order", "list", *run).stdout.splitlines()) == 2 + 3
    cli("tick", *run, T1)
    (filled,) = cli.json("order", "list", *run, "--status", "FILLED")
    assert (filled["avg_fill_price"], filled["closed_time"]) == ("100.00000000", T1)


def test_order_statuses_are_the_databases(cli: Cli, db: psycopg.Connection, run: tuple[int, int]) -> None:
    rows = db.execute("select pg_get_constraintdef(oid) from pg_constraint where conname = 'order_status_is_known'")
    assert set(re.findall("'([A-Z_]+)'", rows.fetchone()[0])) == set(ORDER_STATUSES)  # type: ignore[index]
    rows = db.execute("select pg_get_indexdef('paper_order_open'::regclass)")
    assert set(re.findall("'([A-Z_]+)'", rows.fetchone()[0])) == set(OPEN_STATUSES)  # type: ignore[index]
    for status in ORDER_STATUSES:
        assert status.lower() in " ".join(cli("order", "list", "--help").stdout.split())
    assert "'banana'" in cli.error("order", "list", *run, "--status", "banana", code=2)["message"]
    limit = ("--type", "limit", "--limit", "1")
    cli("order", "place", *run, "AAA", "buy", "1", *limit)
    cli("order", "place", *run, "AAA", "sell", "1")
    cli("order", "place", *run, "AAA", "buy", "1", *limit)
    cli("order", "cancel", *run, 3)
    for status, ids in (("open", [1]), ("OPEN", [1]), ("Rejected", [2]), ("canceled", [3]), ("filled", [])):
        assert [order["order_id"] for order in cli.json("order", "list", *run, "--status", status)] == ids


def test_order_list_shows_what_there_is(cli: Cli, run: tuple[int, int]) -> None:
    def columns() -> set[str]:
        return set(cli("order", "list", *run).stdout.splitlines()[0].split())

    cli("order", "place", *run, "AAA", "buy", "10", "--tif", "day")
    assert {"logical_time", "source", "time_in_force"} <= columns()
    assert columns().isdisjoint({"trail_amount", "oco_id", "parent_order_id", "good_till"})
    cli("tick", *run, T1)
    cli("order", "oco", *run, "AAA", "sell", "1", "--limit", "200", "--stop", "50")
    cli("order", "place", *run, "AAA", "sell", "1", "--type", "trailing_stop", "--trail", "5")
    assert {"trail_amount", "oco_id"} <= columns()
    assert columns().isdisjoint({"trail_percent", "parent_order_id", "good_till"})


def test_fail_on_reject_is_exit_code_1(cli: Cli, run: tuple[int, int]) -> None:
    place = ("order", "place", *run, "AAA")
    assert cli.json(*place, "sell", "1", "--fail-on-reject", code=1)["status"] == "REJECTED"
    assert "REJECTED" in cli(*place, "sell", "1", "--fail-on-reject", code=1).stdout
    row = cli.json(*place, "buy", "1", "--fail-on-reject", "--type", "limit", "--limit", "1")
    assert row["status"] == "PENDING"
    oco = ("order", "oco", *run, "AAA", "sell", "1", "--limit", "200", "--stop", "50")
    assert len(cli.json(*oco, "--fail-on-reject", code=1)) == 2
    cli.json(*oco)
    replaced = cli.json("order", "replace", *run, row["order_id"], "--limit", "1e9", "--fail-on-reject", code=1)
    assert replaced["reject_reason"] == "CASH_INSUFFICIENT"


def test_preview_takes_the_terms_of_place(cli: Cli, run: tuple[int, int]) -> None:
    def options(name: str) -> set[str]:
        command = main.commands["order"].commands[name]  # type: ignore[attr-defined]
        return {option for param in command.params for option in param.opts}

    assert options("place") - options("preview") == {"--client-order-id", "--fail-on-reject"}
    assert options("preview") <= options("place")
    exits = ("--take-profit", "120", "--stop-loss", "90", "--stop-loss-limit", "89")
    assert cli.json("order", "preview", *run, "AAA", "buy", "1", *exits)["status"] == "PENDING"
    assert cli.error("order", "preview", *run, "AAA", "buy", "1", *exits[:4], "--take-profit", "80")["code"] == "TE101"


def test_order_explain(cli: Cli, run: tuple[int, int]) -> None:
    cli("order", "place", *run, "AAA", "buy", "1", "--type", "limit", "--limit", "95")
    cli("tick", *run, T1)
    cli("order", "place", *run, "AAA", "buy", "1", "--type", "limit", "--limit", "95.5")
    cli("tick", *run, T2)
    assert [row["code"] for row in cli.json("order", "explain", *run, 1)] == ["ACCEPTED", "FILLED"]
    waited = cli.json("order", "explain", *run, 2)[1]
    assert (waited["logical_time"], waited["code"]) == (T2, "WAITING_PRICE")
    assert (waited["detail"]["nearest_price"], waited["detail"]["distance"]) == (100, "4.5")
    words = cli("order", "explain", *run, 2).stdout
    assert "WAITING_PRICE" in words
    assert "distance=4.5" in words
    assert cli.error("order", "explain", *run, 3)["code"] == "TE101"


def test_order_preview(cli: Cli, db: psycopg.Connection, run: tuple[int, int]) -> None:
    cli("tick", *run, T1)
    before = contents(db)
    preview = ("order", "preview", *run, "AAA")
    found = cli.json(*preview, "buy", "2.5")
    assert (found["status"], found["estimated_value"], found["cash_after"]) == ("PENDING", "262.50", "9737.5000")
    assert cli.json(*preview, "sell", "1")["reject_reason"] == "POSITION_INSUFFICIENT"
    trailing = ("--type", "trailing_stop", "--trail", "5", "--tif", "gtd", "--good-till", T3)
    assert float(cli.json(*preview, "buy", "1", *trailing)["stop_price"]) == 110
    assert (
        float(
            cli.json(*preview, "buy", "1", "--type", "stop_limit", "--stop", "120", "--limit", "121")["reserve_price"]
        )
        == 121
    )
    assert "PENDING" in cli(*preview, "buy", "1").stdout
    assert cli.error(*preview, "hold", "1")["code"] == "TE101"
    assert contents(db) == before


def test_run_fork(cli: Cli, run: tuple[int, int]) -> None:
    cli("order", "place", *run, "AAA", "buy", "10")
    for at in (T1, T2):
        cli("tick", *run, at)
    bob, cleo = (cli.json("user", "create", name)["user_id"] for name in ("Bob", "Cleo"))
    forked = cli.json("run", "fork", *run, bob, "--at", T1, "--name", "what if")
    assert (forked["user_id"], forked["name"], forked["status"], forked["forked_at"]) == (bob, "what if", "RUNNING", T1)
    cli("tick", bob, forked["run_id"], T2)
    assert cli("digest", bob, forked["run_id"]).stdout == cli("digest", *run).stdout
    words = cli("run", "fork", *run, cleo).stdout
    assert words.endswith(f"of user {cleo} is RUNNING, forked at {T2}\n")
    assert cli.error("run", "fork", *run, cleo)["code"] == "23505"
    assert cli.error("run", "fork", *run, cleo, "--at", T3)["code"] == "TE101"


@pytest.mark.parametrize(
    "quantity", ["NaN", "Infinity", "-Infinity", "1e130", "-1e130", "1e12", "abc", "", "0x", "1e99999"]
)
def test_order_of_no_quantity_is_refused(cli: Cli, db: psycopg.Connection, run: tuple[int, int], quantity: str) -> None:
    before = contents(db)
    code = cli.error("order", "place", *run, "AAA", "buy", "--", quantity)["code"]
    assert code in ("TE101", "22P02", "22003")
    code = cli.error("order", "place", *run, "AAA", "buy", "1", "--type", "limit", f"--limit={quantity}")["code"]
    assert code in ("TE101", "22P02", "22003")
    assert contents(db) == before


@pytest.mark.parametrize(
    ("symbol", "quantity", "reason"),
    [
        ("AAA", "0", "QUANTITY_NOT_POSITIVE"),
        ("AAA", "-5", "QUANTITY_NOT_POSITIVE"),
        ("AAA", "1e-30", "QUANTITY_NOT_POSITIVE"),
        ("AAA", "0.0000015", "QUANTITY_OFF_STEP"),
        ("", "1", "SYMBOL_UNKNOWN"),
        ("ÄÖÜ 株", "1", "SYMBOL_UNKNOWN"),
        ("'; drop table price_bar; --", "1", "SYMBOL_UNKNOWN"),
    ],
)
def test_order_that_cannot_be_accepted_is_stored(
    cli: Cli, db: psycopg.Connection, run: tuple[int, int], symbol: str, quantity: str, reason: str
) -> None:
    row = cli.json("order", "place", *run, symbol, "buy", quantity)
    assert (row["status"], row["reject_reason"], row["symbol"]) == ("REJECTED", reason, symbol)
    assert db.execute("select count(*) from paper_trade").fetchone() == (0,)


@pytest.mark.parametrize(
    "args",
    [
        ["--type", "limit"],
        ["--limit", "1"],
        ["--type", "stop"],
        ["--tif", "forever"],
        ["--client-order-id", ""],
    ],
    ids=" ".join,
)
def test_order_of_bad_terms_is_te101(cli: Cli, db: psycopg.Connection, run: tuple[int, int], args: list[str]) -> None:
    before = contents(db)
    assert cli.error("order", "place", *run, "AAA", "buy", "1", *args)["code"] == "TE101"
    assert cli.error("order", "place", *run, "AAA", "hold", "1")["code"] == "TE101"
    assert contents(db) == before


def test_refusals_say_what_is_missing_and_what_there_is(cli: Cli, run: tuple[int, int]) -> None:
    place = ("order", "place", *run, "AAA", "buy", "1")
    for term, kind in (("limit_price", "limit"), ("stop_price", "stop"), ("stop_price", "stop_limit")):
        given = ("--limit", "1") if kind == "stop_limit" else ()
        assert cli.error(*place, "--type", kind, *given)["detail"] == f"argument={term} must_be=given"
    assert cli.error(*place, "--tif", "gtd")["detail"] == "argument=good_till must_be=given"
    assert cli.error(*place, "--limit", "1")["detail"].endswith("must_be=given_for_LIMIT_and_STOP_LIMIT_only")
    user = cli.json("user", "create", "Bob")["user_id"]
    start = ("run", "start", user, "--cash", "1")
    error = cli.error(*start, "--fees", "FOO")
    assert error["detail"] == ("argument=fee_schedule value=FOO must_be=IN_DELIVERY|IN_INTRADAY|US_PER_SHARE|ZERO")
    assert "detail" not in error["hint"]  # which stands on the same line
    error = cli.error(*start, "--currency", "inr")
    assert error["detail"] == "argument=currency value=inr must_be=three_to_five_capitals"


def test_argument_that_is_not_text_is_a_usage_error(cli: Cli, db: psycopg.Connection) -> None:
    assert "UTF-8" in cli.error("user", "create", "\udcff", code=2)["message"]
    assert db.execute("select count(*) from app_user").fetchone() == (0,)


def test_terminal_is_not_driven_by_names(cli: Cli) -> None:
    user = cli.json("user", "create", "x")["user_id"]
    cli("run", "start", user, "--cash", "1", "--name", "a\x1b[2Jb\nc")
    assert "a?[2Jb?c" in cli("run", "list").stdout
    assert cli.json("run", "list")[0]["name"] == "a\x1b[2Jb\nc"


# --- plans


def test_sips(cli: Cli, run: tuple[int, int]) -> None:
    options = [
        "--roll",
        "previous",
        "--catch-up",
        "each",
        "--end",
        "2025-01-01",
        "--instalments",
        "5",
        "--whole-units",
    ]
    row = cli.json(
        *("sip", "create", *run, "AAA", "500.50", "weekly", "2024-01-02"),
        *(*options, "--step-up-percent", "10", "--step-up-every", "2"),
    )
    expected = {"sip_id": 1, "amount": "500.5000", "frequency": "WEEKLY", "start_date": "2024-01-02"}
    expected |= {"roll": "PREVIOUS", "catch_up": "EACH", "end_date": "2025-01-01", "instalments": 5}
    expected |= {"whole_units": True, "step_up_percent": "10.0000", "step_up_every": 2, "paused": False}
    assert {name: row[name] for name in expected} == expected
    plain = cli.json(
        "sip",
        "create",
        *run,
        "BBB",
        "100",
        "daily",
        "2024-01-01",
        "--step-up-amount",
        "1",
        "--step-up-every",
        1,
    )
    assert (plain["sip_id"], plain["roll"], plain["catch_up"], plain["whole_units"]) == (
        2,
        "NEXT",
        "ONCE",
        False,
    )
    assert cli.json("sip", "pause", *run, 2)["paused"] is True
    assert [sip["paused"] for sip in cli.json("sip", "list", *run)] == [False, True]
    assert cli.json("sip", "resume", *run, 2)["paused"] is False
    assert cli.json("sip", "end", *run, 2)["state"] == "OVER"
    assert cli.error("sip", "pause", *run, 3)["code"] == "TE101"
    assert "WEEKLY" in cli("sip", "list", *run).stdout


def test_sip_list_says_when_it_buys_next(cli: Cli, run: tuple[int, int]) -> None:
    cli("sip", "create", *run, "AAA", "100", "weekly", "2024-01-02", "--end", "2024-01-05")
    cli("sip", "create", *run, "AAA", "100", "monthly", "2024-01-03", "--instalments", "2")
    cli("sip", "pause", *run, 2, "--from", "2024-01-03", "--to", "2024-01-04")
    cli("tick", *run, T1)
    first, second = cli.json("sip", "list", *run)
    assert (first["due_date"], first["state"], first["next_slot"]) == (None, "OVER", 1)
    assert (second["due_date"], second["state"], second["next_amount"]) == ("2024-01-03", "PAUSED", "100.00")
    words = cli("sip", "list", *run).stdout.splitlines()
    assert {"due_date", "state", "end_date", "instalments", "pauses"} <= set(words[0].split())
    assert "2024-01-03 to 2024-01-04" in words[3]


def test_rebalance_list(cli: Cli, run: tuple[int, int]) -> None:
    weights = ("--weight", "BBB=.3", "--weight", "AAA=0.6")
    made = cli.json("rebalance", "create", *run, "monthly", "2024-01-02", *weights, "--band", "0.1")
    assert cli.json("rebalance", "list", *run) == [made]
    assert made["due_date"] == "2024-01-02"
    cli("tick", *run, T1)
    (row,) = cli.json("rebalance", "list", *run)
    assert (row["next_slot"], row["due_date"], row["state"]) == (1, "2024-02-02", "SCHEDULED")
    words = cli("rebalance", "list", *run).stdout
    assert "AAA=0.6 BBB=0.3" in words
    assert "band" in words
    ended = cli.json("rebalance", "end", *run, 1)
    assert (ended["instalments"], ended["due_date"], ended["state"]) == (1, None, "OVER")


def test_sip_change_and_pauses_by_date(cli: Cli, run: tuple[int, int]) -> None:
    cli("sip", "create", *run, "AAA", "100", "daily", "2024-01-02", "--auto-pause-after", "3")
    assert cli.json("sip", "change", *run, 1, "50.5")["amount"] == "50.5000"
    assert cli.error("sip", "change", *run, 1, "-5")["code"] == "TE101"
    days = ["--from", "2024-01-03", "--to", "2024-01-05"]
    row = cli.json("sip", "pause", *run, 1, *days)
    assert (row["paused"], row["pauses"]) == (False, [{"from": "2024-01-03", "to": "2024-01-05"}])
    cli("sip", "pause", *run, 1, "--from", "2024-02-01")
    row = cli.json("sip", "resume", *run, 1, "--to", "2024-01-03")
    assert row["pauses"] == [{"from": "2024-01-04", "to": "2024-01-05"}, {"from": "2024-02-01", "to": None}]
    assert "sip 1 is paused from 2024-01-03 to 2024-01-05" in cli("sip", "pause", *run, 1, *days).stdout
    assert cli.json("sip", "list", *run)[0]["auto_pause_after"] == 3
    assert cli.error("sip", "pause", *run, 1, "--from", "2024-01-03", "--to", "2024-01-02")["code"] == "TE101"
    assert cli.error("sip", "pause", *run, 1, "--from", "today", code=2)["code"] is None


def test_sip_of_a_basket_and_towards_a_rebalance_plan(cli: Cli, run: tuple[int, int]) -> None:
    cli("rebalance", "create", *run, "quarterly", "2030-01-01", "--weight", "BBB=1")
    terms = ["-", "100", "monthly", "2024-01-02"]
    shares = ["--share", "AAA=0.60000000000000000001", "--share", "BBB=.39999999999999999999"]
    numbers = {"AAA": "0.60000000000000000001", "BBB": "0.39999999999999999999"}
    row = cli.json("sip", "create", *run, *terms, *shares)
    assert (row["symbol"], row["basket"], row["rebalance_plan_id"]) == (None, numbers, None)
    row = cli.json("sip", "create", *run, *terms, "--rebalance-plan", "1")
    assert (row["symbol"], row["basket"], row["rebalance_plan_id"]) == (None, None, 1)
    assert [line.split()[1] for line in cli("sip", "list", *run).stdout.splitlines()[2:]] == ["basket", "plan-1"]
    cli("tick", *run, T1)
    assert [order["symbol"] for order in cli.json("order", "list", *run)] == ["AAA", "BBB", "BBB"]


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["ZZZ", "100", "monthly", "2024-01-01"], "TE201"),
        (["AAA", "NaN", "monthly", "2024-01-01"], "TE101"),
        (["AAA", "-1", "monthly", "2024-01-01"], "TE101"),
        (["AAA", "1e-30", "monthly", "2024-01-01"], "TE101"),
        (["AAA", "1e130", "monthly", "2024-01-01"], "TE101"),
        (["AAA", "100", "hourly", "2024-01-01"], "TE101"),
        (["AAA", "100", "monthly", "2024-02-30"], "22008"),
        (["AAA", "100", "monthly", "2024-01-01", "--roll", "up"], "TE101"),
        (["AAA", "100", "monthly", "2024-01-01", "--instalments", "0"], "TE101"),
        (["AAA", "100", "monthly", "2024-01-01", "--instalments", "1.5"], "22P02"),
        (["AAA", "100", "monthly", "2024-01-01", "--step-up-percent", "5"], "TE101"),
        (["AAA", "100", "monthly", "today"], None),
        (["AAA", "100", "monthly", "infinity"], None),
        (["AAA", "100", "monthly", "2024-01-01", "--end", "01/02/2024"], None),
        (["-", "100", "monthly", "2024-01-01"], "TE201"),
        (["-", "100", "monthly", "2024-01-01", "--share", "AAA=0.5"], "TE101"),
        (["AAA", "100", "monthly", "2024-01-01", "--share", "AAA=1"], "TE101"),
        (["-", "100", "monthly", "2024-01-01", "--share", "ZZZ=1"], "TE201"),
        (["-", "100", "monthly", "2024-01-01", "--share", "AAA"], None),
        (["-", "100", "monthly", "2024-01-01", "--rebalance-plan", "9"], "TE101"),
        (["AAA", "100", "monthly", "2024-01-01", "--auto-pause-after", "0"], "TE101"),
    ],
)
def test_bad_sip_leaves_nothing(
    cli: Cli, db: psycopg.Connection, run: tuple[int, int], args: list[str], code: str | None
) -> None:
    before = contents(db)
    assert cli.error("sip", "create", *run, *args, code=1 if code else 2)["code"] == code
    assert contents(db) == before


def test_rebalance(cli: Cli, run: tuple[int, int]) -> None:
    weights = ["--weight", "AAA=0.60000000000000000001", "--weight", "BBB=.3"]
    row = cli.json("rebalance", "create", *run, "quarterly", "2024-01-02", *weights, "--band", "0.05")
    assert (row["plan_id"], row["frequency"]) == (1, "QUARTERLY")
    assert row["weights"] == {
        "AAA": "0.60000000000000000001",
        "BBB": "0.30000000000000000000",
    }  # no float on the way
    cli("tick", *run, T1)
    assert {order["source"] for order in cli.json("order", "list", *run)} == {"REBALANCE"}
    options = ["--band-relative", "0.25", "--to-band-edge", "--min-order-value", "10", "--whole-units"]
    row = cli.json("rebalance", "create", *run, "daily", "2024-01-02", "--weight", "AAA=1", *options)
    assert (row["band"], row["band_relative"], row["min_order_value"]) == (None, "0.25000000000000000000", "10.0000")
    assert row["to_band_edge"] is True
    assert row["whole_units"] is True
    error = cli.error("rebalance", "create", *run, "daily", "2024-01-02", "--weight", "AAA=1", "--to-band-edge")
    assert error["code"] == "TE101"


@pytest.mark.parametrize(
    ("weights", "code"),
    [
        (["AAA=0.7", "BBB=0.4"], "TE101"),
        (["AAA=-0.1"], "TE101"),
        (["AAA=1e130"], "TE101"),
        (["ZZZ=0.1"], "TE201"),
        (["=0.1"], None),
        (["AAA=NaN"], "22P02"),
        (["AAA=Infinity"], "22P02"),
        (["AAA"], None),
        (["AAA="], None),
        (["AAA=x"], None),
        (['AAA=0.1, "BBB": 0.2'], None),
        (["AAA=0.1", "AAA=0.2"], None),
        ([], None),
    ],
)
def test_bad_weights_leave_nothing(
    cli: Cli, db: psycopg.Connection, run: tuple[int, int], weights: list[str], code: str | None
) -> None:
    before = contents(db)
    options = [word for weight in weights for word in ("--weight", weight)]
    error = cli.error("rebalance", "create", *run, "monthly", "2024-01-01", *options, code=1 if code else 2)
    assert error["code"] == code
    assert contents(db) == before


# --- time


@pytest.mark.parametrize(
    "bad",
    [
        *(
            "2024-01-02T16:00:00",
            "2024-01-02 16:00:00",
            "2024-1-2",
            "infinity",
            "-infinity",
            "now",
            "today",
            "",
        ),
        *(
            "2024-01-02T16:00:00-05",
            "2024-01-02T16:00:00 America/New_York",
            "2024-01-02T16:00:00.0000001Z",
            "1704229200",
        ),
    ],
)
def test_time_without_offset_is_a_usage_error(cli: Cli, db: psycopg.Connection, run: tuple[int, int], bad: str) -> None:
    before = contents(db)
    for args in (
        ["tick", *run, "--", bad],
        ["tick-all", "--", bad],
        ["replay", *run, f"--from={bad}"],
        ["replay", *run, f"--to={bad}"],
    ):
        assert "offset" in cli.error(*args, code=2)["message"]
    assert contents(db) == before


@pytest.mark.parametrize(
    ("time", "code"),
    [("1899-12-31T00:00:00Z", "TE101"), ("2300-01-01T00:00:00Z", "TE101"), ("2024-02-30T00:00:00Z", "22008")],
)
def test_time_that_is_none_is_refused(
    cli: Cli, db: psycopg.Connection, run: tuple[int, int], time: str, code: str
) -> None:
    before = contents(db)
    assert cli.error("tick", *run, time)["code"] == code
    assert cli.error("tick-all", time)["code"] == code
    assert contents(db) == before


def test_a_date_stands_for_its_sessions_close(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "sessions.csv"
    days = [f"2024-01-0{day}" for day in (2, 3, 5)]
    rows = [f"{day},{day}T09:30:00-05:00,{day}T16:00:00-05:00" for day in days]
    path.write_text("\n".join(["session_date,open_at,close_at", *rows]) + "\n")
    cli("calendar", "load", path, "--calendar", "XTST", "--time-zone", "America/New_York")
    bars = "".join(f"A,{day},1,1,1,1\n" for day in days)
    daily = ("feed", "load", "-", "--feed", "daily", "--calendar", "XTST")
    cli(*daily, stdin=f"symbol,date,open,high,low,close\n{bars}")
    user = cli.json("user", "create", "Ann")["user_id"]
    key = (user, cli.json("run", "start", user, "--cash", "100", "--feed", "daily")["run_id"])
    assert cli.json("tick", *key, "2024-01-02")["logical_time"] == T1
    done = cli.json("replay", *key, "--from", "2024-01-02", "--to", "2024-01-03")
    assert (done["logical_time"], done["times"]) == (T2, 2)
    assert cli.json("tick-all", "2024-01-05", "--feed", "daily")["logical_time"] == "2024-01-05T21:00:00.000000Z"
    assert cli.error("tick", *key, "2024-01-04")["code"] == "22008"  # no session
    assert cli.error("tick", *key, "2024-01-06")["code"] == "TE203"  # past the calendar
    assert cli.error("tick-all", "2024-01-02", "--feed", "nowhere")["code"] == "TE201"
    assert cli.error("tick", user, 99, "2024-01-02")["code"] == "TE204"
    always = cli.json("run", "start", cli.json("user", "create", "Bob")["user_id"], "--cash", "1")
    mark = cli.json("tick", always["user_id"], always["run_id"], "2024-01-02")
    assert mark["logical_time"] == "2024-01-03T00:00:00Z"


def test_tick_into_the_past_is_refused(cli: Cli, run: tuple[int, int]) -> None:
    cli("tick", *run, T2)
    error = cli.error("tick", *run, T1)
    assert error["code"] == "TE003"
    assert "2024-01-02T21:00:00.000000Z" in error["detail"]


def test_replay(cli: Cli, db: psycopg.Connection, run: tuple[int, int]) -> None:
    cli("sip", "create", *run, "AAA", "100", "daily", "2024-01-01")
    first = cli.json("replay", *run, "--to", T2)
    assert (first["times"], first["logical_time"]) == (2, T2)
    assert cli("replay", *run, "--commit-every", "1").stdout.startswith(f"1 time replayed; {T3}: equity ")
    done = contents(db)
    assert cli.json("replay", *run)["times"] == 0
    assert cli.json("replay", *run, "--from", T1)["times"] == 3  # completed times are skipped
    assert contents(db) == done
    # the same as tick by tick
    user = cli.json("user", "create", "Bob")["user_id"]
    other = (user, cli.json("run", "start", user, "--cash", "10000")["run_id"])
    cli("sip", "create", *other, "AAA", "100", "daily", "2024-01-01")
    for at in (T1, T2, T3):
        cli("tick", *other, at)
    digest = cli.json("digest", *run)["digest"]
    assert cli("digest", *other).stdout == f"{digest}\n"
    assert cli.error("replay", *other, "--from", T1, "--commit-every", "0")["code"] == "TE101"


def test_replay_of_a_run_that_began_late_starts_there(cli: Cli, run: tuple[int, int]) -> None:
    cli("tick", *run, T2)
    assert cli.json("replay", *run)["times"] == 1
    assert cli.error("replay", *run, "--from", T1)["code"] == "TE003"


def test_replay_of_a_stopped_run_is_refused_unless_it_is_complete(cli: Cli, run: tuple[int, int]) -> None:
    cli("replay", *run, "--to", T2)
    cli("run", "stop", *run)
    cli("replay", *run, "--to", T2)
    assert cli.error("replay", *run)["code"] == "TE001"


def test_tick_all(cli: Cli, db: psycopg.Connection, run: tuple[int, int]) -> None:
    user = cli.json("user", "create", "Bob")["user_id"]
    other = (user, cli.json("run", "start", user, "--cash", "500")["run_id"])
    assert cli.json("tick-all", T1) == {"logical_time": T1, "runs": 2, "failed": []}
    assert cli("tick-all", T2, "--feed", "default", "--commit-every", "1").stdout == f"2 runs are at {T2} or later\n"
    assert cli.error("tick-all", T1, "--feed", "nowhere")["code"] == "TE201"
    # a run that fails takes nobody with it, and the exit code tells
    cli("order", "place", *other, "AAA", "buy", "1")
    cli("tick", *other, T3)
    db.execute("delete from price_bar where symbol = 'AAA'")
    failed = cli.json("tick-all", "2024-01-05T21:00:00Z", code=1)
    assert failed["runs"] == 1
    assert [(row["user_id"], row["run_id"]) for row in failed["failed"]] == [other]
    assert failed["failed"][0]["reason"].startswith("TE202")


@pytest.mark.plants_violations
def test_check(cli: Cli, db: psycopg.Connection, run: tuple[int, int]) -> None:
    cli("tick", *run, T1)
    assert cli("check").stdout == "no violations\n"
    assert cli.json("check") == []
    db.execute("update engine_state set cash = cash + 1")
    broken = cli.json("check", code=1)
    assert broken
    assert {(row["user_id"], row["run_id"]) for row in broken} == {run}
    assert broken[0]["rule"] in cli("check", code=1).stdout
    assert cli.json("check", run[0], code=1) == cli.json("check", *run, code=1) == broken
    other = cli.json("user", "create", "Bob")["user_id"]
    healthy = (other, cli.json("run", "start", other, "--cash", "1")["run_id"])
    assert cli.json("check", other) == cli.json("check", *healthy) == []
    assert cli.error("check", *run[:1], 99)["code"] == "TE204"


# --- data


def test_feed_load_and_list(cli: Cli, market: Path, tmp_path: Path) -> None:
    assert cli.json("feed", "load", market)["unchanged"] == 6
    report = cli.json(
        "feed",
        "load",
        "-",
        "--feed",
        "new",
        "--symbol",
        "XYZ",
        stdin=f"time,open,high,low,close\n{T1},1,1,1,1\n",
    )
    assert (report["rows"], report["first"]) == (1, T1)
    (tmp_path / "bad.csv").write_text(BARS + f"AAA,{T3},1,1,1,1,1\nAAA,2024-01-05T21:00:00,1,1,1,1,1\n")
    refused = cli("feed", "load", tmp_path / "bad.csv", "--feed", "other", code=1)
    assert refused.stderr.startswith("error 23505: 2 bad lines; nothing was stored in feed other.")
    assert "\n  line 9: " in refused.stderr
    dry_run = ("feed", "load", tmp_path / "bad.csv", "--feed", "other", "--skip-bad", "--dry-run")
    dry = cli.json(*dry_run)
    assert (dry["rows"], dry["skipped_count"], dry["dry_run"], report["dry_run"]) == (6, 2, True, False)
    assert cli(*dry_run).stdout.startswith("feed other: 6 rows would be stored, 0 unchanged")
    assert [problem["line"] for problem in dry["skipped"]] == [8, 9]
    assert [(f["feed"], f["symbols"], f["bars"], f["last"]) for f in cli.json("feed", "list")] == [
        ("default", 2, 6, T3),
        ("new", 1, 1, T1),
    ]
    assert "default" in cli("feed", "list").stdout
    assert cli.error("feed", "load", tmp_path / "missing.csv", code=2)["message"].startswith("cannot read")


def test_a_bad_file_is_told_how_to_be_good(cli: Cli, tmp_path: Path) -> None:
    def load(*lines: str, options: tuple[str, ...] = ()) -> dict[str, Any]:
        path = tmp_path / "file.csv"
        path.write_text("\n".join(lines) + "\n")
        return cli.error("feed", "load", path, *options)

    error = load("date,open,high,low,close", "2024-01-02,1,1,1,1")
    assert ("it has 'date,open,high,low,close'" in error["detail"], "--symbol" in error["hint"]) == (True, True)
    error = load("symbol;date;open;high;low;close", "A;2024-01-02;1;1;1;1")
    assert ("'symbol;date;open;" in error["detail"], "--delimiter ';'" in error["hint"]) == (True, True)
    error = load("A,2024-01-02,1,1,1,1")
    assert ("'A,2024-01-02" in error["detail"], "first line" in error["hint"]) == (True, True)
    error = load("symbol,date,open,high,low,close", "A,01/02/2024,1,1,1,1")
    assert "date is not a date like 2024-01-31, or a time with its offset" in error["detail"]
    error = load("symbol,time,open,high,low,close", "A,2024-02-30,1,1,1,1")
    assert "time: there is no such date" in error["detail"]


def test_feed_load_actions(cli: Cli, market: Path, tmp_path: Path) -> None:
    path = tmp_path / "actions.csv"
    path.write_text("symbol,ex_date,action_type,ratio_numerator,ratio_denominator\nAAA,2024-01-03,SPLIT,2,1\n")
    dry = cli.json("feed", "load-actions", path, "--dry-run")
    report = cli.json("feed", "load-actions", path)
    assert dry == {**report, "dry_run": True}
    assert (report["rows"], report["symbols"], report["first"]) == (1, 1, "2024-01-03T00:00:00Z")
    assert "1 unchanged" in cli("feed", "load-actions", path).stdout
    path.write_text(path.read_text() + "AAA,2024-01-04,SPLIT,0,1\nAAA,2024-01-05,SPLIT,3,2\n")
    refused = cli("feed", "load-actions", path, code=1)
    assert refused.stderr.startswith("error 23514: 1 bad line; nothing was stored in corporate actions (line 3: ")
    assert cli.json("feed", "load-actions", "-", "--skip-bad", stdin=path.read_text())["rows"] == 1


def test_feed_load_actions_says_whom_they_miss_and_what_was_added_up(
    cli: Cli, run: tuple[int, int], tmp_path: Path
) -> None:
    cli("tick", *run, T2)
    path = tmp_path / "actions.csv"
    path.write_text(
        "symbol,ex_date,action_type,amount,pay_date\n"
        "AAA,2024-01-03,DIVIDEND,1,2024-01-10\nAAA,2024-01-03,DIVIDEND,2.5,2024-01-10\n"
    )
    said = cli("feed", "load-actions", path, "--dry-run").stdout
    assert "1 row would be stored, 0 unchanged, 1 added to another, 0 skipped" in said
    assert "warning: 1 RUNNING run past" in said
    report = cli.json("feed", "load-actions", path)
    assert (report["rows"], report["merged"], report["runs_past"]) == (1, 1, 1)
    assert "warning" not in cli("feed", "load-actions", path).stdout


def test_feed_of_adjusted_prices(cli: Cli, market: Path) -> None:
    assert cli.error("feed", "load", market, "--adjusted")["code"] == "TE101"  # default exists, of raw prices
    for _ in range(2):
        cli("feed", "load", market, "--feed", "new", "--adjusted")
    cli("feed", "load", market, "--feed", "new")
    assert [(f["feed"], f["adjusted"]) for f in cli.json("feed", "list")] == [("default", False), ("new", True)]
    assert [line.split()[2] for line in cli("feed", "list").stdout.splitlines()[2:]] == ["no", "yes"]


def test_instruments(cli: Cli, run: tuple[int, int]) -> None:
    words = cli("instrument", "set", "AAA", "--step", "1", "--tick", "0.05").stdout
    assert words == "AAA: quantity_step 1, price_tick 0.05, product EQUITY\n"
    row = cli.json("instrument", "set", "AAA", "--product", "ETF")
    assert row == {"symbol": "AAA", "quantity_step": "1.00000000", "price_tick": "0.05000000", "product": "ETF"}
    place = ("order", "place", *run, "AAA", "buy")
    assert cli.json(*place, "1.5")["reject_reason"] == "QUANTITY_OFF_STEP"
    assert cli.json(*place, "1", "--type", "limit", "--limit", "1.01")["reject_reason"] == "PRICE_OFF_TICK"
    assert cli.json("instrument", "set", "AAA", "--tick", "none")["price_tick"] is None
    assert cli.json("instrument", "set", "NEW")["quantity_step"] == "0.00000100"
    before = cli.json("instrument", "list")
    assert [row["symbol"] for row in before] == ["AAA", "BBB", "NEW"]
    assert "ETF" in cli("instrument", "list").stdout
    for bad in (["--step", "0"], ["--step", "-1"], ["--step", "NaN"], ["--tick", "Infinity"], ["--product", ""]):
        assert cli.error("instrument", "set", "AAA", *bad)["code"] in ("23514", "22003")
    assert cli.error("instrument", "set", "AAA", "--step", "many")["code"] == "22P02"
    assert cli.error("instrument", "set", " X")["code"] == "23514"
    assert cli.json("instrument", "list") == before


def test_calendar_load(cli: Cli, market: Path, tmp_path: Path) -> None:
    path = tmp_path / "sessions.csv"
    path.write_text("session_date,open_at,close_at\n2024-01-02,2024-01-02T14:30:00Z,2024-01-02T21:00:00Z\n")
    report = cli.json("calendar", "load", path, "--calendar", "XTST", "--time-zone", "America/New_York")
    assert (report["rows"], report["first"]) == (1, "2024-01-02T14:30:00Z")
    assert "1 unchanged" in cli("calendar", "load", path, "--calendar", "XTST").stdout
    cli(
        "feed",
        "load",
        "-",
        "--feed",
        "daily",
        "--calendar",
        "XTST",
        stdin="symbol,date,open,high,low,close\nA,2024-01-02,1,1,1,1\n",
    )
    assert cli.json("feed", "list")[0]["last"] == T1
    late = f"symbol,time,open,high,low,close\nA,{T1[:-3]}01Z,1,1,1,1\n"  # one second after the close
    path.write_text(path.read_text() + "2024-01-03,2024-01-03T14:30:00Z,2024-01-03T21:00:00Z\n")
    cli("calendar", "load", path, "--calendar", "XTST")
    assert "warning: 1 bar lies outside" in cli("feed", "load", "-", "--feed", "daily", stdin=late).stdout
    assert cli.error("calendar", "load", path, code=2)["code"] is None


# --- the database


@pytest.fixture
def empty(db: psycopg.Connection, pg_server: Any) -> Iterator[Cli]:
    """A database without papertick."""
    name = sql.Identifier(f"{db.info.dbname}_empty")
    db.execute(sql.SQL("create database {} template template0").format(name))
    yield Cli(pg_server.dsn_of(f"{db.info.dbname}_empty"))
    db.execute(sql.SQL("drop database {} with (force)").format(name))


def test_db_init_upgrade_status(empty: Cli) -> None:
    assert empty.error("run", "list")["hint"] == "Run: papertick db init"
    before = empty.json("db", "status")
    assert (before["installed"], before["runs"], before["server"]) == (False, {}, "dsn")
    assert "papertick db init" in empty("db", "status").stdout
    assert empty.json("db", "init")["installed"] is True
    assert empty("db", "init").stdout == "nothing to do: schema version 1\n"
    assert empty.json("db", "upgrade")["changed"] is False
    user = empty.json("user", "create", "Ann")["user_id"]
    for _ in range(2):
        empty("run", "stop", user, empty.json("run", "start", user, "--cash", "1")["run_id"])
    empty("run", "start", user, "--cash", "1")
    after = empty.json("db", "status")
    assert (after["installed"], after["version"], after["code_current"]) == (True, 1, True)
    assert after["runs"] == {"RUNNING": 1, "STOPPED": 2}
    assert after["server_version"].split()[0] in empty("db", "status").stdout


def test_db_shell_passes_its_arguments_to_psql(dsn: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "engine_py", "db", "shell", "-XAtc", "select count(*) from app_user"],
        cwd=PROJECT,
        env={**os.environ, "DB_DSN": dsn},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def test_db_shell_shows_refusals_without_the_stack(dsn: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "engine_py", "db", "shell", "-XAtq"],
        cwd=PROJECT,
        env={**os.environ, "DB_DSN": dsn},
        input="call tick(1, 9, '2024-01-01');\n\\echo :SQLSTATE :PROMPT1\n",
        capture_output=True,
        text=True,
    )
    assert done.stdout == "TE204 %/ %:SQLSTATE: %R%x%# \n"
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["ERROR", "DETAIL", "HINT"]


def test_db_shell_does_not_show_the_password(cli: Cli) -> None:
    secret = Cli("host=h user=u password=sesame dbname=d")
    assert "sesame" not in json.dumps(secret.json("db", "shell"))


def test_db_stop_is_for_the_embedded_server_alone(cli: Cli) -> None:
    assert "embedded" in cli.error("db", "stop", code=2)["message"]


def test_embedded_server_starts_by_itself() -> None:
    home = tempfile.mkdtemp(prefix="papertick-home-")  # pytest's own directories are closed to root's `nobody`
    Path(home).chmod(0o711)
    env = {name: value for name, value in os.environ.items() if name != "DB_DSN"} | {"PAPERTICK_HOME": home}

    def call(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "engine_py", *args]
        return subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True)

    try:
        asleep = call("db", "status")
        assert (asleep.returncode, "not running" in asleep.stderr) == (3, True)
        first = call("user", "create", "Ann")
        assert (first.returncode, first.stdout) == (0, "user 1\n")
        assert "its data is in" in first.stderr
        second = call("user", "create", "Bob")
        assert (second.stdout, second.stderr) == ("user 2\n", "")
        status = json.loads(call("db", "status", "--json").stdout)
        assert (status["server"], status["installed"]) == ("embedded", True)
        assert status["data_dir"] in first.stderr
        assert json.loads(call("db", "stop", "--json").stdout) == {"stopped": True}
        assert call("db", "stop").stdout == "it was not running\n"
        again = call("user", "create", "Eve", "--json")
        assert (json.loads(again.stdout)["user_id"], again.stderr) == (3, "")
    finally:
        call("db", "stop")
        shutil.rmtree(home, ignore_errors=True)


# --- the demo


def start_demo(dsn: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "engine_py", "demo", "--json"],
        cwd=PROJECT,
        env={**os.environ, "DB_DSN": dsn},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_demo_killed_and_started_twice_is_as_if_nothing_had_happened(
    cli: Cli, dsn: str, db: psycopg.Connection
) -> None:
    def ticks(user: str) -> int:
        row = db.execute(
            """select count(*) from mtm_ledger m join app_user u on u.user_id = m.user_id where u.name = %s""",
            [user],
        ).fetchone()
        return row[0] if row else 0

    whole = 3270
    for name in ("demo-sip", "demo-portfolio"):
        victim = start_demo(dsn)
        wait_until(lambda name=name: ticks(name) > 100)
        victim.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        victim.communicate()
        assert ticks(name) < whole

    demos = [start_demo(dsn), start_demo(dsn)]  # in two terminals at once
    printed = [demo.communicate(timeout=120) for demo in demos]
    assert [demo.returncode for demo in demos] == [0, 0], printed
    assert printed[0] == printed[1]
    result = json.loads(printed[0][0])
    assert (result["violations"], [r["ticks"] for r in result["runs"]]) == (0, [whole, whole])
    assert [order["status"] for order in result["runs"][1]["orders"]].count("FILLED") >= 4
    assert db.execute("select count(*) from app_user").fetchone() == (2,)
    assert db.execute("select count(*) from strategy_run").fetchone() == (2,)

    done = contents(db)
    assert cli.json("demo") == result
    assert contents(db) == done
    words = cli("demo").stdout
    assert max(map(len, words.splitlines())) <= 80
    assert all(r["digest"] in words for r in result["runs"])

    # the same plans again, replayed whole and undisturbed
    for one, expected in zip(demo.DEMOS, result["runs"], strict=True):
        with db.transaction():
            user, run_id = demo.create(db, one._replace(user=f"{one.user} again"))
        for part in filter(None, (one.pause_at, "2013-12-31T00:00:00Z")):
            db.execute("call replay(%s, %s, '2000-01-01T00:00:00Z', %s)", [user, run_id, part])
            with Database(dsn) as database:
                for order in one.later:
                    Session(database).call("place_order", user_id=user, run_id=run_id, **order)
        assert cli.json("digest", user, run_id)["digest"] == expected["digest"]


def test_demo_makes_a_new_run_when_the_old_was_stopped_halfway(cli: Cli, db: psycopg.Connection) -> None:
    load_bundled(db)
    with db.transaction():
        from_before = [demo.create(db, one) for one in demo.DEMOS]
    for key in from_before:
        cli("run", "stop", *key)
    fresh = cli.json("demo")["runs"]
    assert {(r["user_id"], r["run_id"]) for r in fresh}.isdisjoint(from_before)
    assert [r["user_id"] for r in fresh] == [user for user, _ in from_before]
    assert cli.json("demo")["runs"] == fresh


# --- who may do what


def test_keys_are_shown_once_listed_and_revoked(cli: Cli, db: psycopg.Connection) -> None:
    user = cli.json("user", "create", "ann")["user_id"]
    made = cli.json("key", "create", user, "--label", "laptop", "--expires", "2099-01-01T00:00:00Z")
    authenticate = "select user_id, key_id, is_admin from authenticate(%s)"
    assert db.execute(authenticate, [made["key"]]).fetchone() == (user, made["key_id"], False)
    (listed,) = cli.json("key", "list", user)
    assert (listed["label"], listed["prefix"], listed["is_admin"]) == ("laptop", made["prefix"], False)
    assert made["key"] not in cli("key", "list", user).output
    assert cli.json("key", "revoke", user, made["key_id"])["revoked_at"]
    with pytest.raises(psycopg.Error) as caught:
        db.execute(authenticate, [made["key"]])
    assert caught.value.sqlstate == "28000"
    admin = cli("key", "create", user, "--admin").output.strip()
    assert db.execute(authenticate, [admin]).fetchone() == (user, made["key_id"] + 1, True)
    assert cli.error("key", "revoke", user, 999)["code"] == "TE204"
    assert cli.error("key", "create", 999)["code"] == "23503"


def test_a_login_is_mapped_to_a_user_and_back(cli: Cli, db: psycopg.Connection) -> None:
    user = cli.json("user", "create", "ann")["user_id"]
    cli("user", "map", "ann_logs_in", user)
    assert db.execute("select role_name, user_id from user_login").fetchall() == [("ann_logs_in", user)]
    assert cli.json("user", "unmap", "ann_logs_in", user)["was_mapped"] is True
    assert cli.json("user", "unmap", "ann_logs_in", user)["was_mapped"] is False
    assert db.execute("select from user_login").fetchall() == []


def test_run_delete(cli: Cli, db: psycopg.Connection, run: tuple[int, int]) -> None:
    cli("run", "delete", *run)
    assert db.execute("select from strategy_run").fetchall() == []
    assert cli.error("run", "delete", *run)["code"] == "TE204"
