"""Names for the beginnings of prompts, equal wherever they are made.

Replicas keep state under these keys; from a prompt's tokens follows which replica is likely to have its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct

PAGE_TOKENS = 16
"""Tokens of a page. Smaller pages share more of a prompt, and each costs a key and a copy."""

Key = bytes
"""16 bytes: two different beginnings never share a key in practice, not even where an attacker searches for a pair."""

ROOT: Key = b""
"""What the first page follows."""

_PAGE = Struct(f"<{PAGE_TOKENS}I")


def page_key(before: Key, tokens: Sequence[int]) -> Key:
    """The key of the page with these `PAGE_TOKENS` token ids (below 2**32) after the page `before`."""
    return blake2b(before + _PAGE.pack(*tokens), digest_size=16).digest()


def prefix_keys(tokens: Sequence[int], most: int | None = None) -> list[Key]:
    """The keys of the first `most` whole pages of `tokens`, None for all. Equal lists mean equal beginnings."""
    keys: list[Key] = []
    extend(keys, tokens, len(tokens) // PAGE_TOKENS if most is None else min(most, len(tokens) // PAGE_TOKENS))
    return keys


def root_of(salt: str) -> Key:
    """What the first page of a salted prompt follows: only prompts of the same salt have keys in common."""
    return blake2b(salt.encode(), digest_size=16, person=b"salt").digest() if salt else ROOT


def extend(keys: list[Key], tokens: Sequence[int], count: int, root: Key = ROOT) -> None:
    """Make `keys`, those of the first pages of `tokens`, the first `count`; `tokens` must have as many whole pages."""
    for page in range(len(keys), count):
        start = page * PAGE_TOKENS
        keys.append(page_key(keys[-1] if keys else root, tokens[start : start + PAGE_TOKENS]))
