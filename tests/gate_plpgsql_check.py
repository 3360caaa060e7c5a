"""Gate, run by `make lint`: plpgsql_check on every PL/pgSQL function of ours. Exits 1 on any finding.

It needs PostgreSQL 15 with that extension (Debian: postgresql-15-plpgsql-check), because the wheel has no extensions
of others. A missing extension is a failure: a gate that opens by itself is none.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import psycopg

from engine_py import errors, install, server

BIN_DIR = Path("/usr/lib/postgresql/15/bin")

# (function, what the finding looks like): why it is right as it stands. Both are patterns that must match.
IGNORED = {
    (
        r".*",
        r'.*cast "(public\.)?(unit_price|unit_quantity|money_amount|logical_instant)(\[\])?" value to "(numeric|timestamp)',
    ): ("a domain's value is its base type's: the cast is free"),
    (r"engine\.refuse\(.*", r".*marked as VOLATILE, should be IMMUTABLE"): (
        "it only raises, and the planner must not run it ahead of time"
    ),
    (r"engine\.(open_matches|next_match)\(.*", r".*marked as VOLATILE, should be (IMMUTABLE|STABLE)"): (
        "a cursor that is opened or moved is a side effect"
    ),
    (r"engine\.(export|import)_rows\(.*", r".*EXECUTE expression is SQL injection vulnerable"): (
        "the text is engine.capsule_tables()' own, or each name of it went through %I"
    ),
    (r"engine\.lock_runs\(.*", r".*marked as VOLATILE, should be STABLE"): "it locks rows",
}

# One row per check: a trigger function is checked for each table and each set of transition tables that it serves.
CHECKS = """
select distinct p.oid::regprocedure::text, p.oid, coalesce(tgrelid, 0), tgoldtable, tgnewtable,
       p.prorettype = 'trigger'::regtype and tgrelid is null
  from pg_proc p
  join pg_language l on l.oid = prolang and lanname = 'plpgsql'
  left join pg_trigger t on tgfoid = p.oid and not tgisinternal
 where pronamespace in ('public'::regnamespace, 'engine'::regnamespace)
   and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
 order by 1, 3
"""
CHECK = """
select lineno, level, sqlstate, message, coalesce(detail, ''), coalesce(hint, '')
  from lint.plpgsql_check_function_tb(%s::oid::regprocedure, relid => %s::oid::regclass, oldtable => %s,
       newtable => %s, fatal_errors => false, all_warnings => true)
 order by lineno, message collate "C"
"""


def main() -> int:
    if not (BIN_DIR / "postgres").exists():
        print(f"plpgsql_check: no PostgreSQL 15 in {BIN_DIR} (Debian: apt-get install postgresql-15)")
        return 1
    try:
        throwaway = server.start_throwaway(bin_dir=BIN_DIR)
    except errors.ServerError as exc:
        print(f"plpgsql_check: {exc}\n{exc.detail or ''}\n{exc.hint}")
        return 1
    try:
        with psycopg.connect(throwaway.dsn, autocommit=True) as conn:
            return check(conn)
    finally:
        throwaway.stop()


def check(conn: psycopg.Connection) -> int:
    try:
        conn.execute("create schema lint")
        conn.execute("create extension plpgsql_check schema lint")
    except psycopg.Error as exc:
        print(f"plpgsql_check: {exc} (Debian: apt-get install postgresql-15-plpgsql-check)")
        return 1
    install.install(conn)
    findings, used, functions = [], set(), set()
    for name, oid, relation, old_table, new_table, idle in conn.execute(CHECKS).fetchall():
        functions.add(name)
        if idle:
            findings.append(f"{name}: no trigger uses it")
            continue
        for line, level, code, *words in conn.execute(CHECK, [oid, relation, old_table, new_table]):
            text = " | ".join(filter(None, words))
            ignored = {key for key in IGNORED if re.match(key[0], name) and re.match(key[1], text)}
            used |= ignored
            if not ignored:
                findings.append(f"{name}:{line}: {level} {code}: {text}")
    findings += [f"nothing is left to ignore for {function}: {text}" for function, text in IGNORED.keys() - used]
    for finding in dict.fromkeys(findings):  # one per finding, not one per table that a trigger serves
        print(finding)
    print(f"plpgsql_check: {len(functions)} functions, {len(dict.fromkeys(findings))} findings")
    return 1 if findings or not functions else 0


if __name__ == "__main__":
    sys.exit(main())
