"""Pure: how much of a draft to verify, and how long a block to draft, for each request of a batch.

Both ask what one more token is expected to bring, and what it costs in a forward of so many tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest
from math import log2
from operator import mul

from trimode_lab.confidence.drafts import Draft

Forward = Callable[[int, int], float]
"""Seconds of one forward over so many requests, and tokens of them all together."""

PRIOR_TESTED = 4.0
"""Tested tokens that a first guess counts as."""
BINS = 16
"""Of confidence, each twice as near to certainty as the one before it."""
PRICES = tuple(0.02 * 1.25**step for step in range(20))
"""Tokens that one more token of a block must be expected to bring; up to more than any brings, which is AR."""


@dataclass(slots=True)
class Calibration:
    """How often a drafted token is accepted, where all before it were, by the drafter's probability. Mutable: counts
    by bin, which begin as if the drafter were right about itself."""

    tested: list[float] = field(default_factory=lambda: [PRIOR_TESTED] * BINS)
    accepted: list[float] = field(default_factory=lambda: [(1 - 0.75 * 2.0**-b) * PRIOR_TESTED for b in range(BINS)])

    def survival(self, confidence: Sequence[float]) -> list[float]:
        """The chance of each token that it and all before it are accepted."""
        return list(accumulate((self.accepted[b] / self.tested[b] for b in map(_bin, confidence)), mul))

    def learn(self, draft: Draft, verified: int) -> None:
        """So many drafted tokens were verified."""
        for place, chance in enumerate(draft.confidence[: min(verified, draft.matched + 1)]):
            self.tested[_bin(chance)] += 1
            self.accepted[_bin(chance)] += place < draft.matched


def _bin(chance: float) -> int:
    return min(BINS - 1, int(-log2(max(1 - chance, 2.0**-BINS))))


def cut(survival: Sequence[Sequence[float]], spent_s: float, forward: Forward) -> list[int]:
    """Tokens to verify of each request, its seed among them: those that give most tokens per second in this cycle.

    `survival`: by request, the chance of each drafted token, falling. `spent_s`: seconds that the draft took.
    """
    rows = len(survival)
    # Chances fall within a request, so that the best of all are a beginning of each.
    order = sorted(((chance, row) for row, mine in enumerate(survival) for chance in mine), reverse=True)
    gained = enumerate(accumulate((chance for chance, _ in order), initial=float(rows)))
    kept, _ = max(gained, key=lambda pair: pair[1] / (spent_s + forward(rows, rows + pair[0])))
    lengths = [1] * rows
    for _, row in order[:kept]:
        lengths[row] += 1
    return lengths


def common(survival: Sequence[Sequence[float]], spent_s: float, forward: Forward) -> int:
    """The same with one length for all, as where a forward has one width."""
    rows = len(survival)
    gained = enumerate(accumulate(map(sum, zip_longest(*survival, fillvalue=0.0)), initial=float(rows)), 1)
    return max(gained, key=lambda pair: pair[1] / (spent_s + forward(rows, rows * pair[0])))[0]


def expected(chance: float, block: int) -> float:
    """Tokens of a cycle where each drafted token is accepted with this chance, if all before it were (Leviathan et
    al., arXiv 2211.17192, equation 1)."""
    return block if chance >= 1 else (1 - chance**block) / (1 - chance)


def blocks_for(chances: Sequence[float], lengths: Sequence[int], forward: Forward) -> list[int]:
    """Block length of each request, 1 where it had better not draft: of `lengths` and 1, those that give most tokens
    per second if a draft is verified whole. `chances`: of each request, that a drafted token is accepted."""
    rows, best, found = len(chances), 0.0, [1] * len(chances)

    def worth(chance: float, price: float) -> int:
        return max((1, *lengths), key=lambda block: expected(chance, block) - price * block)

    for price in PRICES:
        chosen = [worth(chance, price) for chance in chances]
        drafting = [block for block in chosen if block > 1]
        seconds = forward(rows, sum(chosen)) + (forward(len(drafting), sum(drafting)) if drafting else 0.0)
        pace = sum(map(expected, chances, chosen)) / seconds
        if pace > best:
            best, found = pace, chosen
    return found
