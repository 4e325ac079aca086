"""Fields of OpenAI's, vLLM's and SGLang's requests that are accepted where they change nothing.

Clients send such fields by habit, at the defaults of their own settings; refusing them refused the client, while
obeying them is what is done anyway. Null is neutral for every field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LABELS = frozenset(
    {
        "user", "metadata", "safety_identifier", "service_tier", "prompt_cache_key", "prompt_cache_retention", "store",
        "request_id", "rid",
    }
)  # fmt: skip
"""For the caller's own use, or about what is stored after the answer: the answer is the same for every value."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    # OpenAI
    "best_of": (1,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "suffix": ("",),
    # vLLM and SGLang
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "detokenize": (True,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "documents": ([],),
    "mm_processor_kwargs": ({},),
    "logits_processors": ([],),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "return_hidden_states": (False,),
    "stream_reasoning": (True, False),
    "custom_params": ({},),
}
"""By field: the values which ask for nothing that is not done anyway. Reasoning is told as it comes,
which is what `stream_reasoning` asks for or does without."""

IDLE: Mapping[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "bad_words": ([],),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "top_logprobs": (0,),
    "priority": (0,),
    "cache_salt": ("",),
}
"""The same of fields that are obeyed at every other value. `top_k: -1`, `min_p: 0` and `repetition_penalty: 1` are not
among them: a model's own defaults may be others."""

WITHOUT_TOOLS: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
}
"""The same of fields that are obeyed in chats, and mean nothing in plain completions."""


def changes_nothing(name: str, value: object) -> bool:
    """Whether a request with the field is answered as one without it."""
    return name in LABELS or value in NEUTRAL.get(name, ())


def unsupported() -> dict[str, str]:
    """By field of the table: what to say of it at any other value."""
    return {
        name: f"is not supported here; leave it out or send {' or '.join(map(repr, allowed))}"
        for name, allowed in {**NEUTRAL, **WITHOUT_TOOLS}.items()
    }
