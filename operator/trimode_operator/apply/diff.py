"""Whether a live object is as it should be.

Belongs here: the comparison of a manifest with a live object, pure. The API server adds defaults and other writers add
fields of their own, so only what the manifest says is looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

DIGEST_ANNOTATION = "trimode.dev/applied"
"""On every child: digest of the manifest that was applied last. A field that a newer manifest leaves out shows in no
comparison of fields, but here."""

WHOLE = ("selector", "matchLabels", "nodeSelector")
"""Mappings that the API server takes as one value: a further key there is a difference too."""

Differences = Mapping[str, Any]
"""Path of each field that differs, with what the live object has there."""


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
        yield from _walk_list(desired, live, path)
    elif desired != live and not (_empty(desired) and _empty(live)):
        yield path, live


def _walk_list(desired: list[Any] | tuple[Any, ...], live: list[Any], path: str) -> Iterator[tuple[str, Any]]:
    if desired and all(isinstance(item, Mapping) and "name" in item for item in desired):
        by_name = {item.get("name"): item for item in live if isinstance(item, Mapping)}
        for item in desired:
            yield from _walk(item, by_name.get(item["name"]), f"{path}[{item['name']}]")
    elif len(desired) != len(live):
        yield path, live
    else:
        for index, (item, other) in enumerate(zip(desired, live, strict=True)):
            yield from _walk(item, other, f"{path}[{index}]")


def _empty(value: Any) -> bool:
    """Absent, null and empty are one to the API server. False and 0 are values, though a default may hide them."""
    return value is None or value == {} or value == [] or value == ()
