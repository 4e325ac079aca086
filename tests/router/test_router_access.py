"""API keys, tenants, budgets, fairness, TLS."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_api.fleet import FleetView
from trimode_api.wire import FLEET_PATH, RouterConfig
from trimode_lab.doubles.replica.replica import FakeReplica
from trimode_router.access.access import Access, AccessError, KeyFile, new_key, read
from trimode_router.access.budget import Budget
from trimode_router.access.certificate import Certificate, CertificateError
from trimode_router.access.certificate import read as read_certificate
from trimode_router.edge.server import Router

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
PATH = "/v1/chat/completions"


def digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def a_file(**changes: Any) -> dict[str, Any]:
    tenants = [
        {"name": "acme", "tiers": ["standard", "premium"], "defaultTier": "premium", "requestsPerMinute": 6},
        {"name": "basic", "tiers": ["standard"], "tokensPerMinute": 60},
    ]
    keys = [
        {"name": "ci", "tenant": "acme", "sha256": digest("tm-acme")},
        {"tenant": "basic", "sha256": digest("tm-basic")},
    ]
    return {"tenants": tenants, "keys": keys, **changes}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(a_file()))
    return file


@pytest.fixture
async def guarded(open_house: Any, file: Path) -> Any:
    return await open_house(config={"keys_file": str(file)})


async def test_a_key_is_needed(guarded: Any) -> None:
    for headers in ({}, bearer("tm-guess"), {"Authorization": "Basic tm-acme"}, {"Authorization": "Bearer"}):
        response = await guarded.http.post(PATH, json=CHAT, headers=headers)
        assert response.status_code == 401
        assert response.json()["error"]["type"] == "authentication_error"
        assert (await guarded.http.get("/v1/models", headers=headers)).status_code == 401
    assert guarded.replicas[0].calls == []
    response = await guarded.http.post(PATH, json=CHAT, headers=bearer("tm-acme"))
    assert response.status_code == 200
    # The fleet's token goes to the replica, never the client's key.
    assert guarded.replicas[0].calls[0].headers["authorization"] == "Bearer fleet-token"
    assert (await guarded.http.get("/v1/models", headers={"authorization": "bearer tm-acme"})).status_code == 200
    for open_path in ("/healthz", "/readyz", "/metrics"):
        assert (await guarded.http.get(open_path)).status_code == 200


async def test_the_keys_tier(guarded: Any) -> None:
    await guarded.http.post(PATH, json=CHAT, headers=bearer("tm-acme"))
    await guarded.http.post(PATH, json=CHAT, headers=bearer("tm-acme") | {"x-trimode-tier": "standard"})
    await guarded.http.post(PATH, json=CHAT, headers=bearer("tm-basic"))
    assert [call.headers["x-trimode-tier"] for call in guarded.replicas[0].calls] == ["premium", "standard", "standard"]
    refused = await guarded.http.post(PATH, json=CHAT, headers=bearer("tm-basic") | {"x-trimode-tier": "premium"})
    assert refused.status_code == 403
    assert "standard" in refused.json()["error"]["message"]


async def test_requests_per_minute(guarded: Any) -> None:
    for _ in range(6):
        assert (await guarded.http.post(PATH, json=CHAT, headers=bearer("tm-acme"))).status_code == 200
    response = await guarded.http.post(PATH, json=CHAT, headers=bearer("tm-acme"))
    assert (response.status_code, response.headers["retry-after"]) == (429, "10")
    assert response.json()["error"]["code"] == "rate_limit_exceeded"
    assert (await guarded.http.post(PATH, json=CHAT, headers=bearer("tm-basic"))).status_code == 200
    guarded.clock.value += 10
    await guarded.report(guarded.replicas[0].report())
    assert (await guarded.http.post(PATH, json=CHAT, headers=bearer("tm-acme"))).status_code == 200


async def test_tokens_per_minute(guarded: Any) -> None:
    """What an answer has cost is known afterwards: the next request waits until the debt is paid."""
    body = CHAT | {"max_tokens": 100}
    assert (await guarded.http.post(PATH, json=body, headers=bearer("tm-basic"))).status_code == 200
    response = await guarded.http.post(PATH, json=body, headers=bearer("tm-basic"))
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "token_budget_exceeded"
    assert 40 <= int(response.headers["retry-after"]) <= 60


def write(file: Path, text: str | None) -> None:
    """None removes the file."""
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


async def test_a_changed_file_counts_without_a_restart(guarded: Any, file: Path) -> None:
    keys = [{"tenant": "acme", "sha256": digest("tm-new")}]
    write(file, json.dumps(a_file(keys=keys)))
    guarded.pass_time(0)
    assert (await guarded.http.post(PATH, json=CHAT, headers=bearer("tm-new"))).status_code == 200
    assert (await guarded.http.post(PATH, json=CHAT, headers=bearer("tm-acme"))).status_code == 401
    # Neither a bad file nor a missing one locks anybody out, nor lets anybody in.
    for bad in ("{", "", json.dumps(a_file(keys=[{"tenant": "nobody", "sha256": digest("x")}])), None):
        write(file, bad)
        guarded.pass_time(0)
        assert (await guarded.http.post(PATH, json=CHAT, headers=bearer("tm-new"))).status_code == 200
        assert (await guarded.http.post(PATH, json=CHAT)).status_code == 401


def test_a_reload_keeps_what_is_spent(file: Path) -> None:
    access = Access(file, 0.0)
    for _ in range(6):
        tenant = access.tenant_of(b"Bearer tm-acme")
        assert tenant is not None
        tenant.enter(0.0)
    file.write_text(json.dumps(a_file()) + "\n")
    access.refresh(0.0)
    tenant = access.tenant_of(b"Bearer tm-acme")
    assert tenant is not None
    assert tenant.requests.wait(0.0) == pytest.approx(10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keys": [{"tenant": "acme", "sha256": "tm-plain-text"}]}, "sha256"),
        ({"keys": [{"tenant": "nobody", "sha256": "0" * 64}]}, "nobody"),
        ({"tenants": [{"name": "acme"}, {"name": "acme"}, {"name": "basic"}]}, "twice"),
        ({"tenants": [{"name": "acme", "tiers": ["a"], "defaultTier": "b"}, {"name": "basic"}]}, "defaultTier"),
        ({"tenants": [{"name": "acme", "requestPerMinute": 3}, {"name": "basic"}]}, "unknown field"),
    ],
)
def test_bad_files_say_what_is_wrong(file: Path, changes: dict[str, Any], words: str) -> None:
    file.write_text(json.dumps(a_file(**changes)))
    with pytest.raises(AccessError, match=words) as told:
        read(file)
    assert "tm-plain-text" not in str(told.value), "what stands there by mistake is a key"


@pytest.mark.parametrize("text", [None, "{", json.dumps({"tenants": [{"name": "acme"}], "keys": [{"tenant": "x"}]})])
async def test_without_keys_that_can_be_read_nobody_is_served_until_they_can(
    open_house: Any, tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "mounted.json"
    if text is not None:
        file.write_text(text)
    house = await open_house(config={"keys_file": str(file)})
    ready = await house.http.get("/readyz")
    assert (ready.status_code, ready.json()["error"]["code"]) == (503, "not_ready")
    assert "API keys" in ready.json()["error"]["message"]
    for headers in ({}, bearer("tm-acme")):
        refused = await house.http.post(PATH, json=CHAT, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_api_keys")
    inside = FleetView.from_wire((await house.internal.get(FLEET_PATH)).content)
    assert inside.router.problems["keysFile"].startswith(f"{file}: ")
    outside = FleetView.from_wire((await house.http.get("/fleet")).content)
    assert outside.router.problems == {}, "words about tenants are for those who hold the token"
    file.write_text(json.dumps(a_file()))
    house.pass_time(0)
    assert (await house.http.get("/readyz")).status_code == 200
    assert (await house.http.post(PATH, json=CHAT, headers=bearer("tm-acme"))).status_code == 200
    assert (await house.http.post(PATH, json=CHAT)).status_code == 401
    assert FleetView.from_wire((await house.internal.get(FLEET_PATH)).content).router.problems == {}


async def test_a_file_that_turns_bad_is_told_inside_while_the_old_keys_count(guarded: Any, file: Path) -> None:
    write(file, "{")
    guarded.pass_time(0)
    problems = FleetView.from_wire((await guarded.internal.get(FLEET_PATH)).content).router.problems
    assert "keys.json" in problems["keysFile"]
    assert (await guarded.http.get("/readyz")).status_code == 200
    assert (await guarded.http.post(PATH, json=CHAT, headers=bearer("tm-acme"))).status_code == 200


@pytest.mark.parametrize("text", ["tm-plain-text", '{"tm-plain-text": 1}', '{"tenants": "tm-plain-text", "keys": []}'])
def test_what_is_wrong_is_said_without_what_stands_there(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(AccessError, match=str(file)) as told:
        read(file)
    assert ": tm-plain-text" not in str(told.value)
    assert "'tm-plain-text'" not in str(told.value)


def test_made_keys() -> None:
    key, made = new_key()
    assert digest(key) == made
    assert len(key) > 40
    KeyFile.model_validate(a_file(keys=[{"tenant": "acme", "sha256": made}]))


@given(st.integers(1, 600), st.lists(st.tuples(st.floats(0, 5), st.floats(0, 50)), max_size=30))
def test_no_more_is_spent_than_a_minutes_worth_and_what_flows_in(
    per_minute: int, steps: list[tuple[float, float]]
) -> None:
    budget, now, spent, last = Budget(per_minute, 0.0), 0.0, 0.0, 0.0
    for seconds, units in steps:
        now += seconds
        if budget.wait(now) == 0:
            budget.spend(units)
            spent, last = spent + units, units
    assert spent - last <= per_minute * (1 + now / 60) + 1e-3


# TLS.


def make_certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    made, key = folder / "tls.crt", folder / "tls.key"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    names = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", *curve, "-nodes", "-days", "1", *names]
    try:
        subprocess.run([*command, "-out", str(made), "-keyout", str(key)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("NO openssl on this machine: apt install openssl")
    return made, key


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


class Mounted:
    """A Secret as kubelet mounts it: files are links through `..data`, which it switches from folder to folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._serial = 0
        for name in ("tls.crt", "tls.key"):
            (folder / name).symlink_to(Path("..data", name))

    @property
    def files(self) -> tuple[Path, Path]:
        return self.folder / "tls.crt", self.folder / "tls.key"

    def put(self, fill: Callable[[Path], object]) -> None:
        self._serial += 1
        version = self.folder / f"..{self._serial}"
        version.mkdir()
        fill(version)
        (self.folder / "..new").symlink_to(version.name)
        (self.folder / "..new").rename(self.folder / "..data")


