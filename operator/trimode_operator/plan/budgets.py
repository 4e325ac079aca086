"""How many pods may be taken away at once.

Belongs here: PodDisruptionBudgets.
"""

from __future__ import annotations

from typing import Any

from trimode_api.resource import NemotronDeployment, Pool
from trimode_operator.plan.model import Manifest, Owner
from trimode_operator.plan.names import Names, matching
from trimode_operator.plan.objects import child
from trimode_operator.plan.ray import POOL_LABEL


def budgets(deployment: NemotronDeployment, owner: Owner, names: Names) -> tuple[Manifest, ...]:
    """One for the routers, one for Ray's head (whose loss ends the cluster), one per pool that never goes to zero."""
    pools = [pool for pool in deployment.spec.pools if pool.replicas.min > 0]
    return (
        _budget(owner, names.router, "router", {"maxUnavailable": 1}),
        # A RayCluster has no scale subresource, so the others count what must stay, not what may go.
        _budget(owner, names.head, "head", {"minAvailable": 1}),
        *(_pool_budget(owner, names, pool) for pool in pools),
    )


def _pool_budget(owner: Owner, names: Names, pool: Pool) -> Manifest:
    """One at a time. A pool's only replica is not taken away: raise its minimum first."""
    stays = max(1, pool.replicas.min - 1)
    return _budget(owner, names.pool_budget(pool.name), "worker", {"minAvailable": stays}, {POOL_LABEL: pool.name})


def _budget(
    owner: Owner, name: str, component: str, bound: dict[str, int], more: dict[str, str] | None = None
) -> Manifest:
    spec: dict[str, Any] = {**bound, "selector": {"matchLabels": matching(owner.name, component) | (more or {})}}
    return {**child("policy/v1", "PodDisruptionBudget", name, owner, component), "spec": spec}
