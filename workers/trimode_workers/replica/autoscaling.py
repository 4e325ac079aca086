"""The policy that Ray Serve's autoscaler asks: an adapter of `trimode_policy.capacity`.

Serve sees no requests of its own, since they do not pass through it, so the figures are the replicas' (`Replica.load`);
for a pool without replicas the routers are asked whether requests wait for it.
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
from trimode_policy.capacity import PoolLoad, size_pool
from trimode_workers.replica.addresses import Routers

ASK_S = 0.5
"""Seconds between two questions to the routers while there is no replica."""
TIMEOUT_S = 2.0

_log = logging.getLogger(__name__)


class WakeListener:
    """Asks the routers whether requests wait for a pool. The policy sets `asleep`, the thread `wanted`."""

    def __init__(self, routers: Sequence[str], pool: str, token: str) -> None:
        self.asleep = True
        self.wanted = False
        self.ended = threading.Event()
        self._routers = Routers(routers)
        self._pool = pool
        self._token = token

    async def listen(self) -> None:
        """Until `ended`; for a thread of its own."""
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
        """Whether requests wait for the pool at this router; False where it does not answer."""
        try:
            async with session.get(url + FLEET_PATH) as response:
                if response.status != 200:
                    raise aiohttp.ClientError(f"status {response.status}")
                view = FleetView.from_wire(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, ValidationError) as exc:
            _log.debug("router %s: %s", url, exc)
            return False
        return any(pool.name == self._pool and pool.wanted for pool in view.pools)


class Scaler:
    """Ray Serve's policy class: `Scaler(routers, pool)(AutoscalingContext) -> (replicas, state)`.

    One for all pools, whether they may sleep or not: Serve replaces the replicas of a pool that gets another policy.
    """

    def __init__(self, routers: Sequence[str], pool: str) -> None:
        self._listener = WakeListener(routers, pool, os.environ.get(TOKEN_VARIABLE, ""))
        self._listens = False

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        self._listener.asleep = context.target_num_replicas == 0
        if self._listener.asleep and not self._listens:
            # Not sooner: Serve also makes instances that it only looks at.
            self._listens = True
            listening = self._listener.listen()
            threading.Thread(target=asyncio.run, args=(listening,), name="waking", daemon=True).start()
            # The thread must not keep a policy alive that Serve has replaced.
            weakref.finalize(self, self._listener.ended.set)
        # By replica, under the name that `Replica.load` gives it; replicas that report nothing yet are not in it.
        metrics = context.aggregated_metrics or {}
        load = PoolLoad(
            utilization=list((metrics.get("occupancy") or {}).values()),
            running=context.current_num_replicas,
            ordered=context.target_num_replicas,
            lowest=context.capacity_adjusted_min_replicas,
            highest=context.capacity_adjusted_max_replicas,
            wanted=self._listener.wanted,
        )
        return size_pool(load), {}
