"""What was recorded of drafts, and its file.

A greedy answer is the same at every operating point, so what a draft would be at each place of an answer can be
recorded once, and every way to choose lengths replayed from it exactly, whoever shares the batch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Draft:
    """A block drafted behind one place of an answer.

    `confidence`: the drafter's probability of each token it drafted, up to a drafted end of the answer, behind which
    nothing is worth verifying. `matched`: how many of the first are the answer's own.
    """

    confidence: tuple[float, ...]
    matched: int


@dataclass(frozen=True, slots=True)
class Answer:
    """`tokens`: how many, its end of sequence among them. `drafts`: by block length (the seed is in it), behind each
    place: `drafts[8][0]` is what would be drafted behind the prompt."""

    task: str
    tokens: int
    drafts: Mapping[int, Sequence[Draft]]


def write(answers: Sequence[Answer], file: Path) -> None:
    """JSON, a line for each answer."""
    file.write_text("".join(json.dumps(asdict(answer)) + "\n" for answer in answers), encoding="utf-8")


def read(file: Path) -> list[Answer]:
    """Raises OSError or ValueError for a file that cannot be read or is none of these."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        drafts = {
            int(length): [Draft(tuple(each["confidence"]), each["matched"]) for each in places]
            for length, places in told["drafts"].items()
        }
        found.append(Answer(told["task"], told["tokens"], drafts))
    return found
