"""Children that are made only where the cluster knows their kind: bounds of evictions, scraping, ways in."""

from __future__ import annotations

from typing import Any

from trimode_api.resource import NemotronDeployment
from trimode_api.spec import Router
from trimode_operator.plan.model import Manifest, Owner
from trimode_operator.plan.names import PUBLIC_PORT, Names, matching
from trimode_operator.plan.objects import child
from trimode_operator.plan.ray import POOL_LABEL
from trimode_operator.plan.settings import EndpointPicker, Gateway

ROUTE_TIMEOUTS = "rules.timeouts"
"""Of an HTTPRoute's spec, in Gateway API 1.2 and later."""


def budgets(deployment: NemotronDeployment, owner: Owner, names: Names) -> tuple[Manifest, ...]:
    """One for the routers, one for Ray's head (whose loss ends the cluster), one per pool that never goes to zero."""
    pools = [pool for pool in deployment.spec.pools if pool.replicas.min > 0]
    return (
        _budget(owner, names.router, "router", {"maxUnavailable": 1}),
        # A RayCluster has no scale subresource, so the others count what must stay, not what may go.
        _budget(owner, names.head, "head", {"minAvailable": 1}),
        # One at a time. A pool's only replica is not taken away: raise its minimum first.
        *(
            _budget(
                owner,
                names.pool_budget(pool.name),
                "worker",
                {"minAvailable": max(1, pool.replicas.min - 1)},
                {POOL_LABEL: pool.name},
            )
            for pool in pools
        ),
    )


def _budget(
    owner: Owner, name: str, component: str, bound: dict[str, int], more: dict[str, str] | None = None
) -> Manifest:
    spec: dict[str, Any] = {**bound, "selector": {"matchLabels": matching(owner.name, component) | (more or {})}}
    return {**child("policy/v1", "PodDisruptionBudget", name, owner, component), "spec": spec}


def service_monitor(router: Router, owner: Owner, names: Names) -> Manifest:
    """Prometheus scrapes every router, at the pod's address, which no certificate names."""
    endpoint: dict[str, Any] = {"port": "http", "path": "/metrics", "interval": "15s"}
    if router.tls is not None:
        endpoint |= {"scheme": "https", "tlsConfig": {"insecureSkipVerify": True}}
    return {
        **child("monitoring.coreos.com/v1", "ServiceMonitor", names.router, owner, "router"),
        "spec": {
            "selector": {"matchLabels": matching(owner.name, "router")},
            "namespaceSelector": {"matchNames": [owner.namespace]},
            "endpoints": [endpoint],
        },
    }


def http_route(owner: Owner, names: Names, gateway: Gateway, *, timeouts: bool) -> Manifest:
    """The API and nothing else of the routers, through the platform's Gateway. `timeouts`: HTTPRoute knows them."""
    parent: dict[str, Any] = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": gateway.name}
    if gateway.namespace is not None:
        parent["namespace"] = gateway.namespace
    if gateway.section_name is not None:
        parent["sectionName"] = gateway.section_name
    backend = {"group": "", "kind": "Service", "name": names.router, "port": PUBLIC_PORT, "weight": 1}
    rule: dict[str, Any] = {"matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}], "backendRefs": [backend]}
    if timeouts:
        # Envoy's own limit is 15 s for a whole answer, streams included, and Envoy Gateway leaves it there.
        rule["timeouts"] = {"request": "0s"}
    spec: dict[str, Any] = {"parentRefs": [parent], "rules": [rule]}
    if gateway.hostnames:
        spec["hostnames"] = list(gateway.hostnames)
    return {**child("gateway.networking.k8s.io/v1", "HTTPRoute", names.router, owner, "router"), "spec": spec}


def inference_pool(owner: Owner, names: Names, picker: EndpointPicker) -> Manifest:
    """The routers as a pool of endpoints, for gateways that pick by InferencePool."""
    return {
        **child("inference.networking.k8s.io/v1", "InferencePool", names.router, owner, "router"),
        "spec": {
            "selector": {"matchLabels": matching(owner.name, "router")},
            "targetPorts": [{"number": PUBLIC_PORT}],
            "endpointPickerRef": {
                "group": "",
                "kind": "Service",
                "name": picker.of(names.router),
                "port": {"number": picker.port},
                "failureMode": "FailOpen",
            },
        },
    }
