"""One page for everything that can go wrong: SQLSTATE -> exception -> HTTP status -> exit code.

Exit codes: 1 refused or violated, 2 usage, 3 the server cannot be reached. Every exception carries
`code` (the SQLSTATE, or None), `detail` and `hint`, so that the CLI and the HTTP API show the same words.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

try:
    import psycopg
except ImportError as exc:  # no binary wheel for this platform, and no libpq on it either
    raise ImportError(
        f"{exc}\npsycopg found no libpq. Install 'psycopg[binary]', or your system's libpq (Debian: libpq5)."
    ) from exc


def printable(words: str) -> str:
    """Nothing that could drive the terminal."""
    return "".join(char if char.isprintable() else "?" for char in words)


class PapertickError(Exception):
    """An error with a SQLSTATE, a detail and a hint; `http_status` and `exit_code` are how the doors report it."""

    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(
        self, message: str, *, code: str | None = None, detail: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.detail = detail
        self.hint = hint

    @property
    def message(self) -> str:
        """What is wrong, without the detail and the hint."""
        return str(self.args[0])

    def __str__(self) -> str:
        """`unknown run (user_id=1 run_id=9). Check user_id and run_id.`; a detail that is a list follows below."""
        detail = (self.detail or "").strip()
        line = " ".join(self.message.split()).rstrip(".")
        if detail and "\n" not in detail:
            line += f" ({printable(detail)})"
        line += "" if line.endswith(("?", "?)")) else "."  # click asks: did you mean …?
        line += f" {self.hint}" if self.hint else ""
        return line + "".join(f"\n  {printable(part)}" for part in detail.split("\n") if "\n" in detail)


class ConflictError(PapertickError):
    """The state does not allow it: run not RUNNING, duplicate, missing parent."""

    http_status = 409


class InvalidError(PapertickError):
    """An argument or a value is wrong."""

    http_status = 422


class NotFoundError(PapertickError):
    """Unknown symbol, feed, run or price."""

    http_status = 404


class ForbiddenError(PapertickError):
    """Not yours, or not allowed for this role."""

    http_status = 403


class UnauthorizedError(PapertickError):
    """No key, or one that is unknown, revoked or expired."""

    http_status = 401


class TooSlowError(PapertickError):
    """The statement ran out of the time that it had; nothing of it is stored."""

    http_status = 504


class BusyError(PapertickError):
    """Lost a race with another session, and the retries too. The same call again is safe."""

    http_status = 503


class UsageError(PapertickError):
    """The call itself is malformed."""

    http_status = 400
    exit_code = 2


class ConnectionFailedError(PapertickError):
    """The server cannot be reached, or the connection to it was lost."""

    http_status = 503
    exit_code = 3


class ServerError(PapertickError):
    """The embedded server cannot be found, started or stopped. Always has a hint."""

    http_status = 503
    exit_code = 3


# The longest prefix of the SQLSTATE that stands here decides; anything else is a plain PapertickError.
_BY_CODE: dict[str, type[PapertickError]] = {
    "TE0": ConflictError,
    "23505": ConflictError,  # unique_violation
    "23503": ConflictError,  # foreign_key_violation
    "TE1": InvalidError,
    "22": InvalidError,  # data exceptions: not a number, out of range
    "23514": InvalidError,  # check_violation
    "23502": InvalidError,  # not_null_violation
    "TE2": NotFoundError,
    "TE3": ForbiddenError,
    "42501": ForbiddenError,  # insufficient_privilege
    "28000": UnauthorizedError,  # authenticate(); a refused login has no SQLSTATE, because the client never gets in
    "57014": TooSlowError,  # statement_timeout
    "40001": BusyError,
    "40P01": BusyError,
    "55P03": BusyError,
    "08": ConnectionFailedError,
    "28": ConnectionFailedError,  # any other: wrong account or password
    "3D000": ConnectionFailedError,  # no such database
    "53300": ConnectionFailedError,  # too many connections
    "57P": ConnectionFailedError,  # the server is stopping, crashed or starting
}

# The same call may be repeated after these, and after a lost connection (no SQLSTATE at all): with the same
# logical_time that is safe even if the first answer was lost on its way. "08" stands for its whole class.
RETRYABLE: frozenset[str | None] = frozenset({"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "08", None})

_NOT_INSTALLED = {"42P01", "42883", "3F000"}  # undefined table, function, schema


def from_psycopg(exc: BaseException) -> PapertickError:
    """The exception of ours that `exc` stands for; one that is ours already comes back unchanged."""
    if isinstance(exc, PapertickError):
        return exc
    if not isinstance(exc, psycopg.Error):
        return PapertickError(str(exc))
    code = exc.sqlstate
    if code is None:
        # Without a SQLSTATE the server never spoke: it is out of reach, or the client refused to send.
        if isinstance(exc, psycopg.OperationalError):
            text = str(exc).strip() or "the connection was lost"
            refused = "FATAL" in text  # the server is up and said no
            return ConnectionFailedError(
                text,
                hint="The server is up but refused: check user and database name; a new database is made with createdb."
                if refused
                else "If the server went away, the same command again is safe. Else check DB_DSN or --dsn; "
                "without them papertick starts its own.",
            )
        return PapertickError(str(exc).strip())
    kind = next((_BY_CODE[code[:n]] for n in range(len(code), 1, -1) if code[:n] in _BY_CODE), PapertickError)
    hint = exc.diag.message_hint
    if code in _NOT_INSTALLED and hint is None:
        hint = "Is papertick installed in this database? See `papertick db status`."
    message = exc.diag.message_primary or str(exc).strip()
    return kind(message, code=code, detail=exc.diag.message_detail, hint=hint)


def is_retryable(exc: BaseException) -> bool:
    """Whether the same call again may succeed and is safe (see RETRYABLE)."""
    if isinstance(exc, psycopg.Error):
        code = exc.sqlstate
        if code is None:
            return isinstance(exc, psycopg.OperationalError)
    elif isinstance(exc, ConnectionFailedError | BusyError):
        code = exc.code
    else:
        return False
    return code in RETRYABLE or (code or "")[:2] in RETRYABLE


@contextmanager
def mapped() -> Iterator[None]:
    """Raise PapertickError in place of psycopg's errors."""
    try:
        yield
    except psycopg.Error as exc:
        raise from_psycopg(exc) from exc
