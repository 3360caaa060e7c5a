"""Routes that have handlers of their own: replays, the stream, and what machines ask of the process."""

from __future__ import annotations

from engine_py.api.fields import Text, Time
from engine_py.api.recipes import RUN
from engine_py.api.table import Route

ROUTES: tuple[Route, ...] = (
    Route(
        *("POST", RUN + "/replays", "start_replay", "Replay a range of the feed in the background; again to go on."),
        status=202,
        answer="replay",
        body=(Time("from", "Not before this time.", True), Time("to", "Not after this time.", True)),
        refusals=(404, 409),
        seconds=60,
    ),
    Route(
        *("GET", RUN + "/replays/{replay_id}", "get_replay", "How far a replay has come."),
        answer="replay",
        refusals=(404,),
    ),
    Route(
        *(
            "GET",
            RUN + "/stream",
            "stream_run",
            "The run's events, trades and ticks as they happen.",
        ),
        answer="stream",
        query=(Text("last_event_id", "Begin after this item; so does the header Last-Event-ID.", most=60, least=1),),
        refusals=(404,),
        answers_with="text/event-stream",
    ),
    Route(*("GET", "/healthz", "healthz", "The process is there."), answer="health", is_public=True),
    Route(
        *("GET", "/readyz", "readyz", "The database is reachable and has papertick."),
        answer="health",
        is_public=True,
    ),
    Route(
        *("GET", "/metrics", "metrics", "Prometheus' text format."),
        is_public=True,
        answer="text",
        answers_with="text/plain",
    ),
    Route(
        *("GET", "/openapi.json", "openapi", "This description."),
        is_public=True,
        answer="any",
    ),
    Route(
        *("GET", "/docs", "docs", "This description, to read."), is_public=True, answer="text", answers_with="text/html"
    ),
)
