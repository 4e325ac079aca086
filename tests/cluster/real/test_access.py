"""API keys and certificate from Secrets: missing, unusable, renewed under load, gone; no pod is replaced for it."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
import pytest

from trimode_e2e.api import Object, Refused
from trimode_e2e.clients import PROMPT
from trimode_e2e.control.certificates import Authority, Pair
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.world import World, tiny
from trimode_router.access.access import new_key

pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("on_the_node")]

NAME = "guarded"
KEYS, CERTIFICATE = "api-keys", "web"
RENEWED_TIMEOUT_S = 400
"""Kubelet looks at a pod's volumes every 60 to 90 seconds; docs/router.md says a minute or so."""


def secret(name: str, namespace: str, kind: str = "Opaque", **files: bytes) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": kind,
        "data": {file.replace("_", "."): base64.b64encode(content).decode() for file, content in files.items()},
    }


def keys(namespace: str, *digests: str) -> Object:
    """The Secret of API keys with these."""
    content = {"tenants": [{"name": "acme"}], "keys": [{"tenant": "acme", "sha256": each} for each in digests]}
    return secret(KEYS, namespace, keys_json=json.dumps(content).encode())


def certificate(namespace: str, pair: Pair) -> Object:
    files = {"tls_crt": pair.certificate.read_bytes(), "tls_key": pair.key.read_bytes()}
    return secret(CERTIFICATE, namespace, "kubernetes.io/tls", **files)


@dataclass(frozen=True, slots=True)
class Guarded:
    """The resource, and its clients' way to it: HTTPS by the Service's address, by an authority that they trust."""

    world: World
    home: str
    authority: Authority
    key: str
    digest: str

    @property
    def address(self) -> str:
        service = self.world.api.get("v1", "Service", f"{NAME}-router", self.home)
        assert service is not None
        return str(service["spec"]["clusterIP"])

    @property
    def url(self) -> str:
        return f"https://{self.address}:8000"

    def issued(self, name: str) -> Pair:
        """A certificate for that address."""
        return self.authority.server(name, self.address)

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority.pair.certificate))

    def shown(self) -> str:
        """The certificate that new connections get, in PEM."""
        return ssl.get_server_certificate((self.address, 8000), timeout=5)

    def asked(self, key: str = "") -> int:
        """Status of a look at the models; 0 where no router answers.

        Asked of the pod, which the Service leaves out as long as no replica is ready; its address is not in the
        certificate.
        """
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        trust = self.trust()
        trust.check_hostname = False
        try:
            url = f"https://{self.router()['status']['podIP']}:8000/v1/models"
            return httpx.get(url, headers=headers, verify=trust, trust_env=False, timeout=5).status_code
        except httpx.HTTPError:
            return 0

    def router(self) -> Object:
        """Its only pod."""
        (pod,) = self.world.pods(self.home, instance=NAME, component="router")
        return pod

    def hurry(self) -> None:
        """Kubelet looks at a pod's volumes when the pod changes, not only every minute or so."""
        name, notes = self.router()["metadata"]["name"], {"metadata": {"annotations": {"hurried": str(time.time())}}}
        self.world.api.patch("v1", "Pod", name, self.home, notes)

    def until_ready(self, status: str, reason: str, timeout_s: float = RENEWED_TIMEOUT_S) -> Object:
        return self.world.until_condition(NAME, self.home, "Ready", status, timeout_s, reason)


