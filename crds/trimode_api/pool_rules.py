"""Rules over pools and their engine.

Belongs here: what one pool, all pools together, or pools and engine must not contradict.
"""

from __future__ import annotations

from trimode_api.modes import LONGEST_QUADRATIC
from trimode_api.rule import Rule, modes_of, unique

POOL_RULES: tuple[Rule, ...] = (
    Rule(
        ("pools", "*", "replicas"),
        ("min",),
        "must not be above max",
        "self.min <= self.max",
        lambda r: r["min"] <= r["max"],
    ),
    Rule(
        ("pools", "*"),
        ("modes",),
        "must not name a mode twice",
        "self.modes.all(m, self.modes.exists_one(n, n == m))",
        lambda p: unique(p["modes"]),
    ),
    Rule(
        ("pools", "*"),
        ("blockLengths",),
        "must not name a block length twice",
        "self.blockLengths.all(b, self.blockLengths.exists_one(c, c == b))",
        lambda p: unique(p["blockLengths"]),
    ),
    Rule(
        ("pools", "*"),
        ("blockLengths",),
        "must be 32 at most with QuadraticSpeculation, whose forward grows with their square",
        "!('QuadraticSpeculation' in self.modes) || self.blockLengths.all(b, b <= 32)",
        lambda p: "QuadraticSpeculation" not in p["modes"] or all(b <= LONGEST_QUADRATIC for b in p["blockLengths"]),
    ),
    Rule(
        ("pools", "*"),
        ("draftThreshold",),
        "is for pools with SelfSpeculation in their modes; remove it or add the mode",
        "!has(self.draftThreshold) || 'SelfSpeculation' in self.modes",
        lambda p: p.get("draftThreshold") is None or "SelfSpeculation" in p["modes"],
    ),
    Rule(
        (),
        ("pools",),
        "names must be unique",
        "self.pools.all(p, self.pools.exists_one(q, q.name == p.name))",
        lambda s: unique([p["name"] for p in s["pools"]]),
    ),
    Rule(
        (),
        ("diffusion",),
        "is required where a pool lists Diffusion in its modes",
        "!self.pools.exists(p, 'Diffusion' in p.modes) || has(self.diffusion)",
        lambda s: "Diffusion" not in modes_of(s) or s.get("diffusion") is not None,
    ),
    Rule(
        (),
        ("pools",),
        "SGLang pools take exactly one mode each; split the modes into pools",
        "self.engine.type != 'SGLang' || self.pools.all(p, size(p.modes) == 1)",
        lambda s: s["engine"]["type"] != "SGLang" or all(len(p["modes"]) == 1 for p in s["pools"]),
    ),
    Rule(
        (),
        ("pools",),
        "a replica of the Native engine runs on one GPU; ask for 0 or 1 and for more replicas instead",
        "self.engine.type != 'Native' || self.pools.all(p, p.resources.gpus <= 1)",
        lambda s: s["engine"]["type"] != "Native" or all(p["resources"]["gpus"] <= 1 for p in s["pools"]),
    ),
    Rule(
        (),
        ("pools",),
        "SGLang has neither QuadraticSpeculation nor draftThreshold; remove them or set type: Native",
        "self.engine.type != 'SGLang' || !self.pools.exists(p, 'QuadraticSpeculation' in p.modes || "
        "has(p.draftThreshold))",
        lambda s: (
            s["engine"]["type"] != "SGLang"
            or not any("QuadraticSpeculation" in p["modes"] or p.get("draftThreshold") is not None for p in s["pools"])
        ),
    ),
    Rule(
        (),
        ("pools",),
        "at least one pool must allow a lossless mode: AR or SelfSpeculation",
        "self.pools.exists(p, 'AR' in p.modes || 'SelfSpeculation' in p.modes || 'QuadraticSpeculation' in p.modes)",
        lambda s: bool(modes_of(s) - {"Diffusion"}),
    ),
    Rule(
        ("engine",),
        ("image",),
        "is for SGLang only; remove it or set type: SGLang",
        "self.type == 'SGLang' || !has(self.image)",
        lambda e: e["type"] == "SGLang" or e.get("image") is None,
    ),
    Rule(
        ("engine",),
        ("args",),
        "is for SGLang only; remove it or set type: SGLang",
        "self.type == 'SGLang' || !has(self.args)",
        lambda e: e["type"] == "SGLang" or e.get("args") is None,
    ),
    Rule(
        ("engine",),
        ("image",),
        "is required with type: SGLang",
        "self.type != 'SGLang' || has(self.image)",
        lambda e: e["type"] != "SGLang" or e.get("image") is not None,
    ),
)
