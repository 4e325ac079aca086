"""Moving a replica between pools whose engines cannot change their mode without a restart.

Belongs here: the slow decision of the fleet. Traffic moves between pools at once (`route`); replicas move rarely.

A split of the replicas is judged by the mean pace its users get where `route` spreads the requests evenly, for the
calm and for the busy part of the last minute. A move is made where the new split promises
a clear gain in both, where the gain over `horizon_s` outweighs what is lost while the replica is away and the prompts
that are computed again because of it, and where the rest could carry the load meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool: `replicas` it has, `moving` those draining or loading towards it or away from it.

    `pace(batch)`: predicted seconds per token of one user at that many requests per replica, None where it cannot be
    predicted. `least`: replicas it must keep. `most`: replicas it may have, None for any number. `capacity`: most
    requests per replica. `kept_s`: seconds it took to compute the prompts that one of its replicas keeps for those that
    go on from there, and that others compute again once it is gone.
    """

    name: str
    replicas: int
    moving: int
    pace: Callable[[int], float | None]
    capacity: int
    least: int = 1
    most: int | None = None
    kept_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests in flight over all pools: the calm and the busy end of the last minute (10th and 90th percentile)."""

    calm: float
    busy: float


EVERY_S = 900.0
"""Seconds between two moves: four an hour."""
# A move takes a drain and the start of a server, minutes in all: moving for a load that passes costs more than the
# wrong split does meanwhile.


@dataclass(frozen=True, slots=True)
class Moves:
    """`margin`: predicted gain in pace below which nothing moves. `every_s`: seconds between two moves.

    `switch_s`: seconds a replica is away. `horizon_s`: seconds over which a move has to pay.
    """

    # Slow and reluctant on purpose: in simulations with a drain and reload of 5, 30 or 180 s, switching whole replicas
    # by their load lost 20 to 65 % of goodput, a fixed split with traffic moving between its pools 0.4 to 3.6 %.
    margin: float = 0.1
    every_s: float = EVERY_S
    switch_s: float = 180.0
    horizon_s: float = 900.0


class MoveReason(StrEnum):
    """Why a replica moves, or why none does."""

    PREDICTED_GAIN = "PredictedGain"
    KEPT = "Kept"
    IDLE = "Idle"
    IN_TRANSITION = "InTransition"
    DWELL = "Dwell"
    REST_CANNOT_CARRY = "RestCannotCarry"
    NOT_WORTH_IT = "NotWorthIt"
    NO_DATA = "NoData"
    HELD = "Held"
    STUCK = "Stuck"


@dataclass(frozen=True, slots=True)
class MoveDecision:
    """Move one replica from pool `source` to pool `target`, or none (both None); why, with numbers."""

    source: str | None
    target: str | None
    reason: MoveReason
    detail: str


@dataclass(frozen=True, slots=True)
class MoveState:
    """When the last move was made."""

    moved_at: float = float("-inf")


@dataclass(frozen=True, slots=True)
class _Question:
    """What one decision is asked with; `paces`: mean seconds per token as the pools are, when calm and busy."""

    pools: Sequence[PoolView]
    demand: Demand
    moves: Moves
    paces: tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Option:
    """A move that is possible, and its predicted gain in pace (share)."""

    gain: float
    source: PoolView
    target: PoolView


def rebalance(
    pools: Sequence[PoolView], demand: Demand, moves: Moves, state: MoveState, now: float
) -> tuple[MoveDecision, MoveState]:
    """At most one move. Never while one is under way, never below a pool's `least`, never without figures."""
    if any(pool.moving for pool in pools):
        return _stay(MoveReason.IN_TRANSITION, "a replica is on its way between pools"), state
    if demand.busy <= 0:
        return _stay(MoveReason.IDLE, "no request is running or waiting"), state
    since = now - state.moved_at
    if 0 <= since < moves.every_s:
        return _stay(MoveReason.DWELL, f"the last move was {since:.0f} s ago, one per {moves.every_s:g} s"), state
    paces = _paces(pools, demand)
    if paces is None:
        return _stay(MoveReason.NO_DATA, "the pace of some pool cannot be predicted"), state
    question = _Question(pools, demand, moves, paces)
    best = max(_options(question), key=lambda option: option.gain, default=None)
    if best is None or best.gain <= moves.margin:
        found = "none is possible" if best is None else f"the best one gains {best.gain:.1%}"
        return _stay(MoveReason.KEPT, f"no move is worth it: {found}"), state
    decision = _checked(question, best)
    return decision, state if decision.source is None else MoveState(now)


