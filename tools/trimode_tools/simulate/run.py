"""Running the comparison, every policy under every load and switching cost, and the models of `results.json`.

All rates are per second of the load's duration. Nothing here prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from pydantic import BaseModel, ConfigDict

from trimode_tools.simulate.world import NamedLoad
from trimode_tools.simulator.bound import upper_bound
from trimode_tools.simulator.measures import Account, Histogram, Series
from trimode_tools.simulator.oracle import Search, best_found, searches
from trimode_tools.simulator.policies import ORACLE, SPLIT, fleet_for
from trimode_tools.simulator.scenario import Scenario


class _Result(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Percentiles(_Result):
    """Milliseconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, histogram: Histogram) -> Percentiles:
        """Rounded to a microsecond."""
        p50, p95, p99 = (round(1e3 * histogram.percentile(p), 3) for p in (50, 95, 99))
        return cls(p50=p50, p95=p95, p99=p99)


class PolicyResult(_Result):
    """One policy under one load. `regret_percent`: goodput lost against the oracle; null if it was not run."""

    policy: str
    goodput_rps: float
    offered_rps: float
    attainment_percent: dict[str, float]
    ttft_ms: Percentiles
    tpot_ms: Percentiles
    switches_per_replica_hour: float
    pool_moves_per_hour: float
    regret_percent: float | None


class LoadResult(_Result):
    """All policies under one load."""

    name: str
    switch_cost_s: float
    policies: tuple[PolicyResult, ...]


class Results(_Result):
    """What `results.json` holds."""

    loads: tuple[LoadResult, ...]


def policy_result(
    policy: str, account: Account, duration_s: float, replicas: int, best: Account | None
) -> PolicyResult:
    """One row, compared with the oracle's account `best`."""
    good = sum(account.good)
    of_best = None if best is None else sum(best.good)
    return PolicyResult(
        policy=policy,
        goodput_rps=round(good / duration_s, 4),
        offered_rps=round(sum(account.offered) / duration_s, 4),
        attainment_percent={goal.name: round(account.attainment(tier), 3) for tier, goal in enumerate(account.goals)},
        ttft_ms=Percentiles.of(account.ttft),
        tpot_ms=Percentiles.of(account.tpot),
        switches_per_replica_hour=round(account.switches * 3600.0 / duration_s / replicas, 3),
        pool_moves_per_hour=round(account.moves * 3600.0 / duration_s, 3),
        regret_percent=None if of_best is None else round(100.0 * (1 - good / of_best), 3) if of_best else 0.0,
    )


SLICES = 200
REPORT_EVERY = 500
"""Requests between two updates of the progress bar."""

Progress = Callable[[str, float], None]
"""Told what is running and how much of it (0 to 1) is done."""
CaseProgress = Callable[[int, str, float], None]
"""The same, with the number of the case in front."""


@dataclass(frozen=True, slots=True)
class Case:
    """One load in one world."""

    load: NamedLoad
    scenario: Scenario


@dataclass(frozen=True, slots=True)
class Plan:
    """Which policies run in every case, and how the oracle searches."""

    policies: tuple[str, ...]
    seed: int
    search: Search


@dataclass(slots=True)
class Detail:
    """What one case leaves for the table and the plots, beyond the contract.

    `bound_rps`: the proven upper bound on goodput, None where it was not computed.
    """

    case: Case
    accounts: dict[str, Account] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    bound_rps: float | None = None


Known = dict[tuple[str, str], tuple[Account, Series]]
"""Runs by load and policy that hold for every switching cost, because nothing is ever converted."""


def compare(case: Case, plan: Plan, progress: Progress, known: Known) -> tuple[LoadResult, Detail]:
    """All policies under one load. The oracle is the best of its own searches and of all other policies run."""
    detail, policies, seed = Detail(case), plan.policies, plan.seed
    for policy in policies:
        if policy != ORACLE:
            key = (case.load.name, policy)
            run = known.get(key) or _run(case, policy, seed, progress)
            progress(policy, 1.0)
            detail.accounts[policy], detail.series[policy] = run
            if policy.startswith(("static:", SPLIT)):
                known[key] = run
    if ORACLE in policies:
        detail.accounts[ORACLE], detail.series[ORACLE] = _search(case, plan, progress)
        best = max(detail.accounts, key=lambda name: sum(detail.accounts[name].good))
        detail.accounts[ORACLE], detail.series[ORACLE] = detail.accounts[best], detail.series[best]
        bound = upper_bound(case.scenario, list(case.load.jobs()))
        detail.bound_rps = None if bound is None else bound / case.load.duration_s
    oracle = detail.accounts.get(ORACLE)
    rows = tuple(
        policy_result(name, detail.accounts[name], case.load.duration_s, case.scenario.replicas, oracle)
        for name in policies
    )
    return LoadResult(name=case.load.name, switch_cost_s=case.scenario.switch_s, policies=rows), detail


def compare_all(cases: Sequence[Case], plan: Plan, progress: CaseProgress) -> Iterator[tuple[LoadResult, Detail]]:
    """Every case in turn, each as soon as it is done."""
    known: Known = {}
    for number, case in enumerate(cases):
        yield compare(case, plan, partial(progress, number), known)


def _series(case: Case) -> Series:
    return Series(case.load.duration_s / SLICES, SLICES)


def _run(case: Case, policy: str, seed: int, progress: Progress) -> tuple[Account, Series]:
    """One policy; requests are drawn as they come, so memory does not grow with the load."""
    series = _series(case)
    fleet = fleet_for(policy, case.scenario, Random(seed + 1), series)
    progress(policy, 0.0)
    for number, job in enumerate(case.load.jobs()):
        fleet.offer(job)
        if number % REPORT_EVERY == 0:
            progress(policy, job.at / case.load.duration_s)
    fleet.settle()
    return fleet.account, series


def _search(case: Case, plan: Plan, progress: Progress) -> tuple[Account, Series]:
    jobs = list(case.load.jobs())
    total, done = searches(case.scenario, plan.search, case.load.duration_s), 0

    def advanced() -> None:
        nonlocal done
        done += 1
        progress(ORACLE, min(1.0, done / total))

    progress(ORACLE, 0.0)
    best = best_found(case.scenario, jobs, plan.search, lambda: (Random(plan.seed + 1), _series(case)), advanced)
    return best.account, best.series or _series(case)
