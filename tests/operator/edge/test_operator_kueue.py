"""Kueue beside KubeRay and the operator, as it was recorded (`trimode_e2e.recording.queues`)."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from trimode_e2e.crds import ROOT
from trimode_e2e.pages import blocks
from trimode_e2e.recording.queues import ELASTIC, FLAVOR, RECORDED

RECORDING: dict[str, Any] = json.loads(RECORDED.read_text())
STEPS = {step["name"]: step for step in RECORDING["steps"]}
FREE, HELD = {"suspend": False, "nodes": FLAVOR}, {"suspend": True, "nodes": None}


@pytest.mark.parametrize(
    ("step", "ready", "clusters", "admitted"),
    [
        ("no quota", "WaitingForQuota", [HELD], [False]),
        ("quota", "RayServiceNotReady", [FREE], [True]),
        ("changed", "RayServiceNotReady", [FREE, FREE], [True, True]),
        ("stopped", "WaitingForQuota", [HELD, HELD], [False, False]),
        ("goes on", "RayServiceNotReady", [FREE, FREE], [True, True]),
        ("put into the queue while it runs", "RayServiceNotReady", [{"suspend": None, "nodes": None}], []),
    ],
)
def test_where_kueue_manages_ray_clusters_it_holds_and_admits_them(
    step: str, ready: str, clusters: list[Any], admitted: list[bool]
) -> None:
    """No node was there, so nothing became ready. A label that comes late makes nothing new and takes nothing away."""
    found = STEPS[f"cluster: {step}"]
    assert (found["ready"].partition(":")[0], found["clusters"], found["admitted"]) == (ready, clusters, admitted)
    assert found["services"] == [{"suspend": None, "nodes": None}], "the operator's alone"


def test_where_kueue_manages_ray_services_fleets_that_were_held_stay_so() -> None:
    """Why docs/platform.md says which of the two to configure."""
    held, let_go = STEPS["service: no quota"], STEPS["service: quota"]
    assert [each["suspend"] for each in (*held["services"], *held["clusters"])] == [True, True]
    assert (let_go["services"][0]["suspend"], let_go["admitted"]) == (False, [True])
    assert [each["suspend"] for each in let_go["clusters"]] == [True]
    late = STEPS["service: put into the queue while it runs"]["ready"]
    assert late.startswith("Forbidden: ")
    assert "queue-name" in late


def test_the_page_says_what_kueue_has_to_have() -> None:
    told = STEPS["without the gate"]["ready"]
    assert told.startswith("Forbidden: ")
    assert "workload slicing" in told
    page = (ROOT / "docs" / "platform.md").read_text()
    said = yaml.safe_load(page.split("```yaml\n")[1].partition("```")[0])
    assert said == {"integrations": {"frameworks": ["ray.io/raycluster"]}, "featureGates": {ELASTIC: True}}
    assert RECORDING["about"]["kueue"].removeprefix("v") in page
    assert any("queue-name=gpus" in block.text for block in blocks(ROOT / "docs" / "platform.md"))
