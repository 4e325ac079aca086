"""Handing the policy to the routers.

Belongs here: who gets it. A router that refuses or is away is asked again at the next visit.
"""

from __future__ import annotations

import structlog

from trimode_api.wire import PolicyConfig
from trimode_operator.errors import RouterFailure
from trimode_operator.observe.fleets import Fleets
from trimode_operator.process.dependencies import Dependencies


async def push(parts: Dependencies, fleets: Fleets, token: str, policy: PolicyConfig) -> bool:
    """Hand the policy to routers that have an older one; whether any took it."""
    took = False
    for router, view in fleets.views.items():
        if view.policy_version >= policy.version:
            continue
        try:
            await parts.routers.put_policy(router, token, policy)
        except RouterFailure as error:
            parts.metrics.pushes.labels("failed").inc()
            structlog.get_logger("reconcile").warning("policy not put", router=str(router), error=str(error))
        else:
            parts.metrics.pushes.labels("put").inc()
            took = True
    return took
