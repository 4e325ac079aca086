"""What a profile says: tables and sentences for a terminal, and a chart. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from trimode_api.modes import AR, Mode, OperatingPoint
from trimode_policy.roofline import Roofline
from trimode_tools import charts, tables
from trimode_tools.profile.fit import Cell, fit_errors
from trimode_tools.profile.validate import Comparison
from trimode_tools.simulate.profile_file import Profile

OTHERS = ("#c98b2b", "#5b8c5a", "#8c564b", charts.FAINT)
"""Colours of points that the benchmark does not draw."""
WITHIN = 0.15
"""Relative error that the simulator is meant to keep: shown as a band around 1."""


def cells_at(profile: Profile, longest: bool = False) -> list[Cell]:
    """Of each point and batch the cell with the least context, or with the most."""
    found: dict[tuple[OperatingPoint, int], Cell] = {}
    for cell in _cells(profile):
        known = found.get((cell.point, cell.batch))
        if known is None or (cell.context_tokens > known.context_tokens) is longest:
            found[cell.point, cell.batch] = cell
    return sorted(found.values(), key=lambda cell: (cell.point.block_length, str(cell.point), cell.batch))


def _cells(profile: Profile) -> list[Cell]:
    return [Cell(OperatingPoint.parse(c.point), c.batch, profile.context_of(c), c.seconds) for c in profile.cycles]


def tokens_per_s(profile: Profile, cell: Cell) -> float | None:
    """Of all requests together, prompts left out; None where the point's tokens per cycle were not measured."""
    tokens = 1.0 if cell.point == AR else _tokens_per_cycle(profile, cell.point)
    return None if tokens is None else cell.batch * tokens / cell.seconds


def _tokens_per_cycle(profile: Profile, point: OperatingPoint) -> float | None:
    return profile.acceptance_length.get(str(point)) or profile.tokens_per_cycle.get(str(point))


def cycles_table(profile: Profile) -> Table:
    """Milliseconds per cycle and tokens per second, the fastest point of each batch in bold."""
    cells = cells_at(profile)
    made = tables.table(f"{profile.name}: ms per cycle, tokens/s", ("requests", *map(str, profile.points)))
    for batch in sorted({cell.batch for cell in cells}):
        here = {cell.point: cell for cell in cells if cell.batch == batch}
        speeds = {point: tokens_per_s(profile, cell) or 0.0 for point, cell in here.items()}
        texts = {point: f"{1e3 * cell.seconds:.2f} {speeds[point]:>7,.0f}" for point, cell in here.items()}
        best = max(speeds, key=lambda point: speeds[point])
        texts[best] = f"[bold green]{texts[best]}[/]"
        made.add_row(str(batch), *(texts.get(point, "-") for point in profile.points))
    return made


def crossovers(profile: Profile) -> Iterator[tuple[OperatingPoint, int | None]]:
    """For each other point the least batch from which on AR is faster, None where it never is."""
    cells = cells_at(profile)
    ar = {cell.batch: tokens_per_s(profile, cell) or 0.0 for cell in cells if cell.point == AR}
    for point in profile.points:
        if point == AR or _tokens_per_cycle(profile, point) is None:
            continue
        found: int | None = None
        for cell in sorted((c for c in cells if c.point == point), key=lambda c: -c.batch):
            if ar.get(cell.batch, 0.0) <= (tokens_per_s(profile, cell) or 0.0):
                break
            found = cell.batch
        yield point, found


def sentences(profile: Profile, roofline: Roofline) -> Iterator[str]:
    """The crossovers, the price of prompts, and how well the roofline fits."""
    found = dict(crossovers(profile))
    overtaken = [f"{point} from {batch}" for point, batch in found.items() if batch is not None]
    if found:
        most = max(cycle.batch for cycle in profile.cycles)
        yield f"AR overtakes {', '.join(overtaken) or 'nothing'} (requests at once, up to {most}; prompts left out)"
    for mode in (Mode.AR, Mode.SELF_SPECULATION):
        costs = [prompts.seconds / prompts.tokens for prompts in profile.prompts if prompts.mode is mode]
        if costs:
            yield f"a prompt token lengthens a cycle of {mode} by {1e6 * min(costs):.0f} to {1e6 * max(costs):.0f} us"
    typical, worst = fit_errors(_cells(profile), roofline)
    yield (
        f"the fitted roofline is within {typical:.0%} of half the cycles, {worst:.0%} off at worst; "
        "between measured cycles the simulator interpolates"
    )


def validation_table(comparisons: Sequence[Comparison]) -> Table:
    """Measured, predicted and the error, for throughput and both percentiles, within 80 columns."""
    title = "the simulator against this engine: measured~predicted, error (adaptive)"
    headings = ("clients", "tokens/s", "TTFT p95 ms", "latency p95 ms", "mostly in")
    made = tables.table(title, headings, words=headings[-1:])
    for each in comparisons:
        m, p = each.measured, each.predicted
        pairs = (
            (f"{m.tokens_per_s:,.0f}", f"{p.tokens_per_s:,.0f}"),
            (f"{1e3 * m.ttft_p95_s:.1f}", f"{1e3 * p.ttft_p95_s:.1f}"),
            (f"{1e3 * m.latency_p95_s:.1f}", f"{1e3 * p.latency_p95_s:.1f}"),
        )
        cells = [f"{real}~{said} {100 * error:+.0f}%" for (real, said), error in zip(pairs, each.errors, strict=True)]
        made.add_row(str(each.clients), *cells, f"{m.point}~{p.point}")
    return made


