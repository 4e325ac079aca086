"""Rules over several fields of the spec, written once for both worlds.

`cel` goes into the CRD, `holds` runs here (`checks`), and both carry the same message.
"""

from __future__ import annotations

from typing import Any

from trimode_api.pool_rules import LOSSLESS, POOL_RULES, SHARING_RULES
from trimode_api.rule import AnyRule, Distinct, Rule, Words, modes_of

_SPECULATING = ("SelfSpeculation", "QuadraticSpeculation")


def _manual(switching: Any) -> bool:
    return bool(switching["policy"] == "Manual")


def _offered(spec: Any) -> list[str]:
    """Lossless modes that some pool has."""
    return [mode for mode in LOSSLESS if mode in modes_of(spec)]


_OFFERED = f"{list(LOSSLESS)}.filter(m, self.pools.exists(p, m in p.modes))"
_IN_NO_POOL = "no pool has %s in its modes; write %s"
_DEFAULT_IN_NO_POOL = "no pool has AR, the default, in its modes; write %s"

SWITCHING_RULES: tuple[Rule, ...] = (
    Rule(
        (),
        ("switching", "fallbackMode"),
        "must be in some pool's modes",
        f"self.switching.fallbackMode == 'Diffusion' || size({_OFFERED}) == 0 || "
        f"self.switching.fallbackMode in {_OFFERED}",
        lambda s: s["switching"]["fallbackMode"] in ("Diffusion", *(_offered(s) or LOSSLESS)),
        Words(
            f"self.switching.fallbackMode == 'AR' ? '{_DEFAULT_IN_NO_POOL}'.format([{_OFFERED}[0]]) : "
            f"'{_IN_NO_POOL}'.format([self.switching.fallbackMode, {_OFFERED}[0]])",
            lambda s: (
                _DEFAULT_IN_NO_POOL % _offered(s)[0]
                if s["switching"]["fallbackMode"] == "AR"
                else _IN_NO_POOL % (s["switching"]["fallbackMode"], _offered(s)[0])
            ),
        ),
    ),
    Rule(
        ("switching",),
        ("mode",),
        f"is required with policy: Manual; write {' or '.join(LOSSLESS)}",
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
        "!has(self.switching.mode) || self.switching.mode == 'Diffusion' || "
        f"size({_OFFERED}) == 0 || self.switching.mode in {_OFFERED}",
        lambda s: s["switching"].get("mode") in (None, "Diffusion", *(_offered(s) or LOSSLESS)),
        Words(
            f"'{_IN_NO_POOL}'.format([self.switching.mode, {_OFFERED}[0]])",
            lambda s: _IN_NO_POOL % (s["switching"]["mode"], _offered(s)[0]),
        ),
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
        ("switching",),
        ("mode",),
        "Diffusion is lossy and cannot be the manual mode; requests ask for it by quality",
        "!has(self.mode) || self.mode != 'Diffusion'",
        lambda w: w.get("mode") != "Diffusion",
    ),
    Rule(
        ("switching",),
        ("fallbackMode",),
        "Diffusion is lossy and cannot be the fallback",
        "self.fallbackMode != 'Diffusion'",
        lambda w: w["fallbackMode"] != "Diffusion",
    ),
)

RULES: tuple[AnyRule, ...] = (
    *POOL_RULES,
    *SHARING_RULES,
    Distinct(("tiers",), "name"),
    *SWITCHING_RULES,
    Rule(
        ("staleness",),
        ("staleAfterSeconds",),
        "must be below deadAfterSeconds",
        "self.staleAfterSeconds < self.deadAfterSeconds",
        lambda s: s["staleAfterSeconds"] < s["deadAfterSeconds"],
    ),
)
