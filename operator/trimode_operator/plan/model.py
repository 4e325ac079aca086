"""Frozen values that go into `make_plan` and come out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trimode_api.resource import NemotronDeployment
from trimode_api.wire import PolicyConfig
from trimode_operator.plan.names import Names
from trimode_operator.plan.settings import Settings

Manifest = Mapping[str, Any]
"""A Kubernetes object as plain data, ready for server-side apply."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The resource that everything belongs to, as the API server knows it."""

    name: str
    namespace: str
    uid: str
    generation: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """APIs that the cluster has, from discovery: RayService (`ray.io/v1`), PodDisruptionBudget in `policy/v1`,
    ServiceMonitor (`monitoring.coreos.com/v1`), HTTPRoute (`gateway.networking.k8s.io/v1`), InferencePool
    (`inference.networking.k8s.io/v1`). `rays_token`: the installed KubeRay can have Ray ask for a token.
    `route_timeouts`: HTTPRoute knows `timeouts` (Gateway API 1.2 and later).
    `image_volumes`: pods may mount images (Kubernetes 1.35 and later).
    `kuberay_lacks`: fields of a RayService's spec that we cannot do without and it does not know.
    """

    kuberay: bool = True
    pdb_v1: bool = True
    service_monitor: bool = False
    http_route: bool = False
    inference_pool: bool = False
    route_timeouts: bool = True
    rays_token: bool = True
    image_volumes: bool = True
    kuberay_lacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """Live state that the plan depends on.

    `token`: the fleet's shared token, as the live Secret has it, or a fresh one from the edge where there is none.
    `ray_service`: the live RayService, None where there is none; its worker groups keep their order. `targets`:
    replicas by pool that rebalancing has granted, within the pool's bounds; pools that are not named keep their own.
    `serving_groups`: worker groups of the Ray cluster that serves, in its order. `unpromoted`: replicas serve from a
    Ray cluster that KubeRay has never called active.
    """

    token: str
    ray_service: Manifest | None = None
    targets: Mapping[str, int] = field(default_factory=dict)
    serving_groups: tuple[str, ...] = ()
    unpromoted: bool = False


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that a plan follows from, as each kind of child is asked with it. `names`: of the children."""

    deployment: NemotronDeployment
    owner: Owner
    names: Names
    settings: Settings
    capabilities: Capabilities
    observed: Observed


@dataclass(frozen=True, slots=True)
class Note:
    """Something a reader of the status should know, such as a child that was left out."""

    kind: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, order=True)
class ChildKind:
    """A kind of object that some plan of the resource may make."""

    api_version: str
    kind: str
    plural: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What should be. `children` in the order of application; `policy` is to be pushed to the routers.

    Live objects of `prune_kinds` that have the labels of the resource's children (`names.selector`), are owned by it
    and are not among the children, are left over from an earlier plan and go.
    """

    children: tuple[Manifest, ...]
    policy: PolicyConfig
    notes: tuple[Note, ...]
    prune_kinds: tuple[ChildKind, ...]
