"""`results.json`: the contract of what a simulation says.

All rates are per second of the load's duration.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from trimode_tools.simulator.measures import Account, Histogram


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
