"""What a plan consists of, and that whoever reads a manifest accepts it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimode_api.errors import InvalidInput
from trimode_api.policy_of import policy_of
from trimode_api.resource import NemotronDeployment
from trimode_api.wire import RouterConfig
from trimode_operator.plan import Capabilities, Observed, Plan
from trimode_operator.plan.names import selector
from trimode_operator.plan.settings import Settings
from trimode_router.telemetry.environment import Signal, Telemetry, telemetry_of

Resource = Callable[..., NemotronDeployment]
MakePlan = Callable[..., Plan]
Find = Callable[..., Mapping[str, Any]]
Check = Callable[[Mapping[str, Any]], None]

CORE = ("ServiceAccount", "Secret", "ConfigMap", "Service", "Deployment", "NetworkPolicy", "PodDisruptionBudget")
LONG = "a-name-as-long-as-kubernetes-allows-for-a-resource-to-have-63ch"


def pods(plan: Plan) -> Iterator[Mapping[str, Any]]:
    """Every pod template of the plan."""
    for child in plan.children:
        if child["kind"] == "Deployment":
            yield child["spec"]["template"]
        if child["kind"] == "RayService":
            cluster = child["spec"]["rayClusterConfig"]
            yield cluster["headGroupSpec"]["template"]
            yield from (group["template"] for group in cluster["workerGroupSpecs"])


def test_the_children_of_a_resource(resource: Resource, plan: MakePlan) -> None:
    made = plan(resource())
    assert [(child["kind"], child["metadata"]["name"]) for child in made.children] == [
        ("ServiceAccount", "nemo-fleet"),
        ("Secret", "nemo-token"),
        ("ConfigMap", "nemo-policy"),
        ("NetworkPolicy", "nemo-head"),
        ("NetworkPolicy", "nemo-workers"),
        ("NetworkPolicy", "nemo-router"),
        ("Service", "nemo-router"),
        ("Service", "nemo-reports"),
        ("Deployment", "nemo-router"),
        ("RayService", "nemo"),
        ("PodDisruptionBudget", "nemo-router"),
        ("PodDisruptionBudget", "nemo-head"),
        ("PodDisruptionBudget", "nemo-pool-flex"),
        ("PodDisruptionBudget", "nemo-pool-small"),
        ("ServiceMonitor", "nemo-router"),
        ("HTTPRoute", "nemo-router"),
        ("InferencePool", "nemo-router"),
    ]
    assert made.notes == ()
    assert made.policy == policy_of(resource(), 3)


@pytest.mark.parametrize("uri", ["tiny://", "file:///m", "pvc://claim/some/path", "hf://nvidia/X", "oci://models/x:1"])
@pytest.mark.parametrize("name", ["nemo", LONG])
def test_kubernetes_knows_every_field(
    uri: str, name: str, resource: Resource, spec: dict[str, Any], plan: MakePlan, check_core: Check
) -> None:
    made = plan(resource(spec | {"model": {"uri": uri}}, name=name))
    checked = [child for child in made.children if child["kind"] in CORE]
    for child in checked:
        check_core(child)
    assert {child["kind"] for child in checked} == set(CORE)


def test_the_check_finds_what_is_wrong(resource: Resource, plan: MakePlan, find: Find, check_core: Check) -> None:
    deployment = json.loads(json.dumps(find(plan(resource()), "Deployment")))
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(AssertionError, match=r"containers\[0\]: unknown \['readynessProbe'\]"):
        check_core(deployment)
    deployment = json.loads(json.dumps(find(plan(resource()), "Deployment")))
    del deployment["spec"]["selector"]
    with pytest.raises(ValueError, match="selector"):
        check_core(deployment)
    service = json.loads(json.dumps(find(plan(resource()), "Service", "nemo-router")))
    service["spec"]["ports"][0]["port"] = "8000"
    with pytest.raises(AssertionError, match=r"ports\[0\].port: '8000' is no int"):
        check_core(service)


@pytest.mark.parametrize("uri", ["tiny://", "pvc://claim/some/path", "hf://nvidia/X", "oci://models/x:1"])
def test_kuberay_knows_every_field(
    uri: str, resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find, check_ray_service: Check
) -> None:
    check_ray_service(find(plan(resource(spec | {"model": {"uri": uri}})), "RayService"))


def test_the_check_of_the_ray_service_finds_what_is_wrong(
    resource: Resource, plan: MakePlan, find: Find, check_ray_service: Check
) -> None:
    service = json.loads(json.dumps(find(plan(resource()), "RayService")))
    cluster = service["spec"]["rayClusterConfig"]
    for place in (cluster, cluster["headGroupSpec"]["template"]["spec"]["containers"][0], service["spec"]):
        place["unheardOf"] = 1
        with pytest.raises(Exception, match="unheardOf"):
            check_ray_service(service)
        del place["unheardOf"]
    check_ray_service(service)


@pytest.mark.parametrize("name", ["nemo", LONG])
def test_every_child_belongs_to_the_resource(name: str, resource: Resource, plan: MakePlan) -> None:
    made = plan(resource(name=name))
    wanted = dict(pair.split("=") for pair in selector(name).split(","))
    kinds = {(kind.api_version, kind.kind) for kind in made.prune_kinds}
    for child in made.children:
        metadata = child["metadata"]
        assert metadata["namespace"] == "llm"
        (reference,) = metadata["ownerReferences"]
        assert (reference["kind"], reference["name"], reference["uid"]) == ("NemotronDeployment", name, "u-1")
        assert reference["controller"]
        assert wanted.items() <= metadata["labels"].items()
        assert all(len(value) <= 63 for value in metadata["labels"].values())
        assert len(metadata["name"]) <= (47 if child["kind"] == "RayService" else 63)
        assert (child["apiVersion"], child["kind"]) in kinds, "nobody would ever remove it"
    keys = [(child["kind"], child["metadata"]["name"]) for child in made.children]
    assert len(keys) == len(set(keys))


def test_long_names_stay_apart(resource: Resource, plan: MakePlan, find: Find) -> None:
    names = {find(plan(resource(name=LONG[:-1] + end)), "RayService")["metadata"]["name"] for end in "abc"}
    assert len(names) == 3


def test_the_same_input_gives_the_same_plan(resource: Resource, plan: MakePlan) -> None:
    assert plan(resource()) == plan(resource())
    json.dumps(plan(resource()).children)


def test_routers_read_what_the_config_map_holds(resource: Resource, plan: MakePlan, find: Find) -> None:
    made = plan(resource())
    container = find(made, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["command"][:3] == ["python", "-m", "trimode_router"]
    folder, _, file = container["command"][-1].rpartition("/")
    assert folder in [mount["mountPath"] for mount in container["volumeMounts"]]
    config = RouterConfig.from_wire(find(made, "ConfigMap")["data"][file])
    assert config.policy == made.policy
    assert (config.name, config.model) == ("nemo", "nemo")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": config.port, "internal": config.internal_port}
    assert (config.host, config.internal_host) == ("0.0.0.0", "0.0.0.0")


def test_the_edge_of_the_routers_is_the_resources(
    resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find
) -> None:
    router = {"replicas": 2, "corsOrigins": ["https://chat.example"], "idleSeconds": 620, "bodyBytes": 2**26}
    made = plan(resource(spec | {"router": router}))
    config = RouterConfig.from_wire(find(made, "ConfigMap")["data"]["router.json"])
    assert (config.cors_origins, config.idle_seconds) == (("https://chat.example",), 620)
    assert (config.header_bytes, config.body_bytes) == (16384, 2**26)
    # Read at a router's start, so a change of it replaces the routers.
    assert find(made, "Deployment") != find(plan(resource()), "Deployment")


SECURED = {"auth": {"secretName": "api-keys"}, "tls": {"secretName": "nemo-tls"}}


def test_secrets_of_the_user_are_mounted_and_read(
    resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find, check_core: Check
) -> None:
    made = plan(resource(spec | {"router": SECURED}))
    pod = find(made, "Deployment")["spec"]["template"]["spec"]
    check_core(find(made, "Deployment"))
    volumes = {volume["secret"]["secretName"]: volume for volume in pod["volumes"] if "secret" in volume}
    assert set(volumes) == {"api-keys", "nemo-tls"}
    mounts = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    config = RouterConfig.from_wire(find(made, "ConfigMap")["data"]["router.json"])
    for secret, file in (
        ("api-keys", config.keys_file),
        ("nemo-tls", config.tls_certificate),
        ("nemo-tls", config.tls_key),
    ):
        mount = mounts[volumes[secret]["name"]]
        assert file.rpartition("/")[0] == mount["mountPath"]
        assert mount["readOnly"]
        assert "subPath" not in mount, "files of a part are never renewed"
    assert config.keys_file.endswith("/keys.json")
    assert [Path(file).name for file in (config.tls_certificate, config.tls_key)] == ["tls.crt", "tls.key"]
    assert not [child for child in made.children if child["kind"] == "Secret" and child["metadata"]["name"] in volumes]


def test_with_a_certificate_everybody_who_asks_the_public_port_speaks_https(
    resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find, check_core: Check
) -> None:
    made = plan(resource(spec | {"router": SECURED}))
    container = find(made, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    # Without a certificate that can be used the public port answers nobody, and a restart would not help.
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "internal"}
    public, reports = find(made, "Service", "nemo-router"), find(made, "Service", "nemo-reports")
    check_core(public)
    assert public["spec"]["ports"][0]["appProtocol"] == "https"
    assert "appProtocol" not in reports["spec"]["ports"][0]
    (endpoint,) = find(made, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert [(note.kind, note.reason) for note in made.notes] == [
        ("HTTPRoute", "BackendTLS"),
        ("InferencePool", "BackendTLS"),
    ]


def test_without_secrets_nothing_of_them_is_there(resource: Resource, plan: MakePlan, find: Find) -> None:
    made = plan(resource())
    pod = find(made, "Deployment")["spec"]["template"]["spec"]
    assert [volume["name"] for volume in pod["volumes"]] == ["tmp", "config"]
    assert "scheme" not in pod["containers"][0]["readinessProbe"]["httpGet"]
    assert "appProtocol" not in find(made, "Service", "nemo-router")["spec"]["ports"][0]
    config = RouterConfig.from_wire(find(made, "ConfigMap")["data"]["router.json"])
    assert (config.keys_file, config.tls_certificate, config.tls_key, config.processes) == ("", "", "", 1)


def test_services_find_the_routers(resource: Resource, plan: MakePlan, find: Find) -> None:
    made = plan(resource())
    labels = find(made, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert find(made, "Deployment")["spec"]["selector"]["matchLabels"].items() <= labels.items()
    public, reports = find(made, "Service", "nemo-router"), find(made, "Service", "nemo-reports")
    for service in (public, reports):
        assert service["spec"]["selector"].items() <= labels.items()
    assert (reports["spec"]["clusterIP"], reports["spec"]["publishNotReadyAddresses"]) == ("None", True)
    scraped = find(made, "ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    assert scraped <= public["metadata"]["labels"].items()
    assert not scraped <= reports["metadata"]["labels"].items(), "every router would be scraped twice"


def test_budgets_find_their_pods(resource: Resource, plan: MakePlan) -> None:
    made = plan(resource())
    labels = [template["metadata"]["labels"] for template in pods(made)]
    for child in made.children:
        if child["kind"] == "PodDisruptionBudget":
            selector = child["spec"]["selector"]["matchLabels"].items()
            assert sum(selector <= each.items() for each in labels) == 1


@pytest.mark.parametrize(("least", "stays"), [(0, None), (1, 1), (2, 1), (8, 7)])
def test_a_pools_budget(
    least: int, stays: int | None, resource: Resource, spec: dict[str, Any], plan: MakePlan
) -> None:
    pool = spec["pools"][0] | {"replicas": {"min": least, "max": 8}}
    made = plan(resource(spec | {"pools": [pool]}))
    budgets = [c for c in made.children if c["metadata"]["name"] == "nemo-pool-flex"]
    assert [budget["spec"]["minAvailable"] for budget in budgets] == ([] if stays is None else [stays])


@pytest.mark.parametrize("uri", ["tiny://", "pvc://claim/path", "hf://nvidia/X", "oci://models/x:1"])
def test_pods_keep_to_the_restricted_standard(
    uri: str, resource: Resource, spec: dict[str, Any], plan: MakePlan
) -> None:
    templates = list(pods(plan(resource(spec | {"model": {"uri": uri}}))))
    assert len(templates) == 4
    for template in templates:
        pod = template["spec"]
        security = pod["securityContext"]
        assert security["runAsNonRoot"]
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]
            assert {"livenessProbe", "readinessProbe"} <= container.keys()
            writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
            assert "/tmp" in writable
            assert {"name": "HOME", "value": "/tmp"} in container["env"]
            assert "USER" in [variable["name"] for variable in container["env"]]
        kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "image"}
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def routers_environment(made: Plan, find: Find) -> list[dict[str, Any]]:
    (container,) = find(made, "Deployment")["spec"]["template"]["spec"]["containers"]
    return list(container["env"])


def test_routers_are_told_of_the_collector(resource: Resource, plan: MakePlan, find: Find) -> None:
    """In the words that the router itself reads. The pod's name comes before what names it."""
    given = routers_environment(plan(resource()), find)
    assert [each["name"] for each in given].index("POD_NAME") < [each["name"] for each in given].index(
        "OTEL_RESOURCE_ATTRIBUTES"
    )
    values = {each["name"]: each.get("value", "").replace("$(POD_NAME)", "nemo-router-7f-x") for each in given}
    values["OTEL_EXPORTER_OTLP_HEADERS"] = "x-key=k"
    found = telemetry_of(values, {"service.name": "trimode-router", "service.instance.id": "host-1"})
    assert found == Telemetry(
        traces=Signal("http://collector:4318/v1/traces", {"x-key": "k"}),
        metrics=Signal("http://collector:4318/v1/metrics", {"x-key": "k"}),
        resource={
            "service.name": "trimode-router",
            "service.instance.id": "nemo-router-7f-x",
            "k8s.pod.name": "nemo-router-7f-x",
            "k8s.deployment.name": "nemo-router",
            "k8s.namespace.name": "llm",
        },
    )
    assert values["OTEL_METRIC_EXPORT_INTERVAL"] == "60000"
    (headers,) = [each["valueFrom"] for each in given if each["name"] == "OTEL_EXPORTER_OTLP_HEADERS"]
    assert headers == {"secretKeyRef": {"name": "collector", "key": "headers", "optional": True}}


