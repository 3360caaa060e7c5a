"""A replay in slices of the feed's times: each commits, so that progress is real and a kill loses one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, LiteralString, NamedTuple, Protocol, TypeAlias

import psycopg

from engine_py.cli_base import Row, select

Reading: TypeAlias = Callable[[Callable[[psycopg.Connection[Any]], list[Row]]], list[Row]]

_SLICES = 50


class Session(Protocol):
    """cli_base's, or the library's."""

    def do(self, procedure: str, /, **arguments: object) -> None: ...


class Slice(NamedTuple):
    first: datetime
    last: datetime
    times: int


def plan(read: Reading, user: int, run: int, first: str | None = None, last: str | None = None) -> list[Slice]:
    """The feed times from `first` (default: the run's next) to `last` (default: the feed's last).

    `read`: calls what it is given with a connection, as Session.run does.
    """
    query: LiteralString = """select min(t) as first, max(t) as last, count(*) as times
             from (select t, ntile(%s) over (order by t) as slice
                     from (select distinct b.logical_time as t
                             from public.strategy_run r
                             left join public.engine_state s on s.user_id = r.user_id and s.run_id = r.run_id
                             join public.price_bar b on b.feed = r.feed
                            where r.user_id = %s and r.run_id = %s
                              and case when %s::timestamptz is null
                                       then coalesce(b.logical_time > s.last_logical_time, true)
                                       else b.logical_time >= %s::timestamptz end
                              and coalesce(b.logical_time <= %s::timestamptz, true)) d) n
            group by slice order by slice"""
    rows = read(lambda conn: select(conn, query, *(_SLICES, user, run, first, first, last)))
    return [Slice(**row) for row in rows]


def replay(s: Session, user: int, run: int, slices: list[Slice], commit_every: str | None = None) -> Iterator[int]:
    """Replay them one after the other; yields the number of times of each when it is done."""
    for part in slices:
        s.do(
            "replay",
            user_id=user,
            run_id=run,
            **{"from": part.first, "to": part.last},
            commit_every=commit_every,
        )
        yield part.times
