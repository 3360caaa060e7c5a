"""The route that compares the runs of a key's own user."""

from __future__ import annotations

from engine_py.api.fields import Text
from engine_py.api.table import LIMIT, Answer, Call, Plan, Route, verb


def _leaderboard(call: Call) -> Plan:
    asked = {name: call.query.get(name) for name in ("feed", "name_like")}
    metric, limit = (call.query.get(name) or default for name, default in (("metric", "xirr"), ("limit", "100")))
    statement = verb("leaderboard", {**asked, "metric": metric, "limit": limit})
    return Plan([statement], lambda results: Answer({"items": results[-1], "next_cursor": None}))


ROUTES: tuple[Route, ...] = (
    Route(
        *("GET", "/v1/leaderboard", "list_leaderboard", "Your runs by one metric, the best first."),
        answer="leaderboard",
        is_page=True,
        query=(
            Text("metric", "A metric of performance. Default: xirr.", most=64, least=1),
            Text("feed", "Only runs of this feed.", least=1),
            Text("name_like", "Only runs whose name is like this pattern of SQL.", most=200),
            LIMIT,
        ),
        plan=_leaderboard,
        refusals=(404, 422),
        seconds=60,
    ),
)
