"""The simulator against published measurements: `python -m trimode_lab.validation [--data DIR]`.

Cycle times come from `nld_b200_cycle_ms.csv`, what is predicted is `nld_14b_b200_linearspec.csv`: tokens per second of
linear self-speculation by number of concurrent clients.

What the files leave open is filled in as follows. Acceptance: per dataset, such that one client alone gets its
measured speed. 14B cycles at block lengths 16 and 32 (not published): the 14B roofline, bent as the 8B cycles bend
theirs. Host: GPU time is not all of a cycle; one number, seconds per cycle and client, is fitted to 128 clients over
all datasets; everything between 1 and 128 clients is then a prediction.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from pathlib import Path
from random import Random
from statistics import fmean

from trimode_api.modes import OperatingPoint, speculation
from trimode_policy.profiles import PROFILES
from trimode_policy.roofline import ModelShape, Roofline
from trimode_tools.simulate.csv_rows import rows
from trimode_tools.simulate.hardware import shape_of
from trimode_tools.simulator.cost_model import GAIN_BY_LENGTH, Hardware, ProfiledHardware, Truth
from trimode_tools.simulator.point_policies import Fixed
from trimode_tools.simulator.policies import assemble
from trimode_tools.simulator.pools import FLEX_POOL
from trimode_tools.simulator.ports import OnlyReplica, PoolSpec
from trimode_tools.simulator.rows import EngineLimits
from trimode_tools.simulator.scenario import Scenario
from trimode_tools.simulator.workload import Goal, Job

PROMPT, OUTPUT = 150, 300
"""Tokens of a request; the source does not say, and they matter little at these speeds."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One published row."""

    dataset: str
    clients: int
    point: OperatingPoint
    system: float
    user: float


@dataclass(frozen=True, slots=True)
class Predicted:
    """A published row beside what the simulator says, in tokens per second of one user."""

    row: Measured
    user: float

    @property
    def error(self) -> float:
        """Relative, by logarithm: the same for twice as fast and half as fast."""
        return abs(log(self.user / self.row.user))


@dataclass(frozen=True, slots=True)
class WithHost:
    """Hardware whose cycles also cost `host_s` seconds per client."""

    gpu: Hardware
    host_s: float

    def seconds(self, point: OperatingPoint, batch: int, context_tokens: float) -> float:
        return self.gpu.seconds(point, batch, context_tokens) + self.host_s * batch

    def prefill_seconds(self, tokens: int, point: OperatingPoint | None = None) -> float:
        return self.gpu.prefill_seconds(tokens, point)


def published(data: Path) -> list[Measured]:
    """All rows of the 14B measurements."""
    columns = ("dataset", "concurrency", "block_length", "system_tokens_per_s", "user_tokens_per_s")
    return [
        Measured(
            row.values["dataset"],
            int(row.number("concurrency", 1)),
            speculation(int(row.number("block_length", 4))),
            row.number("system_tokens_per_s"),
            row.number("user_tokens_per_s"),
        )
        for row in rows(data / "nld_14b_b200_linearspec.csv", columns)
    ]


def gpu_of(data: Path) -> ProfiledHardware:
    """The 14B model on a B200, as far as published."""
    cycles: dict[str, list[tuple[OperatingPoint, int, float, float]]] = {"8B": [], "14B": []}
    for row in rows(data / "nld_b200_cycle_ms.csv", ("model", "block_length", "concurrency", "cycle_ms")):
        point, seconds = speculation(int(row.number("block_length"))), row.number("cycle_ms") / 1e3
        cycles[row.values["model"]].append((point, int(row.number("concurrency")), float(PROMPT), seconds))
    small, large = (ProfiledHardware.measured(_b200(name), cycles[name]) for name in ("8B", "14B"))
    return replace(large, cells={**small.cells, **large.cells})


def _b200(model: str) -> Roofline:
    return PROFILES["B200"].roofline(ModelShape(**shape_of(model).model_dump()))


def user_speed(hardware: Hardware, clients: int, point: OperatingPoint, at_32: float) -> float:
    """Simulated tokens per second of one user after its first token, the median over requests."""
    truth = Truth(hardware, (at_32,))
    limits = EngineLimits(clients, 1e9, noise=0.0)
    goal = Goal("all", 1e6, 1e6, 0)
    scenario = Scenario(truth, _b200("14B"), (goal,), (point,), 1, limits)
    fleet = assemble(scenario, [PoolSpec(FLEX_POOL, (point,), lambda: Fixed(point))], OnlyReplica(), Random(0))
    account, sent = fleet.account, 0
    while account.finished[0] < 4 * clients + 20:
        # The next request of a client comes after the cycle that ended its last one, as over a network. Sent within
        # that cycle (the fleet's `client`), the error at 32 clients leaves the 15 % that the docs promise.
        while sent - account.finished[0] < clients:
            sent += 1
            fleet.offer(Job(fleet.now, PROMPT, OUTPUT, 0, 0))
        fleet.advance(fleet.events[0][0])
    return 1.0 / account.tpot.percentile(50)


def fit_acceptance(hardware: Hardware, alone: Measured) -> float:
    """Tokens per cycle at block length 32 with which one client gets its measured speed."""
    cycle = hardware.seconds(alone.point, 1, PROMPT + OUTPUT / 2)
    return 1.0 + (alone.user * cycle - 1.0) / GAIN_BY_LENGTH[alone.point.block_length]


def predict(data: Path, host_s: float) -> list[Predicted]:
    """Every row but those of one client, which acceptance was fitted to."""
    hardware = WithHost(gpu_of(data), host_s)
    table = published(data)
    accepted = {row.dataset: fit_acceptance(hardware, row) for row in table if row.clients == 1}
    return [
        Predicted(row, user_speed(hardware, row.clients, row.point, accepted[row.dataset]))
        for row in table
        if row.clients > 1
    ]


def fit_host(data: Path) -> float:
    """Host seconds per cycle and client: the geometric mean over datasets at 128 clients comes out right."""
    low, high = 0.0, 5e-3
    for _ in range(12):
        middle = (low + high) / 2
        most = [p for p in predict(data, middle) if p.row.clients == 128]
        low, high = (middle, high) if fmean(log(p.user / p.row.user) for p in most) > 0 else (low, middle)
    return (low + high) / 2


def summary(predictions: Sequence[Predicted]) -> Mapping[int, tuple[float, float, float]]:
    """By number of clients: measured and predicted tokens/s per user (geometric means), mean error in percent."""
    found = {}
    for clients in sorted({p.row.clients for p in predictions}):
        here = [p for p in predictions if p.row.clients == clients]
        measured = exp(fmean(log(p.row.user) for p in here))
        predicted = exp(fmean(log(p.user) for p in here))
        found[clients] = (measured, predicted, 100 * (exp(fmean(p.error for p in here)) - 1))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description="The simulator against published measurements.")
    parser.add_argument("--data", type=Path, default=Path("examples/data"))
    data: Path = parser.parse_args(arguments).data
    host = fit_host(data)
    for name, seconds in (("GPU time alone", 0.0), (f"with {1e6 * host:.0f} us of host time per client", host)):
        sys.stdout.write(f"\n{name}\nclients  measured  predicted  error %   (tokens/s per user, 7 datasets)\n")
        for clients, (measured, predicted, error) in summary(predict(data, seconds)).items():
            sys.stdout.write(f"{clients:7d}  {measured:8.0f}  {predicted:9.0f}  {error:7.0f}\n")


if __name__ == "__main__":
    main()
