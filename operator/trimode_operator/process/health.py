"""Whether this copy is alive, and the two small HTTP ports that say so.

A process whose watch has died without an error looks well from outside: kopf goes on, and nothing happens any more. So
lists are compared with what the watches reported, and what they missed is taken in from the list meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from aiohttp import web

from trimode_operator.errors import ApiFailure, ApiUnreachable
from trimode_operator.kube.cache import Cache, Key, key_of
from trimode_operator.kube.client import RESOURCE, Cluster, Object, version_of
from trimode_operator.metrics import CONTENT_TYPE, Metrics

CHECK_S = 15.0
GRACE_S = 5.0
"""Events come within milliseconds; what a watch has not reported after this long it has missed."""
FIRST_LISTS_S = 30.0
"""How long after its start a process may still be taking in the first lists."""
GONE = -1
"""The version of what is not there any more."""
SUSPECT_S = 60.0
"""A watch that missed something and then stays silent this long is dead."""


@dataclass(slots=True)
class Liveness:
    """Signs of life. Times are seconds of a monotonic clock; `started` is when the process began."""

    started: float
    event_at: float | None = None
    agreed_at: float | None = None
    suspect_at: float | None = None
    longest_reconcile_s: float = 150.0
    """More than twice what the work queue allows a reconciliation: only a loop that is stuck takes longer."""

    def saw_event(self, now: float) -> None:
        self.event_at, self.suspect_at = now, None

    def agreed(self, now: float) -> None:
        """A list showed nothing that the watches had not reported."""
        self.agreed_at = now

    def missed(self, now: float) -> None:
        """A list showed something that the watches should have reported."""
        if self.suspect_at is None:
            self.suspect_at = now

    def watch_age_s(self, now: float) -> float:
        """Since the watches last proved to be alive."""
        return now - max(self.event_at or self.started, self.agreed_at or self.started)

    def trouble(self, now: float, oldest_reconcile_s: float) -> str:
        """Why this process should be restarted; empty where it should not. An API server that is away is no reason."""
        if self.suspect_at is not None and now - self.suspect_at > SUSPECT_S:
            return f"the watch missed a change and has been silent for {now - self.suspect_at:.0f} s since"
        if oldest_reconcile_s > self.longest_reconcile_s:
            return f"a reconciliation has hung for {oldest_reconcile_s:.0f} s"
        return ""

    @property
    def ready(self) -> bool:
        """Whether the watches have reported all there is at least once."""
        return self.agreed_at is not None


@dataclass(frozen=True, slots=True)
class Watchdog:
    """Compares lists with the cache. `changed` is called for what the watches missed. `namespaces` empty: all."""

    # From outside, because kopf does not expose the state of its watches (decision record 6).

    cluster: Cluster
    cache: Cache
    liveness: Liveness
    namespaces: tuple[str, ...]
    now: Callable[[], float]
    changed: Callable[[Key], None]

    async def run(self) -> None:
        """Until cancelled. Often at first, until the watches have reported all there is."""
        while True:
            try:
                await self.check()
            except (ApiFailure, ApiUnreachable) as error:
                structlog.get_logger("health").warning("not checked", error=str(error))
            await asyncio.sleep(CHECK_S if self.liveness.ready else 0.5)

    async def check(self) -> None:
        """One comparison. Raises ApiFailure or ApiUnreachable."""
        late = await self._late()
        if late and not self.liveness.ready and self.now() - self.liveness.started < FIRST_LISTS_S:
            return
        # Asked twice: a list may be ahead of the watches by what is still on its way.
        if late:
            await asyncio.sleep(GRACE_S)
            late &= await self._late()
        if not late:
            self.liveness.agreed(self.now())
            return
        self.liveness.missed(self.now())
        for key, version in late:
            body = self.cache.resource(key)
            if version == GONE and body is not None:
                self.cache.drop(body)
                self.changed(key)
        structlog.get_logger("health").error("the watch missed changes", resources=sorted(str(k) for k, _ in late))
        for listed in await self._listed():
            if (news := self.cache.put(listed)) is not None:
                self.changed(news)

    async def _late(self) -> set[tuple[Key, int]]:
        """Resources (with their version) that are newer than what the watches reported, and those that are gone."""
        listed = {key: version_of(body) for body in await self._listed() if (key := key_of(body)) is not None}
        known = {key: version_of(body) for key in self.cache.resources() if (body := self.cache.resource(key))}
        late = {(key, version) for key, version in listed.items() if known.get(key, -1) < version}
        return late | {(key, GONE) for key in known if key not in listed}

    async def _listed(self) -> list[Object]:
        return [body for place in self.namespaces or (None,) for body in await self.cluster.listed(RESOURCE, place)]


@dataclass(frozen=True, slots=True)
class Shown:
    """What the pages show. `leads`: two copies that count the same resources would double every sum."""

    metrics: Metrics
    cache: Cache
    liveness: Liveness
    now: Callable[[], float]
    oldest_reconcile_s: Callable[[], float]
    leads: Callable[[], bool]


def pages(shown: Shown) -> web.Application:
    """The application behind both ports."""

    async def healthz(_: web.Request) -> web.Response:
        trouble = shown.liveness.trouble(shown.now(), shown.oldest_reconcile_s())
        return web.Response(status=503 if trouble else 200, text=trouble or "alive")

    async def readyz(_: web.Request) -> web.Response:
        ready = shown.liveness.ready
        return web.Response(status=200 if ready else 503, text="ready" if ready else "lists are not in")

    async def exposition(_: web.Request) -> web.Response:
        cache, metrics = shown.cache, shown.metrics
        keys = cache.resources() if shown.leads() else ()
        statuses = [(cache.resource(key) or {}).get("status") or {} for key in keys]
        metrics.count_resources(
            {str(one.get("type")): str(one.get("status")) for one in status.get("conditions") or []}
            for status in statuses
        )
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", exposition)
    return app
