"""A capsule into a database: one transaction, all of it or nothing.

First what the run shares with others: a row that is stored already must be the same, one that is missing is added
where nobody can be using it yet (a new feed, a new symbol), else only if asked. Then import_run, which is the engine's.
Then the run is exported again, and must be what the capsule holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from engine_py import capsule, errors, feed
from engine_py.capsule import AHEAD_TABLES, RUN_TABLES, SHARED_TABLES, Capsule, tampered
from engine_py.cli_base import Row, select
from engine_py.exporting import RAW, hash_of, rows_of

_LISTED = 10
_MAX_RUN = 900 << 20  # import_run gets the rows of the run as one value, which ends at 1 GB

# The key of each shared table; and what to ask of a missing row p: may others be using what it would be added to?
_KEYS: dict[str, tuple[LiteralString, LiteralString]] = {
    "calendar": ("calendar", "false"),
    "market_session": (
        "calendar, session_date",
        "exists (select from public.market_session x where x.calendar = p.calendar)",
    ),
    "feed": ("feed", "false"),
    "instrument": ("symbol", "false"),
    "price_bar": ("feed, symbol, logical_time", "exists (select from public.price_bar x where x.feed = p.feed)"),
    "corporate_action": (
        "symbol, ex_date, action_type",
        "exists (select from public.instrument x where x.symbol = p.symbol)",
    ),
    "fee_schedule": (
        "fee_schedule, side, component, product, effective_from",
        "exists (select from public.fee_schedule x where x.fee_schedule = p.fee_schedule)",
    ),
}
_WORDS = {"fee_schedule": "source"}  # a column that charges nobody anything


def import_file(
    conn: psycopg.Connection[Any],
    path: Path,
    *,
    user: int | None = None,
    user_name: str | None = None,
    name: str | None = None,
    feed_name: str | None = None,
    add_missing: bool = False,
) -> Row:
    """The capsule's run as a run of `user`, or of a new user; under another feed name if one is given.

    Returns user_id, run_id, status, feed, digest and how many rows of each shared table were added. Raises TE901 when
    the file or the run is not as it was written, 23505 when what is stored here differs from what its past stands on.
    """
    with capsule.read(path) as source, conn.transaction(), errors.mapped():
        return _import(conn, source, user, user_name, name, feed_name, add_missing)


def prove(conn: psycopg.Connection[Any], path: Path) -> None:
    """Import the capsule as another user's run, and take it back: raises what an import would raise."""
    with capsule.read(path) as source, conn.transaction(force_rollback=True), errors.mapped():
        _import(conn, source, None, "proof", None, None, False)


def _import(
    conn: psycopg.Connection[Any],
    source: Capsule,
    user: int | None,
    user_name: str | None,
    name: str | None,
    feed_name: str | None,
    add_missing: bool,
) -> Row:
    if sum(m.bytes for m in source.members.values() if m.part == "run") > _MAX_RUN:
        raise errors.InvalidError("the run is too long for one import: more than 900 MB of rows", code="54000")
    conn.execute("set local timezone = 'UTC'")
    feed_name = feed_name or str(source.run["feed"])
    if user is None:
        new = user_name or name or str(source.run["name"]) or "imported"
        user = int(select(conn, "select create_user(%s) as id", new)[0]["id"])
    conn.execute("select pg_advisory_xact_lock(hashtextextended('papertick feed ' || %s, 0))", [feed_name])
    added = _share(conn, source, feed_name, add_missing)
    run = _import_run(conn, source, user, feed_name, name)
    _verify(conn, source, user, run, name)
    if added.get("price_bar"):
        feed.notify(conn, feed_name)
    status = str(source.run["status"])
    return {
        "user_id": user,
        "run_id": run,
        "status": status,
        "feed": feed_name,
        "digest": source.digest,
        "added": added,
    }


def _share(conn: psycopg.Connection[Any], source: Capsule, feed_name: str, add_missing: bool) -> dict[str, int]:
    """Compare all of it before any of it is stored; how many rows of each table were missing, and are there now."""
    conn.execute("create temporary table papertick_row (row_data jsonb) on commit drop")
    added: dict[str, int] = {}
    has_calendar = select(
        conn, "select exists (select from market_session where calendar = %s) as yes", source.run["calendar"]
    )[0]["yes"]
    for table in SHARED_TABLES:
        parts = ["market"]
        # the server's own calendar is what it will tick by
        if table in AHEAD_TABLES and not (table == "market_session" and has_calendar):
            parts.append("ahead")
        _stage(conn, table, [f"{part}/{table}.ndjson" for part in parts], source, feed_name)
        _require_same(conn, table)
        added[table] = _count_missing(conn, table, add_missing)
    added = {table: count for table, count in added.items() if count}
    for table in added:
        key, _ = _KEYS[table]
        statement = sql.SQL(
            "insert into public.{0} select p.* from pg_temp.{1} p"
            " where not exists (select from public.{0} s where ({2}) = ({3}))"
        ).format(sql.Identifier(table), _staged(table), _of("s", key), _of("p", key))
        conn.execute(statement)
    return added


def _staged(table: str) -> sql.Identifier:
    return sql.Identifier(f"papertick_{table}")


def _of(alias: LiteralString, key: LiteralString) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(alias, column) for column in key.split(", "))


