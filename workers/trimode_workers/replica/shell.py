"""The replica's HTTP port: OpenAI's API for routers, with the fleet's token.

Belongs here: aiohttp handlers, each a short way from bytes to `Generation` and back.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from trimode_api.errors import ApiError
from trimode_api.openai import ChatRequest, CompletionRequest, GenerationRequest
from trimode_api.wire import REQUEST_ID_HEADER, TIER_HEADER
from trimode_workers.openai.parse import parse
from trimode_workers.openai.prepare import Identity, Offer, prepare
from trimode_workers.openai.render import Chunks, Head, Kind, error_event, whole
from trimode_workers.process.client import EngineClient
from trimode_workers.replica.generation import Generation
from trimode_workers.replica.stream import EventStream
from trimode_workers.text.answer import AnswerText
from trimode_workers.text.tokenizer import TextModel

MAX_BODY_BYTES = 32 * 1024 * 1024
LONG_BODY_BYTES = 64 * 1024
"""From this size on a request is tokenized in a thread, so that open streams do not stutter."""

_log = logging.getLogger(__name__)


class Host(Protocol):
    """What the shell needs of its replica."""

    engine: EngineClient
    text: TextModel

    def offer(self) -> Offer: ...

    def refusal(self) -> ApiError | None:
        """Why no new request is taken now, None where one is."""
        ...


def build_shell(host: Host, token: str) -> web.Application:
    """The application. Every path but /health needs `Authorization: Bearer <token>`."""
    shell = _Shell(host)
    app = web.Application(middlewares=[_errors, _guard(token)], client_max_size=MAX_BODY_BYTES)
    app.router.add_post("/v1/chat/completions", shell.chat)
    app.router.add_post("/v1/completions", shell.completions)
    app.router.add_get("/v1/models", shell.models)
    app.router.add_get("/health", shell.health)
    return app


class _Shell:
    def __init__(self, host: Host) -> None:
        self._host = host

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, Kind.CHAT, parse(ChatRequest, await request.read()))

    async def completions(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, Kind.TEXT, parse(CompletionRequest, await request.read()))

    async def models(self, _: web.Request) -> web.Response:
        offer = self._host.offer()
        model = {"id": offer.model, "object": "model", "created": 0, "owned_by": "trimode"}
        return web.json_response({"object": "list", "data": [model]})

    async def health(self, _: web.Request) -> web.Response:
        refusal = self._host.refusal()
        if refusal is not None:
            raise refusal
        return web.json_response({"status": "ok"})

    async def _answer(self, request: web.Request, kind: Kind, wanted: GenerationRequest) -> web.StreamResponse:
        generation, chunks_of = await self._begin(request, kind, wanted)
        try:
            # Until the engine has spoken, an error can still be a status.
            await generation.begun
            if wanted.stream and not generation.failed:
                usage_chunk = wanted.stream_options is not None and wanted.stream_options.include_usage
                return await _stream(request, generation, Chunks(chunks_of, usage_chunk=usage_chunk))
            text, outcome = await generation.whole()
            return web.Response(body=whole(chunks_of, text, outcome), content_type="application/json")
        finally:
            generation.abandon()

    async def _begin(self, request: web.Request, kind: Kind, wanted: GenerationRequest) -> tuple[Generation, Head]:
        host = self._host
        refusal = host.refusal()
        if refusal is not None:
            raise refusal
        unique = secrets.token_hex(12)
        identity = Identity(unique, request.headers.get(TIER_HEADER, ""), secrets.randbits(63))
        if (request.content_length or 0) > LONG_BODY_BYTES:
            submit = await asyncio.to_thread(prepare, wanted, host.text, host.offer(), identity)
        else:
            submit = prepare(wanted, host.text, host.offer(), identity)
        generation = Generation(host.engine, submit, AnswerText(host.text.detokenizer(), wanted.stop))
        generation.start()
        return generation, Head(kind, f"{kind}-{unique}", int(time.time()), wanted.model)


async def _stream(request: web.Request, generation: Generation, chunks: Chunks) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    if request.version < (1, 1):
        raise ApiError(400, "streams need HTTP/1.1", code="http_version", param="stream")
    response.enable_chunked_encoding()
    _name(request, response)
    await response.prepare(request)
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client left")
    stream = EventStream(transport, chunks)
    generation.listen(stream.text)
    try:
        outcome = await generation.done
    except ApiError as exc:
        stream.end(error_event(exc.body()))
        # No proper end: whoever reads this must not take it for a whole answer.
        transport.close()
        return response
    stream.end(chunks.last(outcome))
    await response.write_eof()
    return response


def _name(request: web.Request, response: web.StreamResponse) -> None:
    """The router's id of the request goes back with every answer, so that logs can be matched."""
    request_id = request.headers.get(REQUEST_ID_HEADER)
    if request_id is not None and not response.prepared:
        response.headers[REQUEST_ID_HEADER] = request_id


def _guard(token: str) -> Middleware:
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode()
        if request.path != "/health" and not hmac.compare_digest(given, expected):
            raise ApiError(401, "the fleet's token is missing or wrong", code="invalid_token")
        return await handler(request)

    return guard


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error in OpenAI's shape; only what nobody foresaw is logged."""
    try:
        response = await handler(request)
    except ApiError as exc:
        response = _error_response(exc)
    except web.HTTPException as exc:
        response = _error_response(ApiError(exc.status, exc.reason, code="http_error"))
    except ConnectionError:
        raise
    except Exception:  # noqa: BLE001 - the client gets an answer whatever the bug
        _log.exception("a request failed")
        response = _error_response(ApiError(500, "internal error; the replica's log has more"))
    _name(request, response)
    return response


def _error_response(error: ApiError) -> web.Response:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return web.json_response(error.body(), status=error.status, headers=headers)
