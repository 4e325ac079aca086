"""Answers in OpenAI's shapes: one object, or a stream of chunks as server-sent events.

A stream's chunks differ in one string only, so all around it is made once per stream, and a chunk costs the encoding of
that string.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

import msgspec

from trimode_workers.openai.logprobs import Kind, Logprobs, Scored
from trimode_workers.text.answer import NOTHING, Delta
from trimode_workers.text.tool_reader import CallDelta

__all__ = ["Answer", "Chunks", "Head", "Kind", "Outcome", "whole"]

DONE = b"data: [DONE]\n\n"
_MARK = "\u0000text\u0000"
_ID_CHARACTERS = 9
"""Mistral's templates refuse ids that are not nine letters or digits; no other cares."""

_encode = msgspec.json.encode
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an answer ended. `cycles` and `emitted` by operating point: cycles run, tokens emitted by the engine."""

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cycles: dict[str, int] = field(default_factory=dict)
    emitted: dict[str, int] = field(default_factory=dict)
    resumed_after: int = 0
    """Tokens of the answer that another replica had emitted; `cycles` and `emitted` do not cover them."""
    cached_tokens: int = 0
    """Prompt tokens that the replica did not have to compute."""
    rest: Delta = NOTHING
    """What only the end set free. It goes out together with the end: tokens alone do not say that it is shown."""
    busy: dict[str, float] = field(default_factory=dict)
    """Its share of the engine's time, in seconds by operating point and `prompt`; empty where the engine tells none."""
    scored: tuple[Scored, ...] = ()
    """Tokens that have not gone out, where their scores are wanted."""

    def plus(self, other: Outcome) -> Outcome:
        """The account of both, as choices of one answer."""
        return Outcome(
            self.finish_reason,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            _sum(self.cycles, other.cycles),
            _sum(self.emitted, other.emitted),
            self.resumed_after + other.resumed_after,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            busy=_sum(self.busy, other.busy),
        )

    def without_prompt(self) -> Outcome:
        """As another choice of a prompt that is counted already."""
        return replace(self, prompt_tokens=0, cached_tokens=0)

    def usage(self) -> dict[str, Any]:
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def trimode(self) -> dict[str, Any]:
        """The extension: what ran, by operating point; `acceptanceLength` in tokens per cycle. Microseconds are as
        far as `gpuSeconds` goes: a cycle takes thousands."""
        cycles = sum(self.cycles.values())
        length = sum(self.emitted.values()) / cycles if cycles else 0.0
        resumed = {"resumedAfter": self.resumed_after} if self.resumed_after else {}
        busy = {"gpuSeconds": {name: round(seconds, 6) for name, seconds in self.busy.items()}} if self.busy else {}
        return {"cycles": self.cycles, "tokens": self.emitted, "acceptanceLength": round(length, 3), **busy, **resumed}


@dataclass(frozen=True, slots=True)
class Head:
    """What every part of one answer repeats. `created` in seconds since the epoch."""

    kind: Kind
    id: str
    created: int
    model: str


class Answer(NamedTuple):
    """A choice that is not streamed: what was said, its logprobs, how it ended, and vLLM's `prompt_logprobs`."""

    said: Delta
    logprobs: dict[str, Any] | None
    outcome: Outcome
    prompt: list[dict[str, Any] | None] | None = None


def whole(head: Head, choices: Sequence[Answer]) -> bytes:
    """The body of an answer that is not streamed."""
    total = reduce(Outcome.plus, [choice.outcome for choice in choices])
    name = "chat.completion" if head.kind is Kind.CHAT else "text_completion"
    shown = []
    for index, (said, logprobs, outcome, prompt) in enumerate(choices):
        choice: dict[str, Any] = {"index": index, "finish_reason": outcome.finish_reason, "logprobs": logprobs}
        if head.kind is Kind.CHAT:
            message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": None}
            if said.reasoning:
                message |= {"reasoning_content": said.reasoning, "reasoning": said.reasoning}
            if said.calls:
                message |= {"content": said.text or None, "tool_calls": tool_calls(head.id, index, said.calls)}
            choice["message"] = message
        else:
            choice["text"] = said.text
            if prompt is not None:
                choice["prompt_logprobs"] = prompt
        shown.append(choice)
    body = _envelope(head, name) | {"choices": shown, "usage": total.usage(), "trimode": total.trimode()}
    if head.kind is Kind.CHAT and choices[0].prompt is not None:
        body["prompt_logprobs"] = choices[0].prompt
    return _encode(body)


def _sum(one: dict[str, Number], other: dict[str, Number]) -> dict[str, Number]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in [*one, *(n for n in other if n not in one)]}


