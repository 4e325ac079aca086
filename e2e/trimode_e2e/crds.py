"""CustomResourceDefinitions as they are installed.

Belongs here: where ours and KubeRay's lie.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from trimode_e2e import kuberay

ROOT = Path(__file__).parents[2]
OURS = ROOT / "crds" / "nemotrondeployments.trimode.dev.yaml"


def ours() -> dict[str, Any]:
    """NemotronDeployment."""
    loaded: dict[str, Any] = yaml.load(OURS.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


def kuberays() -> list[dict[str, Any]]:
    """KubeRay's, as its release has them."""
    return kuberay.crds()
