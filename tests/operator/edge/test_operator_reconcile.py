"""Visits, on a cluster in memory: what is made, restored, left alone, told and taken away."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from trimode_lab.doubles.kubernetes.fleet import replica
from trimode_lab.doubles.kubernetes.stage import KEY, Stage
from trimode_operator.apply.deletion import FINALIZER
from trimode_operator.errors import ApiFailure, ApiUnreachable, NotMade, RouterFailure
from trimode_operator.kube.cache import Key
from trimode_operator.kube.client import Object
from trimode_operator.reconcile import RELIST_S


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def serving(stage: Stage) -> None:
    """Applied, ready, and nothing left to do."""
    stage.resource()
    await stage.reconcile()
    stage.serve(replica())
    stage.settle()
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("True", "AsSpecified")


async def test_a_new_resource_is_made_and_told_of_in_one_visit(stage: Stage) -> None:
    stage.resource()
    again = await stage.reconcile()
    assert again == 2.0
    assert stage.kinds() >= {"Secret", "ConfigMap", "Service", "Deployment", "RayService", "NetworkPolicy"}
    body = stage.cluster.named("NemotronDeployment", "nemo")
    assert body["metadata"]["finalizers"] == [FINALIZER]
    assert body["status"]["observedGeneration"] == 1
    assert body["status"]["url"] == "http://nemo-router.default.svc:8000/v1"
    assert len(stage.conditions()) == 9


async def test_a_second_look_writes_nothing(stage: Stage) -> None:
    await serving(stage)
    stage.now += 60.0
    assert await stage.reconcile() == 10.0
    assert stage.cluster.writes == []


async def test_a_label_of_kueue_is_handed_through_although_it_makes_no_generation(stage: Stage) -> None:
    await serving(stage)
    queue = {"kueue.x-k8s.io/queue-name": "gpus", "team": "serving"}
    stage.edit("NemotronDeployment", "nemo", lambda body: body["metadata"].update(labels=queue))
    await stage.reconcile()
    service = stage.cluster.named("RayService", "nemo")
    assert service["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert "team" not in service["metadata"]["labels"]
    stage.cluster.writes.clear()
    await stage.reconcile()
    assert stage.cluster.writes == []
    stage.edit("NemotronDeployment", "nemo", lambda body: body["metadata"].update(labels={}))
    await stage.reconcile()
    assert [write[:2] for write in stage.cluster.writes] == [("apply", "RayService")]


async def test_recreate_ends_the_workers_first_and_makes_them_anew(stage: Stage) -> None:
    await serving(stage)
    changed = {"model": {"uri": "file:///m"}, "upgrade": {"strategy": "Recreate"}}
    stage.resource(**changed)
    await stage.reconcile()
    assert ("delete", "RayService", "nemo") in stage.cluster.writes
    assert ("apply", "RayService", "nemo") not in stage.cluster.writes
    assert stage.conditions()["Ready"] == ("False", "Recreating")
    assert stage.conditions()["Progressing"] == ("True", "Recreating")
    await stage.reconcile()  # it has gone
    assert ("apply", "RayService", "nemo") in stage.cluster.writes
    stage.serve(replica(policy_version=2), policy_version=2)
    stage.settle()
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("True", "AsSpecified")


async def test_a_full_relist_writes_nothing(stage: Stage) -> None:
    await serving(stage)
    stage.now += RELIST_S + 1
    await stage.reconcile()
    assert stage.cluster.writes == []


async def test_another_process_takes_over_without_writing(stage: Stage) -> None:
    await serving(stage)
    stage.begin()
    await stage.reconcile()
    assert stage.cluster.writes == []


async def test_a_server_that_writes_values_its_own_way_is_no_difference_for_ever(stage: Stage) -> None:
    def canonical(body: Object) -> None:
        if body["kind"] == "Deployment":
            body["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "1000m"

    stage.cluster.stored = canonical
    await serving(stage)
    stage.edit("Deployment", "nemo-router", lambda body: body["status"].update(availableReplicas=1))
    await stage.reconcile()
    assert stage.cluster.writes == []


SECURED = {"auth": {"secretName": "api-keys"}, "tls": {"secretName": "nemo-tls"}}


def a_secret(name: str) -> Object:
    """One that the user made."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"}, "data": {}}


