"""Idempotency-Key: the effect of a request and what it was answered are one transaction."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

from engine_py.api.problem import Problem, invalid
from engine_py.api.table import Statement

HEADER = "Idempotency-Key"
REPLAYED = {"Idempotent-Replayed": "true"}

SAVEPOINT, UNDO = Statement("savepoint effect"), Statement("rollback to savepoint effect")


@dataclass(frozen=True)
class Sent:
    """An answer as bytes."""

    status: int
    media_type: str
    body: bytes
    location: str | None = None
    is_replayed: bool = False
    headers: dict[str, str] = field(default_factory=dict)


def read_key(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[\x20-\x7e]{1,255}", value):
        raise invalid("Idempotency-Key must be 1 to 255 printable ASCII characters", field="Idempotency-Key")
    return value


def prefix_of(method: str, path: str, query: str) -> bytes:
    return f"{method}\0{path}\0{query}\0".encode()


def fingerprint_of(method: str, path: str, query: str, body: bytes) -> bytes:
    return hashlib.sha256(prefix_of(method, path, query) + body).digest()


def claim(user_id: int, key: str, fingerprint: bytes) -> Statement:
    return Statement("select * from claim_answer(%s, %s, %s)", [str(user_id), key, "\\x" + fingerprint.hex()])


def keep(user_id: int, key: str, fingerprint: bytes, sent: Sent) -> Statement:
    values = [str(user_id), key, "\\x" + fingerprint.hex(), str(sent.status), sent.media_type, sent.location]
    return Statement("select keep_answer(%s, %s, %s, %s, %s, %s, %s)", [*values, "\\x" + sent.body.hex()])


def claimed(row: dict[str, Any]) -> Sent | None:
    """The kept answer; None: do it now. Raises 422 and 409."""
    if row["state"] == "OTHER":
        raise Problem(
            422,
            "idempotency_key_reused",
            "the Idempotency-Key belongs to another request",
            hint="Use a new key for a new request.",
        )
    if row["state"] == "BUSY":
        raise Problem(
            409,
            "idempotency_key_busy",
            "a request with this Idempotency-Key is being done",
            hint="Send it again to get its answer.",
            headers={"Retry-After": "1"},
        )
    if row["state"] == "NEW":
        return None
    return Sent(row["status"], row["content_type"], bytes(row["body"]), row["location"], True)
