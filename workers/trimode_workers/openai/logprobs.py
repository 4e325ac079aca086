"""Log-probabilities of an answer's tokens in OpenAI's two shapes.

Belongs here: those shapes. What the figures mean is said in `engine.messages.Score`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from trimode_workers.engine.messages import Score
from trimode_workers.openai.kind import Kind
from trimode_workers.text.tokenizer import TextModel

LEAST = -9999.0
"""JSON has no infinity; OpenAI and vLLM write this."""


class Scored(NamedTuple):
    """A token and its score; the first one of a prompt has none, as nothing came before it."""

    token: int
    score: Score | None


class Logprobs:
    """Those of one choice, piece by piece: `text_offset` counts characters from the answer's beginning."""

    def __init__(self, kind: Kind, text: TextModel, before: Sequence[int] = ()) -> None:
        """`before`: tokens of the answer that came before the first piece."""
        self._kind, self._text = kind, text
        self._offset = sum(len(text.piece(token)[0]) for token in before) if kind is Kind.TEXT else 0

    def prompt(self, scored: Sequence[Scored]) -> list[dict[str, Any] | None]:
        """The value of vLLM's `prompt_logprobs`: by id, the token itself and the likeliest."""
        return [None if score is None else self._ranked(token, score) for token, score in scored]

    def _ranked(self, token: int, score: Score) -> dict[str, Any]:
        found = [(token, score.logprob, score.rank)]
        found += [(id, logprob, at + 1) for at, (id, logprob) in enumerate(zip(score.ids, score.logprobs, strict=True))]
        return {
            str(id): {"logprob": max(logprob, LEAST), "rank": rank, "decoded_token": self._text.piece(id)[0]}
            for id, logprob, rank in found
        }

    def of(self, scored: Sequence[Scored]) -> dict[str, Any]:
        """The value of a choice's `logprobs`."""
        return self._chat(scored) if self._kind is Kind.CHAT else self._completion(scored)

    def _chat(self, scored: Sequence[Scored]) -> dict[str, Any]:
        content = []
        for token, score in scored:
            assert score is not None  # a chat's prompt is not part of its answer
            top = [self._entry(id, logprob) for id, logprob in zip(score.ids, score.logprobs, strict=True)]
            content.append(self._entry(token, score.logprob) | {"top_logprobs": top})
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text, raw = self._text.piece(token)
        return {"token": text, "logprob": max(logprob, LEAST), "bytes": list(raw)}

    def _completion(self, scored: Sequence[Scored]) -> dict[str, Any]:
        tokens, offsets = [], []
        for token, _ in scored:
            text = self._text.piece(token)[0]
            tokens.append(text)
            offsets.append(self._offset)
            self._offset += len(text)
        return {
            "tokens": tokens,
            "token_logprobs": [None if score is None else max(score.logprob, LEAST) for _, score in scored],
            "top_logprobs": [self._top(token, score) for token, score in scored],
            "text_offset": offsets,
        }

    def _top(self, token: int, score: Score | None) -> dict[str, float] | None:
        """By text, the likeliest first, and the token itself where it is not among them. Of tokens that read alike the
        likeliest counts."""
        if score is None:
            return None
        found: dict[str, float] = {}
        for id, logprob in zip((*score.ids, token), (*score.logprobs, score.logprob), strict=True):
            found.setdefault(self._text.piece(id)[0], max(logprob, LEAST))
        return found
