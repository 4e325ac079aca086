"""The turn of some prompts: their pieces on the way through one causal forward, alone or beside those who decode."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

import torch

from trimode_workers.engine.attention import Riders
from trimode_workers.engine.modes import ar
from trimode_workers.engine.plan import Piece
from trimode_workers.engine.primitive import Primitive
from trimode_workers.engine.scores import note_prompt
from trimode_workers.engine.sequence import Sequence

First = tuple[Sequence, list[int]]
"""A prompt that has ended, and what its forward proposes to follow it."""


def nobody(sequence: Sequence) -> bool:
    """Prompts end without a next token."""
    return False


class Turn:
    """`pieces` to run. Of the prompts that end with them, those that `speaks` run their seed too."""

    def __init__(self, pieces: Seq[Piece], speaks: Callable[[Sequence], bool] = nobody) -> None:
        self.pieces, self.speaks = pieces, speaks
        self.sequences = [s for s, _, _ in pieces]
        self._ends = [speaks(s) and tokens == s.missing for s, _, tokens in pieces]
        # With its seed where it speaks: its state is what the next token is drawn from.
        parts = [s.tokens[s.cached :][: tokens + end] for (s, _, tokens), end in zip(pieces, self._ends, strict=True)]
        self.riders = Riders(parts, [s.row for s in self.sequences], [s.cached for s in self.sequences])

    def note(self, primitive: Primitive) -> None:
        """Keep the scores of prompts that are wanted. Once more does no harm."""
        if any(s.unscored for s in self.sequences):
            for sequence, states in zip(self.sequences, self.riders.each(), strict=True):
                if sequence.unscored:
                    note_prompt(sequence, states, primitive.network)

    def advance(self) -> None:
        """Count as cached what was run; the seeds are not."""
        for sequence, _, tokens in self.pieces:
            sequence.cached += tokens

    def firsts(self, primitive: Primitive) -> list[First]:
        """The next tokens of those that ended and speak."""
        if not any(self._ends):
            return []
        ended = [i for i, end in enumerate(self._ends) if end]
        states = self.riders.each()
        sequences = [self.sequences[i] for i in ended]
        # The forward in which a prompt ends knows what follows it: a first token of its own would cost another forward.
        last = torch.stack([states[i][-1] for i in ended])
        return list(zip(sequences, ar.follow(primitive, sequences, last), strict=True))
