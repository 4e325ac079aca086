"""Deletion of a resource: drain, end the workers, then release the finalizer.

Pure. Everything else that was made is left to the garbage collector, by ownerReferences.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from trimode_api.fleet import FleetView
from trimode_operator.observe.fleets import Fleets
from trimode_operator.status.times import format_time, parse_time

FINALIZER = "trimode.dev/drain"
WORKERS_MAY_TAKE_S = 30.0
"""How long after the drain's end a RayService may take to go. Then the finalizer is released without it: KubeRay may
have been uninstalled, and a namespace must not hang in Terminating for it."""
DEFAULT_DRAIN_S = 300.0


class Step(StrEnum):
    """How far a deletion is."""

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
    return parse_time(body["metadata"]["deletionTimestamp"]) + (found if valid else DEFAULT_DRAIN_S)


def next_step(fleets: Fleets, workers: Mapping[str, Any] | None, now: float, deadline: float) -> Step:
    """`workers`: the live RayService, None when it is gone."""
    if workers is None:
        return Step.RELEASE
    if workers["metadata"].get("deletionTimestamp") is not None:
        return Step.WAIT_FOR_WORKERS if now < deadline + WORKERS_MAY_TAKE_S else Step.RELEASE
    if now < deadline and any(map(_busy, fleets.views.values())):
        return Step.DRAIN
    return Step.END_WORKERS


def message_of(step: Step, deadline: float) -> str:
    """For the status; the same as long as the step is."""
    if step is Step.DRAIN:
        return f"requests in flight finish, until {format_time(int(deadline))} at the latest; no new ones are taken"
    return "drained; workers and routers go"


def _busy(view: FleetView) -> bool:
    """Whether requests are under way, or could still begin."""
    if view.router.in_flight or view.router.queued:
        return True
    return any(replica.running or replica.waiting or not replica.draining for replica in view.replicas if replica.ready)
