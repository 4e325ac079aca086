"""A request to /generate, and from the chunks of its stream to new tokens. Pure.

A chunk carries all ids so far, or (with incremental streaming) the new ones only; `completion_tokens` tells which. An
end-of-sequence token is among them, and is not part of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimode_workers.engine.messages import Finish, Submit


def body_of(request: Submit) -> dict[str, Any]:
    """The request to /generate."""
    form = {} if request.grammar is None else {"json_schema": request.grammar.schema}
    return {
        "rid": request.request_id,
        "input_ids": request.tokens,
        "stream": True,
        "sampling_params": {
            "max_new_tokens": request.max_new_tokens,
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "ignore_eos": request.ignore_eos,
            "skip_special_tokens": False,
            **form,
        },
    }


class BadChunk(Exception):
    """The server said what cannot be understood, or refused; the message is fit for a client."""


@dataclass(frozen=True, slots=True)
class News:
    """New tokens (with `ended`, the end of sequence counted in `produced` but not among them) and how it ended."""

    tokens: list[int]
    produced: int
    finish: Finish | None = None


class Chunks:
    """Follows one stream. `eos`: ids that end an answer."""

    def __init__(self, eos: frozenset[int]) -> None:
        self._eos = eos
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
            if tokens and (tokens[-1] == reason.get("matched") or tokens[-1] in self._eos):
                tokens.pop()
            return News(tokens, fresh, Finish.STOP)
        return News(tokens, fresh, Finish.LENGTH)
