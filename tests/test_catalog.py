"""What holds for every table and function by construction: lints over the catalog and the SQL files."""

from __future__ import annotations

import re

import pytest
from helpers import CHILDREN, PER_RUN, Conn

from engine_py.install import sql_dir

_TABLES = "c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'f')"
_OURS = "p.pronamespace in ('public'::regnamespace, 'engine'::regnamespace) and p.prokind in ('f', 'p')"
_INSERT, _DELETE, _UPDATE, _TRUNCATE = 4, 8, 16, 32  # bits of pg_trigger.tgtype


def column(conn: Conn, query: str) -> list[str]:
    """The first column of a query that lists what should not be there."""
    return [row[0] for row in conn.execute(query).fetchall()]


def test_every_per_run_table_is_known_here(tx):
    query = f"""
      select c.relname from pg_class c where {_TABLES} and exists (
        select from pg_attribute a where a.attrelid = c.oid and a.attname = 'run_id') order by 1"""
    assert column(tx, query) == sorted(PER_RUN)


@pytest.mark.parametrize("table", CHILDREN)
def test_every_per_run_table_is_guarded_always(tx, table):
    """An insert is guarded by one trigger that always fires, or by two of which exactly one does."""
    query = """
      select tgtype::int, coalesce(pg_get_expr(tgqual, tgrelid), '') from pg_trigger
       where tgrelid = %s::regclass and not tgisinternal and tgenabled = 'A'"""
    triggers = tx.execute(query, [table]).fetchall()
    for event in (_UPDATE, _DELETE, _TRUNCATE):
        assert [condition for kind, condition in triggers if kind & event] == [""]
    conditions = sorted(condition for kind, condition in triggers if kind & _INSERT)
    assert conditions in ([""], ["(pg_trigger_depth() = 0)", "(pg_trigger_depth() > 0)"])


def test_the_row_of_a_run_is_guarded_always(tx):
    query = "select tgtype from pg_trigger where tgrelid = 'strategy_run'::regclass and not tgisinternal"
    types = [t for (t,) in tx.execute(f"{query} and tgenabled = 'A' and tgqual is null")]
    row_before_update = 1 | 2 | _UPDATE
    assert any(t & row_before_update == row_before_update for t in types)
    assert any(t & _TRUNCATE for t in types)


def test_no_guard_can_be_left_out(tx):
    """No trigger of ours is off, limited to columns, or fires in origin sessions only."""
    query = """
      select tgrelid::regclass || '.' || tgname from pg_trigger join pg_class c on c.oid = tgrelid
       where not tgisinternal and c.relnamespace = 'public'::regnamespace
         and (tgenabled <> 'A' or tgattr <> '')"""
    assert column(tx, query) == []


def test_no_table_stands_outside_the_guards(tx):
    """No partition, child or unlogged table but one; nothing temporary or foreign."""
    query = f"select c.relname from pg_class c where {_TABLES} and (c.relkind <> 'r' or c.relpersistence <> 'p')"
    assert column(tx, query + " union all select inhrelid::regclass::text from pg_inherits") == ["acting"]


def test_key_columns_are_not_null(tx):
    query = """
      select c.conrelid::regclass || '.' || a.attname from pg_constraint c
        join pg_attribute a on a.attrelid = c.conrelid and a.attnum = any (c.conkey)
       where c.contype in ('p', 'f') and c.connamespace = 'public'::regnamespace and not a.attnotnull
         and (c.contype = 'p' or a.attname in ('user_id', 'run_id'))"""
    assert column(tx, query) == []


def test_every_key_of_a_run_starts_with_user_and_run(tx):
    query = """
      select i.indexrelid::regclass::text from pg_index i join pg_attribute a on a.attrelid = i.indexrelid
       where i.indisunique and i.indrelid::regclass::text = any (%s)
       group by 1 having (array_agg(a.attname order by a.attnum))[:2] <> '{user_id,run_id}'"""
    found = [row[0] for row in tx.execute(query, [list(CHILDREN)])]
    assert found == []


def test_every_per_run_table_falls_with_its_run(tx):
    query = """
      select c.conrelid::regclass::text from pg_constraint c
       where c.contype = 'f' and c.confrelid = 'strategy_run'::regclass and c.confdeltype = 'c'
         and c.convalidated and (
           select array_agg(a.attname order by k.n) from unnest(c.conkey) with ordinality k (attnum, n)
             join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.attnum) = '{user_id,run_id}'"""
    assert sorted(column(tx, query)) == sorted(CHILDREN)


def test_numbers_and_times_are_bounded(tx):
    """No float, no money, no time without zone, no unbounded numeric; a logical time has its range."""
    query = f"""
      select c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
        from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_type t on t.oid = a.atttypid
        left join pg_type b on b.oid = t.typbasetype
       where {_TABLES} and a.attnum > 0 and not a.attisdropped and (
             coalesce(b.typname, t.typname) in ('float4', 'float8', 'money', 'timestamp', 'time', 'timetz')
          or coalesce(b.typname, t.typname) = 'numeric' and greatest(a.atttypmod, t.typtypmod) = -1
          or a.attname ~ '(logical|closed)_time' and t.typname <> 'logical_instant')"""
    assert column(tx, query) == []


def test_constraints_have_names_of_their_own(tx):
    query = r"""
      select conname from pg_constraint
       where connamespace = 'public'::regnamespace and contype <> 'n'
         and (conname ~ '_(check|key|fkey|excl|not_null)[0-9]*$' or contype = 'p' and conname !~ '_pkey$')
      union all
      select c.relname from pg_class c
       where c.relnamespace = 'public'::regnamespace and c.relkind = 'i' and c.relname ~ '_idx[0-9]*$'"""
    assert column(tx, query) == []


def test_tables_views_and_verbs_have_comments(tx):
    query = f"""
      select c.relname from pg_class c
       where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v')
         and obj_description(c.oid, 'pg_class') is null
      union all
      select p.oid::regprocedure::text from pg_proc p
       where {_OURS} and p.pronamespace = 'public'::regnamespace and obj_description(p.oid, 'pg_proc') is null
      union all
      select t.typname from pg_type t
       where t.typnamespace = 'public'::regnamespace and t.typtype = 'd'
         and obj_description(t.oid, 'pg_type') is null"""
    assert column(tx, query) == []


# Who is calling is decided by the clock on the wall, and a key is made of dice. Neither is a decision of a run.
_OF_IDENTITY = ("engine.authenticate", "engine.create_key", "engine.revoke_key")
_FORBIDDEN = {
    "wall clock": r"\b(now|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday)\s*\(",
    "today": r"\b(current_date|current_time|current_timestamp|localtime|localtimestamp)\b",
    "dice": r"\b(random|random_normal|gen_random_uuid|nextval|currval|setval)\s*\(",
    "a nameless catch": r"\bwhen\s+others\b",
    "'now' as text": r"'(now|today|tomorrow|yesterday)'",
}


def test_functions_depend_on_nothing_but_their_rows(tx):
    """No wall clock, no dice, no sequence, no nameless catch in any function's body."""
    bodies = tx.execute(f"select p.oid::regprocedure::text, pg_get_functiondef(p.oid) from pg_proc p where {_OURS}")
    found = [
        f"{name}: {what}"
        for name, body in bodies
        if not name.startswith(_OF_IDENTITY)
        for what, pattern in _FORBIDDEN.items()
        if re.search(pattern, re.sub(r"--.*", "", body), re.IGNORECASE)
    ]
    assert found == []


def test_verbs_pin_their_search_path(tx):
    """pg_temp last, or a temporary table could stand in. A procedure that commits cannot be pinned."""
    query = f"""
      select p.oid::regprocedure::text from pg_proc p
       where {_OURS} and (p.pronamespace = 'public'::regnamespace or p.prosecdef)
         and array_to_string(p.proconfig, ';') !~ 'search_path=[^;]*pg_temp"?(;|$)' is not false
         and not (p.prokind = 'p' and p.prosrc ~ '\\mcommit\\M')"""
    assert column(tx, query) == []


def test_files_and_functions_are_short():
    long = []
    for path in sorted(sql_dir().glob("[0-9]*.sql")):
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 250:
            long.append(f"{path.name}: {text.count(chr(10))} lines")
        for part in re.split(r"^(?=create |comment |alter |grant |do |set |--)", text, flags=re.MULTILINE):
            if re.match(r"create (or replace )?(function|procedure)", part) and part.strip().count("\n") >= 60:
                long.append(f"{path.name}: {part.splitlines()[0]} has {part.strip().count(chr(10)) + 1} lines")
    assert long == []
