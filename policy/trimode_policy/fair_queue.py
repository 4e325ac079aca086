"""The bounded room where requests wait for a slot: the highest priority first, tenants in turn, then the oldest. [pure]

Tenants share slots by start-time fair queueing: a request's tag is one behind its tenant's last, or behind what is
served now if that is later. So one who sends a thousand requests waits for himself, and saves nothing by being idle.

Belongs here: order and bounds. Who may enter is `admit`'s decision, the clock is the caller's.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Ticket(Generic[T]):
    """One waiting request. `since` and `until` in seconds of the caller's clock."""

    item: T
    priority: int
    since: float
    until: float
    serial: int
    tenant: str = ""
    tag: float = 0.0


class WaitingRoom(Generic[T]):
    """A priority queue that can be left from the middle; the heap forgets lazily."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, float, float, int]] = []
        self._served_tag = 0.0
        self._last_tags: dict[str, float] = {}
        self._tickets: dict[int, Ticket[T]] = {}
        self._by_priority: Counter[int] = Counter()
        self._serial = 0

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket[T]]:
        """Those waiting, as they came."""
        return iter(self._tickets.values())

    def enter(self, item: T, priority: int, since: float, until: float, tenant: str = "") -> Ticket[T]:
        """`tenant` empty: by age alone."""
        self._serial += 1
        tag = 0.0
        if tenant:
            tag = max(self._served_tag, self._last_tags.get(tenant, 0.0)) + 1
            self._last_tags[tenant] = tag
        ticket = Ticket(item, priority, since, until, self._serial, tenant, tag)
        heapq.heappush(self._heap, (-priority, tag, since, ticket.serial))
        self._tickets[ticket.serial] = ticket
        self._by_priority[priority] += 1
        return ticket

    def leave(self, ticket: Ticket[T]) -> None:
        """Take one out, wherever it stands; nothing happens where it already left."""
        if self._tickets.pop(ticket.serial, None) is None:
            return
        self._by_priority[ticket.priority] -= 1
        if not self._tickets:
            self._served_tag = 0.0
            self._last_tags.clear()
        if len(self._heap) > 2 * len(self._tickets) + 64:
            self._heap = [entry for entry in self._heap if entry[3] in self._tickets]
            heapq.heapify(self._heap)

    def in_order(self) -> Iterator[Ticket[T]]:
        """Those waiting, the next to serve first; tickets may leave, and newcomers enter, meanwhile."""
        passed = []
        try:
            while self._heap:
                entry = heapq.heappop(self._heap)
                ticket = self._tickets.get(entry[3])
                if ticket is None:
                    continue
                passed.append(entry)
                yield ticket
        finally:
            for entry in passed:
                if entry[3] in self._tickets:
                    heapq.heappush(self._heap, entry)

    def last(self) -> Ticket[T] | None:
        """The one to give up first: the lowest priority, of these the last in turn."""
        return max(self._tickets.values(), key=lambda t: (-t.priority, t.tag, t.since, t.serial), default=None)

    def serve(self, ticket: Ticket[T]) -> None:
        """Take one out because its turn has come."""
        self._served_tag = max(self._served_tag, ticket.tag)
        self.leave(ticket)

    def at_or_above(self, priority: int) -> int:
        """How many would be served before a newcomer of this priority."""
        return sum(count for other, count in self._by_priority.items() if other >= priority)

    def at(self, priority: int) -> int:
        """How many wait with this very priority."""
        return self._by_priority[priority]

    def by_age(self) -> Iterator[Ticket[T]]:
        """Those waiting, the first to enter first; nobody may enter or leave meanwhile."""
        return iter(self._tickets.values())

    def oldest(self) -> float | None:
        """When the longest waiting entered."""
        first = next(iter(self._tickets.values()), None)
        return None if first is None else first.since

    def expired(self, now: float) -> list[Ticket[T]]:
        """Take out all whose time is over."""
        late = [ticket for ticket in self._tickets.values() if ticket.until <= now]
        for ticket in late:
            self.leave(ticket)
        return late
