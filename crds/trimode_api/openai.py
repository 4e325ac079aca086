"""The OpenAI requests that trimode accepts.

Belongs here: request models and their rules. A field is either obeyed, harmless at the value given, or refused:
nothing is dropped in silence. `trimode` and `quality` are extensions.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from trimode_api.modes import Mode
from trimode_api.openai_parts import Quality, RequestModel, ResponseFormat, StreamOptions, TrimodeOptions

MAX_STOPS = 4
MAX_CHOICES = 8
MAX_SEED = 2**63 - 1

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "echo": (False,),
    "suffix": ("",),
    "store": (False,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "repetition_penalty": (1,),
}
"""Fields that are accepted only at values which change nothing; null is always one of them."""


class GenerationRequest(RequestModel):
    """What chat and plain completions share."""

    model: str = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-MAX_SEED, le=MAX_SEED)
    stop: tuple[str, ...] = ()
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = Field(default=False, description="for benchmarks: go on behind the end of the answer")
    trimode: TrimodeOptions | None = None
    quality: Quality | None = None

    # Labels for the caller's own use: they change no answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None

    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES, description="answers to one prompt")
    presence_penalty: Any = None
    frequency_penalty: Any = None
    logit_bias: Any = None
    logprobs: Any = None
    store: Any = None
    top_k: Any = None
    min_p: Any = None
    repetition_penalty: Any = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        """As OpenAI has it: clients send null for what they leave alone."""
        if not isinstance(value, dict):
            return value
        return {name: given for name, given in value.items() if given is not None}

    @field_validator("stop", mode="before")
    @classmethod
    def _stops(cls, value: Any) -> tuple[str, ...]:
        stops = [value] if isinstance(value, str) else value
        if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
            raise ValueError(f"must be a non-empty string or a list of them, got {value!r}")
        if len(stops) > MAX_STOPS:
            raise ValueError(f"at most {MAX_STOPS} stop strings are allowed, got {len(stops)}")
        return tuple(stops)

    @field_validator(*_NEUTRAL, mode="after", check_fields=False)
    @classmethod
    def _neutral(cls, value: Any, info: ValidationInfo) -> Any:
        allowed = _NEUTRAL[str(info.field_name)]
        if value is not None and value not in allowed:
            forms = " or ".join(map(repr, allowed))
            raise ValueError(f"is not supported here; leave it out or send {forms}, got {value!r}")
        return value

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
        said = self.quality or (None if inner is None else inner.quality)
        return said == "lossy-ok" or (said is None and inner is not None and inner.mode is Mode.DIFFUSION)

    @property
    def choices(self) -> int:
        """Answers asked for."""
        return self.n or 1

    @property
    def formed(self) -> bool:
        """Whether the answer has to follow a grammar."""
        return False

    @property
    def token_limit(self) -> int | None:
        """Most tokens of the answer, where the client has said so."""
        return self.max_tokens


class ChatMessage(RequestModel):
    """One turn. Content given in parts is joined: only text can be served."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str
    name: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        for part in value:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ValueError(f"only parts of the form {{'type': 'text', 'text': ...}} are allowed, got {part!r}")
        return "".join(part["text"] for part in value)


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions`."""

    messages: tuple[ChatMessage, ...] = Field(min_length=1, strict=False)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    parallel_tool_calls: bool | None = None
    top_logprobs: Any = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    response_format: ResponseFormat | None = None
    modalities: Any = None
    reasoning_effort: Any = None

    @property
    def formed(self) -> bool:
        return self.response_format is not None and self.response_format.type != "text"

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`. The prompt is one text or one list of token ids."""

    prompt: str | tuple[int, ...]
    best_of: Any = None
    echo: Any = None
    suffix: Any = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_prompt(cls, value: Any) -> str | tuple[int, ...]:
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
            value = value[0]
        if isinstance(value, str):
            return value
        ids = isinstance(value, list) and all(type(id) is int and id >= 0 for id in value)
        if not ids or not value:
            raise ValueError("must be one string or one list of token ids; send several prompts as several requests")
        return tuple(value)
