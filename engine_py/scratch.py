"""A database on the user's server for one piece of work, and gone afterwards."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import sql
from psycopg.conninfo import make_conninfo

from engine_py import errors
from engine_py.db import connect


@contextmanager
def scratch_database(dsn: str) -> Iterator[str]:
    """An empty one beside the one named; dropped whatever happens. Yields its connection string.

    Raises ForbiddenError (42501) if the role cannot create databases.
    """
    name = f"papertick_bench_{secrets.token_hex(4)}"
    with connect(dsn) as admin:
        role = admin.execute(
            "select rolname, rolsuper or rolcreatedb from pg_roles where rolname = current_user"
        ).fetchone()
        if not role or not role[1]:
            raise errors.ForbiddenError(
                "this runs in a database of its own, and this role cannot create one",
                code="42501",
                detail=f"role={role and role[0]}",
                hint=f"An administrator can allow it: alter role {role and role[0]} createdb",
            )
        admin.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
    try:
        yield make_conninfo(dsn, dbname=name)
    finally:
        with connect(dsn) as admin:  # again: the first may have been lost
            admin.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
