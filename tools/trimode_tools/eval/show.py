"""How scores are shown: a table for a terminal, Markdown, JSON, and a chart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from trimode_api.modes import Mode, OperatingPoint
from trimode_tools import charts, tables
from trimode_tools.eval.metrics import Score
from trimode_tools.tables import number

HEADINGS = ("point", "accuracy", "95 %", "as AR", "tok/fwd", "tok/cycle", "TTFT", "TPOT", "tok/s")
"""Times in milliseconds. `as AR`: answers equal to AR's; `tok/cycle` is the acceptance length."""
COST = "per M"
STYLES = {Mode.AR: "red", Mode.SELF_SPECULATION: "cyan", Mode.QUADRATIC: "green", Mode.DIFFUSION: "magenta"}
MODE_COLOURS = {
    Mode.AR: "#d1495b",
    Mode.SELF_SPECULATION: "#00798c",
    Mode.QUADRATIC: "#2e7d32",
    Mode.DIFFUSION: "#7b5ea7",
}
BLOCK_COLOURS = ("#b8a9d9", "#7b5ea7", "#4a3470", "#231942", charts.INK)


def cells(score: Score, priced: bool) -> list[str]:
    """A row under `HEADINGS` (and `COST`)."""
    low, high = score.interval
    row = [
        score.point,
        f"{100 * score.accuracy:.1f} %",
        f"{100 * low:.1f}-{100 * high:.1f}",
        number(score.same_as_ar, "{:.1%}"),
        number(score.tokens_per_forward, "{:.2f}"),
        number(score.acceptance_length, "{:.2f}"),
        number(score.ttft_s, "{:.1f}", 1000),
        number(score.tpot_s, "{:.2f}", 1000),
        f"{score.tokens_per_second:,.0f}",
    ]
    return [*row, number(score.cost, "{:.3g}")] if priced else row


def _headings(scores: Sequence[Score]) -> tuple[str, ...]:
    return (*HEADINGS, COST) if any(score.cost is not None for score in scores) else HEADINGS


def rich_table(scores: Sequence[Score], title: str) -> Table:
    """The best accuracy and the best speed stand out."""
    headings = _headings(scores)
    made = tables.table(title, headings, words=("point",), gap=1)
    best, fastest = max(score.right for score in scores), max(score.tokens_per_second for score in scores)
    for score in scores:
        row = [Text(cell) for cell in cells(score, COST in headings)]
        row[0].stylize(f"bold {STYLES[_point(score).mode]}")
        if score.right == best:
            row[1].stylize("bold green")
        if score.tokens_per_second == fastest:
            row[8].stylize("bold green")
        made.add_row(*row)
    return made


def markdown(scores: Sequence[Score]) -> str:
    """The same rows as a Markdown table."""
    headings = _headings(scores)
    return tables.markdown(headings, [cells(score, COST in headings) for score in scores])


