"""The resource: defaults are pinned, and every wrong field is named with what is allowed."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic.alias_generators import to_camel

from trimode_api.errors import InvalidInput
from trimode_api.policy_of import policy_of
from trimode_api.resource import NemotronDeployment
from trimode_api.values import cores, size_bytes
from trimode_api.wire import RouterConfig

ROOT = Path(__file__).parents[2]
CASES = runpy.run_path(str(Path(__file__).with_name("resource_cases.py")))
SMALL, WRONG = CASES["MINIMAL"], CASES["WRONG"]
changed, patched = CASES["changed"], CASES["patched"]


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
                "resources": {"gpus": 0, "cpu": "1", "memory": "2Gi"},
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
        "admission": {"maxQueuedRequests": 1024, "maxWaitMilliseconds": 2000, "lateRequests": "Serve"},
        "staleness": {"staleAfterSeconds": 3, "deadAfterSeconds": 10},
        "drain": {"timeoutSeconds": 300},
        "upgrade": {"strategy": "NewCluster"},
        "router": {"replicas": 1, "idleSeconds": 120, "headerBytes": 16384, "bodyBytes": 8388608},
        "costPerGPUHour": "0",
        "suspend": False,
    }


@pytest.mark.parametrize(("path", "value", "blamed", "words"), WRONG)
def test_wrong_values_are_named(path: str, value: Any, blamed: str, words: str) -> None:
    found = problems(changed(path, value))
    assert blamed in found, found
    assert words in found[blamed], found


@pytest.mark.parametrize(("changes", "blamed", "words"), CASES["CONTRADICTIONS"] + CASES["AROUND"])
def test_what_is_wrong_together_is_named(changes: dict[str, Any], blamed: str, words: str) -> None:
    found = problems(patched(changes))
    assert found.keys() == {blamed}
    assert words in found[blamed]


@pytest.mark.parametrize("changes", CASES["GOOD"])
def test_good_resources_pass(changes: dict[str, Any]) -> None:
    assert NemotronDeployment.parse(patched(changes))


def test_the_table_is_long_and_says_nothing_twice() -> None:
    resources = [repr(changed(path, value)) for path, value, *_ in WRONG]
    resources += [repr(patched(changes)) for changes in CASES["GOOD"]]
    resources += [repr(patched(changes)) for changes, *_ in CASES["CONTRADICTIONS"] + CASES["AROUND"]]
    assert len(resources) >= 250
    assert [each for each in resources if resources.count(each) > 1] == []


def test_every_pool_that_breaks_a_rule_is_named() -> None:
    data = changed("spec.pools", [{"name": n, "modes": ["AR"], "resources": {"gpus": 2}} for n in "ab"])
    assert problems(data).keys() == {"spec.pools[0].resources.gpus", "spec.pools[1].resources.gpus"}


def test_null_is_the_same_as_left_out() -> None:
    data = patched({"spec.engine": None, "spec.tiers": None, "spec.model.revision": None, "spec.router.auth": None})
    assert NemotronDeployment.parse(data).spec == NemotronDeployment.parse(SMALL).spec


@pytest.mark.parametrize(
    ("quantity", "amount"), [("8", 8), ("500m", 0.5), (".5", 0.5), ("1.", 1), ("2e3", 2000), ("1k", 1000), ("+1", 1)]
)
def test_cores_of_a_quantity(quantity: str, amount: float) -> None:
    assert cores(quantity) == amount


@pytest.mark.parametrize(
    ("quantity", "amount"),
    [
        ("64Gi", 64 * 2**30),
        ("64G", 64 * 10**9),
        ("1.5Ki", 1536),
        ("1E", 10**18),
        ("1E3", 1000),
        ("1Ei", 2**60),
        ("1500m", 2),
        ("100", 100),
    ],
)
def test_bytes_of_a_quantity(quantity: str, amount: int) -> None:
    assert size_bytes(quantity) == amount


@pytest.mark.parametrize("text", ["", ".", "1GB", "-1", "1e100", "0x10", "٣", "1\n"])
def test_what_is_no_quantity_has_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        size_bytes(text)


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
    assert parsed.model_dump(by_alias=True, include={"auth", "tls"}) == router


def test_the_edge_of_a_router_is_set_as_in_its_own_configuration() -> None:
    """Left out, both say the same; given, the resource's values arrive under the configuration's names."""
    values = NemotronDeployment.parse(SMALL).spec.router.edge()
    assert values == {name: RouterConfig.model_fields[name].default for name in values}
    router = {"corsOrigins": ["https://chat.example"], "idleSeconds": 620, "headerBytes": 65536, "bodyBytes": 2**26}
    edge = NemotronDeployment.parse(changed("spec.router", router)).spec.router.edge()
    assert {to_camel(name): value for name, value in edge.items()} == router | {
        "corsOrigins": ("https://chat.example",)
    }
