"""The policy function that Ray Serve's autoscaler calls: an adapter of `trimode_policy.size`.

Belongs here: Serve's types. Serve sees no requests of its own, since they do not pass through it, so the figures are
the replicas' (`Replica.load`).
"""

from __future__ import annotations

from typing import Any

from trimode_policy.size import PoolLoad, size_pool


def scale(context: Any) -> tuple[int, dict[str, Any]]:
    """Ray Serve's policy function: `(AutoscalingContext) -> (replicas, state)`."""
    return size_pool(load_of(context)), {}


def load_of(context: Any, *, wanted: bool = False) -> PoolLoad:
    """What Serve knows of the pool. `wanted`: a request waits for its first replica."""
    metrics = context.aggregated_metrics or {}
    return PoolLoad(
        fullness=list((metrics.get("occupancy") or {}).values()),
        running=context.current_num_replicas,
        ordered=context.target_num_replicas,
        lowest=context.capacity_adjusted_min_replicas,
        highest=context.capacity_adjusted_max_replicas,
        wanted=wanted,
    )
