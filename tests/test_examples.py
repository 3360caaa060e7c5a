"""Each script in examples/ prints what stands beside it, whoever runs it, and leaves nothing.

UPDATE_EXAMPLES=1 writes the outputs instead of comparing them.
"""

import os
import re
import subprocess
from pathlib import Path

import psycopg
import pytest

from engine_py import pgtools

FOLDER = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(FOLDER.glob("*.sql"))


def printed(script: Path, dsn: str, **env: str) -> str:
    """What psql prints, run as the README says; anything on stderr is a failure."""
    command = [pgtools.client("psql"), "-X", "-q", "-f", script, dsn]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", env=os.environ | {"PGCLIENTENCODING": "UTF8"} | env, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_prints_what_stands_beside_it(script: Path, db: psycopg.Connection, dsn: str) -> None:
    out = script.with_suffix(".out")
    found = printed(script, dsn)
    if os.environ.get("UPDATE_EXAMPLES"):
        out.write_text(found, encoding="utf-8")
    assert found == out.read_text(encoding="utf-8")
    assert found.endswith(" violations \n------------\n          0\n\n")
    # again, far from UTC: it has left nothing in the way, and the ids, which have moved on, are not in the output
    assert printed(script, dsn, PGTZ="Asia/Kolkata") == found
    for table in ("app_user", "strategy_run", "instrument", "price_bar", "corporate_action"):
        assert db.execute(f"select count(*) from {table}").fetchone() == (0,), table
    assert db.execute("select array_agg(feed) from feed").fetchone() == (["default"],)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_says_what_it_shows_and_checks_itself(script: Path) -> None:
    text = script.read_text()
    head = re.match(r"(-- .+\n)+", text)
    assert head is not None
    assert head[0].count("\n") in (2, 3)
    assert text.startswith("\\set ON_ERROR_STOP on\n", head.end())
    assert text.count("\nbegin;\n") == 1
    assert text.endswith("\nselect count(*) as violations from violations;\nrollback;\n")


def test_each_script_has_its_output_and_its_row() -> None:
    names = [path.stem for path in SCRIPTS]
    rows = re.findall(
        r"^\| \[`(\w+)\.sql`\]\(\1\.sql\) \| .+ \(\[output\]\(\1\.out\)\) \|$", (FOLDER / "README.md").read_text(), re.M
    )
    assert names
    assert names == sorted(path.stem for path in FOLDER.glob("*.out"))
    assert names == sorted(rows)
    assert (FOLDER / "README.md").read_text().count("\n| [") == len(rows)
