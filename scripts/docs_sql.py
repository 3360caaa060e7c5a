"""The pages of docs/reference that are made from the database: its catalogs and what `comment on` says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any]
Gaps = list[str]

ROLES = ("papertick_user", "papertick_analyst", "papertick_api")
# Whose columns say what the parameters of a verb mean; of a verb that returns rows of a table, it is that table.
ABOUT = {
    "start_run": "strategy_run",
    "preview_order": "paper_order",
    "fork_run": "strategy_run",
    "explain_order": "paper_order",
    "create_user": "app_user",
    "forbid_symbol": "forbidden_symbol",
    "create_sip": "sip_plan",
    "change_sip": "sip_plan",
    "pause_sip": "sip_plan",
    "resume_sip": "sip_plan",
    "end_sip": "sip_plan",
    "preview_sip": "sip_plan",
    "end_rebalance": "rebalance_plan",
    "create_rebalance": "rebalance_plan",
    "set_risk_limit": "risk_limit",
    "create_key": "api_key",
    "revoke_key": "api_key",
    "map_login": "user_login",
    "unmap_login": "user_login",
    "keep_answer": "api_answer",
    "claim_answer": "api_answer",
}
# What the answers of verbs and the views have in common.
_COMMON = {"user_id": "The user whose run it is.", "run_id": "The run."}
_NUMBERS = Path(__file__).parent.parent / "docs" / "numbers.md"  # explains the columns that are named as metrics
_RELATIONS: LiteralString = """
  select c.oid::bigint, c.relname as name, c.relkind::text as kind, obj_description(c.oid, 'pg_class') as about
    from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v', 'p', 'm')
   order by c.oid"""
_COLUMNS: LiteralString = """
  select a.attname as name, format_type(a.atttypid, a.atttypmod) as type, a.attnotnull as is_needed,
         case when a.attidentity <> '' then 'counts' else pg_get_expr(d.adbin, d.adrelid) end as preset,
         col_description(a.attrelid, a.attnum) as about
    from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
   where a.attrelid = %s and a.attnum > 0 and not a.attisdropped order by a.attnum"""
# NOT NULL is a part of its column here: PostgreSQL 18 lists it as a constraint as well, 15 does not.
_CONSTRAINTS: LiteralString = """
  select c.conname as name, c.contype::text as kind, pg_get_constraintdef(c.oid) as definition
    from pg_constraint c where c.conrelid = %s and c.contype in ('p', 'u', 'f', 'c', 'x')
   order by array_position('{p,f,u,x,c}'::text[], c.contype::text), c.conname collate "C" """
_INDEXES: LiteralString = """
  select i.indexrelid::regclass::text as name, 'i' as kind, pg_get_indexdef(i.indexrelid) as definition
    from pg_index i where i.indrelid = %s and i.indisunique
     and not exists (select from pg_constraint c where c.conindid = i.indexrelid and c.contype in ('p', 'u', 'x'))
   order by 1"""
_DOMAINS: LiteralString = """
  select t.typname as name, format_type(t.typbasetype, t.typtypmod) as type, obj_description(t.oid, 'pg_type') as about,
         (select string_agg(pg_get_constraintdef(c.oid), ' ' order by c.conname collate "C")
            from pg_constraint c where c.contypid = t.oid and c.contype = 'c') as definition
    from pg_type t where t.typnamespace = 'public'::regnamespace and t.typtype = 'd' order by t.oid"""
_VERBS: LiteralString = """
  select p.oid::bigint, p.proname as name, p.prokind::text as kind, pg_get_function_result(p.oid) as result,
         pg_get_function_arguments(p.oid) as arguments, obj_description(p.oid, 'pg_proc') as about,
         (select r.relname from pg_class r where r.reltype = p.prorettype) as table_name,
         array(select x.name from unnest(p.proargnames, p.proargmodes::text[]) x (name, mode)
                where x.mode = 't') as columns
    from pg_proc p where p.pronamespace = 'public'::regnamespace
     and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e') order by p.oid"""


def rows(conn: psycopg.Connection, query: LiteralString, *values: object) -> list[Row]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, values).fetchall()


def pages(conn: psycopg.Connection) -> tuple[dict[str, str], Gaps]:
    """The pages by name, and what lacks a comment."""
    with conn.transaction():
        conn.execute("set local search_path = public, pg_catalog")
        gaps: Gaps = []
        domains = {row["name"]: row for row in rows(conn, _DOMAINS)}
        relations = rows(conn, _RELATIONS)
        for relation in relations:
            relation["columns"] = rows(conn, _COLUMNS, relation["oid"])
            for column in relation["columns"]:
                column["about"] = column["about"] or _words_of(domains.get(column["type"]))
                if relation["kind"] == "v":
                    column["about"] = column["about"] or _COMMON.get(column["name"])
        tables = [relation for relation in relations if relation["kind"] != "v"]
        views = [relation for relation in relations if relation["kind"] == "v"]
        verbs = rows(conn, _VERBS)
        return {
            "tables.md": _tables(conn, tables, domains, gaps),
            "views.md": _views(views, gaps),
            "verbs.md": _verbs(verbs, {relation["name"]: relation for relation in relations}, gaps),
            "domains.md": _domains(list(domains.values()), gaps),
            "roles.md": _roles(conn, relations, verbs),
            "refusals.md": _refusals(conn, gaps),
        }, gaps


# --- text


def cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("*", "\\*").replace("\n", " ")


def code(text: str | None) -> str:
    return "`" + text.replace("|", "\\|") + "`" if text else ""


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    made = [f"| {' | '.join(line)} |" for line in lines]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *made, ""] if made else []


def page(title: str, *lines: str) -> str:
    return "\n".join([f"# {title}", "", *lines]).rstrip() + "\n"


def shown(expression: str | None) -> str:
    """An expression of the catalogs as one would write it: on one line, without the casts that it has been given."""
    text = re.sub(r"\s+", " ", expression or "").replace("public.", "")
    text = re.sub(r"\((\w+)\)::\w+", r"\1", text)
    return re.sub(r"::(?:timestamp with time zone|[a-z]+)(?:\[\])?", "", text)


def index(names: Iterable[str]) -> list[str]:
    return [" · ".join(f"[{name}](#{name})" for name in names), ""]


def mentions(about: str | None, name: str) -> bool:
    short = name.removesuffix("_ids") + "s" if name.endswith("_ids") else name.removesuffix("_id")
    return bool(re.search(rf"\b({name}|{short})\b", about or ""))


def metrics() -> set[str]:
    """The metrics that docs/numbers.md explains."""
    cells = re.findall(r"^\| ([a-z_, ]+) \|", _NUMBERS.read_text(encoding="utf-8"), re.M)
    return {name for cell in cells for name in cell.split(", ")}


def _words_of(domain: Row | None) -> str | None:
    """A domain that lists its words explains a column by itself."""
    words = re.findall(r"'([A-Z_]+)'::text", domain["definition"] or "") if domain else []
    if not domain or not words:
        return None
    said = domain["about"] or ""
    return said if all(word in said for word in words) else f"{said} One of {', '.join(words)}."


def _sentence(name: str, of: str) -> str:
    return name.removeprefix(of + "_").removesuffix("_pkey").replace("_", " ")


# --- pages


def _type(name: str, domains: dict[str, Row]) -> str:
    return f"[`{name}`](domains.md#{name})" if name in domains else code(name)


def _tables(conn: psycopg.Connection, tables: list[Row], domains: dict[str, Row], gaps: Gaps) -> str:
    lines = ["Every table of the schema `public`, in the order in which sql/ makes them.", ""]
    lines += index(one["name"] for one in tables)
    for one in tables:
        name = one["name"]
        if not one["about"]:
            gaps.append(f"table {name}: no comment")
        gaps += [f"table {name}, column {c['name']}: no comment" for c in one["columns"] if not c["about"]]
        lines += [f"## {name}", "", cell(one["about"]), ""]
        lines += table(
            ("column", "type", "null", "default", "means"),
            [
                (
                    code(c["name"]),
                    _type(c["type"], domains),
                    "" if c["is_needed"] else "yes",
                    c["preset"] if c["preset"] == "counts" else code(shown(c["preset"])),
                    cell(c["about"]),
                )
                for c in one["columns"]
            ],
        )
        held = [*rows(conn, _CONSTRAINTS, one["oid"]), *rows(conn, _INDEXES, one["oid"])]
        lines += table(("holds", "as"), [_constraint(row, name) for row in held])
    return page("Tables", *lines)


def _constraint(row: Row, of: str) -> tuple[str, str]:
    words = "key" if row["kind"] == "p" else _sentence(row["name"], of)
    definition = re.sub(r"^CREATE UNIQUE INDEX \w+ ON (?:\w+\.)?\w+ USING btree ", "UNIQUE ", row["definition"])
    return words, code(shown(definition))


def _views(views: list[Row], gaps: Gaps) -> str:
    lines = ["Views of the schema `public`; each shows its reader no more than the tables would.", ""]
    lines += index(one["name"] for one in views)
    for one in views:
        if not one["about"]:
            gaps.append(f"view {one['name']}: no comment")
        for column in one["columns"]:
            known = column["about"] or column["name"] in metrics()
            if not known and not mentions(one["about"], column["name"]):
                gaps.append(f"view {one['name']}, column {column['name']}: no comment")
        lines += [f"## {one['name']}", "", cell(one["about"]), ""]
        made = [(code(c["name"]), code(c["type"]), cell(c["about"])) for c in one["columns"]]
        lines += table(("column", "type", "means"), made)
    return page("Views", *lines)


