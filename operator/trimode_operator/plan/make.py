"""The plan of a resource, put together.

Belongs here: which children there are and in which order. What each looks like is its own module's.
"""

from __future__ import annotations

from trimode_api.policy_of import policy_of
from trimode_api.resource import NemotronDeployment
from trimode_operator.plan.model import Capabilities, ChildKind, Manifest, Note, Observed, Owner, Plan
from trimode_operator.plan.names import Names, selector
from trimode_operator.settings import Settings

ALWAYS = (
    ChildKind("v1", "ServiceAccount", "serviceaccounts"),
    ChildKind("v1", "Secret", "secrets"),
    ChildKind("v1", "ConfigMap", "configmaps"),
    ChildKind("v1", "Service", "services"),
    ChildKind("apps/v1", "Deployment", "deployments"),
    ChildKind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
)
RAY_SERVICE = ChildKind("ray.io/v1", "RayService", "rayservices")
BUDGET = ChildKind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
MONITOR = ChildKind("monitoring.coreos.com/v1", "ServiceMonitor", "servicemonitors")
ROUTE = ChildKind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes")
INFERENCE_POOL = ChildKind("inference.networking.k8s.io/v1", "InferencePool", "inferencepools")


def make_plan(
    deployment: NemotronDeployment, owner: Owner, settings: Settings, capabilities: Capabilities, observed: Observed
) -> Plan:
    """Everything that should exist for the resource. The same arguments give the same plan.

    Raises InvalidInput, with the fields' paths, where a valid resource asks for what a cluster cannot run.
    """
    Names(owner.name, owner.namespace, settings.cluster_domain)
    children: list[Manifest] = []
    notes: list[Note] = []
    return Plan(
        children=tuple(children),
        policy=policy_of(deployment, owner.generation),
        notes=tuple(notes),
        prune_kinds=prunable(capabilities),
        prune_selector=selector(owner.name),
    )


def prunable(capabilities: Capabilities) -> tuple[ChildKind, ...]:
    """Kinds that a plan may have made, as far as the cluster knows them."""
    optional = {
        RAY_SERVICE: capabilities.kuberay,
        BUDGET: capabilities.pdb_v1,
        MONITOR: capabilities.service_monitor,
        ROUTE: capabilities.http_route,
        INFERENCE_POOL: capabilities.inference_pool,
    }
    return ALWAYS + tuple(kind for kind, there in optional.items() if there)
