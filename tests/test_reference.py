"""docs/reference is what `make docs` would write, and whatever lacks documentation is found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click
import docs_doors
import docs_sql
import make_docs
import psycopg
import pytest
from helpers import superuser_only

from engine_py import cli, cli_base
from engine_py.api import app, fields

Conn = psycopg.Connection[Any]


@pytest.fixture
def gaps(tx: Conn) -> Any:
    """What lacks documentation after a statement."""
    superuser_only(tx, "the pages of roles need the roles")

    def after(statement: str) -> list[str]:
        tx.execute(statement)  # type: ignore[arg-type]
        return docs_sql.pages(tx)[1]

    return after


def test_reference_is_the_committed_one(tx: Conn) -> None:
    superuser_only(tx, "the pages of roles need the roles")
    pages, missing = make_docs.build(tx)
    assert missing == []
    assert make_docs.differing(pages) == [], "run: make docs"


def test_a_page_too_many_or_too_few_is_found(tx: Conn, tmp_path: Any) -> None:
    (tmp_path / "old.md").write_text("# Old\n")
    (tmp_path / "same.md").write_text("# Same\n")
    assert make_docs.differing({"same.md": "# Same\n", "new.md": "# New\n"}, tmp_path) == ["new.md", "old.md"]


@pytest.mark.parametrize(
    ("statement", "gap"),
    [
        ("create table bare (x int); comment on column bare.x is 'x'", "table bare: no comment"),
        ("create table bare (x int); comment on table bare is 'x'", "table bare, column x: no comment"),
        ("create view bare as select 1 as x; comment on column bare.x is 'x'", "view bare: no comment"),
        ("create view bare as select 1 as x; comment on view bare is 'One.'", "view bare, column x: no comment"),
        ("create domain bare as int", "domain bare: no comment"),
        ("comment on domain order_side is null", "table paper_order, column side: no comment"),
        ("create function bare() returns int language sql return 1", "verb bare: no comment"),
        (
            "create function bare(p_far int) returns int language sql return 1; comment on function bare is 'Near.'",
            "verb bare, parameter p_far: not explained",
        ),
        (
            "create function bare() returns table (far int) language sql as 'select 1'; comment on function bare is 'x'",
            "verb bare, column far of its answer: not explained",
        ),
        (
            "create or replace function engine.refusal_codes() returns table (code text, message text, hint text)"
            " language sql immutable as $$ select 'TE999', 'a', null $$",
            "refusal TE999: no message or no hint",
        ),
    ],
)
def test_what_the_database_does_not_explain_is_found(gaps: Any, statement: str, gap: str) -> None:
    if "order_side" in statement:
        statement += "; alter domain order_side drop constraint order_side_is_known"
    assert gap in gaps(statement)


def test_parameters_are_read_as_the_catalog_writes_them() -> None:
    text = "p_user_id bigint, p_note text DEFAULT 'a, p'::text, p_rate numeric DEFAULT NULL::numeric, p_all boolean DEFAULT false"
    assert docs_sql.parameters(text) == [
        ("user_id", "bigint", ""),
        ("note", "text", "'a, p'"),
        ("rate", "numeric", "NULL"),
        ("all", "boolean", "false"),
    ]


def test_commands_without_words_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command("bare", cls=cli_base.Command)
    @click.argument("thing")
    @click.option("--option")
    def bare(thing: str, option: str) -> None: ...

    assert docs_doors.cli_page()[1] == []
    monkeypatch.setitem(cli.main.commands, "bare", bare)
    assert docs_doors.cli_page()[1] == [
        "command papertick bare: no help",
        "command papertick bare, argument THING: not explained",
        "command papertick bare, option --option: no help",
    ]


def test_routes_without_words_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert docs_doors.http_page()[1] == []
    bare = replace(app.ROUTES[0], path="/v1/bare", summary="", body=(fields.Text("thing", ""),))
    monkeypatch.setattr(app, "ROUTES", (*app.ROUTES, bare))
    assert docs_doors.http_page()[1] == [
        "route POST /v1/bare: no summary",
        "route POST /v1/bare, field thing: not explained",
    ]
