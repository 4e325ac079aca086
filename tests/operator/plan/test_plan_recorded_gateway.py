"""What a gateway's controller writes into the operator's route, as it is recorded, is nobody's business but its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from trimode_api.resource import NemotronDeployment
from trimode_e2e import gateway as recording
from trimode_operator.apply.diff import additions, differences, with_digest
from trimode_operator.plan import Capabilities, Observed, Owner, make_plan
from trimode_operator.plan.settings import Gateway, Settings

EXAMPLE = Path(__file__).parents[3] / "examples" / "gateways" / "fleets.yaml"
STEPS = recording.recorded()
PLACE = "models"


@pytest.fixture
def live() -> dict[str, Any]:
    (route,) = STEPS["the operator's own"]["routes"]
    found: dict[str, Any] = route
    return found


@pytest.fixture
def wanted(live: dict[str, Any]) -> dict[str, Any]:
    """The route that the operator makes of the example's first resource today."""
    example = next(yaml.safe_load_all(EXAMPLE.read_text()))
    resource = {**example, "metadata": {**example["metadata"], "namespace": PLACE}}
    owner = Owner("chat", PLACE, live["metadata"]["ownerReferences"][0]["uid"], 1)
    settings = Settings(image="trimode:1", gateway=Gateway(name=PLACE))
    plan = make_plan(
        NemotronDeployment.parse(resource), owner, settings, Capabilities(http_route=True), Observed(token="secret")
    )
    (route,) = [child for child in plan.children if child["kind"] == "HTTPRoute"]
    return with_digest(route)


def test_the_controller_accepted_the_route_and_wrote_into_it(live: dict[str, Any]) -> None:
    (parent,) = live["status"]["parents"]
    assert {each["type"]: each["status"] for each in parent["conditions"]} == {
        "Accepted": "True",
        "ResolvedRefs": "True",
    }
    assert {each["manager"] for each in live["metadata"]["managedFields"]} > {"trimode-operator"}


def test_there_is_nothing_to_apply_and_nothing_to_take_away(wanted: dict[str, Any], live: dict[str, Any]) -> None:
    assert differences(wanted, live) == {}
    assert additions(wanted, live) == {}


def test_a_weight_of_somebody_else_would_be_seen(wanted: dict[str, Any], live: dict[str, Any]) -> None:
    live["spec"]["rules"][0]["backendRefs"][0]["weight"] = 7
    assert differences(wanted, live) == {"spec.rules[0].backendRefs[chat-router].weight": 7}
