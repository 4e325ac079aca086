"""KubeRay's own operator, installed by its own manifests.

Belongs here: where manifests and program come from, and the image that holds the program. Both are of the Go module
that `e2e/older/go.mod` pins; the image lies on the node under the name that the manifests ask for.
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from trimode_e2e.api import Api, Object
from trimode_e2e.control.build import OLDER, module_folder
from trimode_e2e.kubectl import Kubectl

MODULE = "github.com/ray-project/kuberay/ray-operator"
NAMESPACE, NAME = "kuberay-system", "kuberay-operator"
CRDS = ("rayclusters", "rayjobs", "rayservices")
PROGRAM, USER = "/manager", "65532:65532"
"""Where its image holds it, and as whom it runs."""
READY_TIMEOUT_S = 300


def version() -> str:
    """Of KubeRay, such as `v1.5.0`."""
    return OLDER.version(MODULE)


def image() -> str:
    """The image's full name in KubeRay's manifests."""
    return f"quay.io/kuberay/operator:{version()}"


def crds() -> list[Object]:
    """KubeRay's CRDs."""
    folder = module_folder(OLDER, MODULE) / "config" / "crd" / "bases"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [yaml.load((folder / f"ray.io_{name}.yaml").read_text(), Loader=loader) for name in CRDS]


def install(kubectl: Kubectl, api: Api, folder: Path) -> None:
    """As KubeRay's documentation does it with kustomize, into a namespace of its own; returns once it is ready."""
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    folder.mkdir()
    base = os.path.relpath(module_folder(OLDER, MODULE) / "config" / "default", folder)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({"namespace": NAMESPACE, "resources": [base]}))
    kubectl("apply", "--server-side", "-k", str(folder))  # its CRDs are too large for client-side apply
    kubectl("rollout", "status", f"deployment/{NAME}", "-n", NAMESPACE, f"--timeout={READY_TIMEOUT_S}s")
