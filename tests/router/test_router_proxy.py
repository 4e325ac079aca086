"""The data path as clients see it."""

from __future__ import annotations

import json
from typing import Any

import pytest

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


async def test_whole_answer_passes_unchanged(house: Any) -> None:
    response = await house.http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "t0 t1 t2 "
    assert response.headers["x-request-id"].startswith("req-")
    assert response.headers["content-type"] == "application/json"


async def test_stream_passes_unchanged(house: Any) -> None:
    response = await house.http.post("/v1/chat/completions", json=CHAT | {"stream": True})
    events = [line[6:] for line in response.text.split("\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1]]
    assert "".join(deltas) == "t0 t1 t2 "
    assert response.headers["content-type"] == "text/event-stream"