@pytest.mark.parametrize("left_out", ["traces", "metrics"])
def test_a_signal_may_be_left_out(resource: Resource, plan: MakePlan, find: Find, left_out: str) -> None:
    settings = Settings.model_validate({"telemetry": {"endpoint": "https://c", left_out: False, "metricSeconds": 5}})
    values = {each["name"]: each.get("value", "") for each in routers_environment(plan(resource(), settings), find)}
    found = telemetry_of(values, {})
    ends = {"traces": found.traces.endpoint, "metrics": found.metrics.endpoint}
    assert ends.pop(left_out) == ""
    assert list(ends.values()) == [f"https://c/v1/{next(iter(ends))}"]
    assert values["OTEL_METRIC_EXPORT_INTERVAL"] == "5000"
    assert "OTEL_EXPORTER_OTLP_HEADERS" not in values


def test_without_a_collector_nothing_is_exported(resource: Resource, plan: MakePlan, find: Find) -> None:
    names = {each["name"] for each in routers_environment(plan(resource(), Settings()), find)}
    assert not [name for name in names if name.startswith("OTEL_")]


def test_only_the_head_gets_credentials_for_the_api_server(resource: Resource, plan: MakePlan, find: Find) -> None:
    made = plan(resource())
    assert find(made, "ServiceAccount")["automountServiceAccountToken"] is False
    given = [template["spec"].get("automountServiceAccountToken", True) for template in pods(made)]
    # Router, head (its autoscaler needs them), workers.
    assert given == [False, True, False, False]


