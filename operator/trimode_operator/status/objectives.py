"""How tiers' objectives are met, from the routers' counters.

Pure: the window over samples. Routers count from their start; what counts is the increase in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimode_operator.observe.fleets import Address, Fleets

WINDOW_S = 300.0


@dataclass(frozen=True, slots=True)
class Tally:
    """Answers that an objective applies to, and those that met it."""

    answers: int
    met: int

    def since(self, earlier: Tally | None) -> Tally:
        """The increase; all of it where the router has restarted."""
        if earlier is None or self.answers < earlier.answers or self.met < earlier.met:
            return self
        return Tally(self.answers - earlier.answers, self.met - earlier.met)


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters of every router that answered at one moment (seconds)."""

    at: float
    tallies: Mapping[tuple[Address, str], Tally]


def sample_of(fleets: Fleets, now: float) -> Sample:
    """What the routers counted."""
    return Sample(
        now,
        {
            (router, tier.name): Tally(tier.answers, tier.met)
            for router, view in fleets.views.items()
            for tier in view.objectives
        },
    )


def kept(samples: Sequence[Sample], new: Sample, window_s: float = WINDOW_S) -> tuple[Sample, ...]:
    """The samples to keep: those of the window, and the last one before it to count from."""
    every = (*samples, new)
    first = max((i for i, sample in enumerate(every) if new.at - sample.at >= window_s), default=0)
    return every[first:]


def attainment(samples: Sequence[Sample], tiers: Sequence[str]) -> dict[str, int | None]:
    """By tier: percent (rounded down) of the answers since the first sample that met its objective; None without any.

    A router that is new to a sample counts from there on: what it counted before may be older than the window.
    """
    percents: dict[str, int | None] = {}
    for tier in tiers:
        answers = met = 0
        last: dict[Address, Tally] = {}
        for sample in samples:
            counted = {router: tally for (router, name), tally in sample.tallies.items() if name == tier}
            for router in counted.keys() & last.keys():
                grown = counted[router].since(last[router])
                answers, met = answers + grown.answers, met + grown.met
            last |= counted
        # Rounded down: 94.9 % does not meet an objective of 95.
        percents[tier] = 100 * met // answers if answers else None
    return percents
