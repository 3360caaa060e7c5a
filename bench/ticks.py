"""One tick: durable, against other ledgers on the same server; its CPU against the floor; where the time goes.

usage: python -m bench.ticks [--quick | --full] [--pgledger FILE]

pgledger is not part of this repository: clone github.com/pgr0ss/pgledger (figures are for commit c18c7d2) and name the
pgledger.sql in it; it loads the file in vendor/ beside it too.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path

import psycopg

from bench import floor, measure
from bench.report import Document, Row, not_measured, parser, publish, row, words
from bench.runs import (
    FIRST,
    MAX_BARS,
    Key,
    cost,
    define_ticker,
    grow_old,
    load_feed,
    make_runs,
    replay,
    tick_all,
    tick_each,
    ticks_rolled_back,
    time_of,
)
from engine_py.pgtools import find_tools
from engine_py.render import table

_FEED = "ticks"
_CLIENTS = (1, 2, 8)
_OLD = "session that saw the tables empty"
# pgbench keeps the variables of each client apart, so i counts each client's own ticks: every call is a new one.
_TICK = f"""\\set i :i + 1
\\set day :i / 5 * 7 + :i % 5
\\set user :first_user + :client_id
\\set run :first_run + :client_id
call tick(:user, :run, timestamptz '{FIRST.isoformat()}' + :day * interval '1 day');
"""
_TRANSFER = """\\set a random(1, 1000)
\\set b 1 + (:a + random(0, 998)) % 1000
select * from pgledger_create_transfer(
  (select id from numbered where n = :a), (select id from numbered where n = :b), 1);
