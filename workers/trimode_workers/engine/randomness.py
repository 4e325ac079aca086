"""Randomness without state: a uniform number is a hash of (request seed, position, purpose).

So a draw depends neither on the neighbours in the batch nor on preemption nor on the replica that resumed the
request. Belongs here: the hash (the finaliser of splitmix64, chained over the key's parts) and the purposes.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_WEYL = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_RESOLUTION = 24
"""Bits of a uniform number: as many as float32 holds exactly."""


class Purpose(IntEnum):
    """What a number at a position is for; numbers of different purposes are independent."""

    DRAW = 0
    """The token itself: autoregressive, a diffusion fill, or what follows the accepted drafts."""
    DRAFT = 1
    ACCEPT = 2
    AGAIN = 3
    """A token in place of one that a grammar refused."""


def uniforms(seeds: NDArray[np.uint64], positions: NDArray[np.uint64], purpose: Purpose) -> NDArray[np.float32]:
    """Numbers in (0, 1], of the broadcast shape of `seeds` and `positions`."""
    key = _mix(seeds + _WEYL)
    key = _mix(key ^ (positions * np.uint64(len(Purpose)) + np.uint64(purpose) + np.uint64(1)) * _WEYL)
    whole = (key >> np.uint64(64 - _RESOLUTION)).astype(np.float32)
    return (whole + np.float32(1.0)) * np.float32(2.0**-_RESOLUTION)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))
