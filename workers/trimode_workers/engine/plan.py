"""Pure: what the next cycle does, from what runs and what waits.

Nothing here touches the cache, the model or a sequence: it reads and answers.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import NamedTuple

from trimode_api.modes import OperatingPoint
from trimode_api.prefix import PAGE_TOKENS
from trimode_policy.prompt_order import PromptView, prompt_order, yielding_share
from trimode_workers.engine.sequence import Sequence

HEADROOM = 16
"""Tokens per running request kept free when one is admitted, so that it is not preempted at once."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`capacity`: cached tokens in all; `context`: longest sequence in tokens; `growth`: tokens that one cycle may
    add to a sequence (the longest block); `prefill_budget`: prompt tokens per cycle, from which each piece is made;
    `rows`: sequences at a time; `page`: tokens of a page, where a sequence takes whole pages, also for a block's
    scratch."""

    capacity: int
    context: int
    growth: int
    prefill_budget: int
    rows: int
    page: int = 1


class Piece(NamedTuple):
    """A sequence's turn to advance its prompt: `pages` to copy from the page store, then `tokens` to run."""

    sequence: Sequence
    pages: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """`preempt` leave the cache, `admit` enter it, `prefill` says by how much prompts advance now. `decode` are the
    sequences that can decode once that is done, in no particular order."""

    preempt: tuple[Sequence, ...]
    admit: tuple[Sequence, ...]
    prefill: tuple[Piece, ...]
    decode: tuple[Sequence, ...]


Group = tuple[OperatingPoint, list[Sequence]]

Found = Callable[[Sequence], int]
"""Whole pages that the page store has of a sequence, behind those that it has cached."""


def nothing(sequence: Sequence) -> int:
    """What is found where nothing is shared."""
    return 0


class Moment(NamedTuple):
    """What prompts are planned by: `now` on the engine's clock, and the prompt tokens per second that are reached
    beside those who decode (0: unknown). `piece`: prompt tokens of this cycle."""

    now: float
    tokens_per_s: float
    piece: int


def schedule(
    running: Seq[Sequence], waiting: Seq[Sequence], limits: Limits, at: Callable[[], Moment], found: Found = nothing
) -> Schedule:
    """Plan one cycle. `at` is asked only where prompts are to be planned.

    The least urgent (lowest priority, then youngest) are preempted until the rest fits, never the last one. Rows and
    turns go by `prompt_order`; nobody overtakes one that finds no memory, so a long prompt is not starved by short
    ones.
    """
    preempt = preempted(running, limits)
    kept = [s for s in running if s not in preempt] if preempt else running
    behind = [s for s in kept if s.missing]
    inside = len(behind)
    if not preempt:
        # Not in a cycle that preempts: those who wait would take the room that was just made.
        behind += waiting
    if not behind:
        return Schedule(preempt, (), (), tuple(kept))
    # What is copied need not be computed.
    rest = ((s, left(Piece(s, found(s), 0))) for s in behind)
    moment = at()
    now = moment.now
    views = [PromptView(tokens, s.due - now, now - s.arrived, s.priority, s.begun) for s, tokens in rest]
    order = prompt_order(views, moment.tokens_per_s)
    admit = admitted(kept, [behind[i] for i in order.rows if i >= inside], limits)
    chosen = {*kept, *admit}
    turns = [behind[i] for i in order.turns]
    yielding = next(iter(turns[order.yielding :]), None)
    # In the order of turns, not of rows: a short prompt may pass a long one in the middle.
    prefill = chunks([s for s in turns if s in chosen and s.missing], moment.piece, found, yielding)
    ready = {piece.sequence for piece in prefill if left(piece) == 0}
    decode = tuple(s for s in (*kept, *admit) if s in ready or not s.missing)
    return Schedule(preempt, admit, prefill, decode)


