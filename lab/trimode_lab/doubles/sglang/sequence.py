"""What the stub answers: a function of all tokens so far, so an answer that is continued elsewhere stays the same.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

HEAD = 8
END_EVERY = 97
"""An answer ends where prompt and answer together have a multiple of so many tokens."""


def next_token(tokens: Sequence[int], eos: int) -> int:
    """One of the first `HEAD` tokens, which are the prompt's, or the end of sequence."""
    if (len(tokens) + 1) % END_EVERY == 0:
        return eos
    return tokens[(7 * len(tokens) + 3 * tokens[-1]) % min(HEAD, len(tokens))]


def accepted(length: int, block: int) -> int:
    """Tokens that one self-speculation cycle finds behind `length` tokens: 1 to `block`, about 4 of 16."""
    return 1 + (length * 5) % max(1, min(block, 7))
