"""The operator as a whole: put together, started, stopped.

Composition and life cycle. kopf runs until a signal comes; any other part that ends by itself ends the process.
"""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from typing import Any

import kopf
import structlog
from aiohttp import web

from trimode_operator.errors import ApiFailure, ApiUnreachable, BadStart, OperatorError, reason_of
from trimode_operator.kube.api import ApiServer
from trimode_operator.kube.cache import Cache, Key
from trimode_operator.kube.discovery import Discovery
from trimode_operator.kube.lease import Election, Fenced, Lock
from trimode_operator.kube.watch import operator_settings, registry
from trimode_operator.kube.workqueue import WorkQueue
from trimode_operator.metrics import Metrics
from trimode_operator.observe.routers import Routers
from trimode_operator.plan import Capabilities
from trimode_operator.process.dependencies import Dependencies
from trimode_operator.process.health import Liveness, Shown, Watchdog, pages
from trimode_operator.process.options import Options
from trimode_operator.reconcile import Reconciler


class Operation:
    """One operator process. `run` returns after SIGTERM or SIGINT."""

    def __init__(self, options: Options, api: ApiServer) -> None:
        self._options = options
        self._api = api
        self._log = structlog.get_logger("operator")
        self._discovery = Discovery(api)
        self._capabilities: Capabilities | None = None
        self._cache, self._metrics, self._routers = Cache(), Metrics(), Routers()
        self._liveness = Liveness(started=time.monotonic())
        self._election = Election(
            api,
            # A restarted container keeps its pod's name, and must not take its own former Lease for its own.
            Lock(options.lease_namespace, options.lease, f"{options.identity}_{uuid.uuid4().hex[:8]}"),
            time.monotonic,
            self._leadership,
        )
        self._queue = WorkQueue(
            self._reconcile, self._failed, active=lambda: self._election.leads and self._capabilities is not None
        )
        self._reconciler = Reconciler(
            Dependencies(
                # Two copies that write at once would make two Ray clusters for one resource, and take its GPUs twice.
                cluster=Fenced(api, lambda: self._election.leads),
                cache=self._cache,
                routers=self._routers,
                settings=options.settings,
                metrics=self._metrics,
                capabilities=lambda: self._capabilities or Capabilities(),
                now=time.time,
                monotonic=time.monotonic,
            )
        )
        self._watchdog = Watchdog(api, self._cache, self._liveness, options.namespaces, time.monotonic, self._queue.add)
        self._metrics.live(
            queue=lambda: self._queue.depth,
            watch_age=lambda: self._liveness.watch_age_s(time.monotonic()),
            leads=lambda: float(self._election.leads),
        )

    async def run(self) -> None:
        """Until a signal. Raises BadStart where a port is taken."""
        runner = await self._listen()
        stop, watching = asyncio.Event(), asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                loops = (self._queue.run(), self._election.run(), self._watchdog.run(), self._discover())
                tasks = [group.create_task(loop) for loop in loops]
                watch = group.create_task(self._watch(stop, watching))
                await asyncio.wait(
                    (watch, group.create_task(self._signal(stop, watching))), return_when=asyncio.FIRST_COMPLETED
                )
                # kopf takes seconds to end: the Lease is given back first, so that others need not wait for that.
                for task in tasks:
                    task.cancel()
                stop.set()
        finally:
            await self._routers.close()
            await self._api.close()
            await runner.cleanup()

    async def _watch(self, stop: asyncio.Event, watching: asyncio.Event) -> None:
        # Else kopf asks for the user's name, which a container's user by number has not. (Its type is not public.)
        identity: Any = self._options.identity
        await kopf.operator(
            identity=identity,
            registry=registry(self._cache, self._queue.add, seen=lambda: self._liveness.saw_event(time.monotonic())),
            settings=operator_settings(namespaced=bool(self._options.namespaces)),
            clusterwide=not self._options.namespaces,
            namespaces=self._options.namespaces,
            stop_flag=stop,
            ready_flag=watching,
        )
        stop.set()

    async def _signal(self, stop: asyncio.Event, watching: asyncio.Event) -> None:
        """Until SIGTERM or SIGINT. kopf has handlers of its own from its start on; ours replace them."""
        await watching.wait()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await stop.wait()

    async def _listen(self) -> web.AppRunner:
        shown = Shown(
            metrics=self._metrics,
            cache=self._cache,
            liveness=self._liveness,
            now=time.monotonic,
            oldest_reconcile_s=self._queue.oldest_visit_s,
            leads=lambda: self._election.leads,
        )
        runner = web.AppRunner(pages(shown), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        for port in (self._options.metrics_port, self._options.health_port):
            try:
                await web.TCPSite(runner, self._options.host, port).start()
            except OSError as error:
                await runner.cleanup()
                raise BadStart(f"cannot listen on {self._options.host}:{port}: {error.strerror or error}") from error
        self._log.info("listening", addresses=[f"{host[0]}:{host[1]}" for host in runner.addresses])
        return runner

    async def _discover(self) -> None:
        """Keep the capabilities up to date; a change concerns every resource."""
        while True:
            try:
                found = await self._discovery.look()
            except (ApiFailure, ApiUnreachable) as error:
                self._log.warning("APIs not discovered", error=str(error))
            else:
                if found != self._capabilities:
                    self._log.info("capabilities", **{name: getattr(found, name) for name in found.__slots__})
                    self._reconciler.relist()
                    if self._capabilities is not None and self._options.namespaces:
                        # Without the right to look at CRDs kopf watches what there was when it began.
                        self._reconciler.list_always()
                    self._capabilities = found
                    self._everything()
            await self._discovery.pause()

    def _leadership(self, leads: bool) -> None:
        # What waited was for the time before: the new leader visits every resource anyway.
        self._queue.clear()
        if leads:
            self._reconciler.reset()
            self._everything()

    def _everything(self) -> None:
        for key in self._cache.resources():
            self._queue.add(key)

    async def _reconcile(self, key: Key) -> float | None:
        begun = time.monotonic()
        try:
            again = await self._reconciler.reconcile(key)
        except BaseException:
            self._metrics.reconciles.labels("error").observe(time.monotonic() - begun)
            raise
        self._metrics.reconciles.labels("done").observe(time.monotonic() - begun)
        return again

    def _failed(self, key: Key, error: BaseException) -> None:
        self._metrics.errors.labels(reason_of(error)).inc()
        self._discovery.failed(reason_of(error))
        known = isinstance(error, (OperatorError, TimeoutError))
        self._log.error(
            "reconcile failed",
            resource=str(key),
            reason=reason_of(error),
            error=str(error),
            exc_info=None if known else error,
        )
