"""The pages of docs/reference that are made from the two doors: every command, and every route of the HTTP API."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import click
from docs_sql import Gaps, cell, code, index, page, table

from engine_py import cli, cli_base
from engine_py.api import app, openapi

# What an argument means wherever it stands; one that is not here must be named in its command's help.
ARGUMENTS = {
    "user": "Id of a user, as `papertick user create` prints it.",
    "run": "Id of a run of USER, as `papertick run start` prints it.",
    "runs": "Ids of runs of USER.",
    "order_id": "Number of an order within its run.",
    "sip_id": "Number of a SIP within its run.",
    "plan_id": "Number of a rebalance plan within its run.",
    "key_id": "Number of a key.",
    "symbol": "An instrument.",
    "side": "BUY or SELL.",
    "quantity": "Units.",
    "name": "Any name.",
    "new_user": "Id of the user who gets the new run.",
    "amount": "Money a slot, in the run's currency.",
    "frequency": "DAILY, WEEKLY, MONTHLY or QUARTERLY.",
    "start": "Date of the first slot.",
    "file": "A file; `-` is standard input.",
    "source": "A CSV file (`-`: standard input), or the name of a calendar that comes along.",
    "time": "A time with its offset, or a date, which stands for the close of its session.",
    "role": "A role of the server.",
}
_RUN = "A run: its id, or USER/RUN, or the two as two arguments."
_SHARED = {option.name for option in cli_base.Command("any").params} | {"help"}


def commands(group: click.Group, path: str = "papertick") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with the words that call it, in the order of the help."""
    context = click.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            if command.invoke_without_command or not command.help:
                yield f"{path} {name}", command
            yield from commands(command, f"{path} {name}")
        elif command is not None and not command.hidden:
            yield f"{path} {name}", command


def cli_page() -> tuple[str, Gaps]:
    gaps: Gaps = []
    found = list(commands(cli.main))
    lines = [
        "Every command of `papertick`, as `--help` shows it. Exit codes: 0 done, 1 refused or violated, 2 usage,"
        " 3 the server cannot be reached.",
        "",
        "Every command takes these:",
        "",
    ]
    lines += table(("option", "means"), [_option(option)[::2] for option in cli_base.Command("any").params])
    lines += [" · ".join(f"[{name}](#{name.replace(' ', '-')})" for name, _ in found), ""]
    for name, command in found:
        lines += [f"## {name}", "", *_command(name, command, gaps)]
    return page("Commands", *lines), gaps


def _command(name: str, command: click.Command, gaps: Gaps) -> list[str]:
    context = click.Context(command, info_name=name)
    words = inspect.cleandoc(command.help or "").replace("\b\n", "")
    if not words:
        gaps.append(f"command {name}: no help")
    made = []
    for param in command.params:
        if param.name in _SHARED:
            continue
        if isinstance(param, click.Option):
            made.append(_option(param))
            if not param.help:
                gaps.append(f"command {name}, option {param.opts[0]}: no help")
        else:
            text = _RUN if param.nargs == -1 and param.name == "run" else ARGUMENTS.get(param.name or "", "")
            shown = param.metavar or (param.name or "").upper()
            if not text and not re.search(rf"\b{re.escape(shown.strip('[].'))}", words):
                gaps.append(f"command {name}, argument {shown}: not explained")
            made.append((code(shown), "" if param.required else "may be left out", cell(text)))
    usage = " ".join(piece for piece in command.collect_usage_pieces(context))
    # a table's row is one line, a paragraph of help is several
    about = [cell(part) + "\n" for part in re.split(r"\n\s*\n", words)]
    return [f"```text\n{name} {usage}\n```", "", *about, *table(("name", "type", "means"), made)]


def _option(option: click.Parameter) -> tuple[str, str, str]:
    if not isinstance(option, click.Option):
        raise TypeError(option)
    names = ", ".join([*option.opts, *option.secondary_opts])
    kind = "" if option.is_flag or option.count else option.metavar or _kind(option.type)
    notes = [*(["required"] if option.required else []), *(["repeatable"] if option.multiple else [])]
    preset = f" Default: {option.default}." if option.show_default and option.default is not None else ""
    return code(names), "; ".join([*([code(kind)] if kind else []), *notes]), cell(option.help) + preset


def _kind(type_: click.ParamType[Any]) -> str:
    return "|".join(map(str, type_.choices)) if isinstance(type_, click.Choice) else type_.name.removesuffix(" range")


def http_page() -> tuple[str, Gaps]:
    gaps: Gaps = []
    groups: dict[str, list[str]] = {}
    for path, methods in openapi.document(app.ROUTES)["paths"].items():
        for method, operation in methods.items():
            lines = groups.setdefault(operation["tags"][0], [])
            lines += _operation(f"{method.upper()} {path}", operation, gaps)
    lines = [
        "Every route of `papertick serve`, as its `/openapi.json` describes it. [The HTTP API](../api.md) says how to"
        " use it. Answers not listed with a route: 401 without a good key, 422 for what is not as it must be, 429, 500,"
        " 503, 504; each a problem (`application/problem+json`).",
        "",
        *index(groups),
    ]
    for tag, texts in groups.items():
        lines += [f"## {tag}", "", *texts]
    return page("Routes", *lines), gaps


_EVERYWHERE = ("401", "422", "429", "500", "503", "504")


def _operation(route: str, operation: dict[str, Any], gaps: Gaps) -> list[str]:
    if not operation.get("summary"):
        gaps.append(f"route {route}: no summary")
    made = []
    for one in operation["parameters"]:
        about = one.get("description", "")
        if not about and one["in"] != "path":
            gaps.append(f"route {route}, {one['in']} {one['name']}: not explained")
        if one["in"] != "path":
            made.append((code(one["name"]), one["in"], code(_shape(one["schema"])), cell(about)))
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        if "properties" not in schema:
            made.append(("", "body", code(media), "The file."))
        for name, field in schema.get("properties", {}).items():
            if not field.get("description"):
                gaps.append(f"route {route}, field {name}: not explained")
            needed = "body, required" if name in schema.get("required", ()) else "body"
            made.append((code(name), needed, code(_shape(field)), cell(field.get("description"))))
    answers = [
        _answer(status, answer)
        for status, answer in operation["responses"].items()
        if status not in _EVERYWHERE or not operation["security"]
    ]
    return [
        f"### {route}",
        "",
        cell(operation.get("summary")) + ("" if operation["security"] else " No key."),
        "",
        *table(("name", "in", "type", "means"), made),
        f"Answers {' · '.join(answers)}.",
        "",
    ]


def _answer(status: str, answer: dict[str, Any]) -> str:
    for media, content in answer.get("content", {}).items():
        schema = content["schema"]
        items = schema.get("properties", {}).get("items", {}).get("items", {})
        name = (schema.get("$ref") or items.get("$ref") or "").rpartition("/")[2]
        if name and name != "problem":
            return f"{status} ({'page of ' * bool(items)}`{name}`)"
        if not name and media != "application/json":
            return f"{status} (`{media}`)"
    return status


def _shape(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(shape for one in schema["anyOf"] if (shape := _shape(one)) != "null"))
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    return str(schema.get("format") or schema.get("type", "any"))
