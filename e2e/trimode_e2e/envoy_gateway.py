"""Envoy Gateway, a controller of Gateway API, as a local process against a control plane without a node.

Belongs here: starting it with what its chart would bring, and an Envoy that it configures. What a node and a cloud
would do for that Envoy's pods and its Service is done here, too: they are called running, and get an address.
Root, and a network of its own (`node.network`): its ports are fixed, and it reads its certificate in `/certs`.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from trimode_e2e import envoy
from trimode_e2e.api import Api, Object
from trimode_e2e.control.build import ENVOY_GATEWAY, build, module_folder
from trimode_e2e.control.plane import free_ports
from trimode_e2e.control.programs import Program, run
from trimode_e2e.envoy import Configuration
from trimode_e2e.errors import Broken

MODULE = "github.com/envoyproxy/gateway"
CLASS, CONTROLLER = "envoy", "gateway.envoyproxy.io/gatewayclass-controller"
HOME = "envoy-gateway-system"
CERTIFICATES = Path("/certs")
"""Where it looks for them; no setting changes it."""
ADDRESS = "192.0.2.10"
"""What a cloud's load balancer would give the Gateway: a documentation's address."""
PATIENCE_S = 60.0
_OWNED = "gateway.envoyproxy.io/owning-gateway-name"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPS = {
    "listeners": ("ListenersConfigDump", "dynamic_listeners", "listener"),
    "routes": ("RoutesConfigDump", "dynamic_route_configs", "route_config"),
    "clusters": ("ClustersConfigDump", "dynamic_active_clusters", "cluster"),
    "endpoints": ("EndpointsConfigDump", "dynamic_endpoint_configs", "endpoint_config"),
}


def definitions() -> list[Object]:
    """Gateway API's and its own, from its chart. Raises Missing and Broken where the module cannot be had."""
    folder = module_folder(ENVOY_GATEWAY, MODULE) / "charts" / "gateway-helm" / "charts" / "crds" / "crds"
    files = [folder / "gatewayapi-crds.yaml", *sorted((folder / "generated").glob("*.yaml"))]
    loaded = [each for file in files for each in yaml.load_all(file.read_text(), Loader=_LOADER) if each]
    return [each for each in loaded if each["kind"] == "CustomResourceDefinition"]