async def test_a_secret_that_is_missing_is_named_until_it_comes(stage: Stage) -> None:
    stage.resource(router=SECURED)
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("False", "SecretMissing")
    assert stage.events() == ["SecretMissing"]
    body = stage.cluster.named("NemotronDeployment", "nemo")
    (ready,) = [one for one in body["status"]["conditions"] if one["type"] == "Ready"]
    for words in ("spec.router.auth.secretName", "'api-keys'", "spec.router.tls.secretName", "'nemo-tls'", "'default'"):
        assert words in ready["message"]
    assert body["status"]["url"].startswith("https://nemo-router.")
    for name in ("api-keys", "nemo-tls"):
        stage.cluster.put(a_secret(name))
    stage.serve(replica())
    stage.settle()
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("True", "AsSpecified")
    assert ("Secret", "api-keys") not in {(kind, name) for _, kind, name in stage.cluster.writes}


async def test_a_secret_that_routers_cannot_use_is_told_in_their_words(stage: Stage) -> None:
    for name in ("api-keys", "nemo-tls"):
        stage.cluster.put(a_secret(name))
    stage.resource(router=SECURED)
    await stage.reconcile()
    stage.serve(replica(), problems={"keysFile": "keys.json: No such file or directory"})
    stage.settle()
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("False", "SecretInvalid")
    assert stage.conditions()["Serving"] == ("True", "ReplicasServe")
    objects = stage.cluster.objects.values()
    (told,) = [body["message"] for body in objects if body.get("reason") == "SecretInvalid"]
    assert told == "spec.router.auth.secretName: Secret 'api-keys': keys.json: No such file or directory"
    stage.serve(replica())
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("True", "AsSpecified")
    stage.resource(router={})
    stage.serve(replica(), problems={"keysFile": "old news of a router that goes"})
    await stage.reconcile()
    assert stage.conditions()["Ready"][1] != "SecretInvalid"


@pytest.mark.parametrize(
    ("kind", "name", "change"),
    [
        ("Deployment", "nemo-router", lambda body: body["spec"].update(replicas=5)),
        ("Service", "nemo-router", lambda body: body["spec"].update(selector={"app": "other"})),
        ("RayService", "nemo", lambda body: body["spec"].update(serveConfigV2="nothing")),
        ("ConfigMap", "nemo-policy", lambda body: body.update(data={})),
        ("Secret", "nemo-token", lambda body: body.update(data={"token": "b3RoZXI="})),
        ("Deployment", "nemo-router", lambda body: body["metadata"].update(ownerReferences=[])),
    ],
)
async def test_a_childs_edit_by_hand_is_undone(
    stage: Stage, kind: str, name: str, change: Callable[[Object], None]
) -> None:
    await serving(stage)
    before = stage.cluster.named(kind, name)
    stage.edit(kind, name, change)
    await stage.reconcile()
    after = stage.cluster.named(kind, name)
    for body in (before, after):
        del body["metadata"]["resourceVersion"], body["metadata"]["generation"]
    assert after == before
    assert ("apply", kind, name) in stage.cluster.writes


@pytest.mark.parametrize(
    ("kind", "name"),
    [("Deployment", "nemo-router"), ("Secret", "nemo-token"), ("RayService", "nemo"), ("Service", "nemo-reports")],
)
async def test_a_deleted_child_comes_back_as_it_was(stage: Stage, kind: str, name: str) -> None:
    await serving(stage)
    before = stage.cluster.objects.pop((kind, "default", name))
    stage.watch()
    await stage.reconcile()
    after = stage.cluster.named(kind, name)
    assert after.get("spec") == before.get("spec")
    assert after.get("data") == before.get("data")  # the token, too: another one would replace every pod
    assert [write for write in stage.cluster.writes if write[0] == "apply"] == [("apply", kind, name)]


async def test_what_a_watch_missed_is_found_at_the_next_relist(stage: Stage) -> None:
    await serving(stage)
    del stage.cluster.objects["Service", "default", "nemo-router"]  # nobody tells
    stage.now += RELIST_S + 1
    await stage.reconcile()
    assert ("apply", "Service", "nemo-router") in stage.cluster.writes


