"""`replay` against its physical limit and against what a user would pick instead, turn by turn.

usage: python -m bench.replay [--quick | --full]     (--full makes the environments of the peers that it needs)

quick: the limits, Python + COPY, and basana if its environment is there. full: every peer, more turns. What is compared
are speeds, so over a raw insert 1 would mean: as fast as the rows can be written. Each workload has a fresh database.
Its first turn is a warm-up that counts nowhere; papertick's time in it, on empty tables in a new session, is kept as
first_us_per_bar. A turn's reading of papertick and of the limits is the median of a few where they are short.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

from bench.cache import NotMeasuredError, is_installed
from bench.data import data_dir
from bench.engine import Engine, NoPolicyError, Reading
from bench.limits import Limits
from bench.measure import database, server, turns
from bench.peers import PEERS, Field, command
from bench.report import Document, Row, not_measured, parser, publish, row, words
from bench.workloads import CASH, SERIES, W4_BARS, symbol_bars
from engine_py.pgtools import client, find_tools

EVERY, EVENTS, TWO = "EVERY_TICK", "EVENTS", "EVERY_TICK, two sessions"
RAW, RAW_ENGINE = "raw insert of its rows", "raw insert of its rows, as the engine"
SAME_TABLES, BEST = "COPY, same tables", "best event-driven peer"
EVENT_DRIVEN = ("basana", "backtrader-next", "backtesting", "nautilus", "backtrader", "akquant", "zipline")
QUICK_TURNS = {"W2": 2}  # the longest
REPEATS = {"W1": 5, "W4": 3}
QUICK_PEERS = ("basana", "COPY, own tables", SAME_TABLES)

# (papertick's case, against): workload: what the ratio of the speeds should be
TARGETS: dict[tuple[str, str], dict[str, str]] = {
    (EVERY, RAW): dict.fromkeys(("W1", "W2", "W3"), ">= 0.85"),
    (EVERY, "basana"): {"W1": ">= 1", "W3": ">= 1.1"},
    (EVERY, "nautilus"): {"W1": ">= 5"},
    (EVERY, "backtrader"): {"W1": ">= 5"},
    (EVERY, "zipline"): {"W1": ">= 38"},
    (EVERY, BEST): {"W2": ">= 2.5", "W4": ">= 8"},
    (EVERY, SAME_TABLES): {**dict.fromkeys(("W1", "W2", "W3"), ">= 1.3"), "W4": ">= 1"},
    (EVENTS, BEST): {"W1": ">= 4", "W2": ">= 5", "W3": ">= 5"},
    (EVENTS, "bt"): {"W2": ">= 1.2"},
    (EVENTS, EVERY): dict.fromkeys(("W1", "W2", "W3"), ">= 3"),
}
WHOLE = "W1, whole process: psql", "basana, whole process", "<= 0.2"


def target_of(workload: str, ours: str, against: str) -> str | None:
    return TARGETS.get((ours, against), {}).get(workload)


def label(workload: str, case: str) -> str:
    return f"{workload} replay, {case}"


def median_of(repeats: int, case: Callable[[], float]) -> Callable[[], float]:
    return lambda: statistics.median(case() for _ in range(repeats))


class Contest:
    """One workload: papertick, the limits and the peers in the same turns."""

    def __init__(self, dsn: str, workload: str, users: int, w4_bars: int, peers: list[str]) -> None:
        self.workload, self.users, self.peers = workload, users, peers
        self.engine = Engine(dsn, w4_bars, [SERIES[workload]])
        self.limits = Limits(self.engine)
        self.field = Field(dsn)
        self.bars = symbol_bars(workload, users, w4_bars)
        self.readings: dict[str, Reading] = {}
        self.missing: dict[str, str] = {}
        self.private_mib: float | None = None

    def close(self) -> None:
        self.limits.close()
        self.engine.close()

    def _papertick(self, case: str, policy: str, sessions: int = 1) -> Callable[[], float]:
        def measured() -> float:
            if case in self.missing:
                return math.nan
            try:
                reading = self.engine.replay(self.workload, policy, self.users, sessions)
            except NoPolicyError:
                self.missing[case] = f"the engine does not know mark policy {policy}"
                return math.nan
            self.readings[case] = reading
            if case == EVERY:
                self.limits.keep(reading)
            return reading.us_per_bar

        return measured

    def _raw(self, *, as_engine: bool) -> Callable[[], float]:
        def measured() -> float:
            seconds = self.limits.insert(self.workload, self.readings[EVERY], as_engine=as_engine)
            return seconds / self.bars * 1e6

        return measured

    def run(self, reps: int) -> list[Row]:
        ours = {
            EVERY: self._papertick(EVERY, "EVERY_TICK"),
            RAW: self._raw(as_engine=False),
            RAW_ENGINE: self._raw(as_engine=True),
            EVENTS: self._papertick(EVENTS, "EVENTS"),
        }
        if self.workload == "W3":
            ours[TWO] = self._papertick(TWO, "EVERY_TICK", 2)
        first = {name: taken[0] for name, taken in turns(ours, 1).items()}
        self.limits.settle()
        ours = {name: median_of(REPEATS.get(self.workload, 1), case) for name, case in ours.items()}
        peers = {name: self.field.case(name, self.workload) for name in self.peers}
        taken = turns(ours | peers, reps)
        self.private_mib = self.engine.private_mib()
        return self._rows(taken, first)

    def _rows(self, readings: dict[str, list[float]], first: dict[str, float]) -> list[Row]:
        """Every case of papertick against all that it can be compared with."""
        missing = self.missing | {name: why for (name, _), why in self.field.missing.items()}
        for name in PEERS:
            if name not in self.peers:
                missing.setdefault(name, "not in this set, or its environment is not there")
        speeds = {case: [1e6 / us for us in taken] for case, taken in readings.items() if case not in missing}
        about = {case: self._about(case, first) for case in speeds}
        rivals = {EVERY: (RAW, RAW_ENGINE, BEST, *PEERS), EVENTS: (EVERY, BEST, *PEERS), TWO: (EVERY, *PEERS)}
        rows = []
        for ours, others in rivals.items():
            if ours not in readings:
                continue
            for against in others:
                target = target_of(self.workload, ours, against)
                other, why = self._best(speeds, missing) if against == BEST else (against, missing.get(against))
                why = missing.get(ours) or why
                more = {"workload": self.workload, "case": ours, "peer": other}
                if why is not None:
                    # worth a row if there is a target, or if it took part and failed
                    if target is not None or (against in self.peers and ours == EVERY):
                        wrong = {"wrong_answer": True} if (against, self.workload) in self.field.wrong else {}
                        name = label(self.workload, ours)
                        rows.append(not_measured(name, against, target, why, **more, **wrong))
                    continue
                name = against if other == against else f"{against}: {other}"
                # what is written raw are EVERY_TICK's rows; all else is told in bars
                unit, scale = (
                    ("rows/s", self.readings[EVERY].rows / self.bars) if against in (RAW, RAW_ENGINE) else ("bars/s", 1)
                )
                a, b = ([speed * scale for speed in speeds[case]] for case in (ours, other))
                sides = {label(self.workload, ours): about[ours], name: about[other]}
                rows.append(row(label(self.workload, ours), name, target, unit, a, b, **more, about=sides))
        return rows

    def _best(self, speeds: dict[str, list[float]], missing: dict[str, str]) -> tuple[str, str | None]:
        """The fastest event-driven peer by its median; or why there is none. It takes all of them to know the best."""
        able = [name for name in EVENT_DRIVEN if self.workload in PEERS[name].workloads.split()]
        absent = [name for name in able if name not in self.peers]
        running = [name for name in able if name in speeds]
        if absent or not running:
            return BEST, f"takes every event-driven peer: {', '.join(absent or able)} did not run"
        return max(running, key=lambda name: statistics.median(speeds[name])), None

    def _about(self, case: str, first: dict[str, float]) -> dict[str, Any]:
        """What a side did besides being fast."""
        told: dict[str, Any] = {}
        if case in self.readings:
            said = self.readings[case]
            told = {"rows": said.rows, "fills": said.fills, "equity": said.equity, "first_us_per_bar": first[case]}
        if case == EVERY:
            told["backend_private_mib"] = self.private_mib
        if (case, self.workload) in self.field.said:
            line = self.field.said[case, self.workload]
            told = {key: line[key] for key in ("version", "fill", "fills", "final_equity", "users", "rss_mb")}
        return told


def whole_process(engine: Engine, reps: int) -> Row:
    """W1 as one process, start to end: psql into a cold backend, and basana, which reads its bars from a CSV file."""
    begin, end = engine.span("W1")

    def timed(argv: list[str]) -> float:
        begun = time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begun

    program = _psql()

    def psql() -> float:
        run = engine.start("W1")
        call = f"call replay({run[0]}, {run[1]}, '{begin.isoformat()}', '{end.isoformat()}')"
        taken = timed([program, "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", engine.dsn, "-c", call])
        engine.verify("W1", "EVERY_TICK", Reading(taken, symbol_bars("W1"), runs=[run]))
        return taken

    try:
        basana = command("basana", "W1", engine.dsn)
    except NotMeasuredError as exc:
        return not_measured(*WHOLE, str(exc), workload="W1")
    cases: dict[str, Callable[[], float]] = {"psql": psql, "basana": lambda: timed(basana)}
    turns(cases, 1)
    seconds = turns(cases, reps)
    return row(*WHOLE, "s", seconds["psql"], seconds["basana"], workload="W1")


def _psql() -> str:
    """The server's own where there is one: Debian's on PATH is a Perl script that looks for it first."""
    beside = find_tools().bin_dir / "psql"
    return str(beside if beside.exists() else client("psql"))


def contests(
    dsn: str, workloads: list[str], peers: list[str], reps: dict[str, int], users: int, bars: int
) -> list[Row]:
    try:
        data_dir()
    except NotMeasuredError as exc:
        why = f"the price series are not there: {exc}"
        return [
            *(
                not_measured(label(workload, ours), against, target, why, workload=workload, case=ours)
                for (ours, against), targets in TARGETS.items()
                for workload, target in targets.items()
                if workload in workloads
            ),
            not_measured(*WHOLE, why, workload="W1"),
        ]
    rows: list[Row] = []
    for workload in workloads:
        with database(dsn) as own:
            contest = Contest(own, workload, users if workload == "W3" else 1, bars, peers)
            try:
                rows += contest.run(reps[workload])
                if workload == "W1" and "basana" in peers:
                    rows.append(whole_process(contest.engine, reps[workload]))
                elif workload == "W1":
                    rows.append(
                        not_measured(
                            *WHOLE, "basana is not in this set, or its environment is not there", workload="W1"
                        )
                    )
            finally:
                contest.close()
    return rows


def standard_peers(full: bool) -> list[str]:
    """All of them; in a quick run those that need nothing from the network."""
    return list(PEERS) if full else [name for name in QUICK_PEERS if not PEERS[name].environment or is_installed(name)]


def turns_of(full: bool, reps: int | None = None) -> dict[str, int]:
    if full or reps:
        return dict.fromkeys(CASH, reps or 5)
    return {workload: QUICK_TURNS.get(workload, 3) for workload in CASH}


def run(full: bool) -> Document:
    users = 50 if full else 20

    def rows(dsn: str) -> list[Row]:
        return contests(dsn, list(CASH), standard_peers(full), turns_of(full), users, W4_BARS)

    return publish("replay", full, rows, w3_users=lambda _: users)


def main() -> None:
    made = parser(__doc__)
    some = made.add_argument_group("only a part, which is printed and not saved")
    some.add_argument("--only", help="workloads, as in W1,W4")
    some.add_argument("--peers", nargs="*", choices=list(PEERS), help="only these")
    some.add_argument("--bars", type=int, help="bars of W4, for a slow engine")
    some.add_argument("--users", type=int, help="users of W3 (quick 20, full 50)")
    some.add_argument("--reps", type=int, help="turns (quick 3, full 5)")
    args = made.parse_args()
    if not any((args.only, args.peers is not None, args.bars, args.users, args.reps)):
        print(words(run(args.full)["rows"]))
        return
    workloads = args.only.split(",") if args.only else list(CASH)
    peers = standard_peers(args.full) if args.peers is None else args.peers
    users = args.users or (50 if args.full else 20)
    with server() as dsn:
        rows = contests(dsn, workloads, peers, turns_of(args.full, args.reps), users, args.bars or W4_BARS)
    print(words(rows))


if __name__ == "__main__":
    main()