def need(sequence: Sequence, limits: Limits) -> int:
    """Cached tokens that the sequence may hold at the end of the next cycle; with pages, what it may take in it."""
    if limits.page > 1:
        return -(-(len(sequence.tokens) + limits.growth) // limits.page) * limits.page
    return min(len(sequence.tokens) + limits.growth, limits.context)


def preempted(running: Seq[Sequence], limits: Limits) -> tuple[Sequence, ...]:
    """Those that must leave so that the others can go on for a cycle."""
    # Nearly always there is room to spare, which a bound shows at a third of the cost.
    if sum(len(s.tokens) for s in running) + (limits.growth + limits.page) * len(running) <= limits.capacity:
        return ()
    total = sum(need(s, limits) for s in running)
    if total <= limits.capacity:
        return ()
    out: list[Sequence] = []
    # The most urgent always fits: the cache holds one request of the longest context, whatever its capacity.
    for victim in sorted(running, key=lambda s: s.urgency, reverse=True)[:-1]:
        if total <= limits.capacity:
            break
        total -= need(victim, limits)
        out.append(victim)
    return tuple(out)


def admitted(running: Seq[Sequence], waiting: Seq[Sequence], limits: Limits) -> tuple[Sequence, ...]:
    """The first of those that wait, as far as rows and capacity go. One is always admitted to an idle engine."""
    out: list[Sequence] = []
    total = sum(need(s, limits) for s in running)
    everything = limits.rows * limits.context
    for sequence in waiting:
        count = len(running) + len(out)
        total += need(sequence, limits)
        headroom = HEADROOM * count
        # No headroom is wanted where the capacity holds every row at its longest.
        most = max(limits.capacity, everything + headroom if limits.capacity >= everything else 0)
        if count >= limits.rows or (count and total + headroom > most):
            break
        out.append(sequence)
    return tuple(out)


def chunks(
    turns: Seq[Sequence], budget: int, found: Found = nothing, yielding: Sequence | None = None
) -> tuple[Piece, ...]:
    """Share the budget among those whose prompt is not cached yet, in their order; a part of it is for `yielding`.

    What others have computed is copied when its turn comes, not before: of many that begin alike and arrive together
    the first one computes, and the others follow a cycle behind. A page copied counts as one token.
    """
    out: list[Piece] = []
    kept = yielding_share(budget) if yielding in turns else 0
    budget -= kept
    for sequence in turns:
        if sequence is yielding:
            budget += kept
        if budget < 1:
            continue
        # Copies are not free: 1,000 known tokens take 5 to 6 ms, while those who decode wait.
        pages = min(found(sequence), budget)
        tokens = min(left(Piece(sequence, pages, 0)), budget - pages)
        budget -= pages + tokens
        out.append(Piece(sequence, pages, tokens))
    return tuple(out)


def left(piece: Piece) -> int:
    """Prompt tokens that its sequence still misses after this turn."""
    sequence, pages, tokens = piece
    copied = (sequence.cached // PAGE_TOKENS + pages) * PAGE_TOKENS if pages else sequence.cached
    return len(sequence.tokens) - 1 - copied - tokens


def groups(decode: Seq[Sequence], point_of: Callable[[Sequence], OperatingPoint]) -> list[Group]:
    """The batch split by point, each group in ascending row order; groups in order of their lowest row."""
    by_point: dict[OperatingPoint, list[Sequence]] = {}
    last, members = None, []
    for sequence in sorted(decode, key=lambda s: s.row):
        point = point_of(sequence)
        if point is not last:  # nearly always all have one, and hashing it for each was a tenth of planning
            last, members = point, by_point.setdefault(point, [])
        members.append(sequence)
    return list(by_point.items())


def swaps(rows: Seq[Seq[int]]) -> list[tuple[int, int]]:
    """Exchanges of rows after which each group occupies a run of rows, groups in the order given.

    `rows`: the rows of each group; together they are 0 to n - 1, each once. Only misplaced rows move.
    """
    segment = {row: index for index, members in enumerate(rows) for row in members}
    wanted = [index for index, members in enumerate(rows) for _ in members]
    out: list[tuple[int, int]] = []
    for place, group in enumerate(wanted):
        if segment[place] == group:
            continue
        others = [r for r in range(place + 1, len(wanted)) if segment[r] == group != wanted[r]]
        # Best is a partner that belongs here: then one exchange settles two rows.
        partner = next((r for r in others if wanted[r] == segment[place]), others[0])
        segment[place], segment[partner] = segment[partner], segment[place]
        out.append((place, partner))
    return out