async def test_kinds_that_are_not_watched_are_listed_at_every_visit(stage: Stage) -> None:
    await serving(stage)
    del stage.cluster.objects["RayService", "default", "nemo"]  # nobody tells
    await stage.reconciler.reconcile(KEY)
    assert "RayService" not in stage.kinds()
    stage.reconciler.list_always()
    stage.now += 1.0
    await stage.reconcile()
    assert ("apply", "RayService", "nemo") in stage.cluster.writes


async def test_after_a_kind_has_come_or_gone_children_are_listed_once(stage: Stage) -> None:
    await serving(stage)
    del stage.cluster.objects["RayService", "default", "nemo"]  # its kind went and came back, and nobody tells
    stage.reconciler.relist()
    await stage.reconcile()
    assert ("apply", "RayService", "nemo") in stage.cluster.writes
    del stage.cluster.objects["RayService", "default", "nemo"]
    await stage.reconcile()
    assert "RayService" not in stage.kinds()


async def test_a_change_of_mode_goes_to_the_routers_and_touches_no_pod(stage: Stage) -> None:
    await serving(stage)
    asked = stage.routers.asked
    stage.resource(switching={"marginPercent": 9})
    await stage.reconcile()
    assert stage.routers.policies == [2]
    assert stage.routers.asked == asked + 1
    assert stage.conditions()["Ready"] == ("False", "PolicyRollout")  # replicas hear of it with their next report
    applied = [write for write in stage.cluster.writes if write[0] == "apply"]
    assert applied == [("apply", "ConfigMap", "nemo-policy")]
    assert stage.conditions()["Serving"][0] == "True"


async def test_a_router_that_is_behind_is_told_again(stage: Stage) -> None:
    await serving(stage)
    stage.resource(switching={"marginPercent": 9})
    stage.routers.refuse = RouterFailure("busy")
    await stage.reconcile()
    assert stage.routers.policies == []
    assert stage.conditions()["Ready"] == ("False", "PolicyRollout")
    stage.routers.refuse = None
    await stage.reconcile()
    assert stage.routers.policies == [2]


async def test_a_bad_edit_leaves_what_serves_alone(stage: Stage) -> None:
    await serving(stage)
    before = {place: body for place, body in stage.cluster.objects.items() if place[0] != "NemotronDeployment"}
    before = copy.deepcopy(before)
    stage.resource(pools=[], switching={"fallbackMode": "Diffusion"}, colour="red")
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("False", "InvalidSpec")
    assert stage.conditions()["Serving"][0] == "True"
    message = stage.cluster.named("NemotronDeployment", "nemo")["status"]["conditions"][0]["message"]
    assert "spec.pools" in message
    assert "spec.colour: unknown field" in message
    assert "spec.switching.fallbackMode" in message
    assert stage.events()[-1] == "InvalidSpec"
    after = {k: v for k, v in stage.cluster.objects.items() if k[0] not in ("NemotronDeployment", "Event")}
    assert after == {k: v for k, v in before.items() if k[0] != "Event"}
    stage.resource()
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("True", "AsSpecified") or stage.routers.policies == [3]


async def test_a_spec_that_is_bad_from_the_start_makes_nothing(stage: Stage) -> None:
    stage.resource(pools=[])
    await stage.reconcile()
    assert stage.kinds() == {"NemotronDeployment", "Event"}
    assert stage.conditions()["Ready"] == ("False", "InvalidSpec")


async def test_without_kuberay_all_but_the_workers_is_made_and_it_recovers(stage: Stage) -> None:
    stage.capabilities = replace(stage.capabilities, kuberay=False)
    stage.resource()
    await stage.reconcile()
    assert "RayService" not in stage.kinds()
    assert stage.conditions()["Ready"] == ("False", "KubeRayMissing")
    message = stage.cluster.named("NemotronDeployment", "nemo")["status"]["conditions"][0]["message"]
    assert "helm install kuberay-operator" in message
    stage.capabilities = replace(stage.capabilities, kuberay=True)
    await stage.reconcile()
    assert "RayService" in stage.kinds()
    assert stage.conditions()["Progressing"][0] == "True"


