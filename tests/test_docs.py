"""Every block of the docs runs as printed and prints what stands beside it; whatever the docs name is there.

UPDATE_DOCS=1 writes the blocks `output` anew where they differ, instead of comparing them.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psycopg
import pytest
from helpers import superuser_only
from pages import ROOT, RUN, Block, Reader, blocks, fits, statements
from psycopg import sql

Conn = psycopg.Connection[Any]

_SKIPPED = {".venv", ".git", "node_modules", "build", "dist"}
ALL = sorted(p for p in ROOT.rglob("*.md") if not _SKIPPED & set(p.relative_to(ROOT).parts))
PAGES = [
    ROOT / "README.md",
    ROOT / "README_test.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
RUNNING = [page for page in PAGES if any(block.language in RUN for block in blocks(page.read_text()))]
# What a page makes outside its database goes after it.
_MADE = {"database": r"\bcreatedb\b.* (\w+)\b", "role": r"\bcreate role (\w+)"}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def reader(db: Conn, dsn: str, tmp_path: Path) -> Iterator[Reader]:
    superuser_only(db, "it may not do all that the docs do")
    db.execute("set timezone = 'UTC'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one = Reader(db, dsn, tmp_path, port)
    yield one
    one.close()


@pytest.fixture
def made(db: Conn, reader: Reader) -> Iterator[dict[str, set[str]]]:
    """Databases and roles that a page will make, by their kind: none is there before, none after."""
    found: dict[str, set[str]] = {kind: set() for kind in _MADE}
    yield found
    reader.close()
    for kind, names in found.items():
        for name in sorted(names):
            if kind == "role":
                db.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
            db.execute(sql.SQL(f"drop {kind} if exists {{}}").format(sql.Identifier(name)))


@pytest.mark.parametrize("page", RUNNING, ids=name_of)
def test_every_block_runs_and_prints_what_it_says(
    page: Path, db: Conn, reader: Reader, made: dict[str, set[str]]
) -> None:
    text = page.read_text(encoding="utf-8")
    found = [block for block in blocks(text) if block.language in RUN]
    for kind, pattern in _MADE.items():
        names = {name for block in found for name in re.findall(pattern, block.text)}
        there = "select rolname from pg_roles" if kind == "role" else "select datname from pg_database"
        assert not names & {row[0] for row in db.execute(there)}, f"there is such a {kind} already"
        made[kind] |= names
    changes: list[tuple[Block, str]] = []
    for block in found:
        try:
            printed = reader.run(block)
        except (AssertionError, psycopg.Error) as exc:
            raise pytest.fail.Exception(f"{name_of(page)}, line {block.line}: {exc}", pytrace=False) from None
        if block.expected is not None and not fits(block.expected, printed):
            if not os.environ.get("UPDATE_DOCS"):
                assert printed == block.expected, f"{name_of(page)}, line {block.line}"
            changes.append((block, printed))
    for block, printed in reversed(changes):
        end = block.output_at + len(block.expected or "")
        text = text[: block.output_at] + printed.strip("\n") + "\n" + text[end:]
        page.write_text(text, encoding="utf-8")


def test_the_session_of_the_readme_is_ten_lines() -> None:
    (session,) = [block for block in blocks((ROOT / "README.md").read_text()) if block.language == "sql"]
    assert len(list(statements(session.text))) == 10


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_what_it_is(page: Path) -> None:
    """A block that nobody runs says so by its language, and is not a shell script in disguise."""
    languages = {block.language for block in blocks(page.read_text())}
    assert not languages & {"", "bash", "shell", "zsh", "psql", "py"}


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_make_targets_are_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.M)) <= targets


# --- whatever a page names is there

_LINK = re.compile(r'\]\((?!https?:|mailto:)([^)\s]*)\)|(?:src|srcset|href)="(?!https?:)([^"]+)"')
_FOLDERS = r"(?:\.ci|bench|docs|engine_py|examples|scripts|sql|tests)"


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.*?)\s*$", prose(page), re.M):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
        if found[slug]:
            found[f"{slug}-{found[slug]}"] = 0
    return set(found)


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for one, other in _LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page))):
        path, _, anchor = unquote(one or other).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            broken.append(one or other)
    assert broken == []


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    missing = []
    for words in re.findall(r"`([^`\n]+)`", prose(page)):
        if re.fullmatch(_FOLDERS + r"/[\w./*-]*", words):
            found = list(ROOT.glob(words.rstrip("/")))
        elif match := re.fullmatch(r"(\d\d_[a-z]\w*)(?:\.sql)?", words):
            found = list((ROOT / "sql").glob(f"{match[1]}.sql"))
        else:
            continue
        missing += [] if found else [words]
    assert missing == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=name_of)
def test_every_page_is_in_the_index(page: Path) -> None:
    index = ROOT / "docs" / "README.md"
    assert page == index or f"({page.name})" in index.read_text()


# --- the runner itself


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        (Block("sh", "false\ntrue\n", 1), "the block failed"),
        (Block("sh", "false | true\n", 1), "the block failed"),
        (Block("sh", "papertick run list --nonsense\n", 1), "No such option"),
        (Block("python", "x = 1\nraise ValueError('so')\n", 1), "so"),
        (Block("sql", "select 1; -- 2\n", 1), "A remark"),
        (Block("sql", "select 1\n", 1), "no semicolon"),
        (Block("sql", "\\set ON_ERROR_STOP on\nselect 1/0;\n", 1), "division by zero"),
    ],
    ids=lambda value: value.text if isinstance(value, Block) else "",
)
def test_a_block_that_fails_is_noticed(reader: Reader, block: Block, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        reader.run(block)


def test_blocks_of_a_page_share_shell_python_and_database(reader: Reader) -> None:
    reader.run(Block("sh", 'export X=1; f() { echo "$X $1"; }; echo a > file; sleep 60 &\n', 1))
    assert reader.run(Block("sh", "f 2; cat file\n", 2)) == "1 2\na\n"
    reader.run(Block("python", "x = 3\n", 3))
    assert reader.run(Block("python", "print(x, open('file').read().strip())\n", 4)) == "3 a\n"
    reader.run(Block("sql", "create temporary table t as\n  select 4 as x; -- \n", 5))
    assert reader.run(
        Block("sql", "select x, null, timestamptz '2024-01-01Z' from t; -- 4 null 2024-01-01 00:00:00+00\n", 6)
    )
    assert reader.run(Block("sql", "select 1 as x;\n", 7, expected="")) == " x \n---\n 1\n(1 row)\n\n"


def test_output_belongs_to_the_block_before_it() -> None:
    one, two, three = blocks("```sh\na\n```\n\n```output\nb\n```\ntext\n```sql\nc\n```\n\n```text\nd\n```\n")
    assert (one.language, one.expected, two.expected, three.language, two.line) == ("sh", "b\n", None, "text", 9)
    with pytest.raises(AssertionError, match="whose output"):
        blocks("```sh\na\n```\ntext\n```output\nb\n```\n")


@pytest.mark.parametrize(
    ("expected", "printed", "fit"),
    [
        ("a\n", "a  \n\n", True),
        ("a\nb\n", "a\n", False),
        ("digest …\n", "digest 12 ab\n", True),
        ("digest …\n", "digest 12\nab\n", False),
        ("a\n…\nz\n", "a\nb\nc\nz\n", True),
        ("a\n…\nz\n", "a\nz\n", True),
        ("a\n…\n", "a\nb\nc\n", True),
        ("a.c\n", "abc\n", False),
    ],
)
def test_dots_stand_for_what_may_differ(expected: str, printed: str, fit: bool) -> None:
    assert fits(expected, printed) is fit
