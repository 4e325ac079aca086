"""Acceptance tables: tokens per cycle by drafter and kind of request.

Belongs here: the file's format, the built-in table, and what a profile says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trimode_api.modes import OperatingPoint
from trimode_local.errors import BadInput
from trimode_tools.simulate.csv_rows import rows
from trimode_tools.simulate.hardware import Machine
from trimode_tools.simulator.cost_model import GAIN_BY_LENGTH


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Tokens per cycle at block length 32, by kind; `measured`: by point, for each kind or one number for all."""

    kinds: tuple[str, ...]
    tokens: tuple[float, ...]
    measured: Mapping[OperatingPoint, tuple[float, ...]] = field(default_factory=dict)


BUILT_IN = Acceptance(
    ("coding", "math", "reasoning", "multilingual", "humanities", "qa", "rag", "roleplay", "stem", "summarization",
     "writing"),
    (8.57, 8.14, 7.99, 10.06, 6.31, 4.65, 6.15, 5.54, 7.02, 5.48, 5.07),
)  # fmt: skip
"""The model with its draft LoRA on SPEED-Bench (Nemotron-Labs-Diffusion paper, table 10)."""


def acceptance_of(machine: Machine, file: Path | None, drafter: str) -> Acceptance:
    """The table in `file`, else the kinds that the machine's profile measured, else the built-in table.

    What a profile measured over all kinds holds for each kind of a table.
    """
    if file is None and (found := _profiled(machine)) is not None:
        return found
    table = BUILT_IN if file is None else read_acceptance(file, drafter)
    return Acceptance(table.kinds, table.tokens, {point: (tokens,) for point, tokens in machine.tokens.items()})


def _profiled(machine: Machine) -> Acceptance | None:
    """By kind, at the points that were measured for every kind; None where there is no such point."""
    kinds = tuple(machine.kinds)
    every = [set(machine.kinds[kind]) for kind in kinds]
    common = [p for p in set().union(*every).intersection(*every) if p.mode.speculates]
    points = sorted(common, key=lambda point: (point.block_length, str(point)))
    if not points:
        return None
    measured = {point: tuple(machine.kinds[kind][point] for kind in kinds) for point in points}
    longest = points[-1]
    gain = GAIN_BY_LENGTH[longest.block_length]
    return Acceptance(kinds, tuple(1.0 + (tokens - 1.0) / gain for tokens in measured[longest]), measured)


def read_acceptance(path: Path, drafter: str) -> Acceptance:
    """The row of `drafter` in a CSV with the column `drafter` and one column per kind."""
    found = []
    for row in rows(path, ("drafter",)):
        found.append(row.values["drafter"])
        if row.values["drafter"] == drafter:
            kinds = tuple(column for column in row.values if column != "drafter")
            if not kinds:
                raise BadInput(f"{path}, line 1: no column beside drafter; write one per kind of request")
            return Acceptance(kinds, tuple(row.number(kind, 1.0) for kind in kinds))
    raise BadInput(f"{path}: has no drafter {drafter!r}; found {', '.join(found) or 'none'}")
