"""Replicas that do not report: any OpenAI-compatible server, named at the start and asked now and then.

What is known of them is put into the form of a report, so that nothing else need know the difference. Their load is
what this router itself sends them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog

from trimode_api.wire import DecisionReport, ReplicaReport
from trimode_router.fleet.catalog import Catalog
from trimode_router.fleet.fleet import Fleet

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


def base_of(url: str) -> str:
    """What stands before `/v1` in a server's paths."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def id_of(base: str) -> str:
    """Its name as a replica: servers of one host differ by their path."""
    parts = urlsplit(base)
    return parts.netloc + parts.path


@dataclass(slots=True, eq=False)
class Prober:
    """Asks each of `urls` for its models every second; `max_running` requests are sent to one at a time. `changed` is
    called after each finding."""

    urls: Sequence[str]
    fleet: Fleet
    max_running: int
    key: str
    now: Callable[[], float]
    wall: Callable[[], float]
    changed: Callable[[], None]
    _lists: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False)
    _mute: set[str] = field(default_factory=set, init=False)
    _sequence: int = field(default=0, init=False)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list, init=False)
    _session: aiohttp.ClientSession = field(init=False)

    def __post_init__(self) -> None:
        self.urls = tuple(dict.fromkeys(map(base_of, self.urls)))

    async def start(self) -> None:
        if not self.urls:
            return
        self._know()
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout)
        self._tasks = [asyncio.ensure_future(self._watch(url)) for url in self.urls]

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
                structlog.get_logger("probe").info("replica", url=url, ready=well, problem=problem or None)
            await asyncio.sleep(PROBE_SECONDS)

    async def _probe(self, url: str) -> str:
        """What is wrong with it, or nothing."""
        try:
            async with self._session.get(url + MODELS_PATH) as response:
                body = await response.read()
                wants_key = response.status in (401, 403)
                if wants_key and self.key:
                    raise aiohttp.ClientError(f"status {response.status}: it does not take the router's key")
                if response.status != 200 and not wants_key:
                    raise aiohttp.ClientError(f"status {response.status}")
            models = () if wants_key else tuple(model.id for model in _MODELS.decode(body).data)
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
            # One that is merely slow to answer may be busy: it only grows stale.
            if self._heard(url) and not isinstance(error, TimeoutError):
                self._report(url, ready=False)
            return str(error) or type(error).__name__
        if wants_key != (url in self._mute) or (not wants_key and self._lists.get(url) != models):
            # One that wants a key, and is to get the clients', lists nothing to the router: it is there, and may have
            # any model.
            if wants_key:
                self._mute.add(url)
                self._lists.pop(url, None)
            else:
                self._mute.discard(url)
                self._lists[url] = models
            self._know()
        self._report(url, ready=True)
        return ""

    def _heard(self, url: str) -> bool:
        return url in self._lists or url in self._mute

    def _know(self) -> None:
        self.fleet.catalog = Catalog.of_servers(
            {id_of(url): models for url, models in self._lists.items()},
            [id_of(url) for url in self._mute],
            [url for url in self.urls if not self._heard(url)],
        )

    def _report(self, url: str, *, ready: bool) -> None:
        self._sequence += 1
        report = ReplicaReport(
            replica_id=id_of(url),
            pool=POOL,
            url=url,
            model=self.fleet.model,
            sequence=self._sequence,
            ready=ready,
            running=0,
            waiting=0,
            max_running=self.max_running,
            queued_prompt_tokens=0,
            cached_tokens=0,
            capacity_tokens=0,
            max_context_tokens=1,
            point=_POINT,
            decision=DecisionReport(point=_POINT, reason="Static", age_seconds=0),
            allowed_points=(_POINT,),
            switches=0,
            tokens_per_second=0,
            # As if it had the policy: there is nothing that could take one.
            policy_version=self.fleet.rules.policy.version,
        )
        self.fleet.take_report(report, self.now(), self.wall())
        self.changed()
