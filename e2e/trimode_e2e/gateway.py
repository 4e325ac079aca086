"""The definitions of Gateway API and of its inference extension, from the modules that `e2e/gateway/go.mod` pins, and
what a controller made of the examples.

Belongs here: where they lie. No controller runs in a test: `recording.gateways` ran one.
"""

from __future__ import annotations

import json

import yaml

from trimode_e2e.api import Object
from trimode_e2e.control.build import E2E, ENVOY_GATEWAY, GATEWAY, module_folder

API, INFERENCE = "sigs.k8s.io/gateway-api", "sigs.k8s.io/gateway-api-inference-extension"
POOLS = "inference.networking.k8s.io_inferencepools.yaml"
RECORDED = E2E / ENVOY_GATEWAY.folder / "recorded.json"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def crds() -> list[Object]:
    """Gateway API's standard channel, and InferencePool. Raises Missing and Broken where a module cannot be had."""
    standard = module_folder(GATEWAY, API) / "config" / "crd" / "standard"
    inference = module_folder(GATEWAY, INFERENCE) / "config" / "crd" / "bases"
    files = [*sorted(standard.glob("gateway.networking.k8s.io_*.yaml")), inference / POOLS]
    loaded = (yaml.load(file.read_text(), Loader=_LOADER) for file in files)
    return [each for each in loaded if each["kind"] == "CustomResourceDefinition"]


def recorded() -> dict[str, Object]:
    """The steps of `RECORDED` by name: `gateway` is its status, `routes` are live objects, `envoy` is what Envoy was
    given, `answered` counts answers by router, of requests to the model `chat`."""
    return {each["name"]: each for each in json.loads(RECORDED.read_text())["steps"]}
