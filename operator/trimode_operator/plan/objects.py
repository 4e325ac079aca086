"""The frame of every child: name, labels, owner; and the children that are little more than it.

NetworkPolicies matter because Ray's own ports (and Serve's) do not ask for our token: a client that reaches them runs
code.
"""

from __future__ import annotations

import base64
from typing import Any

from trimode_api.resource import GROUP, KIND, VERSION
from trimode_operator.plan.model import Manifest, Owner
from trimode_operator.plan.names import INTERNAL_PORT, PUBLIC_PORT, TOKEN_KEY, Names, labels, matching
from trimode_operator.plan.settings import PeerSelector, Settings


def child(api_version: str, kind: str, name: str, owner: Owner, component: str | None = None) -> dict[str, Any]:
    """An object with metadata only. It goes when the resource goes."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": labels(owner.name, component),
            "ownerReferences": [
                {
                    "apiVersion": f"{GROUP}/{VERSION}",
                    "kind": KIND,
                    "name": owner.name,
                    "uid": owner.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
    }


def service_account(owner: Owner, names: Names) -> Manifest:
    """Routers and workers ask the API server nothing, so they get no credentials for it."""
    return {
        **child("v1", "ServiceAccount", names.service_account, owner),
        "automountServiceAccountToken": False,
    }


def secret(owner: Owner, names: Names, token: str) -> Manifest:
    """The fleet's shared token."""
    return {
        **child("v1", "Secret", names.secret, owner),
        "type": "Opaque",
        "data": {TOKEN_KEY: base64.b64encode(token.encode()).decode()},
    }


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