async def test_a_refused_child_holds_up_no_other_and_is_told(stage: Stage) -> None:
    def no_services(verb: str, kind: str, name: str) -> Exception | None:
        refused = verb == "apply" and kind == "Service"
        return ApiFailure(403, "Forbidden", f"services {name!r} is forbidden: quota") if refused else None

    stage.cluster.refuse = no_services
    stage.resource()
    with pytest.raises(NotMade):
        await stage.reconcile()
    assert stage.kinds() >= {"Deployment", "RayService", "Secret"}
    assert stage.conditions()["Ready"] == ("False", "Forbidden")
    stage.cluster.refuse = lambda *_: None
    await stage.reconcile()
    assert stage.conditions()["Ready"][1] != "Forbidden"


async def test_somebody_elses_object_is_not_taken_over(stage: Stage) -> None:
    theirs = {"kind": "Service", "metadata": {"name": "nemo-router", "namespace": "default"}, "spec": {"theirs": 1}}
    stage.cluster.put(theirs)
    stage.resource()
    with pytest.raises(NotMade, match="does not belong to this resource"):
        await stage.reconcile()
    assert stage.cluster.named("Service", "nemo-router")["spec"] == {"theirs": 1}
    assert stage.conditions()["Ready"] == ("False", "NameTaken")


async def test_what_a_former_plan_made_goes_and_what_others_made_stays(stage: Stage) -> None:
    await serving(stage)
    labels = stage.cluster.named("Deployment", "nemo-router")["metadata"]["labels"]
    owner = stage.cluster.named("Deployment", "nemo-router")["metadata"]["ownerReferences"]

    def extra(name: str, owners: list[Object]) -> Object:
        metadata = {"name": name, "namespace": "default", "labels": labels, "ownerReferences": owners}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}

    stage.cluster.put(extra("left-over", owner))
    stage.cluster.put(extra("theirs", []))
    stage.watch()
    await stage.reconcile()
    assert stage.cluster.writes == [("delete", "ConfigMap", "left-over")]


@pytest.mark.parametrize("step", range(1, 40))
async def test_killed_after_any_request_it_converges_to_the_same(step: int) -> None:
    whole, cut = Stage(), Stage()
    for stage in (whole, cut):
        stage.resource()
    await whole.reconcile()
    count = 0

    def die(*_: str) -> Exception | None:
        nonlocal count
        count += 1
        return ApiUnreachable("killed") if count == step else None

    cut.cluster.refuse = die
    try:
        await cut.reconcile()
    except ApiUnreachable:
        cut.cluster.refuse = lambda *_: None
        cut.begin()
        await cut.reconcile()
    cut.cluster.refuse = lambda *_: None
    await cut.reconcile()

    def shape(stage: Stage) -> dict[tuple[str, str, str], Any]:
        token = stage.cluster.named("Secret", "nemo-token")["data"]["token"]
        roll = stage.cluster.named("Deployment", "nemo-router")["spec"]["template"]["metadata"]["annotations"]
        assert token
        assert roll
        return {
            place: body.get("spec") if place[0] not in ("Deployment", "RayService") else sorted(body["spec"])
            for place, body in stage.cluster.objects.items()
            if place[0] != "Event"
        }

    assert shape(cut) == shape(whole)
    assert cut.conditions() == whole.conditions()
    await cut.reconcile()
    assert cut.cluster.writes == []


async def test_two_of_one_name_in_two_namespaces_do_not_meet(stage: Stage) -> None:
    stage.resource()
    other = stage.cluster.named("NemotronDeployment", "nemo")
    other["metadata"] |= {"namespace": "other", "uid": "other-owner"}
    stage.cluster.put(other)
    stage.watch()
    await stage.reconcile()
    await stage.reconciler.reconcile(Key("other", "nemo"))
    one = stage.cluster.named("Secret", "nemo-token")
    two = stage.cluster.named("Secret", "nemo-token", "other")
    assert one["data"] != two["data"]
    assert two["metadata"]["ownerReferences"][0]["uid"] == "other-owner"


