"""What the chart makes: valid, hardened, labelled, and no more rights than the operator uses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiClient, models

from trimode_api.crd import custom_resource_definition
from trimode_e2e.helm import Helm, HelmError, Rendered
from trimode_operator.plan.make import ALWAYS, BUDGET, INFERENCE_POOL, MONITOR, RAY_SERVICE, ROUTE
from trimode_operator.plan.names import INTERNAL_PORT, labels, matching
from trimode_operator.plan.settings import Settings
from trimode_operator.process.options import read_options

OWN_KINDS = {"ServiceMonitor", "PrometheusRule"}
"""Kinds of the Prometheus Operator: their schemas are not at hand here."""


def named(item: dict[str, Any]) -> str:
    return f"{item['kind']} {item['metadata']['name']}"


def pods(rendered: Rendered) -> list[dict[str, Any]]:
    templates = [item["spec"]["template"]["spec"] for item in rendered.of("Deployment")]
    return templates + [hook["spec"] for hook in rendered.hooks]


def rules(rendered: Rendered, kind: str, name: str | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rendered.one(kind, name)["rules"]
    return found


def test_helm_lints_it(helm: Helm, chart: Path) -> None:
    assert helm.lint(chart) <= 1  # a hint: it has no icon


def test_objects_are_what_kubernetes_knows(rendered: Rendered) -> None:
    client = ApiClient()
    for item in [*rendered.objects, *rendered.hooks]:
        if item["kind"] in OWN_KINDS:
            continue
        version = item["apiVersion"].rpartition("/")[2]
        model = getattr(models, f"{version.capitalize()}{item['kind']}")
        read = client._ApiClient__deserialize(item, model)  # required fields are checked on the way
        assert client.sanitize_for_serialization(read) == item, f"{named(item)} has fields that Kubernetes drops"


def test_no_name_twice_and_the_release_in_every_namespaced_object(rendered: Rendered) -> None:
    names = [(i["kind"], i["metadata"].get("namespace"), i["metadata"]["name"]) for i in rendered.objects]
    assert len(set(names)) == len(names)
    scoped = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    for kind, namespace, name in names:
        assert (namespace is None) == (kind in scoped), name


def test_every_object_carries_the_recommended_labels(rendered: Rendered) -> None:
    for item in rendered.objects:
        found = item["metadata"]["labels"]
        assert found["app.kubernetes.io/name"] == "trimode-operator", named(item)
        assert found["app.kubernetes.io/managed-by"] == "Helm"
        assert found["app.kubernetes.io/part-of"] == "trimode"
        assert {"app.kubernetes.io/instance", "app.kubernetes.io/version", "helm.sh/chart"} <= found.keys()


def test_every_container_is_hardened(rendered: Rendered) -> None:
    for pod in pods(rendered):
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert not any("hostPath" in volume for volume in pod.get("volumes", []))
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["runAsNonRoot"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


def test_only_the_operator_mounts_the_token(rendered: Rendered) -> None:
    assert rendered.one("ServiceAccount")["automountServiceAccountToken"] is False
    operator, test = pods(rendered)
    assert operator["automountServiceAccountToken"] is True
    assert test["automountServiceAccountToken"] is False


def every_rule(rendered: Rendered) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in rendered.of("ClusterRole") + rendered.of("Role"):
        for rule in item["rules"]:
            yield named(item), rule


def test_no_wildcards_and_no_rights_to_give_rights(rendered: Rendered) -> None:
    for name, rule in every_rule(rendered):
        for words in (rule["apiGroups"], rule["resources"], rule["verbs"]):
            assert not any("*" in word for word in words), name
        assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"]), name
        assert "rbac.authorization.k8s.io" not in rule["apiGroups"], name
        assert not {"pods/exec", "pods/portforward", "nodes", "serviceaccounts/token"} & set(rule["resources"]), name


WRITES = {"create", "update", "patch", "delete"}
OWN = {("trimode.dev", f"nemotrondeployments{part}") for part in ("", "/status", "/finalizers")}
EVENTS = {("", "events")}
KUBERAYS = {("ray.io", "rayclusters"), ("ray.io", "rayservices/status")}
"""Bounds of running Ray clusters, and upgrades that are taken back: KubeRay does neither by itself."""


def written(found: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {
        (g, r) for rule in found if WRITES & set(rule["verbs"]) for g in rule["apiGroups"] for r in rule["resources"]
    }


def test_it_may_write_exactly_what_a_plan_makes(default: Rendered) -> None:
    kinds = (*ALWAYS, RAY_SERVICE, BUDGET, MONITOR, ROUTE, INFERENCE_POOL)
    made = {(kind.api_version.rpartition("/")[0], kind.plural) for kind in kinds}
    assert written(rules(default, "ClusterRole")) == made | OWN | EVENTS | KUBERAYS


def test_everything_made_can_be_read_applied_and_removed(default: Rendered) -> None:
    for rule in rules(default, "ClusterRole"):
        if "create" in rule["verbs"] and rule["resources"] != ["events"]:
            assert {"get", "list", "create", "patch", "delete"} <= set(rule["verbs"]), rule["resources"]


def test_the_lease_is_its_own_and_in_its_own_namespace(default: Rendered) -> None:
    lease = default.one("Role", "trimode-leader")
    assert lease["metadata"]["namespace"] == "trimode-system"
    by_name = [rule for rule in lease["rules"] if "resourceNames" in rule]
    assert [rule["resourceNames"] for rule in by_name] == [["trimode"]]
    assert [rule["verbs"] for rule in lease["rules"] if rule not in by_name] == [["create"]]


def test_watched_namespaces_get_a_role_each_and_the_cluster_none(everything: Rendered, default: Rendered) -> None:
    assert not everything.of("ClusterRole")
    assert not everything.of("ClusterRoleBinding")
    watched = [role for role in everything.of("Role") if not role["metadata"]["name"].endswith("-leader")]
    assert [role["metadata"]["namespace"] for role in watched] == ["team-a", "team-b"]
    for role in watched:
        assert written(role["rules"]) == written(rules(default, "ClusterRole"))
    robot = {"kind": "ServiceAccount", "name": "trimode-robot", "namespace": "trimode-system"}
    roles = {(role["metadata"]["namespace"], role["metadata"]["name"]) for role in everything.of("Role")}
    bound = {(b["metadata"]["namespace"], b["roleRef"]["name"]) for b in everything.of("RoleBinding")}
    assert bound == roles
    assert all(binding["subjects"] == [robot] for binding in everything.of("RoleBinding"))


def test_the_crd_is_the_models_and_stays_on_uninstall(default: Rendered, everything: Rendered) -> None:
    found = default.one("CustomResourceDefinition")
    assert found["spec"] == custom_resource_definition()["spec"]
    assert found["metadata"]["name"] == custom_resource_definition()["metadata"]["name"]
    assert found["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert not everything.of("CustomResourceDefinition")
    kept = [i for i in default.objects if "helm.sh/resource-policy" in i["metadata"].get("annotations", {})]
    assert kept == [found]


def settings(rendered: Rendered) -> Settings:
    (found,) = [item for item in rendered.of("ConfigMap") if "settings.yaml" in item["data"]]
    return Settings.model_validate(yaml.safe_load(found["data"]["settings.yaml"]))


def test_the_settings_file_is_what_the_operator_reads(default: Rendered, everything: Rendered) -> None:
    plain = settings(default)
    assert plain.image == default.one("Deployment")["spec"]["template"]["spec"]["containers"][0]["image"]
    assert plain.operator.namespace_labels == {"kubernetes.io/metadata.name": "trimode-system"}
    template = default.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert plain.operator.pod_labels.items() <= template.items()
    full = settings(everything)
    assert full.image.endswith("@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")
    assert full.image_pull_policy == "Always"
    assert full.image_pull_secrets == ("registry",)
    assert full.router.cpu == "2"
    assert full.network_policies is False
    changed = {name for name in Settings.model_fields if getattr(full, name) != getattr(Settings(), name)}
    assert changed == set(Settings.model_fields) - {"ray_version"}, "ci/all-values.yaml leaves a setting at its default"


def test_the_operator_understands_how_it_is_started(rendered: Rendered, tmp_path: Path) -> None:
    container = rendered.one("Deployment")["spec"]["template"]["spec"]["containers"][0]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "settings"]
    (found,) = [item for item in rendered.of("ConfigMap") if "settings.yaml" in item["data"]]
    (tmp_path / "settings.yaml").write_text(found["data"]["settings.yaml"])
    assert container["command"] == ["python", "-m", "trimode_operator"]
    arguments = [word.replace(mount["mountPath"], str(tmp_path)) for word in container["args"]]
    assert {variable["name"] for variable in container["env"]} == {"POD_NAME", "POD_NAMESPACE"}
    options = read_options(arguments, {"POD_NAME": "a", "POD_NAMESPACE": "trimode-system"})
    assert options.settings == settings(rendered)
    assert (options.identity, options.lease_namespace) == ("a", "trimode-system")
    (lease,) = [item for item in rendered.of("Role") if item["metadata"]["name"].endswith("-leader")]
    assert lease["metadata"]["namespace"] == options.lease_namespace
    assert [options.lease] in [rule.get("resourceNames") for rule in lease["rules"]]
    watched = {item["metadata"]["namespace"] for item in rendered.of("Role") if item is not lease}
    assert set(options.namespaces) == watched
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"metrics": options.metrics_port, "health": options.health_port}


@pytest.mark.parametrize("name", ["kuberay-operator", "kuberay"], ids=["its chart", "its manifests"])
def test_kuberays_pods_are_found_however_it_was_installed(name: str) -> None:
    """Labels of KubeRay 1.5.0's to 1.7.0's pods. Policies that miss them shut KubeRay out of Ray's dashboard."""
    pod = {"app.kubernetes.io/name": name, "app.kubernetes.io/component": "kuberay-operator"}
    assert Settings().kuberay.pod_labels.items() <= pod.items()
    assert not Settings().kuberay.namespace_labels


