"""Rules over several fields of the spec, written once for both worlds.

Belongs here: all of them together, and those over tiers, switching and staleness: one `Rule` per contradiction a user
can write. `cel` goes into the CRD, `holds` runs here (`checks`), and both carry the same message.
"""

from __future__ import annotations

from typing import Any

from trimode_api.pool_rules import POOL_RULES
from trimode_api.rule import Rule, modes_of, unique
from trimode_api.sharing_rules import SHARING_RULES

_SPECULATING = ("SelfSpeculation", "QuadraticSpeculation")


def _manual(switching: Any) -> bool:
    return bool(switching["policy"] == "Manual")


RULES: tuple[Rule, ...] = (
    *POOL_RULES,
    *SHARING_RULES,
    Rule(
        (),
        ("tiers",),
        "names must be unique",
        "self.tiers.all(t, self.tiers.exists_one(u, u.name == t.name))",
        lambda s: unique([t["name"] for t in s["tiers"]]),
    ),
    Rule(
        (),
        ("switching", "fallbackMode"),
        "must be in some pool's modes",
        "self.pools.exists(p, self.switching.fallbackMode in p.modes)",
        lambda s: s["switching"]["fallbackMode"] in modes_of(s),
    ),
    Rule(
        ("switching",),
        ("mode",),
        "is required with policy: Manual; write AR, SelfSpeculation or Diffusion",
        "self.policy != 'Manual' || has(self.mode)",
        lambda w: not _manual(w) or w.get("mode") is not None,
    ),
    Rule(
        ("switching",),
        ("mode",),
        "is for policy: Manual only; remove it or set policy: Manual",
        "self.policy == 'Manual' || !has(self.mode)",
        lambda w: _manual(w) or w.get("mode") is None,
    ),
    Rule(
        ("switching",),
        ("blockLength",),
        "is for policy: Manual with mode: SelfSpeculation or QuadraticSpeculation only",
        "!has(self.blockLength) || (self.policy == 'Manual' && has(self.mode) && "
        "self.mode in ['SelfSpeculation', 'QuadraticSpeculation'])",
        lambda w: w.get("blockLength") is None or (_manual(w) and w.get("mode") in _SPECULATING),
    ),
    Rule(
        (),
        ("switching", "mode"),
        "must be in some pool's modes",
        "!has(self.switching.mode) || self.pools.exists(p, self.switching.mode in p.modes)",
        lambda s: s["switching"].get("mode") is None or s["switching"]["mode"] in modes_of(s),
    ),
    Rule(
        (),
        ("switching", "blockLength"),
        "must be in some pool's blockLengths",
        "!has(self.switching.blockLength) || self.pools.exists(p, self.switching.blockLength in p.blockLengths)",
        lambda s: (
            s["switching"].get("blockLength") is None
            or any(s["switching"]["blockLength"] in p["blockLengths"] for p in s["pools"])
        ),
    ),
    Rule(
        (),
        ("switching", "mode"),
        "Diffusion is lossy and cannot be the manual mode; requests ask for it by quality",
        "!has(self.switching.mode) || self.switching.mode != 'Diffusion'",
        lambda s: s["switching"].get("mode") != "Diffusion",
    ),
    Rule(
        (),
        ("switching", "fallbackMode"),
        "Diffusion is lossy and cannot be the fallback",
        "self.switching.fallbackMode != 'Diffusion'",
        lambda s: s["switching"]["fallbackMode"] != "Diffusion",
    ),
    Rule(
        ("staleness",),
        ("staleAfterSeconds",),
        "must be below deadAfterSeconds",
        "self.staleAfterSeconds < self.deadAfterSeconds",
        lambda s: s["staleAfterSeconds"] < s["deadAfterSeconds"],
    ),
)
