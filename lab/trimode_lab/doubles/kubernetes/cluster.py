"""An API server in memory: objects, versions and the little of server-side apply that the operator leans on.

Not played: validation, defaults, other managers' fields.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trimode_operator.apply.diff import WHOLE
from trimode_operator.errors import ApiFailure
from trimode_operator.kube.client import Object
from trimode_operator.plan import ChildKind

Place = tuple[str, str, str]
"""Kind, namespace, name."""


class MemoryCluster:
    """`objects` is what there is, `writes` what was asked for: (verb, kind, name) in order.

    `refuse(verb, kind, name)` may return an error to raise instead; `stored(object)` may rewrite what is stored, as a
    server does that knows another way to write the same.
    """

    def __init__(self) -> None:
        self.objects: dict[Place, Object] = {}
        self.paths: dict[str, Object] = {}
        self.writes: list[tuple[str, str, str]] = []
        self.refuse: Callable[[str, str, str], Exception | None] = lambda *_: None
        self.stored: Callable[[Object], None] = lambda _: None
        self._numbers = itertools.count(1)

    def put(self, body: Mapping[str, Any]) -> Object:
        """Have an object, as if another client had created or changed it."""
        kept: Object = copy.deepcopy(dict(body))
        metadata = kept["metadata"]
        place = (kept["kind"], metadata["namespace"], metadata["name"])
        known = self.objects.get(place)
        metadata.setdefault("uid", known["metadata"]["uid"] if known else f"uid-{next(self._numbers)}")
        metadata["resourceVersion"] = str(next(self._numbers))
        before = known["metadata"]["generation"] if known else 0
        if metadata.setdefault("generation", 1) == before and known and known.get("spec") != kept.get("spec"):
            metadata["generation"] = before + 1
        self.objects[place] = kept
        return copy.deepcopy(kept)

    def named(self, kind: str, name: str, namespace: str = "default") -> Object:
        return copy.deepcopy(self.objects[kind, namespace, name])

    async def read(self, path: str) -> Object | None:
        return copy.deepcopy(self.paths.get(path))

    async def get(self, kind: ChildKind, namespace: str, name: str) -> Object | None:
        self._check("get", kind, name)
        return copy.deepcopy(self.objects.get((kind.kind, namespace, name)))

    async def exists(self, kind: ChildKind, namespace: str, name: str) -> bool:
        self._check("get", kind, name)
        return (kind.kind, namespace, name) in self.objects

    async def listed(self, kind: ChildKind, namespace: str | None, selector: str = "") -> list[Object]:
        self._check("list", kind, "")
        wanted = dict(pair.split("=") for pair in selector.split(",") if pair)
        return [
            copy.deepcopy(body)
            for (found, place, _), body in self.objects.items()
            if found == kind.kind
            and namespace in (None, place)
            and wanted.items() <= (body["metadata"].get("labels") or {}).items()
        ]

    async def apply(self, kind: ChildKind, manifest: Mapping[str, Any]) -> Object:
        metadata = manifest["metadata"]
        self._write("apply", kind, metadata["name"])
        known = self.objects.get((kind.kind, metadata["namespace"], metadata["name"]))
        new = copy.deepcopy(dict(manifest)) if known is None else _merged(known, manifest)
        self.stored(new)
        if known is not None and new == known:
            return copy.deepcopy(known)
        return self.put(new)

    async def merge(
        self, kind: ChildKind, namespace: str, name: str, patch: Mapping[str, Any], subresource: str = ""
    ) -> Object:
        self._write(f"merge {subresource}".strip(), kind, name)
        known = self._known(kind, namespace, name)
        version = (patch.get("metadata") or {}).get("resourceVersion")
        if version is not None and version != known["metadata"]["resourceVersion"]:
            raise ApiFailure(409, "Conflict", f"{kind.kind} {name} has changed")
        result = self.put(_merged(known, patch))
        if result["metadata"].get("deletionTimestamp") and not result["metadata"].get("finalizers"):
            del self.objects[kind.kind, namespace, name]
        return result

    async def patch(
        self, kind: ChildKind, namespace: str, name: str, operations: Sequence[Mapping[str, Any]]
    ) -> Object:
        self._write("patch", kind, name)
        body = copy.deepcopy(self._known(kind, namespace, name))
        for operation in operations:  # `test` and `add` of a JSON patch, into mappings
            *way, last = operation["path"].strip("/").split("/")
            inner: Any = body
            for part in way:
                inner = inner[int(part)] if isinstance(inner, list) else inner[part]
            if operation["op"] == "add":
                inner[last] = copy.deepcopy(operation["value"])
            elif inner.get(last) != operation["value"]:
                raise ApiFailure(422, "Invalid", f"testing path {operation['path']} failed")
        return self.put(body)

    async def create(self, kind: ChildKind, namespace: str, body: Mapping[str, Any]) -> Object:
        metadata = dict(body["metadata"])
        name = metadata.get("name") or f"{metadata['generateName']}{next(self._numbers)}"
        self._write("create", kind, name)
        if (kind.kind, namespace, name) in self.objects:
            raise ApiFailure(409, "AlreadyExists", f"{kind.kind} {name} exists")
        return self.put({**body, "metadata": {**metadata, "name": name, "namespace": namespace}})

    async def replace(self, kind: ChildKind, namespace: str, name: str, body: Mapping[str, Any]) -> Object:
        self._write("replace", kind, name)
        known = self._known(kind, namespace, name)
        if body["metadata"].get("resourceVersion") != known["metadata"]["resourceVersion"]:
            raise ApiFailure(409, "Conflict", f"{kind.kind} {name} has changed")
        return self.put(body)

    async def delete(self, kind: ChildKind, namespace: str, name: str, uid: str) -> None:
        self._write("delete", kind, name)
        known = self.objects.get((kind.kind, namespace, name))
        if known is not None and known["metadata"]["uid"] == uid:
            del self.objects[kind.kind, namespace, name]

    def _known(self, kind: ChildKind, namespace: str, name: str) -> Object:
        known = self.objects.get((kind.kind, namespace, name))
        if known is None:
            raise ApiFailure(404, "NotFound", f"{kind.kind} {name} is not there")
        return known

    def _write(self, verb: str, kind: ChildKind, name: str) -> None:
        self._check(verb, kind, name)
        self.writes.append((verb, kind.kind, name))

    def _check(self, verb: str, kind: ChildKind, name: str) -> None:
        error = self.refuse(verb, kind.kind, name)
        if error is not None:
            raise error


def _merged(old: Any, new: Any) -> Any:
    """A JSON merge patch: mappings merge (but for those taken whole), null removes, all else replaces."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return copy.deepcopy(new)
    result = {key: copy.deepcopy(value) for key, value in old.items()}
    for key, value in new.items():
        if value is None:
            result.pop(key, None)
        elif key in WHOLE:
            result[key] = copy.deepcopy(value)
        else:
            result[key] = _merged(result.get(key), value)
    return result
