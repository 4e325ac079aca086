"""Names, labels and ports of what a resource becomes. Belongs here: pure naming; nothing else spells a child's name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimode_api.resource import Metadata

RAY_SERVICE_MAX = 47
"""KubeRay's bound: 63, less its longest Service suffix, less what it adds for the cluster's name."""
LABEL_MAX = 63
NAME_LABEL = "app.kubernetes.io/name"
HEAD = "head"
"""The component that is Ray's head."""
MANAGER = "trimode-operator"
PUBLIC_PORT = 8000
INTERNAL_PORT = 8001
SERVE_PORT = 8000
"""Serve's proxy in worker pods: health checks only."""
TOKEN_KEY = "token"
CONFIG_KEY = "router.json"
KUEUE = "kueue.x-k8s.io/"
QUEUE_LABEL, ELASTIC = f"{KUEUE}queue-name", f"{KUEUE}elastic-job"


@dataclass(frozen=True, slots=True)
class Names:
    """Names of the children of the resource called `owner`."""

    owner: str
    namespace: str
    cluster_domain: str = "cluster.local"

    @property
    def service_account(self) -> str:
        return self._with("fleet")

    @property
    def secret(self) -> str:
        return self._with("token")

    @property
    def config(self) -> str:
        return self._with("policy")

    @property
    def router(self) -> str:
        """The routers' Deployment, and the Service that clients use."""
        return self._with("router")

    @property
    def reports(self) -> str:
        """The headless Service: one address per router, ready or not."""
        return self._with("reports")

    @property
    def head(self) -> str:
        return self._with("head")

    @property
    def workers(self) -> str:
        return self._with("workers")

    @property
    def ray_service(self) -> str:
        return fitting(self.owner, RAY_SERVICE_MAX)

    def url(self, *, tls: bool = False) -> str:
        """Where clients send requests."""
        return f"http{'s' if tls else ''}://{self.router}.{self.namespace}.svc:{PUBLIC_PORT}/v1"

    @property
    def reports_url(self) -> str:
        """Where replicas send reports; its host resolves to every router."""
        return f"http://{self.reports}.{self.namespace}.svc.{self.cluster_domain}:{INTERNAL_PORT}"

    def pool_budget(self, pool: str) -> str:
        return self._with(f"pool-{pool}")

    def _with(self, suffix: str) -> str:
        return fitting(f"{self.owner}-{suffix}", LABEL_MAX)


def fitting(name: str, longest: int) -> str:
    """The name, or where it is too long its beginning and a hash of all of it."""
    if len(name) <= longest:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: longest - 9].rstrip('-')}-{digest}"


def labels(owner: str, component: str | None = None) -> dict[str, str]:
    """Kubernetes' recommended labels; `component`: router, worker, head."""
    found = {
        NAME_LABEL: "trimode",
        "app.kubernetes.io/instance": owner,
        "app.kubernetes.io/managed-by": MANAGER,
        "app.kubernetes.io/part-of": "trimode",
    }
    return found if component is None else found | {"app.kubernetes.io/component": component}


def selector(owner: str) -> str:
    """Label selector of all that belongs to the resource."""
    return f"app.kubernetes.io/managed-by={MANAGER},app.kubernetes.io/instance={owner}"


def selector_text(labels: Mapping[str, str]) -> str:
    """Labels as a label selector is written."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def head_labels(owner: str) -> dict[str, str]:
    """Of Ray's head pod, which keeps KubeRay's own `app.kubernetes.io/name`: KubeRay's Service NAME-head-svc selects by
    that, and would find no pod."""
    # With our label NAME-head-svc had no endpoints, so `kubectl port-forward` and `kubectl ray` failed.
    return {key: value for key, value in labels(owner, HEAD).items() if key != NAME_LABEL}


def matching(owner: str, component: str) -> dict[str, str]:
    """Labels by which Services and policies find the pods of a component."""
    ours = "app.kubernetes.io/part-of" if component == HEAD else NAME_LABEL
    wanted = (ours, "app.kubernetes.io/instance", "app.kubernetes.io/component")
    return {key: value for key, value in labels(owner, component).items() if key in wanted}


def queue_metadata(metadata: Metadata) -> dict[str, dict[str, str]]:
    """Kueue's labels and annotations of the resource; nothing of others. KubeRay copies those of a RayService to its
    Ray clusters, and Kueue admits these: it holds one with `suspend` until there is quota.

    What is in a queue is marked elastic, unless the resource says otherwise: Kueue refuses Ray clusters that scale by
    Ray's autoscaler, as all of ours do, without it.
    """
    given = {"labels": metadata.labels, "annotations": metadata.annotations}
    made = {
        name: {key: value for key, value in (pairs or {}).items() if key.startswith(KUEUE)}
        for name, pairs in given.items()
    }
    if QUEUE_LABEL in made["labels"]:
        made["annotations"] = {ELASTIC: "true"} | made["annotations"]
    return made


def queue_of(body: Mapping[str, Any]) -> str:
    """The queue that an object waits in; empty where in none."""
    return str((body["metadata"].get("labels") or {}).get(QUEUE_LABEL) or "")
