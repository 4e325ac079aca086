"""What an edit of the resource touches: the policy reaches what runs, and only what must be replaced is replaced."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trimode_api.errors import InvalidInput
from trimode_api.modes import BLOCK_LENGTHS
from trimode_api.resource import NemotronDeployment
from trimode_operator.plan import Observed, Plan
from trimode_operator.plan.pods import GRACE_RUNGS_S, grace_seconds
from trimode_operator.plan.settings import Settings

Resource = Callable[..., NemotronDeployment]
MakePlan = Callable[..., Plan]
Find = Callable[..., Mapping[str, Any]]

MODES = ("AR", "SelfSpeculation", "Diffusion")
names = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
tiers = st.lists(
    st.fixed_dictionaries(
        {"name": names},
        optional={
            "ttftMilliseconds": st.integers(1, 600000),
            "tpotMilliseconds": st.integers(1, 60000),
            "percentile": st.integers(50, 99),
            "priority": st.integers(-1000, 1000),
        },
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda tier: tier["name"],
)
switching = st.fixed_dictionaries(
    {},
    optional={
        "policy": st.sampled_from(["Predictive", "Manual"]),
        "mode": st.sampled_from(MODES[:2]),
        "blockLength": st.sampled_from(BLOCK_LENGTHS),
        "marginPercent": st.integers(0, 50),
        "minDwellMilliseconds": st.integers(0, 60000),
        "fallbackMode": st.sampled_from(MODES[:2]),
        "dryRun": st.booleans(),
    },
)
policies = st.fixed_dictionaries(
    {},
    optional={
        "tiers": tiers,
        "switching": switching,
        "admission": st.fixed_dictionaries(
            {"maxQueuedRequests": st.integers(0, 100000), "maxWaitMilliseconds": st.integers(0, 600000)}
        ),
        "staleness": st.fixed_dictionaries(
            {"staleAfterSeconds": st.integers(1, 50), "deadAfterSeconds": st.integers(51, 3600)}
        ),
        "diffusion": st.fixed_dictionaries(
            {"blockLength": st.sampled_from(BLOCK_LENGTHS), "threshold": st.sampled_from(["0.5", "0.9", "1"])}
        ),
        "drain": st.fixed_dictionaries({"timeoutSeconds": st.integers(0, 600)}),
    },
)
pool_policies = st.fixed_dictionaries(
    {
        "modes": st.lists(st.sampled_from(MODES), min_size=1, unique=True),
        "blockLengths": st.lists(st.sampled_from(BLOCK_LENGTHS), min_size=1, unique=True),
    }
)


def differing(before: Plan, after: Plan) -> set[tuple[str, str]]:
    """Kind and name of the children that differ."""
    one, two = ({(c["kind"], c["metadata"]["name"]): c for c in plan.children} for plan in (before, after))
    return {key for key in one.keys() | two.keys() if one.get(key) != two.get(key)}


def cluster(plan: Plan, find: Find) -> Any:
    """The cluster part as KubeRay compares it: without what scaling may change."""
    config = json.loads(json.dumps(find(plan, "RayService")["spec"]["rayClusterConfig"]))
    for group in config["workerGroupSpecs"]:
        for field in ("replicas", "minReplicas", "maxReplicas"):
            group.pop(field, None)
    return config


def code_versions(plan: Plan, find: Find) -> dict[str, str]:
    """By application: Serve replaces its replicas where this changes."""
    utils = pytest.importorskip("ray.serve._private.deploy_utils", reason="NO RAY: pip install 'trimode[workers]'")
    schema = pytest.importorskip("ray.serve.schema").ServeDeploySchema
    config = schema.model_validate(yaml.safe_load(find(plan, "RayService")["spec"]["serveConfigV2"]))
    return {app.name: utils.get_app_code_version(app) for app in config.applications}


@settings(deadline=None)
@given(edit=policies, pools=st.lists(pool_policies, min_size=2, max_size=2), generation=st.integers(4, 10**9))
def test_policy_tiers_and_modes_touch_the_config_map_only(
    edit: dict[str, Any], pools: list[dict[str, Any]], generation: int, resource: Resource, plan: MakePlan
) -> None:
    base = resource()
    spec = base.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    edited = copy.deepcopy(spec) | edit
    edited["pools"] = [pool | own for pool, own in zip(edited["pools"], pools, strict=True)]
    try:
        after = resource(edited, generation=generation)
    except InvalidInput:
        assume(False)
    assert differing(plan(base), plan(after)) == {("ConfigMap", "nemo-policy")}
    assert plan(after).policy.version == generation


@settings(deadline=None)
@given(counts=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=2, max_size=2))
def test_counts_make_no_new_cluster_and_replace_no_replica(
    counts: list[tuple[int, int]], resource: Resource, plan: MakePlan, find: Find
) -> None:
    base = resource()
    spec = base.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    for pool, (least, most) in zip(spec["pools"], counts, strict=True):
        pool["replicas"] = {"min": min(least, most), "max": most}
    before, after = plan(base), plan(resource(spec))
    assert cluster(before, find) == cluster(after, find)
    assert code_versions(before, find) == code_versions(after, find)
    assert {kind for kind, _ in differing(before, after)} <= {"RayService", "PodDisruptionBudget", "ConfigMap"}
    groups = find(after, "RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert [(g["minReplicas"], g["maxReplicas"]) for g in groups] == [(min(c), c[1]) for c in counts]
    assert not any("replicas" in group for group in groups), "that number is the autoscaler's"


def test_routers_scale_alone(resource: Resource, spec: dict[str, Any], plan: MakePlan) -> None:
    after = plan(resource(spec | {"router": {"replicas": 5}}))
    assert differing(plan(resource()), after) == {("Deployment", "nemo-router")}


def test_a_pool_added_at_the_end_leaves_the_others(
    resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find
) -> None:
    before, after = plan(resource()), plan(resource(spec | {"pools": [*spec["pools"], {"name": "x", "modes": ["AR"]}]}))
    one, two = cluster(before, find), cluster(after, find)
    # KubeRay takes a longer list over in place where its beginning is the same.
    two["workerGroupSpecs"].pop()
    assert one == two
    versions = code_versions(after, find)
    assert versions.pop("x")
    assert versions == code_versions(before, find)


def test_the_order_of_pools_means_nothing_to_a_live_cluster(
    resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find
) -> None:
    before = plan(resource())
    live = Observed("secret", ray_service=find(before, "RayService"))
    turned = plan(resource(spec | {"pools": spec["pools"][::-1]}), observed=live)
    assert find(turned, "RayService") == find(before, "RayService")
    first = plan(resource(spec | {"pools": [{"name": "x", "modes": ["AR"]}, *spec["pools"]]}), observed=live)
    one, two = cluster(before, find), cluster(first, find)
    assert two["workerGroupSpecs"].pop()["groupName"] == "x"
    assert one == two
    gone = plan(resource(spec | {"pools": spec["pools"][1:]}), observed=live)
    assert [group["groupName"] for group in cluster(gone, find)["workerGroupSpecs"]] == ["small"]


def _pool(**change: Any) -> Callable[[dict[str, Any]], None]:
    def edit(spec: dict[str, Any]) -> None:
        spec["pools"][0] |= change

    return edit


def _field(part: str, **change: Any) -> Callable[[dict[str, Any]], None]:
    def edit(spec: dict[str, Any]) -> None:
        spec[part] = spec.get(part, {}) | change

    return edit


ROLLS = {
    "another model": _field("model", uri="file:///models/y"),
    "a draft adapter": _field("model", draftAdapter="lora"),
    "another served name": _field("model", servedName="other"),
    "another number format": _field("engine", dtype="bfloat16"),
    "a longer context": _field("engine", maxContextTokens=4096),
    "more rows": _field("engine", maxRunningRequests=65),
    "fewer GPUs": _pool(resources={"gpus": 0, "cpu": "8", "memory": "64Gi"}),
    "more cores": _pool(resources={"gpus": 1, "cpu": "9", "memory": "64Gi"}),
    "more memory": _pool(resources={"gpus": 1, "cpu": "8", "memory": "65Gi"}),
    "a pool of another name": _pool(name="other"),
    "a far longer drain": _field("drain", timeoutSeconds=3600),
}


@pytest.mark.parametrize("edit", ROLLS.values(), ids=ROLLS.keys())
def test_what_replicas_cannot_take_over_makes_a_new_cluster(
    edit: Callable[[dict[str, Any]], None], resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find
) -> None:
    changed = copy.deepcopy(spec)
    edit(changed)
    assert cluster(plan(resource()), find) != cluster(plan(resource(changed)), find)


@pytest.mark.parametrize("edit", ROLLS.values(), ids=ROLLS.keys())
def test_replicas_of_a_running_cluster_are_never_replaced_in_place(
    edit: Callable[[dict[str, Any]], None], resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find
) -> None:
    """Serve would stop replicas before their successors are ready; a new cluster does not."""
    changed = copy.deepcopy(spec)
    edit(changed)
    before, after = plan(resource()), plan(resource(changed))
    if code_versions(before, find) != code_versions(after, find):
        assert cluster(before, find) != cluster(after, find)


def test_recreate_makes_room_before_the_wanted_workers_are_made(
    resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find
) -> None:
    """No second cluster: the live RayService is left out, and so goes, before the wanted one is made."""
    recreate = spec | {"upgrade": {"strategy": "Recreate"}}
    first = plan(resource(recreate))
    assert find(first, "RayService") == find(plan(resource(spec)), "RayService"), "the strategy itself changes nothing"
    live = Observed("secret", ray_service=find(first, "RayService"))
    other = recreate | {"model": {"uri": "file:///models/y"}}
    made = plan(resource(other), observed=live)
    assert "RayService" not in {child["kind"] for child in made.children}
    assert [note.reason for note in made.notes] == ["Recreating"]
    assert "300 s at most" in made.notes[0].message
    assert find(plan(resource(other | {"upgrade": {}}), observed=live), "RayService"), "a second cluster by default"
    going = copy.deepcopy(dict(live.ray_service or {}))
    going["metadata"]["deletionTimestamp"] = "2026-11-28T12:00:00Z"
    waiting = plan(resource(other), observed=Observed("secret", ray_service=going))
    assert "RayService" not in {child["kind"] for child in waiting.children}
    assert find(plan(resource(other)), "RayService"), "made as soon as the old one has gone"


@pytest.mark.parametrize("strategy", [None, "NewCluster", "Recreate"])
def test_kuberays_incremental_upgrade_is_never_asked_for(
    strategy: str | None, resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find
) -> None:
    """docs/upgrade.md has the reasons. Where the type is left out, KubeRay's environment decides."""
    made = plan(resource(spec | {"upgrade": {"strategy": strategy}}))
    assert find(made, "RayService")["spec"]["upgradeStrategy"] == {"type": "NewCluster"}


