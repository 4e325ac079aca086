"""Who goes next: the highest priority first, tenants in turn, then the oldest; the late after all others. [pure]

Tenants share slots by start-time fair queueing (Goyal, Vin and Cheng 1996): a request's tag is one behind its tenant's
last, or behind what is served now if that is later. A tenant that sends a thousand requests delays its own only, and
gains nothing from having been idle.

The router's queue and the simulator's are this one. Who may enter is `admit`'s decision, where a request goes is
`route`'s, the clock is the caller's.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

FIRST_IN_LINE = 2**31
"""Priority of streams that wait to go on: their clients have waited before, and have half of an answer."""


class _Class(NamedTuple):
    """Tickets that are served in one order. `alone`: the serial of a ticket that is like no other, else 0."""

    priority: int
    kind: Hashable
    alone: int
    late: bool


@dataclass(frozen=True, slots=True, eq=False)
class Ticket(Generic[T]):
    """One waiting request. `since` and `until` in seconds of the caller's clock."""

    item: T
    priority: int
    since: float
    until: float
    serial: int
    tag: float
    kind: Hashable


class FairQueue(Generic[T]):
    """Mutable, and not safe for threads. Tickets may leave from the middle; the heaps forget them later."""

    def __init__(self) -> None:
        self._tickets: dict[int, Ticket[T]] = {}
        self._heaps: dict[_Class, list[tuple[float, float, int]]] = {}
        self._entries = 0
        self._by_priority: Counter[int] = Counter()
        self._served_tag = 0.0
        self._last_tags: dict[str, float] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket[T]]:
        """Those waiting, the first to enter first; nothing may enter or leave meanwhile."""
        return iter(self._tickets.values())

    def enter(
        self, item: T, priority: int, since: float, until: float, *, tenant: str = "", kind: Hashable = None
    ) -> Ticket[T]:
        """Without a `tenant` age alone decides. Items of one `kind` have the same needs; None is like no other."""
        self._serial += 1
        tag = 0.0
        if tenant:
            tag = max(self._served_tag, self._last_tags.get(tenant, 0.0)) + 1
            self._last_tags[tenant] = tag
        ticket = Ticket(item, priority, since, until, self._serial, tag, kind)
        self._tickets[ticket.serial] = ticket
        self._by_priority[priority] += 1
        self._push(ticket, late=False)
        return ticket

    def leave(self, ticket: Ticket[T]) -> None:
        """Take one out, wherever it stands; nothing happens where it already left."""
        if self._tickets.pop(ticket.serial, None) is None:
            return
        self._by_priority[ticket.priority] -= 1
        # Nothing waits, so there is nobody to be fair to; this is also where tenants that no longer come are forgotten.
        if not self._tickets:
            self._served_tag = 0.0
            self._last_tags.clear()
        # Clients that give up by the thousand would otherwise stay in the heaps until their turn.
        if self._entries > 2 * len(self._tickets) + 64:
            self._forget_left()

    def serve(self, ticket: Ticket[T]) -> None:
        """Take one out because its turn has come."""
        self._served_tag = max(self._served_tag, ticket.tag)
        self.leave(ticket)

    def offer(self, late: Callable[[T], bool], place: Callable[[T], bool]) -> None:
        """Offer those waiting to `place`, in turn; what it takes has been served.

        Where one of a kind found no place, the others of its kind are not tried: a long queue costs as many attempts
        as it has kinds. `late`: it can no longer meet its objective, so it gets what those in time leave over; once
        late, a request stays so. Newcomers during the call may have to wait for the next one.
        """
        # The late after all others whatever their priority: their objective is lost, and each place they took first
        # would make one more request late.
        for overdue in (False, True):
            turns = [entry for each in list(self._heaps) if each.late is overdue for entry in self._turn(each)]
            heapq.heapify(turns)
            while turns:
                each = heapq.heappop(turns)[-1]
                ticket = self._head(each)
                if ticket is None:
                    continue
                if not overdue and late(ticket.item):
                    heapq.heappop(self._heaps[each])
                    self._entries -= 1
                    self._push(ticket, late=True)
                elif place(ticket.item):
                    self.serve(ticket)
                else:
                    continue
                for entry in self._turn(each):
                    heapq.heappush(turns, entry)

    def last(self) -> Ticket[T] | None:
        """The one to give up first: the lowest priority, of these the last in turn."""
        return max(self._tickets.values(), key=lambda t: (-t.priority, t.tag, t.since, t.serial), default=None)

    def at(self, priority: int) -> int:
        """How many wait with this very priority."""
        return self._by_priority[priority]

    def below(self, priority: int) -> int:
        """How many a newcomer of this priority would pass."""
        return sum(count for other, count in self._by_priority.items() if other < priority)

    def oldest(self) -> float | None:
        """When the one that has been here longest began to wait."""
        first = next(iter(self._tickets.values()), None)
        return None if first is None else first.since

    def expired(self, now: float) -> list[Ticket[T]]:
        """Take out all whose time is over."""
        over = [ticket for ticket in self._tickets.values() if ticket.until <= now]
        for ticket in over:
            self.leave(ticket)
        return over

    def _push(self, ticket: Ticket[T], *, late: bool) -> None:
        each = _Class(ticket.priority, ticket.kind, 0 if ticket.kind is not None else ticket.serial, late)
        heapq.heappush(self._heaps.setdefault(each, []), (ticket.tag, ticket.since, ticket.serial))
        self._entries += 1

    def _head(self, each: _Class) -> Ticket[T] | None:
        """The next of a class, None where it is empty; what has left is dropped on the way."""
        heap = self._heaps.get(each)
        while heap:
            ticket = self._tickets.get(heap[0][2])
            if ticket is not None:
                return ticket
            heapq.heappop(heap)
            self._entries -= 1
        self._heaps.pop(each, None)
        return None

    def _turn(self, each: _Class) -> list[tuple[int, float, float, int, _Class]]:
        """Where the next of a class stands among the next of all classes; nothing for an empty one."""
        head = self._head(each)
        return [] if head is None else [(-head.priority, head.tag, head.since, head.serial, each)]

    def _forget_left(self) -> None:
        for each, heap in list(self._heaps.items()):
            heap[:] = [entry for entry in heap if entry[2] in self._tickets]
            heapq.heapify(heap)
            if not heap:
                del self._heaps[each]
        self._entries = len(self._tickets)
