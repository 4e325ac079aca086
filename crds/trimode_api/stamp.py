"""What a router says of a request's tier to the replica that answers it.

Routers have the authority for tiers: a new one is stamped at once, and a replica that heard of it a second later
refused a second's requests with 400.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf

RULES_HEADER = "x-trimode-tier-rules"
"""Beside `x-trimode-tier`, from routers only: `priority=10;tpot=8`, the latter in milliseconds per token."""

LEFT_HEADER = "x-trimode-first-token-left"
"""Milliseconds left until the request's first token is due, from routers only: an objective less the time it waited."""

_RULES = re.compile(r"priority=(-?\d{1,9});tpot=(\d{1,9}(?:\.\d{1,9})?)")
_LEFT = re.compile(r"-?\d{1,12}")


@dataclass(frozen=True, slots=True)
class Stamp:
    """A tier's rules as an engine needs them. `tpot_s`: objective in seconds per output token. `left_s`: seconds until
    the first token is due, infinite where nothing is known of that; it has a header of its own."""

    priority: int
    tpot_s: float
    left_s: float = inf

    @property
    def header(self) -> str:
        """The value of `RULES_HEADER`."""
        return f"priority={self.priority};tpot={round(self.tpot_s * 1000, 6):.10g}"

    @classmethod
    def read(cls, header: str | None, left: str | None = None) -> Stamp | None:
        """The stamp in the values of `RULES_HEADER` and `LEFT_HEADER`; None where there is none, or one of a router
        that writes it otherwise."""
        found = _RULES.fullmatch(header or "")
        if found is None:
            return None
        # Apart from the rules: an older replica reads those only in the form that it knows.
        left_s = int(left) / 1000 if left is not None and _LEFT.fullmatch(left) else inf
        return cls(int(found[1]), float(found[2]) / 1000, left_s)
