"""Clients of a fleet: one request, or steady traffic that notices every failure.

Belongs here: HTTP to the routers, as any client of the OpenAI API would do it.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from trimode_api.fleet import FleetView
from trimode_api.wire import FLEET_PATH

TIMEOUT_S = 60.0
PROMPT = "Count from one to twenty."
TRUST = ssl.create_default_context()
"""One for all connections, which are plain HTTP mostly: httpx otherwise makes one for each, 24 ms of a processor, and a
load of many clients was one that a single replica served with ease."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `tokens` and `trimode` are of the last event; `pieces` counts the events with text."""

    status: int
    text: str
    pieces: int
    tokens: int
    trimode: dict[str, Any]
    error: str = ""

    @property
    def complete(self) -> bool:
        return self.status == 200 and not self.error and self.tokens > 0


def chat(url: str, model: str, max_tokens: int = 32, timeout_s: float = TIMEOUT_S, **fields: Any) -> Answer:
    """One streamed chat completion from the router at `url` (`http://HOST:PORT`); `fields` are added to the request."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "seed": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        **fields,
    }
    text, pieces, tokens, ended = "", 0, 0, False
    own: dict[str, Any] = {}
    try:
        with httpx.stream(
            "POST", f"{url}/v1/chat/completions", json=body, timeout=timeout_s, trust_env=False, verify=TRUST
        ) as answer:
            if answer.status_code != 200:
                return Answer(answer.status_code, "", 0, 0, {}, answer.read().decode(errors="replace"))
            for line in answer.iter_lines():
                data = line.removeprefix("data: ").strip()
                if data == "[DONE]":
                    ended = True
                if not data or data == "[DONE]":
                    continue
                event = json.loads(data)
                if "error" in event:
                    return Answer(200, text, pieces, tokens, own, json.dumps(event["error"]))
                for choice in event.get("choices", []):
                    piece = choice.get("delta", {}).get("content") or ""
                    text, pieces = text + piece, pieces + bool(piece)
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
                own = event.get("trimode") or own
    except httpx.HTTPError as exc:
        return Answer(0, text, pieces, tokens, own, f"{type(exc).__name__}: {exc}")
    return Answer(200, text, pieces, tokens, own, "" if ended else "the stream ended without [DONE]")


def fleet(address: str, token: str) -> FleetView | None:
    """The router's view of the fleet, None where it does not answer."""
    try:
        answer = httpx.get(
            f"http://{address}{FLEET_PATH}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=5,
            trust_env=False,
            verify=TRUST,
        )
        answer.raise_for_status()
    except httpx.HTTPError:
        return None
    return FleetView.from_wire(answer.content)


@dataclass(slots=True)
class Traffic:
    """`clients` that ask one request after the other, `pause_s` apart, until the end of the `with` block.

    Every answer is greedy, so all of them have the same text, whatever mode, replica or cluster gives it: another text
    is a failure as much as a broken stream is.
    """

    url: str
    model: str
    clients: int = 1
    pause_s: float = 0.2
    max_tokens: int = 16
    fields: dict[str, Any] = field(default_factory=dict)
    """Of the requests, besides the usual ones."""
    answers: list[Answer] = field(default_factory=list)
    _reference: str = ""
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        first = chat(self.url, self.model, self.max_tokens, **self.fields)
        assert first.complete, f"no answer to compare with: {first}"
        self._reference = first.text
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)

    @property
    def failures(self) -> list[Answer]:
        """Answers that broke off, were refused, or have another text."""
        return [each for each in self.answers if not each.complete or each.text != self._reference]

    def wait_for(self, more: int, timeout_s: float = 60.0) -> None:
        """Until so many more requests have been answered."""
        wanted, deadline = len(self.answers) + more, time.monotonic() + timeout_s
        while len(self.answers) < wanted:
            assert time.monotonic() < deadline, f"no {more} more answers within {timeout_s:g} s"
            time.sleep(0.05)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.answers.append(chat(self.url, self.model, self.max_tokens, **self.fields))
            self._stopping.wait(self.pause_s)
