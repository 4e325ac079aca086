"""What the operator saw of one resource at one moment, and how live objects are read.

Pure: frozen observations, and the functions that make them from Deployments, RayServices and the routers'
views. What follows from them is said in `readiness` and `status`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trimode_api.fleet import FleetView, ReplicaState
from trimode_api.resource import NemotronDeployment
from trimode_api.status import RebalancingStatus
from trimode_operator.observe.fleets import NO_FLEETS, Fleets
from trimode_operator.plan import Note
from trimode_operator.plan.names import queue_of
from trimode_operator.plan.router import UserSecret
from trimode_policy.sharing_inputs import merged

SECRET_MISSING, SECRET_INVALID = "SecretMissing", "SecretInvalid"
BAD_APPLICATION = ("DEPLOY_FAILED", "UNHEALTHY")
"""Serve's words for an application that could not start, and for one that ran and is healthy no longer."""
# Serve's message is a traceback, often of errors that were raised from one another: its last `module.Error: words` says
# what a person can act on.
_ERROR = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Failed|Refused|Died|InvalidInput)\b[^:]*: (?P<words>.+)$")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why this reconciliation did not do all it should."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """The routers' Deployment. `current`: its controller has seen the latest spec and no old pod is left."""

    wanted: int
    ready: int
    current: bool


@dataclass(frozen=True, slots=True)
class Ray:
    """The RayService. `ready` None where KubeRay has not said yet. `failed`: what Serve says of broken applications,
    `failed_upgrade` of those in the cluster that is to take over.

    `current`: KubeRay's status is of the latest spec. `silent`: it has not been for so long that something is wrong.
    `headless`: KubeRay's words where the serving cluster's head pod is not ready, while its status stays as it was.
    `queue`: the queue in which Kueue holds a cluster of it, because there is no quota; empty where it holds none.
    `cluster`: the RayCluster that serves; empty where it is not known. `starting`: KubeRay has a first one, and does
    not call it active yet.
    """

    ready: bool | None
    reason: str = ""
    message: str = ""
    upgrading: bool = False
    current: bool = True
    silent: bool = False
    headless: str = ""
    queue: str = ""
    failed: tuple[str, ...] = ()
    failed_upgrade: tuple[str, ...] = ()
    namespace: str = ""
    name: str = ""
    cluster: str = ""
    starting: bool = False


@dataclass(frozen=True, slots=True)
class Observations:
    """Everything that status is made from. `minimum`: replicas that each pool must have, in the order of the spec.

    `policy_version` is None where the spec is invalid, and so has no policy. `attainment`: by tier with an objective,
    percent of recent answers that met it, None without answers; `objectives`: percent that must. `rebalancing`: how
    replicas that pools share are split from now on, None where they share none. `secrets`: what is wrong with Secrets
    that the spec names. `scaled`: replicas that others ask for by the scale subresource, None where sizes are ours.
    `selector`: labels of the workers' pods.
    """

    generation: int
    suspend: bool = False
    kuberay: bool = True
    routers: Rollout | None = None
    ray: Ray | None = None
    fleets: Fleets = NO_FLEETS
    minimum: Mapping[str, int] = field(default_factory=dict)
    policy_version: int | None = None
    url: str | None = None
    problems: tuple[str, ...] = ()
    failure: Failure | None = None
    deleting: str = ""
    notes: tuple[Note, ...] = ()
    secrets: tuple[Note, ...] = ()
    attainment: Mapping[str, int | None] = field(default_factory=dict)
    objectives: Mapping[str, int] = field(default_factory=dict)
    rebalancing: RebalancingStatus | None = None
    scaled: int | None = None
    selector: str | None = None

    @property
    def replicas(self) -> tuple[ReplicaState, ...]:
        return merged(self.fleets.views.values())


def secret_missing(secret: UserSecret, namespace: str) -> Note:
    """The spec names a Secret that is not there: no new router can start."""
    message = f"{secret.field}: there is no Secret {secret.name!r} in namespace {namespace!r}; routers wait for it"
    return Note("Secret", SECRET_MISSING, message)


def secrets_refused(secrets: Iterable[UserSecret], fleets: Fleets) -> tuple[Note, ...]:
    """What routers say of Secrets whose content they cannot use; each problem once."""
    problems_seen = [view.router.problems for view in fleets.views.values()]
    return tuple(
        Note("Secret", SECRET_INVALID, f"{secret.field}: Secret {secret.name!r}: {words}")
        for secret in secrets
        for words in dict.fromkeys(problems[secret.read_as] for problems in problems_seen if secret.read_as in problems)
    )


