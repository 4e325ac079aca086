"""Deletion of a resource: drain, end the workers, then release the finalizer.

Pure. Everything else that was made is left to the garbage collector, by ownerReferences.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from trimode_api.status import format_time, parse_time
from trimode_operator.observe.fleets import Fleets

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
    # KubeRay 1.6.2 and later hold a RayService by a finalizer: uninstalled first, it never lets go.
    if workers["metadata"].get("deletionTimestamp") is not None:
        return Step.WAIT_FOR_WORKERS if now < deadline + WORKERS_MAY_TAKE_S else Step.RELEASE
    # Requests are under way, or could still begin.
    busy = any(
        view.router.in_flight
        or view.router.queued
        or any(each.running or each.waiting or not each.draining for each in view.replicas if each.ready)
        for view in fleets.views.values()
    )
    return Step.DRAIN if busy and now < deadline else Step.END_WORKERS


def message_of(step: Step, deadline: float) -> str:
    """For the status; the same as long as the step is."""
    if step is Step.DRAIN:
        return f"requests in flight finish, until {format_time(int(deadline))} at the latest; no new ones are taken"
    return "drained; workers and routers go"
