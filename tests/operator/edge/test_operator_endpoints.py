"""Where the routers are: known from the watch of their EndpointSlices, not asked for in each reconciliation."""

from __future__ import annotations

import copy

from trimode_lab.doubles.kubernetes.fleet import replica
from trimode_lab.doubles.kubernetes.stage import KEY, ROUTER, Stage
from trimode_operator.kube.client import Object
from trimode_operator.observe.observer import Observer
from trimode_operator.plan import Names


async def serving(stage: Stage) -> list[tuple[str, str]]:
    """A fleet at rest; what is asked of the API server from then on is noted in the list."""
    asked: list[tuple[str, str]] = []
    stage.resource()
    await stage.reconcile()
    stage.serve(replica())
    stage.settle()
    await stage.reconcile()
    await stage.reconcile()

    def note(verb: str, kind: str, _: str) -> None:
        asked.append((verb, kind))

    stage.cluster.refuse = note
    return asked


async def test_a_fleet_at_rest_costs_one_request() -> None:
    """For the Ray cluster that serves, which is KubeRay's and is not watched."""
    stage = Stage()
    asked = await serving(stage)
    await stage.reconcile()
    assert asked == [("get", "RayCluster")]
    assert stage.conditions()["RouterReady"][0] == "True"


async def test_a_router_that_moves_is_found_by_the_watch() -> None:
    stage = Stage()
    asked = await serving(stage)

    def move(body: Object) -> None:
        body["endpoints"] = [{"addresses": ["10.0.0.77"]}]

    stage.edit("EndpointSlice", "nemo-reports", move)
    await stage.reconcile()
    assert ("list", "EndpointSlice") not in asked
    assert [str(each) for each in observer(stage).routers(KEY, names())] == [f"10.0.0.77:{ROUTER.port}"]
    assert [each for each in stage.cluster.writes if each[0] == "apply"] == []


async def test_endpoints_of_other_services_are_no_routers() -> None:
    stage = Stage()
    await serving(stage)
    other = copy.deepcopy(stage.cluster.named("EndpointSlice", "nemo-reports"))
    other["metadata"] |= {"name": "nemo-router-x", "uid": "another"}
    other["metadata"]["labels"]["kubernetes.io/service-name"] = "nemo-router"
    other["endpoints"] = [{"addresses": ["10.0.0.99"]}]
    stage.cluster.put(other)
    stage.watch()
    assert observer(stage).routers(KEY, names()) == (ROUTER,)


async def test_what_the_watch_has_missed_is_listed_with_the_children() -> None:
    """As for a copy that begins to lead before its watches have told all."""
    stage = Stage()
    await serving(stage)
    stage.cache.forget(KEY)
    assert observer(stage).routers(KEY, names()) == ()
    await observer(stage).list_children(KEY, ())
    assert observer(stage).routers(KEY, names()) == (ROUTER,)


def observer(stage: Stage) -> Observer:
    return Observer(stage.cluster, stage.cache, stage.routers)


def names() -> Names:
    return Names(KEY.name, KEY.namespace, "cluster.local")