def rollout_of(deployment: Mapping[str, Any] | None) -> Rollout | None:
    """The state of a live Deployment."""
    if deployment is None:
        return None
    status = deployment.get("status") or {}
    wanted = int(deployment["spec"].get("replicas", 1))
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 1)
    # Ready replicas alone do not tell: while old pods are still ready, an edit would look done the moment it is made.
    updated, total = status.get("updatedReplicas", 0), status.get("replicas", 0)
    return Rollout(wanted, int(status.get("readyReplicas", 0)), seen and updated == total == wanted)


def ray_of(
    service: Mapping[str, Any] | None,
    cluster: Mapping[str, Any] | None = None,
    pending: Mapping[str, Any] | None = None,
    *,
    silent: bool = False,
) -> Ray | None:
    """The state of a live RayService. `cluster`: the RayCluster that serves, `pending` the one that is to, where they
    are known."""
    if service is None:
        return None
    status = service.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    ready = conditions.get("Ready", {})
    answers = {"True": True, "False": False}
    told = ((cluster or {}).get("status") or {}).get("conditions") or []
    head: Mapping[str, Any] = next((each for each in told if each["type"] == "HeadPodReady"), {})
    words = ": ".join(part for part in (head.get("reason"), head.get("message")) if part) or "not ready"
    # Kueue suspends the clusters that a RayService makes, or only a Ray cluster that was made of it.
    specs = [(body or {}).get("spec") or {} for body in (service, cluster, pending)]
    held = any(spec.get("suspend") or (spec.get("rayClusterConfig") or {}).get("suspend") for spec in specs)
    return Ray(
        ready=answers.get(ready.get("status", "")),
        reason=ready.get("reason", ""),
        message=ready.get("message", ""),
        upgrading=conditions.get("UpgradeInProgress", {}).get("status") == "True",
        current=not behind(service),
        silent=silent,
        headless=words if head.get("status") == "False" else "",
        queue=queue_of(service) if held else "",
        # Until all applications have run once KubeRay calls even the only cluster pending.
        failed=_failed(status, "activeServiceStatus", "pendingServiceStatus"),
        failed_upgrade=_failed(status, "pendingServiceStatus"),
        namespace=service["metadata"].get("namespace", ""),
        name=service["metadata"].get("name", ""),
        cluster=((cluster or {}).get("metadata") or {}).get("name", ""),
        starting=_named(status, "pendingServiceStatus") and not _named(status, "activeServiceStatus"),
    )


def _named(status: Mapping[str, Any], part: str) -> bool:
    return bool((status.get(part) or {}).get("rayClusterName"))


def behind(service: Mapping[str, Any]) -> bool:
    """Whether KubeRay's status is of an earlier spec, or of an object that is going."""
    status, metadata = service.get("status") or {}, service["metadata"]
    going = metadata.get("deletionTimestamp") is not None
    return going or status.get("observedGeneration", 0) < metadata.get("generation", 1)


def overdue(service: Mapping[str, Any]) -> bool:
    """Whether KubeRay owes a status. Before the first cluster serves it writes none as long as nothing else changes
    (1.5.0: a new `observedGeneration` alone is no reason to write)."""
    status = service.get("status") or {}
    serving = _named(status, "activeServiceStatus")
    return behind(service) and (serving or not status.get("observedGeneration"))


def _failed(status: Mapping[str, Any], *parts: str) -> tuple[str, ...]:
    """Applications that Serve calls broken, each with the last error of the traceback that Serve's message is."""
    found: dict[str, str] = {}
    for part in parts:
        applications = (status.get(part) or {}).get("applicationStatuses") or {}
        for name, application in applications.items():
            if application.get("status") not in BAD_APPLICATION:
                continue
            # Deployments know why, where replicas cannot start; the application, where it cannot be built.
            deployments = (application.get("serveDeploymentStatuses") or {}).values()
            messages = [deployment.get("message") or "" for deployment in deployments]
            message = next(filter(None, messages), "") or application.get("message") or ""
            lines = [line.strip() for line in message.splitlines() if line.strip()]
            errors = (match["words"] for line in reversed(lines) if (match := _ERROR.match(line)) is not None)
            found[name] = f"{name} {application['status']}: {next(errors, message)}".strip(": ")
    return tuple(found.values())


def minimum_of(deployment: NemotronDeployment | None, service: Mapping[str, Any] | None) -> Mapping[str, int]:
    """Replicas that each pool must have: by the spec, or where that is invalid by what was applied last."""
    if deployment is not None:
        return {pool.name: pool.replicas.min for pool in deployment.spec.pools}
    cluster = ((service or {}).get("spec") or {}).get("rayClusterConfig") or {}
    groups = cluster.get("workerGroupSpecs") or []
    return {group["groupName"]: int(group.get("minReplicas", 0)) for group in groups}


def newest(fleets: Fleets) -> FleetView | None:
    """The view with the longest history: a router that has just started knows none."""
    views = [fleets.views[address] for address in sorted(fleets.views, key=str)]
    return max(views, key=lambda view: len(view.decisions), default=None)
