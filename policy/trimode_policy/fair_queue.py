"""Who goes next: the highest priority first, tenants in turn, then by the client's own order, then the one that has
waited for longest, a long prompt counting as if it had come later; the late after all others. [pure]

Tenants share slots by start-time fair queueing (Goyal, Vin and Cheng 1996): a request's tag is one behind its tenant's
last, or behind what is served now if that is later. A tenant that sends a thousand requests delays its own only, and
gains nothing from having been idle. The order that a client asks for moves its request among those of its own tenant:
they change places, and others' turns stay where they were.

The router's queue and the simulator's are this one. Who may enter is `admit`'s decision, where a request goes is
`route`'s, the clock is the caller's.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

_Turn = tuple[float, int, float, int]
"""When it goes among those of its priority: tag, order, age, and the serial of the ticket that it was made for."""
FIRST_IN_LINE = 2**31
"""Priority of streams that wait to go on: their clients have waited before, and have half of an answer."""
PROMPT_WEIGHT = 10.0
"""A request counts as having come later by so many times the seconds that its prompt takes, so short prompts pass long
ones, but none that came earlier than that."""
# Where more come than can be served, each long prompt that is let in keeps several short ones out. Set on the
# simulator's `steps`, `azure` and `random-a`, seed 0: 2.5 and 5.9 % more good requests on the first two than by age,
# 0.1 % fewer on the third; 20 gains 3.4 and 5.9 % and loses 0.6 (docs/simulator.md).


class _Class(NamedTuple):
    """Tickets that are served in one order. `alone`: the serial of a ticket that is like no other, else 0."""

    priority: int
    kind: Hashable
    alone: int
    late: bool


@dataclass(slots=True, eq=False)
class Ticket(Generic[T]):
    """One waiting request. `since` and `until` in seconds of the caller's clock. `turn` and `late` are the queue's."""

    item: T
    priority: int
    order: int
    since: float
    until: float
    serial: int
    tenant: str
    kind: Hashable
    turn: _Turn
    late: bool = False


class FairQueue(Generic[T]):
    """Mutable, and not safe for threads. Tickets may leave from the middle; the heaps forget them later."""

    def __init__(self) -> None:
        self._tickets: dict[int, Ticket[T]] = {}
        self._heaps: dict[_Class, list[tuple[_Turn, int]]] = {}
        self._entries = 0
        self._turns: defaultdict[int, list[_Turn]] = defaultdict(list)
        self._by_order: Counter[int] = Counter()
        self._served_tag = 0.0
        self._last_tags: dict[str, float] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket[T]]:
        """Those waiting, the first to enter first; nothing may enter or leave meanwhile."""
        return iter(self._tickets.values())

    def enter(
        self,
        item: T,
        priority: int,
        since: float,
        until: float,
        *,
        tenant: str = "",
        kind: Hashable = None,
        order: int = 0,
        prompt_s: float = 0.0,
    ) -> Ticket[T]:
        """Without a `tenant` order and age alone decide, as if it had come later, by the seconds that its prompt takes
        (`prompt_s`, see `PROMPT_WEIGHT`). Items of one `kind` have
        the same needs; None is like no other. The lowest `order` goes first among those of one priority and tenant."""
        self._serial += 1
        turn = (*self._turn_of(since, tenant, order, prompt_s), self._serial)
        if tenant:
            self._last_tags[tenant] = turn[0]
        insort(self._turns[priority], turn)
        ticket = Ticket(item, priority, order, since, until, self._serial, tenant, kind, turn)
        if tenant:
            self._pass_higher_orders(ticket)
        self._tickets[ticket.serial] = ticket
        self._by_order[order] += 1
        self._push(ticket)
        return ticket

    def leave(self, ticket: Ticket[T]) -> None:
        """Take one out, wherever it stands; nothing happens where it already left."""
        if self._tickets.pop(ticket.serial, None) is None:
            return
        turns = self._turns[ticket.priority]
        del turns[bisect_left(turns, ticket.turn)]
        self._by_order[ticket.order] -= 1
        # Nothing waits, so there is nobody to be fair to; this is also where tenants that no longer come are forgotten.
        if not self._tickets:
            self._served_tag = 0.0
            self._last_tags.clear()
            self._by_order.clear()
        self._forget_stale()

    def serve(self, ticket: Ticket[T]) -> None:
        """Take one out because its turn has come."""
        self._served_tag = max(self._served_tag, ticket.turn[0])
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
                    ticket.late = True
                    self._push(ticket)
                elif place(ticket.item):
                    self.serve(ticket)
                else:
                    continue
                for entry in self._turn(each):
                    heapq.heappush(turns, entry)

    def last(self) -> Ticket[T] | None:
        """The one to give up first: the lowest priority, of these the last in turn."""
        return max(self._tickets.values(), key=lambda t: (-t.priority, t.turn), default=None)

    def at(self, priority: int) -> int:
        """How many wait with this very priority."""
        return len(self._turns[priority])

    def ahead(self, priority: int, since: float, *, tenant: str = "", order: int = 0, prompt_s: float = 0.0) -> int:
        """How many would go before a newcomer: those of its priority whose turn is earlier, and streams that go on."""
        turn = (*self._turn_of(since, tenant, order, prompt_s), self._serial + 1)
        return bisect_left(self._turns[priority], turn) + self.at(FIRST_IN_LINE)

    def below(self, priority: int) -> int:
        """How many a newcomer of this priority would pass."""
        return sum(len(turns) for other, turns in self._turns.items() if other < priority)

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

    def _turn_of(self, since: float, tenant: str, order: int, prompt_s: float) -> tuple[float, int, float]:
        """All of a newcomer's turn but its serial."""
        if not tenant:
            return 0.0, order, since + PROMPT_WEIGHT * prompt_s
        # Two tenants' tags may be equal: by order the one that asks for more would win.
        return max(self._served_tag, self._last_tags.get(tenant, 0.0)) + 1, 0, since

    def _pass_higher_orders(self, ticket: Ticket[T]) -> None:
        """Give a newcomer the turn of the first of its tenant that has a higher order, that one the next one's, and so
        on; the last gets the newcomer's."""
        # Nearly no client sends an order: where none of those waiting has a higher one, nothing is looked at.
        if not any(count and order > ticket.order for order, count in self._by_order.items()):
            return
        mine, order = (ticket.tenant, ticket.priority), ticket.order
        passed = [t for t in self._tickets.values() if (t.tenant, t.priority) == mine and t.order > order]
        passed.sort(key=lambda other: other.turn)
        turns = [*(other.turn for other in passed), ticket.turn]
        for moved, turn in zip((ticket, *passed), turns, strict=True):
            moved.turn = turn
        for moved in passed:
            self._push(moved)
        self._forget_stale()

    def _push(self, ticket: Ticket[T]) -> None:
        alone = 0 if ticket.kind is not None else ticket.serial
        each = _Class(ticket.priority, ticket.kind, alone, ticket.late)
        heapq.heappush(self._heaps.setdefault(each, []), (ticket.turn, ticket.serial))
        self._entries += 1

    def _held(self, entry: tuple[_Turn, int]) -> Ticket[T] | None:
        """The ticket that it was made for; None where that one has left, or has another turn by now."""
        turn, serial = entry
        ticket = self._tickets.get(serial)
        return ticket if ticket is not None and ticket.turn == turn else None

    def _head(self, each: _Class) -> Ticket[T] | None:
        """The next of a class, None where it is empty; what is stale is dropped on the way."""
        heap = self._heaps.get(each)
        while heap:
            ticket = self._held(heap[0])
            if ticket is not None:
                return ticket
            heapq.heappop(heap)
            self._entries -= 1
        self._heaps.pop(each, None)
        return None

    def _turn(self, each: _Class) -> list[tuple[int, _Turn, _Class]]:
        """Where the next of a class stands among the next of all classes; nothing for an empty one."""
        head = self._head(each)
        return [] if head is None else [(-head.priority, head.turn, each)]

    def _forget_stale(self) -> None:
        # Clients that give up by the thousand would otherwise stay in the heaps until their turn.
        if self._entries <= 2 * len(self._tickets) + 64:
            return
        for each, heap in list(self._heaps.items()):
            heap[:] = [entry for entry in heap if self._held(entry)]
            heapq.heapify(heap)
            if not heap:
                del self._heaps[each]
        self._entries = sum(map(len, self._heaps.values()))
