"""The simulator against the engine that its profile was measured on: the same closed loop through both.

Belongs here: the loop on the real engine, the loop in the simulator, and how far apart they are. Both begin a client's
next request in the very cycle after its last one ended, as `trimode bench` does with the engine alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle
from random import Random
from statistics import median, quantiles
from typing import TYPE_CHECKING

from trimode_api.modes import OperatingPoint
from trimode_policy.roofline import Roofline
from trimode_tools.simulator.cost_model import Truth
from trimode_tools.simulator.measures import Account
from trimode_tools.simulator.policies import assemble, learning_spec
from trimode_tools.simulator.pools import FLEX_POOL
from trimode_tools.simulator.ports import OnlyReplica
from trimode_tools.simulator.rows import EngineLimits
from trimode_tools.simulator.scenario import Scenario
from trimode_tools.simulator.workload import Goal, Job

if TYPE_CHECKING:
    from trimode_workers.engine.engine import Engine

SIMULATED_WARM_S, SIMULATED_S = 10.0, 60.0
"""Virtual seconds before counting begins, and of counting."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of the loop. `produced`: tokens of its answer, the end counted; `tokens`: those a client gets."""

    prompt: Sequence[int]
    produced: int
    tokens: int
    kind: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One closed loop: tokens per second of all clients together; 95th percentiles, in seconds, of the time to the
    first token and to the last; the point that ran longest."""

    tokens_per_s: float
    ttft_p95_s: float
    latency_p95_s: float
    point: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """One concurrency, measured (medians over rounds) and predicted; `rounds`: tokens per second of each round."""

    clients: int
    measured: Outcome
    predicted: Outcome
    rounds: tuple[float, ...] = ()

    @property
    def errors(self) -> tuple[float, float, float]:
        """Predicted over measured, less 1: throughput, TTFT p95, latency p95."""
        p, m = self.predicted, self.measured
        return (
            p.tokens_per_s / m.tokens_per_s - 1,
            p.ttft_p95_s / m.ttft_p95_s - 1,
            p.latency_p95_s / m.latency_p95_s - 1,
        )


@dataclass(slots=True)
class _Sent:
    at: float
    first_at: float | None = None


@dataclass(slots=True)
class RealLoop:
    """Closed-loop clients of an engine in this process, with the policy at work."""

    engine: Engine
    asked: Sequence[Asked]
    max_tokens: int
    clock: Callable[[], float] = time.perf_counter
    _turn: Iterator[Asked] = field(init=False)
    _names: count[int] = field(default_factory=count)
    _sent: dict[str, _Sent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._turn = cycle(self.asked)

    def run(self, clients: int, warm_s: float, seconds: float) -> Outcome:
        """`clients` at once for so long, and until as many have their answer; what ends in the first `warm_s` seconds
        is not counted."""
        for _ in range(clients):
            self._ask()
        self._cycles(warm_s, least=0)
        before = dict(self.engine.stats().seconds_total)
        tokens, ttft, latency, took = self._cycles(seconds, least=clients)
        ran = {point: s - before.get(point, 0.0) for point, s in self.engine.stats().seconds_total.items()}
        for name in tuple(self._sent):
            self.engine.cancel(name)
        self._sent.clear()
        while not self.engine.idle:
            self.engine.step()
        return Outcome(tokens / took, _p95(ttft), _p95(latency), max(ran, key=lambda point: ran[point]))

    def _cycles(self, seconds: float, least: int) -> tuple[int, list[float], list[float], float]:
        began = now = self.clock()
        tokens, ttft, latency = 0, list[float](), list[float]()
        while now - began < seconds or min(len(ttft), len(latency)) < least:
            events = self.engine.step().events
            now = self.clock()
            for event in events:
                sent = self._sent[event.request_id]
                tokens += len(event.tokens)
                if sent.first_at is None:
                    sent.first_at = now
                    ttft.append(now - sent.at)
                if event.finish is not None:
                    latency.append(now - sent.at)
                    del self._sent[event.request_id]
                    self._ask()
        return tokens, ttft, latency, now - began

    def _ask(self) -> None:
        from trimode_workers.engine.messages import Submit

        name = f"client-{next(self._names)}"
        self._sent[name] = _Sent(self.clock())
        self.engine.submit(Submit(name, list(next(self._turn).prompt), self.max_tokens))


def predict(
    truth: Truth,
    prior: Roofline,
    points: tuple[OperatingPoint, ...],
    limits: EngineLimits,
    asked: Sequence[Asked],
    clients: int,
    seed: int = 0,
) -> Outcome:
    """The same loop in the simulator, under production's policy."""
    goal = Goal("all", 1e6, 1e6, 0)
    scenario = Scenario(truth, prior, (goal,), points, 1, limits)
    fleet = assemble(scenario, [learning_spec(FLEX_POOL, points, scenario)], OnlyReplica(), None, Random(seed))
    turn = cycle(asked)

    def next_job(now: float) -> Job:
        one = next(turn)
        return Job(now, len(one.prompt) - 1, one.produced, 0, one.kind)

    fleet.client = lambda request, now: next_job(now)
    for _ in range(clients):
        fleet.offer(next_job(0.0))
    fleet.advance(SIMULATED_WARM_S)
    account = fleet.account = Account.empty((goal,))
    fleet.advance(SIMULATED_WARM_S + SIMULATED_S)
    share = sum(one.tokens for one in asked) / sum(one.produced for one in asked)
    return Outcome(
        account.tokens * share / SIMULATED_S,
        account.ttft.percentile(95),
        account.latency.percentile(95),
        str(max(account.seconds_at, key=lambda point: account.seconds_at[point])),
    )


def typical(outcomes: Sequence[Outcome]) -> Outcome:
    """Medians over rounds; the point that ran most often."""
    points = [outcome.point for outcome in outcomes]
    return Outcome(
        median(o.tokens_per_s for o in outcomes),
        median(o.ttft_p95_s for o in outcomes),
        median(o.latency_p95_s for o in outcomes),
        max(points, key=points.count),
    )


def _p95(values: Sequence[float]) -> float:
    return quantiles(values, n=20)[-1] if len(values) > 1 else values[0]
