"""What the benchmarks fetch once and keep outside the repository: the peers' environments, and two price series."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
NEEDS_PYTHON = {"nautilus": (3, 12)}  # a peer that does not run on the oldest Python that papertick supports


class NotMeasuredError(Exception):
    """Why a peer takes no part; reported, never hidden."""


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "papertick-bench"


def environment(name: str) -> Path:
    """The Python of the peer's own environment, made on first use from peers/requirements-NAME.txt."""
    requirements, root = _places(name)
    python, done = root / "bin" / "python", root / "installed"  # written last: a killed installation is tried again
    if is_installed(name):
        return python
    base = _python(NEEDS_PYTHON.get(name, (3, 11)))
    print(f"installing {name} into {root}", file=sys.stderr, flush=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "-r", str(requirements)]
    for argv in ([base, "-m", "venv", str(root)], pip):
        made = subprocess.run(argv, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            last = (made.stderr or made.stdout).strip().splitlines()[-1:] or ["no output"]
            raise NotMeasuredError(f"cannot be installed: {last[0][:200]}")
    done.write_text(requirements.read_text())
    return python


def is_installed(name: str) -> bool:
    """Whether its environment is there, as its requirements are now."""
    requirements, root = _places(name)
    done = root / "installed"
    return (root / "bin" / "python").exists() and done.exists() and done.read_text() == requirements.read_text()


def _places(name: str) -> tuple[Path, Path]:
    return PEERS / f"requirements-{name}.txt", cache_dir() / "env" / name


def _python(at_least: tuple[int, int]) -> str:
    """Ourselves if new enough, else a newer Python on PATH or under pyenv."""
    if sys.version_info[:2] >= at_least:
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for minor in range(at_least[1], at_least[1] + 3):
        name = f"python3.{minor}"
        for found in (shutil.which(name), *sorted(map(str, pyenv.glob(f"3.{minor}*/bin/{name}")), reverse=True)):
            # a shim stands on PATH for versions that are not switched on: only running it tells
            if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
                return found
    raise NotMeasuredError(f"needs Python {at_least[0]}.{at_least[1]}")
