"""The Inference Extension's endpoint picker as a local process, and an Envoy that asks it.

Belongs here: starting both the way the example's Deployment and a gateway would, and where the recording lies. Ports
are fixed: a network of its own (`node.network`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from trimode_e2e import envoy
from trimode_e2e.api import Object
from trimode_e2e.control.build import E2E, PICKER, module_folder
from trimode_e2e.control.programs import Program
from trimode_e2e.crds import ROOT

MODULE = "sigs.k8s.io/gateway-api-inference-extension"
RECORDED = E2E / PICKER.folder / "recorded.json"
EXAMPLE = ROOT / "examples" / "gateways" / "endpoint-picker.yaml"
PORT, METRICS_PORT = 9002, 9090
PATIENCE_S = 60.0
HEADER = "x-gateway-destination-endpoint"
"""By which a picker tells Envoy where a request is to go."""
_TYPE = "type.googleapis.com/envoy.extensions"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def recorded() -> Object:
    """`steps` with what was picked, the `pool`, the picker's `arguments` and `configuration`, and `about` it."""
    found: Object = json.loads(RECORDED.read_text())
    return found


def definitions() -> list[Object]:
    """Of InferencePool and the extension's other kinds. Raises Missing and Broken."""
    folder = module_folder(PICKER, MODULE) / "config" / "crd" / "bases"
    return [yaml.load(file.read_text(), Loader=_LOADER) for file in sorted(folder.glob("*.yaml"))]


def example(kind: str) -> Object:
    """The only object of this kind in the example."""
    (found,) = [each for each in yaml.safe_load_all(EXAMPLE.read_text()) if each["kind"] == kind]
    return dict(found)


def arguments() -> list[str]:
    """What the example's Deployment starts the picker with."""
    (container,) = example("Deployment")["spec"]["template"]["spec"]["containers"]
    return list(container["args"])


@contextmanager
def picker(program: Path, words: Sequence[str], folder: Path, kubeconfig: Path, namespace: str) -> Iterator[Program]:
    """A picker that is ready to pick, with the rights of `kubeconfig`."""
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "NAMESPACE": namespace}
    running = Program.start("epp", [str(program), *words], folder / "epp.log", env=environment)
    try:
        running.wait_until(_answers, PATIENCE_S)
        yield running
    finally:
        running.stop()


def metrics() -> str:
    """What a picker tells of itself."""
    return httpx.get(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=PATIENCE_S, trust_env=False).text


def _answers() -> bool:
    try:
        return "inference_pool_ready_pods" in metrics()
    except httpx.TransportError:
        return False


@contextmanager
def asking_envoy(folder: Path) -> Iterator[str]:
    """The URL of an Envoy that asks the picker of each request where it is to go."""
    file, told = folder / "envoy.json", folder / "admin"
    file.write_text(json.dumps(_bootstrap()))
    command = [str(envoy.program()), "--config-path", str(file), "--admin-address-path", str(told)]
    running = Program.start("envoy", [*command, "--log-level", "warning"], folder / "envoy.log")
    try:
        running.wait_until(lambda: told.exists() and told.read_text() != "", PATIENCE_S)
        with httpx.Client(base_url=f"http://{told.read_text()}", trust_env=False) as admin:
            running.wait_until(lambda: admin.get("/ready").text == "LIVE\n", PATIENCE_S)
            (listener,) = admin.get("/listeners?format=json").json()["listener_statuses"]
        yield f"http://127.0.0.1:{listener['local_address']['socket_address']['port_value']}"
    finally:
        running.stop()


def _bootstrap() -> dict[str, Any]:
    """As gateways have it that know pools: whole bodies pass in both directions while they come."""
    sent = {f"{what}_{part}_mode": "SEND" for what in ("request", "response") for part in ("header", "trailer")}
    bodies = {f"{what}_body_mode": "FULL_DUPLEX_STREAMED" for what in ("request", "response")}
    asks = {
        "@type": f"{_TYPE}.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}},
        "processing_mode": sent | bodies,
        "message_timeout": f"{PATIENCE_S:g}s",
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "picked", "timeout": "0s"}}
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "pool",
        "route_config": {"virtual_hosts": [{"name": "pool", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "envoy.filters.http.ext_proc", "typed_config": asks},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"},
            },
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    picked = {
        "name": "picked",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "original_dst_lb_config": {"use_http_header": True, "http_header_name": HEADER},
    }
    http2 = {
        "@type": f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    end = {"endpoint": {"address": envoy.address(PORT)}}
    asked = {
        "name": "picker",
        "type": "STATIC",
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {"@type": f"{_TYPE}.transport_sockets.tls.v3.UpstreamTlsContext"},
        },
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "load_assignment": {"cluster_name": "picker", "endpoints": [{"lb_endpoints": [end]}]},
    }
    return {
        "admin": {"address": envoy.address(0)},
        "static_resources": {
            "listeners": [{"name": "pool", "address": envoy.address(0), "filter_chains": [chain]}],
            "clusters": [picked, asked],
        },
    }
