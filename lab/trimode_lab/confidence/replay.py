"""Pure: recorded drafts replayed under one way to choose lengths, and the speed that comes of it.

A closed loop: so many requests at all times, each followed by another recorded answer. Everything but the seconds of a
forward happened as it is replayed: greedy answers do not depend on who shares the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import cycle
from random import Random
from typing import NamedTuple, Protocol

from trimode_api.modes import AR, speculation
from trimode_lab.confidence.drafts import Answer, Draft
from trimode_lab.confidence.lengths import PRIOR_TESTED, Calibration, Forward, blocks_for, common, cut
from trimode_policy.curves import Curves, Observation
from trimode_policy.decisions import PointState, Switching
from trimode_policy.roofline import Roofline
from trimode_tools.simulator.point_policies import Learning

NOTHING = Draft((), 0)


class Verify(Enum):
    """How much of a draft is verified: all; all but what is behind a drafted end of the answer; what its confidence
    makes worth it, for each request or one length for all; what will be accepted, as if it were known, which no
    confidence can better."""

    WHOLE = auto()
    TO_END = auto()
    CONFIDENCE = auto()
    COMMON = auto()
    KNOWN = auto()


class Seen(NamedTuple):
    """One request's part of a cycle. `verified`: drafted tokens that were; `emitted`: tokens of the answer."""

    request: int
    block: int
    draft: Draft
    verified: int
    emitted: int


class Blocks(Protocol):
    """Chooses block lengths."""

    def choose(self, requests: Sequence[int], now: float) -> list[int]:
        """Of each request, 1 for one that drafts nothing. Requests are numbered, each once."""
        ...

    def learn(self, seen: Sequence[Seen], seconds: float, now: float) -> None:
        """The cycle took so long."""
        ...


@dataclass(slots=True)
class Fixed:
    """The same block for all."""

    block: int

    def choose(self, requests: Sequence[int], now: float) -> list[int]:
        return [self.block] * len(requests)

    def learn(self, seen: Sequence[Seen], seconds: float, now: float) -> None:
        """Nothing to learn."""


@dataclass(slots=True)
class ByHistory:
    """A block for each request by what it has accepted so far, which begins as what all have."""

    lengths: tuple[int, ...]
    forward: Forward
    mine: dict[int, tuple[float, float]] = field(default_factory=dict)
    total: tuple[float, float] = (0.9 * PRIOR_TESTED, PRIOR_TESTED)

    def choose(self, requests: Sequence[int], now: float) -> list[int]:
        before = PRIOR_TESTED * self.total[0] / self.total[1]
        counts = (self.mine.get(request, (0.0, 0.0)) for request in requests)
        chances = [(accepted + before) / (tested + PRIOR_TESTED) for accepted, tested in counts]
        return blocks_for(chances, self.lengths, self.forward)

    def learn(self, seen: Sequence[Seen], seconds: float, now: float) -> None:
        for each in seen:
            accepted = min(each.draft.matched, each.verified)
            tested = accepted + (each.verified > each.draft.matched)
            a, t = self.mine.get(each.request, (0.0, 0.0))
            self.mine[each.request] = a + accepted, t + tested
            self.total = self.total[0] + accepted, self.total[1] + tested


@dataclass(slots=True)
class Adaptive:
    """Production's policy, which learns from the cycles as it does in an engine."""

    policy: Learning
    context: float

    @classmethod
    def of(cls, lengths: Sequence[int], prior: Roofline, context: float) -> Adaptive:
        points = (AR, *map(speculation, lengths))
        curves = Curves(points, prior)
        return cls(Learning(points, curves, Switching(), PointState.initial(AR, 0.0), held=1), context)

    def choose(self, requests: Sequence[int], now: float) -> list[int]:
        point, _ = self.policy.point(len(requests), self.context, (), now)
        return [point.block_length] * len(requests)

    def learn(self, seen: Sequence[Seen], seconds: float, now: float) -> None:
        block = seen[0].block
        point = AR if block == 1 else speculation(block)
        tokens = sum(each.emitted for each in seen)
        self.policy.learn(Observation(point, len(seen), self.context, 0, seconds, tokens), now)


