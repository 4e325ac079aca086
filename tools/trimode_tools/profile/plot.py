"""The picture of a profile: what a cycle costs, what it yields, and how well the simulator does with it.

Belongs here: drawing with matplotlib, in the style of the benchmark's pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log10
from pathlib import Path
from typing import Any

from trimode_api.modes import OperatingPoint
from trimode_policy.roofline import Roofline
from trimode_tools.bench.plot import COLOURS, FAINT, GRID, INK, axes_style, spread
from trimode_tools.profile.fit import Cell
from trimode_tools.profile.table import cells_at, tokens_per_s
from trimode_tools.profile.validate import Comparison
from trimode_tools.simulate.profile_file import Profile

OTHERS = ("#c98b2b", "#5b8c5a", "#8c564b", FAINT)
"""Colours of points that the benchmark does not draw."""
LEAST_GAP = 0.045
WITHIN = 0.15
"""What the simulator is meant to keep: shown as a band around 1."""


def draw(
    profile: Profile, roofline: Roofline, comparisons: Sequence[Comparison], title: str, subtitle: str, file: Path
) -> None:
    """Write the picture to `file`; the third panel only where there is something to compare."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    with mpl.rc_context(axes_style()):
        count = 3 if comparisons else 2
        figure, axes = plt.subplots(1, count, figsize=(5.4 * count + 0.4, 4.9), squeeze=False)
        colours = colours_of(profile.points)
        _cycles_panel(axes[0][0], profile, roofline, colours)
        _speed_panel(axes[0][1], profile, colours)
        if comparisons:
            _comparison_panel(axes[0][2], comparisons)
        figure.suptitle(title, x=0.02, y=0.975, ha="left", fontsize=14, fontweight="bold")
        figure.text(0.02, 0.895, subtitle, ha="left", fontsize=9.5, color=FAINT)
        figure.tight_layout(rect=(0, 0, 1, 0.935), w_pad=2.5)
        figure.savefig(file, dpi=160)
        plt.close(figure)


def colours_of(points: Sequence[OperatingPoint]) -> dict[OperatingPoint, str]:
    """As in the benchmark, where it knows the point."""
    others = [point for point in points if str(point) not in COLOURS]
    return {point: COLOURS.get(str(point)) or OTHERS[min(others.index(point), len(OTHERS) - 1)] for point in points}


def _cycles_panel(axis: Any, profile: Profile, roofline: Roofline, colours: Mapping[OperatingPoint, str]) -> None:
    """Dots are measured, lines are the roofline fitted to all of them; hollow and dashed at the longest context."""
    short, long = cells_at(profile), cells_at(profile, longest=True)
    for cells, look in ((long, {"mfc": "white", "ls": "--"}), (short, {"ls": "-"})):
        for point, colour in colours.items():
            line = [cell for cell in cells if cell.point == point]
            batches = [cell.batch for cell in line]
            fitted = [1e3 * roofline.seconds(point, cell.batch, cell.context_tokens) for cell in line]
            measured = [1e3 * cell.seconds for cell in line]
            axis.plot(batches, fitted, color=colour, linewidth=1.3, linestyle=look["ls"], alpha=0.65)
            axis.plot(batches, measured, "o", color=colour, markersize=4.6, mfc=look.get("mfc", colour), zorder=3)
    _log_axes(axis, profile)
    _ends(axis, {cell.point: 1e3 * cell.seconds for cell in short if cell.batch == _most(profile)}, colours, profile)
    contexts = [f"{_mean(cells):,.0f}" for cells in (short, long)]
    axis.plot([], [], "o", color=INK, markersize=4.6, label=f"measured, {contexts[0]} tokens cached")
    if contexts[0] != contexts[1]:
        axis.plot([], [], "o", color=INK, mfc="white", markersize=4.6, label=f"measured, {contexts[1]} tokens cached")
    axis.plot([], [], color=INK, linewidth=1.3, label="fitted roofline")
    axis.legend(frameon=False, loc="upper left", fontsize=8.5, labelcolor=INK)
    _finish(axis, "milliseconds per cycle", "requests decoding")


def _speed_panel(axis: Any, profile: Profile, colours: Mapping[OperatingPoint, str]) -> None:
    ends: dict[OperatingPoint, float] = {}
    for point, colour in colours.items():
        line = [(c.batch, s) for c in cells_at(profile) if c.point == point and (s := tokens_per_s(profile, c))]
        if line:
            axis.plot(*zip(*line, strict=True), color=colour, linewidth=1.8, marker="o", markersize=3.6)
            ends[point] = line[-1][1]
    _log_axes(axis, profile)
    _ends(axis, ends, colours, profile)
    _finish(axis, "tokens per second, prompts left out", "requests decoding")


def _comparison_panel(axis: Any, comparisons: Sequence[Comparison]) -> None:
    """Predicted over measured: 1 is right."""
    axis.axhspan(1 - WITHIN, 1 + WITHIN, color=GRID, alpha=0.55, linewidth=0)
    axis.axhline(1, color=FAINT, linewidth=1)
    clients = [each.clients for each in comparisons]
    for index, (name, colour) in enumerate((("throughput", INK), ("TTFT p95", "#3f8efc"), ("latency p95", "#d1495b"))):
        ratios = [1 + each.errors[index] for each in comparisons]
        axis.plot(clients, ratios, color=colour, marker="o", markersize=4.6, linewidth=1.6, label=name)
    axis.set_xscale("log", base=2)
    axis.set_xticks(clients, [str(count) for count in clients])
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, 0.6), max(high, 1.4))
    axis.legend(frameon=False, loc="upper left", fontsize=9, labelcolor=INK)
    _finish(axis, "the simulator: predicted over measured", "clients at once, adaptive")


def _log_axes(axis: Any, profile: Profile) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    batches = sorted({cycle.batch for cycle in profile.cycles})
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=10)
    axis.set_xticks(batches, [str(batch) for batch in batches])
    axis.yaxis.set_major_formatter(_plain())
    axis.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_xlim(batches[0] * 0.85, batches[-1] * 1.7)


def _plain() -> Callable[[float, int], str]:
    return lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}"


def _ends(
    axis: Any, ends: Mapping[OperatingPoint, float], colours: Mapping[OperatingPoint, str], profile: Profile
) -> None:
    """Each line's name at its end, moved apart where lines meet."""
    low, high = (log10(limit) for limit in axis.get_ylim())
    heights = {str(point): (log10(value) - low) / (high - low) for point, value in ends.items()}
    names = {str(point): colour for point, colour in colours.items()}
    for name, height in spread(heights, LEAST_GAP).items():
        at = 10 ** (low + height * (high - low))
        axis.text(_most(profile) * 1.12, at, name, color=names[name], va="center", fontsize=10)


def _most(profile: Profile) -> int:
    return max(cycle.batch for cycle in profile.cycles)


def _mean(cells: Sequence[Cell]) -> float:
    return sum(cell.context_tokens for cell in cells) / len(cells)


def _finish(axis: Any, title: str, below: str) -> None:
    axis.grid(axis="y", color=GRID, linewidth=0.9)
    axis.set_axisbelow(True)
    axis.tick_params(length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.set_title(title, loc="left", fontsize=11, color=INK)
    axis.set_xlabel(below)