async def test_a_stale_view_of_the_resource_costs_a_retry_and_no_finalizer(stage: Stage) -> None:
    stage.resource()
    stale = stage.cache.resource(KEY)
    assert stale is not None
    stage.edit("NemotronDeployment", "nemo", lambda body: body["metadata"].update(finalizers=["theirs/keep"]))
    stage.cache._resources[KEY] = stale
    await stage.reconcile()
    assert stage.cluster.named("NemotronDeployment", "nemo")["metadata"]["finalizers"] == ["theirs/keep", FINALIZER]


NO_PODS = {"replicas": 0, "updatedReplicas": 0, "readyReplicas": 0}

# What KubeRay says, and what it keeps to itself.


async def test_kuberay_that_takes_an_edit_over_for_a_minute_only_is_no_trouble_and_then_it_is(stage: Stage) -> None:
    await serving(stage)
    stage.resource(model={"uri": "file:///other"})
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("False", "WorkersRollout")
    stage.now += 59.0
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("False", "WorkersRollout")
    stage.now += 2.0
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("False", "KubeRayBehind")
    assert "KubeRayBehind" in stage.events()
    stage.serve(replica(policy_version=2), policy_version=2)
    stage.settle()
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("True", "AsSpecified")


async def test_before_the_first_cluster_serves_kuberay_owes_no_status(stage: Stage) -> None:
    stage.resource()
    await stage.reconcile()
    stage.serve()
    stage.settle(active="", pending="nemo-1")
    stage.resource(pools=[{"name": "flex", "modes": ["AR"], "replicas": {"min": 1, "max": 2}}])
    await stage.reconcile()
    stage.now += 120.0
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("False", "PoolsNotReady")


async def test_a_kuberay_that_has_never_looked_is_told_of(stage: Stage) -> None:
    stage.resource()
    await stage.reconcile()
    stage.now += 61.0
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("False", "KubeRayBehind")


async def test_a_head_that_is_gone_shows_although_kuberays_status_stays_as_it_was(stage: Stage) -> None:
    await serving(stage)
    stage.make_cluster("nemo-1")
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("True", "AsSpecified")
    gone = {"type": "HeadPodReady", "status": "False", "reason": "HeadPodNotFound", "message": "Head Pod not found"}
    stage.edit("RayCluster", "nemo-1", lambda body: body["status"].update(conditions=[gone]))
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("False", "HeadNotReady")
    assert stage.conditions()["Serving"] == ("True", "ReplicasServe")


async def test_a_kuberay_that_is_too_old_is_named_before_anything_is_touched(stage: Stage) -> None:
    stage.capabilities = replace(stage.capabilities, kuberay_lacks=("rayClusterDeletionDelaySeconds",))
    stage.resource()
    await stage.reconcile()
    assert stage.kinds() == {"NemotronDeployment", "Event"}
    found = {kind for kind, (_, reason) in stage.conditions().items() if reason == "KubeRayTooOld"}
    assert found == {"Ready", "Progressing"}
    assert stage.events() == ["KubeRayTooOld"]
    stage.capabilities = replace(stage.capabilities, kuberay_lacks=())
    await stage.reconcile()
    assert "RayService" in stage.kinds()


async def test_a_kuberay_without_rays_token_serves_and_the_status_says_so(stage: Stage) -> None:
    stage.capabilities = replace(stage.capabilities, rays_token=False)
    await serving(stage)
    (ready,) = [
        each
        for each in stage.cluster.named("NemotronDeployment", "nemo")["status"]["conditions"]
        if each["type"] == "Ready"
    ]
    assert "NetworkPolicies alone keep others from its ports" in ready["message"]


async def test_suspended_its_workers_go_and_resumed_they_are_made_again(stage: Stage) -> None:
    await serving(stage)
    uid = stage.cluster.named("RayService", "nemo")["metadata"]["uid"]
    stage.resource(suspend=True)
    await stage.reconcile()
    assert ("delete", "RayService", "nemo") in stage.cluster.writes
    assert stage.cluster.named("Deployment", "nemo-router")["spec"]["replicas"] == 0
    assert stage.conditions()["Suspended"] == ("False", "Suspending")
    stage.edit("Deployment", "nemo-router", lambda body: body["status"].update(NO_PODS, observedGeneration=2))
    stage.routers.views.clear()
    await stage.reconcile()
    assert stage.conditions()["Suspended"] == ("True", "Suspended")
    stage.resource()
    await stage.reconcile()
    assert stage.cluster.named("RayService", "nemo")["metadata"]["uid"] != uid
    assert stage.conditions()["Suspended"] == ("False", "NotSuspended")


