"""The line in front of the replicas.

Belongs here: order. Those in mid-sentence go first, then those who can still meet their objective by priority and age,
then those who are late. Who does not fit anywhere is passed by the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from trimode_policy.route import SloState
from trimode_policy.tier_fairness import claim
from trimode_tools.simulator.rows import Request
from trimode_tools.simulator.workload import Goal


@dataclass(slots=True)
class Line:
    """Mutable. Per tier, and for those resumed and those late, in order of arrival."""

    goals: Sequence[Goal]
    resumed: deque[Request] = field(default_factory=deque)
    tiers: list[deque[Request]] = field(default_factory=list)
    late: deque[Request] = field(default_factory=deque)
    order: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tiers = [deque() for _ in self.goals]
        self.order = sorted(range(len(self.goals)), key=lambda tier: -self.goals[tier].priority)

    def __len__(self) -> int:
        return len(self.resumed) + len(self.late) + sum(map(len, self.tiers))

    def __iter__(self) -> Iterator[Request]:
        for line in (self.resumed, *self.tiers, self.late):
            yield from line

    def join(self, request: Request) -> None:
        """At the end of the line it belongs to."""
        if request.first_at >= 0:
            self.resumed.append(request)
        else:
            self.tiers[request.job.tier].append(request)

    def below(self, priority: int) -> int:
        """How many wait whose priority is lower."""
        return sum(len(line) for tier, line in enumerate(self.tiers) if self.goals[tier].priority < priority)

    def oldest(self, tier: int) -> Request | None:
        """Who of this tier has waited longest without a token."""
        late = next((request for request in self.late if request.job.tier == tier), None)
        return late or next(iter(self.tiers[tier]), None)

    def leave(self, request: Request) -> None:
        """Take one out, who is among the first to wait."""
        line = self.late if request in self.late else self.tiers[request.job.tier]
        line.remove(request)

    def place(self, put: Callable[[Request], bool], now: float) -> None:
        """Offer `put` the head of each line, and the next one as long as it takes them."""
        for tier, line in enumerate(self.tiers):
            while line and claim_of(line[0], self.goals[tier], now) == SloState.LATE:
                self.late.append(line.popleft())
        for line in (self.resumed, *(self.tiers[tier] for tier in self.order), self.late):
            while line and put(line[0]):
                line.popleft()

    def expire(self, before: float) -> list[Request]:
        """Take out those who arrived before then, but never one that has its first token."""
        gone = []
        for line in (*self.tiers, self.late):
            while line and line[0].job.at < before:
                gone.append(line.popleft())
        return gone


def claim_of(request: Request, goal: Goal, now: float) -> SloState:
    """What a request may ask for at `now`."""
    if request.first_at >= 0:
        return SloState.RESUMED
    return claim(now - request.job.at, goal.ttft_s)
