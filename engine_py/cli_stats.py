"""papertick stats: what the database does and how large it is."""

from __future__ import annotations

from typing import Any

import click

from engine_py.cli_base import Command, Row, connection_string, emit, session
from engine_py.render import pairs, percent, table, text
from engine_py.sizing import measure
from engine_py.stats import collect


@click.command(cls=Command)
@click.option("--top", type=click.IntRange(1, 1000), default=10, show_default=True, help="So many statements.")
@click.option(
    "--sizing", is_flag=True, help="Measure what a bar, a tick, a trade takes on this server (half a minute)."
)
def stats(top: int, sizing: bool) -> None:
    """Sizes, traffic, and the statements that cost most.

    Statements come from pg_stat_statements where the server has it; all else every server knows. Counts of rows
    are the server's estimates. --sizing works in a database of its own, which is gone afterwards.
    """
    if sizing:
        rows = measure(connection_string())
        emit(rows, table(rows, ("what", "count", "bytes")))
        return
    with session() as s:
        document = s.run(lambda conn: collect(conn, top))
    emit(document, _words(document, top))


def _words(document: dict[str, Any], top: int) -> str:
    database, runs, open_ = document["database"], document["runs"], document["connections"]
    head = pairs(
        [
            ("database", f"{database['name']}, {_size(database['bytes'])}, PostgreSQL {database['server_version']}"),
            ("cache hit", f"{percent(database['cache_hit'])} of blocks, shared_buffers {database['shared_buffers']}"),
            ("transactions", f"{database['commits']:,} committed, {database['rollbacks']:,} rolled back"),
            ("deadlocks", text(database["deadlocks"])),
            (
                "connections",
                f"{open_['open']} of {open_['most']}, {open_['active']} active, "
                f"{open_['idle_in_transaction']} idle in transaction, {open_['waiting_for_a_lock']} waiting for a lock",
            ),
            ("runs", f"{runs['runs']:,} of {runs['users']:,} users, {runs['running']:,} RUNNING"),
            ("run tables", f"{_size(runs['bytes'])}, {_size(runs['bytes_per_run'])} a run"),
            ("ticks", f"{runs['ticks']:,} stored, {text(runs['bytes_per_tick'])} bytes a tick"),
            ("bars", f"{runs['bars']:,}, {text(runs['bytes_per_bar'])} bytes a bar"),
        ]
    )
    largest = [_sized(row) for row in document["tables"] if row["rows"] or row["bytes"] > 2**16]
    columns = ("table", "rows", "dead_rows", "size", "of_indexes", "last_vacuum", "last_analyze")
    parts = [head, table(largest[:12], columns)]
    if document["statements"] is not None:
        shown = [{**row, "query": row["query"][:90]} for row in document["statements"]]
        parts.append(table(shown, ("total_ms", "calls", "mean_ms", "rows", "query")))
    else:
        if document["functions"]:
            parts.append(table(document["functions"], ("total_ms", "self_ms", "calls", "mean_ms", "function")))
        parts.append(document["statements_hint"])
    return "\n\n".join(parts)


def _sized(row: Row) -> Row:
    return {**row, "size": _size(row["bytes"]), "of_indexes": _size(row["index_bytes"])}


def _size(count: int | None) -> str:
    if count is None:
        return "-"
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 10 * 1024 or unit == "GB":
            return f"{count:,} {unit}"
        count = round(count / 1024)
    return ""