def test_the_token_is_in_the_secret_and_nowhere_else(resource: Resource, plan: MakePlan) -> None:
    from trimode_operator.plan import Observed

    made = plan(resource(), observed=Observed(token="very-secret-indeed"))
    holding = [child["kind"] for child in made.children if "very-secret-indeed" in json.dumps(child)]
    assert holding == []  # the Secret's data is in base64
    referring = [t["spec"]["containers"][0]["name"] for t in pods(made) if "nemo-token" in json.dumps(t)]
    assert referring == ["router", "ray-head", "ray-worker", "ray-worker"]


def test_what_a_cluster_lacks_is_left_out_and_said(resource: Resource, plan: MakePlan) -> None:
    bare = Capabilities(kuberay=False, pdb_v1=False)
    made = plan(resource(), capabilities=bare)
    kinds = {child["kind"] for child in made.children}
    assert not kinds & {"RayService", "PodDisruptionBudget", "ServiceMonitor", "HTTPRoute", "InferencePool"}
    assert [(note.kind, note.reason) for note in made.notes] == [
        ("RayService", "KubeRayMissing"),
        ("PodDisruptionBudget", "BudgetsMissing"),
        ("HTTPRoute", "GatewayMissing"),
        ("InferencePool", "InferencePoolMissing"),
    ]
    assert "helm install" in made.notes[0].message
    assert {kind.kind for kind in made.prune_kinds} == set(CORE) - {"PodDisruptionBudget"}


