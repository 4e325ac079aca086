"""The operator as the chart's own pods: probes, bounds by kernel and RBAC, its Lease, and the loss of a leader."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest

from trimode_e2e.helm import Helm
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.operator_pods import OperatorPods
from trimode_e2e.world import KIND, VERSION, World, tiny

pytestmark = pytest.mark.timeout(1800)

USER = "65532"
"""The image's own, in the Containerfile."""
MEMORY = 512 << 20
"""The chart's limit."""


@pytest.fixture(scope="module", autouse=True)
def begun() -> str:
    """When this module began, as the API server writes times."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def reaches(world: World, name: str, home: str) -> None:
    """A new resource gets a status of its generation, and the children that even a suspended one has."""
    world.api.create(tiny(name, home, suspend=True))
    world.until_condition(name, home, "Suspended", timeout_s=60)
    assert {f"ConfigMap/{name}-policy", f"Deployment/{name}-router", f"Secret/{name}-token"} <= world.children(
        name, home
    ).keys()


def test_the_charts_pods_are_ready_and_one_leads(operators: OperatorPods) -> None:
    pods = operators.ready()
    leader = operators.one_leads()
    assert leader["metadata"]["name"] in {pod["metadata"]["name"] for pod in pods}
    assert {pod["spec"]["serviceAccountName"] for pod in pods} == {operators.release}


def test_its_processes_are_confined_by_the_kernel(operators: OperatorPods) -> None:
    for pod in operators.ready():
        process = operators.process(pod)
        status = fields(Path(f"/proc/{process.pid}/status"))
        # No word of the group: kubelet hands on the image's user only, and containerd then takes 0 where /etc/passwd
        # of the image does not know that user.
        assert set(status["Uid"].split()) == {USER}
        capabilities = {name: int(value, 16) for name, value in status.items() if name.startswith("Cap")}
        assert set(capabilities.values()) == {0}
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2", "no filter"
        mounts = mount_options(process)
        for place in ("/", "/etc/trimode", "/var/run/secrets/kubernetes.io/serviceaccount"):
            assert "ro" in mounts[place], place
        assert "rw" in mounts["/tmp"]
        assert memory_limit(process) == MEMORY


def fields(file: Path) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in file.read_text().splitlines() if ":\t" in line)


def mount_options(process: psutil.Process) -> dict[str, list[str]]:
    lines = Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()
    return {line.split()[4]: line.split()[5].split(",") for line in lines}


def memory_limit(process: psutil.Process) -> int:
    """Bytes, as the process' own cgroup has it."""
    groups = (line.split(":", 2) for line in Path(f"/proc/{process.pid}/cgroup").read_text().splitlines())
    (path,) = [where for _, controllers, where in groups if controllers == "memory"]
    return int(Path(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes").read_text())


@pytest.mark.parametrize(
    "question",
    [
        "create pods",
        "create pods --subresource=exec",
        "get nodes",
        "delete namespaces",
        "create clusterrolebindings",
        "escalate clusterroles",
        "impersonate serviceaccounts",
        "create serviceaccounts --subresource=token",
        "update nemotrondeployments.trimode.dev",
        "delete nemotrondeployments.trimode.dev",
        "delete rayclusters.ray.io",
        "update leases.coordination.k8s.io/another -n {namespace}",
        "get leases.coordination.k8s.io/{release} -n default",
    ],
)
def test_its_account_may_not(operators: OperatorPods, kubectl: Kubectl, question: str) -> None:
    words = question.format(namespace=operators.namespace, release=operators.release).split()
    assert kubectl.attempt("auth", "can-i", *words, f"--as={operators.account}").stdout.strip() == "no"


def test_it_serves_resources_with_the_rights_of_its_account(operators: OperatorPods, home: str) -> None:
    """The API server's audit log has its requests by the token in the pod; only the leader writes."""
    operators.ready()
    leader = operators.one_leads()["metadata"]["name"]
    asked = len(operators.requests())
    reaches(operators.world, "first", home)
    requests = operators.requests()[asked:]
    # Fleets of other modules may still be ending elsewhere meanwhile; the Lease is renewed every few seconds only.
    here = [each for each in requests if each.namespace == home]
    done = {(each.verb, each.resource) for each in here}
    assert {("patch", "nemotrondeployments"), ("patch", "deployments")} <= done
    assert {each.pod for each in here if each.writes} == {leader}
    operators.world.delete("first", home)


def test_the_metrics_service_reaches_it(operators: OperatorPods) -> None:
    """Through kube-proxy's rules, by the Service's address."""
    service = operators.world.api.get("v1", "Service", f"{operators.release}-metrics", operators.namespace)
    assert service is not None
    told = httpx.get(f"http://{service['spec']['clusterIP']}:8080/metrics", timeout=5, trust_env=False)
    assert "trimode_operator_leader" in told.text


def test_helms_own_test_passes(operators: OperatorPods, helm: Helm) -> None:
    """A pod that asks the metrics Service by its name: cluster DNS, NetworkPolicies and RBAC all let it."""
    assert "Phase:          Succeeded" in helm("test", operators.release, "--namespace", operators.namespace)


def test_when_the_leader_is_killed_the_other_takes_over(operators: OperatorPods, home: str) -> None:
    """Process and pod go at once, as with a lost machine: the Lease runs out."""
    operators.ready()
    old = operators.one_leads()
    name = old["metadata"]["name"]
    begun = time.monotonic()
    operators.process(old).kill()
    operators.world.api.delete("v1", "Pod", name, operators.namespace, grace_s=0)
    # Either of the two that are left may: the one that waited saw the last renewal seconds earlier than the newcomer
    # did, but where its request at the Lease's end is late on a busy machine, the newcomer's comes first.
    operators.one_leads(but=name)
    print(f"\nthe leader's pod killed: another leads after {time.monotonic() - begun:.1f} s")
    reaches(operators.world, "after-the-kill", home)
    assert name not in {pod["metadata"]["name"] for pod in operators.ready()}


def test_a_leader_that_hangs_is_replaced_and_restarted(operators: OperatorPods, home: str) -> None:
    """The other leads by the Lease; kubelet restarts the container by the chart's liveness probe."""
    operators.ready()
    old = operators.one_leads()
    name = old["metadata"]["name"]
    restarts = old["status"]["containerStatuses"][0]["restartCount"]
    begun = time.monotonic()
    operators.process(old).send_signal(signal.SIGSTOP)
    operators.one_leads(but=name)
    print(f"\nthe leader hangs: another leads after {time.monotonic() - begun:.1f} s")
    reaches(operators.world, "while-it-hangs", home)

    def restarted() -> bool:
        found = operators.pod(name)
        return found is not None and found["status"]["containerStatuses"][0]["restartCount"] > restarts

    operators.world.api.until(restarted, "kubelet restarts the container")
    operators.ready()
    print(f"the leader hangs: restarted and ready after {time.monotonic() - begun:.1f} s")


def test_a_leader_that_leaves_gives_the_lease_back(operators: OperatorPods, home: str) -> None:
    """`kubectl delete pod`, a drained node, a rollout."""
    operators.ready()
    old = operators.one_leads()["metadata"]["name"]
    begun = time.monotonic()
    operators.world.api.delete("v1", "Pod", old, operators.namespace)
    operators.one_leads(but=old)
    print(f"\nthe leader leaves: another leads after {time.monotonic() - begun:.1f} s")
    reaches(operators.world, "after-it-left", home)
    operators.world.api.until(lambda: operators.pod(old) is None, "the pod ends within its grace", 30)
    operators.ready()


def test_nothing_that_it_asked_was_forbidden(operators: OperatorPods, home: str, begun: str) -> None:
    """Last of the module: all that the operator has asked in it.

    Not since the chart was installed: commands of the docs uninstall it in between, and pods that end ask for their
    Lease once more when their rights are gone.
    """
    world = operators.world
    for found in world.api.listed(VERSION, KIND, home):
        world.delete(found["metadata"]["name"], home)
    operators.ready()
    asked = [each for each in operators.requests() if each.at >= begun]
    assert {each.verb for each in asked} >= {"get", "list", "watch", "patch", "update"}
    assert [(each.verb, each.uri) for each in asked if not each.allowed] == []
