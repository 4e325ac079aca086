"""A replica's parts and their common life: engine process, HTTP shell, reporter."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from trimode_api.errors import ApiError
from trimode_api.wire import TOKEN_VARIABLE, Command, PolicyConfig, ReplicaReport, ReportAnswer, UnansweredReport
from trimode_workers.engine.messages import Configure
from trimode_workers.openai.defaults import SamplingDefaults, load_defaults, load_ends
from trimode_workers.openai.prepare import Capabilities
from trimode_workers.process.client import EngineClient
from trimode_workers.process.handle import EngineHandle
from trimode_workers.process.pending import EngineFailed
from trimode_workers.process.spawn import engine_argv
from trimode_workers.replica.addresses import Routers
from trimode_workers.replica.policy import NO_POLICY_YET, configure_for, keeping, pool_points, pool_policy
from trimode_workers.replica.report import Moment, RateWindow, Self, build_report
from trimode_workers.replica.reporter import Reporter
from trimode_workers.replica.server import build_shell
from trimode_workers.replica.settings import EngineOptions, ReplicaSettings
from trimode_workers.text.tokenizer import TextModel, load_text_model

ENGINE_MODULE = "trimode_workers.process"
RAY_CLUSTER = "RAY_CLUSTER_NAME"
"""Variable that KubeRay sets in every pod of a Ray cluster."""
DRAIN_RETRY_AFTER_S = 1
CLOSE_TIMEOUT_S = 5.0
"""After the drain: how long answers may still be on their way to slow clients."""
UNANSWERED_S, MOST_UNANSWERED = 2.0, 512
"""What unanswered requests have cost is told for so long, of so many: some ten reports, of which most arrive."""

_log = logging.getLogger(__name__)


StartEngine = Callable[[EngineOptions, Configure, Callable[[], None]], Awaitable[EngineHandle]]
"""Starts an engine; the last argument is to be called on changes, see `EngineClient`."""


def engine_process(module: str = ENGINE_MODULE) -> StartEngine:
    """Starts `python -m module` as the engine's process."""

    async def start(options: EngineOptions, configure: Configure, on_change: Callable[[], None]) -> EngineClient:
        argv = engine_argv(module, options, configure)
        return await EngineClient.start(argv, env=_engine_environment(options.threads), on_change=on_change)

    return start


def sglang_server() -> StartEngine:
    """Starts an SGLang server."""

    async def start(options: EngineOptions, configure: Configure, on_change: Callable[[], None]) -> EngineHandle:
        from trimode_workers.sglang.client import SGLangClient

        return await SGLangClient.start(options, configure, on_change, load_ends(Path(options.model)))

    return start


def engine_of(options: EngineOptions) -> StartEngine:
    """Starts the engine that `options` are for."""
    return engine_process() if options.sglang is None else sglang_server()


