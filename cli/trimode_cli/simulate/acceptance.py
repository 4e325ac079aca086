"""Acceptance tables: tokens per cycle by drafter and kind of request.

Belongs here: the file's format and the built-in table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trimode_cli.errors import BadInput
from trimode_cli.simulate.tables import rows


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Tokens per cycle at block length 32, by kind."""

    kinds: tuple[str, ...]
    tokens: tuple[float, ...]


BUILT_IN = Acceptance(
    ("coding", "math", "reasoning", "multilingual", "humanities", "qa", "rag", "roleplay", "stem", "summarization",
     "writing"),
    (8.57, 8.14, 7.99, 10.06, 6.31, 4.65, 6.15, 5.54, 7.02, 5.48, 5.07),
)  # fmt: skip
"""The model with its draft LoRA on SPEED-Bench (Nemotron-Labs-Diffusion paper, table 10)."""


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
