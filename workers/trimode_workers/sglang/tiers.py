"""Block lengths by batch: the more requests run, the shorter the block. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FIRST_BOUND, GROWTH = 4, 8
"""The longest block is for up to 4 requests, the next for up to 32, and so on: as the fork's authors publish it."""


@dataclass(frozen=True, slots=True)
class Tier:
    """`block_length` is used while at most `most` requests run."""

    most: int
    block_length: int


def tiers(block_lengths: Sequence[int], max_running_requests: int) -> tuple[Tier, ...]:
    """Longest first; the last holds up to `max_running_requests`."""
    found: list[Tier] = []
    most = FIRST_BOUND
    for length in sorted(set(block_lengths), reverse=True):
        found.append(Tier(min(most, max_running_requests), length))
        if most >= max_running_requests:
            break
        most *= GROWTH
    found[-1] = Tier(max_running_requests, found[-1].block_length)
    return tuple(found)


def block_length(of: Sequence[Tier], running: int) -> int:
    """What the server uses while `running` requests run."""
    return next((tier.block_length for tier in of if running <= tier.most), of[-1].block_length)
