"""What a comparison says: the table that the command prints, and charts of load, points, attainment and regret."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from trimode_tools import charts, tables
from trimode_tools.simulate.run import Detail, LoadResult
from trimode_tools.simulator.measures import Series
from trimode_tools.simulator.policies import ORACLE, TRIMODE


def table_of(result: LoadResult, detail: Detail, gpu_hour_price: float) -> Table:
    """One load: a row per policy. GPU hours and cost follow from what its fleet was up for."""
    cost = f"switching costs {result.switch_cost_s:g} s" if result.switch_cost_s else "free switching"
    bound = "" if detail.bound_rps is None else f"; no policy can exceed {detail.bound_rps:.2f} good requests/s"
    tiers = [f"{tier} %" for tier in result.policies[0].attainment_percent]
    headings = ["policy", "good/s", "offered/s", *tiers, "TTFT p50/p95/p99 ms", "TPOT p50/p95/p99 ms"]
    headings += ["switches/h", "moves/h", "GPU h", "$/M tokens", "regret %"]
    made = tables.table(f"{result.name}, {cost}{bound}", headings, words=("policy",))
    for row in result.policies:
        account = detail.accounts[row.policy]
        hours = account.up_s / 3600.0
        made.add_row(
            row.policy,
            f"{row.goodput_rps:.2f}",
            f"{row.offered_rps:.2f}",
            *(f"{value:.1f}" for value in row.attainment_percent.values()),
            f"{row.ttft_ms.p50:.0f}/{row.ttft_ms.p95:.0f}/{row.ttft_ms.p99:.0f}",
            f"{row.tpot_ms.p50:.2f}/{row.tpot_ms.p95:.2f}/{row.tpot_ms.p99:.2f}",
            f"{row.switches_per_replica_hour:.0f}",
            f"{row.pool_moves_per_hour:.0f}",
            f"{hours:.2f}",
            f"{1e6 * hours * gpu_hour_price / account.tokens if account.tokens else 0.0:.3f}",
            tables.number(row.regret_percent, "{:.1f}"),
        )
    return made


def draw(results: Sequence[LoadResult], details: Sequence[Detail], folder: Path) -> list[Path]:
    """Write the PNG files; returns their paths."""
    paths = []
    for result, detail in zip(results, details, strict=True):
        name = f"{result.name}-{result.switch_cost_s:g}s"
        policy = TRIMODE if TRIMODE in detail.series else next(iter(detail.series))
        paths += [folder / f"{name}-points.png", folder / f"{name}-attainment.png"]
        _over_time(detail.series[policy], f"{name}: {policy}", paths[-2])
        with charts.figure(paths[-1], (10, 4)) as (axis,):
            heights = {
                tier: [row.attainment_percent[tier] for row in result.policies]
                for tier in result.policies[0].attainment_percent
            }
            _groups(axis.bar, axis.set_xticks, [row.policy for row in result.policies], heights)
            axis.set_ylim(0, 105)
            axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
            charts.label(axis, name, left="requests within objectives, %")
    if any(row.regret_percent is not None for result in results for row in result.policies):
        paths.append(folder / "regret.png")
        with charts.figure(paths[-1], (10, 0.5 * len(results) + 3)) as (axis,):
            lost = {
                row.policy: [
                    next(r.regret_percent or 0.0 for r in each.policies if r.policy == row.policy) for each in results
                ]
                for row in results[0].policies
                if row.policy != ORACLE
            }
            _groups(axis.barh, axis.set_yticks, [f"{r.name}, {r.switch_cost_s:g} s" for r in results], lost)
            axis.legend(loc="upper left", bbox_to_anchor=(1, 1), reverse=True)
            charts.label(axis, below="goodput lost against the oracle, %", grid="x")
    return paths


def _over_time(series: Series, title: str, path: Path) -> None:
    """Load above, the points that ran below."""
    with charts.figure(path, (10, 6), nrows=2, sharex=True) as (above, below):
        minutes = [(i + 0.5) * series.every_s / 60.0 for i in range(series.slices)]
        above.plot(minutes, [n / series.every_s for n in series.offered], color=charts.FAINT, label="offered")
        above.plot(minutes, [n / series.every_s for n in series.good], color="#2e7d32", label="met objectives")
        above.set_ylim(bottom=0)
        charts.label(above, title, left="requests/s")
        points = sorted(series.at, key=lambda point: point.block_length)
        totals = [sum(series.at[point][i] for point in points) or 1.0 for i in range(series.slices)]
        shares = [[s / total for s, total in zip(series.at[point], totals, strict=True)] for point in points]
        colours = [charts.COLOURS.get(str(point), charts.FAINT) for point in points]
        below.stackplot(minutes, shares, labels=[str(point) for point in points], colors=colours, alpha=0.8)
        below.set_ylim(0, 1)
        charts.label(below, below="minutes", left="share of decoding time")
        for axis in (above, below):
            axis.legend(loc="upper left", bbox_to_anchor=(1, 1), reverse=axis is below)


def _groups(
    bars: Callable[..., Any], ticks: Callable[..., Any], names: Sequence[str], series: Mapping[str, Sequence[float]]
) -> None:
    """A group of bars for each of `names`, and in each group a bar of each series."""
    width = 0.8 / max(1, len(series))
    for place, (label, values) in enumerate(series.items()):
        bars([i + place * width for i in range(len(names))], values, width, label=label)
    # Bars are centred at their places, so a group's middle is half a bar before that of its 0.8.
    ticks([i + 0.4 - width / 2 for i in range(len(names))], names)
