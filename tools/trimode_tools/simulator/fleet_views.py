"""The replicas of a simulated fleet as its router sees them, and what they have in sum.

Only what changed is looked at again: with hundreds of replicas, looking at each for every request took nine tenths of
a run. Kept up to date by `Fleet.changed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trimode_policy.route import ReplicaView
from trimode_policy.tier_fairness import TierMix, reservations
from trimode_tools.simulator.fleet import Fleet
from trimode_tools.simulator.ports import Member, Phase

RESERVE_EVERY_S = 1.0
"""Seconds between two updates of the replicas' reservations for tiers; a change of the fleet brings one at once."""


@dataclass(slots=True)
class FleetViews:
    """Mutable. `caps`: by pool, most requests a replica of it is sent; other pools take a full engine.

    Over ready replicas: `ready` of them, `paced` of these that report paces, `in_flight` requests, `spare` places for
    late ones, and `capacity` by tier.
    """

    tiers: tuple[str, ...]
    caps: Mapping[str, int]
    views: list[ReplicaView] = field(default_factory=list)
    ready: int = 0
    paced: int = 0
    in_flight: int = 0
    spare: int = 0
    capacity: dict[str, int] = field(default_factory=dict)
    _seen: list[tuple[object, ...]] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    reserved_for: dict[str, str] = field(default_factory=dict)
    reserved_at: float = float("-inf")

    def update(self, fleet: Fleet, mix: TierMix) -> list[ReplicaView]:
        """The views of all replicas as of now; the `mix` of tiers decides which replicas are reserved for which."""
        changed = fleet.changed
        phases_changed = not self.phases or any(fleet.members[i].phase is not self.phases[i] for i in changed)
        if phases_changed or fleet.now - self.reserved_at >= RESERVE_EVERY_S:
            self.reserved_at = fleet.now
            self.phases = [member.phase for member in fleet.members]
            rows = {str(member.index): member.rows for member in fleet.members if member.phase is Phase.READY}
            self.reserved_for = reservations(rows, mix.shares())
            changed.update(range(len(fleet.members)))
        for index in sorted(changed):
            self._look_at(fleet.members[index])
        changed.clear()
        return self.views

    def _look_at(self, member: Member) -> None:
        """Make the view of one replica again where it has changed."""
        reserved_for = self.reserved_for.get(str(member.index))
        seen = (member.engine.in_flight, member.news, member.phase, member.pool, reserved_for)
        if member.index == len(self.views):
            self.views.append(self._view(member, reserved_for))
            self._seen.append(seen)
        elif self._seen[member.index] == seen:
            return
        else:
            self._count(self.views[member.index], -1)
            self.views[member.index], self._seen[member.index] = self._view(member, reserved_for), seen
        self._count(self.views[member.index], 1)

    def _count(self, view: ReplicaView, sign: int) -> None:
        if not view.ready:
            return
        self.ready += sign
        self.paced += sign if view.rows else 0
        self.in_flight += sign * view.in_flight
        self.spare += sign * view.late_places
        for tier in self.tiers:
            self.capacity[tier] = self.capacity.get(tier, 0) + sign * view.tier_capacity.get(tier, view.capacity)

    def _view(self, member: Member, reserved_for: str | None) -> ReplicaView:
        return ReplicaView(
            replica_id=str(member.index),
            pool=member.pool,
            ready=member.phase is Phase.READY,
            draining=member.phase is Phase.DRAINING,
            age_s=0.0,  # living replicas report at least once per tick; a broken connection shows at once
            in_flight=member.engine.in_flight,
            running=member.running,
            waiting=member.waiting,
            queued_prompt_tokens=member.engine.queued_tokens,
            capacity=self.caps.get(member.pool, member.engine.limits.rows),
            points=member.points,
            rows=member.rows,
            reserved_for=reserved_for,
            prompt_tokens_per_second=member.engine.prompts.tokens_per_s,
        )
