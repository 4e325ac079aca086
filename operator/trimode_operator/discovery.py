"""Which optional APIs the cluster has.

Belongs here: discovery requests and their interpretation. APIs come and go while the operator runs.
"""

from __future__ import annotations

from trimode_operator.cluster import Cluster
from trimode_operator.plan import Capabilities

APIS = {
    "kuberay": ("ray.io/v1", "rayservices"),
    "pdb_v1": ("policy/v1", "poddisruptionbudgets"),
    "service_monitor": ("monitoring.coreos.com/v1", "servicemonitors"),
    "http_route": ("gateway.networking.k8s.io/v1", "httproutes"),
    "inference_pool": ("inference.networking.k8s.io/v1", "inferencepools"),
}


async def discover(cluster: Cluster) -> Capabilities:
    """What there is now. Raises ApiFailure or ApiUnreachable."""
    groups = await cluster.read("/apis") or {}
    served = {version["groupVersion"] for group in groups.get("groups", []) for version in group["versions"]}
    found: dict[str, bool] = {}
    for name, (api, plural) in APIS.items():
        found[name] = api in served and await _has(cluster, api, plural)
    return Capabilities(**found)


async def _has(cluster: Cluster, api: str, plural: str) -> bool:
    answer = await cluster.read(f"/apis/{api}") or {}
    return any(resource["name"] == plural for resource in answer.get("resources", []))
