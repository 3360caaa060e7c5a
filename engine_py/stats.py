"""What the server knows of itself: sizes, traffic and the statements that cost most. Reads catalogs only."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from engine_py.capsule import RUN_TABLES
from engine_py.cli_base import Row, select

STATEMENTS_HINT = (
    "No pg_stat_statements here. Put it in shared_preload_libraries (alter system set shared_preload_libraries ="
    " 'pg_stat_statements'), restart the server, then: create extension pg_stat_statements"
)


def collect(conn: psycopg.Connection[Any], limit: int) -> dict[str, Any]:
    """database, connections, runs, tables (the largest first), statements (the dearest first) or why there are none."""
    tables = _tables(conn)
    statements = _statements(conn, limit)
    return {
        "database": _database(conn),
        "connections": _connections(conn),
        "runs": _runs(conn, tables),
        "tables": tables,
        "statements": statements,
        "statements_hint": None if statements is not None else STATEMENTS_HINT,
        "functions": _functions(conn, limit) if statements is None else [],
    }


def _database(conn: psycopg.Connection[Any]) -> Row:
    return select(
        conn,
        """select d.datname as name, current_setting('server_version') as server_version,
                  pg_database_size(d.oid) as bytes, x.xact_commit as commits, x.xact_rollback as rollbacks,
                  x.deadlocks, x.temp_bytes, x.stats_reset,
                  round(x.blks_hit::numeric / nullif(x.blks_hit + x.blks_read, 0), 4) as cache_hit,
                  current_setting('shared_buffers') as shared_buffers,
                  current_setting('synchronous_commit') as synchronous_commit
             from pg_database d join pg_stat_database x on x.datid = d.oid where d.datname = current_database()""",
    )[0]


def _connections(conn: psycopg.Connection[Any]) -> Row:
    return select(
        conn,
        """select current_setting('max_connections')::int as most, count(*) as open,
                  count(*) filter (where state = 'active') as active,
                  count(*) filter (where state like 'idle in transaction%%') as idle_in_transaction,
                  count(*) filter (where wait_event_type = 'Lock') as waiting_for_a_lock
             from pg_stat_activity where datname = current_database() and backend_type = 'client backend'""",
    )[0]


def _tables(conn: psycopg.Connection[Any]) -> list[Row]:
    return select(
        conn,
        """select c.relname as table, coalesce(t.n_live_tup, 0) as rows, coalesce(t.n_dead_tup, 0) as dead_rows,
                  pg_total_relation_size(c.oid) as bytes, pg_indexes_size(c.oid) as index_bytes,
                  greatest(t.last_vacuum, t.last_autovacuum) as last_vacuum,
                  greatest(t.last_analyze, t.last_autoanalyze) as last_analyze
             from pg_class c left join pg_stat_user_tables t on t.relid = c.oid
            where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
            order by pg_total_relation_size(c.oid) desc, c.relname collate "C" """,
    )


def _runs(conn: psycopg.Connection[Any], tables: list[Row]) -> Row:
    """What runs take, all their tables with indexes; ticks counts stored marks, by the server's estimate."""
    of = {row["table"]: row for row in tables}
    taken = sum(of[name]["bytes"] for name in RUN_TABLES if name in of)
    (row,) = select(
        conn,
        """select count(*) as runs, count(*) filter (where status = 'RUNNING') as running,
                  count(distinct user_id) as users from strategy_run""",
    )
    ticks = of["paper_equity_curve"]["rows"]
    return {
        **row,
        "bytes": taken,
        "bytes_per_run": round(taken / row["runs"]) if row["runs"] else None,
        "ticks": ticks,
        "bytes_per_tick": round(taken / ticks) if ticks else None,
        "bars": of["price_bar"]["rows"],
        "bytes_per_bar": round(of["price_bar"]["bytes"] / of["price_bar"]["rows"]) if of["price_bar"]["rows"] else None,
    }


def _statements(conn: psycopg.Connection[Any], limit: int) -> list[Row] | None:
    """The dearest statements of this database; None where they are not counted."""
    found = select(
        conn,
        """select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace
            where e.extname = 'pg_stat_statements'""",
    )
    if not found:
        return None
    query = sql.SQL(
        """select regexp_replace(left(s.query, 300), '\\s+', ' ', 'g') as query, s.calls, s.rows,
                  round(s.mean_exec_time::numeric, 3) as mean_ms, round(s.total_exec_time::numeric, 1) as total_ms,
                  round((s.total_exec_time / nullif(sum(s.total_exec_time) over (), 0))::numeric, 4) as share,
                  s.wal_bytes
             from {}.pg_stat_statements s
            where s.dbid = (select oid from pg_database where datname = current_database()) and s.toplevel
            order by s.total_exec_time desc, s.queryid limit {}"""
    ).format(sql.Identifier(found[0]["nspname"]), limit)
    try:
        with conn.transaction(), conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            return cursor.execute(query).fetchall()
    except psycopg.errors.ObjectNotInPrerequisiteState:  # made, but not loaded at the server's start
        return None


def _functions(conn: psycopg.Connection[Any], limit: int) -> list[Row]:
    """In place of statements: what track_functions = 'pl' or 'all' has counted."""
    return select(
        conn,
        """select f.schemaname || '.' || f.funcname as function, f.calls,
                  round((f.total_time / nullif(f.calls, 0))::numeric, 3) as mean_ms,
                  round(f.total_time::numeric, 1) as total_ms, round(f.self_time::numeric, 1) as self_ms
             from pg_stat_user_functions f order by f.total_time desc, f.funcid limit %s""",
        limit,
    )
