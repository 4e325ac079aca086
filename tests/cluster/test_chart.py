"""The chart on a real API server: accepted, with the rights that the operator needs and no others, and gone again."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from kubernetes import config

from trimode_e2e import crds
from trimode_e2e.api import Api
from trimode_e2e.control import provide
from trimode_e2e.control.plane import ControlPlane
from trimode_e2e.control.programs import Program
from trimode_e2e.errors import Missing
from trimode_e2e.helm import Helm, Rendered, helm_program

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "trimode"
RELEASE, NAMESPACE = "trimode", "trimode-system"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:trimode"
CRD = "nemotrondeployments.trimode.dev"
TINY: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "tiny.yaml").read_text())
COMES_BY_ITSELF = {
    "APIService",
    "Event",
    "Lease",
    "EndpointSlice",
    "Endpoints",
    "FlowSchema",
    "PriorityLevelConfiguration",
}
"""Kinds that the control plane writes for its own ends, whatever is installed."""


@dataclass
class Place:
    """A control plane of this module's own, since the chart brings the CRD that the others have installed by hand."""

    plane: ControlPlane
    api: Api
    helm: Helm

    @contextmanager
    def release(self, values: dict[str, Any] | None = None) -> Iterator[Rendered]:
        """Installed, and uninstalled at the end; a failed installation leaves a release too."""
        try:
            yield self.helm.install(CHART, values or {}, release=RELEASE, namespace=NAMESPACE)
        finally:
            self.helm.uninstall(release=RELEASE, namespace=NAMESPACE)

    def http(self) -> Any:
        load: Any = config.new_client_from_config
        return load(str(self.plane.admin))

    def everything(self) -> dict[tuple[str, str, str], str]:
        """(kind, namespace, name): uid of all there is, but for what comes by itself."""
        return {name: metadata.get("uid", "") for name, metadata in self.metadata().items()}

    def garbage(self) -> list[tuple[str, str, str]]:
        """What is being deleted, or is owned by something that is gone: the garbage collector's work still to do."""
        found = self.metadata()
        alive = {metadata.get("uid") for metadata in found.values()}
        return [
            name
            for name, metadata in found.items()
            if "deletionTimestamp" in metadata
            or any(owner["uid"] not in alive for owner in metadata.get("ownerReferences") or ())
        ]

    def metadata(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """(kind, namespace, name): metadata of all there is, but for what comes by itself."""
        http, found = self.http(), {}
        for path in ["/api/v1", *(f"/apis/{version}" for version in group_versions(http))]:
            for resource in call(http, "GET", path).get("resources", ()):
                if "list" not in resource["verbs"] or "/" in resource["name"] or resource["kind"] in COMES_BY_ITSELF:
                    continue
                for item in call(http, "GET", f"{path}/{resource['name']}")["items"]:
                    metadata = item["metadata"]
                    found[resource["kind"], metadata.get("namespace", ""), metadata["name"]] = metadata
        return found


def call(http: Any, method: str, path: str, body: Any = None, **query: str) -> Any:
    """One request as the administrator; what the server answers, a refusal included."""
    url = http.configuration.host + path + (f"?{urlencode(query)}" if query else "")
    answer = http.rest_client.request(method, url, headers={"Content-Type": "application/json"}, body=body)
    data = answer.read()
    return json.loads(data) if data.startswith(b"{") else {}  # a path that is not served has a word of text


def group_versions(http: Any) -> list[str]:
    return [group["preferredVersion"]["groupVersion"] for group in call(http, "GET", "/apis")["groups"]]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    try:
        with provide.paper() as cluster:
            if cluster.plane is None or not cluster.plane.has_controllers:
                pytest.skip(f"{cluster.stands_on}: these tests want a control plane of their own, with controllers")
            api = Api(cluster.kubeconfig)
            for name in (NAMESPACE, "team-a", "team-b"):
                api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            for crd in crds.kuberays():
                api.create(crd)
            # Pods are accepted only where it is.
            api.until(lambda: api.get("v1", "ServiceAccount", "default", NAMESPACE), "the namespace's ServiceAccount")
            yield Place(cluster.plane, api, Helm(helm_program(), cluster.kubeconfig))
    except Missing as missing:
        pytest.skip(str(missing))


def loose(group: str, kind: str, plural: str) -> dict[str, Any]:
    """A CRD of another project that takes any fields."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


@pytest.fixture(scope="module")
def prometheus(place: Place) -> None:
    """The Prometheus Operator's kinds, without its schemas."""
    for kind, plural in (("ServiceMonitor", "servicemonitors"), ("PrometheusRule", "prometheusrules")):
        place.api.create(loose("monitoring.coreos.com", kind, plural))
        place.api.until(lambda kind=kind: place.api.knows("monitoring.coreos.com/v1", kind), f"{kind} is served")


@pytest.mark.parametrize("options", ["default", "all"])
@pytest.mark.usefixtures("prometheus")
def test_the_server_accepts_every_object_in_a_dry_run(place: Place, options: str) -> None:
    values = {} if options == "default" else yaml.safe_load((CHART / "ci" / "all-values.yaml").read_text())
    http = place.http()
    rendered = Helm(helm_program()).render(CHART, values)
    for item in [*rendered.objects, *rendered.hooks]:
        group = f"/apis/{item['apiVersion']}" if "/" in item["apiVersion"] else "/api/v1"
        plural = next(r for r in call(http, "GET", group)["resources"] if r["kind"] == item["kind"])
        space = f"/namespaces/{item['metadata']['namespace']}" if plural["namespaced"] else ""
        made = call(http, "POST", f"{group}{space}/{plural['name']}", item, dryRun="All", fieldValidation="Strict")
        assert made["kind"] == item["kind"], made
        assert made["metadata"]["uid"]
    assert not [name for name in place.everything() if "trimode" in name[2] and name[0] not in ("Namespace",)]


@pytest.fixture
def installed(place: Place) -> Iterator[Rendered]:
    with place.release() as rendered:
        yield rendered


def may(place: Place, verb: str, resource: str, namespace: str = "", name: str = "") -> bool:
    """What the server's own authoriser says of the operator's account. `resource`: PLURAL[/SUB].GROUP."""
    plural, _, group = resource.partition(".")
    plural, _, sub = plural.partition("/")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": ACCOUNT,
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"],
            "resourceAttributes": {
                "verb": verb,
                "group": group,
                "resource": plural,
                "subresource": sub,
                "namespace": namespace,
                "name": name,
            },
        },
    }
    made = call(place.http(), "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(made["status"]["allowed"])


NEEDED = [
    ("list", "nemotrondeployments.trimode.dev"),
    ("patch", "nemotrondeployments.trimode.dev"),
    ("patch", "nemotrondeployments/status.trimode.dev"),
    ("update", "nemotrondeployments/finalizers.trimode.dev"),
    ("patch", "rayservices.ray.io"),
    ("watch", "secrets"),
    ("create", "deployments.apps"),
    ("delete", "networkpolicies.networking.k8s.io"),
    ("patch", "poddisruptionbudgets.policy"),
    ("create", "servicemonitors.monitoring.coreos.com"),
    ("list", "endpointslices.discovery.k8s.io"),
    ("watch", "endpointslices.discovery.k8s.io"),
    ("patch", "rayservices/status.ray.io"),
    ("get", "rayclusters.ray.io"),
    ("patch", "rayclusters.ray.io"),
    ("create", "events"),
]
DENIED = [
    ("create", "nemotrondeployments.trimode.dev"),
    ("delete", "nemotrondeployments.trimode.dev"),
    ("create", "pods"),
    ("create", "pods/exec"),
    ("list", "nodes"),
    ("create", "clusterroles.rbac.authorization.k8s.io"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("create", "serviceaccounts/token"),
    ("impersonate", "users"),
    ("delete", "namespaces"),
    ("patch", "customresourcedefinitions.apiextensions.k8s.io"),
    ("create", "leases.coordination.k8s.io"),
    ("deletecollection", "secrets"),
]


def test_rights_are_what_is_needed_and_no_more(place: Place, installed: Rendered) -> None:
    assert [need for need in NEEDED if not may(place, *need, namespace="team-a")] == []
    assert [need for need in DENIED if may(place, *need, namespace="team-a")] == []
    assert may(place, "update", "leases.coordination.k8s.io", NAMESPACE, "trimode")
    assert not may(place, "update", "leases.coordination.k8s.io", NAMESPACE, "another")


def test_rights_end_at_the_watched_namespaces(place: Place) -> None:
    with place.release({"watchNamespaces": ["team-a"]}):
        assert [need for need in NEEDED if not may(place, *need, namespace="team-a")] == []
        assert [need for need in NEEDED if may(place, *need, namespace="team-b")] == []
        assert not may(place, "list", "customresourcedefinitions.apiextensions.k8s.io")


def test_a_deployment_of_two_hardened_pods_comes_up(place: Place, installed: Rendered) -> None:
    def pods() -> list[dict[str, Any]]:
        return place.api.listed("v1", "Pod", NAMESPACE, "app.kubernetes.io/name=trimode-operator")

    found = place.api.until(lambda: len(pods()) == 2 and pods(), "the Deployment's pods exist")
    for pod in found:
        assert pod["spec"]["serviceAccountName"] == "trimode"
        assert any(volume["name"].startswith(("trimode-token", "kube-api-access")) for volume in pod["spec"]["volumes"])


@pytest.mark.parametrize("watched", [[], ["team-a"]], ids=["cluster-wide", "namespaced"])
def test_the_operator_works_with_the_charts_rights_and_settings(
    place: Place, tmp_path: Path, watched: list[str]
) -> None:
    name = "chosen" if watched else "all"  # the other's children may still be going
    with place.release({"watchNamespaces": watched}) as rendered, running(place, rendered, tmp_path):
        for namespace in ("team-a", "team-b"):
            place.api.apply({**TINY, "metadata": {"name": name, "namespace": namespace}})
        seen = ["team-a"] if watched else ["team-a", "team-b"]
        for namespace in seen:
            place.api.until(lambda ns=namespace: ready(place, ns, name), f"a status in {namespace}")
            children = place.api.listed("apps/v1", "Deployment", namespace, f"app.kubernetes.io/instance={name}")
            assert [child["metadata"]["name"] for child in children] == [f"{name}-router"]
            assert place.api.get("ray.io/v1", "RayService", name, namespace)
        assert bool(ready(place, "team-b", name)) == (not watched)
        lease = place.api.get("coordination.k8s.io/v1", "Lease", "trimode", NAMESPACE)
        assert lease is not None
        assert lease["spec"]["holderIdentity"].startswith("operator-0")
        for namespace in ("team-a", "team-b"):
            place.api.delete("trimode.dev/v1alpha1", "NemotronDeployment", name, namespace)
            place.api.until(lambda ns=namespace: not resources(place, ns), f"{namespace}'s resource is gone")
    assert "orbidden" not in (tmp_path / "operator.log").read_text()


def resources(place: Place, namespace: str) -> list[dict[str, Any]]:
    return place.api.listed("trimode.dev/v1alpha1", "NemotronDeployment", namespace)


def ready(place: Place, namespace: str, name: str) -> dict[str, Any] | None:
    """The condition, where the operator has been there."""
    found = place.api.get("trimode.dev/v1alpha1", "NemotronDeployment", name, namespace) or {}
    conditions = (found.get("status") or {}).get("conditions") or []
    return next((each for each in conditions if each["type"] == "Ready"), None)


class running:
    """The operator as the chart starts it, as a local process and the chart's ServiceAccount."""

    def __init__(self, place: Place, rendered: Rendered, folder: Path) -> None:
        container = rendered.one("Deployment")["spec"]["template"]["spec"]["containers"][0]
        (folder / "settings.yaml").write_text(rendered.one("ConfigMap", "trimode")["data"]["settings.yaml"])
        arguments = [word.replace("/etc/trimode", str(folder)) for word in container["args"]]
        self._command = [
            sys.executable,
            *container["command"][1:],
            *arguments,
            "--host=127.0.0.1",
            "--metrics-port=0",
            "--health-port=0",
        ]
        kubeconfig = place.plane.kubeconfig_of(
            ACCOUNT, ("system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}")
        )
        self._environment = os.environ | {
            "KUBECONFIG": str(kubeconfig),
            "POD_NAME": "operator-0",
            "POD_NAMESPACE": NAMESPACE,
        }
        self._log = folder / "operator.log"

    def __enter__(self) -> Program:
        self._program = Program.start("operator", self._command, self._log, env=self._environment)
        return self._program

    def __exit__(self, *_: object) -> None:
        self._program.stop()
        sys.stdout.write(self._log.read_text())


def test_the_lease_goes_with_the_release_though_the_operator_still_runs(place: Place, tmp_path: Path) -> None:
    def holder() -> str:
        lease = place.api.get("coordination.k8s.io/v1", "Lease", "trimode", NAMESPACE)
        return "" if lease is None else str((lease.get("spec") or {}).get("holderIdentity", ""))

    with ExitStack() as outer:
        with place.release() as rendered:
            outer.enter_context(running(place, rendered, tmp_path))
            place.api.until(holder, "a leader")
            place.helm.upgrade(CHART, {"replicas": 1}, release=RELEASE, namespace=NAMESPACE)
            assert holder(), "an upgrade leaves the leader alone"
        log = tmp_path / "operator.log"
        place.api.until(lambda: "lease not renewed" in log.read_text(), "the operator has lost its rights")
        assert place.api.get("coordination.k8s.io/v1", "Lease", "trimode", NAMESPACE) is None


def test_upgrade_and_back(place: Place) -> None:
    def settings() -> str:
        found = place.api.get("v1", "ConfigMap", "trimode", NAMESPACE)
        assert found is not None
        return str(found["data"]["settings.yaml"])

    def copies() -> int:
        found = place.api.get("apps/v1", "Deployment", "trimode", NAMESPACE)
        assert found is not None
        return int(found["spec"]["replicas"])

    with place.release():
        other = {"replicas": 3, "settings": {"gpuResource": "example.com/gpu"}}
        place.helm.upgrade(CHART, other, release=RELEASE, namespace=NAMESPACE)
        assert "gpuResource: example.com/gpu" in settings()
        assert copies() == 3
        place.helm.upgrade(CHART, {}, release=RELEASE, namespace=NAMESPACE)
        assert "gpuResource" not in settings()
        assert copies() == 2


def test_an_upgrade_brings_the_new_crd(place: Place, tmp_path: Path) -> None:
    old = tmp_path / "trimode"
    shutil.copytree(CHART, old)
    definition = old / "files" / f"{CRD}.yaml"
    definition.write_text(definition.read_text().replace("    - name: SLO\n", "    - name: Objective\n"))

    def columns() -> set[str]:
        found = place.api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", CRD)
        assert found is not None
        return {column["name"] for column in found["spec"]["versions"][0]["additionalPrinterColumns"]}

    with place.release():
        place.helm.upgrade(old, {}, release=RELEASE, namespace=NAMESPACE)
        assert "Objective" in columns()
        place.helm.upgrade(CHART, {}, release=RELEASE, namespace=NAMESPACE)
        assert {"SLO"} == columns() & {"SLO", "Objective"}


def test_uninstall_leaves_nothing_but_the_crd_and_its_resources(place: Place) -> None:
    # Children of earlier tests wait while their owner's kind is unknown, and went in the middle of this test once.
    place.api.until(lambda: not place.garbage(), "the garbage collector is through with earlier tests", 90)
    place.api.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", CRD)
    place.api.until(
        lambda: not call(place.http(), "GET", "/apis/trimode.dev/v1alpha1"), "the kept CRD is gone, not served"
    )
    before = place.everything()
    with place.release():
        place.api.until(lambda: place.api.knows("trimode.dev/v1alpha1", "NemotronDeployment"), "the CRD is served")
        place.api.create({**TINY, "metadata": {"name": "mine", "namespace": "team-a"}})
        kinds = {kind for kind, _, _ in place.everything().keys() - before.keys()}
        assert {
            "CustomResourceDefinition",
            "NemotronDeployment",
            "ServiceAccount",
            "ClusterRole",
            "Deployment",
        } <= kinds
    by_controllers = {"Pod", "ReplicaSet", "Secret"}
    place.api.until(
        lambda: not {name for name in place.everything().keys() - before.keys() if name[0] in by_controllers},
        "the garbage collector is through",
    )
    left = place.everything()
    assert left.keys() - before.keys() == {
        ("CustomResourceDefinition", "", CRD),
        ("NemotronDeployment", "team-a", "mine"),
    }
    assert {name: uid for name, uid in left.items() if name in before} == before
    with place.release():  # the kept CRD belongs to a release of this name
        assert resources(place, "team-a")
    place.api.delete("trimode.dev/v1alpha1", "NemotronDeployment", "mine", "team-a")
