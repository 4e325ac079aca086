"""When a resource is looked at again.

Belongs here: the one decision, pure. Watches tell of changes at once; the routers are heard by asking only.
"""

from __future__ import annotations

from trimode_api.status import Status
from trimode_operator.rebalancing import under_way
from trimode_operator.status import condition
from trimode_operator.times import read
from trimode_operator.verdict import TRUE, ConditionType, Reason

AT_ONCE_S, SOON_S, STEADY_S = 0.5, 2.0, 10.0
LIVELY_S = 90.0
"""How long after its last transition a resource that is not ready is looked at soon, not steadily."""


def next_look_s(status: Status, now: float) -> float:
    """Seconds until the next look at a resource that nothing happens to."""
    if under_way(status):
        return SOON_S
    ready = condition(status, ConditionType.READY)
    if ready is None or ready.status is TRUE:
        return STEADY_S
    moved = max((read(one.last_transition_time) for one in status.conditions), default=0.0)
    if now - moved >= LIVELY_S:
        return STEADY_S
    return AT_ONCE_S if ready.reason == Reason.POLICY_ROLLOUT else SOON_S
