"""The checker that tests run each cycle: is the engine still in the state that every mode relies on?

Production does not call it.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from trimode_workers.engine.layouts import Cache
from trimode_workers.engine.plan import Limits
from trimode_workers.engine.sequence import Sequence
from trimode_workers.errors import InvariantBroken


def check(running: Seq[Sequence], waiting: Seq[Sequence], cache: Cache, limits: Limits) -> None:
    """Raises InvariantBroken for the first thing that does not hold."""
    for s in running:
        _require(0 <= s.cached <= len(s.tokens) - 1, s, f"{s.cached} of {len(s.tokens)} tokens are cached")
        _require(0 <= s.row < cache.rows, s, f"row {s.row} does not exist")
        _require(len(s.tokens) < s.end, s, f"{len(s.tokens)} tokens, but it ends at {s.end}")
        _require(s.eos.isdisjoint(s.tokens[s.prompt_length :]), s, "an end-of-sequence token was emitted")
        _require(sum(s.emitted.values()) == len(s.tokens) - s.prompt_length, s, "emitted tokens do not add up")
    for s in waiting:
        _require(s.row == -1 and s.cached == 0, s, f"it waits, but holds row {s.row} with {s.cached} tokens")
    rows = [s.row for s in running]
    if len(set(rows)) != len(rows):
        raise InvariantBroken(f"two sequences share a row: {sorted(rows)}")
    if cache.free_rows + len(rows) != cache.rows:
        raise InvariantBroken(f"{len(rows)} rows used and {cache.free_rows} free, of {cache.rows}")
    cached = sum(s.cached for s in running)
    if len(running) > 1 and cached > limits.capacity:
        raise InvariantBroken(f"{cached} tokens are cached, capacity is {limits.capacity}")


def check_decoded(decoded: Seq[Sequence]) -> None:
    """Whoever has decoded and goes on misses nothing but its seed. Raises InvariantBroken."""
    for s in decoded:
        if s.row >= 0:
            _require(s.cached == len(s.tokens) - 1, s, f"{s.cached} of {len(s.tokens)} tokens are cached")


def check_pages(problems: Seq[str]) -> None:
    """Every page is free or used, and once; each follows a page that goes after it. Raises InvariantBroken."""
    for problem in problems:
        raise InvariantBroken(f"page store: {problem}")


def _require(holds: bool, sequence: Sequence, problem: str) -> None:
    if not holds:
        raise InvariantBroken(f"request {sequence.request_id!r}: {problem}")
