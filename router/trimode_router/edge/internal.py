"""The internal port: reports, policy, drain. For holders of the fleet's token only."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import Field, ValidationError

from trimode_api.errors import error_body, problems_of
from trimode_api.wire import (
    DRAIN_PATH,
    FLEET_PATH,
    POLICY_PATH,
    REPORT_PATH,
    PolicyConfig,
    ReplicaReport,
    WireModel,
)
from trimode_router.access.access import Access
from trimode_router.edge.peers import BUDGETS_PATH, SHARE_PATH, SIBLINGS_PATH, Siblings
from trimode_router.edge.view import Viewer
from trimode_router.fleet.fleet import Fleet, FleetError
from trimode_router.telemetry.metrics import Metrics

BODY_LIMIT = 1024 * 1024
HEALTH_PATH = "/healthz"
"""Open to anyone: it says no more than that this process answers, also while the public port has no certificate."""


class DrainOrder(WireModel):
    """Body of a drain order; `drain` false takes it back."""

    replica_id: str = Field(min_length=1)
    drain: bool = True


class Introduction(WireModel):
    """The other processes on this one's public port, by the URLs of their internal ports."""

    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Internal:
    """What the internal port acts on. `reported` is called after each report, and after each new policy."""

    fleet: Fleet
    viewer: Viewer
    token: str
    now: Callable[[], float]
    wall: Callable[[], float]
    reported: Callable[[], None]
    metrics: Metrics
    siblings: Siblings
    access: Access

    def app(self) -> web.Application:
        # aiohttp takes several times the CPU of the public edge, which does not matter at five reports a second per
        # replica.
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_LIMIT)
        app.router.add_post(REPORT_PATH, self._report)
        app.router.add_put(POLICY_PATH, self._policy)
        app.router.add_post(DRAIN_PATH, self._drain)
        app.router.add_put(SIBLINGS_PATH, self._siblings)
        pages: dict[str, Callable[[], bytes]] = {
            HEALTH_PATH: lambda: b'{"status": "alive"}',
            FLEET_PATH: lambda: self.viewer.fleet(inside=True).to_wire(),
            SHARE_PATH: lambda: msgspec.json.encode(self.metrics.share(self.viewer.fleet())),
            BUDGETS_PATH: lambda: msgspec.json.encode(self.access.counts(self.now())),
        }

        async def show(request: web.Request) -> web.Response:
            return web.Response(body=pages[request.path](), content_type="application/json")

        for path in pages:
            app.router.add_get(path, show)
        return app

    @property
    def _guard(self) -> Middleware:
        expected = f"Bearer {self.token}".encode()

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path == HEALTH_PATH:
                return await handler(request)
            # Compared in constant time: the time of an answer must not tell how much of a guess was right.
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, expected):
                return _error(401, "the internal port needs the fleet's token as a bearer token", "bad_token")
            try:
                return await handler(request)
            except FleetError as error:
                return _error(error.status, str(error), error.code)
            except ValidationError as error:
                problems = "; ".join(str(problem) for problem in problems_of(error))
                return _error(400, problems, "invalid_value")
            except web.HTTPException as error:
                return _error(error.status, error.reason, "refused", error.headers.get("Allow"))

        return guard

    async def _report(self, request: web.Request) -> web.Response:
        report = ReplicaReport.from_wire(await request.read())
        answer = self.fleet.take_report(report, self.now(), self.wall())
        self.viewer.accounting.ledger.reported(report)
        self.reported()
        return web.Response(body=answer.to_wire(), content_type="application/json")

    async def _policy(self, request: web.Request) -> web.Response:
        policy = PolicyConfig.from_wire(await request.read())
        if self.fleet.put_policy(policy):
            structlog.get_logger("router").info("policy", version=policy.version)
            self.reported()
        return _json({"version": self.fleet.rules.policy.version})

    async def _siblings(self, request: web.Request) -> web.Response:
        self.siblings.urls = Introduction.from_wire(await request.read()).urls
        return _json({"urls": self.siblings.urls})

    async def _drain(self, request: web.Request) -> web.Response:
        order = DrainOrder.from_wire(await request.read())
        self.fleet.drain(order.replica_id, order.drain)
        structlog.get_logger("router").info("drain", replica=order.replica_id, drain=order.drain)
        self.reported()
        return _json({"replicaId": order.replica_id, "draining": order.drain})


def _json(value: object) -> web.Response:
    return web.Response(body=json.dumps(value).encode(), content_type="application/json")


def _error(status: int, message: str, code: str, allow: str | None = None) -> web.Response:
    body = json.dumps(error_body(status, message, code=code)).encode()
    headers = {"Allow": allow} if allow else None
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
