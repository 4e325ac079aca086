"""The OpenAI requests that trimode accepts.

A field is either obeyed, harmless at the value given (see `openai_neutral`), or refused: nothing is dropped in silence.
`trimode` and `quality` are extensions.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from trimode_api.errors import shown
from trimode_api.modes import allows_lossy
from trimode_api.openai_messages import ChatMessage, TemplateFields
from trimode_api.openai_neutral import WITHOUT_TOOLS
from trimode_api.openai_parts import Quality, ResponseFormat, StreamOptions, TrimodeOptions
from trimode_api.openai_sampling import MOST_STOPS, SamplingFields
from trimode_api.openai_structure import StructureFields
from trimode_api.openai_tools import ToolFields

MAX_CHOICES = 128
MAX_ANSWERS = 1024
"""Of all prompts of a request together."""
MAX_PROMPTS = 128
"""Of one request: evaluation harnesses and LangChain send up to some dozens."""
MAX_LOGPROBS = 20
MAX_SEED = 2**63 - 1


class GenerationRequest(SamplingFields, StructureFields):
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

    priority: int | None = Field(
        default=None, ge=-(2**31), le=2**31 - 1, description="within a tier the lowest comes first, as in vLLM"
    )
    cache_salt: str | None = Field(
        default=None, max_length=256, description="prompts are shared among requests of one salt only"
    )
    prompt_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
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

    @field_validator("prompt_logprobs")
    @classmethod
    def _only_whole(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("stream"):
            raise ValueError("is allowed without stream only")
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
    def scores(self) -> int | None:
        """How many of the likeliest tokens are told at each token of the answer, 0 for itself alone, None for none."""
        return None

    @property
    def prompt_scores(self) -> int | None:
        """The same of the prompt's tokens."""
        return self.prompt_logprobs

    def echoed(self, number: int) -> str | tuple[int, ...] | None:
        """What comes before the answers to prompt `number`, None for nothing."""
        return None

    @property
    def formed(self) -> bool:
        """Whether the answer has to follow a grammar."""
        return self.structured_outputs is not None

    @property
    def token_limit(self) -> int | None:
        """Most tokens of the answer, where the client has said so."""
        return self.max_completion_tokens or self.max_tokens


class ChatRequest(GenerationRequest, ToolFields, TemplateFields):
    """`POST /v1/chat/completions`."""

    messages: tuple[ChatMessage, ...] = Field(min_length=1, strict=False)
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)

    @classmethod
    def _idle(cls, name: str, value: Any) -> bool:
        nothing = (name == "logprobs" and value in (False, 0)) or (name == "chat_template_kwargs" and value == {})
        return nothing or super()._idle(name, value)

    @field_validator("top_logprobs")
    @classmethod
    def _with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if not info.data.get("logprobs"):
            raise ValueError("is allowed with logprobs: true only")
        return value

    @property
    def scores(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def formed(self) -> bool:
        strict = any(tool.function.strict for tool in self.usable_tools)
        formatted = self.response_format is not None and self.response_format.type != "text"
        return strict or bool(self.forced) or formatted or super().formed

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.structured_outputs is None:
            return self
        if self.response_format is not None and self.response_format.type != "text":
            raise ValueError("structured_outputs: is allowed without a response_format only")
        if self.usable_tools:
            raise ValueError("structured_outputs: is allowed without tools only")
        return self


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`. A prompt is a text or a list of token ids; of several, each is answered as if alone."""

    prompt: tuple[str | tuple[int, ...], ...]
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    echo: bool = Field(default=False, description="the prompt comes before the answer, with logprobs where wanted")
    max_tokens: int | None = Field(default=None, ge=0, description="0: the prompt's logprobs are all that is wanted")

    @classmethod
    def _idle(cls, name: str, value: Any) -> bool:
        nothing = (name == "logprobs" and value is False) or value in WITHOUT_TOOLS.get(name, ())
        return nothing or super()._idle(name, value)

    @property
    def scores(self) -> int | None:
        return self.logprobs

    @field_validator("prompt", mode="before")
    @classmethod
    def _prompts(cls, value: Any) -> tuple[str | tuple[int, ...], ...]:
        several = isinstance(value, list) and bool(value) and isinstance(value[0], str | list)
        prompts = value if several else [value]
        if len(prompts) > MAX_PROMPTS:
            raise ValueError(f"at most {MAX_PROMPTS} prompts are allowed, got {len(prompts)}")
        for prompt in prompts:
            ids = isinstance(prompt, list) and bool(prompt) and all(type(id) is int and id >= 0 for id in prompt)
            if not ids and not isinstance(prompt, str):
                raise ValueError(
                    f"must be a string, a list of token ids, or a list of such prompts, got {shown(prompt)}"
                )
        return tuple(prompt if isinstance(prompt, str) else tuple(prompt) for prompt in prompts)

    def echoed(self, number: int) -> str | tuple[int, ...] | None:
        return self.prompt[number] if self.echo else None

    @model_validator(mode="after")
    def _something_to_say(self) -> Self:
        if self.max_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise ValueError("max_tokens: 0 is allowed with echo or prompt_logprobs only")
        return self

    @property
    def prompt_scores(self) -> int | None:
        return self.prompt_logprobs if self.prompt_logprobs is not None or not self.echo else self.logprobs

    @model_validator(mode="after")
    def _not_too_many(self) -> Self:
        if self.choices > MAX_ANSWERS:
            raise ValueError(f"at most {MAX_ANSWERS} answers are allowed, got {len(self.prompt)} prompts x n={self.n}")
        return self

    @property
    def prompts(self) -> int:
        return len(self.prompt)
