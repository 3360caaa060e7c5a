"""A PostgreSQL server for tests: in memory if there is room, and gone without a trace afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import make_conninfo

from engine_py.pgtools import Tools, find_tools
from engine_py.postmaster import SETTINGS, address, initdb, is_dead, pid_lines, private_dir, start, temp_places

_SHM = "/dev/shm"
_ROOM = 512 * 2**20  # bytes; a container's default of 64 MB is too little
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")

# Holds a pipe from us: when that closes, because we are done or were killed, it stops the server and removes
# the data. A shell and not our Python, which the server's account may be unable to read.
_WATCHDOG = 'cat >/dev/null; "$1" stop -D "$2/data" -m immediate -t 10 >/dev/null 2>&1; rm -rf -- "$2"'


@dataclass
class Throwaway:
    """A running server. All that it has is in `root`, which stop(), or our death, removes."""

    root: Path
    tools: Tools
    on_tmpfs: bool
    settings: tuple[str, ...]
    watchdog: subprocess.Popen[bytes] | None

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    @property
    def dsn(self) -> str:
        """Its superuser and maintenance database."""
        return make_conninfo(**address(self.data_dir), dbname="postgres")

    @property
    def version(self) -> str:
        return self.tools.version

    @property
    def bin_dir(self) -> Path:
        return self.tools.bin_dir

    @property
    def account(self) -> str:
        return self.tools.account.name

    @property
    def pid(self) -> int:
        return int(pid_lines(self.data_dir)[0])

    def start(self) -> None:
        """Start it; after kill(), again."""
        start(self.tools, self.data_dir, None if sys.platform == "win32" else self.root, self.settings)

    def kill(self) -> None:
        """End it as a crash would: SIGKILL to the postmaster, whose children then end themselves."""
        os.kill(self.pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        deadline = time.monotonic() + 10
        while not is_dead(self.data_dir) and time.monotonic() < deadline:
            time.sleep(0.005)

    def stop(self) -> None:
        """Stop it and leave nothing behind. May be called twice."""
        if self.watchdog and self.watchdog.stdin:
            self.watchdog.stdin.close()
            self.watchdog.wait(timeout=60)
        if self.root.exists():  # there was no watchdog (Windows), or it was killed
            self.tools.run("pg_ctl", "stop", "-D", self.data_dir, "-m", "immediate", "-t", "10")
            shutil.rmtree(self.root, ignore_errors=True)


def roomy_tmpfs() -> tuple[str, ...]:
    """The directory in memory, if there is one with room for a test's data."""
    return (_SHM,) if os.access(_SHM, os.W_OK) and shutil.disk_usage(_SHM).free >= _ROOM else ()


def start_throwaway(*, durable: bool = False, bin_dir: Path | None = None) -> Throwaway:
    """Start a new server for tests; `durable` keeps fsync on, `bin_dir` names the programs. Raises ServerError."""
    tools = find_tools(bin_dir)
    root = private_dir(tools.account, "papertick-test-", (*roomy_tmpfs(), *temp_places()))
    watchdog = None
    if sys.platform != "win32":
        watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "sh", tools.bin_dir / "pg_ctl", root],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us alone
            **tools.account.popen_args(),
        )
    # mmap: shared memory too is in files under root, where not even kill -9 leaves it behind.
    settings = (*SETTINGS, "dynamic_shared_memory_type=mmap", *(() if durable else _FAST))
    server = Throwaway(root, tools, root.is_relative_to(_SHM), settings, watchdog)
    try:
        initdb(tools, server.data_dir, "--no-sync")
        server.start()
    except BaseException:
        server.stop()
        raise
    return server
