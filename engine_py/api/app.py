"""The ASGI application: from a request to one transaction and back."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from engine_py.api import idempotency, market_routes, problem, wire
from engine_py.api.database import Database, Transaction
from engine_py.api.fields import read_body as read_fields
from engine_py.api.idempotency import Sent
from engine_py.api.limits import Buckets, Limits, read_body, spool_body
from engine_py.api.metrics import Metrics
from engine_py.api.probes import Probes
from engine_py.api.problem import Problem, from_error
from engine_py.api.replays import Replays
from engine_py.api.routing import ROUTES, Router, path_of, query_of, require_media
from engine_py.api.streams import Streams
from engine_py.api.table import Answer, Call, Identity, Plan, Results, Route, Statement
from engine_py.api.uploads import Uploads
from engine_py.report import gather, page

log = logging.getLogger("papertick.api")

_JSON = "application/json"
_MOVES = {"tick", "stop_run", "delete_run"}  # what a stream of the run should see at once


@dataclass(frozen=True)
class Settings:
    """How one process serves."""

    dsn: str
    is_superuser: bool
    pool: int = 10
    limits: Limits = field(default_factory=Limits)


class Api:
    """One process of the API."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._router = Router(ROUTES)
        self._metrics = Metrics()
        self._probes = Probes(ROUTES, self._metrics)
        self._buckets = Buckets(settings.limits.rate)
        self._database: Database
        self._streams: Streams
        self._replays: Replays
        self._uploads: Uploads

    # --- life ---

    async def _open(self) -> None:
        s = self.settings
        self._database = Database(s.dsn, size=s.pool, is_superuser=s.is_superuser)
        await self._database.pool.open()
        self._streams = Streams(self._database, s.limits.heartbeat)
        self._replays = Replays(self._database, max(1, s.pool // 2), self._streams.moved)
        self._uploads = Uploads(s.dsn, is_superuser=s.is_superuser)
        self._probes.pool = pool = self._database.pool
        self._metrics.gauges = {
            "papertick_pool_size": ("Connections to the database.", lambda: pool.get_stats().get("pool_size", 0)),
            "papertick_pool_idle": ("Connections that are free.", lambda: pool.get_stats().get("pool_available", 0)),
            "papertick_pool_waiting": (
                "Requests that wait for one.",
                lambda: pool.get_stats().get("requests_waiting", 0),
            ),
            "papertick_streams": ("Open streams.", lambda: self._streams.count),
            "papertick_replays": ("Running replays.", lambda: self._replays.count),
        }

    def close_streams(self) -> None:
        """So that a process that stops need not wait for their clients."""
        self._streams.close()

    async def _close(self) -> None:
        self._streams.close()
        await self._replays.stop()
        await self._database.pool.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._open()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    # --- a request ---

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, template, status = time.perf_counter(), "none", 500
        self._metrics.in_flight += 1
        try:
            route, ids = self._router.find(scope["method"], scope["path"])
            template = route.path
            if route.name == "stream_run":
                status = 200
                await self._stream(route, ids, scope, receive, send)
                return
            sent = await self._handle(route, ids, Request(scope, receive))
            status = sent.status
            await _send(send, sent)
        except ClientDisconnect:
            status = 499
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            refusal = from_error(exc)
            status = refusal.status
            if status == 500:
                log.exception("%s %s", scope["method"], template)
            await _send(send, Sent(status, problem.MEDIA_TYPE, refusal.body()), refusal.headers)
        finally:
            self._metrics.in_flight -= 1
            method = scope["method"] if template != "none" else "none"
            self._metrics.count(template, method, status, time.perf_counter() - begun)

    async def _handle(self, route: Route, ids: dict[str, str], request: Request) -> Sent:
        if route.is_public:
            return await self._probes.answer(route.name)
        key, who = await self._identify(request)
        if route.admin_only and not who.is_admin:
            hint = "This takes an administrator's key."
            raise Problem(403, "TE301", "not allowed", detail=f"verb={route.name}", hint=hint)
        path, query = path_of(ids), query_of(route, request)
        idem = idempotency.read_key(request.headers.get(idempotency.HEADER)) if _has_body(route) else None
        call = Call(who, path, query, {})
        if route.body is None and _has_body(route):
            return await self._upload(route, key, call, idem, request)
        body = b""
        if route.body is not None:
            body = await read_body(request, self.settings.limits)
            if body:
                require_media(route, request)
            call = replace(call, body=read_fields(wire.parse(body) if body else {}, route.body))
        return await self._perform(route, key, call, idem, request, body)

    async def _identify(self, request: Request) -> tuple[str, Identity]:
        """Unknown keys share the bucket of the address that sends them."""
        given = request.headers.getlist("authorization")
        # two of them name two callers: a proxy in front may have checked the other one
        scheme, _, key = (given[0] if len(given) == 1 else "").partition(" ")
        key = key.strip()
        known = self._database.knows(key) if key else None
        address = request.client.host if request.client else ""
        self._buckets.take(f"key {known.key_id}" if known else f"address {address}")
        if scheme.lower() != "bearer" or not re.fullmatch(r"[\x21-\x7e]{1,200}", key):
            raise problem.of_key("no key")
        return key, known or await self._database.identify(key)

    async def _perform(
        self, route: Route, key: str, call: Call, idem: str | None, request: Request, body: bytes
    ) -> Sent:
        plan = self._plan(route, key, call)
        if idem is None:
            results = await self._database.run(
                key, plan.statements, repeatable=route.repeatable or _names_its_order(call), seconds=route.seconds
            )
            answer = plan.finish(results)
        else:
            parts = (request.method, request.url.path, request.url.query)
            mark = idempotency.fingerprint_of(*parts, body)
            sent, answer = await self._once(route, key, call.who.user_id, plan, idem, mark)
            if sent:
                return sent
        if answer.then:
            answer.then()
        if route.name in _MOVES:
            self._streams.moved(call.who.user_id, call.path["run_id"])
        if route.name == "get_report":
            return await asyncio.to_thread(_page, answer.document)
        return _sent(route, answer)

    async def _once(
        self, route: Route, key: str, user_id: int, plan: Plan, idem: str, mark: bytes
    ) -> tuple[Sent | None, Answer]:
        """The effect and its answer in one transaction. A Sent: it was done before, or the engine has refused."""

        async def work(tx: Transaction, first: Results) -> tuple[tuple[Sent | None, Answer], list[Statement]]:
            kept = idempotency.claimed(first[0][0])
            if kept:
                return (kept, Answer()), []
            refusal, answer = await _try(tx, plan)
            sent = Sent(refusal.status, problem.MEDIA_TYPE, refusal.body()) if refusal else _sent(route, answer)
            undo = [idempotency.UNDO] if refusal else []
            return (sent if refusal else None, answer), [*undo, idempotency.keep(user_id, idem, mark, sent)]

        first = [idempotency.claim(user_id, idem, mark), idempotency.SAVEPOINT]
        return await self._database.transact(key, first, work, seconds=route.seconds)

    def _plan(self, route: Route, key: str, call: Call) -> Plan:
        if route.plan:
            return route.plan(call)
        return self._replays.start(key)(call) if route.name == "start_replay" else self._replays.look(call)

    # --- routes with handlers of their own ---

    async def _upload(self, route: Route, key: str, call: Call, idem: str | None, request: Request) -> Sent:
        media = require_media(route, request)
        await self._database.run(key, [], repeatable=True)  # the key may be of yesterday: ask before a long upload
        url = request.url
        file, mark = await spool_body(
            request, self.settings.limits, idempotency.prefix_of(request.method, url.path, url.query)
        )
        with file:
            is_ndjson = media == market_routes.NDJSON
            once = (idem, mark) if idem else None
            return await self._uploads.load(key, call, file, is_ndjson=is_ndjson, name=route.name, idem=once)

    async def _stream(self, route: Route, ids: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        key, who = await self._identify(request)
        call = Call(who, path_of(ids), query_of(route, request), {})
        header = request.headers.get("last-event-id")
        after = call.query.get("last_event_id") or (header and route.query[0].read(header))
        await self._streams.serve(key, call, after or None, receive, send)


async def _try(tx: Transaction, plan: Plan) -> tuple[Problem | None, Answer]:
    """What the engine refuses is undone and is an answer; what may go better the next time is none."""
    try:
        results: Results = await tx.run(plan.statements)
        return None, plan.finish(results)
    except (psycopg.Error, Problem) as exc:
        refusal = from_error(exc)
        if refusal.status >= 500 or refusal.status == 401:
            raise
        return refusal, Answer()


def _has_body(route: Route) -> bool:
    return route.method in ("POST", "PUT")


def _names_its_order(call: Call) -> bool:
    """The same client_order_id again answers the first order."""
    return call.body.get("client_order_id") is not None


def _page(row: dict[str, Any]) -> Sent:
    """Laid out in a thread: it takes a while, and other requests go on."""
    body = page.html(gather.read(row)).encode()
    return Sent(200, "text/html; charset=utf-8", body, headers={"Content-Security-Policy": page.policy()})


def _sent(route: Route, answer: Answer) -> Sent:
    if route.status == 204:
        return Sent(204, _JSON, b"")
    return Sent(route.status, _JSON, wire.dump(answer.document), answer.location)


async def _send(send: Send, sent: Sent, headers: dict[str, str] | None = None) -> None:
    given = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **sent.headers, **(headers or {})}
    if sent.status != 204:
        given |= {"Content-Type": sent.media_type, "Content-Length": str(len(sent.body))}
    if sent.location:
        given["Location"] = sent.location
    if sent.is_replayed:
        given |= idempotency.REPLAYED
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()]
    await send({"type": "http.response.start", "status": sent.status, "headers": raw})
    await send({"type": "http.response.body", "body": sent.body})
