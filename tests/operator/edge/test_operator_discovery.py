"""Which optional APIs a cluster has."""

from __future__ import annotations

import pytest

from trimode_operator.discovery import APIS, discover
from trimode_operator.plan import Capabilities
from trimode_operator.testing.cluster import MemoryCluster

NONE = dict.fromkeys(APIS, False)


def serve(cluster: MemoryCluster, api: str, *plurals: str) -> None:
    groups = cluster.paths.setdefault("/apis", {"groups": []})["groups"]
    groups.append({"name": api.split("/")[0], "versions": [{"groupVersion": api}]})
    cluster.paths[f"/apis/{api}"] = {"resources": [{"name": plural} for plural in plurals]}


async def test_a_bare_cluster_has_none() -> None:
    assert await discover(MemoryCluster()) == Capabilities(**NONE)


@pytest.mark.parametrize("name", APIS)
async def test_each_is_found(name: str) -> None:
    cluster = MemoryCluster()
    serve(cluster, *APIS[name])
    assert await discover(cluster) == Capabilities(**(NONE | {name: True}))


async def test_a_group_without_the_kind_is_not_it() -> None:
    cluster = MemoryCluster()
    serve(cluster, "ray.io/v1", "rayclusters")
    serve(cluster, "policy/v1beta1", "poddisruptionbudgets")
    assert await discover(cluster) == Capabilities(**NONE)
