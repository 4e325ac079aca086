"""What choosing a point is asked with, what it answers, and what is remembered in between.

Belongs here: frozen values only. The rule itself is in `choose`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from trimode_api.modes import AR, OperatingPoint
from trimode_policy.probing import Probe, ProbeBudget
from trimode_policy.values import value


@dataclass(frozen=True, slots=True)
class Switching:
    """How eagerly to switch.

    `margin`: predicted gain (share of seconds per token) below which a point is kept. `min_dwell_s`: seconds
    between two switches. `fallback`: the point to run when nothing can be predicted. `fixed`: run this and nothing
    else. `dry_run`: the caller shows the decision and does not follow it; then nothing is probed.
    Raises ValueError for a negative margin or dwell.
    """

    margin: float = 0.05
    min_dwell_s: float = 0.5
    fallback: OperatingPoint = AR
    fixed: OperatingPoint | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise ValueError(f"switching: margin is {self.margin}, must be at least 0 and below 1")
        if not 0 <= self.min_dwell_s < float("inf"):
            raise ValueError(f"switching: min_dwell_s is {self.min_dwell_s}, must be a finite number of at least 0")


@value
class Batch:
    """The load that decides: decoding requests (prefills never counted) and their mean cached tokens.

    `needed_s`: seconds per token in which the strictest of them keeps its objective, prompts of others allowed for.
    """

    running: int
    context_tokens: float
    needed_s: float = inf


class Reason(StrEnum):
    """Why a point is run. `PredictedGain` is the only one that is a switch by prediction."""

    PREDICTED_GAIN = "PredictedGain"
    KEPT = "Kept"
    WITHIN_MARGIN = "WithinMargin"
    DWELL = "Dwell"
    UNSURE = "Unsure"
    PROBE = "Probe"
    NO_DATA = "NoData"
    MANUAL = "Manual"
    IDLE = "Idle"
    NOT_ALLOWED = "NotAllowed"


@value
class PointDecision:
    """The point for the next cycles, why, one sentence with numbers, and the gain over what ran before (share)."""

    point: OperatingPoint
    reason: Reason
    detail: str
    predicted_gain: float = 0.0


@value
class PointState:
    """What the next decision has to know of the previous ones; opaque to callers but for the counters.

    `point`: the chosen one (a probe does not change it). `since`: when it was chosen. `switches` and `probes`
    count since the start; `switches` leaves probes out. `at_batch` and `left`: the load of the last switch by
    prediction, and where it came from. `lost_s`: seconds lost recently against the best other point, as of `asked_at`.
    `recent`: switches, each counting less with time, as of `since`.
    """

    point: OperatingPoint
    since: float
    probe: Probe | None = None
    budget: ProbeBudget = field(default_factory=ProbeBudget)
    switches: int = 0
    probes: int = 0
    at_batch: int = 0
    left: OperatingPoint | None = None
    lost_s: float = 0.0
    asked_at: float | None = None
    recent: float = 0.0

    @classmethod
    def initial(cls, fallback: OperatingPoint, now: float) -> PointState:
        """A fresh engine: runs `fallback`, free to switch at once, with a full budget for probes."""
        return cls(point=fallback, since=now - 1e6, budget=ProbeBudget(at=now))

    def with_loss(self, lost_s: float, now: float) -> PointState:
        """The same with another `lost_s`, as of `now`."""
        # Written out: `replace` would take a fifth of a decision's time, and this runs in each of them.
        return PointState(
            self.point, self.since, self.probe, self.budget, self.switches, self.probes, self.at_batch, self.left,
            lost_s, now, self.recent,
        )  # fmt: skip
