"""What the spec asks for and is not so yet, although what was there before may serve.

Belongs here: the one place that says it, for Ready and for Progressing; pure. Without it a resource would be Ready
the moment that it was edited, and `kubectl wait` and Argo CD would go on at once.
"""

from __future__ import annotations

from trimode_operator.observe.observations import Observations
from trimode_operator.status.reasons import FALSE, Reason, Verdict, lines

VALIDATION_FAILED = "ValidationFailed"
"""KubeRay's reason, since 1.6: it refuses the RayService as it is written."""


def held_up(seen: Observations) -> Verdict | None:
    """KubeRay cannot, or does not, do what is asked; its own status shows nothing of it but this."""
    ray = seen.ray
    if ray is None or not seen.kuberay:
        return None
    if ray.reason == VALIDATION_FAILED and ray.ready is False:
        return Verdict(FALSE, Reason.VALIDATION_FAILED, f"KubeRay refuses the RayService: {ray.message}")
    if ray.queue:
        command = f"kubectl get workloads.kueue.x-k8s.io -n {ray.namespace}"
        words = f"Kueue has not admitted the workers: they wait for quota in the queue {ray.queue}; see: {command}"
        return Verdict(FALSE, Reason.WAITING_FOR_QUOTA, words)
    if ray.silent:
        command = f"kubectl get events --field-selector involvedObject.name={ray.name} -n {ray.namespace}"
        words = f"KubeRay has not taken over the RayService's latest spec for more than a minute; see why: {command}"
        return Verdict(FALSE, Reason.KUBERAY_BEHIND, words)
    return None


def rollout(seen: Observations) -> Verdict | None:
    """What is on its way, or has to come back; None where what runs is what the latest spec asks for."""
    if seen.routers is None or not seen.routers.current:
        return Verdict(FALSE, Reason.ROUTER_ROLLOUT, "routers are being replaced or added")
    if not seen.kuberay:
        return None
    if seen.ray is None or not seen.ray.current:
        return Verdict(FALSE, Reason.WORKERS_ROLLOUT, "KubeRay is making the workers so")
    if seen.ray.upgrading and seen.ray.failed_upgrade:
        words = "what was there before serves on; in the Ray cluster that is to take over"
        return Verdict(FALSE, Reason.DEPLOY_FAILED, lines((words, *seen.ray.failed_upgrade)))
    if seen.ray.upgrading:
        words = "KubeRay is making another Ray cluster ready to take over from the one that serves"
        return Verdict(FALSE, Reason.WORKERS_ROLLOUT, words)
    if seen.ray.headless:
        return Verdict(FALSE, Reason.HEAD_NOT_READY, f"Ray's head is not ready: {seen.ray.headless}")
    return None
