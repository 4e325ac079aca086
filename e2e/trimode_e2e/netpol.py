"""Enforcement of NetworkPolicies by kube-network-policies, installed by its own manifest.

Belongs here: where manifest and program come from, as for `kuberay`.
"""

from __future__ import annotations

import re
from pathlib import Path

from trimode_e2e.control.build import CLUSTER, module_folder
from trimode_e2e.kubectl import Kubectl

MODULE = "sigs.k8s.io/kube-network-policies"
PROGRAM = "/bin/netpol"
"""Where its image holds it."""
READY_TIMEOUT_S = 300


def image() -> str:
    """The image's full name in its manifest, whose tag is that of the release before."""
    found = re.search(r"image: (\S+)", _manifest().read_text())
    assert found is not None
    return found[1]


def install(kubectl: Kubectl) -> None:
    """Returns once it decides over connections."""
    kubectl("apply", "-f", str(_manifest()))
    kubectl("rollout", "status", "ds/kube-network-policies", "-n", "kube-system", f"--timeout={READY_TIMEOUT_S}s")


def _manifest() -> Path:
    return module_folder(CLUSTER, MODULE) / "install.yaml"
