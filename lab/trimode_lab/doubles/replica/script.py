"""A replica that can go on with another's stream, and whose every answer can be checked.

Token i of an answer to the prompt `p` has the text `p:i ` and an id made of both, so that a token lost, doubled or of
another stream is seen at once.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any
from zlib import crc32

from trimode_api.wire import CONTINUE_PATH
from trimode_lab.doubles.replica.replica import Call, Script, chat_chunk, chunk

_IDS_PER_PROMPT = 100_000


def text_of(prompt: str, start: int, end: int) -> str:
    """The text of an answer's tokens from `start` to before `end`."""
    return "".join(f"{prompt}:{index} " for index in range(start, end))


def ids_of(prompt: str, start: int, end: int) -> list[int]:
    first = crc32(prompt.encode()) % 1000 * _IDS_PER_PROMPT
    return [first + index for index in range(start, end)]


def storyteller(pace_s: float, tokens_per_chunk: int = 1) -> Script:
    """A script: `max_tokens` (10) tokens, a chunk each `pace_s` seconds; whole answers take as long."""

    async def tell(call: Call) -> None:
        asked, begun = call.json, 0
        answer_id, created = f"chat-{crc32(call.body):08x}", 1
        if call.path == CONTINUE_PATH:
            begun, answer_id, created = len(asked["emitted"]), asked["id"], asked["created"]
            if asked["emitted"] != ids_of(prompt_of(asked["request"]), 0, begun):
                await call.answer({"error": {"message": "these are tokens of another answer"}}, status=400)
                return
            asked = asked["request"]
        prompt, count = prompt_of(asked), int(asked.get("max_tokens") or 10)
        usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
        if not asked.get("stream"):
            await asyncio.sleep(pace_s * count / tokens_per_chunk)
            message = {"role": "assistant", "content": text_of(prompt, 0, count)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            await call.answer({"id": answer_id, "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        await call.begin()
        for start in range(begun, count, tokens_per_chunk):
            if pace_s:
                await asyncio.sleep(pace_s)
            end = min(count, start + tokens_per_chunk)
            delta = {"content": text_of(prompt, start, end)} | ({} if start else {"role": "assistant"})
            await call.event(
                _dumps(_named(delta, answer_id, created) | {"trimode": {"ids": ids_of(prompt, start, end)}})
            )
        last = _named({}, answer_id, created, "stop") | {"usage": usage, "trimode": {"resumedAfter": begun}}
        await call.raw(chunk(f"data: {_dumps(last)}\n\ndata: [DONE]\n\n".encode()) + b"0\r\n\r\n")

    return tell


def prompt_of(request: dict[str, Any]) -> str:
    return str(request["messages"][-1]["content"])


def _named(delta: dict[str, str], answer_id: str, created: int, finish: str | None = None) -> dict[str, Any]:
    return chat_chunk(delta, finish) | {"id": answer_id, "created": created}


def _dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
