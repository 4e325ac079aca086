"""The resource: defaults are pinned, and every wrong field is named with what is allowed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimode_api.errors import InvalidInput
from trimode_api.policy_of import policy_of
from trimode_api.resource import NemotronDeployment

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "apiVersion": "trimode.dev/v1alpha1",
    "kind": "NemotronDeployment",
    "metadata": {"name": "tiny"},
    "spec": {"model": {"uri": "tiny://"}, "pools": [{"name": "flex", "modes": ["AR", "SelfSpeculation"]}]},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """SMALL with `value` at a dotted path; list items by number; `...` deletes."""
    data = copy.deepcopy(SMALL)
    *parents, last = path.split(".")
    at: Any = data
    for part in parents:
        at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
    key = int(last) if isinstance(at, list) else last
    if value is ...:
        del at[key]
    else:
        at[key] = value
    return data


def problems(data: Any) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        NemotronDeployment.parse(data)
    found: dict[str, str] = {}
    for problem in caught.value.problems:
        found[problem.path] = "; ".join(filter(None, [found.get(problem.path), problem.message]))
    return found


def test_defaults_are_pinned() -> None:
    spec = NemotronDeployment.parse(SMALL).spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert spec == {
        "model": {"uri": "tiny://", "revision": "main"},
        "engine": {"type": "Native", "dtype": "auto", "maxContextTokens": 4096, "maxRunningRequests": 64},
        "pools": [
            {
                "name": "flex",
                "modes": ["AR", "SelfSpeculation"],
                "blockLengths": [8, 16, 32],
                "replicas": {"min": 1, "max": 1, "idleSeconds": 300},
                "resources": {"gpus": 0, "cpu": "1", "memory": "1Gi"},
            }
        ],
        "tiers": [
            {"name": "standard", "ttftMilliseconds": 1000, "tpotMilliseconds": 25, "percentile": 95, "priority": 0}
        ],
        "switching": {
            "policy": "Predictive",
            "marginPercent": 5,
            "minDwellMilliseconds": 200,
            "fallbackMode": "AR",
            "dryRun": False,
        },
        "admission": {"maxQueuedRequests": 1024, "maxWaitMilliseconds": 2000},
        "staleness": {"staleAfterSeconds": 3, "deadAfterSeconds": 10},
        "drain": {"timeoutSeconds": 300},
        "router": {"replicas": 1},
        "suspend": False,
    }


WRONG: list[tuple[str, Any, str, str]] = [
    ("apiVersion", "v1", "apiVersion", "trimode.dev/v1alpha1"),
    ("kind", "Deployment", "kind", "NemotronDeployment"),
    ("metadata.name", "Tiny", "metadata.name", "lower-case"),
    ("metadata.name", "a" * 64, "metadata.name", "63"),
    ("metadata.name", ..., "metadata.name", "required"),
    ("spec.modle", {}, "spec.modle", "unknown field"),
    ("spec.model.uri", ..., "spec.model.uri", "required"),
    ("spec.model.uri", "s3://bucket", "spec.model.uri", "tiny://"),
    ("spec.model.uri", "hf://owner", "spec.model.uri", "hf://OWNER/NAME"),
    ("spec.model.servedName", "", "spec.model.servedName", "at least 1"),
    ("spec.engine.type", "vLLM", "spec.engine.type", "'Native' or 'SGLang'"),
    ("spec.engine.dtype", "fp8", "spec.engine.dtype", "'bfloat16'"),
    ("spec.engine.maxContextTokens", 10, "spec.engine.maxContextTokens", "64"),
    ("spec.engine.maxContextTokens", "4096", "spec.engine.maxContextTokens", "integer"),
    ("spec.engine.maxRunningRequests", 0, "spec.engine.maxRunningRequests", "1"),
    ("spec.engine.image", "x/y", "spec.engine.image", "SGLang only"),
    ("spec.engine.args", ["--x"], "spec.engine.args", "SGLang only"),
    ("spec.engine.type", "SGLang", "spec.engine.image", "required"),
    ("spec.engine.type", "SGLang", "spec.pools", "exactly one mode"),
    ("spec.pools", [], "spec.pools", "at least 1"),
    ("spec.pools.0.name", "-a", "spec.pools[0].name", "lower-case"),
    ("spec.pools.0.modes", [], "spec.pools[0].modes", "at least 1"),
    ("spec.pools.0.modes", ["ar"], "spec.pools[0].modes[0]", "'AR'"),
    ("spec.pools.0.modes", ["AR", "AR"], "spec.pools[0].modes", "twice"),
    ("spec.pools.0.modes", ["AR", "Diffusion"], "spec.diffusion", "required"),
    ("spec.pools.0.blockLengths", [12], "spec.pools[0].blockLengths[0]", "4, 8, 16, 32, 64"),
    ("spec.pools.0.blockLengths", [8, 8], "spec.pools[0].blockLengths", "twice"),
    ("spec.pools.0.blockLengths", [True], "spec.pools[0].blockLengths[0]", "integer"),
    (
        "spec.pools.0",
        {"name": "a", "modes": ["QuadraticSpeculation"], "blockLengths": [64]},
        "spec.pools[0].blockLengths",
        "32",
    ),
    ("spec.pools.0", {"name": "a", "modes": ["AR"], "draftThreshold": "0.9"}, "spec.pools[0].draftThreshold", "SelfSp"),
    ("spec.pools.0.draftThreshold", 0.9, "spec.pools[0].draftThreshold", "string"),
    ("spec.pools.0.draftThreshold", "1.5", "spec.pools[0].draftThreshold", "(0, 1]"),
    ("spec.pools.0.replicas", {"min": 3, "max": 2}, "spec.pools[0].replicas.min", "above max"),
    ("spec.pools.0.replicas", {"min": -1}, "spec.pools[0].replicas.min", "0"),
    ("spec.pools.0.resources", {"memory": "64GB"}, "spec.pools[0].resources.memory", "Gi"),
    ("spec.pools.0.resources", {"cpu": "two"}, "spec.pools[0].resources.cpu", "500m"),
    ("spec.pools.0.resources", {"gpus": 2}, "spec.pools", "one GPU; ask for 0 or 1"),
    ("spec.pools.0.resources", {"gpus": 0.5}, "spec.pools[0].resources.gpus", "integer"),
    ("spec.pools.0.resources", {"gpu": 1}, "spec.pools[0].resources.gpu", "unknown field"),
    ("spec.diffusion", {"threshold": 0.9}, "spec.diffusion.threshold", "string"),
    ("spec.diffusion", {"threshold": "1.5"}, "spec.diffusion.threshold", "(0, 1]"),
    ("spec.diffusion", {"threshold": "0.0"}, "spec.diffusion.threshold", "(0, 1]"),
    ("spec.diffusion", {"blockLength": 128}, "spec.diffusion.blockLength", "64"),
    ("spec.tiers", [], "spec.tiers", "at least 1"),
    ("spec.tiers", [{"name": "a"}, {"name": "a"}], "spec.tiers", "unique"),
    ("spec.tiers", [{"name": "a", "percentile": 100}], "spec.tiers[0].percentile", "99"),
    ("spec.tiers", [{"name": "a", "tpotMilliseconds": 0}], "spec.tiers[0].tpotMilliseconds", "1"),
    ("spec.switching.policy", "Magic", "spec.switching.policy", "'Manual'"),
    ("spec.switching.policy", "Manual", "spec.switching.mode", "required"),
    ("spec.switching", {"mode": "AR"}, "spec.switching.mode", "Manual only"),
    ("spec.switching", {"blockLength": 8}, "spec.switching.blockLength", "Manual"),
    ("spec.switching", {"policy": "Manual", "mode": "Diffusion"}, "spec.switching.mode", "lossy"),
    ("spec.switching.fallbackMode", "Diffusion", "spec.switching.fallbackMode", "lossy"),
    ("spec.switching.marginPercent", 90, "spec.switching.marginPercent", "50"),
    ("spec.switching.dryRun", "yes", "spec.switching.dryRun", "boolean"),
    ("spec.rebalancing", {"totalReplicas": 2}, "spec.rebalancing", "one mode each"),
    ("spec.rebalancing", {"totalReplicas": 1}, "spec.rebalancing.totalReplicas", "2"),
    ("spec.rebalancing", {"total": 2}, "spec.rebalancing.total", "unknown field"),
    ("spec.staleness", {"staleAfterSeconds": 20}, "spec.staleness.staleAfterSeconds", "deadAfterSeconds"),
    ("spec.admission.maxQueuedRequests", -1, "spec.admission.maxQueuedRequests", "0"),
    ("spec.drain.timeoutSeconds", "5m", "spec.drain.timeoutSeconds", "integer"),
    ("spec.router.replicas", 0, "spec.router.replicas", "1"),
    ("spec.router.auth", {}, "spec.router.auth.secretName", "required"),
    ("spec.router.auth", {"secretName": "API_Keys"}, "spec.router.auth.secretName", "a Secret's name"),
    ("spec.router.auth", {"secretName": "k", "key": "x"}, "spec.router.auth.key", "unknown field"),
    ("spec.router.tls", {"secretName": "a..b"}, "spec.router.tls.secretName", "a Secret's name"),
    ("spec.router.tls", {"secretName": "a" * 254}, "spec.router.tls.secretName", "253"),
    ("spec.suspend", 1, "spec.suspend", "boolean"),
]


@pytest.mark.parametrize(("path", "value", "blamed", "words"), WRONG)
def test_wrong_values_are_named(path: str, value: Any, blamed: str, words: str) -> None:
    found = problems(changed(path, value))
    assert blamed in found, found
    assert words in found[blamed], found


def test_sglang_drafts_in_one_way_only() -> None:
    data = changed("spec.engine", {"type": "SGLang", "image": "x/y"})
    data["spec"]["pools"] = [{"name": "q", "modes": ["QuadraticSpeculation"]}]
    data["spec"]["switching"] = {"fallbackMode": "QuadraticSpeculation"}
    assert "neither QuadraticSpeculation nor draftThreshold" in problems(data)["spec.pools"]
    data["spec"]["pools"] = [{"name": "s", "modes": ["SelfSpeculation"], "draftThreshold": "0.9"}]
    data["spec"]["switching"] = {"fallbackMode": "SelfSpeculation"}
    assert "neither QuadraticSpeculation nor draftThreshold" in problems(data)["spec.pools"]


def test_fallback_must_be_a_mode_of_some_pool() -> None:
    assert "some pool" in problems(changed("spec.pools.0.modes", ["SelfSpeculation"]))["spec.switching.fallbackMode"]


AR_POOL = {"name": "ar", "modes": ["AR"], "replicas": {"min": 1, "max": 3}}
FAST_POOL = {"name": "fast", "modes": ["SelfSpeculation"], "replicas": {"min": 1, "max": 2}}
ROUGH_POOL = {"name": "rough", "modes": ["Diffusion"], "replicas": {"min": 0, "max": 9}}


@pytest.mark.parametrize(
    ("pools", "total", "blamed", "words"),
    [
        ([AR_POOL, FAST_POOL], 5, None, ""),
        ([AR_POOL, FAST_POOL, ROUGH_POOL], 2, None, ""),
        ([AR_POOL, FAST_POOL], 6, "spec.rebalancing.totalReplicas", "between the sums"),
        ([AR_POOL | {"replicas": {"min": 2, "max": 3}}, FAST_POOL], 2, "spec.rebalancing.totalReplicas", "between"),
        ([AR_POOL, ROUGH_POOL], 2, "spec.rebalancing", "some with SelfSpeculation"),
        ([AR_POOL, FAST_POOL, {"name": "x", "modes": ["AR", "SelfSpeculation"]}], 3, "spec.rebalancing", "one mode"),
        ([AR_POOL | {"replicas": {"min": 0, "max": 3}}, FAST_POOL], 2, "spec.pools", "at least 1"),
        ([AR_POOL | {"resources": {"gpus": 1}}, FAST_POOL], 2, "spec.pools", "gpus must be the same"),
    ],
)
def test_what_rebalancing_needs(pools: list[dict[str, Any]], total: int, blamed: str | None, words: str) -> None:
    data = changed("spec.pools", pools)
    data["spec"] |= {"rebalancing": {"totalReplicas": total}, "diffusion": {}}
    if blamed is None:
        assert NemotronDeployment.parse(data).spec.rebalancing is not None
    else:
        assert words in problems(data)[blamed]


def test_all_problems_are_reported_together() -> None:
    data = changed("spec.pools.0.replicas", {"min": 2, "max": "1"})
    data["metadata"]["name"] = "X"
    data["spec"] |= {"sped": 1, "tiers": [], "switching": {"policy": "Manual"}}
    assert problems(data).keys() == {
        "metadata.name",
        "spec.sped",
        "spec.pools[0].replicas.max",
        "spec.tiers",
        "spec.switching.mode",
    }


@pytest.mark.parametrize(
    "data", [None, 3, "text", [], {}, {"spec": None}, {"spec": {"pools": {"a": 1}}}, {"spec": {"pools": [3]}}]
)
def test_malformed_input_is_an_answer_not_a_crash(data: Any) -> None:
    assert problems(data)


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda f: f.stem)
def test_examples_are_valid(file: Path) -> None:
    deployment = NemotronDeployment.parse(yaml.safe_load(file.read_text()))
    assert policy_of(deployment, 1).pools


def test_policy_of_an_adaptive_pool() -> None:
    policy = policy_of(NemotronDeployment.parse(SMALL), 4)
    assert policy.version == 4
    assert policy.pools[0].points == ("AR", "S8", "S16", "S32")
    assert policy.switching.fixed == {}
    assert policy.switching.fallback == {"flex": "AR"}


def test_quadratic_and_stepped_drafting_run_where_they_are_named() -> None:
    data = changed("spec.pools.0.modes", ["AR", "QuadraticSpeculation", "SelfSpeculation"])
    data["spec"]["pools"][0] |= {"blockLengths": [16, 8], "draftThreshold": "0.9"}
    assert policy_of(NemotronDeployment.parse(data), 1).pools[0].points == ("AR", "S8@0.9", "S16@0.9", "Q8", "Q16")
    data["spec"]["switching"] = {"policy": "Manual", "mode": "QuadraticSpeculation", "blockLength": 8}
    assert policy_of(NemotronDeployment.parse(data), 1).switching.fixed == {"flex": "Q8"}


@pytest.mark.parametrize(
    ("switching", "point"),
    [
        ({"policy": "Manual", "mode": "AR"}, "AR"),
        ({"policy": "Manual", "mode": "SelfSpeculation"}, "S32"),
        ({"policy": "Manual", "mode": "SelfSpeculation", "blockLength": 8}, "S8"),
    ],
)
def test_manual_switching_fixes_the_point(switching: dict[str, Any], point: str) -> None:
    policy = policy_of(NemotronDeployment.parse(changed("spec.switching", switching)), 1)
    assert policy.switching.fixed == {"flex": point}


def test_a_pool_without_the_manual_mode_keeps_what_it_has() -> None:
    data = changed("spec.switching", {"policy": "Manual", "mode": "AR"})
    data["spec"]["pools"].append({"name": "fast", "modes": ["SelfSpeculation"], "blockLengths": [16]})
    assert policy_of(NemotronDeployment.parse(data), 1).switching.fixed == {"flex": "AR", "fast": "S16"}


def test_secrets_are_named_as_kubernetes_names_them() -> None:
    router = {"auth": {"secretName": "api-keys.v2"}, "tls": {"secretName": "nemo-tls"}}
    parsed = NemotronDeployment.parse(changed("spec.router", router)).spec.router
    assert parsed.model_dump(by_alias=True, exclude_none=True) == {"replicas": 1, **router}
