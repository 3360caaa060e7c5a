"""/openapi.json, made from the table of routes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from engine_py import __version__
from engine_py.api import problem
from engine_py.api.fields import MAX_ID, Field
from engine_py.api.idempotency import HEADER
from engine_py.api.schemas import ROWS, page_of
from engine_py.api.table import Route

Schema = dict[str, Any]

_ABOUT = """Paper trading inside PostgreSQL. Every request is one transaction of the key's user.

Decimals are strings in answers; in requests they are strings or JSON numbers, read digit by digit. Times are RFC 3339
with an offset, and answered in UTC. Lists go on with `cursor`. A POST or PUT with an `Idempotency-Key` is done once;
the same request again gets the same bytes. What is another's is answered as what does not exist."""
_WORDS = {408: "The body took too long to come.", 429: "Too many requests.", 504: "It took too long."}
_OTHER: dict[str, Schema] = {
    # of each event, as OpenAPI 3.1 is read: itemSchema came with 3.2
    "stream": {
        "type": "object",
        "description": "A server-sent event. `end` has no id: it is the last one.",
        "required": ["event", "data"],
        "additionalProperties": False,
        "properties": {
            "id": {"type": "string", "description": "Goes into Last-Event-ID."},
            "event": {"type": "string", "enum": ["event", "trade", "tick", "end"]},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
    },
    "text": {"type": "string"},
    "any": {"type": "object"},
}
_TEXT_IDS = {"feed": 200, "calendar": 200, "replay_id": 40}


def document(routes: Iterable[Route]) -> Schema:
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "papertick", "version": __version__, "description": _ABOUT, "license": {"name": "MIT"}},
        "paths": paths,
        "components": {
            "schemas": {**ROWS, "problem": problem.SCHEMA},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "papertick key create"}},
        },
    }


def statuses(route: Route) -> list[int]:
    """Every status with which a route can answer."""
    if route.is_public:
        return sorted({route.status, *((503,) if route.name == "readyz" else ())})
    found = {route.status, 401, 422, 429, 500, 503, 504, *route.refusals}
    if route.admin_only:
        found.add(403)
    if route.method in ("POST", "PUT"):
        found |= {400, 408, 409, 413, 415}
    if "{" in route.path:
        found.add(404)
    return sorted(found)


def _operation(route: Route) -> Schema:
    operation: Schema = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [_tag(route)],
        "parameters": [*map(_path_parameter, re.findall(r"{(\w+)}", route.path)), *map(_parameter, route.query)],
        "responses": {str(status): _response(route, status) for status in statuses(route)},
        "security": [] if route.is_public else [{"key": []}],
    }
    if route.method in ("POST", "PUT"):
        operation["parameters"].append(
            {
                "name": HEADER,
                "in": "header",
                "description": "1 to 255 printable ASCII characters: the same request again gets the same answer.",
                "schema": {"type": "string", "pattern": "^[ -~]{1,255}$"},
            }
        )
        operation["requestBody"] = _request(route)
    if route.name == "stream_run":
        about = "The id of the last item that was received."
        header = {"name": "Last-Event-ID", "in": "header", "description": about, "schema": {"type": "string"}}
        operation["parameters"].append(header)
    return operation


def _tag(route: Route) -> str:
    parts = [part for part in route.path.split("/")[2:] if not part.startswith("{")]
    if route.is_public:
        return "process"
    return parts[1] if parts[0] == "runs" and len(parts) > 1 else parts[0]


def _path_parameter(name: str) -> Schema:
    if name in _TEXT_IDS:
        schema: Schema = {"type": "string", "minLength": 1, "maxLength": _TEXT_IDS[name]}
    else:
        schema = {"type": "integer", "format": "int64", "minimum": 1, "maximum": MAX_ID}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _parameter(field: Field) -> Schema:
    return {
        "name": field.name,
        "in": "query",
        "required": field.required,
        "description": field.about,
        "schema": field.schema(),
    }


def _request(route: Route) -> Schema:
    if route.body is None:
        return {"required": True, "content": {media: {"schema": {"type": "string"}} for media in route.media}}
    properties = {field.name: {**_nullable(field), "description": field.about} for field in route.body}
    required = [field.name for field in route.body if field.required]
    schema: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    if required:
        schema["required"] = required
    return {"required": bool(required), "content": {media: {"schema": schema} for media in route.media}}


def _nullable(field: Field) -> Schema:
    """null is as if it were not there."""
    schema = field.schema()
    if field.required:
        return schema
    return {"anyOf": [*schema.get("anyOf", [schema]), {"type": "null"}]}


def _response(route: Route, status: int) -> Schema:
    if status >= 400 and not (route.is_public and status == 503):
        response: Schema = {
            "description": _WORDS.get(status, HTTPStatus(status).phrase),
            "content": {problem.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/problem"}}},
        }
        headers = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}
        if status in headers:
            response["headers"] = {headers[status]: {"required": True, "schema": {"type": "string"}}}
        return response
    response = {"description": HTTPStatus(status).phrase}
    if route.answer:
        schema = page_of(route.answer) if route.is_page else _OTHER.get(route.answer) or _reference(route.answer)
        response["content"] = {route.answers_with: {"schema": schema}}
    if status in (201, 202) and route.method == "POST":
        response["headers"] = {"Location": {"schema": {"type": "string"}}}
    return response


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
