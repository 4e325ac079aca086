"""What ran: totals since start, and whose time a cycle was."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence as Seq
from typing import NamedTuple

PROMPT = "prompt"
"""What time spent on prompts is called in accounts, among operating points, also where they ride along with those who
decode: their request may have another point."""

Account = dict[str, float]
"""Seconds of the engine by operating point, or `PROMPT`."""


class Part(NamedTuple):
    """One forward, or draft and verification together: how long it took, and the tokens (>= 1) that it ran for each
    account. The last `riding` of them are prompts'."""

    name: str
    seconds: float
    accounts: Seq[Account]
    tokens: Seq[int]
    riding: int = 0


def shares(seconds: float, parts: Seq[Part]) -> list[list[float]]:
    """Seconds for each account of each part of a cycle of `seconds`; they add up to that.

    The rule by which requests are charged: each forward is shared by the tokens that it ran for each of them: a block
    of eight weighs eight, a prompt's piece its length, a page copied instead of computed one. What a request adds to a
    batch that runs anyway is next to nothing, as weights are read once for all of them; charged by that, the first of a
    batch would pay for all. All else in a cycle (planning, copies, sending answers) is shared as the forwards are, by
    seconds. A cycle without a forward is idle, as is the time in which the engine has no request.
    """
    timed, found = sum(part.seconds for part in parts), []
    for part in parts:
        # A clock that has not moved between parts tells nothing of them.
        own = seconds * part.seconds / timed if timed > 0 else seconds / len(parts)
        each = own / sum(part.tokens)
        found.append([each * tokens for tokens in part.tokens])
    return found


class Meter:
    """Charges cycles to accounts. `busy_s` and `idle_s` are seconds since it was made; all time is one of them."""

    def __init__(self, now: float) -> None:
        self.busy_s = self.idle_s = 0.0
        self._told_until = now
        self._working = False
        self._parts: list[Part] = []

    def begin(self, now: float) -> None:
        """A cycle begins. Time since the last one is part of it, unless the engine had nothing to do."""
        # Time between two cycles is the engine's own (commands, sending answers) as long as it has requests.
        if not self._working:
            self.idle_s += now - self._told_until
            self._told_until = now

    def ran(self, part: Part) -> None:
        self._parts.append(part)

    def end(self, now: float, *, working: bool) -> None:
        """The cycle is over; `working`: requests are left."""
        seconds, self._told_until, self._working = now - self._told_until, now, working
        parts, self._parts = self._parts, []
        if not parts:
            self.idle_s += seconds
            return
        self.busy_s += seconds
        for part, charged in zip(parts, shares(seconds, parts), strict=True):
            names = [part.name] * (len(charged) - part.riding) + [PROMPT] * part.riding
            for account, name, more in zip(part.accounts, names, charged, strict=True):
                account[name] = account.get(name, 0.0) + more


class Counters:
    """Totals by operating point since start: seconds of wall clock, cycles, emitted tokens, forwards (of each row).
    `prompt`: tokens brought into rows before decoding, `computed` and `shared` (copied from the page store)."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.cycles: Counter[str] = Counter()
        self.emitted: Counter[str] = Counter()
        self.forwards: Counter[str] = Counter()
        self.preemptions = 0
        self.prompt: Counter[str] = Counter(computed=0, shared=0)

    def add(self, point: str, seconds: float, emitted: int, forwards: int) -> None:
        """One cycle of one group."""
        self.seconds[point] += seconds
        self.cycles[point] += 1
        self.emitted[point] += emitted
        self.forwards[point] += forwards
