"""Which operating point an engine runs next.

Belongs here: the decision of one replica between two cycles. What it predicts with is in `curves`, when it spends
cycles on looking is in `probing`.

At one batch the point with the fewest predicted seconds per token is best for every user and for the machine
(tokens per second of the machine = batch x tokens per second of a user), so the rule is an argmin, held back by a
margin, by dwell time and by doubt: a point that was not measured lately is tried for a few cycles first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import log, sqrt

from trimode_api.modes import AR, Mode, OperatingPoint

from .curves import Curves, Estimate
from .probing import Probe, Purse, candidate, hopeless, regret_seconds

SURE = 1.0
"""A switch needs a predicted gain of this many standard deviations of doubt."""
PATIENCE_S = 20.0
"""The margin shrinks with the time a point is held, to half of it after this long and never below `LEAST_MARGIN`."""
LEAST_MARGIN = 0.4
"""Smallest share of the margin that patience leaves: a lasting small loss is not held for ever."""


@dataclass(frozen=True, slots=True)
class Switching:
    """How eagerly to switch.

    `margin`: predicted gain (share of seconds per token) below which a point is kept. `min_dwell_s`: seconds
    between two switches. `fallback`: the point to run when nothing can be predicted. `fixed`: run this and nothing
    else. `dry_run`: read by the caller, who then shows the decision and does not follow it.
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


@dataclass(frozen=True, slots=True)
class Batch:
    """The load that decides: decoding requests (prefills never counted) and their mean cached tokens."""

    running: int
    context_tokens: float


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


@dataclass(frozen=True, slots=True)
class PointDecision:
    """The point for the next cycles, why, one sentence with numbers, and the gain over what ran before (share)."""

    point: OperatingPoint
    reason: Reason
    detail: str
    predicted_gain: float = 0.0


@dataclass(frozen=True, slots=True)
class PointState:
    """What the next decision has to know of the previous ones; opaque to callers but for the counters.

    `point`: the chosen one (a probe does not change it). `since`: when it was chosen. `switches` and `probes`
    count since the start; `switches` leaves probes out.
    """

    point: OperatingPoint
    since: float
    probe: Probe | None = None
    purse: Purse = field(default_factory=Purse)
    switches: int = 0
    probes: int = 0
    ar_batch: int = 0

    @classmethod
    def initial(cls, fallback: OperatingPoint, now: float) -> PointState:
        """A fresh engine: runs `fallback`, free to switch at once, with a full purse for exploring."""
        return cls(point=fallback, since=now - 1e6, purse=Purse(at=now))


Outcome = tuple[PointDecision, PointState]


def choose_point(
    batch: Batch,
    points: Sequence[OperatingPoint],
    curves: Curves,
    state: PointState,
    switching: Switching,
    now: float,
) -> Outcome:
    """The operating point for the next cycle and the state to pass next time. Ask before every cycle.

    `points`: those the pool and the batch allow. Never returns a point that is neither in `points` nor the
    fallback nor fixed; never one that cannot be predicted, but for the fallback.
    """
    state = replace(state, purse=state.purse.earn(now, busy=batch.running > 0))
    if switching.fixed is not None:
        return _move(state, switching.fixed, Reason.MANUAL, f"fixed to {switching.fixed}", now)
    if batch.running < 1:
        kept = state.point if state.point in points else switching.fallback
        return _move(replace(state, probe=None), kept, Reason.IDLE, "no request is decoding", now)
    known = {e.point: e for e in curves.estimates(points, batch.running, batch.context_tokens, now)}
    if switching.fallback in points and switching.fallback not in known:
        detail = f"{switching.fallback} cannot be predicted, so nothing can be compared with it"
        return _move(replace(state, probe=None), switching.fallback, Reason.NO_DATA, detail, now)
    if state.point not in points and known:
        best = min(known.values(), key=_pace)
        detail = f"{state.point} is not allowed here; {best.point} is the fastest of {len(points)} points"
        return _move(replace(state, probe=None), best.point, Reason.NOT_ALLOWED, detail, now)
    if state.point not in known:
        detail = f"{state.point} cannot be predicted at batch {batch.running}"
        return _move(replace(state, probe=None), switching.fallback, Reason.NO_DATA, detail, now)
    if state.probe is not None:
        decision = _go_on_probing(batch, known, curves, state, now)
        if decision is not None:
            return decision
        state = _settle(state, known, now)
    return _compare(batch, known, curves, state, switching, now)


