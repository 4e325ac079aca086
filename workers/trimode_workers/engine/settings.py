"""The engine's settings, checked once. What may change at run time is in `Configure`."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Literal

from trimode_workers.errors import SettingsError

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # from glibc's malloc.h
_LARGEST_ON_HEAP = 32 * 2**20
"""Bytes; glibc refuses a higher threshold. Larger buffers are still mapped one by one."""


def keep_freed_memory() -> bool:
    """Reuse freed buffers instead of returning them. False where the allocator is not glibc's."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # By itself glibc maps large buffers one by one and returns them when they are freed, so that each forward would
    # have its pages faulted in anew.
    settings = ((_MMAP_THRESHOLD, _LARGEST_ON_HEAP), (_TRIM_THRESHOLD, 2**30), (_TOP_PAD, _LARGEST_ON_HEAP))
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings)


SHARED_PART = 4
"""The page store holds this part of the capacity: what runs changes within seconds, what is shared does not."""


PROMPT_TOKENS = {"cpu": 256, "cuda": 2048}
"""Budget of prompt tokens per cycle by type of device: 20 ms of the tiny model's on a core, 50 ms of an 8B's on an H200
(arithmetic), which is bound by reading weights below 300."""


@dataclass(frozen=True)
class EngineSettings:
    """Raises SettingsError for values that contradict one another.

    `max_running_requests`: rows of the cache. `max_context_tokens`: longest prompt and output together.
    `capacity_tokens`: cached tokens over all rows before the youngest request is preempted (None: every row may be
    full). `shared_tokens`: tokens of prompts and answers kept in the page store (None: a quarter of the capacity).
    `prefill_budget_tokens`: prompt tokens per cycle, from which the policy makes more or fewer by the pace of those who
    decode (None: `PROMPT_TOKENS` of the device). `threads`: torch's threads (None: as torch found them).
    `stats_every_s`: seconds between two `Stats`. `check_invariants`: run the checker after each cycle (tests).
    `layout` of the cache (auto: pages on a GPU, rows elsewhere); over pages `shared_tokens` is a bound on what is kept
    (None: whatever no request holds), as nothing is copied.
    """

    max_running_requests: int = 64
    max_context_tokens: int = 2048
    capacity_tokens: int | None = None
    shared_tokens: int | None = None
    prefill_budget_tokens: int | None = None
    threads: int | None = None
    stats_every_s: float = 0.25
    check_invariants: bool = False
    layout: Literal["auto", "rows", "pages"] = "auto"

    def __post_init__(self) -> None:
        for name, least in (("max_running_requests", 1), ("max_context_tokens", 2), ("prefill_budget_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SettingsError(f"{name} is {value}, allowed is {least} or more")
        if self.shared_tokens is not None and self.shared_tokens < 0:
            raise SettingsError(f"shared_tokens is {self.shared_tokens}, allowed is 0 or more, or none")
        if self.threads is not None and self.threads < 1:
            raise SettingsError(f"threads is {self.threads}, allowed is 1 or more, or none")
        if self.capacity_tokens is not None and self.capacity_tokens < self.max_context_tokens:
            raise SettingsError(
                f"capacity_tokens is {self.capacity_tokens}, allowed is at least max_context_tokens "
                f"({self.max_context_tokens}), or none"
            )

    def prompt_tokens(self, device: str = "cpu") -> int:
        """The budget of prompt tokens per cycle, on a device of that type where it is not set."""
        return self.prefill_budget_tokens or PROMPT_TOKENS.get(device, PROMPT_TOKENS["cpu"])

    @property
    def capacity(self) -> int:
        """Cached tokens over all rows."""
        return self.capacity_tokens or self.max_running_requests * self.max_context_tokens

    @property
    def shared(self) -> int:
        """Tokens that the page store holds."""
        return self.capacity // SHARED_PART if self.shared_tokens is None else self.shared_tokens
