"""Which optional APIs a cluster has, and what its KubeRay knows."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimode_lab.doubles.kubernetes.cluster import MemoryCluster
from trimode_operator.errors import ApiFailure, KubeRayTooOld
from trimode_operator.kube.discovery import APIS, GATEWAY, RAY, SCHEMAS, Discovery, require, spec_in
from trimode_operator.plan import Capabilities
from trimode_operator.plan.kuberay import NEEDED, knows, lacking
from trimode_operator.plan.settings import Settings

NONE = dict.fromkeys(APIS, False)
CRDS = Path(__file__).parents[3].parent / "shared" / "kuberay"


def schema(*paths: str) -> dict[str, Any]:
    """Of a RayService's spec with these fields."""
    made: dict[str, Any] = {"type": "object", "properties": {}}
    for path in paths:
        at = made
        for name in path.split("."):
            at = at.setdefault("properties", {}).setdefault(name, {"type": "object"})
    return made


V15 = schema(*NEEDED)
V17 = schema(*NEEDED, "rayClusterConfig.authOptions", "suspend")
V14 = schema(*(path for path in NEEDED if path != "rayClusterDeletionDelaySeconds"))


def serve(cluster: MemoryCluster, api: str, *plurals: str) -> None:
    groups = cluster.paths.setdefault("/apis", {"groups": []})["groups"]
    groups.append({"name": api.split("/")[0], "versions": [{"groupVersion": api}]})
    cluster.paths[f"/apis/{api}"] = {"resources": [{"name": plural} for plural in plurals]}


def publish(cluster: MemoryCluster, spec: dict[str, Any], mark: str, at: str = RAY, name: str = "RayService") -> None:
    """As the API server publishes a CustomResourceDefinition: under an address with a hash in it."""
    address = f"{SCHEMAS}/{at}?hash={mark}"
    cluster.paths[SCHEMAS] = {"paths": {at: {"serverRelativeURL": address}}}
    kind = {"group": at.split("/")[1], "version": "v1", "kind": name}
    cluster.paths[address] = {
        "components": {
            "schemas": {
                "io.ray.v1.RayCluster": {"x-kubernetes-group-version-kind": [kind | {"kind": "RayCluster"}]},
                "io.ray.v1.RayService": {"x-kubernetes-group-version-kind": [kind], "properties": {"spec": spec}},
            }
        }
    }


async def test_a_bare_cluster_has_none() -> None:
    assert await Discovery(MemoryCluster()).look() == Capabilities(**NONE)


@pytest.mark.parametrize(
    ("version", "has"),
    [
        ({"major": "1", "minor": "35"}, True),
        ({"major": "1", "minor": "37+"}, True),
        ({"major": "2", "minor": "0"}, True),
        ({"major": "1", "minor": "34"}, False),
        ({"major": "1", "minor": "34+"}, False),
        ({"major": "", "minor": ""}, True),
        ({}, True),
    ],
)
async def test_images_are_mounted_from_a_version_on(version: dict[str, str], has: bool) -> None:
    cluster = MemoryCluster()
    cluster.paths["/version"] = version
    assert (await Discovery(cluster).look()).image_volumes is has


async def test_an_upgraded_server_is_noticed() -> None:
    cluster = MemoryCluster()
    cluster.paths["/version"] = {"major": "1", "minor": "34"}
    discovery = Discovery(cluster)
    assert not (await discovery.look()).image_volumes
    cluster.paths["/version"] = {"major": "1", "minor": "35"}
    serve(cluster, "resource.k8s.io/v1", "deviceclasses")  # its APIs change with it
    assert (await discovery.look()).image_volumes


@pytest.mark.parametrize("name", APIS)
async def test_each_is_found(name: str) -> None:
    cluster = MemoryCluster()
    serve(cluster, *APIS[name])
    assert await Discovery(cluster).look() == Capabilities(**(NONE | {name: True}))


async def test_a_group_without_the_kind_is_not_it() -> None:
    cluster = MemoryCluster()
    serve(cluster, "ray.io/v1", "rayclusters")
    serve(cluster, "policy/v1beta1", "poddisruptionbudgets")
    assert await Discovery(cluster).look() == Capabilities(**NONE)


KUBERAY = Capabilities(**(NONE | {"kuberay": True}))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (V17, KUBERAY),
        (V15, replace(KUBERAY, rays_token=False)),
        (V14, replace(KUBERAY, rays_token=False, kuberay_lacks=("rayClusterDeletionDelaySeconds",))),
        ({"type": "object", "x-kubernetes-preserve-unknown-fields": True}, KUBERAY),
    ],
    ids=["1.7", "1.5.0", "1.4", "anything goes"],
)
async def test_what_the_installed_kuberay_knows(spec: dict[str, Any], expected: Capabilities) -> None:
    cluster = MemoryCluster()
    serve(cluster, *APIS["kuberay"])
    publish(cluster, spec, "1")
    assert await Discovery(cluster).look() == expected


@pytest.mark.parametrize(("rule", "known"), [({"matches": {}, "timeouts": {}}, True), ({"matches": {}}, False)])
async def test_whether_routes_have_timeouts(rule: dict[str, Any], known: bool) -> None:
    cluster = MemoryCluster()
    serve(cluster, *APIS["http_route"])
    rules = {"type": "array", "items": {"type": "object", "properties": rule}}
    publish(cluster, {"type": "object", "properties": {"rules": rules}}, "1", GATEWAY, "HTTPRoute")
    assert await Discovery(cluster).look() == Capabilities(**(NONE | {"http_route": True, "route_timeouts": known}))


