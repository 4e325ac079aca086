"""The router as a whole: put together, started, drained."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from aiohttp import web

from trimode_api.wire import RouterConfig
from trimode_router.access.access import Access
from trimode_router.access.certificate import Certificate
from trimode_router.dispatch.connections import ReplicaKey
from trimode_router.dispatch.dispatcher import Dispatcher
from trimode_router.edge.internal import Internal
from trimode_router.edge.origins import Hosts, Origins
from trimode_router.edge.peers import Peers, Siblings
from trimode_router.edge.routes import Routes
from trimode_router.edge.view import Viewer
from trimode_router.fleet.fleet import Fleet
from trimode_router.fleet.health_probe import Prober
from trimode_router.http.client import ClientConnection, Edge
from trimode_router.http.limits import Limits
from trimode_router.telemetry.accounting import Accounting
from trimode_router.telemetry.environment import Telemetry
from trimode_router.telemetry.genai_metrics import GenAiMetrics
from trimode_router.telemetry.metrics import Metrics
from trimode_router.telemetry.traces import Traces

LOOPBACK = ("127.0.0.1", "::1", "localhost")
TICK_SECONDS = 0.1
_TICKS_PER_SECOND = 10
_SLEPT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """What a router's process is given beside its configuration."""

    replica_key: str | None = None
    """What replicas are sent as their key: the fleet's token where it is None; where it is empty the client's own key,
    unless that is a key of this router (`keys_file`) and was not meant to go further (`forward_client_keys`)."""
    shared: bool = False
    """Whether other processes listen on the public port, too."""
    telemetry: Telemetry = field(default_factory=Telemetry)
    limits: Limits | None = None
    """Instead of those that follow from the configuration."""


