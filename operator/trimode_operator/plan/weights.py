"""Where a worker finds the model, by the scheme of its URI.

From `spec.model` to the URI that the worker gets and what its pod mounts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from trimode_api.serving import Model
from trimode_operator.plan.settings import Settings

MODEL_MOUNT = "/models"
CACHE_MOUNT = "/cache"
HUB_TOKEN_KEY = "token"
VOLUME = "model"
IMAGE_SCHEME = "oci://"


@dataclass(frozen=True, slots=True)
class Weights:
    """`uri`: what the worker loads. `volumes`, `mounts`, `environment`: what its pod needs for that."""

    uri: str
    volumes: tuple[dict[str, Any], ...] = ()
    mounts: tuple[dict[str, Any], ...] = ()
    environment: tuple[dict[str, Any], ...] = ()


def weights(model: Model, settings: Settings) -> Weights:
    """`tiny://` and `file://` are in the image; `pvc://CLAIM/PATH` and `oci://IMAGE` are mounted, read only; `hf://`
    gets a cache."""
    uri = model.uri
    if uri.startswith("pvc://"):
        claim, _, path = uri.removeprefix("pvc://").partition("/")
        return Weights(
            f"file://{MODEL_MOUNT}/{quote(path)}",
            volumes=({"name": VOLUME, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}},),
            mounts=({"name": VOLUME, "mountPath": MODEL_MOUNT, "readOnly": True},),
        )
    if uri.startswith(IMAGE_SCHEME):  # pulled once per node, as any image is, with the pods' own pull secrets
        return Weights(
            f"file://{MODEL_MOUNT}",
            volumes=({"name": VOLUME, "image": {"reference": uri.removeprefix(IMAGE_SCHEME)}},),
            mounts=({"name": VOLUME, "mountPath": MODEL_MOUNT, "readOnly": True},),
        )
    if uri.startswith("hf://"):
        kept = settings.model_cache_claim
        cache: dict[str, Any] = {"emptyDir": {}} if kept is None else {"persistentVolumeClaim": {"claimName": kept}}
        variables: list[dict[str, Any]] = [{"name": "HF_HOME", "value": CACHE_MOUNT}]
        if settings.hub_token_secret is not None:
            # For models that ask for access; without the Secret open ones load all the same.
            reference = {"name": settings.hub_token_secret, "key": HUB_TOKEN_KEY, "optional": True}
            variables.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
        return Weights(
            f"{uri}@{model.revision}",
            volumes=({"name": VOLUME, **cache},),
            mounts=({"name": VOLUME, "mountPath": CACHE_MOUNT},),
            environment=tuple(variables),
        )
    return Weights(uri)
