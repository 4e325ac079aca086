"""Is the resource ready? Worked out once per reconciliation, from one observation.

Conditions, the status and the time of the next reconciliation all read the same `Readiness`: before, Ready, Serving and
Progressing each worked out the parts again, and every new reason had to be thought of in all of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from trimode_operator.observe.observations import Observations
from trimode_operator.observe.pods import PodsSeen
from trimode_operator.status.reasons import FALSE, TRUE, UNKNOWN, Reason, Verdict, lines
from trimode_policy.sharing_inputs import usable

BY_PODS = (
    Reason.NOT_OBSERVED,
    Reason.POOLS_NOT_READY,
    Reason.RAY_SERVICE_NOT_READY,
    Reason.DEPLOY_FAILED,  # Serve says that a replica died, and not that its pod was killed for memory or evicted
    Reason.WORKERS_ROLLOUT,
    Reason.HEAD_NOT_READY,
    Reason.ROUTER_ROLLOUT,
    Reason.NO_ROUTER_READY,
    Reason.SOME_ROUTERS_NOT_READY,
)
"""Reasons that a pod which cannot run explains better."""

OF_CONDITIONS = (Reason.KUBERAY_MISSING, Reason.RECREATING)
"""Notes that are a condition's reason by themselves."""

VALIDATION_FAILED = "ValidationFailed"
"""KubeRay's reason, since 1.6, for refusing the RayService as it is written."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """The verdict on one observation: of the parts, and of the whole that follows from them.

    `ready`: everything is as the latest spec says, and runs. An edit that is not in force yet, such as a change of
    model whose new workers still load, is not ready, although the old workers serve. `progressing`: something is on its
    way; False where all is done, or where it cannot go on without help.
    """

    routers: Verdict
    workers: Verdict
    suspended: Verdict
    ready: Verdict
    progressing: Verdict

    @property
    def needs_pods(self) -> bool:
        """Whether the pods may say why it is not ready. They are listed only then: it is a request per
        reconciliation, and the pods of a fleet that is as specified explain nothing."""
        return self.ready.reason in BY_PODS

    def explained_by(self, pods: PodsSeen) -> Readiness:
        """With what keeps pods from running. A failing pod needs a person, and so is a reason of its own; a missing
        node may come by itself, and only adds to the message."""
        if not self.needs_pods:
            return self
        verdict = self.ready
        reason = Reason.PODS_FAILING if pods.failing else verdict.reason
        status = FALSE if pods.failing else verdict.status
        message = lines((verdict.message, *pods.failing, *pods.unplaced))
        return replace(self, ready=Verdict(status, reason, message))


def readiness_of(seen: Observations) -> Readiness:
    """Ready asks the parts first and then what is on its way; Progressing the other way round, because what is on its
    way explains parts that are not there yet."""
    routers, workers, suspended = _routers(seen), _workers(seen), _suspended(seen)
    if (known := _without_parts(seen, suspended)) is not None:
        return Readiness(routers, workers, suspended, *known)
    under_way, version = _rollout(seen), seen.policy_version
    late = ""
    if version is not None:
        behind = [f"router {a}" for a, view in seen.fleets.views.items() if view.policy_version < version]
        behind += [f"replica {r.replica_id}" for r in seen.replicas if usable(r) and r.policy_version < version]
        late = f"policy version {version} has not reached {', '.join(behind)}" if behind else ""
    if workers.status is not TRUE:
        ready = workers
    elif routers.status is not TRUE:
        ready = routers
    elif under_way is not None:
        ready = under_way
    elif late:
        ready = Verdict(FALSE, Reason.POLICY_ROLLOUT, late)
    else:
        # What the cluster is not able to have keeps nothing from being ready, and is said all the same.
        left_out = (f"{note.kind}: {note.message}" for note in seen.notes if note.reason not in OF_CONDITIONS)
        ready = Verdict(TRUE, Reason.AS_SPECIFIED, lines((workers.message, *left_out)))
    if under_way is not None:
        stopped = under_way.reason == Reason.DEPLOY_FAILED
        progressing = Verdict(FALSE if stopped else TRUE, under_way.reason, under_way.message)
    elif not seen.kuberay:
        progressing = workers
    elif late:
        progressing = Verdict(TRUE, Reason.POLICY_ROLLOUT, late)
    elif workers.reason == Reason.DEPLOY_FAILED:
        progressing = workers
    elif workers.status is not TRUE or routers.status is not TRUE:
        progressing = Verdict(TRUE, Reason.WAITING_FOR_WORKERS, workers.message)
    else:
        progressing = Verdict(FALSE, Reason.AS_SPECIFIED, "nothing is left to do")
    return Readiness(routers, workers, suspended, ready, progressing)


def _without_parts(seen: Observations, suspended: Verdict) -> tuple[Verdict, Verdict] | None:
    """Ready and Progressing where something settles both, whatever the parts are."""
    if seen.deleting:
        return Verdict(FALSE, Reason.DRAINING, seen.deleting), Verdict(TRUE, Reason.DRAINING, seen.deleting)
    if seen.problems:
        return (
            Verdict(FALSE, Reason.INVALID_SPEC, lines(seen.problems)),
            Verdict(FALSE, Reason.INVALID_SPEC, "the last valid spec stays in force"),
        )
    if seen.failure is not None:
        failed = Verdict(FALSE, seen.failure.reason, seen.failure.message)
        return failed, failed
    if seen.suspend:
        on_its_way = FALSE if suspended.status is TRUE else TRUE
        return (
            Verdict(FALSE, Reason.SUSPENDED, "spec.suspend is true"),
            Verdict(on_its_way, suspended.reason, suspended.message),
        )
    if seen.secrets:
        return _of_secrets(seen), _of_secrets(seen)
    if making_room := _note(seen, Reason.RECREATING):
        return Verdict(FALSE, Reason.RECREATING, making_room), Verdict(TRUE, Reason.RECREATING, making_room)
    # KubeRay cannot, or does not, do what is asked; its own status shows nothing of it but this.
    ray = seen.ray if seen.kuberay else None
    if ray is None:
        return None
    # First: KubeRay leaves `observedGeneration` behind here too, and says why in this condition only.
    if ray.reason == VALIDATION_FAILED and ray.ready is False:
        stuck = Verdict(FALSE, Reason.VALIDATION_FAILED, f"KubeRay refuses the RayService: {ray.message}")
    elif ray.queue:
        command = f"kubectl get workloads.kueue.x-k8s.io -n {ray.namespace}"
        words = f"Kueue has not admitted the workers: they wait for quota in the queue {ray.queue}; see: {command}"
        stuck = Verdict(FALSE, Reason.WAITING_FOR_QUOTA, words)
    elif ray.silent:
        # Where Serve refuses the configuration or the dashboard is away, KubeRay leaves its status as it was and
        # posts an Event only.
        command = f"kubectl get events --field-selector involvedObject.name={ray.name} -n {ray.namespace}"
        words = f"KubeRay has not taken over the RayService's latest spec for more than a minute; see why: {command}"
        stuck = Verdict(FALSE, Reason.KUBERAY_BEHIND, words)
    else:
        return None
    return stuck, stuck


def _routers(seen: Observations) -> Verdict:
    """All routers are ready, which they are only while some replica takes requests."""
    if seen.routers is None:
        return Verdict(UNKNOWN, Reason.NOT_OBSERVED, "the routers' Deployment has not been seen yet")
    wanted, there = seen.routers.wanted, seen.routers.ready
    if seen.suspend and not wanted:
        return Verdict(FALSE, Reason.SUSPENDED, "spec.suspend is true")
    message = f"{there} of {wanted} routers are ready"
    if there >= wanted:
        return Verdict(TRUE, Reason.ROUTERS_READY, message)
    if seen.secrets:
        return _of_secrets(seen)
    return Verdict(FALSE, Reason.SOME_ROUTERS_NOT_READY if there else Reason.NO_ROUTER_READY, message)


def _workers(seen: Observations) -> Verdict:
    """Every pool has its minimum of replicas: by what the routers hear, or where no router answers, by KubeRay."""
    if seen.suspend:
        return Verdict(FALSE, Reason.SUSPENDED, "spec.suspend is true")
    if not seen.kuberay:
        return Verdict(FALSE, Reason.KUBERAY_MISSING, _note(seen, Reason.KUBERAY_MISSING))
    failed = seen.ray.failed if seen.ray is not None else ()
    if seen.fleets.views:
        # A cluster that was replaced serves on for a minute: with its replicas counted, an edit of the bounds was Ready
        # after 1.3 s while the one that serves had half of them.
        serving = {"", seen.ray.cluster} if seen.ray is not None and seen.ray.cluster else None
        counted = (r for r in seen.replicas if usable(r) and (serving is None or r.ray_cluster in serving))
        there = Counter(replica.pool for replica in counted)
        counts = [f"{pool} has {there[pool]} of at least {least}" for pool, least in seen.minimum.items()]
        message = "replicas that take requests: " + ", ".join(counts)
        if all(there[pool] >= least for pool, least in seen.minimum.items()):
            return Verdict(TRUE, Reason.POOLS_READY, message)
        if failed:
            return Verdict(FALSE, Reason.DEPLOY_FAILED, lines((message, *failed)))
        return Verdict(FALSE, Reason.POOLS_NOT_READY, message)
    if seen.ray is None or seen.ray.ready is None:
        return Verdict(UNKNOWN, Reason.NOT_OBSERVED, "KubeRay has not said anything about the workers yet")
    said = ": ".join(part for part in (seen.ray.reason, seen.ray.message) if part)
    if seen.ray.ready:
        message = f"no router answers the operator; KubeRay says {said or 'Ready'}"
        return Verdict(TRUE, Reason.RAY_SERVICE_READY, message)
    if failed:
        return Verdict(FALSE, Reason.DEPLOY_FAILED, lines(failed))
    return Verdict(FALSE, Reason.RAY_SERVICE_NOT_READY, said)


def _suspended(seen: Observations) -> Verdict:
    """Nothing is asked to run, because the spec says so."""
    if not seen.suspend:
        return Verdict(FALSE, Reason.NOT_SUSPENDED, "spec.suspend is false")
    routers_gone = seen.routers is not None and not seen.routers.wanted and seen.routers.current
    if routers_gone and seen.ray is None:
        words = "nothing is asked to run, pods that finish requests end within their grace; set spec.suspend to false"
        return Verdict(TRUE, Reason.SUSPENDED, f"{words} to go on")
    return Verdict(FALSE, Reason.SUSPENDING, "routers and workers finish what they have and go")


def _of_secrets(seen: Observations) -> Verdict:
    """A person (or a certificate's issuer) has to act; what serves goes on with the content it has."""
    return Verdict(FALSE, seen.secrets[0].reason, lines(tuple(note.message for note in seen.secrets)))


def _rollout(seen: Observations) -> Verdict | None:
    """What the spec asks for and is not so yet, although what was there before may serve; None where it is.

    Without it a resource would be Ready the moment that it was edited, and `kubectl wait` and Argo CD would go on at
    once.
    """
    if seen.routers is None or not seen.routers.current:
        return Verdict(FALSE, Reason.ROUTER_ROLLOUT, "routers are being replaced or added")
    if not seen.kuberay:
        return None
    # A status of an earlier spec says Ready: after a change of model `kubectl wait` returned at once.
    if seen.ray is None or not seen.ray.current:
        return Verdict(FALSE, Reason.WORKERS_ROLLOUT, "KubeRay is making the workers so")
    if seen.ray.upgrading and seen.ray.failed_upgrade:
        words = "what was there before serves on; in the Ray cluster that is to take over"
        return Verdict(FALSE, Reason.DEPLOY_FAILED, lines((words, *seen.ray.failed_upgrade)))
    # KubeRay keeps Ready=True during an upgrade, because the old cluster serves; `kubectl wait` would return at once.
    if seen.ray.upgrading:
        words = "KubeRay is making another Ray cluster ready to take over from the one that serves"
        return Verdict(FALSE, Reason.WORKERS_ROLLOUT, words)
    # Its replicas may serve some seconds before that. An edit then goes into its Serve applications in place, beside
    # the cluster that is made for it: what had begun to serve was drained, and nothing served for 20 s (1.5.0).
    if seen.ray.starting:
        words = "KubeRay does not call the first Ray cluster active yet: wait before the next change"
        return Verdict(FALSE, Reason.WORKERS_ROLLOUT, words)
    # Without its head KubeRay's status stays at Ready=True with every application RUNNING (seen on 1.7.0).
    if seen.ray.headless:
        return Verdict(FALSE, Reason.HEAD_NOT_READY, f"Ray's head is not ready: {seen.ray.headless}")
    return None


def _note(seen: Observations, reason: str) -> str:
    return next((note.message for note in seen.notes if note.reason == reason), "")
