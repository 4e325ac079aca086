"""The end of a resource: drain, workers, then everything else.

Belongs here: the steps and their order (`next_step`, pure), and taking them. The finalizer is ours alone; what is left
when it goes is the garbage collector's, by ownerReferences.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from trimode_api.fleet import FleetView
from trimode_operator.errors import RouterFailure
from trimode_operator.observe.fleets import Address, Fleets
from trimode_operator.observe.routers import Routers
from trimode_operator.status.times import read, written

FINALIZER = "trimode.dev/drain"
WORKERS_MAY_TAKE_S = 30.0
"""How long after the drain's end a RayService may take to go before the resource is let go without it."""
DEFAULT_DRAIN_S = 300.0


class Step(StrEnum):
    """What a resource that goes is at."""

    DRAIN = "Drain"
    END_WORKERS = "EndWorkers"
    WAIT_FOR_WORKERS = "WaitForWorkers"
    RELEASE = "Release"


def deadline_of(body: Mapping[str, Any]) -> float:
    """Unix seconds until which requests may finish. The spec may be invalid."""
    found: Any = body
    for field in ("spec", "drain", "timeoutSeconds"):
        found = found.get(field) if isinstance(found, Mapping) else None
    valid = isinstance(found, int) and not isinstance(found, bool) and found >= 0
    return read(body["metadata"]["deletionTimestamp"]) + (found if valid else DEFAULT_DRAIN_S)


def next_step(fleets: Fleets, workers: Mapping[str, Any] | None, now: float, deadline: float) -> Step:
    """`workers`: the live RayService, None when it is gone."""
    if workers is None:
        return Step.RELEASE
    if workers["metadata"].get("deletionTimestamp") is not None:
        return Step.WAIT_FOR_WORKERS if now < deadline + WORKERS_MAY_TAKE_S else Step.RELEASE
    if now < deadline and any(map(_busy, fleets.views.values())):
        return Step.DRAIN
    return Step.END_WORKERS


def words(step: Step, deadline: float) -> str:
    """For the status; the same as long as the step is."""
    if step is Step.DRAIN:
        return f"requests in flight finish, until {written(int(deadline))} at the latest; no new ones are taken"
    return "drained; workers and routers go"


async def order_drain(routers: Routers, fleets: Fleets, token: str) -> None:
    """Tell every replica through every router. A router that fails at it is asked again at the next visit."""

    async def order(router: Address, view: FleetView) -> None:
        for replica in view.replicas:
            if not replica.draining:
                with contextlib.suppress(RouterFailure):
                    await routers.drain(router, token, replica.replica_id)

    await asyncio.gather(*(order(router, view) for router, view in fleets.views.items()))


def _busy(view: FleetView) -> bool:
    """Whether requests are under way, or could still begin."""
    if view.router.in_flight or view.router.queued:
        return True
    return any(replica.running or replica.waiting or not replica.draining for replica in view.replicas if replica.ready)
