"""The replica's HTTP port: OpenAI's API for routers, with the fleet's token."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Protocol

from aiohttp import web

from trimode_api.errors import ApiError
from trimode_api.openai import ChatRequest, CompletionRequest, GenerationRequest
from trimode_api.stamp import LEFT_HEADER, RULES_HEADER, Stamp
from trimode_api.wire import CONTINUE_PATH, REQUEST_ID_HEADER, TIER_HEADER
from trimode_workers.openai.continuation import NOTHING, ResumePoint, parse_continuation, resumed_from, seed_of
from trimode_workers.openai.logprobs import Logprobs
from trimode_workers.openai.parse import parse
from trimode_workers.openai.prepare import Capabilities, Identity, prepare_choices
from trimode_workers.openai.reader import reader_of
from trimode_workers.openai.render import Answer, Chunks, Head, Kind, Outcome, whole
from trimode_workers.process.handle import EngineHandle
from trimode_workers.replica.generation import Before, Generation
from trimode_workers.replica.middleware import errors, guard, name
from trimode_workers.replica.stream import EventStream
from trimode_workers.text.tokenizer import TextModel

MAX_BODY_BYTES = 32 * 1024 * 1024
LONG_BODY_BYTES = 64 * 1024
"""From this size on a request is tokenized in a thread, so that open streams do not stutter; schemas always are
compiled there."""

_log = logging.getLogger(__name__)


class Host(Protocol):
    """What the shell needs of its replica."""

    engine: EngineHandle
    text: TextModel

    def offer(self) -> Capabilities: ...

    def refusal(self) -> ApiError | None:
        """Why no new request is taken now, None where one is."""
        ...

    def unanswered(self, request_id: str, busy: dict[str, float]) -> None:
        """The router's request of this id has cost so much of the engine's time, and no answer says so."""
        ...


def build_shell(host: Host, token: str) -> web.Application:
    """The application. Every path but /health needs `Authorization: Bearer <token>`."""
    shell = _Shell(host)
    app = web.Application(middlewares=[errors, guard(token)], client_max_size=MAX_BODY_BYTES)
    app.router.add_post("/v1/chat/completions", shell.chat)
    app.router.add_post("/v1/completions", shell.completions)
    app.router.add_post(CONTINUE_PATH, shell.go_on)
    app.router.add_get("/v1/models", shell.models)
    app.router.add_get("/health", shell.health)
    return app


class _Shell:
    def __init__(self, host: Host) -> None:
        self._host = host

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, parse(ChatRequest, await request.read()), _new_head(Kind.CHAT))

    async def completions(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, parse(CompletionRequest, await request.read()), _new_head(Kind.TEXT))

    async def go_on(self, request: web.Request) -> web.StreamResponse:
        """The rest of a stream that broke off elsewhere."""
        return await self._answer(request, *parse_continuation(await request.read()))

    async def models(self, _: web.Request) -> web.Response:
        offer = self._host.offer()
        model = {"id": offer.model, "object": "model", "created": 0, "owned_by": "trimode"}
        return web.json_response({"object": "list", "data": [model]})

    async def health(self, _: web.Request) -> web.Response:
        refusal = self._host.refusal()
        if refusal is not None:
            raise refusal
        return web.json_response({"status": "ok"})

    async def _answer(
        self, request: web.Request, wanted: GenerationRequest, head: Head, pasts: Sequence[ResumePoint] = ()
    ) -> web.StreamResponse:
        head = replace(head, model=wanted.model)
        pasts = pasts or [NOTHING] * wanted.choices
        generations, prompts = await self._begin(request, wanted, head, pasts)
        running, told = list(generations.values()), False
        try:
            # Until the engine's first event an error can still be an HTTP status.
            await running[0].begun
            if wanted.stream and not running[0].failed:
                usage = wanted.stream_options is not None and wanted.stream_options.include_usage
                many = wanted.choices > 1
                streamed = []
                for k, generation in generations.items():
                    echoed = bool(pasts[k].emitted) and wanted.echoed(0) is not None
                    before = generation.tokens if echoed else pasts[k].emitted
                    logprobs = None if wanted.scores is None else Logprobs(head.kind, self._host.text, before)
                    chunks = Chunks(head, usage_chunk=usage, index=k, one_of_many=many, logprobs=logprobs)
                    streamed.append(_Choice(generation, chunks, pasts[k].begun, prompts[k] > 0))
                # The account of choices that ended before this replica was asked.
                ended = [
                    Outcome(past.ended, prompt, past.tokens, resumed_after=past.tokens)
                    for past, prompt in zip(pasts, prompts, strict=True)
                    if past.ended is not None
                ]
                total = reduce(Outcome.plus, ended) if ended else None
                response, told = await _stream(request, streamed, total)
                return response
            choices = []
            for k, generation in generations.items():
                text, scored, outcome = await generation.whole()
                render = Logprobs(head.kind, self._host.text)
                of_answer = None if wanted.scores is None else render.of(scored)
                of_prompt = None if wanted.prompt_logprobs is None else render.prompt(generation.prompt_scored)
                outcome = outcome if prompts[k] > 0 else outcome.without_prompt()
                choices.append(Answer(text, of_answer, outcome, of_prompt))
            told = True
            return web.Response(body=whole(head, choices), content_type="application/json")
        finally:
            if not told:
                for generation in running:
                    generation.abandon()

    async def _begin(
        self, request: web.Request, wanted: GenerationRequest, head: Head, pasts: Sequence[ResumePoint]
    ) -> tuple[dict[int, Generation], list[int]]:
        """One for each choice that has not ended; and by choice the tokens of its prompt, 0 where an earlier choice has
        the same one."""
        host = self._host
        refusal = host.refusal()
        if refusal is not None:
            raise refusal
        # In the engine every attempt has an id of its own: the one that broke off may still be running there.
        tier, headers = request.headers.get(TIER_HEADER, ""), request.headers
        stamp = Stamp.read(headers.get(RULES_HEADER), headers.get(LEFT_HEADER))
        identity = Identity(secrets.token_hex(12), tier, seed_of(head.id), stamp)
        if (request.content_length or 0) > LONG_BODY_BYTES or wanted.formed:
            submits = await asyncio.to_thread(prepare_choices, wanted, host.text, host.offer(), identity)
        else:
            submits = prepare_choices(wanted, host.text, host.offer(), identity)
        request_id = request.headers.get(REQUEST_ID_HEADER, "")
        charge = partial(host.unanswered, request_id)
        generations: dict[int, Generation] = {}
        try:
            for index, (each, past) in enumerate(zip(submits, pasts, strict=True)):
                if past.ended is not None:
                    continue
                answer = reader_of(wanted, host.text, each)
                echo = None if past.begun else wanted.echoed(index // (wanted.n or 1))
                if isinstance(echo, tuple):
                    echo = host.text.decode(echo)
                resumed = resumed_from(each, past.emitted)
                generations[index] = Generation(host.engine, resumed, answer, Before(past.emitted, echo), charge)
                generations[index].start()
        except ApiError:
            for generation in generations.values():
                generation.abandon()
            raise
        count = wanted.n or 1
        return generations, [0 if index % count else len(each.tokens) for index, each in enumerate(submits)]


@dataclass(frozen=True, slots=True)
class _Choice:
    """A choice that is streamed. `begun`: the client has its beginning from another replica. `counted`: usage counts
    its prompt, as no choice before it has the same one."""

    generation: Generation
    chunks: Chunks
    begun: bool
    counted: bool


def _new_head(kind: Kind) -> Head:
    return Head(kind, f"{kind}-{secrets.token_hex(12)}", int(time.time()), "")


async def _stream(
    request: web.Request, choices: Sequence[_Choice], total: Outcome | None
) -> tuple[web.StreamResponse, bool]:
    """The events of all `choices` as they come; `total` is the account of choices that have ended. And whether they
    came to their end, which tells what they have cost."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    if request.version < (1, 1):
        raise ApiError(400, "streams need HTTP/1.1", code="http_version", param="stream")
    response.enable_chunked_encoding()
    name(request, response)
    await response.prepare(request)
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client left")
    running = {}
    for choice in choices:
        stream = EventStream(transport, choice.chunks, begun=choice.begun)
        running[choice.generation.done] = stream, choice.counted
        choice.generation.listen(stream.show)
    try:
        while running:
            ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for future in ended:
                stream, counted = running.pop(future)
                outcome = future.result() if counted else future.result().without_prompt()
                total = outcome if total is None else total.plus(outcome)
                stream.end(outcome, None if running else total)
    except ApiError as exc:
        # Neither a proper end nor an error event: the router resumes the stream elsewhere, from the tokens it has.
        _log.warning("a stream breaks off: %s", exc.message)
        transport.close()
        return response, False
    await response.write_eof()
    return response, True