def _stage(conn: psycopg.Connection[Any], table: str, names: Iterable[str], source: Capsule, feed_name: str) -> None:
    """Rows of the capsule as rows of a temporary table of the same shape."""
    target, like = _staged(table), sql.Identifier(table)
    conn.execute(
        sql.SQL("create temporary table {} (like public.{} including defaults) on commit drop").format(target, like)
    )
    for name in names:
        for chunk in source.chunks(name, 8 << 20):
            with conn.cursor() as cursor, cursor.copy("copy pg_temp.papertick_row from stdin " + RAW) as copy:
                copy.write("".join(line + "\n" for line in chunk))
            conn.execute(
                sql.SQL(
                    "insert into pg_temp.{} select n.* from pg_temp.papertick_row l"
                    " cross join lateral jsonb_populate_record(null::public.{}, l.row_data || {}) n"
                ).format(target, like, sql.Literal(json.dumps({"feed": feed_name})))
            )
            conn.execute("truncate pg_temp.papertick_row")
    conn.execute(sql.SQL("analyze pg_temp.{}").format(target))


def _require_same(conn: psycopg.Connection[Any], table: str) -> None:
    key, _ = _KEYS[table]
    ignored = sql.Literal(_WORDS.get(table, ""))
    query = sql.SQL(
        """select to_jsonb(p) as capsule, to_jsonb(s) as stored
             from pg_temp.{} p join public.{} s on ({}) = ({})
            where to_jsonb(p) - {} <> to_jsonb(s) - {} order by {} limit {}"""
    ).format(
        _staged(table), sql.Identifier(table), _of("p", key), _of("s", key), ignored, ignored, _of("p", key), _LISTED
    )
    rows = conn.execute(query).fetchall()
    if rows:
        raise errors.ConflictError(
            f"what is stored in {table} differs from what the run's past stands on",
            code="23505",
            detail="\n".join(f"capsule {_short(mine)}\n stored {_short(theirs)}" for mine, theirs in rows),
            hint="Bars can be kept apart under another feed name: --feed NAME."
            if table in ("price_bar", "feed")
            else None,
        )


def _short(row: Any) -> str:
    return json.dumps(row, default=str, ensure_ascii=False)[:300]


def _count_missing(conn: psycopg.Connection[Any], table: str, add_missing: bool) -> int:
    key, in_use = _KEYS[table]
    query = sql.SQL(
        """select count(*), count(*) filter (where in_use),
                  (array_agg(row_data order by place) filter (where in_use))[:{4}]
             from (select to_jsonb(p) as row_data, row_number() over (order by {3}) as place, {5} as in_use
                     from pg_temp.{0} p where not exists (select from public.{1} s where ({2}) = ({3}))) m"""
    ).format(_staged(table), sql.Identifier(table), _of("s", key), _of("p", key), sql.Literal(_LISTED), sql.SQL(in_use))
    row = conn.execute(query).fetchone()
    assert row
    if row[1] and not add_missing:
        raise errors.ConflictError(
            f"{row[1]} rows of the capsule's {table} are missing here, where others may be using the rest",
            code="23505",
            detail="\n".join(f"missing {_short(missing)}" for missing in row[2]),
            hint="Load them as you load market data, or add them: --add-missing"
            + ("; or keep the bars apart: --feed NAME." if table == "price_bar" else "."),
        )
    return int(row[0])


def _import_run(conn: psycopg.Connection[Any], source: Capsule, user: int, feed_name: str, name: str | None) -> int:
    tables: list[str] = []
    rows: list[str] = []
    for table in RUN_TABLES:
        for chunk in source.chunks(f"run/{table}.ndjson"):
            tables.append(table)
            rows.append("\n".join(chunk))
    row = conn.execute(
        "select import_run(%s, %s, %s, %b, %s, %s)", [user, feed_name, tables, rows, source.digest, name]
    ).fetchone()
    assert row
    return int(row[0])


def _verify(conn: psycopg.Connection[Any], source: Capsule, user: int, run: int, name: str | None) -> None:
    """Export it again: what its past stands on here must be what it stood on there, nothing less and nothing more."""
    for part, table in [("run", t) for t in RUN_TABLES] + [("market", "price_bar"), ("market", "market_session")]:
        if table == "strategy_run" and name is not None:
            continue
        member = source.members.get(f"{part}/{table}.ndjson")
        if hash_of(rows_of(conn, user, run, table)) == (member.sha256 if member else hash_of(iter(()))):
            continue
        if part == "run":
            raise tampered(f"the run's {table} did not come in as the capsule has it")
        raise errors.ConflictError(
            f"{table} has rows here that it did not have where the run comes from",
            code="23505",
            detail="\n".join(f"stored {_short(row)}" for row in _foreign(conn, table, user, run, source)),
            hint="Keep the bars apart under another feed name: --feed NAME." if table == "price_bar" else None,
        )


def _foreign(conn: psycopg.Connection[Any], table: str, user: int, run: int, source: Capsule) -> list[Any]:
    conn.execute("truncate pg_temp.papertick_row")
    for chunk in source.chunks(f"market/{table}.ndjson", 8 << 20):
        with conn.cursor() as cursor, cursor.copy("copy pg_temp.papertick_row from stdin " + RAW) as copy:
            copy.write("".join(line + "\n" for line in chunk))
    query = (
        "select r from export_rows(%s, %s, %s) r except select row_data from pg_temp.papertick_row order by 1 limit %s"
    )
    return [row for (row,) in conn.execute(query, [user, run, table, _LISTED])]
