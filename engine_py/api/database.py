"""Transactions: one a request, on a pooled connection that acts for nobody until a key is proven in it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from decimal import Decimal
from functools import partial
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.abc import AdaptContext
from psycopg.adapt import Loader
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from engine_py import errors
from engine_py.api.problem import of_key
from engine_py.api.table import Identity, Results, Row, Statement

T = TypeVar("T")
Connection = psycopg.AsyncConnection[Any]

log = logging.getLogger("papertick.api")

ROLE = "papertick_api"
ATTEMPTS = 5
# Of no statement that was the last of its transaction can be said that it was not committed, unless by these.
_NOTHING_COMMITTED = frozenset({"40001", "40P01", "55P03"})
# The timeouts are those of papertick_api, whoever logs in; these where it has none.
SETTINGS: LiteralString = """
set statement_timeout = '10s'; set lock_timeout = '2s'; set idle_in_transaction_session_timeout = '5s';
set timezone = 'UTC'; set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres';
set default_transaction_isolation = 'read committed'; set search_path = public; set jit = off;
select set_config(split_part(c, '=', 1), substr(c, strpos(c, '=') + 1), false)
  from pg_db_role_setting s join pg_roles r on r.oid = s.setrole join pg_database d on d.datname = current_database()
 cross join unnest(s.setconfig) c
 where r.rolname = 'papertick_api' and s.setdatabase in (0, d.oid)
   and split_part(c, '=', 1) in ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout')
 order by s.setdatabase"""


class _Text(Loader):
    """A value as PostgreSQL prints it: a decimal to its last digit."""

    def load(self, data: psycopg.abc.Buffer) -> str:
        return bytes(data).decode()


class _Instant(Loader):
    """2024-01-02 16:00:00+00 → 2024-01-02T16:00:00Z; the sessions are in UTC."""

    def load(self, data: psycopg.abc.Buffer) -> str:
        return bytes(data).decode().replace(" ", "T").replace("+00", "Z")


def adapt(context: AdaptContext) -> None:
    """Values come as the JSON has them. For every connection of the API."""
    assert context.connection
    for name in ("numeric", "date", "interval", "datemultirange"):
        context.connection.adapters.register_loader(name, _Text)
    context.connection.adapters.register_loader("timestamptz", _Instant)
    set_json_loads(partial(json.loads, parse_float=Decimal), context)


def takes_role(is_superuser: bool) -> LiteralString:
    """A superuser passes every policy and owns everything: it becomes the API's role and cannot act otherwise."""
    return "set session authorization papertick_api;" if is_superuser else ""


class Database:
    """The pool, and what is known of keys. Who may do what is decided by the database alone, in each transaction."""

    def __init__(self, dsn: str, *, size: int, is_superuser: bool, wait: float = 2.0) -> None:
        self._role = takes_role(is_superuser)
        self.pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=size,
            timeout=wait,
            max_waiting=16 * size,
            open=False,
            configure=self._configure,
            kwargs={"autocommit": True, "application_name": "papertick api", "connect_timeout": 5},
            reconnect_timeout=30,
        )
        self._known: OrderedDict[bytes, Identity] = OrderedDict()

    async def _configure(self, conn: Connection) -> None:
        adapt(conn)
        await conn.execute(self._role + SETTINGS)

    # --- who ---

    def knows(self, key: str) -> Identity | None:
        """What authenticate() said the last time; the transaction proves it again."""
        return self._known.get(hashlib.sha256(key.encode()).digest())

    async def identify(self, key: str) -> Identity:
        known = self.knows(key)
        if known:
            return known

        async def ask(tx: Transaction, _: Results) -> tuple[Identity, list[Statement]]:
            return tx.who, []

        return await self.transact(key, [], ask)

    def _remember(self, key: str, who: Identity | None) -> None:
        digest = hashlib.sha256(key.encode()).digest()
        self._known.pop(digest, None)
        if who:
            self._known[digest] = who
            if len(self._known) > 10_000:
                self._known.popitem(last=False)

    # --- transactions ---

    async def run(self, key: str, statements: list[Statement], *, repeatable: bool, seconds: int = 0) -> Results:
        """These statements as one transaction of the key's user; repeatable ones in one round trip."""

        async def once(conn: Connection, attempt: _Attempt) -> Results:
            async with conn.pipeline():
                first = await _begin(conn, key, seconds)
                if not repeatable:  # what fails here has certainly done nothing
                    await first.fetchall()
                attempt.is_sent = True
                cursors = [await conn.execute(s.text.encode(), s.values or None) for s in statements]
                await conn.execute("commit")
            return [_rows(cursor, await _fetch(cursor)) for cursor in cursors]

        return await self._again(key, once, repeatable=repeatable)

    async def transact(
        self,
        key: str,
        first: list[Statement],
        work: Callable[[Transaction, Results], Awaitable[tuple[T, list[Statement]]]],
        *,
        seconds: int = 0,
    ) -> T:
        """One transaction of the key's user: `first`, `work` with its rows, the statements that this returns with its
        result; a round trip each. It is done again when the transaction was lost.
        """

        async def once(conn: Connection, _: _Attempt) -> T:
            async with conn.pipeline():
                cursor = await _begin(conn, key, seconds)
                cursors = [await conn.execute(s.text.encode(), s.values or None) for s in first]
            row = await cursor.fetchone()
            assert row
            who = Identity(*row)
            self._remember(key, who)
            done, last = await work(Transaction(conn, who), [_rows(c, await _fetch(c)) for c in cursors])
            async with conn.pipeline():
                for s in last:
                    await conn.execute(s.text.encode(), s.values or None)
                await conn.execute("commit")
            return done

        return await self._again(key, once, repeatable=True)

    async def _again(self, key: str, once: Callable[[Connection, _Attempt], Awaitable[T]], *, repeatable: bool) -> T:
        """At most ATTEMPTS times, after errors.RETRYABLE alone; else only if certainly nothing was done."""
        pause = 0.02
        for number in range(1, ATTEMPTS + 1):
            attempt = _Attempt()
            try:
                async with self.pool.connection() as conn:
                    return await once(conn, attempt)
            except (PoolTimeout, TooManyRequests, PoolClosed):
                raise  # they have waited already
            except psycopg.Error as exc:
                if exc.sqlstate == "28000":
                    self._remember(key, None)
                    raise of_key() from exc
                lost = exc.sqlstate is None or exc.sqlstate.startswith(("57P", "08"))
                safe = repeatable or not attempt.is_sent or exc.sqlstate in _NOTHING_COMMITTED
                if number == ATTEMPTS or not errors.is_retryable(exc) or not safe:
                    raise
                if lost:
                    await self.pool.check()  # the others are most likely as dead
                log.info("attempt %d: %s", number, exc.sqlstate or type(exc).__name__)
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause *= 3
        raise AssertionError("unreachable")


class _Attempt:
    """`is_sent`: from here on something may have been committed."""

    is_sent = False


class Transaction:
    """A transaction that has begun and whose key is proven. It commits when the work on it returns."""

    def __init__(self, conn: Connection, who: Identity) -> None:
        self.conn, self.who = conn, who

    async def run(self, statements: list[Statement]) -> Results:
        async with self.conn.pipeline():
            cursors = [await self.conn.execute(s.text.encode(), s.values or None) for s in statements]
        return [_rows(cursor, await _fetch(cursor)) for cursor in cursors]


async def _begin(conn: Connection, key: str, seconds: int) -> psycopg.AsyncCursor[Any]:
    await conn.execute("begin")
    if seconds:
        # of ours, not a client's
        await conn.execute(f"set local statement_timeout = '{seconds}s'".encode())
    return await conn.execute("select user_id, key_id, is_admin from authenticate(%s)", [key])


async def _fetch(cursor: psycopg.AsyncCursor[Any]) -> list[Any]:
    return await cursor.fetchall() if cursor.description else [()] * max(cursor.rowcount, 0)


def _rows(cursor: psycopg.AsyncCursor[Any], rows: list[Any]) -> list[Row]:
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in rows]
