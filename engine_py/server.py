"""The embedded PostgreSQL server: one durable server per user, found again by every later command.

It listens on a Unix socket in a 0700 directory and on no network port (Windows: 127.0.0.1, a free port).
Environment: PAPERTICK_HOME (where the data lives), PAPERTICK_PG_BIN (which programs; see pgtools).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from engine_py import postmaster
from engine_py.errors import ServerError, from_psycopg
from engine_py.pgtools import SYSTEM_DIR, Account, Tools, failed, find_tools, make_dir
from engine_py.throwaway import Throwaway, start_throwaway

__all__ = ["Embedded", "Throwaway", "ensure_running", "start_throwaway", "status", "stop"]

_DATABASE = "papertick"


@dataclass(frozen=True)
class Embedded:
    """The durable server, running. `started`: by this call. `notice`: what its user should know, or None."""

    dsn: str
    data_dir: Path
    bin_dir: Path
    version: str
    started: bool
    notice: str | None = None


def ensure_running() -> Embedded:
    """Start the durable server unless it runs already; it stays up when this process ends.

    Safe to call from many processes at once and after any crash. Raises ServerError.
    """
    home = _Home.find()
    notice = home.notice
    with _lock(home.base / "lock"):
        if not (home.data_dir / "PG_VERSION").exists():
            notice = home.init() or notice
        where = postmaster.address(home.data_dir)
        started = not postmaster.is_up(where)
        if started:
            postmaster.drop_socket_dir(where)  # a killed server's
            socket_dir = postmaster.new_socket_dir(home.tools.account)
            try:
                postmaster.start(home.tools, home.data_dir, socket_dir, postmaster.SETTINGS)
            except BaseException:
                postmaster.drop_socket_dir({"host": str(socket_dir)})
                raise
            where = postmaster.address(home.data_dir)
        try:
            with psycopg.connect(**where, dbname="postgres", autocommit=True, client_encoding="UTF8") as conn:
                if not conn.execute("select 1 from pg_database where datname = %s", [_DATABASE]).fetchone():
                    conn.execute(f"create database {_DATABASE}")
        except psycopg.Error as exc:
            raise from_psycopg(exc) from exc
    dsn = make_conninfo(**where, dbname=_DATABASE)
    return Embedded(dsn, home.data_dir, home.tools.bin_dir, home.tools.version, started, notice)


def status() -> dict[str, object] | None:
    """dsn, data_dir, bin_dir, version and pid of the durable server, or None when it is not running."""
    home = _Home.find()
    where = postmaster.address(home.data_dir)
    if not postmaster.is_up(where):
        return None
    return {
        "dsn": make_conninfo(**where, dbname=_DATABASE),
        "data_dir": str(home.data_dir),
        "bin_dir": str(home.tools.bin_dir),
        "version": home.tools.version,
        "pid": int(postmaster.pid_lines(home.data_dir)[0]),
    }


def data_dir() -> Path:
    """Where the durable server keeps its data, whether it runs or not."""
    return _Home.find().data_dir


def stop() -> bool:
    """Stop the durable server cleanly, ending its connections. False when it was not running."""
    home = _Home.find()
    with _lock(home.base / "lock"):
        where = postmaster.address(home.data_dir)
        if not postmaster.is_up(where):
            return False
        done = home.tools.run("pg_ctl", "stop", "-D", home.data_dir, "-m", "fast", "-w", "-t", "120")
        if done.returncode != 0:
            raise failed("the server did not stop", done.stdout)
        postmaster.drop_socket_dir(where)
    return True


@dataclass(frozen=True)
class _Home:
    """Where the durable server lives: <base>/pg<major>, because another major cannot open the data."""

    tools: Tools
    base: Path
    notice: str | None

    @property
    def data_dir(self) -> Path:
        return self.base / f"pg{self.tools.major}"

    @classmethod
    def find(cls) -> _Home:
        tools = find_tools()
        home = cls(tools, *_base_dir(tools.account))
        if sys.platform == "win32" or not home.data_dir.exists():
            return home
        owner = home.data_dir.stat()
        if tools.account.uid is None and owner.st_uid != os.geteuid():
            raise ServerError(
                f"{home.data_dir} belongs to another account (number {owner.st_uid})",
                hint="Run as that account, or set PAPERTICK_HOME to a directory of your own.",
            )
        if tools.account.uid not in (None, owner.st_uid):  # made as `nobody`, before there was a `postgres`
            account = Account(str(owner.st_uid), owner.st_uid, owner.st_gid)
            home = cls(find_tools(account=account), home.base, home.notice)
        return home

    def init(self) -> str | None:
        """Make the data directory; a notice if there is data of another major beside it.

        Half of one is never taken for a whole: it is made under another name and renamed at the end.
        """
        for leftover in self.base.glob(f"{self.data_dir.name}.init-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{self.data_dir.name}.init-", dir=self.base))
        try:
            self.tools.account.own(temporary)
            postmaster.initdb(self.tools, temporary)
            temporary.rename(self.data_dir)
        except OSError as exc:
            raise ServerError(f"cannot make {self.data_dir}: {exc}", hint="Set PAPERTICK_HOME.") from exc
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        if sys.platform != "win32":  # else a power failure could undo the rename under committed data
            base = os.open(self.base, os.O_RDONLY)
            os.fsync(base)
            os.close(base)
        others = sorted(p.parent.name for p in self.base.glob("pg*/PG_VERSION") if p.parent != self.data_dir)
        if not others:
            return None
        return f"New data for PostgreSQL {self.tools.major}; {self.base} also has {', '.join(others)}, not used."


def _base_dir(account: Account) -> tuple[Path, str | None]:
    """The directory for our data, made if missing, and a notice if it is not the one that was asked for."""
    explicit = os.environ.get("PAPERTICK_HOME")
    if account.uid is not None:
        base = Path(explicit).absolute() if explicit else SYSTEM_DIR
        make_dir(base, 0o755)
        if account.can_enter(base):
            return base, None
        moved = SYSTEM_DIR / "moved" / hashlib.sha256(os.fsencode(base)).hexdigest()[:12]
        make_dir(moved, 0o755)
        return moved, f"The account {account.name} cannot enter {base}; the data is in {moved}."
    if explicit:
        base = Path(explicit).absolute()
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "papertick"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support" / "papertick"
    else:
        xdg = Path(os.environ.get("XDG_DATA_HOME", ""))
        base = (xdg if xdg.is_absolute() else Path.home() / ".local" / "share") / "papertick"
    make_dir(base, 0o700)
    return base, None


@contextmanager
def _lock(path: Path, seconds: float = 180.0) -> Iterator[None]:
    """Hold the file's lock; the system drops it when the process dies."""
    deadline = time.monotonic() + seconds
    try:
        file = path.open("a+b")
    except OSError as exc:
        raise ServerError(
            f"cannot write {path}: {exc.strerror}", hint="Name a writable directory in PAPERTICK_HOME."
        ) from exc
    with file:
        while True:
            try:
                if sys.platform == "win32":
                    import msvcrt

                    file.seek(0)
                    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                else:
                    import fcntl

                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"another papertick has held {path} for {seconds:.0f} s", hint="End it and try again."
                    ) from None
                time.sleep(0.05)
        yield
