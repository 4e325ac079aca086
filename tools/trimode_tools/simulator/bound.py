"""A proven upper bound on goodput, by relaxation.

Every good request needs the machine for a while: its prompt once, and its tokens in cycles it shares. However it is
scheduled, a cycle over b rows costs at least `overhead + w * reading + (1 - w) * arithmetic` seconds for any w in
[0, 1], because a roofline takes the larger of the two; and that sum splits among its rows. So each request has a
least share of machine time: the lower convex hull over (point, batch) of (seconds per token for the user, machine
seconds per token), read at the objective, since a request may mix fast and slow cycles but keeps its mean. The
relaxed problem allows fractional requests, preemption and free movement between machines; only the total machine time
between a request's arrival and its latest good end counts. Of that linear programme any prices of machine time give
an upper bound (weak duality): capacity at its price, plus what each request has left of its worth of 1. The prices are
taken from a greedy filling, cheapest request first. The bound holds for every switching cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil

from trimode_api.modes import OperatingPoint
from trimode_policy.roofline import Roofline, forwards
from trimode_tools.simulator.scenario import Scenario
from trimode_tools.simulator.workload import Job

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of reading against arithmetic; each gives a valid bound, the least is used."""


def upper_bound(scenario: Scenario, jobs: Sequence[Job], slot_s: float = 5.0) -> float | None:
    """At most so many requests (a fraction may remain) can meet their objectives; None unless the truth is a roofline.

    Time: jobs x slots of a window. Outages are not deducted, which keeps it a bound.
    """
    hardware = scenario.truth.hardware
    if not isinstance(hardware, Roofline):
        return None
    return min(_bound(scenario, hardware, jobs, slot_s, weight) for weight in WEIGHTS)


def _bound(scenario: Scenario, roofline: Roofline, jobs: Sequence[Job], slot_s: float, weight: float) -> float:
    best_factor = max((1.0, *(factor for _, factor in scenario.truth.drift)))
    hulls: dict[tuple[int, int], list[tuple[float, float]]] = {}
    needs = []
    for job in jobs:
        key = (job.tier, job.kind)
        if key not in hulls:
            hulls[key] = _hull(scenario, roofline, job.kind, weight, best_factor)
        at_once = max(
            _tokens(scenario, point, job.kind, best_factor) for point in scenario.points
        )  # the first cycle may emit so many
        rest = max(0.0, job.output - at_once)
        pace = scenario.goals[job.tier].tpot_s * (job.output - 1) / rest if rest else 0.0
        per_token = _at(hulls[key], pace) if rest else 0.0
        if per_token is None:
            continue  # cannot meet its pace even alone
        reading = weight * roofline.kv_bytes_per_token * job.prompt / roofline.bytes_per_s
        prompt = (1.0 - weight) * roofline.flops_per_token * job.prompt / roofline.flops_per_s
        needs.append((max(1e-9, prompt + rest * per_token + job.output / at_once * reading), job))
    return _dual(needs, scenario, slot_s)


def _tokens(scenario: Scenario, point: OperatingPoint, kind: int, factor: float) -> float:
    calm = scenario.truth.tokens(point, 0.0)[kind]
    return min(float(point.block_length), 1.0 + (calm - 1.0) * factor)


def _hull(scenario: Scenario, roofline: Roofline, kind: int, weight: float, factor: float) -> list[tuple[float, float]]:
    """Lower convex hull of (user's seconds per token, machine seconds per token) without anybody's context."""
    pairs = []
    for point in scenario.points:
        tokens = _tokens(scenario, point, kind, factor)
        for batch in range(1, scenario.limits.rows + 1):
            read = weight * roofline.weight_bytes / roofline.bytes_per_s
            compute = (1 - weight) * roofline.flops_per_token * batch * point.width / roofline.flops_per_s
            cycle = forwards(point) * (roofline.overhead_s + read + compute)
            pairs.append((cycle / tokens, cycle / batch / tokens))
    pairs.sort()
    hull: list[tuple[float, float]] = []
    for x, y in pairs:
        while len(hull) >= 2:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            hull.pop()  # the middle one lies on or above the line between its neighbours
        if not hull or y < hull[-1][1]:
            hull.append((x, y))
    return hull


def _at(hull: Sequence[tuple[float, float]], x: float) -> float | None:
    if x < hull[0][0]:
        return None
    for (x0, y0), (x1, y1) in pairwise(hull):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return hull[-1][1]


def _dual(needs: list[tuple[float, Job]], scenario: Scenario, slot_s: float) -> float:
    """Value of the dual at the prices that a greedy filling suggests."""
    if not needs:
        return 0.0
    last = max(_latest(job, scenario) for _, job in needs)
    capacity = slot_s * scenario.replicas
    free = [capacity] * (int(last / slot_s) + 1)
    prices = [0.0] * len(free)
    for need, job in sorted(needs, key=lambda pair: pair[0]):
        first, end = int(job.at / slot_s), min(len(free), ceil(_latest(job, scenario) / slot_s))
        missing = need
        for slot in reversed(range(first, end)):  # as late as it may, which leaves room for those that cannot wait
            used = min(free[slot], missing)
            free[slot] -= used
            missing -= used
            if missing <= 0:
                break
        if missing > need * 1e-9:  # left out: its window is worth that much
            prices[first:end] = [max(price, 1.0 / need) for price in prices[first:end]]
    value = capacity * sum(prices)
    for need, job in needs:
        first, end = int(job.at / slot_s), min(len(free), ceil(_latest(job, scenario) / slot_s))
        value += max(0.0, 1.0 - need * min(prices[first:end]))
    return min(value, float(len(needs)))


def _latest(job: Job, scenario: Scenario) -> float:
    goal = scenario.goals[job.tier]
    return job.at + goal.ttft_s + job.output * goal.tpot_s
