"""The figures as a table for a terminal, as Markdown for documents, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from trimode_api.modes import Mode, OperatingPoint
from trimode_tools.eval.metrics import Mark

HEADINGS = ("point", "accuracy", "95 %", "as AR", "tok/fwd", "tok/cycle", "TTFT", "TPOT", "tok/s")
"""Times in milliseconds. `as AR`: answers equal to AR's; `tok/cycle` is the acceptance length."""
COST = "per M"
STYLES = {Mode.AR: "red", Mode.SELF_SPECULATION: "cyan", Mode.QUADRATIC: "green", Mode.DIFFUSION: "magenta"}


def cells(mark: Mark, priced: bool) -> list[str]:
    """A row under `HEADINGS` (and `COST`)."""
    low, high = mark.interval
    row = [
        mark.point,
        f"{100 * mark.accuracy:.1f} %",
        f"{100 * low:.1f}-{100 * high:.1f}",
        _number(mark.same_as_ar, "{:.1%}"),
        _number(mark.tokens_per_forward, "{:.2f}"),
        _number(mark.acceptance_length, "{:.2f}"),
        _number(mark.ttft_s, "{:.1f}", 1000),
        _number(mark.tpot_s, "{:.2f}", 1000),
        f"{mark.tokens_per_second:,.0f}",
    ]
    return [*row, _number(mark.cost, "{:.3g}")] if priced else row


def rich_table(marks: Sequence[Mark], title: str) -> Table:
    """The best accuracy and the best speed stand out."""
    priced = any(mark.cost is not None for mark in marks)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in (*HEADINGS, *([COST] if priced else [])):
        table.add_column(heading, justify="left" if heading == "point" else "right", no_wrap=True)
    best, fastest = max(mark.right for mark in marks), max(mark.tokens_per_second for mark in marks)
    for mark in marks:
        row = [Text(cell) for cell in cells(mark, priced)]
        row[0].stylize(f"bold {STYLES[OperatingPoint.parse(mark.point).mode]}")
        if mark.right == best:
            row[1].stylize("bold green")
        if mark.tokens_per_second == fastest:
            row[8].stylize("bold green")
        table.add_row(*row)
    return table


def markdown(marks: Sequence[Mark]) -> str:
    """The same rows as a Markdown table."""
    priced = any(mark.cost is not None for mark in marks)
    rows = [[*HEADINGS, *([COST] if priced else [])]]
    rows.append(["---", *["---:"] * (len(rows[0]) - 1)])
    rows += [cells(mark, priced) for mark in marks]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def as_json(marks: Sequence[Mark]) -> list[dict[str, Any]]:
    """All figures in full. Times in seconds."""
    return [
        {
            "point": mark.point,
            "questions": mark.questions,
            "right": mark.right,
            "accuracy": mark.accuracy,
            "accuracyInterval95": list(mark.interval),
            "sameAsAR": mark.same_as_ar,
            "tokensPerForward": mark.tokens_per_forward,
            "acceptanceLength": mark.acceptance_length,
            "ttftSeconds": mark.ttft_s,
            "tpotSeconds": mark.tpot_s,
            "tokensPerSecond": mark.tokens_per_second,
            "costPerMillionTokens": mark.cost,
            "tasks": {task: {"right": right, "questions": total} for task, (right, total) in mark.tasks.items()},
        }
        for mark in marks
    ]


def _number(value: float | None, form: str, factor: float = 1.0) -> str:
    return "-" if value is None else form.format(value * factor)
