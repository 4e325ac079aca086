"""Good and bad resources as data: what is changed in a minimal one, and the field to blame.

The models (tests/api) and a real API server (tests/cluster) are held to the same table. Belongs here: data only.
"""

from __future__ import annotations

import copy
from typing import Any

MINIMAL: dict[str, Any] = {
    "apiVersion": "trimode.dev/v1alpha1",
    "kind": "NemotronDeployment",
    "metadata": {"name": "tiny"},
    "spec": {"model": {"uri": "tiny://"}, "pools": [{"name": "flex", "modes": ["AR", "SelfSpeculation"]}]},
}

Changes = dict[str, Any]


def changed(path: str, value: Any) -> dict[str, Any]:
    """MINIMAL with `value` at a dotted path; list items by number; `...` deletes."""
    return patched({path: value})


def patched(changes: Changes) -> dict[str, Any]:
    """MINIMAL with several values changed so, in order."""
    data = copy.deepcopy(MINIMAL)
    for path, value in changes.items():
        *parents, last = path.split(".")
        at: Any = data
        for part in parents:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        key = int(last) if isinstance(at, list) else last
        if value is ...:
            del at[key]
        else:
            at[key] = copy.deepcopy(value)
    return data


CPU, MEMORY = "spec.pools.0.resources.cpu", "spec.pools.0.resources.memory"
URI, SWITCHING, SHARED = "spec.model.uri", "spec.switching", "spec.rebalancing"
SGLANG = {"type": "SGLang", "image": "x/y"}
MANUAL = {"policy": "Manual", "mode": "AR"}
AR, FAST = {"name": "ar", "modes": ["AR"]}, {"name": "fast", "modes": ["SelfSpeculation"]}
ROUGH, WIDE = {"name": "rough", "modes": ["Diffusion"]}, {"name": "wide", "modes": ["QuadraticSpeculation"]}
POD = "spec.pools.0.pod"
CLAIM = {"name": "gpu", "resourceClaimTemplateName": "one-gpu"}
ASLEEP = {"replicas": {"min": 0}}
UP_TO_3 = {"replicas": {"max": 3}}

