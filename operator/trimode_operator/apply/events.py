"""Kubernetes Events: what `kubectl describe` shows of a resource's past.

Belongs here: which changes of status are told (pure), and telling them. An Event that cannot be posted is lost, and
nothing else: it is a word to people, not a state.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from trimode_api.status import Condition, MovePhase, RebalancingStatus, Status
from trimode_operator.errors import ApiFailure, ApiUnreachable
from trimode_operator.kube.client import EVENT, RESOURCE, Cluster, Object
from trimode_operator.plan.names import MANAGER
from trimode_operator.status.reasons import FALSE, TRUE, UNKNOWN, ConditionType, Reason
from trimode_operator.status.status import condition
from trimode_policy.rebalance import MoveReason

MESSAGE_MAX = 1024
GOOD_WHEN_FALSE = (ConditionType.PROGRESSING, ConditionType.SUSPENDED)
QUIET = (
    ConditionType.PROGRESSING,
    ConditionType.ROUTER_READY,
    ConditionType.WORKERS_READY,
    ConditionType.EXTERNALLY_SCALED,
)
"""Conditions whose comings and goings Ready tells as well, with their reasons, or that are neither good nor bad."""
EXPECTED = (
    Reason.SUSPENDED,
    Reason.SUSPENDING,
    Reason.NOT_SUSPENDED,
    Reason.DRAINING,
    Reason.POLICY_ROLLOUT,
    Reason.RECREATING,
    Reason.ROUTER_ROLLOUT,
    Reason.WORKERS_ROLLOUT,
    Reason.POOLS_NOT_READY,
    Reason.RAY_SERVICE_NOT_READY,
    Reason.NO_ROUTER_READY,
    Reason.SOME_ROUTERS_NOT_READY,
)
"""Reasons why something is not (yet) so that are told only where it was so before."""
ASKED_FOR = (
    Reason.SUSPENDED,
    Reason.NOT_SUSPENDED,
    Reason.DRAINING,
    Reason.ROUTER_ROLLOUT,
    Reason.WORKERS_ROLLOUT,
    Reason.RECREATING,
)
"""Reasons that follow from what a person did, and are no warning."""


@dataclass(frozen=True, slots=True)
class EventRecord:
    """An Event to be. `warning`: something a person may have to look at."""

    warning: bool
    reason: str
    message: str


def transitions(before: Status | None, after: Status) -> tuple[EventRecord, ...]:
    """What is worth telling: conditions whose status moved, what keeps a resource from becoming ready, and moves."""
    told: list[EventRecord] = []
    for now in after.conditions:
        kind = ConditionType(now.type)
        old = condition(before, kind)
        moved = old is not None and old.status is not now.status
        if kind is ConditionType.READY and now.status is FALSE and now.reason not in EXPECTED:
            if old is None or (old.reason, old.message) != (now.reason, now.message):
                told.append(EventRecord(True, now.reason, now.message))
        elif moved and kind not in QUIET and now.status is not UNKNOWN and not _passing(old, now):
            told.append(_told(kind, now))
    return (*told, *_moves(None if before is None else before.rebalancing, after.rebalancing))


def _moves(before: RebalancingStatus | None, after: RebalancingStatus | None) -> tuple[EventRecord, ...]:
    """A replica's way between pools: begun, done, held back, or stuck."""
    if after is None:
        return ()
    told: list[EventRecord] = []
    old, move = before.move if before is not None else None, after.move
    if move is not None and (old is None or old.begun != move.begun):
        told.append(EventRecord(False, "MovesReplica", move.message))
    if move is not None and move.phase is MovePhase.DONE and old is not None and old.phase is not MovePhase.DONE:
        told.append(EventRecord(False, "MovedReplica", after.message))
    if before is not None and after.since != before.since:
        if after.reason == MoveReason.HELD:
            told.append(EventRecord(False, "WouldMoveReplica", after.message))
        if after.reason == MoveReason.STUCK:
            told.append(EventRecord(True, "MoveStuck", after.message))
    return tuple(told)


def _passing(old: Condition | None, now: Condition) -> bool:
    """Whether a resource has merely not come that far yet, or a new policy is on its way for a second."""
    if old is None or now.type not in (ConditionType.READY, ConditionType.SERVING):
        return False
    return (old.status is UNKNOWN and now.status is FALSE) or Reason.POLICY_ROLLOUT in (old.reason, now.reason)


def _told(kind: ConditionType, now: Condition) -> EventRecord:
    good = now.status is (FALSE if kind in GOOD_WHEN_FALSE else TRUE)
    words = kind if now.status is TRUE else f"Not{kind}"
    return EventRecord(
        not good and now.reason not in ASKED_FOR, words, f"{now.reason}: {now.message}" if now.message else now.reason
    )


async def post(cluster: Cluster, resource: Object, told: EventRecord) -> None:
    """Post one Event about a resource."""
    metadata = resource["metadata"]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{metadata['name']}-", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": RESOURCE.api_version,
            "kind": RESOURCE.kind,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "type": "Warning" if told.warning else "Normal",
        "reason": told.reason,
        "message": told.message[:MESSAGE_MAX],
        "source": {"component": MANAGER},
        "reportingComponent": MANAGER,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        await cluster.create(EVENT, metadata["namespace"], body)
    except (ApiFailure, ApiUnreachable) as error:
        structlog.get_logger("events").warning("event lost", reason=told.reason, error=str(error))
