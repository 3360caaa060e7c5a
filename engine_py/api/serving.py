"""papertick serve: checks whom the database takes us for, then serves until it is told to stop."""

from __future__ import annotations

import logging
import signal
from types import FrameType

import psycopg
import uvicorn

from engine_py.api import protocol
from engine_py.api.app import Api, Settings
from engine_py.api.database import ROLE
from engine_py.api.limits import Limits
from engine_py.db import connect
from engine_py.errors import ForbiddenError, PapertickError, from_psycopg

_HEADER_BYTES = 16 << 10


def check(dsn: str) -> bool:
    """Whether the login is a superuser. Raises when the API could not serve with it."""
    with connect(dsn) as conn:
        try:
            row = conn.execute(
                """with member as (
                     select a.rolname, pg_has_role(session_user, a.oid, 'MEMBER') as is_one from pg_roles a
                      where a.rolname in (%s, 'papertick_owner'))
                   select session_user, r.rolsuper, to_regclass('public.schema_version') is not null,
                          exists (select from member m where m.is_one and m.rolname <> 'papertick_owner'),
                          exists (select from member m where m.is_one and m.rolname = 'papertick_owner')
                     from pg_roles r where r.rolname = session_user""",
                [ROLE],
            ).fetchone()
        except psycopg.Error as exc:
            raise from_psycopg(exc) from exc
    assert row
    user, is_superuser, is_installed, is_member, is_owner = row
    if not is_installed:
        raise PapertickError("papertick is not installed in this database", hint="Run: papertick db init")
    if not is_member:
        hint = f"Connect as {ROLE} or a member of it. `papertick db init` makes the role if it may create roles."
        raise ForbiddenError(f"the login {user} is not {ROLE}", code="42501", hint=hint)
    if is_owner and not is_superuser:
        hint = f"Connect as {ROLE}, or as a member of it that is not a member of papertick_owner."
        raise ForbiddenError(f"the login {user} owns what the API must not reach", code="42501", hint=hint)
    return bool(is_superuser)


class _Server(uvicorn.Server):
    """Streams end as soon as the process is told to stop; requests in flight are answered; then it exits with 0."""

    def __init__(self, config: uvicorn.Config, api: Api) -> None:
        super().__init__(config)
        self._api = api

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
        self._api.close_streams()


def serve(
    dsn: str, *, host: str, port: int, pool: int, limits: Limits, grace: int, log_level: str, access_log: bool
) -> None:
    """Serve until SIGINT or SIGTERM."""
    api = Api(Settings(dsn, check(dsn), pool, limits))
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config = uvicorn.Config(
        api,
        host=host,
        port=port,
        http=protocol.within(limits),
        ws="none",
        lifespan="on",
        log_level=log_level,
        access_log=access_log,
        server_header=False,
        date_header=True,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=grace,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        backlog=1024,
    )
    _Server(config, api).run()


__all__ = ["check", "serve"]
