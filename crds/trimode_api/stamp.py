"""What a router says of a request's tier to the replica that answers it.

Belongs here: the header that goes with the tier's name, both ways. Routers have the authority for tiers: a new one is
stamped at once, and a replica that heard of it a second later refused a second's requests with 400.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

RULES_HEADER = "x-trimode-tier-rules"
"""Beside `x-trimode-tier`, from routers only: `priority=10;tpot=8`, the latter in milliseconds per token."""

_RULES = re.compile(r"priority=(-?\d{1,9});tpot=(\d{1,9}(?:\.\d{1,9})?)")


@dataclass(frozen=True, slots=True)
class Stamp:
    """A tier's rules as an engine needs them. `tpot_s`: objective in seconds per output token."""

    priority: int
    tpot_s: float

    @property
    def header(self) -> str:
        """The value of `RULES_HEADER`."""
        return f"priority={self.priority};tpot={round(self.tpot_s * 1000, 6):.10g}"

    @classmethod
    def read(cls, header: str | None) -> Stamp | None:
        """The stamp in a header's value; None where there is none, or one of a router that writes it otherwise."""
        found = _RULES.fullmatch(header or "")
        return None if found is None else cls(int(found[1]), float(found[2]) / 1000)
