"""Connections: where to, how, and again after they were lost."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

from engine_py import errors, server

T = TypeVar("T")


def resolve_dsn(option: str | None = None) -> tuple[str, server.Embedded | None]:
    """The connection string to use, and the embedded server if it comes from there.

    An explicit option wins over DB_DSN, and that over the embedded server, which is started if it has to be.
    """
    explicit = option or os.environ.get("DB_DSN")
    if explicit:
        return explicit, None
    embedded = server.ensure_running()
    return embedded.dsn, embedded


def connect(dsn: str) -> psycopg.Connection:
    """An autocommit connection that speaks UTF-8. Raises ConnectionFailedError (exit code 3) if there is none."""
    try:
        timeout = 10 if "connect_timeout" not in conninfo_to_dict(dsn) else None
        return psycopg.connect(
            dsn,
            autocommit=True,
            fallback_application_name="papertick",
            connect_timeout=timeout,
            client_encoding="UTF8",  # whatever PGCLIENTENCODING or the server has: we send and read any text
        )
    except psycopg.ProgrammingError as exc:  # libpq could not read the string itself
        raise errors.UsageError(f"not a connection string: {exc}", hint="See DB_DSN in the README.") from exc
    except psycopg.Error as exc:
        raise errors.from_psycopg(exc) from exc


def with_retry(fn: Callable[[], T], *, attempts: int = 5, budget: float = 10.0) -> T:
    """Call `fn` until it succeeds, at most `attempts` times within `budget` seconds.

    Only errors.RETRYABLE is tried again, after a jittered pause that grows from 50 ms to 2 s. `fn` must be one
    whole transaction (see Database.run). The last error is raised as a PapertickError.
    """
    deadline = time.monotonic() + budget
    pause = 0.05
    for attempt in range(1, attempts + 1):
        try:
            return fn()
        except (psycopg.Error, errors.PapertickError) as exc:
            wait = random.uniform(pause / 2, pause)
            if attempt == attempts or not errors.is_retryable(exc) or time.monotonic() + wait > deadline:
                raise errors.from_psycopg(exc) from exc
            time.sleep(wait)
            pause = min(pause * 3.5, 2.0)
    raise ValueError("attempts must be at least 1")


class Database:
    """One connection, opened again when it is gone. The first is opened at once, so that errors show early."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._conn = connect(dsn)

    @property
    def conn(self) -> psycopg.Connection:
        if self._conn.closed:
            self._conn = connect(self.dsn)
        return self._conn

    def run(self, fn: Callable[[psycopg.Connection], T], *, attempts: int = 5) -> T:
        """`fn(connection)` under with_retry, reconnecting in between when the connection was lost."""
        return with_retry(lambda: fn(self.conn), attempts=attempts)

    def close(self) -> None:
        self._conn.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
