"""Log-probabilities of an answer's tokens in OpenAI's two shapes.

What the figures mean is said in `engine.messages.Score`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from trimode_workers.engine.messages import Score
from trimode_workers.text.tokenizer import TextModel

LEAST = -9999.0
"""JSON has no infinity; OpenAI and vLLM write this."""


class Kind(StrEnum):
    """Which endpoint answers: the prefix of its ids."""

    CHAT = "chatcmpl"
    TEXT = "cmpl"


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
        told: list[dict[str, Any] | None] = []
        for token, score in scored:
            if score is None:
                told.append(None)
                continue
            likeliest = enumerate(zip(score.ids, score.logprobs, strict=True), 1)
            found = [(token, score.logprob, score.rank), *((id, logprob, rank) for rank, (id, logprob) in likeliest)]
            told.append(
                {
                    str(id): {"logprob": max(logprob, LEAST), "rank": rank, "decoded_token": self._text.piece(id)[0]}
                    for id, logprob, rank in found
                }
            )
        return told

    def of(self, scored: Sequence[Scored]) -> dict[str, Any]:
        """The value of a choice's `logprobs`."""
        if self._kind is Kind.CHAT:
            content = []
            for token, score in scored:
                assert score is not None  # a chat's prompt is not part of its answer
                others = [self._entry(id, logprob) for id, logprob in zip(score.ids, score.logprobs, strict=True)]
                content.append(self._entry(token, score.logprob) | {"top_logprobs": others})
            return {"content": content, "refusal": None}
        tokens, offsets = [], []
        top: list[dict[str, float] | None] = []
        for token, score in scored:
            text = self._text.piece(token)[0]
            tokens.append(text)
            offsets.append(self._offset)
            self._offset += len(text)
            if score is None:
                top.append(None)
                continue
            # By text, the likeliest first, and the token itself where it is not among them. Of tokens that read alike
            # the likeliest counts.
            found: dict[str, float] = {}
            for id, logprob in zip((*score.ids, token), (*score.logprobs, score.logprob), strict=True):
                found.setdefault(self._text.piece(id)[0], max(logprob, LEAST))
            top.append(found)
        return {
            "tokens": tokens,
            "token_logprobs": [None if score is None else max(score.logprob, LEAST) for _, score in scored],
            "top_logprobs": top,
            "text_offset": offsets,
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text, raw = self._text.piece(token)
        return {"token": text, "logprob": max(logprob, LEAST), "bytes": list(raw)}
