"""Plots one wants to show: load and chosen points over time, attainment, regret.

Belongs here: drawing with matplotlib's Agg, which needs no display.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from trimode_api.modes import OperatingPoint
from trimode_tools.simulate.results import LoadResult
from trimode_tools.simulate.run import Detail
from trimode_tools.simulator.measures import Series
from trimode_tools.simulator.policies import TRIMODE


def draw(results: Sequence[LoadResult], details: Sequence[Detail], folder: Path) -> list[Path]:
    """Write the PNG files; returns their paths."""
    paths = []
    for result, detail in zip(results, details, strict=True):
        name = f"{result.name}-{result.switch_cost_s:g}s"
        policy = TRIMODE if TRIMODE in detail.series else next(iter(detail.series))
        paths.append(_over_time(detail.series[policy], f"{name}: {policy}", folder / f"{name}-points.png"))
        paths.append(_attainment(result, name, folder / f"{name}-attainment.png"))
    if any(row.regret_percent is not None for result in results for row in result.policies):
        paths.append(_regret(results, folder / "regret.png"))
    return paths


def _over_time(series: Series, title: str, path: Path) -> Path:
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(10, 6), layout="constrained")
    minutes = [(i + 0.5) * series.every_s / 60.0 for i in range(series.slices)]
    above.plot(minutes, [n / series.every_s for n in series.offered], color="grey", label="offered")
    above.plot(minutes, [n / series.every_s for n in series.good], color="tab:green", label="met objectives")
    above.set(ylabel="requests/s", title=title)
    above.legend(loc="upper left", bbox_to_anchor=(1, 1))
    points = sorted(series.at, key=lambda point: point.block_length)
    below.stackplot(minutes, _shares(series, points), labels=[str(point) for point in points])
    below.set(xlabel="minutes", ylabel="share of decoding time", ylim=(0, 1))
    below.legend(loc="upper left", bbox_to_anchor=(1, 1), reverse=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _shares(series: Series, points: Sequence[OperatingPoint]) -> list[list[float]]:
    totals = [sum(series.at[point][i] for point in points) or 1.0 for i in range(series.slices)]
    return [[series.at[point][i] / totals[i] for i in range(series.slices)] for point in points]


def _attainment(result: LoadResult, title: str, path: Path) -> Path:
    figure, axes = pyplot.subplots(figsize=(10, 4), layout="constrained")
    tiers = tuple(result.policies[0].attainment_percent)
    width = 0.8 / len(tiers)
    for place, tier in enumerate(tiers):
        axes.bar(
            [i + place * width for i in range(len(result.policies))],
            [row.attainment_percent[tier] for row in result.policies],
            width=width,
            label=tier,
        )
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(result.policies))], [r.policy for r in result.policies])
    axes.set(ylabel="requests within objectives, %", title=title, ylim=(0, 105))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _regret(results: Sequence[LoadResult], path: Path) -> Path:
    figure, axes = pyplot.subplots(figsize=(10, 0.5 * len(results) + 3), layout="constrained")
    policies = [row.policy for row in results[0].policies if row.policy != "oracle"]
    height = 0.8 / max(1, len(policies))
    for place, policy in enumerate(policies):
        regrets = [next(r.regret_percent or 0.0 for r in result.policies if r.policy == policy) for result in results]
        axes.barh([i + place * height for i in range(len(results))], regrets, height=height, label=policy)
    axes.set_yticks([i + 0.4 for i in range(len(results))], [f"{r.name}, {r.switch_cost_s:g} s" for r in results])
    axes.set(xlabel="goodput lost against the oracle, %")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), reverse=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