def test_new_settings_make_new_pods(helm: Helm, chart: Path, default: Rendered) -> None:
    other = helm.render(chart, {"settings": {"gpuResource": "example.com/gpu"}})
    mark = "trimode.dev/settings"
    before, after = (
        item.one("Deployment")["spec"]["template"]["metadata"]["annotations"][mark] for item in (default, other)
    )
    assert before != after


def test_selectors_find_the_operators_pods_and_no_others(rendered: Rendered) -> None:
    template = rendered.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        rendered.one("Deployment")["spec"]["selector"]["matchLabels"],
        rendered.one("Service")["spec"]["selector"],
    ]
    selectors += [i["spec"]["selector"]["matchLabels"] for i in rendered.of("PodDisruptionBudget")]
    selectors += [i["spec"]["podSelector"]["matchLabels"] for i in rendered.of("NetworkPolicy")]
    assert len(selectors) == 4
    (test,) = rendered.hooks
    for selector in selectors:
        assert selector.items() <= template.items()
        assert not selector.items() <= test["metadata"]["labels"].items()
        assert not selector.items() <= labels("some", "router").items()
    for monitor in rendered.of("ServiceMonitor"):
        chosen = monitor["spec"]["selector"]["matchLabels"]
        assert chosen.items() <= rendered.one("Service")["metadata"]["labels"].items()


