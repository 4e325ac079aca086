"""What an engine holds: requests under way, its limits, and the macro-step it is in.

Belongs here: values without behaviour. The engine itself is in `engine`.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimode_api.modes import OperatingPoint
from trimode_tools.simulator.workload import Job


@dataclass(slots=True)
class Request:
    """A job under way. `emitted`: tokens that survived a preemption or a kill. `missing`: tokens to prefill; `known`:
    prompt tokens that its replica need not."""

    job: Job
    order: int
    emitted: float = 0.0
    first_at: float = -1.0
    missing: int = 0
    known: int = 0
    start: float = 0.0

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