class Replica:
    """One running replica. Make it with `start`, end it with `stop`. `url` is where requests go."""

    def __init__(self, settings: ReplicaSettings, text: TextModel, defaults: SamplingDefaults) -> None:
        self.text = text
        self.engine: EngineHandle
        self.url = ""
        self.replica_id = f"{settings.pool}-{secrets.token_hex(4)}"
        self.policy: PolicyConfig = settings.policy
        self.draining = False
        self._stopping = False
        self._settings = settings
        self._defaults = defaults
        self._sequence = 0
        self._rate = RateWindow()
        self._unanswered: deque[tuple[float, UnansweredReport]] = deque(maxlen=MOST_UNANSWERED)
        self._reporter: Reporter | None = None
        self._runner: web.AppRunner | None = None

    @classmethod
    async def start(cls, settings: ReplicaSettings, token: str, start_engine: StartEngine | None = None) -> Replica:
        """Load, warm up, listen, report. EngineFailed or TokenizerError say why it cannot; nothing is left behind.

        `start_engine` None is the engine that the settings name.
        """
        if not token:
            raise EngineFailed(f"no fleet token: set {TOKEN_VARIABLE} in the environment")
        folder = Path(settings.engine.model)
        configure = configure_for(settings.policy, settings.pool)
        assert configure is not None  # the settings have been checked for it
        text = await asyncio.to_thread(load_text_model, folder, settings.engine.tool_format)
        replica = cls(settings, text, load_defaults(folder))
        try:
            start_engine = start_engine or engine_of(settings.engine)
            replica.engine = await start_engine(settings.engine, configure, replica._changed)
            # A client that leaves cancels its handler, and the handler frees the engine's row.
            replica._runner = web.AppRunner(
                build_shell(replica, token),
                handler_cancellation=True,
                access_log=None,
                shutdown_timeout=CLOSE_TIMEOUT_S,
            )
            await replica._runner.setup()
            await web.TCPSite(replica._runner, settings.host, settings.port).start()
            host, port = replica._runner.addresses[0][:2]
            # A port of our own: through Serve's Python proxy a short stream costs 12 to 16 ms of processor time, here
            # 0.5 to 0.8.
            replica.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            routers = Routers(settings.router_urls)
            replica._reporter = Reporter(routers, token, settings.report_interval_s, replica.report, replica._obey)
            replica._reporter.start()
        except BaseException:
            await replica._end()
            raise
        _log.info("replica %s answers at %s", replica.replica_id, replica.url)
        return replica

    async def stop(self) -> None:
        """Refuse new requests, let running ones finish for the policy's drain timeout, end everything. Once."""
        if self._stopping:
            return
        self._stopping = self.draining = True
        self._changed()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.engine.emptied(), self.policy.drain_timeout_seconds)
        await self._end()

    async def _end(self) -> None:
        if self._reporter is not None:
            await self._reporter.stop()
        # A start that failed may have come to no engine.
        if hasattr(self, "engine"):
            # Before the shell: requests that still run after the drain's time get an error instead of waiting on.
            await self.engine.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def check(self) -> None:
        """EngineFailed where the engine is dead or silent too long while it has work, or reports have ended."""
        if self._reporter is not None and self._reporter.broken and not self._stopping:
            raise EngineFailed("the reports to the routers have ended; the log has more")
        if self.engine.lost:
            raise EngineFailed(self.engine.lost)
        if self.engine.silent_s > self._settings.stall_after_s:
            raise EngineFailed(f"the engine has been silent for {self.engine.silent_s:.0f} s with work to do")

    def load(self) -> dict[str, float]:
        """For the pool's autoscaling: requests in flight, and their share of the capacity at which all keep their
        objectives (of what runs at once, where the engine does not know it). Above 1 where some wait or miss theirs."""
        engine, count = self.engine, self.engine.in_flight
        occupancy = count / (engine.started.max_running_requests if engine.started else 1)
        stats = engine.stats
        if stats is not None and stats.utilization is not None and stats.running + stats.waiting > 0:
            # The engine reports it a few times a second; requests that came or went since count like the others.
            occupancy = stats.utilization * count / (stats.running + stats.waiting)
        return {"in_flight": float(count), "occupancy": occupancy}

    # what the shell asks

    def offer(self) -> Capabilities:
        settings = self._settings
        started = self.engine.started
        return Capabilities(
            model=settings.served_name,
            max_context_tokens=started.max_context_tokens if started else settings.engine.max_context_tokens,
            points=pool_points(self.policy, settings.pool),
            tiers=self.policy.tiers,
            defaults=self._defaults,
            no_grammar=started.no_grammar if started else "",
            refused=started.refused if started else {},
        )

    def refusal(self) -> ApiError | None:
        if self.engine.lost:
            return ApiError(503, f"engine lost: {self.engine.lost}", code="engine_lost", retry_after_s=1)
        if self.draining:
            return ApiError(503, "this replica is draining", code="draining", retry_after_s=DRAIN_RETRY_AFTER_S)
        if self._waits_for_policy:
            return ApiError(503, "this replica has no policy yet", code="no_policy", retry_after_s=DRAIN_RETRY_AFTER_S)
        return None

    def unanswered(self, request_id: str, busy: dict[str, float]) -> None:
        if request_id:
            report = UnansweredReport(request_id=request_id, busy_seconds=busy)
            self._unanswered.append((time.monotonic(), report))

    # what the reporter asks

    def report(self) -> ReplicaReport:
        """The present state; each call takes the next sequence number."""
        engine = self.engine
        assert engine.started is not None
        assert engine.stats is not None
        self._sequence += 1
        while self._unanswered and self._unanswered[0][0] < time.monotonic() - UNANSWERED_S:
            self._unanswered.popleft()
        now = Moment(
            sequence=self._sequence,
            ready=not engine.lost and not self._stopping and not self._waits_for_policy,
            draining=self.draining,
            in_flight=engine.in_flight,
            tokens_per_second=self._rate.rate(engine.emitted_total, time.monotonic()),
            policy=self.policy,
            unanswered=tuple(report for _, report in self._unanswered),
        )
        cluster = os.environ.get(RAY_CLUSTER, "")
        who = Self(self.replica_id, self._settings.pool, self._settings.served_name, self.url, cluster)
        return build_report(who, now, engine.started, engine.stats)

    def _obey(self, answer: ReportAnswer) -> None:
        policy, pool = answer.policy, self._settings.pool
        if policy is not None and policy.version > self.policy.version:
            if pool_policy(policy, pool) is None:
                _log.warning("policy %d does not know pool %s; it goes on as before", policy.version, pool)
            self.policy = keeping(policy, pool, self.policy)
            configure = configure_for(self.policy, pool)
            assert configure is not None  # the settings' policy knew it, and every later one does
            self.engine.configure(configure)
            self._changed()
        wanted = answer.command is Command.DRAIN or (self.draining and answer.command is Command.NONE)
        if wanted != self.draining and not self._stopping:
            self.draining = wanted
            self._changed()

    @property
    def _waits_for_policy(self) -> bool:
        return self.policy.version == NO_POLICY_YET

    def _changed(self) -> None:
        if self._reporter is not None:
            self._reporter.poke()


def _engine_environment(threads: int) -> dict[str, str]:
    """The engine needs no token. Its thread count is ours to set: Ray gives its workers one for their own pools."""
    environment = {name: value for name, value in os.environ.items() if name not in (TOKEN_VARIABLE, "OMP_NUM_THREADS")}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment
