"""Writes of children: server-side apply where something differs, deletion of what is left over.

What the children should be is in `plan`, whether they are so is in `diff`.
"""

from __future__ import annotations

import structlog

from trimode_operator.apply.diff import Differences, additions, differences, with_digest
from trimode_operator.errors import ApiFailure, NameTaken, NotMade
from trimode_operator.kube.cache import Cache, ChildName, Key, owned_by
from trimode_operator.kube.client import Cluster, Object, name_of
from trimode_operator.metrics import Metrics
from trimode_operator.plan import ChildKind, Manifest, Owner, Plan
from trimode_operator.plan.names import labels


class Applier:
    """Writes children of any resource. Remembers how the API server rewrites what it is given, see `_settled`."""

    def __init__(self, cluster: Cluster, cache: Cache, metrics: Metrics) -> None:
        self._cluster = cluster
        self._cache = cache
        self._metrics = metrics
        self._settled: dict[Key, dict[ChildName, tuple[Differences, Object]]] = {}
        """By child: what still differed right after it was applied, such as a quantity in another unit, and what
        others had added again. As long as exactly that is so, it is as it should be."""

    async def make(self, plan: Plan, owner: Owner) -> None:
        """Apply what differs, in order, then remove what is left over.

        Raises ApiUnreachable at once, and NotMade after all others were made; then nothing is removed.
        """
        key = Key(owner.namespace, owner.name)
        kinds = {kind.kind: kind for kind in plan.prune_kinds}
        failures: list[ApiFailure | NameTaken] = []
        for child in plan.children:
            try:
                await self._ensure(kinds[child["kind"]], child, owner, key)
            except (ApiFailure, NameTaken) as failure:
                # The other children are applied all the same: one that is refused does not hold up the routers' policy.
                failures.append(failure)
        if failures:
            raise NotMade(failures)
        kept = {(str(child["kind"]), name_of(child)) for child in plan.children}
        for name, body in list(self._cache.children(key).items()):
            going = body["metadata"].get("deletionTimestamp") is not None
            if name not in kept and name[0] in kinds and owned_by(body, owner.uid) and not going:
                await self.remove(kinds[name[0]], body)

    async def remove(self, kind: ChildKind, body: Object) -> None:
        """Delete a child."""
        metadata = body["metadata"]
        await self._cluster.delete(kind, metadata["namespace"], metadata["name"], metadata["uid"])
        self._metrics.writes.labels("delete", kind.kind).inc()
        structlog.get_logger("apply").info("deleted", kind=kind.kind, name=metadata["name"], ns=metadata["namespace"])

    def forget(self, key: Key) -> None:
        self._settled.pop(key, None)

    async def _ensure(self, kind: ChildKind, manifest: Manifest, owner: Owner, key: Key) -> None:
        """Apply one child where it differs. Raises NameTaken where an object of that name is not ours."""
        desired = with_digest(manifest)
        name = (kind.kind, name_of(desired))
        live = self._cache.children(key).get(name)
        if live is not None:
            found = differences(desired, live), additions(desired, live)
            # At rest nothing is written: each write wakes every watcher of the object, this operator among them.
            if found == ({}, {}) or found == self._settled.get(key, {}).get(name):
                return
        if live is None or not owned_by(live, owner.uid):
            # A forced apply would take over what is not ours. A child of a former resource of this name is not ours
            # either; the garbage collector is about to delete it. One without an owner and with our labels is: its
            # reference has been taken out by hand.
            there = await self._cluster.get(kind, owner.namespace, name[1])
            metadata = there["metadata"] if there is not None and not owned_by(there, owner.uid) else {}
            marked = labels(owner.name).items() <= (metadata.get("labels") or {}).items()
            if metadata and (metadata.get("ownerReferences") or not marked):
                raise NameTaken(
                    f"{kind.kind} {name[1]} exists and does not belong to this resource; "
                    "delete it, or rename the resource"
                )
        if live is not None and (extra := additions(desired, live)):
            await self._cluster.merge(kind, owner.namespace, name[1], extra)
            self._metrics.writes.labels("merge", kind.kind).inc()
        result = await self._cluster.apply(kind, desired)
        self._metrics.writes.labels("apply", kind.kind).inc()
        self._settled.setdefault(key, {})[name] = differences(desired, result), additions(desired, result)
        self._cache.put(result)
        log = structlog.get_logger("apply")
        log.info("applied", kind=kind.kind, name=name[1], ns=owner.namespace, new=live is None)
