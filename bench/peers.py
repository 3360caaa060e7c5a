"""What a user would pick instead: each peer in a process and an environment of its own, its answer checked.

`python -m bench.peers` runs every peer once on W1 and tells what it said; bench.replay takes them turn by turn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bench.cache import PEERS as SCRIPTS
from bench.cache import NotMeasuredError, environment
from bench.data import data_dir
from bench.measure import database, server
from bench.workloads import reference

NEAR = 0.01  # a peer's final equity may be off by its own rounding and order rules, not by more
PATIENCE = 600  # seconds for one run of one peer


class WrongPeerError(NotMeasuredError):
    """It ran, but its answer is not the workload's."""


@dataclass(frozen=True)
class Peer:
    """`environment` None: ours. W3 is a loop of backtests for all but vectorbt: `users` are run and rates compared."""

    script: str
    environment: str | None
    workloads: str
    users: int = 20
    flags: tuple[str, ...] = ()


PEERS = {
    "plain Python loop": Peer("loop", None, "W1 W2 W3 W4", 1000),
    "vectorbt": Peer("vectorbt", "vectorbt", "W1 W2 W3", 1000),
    "bt": Peer("bt", "bt", "W1 W2 W3"),
    "basana": Peer("basana", "basana", "W1 W2 W3 W4"),
    "backtrader-next": Peer("backtrader", "backtrader-next", "W1 W2 W3 W4"),
    "backtesting": Peer("backtesting", "backtesting", "W1 W3 W4"),
    "nautilus": Peer("nautilus", "nautilus", "W1 W2 W3 W4"),
    "backtrader": Peer("backtrader", "backtrader", "W1 W2 W3 W4"),
    "akquant": Peer("akquant", "akquant", "W1 W2 W3 W4"),
    "zipline": Peer("zipline", "zipline", "W1 W2 W3 W4", 3),
    "COPY, own tables": Peer("copy", None, "W1 W2 W3 W4", 20, ("--tables", "own")),
    "COPY, same tables": Peer("copy", None, "W1 W2 W3 W4", 20, ("--tables", "same")),
}


def command(name: str, workload: str, dsn: str) -> list[str]:
    peer = PEERS[name]
    python = environment(peer.environment) if peer.environment else sys.executable
    argv = [str(python), str(SCRIPTS / f"peer_{peer.script}.py"), workload, "--data", str(data_dir()), *peer.flags]
    if workload == "W3":
        argv += ["--users", str(peer.users)]
    return argv + (["--dsn", dsn] if peer.script == "copy" else [])


def run(name: str, workload: str, dsn: str) -> dict[str, Any]:
    """What the peer reports; NotMeasuredError if it cannot run, fails, or answers wrongly."""
    if workload not in PEERS[name].workloads.split():
        raise NotMeasuredError(f"has no {workload}")
    line = _last_line(command(name, workload, dsn))
    exact = "same tables" in name
    expected = _expected(workload, line["fill"], line["users"], exact=exact)
    if abs(line["final_equity"] / expected - 1) > (0 if exact else NEAR):
        raise WrongPeerError(f"wrong answer: {line['final_equity']}, expected {'' if exact else 'about '}{expected}")
    return line


def _last_line(argv: list[str]) -> dict[str, Any]:
    env = dict(os.environ)
    if argv[0] == sys.executable:
        env["PYTHONPATH"] = str(SCRIPTS.parent.parent)  # ours may import bench; the others' environments stay clean
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise NotMeasuredError(f"took more than {PATIENCE} s") from None
    lines = [x for x in done.stdout.splitlines() if x.startswith("{")]
    if done.returncode != 0 or not lines:
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise NotMeasuredError(f"failed: {last[0][:200]}")
    return json.loads(lines[-1])  # type: ignore[no-any-return]


@lru_cache
def _expected(workload: str, fill: str, users: int, exact: bool) -> float:
    """The plain loop's answer under the peer's own fill rule; papertick's where the peer writes papertick's rows."""
    if exact:
        return float(sum(reference(workload, user).equity[-1][3] for user in range(users)))
    argv = [sys.executable, str(SCRIPTS / "peer_loop.py"), workload, "--data", str(data_dir())]
    return float(_last_line([*argv, "--fill", fill, "--users", str(users)])["final_equity"])


class Field:
    """The peers of one measurement: what they said, why some are missing, and which of those answered wrongly."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.said: dict[tuple[str, str], dict[str, Any]] = {}
        self.missing: dict[tuple[str, str], str] = {}
        self.wrong: set[tuple[str, str]] = set()

    def case(self, name: str, workload: str) -> Callable[[], float]:
        """Microseconds a bar, for measure.turns; nan once the peer has failed, so that the turns go on."""

        def measured() -> float:
            key = (name, workload)
            if key in self.missing:
                return float("nan")
            try:
                line = run(name, workload, self.dsn)
            except NotMeasuredError as exc:
                self.missing[key] = str(exc)
                if isinstance(exc, WrongPeerError):
                    self.wrong.add(key)
                return float("nan")
            self.said[key] = line
            return float(line["wall_s"] / line["bars"] * 1e6)

        return measured


def main() -> None:
    workload = sys.argv[1] if len(sys.argv) > 1 else "W1"
    with server() as dsn, database(dsn) as own:
        for name in PEERS:
            try:
                line = run(name, workload, own)
            except NotMeasuredError as exc:
                print(f"{name}: not measured: {exc}", flush=True)
            else:
                rate = line["bars_per_s"] / 1e3
                equity = f"fills at {line['fill']}, {line['fills']} fills, equity {line['final_equity']:.2f}"
                print(
                    f"{name} {line['version']}: {rate:.1f} thousand bars/s, {equity}, {line['rss_mb']} MiB", flush=True
                )


if __name__ == "__main__":
    main()
