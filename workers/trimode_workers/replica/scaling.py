"""How many replicas a pool should have, from how full they are.

Belongs here: the policy function that Ray Serve's autoscaler calls. Serve sees no requests of its own, since they do
not pass through it, so the figures are the replicas' (`Replica.load`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

TARGET_OCCUPANCY = 0.7
"""Share of the rows in use that a pool aims at: below 1, because a new replica takes a while to come."""


def wanted_replicas(occupancies: Sequence[float], current: int, lowest: int, highest: int) -> int:
    """Replicas that would bring the present load to the target. Without figures, as many as there are."""
    if not occupancies:
        return max(lowest, min(current, highest))
    # Rounded first: 0.7 / 0.7 must not become two replicas by a rounding error.
    wanted = math.ceil(round(sum(occupancies) / TARGET_OCCUPANCY, 6))
    return max(lowest, min(wanted, highest))


def scale(context: Any) -> tuple[int, dict[str, Any]]:
    """Ray Serve's policy function: `(AutoscalingContext) -> (replicas, state)`."""
    metrics = context.aggregated_metrics or {}
    occupancies = list((metrics.get("occupancy") or {}).values())
    wanted = wanted_replicas(
        occupancies,
        context.current_num_replicas,
        context.capacity_adjusted_min_replicas,
        context.capacity_adjusted_max_replicas,
    )
    return wanted, {}
