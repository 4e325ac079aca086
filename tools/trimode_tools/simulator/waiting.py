"""What a simulated request is to the queue that production uses too.

Belongs here: its kind, its SLO state, and how long it may wait.
"""

from __future__ import annotations

from math import inf

from trimode_policy.fair_queue import FIRST_IN_LINE, FairQueue, Ticket
from trimode_policy.route import SloState
from trimode_policy.tier_fairness import slo_state_of
from trimode_tools.simulator.rows import Request
from trimode_tools.simulator.workload import Goal


def join(queue: FairQueue[Request], request: Request, goal: Goal, max_wait_s: float) -> Ticket[Request]:
    """It waits from its arrival on; one that has its first token never gives up and goes before all others."""
    at, tier = request.job.at, request.job.tier
    if request.first_at >= 0:
        return queue.enter(request, FIRST_IN_LINE, at, inf, kind=tier)
    return queue.enter(request, goal.priority, at, at + max_wait_s, kind=tier)


def is_late(request: Request, goal: Goal, now: float) -> bool:
    """Whether it can no longer meet its objective."""
    return slo_state(request, goal, now) is SloState.LATE


def slo_state(request: Request, goal: Goal, now: float) -> SloState:
    """What a request may ask for at `now`."""
    if request.first_at >= 0:
        return SloState.RESUMED
    return slo_state_of(now - request.job.at, goal.ttft_s)
