"""The request to go on with a stream that another replica began (see `trimode_api.wire.CONTINUE_PATH`)."""

from __future__ import annotations

from hashlib import blake2b
from typing import Annotated

import msgspec

from trimode_api.errors import ApiError
from trimode_api.openai import ChatRequest, CompletionRequest, GenerationRequest
from trimode_workers.engine.messages import Submit
from trimode_workers.openai.parse import parse
from trimode_workers.openai.render import Head, Kind

_SEED_BYTES = 8


Ids = list[Annotated[int, msgspec.Meta(ge=0)]]


class ResumePoint(msgspec.Struct, frozen=True):
    """One choice so far: all its ids, in order. `ended` is its finish reason where it had its end, with `tokens`."""

    emitted: Ids = []
    ended: str | None = None
    tokens: int = 0

    @property
    def begun(self) -> bool:
        """Whether the client has anything of it."""
        return bool(self.emitted) or self.ended is not None


NOTHING = ResumePoint()


class Continuation(msgspec.Struct, frozen=True, rename="camel"):
    """`request` is the client's body as it came; `id` and `created` are the answer's own. What it said so far is in
    `emitted`, or by choice in `choices` where it has several."""

    path: str
    id: str
    created: int
    request: msgspec.Raw
    emitted: Ids = []
    choices: list[ResumePoint] = []


def parse_continuation(body: bytes) -> tuple[GenerationRequest, Head, list[ResumePoint]]:
    """The client's request, the answer's head, each choice so far. ApiError 400 where any of it is wrong."""
    try:
        asked = msgspec.json.decode(body, type=Continuation)
    except RecursionError as exc:
        raise ApiError(400, "continuation: nested too deeply", code="invalid_json") from exc
    except msgspec.DecodeError as exc:
        raise ApiError(400, f"continuation: {exc}", code="invalid_value") from exc
    kind = Kind.CHAT if asked.path.endswith("/chat/completions") else Kind.TEXT
    model: type[GenerationRequest] = ChatRequest if kind is Kind.CHAT else CompletionRequest
    request = parse(model, bytes(asked.request))
    if not request.stream:
        raise ApiError(400, "continuation: only a stream can be continued", code="invalid_value")
    pasts = asked.choices or [ResumePoint(asked.emitted)]
    if len(pasts) != request.choices:
        message = f"continuation: choices: the request wants {request.choices}, got {len(pasts)}"
        raise ApiError(400, message, code="invalid_value")
    if all(past.ended is not None for past in pasts):
        raise ApiError(400, "continuation: choices: all have ended, nothing is left to say", code="invalid_value")
    return request, Head(kind, asked.id, asked.created, request.model), pasts


def seed_of(answer_id: str) -> int:
    """The seed of an answer whose client gave none: a replica that continues it knows its id, and so its seed."""
    return int.from_bytes(blake2b(answer_id.encode(), digest_size=_SEED_BYTES).digest()) >> 1


def resumed_from(submit: Submit, emitted: list[int]) -> Submit:
    """`submit` with `emitted` after its prompt; `max_new_tokens` is what is left, 0 for an answer at its limit."""
    left = max(0, submit.max_new_tokens - len(emitted))
    tokens = [*submit.tokens, *emitted]
    prompt_logprobs = None if emitted else submit.prompt_logprobs  # came with the first token
    return msgspec.structs.replace(
        submit, tokens=tokens, max_new_tokens=left, emitted=len(emitted), prompt_logprobs=prompt_logprobs
    )
