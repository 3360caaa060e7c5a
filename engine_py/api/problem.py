"""Refusals as application/problem+json (RFC 9457)."""

from __future__ import annotations

import json
import re

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from engine_py import errors

MEDIA_TYPE = "application/problem+json"
SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail", "hint"],
    "additionalProperties": False,
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "code": {"type": "string", "description": "The SQLSTATE of the engine's refusal, or a word of the API's own."},
        "detail": {"type": ["string", "null"], "description": "`key=value` pairs, or the first problems of an upload."},
        "hint": {"type": ["string", "null"]},
    },
}

# The engine's own details are pairs; PostgreSQL's may quote rows, and stay here.
_PAIRS = re.compile(r"\w+=")
_RETRY_AFTER = {"Retry-After": "1"}
_CONSTRAINTS = {
    "23503": "it names something that does not exist",
    "23505": "there is one already",
    "23514": "a value is out of its bounds",
}


class Problem(Exception):
    """An answer that is no success. `code` is a SQLSTATE, or a word of the API's own."""

    def __init__(
        self,
        status: int,
        code: str,
        title: str,
        *,
        detail: str | None = None,
        hint: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(title)
        self.status, self.code, self.title, self.detail, self.hint = status, code, title, detail, hint
        self.headers = headers or {}

    def document(self) -> dict[str, object]:
        return {
            "type": f"urn:papertick:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "hint": self.hint,
        }

    def body(self) -> bytes:
        return json.dumps(self.document(), separators=(",", ":")).encode()


def invalid(title: str, *, field: str | None = None, hint: str | None = None, code: str = "invalid") -> Problem:
    """422: what came in cannot be passed on to the engine."""
    return Problem(422, code, title, detail=None if field is None else f"field={field}", hint=hint)


def unknown_run(user_id: int, run_id: int) -> Problem:
    """As the engine says it, for what has no verb to refuse; of another's run too."""
    return Problem(
        404,
        "TE204",
        "unknown run",
        detail=f"user_id={user_id} run_id={run_id}",
        hint="Check user_id and run_id.",
    )


def not_found(what: str) -> Problem:
    return Problem(404, "not_found", f"unknown {what}")


def of_key(title: str = "no such key") -> Problem:
    return Problem(
        401,
        "28000",
        title,
        hint="Send the header Authorization: Bearer KEY, with a key that is neither revoked nor expired.",
        headers={"WWW-Authenticate": "Bearer"},
    )


def busy() -> Problem:
    return Problem(
        503, "busy", "too many requests at once", hint="The same request again is safe.", headers=_RETRY_AFTER
    )


def from_error(exc: BaseException) -> Problem:
    """What a client may know of an exception. Whatever is not the client's doing is told without its words."""
    if isinstance(exc, Problem):
        return exc
    if isinstance(exc, PoolTimeout | TooManyRequests | PoolClosed):
        return busy()
    if not isinstance(exc, errors.PapertickError | psycopg.Error):
        return Problem(500, "internal", "an error of the API's own", hint="The log of the API says more.")
    error = errors.from_psycopg(exc)
    code = error.code or ("unavailable" if error.http_status >= 500 else "invalid")
    if isinstance(error, errors.UnauthorizedError):
        return of_key()
    if isinstance(error, errors.BusyError):
        return Problem(503, code, "another request was quicker", hint="Send it again.", headers=_RETRY_AFTER)
    if isinstance(error, errors.TooSlowError):
        return Problem(504, code, "it took too long", hint="Ask for less at once.", headers=_RETRY_AFTER)
    if isinstance(error, errors.ConnectionFailedError):
        return Problem(503, code, "the database cannot be reached", hint="Send it again.", headers=_RETRY_AFTER)
    if error.http_status >= 500:
        return Problem(500, "internal", "an error of the API's own", hint="The log of the API says more.")
    constraint = exc.diag.constraint_name if isinstance(exc, psycopg.Error) else None
    if constraint and code in _CONSTRAINTS:  # PostgreSQL's own words name tables
        return Problem(error.http_status, code, _CONSTRAINTS[code], detail=f"constraint={constraint}")
    report = hasattr(error, "report")  # of an upload: its lines
    detail = error.detail if report or _PAIRS.match(error.detail or "") else None
    return Problem(error.http_status, code, error.message, detail=detail, hint=error.hint)
