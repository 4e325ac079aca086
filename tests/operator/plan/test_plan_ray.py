"""The RayService as Ray itself reads it: Serve's schema, our own builder, the autoscaler, the shell."""

from __future__ import annotations

import importlib
import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimode_api.errors import InvalidInput
from trimode_api.resource import NemotronDeployment
from trimode_operator.plan import Capabilities, Plan

ray = pytest.importorskip("ray", reason="NO RAY: pip install 'trimode[workers]'")

Resource = Callable[..., NemotronDeployment]
MakePlan = Callable[..., Plan]
Find = Callable[..., Mapping[str, Any]]


CLAIM = {"persistentVolumeClaim": {"claimName": "claim", "readOnly": True}}


@pytest.fixture
def service(resource: Resource, plan: MakePlan, find: Find) -> Mapping[str, Any]:
    return find(plan(resource()), "RayService")


@pytest.fixture
def config(service: Mapping[str, Any]) -> Any:
    from ray.serve.schema import ServeDeploySchema

    return ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))


def test_serve_accepts_one_application_per_pool(config: Any) -> None:
    assert [app.name for app in config.applications] == ["flex", "small"]
    assert {app.route_prefix for app in config.applications} == {"/flex", "/small"}
    assert config.proxy_location == "EveryNode"
    assert config.http_options.port == 8000


def test_serve_sends_back_nothing_it_did_not_know(service: Mapping[str, Any], config: Any) -> None:
    """Serve's schema drops some unknown fields silently: what it read must hold all that was written."""

    def missing(written: Any, read: Any, path: str = "") -> list[str]:
        if isinstance(written, dict):
            return [
                found
                for key, value in written.items()
                for found in ([f"{path}.{key}"] if key not in read else missing(value, read[key], f"{path}.{key}"))
            ]
        if isinstance(written, list):
            return [found for one, two in zip(written, read, strict=True) for found in missing(one, two, f"{path}[]")]
        return []

    written = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert missing(written, config.model_dump(mode="json", exclude_unset=True)) == []


def test_the_import_path_builds_each_application_from_its_args(config: Any) -> None:
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

    for app in config.applications:
        module, _, name = app.import_path.partition(":")
        builder = getattr(importlib.import_module(module), name)
        built = call_user_app_builder_with_args_if_necessary(builder, app.args)
        (options,) = app.deployments
        assert built._bound_deployment.name == options.name == app.name
        (settings,) = built._bound_deployment.init_args
        assert settings.pool == app.name
        assert settings.router_urls == ("http://nemo-reports.llm.svc.cluster.local:8001",)


def test_a_draft_adapter_reaches_the_worker(
    resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find
) -> None:
    from trimode_workers.replica.settings import PoolArgs

    model = {"uri": "hf://nvidia/X", "draftAdapter": "linear_spec_lora"}
    service = find(plan(resource(spec | {"model": model})), "RayService")
    args = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"]
    assert PoolArgs.model_validate(args).engine.draft_adapter == "linear_spec_lora"


def test_sglang_pools_have_one_mode_each_and_the_image_of_the_spec(plan: MakePlan, find: Find) -> None:
    from ray.serve.schema import ServeDeploySchema

    from trimode_workers.replica.settings import PoolArgs

    text = (Path(__file__).parents[3] / "examples" / "nemotron-8b-sglang.yaml").read_text(encoding="utf-8")
    service = find(plan(NemotronDeployment.parse(yaml.safe_load(text))), "RayService")
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    engines = [PoolArgs.model_validate(app.args).engine for app in config.applications]
    told = [engine.sglang for engine in engines if engine.sglang is not None]
    assert [(one.mode, one.block_lengths, one.gpus) for one in told] == [
        ("AR", (), 1),
        ("SelfSpeculation", (8, 16, 32), 1),
    ]
    assert told[0].args == ("--mem-fraction-static", "0.8")
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    images = {group["template"]["spec"]["containers"][0]["image"] for group in groups}
    assert images == {"example.com/sglang-dllm:linearspec"}
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert head["image"] not in images


def test_the_scaling_policy_is_there(config: Any) -> None:
    for app in config.applications:
        module, _, name = app.deployments[0].autoscaling_config["policy"]["policy_function"].partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_serve_gives_up_before_the_pod_ends(service: Mapping[str, Any], config: Any) -> None:
    for group, app in zip(service["spec"]["rayClusterConfig"]["workerGroupSpecs"], config.applications, strict=True):
        grace = group["template"]["spec"]["terminationGracePeriodSeconds"]
        assert 300 < app.deployments[0].graceful_shutdown_timeout_s < grace