def _compare(
    batch: Batch,
    known: dict[OperatingPoint, Estimate],
    curves: Curves,
    state: PointState,
    switching: Switching,
    now: float,
) -> Outcome:
    """Switch, probe or keep, now that nothing stands in the way of comparing."""
    here = known[state.point]
    best = min((e for e in known.values() if _may_replace(e, here, batch, state)), key=_pace)
    gain = _pace(here) / _pace(best) - 1.0
    probe = candidate(here, known.values(), switching.margin, batch.running, state.purse, now)
    if gain <= _margin(switching, now - state.since):
        if probe is not None:
            return _start_probe(probe, here, curves, state, now)
        return _keep(state, best, gain, batch)
    if log(1.0 + gain) < SURE * sqrt(best.variance + here.variance):
        if probe is not None:
            return _start_probe(probe, here, curves, state, now)
        detail = f"{best.point} may be {gain:.0%} faster than {state.point} at batch {batch.running}, not sure yet"
        return PointDecision(state.point, Reason.UNSURE, detail, gain), state
    if now - state.since < switching.min_dwell_s:
        detail = f"{best.point} looks {gain:.0%} faster, {state.point} is held for {switching.min_dwell_s:g} s"
        return PointDecision(state.point, Reason.DWELL, detail, gain), state
    detail = (
        f"{best.point} {1e3 * _pace(best):.2f} ms per token, {state.point} {1e3 * _pace(here):.2f} ms "
        f"at batch {batch.running}"
    )
    state = replace(state, ar_batch=batch.running)
    return _move(state, best.point, Reason.PREDICTED_GAIN, detail, now, gain)


def _may_replace(other: Estimate, here: Estimate, batch: Batch, state: PointState) -> bool:
    """More load alone never leads from AR back to speculation: beyond the batch at which AR was chosen, only a
    measurement at this very batch does."""
    if here.point.mode is not Mode.AR or other.point.mode is Mode.AR:
        return True
    return state.ar_batch == 0 or batch.running <= state.ar_batch or other.seen > 0


def _keep(state: PointState, best: Estimate, gain: float, batch: Batch) -> Outcome:
    if best.point == state.point:
        detail = f"{state.point} is the fastest at batch {batch.running}: {1e3 * _pace(best):.2f} ms per token"
        return PointDecision(state.point, Reason.KEPT, detail), state
    detail = f"{best.point} is {gain:.1%} faster than {state.point} at batch {batch.running}, within the margin"
    return PointDecision(state.point, Reason.WITHIN_MARGIN, detail, gain), state


def _start_probe(target: Estimate, here: Estimate, curves: Curves, state: PointState, now: float) -> Outcome:
    probe = Probe(target.point, curves.observed_cycles(target.point), target.seen == 0, 0)
    detail = _probe_detail(target, here)
    state = replace(state, probe=probe, probes=state.probes + 1)
    return PointDecision(target.point, Reason.PROBE, detail, _pace(here) / _pace(target) - 1.0), state


def _go_on_probing(
    batch: Batch, known: dict[OperatingPoint, Estimate], curves: Curves, state: PointState, now: float
) -> Outcome | None:
    """Another cycle of the probe, or None when it is over."""
    probe, here = state.probe, known[state.point]
    target = None if probe is None else known.get(probe.point)
    if probe is None or target is None or probe.over(curves.observed_cycles(probe.point)):
        return None
    if hopeless(here, target, probe, curves.observed_cycles(probe.point)):
        return None
    state = replace(state, probe=replace(probe, asked=probe.asked + 1))
    gain = _pace(here) / _pace(target) - 1.0
    return PointDecision(target.point, Reason.PROBE, _probe_detail(target, here), gain), state


def _settle(state: PointState, known: dict[OperatingPoint, Estimate], now: float) -> PointState:
    """The probe is over: pay for it by what it turned out to cost."""
    probe, here = state.probe, known[state.point]
    target = None if probe is None else known.get(probe.point)
    cost = 0.0 if probe is None or target is None else (probe.asked + 1) * regret_seconds(here, target)
    return replace(state, probe=None, purse=state.purse.pay(cost, now))


def _probe_detail(target: Estimate, here: Estimate) -> str:
    return (
        f"a few cycles of {target.point} to see whether it beats {here.point}: {1e3 * _pace(target):.2f} ms per "
        f"token predicted, give or take {target.variance**0.5:.0%}"
    )


def _margin(switching: Switching, held_s: float) -> float:
    """The margin now: a small advantage counts if it lasts."""
    return switching.margin * max(LEAST_MARGIN, PATIENCE_S / (PATIENCE_S + max(held_s, 0.0)))


def _pace(estimate: Estimate) -> float:
    """Seconds per token per user."""
    return estimate.seconds / estimate.tokens


def _move(
    state: PointState, point: OperatingPoint, reason: Reason, detail: str, now: float, gain: float = 0.0
) -> Outcome:
    """Run `point`; counts as a switch if it is another one."""
    decision = PointDecision(point, reason, detail, gain)
    if point == state.point:
        return decision, state
    return decision, replace(state, point=point, since=now, probe=None, switches=state.switches + 1)
