"""Which operating point an engine runs next.

Belongs here: the decision of one replica between two cycles. What it predicts with is in `curves`, when it spends
cycles on looking is in `probing`.

At one batch the point with the fewest predicted seconds per token is best for every user and for the machine
(tokens per second of the machine = batch x tokens per second of a user), so the rule is an argmin, held back by a
margin, by dwell time and by doubt: a point that was not measured lately is tried for a few cycles first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp, log, sqrt

from trimode_api.modes import Mode, OperatingPoint
from trimode_policy.curves import Curves, Estimate
from trimode_policy.decisions import Batch, PointDecision, PointState, Reason, Switching
from trimode_policy.probing import Probe, candidate, goes_on, is_old, regret_seconds, stddev_between
from trimode_policy.speed import bucket_of

__all__ = ["Batch", "PointDecision", "PointState", "Reason", "Switching", "choose_point"]

SWITCH_SIGMAS = 1.3
"""A switch needs a predicted gain of this many standard deviations of doubt, and a measurement at this batch."""
SURE_OF_LITTLE = 1.5
"""The same for a gain below the full margin, which only patience makes worth a switch."""
PATIENCE_S = 20.0
"""The margin shrinks with the time a point is held, to half of it after this long and never below `LEAST_MARGIN`."""
LEAST_MARGIN = 0.4
"""Smallest share of the margin that patience leaves: a lasting small loss is not held for ever."""

PRICE_S, FREE = 0.3, 6.0
"""A switch that follows many others must pay first: holding the point must have lost `PRICE_S x (recent - FREE)^2`
seconds. At 60 an hour that is 5 s, for a sustained load about 1 % of the time; the first few are free."""
RECENT_S = 600.0
"""Seconds over which switches count as recent."""
URGENT = 0.1
"""Share of that price where the running point is too slow for the objective of someone in the batch."""


Outcome = tuple[PointDecision, PointState]


def choose_point(
    batch: Batch,
    points: Sequence[OperatingPoint],
    curves: Curves,
    state: PointState,
    switching: Switching,
    now: float,
) -> Outcome:
    """The operating point for the next cycle and the state to pass next time. Ask before every cycle, at
    least while the reason is Probe: a hopeless probe is to end soon.

    `points`: those the pool and the batch allow. Never returns a point that is neither in `points` nor the
    fallback nor fixed; never one that cannot be predicted, but for the fallback.
    """
    if switching.fixed is not None:
        return _move(state, switching.fixed, Reason.MANUAL, f"fixed to {switching.fixed}", now)
    if batch.running < 1:
        kept = state.point if state.point in points else switching.fallback
        state = replace(state, probe=None, purse=state.purse.pause(now))
        return _move(state, kept, Reason.IDLE, "no request is decoding", now)
    known = curves.estimates(points, batch.running, batch.context_tokens, now)
    here = _of(state.point, known)
    if here is None or (switching.fallback in points and _of(switching.fallback, known) is None):
        return _cannot_compare(batch, points, known, state, switching, now)
    if state.probe is not None:
        going = _go_on_probing(state.probe, batch, here, known, curves, state, switching, now)
        if going is not None:
            return going
        state = _settle(state.probe, here, known, curves, state, now)
    return _compare(batch, here, known, curves, state, switching, now)


def _cannot_compare(
    batch: Batch,
    points: Sequence[OperatingPoint],
    known: Sequence[Estimate],
    state: PointState,
    switching: Switching,
    now: float,
) -> Outcome:
    """The running point is not allowed any more, or something needed cannot be predicted."""
    state = replace(state, probe=None)
    fallback_known = switching.fallback not in points or _of(switching.fallback, known) is not None
    if state.point not in points and known and fallback_known:
        best = min(known, key=_pace)
        detail = f"{state.point} is not allowed here; {best.point} is the fastest of {len(points)} points"
        return _move(state, best.point, Reason.NOT_ALLOWED, detail, now)
    blind = state.point if fallback_known else switching.fallback
    detail = f"{blind} cannot be predicted at batch {batch.running}, so nothing can be compared with it"
    return _move(state, switching.fallback, Reason.NO_DATA, detail, now)


def _compare(
    batch: Batch,
    here: Estimate,
    known: Sequence[Estimate],
    curves: Curves,
    state: PointState,
    switching: Switching,
    now: float,
) -> Outcome:
    """Switch, probe or keep, now that nothing stands in the way of comparing."""
    best = here
    for other in known:
        if other.pace < best.pace and _may_replace(other, here, batch, state):
            best = other
    gain = here.pace / best.pace - 1.0
    state = _counting(here, best, known, state, now)
    margin = _margin(best, batch, state, switching, now)
    wins = gain > margin
    sureness = SWITCH_SIGMAS if gain > switching.margin else SURE_OF_LITTLE
    sure = wins and best.seen > 0 and log(1.0 + gain) >= sureness * stddev_between(here, best)
    if switching.dry_run:
        sure = wins  # nobody follows the decision, so there is nothing to wait for
    if not sure and not switching.dry_run:
        target = candidate(here, known, margin, state.purse, now)
        if target is not None:
            probe = Probe(target.point, curves.observed_cycles(target.point), is_old(here, target))
            return _probing(target, here, replace(state, probe=probe, probes=state.probes + 1))
    if not wins:
        return _keep(state, best, gain, batch)
    if not sure:
        detail = f"{best.point} may be {gain:.0%} faster than {here.point} at batch {batch.running}, not sure yet"
        return PointDecision(here.point, Reason.UNSURE, detail, gain), state
    if now - state.since < switching.min_dwell_s:
        detail = f"{best.point} looks {gain:.0%} faster, {here.point} is held for {switching.min_dwell_s:g} s"
        return PointDecision(here.point, Reason.DWELL, detail, gain), state
    if not switching.dry_run and state.lost_s < _price(here, batch, state, now):
        detail = f"{best.point} is {gain:.0%} faster, but only {state.lost_s:.2f} s were lost since the last switch"
        return PointDecision(here.point, Reason.WITHIN_MARGIN, detail, gain), state
    detail = (
        f"{best.point} {1e3 * best.pace:.2f} ms per token, {here.point} {1e3 * here.pace:.2f} ms "
        f"at batch {batch.running}"
    )
    state = replace(state, at_batch=batch.running, left=here.point)
    return _move(state, best.point, Reason.PREDICTED_GAIN, detail, now, gain)


def _counting(here: Estimate, best: Estimate, known: Sequence[Estimate], state: PointState, now: float) -> PointState:
    """Keep the account of what holding this point costs: it grows while another is better, shrinks while this is."""
    passed = 0.0 if state.asked_at is None else min(max(0.0, now - state.asked_at), 1.0)
    other = best.pace if best is not here else min((e.pace for e in known if e is not here), default=here.pace)
    lost_s = max(0.0, state.lost_s + passed * max(-1.0, 1.0 - other / here.pace))
    return state.counted(lost_s, now)


def _recent(state: PointState, now: float) -> float:
    return state.recent * exp(-max(0.0, now - state.since) / RECENT_S)


def _price(here: Estimate, batch: Batch, state: PointState, now: float) -> float:
    """Seconds that must have been lost before a switch pays."""
    urgency = URGENT if here.pace > batch.needed_s else 1.0
    return urgency * PRICE_S * max(0.0, _recent(state, now) - FREE) ** 2


def _may_replace(other: Estimate, here: Estimate, batch: Batch, state: PointState) -> bool:
    """More load alone never leads from AR back to speculation: beyond the batch at which AR was chosen, only a
    measurement at this very batch does."""
    if here.point.mode is not Mode.AR or other.point.mode is Mode.AR:
        return True
    return state.at_batch == 0 or batch.running <= state.at_batch or other.seen > 0


def _keep(state: PointState, best: Estimate, gain: float, batch: Batch) -> Outcome:
    if best.point is state.point or best.point == state.point:
        detail = f"{state.point} is the fastest at batch {batch.running}: {1e3 * best.pace:.2f} ms per token"
        return PointDecision(state.point, Reason.KEPT, detail), state
    detail = f"{best.point} is {gain:.1%} faster than {state.point} at batch {batch.running}, within the margin"
    return PointDecision(state.point, Reason.WITHIN_MARGIN, detail, gain), state


def _probing(target: Estimate, here: Estimate, state: PointState) -> Outcome:
    detail = (
        f"a few cycles of {target.point} to see whether it beats {here.point}: {1e3 * target.pace:.2f} ms per "
        f"token against {1e3 * here.pace:.2f}, give or take {sqrt(target.variance):.0%}"
    )
    return PointDecision(target.point, Reason.PROBE, detail, here.pace / target.pace - 1.0), state


def _go_on_probing(
    probe: Probe,
    batch: Batch,
    here: Estimate,
    known: Sequence[Estimate],
    curves: Curves,
    state: PointState,
    switching: Switching,
    now: float,
) -> Outcome | None:
    """Another cycle of the probe, or None when it is over."""
    target = _of(probe.point, known)
    if target is None:
        return None
    margin, available = _margin(target, batch, state, switching, now), state.purse.available(now)
    if not goes_on(here, target, probe, curves.observed_cycles(probe.point), available, margin):
        return None
    return _probing(target, here, replace(state, probe=replace(probe, asked=probe.asked + 1)))


def _settle(
    probe: Probe, here: Estimate, known: Sequence[Estimate], curves: Curves, state: PointState, now: float
) -> PointState:
    """The probe is over: pay for it by what it turned out to cost."""
    target = _of(probe.point, known)
    observed = curves.observed_cycles(probe.point)
    cost = 0.0 if target is None else probe.cycles(observed) * regret_seconds(here, target)
    return replace(state, probe=None, purse=state.purse.pay(cost, now, inconclusive=observed == probe.seen_before))


def _of(point: OperatingPoint, known: Sequence[Estimate]) -> Estimate | None:
    """The estimate of `point`; identity first, because comparing points costs more than all the rest."""
    for estimate in known:
        if estimate.point is point:
            return estimate
    for estimate in known:
        if estimate.point == point:
            return estimate
    return None


def _margin(other: Estimate, batch: Batch, state: PointState, switching: Switching, now: float) -> float:
    """The margin now: a small advantage counts if it lasts, but not for going back under the same load."""
    if other.point == state.left and bucket_of(batch.running) == bucket_of(state.at_batch):
        return switching.margin
    return switching.margin * max(LEAST_MARGIN, PATIENCE_S / (PATIENCE_S + max(now - state.since, 0.0)))


def _pace(estimate: Estimate) -> float:
    """Seconds per token per user."""
    return estimate.pace


def _move(
    state: PointState, point: OperatingPoint, reason: Reason, detail: str, now: float, gain: float = 0.0
) -> Outcome:
    """Run `point`; counts as a switch if it is another one. Only switches for gain make the next ones dear: what a
    person orders says nothing about a restless load."""
    decision = PointDecision(point, reason, detail, gain)
    if point is state.point or point == state.point:
        return decision, state
    recent = _recent(state, now) + (reason is Reason.PREDICTED_GAIN)
    return decision, replace(
        state, point=point, since=now, probe=None, switches=state.switches + 1, lost_s=0.0, recent=recent
    )
