"""A client of the endpoint, as small as one can be: which model it serves, and streamed chat answers.

Belongs here: HTTP and server-sent events, turned into values. Nothing is printed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from trimode_local.errors import BadInput, CliError

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Account:
    """What the last event of an answer says. `cycles` and `tokens` by operating point."""

    completion_tokens: int = 0
    cycles: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    acceptance_length: float = 0.0
    finish_reason: str = ""


KEY_VARIABLE = "OPENAI_API_KEY"
"""The environment variable that clients of the OpenAI API take their key from."""


class Endpoint:
    """An OpenAI-compatible server at `url`. Raises BadInput where nobody answers there, CliError for its errors."""

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None, *, key: str = "") -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        timeout = httpx.Timeout(10.0, read=300.0)
        # No proxy of the environment: the endpoint is on this machine as a rule, where a proxy does not reach it.
        try:
            self._client = httpx.Client(
                base_url=self.url,
                timeout=timeout,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                trust_env=False,
                transport=transport,
            )
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as exc:
            raise BadInput(f"--url {url}: {exc}") from exc

    def model(self) -> str:
        """The name of the first model served."""
        try:
            answer = self._client.get("/v1/models")
        except httpx.HTTPError as exc:
            raise self._unreachable(exc) from exc
        if answer.status_code != 200:
            raise CliError(_message(answer))
        return str(answer.json()["data"][0]["id"])

    def get(self, path: str) -> bytes:
        """The body behind `path`."""
        try:
            return self._client.get(path).raise_for_status().content
        except httpx.HTTPError as exc:
            raise self._unreachable(exc) from exc

    def chat(self, model: str, messages: Sequence[Message], extra: Mapping[str, Any]) -> Iterator[str | Account]:
        """Pieces of the answer as they come, and its account at the end."""
        body = {"model": model, "messages": list(messages), "stream": True, **extra}
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise CliError(_message(answer))
                yield from events(answer.iter_lines())
        except httpx.HTTPError as exc:
            raise self._unreachable(exc) from exc

    def close(self) -> None:
        self._client.close()

    def _unreachable(self, exc: httpx.HTTPError) -> CliError:
        return BadInput(f"{self.url}: {exc}", "Is it up? Start it with: trimode up -f FILE")


def events(lines: Iterator[str]) -> Iterator[str | Account]:
    """Text pieces and, last, the account, out of a stream of server-sent events. CliError for an error event."""
    finish = ""
    for line in lines:
        if not line.startswith("data:") or line == "data: [DONE]":
            continue
        event = json.loads(line[5:])
        if "error" in event:
            raise CliError(event["error"]["message"])
        for choice in event["choices"]:
            finish = choice.get("finish_reason") or finish
            if text := choice.get("delta", {}).get("content"):
                yield text
        if event.get("usage"):
            own = event.get("trimode", {})
            yield Account(
                completion_tokens=event["usage"]["completion_tokens"],
                cycles=own.get("cycles", {}),
                tokens=own.get("tokens", {}),
                acceptance_length=own.get("acceptanceLength", 0.0),
                finish_reason=finish,
            )


def _message(answer: httpx.Response) -> str:
    try:
        words = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        words = answer.text[:200]
    return f"{answer.status_code}: {words}"
