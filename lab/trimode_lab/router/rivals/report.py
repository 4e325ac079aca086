"""The comparison as a table, as JSON and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from trimode_lab.router.rivals.measure import DIRECT, ON_ALL_CORES, OURS, Outcome
from trimode_tools import charts
from trimode_tools.tables import markdown

_BEGIN, _END = "<!-- bench: begin -->", "<!-- bench: end -->"
_HEADINGS = (
    "router",
    "CPU us per chunk (64 streams)",
    "CPU ms per short request",
    "requests/s",
    "added ms to first byte, p50 / p99",
    "MB with 2000 streams",
)
_LONGEST_BAR = 4.0
"""Times ours: one that is far slower must not make the others' bars too short to compare."""


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: a row for each router, paired ratios in brackets (ours by theirs, median of rounds; of requests per
    second with one process, and with one for each core)."""
    by = {(outcome.candidate, outcome.scenario): outcome for outcome in outcomes}
    names = list(dict.fromkeys(outcome.candidate for outcome in outcomes if outcome.candidate != DIRECT))
    rows = [
        (
            name,
            _cell(by, name, "stream", "cpu_us_per_chunk"),
            _cell(by, name, "short", "cpu_ms_per_request"),
            _cell(by, name, "short", "requests_per_s"),
            _added(by, name),
            _cell(by, name, "crowd", "memory_mb"),
        )
        for name in names
    ]
    return markdown(_HEADINGS, rows).rstrip()


def _cell(by: dict[tuple[str, str], Outcome], name: str, scenario: str, field: str) -> str:
    outcome = by.get((name, scenario))
    if outcome is None:
        return "-"
    if outcome.failed:
        return "requests failed"
    value = f"{outcome.median(field):.3g}" if field != "requests_per_s" else f"{outcome.median(field):.0f}"
    if name in (OURS, ON_ALL_CORES):
        return value
    # Throughput grows with cores, cost does not.
    compared = (OURS, ON_ALL_CORES) if field == "requests_per_s" else (OURS,)
    ratios = [ours.ratio(outcome, field) for one in compared if (ours := by.get((one, scenario))) is not None]
    shown = " / ".join(f"{_ratio(ratio)}x" for ratio in ratios if ratio is not None)
    return f"{value} ({shown})" if shown else value


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if 0.1 <= ratio < 10 else f"{ratio:.2g}" if ratio < 1 else f"{ratio:.0f}"


def _added(by: dict[tuple[str, str], Outcome], name: str) -> str:
    outcome, direct = by.get((name, "alone")), by.get((DIRECT, "alone"))
    if outcome is None or direct is None:
        return "-"
    if outcome.failed:
        return "requests failed"
    added = [outcome.median(field) - direct.median(field) for field in ("first_byte_ms_p50", "first_byte_ms_p99")]
    return " / ".join(f"{value:.2f}" for value in added)


def write(outcomes: Sequence[Outcome], folder: Path, about: dict[str, object]) -> None:
    """`bench-router.json`, `bench-router.png`, and the table in `router.md` where that has a place for it."""
    data = about | {"outcomes": [asdict(outcome) for outcome in outcomes]}
    (folder / "bench-router.json").write_text(json.dumps(data, indent=1) + "\n")
    plot(outcomes, folder / "bench-router.png")
    page = folder / "router.md"
    text = page.read_text() if page.is_file() else ""
    if _BEGIN in text and _END in text:
        before, _, rest = text.partition(_BEGIN)
        _, _, after = rest.partition(_END)
        words = ", ".join(f"{name} {value}" for name, value in about.items())
        page.write_text(f"{before}{_BEGIN}\n{words}.\n\n{table(outcomes)}\n{_END}{after}")


def plot(outcomes: Sequence[Outcome], file: Path) -> None:
    """CPU by chunk and by request, side by side."""
    panels = (
        ("stream", "cpu_us_per_chunk", "CPU per streamed chunk, us"),
        ("short", "cpu_ms_per_request", "CPU per short request, ms"),
    )
    with charts.figure(file, (10, 3.2), ncols=2) as axes:
        for axis, (scenario, field, title) in zip(axes, panels, strict=True):
            shown = [o for o in outcomes if o.scenario == scenario and not o.failed]
            shown = [o for o in shown if o.candidate not in (DIRECT, ON_ALL_CORES)]
            shown.sort(key=lambda outcome: -outcome.median(field))
            values = [outcome.median(field) for outcome in shown]
            ours = next(
                (outcome.median(field) for outcome in shown if outcome.candidate == OURS), max(values, default=1.0)
            )
            lengths = [min(value, _LONGEST_BAR * ours) for value in values]
            colours = ["#2a9d4a" if outcome.candidate == OURS else "#9aa5b1" for outcome in shown]
            bars = axis.barh([outcome.candidate for outcome in shown], lengths, color=colours)
            cut = ["" if value == length else "  (cut off)" for value, length in zip(values, lengths, strict=True)]
            axis.bar_label(bars, [f"{v:.3g}{words}" for v, words in zip(values, cut, strict=True)], padding=3)
            axis.set_title(title)
            axis.spines["bottom"].set_visible(False)
            axis.set_xticks([])
            axis.margins(x=0.3)
