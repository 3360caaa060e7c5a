"""The library: `with papertick.connect() as pt: run = pt.start_run(pt.create_user("ada"), 100_000)`.

Thin: each method is one call of a verb or one SELECT, and what it returns is read from the database each time. Verbs
are called by name, so what one of them has gained can be passed too, though it is not in a method's signature yet.

Times are datetimes with a zone, and come back in UTC; numbers are int, str, Decimal or float (by its shortest decimal),
and come back as Decimal. None leaves an argument to the engine's default, NULL passes null. What is refused raises an
exception of engine_py.errors with `code`, `detail` and `hint`; a lost connection is opened again and the call repeated
where that is safe, as `db.Database` says. One thread at a time: a connection a thread.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import date as Date
from decimal import Decimal
from functools import partial
from inspect import signature
from typing import Any, LiteralString, TypeVar, cast

import psycopg
from psycopg import pq
from psycopg.sql import SQL, Composed, Identifier
from psycopg.types.json import set_json_loads

from engine_py import feed as feeds
from engine_py import install, rows
from engine_py.arguments import NULL, Moment, Number, argument_text, moment_text
from engine_py.cli_base import prepare
from engine_py.client_run import Run, User
from engine_py.db import Database, resolve_dsn
from engine_py.dialects.said import options_of, python_words
from engine_py.errors import PapertickError, from_psycopg
from engine_py.results import Rows, columns_of, row_factory
from engine_py.staging import LoadReport

T = TypeVar("T")
Connection = psycopg.Connection[Any]


def connect(target: str | Connection | None = None) -> Papertick:
    """A papertick: of a connection string, of DB_DSN, or of the embedded server, started and brought up to date.

    With a psycopg connection everything happens on that one, in the caller's transaction: nothing is committed, rolled
    back, repeated or set there, and closing is the caller's. Raises ConnectionFailedError.
    """
    if isinstance(target, psycopg.Connection):
        return Papertick(_Borrowed(target))
    dsn, embedded = resolve_dsn(target)
    database = Database(dsn)
    if embedded:
        database.run(install.upgrade)
    return Papertick(_Owned(database))


class _Owned:
    """A connection of our own: settings as the command line has them, and again after it was lost."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._prepared: Connection | None = None
        self.run(lambda conn: None, repeatable=True)

    def run(self, work: Callable[[Connection], T], *, repeatable: bool) -> T:
        in_transaction = self.conn.info.transaction_status != pq.TransactionStatus.IDLE

        def once(conn: Connection) -> T:
            if conn is not self._prepared:
                prepare(conn)
                self._prepared = conn
            return work(conn)

        return self._database.run(once, attempts=5 if repeatable and not in_transaction else 1)

    @property
    def conn(self) -> Connection:
        return self._database.conn

    def close(self) -> None:
        self._database.close()


