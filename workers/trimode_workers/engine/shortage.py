"""A cycle for which there is not enough memory on the device: the same work in smaller parts.

The plan (`footprint`) is an estimate, and an engine that dies of being out of it breaks every stream; the streams go
on at the next replica, with the same load. So the batch is halved until its parts run, a request that does not fit by
itself goes a cycle in AR, and only one that cannot even do that is given up.

Which request ends is `last_resort`'s, that it ends the engine's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Seq
from math import inf
from typing import NamedTuple

import torch

from trimode_api.modes import AR, Mode, OperatingPoint
from trimode_workers.engine.modes import MODES
from trimode_workers.engine.plan import Group, Piece
from trimode_workers.engine.primitive import Primitive
from trimode_workers.engine.sequence import Sequence
from trimode_workers.engine.shapes import MOST_GROUPED, rows_at_once
from trimode_workers.engine.turn import First, Turn

_log = logging.getLogger(__name__)

CODE = "out_of_memory"
"""A refusal, not a failure of the engine: a router that sent the request on would take down one replica after another.
"""
# torch's on a GPU, cuBLAS's, torch's on a processor. The last two have no exception of their own, and ended replicas.
_WORDS = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
MESSAGE = "this request ran out of the device's memory, also by itself and in AR; a shorter one may fit"


class Decoded(NamedTuple):
    """`proposals` of a group's cycle for each member, nothing for those without memory. `firsts`: of the prompts that
    ended and speak."""

    proposals: list[list[int]]
    firsts: list[First]


class Shortage:
    """Runs cycles over one primitive. `count`: how often memory ran out since start. `most`: tokens of a forward to
    decode, where memory is planned for no more; a group of more is run in parts from the start."""

    def __init__(self, primitive: Primitive, most: float = inf) -> None:
        self._primitive, self._most, self.count = primitive, most, 0
        # Those that were given nothing, and prompts that did not get on, also one by one.
        self._starved: list[Sequence] = []

    def carrier(self, parts: Seq[Group], pieces: Seq[Piece]) -> Group | None:
        """The group in whose causal forward these prompts run with their seeds, None where they run apart."""
        # Apart they were a forward more in most cycles of AR at 64 requests (1,000 tokens in, 256 out), which reads all
        # weights once more.
        tokens = sum(piece.tokens + 1 for piece in pieces)
        for part in parts:
            point, members = part
            # Recordings of each number of quadratic groups beside each line would be too many.
            recorded = point.mode is Mode.QUADRATIC and self._primitive.graphs is not None
            if not recorded and len(members) * point.width + tokens <= self._most:
                return part
        return None

    def decode(self, point: OperatingPoint, members: Seq[Sequence], turn: Turn | None = None) -> Decoded:
        """One cycle of a group, with prompts in its causal forward."""
        if turn is None:
            return Decoded(self._decode(point, members), [])
        proposals: list[list[int]] = []
        mode, riders = MODES[point.mode], turn.riders
        if self._runs(lambda: proposals.extend(mode(self._primitive, members, point, riders)), str(point), members):
            if not self._runs(lambda: turn.note(self._primitive), "scores of prompts", turn.sequences):
                self.prefill(Turn([piece for piece in turn.pieces if piece.sequence.unscored]))
            return Decoded(proposals, self._arrive(turn))
        # Apart, since it is not known which of the two was too much.
        self.prefill(Turn(turn.pieces))
        return Decoded(self._decode(point, members), [])

    def prefill(self, turn: Turn) -> list[First]:
        """Write the causal state of a piece of each prompt, of some less than their turn where memory is short; what
        follows those that ended and speak."""

        def work() -> None:
            self._primitive.ride(turn.riders)
            turn.note(self._primitive)

        if self._runs(work, "prompts", turn.sequences):
            return self._arrive(turn)
        pieces = turn.pieces
        if len(pieces) > 1:
            half = len(pieces) // 2
            return [first for part in (pieces[:half], pieces[half:]) for first in self.prefill(Turn(part, turn.speaks))]
        sequence, _, tokens = pieces[0]
        if tokens > 1:
            return self.prefill(Turn([Piece(sequence, 0, tokens // 2)]))
        self._starved.append(sequence)
        return []

    def given_up(self) -> Sequence | None:
        """The request to end, where there was no memory for some since the last call; the others try again."""
        starved, self._starved = self._starved, []
        return last_resort(starved) if starved else None

    def _arrive(self, turn: Turn) -> list[First]:
        """The state is written. Where there is no memory to say what follows, prompts that ended wait for a cycle."""
        turn.advance()
        firsts: list[First] = []
        self._runs(lambda: firsts.extend(turn.firsts(self._primitive)), "ends of prompts", turn.sequences)
        return firsts

    def _decode(self, point: OperatingPoint, members: Seq[Sequence]) -> list[list[int]]:
        found: list[list[int]] = []
        most = self._most
        if point.mode is Mode.QUADRATIC and self._primitive.graphs is not None:
            most = MOST_GROUPED  # more are not recorded
        at_once = most if most == inf else rows_at_once(point.width, self._primitive.cache.rows, int(most))
        if len(members) <= at_once and self._runs(
            lambda: found.extend(MODES[point.mode](self._primitive, members, point)), str(point), members
        ):
            return found
        if len(members) > 1:
            half = len(members) // 2
            return self._decode(point, members[:half]) + self._decode(point, members[half:])
        if point.mode is not Mode.AR:
            return self._decode(AR, members)
        self._starved += members
        return [[]]

    def _runs(self, work: Callable[[], object], what: str, members: Seq[Sequence]) -> bool:
        """Whether there is enough memory for it. What the attempt held is free again once this returns."""
        # Nothing counts before its forward is through, so the same cycle can be run again in parts: with the error put
        # into forwards the engine's invariants held, and the next cycle went on.
        try:
            work()
        except RuntimeError as exc:
            if not out_of_memory(exc):
                raise
            self.count += 1
            if self.count & (self.count - 1) == 0:  # each would fill the log
                _log.warning("out of memory (%d so far), at %s of %d requests: %s", self.count, what, len(members), exc)
        else:
            return True
        # Behind the handler, not in it: the exception holds the frames that failed, and with them their tensors.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return False


def out_of_memory(exc: RuntimeError) -> bool:
    """Whether the device's memory ran out. Only torch's own allocator on a GPU has an exception of its own for that;
    libraries that allocate for themselves, and processors, say it in words."""
    return isinstance(exc, torch.OutOfMemoryError) or any(words in str(exc) for words in _WORDS)


def last_resort(starved: Seq[Sequence]) -> Sequence:
    """Of those for whom there was no memory, the one to give up: the longest. The others try again without it."""
    return max(starved, key=lambda s: (s.cached + s.missing, s.arrival))
