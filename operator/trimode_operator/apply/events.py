"""Kubernetes Events: what `kubectl describe` shows of a resource's past.

`transitions` (pure) decides which changes of status are recorded; `post` posts them. An Event that cannot be posted is
lost without more: it informs people, and nothing depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from trimode_api.status import MovePhase, RebalancingStatus, Status
from trimode_operator.errors import ApiFailure, ApiUnreachable
from trimode_operator.kube.client import EVENT, RESOURCE, Cluster, Object
from trimode_operator.plan.names import MANAGER
from trimode_operator.status.reasons import FALSE, TRUE, UNKNOWN, ConditionType, Reason
from trimode_operator.status.status import condition
from trimode_policy.rebalance import MoveReason

MESSAGE_MAX = 1024
GOOD_WHEN_FALSE = (ConditionType.PROGRESSING, ConditionType.SUSPENDED)
STARTING = (ConditionType.READY, ConditionType.SERVING)
"""Conditions that a new resource comes to by and by."""
QUIET = (
    ConditionType.PROGRESSING,
    ConditionType.ROUTER_READY,
    ConditionType.WORKERS_READY,
    ConditionType.EXTERNALLY_SCALED,
)
"""Conditions whose changes Ready records as well, with their reasons, or that are neither good nor bad."""
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
"""Reasons why something is not (yet) so that are recorded only where it was so before."""
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
    """An Event to post. `warning`: something a person may have to look at."""

    warning: bool
    reason: str
    message: str


def transitions(before: Status | None, after: Status) -> tuple[EventRecord, ...]:
    """Conditions whose status changed, what keeps a resource from becoming ready, and moves of replicas."""
    records: list[EventRecord] = []
    for now in after.conditions:
        kind = ConditionType(now.type)
        old = condition(before, kind)
        if kind is ConditionType.READY and now.status is FALSE and now.reason not in EXPECTED:
            if old is None or (old.reason, old.message) != (now.reason, now.message):
                # Every other reason or message, too: it is what a person has to act on.
                records.append(EventRecord(True, now.reason, now.message))
        elif old is not None and old.status is not now.status and kind not in QUIET and now.status is not UNKNOWN:
            begins = old.status is UNKNOWN and now.status is FALSE
            if kind in STARTING and (begins or Reason.POLICY_ROLLOUT in (old.reason, now.reason)):
                continue  # it has merely not come that far yet, or a new policy is on its way for a second
            good = now.status is (FALSE if kind in GOOD_WHEN_FALSE else TRUE)
            words = kind if now.status is TRUE else f"Not{kind}"
            message = f"{now.reason}: {now.message}" if now.message else now.reason
            records.append(EventRecord(not good and now.reason not in ASKED_FOR, words, message))
    return (*records, *_moves(None if before is None else before.rebalancing, after.rebalancing))


def _moves(before: RebalancingStatus | None, after: RebalancingStatus | None) -> tuple[EventRecord, ...]:
    """A replica's way between pools: begun, done, held back, or stuck."""
    if after is None:
        return ()
    records: list[EventRecord] = []
    old, move = before.move if before is not None else None, after.move
    if move is not None and (old is None or old.begun != move.begun):
        records.append(EventRecord(False, "MovesReplica", move.message))
    if move is not None and move.phase is MovePhase.DONE and old is not None and old.phase is not MovePhase.DONE:
        records.append(EventRecord(False, "MovedReplica", after.message))
    if before is not None and after.since != before.since:
        if after.reason == MoveReason.HELD:
            records.append(EventRecord(False, "WouldMoveReplica", after.message))
        if after.reason == MoveReason.STUCK:
            records.append(EventRecord(True, "MoveStuck", after.message))
    return tuple(records)


async def post(cluster: Cluster, resource: Object, record: EventRecord) -> None:
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
        "type": "Warning" if record.warning else "Normal",
        "reason": record.reason,
        "message": record.message[:MESSAGE_MAX],
        "source": {"component": MANAGER},
        "reportingComponent": MANAGER,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        await cluster.create(EVENT, metadata["namespace"], body)
    except (ApiFailure, ApiUnreachable) as error:
        structlog.get_logger("events").warning("event lost", reason=record.reason, error=str(error))
