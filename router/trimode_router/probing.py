"""Replicas that do not report: any OpenAI-compatible server, named at the start and asked now and then.

Belongs here: what is known of them, put into the words of a report, so that nothing else need know the difference.
Their load is what this router itself sends them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog

from trimode_api.wire import DecisionReport, ReplicaReport
from trimode_router.fleet import Fleet

MODELS_PATH = "/v1/models"
PROBE_SECONDS = 1.0
_TIMEOUT_SECONDS = 5.0
POOL = "static"
_POINT = "AR"


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


_MODELS = msgspec.json.Decoder(_Models)


class Prober:
    """Asks each of `urls` for its models every second; `max_running` requests are sent to one at a time."""

    def __init__(
        self,
        urls: Sequence[str],
        fleet: Fleet,
        max_running: int,
        key: str,
        now: Callable[[], float],
        wall: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self._targets = [url.rstrip("/").removesuffix("/v1") for url in urls]
        self._fleet = fleet
        self._max_running = max_running
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._now, self._wall, self._changed = now, wall, changed
        self._models: dict[str, tuple[str, ...]] = {}
        self._sequence = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._log = structlog.get_logger("probe")

    async def start(self) -> None:
        if not self._targets:
            return
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        self._tasks = [asyncio.ensure_future(self._watch(url)) for url in self._targets]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tasks:
            await self._session.close()

    async def _watch(self, url: str) -> None:
        well: bool | None = None
        while True:
            problem = await self._probe(url)
            if well is not (problem == ""):
                well = problem == ""
                self._log.info("replica", url=url, ready=well, problem=problem or None)
            await asyncio.sleep(PROBE_SECONDS)

    async def _probe(self, url: str) -> str:
        """What is wrong with it, or nothing."""
        try:
            async with self._session.get(url + MODELS_PATH) as response:
                body = await response.read()
                if response.status != 200:
                    raise aiohttp.ClientError(f"status {response.status}")
            models = tuple(model.id for model in _MODELS.decode(body).data)
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
            known = self._models.get(url)
            if known is not None and not isinstance(error, TimeoutError):
                self._report(url, ready=False)  # one that is merely slow to answer may be busy: it only grows stale
            return str(error) or type(error).__name__
        if self._models.get(url) != models:
            self._models[url] = models
            self._fleet.models = tuple(dict.fromkeys(name for names in self._models.values() for name in names))
        self._report(url, ready=True)
        return ""

    def _report(self, url: str, *, ready: bool) -> None:
        self._sequence += 1
        report = ReplicaReport(
            replica_id=urlsplit(url).netloc,
            pool=POOL,
            url=url,
            model=self._fleet.model,
            sequence=self._sequence,
            ready=ready,
            running=0,
            waiting=0,
            max_running=self._max_running,
            queued_prompt_tokens=0,
            cached_tokens=0,
            capacity_tokens=0,
            max_context_tokens=1,
            point=_POINT,
            decision=DecisionReport(point=_POINT, reason="Static", age_seconds=0),
            allowed_points=(_POINT,),
            switches=0,
            tokens_per_second=0,
            policy_version=self._fleet.rules.policy.version,
        )
        self._fleet.take_report(report, self._now(), self._wall())
        self._changed()