def _verbs(verbs: list[Row], tables: dict[str, Row], gaps: Gaps) -> str:
    lines = [
        "Every function and procedure of the schema `public`. Call them by name of parameter"
        " (`p_cash => 1`) or in order. What they refuse and when stands with each by its SQLSTATE:"
        " [refusals](refusals.md) and [codes](../codes.md) say what it means. Who may call what: [roles](roles.md).",
        "",
    ]
    lines += index(one["name"] for one in verbs)
    for one in verbs:
        if not one["about"]:
            gaps.append(f"verb {one['name']}: no comment")
        about, _, rest = (one["about"] or "").partition("\n")
        said = dict(re.findall(r"^(\w+): (.+)$", rest, re.M))
        lines += [f"## {one['name']}", "", cell(about), ""]
        made = []
        for name, kind, preset in parameters(one["arguments"]):
            text = said.get(name) or _meaning(name, one, tables)
            if not text and not mentions(one["about"], name):
                gaps.append(f"verb {one['name']}, parameter p_{name}: not explained")
            made.append((code(f"p_{name}"), code(kind), code(preset), cell(text)))
        lines += table(("parameter", "type", "default", "means"), made)
        explained = (one["name"], "strategy_run", "engine_state")  # a view of the same name, and the run itself
        known = metrics() | {c["name"] for name in explained if name in tables for c in tables[name]["columns"]}
        for column in one["columns"]:
            if column not in known and not mentions(one["about"], column):
                gaps.append(f"verb {one['name']}, column {column} of its answer: not explained")
        lines += [f"Returns {code(one['result'])}." if one["kind"] == "f" else "A procedure: `CALL` it.", ""]
    return page("Verbs", *lines)


def parameters(arguments: str) -> list[tuple[str, str, str]]:
    """(name without p_, type, default) of each parameter, out of pg_get_function_arguments."""
    found = []
    for part in re.split(r", (?=(?:IN |INOUT |OUT )?p_)", arguments) if arguments else []:
        match = re.fullmatch(r"(?:IN |INOUT |OUT )?p_(\w+) (.+?)(?: DEFAULT (.+))?", part)
        if not match:
            raise ValueError(f"not a parameter: {part}")
        found.append((match[1], match[2], shown(match[3])))
    return found


def _meaning(name: str, verb: Row, tables: dict[str, Row]) -> str | None:
    """What the column says that the parameter goes into."""
    for table_name in (ABOUT.get(verb["name"]) or verb["table_name"], "strategy_run" if name.endswith("_id") else None):
        columns = {c["name"]: c["about"] for c in tables[table_name]["columns"]} if table_name in tables else {}
        for suffix in ("", "_id", "_date", "_price"):
            if columns.get(name + suffix):
                return str(columns[name + suffix])
    return None


def _domains(domains: list[Row], gaps: Gaps) -> str:
    lines = ["Types of columns that hold more than their base type says.", ""]
    for one in domains:
        if not one["about"]:
            gaps.append(f"domain {one['name']}: no comment")
        lines += [f"## {one['name']}", "", f"{code(one['type'])}. {cell(one['about'])}", ""]
        lines += [code(shown(one["definition"])), ""] if one["definition"] else []
    return page("Domains", *lines)


def _roles(conn: psycopg.Connection, relations: list[Row], verbs: list[Row]) -> str:
    lines = [
        "What each role of the server may do ([security](../security.md) explains them). `papertick_owner` owns"
        " everything below and may do all of it. A table with rows of users shows `papertick_user` and"
        " `papertick_api` those of their own users only (row-level security).",
        "",
        "## Tables and views",
        "",
    ]
    made = []
    for one in relations:
        held = [_privileges(conn, role, one["oid"]) for role in ROLES]
        made.append((f"[{one['name']}]({'views' if one['kind'] == 'v' else 'tables'}.md#{one['name']})", *held))
    lines += [*table(("", *map(code, ROLES)), made), "## Verbs", ""]
    made = []
    for one in verbs:
        query: LiteralString = "select has_function_privilege(%s, %s::bigint::oid, 'execute') as may"
        held = ["yes" if rows(conn, query, role, one["oid"])[0]["may"] else "" for role in ROLES]
        made.append((f"[{one['name']}](verbs.md#{one['name']})", *held))
    return page("Roles", *lines, *table(("", *map(code, ROLES)), made))


def _privileges(conn: psycopg.Connection, role: str, oid: int) -> str:
    query: LiteralString = "select has_table_privilege(%s, %s::bigint::oid, %s) as may"
    words = (("select", "reads"), ("insert", "adds"), ("update", "changes"), ("delete", "deletes"))
    return ", ".join(word for held, word in words if rows(conn, query, role, oid, held)[0]["may"])


def _refusals(conn: psycopg.Connection, gaps: Gaps) -> str:
    codes = rows(conn, 'select * from engine.refusal_codes() order by code collate "C"')
    gaps += [f"refusal {one['code']}: no message or no hint" for one in codes if not one["message"] or not one["hint"]]
    lines = [
        "Every SQLSTATE that the engine raises itself, with its message and its HINT; the DETAIL is a list of"
        " `key=value` pairs. [Codes](../codes.md) has these and every other word that papertick answers with, and"
        " [the HTTP API](../api.md) says which status each becomes.",
        "",
    ]
    made = [(code(one["code"]), cell(one["message"]), cell(one["hint"])) for one in codes]
    return page("Refusals", *lines, *table(("SQLSTATE", "message", "hint"), made))