GOOD: list[Changes] = [
    {},
    # quantities
    *({CPU: value} for value in (1, 8, 8.0, 2048, "1", "0.5", ".5", "1.", "+1", "500m", "10m", "2048", "2e3", "1k")),
    *({CPU: value} for value in ("500000u", "10000000n", "0.0099999999999", "1E+1", "20e-1", "1000000000000n", None)),
    {CPU: "0" * 23 + "1"},
    *({MEMORY: value} for value in (2**30, float(2**30), "1.5Gi", "500Mi", "64Mi", "64Ti", "64G", "500M", "1e9", None)),
    *({MEMORY: value} for value in ("67108864", "65536Ki", "1E9", "0.5T", "0.01Pi", ".00005E", "64000000000000m")),
    # nulls are fields left out
    *({f"spec.{name}": None} for name in ("engine", "tiers", "switching", "router", "diffusion", "rebalancing")),
    *({f"spec.{name}": None} for name in ("model.revision", "model.servedName", "suspend", "switching.mode")),
    *({f"spec.pools.0.{name}": None} for name in ("replicas", "resources", "blockLengths", "draftThreshold")),
    {"spec.engine": {"type": None, "args": None, "image": None}},
    {"metadata.labels": None, "metadata.annotations": None},
    # numbers at their bounds, and as YAML may write them
    *({"spec.engine.maxContextTokens": value} for value in (64, 1048576, 1024.0)),
    {"spec.pools.0.replicas": {"min": 0.0, "max": 1024}},
    {"spec.pools.0.blockLengths": [8.0, 4, 64]},
    {"spec.tiers": [{"name": "a", "priority": -1000, "percentile": 50}, {"name": "b", "priority": -0.0}]},
    # texts at their bounds
    {"metadata.name": "a" * 63},
    {"metadata.name": "a-1"},
    {"metadata.labels": {"version": "1"}, "metadata.annotations": {"note": ""}},
    {"spec.model.servedName": "ä" * 128},
    {"spec.model.revision": " "},
    *({URI: uri} for uri in ("hf://own_er/na.me-1", "file:///weights", "file://x", "pvc://claim/a b", "pvc://c/ä")),
    *(
        {URI: f"oci://{image}"}
        for image in ("nemo", "registry.example:5000/models/nemo-8b:1.0", "a.b/c_d/e@sha256:" + "0" * 64)
    ),
    {URI: "hf://o/" + "n" * 505},
    {"spec.router": {"replicas": 64, "auth": {"secretName": "a.b-c.0"}, "tls": {"secretName": "a" * 253}}},
    {"spec.engine": SGLANG | {"args": ["ä" * 1024, ""]}, "spec.pools": [AR]},
    {"spec.pools.0.draftThreshold": "0.0001"},
    {"spec.pools.0.draftThreshold": "1.0000"},
    # pods
    *({POD: value} for value in (None, {}, {"affinity": None, "resourceClaims": None, "nodeSelector": None})),
    {POD: {"runtimeClassName": "nvidia", "priorityClassName": "a.b-c", "nodeSelector": {"gpu": "h100", "x/y": ""}}},
    {POD: {"nodeSelector": {"gpu": "h" * 63}, "resourceClaims": [CLAIM, {"name": "b", "resourceClaimName": "c.d"}]}},
    {POD: {"tolerations": [{"operator": "Exists"}, {}], "topologySpreadConstraints": [{"maxSkew": 1}]}},
    {POD: {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"x": [1, None]}]}}}},
    *({"spec.replicas": value} for value in (None, 1, 1024, 3.0)),
    {"spec.replicas": 2, "spec.pools.0.replicas": {"min": 4, "max": 8}},
    *({"spec.upgrade": value} for value in (None, {}, {"strategy": None}, {"strategy": "Recreate"})),
    # several fields together
    {"spec.pools": [FAST], SWITCHING: {"fallbackMode": "SelfSpeculation"}},
    {"spec.pools": [AR, ROUGH | ASLEEP], "spec.diffusion": {}},
    {"spec.pools": [AR, WIDE], SWITCHING: {"policy": "Manual", "mode": "QuadraticSpeculation", "blockLength": 8}},
    {SWITCHING: {"policy": "Manual", "mode": "SelfSpeculation", "blockLength": 32.0}},
    {"spec.pools": [AR | UP_TO_3, FAST | UP_TO_3], SHARED: {"totalReplicas": 6}},
    {"spec.pools": [AR | UP_TO_3, FAST, ROUGH | ASLEEP], SHARED: {"totalReplicas": 2}, "spec.diffusion": {}},
    {"spec.engine": SGLANG, "spec.pools": [AR | {"resources": {"gpus": 2}}, FAST]},
    {"spec.staleness": {"staleAfterSeconds": 3599, "deadAfterSeconds": 3600}},
]

