"""The README's psql session runs as printed and gives the results printed beside it."""

import re
from pathlib import Path

import psycopg

ROOT = Path(__file__).parent.parent


def statements() -> list[tuple[str, str | None]]:
    block = re.search(r"```sql\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block
    found = []
    for line in block.group(1).splitlines():
        sql, _, expected = line.partition(" -- ")
        found.append((sql.strip(), expected.strip() or None))
    return found


def test_the_session_is_ten_lines() -> None:
    assert len(statements()) == 10


def test_the_session_gives_what_it_says(db: psycopg.Connection) -> None:
    for sql, expected in statements():
        cursor = db.execute(sql)  # type: ignore[arg-type]  # not a literal: it is the README's text
        if expected is None:
            continue
        row = cursor.fetchone()
        assert row is not None
        assert " ".join(str(value) for value in row) == expected, sql
