"""A visit: observe, plan, apply, tell.

Belongs here: the order of a visit's steps and what is remembered of a resource between visits. Deciding is the plan's,
`status`' and `ending`'s; reading and writing is `observe`'s, `apply`'s and `routers`'.
"""

from __future__ import annotations

from dataclasses import replace

from trimode_api.errors import InvalidInput
from trimode_api.resource import NemotronDeployment
from trimode_operator.apply import deletion
from trimode_operator.apply.apply import Applier
from trimode_operator.apply.policy_push import push
from trimode_operator.apply.status_writer import Writer, status_in
from trimode_operator.errors import KubeRayTooOld, NotMade
from trimode_operator.kube.cache import Key
from trimode_operator.kube.client import Object
from trimode_operator.kube.discovery import require
from trimode_operator.observe.fleets import Fleets
from trimode_operator.observe.observations import Failure, Observations, Ray, minimum_of, overdue, ray_of, rollout_of
from trimode_operator.observe.observer import Observer, fresh_token
from trimode_operator.observe.ray_clusters import NO_CLUSTERS, RayClusters, RunningClusters, unpromoted
from trimode_operator.plan import Names, Observed, Owner, Plan, make_plan
from trimode_operator.plan.make import RAY_SERVICE, prunable
from trimode_operator.plan.names import matching, selector_text
from trimode_operator.plan.queue import queue_metadata
from trimode_operator.process.dependencies import Dependencies, ResourceState
from trimode_operator.status.conditions import BY_PODS, ready
from trimode_operator.status.objectives import attainment, kept, sample_of
from trimode_operator.status.rebalancing import rebalanced, targets_of
from trimode_operator.status.status import next_look_s
from trimode_policy.sharing_inputs import sampled, sharing_pools

RELIST_S = 300.0
"""How often a resource's children are listed afresh, whatever the watches said."""
SILENT_S = 60.0
"""KubeRay looks every two seconds; a status that is older than the spec for longer than this has a cause."""


