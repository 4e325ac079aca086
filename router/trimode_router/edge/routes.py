"""The public port: which path and method leads where, for the OpenAI API and the router's own pages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from importlib.resources import files

import structlog

from trimode_api.errors import ApiError, clipped, shown
from trimode_api.fleet import HISTORY_PATH, PUBLIC_FLEET_PATH
from trimode_api.wire import REQUEST_ID_HEADER
from trimode_router.access.access import Access
from trimode_router.dispatch.dispatcher import Dispatcher
from trimode_router.edge.origins import Hosts, Origins, preflight
from trimode_router.edge.peers import SiblingError, Siblings
from trimode_router.edge.view import Viewer
from trimode_router.fleet.catalog import Catalog
from trimode_router.fleet.fleet import Fleet
from trimode_router.http.client import Client, ClientConnection
from trimode_router.http.inflate import inflated
from trimode_router.http.outgoing import JSON, MethodNotAllowed, answer, connection_field
from trimode_router.http.request import Request
from trimode_router.request import responses
from trimode_router.request.exchange import Exchange
from trimode_router.request.parse import CHAT_PATH, TEXT_PATH, parse
from trimode_router.request.record import Caller
from trimode_router.responses_api.asked import RESPONSES_PATH, translate
from trimode_router.responses_api.reply import ResponsesReply, as_chat
from trimode_router.telemetry.accounting import Accounting
from trimode_router.telemetry.metrics import CONTENT_TYPE, Metrics
from trimode_router.telemetry.traces import Traces

PAGE = files("trimode_router").joinpath("page.html").read_bytes()
PAGE_POLICY = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"cache-control", b"no-cache"),
    (b"x-content-type-options", b"nosniff"),
)


HTML = b"text/html; charset=utf-8"
MODELS_PATH = "/v1/models"
METRICS_PATH = "/metrics"
COMPLETIONS = (CHAT_PATH, TEXT_PATH, RESPONSES_PATH)
MOST_LISTED = 300
"""Characters of a list of names in a message."""


@dataclass(frozen=True, slots=True)
class ImmediateResponse:
    """An answer made on the spot."""

    status: int
    body: bytes
    content_type: bytes = JSON
    fields: tuple[tuple[bytes, bytes], ...] = ((b"cache-control", b"no-store"),)


@dataclass(slots=True, eq=False)
class Routes:
    """Serves one request at a time of a client connection. `created`: Unix seconds, of the models' entries. `hosts`:
    the names that it is asked by, where they are checked."""

    fleet: Fleet
    dispatcher: Dispatcher
    viewer: Viewer
    metrics: Metrics
    access: Access
    traces: Traces
    created: int
    accounting: Accounting
    origins: Origins
    hosts: Hosts | None
    siblings: Siblings
    _tasks: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _pages: dict[str, Callable[[], ImmediateResponse]] = field(init=False)

    def __post_init__(self) -> None:
        self._pages = {
            "/": lambda: ImmediateResponse(200, PAGE, HTML, PAGE_POLICY),
            "/healthz": lambda: ImmediateResponse(200, b'{"status":"alive"}'),
            "/readyz": self._readyz,
            # The same under the paths that others' probes have fixed: vLLM's and SGLang's, SageMaker's.
            "/health": self._readyz,
            "/ping": self._readyz,
            "/version": lambda: _json(200, {"version": version("trimode")}),
            METRICS_PATH: lambda: ImmediateResponse(200, self.metrics.text(self.viewer.fleet()), CONTENT_TYPE),
            PUBLIC_FLEET_PATH: lambda: ImmediateResponse(200, self.viewer.fleet().to_wire()),
            HISTORY_PATH: lambda: ImmediateResponse(200, self.viewer.history().to_wire()),
            MODELS_PATH: lambda: _json(200, {"object": "list", "data": [*map(self._model, self.fleet.catalog.names)]}),
        }

    def serve(self, client: ClientConnection, request: Request) -> None:
        """Answer `request`, now or by an exchange that goes on; `client.finished` is called either way."""
        try:
            if request.origin is not None:
                request.added = self.origins.lines(request.origin)
            if request.problem is not None:
                raise request.problem
            if self.hosts is not None:
                self.hosts.check(request.host)
            if request.method == "POST" and request.path in COMPLETIONS:
                self._complete(client, request)
                return
            if request.path == METRICS_PATH and request.method in ("GET", "HEAD") and self.siblings.urls:
                task = asyncio.get_running_loop().create_task(self._metrics_of_all(client, request))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                return
            response = self._immediate(request)
        except ApiError as error:
            self._turn_away(client, request, error)
            return
        except Exception:  # noqa: BLE001 - a fault in one request must not cost its connection, or others their turn
            structlog.get_logger("router").exception("request", id=request.request_id, path=request.path)
            if client.flight is not None:
                client.flight.client_gone()
            if client.current is request:
                failed = ApiError(500, "the router failed at this request", code="internal")
                self._turn_away(client, request, failed)
            return
        self._answer(client, request, response)

    async def _metrics_of_all(self, client: ClientConnection, request: Request) -> None:
        """With those of the other processes on this port; no answer but an error without them: counters that fall
        would be taken for new traffic."""
        try:
            others = await self.siblings.shares()
        except SiblingError as error:
            message = f"another process of this router does not tell its numbers: {error}"
            self._turn_away(client, request, ApiError(503, message, code="incomplete", retry_after_s=1))
            return
        text = self.metrics.text(self.viewer.fleet(), others)
        self._answer(client, request, ImmediateResponse(200, text, CONTENT_TYPE))

    def _answer(self, client: ClientConnection, request: Request, response: ImmediateResponse) -> None:
        bare = request.method == "HEAD"
        fields = [
            (REQUEST_ID_HEADER.encode(), request.request_id.encode()),
            *response.fields,
            *connection_field(request.keep, request.http10),
        ]
        kind, added = response.content_type, request.added
        client.write(answer(response.status, response.body, fields, content_type=kind, bare=bare, added=added))
        client.finished()

    def _turn_away(self, client: ClientConnection, request: Request, error: ApiError) -> None:
        """Refuse a request that has no exchange."""
        self.accounting.turned_away(request, error, completion=request.path in COMPLETIONS)
        responses.refuse(client, request, error)

    def refuse(self, method: str, path: str) -> ApiError | None:
        """What a request would be refused with, for any body."""
        if path in COMPLETIONS:
            return None if method == "POST" else MethodNotAllowed(method, path, "POST")
        if path in self._pages or path.startswith(MODELS_PATH + "/"):
            return None if method in ("GET", "HEAD") else MethodNotAllowed(method, path, "GET, HEAD")
        stored = "; responses are not stored here" if path.startswith(RESPONSES_PATH + "/") else ""
        return ApiError(404, f"no such path: {method} {path}{stored}", code="not_found")

    def _complete(self, client: ClientConnection, request: Request) -> None:
        if self.viewer.draining:
            request.keep = False  # served still, as it was on its way; the next one goes elsewhere
        rules = self.fleet.rules
        tenant = self.access.tenant_of(request.authorization)
        tier = rules.tier(request.tier if tenant is None else tenant.tier(request.tier))
        if request.coding:
            request.body = inflated(request.coding, request.body, self.dispatcher.limits.body_bytes)
        to: Client = client
        if request.path == RESPONSES_PATH:
            response = translate(request.body)
            to = ResponsesReply(client, request, response, int(self.viewer.wall()))
            request = as_chat(request, response)
        asked = parse(request.sent_as or request.path, request.body, rules.points)
        if asked.model not in self.fleet.catalog.names and not self.fleet.catalog.mute:
            raise _no_model(asked.model, self.fleet.catalog)
        if tenant is not None:
            tenant.enter(self.dispatcher.now())
        exchange = Exchange(self.dispatcher, to, request, asked, Caller(tier, tenant))
        if self.traces.on:
            context, request.passed = self.traces.begin(request.passed)
            if context is not None:
                exchange.on_over = partial(self.traces.end, context=context)
        # Before `submit`, which may refuse at once: set afterwards, a refused exchange would stay the connection's
        # flight.
        client.flight = exchange
        self.dispatcher.submit(exchange)

    def _immediate(self, request: Request) -> ImmediateResponse:
        if request.method == "OPTIONS" and request.origin is not None and request.wants[0]:
            # A browser asks whether a page may ask. It sends no key with that.
            methods = "POST" if request.path in COMPLETIONS else "GET, HEAD"
            if (refusal := self.refuse(methods.partition(",")[0], request.path)) is not None:
                raise refusal
            if not self.origins.lets(request.origin):
                page = shown(request.origin.decode("latin-1"))
                message = f"pages of {page} may not ask here; see corsOrigins (--cors-origin)"
                raise ApiError(403, message, code="origin_not_allowed")
            return ImmediateResponse(204, b"", fields=tuple(preflight(methods, request.wants[1])))
        refusal = self.refuse(request.method, request.path)
        if refusal is not None:
            raise refusal
        if request.path.startswith("/v1/"):
            self.access.tenant_of(request.authorization)
        show = self._pages.get(request.path)
        if show is not None:
            return show()
        name = request.path.removeprefix(MODELS_PATH + "/")
        if name not in self.fleet.catalog.names:
            raise _no_model(name, self.fleet.catalog)
        return _json(200, self._model(name))

    def _readyz(self) -> ImmediateResponse:
        if self.viewer.ready():
            return ImmediateResponse(200, b'{"status":"ready"}')
        why = "the router is shutting down" if self.viewer.draining else "no replica is ready"
        if not self.viewer.may_serve():
            why = "the router cannot read its API keys"
        raise ApiError(503, why, code="not_ready", retry_after_s=1)

    def _model(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": self.created, "owned_by": "trimode"}


def _json(status: int, value: object) -> ImmediateResponse:
    return ImmediateResponse(status, json.dumps(value).encode())


def _no_model(name: str, catalog: Catalog) -> ApiError:
    """404 once every server has told what it has: until then a client had better ask again."""
    served = clipped(", ".join(catalog.names), MOST_LISTED) or "none"
    if catalog.unheard:
        message = f"no server that has answered has the model {shown(name)} (known: {served}); not yet heard of: "
        message += clipped(", ".join(catalog.unheard), MOST_LISTED)
        return ApiError(503, message, code="not_ready", param="model", retry_after_s=1)
    message = f"the model {shown(name)} does not exist; served here: {served}"
    return ApiError(404, message, code="model_not_found", param="model")
