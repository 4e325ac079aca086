"""The OpenAI requests that trimode accepts.

Belongs here: request models and their rules. A field is either obeyed, harmless at the value given (see
`openai_neutral`), or refused: nothing is dropped in silence. `trimode` and `quality` are extensions.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from trimode_api.errors import shown
from trimode_api.modes import allows_lossy
from trimode_api.openai_messages import ChatMessage
from trimode_api.openai_parts import Quality, ResponseFormat, StreamOptions, TrimodeOptions
from trimode_api.openai_sampling import MOST_STOPS, SamplingFields

MAX_CHOICES = 128
MAX_ANSWERS = 1024
"""Of all prompts of a request together."""
MAX_PROMPTS = 128
"""Of one request: evaluation harnesses and LangChain send up to some dozens."""
MAX_SEED = 2**63 - 1


class GenerationRequest(SamplingFields):
    """What chat and plain completions share."""

    model: str = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-MAX_SEED, le=MAX_SEED)
    stop: tuple[str, ...] = ()
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = Field(default=False, description="for benchmarks: go on behind the end of the answer")
    trimode: TrimodeOptions | None = None
    quality: Quality | None = None

    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES, description="answers to one prompt")

    @field_validator("stop", mode="before")
    @classmethod
    def _stops(cls, value: Any) -> tuple[str, ...]:
        stops = [value] if isinstance(value, str) else value
        if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
            raise ValueError(f"must be a non-empty string or a list of them, got {shown(value)}")
        if len(stops) > MOST_STOPS:
            raise ValueError(f"at most {MOST_STOPS} stop strings are allowed, got {len(stops)}")
        return tuple(stops)

    @field_validator("stream_options")
    @classmethod
    def _only_streaming(cls, value: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if not info.data.get("stream"):
            raise ValueError("is allowed with stream: true only")
        return value

    @field_validator("quality")
    @classmethod
    def _one_quality(cls, value: Quality | None, info: ValidationInfo) -> Quality | None:
        options = info.data.get("trimode")
        if options is not None and options.quality not in (None, value):
            raise ValueError(f"{value!r} contradicts trimode.quality, which is {options.quality!r}")
        return value

    @property
    def lossy_ok(self) -> bool:
        """Whether diffusion may answer: said so, or diffusion itself was pinned."""
        inner = self.trimode
        if inner is None:
            return allows_lossy(self.quality, None)
        return allows_lossy(self.quality or inner.quality, inner.mode)

    @property
    def prompts(self) -> int:
        """Prompts to answer, each as often as `n` says."""
        return 1

    @property
    def choices(self) -> int:
        """Answers asked for: those to the first prompt, then those to the second."""
        return self.prompts * (self.n or 1)

    @property
    def formed(self) -> bool:
        """Whether the answer has to follow a grammar."""
        return False

    @property
    def token_limit(self) -> int | None:
        """Most tokens of the answer, where the client has said so."""
        return self.max_completion_tokens or self.max_tokens


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions`."""

    messages: tuple[ChatMessage, ...] = Field(min_length=1, strict=False)
    response_format: ResponseFormat | None = None

    @property
    def formed(self) -> bool:
        return self.response_format is not None and self.response_format.type != "text"


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`. A prompt is a text or a list of token ids; of several, each is answered as if alone."""

    prompt: tuple[str | tuple[int, ...], ...]

    @field_validator("prompt", mode="before")
    @classmethod
    def _prompts(cls, value: Any) -> tuple[str | tuple[int, ...], ...]:
        several = isinstance(value, list) and bool(value) and isinstance(value[0], str | list)
        prompts = value if several else [value]
        if len(prompts) > MAX_PROMPTS:
            raise ValueError(f"at most {MAX_PROMPTS} prompts are allowed, got {len(prompts)}")
        return tuple(map(_prompt, prompts))

    @model_validator(mode="after")
    def _not_too_many(self) -> Self:
        if self.choices > MAX_ANSWERS:
            raise ValueError(f"at most {MAX_ANSWERS} answers are allowed, got {len(self.prompt)} prompts x n={self.n}")
        return self

    @property
    def prompts(self) -> int:
        return len(self.prompt)


def _prompt(value: Any) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value or not all(type(id) is int and id >= 0 for id in value):
        raise ValueError(f"must be a string, a list of token ids, or a list of such prompts, got {shown(value)}")
    return tuple(value)
