"""papertick serve, key: the HTTP API, and the keys that open it."""

from __future__ import annotations

import click

from engine_py import errors
from engine_py.cli_base import ID, TIME, Command, Group, connection_string, emit, session
from engine_py.render import table

_KEY = ("key_id", "label", "prefix", "is_admin", "created_at", "expires_at", "revoked_at", "last_used_at")


@click.command(cls=Command)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: a free one.")
@click.option("--pool", default=10, show_default=True, type=click.IntRange(1, 500), help="Connections to the database.")
@click.option("--max-body", default=1 << 20, show_default=True, type=click.IntRange(1024), help="Bytes of a body.")
@click.option("--max-upload", default=256 << 20, show_default=True, type=click.IntRange(1024), help="Bytes of a file.")
@click.option("--rate", default=1000.0, show_default=True, type=click.FloatRange(0), help="Requests a second per key.")
@click.option("--body-timeout", default=30.0, show_default=True, type=click.FloatRange(0.1), help="Seconds for a body.")
@click.option("--head-timeout", default=5.0, show_default=True, type=click.FloatRange(0.1), help="Seconds for a head.")
@click.option(
    "--write-timeout",
    default=20.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Seconds to read an answer.",
)
@click.option("--heartbeat", default=15.0, show_default=True, type=click.FloatRange(0.1), help="Of a quiet stream.")
@click.option("--grace", default=30, show_default=True, type=click.IntRange(1), help="Seconds to finish when stopped.")
@click.option(
    "--log-level", default="info", type=click.Choice(["debug", "info", "warning", "error"]), help="How much to log."
)
@click.option("--access-log", is_flag=True, help="Log every request.")
def serve(
    host: str,
    port: int,
    pool: int,
    max_body: int,
    max_upload: int,
    rate: float,
    body_timeout: float,
    head_timeout: float,
    write_timeout: float,
    heartbeat: float,
    grace: int,
    log_level: str,
    access_log: bool,
) -> None:
    """Serve the HTTP API; its description is at /docs.

    The login of --dsn is papertick_api or a member of it. A superuser's connections become papertick_api.
    """
    try:
        from engine_py.api import limits, serving
    except ImportError as exc:
        raise errors.UsageError(
            f"the HTTP API is not installed: {exc}", hint="Install it: pip install 'papertick[api]'"
        ) from exc
    dsn = connection_string(upgrade=True)
    serving.serve(
        dsn,
        host=host,
        port=port,
        pool=pool,
        limits=limits.Limits(rate, max_body, max_upload, body_timeout, head_timeout, write_timeout, heartbeat),
        grace=grace,
        log_level=log_level,
        access_log=access_log,
    )


@click.group(cls=Group)
def key() -> None:
    """Keys of the HTTP API."""


@key.command("create")
@click.argument("user", type=ID)
@click.option("--label", help="To know it by.")
@click.option("--expires", type=TIME, help="When it ends. Default: never.")
@click.option("--admin", is_flag=True, default=None, help="It may also make users and keys, and load market data.")
def key_create(user: int, label: str | None, expires: str | None, admin: bool | None) -> None:
    """Create a key of USER. It is shown this once; only its hash is kept."""
    with session() as s:
        row = s.call_once("create_key", user_id=user, label=label, expires_at=expires, is_admin=admin)
    emit(row, row["key"])


@key.command("list")
@click.argument("user", type=ID)
def key_list(user: int) -> None:
    """The keys of USER, without their secrets."""
    with session() as s:
        rows = s.call_rows("list_keys", once=False, user_id=user)
    emit(rows, table(rows, _KEY))


@key.command("revoke")
@click.argument("user", type=ID)
@click.argument("key_id", type=ID)
def key_revoke(user: int, key_id: int) -> None:
    """Revoke a key: no new request can use it, and its streams end."""
    with session() as s:
        revoked_at = s.call("revoke_key", user_id=user, key_id=key_id)["revoke_key"]
    emit({"user_id": user, "key_id": key_id, "revoked_at": revoked_at}, f"key {key_id} of user {user} is revoked")
