"""Any CSV whose header names the parts of a bar, or whose names the caller gives."""

from __future__ import annotations

from engine_py.bars import ADJUSTED_CLOSE, BAR, PRICES
from engine_py.csvfile import Bad, Table
from engine_py.dialects.base import Options, Source, require_said
from engine_py.dialects.delimited import Delimited
from engine_py.dialects.times import Clock

MAPPABLE = ("symbol", "time", "price", *PRICES, "volume", "adj_close")


_COLUMNS = {
    "symbol": ("symbol",),
    "time": BAR[1].aliases,
    **{name: (name,) for name in PRICES},
    "volume": ("volume",),
    "adj_close": ADJUSTED_CLOSE.aliases,
}


class Generic(Delimited):
    aliases = _COLUMNS
    nothing = frozenset()

    def __init__(self, source: Source, options: Options, clock: Clock) -> None:
        if "price" in options.names:
            if doubled := [name for name in PRICES if name in options.names]:
                raise Bad("42701", f"a price and an {doubled[0]} are named as well")
            self.aliases = {name: () if name in PRICES else names for name, names in type(self).aliases.items()}
            self.optional = type(self).optional | set(PRICES)
        if options.symbol is not None and "symbol" in source.names(options.delimiter or ","):
            raise Bad("42701", "the file has a symbol column, and a symbol was given as well")
        super().__init__(source, options, clock, has_symbol=options.symbol is None)
        require_said(options, "adj_close" in self._at)


def open_generic(source: Source, options: Options, clock: Clock) -> Table | Generic:
    """Plain files go the fast way, line by line as they are."""
    is_plain = not (options.names or options.style or options.delimiter or options.only)
    if is_plain and not (options.date_format or options.time_zone or options.interval is not None):
        return _table(source, options, clock)
    return Generic(source, options, clock)


def _table(source: Source, options: Options, clock: Clock) -> Table:
    columns = BAR if options.symbol is None else BAR[1:]
    if options.adjusted:
        columns = (*columns, ADJUSTED_CLOSE)
    table = Table(source.text, columns, {"logical_time": clock.close}, source.ahead)
    if options.symbol is not None and "symbol" in table.names:
        raise Bad("42701", "the file has a symbol column, and a symbol was given as well")
    require_said(options, bool(set(ADJUSTED_CLOSE.aliases) & set(table.names)))
    return table
