"""The picture of a benchmark: tokens per second over concurrency, a panel for each part.

Belongs here: drawing with matplotlib, on a light ground, labelled at the lines' ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from pathlib import Path
from typing import Any

from trimode_tools.bench.figures import ADAPTIVE, STATIC, Row, concurrencies, speed

INK, FAINT, GRID = "#1f2430", "#6b7280", "#e7e9ee"
COLOURS = {"AR": "#d1495b", "S8": "#00798c", "S16": "#3f8efc", "S32": "#7b5ea7", ADAPTIVE: INK}
WIDTHS = {ADAPTIVE: 3.2}
_LEAST_GAP = 0.045
"""Between two labels, as a part of the axis' height."""


def axes_style() -> Any:
    """matplotlib's settings for all our pictures."""
    return {
        "font.family": "DejaVu Sans",
        "font.size": 10.5,
        "text.color": INK,
        "axes.labelcolor": FAINT,
        "axes.edgecolor": GRID,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "figure.facecolor": "white",
        "axes.facecolor": "white",
    }


def draw(parts: Mapping[str, Sequence[Row]], title: str, subtitle: str, file: Path) -> None:
    """Write the picture of `parts` (title of a panel to its rows) to `file`."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    with mpl.rc_context(axes_style()):
        figure, axes = plt.subplots(1, len(parts), figsize=(5.6 * len(parts) + 0.6, 4.9), sharey=True, squeeze=False)
        for axis, (name, rows) in zip(axes[0], parts.items(), strict=True):
            _panel(axis, name, rows)
        axes[0][0].set_ylabel("tokens per second, all clients")
        figure.suptitle(title, x=0.02, y=0.975, ha="left", fontsize=14, fontweight="bold")
        figure.text(0.02, 0.895, subtitle, ha="left", fontsize=9.5, color=FAINT)
        figure.tight_layout(rect=(0, 0, 1, 0.935))
        figure.savefig(file, dpi=160)
        plt.close(figure)


def _panel(axis: Any, name: str, rows: Sequence[Row]) -> None:
    levels = concurrencies(rows)
    for point in (*STATIC, ADAPTIVE):
        line = [(level, found) for level in levels if (found := speed(rows, point, level)) is not None]
        if line:
            axis.plot(
                *zip(*line, strict=True),
                color=COLOURS[point],
                linewidth=WIDTHS.get(point, 1.6),
                alpha=1 if point == ADAPTIVE else 0.9,
                marker="o",
                markersize=5 if point == ADAPTIVE else 3.2,
                solid_capstyle="round",
                zorder=3 if point == ADAPTIVE else 2,
            )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=10)
    axis.set_xticks(levels, [str(level) for level in levels])
    axis.yaxis.set_major_formatter(lambda value, _: _thousands(value))
    axis.yaxis.set_major_locator(_log_locator())
    axis.yaxis.set_minor_locator(_no_locator())
    axis.set_xlim(levels[0] * 0.88, levels[-1] * 1.75)
    axis.grid(axis="y", color=GRID, linewidth=0.9)
    axis.tick_params(length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.set_xlabel("clients at once")
    axis.set_title(name, loc="left", fontsize=11, color=INK)
    _label_ends(axis, rows, levels[-1])


def _label_ends(axis: Any, rows: Sequence[Row], level: int) -> None:
    """Each line's name at its end, moved apart where lines meet."""
    ends = {point: found for point in COLOURS if (found := speed(rows, point, level)) is not None}
    low, high = (log10(limit) for limit in axis.get_ylim())
    heights = {point: (log10(value) - low) / (high - low) for point, value in ends.items()}
    for point, height in spread(heights, _LEAST_GAP).items():
        axis.text(
            level * 1.09,
            10 ** (low + height * (high - low)),
            point,
            color=COLOURS[point],
            fontweight="bold" if point == ADAPTIVE else "normal",
            va="center",
            fontsize=10,
        )


def spread(heights: Mapping[str, float], gap: float) -> dict[str, float]:
    """The heights moved apart to at least `gap`, in their order, around where they were."""
    ordered = sorted(heights.items(), key=lambda item: item[1])
    placed: list[float] = []
    for _, height in ordered:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    shift = sum(placed) / len(placed) - sum(height for _, height in ordered) / len(ordered) if placed else 0.0
    return {name: place - shift for (name, _), place in zip(ordered, placed, strict=True)}


def _thousands(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _log_locator() -> Any:
    from matplotlib.ticker import LogLocator

    return LogLocator(base=10, subs=(1.0, 2.0, 5.0))


def _no_locator() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
