"""Replicas that pools share: how they are split, and one move from the decision to the replica that serves.

Belongs here: the steps of a move and what is remembered between them. Whether a move is worth it is `rebalance`'s; the
operator or `trimode up` applies the split: it makes the pools as large as `targets` says and decides nothing.

A move shrinks one pool first and lets the other grow when what the replica used has come free, so that the pools never
have more than their total. What it took, from the decision until the new replica serves, is the price of the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from trimode_policy.rebalance import EVERY_S, Demand, MoveReason, Moves, MoveState, PoolView, rebalance

# What a move takes differs by orders of magnitude: a tiny model loads in seconds, a large one in many minutes.
REST = 5.0
"""Between two moves at least this many times what the last one took: at most a sixth of the time is spent on moves."""
STUCK_S = 3600.0
"""A move that takes longer than this, in seconds, is reported as stuck: the drain and the start of a server have
bounds, so a person has to look."""


class Phase(StrEnum):
    """The replica finishes its requests and goes; what it used comes free; another one starts; it serves."""

    LEAVING = "Leaving"
    RELEASING = "Releasing"
    JOINING = "Joining"
    DONE = "Done"


WORDS = {
    Phase.LEAVING: "a replica finishes its requests and goes",
    Phase.RELEASING: "what it used comes free",
    Phase.JOINING: "another one starts",
    Phase.DONE: "done",
}


@dataclass(frozen=True, slots=True)
class Move:
    """One replica's way. `begun` and `since` (when the phase began) in seconds of the caller's clock."""

    source: str
    target: str
    phase: Phase
    begun: float
    since: float
    detail: str = ""

    @property
    def under_way(self) -> bool:
        return self.phase is not Phase.DONE

    @property
    def between(self) -> bool:
        """Whether the replica has been taken from one pool and not yet been given to the other."""
        return self.phase in (Phase.LEAVING, Phase.RELEASING)


@dataclass(frozen=True, slots=True)
class Split:
    """Replicas that each pool is to have, and the last move."""

    targets: Mapping[str, int] = field(default_factory=dict)
    move: Move | None = None


@dataclass(frozen=True, slots=True)
class SharedPool:
    """One pool that takes part: bounds of its size, those it has (draining and starting ones too), those that serve.

    `pace`, `capacity` and `kept_s` as in `PoolView`. `first`: gets what is left over at the start.
    """

    name: str
    least: int
    most: int
    there: int = 0
    ready: int = 0
    pace: Callable[[int], float | None] = lambda batch: None
    capacity: int = 1
    first: bool = False
    kept_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """The split from now on, and why a replica moves or not."""

    split: Split
    reason: MoveReason
    detail: str


def shares(pools: Sequence[SharedPool], total: int, granted: Mapping[str, int]) -> dict[str, int]:
    """Replicas by pool that sum up to `total` within the bounds, as near to `granted` as can be.

    A pool that has been granted nothing yet begins at its least; what is left goes to those that are `first`.
    """
    found = {pool.name: max(pool.least, min(granted.get(pool.name, pool.least), pool.most)) for pool in pools}
    order = sorted(pools, key=lambda pool: not pool.first)
    for pool in order:
        found[pool.name] += max(0, min(total - sum(found.values()), pool.most - found[pool.name]))
    for pool in reversed(order):
        found[pool.name] -= max(0, min(sum(found.values()) - total, found[pool.name] - pool.least))
    return found


def settled(split: Split, pools: Sequence[SharedPool], total: int) -> Split:
    """The split as bounds and total are now; a move between pools of which one has gone is forgotten."""
    names = {pool.name for pool in pools}
    move = split.move if split.move is None or {split.move.source, split.move.target} <= names else None
    if move is not None and move.between and total <= sum(pool.least for pool in pools):
        # The total was lowered meanwhile: no pool has a place left for the replica that is on its way.
        move = replace(move, phase=Phase.DONE)
    away = 1 if move is not None and move.between else 0
    return Split(shares(pools, total - away, split.targets), move)


def step(
    split: Split,
    pools: Sequence[SharedPool],
    total: int,
    demand: Demand | None,
    now: float,
    *,
    release_s: float = 0.0,
    held: str = "",
) -> Step:
    """The next step: go on with the move that is under way, else perhaps begin one.

    `demand` None: the load is not known well enough. `release_s`: seconds from a replica's end until what it used is
    free for another one. `held`: why a move is only shown and not begun, in words.
    """
    split = settled(split, pools, total)
    move = split.move
    if move is not None and move.under_way:
        # One at a time, and whatever the load does meanwhile: half a move leaves a GPU to nobody.
        return _go_on(split, move, {pool.name: pool for pool in pools}, now, release_s)
    if demand is None:
        return Step(split, MoveReason.NO_DATA, "the load of the last minute is not known")
    took = None if move is None else max(0.0, move.since - move.begun)
    moves = Moves() if took is None else Moves(every_s=max(EVERY_S, REST * took), switch_s=took)
    moved_at = float("-inf") if move is None else move.since
    # `rebalance`'s own state is not kept: the split with its last move is in the resource's status, from which another
    # leader goes on where this one stopped.
    decision, _ = rebalance([_view(pool, split) for pool in pools], demand, moves, MoveState(moved_at), now)
    if decision.source is None or decision.target is None:
        return Step(split, decision.reason, decision.detail)
    if held:
        return Step(split, MoveReason.HELD, f"{held}: {decision.detail}")
    targets = {**split.targets, decision.source: split.targets[decision.source] - 1}
    begun = Move(decision.source, decision.target, Phase.LEAVING, now, now, decision.detail)
    return Step(Split(targets, begun), decision.reason, decision.detail)


def _go_on(split: Split, move: Move, pools: Mapping[str, SharedPool], now: float, release_s: float) -> Step:
    targets = split.targets
    left = pools[move.source].there <= targets[move.source]
    if move.phase is Phase.LEAVING and left:
        move = replace(move, phase=Phase.RELEASING, since=now)
    elif move.phase is Phase.RELEASING and not left:
        move = replace(move, phase=Phase.LEAVING, since=now)  # the total was lowered: another one has to go first
    # What the gone replica used is given up late: its pod still ends, and growing at once would make the autoscaler of
    # nodes buy a machine for the minute in between.
    if move.phase is Phase.RELEASING and now - move.since >= release_s:
        move = replace(move, phase=Phase.JOINING, since=now)
        targets = {**targets, move.target: targets[move.target] + 1}
    elif move.phase is Phase.JOINING and pools[move.target].ready >= targets[move.target]:
        move = replace(move, phase=Phase.DONE, since=now)
        took = f"{move.source} -> {move.target} took {now - move.begun:.0f} s"
        return Step(Split(targets, move), MoveReason.DWELL, took)
    reason = MoveReason.STUCK if now - move.begun > STUCK_S else MoveReason.IN_TRANSITION
    return Step(Split(targets, move), reason, f"{move.source} -> {move.target}: {WORDS[move.phase]}")


def _view(pool: SharedPool, split: Split) -> PoolView:
    """A pool that is not as large as it should be has a replica on its way, whatever the reason."""
    target = split.targets[pool.name]
    moving = abs(pool.there - target) + (pool.there - pool.ready)
    least = max(1, pool.least)
    return PoolView(pool.name, pool.ready, moving, pool.pace, pool.capacity, least, pool.most, pool.kept_s)
