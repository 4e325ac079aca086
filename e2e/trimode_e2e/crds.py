"""CustomResourceDefinitions as they are installed.

Belongs here: where ours, KubeRay's and KEDA's lie.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from trimode_e2e import kuberay
from trimode_e2e.control.build import KEDA, module_folder

ROOT = Path(__file__).parents[2]
KEDA_MODULE = "github.com/kedacore/keda/v2"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
OURS = ROOT / "crds" / "nemotrondeployments.trimode.dev.yaml"


def ours() -> dict[str, Any]:
    """NemotronDeployment."""
    loaded: dict[str, Any] = yaml.load(OURS.read_text(), Loader=_LOADER)
    return loaded


def scaled_object() -> dict[str, Any]:
    """KEDA's ScaledObject, from its module. Raises Missing and Broken where that cannot be had."""
    folder = module_folder(KEDA, KEDA_MODULE) / "config" / "crd" / "bases"
    loaded: dict[str, Any] = yaml.load((folder / "keda.sh_scaledobjects.yaml").read_text(), Loader=_LOADER)
    return loaded


def kuberays() -> list[dict[str, Any]]:
    """KubeRay's, as its release has them."""
    return kuberay.crds()
