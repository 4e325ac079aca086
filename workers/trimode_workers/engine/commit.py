"""Pure: what becomes of the tokens a mode proposes for one request. Every mode shares these rules; none knows them."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import NamedTuple

from trimode_workers.engine.messages import Finish


class Commit(NamedTuple):
    """`tokens` are emitted and become part of the request; `finish` is set where it ends."""

    tokens: list[int]
    finish: Finish | None


def commit(proposed: list[int], room: int, eos: AbstractSet[int], shown: AbstractSet[int] = frozenset()) -> Commit:
    """Keep `proposed` up to an end-of-sequence token, at most `room` (>= 1) tokens.

    The end-of-sequence token is not emitted, unless it is among `shown`. One that comes after `room` tokens is not
    seen: that is a `LENGTH`.
    """
    kept = proposed if len(proposed) <= room else proposed[:room]
    if not eos.isdisjoint(kept):
        end = next(i for i, token in enumerate(kept) if token in eos)
        return Commit(kept[: end + (kept[end] in shown)], Finish.STOP)
    return Commit(kept, Finish.LENGTH if len(kept) == room else None)
