"""The operator as real pods of the chart: containerd, kubelet, its ServiceAccount, its probes, its Lease.

The chart is installed as it is. Only the image is not the Containerfile's: it is made of this environment's files.
"""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from trimode_e2e.api import Api, Object
from trimode_e2e.control.provide import provide
from trimode_e2e.crds import MINIMAL, ROOT
from trimode_e2e.errors import Broken, Missing
from trimode_e2e.helm import Helm, Rendered, helm_python
from trimode_e2e.node import machine, runtime
from trimode_e2e.node.node import RealNode

pytestmark = [pytest.mark.cluster, pytest.mark.node, pytest.mark.timeout(900)]

CHART = ROOT / "charts" / "trimode"
RELEASE, NAMESPACE, TEAM = "trimode", "trimode-system", "team-a"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:trimode"
VERSION, KIND = "trimode.dev/v1alpha1", "NemotronDeployment"
TINY: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "tiny.yaml").read_text())
PODS_TIMEOUT_S = 240.0
USER = 65532
"""The image's own, in the Containerfile and here."""


@dataclass
class Installed:
    """The chart on a control plane of this module's own with one real node, after `helm install`."""

    node: RealNode
    api: Api
    rendered: Rendered
    audit_log: Path

    def pods(
        self, namespace: str = NAMESPACE, selector: str = "app.kubernetes.io/name=trimode-operator"
    ) -> list[Object]:
        """Those that are not on their way out."""
        found = self.api.listed("v1", "Pod", namespace, selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def ready(self, count: int, namespace: str = NAMESPACE, **selector: str) -> list[Object]:
        """That many pods, all ready. Fails with their states and what they print."""

        def look() -> list[Object]:
            pods = self.pods(namespace, **selector)
            return pods if len(pods) == count and all(is_ready(pod) for pod in pods) else []

        try:
            found: list[Object] = self.api.until(look, f"{count} ready pods in {namespace}", PODS_TIMEOUT_S)
        except AssertionError as exc:
            pods = self.pods(namespace, **selector)
            states = [pod["status"].get("containerStatuses") or pod["status"] for pod in pods]
            logs = "\n".join(self.node.log(pod)[-2000:] for pod in pods)
            raise AssertionError(f"{exc}; {json.dumps(states, indent=1)}\n{logs}") from exc
        return found

    def pod(self, name: str) -> Object | None:
        return self.api.get("v1", "Pod", name, NAMESPACE)

    def leader(self) -> str:
        """The pod that the Lease names."""
        lease = self.api.get("coordination.k8s.io/v1", "Lease", RELEASE, NAMESPACE) or {}
        holder = str((lease.get("spec") or {}).get("holderIdentity") or "")
        return next((pod["metadata"]["name"] for pod in self.pods() if holder.startswith(pod["metadata"]["name"])), "")

    def another_leads(self, than: str) -> str:
        """Wait until a pod of another name leads, and says so itself."""
        name: str = self.api.until(lambda: self.leader() not in ("", than) and self.leader(), "another leads", 60)
        pod = self.pod(name)
        assert pod is not None
        self.api.until(lambda: self.leads(pod), f"{name} says that it leads", 60)
        return name

    def leads(self, pod: Object) -> bool:
        address = pod["status"]["podIP"]
        return "trimode_operator_leader 1.0" in self.node.fetch(f"http://{address}:8080/metrics").splitlines()

    def process(self, pod: Object) -> psutil.Process:
        (found,) = self.node.processes(pod, "trimode_operator")
        return found

    def reaches(self, name: str, **spec: Any) -> None:
        """Write a resource, and wait until an operator has acted on this very generation."""
        manifest = {**TINY, "metadata": {"name": name, "namespace": TEAM}}
        manifest["spec"] = {**manifest["spec"], **spec}
        generation = self.api.apply(manifest)["metadata"]["generation"]

        def seen() -> bool:
            found = self.api.get(VERSION, KIND, name, TEAM) or {}
            conditions = (found.get("status") or {}).get("conditions") or []
            return any(each.get("observedGeneration") == generation for each in conditions)

        self.api.until(seen, f"the status of {name} is of generation {generation}", 60)

    def requests(self) -> list[Object]:
        """What the operator's account has asked of the API server, from its audit log."""
        lines = (json.loads(line) for line in self.audit_log.read_text().splitlines())
        return [line for line in lines if line["user"].get("username") == ACCOUNT]


def is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    node: RealNode | None = None
    try:
        machine.require()
        programs = runtime.find()
        python = helm_python()
        with provide() as cluster:
            if cluster.plane is None or not cluster.has_controllers:
                pytest.skip(f"{cluster.origin}: a node joins only a control plane of the harness's own build")
            api = Api(cluster.kubeconfig)
            api.create(yaml.safe_load(MINIMAL.read_text()))
            for name in (NAMESPACE, TEAM):
                api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            node = RealNode(cluster.plane, api, programs, tmp_path_factory.mktemp("node"))
            try:
                node.start()
                with Helm(python, cluster.kubeconfig) as helm:
                    rendered = helm.install(CHART, {}, release=RELEASE, namespace=NAMESPACE)
                    image = rendered.one("Deployment")["spec"]["template"]["spec"]["containers"][0]["image"]
                    node.add_image(f"docker.io/library/{image}")
                    api.until(lambda: api.knows(VERSION, KIND), "the CRD is served")
                    yield Installed(node, api, rendered, cluster.plane.audit_log)
            finally:
                node.stop()
            assert node.remains() == [], "the end of a node leaves nothing on the machine"
    except Missing as missing:
        pytest.skip(str(missing))


def test_the_charts_pods_become_ready_and_one_leads(installed: Installed) -> None:
    pods = installed.ready(2)
    wanted = installed.rendered.one("Deployment")["spec"]["template"]["spec"]["containers"][0]
    for pod in pods:
        assert pod["spec"]["nodeName"] == "node"
        assert pod["spec"]["serviceAccountName"] == "trimode"
        container = pod["spec"]["containers"][0]
        assert {key: container[key] for key in ("command", "args", "securityContext", "image")} == {
            key: wanted[key] for key in ("command", "args", "securityContext", "image")
        }
    leader = installed.another_leads("")
    assert [pod["metadata"]["name"] for pod in pods if installed.leads(pod)] == [leader]


def test_its_process_is_confined_by_the_kernel(installed: Installed) -> None:
    for pod in installed.ready(2):
        process = installed.process(pod)
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert set(status["Uid"].split()) == {str(USER)}
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2", "a filter"
        mounts = {line.split()[4]: line.split()[5] for line in mountinfo(process)}
        assert "ro" in mounts["/"].split(",")
        assert "ro" in mounts["/etc/trimode"].split(",")
        assert "rw" in mounts["/tmp"].split(",")
        assert "ro" in mounts["/var/run/secrets/kubernetes.io/serviceaccount"].split(",")
        limit = Path(f"/proc/{process.pid}/cgroup").read_text()
        assert pod["metadata"]["uid"] in limit


def mountinfo(process: psutil.Process) -> list[str]:
    return Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()


def test_it_serves_resources_with_the_rights_of_its_account(installed: Installed) -> None:
    """The API server's audit log has its requests under the ServiceAccount's name, by the token in the pod."""
    installed.ready(2)
    installed.reaches("tiny")
    api = installed.api
    assert api.get("ray.io/v1", "RayService", "tiny", TEAM)
    policies = api.listed("networking.k8s.io/v1", "NetworkPolicy", TEAM, "app.kubernetes.io/instance=tiny")
    assert policies
    for policy in policies:
        assert policy["spec"]["podSelector"]["matchLabels"]
    requests = [each for each in installed.requests() if "objectRef" in each]  # the others are discovery
    done = Counter((each["verb"], each["objectRef"]["resource"]) for each in requests)
    assert {("list", "nemotrondeployments"), ("patch", "rayservices"), ("update", "leases")} <= done.keys()
    assert {each["objectRef"]["namespace"] for each in requests if each["verb"] == "patch"} == {TEAM}


def test_routers_run_as_it_made_them(installed: Installed) -> None:
    """Their probes, their security context and the way from the operator's pod to theirs."""
    installed.ready(2)
    installed.reaches("tiny")
    selector = "app.kubernetes.io/instance=tiny,app.kubernetes.io/component=router"

    def live() -> list[Object]:
        pods = installed.pods(TEAM, selector)
        return pods if pods and all(pod["status"].get("podIP") and runs(pod) for pod in pods) else []

    pods = installed.api.until(live, "the routers' pods run", PODS_TIMEOUT_S)
    for pod in pods:
        address = pod["status"]["podIP"]
        installed.api.until(partial(answers, installed.node, f"http://{address}:8000/healthz"), "a router answers", 60)
        (process,) = installed.node.processes(pod, "trimode_router")
        assert process.uids().effective == USER


def runs(pod: Object) -> bool:
    return all("running" in each["state"] for each in pod["status"].get("containerStatuses") or [{"state": {}}])


def answers(node: RealNode, url: str) -> bool:
    try:
        node.fetch(url)
    except Broken:
        return False
    return True


def test_the_metrics_service_reaches_it(installed: Installed) -> None:
    """Through kube-proxy's rules, by the Service's address."""
    installed.ready(2)
    service = installed.api.get("v1", "Service", "trimode-metrics", NAMESPACE)
    assert service is not None
    url = f"http://{service['spec']['clusterIP']}:8080/metrics"
    installed.api.until(lambda: answers(installed.node, url), "the Service answers", 60)
    assert "trimode_operator_leader" in installed.node.fetch(url)


def test_when_the_leaders_pod_is_killed_the_other_takes_over(installed: Installed) -> None:
    before = {pod["metadata"]["name"]: pod for pod in installed.ready(2)}
    old = installed.another_leads("")
    begun = time.monotonic()
    installed.process(before[old]).kill()
    installed.api.delete("v1", "Pod", old, NAMESPACE, grace_s=0)
    new = installed.another_leads(old)
    print(f"the leader's pod killed: another leads after {time.monotonic() - begun:.1f} s")
    assert new in before, "the one that was ready, not the newcomer"
    installed.reaches("after-the-kill")
    assert old not in {pod["metadata"]["name"] for pod in installed.ready(2)}


def test_a_leader_that_hangs_is_restarted_by_its_probe(installed: Installed) -> None:
    installed.ready(2)
    old = installed.another_leads("")
    pod = installed.pod(old)
    assert pod is not None
    process = installed.process(pod)
    begun = time.monotonic()
    process.send_signal(signal.SIGSTOP)
    installed.another_leads(old)
    print(f"the leader hangs: another leads after {time.monotonic() - begun:.1f} s")
    installed.reaches("while-it-hangs")

    def restarted() -> bool:
        found = installed.pod(old)
        assert found is not None
        return bool(
            found["status"]["containerStatuses"][0]["restartCount"]
            > pod["status"]["containerStatuses"][0]["restartCount"]
        )

    installed.api.until(restarted, "kubelet restarts the container", 180)
    installed.ready(2)


def test_a_pod_that_leaves_gives_the_lease_back(installed: Installed) -> None:
    installed.ready(2)
    old = installed.another_leads("")
    installed.api.delete("v1", "Pod", old, NAMESPACE)
    installed.another_leads(old)
    installed.api.until(lambda: installed.pod(old) is None, "the pod has ended within its grace", 60)
    installed.ready(2)


def test_nothing_of_it_is_forbidden(installed: Installed) -> None:
    """At the end of the module: whatever the operator asked until now, it was allowed to."""
    installed.ready(2)
    time.sleep(2)  # what is on its way
    refused = [each for each in installed.requests() if each["responseStatus"]["code"] in (401, 403)]
    assert [(each["verb"], each["requestURI"]) for each in refused] == []
