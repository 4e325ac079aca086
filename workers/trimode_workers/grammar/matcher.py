"""One answer's place in its grammar.

It follows from the tokens accepted, and from nothing else: whoever has them can make it anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray


class Matcher:
    """Accepts tokens one after the other. `end`: the token that ends an answer. `failure`: why it cannot go on.
    `field` of the request asked for the grammar."""

    def __init__(self, matcher: LLMatcher, end: int, field: str = "response_format") -> None:
        self._matcher = matcher
        self.field = field
        self.end = end
        self.failure = ""

    def accept(self, tokens: Sequence[int]) -> int:
        """Take those of `tokens` that are allowed, up to the first that is not: how many that is. An end of sequence
        is allowed where the answer may end."""
        taken = self._matcher.try_consume_tokens(list(tokens))
        self._note()
        return taken

    def undo(self, count: int) -> None:
        """Forget the last `count` tokens that were accepted, and what failed since then."""
        self._matcher.rollback(count)
        self.failure = ""

    def allowed(self, size: int) -> NDArray[np.bool_]:
        """What may come next, `[size]`, as the library offers it: of several spellings of a text that is certain,
        only the tokenizer's own, while `accept` takes them all."""
        mask = np.zeros(size, np.bool_)
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")[:size]
        self._note()
        if not self.failure:
            mask[: bits.shape[0]] = bits
        return mask

    @property
    def complete(self) -> bool:
        """Whether nothing but the end may follow."""
        return self._matcher.stop_reason() == "NoExtension"

    @property
    def ended(self) -> bool:
        """Whether the end was taken, where more might have followed."""
        return self._matcher.stop_reason() == "EndOfSentence"

    def stuck(self) -> None:
        """The model has no token that the grammar takes."""
        self.failure = self.failure or f"{self.field}: the model's vocabulary cannot spell what the schema asks for"

    def _note(self) -> None:
        if self._matcher.is_error() and not self.failure:
            words = " ".join(self._matcher.get_error().split("<backtrace>")[0].split())[:300]
            if "NoExtensionBias" in words:  # the library's name for "nothing may follow, nor is this an end"
                self.stuck()
                return
            self.failure = f"{self.field}: the schema cannot be followed further: {words}"
