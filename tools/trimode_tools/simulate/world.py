"""From a resource, a machine and options to the scenario and the loads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random

from trimode_api.modes import Mode
from trimode_api.policy_of import pool_points
from trimode_api.resource import NemotronDeployment
from trimode_api.spec import LateRequests
from trimode_local.errors import BadInput
from trimode_tools.simulate.hardware import Acceptance, Machine
from trimode_tools.simulator.cost_model import Truth
from trimode_tools.simulator.ports import Outage
from trimode_tools.simulator.rows import EngineLimits
from trimode_tools.simulator.scenario import Scenario
from trimode_tools.simulator.workload import Chats, Goal, Job, Load, chats, diurnal, random_walk, spikes, steps, tiers

KEPT = 0.2
"""Tokens of past conversations a replica keeps, as a share of what its memory holds beside the weights."""
LOADS: dict[str, Callable[[float, float], Load | Chats]] = {
    "steps": steps,
    "diurnal": diurnal,
    "spikes": spikes,
    "tiers": tiers,
    "chats": chats,
    "random-a": lambda rate, duration: random_walk(rate, duration, Random(101), "random-a"),
    "random-b": lambda rate, duration: random_walk(rate, duration, Random(202), "random-b"),
}


_SIMULATED = {Mode.AR, Mode.SELF_SPECULATION}
"""Only lossless traffic is simulated; of quadratic self-speculation nothing was measured."""


@dataclass(frozen=True, slots=True)
class NamedLoad:
    """A load under its name: each `jobs()` starts it again from the beginning, the same each time."""

    name: str
    duration_s: float
    jobs: Callable[[], Iterator[Job]]


def scenario_of(deployment: NemotronDeployment, machine: Machine, acceptance: Acceptance) -> Scenario:
    """The resource's fleet at its largest; all pools' lossless points together, as engines that switch may run them.

    Raises BadInput where AR or self-speculation is missing, because then there is nothing to choose.
    """
    spec = deployment.spec
    found = {point for pool in spec.pools for point in pool_points(pool, spec) if point.mode in _SIMULATED}
    points = tuple(sorted(found, key=lambda point: point.block_length))
    if {point.mode for point in points} != _SIMULATED:
        raise BadInput(
            f"{deployment.metadata.name}: pools allow {', '.join(map(str, points)) or 'no lossless point'}; "
            "to compare policies they must allow both AR and SelfSpeculation"
        )
    rows = spec.engine.max_running_requests
    full = rows * float(spec.engine.max_context_tokens)
    return Scenario(
        truth=Truth(machine.truth, acceptance.tokens, measured=acceptance.measured),
        prior=machine.prior,
        goals=goals_of(deployment),
        points=points,
        replicas=sum(pool.replicas.max for pool in spec.pools),
        limits=EngineLimits(
            rows,
            min(machine.cached_tokens, full),
            2048 if machine.gpu else 256,  # as the engine's own defaults
            machine.noise,
            kept=int(KEPT * machine.cached_tokens),
        ),
        max_wait_s=spec.admission.max_wait_milliseconds / 1e3,
        max_queued=spec.admission.max_queued_requests,
        refuse_late=spec.admission.late_requests is LateRequests.REFUSE,
        margin=spec.switching.margin_percent / 100,
        min_dwell_s=spec.switching.min_dwell_milliseconds / 1e3,
        stale_s=float(spec.staleness.stale_after_seconds),
        dead_s=float(spec.staleness.dead_after_seconds),
    )


def goals_of(deployment: NemotronDeployment) -> tuple[Goal, ...]:
    """The tiers, the most urgent first."""
    ordered = sorted(deployment.spec.tiers, key=lambda tier: -tier.priority)
    return tuple(Goal(t.name, t.ttft_milliseconds / 1e3, t.tpot_milliseconds / 1e3, t.priority) for t in ordered)


def generated(name: str, scenario: Scenario, rate: float, duration_s: float, seed: int) -> NamedLoad:
    """One of `LOADS`. Raises BadInput for another name."""
    if name not in LOADS:
        raise BadInput(f"--load is {name!r}, must be one of {', '.join(LOADS)}")
    load = LOADS[name](rate, duration_s)
    return NamedLoad(name, duration_s, lambda: load.jobs(len(scenario.goals), scenario.truth.kinds, Random(seed)))


def stressed(scenario: Scenario, duration_s: float) -> Scenario:
    """A harder world: the prior is wrong, acceptance drifts, the first replica dies and returns.

    The prior takes the bandwidth for 1/0.7 and the arithmetic for 0.6 of what is real. At a third of the time the
    tokens beyond the first fall to 60 %, at two thirds they recover to 85 %. The outage is from 40 to 60 %.
    """
    prior = replace(
        scenario.prior, bytes_per_s=scenario.prior.bytes_per_s / 0.7, flops_per_s=scenario.prior.flops_per_s * 0.6
    )
    truth = Truth(
        scenario.truth.hardware,
        scenario.truth.accepted,
        ((duration_s / 3, 0.6), (2 * duration_s / 3, 0.85)),
        scenario.truth.measured,
    )
    outages = (Outage(0, 0.4 * duration_s, 0.6 * duration_s),) if scenario.replicas > 1 else ()
    return replace(scenario, prior=prior, truth=truth, outages=outages)
