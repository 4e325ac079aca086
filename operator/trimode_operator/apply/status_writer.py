"""Writes into a resource itself: its status, Events about it, our finalizer; each left out where nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from trimode_api.status import Status
from trimode_operator.apply import deletion, events
from trimode_operator.kube.cache import Cache, Key
from trimode_operator.kube.client import RESOURCE, Cluster, Object
from trimode_operator.metrics import Metrics
from trimode_operator.observe.observations import Observations
from trimode_operator.status.readiness import Readiness
from trimode_operator.status.status import status_of


class Writer:
    """Writes into one resource at a time. `now` gives Unix seconds."""

    def __init__(self, cluster: Cluster, cache: Cache, metrics: Metrics, now: Callable[[], float]) -> None:
        self._cluster = cluster
        self._cache = cache
        self._metrics = metrics
        self._now = now

    async def publish(self, key: Key, seen: Observations, readiness: Readiness) -> Status:
        """Write the status where it differs, then post Events about its transitions."""
        body = self._cache.resource(key)
        raw = (body or {}).get("status") or {}
        before = status_in(body)
        status = status_of(before, seen, readiness, self._now())
        new = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        # A status that is written wakes every watcher of the resource, this operator too; at rest nothing may be
        # written.
        if new == raw or body is None:
            return status
        gone: dict[str, Any] = {field: None for field in raw if field not in new}
        result = await self._cluster.merge(RESOURCE, key.namespace, key.name, {"status": {**gone, **new}}, "status")
        self._metrics.writes.labels("status", RESOURCE.kind).inc()
        self._cache.put(result)
        for record in events.transitions(before, status):
            self._metrics.writes.labels("create", "Event").inc()
            await events.post(self._cluster, body, record)
        return status

    async def set_finalizer(self, key: Key, body: Object, *, present: bool) -> Object:
        """Add our finalizer, or remove it; those of others stay.

        The list is written with the version that it was read at, so that the API server refuses it where another
        finalizer has come meanwhile.
        """
        fresh = await self._cluster.get(RESOURCE, key.namespace, key.name)
        if fresh is None:
            self._cache.drop(body)
            return body
        others = [one for one in fresh["metadata"].get("finalizers") or [] if one != deletion.FINALIZER]
        wanted = [*others, deletion.FINALIZER] if present else others
        patch = {"metadata": {"finalizers": wanted, "resourceVersion": fresh["metadata"]["resourceVersion"]}}
        result = await self._cluster.merge(RESOURCE, key.namespace, key.name, patch)
        self._metrics.writes.labels("finalizer", RESOURCE.kind).inc()
        if result["metadata"].get("deletionTimestamp") and not wanted:
            self._cache.drop(result)  # nothing holds it any more, so that was its end
        else:
            self._cache.put(result)
        return result


def status_in(body: Object | None) -> Status | None:
    """The status that the resource has; None where there is none, or none that we could have written."""
    raw = (body or {}).get("status")
    try:
        return Status.model_validate(raw) if raw else None
    except ValidationError:
        return None  # written by another program; ours replaces it
