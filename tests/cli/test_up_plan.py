"""What one machine starts, and what a change does: tables."""

from dataclasses import replace
from typing import Any

import pytest

from trimode_api.errors import InvalidInput
from trimode_api.resource import NemotronDeployment
from trimode_local.control_socket import actions
from trimode_local.plan import PoolPlan, Update, diff, plan, router_processes

Edit = dict[str, Any]


def resource(*, name: str = "tiny", **spec: Any) -> NemotronDeployment:
    return NemotronDeployment.parse(
        {
            "apiVersion": "trimode.dev/v1alpha1",
            "kind": "NemotronDeployment",
            "metadata": {"name": name},
            "spec": {"model": {"uri": "tiny://"}, "pools": [pool()], **spec},
        }
    )


def pool(name: str = "flex", **more: Any) -> dict[str, Any]:
    return {"name": name, "modes": ["AR", "SelfSpeculation"], **more}


def test_a_pool_gets_its_fewest_replicas_and_its_resources() -> None:
    planned = plan(
        resource(
            pools=[
                pool(replicas={"min": 2, "max": 3}, resources={"gpus": 1, "cpu": "500m", "memory": "2Gi"}),
                pool("other"),
            ]
        )
    )
    assert planned == (PoolPlan("flex", 2, 3, 0.5, 1, 2 << 30), PoolPlan("other", 1, 1, 1.0, 0, 2 << 30))


def test_a_suspended_deployment_starts_no_pool() -> None:
    assert plan(resource(suspend=True)) == ()


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"model": {"uri": "pvc://claim/path"}}, "spec.model.uri"),
        ({"model": {"uri": "oci://models/x:1"}}, "spec.model.uri"),
        ({"model": {"uri": "file://relative/path"}}, "spec.model.uri"),
        (
            {
                "engine": {"type": "SGLang", "image": "x", "args": ["--port", "1"]},
                "pools": [{"name": "a", "modes": ["AR"]}],
            },
            "spec.engine.args",
        ),
    ],
)
def test_what_one_machine_cannot_do_is_said_before_anything_starts(spec: Edit, path: str) -> None:
    with pytest.raises(InvalidInput) as error:
        plan(resource(**spec))
    assert [problem.path for problem in error.value.problems] == [path]


CHANGES: list[tuple[str, Edit, Edit, Update]] = [
    ("nothing", {}, {}, Update()),
    ("a default written out", {}, {"switching": {"policy": "Predictive"}}, Update()),
    ("the manual switch", {}, {"switching": {"policy": "Manual", "mode": "AR"}}, Update(policy=True)),
    ("tiers", {}, {"tiers": [{"name": "fast", "tpotMilliseconds": 5}]}, Update(policy=True)),
    ("admission", {}, {"admission": {"maxQueuedRequests": 7}}, Update(policy=True)),
    ("staleness", {}, {"staleness": {"staleAfterSeconds": 2}}, Update(policy=True)),
    ("block lengths", {}, {"pools": [pool(blockLengths=[4])]}, Update(policy=True)),
    ("modes", {}, {"pools": [{"name": "flex", "modes": ["AR"]}]}, Update(policy=True)),
    ("fewest replicas", {}, {"pools": [pool(replicas={"min": 2, "max": 2})]}, Update(scale=("flex",))),
    ("most replicas", {}, {"pools": [pool(replicas={"max": 4})]}, Update(scale=("flex",))),
    ("a count in place of bounds", {}, {"replicas": 2}, Update(scale=("flex",))),
    ("pods", {}, {"pools": [pool(pod={"runtimeClassName": "nvidia"})]}, Update()),
    ("resources", {}, {"pools": [pool(resources={"cpu": "2"})]}, Update(roll=("flex",))),
    (
        "resources and replicas",
        {},
        {"pools": [pool(resources={"cpu": "2"}, replicas={"min": 2, "max": 2})]},
        Update(roll=("flex",)),
    ),
    ("engine", {}, {"engine": {"maxContextTokens": 512}}, Update(roll=("flex",))),
    ("model", {}, {"model": {"uri": "file:///m", "servedName": "tiny"}}, Update(roll=("flex",))),
    ("a new pool", {}, {"pools": [pool(), pool("more")]}, Update(policy=True, roll=("more",))),
    ("a pool less", {"pools": [pool(), pool("more")]}, {}, Update(policy=True, remove=("more",))),
    ("suspend", {}, {"suspend": True}, Update(remove=("flex",))),
    ("resume", {"suspend": True}, {}, Update(roll=("flex",))),
    ("router copies", {}, {"router": {"replicas": 3}}, Update()),
]


