"""From a chat completion's answer to a response: its events, in order, and the response as a whole. [pure]

One way for both: a whole chat completion is a stream of one chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]
"""With `type` and `sequence_number`."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a piece of text is told: the item that it stands in, the part, the stem of the events' names."""

    item: str
    prefix: str
    part: str
    stem: str
    text: str = "text"


_TEXT = _Kind("message", "msg", "output_text", "response.output_text")
_REFUSAL = _Kind("message", "msg", "refusal", "response.refusal", "refusal")
_REASONING = _Kind("reasoning", "rs", "reasoning_text", "response.reasoning_text")
_DELTAS = (("reasoning_content", _REASONING), ("reasoning", _REASONING), ("content", _TEXT), ("refusal", _REFUSAL))
"""Fields of a chat's delta. vLLM has called the second the first, and some servers send both."""
_CUT_SHORT = {"length": "max_output_tokens", "content_filter": "content_filter"}


@dataclass(slots=True)
class _Open:
    """An item that has begun. `pieces` of its text, or of a call's arguments."""

    index: int
    item: dict[str, Any]
    kind: _Kind | None = None
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class Translation:
    """One response. `said_back`: its fields that repeat the request. `name` and `created` (Unix seconds) are used where
    the chat's chunks have none."""

    said_back: Mapping[str, Any]
    name: str
    created: int
    model: str = ""
    begun: bool = False
    finish: str = ""
    """The chat's finish_reason, once it is known."""
    problem: str = ""
    """Why the chat failed, where it did."""
    ended: bool = False
    _usage: dict[str, Any] | None = None
    _account: Any = None
    _output: list[dict[str, Any]] = field(default_factory=list)
    _text: _Open | None = None
    _calls: dict[int, _Open] = field(default_factory=dict)
    _serial: int = -1

    def take(self, chunk: Mapping[str, Any]) -> list[Event]:
        """The events that a chunk of the chat gives. Its error is kept for the end.

        Raises AttributeError or TypeError where a server's chunk has another shape than OpenAI's; what was taken until
        then can still be ended.
        """
        error = chunk.get("error")
        if error:
            self.problem = str(error.get("message", error) if isinstance(error, dict) else error)
            return []
        events = self._begin(chunk) if not self.begun else []
        self._usage = _usage(chunk["usage"]) if chunk.get("usage") else self._usage
        # Every chunk of ours has its token ids there, by which a broken stream goes on; only the last has the account.
        account = chunk.get("trimode")
        if isinstance(account, dict) and "ids" not in account:
            self._account = account
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            logprobs = (choice.get("logprobs") or {}).get("content") or []
            told: set[_Kind] = set()
            for name, kind in _DELTAS:
                text = delta.get(name)
                if isinstance(text, str) and text and kind not in told:
                    told.add(kind)
                    events += self._say(kind, text, logprobs if kind is _TEXT else [])
            for call in delta.get("tool_calls") or ():
                events += self._call(call)
            self.finish = str(choice.get("finish_reason") or self.finish)
        return events

    def end(self) -> list[Event]:
        """The last events. Without a finish_reason, or with an error, the response has failed."""
        if not self.problem and not self.finish:
            self.problem = "the answer broke off"
        events = [] if self.begun else self._begin({})
        if not self.problem and not self._output and not self._calls:
            events += self._say(_TEXT, "", [])  # an answer of no tokens is an empty text, not none
        events += self._close_text()
        for call in self._calls.values():
            arguments = "".join(call.pieces)
            done = self._finished(call.item | {"arguments": arguments})
            self._output[call.index] = done
            place = {"item_id": done["id"], "output_index": call.index, "name": done["name"]}
            events += [
                self._event("response.function_call_arguments.done", **place, arguments=arguments),
                self._event("response.output_item.done", output_index=call.index, item=done),
            ]
        self._calls = {}
        self.ended = True
        events.append(self._event(f"response.{self.status}", response=self.response()))
        return events

    @property
    def status(self) -> str:
        if not self.ended:
            return "in_progress"
        if self.problem:
            return "failed"
        return "incomplete" if self.finish in _CUT_SHORT else "completed"

    def response(self) -> dict[str, Any]:
        """As it is by now."""
        cut = _CUT_SHORT.get(self.finish) if self.status == "incomplete" else None
        failed = {"code": "server_error", "message": self.problem} if self.status == "failed" else None
        return {
            "id": f"resp_{self.name}",
            "object": "response",
            "created_at": self.created,
            "status": self.status,
            "background": False,
            "error": failed,
            "incomplete_details": None if cut is None else {"reason": cut},
            "model": self.model,
            "output": [item for item in self._output if item],
            "previous_response_id": None,
            "store": False,
            **self.said_back,
            "usage": self._usage,
            **({} if self._account is None else {"trimode": self._account}),
        }

    # Inside.

    def _begin(self, chunk: Mapping[str, Any]) -> list[Event]:
        self.begun = True
        name, created, model = chunk.get("id"), chunk.get("created"), chunk.get("model")
        if isinstance(name, str) and name:
            self.name = name.removeprefix("chatcmpl-")
        self.created = created if isinstance(created, int) and created > 0 else self.created
        self.model = model if isinstance(model, str) and model else self.model
        return [
            self._event("response.created", response=self.response()),
            self._event("response.in_progress", response=self.response()),
        ]

    def _event(self, kind: str, **values: Any) -> Event:
        self._serial += 1
        return {"type": kind, "sequence_number": self._serial, **values}

    def _add(self, prefix: str, item: dict[str, Any], kind: _Kind | None) -> tuple[_Open, Event]:
        opened = _Open(len(self._output), {"id": f"{prefix}_{self.name}_{len(self._output)}", **item}, kind)
        self._output.append({})  # its place; filled when it is done
        return opened, self._event("response.output_item.added", output_index=opened.index, item=dict(opened.item))

    def _say(self, kind: _Kind, text: str, logprobs: list[Any]) -> list[Event]:
        events: list[Event] = []
        if self._text is None or self._text.kind is not kind:
            events += self._close_text()
            item: dict[str, Any] = {"type": kind.item, "status": "in_progress", "content": []}
            more: dict[str, Any] = {"role": "assistant"} if kind.item == "message" else {"summary": []}
            item |= more
            self._text, added = self._add(kind.prefix, item, kind)
            part = _part(kind, "", [])
            events += [added, self._event("response.content_part.added", **_place(self._text), part=part)]
        opened = self._text
        opened.pieces.append(text)
        opened.logprobs += logprobs
        if text:
            weighed = {"logprobs": logprobs} if kind is _TEXT else {}
            events.append(self._event(f"{kind.stem}.delta", **_place(opened), delta=text, **weighed))
        return events

    def _close_text(self) -> list[Event]:
        opened, self._text = self._text, None
        if opened is None or opened.kind is None:
            return []
        kind, text = opened.kind, "".join(opened.pieces)
        part = _part(kind, text, opened.logprobs)
        more = {"logprobs": opened.logprobs} if kind is _TEXT else {}
        done = self._finished(opened.item | {"content": [part]})
        self._output[opened.index] = done
        return [
            self._event(f"{kind.stem}.done", **_place(opened), **{kind.text: text}, **more),
            self._event("response.content_part.done", **_place(opened), part=part),
            self._event("response.output_item.done", output_index=opened.index, item=done),
        ]

    def _call(self, call: Mapping[str, Any]) -> list[Event]:
        """A piece of a call. Several may come mixed, told apart by `index`."""
        events: list[Event] = []
        index, function = call.get("index") or 0, call.get("function") or {}
        opened = self._calls.get(index)
        if opened is None:
            events += self._close_text()
            item = {"type": "function_call", "status": "in_progress", "arguments": "", "name": function.get("name")}
            item["call_id"] = call.get("id") or f"call_{self.name}_{index}"
            opened, added = self._add("fc", item, None)
            self._calls[index] = opened
            events.append(added)
        piece = function.get("arguments")
        if isinstance(piece, str) and piece:
            opened.pieces.append(piece)
            place = {"item_id": opened.item["id"], "output_index": opened.index}
            events.append(self._event("response.function_call_arguments.delta", **place, delta=piece))
        return events

    def _finished(self, item: dict[str, Any]) -> dict[str, Any]:
        """The item with how it ended: the last one of an answer that was cut short is not whole."""
        cut = self.problem or self.finish in _CUT_SHORT
        return item | {"status": "incomplete" if cut else "completed"}


def _place(opened: _Open) -> dict[str, Any]:
    return {"item_id": opened.item["id"], "output_index": opened.index, "content_index": 0}


def _part(kind: _Kind, text: str, logprobs: list[Any]) -> dict[str, Any]:
    more = {"annotations": [], "logprobs": logprobs} if kind is _TEXT else {}
    return {"type": kind.part, kind.text: text, **more}


def _usage(chat: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's usage of a chat in the words of a response."""
    read, written = chat.get("prompt_tokens") or 0, chat.get("completion_tokens") or 0
    cached = (chat.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    reasoning = (chat.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": chat.get("total_tokens") or read + written,
    }


def chunk_of(completion: Mapping[str, Any]) -> dict[str, Any]:
    """A whole chat completion as the only chunk of a stream."""
    choices = []
    for choice in completion.get("choices") or ():
        message = choice.get("message") or {}
        calls = [{**call, "index": index} for index, call in enumerate(message.get("tool_calls") or ())]
        choices.append(choice | {"delta": {**message, "tool_calls": calls}})
    return {**completion, "choices": choices}