class Router:
    """One router. `start`, then `stop`; in between are known `address` and `internal_address` (what it is bound to),
    `url` and `internal_url` (by which this machine reaches it)."""

    def __init__(
        self,
        config: RouterConfig,
        token: str,
        options: ProcessOptions = ProcessOptions(),
        *,
        now: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """`now` in seconds of a monotonic clock, `wall` in Unix seconds.

        Where the key file or the certificate can not be used it serves no request until they can: on a cluster both
        come from Secrets, which may be corrected while it runs.
        """
        self.limits = options.limits or Limits(
            header_bytes=config.header_bytes, body_bytes=config.body_bytes, idle_seconds=config.idle_seconds
        )
        self._config = config
        self._shared = options.shared
        self._now = now
        self._connections: set[ClientConnection] = set()
        self._ticks = 0
        key = token if options.replica_key is None else options.replica_key
        self.fleet = Fleet(config.model, config.policy, self.limits.slack)
        self.metrics = Metrics()
        self.access = Access(Path(config.keys_file) if config.keys_file else None, now())
        self.certificate: Certificate | None = None
        if config.tls_certificate:
            self.certificate = Certificate(Path(config.tls_certificate), Path(config.tls_key or config.tls_certificate))
        self._traces = Traces(options.telemetry, now, wall)
        self.accounting = Accounting(self.metrics, wall, config.access_log_sample)
        self._genai = GenAiMetrics(options.telemetry, now)
        if self._genai.on:
            self.accounting.also = self._genai.record
        passes_keys = not key and (config.forward_client_keys or not config.keys_file)
        replica_key = ReplicaKey(key, passes_keys, ours=not config.static_replicas)
        self.dispatcher = Dispatcher(self.fleet, self.accounting, self.limits, replica_key, now)
        self.viewer = Viewer(config.name, self.fleet, self.dispatcher, self.accounting, now, wall)
        self.viewer.watched = (self.access, *(() if self.certificate is None else (self.certificate,)))
        siblings = Siblings(token)
        self._peers = Peers(self.access, siblings, config.peers, token, now)
        surface = Routes(
            self.fleet, self.dispatcher, self.viewer, self.metrics, self.access, self._traces, int(wall()),
            accounting=self.accounting,
            origins=Origins(config.cors_origins),
            hosts=_hosts(config),
            siblings=siblings,
        )  # fmt: skip
        serial, prefix = itertools.count(1), os.urandom(6).hex()
        self._edge = Edge(
            limits=self.limits,
            now=now,
            new_id=lambda: f"req-{prefix}-{next(serial):x}",
            serve=surface.serve,
            refuse=surface.refuse,
            opened=self._connections.add,
            closed=self._connections.discard,
        )
        self._internal = Internal(
            self.fleet, self.viewer, token, now, wall, self.dispatcher.drain_queue, self.metrics, siblings, self.access
        )
        self._prober = Prober(
            config.static_replicas, self.fleet, config.static_max_running, key, now, wall, self.dispatcher.drain_queue
        )
        self._idle = asyncio.Event()
        self.metrics.in_flight.set_function(lambda: len(self.dispatcher.in_flight))
        self.metrics.tasks.set_function(lambda: len(asyncio.all_tasks()))
        self.metrics.queued.set_function(lambda: len(self.dispatcher.queue))
        self.metrics.connections.set_function(lambda: len(self._connections))

    async def start(self) -> None:
        """Listen on both ports. Raises OSError naming neither: `strerror` says what, the caller knows where."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: ClientConnection(self._edge), self._config.host, self._config.port, backlog=4096,
            ssl=None if self.certificate is None else self.certificate.context, reuse_port=self._shared or None,
        )  # fmt: skip
        self._runner = web.AppRunner(self._internal.app(), access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._config.internal_host, self._config.internal_port)
        try:
            await site.start()
        except OSError:
            self._server.close()
            await self._runner.cleanup()
            raise
        scheme = "http" if self.certificate is None else "https"
        self.url = reachable_url(scheme, self._config.host, self._server.sockets[0].getsockname()[1])
        self.internal_url = reachable_url("http", self._config.internal_host, self._runner.addresses[0][1])
        self.address = bound_address(self._config.host, self.url)
        self.internal_address = bound_address(self._config.internal_host, self.internal_url)
        await self._peers.start()
        await self._prober.start()
        await self._traces.start()
        self._tick_in(TICK_SECONDS)

    async def stop(self, timeout_s: float) -> bool:
        """Refuse what is new, finish what runs for at most `timeout_s`; whether everything was finished."""
        # Not ready from now on, but what is under way, and what arrives on open connections, is still served.
        self.viewer.draining = True
        self._server.close()
        finished = True
        try:
            async with asyncio.timeout(timeout_s):
                while self._busy():
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            finished = False
        self._ticker.cancel()
        await self._peers.stop()
        await self._prober.stop()
        await self.dispatcher.close()
        await self._traces.stop()
        await asyncio.to_thread(self._genai.stop)
        for connection in list(self._connections):
            connection.transport.close()
        # After the connections were closed: since Python 3.12 it waits for them.
        await self._server.wait_closed()
        await self._runner.cleanup()
        return finished

    def tick(self) -> None:
        """What time alone brings about; ten times a second."""
        now = self._now()
        self._ticks += 1
        self.dispatcher.tick(now)
        if self._ticks % _TICKS_PER_SECOND == 0:
            self.viewer.sample()
            self.dispatcher.watch(now)
            self.access.refresh(now)
            if self.certificate is not None:
                self.certificate.refresh()
            for connection in list(self._connections):
                connection.expire(now)
        if self.viewer.draining:
            for connection in list(self._connections):
                connection.close_if_idle(now - self.limits.lame_duck_seconds)
            if not self._busy():
                self._idle.set()

    def _tick_in(self, seconds: float) -> None:
        """A timer, as a task that sleeps would take two turns of the loop for each tick."""
        loop = asyncio.get_running_loop()
        self._ticker = loop.call_later(seconds, self._on_time, loop.time() + seconds)

    def _on_time(self, due: float) -> None:
        if asyncio.get_running_loop().time() - due > _SLEPT_SECONDS:
            # This process itself stood still (a suspended machine, a stopped container): reports and bytes wait in its
            # sockets. A tick now would take every replica for dead.
            self._tick_in(_SLEPT_SECONDS)
            return
        try:
            self.tick()
        except Exception:  # noqa: BLE001 - a fault in one tick must not end all later ones
            structlog.get_logger("router").exception("tick")
        self._tick_in(TICK_SECONDS)

    def _busy(self) -> bool:
        return bool(self.dispatcher.in_flight or self.dispatcher.queue or self._connections)


def _hosts(config: RouterConfig) -> Hosts | None:
    """Names that matter where a page of a browser on this machine could ask: without keys, which it has none of, and
    without a certificate, which would not be for its name."""
    guarded = config.host in LOOPBACK and not config.keys_file and not config.tls_certificate
    return Hosts((*config.allowed_hosts, socket.gethostname())) if guarded else None


def bound_address(host: str, url: str) -> str:
    """Host and port that are listened on."""
    port = url.rpartition(":")[2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable_url(scheme: str, host: str, port: int) -> str:
    """By which this machine reaches what listens there."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{shown}]:{port}" if ":" in shown else f"{scheme}://{shown}:{port}"
