"""A pool that sleeps, for real: `trimode up` with Ray Serve, the tiny model and the router."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

RESOURCE = """
apiVersion: trimode.dev/v1alpha1
kind: NemotronDeployment
metadata: {name: sleeps}
spec:
  model: {uri: "tiny://", servedName: tiny}
  engine: {maxContextTokens: 256, maxRunningRequests: 8}
  pools:
  - {name: flex, modes: [AR, SelfSpeculation], blockLengths: [8], replicas: {min: 0, max: 1, idleSeconds: 4}}
  admission: {maxWaitMilliseconds: 240000}
  drain: {timeoutSeconds: 30}
"""
PATIENCE_S = 240.0
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 8}


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "d.yaml").write_text(RESOURCE)
    with (tmp_path / "err").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "trimode_cli.main", "up", "-f", str(tmp_path / "d.yaml"), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        )
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith("ready: tiny at "), (tmp_path / "err").read_text()
        yield ready.split()[-1].removesuffix("/v1")
    finally:
        parts = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _, alive = psutil.wait_procs(parts, timeout=30)
        assert process.stdout is not None
        process.stdout.close()
        assert not alive, alive


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.2)


def test_a_request_wakes_the_pool_waits_and_is_served_and_the_pool_goes_to_sleep_again(url: str) -> None:
    with httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE_S) as client:

        def pool() -> dict[str, Any]:
            found: dict[str, Any] = client.get("/fleet").raise_for_status().json()["pools"][0]
            return found

        def ask(_: int = 0) -> float:
            begun = time.monotonic()
            answer = client.post("/v1/chat/completions", json=BODY)
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"][0]["message"]["content"]
            return time.monotonic() - begun

        for _ in range(2):
            until(lambda: pool()["replicas"] == pool()["ready"] == 0, "the pool to sleep")
            assert client.get("/readyz").status_code == 200, "else no request would ever come to wake it"
            with ThreadPoolExecutor(3) as clients:
                waits = list(clients.map(ask, range(3)))
            assert pool()["ready"] == 1
            print(f"\nfrom no replica to an answer: {max(waits):.1f} s; from one: {ask():.2f} s")
