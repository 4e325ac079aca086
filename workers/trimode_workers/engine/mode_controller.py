"""Where the engine gets its points from: one controller per quality class, pins, and the curves they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from math import inf

from trimode_api.modes import OperatingPoint
from trimode_policy.capacity import Paces, PromptPrice, needed_seconds, paces, utilization
from trimode_policy.choose import Batch, PointDecision
from trimode_policy.curves import Curves, Observation
from trimode_policy.roofline import Roofline
from trimode_workers.engine.class_controller import ClassController
from trimode_workers.engine.messages import Configure, PointStats, Switched
from trimode_workers.engine.points import Points, lossy
from trimode_workers.engine.sequence import Sequence

Chooser = Callable[[Batch, Seq[OperatingPoint]], OperatingPoint]
"""What tests put in the policy's place: the load and the points allowed -> the point to run."""

_PREFILL_MEMORY = 1000
"""Prompt tokens over which their cost is averaged."""

PACES_S = 1.0
"""Seconds between two looks at all batches: that takes about a millisecond."""


@dataclass(frozen=True, slots=True)
class GroupCycle:
    """One cycle of one group: `tokens` emitted in `seconds` at a mean context. `piggybacked` prompt tokens ran along.
    `workloads`: name, requests and tokens of those that name one."""

    point: OperatingPoint
    requests: int
    context_tokens: float
    seconds: float
    tokens: int
    piggybacked: int
    workloads: tuple[tuple[str, int, int], ...]


class ModeController:
    """What the engine asks: the point of each sequence, and what the policy thinks. Learns from every cycle."""

    def __init__(self, roofline: Roofline, configure: Configure, now: float, chooser: Chooser | None) -> None:
        """`roofline`: what is believed of the machine before anything has run."""
        self.points = Points.parse(configure)
        self.curves = Curves(self.points.every, roofline)
        self._prefill_s = roofline.flops_per_token / roofline.flops_per_s
        self._chooser = chooser
        self._lossless, self._lossy = ClassController(self.curves, now), ClassController(self.curves, now)
        self._shown = self._lossless
        self._batch = Batch(0, 0.0)
        self.prompts = PromptPrice()
        self._context = 0.0
        self._paces: Paces = ()
        self._paces_at = float("-inf")
        self._now: dict[bool, OperatingPoint] = {}
        self.configure(configure)

    def configure(self, configure: Configure) -> None:
        """Raises ValueError where it contradicts itself; what was configured before then stays."""
        self.points = Points.parse(configure)
        self.version = configure.version
        self._lossless.configure(self.points.lossless, self.points, configure)
        self._lossy.configure(self.points.every, self.points, configure)
        self._now = {False: self._lossless.point, True: self._lossless.point}

    @property
    def point(self) -> OperatingPoint:
        """The point that runs now, of the class that the decision is shown for."""
        return self._now[self._shown is self._lossy]

    @property
    def decision(self) -> PointDecision:
        return self._shown.decision

    @property
    def switches(self) -> int:
        return self._lossless.state.switches + self._lossy.state.switches

    @property
    def switched(self) -> Switched | None:
        """The last switch of the class that the decision is shown for."""
        return self._shown.switched

    def age(self, now: float) -> float:
        """Seconds that the shown decision stands."""
        return self._shown.age(now)

    def estimates(self) -> list[PointStats]:
        """What the curves say of each point at the present batch; the unpredictable are left out."""
        running, found = max(self._batch.running, 1), []
        for point in self.points.every:
            seconds = self.curves.cycle_seconds(point, running, self._batch.context_tokens)
            if seconds is not None:
                tokens, seen = self.curves.tokens_per_cycle(point), self.curves.observed_cycles(point)
                found.append(PointStats(str(point), seconds, tokens, running * tokens / seconds, seen))
        return found

    def paces(self, most: int, now: float) -> Paces:
        """The pace of the lossless class at batches up to `most`, for the router; made anew once a second."""
        if not 0 <= now - self._paces_at < PACES_S:
            fixed = self._lossless.switching.fixed
            points = self._lossless.points if fixed is None else (fixed,)
            self._paces, self._paces_at = paces(self.curves, points, self._context, most), now
        return self._paces

    def utilization(self, sequences: Seq[Sequence], most: int, now: float) -> float:
        """Share of the room that those take who run and wait."""
        return utilization((s.tpot_s for s in sequences), self.paces(most, now), self.prompts.per_token, most)

    def decide(self, decode: Seq[Sequence], now: float) -> OperatingPoint:
        """Fix the points of this cycle. Pinned sequences decide nothing; a diffusion point only ever serves those
        that allow a lossy answer, the others follow the lossless class."""
        free = [s for s in decode if s.pin is None]
        # How much of a draft is accepted differs by the kind of text: the curves weigh what is known of each workload
        # by who is in the batch.
        self.curves.serves(Counter(s.workload for s in free))
        self._batch = load(free, self.prompts.per_token)
        # With nobody decoding the last one stays: reports of an idle engine tell its paces, too.
        self._context = self._batch.context_tokens or self._context
        if self._chooser is not None:
            self._now[False] = self._chooser(self._batch, self.points.lossless)
            self._now[True] = self._chooser(self._batch, self.points.every) if self.points.lossy else self._now[False]
            return self._now[False]
        willing = [s for s in free if s.lossy_ok] if self.points.lossy else []
        self._shown = self._lossy if willing and len(willing) == len(free) else self._lossless
        if self._shown is self._lossless:
            self._now[False] = self._now[True] = self._lossless.decide(self._batch, now)
        if willing:
            choice = self._lossy.decide(load(willing, self.prompts.per_token), now)
            # Two lossless points at once would split the batch, and each part would read the weights again.
            self._now[True] = choice if lossy(choice) or self._shown is self._lossy else self._now[False]
        return self.point

    def point_of(self, sequence: Sequence) -> OperatingPoint:
        """The point of this cycle for `sequence`."""
        return sequence.pin or self._now[sequence.lossy_ok]

    def prefilled(self, tokens: int, seconds: float) -> None:
        """Learn what a prompt token costs where prompts run apart."""
        self.prompts.spent(seconds, tokens, 0.0, seconds)
        weight = tokens / (tokens + _PREFILL_MEMORY)
        self._prefill_s += weight * (seconds / tokens - self._prefill_s)

    def observe(self, cycle: GroupCycle, now: float) -> float:
        """Learn from one group's cycle; returns the seconds it took to decode. What its prompt tokens would have cost
        apart, as they do beside other points, is taken off, so that points are compared by decoding alone."""
        whole, prompts, point = cycle.seconds, cycle.piggybacked, cycle.point
        decoded = cycle.requests * point.width * point.forwards_per_cycle
        # Prefill must not count as decoding: policies that let it collapse when prompts arrive
        # (vllm-project/vllm#49548).
        seconds = max(whole - prompts * self._prefill_s, whole * decoded / (decoded + prompts))
        self.prompts.spent(whole - seconds, prompts, cycle.tokens, whole)
        seen = Observation(point, cycle.requests, cycle.context_tokens, 0, seconds, cycle.tokens, cycle.workloads)
        self.curves.observe(seen, now)
        return seconds


def load(sequences: Seq[Sequence], prompt_s: float = 0.0) -> Batch:
    """What the policy is told of those who decode. `prompt_s`: seconds spent on prompts per token decoded."""
    count = len(sequences)
    if not count:
        return Batch(0, 0.0)
    strictest = min((s.tpot_s for s in sequences if s.tpot_s > 0), default=inf)
    context = sum(s.cached for s in sequences) / count
    return Batch(count, context, needed_seconds(strictest, count, prompt_s))
