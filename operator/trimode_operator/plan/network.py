"""Who may talk to whom.

NetworkPolicies matter because Ray's own ports (and Serve's) do not ask for our token: a client that reaches them runs
code.
"""

from __future__ import annotations

from typing import Any

from trimode_operator.plan.model import Manifest, Owner
from trimode_operator.plan.names import INTERNAL_PORT, PUBLIC_PORT, Names, matching
from trimode_operator.plan.objects import child
from trimode_operator.plan.settings import PeerSelector, Settings


def network_policies(owner: Owner, names: Names, settings: Settings) -> tuple[Manifest, ...]:
    """Only routers reach replicas; only replicas, Ray's head, routers and the operator reach routers' internal port.

    Ray's pods reach one another, and KubeRay's operator reaches them. Clients reach the routers' public port.
    """
    head, worker, router = (
        {"podSelector": {"matchLabels": matching(owner.name, component)}} for component in ("head", "worker", "router")
    )
    # KubeRay's operator hands Serve's configuration to the dashboard; cut off from it, it leaves its status as it was
    # and posts an Event only.
    kuberay, operator = _elsewhere(settings.kuberay), _elsewhere(settings.operator)
    return (
        _policy(owner, names.head, "head", [{"from": [head, worker, kuberay]}]),
        _policy(owner, names.workers, "worker", [{"from": [head, worker, router, kuberay]}]),
        _policy(
            owner,
            names.router,
            "router",
            [
                {"ports": [{"protocol": "TCP", "port": PUBLIC_PORT}]},
                {"ports": [{"protocol": "TCP", "port": INTERNAL_PORT}], "from": [worker, head, router, operator]},
            ],
        ),
    )


def _policy(owner: Owner, name: str, component: str, ingress: list[dict[str, Any]]) -> Manifest:
    return {
        **child("networking.k8s.io/v1", "NetworkPolicy", name, owner, component),
        "spec": {
            "podSelector": {"matchLabels": matching(owner.name, component)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }


def _elsewhere(peer: PeerSelector) -> dict[str, Any]:
    return {
        "namespaceSelector": {"matchLabels": dict(peer.namespace_labels)} if peer.namespace_labels else {},
        "podSelector": {"matchLabels": dict(peer.pod_labels)} if peer.pod_labels else {},
    }
