"""The plan of a resource: which children there are, and in which order. What each looks like is in its own module."""

from __future__ import annotations

from trimode_api.errors import InvalidInput, Problem
from trimode_api.policy_of import policy_of
from trimode_api.pool_args import start_problems
from trimode_api.resource import NemotronDeployment, UpgradeStrategy
from trimode_operator.plan.kuberay import replaces
from trimode_operator.plan.model import Capabilities, ChildKind, Inputs, Manifest, Note, Observed, Owner, Plan
from trimode_operator.plan.names import Names
from trimode_operator.plan.objects import network_policies, secret, service_account
from trimode_operator.plan.optional_objects import budgets, http_route, inference_pool, service_monitor
from trimode_operator.plan.ray import ray_service
from trimode_operator.plan.router import config_map, router_config, router_deployment, services
from trimode_operator.plan.settings import Settings
from trimode_operator.plan.weights import IMAGE_SCHEME

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

KUBERAY_MISSING = (
    "the cluster does not know RayService (ray.io/v1), so no workers are made; install KubeRay: "
    "helm repo add kuberay https://ray-project.github.io/kuberay-helm && "
    "helm install kuberay-operator kuberay/kuberay-operator -n kuberay-system --create-namespace"
)
RAY_WITHOUT_TOKEN = (
    "the installed KubeRay does not know authOptions (1.5.1 and later do), so Ray asks for no token; NetworkPolicies "
    "alone keep others from its ports"
)
BUDGETS_MISSING = (
    "the cluster does not know PodDisruptionBudget in policy/v1 (Kubernetes 1.21 and later do), so evictions are not "
    "bounded"
)
GATEWAY_MISSING = (
    "the operator's settings name a gateway, but the cluster does not know HTTPRoute (gateway.networking.k8s.io/v1)"
)
INFERENCE_POOL_MISSING = (
    "the operator's settings name an endpoint picker, but the cluster does not know InferencePool "
    "(inference.networking.k8s.io/v1)"
)
GATEWAY_TIMEOUTS = (
    "the cluster's HTTPRoute knows no timeouts (Gateway API 1.2 and later do), so the gateway's own limit ends long "
    "answers (Envoy's: 15 seconds)"
)
GATEWAY_TLS = (
    "with spec.router.tls the gateway has to speak TLS to the routers: add a BackendTLSPolicy for their Service, "
    "unless the gateway goes by the port's appProtocol"
)
INFERENCE_POOL_TLS = "with spec.router.tls the gateway has to speak TLS to the pool's endpoints; see its own manual"

IMAGE_VOLUMES_MISSING = (
    "oci:// is mounted as an image volume, which Kubernetes has from 1.35 on (containerd from 2.1 on), and this "
    "cluster is older; write hf://OWNER/NAME or pvc://CLAIM/PATH"
)
RECREATING = (
    "upgrade.strategy is Recreate: the workers finish their requests, for %d s at most, and end; then new ones start "
    "and load the model. Nothing serves meanwhile"
)

RAYS_OWN_GROUP = "headgroup"


def make_plan(
    deployment: NemotronDeployment, owner: Owner, settings: Settings, capabilities: Capabilities, observed: Observed
) -> Plan:
    """Everything that should exist for the resource. The same arguments give the same plan.

    Raises InvalidInput, with the fields' paths, where a valid resource asks for what a cluster cannot run.
    """
    problems = unsupported(deployment, capabilities)
    if problems:
        raise InvalidInput(problems, f"{owner.name} on a cluster")
    names = Names(owner.name, owner.namespace, settings.cluster_domain)
    inputs = Inputs(deployment, owner, names, settings, capabilities, observed)
    policy = policy_of(deployment, owner.generation)
    config = router_config(deployment, names, policy)
    children: list[Manifest] = [
        service_account(owner, names),
        secret(owner, names, observed.token),
        config_map(owner, names, config),
        # Before the pods they guard.
        *(network_policies(owner, names, settings) if settings.network_policies else ()),
        *services(deployment.spec.router, owner, names),
        router_deployment(inputs, config),
    ]
    workers, notes = _workers(inputs)
    optional, more = _optional(inputs)
    return Plan(
        children=(*children, *workers, *optional),
        policy=policy,
        notes=(*notes, *more),
        prune_kinds=prunable(capabilities),
    )


