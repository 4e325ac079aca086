"""The policy that Ray Serve's autoscaler asks: an adapter of `trimode_policy.size`.

Belongs here: Serve's types. Serve sees no requests of its own, since they do not pass through it, so the figures are
the replicas' (`Replica.load`); of a pool without replicas the routers tell (`waking`).
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any

from trimode_api.wire import TOKEN_VARIABLE
from trimode_policy.size import PoolLoad, size_pool
from trimode_workers.replica.waking import Ear


class Scaler:
    """Ray Serve's policy class: `Scaler(routers, pool)(AutoscalingContext) -> (replicas, state)`.

    One for all pools, whether they may sleep or not: Serve replaces the replicas of a pool that gets another policy.
    """

    def __init__(self, routers: Sequence[str], pool: str) -> None:
        self._ear = Ear(routers, pool, os.environ.get(TOKEN_VARIABLE, ""))
        self._listens = False

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        self._ear.asleep = context.target_num_replicas == 0
        if self._ear.asleep and not self._listens:
            self._listens = True
            threading.Thread(target=self._ear.listen, name="waking", daemon=True).start()
            # The thread must not keep a policy alive that Serve has replaced.
            weakref.finalize(self, self._ear.ended.set)
        metrics = context.aggregated_metrics or {}
        load = PoolLoad(
            fullness=list((metrics.get("occupancy") or {}).values()),
            running=context.current_num_replicas,
            ordered=context.target_num_replicas,
            lowest=context.capacity_adjusted_min_replicas,
            highest=context.capacity_adjusted_max_replicas,
            wanted=self._ear.wanted,
        )
        return size_pool(load), {}