@pytest.mark.parametrize(("known", "timeouts"), [(True, {"request": "0s"}), (False, None)])
def test_a_gateway_ends_no_answer_by_itself(
    resource: Resource, plan: MakePlan, find: Find, known: bool, timeouts: dict[str, str] | None
) -> None:
    """Envoy does after 15 seconds, unless the route says otherwise, as HTTPRoutes can since Gateway API 1.2."""
    made = plan(
        resource(),
        capabilities=Capabilities(service_monitor=True, http_route=True, inference_pool=True, route_timeouts=known),
    )
    (rule,) = find(made, "HTTPRoute")["spec"]["rules"]
    assert rule.get("timeouts") == timeouts
    assert [note.reason for note in made.notes] == ([] if known else ["GatewayTimeouts"])


def test_what_nobody_asked_for_is_left_out_without_a_word(resource: Resource, plan: MakePlan) -> None:
    made = plan(resource(), settings=Settings(network_policies=False), capabilities=Capabilities())
    assert made.notes == ()
    kinds = {child["kind"] for child in made.children}
    assert not kinds & {"NetworkPolicy", "HTTPRoute", "InferencePool", "ServiceMonitor"}


def test_suspended_it_has_no_workers_and_no_router_runs(
    resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find
) -> None:
    awake, asleep = plan(resource()), plan(resource(spec | {"suspend": True}))
    assert find(asleep, "Deployment")["spec"]["replicas"] == 0
    assert find(awake, "Deployment")["spec"]["replicas"] == 2
    left = [child["metadata"]["name"] for child in awake.children if child["kind"] != "RayService"]
    assert [child["metadata"]["name"] for child in asleep.children] == left
    assert "RayService" in {kind.kind for kind in asleep.prune_kinds}, "so it goes"


