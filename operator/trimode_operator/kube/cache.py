"""What the watches have told us: resources and their children as they were last seen.

No I/O; the reconciler reads, handlers and writers feed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from trimode_api.resource import KIND
from trimode_operator.kube.client import Object, version_of

INSTANCE_LABEL = "app.kubernetes.io/instance"


class Key(NamedTuple):
    """A resource."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


ChildName = tuple[str, str]
"""Kind and name of a child within its namespace."""


GONE_KEPT = 4096


class Cache:
    """Not thread-safe: it lives on the operator's loop."""

    def __init__(self) -> None:
        self._gone: dict[str, None] = {}
        """Uids of the latest objects that ended: the answer to a write may come later than the news of the end."""
        self._resources: dict[Key, Object] = {}
        self._children: dict[Key, dict[ChildName, Object]] = {}

    def resource(self, key: Key) -> Object | None:
        return self._resources.get(key)

    def resources(self) -> tuple[Key, ...]:
        return tuple(self._resources)

    def children(self, key: Key) -> Mapping[ChildName, Object]:
        return self._children.get(key, {})

    def put(self, body: Object) -> Key | None:
        """Take in a state; the resource that it concerns, or None where it is no news."""
        key = key_of(body)
        # The answer to our last write came after the news of the end, and brought the object back.
        if key is None or body["metadata"].get("uid") in self._gone:
            return None
        store, place = self._place(key, body)
        known = store.get(place)
        if known is not None and _same_object(known, body) and version_of(known) >= version_of(body):
            return None
        store[place] = body
        return key

    def drop(self, body: Object) -> Key | None:
        """It is gone; the resource that this concerns, or None where it is no news."""
        key = key_of(body)
        if key is None:
            return None
        self._gone[str(body["metadata"].get("uid"))] = None
        if len(self._gone) > GONE_KEPT:
            del self._gone[next(iter(self._gone))]
        store, place = self._place(key, body)
        known = store.get(place)
        if known is None or not _same_object(known, body):
            return None  # a new one of the same name has been seen already
        del store[place]
        if not self._children.get(key):
            self._children.pop(key, None)
        return key

    def list_children(self, key: Key, listed: Iterable[Object]) -> None:
        """All there is, read from the API server: what is not in it is gone."""
        known = self._children.get(key, {})
        children = {_child_name(body): body for body in listed}
        for name, body in children.items():
            old = known.get(name)
            # A watch may have been quicker than the list.
            if old is not None and _same_object(old, body) and version_of(old) > version_of(body):
                children[name] = old
        self._children[key] = children

    def forget(self, key: Key) -> None:
        self._children.pop(key, None)

    def _place(self, key: Key, body: Object) -> tuple[dict[Any, Object], Key | ChildName]:
        if body["kind"] == KIND:
            return self._resources, key
        return self._children.setdefault(key, {}), _child_name(body)


def key_of(body: Mapping[str, Any]) -> Key | None:
    """The resource that an object is or belongs to, by its label."""
    metadata = body["metadata"]
    if body["kind"] == KIND:
        return Key(metadata["namespace"], metadata["name"])
    owner = (metadata.get("labels") or {}).get(INSTANCE_LABEL)
    return None if owner is None else Key(metadata["namespace"], owner)


def owned_by(body: Mapping[str, Any], uid: str) -> bool:
    """Whether the resource with this uid controls the object."""
    references = body["metadata"].get("ownerReferences") or []
    return any(reference.get("uid") == uid for reference in references)


def _child_name(body: Object) -> ChildName:
    return body["kind"], body["metadata"]["name"]


def _same_object(one: Object, other: Object) -> bool:
    return bool(one["metadata"].get("uid") == other["metadata"].get("uid"))
