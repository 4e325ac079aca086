"""Who reaches whom, as a network plugin would read the policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from trimode_api.resource import NemotronDeployment
from trimode_operator.plan import Plan
from trimode_operator.plan.names import head_labels, labels
from trimode_operator.plan.settings import PeerSelector, Settings

Resource = Callable[..., NemotronDeployment]
MakePlan = Callable[..., Plan]

SYSTEM = {"kubernetes.io/metadata.name": "system"}
HOME = {"kubernetes.io/metadata.name": "llm"}
PODS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "router": (HOME, labels("nemo", "router")),
    "worker": (HOME, labels("nemo", "worker")),
    "head": (HOME, head_labels("nemo") | {"app.kubernetes.io/name": "kuberay"}),
    "head of another": (HOME, head_labels("other") | {"app.kubernetes.io/name": "kuberay"}),
    "stranger": (HOME, {"app": "other"}),
    "worker of another": (HOME, labels("other", "worker")),
    "router of another": (HOME, labels("other", "router")),
    "operator": (SYSTEM, {"app.kubernetes.io/name": "trimode-operator"}),
    "kuberay": (SYSTEM, {"app.kubernetes.io/name": "kuberay-operator"}),
    "posing as operator": (HOME, {"app.kubernetes.io/name": "trimode-operator"}),
}
SETTINGS = Settings(
    operator=PeerSelector(namespace_labels=SYSTEM, pod_labels={"app.kubernetes.io/name": "trimode-operator"}),
    kuberay=PeerSelector(namespace_labels=SYSTEM, pod_labels={"app.kubernetes.io/name": "kuberay-operator"}),
)


def reaches(plan: Plan, source: str, target: str, port: int) -> bool:
    """Kubernetes' rules: a pod that some policy selects is reached only by what some of those policies allow."""
    namespace, pod = PODS[source]
    chosen = [
        c["spec"]
        for c in plan.children
        if c["kind"] == "NetworkPolicy" and _selects(c["spec"]["podSelector"], PODS[target][1])
    ]
    return not chosen or any(_allows(rule, namespace, pod, port) for spec in chosen for rule in spec["ingress"])


def _allows(rule: Mapping[str, Any], namespace: dict[str, str], pod: dict[str, str], port: int) -> bool:
    ports, peers = rule.get("ports"), rule.get("from")
    if ports is not None and port not in [each["port"] for each in ports]:
        return False
    return peers is None or any(_peer(peer, namespace, pod) for peer in peers)


def _peer(peer: Mapping[str, Any], namespace: dict[str, str], pod: dict[str, str]) -> bool:
    where = _selects(peer["namespaceSelector"], namespace) if "namespaceSelector" in peer else namespace == HOME
    return where and _selects(peer.get("podSelector", {}), pod)


def _selects(selector: Mapping[str, Any], found: dict[str, str]) -> bool:
    return bool(selector.get("matchLabels", {}).items() <= found.items())


@pytest.mark.parametrize(
    ("target", "port", "allowed"),
    [
        ("worker", 34567, {"router", "worker", "head", "kuberay"}),
        ("worker", 9000, {"router", "worker", "head", "kuberay"}),
        ("head", 8265, {"worker", "head", "kuberay"}),
        ("head", 6379, {"worker", "head", "kuberay"}),
        ("router", 8001, {"worker", "head", "operator", "router"}),
        ("router", 8000, set(PODS)),
    ],
)
def test_who_reaches_whom(target: str, port: int, allowed: set[str], resource: Resource, plan: MakePlan) -> None:
    made = plan(resource(), settings=SETTINGS)
    assert {source for source in PODS if reaches(made, source, target, port)} == allowed


def test_without_policies_everybody_reaches_everybody(resource: Resource, plan: MakePlan) -> None:
    made = plan(resource(), settings=Settings(network_policies=False))
    assert reaches(made, "stranger", "worker", 9000)
