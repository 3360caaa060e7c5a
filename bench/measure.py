"""Measure in turns, and keep what was measured.

A figure counts only as a ratio of cases taken turn by turn (A B C, A B C, …) in one run: a slow minute then hits all
alike. Every result keeps each turn's reading, so that the noise can be seen.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from engine_py import install
from engine_py.pgtools import find_tools
from engine_py.postmaster import SETTINGS, address, initdb, private_dir, start, temp_places

RESULTS = Path(__file__).parent / "results"
# Durable as delivered; only memory and checkpoint distance are set, so that a checkpoint does not fall into one case.
DURABLE = ("shared_buffers=1GB", "max_wal_size=8GB", "checkpoint_timeout=1h")


@contextlib.contextmanager
def server(bin_dir: Path | None = None, settings: tuple[str, ...] = DURABLE) -> Iterator[str]:
    """A durable throwaway server on the disk that holds temporary files; yields its superuser's DSN.

    BENCH_DSN names a running one instead. Its data must not be precious: the benchmarks make and drop databases.
    """
    if os.environ.get("BENCH_DSN"):
        yield os.environ["BENCH_DSN"]
        return
    tools = find_tools(bin_dir)
    root = private_dir(tools.account, "papertick-bench-", temp_places())
    data = root / "data"
    try:
        initdb(tools, data)
        start(tools, data, root, (*SETTINGS, *settings))
        yield make_conninfo(**address(data), dbname="postgres")
    finally:
        tools.run("pg_ctl", "stop", "-D", data, "-m", "immediate", "-t", "30")
        subprocess.run(["rm", "-rf", "--", root], check=False)


@contextlib.contextmanager
def database(dsn: str, name: str = "papertick_bench", *, engine: bool = True) -> Iterator[str]:
    """A fresh database, with the engine installed unless told otherwise; dropped afterwards. Yields its DSN."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"drop database if exists {name} with (force)")
        admin.execute(f"create database {name}")
    own = make_conninfo(dsn, dbname=name)
    try:
        if engine:
            with psycopg.connect(own, autocommit=True) as conn:
                install.install(conn)
        yield own
    finally:
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(f"drop database if exists {name} with (force)")


def turns(cases: Mapping[str, Callable[[], float]], reps: int) -> dict[str, list[float]]:
    """Run every case once a turn, `reps` turns; each case returns its reading (seconds, or any unit of its own)."""
    readings: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(reps):
        for name, case in cases.items():
            readings[name].append(case())
    return readings


def ratio(a: list[float], b: list[float]) -> dict[str, float]:
    """a/b turn by turn: its median, and the lowest and highest turn."""
    each = [x / y for x, y in zip(a, b, strict=True)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine() -> dict[str, Any]:
    """What the figures were taken on; no host name."""
    model = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    with tempfile.NamedTemporaryFile(dir=tempfile.gettempdir()) as probe:
        filesystem = subprocess.run(
            ["stat", "-f", "-c", "%T", probe.name], capture_output=True, text=True, check=False
        ).stdout.strip()
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "filesystem": filesystem,
    }


def versions(conn: psycopg.Connection) -> dict[str, Any]:
    keys = ("server_version", "shared_buffers", "fsync", "synchronous_commit", "max_wal_size", "jit")
    return {key: conn.execute("select current_setting(%s)", [key]).fetchone()[0] for key in keys}  # type: ignore[index]


def today() -> str:
    return datetime.date.today().isoformat()


def save(name: str, document: Mapping[str, Any]) -> Path:
    """Write results/NAME.json whole or not at all."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1, default=str, allow_nan=False) + "\n")
    return part.replace(path)
