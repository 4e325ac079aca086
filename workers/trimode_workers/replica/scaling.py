"""The policy function that Ray Serve's autoscaler calls: an adapter of `trimode_policy.size`.

Belongs here: Serve's types. Serve sees no requests of its own, since they do not pass through it, so the figures are
the replicas' (`Replica.load`). It applies no delays to a policy of one's own, so going down slowly is the policy's.
"""

from __future__ import annotations

from typing import Any

from trimode_policy.size import Calm, PoolLoad, Sizing, size_pool

SIZING = Sizing()


def scale(context: Any) -> tuple[int, dict[str, Any]]:
    """Ray Serve's policy function: `(AutoscalingContext) -> (replicas, state)`."""
    metrics = context.aggregated_metrics or {}
    load = PoolLoad(
        fullness=list((metrics.get("occupancy") or {}).values()),
        running=context.current_num_replicas,
        target=context.target_num_replicas,
        lowest=context.capacity_adjusted_min_replicas,
        highest=context.capacity_adjusted_max_replicas,
    )
    before = (context.policy_state or {}).get("calm")
    wanted, calm = size_pool(load, None if before is None else Calm(*before), SIZING, context.current_time or 0.0)
    return wanted, {} if calm is None else {"calm": (calm.since, calm.most)}