def _workers(inputs: Inputs) -> tuple[list[Manifest], list[Note]]:
    """The RayService, unless the cluster cannot have it, or it has to make room for itself first."""
    if not inputs.capabilities.kuberay:
        return [], [Note(RAY_SERVICE.kind, "KubeRayMissing", KUBERAY_MISSING)]
    children: list[Manifest] = []
    notes: list[Note] = []
    # None while suspended. KubeRay knows `suspend` since 1.7 only, and does what its end does: Ray's clusters go,
    # their pods after their requests.
    spec = inputs.deployment.spec
    if not spec.suspend:
        wanted = ray_service(inputs)
        if makes_room(inputs.deployment, inputs.observed.ray_service, wanted):
            notes.append(Note(RAY_SERVICE.kind, "Recreating", RECREATING % spec.drain.timeout_seconds))
        else:
            children.append(wanted)
    if not inputs.capabilities.rays_token:
        notes.append(Note(RAY_SERVICE.kind, "RayWithoutToken", RAY_WITHOUT_TOKEN))
    return children, notes


def _optional(inputs: Inputs) -> tuple[list[Manifest], list[Note]]:
    """Children that need an API which not every cluster has, and a note where one is missed."""
    deployment, owner, names = inputs.deployment, inputs.owner, inputs.names
    settings, capabilities = inputs.settings, inputs.capabilities
    children: list[Manifest] = []
    notes: list[Note] = []
    if capabilities.pdb_v1:
        children += budgets(deployment, owner, names)
    else:
        # Said, not refused: without it evictions are not bounded, and everything else works.
        notes.append(Note(BUDGET.kind, "BudgetsMissing", BUDGETS_MISSING))
    if capabilities.service_monitor:
        children.append(service_monitor(deployment.spec.router, owner, names))
    if settings.gateway is not None:
        if capabilities.http_route:
            children.append(http_route(owner, names, settings.gateway, timeouts=capabilities.route_timeouts))
            notes += _over_tls(deployment, ROUTE, GATEWAY_TLS)
            if not capabilities.route_timeouts:
                notes.append(Note(ROUTE.kind, "GatewayTimeouts", GATEWAY_TIMEOUTS))
        else:
            notes.append(Note(ROUTE.kind, "GatewayMissing", GATEWAY_MISSING))
    if settings.endpoint_picker is not None:
        if capabilities.inference_pool:
            children.append(inference_pool(owner, names, settings.endpoint_picker))
            notes += _over_tls(deployment, INFERENCE_POOL, INFERENCE_POOL_TLS)
        else:
            notes.append(Note(INFERENCE_POOL.kind, "InferencePoolMissing", INFERENCE_POOL_MISSING))
    return children, notes


def makes_room(deployment: NemotronDeployment, live: Manifest | None, wanted: Manifest) -> bool:
    """Whether the live workers go before the wanted ones are made, as `upgrade.strategy: Recreate` asks.

    The RayService as a whole goes: KubeRay ends its clusters and their pods, each after its requests, and has nothing
    left to compare the new one with.
    """
    if deployment.spec.upgrade.strategy is not UpgradeStrategy.RECREATE or live is None:
        return False
    going = live["metadata"].get("deletionTimestamp") is not None
    return going or replaces(live, wanted["spec"]["rayClusterConfig"])


def _over_tls(deployment: NemotronDeployment, kind: ChildKind, message: str) -> list[Note]:
    """What the gateway's owner has to do so that it reaches routers that speak HTTPS only."""
    return [] if deployment.spec.router.tls is None else [Note(kind.kind, "BackendTLS", message)]


def unsupported(deployment: NemotronDeployment, capabilities: Capabilities) -> list[Problem]:
    """What the schema allows and a cluster cannot run (yet)."""
    spec = deployment.spec
    problems = start_problems(spec)
    if spec.model.uri.startswith(IMAGE_SCHEME) and not capabilities.image_volumes:
        problems.append(Problem("spec.model.uri", IMAGE_VOLUMES_MISSING))
    for index, pool in enumerate(spec.pools):
        if pool.name == RAYS_OWN_GROUP:
            problems.append(
                Problem(f"spec.pools[{index}].name", f"{RAYS_OWN_GROUP!r} is Ray's own group; choose another name")
            )
    return problems


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