def test_the_autoscaler_sees_one_replica_per_pod(service: Mapping[str, Any], config: Any) -> None:
    from ray.autoscaler._private.kuberay import autoscaling_config

    cluster = {"metadata": {"name": "nemo-x", "namespace": "llm"}, "spec": service["spec"]["rayClusterConfig"]}
    types = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert (types["flex"]["min_workers"], types["flex"]["max_workers"]) == (1, 4)
    assert types["flex"]["resources"] == {"CPU": 8, "GPU": 1, "memory": 64 << 30, "trimode-flex": 1}
    assert types["small"]["resources"] == {"CPU": 1, "GPU": 0, "memory": 2 << 30, "trimode-small": 1}
    for app in config.applications:
        wanted = app.deployments[0].ray_actor_options
        fits = [
            name
            for name, node in types.items()
            if wanted.num_gpus <= node["resources"].get("GPU", 0)
            and all(node["resources"].get(key, 0) >= count for key, count in wanted.resources.items())
        ]
        assert fits == [app.name]


def test_start_parameters_survive_the_shell(service: Mapping[str, Any]) -> None:
    for group in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        value = group["rayStartParams"]["resources"]
        done = subprocess.run(
            ["bash", "-c", f"printf %s --resources={value}"], capture_output=True, text=True, check=True
        )
        assert json.loads(done.stdout.removeprefix("--resources=")) == {f"trimode-{group['groupName']}": 1}


def test_pods_drain_before_they_end(service: Mapping[str, Any]) -> None:
    """The hook's command is one that the worker's module takes, and it ends before the pod's grace does."""
    from trimode_workers.replica import pre_stop

    cluster = service["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        python, _, module, *arguments = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert (python, module) == ("python", pre_stop.__name__)
        parsed = pre_stop.arguments(arguments)
        assert parsed.head == (group is cluster["headGroupSpec"])
        assert parsed.routers == "http://nemo-reports.llm.svc.cluster.local:8001"
        assert 300 < parsed.timeout_s < pod["terminationGracePeriodSeconds"]


def test_gpus_are_asked_for_where_a_pool_has_some(service: Mapping[str, Any]) -> None:
    flex, small = (
        group["template"]["spec"]["containers"][0]["resources"]
        for group in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    )
    assert flex["limits"]["nvidia.com/gpu"] == flex["requests"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in small["limits"]


@pytest.mark.parametrize(
    ("uri", "loaded", "volume"),
    [
        ("tiny://", "tiny://", None),
        ("file:///opt/m", "file:///opt/m", None),
        ("pvc://claim/a/b", "file:///models/a/b", CLAIM),
        ("pvc://claim/a b%", "file:///models/a%20b%25", CLAIM),
        ("oci://r.example:5000/m/x:1", "file:///models", {"image": {"reference": "r.example:5000/m/x:1"}}),
        ("hf://nvidia/X", "hf://nvidia/X@v2", {"persistentVolumeClaim": {"claimName": "models"}}),
    ],
)
def test_where_the_weights_are(
    uri: str,
    loaded: str,
    volume: dict[str, Any] | None,
    resource: Resource,
    spec: dict[str, Any],
    plan: MakePlan,
    find: Find,
) -> None:
    service = find(plan(resource(spec | {"model": {"uri": uri, "revision": "v2"}})), "RayService")
    app = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]
    assert app["args"]["engine"]["model"] == loaded
    assert "draft_adapter" not in app["args"]["engine"]
    pod = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    volumes = [{k: v for k, v in each.items() if k != "name"} for each in pod["volumes"] if each["name"] == "model"]
    assert volumes == ([] if volume is None else [volume])
    from_hub = {each["name"] for each in pod["containers"][0]["env"]} & {"HF_HOME", "HF_TOKEN"}
    assert from_hub == ({"HF_HOME", "HF_TOKEN"} if uri.startswith("hf://") else set())


def test_an_image_of_a_model_is_refused_where_pods_cannot_mount_it(
    resource: Resource, spec: dict[str, Any], plan: MakePlan
) -> None:
    deployment = resource(spec | {"model": {"uri": "oci://models/x:1"}})
    assert plan(deployment, capabilities=Capabilities()).children
    with pytest.raises(InvalidInput, match=r"spec\.model\.uri: oci:// .* 1\.35"):
        plan(deployment, capabilities=Capabilities(image_volumes=False))
