"""`python -m trimode_lab.doubles.sglang.stub ARGS`: speaks like `sglang.launch_server`, decodes nothing.

It keeps what callers rely on: minutes of start-up (here `SGLANG_STUB_START_S`), 503 until it is ready, requests
beyond `--max-running-requests` queue, one chunk per token in AR and per block else, all ids so far in each chunk, the
end of sequence among them, an abort when the client leaves, the metrics' names. `SGLANG_STUB_CYCLE_S` is the time of
a cycle. POST /stub/hang stops generation while HTTP goes on answering, as a hung scheduler does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from trimode_api.modes import Mode
from trimode_lab.doubles.sglang.arguments import Arguments, Refused, parse
from trimode_lab.doubles.sglang.sequence import accepted, next_token

HANG_PATH = "/stub/hang"


@dataclass(eq=False)
class _Request:
    """One request on its way. `chunks` holds what the client has not been sent."""

    body: dict[str, Any]
    tokens: list[int]
    answer: list[int] = field(default_factory=list)
    finish: dict[str, Any] | None = None
    chunks: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)


class Stub:
    """The scheduler and its HTTP face."""

    def __init__(self, arguments: Arguments, cycle_s: float, start_s: float) -> None:
        self.arguments, self.cycle_s, self.start_s = arguments, cycle_s, start_s
        self.eos = arguments.eos
        self.running: list[_Request] = []
        self.queue: deque[_Request] = deque()
        self.ready = self.hung = False
        self.generated = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_get("/health", self.health)
        app.router.add_get("/health_generate", self.health_generate)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/get_server_info", self.info)
        app.router.add_post("/generate", self.generate)
        app.router.add_post(HANG_PATH, self.hang)
        app.on_startup.append(self._start)
        return app

    async def _start(self, app: web.Application) -> None:
        app["loop"] = asyncio.create_task(self._loop())

    async def _loop(self) -> None:
        await asyncio.sleep(self.start_s)
        self.ready = True
        while True:
            await asyncio.sleep(self.cycle_s)
            if self.hung:
                continue
            while self.queue and len(self.running) < self.arguments.max_running_requests:
                self.running.append(self.queue.popleft())
            block = self.arguments.block(len(self.running))
            for request in tuple(self.running):
                self._cycle(request, block)

    def _cycle(self, request: _Request, block: int) -> None:
        parameters = request.body.get("sampling_params", {})
        left = parameters.get("max_new_tokens", 128) - len(request.answer)
        match self.arguments.mode:
            case Mode.AR:
                count = 1
            case Mode.DIFFUSION:
                count = self.arguments.block_size
            case _:
                count = accepted(len(request.tokens), block)
        for _ in range(min(left, count)):
            ignore = parameters.get("ignore_eos", False)
            token = next_token(request.tokens, request.tokens[0] if ignore else self.eos)
            request.tokens.append(token)
            request.answer.append(token)
            self.generated += 1
            if token == self.eos and not ignore:
                request.finish = {"type": "stop", "matched": token}
                break
        if request.finish is None and len(request.answer) >= parameters.get("max_new_tokens", 128):
            request.finish = {"type": "length", "length": len(request.answer)}
        if request.finish is not None:
            self.running.remove(request)
        meta = {
            "id": request.body.get("rid", ""),
            "finish_reason": request.finish,
            "prompt_tokens": len(request.tokens) - len(request.answer),
            "completion_tokens": len(request.answer),
            "cached_tokens": 0,
        }
        request.chunks.put_nowait({"text": "", "output_ids": list(request.answer), "meta_info": meta})

    async def generate(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        if not self.ready:
            raise web.HTTPServiceUnavailable
        tokens = list(body["input_ids"])
        if len(tokens) >= self.arguments.context_length:
            words = f"The input ({len(tokens)} tokens) is longer than the model's context length"
            return web.json_response({"error": {"message": words}}, status=400)
        request = _Request(body, tokens)
        self.queue.append(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(http)
        try:
            while True:
                chunk = await request.chunks.get()
                await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
                if chunk["meta_info"]["finish_reason"] is not None:
                    break
            await response.write(b"data: [DONE]\n\n")
        finally:
            if request in self.running:
                self.running.remove(request)
            if request in self.queue:
                self.queue.remove(request)
        return response

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.ready else 503)

    async def health_generate(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if self.hung or not self.ready else 200)

    async def metrics(self, _: web.Request) -> web.Response:
        if not self.arguments.metrics:
            raise web.HTTPNotFound
        used = sum(len(request.tokens) for request in self.running)
        room = self.arguments.max_running_requests * self.arguments.context_length
        labels = '{engine_type="unified",model_name="stub",tp_rank="0"}'
        figures = {
            "sglang:num_running_reqs": len(self.running),
            "sglang:num_queue_reqs": len(self.queue),
            "sglang:num_used_tokens": used,
            "sglang:max_total_num_tokens": room,
            "sglang:token_usage": used / room,
            "sglang:spec_accept_length": 0.0,
            "sglang:gen_throughput": 0.0,
        }
        lines = [f"# TYPE {name} gauge\n{name}{labels} {value}\n" for name, value in figures.items()]
        lines.append(f"# TYPE sglang:generation_tokens_total counter\nsglang:generation_tokens_total{labels} ")
        return web.Response(text="".join(lines) + f"{self.generated}\n")

    async def info(self, _: web.Request) -> web.Response:
        """With the stub's own pid, so that tests can kill it."""
        return web.json_response({"pid": os.getpid(), "mode": self.arguments.mode, "argv": self.arguments.given})

    async def hang(self, _: web.Request) -> web.Response:
        self.hung = True
        return web.Response()


def main() -> int:
    try:
        arguments = parse(sys.argv[1:])
    except (Refused, OSError, KeyError, ValueError) as exc:
        sys.stderr.write(f"stub: {exc}\n")
        return 1
    sys.stderr.write(f"stub: {arguments.mode} with {arguments.given}\n")
    cycle_s = float(os.environ.get("SGLANG_STUB_CYCLE_S", "0.01"))
    stub = Stub(arguments, cycle_s, float(os.environ.get("SGLANG_STUB_START_S", "0.2")))
    web.run_app(
        stub.app(), host=arguments.host, port=arguments.port, print=None, handler_cancellation=True, access_log=None
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