def _options(question: _Question) -> Iterator[_Option]:
    """Every move within the pools' bounds whose outcome can be predicted."""
    for source in question.pools:
        for target in question.pools:
            full = target.most is not None and target.replicas >= target.most
            if source.name == target.name or source.replicas <= source.least or full:
                continue
            change = {source.name: -1, target.name: 1}
            moved = [replace(pool, replicas=pool.replicas + change.get(pool.name, 0)) for pool in question.pools]
            paces = _paces(moved, question.demand)
            if paces is not None:
                # The worse of the two gains counts: a move that helps at one end of the load only would be undone by
                # the other, and each costs minutes of a replica.
                yield _Option(min(_gains(question.paces, paces)), source, target)


def _checked(question: _Question, option: _Option) -> MoveDecision:
    """The move, unless the other replicas could not carry the load meanwhile, or it does not pay."""
    pools, demand, moves = question.pools, question.demand, question.moves
    source, target, gain = option.source.name, option.target.name, option.gain
    rest = [replace(pool, replicas=pool.replicas - 1) if pool.name == source else pool for pool in pools]
    if demand.busy > sum(pool.replicas * pool.capacity for pool in rest):
        return _stay(MoveReason.REST_CANNOT_CARRY, f"{demand.busy:.0f} requests exceed what the others can run")
    away = _paces(rest, demand)
    if away is None:
        return _stay(MoveReason.REST_CANNOT_CARRY, "the others could not carry the load meanwhile")
    # While it is away (minutes: it drains, and a server starts) the fleet is smaller. That loss is certain, the gain
    # lasts only as long as the load does; hence a horizon instead of a comparison of the two splits alone.
    loss = max(0.0, -min(_gains(question.paces, away)))
    # One replica's seconds, so that much less of the fleet's. All of them: how many conversations go on is not known.
    again_s = option.source.kept_s / sum(pool.replicas for pool in pools)
    if gain * moves.horizon_s <= loss * moves.switch_s + again_s:
        detail = f"{gain:.1%} for {moves.horizon_s:g} s does not outweigh {loss:.1%} for {moves.switch_s:g} s"
        detail += f" and {option.source.kept_s:.0f} s of prompts computed again" if option.source.kept_s else ""
        return _stay(MoveReason.NOT_WORTH_IT, detail)
    detail = (
        f"{source} -> {target}: tokens come {gain:.0%} faster at {demand.calm:.0f} to {demand.busy:.0f} "
        "requests in flight"
    )
    return MoveDecision(source, target, MoveReason.PREDICTED_GAIN, detail)


def _stay(reason: MoveReason, detail: str) -> MoveDecision:
    return MoveDecision(None, None, reason, detail)


def _gains(before: tuple[float, float], after: tuple[float, float]) -> tuple[float, float]:
    return before[0] / after[0] - 1.0, before[1] / after[1] - 1.0


def _paces(pools: Sequence[PoolView], demand: Demand) -> tuple[float, float] | None:
    calm, busy = _pace(pools, demand.calm), _pace(pools, demand.busy)
    return None if calm is None or busy is None else (calm, busy)


def _pace(pools: Sequence[PoolView], requests: float) -> float | None:
    """Mean seconds per token where every replica holds the same number of requests, as `route` spreads them."""
    count = sum(pool.replicas for pool in pools)
    if count < 1:
        return None
    batch = max(1, round(requests / count))
    total = 0.0
    for pool in pools:
        pace = pool.pace(min(batch, pool.capacity)) if pool.replicas else 0.0
        if pace is None:
            return None
        total += pace * pool.replicas
    return total / count
