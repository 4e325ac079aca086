"""What all policies of one comparison share.

How a policy behaves in it is in `policies`.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimode_api.modes import AR, Mode, OperatingPoint
from trimode_policy.acceptance import prior_tokens
from trimode_policy.roofline import Roofline
from trimode_tools.simulator.cost_model import Truth
from trimode_tools.simulator.ports import Outage
from trimode_tools.simulator.rows import EngineLimits
from trimode_tools.simulator.workload import Goal


@dataclass(frozen=True, slots=True)
class Scenario:
    """`points`: those an engine may run, AR first. `prior`: what the policy believes of the hardware at the start.

    `switch_s`: 0 where engines change their point between two cycles; else seconds a replica is away to change its
    mode. `max_wait_s`, `max_queued`, `refuse_late`: admission. `margin`, `min_dwell_s`: switching.
    """

    truth: Truth
    prior: Roofline
    goals: tuple[Goal, ...]
    points: tuple[OperatingPoint, ...]
    replicas: int
    limits: EngineLimits
    switch_s: float = 0.0
    outages: tuple[Outage, ...] = ()
    max_wait_s: float = 2.0
    max_queued: int = 1024
    refuse_late: bool = False
    margin: float = 0.05
    min_dwell_s: float = 0.2
    stale_s: float = 3.0
    dead_s: float = 10.0

    def __deepcopy__(self, memo: object) -> Scenario:
        return self

    @property
    def free(self) -> bool:
        """Whether engines switch between two cycles at no cost."""
        return self.switch_s == 0.0

    @property
    def speculative(self) -> tuple[OperatingPoint, ...]:
        """The self-speculation points."""
        return tuple(point for point in self.points if point.mode is Mode.SELF_SPECULATION)

    def crossover(self, point: OperatingPoint, context_tokens: float = 1000.0) -> int:
        """The batch from which on AR is faster than `point` by the prior: a hand-set threshold comes from here."""
        tokens = prior_tokens(point)
        for batch in range(1, self.limits.rows + 1):
            if self.prior.seconds(AR, batch, context_tokens) * tokens < self.prior.seconds(
                point, batch, context_tokens
            ):
                return batch
        return self.limits.rows + 1

    def carried_rps(self, prompt: float, output: float) -> float:
        """About how many requests per second the fleet carries within the strictest objective: the scale of loads.

        Largest throughput over points and batches whose pace, stretched by the prefills in between, meets it.
        """
        hardware, context = self.truth.hardware, prompt + output / 2
        tpot = min(goal.tpot_s for goal in self.goals)
        rows = max(1, int(min(self.limits.rows, self.limits.capacity / context)))
        prefill = hardware.prefill_seconds(int(prompt))
        best = 0.0
        for point in self.points:
            rates = self.truth.tokens(point, 0.0)
            rate = sum(rates) / len(rates)
            for batch in range(1, rows + 1):
                cycle = hardware.seconds(point, batch, context)
                decode = output * cycle / (batch * rate)
                if batch == 1 or cycle / rate * (1 + prefill / decode) <= tpot:
                    best = max(best, 1.0 / (decode + prefill))
        return self.replicas * best
