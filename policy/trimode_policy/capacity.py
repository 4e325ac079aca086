"""How many requests a replica can run at once so that each still gets its tokens in time.

Belongs here: from a replica's curves to the numbers that `route` compares. A replica reports its `paces` and the price
of prompts; the router turns them into the requests of each tier that it can run at once.

With b requests decoding, each waits `pace(b)` per token for decoding, and for the prompts of those that arrive after
it: in a steady state each of the b brings its own prompt, so the time between two tokens of one request is
`pace(b) + b * (prompt seconds per token decoded)`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from trimode_api.modes import OperatingPoint
from trimode_policy.curves import Curves

TARGET_UTILIZATION = 0.7
"""Share of its capacity that a replica is to use: below 1, because a new replica takes minutes to start."""


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """`utilization`: share of its capacity in use, of each replica that reports. `running`, `ordered`: replicas
    that run, and those asked for, pending ones included. `lowest`, `highest`: bounds. `wanted`: a request waits
    for a replica of a pool that has none."""

    utilization: Sequence[float]
    running: int
    ordered: int
    lowest: int
    highest: int
    wanted: bool = False


# No delay and no memory of its own: Ray Serve applies its upscale and downscale delays to what a policy wants, and two
# such delays add up. Two controllers of one number oscillate (ray issue 63279: between 500 and 2,000 replicas).
def size_pool(load: PoolLoad) -> int:
    """Replicas that bring the present load to the target, within the bounds.

    Replicas that run and do not report count like the others; those that start carry nothing yet, so they are not
    ordered twice. Without figures the number stays as it is.
    """
    if not load.utilization:
        return _bounded(load.ordered, load)
    whole = sum(load.utilization) / len(load.utilization) * max(load.running, len(load.utilization))
    # Rounded first: 0.7 / 0.7 must not become two replicas by a rounding error.
    return _bounded(ceil(round(whole / TARGET_UTILIZATION, 6)), load)


def _bounded(wanted: int, load: PoolLoad) -> int:
    return max(load.lowest, int(load.wanted), min(wanted, load.highest))


SLACK = 0.8
"""Share of an objective that the prediction may use: requests differ, and prompts come in bunches."""
# 0.9 cost 3 to 12 % of goodput on four simulated loads, because prompts in bunches pushed requests over their
# objective; 0.75 was 0.6 to 1.9 % worse on five of six (docs/policy.md, docs/simulator.md).
MEMORY_S = 20.0
"""Busy seconds over which the price of prompts is averaged."""
# Following the price within 2 s was tried on the simulator and gained nothing.

PROGRESS_S = 2.0
"""Seconds with prompts over which their progress is averaged: it changes with the batch that decodes beside them."""

Paces = tuple[tuple[int, float], ...]
"""(requests decoding, seconds per token of one of them), ascending in both."""


@dataclass(slots=True)
class PromptPrice:
    """Mutable: what prompts cost recently; all three counts fade. Nothing measured means free."""

    seconds: float = 0.0
    prompts: float = 0.0
    decoded: float = 0.0
    advanced: float = 0.0
    elapsed: float = 0.0

    def progressed(self, prompts: float, elapsed_s: float) -> None:
        """`prompts` tokens of prompts were computed within `elapsed_s`, decoding included."""
        keep = max(0.0, 1.0 - elapsed_s / PROGRESS_S)
        self.advanced = self.advanced * keep + prompts
        self.elapsed = self.elapsed * keep + elapsed_s

    @property
    def progress_per_s(self) -> float:
        """Prompt tokens per second while some are computed, beside those who decode; 0 where none was measured."""
        return self.advanced / self.elapsed if self.elapsed > 0 else 0.0

    def spent(self, seconds: float, prompts: float, decoded: float, busy_s: float) -> None:
        """`busy_s` of work, `seconds` of it on `prompts` tokens of prompts, in which `decoded` tokens were emitted."""
        # By busy seconds and not by the clock: an idle hour says nothing about what prompts cost.
        keep = max(0.0, 1.0 - busy_s / MEMORY_S)
        self.seconds = self.seconds * keep + seconds
        self.prompts = self.prompts * keep + prompts
        self.decoded = self.decoded * keep + decoded

    @property
    def per_token(self) -> float:
        """Seconds on prompts per token decoded."""
        return self.seconds / self.decoded if self.decoded > 0 else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Prompt tokens per second spent on them, 0 where none was measured."""
        return self.prompts / self.seconds if self.seconds > 0 else 0.0


def needed_seconds(tpot_s: float, running: int, prompt_s: float) -> float:
    """Seconds per token in which `running` requests have to decode to keep `tpot_s`, prompts allowed for."""
    # A mean over the answer and not the gap between two chunks: speculation emits several tokens at once, so a gap of
    # 40 ms may well be 20 ms per token.
    return SLACK * tpot_s - running * prompt_s


def paces(curves: Curves, points: Sequence[OperatingPoint], context_tokens: float, most: int) -> Paces:
    """The pace of the best of `points` at batches up to `most`, or nothing where it cannot be predicted."""
    found: list[tuple[int, float]] = []
    slowest = 0.0
    # The powers of two below `most`, at which durations are learned (`speed.bucket_of`), and `most`: nothing more is
    # known in between.
    for batch in (*(1 << power for power in range((most - 1).bit_length())), most):
        estimates = curves.estimates(points, batch, context_tokens, None)
        if not estimates:
            return ()
        # Made monotonic: a cell that was measured in a lucky moment would otherwise promise that more requests go
        # faster, and `max_concurrency_within` looks for the first batch that is too slow.
        slowest = max(slowest, min(estimate.pace for estimate in estimates))
        found.append((batch, slowest))
    return tuple(found)


def max_concurrency_within(known: Paces, prompt_s: float, tpot_s: float, most: int) -> int:
    """Most requests, up to `most`, that each get a token every `tpot_s`; 0 where not even one alone does.

    `prompt_s`: seconds spent on prompts per token decoded. Without paces nothing is known, and `most` is the answer.
    """
    if not known:
        return most
    batch, pace = known[0]
    if pace > needed_seconds(tpot_s, batch, prompt_s):
        return 0
    for (b0, p0), (b1, p1) in pairwise(known):
        if p1 > needed_seconds(tpot_s, b1, prompt_s):
            left = needed_seconds(tpot_s, b0, prompt_s) - p0
            return min(most, b0 + int(left / ((p1 - p0) / (b1 - b0) + prompt_s)))
    return most


def utilization(tpots: Iterable[float], known: Paces, prompt_s: float, most: int) -> float:
    """Share of its capacity that a replica's requests take, 1 where one more would make a request miss its objective.

    `tpots`: the objective of each request, 0 for none. One takes as much as if all were like it; one whose objective
    cannot be kept even alone, or that has none, takes a place among `most`.
    """
    # By the tiers' objectives rather than by rows: a replica that is reserved for a strict tier runs out of pace long
    # before it runs out of rows, and the autoscaler has to see that.
    used = 0.0
    for tpot_s, count in Counter(tpots).items():
        concurrency = max_concurrency_within(known, prompt_s, tpot_s, most) if tpot_s > 0 else most
        used += count / (concurrency or most)
    return used
