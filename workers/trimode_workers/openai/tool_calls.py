"""Tool calls in OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

from trimode_workers.text.tool_reader import CallDelta

_ID_CHARACTERS = 9
"""Mistral's templates refuse ids that are not nine letters or digits; no other cares."""


def call_id(answer: str, choice: int, index: int) -> str:
    """The id of a call, the same on every replica that goes on with the answer."""
    return blake2b(f"{answer}:{choice}:{index}".encode(), digest_size=8).hexdigest()[:_ID_CHARACTERS]


def tool_call_deltas(answer: str, choice: int, news: Iterable[CallDelta]) -> list[dict[str, Any]]:
    """As a stream's chunk has them, one for each call; `answer` is the id of the whole answer."""
    found: dict[int, dict[str, Any]] = {}
    for each in news:
        delta = found.setdefault(each.index, {"index": each.index, "function": {"arguments": ""}})
        if each.name:
            delta |= {"id": call_id(answer, choice, each.index), "type": "function"}
            delta["function"]["name"] = each.name
        delta["function"]["arguments"] += each.arguments
    return list(found.values())


def tool_calls(answer: str, choice: int, news: Iterable[CallDelta]) -> list[dict[str, Any]]:
    """The same of a whole answer, in a message."""
    deltas = tool_call_deltas(answer, choice, news)
    return [{name: value for name, value in delta.items() if name != "index"} for delta in deltas]
