"""Which operating point an engine runs next.

Belongs here: the decision of one replica between two cycles. What it predicts with is in `curves`, when it spends
cycles on probes is in `probing`.

At one batch the point with the fewest predicted seconds per token is best for every user and for the machine
(tokens per second of the machine = batch x tokens per second of a user), so the rule is an argmin, held back by a
margin, by dwell time and by uncertainty: a point that was not measured recently is tried for a few cycles first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp, log, sqrt

from trimode_api.modes import Mode, OperatingPoint
from trimode_policy.curves import Curves, Estimate
from trimode_policy.decisions import Batch, PointDecision, PointState, Reason, Switching
from trimode_policy.probing import Probe, candidate, is_old, is_repeat, regret_seconds, stddev_between
from trimode_policy.speed import bucket_of
from trimode_policy.values import value

__all__ = ["Batch", "PointDecision", "PointState", "Reason", "Switching", "choose_point"]

SWITCH_SIGMAS = 1.3
"""A switch needs a predicted gain of this many standard deviations, and a measurement at this batch."""
SMALL_GAIN_SIGMAS = 1.5
"""The same for a gain below the full margin, which counts only because the point has been held for long."""
PATIENCE_S = 20.0
"""The margin shrinks with the time a point is held, to half of it after this long and never below `LEAST_MARGIN`."""
LEAST_MARGIN = 0.4
"""Smallest share of the margin that is left after a long time: a small loss is not borne for ever."""

PRICE_S, FREE_SWITCHES = 0.3, 6.0
"""A switch that follows many others has a price: holding the point must have lost `PRICE_S x (recent -
FREE_SWITCHES)^2` seconds. At 60 an hour that is 5 s, for a sustained load about 1 % of the time; the first few are
free."""
# Without a price, simulated fleets gained 0 to 1 % of goodput at 500 to 670 switches an hour (docs/simulator.md).
RECENT_S = 600.0
"""Seconds over which switches count as recent."""
URGENT_SHARE = 0.1
"""Share of that price where the running point is too slow for the objective of a request in the batch."""


Outcome = tuple[PointDecision, PointState]


@value
class Question:
    """What one decision is asked with; `estimates` are those of `points` that can be predicted at this batch."""

    batch: Batch
    points: Sequence[OperatingPoint]
    curves: Curves
    switching: Switching
    now: float
    estimates: Sequence[Estimate]

    def estimate(self, point: OperatingPoint) -> Estimate | None:
        """The estimate of `point`, None where it is not allowed or cannot be predicted."""
        # Identity first: comparing points field by field costs more than the rest of a decision.
        for estimate in self.estimates:
            if estimate.point is point:
                return estimate
        for estimate in self.estimates:
            if estimate.point == point:
                return estimate
        return None


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
        # Even where nothing can be predicted: a person has decided.
        return _move(state, switching.fixed, Reason.MANUAL, f"fixed to {switching.fixed}", now)
    if batch.running < 1:
        kept = state.point if state.point in points else switching.fallback
        # Probes are paid from busy time; an idle night would otherwise fill the budget.
        state = replace(state, probe=None, budget=state.budget.pause(now))
        return _move(state, kept, Reason.IDLE, "no request is decoding", now)
    estimates = curves.estimates(points, batch.running, batch.context_tokens, now)
    question = Question(batch, points, curves, switching, now, estimates)
    here = question.estimate(state.point)
    if here is None or (switching.fallback in points and question.estimate(switching.fallback) is None):
        return _cannot_compare(question, state)
    if (probe := state.probe) is not None:
        target, seen = question.estimate(probe.point), curves.observed_cycles(probe.point)
        if target is not None:
            margin, available = _margin(question, target, state), state.budget.available(now, probe.repeat)
            if probe.goes_on(here, target, seen, available, margin):
                return _probe(here, target, replace(state, probe=replace(probe, asked=probe.asked + 1)))
        # It is over, and paid for by what it turned out to cost, not by what it was expected to.
        cost = 0.0 if target is None else probe.cycles(seen) * regret_seconds(here, target)
        paid = state.budget.pay(cost, now, seen == probe.seen_before, probe.repeat)
        state = replace(state, probe=None, budget=paid)
    return _compare(question, here, state)


def _cannot_compare(question: Question, state: PointState) -> Outcome:
    """The running point is not allowed any more, or something needed cannot be predicted."""
    points, fallback, now = question.points, question.switching.fallback, question.now
    state = replace(state, probe=None)
    fallback_known = fallback not in points or question.estimate(fallback) is not None
    if state.point not in points and question.estimates and fallback_known:
        best = min(question.estimates, key=lambda estimate: estimate.pace)
        detail = f"{state.point} is not allowed here; {best.point} is the fastest of {len(points)} points"
        return _move(state, best.point, Reason.NOT_ALLOWED, detail, now)
    # What cannot be predicted is left rather than held: a wrong point costs most under load, and the fallback, AR by
    # default, is the one that is not slow there.
    blind = state.point if fallback_known else fallback
    detail = f"{blind} cannot be predicted at batch {question.batch.running}, so nothing can be compared with it"
    return _move(state, fallback, Reason.NO_DATA, detail, now)


def _compare(question: Question, here: Estimate, state: PointState) -> Outcome:
    """Switch, probe or keep, now that everything needed can be predicted."""
    batch, switching, now = question.batch, question.switching, question.now
    # By prediction, not by a batch threshold: on an H200's roofline blocks of 32 lose to AR from batch 10 to 29 on,
    # depending on acceptance (3 to 6.8 tokens), and from 21 to 424, depending on context (500 to 8,000 tokens).
    best = here
    for other in question.estimates:
        if other.pace < best.pace and _may_replace(other, here, batch, state):
            best = other
    gain = here.pace / best.pace - 1.0
    state = _with_loss(question, here, best, state)
    margin = _margin(question, best, state)
    wins = gain > margin
    # A measurement at this very batch is required: what is guessed from other batches does not show where a point
    # turns from memory-bound to compute-bound. The probe below makes that measurement.
    sigmas = SWITCH_SIGMAS if gain > switching.margin else SMALL_GAIN_SIGMAS
    certain = wins and best.seen > 0 and log(1.0 + gain) >= sigmas * stddev_between(here, best)
    if switching.dry_run:
        certain = wins  # the decision is not followed, so no probe would ever make it more certain
    if not certain and not switching.dry_run:
        target = candidate(here, question.estimates, margin, state.budget, now)
        if target is not None:
            probe = Probe(
                target.point,
                question.curves.observed_cycles(target.point),
                is_old(here, target),
                repeat=is_repeat(target),
            )
            return _probe(here, target, replace(state, probe=probe, probes=state.probes + 1))
    if not wins:
        return _keep(state, best, gain, batch)
    if not certain:
        detail = f"{best.point} may be {gain:.0%} faster than {here.point} at batch {batch.running}, not sure yet"
        return PointDecision(here.point, Reason.UNSURE, detail, gain), state
    if now - state.since < switching.min_dwell_s:
        detail = f"{best.point} looks {gain:.0%} faster, {here.point} is held for {switching.min_dwell_s:g} s"
        return PointDecision(here.point, Reason.DWELL, detail, gain), state
    if not switching.dry_run and state.lost_s < _price(question, here, state):
        detail = f"{best.point} is {gain:.0%} faster, but only {state.lost_s:.2f} s were lost since the last switch"
        return PointDecision(here.point, Reason.WITHIN_MARGIN, detail, gain), state
    detail = (
        f"{best.point} {1e3 * best.pace:.2f} ms per token, {here.point} {1e3 * here.pace:.2f} ms "
        f"at batch {batch.running}"
    )
    # What `_may_replace` and `_margin` go by: switches for another reason say nothing about where the crossover is.
    state = replace(state, at_batch=batch.running, left=here.point)
    return _move(state, best.point, Reason.PREDICTED_GAIN, detail, now, gain)


def _with_loss(question: Question, here: Estimate, best: Estimate, state: PointState) -> PointState:
    """The state with `lost_s` brought up to now: it grows while another point is better, shrinks while this one is."""
    # One second at most: an engine that was idle for an hour, or whose clock jumped, lost nothing meanwhile.
    passed = 0.0 if state.asked_at is None else min(max(0.0, question.now - state.asked_at), 1.0)
    other = best.pace
    if best is here:
        other = min((e.pace for e in question.estimates if e is not here), default=here.pace)
    lost_s = max(0.0, state.lost_s + passed * max(-1.0, 1.0 - other / here.pace))
    return state.with_loss(lost_s, question.now)


def _recent(state: PointState, now: float) -> float:
    """Recent switches as of `now`, each counting less with time."""
    return state.recent * exp(-max(0.0, now - state.since) / RECENT_S)


def _price(question: Question, here: Estimate, state: PointState) -> float:
    """Seconds that must have been lost before a switch is worth it."""
    # Cheaper for a batch that misses its objective: leaving such a point late costs the request, not just some speed.
    share = URGENT_SHARE if here.pace > question.batch.needed_s else 1.0
    return share * PRICE_S * max(0.0, _recent(state, question.now) - FREE_SWITCHES) ** 2


def _may_replace(other: Estimate, here: Estimate, batch: Batch, state: PointState) -> bool:
    """More load alone never leads from AR back to speculation: beyond the batch at which AR was chosen, only a
    measurement at this very batch does."""
    # Speculation computes more tokens per forward, so what made AR better at a batch makes it better still above it;
    # a prediction that says otherwise is more likely wrong than the first one was.
    if here.point.mode is not Mode.AR or other.point.mode is Mode.AR:
        return True
    return state.at_batch == 0 or batch.running <= state.at_batch or other.seen > 0


def _keep(state: PointState, best: Estimate, gain: float, batch: Batch) -> Outcome:
    if best.point is state.point or best.point == state.point:
        detail = f"{state.point} is the fastest at batch {batch.running}: {1e3 * best.pace:.2f} ms per token"
        return PointDecision(state.point, Reason.KEPT, detail), state
    detail = f"{best.point} is {gain:.1%} faster than {state.point} at batch {batch.running}, within the margin"
    return PointDecision(state.point, Reason.WITHIN_MARGIN, detail, gain), state


def _probe(here: Estimate, target: Estimate, state: PointState) -> Outcome:
    """One cycle of a probe of `target`; the chosen point stays `here`."""
    detail = (
        f"a few cycles of {target.point} to see whether it beats {here.point}: {1e3 * target.pace:.2f} ms per "
        f"token against {1e3 * here.pace:.2f}, give or take {sqrt(target.variance):.0%}"
    )
    return PointDecision(target.point, Reason.PROBE, detail, here.pace / target.pace - 1.0), state


def _margin(question: Question, other: Estimate, state: PointState) -> float:
    """The margin now: a small advantage counts if it lasts, but not for going back under the same load."""
    margin = question.switching.margin
    # Going back takes the full margin, else two points that are nearly equal alternate as the margin shrinks.
    if other.point == state.left and bucket_of(question.batch.running) == bucket_of(state.at_batch):
        return margin
    return margin * max(LEAST_MARGIN, PATIENCE_S / (PATIENCE_S + max(question.now - state.since, 0.0)))


def _move(
    state: PointState, point: OperatingPoint, reason: Reason, detail: str, now: float, gain: float = 0.0
) -> Outcome:
    """Run `point`; counts as a switch if it is another one."""
    decision = PointDecision(point, reason, detail, gain)
    if point is state.point or point == state.point:
        return decision, state
    # Only switches for gain raise the price of the next: a change that a person ordered (`Manual`), or that followed
    # from what is allowed, says nothing about how restless the load is.
    recent = _recent(state, now) + (reason is Reason.PREDICTED_GAIN)
    return decision, replace(
        state, point=point, since=now, probe=None, switches=state.switches + 1, lost_s=0.0, recent=recent
    )
