"""Recorded forwards by shape, for rows and for pages alike: each is recorded once, or known to have no memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch

from trimode_workers.engine.shapes import Shape

Recorded = TypeVar("Recorded")
_log = logging.getLogger(__name__)


class Recordings(Generic[Recorded]):
    """`record` makes one; where it raises torch.OutOfMemoryError the shape runs unrecorded."""

    def __init__(self, record: Callable[[Shape], Recorded]) -> None:
        self._record = record
        self._kept: dict[Shape, Recorded | None] = {}  # None: there was no memory for it

    def __len__(self) -> int:
        return sum(recorded is not None for recorded in self._kept.values())

    def of(self, shape: Shape) -> Recorded | None:
        """Records what it meets first; None where there was no memory."""
        if shape not in self._kept:
            try:
                self._kept[shape] = self._record(shape)
            # Unrecorded is slow (2 to 7 ms of processor time per forward of the 8B), but it serves; a replica that does
            # not start serves nothing.
            except torch.OutOfMemoryError:
                self._kept[shape] = None
        return self._kept[shape]

    def make(self, shapes: Iterable[Shape]) -> None:
        """Record all of these, the largest first: what those need of the pool is enough for the others."""
        wanted = sorted(shapes, key=lambda s: (s.tokens, s.rows * s.reach), reverse=True)
        for number, shape in enumerate(wanted):
            if number % max(1, len(wanted) // 10) == 0:
                _log.info("recording forwards: %d of %d", number, len(wanted))
            self.of(shape)
        short = sum(self._kept[shape] is None for shape in wanted)
        if short:
            _log.warning("no memory to record %d of %d forwards: they run unrecorded", short, len(wanted))
        _log.info("recorded %d forwards", len(wanted) - short)
