"""Reports to every router, and what comes back.

What a report says is in `report`, and which addresses a router's name has in `addresses`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import aiohttp
from pydantic import ValidationError

from trimode_api.wire import REPORT_PATH, ReplicaReport, ReportAnswer
from trimode_workers.replica.addresses import Routers

POST_TIMEOUT_S = 2.0
MAX_BACKOFF_S = 2.0

_log = logging.getLogger(__name__)


class Reporter:
    """Posts `build()` to each of `routers` every `interval_s` seconds and at once on `poke`; passes answers to `obey`.

    Addresses of routers are followed as they change.
    """

    def __init__(
        self,
        routers: Routers,
        token: str,
        interval_s: float,
        build: Callable[[], ReplicaReport],
        obey: Callable[[ReportAnswer], None],
    ) -> None:
        self._interval_s = interval_s
        self._build = build
        self._obey = obey
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=POST_TIMEOUT_S),
        )
        self._known = routers
        self._routers: dict[_Router, asyncio.Task[None]] = {}
        self._following: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._following = asyncio.create_task(self._follow())

    def poke(self) -> None:
        """Something changed: report now."""
        for router in self._routers:
            router.poked.set()

    @property
    def broken(self) -> bool:
        """Whether a bug has ended the reports to some router."""
        ended = self._following is not None and self._following.done()
        return ended or any(task.done() for task in self._routers.values())

    async def stop(self) -> None:
        """One last report to every router, then no more."""
        tasks = [*self._routers.values(), *([] if self._following is None else [self._following])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(self._post(router) for router in self._routers))
        await self._session.close()

    async def _follow(self) -> None:
        """Keep one task per router address."""
        while True:
            await self._known.look_up()
            wanted = {url + REPORT_PATH for url in self._known.urls}
            for router in [router for router in self._routers if router.url not in wanted]:
                _log.info("router %s is gone", router.url)
                self._routers.pop(router).cancel()
            for url in sorted(wanted - {router.url for router in self._routers}):
                router = _Router(url)
                self._routers[router] = asyncio.create_task(self._run(router))
            await asyncio.sleep(self._known.pause_s)

    async def _run(self, router: _Router) -> None:
        while True:
            router.poked.clear()
            reached = await self._post(router)
            router.delay_s = self._interval_s if reached else min(MAX_BACKOFF_S, 2 * router.delay_s)
            # A router that does not answer is not asked more often because much changes here. No `wait_for`: before
            # Python 3.12 it loses a cancellation that comes with the poke, as at the end, and `stop` would hang.
            waited_for = router.poked if reached else asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(router.delay_s or self._interval_s):
                    await waited_for.wait()

    async def _post(self, router: _Router) -> bool:
        """Whether the router took the report. Says so in the log when that changes, once."""
        try:
            async with self._session.post(router.url, data=self._build().to_wire()) as response:
                body = await response.read()
                if response.status != 200:
                    raise aiohttp.ClientError(f"status {response.status}: {body[:200]!r}")
                answer = ReportAnswer.from_wire(body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValidationError) as exc:
            if router.reached is not False:
                _log.warning("router %s does not take reports: %s", router.url, exc or type(exc).__name__)
            router.reached = False
            return False
        if router.reached is False:
            _log.info("router %s takes reports again", router.url)
        router.reached = True
        self._obey(answer)
        return True


class _Router:
    """One router's address and how it fared. `reached` is None before the first try."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.poked = asyncio.Event()
        self.delay_s = 0.1
        self.reached: bool | None = None
