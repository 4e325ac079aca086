"""Cheap validation of a model in training: everything from two forwards over known answers, nothing generated.

A greedy answer is right exactly when every next token is right given the right ones before it, so teacher
forcing measures exact match without decoding. Draft lengths are those of blocks cut from the start.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from trimode_lab.training.batches import Row, collate
from trimode_lab.training.objective import Noised, block_starts, both_streams
from trimode_lab.training.tokenizer import MASK
from trimode_workers.model import Decoder


@dataclass(frozen=True)
class Validation:
    """Exact match by task and mean right tokens per fully hidden block of 8 and 32 (first one known and counted)."""

    exact: dict[str, float]
    drafted_8: float
    drafted_32: float

    def __str__(self) -> str:
        tasks = " ".join(f"{name}={value:.2f}" for name, value in sorted(self.exact.items()))
        mean = sum(self.exact.values()) / len(self.exact)
        return f"exact {mean:.3f}, drafted {self.drafted_8:.2f} of 8, {self.drafted_32:.2f} of 32; {tasks}"


@torch.no_grad()
def validate(model: Decoder, rows: list[tuple[str, Row]], size: int = 32) -> Validation:
    """Validate on `rows` (task name and row)."""
    scores: dict[str, list[float]] = defaultdict(list)
    drafted: dict[int, list[float]] = {8: [], 32: []}
    ordered = sorted(rows, key=lambda row: len(row[1].answer))
    for start in range(0, len(ordered), size):
        part = ordered[start : start + size]
        batch = collate([row for _, row in part])
        for length, lengths in drafted.items():
            b, width = batch.blocks.shape
            starts = block_starts(width, torch.full((b,), length), torch.zeros(b, dtype=torch.long))
            hidden = torch.arange(width) != starts  # all but the first of each block
            noised = Noised(torch.where(hidden, MASK, batch.blocks), starts, hidden, hidden.float())
            states, clean = both_streams(model, batch, noised), batch.tokens.shape[1]
            answers = batch.blocks[:, 1:]
            right = model.logits(states[:, batch.first : clean - 1]).argmax(-1) == answers
            # What stands behind an answer's end is padding.
            right |= torch.arange(answers.shape[1]) >= batch.answer_lengths[:, None]
            guessed = model.logits(states[:, clean:]).argmax(-1) == batch.blocks
            lengths.extend(_leading(guessed | ~hidden, starts, batch.answer_lengths))
        for (task, _), mark in zip(part, right.all(1).tolist(), strict=True):
            scores[task].append(float(mark))
    exact = {task: sum(values) / len(values) for task, values in scores.items()}
    return Validation(exact, *(sum(values) / len(values) for values in drafted.values()))


def _leading(right: Tensor, starts: Tensor, answer_lengths: Tensor) -> list[float]:
    """Right tokens before the first wrong one of every block that begins before its answer's end."""
    found = []
    for row, begins, length in zip(right.tolist(), starts.tolist(), answer_lengths.tolist(), strict=True):
        for begin in sorted(set(begins[:length])):
            block = [good for good, own in zip(row[: length + 1], begins, strict=False) if own == begin]
            found.append(float([*block, False].index(False)))
    return found
