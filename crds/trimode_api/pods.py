"""Fields of a pool's pods that trimode hands through as Kubernetes writes them.

Belongs here: their models. Their insides are Kubernetes' own and judged by its API server.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints, WithJsonSchema

from trimode_api.fields import SpecModel
from trimode_api.values import Name, ObjectName

AsInPods = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]
"""A part of a pod's spec, as pods write it."""

LabelValue = Annotated[str, StringConstraints(max_length=63)]


class ResourceClaim(SpecModel):
    """A claim of devices (DRA): one that is there, or a template of which each pod gets a claim of its own."""

    name: Name = Field(description="Name of the claim in the pod, unique in the pool.")
    resource_claim_name: ObjectName | None = Field(default=None, description="A ResourceClaim that all pods share.")
    resource_claim_template_name: ObjectName | None = Field(
        default=None, description="A ResourceClaimTemplate, of which each pod gets a claim."
    )


class Pod(SpecModel):
    """Where a pool's pods run and what they get beside `resources`. A change of it makes another Ray cluster."""

    runtime_class_name: ObjectName | None = Field(default=None, description="RuntimeClass of the pods.")
    priority_class_name: ObjectName | None = Field(default=None, description="PriorityClass of the pods.")
    node_selector: dict[str, LabelValue] | None = Field(
        default=None, max_length=32, description="Labels of nodes, beside those of the operator's settings."
    )
    tolerations: tuple[AsInPods, ...] | None = Field(
        default=None, max_length=32, description="Taints of nodes that are no hindrance, beside those of the settings."
    )
    affinity: AsInPods | None = Field(default=None, description="Nodes and neighbours that are sought or avoided.")
    topology_spread_constraints: tuple[AsInPods, ...] | None = Field(
        default=None,
        max_length=16,
        description="How pods spread over zones or nodes. Pods of a pool have the labels trimode.dev/pool: POOL and "
        "app.kubernetes.io/instance: NAME.",
    )
    resource_claims: tuple[ResourceClaim, ...] | None = Field(
        default=None,
        max_length=8,
        description="Claims of devices (DRA), used by the worker. With any, pods ask for no GPU of a device plugin; "
        "resources.gpus still says how many the replica uses.",
    )