async def test_resumed_while_the_old_workers_go_it_waits_for_their_end(stage: Stage) -> None:
    """With a finalizer of KubeRay's the RayService stays until its clusters are gone."""
    await serving(stage)
    moment = "2027-01-15T08:00:00Z"
    stage.edit("RayService", "nemo", lambda body: body["metadata"].update(deletionTimestamp=moment))
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("False", "WorkersRollout")
    assert ("delete", "RayService", "nemo") not in stage.cluster.writes
    del stage.cluster.objects["RayService", "default", "nemo"]
    stage.watch()
    await stage.reconcile()
    assert ("apply", "RayService", "nemo") in stage.cluster.writes


async def test_a_cluster_that_serves_and_was_never_active_stays_for_the_next_one(stage: Stage) -> None:
    def delay() -> int:
        found: int = stage.cluster.named("RayService", "nemo")["spec"]["rayClusterDeletionDelaySeconds"]
        return found

    stage.resource(pools=[{"name": "flex", "modes": ["AR"]}, {"name": "never", "modes": ["AR"]}])
    await stage.reconcile()
    stage.serve(replica())
    stage.settle(active="", pending="nemo-1")
    await stage.reconcile()
    stage.now += 30.0
    await stage.reconcile()
    assert delay() == 60, "an ordinary start"
    stage.now += 31.0
    await stage.reconcile()
    assert delay() == 3600
    stage.settle(active="nemo-1")
    await stage.reconcile()
    assert delay() == 60


# The end.


def delete(stage: Stage) -> None:
    """kubectl delete."""
    moment = "2027-01-15T08:00:00Z"  # of stage.now
    stage.edit("NemotronDeployment", "nemo", lambda body: body["metadata"].update(deletionTimestamp=moment))


async def test_deleting_drains_then_ends_the_workers_then_lets_go(stage: Stage) -> None:
    await serving(stage)
    stage.serve(replica(running=1), in_flight=1)
    delete(stage)
    assert await stage.reconcile() == 0.5
    assert stage.routers.drained == ["r1"]
    assert stage.conditions()["Ready"] == ("False", "Draining")
    assert "RayService" in stage.kinds()
    stage.serve(replica(draining=True))
    await stage.reconcile()
    assert ("delete", "RayService", "nemo") in stage.cluster.writes
    assert await stage.reconcile() is None
    assert "NemotronDeployment" not in stage.kinds()


async def test_a_request_that_does_not_end_does_not_hold_the_resource_for_ever(stage: Stage) -> None:
    await serving(stage)
    stage.serve(replica(running=1), in_flight=1)
    delete(stage)
    await stage.reconcile()
    stage.now += 301.0
    await stage.reconcile()
    await stage.reconcile()
    assert "NemotronDeployment" not in stage.kinds()


async def test_deleting_while_loading_waits_for_nothing(stage: Stage) -> None:
    stage.resource()
    await stage.reconcile()
    delete(stage)
    await stage.reconcile()
    await stage.reconcile()
    assert "NemotronDeployment" not in stage.kinds()


async def test_deleting_one_that_never_was_valid(stage: Stage) -> None:
    stage.resource(pools=[])
    await stage.reconcile()
    delete(stage)
    await stage.reconcile()
    assert "NemotronDeployment" not in stage.kinds()


async def test_a_resource_that_is_gone_is_forgotten(stage: Stage) -> None:
    await serving(stage)
    del stage.cluster.objects[("NemotronDeployment", *KEY)]
    stage.watch()
    stage.cluster.writes.clear()
    assert await stage.reconciler.reconcile(KEY) is None
    assert stage.cluster.writes == []
    assert not stage.cache.children(KEY)


async def test_the_token_is_long_and_of_its_own(stage: Stage) -> None:
    stage.resource()
    await stage.reconcile()
    token = base64.b64decode(stage.cluster.named("Secret", "nemo-token")["data"]["token"])
    assert len(token) >= 40
