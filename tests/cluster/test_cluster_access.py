"""API keys and certificate from Secrets: missing, bad, renewed; with a real router and the operator's own rights."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from trimode_e2e.api import Object
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.operator_process import Operator
from trimode_e2e.world import KIND, VERSION, World, tiny
from trimode_router.access import new_key

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NAME = "guarded"
WITHOUT_WORKERS = ("NotObserved", "RayServiceNotReady", "PoolsNotReady", "AsSpecified")
"""What Ready says where nothing is wrong with Secrets; workers may take their time, nothing here waits for them."""
ROUTER = {"auth": {"secretName": "api-keys"}, "tls": {"secretName": "web"}}


def secret(name: str, namespace: str, kind: str = "Opaque", **files: bytes) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": kind,
        "data": {file.replace("_", "."): base64.b64encode(content).decode() for file, content in files.items()},
    }


def keys_file(digest: str) -> bytes:
    return json.dumps({"tenants": [{"name": "acme"}], "keys": [{"tenant": "acme", "sha256": digest}]}).encode()


def certificate(folder: Path, name: str) -> dict[str, bytes]:
    made, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    try:
        subprocess.run(
            [*command, "-subj", f"/CN={name}", "-out", str(made), "-keyout", str(key)], check=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("NO openssl on this machine: apt install openssl")
    return {"tls_crt": made.read_bytes(), "tls_key": key.read_bytes()}


@pytest.fixture(scope="module")
def home(playing: World) -> str:
    return playing.namespace()


def asked(world: World, home: str, key: str = "") -> int:
    """Status of a look at the models through HTTPS; 0 where no router answers."""
    assert world.node is not None
    pods = [pod for pod in tuple(world.node.pods.values()) if pod.namespace == home and "router" in pod.name]
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    for pod in pods:
        try:
            url = f"https://{pod.address}:8000/v1/models"
            return httpx.get(url, headers=headers, verify=False, trust_env=False, timeout=5).status_code
        except httpx.HTTPError:
            continue
    return 0


def ready(world: World, home: str, *reasons: str) -> Any:
    """The Ready condition once it has one of these reasons."""

    def look() -> Object | None:
        found = world.condition(NAME, home, "Ready")
        return found if found.get("reason") in reasons else None

    return world.api.until(look, f"Ready with reason {' or '.join(reasons)}", 60)


def test_keys_and_certificate_come_from_secrets_and_are_renewed(
    playing: World, operator: Operator, kubectl: Kubectl, home: str, tmp_path: Path
) -> None:
    kubectl("apply", "-f", "-", text=json.dumps(tiny(NAME, home, router=ROUTER)))
    missing = ready(playing, home, "SecretMissing")
    assert "spec.router.auth.secretName" in missing["message"]
    assert "'web'" in missing["message"]
    assert playing.get(NAME, home)["status"]["url"].startswith(f"https://{NAME}-router.{home}.svc")
    playing.api.until(lambda: "SecretMissing" in kubectl("describe", "nd", NAME, "-n", home), "an Event")

    key, digest = new_key()
    playing.api.apply(secret("web", home, "kubernetes.io/tls", **certificate(tmp_path, "first")))
    playing.api.apply(secret("api-keys", home, keys_json=b"no JSON"))
    invalid = ready(playing, home, "SecretInvalid")
    assert invalid["message"].startswith("spec.router.auth.secretName: Secret 'api-keys': ")
    assert "keys.json" in invalid["message"]
    assert asked(playing, home, key) == 503, "nobody is let in without keys to compare with"
    (pod,) = [pod for pod in playing.api.listed("v1", "Pod", home) if "router" in pod["metadata"]["name"]]

    playing.api.apply(secret("api-keys", home, keys_json=keys_file(digest)))
    playing.api.until(lambda: asked(playing, home, key) == 200, "the key is known", 60)
    assert asked(playing, home) == 401
    ready(playing, home, *WITHOUT_WORKERS)
    second, digest = new_key()
    playing.api.apply(secret("api-keys", home, keys_json=keys_file(digest)))
    playing.api.until(lambda: asked(playing, home, second) == 200, "the next key is known", 60)
    assert asked(playing, home, key) == 401

    playing.api.apply(secret("web", home, "kubernetes.io/tls", tls_crt=b"x", tls_key=b"y"))
    invalid = ready(playing, home, "SecretInvalid")
    assert invalid["message"].startswith("spec.router.tls.secretName: Secret 'web': ")
    assert asked(playing, home, second) == 200, "the old certificate stays until there is a better one"
    playing.api.apply(secret("web", home, "kubernetes.io/tls", **certificate(tmp_path, "second")))
    ready(playing, home, *WITHOUT_WORKERS)
    (same,) = [pod for pod in playing.api.listed("v1", "Pod", home) if "router" in pod["metadata"]["name"]]
    assert same["metadata"]["uid"] == pod["metadata"]["uid"], "renewing replaced the router"
    assert same["status"]["containerStatuses"][0]["restartCount"] == 0

    playing.delete(NAME, home)
    assert playing.api.get("v1", "Secret", "api-keys", home) is not None, "it is the user's"


def test_a_name_that_no_secret_can_have_is_refused(world: World, paper: str) -> None:
    bad = tiny("bad", paper, router={"auth": {"secretName": "API_Keys"}})
    with pytest.raises(Exception, match="secretName"):
        world.api.create(bad)
    assert world.api.get(VERSION, KIND, "bad", paper) is None
