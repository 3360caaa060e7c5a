"""Text with a header and a delimiter: what most dialects are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from engine_py.csvfile import MAX_LINE, Bad, delimiter_hint, shown, split_line
from engine_py.dialects.base import OF_TEXT, Bar, LeftOut, Options, Reader, Source
from engine_py.dialects.numbers import Style
from engine_py.dialects.times import Clock, time_format

NOTHING = frozenset(("", "-", "null", "nan", "n/a", "na", "n.a.", "n.a", "none", "#n/a"))  # how sources write: no price
_PRICES = ("open", "high", "low", "close")


class Delimited(Reader):
    """A dialect names its columns in `aliases` (ours → theirs, in lower case) and says what else is known of it.

    A line that repeats the header, as in files put end to end, and a blank one are passed over.
    """

    takes = OF_TEXT
    aliases: Mapping[str, tuple[str, ...]]
    optional: frozenset[str] = frozenset(("volume", "adj_close"))
    delimiter: str = ","
    date_format: str | None = None
    thousands: str | None = None
    nothing: frozenset[str] = NOTHING  # prices all of which are among these are no bar
    zero_is_nothing: bool = False

    def __init__(self, source: Source, options: Options, clock: Clock, *, has_symbol: bool = True) -> None:
        self._source = source
        self._delimiter = options.delimiter or self.delimiter
        self._header = split_line(source.header, self._delimiter)
        self._at = self._find(options, has_symbol)
        if options.symbol is not None and "symbol" in self._at:
            raise Bad("42701", "the file has a symbol column, and a symbol was given as well")
        super().__init__(options, clock, reads_adjusted="adj_close" in self._at)
        self.mapping = {ours: self._header[i] for ours, i in self._at.items() if i is not None}
        self._clean = (options.style or Style(self.thousands)).plain
        clock.read = options.date_format or (time_format(self.date_format) if self.date_format else None)

    def _find(self, options: Options, has_symbol: bool) -> dict[str, int | None]:
        """Where each of our columns stands, by the names given or by those that the dialect knows."""
        lower = [name.lower() for name in self._header]
        wanted = {ours: (theirs.lower(),) if theirs else () for ours, theirs in options.names.items()}
        found: dict[str, int | None] = {}
        for ours, names in {**self.aliases, **wanted}.items():
            places = [i for i, name in enumerate(lower) if name and name in names]
            if len(places) > 1:
                raise Bad("42701", f"the header has more than one of {', '.join(names)}")
            is_needed = ours not in self.optional and (ours != "symbol" or has_symbol)
            if not places and (is_needed or (ours in wanted and names)):
                missing = f"the header has no column {' or '.join(names) or ours}; it has {shown(self._source.header)}"
                hint = None if found else delimiter_hint(self._header, self._delimiter)
                raise Bad("42703", missing, hint or self._missing_hint(ours))
            if places:
                found[ours] = places[0]
        if found.get("price") is not None:
            found |= dict.fromkeys(_PRICES, found.pop("price"))
        return found

    def _missing_hint(self, ours: str) -> str | None:
        if ours == "symbol":
            return "If all of it is one symbol: --symbol NAME."
        return None

    def raws(self) -> Iterator[tuple[int, list[str]]]:
        lines = self._source.lines()
        next(lines, None)
        header, width = self._header, len(self._header)
        for number, line in lines:
            self.lines = number
            try:
                if len(line) >= MAX_LINE and not line.endswith("\n"):
                    raise Bad("54000", f"longer than {MAX_LINE} characters")
                fields = split_line(line.removeprefix("\ufeff"), self._delimiter)
                if not any(fields):
                    continue
                if fields == header:
                    self.left_out["header repeated"] += 1
                    continue
                if self.is_heading(fields):
                    self.left_out["heading"] += 1
                    continue
                if len(fields) != width:
                    raise Bad("22P04", f"{len(fields)} fields where the header has {width}")
            except Bad as bad:
                self.note(number, bad)
                continue
            yield number, fields

    def is_heading(self, fields: list[str]) -> bool:
        """Whether a line that is neither blank nor a row belongs to the file all the same."""
        return False

    def get(self, fields: list[str], ours: str) -> str:
        at = self._at.get(ours)
        return "" if at is None else fields[at]

    def symbol(self, fields: list[str]) -> str:
        return self.options.symbol if self.options.symbol is not None else self.get(fields, "symbol")

    def when(self, fields: list[str]) -> str:
        return self.stamp(self.get(fields, "time"), self.mapping["time"])

    def keep(self, fields: list[str]) -> None:
        """Raises LeftOut for a row that was not asked for."""

    def bar(self, fields: list[str]) -> Bar:
        self.keep(fields)
        symbol = self.symbol(fields)
        if self.options.only is not None and symbol not in self.options.only:
            raise LeftOut("symbol not asked for")
        raw = [self.get(fields, name) for name in _PRICES]
        if all(text.lower() in self.nothing for text in raw):
            raise LeftOut("no price")
        prices = [self._clean(text) for text in raw]
        if self.zero_is_nothing and all(_is_zero(text) for text in prices):
            raise LeftOut("price 0")
        volume, adjusted = (self.get(fields, name) for name in ("volume", "adj_close"))
        volume = "" if volume.lower() in self.nothing else self._clean(volume)
        return Bar(symbol, self.when(fields), prices, volume, self._clean(adjusted))


def _is_zero(text: str) -> bool:
    return bool(text) and not text.strip("0.")
