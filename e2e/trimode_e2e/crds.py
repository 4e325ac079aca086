"""CustomResourceDefinitions made fit for the server at hand.

Belongs here: pure changes of CRDs for old servers, and finding KubeRay's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from trimode_e2e.errors import Missing

ROOT = Path(__file__).parents[2]
OURS = ROOT / "crds" / "nemotrondeployments.trimode.dev.yaml"
RAY_SERVICE = "TRIMODE_RAYSERVICE_CRD"
"""Names a file with KubeRay's own CRD of RayService; without it a minimal one is used."""

MINIMAL = Path(__file__).parent / "kuberay" / "rayservice-minimal.yaml"
SIBLING = ROOT.parent / "shared" / "kuberay" / "ray.io_rayservices.yaml"
CEL_SINCE = (1, 25)
"""The first version of Kubernetes whose servers check x-kubernetes-validations without being asked."""


def ours(server: tuple[int, int]) -> dict[str, Any]:
    """NemotronDeployment, without what an old server would refuse to store."""
    return _fit(_load(OURS), server)


def ray_service(server: tuple[int, int]) -> tuple[dict[str, Any], str]:
    """RayService and in words where it comes from. Raises Missing where TRIMODE_RAYSERVICE_CRD names no file."""
    chosen = os.environ.get(RAY_SERVICE)
    if chosen and not Path(chosen).is_file():
        raise Missing(f"{RAY_SERVICE} names {chosen!r}, which is no file")
    file = Path(chosen) if chosen else SIBLING if SIBLING.is_file() else MINIMAL
    return _fit(_load(file), server), "a minimal RayService" if file == MINIMAL else "KubeRay's own RayService"


def without(node: Any, unwanted: Callable[[str, Any], bool]) -> Any:
    """The same plain data less the entries of mappings that are `unwanted(key, value)`."""
    if isinstance(node, dict):
        return {key: without(value, unwanted) for key, value in node.items() if not unwanted(key, value)}
    if isinstance(node, list):
        return [without(item, unwanted) for item in node]
    return node


def _fit(crd: dict[str, Any], server: tuple[int, int]) -> dict[str, Any]:
    """Old servers know no rules and refuse to store them."""
    if server >= CEL_SINCE:
        return crd
    fitting: dict[str, Any] = without(crd, lambda key, _: key == "x-kubernetes-validations")
    return fitting


def _load(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded
