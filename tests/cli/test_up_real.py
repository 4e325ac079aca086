"""`trimode up` for real: Ray, a replica with the tiny model, the router; changed under load, ended, failing."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from trimode_e2e.up_process import until
from trimode_local.preflight import tiny_folder

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

RESOURCE = """
apiVersion: trimode.dev/v1alpha1
kind: NemotronDeployment
metadata: {name: real}
spec:
  model: {uri: "URI", servedName: tiny}
  engine: {maxContextTokens: 256, maxRunningRequests: 8}
  pools:
  - {name: flex, modes: [AR, SelfSpeculation], blockLengths: [8]}
  drain: {timeoutSeconds: 30}
  # A replica that starts takes its time from the one that answers, and late requests would rightly be refused.
  tiers: [{name: patient, ttftMilliseconds: 60000, tpotMilliseconds: 10000}]
  admission: {maxWaitMilliseconds: 60000}
"""
TINY = RESOURCE.replace("URI", "tiny://")
MANUAL = TINY + "  switching: {policy: Manual, mode: SelfSpeculation}\n"
QUESTION = [{"role": "user", "content": "Who are you?"}]
SOON_S, PATIENCE_S = 60.0, 300.0
"""For machines that do other things as well."""


@dataclass
class Up:
    """A running command; `parts` are all processes it has started."""

    process: subprocess.Popen[str]
    folder: Path
    url: str = ""

    def parts(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


def start(folder: Path, text: str, *, port: int = 0) -> Up:
    (folder / "d.yaml").write_text(text)
    with (folder / "err").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "trimode_cli.main", "up", "-f", str(folder / "d.yaml"), "--port", str(port)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment(folder),
        )
    return Up(process, folder)


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "XDG_RUNTIME_DIR": str(folder)}


def apply(up: Up, text: str) -> subprocess.CompletedProcess[str]:
    (up.folder / "new.yaml").write_text(text)
    command = [sys.executable, "-m", "trimode_cli.main", "apply", "-f", str(up.folder / "new.yaml")]
    return subprocess.run(command, capture_output=True, text=True, env=environment(up.folder), timeout=60, check=False)


def fleet(up: Up) -> dict[str, object]:
    found: dict[str, object] = httpx.get(f"{up.url}/fleet", trust_env=False).raise_for_status().json()
    return found


def gone(parts: list[psutil.Process]) -> bool:
    return not [part for part in parts if part.is_running() and part.status() != psutil.STATUS_ZOMBIE]


def truncated_model(folder: Path) -> Path:
    model = folder / "model"
    model.mkdir()
    for file in tiny_folder().glob("*"):
        if file.is_file():
            (model / file.name).write_bytes(file.read_bytes())
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:100_000])
    return model


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One `up` for the tests of this module, ready; killed with all its parts where a test has not ended it."""
    running = start(tmp_path_factory.mktemp("up"), TINY)
    try:
        assert running.process.stdout is not None
        ready = running.process.stdout.readline()
        assert ready.startswith("ready: tiny at http://127.0.0.1:"), (running.folder / "err").read_text()
        running.url = ready.split()[-1].removesuffix("/v1")
        yield running
    finally:
        if running.process.poll() is None:
            parts = running.parts()
            running.process.kill()
            running.process.wait()
            psutil.wait_procs(parts, timeout=30)
        assert running.process.stdout is not None
        running.process.stdout.close()


def test_it_speaks_openai(up: Up) -> None:
    with openai.OpenAI(base_url=f"{up.url}/v1", api_key="none", http_client=httpx.Client(trust_env=False)) as client:
        answer = client.chat.completions.create(model="tiny", messages=QUESTION, temperature=0)  # type: ignore[arg-type]
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 1


def test_every_port_is_on_the_loopback(up: Up) -> None:
    listening = [
        connection.laddr.ip
        for part in [psutil.Process(up.process.pid), *up.parts()]
        for connection in part.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_all_of_it_fits_into_1600_mb(up: Up) -> None:
    parts = [psutil.Process(up.process.pid), *up.parts()]
    assert sum(part.memory_full_info().pss for part in parts) < 1600 << 20


def test_a_second_up_of_the_name_and_one_on_the_port_are_refused(up: Up, tmp_path: Path) -> None:
    same_name = start(up.folder, TINY)
    assert same_name.process.wait(60) == 2
    assert "'real' is already up" in (up.folder / "err").read_text()
    same_port = start(
        tmp_path,
        TINY.replace("name: real", "name: other"),
        port=int(up.url.split(":")[2]),
    )
    assert same_port.process.wait(60) == 2
    assert "Address already in use" in (tmp_path / "err").read_text()
    for refused in (same_name, same_port):
        assert refused.process.stdout is not None
        refused.process.stdout.close()


@contextmanager
def asking(up: Up, clients: int = 4) -> Iterator[list[str]]:
    """Clients that ask one thing after another; what came: `200`, or a status with its words."""
    answers: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=up.url, trust_env=False, timeout=60) as client:
            while not stop.is_set():
                body = {"model": "tiny", "messages": QUESTION, "temperature": 0, "max_tokens": 32}
                answer = client.post("/v1/chat/completions", json=body)
                answers.append("200" if answer.is_success else f"{answer.status_code} {answer.text}")

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(answers) > clients, "answers", SOON_S)
        yield answers
        before = len(answers)
        until(lambda: len(answers) > before + clients, "answers after the change", SOON_S)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_apply_switches_under_load_without_a_failed_request(up: Up) -> None:
    with asking(up) as answers:
        assert apply(up, TINY).stdout == "nemotrondeployment.trimode.dev/real unchanged\n"
        changed = apply(up, MANUAL)
        assert changed.stdout == "nemotrondeployment.trimode.dev/real configured\n"
        assert "spec.switching.policy: Predictive -> Manual" in changed.stderr
    state = fleet(up)
    assert set(answers) == {"200"}
    assert state["policyVersion"] == 2
    replicas = json.loads(json.dumps(state["replicas"]))
    assert [(r["point"], r["decision"]["reason"], r["policyVersion"]) for r in replicas] == [("S8", "Manual", 2)]


def test_new_replicas_take_over_under_load_and_a_model_that_cannot_start_does_not(up: Up, tmp_path: Path) -> None:
    def ids() -> set[str]:
        replicas = json.loads(json.dumps(fleet(up)["replicas"]))
        return {r["replicaId"] for r in replicas if r["ready"] and not r["draining"]}

    before = ids()
    with asking(up) as answers:
        assert apply(up, MANUAL.replace("maxRunningRequests: 8", "maxRunningRequests: 16")).returncode == 0
        until(lambda: not before & ids() and len(ids()) == 1, "the new replica alone", SOON_S)
        after = ids()
        model = truncated_model(tmp_path)
        failed = apply(up, MANUAL.replace("tiny://", f"file://{model}"))
        assert failed.returncode == 1
        assert "what ran before goes on" in failed.stderr
        assert "corrupt or truncated safetensors file" in failed.stderr
        assert ids() == after
    assert set(answers) == {"200"}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (RESOURCE.replace("URI", "pvc://a/b"), "a cluster mounts claims"),
        (RESOURCE.replace("URI", "file:///no/such/folder"), "there is no folder"),
        (
            TINY.replace("servedName: tiny", "servedName: x"),
            "cannot change while it runs",
        ),
        (TINY.replace("[8]", "[7]"), "blockLengths"),
    ],
)
def test_a_wrong_apply_changes_nothing(up: Up, wrong: str, words: str) -> None:
    before = fleet(up)["policyVersion"]
    refused = apply(up, wrong)
    assert refused.returncode == 2
    assert words in refused.stderr
    assert fleet(up)["policyVersion"] == before


def test_sigterm_ends_all_of_it(up: Up) -> None:
    parts = up.parts()
    assert len(parts) > 4
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(PATIENCE_S) == 0
    assert gone(parts)
    assert not (up.folder / "trimode" / "real.sock").exists()


def test_a_corrupt_model_is_one_clear_error_and_nothing_is_left(tmp_path: Path) -> None:
    model = truncated_model(tmp_path)
    running = start(tmp_path, RESOURCE.replace("URI", f"file://{model}"))
    seen: dict[int, psutil.Process] = {}

    def ended() -> bool:
        if running.process.poll() is None:
            seen.update({part.pid: part for part in running.parts()})
        return running.process.poll() is not None

    until(ended, "the failure", PATIENCE_S)
    said = (tmp_path / "err").read_text()
    assert running.process.returncode == 1
    assert "corrupt or truncated safetensors file" in said
    assert "Traceback" not in said
    assert seen
    assert gone(list(seen.values()))
    assert running.process.stdout is not None
    assert running.process.stdout.read() == ""
    running.process.stdout.close()