@pytest.mark.parametrize(
    "edit",
    [
        _field("upgrade", strategy="Recreate"),
        _pool(replicas={"min": 2, "max": 6}),
        lambda spec: spec["pools"].append({"name": "x", "modes": ["AR"]}),
        _field("switching", marginPercent=9),
    ],
    ids=["nothing", "bounds", "a pool at the end", "policy"],
)
def test_recreate_leaves_alone_what_kuberay_takes_over_in_place(
    edit: Callable[[dict[str, Any]], None], resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find
) -> None:
    recreate = copy.deepcopy(spec) | {"upgrade": {"strategy": "Recreate"}}
    live = Observed("secret", ray_service=find(plan(resource(recreate)), "RayService"))
    edit(recreate)
    made = plan(resource(recreate), observed=live)
    assert find(made, "RayService")
    assert made.notes == ()


def test_a_new_image_or_token_replaces_all_pods(resource: Resource, plan: MakePlan, find: Find) -> None:
    base = plan(resource())
    for after in (plan(resource(), settings=Settings(image="new")), plan(resource(), observed=Observed("new"))):
        assert cluster(base, find) != cluster(after, find)
        templates = [find(each, "Deployment")["spec"]["template"] for each in (base, after)]
        assert templates[0] != templates[1]


def test_routers_are_replaced_for_another_served_name_only(
    resource: Resource, spec: dict[str, Any], plan: MakePlan
) -> None:
    other = copy.deepcopy(spec)
    other["model"]["servedName"] = "other"
    assert ("Deployment", "nemo-router") in differing(plan(resource()), plan(resource(other)))
    other["model"] = spec["model"] | {"uri": "file:///models/y"}
    assert ("Deployment", "nemo-router") not in differing(plan(resource()), plan(resource(other)))


