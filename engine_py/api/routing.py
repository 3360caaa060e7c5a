"""Where a request goes, and what its path, its query and its headers say."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request

from engine_py.api import (
    infra_routes,
    leaderboard_routes,
    market_routes,
    order_routes,
    plan_routes,
    problem,
    report_routes,
    risk_routes,
    run_routes,
)
from engine_py.api.fields import MAX_ID, Text, read_query
from engine_py.api.problem import Problem
from engine_py.api.table import Route

ROUTES: tuple[Route, ...] = (
    *run_routes.ROUTES,
    *order_routes.ROUTES,
    *plan_routes.ROUTES,
    *risk_routes.ROUTES,
    *report_routes.ROUTES,
    *leaderboard_routes.ROUTES,
    *infra_routes.ROUTES,
    *market_routes.ROUTES,
)


class Router:
    """Templates of paths, and the routes that stand there by method."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._templates: dict[str, dict[str, Route]] = {}
        for route in routes:
            self._templates.setdefault(route.path, {})[route.method] = route
        # a word in a path comes before an id there: /orders/oco before /orders/{order_id}
        self._patterns = [
            (re.compile(re.sub(r"{\w+}", "([^/]+)", path)), re.findall(r"{(\w+)}", path), methods)
            for path, methods in sorted(self._templates.items(), key=lambda item: ("{" in item[0], item[0].count("{")))
        ]

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        for pattern, names, methods in self._patterns:
            match = pattern.fullmatch(path)
            if not match:
                continue
            route = methods.get("GET" if method == "HEAD" else method)
            if route and not (method == "HEAD" and route.name == "stream_run"):
                return route, dict(zip(names, match.groups(), strict=True))
            allowed = ", ".join(sorted({*methods, *(("HEAD",) if "GET" in methods else ())}))
            raise Problem(405, "method", "the method is not allowed here", headers={"Allow": allowed})
        raise problem.not_found("path")


def path_of(ids: dict[str, str]) -> dict[str, Any]:
    """Ids as numbers: what can be none is unknown."""
    path: dict[str, Any] = {}
    for name, text in ids.items():
        if not name.endswith("_id") or name == "replay_id":
            path[name] = Text(name, "", least=1).read(text)
        elif re.fullmatch(r"\d{1,19}", text, re.ASCII) and int(text) <= MAX_ID and text == str(int(text)):
            path[name] = int(text)
        else:
            raise problem.not_found(name.removesuffix("_id"))
    return path


def query_of(route: Route, request: Request) -> dict[str, str | None]:
    raw = request.scope["query_string"].decode("latin-1")
    try:
        pairs = parse_qsl(raw, keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError:
        raise problem.invalid("the query is not valid UTF-8, or too long") from None
    return read_query(pairs, route.query)


def require_media(route: Route, request: Request) -> str:
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in route.media:
        hint = f"Send it as {' or '.join(route.media)}."
        raise Problem(415, "media_type", "the body's media type is not supported", hint=hint)
    return media
