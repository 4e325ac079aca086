"""What a benchmark says: its table, tokens per second over concurrency, and the ramp over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from rich.table import Table
from rich.text import Text

from trimode_local.status_line import PROBE
from trimode_tools import charts, tables
from trimode_tools.bench.figures import ADAPTIVE, POINTS, Row, Sample, best_static, concurrencies, speed


def table(title: str, rows: tuple[Row, ...]) -> Table:
    """Tokens per second; the best static point of each concurrency stands out."""
    made = tables.table(f"{title}: tokens/s", ("clients", *POINTS))
    for level in concurrencies(rows):
        best = best_static(rows, level)
        cells = []
        for point in POINTS:
            best_here = best is not None and point == best[0]
            style = "bold green" if best_here else "bold cyan" if point == ADAPTIVE else ""
            cells.append(Text(tables.number(speed(rows, point, level), "{:,.0f}"), style=style))
        made.add_row(str(level), *cells)
    return made


def draw(parts: Mapping[str, Sequence[Row]], title: str, subtitle: str, file: Path) -> None:
    """A panel for each of `parts` (its title to its rows), written to `file`."""
    size = (5.6 * len(parts) + 0.6, 4.9)
    with charts.figure(file, size, title, subtitle, ncols=len(parts), sharey=True) as panels:
        for axis, (name, rows) in zip(panels, parts.items(), strict=True):
            levels = concurrencies(rows)
            for point in POINTS:
                line = [(level, found) for level in levels if (found := speed(rows, point, level)) is not None]
                if line:
                    width, dot, order = (3.2, 5, 3) if point == ADAPTIVE else (1.6, 3.2, 2)
                    look = {"color": charts.COLOURS[point], "linewidth": width, "markersize": dot, "zorder": order}
                    axis.plot(*zip(*line, strict=True), marker="o", solid_capstyle="round", **look)
            charts.log_axes(axis, levels, lambda value: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
            charts.label(axis, name, "clients at once")
            ends = {point: end for point in POINTS if (end := speed(rows, point, levels[-1])) is not None}
            charts.label_ends(axis, levels[-1], ends, charts.COLOURS)
        panels[0].set_ylabel("tokens per second, all clients")


def draw_ramp(samples: Sequence[Sample], file: Path) -> None:
    """Clients and speed over time, on a ground in the colour of the point that runs."""
    with charts.figure(file, (9.6, 5.2), nrows=2, sharex=True, height_ratios=(2, 1)) as (above, below):
        seconds = [sample.seconds for sample in samples]
        above.plot(seconds, [s.tokens_per_s for s in samples], color=charts.COLOURS[ADAPTIVE], linewidth=2.4)
        below.step(seconds, [s.clients for s in samples], color=charts.FAINT, linewidth=1.8, where="post")
        below.set_yscale("log", base=2)
        below.set_yticks([1, 4, 16, 64], ["1", "4", "16", "64"])
        charts.label(above, "A load that rises and falls: the point that runs", left="tokens per second")
        charts.label(below, below="seconds", left="clients")
        top = above.get_ylim()[1] * 1.1  # room for the names of the points
        above.set_ylim(0, top)
        for start, end, point in stretches(samples):
            colour = charts.COLOURS.get(point, charts.FAINT)
            for axis in (above, below):
                axis.axvspan(start, end, color=colour, alpha=0.13, linewidth=0)
            if end - start > (seconds[-1] - seconds[0]) / 22:  # else the names would overlap
                above.text((start + end) / 2, top * 0.97, point, ha="center", va="top", color=colour)


def stretches(samples: Sequence[Sample]) -> list[tuple[float, float, str]]:
    """From, to and point of each time without a change; a probe is none."""
    found: list[tuple[float, float, str]] = []
    for before, after in pairwise(samples):
        point = found[-1][2] if found and before.reason == PROBE else before.point
        if found and found[-1][2] == point:
            found[-1] = (found[-1][0], after.seconds, point)
        else:
            found.append((before.seconds, after.seconds, point))
    return found
