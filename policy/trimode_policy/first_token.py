"""When a request's first token would come, and how far such a prediction can be trusted. [pure]

Belongs here: what is known at the door of the time until a first token. What follows from it is in `admit`.

A replica needs `(prompt tokens before this one + its own) / its prompt speed` seconds. What really passes is told as a
multiple of that: more, because it decodes meanwhile; less, because short prompts pass long ones and some of a prompt
may be known there. So quantiles of actual over predicted are tracked, and a low one makes a bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp, inf, log

from trimode_policy.route import ReplicaView, RequestView, SloState, Staleness, able
from trimode_policy.values import value

LOW, HIGH = 0.05, 0.95
"""Shares of requests whose first token came sooner than the bound, and than the latest that is told."""
STEP = 0.05
"""How far, in log, one measurement moves a quantile: as soon as the kinds of prompts change, their error does."""
LEAST_SHARE = 0.25
"""Share of the time left from which on a prediction is measured."""
# Of short prompts nearly all of the time is a cycle's, not a prompt's: by them, a prompt of 20 tokens and 50 ms, one of
# 5,000 would be taken for late.
ENOUGH = 20.0
"""Measurements within the last `MEMORY_S` that make a bound certain."""
MEMORY_S = 60.0
"""Seconds in which a measurement's count fades."""
# Who is refused is not measured. If only such requests came, a bound that has become too high would stand for ever:
# without measurements it ends, some are let in, and it is learned again.


@value
class Forecast:
    """Seconds until a first token at one replica by its prompt speed alone: `own_s` for the request's prompt, `work_s`
    with those before it."""

    own_s: float
    work_s: float


@value
class FirstToken:
    """The least to be expected of the soonest replica: `earliest_s` seconds, `alone_s` of them if it were idle."""

    replica_id: str
    earliest_s: float
    alone_s: float


@value
class Bounds:
    """Actual over predicted seconds, nearly always exceeded: `own` for a prompt alone, `work` with those before it.
    0: nothing is certain."""

    own: float
    work: float


_NOTHING_CERTAIN = Bounds(0.0, 0.0)


def forecast(request: RequestView, replica: ReplicaView) -> Forecast | None:
    """None where the replica's prompt speed is not known."""
    speed = replica.prompt_tokens_per_second
    if not speed > 0:
        return None
    # At least one token is always computed, to have something to go on from.
    own = max(1, request.prompt_tokens - request.held.get(replica.replica_id, 0))
    return Forecast(own / speed, (own + replica.queued_prompt_tokens) / speed)


def prompt_seconds(request: RequestView, replicas: Iterable[ReplicaView]) -> float:
    """Seconds of its own prompt at the mean speed of `replicas`, but for what one of them is likely to hold of it; 0
    where no speed is known."""
    speeds = [r.prompt_tokens_per_second for r in replicas if r.prompt_tokens_per_second > 0]
    own = request.prompt_tokens - max(request.held.values(), default=0)
    return max(0, own) * len(speeds) / sum(speeds) if speeds else 0.0


def late_for_certain(
    request: RequestView, replicas: Iterable[ReplicaView], staleness: Staleness, bounds: Bounds
) -> FirstToken | None:
    """The soonest first token of a request in time, where even that is too late on every replica that may answer it.

    None where some replica may have it in time, or where too little is known of one: then nothing is certain.
    """
    if not (bounds.own or bounds.work) or request.slo_state != SloState.ON_TIME or request.left_s == inf:
        return None
    soonest = None
    for replica in replicas:
        if not able(request, replica, staleness):
            continue
        known = forecast(request, replica) if replica.age_s <= staleness.stale_after_s else None
        if known is None:
            return None
        # Two bounds, because a short prompt may pass those before it: then its own is all that is certain.
        alone_s = known.own_s * bounds.own
        earliest_s = max(alone_s, known.work_s * bounds.work)
        if earliest_s <= request.left_s:
            return None
        if soonest is None or earliest_s < soonest.earliest_s:
            soonest = FirstToken(replica.replica_id, earliest_s, alone_s)
    return soonest


@dataclass(slots=True)
class Quantile:
    """Mutable: a quantile of positive numbers that come one after another, followed as it moves; 1 at the start.

    Stochastic approximation (Robbins and Monro 1951) of the logarithm: up by `share` of a step, down by the rest.
    """

    share: float
    log: float = 0.0
    recent: float = 0.0
    at: float = 0.0

    @property
    def value(self) -> float:
        return exp(self.log)

    def add(self, number: float, now: float) -> None:
        """One more."""
        self.log += STEP * (self.share - (log(number) < self.log))
        self.recent, self.at = 1.0 + self._faded(now), now

    def bound(self, now: float) -> float:
        """The quantile where enough was measured lately, else 0."""
        return self.value if self.recent >= ENOUGH and self._faded(now) >= ENOUGH else 0.0

    def _faded(self, now: float) -> float:
        return self.recent * exp(-max(0.0, now - self.at) / MEMORY_S)


@dataclass(slots=True)
class PredictionError:
    """Mutable: actual over predicted time to the first token. Holds no clock.

    `own` is of the request's prompt alone, the others are of all work before its first token.
    """

    own: Quantile = field(default_factory=lambda: Quantile(LOW))
    low: Quantile = field(default_factory=lambda: Quantile(LOW))
    middle: Quantile = field(default_factory=lambda: Quantile(0.5))
    high: Quantile = field(default_factory=lambda: Quantile(HIGH))
    measured: int = 0

    def predicted_s(self, known: Forecast) -> float:
        """What is told: the median."""
        return known.work_s * self.middle.value

    def learn(self, known: Forecast, left_s: float, actual_s: float, now: float) -> bool:
        """A first token came `actual_s` after the request was sent, `left_s` of its objective being left then; whether
        that says anything."""
        if known.work_s < LEAST_SHARE * left_s or not 0 < actual_s < inf:
            return False
        for each in (self.low, self.middle, self.high):
            each.add(actual_s / known.work_s, now)
        if known.own_s >= LEAST_SHARE * left_s:
            self.own.add(actual_s / known.own_s, now)
        self.measured += 1
        return True

    def bounds(self, now: float) -> Bounds:
        """What is certain by now."""
        if self.own.recent < ENOUGH and self.low.recent < ENOUGH:
            return _NOTHING_CERTAIN
        return Bounds(self.own.bound(now), self.low.bound(now))