"""


def run(full: bool, pgledger: Path | None = None) -> Document:
    def rows(dsn: str) -> list[Row]:
        return [*_durable(dsn, not full, pgledger), *_without_commit(dsn, not full), *_again(dsn, not full)]

    return publish("ticks", full, rows, profile=lambda dsn: _profile(dsn, not full))


def _profile(dsn: str, quick: bool) -> dict[str, dict[str, float]]:
    """Where a tick's microseconds go: kind of tick -> function -> self time by the clock, triggers included.

    PostgreSQL counts it itself (track_functions). What a function's statements cost, inserts and their foreign keys
    included, is that function's own.
    """
    with (
        measure.database(dsn) as ours,
        psycopg.connect(ours, autocommit=True) as old,
        psycopg.connect(ours, autocommit=True) as conn,
    ):
        kinds = _kinds(old, 108 if quick else 508)
        conn.execute("set track_functions = 'pl'")
        return {kind: _by_function(conn, kinds[kind]) for kind in ("position", "position, SIP due")}


# --- durable: pgbench, prepared, one commit a call


def _durable(dsn: str, quick: bool, pgledger: Path | None) -> list[Row]:
    """One symbol, one position, one open LIMIT order that is never reached, a MONTHLY SIP on bars of business days:
    due at every 21st or 22nd tick. Each client ticks a run of its own.
    """
    seconds, reps = (1, 2) if quick else (5, 5)
    found = []
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(measure.database(dsn, "papertick_bench_tick"))
        tpcb = stack.enter_context(measure.database(dsn, "papertick_bench_tpcb", engine=False))
        peer = stack.enter_context(measure.database(dsn, "papertick_bench_pgledger", engine=False))
        conn = stack.enter_context(psycopg.connect(ours, autocommit=True))
        load_feed(conn, _FEED, MAX_BARS)
        _pgbench(tpcb, "-i", "-q", "-s", "10")
        ledger = _load_pgledger(peer, pgledger)
        conn.execute("vacuum analyze")
        conn.execute("checkpoint")

        for clients in _CLIENTS:
            cases: dict[str, Callable[[], float]] = {
                "tick": partial(_ticks_per_second, conn, ours, clients, seconds),
                "tpcb": partial(_transactions_per_second, tpcb, clients, seconds),
            }
            if ledger:
                cases["pgledger"] = partial(_transfers_per_second, peer, clients, seconds)
            got = measure.turns(cases, reps)
            name = f"durable tick, {clients} client{'s' * (clients > 1)}"
            found.append(row(name, "pgbench tpcb-like", ">= 1.5", "per second", got["tick"], got["tpcb"]))
            against = "pgledger transfer"
            if ledger:
                found.append(row(name, against, ">= 1.5", "per second", got["tick"], got["pgledger"]))
            else:
                why = "needs --pgledger FILE, from github.com/pgr0ss/pgledger at c18c7d2"
                found.append(not_measured(name, against, ">= 1.5", why))
    return found


def _ticks_per_second(conn: psycopg.Connection, dsn: str, clients: int, seconds: int) -> float:
    """Fresh runs for every turn; afterwards as many marks must be there as calls were counted."""
    keys = make_runs(conn, _FEED, clients, order=True, sip_start=time_of(0).date())
    tick_all(conn, _FEED, 0)
    first = keys[0]
    assert keys == [Key(first.user + i, first.run + i) for i in range(clients)], "somebody else makes runs here"
    tps, calls = _tps_of(dsn, clients, seconds, _TICK, i=0, first_user=first.user, first_run=first.run)
    marks = conn.execute(
        "select count(*) from mtm_ledger where user_id between %s and %s", [first.user, keys[-1].user]
    ).fetchone()
    assert marks == (calls + clients,), f"{calls} calls left {marks} marks: the ticks were not new"
    for key in keys:
        conn.execute("select stop_run(%s, %s)", list(key))
    return tps


def _transactions_per_second(dsn: str, clients: int, seconds: int) -> float:
    return _tps(dsn, clients, seconds, "-b", "tpcb-like")[0]


def _transfers_per_second(dsn: str, clients: int, seconds: int) -> float:
    return _tps_of(dsn, clients, seconds, _TRANSFER)[0]


def _tps_of(dsn: str, clients: int, seconds: int, script: str, **variables: int) -> tuple[float, int]:
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        given = [word for name, value in variables.items() for word in ("-D", f"{name}={value}")]
        return _tps(dsn, clients, seconds, "-f", file.name, *given)


def _tps(dsn: str, clients: int, seconds: int, *what: str) -> tuple[float, int]:
    """Transactions a second, and how many there were."""
    out = _pgbench(dsn, "-n", "-M", "prepared", "-T", str(seconds), "-c", str(clients), "-j", "1", *what)
    tps = re.search(r"tps = ([\d.]+) \(without", out)
    calls = re.search(r"actually processed: (\d+)", out)
    if not tps or not calls:
        raise RuntimeError(f"pgbench said: {out}")
    return float(tps[1]), int(calls[1])


def _pgbench(dsn: str, *args: str) -> str:
    done = subprocess.run([_find_pgbench(), *args, dsn], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"pgbench {' '.join(args)}: {done.stderr}")
    return done.stdout


def _find_pgbench() -> str:
    """The one beside the server's programs, or on PATH, or the system's newest."""
    beside = find_tools().bin_dir / "pgbench"
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"), key=lambda p: float(p.parts[-3]))
    found = beside if beside.exists() else shutil.which("pgbench") or (system[-1] if system else None)
    if found is None:
        raise RuntimeError("pgbench is not installed (Debian: apt-get install postgresql-contrib)")
    return str(found)


def _load_pgledger(dsn: str, file: Path | None) -> bool:
    """pgledger with 1,000 accounts, numbered; False when there is no file."""
    if file is None:
        return False
    with psycopg.connect(dsn, autocommit=True) as conn:
        for part in (*sorted((file.parent / "vendor").glob("*/uuid-to-ulid.sql")), file):
            conn.execute(part.read_text())
        conn.execute(
            """create table numbered as
               select n, (pgledger_create_account('account ' || n, 'USD')).id from generate_series(1, 1000) n"""
        )
        conn.execute("alter table numbered add primary key (n)")
        conn.execute("vacuum analyze")
    return True


# --- CPU, without commit


def _without_commit(dsn: str, quick: bool) -> list[Row]:
    """Every variant ticks runs of its own at one and the same time, and is rolled back.

    By a session that was opened when all was there; and by the one that set all up, and so planned for empty tables.
    """
    count, reps, statements = (108, 3, 2000) if quick else (508, 9, 20000)
    with (
        measure.database(dsn) as ours,
        measure.database(dsn, "papertick_bench_floor", engine=False) as other,
        psycopg.connect(ours, autocommit=True) as old,
        psycopg.connect(ours, autocommit=True) as conn,
        psycopg.connect(other, autocommit=True) as bare,
    ):
        kinds = _kinds(old, count)
        floor.set_up(bare)

        cases: dict[str, Callable[[], float]] = {"floor": partial(floor.one_tick, bare, statements)}
        for kind, keys in kinds.items():
            cases[kind] = partial(_cpu_of_ticks, conn, keys)
        for kind in ("position", "position, SIP due"):
            cases[f"{kind}, old session"] = partial(_cpu_of_ticks, old, kinds[kind])
        cases["again"] = partial(_cpu_of_ticks, conn, kinds["position"], repeated=True)
        got = {case: found[1:] for case, found in measure.turns(cases, reps + 1).items()}  # the first turn warms up

    quiet, due = got["position"], got["position, SIP due"]
    found = [
        row("tick CPU, SIP due", "floor: its ten statements", "<= 1.6", "us", due, got["floor"]),
        row("tick CPU, nothing due", "floor: its ten statements", None, "us", quiet, got["floor"]),
        row(f"tick CPU, nothing due, {_OLD}", "new session", "<= 1.2", "us", got["position, old session"], quiet),
        row(f"tick CPU, SIP due, {_OLD}", "new session", "<= 1.2", "us", got["position, SIP due, old session"], due),
        row("repeated tick, CPU", "tick CPU, nothing due", "<= 0.1", "us", got["again"], quiet),
    ]
    found += [
        row(f"tick CPU: {k}", "tick CPU, nothing due", None, "us", got[k], quiet) for k in kinds if k != "position"
    ]
    return found


def _kinds(conn: psycopg.Connection, count: int) -> dict[str, list[Key]]:
    """Kinds of tick, and `count` runs for each that make one at bar 1; all have had their first tick."""
    grow_old(conn)
    load_feed(conn, _FEED, 2000)
    define_ticker(conn)
    due, later = time_of(1).date(), time_of(1000).date()
    kinds = {
        "holds nothing": make_runs(conn, _FEED, count, position=False),
        "position": make_runs(conn, _FEED, count),
        "position, open order": make_runs(conn, _FEED, count, order=True),
        "position, SIP not due": make_runs(conn, _FEED, count, sip_start=later),
        "position, SIP due": make_runs(conn, _FEED, count, sip_start=due),
        "position, open order, SIP due": make_runs(conn, _FEED, count, order=True, sip_start=due),
    }
    tick_all(conn, _FEED, 0, 500)
    conn.execute("vacuum analyze")
    return kinds


def _cpu_of_ticks(conn: psycopg.Connection, keys: list[Key], *, repeated: bool = False) -> float:
    spent = ticks_rolled_back(conn, keys, 1, repeated=repeated).cpu
    conn.execute("vacuum engine_state, mtm_ledger, paper_equity_curve, paper_order, paper_trade, paper_position")
    return spent


def _by_function(conn: psycopg.Connection, keys: list[Key]) -> dict[str, float]:
    warming, counted = keys[:8], keys[8:]
    with conn.transaction(force_rollback=True):
        tick_each(conn, warming, 1)
        before = _self_times(conn)
        tick_each(conn, counted, 1)
        after = _self_times(conn)
    each = {name: (spent - before.get(name, 0.0)) / len(counted) for name, spent in after.items()}
    return {name: round(us, 2) for name, us in sorted(each.items(), key=lambda item: (-item[1], item[0])) if us >= 0.5}


def _self_times(conn: psycopg.Connection) -> dict[str, float]:
    """Microseconds in this transaction."""
    return dict(
        conn.execute(
            "select schemaname || '.' || funcname, self_time * 1000 from pg_stat_xact_user_functions"
        ).fetchall()
    )


# --- what has happened already


def _again(dsn: str, quick: bool) -> list[Row]:
    """The first call against the same call again, by backend CPU, with commit."""
    reps, bars, count = (2, 500, 100) if quick else (7, 2000, 1000)
    with measure.database(dsn) as ours, psycopg.connect(ours, autocommit=True) as conn:
        load_feed(conn, _FEED, bars)
        load_feed(conn, "fleet", bars)
        make_runs(conn, "fleet", count)
        tick_all(conn, "fleet", 0)
        got: dict[str, list[float]] = {"replay": [], "replay again": [], "tick_all": [], "tick_all again": []}
        conn.execute("vacuum analyze")
        for turn in range(reps + 1):
            (key,) = make_runs(conn, _FEED, 1, sip_start=time_of(0).date())
            calls: dict[str, Callable[[], object]] = {
                "replay": partial(replay, conn, key, 0, bars - 1),
                "tick_all": partial(tick_all, conn, "fleet", turn + 1),
            }
            for name, call in calls.items():
                first, again = cost(conn, call).cpu, cost(conn, call).cpu
                if turn:  # the first turn warms the session's plans
                    got[name].append(first)
                    got[f"{name} again"].append(again)
    return [
        row("repeated replay", "first replay", "<= 0.1", "us", got["replay again"], got["replay"]),
        row("repeated tick_all", "first tick_all", "<= 0.1", "us", got["tick_all again"], got["tick_all"]),
    ]


def add_options(to: argparse.ArgumentParser) -> None:
    to.add_argument("--pgledger", type=Path, metavar="FILE", help="pgledger.sql in a clone of pgr0ss/pgledger")


def self_times(profile: dict[str, dict[str, float]]) -> str:
    """Microseconds by kind of tick and function."""
    return "\n\n".join(
        f"self time in us, {kind} (sum {sum(each.values()):.0f}):\n"
        + table([{"function": name, "us": Decimal(str(us))} for name, us in each.items()], ("function", "us"))
        for kind, each in profile.items()
    )


if __name__ == "__main__":
    parsed = parser(__doc__)
    add_options(parsed)
    options = parsed.parse_args()
    measured = run(options.full, options.pgledger)
    print(words(measured["rows"]), self_times(measured["profile"]), sep="\n\n")