@dataclass(slots=True)
class EnvoyGateway:
    """A running controller, and the Envoy that it configures once `follow` was called."""

    api: Api
    folder: Path
    programs: list[Program]

    @classmethod
    @contextmanager
    def running(cls, api: Api, folder: Path) -> Iterator[EnvoyGateway]:
        """Its definitions have to be there. Raises Missing and Broken."""
        file = build(ENVOY_GATEWAY, lambda _: None) / "envoy-gateway"
        for manifest in (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}},
            {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "GatewayClass",
                "metadata": {"name": CLASS},
                "spec": {"controllerName": CONTROLLER},
            },
        ):
            api.apply(manifest)
        environment = {**os.environ, "KUBECONFIG": str(api.kubeconfig), "ENVOY_GATEWAY_NAMESPACE": HOME}
        run([str(file), "certgen", "--disable-topology-injector"], env=environment)
        settings = folder / "envoy-gateway.yaml"
        settings.write_text(json.dumps(_settings()))
        made = cls(api, folder, [])
        made._certificates("envoy-gateway", CERTIFICATES)
        try:
            command = [str(file), "server", "--config-path", str(settings)]
            log = folder / "envoy-gateway.log"
            made.programs.append(Program.start("envoy-gateway", command, log, env=environment))
            made.programs[0].wait_until(made._accepted, PATIENCE_S)
            yield made
        finally:
            for each in reversed(made.programs):
                each.stop()
            shutil.rmtree(CERTIFICATES)

    def follow(self, gateway: str) -> httpx.Client:
        """Start the Envoy of a Gateway as its pod would, and call it running; its administration."""
        deployment = self._owned("apps/v1", "Deployment", gateway)
        words = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
        value = {each: words[words.index(each) + 1] for each in ("--config-yaml", "--service-cluster")}
        bootstrap: Any = yaml.load(value["--config-yaml"], Loader=_LOADER)
        self._bring_here(bootstrap)
        file, told = self.folder / "bootstrap.json", self.folder / "admin"
        file.write_text(json.dumps(bootstrap))
        command = [
            *(str(envoy.program()), "--config-path", str(file), "--admin-address-path", str(told)),
            *("--service-cluster", value["--service-cluster"], "--service-node", "envoy", "--log-level", "warning"),
        ]
        self.programs.append(Program.start("envoy", command, self.folder / "envoy.log"))
        self.programs[-1].wait_until(lambda: told.exists() and told.read_text() != "", PATIENCE_S)
        self._call_it_running(deployment, self._owned("v1", "Service", gateway))
        return httpx.Client(base_url=f"http://{told.read_text()}", timeout=PATIENCE_S, trust_env=False)

    def _owned(self, api_version: str, kind: str, gateway: str) -> Object:
        look = lambda: self.api.listed(api_version, kind, HOME, f"{_OWNED}={gateway}")  # noqa: E731
        found: Object = self.api.until(look, f"a {kind} for the Gateway {gateway}", PATIENCE_S)[0]
        return found

    def _bring_here(self, bootstrap: Any) -> None:
        """The controller is here, certificates are in files; no statistics, whose port is the controller's here."""
        folder = self.folder / "sds"
        self._certificates("envoy", folder)
        bootstrap["admin"] = {"address": envoy.address(0)}
        static = bootstrap["static_resources"]
        static["listeners"] = []
        (server,) = [each for each in static["clusters"] if each["name"] == "xds_cluster"]
        server["type"] = "STATIC"
        (locality,) = server["load_assignment"]["endpoints"]
        port = locality["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["port_value"]
        locality["lb_endpoints"][0]["endpoint"]["address"] = envoy.address(port)
        tls = server["transport_socket"]["typed_config"]["common_tls_context"]
        del tls["tls_certificate_sds_secret_configs"], tls["validation_context_sds_secret_config"]
        pair = {"certificate_chain": "tls.crt", "private_key": "tls.key"}
        tls["tls_certificates"] = [{key: {"filename": str(folder / name)} for key, name in pair.items()}]
        tls["validation_context"] = {"trusted_ca": {"filename": str(folder / "ca.crt")}}

    def _call_it_running(self, deployment: Object, service: Object) -> None:
        selector = ",".join(f"{k}={v}" for k, v in deployment["spec"]["selector"]["matchLabels"].items())
        pods = self.api.until(lambda: self.api.listed("v1", "Pod", HOME, selector), "Envoy's pod", PATIENCE_S)
        for pod in pods:
            ready = {"type": "Ready", "status": "True"}
            name = pod["metadata"]["name"]
            self.api.patch_status("v1", "Pod", name, HOME, {"phase": "Running", "conditions": [ready]})
        name = service["metadata"]["name"]
        self.api.patch_status("v1", "Service", name, HOME, {"loadBalancer": {"ingress": [{"ip": ADDRESS}]}})

    def _certificates(self, secret: str, folder: Path) -> None:
        found = self.api.get("v1", "Secret", secret, HOME)
        if found is None or folder.exists():
            raise Broken(f"the Secret {secret} is not there, or {folder} is there already")
        folder.mkdir()
        for name, text in found["data"].items():
            (folder / name).write_bytes(base64.b64decode(text))

    def _accepted(self) -> bool:
        found = self.api.get("gateway.networking.k8s.io/v1", "GatewayClass", CLASS) or {}
        conditions = (found.get("status") or {}).get("conditions") or []
        return any((each["type"], each["status"]) == ("Accepted", "True") for each in conditions)


def configuration(admin: httpx.Client) -> Configuration:
    """What an Envoy was given by its controller."""
    dump = admin.get("/config_dump?include_eds").json()["configs"]
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, (part, items, item) in _DUMPS.items():
        (whole,) = [each for each in dump if each["@type"].endswith(f".{part}")]
        made = [each.get("active_state", each).get(item, {}) for each in whole.get(items, ())]
        found[kind] = [{key: value for key, value in each.items() if key != "@type"} for each in made if each]
        found[kind].sort(key=lambda each: str(each.get("name") or each.get("cluster_name")))
    return found


def _settings() -> Object:
    kubernetes = {"leaderElection": {"disable": True}, "proxyTopologyInjector": {"disabled": True}}
    (port,) = free_ports(1)
    return {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyGateway",
        "gateway": {"controllerName": CONTROLLER},
        "provider": {"type": "Kubernetes", "kubernetes": kubernetes},
        "admin": {"address": {"host": "127.0.0.1", "port": port}},
    }
