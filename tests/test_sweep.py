"""papertick sweep: every combination once, whatever is killed; ranked by the verb; parameters are the verbs' own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from helpers import at, make_bars, value, wait_until
from hypothesis import example, given
from hypothesis import strategies as st
from test_cli import Cli, cli  # noqa: F401  # a fixture

from engine_py import connect as connect_library
from engine_py import grid
from engine_py.errors import UsageError
from engine_py.grid import Grid, Part, parse_part, parse_text, read_file

PROJECT = Path(__file__).resolve().parent.parent
BARS = 40
SIP = (
    "--sip",
    "symbol=AAA,BBB amount=100,250 frequency=WEEKLY,DAILY start=2024-01-01 step_up_percent=5,10 step_up_every=4",
)
SMALL = ("--name", "s", "--cash", "10000", "--sip", "symbol=AAA,BBB amount=100,250 frequency=WEEKLY start=2024-01-01")


@pytest.fixture
def market(db: Any) -> None:
    make_bars(db, "AAA", [100 + n % 9 for n in range(BARS)])
    make_bars(db, "BBB", [50 + n for n in range(BARS)])


# --- the grid


def test_alternatives_are_between_commas_outside_of_quotes_and_brackets() -> None:
    assert parse_part('a=1,2 b={"X":0.5,"Y, Z":0.5},{"X":1} c= d=,5 e="x, y",z f=[1,2],[3] g="a\\"b"') == {
        "a": ["1", "2"],
        "b": ['{"X":0.5,"Y, Z":0.5}', '{"X":1}'],
        "c": [""],
        "d": ["", "5"],
        "e": ["x, y", "z"],
        "f": ["[1,2]", "[3]"],
        "g": ['a"b'],
    }
    assert parse_part("a=1,1,2") == {"a": ["1", "2"]}
    for wrong in ("a", "=1", "a=1 a=2", "a={1", 'a="1', "a-b=1"):
        with pytest.raises(UsageError):
            parse_part(wrong)


def test_what_a_name_says_is_what_the_run_was_made_with() -> None:
    parts = (
        Part("sip", {"symbol": "A;B", "amount": "0.10", "basket": '{"A B":1,";":0}'}),
        Part("order", {"client_order_id": 'say "hi", = there'}),
        Part("run", {"cash": "1", "feed": "my feed"}),
    )
    assert parse_text("; ".join(part.text() for part in parts)) == parts


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.text(min_size=1)), min_size=1, max_size=3))
@example([{"a": "[IN"}, {"b": '{"A":1} x'}])
@example([{"a": "]", "b": "a}"}])
@example([{"a": '{"A', "b": '["]'}])
@example([{"a": "\r", "b": "\xa0", "c": "\ud800"}])
@example([{"a": "{} "}])
@example([{"a": "x\r"}])
@example([{"a": '{"\\'}])
def test_any_text_reads_back_from_a_name(terms: list[dict[str, str]]) -> None:
    parts = tuple(Part("sip", one) for one in terms)
    assert parse_text("; ".join(part.text() for part in parts)) == parts
    for part in parts:
        assert parse_part(part.text().partition(" ")[2]) == {name: [value] for name, value in part.terms.items()}


def test_combinations_turn_the_last_parameter_fastest() -> None:
    grid = Grid((("run", {"cash": ["1"]}), ("sip", {"a": ["1", "2"], "b": ["", "3"]}), ("order", {"c": ["4", "5"]})))
    found = [" ".join(part.text() for part in parts) for parts in grid.combinations()]
    assert found == [
        f"run cash=1 sip a={a}{b} order c={c}" for a in (1, 2) for b in ("", " b=3") for c in (4, 5)
    ]  # fmt: skip
    assert len(grid) == len(found) == 8


def test_files_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "g.json").write_text(
        '{"run": {"cash": [1000, 2000.50]}, "sip": {"amount": [0.10, 5], "whole_units": true, "end": null,'
        ' "basket": [{"A": 0.4, "B": 0.60}]}, "rebalance": [{"band": 0.05}, {"band": [1, 2]}]}'
    )
    (tmp_path / "g.toml").write_text(
        "[run]\ncash = [1000, 2000.50]\n[sip]\namount = [0.10, 5]\nwhole_units = true\nend = ''\n"
        "basket = [{A = 0.4, B = 0.60}]\n[[rebalance]]\nband = 0.05\n[[rebalance]]\nband = [1, 2]\n"
    )
    (grid,) = read_file(tmp_path / "g.json")
    assert [grid] == read_file(tmp_path / "g.toml")
    assert grid.parts == (
        ("run", {"cash": ["1000", "2000.50"]}),
        ("rebalance", {"band": ["0.05"]}),
        ("rebalance", {"band": ["1", "2"]}),
        ("sip", {"amount": ["0.10", "5"], "whole_units": ["true"], "end": [""], "basket": ['{"A":0.4,"B":0.60}']}),
    )
    (tmp_path / "two.toml").write_text("[[grid]]\nsip.start = 2024-01-02\n[[grid]]\norder.quantity = 1\n")
    assert [one.parts for one in read_file(tmp_path / "two.toml")] == [
        (("sip", {"start": ["2024-01-02"]}),),
        (("order", {"quantity": ["1"]}),),
    ]
    for text in ("[]", '{"sips": {}}', '{"sip": 3}', "{", '{"grid": 3}'):
        (tmp_path / "g.json").write_text(text)
        with pytest.raises(UsageError):
            read_file(tmp_path / "g.json")
    with pytest.raises(UsageError):
        read_file(tmp_path / "none.json")


# --- sweeps


def digests(db: Any) -> dict[str, str]:
    found = db.execute("select name, run_digest(user_id, run_id) from strategy_run order by 1").fetchall()
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.mark.usefixtures("market")
def test_every_combination_is_a_run_and_the_board_is_the_verbs(cli: Cli, db: Any) -> None:  # noqa: F811
    arguments = ("sweep", "--name", "grid", "--cash", "10000,20000", *SIP)
    found = cli.json(*arguments, "--rank", "twr", "--top", "5")
    assert (found["runs"], found["new"], found["failed"], len(found["board"])) == (32, 32, [], 5)
    assert db.execute(
        "select count(*), count(distinct name), count(distinct user_id) from strategy_run"
    ).fetchone() == (32, 32, 32)
    assert db.execute("select count(*) from engine_state where last_logical_time = %s", [at(BARS - 1)]).fetchone() == (
        32,
    )
    assert value(db, "select count(*) from mtm_ledger") == 32 * BARS
    names = [row[0] for row in db.execute("select name from app_user order by user_id")]
    assert names == [f"sweep grid #{n}" for n in range(1, 33)]
    board = db.execute("select user_id, run_id, twr::text from leaderboard('twr', p_limit => 5)").fetchall()
    assert [(row["user_id"], row["run_id"], row["twr"]) for row in found["board"]] == board
    best = found["board"][0]["parameters"]
    assert set(best) == {"symbol", "amount", "frequency", "start", "step_up_percent", "step_up_every", "cash"}
    plan = db.execute(
        "select symbol, amount::text, frequency from sip_plan where user_id = %s", [board[0][0]]
    ).fetchone()
    assert (plan[0], Decimal(plan[1]), plan[2]) == (best["symbol"], Decimal(best["amount"]), best["frequency"])


@pytest.fixture
def small(cli: Cli, market: None) -> Cli:  # noqa: F811
    cli("sweep", *SMALL)
    return cli


def test_the_same_again_changes_nothing_and_more_is_added(small: Cli, db: Any) -> None:
    before = digests(db)
    assert len(before) == 4
    assert small.json("sweep", *SMALL)["new"] == 0
    reordered = ("--sip", "start=2024-01-01 frequency=WEEKLY amount=250,100 symbol=BBB,AAA")
    assert small.json("sweep", "--name", "s", "--cash", "10000", *reordered)["new"] == 0
    assert digests(db) == before
    more = small.json("sweep", *SMALL[:-1], "symbol=AAA amount=100,300 frequency=WEEKLY start=2024-01-01")
    assert (more["runs"], more["new"]) == (5, 1)
    assert digests(db).items() > before.items()
    assert value(db, 'select max(name collate "C") from app_user') == "sweep s #5"


def test_later_bars_are_replayed_by_the_same_command(small: Cli, db: Any) -> None:
    make_bars(db, "AAA", [100, 101], start=BARS)
    small("sweep", *SMALL, "--to", "2024-02-09")
    assert db.execute("select distinct last_logical_time from engine_state").fetchall() == [(at(BARS - 1),)]
    small("sweep", *SMALL)
    assert db.execute("select distinct last_logical_time from engine_state").fetchall() == [(at(BARS + 1),)]


@pytest.mark.usefixtures("market")
def test_a_first_time_is_a_parameter_too(cli: Cli, db: Any) -> None:  # noqa: F811
    cli("sweep", *SMALL, "--from", "2024-01-10", "--to", "2024-01-20")
    assert db.execute("select distinct first_logical_time, last_logical_time from engine_state").fetchall() == [
        (at(9), at(19))
    ]
    assert cli.json("sweep", *SMALL)["runs"] == 8


def test_show_list_stop_and_delete(small: Cli, db: Any) -> None:
    kept = small.json("user", "create", "somebody")["user_id"]
    small("run", "start", kept, "--cash", "5", "--name", "s: mine")
    small("sweep", *SMALL[2:], "--name", "s_", "--to", "2024-01-02")
    small("sweep", *SMALL[2:], "--name", "sX", "--to", "2024-01-02")
    (row, _, other) = small.json("sweep", "list")
    assert (row["name"], row["runs"], row["running"], row["feeds"]) == ("s", 4, 4, "default")
    assert (other["name"], other["runs"]) == ("s_", 4)
    shown = small.json("sweep", "show", "s", "--rank", "equity")
    assert [line["name"][:2] for line in shown["board"]] == ["s:"] * 4
    assert len(small.json("sweep", "show", "s_")["board"]) == 4  # and not those of sX
    assert "amount" in small("sweep", "show", "s").stdout
    assert "start" not in small("sweep", "show", "s").stdout  # the same in all
    assert small.json("sweep", *SMALL, "--stop")["stopped"] == 4
    assert small.json("sweep", "list")[0]["running"] == 0
    assert small.json("sweep", *SMALL)["new"] == 0
    assert small.json("sweep", "delete", "s")["deleted"] == 4
    assert [row["name"] for row in small.json("sweep", "list")] == ["sX", "s_"]
    assert value(db, "select count(*) from app_user where starts_with(name, 'sweep s #')") == 0
    assert value(db, "select count(*) from strategy_run where name = 's: mine'") == 1
    for command in ("show", "delete"):
        assert "no sweep s" in small.error("sweep", command, "s", code=2)["message"]
    assert small.json("sweep", "list")[0]["runs"] == 4


def test_forks_and_imports_are_no_runs_of_the_sweep(small: Cli, db: Any, tmp_path: Path) -> None:
    own = digests(db)
    keys = db.execute("select user_id, run_id from strategy_run order by 1").fetchall()
    kept = small.json("user", "create", "somebody")["user_id"]
    small("run", "fork", *keys[0], kept)
    library = connect_library(db)
    copy = library.get_run(*keys[1]).fork()
    assert copy.user.name == "sweep s #2"
    small("export", *keys[2], "-o", tmp_path / "run.zip")
    small("import", tmp_path / "run.zip", "--user", "else")
    assert small.json("sweep", "list")[0]["runs"] == 4
    assert small.json("sweep", "delete", "s")["deleted"] == 4
    assert small.json("sweep", *SMALL)["new"] == 4
    assert value(db, "select count(*) from strategy_run") == 7
    assert own == dict(
        db.execute(
            """select r.name, run_digest(r.user_id, r.run_id) from strategy_run r join app_user u using (user_id)
                where u.name like 'sweep s #%' and r.forked_from_user_id is null"""
        ).fetchall()
    )


def test_every_kind_of_plan_and_the_runs_terms(cli: Cli, market: None, db: Any) -> None:  # noqa: F811
    found = cli.json(
        *("sweep", "--name", "all", "--cash", "10000", "--feed", "default", "--run", "slippage_bps=0,5 mark_policy=EVENTS"),
        *("--rebalance", 'weights={"AAA":0.4,"BBB":0.4},{"BBB":0.9} frequency=WEEKLY start=2024-01-01 band=,0.05'),
        *("--sip", 'basket={"AAA":0.5,"BBB":0.5} amount=100 frequency=WEEKLY start=2024-01-01'),
        *("--sip", "amount=10 frequency=WEEKLY start=2024-01-01 rebalance_plan=1"),
        *("--order", "symbol=AAA side=BUY quantity=1,2 order_type=LIMIT limit_price=99"),
    )  # fmt: skip
    assert (found["runs"], found["failed"]) == (16, [])
    assert db.execute("select count(*), count(distinct user_id) from sip_plan").fetchone() == (32, 16)
    assert db.execute("select distinct slippage_bps::int, mark_policy from strategy_run order by 1").fetchall() == [
        (0, "EVENTS"),
        (5, "EVENTS"),
    ]
    assert {row["parameters"]["order.quantity"] for row in found["board"]} == {"1", "2"}
    assert {row["parameters"].get("rebalance.band") for row in found["board"]} == {None, "0.05"}


def test_a_file_and_a_dry_run(cli: Cli, market: None, tmp_path: Path, db: Any) -> None:  # noqa: F811
    path = tmp_path / "grid.toml"
    path.write_text(
        "[[grid]]\nrun = {cash = 1000, feed = 'default'}\nsip = {symbol = ['AAA', 'BBB'], amount = 10, frequency = 'DAILY', start = 2024-01-01}\n"
        "[[grid]]\nrun = {cash = 1000, feed = 'default'}\n"
        "sip = {symbol = 'AAA', amount = 10, frequency = 'DAILY', start = 2024-01-01, step_up_percent = [5, 10], step_up_every = 5}\n"
    )
    planned = cli.json("sweep", "--name", "f", "--grid", path, "--dry-run")
    assert planned["runs"] == 4
    assert (
        planned["names"][0]
        == "f: sip symbol=AAA amount=10 frequency=DAILY start=2024-01-01; run cash=1000 feed=default"
    )
    assert value(db, "select count(*) from strategy_run") == 0
    assert cli.json("sweep", "--name", "f", "--grid", path)["runs"] == 4
    assert sorted(digests(db)) == sorted(planned["names"])
    assert cli.json("sweep", "--name", "g", "--grid", path, "--cash", "7,8")["runs"] == 8


# --- refusals


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--cash", "1", *SIP), "needs a --name"),
        (("--name", "a b", "--cash", "1", *SIP), "no name of a sweep"),
        (("--name", "s", "--cash", "1"), "nothing to sweep"),
        (("--name", "s", *SIP), "need cash"),
        (("--name", "s", "--cash", "1", "--sip", "symbol"), "not like amount"),
        (("--name", "s", "--cash", "1", "--sip", "symbol=A luck=1,2"), "sip has no parameter luck"),
        (("--name", "s", "--cash", "1", "--sip", "symbol=A user_id=1"), "sip has no parameter user_id"),
        (("--name", "s", "--cash", "1", "--run", "name=x", *SIP), "run has no parameter name"),
        (("--name", "s", "--cash", "1", "--grid", "none.json", *SIP), "--grid comes without"),
    ],
)
def test_usage(cli: Cli, market: None, db: Any, arguments: tuple[str, ...], words: str) -> None:  # noqa: F811
    assert words in cli.error("sweep", *arguments, code=2)["message"]
    assert value(db, "select count(*) from app_user") == 0


@pytest.mark.parametrize(
    ("sip", "code"),
    [
        ("symbol=AAA amount=100,-5 frequency=DAILY start=2024-01-01", "TE101"),
        ("symbol=AAA,ZZZ amount=100 frequency=DAILY start=2024-01-01", "TE201"),
        ("symbol=AAA amount=100 frequency=DAILY start=2024-01-01,2024-13-01", "22008"),
        ("symbol=AAA amount=100 frequency=DAILY", "42883"),
    ],
)
def test_what_the_engine_refuses_makes_nothing(cli: Cli, market: None, db: Any, sip: str, code: str) -> None:  # noqa: F811
    error = cli.error("sweep", "--name", "s", "--cash", "10", "--sip", sip)
    assert error["code"] == code
    assert "s: sip symbol=" in error["detail"]
    assert value(db, "select count(*) from app_user") + value(db, "select count(*) from strategy_run") == 0


def test_a_value_that_looks_like_json_is_quoted(cli: Cli, market: None, db: Any) -> None:  # noqa: F811
    order = 'symbol=AAA side=BUY quantity=1 client_order_id="[IN","{a","]"'
    found = cli.json("sweep", "--name", "s", "--cash", "10000", "--order", order)
    assert {row["parameters"]["client_order_id"] for row in found["board"]} == {"[IN", "{a", "]"}
    assert cli.json("sweep", "--name", "s", "--cash", "10000", "--order", order)["new"] == 0


def test_a_name_that_does_not_read_back_makes_nothing(
    cli: Cli,  # noqa: F811
    market: None,
    db: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grid, "_quoted", lambda value: value)
    order = 'symbol=AAA side=BUY quantity=1 client_order_id="a b=c"'
    error = cli.error("sweep", "--name", "s", "--cash", "10000", "--order", order, code=2)
    assert "does not read back" in error["message"]
    assert value(db, "select count(*) from app_user") == 0


def test_a_run_that_cannot_go_on_is_named_and_the_others_go_on(cli: Cli, market: None, db: Any) -> None:  # noqa: F811
    cli("sweep", *SMALL, "--to", "2024-01-05")
    db.execute(
        "create function break_it() returns trigger language plpgsql as $$ begin raise exception using errcode = 'TE202'; end $$;"
        "create trigger break_it before update on engine_state for each row when (old.user_id = 2) execute function break_it()"
    )
    found = json.loads(cli("--json", "sweep", *SMALL, code=1).stdout)
    assert [(row["user_id"], row["error"][:5]) for row in found["failed"]] == [(2, "TE202")]
    assert "refused:" in cli("sweep", *SMALL, code=1).stdout
    done = db.execute(
        "select user_id from engine_state where last_logical_time = %s order by 1", [at(BARS - 1)]
    ).fetchall()
    assert done == [(1,), (3,), (4,)]
    db.execute("drop function break_it cascade")
    assert cli.json("sweep", *SMALL)["failed"] == []


# --- killed, and twice at a time


def spawn(dsn: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "engine_py", "sweep", *arguments],
        cwd=PROJECT, env=os.environ | {"DB_DSN": dsn}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


LARGE = (
    "--name",
    "k",
    "--cash",
    "10000",
    "--sip",
    "symbol=AAA,BBB amount=" + ",".join(map(str, range(100, 400, 2))) + " frequency=DAILY start=2024-01-01",
)


@pytest.mark.parametrize("after", ["made", "ticked", "many ticked"])
def test_killed_it_goes_on_and_the_runs_are_the_same(cli: Cli, market: None, dsn: str, db: Any, after: str) -> None:  # noqa: F811
    process = spawn(dsn, *LARGE)
    query = {
        "made": "select count(*) >= 200 from strategy_run",
        "ticked": "select count(*) >= 1 from engine_state where last_logical_time is not null",
        "many ticked": "select count(*) >= 80 from engine_state where last_logical_time is not null",
    }[after]
    wait_until(lambda: value(db, query), after, seconds=60)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (
        value(db, "select count(*) from engine_state where last_logical_time is null")
        + 300
        - value(db, "select count(*) from strategy_run")
        > 0
    )
    found = cli.json("sweep", *LARGE)
    assert (found["runs"], found["failed"]) == (300, [])
    assert value(db, "select count(*) from engine_state where last_logical_time = %s", [at(BARS - 1)]) == 300
    once = digests(db)
    assert len(once) == 300
    cli("sweep", *LARGE[2:], "--name", "again")
    names = {name.partition(": ")[2]: digest for name, digest in digests(db).items() if name.startswith("again")}
    assert names == {name.partition(": ")[2]: digest for name, digest in once.items()}


def test_two_at_a_time_make_each_run_once(cli: Cli, market: None, dsn: str, db: Any) -> None:  # noqa: F811
    both = [spawn(dsn, *LARGE, "--json"), spawn(dsn, *LARGE, "--json")]
    found = [json.loads(process.communicate(timeout=120)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(one["new"] for one in found) == 300
    assert len(digests(db)) == 300
    assert value(db, "select count(*) from app_user") == 300
    assert value(db, "select count(*) from engine_state where last_logical_time = %s", [at(BARS - 1)]) == 300


# --- users go with their runs


def test_a_user_with_runs_cannot_be_deleted(small: Cli, db: Any, connect: Callable[..., Any]) -> None:
    import psycopg

    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        db.execute("select delete_user(1)")
    alone = value(db, "select create_user('x')")
    db.execute("select key from create_key(%s)", [alone])
    assert value(db, "select delete_user(%s)", [alone]) is True
    assert value(db, "select delete_user(%s)", [alone]) is False
    assert value(db, "select count(*) from api_key") == 0


def test_a_metric_that_is_none_is_refused_before_any_run(small: Cli, db: Any) -> None:
    before = value(db, "select count(*) from strategy_run")
    for more in ((), ("--dry-run",)):
        assert small.error("sweep", *SMALL[2:], "--name", "typo", "--rank", "xir", *more)["code"] == "TE101"
    assert value(db, "select count(*) from strategy_run") == before


def test_the_leaderboard_of_all_runs(small: Cli) -> None:
    assert [row["rank"] for row in small.json("leaderboard", "--top", "3")] == [1, 2, 3]
    assert small.json("leaderboard", "--rank", "sharpe", "--like", "s: sip symbol=A%")[0]["metric"] == "sharpe"
    assert len(small.json("leaderboard", "--feed", "default")) == 4
    assert small.error("leaderboard", "--rank", "luck")["code"] == "TE101"
    ranked = small.json("leaderboard", "--rank", "sharpe")
    assert small.json("leaderboard", "sharpe") == small.json("leaderboard", "--metric", "sharpe") == ranked
    small.error("leaderboard", "sharpe", "--rank", "equity", code=2)
    words = small("leaderboard", "sharpe").stdout.splitlines()
    assert {"feed", "currency", "last_date"} <= set(words[0].split())
    long = [row["name"] for row in ranked if len(row["name"]) > 48]
    assert long
    assert not any(name in line for name in long for line in words)
    assert all(any(name[:20] in line and name[-20:] in line for line in words) for name in long)
    assert "sharpe" in small("leaderboard").stdout
