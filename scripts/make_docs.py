"""Write docs/reference from the database's comments, the commands' help and the routes of the HTTP API.

usage: python scripts/make_docs.py [--check]     --check writes nothing and exits 1 if a page is not as it would be

Whatever lacks documentation (a table, column, view, domain, verb, parameter, refusal, command, option, route, field) is
named, and the exit code is 1, with and without --check. The same pages come out of every supported PostgreSQL.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import docs_doors
import docs_sql
import psycopg

from engine_py import install
from engine_py.throwaway import start_throwaway

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
_ABOUT = {
    "verbs.md": "functions and procedures: parameters, answers, refusals",
    "tables.md": "tables: columns, units, what holds for them",
    "views.md": "views",
    "domains.md": "types of columns",
    "refusals.md": "SQLSTATEs, with message and hint",
    "roles.md": "who may read what and call what",
    "cli.md": "commands of `papertick`",
    "http.md": "routes of the HTTP API",
}


def build(conn: psycopg.Connection) -> tuple[dict[str, str], list[str]]:
    """Every page by its name, and what lacks documentation. `conn` is a superuser's, to a database with papertick."""
    pages, gaps = docs_sql.pages(conn)
    for name, make in (("cli.md", docs_doors.cli_page), ("http.md", docs_doors.http_page)):
        pages[name], more = make()
        gaps += more
    lines = [
        "Made by `make docs` from what the database (`comment on`), the commands and the routes say of themselves."
        " Do not edit these pages: change the comment or the help, and make them again.",
        "",
        *(f"- [{name}]({name}): {about}" for name, about in _ABOUT.items()),
        "",
        "Words that papertick answers with: [codes](../codes.md). Metrics: [numbers](../numbers.md).",
    ]
    pages["README.md"] = docs_sql.page("Reference", *lines)
    return pages, gaps


def differing(pages: dict[str, str], folder: Path = FOLDER) -> list[str]:
    """Names of the pages that are not as they would be made, or should not be there."""
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    return sorted(name for name in pages.keys() | found.keys() if pages.get(name) != found.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/reference.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not as it would be")
    check = parser.parse_args().check
    server = start_throwaway()
    try:
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            install.install(conn)
            pages, gaps = build(conn)
    finally:
        server.stop()
    stale = differing(pages)
    if not check:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for path in FOLDER.glob("*.md"):
            if path.name not in pages:
                path.unlink()
        for name, text in pages.items():
            (FOLDER / name).write_text(text, encoding="utf-8")
    for gap in gaps:
        print(gap, file=sys.stderr)
    if check and stale:
        print(f"docs/reference is not what it would be: {', '.join(stale)}. Run: make docs", file=sys.stderr)
    return 1 if gaps or (check and stale) else 0


if __name__ == "__main__":
    sys.exit(main())
