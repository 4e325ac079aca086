"""Replicas that pools share: a reconciliation's step, and its state as the status has it.

Pure translation between `sharing` and the status. The new split is in the status before it is applied, so that another
copy of the operator goes on where this one stopped.
"""

from __future__ import annotations

from collections.abc import Mapping

from trimode_api.resource import Spec
from trimode_api.status import MovePhase, MoveStatus, PoolShare, RebalancingStatus, Status, format_time, parse_time
from trimode_operator.observe.fleets import Fleets
from trimode_operator.plan.ray import IDLE_POD_STAYS_S
from trimode_policy.rebalance import MoveReason
from trimode_policy.sharing import Move, Phase, Split, Step
from trimode_policy.sharing_inputs import Samples, current_split, next_split, sharing_pools

RELEASE_S = IDLE_POD_STAYS_S + 15.0
"""Seconds from a replica's end until its pod has gone too: Ray's autoscaler looks every few seconds."""


def targets_of(spec: Spec, before: Status | None) -> Mapping[str, int]:
    """Replicas of each pool that shares them; empty where none does."""
    return current_split(spec, _split(before)).targets


def rebalanced(
    spec: Spec, before: Status | None, fleets: Fleets, samples: Samples, now: float
) -> RebalancingStatus | None:
    """The status after this reconciliation's step. Where not every router answers nothing moves; None where nothing is
    shared. `now` in Unix seconds; `samples` have a clock of their own."""
    if not sharing_pools(spec):
        return None
    split, views = _split(before), tuple(fleets.views.values())
    # The load of some of the routers would look like a fall of the load of all.
    if not views or fleets.failures:
        words = "some router does not answer" if views else "no router answers"
        taken = Step(current_split(spec, split), MoveReason.NO_DATA, words)
    else:
        decided = next_split(spec, split, views, samples, now, release_s=RELEASE_S)
        if decided is None:
            return None
        taken = decided
    known, move = before.rebalancing if before is not None else None, taken.split.move
    status = RebalancingStatus(
        reason=taken.reason.value,
        message=taken.detail,
        since=format_time(int(now)),
        pools=tuple(PoolShare(name=name, replicas=count) for name, count in taken.split.targets.items()),
        move=None
        if move is None
        else MoveStatus(
            source=move.source,
            target=move.target,
            phase=MovePhase(move.phase.value),
            begun=format_time(int(move.begun)),
            since=format_time(int(move.since)),
            message=move.detail,
        ),
    )
    if known is None or (known.reason, known.move, _about(known)) != (status.reason, status.move, _about(status)):
        return status
    # Words and time stay as they were while the reason does: a load that wavers would write the status of a fleet at
    # rest at every look.
    return status.model_copy(update={"message": known.message, "since": known.since})


def under_way(status: Status) -> bool:
    """Whether a replica is on its way between pools."""
    shared = status.rebalancing
    return shared is not None and shared.move is not None and shared.move.phase is not MovePhase.DONE


def _split(before: Status | None) -> Split:
    known = before.rebalancing if before is not None else None
    if known is None:
        return Split()
    move = known.move
    last = None
    if move is not None:
        phase = Phase(move.phase.value)
        last = Move(move.source, move.target, phase, parse_time(move.begun), parse_time(move.since), move.message)
    return Split({pool.name: pool.replicas for pool in known.pools}, last)


def _about(status: RebalancingStatus) -> str:
    """Which move the words are about."""
    return status.message.partition(" -> ")[2].partition(":")[0] if " -> " in status.message else ""
