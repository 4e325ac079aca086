"""How tokens are chosen: fields that OpenAI, vLLM and SGLang share, with their meanings there.

What they do to logits is the engine's.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from trimode_api.errors import shown
from trimode_api.openai_neutral import IDLE, changes_nothing
from trimode_api.openai_parts import RequestModel

MOST_BIAS = 100.0
MOST_IDS = 1024
"""Of `logit_bias`; OpenAI allows 300."""
MOST_WORDS = 256
MOST_STOPS = 64
OTHER_NAMES = {"min_new_tokens": "min_tokens", "no_stop_trim": "include_stop_str_in_output"}
"""SGLang's."""

ADJUSTING = (
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "min_tokens",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
"""Fields for which each token has to be chosen behind those before it."""
NOTHING = {"repetition_penalty": 1.0}
"""Values at which such a field asks for nothing, but overrules a model's default."""


class SamplingFields(RequestModel):
    """None where the client left a field out, or sent a value that asks for nothing."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=2**31 - 1, description="0 and -1: all tokens")
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: tuple[int, ...] | None = Field(default=None, strict=False, min_length=1)
    bad_words: tuple[str, ...] | None = Field(default=None, strict=False, max_length=MOST_WORDS)
    min_tokens: int | None = Field(default=None, ge=0, le=2**31 - 1)
    stop_token_ids: tuple[int, ...] | None = Field(default=None, strict=False, max_length=MOST_STOPS)
    include_stop_str_in_output: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _by_other_names(cls, value: Any) -> Any:
        if not isinstance(value, dict) or OTHER_NAMES.keys().isdisjoint(value):
            return value
        # Where both are there, the other name stays, and is refused.
        return {name if (ours := OTHER_NAMES.get(name, name)) in value else ours: v for name, v in value.items()}

    @classmethod
    def _idle(cls, name: str, value: Any) -> bool:
        return changes_nothing(name, value) or value in IDLE.get(name, ())

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _biases(cls, value: Any) -> dict[int, float]:
        """JSON's names are texts; of ids they are numbers."""
        if not isinstance(value, dict) or not all(str(id).isdecimal() for id in value):
            raise ValueError(f"must map token ids to numbers, got {shown(value)}")
        if len(value) > MOST_IDS:
            raise ValueError(f"at most {MOST_IDS} token ids are allowed, got {len(value)}")
        for id, bias in value.items():
            if type(bias) not in (int, float) or not -MOST_BIAS <= bias <= MOST_BIAS:
                raise ValueError(f"must be numbers from {-MOST_BIAS:g} to {MOST_BIAS:g}, got {shown(bias)} for {id}")
        return {int(id): float(bias) for id, bias in value.items()}

    @field_validator("bad_words")
    @classmethod
    def _words(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and not all(word.strip() for word in value):
            raise ValueError("must be words, got one without a letter")
        return value

    @property
    def cutting(self) -> tuple[str, ...]:
        """Which of `top_k` and `min_p` cut anything."""
        return tuple(name for name in ("top_k", "min_p") if (getattr(self, name) or 0) > 0)

    @property
    def adjusting(self) -> tuple[str, ...]:
        """Those of `ADJUSTING` that were asked for."""
        return tuple(name for name in ADJUSTING if getattr(self, name) not in (None, NOTHING.get(name)))
