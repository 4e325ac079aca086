"""NetworkPolicies, enforced: who reaches what of a fleet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from trimode_e2e.api import Object
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.world import World, is_ready, tiny

pytestmark = pytest.mark.timeout(1800)

NAME = "closed"
TRY = (
    "import socket, sys\n"
    "s = socket.socket(); s.settimeout(3)\n"
    "try: s.connect((sys.argv[1], int(sys.argv[2]))); print('open')\n"
    "except OSError as e: print('shut', type(e).__name__)\n"
)


@pytest.fixture(scope="module")
def serving(installed: World, home: str) -> Iterator[World]:
    installed.api.create(tiny(NAME, home))
    installed.until_condition(NAME, home, "Ready")
    yield installed
    installed.delete(NAME, home)


@pytest.fixture(scope="module")
def stranger(serving: World, home: str) -> str:
    """A pod of somebody else in the same namespace."""
    serving.api.create(outsider(home))
    serving.api.until(lambda: is_ready(serving.api.get("v1", "Pod", "stranger", home) or {"status": {}}), "it runs")
    return "stranger"


def outsider(home: str) -> Object:
    confined = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod: dict[str, Any] = {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "automountServiceAccountToken": False,
        "containers": [
            {"name": "python", "image": "trimode:0.1.0", "command": ["sleep", "3600"], "securityContext": confined}
        ],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger", "namespace": home}, "spec": pod}


@pytest.mark.parametrize(
    ("component", "port", "answer"),
    [("router", 8000, "open"), ("router", 8001, "shut"), ("head", 8265, "shut"), ("head", 6379, "shut"),
     ("worker", 8000, "shut")],
)  # fmt: skip
def test_a_stranger_reaches_the_routers_and_nothing_else(
    serving: World, kubectl: Kubectl, home: str, stranger: str, component: str, port: int, answer: str
) -> None:
    (pod, *_) = serving.ready_pods(home, instance=NAME, component=component)
    address = pod["status"]["podIP"]
    told = kubectl("exec", stranger, "-n", home, "--", "python", "-c", TRY, address, str(port))
    assert told.split()[0] == answer, f"{component}:{port}: {told}"


def test_names_of_services_resolve_in_a_pod(serving: World, kubectl: Kubectl, home: str, stranger: str) -> None:
    look = f"import socket; print(socket.gethostbyname('{NAME}-router.{home}.svc.cluster.local'))"
    service = serving.api.get("v1", "Service", f"{NAME}-router", home)
    assert service is not None
    assert kubectl("exec", stranger, "-n", home, "--", "python", "-c", look).strip() == service["spec"]["clusterIP"]