async def test_an_upgraded_kuberay_is_noticed_and_its_schema_read_once() -> None:
    cluster = MemoryCluster()
    serve(cluster, *APIS["kuberay"])
    publish(cluster, V15, "1")
    discovery = Discovery(cluster)
    assert not (await discovery.look()).rays_token
    read = cluster.paths.pop(f"{SCHEMAS}/{RAY}?hash=1")
    assert read
    assert not (await discovery.look()).rays_token, "not read again"
    publish(cluster, V17, "2")
    assert (await discovery.look()).rays_token


async def test_a_schema_that_is_not_published_yet_is_waited_for() -> None:
    """Else every fleet would be replaced by one without a token, and back."""
    cluster = MemoryCluster()
    serve(cluster, *APIS["kuberay"])
    cluster.paths[SCHEMAS] = {"paths": {}}
    discovery = Discovery(cluster)
    assert await discovery.look() == Capabilities(**NONE)
    publish(cluster, V17, "1")
    assert await discovery.look() == KUBERAY
    cluster.paths[SCHEMAS] = {"paths": {}}
    assert await discovery.look() == KUBERAY, "what was known stays known"


async def test_where_schemas_may_not_be_read_anything_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = MemoryCluster()
    serve(cluster, *APIS["kuberay"])
    read = cluster.read

    async def guarded(path: str) -> dict[str, Any] | None:
        if path == SCHEMAS:
            raise ApiFailure(403, "Forbidden", "openapi is forbidden")
        return await read(path)

    monkeypatch.setattr(cluster, "read", guarded)
    assert await Discovery(cluster).look() == KUBERAY


@pytest.mark.parametrize(("reason", "soon"), [("Http404", True), ("FieldUnknown", True), ("Forbidden", False)])
async def test_a_visit_that_fails_at_an_api_that_has_gone_has_it_looked_for(
    monkeypatch: pytest.MonkeyPatch, reason: str, soon: bool
) -> None:
    monkeypatch.setattr("trimode_operator.kube.discovery.SOON_S", 0.0)
    monkeypatch.setattr("trimode_operator.kube.discovery.EVERY_S", 3600.0)
    discovery = Discovery(MemoryCluster())
    await discovery.pause()  # nothing is known yet
    await discovery.look()
    pause = asyncio.create_task(discovery.pause())
    discovery.failed(reason)
    done, _ = await asyncio.wait((pause,), timeout=5.0 if soon else 0.05)
    assert bool(done) is soon
    pause.cancel()


def real(version: str) -> dict[str, Any]:
    crd = CRDS / "ray.io_rayservices.yaml"
    if not crd.is_file():
        pytest.skip(f"NO KUBERAY CRD at {crd}: fetch ray-operator/config/crd/bases/ray.io_rayservices.yaml of KubeRay")
    loaded = yaml.load(crd.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (found,) = [each for each in loaded["spec"]["versions"] if each["name"] == "v1"]
    spec: dict[str, Any] = copy.deepcopy(found["schema"]["openAPIV3Schema"]["properties"]["spec"])
    if version == "1.5.0":
        del spec["properties"]["rayClusterConfig"]["properties"]["authOptions"], spec["properties"]["suspend"]
    return spec


@pytest.mark.parametrize(("version", "token"), [("1.7.0", True), ("1.5.0", False)])
def test_kuberays_own_definitions(version: str, token: bool) -> None:
    spec = real(version)
    assert lacking(spec) == ()
    assert knows(spec, "rayClusterConfig.authOptions") is token
    assert not knows(spec, "rayClusterConfig.noSuchField")


def test_a_document_without_the_kind_tells_nothing() -> None:
    assert spec_in(None, "RayService") is None
    assert spec_in({"components": {"schemas": {"x": {"type": "object"}}}}, "RayService") is None


@pytest.mark.parametrize(
    ("capabilities", "settings", "words"),
    [
        (Capabilities(), Settings(network_policies=False), ""),
        (Capabilities(rays_token=False), Settings(), ""),
        (Capabilities(kuberay=False, rays_token=False), Settings(network_policies=False), ""),
        (
            Capabilities(kuberay_lacks=("rayClusterDeletionDelaySeconds",)),
            Settings(),
            "does not know spec.rayClusterDeletionDelaySeconds; KubeRay 1.5.0 and later do",
        ),
        (Capabilities(rays_token=False), Settings(network_policies=False), "settings.networkPolicies"),
    ],
)
def test_what_a_fleet_cannot_do_without(capabilities: Capabilities, settings: Settings, words: str) -> None:
    if not words:
        require(capabilities, settings)
    else:
        with pytest.raises(KubeRayTooOld, match=words):
            require(capabilities, settings)


def test_a_field_that_the_server_does_not_know_has_a_reason() -> None:
    words = "failed to create typed patch object (llm/tiny; ray.io/v1, Kind=RayService): "
    words += ".spec.suspend: field not declared in schema"
    assert ApiFailure(500, "", words).reason == "FieldUnknown"
    assert ApiFailure(500, "", "etcdserver: request timed out").reason == "Http500"
