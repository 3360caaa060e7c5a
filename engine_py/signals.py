"""What asks a process that runs for long to end: SIGTERM and SIGINT."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def on_stop(handler: Callable[[], None]) -> Iterator[None]:
    """Within the block `handler` is called, in the main thread, each time that SIGTERM or SIGINT comes."""
    before = {number: signal.signal(number, lambda *_: handler()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
