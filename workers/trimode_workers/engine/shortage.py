"""A cycle for which there is not enough memory on the device: the same work in smaller parts.

The plan (`footprint`) is an estimate, and an engine that dies of being out of it breaks every stream; the streams go
on at the next replica, with the same load. So the batch is halved until its parts run, a request that does not fit by
itself goes a cycle in AR, and only one that cannot even do that is given up.

Belongs here: what is run again, and how. Which request ends is `last_resort`'s, that it ends the engine's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Seq
from math import inf

import torch

from trimode_api.modes import AR, Mode, OperatingPoint
from trimode_workers.engine.modes import MODES
from trimode_workers.engine.plan import Piece
from trimode_workers.engine.primitive import Primitive
from trimode_workers.engine.scores import note_prompt
from trimode_workers.engine.sequence import Sequence

_log = logging.getLogger(__name__)

CODE = "out_of_memory"
"""A refusal, not a failure of the engine: a router that sent the request on would take down one replica after another.
"""
MESSAGE = "this request ran out of the device's memory, also by itself and in AR; a shorter one may fit"


class Shortage:
    """Runs cycles over one primitive. `count`: how often memory ran out since start. `most`: tokens of a forward to
    decode, where memory is planned for no more; a group of more is run in parts from the start."""

    def __init__(self, primitive: Primitive, most: float = inf) -> None:
        self._primitive, self._most, self.count = primitive, most, 0

    def decode(self, point: OperatingPoint, members: Seq[Sequence]) -> tuple[list[list[int]], list[Sequence]]:
        """One cycle of a group: what it proposes for each member, and those for whom there was no memory, for whom
        that is nothing."""
        found: list[list[int]] = []
        fits = len(members) == 1 or len(members) * point.width <= self._most
        if fits and self._runs(
            lambda: found.extend(MODES[point.mode](self._primitive, members, point)), str(point), members
        ):
            return found, []
        if len(members) > 1:
            half = len(members) // 2
            (first, starved), (second, more) = self.decode(point, members[:half]), self.decode(point, members[half:])
            return first + second, starved + more
        if point.mode is not Mode.AR:
            return self.decode(AR, members)
        sequence = members[0]
        if sequence.missing and not self.prefill([Piece(sequence, 0, sequence.missing)]):
            return [[]], []  # its prompt got on by a part
        return [[]], [sequence]

    def prefill(self, turn: Seq[Piece]) -> list[Sequence]:
        """Write the causal state of a piece of each prompt; those of which not even one token could be run. Others may
        have got less than their turn."""
        if self._runs(lambda: self._advance(turn), "prompts", [s for s, _, _ in turn]):
            for sequence, _, tokens in turn:
                sequence.cached += tokens
            return []
        if len(turn) > 1:
            half = len(turn) // 2
            return self.prefill(turn[:half]) + self.prefill(turn[half:])
        sequence, _, tokens = turn[0]
        return self.prefill([Piece(sequence, 0, tokens // 2)]) if tokens > 1 else [sequence]

    def _advance(self, turn: Seq[Piece]) -> None:
        pieces = [s.tokens[s.cached : s.cached + tokens] for s, _, tokens in turn]
        rows, lengths = [s.row for s, _, _ in turn], [s.cached for s, _, _ in turn]
        if not any(s.unscored for s, _, _ in turn):
            self._primitive.advance(pieces, rows, lengths)
            return
        states = self._primitive.advance_whole(pieces, rows, lengths)
        for (sequence, _, _), own in zip(turn, states, strict=True):
            if sequence.unscored:
                note_prompt(sequence, own, self._primitive.network)

    def _runs(self, work: Callable[[], object], what: str, members: Seq[Sequence]) -> bool:
        """Whether there is enough memory for it. What the attempt held is free again once this returns."""
        try:
            work()
        except torch.OutOfMemoryError as exc:
            self.count += 1
            if self.count & (self.count - 1) == 0:  # each would fill the log
                _log.warning("out of memory (%d so far), at %s of %d requests: %s", self.count, what, len(members), exc)
        else:
            return True
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return False


def last_resort(starved: Seq[Sequence]) -> Sequence:
    """Of those for whom there was no memory, the one to give up: the longest. The others try again without it."""
    return max(starved, key=lambda s: (s.cached + s.missing, s.arrival))
