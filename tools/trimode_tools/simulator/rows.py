"""What an engine holds: requests under way, its limits, and the macro-step it is in.

The engine itself is in `engine`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from trimode_api.modes import OperatingPoint
from trimode_policy.fair_queue import FIRST_IN_LINE, FairQueue, Ticket
from trimode_policy.first_token import Forecast
from trimode_policy.route import SloState
from trimode_policy.tier_fairness import slo_state_of
from trimode_tools.simulator.workload import Goal, Job


@dataclass(slots=True)
class Request:
    """A job under way. `emitted`: tokens that survived a preemption or a kill. `missing`: tokens to prefill; `known`:
    prompt tokens that its replica need not. `late`: its first token is late for certain, as the router found at the
    door. `sent`: when it was sent first, and what was predicted then. `prompt_s`: seconds that its prompt takes, as
    the queue is told."""

    job: Job
    order: int
    emitted: float = 0.0
    first_at: float = -1.0
    missing: int = 0
    known: int = 0
    start: float = 0.0
    late: bool = False
    sent: tuple[float, Forecast] | None = None
    prompt_s: float = 0.0

    @property
    def cached(self) -> int:
        """Tokens in the cache as it joins."""
        return self.job.prompt + int(self.emitted)


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """`rows`: requests at a time. `capacity`: cached tokens over all rows. `prefill_budget`: prompt tokens per cycle.

    `kept`: most tokens of past requests kept for those that go on from there, in what of `capacity` is free.
    `noise`: standard deviation of the logarithm of one cycle's seconds. `longest_s`: most seconds in one macro-step.
    """

    rows: int
    capacity: float
    prefill_budget: int = 2048
    noise: float = 0.05
    longest_s: float = 0.25
    kept: int = 0


@dataclass(slots=True)
class Step:
    """What is running: `cycles` of `seconds` each since `began`; `point` is None while only prompts are computed."""

    began: float
    seconds: float
    cycles: int
    point: OperatingPoint | None
    prefill: int
    prefill_share: float
    mean_s: float
    version: int

    @property
    def ends(self) -> float:
        """When the last cycle is over."""
        return self.began + self.cycles * self.seconds


@dataclass(slots=True)
class PrefixCache:
    """Mutable. `most`: tokens in all; the least recently used conversation is dropped first."""

    most: int
    tokens: int = 0
    chats: dict[int, int] = field(default_factory=dict)

    def of(self, job: Job) -> int:
        """Tokens of the job's prompt that need not be computed: at least one must be, to have something to go on."""
        return min(self.chats.get(job.chat, 0), job.shared, job.prompt - 1) if job.chat else 0

    def add(self, job: Job, room: float) -> None:
        """A request is done: its prompt and answer are kept, in place of others where memory is short.

        `room`: tokens of memory that no running request uses.
        """
        if not (job.chat and self.most):
            return
        said = job.prompt + job.output
        self.tokens += said - self.chats.pop(job.chat, 0)
        self.chats[job.chat] = said
        while self.tokens > min(self.most, room) and self.chats:
            oldest = next(iter(self.chats))
            self.tokens -= self.chats.pop(oldest)

    def clear(self) -> None:
        """The replica died."""
        self.chats.clear()
        self.tokens = 0


def join(queue: FairQueue[Request], request: Request, goal: Goal, max_wait_s: float) -> Ticket[Request]:
    """It waits from its arrival on; one that has its first token never gives up and goes before all others."""
    at, tier = request.job.at, request.job.tier
    if request.first_at >= 0:
        return queue.enter(request, FIRST_IN_LINE, at, inf, kind=tier)
    return queue.enter(request, goal.priority, at, at + max_wait_s, kind=tier, prompt_s=request.prompt_s)


def is_late(request: Request, goal: Goal, now: float) -> bool:
    """Whether it can no longer meet its objective."""
    return slo_state(request, goal, now) is SloState.LATE


def slo_state(request: Request, goal: Goal, now: float) -> SloState:
    """What a request may ask for at `now`."""
    if request.first_at >= 0:
        return SloState.RESUMED
    if request.late:
        return SloState.LATE
    return slo_state_of(now - request.job.at, goal.ttft_s)