@given(drain=st.integers(0, 86400))
def test_the_grace_is_above_the_drain(drain: int) -> None:
    assert grace_seconds(drain) >= drain + 60
    assert grace_seconds(drain) in {rung + 60 for rung in GRACE_RUNGS_S}


def test_a_count_of_others_is_both_bounds_and_makes_no_new_cluster(
    resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find
) -> None:
    """Serve then has nothing to decide, and a change of the count is one of bounds."""
    one = {**spec, "pools": spec["pools"][:1]}
    free, fixed, more = (plan(resource({**one, **with_count})) for with_count in ({}, {"replicas": 3}, {"replicas": 5}))
    assert cluster(free, find) == cluster(fixed, find) == cluster(more, find)
    assert code_versions(free, find) == code_versions(fixed, find)
    for made, count in ((fixed, 3), (more, 5)):
        service = find(made, "RayService")["spec"]
        (group,) = service["rayClusterConfig"]["workerGroupSpecs"]
        (application,) = yaml.safe_load(service["serveConfigV2"])["applications"]
        scaling = application["deployments"][0]["autoscaling_config"]
        assert (group["minReplicas"], group["maxReplicas"]) == (count, count)
        assert (scaling["min_replicas"], scaling["max_replicas"]) == (count, count)


def test_a_rebalanced_pool_is_held_at_its_target(resource: Resource, plan: MakePlan, find: Find) -> None:
    def bounds(**targets: int) -> tuple[int, int]:
        made = plan(resource(), observed=Observed("secret", targets=targets))
        config = yaml.safe_load(find(made, "RayService")["spec"]["serveConfigV2"])
        scaling = config["applications"][0]["deployments"][0]["autoscaling_config"]
        return scaling["min_replicas"], scaling["max_replicas"]

    assert bounds() == (1, 4)
    assert bounds(flex=3) == (3, 3)
    assert bounds(flex=9) == (4, 4)
    assert bounds(gone=2) == (1, 4)


