"""What a cycle may plan with: limits of the cache and the points, and how many prompt tokens this cycle takes."""

from __future__ import annotations

from collections.abc import Iterable

from trimode_api.prefix import PAGE_TOKENS
from trimode_policy.capacity import PromptPrice
from trimode_policy.prompt_order import LARGEST_PIECE, DecodeView, piece_tokens
from trimode_workers.engine.footprint import MOST_TOKENS
from trimode_workers.engine.plan import Limits, Moment
from trimode_workers.engine.sequence import Sequence
from trimode_workers.engine.settings import EngineSettings


class Budget:
    """`pages`: of a paged cache, None where rows have fixed places. `decode_s`: seconds that the last cycle took to
    decode."""

    def __init__(self, settings: EngineSettings, pages: int | None, growth: int) -> None:
        self._settings, self._pages = settings, pages
        self._widest = 0
        self._decoded, self.decode_s = 0, 0.0
        self.configure(growth)

    @property
    def longest_line(self) -> int:
        """Tokens at most of those who decode and the prompts that ride along."""
        decoding = self.limits.rows * self._widest
        return min(MOST_TOKENS, decoding + max(int(LARGEST_PIECE * self.limits.prefill_budget), decoding))

    def configure(self, growth: int) -> None:
        """Other points; `growth`: tokens that one cycle of them may add to a sequence."""
        settings = self._settings
        rows, budget, context = (
            settings.max_running_requests,
            settings.prompt_tokens(),
            settings.max_context_tokens,
        )
        # Requests keep a pin to a point that is configured no more; a block without pages would have no place.
        self._widest = max(self._widest, growth)
        if self._pages is None:
            self.limits = Limits(settings.capacity, context, growth, budget, rows)
        else:
            self.limits = Limits(self._pages * PAGE_TOKENS, context, self._widest, budget, rows, PAGE_TOKENS)

    def decoding(self, tokens: int) -> None:
        """A cycle begins to decode, and runs so many tokens for that."""
        self._decoded, self.decode_s = tokens, 0.0

    def moment(self, now: float, running: Iterable[Sequence], prompts: PromptPrice) -> Moment:
        """What this cycle's prompts are planned by; how much of them, the policy says."""
        decoding = (
            DecodeView(s.tpot_s, len(s.tokens) - s.prompt_length, now - s.first_at)
            for s in running
            if s.first_at >= 0 and not s.missing
        )
        # Larger pieces where those who decode are ahead of their pace. Smaller ones than the budget computed fewer
        # prompts than come under overload: in simulation 31.6 good requests a second instead of 34.3, and a first token
        # after 3.5 s instead of 0.9 (p99; docs/policy.md).
        budget, speed = self.limits.prefill_budget, prompts.tokens_per_s
        piece = piece_tokens(budget, decoding, self.decode_s, speed, self._decoded)
        if self._pages is not None:  # planned memory ends there, seeds behind prompts that end included
            piece = min(piece, max(1, MOST_TOKENS - self.limits.rows))
        return Moment(now, prompts.progress_per_s, piece)
