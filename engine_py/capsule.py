"""A capsule: one zip file with a run and what its past stands on, a JSON object a line, and a manifest.

The same rows give the same bytes: fixed order, fixed times in the zip, no wall clock. (The bytes are those of one
zlib; the manifest, with the SHA-256 of every member, is the same everywhere.) Reading trusts nothing: a member has
a known name, the length and the hash that the manifest says, and the whole a largest size. Nothing is ever unpacked
to disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeGuard

from engine_py.errors import InvalidError, PapertickError, UsageError

FORMAT = "papertick-capsule"
FORMAT_VERSION = 1
MAX_BYTES = 4 << 30  # of all members, unpacked
_MAX_MANIFEST = 1 << 20
_MAX_LINE = 16 << 20
_MANIFEST = "manifest.json"
# As engine.capsule_tables() has them; tests/test_capsule.py compares.
RUN_TABLES = (
    *("strategy_run", "engine_state", "engine_status", "paper_order", "paper_trade", "trade_fee", "cash_ledger"),
    *("paper_position", "mtm_ledger", "paper_equity_curve", "event_ledger", "dividend_due", "rebalance_plan"),
    *("target_weight", "sip_plan", "risk_limit", "forbidden_symbol"),
)
SHARED_TABLES = ("calendar", "market_session", "feed", "instrument", "price_bar", "corporate_action", "fee_schedule")
AHEAD_TABLES = ("market_session", "instrument", "price_bar", "corporate_action")
_MEMBERS = frozenset(
    f"{part}/{table}.ndjson"
    for part, tables in (("run", RUN_TABLES), ("market", SHARED_TABLES), ("ahead", AHEAD_TABLES))
    for table in tables
)


@dataclass(frozen=True)
class Member:
    """One table's rows. name: run/…, market/… (what the past stands on) or ahead/… (what only later ticks ask for)."""

    name: str
    rows: int
    bytes: int
    sha256: str

    @property
    def part(self) -> str:
        return self.name.partition("/")[0]

    @property
    def table(self) -> str:
        return self.name.partition("/")[2].removesuffix(".ndjson")


def tampered(message: str, detail: str | None = None) -> PapertickError:
    hint = "It is not as it was written: fetch it again from where it came from."
    return PapertickError(message, code="TE901", detail=detail, hint=hint)


class Writer:
    """Writes a capsule to PATH: whole, or not at all."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.members: list[Member] = []

    def add(self, name: str, blocks: Iterable[bytes]) -> Member:
        """A member of these blocks, each of whole lines. One without rows is left out."""
        total, size, rows = hashlib.sha256(), 0, 0
        source = iter(blocks)
        first = next((block for block in source if block), b"")
        if first:
            with self._archive.open(_entry(name), "w", force_zip64=True) as out:
                for block in _chain(first, source):
                    out.write(block)
                    total.update(block)
                    size += len(block)
                    rows += block.count(b"\n")
        member = Member(name, rows, size, total.hexdigest())
        if rows:
            self.members.append(member)
        return member

    def add_file(self, file: Path) -> None:
        """Any other file, under its own name."""
        with file.open("rb") as source, self._archive.open(_entry(file.name), "w", force_zip64=True) as out:
            shutil.copyfileobj(source, out, 1 << 20)

    def finish(self, head: dict[str, Any]) -> dict[str, Any]:
        manifest = {"format": FORMAT, "format_version": FORMAT_VERSION, **head}
        manifest["members"] = [asdict(member) for member in self.members]
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        self._archive.writestr(_entry(_MANIFEST), text.encode())
        return manifest


@contextmanager
def write(path: Path) -> Iterator[Writer]:
    """The file is there when all of it is on disk."""
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
                yield Writer(archive)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_directory(path.parent)
    except OSError as exc:
        raise UsageError(f"cannot write {path}: {exc.strerror or exc}") from exc
    finally:
        partial.unlink(missing_ok=True)


def sync_directory(folder: Path) -> None:
    """So that a new name in it survives a power failure."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3  # as Unix writes it, on Windows too
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