def test_a_pool_that_sleeps_is_woken_by_the_routers_queue(
    spec: dict[str, Any], resource: Resource, plan: MakePlan, find: Find
) -> None:
    def told(replicas: dict[str, int]) -> dict[str, Any]:
        made = plan(
            resource(spec | {"diffusion": None, "pools": [{"name": "flex", "modes": ["AR"], "replicas": replicas}]})
        )
        service = find(made, "RayService")["spec"]
        (group,) = service["rayClusterConfig"]["workerGroupSpecs"]
        (application,) = yaml.safe_load(service["serveConfigV2"])["applications"]
        scaling: dict[str, Any] = application["deployments"][0]["autoscaling_config"]
        assert (group["minReplicas"], group["maxReplicas"]) == (replicas["min"], replicas["max"])
        assert made.policy.pools[0].sleeps is (replicas["min"] == 0)
        return scaling

    asleep = told({"min": 0, "max": 2, "idleSeconds": 60})
    assert (asleep["min_replicas"], asleep["max_replicas"]) == (0, 2)
    assert asleep["downscale_to_zero_delay_s"] == 60.0
    assert asleep["policy"] == {
        "policy_function": "trimode_workers.replica.autoscaling:Scaler",
        "policy_kwargs": {"routers": ["http://nemo-reports.llm.svc.cluster.local:8001"], "pool": "flex"},
    }
    awake = told({"min": 1, "max": 2})
    assert awake["policy"] == asleep["policy"], "another one would replace the replicas"
