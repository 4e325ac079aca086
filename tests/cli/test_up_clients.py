"""Other people's clients, unpatched, against a real `trimode up` that wants API keys and has two router processes.

AIPerf and GuideLLM are looked for on the path, or where TRIMODE_AIPERF and TRIMODE_GUIDELLM say. They bring many
packages of their own, so each belongs into an environment of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from trimode_local.preflight import machine_cores, tiny_folder
from trimode_router.access.access import new_key

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

RESOURCE = """
apiVersion: trimode.dev/v1alpha1
kind: NemotronDeployment
metadata: {name: clients}
spec:
  model: {uri: "tiny://", servedName: tiny}
  engine: {maxContextTokens: 1024, maxRunningRequests: 8}
  pools:
  - {name: flex, modes: [AR, SelfSpeculation], blockLengths: [8]}
  router: {replicas: 2, auth: {secretName: api-keys}}
  drain: {timeoutSeconds: 30}
"""
MESSAGES: list[Any] = [{"role": "user", "content": "Who are you?"}]
REQUESTS = 12
CLIENT_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Served:
    """A running `up`, and a key that it knows."""

    url: str
    key: str
    said: Path
    pid: int


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("up")
    key, digest = new_key()
    keys = {"tenants": [{"name": "bench"}], "keys": [{"tenant": "bench", "sha256": digest}]}
    (folder / "keys.json").write_text(json.dumps(keys))
    (folder / "d.yaml").write_text(RESOURCE)
    command = [sys.executable, "-m", "trimode_cli.main", "up", "-f", str(folder / "d.yaml"), "--port", "0"]
    with (folder / "err").open("w") as errors:
        process = subprocess.Popen(
            [*command, "--keys", str(folder / "keys.json")],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
        )
    assert process.stdout is not None
    try:
        ready = process.stdout.readline()
        assert ready.startswith("ready: tiny at http://127.0.0.1:"), (folder / "err").read_text()
        yield Served(ready.split()[-1].removesuffix("/v1"), key, folder / "err", process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0
    finally:
        if process.poll() is None:
            parts = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
            psutil.wait_procs(parts, timeout=30)
        process.stdout.close()


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{served.url}/v1", api_key=served.key, http_client=httpx.Client(trust_env=False, timeout=120)
    ) as made:
        yield made


def test_keys_are_wanted_and_the_resource_says_why_they_come_from_a_file(served: Served) -> None:
    said = served.said.read_text()
    assert f"{min(2, machine_cores())} processes" in said or machine_cores() == 1
    assert "spec.router.auth" not in said, "the file was given, so there is nothing to warn of"
    with (
        openai.OpenAI(
            base_url=f"{served.url}/v1", api_key="tm-guess", http_client=httpx.Client(trust_env=False)
        ) as one,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        one.models.list()
    assert refused.value.code == "invalid_api_key"


def test_the_processes_share_the_port(served: Served) -> None:
    port = int(served.url.rsplit(":", 1)[1])
    listening = [
        part.pid
        for part in psutil.Process(served.pid).children(recursive=True)
        for connection in part.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    ]
    assert len(set(listening)) == len(listening) == min(2, machine_cores())


def test_chat_in_every_way(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0, max_tokens=12, seed=1)
    stream = client.chat.completions.create(
        model="tiny", messages=MESSAGES, temperature=0, max_completion_tokens=12, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1
    cut = client.chat.completions.create(
        model="tiny", messages=MESSAGES, temperature=0, max_tokens=12, stop=[text[3:6]]
    )
    assert cut.choices[0].message.content == text[: text.index(text[3:6])]
    assert cut.choices[0].finish_reason == "stop"


def test_several_answers_at_once(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "temperature": 2, "max_tokens": 64, "n": 3}
    answer = client.chat.completions.create(**asked, seed=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    streamed = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(**asked, seed=3, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert all(streamed.values())


def test_a_seed_gives_the_same_answer_twice(client: openai.OpenAI) -> None:
    """In one mode: another draws from the same distribution, but not the same tokens."""

    def ask(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model="tiny",
            messages=MESSAGES,
            temperature=1.5,
            max_tokens=24,
            seed=seed,
            extra_body={"trimode": {"mode": "AR"}},
        )
        return answer.choices[0].message.content

    assert ask(7) == ask(7)
    assert len({ask(seed) for seed in range(8)}) > 1


def test_text_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="tiny", prompt="The capital of", temperature=0, max_tokens=8)
    stream = client.completions.create(model="tiny", prompt="The capital of", temperature=0, max_tokens=8, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == whole.choices[0].text
    assert whole.object == "text_completion"


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"functions": [{"name": "f", "parameters": {}}]}, "functions"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 9}, "temperature"),
    ],
)
def test_what_the_engine_does_not_have_is_refused_by_its_name(
    client: openai.OpenAI, asked: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=MESSAGES, **asked)
    assert refused.value.param == param


def program(name: str) -> str:
    """Where it is; the test is skipped where it is not."""
    found = os.environ.get(f"TRIMODE_{name.upper()}") or shutil.which(name)
    if not found:
        pytest.skip(
            f"NO {name} on the path: python -m venv DIR && DIR/bin/pip install {name}, then put DIR/bin on the path "
            f"or set TRIMODE_{name.upper()}=DIR/bin/{name}"
        )
    return found


def run(command: list[str], folder: Path, **environment: str) -> str:
    """Its output; it must succeed. It gets an empty home, and nothing of this environment's Python."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command,
        cwd=folder,
        env=inherited | {"HOME": str(folder), "HF_HUB_DISABLE_TELEMETRY": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=CLIENT_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_aiperf(served: Served, tmp_path: Path, endpoint: str) -> None:
    load = ["--concurrency", "4", "--request-count", str(REQUESTS)]
    sizes = ["--synthetic-input-tokens-mean", "40", "--output-tokens-mean", "16"]
    target = ["-m", "tiny", "--url", served.url, "--endpoint-type", endpoint, "--streaming", "--api-key", served.key]
    own = ["--tokenizer", str(tiny_folder()), "--artifact-dir", str(tmp_path / "out"), "--ui", "none"]
    # The tiny model may end at once on a made-up text, and AIPerf counts an empty answer as an error.
    more = ["--extra-inputs", "min_tokens:4"] if endpoint == "completions" else []
    run([program("aiperf"), "profile", *target, *load, *sizes, *own, *more], tmp_path)
    told = json.loads((tmp_path / "out" / "profile_export_aiperf.json").read_text())
    assert told["request_count"]["avg"] == REQUESTS
    assert not told.get("error_request_count", {}).get("avg")
    assert not told.get("error_summary")
    # By its own count of the text: 16 drawn tokens have been 17 to the tokenizer.
    assert told["output_sequence_length"]["max"] <= 20
    assert told["time_to_first_token"]["avg"] > 0


def test_guidellm(served: Served, tmp_path: Path) -> None:
    target = f"kind=openai_http,target={served.url},model=tiny,api_key={served.key}"
    load = ["--profile", "kind=concurrent,streams=2", "--constraint", f"kind=max_requests,count={REQUESTS}"]
    data = ["--data", "kind=synthetic_text,prompt_tokens=40,output_tokens=16"]
    own = ["--tokenizer", f"kind=hf_auto,model={tiny_folder()}", "--output", f"kind=json,path={tmp_path / 'out.json'}"]
    run([program("guidellm"), "run", "--backend", target, *load, *data, *own, "--disable-progress"], tmp_path)
    (benchmark,) = json.loads((tmp_path / "out.json").read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"]) == (REQUESTS, 0)