WRONG: list[tuple[str, Any, str, str]] = [
    ("apiVersion", "v1", "apiVersion", "trimode.dev/v1alpha1"),
    ("kind", "Deployment", "kind", "NemotronDeployment"),
    ("metadata.name", "Tiny", "metadata.name", "lower-case"),
    ("metadata.name", "a" * 64, "metadata.name", "63"),
    ("metadata.name", ..., "metadata.name", "required"),
    ("metadata.name", "tiny.a", "metadata.name", "lower-case"),
    ("metadata.name", "8b", "metadata.name", "start with a letter"),
    ("metadata.name", "a-", "metadata.name", "lower-case"),
    ("spec", None, "spec", "required"),
    ("spec", 3, "spec", "mapping"),
    ("spec", [], "spec", "mapping"),
    ("spec.modle", {}, "spec.modle", "unknown field"),
    ("spec.modle", None, "spec.modle", "unknown field"),
    ("spec.min_replicas", 1, "spec.min_replicas", "unknown field"),
    ("spec.engine.max_context_tokens", 1024, "spec.engine.max_context_tokens", "unknown field"),
    ("spec.pools.0.block_lengths", [8], "spec.pools[0].block_lengths", "unknown field"),
    ("spec.router.auth", {"secret_name": "k", "secretName": "k"}, "spec.router.auth.secret_name", "unknown field"),
    ("spec.model", ..., "spec.model", "required"),
    ("spec.model", None, "spec.model", "required"),
    (URI, ..., URI, "required"),
    (URI, None, URI, "required"),
    (URI, "s3://bucket", URI, "tiny://"),
    (URI, "hf://owner", URI, "hf://OWNER/NAME"),
    (URI, "hf://ownér/näme", URI, "hf://OWNER/NAME"),
    (URI, "hf://owner/١", URI, "hf://OWNER/NAME"),
    (URI, "tiny://\n", URI, "tiny://"),
    (URI, " tiny://", URI, "tiny://"),
    (URI, "file:///a\nb", URI, "file:///PATH"),
    (URI, "pvc://Claim/x", URI, "pvc://CLAIM/PATH"),
    *(
        (URI, f"oci://{image}", URI, "oci://IMAGE")
        for image in ("", "Nemo", "a/b:", "a b", "a@sha256:12", "/a", "a//b")
    ),
    (URI, "hf://o/" + "n" * 506, URI, "hf://OWNER/NAME"),
    ("spec.model.servedName", "", "spec.model.servedName", "at least 1"),
    ("spec.model.servedName", "a" * 129, "spec.model.servedName", "128"),
    ("spec.model.servedName", 7, "spec.model.servedName", "string"),
    ("spec.model.revision", 1.0, "spec.model.revision", "string"),
    ("spec.model.draftAdapter", True, "spec.model.draftAdapter", "string"),
    ("spec.engine", [], "spec.engine", "mapping"),
    ("spec.engine.type", "vLLM", "spec.engine.type", "'Native' or 'SGLang'"),
    ("spec.engine.type", "native", "spec.engine.type", "'Native' or 'SGLang'"),
    ("spec.engine.dtype", "fp8", "spec.engine.dtype", "'bfloat16'"),
    ("spec.engine.maxContextTokens", 10, "spec.engine.maxContextTokens", "64"),
    ("spec.engine.maxContextTokens", 1048577, "spec.engine.maxContextTokens", "1048576"),
    ("spec.engine.maxContextTokens", "4096", "spec.engine.maxContextTokens", "integer"),
    ("spec.engine.maxContextTokens", 1024.5, "spec.engine.maxContextTokens", "integer"),
    ("spec.engine.maxContextTokens", True, "spec.engine.maxContextTokens", "integer"),
    ("spec.engine.maxContextTokens", 2**63, "spec.engine.maxContextTokens", "1048576"),
    ("spec.engine.maxContextTokens", 1e300, "spec.engine.maxContextTokens", "1048576"),
    ("spec.engine.maxRunningRequests", 0, "spec.engine.maxRunningRequests", "1"),
    ("spec.engine.image", "x/y", "spec.engine.image", "SGLang only"),
    ("spec.engine.args", ["--x"], "spec.engine.args", "SGLang only"),
    ("spec.engine.args", [], "spec.engine.args", "SGLang only"),
    ("spec.engine.args", "--x", "spec.engine.args", "list"),
    ("spec.engine.args", [1], "spec.engine.args[0]", "string"),
    ("spec.engine.args", ["ok", "a" * 1025], "spec.engine.args[1]", "1024"),
    ("spec.engine.args", ["a"] * 65, "spec.engine.args", "64"),
    ("spec.engine.type", "SGLang", "spec.engine.image", "required"),
    ("spec.pools", ..., "spec.pools", "required"),
    ("spec.pools", [], "spec.pools", "at least 1"),
    ("spec.pools", {}, "spec.pools", "list"),
    ("spec.pools", [None], "spec.pools[0]", "mapping"),
    ("spec.pools.0.name", ..., "spec.pools[0].name", "required"),
    ("spec.pools.0.name", "-a", "spec.pools[0].name", "lower-case"),
    ("spec.pools.0.name", "a.b", "spec.pools[0].name", "lower-case"),
    ("spec.pools.0.modes", ..., "spec.pools[0].modes", "required"),
    ("spec.pools.0.modes", None, "spec.pools[0].modes", "required"),
    ("spec.pools.0.modes", [], "spec.pools[0].modes", "at least 1"),
    ("spec.pools.0.modes", "AR", "spec.pools[0].modes", "list"),
    ("spec.pools.0.modes", ["ar"], "spec.pools[0].modes[0]", "'AR'"),
    ("spec.pools.0.modes", ["AR", None], "spec.pools[0].modes[1]", "'AR'"),
    ("spec.pools.0.modes", ["AR", "AR"], "spec.pools[0].modes[1]", "twice"),
    ("spec.pools.0.modes", ["AR", "Diffusion"], "spec.diffusion", "spec.pools[0] lists Diffusion"),
    ("spec.pools.0.blockLengths", [], "spec.pools[0].blockLengths", "at least 1"),
    ("spec.pools.0.blockLengths", [12], "spec.pools[0].blockLengths[0]", "4, 8, 16, 32, 64"),
    ("spec.pools.0.blockLengths", ["8"], "spec.pools[0].blockLengths[0]", "integer"),
    ("spec.pools.0.blockLengths", [8.5], "spec.pools[0].blockLengths[0]", "integer"),
    ("spec.pools.0.blockLengths", [8, 8], "spec.pools[0].blockLengths[1]", "twice"),
    ("spec.pools.0.blockLengths", [True], "spec.pools[0].blockLengths[0]", "integer"),
    (
        "spec.pools.0",
        {"name": "a", "modes": ["AR", "QuadraticSpeculation"], "blockLengths": [64]},
        "spec.pools[0].blockLengths",
        "32",
    ),
    ("spec.pools.0", {"name": "a", "modes": ["AR"], "draftThreshold": "0.9"}, "spec.pools[0].draftThreshold", "SelfSp"),
    ("spec.pools.0.draftThreshold", 0.9, "spec.pools[0].draftThreshold", "string"),
    *(
        ("spec.pools.0.draftThreshold", value, "spec.pools[0].draftThreshold", "(0, 1]")
        for value in ("1.5", "0", "0.", ".5", "0.00001", "0.99999", "1.00000", "0.9 ", "٠.5", "0,9", "1e-1")
    ),
    ("spec.pools.0.replicas", {"min": 3, "max": 2}, "spec.pools[0].replicas.min", "above max"),
    ("spec.pools.0.replicas", {"min": -1}, "spec.pools[0].replicas.min", "0"),
    ("spec.pools.0.replicas", {"min": 0, "max": 0}, "spec.pools[0].replicas.max", "1"),
    ("spec.pools.0.replicas", {"min": 1.5, "max": 2}, "spec.pools[0].replicas.min", "integer"),
    *((CPU, value, "spec.pools[0].resources.cpu", "cores from 10m to 2048") for value in ("two", "", "0", 0, -1, "9m")),
    *((CPU, value, "spec.pools[0].resources.cpu", "cores from") for value in ("2049", 2049, "1e4", "-1", "1 ", "1mi")),
    *(
        (CPU, value, "spec.pools[0].resources.cpu", "cores from")
        for value in ("1e", "1e100", ".", "1.5.0", "0.1_0", "٣")
    ),
    *(
        (CPU, value, "spec.pools[0].resources.cpu", "cores from")
        for value in (True, [], {}, "0" * 24 + "1", 10**30, 1e300)
    ),
    (CPU, 0.5, "spec.pools[0].resources.cpu", "in quotes, '0.5'"),
    *((MEMORY, value, "spec.pools[0].resources.memory", "64Gi") for value in ("64GB", "64gi", "64K", "64 Gi", "-1Gi")),
    *((MEMORY, value, "spec.pools[0].resources.memory", "64Mi to 64Ti") for value in ("1", 1, "0", "63.9Mi", "128m")),
    *((MEMORY, value, "spec.pools[0].resources.memory", "64Mi to 64Ti") for value in ("65Ti", "1E", "9" * 19 + "Ti")),
    (MEMORY, 1.5, "spec.pools[0].resources.memory", "in quotes"),
    ("spec.pools.0.resources", {"gpus": 2}, "spec.pools[0].resources.gpus", "one GPU; ask for 0 or 1"),
    ("spec.pools.0.resources", {"gpus": 0.5}, "spec.pools[0].resources.gpus", "integer"),
    ("spec.pools.0.resources", {"gpu": 1}, "spec.pools[0].resources.gpu", "unknown field"),
    ("spec.replicas", 0, "spec.replicas", "1"),
    ("spec.replicas", 1025, "spec.replicas", "1024"),
    ("spec.replicas", "2", "spec.replicas", "integer"),
    *(
        ("spec.upgrade", {"strategy": value}, "spec.upgrade.strategy", "'NewCluster' or 'Recreate'")
        for value in ("InPlace", "NewClusterWithIncrementalUpgrade")
    ),
    ("spec.upgrade", "Recreate", "spec.upgrade", "mapping"),
    (POD, {"hostNetwork": True}, "spec.pools[0].pod.hostNetwork", "unknown field"),
    (POD, {"runtimeClassName": "Nvidia"}, "spec.pools[0].pod.runtimeClassName", "an object's name"),
    (POD, {"priorityClassName": ""}, "spec.pools[0].pod.priorityClassName", "an object's name"),
    (POD, {"nodeSelector": ["gpu"]}, "spec.pools[0].pod.nodeSelector", "dictionary"),
    (POD, {"nodeSelector": {"gpu": 1}}, "spec.pools[0].pod.nodeSelector.gpu", "string"),
    (POD, {"nodeSelector": {"gpu": "h" * 64}}, "spec.pools[0].pod.nodeSelector.gpu", "63"),
    (POD, {"nodeSelector": {f"l{n}": "" for n in range(33)}}, "spec.pools[0].pod.nodeSelector", "32"),
    (POD, {"tolerations": {}}, "spec.pools[0].pod.tolerations", "list"),
    (POD, {"tolerations": ["gpu"]}, "spec.pools[0].pod.tolerations[0]", "dictionary"),
    (POD, {"affinity": []}, "spec.pools[0].pod.affinity", "dictionary"),
    (POD, {"resourceClaims": [CLAIM, CLAIM]}, "spec.pools[0].pod.resourceClaims[1]", "'gpu' is there twice"),
    (POD, {"resourceClaims": [{}]}, "spec.pools[0].pod.resourceClaims[0].name", "required"),
    (
        POD,
        {"resourceClaims": [{"name": "a"}]},
        "spec.pools[0].pod.resourceClaims[0].resourceClaimName",
        "no resourceClaimTemplateName",
    ),
    (
        POD,
        {"resourceClaims": [CLAIM | {"resourceClaimName": "a"}]},
        "spec.pools[0].pod.resourceClaims[0].resourceClaimName",
        "there only",
    ),
    ("spec.diffusion", {"threshold": 0.9}, "spec.diffusion.threshold", "string"),
    ("spec.diffusion", {"threshold": "1.5"}, "spec.diffusion.threshold", "(0, 1]"),
    ("spec.diffusion", {"threshold": "0.0"}, "spec.diffusion.threshold", "(0, 1]"),
    ("spec.diffusion", {"blockLength": 128}, "spec.diffusion.blockLength", "64"),
    ("spec.tiers", [], "spec.tiers", "at least 1"),
    ("spec.tiers", [{"name": f"t{n}"} for n in range(17)], "spec.tiers", "16"),
    ("spec.tiers", [{"name": "a"}, {"name": "a"}], "spec.tiers[1]", "'a' is there twice"),
    ("spec.tiers", [{"name": "a", "percentile": 100}], "spec.tiers[0].percentile", "99"),
    ("spec.tiers", [{"name": "a", "tpotMilliseconds": 0}], "spec.tiers[0].tpotMilliseconds", "1"),
    ("spec.switching.policy", "Magic", "spec.switching.policy", "'Manual'"),
    (
        "spec.switching.policy",
        "Manual",
        "spec.switching.mode",
        "required with policy: Manual; write AR or SelfSpeculation or QuadraticSpeculation",
    ),
    ("spec.switching", {"mode": "AR"}, "spec.switching.mode", "Manual only"),
    ("spec.switching", {"blockLength": 8}, "spec.switching.blockLength", "Manual"),
    ("spec.switching", MANUAL | {"blockLength": 8}, "spec.switching.blockLength", "SelfSpeculation"),
    ("spec.switching", {"policy": "Manual", "mode": "Diffusion"}, "spec.switching.mode", "lossy"),
    ("spec.switching.fallbackMode", "Diffusion", "spec.switching.fallbackMode", "lossy"),
    (
        "spec.switching.fallbackMode",
        "QuadraticSpeculation",
        "spec.switching.fallbackMode",
        "no pool has QuadraticSpeculation in its modes; write AR",
    ),
    ("spec.switching.marginPercent", 90, "spec.switching.marginPercent", "50"),
    ("spec.switching.dryRun", "yes", "spec.switching.dryRun", "boolean"),
    ("spec.switching.dryRun", 0, "spec.switching.dryRun", "boolean"),
    ("spec.rebalancing", {}, "spec.rebalancing.totalReplicas", "required"),
    ("spec.rebalancing", {"totalReplicas": 2}, "spec.pools[0].modes", "exactly one mode"),
    ("spec.rebalancing", {"totalReplicas": 1}, "spec.rebalancing.totalReplicas", "2"),
    ("spec.rebalancing", {"total": 2, "totalReplicas": 2}, "spec.rebalancing.total", "unknown field"),
    ("spec.staleness", {"staleAfterSeconds": 20}, "spec.staleness.staleAfterSeconds", "deadAfterSeconds"),
    ("spec.staleness", {"deadAfterSeconds": 3}, "spec.staleness.staleAfterSeconds", "deadAfterSeconds"),
    ("spec.admission.maxQueuedRequests", -1, "spec.admission.maxQueuedRequests", "0"),
    ("spec.drain.timeoutSeconds", "5m", "spec.drain.timeoutSeconds", "integer"),
    ("spec.router.replicas", 0, "spec.router.replicas", "1"),
    ("spec.router.auth", {}, "spec.router.auth.secretName", "required"),
    ("spec.router.auth", {"secretName": None}, "spec.router.auth.secretName", "required"),
    ("spec.router.auth", {"secretName": "API_Keys"}, "spec.router.auth.secretName", "a Secret's name"),
    ("spec.router.auth", {"secretName": "k", "key": "x"}, "spec.router.auth.key", "unknown field"),
    ("spec.router.tls", {"secretName": "a..b"}, "spec.router.tls.secretName", "a Secret's name"),
    ("spec.router.tls", {"secretName": "a" * 254}, "spec.router.tls.secretName", "253"),
    ("spec.router.corsOrigins", ["https://a.example/chat"], "spec.router.corsOrigins[0]", "without a path"),
    ("spec.router.corsOrigins", ["a.example"], "spec.router.corsOrigins[0]", "SCHEME://HOST:PORT"),
    ("spec.router.corsOrigins", ["https://" + "a" * 256], "spec.router.corsOrigins[0]", "SCHEME://HOST:PORT"),
    ("spec.router.idleSeconds", 0, "spec.router.idleSeconds", "1"),
    ("spec.router.headerBytes", 100, "spec.router.headerBytes", "1024"),
    ("spec.router.bodyBytes", "8Mi", "spec.router.bodyBytes", "integer"),
    ("spec.router.allowedHosts", ["a"], "spec.router.allowedHosts", "unknown field"),
    ("spec.suspend", 1, "spec.suspend", "boolean"),
]
"""One value that is wrong: where, what, the field to blame, words that say what is allowed."""

