"""Asks the policy for the operating point of the next cycle, for one quality class.

Nothing here predicts or compares.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from trimode_api.modes import AR, OperatingPoint
from trimode_policy.choose import Batch, PointDecision, PointState, Reason, Switching, choose_point
from trimode_policy.curves import Curves
from trimode_policy.profiles import PROFILES, known_gpu
from trimode_policy.roofline import ModelShape, Roofline
from trimode_workers.engine.messages import Configure, Switched
from trimode_workers.engine.points import Points
from trimode_workers.model.config import ModelConfig

# A question takes 17 us at six points on one core (docs/policy.md), a seventh of what planning a cycle of AR takes.
ASK_EVERY = 4
"""Cycles between two questions while the batch stays the same size: a dwell time spans many."""
STEADY_S, JUMP = 2.0, 2.0
"""Seconds over which the batch is averaged for decisions; the ratio between two batches that is a jump."""
_CPU_FLOPS_PER_S, _CPU_BYTES_PER_S, _CPU_OVERHEAD_S = 8e10, 1.5e10, 8e-4
"""Prior for eager torch on two cores; only ratios matter, measurements correct the rest."""


class ClassController:
    """Decides for one quality class; keeps the policy's state between questions."""

    def __init__(self, curves: Curves, now: float) -> None:
        self._curves, self._started = curves, now
        self.points: tuple[OperatingPoint, ...] = (AR,)
        self.switching = Switching()
        self.decision = PointDecision(AR, Reason.IDLE, "nothing has run yet")
        self.state = PointState.initial(AR, now)
        self.point = AR
        self.switched: Switched | None = None
        self._asked, self._age, self._fresh = -1, ASK_EVERY, True
        self._load, self._load_at = 0.0, now

    def configure(self, points: Seq[OperatingPoint], configured: Points, c: Configure) -> None:
        """Use `points`. Where this class may not use the fixed or fallback point, the safest one replaces it."""
        self.points = tuple(points) or (AR,)
        safest = AR if AR in self.points else self.points[0]
        fallback = configured.fallback if configured.fallback in self.points else safest
        fixed = configured.fixed if configured.fixed in self.points else None
        if configured.fixed is not None and fixed is None:
            fixed = fallback
        self.switching = Switching(c.margin_percent / 100, c.min_dwell_s, fallback, fixed, c.dry_run)
        # Nothing has been asked yet: an engine starts on a policy that holds the place until a router brings the real
        # one, and what that fell back to is no decision.
        if self._fresh:
            self.state = PointState.initial(fallback, self._started)
            self.decision, self.point = PointDecision(fallback, Reason.IDLE, "nothing has run yet"), fallback
        self._age = ASK_EVERY

    def decide(self, batch: Batch, now: float) -> OperatingPoint:
        """The point to run now."""
        self._age += 1
        # The averaged batch, not the momentary one: requests that end and begin at a constant load would make switches.
        # A jump, or an end of all load, counts at once.
        running, old = batch.running, self._load
        weight = min(1.0, max(0.0, now - self._load_at) / STEADY_S)
        near = 0 < running < JUMP * old + 1 and old < JUMP * running + 1
        self._load = old + weight * (running - old) if near else float(running)
        self._load_at = now
        batch = Batch(round(self._load) or running, batch.context_tokens, batch.needed_s)
        # A probe is asked about every cycle: a hopeless one must end after its first, which may be a slow one.
        if self._age >= ASK_EVERY or batch.running != self._asked or self.decision.reason is Reason.PROBE:
            self._age, self._asked, self._fresh = 0, batch.running, False
            before = self.state
            self.decision, self.state = choose_point(batch, self.points, self._curves, before, self.switching, now)
            if self.state.switches != before.switches:
                words = self.decision.reason.value, self.decision.detail
                self.switched = Switched(str(before.point), str(self.state.point), *words)
            self.point = self.switching.fallback if self.switching.dry_run else self.decision.point
        return self.point

    def age(self, now: float) -> float:
        """Seconds since the chosen point changed."""
        return now - max(self.state.since, self._started)


def prior(config: ModelConfig, gpu: str = "", bytes_per_value: int = 4) -> Roofline:
    """The roofline of `config` on the GPU of that name (an unknown one is taken for an H100), or on a small CPU."""
    wide, head = config.hidden_size, config.head_dim
    layer = wide * head * (2 * config.heads + 2 * config.kv_heads) + 3 * wide * config.intermediate_size
    device = (known_gpu(gpu) or PROFILES["H100"]) if gpu else None
    parameters = config.layers * layer + config.vocab_size * wide
    return Roofline.for_model(
        ModelShape(parameters, config.layers, config.kv_heads, head, bytes_per_value),
        flops_per_s=device.flops_per_s if device else _CPU_FLOPS_PER_S,
        bytes_per_s=device.bytes_per_s if device else _CPU_BYTES_PER_S,
        overhead_s=device.overhead_s if device else _CPU_OVERHEAD_S,
    )