def shown(port: int) -> str:
    """The name in the certificate that the port shows; ConnectionError or ssl.SSLError where it shows none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain, context.wrap_socket(plain) as connection:
        raw = connection.getpeercert(binary_form=True)
    assert raw is not None
    text = subprocess.run(
        ["openssl", "x509", "-inform", "der", "-noout", "-subject"], input=raw, capture_output=True, check=True
    ).stdout.decode()
    return text.strip().rpartition("=")[2].strip()


async def test_a_renewed_certificate_counts_for_new_connections_and_leaves_the_old_ones(
    open_house: Any, tmp_path: Path
) -> None:
    secret = Mounted(tmp_path)
    secret.put(lambda folder: make_certificate(folder, "first"))
    made, key = secret.files
    house = await open_house(config={"tls_certificate": str(made), "tls_key": str(key)})
    assert await asyncio.to_thread(shown, house.port) == "first"
    assert (await house.http.post(PATH, json=CHAT)).status_code == 200
    secret.put(lambda folder: make_certificate(folder, "second"))
    house.pass_time(0)
    assert await asyncio.to_thread(shown, house.port) == "second"
    assert (await house.http.post(PATH, json=CHAT)).status_code == 200
    # A renewal that went wrong is told, and changes nothing.
    secret.put(lambda folder: [(folder / name).write_text("x") for name in ("tls.crt", "tls.key")])
    house.pass_time(0)
    assert await asyncio.to_thread(shown, house.port) == "second"
    problems = FleetView.from_wire((await house.internal.get(FLEET_PATH)).content).router.problems
    assert problems["tlsCertificate"].startswith(str(made))
    secret.put(lambda folder: make_certificate(folder, "third"))
    house.pass_time(0)
    assert await asyncio.to_thread(shown, house.port) == "third"
    assert FleetView.from_wire((await house.internal.get(FLEET_PATH)).content).router.problems == {}


async def test_without_a_certificate_every_handshake_fails_until_there_is_one(open_house: Any, tmp_path: Path) -> None:
    secret = Mounted(tmp_path)
    made, key = secret.files
    house = await open_house(config={"tls_certificate": str(made), "tls_key": str(key)})
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await asyncio.to_thread(shown, house.port)
    alive = await house.internal.get("/healthz", headers={"Authorization": ""})
    assert alive.status_code == 200, "nobody restarts it for a Secret that is bad"
    problems = FleetView.from_wire((await house.internal.get(FLEET_PATH)).content).router.problems
    assert problems == {"tlsCertificate": f"{made}: no such file"}
    secret.put(lambda folder: make_certificate(folder, "late"))
    house.pass_time(0)
    assert await asyncio.to_thread(shown, house.port) == "late"


async def test_tls_on_request(make_policy: Any, certificate: tuple[Path, Path]) -> None:
    made, key = certificate
    config = RouterConfig(
        name="demo", model="tiny", port=0, policy=make_policy(), tls_certificate=str(made), tls_key=str(key)
    )
    router = Router(config, "fleet-token", now=asyncio.get_running_loop().time, wall=lambda: 0.0)
    await router.start()
    try:
        assert router.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(made))
        async with FakeReplica() as replica, httpx.AsyncClient(base_url=router.url, verify=context) as http:
            router.fleet.take_report(replica.report(), asyncio.get_running_loop().time(), 0.0)
            response = await http.post(PATH, json=CHAT | {"stream": True})
            assert response.text.endswith("data: [DONE]\n\n")
    finally:
        await router.stop(0.5)


def test_bad_certificates_say_what_is_wrong(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    made, key = certificate
    bad, other = tmp_path / "bad.crt", tmp_path / "other"
    bad.write_text("no certificate")
    other.mkdir()
    for files, words in (
        ((bad, bad), "not PEM"),
        ((made, tmp_path / "none"), "no such file"),
        ((made, make_certificate(other)[1]), "not the certificate's"),
    ):
        with pytest.raises(CertificateError, match=words):
            read_certificate(*files)
        told = Certificate(*files)
        assert words in told.problem
        assert not told.usable
    assert Certificate(made, key).problem == ""
