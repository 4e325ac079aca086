"""What others have added to our objects, read from managedFields as a real API server (1.20.2) writes them."""

from __future__ import annotations

from typing import Any

import pytest

from trimode_operator.apply.diff import additions

SERVICE: dict[str, Any] = {
    "kind": "Service",
    "metadata": {"name": "s", "labels": {"a": "b"}},
    "spec": {
        "selector": {"app": "router"},
        "ports": [{"name": "http", "port": 8000, "targetPort": "http", "protocol": "TCP"}],
    },
}
DEPLOYMENT: dict[str, Any] = {
    "kind": "Deployment",
    "metadata": {"name": "d"},
    "spec": {
        "replicas": 2,
        "template": {"spec": {"containers": [{"name": "router", "env": [{"name": "HOME", "value": "/tmp"}]}]}},
    },
}


def live(
    body: dict[str, Any], spec: dict[str, Any], fields: dict[str, Any], manager: str = "kubectl"
) -> dict[str, Any]:
    entry = {"manager": manager, "operation": "Update", "fieldsV1": fields}
    return {**body, "metadata": {**body["metadata"], "managedFields": [entry]}, "spec": {**body["spec"], **spec}}


ENV = {"f:template": {"f:spec": {"f:containers": {'k:{"name":"router"}': {".": {}, "f:env": {'k:{"name":"X"}': {}}}}}}}
WITH_ENV = {
    "template": {
        "spec": {
            "containers": [
                {
                    "name": "router",
                    "image": "i",
                    "env": [{"name": "HOME", "value": "/tmp"}, {"name": "X", "value": "y"}],
                }
            ]
        }
    }
}
PORTS = [
    {"name": "http", "port": 8000, "targetPort": "http", "protocol": "TCP"},
    {"name": "http", "port": 9000, "protocol": "TCP"},
]


@pytest.mark.parametrize(
    ("desired", "found", "patch"),
    [
        pytest.param(SERVICE, live(SERVICE, {}, {}), {}, id="nothing"),
        pytest.param(
            SERVICE,
            live(SERVICE, {"selector": {"app": "router", "x": "y"}}, {"f:spec": {"f:selector": {"f:x": {}}}}),
            {"spec": {"selector": {"x": None}}},
            id="a label in a selector",
        ),
        pytest.param(
            SERVICE,
            live(SERVICE, {"sessionAffinity": "ClientIP"}, {"f:spec": {"f:sessionAffinity": {}}}),
            {"spec": {"sessionAffinity": None}},
            id="a field that we do not set",
        ),
        pytest.param(
            SERVICE,
            live(SERVICE, {"ports": PORTS}, {"f:spec": {"f:ports": {'k:{"port":9000,"protocol":"TCP"}': {".": {}}}}}),
            {"spec": {"ports": SERVICE["spec"]["ports"]}},
            id="an item of a list",
        ),
        pytest.param(
            DEPLOYMENT,
            live(DEPLOYMENT, WITH_ENV, {"f:spec": ENV}),
            {"spec": {"template": {"spec": {"containers": DEPLOYMENT["spec"]["template"]["spec"]["containers"]}}}},
            id="deep in an item",
        ),
        pytest.param(
            DEPLOYMENT,
            live(DEPLOYMENT, {"replicas": 5}, {"f:spec": {"f:replicas": {}}}),
            {},
            id="a value of ours is no addition: applying takes it back",
        ),
        pytest.param(DEPLOYMENT, live(DEPLOYMENT, {}, {"f:spec": ENV}), {}, id="an addition that is gone already"),
        pytest.param(
            SERVICE,
            live(SERVICE, {}, {"f:metadata": {"f:labels": {"f:theirs": {}}}, "f:status": {"f:loadBalancer": {}}}),
            {},
            id="labels and status are for everybody",
        ),
        pytest.param(
            SERVICE,
            live(SERVICE, {"selector": {"x": "y"}}, {"f:spec": {"f:selector": {"f:x": {}}}}, "trimode-operator"),
            {},
            id="our own",
        ),
    ],
)
def test_additions(desired: dict[str, Any], found: dict[str, Any], patch: dict[str, Any]) -> None:
    assert additions(desired, found) == patch


def test_several_managers_add_up() -> None:
    found = live(SERVICE, {"selector": {"app": "router", "x": "y", "z": "w"}}, {"f:spec": {"f:selector": {"f:x": {}}}})
    found["metadata"]["managedFields"].append(
        {"manager": "other", "operation": "Apply", "fieldsV1": {"f:spec": {"f:selector": {"f:z": {}}}}}
    )
    assert additions(SERVICE, found) == {"spec": {"selector": {"x": None, "z": None}}}


def test_scaling_by_another_controller_is_told_from_a_hand() -> None:
    found = live(DEPLOYMENT, {"paused": True}, {"f:spec": {"f:paused": {}}})
    found["metadata"]["managedFields"][0]["subresource"] = "scale"
    assert additions(DEPLOYMENT, found) == {}


def test_suspend_is_kueues_where_there_is_a_queue() -> None:
    """Else nobody has a reason to write it, and a fleet would be held for ever."""
    service = {"kind": "RayService", "metadata": {"name": "r", "labels": {}}, "spec": {"rayClusterConfig": {}}}
    fields = {"f:spec": {"f:suspend": {}, "f:x": {}}}
    assert additions(service, live(service, {"suspend": True, "x": 1}, fields)) == {
        "spec": {"suspend": None, "x": None}
    }
    service["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpus"}
    assert additions(service, live(service, {"suspend": True, "x": 1}, fields)) == {"spec": {"x": None}}
    assert additions(service, live(service, {"suspend": True}, {"f:spec": {"f:suspend": {}}})) == {}


def test_what_kueue_writes_is_kueues_where_there_is_a_queue() -> None:
    """It holds the clusters of a RayService, and says where their pods may run once it lets them go."""
    service = {"kind": "RayService", "metadata": {"name": "r", "labels": {}}, "spec": {"rayClusterConfig": {"a": 1}}}
    written = {"rayClusterConfig": {"a": 1, "suspend": True}}
    found = live(service, written, {"f:spec": {"f:rayClusterConfig": {"f:suspend": {}}}})
    found["metadata"]["managedFields"][0]["manager"] = "kueue"
    assert additions(service, found) == {"spec": {"rayClusterConfig": {"suspend": None}}}
    service["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpus"}
    assert additions(service, found) == {}
    found["metadata"]["managedFields"][0]["manager"] = "kubectl-edit"
    assert additions(service, found) == {"spec": {"rayClusterConfig": {"suspend": None}}}


def test_objects_without_managed_fields_have_none() -> None:
    assert additions(SERVICE, SERVICE) == {}