@dataclass(slots=True)
class Load:
    """One client that asks the model again and again, each time by a new connection and with the key of the moment.

    Begins with an answer to compare with, once kube-proxy knows of the router.
    """

    guarded: Guarded
    key: str
    text: str = ""
    answers: list[tuple[int, str]] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        _, self.text = self.guarded.world.api.until(
            lambda: (first := self._ask())[0] == 200 and first, "a first answer"
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        assert self._thread is not None
        self._thread.join(60)
        print(f"\n{len(self.answers)} answers under load")

    @property
    def failures(self) -> list[tuple[int, str]]:
        """Whatever is not the text that the first answer had; all are greedy."""
        return [each for each in self.answers if each != (200, self.text)]

    def wait_for(self, more: int) -> None:
        wanted, deadline = len(self.answers) + more, time.monotonic() + 60
        while len(self.answers) < wanted:
            assert time.monotonic() < deadline, f"no {more} more answers within a minute"
            time.sleep(0.05)

    def _run(self) -> None:
        while not self._stopping.wait(0.2):
            self.answers.append(self._ask())

    def _ask(self) -> tuple[int, str]:
        body = {
            "model": NAME,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": 16,
            "temperature": 0,
        }
        try:
            answer = httpx.post(
                f"{self.guarded.url}/v1/chat/completions",
                headers={"Authorization": f"Bearer {self.key}"},
                json=body,
                verify=self.guarded.trust(),
                trust_env=False,
                timeout=60,
            )
        except httpx.HTTPError as exc:
            return 0, f"{type(exc).__name__}: {exc}"
        if answer.status_code != 200:
            return answer.status_code, answer.text
        return 200, str(answer.json()["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def guarded(installed: World, home: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A resource that names Secrets which are not there yet. The tests of this module go on from one another."""
    router = {"auth": {"secretName": KEYS}, "tls": {"secretName": CERTIFICATE}}
    key, digest = new_key()
    installed.api.create(tiny(NAME, home, router=router))
    yield Guarded(installed, home, Authority.create(tmp_path_factory.mktemp("web"), "web-ca"), key, digest)
    installed.delete(NAME, home)
    for name in (KEYS, CERTIFICATE):
        assert installed.api.get("v1", "Secret", name, home) is not None, "it is the user's"


@pytest.fixture(scope="module")
def same_pod(guarded: Guarded) -> Iterator[None]:
    """From the first use on, no router is replaced or restarted."""
    before = guarded.router()
    yield
    after = guarded.router()
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["containerStatuses"][0]["restartCount"] == 0


def events(kubectl: Kubectl, home: str) -> list[tuple[str, str]]:
    """Reason and message of every warning about the resource."""
    select = f"involvedObject.name={NAME},involvedObject.kind=NemotronDeployment,type=Warning"
    found: list[dict[str, Any]] = json.loads(
        kubectl("get", "events", "-n", home, f"--field-selector={select}", "-o", "json")
    )["items"]
    return [(each["reason"], each["message"]) for each in found]


def test_secrets_that_are_missing_are_named(guarded: Guarded, kubectl: Kubectl, home: str) -> None:
    told = guarded.until_ready("False", "SecretMissing", 60)["message"]
    assert f"spec.router.auth.secretName: there is no Secret {KEYS!r}" in told
    assert f"spec.router.tls.secretName: there is no Secret {CERTIFICATE!r}" in told
    guarded.world.api.until(lambda: ("SecretMissing", told) in events(kubectl, home), "a warning says it")
    status = guarded.world.get(NAME, home)["status"]
    assert status["url"].startswith(f"https://{NAME}-router.{home}.svc")
    states = [each["state"] for each in guarded.router()["status"].get("containerStatuses") or []]
    assert all("waiting" in state for state in states), "a router without its keys runs"


def test_keys_that_cannot_be_read_let_nobody_in(guarded: Guarded, kubectl: Kubectl, home: str) -> None:
    guarded.world.api.create(certificate(home, guarded.issued("first")))
    guarded.world.api.create(secret(KEYS, home, keys_json=b"no JSON"))
    guarded.hurry()
    told = guarded.until_ready("False", "SecretInvalid")["message"]
    assert told.startswith(f"spec.router.auth.secretName: Secret {KEYS!r}: ")
    assert "keys.json" in told
    assert "no JSON" not in told, "a Secret's content is in the status"
    guarded.world.api.until(lambda: ("SecretInvalid", told) in events(kubectl, home), "a warning says it")
    guarded.world.api.until(lambda: guarded.asked(guarded.key) == 503, "nobody is let in without keys to compare with")


def test_with_good_ones_it_serves_who_has_a_key(guarded: Guarded, same_pod: None, home: str) -> None:
    guarded.world.api.apply(keys(home, guarded.digest))
    guarded.hurry()
    guarded.until_ready("True", "AsSpecified")
    guarded.world.api.until(lambda: guarded.asked(guarded.key) == 200, "who has the key is let in")
    assert guarded.asked() == 401
    assert guarded.asked("another") == 401
    with Load(guarded, guarded.key) as load:
        load.wait_for(3)
    assert load.failures == []


def test_keys_are_renewed_under_load(guarded: Guarded, same_pod: None, home: str) -> None:
    """As one rotates them: the next one beside the old one, clients change over, the old one goes."""
    following, digest = new_key()
    with Load(guarded, guarded.key) as load:
        load.wait_for(1)
        begun = time.monotonic()
        guarded.world.api.apply(keys(home, guarded.digest, digest))
        guarded.world.api.until(lambda: guarded.asked(following) == 200, "the next key is known", RENEWED_TIMEOUT_S)
        print(f"\na key added to the Secret is known after {time.monotonic() - begun:.1f} s")
        load.key = following
        load.wait_for(2)
        guarded.world.api.apply(keys(home, digest))
        guarded.hurry()
        guarded.world.api.until(lambda: guarded.asked(guarded.key) == 401, "the old key is refused", RENEWED_TIMEOUT_S)
        load.wait_for(2)
    assert load.failures == []
    guarded.world.api.apply(keys(home, guarded.digest, digest))
    guarded.hurry()
    guarded.world.api.until(lambda: guarded.asked(guarded.key) == 200, "the first key is back", RENEWED_TIMEOUT_S)


def test_a_certificate_is_renewed_under_load(guarded: Guarded, same_pod: None, home: str) -> None:
    """One that is no good changes nothing and is told; a good one is shown to new connections."""
    before = guarded.shown()
    with Load(guarded, guarded.key) as load:
        load.wait_for(1)
        guarded.world.api.apply(secret(CERTIFICATE, home, "kubernetes.io/tls", tls_crt=b"x", tls_key=b"y"))
        guarded.hurry()
        told = guarded.until_ready("False", "SecretInvalid")["message"]
        assert told.startswith(f"spec.router.tls.secretName: Secret {CERTIFICATE!r}: ")
        assert guarded.world.condition(NAME, home, "Serving")["status"] == "True"
        assert guarded.shown() == before
        load.wait_for(2)
        second = guarded.issued("second")
        guarded.world.api.apply(certificate(home, second))
        guarded.hurry()
        wanted = second.certificate.read_text()
        guarded.world.api.until(
            lambda: guarded.shown() == wanted, "the renewed certificate is shown", RENEWED_TIMEOUT_S
        )
        guarded.until_ready("True", "AsSpecified")
        load.wait_for(2)
    assert load.failures == []


def test_secrets_that_go_are_told_and_what_runs_goes_on(
    guarded: Guarded, same_pod: None, kubectl: Kubectl, home: str
) -> None:
    with Load(guarded, guarded.key) as load:
        guarded.world.api.delete("v1", "Secret", KEYS, home)
        told = guarded.until_ready("False", "SecretMissing", 60)["message"]
        assert f"no Secret {KEYS!r}" in told
        assert guarded.world.condition(NAME, home, "Serving")["status"] == "True"
        guarded.world.api.until(lambda: ("SecretMissing", told) in events(kubectl, home), "a warning says it")
        guarded.hurry()
        load.wait_for(4)
        guarded.world.api.create(keys(home, guarded.digest))
        guarded.until_ready("True", "AsSpecified")
        load.wait_for(2)
    assert load.failures == []


def test_a_name_that_no_secret_can_have_is_refused(installed: World, home: str) -> None:
    with pytest.raises(Refused, match=r"spec\.router\.auth\.secretName"):
        installed.api.create(tiny("bad", home, router={"auth": {"secretName": "API_Keys"}}))
