"""/docs: the description as one page of HTML, made here: no script, nothing from elsewhere."""

from __future__ import annotations

import json
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
nav a { margin-right: .8rem; } h2 { margin-top: 2.5rem; }
details { border: 1px solid #8886; border-radius: 6px; margin: .4rem 0; padding: .3rem .7rem; }
summary { cursor: pointer; } summary code { margin-right: .6rem; }
b.get { color: #2a7; } b.post, b.put { color: #27c; } b.delete { color: #c33; }
table { border-collapse: collapse; margin: .5rem 0; }
td { text-align: left; padding: .15rem .9rem .15rem 0; vertical-align: top; }
pre { overflow-x: auto; background: #8881; padding: .6rem; border-radius: 6px; }
"""


def html(description: dict[str, Any]) -> bytes:
    info = description["info"]
    groups: dict[str, list[str]] = {}
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append(_operation(path, method, operation))
    nav = "".join(f'<a href="#{tag}">{escape(tag)}</a>' for tag in groups)
    parts = [f'<h2 id="{tag}">{escape(tag)}</h2>{"".join(texts)}' for tag, texts in groups.items()]
    schemas = "".join(
        f'<details id="schema-{name}"><summary><code>{name}</code></summary>{_json(schema)}</details>'
        for name, schema in description["components"]["schemas"].items()
    )
    about = "".join(f"<p>{escape(text)}</p>" for text in info["description"].split("\n\n"))
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>{about}"
        f'<p><a href="openapi.json">openapi.json</a></p><nav>{nav}<a href="#schemas">schemas</a></nav>'
        f'{"".join(parts)}<h2 id="schemas">schemas</h2>{schemas}</html>'
    )
    return page.encode()


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(p['name'])}</code><td>{p['in']}<td>{escape(_kind(p['schema']))}"
        f"<td>{escape(p.get('description', ''))}{' <b>required</b>' if p.get('required') else ''}"
        for p in operation["parameters"]
    )
    body = ""
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        required = schema.get("required", ())
        fields = "".join(
            f"<tr><td><code>{escape(name)}</code><td>{escape(_kind(field))}<td>{escape(field.get('description', ''))}"
            f"{' <b>required</b>' if name in required else ''}"
            for name, field in schema.get("properties", {}).items()
        )
        body += f"<p>Body: <code>{escape(media)}</code><table>{fields}</table>"
    answers = "".join(f"<tr><td>{status}<td>{_answer(answer)}" for status, answer in operation["responses"].items())
    return (
        f'<details id="{operation["operationId"]}"><summary><code><b class="{method}">{method.upper()}</b> '
        f"{escape(path)}</code>{escape(operation['summary'])}</summary>"
        f"<table>{rows}</table>{body}<p>Answers:<table>{answers}</table></details>"
    )


def _answer(answer: dict[str, Any]) -> str:
    kinds = ", ".join(
        f"{escape(media)} {_link(content['schema'])}" for media, content in answer.get("content", {}).items()
    )
    return f"{escape(answer['description'])}<td>{kinds}"


def _link(schema: dict[str, Any]) -> str:
    items = schema.get("properties", {}).get("items", {}).get("items", {})
    name = (schema.get("$ref") or items.get("$ref") or "").rpartition("/")[2]
    return f'<a href="#schema-{name}">{"page of " * bool(items)}{name}</a>' if name else ""


def _kind(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_kind, schema["anyOf"])))
    if "enum" in schema:
        return " | ".join(schema["enum"])
    return str(schema.get("format") or schema.get("type", "any"))


def _json(schema: dict[str, Any]) -> str:
    return f"<pre>{escape(json.dumps(schema, indent=1, ensure_ascii=False))}</pre>"