class _Borrowed:
    """The caller's."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn

    def run(self, work: Callable[[Connection], T], *, repeatable: bool) -> T:
        try:
            return work(self.conn)
        except psycopg.Error as exc:
            raise from_psycopg(exc) from exc

    def close(self) -> None:
        """Not ours."""


class Papertick:
    """A database with papertick in it. Has no state but its connection."""

    def __init__(self, session: _Owned | _Borrowed) -> None:
        self._session = session

    # --- the connection

    @property
    def connection(self) -> Connection:
        """psycopg's, in autocommit unless it is the caller's own."""
        return self._session.conn

    def transaction(self) -> AbstractContextManager[object]:
        """What happens inside is committed together or not at all, and nothing of it is repeated."""
        return self._session.conn.transaction()

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> Papertick:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- SQL

    def sql(self, query: LiteralString, *values: object, **named: object) -> Rows[Any]:
        """The rows of any statement. Values as psycopg has them: %s for each, or %(name)s by name."""
        given: Any = named or values or None
        return self.retrying(lambda conn: _fetch(conn, query, given, None), repeatable=False)

    def select(self, kind: type[T], query: LiteralString | Composed, *values: object) -> Rows[T]:
        """The rows of a SELECT, as one of the NamedTuples of engine_py.rows (or like them)."""
        return self.retrying(lambda conn: _fetch(conn, query, values, kind), repeatable=True)

    def call(self, verb: str, /, **arguments: object) -> Rows[Any]:
        """Any verb by its name, arguments without `p_`: pt.call("feed_status", feed="bundled")."""
        return self.call_rows(None, verb, arguments, repeatable=False)

    def call_rows(
        self, kind: type[T] | None, verb: str, arguments: dict[str, object], *, repeatable: bool = True
    ) -> Rows[T]:
        query, values = _call("select * from public.{}({})", verb, arguments)
        return self.retrying(lambda conn: _fetch(conn, query, values, kind), repeatable=repeatable)

    def call_value(self, verb: str, arguments: dict[str, object], *, repeatable: bool = True) -> Any:
        """What a function returns that gives one value."""
        found: Any = self.call_rows(None, verb, arguments, repeatable=repeatable)[0]
        return found[0]

    def do(self, procedure: str, /, **arguments: object) -> None:
        """CALL a procedure: tick, replay, tick_all. All of them may be called again."""
        query, values = _call("call public.{}({})", procedure, arguments)
        self.retrying(lambda conn: conn.execute(query, values), repeatable=True)

    def retrying(self, work: Callable[[Connection], T], *, repeatable: bool = True) -> T:
        """`work(connection)`; again after a lost connection if that is safe, and nothing was begun before."""
        try:
            return self._session.run(work, repeatable=repeatable)
        except PapertickError as error:
            if error.code:
                error.add_note(error.code)  # a traceback shows it below the message
            raise error from None if (error.code or "").startswith("TE") else error.__cause__

    def given(self, verb: str, arguments: dict[str, object]) -> dict[str, object]:
        """The arguments of a method, those of **more too. Raises TypeError for one that the verb does not have."""
        arguments = {name: value for name, value in arguments.items() if name != "self"}
        more = cast(dict[str, object], arguments.pop("more", {}))
        if more:
            known = self.parameters(verb)
            unknown = sorted(set(more) - set(known))
            if unknown:
                raise TypeError(f"{verb}() has no parameter {', '.join(unknown)}; it has: {', '.join(known)}")
        return {**arguments, **more}

    def parameters(self, verb: str) -> list[str]:
        """The names of a verb's parameters in this database, without `p_`."""
        found = self.sql(
            """select substr(u.name, 3) from pg_catalog.pg_proc p
                cross join unnest(p.proargnames[1:p.pronargs]) with ordinality u (name, n)
                where p.pronamespace = 'public'::regnamespace and p.proname = %s order by u.n""",
            verb,
        )
        return [row[0] for row in found]

    # --- users and runs

    def create_user(self, name: str) -> User:
        """A new user. Names need not be unique."""
        return self.user(self.call_value("create_user", {"name": name}, repeatable=False))

    def user(self, user_id: int) -> User:
        """The user with this id. Nothing is looked up."""
        return User(self, int(user_id))

    def users(self) -> Rows[rows.AppUser]:
        return self.select(rows.AppUser, "select * from public.app_user order by user_id")

    def get_run(self, user: User | int, run_id: int) -> Run:
        """The run with this key. Nothing is looked up."""
        return Run(self, int(user), int(run_id))

    def runs(self) -> Rows[rows.RunRow]:
        """Every run that the connection's role may see."""
        return self.select(rows.RunRow, "select * from public.strategy_run order by user_id, run_id")

    def start_run(
        self,
        user: User | int,
        initial_cash: Number,
        feed: str | None = None,
        name: str | None = None,
        *,
        participation: Number | None = None,
        slippage_bps: Number | None = None,
        fee_schedule: str | None = None,
        mark_policy: str | None = None,
        currency: str | None = None,
        volume_impact: Number | None = None,
        penetration_ticks: int | None = None,
        max_price_age: object = None,
        reinvest_dividends: bool | None = None,
        initial_margin: Number | None = None,
        maintenance_margin: Number | None = None,
        borrow_rate: Number | None = None,
        margin_rate: Number | None = None,
        **more: object,
    ) -> Run:
        """A RUNNING run of a user, who can have one at a time (ConflictError, 23505)."""
        arguments = self.given("start_run", locals())
        arguments["user_id"] = int(cast(Any, arguments.pop("user")))
        run_id = self.call_value("start_run", arguments, repeatable=False)
        return self.get_run(int(user), run_id)

    # --- all runs

    def tick_all(
        self,
        logical_time: Moment,
        feed: str | None = None,
        *,
        commit_every: int | None = None,
        since: Moment | None = None,
        **more: object,
    ) -> None:
        """One time of every RUNNING run of a feed. A run that fails goes to ERROR, the others go on."""
        arguments = self.given("tick_all", locals())
        for name in ("logical_time", "since"):
            arguments[name] = self.instant(feed or "default", cast(Any, arguments[name]))
        self.do("tick_all", **arguments)

    def leaderboard(
        self,
        metric: str | None = None,
        feed: str | None = None,
        limit: int | None = 20,
        name_like: str | None = None,
        user_like: str | None = None,
        **more: object,
    ) -> Rows[rows.LeaderboardRow]:
        """The best runs by one metric, with all their numbers; limit None: all of them."""
        arguments = self.given("leaderboard", locals())
        if limit is None:
            arguments["limit"] = NULL
        return self.call_rows(rows.LeaderboardRow, "leaderboard", arguments)

    def violations(self) -> Rows[rows.Violation]:
        """Every broken invariant of every run: none."""
        query = "select * from public.violations order by user_id, run_id, rule, detail"
        return cast(Rows[rows.Violation], self.retrying(lambda conn: _fetch(conn, query, (), None), repeatable=True))

    # --- market data

    def load_bars(
        self,
        source: Any,
        feed: str,
        *,
        symbol: str | None = None,
        calendar: str | None = None,
        adjusted: bool | None = None,
        format: str = "auto",
        names: Mapping[str, str] | None = None,
        date_format: str | None = None,
        time_zone: str | None = None,
        interval: str | int | None = None,
        date: str | Date | None = None,
        decimal_comma: bool = False,
        thousands: str | None = None,
        delimiter: str | None = None,
        series: str | Iterable[str] | None = None,
        only: str | Iterable[str] | None = None,
        skip_bad: bool = False,
        strict: bool = False,
        dry_run: bool = False,
    ) -> LoadReport:
        """Bars from a file of any dialect, by its path or opened, or from a table of pandas, polars or Arrow.

        The options are those of `papertick feed load`; docs/python.md has them as they are called here. Raises
        FeedError with the lines that are wrong, and UsageError for what must be said and was not.
        """
        arguments = dict(locals())
        said: Any = {name: arguments[name] for name in ("calendar", "skip_bad", "strict", "dry_run")}
        form: Any = {name: arguments[name] for name in signature(options_of).parameters}
        is_stream = hasattr(source, "read")  # what has been read of it is gone

        def work(conn: Connection) -> LoadReport:
            if is_stream or isinstance(source, str) or hasattr(source, "__fspath__"):
                with python_words():
                    return feeds.load_files(conn, [source], feed=feed, options=options_of(**form), **said)
            from engine_py import frames

            return frames.load_bars(conn, source, feed=feed, **said, **form)

        return self.retrying(work, repeatable=not is_stream)

    def load_bundled(self, feed: str = "bundled") -> LoadReport:
        """The bars, splits and dividends that come along: five US stocks, 2000 to 2013."""
        return self.retrying(lambda conn: feeds.load_bundled(conn, feed), repeatable=True)

    def instant(self, feed: str, moment: Moment | None) -> str | None:
        """A time as text; a date stands for the close of its session. Raises InvalidError when there is none, and
        UsageError for a time without its offset.
        """
        if moment is None or moment is cast(Any, NULL):
            return moment
        text, is_date = moment_text(moment)
        if not is_date:
            return text
        return self.retrying(lambda conn: feeds.close_of(conn, feed, text), repeatable=True)


def _call(frame: LiteralString, verb: str, arguments: dict[str, object]) -> tuple[Composed, list[str | None]]:
    """A call by names; what is None is left to the default that the verb has for it."""
    given = {name: argument_text(verb, name, value) for name, value in arguments.items() if value is not None}
    parts = [SQL("{} => %s").format(Identifier(f"p_{name}")) for name in given]
    return SQL(frame).format(Identifier(verb), SQL(", ").join(parts)), list(given.values())


def _fetch(conn: Connection, query: Any, values: Sequence[object] | dict[str, object] | None, kind: Any) -> Rows[Any]:
    with conn.cursor(row_factory=row_factory(kind)) as cursor:
        set_json_loads(partial(json.loads, parse_float=Decimal), cursor)
        cursor.execute(query, values)
        if cursor.description is None:
            return Rows()
        return Rows(cursor.fetchall(), columns_of(cursor, kind._fields if kind else None))
