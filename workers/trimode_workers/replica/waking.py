"""The policy that Ray Serve's autoscaler calls for pools that may have no replica.

Belongs here: asking the routers whether a request waits for one. Serve sees no requests, and a pool without replicas
has nobody who reports. Serve calls a policy in its controller's loop, so a thread asks, and the policy reads what it
last heard.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import aiohttp
from pydantic import ValidationError

from trimode_api.fleet import FleetView
from trimode_api.wire import FLEET_PATH, TOKEN_VARIABLE
from trimode_policy.size import size_pool
from trimode_workers.replica.addresses import Routers
from trimode_workers.replica.scaling import load_of

ASK_S = 0.5
"""Between two questions to the routers while there is no replica, in seconds."""
TIMEOUT_S = 2.0

_log = logging.getLogger(__name__)


class Waker:
    """Ray Serve's policy class: `Waker(routers, pool)(AutoscalingContext) -> (replicas, state)`."""

    def __init__(self, routers: Sequence[str], pool: str) -> None:
        self._ear = Ear(routers, pool, os.environ.get(TOKEN_VARIABLE, ""))
        self._listens = False

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        if not self._listens:  # not sooner: Serve also makes instances that it only looks at
            self._listens = True
            threading.Thread(target=self._ear.listen, name="waking", daemon=True).start()
            # The thread must not keep a policy alive that Serve has replaced.
            weakref.finalize(self, self._ear.ended.set)
        self._ear.asleep = context.target_num_replicas == 0
        return size_pool(load_of(context, wanted=self._ear.wanted)), {}


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