def test_ports_are_named_where_they_are_used(rendered: Rendered) -> None:
    container = rendered.one("Deployment")["spec"]["template"]["spec"]["containers"][0]
    names = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {container[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe")} <= names.keys()
    (port,) = rendered.one("Service")["spec"]["ports"]
    assert port["targetPort"] in names
    (test,) = rendered.hooks
    url = test["spec"]["containers"][0]["args"][1]
    assert url == f"http://{rendered.one('Service')['metadata']['name']}.trimode-system.svc:{port['port']}/metrics"
    for monitor in rendered.of("ServiceMonitor"):
        assert [endpoint["port"] for endpoint in monitor["spec"]["endpoints"]] == [port["name"]]


def test_the_network_policy_lets_out_what_the_operator_needs(rendered: Rendered) -> None:
    spec = rendered.one("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    dns, api, routers = spec["egress"]
    assert {(p["protocol"], p["port"]) for p in dns["ports"]} == {("UDP", 53), ("TCP", 53)}
    assert 6443 in [p["port"] for p in api["ports"]]
    assert [p["port"] for p in routers["ports"]] == [INTERNAL_PORT]
    assert routers["to"][0]["podSelector"]["matchLabels"].items() <= matching("any", "router").items() | {
        ("app.kubernetes.io/component", "router")
    }


def test_metrics_can_be_closed_but_the_charts_test_gets_in(default: Rendered, everything: Rendered) -> None:
    assert "from" not in default.one("NetworkPolicy")["spec"]["ingress"][0]
    (_, test), hook = everything.one("NetworkPolicy")["spec"]["ingress"][0]["from"], everything.hooks[0]
    assert test["podSelector"]["matchLabels"].items() <= hook["metadata"]["labels"].items()


def test_kubernetes_before_1_34_is_refused(helm: Helm, chart: Path) -> None:
    def template(version: str) -> str:
        return helm("template", "trimode", str(chart), "--kube-version", version)

    assert "kind: Deployment" in template("1.34.0")
    assert "kind: Deployment" in template("1.34.4-gke.1047000")
    with pytest.raises(HelmError, match=r"requires kubeVersion: >=1\.34\.0-0"):
        template("1.33.9")


def test_notes_say_what_to_do_next(default: Rendered, everything: Rendered) -> None:
    assert "kubectl get nd" in default.notes
    assert "KubeRay" in default.notes
    assert "team-a, team-b" in everything.notes


@pytest.mark.parametrize("release", ["trimode", "serving", "a" * 53])
def test_names_fit_whatever_the_release_is_called(helm: Helm, chart: Path, release: str) -> None:
    values = {"dashboards": {"enabled": True}}
    for item in helm.render(chart, values, release=release).objects:
        name = item["metadata"]["name"]
        assert len(name) <= 63 or item["kind"].startswith("Cluster"), name
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9.:]*[a-z0-9])?", name)


def test_the_test_pod_leaves_nothing_where_it_passes(rendered: Rendered) -> None:
    (hook,) = rendered.hooks
    policy = hook["metadata"]["annotations"]
    assert policy["helm.sh/hook"] == "test"
    assert "hook-succeeded" in policy["helm.sh/hook-delete-policy"]
