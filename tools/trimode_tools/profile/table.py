"""What a profile says, for a terminal.

Belongs here: rows and sentences from a profile; nothing is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from trimode_api.modes import AR, Mode, OperatingPoint
from trimode_policy.roofline import Roofline
from trimode_tools.profile.fit import Cell, fit_errors
from trimode_tools.profile.validate import Comparison
from trimode_tools.simulate.profile_file import Profile


def cells_at(profile: Profile, longest: bool = False) -> list[Cell]:
    """Of each point and batch the cell with the least context, or with the most."""
    found: dict[tuple[OperatingPoint, int], Cell] = {}
    for cycle in profile.cycles:
        point, context = OperatingPoint.parse(cycle.point), profile.context_of(cycle)
        known = found.get((point, cycle.batch))
        if known is None or (context > known.context_tokens) is longest:
            found[point, cycle.batch] = Cell(point, cycle.batch, context, cycle.seconds)
    return sorted(found.values(), key=lambda cell: (cell.point.block_length, str(cell.point), cell.batch))


def tokens_per_s(profile: Profile, cell: Cell) -> float | None:
    """Of all requests together, prompts left out; None where the point's tokens per cycle were not measured."""
    tokens = 1.0 if cell.point == AR else _yield(profile, cell.point)
    return None if tokens is None else cell.batch * tokens / cell.seconds


def _yield(profile: Profile, point: OperatingPoint) -> float | None:
    name = str(point)
    return profile.acceptance_length.get(name) or profile.tokens_per_cycle.get(name)


def cycles_table(profile: Profile) -> Table:
    """Milliseconds per cycle and tokens per second, the fastest point of each batch in bold."""
    cells = cells_at(profile)
    table = Table(
        title=f"{profile.name}: ms per cycle, tokens/s", title_justify="left", box=None, pad_edge=False, padding=(0, 2)
    )
    table.add_column("requests", justify="right")
    for point in profile.points:
        table.add_column(str(point), justify="right")
    for batch in sorted({cell.batch for cell in cells}):
        here = {cell.point: cell for cell in cells if cell.batch == batch}
        speeds = {point: tokens_per_s(profile, cell) or 0.0 for point, cell in here.items()}
        best = max(speeds, key=lambda point: speeds[point])
        table.add_row(str(batch), *(_cell(here.get(p), speeds.get(p, 0.0), p == best) for p in profile.points))
    return table


def _cell(cell: Cell | None, speed: float, best: bool) -> str:
    if cell is None:
        return "-"
    text = f"{1e3 * cell.seconds:.2f} {speed:>7,.0f}"
    return f"[bold green]{text}[/]" if best else text


def crossovers(profile: Profile) -> Iterator[tuple[OperatingPoint, int | None]]:
    """For each other point the least batch from which on AR is faster, None where it never is."""
    cells = cells_at(profile)
    ar = {cell.batch: tokens_per_s(profile, cell) or 0.0 for cell in cells if cell.point == AR}
    for point in profile.points:
        if point == AR or _yield(profile, point) is None:
            continue
        found: int | None = None
        for cell in sorted((c for c in cells if c.point == point), key=lambda c: -c.batch):
            if ar.get(cell.batch, 0.0) <= (tokens_per_s(profile, cell) or 0.0):
                break
            found = cell.batch
        yield point, found


def sentences(profile: Profile, roofline: Roofline) -> Iterator[str]:
    """What one wants to know of it at a glance."""
    found = dict(crossovers(profile))
    overtaken = [f"{point} from {batch}" for point, batch in found.items() if batch is not None]
    if found:
        most = max(cycle.batch for cycle in profile.cycles)
        yield f"AR overtakes {', '.join(overtaken) or 'nothing'} (requests at once, up to {most}; prompts left out)"
    for mode in (Mode.AR, Mode.SELF_SPECULATION):
        costs = [prompts.seconds / prompts.tokens for prompts in profile.prompts if prompts.mode is mode]
        if costs:
            yield f"a prompt token lengthens a cycle of {mode} by {1e6 * min(costs):.0f} to {1e6 * max(costs):.0f} us"
    cells = [Cell(OperatingPoint.parse(c.point), c.batch, profile.context_of(c), c.seconds) for c in profile.cycles]
    typical, worst = fit_errors(cells, roofline)
    yield (
        f"the fitted roofline is within {typical:.0%} of half the cycles, {worst:.0%} off at worst; "
        "between measured cycles the simulator interpolates"
    )


def validation_table(comparisons: Sequence[Comparison]) -> Table:
    """Measured, predicted and the error, for throughput and both percentiles, within 80 columns."""
    table = Table(
        title="the simulator against this engine: measured~predicted, error (adaptive)",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2),
    )
    table.add_column("clients", justify="right")
    for heading in ("tokens/s", "TTFT p95 ms", "latency p95 ms"):
        table.add_column(heading, justify="right")
    table.add_column("mostly in")
    for each in comparisons:
        m, p = each.measured, each.predicted
        pairs = (
            (f"{m.tokens_per_s:,.0f}", f"{p.tokens_per_s:,.0f}"),
            (f"{1e3 * m.ttft_p95_s:.1f}", f"{1e3 * p.ttft_p95_s:.1f}"),
            (f"{1e3 * m.latency_p95_s:.1f}", f"{1e3 * p.latency_p95_s:.1f}"),
        )
        cells = [f"{real}~{said} {100 * error:+.0f}%" for (real, said), error in zip(pairs, each.errors, strict=True)]
        table.add_row(str(each.clients), *cells, f"{m.point}~{p.point}")
    return table