class Capsule:
    """A capsule that has been opened, and whose every byte has been checked."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.manifest = self._read_manifest()
        self.members = {member.name: member for member in (Member(**entry) for entry in self.manifest["members"])}
        self._check_names()
        for member in self.members.values():
            self._check(member)

    @property
    def digest(self) -> str:
        return str(self.manifest["digest"])

    @property
    def run(self) -> dict[str, Any]:
        """name, status, feed, calendar, … of the run."""
        return dict(self.manifest["run"])

    def lines(self, name: str) -> Iterator[str]:
        """The rows of a member, as they stand there; none if there is no such member."""
        if name in self.members:
            with self._archive.open(name) as file:
                while line := file.readline(_MAX_LINE):
                    if not line.endswith(b"\n"):
                        raise tampered(f"a row of {name} is too long, or its end is missing")
                    yield line[:-1].decode()

    def chunks(self, name: str, size: int = 1 << 20) -> Iterator[list[str]]:
        """The same, so many characters at a time."""
        chunk: list[str] = []
        length = 0
        for line in self.lines(name):
            chunk.append(line)
            length += len(line)
            if length >= size:
                yield chunk
                chunk, length = [], 0
        if chunk:
            yield chunk

    def _read_manifest(self) -> dict[str, Any]:
        names = [info.filename for info in self._archive.infolist()]
        if names.count(_MANIFEST) != 1 or self._archive.getinfo(_MANIFEST).file_size > _MAX_MANIFEST:
            raise InvalidError("not a capsule: no manifest", code="22023", hint="papertick export RUN writes one.")
        try:
            manifest = json.loads(self._archive.read(_MANIFEST))
        except (ValueError, RecursionError) as exc:
            raise _unreadable("JSON is broken") from exc
        version = manifest.get("format_version") if isinstance(manifest, dict) else None
        if _is_count(version) and version > FORMAT_VERSION and manifest.get("format") == FORMAT:
            raise InvalidError(
                f"a capsule of format {version}, and this papertick knows only {FORMAT_VERSION}",
                code="0A000",
                hint=f"Install papertick {manifest.get('papertick')} or later.",
            )
        _require_shape(manifest, _SHAPE, "manifest")
        return dict(manifest)

    def _check_names(self) -> None:
        listed = [*self.members, _MANIFEST]
        found = sorted(info.filename for info in self._archive.infolist())
        if found != sorted(listed) or len(self.members) != len(self.manifest["members"]):
            raise tampered("the capsule holds other members than its manifest lists")
        if strange := [name for name in self.members if name not in _MEMBERS]:
            raise tampered("the capsule has a member that is none of a capsule's", detail=f"member={strange[0]!r}")
        if sum(member.bytes for member in self.members.values()) > MAX_BYTES:
            raise InvalidError(f"the capsule unpacks to more than {MAX_BYTES >> 30} GB", code="54000")

    def _check(self, member: Member) -> None:
        info = self._archive.getinfo(member.name)
        plain = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not info.flag_bits & 1
        if not plain or info.file_size != member.bytes:
            raise tampered("a member of the capsule has another length", detail=f"member={member.name}")
        total, rows = hashlib.sha256(), 0
        with self._archive.open(info) as file:  # which reads no more than file_size
            while block := file.read(1 << 20):
                total.update(block)
                rows += block.count(b"\n")
        if (total.hexdigest(), rows) != (member.sha256, member.rows):
            raise tampered("a member of the capsule has been changed", detail=f"member={member.name}")


def _unreadable(detail: str) -> PapertickError:
    return tampered("the capsule's manifest cannot be read", detail=detail)


def _require_shape(value: Any, shape: Any, where: str) -> None:
    """A dict has exactly the names of its shape, a list items of one shape; all else is for a check to say."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise _unreadable(f"{where} is not an object")
        prefix = "" if shape is _SHAPE else f"{where}."
        for name in sorted(value.keys() - shape.keys()):
            raise _unreadable(f"{prefix}{name[:60]} is not known")
        for name, inner in shape.items():
            if name not in value:
                raise _unreadable(f"{prefix}{name} is missing")
            _require_shape(value[name], inner, f"{prefix}{name}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise _unreadable(f"{where} is not a list")
        for n, item in enumerate(value):
            _require_shape(item, shape[0], f"{where}[{n}]")
    elif not shape(value):
        raise _unreadable(f"{where} is not what it must be: {json.dumps(value)[:60]}")


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not re.search("[\0\ud800-\udfff]", value)


def _is_word(value: Any) -> bool:
    return _is_text(value) and value != ""


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value))


def _is_time(value: Any) -> bool:
    return value is None or _is_word(value)


_SHAPE: dict[str, Any] = {
    "format": lambda value: value == FORMAT,
    "format_version": lambda value: _is_count(value) and value == FORMAT_VERSION,
    "papertick": _is_word,
    "digest": _is_hash,
    "schema_version": lambda value: value is None or _is_count(value),
    "run": {
        "name": _is_text,
        "status": lambda value: value in ("RUNNING", "STOPPED", "ERROR"),
        **dict.fromkeys(("feed", "calendar", "currency", "mark_policy"), _is_word),
        **dict.fromkeys(("first_logical_time", "last_logical_time"), _is_time),
    },
    "members": [{"name": _is_word, "rows": _is_count, "bytes": _is_count, "sha256": _is_hash}],
}


@contextmanager
def read(path: Path) -> Iterator[Capsule]:
    """Open a capsule and check all of it. Raises TE901 when it is not as it was written."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield Capsule(archive)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as exc:
        raise tampered(f"{path} is no capsule, or a broken one: {exc}") from exc
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror or exc}") from exc
