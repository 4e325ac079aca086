"""What Kueue makes of fleets in its queues, with KubeRay and trimode's operator.

Belongs here: the steps, on a real API server without a node, and Kueue as a local process with its webhooks for Ray
and for its own kinds. Root, and a network of its own: Kueue's ports are fixed, and it reads a certificate in `/etc`.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import yaml

from trimode_e2e import kuberay
from trimode_e2e.api import Api, Object
from trimode_e2e.control import provide
from trimode_e2e.control.build import E2E, KUEUE, OLDER, build, module_folder
from trimode_e2e.control.certificates import Authority
from trimode_e2e.control.programs import Program
from trimode_e2e.crds import ROOT
from trimode_e2e.kubectl import Kubectl, kubectl_program
from trimode_e2e.node import network
from trimode_e2e.operator_process import HOME, Operator
from trimode_e2e.world import KIND, RAY, RAY_CLUSTER, VERSION, World, tiny

MODULE = "sigs.k8s.io/kueue"
RECORDED = E2E / KUEUE.folder / "recorded.json"
COMMAND = "PYTHONPATH=e2e python -m trimode_e2e record-kueue"
PLACE, NAME, QUEUE, FLAVOR = "team", "scaled", "gpus", {"gpu": "h100"}
API = "kueue.x-k8s.io/v1beta2"
CERTIFICATES = Path("/etc/kueue/metrics/certs")
"""Where it looks for the certificate of its metrics; no setting changes it."""
ELASTIC = "ElasticJobsViaWorkloadSlices"
PATIENCE_S, REST_S = 60.0, 4.0
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Say = Callable[[str], None]


def record(say: Say) -> None:
    """Write `RECORDED`. Root. Raises Missing and Broken."""
    program, rays = build(KUEUE, say) / "kueue", build(OLDER, say) / "kuberay-operator"
    config = module_folder(KUEUE, MODULE) / "config" / "components"  # before the network goes
    network.enter()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trimode-")))
        cluster = stack.enter_context(provide.paper())
        world = World.create(cluster, folder)
        for file in sorted((config / "crd" / "bases").glob("*.yaml")):
            world.install(yaml.load(file.read_text(), Loader=_LOADER))
        for each in (PLACE, HOME, "kueue-system"):
            world.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": each}})
        words = ("--metrics-addr=127.0.0.1:8080", "--health-probe-bind-address=127.0.0.1:8082")
        command = [str(rays), *words, "--enable-leader-election=false"]
        environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
        stack.callback(Program.start("kuberay", command, folder / "kuberay.log", env=environment).stop)
        stack.callback(Operator.start(cluster.kubeconfig, folder).program.stop)
        if not CERTIFICATES.exists():
            stack.callback(shutil.rmtree, CERTIFICATES.parents[1])
        kueue = Kueue(program, world.api, folder)
        stack.callback(kueue.stop)
        kueue.configure_webhooks(config / "webhook" / "manifests.yaml")
        recording = Recording(world.api, Kubectl(kubectl_program(), cluster.kubeconfig, folder), kueue)
        steps = recording.steps(say)
        about = {"command": COMMAND, "kueue": KUEUE.version(MODULE), "kuberay": kuberay.version()}
        about["kubernetes"] = cluster.stands_on
    RECORDED.write_text(json.dumps({"about": about, "steps": steps}, indent=1, sort_keys=True) + "\n")
    say(f"wrote {RECORDED.relative_to(ROOT)}: {len(steps)} steps")


class Kueue:
    """Its controller; `start` again is another configuration."""

    def __init__(self, program: Path, api: Api, folder: Path) -> None:
        self._program, self._api, self._folder = program, api, folder
        self._running: Program | None = None
        self._authority = Authority.create(folder, "kueue")
        pair = self._authority.server("kueue", "127.0.0.1")
        for place in (folder / "serving", CERTIFICATES):
            place.mkdir(parents=True, exist_ok=True)
            (place / "tls.crt").write_bytes(pair.certificate.read_bytes())
            (place / "tls.key").write_bytes(pair.key.read_bytes())

    def configure_webhooks(self, file: Path) -> None:
        """Its own, for Ray and its own kinds, by its address: no Service leads to it without a node."""
        bundle = base64.b64encode(self._authority.pair.certificate.read_bytes()).decode()
        for each in yaml.load_all(file.read_text(), Loader=_LOADER):
            paths = {hook["name"]: hook["clientConfig"]["service"]["path"] for hook in each["webhooks"]}
            wanted = ("-kueue-x-k8s-io-", "-ray-io-v1-rayservice", "-ray-io-v1-raycluster")
            hooks = [hook for hook in each["webhooks"] if any(part in paths[hook["name"]] for part in wanted)]
            for hook in hooks:
                url = f"https://127.0.0.1:9443{paths[hook['name']]}"
                hook["clientConfig"] = {"url": url, "caBundle": bundle}
            name = {"name": f"kueue-{each['kind'].lower()}"}
            self._api.apply({**each, "metadata": name, "webhooks": hooks})

    def start(self, frameworks: list[str], **gates: bool) -> None:
        self.stop()
        file = self._folder / "kueue.yaml"
        settings = {
            "apiVersion": "config.kueue.x-k8s.io/v1beta2",
            "kind": "Configuration",
            "namespace": "kueue-system",
            "health": {"healthProbeBindAddress": "127.0.0.1:8081"},
            "metrics": {"bindAddress": "127.0.0.1:8443"},
            "webhook": {"port": 9443, "host": "127.0.0.1", "certDir": str(self._folder / "serving")},
            "leaderElection": {"leaderElect": False},
            "internalCertManagement": {"enable": False},
            "integrations": {"frameworks": frameworks},
            "featureGates": {"VisibilityOnDemand": False, **gates},
        }
        file.write_text(json.dumps(settings))
        command = [str(self._program), "--config", str(file)]
        environment = {**os.environ, "KUBECONFIG": str(self._api.kubeconfig)}
        self._running = Program.start("kueue", command, self._folder / "kueue.log", env=environment)
        self._running.wait_until(_is_ready, PATIENCE_S)

    def stop(self) -> None:
        if self._running is not None:
            self._running.stop()


class Recording:
    def __init__(self, api: Api, kubectl: Kubectl, kueue: Kueue) -> None:
        self._api, self._kubectl, self._kueue = api, kubectl, kueue

    def steps(self, say: Say) -> list[Object]:
        done: list[Object] = []

        def step(name: str) -> None:
            done.append({"name": name, **self._at_rest()})
            say(f"{name}: {done[-1]['ready']}")

        fleet = tiny(NAME, PLACE)
        queued = {**fleet, "metadata": {**fleet["metadata"], "labels": {"kueue.x-k8s.io/queue-name": QUEUE}}}
        for frameworks in (["ray.io/raycluster"], ["ray.io/raycluster", "ray.io/rayservice"]):
            kind = frameworks[-1].removeprefix("ray.io/ray")
            self._kueue.start(frameworks, **{ELASTIC: True})
            self._queue("0")
            self._api.create(queued)
            step(f"{kind}: no quota")
            self._queue("100")
            step(f"{kind}: quota")
            self._kubectl("-n", PLACE, "patch", "nd", NAME, "--type=merge", "-p", _json(spec=_changed(fleet)))
            step(f"{kind}: changed")
            self._stop_queue("HoldAndDrain")
            step(f"{kind}: stopped")
            self._stop_queue("None")
            step(f"{kind}: goes on")
            self._delete()
            self._api.create(fleet)
            self._until_made()
            self._kubectl("-n", PLACE, "label", "nd", NAME, f"kueue.x-k8s.io/queue-name={QUEUE}")
            step(f"{kind}: put into the queue while it runs")
            self._delete()
        self._kueue.start(["ray.io/raycluster", "ray.io/rayservice"])
        self._api.create(queued)
        step("without the gate")
        return done

    def _queue(self, cores: str) -> None:
        quotas = [{"name": "cpu", "nominalQuota": cores}, {"name": "memory", "nominalQuota": "100Gi"}]
        group = {"coveredResources": ["cpu", "memory"], "flavors": [{"name": "h100", "resources": quotas}]}
        for kind, name, namespace, spec in (
            ("ResourceFlavor", "h100", None, {"nodeLabels": FLAVOR}),
            ("ClusterQueue", "all", None, {"namespaceSelector": {}, "resourceGroups": [group]}),
            ("LocalQueue", QUEUE, PLACE, {"clusterQueue": "all"}),
        ):
            metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
            self._api.apply({"apiVersion": API, "kind": kind, "metadata": metadata, "spec": spec})

    def _stop_queue(self, policy: str) -> None:
        self._api.patch(API, "ClusterQueue", "all", None, {"spec": {"stopPolicy": policy}})

    def _delete(self) -> None:
        self._kubectl("-n", PLACE, "delete", "nd", NAME, "--timeout=60s")

        def gone() -> bool:
            return not any(self._api.listed(*kind, PLACE) for kind in (RAY, RAY_CLUSTER))

        self._api.until(gone, "the fleet is gone", PATIENCE_S)

    def _until_made(self) -> None:
        self._api.until(lambda: self._api.listed(*RAY_CLUSTER, PLACE), "there is a Ray cluster", PATIENCE_S)

    def _at_rest(self) -> Object:
        """Everything as it is once nothing has changed for `REST_S`."""
        now, since = self._state(), time.monotonic()
        deadline = since + PATIENCE_S
        while time.monotonic() - since < REST_S:
            assert time.monotonic() < deadline, "it comes to no rest"
            time.sleep(0.2)
            if (found := self._state()) != now:
                now, since = found, time.monotonic()
        return now

    def _state(self) -> Object:
        resource = self._api.get(VERSION, KIND, NAME, PLACE) or {}
        told = (resource.get("status") or {}).get("conditions") or []
        ready = [f"{each['reason']}: {each['message']}" for each in told if each["type"] == "Ready"]
        made = [each for kind in (RAY, RAY_CLUSTER) for each in self._api.listed(*kind, PLACE)]
        workloads = self._api.listed(API, "Workload", PLACE)
        return {
            "ready": ready[0].partition("\n")[0] if ready else "",
            "services": [_held(each["spec"]["rayClusterConfig"]) for each in made if each["kind"] == "RayService"],
            "clusters": [_held(each["spec"]) for each in made if each["kind"] == "RayCluster"],
            "admitted": [_admitted(each) for each in workloads],
        }


def _held(spec: Object) -> Object:
    """Whether Kueue holds it, and where its workers' pods may run."""
    (group,) = spec["workerGroupSpecs"]
    return {"suspend": spec.get("suspend"), "nodes": group["template"]["spec"].get("nodeSelector")}


def _admitted(workload: Object) -> bool:
    told = (workload.get("status") or {}).get("conditions") or []
    return any((each["type"], each["status"]) == ("Admitted", "True") for each in told)


def _changed(fleet: Object) -> Object:
    return {"engine": {**fleet["spec"]["engine"], "maxRunningRequests": 9}}


def _json(**value: Any) -> str:
    return json.dumps(value)


def _is_ready() -> bool:
    try:
        return httpx.get("http://127.0.0.1:8081/readyz", timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