class Reconciler:
    """Visits resources. `reconcile` is what the work queue calls."""

    def __init__(self, parts: Dependencies) -> None:
        self._parts = parts
        self._cache = parts.cache
        self._observer = Observer(parts.cluster, parts.cache, parts.routers)
        self._applier = Applier(parts.cluster, parts.cache, parts.metrics)
        self._writer = Writer(parts.cluster, parts.cache, parts.metrics, parts.now)
        self._ray_clusters = RayClusters(parts.cluster, parts.cache, parts.metrics)
        self._memories: dict[Key, ResourceState] = {}
        self._relist_s = RELIST_S

    def list_always(self) -> None:
        """List children at every visit: some kind of them is not watched."""
        self._relist_s = 0.0

    def list_anew(self) -> None:
        """List children at the next visit: a kind has come or gone, and ends of its objects may not have been told."""
        for memory in self._memories.values():
            memory.listed_at = None

    def start_over(self) -> None:
        """Trust nothing remembered: another copy may have led meanwhile."""
        self._memories.clear()

    async def reconcile(self, key: Key) -> float | None:
        """Make one resource so; seconds until the next look. Raises ApiFailure, ApiUnreachable, NotMade."""
        body = self._cache.resource(key)
        if body is None:
            self._forget(key)
            return None
        memory = self._memories.setdefault(key, ResourceState())
        kinds = prunable(self._parts.capabilities())
        if memory.listed_at is None and not body.get("status"):
            memory.listed_at = self._parts.monotonic()  # nothing was made of it yet that the watches could have missed
        if memory.listed_at is None or self._parts.monotonic() - memory.listed_at > self._relist_s:
            await self._observer.list_children(key, kinds)
            memory.listed_at, memory.made = self._parts.monotonic(), None
        if body["metadata"].get("deletionTimestamp") is not None:
            return await self._end(key, body)
        if deletion.FINALIZER not in (body["metadata"].get("finalizers") or []):
            body = await self._writer.set_finalizer(key, body, present=True)
        return await self._keep(key, body, memory)

    async def _keep(self, key: Key, body: Object, memory: ResourceState) -> float:
        """A resource that stays."""
        names = self._names(key)
        deployment, problems = _parsed(body)
        token = memory.token = memory.token or await self._observer.token(key, names) or fresh_token()
        failure: NotMade | KubeRayTooOld | None = None
        plan: Plan | None = None
        running = NO_CLUSTERS
        if deployment is not None:
            try:
                plan = await self._make(key, body, deployment, token, memory)
                running = await self._ray_clusters.fit(key, self._ray_service(key))
                memory.groups = running.groups
            except InvalidInput as invalid:
                problems = tuple(map(str, invalid.problems))
            except (NotMade, KubeRayTooOld) as error:
                failure, plan = error, memory.plan
        routers = await self._observer.routers(key, names)
        fleets = await self._observer.fleets(routers, token)
        if plan is not None and failure is None and await push(self._parts, fleets, token, plan.policy):
            fleets = await self._observer.fleets(routers, token)
        seen = self._seen(key, body, deployment, plan, fleets, problems)
        seen = replace(seen, ray=self._ray(key, running, memory))
        if deployment is not None:
            seen = self._judged(key, seen, deployment, memory)
            seen = replace(seen, secrets=await self._observer.secrets(key, deployment.spec.router, fleets))
        if failure is not None:
            seen = replace(seen, failure=Failure(failure.reason, str(failure)))
        if ready(seen).reason in BY_PODS:
            seen = replace(seen, pods=await self._observer.pods(key))
        status = await self._writer.tell(key, seen)
        if isinstance(failure, NotMade):
            raise failure
        return next_look_s(status, self._parts.now())

    async def _make(
        self, key: Key, body: Object, deployment: NemotronDeployment, token: str, memory: ResourceState
    ) -> Plan:
        """Plan and apply; nothing where all that a plan depends on is as it was after the last one."""
        capabilities = self._parts.capabilities()
        require(capabilities, self._parts.settings)
        owner = Owner(key.name, key.namespace, body["metadata"]["uid"], body["metadata"]["generation"])
        # What the status says is done: it was written first, see `rebalancing`.
        before, service = status_in(body), self._ray_service(key)
        targets = targets_of(deployment.spec, before)
        waits = unpromoted(before, service, self._parts.now())
        queue = queue_metadata(deployment.metadata)  # no part of the generation
        basis = (owner, capabilities, token, targets, waits, memory.groups, queue)
        if memory.plan is not None and memory.made == (basis, self._versions(key)):
            return memory.plan
        observed = Observed(token, service, targets, memory.groups, waits)
        plan = make_plan(deployment, owner, self._parts.settings, capabilities, observed)
        await self._applier.make(plan, owner)
        memory.plan, memory.made = plan, (basis, self._versions(key))
        return plan

    async def _end(self, key: Key, body: Object) -> float | None:
        """A resource that goes."""
        if deletion.FINALIZER not in (body["metadata"].get("finalizers") or []):
            return None  # others hold it still
        names = self._names(key)
        token = await self._observer.token(key, names)
        fleets = await self._observer.fleets(await self._observer.routers(key, names), token)
        workers = self._ray_service(key)
        deadline = deletion.deadline_of(body)
        step = deletion.next_step(fleets, workers, self._parts.now(), deadline)
        if step is deletion.Step.RELEASE:
            await self._writer.set_finalizer(key, body, present=False)
            return None
        deployment, _ = _parsed(body)
        seen = self._seen(key, body, deployment, None, fleets, ())
        await self._writer.tell(key, replace(seen, deleting=deletion.words(step, deadline)))
        if step is deletion.Step.DRAIN and token is not None:
            await deletion.order_drain(self._parts.routers, fleets, token)
        elif step is deletion.Step.END_WORKERS and workers is not None:
            await self._applier.remove(RAY_SERVICE, workers)
            self._refresh(await self._parts.cluster.get(RAY_SERVICE, key.namespace, names.ray_service), workers)
        return 0.5

    def _refresh(self, found: Object | None, known: Object) -> None:
        """What a read says of an object that was just deleted."""
        if found is None:
            self._cache.drop(known)
        else:
            self._cache.put(found)

    def _seen(
        self,
        key: Key,
        body: Object,
        deployment: NemotronDeployment | None,
        plan: Plan | None,
        fleets: Fleets,
        problems: tuple[str, ...],
    ) -> Observations:
        names, children = self._names(key), self._cache.children(key)
        ray_service = self._ray_service(key)
        before = status_in(body)
        return Observations(
            generation=body["metadata"]["generation"],
            suspend=deployment is not None and deployment.spec.suspend,
            kuberay=self._parts.capabilities().kuberay,
            routers=rollout_of(children.get(("Deployment", names.router))),
            ray=ray_of(ray_service),
            fleets=fleets,
            minimum=minimum_of(deployment, ray_service),
            policy_version=plan.policy.version if plan is not None else None,
            url=names.url(tls=deployment.spec.router.tls is not None) if deployment is not None else None,
            problems=problems,
            notes=plan.notes if plan is not None else (),
            rebalancing=before.rebalancing if before is not None else None,
            scaled=deployment.spec.replicas if deployment is not None else None,
            selector=selector_text(matching(key.name, "worker")),
        )

    def _ray(self, key: Key, running: RunningClusters, memory: ResourceState) -> Ray | None:
        """The workers as KubeRay tells of them, and for how long it has told nothing."""
        service, clock = self._ray_service(key), self._parts.monotonic()
        late = service["metadata"].get("generation") if service is not None and overdue(service) else None
        if memory.behind is None or memory.behind[0] != late:
            memory.behind = late, clock
        silent = late is not None and clock - memory.behind[1] > SILENT_S
        return ray_of(service, running.active, running.pending, silent=silent)

    def _judged(
        self, key: Key, seen: Observations, deployment: NemotronDeployment, memory: ResourceState
    ) -> Observations:
        """With how the tiers' objectives were met of late, and what follows for the replicas that pools share."""
        clock = self._parts.monotonic()
        memory.samples = kept(memory.samples, sample_of(seen.fleets, clock))
        tiers = {tier.name: tier.percentile for tier in deployment.spec.tiers}
        pools = [pool.name for pool in sharing_pools(deployment.spec)]
        views = tuple(seen.fleets.views.values())
        memory.loads = sampled(memory.loads, views, pools, clock) if pools and not seen.fleets.failures else ()
        before = status_in(self._cache.resource(key))
        return replace(
            seen,
            attainment=attainment(memory.samples, tuple(tiers)),
            objectives=tiers,
            rebalancing=rebalanced(deployment, before, seen.fleets, memory.loads, self._parts.now()),
        )

    def _versions(self, key: Key) -> frozenset[tuple[object, str]]:
        return frozenset(
            (name, child["metadata"]["resourceVersion"]) for name, child in self._cache.children(key).items()
        )

    def _ray_service(self, key: Key) -> Object | None:
        """The live one."""
        return self._cache.children(key).get((RAY_SERVICE.kind, self._names(key).ray_service))

    def _names(self, key: Key) -> Names:
        return Names(key.name, key.namespace, self._parts.settings.cluster_domain)

    def _forget(self, key: Key) -> None:
        self._memories.pop(key, None)
        self._applier.forget(key)
        self._cache.forget(key)


def _parsed(body: Object) -> tuple[NemotronDeployment | None, tuple[str, ...]]:
    """The resource, or everything that is wrong with it."""
    try:
        return NemotronDeployment.parse(body), ()
    except InvalidInput as invalid:
        return None, tuple(map(str, invalid.problems))
