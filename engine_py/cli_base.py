"""What every command shares: --json and --dsn, the session, the shapes of arguments, and how errors end."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, LiteralString, NoReturn, TypeAlias, TypeVar

import click
import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from engine_py import csvfile, errors, install, server
from engine_py.db import Database, resolve_dsn
from engine_py.render import error_document, error_line, to_json

Row: TypeAlias = dict[str, Any]
T = TypeVar("T")

_INTERRUPTED = 130  # 128 + SIGINT, as a shell has it


@dataclass
class Options:
    """The options that every command has; they may also stand before the command."""

    dsn: str | None = None
    json: bool = False


def options() -> Options:
    return click.get_current_context().ensure_object(Options)


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value and param.name:
        setattr(ctx.ensure_object(Options), param.name, value)


def shared_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["--dsn"],
            metavar="DSN",
            expose_value=False,
            callback=_remember,
            help="Connection string. Default: DB_DSN, or else the embedded server, which starts by itself.",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_remember,
            help="Print one JSON document: decimals as strings, times in UTC.",
        ),
    ]


class Command(click.Command):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += shared_options()


class Group(click.Group):
    """Commands in the order in which they were written."""

    command_class = Command
    group_class = type

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


class Root(Group):
    """The whole command line. Every error ends here, as one line or one JSON document, and an exit code."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += shared_options()

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        given = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        try:
            code = super().main(given, *rest, **extra)
        except click.ClickException as exc:
            _fail(errors.UsageError(exc.format_message(), hint=_where_to_look(exc)), given)
        except UnicodeEncodeError:
            _fail(errors.UsageError("an argument is not valid UTF-8"), given)
        except (errors.PapertickError, psycopg.Error) as exc:
            _fail(errors.from_psycopg(exc), given)
        except (click.Abort, KeyboardInterrupt):
            click.echo("interrupted", err=True)
            sys.exit(_INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


def _where_to_look(exc: click.ClickException) -> str | None:
    ctx = exc.ctx if isinstance(exc, click.UsageError) else None
    return f"See {ctx.command_path} --help." if ctx else None


def _fail(error: errors.PapertickError, args: list[str]) -> NoReturn:
    click.echo(to_json(error_document(error)) if "--json" in args else error_line(error), err=True)
    sys.exit(error.exit_code)


class Session:
    """A connection to a database that has papertick."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def run(self, work: Callable[[psycopg.Connection], T], *, repeatable: bool = True) -> T:
        """One transaction or one statement; again after a lost connection if the same call again is safe."""

        def once(conn: psycopg.Connection) -> T:
            prepare(conn)
            return work(conn)

        return self._database.run(once, attempts=5 if repeatable else 1)

    def select(self, query: LiteralString, *values: object) -> list[Row]:
        return self.run(lambda conn: select(conn, query, *values))

    def call(self, function: str, /, **arguments: object) -> Row:
        """The row that a function returns; for functions that may be called again. See call() below."""
        return self.run(lambda conn: call(conn, function, **arguments))

    def call_once(self, function: str, /, **arguments: object) -> Row:
        """As call(), for functions that would make another one when called again."""
        return self.run(lambda conn: call(conn, function, **arguments), repeatable=False)

    def call_rows(self, function: str, /, *, once: bool, **arguments: object) -> list[Row]:
        """All rows that a function returns; `once`: it would make others when called again."""
        return self.run(lambda conn: call_rows(conn, function, **arguments), repeatable=not once)

    def do(self, procedure: str, /, **arguments: object) -> None:
        """CALL a procedure: all of them may be called again."""
        self.run(lambda conn: conn.execute(*_statement("call {}({})", procedure, arguments)))


def select(conn: psycopg.Connection, query: LiteralString, *values: object) -> list[Row]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, values).fetchall()


def call(conn: psycopg.Connection, function: str, /, **arguments: object) -> Row:
    """The row that a function returns. What is None is left to the default that the function has for it; NULL is null.

    Every value travels as text, so that PostgreSQL reads it, and no number passes through Python's.
    """
    (row,) = call_rows(conn, function, **arguments)
    return row


def call_rows(conn: psycopg.Connection, function: str, /, **arguments: object) -> list[Row]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(*_statement("select * from {}({})", function, arguments)).fetchall()


def _statement(frame: LiteralString, name: str, arguments: dict[str, object]) -> tuple[sql.Composed, list[str | None]]:
    given = {key: None if value is NULL else str(value) for key, value in arguments.items() if value is not None}
    parts = [sql.SQL("{} => %s").format(sql.Identifier(f"p_{key}")) for key in given]
    return sql.SQL(frame).format(sql.Identifier(name), sql.SQL(", ").join(parts)), list(given.values())


def prepare(conn: psycopg.Connection) -> None:
    """Set what the engine's promises and our output stand on. Raises if papertick is not installed here."""
    set_json_loads(partial(json.loads, parse_float=Decimal), conn)
    row = conn.execute(
        """select set_config('TimeZone', 'UTC', false), set_config('search_path', 'public', false),
                  set_config('default_transaction_isolation', 'read committed', false),
                  set_config('jit', 'off', false),
                  to_regclass('public.schema_version') is not null"""
    ).fetchone()
    if not row or not row[4]:
        raise errors.PapertickError("papertick is not installed in this database", hint="Run: papertick db init")


@contextmanager
def session() -> Iterator[Session]:
    """The server of --dsn or DB_DSN; with neither the embedded one, started and brought up to date."""
    with Database(connection_string(upgrade=True)) as database:
        yield Session(database)


def connection_string(*, upgrade: bool = False) -> str:
    """Where to connect; `upgrade`: the embedded server's schema is first brought to this release."""
    dsn, embedded = resolve_dsn(options().dsn)
    if embedded:
        _announce(embedded)
        if upgrade:
            with Database(dsn) as database:
                database.run(install.upgrade)
    return dsn


def _announce(embedded: server.Embedded) -> None:
    if options().json:
        return
    if embedded.notice:
        click.echo(f"papertick: {embedded.notice}", err=True)
    if embedded.started:
        click.echo(f"papertick: PostgreSQL {embedded.version} started; its data is in {embedded.data_dir}", err=True)


def emit(document: object, words: str) -> None:
    """Print the result: the document with --json, else the words."""
    click.echo(to_json(document) if options().json else words)


def show_progress() -> bool:
    """Whether somebody is watching."""
    return not options().json and sys.stderr.isatty()


def get_run(s: Session, user: int, run: int) -> Row:
    """The row of a run. Raises TE204: a command that only reads has no verb to refuse for it."""
    rows = s.select("select * from strategy_run where user_id = %s and run_id = %s", user, run)
    if not rows:
        raise errors.NotFoundError(
            "unknown run",
            code="TE204",
            detail=f"user_id={user} run_id={run}",
            hint="Check user_id and run_id.",
        )
    return rows[0]


class _Shaped(click.ParamType[str]):
    """Text for PostgreSQL to read, of a shape that it cannot read in two ways."""

    def __init__(self, name: str, pattern: str, example: str) -> None:
        self.name, self._pattern, self._example = name, pattern, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(self._pattern, value, re.ASCII):
            self.fail(f"{value!r} is not like {self._example}", param, ctx)
        return str(value)


class _Keyword(click.ParamType[str]):
    """A word of the engine's, in either case."""

    name = "word"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value).upper()


NULL = object()  # an argument that is null, where None would leave it out
ID = click.IntRange(-(2**63), 2**63 - 1)
NUMBER = click.STRING  # never float: PostgreSQL reads it
KEYWORD = _Keyword()
NEGATIVE = {"ignore_unknown_options": True}  # so that -5 is a number, for the engine to refuse
TIME = _Shaped("time", csvfile.INSTANT, "2024-01-02T16:00:00-05:00 or 2024-01-02T21:00:00Z, offset included")
SECONDS = click.FloatRange(0, 86400)
MOMENT = _Shaped(
    "time", f"{csvfile.INSTANT}|{csvfile.DATE}", "2024-01-02T16:00:00-05:00, offset included, or 2024-01-02"
)
DATE = _Shaped("date", csvfile.DATE, "2024-01-31")


def of_run(command: Callable[..., None]) -> Callable[..., None]:
    """The arguments USER and RUN."""
    return click.argument("user", type=ID)(click.argument("run", type=ID)(command))
