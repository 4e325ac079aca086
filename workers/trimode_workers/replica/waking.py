"""Whether a request waits for the first replica of a pool that sleeps: the routers know.

Belongs here: asking them. Ray Serve calls its autoscaling policy in its controller's loop, so a thread asks, and the
policy reads what was heard last.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

import aiohttp
from pydantic import ValidationError

from trimode_api.fleet import FleetView
from trimode_api.wire import FLEET_PATH
from trimode_workers.replica.addresses import Routers

ASK_S = 0.5
"""Between two questions to the routers while there is no replica, in seconds."""
TIMEOUT_S = 2.0

_log = logging.getLogger(__name__)


class Ear:
    """Hears whether a pool is wanted. `asleep` is the policy's to set, `wanted` the thread's."""

    def __init__(self, routers: Sequence[str], pool: str, token: str) -> None:
        self.asleep = True
        self.wanted = False
        self.ended = threading.Event()
        self._routers = Routers(routers)
        self._pool = pool
        self._token = token

    def listen(self) -> None:
        """Until `ended`; for a thread of its own."""
        asyncio.run(self._follow())

    async def _follow(self) -> None:
        headers = {"Authorization": f"Bearer {self._token}"}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
            while not self.ended.is_set():
                if self.asleep:
                    await self._routers.look_up()
                    answers = await asyncio.gather(*(self._ask(session, url) for url in self._routers.urls))
                    self.wanted = any(answers)
                else:
                    self.wanted = False
                await asyncio.sleep(ASK_S)

    async def _ask(self, session: aiohttp.ClientSession, url: str) -> bool:
        """Whether this router's requests want the pool. One that does not answer wants nothing."""
        try:
            async with session.get(url + FLEET_PATH) as response:
                if response.status != 200:
                    raise aiohttp.ClientError(f"status {response.status}")
                view = FleetView.from_wire(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, ValidationError) as exc:
            _log.debug("router %s: %s", url, exc)
            return False
        return any(pool.name == self._pool and pool.wanted for pool in view.pools)
