"""Which prompts an engine computes next, and how large the next piece may be. [pure]

Belongs here: the order of prompts by slack (due time, minus now, minus what is still to compute) and the size of the
next piece. Both engines, the native one and the simulated one, ask here and keep no order of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from math import inf
from typing import NamedTuple

from trimode_policy.capacity import SLACK

CAUTION = 0.8
"""Share of the time left that may be used by letting a prompt wait for shorter ones: more of them may come."""
YIELDING_SHARE = 8
"""One part in so many of each piece is for the prompt that has yielded for longest: that is why none starves."""
LARGEST_PIECE = 1.5
"""Largest piece, as a factor of the budget: larger ones are waited for by prompts that come meanwhile."""
# Smaller ones than the budget, down to 256 of 2,048 tokens beside those who are behind their pace, compute fewer
# prompts a second than come under overload: 8 % fewer good requests on the simulator's `steps` (docs/simulator.md).


class PromptView(NamedTuple):
    """A prompt that is not computed yet.

    `tokens`: still to compute. `left_s`: seconds until its first token is due (negative: overdue, infinite: it has no
    objective). `waited_s`: seconds since it came. `priority`: of its tier, higher goes first. `begun`: its client has
    part of the answer already, since it was preempted or its replica failed.
    """

    tokens: int
    left_s: float
    waited_s: float
    priority: int = 0
    begun: bool = False


class PromptOrder(NamedTuple):
    """`turns`: indices of prompts, the next one first: the first `begun` of them go on with an answer, and from place
    `yielding` on they yield to all before them, the one that came first in front."""

    turns: list[int]
    begun: int
    yielding: int

    @property
    def rows(self) -> list[int]:
        """Indices in the order in which memory is given out: the prompt that yields for longest must have some, or its
        share of each piece would be of no use to it."""
        turns, begun, at = self.turns, self.begun, self.yielding
        return turns[:begun] + turns[at : at + 1] + turns[begun:at] + turns[at + 1 :]


def prompt_order(prompts: Sequence[PromptView], tokens_per_s: float) -> PromptOrder:
    """The order in which to compute `prompts`, at a measured speed of `tokens_per_s` (0: unknown).

    First those whose clients wait in the middle of an answer. Then as many as can be in time, the shorter before the
    longer as long as that makes none of them late. Then those that cannot be in time or have no objective: the one that
    came first, the others by priority and age. Independent of the order of `prompts` but for exact equals.
    """
    begun = sorted((i for i, p in enumerate(prompts) if p.begun), key=lambda i: -prompts[i].waited_s)
    # Without a speed nothing can be said to be in time.
    timed = [i for i, p in enumerate(prompts) if not p.begun and tokens_per_s > 0 and p.left_s < inf]
    kept = _in_time(prompts, timed, tokens_per_s)
    chosen = {*begun, *kept}
    rest = [i for i in range(len(prompts)) if i not in chosen]
    rest.sort(key=lambda i: (-prompts[i].priority, -prompts[i].waited_s, i))
    if rest and tokens_per_s > 0:
        oldest = max(rest, key=lambda i: prompts[i].waited_s)
        rest.remove(oldest)
        rest.insert(0, oldest)
    turns = begun + _shortest_first(prompts, kept, tokens_per_s) + rest
    return PromptOrder(turns, len(begun), len(begun) + len(kept))


def yielding_share(budget: int) -> int:
    """Tokens of a piece of `budget` that are for the prompt that has yielded for longest, whatever others need."""
    return -(-budget // YIELDING_SHARE)


def _in_time(prompts: Sequence[PromptView], timed: Sequence[int], tokens_per_s: float) -> list[int]:
    """As many of `timed` as can be in time together, by due time.

    Moore (1968), with priorities in front of lengths: in order of due time, and whenever one would be late, the longest
    of the lowest priority so far yields.
    """
    total, yielding = 0, set()
    dearest: list[tuple[int, int, float, int]] = []
    by_due = sorted(timed, key=lambda i: (prompts[i].left_s, -prompts[i].priority, i))
    for i in by_due:
        prompt = prompts[i]
        within = prompt.left_s * tokens_per_s
        if prompt.tokens > within:  # not even alone: it must not cost another one its place
            yielding.add(i)
            continue
        total += prompt.tokens
        heappush(dearest, (prompt.priority, -prompt.tokens, prompt.waited_s, -i))
        while total > within:
            worst = -heappop(dearest)[-1]
            total -= prompts[worst].tokens
            yielding.add(worst)
    return [i for i in by_due if i not in yielding]


def _shortest_first(prompts: Sequence[PromptView], kept: Sequence[int], tokens_per_s: float) -> list[int]:
    """The order with the least mean wait that keeps all of `kept`, which are by due time, in time.

    Smith (1956), from the back: of those that may be last, the longest is; where none may, the one due last.
    """
    total, rest = sum(prompts[i].tokens for i in kept), list(kept)
    may_wait: list[tuple[int, float, int]] = []
    backwards = []
    while rest or may_wait:
        while rest and (not may_wait or total <= CAUTION * prompts[rest[-1]].left_s * tokens_per_s):
            i = rest.pop()
            heappush(may_wait, (-prompts[i].tokens, prompts[i].waited_s, -i))
        last = -heappop(may_wait)[-1]
        total -= prompts[last].tokens
        backwards.append(last)
    return backwards[::-1]


class DecodeView(NamedTuple):
    """A request that decodes: its objective in seconds per token (0: none), tokens emitted, and seconds since the
    first of them."""

    tpot_s: float
    emitted: float
    elapsed_s: float


def piece_tokens(
    budget: int, decoding: Iterable[DecodeView], cycle_s: float, tokens_per_s: float, decoded: int = 0
) -> int:
    """Prompt tokens of the next cycle: as many as leave all who decode in time, from `budget` to
    `LARGEST_PIECE` of it.

    `cycle_s`: seconds of a cycle without prompts. `tokens_per_s`: prompt tokens per second spent on them, 0 for
    unknown. `decoded`: tokens that a cycle runs for those who decode; prompts get as many, since that lengthens such a
    cycle by half at most (a block is run twice) and leaves no rows waiting. One that has been faster than its objective
    so far can wait for as long as it is ahead. Where nobody decodes or one has no objective, no pace says more than the
    budget.
    """
    budget, ahead_s = max(budget, decoded), inf
    for view in decoding:
        if view.tpot_s <= 0:
            return budget
        # A mean over the whole answer, as the objective is: tokens come in bundles, and gaps between them say little.
        ahead_s = min(ahead_s, SLACK * view.tpot_s * view.emitted - view.elapsed_s - cycle_s)
    if tokens_per_s <= 0 or ahead_s == inf:
        return budget
    return max(budget, int(min(ahead_s * tokens_per_s, LARGEST_PIECE * budget)))
