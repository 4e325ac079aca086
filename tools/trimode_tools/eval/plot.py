"""The pictures: accuracy against speed, and what diffusion loses by threshold and block length.

Belongs here: drawing with matplotlib, in the style of the benchmark's pictures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimode_api.modes import Mode, OperatingPoint
from trimode_tools.bench.plot import FAINT, GRID, INK, axes_style
from trimode_tools.eval.metrics import Mark

MODE_COLOURS = {
    Mode.AR: "#d1495b",
    Mode.SELF_SPECULATION: "#00798c",
    Mode.QUADRATIC: "#2e7d32",
    Mode.DIFFUSION: "#7b5ea7",
}
BLOCK_COLOURS = ("#b8a9d9", "#7b5ea7", "#4a3470", "#231942", INK)


def draw(marks: Sequence[Mark], title: str, subtitle: str, file: Path) -> None:
    """Write the picture to `file`; the second panel only where diffusion ran at several points."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    lossy = [mark for mark in marks if _point(mark).mode is Mode.DIFFUSION]
    two = len(lossy) > 1 and any(_point(mark).mode is Mode.AR for mark in marks)
    with mpl.rc_context(axes_style()):
        figure, axes = plt.subplots(1, 1 + two, figsize=(6.4 + 5.4 * two, 4.9), squeeze=False)
        _speed_panel(axes[0][0], marks)
        if two:
            _loss_panel(axes[0][1], marks, lossy)
        figure.suptitle(title, x=0.02, y=0.975, ha="left", fontsize=14, fontweight="bold")
        figure.text(0.02, 0.895, subtitle, ha="left", fontsize=9.5, color=FAINT)
        figure.tight_layout(rect=(0, 0, 1, 0.935), w_pad=3)
        figure.savefig(file, dpi=160)
        plt.close(figure)


def _speed_panel(axis: Any, marks: Sequence[Mark]) -> None:
    """Up is right, to the right is fast; the bars are 95 % intervals."""
    for mark in marks:
        colour = MODE_COLOURS[_point(mark).mode]
        x, y = mark.tokens_per_second, 100 * mark.accuracy
        low, high = (100 * bound for bound in mark.interval)
        axis.errorbar(
            x, y, yerr=[[y - low], [high - y]], fmt="o", color=colour, markersize=6.5, elinewidth=1.1, alpha=0.9
        )
    axis.set_xlim(left=0, right=1.2 * max(mark.tokens_per_second for mark in marks))
    axis.set_ylim(top=min(100.0, axis.get_ylim()[1]) + 1.5)
    _label(axis, marks)
    for mode, colour in MODE_COLOURS.items():
        if any(_point(mark).mode is mode for mark in marks):
            axis.plot([], [], "o", color=colour, label=mode.value)
    axis.legend(frameon=False, loc="lower left", fontsize=9.5, labelcolor=INK)
    axis.set_xlabel("tokens per second")
    axis.set_ylabel("accuracy, %")
    _finish(axis, "accuracy against speed")


def _loss_panel(axis: Any, marks: Sequence[Mark], lossy: Sequence[Mark]) -> None:
    """A line for each block length over the thresholds, in points of accuracy below AR."""
    base = next(mark for mark in marks if _point(mark).mode is Mode.AR)
    lines: defaultdict[int, list[tuple[float, Mark]]] = defaultdict(list)
    for mark in lossy:
        point = _point(mark)
        lines[point.block_length].append((point.threshold or 1.0, mark))
    thresholds = sorted({threshold for line in lines.values() for threshold, _ in line})
    axis.axhline(0, color=MODE_COLOURS[Mode.AR], linewidth=1.4)
    axis.text(-0.36, 0.4, "AR", color=MODE_COLOURS[Mode.AR], va="bottom", fontsize=10)
    for index, (block, line) in enumerate(sorted(lines.items())):
        xs = [thresholds.index(threshold) + 0.05 * (index - (len(lines) - 1) / 2) for threshold, _ in line]
        ys = [100 * (mark.accuracy - base.accuracy) for _, mark in line]
        spans = [[100 * abs(mark.accuracy - mark.interval[side]) for _, mark in line] for side in (0, 1)]
        colour = BLOCK_COLOURS[index % len(BLOCK_COLOURS)]
        axis.errorbar(
            xs,
            ys,
            yerr=spans,
            color=colour,
            marker="o",
            markersize=5,
            linewidth=1.8,
            elinewidth=0.9,
            label=f"B={block}",
        )
    axis.set_xticks(range(len(thresholds)), [f"{threshold:g}" for threshold in thresholds])
    axis.set_xlim(-0.4, len(thresholds) - 0.6)
    axis.set_ylim(top=max(3.0, axis.get_ylim()[1]))
    axis.legend(frameon=False, loc="lower right", fontsize=9.5, title="block length", labelcolor=INK)
    axis.set_xlabel("threshold")
    axis.set_ylabel("points of accuracy against AR")
    _finish(axis, "what diffusion loses")


def _label(axis: Any, marks: Sequence[Mark]) -> None:
    """Each point's name beside it: on the side away from its nearest neighbour, lower where a name is there already."""
    from matplotlib.patheffects import withStroke

    width, height = axis.get_xlim()[1], axis.get_ylim()[1] - axis.get_ylim()[0]
    spots = [(mark.tokens_per_second, 100 * mark.accuracy) for mark in marks]
    taken: list[tuple[float, float]] = []
    for mark, (x, y) in sorted(zip(marks, spots, strict=True), key=lambda item: (-item[1][1], item[1][0])):
        beside = [other for other in spots if other != (x, y) and abs(other[1] - y) < 0.05 * height]
        crowded = any(0 <= other - x < 0.15 * width for other, _ in beside)
        left = crowded and not any(0 < x - other < 0.15 * width for other, _ in beside)
        at = x - 0.065 * width if left else x + 0.065 * width
        level = y
        while any(abs(at - other) < 0.12 * width and abs(level - lower) < 0.042 * height for other, lower in taken):
            level -= 0.01 * height
        taken.append((at, level))
        axis.annotate(
            mark.point,
            (x - 0.013 * width if left else x + 0.013 * width, level),
            color=MODE_COLOURS[_point(mark).mode],
            fontsize=9.5,
            va="center",
            ha="right" if left else "left",
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=5,
        )


def _finish(axis: Any, title: str) -> None:
    axis.grid(color=GRID, linewidth=0.9)
    axis.set_axisbelow(True)
    axis.tick_params(length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.set_title(title, loc="left", fontsize=11, color=INK)


def _point(mark: Mark) -> OperatingPoint:
    return OperatingPoint.parse(mark.point)
