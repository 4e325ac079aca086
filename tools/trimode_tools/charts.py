"""How all charts look: one style, one pair of axes, names at the ends of lines.

matplotlib is imported when something is drawn: the command line starts without it, and `trimode` installed without
the extra `tools` lacks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import log10
from pathlib import Path
from typing import Any

INK, FAINT, GRID = "#1f2430", "#6b7280", "#e7e9ee"
COLOURS = {"AR": "#d1495b", "S8": "#00798c", "S16": "#3f8efc", "S32": "#7b5ea7", "adaptive": INK}
"""By operating point; `adaptive` is the policy."""
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": GRID,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
}
LABEL_GAP = 0.045
"""Least distance between two labels, as a share of the axis' height."""


@contextmanager
def figure(file: Path, size: tuple[float, float], title: str = "", subtitle: str = "", **grid: Any) -> Iterator[Any]:
    """The panels of a figure of `size` inches, written to `file` at the end; `grid` as for matplotlib's `subplots`."""
    import matplotlib as mpl

    mpl.use("Agg")  # needs no display
    import matplotlib.pyplot as plt

    with mpl.rc_context(STYLE):
        drawn, axes = plt.subplots(figsize=size, squeeze=False, **grid)
        yield [axis for row in axes for axis in row]
        if title:
            drawn.suptitle(title, x=0.02, y=0.975, ha="left", fontsize=14, fontweight="bold")
            drawn.text(0.02, 0.895, subtitle, ha="left", fontsize=9.5, color=FAINT)
        drawn.tight_layout(rect=(0, 0, 1, 0.935 if title else 1), w_pad=2.5)
        drawn.savefig(file, dpi=160)
        plt.close(drawn)


def label(axis: Any, title: str = "", below: str = "", left: str = "", grid: str = "y") -> None:
    """Title and names of the axes, and the grid that goes with them."""
    axis.grid(axis=grid, color=GRID, linewidth=0.9)
    axis.set(title=title, xlabel=below, ylabel=left)


def powers_of_two(axis: Any, ticks: Sequence[int]) -> None:
    """A logarithmic x axis with these ticks."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [str(tick) for tick in ticks])


def log_axes(axis: Any, ticks: Sequence[int], form: Callable[[float], str]) -> None:
    """Both axes logarithmic, with room for names behind the last of `ticks`; `form` writes the y axis' numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    powers_of_two(axis, ticks)
    axis.set_yscale("log", base=10)
    axis.yaxis.set_major_formatter(lambda value, _: form(value))
    axis.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_xlim(ticks[0] * 0.87, ticks[-1] * 1.75)


def label_ends(axis: Any, x: float, ends: Mapping[str, float], colours: Mapping[str, str]) -> None:
    """Each line's name at its end on logarithmic axes, moved apart where lines meet. `ends`: y by name."""
    low, high = (log10(limit) for limit in axis.get_ylim())
    heights = {name: (log10(value) - low) / (high - low) for name, value in ends.items()}
    for name, height in spread(heights, LABEL_GAP).items():
        at = 10 ** (low + height * (high - low))
        weight = "bold" if name == "adaptive" else "normal"
        axis.text(x * 1.1, at, name, color=colours[name], va="center", fontsize=10, fontweight=weight)


def spread(heights: Mapping[str, float], gap: float) -> dict[str, float]:
    """The heights moved apart to at least `gap`, in their order, around where they were."""
    ordered = sorted(heights.items(), key=lambda item: item[1])
    placed: list[float] = []
    for _, height in ordered:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    shift = sum(placed) / len(placed) - sum(height for _, height in ordered) / len(ordered) if placed else 0.0
    return {name: place - shift for (name, _), place in zip(ordered, placed, strict=True)}
