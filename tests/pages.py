"""Runs a page of the docs as its reader would: every block in turn, in one shell, one database, one Python.

A fence says what becomes of its block: `sh`, `sql` and `python` are run; `output`, right after one of them, is what it
prints, with … for whatever may differ; every other named fence is only read.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from engine_py import pgtools

ROOT = Path(__file__).parent.parent
RUN = ("sh", "sql", "python")
_FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.M | re.S)
_SECONDS = 180  # for one block
_CLIENTS = ("psql", "createdb", "dropdb", "pg_dump", "pg_restore")

# What a page says and a test cannot do, and what is done instead. Whatever else stands in a block is run as it stands.
INSTEAD = (
    (r"^make run\b", "papertick demo"),
    (r"^make \S+", ":"),  # test_docs looks whether there is such a target
    (r"^pytest\b.*", ":"),  # it is running already
    (r"^\. \.venv/bin/activate\b", ":"),
    (r"^papertick serve\b", "papertick serve --port {port}"),  # many may test at once
    (r"127\.0\.0\.1:8000\b", "127.0.0.1:{port}"),
)


@dataclass
class Block:
    """`expected` is the text of the fence `output` behind it, which begins at `output_at` in the page."""

    language: str
    text: str
    line: int
    expected: str | None = None
    output_at: int = 0


def blocks(page: str) -> list[Block]:
    found: list[Block] = []
    end = 0
    for match in _FENCE.finditer(page):
        line = page.count("\n", 0, match.start()) + 1
        if match[1] == "output":
            last = found[-1] if found else None
            whose = last if last and last.language in RUN and not page[end : match.start()].strip() else None
            assert whose, f"line {line}: whose output?"
            whose.expected, whose.output_at = match[2], match.start(2)
        else:
            found.append(Block(match[1], match[2], line))
        end = match.end()
    return found


def fits(expected: str, printed: str) -> bool:
    """Whether it was printed; … stands for the rest of a line, or alone on a line for any number of lines."""
    lines = [line.rstrip() for line in expected.strip("\n").splitlines()]
    pattern = "".join(r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + r"\n" for line in lines)
    return bool(re.fullmatch(pattern, "".join(line.rstrip() + "\n" for line in printed.strip("\n").splitlines())))


class Reader:
    """Somebody with an empty home and a checkout, who types what a page says. Closed, it ends what it has started."""

    def __init__(self, conn: psycopg.Connection[Any], dsn: str, folder: Path, port: int) -> None:
        self.conn, self.port, self.folder = conn, port, folder
        self.work = folder / "work"
        for name in ("home", "work", "bin", "blocks"):
            (folder / name).mkdir()
        for name in ("sql", "examples"):
            (self.work / name).symlink_to(ROOT / name)
        programs = {"papertick": f"{sys.executable} -m engine_py", "python": sys.executable}
        programs |= {name: str(pgtools.client(name)) for name in _CLIENTS}
        for name, call in programs.items():
            program = folder / "bin" / name
            program.write_text(f'#!/bin/sh\nexec {call} "$@"\n')
            program.chmod(0o755)
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith(("PG", "PAPERTICK", "PYTEST"))
        }
        info = conn.info
        self.env |= {
            "DB_DSN": dsn,
            "HOME": str(folder / "home"),
            "PAPERTICK_HOME": str(folder / "home" / "papertick"),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            **{"PGHOST": info.host, "PGPORT": str(info.port), "PGUSER": info.user, "PGPASSWORD": info.password},
            **{"LC_ALL": "C.UTF-8", "TZ": "UTC", "TERM": "dumb", "COLUMNS": "120", "PYTHONUNBUFFERED": "1"},
        }
        self._workers: dict[str, _Worker] = {}

    def run(self, block: Block) -> str:
        """What the block prints. AssertionError if it fails, or a statement does not give what stands beside it."""
        if block.language == "sql" and block.expected is None and "\n\\" not in "\n" + block.text:
            return "\n".join(self._statement(sql, expected) for sql, expected in statements(block.text))
        text = block.text
        if block.language == "sh":
            for pattern, other in INSTEAD:
                text = re.sub(pattern, other.format(port=self.port), text, flags=re.M)
        path = self.folder / "blocks" / f"line_{block.line}.{block.language}"
        path.write_text(text, encoding="utf-8")
        if block.language == "sql":
            path.with_suffix(".sh").write_text(f'psql -X -q -v ON_ERROR_STOP=1 -d "$DB_DSN" -f {path}\n')
            path = path.with_suffix(".sh")
        worker = "python" if block.language == "python" else "sh"
        if worker not in self._workers:
            self._workers[worker] = _Worker(worker, self.work, self.env)
        return self._workers[worker].run(path)

    def _statement(self, sql: str, expected: str | None) -> str:
        cursor = self.conn.execute(sql)  # type: ignore[arg-type]  # not a literal: it is the page's text
        found = " ; ".join(" ".join(row) for row in _texts(cursor))
        if expected is not None:
            assert found == expected, (
                f"{sql}\nA remark behind a statement is what it gives; put others on their own line."
            )
        return found

    def close(self) -> None:
        while self._workers:
            self._workers.popitem()[1].close()


class _Worker:
    """A bash or a Python that runs one file after the other and keeps its variables in between."""

    _BASH = (
        'set -eE -o pipefail; while read -r f <&"$1"; do . "$f" >"$f.out" 2>"$f.err" </dev/null; echo done >&"$2"; done'
    )
    _PYTHON = (
        "import os, sys\n"
        "names = {'__name__': '__main__'}\n"
        "for line in os.fdopen(int(sys.argv[1])):\n"
        "    path = line.strip()\n"
        "    sys.stdout, sys.stderr = open(path + '.out', 'w'), open(path + '.err', 'w')\n"
        "    try:\n"
        "        exec(compile(open(path).read(), path, 'exec'), names)\n"
        "    except BaseException:\n"
        "        import traceback; traceback.print_exc(); sys.stderr.flush(); raise SystemExit(1)\n"
        "    sys.stdout.close()\n"
        "    os.write(int(sys.argv[2]), b'done\\n')\n"
    )

    def __init__(self, kind: str, folder: Path, env: dict[str, str]) -> None:
        theirs, self._to = os.pipe()
        self._from, ours = os.pipe()
        fds = [str(theirs), str(ours)]
        command = ["bash", "-c", self._BASH, "sh", *fds] if kind == "sh" else [sys.executable, "-c", self._PYTHON, *fds]
        self._process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, pass_fds=(theirs, ours), start_new_session=True
        )
        os.close(theirs)
        os.close(ours)

    def run(self, path: Path) -> str:
        os.write(self._to, f"{path}\n".encode())
        ready, _, _ = select.select([self._from], [], [], _SECONDS)
        out, err = (Path(f"{path}.{name}") for name in ("out", "err"))
        if not ready or os.read(self._from, 100) != b"done\n":
            what = "failed" if ready else f"took longer than {_SECONDS} seconds"
            said = "\n".join(file.read_text(errors="replace")[-3000:] for file in (out, err) if file.exists())
            raise AssertionError(f"the block {what}:\n{path.read_text()}\n{said}")
        return out.read_text()

    def close(self) -> None:
        os.close(self._to)
        os.close(self._from)
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                for _ in range(250):
                    self._process.poll()
                    time.sleep(0.02)
                    os.killpg(self._process.pid, 0)  # all that it has left in the background too
            except ProcessLookupError:
                return


def statements(text: str) -> Iterator[tuple[str, str | None]]:
    """Each statement, with what stands behind it as ` -- …`: the values it gives."""
    parts: list[str] = []
    for line in text.splitlines():
        code, _, remark = line.partition(" -- ") if line.rstrip() and not line.startswith("--") else ("", "", "")
        parts += [code] if code else []
        whole = "\n".join(parts)
        if whole.rstrip().endswith(";") and whole.count("$$") % 2 == 0:
            yield whole.strip(), remark.strip() or None
            parts = []
    assert not parts, f"no semicolon ends this: {parts}"


def _texts(cursor: psycopg.Cursor[Any]) -> list[list[str]]:
    """The rows as the server writes them; null as `null`."""
    result = cursor.pgresult
    if not result or not cursor.description:
        return []
    values = [[result.get_value(row, column) for column in range(result.nfields)] for row in range(result.ntuples)]
    return [["null" if value is None else value.decode() for value in row] for row in values]
