"""One reconciliation: plan, apply, observe, judge, publish.

The order of the steps and what is remembered of a resource between them. Deciding is in `plan`, `status` and
`apply.deletion`; reading and writing is in `observe` and `apply`.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimode_api.errors import InvalidInput
from trimode_api.resource import NemotronDeployment
from trimode_operator.apply import deletion
from trimode_operator.apply.apply import Applier
from trimode_operator.apply.router_orders import order_drain, push_policy
from trimode_operator.apply.status_writer import Writer, status_in
from trimode_operator.errors import KubeRayTooOld, NotMade
from trimode_operator.kube.cache import Key
from trimode_operator.kube.client import ENDPOINT_SLICES, Object, name_of
from trimode_operator.kube.discovery import require
from trimode_operator.observe.fleets import Fleets
from trimode_operator.observe.observations import Failure, Observations, minimum_of, overdue, ray_of, rollout_of
from trimode_operator.observe.observer import Observer, fresh_token
from trimode_operator.observe.ray_clusters import NO_CLUSTERS, RayClusters, RunningClusters, unpromoted
from trimode_operator.plan import Names, Observed, Owner, Plan, make_plan
from trimode_operator.plan.make import RAY_SERVICE, prunable
from trimode_operator.plan.names import matching, queue_metadata, selector_text
from trimode_operator.process.dependencies import Dependencies, ResourceState
from trimode_operator.status.objectives import attainment
from trimode_operator.status.readiness import readiness_of
from trimode_operator.status.rebalancing import rebalanced, targets_of
from trimode_operator.status.status import requeue_after_s

RELIST_S = 300.0
"""How often a resource's children are listed afresh, whatever the watches said."""
DELETION_REQUEUE_S = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a spec. `plan` was applied, unless there are `problems` with the spec or a `failure`; `deleting`
    says how far a deletion is."""

    deployment: NemotronDeployment | None
    problems: tuple[str, ...] = ()
    plan: Plan | None = None
    failure: NotMade | KubeRayTooOld | None = None
    clusters: RunningClusters = NO_CLUSTERS
    deleting: str = ""


class Reconciler:
    """Reconciles resources. `reconcile` is what the work queue calls."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._cache = deps.cache
        self._observer = Observer(deps.cluster, deps.cache, deps.routers)
        self._applier = Applier(deps.cluster, deps.cache, deps.metrics)
        self._writer = Writer(deps.cluster, deps.cache, deps.metrics, deps.now)
        self._ray_clusters = RayClusters(deps.cluster, deps.cache, deps.metrics)
        self._states: dict[Key, ResourceState] = {}
        self._relist_s = RELIST_S

    def list_always(self) -> None:
        """List children at every reconciliation: some kind of them is not watched."""
        self._relist_s = 0.0

    def relist(self) -> None:
        """List children at the next reconciliation: a kind has come or gone, and no watch may have reported the end of
        its objects."""
        for state in self._states.values():
            state.listed_at = None

    def reset(self) -> None:
        """Trust nothing remembered: another copy may have led meanwhile."""
        self._states.clear()

    async def reconcile(self, key: Key) -> float | None:
        """Make the cluster agree with one resource; seconds until the next time, None for never.

        Raises ApiFailure, ApiUnreachable, NotMade.
        """
        body = self._cache.resource(key)
        if body is None:
            self._states.pop(key, None)
            self._applier.forget(key)
            self._cache.forget(key)
            return None
        state = self._states.setdefault(key, ResourceState())
        clock = self._deps.monotonic()
        if state.listed_at is None and not body.get("status"):
            state.listed_at = clock  # nothing was made of it yet that the watches could have missed
        if state.listed_at is None or clock - state.listed_at > self._relist_s:
            # kopf does not tell how its watches are (decision record 6): what one has missed shows in a list only.
            await self._observer.list_children(key, prunable(self._deps.capabilities()))
            state.listed_at, state.applied = self._deps.monotonic(), None
        if body["metadata"].get("deletionTimestamp") is not None:
            return await self._delete(key, body, state)
        if deletion.FINALIZER not in (body["metadata"].get("finalizers") or []):
            # Before anything is made: a resource that is deleted meanwhile has to be drained as well.
            body = await self._writer.set_finalizer(key, body, present=True)
        names = self._names(key)
        # The remembered token comes first: an edited or deleted Secret is restored to it, since another token would
        # replace every pod of the fleet.
        token = state.token = state.token or await self._observer.token(key, names) or fresh_token()
        outcome = await self._apply(key, body, token, state)
        fleets = await self._observer.fleets(self._observer.routers(key, names), token)
        if outcome.plan is not None and outcome.failure is None:
            # To the routers themselves: the kubelet may bring a changed ConfigMap to running pods a minute later, and a
            # policy is to be in force within a second.
            fleets = await push_policy(self._deps, fleets, token, outcome.plan.policy)
        seen = await self._observe(key, body, outcome, fleets, state)
        readiness = readiness_of(seen)
        # KubeRay's statuses count workers; that an image cannot be pulled, or memory has killed a container, is in the
        # pods' own.
        if readiness.needs_pods:
            readiness = readiness.explained_by(await self._observer.pods(key))
        # Published before the failure is raised: the reason has to be in the status even where the work queue only
        # backs off.
        status = await self._writer.publish(key, seen, readiness)
        if isinstance(outcome.failure, NotMade):
            raise outcome.failure  # the status says it already; the work queue backs off
        return requeue_after_s(status, readiness, self._deps.now())

    async def _apply(self, key: Key, body: Object, token: str, state: ResourceState) -> Outcome:
        """Plan and apply, and write what KubeRay leaves undone. What goes wrong is for the status to say."""
        deployment, problems = _parsed(body)
        if deployment is None:
            return Outcome(None, problems)
        try:
            capabilities = self._deps.capabilities()
            # Before the first write: an API server refuses a RayService for one unknown field, and by then the routers
            # would have been scaled already.
            require(capabilities, self._deps.settings)
            owner = Owner(key.name, key.namespace, body["metadata"]["uid"], body["metadata"]["generation"])
            # What the status says is applied: it was written first, see `rebalancing`.
            before, service = status_in(body), self._ray_service(key)
            targets = targets_of(deployment.spec, before)
            waits = unpromoted(before, service, self._deps.now())
            queue = queue_metadata(deployment.metadata)  # labels: no part of the generation
            basis = (owner, capabilities, token, targets, waits, state.groups, queue)
            plan = state.plan
            # Nothing is compared or written where all that the plan depends on is as it was.
            if plan is None or state.applied != (basis, self._versions(key)):
                observed = Observed(token, service, targets, state.groups, waits)
                plan = make_plan(deployment, owner, self._deps.settings, capabilities, observed)
                await self._applier.make(plan, owner)
                state.plan, state.applied = plan, (basis, self._versions(key))
            # KubeRay passes no change of bounds on to a cluster that runs (ray-project/kuberay#2331 and #4568), and
            # makes a third cluster where an upgrade is taken back.
            clusters = await self._ray_clusters.fit(key, self._ray_service(key))
        except InvalidInput as invalid:
            return Outcome(deployment, tuple(map(str, invalid.problems)))
        except (NotMade, KubeRayTooOld) as error:
            return Outcome(deployment, plan=state.plan, failure=error)
        state.groups = clusters.groups
        return Outcome(deployment, plan=plan, clusters=clusters)

    async def _observe(
        self, key: Key, body: Object, outcome: Outcome, fleets: Fleets, state: ResourceState
    ) -> Observations:
        """Everything that the status is made from. The children are read after they were applied."""
        names, before = self._names(key), status_in(body)
        deployment, plan, failure = outcome.deployment, outcome.plan, outcome.failure
        spec = deployment.spec if deployment is not None else None
        service, clock = self._ray_service(key), self._deps.monotonic()
        # KubeRay's status freezes at Ready=True where Serve refuses the configuration or the dashboard is away; only
        # the time since tells that something is wrong.
        owed = service["metadata"].get("generation") if service is not None and overdue(service) else None
        active, pending = outcome.clusters.active, outcome.clusters.pending
        tiers: dict[str, int] = {}
        rebalancing = before.rebalancing if before is not None else None
        if deployment is not None and not outcome.deleting:
            state.sample(deployment.spec, fleets, clock)
            tiers = {tier.name: tier.percentile for tier in deployment.spec.tiers}
            rebalancing = rebalanced(deployment.spec, before, fleets, state.loads, self._deps.now())
        named = spec.router if spec is not None and not outcome.deleting else None
        return Observations(
            generation=body["metadata"]["generation"],
            suspend=spec is not None and spec.suspend,
            kuberay=self._deps.capabilities().kuberay,
            routers=rollout_of(self._cache.children(key).get(("Deployment", names.router))),
            ray=ray_of(service, active, pending, silent=state.silent(owed, clock)),
            fleets=fleets,
            minimum=minimum_of(deployment, service),
            policy_version=plan.policy.version if plan is not None else None,
            url=names.url(tls=spec.router.tls is not None) if spec is not None else None,
            problems=outcome.problems,
            failure=Failure(failure.reason, str(failure)) if failure is not None else None,
            deleting=outcome.deleting,
            notes=plan.notes if plan is not None else (),
            secrets=await self._observer.secrets(key, named, fleets) if named is not None else (),
            attainment=attainment(state.samples, tuple(tiers)),
            objectives=tiers,
            rebalancing=rebalancing,
            scaled=spec.replicas if spec is not None else None,
            selector=selector_text(matching(key.name, "worker")),
        )

    async def _delete(self, key: Key, body: Object, state: ResourceState) -> float | None:
        """A resource that is being deleted: one step of `deletion`."""
        if deletion.FINALIZER not in (body["metadata"].get("finalizers") or []):
            return None  # finalizers of others hold it still
        names = self._names(key)
        token = await self._observer.token(key, names)
        fleets = await self._observer.fleets(self._observer.routers(key, names), token)
        workers = self._ray_service(key)
        deadline = deletion.deadline_of(body)
        step = deletion.next_step(fleets, workers, self._deps.now(), deadline)
        if step is deletion.Step.RELEASE:
            await self._writer.set_finalizer(key, body, present=False)
            return None
        outcome = Outcome(_parsed(body)[0], deleting=deletion.message_of(step, deadline))
        seen = await self._observe(key, body, outcome, fleets, state)
        await self._writer.publish(key, seen, readiness_of(seen))
        if step is deletion.Step.DRAIN and token is not None:
            # Again at each reconciliation: a replica that came up since, or a router that was away, has not heard of
            # it.
            await order_drain(self._deps.routers, fleets, token)
        elif step is deletion.Step.END_WORKERS and workers is not None:
            await self._applier.remove(RAY_SERVICE, workers)
            # KubeRay 1.6.2 and later hold a RayService by a finalizer, so a delete that was accepted need not be its
            # end.
            left = await self._deps.cluster.get(RAY_SERVICE, key.namespace, names.ray_service)
            if left is None:
                self._cache.drop(workers)
            else:
                self._cache.put(left)
        return DELETION_REQUEUE_S

    def _versions(self, key: Key) -> frozenset[tuple[object, str]]:
        """The children as they are known now: an edit by hand, or a missing one, is another set. EndpointSlices are
        Kubernetes' own, and no plan depends on them."""
        made = (child for (kind, _), child in self._cache.children(key).items() if kind != ENDPOINT_SLICES.kind)
        return frozenset(((child["kind"], name_of(child)), child["metadata"]["resourceVersion"]) for child in made)

    def _ray_service(self, key: Key) -> Object | None:
        return self._cache.children(key).get((RAY_SERVICE.kind, self._names(key).ray_service))

    def _names(self, key: Key) -> Names:
        return Names(key.name, key.namespace, self._deps.settings.cluster_domain)


def _parsed(body: Object) -> tuple[NemotronDeployment | None, tuple[str, ...]]:
    """The resource, or everything that is wrong with it."""
    try:
        return NemotronDeployment.parse(body), ()
    except InvalidInput as invalid:
        return None, tuple(map(str, invalid.problems))
