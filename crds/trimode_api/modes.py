"""Modes and operating points: the dial that trimode turns.

Belongs here: names of modes and points and how they are written. No policy, no I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

BLOCK_LENGTHS = (4, 8, 16, 32, 64)
"""Block lengths an engine can run, in tokens: powers of two, because kernels and graphs are made per length."""

_POINT = re.compile(r"AR|S(?P<s>\d+)|D(?P<d>\d+)@(?P<t>0?\.\d+|1(?:\.0+)?)")


class Mode(StrEnum):
    """How one set of weights produces tokens."""

    AR = "AR"
    SELF_SPECULATION = "SelfSpeculation"
    DIFFUSION = "Diffusion"

    @property
    def lossless(self) -> bool:
        """Whether an answer in this mode equals (or is distributed as) the autoregressive one."""
        return self is not Mode.DIFFUSION


@dataclass(frozen=True, slots=True, order=True)
class OperatingPoint:
    """A mode with its block length (tokens) and, for diffusion, the confidence threshold in (0, 1].

    Written `AR`, `S8`, `D32@0.9`. Raises ValueError where the parts contradict one another.
    """

    mode: Mode
    block_length: int = 1
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.mode is Mode.AR:
            if self.block_length != 1 or self.threshold is not None:
                raise ValueError("AR takes neither a block length nor a threshold")
            return
        if self.block_length not in BLOCK_LENGTHS:
            raise ValueError(f"block length {self.block_length} is not one of {list(BLOCK_LENGTHS)}")
        if self.mode is Mode.DIFFUSION:
            if self.threshold is None or not 0 < self.threshold <= 1:
                raise ValueError(f"diffusion needs a threshold in (0, 1], not {self.threshold}")
        elif self.threshold is not None:
            raise ValueError("self-speculation takes no threshold")

    @property
    def forwards_per_cycle(self) -> int:
        """Forwards of one cycle where that number is fixed: 1 (AR), 2 (draft and verify).

        A diffusion block takes between 2 and `block_length + 1`; the lower bound is returned.
        """
        return 1 if self.mode is Mode.AR else 2

    def __str__(self) -> str:
        if self.mode is Mode.AR:
            return "AR"
        if self.mode is Mode.SELF_SPECULATION:
            return f"S{self.block_length}"
        return f"D{self.block_length}@{self.threshold:g}"

    @classmethod
    def parse(cls, text: str) -> OperatingPoint:
        """The point written as `text`; ValueError names the text and the forms allowed."""
        match = _POINT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not an operating point; write AR, S8 or D32@0.9")
        if match["s"]:
            return cls(Mode.SELF_SPECULATION, int(match["s"]))
        if match["d"]:
            return cls(Mode.DIFFUSION, int(match["d"]), float(match["t"]))
        return AR


AR = OperatingPoint(Mode.AR)


def speculation(block_length: int) -> OperatingPoint:
    """Linear self-speculation with drafts of `block_length - 1` tokens behind the seed."""
    return OperatingPoint(Mode.SELF_SPECULATION, block_length)


def diffusion(block_length: int, threshold: float) -> OperatingPoint:
    """Block diffusion that fixes tokens whose top-1 probability reaches `threshold`."""
    return OperatingPoint(Mode.DIFFUSION, block_length, threshold)
