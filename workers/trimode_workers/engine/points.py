"""The operating points an engine may use, parsed from a `Configure`.

Which of them runs is decided in `class_controller` and `mode_controller`.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimode_api.modes import OperatingPoint
from trimode_workers.engine.messages import Configure


@dataclass(frozen=True, slots=True)
class Points:
    """A `Configure` parsed. Raises ValueError naming what is wrong. `lossless` are usable by every request."""

    every: tuple[OperatingPoint, ...]
    fallback: OperatingPoint
    fixed: OperatingPoint | None

    @classmethod
    def parse(cls, configure: Configure) -> Points:
        every = tuple(dict.fromkeys(OperatingPoint.parse(p) for p in configure.points))
        if not every:
            raise ValueError("points is empty, allowed is at least one operating point")
        fallback = OperatingPoint.parse(configure.fallback)
        fixed = None if configure.fixed is None else OperatingPoint.parse(configure.fixed)
        for name, point in (("fallback", fallback), ("fixed", fixed)):
            if point is not None and point not in every:
                raise ValueError(f"{name} is {point}, allowed is one of the points {[str(p) for p in every]}")
        return cls(every, fallback, fixed)

    @property
    def lossless(self) -> tuple[OperatingPoint, ...]:
        return tuple(p for p in self.every if p.mode.lossless)

    @property
    def lossy(self) -> bool:
        return any(not p.mode.lossless for p in self.every)

    @property
    def growth(self) -> int:
        return max(p.block_length for p in self.every)


def lossy(point: OperatingPoint) -> bool:
    """Whether only requests that allow a lossy answer may run in `point`."""
    return not point.mode.lossless
