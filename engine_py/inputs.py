"""Files in: a path, standard input or an open stream, unpacked from gzip or zip, as text; in constant memory."""

from __future__ import annotations

import gzip
import io
import re
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

from engine_py.errors import InvalidError, UsageError

Source: TypeAlias = str | Path | IO[bytes] | IO[str]

_GZIP, _ZIP, PARQUET = b"\x1f\x8b", b"PK\x03\x04", b"PAR1"
_ENDINGS = re.compile(r"(?:\.(?:csv|txt|tsv|json|jsonl|ndjson|parquet|pq|gz|zip))+$", re.I)
_IN_MEMORY = 8 << 20
_FREE, _RATIO = 64 << 20, 200  # an archive unpacks to so many bytes, and beyond to so many times its own


class Unpacked(io.RawIOBase):
    """What comes out of an archive, refused when it is out of all proportion to it: prices do not repeat like that.

    `packed`: the bytes of the archive, or those of it read so far; `before`: what other members have unpacked to.
    """

    def __init__(self, inner: Any, packed: Callable[[], int], before: int = 0) -> None:
        self._inner, self._packed, self.total = inner, packed, before

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._inner.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._inner.seek(offset, whence))

    def tell(self) -> int:
        return int(self._inner.tell())

    def readinto(self, into: Any) -> int:
        chunk = self._inner.read(len(into))
        self.total += len(chunk)
        if self.total > _FREE + _RATIO * self._packed():
            raise InvalidError(
                f"the archive unpacks to more than {_RATIO} times its size",
                code="54000",
                hint="If it is what it should be, unpack it and load what is in it.",
            )
        into[: len(chunk)] = chunk
        return len(chunk)


class _Counted:
    """A stream, and how much of it has been read."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.count = inner, 0

    def read(self, size: int = -1) -> bytes:
        chunk: bytes = self._inner.read(size)
        self.count += len(chunk)
        return chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@dataclass
class Opened:
    """One file that is open: its text, or its bytes where they are no text."""

    name: str  # for messages
    stem: str  # its name without folder and endings; '' for a stream
    start: bytes  # its first bytes
    text: IO[str]
    binary: IO[bytes] | None  # None: it came as text


@contextmanager
def opened(source: Source) -> Iterator[Iterator[Opened]]:
    """The files of a path, '-' (stdin) or an open stream: one, or those of a zip archive, one after the other.

    Bytes that are not UTF-8 come through as lone surrogates, so that their line can be named.
    """
    name = source if isinstance(source, str) else str(source) if isinstance(source, Path) else ""
    with ExitStack() as stack:
        try:
            yield _files(source, name, stack)
        except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
            raise InvalidError(f"the gzip data is damaged: {exc}", code="22P04") from exc
        except (zipfile.BadZipFile, NotImplementedError) as exc:
            raise InvalidError(f"the zip archive is damaged or of an unknown kind: {exc}", code="22P04") from exc
        except OSError as exc:
            raise UsageError(f"cannot read {source}: {exc.strerror or exc}") from exc


@contextmanager
def open_text(source: Source) -> Iterator[IO[str]]:
    """The text of the one file that a source is."""
    with opened(source) as files:
        first = next(files)
        yield first.text


def _files(source: Source, name: str, stack: ExitStack) -> Iterator[Opened]:
    stem = stem_of(name) if name and name != "-" else ""
    if isinstance(source, io.TextIOBase):
        yield Opened(name, stem, b"", cast(IO[str], source), None)
        return
    binary: Any = source
    if source == "-":
        binary = sys.stdin.buffer
    elif isinstance(source, str | Path):
        binary = stack.enter_context(open(source, "rb"))  # noqa: SIM115  # the stack closes it
    # detach: a wrapper that is collected would close a stream that is not ours
    buffered = io.BufferedReader(binary)
    stack.callback(buffered.detach)
    start = buffered.peek(4)[:4]
    if start == _ZIP:
        yield from _members(buffered, name, stack)
    elif start[:2] == _GZIP:
        packed = _Counted(buffered)
        file = gzip.GzipFile(fileobj=cast(Any, packed), mode="rb")
        yield _opened(io.BufferedReader(Unpacked(file, lambda: packed.count)), name, stem, stack)
    else:
        yield _opened(buffered, name, stem, stack)


def _opened(buffered: Any, name: str, stem: str, stack: ExitStack) -> Opened:
    start = buffered.peek(4)[:4]
    text = io.TextIOWrapper(buffered, encoding="utf-8", errors="surrogateescape")
    stack.callback(text.detach)
    return Opened(name, stem, start, text, buffered)


def _members(packed: io.BufferedReader, name: str, stack: ExitStack) -> Iterator[Opened]:
    whole_file = seekable(packed, stack)
    size = whole_file.seek(0, io.SEEK_END)
    archive, total = stack.enter_context(zipfile.ZipFile(whole_file)), 0
    files = [item for item in archive.infolist() if not item.is_dir() and not _is_litter(item.filename)]
    if any(item.filename == "[Content_Types].xml" for item in files):
        raise UsageError(f"{name or 'the file'} is an office document", hint="Save the sheet as CSV.")
    if not files:
        raise UsageError(f"{name or 'the archive'} is empty")
    for item in files:
        if item.flag_bits & 1:
            raise UsageError(f"{name or 'the archive'} is encrypted")
        whole = f"{name}:{item.filename}" if len(files) > 1 or not name else name
        with archive.open(item) as member, ExitStack() as own:
            unpacked = Unpacked(member, lambda: size, total)
            yield _opened(io.BufferedReader(unpacked), whole, stem_of(item.filename), own)
            total = unpacked.total


def _is_litter(path: str) -> bool:
    return path.startswith("__MACOSX/") or path.rsplit("/", 1)[-1].startswith(".")


def seekable(stream: Any, stack: ExitStack) -> IO[bytes]:
    """The stream, or a copy of it in a temporary file if it cannot go back."""
    if stream.seekable():
        return stream  # type: ignore[no-any-return]
    copy: Any = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  # the stack closes it
    stack.callback(copy.close)
    while chunk := stream.read(1 << 20):
        copy.write(chunk)
    copy.seek(0)
    return copy  # type: ignore[no-any-return]


def stem_of(path: str) -> str:
    """A file's name without its folder and the endings of its format and packing."""
    return _ENDINGS.sub("", path.replace("\\", "/").rsplit("/", 1)[-1])
