"""The harness's own decisions: what a change means to KubeRay, what its status says, what a pod's process gets."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest

from trimode_e2e.crds import without
from trimode_e2e.kubelet.materials import NotYet, prepare, renew
from trimode_e2e.kuberay.shape import groups, in_place
from trimode_e2e.kuberay.status import ClusterState, status_of

GROUP: dict[str, Any] = {
    "groupName": "flex",
    "minReplicas": 1,
    "maxReplicas": 2,
    "rayStartParams": {"num-cpus": "2", "resources": '\'"{\\"trimode-flex\\": 1}"\''},
    "template": {"spec": {"containers": [{"name": "ray-worker", "image": "a", "env": []}]}},
}
CLUSTER: dict[str, Any] = {"rayVersion": "1", "headGroupSpec": {"template": {}}, "workerGroupSpecs": [GROUP]}


def changed(**values: Any) -> dict[str, Any]:
    copied = copy.deepcopy(CLUSTER)
    copied["workerGroupSpecs"][0] |= values
    return copied


@pytest.mark.parametrize(
    ("wanted", "same"),
    [
        (CLUSTER, True),
        (changed(minReplicas=2, maxReplicas=9, replicas=3), True),
        ({**CLUSTER, "workerGroupSpecs": [GROUP, {**GROUP, "groupName": "more"}]}, True),
        ({**CLUSTER, "workerGroupSpecs": [{**GROUP, "groupName": "more"}, GROUP]}, False),
        ({**CLUSTER, "workerGroupSpecs": []}, False),
        ({**CLUSTER, "rayVersion": "2"}, False),
        (changed(template={"spec": {"containers": [{"name": "ray-worker", "image": "b"}]}}), False),
    ],
    ids=["nothing", "counts", "a group at the end", "a group before", "a group gone", "version", "image"],
)
def test_what_makes_a_new_cluster(wanted: dict[str, Any], same: bool) -> None:
    assert in_place(CLUSTER, wanted) is same


def test_resources_are_read_as_after_the_shell() -> None:
    (group,) = groups(CLUSTER)
    assert group.resources == {"trimode-flex": 1.0}
    assert (group.cpus, group.least, group.most) == (2.0, 1, 2)


def test_ready_needs_every_application_and_an_endpoint() -> None:
    running = {"flex": {"status": "RUNNING", "message": "", "serveDeploymentStatuses": {}}}
    assert ClusterState("c", running, endpoints=1, wanted=("flex",)).ready
    assert not ClusterState("c", running, endpoints=0, wanted=("flex",)).ready
    assert not ClusterState("c", running, endpoints=1, wanted=("flex", "other")).ready


def test_status_in_kuberays_words() -> None:
    state = ClusterState("c", {"flex": {"status": "RUNNING"}}, endpoints=1, workers=1, wanted=("flex",))
    told = status_of(3, state, None, suspended=False, suspending=False)
    ready = next(each for each in told["conditions"] if each["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "NonZeroServeEndpoints")
    assert told["observedGeneration"] == 3
    assert told["activeServiceStatus"]["rayClusterName"] == "c"
    assert told["pendingServiceStatus"] == {}


POD: dict[str, Any] = {
    "metadata": {"name": "p", "namespace": "n"},
    "spec": {
        "volumes": [{"name": "config", "configMap": {"name": "c"}}, {"name": "tmp", "emptyDir": {}}],
        "containers": [
            {
                "command": ["python", "-m", "x", "--config", "/etc/x/file.json"],
                "env": [
                    {"name": "HOME", "value": "/tmp"},
                    {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                ],
                "volumeMounts": [{"name": "config", "mountPath": "/etc/x"}, {"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
    },
}


def test_a_pods_process_gets_what_the_template_says(tmp_path: Path) -> None:
    objects: dict[str, dict[str, Any]] = {
        "ConfigMap": {"data": {"file.json": '{"host": "0.0.0.0"}'}},
        "Secret": {"data": {"token": base64.b64encode(b"t0ken").decode()}},
    }
    launch = prepare(POD, tmp_path, "198.18.0.9", lambda kind, _: objects[kind])
    config = Path(launch.command[-1])
    assert config.read_text() == '{"host": "198.18.0.9"}'
    assert tmp_path in config.parents
    assert launch.environment["TOKEN"] == "t0ken"
    assert launch.environment["IP"] == "198.18.0.9"
    assert Path(launch.environment["HOME"]).is_dir()


def test_files_of_secrets_are_mounted_found_and_renewed(tmp_path: Path) -> None:
    pod = copy.deepcopy(POD)
    pod["spec"]["volumes"].append({"name": "keys", "secret": {"secretName": "k"}})
    pod["spec"]["containers"][0]["volumeMounts"].append({"name": "keys", "mountPath": "/etc/keys"})
    objects: dict[str, dict[str, Any] | None] = {
        "ConfigMap": {"data": {"file.json": '{"keysFile": "/etc/keys/keys.json"}'}},
        "Secret": {"data": {"token": "", "keys.json": base64.b64encode(b"one").decode()}},
    }
    launch = prepare(pod, tmp_path, "198.18.0.9", lambda kind, _: objects[kind])
    mounted = Path(json.loads(Path(launch.command[-1]).read_text())["keysFile"])
    assert mounted.read_bytes() == b"one"
    objects["Secret"] = {"data": {"keys.json": base64.b64encode(b"two").decode()}}
    renew(pod, tmp_path, lambda kind, _: objects[kind])
    assert mounted.read_bytes() == b"two"
    assert [file.name for file in mounted.parent.iterdir()] == ["keys.json"]
    objects["Secret"] = None
    renew(pod, tmp_path, lambda kind, _: objects[kind])
    assert mounted.read_bytes() == b"two", "a kubelet keeps what a running pod has"


def test_a_pod_waits_for_what_it_refers_to(tmp_path: Path) -> None:
    with pytest.raises(NotYet, match="ConfigMap 'c'"):
        prepare(POD, tmp_path, "198.18.0.9", lambda *_: None)


def test_a_pod_that_cannot_be_played_says_why(tmp_path: Path) -> None:
    pod = copy.deepcopy(POD)
    pod["spec"]["volumes"].append({"name": "disk", "persistentVolumeClaim": {"claimName": "d"}})
    with pytest.raises(ValueError, match="'disk'"):
        prepare(pod, tmp_path, "198.18.0.9", lambda *_: {"data": {}})


def test_stripping_leaves_the_rest() -> None:
    plain = {"a": [{"rule": 1, "kept": {"rule": 2, "x": 3}}], "rule": {}}
    assert without(plain, lambda key, _: key == "rule") == {"a": [{"kept": {"x": 3}}]}
