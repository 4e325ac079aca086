"""What others have added to an object that is ours.

Belongs here: reading `managedFields`, pure. Server-side apply never takes away what another manager owns, and so a
label that a hand added to a Service's selector, which leaves it without pods, would stay for ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trimode_operator.plan.names import MANAGER
from trimode_operator.plan.queue import queue_of

FRAME = ("apiVersion", "kind", "metadata", "status")
"""Parts of an object where others may write as they please."""
SUSPENDED = ("spec", "suspend")
"""Of an object in a queue of Kueue's: Kueue's to say."""


def additions(desired: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON merge patch that takes away what other managers own and `desired` does not say; empty where all is ours.

    Fields that `desired` says too are no addition, whatever their value: applying takes them back. A list with an
    addition in it is replaced as a whole.
    """
    patch: dict[str, Any] = {}
    kept = SUSPENDED if queue_of(desired) else ()
    for entry in live["metadata"].get("managedFields") or []:
        if entry.get("manager") == MANAGER or entry.get("subresource"):
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
