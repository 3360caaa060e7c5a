"""The physical limit of a replay: the very rows it wrote, inserted raw into the same tables under another running run.

All keys, foreign keys and triggers stay in place, and the rows come in the run's own order, so what is left out is only
deciding what to write. Two flavours: as any client inserts, and as the engine does, from inside a trigger, which is
what selects the bulk form of the guards. raw time / replay time says how near the replay is: 1 = as fast as the rows
can be written.
"""

from __future__ import annotations

import time
from typing import Any

import psycopg

from bench.engine import LEDGERS, OPENING, Engine, Reading

# A row's statement is run by a trigger: below one, inserts are guarded once a run instead of once a row; see
# sql/95_triggers.sql.
AS_ENGINE = """
create schema scratch;
create unlogged table scratch.script (statement text);
create function scratch.run() returns trigger language plpgsql set enable_seqscan = off as
$$ begin execute new.statement; return null; end $$;
create trigger run before insert on scratch.script for each row execute function scratch.run();
"""


class Limits:
    """Keeps the last replay's rows in unlogged scratch tables and writes them again and again."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.conn = self._connect()
        self.conn.execute(AS_ENGINE)
        self.columns = {table: self._columns(table) for table in LEDGERS}
        self.rows = 0

    def close(self) -> None:
        self.conn.close()

    def _connect(self) -> psycopg.Connection:
        """Sequential scans off, as in the engine's verbs; scratch rows in the order in which they were kept."""
        conn = psycopg.connect(self.engine.dsn, autocommit=True)
        conn.execute("set enable_seqscan = off; set synchronize_seqscans = off; set jit = off")
        return conn

    def settle(self) -> None:
        """After a first turn: statistics as autovacuum would have taken them by now, and a session that has no plans.

        A foreign key's check that was planned while its table was empty reads every row of the run for each row; a
        limit must not suffer from that. The engine's session keeps its own plans, but sees the statistics too.
        """
        self.conn.execute("vacuum analyze")
        self.conn.close()
        self.conn = self._connect()

    def _columns(self, table: str) -> str:
        """All but the run's key, whatever else the table may have."""
        found = self.conn.execute(
            "select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute"
            " where attrelid = %s::regclass and attnum > 0 and not attisdropped and attgenerated = ''"
            " and attname not in ('user_id', 'run_id')",
            [table],
        ).fetchone()
        return found[0]  # type: ignore[index, no-any-return]

    def keep(self, reading: Reading) -> None:
        """Copy what the replay wrote."""
        users = ", ".join(str(user_id) for user_id, _ in reading.runs)
        self.rows = 0
        for table, order in LEDGERS.items():
            extra = f" and {OPENING[1]}" if table == OPENING[0] else ""
            self.conn.execute(f"drop table if exists scratch.{table}")
            self.conn.execute(
                f"create unlogged table scratch.{table} as select * from public.{table}"
                f" where user_id in ({users}){extra} order by user_id, {order}"
            )
            if len(reading.runs) > 1:
                self.conn.execute(f"create index on scratch.{table} (user_id)")
            self.conn.execute(f"analyze scratch.{table}")
            self.rows += self.conn.execute(f"select count(*) from scratch.{table}").fetchone()[0]  # type: ignore[index]
        if self.rows != reading.rows:
            raise RuntimeError(f"kept {self.rows} rows of {reading.rows}")

    def insert(self, workload: str, reading: Reading, *, as_engine: bool) -> float:
        """Write the kept rows under fresh runs; seconds, commits included: a transaction and a round trip a run."""
        runs = [self.engine.start(workload) for _ in reading.runs]
        scripts = []
        for (source, _), (user_id, run_id) in zip(reading.runs, runs, strict=True):
            where = f" where user_id = {source}" if len(runs) > 1 else ""
            inserts = [
                f"insert into public.{table} (user_id, run_id, {columns})"
                f" select {user_id}, {run_id}, {columns} from scratch.{table}{where}"
                for table, columns in self.columns.items()
            ]
            if as_engine:
                inserts = [f"insert into scratch.script values ($${insert}$$)" for insert in inserts]
            scripts.append(";\n".join(["begin", *inserts, "commit"]))
        begun = time.perf_counter()
        for script in scripts:
            self.conn.execute(script)
        wall = time.perf_counter() - begun
        written = self.engine.rows_written(runs)
        if written != self.rows:
            raise RuntimeError(f"inserted {written} rows of {self.rows}")
        return wall


def cases(engine: Engine, limits: Limits, workload: str, users: int, policy: str = "EVERY_TICK") -> dict[str, Any]:
    """A turn: the replay, verified, then its rows in both flavours. For measure.turns."""
    last: list[Reading] = []

    def replay() -> float:
        last[:] = [engine.replay(workload, policy, users)]
        limits.keep(last[0])
        return last[0].wall

    return {
        f"papertick {policy}": replay,
        "raw insert": lambda: limits.insert(workload, last[0], as_engine=False),
        "raw insert as the engine": lambda: limits.insert(workload, last[0], as_engine=True),
    }