@dataclass(slots=True)
class Slot:
    """A place in the batch: its requests come in an order of its own, the same whoever chooses lengths. It begins
    somewhere within one, as if they had not all begun together."""

    answers: Iterator[Answer]
    chance: Random
    answer: Answer = field(init=False)
    at: int = field(init=False)

    def __post_init__(self) -> None:
        self.answer = next(self.answers)
        self.at = self.chance.randrange(self.answer.tokens)

    def draft(self, block: int) -> Draft:
        return self.answer.drafts[block][self.at] if block > 1 else NOTHING

    def advance(self, accepted: int) -> tuple[int, bool]:
        """Tokens emitted, and whether another answer begins."""
        emitted = min(accepted + 1, self.answer.tokens - self.at)
        self.at += emitted
        ended = self.at == self.answer.tokens
        if ended:
            self.answer, self.at = next(self.answers), 0
        return emitted, ended


@dataclass(slots=True)
class Outcome:
    """`tokens` in `seconds` and `cycles`; `drafted` and `verified` count seeds."""

    tokens: int = 0
    seconds: float = 0.0
    cycles: int = 0
    drafted: int = 0
    verified: int = 0


@dataclass(slots=True)
class Replay:
    """Mutable: what a batch of `rows` requests has done so far."""

    answers: Sequence[Answer]
    rows: int
    blocks: Blocks
    verify: Verify
    forward: Forward
    seed: int = 0
    now: float = 0.0
    known: dict[int, Calibration] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    requests: list[int] = field(init=False)

    def __post_init__(self) -> None:
        for number in range(self.rows):
            chance = Random(f"{self.seed}:{number}")
            order = chance.sample(list(self.answers), len(self.answers))
            self.slots.append(Slot(cycle(order), chance))
        self.requests = list(range(self.rows))

    def run(self, tokens: int, seconds: float = 0.0) -> Outcome:
        """At least so many tokens and seconds."""
        done, began = Outcome(), self.now
        while done.tokens < tokens or done.seconds < seconds:
            chosen = self.blocks.choose(self.requests, self.now)
            drafts = [slot.draft(block) for slot, block in zip(self.slots, chosen, strict=True)]
            drafting = [block for block in chosen if block > 1]
            spent_s = self.forward(len(drafting), sum(drafting)) if drafting else 0.0
            lengths = self._lengths(chosen, drafts, spent_s)
            took_s = spent_s + self.forward(self.rows, sum(lengths))
            self.now += took_s
            seen = []
            for place, (block, draft, length) in enumerate(zip(chosen, drafts, lengths, strict=True)):
                self._calibration(block).learn(draft, length - 1)
                emitted, ended = self.slots[place].advance(min(draft.matched, length - 1))
                seen.append(Seen(self.requests[place], block, draft, length - 1, emitted))
                if ended:
                    self.requests[place] = max(self.requests) + 1
            self.blocks.learn(seen, took_s, self.now)
            done.tokens += sum(each.emitted for each in seen)
            done.cycles += 1
            done.seconds = self.now - began
            done.drafted += sum(drafting)
            done.verified += sum(lengths)
        return done

    def _lengths(self, blocks: Sequence[int], drafts: Sequence[Draft], spent_s: float) -> list[int]:
        """Tokens to verify of each request, its seed among them."""
        if self.verify is Verify.WHOLE:
            return list(blocks)
        if self.verify is Verify.TO_END:
            return [len(draft.confidence) + 1 for draft in drafts]
        if self.verify is Verify.KNOWN:
            return [draft.matched + 1 for draft in drafts]
        pairs = zip(blocks, drafts, strict=True)
        survival = [self._calibration(block).survival(draft.confidence) for block, draft in pairs]
        if self.verify is Verify.CONFIDENCE:
            return cut(survival, spent_s, self.forward)
        return [common(survival, spent_s, self.forward)] * self.rows

    def _calibration(self, block: int) -> Calibration:
        return self.known.setdefault(block, Calibration())
