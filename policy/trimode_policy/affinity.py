"""Which replicas are likely to have the beginning of a prompt computed already.

Belongs here: a router's memory of what it sent where. How much that counts is decided in `route`.

A beginning is a prompt's first bytes (or tokens), at a few lengths, under a hash of them. A prompt that continues an
earlier one has that one's beginnings, so the longest that both have tells how much a replica need not compute again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Beginning = tuple[int, int]
"""Tokens, and a hash of the first so many."""

MOST = 16_384
"""Beginnings remembered: about 4 MB. The least recently used goes first."""
# Ten minutes of four prompts a second with seven beginnings each. What it is worth: on the simulator's `chats`, seed 0,
# the p95 of the time to the first token is 143 ms with affinity and 198 ms without (docs/simulator.md).
HOLDERS = 4
"""Replicas remembered for each: enough for one that all have in common, which needs no affinity."""


class Beginnings:
    """Mutable, bounded and deterministic; holds no clock."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._holders: dict[Beginning, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._holders)

    def sent(self, beginnings: Sequence[Beginning], replica_id: str) -> None:
        """A prompt with these beginnings, shortest first, went to this replica."""
        for beginning in beginnings:
            # Taken out and put back, so that a dict's order is the order of use and eviction needs no second structure.
            holders = self._holders.pop(beginning, {})
            holders.pop(replica_id, None)
            holders[replica_id] = None
            # Both bounds matter: vLLM's production-stack kept its prefixes in a trie without one and ran out of memory
            # (issue 687).
            if len(holders) > HOLDERS:
                del holders[next(iter(holders))]
            self._holders[beginning] = holders
        while len(self._holders) > self._most:
            del self._holders[next(iter(self._holders))]

    def held(self, beginnings: Sequence[Beginning]) -> Mapping[str, int]:
        """By replica, tokens of a prompt with these beginnings, shortest first, that it is likely to have."""
        found: dict[str, int] = {}
        for beginning in beginnings:
            holders = self._holders.get(beginning)
            if holders is None:
                break  # a replica without the shorter beginning cannot have the longer one
            for replica_id in holders:
                found[replica_id] = beginning[0]
        return found
