"""The simulator against the engine that its profile was measured on: the same closed loop through both.

Both begin a client's next request in the very cycle after its last one ended, as `trimode bench` does with the engine
alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from random import Random
from statistics import median, quantiles
from typing import TYPE_CHECKING

from trimode_api.modes import OperatingPoint
from trimode_policy.roofline import Roofline
from trimode_tools.engines import ClosedLoop
from trimode_tools.profile.fit import Answered
from trimode_tools.profile.measure import Measurement, Prompts
from trimode_tools.simulate.hardware import Machine, acceptance_of
from trimode_tools.simulator.cost_model import Truth
from trimode_tools.simulator.measures import Account
from trimode_tools.simulator.policies import assemble, learning_spec
from trimode_tools.simulator.pools import FLEX_POOL
from trimode_tools.simulator.ports import OnlyReplica
from trimode_tools.simulator.rows import EngineLimits
from trimode_tools.simulator.scenario import Scenario
from trimode_tools.simulator.workload import Goal, Job

if TYPE_CHECKING:
    from trimode_workers.engine.engine import Engine, EngineSettings

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


def loop_clients(batches: Sequence[int]) -> tuple[int, ...]:
    """Every other batch: 1, 4, 16, 64."""
    return tuple(batches[::2])


def loop_requests(prompts: Prompts, measurement: Measurement) -> list[Asked]:
    """The prompts as the closed loop's requests; greedy answers are the same at every point."""
    answers: list[Answered] = next(iter(measurement.answers.values()))
    kinds = sorted(set(prompts.tasks))
    return [
        Asked(prompt, answer.tokens, answer.tokens - answer.ended, kinds.index(task))
        for prompt, answer, task in zip(prompts.tokens, answers, prompts.tasks, strict=True)
    ]


@dataclass(slots=True)
class RealLoop:
    """Closed-loop clients of an engine in this process, with the policy at work."""

    engine: Engine
    asked: Sequence[Asked]
    max_tokens: int
    clock: Callable[[], float] = time.perf_counter
    _prompts: Iterator[Sequence[int]] = field(init=False)

    def __post_init__(self) -> None:
        self._prompts = cycle([one.prompt for one in self.asked])

    def run(self, clients: int, warm_s: float, seconds: float) -> Outcome:
        """`clients` at once for so long, and until as many have their answer; what ends in the first `warm_s` seconds
        is not counted."""
        # Not staggered: the simulated clients begin all at once, too.
        loop = ClosedLoop(self.engine, clients, self._prompts, self.max_tokens, staggered=False, clock=self.clock)
        loop.run(warm_s)
        before = dict(self.engine.stats().seconds_total)
        turn = loop.run(seconds, finished=clients)
        ran = {point: s - before.get(point, 0.0) for point, s in self.engine.stats().seconds_total.items()}
        loop.stop()
        longest = max(ran, key=lambda point: ran[point])
        return Outcome(turn.tokens / turn.seconds, _p95(turn.ttft_s), _p95(turn.latency_s), longest)


def predict(scenario: Scenario, asked: Sequence[Asked], clients: int, seed: int = 0) -> Outcome:
    """The same loop in the simulator, under production's policy."""
    spec = learning_spec(FLEX_POOL, scenario.points, scenario)
    fleet = assemble(scenario, [spec], OnlyReplica(), Random(seed))
    turn = cycle(asked)

    def next_job(now: float) -> Job:
        one = next(turn)
        # The last token of a prompt is decoded, not prefilled.
        return Job(now, len(one.prompt) - 1, one.produced, 0, one.kind)

    fleet.client = lambda request, now: next_job(now)
    for _ in range(clients):
        fleet.offer(next_job(0.0))
    fleet.advance(SIMULATED_WARM_S)
    account = fleet.account = Account.empty(scenario.goals)
    fleet.advance(SIMULATED_WARM_S + SIMULATED_S)
    share = sum(one.tokens for one in asked) / sum(one.produced for one in asked)
    return Outcome(
        account.tokens * share / SIMULATED_S,
        account.ttft.percentile(95),
        account.latency.percentile(95),
        str(max(account.seconds_at, key=lambda point: account.seconds_at[point])),
    )


def compared(
    settings: EngineSettings,
    points: tuple[OperatingPoint, ...],
    asked: Sequence[Asked],
    hardware: Machine,
    loops: Mapping[int, Sequence[Outcome]],
) -> list[Comparison]:
    """What the simulator makes of the profile, beside the closed loops on an engine with these settings."""
    table = acceptance_of(hardware, None, "")
    kinds = len({one.kind for one in asked})
    accepted = table.tokens if len(table.tokens) == kinds else table.tokens[:1] * kinds
    rows, budget = settings.max_running_requests, settings.prompt_tokens()
    limits = EngineLimits(rows, settings.capacity, budget, hardware.noise)
    truth = Truth(hardware.truth, accepted, measured=table.measured)
    scenario = only_replica(truth, hardware.prior, points, limits)
    return [
        Comparison(
            count,
            typical(outcomes),
            predict(scenario, asked, count),
            tuple(outcome.tokens_per_s for outcome in outcomes),
        )
        for count, outcomes in loops.items()
    ]


def only_replica(truth: Truth, prior: Roofline, points: tuple[OperatingPoint, ...], limits: EngineLimits) -> Scenario:
    """One engine without objectives that it could miss."""
    return Scenario(truth, prior, (Goal("all", 1e6, 1e6, 0),), points, 1, limits)


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