def draw(profile: Profile, roofline: Roofline, comparisons: Sequence[Comparison], subtitle: str, file: Path) -> None:
    """What a cycle costs, what it yields, and, where there is something to compare, how well the simulator does."""
    count = 3 if comparisons else 2
    colours = colours_of(profile.points)
    with charts.figure(file, (5.4 * count + 0.4, 4.9), "What a cycle costs here", subtitle, ncols=count) as panels:
        _cycles_panel(panels[0], profile, roofline, colours)
        _speed_panel(panels[1], profile, colours)
        if comparisons:
            _comparison_panel(panels[2], comparisons)


def colours_of(points: Sequence[OperatingPoint]) -> dict[OperatingPoint, str]:
    """As in the benchmark, where it knows the point."""
    others = [point for point in points if str(point) not in charts.COLOURS]
    return {
        point: charts.COLOURS.get(str(point)) or OTHERS[min(others.index(point), len(OTHERS) - 1)] for point in points
    }


def _cycles_panel(axis: Any, profile: Profile, roofline: Roofline, colours: Mapping[OperatingPoint, str]) -> None:
    """Dots are measured, lines are the roofline fitted to all of them; hollow and dashed at the longest context."""
    short, long = cells_at(profile), cells_at(profile, longest=True)
    for cells, fill, dash in ((long, "white", "--"), (short, None, "-")):
        for point, colour in colours.items():
            line = [cell for cell in cells if cell.point == point]
            batches = [cell.batch for cell in line]
            fitted = [1e3 * roofline.seconds(point, cell.batch, cell.context_tokens) for cell in line]
            measured = [1e3 * cell.seconds for cell in line]
            axis.plot(batches, fitted, color=colour, linewidth=1.3, linestyle=dash, alpha=0.65)
            axis.plot(batches, measured, "o", color=colour, markersize=4.6, mfc=fill or colour, zorder=3)
    most = max(cell.batch for cell in short)
    _name_lines(axis, profile, {cell.point: 1e3 * cell.seconds for cell in short if cell.batch == most}, colours)
    for cells, fill in ((short, charts.INK), (long, "white")):
        context = sum(cell.context_tokens for cell in cells) / len(cells)
        if cells == short or long != short:
            words = f"measured, {context:,.0f} tokens cached"
            axis.plot([], [], "o", color=charts.INK, mfc=fill, markersize=4.6, label=words)
    axis.plot([], [], color=charts.INK, linewidth=1.3, label="fitted roofline")
    axis.legend(loc="upper left", fontsize=8.5)
    charts.label(axis, "milliseconds per cycle", "requests decoding")


def _speed_panel(axis: Any, profile: Profile, colours: Mapping[OperatingPoint, str]) -> None:
    """Tokens per second by batch, prompts left out."""
    ends: dict[OperatingPoint, float] = {}
    for point, colour in colours.items():
        line = [(c.batch, s) for c in cells_at(profile) if c.point == point and (s := tokens_per_s(profile, c))]
        if line:
            axis.plot(*zip(*line, strict=True), color=colour, linewidth=1.8, marker="o", markersize=3.6)
            ends[point] = line[-1][1]
    _name_lines(axis, profile, ends, colours)
    charts.label(axis, "tokens per second, prompts left out", "requests decoding")


def _comparison_panel(axis: Any, comparisons: Sequence[Comparison]) -> None:
    """Predicted over measured: 1 is right."""
    axis.axhspan(1 - WITHIN, 1 + WITHIN, color=charts.GRID, alpha=0.55, linewidth=0)
    axis.axhline(1, color=charts.FAINT, linewidth=1)
    clients = [each.clients for each in comparisons]
    named = (("throughput", charts.INK), ("TTFT p95", "#3f8efc"), ("latency p95", "#d1495b"))
    for index, (name, colour) in enumerate(named):
        ratios = [1 + each.errors[index] for each in comparisons]
        axis.plot(clients, ratios, color=colour, marker="o", markersize=4.6, linewidth=1.6, label=name)
    charts.powers_of_two(axis, clients)
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, 0.6), max(high, 1.4))
    axis.legend(loc="upper left")
    charts.label(axis, "the simulator: predicted over measured", "clients at once, adaptive")


def _name_lines(
    axis: Any, profile: Profile, ends: Mapping[OperatingPoint, float], colours: Mapping[OperatingPoint, str]
) -> None:
    batches = sorted({cycle.batch for cycle in profile.cycles})
    charts.log_axes(axis, batches, lambda value: f"{value:,.0f}" if value >= 10 else f"{value:g}")
    names = {str(point): colour for point, colour in colours.items()}
    charts.label_ends(axis, batches[-1], {str(point): end for point, end in ends.items()}, names)