def as_json(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """All figures in full. Times in seconds."""
    return [
        {
            "point": score.point,
            "questions": score.questions,
            "right": score.right,
            "accuracy": score.accuracy,
            "accuracyInterval95": list(score.interval),
            "sameAsAR": score.same_as_ar,
            "tokensPerForward": score.tokens_per_forward,
            "acceptanceLength": score.acceptance_length,
            "ttftSeconds": score.ttft_s,
            "tpotSeconds": score.tpot_s,
            "tokensPerSecond": score.tokens_per_second,
            "costPerMillionTokens": score.cost,
            "tasks": {task: {"right": right, "questions": total} for task, (right, total) in score.tasks.items()},
        }
        for score in scores
    ]


def draw(scores: Sequence[Score], title: str, subtitle: str, file: Path) -> None:
    """Write the chart to `file`; the second panel only where diffusion ran at several points."""
    lossy = [score for score in scores if _point(score).mode is Mode.DIFFUSION]
    two = len(lossy) > 1 and any(_point(score).mode is Mode.AR for score in scores)
    with charts.figure(file, (6.4 + 5.4 * two, 4.9), title, subtitle, ncols=1 + two) as panels:
        _speed_panel(panels[0], scores)
        if two:
            _loss_panel(panels[1], scores, lossy)


def _speed_panel(axis: Any, scores: Sequence[Score]) -> None:
    """Up is right, to the right is fast; the bars are 95 % intervals."""
    for score in scores:
        x, y = score.tokens_per_second, 100 * score.accuracy
        low, high = (100 * bound for bound in score.interval)
        look = {"color": MODE_COLOURS[_point(score).mode], "markersize": 6.5, "elinewidth": 1.1, "alpha": 0.9}
        axis.errorbar(x, y, yerr=[[y - low], [high - y]], fmt="o", **look)
    axis.set_xlim(left=0, right=1.2 * max(score.tokens_per_second for score in scores))
    axis.set_ylim(top=min(100.0, axis.get_ylim()[1]) + 1.5)
    _label(axis, scores)
    for mode in dict.fromkeys(_point(score).mode for score in scores):
        axis.plot([], [], "o", color=MODE_COLOURS[mode], label=mode.value)
    axis.legend(loc="lower left")
    charts.label(axis, "accuracy against speed", "tokens per second", "accuracy, %", grid="both")


def _loss_panel(axis: Any, scores: Sequence[Score], lossy: Sequence[Score]) -> None:
    """A line for each block length over the thresholds, in points of accuracy below AR."""
    base = next(score for score in scores if _point(score).mode is Mode.AR)
    lines: defaultdict[int, list[tuple[float, Score]]] = defaultdict(list)
    for score in lossy:
        point = _point(score)
        lines[point.block_length].append((point.threshold or 1.0, score))
    thresholds = sorted({threshold for line in lines.values() for threshold, _ in line})
    axis.axhline(0, color=MODE_COLOURS[Mode.AR], linewidth=1.4)
    axis.text(-0.36, 0.4, "AR", color=MODE_COLOURS[Mode.AR], va="bottom", fontsize=10)
    for index, (block, line) in enumerate(sorted(lines.items())):
        # Side by side, else the intervals of one threshold would hide each other.
        xs = [thresholds.index(threshold) + 0.05 * (index - (len(lines) - 1) / 2) for threshold, _ in line]
        ys = [100 * (score.accuracy - base.accuracy) for _, score in line]
        spans = [[100 * abs(score.accuracy - score.interval[side]) for _, score in line] for side in (0, 1)]
        look = {"color": BLOCK_COLOURS[index % len(BLOCK_COLOURS)], "linewidth": 1.8, "elinewidth": 0.9}
        axis.errorbar(xs, ys, yerr=spans, marker="o", markersize=5, label=f"B={block}", **look)
    axis.set_xticks(range(len(thresholds)), [f"{threshold:g}" for threshold in thresholds])
    axis.set_xlim(-0.4, len(thresholds) - 0.6)
    axis.set_ylim(top=max(3.0, axis.get_ylim()[1]))
    axis.legend(loc="lower right", title="block length")
    charts.label(axis, "what diffusion loses", "threshold", "points of accuracy against AR", grid="both")


def _label(axis: Any, scores: Sequence[Score]) -> None:
    """Each point's name beside it: on the side away from its nearest neighbour, lower where a name is there already."""
    from matplotlib.patheffects import withStroke

    width, height = axis.get_xlim()[1], axis.get_ylim()[1] - axis.get_ylim()[0]
    spots = [(score.tokens_per_second, 100 * score.accuracy) for score in scores]
    taken: list[tuple[float, float]] = []
    for score, (x, y) in sorted(zip(scores, spots, strict=True), key=lambda item: (-item[1][1], item[1][0])):
        beside = [other for other in spots if other != (x, y) and abs(other[1] - y) < 0.05 * height]
        crowded = any(0 <= other - x < 0.15 * width for other, _ in beside)
        left = crowded and not any(0 < x - other < 0.15 * width for other, _ in beside)
        side = -1 if left else 1
        at, level = x + side * 0.065 * width, y
        while any(abs(at - other) < 0.12 * width and abs(level - lower) < 0.042 * height for other, lower in taken):
            level -= 0.01 * height
        taken.append((at, level))
        axis.annotate(
            score.point,
            (x + side * 0.013 * width, level),
            color=MODE_COLOURS[_point(score).mode],
            fontsize=9.5,
            va="center",
            ha="right" if left else "left",
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=5,
        )


def _point(score: Score) -> OperatingPoint:
    return OperatingPoint.parse(score.point)