class Chunks:
    """The events of one choice of a stream, as bytes ready to send. `one_of_many`: token ids, and the end, say whose
    they are, as events of several choices come in any order."""

    def __init__(
        self,
        head: Head,
        *,
        usage_chunk: bool,
        index: int = 0,
        one_of_many: bool = False,
        logprobs: Logprobs | None = None,
    ) -> None:
        self._head = head
        self._logprobs = logprobs
        self._index = index
        self._one_of_many = one_of_many
        self._usage_chunk = usage_chunk
        self._chat = head.kind is Kind.CHAT
        before, after = self._chunk(self._delta(_MARK), None).split(_encode(_MARK))
        self._before = before
        self._after = after.removesuffix(b"}\n\n") + b',"trimode":{"ids":'
        self._close = b',"choice":%d}}\n\n' % index if one_of_many else b"}}\n\n"

    def first(self) -> bytes:
        """Opens the stream: a chat's role; nothing for plain completions."""
        return self._chunk({"delta": {"role": "assistant", "content": ""}}, None) if self._chat else b""

    def text(self, text: str, ids: Sequence[int], scored: Sequence[Scored] = ()) -> bytes:
        """One chunk with new text. `ids`: the tokens that came since the last chunk, whole text or not; with all of
        them another replica can go on where this one breaks off. `scored`: the same with their scores, where they are
        wanted."""
        if self._logprobs is not None:
            return self._slow(self._delta(text), ids, scored)
        return self._before + _encode(text) + self._after + _encode(ids) + self._close

    def mixed(self, said: Delta, ids: Sequence[int], scored: Sequence[Scored] = ()) -> bytes:
        """One chunk with reasoning, text behind it, and news of tool calls behind both; the rest as above."""
        delta: dict[str, Any] = {}
        if said.reasoning:  # by DeepSeek's name and by vLLM's
            delta |= {"reasoning_content": said.reasoning, "reasoning": said.reasoning}
        if said.text:
            delta["content"] = said.text
        if said.calls:
            delta["tool_calls"] = tool_call_deltas(self._head.id, self._index, said.calls)
        return self._slow({"delta": delta}, ids, scored)

    def _slow(self, part: dict[str, Any], ids: Sequence[int], scored: Sequence[Scored]) -> bytes:
        """A chunk in which more than one string is new."""
        own = {"choice": self._index} if self._one_of_many else {}
        usage = {"usage": None} if self._usage_chunk else {}
        logprobs = None if self._logprobs is None else self._logprobs.of(scored)
        return self._chunk(part, None, usage | {"trimode": {"ids": list(ids)} | own}, logprobs)

    def finish(self, outcome: Outcome) -> bytes:
        """The end of one choice while others go on."""
        mark = {"choice": self._index, "ended": outcome.finish_reason, "tokens": outcome.completion_tokens}
        usage = {"usage": None} if self._usage_chunk else {}
        empty: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
        return self._chunk(empty, outcome.finish_reason, usage | {"trimode": mark})

    def last(self, outcome: Outcome, total: Outcome | None = None) -> bytes:
        """The finish reason, usage and `trimode` (those of `total`, for all choices), and the end mark.

        Usage rides on the last chunk, or on one of its own without choices where the client asked for that.
        """
        empty: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
        whole = total or outcome
        account = {"usage": whole.usage(), "trimode": whole.trimode()}
        if not self._usage_chunk:
            return self._chunk(empty, outcome.finish_reason, account) + DONE
        usage = _event(_envelope(self._head, self._object) | {"choices": []} | account)
        return self._chunk(empty, outcome.finish_reason) + usage + DONE

    @property
    def _object(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _delta(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text}} if self._chat else {"text": text}

    def _chunk(
        self,
        part: dict[str, Any],
        finish: str | None,
        more: dict[str, Any] | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": self._index, **part, "logprobs": logprobs, "finish_reason": finish}
        usage = {"usage": None} if self._usage_chunk and more is None else {}
        return _event(_envelope(self._head, self._object) | {"choices": [choice]} | usage | (more or {}))


def _envelope(head: Head, name: str) -> dict[str, Any]:
    return {"id": head.id, "object": name, "created": head.created, "model": head.model}


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"


def tool_call_deltas(answer: str, choice: int, news: Iterable[CallDelta]) -> list[dict[str, Any]]:
    """As a stream's chunk has them, one for each call; `answer` is the id of the whole answer."""
    found: dict[int, dict[str, Any]] = {}
    for each in news:
        delta = found.setdefault(each.index, {"index": each.index, "function": {"arguments": ""}})
        if each.name:
            # The same on every replica that goes on with the answer.
            name = blake2b(f"{answer}:{choice}:{each.index}".encode(), digest_size=8).hexdigest()[:_ID_CHARACTERS]
            delta |= {"id": name, "type": "function"}
            delta["function"]["name"] = each.name
        delta["function"]["arguments"] += each.arguments
    return list(found.values())


def tool_calls(answer: str, choice: int, news: Iterable[CallDelta]) -> list[dict[str, Any]]:
    """The same of a whole answer, in a message."""
    deltas = tool_call_deltas(answer, choice, news)
    return [{name: value for name, value in delta.items() if name != "index"} for delta in deltas]
