"""Modes and operating points: the dial that trimode turns.

Belongs here: names of modes and points and how they are written. No policy, no I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

BLOCK_LENGTHS = (4, 8, 16, 32, 64)
"""Block lengths an engine can run, in tokens: powers of two, because kernels and graphs are made per length."""

LONGEST_QUADRATIC = 32
"""Longest block of quadratic self-speculation: one forward runs B (B + 1) tokens of each request."""

_POINT = re.compile(r"AR|(?P<kind>[SQD])(?P<b>\d+)(?:@(?P<t>0?\.\d+|1(?:\.0+)?))?")


class Mode(StrEnum):
    """How one set of weights produces tokens."""

    AR = "AR"
    SELF_SPECULATION = "SelfSpeculation"
    QUADRATIC = "QuadraticSpeculation"
    DIFFUSION = "Diffusion"

    @property
    def lossless(self) -> bool:
        """Whether an answer in this mode equals (or is distributed as) the autoregressive one."""
        return self is not Mode.DIFFUSION

    @property
    def speculates(self) -> bool:
        """Whether tokens are drafted and then verified."""
        return self in (Mode.SELF_SPECULATION, Mode.QUADRATIC)


_LETTERS = {Mode.SELF_SPECULATION: "S", Mode.QUADRATIC: "Q", Mode.DIFFUSION: "D"}
_MODES = {letter: mode for mode, letter in _LETTERS.items()}


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A mode with its block length (tokens) and the confidence threshold in (0, 1] at which a token is fixed:
    diffusion needs one, self-speculation with one drafts in several steps.

    Written `AR`, `S8`, `S16@0.9`, `Q8`, `D32@0.9`. Raises ValueError where the parts contradict one another.
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
        if self.mode is Mode.DIFFUSION and self.threshold is None:
            raise ValueError("diffusion needs a threshold in (0, 1]")
        if self.mode is Mode.QUADRATIC:
            if self.threshold is not None:
                raise ValueError("quadratic self-speculation takes no threshold")
            if self.block_length > LONGEST_QUADRATIC:
                raise ValueError(f"quadratic self-speculation takes a block length of {LONGEST_QUADRATIC} at most")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"{self.mode} needs a threshold in (0, 1], not {self.threshold}")

    @property
    def forwards_per_cycle(self) -> int:
        """Forwards of one cycle where that number is fixed: 1 (AR, quadratic), 2 (draft and verify).

        With a threshold it varies: a diffusion block takes between 2 and `block_length + 1`, drafting in steps a
        few more than 2; the lower bound is returned.
        """
        return 1 if self.mode in (Mode.AR, Mode.QUADRATIC) else 2

    @property
    def width(self) -> int:
        """Tokens of one request that a forward runs."""
        return self.block_length * (self.block_length + 1 if self.mode is Mode.QUADRATIC else 1)

    def __lt__(self, other: OperatingPoint) -> bool:
        """By mode, block length and threshold, so that lists of points are shown in one order."""
        return self._order < other._order

    @property
    def _order(self) -> tuple[str, int, float]:
        return self.mode.value, self.block_length, self.threshold or 0.0

    def __str__(self) -> str:
        if self.mode is Mode.AR:
            return "AR"
        at = "" if self.threshold is None else f"@{self.threshold:g}"
        return f"{_LETTERS[self.mode]}{self.block_length}{at}"

    @classmethod
    def parse(cls, text: str) -> OperatingPoint:
        """The point written as `text`; ValueError names the text and the forms allowed."""
        match = _POINT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not an operating point; write AR, S8, S16@0.9, Q8 or D32@0.9")
        if match["kind"] is None:
            return AR
        threshold = None if match["t"] is None else float(match["t"])
        return cls(_MODES[match["kind"]], int(match["b"]), threshold)


AR = OperatingPoint(Mode.AR)


def speculation(block_length: int, threshold: float | None = None) -> OperatingPoint:
    """Linear self-speculation with drafts of `block_length - 1` tokens behind the seed: all at once, or in a few
    steps, each fixing those whose top-1 probability reaches `threshold`."""
    return OperatingPoint(Mode.SELF_SPECULATION, block_length, threshold)


def quadratic(block_length: int) -> OperatingPoint:
    """Quadratic self-speculation: one forward verifies `block_length - 1` drafts and makes the next ones."""
    return OperatingPoint(Mode.QUADRATIC, block_length)


def diffusion(block_length: int, threshold: float) -> OperatingPoint:
    """Block diffusion that fixes tokens whose top-1 probability reaches `threshold`."""
    return OperatingPoint(Mode.DIFFUSION, block_length, threshold)
