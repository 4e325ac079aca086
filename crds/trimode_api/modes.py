"""Modes and operating points: the dial that trimode turns. No policy, no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
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


LOSSY_REFUSED = "Diffusion is lossy, but quality is 'lossless'; send 'lossy-ok' or leave it out"
"""Why diffusion is not run for a request that asks for both; router and replica say it alike."""


def allows_lossy(quality: str | None, mode: Mode | None) -> bool:
    """Whether diffusion may answer a request: it said 'lossy-ok', or it wishes for diffusion and said nothing else."""
    return quality == "lossy-ok" or (quality is None and mode is Mode.DIFFUSION)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request insists on: a mode, and where it says so the block length (tokens) and threshold.

    It stays a wish until the replica that answers has resolved it: a router that settled it by the points of the whole
    fleet turned requests away that a living pool could serve by another point of the mode.
    """

    mode: Mode
    block_length: int | None = None
    threshold: float | None = None

    def fits(self, point: OperatingPoint) -> bool:
        """Whether `point` is what this asks for; what is left out fits anything."""
        return (
            point.mode is self.mode
            and self.block_length in (None, point.block_length)
            and self.threshold in (None, point.threshold)
        )

    def __str__(self) -> str:
        """As a request writes it: `SelfSpeculation with blockLength 8 and threshold 0.9`."""
        parts = [] if self.block_length is None else [f"blockLength {self.block_length}"]
        if self.threshold is not None:
            parts.append(f"threshold {self.threshold:g}")
        return f"{self.mode.value} with {' and '.join(parts)}" if parts else self.mode.value


def resolve(wish: Wish, points: Iterable[OperatingPoint]) -> OperatingPoint | None:
    """The point of `points` that `wish` means, None where none fits.

    Of several the longest block, then the highest threshold, as a manual mode without a length has it; so the answer
    does not depend on the order of `points`.
    """
    fitting = (point for point in points if wish.fits(point))
    return max(fitting, key=lambda point: (point.block_length, point.threshold or 0.0), default=None)


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
