"""Lines that are bars: read by a thread, each one JSON object."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, NamedTuple

from engine_py.bars import BAR, PRICES, Closes
from engine_py.csvfile import MAX_LINE, Bad, Column, check_field

_CHUNK = 1 << 16


class Bar(NamedTuple):
    """A line that is well-formed, its values as they were written."""

    line: int
    symbol: str
    logical_time: str
    open: str
    high: str
    low: str
    close: str
    volume: str | None


# --- a line ---


def _no_number(text: str) -> str:
    raise Bad("22P02", f"{text} is not a finite decimal number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Bad("42701", "the object repeats a name")
    return found


def parse(
    number: int,
    raw: bytes,
    closes: Closes,
    *,
    stamp: Callable[[str], str] | None = None,
    symbol: str | None = None,
) -> Bar:
    """The bar, or the last price, of one line. Raises Bad.

    `stamp` reads times that are not canonical; `symbol`: of every bar, which then names none.
    """
    if len(raw) > MAX_LINE:
        raise Bad("54000", f"longer than {MAX_LINE} characters")
    try:
        document = json.loads(
            raw.decode("utf-8"),
            parse_float=str,  # a number stays as it was written: no float comes near it
            parse_int=str,
            parse_constant=_no_number,
            object_pairs_hook=_unique,
        )
    except UnicodeDecodeError:
        raise Bad("22021", "not valid UTF-8") from None
    except (ValueError, RecursionError):
        raise Bad("22032", "not JSON") from None
    if not isinstance(document, dict):
        raise Bad("22032", "not a JSON object")
    given = _unique([(name.lower(), value) for name, value in document.items() if value is not None])
    if "price" in given:
        if doubled := [name for name in PRICES if name in given]:
            raise Bad("42701", f"there is a price and an {doubled[0]} as well")
        given |= dict.fromkeys(PRICES, given["price"])
    if symbol is not None:
        if "symbol" in given:
            raise Bad("42701", "the object has a symbol, and a symbol was given as well")
        given["symbol"] = symbol
    texts = {column.name: _text(column, given, is_free=column is BAR[1] and stamp is not None) for column in BAR}
    time = str(texts["logical_time"])
    texts["logical_time"] = stamp(time) if stamp else closes(time) or time
    return Bar(number, **texts)  # type: ignore[arg-type]  # only volume may be None


def _text(column: Column, given: dict[str, Any], *, is_free: bool) -> str | None:
    names = [name for name in column.aliases if name in given]
    if len(names) > 1:
        raise Bad("42701", f"there is more than one of {', '.join(names)}")
    if not names:
        if column.optional:
            return None
        raise Bad("23502", f"there is no {column.name}")
    value = given[names[0]]
    if not isinstance(value, str):  # nor digits
        raise Bad(column.code, f"{column.name} is not {column.meaning}")
    if not is_free:
        check_field(column, value.strip())
    return value.strip() or None


# --- lines ---


class Lines:
    """The lines of a file, read by a thread, so that waiting for one may end. The last may lack its newline."""

    def __init__(self, descriptor: int) -> None:
        self.interrupted = False
        self._ended = False
        self._descriptor = descriptor
        self._queue: SimpleQueue[list[bytes]] = SimpleQueue()  # whose put a signal handler may call
        self._room = threading.Semaphore(64)
        self._lines: deque[bytes] = deque()
        # os.read in a thread that ends with the process: a buffered reader's lock would be held at its exit
        threading.Thread(target=self._read, daemon=True).start()

    def stop(self) -> None:
        """What has not been asked for yet will not come any more."""
        self.interrupted = self._ended = True
        self._queue.put([])

    def next(self, timeout: float | None) -> bytes | None:
        """The next line without its newline. Raises Empty after `timeout` seconds without one; None: there is none."""
        while not self._ended and not self._lines:
            chunk = self._queue.get(timeout=timeout)
            self._room.release()
            self._ended |= not chunk
            self._lines.extend(chunk)
        return None if self._ended else self._lines.popleft()

    def _read(self) -> None:
        rest = b""
        with suppress(OSError):  # a source that breaks has ended
            while chunk := os.read(self._descriptor, _CHUNK):
                *whole, rest = (rest + chunk).split(b"\n")
                rest = rest[: MAX_LINE + 1]
                if whole:
                    self._room.acquire()
                    self._queue.put(whole)
        if rest:
            self._queue.put([rest])
        self._queue.put([])
