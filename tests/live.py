"""Commands that run for long, as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import Conn, value, wait_until

PROJECT = Path(__file__).resolve().parent.parent
SECONDS = 60  # a deadline, never a pause

Start = Callable[..., "Command"]


class Command:
    """`python -m engine_py …`; what it prints goes to files."""

    def __init__(self, dsn: str, folder: Path, *args: object) -> None:
        number = len(list(folder.glob("*.out")))
        self._out, self._err = folder / f"{number}.out", folder / f"{number}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engine_py", *map(str, args)],
                **{"stdin": subprocess.PIPE, "stdout": out, "stderr": err, "cwd": PROJECT, "bufsize": 0},
                env=os.environ | {"DB_DSN": dsn, "PAPERTICK_HOME": "/nonexistent"},
            )

    def write(self, *lines: Any) -> None:
        """Objects as JSON, text and bytes as they are."""
        assert self.process.stdin
        for line in lines:
            text = line if isinstance(line, str | bytes) else json.dumps(line)
            self.process.stdin.write((text if isinstance(text, bytes) else text.encode()) + b"\n")

    def end(self) -> int:
        """Its exit code, once it has ended by itself; its standard input ends now."""
        self.process.communicate(timeout=SECONDS)
        return self.process.returncode

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The events of a worker with --json; a line that is being written is left out."""
        whole = self.out.rpartition("\n")[0].splitlines()
        return [event for event in map(json.loads, whole) if event["event"] == kind]

    def wait_for(self, kind: str) -> dict[str, Any]:
        self.until(lambda: self.events(kind), f"the worker says {kind}")
        return self.events(kind)[0]

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Poll, as long as it runs."""

        def holds() -> Any:
            return condition() or (self.process.poll() is not None and pytest.fail(f"it ended: {self.out}{self.err}"))

        wait_until(holds, what, SECONDS)


@pytest.fixture
def start(dsn: str, tmp_path: Path) -> Iterator[Start]:
    """Starts a command; what still runs at the end is killed."""
    started: list[Command] = []

    def make(*args: object) -> Command:
        started.append(Command(dsn, tmp_path, *args))
        return started[-1]

    yield make
    for command in started:
        command.process.kill()
        command.process.communicate()


def listeners(conn: Conn) -> list[int]:
    """The backends of workers that wait for something to happen: they have asked for nothing for a while."""
    query = """select array_agg(pid) from pg_stat_activity
                where application_name = 'papertick' and state = 'idle' and datname = current_database()
                  and query ~ 'feed_status' and clock_timestamp() - state_change > interval '200 ms'"""
    return value(conn, query) or []
