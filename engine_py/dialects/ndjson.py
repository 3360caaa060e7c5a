"""One JSON object a line, with the names that feed follow takes."""

from __future__ import annotations

from collections.abc import Iterator

from engine_py.barlines import parse
from engine_py.csvfile import Bad
from engine_py.dialects import base
from engine_py.dialects.base import OF_TIMES, LeftOut, Options, Reader, Source
from engine_py.dialects.documents import starts_with
from engine_py.dialects.times import Clock


class Objects(Reader):
    takes = OF_TIMES

    def __init__(self, source: Source, options: Options, clock: Clock) -> None:
        super().__init__(options, clock)
        self._source = source
        clock.read = options.date_format

    def raws(self) -> Iterator[tuple[int, str]]:
        return ((number, line) for number, line in self._source.lines() if line.strip())

    def bar(self, raw: str) -> base.Bar:
        line = raw.removeprefix("\ufeff").encode("utf-8", "surrogateescape")
        found = parse(0, line, self.clock.closes, stamp=self._when, symbol=self.options.symbol)
        if self.options.only is not None and found.symbol not in self.options.only:
            raise LeftOut("symbol not asked for")
        return base.Bar(found.symbol, found.logical_time, found[3:7], found.volume or "")

    def _when(self, text: str) -> str:
        try:
            return self.clock.stamp(text)
        except Bad as bad:
            raise Bad(bad.code, f"logical_time {bad.message}", bad.hint) from None


def claims(source: Source) -> bool:
    return starts_with(source, "{")


def open_objects(source: Source, options: Options, clock: Clock) -> Reader:
    return Objects(source, options, clock)