def test_without_rays_token_every_container_is_told_and_the_status_says_so(
    resource: Resource, plan: MakePlan, find: Find
) -> None:
    made = plan(resource(), capabilities=Capabilities(rays_token=False))
    cluster = find(made, "RayService")["spec"]["rayClusterConfig"]
    assert "authOptions" not in cluster
    off = {"name": "RAY_AUTH_MODE", "value": "disabled"}
    containers = [
        container
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
        for container in group["template"]["spec"]["containers"]
    ]
    assert len(containers) == 3
    assert all(off in each["env"] for each in (cluster["autoscalerOptions"], *containers))
    assert [(note.kind, note.reason) for note in made.notes if note.kind == "RayService"] == [
        ("RayService", "RayWithoutToken")
    ]
    with_token = find(plan(resource()), "RayService")["spec"]["rayClusterConfig"]
    assert with_token["authOptions"] == {"mode": "token"}
    assert off not in with_token["autoscalerOptions"]["env"]


def test_the_head_keeps_the_label_that_kuberays_own_service_selects_by(
    resource: Resource, plan: MakePlan, find: Find
) -> None:
    cluster = find(plan(resource()), "RayService")["spec"]["rayClusterConfig"]
    labels = cluster["headGroupSpec"]["template"]["metadata"]["labels"]
    assert "app.kubernetes.io/name" not in labels, "KubeRay's own, kuberay, stays"
    assert labels["app.kubernetes.io/component"] == "head"
    workers = cluster["workerGroupSpecs"][0]["template"]["metadata"]["labels"]
    assert workers["app.kubernetes.io/name"] == "trimode"


def test_a_cluster_that_serves_without_being_active_stays_long_enough_for_the_next_one(
    resource: Resource, plan: MakePlan, find: Find
) -> None:
    usual = find(plan(resource()), "RayService")["spec"]
    careful = find(plan(resource(), observed=Observed(token="secret", unpromoted=True)), "RayService")["spec"]
    assert usual["rayClusterDeletionDelaySeconds"] == 60
    assert careful == usual | {"rayClusterDeletionDelaySeconds": 3600}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"model": {"uri": "file://not/absolute"}}, "spec.model.uri"),
        ({"pools": [{"name": "ok", "modes": ["AR"]}, {"name": "headgroup", "modes": ["AR"]}]}, "spec.pools[1].name"),
        (
            {
                "engine": {"type": "SGLang", "image": "x", "args": ["--tp", "2", "--port=1"]},
                "pools": [{"name": "p", "modes": ["AR"]}],
            },
            "spec.engine.args",
        ),
    ],
)
def test_what_a_cluster_cannot_run_is_refused_by_its_field(
    change: dict[str, Any], path: str, resource: Resource, spec: dict[str, Any], plan: MakePlan
) -> None:
    with pytest.raises(InvalidInput) as caught:
        plan(resource(spec | change))
    assert [problem.path for problem in caught.value.problems] == [path]


def test_a_name_that_no_service_can_have(resource: Resource, plan: MakePlan) -> None:
    with pytest.raises(InvalidInput, match=r"metadata\.name: must start with a letter"):
        plan(resource(name="8b"))


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[3] / "examples").glob("*.yaml")), ids=lambda f: f.name)
def test_the_examples_run_on_a_cluster_too(file: Path, plan: MakePlan, check_core: Check) -> None:
    deployment = NemotronDeployment.parse(yaml.safe_load(file.read_text()))
    for child in plan(deployment, settings=Settings()).children:
        if child["kind"] in CORE:
            check_core(child)
