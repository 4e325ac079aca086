"""A pool that sleeps, for real: `trimode up` with Ray Serve, the tiny model and the router."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from trimode_e2e.up_process import PATIENCE_S, serving, until

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
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 8}


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "d.yaml").write_text(RESOURCE)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    with serving(tmp_path / "d.yaml", "tiny", environment) as served:
        yield served.url


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