@pytest.mark.parametrize(("old", "new", "expected"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_a_change_does_the_least_that_it_needs(old: Edit, new: Edit, expected: Update) -> None:
    update = diff(resource(**old), resource(**new))
    assert (update.policy, update.scale, update.roll, update.remove) == (
        expected.policy,
        expected.scale,
        expected.roll,
        expected.remove,
    )


def test_changes_are_told_by_path_with_lists_by_name() -> None:
    update = diff(resource(), resource(pools=[pool(replicas={"min": 2, "max": 2})]))
    assert [str(change) for change in update.changes] == [
        "spec.pools[flex].replicas.min: 1 -> 2",
        "spec.pools[flex].replicas.max: 1 -> 2",
    ]
    assert actions(update) == ("pool flex scales",)


def test_what_sglang_fixes_at_its_start_rolls_its_pool() -> None:
    engine = {"type": "SGLang", "image": "x"}
    old = resource(engine=engine, pools=[pool(modes=["SelfSpeculation"]), pool("other", modes=["AR"])])
    new = resource(
        engine=engine, pools=[pool(modes=["SelfSpeculation"], blockLengths=[4]), pool("other", modes=["AR"])]
    )
    update = diff(old, new)
    assert (update.policy, update.roll) == (True, ("flex",))


def test_a_change_that_one_machine_ignores_says_so() -> None:
    (told,) = actions(diff(resource(), resource(router={"replicas": 3})))
    assert told == "spec.router counts from the next `trimode up` on"


@pytest.mark.parametrize(("replicas", "cores", "processes"), [(1, 8, 1), (3, 8, 3), (64, 2, 2), (2, 1, 1)])
def test_router_copies_are_processes_one_a_core(replicas: int, cores: int, processes: int) -> None:
    assert router_processes(resource(router={"replicas": replicas}), cores) == processes


@pytest.mark.parametrize(
    ("new", "path"),
    [
        (resource(model={"uri": "tiny://", "servedName": "other"}), "spec.model.servedName"),
        (resource(name="second"), "metadata.name"),
        (resource(model={"uri": "pvc://a/b"}), "spec.model.uri"),
    ],
)
def test_what_cannot_change_while_it_runs(new: NemotronDeployment, path: str) -> None:
    with pytest.raises(InvalidInput) as error:
        diff(resource(), new)
    assert error.value.problems[0].path == path


def test_pools_that_share_replicas_start_heavy_on_ar_and_are_not_autoscaled() -> None:
    shared = [
        pool("ar", modes=["AR"], replicas={"min": 1, "max": 3}),
        pool("fast", modes=["SelfSpeculation"], replicas={"min": 1, "max": 2}),
    ]
    made = resource(pools=shared, rebalancing={"totalReplicas": 4})
    assert [(p.name, p.replicas, p.most) for p in plan(made)] == [("ar", 3, 3), ("fast", 1, 1)]
    moved = plan(made, {"ar": 2, "fast": 2})
    assert [(p.name, p.replicas, p.most) for p in moved] == [("ar", 2, 2), ("fast", 2, 2)]
    fewer = resource(pools=shared, rebalancing={"totalReplicas": 2})
    assert diff(made, fewer).scale == ("ar",)
    assert not diff(made, fewer).policy


def test_a_pool_that_begins_to_sleep_is_known_to_the_router() -> None:
    awake, asleep = (resource(pools=[pool(replicas={"min": least, "max": 2})]) for least in (1, 0))
    assert plan(asleep)[0].replicas == 0
    assert diff(awake, asleep) == replace(diff(awake, asleep), policy=True, scale=("flex",))
    assert diff(asleep, awake).policy
    later = resource(pools=[pool(replicas={"min": 0, "max": 2, "idleSeconds": 9})])
    assert diff(asleep, later).scale == ("flex",)
    assert not diff(asleep, later).policy
