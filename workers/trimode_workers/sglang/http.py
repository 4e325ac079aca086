"""HTTP to one SGLang server. What follows from an answer is for others to say."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from trimode_api.modes import Mode
from trimode_workers.engine.messages import TOOL_GRAMMAR, Adjustments, Finish, GrammarForm, Submit
from trimode_workers.sglang.observe import Figures, parse


def body_of(request: Submit) -> dict[str, Any]:
    """The request to /generate."""
    grammar, form = request.grammar, dict[str, str]()
    if grammar is not None and grammar.form is GrammarForm.CHOICE:
        form["regex"] = f"({'|'.join(map(re.escape, json.loads(grammar.schema)))})"
    elif grammar is not None:
        form[_FORMS[grammar.form]] = grammar.schema
    sampling, wanted = request.sampling, request.adjustments or Adjustments()
    more = {
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "presence_penalty": wanted.presence,
        "frequency_penalty": wanted.frequency,
        "repetition_penalty": wanted.repetition if wanted.repetition != 1.0 else 0,
        "logit_bias": {str(token): bias for token, bias in wanted.bias.items()},
        "min_new_tokens": wanted.min_tokens,
        "stop_token_ids": list(request.stop_ids),
    }
    return {
        "rid": request.request_id,
        "input_ids": request.tokens,
        "stream": True,
        "sampling_params": {
            "max_new_tokens": request.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "ignore_eos": request.ignore_eos,
            "skip_special_tokens": False,
            # What the server would do anyway is left out: the fork's servers may not know it.
            **{name: value for name, value in more.items() if value},
            **form,
        },
    }


_FORMS = {GrammarForm.JSON_SCHEMA: "json_schema", GrammarForm.REGEX: "regex", GrammarForm.GRAMMAR: "ebnf"}


SAMPLERS = (
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "min_tokens",
    "stop_token_ids",
)
"""Fields of requests that SGLang's sampler obeys."""
UNKNOWN = ("allowed_token_ids", "bad_words")
"""Fields of requests that nothing there obeys."""


NO_CALLS = (
    "a JSON schema is all that SGLang is sent, and it cannot hold a tool call; possible are tools that are not strict, "
    "with tool_choice 'auto' and without a response_format"
)


def refused(mode: Mode) -> dict[str, str]:
    """By field of a request, why a server in the mode cannot obey it."""
    unknown = {
        **dict.fromkeys(UNKNOWN, "SGLang has no such field"),
        **dict.fromkeys(("logprobs", "prompt_logprobs"), "SGLang's are not read"),
        **dict.fromkeys(("priority", "cache_salt"), "it is not passed on to SGLang"),
        TOOL_GRAMMAR: NO_CALLS,
    }
    if mode is Mode.AR:
        return unknown
    # LinearSpec and FastDiffuser pick tokens without SGLang's sampler.
    return unknown | dict.fromkeys(SAMPLERS, f"{mode} on SGLang picks tokens without its sampler; pin AR")


class BadChunk(Exception):
    """The server said what cannot be understood, or refused; the message is fit for a client."""


@dataclass(frozen=True, slots=True)
class News:
    """New tokens (with `ended`, the end of sequence counted in `produced` but not among them) and how it ended."""

    tokens: list[int]
    produced: int
    finish: Finish | None = None


class Chunks:
    """Follows one stream. `eos`: ids that end an answer; `shown`: ids that end it and are part of it."""

    def __init__(self, eos: frozenset[int], shown: frozenset[int] = frozenset()) -> None:
        self._eos, self._shown = eos, shown
        self._seen = 0

    def feed(self, chunk: Mapping[str, Any]) -> News:
        """The news of one chunk. Raises BadChunk."""
        if "error" in chunk:
            error = chunk["error"]
            raise BadChunk(str(error.get("message", error) if isinstance(error, dict) else error))
        try:
            ids, meta = chunk["output_ids"], chunk["meta_info"]
            total = int(meta["completion_tokens"])
            reason = meta.get("finish_reason")
        except (KeyError, TypeError, ValueError) as exc:
            raise BadChunk(f"a chunk without output_ids and meta_info.completion_tokens: {exc!r}") from exc
        fresh = total - self._seen
        if fresh < 0 or fresh > len(ids):
            raise BadChunk(f"a chunk with {len(ids)} ids where {total} tokens follow {self._seen}")
        tokens = [int(id) for id in ids[len(ids) - fresh :]]
        self._seen = total
        if reason is None:
            return News(tokens, fresh)
        kind = reason.get("type")
        if kind == "abort":
            raise BadChunk(str(reason.get("message") or "the server has aborted the request"))
        if kind == "stop":
            end = tokens[-1] if tokens else None
            if end is not None and end not in self._shown and (end == reason.get("matched") or end in self._eos):
                tokens.pop()
            return News(tokens, fresh, Finish.STOP)
        return News(tokens, fresh, Finish.LENGTH)


HEALTH_TIMEOUT_S = 10.0
FIGURES_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 60.0
_AWAY = (aiohttp.ClientError, TimeoutError, OSError)


class SglangHttp:
    """For the loop it was made in. `close` when done."""

    def __init__(self, url: str) -> None:
        self._session = aiohttp.ClientSession(
            url,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            read_bufsize=1 << 20,
        )

    async def close(self) -> None:
        await self._session.close()

    async def healthy(self) -> bool:
        """Whether it says that it has started."""
        return await self._says_yes("/health", HEALTH_TIMEOUT_S)

    async def generates(self) -> bool:
        """Whether it generates a token when asked to."""
        return await self._says_yes("/health_generate", PROBE_TIMEOUT_S)

    async def figures(self) -> Figures | None:
        """Its metrics, None where it does not answer."""
        try:
            timeout = aiohttp.ClientTimeout(total=FIGURES_TIMEOUT_S)
            async with self._session.get("/metrics", timeout=timeout) as response:
                return parse(await response.text())
        except (*_AWAY, ValueError):
            return None

    async def chunks(self, request: Submit) -> AsyncIterator[dict[str, Any]]:
        """The stream's chunks. Leaving it early aborts the request: the server notices the closed connection.

        Raises BadChunk where it refuses, ValueError for what is no JSON, aiohttp.ClientError where it breaks off.
        """
        async with self._session.post("/generate", json=body_of(request)) as response:
            if response.status != 200:
                words = (await response.text())[:500]
                raise BadChunk(f"the SGLang server answered {response.status}: {words}")
            async for line in response.content:
                if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                    yield json.loads(line[6:])

    async def _says_yes(self, path: str, timeout_s: float) -> bool:
        try:
            async with self._session.get(path, timeout=aiohttp.ClientTimeout(total=timeout_s)) as response:
                return response.status == 200
        except _AWAY:
            return False
