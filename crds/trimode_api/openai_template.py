"""What a chat request tells the model's chat template, and whether reasoning is told apart.

Which of them a template knows is the text layer's to say.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from trimode_api.openai_parts import RequestModel, small

OURS = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""Names that a template is given anyway."""


class TemplateFields(RequestModel):
    """`chat_template_kwargs` as vLLM and SGLang have it. `separate_reasoning: false` leaves reasoning in the content,
    `include_reasoning: false` leaves it out."""

    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = Field(default=None, max_length=32)
    separate_reasoning: bool | None = None
    include_reasoning: bool | None = None

    _small_enough = field_validator("chat_template_kwargs")(small)

    @field_validator("chat_template_kwargs")
    @classmethod
    def _not_ours(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if taken := sorted(OURS & (value or {}).keys()):
            raise ValueError(f"{taken[0]} is not among what may be set")
        return value

    @property
    def switches(self) -> dict[str, Any]:
        """What the template is told, by name."""
        effort = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        return effort | (self.chat_template_kwargs or {})
