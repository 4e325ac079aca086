"""Whether a live object is as it should be: fields that differ from the manifest, and fields that others have added.

Pure. The API server adds defaults and other writers add fields of their own, so `differences` looks only at what the
manifest says. But server-side apply never takes away what another manager owns: a label that was added by hand to a
Service's selector leaves it without pods, and would stay for ever. `additions` finds those by `managedFields`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from trimode_operator.plan.names import MANAGER, queue_of

DIGEST_ANNOTATION = "trimode.dev/applied"
"""On every child: digest of the manifest that was applied last. A field that a newer manifest leaves out shows in no
comparison of fields, but here."""

WHOLE = ("selector", "matchLabels", "nodeSelector")
"""Mappings that the API server takes as one value: a further key there is a difference too."""

Differences = Mapping[str, Any]
"""Path of each field that differs, with what the live object has there."""

FRAME = ("apiVersion", "kind", "metadata", "status")
"""Parts of an object in which fields of other managers are left alone."""
QUEUES = "kueue"
"""How Kueue's managers of fields begin. What it writes into an object in one of its queues is its to write: `suspend`,
to hold it until there is quota, and where its pods may run."""
SUSPENDED = ("spec", "suspend")
"""May be anybody's there, such as an administrator's who holds a fleet by hand."""


def with_digest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest, marked with its own digest."""
    metadata = manifest["metadata"]
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    mark = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {
        **manifest,
        "metadata": {**metadata, "annotations": {**metadata.get("annotations", {}), DIGEST_ANNOTATION: mark}},
    }


def differences(desired: Mapping[str, Any], live: Mapping[str, Any]) -> Differences:
    """Fields of `desired` that `live` lacks or has otherwise. Further fields and list items of `live` are others'."""
    # Not by `metadata.generation`: ConfigMaps, Secrets, Services and ServiceAccounts have none (Kubernetes 1.37), and
    # where it is, a field that KubeRay's autoscaler wrote counts in it like one that somebody added (record 12).
    return dict(_walk(desired, live, ""))


def _walk(desired: Any, live: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(desired, Mapping) and isinstance(live, Mapping):
        for key, value in desired.items():
            here = f"{path}.{key}" if path else key
            if (
                key in WHOLE
                and isinstance(value, Mapping)
                and isinstance(live.get(key), Mapping)
                and live[key].keys() - value
            ):
                yield here, live[key]
            elif key in live:
                yield from _walk(value, live[key], here)
            elif not _empty(value):
                yield here, None
    elif isinstance(desired, (list, tuple)) and isinstance(live, list):
        if desired and all(isinstance(item, Mapping) and "name" in item for item in desired):
            by_name = {item.get("name"): item for item in live if isinstance(item, Mapping)}
            for item in desired:
                yield from _walk(item, by_name.get(item["name"]), f"{path}[{item['name']}]")
        elif len(desired) != len(live):
            yield path, live
        else:
            for index, (item, other) in enumerate(zip(desired, live, strict=True)):
                yield from _walk(item, other, f"{path}[{index}]")
    elif desired != live and not (_empty(desired) and _empty(live)):
        yield path, live


def _empty(value: Any) -> bool:
    """Absent, null and empty are one to the API server. False and 0 are values, though a default may hide them."""
    return value is None or value == {} or value == [] or value == ()


def additions(desired: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON merge patch that takes away what other managers own and `desired` does not say; empty where all is ours.

    Fields that `desired` says too are no addition, whatever their value: applying takes them back. A list with an
    addition in it is replaced as a whole.
    """
    patch: dict[str, Any] = {}
    queued = bool(queue_of(desired))
    kept = SUSPENDED if queued else ()
    for entry in live["metadata"].get("managedFields") or []:
        manager = entry.get("manager") or ""
        # What comes by a subresource is status or scale, and another's to write.
        if manager == MANAGER or entry.get("subresource") or (queued and manager.startswith(QUEUES)):
            continue
        fields = {key: part for key, part in (entry.get("fieldsV1") or {}).items() if key.removeprefix("f:") in desired}
        for part in FRAME:
            fields.pop(f"f:{part}", None)
        _merge(patch, _without(_in_mapping(fields, desired, live), kept))
    return patch


def _without(patch: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The patch with the field at the path left alone."""
    if not path or path[0] not in patch:
        return patch
    inside = _without(patch[path[0]], path[1:]) if len(path) > 1 else {}
    rest = {key: value for key, value in patch.items() if key != path[0]}
    return rest | ({path[0]: inside} if inside else {})


def _in_mapping(fields: Mapping[str, Any], desired: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` is a part of fieldsV1: `f:NAME` for each owned field, with what is owned inside."""
    patch: dict[str, Any] = {}
    for key, inside in fields.items():
        name = key.removeprefix("f:")
        if not key.startswith("f:") or name not in live:
            continue
        wanted, found = desired.get(name), live[name]
        if wanted is None:
            patch[name] = None
        elif isinstance(wanted, Mapping) and isinstance(found, Mapping):
            if deeper := _in_mapping(inside, wanted, found):
                patch[name] = deeper
        elif isinstance(wanted, (list, tuple)) and isinstance(found, list) and _in_list(inside, list(wanted), found):
            patch[name] = list(wanted)
    return patch


def _in_list(fields: Mapping[str, Any], desired: list[Any], live: list[Any]) -> bool:
    """`k:{...}` names an item by its keys, `v:...` one by its value. Lists owned as one value are no additions."""
    for key, inside in fields.items():
        kind, _, text = key.partition(":")
        if kind == "v" and json.loads(text) not in desired:
            return True
        if kind != "k":
            continue
        keys = json.loads(text)
        wanted, found = _item(keys, desired), _item(keys, live)
        if found is not None and (wanted is None or _in_mapping(inside, wanted, found)):
            return True
    return False


def _item(keys: Mapping[str, Any], items: list[Any]) -> Mapping[str, Any] | None:
    """The item with these keys; one that leaves a key to its default has it."""
    mappings = (item for item in items if isinstance(item, Mapping))
    return next((item for item in mappings if all(item.get(k, v) == v for k, v in keys.items())), None)


def _merge(patch: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(patch.get(key), dict):
            _merge(patch[key], value)
        else:
            patch[key] = value
