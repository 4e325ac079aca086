"""A tenant's units per minute, held by all copies of the router together. [pure: no clock, no I/O]

Each copy keeps the whole budget's level: what flows in, less what it has spent and what it has heard that others have
spent. Of that it may spend a part which no other copy counts on. Whenever it hears of the others it gives back what it
has beyond an equal part, and takes of what belongs to none of them what it lacks, but no more than each could take
at the same moment. So together they cannot spend more than there is, however many requests come at once and whoever
hears last; what one copy leaves of its part is there for the others a moment later; and a copy that hears of nobody
goes on at its part of the rate. Parts are rounded up to whole units; that debt is paid back.
Only what a copy that dies had spent since it was last heard is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

BURST_SECONDS = 60.0
"""A budget not used for this long is there at once, no more."""
HEARD_EVERY_S = 0.25
"""How often copies hear of one another, while they are few."""
_TOGETHER_S = 5.0
"""Copies that began within this time began together: each had a full budget, and all that it has spent since counts."""
_SLACK = 1e-6
"""Rounding must not refuse what was saved to the last unit."""


class Told(msgspec.Struct, array_like=True, frozen=True):
    """What a copy says of one budget: what it has spent since it has the budget, for `age_s` seconds, the level as it
    knows it, and its own part of that."""

    per_minute: int
    spent: float
    level: float
    age_s: float
    part: float


def wait_s(rate: float, level: float, part: float, copies: int) -> float:
    """Seconds until a copy may spend; 0 for now. `rate`: units per second of all copies. `level`: of all copies, by
    what this one knows. `part`: what is left of its own part (only matters where there are other copies)."""
    if level < 1 - _SLACK:
        return (1 - level) / rate
    if copies > 1 and part <= _SLACK:
        # By then it has heard of the others, unless they are gone; then its part has grown.
        return min(HEARD_EVERY_S, (_SLACK - part) * copies / rate + _SLACK)
    return 0.0


def part_of(level: float, part: float, others: Sequence[float]) -> float:
    """What a copy may have of the level, where it has had `part`, and each of the others its own."""
    equal = level / (1 + len(others))
    kept = min(part, equal)
    free = level - sum(others) - kept
    return kept + max(0.0, min(equal - kept, free / (1 + len(others))))


class Budget:
    """Units per minute that flow in steadily; spending may go into debt, asking then waits for it to be paid."""

    __slots__ = ("_at", "_born", "_copies", "_known", "_level", "_part", "_rate", "spent")

    def __init__(self, per_minute: int, now: float) -> None:
        self._rate = per_minute / 60
        self._level = self._part = self._rate * BURST_SECONDS
        self._at = self._born = now
        self.spent = 0.0
        self._copies = 1
        self._known: dict[str, float] = {}
        """What other copies had spent when last heard of."""

    @property
    def limited(self) -> bool:
        return self._rate > 0

    def wait(self, now: float) -> float:
        """Seconds until something may be spent; 0 for now."""
        if not self._rate:
            return 0.0
        self._flow(now)
        return wait_s(self._rate, self._level, self._part, self._copies)

    def spend(self, units: float) -> None:
        self._level -= units
        self._part -= units
        self.spent += units

    def told(self, now: float) -> Told:
        """What other copies must know."""
        self._flow(now)
        return Told(round(self._rate * 60), self.spent, self._level, now - self._born, self._part)

    def hear(self, others: Mapping[str, Told | None], copies: int, now: float) -> None:
        """Take in what other copies have spent, by their names: None is nothing so far. Those of another rate have
        another budget by now. `copies` are all that spend from it, this one included."""
        self._flow(now)
        for name, told in others.items():
            if told is None:
                self._known.setdefault(name, 0.0)
        alike = {name: told for name, told in others.items() if told and told.per_minute == round(self._rate * 60)}
        self._level -= sum(self._news(name, told, now) for name, told in alike.items())
        for name, told in alike.items():
            if name not in self._known:
                # To one of the two the other is new: what copies have spent that are gone is in the older one's level.
                self._level = min(self._level, told.level)
                if told.age_s > now - self._born:
                    self._part = min(self._part, 0.0)
            self._known[name] = told.spent
        # A copy of which nothing is known has an equal part.
        theirs = [told.part for told in alike.values()]
        equal = self._level / copies
        self._copies, self._part = (
            copies,
            part_of(self._level, self._part, [*theirs, *[equal] * (copies - 1 - len(theirs))]),
        )

    def _flow(self, now: float) -> None:
        new, most = (now - self._at) * self._rate, self._rate * BURST_SECONDS
        self._level = min(most, self._level + new)
        self._part = min(most, self._part * self._copies + new) / self._copies
        self._at = now

    def _news(self, name: str, told: Told, now: float) -> float:
        """What the copy has spent that is not yet taken off here."""
        known = self._known.get(name)
        if known is None:
            # A long life's spending is in its level, and was paid for by what flowed in.
            return 0.0 if told.age_s > now - self._born + _TOGETHER_S else told.spent
        # Less than before: it has begun anew, as a tenant does that was taken out of the file and put back.
        return told.spent - known if told.spent >= known else told.spent


class Counts(msgspec.Struct, frozen=True):
    """What one copy, the process of this name, says of its tenants: requests and tokens by tenant."""

    name: str
    tenants: dict[str, tuple[Told, Told]]


def of_tenant(others: Iterable[Counts], tenant: str) -> tuple[dict[str, Told | None], dict[str, Told | None]]:
    """What others say of a tenant, by their names: requests, tokens; None where it has spent nothing there."""
    told = {counts.name: counts.tenants.get(tenant, (None, None)) for counts in others}
    return {name: pair[0] for name, pair in told.items()}, {name: pair[1] for name, pair in told.items()}
