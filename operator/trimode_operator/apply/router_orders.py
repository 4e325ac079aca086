"""What the operator asks of routers: to take a policy, to drain replicas.

A router that refuses or is away is asked again at the next reconciliation, so failures are not raised.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from trimode_api.fleet import FleetView
from trimode_api.wire import PolicyConfig
from trimode_operator.errors import RouterFailure
from trimode_operator.observe.fleets import Address, Fleets
from trimode_operator.observe.routers import Routers
from trimode_operator.process.dependencies import Dependencies


async def push_policy(deps: Dependencies, fleets: Fleets, token: str, policy: PolicyConfig) -> Fleets:
    """Hand the policy to routers that have an older one; the views, with the policy's version where it was taken.

    The routers are not asked again for what they now say: replicas get the policy in the answer to their next report,
    200 ms later, so a second look would find them behind all the same.
    """
    views = dict(fleets.views)
    for router, view in fleets.views.items():
        # The higher version wins everywhere: a copy with an older cache must not take a policy back.
        if view.policy_version >= policy.version:
            continue
        try:
            await deps.routers.put_policy(router, token, policy)
        except RouterFailure as error:
            deps.metrics.pushes.labels("failed").inc()
            structlog.get_logger("reconcile").warning("policy not put", router=str(router), error=str(error))
        else:
            deps.metrics.pushes.labels("put").inc()
            views[router] = view.model_copy(update={"policy_version": policy.version})
    return Fleets(views, fleets.failures)


async def order_drain(routers: Routers, fleets: Fleets, token: str) -> None:
    """Order every replica, through every router, to take no new request."""

    async def order(router: Address, view: FleetView) -> None:
        for replica in view.replicas:
            if not replica.draining:
                with contextlib.suppress(RouterFailure):
                    await routers.drain(router, token, replica.replica_id)

    await asyncio.gather(*(order(router, view) for router, view in fleets.views.items()))