CONTRADICTIONS: list[tuple[Changes, str, str]] = [
    ({"spec.pools": [AR, AR]}, "spec.pools[1]", "'ar' is there twice"),
    ({"spec.pools": [AR, FAST], "spec.replicas": 2}, "spec.replicas", "is for resources with one pool"),
    ({"spec.pools": [AR, ROUGH]}, "spec.diffusion", "spec.pools[1] lists Diffusion"),
    ({"spec.pools": [ROUGH], "spec.diffusion": {}}, "spec.pools", "lossless mode: AR, SelfSpeculation"),
    ({"spec.pools": [FAST]}, "spec.switching.fallbackMode", "no pool has AR, the default, in its modes; write SelfSp"),
    (
        {"spec.pools": [WIDE, FAST], SWITCHING: {"fallbackMode": "AR"}},
        "spec.switching.fallbackMode",
        "no pool has AR, the default, in its modes; write SelfSpeculation",
    ),
    (
        {"spec.pools": [AR], SWITCHING: {"policy": "Manual", "mode": "QuadraticSpeculation"}},
        "spec.switching.mode",
        "no pool has QuadraticSpeculation in its modes; write AR",
    ),
    (
        {SWITCHING: {"policy": "Manual", "mode": "SelfSpeculation", "blockLength": 64}},
        "spec.switching.blockLength",
        "some pool's blockLengths",
    ),
    ({"spec.engine": SGLANG}, "spec.pools[0].modes", "exactly one mode"),
    ({"spec.engine": SGLANG, "spec.pools": [FAST, AR, WIDE]}, "spec.pools[2].modes", "no QuadraticSpeculation"),
    (
        {"spec.engine": SGLANG, "spec.pools": [AR, FAST | {"draftThreshold": "0.9"}]},
        "spec.pools[1].draftThreshold",
        "SGLang drafts in one forward",
    ),
    (
        {"spec.pools": [AR, FAST | {"resources": {"gpus": 16}}]},
        "spec.pools[1].resources.gpus",
        "one GPU; ask for 0 or 1",
    ),
    (
        {"spec.pools": [AR | UP_TO_3, ROUGH], SHARED: {"totalReplicas": 2}, "spec.diffusion": {}},
        "spec.rebalancing",
        "a pool with SelfSpeculation",
    ),
    (
        {"spec.pools": [AR, FAST, {"name": "x", "modes": ["AR", "SelfSpeculation"]}], SHARED: {"totalReplicas": 3}},
        "spec.pools[2].modes",
        "exactly one mode",
    ),
    (
        {"spec.pools": [AR | UP_TO_3, FAST | UP_TO_3], SHARED: {"totalReplicas": 7}},
        "spec.rebalancing.totalReplicas",
        "from 2 to 6, the sums",
    ),
    (
        {"spec.pools": [AR | {"replicas": {"min": 2, "max": 3}}, FAST], SHARED: {"totalReplicas": 2}},
        "spec.rebalancing.totalReplicas",
        "from 3 to 4, the sums",
    ),
    (
        {"spec.pools": [AR | UP_TO_3, FAST | ASLEEP], SHARED: {"totalReplicas": 2}},
        "spec.pools[1].replicas.min",
        "at least 1",
    ),
    (
        {"spec.pools": [AR | UP_TO_3, FAST | {"resources": {"gpus": 1}}], SHARED: {"totalReplicas": 2}},
        "spec.pools[1].resources.gpus",
        "the same in all pools",
    ),
]
"""Values of the spec that are good alone and wrong together."""

AROUND: list[tuple[Changes, str, str]] = [
    ({"spec": ...}, "spec", "required"),
    ({"api_version": "trimode.dev/v1alpha1"}, "api_version", "unknown field"),
    ({"metadata.labels": {"version": 1}}, "metadata.labels", "in quotes"),
    ({"metadata.annotations": {"on": True}}, "metadata.annotations", "in quotes"),
]
"""What is wrong around the spec."""
