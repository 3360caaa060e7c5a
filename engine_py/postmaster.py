"""One PostgreSQL server: make its data, start it, find it again. Shared by the durable and the throwaway one."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from psycopg.conninfo import make_conninfo
from psycopg.pq import PGconn, Ping

from engine_py.errors import ServerError
from engine_py.pgtools import Account, Tools, failed

# The same plans and the same output on every machine; no network.
SETTINGS = ("listen_addresses=", "timezone=UTC", "log_timezone=UTC", "jit=off")
_PORT = 5432  # names the socket file, no more
_MAX_SOCKET_DIR = 103 - len(f"/.s.PGSQL.{_PORT}")  # macOS allows 103 bytes, Linux 107


def initdb(tools: Tools, data_dir: Path, *extra: str) -> None:
    """Fill the data directory. Byte-order collation: sorting is the same everywhere."""
    fixed = (
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-locale",
    )  # the socket's directory is the guard
    done = tools.run("initdb", "-D", data_dir, *fixed, *extra)
    if done.returncode != 0:
        raise failed("the database could not be created", done.stdout)


def start(tools: Tools, data_dir: Path, socket_dir: Path | None, settings: tuple[str, ...]) -> None:
    """Start the server and wait until it accepts connections; it outlives this process.

    The caller knows that it is not up. Without a socket directory (Windows) it listens on a free port of 127.0.0.1.
    """
    if socket_dir is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            settings = (*settings, "listen_addresses=127.0.0.1", f"port={probe.getsockname()[1]}")
    else:
        for leftover in socket_dir.glob(".s.PGSQL.*"):
            leftover.unlink()
        settings = (*settings, f"unix_socket_directories={socket_dir}", f"port={_PORT}")
    options = " ".join(f"-c {shlex.quote(setting)}" for setting in settings)
    _forget_dead(data_dir)
    log = data_dir / "server.log"
    deadline = time.monotonic() + 15
    while True:
        if log.exists():  # bounds the log, and leaves only this start's words in it
            log.replace(log.with_suffix(".log.old"))
        # Without -l the postmaster would keep our output pipe open, and we would wait for it for ever.
        done = tools.run("pg_ctl", "start", "-D", data_dir, "-l", log, "-o", options, "-w", "-t", "120")
        if done.returncode == 0:
            return
        output = done.stdout + (log.read_text(errors="replace") if log.exists() else "")
        # After kill -9 of the postmaster its children need a moment to notice.
        if "is still in use" not in output or time.monotonic() > deadline:
            raise failed("the server did not start", output)
        time.sleep(0.1)


def private_dir(account: Account, prefix: str, places: tuple[str, ...]) -> Path:
    """A new 0700 directory that is the account's, in the first place where a socket can live."""
    for place in places:
        short = len(os.fsencode(place)) + len(prefix) + 9 <= _MAX_SOCKET_DIR
        plain = re.fullmatch(r"[\w./:\\~-]+", place)  # it travels through a shell, and a list with commas
        if short and plain and os.access(place, os.W_OK) and account.can_enter(Path(place)):
            path = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
            account.own(path)
            return path
    raise ServerError(
        f"no directory for the server's socket: tried {', '.join(places)}",
        hint="Set TMPDIR to a writable directory with a short, plain path.",
    )


def temp_places() -> tuple[str, ...]:
    """Where temporary directories may go; TMPDIR can be long, or closed to the server's account."""
    return (tempfile.gettempdir(), "/tmp")


def new_socket_dir(account: Account) -> Path | None:
    """A directory for a socket that only the server's account and root can reach."""
    return None if sys.platform == "win32" else private_dir(account, "papertick-", temp_places())


def drop_socket_dir(where: dict[str, Any]) -> None:
    """Remove what new_socket_dir made, once the server that listened there is down."""
    if where and os.path.basename(where["host"]).startswith("papertick-"):
        shutil.rmtree(where["host"], ignore_errors=True)


def pid_lines(data_dir: Path) -> list[str]:
    """postmaster.pid: number, data directory, start time, port, socket directory, network address, …"""
    try:
        return (data_dir / "postmaster.pid").read_text().splitlines()
    except OSError:
        return []


def address(data_dir: Path) -> dict[str, Any]:
    """host, port and user of the server in this data directory, by its own record; empty when there is none."""
    lines = pid_lines(data_dir)
    if len(lines) < 6 or not (host := lines[4] or lines[5]):
        return {}
    if os.path.isabs(host):  # a leftover name in a public directory may be someone else's by now
        try:
            if os.stat(host).st_uid != os.stat(data_dir).st_uid:
                return {}
        except OSError:
            return {}
    return {"host": host, "port": int(lines[3]), "user": "postgres"}


def is_up(where: dict[str, Any], seconds: float = 60.0) -> bool:
    """Whether a server answers there; one that is starting or stopping is waited for."""
    if not where:
        return False
    dsn = make_conninfo(**where, dbname="postgres", connect_timeout=5).encode()
    deadline = time.monotonic() + seconds
    while (answer := PGconn.ping(dsn)) == Ping.REJECT:
        if time.monotonic() > deadline:
            raise ServerError(
                f"the server has been starting or stopping for {seconds:.0f} s",
                hint="Its server.log says why; try again later.",
            )
        time.sleep(0.05)
    return answer == Ping.OK


def is_dead(data_dir: Path) -> bool:
    """Whether the postmaster that postmaster.pid names is gone: killed, not even a zombie, or its number reused."""
    lines = pid_lines(data_dir)
    if not lines:
        return True
    if sys.platform == "win32":  # there kill(pid, 0) is no question
        return False
    pid = int(lines[0])
    if Path("/proc/self/cmdline").exists():
        try:  # a zombie has no arguments
            return os.fsencode(data_dir) not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return True
    try:
        os.kill(pid, 0)
    except OSError as exc:
        return not isinstance(exc, PermissionError)
    return False


def _forget_dead(data_dir: Path) -> None:
    """Make a killed server's postmaster.pid harmless.

    PostgreSQL takes it for a live one's when its number is a zombie's, or now some other program's of the same
    account: both are usual in containers. Only the number is replaced, by one that no process has. The
    shared-memory key stays, so PostgreSQL still sees whether other processes of the old server are alive.
    """
    lines = pid_lines(data_dir)
    if lines and is_dead(data_dir):
        (data_dir / "postmaster.pid").write_text("\n".join([str(2**31 - 1), *lines[1:]]) + "\n")
